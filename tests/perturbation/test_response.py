"""The response against dense second derivatives, differences of minimizers, and its bounds."""

import tracemalloc
from dataclasses import replace
from time import process_time

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from nclib import ClassStatistics, Model, minimize
from nclib.perturbation import curvature as curvature_module
from nclib.perturbation.curvature import Curvature
from nclib.perturbation.response import response, response_large_beta
from nclib.workbench import random_problem, slope
from tests.foundations.oracle_model import dense_objective, one_hot
from tests.perturbation.oracle_response import (
    dense_large_beta,
    dense_response,
    hessian_blocks,
    relative_error,
)


def with_means(problem, change):
    """The same deviations around the class means change(means), (d, K)."""
    means = problem.statistics.means
    return problem._replace(features=problem.features + (change(means) - means).T[problem.labels])


def rank_one(means):
    return np.outer(means[:, 0], 1.0 + np.arange(means.shape[1]))


def rank_two(means):
    return np.column_stack([means[:, 0], means[:, 1], means[:, 0] - 2 * means[:, 1]])


def equal(means):
    return np.tile(means[:, :1], means.shape[1])


def no_spread(K=3, d=5, n=2, seed=0):
    problem = random_problem(seed, K, d, n)
    return problem._replace(features=problem.statistics.means.T[problem.labels])


CASES = {
    "generic": random_problem(0),
    "d = K": random_problem(1, 4, 4, 3),
    "d < K": random_problem(2, 4, 2, 3),
    "d = 1": random_problem(3, 3, 1, 3, beta=0.1),
    "K = 1": random_problem(4, 1, 3, 4),
    "K = 2": random_problem(5, 2, 3, 2),
    "n = 1": random_problem(6, 3, 5, 1),
    "one number": random_problem(7, 1, 1, 1),
    "c = 0.999": random_problem(8, 3, 5, 2, lambda_W=0.9, lambda_H=0.998001 / 0.9, beta=0.01),
    "c > 1": random_problem(9, 3, 4, 2, lambda_W=2.0, lambda_H=3.0, beta=0.1),
    "no decay of the features": random_problem(10, 3, 4, 2, lambda_H=0.0),
    "no samples spread": no_spread(),
    "rank-deficient means": with_means(random_problem(15, 3, 4, 3, beta=1.5), rank_two),
    "means on a line": with_means(random_problem(16, 3, 4, 3, lambda_W=0.05, beta=25.0), rank_one),
    "equal class means": with_means(random_problem(17, 3, 4, 3, lambda_W=0.05, beta=25.0), equal),
    "unequal class sizes": random_problem(11, 3, 5, counts=[5, 1, 3]),
    "small beta": random_problem(12, 3, 5, 3, beta=1e-3),
    "large beta": random_problem(13, 3, 5, 3, beta=1e4),
    "spread only in some directions": random_problem(14, 2, 6, 2, beta=0.05),
}
cases = pytest.mark.parametrize("problem", CASES.values(), ids=CASES.keys())


@pytest.fixture(params=["eliminated", "by conjugate gradients"])
def way(request, monkeypatch):
    """Both ways to solve the linear system, at sizes where a dense oracle can follow."""
    unknowns = 10**6 if request.param == "eliminated" else 0
    monkeypatch.setattr(curvature_module, "LARGEST_SCHUR", unknowns)


both_ways = pytest.mark.usefixtures("way")


def solved(problem):
    solution = minimize(problem.model, problem.statistics)
    return solution, solution.features(problem.features, problem.labels)


def dense(F):
    return F @ np.eye(F.shape[0])


def test_the_oracle_has_the_derivatives_of_the_objective():
    problem = random_problem(0, 2, 3, 2)
    W = np.random.default_rng(1).normal(size=(2, 3))
    H, Y = torch.tensor(problem.features), torch.tensor(one_hot(problem.labels, 2))
    (WW, WH), (_, HH) = torch.autograd.functional.hessian(
        lambda w, h: dense_objective(problem.model, w, h.T, 0.3 * H.T, Y), (torch.tensor(W), H)
    )
    blocks = hessian_blocks(problem.model, W, problem.features, problem.labels)
    for block, expected in zip(blocks, (WW, HH, WH), strict=True):
        assert relative_error(block, expected.numpy().reshape(block.shape)) < 1e-14


