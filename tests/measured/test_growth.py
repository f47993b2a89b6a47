"""Grown networks: where stages end, which steps fall, and what the length of stages changes."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from nclib import (
    Interval,
    Result,
    Verdict,
    deep_bits,
    falls,
    judge_length,
    length_changes,
    load_all,
    settled,
    stage_ends,
    stage_lengths,
)

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"
STORED = load_all(RESULTS, "layerwise", "full")
YES, NO, UNDETERMINED = Verdict.YES, Verdict.NO, Verdict.UNDETERMINED
DOWN = 2.0 ** -np.arange(10)


def made(name, seed, nc1, nc1_trace=None, lengths=None, **config):
    """A made-up run: metrics by layer, epochs by stage, and what differs in its settings."""
    count = len(nc1)
    lengths = [2] * count if lengths is None else lengths
    ends = np.cumsum(lengths).tolist()
    stages = [1] + [i + 1 for i, n in enumerate(lengths) for _ in range(n)]
    epochs = list(range(ends[-1] + 1))
    none = [None] * len(epochs)
    columns = dict.fromkeys(STORED[0].epochs.columns(), none)
    nothing = {c: [None] * count for c in STORED[0].layers.columns()}
    undefined = [None if np.isnan(x) else float(x) for x in nc1]
    other = undefined if nc1_trace is None else [float(x) for x in nc1_trace]
    return structs.replace(
        STORED[0],
        name=name,
        seed=seed,
        config=STORED[0].config | {"epochs": 2} | config,
        epochs=type(STORED[0].epochs)(**columns | {"epoch": epochs, "stage": stages}),
        layers=type(STORED[0].layers)(
            **nothing
            | {
                "epoch": ends,
                "layer": [f"layer {i + 1}" for i in range(count)],
                "dim": [4] * count,
                "nc1": undefined,
                "nc1_trace": other,
            }
        ),
    )


def pairs(gaps, name="mnist-w0"):
    """Long and short runs whose deep layers differ by these bits, by seed."""
    for seed, gap in enumerate(gaps):
        level = 2.0 ** (seed * np.ones(10))
        yield made(f"{name}-short", seed, level)
        yield made(name, seed, level * 2.0**gap, lengths=[3] * 10, epochs=3, settle="1 0.1")


# ---- stages --------------------------------------------------------------------------------------


def test_a_loss_has_settled_when_two_means_differ_by_less_than_the_share():
    before, after = [1.0, 3.0], [1.9, 2.07]
    assert settled(before + after, 2, 0.01)
    assert not settled(before + after, 2, 0.007)  # 1.985 against 2
    assert settled(after + before, 2, 0.01)  # upwards as well
    assert not settled([2.0, 2.0, 2.0], 2, 0.01)  # too few
    assert settled([9.0, *before, *after], 2, 0.01)  # only the last four count
    assert not settled([0.0] * 4, 2, 0.01)


def test_a_loss_that_falls_as_a_power_settles_when_its_rate_is_small():
    losses = [1 / (1 + n) for n in range(2000)]
    first = next(n for n in range(2000) if settled(losses[:n], 10, 0.01))
    # Means of 1/n over two windows of ten differ by about 10 / n.
    assert 990 < first < 1030
    assert not any(settled(losses[:n], 10, 0.01) for n in range(first))


def test_lengths_of_stages():
    assert stage_ends([0, 1, 2, 3, 4, 5], [1, 1, 1, 2, 3, 3]) == [2, 3, 5]
    assert stage_ends([], []) == []
    assert stage_lengths(made("a", 0, DOWN[:3], lengths=[4, 1, 2])) == [4, 1, 2]
    assert all(stage_lengths(r) == [20] * 10 for r in STORED)


# ---- G1 ------------------------------------------------------------------------------------------


def test_steps_are_counted_for_each_metric_and_for_both():
    nc1, trace = [4, 3, 3, 2, 5], [4, 5, 2, 1, 0.5]
    assert falls([made("a", 0, nc1, trace)]) == (1, 2, 3, 4)
    assert falls([made("a", 0, trace, nc1)]) == (1, 3, 2, 4)
    assert falls([made("a", 0, DOWN), made("a", 1, nc1, trace)]) == (10, 11, 12, 13)
    assert falls([made("a", 0, DOWN[::-1])]) == (0, 0, 0, 9)
    assert falls(STORED) == (54, 54, 54, 54)


def test_an_undefined_metric_does_not_fall():
    nan = float("nan")
    assert falls([made("a", 0, [4, 3, nan, 1, 0.5], [4, 3, 2, 1, 0.5])]) == (2, 2, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, YES), (1, YES), (2, UNDETERMINED), (9, UNDETERMINED), (10, NO)]
)
def test_the_verdict_on_the_steps(wrong, verdict):
    """Twenty steps, of which one may rise and half must for a no."""
    ups = [1] * wrong + [-1] * (20 - wrong)
    x = 2.0 ** np.cumsum([0, *ups])
    found = falls([made("a", 0, x)])
    assert (found.both, found.steps, found.verdict) == (20 - wrong, 20, verdict)


def test_without_steps_there_is_no_verdict():
    assert falls([]) == (0, 0, 0, 0) and falls([]).verdict is UNDETERMINED


def test_runs_that_say_nothing_of_growth_are_refused():
    run = made("a", 3, DOWN)
    with pytest.raises(ValueError, match="a, seed 3, must be complete, but is not"):
        falls([structs.replace(run, complete=False)])
    with pytest.raises(ValueError, match="must be grown layer by layer, but was trained as a"):
        falls([made("a", 3, DOWN, grown=False)])
    with pytest.raises(ValueError, match="first, last must be layers of a network that has 4"):
        deep_bits(made("a", 3, DOWN[:4]))


# ---- G2 ------------------------------------------------------------------------------------------


def test_bits_of_the_deep_layers():
    assert deep_bits(made("a", 0, DOWN)) == -(5 + 6 + 7 + 8 + 9) / 5
    assert deep_bits(made("a", 0, DOWN, DOWN**2), "nc1_trace", 1, 3) == -2
    assert np.isnan(deep_bits(made("a", 0, [*DOWN[:9], float("nan")])))
    assert np.isnan(deep_bits(made("a", 0, [*DOWN[:9], 0.0])))
    assert deep_bits(made("a", 0, [float("nan"), *DOWN[1:]])) == -7


def test_long_stages_against_short_ones_of_the_same_seed():
    (name, change), *others = length_changes(pairs([-1.0, -1.1, -1.2])).items()
    assert (name, others, change.seeds) == ("mnist-w0", [], 3)
    assert change.mean == pytest.approx(-1.1)
    half = 4.302652729911275 * 0.1 / np.sqrt(3)
    assert (change.low, change.high) == pytest.approx((-1.1 - half, -1.1 + half))
    assert change.yardstick == pytest.approx(np.sqrt(2))  # short ones at 0, 1 and 2 bits
    assert judge_length({name: change}) is YES


def test_a_turned_sign_turns_the_verdict():
    assert judge_length(length_changes(pairs([1.0, 1.1, 1.2]))) is NO
    assert judge_length(length_changes(pairs([1.0, -1.1, 0.2]))) is UNDETERMINED
    found = [*pairs([-1.0, -1.1, -1.2]), *pairs([1.0, 1.1, 1.2], "cifar10-w0")]
    changes = length_changes(found)
    assert list(changes) == ["cifar10-w0", "mnist-w0"]
    assert judge_length(changes) is NO


def test_swapped_seeds_are_noticed():
    found = list(pairs([-1.0, -1.1, -1.2]))
    swapped = [
        structs.replace(r, seed=(r.seed + 1) % 3) if r.name.endswith("-short") else r for r in found
    ]
    (change,) = length_changes(swapped).values()
    assert change.mean == pytest.approx(-1.1)
    assert judge_length({"a": change}) is UNDETERMINED
    assert length_changes(reversed(found)) == length_changes(found)  # the order does not matter


def test_few_seeds_and_undefined_metrics_decide_nothing():
    changes = length_changes(pairs([-1.0, -1.1]))
    assert np.isnan(changes["mnist-w0"].high) and judge_length(changes) is UNDETERMINED
    *found, last = pairs([-1.0, -1.1, -1.2])
    dead = made(last.name, 2, [*DOWN[:9], float("nan")], lengths=[3] * 10, epochs=3, settle="1 0.1")
    changes = length_changes([*found, dead])
    assert np.all(np.isnan(changes["mnist-w0"][:3])) and judge_length(changes) is UNDETERMINED
    with pytest.raises(ValueError, match="verdicts must be one at least"):
        judge_length({})


def test_only_like_runs_are_compared():
    short, long = pairs([-1.0])
    with pytest.raises(ValueError, match="must hold mnist-w0-short, seed 0, but do not"):
        length_changes([long])
    with pytest.raises(ValueError, match="must hold each run once"):
        length_changes([short, long, short])
    sentence = "mnist-w0-short, seed 0, must differ from mnist-w0 in nothing but shorter stages"
    fewer = structs.replace(short.data, samples=5000)
    for other in (
        made(short.name, 0, DOWN, weight_decay=0.1),
        structs.replace(short, data=fewer),
        structs.replace(short, scale="reduced"),
        made(short.name, 0, DOWN, lengths=[4] * 10),
    ):
        with pytest.raises(ValueError, match=sentence):
            length_changes([other, long])


def test_the_interval_over_all_parts_is_asked_of_each():
    below, around = Interval(-1, -2, -0.5, 3, 1), Interval(-1, -2, 0.5, 3, 1)
    assert judge_length({"a": below, "b": around}) is UNDETERMINED
    assert judge_length({"a": below, "b": below}) is YES


def test_a_made_up_run_survives_its_file(tmp_path):
    run = made("a", 0, DOWN, lengths=[4, 1, 2] + [1] * 7, settle="10 0.01")
    run.save(tmp_path / "a.json")
    assert stage_lengths(Result.load(tmp_path / "a.json")) == stage_lengths(run)
