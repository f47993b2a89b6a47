"""The metrics against their definitions in exact arithmetic, their invariances, and hard cases."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import hadamard, helmert

from nclib import ClassStatistics, measure, nc1, nc1_trace, nc2, nc3, nc4
from nclib.foundations import geometry, metrics, streaming
from tests.foundations.oracle import (
    assert_close,
    dense,
    dense_nc1,
    dense_nc1_trace,
    dense_nc2,
    dense_nc3,
    dense_nc4,
    examples,
    means_condition,
    random_samples,
    samples,
)

of = ClassStatistics.from_features


def assume_distinct_means(features, truth):
    """Skip a draw in which a direction between the means lies below the resolution of the type."""
    s = np.linalg.svd(truth.centered.astype(float), compute_uv=False)
    smallest = s[min(truth.means.shape[1] - 1, len(truth.means)) - 1]
    size = np.sqrt(float(np.sum(truth.means**2) + truth.means.shape[1] * np.trace(truth.within)))
    assume(smallest > 4 * float(np.finfo(features.dtype).eps) * size)


@examples
@given(random_samples(), st.integers(0, 99))
def test_metrics_are_their_definitions(data, seed):
    X, y = data
    truth, stats = dense(X, y), of(X, y)
    assume_distinct_means(X, truth)
    W = np.random.default_rng(seed).normal(size=(stats.K, stats.d))
    m, condition = measure(X, y, W), means_condition(truth)
    for value in (nc1(stats), m.nc1):
        assert_close(value, dense_nc1(truth), condition=condition)
    for value in (nc1_trace(stats), m.nc1_trace):
        assert_close(value, dense_nc1_trace(truth))
    for value in (nc2(stats), m.nc2):
        assert abs(value - dense_nc2(truth)) < 1e-13
    for value in (nc3(stats, W), m.nc3):
        assert abs(value - dense_nc3(truth, W)) < 1e-13
    assert m.nc4 == nc4(X, y, W)


@examples
@given(random_samples(max_n=5, max_d=4), st.integers(0, 99), st.booleans())
def test_nc4_counts_disagreements(data, seed, with_bias):
    X, y = data
    rng, K = np.random.default_rng(seed), y.max() + 1
    W, b = rng.normal(size=(K, X.shape[1])), float(np.abs(X).max()) * rng.normal(size=K) * with_bias
    share, gap = dense_nc4(dense(X, y), X, W, b)
    assume(gap > 1e-12)
    assert_close(nc4(X, y, W, b if with_bias else None), share)
    assert_close(measure(X, y, W, b).nc4, share)


def test_many_blocks():
    X, y = samples(1, [1500, 300, 1200], 300, spread=4.0)
    W = np.random.default_rng(2).normal(size=(3, 300))
    assert len(X) > 3 * streaming.BLOCK // 300
    means = np.stack([X[y == k].mean(axis=0) for k in range(3)])
    R, M = X - means[y], means - means.mean(axis=0)
    m = measure(X, y, W)
    assert_close(
        m.nc1,
        np.trace(R.T @ R / len(X) @ np.linalg.pinv(M.T @ M / 3, rcond=1e-10)) / 3,
        condition=10,
    )
    assert_close(m.nc1_trace, np.sum(R**2) / len(X) / (np.sum(M**2) / 3), condition=10)
    nearest = np.argmin(((X[:, None] - means) ** 2).sum(axis=2), axis=1)
    assert 0.1 < m.nc4 == nc4(X, y, W) == np.mean(np.argmax(X @ W.T, axis=1) != nearest)


# ---- what leaves the metrics as they are -------------------------------------------------------


@examples
@given(st.integers(0, 99), st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(1, 7))
def test_invariances(seed, counts, d):
    X, y = samples(seed, counts, d, spread=0.3)
    rng, K = np.random.default_rng(seed + 100), len(counts)
    W, Q = rng.normal(size=(K, d)), np.linalg.qr(rng.normal(size=(d, d)))[0]
    rows, classes, shift = rng.permutation(len(y)), rng.permutation(K), rng.normal(size=d)
    base, condition = measure(X, y, W), 10 * means_condition(dense(X, y)) ** 2

    def assert_same(m, first=5):
        assert_close([*m[:first], 1], [*base[:first], 1], condition=condition)

    assert_same(measure(X @ Q, y, W @ Q))
    assert_same(measure(7.3 * X, y, 0.2 * W))
    assert_same(measure(X, y, W + shift))
    assert_same(measure(X[rows], y[rows], W))
    assert_same(measure(X, classes[y], W[np.argsort(classes)]))
    assert_same(measure(X + shift, y, W), first=4)
    assert_same(measure(X + shift, y, W, -W @ shift))


def test_scaling_by_powers_of_two_changes_no_bit():
    X, y = samples(3, [5, 6, 7], 4, dtype=np.float32)
    assert measure(X * 2**-20, y) == measure(X, y) == measure(X * 2**20, y)


# ---- collapse ----------------------------------------------------------------------------------


@pytest.mark.parametrize("K, d, n", [(2, 1, 3), (3, 2, 1), (4, 3, 5), (5, 16, 2)])
def test_collapse_is_zero(K, d, n):
    frame = np.zeros((K, d))
    frame[:, : K - 1] = helmert(K).T  # a simplex equiangular tight frame
    Q = np.linalg.qr(np.random.default_rng(K).normal(size=(d, d)))[0]
    means, y = 3 * frame @ Q + 0.7, np.tile(np.arange(K), n)
    m = measure(means[y], y, 2 * means - 5, -(2 * means - 5) @ np.full(d, 0.7))
    assert m.nc1 == 0 and m.nc1_trace == 0 and m.nc4 == 0
    assert m.nc2 < 1e-14 and m.nc3 < 1e-14


def test_the_farthest_from_collapse():
    X, y = samples(4, [3, 3, 3, 3], 6)
    stats = of(X, y)
    assert_close(nc3(stats, -stats.means.T), 2)
    line = np.outer(
        [0.0, 0, 0, 1], np.ones(6)
    )  # G of rank one: the least equiangular means there are
    assert_close(nc2(of(line, np.arange(4))), np.sqrt(2 - 2 / np.sqrt(3)))
    opposite = stats.centered_means.T[[1, 2, 3, 0]]
    assert (
        nc4(
            stats.means.T,
            np.arange(4),
            opposite,
            -np.sum(stats.means.T[[1, 2, 3, 0]] ** 2, axis=1) / 2,
        )
        == 1
    )


def test_without_weights_there_is_no_nc3_and_nc4():
    m = measure(*samples(5, [3, 4], 2))
    assert m.nc3 is None and m.nc4 is None and m.nc1 > 0


def test_one_class_has_an_nc4():
    assert nc4([[1.0], [2.0]], [0, 0], [[1.0]]) == 0


# ---- the float32 trap: a d x d pseudoinverse goes wrong, the factored Gram matrix does not -----


def pseudoinverse_nc1(X, y, pinv):
    """NC1 as it is usually computed: covariances in the features' type, a d x d pseudoinverse."""
    K = y.max() + 1
    means = np.stack([X[y == k].mean(axis=0) for k in range(K)])
    R, M = X - means[y], means - means.mean(axis=0)
    within, between = R.T @ R / X.dtype.type(len(X)), M.T @ M / X.dtype.type(K)
    return float(np.trace(within @ pinv(between)) / K)


