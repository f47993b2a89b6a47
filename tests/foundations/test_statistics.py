"""Class statistics against exact rational arithmetic: one pass, shards, small sizes, bad input."""

import tracemalloc
from dataclasses import FrozenInstanceError
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nclib import ClassStatistics
from nclib.foundations import streaming
from nclib.foundations.metrics import nc1
from tests.foundations.oracle import assert_close, dense, exact, examples, random_samples, samples

of = ClassStatistics.from_features


def assert_exact_means(stats, truth, spread):
    """Means plus low parts are exact up to rounding of the spread; the means are rounded."""
    error = (exact(stats.means) + exact(stats.low) - truth.means).astype(float)
    assert np.max(np.abs(error)) <= 50 * np.finfo(float).eps * spread
    assert np.array_equal(stats.means, stats.means + stats.low)


def spread_of(features, labels):
    """Largest deviation between two samples of a class in one component."""
    H = np.asarray(features, dtype=float)
    return max(np.ptp(H[labels == k], axis=0).max() for k in range(labels.max() + 1))


@examples
@given(random_samples())
def test_statistics_are_those_of_the_definitions(data):
    X, y = data
    stats, truth = of(X, y), dense(X, y)
    assert stats.counts.tolist() == np.bincount(y).tolist()
    assert (stats.K, stats.d, stats.N) == (y.max() + 1, X.shape[1], len(X))
    assert stats.resolution == np.finfo(X.dtype).eps
    assert_exact_means(stats, truth, spread_of(X, y))
    assert_close(stats.means, truth.means)
    assert_close(stats.within, truth.within)
    assert_close(stats.centered_means, truth.centered)
    assert_close(stats.between, truth.between)
    assert_close(stats.global_mean, truth.means.sum(axis=1) / stats.K)
    H = exact(X).T
    assert_close(stats.second_moment, stats.K * (H @ H.T) / len(X))
    assert np.array_equal(stats.within, stats.within.T)


@examples
@given(random_samples(dtypes=(np.float32, np.float64), max_n=12), st.integers(0, 99))
def test_merged_shards_are_one_pass(data, seed):
    X, y = data
    K, truth, rng = y.max() + 1, dense(X, y), np.random.default_rng(seed)
    cuts = np.sort(rng.choice(len(X) + 1, size=min(6, len(X)), replace=False))
    shards = [
        s for s in np.split(np.arange(len(X)), cuts) if len(s)
    ]  # uneven, many without some class
    rng.shuffle(shards)
    merged = reduce(ClassStatistics.merge, (of(X[s], y[s], K) for s in shards))
    assert merged.counts.tolist() == np.bincount(y).tolist()
    assert_exact_means(merged, truth, spread_of(X, y))
    assert_close(merged.within, truth.within)
    assert_close(merged.centered_means, truth.centered)


@pytest.mark.parametrize("dtype, ratio", [(np.float64, 1e6), (np.float64, 1e12), (np.float32, 1e6)])
def test_merging_many_shards_far_from_the_origin(dtype, ratio):
    X, y = samples(5, [700, 300, 900, 1], 20, spread=1.0, offset=ratio, dtype=dtype)
    X[y == 1] *= 3  # the classes far from each other too
    whole, rng = of(X, y), np.random.default_rng(6)
    order = rng.permutation(len(X))
    shards = np.split(order, np.sort(rng.choice(np.arange(1, len(X)), size=150, replace=False)))
    merged = reduce(ClassStatistics.merge, (of(X[s], y[s], 4) for s in shards))
    assert_close(merged.within, whole.within, condition=2)
    assert_close(merged.centered_means, whole.centered_means)
    if dtype == np.float64 and ratio == 1e6:
        assert_close(nc1(merged), nc1(whole), condition=20)


@examples
@given(
    random_samples(dtypes=(np.float64,)),
    random_samples(dtypes=(np.float64,)),
    random_samples(dtypes=(np.float32,)),
)
def test_merging_is_associative_and_commutative(a, b, c):
    d, K = min(s.features.shape[1] for s in (a, b, c)), 5
    a, b, c = (of(s.features[:, :d] / np.abs(s.features).max(), s.labels, K) for s in (a, b, c))
    for other in (a.merge(b.merge(c)), c.merge(b).merge(a)):
        one = a.merge(b).merge(c)
        assert one.counts.tolist() == other.counts.tolist() and one.resolution == other.resolution
        assert_close(other.within, one.within)
        assert_close(other.means, one.means)


