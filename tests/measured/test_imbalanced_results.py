"""The verdicts on the imbalanced run, found a second time from plain files."""

import json
import math
from itertools import combinations
from statistics import fmean, stdev

import pytest

from nclib.networks.experiments import imbalance as runs
from tests.measured.independent import RESULTS, student
from tests.measured.printed import lines

CHAPTER = RESULTS.parent / "beyond/imbalance.ipynb"
FOLDER = RESULTS / "imbalance/reduced"
LARGE, SMALL = range(5), range(5, 10)
DECAYS = {"mse": (0.003, 0.03), "cross-entropy": (0.01, 0.1)}
RATIOS, SEEDS = (10, 50, 200), (0, 2, 4)


def files():
    found = {}
    for path in FOLDER.glob("*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        case = run["case"]
        found[case["loss"], case["decay"], case["ratio"], case["seed"]] = run
    return found


RUNS = files()


def cosine(run, half=SMALL):
    table = run["measured"]["cosines of rows"]
    return fmean(table[i][j] for i, j in combinations(half, 2))


def length(run, what, half=SMALL):
    values = run["measured"][what]
    others = [k for k in range(10) if k not in half]
    return math.log2(fmean(values[k] for k in half) / fmean(values[k] for k in others))


def rests(loss, decay):
    """Seeds of which all four networks have come to rest."""
    found = []
    for seed in SEEDS:
        ends = [RUNS[loss, decay, ratio, seed]["ends"] for ratio in (1, *RATIOS)]
        if all(a["objective"] <= 1.001 * b["objective"] for a, b in ends):
            found.append(seed)
    return found


def interval(values):
    half = student(0.95, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def larger_yardstick(loss, decay, statistic):
    """Of differences between seeds, and between halves of the classes."""
    base = [RUNS[loss, decay, 1, seed] for seed in SEEDS]
    values = [statistic(run) for run in base]
    between = math.sqrt(fmean((a - b) ** 2 for a in values for b in values if a is not b))
    squares = []
    for run in base:
        for half in combinations(range(10), 5):
            others = [k for k in range(10) if k not in half]
            gap = statistic(run, half)
            if statistic is cosine:
                gap -= statistic(run, others)
            squares.append(gap**2)
    return max(between, math.sqrt(fmean(squares)))


def word(low, high, sign, limit):
    if sign == 0:
        if -limit < low and high < limit:
            return "yes"
        return "no" if low > limit or high < -limit else "undetermined"
    if sign * low > 0 and sign * high > 0:
        return "yes"
    return "no" if sign * low < 0 and sign * high < 0 else "undetermined"


def both(name, loss, decay, ratio, sign):
    """The verdict of all seeds, and undetermined if the rested ones do not say the same."""
    strong = DECAYS[loss].index(decay)
    other = DECAYS["mse"][strong]

    def statistic(run, half=SMALL):
        if name in ("I4", "I5"):
            return length(run, "rows" if name == "I4" else "means", half)
        return cosine(run, half)

    def change(loss, decay, seed):
        return statistic(RUNS[loss, decay, ratio, seed]) - statistic(RUNS[loss, decay, 1, seed])

    def judged(seeds):
        if len(seeds) < 2:
            return "undetermined"
        values = [change(loss, decay, seed) for seed in seeds]
        if name == "I3":
            moved = [change("mse", other, seed) for seed in seeds]
            values = [a - b for a, b in zip(values, moved, strict=True)]
        limit = 0.2 * larger_yardstick(loss, decay, cosine) if sign == 0 else 0
        return word(*interval(values), sign, limit)

    rested = rests(loss, decay)
    if name == "I3":
        rested = [seed for seed in rested if seed in rests("mse", other)]
    first, second = judged(SEEDS), judged(rested)
    return first if first == second else "undetermined"


def asked():
    """What the plan asks, written out again."""
    for ratio in RATIOS:
        for loss, decays in DECAYS.items():
            for strong, decay in enumerate(decays):
                dead = loss == "mse" and strong and ratio == 200
                if loss == "mse" and not dead:
                    yield "I2", loss, decay, ratio, 0
                if loss == "cross-entropy":
                    yield "I1", loss, decay, ratio, 1
                    yield "I3", loss, decay, ratio, 1
                yield "I4", loss, decay, ratio, -1
                if not dead:
                    shorter = loss == "cross-entropy" and strong and ratio >= 50
                    yield "I5", loss, decay, ratio, -1 if shorter else 1


def agreements():
    """How often each reading is right, from the formulas of the plan."""
    right = dict.fromkeys(("free", "one layer", "all layers"), 0)
    for (loss, w, ratio, seed), run in RUNS.items():
        if ratio == 1:
            continue
        base = RUNS[loss, w, 1, seed]["measured"]
        lambda_W = 10 * w
        lambda_H = w * base["square of W"] / base["square of last features"]
        lambda_1 = w * base["square of W"] / base["square of first features"]
        m = 2 / (ratio + 1)
        said = {
            "free": m <= lambda_W * lambda_H,
            "one layer": m <= math.sqrt(lambda_W * lambda_H),
            "all layers": m**3 <= 16 * lambda_1 * lambda_W**2,
        }
        dead = fmean(run["measured"]["score"][k] for k in SMALL) < 0.1
        for reading in right:
            right[reading] += said[reading] == dead
    return right


def test_all_networks_of_the_plan_are_there_with_one_commit():
    assert set(RUNS) == {
        (loss, decay, ratio, seed)
        for loss, decays in DECAYS.items()
        for decay in decays
        for ratio in (1, *RATIOS)
        for seed in SEEDS
    }
    assert len({run["part"]["commit"] for run in RUNS.values()} - {None}) == 1
    assert len({run["data"]["fingerprint"] for run in RUNS.values()}) == 1


def test_the_verdicts_are_found_again_from_plain_files():
    parts = runs.answers(list(RUNS.values()))
    for part in parts:
        if part.asked.name in ("I1", "I2"):
            expected = larger_yardstick(part.asked.loss, part.asked.decay, cosine)
            assert part.interval.yardstick == pytest.approx(expected, rel=1e-9)
    ours = {part.asked: str(part.verdict) for part in parts}
    assert ours == {question: both(*question) for question in asked()}
    counts = agreements()
    theirs = runs.agreements(list(RUNS.values()))
    assert theirs == {reading: (count, 36) for reading, count in counts.items()}


@pytest.mark.parametrize("name", ["I1", "I2", "I3", "I4", "I5"])
def test_the_chapter_prints_these_verdicts(name):
    words = [both(*question) for question in asked() if question[0] == name]
    counted = ", ".join(f"{words.count(x)} {x}" for x in ("yes", "no", "undetermined"))
    whole = "no" if "no" in words else "yes" if set(words) == {"yes"} else "undetermined"
    assert f"{name}: {whole} ({counted})" in lines(CHAPTER)


def test_the_chapter_prints_how_often_each_reading_is_right():
    words = {"free": "no", "one layer": "undetermined", "all layers": "yes"}
    for reading, count in agreements().items():
        assert f"{reading:10s} {count} of 36: {words[reading]}" in lines(
            RESULTS.parent / "beyond/imbalance.ipynb"
        )


def test_swapped_networks_change_the_verdicts():
    """The balanced and the most imbalanced networks exchange their measurements."""
    swapped = []
    for (loss, decay, ratio, seed), run in RUNS.items():
        other = RUNS[loss, decay, {1: 200, 200: 1}.get(ratio, ratio), seed]
        swapped.append({**run, "measured": other["measured"]})
    found = {name: str(verdict) for name, verdict in runs.verdict(swapped).items()}
    assert found["I1"] == found["I4"] == "no"
    assert found["I6 all layers"] != "yes"
