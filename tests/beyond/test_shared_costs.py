"""Blocks of two factors, free features and ReLU blocks against the full problem in all weights."""

from functools import partial

import numpy as np
import pytest
from scipy import optimize

from nclib import ClassStatistics, Model
from nclib.beyond import imbalance, shared
from nclib.workbench import random_frame
from tests.beyond.test_shared import decays, problem

LIMITS = {"gtol": 1e-10, "ftol": 1e-16, "maxiter": 4000, "maxfun": 8000}


def network(H0, Y, lambda_W, lambda_B, L, width, relu=False, lambda_H=None):
    """Objective and gradient in W, the factors A and B of each block, and H0 where it is free."""
    K, N = Y.shape
    d = len(H0)
    shapes = [(K, d)] + [(width, d), (d, width)] * L + ([(d, N)] if lambda_H is not None else [])
    splits = np.cumsum([m * n for m, n in shapes])

    def parts(x):
        pieces = np.split(x, splits[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def function(x):
        W, *rest = parts(x)
        H = [rest.pop() if lambda_H is not None else H0]
        hidden = []
        for A, B in zip(rest[::2], rest[1::2], strict=True):
            before = A @ H[-1]
            hidden.append((before, np.maximum(before, 0) if relu else before))
            H.append(H[-1] + B @ hidden[-1][1])
        E = (W @ H[-1] - Y) / N
        value = N * np.sum(E**2) / 2 + lambda_W / (2 * K) * np.sum(W**2)
        value += lambda_B / 2 * sum(np.sum(X**2) for X in rest)
        back, slopes = W.T @ E, []
        for l in range(L - 1, -1, -1):
            A, B = rest[2 * l], rest[2 * l + 1]
            inner = B.T @ back * ((hidden[l][0] > 0) if relu else 1)
            slopes += [back @ hidden[l][1].T + lambda_B * B, inner @ H[l].T + lambda_B * A]
            back = back + A.T @ inner
        slopes = [E @ H[-1].T + lambda_W / K * W, *slopes[::-1]]
        if lambda_H is not None:
            value += lambda_H / (2 * N) * np.sum(H[0] ** 2)
            slopes.append(back + lambda_H / N * H[0])
        return value, np.concatenate([s.ravel() for s in slopes])

    return function, parts, int(splits[-1])


def one_factor(lambda_W, lambda_H, lambda_B, Y, L, d):
    """The same with one matrix in each block and free features."""
    K, N = Y.shape

    def parts(x):
        ends = np.cumsum([K * d, d * N])
        W, H, B = np.split(x, ends)
        return W.reshape(K, d), H.reshape(d, N), B.reshape(L, d, d)

    def function(x):
        W, H0, B = parts(x)
        H = [H0]
        for block in B:
            H.append(H[-1] + block @ H[-1])
        E = (W @ H[-1] - Y) / N
        value = N * np.sum(E**2) / 2 + lambda_W / (2 * K) * np.sum(W**2)
        value += lambda_H / (2 * N) * np.sum(H0**2) + lambda_B / 2 * np.sum(B**2)
        back, slopes = W.T @ E, []
        for l in range(L - 1, -1, -1):
            slopes.append((back @ H[l].T + lambda_B * B[l]).ravel())
            back = back + B[l].T @ back
        head = [(E @ H[-1].T + lambda_W / K * W).ravel(), (back + lambda_H / N * H0).ravel()]
        return value, np.concatenate([*head, *slopes[::-1]])

    return function, parts


def lowest(function, starts):
    ends = [
        optimize.minimize(function, x, jac=True, method="L-BFGS-B", options=LIMITS) for x in starts
    ]
    return min(ends, key=lambda end: end.fun)


# ---- the costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("L", [1, 2, 5])
def test_the_costs_are_minima_over_the_stretch(L):
    rng, y = np.random.default_rng(L), np.linspace(0, 8, 200001)
    for _ in range(12):
        a, b, s = 10 ** rng.uniform(-1.5, 1.5, 3)
        model = Model(3 * a, 1.7)
        factored = partial(shared.factored_cost, 3 * a, b, 3, blocks=L)
        free = partial(shared.free_cost, model, b, 3, blocks=L)
        c = np.sqrt(3 * a * 1.7)
        paid = a * s**2 / 2 * np.exp(-2 * L * y) + b * L * np.expm1(y)
        assert factored(s).value == pytest.approx(paid.min(), rel=1e-6)
        paid = c * s / 3 * np.exp(-L * y) + b * L / 2 * np.expm1(y) ** 2
        assert free(s).value == pytest.approx(paid.min(), rel=1e-6)
        for cost in (factored, free):
            ends = [cost(s * (1 + h)).value for h in (1e-6, -1e-6)]
            assert (ends[0] - ends[1]) / (2e-6 * s) == pytest.approx(cost(s).slope, rel=1e-6)


@pytest.mark.parametrize("L", [1, 2, 6])
def test_two_factors_are_a_ridge_first_and_concave_afterwards(L):
    a, b = 0.7, 0.3
    end = np.sqrt(b / a)
    before, after = end * np.linspace(0, 1, 50), end * np.geomspace(1.001, 1e3, 200)
    dead = shared.factored_cost(3 * a, b, 3, before, L)
    np.testing.assert_allclose(dead.value, a / 2 * before**2, rtol=1e-14)
    assert np.all(dead.stretch == 1)
    alive = shared.factored_cost(3 * a, b, 3, after, L)
    bend = np.gradient(alive.slope, after)
    assert np.all(np.diff(alive.slope) < 0)
    assert bend.min() > -a * (2 * L - 1) / (2 * L + 1)
    assert bend[1] == pytest.approx(-a * (2 * L - 1) / (2 * L + 1), rel=0.2)


def test_free_features_cost_most_at_first_and_their_cost_is_concave():
    model, s = Model(0.4, 0.9), np.geomspace(1e-4, 1e3, 300)
    for L in (1, 2, 8):
        found = shared.free_cost(model, 0.2, 3, s, L)
        assert np.all(np.diff(found.slope) < 0)
        assert found.slope[0] == pytest.approx(0.6 / 3, rel=1e-3)
        bend = np.gradient(found.slope, s)
        assert bend.min() > -(0.6**2) * L / (9 * 0.2) * (1 + 1e-6)


# ---- two factors --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_the_gradient_in_both_factors_is_zero(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed) * [1, 0.2]
    L, d = 1 + seed % 3, H0.shape[1]
    stats = ClassStatistics.from_features(H0, labels)
    layers = shared.minimize(lambda_W, lambda_B, stats, L, factors=2)
    Y = np.eye(stats.K)[:, labels]
    values, axes = np.linalg.eigh(layers.maps[0])
    root = (axes * np.sqrt(np.maximum(values - 1, 0))) @ axes.T
    function, _, _ = network(H0.T, Y, lambda_W, lambda_B, L, d)
    x = np.concatenate([layers.weights.ravel(), *[root.ravel()] * (2 * L)])
    value, slope = function(x)
    assert value == pytest.approx(layers.objective, abs=1e-12)
    assert np.abs(slope).max() < 1e-7
    assert values.min() > 1 - 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_no_start_in_both_factors_ends_lower(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed) * [1, 0.2]
    L, d = 1 + seed % 2, H0.shape[1]
    stats = ClassStatistics.from_features(H0, labels)
    layers = shared.minimize(lambda_W, lambda_B, stats, L, factors=2)
    Y = np.eye(stats.K)[:, labels]
    function, parts, size = network(H0.T, Y, lambda_W, lambda_B, L, d)
    rng = np.random.default_rng(seed)
    best = lowest(function, [s * rng.standard_normal(size) for s in (0.1, 0.4, 0.8)])
    assert layers.objective == pytest.approx(best.fun, abs=1e-9)
    if layers.certified:
        _, *factors = parts(best.x)
        for A, B in zip(factors[::2], factors[1::2], strict=True):
            np.testing.assert_allclose(np.eye(d) + B @ A, layers.maps[0], atol=2e-4)


def test_the_condition_for_one_minimizer_with_two_factors():
    stats = ClassStatistics(np.array([2, 2]), np.eye(2), 0.1 * np.eye(2))
    least = 0.5 + 0.1
    for L in (1, 3):
        edge = least * 2 * (2 * L + 1) / (2 * L - 1)
        assert shared.minimize(0.99 * edge, 0.01, stats, L, factors=2).certified
        assert not shared.minimize(1.01 * edge, 0.01, stats, L, factors=2).certified
        assert not shared.minimize(1.01 * edge, 0.99, stats, L, factors=2).certified
        assert shared.minimize(1.01 * edge, 1.01, stats, L, factors=2).certified
    with pytest.raises(ValueError, match="factors must be 1 or 2, but factors = 3"):
        shared.minimize(1, 1, stats, factors=3)


def test_blocks_of_two_factors_die_with_much_decay_and_classes_do_not():
    stats = ClassStatistics(np.array([3, 3]), np.diag([1.0, 0.2]), np.zeros((2, 2)))
    layers = shared.minimize(0.1, 0.5, stats, 2, factors=2)
    np.testing.assert_allclose(layers.maps[0], np.eye(2), atol=1e-9)
    assert np.linalg.matrix_rank(layers.weights, tol=1e-2) == 2


# ---- ReLU on a frame ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_one_block_of_relu_units_costs_what_a_linear_one_does_on_a_frame(seed):
    rng = np.random.default_rng(seed)
    K, d, m = 2 + seed % 2, 3, 0.8
    lambda_W, lambda_B = 0.03, 0.001 * (1 + seed)
    H0 = m * random_frame(rng, d, K)
    stats = ClassStatistics(np.ones(K, dtype=int), H0, np.zeros((d, d)))
    linear = shared.minimize(lambda_W, lambda_B, stats, 1, factors=2)
    function, _, size = network(H0, np.eye(K), lambda_W, lambda_B, 1, 2 * K, relu=True)
    starts = [s * rng.standard_normal(size) for s in np.geomspace(0.2, 1, 8)]
    best = lowest(function, starts)
    assert linear.certified and np.linalg.eigvalsh(linear.maps[0])[-1] > 1.05
    assert linear.objective - 1e-9 < best.fun < linear.objective + 1e-4


# ---- free features ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(9))
def test_free_features_behind_blocks_against_all_variables(seed):
    rng = np.random.default_rng(seed)
    K, L = 2 + seed % 3, 1 + seed % 3
    counts = rng.integers(1, 4, K)
    d, labels = K + seed % 2, np.repeat(np.arange(K), counts)
    model, lambda_B = Model(*10 ** rng.uniform(-1.5, -0.2, 2)), 10 ** rng.uniform(-1.5, 0)
    z = shared.free_scores(model, lambda_B, counts, L)
    m = counts * K / len(labels)
    paid = shared.free_cost(model, lambda_B, K, np.sqrt(m) * z, L).value
    value = np.sum(m * (z - 1) ** 2) / (2 * K) + paid.sum()
    Y = np.eye(K)[:, labels]
    function, parts = one_factor(model.lambda_W, model.lambda_H, lambda_B, Y, L, d)
    size = K * d + d * len(labels) + L * d * d
    starts = [s * rng.standard_normal(size) for s in (0.2, 0.5, 1.0)]
    best = lowest(function, starts)
    assert value == pytest.approx(best.fun, abs=1e-9)
    W, H0, B = parts(best.x)
    for block in B:
        H0 = H0 + block @ H0
    expected = np.diag(z)[:, labels]
    np.testing.assert_allclose(W @ H0, expected, atol=2e-3)
    for k in range(K):
        assert np.ptp(H0[:, labels == k], axis=1).max() < 1e-3


def test_death_is_where_it_is_without_blocks_if_the_decay_of_the_blocks_is_large():
    """c^2 L < K lambda_B: continuous and at m_k = c^2; above, a jump and later."""
    model, K, L = Model(0.8, 0.6), 2, 3
    c2 = 0.48
    for factor, continuous in ((1.05, True), (0.3, False)):
        lambda_B = factor * c2 * L / K
        shares = c2 * np.array([1 - 1e-3, 1 + 1e-3]) / 2
        counts = [np.array([round(1e6 * x), 10**6 - round(1e6 * x)]) for x in shares]
        z = [shared.free_scores(model, lambda_B, n, L)[0] for n in counts]
        assert (z[0] == 0) == continuous
        assert (0 < z[1] < 0.05) if continuous else z[1] > 0.2
    stiff = shared.free_scores(model, 1e9, [50, 10, 70], 2)
    np.testing.assert_allclose(stiff, imbalance.scores(model, [50, 10, 70]), atol=1e-6)


def test_where_death_is_a_jump_the_better_of_both_is_taken():
    model, lambda_B, L = Model(0.8, 0.6), 0.02, 3
    found = []
    for share in np.linspace(0.05, 0.3, 60):
        n = np.array([round(1e4 * share), round(1e4 * (1 - share))])
        z = shared.free_scores(model, lambda_B, n, L)[0]
        m = 2 * n[0] / n.sum()
        grid = np.linspace(0, 1.5, 4001)
        paid = shared.free_cost(model, lambda_B, 2, np.sqrt(m) * grid, L).value
        values = m * (grid - 1) ** 2 / 4 + paid
        assert z == pytest.approx(grid[np.argmin(values)], abs=1e-3)
        found.append(z)
    assert found[0] == 0 and min(z for z in found if z) > 0.3


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: shared.factored_cost(1, 1, 2, [-1.0]), "singular_values must not be negative"),
        (lambda: shared.factored_cost(1, 0, 2, [1.0]), "lambda_B must be greater than zero"),
        (lambda: shared.free_cost(Model(1, 1, 1), 1, 2, [1.0]), "beta must be zero, but beta = 1"),
        (lambda: shared.free_cost(Model(1, 1), 1, 2, [-1.0]), "singular_values must not be neg"),
        (lambda: shared.free_cost(Model(1, 0, 0), 1, 2, [1.0]), "lambda_H must be greater"),
        (lambda: shared.free_scores(Model(1, 1), 1, [3, 0]), "counts must be positive"),
        (lambda: shared.free_scores(Model(1, 1), 1, [3, 1], 0), "blocks must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