@both_ways
@cases
def test_the_response_is_the_dense_formula(problem):
    solution, H = solved(problem)
    F = response(solution, problem.features, problem.labels)
    expected, weights = dense_response(problem.model, solution.weights, H, problem.labels)
    assert relative_error(dense(F), expected) < 1e-11
    Z = np.random.default_rng(1).normal(size=H.shape)
    step = F.step(Z)
    assert relative_error(step.weights.ravel(), weights @ Z.ravel()) < 1e-11
    assert relative_error(step.features.ravel(), expected @ Z.ravel()) < 1e-11


@both_ways
@pytest.mark.parametrize("seed", range(12))
def test_the_response_is_the_dense_formula_on_random_problems(seed):
    rng = np.random.default_rng(seed)
    K, d, n = rng.integers(1, 5), rng.integers(1, 7), rng.integers(1, 5)
    lambda_W, lambda_H, beta = np.exp(rng.uniform([-5, -5, -3], [0.5, 0.5, 3]))
    problem = random_problem(seed, K, d, n, lambda_W, lambda_H, beta, spread=rng.uniform(0.1, 2))
    solution, H = solved(problem)
    expected, _ = dense_response(problem.model, solution.weights, H, problem.labels)
    assert (
        relative_error(dense(response(solution, problem.features, problem.labels)), expected)
        < 1e-10
    )


@both_ways
@cases
def test_bounds(problem):
    """F is symmetric, at least beta / G, and its spectrum obeys the bounds of the curvature."""
    solution, _ = solved(problem)
    F = dense(response(solution, problem.features, problem.labels))
    assert relative_error(F.T, F) < 1e-12
    lambda_W, beta = problem.model.lambda_W, problem.model.beta
    b = problem.model.lambda_H + beta
    W = solution.weights
    floor = beta * np.linalg.inv(W.T @ W + b * np.eye(W.shape[1]))
    assert np.linalg.eigvalsh(F - np.kron(np.eye(len(problem.labels)), floor))[0] > -1e-12
    assert np.linalg.eigvalsh(floor)[0] > 0
    largest_class = np.bincount(problem.labels).max() * len(W) / len(problem.labels)
    values = np.linalg.eigvalsh(F)
    assert values[0] >= beta / (b + largest_class / (4 * lambda_W)) - 1e-12
    if b > largest_class / lambda_W:
        assert values[-1] <= beta / (b - largest_class / lambda_W) + 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "generic",
        "d < K",
        "equal class means",
        "unequal class sizes",
        "c = 0.999",
        "rank-deficient means",
    ],
)
def test_the_error_of_the_response_is_quadratic(name):
    problem = CASES[name]
    solution, H = solved(problem)
    Z = np.random.default_rng(3).normal(size=H.shape)
    step = response(solution, problem.features, problem.labels).step(Z)
    sizes, errors = np.logspace(-2, -5, 4) * np.sqrt(problem.model.lambda_W), []
    for eps in sizes:
        moved, H1 = solved(problem._replace(features=problem.features + eps * Z))
        errors.append(
            [
                np.linalg.norm(H1 - H - eps * step.features),
                np.linalg.norm(moved.weights - solution.weights - eps * step.weights),
            ]
        )
    for error in np.transpose(errors):
        assert slope(sizes, error) == pytest.approx(2, abs=0.1)


@cases
def test_equation_5_is_the_dense_formula(problem):
    F = response_large_beta(problem.model, problem.features, problem.labels)
    expected = dense_large_beta(problem.model, F.weights, problem.features, problem.labels)
    assert relative_error(F.weights, problem.model.optimal_weights(problem.statistics)) < 1e-14
    # Relative to the correction, not to the identity beside it.
    identity = np.eye(expected.shape[0])
    rounding = 1e-15 / np.abs(expected - identity).max()
    assert relative_error(dense(F) - identity, expected - identity) < 1e-12 + rounding


@pytest.mark.parametrize("name", ["generic", "rank-deficient means", "unequal class sizes"])
def test_the_error_of_equation_5_is_of_second_order(name):
    problem = CASES[name]
    Z = np.random.default_rng(4).normal(size=problem.features.shape)
    betas, features, weights = np.logspace(3, 6, 4) / problem.model.lambda_W / 50, [], []
    for beta in betas:
        moved = problem._replace(model=replace(problem.model, beta=beta))
        exact = response(solved(moved)[0], problem.features, problem.labels).step(Z)
        limit = response_large_beta(moved.model, problem.features, problem.labels).step(Z)
        features.append(np.linalg.norm(exact.features - limit.features))
        weights.append(np.linalg.norm(exact.weights - limit.weights))
    assert slope(1 / betas, features) == pytest.approx(2, abs=0.05)
    assert slope(1 / betas, weights) == pytest.approx(1, abs=0.05)


