"""The reduced problem, its linear solves and its preconditioner against dense algebra."""

import numpy as np
import pytest
from scipy import linalg

from nclib import (
    ClassStatistics,
    FeatureSolve,
    Model,
    Point,
    ReducedProblem,
    WeightSolve,
    minimize,
    ridge_start,
    trust_region_newton,
)
from nclib.foundations.lanczos import lowest_curvature
from nclib.foundations.preconditioner import Preconditioner
from nclib.foundations.reduced import _along_valley
from nclib.foundations.search import frame_start
from tests.foundations.oracle_model import Dense, families, family_problem, random_problem

SIZES = [(3, 5, 4), (4, 4, 2), (2, 3, 1), (3, 2, 6), (1, 1, 1)]
FAMILIES = list(families())


def check_reduced_problem(problem: ReducedProblem, dense: Dense, size: float = 1.0) -> None:
    """Everything that a point offers is what dense algebra on all samples gives, at a random W."""
    K, d = dense.K, dense.d
    W = size * np.random.default_rng(2).normal(size=(K, d))
    turn = problem.basis
    point = problem.at(W @ turn)
    H, Y, n = dense.features(W), dense.Y, dense.size
    E = W @ H - Y
    close(point.value, dense.value(W))
    close(point.gradient @ turn.T, dense.gradient(W), scale=Y @ H.T / n)
    close(turn @ point.means, H @ Y.T / Y.sum(axis=1))
    close(point.label_moment @ turn.T, Y @ H.T / n)
    close(point.output_moment @ turn.T, W @ H @ H.T / n)
    close(point.residual_moment, E @ E.T / n)
    close(turn @ point.second_moment @ turn.T, H @ H.T / n)
    model = dense.model
    close(point.slack, model.lambda_W * model.b * np.eye(K) - E @ E.T / n)
    hessian = [(point.hessian(X @ turn) @ turn.T).ravel() for X in units(K, d)]
    close(np.stack(hessian), dense.hessian(W), rtol=1e-10)


def units(K: int, d: int) -> np.ndarray:
    """The K d matrices with a single one."""
    return np.eye(K * d).reshape(-1, K, d)


def close(a, b, scale=None, rtol=1e-11) -> None:
    """Equal up to rounding relative to the largest entry."""
    largest = np.abs(b if scale is None else scale).max()
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("K, d, n", SIZES)
def test_reduced_problem_is_the_full_one_with_the_features_eliminated(K, d, n):
    problem = random_problem(1, K, d, n)
    check_reduced_problem(
        ReducedProblem.from_statistics(problem.model, problem.statistics), Dense(problem)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [0.05, 5.0])
def test_reduced_problem_is_right_for_degenerate_features(family, size):
    problem = family_problem(3, family)
    check_reduced_problem(
        ReducedProblem.from_statistics(problem.model, problem.statistics), Dense(problem), size
    )


def test_reduced_problem_with_another_model_is_the_problem_of_that_model():
    problem = random_problem(3, counts=[1, 5, 9])
    model = Model(0.3, 0.0, 2.0)
    other = ReducedProblem.from_statistics(problem.model, problem.statistics).with_model(model)
    check_reduced_problem(other, Dense(problem._replace(model=model)))


def test_padded_problem_is_the_problem_with_zero_rows_appended():
    problem = random_problem(5, counts=[2, 3, 4])
    padded = ReducedProblem.from_statistics(problem.model, problem.statistics).padded()
    features = np.pad(problem.features, [(0, 0), (0, 3)])
    check_reduced_problem(padded, Dense(problem._replace(features=features)))


@pytest.mark.parametrize("K, d", [(3, 7), (5, 5), (6, 2), (1, 4)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e9])
def test_feature_solve_is_the_inverse_of_g(K, d, size):
    """Also where W W^T + bI is singular in float64: more classes than dimensions, huge weights."""
    rng = np.random.default_rng(K)
    W, X, b = size * rng.normal(size=(K, d)), rng.normal(size=(4, d)), 0.3
    U, s, right = linalg.svd(W, full_matrices=False)
    solve = FeatureSolve(W, b)
    close(solve.WG, (U * (s / (s**2 + b))) @ right)
    close(solve.right(X), X / b - (X @ right.T * (s**2 / (s**2 + b) / b)) @ right, scale=X / b)
    close(solve.Gamma, np.eye(K) - (U * (s**2 / (s**2 + b))) @ U.T, scale=np.ones(1))
    if size < 1e9:
        close(solve.whitener.T @ solve.Gamma @ solve.whitener, np.eye(K))


