"""The model with a kernel against the full problem, the links it contains, and theorems."""

import numpy as np
import pytest
import torch
from scipy import optimize

from nclib import ClassStatistics, Model
from nclib import minimize as one_level
from nclib.beyond import kernel, shared
from nclib.workbench import random_features, slope
from tests.beyond import oracle_shared as oracle
from tests.beyond.test_shared import decays, problem, ratio_of


def random_kernel(seed, N):
    """Positive definite, or of low rank every third time."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((2 if seed % 3 == 0 else N + 1, N))
    return 10 ** rng.uniform(-1, 1) * X.T @ X / N


# ---- minimizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(18))
@pytest.mark.parametrize("lambda_H", [0.0, 0.2])
def test_features_change_by_the_smoothed_gradient_and_the_weights_are_stationary(seed, lambda_H):
    H0, labels = problem(seed)
    lambda_W = decays(seed)[0]
    K_ = random_kernel(seed, len(H0))
    found = kernel.minimize(lambda_W, K_, H0, labels, lambda_H)
    W, H, Y = found.weights, found.features.T, oracle.one_hot(labels)
    E = W @ H - Y
    g = W.T @ E + lambda_H * H
    np.testing.assert_allclose(H - H0.T, -g @ K_, atol=1e-10)
    np.testing.assert_allclose(E @ H.T / len(H0) + lambda_W / len(Y) * W, 0, atol=1e-10)
    assert found.ratio == pytest.approx(ratio_of(E, K_, lambda_W, lambda_H), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 4, 7])
def test_no_start_in_all_variables_ends_lower(seed):
    H0, labels = problem(seed)
    lambda_W = decays(seed)[0]
    Y, K_ = oracle.one_hot(labels), random_kernel(seed, len(H0))
    X, T, M = torch.tensor(H0.T), torch.tensor(Y), torch.tensor(K_)
    found = kernel.minimize(lambda_W, K_, H0, labels, 0.1)
    value, slopes = oracle.gradients(
        lambda W, H: oracle.kernel_objective(lambda_W, 0.1, M, W, H, X, T),
        found.weights,
        found.features.T,
    )
    assert found.objective == pytest.approx(value, abs=1e-10)
    assert max(np.abs(s).max() for s in slopes) < 1e-8
    best = oracle.lowest(
        lambda W, H: oracle.kernel_objective(lambda_W, 0.1, M, W, H, X, T),
        [(len(Y), H0.shape[1]), X.shape],
        starts=5,
        seed=seed,
    )
    assert found.objective == pytest.approx(best, abs=1e-9)


def test_given_weights_the_features_are_kernel_ridge_regression():
    rng = np.random.default_rng(0)
    H0, labels = problem(1)
    Y, K_ = oracle.one_hot(labels), random_kernel(1, len(H0))
    W = rng.standard_normal((len(Y), H0.shape[1]))
    H = kernel.optimal_features(W, K_, H0, labels).T
    # One linear system for all entries of E: E + W W' E K = W H0 - Y.
    N = len(H0)
    system = np.eye(len(Y) * N) + np.kron(W @ W.T, K_)
    E = np.linalg.solve(system, (W @ H0.T - Y).ravel()).reshape(len(Y), N)
    np.testing.assert_allclose(W @ H - Y, E, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_the_links_of_the_book_are_kernels(seed):
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    N, stats = len(H0), ClassStatistics.from_features(H0, labels)
    layer = shared.minimize(lambda_W, lambda_B, stats)
    same = kernel.minimize(lambda_W, kernel.linear(H0, lambda_B), H0, labels)
    np.testing.assert_allclose(same.objective, layer.objective, atol=1e-11)
    pull = one_level(Model(lambda_W, 0.1, 0.7), stats)
    same = kernel.minimize(lambda_W, np.eye(N) / 0.7, H0, labels, 0.1)
    np.testing.assert_allclose(same.objective, pull.objective, atol=1e-11)
    plain = shared.plain(lambda_W, lambda_B, stats)
    same = kernel.minimize(lambda_W, kernel.linear(H0, lambda_B), 0 * H0, labels)
    np.testing.assert_allclose(same.objective, plain.objective, atol=1e-11)


@pytest.mark.parametrize("seed", range(6))
def test_links_that_act_together_add_their_kernels(seed):
    """The value, and the certificate from class statistics alone, are those of the sum."""
    H0, labels = problem(seed)
    lambda_W, lambda_B = decays(seed)
    model = Model(lambda_W, 0.05 * (seed % 2), 0.5)
    stats = ClassStatistics.from_features(H0, labels)
    both = shared.linked(model, lambda_B, stats)
    total = kernel.linear(H0, lambda_B) + np.eye(len(H0)) / model.beta
    same = kernel.minimize(lambda_W, total, H0, labels, model.lambda_H)
    np.testing.assert_allclose(same.objective, both.objective, atol=1e-11)
    assert both.ratio == pytest.approx(same.ratio, rel=1e-6)
    H = kernel.optimal_features(both.weights, total, H0, labels, model.lambda_H)
    direct = ClassStatistics.from_features(H, labels)
    np.testing.assert_allclose(direct.means, both.statistics.means, atol=1e-9)
    np.testing.assert_allclose(direct.within, both.statistics.within, atol=1e-9)


# ---- the certificate ----------------------------------------------------------------------------


def stationary_points(lambda_W, K_, H0, labels, lambda_H, starts):
    """Value and ratio where BFGS ends from random weights."""
    found = kernel._Problem.of(lambda_W, K_, H0, labels, lambda_H)
    rng = np.random.default_rng(0)
    shape = (len(found.Y), H0.shape[1])
    for size in np.geomspace(0.1, 20, starts):
        end = optimize.minimize(
            lambda x: found.function(x)[:2],
            size * rng.standard_normal(np.prod(shape)),
            jac=True,
            options={"gtol": 1e-10},
        )
        yield end.fun, found.ratio(end.x)


def test_certified_points_are_never_beaten_and_others_are():
    certified = beaten = 0
    for seed in range(12):
        H0, labels = problem(seed)
        lambda_W = decays(seed)[0]
        K_ = random_kernel(seed + 50, len(H0))
        ends = list(stationary_points(lambda_W, K_, H0, labels, 0.1 * (seed % 2), 6))
        least = min(value for value, _ in ends)
        for value, ratio in ends:
            certified += ratio <= 1
            beaten += value > least + 1e-7
            assert ratio > 1 - 1e-6 or value < least + 1e-9
    assert certified > 10 and beaten > 0


def test_a_kernel_below_the_decay_of_the_weights_has_one_stationary_point():
    for seed in range(4):
        rng, labels = np.random.default_rng(seed), np.repeat(np.arange(3), 3)
        H0 = random_features(rng, labels, 4)
        K_ = random_kernel(seed + 1, 9)
        lambda_W = 1.01 * np.linalg.eigvalsh(K_)[-1]
        ends = list(stationary_points(lambda_W, K_, H0, labels, 0.0, 5))
        assert all(ratio < 1 for _, ratio in ends)
        assert np.ptp([value for value, _ in ends]) < 1e-9


# ---- kernels ------------------------------------------------------------------------------------


def test_the_relu_kernel_is_the_mean_over_random_directions():
    rng = np.random.default_rng(0)
    H0 = rng.standard_normal((5, 2))
    angles = np.linspace(0, 2 * np.pi, 20001)[:-1]
    units = np.stack([np.cos(angles), np.sin(angles)])
    # In two dimensions: a uniform direction, and a length with mean square two.
    hidden = np.maximum(H0 @ units, 0)
    mean = 2 * hidden @ hidden.T / len(angles)
    np.testing.assert_allclose(kernel.relu(H0, 0.7), mean / (5 * 0.7), atol=1e-7)
    twice = kernel.relu(np.vstack([H0, H0[:1], -H0[:1]]), 1.0)
    assert twice[0, 5] == pytest.approx(H0[0] @ H0[0] / 14, rel=1e-12)
    assert abs(twice[0, 6]) < 1e-12


@pytest.mark.parametrize("make", [kernel.linear, kernel.relu, lambda h, b: np.eye(len(h)) / b])
def test_rates_of_the_spread_are_the_limit_of_a_weak_link(make):
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(3), 4)
    H0 = random_features(rng, labels, 5)
    before = ClassStatistics.from_features(H0, labels).within
    strengths, errors = np.logspace(1, 4, 7), []
    for strength in strengths:
        K_ = make(H0, strength)
        rates = kernel.spread_rates(0.3, K_, H0, labels)
        found = kernel.minimize(0.3, K_, H0, labels)
        after = ClassStatistics.from_features(found.features, labels).within
        change = np.trace(after) / np.trace(before) - 1
        rows = np.linalg.qr(found.weights.T)[0]
        inside = np.trace(rows.T @ after @ rows) / np.trace(rows.T @ before @ rows) - 1
        errors.append((abs(change - rates.all), abs(inside - rates.rows)))
    assert slope(strengths, [e[0] for e in errors]) == pytest.approx(-2, abs=0.15)
    assert errors[-1][1] < 1e-2 * abs(rates.rows)


def test_centered_means_leave_the_weights_fewer_rows_than_classes():
    """Two classes with opposite means: W has one row direction, and not two."""
    labels = np.repeat([0, 1], 5)
    H0 = random_features(np.random.default_rng(3), labels, 4)
    H0 -= H0.mean(axis=0)
    K_ = random_kernel(1, 10)
    Y = np.eye(2)[labels]
    W = np.linalg.solve(H0.T @ H0 / 10 + 0.05 * np.eye(4), H0.T @ Y / 10).T
    np.testing.assert_allclose(W[0], -W[1], atol=1e-12)
    row = W[0] / np.linalg.norm(W[0])
    change = -K_ @ (H0 @ W.T - Y) @ W @ row
    inside = H0 @ row - Y @ (Y.T @ H0 @ row) / 5
    expected = 2 * np.sum(inside * change) / np.sum(inside**2)
    assert kernel.spread_rates(0.1, K_, H0, labels).rows == pytest.approx(expected, rel=1e-9)


def test_a_linear_link_widens_and_a_pull_contracts_to_first_order():
    """Linear: the sum is 2 lambda_W / (K lambda_B) tr W Sigma_W W^T, whatever the data."""
    for seed in range(6):
        H0, labels = problem(seed)
        lambda_W, lambda_B = decays(seed)
        stats = ClassStatistics.from_features(H0, labels)
        if np.trace(stats.within) < 1e-12:
            continue
        moment = stats.within + (stats.means * stats.counts / stats.N) @ stats.means.T
        cross = (stats.means * stats.counts / stats.N).T
        W = np.linalg.solve(moment + lambda_W / stats.K * np.eye(stats.d), cross.T).T
        law = 2 * lambda_W / (stats.K * lambda_B) * np.trace(W @ stats.within @ W.T)
        found = kernel.spread_rates(lambda_W, kernel.linear(H0, lambda_B), H0, labels)
        assert found.all == pytest.approx(law / np.trace(stats.within), rel=1e-8, abs=1e-14)
        pulled = kernel.spread_rates(lambda_W, np.eye(len(H0)), H0, labels)
        assert pulled.all <= 1e-12


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix, sentence",
    [
        (np.eye(3), "kernel must have shape"),
        (np.array([[1.0, 2], [0, 1]]), "kernel must be symmetric"),
        (-np.eye(2), "kernel must have no negative eigenvalue"),
    ],
)
def test_what_is_no_kernel_is_refused(matrix, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernel.minimize(0.1, matrix, np.eye(2), [0, 1])


def test_where_there_is_no_spread_there_is_no_rate():
    """Neither a warning nor a number made of rounding errors."""
    rng = np.random.default_rng(8)
    means, labels = rng.standard_normal((3, 5)), np.repeat([0, 1, 2], 4)
    H0 = means[labels]
    rates = kernel.spread_rates(0.2, kernel.relu(H0, 0.1), H0, labels)
    assert np.isnan(rates.all) and np.isnan(rates.rows)
    # Spread orthogonal to all means, and so to the rows of W.
    wide = np.hstack([H0, np.tile([1.0, 1.0, -1.0, -1.0], 3)[:, None]])
    rates = kernel.spread_rates(0.2, kernel.linear(wide, 0.1), wide, labels)
    assert np.isfinite(rates.all) and np.isnan(rates.rows)