def numpy_pinv(A):
    return np.linalg.pinv(A, rcond=1e-15)


def careful_pinv(A):
    """The cut-off of torch and SciPy: max(d, d) eps of the matrix's own type."""
    return np.linalg.pinv(A, rcond=len(A) * np.finfo(A.dtype).eps)


def near_collapsed(seed=0, K=4, d=24, n=15, spread=1e-6, offset=0.0, dtype=np.float32):
    return samples(seed, [n] * K, d, spread, offset, dtype=dtype)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_near_collapsed_float32_features(offset):
    X, y = near_collapsed(offset=offset)
    truth = dense_nc1(dense(X, y))
    assert truth < 1e-12
    for value in (nc1(of(X, y)), measure(X, y).nc1):
        assert_close(value, truth)
    assert abs(pseudoinverse_nc1(X, y, numpy_pinv)) > 1e6 * truth


@pytest.mark.parametrize("apart, spread", [(1e-2, 1e-3), (1e-3, 1e-4), (1e-4, 1e-4)])
def test_two_close_classes(apart, spread):
    """A cut-off of d eps on the d x d matrix drops the direction between two close classes."""
    rng = np.random.default_rng(7)
    means, y = rng.normal(size=(4, 24)), np.repeat(np.arange(4), 15)
    means[1] = means[0] + apart * rng.normal(size=24)
    X = (means[y] + spread * rng.normal(size=(60, 24))).astype(np.float32)
    truth = dense_nc1(dense(X, y))
    for value in (nc1(of(X, y)), measure(X, y).nc1):
        assert_close(value, truth, condition=1 / apart)
    if apart <= 1e-3:
        assert pseudoinverse_nc1(X, y, careful_pinv) < 1e-3 * truth