def test_merging_keeps_the_coarser_resolution_and_an_absent_class_to_the_last_bit():
    X, y = samples(1, [5, 4], 3, offset=1e8)
    one, two = of(X[y == 0], y[y == 0], 2), of(X[y == 1].astype(np.float32), y[y == 1], 2)
    merged = one.merge(two)
    assert merged.resolution == np.finfo(np.float32).eps
    for k, part in enumerate((one, two)):
        assert np.array_equal(merged.means[:, k], part.means[:, k])
        assert np.array_equal(merged.low[:, k], part.low[:, k])
    assert one.counts.tolist() == [5, 0] and not one.means[:, 1].any()


def test_many_blocks_and_every_memory_layout():
    X, y = samples(2, [900, 40, 2000], 300, spread=0.1)
    assert len(X) > 3 * streaming.BLOCK // 300
    R = X - np.stack([X[y == k].mean(axis=0) for k in range(3)])[y]
    for view in (X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X.tolist()):
        stats = of(view, y.tolist())
        assert_close(stats.within, R.T @ R / len(X), condition=10)
        assert stats.counts.tolist() == [900, 40, 2000]


def test_order_of_samples_does_not_matter():
    X, y = samples(3, [30, 50], 4, offset=1e3)
    p = np.random.default_rng(0).permutation(len(X))
    assert_close(of(X[p], y[p]).within, of(X, y).within)
    assert_close(of(X[p], y[p]).centered_means, of(X, y).centered_means)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_collapsed_features_have_exactly_no_spread(dtype):
    means = (np.random.default_rng(4).normal(size=(3, 5)) / 3).astype(dtype)
    for n in (1, 7, 1000):
        y = np.repeat(np.arange(3), n)
        stats = of(means[y], y)
        assert np.array_equal(stats.means, means.T) and not stats.within.any()


@pytest.mark.parametrize(
    "counts, d", [([1, 1], 1), ([3, 2], 1), ([2] * 6, 3), ([1, 2], 50), ([4], 3)]
)
def test_degenerate_sizes(counts, d):
    X, y = samples(8, counts, d)
    stats, truth = of(X, y), dense(X, y)
    assert_close(stats.within, truth.within)
    assert_close(stats.means, truth.means)
    assert stats.balanced == (len(set(counts)) == 1)
    if max(counts) == 1:
        assert not stats.within.any()


