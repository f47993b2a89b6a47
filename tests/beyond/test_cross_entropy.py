"""Cross-entropy against automatic differentiation and a plain optimizer on all variables."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, optimize, special

from nclib import ClassStatistics, Model, Status, nc1_trace
from nclib.beyond import cross_entropy as ce
from nclib.beyond.softmax import SoftmaxProblem, curvature, loss_gradient, residuals
from nclib.workbench import random_problem, slope
from tests.beyond import oracle_cross_entropy as oracle
from tests.beyond.oracle_cross_entropy import Variables

both = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def relative(actual, expected):
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-300)


def solved(problem, bias):
    """Solution, and all its variables."""
    model, H0, y = problem
    solution = ce.minimize(model, H0, y, bias)
    return solution, Variables(solution.weights, solution.bias, solution.features(H0, y))


def dead(problem):
    """The same with the last two dimensions dead."""
    features = problem.features.copy()
    features[:, -2:] = 0
    return problem._replace(features=features)


def equal_means(problem):
    """The same deviations around one common mean."""
    means = problem.statistics.means
    shift = means.mean(axis=1, keepdims=True) - means
    return problem._replace(features=problem.features + shift.T[problem.labels])


CASES = {
    "generic": random_problem(0),
    "K = 2": random_problem(1, K=2, d=3),
    "K = 6, d = K - 1": random_problem(2, K=6, d=5),
    "d < K - 1": random_problem(3, K=5, d=2),
    "d = 1": random_problem(4, K=3, d=1, beta=2.0),
    "n = 1": random_problem(5, n=1),
    "unequal classes": random_problem(6, counts=[1, 7, 30]),
    "1 : 1000": random_problem(7, K=2, d=2, counts=[1, 1000]),
    "c near 1": random_problem(8, lambda_W=0.99, lambda_H=1.0, beta=0.05),
    "c > 1": random_problem(9, lambda_W=2.0, lambda_H=1.5),
    "no decay of the features": random_problem(10, lambda_H=0.0),
    "dead units": dead(random_problem(11, d=6)),
    "equal means": equal_means(random_problem(12, lambda_W=0.1, beta=30.0)),
    "large beta": random_problem(13, beta=1e4),
    "small beta": random_problem(14, beta=1e-3),
    "a large common mean": random_problem(15)._replace(
        features=random_problem(15).features + 100.0
    ),
    "tight classes": random_problem(16, spread=1e-6),
}
cases = pytest.mark.parametrize("problem", CASES.values(), ids=CASES.keys())


# ---- the reduced problem ------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", ["generic", "K = 2", "d < K - 1", "unequal classes"])
def test_reduced_value_gradient_and_hessian(name, bias):
    """At a random point, not stationary; with E and H from the library, f from torch."""
    model, H0, y = CASES[name]
    K, d, rng = int(y.max()) + 1, H0.shape[1], np.random.default_rng(1)
    W = rng.normal(size=(K, d))
    W -= W.mean(axis=0)
    offset = rng.normal(size=K) * bias
    offset -= offset.mean()
    p = SoftmaxProblem.of(model, H0, y, bias)
    point = p.at(p.inside(W, offset, H0.mean(axis=0)))
    H = (p.basis @ point.H).T + (p.shrink * H0.mean(axis=0) if bias else 0)
    x = Variables(W, offset, H)
    expected = oracle.gradient(model, x, H0, y, bias)
    assert np.abs(expected.features).max() < 1e-15
    f = oracle.flat(model, H0, y, K, bias)(oracle.torch.tensor(oracle.pack(x, bias))).item()
    assert point.value == pytest.approx(K * f, rel=1e-13)

    def outside(X):
        """A gradient of this problem in the original weights and bias, flat."""
        G = p.contrasts @ X[:, :d] @ p.basis.T
        if not bias:
            return G.ravel()
        g = p.contrasts @ X[:, d]
        return np.concatenate([(G + p.shrink * np.outer(g, H0.mean(axis=0))).ravel(), g])

    wanted = [expected.weights.ravel(), *([expected.bias] if bias else [])]
    wanted = K * np.concatenate(wanted)
    assert relative(outside(point.gradient), wanted) < 1e-12
    full = K * oracle.reduced_hessian(model, x, H0, y, bias)
    for _ in range(4):
        V, v = rng.normal(size=(K, d)), rng.normal(size=K) * bias
        V, v = V - V.mean(axis=0), v - v.mean()
        X = p.inside(V, v, H0.mean(axis=0))
        direction = np.concatenate([V.ravel(), *([v] if bias else [])])
        assert relative(outside(point.hessian(X)), full @ direction) < 1e-10


def test_residuals_solve_their_equation_far_from_the_start():
    rng = np.random.default_rng(0)
    K, N = 5, 200
    C, y = linalg.helmert(K).T, rng.integers(0, K, N)
    A = rng.normal(size=(K - 1, K - 1))
    for size in (0.0, 1.0, 1e2, 1e4):
        z0, S = 30 * rng.normal(size=(N, K - 1)), size * A @ A.T
        E, losses, L = residuals(z0, S, y, C)
        g, expected = loss_gradient(z0 - E @ S, y, C)
        scale = 1 + np.abs(z0).max() + np.abs(E @ S).max()
        assert np.abs(g - E).max() < 1e-14 * scale
        assert relative(losses, expected) < 1e-12
        M = np.eye(K - 1) + curvature(E, y, C) @ S
        assert np.abs(M @ L - curvature(E, y, C)).max() < 1e-12 * (1 + size)


def test_the_loss_of_a_fitted_sample_keeps_its_digits():
    """One plus e^-40 rounds to one; loss, gradient and curvature are still right to 14 digits."""
    C, scores = linalg.helmert(3).T, np.array([40.0, 0.0, 0.0])
    g, loss = loss_gradient((scores @ C)[None], np.array([0]), C)
    small = np.exp(-40)
    assert loss[0] == pytest.approx(2 * small, rel=1e-13)
    np.testing.assert_allclose(C @ g[0], small * np.array([-2, 1, 1]), rtol=1e-13)
    Omega = C @ curvature(g, np.array([0]), C)[0] @ C.T
    expected = small * np.array([[2, -1, -1], [-1, 1, 0], [-1, 0, 1]])
    np.testing.assert_allclose(Omega, expected, rtol=1e-12, atol=1e-27)


# ---- the minimizer ------------------------------------------------------------------------------


@both
@cases
def test_the_minimizer_is_stationary_in_all_variables(problem, bias):
    solution, x = solved(problem, bias)
    model, H0, y = problem
    assert solution.status is Status.CONVERGED
    gradient = oracle.gradient(model, x, H0, y, bias)
    size = (1 + np.abs(H0).max()) * (1 + model.beta / len(y))
    assert max(np.abs(g).max() for g in gradient) < 1e-14 * size
    assert solution.gradient_norm <= 1e-12
    f = oracle.flat(model, H0, y, len(x.weights), bias)(oracle.torch.tensor(oracle.pack(x, bias)))
    assert solution.objective == pytest.approx(f.item(), rel=1e-12)
    assert solution.lower_bound <= solution.objective
    assert solution.certified == (solution.lower_bound == solution.objective)
    again = ClassStatistics.from_features(x.features, y)
    np.testing.assert_allclose(
        solution.statistics.means, again.means, rtol=1e-10, atol=1e-12 * size
    )
    assert np.abs(solution.weights.sum(axis=0)).max() < 1e-13 * (1 + np.abs(x.weights).max())
    assert bias or not solution.bias.any()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 6),
    d=st.integers(1, 7),
    n=st.integers(1, 6),
    log_beta=st.floats(-2, 4),
    log_W=st.floats(-3, 0.3),
    log_H=st.floats(-3, 0.3),
    log_spread=st.floats(-4, 1),
    bias=st.booleans(),
)
def test_random_problems_converge(seed, K, d, n, log_beta, log_W, log_H, log_spread, bias):
    problem = random_problem(seed, K, d, n, 10**log_W, 10**log_H, 10**log_beta, 10**log_spread)
    solution, x = solved(problem, bias)
    assert solution.status is Status.CONVERGED
    gradient = oracle.gradient(problem.model, x, problem.features, problem.labels, bias)
    assert max(np.abs(g).max() for g in gradient) < 1e-12


@both
@pytest.mark.parametrize("seed", range(4))
def test_a_plain_optimizer_finds_nothing_lower(seed, bias):
    """L-BFGS on all variables, from two random starts."""
    problem = random_problem(seed, K=3, d=2 + seed, n=3, lambda_W=0.05, beta=10.0 ** (seed - 1))
    solution, x = solved(problem, bias)
    rng, model = np.random.default_rng(seed), problem.model
    for _ in range(2):
        start = rng.normal(size=oracle.pack(x, bias).size)
        plain = oracle.plain_minimum(model, problem.features, problem.labels, 3, bias, start)
        assert plain.fun >= solution.lower_bound * (1 - 1e-9)
        if solution.certified and seed == 3:
            assert plain.fun == pytest.approx(solution.objective, rel=1e-9)


@both
def test_a_saddle_in_dead_units_is_left(bias):
    """Zero weights there are stationary, but a frame through dead units has a lower value."""
    for seed in range(6):
        problem = dead(random_problem(seed, K=3, d=4, lambda_W=0.01, lambda_H=0.01, beta=0.01))
        problem.features[:, 1] = 0
        solution, x = solved(problem, bias)
        assert solution.certified
        assert np.abs(x.weights[:, 1:]).max() > 0.1
        rng = np.random.default_rng(seed)
        start = rng.normal(size=oracle.pack(x, bias).size)
        args = problem.model, problem.features, problem.labels, 3, bias
        assert oracle.plain_minimum(*args, start).fun >= solution.objective * (1 - 1e-9)


def test_two_minima_and_the_certificate_tells_them_apart():
    """Two classes in one dimension, a weak pull: each sign of the weights has its minimum."""
    H0, y = np.array([[1.0], [1.2], [-1.0], [-0.9]]), np.array([0, 0, 1, 1])
    model = Model(0.05, 0.05, 0.02)
    solution = ce.minimize(model, H0, y)
    assert solution.certified and solution.weights[0, 0] > 0
    p = SoftmaxProblem.of(model, H0, y, True)
    far, _ = ce.trust_region_newton(p, np.array([[-3.0 * np.sign(p.contrasts[0, 0]), 0.0]]))
    assert far.gradient_norm < 1e-13 and far.certificate < 0
    assert far.value / 2 > solution.objective * 1.01


@both
def test_a_common_shift_of_the_input_only_meets_the_bias(bias):
    model, H0, y = random_problem(20)
    shift = np.arange(5.0)
    here, there = (ce.minimize(model, H, y, bias) for H in (H0, H0 + shift))
    moved = there.features(H0 + shift, y) - here.features(H0, y)
    expected = model.beta / model.b * shift
    if bias:
        np.testing.assert_allclose(moved, np.tile(expected, (len(y), 1)), atol=1e-12)
        np.testing.assert_allclose(there.weights, here.weights, atol=1e-12)
    else:
        assert np.abs(moved - expected).max() > 1e-3


@pytest.mark.parametrize("K", [2, 3, 5])
def test_a_pull_of_one_over_lambda_w_makes_two_classes_unique(K):
    """Balanced, b > 1 / lambda_W: certified for every input; the constant of squared loss."""
    rng = np.random.default_rng(K)
    for seed in range(8):
        spread = 10 ** rng.uniform(-2, 1)
        problem = random_problem(seed, 2, K, 4, 0.05, 0.1, 20.0, spread)
        assert ce.minimize(*problem, bias=bool(seed % 2)).certified


def test_weights_for_fixed_features_are_those_of_a_huge_pull():
    model, H0, y = random_problem(21, lambda_H=0.0)
    weights, offset = ce.optimal_weights(model, H0, y)
    pulled = ce.minimize(replace(model, beta=1e9), H0, y)
    np.testing.assert_allclose(pulled.weights, weights, atol=1e-8)
    np.testing.assert_allclose(pulled.bias, offset, atol=1e-8)


# ---- what the theorems say ----------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 5),
    d=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 9), min_size=5, max_size=5),
    log_beta=st.floats(-2, 3),
    log_spread=st.floats(-2, 1),
)
def test_with_a_bias_variability_falls_for_any_class_sizes(seed, K, d, sizes, log_beta, log_spread):
    """Certified minimizers, with class means weighted by class sizes, along the whole segment."""
    problem = random_problem(
        seed, K, d, 1, 0.03, 0.02, 10**log_beta, 10**log_spread, counts=sizes[:K]
    )
    solution, x = solved(problem, True)
    if not solution.certified:
        return
    model, H0, y = problem
    N, b = len(y), model.b
    start, end = traces(H0, y), traces(x.features, y)
    gain = N / K * model.lambda_W / b * np.sum(x.weights**2) / N
    floor = (model.beta / b) ** 2
    assert end.within <= floor * start.within * (1 + 1e-9)
    assert end.between >= (floor * start.between + gain) * (1 - 1e-9)
    along = [traces(H0 + t * (x.features - H0), y) for t in np.linspace(0, 1, 6)]
    ratios = [a.within / a.between for a in along]
    assert max(np.diff(ratios)) <= 1e-12 * ratios[0]


class Traces(oracle.NamedTuple):
    """Traces of the covariances, every sample with the same weight."""

    within: float
    between: float


def traces(H, y):
    stats = ClassStatistics.from_features(H, y)
    deviations = stats.means - H.mean(axis=0)[:, None]
    return Traces(np.trace(stats.within), np.sum(stats.counts * deviations**2) / stats.N)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 5),
    d=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 9), min_size=5, max_size=5),
    log_spread=st.floats(-2, 1),
)
def test_along_the_flow_a_free_bias_is_enough(seed, K, d, sizes, log_spread):
    """At any state: what the decay leaves of both traces has the sign of the theorem."""
    model, H, y = random_problem(seed, K, d, 1, 0.03, 0.02, 1.0, 10**log_spread, counts=sizes[:K])
    W, offset = ce.optimal_weights(model, H, y)
    Z = H @ W.T + offset
    E = special.softmax(Z, axis=1) - np.eye(K)[y]
    velocity = -E @ W - model.lambda_H * H
    # Traces are quadratic: central differences are exact.
    ahead, here, back = (traces(H + s * velocity, y) for s in (0.1, 0.0, -0.1))
    grown = (ahead.between - back.between) / 0.2 + 2 * model.lambda_H * here.between
    shrunk = (ahead.within - back.within) / 0.2 + 2 * model.lambda_H * here.within
    monotone = sum(
        np.sum((Z[y == k] - Z[y == k].mean(axis=0)) * (E[y == k] - E[y == k].mean(axis=0)))
        for k in range(K)
    )
    gain = len(y) / K * model.lambda_W * np.sum(W**2) + monotone
    scale = 1e-9 * (here.between + here.within)
    assert monotone >= 0 and shrunk <= scale
    assert grown == pytest.approx(2 * gain / len(y), rel=1e-7, abs=scale)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    d=st.integers(1, 5),
    n=st.integers(1, 9),
    log_W=st.floats(-3, 0),
    lambda_H=st.sampled_from([0.0, 0.02, 0.5]),
    log_beta=st.floats(-2, 3),
    log_spread=st.floats(-2, 1),
    shift=st.sampled_from([0.0, 0.0, 5.0]),
    far=st.sampled_from([1.0, 30.0]),
)
def test_two_classes_of_one_size_need_no_bias(
    seed, d, n, log_W, lambda_H, log_beta, log_spread, shift, far
):
    """Certified minimizers without a bias, also with a common mean and a sample far away."""
    problem = random_problem(seed, 2, d, n, 10**log_W, lambda_H, 10**log_beta, 10**log_spread)
    problem.features[0] *= far
    problem = problem._replace(features=problem.features + shift)
    solution, x = solved(problem, False)
    if not solution.certified:
        return
    model, H0, y = problem
    start, end = traces(H0, y), traces(x.features, y)
    floor, rounding = (model.beta / model.b) ** 2, 1e-9 * np.sum(H0**2) / len(y)
    gain = model.lambda_W / 2 / model.b * np.sum(x.weights**2)
    assert end.within <= floor * start.within + rounding
    assert end.between >= floor * start.between + gain - rounding
    along = [traces(H0 + t * (x.features - H0), y) for t in np.linspace(0, 1, 6)]
    if start.between > 1e3 * rounding:
        ratios = [a.within / a.between for a in along]
        assert max(np.diff(ratios)) <= 1e-9 * ratios[0]


def test_certified_problems_of_two_classes_are_common_and_all_fall():
    """What the test above must not do: hold because nothing is certified, or nothing moves."""
    falls, rng = [], np.random.default_rng(0)
    for seed in range(60):
        problem = random_problem(seed, 2, 3, 5, 0.05, 0.02, 10 ** rng.uniform(0, 2))
        solution, x = solved(problem, False)
        if solution.certified:
            start, end = (
                traces(problem.features, problem.labels),
                traces(x.features, problem.labels),
            )
            falls.append(1 - end.within / end.between * start.between / start.within)
    assert len(falls) > 40 and min(falls) > 1e-6 and max(falls) > 0.05


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    d=st.integers(1, 5),
    n=st.integers(1, 9),
    lambda_W=st.sampled_from([0.003, 0.03, 0.3]),
    log_spread=st.floats(-2, 1),
)
def test_along_the_flow_two_classes_of_one_size_need_no_bias(seed, d, n, lambda_W, log_spread):
    """At any state, with the best weights of a plain logistic regression of its own."""
    model, H, y = random_problem(seed, 2, d, n, lambda_W, 0.02, 1.0, 10**log_spread)
    sign = 1 - 2 * y

    def objective(w):
        margins = 2 * sign * (H @ w)
        value = np.logaddexp(0, -margins).mean() + lambda_W / 2 * w @ w
        return value, lambda_W * w - 2 * (special.expit(-margins) * sign) @ H / len(y)

    options = {"ftol": 0, "gtol": 1e-13, "maxiter": 5000}
    w = optimize.minimize(objective, np.zeros(d), jac=True, method="L-BFGS-B", options=options).x
    q = special.expit(-2 * sign * (H @ w))
    velocity = 2 * (sign * q)[:, None] * w - model.lambda_H * H
    ahead, here, back = (traces(H + s * velocity, y) for s in (0.1, 0.0, -0.1))
    grown = (ahead.between - back.between) / 0.2 + 2 * model.lambda_H * here.between
    shrunk = (ahead.within - back.within) / 0.2 + 2 * model.lambda_H * here.within
    scale = 1e-6 * (here.between + here.within)
    assert shrunk <= scale and grown >= 2 * lambda_W * w @ w - scale


def rising():
    """Three classes whose variability ratio rises without a bias; features and labels."""
    means = np.array([[4.0, 1.0, 0.0], [3.0, -4.0, 0.0], [1.0, -1.0, 0.0]])
    noise = np.array([[0, 0, 0.3], [0, 0, -0.3]])
    return (means[:, None] + noise).reshape(6, 3), np.repeat(np.arange(3), 2)


def test_without_a_bias_variability_may_rise_and_with_one_it_falls():
    H0, y = rising()
    model, before = Model(0.01, 0.01, 10.0), nc1_trace(ClassStatistics.from_features(*rising()))
    without, with_ = (ce.minimize(model, H0, y, bias) for bias in (False, True))
    assert without.certified and with_.certified
    assert before == pytest.approx(0.015577, abs=5e-7)
    assert nc1_trace(without.statistics) == pytest.approx(0.015683, abs=5e-7)
    assert nc1_trace(with_.statistics) == pytest.approx(0.015559, abs=5e-7)


# ---- response and series ------------------------------------------------------------------------

DEGENERATE = ("dead units",)  # its minimizer uses them, in any orientation
REGULAR = [name for name in CASES if name not in DEGENERATE]


@both
@pytest.mark.parametrize("name", REGULAR)
def test_the_response_is_the_dense_one(name, bias):
    problem = CASES[name]
    model, H0, y = problem
    if len(y) > 40:  # one small class against a large one, small enough for the dense matrix
        kept = np.sort(np.concatenate([np.flatnonzero(y == k)[:30] for k in range(y.max() + 1)]))
        problem = problem._replace(features=H0[kept], labels=y[kept])
        model, H0, y = problem
    solution, x = solved(problem, bias)
    F = ce.response(solution, H0, y)
    expected, last_layer = oracle.dense_response(model, x, H0, y, bias)
    Z = np.random.default_rng(1).normal(size=H0.shape)
    step = F.step(Z)
    assert relative(step.features.ravel(), expected @ Z.ravel()) < 1e-8
    change = np.concatenate([step.weights.ravel(), *([step.bias] if bias else [])])
    assert relative(change, last_layer @ Z.ravel()) < 1e-7
    assert np.array_equal(F @ Z.ravel(), step.features.ravel())


@both
def test_the_response_is_symmetric_and_at_least_its_direct_part(bias):
    problem = random_problem(0, K=3, d=2, n=2)
    model, H0, y = problem
    solution, x = solved(problem, bias)
    F = ce.response(solution, H0, y) @ np.eye(H0.size)
    np.testing.assert_allclose(F, F.T, atol=1e-12)
    p = np.exp(x.features @ x.weights.T + x.bias)
    p /= p.sum(axis=1, keepdims=True)
    blocks = [
        x.weights.T @ (np.diag(q) - np.outer(q, q)) @ x.weights + model.b * np.eye(2) for q in p
    ]
    direct = model.beta * linalg.block_diag(*(np.linalg.inv(G) for G in blocks))
    assert linalg.eigvalsh(F - direct)[0] > -1e-13


@both
@pytest.mark.parametrize("seed", range(3))
def test_the_response_is_the_first_order_of_the_minimizer(seed, bias):
    problem = random_problem(seed, beta=0.5 + seed)
    _, H0, y = problem
    solution, x = solved(problem, bias)
    Z = np.random.default_rng(seed).normal(size=H0.shape)
    step, sizes, errors = ce.response(solution, H0, y).step(Z), np.logspace(-1.5, -4.5, 4), []
    for t in sizes:
        _, moved = solved(problem._replace(features=H0 + t * Z), bias)
        errors.append(np.linalg.norm(moved.features - x.features - t * step.features))
    assert slope(sizes, errors) == pytest.approx(2, abs=0.05)


@both
@pytest.mark.parametrize("seed", range(3))
def test_the_series_in_one_over_beta(seed, bias):
    """Errors of order 2 after the linear term and of order 3 after the quadratic one."""
    problem = random_problem(seed, counts=[2, 4, 3])
    model, H0, y = problem
    coefficients, betas = ce.series(model, H0, y, bias), np.logspace(1.5, 3.5, 5)
    for order in (1, 2):
        errors = []
        for beta in betas:
            _, x = solved(problem._replace(model=replace(model, beta=beta)), bias)
            partial = sum(coefficients[k] / beta**k for k in range(order + 1))
            errors.append(np.linalg.norm(x.features - partial))
        assert slope(1 / betas, errors, decades=2) == pytest.approx(order + 1, abs=0.03)


# ---- collapse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("K, d", [(2, 1), (2, 4), (3, 2), (4, 6), (6, 5)])
@both
def test_the_collapsed_point_is_the_certified_minimizer(K, d, bias):
    model, y = Model(0.03, 0.02, 0.0), np.repeat(np.arange(K), 2)
    W, means = ce.collapsed(model, K, d)
    x = Variables(W, np.zeros(K), means.T[y])
    gradient = oracle.gradient(model, x, x.features, y, bias)
    assert max(np.abs(g).max() for g in gradient) < 1e-15
    solution = ce.minimize(replace(model, beta=0.3), x.features, y, bias)
    assert solution.certified
    np.testing.assert_allclose(solution.weights, W, atol=1e-12)
    rng = np.random.default_rng(0)
    start = rng.normal(size=oracle.pack(x, bias).size)
    plain = oracle.plain_minimum(model, x.features, y, K, bias, start)
    f = oracle.flat(model, x.features, y, K, bias)(oracle.torch.tensor(oracle.pack(x, bias)))
    assert plain.fun == pytest.approx(f.item(), rel=1e-10)


def test_the_frame_of_the_collapsed_point_is_free():
    model, rng = Model(0.03, 0.02), np.random.default_rng(0)
    Q = linalg.qr(rng.normal(size=(5, 2)), mode="economic")[0]
    turned, plain = ce.collapsed(model, 3, 5, Q), ce.collapsed(model, 3, 5)
    np.testing.assert_allclose(turned.means.T @ turned.means, plain.means.T @ plain.means)
    np.testing.assert_allclose(turned.weights @ turned.means, plain.weights @ plain.means)


@both
@pytest.mark.parametrize(
    "K, d, n", [(2, 1, 3), (2, 3, 1), (3, 2, 2), (3, 5, 2), (4, 3, 2), (5, 5, 2)]
)
@pytest.mark.parametrize("lambdas", [(0.03, 0.02, 0.1), (0.5, 1.9, 0.7)])
def test_the_spectrum_is_that_of_the_dense_response(K, d, n, lambdas, bias):
    model, y = Model(*lambdas), np.repeat(np.arange(K), n)
    W, means = ce.collapsed(model, K, d)
    x = Variables(W, np.zeros(K), means.T[y])
    F, _ = oracle.dense_response(model, x, x.features, y, bias)
    found = ce.spectrum(model, K, d, n, bias)
    assert sum(space.multiplicity for space in found) == K * d * n
    np.testing.assert_allclose(found.values, linalg.eigvalsh(F)[::-1], atol=1e-10)


@pytest.mark.parametrize("K", [2, 3, 10])
def test_at_every_loss_the_two_decays_differ_by_one_in_elasticity(K):
    """The scaling (W, H, H0) -> (aW, H/a, H0/a) makes every rate lambda_H t(c)."""
    h = 1e-6

    def rates(lambda_W, lambda_H):
        model = Model(lambda_W, lambda_H, 1.0)
        values = [s.value for s in ce.spectrum(model, K, K + 1, 2) if s.multiplicity]
        return np.array([1 / v - 1 for v in values if v < 1])

    up, down = np.exp(h), np.exp(-h)
    by_W = np.log(rates(0.02 * up, 0.03) / rates(0.02 * down, 0.03)) / (2 * h)
    by_H = np.log(rates(0.02, 0.03 * up) / rates(0.02, 0.03 * down)) / (2 * h)
    np.testing.assert_allclose(by_H - by_W, 1, atol=1e-8)


# ---- refusals -----------------------------------------------------------------------------------


def test_bad_input_gets_a_sentence():
    model, H0, y = random_problem(30)
    solution = ce.minimize(model, H0, y)
    with pytest.raises(ValueError, match="lambda_H = beta = 0"):
        ce.minimize(Model(0.1, 0.0, 0.0), H0, y)
    with pytest.raises(ValueError, match="at least two classes"):
        ce.minimize(model, H0, np.zeros(len(y), dtype=int))
    with pytest.raises(ValueError, match="features must be finite"):
        ce.minimize(model, H0 + np.nan, y)
    with pytest.raises(ValueError, match="must have 5 columns"):
        solution.features(H0[:, :4], y)
    with pytest.raises(ValueError, match="must be a minimizer for these features"):
        ce.response(solution, H0 + 1e-3 * np.arange(5), y[::-1])
    with pytest.raises(ValueError, match="d_features must have shape"):
        ce.response(solution, H0, y).step(H0[1:])
    for arguments, complaint in [
        ((Model(0.1, 0.1), 1, 3), "K must be at least 2"),
        ((Model(0.1, 0.1), 4, 2), "d must be at least K - 1 = 3"),
        ((Model(2.0, 0.5), 3, 3), "c = sqrt"),
        ((Model(0.1, 0.0), 3, 3), "lambda_H must be greater"),
        ((Model(0.1, 0.1), 3, 3, np.eye(3, 2) + 0.1), "frame is not orthonormal"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            ce.collapsed(*arguments)
    with pytest.raises(ValueError, match="beta must be greater"):
        ce.spectrum(Model(0.1, 0.1), 3, 3, 1)


def test_a_degenerate_minimizer_has_no_response():
    """Without input every rotation of a simplex is a minimizer; in dead units too."""
    no_input = Model(0.1, 0.1, 0.1), np.zeros((6, 4)), np.repeat(np.arange(3), 2)
    for model, H0, y in (no_input, CASES["dead units"]):
        solution = ce.minimize(model, H0, y)
        assert solution.certified
        with pytest.raises(ValueError, match="strict local minimum"):
            ce.response(solution, H0, y).step(np.random.default_rng(0).normal(size=H0.shape))


def test_the_iteration_limit_is_reported():
    solution = ce.minimize(*random_problem(31), max_iterations=1)
    assert solution.status is Status.NOT_CONVERGED and not solution.certified
