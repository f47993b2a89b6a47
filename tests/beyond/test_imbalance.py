"""Unequal classes against gradients, certificates, dense responses and a plain optimizer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from scipy.optimize import minimize as scipy_minimize

from nclib import ClassStatistics, Model, Status, minimize, nc1_trace
from nclib.beyond import cross_entropy, imbalance
from tests.beyond import oracle_cross_entropy as oracle
from tests.beyond.oracle_cross_entropy import Variables
from tests.foundations.oracle_model import one_hot
from tests.perturbation.oracle_response import dense_response

SIZES = [[3, 3, 3], [6, 3, 1], [1, 1, 9], [9, 9, 1, 1], [2, 1], [1, 1000], [5]]
sizes = pytest.mark.parametrize("counts", SIZES, ids=str)


def repeated(means, counts):
    """Features (N, d) without spread, and labels."""
    y = np.repeat(np.arange(len(counts)), counts)
    return means.T[y], y


# ---- several linear layers ----------------------------------------------------------------------


def plain_value(model, counts, layers, start):
    """Least value of N f that BFGS finds in all variables from a start, and the scores there."""
    n, K = np.array(counts), len(counts)

    def value(v):
        maps = v.reshape(layers + 1, K, K)
        Z = np.linalg.multi_dot(maps[::-1])  # the first factor holds the means
        loss = np.sum(n * np.sum((Z - np.eye(K)) ** 2, axis=0)) / 2
        decays = n.mean() * model.lambda_W * np.sum(maps[1:] ** 2)
        return loss + (decays + model.lambda_H * np.sum(n * np.sum(maps[0] ** 2, axis=0))) / 2, Z

    found = scipy_minimize(lambda v: value(v)[0], start, method="BFGS", options={"gtol": 1e-9})
    return found.fun, value(found.x)[1]


@pytest.mark.parametrize(
    "layers, lambdas, counts",
    [
        (1, (0.3, 0.3), [9, 3, 1]),
        (2, (0.2, 0.2), [9, 3, 1]),
        (2, (0.2, 0.2), [9, 4, 2]),
        (2, (0.1, 0.3), [5, 5]),
        (3, (0.15, 0.1), [6, 3]),
        (3, (0.15, 0.1), [20, 1]),
        (4, (0.1, 0.05), [3]),
    ],
)
def test_several_linear_layers_against_all_variables(layers, lambdas, counts):
    """The best of many starts has the value of the closed form, and no start is below it."""
    model, n, K = Model(*lambdas), np.array(counts), len(counts)
    z = imbalance.scores(model, counts, layers)
    c = (model.lambda_H * (model.lambda_W * n.mean() / n) ** layers) ** (1 / (layers + 1))
    expected = np.sum(n * ((z - 1) ** 2 + (layers + 1) * c * z ** (2 / (layers + 1)))) / 2
    rng = np.random.default_rng(0)
    starts = rng.standard_normal((10, (layers + 1) * K * K)) * rng.choice([0.4, 0.8, 1.2], (10, 1))
    found = [plain_value(model, counts, layers, start) for start in starts]
    best = min(found, key=lambda pair: pair[0])
    assert min(value for value, _ in found) > expected - 1e-12
    np.testing.assert_allclose(best[0], expected, rtol=1e-12)
    np.testing.assert_allclose(best[1], np.diag(z), atol=1e-5)


@given(
    layers=st.integers(1, 6),
    counts=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    lambdas=st.tuples(st.floats(1e-6, 3), st.floats(1e-6, 3)),
)
@settings(max_examples=200, deadline=None)
def test_the_score_is_the_best_number(layers, counts, lambdas):
    """No number of a grid has a smaller cost; the equation holds; a living score is large."""
    model, n = Model(*lambdas), np.array(counts)
    z, living = (f(model, counts, layers) for f in (imbalance.scores, imbalance.alive))
    c = (model.lambda_H * (model.lambda_W * n.mean() / n) ** layers) ** (1 / (layers + 1))

    def cost(x):
        return (x - 1) ** 2 + (layers + 1) * c * x ** (2 / (layers + 1))

    grid = np.linspace(0, 1, 401)[:, None]
    assert np.all(cost(z) <= cost(grid).min(axis=0) + 1e-12)
    assert np.array_equal(living, z > 0)
    assert np.all(z[living] >= 1 - 1 / layers)
    left = (z ** ((layers - 1) / (layers + 1)) * (1 - z))[living]
    np.testing.assert_allclose(left, c[living], rtol=1e-9, atol=1e-15)
    order = np.argsort(n)
    assert np.all(np.diff(z[order]) >= 0)


@pytest.mark.parametrize("layers", [2, 3, 7])
def test_death_is_a_jump(layers):
    """At the threshold two numbers cost the same; beside it one of them is better."""
    largest = (layers - 1) ** (layers - 1) / layers ** (2 * layers)
    for factor, expected in ((1 - 1e-9, 1 - 1 / layers), (1 + 1e-9, 0.0)):
        model = Model(0.5, factor * largest / 0.5**layers)  # counts are equal: m = 1
        (z,) = imbalance.scores(model, [4], layers)
        assert z == pytest.approx(expected, abs=1e-4)
    c, z = largest ** (1 / (layers + 1)), 1 - 1 / layers
    assert (z - 1) ** 2 + (layers + 1) * c * z ** (2 / (layers + 1)) == pytest.approx(1, rel=1e-14)


def test_one_layer_is_the_usual_case():
    model, counts = Model(0.4, 0.3), [90, 30, 5, 1]
    np.testing.assert_array_equal(
        imbalance.scores(model, counts), imbalance.scores(model, counts, layers=1)
    )
    W, means = imbalance.collapsed(model, counts)
    np.testing.assert_allclose(np.diag(W @ means), imbalance.scores(model, counts), rtol=1e-14)
    for function in (imbalance.scores, imbalance.alive):
        with pytest.raises(ValueError, match="layers must be at least 1"):
            function(model, counts, layers=0)
        with pytest.raises(TypeError, match="layers must be an integer"):
            function(model, counts, layers=1.5)


# ---- squared loss -------------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("lambdas", [(0.3, 0.2), (0.9, 0.8), (0.02, 0.5), (2.0, 0.8)])
def test_the_collapsed_point_is_stationary_and_meets_the_certificate(counts, lambdas):
    model, d = Model(*lambdas), len(counts) + 1
    W, means = imbalance.collapsed(model, counts, d)
    H, y = repeated(means, counts)
    gradient = model.gradient(W, H, y, H)
    assert max(np.abs(g).max() for g in gradient) < 1e-15
    E = W @ H.T - one_hot(y, len(counts))
    bound = len(y) / len(counts) * model.lambda_W * model.lambda_H
    assert linalg.norm(E, 2) ** 2 <= bound * (1 + 1e-12)
    living = imbalance.alive(model, counts)
    np.testing.assert_array_equal(living, np.abs(W).max(axis=1) > 0)
    np.testing.assert_array_equal(living, np.abs(means).max(axis=0) > 0)


@pytest.mark.parametrize("counts", [[6, 3, 1], [4, 1]], ids=str)
def test_a_plain_optimizer_finds_the_same_value(counts):
    model, K = Model(0.7, 0.6), len(counts)
    W, means = imbalance.collapsed(model, counts)
    H, y = repeated(means, counts)
    expected, rng = model.objective(W, H, y, H), np.random.default_rng(0)

    def full(v):
        W, H = v[: K * K].reshape(K, K), v[K * K :].reshape(-1, K)
        g = model.gradient(W, H, y, H)
        return model.objective(W, H, y, H), np.concatenate([g.weights.ravel(), g.features.ravel()])

    for _ in range(4):
        start = rng.normal(size=K * K + H.size)
        plain = scipy_minimize(full, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-16})
        assert plain.fun >= expected * (1 - 1e-9)
    assert plain.fun == pytest.approx(expected, rel=1e-6)


def test_equal_classes_are_those_of_the_balanced_model():
    model = Model(0.3, 0.2)
    for ours, theirs in zip(
        imbalance.collapsed(model, [4, 4, 4], 5), model.collapsed(3, 5), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_the_threshold_itself_is_dead():
    counts = [40, 10, 10]  # the small classes have half of the mean
    assert imbalance.alive(Model(0.5, 1.0 - 1e-12), counts).tolist() == [True, True, True]
    assert imbalance.alive(Model(0.5, 1.0), counts).tolist() == [True, False, False]


@sizes
@pytest.mark.parametrize("beta", [0.03, 2.0])
@pytest.mark.parametrize("lambdas", [(0.3, 0.2), (0.9, 0.8)])
def test_the_spectrum_is_that_of_the_dense_response(counts, lambdas, beta):
    if sum(counts) > 50:
        counts = [1, 20]
    model, d = Model(*lambdas, beta), len(counts) + 1
    W, means = imbalance.collapsed(model, counts, d)
    H, y = repeated(means, counts)
    F, _ = dense_response(model, W, H, y)
    found = imbalance.spectrum(model, counts, d)
    assert sum(space.multiplicity for space in found) == H.size
    np.testing.assert_allclose(found.values, linalg.eigvalsh(F)[::-1], atol=1e-11)


def test_the_rate_belongs_to_the_owner_of_the_direction():
    """A sample of any class contracts along the mean of class j with the rate of class j."""
    model, counts = Model(0.5, 0.4, 0.3), [12, 3, 2]
    W, means = imbalance.collapsed(model, counts, 4)
    H, y = repeated(means, counts)
    F, _ = dense_response(model, W, H, y)
    found = imbalance.spectrum(model, counts, 4)
    for sample in (0, 12, 15):
        for j in range(3):
            Z = np.zeros_like(H)
            Z[sample, j], Z[sample + 1, j] = 1, -1
            np.testing.assert_allclose(
                F @ Z.ravel(), found[f"within_{j}"].value * Z.ravel(), atol=1e-12
            )


def test_a_dead_class_grows_with_the_cube_root_of_the_pull_at_its_threshold():
    """And below it in proportion to the pull, above it towards its length without pull."""
    model, betas = Model(0.3, 0.3), np.logspace(-3, -6, 4)
    threshold = 0.09
    for share, exponent in [(0.06, 1.0), (threshold, 1 / 3)]:
        # Three classes; the third has this share of the mean size, up to whole samples.
        counts = np.array([1, 1, 0]) * round(1e4 * (3 - share) / 2) + [0, 0, round(1e4 * share)]
        means = imbalance.collapsed(model, counts, 4).means
        means[3, 2] = 1.0
        lengths = []
        for beta in betas:
            stats = ClassStatistics(counts, means, np.zeros((4, 4)))
            solution = minimize(replace(model, beta=beta), stats)
            assert solution.certified
            lengths.append(np.linalg.norm(solution.statistics.means[:, 2]))
        steps = np.diff(np.log(lengths)) / np.diff(np.log(betas))
        assert steps[-1] == pytest.approx(exponent, abs=0.01)
    # From lambda_H h - m lambda_W h / (m h^2 + lambda_W)^2 = 2 m^2 h^3 / lambda_W^2 + ... = beta a.
    predicted = (betas[-1] * 0.3**2 / (2 * threshold**2)) ** (1 / 3)
    assert lengths[-1] == pytest.approx(predicted, rel=0.02)


def test_monotonicity_breaks_without_a_bias():
    """Weighted and unweighted variability both rise through one level of a certified minimizer."""
    stats = ClassStatistics(
        np.array([30, 10]), np.array([[0.2, 0.5], [0, 0], [0, 0]]), np.diag([0, 0, 0.1])
    )
    solution = minimize(Model(0.01, 0.01, 80.0), stats)
    assert solution.certified
    assert nc1_trace(solution.statistics) > 1.05 * nc1_trace(stats)


# ---- cross-entropy ------------------------------------------------------------------------------


def verify(model, classes, samples, bias):
    """The solution, after its gradient and its certificate have been checked."""
    found = imbalance.two_groups(model, classes, samples, bias)
    counts = np.repeat(samples, classes)
    H, y = repeated(found.means, counts)
    x = Variables(found.weights, found.bias, H)
    K, scale = len(counts), 1 + np.abs(found.weights).max() + np.abs(found.means).max()
    gradient = oracle.gradient(replace(model, beta=0.0), x, H, y, bias)
    assert max(np.abs(g).max() for g in gradient) < 1e-13 * scale
    p = np.exp(found.weights @ found.means + found.bias[:, None])
    E = (p / p.sum(axis=0) - np.eye(K)) * np.sqrt(counts)
    bound = counts.mean() * model.lambda_W * model.lambda_H
    assert linalg.norm(E, 2) ** 2 <= bound * (1 + 1e-9)
    leaked = [p[classes[0] :, 0].sum() / p[:, 0].sum(), p[: classes[0], -1].sum() / p[:, -1].sum()]
    np.testing.assert_allclose(found.leaks, leaked, rtol=1e-9)
    return found


@settings(max_examples=150)
@given(
    classes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    samples=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    log_W=st.floats(-4, 0.5),
    log_H=st.floats(-4, 0.5),
    bias=st.booleans(),
)
def test_two_groups_are_stationary_and_certified(classes, samples, log_W, log_H, bias):
    verify(Model(10**log_W, 10**log_H), classes, samples, bias)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("samples", [(1, 1000), (1000, 1), (7, 7)])
@pytest.mark.parametrize("classes", [(1, 1), (1, 5), (5, 1), (5, 5)])
def test_two_groups_of_very_different_sizes(classes, samples, bias):
    for lambdas in [(0.1, 0.1), (1e-3, 1e-3), (0.9, 0.9), (3.0, 1.0)]:
        verify(Model(*lambdas), classes, samples, bias)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_minority_classes_merge_at_the_threshold_of_squared_loss(bias):
    """Five and five classes, lambdas .1: the small classes are alive for fewer than 199 to 1."""
    model, cosines = Model(0.1, 0.1), {}
    for ratio in (1, 10, 60, 150, 190, 198, 199, 250):
        found = verify(model, (5, 5), (ratio, 1), bias)
        w = found.weights[5:]
        cosines[ratio] = w[0] @ w[1] / (np.linalg.norm(w[0]) * np.linalg.norm(w[1]))
        living = imbalance.alive(model, np.repeat([ratio, 1], 5))
        assert found.apart == (True, bool(living[-1]))
    values = np.array(list(cosines.values()))
    assert np.all(np.diff(values[:-1]) > 0) and values[-2:] == pytest.approx(1, abs=1e-14)
    assert values[0] == pytest.approx(-1 / 9, abs=1e-12)
    assert values[-3] < 1 - 1e-3


def test_two_groups_of_one_size_are_the_simplex():
    model = Model(0.03, 0.02)
    for bias in (True, False):
        found = imbalance.two_groups(model, (2, 3), (4, 4), bias)
        W, means = cross_entropy.collapsed(model, 5, 4)
        np.testing.assert_allclose(found.weights @ found.means, W @ means, atol=1e-12)
        np.testing.assert_allclose(found.weights @ found.weights.T, W @ W.T, atol=1e-12)
        assert np.abs(found.bias).max() < 1e-12


def test_any_group_of_equal_classes_merges_at_the_threshold():
    """Three groups of two classes of different sizes: what the others do plays no role."""
    rng = np.random.default_rng(0)
    for bias in (True, False):
        for _ in range(3):
            counts = np.repeat(rng.integers(1, 30, 3), 2)
            share = np.sort(counts)[2] / counts.mean()
            # One group merges, one is on the living side.
            model = Model(np.sqrt(share * 0.8), np.sqrt(share * 0.8))
            y = np.repeat(np.arange(6), counts)
            H0 = rng.normal(size=(6, 7))[y]
            solution = cross_entropy.minimize(replace(model, beta=1e-4), H0, y, bias)
            assert solution.certified
            H = solution.features(H0, y)
            living = imbalance.alive(model, counts)
            for k in (0, 2, 4):
                gap = np.abs(solution.weights[k] - solution.weights[k + 1]).max()
                assert gap > 0.3 if living[k] else gap < 0.03
                if living[k]:
                    z = H[y == k].mean(axis=0) @ solution.weights.T + solution.bias
                    p = np.exp(z) / np.exp(z).sum()
                    c = np.sqrt(counts.mean() * model.lambda_W * model.lambda_H / counts[k])
                    assert p[k] - p[k + 1] == pytest.approx(1 - c, abs=1e-3)


# ---- the solver at the threshold, refusals ------------------------------------------------------


def test_the_solver_converges_at_the_threshold_itself():
    model = Model(0.3, 0.3, 1e-8)
    counts = np.array([1455, 1455, 90])
    _, means = imbalance.collapsed(model, counts, 4)
    means[3, 2] = 1.0
    solution = minimize(model, ClassStatistics(counts, means, np.zeros((4, 4))))
    assert solution.status is Status.CONVERGED


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m: imbalance.alive(m, [1, 0]), "class 1 has 0"),
        (lambda m: imbalance.alive(m, []), "integers"),
        (lambda m: imbalance.alive(m, [[1]]), "list of K integers"),
        (lambda m: imbalance.collapsed(m, [1, 1], 1), "number of living classes"),
        (lambda m: imbalance.collapsed(Model(0.1, 0.0), [1, 1]), "lambda_H must be greater"),
        (lambda m: imbalance.collapsed(m, [1, 1], 3, np.ones((3, 2))), "not orthonormal"),
        (lambda m: imbalance.spectrum(m, [1, 1], 2), "beta must be greater"),
        (lambda m: imbalance.spectrum(replace(m, beta=1.0), [1, 1], 1), "number of living"),
        (lambda m: imbalance.two_groups(m, (0, 1), (1, 1)), "classes must be at least 1"),
        (lambda m: imbalance.two_groups(m, (1, 1), (0, 1)), "samples must be at least 1"),
    ],
)
def test_bad_input_gets_a_sentence(call, complaint):
    with pytest.raises((ValueError, TypeError), match=complaint):
        call(Model(0.1, 0.1))
