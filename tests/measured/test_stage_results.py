"""The verdicts on stages that last until the loss rests, found a second time from plain files."""

import copy
import math
from itertools import pairwise
from statistics import fmean, stdev

import pytest

from tests.measured.independent import RESULTS, group, runs, student
from tests.measured.printed import lines

CHAPTER = RESULTS.parent / "networks/growing.ipynb"
DATA, DECAYS, SEEDS = ("cifar10", "mnist"), ("w0", "w5e-4", "w2e-3"), (0, 1, 2)
LONG = [f"{data}-{w}" for data in DATA for w in DECAYS]


@pytest.fixture(scope="module")
def grown():
    return runs("stage-length", "reduced")


def ends(run):
    """Number of the stage and its last epoch, from the column of stages."""
    last = {}
    for stage, epoch in zip(run["epochs"]["stage"], run["epochs"]["epoch"], strict=True):
        last[stage] = max(epoch, last.get(stage, 0))
    return last


def lengths(run):
    return [b - a for a, b in pairwise([0, *(ends(run)[s] for s in range(1, 11))])]


def by_layer(run, metric):
    """A metric of each layer at the end of its stage."""
    table = run["layers"]
    rows = {
        (name, epoch): value
        for name, epoch, value in zip(table["layer"], table["epoch"], table[metric], strict=True)
    }
    return [rows[f"layer {i}", ends(run)[i]] for i in range(1, 11)]


def count(found, names):
    """At how many added layers both metrics fall, and each of them, of how many."""
    both = one = other = steps = 0
    for name in names:
        for run in group(found, name):
            pairs = [list(pairwise(by_layer(run, m))) for m in ("nc1", "nc1_trace")]
            for (a, b), (c, d) in zip(*pairs, strict=True):
                steps += 1
                one += b < a
                other += d < c
                both += b < a and d < c
    return both, one, other, steps


def interval(found, name, metric="nc1"):
    """Mean and ends of the 95 % interval of the change of layers 6 to 10, in bits."""

    def level(run):
        return fmean(math.log2(x) for x in by_layer(run, metric)[5:])

    pairs = zip(group(found, name), group(found, f"{name}-short"), strict=True)
    changes = [level(a) - level(b) for a, b in pairs]
    assert len(changes) == 3
    half = student(0.95, 2) * stdev(changes) / math.sqrt(3)
    return fmean(changes), fmean(changes) - half, fmean(changes) + half


def verdict(found):
    """G1 and G2 in the words of the plan."""
    both, _, _, steps = count(found, LONG)
    first = "yes" if both >= 0.95 * steps else "no" if 2 * both <= steps else "undetermined"
    spans = [interval(found, name)[1:] for name in LONG]
    if all(high < 0 for _, high in spans):
        return first, "yes"
    return first, "no" if any(low > 0 for low, _ in spans) else "undetermined"


def test_all_networks_of_the_plan_are_there(grown):
    wanted = {(f"{name}{end}", seed) for name in LONG for end in ("", "-short") for seed in SEEDS}
    assert set(grown) == wanted
    for (name, _), run in grown.items():
        assert len(lengths(run)) == 10
        short = name.endswith("-short")
        assert set(lengths(run)) == {20} if short else 20 <= min(lengths(run)) <= 200


def test_a_long_stage_ended_when_the_plan_says_so(grown):
    """Ten epochs against the ten before, below 1 %, for the first time, or after 200 epochs."""
    for (name, _), run in grown.items():
        if name.endswith("-short"):
            continue
        table = zip(run["epochs"]["stage"], run["epochs"]["batch_loss"], strict=True)
        losses = {s: [] for s in range(1, 11)}
        for stage, loss in table:
            if loss is not None:
                losses[stage].append(loss)
        for found, length in zip(losses.values(), lengths(run), strict=True):
            assert len(found) == length
            rests = [
                abs(fmean(found[e - 10 : e]) / fmean(found[e - 20 : e - 10]) - 1) < 0.01
                for e in range(20, length + 1)
            ]
            assert not any(rests[:-1]) and (rests[-1] or length == 200)


def test_the_verdicts_are_found_again_from_plain_files(grown):
    assert verdict(grown) == ("yes", "yes")
    both, _, _, steps = count(grown, LONG)
    assert f"G1: yes ({both} of {steps})" in lines(CHAPTER, "check-E1-G1")
    assert "G2: yes" in lines(CHAPTER, "check-E1-G2")


def test_the_printed_intervals_are_those_of_the_files(grown):
    printed = lines(CHAPTER, "check-E1-G2")
    for name in LONG:
        mean, low, high = interval(grown, name)
        other = interval(grown, name, "nc1_trace")[0]
        (line,) = [line for line in printed if line.startswith(f"{name} ")]
        assert f"{mean:6.2f}  [{low:5.2f}, {high:5.2f}]" in line and line.endswith(f"{other:12.2f}")


def test_the_printed_lengths_are_those_of_the_files(grown):
    printed = lines(CHAPTER, "check-E1-length")
    at_limit = {n: sum(x == 200 for run in group(grown, n) for x in lengths(run)) for n in LONG}
    without = sum(n for name, n in at_limit.items() if name.endswith("-w0"))
    total = sum(at_limit.values())
    sentence = f"{total} of 180 long stages met the limit, {without} of them without decay"
    assert sentence in printed
    for name in LONG:
        first, *later = zip(*map(lengths, group(grown, name)), strict=True)
        (line,) = [line for line in printed if line.startswith(f"{name} ") and " to " in line]
        numbers = [min(first), max(first), min(map(min, later)), max(map(max, later))]
        words = line.split()
        assert [int(words[i]) for i in (1, 3, 4, 6)] == numbers and int(words[7]) == at_limit[name]


def test_the_second_reading_notices_lengths_that_are_swapped(grown):
    swapped = copy.deepcopy(grown)
    for seed in SEEDS:
        a, b = ("mnist-w0", seed), ("mnist-w0-short", seed)
        swapped[a], swapped[b] = swapped[b], swapped[a]
    assert verdict(swapped)[1] == "no"


def test_the_second_reading_notices_metrics_that_rise(grown):
    turned = copy.deepcopy(grown)
    for (name, _), run in turned.items():
        if name in LONG[:3]:
            run["layers"]["nc1"] = run["layers"]["nc1"][::-1]
    assert verdict(turned)[0] != "yes"