def test_torch_tensors_are_arrays_too():
    import torch

    X, y = samples(9, [4, 5], 3, dtype=np.float32)
    stats = of(torch.from_numpy(X), torch.from_numpy(y))
    assert stats.resolution == np.finfo(np.float32).eps and np.array_equal(
        stats.within, of(X, y).within
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_is_the_same_type(order):
    X, y = samples(9, [4, 5], 3, dtype=np.float32)
    stats = of(X.astype(X.dtype.newbyteorder(order)), y)
    assert stats.resolution == np.finfo(np.float32).eps
    assert np.array_equal(stats.within, of(X, y).within)


def test_tensors_with_a_gradient_or_in_bfloat16():
    import torch

    X, y = samples(9, [4, 5], 3, dtype=np.float32)
    tensor = torch.tensor(X, requires_grad=True)
    assert np.array_equal(of(tensor, torch.tensor(y)).within, of(X, y).within)
    narrow = of(tensor.bfloat16(), y)
    assert narrow.resolution == 2.0**-7
    assert np.array_equal(narrow.within, of(tensor.detach().bfloat16().float(), y).within)


@pytest.mark.parametrize("classes", [[0, 1, 3], [3, 1], [1], [3, 2, 1, 0]])
def test_classes_can_be_left_out_by_name(classes):
    X, y = samples(4, [3, 5, 4, 2], 6)
    kept = np.isin(y, classes)
    expected = of(X[kept], np.array([classes.index(k) for k in y[kept]]))
    stats = of(X, y, classes=classes)
    assert stats.counts.tolist() == expected.counts.tolist()
    assert np.array_equal(stats.means, expected.means)
    assert np.array_equal(stats.within, expected.within)
    with pytest.raises(ValueError, match="num_classes must not be given together with classes"):
        of(X, y, 4, classes=classes)


@pytest.mark.parametrize("missing", [0, 2, 3])
def test_a_class_that_a_split_lacks_is_left_out_afterwards(missing):
    X, y = samples(4, [3, 5, 4, 2], 6)
    present = [k for k in range(4) if k != missing]
    stats = of(X[y != missing], y[y != missing], 4)
    direct = of(X[y != missing], y[y != missing], classes=present)
    only = stats.only(present)
    for name in ("counts", "means", "within", "low"):
        assert np.array_equal(getattr(only, name), getattr(direct, name))
    assert only.resolution == stats.resolution
    with pytest.raises(ValueError, match=rf"class {present[0]} has .* samples and must stay"):
        stats.only(present[1:])
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.3, but 4 is named"):
        stats.only([0, 1, 2, 4])
    with pytest.raises(ValueError, match="classes must be named once each"):
        stats.only([0, 0, 1])


def test_narrow_features_are_never_widened_as_a_whole():
    X, y = samples(10, [20_000, 20_000], 128, dtype=np.float32)
    tracemalloc.start()
    of(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * streaming.BLOCK < X.nbytes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2999])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_anywhere_are_named(bad, row, dtype):
    X, y = samples(11, [1500, 1500], 200, dtype=dtype)
    X[row, 7] = bad
    with pytest.raises(
        ValueError, match=rf"features must be finite, but sample {row} has {bad} in component 7\."
    ):
        of(X, y)


def test_opposite_infinities_and_overflow():
    with pytest.raises(ValueError, match="sample 0 has inf in component 0"):
        of([[np.inf], [-np.inf]], [0, 0])
    with pytest.raises(ValueError, match="features must be smaller: a sum over a class overflows"):
        of([[1.7e308], [-1.7e308]], [0, 0])
    with pytest.raises(ValueError, match=r"within must be finite"):
        of([[1e200], [-1e200]], [0, 0])


@pytest.mark.parametrize(
    "X, y, K, error, sentence",
    [
        (np.ones((2, 3)), [0, 2], None, ValueError, "class 1 has no samples"),
        (
            np.ones((2, 3)),
            [0, 2],
            2,
            ValueError,
            r"labels must lie in 0\.\.1, but the label 2 occurs",
        ),
        (np.ones((2, 3)), [0, 1, 1], None, ValueError, r"labels must have shape \(2,\)"),
        (np.ones((2, 3)), [0.0, 1.0], None, TypeError, "labels must be integers"),
        (np.ones(3), [0, 1, 2], None, ValueError, r"features must have shape \(N, d\)"),
    ],
)
def test_bad_samples(X, y, K, error, sentence):
    with pytest.raises(error, match=sentence):
        of(X, y, K)


