"""Layers with shared weights against the full problem in all variables, and their theorems."""

import numpy as np
import pytest
import torch
from scipy import optimize

from nclib import ClassStatistics, Model, nc1, nc1_trace
from nclib import minimize as one_level
from nclib.beyond import shared
from nclib.workbench import random_features, random_frame, with_statistics
from tests.beyond import oracle_shared as oracle

KINDS = ("random", "one sample", "equal means", "low rank", "dead units", "unequal")


def problem(seed):
    """Features (N, d) and labels: K = 2 to 6, d below and above K, random and degenerate kinds."""
    rng = np.random.default_rng(seed)
    kind, K = KINDS[seed % len(KINDS)], 2 + seed % 5
    d = int(rng.integers(1, 5))
    counts = rng.integers(1, 5, K) if kind == "unequal" else 1 if kind == "one sample" else 3
    labels = np.repeat(np.arange(K), counts)
    H0 = random_features(rng, labels, d, spread=0.5)
    if kind == "equal means":
        H0 -= np.stack([H0[labels == k].mean(axis=0) for k in range(K)])[labels]
        H0 += np.where(labels[:, None] < 2, 0, 1.0)
    if kind == "low rank":
        H0 = H0[:, :1] @ rng.standard_normal((1, d))
    if kind == "dead units":
        H0[:, 0] = 0
    return H0, labels


def ratio_of(E, K_, lambda_W, lambda_H):
    """Left side of the certificate with a kernel over its right side, by a dense inverse."""
    middle = K_ @ np.linalg.inv(np.eye(len(K_)) + lambda_H * K_)
    return np.linalg.norm(E @ middle @ E.T, 2) / len(K_) / (lambda_W / len(E))


def decays(seed):
    return 10 ** np.random.default_rng(1000 + seed).uniform(-2.5, 0, 2)


# ---- the cost of a singular value ---------------------------------------------------------------


@pytest.mark.parametrize("L", [1, 2, 3, 8, 40])
def test_the_cost_is_the_minimum_over_the_stretch(L):
    rng = np.random.default_rng(L)
    for _ in range(10):
        a, b, s = 10 ** rng.uniform(-2, 2, 3)
        found = shared.cost(3 * a, b, 3, s, L)
        value = optimize.minimize_scalar(
            lambda y, a=a, b=b, s=s: (
                a * s**2 / 2 * np.exp(-2 * L * y) + b * L / 2 * np.expm1(y) ** 2
            ),
            bounds=(0, 10),
            method="bounded",
            options={"xatol": 1e-12},
        ).fun
        assert found.value == pytest.approx(value, rel=1e-10)
        u = found.stretch
        assert b * (u - 1) * u ** (2 * L + 1) == pytest.approx(a * s**2, rel=1e-10)
        step = 1e-5 * s
        ends = [shared.cost(3 * a, b, 3, s + h, L).value for h in (step, -step)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found.slope, rel=1e-7)


@pytest.mark.parametrize("L", [1, 300, 10**5])
def test_the_stretch_solves_its_equation_from_no_blocks_to_very_many(L):
    s = np.concatenate([[0.0], np.geomspace(1e-150, 1e100, 26)])
    found = shared.cost(2.0, 0.7, 2, s, L)
    u = found.stretch[1:]
    assert found.stretch[0] == 1 and found.value[0] == 0 and np.all(np.isfinite(found.value))
    assert np.all(np.diff(found.value) > 0)
    u, s = u[u - 1 > 1e-6], s[1:][u - 1 > 1e-6]
    equation = np.log(0.7 * (u - 1)) + (2 * L + 1) * np.log(u) - 2 * np.log(s)
    assert len(u) > 10 and np.abs(equation).max() < 1e-8


def test_the_cost_lies_between_ridge_and_nuclear_norm():
    s = np.geomspace(1e-3, 1e3, 13)
    stiff = shared.cost(2.0, 1e12, 2, s).value
    np.testing.assert_allclose(stiff, s**2 / 2, rtol=1e-5)
    loose = shared.cost(2.0, 1e-20, 2, s).value
    np.testing.assert_allclose(loose, 1e-10 * s, rtol=1e-3)
    assert np.all(shared.cost(2.0, 0.3, 2, s).value < np.minimum(s**2 / 2, 0.3**0.5 * s))


