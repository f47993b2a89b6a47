"""Stored networks of the experiment with held-out samples: each with its origin."""

import copy
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nclib import load_statistics, nc1_trace
from tests.measured.printed import lines
from tools import fits, held_out

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book/results/held-out/reduced"
CHAPTER = ROOT / "book/networks/prediction.ipynb"
RECORDS = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_stored_network_is_one_of_the_plan_with_its_origin(name):
    record = RECORDS[name]
    case = held_out.Case(**record["case"])
    assert case.name == name and case.scale == "reduced"
    assert len(record["part"]["commit"]) == 40 and record["part"]["processor"]
    assert record["part"]["instructions"].endswith("oneDNN up to AVX2")
    points = fits.POINTS[case.network]
    assert [row["point"] for row in record["points"]] == list(points)
    steps = [(step["earlier"], step["later"]) for step in record["steps"]]
    assert steps == list(pairwise(points))
    assert all(len(step["halves"]) == 2 and len(step["apart"]) == 5 for step in record["steps"])
    assert all(np.isfinite(step["rest apart"]) for step in record["steps"])


def test_all_networks_of_the_plan_are_there():
    assert sorted(RECORDS) == sorted(case.name for case in held_out.cases("reduced"))
    assert sum(len(record["steps"]) for record in RECORDS.values()) == 78


def test_statistics_of_seeds_1_and_2_are_those_of_the_networks_trained_again():
    seen = Counter()
    for path in sorted(fits.STATISTICS.glob("resnet18-*.npz")):
        stats, note = load_statistics(path)
        assert ("run" in note) == (note["seed"] > 0)
        if "run" not in note:
            continue
        record = json.loads((ROOT / "book/results" / note["run"]).read_text("utf-8"))
        assert record["case"]["network"] == note["network"]
        assert record["case"]["seed"] == note["seed"]
        for key in ("started", "commit", "processor", "instructions"):
            assert record["part"][key] == note[key]
        (row,) = (row for row in record["points"] if row["point"] == note["layer"])
        assert row["nc1_trace"] == pytest.approx(nc1_trace(stats), rel=1e-12)
        assert row["trace_within"] == pytest.approx(np.trace(stats.within), rel=1e-12)
        assert row["trace_between"] == pytest.approx(np.trace(stats.between), rel=1e-12)
        seen[note["network"], note["seed"]] += 1
    names = ("resnet18-mnist", "resnet18-cifar10")
    assert seen == dict.fromkeys([(name, seed) for name in names for seed in (1, 2)], 9)


STEPS = [step for record in RECORDS.values() for step in record["steps"]]
KINDS = {"layer": "perceptron layers", "projection": "projections", "identity": "identity"}


def by_kind():
    """The steps by the names that the chapter has for their kinds."""
    found = {}
    for step in STEPS:
        name = "last block" if step["later"] == "block 8" else KINDS[step["kind"]]
        found.setdefault(name, []).append(step)
    assert len(found) == 4
    return found


def test_more_numbers_never_fit_worse_and_no_change_is_the_same_on_both_halves():
    """Losses in sample and out of sample, or those of two rivals, cannot be swapped unseen."""
    for step in STEPS:
        one, two = step["halves"]
        assert one["unchanged"]["in"] == two["unchanged"]["out"]
        assert one["unchanged"]["out"] == two["unchanged"]["in"]
        for half in step["halves"]:
            loss = {name: half[name]["in"] * (1 - 1e-5) for name in fits.PREDICTIONS}
            assert loss["one contraction"] <= half["unchanged"]["in"]
            for name in fits.RIVALS[2]:
                assert loss[name] <= half["one contraction"]["in"]
                assert loss["three numbers"] <= half[name]["in"]


def test_the_chapter_prints_the_counts_on_the_other_half():
    printed = lines(CHAPTER, "check-prediction-outside")
    for name, steps in by_kind().items():
        for numbers, rivals in ({0: ("unchanged",)} | fits.RIVALS).items():
            pairs = [(held_out.of_model(s), held_out.of_best(s, rivals)) for s in steps]
            (line,) = (x for x in printed if x.startswith(name) and f"{numbers} numbers" in x)
            found = [int(x) for x in line.split("numbers")[1].replace(",", " ").split()]
            for i, key in enumerate(("inside", "outside")):
                words = [
                    held_out.word(getattr(mine, key), getattr(best, key)) for mine, best in pairs
                ]
                counts = [words.count("better"), words.count("worse")]
                assert found[2 * i : 2 * i + 2] == counts


def test_the_chapter_prints_the_verdicts_of_the_plan_on_halves():
    printed = lines(CHAPTER, "check-prediction-halves")
    for name, (yes, asked) in held_out.verdict(STEPS).items():
        assert f"{name}: {yes} of {asked}" in printed


def test_the_chapter_counts_them_for_each_kind_of_step():
    printed = lines(CHAPTER, "check-prediction-halves")
    for name, steps in by_kind().items():
        (line,) = (line for line in printed if line.startswith(name))
        counts = [f"{yes} of {asked}" for yes, asked in held_out.verdict(steps).values()]
        assert " ".join(line.split()).startswith(f"{name} {' '.join(counts)}")


def test_the_verdicts_on_halves_notice_losses_that_are_swapped():
    swapped = copy.deepcopy(STEPS)
    for step in swapped:
        for half in step["halves"]:
            half["the model"], half["unchanged"] = half["unchanged"], half["the model"]
    assert held_out.verdict(swapped) != held_out.verdict(STEPS)