@pytest.mark.parametrize(
    "counts, means, within, sentence",
    [
        ([2, -1], np.ones((3, 2)), np.eye(3), "counts must be a list of K integers, none negative"),
        ([2.0, 1.0], np.ones((3, 2)), np.eye(3), "counts must be a list of K integers"),
        (np.zeros(0, int), np.ones((3, 0)), np.eye(3), "counts must be a list of K integers"),
        ([0, 0], np.ones((3, 2)), np.eye(3), "counts must not all be zero: there are no samples"),
        (
            [2, 1],
            np.ones((2, 3)),
            np.eye(3),
            r"means must have shape \(d, 2\); the shape given is \(2, 3\)",
        ),
        (
            [2, 1],
            np.ones((3, 2)),
            np.eye(2),
            r"within must have shape \(3, 3\); the shape given is \(2, 2\)",
        ),
        ([2, 1], np.full((3, 2), np.nan), np.eye(3), "means must be finite"),
    ],
)
def test_bad_statistics(counts, means, within, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClassStatistics(np.array(counts), means, within)


def test_statistics_to_merge_must_fit():
    one, two = of(*samples(0, [2, 2], 3)), of(*samples(0, [2, 2, 2], 3))
    with pytest.raises(
        ValueError, match=r"must agree in \(d, K\), but these have \(3, 2\) and \(3, 3\)"
    ):
        one.merge(two)
    with pytest.raises(TypeError, match=r"other must be a ClassStatistics, .* shape"):
        one.merge(np.ones((2, 3)))


@pytest.mark.parametrize("d", [1, 2, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_matrix_that_is_no_covariance_is_refused(d, seed):
    rng = np.random.default_rng(seed)
    Q, scale = np.linalg.qr(rng.normal(size=(d, d)))[0], 10.0 ** rng.integers(-8, 8)
    values = rng.exponential(size=d) * scale
    means, counts = rng.normal(size=(d, 2)), np.array([5, 5])

    def covariance(changes):
        W = (Q * (values + changes)) @ Q.T
        return (W + W.T) / 2

    rounding = np.where(np.arange(d) == d - 1, -1e-12 * values.sum() * (d > 1) - values, 0)
    ClassStatistics(counts, means, covariance(rounding))
    for least in (-1e-6 * values.sum(), -values.sum()):
        changes = np.where(np.arange(d) == 0, least - values, 0)
        with pytest.raises(ValueError, match=r"positive semidefinite up to rounding, .* is -"):
            ClassStatistics(counts, means, covariance(changes))
    if d > 1:
        W = covariance(0)
        W[0, 1] += 1e-11 * np.abs(W).max()
        ClassStatistics(counts, means, W)
        W[0, 1] += 1e-3 * np.abs(W).max()
        with pytest.raises(ValueError, match="within must be symmetric, but it differs"):
            ClassStatistics(counts, means, W)


def test_a_covariance_in_float32_is_one_when_the_resolution_says_so():
    X, y = samples(3, [4, 4], 40, dtype=np.float32)
    R = X - np.stack([X[y == k].mean(axis=0) for k in range(2)])[y]
    within, means = R.T @ R / np.float32(len(X)), np.zeros((40, 2))
    eps = float(np.finfo(np.float32).eps)
    stats = ClassStatistics(np.array([4, 4]), means, within, eps)
    assert np.linalg.eigvalsh(stats.within)[0] < 0  # rounding, which is let in


def test_the_arrays_are_copies_that_nobody_can_write_to():
    counts, means, within = np.array([2, 2]), np.ones((3, 2)), np.eye(3)
    stats = ClassStatistics(counts, means, within, low=np.zeros((3, 2)))
    for array in (counts, means, within):
        array[:] = 7
    assert stats.counts.tolist() == [2, 2]
    assert np.array_equal(stats.means, np.ones((3, 2)))
    assert np.array_equal(stats.within, np.eye(3))
    for part in (stats, of(np.eye(3), [0, 1, 1]), stats.merge(stats), stats.only([1, 0])):
        for name in ("counts", "means", "within", "low"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(part, name)[0] = 1


def test_a_list_of_statistics_has_a_sum():
    parts = [of(*samples(seed, [3, 4], 5)) for seed in range(4)]
    data = [samples(seed, [3, 4], 5) for seed in range(4)]
    whole = of(np.concatenate([s.features for s in data]), np.concatenate([s.labels for s in data]))
    assert_close(sum(parts).within, whole.within)
    assert_close((parts[0] + parts[1] + parts[2] + parts[3]).means, whole.means)
    for other in (1, 0.5, "x"):
        with pytest.raises(TypeError, match="unsupported operand"):
            parts[0] + other
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
            other + parts[0]


def test_statistics_are_frozen():
    with pytest.raises(FrozenInstanceError):
        of(*samples(0, [2, 2], 3)).within = None


def test_statistics_are_printed_in_one_line():
    assert repr(of(*samples(0, [20, 30], 40))) == "ClassStatistics(K=2, d=40, N=50)"


def test_statistics_compare_and_hash_as_the_objects_they_are():
    one, other = (of(*samples(0, [2, 2], 3)) for _ in range(2))
    assert one == one
    assert one != other
    assert one in [other, one]
    assert len({one, other, one}) == 2
