"""Streams of batches and shards: as exact as one pass, in any order, in the memory of the sums."""

import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from functools import reduce
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nclib import (
    Accumulator,
    ClassStatistics,
    load_statistics,
    measure,
    nc1,
    save_statistics,
)
from tests.foundations.oracle import assert_close, dense, exact, examples, random_samples, samples

of = ClassStatistics.from_features


def split(n, parts, rng):
    """Random order of n samples, cut into at most that many uneven parts."""
    cuts = np.sort(rng.choice(n + 1, size=min(parts, n) - 1, replace=False))
    return [part for part in np.split(rng.permutation(n), cuts) if len(part)]


def accumulated(X, y, K, shards):
    total = Accumulator(K)
    for shard in shards:
        total.update(X[shard], y[shard])
    return total


def assert_same(one, other):
    assert one.counts.tolist() == other.counts.tolist()
    assert one.resolution == other.resolution
    assert_close(one.centered_means, other.centered_means)
    assert_close(one.within, other.within)
    assert np.array_equal(one.within, one.within.T)


@examples
@given(random_samples(max_n=12), st.integers(0, 99), st.integers(1, 9))
def test_batches_are_one_pass(data, seed, parts):
    X, y = data
    rng, K, truth = np.random.default_rng(seed), y.max() + 1, dense(X, y)
    stats = accumulated(X, y, K, split(len(X), parts, rng)).compute()
    assert stats.counts.tolist() == np.bincount(y).tolist()
    assert stats.resolution == np.finfo(X.dtype).eps
    error = (exact(stats.means) + exact(stats.low) - truth.means).astype(float)
    spread = max(np.ptp(X[y == k].astype(float), axis=0).max() for k in range(K))
    assert np.max(np.abs(error)) <= 50 * np.finfo(float).eps * spread
    assert_close(stats.within, truth.within)
    assert_close(stats.centered_means, truth.centered)


@examples
@given(random_samples(dtypes=(np.float64,), max_n=12), st.integers(0, 99))
def test_one_sample_at_a_time_is_one_pass(data, seed):
    X, y = data
    order = np.random.default_rng(seed).permutation(len(X))[:, None]
    assert_same(accumulated(X, y, y.max() + 1, order).compute(), of(X, y))


@pytest.mark.parametrize("ratio", [1e6, 1e12])
def test_many_batches_far_from_the_origin(ratio):
    X, y = samples(5, [700, 300, 900, 1], 20, offset=ratio)
    X[y == 1] *= 3  # the classes far from each other too
    whole, rng = of(X, y), np.random.default_rng(6)
    stats = accumulated(X, y, 4, split(len(X), 150, rng)).compute()
    assert_close(stats.within, whole.within, condition=2)
    assert_close(stats.centered_means, whole.centered_means)


@pytest.mark.parametrize("seed", range(3))
def test_shards_merge_in_any_order_and_in_any_grouping(seed):
    X, y = samples(seed, [40, 3, 90, 1, 7], 6, spread=0.5, offset=1e3)
    rng, whole = np.random.default_rng(seed), of(X, y)
    shards = split(len(X), 12, rng)
    parts = [accumulated(X, y, 5, [shard]) for shard in shards]
    line, tree = deepcopy(parts[0]), deepcopy(parts)
    for part in parts[1:]:
        line.merge(part)
    while len(tree) > 1:
        one, other = (tree.pop(rng.integers(len(tree))) for _ in range(2))
        one.merge(other)
        tree.append(one)
    statistics = [of(X[shard], y[shard], 5) for shard in shards]
    mixed = Accumulator(5)
    for i, stats in enumerate(statistics):
        mixed.merge(stats if i % 2 else parts[i])
    for total in (line, tree[0], mixed):
        assert_same(total.compute(), whole)
    for total in (sum(statistics), reduce(ClassStatistics.merge, statistics)):
        assert_same(total, whole)
    assert_same(statistics[0] + statistics[1], statistics[0].merge(statistics[1]))


