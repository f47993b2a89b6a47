"""Several levels against the full problem on all columns, against closed forms, and against their
theorems.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize

from nclib import ClassStatistics, Model, Status, nc1, nc1_trace
from nclib import minimize as one_level
from nclib.beyond import levels
from nclib.workbench import random_problem
from tests.beyond.oracle_levels import Network, chain, objective, quadratic
from tests.foundations.oracle_model import one_hot


def random_chain(rng, L=None):
    """Random decays (some zero) and pulls of a chain."""
    L = rng.integers(1, 7) if L is None else L
    decays = 10 ** rng.uniform(-3, 0.3, L) * (rng.random(L) < 0.7)
    decays[-1] = max(decays[-1], 1e-3)
    return chain(10 ** rng.uniform(-3, 0), decays, 10 ** rng.uniform(-1.5, 1.5, L))


def random_graph(rng, L=None):
    """A chain of random order with random skips."""
    network = random_chain(rng, rng.integers(2, 7) if L is None else L)
    size = len(network.links)
    skips = np.triu(10 ** rng.uniform(-2, 1, (size, size)) * (rng.random((size, size)) < 0.4), 1)
    return network._replace(links=network.links + skips + skips.T)


def relative(actual, expected):
    return np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected))


def stationarity(network, levels_, W, Y):
    """Norms of the gradients relative to those of the terms in them; the largest."""
    L, (K, N) = len(network.decays), Y.shape
    _, gradient_W, gradients = objective(network, W, levels_, Y)
    norms = [np.linalg.norm(H) for H in levels_]
    scale_W = np.linalg.norm(Y @ levels_[L].T) / N + network.lambda_W / K * np.linalg.norm(W)
    # Each level is pulled with the conductances of its row.
    sizes = [
        (network.links[l] @ norms + network.decays[l - 1] * norms[l]) / N for l in range(1, L + 1)
    ]
    sizes[-1] += np.linalg.norm(W.T @ Y) / N
    found = [np.linalg.norm(g) / size for g, size in zip(gradients, sizes, strict=True)]
    return max(np.linalg.norm(gradient_W) / scale_W, *found)


def solved(network, problem):
    """Levels of the solution for the features of a problem, each (d, N), with the solution."""
    result = levels.minimize(*network, problem.statistics)
    H = result.features(problem.features, problem.labels)
    return result, [problem.features.T, *(X.T for X in H)]


# ---- the two ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_ends_are_the_schur_complement(seed):
    rng = np.random.default_rng(seed)
    network = random_graph(rng) if seed % 2 else random_chain(rng)
    L, Q = len(network.decays), quadratic(network)
    inner, ends = list(range(1, L)), [0, L]
    to_ends = np.linalg.solve(Q[np.ix_(inner, inner)], -Q[np.ix_(inner, ends)])
    left = Q[np.ix_(ends, ends)] + Q[np.ix_(ends, inner)] @ to_ends
    model = levels.effective(*network)
    assert relative([-model.beta, model.b], left[1]) < 1e-12
    p, q = levels.weights(*network[1:])
    np.testing.assert_allclose(
        np.stack([p, q], 1), np.vstack([to_ends, [[0, 1]]]), rtol=1e-12, atol=1e-14
    )


def test_the_ends_of_a_chain_keep_their_relative_accuracy():
    """Decays of 1e-9 beside pulls of 1: a Schur complement loses nine digits of the decay."""
    decays, pulls = [1e-9, 2e-9, 0.0, 3e-9], [1.0, 3.0, 0.7, 2.0]
    A, C = Fraction(decays[0]) + Fraction(pulls[0]), Fraction(pulls[0])
    for decay, pull in zip(map(Fraction, decays[1:]), map(Fraction, pulls[1:]), strict=True):
        A, C = decay + pull - pull**2 / (A + pull), pull * C / (A + pull)
    model = levels.effective(0.1, decays, pulls)
    assert abs(Fraction(model.lambda_H) / (A - C) - 1) < 1e-14
    assert abs(Fraction(model.beta) / C - 1) < 1e-14


def test_one_level_is_the_model_itself():
    model = levels.effective(0.1, [0.2], [0.7])
    assert (model.lambda_W, model.lambda_H, model.beta) == (0.1, 0.2, 0.7)
    assert [x.tolist() for x in levels.weights([0.2], [0.7])] == [[0.0], [1.0]]


@pytest.mark.parametrize("seed", range(10))
def test_without_inner_decays_the_levels_lie_on_a_straight_line(seed):
    """Springs in series, and the fraction of the way is the share of the compliance."""
    rng = np.random.default_rng(seed)
    pulls = 10 ** rng.uniform(-2, 2, rng.integers(1, 9))
    decays = np.zeros(len(pulls))
    decays[-1] = 0.3
    theta = np.cumsum(1 / pulls) / np.sum(1 / pulls)
    p, q = levels.weights(decays, pulls)
    np.testing.assert_allclose(q, theta, rtol=1e-13)
    np.testing.assert_allclose(p + q, 1, rtol=1e-13)
    model = levels.effective(0.1, decays, pulls)
    assert model.beta == pytest.approx(1 / np.sum(1 / pulls), rel=1e-13)
    assert model.lambda_H == pytest.approx(0.3, rel=1e-13)


@pytest.mark.parametrize("L, decay, pull", [(1, 0.5, 1.0), (5, 0.02, 0.3), (40, 1e-3, 2.0)])
def test_equal_levels_follow_a_hyperbolic_sine(L, decay, pull):
    """The recursion -beta p_{l-1} + (2 beta + lambda) p_l - beta p_{l+1} = 0 has the solutions
    exp(+-l k).
    """
    k = 2 * np.arcsinh(np.sqrt(decay / pull) / 2)
    l, decays = np.arange(1, L + 1), np.full(L, decay)
    p, q = levels.weights(decays, np.full(L, pull))
    np.testing.assert_allclose(q, np.sinh(l * k) / np.sinh(L * k), rtol=1e-12)
    np.testing.assert_allclose(p, np.sinh((L - l) * k) / np.sinh(L * k), rtol=1e-12, atol=1e-16)
    model = levels.effective(0.1, decays, np.full(L, pull))
    assert model.beta == pytest.approx(pull * np.sinh(k) / np.sinh(L * k), rel=1e-12)
    inner = pull * np.sinh((L - 1) * k) / np.sinh(L * k)
    assert model.b == pytest.approx(decay + pull - inner, rel=1e-12)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), graph=st.booleans())
def test_weights_are_shares_and_their_quotient_orders_a_chain(seed, graph):
    rng = np.random.default_rng(seed)
    network = random_graph(rng) if graph else random_chain(rng)
    model = levels.effective(*network)
    p, q = levels.weights(*network[1:])
    assert model.beta > 0 and model.lambda_H > 0
    assert p.min() >= 0 and q.min() > 0 and (p + q).max() <= 1 + 1e-15
    straight = not network.decays[:-1].any()
    assert (np.abs(p + q - 1).max() < 1e-14) == straight
    if not graph:
        assert np.all(np.diff(p / q) < 0)


def test_without_any_decay_none_is_left():
    assert levels.effective(0.1, [0, 0, 0], [1, 2, 3]).lambda_H == 0


def test_the_decay_of_a_dead_end_at_the_input_reaches_nobody():
    """A level linked to the input alone: the last level sees neither its decay nor the level."""
    links = [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    model = levels.effective(0.1, [5.0, 0.0], links)
    assert (model.lambda_H, model.beta) == (0.0, 1.0)
    p, q = levels.weights([5.0, 0.0], links)
    assert p.tolist() == [1 / 6, 0.0] and q.tolist() == [0.0, 1.0]


def test_a_chain_given_as_a_graph_is_the_same():
    network = random_chain(np.random.default_rng(0), 5)
    pulls = np.diag(network.links, 1)
    assert levels.effective(*network) == levels.effective(0.0 + network[0], network.decays, pulls)
    for a, b in zip(
        levels.weights(*network[1:]), levels.weights(network.decays, pulls), strict=True
    ):
        np.testing.assert_array_equal(a, b)


# ---- the minimizer ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 6),
    d=st.integers(1, 7),
    n=st.integers(1, 5),
    log_spread=st.floats(-6, 1),
    graph=st.booleans(),
)
def test_all_levels_are_stationary_on_all_columns(seed, K, d, n, log_spread, graph):
    rng = np.random.default_rng(seed)
    network = random_graph(rng) if graph else random_chain(rng)
    problem = random_problem(seed, K, d, n, spread=10**log_spread)
    result, columns = solved(network, problem)
    Y = one_hot(problem.labels, K)
    assert result.solution.status is Status.CONVERGED
    assert stationarity(network, columns, result.solution.weights, Y) < 1e-11
    value, _, _ = objective(network, result.solution.weights, columns, Y)
    assert result.objective == pytest.approx(value, rel=1e-11)


def test_unequal_classes_are_stationary_too():
    network = random_graph(np.random.default_rng(1), 4)
    problem = random_problem(1, 3, 5, counts=[1, 1000, 7])
    result, columns = solved(network, problem)
    W = result.solution.weights
    assert stationarity(network, columns, W, one_hot(problem.labels, 3)) < 1e-11


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_optimizer_on_all_variables_finds_nothing_lower(seed):
    """L-BFGS over W and every column of every level, from two random starts."""
    rng = np.random.default_rng(seed)
    network = random_graph(rng, 3)._replace(lambda_W=0.5)
    network.links[network.links > 0] += 2
    problem = random_problem(seed, 3, 4, 2)
    result, columns = solved(network, problem)
    assert result.solution.certified
    Y, shape, L = one_hot(problem.labels, 3), columns[0].shape, 3

    def full(v):
        W = v[:12].reshape(3, 4)
        free = list(v[12:].reshape(L, *shape))
        value, gradient_W, gradients = objective(network, W, [columns[0], *free], Y)
        return value, np.concatenate([gradient_W.ravel(), *(g.ravel() for g in gradients)])

    for _ in range(2):
        start = rng.normal(size=12 + L * columns[0].size)
        options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-11}
        plain = scipy_minimize(full, start, jac=True, method="L-BFGS-B", options=options)
        assert plain.fun == pytest.approx(result.objective, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_statistics_are_those_of_the_features(seed):
    rng = np.random.default_rng(seed)
    network = random_graph(rng)
    problem = random_problem(seed, 3, 5, counts=[2, 4, 9])
    result, columns = solved(network, problem)
    for stats, H in zip(result.statistics, columns[1:], strict=True):
        again = ClassStatistics.from_features(H.T, problem.labels)
        np.testing.assert_allclose(stats.means, again.means, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(stats.within, again.within, rtol=1e-9, atol=1e-14)
    last = result.solution.statistics
    np.testing.assert_allclose(result.statistics[-1].within, last.within, rtol=1e-12, atol=1e-16)


# ---- what the theorems say ----------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 5),
    d=st.integers(1, 7),
    n=st.integers(2, 5),
    graph=st.booleans(),
)
def test_variability_falls_from_level_to_level(seed, K, d, n, graph):
    """In the order of q / p, for certified minimizers and balanced classes."""
    rng = np.random.default_rng(seed)
    network = random_graph(rng) if graph else random_chain(rng)
    problem = random_problem(seed, K, d, n, spread=10 ** rng.uniform(-1, 1))
    result = levels.minimize(*network, problem.statistics)
    if not result.solution.certified:
        return
    p, q = result.weights
    order = np.argsort(q / np.maximum(p, 1e-300))
    values = [nc1_trace(problem.statistics), *(nc1_trace(result.statistics[l]) for l in order)]
    assert np.all(np.diff(values) < 0)


@pytest.mark.parametrize("decays", [[0, 0, 0, 0.05], [0.02] * 4, [0.5, 0.1, 0.3, 0.05]])
def test_the_profile_near_collapse(decays):
    """Isotropic within-class deviations of relative size 1e-5 around a frame; both metrics."""
    K, d, lambda_W, pulls = 3, 5, 0.08, [0.9, 2.0, 0.4, 1.1]
    model = levels.effective(lambda_W, decays, pulls)
    collapsed = model.collapsed(K, d)
    stats = ClassStatistics(np.full(K, 4), collapsed.means, 1e-10 * np.eye(d))
    result = levels.minimize(lambda_W, decays, pulls, stats)
    expected = levels.profile(lambda_W, decays, pulls, K, d)
    for metric, predicted in zip((nc1_trace, nc1), expected, strict=True):
        measured = [metric(s) / metric(stats) for s in result.statistics]
        np.testing.assert_allclose(measured, predicted, rtol=1e-8)


def test_grown_levels_follow_the_geometric_law():
    K, d, lambda_W, decay, pulls = 3, 5, 0.08, 0.05, [0.9, 0.9, 0.9]
    means = Model(lambda_W, decay).collapsed(K, d).means
    stats = ClassStatistics(np.full(K, 4), means, 1e-10 * np.eye(d))
    grown = levels.grow(lambda_W, [decay] * 3, pulls, stats)
    expected = levels.grown_profile(lambda_W, decay, pulls, K, d)
    for metric, predicted in zip((nc1_trace, nc1), expected, strict=True):
        measured = [metric(s.statistics) / metric(stats) for s in grown]
        np.testing.assert_allclose(measured, predicted, rtol=1e-8)
    assert np.ptp(np.diff(np.log(expected.nc1))) < 1e-14


@pytest.mark.parametrize("L", [2, 7, 40])
def test_the_rate_in_depth_of_equal_pulls(L):
    """Minimizers with uneven deviations within the classes, and the levels grown beside them."""
    lambda_W, decay, B, K, d = 0.03, 0.2, 1.7, 3, 4
    frame = Model(lambda_W, decay).collapsed(K, d).means
    within = 1e-10 * np.diag([5.0, 1, 0.2, 2])
    near = ClassStatistics(np.full(K, 4), frame, within)
    joint = levels.minimize(lambda_W, [*np.zeros(L - 1), decay], np.full(L, B), near)
    grown = levels.grow(lambda_W, np.full(L, decay), np.full(L, B), near)
    kappa = (decay / lambda_W) ** 0.5
    ends = joint.statistics[-1], grown[-1].statistics
    laws = (1 + L / B * kappa) ** -2, (1 + kappa / B) ** (-2 * L)
    for end, law in zip(ends, laws, strict=True):
        if law > 1e-12:
            assert nc1(end) / nc1(near) == pytest.approx(law, rel=1e-5)


def test_a_grown_level_is_a_level_of_its_own():
    problem = random_problem(3)
    first, second = levels.grow(0.02, [0.01, 0.2], [0.5, 3.0], problem.statistics)
    assert first.model == Model(0.02, 0.01, 0.5) and second.model == Model(0.02, 0.2, 3.0)
    again = one_level(second.model, first.statistics)
    np.testing.assert_array_equal(second.weights, again.weights)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), L=st.integers(2, 12))
def test_growing_contracts_at_least_as_much_as_joint_training(seed, L):
    """At equal sum of 1 / beta, decays on the last level only or the same at every grown level."""
    rng = np.random.default_rng(seed)
    pulls, decay, lambda_W = 10 ** rng.uniform(-2, 2, L), 0.05, 0.1
    joint = levels.profile(lambda_W, [*np.zeros(L - 1), decay], pulls, 3, 5)
    grown = levels.grown_profile(lambda_W, decay, pulls, 3, 5)
    flow = np.exp(-2 * np.sum(1 / pulls) * np.sqrt(decay / lambda_W))
    assert flow <= grown.nc1[-1] * (1 + 1e-12) and grown.nc1[-1] < joint.nc1[-1]
    assert grown.nc1_trace[-1] < joint.nc1_trace[-1]


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decays", "pulls", "complaint"),
    [
        ([0.1], [0.0], "greater than zero"),
        ([0.1], [], "greater than zero"),
        ([0.1], 0.5, r"must have shape \(1,\)"),
        ([0.1, 0.1], [1.0], "decays must have shape"),
        ([-0.1], [1.0], "must not be negative"),
        ([0.1], [np.nan], "pulls must be finite"),
        ([0.1], [[0, 1], [2, 0]], "symmetric"),
        ([0.1], [[1, 1], [1, 0]], "symmetric"),
        ([0.1], [[0, -1], [-1, 0]], "symmetric"),
        ([0.1], [[0, 1, 2]], "pulls must have shape"),
        ([0.1, 0.1], [[0, 0, 1], [0, 0, 0], [1, 0, 0]], "level 1 is not linked"),
    ],
)
def test_networks_that_make_no_sense_are_refused(decays, pulls, complaint):
    with pytest.raises(ValueError, match=complaint):
        levels.effective(0.1, decays, pulls)


def test_other_refusals():
    stats = random_problem(0).statistics
    with pytest.raises(ValueError, match="lambda_W must be greater"):
        levels.effective(0.0, [0.1], [1.0])
    with pytest.raises(ValueError, match="less than K"):
        levels.profile(0.1, [0.1], [1.0], 3, 2)
    with pytest.raises(ValueError, match="lambda_H must be greater"):
        levels.profile(0.1, [0.0], [1.0], 3, 5)
    with pytest.raises(ValueError, match="class 1 has no samples"):
        levels.minimize(
            0.1, [0.1], [1.0], ClassStatistics(np.array([1, 0]), np.ones((2, 2)), np.eye(2))
        )
    with pytest.raises(ValueError, match="pulls must have shape"):
        levels.grow(0.1, [0.1], [[0, 1], [1, 0]], stats)


def test_the_oracle_has_the_derivatives_of_the_objective():
    rng = np.random.default_rng(0)
    network = random_graph(rng, 3)
    assert isinstance(network, Network)
    W, H, Y = rng.normal(size=(2, 3)), rng.normal(size=(4, 3, 5)), one_hot([0, 1, 1, 0, 0], 2)
    _, gradient_W, gradients = objective(network, W, list(H), Y)
    dW, dH, t = rng.normal(size=W.shape), rng.normal(size=H.shape), 1e-5
    dH[0] = 0
    ends = [objective(network, W + s * dW, list(H + s * dH), Y)[0] for s in (t, -t)]
    slope = np.vdot(gradient_W, dW) + sum(
        np.vdot(g, z) for g, z in zip(gradients, dH[1:], strict=True)
    )
    assert (ends[0] - ends[1]) / (2 * t) == pytest.approx(slope, rel=1e-8)