@pytest.mark.parametrize("L", [2, 3, 4, 8, 16, 64])
def test_the_cost_bends_down_after_a_stretch_and_by_no_more_than_a_bound(L):
    v = np.geomspace(1e-3, 3, 4001)
    u = 1 + v
    s = np.sqrt(v * u ** (2 * L + 1))
    bend = np.gradient(s / u ** (2 * L), s)
    at = u[1:-1][np.diff(np.sign(bend[1:]))[: len(u) - 2] != 0][0]
    assert at == pytest.approx(shared.convex_up_to(L), rel=3e-3)
    assert -bend.min() == pytest.approx(shared.concavity(L), rel=1e-4)
    assert shared.concavity(L) < (2 - 3**0.5) * np.exp(-(3**0.5))
    assert shared.convex_up_to(1) == np.inf and shared.concavity(1) == 0


# ---- residual blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(18))
def test_the_gradient_in_all_variables_is_zero(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    X, Y = torch.tensor(H0.T), torch.tensor(oracle.one_hot(labels))
    stats = ClassStatistics.from_features(H0, labels)
    for skip, solve in ((True, shared.minimize), (False, shared.plain)):
        layers = solve(lambda_W, lambda_B, stats, 1 + seed % 3)
        value, found = oracle.gradients(
            lambda W, A, skip=skip: oracle.layers_objective(lambda_W, lambda_B, W, A, X, Y, skip),
            layers.weights,
            np.stack(layers.maps),
        )
        assert max(np.abs(g).max() for g in found) < 1e-10
        assert layers.objective == pytest.approx(value, abs=1e-12)
        H = H0
        for A, level in zip(layers.maps, layers.statistics, strict=True):
            H = H @ A.T
            direct = ClassStatistics.from_features(H, labels)
            np.testing.assert_allclose(level.means, direct.means, atol=1e-12)
            np.testing.assert_allclose(level.within, direct.within, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_no_start_in_all_variables_ends_lower(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    X, Y = torch.tensor(H0.T), torch.tensor(oracle.one_hot(labels))
    d, L = H0.shape[1], 1 + seed % 2
    stats = ClassStatistics.from_features(H0, labels)
    for skip, solve in ((True, shared.minimize), (False, shared.plain)):
        layers = solve(lambda_W, lambda_B, stats, L)
        best = oracle.lowest(
            lambda W, A, skip=skip: oracle.layers_objective(lambda_W, lambda_B, W, A, X, Y, skip),
            [(len(Y), d), (L, d, d)],
            starts=2,
            centers=[np.zeros((len(Y), d)), np.stack([skip * np.eye(d)] * L)],
        )
        assert layers.objective == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_blocks_obey_the_balance_and_stretch_no_direction_less_than_one(seed):
    H0, labels = problem(seed)
    stats = ClassStatistics.from_features(H0, labels)
    for L in (1, 3):
        layers = shared.minimize(*decays(seed), stats, L)
        B = shared.balance(*decays(seed), layers.weights)
        np.testing.assert_allclose(layers.maps[0] - np.eye(len(B)), B, atol=1e-9)
        assert np.linalg.eigvalsh(layers.maps[0])[0] > 1 - 1e-12
        traces = [np.trace(s.within) for s in (stats, *layers.statistics)]
        assert np.all(np.diff(traces) >= -1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_balance_with_decay_of_the_features_holds_at_every_stationary_point(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    lambda_H, d = 0.05, H0.shape[1]
    X, Y = torch.tensor(H0.T), torch.tensor(oracle.one_hot(labels))
    K, N = Y.shape

    def function(W, A):
        return (
            oracle.layers_objective(lambda_W, lambda_B, W, A, X, Y)
            + lambda_H / (2 * N) * ((A[0] @ X) ** 2).sum()
        )

    def flat(x):
        value, found = oracle.gradients(
            function, x[: K * d].reshape(K, d), x[K * d :].reshape(1, d, d)
        )
        return value, np.concatenate([g.ravel() for g in found])

    start = np.random.default_rng(seed).standard_normal(K * d + d * d) * 0.3
    start[K * d :] += np.eye(d).ravel()
    x = optimize.minimize(flat, start, jac=True, options={"gtol": 1e-11, "maxiter": 3000}).x
    W, A = x[: K * d].reshape(K, d), x[K * d :].reshape(d, d)
    moment = A @ H0.T @ H0 @ A.T / N
    B = A - np.eye(d)
    right = lambda_W / K * W.T @ W - lambda_H * moment
    np.testing.assert_allclose(lambda_B * (B + B @ B), right, atol=1e-6)
    if np.linalg.eigvalsh(B)[0] > -0.5:
        found = shared.balance(lambda_W, lambda_B, W, lambda_H, moment)
        np.testing.assert_allclose(found, B, atol=1e-5)


def test_a_condition_on_the_input_makes_the_minimizer_of_many_blocks_unique():
    rng = np.random.default_rng(0)
    H0, labels = random_features(rng, np.repeat(np.arange(3), 4), 3), np.repeat(np.arange(3), 4)
    stats = ClassStatistics.from_features(H0, labels)
    layers = shared.minimize(0.5, 1e-4, stats, 4)
    u = np.linalg.eigvalsh(layers.maps[0])[-1]
    assert layers.certified and u > shared.convex_up_to(4)
    assert not shared.minimize(1e3, 1e-4, stats, 4).certified
    assert shared.minimize(1e3, 1e4, stats, 4).certified


@pytest.mark.parametrize("factors", [1, 2])
def test_the_certificate_of_many_blocks_ends_where_its_two_conditions_do(factors):
    L, K, m = 4, 3, np.array([1.0, 0.8, 0.6])
    stats = ClassStatistics(np.full(K, 2), np.diag(m), np.zeros((K, K)))
    bend = shared.concavity(L) if factors == 1 else (2 * L - 1) / (2 * L + 1)
    edge = K * (0.6**2 / K) / bend  # lambda_W at which lambda_+ is the bend times lambda_W / K
    for part, certified in ((0.99, True), (1.01, False)):
        assert shared.minimize(part * edge, 1e-2, stats, L, factors).certified == certified
    # Or the value 1/2 of C = 0 lies below the cost where the concave part begins.
    if factors == 1:
        u = shared.convex_up_to(L)
        begins = u * (u - 1) / 2 + L * (u - 1) ** 2 / 2
    else:
        begins = 0.5
    for part, certified in ((0.99, False), (1.01, True)):
        found = shared.minimize(2 * edge, part * 0.5 / begins, stats, L, factors)
        assert found.certified == certified


def test_variability_may_rise_where_the_paper_says_it_falls():
    """Means (3, 0) and (0, 0.3): the layer stretches the short one, and the noise lies there."""
    means, within = np.diag([3.0, 0.3]), np.diag([0, 0.01])
    layers = shared.minimize(0.01, 0.01, ClassStatistics(np.array([2, 2]), means, within))
    before, after = (
        nc1_trace(ClassStatistics(np.array([2, 2]), means, within)),
        nc1_trace(layers.statistics[0]),
    )
    assert layers.certified and before < 0.0045 and after > 0.011


@pytest.mark.parametrize("seed", range(20))
def test_variability_falls_for_two_opposite_means(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 6))
    h, root = rng.standard_normal(d), rng.standard_normal((d, d))
    stats = ClassStatistics(np.array([3, 3]), np.stack([h, -h], 1), root @ root.T)
    layers = shared.minimize(*decays(seed), stats, 1 + seed % 3)
    ratios = [nc1_trace(s) for s in (stats, *layers.statistics)]
    assert np.all(np.diff(ratios) < 1e-12 * ratios[0])


@pytest.mark.parametrize("L", [1, 2, 5])
def test_on_a_frame_the_layers_equalize_and_keep_nc1(L):
    rng = np.random.default_rng(L)
    K, d, spread = 3, 5, 0.2
    Q = random_frame(rng, d, K)
    stats = ClassStatistics(np.full(K, 4), 2 * Q, spread**2 * np.eye(d))
    layers = shared.minimize(0.05, 0.01, stats, L)
    u, last = np.linalg.eigvalsh(layers.maps[0])[-1], layers.statistics[-1]
    np.testing.assert_allclose(layers.maps[0], np.eye(d) + (u - 1) * Q @ Q.T, atol=1e-9)
    assert nc1(last) == pytest.approx(nc1(stats), rel=1e-9)
    factor = (K / d * u ** (2 * L) + 1 - K / d) / u ** (2 * L)
    assert nc1_trace(last) / nc1_trace(stats) == pytest.approx(factor, rel=1e-9)


# ---- plain blocks -------------------------------------------------------------------------------


def test_a_plain_layer_lets_classes_die_and_a_residual_one_does_not():
    means = np.diag([1.0, 0.05])
    stats = ClassStatistics(np.array([2, 2]), means, np.zeros((2, 2)))
    lambda_W, lambda_B = 0.1, 0.1
    plain, residual = (f(lambda_W, lambda_B, stats) for f in (shared.plain, shared.minimize))
    # The derivative of the loss at zero is half the mean; the slope of the cost is the threshold.
    assert 0.05 / 2 < np.sqrt(lambda_W / 2 * lambda_B) < 1 / 2
    assert plain.certified and np.abs(plain.effective[1]).max() < 1e-8
    assert residual.effective[1, 1] > 0.1


@pytest.mark.parametrize("pull, certified", [(0.99, True), (1.01, False), (1.9, False)])
def test_zero_is_certified_in_a_plain_layer_up_to_the_slope_of_the_cost(
    monkeypatch, pull, certified
):
    stats = ClassStatistics(np.array([2, 2]), np.diag([1.0, 0.5]), np.zeros((2, 2)))
    slope = 0.5 / pull  # of the cost, where the loss pulls at C = 0 with 1/2
    monkeypatch.setattr(
        shared, "descend", lambda f, x: shared.Bottom(0 * x, f(0 * x).value, gradient_norm=0.0)
    )
    found = shared.plain(2 * slope, slope, stats)
    assert not found.effective.any() and found.certified == certified


def test_only_the_product_of_decays_counts_in_plain_layers():
    H0, labels = problem(6)
    stats = ClassStatistics.from_features(H0, labels)
    one = shared.plain(0.02, 0.04, stats, 2)
    other = shared.plain(0.02 * 4, 0.04 / 2, stats, 2)
    np.testing.assert_allclose(one.effective, other.effective, atol=1e-8)
    assert one.objective == pytest.approx(other.objective, rel=1e-10)


# ---- both links ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_the_gradient_with_both_links_is_zero_in_all_variables(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    model = Model(lambda_W, 0.05 * (seed % 3), 0.4 + seed % 2)
    X, Y = torch.tensor(H0.T), torch.tensor(oracle.one_hot(labels))
    stats = ClassStatistics.from_features(H0, labels)
    found = shared.linked(model, lambda_B, stats)
    deviations = H0.T - stats.means[:, labels]
    H = found.statistics.means[:, labels] + found.within @ deviations
    value, slopes = oracle.gradients(
        lambda W, A, H: oracle.linked_objective(model, lambda_B, W, A, H, X, Y),
        found.weights,
        found.block,
        H,
    )
    assert max(np.abs(g).max() for g in slopes) < 1e-10
    assert found.objective == pytest.approx(value, abs=1e-12)
    kernel = H0 @ H0.T / (len(H0) * lambda_B) + np.eye(len(H0)) / model.beta
    E = found.weights @ H - oracle.one_hot(labels)
    expected = ratio_of(E, kernel, lambda_W, model.lambda_H)
    assert found.ratio == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_each_link_alone_is_a_limit_of_both(seed):
    H0, labels = problem(seed)
    stats = ClassStatistics.from_features(H0, labels)
    lambda_W, lambda_B = decays(seed)
    model = Model(lambda_W, 0.1, 3.0)
    stiff = shared.linked(model, 1e9, stats)
    alone = one_level(model, stats)
    assert stiff.objective == pytest.approx(alone.objective, rel=1e-7)
    pulled = shared.linked(Model(lambda_W, 0.0, 1e8), lambda_B, stats)
    layer = shared.minimize(lambda_W, lambda_B, stats)
    assert pulled.objective == pytest.approx(layer.objective, rel=1e-6)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_spread_in_the_rows_of_the_weights_turns_at_a_threshold_of_the_pull(factor):
    """beta < K lambda_B / lambda_W: it shrinks; above, it grows."""
    rng, K, lambda_W, lambda_B = np.random.default_rng(3), 3, 0.03, 2e3
    samples = with_statistics(rng.standard_normal((5, K)), 0.3 * np.eye(5), 8, rng)
    stats = ClassStatistics.from_features(*samples)
    beta = factor * K * lambda_B / lambda_W
    found = shared.linked(Model(lambda_W, 0.0, beta), lambda_B, stats)
    W = found.weights
    change = np.trace(W @ (found.statistics.within - stats.within) @ W.T)
    assert found.certified and np.sign(change) == (1 if factor > 1 else -1)
    first = 2 * (lambda_W / K - lambda_B / beta) / lambda_B
    square = np.trace(W @ W.T @ W @ stats.within @ W.T)
    assert change == pytest.approx(first * square, rel=1e-3)


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda s: shared.minimize(0, 1, s), "lambda_W must be greater than zero"),
        (lambda s: shared.minimize(1, -1, s), "lambda_B must be greater than zero"),
        (lambda s: shared.minimize(1, 1, s, 0), "blocks must be at least 1"),
        (lambda s: shared.plain(1, 1, s, 0), "blocks must be at least 1"),
        (lambda s: shared.cost(1, 1, 2, -1.0), "singular_values must not be negative"),
        (lambda s: shared.linked(Model(1, 1, 0), 1, s), "beta must be greater than zero"),
        (lambda s: shared.balance(1, 1, np.eye(2), 0.1), "second_moment must be given"),
        (lambda s: shared.balance(1, 1, 0 * np.eye(2), 1, np.eye(2)), "no symmetric B"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    stats = ClassStatistics(np.array([2, 2]), np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match=sentence):
        call(stats)