def test_classes_may_come_late_once_or_never():
    X, y = samples(1, [5, 4, 1], 3, offset=1e8)
    total = accumulated(X, y, 5, [np.flatnonzero(y == k) for k in (0, 2)])
    early = total.compute()
    assert early.counts.tolist() == [5, 0, 1, 0, 0]
    assert not early.means[:, [1, 3, 4]].any()
    with pytest.raises(ValueError, match=r"class 1 has no samples\."):
        nc1(early)
    total.update(X[y == 1], y[y == 1])
    late = total.compute()
    assert np.array_equal(late.means[:, 0], early.means[:, 0])
    assert np.array_equal(late.low[:, 0], early.low[:, 0])
    assert_same(late.only([0, 1, 2]), of(X, y))
    assert_close(nc1(late.only([0, 1, 2])), measure(X, y).nc1, condition=1e8)
    assert early.counts.tolist() == [5, 0, 1, 0, 0]  # what was handed out does not change


def test_the_coarsest_type_decides_the_resolution():
    X, y = samples(2, [6, 6], 4)
    total = Accumulator(2)
    for dtype in (torch.float64, torch.float16, torch.float32):
        total.update(torch.tensor(X).to(dtype), torch.tensor(y))
    assert total.compute().resolution == 2.0**-10
    total.update(torch.tensor(X).bfloat16(), y)
    assert total.compute().resolution == 2.0**-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_tensors_are_summed_without_further_rounding(dtype):
    X, y = samples(3, [50, 60, 70], 5, offset=3.0)
    tensor = torch.tensor(X).to(dtype)
    total = Accumulator(3)
    for part in np.array_split(np.arange(len(y)), 7):
        total.update(tensor[part], y[part])
    truth = dense(tensor.double().numpy(), y)
    assert_close(total.compute().within, truth.within)
    assert_close(total.compute().centered_means, truth.centered)


# ---- threads, processes, files -----------------------------------------------------------------


def shard(seed):
    """Statistics of one shard of made samples, as a worker computes them."""
    total = Accumulator(3)
    total.update(*samples(seed, [30, 20, 10], 8, offset=5.0))
    return total


def together(seeds):
    data = [samples(seed, [30, 20, 10], 8, offset=5.0) for seed in seeds]
    return of(np.concatenate([d.features for d in data]), np.concatenate([d.labels for d in data]))


def test_threads_may_share_one_accumulator():
    total = Accumulator(3)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda seed: total.update(*samples(seed, [30, 20, 10], 8, offset=5.0)), range(40)
            )
        )
    assert_same(total.compute(), together(range(40)))


def test_shards_of_processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(shard, range(4)))
    total = Accumulator(3)
    for part in parts:
        total.merge(part)
    assert_same(total.compute(), together(range(4)))


def test_shards_in_files(tmp_path):
    for seed in range(4):
        X, y = samples(seed, [30, 20, 10], 8, offset=5.0)
        np.save(tmp_path / f"features-{seed}.npy", X)
        np.save(tmp_path / f"labels-{seed}.npy", y)
    total = Accumulator(3)
    for seed in range(4):
        X = np.load(tmp_path / f"features-{seed}.npy", mmap_mode="r")
        total.update(X, np.load(tmp_path / f"labels-{seed}.npy"))
    assert_same(total.compute(), together(range(4)))


def test_statistics_in_files_are_shards_too(tmp_path):
    note = {"network": "mlp", "layer": "hidden1", "data": "made", "seed": 0, "epoch": 1}
    total = Accumulator(3)
    for seed in range(4):
        stats = shard(seed).compute()
        save_statistics(tmp_path / f"{seed}.npz", stats, note)
        total.merge(load_statistics(tmp_path / f"{seed}.npz")[0])
    assert_same(total.compute(), together(range(4)))