@both_ways
@cases
def test_weights_need_the_statistics_only(problem):
    solution, _ = solved(problem)
    F = response(solution, problem.features, problem.labels)
    H0, Z = problem.features, np.random.default_rng(5).normal(size=problem.features.shape)
    d_moment = (Z.T @ H0 + H0.T @ Z) * len(solution.weights) / len(H0)
    d_means = ClassStatistics.from_features(Z, problem.labels).means
    expected = F.step(Z).weights
    assert relative_error(F.curvature.weight_step(d_means, d_moment), expected) < 1e-10
    # Twice the samples with the same statistics: the same response of the weights.
    twice = response(solution, np.concatenate([H0, H0]), np.concatenate([problem.labels] * 2))
    assert relative_error(twice.step(np.concatenate([Z, Z])).weights, expected) < 1e-11


@both_ways
@pytest.mark.parametrize(
    "K, d, beta, scale", [(10, 100, 1e-4, 1e-3), (4, 40, 1e-6, 1.0), (10, 64, 1e-2, 30.0)]
)
def test_the_curvature_is_inverted(K, d, beta, scale):
    problem = random_problem(1, K, d, 12, 1e-3, 1e-3, beta)
    stats = ClassStatistics.from_features(scale * problem.features, problem.labels)
    curvature = Curvature(minimize(problem.model, stats), stats)
    R = np.random.default_rng(2).normal(size=(K, d))
    basis = curvature.problem.basis
    assert relative_error(curvature.point.hessian(curvature.solve(R) @ basis) @ basis.T, R) < 1e-11


def degenerate_or_solved(stats, solution, R):
    try:
        return Curvature(solution, stats).solve(R)
    except ValueError as error:
        assert "degenerate" in str(error)
        return None