def test_small_spread_around_means_with_a_large_common_offset():
    X, y = near_collapsed(spread=1e-4, offset=300.0)
    truth = dense_nc1(dense(X, y))
    for value in (nc1(of(X, y)), measure(X, y).nc1):
        assert_close(value, truth, condition=20)
    assert abs(pseudoinverse_nc1(X, y, careful_pinv) - truth) > 1e-3 * truth


def on_a_line(dtype, offset, noise):
    """Four classes with collinear means, exactly before rounding to the type, and NC1 before it.

    Half of the residuals are the negatives of the others, along rows of a Hadamard matrix.
    """
    v, H = np.random.default_rng(8).normal(size=32), hadamard(32)
    steps, residuals = np.array([0.0, 1, 2, 4]), noise * np.vstack([H, -H])
    X = np.vstack([offset * np.sin(np.arange(32)) + t * v + residuals for t in steps])
    steps -= steps.mean()
    return X.astype(dtype), np.repeat(np.arange(4), 64), noise**2 / (v @ v * (steps @ steps))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("noise", [0.3, 1 / 16])
def test_collinear_means(dtype, offset, noise):
    """Rounding makes small spurious directions; the cut-off must follow the type and the offset."""
    X, y, truth = on_a_line(dtype, offset, noise)
    for value in (nc1(of(X, y)), measure(X, y).nc1):
        assert_close(value, truth, dtype, condition=(1 + offset) / 20)


def test_collinear_means_of_many_classes_in_float64():
    """Our own arithmetic makes the spurious directions here; the cut-off leaves room for it."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        v, steps, y = rng.normal(size=2), rng.normal(size=100), np.repeat(np.arange(100), 4)
        X = np.vstack([t * v + np.vstack([np.eye(2), -np.eye(2)]) / 8 for t in steps])
        truth = 1 / 128 / (v @ v * np.sum((steps - steps.mean()) ** 2))
        assert_close(nc1(of(X, y)), truth, condition=20)


def test_cut_off_lies_between_rounding_and_geometry():
    """A class off the line between two others counts once it is clear of float32's rounding."""
    y, counts = np.arange(3), {}
    for off in (1e-9, 1e-5):
        means = np.array([[1.0, 0], [2, 0], [3, off]])
        stats = ClassStatistics(np.array([1, 1, 1]), means.T, np.eye(2), np.finfo(np.float32).eps)
        counts[off] = nc1(stats)
        assert_close(nc2(stats), nc2(of(means, y)))
    assert_close(counts[1e-9], 0.5, condition=100)
    assert counts[1e-5] > 1e9


def test_unbalanced_classes_follow_the_stated_convention():
    """Samples weigh the same in Sigma_W, classes in Sigma_B; alternatives differ by far."""
    X, y = samples(9, [2, 40, 200], 5, spread=0.5)
    X[y == 0] += 10 * (X[y == 0] - X[y == 0].mean(axis=0))
    truth, stats = dense(X, y), of(X, y)
    condition = means_condition(truth)
    assert_close(nc1(stats), dense_nc1(truth), condition=condition)
    by_class = sum(of(X[y == k], y[y == k] * 0).within for k in range(3)) / 3
    assert nc1(ClassStatistics(stats.counts, stats.means, by_class)) > 5 * nc1(stats)


# ---- cost --------------------------------------------------------------------------------------


