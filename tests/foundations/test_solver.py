"""The reduced problem against the full one; the minimizer against theory and plain optimizers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize

from nclib import ClassStatistics, Model, Status, minimize
from nclib.foundations.newton import trust_region_newton
from nclib.foundations.reduced import ReducedProblem
from nclib.workbench import random_problem
from tests.foundations.oracle_model import dense_reduced, one_hot, reduced_hessian

SIZES = [(3, 5, 4), (4, 4, 2), (2, 3, 1), (3, 2, 6), (1, 1, 1)]


def reduced(problem):
    return ReducedProblem.from_statistics(problem.model, problem.statistics)


def full_relative_gradient(solution, problem):
    """Norm of the gradient of f in W or H, each relative to its data terms; the larger one."""
    W, y, model = solution.weights, problem.labels, problem.model
    H, N = solution.features(problem.features, y), len(y)
    gradient = model.gradient(W, H, y, problem.features)
    Y = one_hot(y, len(W))
    scale_W = np.linalg.norm(Y @ H) / N + np.sqrt(model.lambda_W)
    scale_H = (np.linalg.norm(W.T @ Y) + model.beta * np.linalg.norm(problem.features)) / N + 1e-3
    return max(
        np.linalg.norm(gradient.weights) / scale_W, np.linalg.norm(gradient.features) / scale_H
    )


@pytest.mark.parametrize("K, d, n", SIZES)
def test_reduced_value_gradient_and_hessian(K, d, n):
    problem = random_problem(1, K, d, n)
    W = np.random.default_rng(2).normal(size=(K, d))
    r = reduced(problem)
    point = r.at(W @ r.basis)
    f, H = dense_reduced(problem.model, W, problem.features.T, one_hot(problem.labels, K))
    assert point.value == pytest.approx(K * f, rel=1e-13)
    gradient = problem.model.gradient(W, H.T, problem.labels, problem.features).weights
    np.testing.assert_allclose(point.gradient @ r.basis.T, K * gradient, rtol=1e-11, atol=1e-12)
    hessian = np.stack(
        [(point.hessian(e.reshape(K, d) @ r.basis) @ r.basis.T).ravel() for e in np.eye(K * d)]
    )
    np.testing.assert_allclose(hessian, reduced_hessian(problem, W), rtol=1e-10, atol=1e-10)


def test_reduced_hessian_with_unequal_classes():
    problem = random_problem(3, counts=[1, 5, 9])
    W = np.random.default_rng(4).normal(size=(3, 5))
    r = reduced(problem)
    point = r.at(W @ r.basis)
    hessian = np.stack(
        [(point.hessian(e.reshape(3, 5) @ r.basis) @ r.basis.T).ravel() for e in np.eye(15)]
    )
    np.testing.assert_allclose(hessian, reduced_hessian(problem, W), rtol=1e-10, atol=1e-10)


def test_residual_moment_is_that_of_the_columns():
    problem = random_problem(5)
    W = np.random.default_rng(6).normal(size=(3, 5))
    r = reduced(problem)
    _, H = dense_reduced(problem.model, W, problem.features.T, one_hot(problem.labels, 3))
    E = W @ H - one_hot(problem.labels, 3)
    np.testing.assert_allclose(r.at(W @ r.basis).residual_moment, E @ E.T / 4, rtol=1e-12)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(1, 4),
    d=st.integers(1, 6),
    n=st.integers(1, 6),
    log_beta=st.floats(-3, 6),
    log_W=st.floats(-4, 0.5),
    log_H=st.floats(-4, 0.5),
    log_spread=st.floats(-6, 1),
)
def test_minimizer_is_stationary_on_all_columns(seed, K, d, n, log_beta, log_W, log_H, log_spread):
    problem = random_problem(seed, K, d, n, 10**log_W, 10**log_H, 10**log_beta, 10**log_spread)
    solution = minimize(problem.model, problem.statistics)
    assert solution.status is Status.CONVERGED
    assert solution.gradient_norm <= 1e-12
    assert full_relative_gradient(solution, problem) < 1e-12
    H = solution.features(problem.features, problem.labels)
    f = problem.model.objective(solution.weights, H, problem.labels, problem.features)
    assert solution.objective == pytest.approx(f, rel=1e-11, abs=1e-15)
    assert solution.lower_bound <= solution.objective * (1 + 1e-9)
    assert solution.certified == (solution.lower_bound == solution.objective)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), K=st.integers(2, 3), d=st.integers(1, 5), log_beta=st.floats(-2, 3)
)
def test_certified_minimum_is_not_beaten_by_a_plain_optimizer(seed, K, d, log_beta):
    problem = random_problem(seed, K, d, 3, beta=10**log_beta)
    model, H0, y = problem
    solution = minimize(model, problem.statistics)
    rng = np.random.default_rng(seed)

    def objective(v):
        W, H = v[: K * d].reshape(K, d), v[K * d :].reshape(-1, d)
        gradient = model.gradient(W, H, y, H0)
        return model.objective(W, H, y, H0), np.concatenate(
            [gradient.weights.ravel(), gradient.features.ravel()]
        )

    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10}
    for _ in range(2):
        start = rng.normal(size=K * d + H0.size)
        plain = scipy_minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        assert plain.fun >= solution.lower_bound * (1 - 1e-9)
        if solution.certified and model.lambda_W * (model.lambda_H + model.beta) > 1:
            assert plain.fun == pytest.approx(solution.objective, rel=1e-8)


def test_statistics_are_those_of_the_optimal_features():
    problem = random_problem(7, counts=[2, 4, 9])
    solution = minimize(problem.model, problem.statistics)
    H = solution.features(problem.features, problem.labels)
    again = ClassStatistics.from_features(H, problem.labels)
    np.testing.assert_allclose(solution.statistics.means, again.means, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(solution.statistics.within, again.within, rtol=1e-10, atol=1e-14)


def test_solution_depends_on_the_statistics_alone():
    """Two data sets with different n and equal means and covariance have the same minimizer."""
    rng = np.random.default_rng(8)
    K, d = 3, 4
    means, root = rng.normal(size=(K, d)), rng.normal(size=(d, d))

    def data(n):
        y = np.repeat(np.arange(K), n)
        noise = rng.normal(size=(K, n, d))
        noise -= noise.mean(axis=1, keepdims=True)
        noise = noise.reshape(K * n, d)
        noise = noise @ np.linalg.inv(np.linalg.cholesky(noise.T @ noise / (K * n))).T @ root
        return ClassStatistics.from_features(means[y] + noise, y)

    model = Model(0.02, 0.01, 0.5)
    few, many = minimize(model, data(5)), minimize(model, data(50))
    np.testing.assert_allclose(few.weights, many.weights, atol=1e-11)
    assert few.objective == pytest.approx(many.objective, rel=1e-12)


def scalar_problem(h0=1.0, beta=0.05):
    stats = ClassStatistics(np.array([1]), np.array([[h0]]), np.zeros((1, 1)))
    return Model(0.1, 0.1, beta), stats


def test_two_minima_and_the_certificate_tells_them_apart():
    """K = d = n = 1, small beta: the minimum beyond zero is stationary and not certified."""
    model, stats = scalar_problem()
    problem = ReducedProblem.from_statistics(model, stats)
    near, _ = trust_region_newton(problem, np.array([[1.0]]))
    far, _ = trust_region_newton(problem, np.array([[-1.0]]))
    assert max(near.gradient_norm, far.gradient_norm) < 1e-13
    assert near.value < far.value
    assert near.certificate > 0 > far.certificate
    assert minimize(model, stats).certified
    assert minimize(model, stats).objective == pytest.approx(near.value, rel=1e-14)


@pytest.mark.parametrize("seed", range(6))
def test_pull_above_the_threshold_makes_the_minimum_unique(seed):
    """lambda_H + beta >= 1/lambda_W: every start ends in the same certified point."""
    problem = random_problem(seed, lambda_W=0.5, lambda_H=0.1, beta=1.9)
    r = reduced(problem)
    rng = np.random.default_rng(seed)
    ends = [trust_region_newton(r, 3 * rng.normal(size=(3, 5)))[0] for _ in range(4)]
    for end in ends:
        assert end.certificate > 0
        np.testing.assert_allclose(end.W, ends[0].W, atol=1e-9)


def test_below_the_threshold_zero_features_have_an_orbit_of_minimizers():
    """Sharpness: H0 = 0 and lambda_H + beta < 1/lambda_W; above it the minimizer is zero."""
    y = np.repeat(np.arange(2), 3)
    stats = ClassStatistics.from_features(np.zeros((6, 4)), y)
    below, above = minimize(Model(0.5, 0.1, 1.0), stats), minimize(Model(0.5, 0.1, 2.0), stats)
    assert np.linalg.norm(below.weights) > 0.1 and below.certified
    assert np.linalg.norm(above.weights) < 1e-12 and above.certified


def test_an_uncertified_minimum_is_reported_as_such():
    """Within-class noise in every direction: one minimum, not certified, lower bound below it."""
    y = np.zeros(4, dtype=int)
    stats = ClassStatistics.from_features(np.array([[3.0], [-2.0], [2.0], [-1.0]]), y)
    solution = minimize(Model(0.1, 0.02, 0.5), stats)
    assert solution.status is Status.CONVERGED and not solution.certified
    assert solution.lower_bound < 0.6 * solution.objective


def test_lower_bound_holds_for_the_best_of_many_starts():
    for seed in range(8):
        problem = random_problem(seed, 2, 2, 5, lambda_W=0.05, lambda_H=0.02, beta=0.3)
        solution = minimize(problem.model, problem.statistics)
        r = reduced(problem)
        rng = np.random.default_rng(seed)
        values = [
            trust_region_newton(r, 2 * rng.normal(size=(2, 2)))[0].value / 2 for _ in range(12)
        ]
        assert solution.lower_bound <= min(values) * (1 + 1e-9)
        assert solution.objective <= min(values) * (1 + 1e-9)


def test_strong_decay_gives_zero():
    y = np.repeat(np.arange(3), 4)
    stats = ClassStatistics.from_features(np.random.default_rng(9).normal(size=(12, 5)), y)
    solution = minimize(Model(2.0, 1.0, 0.0), stats)
    assert solution.certified and np.abs(solution.weights).max() < 1e-6
    assert solution.objective == pytest.approx(0.5, rel=1e-12)


def test_large_problem_converges_at_every_beta():
    problem = random_problem(10, 10, 128, 30, 5e-3, 5e-3)
    stats = problem.statistics
    for beta in np.logspace(-3, 6, 10):
        assert minimize(Model(5e-3, 5e-3, beta), stats).gradient_norm <= 1e-12


def test_iteration_limit_is_reported():
    problem = random_problem(11)
    solution = minimize(problem.model, problem.statistics, max_iterations=1)
    assert solution.status is Status.NOT_CONVERGED and not solution.certified


def test_bad_input_gets_a_sentence():
    problem = random_problem(12)
    solution = minimize(problem.model, problem.statistics)
    with pytest.raises(ValueError, match=r"lambda_H \+ beta = 0"):
        minimize(Model(0.1, 0.0, 0.0), problem.statistics)
    with pytest.raises(ValueError, match="class 1 has no samples"):
        minimize(problem.model, ClassStatistics(np.array([2, 0]), np.ones((1, 2)), np.eye(1)))
    with pytest.raises(ValueError, match="4 columns"):
        solution.features(problem.features[:, :4], problem.labels)
    with pytest.raises(ValueError, match="features must be finite"):
        solution.features(problem.features + np.nan, problem.labels)