@pytest.mark.parametrize("seed", range(24))
def test_both_ways_accept_and_refuse_the_same(seed, monkeypatch):
    """Dead units, unequal counts, means of low rank, K > d, features from 0.01 to 100."""
    rng = np.random.default_rng(seed)
    K, d = rng.integers(2, 7), rng.integers(1, 9)
    counts = rng.integers(1, 6, K) if seed % 2 else np.full(K, 3)
    problem = random_problem(seed, K, d, counts=counts, spread=rng.choice([0, 0.3, 1]))
    if seed % 3 == 0:
        problem.features[:, : d // 2] = 0
    if seed % 4 == 0:
        problem = with_means(problem, rank_one)
    model = Model(*10 ** rng.uniform(-3, 0, 3))
    stats = ClassStatistics.from_features(
        10 ** rng.uniform(-2, 2) * problem.features, problem.labels
    )
    solution, R = minimize(model, stats), rng.standard_normal((K, d))
    ways = []
    for unknowns in (10**6, 0):
        monkeypatch.setattr(curvature_module, "LARGEST_SCHUR", unknowns)
        ways.append(degenerate_or_solved(stats, solution, R))
    assert (ways[0] is None) == (ways[1] is None)
    if ways[0] is not None:
        assert relative_error(ways[1], ways[0]) < 1e-5


@both_ways
def test_a_saddle_with_one_steep_direction_is_refused():
    """Without means zero weights are stationary. Where the samples spread enough they are lowest;
    in the last direction, without spread, they are not. The curvature nearest to zero is positive.
    """
    K, d = 6, 8
    stats = ClassStatistics(np.full(K, 2), np.zeros((d, K)), np.diag([1.9] * (d - 1) + [0.0]))
    solution = replace(minimize(Model(0.01, 0.01, 0.1), stats), weights=np.zeros((K, d)))
    with pytest.raises(ValueError, match="degenerate"):
        Curvature(solution, stats)
    narrow = ClassStatistics(stats.counts, stats.means[:-1], stats.within[:-1, :-1])
    assert Curvature(replace(solution, weights=np.zeros((K, d - 1))), narrow).solve(
        np.ones((K, d - 1))
    ) == pytest.approx(1 / (0.01 + 1.9 * K * (0.1 / 0.11) ** 2 - 1 / 0.11))


def test_many_classes_need_no_dense_system(monkeypatch):
    """K = 100: a dense system would have 10,000 unknowns and 800 MB; and it is the same solution
    as by elimination where K is just above the limit."""
    problem = random_problem(3, 100, 128, 5, 5e-3, 5e-3, 1.0, spread=0.1)
    stats = problem.statistics
    solution = minimize(problem.model, stats)
    tracemalloc.start()
    begin = process_time()
    curvature = Curvature(solution, stats)
    R = np.random.default_rng(1).standard_normal((100, 128))
    X = curvature.solve(R)
    seconds, peak = process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    basis = curvature.problem.basis
    assert relative_error(curvature.point.hessian(X @ basis) @ basis.T, R) < 1e-11
    assert seconds < 5
    assert peak < 50e6

    some = random_problem(4, 31, 40, 3, spread=0.1)
    stats, solution = some.statistics, minimize(some.model, some.statistics)
    R = R[:31, :40]
    iterated = Curvature(solution, stats).solve(R)
    monkeypatch.setattr(curvature_module, "LARGEST_SCHUR", 10**6)
    assert relative_error(iterated, Curvature(solution, stats).solve(R)) < 1e-11


@pytest.mark.parametrize("K, d, n", [(10, 128, 100), (2, 3, 1500)])
def test_linearised_optimality_at_larger_sizes(K, d, n):
    """More samples than one block of rows: sizes that no dense (dN x dN) matrix reaches."""
    problem = random_problem(0, K, d, n, 5e-3, 5e-3, 1.0)
    (solution, H), y = solved(problem), problem.labels
    Z = np.random.default_rng(1).normal(size=H.shape)
    (dW, dH), W, model = (
        response(solution, problem.features, y).step(Z),
        solution.weights,
        problem.model,
    )
    E, dE = H @ W.T - np.eye(K)[y], H @ dW.T + dH @ W.T
    in_W = dE.T @ H + E.T @ dH + n * model.lambda_W * dW
    in_H = dE @ W + E @ dW + (model.lambda_H + model.beta) * dH - model.beta * Z
    assert np.linalg.norm(in_W) < 1e-11 * np.linalg.norm(dE.T @ H)
    assert np.linalg.norm(in_H) < 1e-12 * np.linalg.norm(dH)


def test_it_is_a_scipy_operator():
    problem = random_problem(0)
    F = response(solved(problem)[0], problem.features, problem.labels)
    matrix = dense(F)
    x = np.random.default_rng(1).normal(size=F.shape[0])
    assert relative_error(F.T @ x, matrix @ x) < 1e-13
    assert relative_error(F.H @ x[:, None], matrix @ x[:, None]) < 1e-13
    assert eigsh(F, k=1, return_eigenvectors=False)[0] == pytest.approx(
        np.linalg.eigvalsh(matrix)[-1], rel=1e-10
    )


def test_float32_features_give_a_float64_response():
    problem = random_problem(0)
    narrow = problem.features.astype(np.float32)
    F = response(
        minimize(problem.model, ClassStatistics.from_features(narrow, problem.labels)),
        narrow,
        problem.labels,
    )
    assert F.step(narrow).features.dtype == F.dtype == np.float64


def test_blocks_by_class():
    problem = CASES["unequal class sizes"]
    F, d = response(solved(problem)[0], problem.features, problem.labels), problem.features.shape[1]
    matrix = dense(F).reshape(len(problem.labels), d, -1, d)
    for k in range(3):
        for j in range(3):
            rows, columns = problem.labels == k, problem.labels == j
            expected = matrix[rows][:, :, columns].reshape(rows.sum() * d, columns.sum() * d)
            assert relative_error(F.block(k, j), expected) < 1e-13
    for k, j in ((3, 0), (0, -1)):
        with pytest.raises(ValueError, match="no class"):
            F.block(k, j)
    with pytest.raises(ValueError, match="too large"):
        many = random_problem(0, 2, 30, 100)
        response_large_beta(many.model, many.features, many.labels).block(0, 1)


def collapsed(model):
    """K = d = 2 features on an exact frame, with the solution belonging to them."""
    labels = np.repeat([0, 1], 3)
    weights, means = model.collapsed(2, 2)
    stats = ClassStatistics.from_features(means.T[labels], labels)
    return replace(minimize(model, stats), weights=weights), means.T[labels], labels


@both_ways
def test_degenerate_minimizers_are_refused():
    with pytest.raises(ValueError, match="degenerate"):  # a rotation costs nothing
        response(*collapsed(Model(0.1, 0.1, 0.0)))
    assert response(*collapsed(Model(0.1, 0.1, 1e-6))).shape == (12, 12)  # with a pull it does
    lines = random_problem(0, 3, 5, 2, lambda_W=0.05, lambda_H=0.05, beta=0.1)
    same = lines._replace(features=np.ones((6, 5)))
    with pytest.raises(
        ValueError, match="degenerate"
    ):  # the minimizer leaves the line, in any direction
        response(solved(same)[0], same.features, same.labels)
    line = with_means(random_problem(16, 3, 4, 3, lambda_W=0.05, beta=1.0), rank_one)
    with pytest.raises(
        ValueError, match="degenerate"
    ):  # rotations of the outputs that fix the vector (1, 2, 3)
        response(solved(line)[0], line.features, line.labels)
    nothing = same._replace(features=np.zeros((6, 5)))
    saddle = replace(solved(nothing)[0], weights=np.zeros((3, 5)))
    with pytest.raises(ValueError, match="degenerate"):
        response(saddle, nothing.features, nothing.labels)


@both_ways
def test_saddles_are_refused():
    """K = d = 1: two minima and a saddle; one more dimension makes a saddle of the higher one."""
    model, labels, H0 = Model(0.1, 0.1, 0.05), np.array([0]), np.array([[0.1]])
    # Stationarity in w: h = (w + beta h0) / (w^2 + b) and (w h - 1) h + lambda_W w = 0; as a
    # polynomial in w.
    w, numerator, denominator = (
        np.poly1d([1, 0]),
        np.poly1d([1, 0.05 * 0.1]),
        np.poly1d([1, 0, 0.15]),
    )
    roots = ((w * numerator - denominator) * numerator + 0.1 * w * denominator**2).roots
    higher, saddle, lower = np.sort(roots[np.abs(roots.imag) < 1e-9].real)

    def respond(weight, features):
        solution = minimize(model, ClassStatistics.from_features(features, labels))
        return response(
            replace(solution, weights=np.array([[weight, 0.0]])[:, : features.shape[1]]),
            features,
            labels,
        )

    for minimum in (higher, lower):
        assert respond(minimum, H0).shape == (1, 1)
    with pytest.raises(ValueError, match="degenerate"):  # inside the span of the weights
        respond(saddle, H0)
    padded = np.array([[0.1, 0.0]])
    assert respond(lower, padded).shape == (2, 2)
    with pytest.raises(ValueError, match="degenerate"):  # outside it
        respond(higher, padded)


@both_ways
def test_without_a_pull_the_response_is_zero():
    problem = random_problem(9, 3, 4, 2, lambda_W=2.0, lambda_H=3.0, beta=0.0)
    assert np.all(dense(response(solved(problem)[0], problem.features, problem.labels)) == 0)


def test_bad_input_is_refused():
    problem = random_problem(0)
    solution, H = solved(problem)
    with pytest.raises(ValueError, match="not a minimizer for these input features"):
        response(solution, problem.features + 0.1, problem.labels)
    with pytest.raises(ValueError, match="weights"):
        response(solution, problem.features[:, :4], problem.labels)
    with pytest.raises(ValueError, match="beta = 0"):
        response_large_beta(Model(0.1, 0.1), problem.features, problem.labels)
    for F in (
        response(solution, problem.features, problem.labels),
        response_large_beta(problem.model, problem.features, problem.labels),
    ):
        with pytest.raises(ValueError, match="shape"):
            F.step(H[:-1])
        with pytest.raises(TypeError, match="real"):
            F.step(H + 0j)
        with pytest.raises(ValueError, match="finite"):
            F.step(np.where(np.arange(H.size).reshape(H.shape) == 7, np.nan, H))
    curvature = response(solution, problem.features, problem.labels).curvature
    with pytest.raises(ValueError, match="symmetric"):
        curvature.weight_step(np.zeros((5, 3)), np.triu(np.ones((5, 5))))
    with pytest.raises(ValueError, match="shape"):
        curvature.weight_step(np.zeros((3, 5)), np.eye(5))