@pytest.mark.parametrize("scale, lambda_W", [(1.0, 0.1), (1e4, 1e-8), (1e8, 1e-3)])
@pytest.mark.parametrize("N, d", [(12, 4), (12, 40)])
def test_optimal_weights_are_found_where_the_moment_is_singular_in_float64(N, d, scale, lambda_W):
    """Against ridge regression on the samples, which needs no second moment."""
    X, y = scale * np.random.default_rng(1).normal(size=(N, d)), np.arange(N) % 3
    U, s, right = linalg.svd(X, full_matrices=False)
    mu = N / 3 * lambda_W
    ridge = (np.eye(3)[:, y] @ U) * (s / (s**2 + mu)) @ right
    stats = ClassStatistics.from_features(X, y)
    close(Model(lambda_W, 0.1).optimal_weights(stats), ridge, rtol=1e-6)


@pytest.mark.parametrize("counts", [None, [2, 5, 9], [1, 1, 1]])
@pytest.mark.parametrize("K, d", [(3, 7), (3, 2), (3, 40)])
def test_ridge_start_is_the_optimal_last_layer_for_the_input(K, d, counts):
    problem = random_problem(4, K, d, counts=counts)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    start = ridge_start(reduced) @ reduced.basis.T
    close(start, problem.model.optimal_weights(problem.statistics))


def test_weight_solve_is_the_inverse_of_the_regularized_moment():
    rng = np.random.default_rng(2)
    root, X = rng.normal(size=(5, 8)), rng.normal(size=(2, 5))
    expected = X @ linalg.inv(root @ root.T + 0.2 * np.eye(5))
    close(WeightSolve(root @ root.T, 0.2).right(X), expected)


def kept_hessian(point) -> np.ndarray:
    """The part of the Hessian that the preconditioner keeps, as a Kd x Kd matrix."""
    K, d = point.W.shape
    slack = point.slack / point.problem.b
    parts = [point.solve.Gamma @ X @ point.second_moment + slack @ X for X in units(K, d)]
    return np.stack([part.ravel() for part in parts])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("low_rank", [False, True])