def test_measure_needs_no_square_matrix():
    X, y = samples(10, [3, 4], 40_000, dtype=np.float32)
    tracemalloc.start()
    measure(X, y, np.vstack([X[0], X[1]]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 8 * X.size < 40_000**2


def test_measure_never_widens_the_features_as_a_whole():
    X, y = samples(11, [20_000, 20_000], 128, dtype=np.float32)
    tracemalloc.start()
    measure(X, y, X[:2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * streaming.BLOCK < X.nbytes


def peak(function, *arguments, **keywords):
    """Bytes that a call has allocated at most."""
    tracemalloc.start()
    function(*arguments, **keywords)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_many_classes_need_no_square_array():
    K, d = 5000, 3
    X, y = samples(10, [2] * K, d, dtype=np.float32)
    stats = of(X, y)
    W = np.random.default_rng(0).normal(size=(K, d))
    assert peak(measure, X, y) < K**2
    assert peak(measure, X, y, W) < K**2
    assert peak(nc4, X, y, W) < K**2
    for metric in (nc1, nc1_trace, nc2, lambda s: nc3(s, W)):
        assert peak(metric, of(X, y)) < K**2
    assert_close(nc1(stats), measure(X, y).nc1, condition=10)


def test_one_decomposition_serves_all_metrics(monkeypatch):
    """Each metric from statistics needs the same decomposition; it is found once and forgotten."""
    calls = []

    def counting(A):
        calls.append(A.shape)
        return left_singular(A)

    left_singular = geometry.left_singular
    monkeypatch.setattr(geometry, "left_singular", counting)
    stats, other = (of(*samples(seed, [4, 5, 6], 7)) for seed in (1, 2))
    W = np.eye(3, 7)
    values = [(nc1(s), nc1_trace(s), nc2(s), nc3(s, W)) for s in (stats, other, stats)]
    assert calls == [(7, 2)] * 2
    assert values[0] == values[2] != values[1]
    known = len(metrics._KNOWN)
    del stats
    assert len(metrics._KNOWN) == known - 1


# ---- sizes, signs, types -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "K, d", [(3, 5), (4, 5), (5, 5), (6, 5), (7, 5), (30, 5), (9, 16), (12, 16)]
)
@pytest.mark.parametrize("with_weights", [False, True])
def test_every_relation_of_classes_and_dimensions(K, d, with_weights):
    """Rank below, at and above half the dimension: other products, the same value."""
    X, y = samples(K, [3] * K, d, spread=0.5)
    means = np.stack([X[y == k].mean(axis=0) for k in range(K)])
    R, M = X - means[y], means - means.mean(axis=0)
    W = np.random.default_rng(K).normal(size=(K, d)) if with_weights else None
    m, stats = measure(X, y, W), of(X, y)
    truth = np.trace(R.T @ R / len(X) @ np.linalg.pinv(M.T @ M, rcond=1e-10))
    singular = np.linalg.svd(M, compute_uv=False)[: min(d, K - 1)]
    condition = (singular[0] / singular[-1]) ** 2
    assert_close(m.nc1, truth, condition=condition)
    assert_close(nc1(stats), truth, condition=condition)
    assert_close(m.nc1_trace, np.sum(R**2) / len(X) * K / np.sum(M**2))
    G, frame = M @ M.T, (np.eye(K) - 1 / K) / np.sqrt(K - 1)
    assert_close(m.nc2, np.linalg.norm(G / np.linalg.norm(G) - frame))
    if with_weights:
        nearest = np.argmin(((X[:, None] - means) ** 2).sum(axis=2), axis=1)
        assert m.nc4 == np.mean(nearest != np.argmax(X @ W.T, axis=1))


@examples
@given(
    st.integers(0, 999),
    st.integers(2, 6),
    st.integers(1, 8),
    st.integers(1, 3),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-3]),
    st.sampled_from([0.0, 1e3, 1e8]),
)
def test_variability_is_never_negative(seed, K, d, n, spread, offset):
    X, y = samples(seed, [n] * K, d, spread, offset)
    rng = np.random.default_rng(seed)
    stats = of(X, y)
    # A covariance that is zero along the means, up to rounding of either sign.
    U = np.linalg.qr(stats.centered_means)[0]
    free = rng.normal(size=(d, d))
    free -= U @ (U.T @ free)
    flat = ClassStatistics(stats.counts, stats.means, free @ free.T, stats.resolution)
    for value in (nc1(stats), nc1(flat), measure(X, y).nc1, measure(X, y).nc1_trace):
        assert value >= 0


@pytest.mark.parametrize("exponent", [-200, -150, -120, -81, -30, 0, 30, 78, 100])
def test_nc2_and_nc3_at_any_scale(exponent):
    X, y = samples(6, [3, 4, 5, 3], 6, spread=0.3)
    W = np.random.default_rng(0).normal(size=(4, 6))
    expected, scale = of(X, y), 10.0**exponent
    stats = of(scale * X, y)
    assert_close(nc2(stats), nc2(expected), condition=10)
    assert_close(nc3(stats, W), nc3(expected, W), condition=10)
    assert_close(nc3(expected, scale * W), nc3(expected, W), condition=10)
    if abs(exponent) <= 120:
        m = measure(scale * X, y, W)
        assert_close(m[:4], measure(X, y, W)[:4], condition=10)
        assert_close(nc1(stats), nc1(expected), condition=10)
        assert_close(nc1_trace(stats), nc1_trace(expected), condition=10)
    if exponent < -140:
        for metric in (lambda: nc1(stats), lambda: nc1_trace(stats), lambda: measure(scale * X, y)):
            with pytest.raises(
                ValueError, match="features must be larger: their squares underflow"
            ):
                metric()


@pytest.mark.parametrize("exponent", [-200, 100])
def test_equal_means_are_equal_at_any_scale(exponent):
    X = np.full((4, 2), 10.0**exponent)
    X[1] *= 1 + 1e-16
    with pytest.raises(ValueError, match="all class means are equal"):
        nc2(of(X, [0, 0, 1, 1]))


@pytest.mark.parametrize("classes", [[0, 1, 3], [3, 0], [2, 3, 1, 0]])
def test_classes_left_out_by_name(classes):
    X, y = samples(7, [3, 5, 4, 6], 5)
    rng = np.random.default_rng(0)
    W, b, kept = rng.normal(size=(4, 5)), rng.normal(size=4), np.isin(y, classes)
    renumbered = np.array([classes.index(k) for k in y[kept]])
    expected = measure(X[kept], renumbered, W[classes], b[classes])
    assert measure(X, y, W, b, classes=classes) == expected
    assert measure(X[kept], y[kept], W, b, classes=classes) == expected
    assert measure(X, y, classes=classes) == expected._replace(nc3=None, nc4=None)
    assert nc4(X, y, W, b, classes=classes) == expected.nc4


def test_the_last_class_can_be_asked_for():
    X, y = samples(7, [3, 5, 4], 5)
    assert measure(X, y).nc1 > 0  # nobody said that there is a fourth class
    with pytest.raises(ValueError, match="class 3 has no samples, although classes names it"):
        measure(X, y, classes=range(4))
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.1, but 2 is named"):
        measure(X, y, np.eye(2, 5), classes=[0, 2])


def test_a_layer_of_torch_is_taken_as_it_is():
    torch.manual_seed(0)
    X, y = samples(8, [5, 6, 7], 4, spread=0.5, dtype=np.float32)
    layer = torch.nn.Linear(4, 3)
    features = torch.tensor(X, requires_grad=True)
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    assert measure(features, torch.tensor(y), layer.weight, layer.bias) == measure(X, y, W, b)
    assert nc3(of(features, y), layer.weight) == nc3(of(X, y), W)
    half = layer.to(torch.bfloat16)
    assert (
        measure(features, y, half.weight, half.bias).nc4
        == measure(
            X, y, half.weight.float().detach().numpy(), half.bias.float().detach().numpy()
        ).nc4
    )


# ---- refusals ----------------------------------------------------------------------------------

X3, Y3 = samples(12, [2, 3, 2], 4)
W3 = np.eye(3, 4)
LACKING = of(X3, Y3, 5)
SAME = of(np.ones((6, 4)), [0, 1, 2, 0, 1, 2])
SINGLE = of(X3, Y3 * 0)


@pytest.mark.parametrize("metric", [nc1, nc1_trace, nc2, lambda s: nc3(s, np.eye(s.K, s.d))])
def test_undefined_metrics(metric):
    with pytest.raises(ValueError, match=r"class 3 has no samples\."):
        metric(LACKING)
    with pytest.raises(
        ValueError, match=r"all class means are equal up to the rounding of the features"
    ):
        metric(SAME)
    with pytest.raises(ValueError, match=r"undefined for K = 1 class\."):
        metric(SINGLE)


def test_means_that_differ_by_rounding_only_are_equal():
    y = np.repeat(np.arange(3), 50)
    X = (1e4 + 1e-5 * np.random.default_rng(0).normal(size=(150, 4))).astype(np.float32)
    for metric in (lambda: nc1(of(X, y)), lambda: measure(X, y)):
        with pytest.raises(ValueError, match="all class means are equal"):
            metric()


@pytest.mark.parametrize("function", [nc4, measure])
@pytest.mark.parametrize(
    "changed, error, sentence",
    [
        ({"labels": np.minimum(Y3, 1)}, ValueError, r"class 2 has no samples\."),
        ({"labels": Y3 + 1}, ValueError, r"labels must lie in 0\.\.2, but the label 3 occurs"),
        ({"labels": Y3 * 1.0}, TypeError, "labels must be integers, not float64"),
        ({"labels": Y3[:-1]}, ValueError, r"labels must have shape \(7,\)"),
        ({"features": X3[0]}, ValueError, r"features must have shape \(N, d\)"),
        ({"features": X3 + np.nan}, ValueError, "features must be finite, but sample 0 has nan"),
        (
            {"weights": W3.T},
            ValueError,
            r"weights must have shape \(3, 4\), .* is \(4, 3\); pass weights\.T\.",
        ),
        ({"weights": W3[0]}, ValueError, r"weights must have shape .* the shape given is \(4,\)"),
        ({"weights": W3 + np.inf}, ValueError, "weights must be finite"),
        ({"weights": W3 * 1j}, TypeError, "weights must hold real numbers"),
        (
            {"bias": np.ones(4)},
            ValueError,
            r"bias must have shape \(3,\); the shape given is \(4,\)",
        ),
        (
            {"bias": [0, np.nan, 0]},
            ValueError,
            r"bias must be finite, but the entry at \(1,\) is nan",
        ),
    ],
)
def test_bad_arguments(function, changed, error, sentence):
    arguments = {"features": X3, "labels": Y3, "weights": W3} | changed
    with pytest.raises(error, match=sentence):
        function(**arguments)


def test_more_bad_arguments():
    with pytest.raises(ValueError, match="bias must not be given without weights"):
        measure(X3, Y3, bias=np.zeros(3))
    with pytest.raises(
        ValueError, match="weights must not be the same for all classes: NC3 is undefined"
    ):
        measure(X3, Y3, np.full((3, 4), 0.1))
    with pytest.raises(ValueError, match=r"undefined for K = 1 class"):
        measure(X3, Y3 * 0)
    with pytest.raises(ValueError, match=r"features must be smaller: their squares overflow"):
        measure(X3 * 1e200, Y3)
    with pytest.raises(ValueError, match=r"class 1 has no samples, although the label 4 occurs"):
        measure(X3, Y3 * 2)
    with pytest.raises(ValueError, match=r"weights must have shape \(3, 4\)"):
        nc3(of(X3, Y3), W3.T)
    with pytest.raises(ValueError, match=r"weights must have two rows .* a single logit"):
        measure(X3, np.minimum(Y3, 1), W3[:1])
    with pytest.raises(ValueError, match=r"shape \(3, 4\), one row per class; .* \(0, 4\)\."):
        measure(X3, Y3, W3[:0])
    with pytest.raises(TypeError, match="features must hold real numbers, not object"):
        measure(of(X3, Y3), Y3)


def test_the_four_numbers_that_the_chapter_works_by_hand():
    features, labels = np.array([[1.0], [3.0], [-1.0], [-3.0]]), np.array([0, 0, 1, 1])
    stats = ClassStatistics.from_features(features, labels)
    assert (stats.within.item(), stats.between.item()) == (1, 4)
    assert (nc1(stats), nc1_trace(stats)) == pytest.approx((1 / 8, 1 / 4), rel=1e-14)
    half = ClassStatistics.from_features((features + stats.means.T[labels]) / 2, labels)
    assert (nc1(half), nc1_trace(half)) == pytest.approx((1 / 32, 1 / 16), rel=1e-14)