def test_an_accumulator_can_be_pickled_and_copied():
    total = shard(0)
    for again in (pickle.loads(pickle.dumps(total)), deepcopy(total)):
        again.merge(shard(1))
        assert_same(again.compute(), together(range(2)))
    assert_same(total.compute(), together(range(1)))


# ---- cost --------------------------------------------------------------------------------------


def test_a_million_samples_in_the_memory_of_the_sums():
    K, d, batch = 100, 16, 10_000
    rng = np.random.default_rng(0)
    means = rng.normal(size=(K, d))
    total, count = Accumulator(K), np.zeros(K, int)
    S, T = np.zeros((d, d)), np.zeros((K, d))
    tracemalloc.start()
    for _ in range(100):
        y = rng.integers(0, K, batch)
        X = (means[y] + rng.normal(size=(batch, d), scale=0.1)).astype(np.float32)
        total.update(X, y)
        X = X.astype(float) - means[y]
        count += np.bincount(y, minlength=K)
        S += X.T @ X
        np.add.at(T, y, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stats = total.compute()
    assert stats.N == 10**6
    assert peak < 20 * 8 * batch * d  # some arrays of one batch; all samples are 64 MB
    assert_close(stats.means, (means + T / count[:, None]).T)
    assert_close(stats.within, (S - T.T @ (T / count[:, None])) / 10**6)


def test_a_thousand_classes_in_random_shards():
    K, d, rng = 1000, 8, np.random.default_rng(1)
    y = rng.permutation(np.concatenate([np.arange(K), rng.integers(0, K, 9000)]))
    X = rng.normal(size=(K, d))[y] + 0.1 * rng.normal(size=(len(y), d))
    for seed in range(3):
        shards = split(len(y), 40, np.random.default_rng(seed))
        assert_same(accumulated(X, y, K, shards).compute(), of(X, y))


def test_a_small_batch_costs_nothing_for_the_classes_that_it_lacks():
    K, d = 20_000, 32
    total = Accumulator(K)
    total.update(np.ones((1, d)), [0])
    tracemalloc.start()
    for k in range(100):
        total.update(np.full((2, d), float(k)), [k, k + 1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * K * d / 10


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "X, y, error, sentence",
    [
        (np.ones((2, 4)), [0, 1], ValueError, r"must have 3 columns as before; .* given is 4\."),
        (np.ones((2, 3)), [0, 2], ValueError, r"labels must lie in 0\.\.1, but the label 2"),
        (np.ones((2, 3)), [0.0, 1.5], TypeError, "labels must be integers, not float64"),
        ([[1, np.nan, 1]], [0], ValueError, "features must be finite, but sample 0 has nan"),
        ([[1e200, 1, 1], [-1e200, 1, 1]], [0, 0], ValueError, "squares overflow"),
        (np.ones(3), [0], ValueError, r"features must have shape \(N, d\)"),
    ],
)
def test_a_refused_batch_changes_nothing(X, y, error, sentence):
    total = Accumulator(2)
    total.update([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], [0, 0])
    before = total.compute()
    with pytest.raises(error, match=sentence):
        total.update(X, y)
    after = total.compute()
    assert np.array_equal(before.means, after.means)
    assert np.array_equal(before.within, after.within)
    assert before.counts.tolist() == after.counts.tolist()


def test_refusals():
    total = Accumulator(2)
    assert repr(total) == "Accumulator(K=2, d=0, N=0)"
    with pytest.raises(ValueError, match=r"no samples have been added"):
        total.compute()
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        Accumulator(0)
    with pytest.raises(TypeError, match="num_classes must be an integer"):
        Accumulator(2.0)
    with pytest.raises(TypeError, match="other must be a ClassStatistics"):
        total.merge(np.ones((2, 3)))
    for other in (Accumulator(3), of(np.ones((3, 1)), [0, 1, 2])):
        with pytest.raises(ValueError, match="must agree in K, but these have 2 and 3"):
            total.merge(other)
    total.merge(Accumulator(2))  # nothing comes from an empty one
    assert total.N == 0