def test_preconditioner_inverts_what_it_keeps_where_that_is_positive(family, low_rank, monkeypatch):
    """At a pull so strong that the certificate holds everywhere, both ways to invert agree."""
    problem = family_problem(4, family)
    model = Model(0.2, 0.1, 8.0 * family.K)
    reduced = ReducedProblem.from_statistics(model, problem.statistics)
    W = ridge_start(reduced)
    monkeypatch.setattr("nclib.foundations.preconditioner.LOW_RANK_RATIO", 1e9 * low_rank)
    preconditioner = Preconditioner(reduced.at(W))
    kept = kept_hessian(reduced.at(W))
    assert linalg.eigvalsh(kept)[0] > 0
    inverse = np.stack([preconditioner.solve(X).ravel() for X in units(*W.shape)])
    close(inverse @ kept, np.eye(len(kept)), rtol=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("low_rank", [False, True])
def test_preconditioner_is_symmetric_and_positive_definite_where_the_hessian_is_not(
    seed, low_rank, monkeypatch
):
    monkeypatch.setattr("nclib.foundations.preconditioner.LOW_RANK_RATIO", 1e9 * low_rank)
    problem = random_problem(seed, 3, 6, 4, spread=1.5, beta=0.05)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    point = reduced.at(np.random.default_rng(seed).normal(size=(3, 6)))
    assert linalg.eigvalsh(kept_hessian(point))[0] < 0
    inverse = np.stack([point.precondition(X).ravel() for X in units(3, 6)])
    close(inverse, inverse.T, rtol=1e-9)
    assert linalg.eigvalsh(inverse)[0] > 0


@pytest.mark.parametrize("K, d", [(10, 128), (30, 40)])
def test_few_hessian_products_suffice_for_isotropic_spread(K, d, monkeypatch):
    """Both ways to prepare the preconditioner: a solve takes a few products, not hundreds."""
    problem = random_problem(0, K, d, 30, 5e-3, 5e-3, beta=10.0, spread=0.5)
    products = []
    hessian = Point.hessian

    def counted(point, X):
        products.append(X)
        return hessian(point, X)

    monkeypatch.setattr(Point, "hessian", counted)
    assert minimize(problem.model, problem.statistics).gradient_norm < 1e-12
    assert len(products) < 60


@pytest.mark.parametrize("family", FAMILIES)
def test_lowest_curvature_has_the_sign_of_the_lowest_eigenvalue(family):
    """At the starts, where the Hessian is indefinite, and at the minimum."""
    problem = family_problem(6, family)
    dense = Dense(problem)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    ends = [
        trust_region_newton(reduced, start(reduced)).point for start in (ridge_start, frame_start)
    ]
    random = np.random.default_rng(0).normal(size=ends[0].W.shape)
    for W in [ends[0].W, ends[1].W, random, 10 * random]:
        point = reduced.at(W)
        eigenvalues = linalg.eigvalsh(dense.hessian(W @ reduced.basis.T))
        found = lowest_curvature(point)
        lowest = eigenvalues[0] / np.abs(eigenvalues).max()
        assert abs(lowest) < 1e-10 or (found.value < 0) == (lowest < 0)
        assert found.value < -1e-3 or lowest > -1e-8
        quotient = np.vdot(found.direction, point.hessian(found.direction))
        assert quotient == pytest.approx(found.value, rel=1e-3, abs=1e-5)


def test_step_along_the_valley_takes_the_second_order_out_of_the_gram_matrix():
    rng = np.random.default_rng(8)
    W, S = rng.normal(size=(2, 3, 6))
    for t in (1e-1, 1e-2, 1e-3):
        ahead = _along_valley(W, t * S)
        assert ahead is not None
        close(ahead @ ahead.T, W @ W.T + t * (W @ S.T + S @ W.T), rtol=1e-12)
        assert linalg.norm(ahead - W - t * S) < 5 * t**2 * linalg.norm(S) ** 2
    assert _along_valley(W, -2 * W) is None


def test_a_move_ends_no_higher_than_the_straight_step():
    problem = random_problem(7, 3, 6, beta=1e-4, lambda_W=0.1)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    point, rng = reduced.at(frame_start(reduced)), np.random.default_rng(8)
    for size in (1e-4, 1e-2, 0.3, 1.0):
        step = size * rng.normal(size=(3, 6))
        assert point.moved(step).value <= reduced.at(point.W + step).value
    turn = 0.1 * rng.normal(size=(6, 6))
    step = point.W @ (turn - turn.T)
    assert point.moved(step).value < reduced.at(point.W + step).value


def test_directions_in_which_the_input_vanishes_are_those_outside_its_range():
    for family in FAMILIES:
        problem = family_problem(9, family)
        reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
        rank = np.linalg.matrix_rank(problem.features, tol=1e-9 * np.abs(problem.features).max())
        basis = reduced.basis @ reduced.zero_directions
        assert basis.shape == (family.d, family.d - rank)
        np.testing.assert_allclose(basis.T @ basis, np.eye(family.d - rank), atol=1e-12)
        assert (
            np.abs(problem.features @ basis).max(initial=0) < 1e-9 * np.abs(problem.features).max()
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_dual_value_is_the_dual_function_at_its_best_multiples_of_the_residual(family):
    """On all N columns: no other multiples give more, and none of the values exceeds a minimum."""
    problem = family_problem(10, family)
    dense = Dense(problem)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    rng = np.random.default_rng(11)
    W = ridge_start(reduced) + 0.2 * rng.normal(size=(family.K, family.d))
    bound = reduced.at(W).dual_value
    model, original = problem.model, W @ reduced.basis.T
    E = original @ dense.features(original) - dense.Y
    j = np.maximum(linalg.eigvalsh(E @ E.T / dense.size), 1e-30)
    highest = np.minimum(np.sqrt(model.lambda_W * model.b / j), 1e3)
    for share in rng.uniform(0, 1, size=(50, family.K)):
        assert dense.dual(original, 0.999 * share * highest) <= bound + 1e-9 * abs(bound)
    lowest = minimize(model, problem.statistics).objective * family.K
    assert bound <= lowest * (1 + 1e-12)


def test_dual_value_is_attained_at_certified_minima():
    for seed in range(8):
        problem = random_problem(seed, 3, 7, 4, beta=2.0, spread=0.1)
        solution = minimize(problem.model, problem.statistics)
        reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
        point = reduced.at(solution.weights @ reduced.basis)
        assert solution.certified
        assert point.dual_value == pytest.approx(point.value, rel=1e-11)


@pytest.mark.parametrize("scale", [1e-8, 1e-16, 1e-100])
def test_tiny_features_are_solved_to_the_last_digit(scale):
    """With lambda_W = beta = 1 the means grow by a factor of five, however small they are."""
    X = scale * np.random.default_rng(1).normal(size=(12, 5))
    stats = ClassStatistics.from_features(X, np.arange(12) % 3)
    solution = minimize(Model(1.0, 0.2, 1.0), stats)
    assert solution.certified
    np.testing.assert_allclose(solution.statistics.means, 5 * stats.means, rtol=1e-9)


def test_reprs_are_one_line():
    problem = random_problem(0)
    reduced = ReducedProblem.from_statistics(problem.model, problem.statistics)
    solution = minimize(problem.model, problem.statistics)
    for thing in (reduced, reduced.at(ridge_start(reduced)), solution, solution.feature_solve):
        assert "\n" not in repr(thing) and len(repr(thing)) < 120
    assert solution in [solution] and solution != minimize(problem.model, problem.statistics)
    assert len({solution, solution}) == 1
