"""The verdicts on networks with batch normalization, found a second time from plain files."""

import copy
import json

import pytest

from nclib.networks.experiments import normalized
from tests.measured.independent import RESULTS
from tests.measured.printed import lines

FOLDER = RESULTS / "normalized/reduced"
CHAPTER = RESULTS.parent / "networks/normalized.ipynb"
RUNS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def counts(runs):
    """Fulfilled and asked, criterion by criterion, in the words of the plan."""
    found = {"N1": [0, 0], "N2": [0, 0], "N3": [0, 0], "N4": [0, 0]}

    def ask(name, answer):
        found[name][0] += bool(answer)
        found[name][1] += 1

    for run in runs:
        kind = run["case"]["normalization"]
        if kind == "none":
            continue
        rest = [b["cosine"] for b in run["rest"]["blocks"] if b["live"] > 0]
        sgd = [b["cosine"] for b in run["training"][-1]["blocks"] if b["live"] > 0]
        ask({"inside": "N1", "end": "N2"}[kind], rest and min(rest) > 0.99)
        ask("N3", sgd and min(sgd) > 0.9)
        if run["rest"]["loss"] <= 2.302585 - 0.001:
            ask("N4", run["rest"]["nc1_trace"] < run["input"]["nc1_trace"])
    return {name: tuple(pair) for name, pair in found.items()}


def word(fulfilled, asked):
    if fulfilled >= 0.9 * asked:
        return "yes"
    return "no" if 2 * fulfilled <= asked else "undetermined"


def test_all_networks_of_the_plan_are_there_and_from_one_source():
    names = sorted(case.name for case in normalized.cases("reduced"))
    assert sorted(normalized.Case(**run["case"]).name for run in RUNS) == names
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == names
    assert len({run["data"]["fingerprint"] for run in RUNS}) == 1
    assert len({run["part"]["commit"] for run in RUNS}) == 1


def test_the_verdicts_are_found_again_from_plain_files():
    again = counts(RUNS)
    assert again == normalized.verdict(RUNS)
    printed = lines(CHAPTER)
    for name, (fulfilled, asked) in again.items():
        assert f"{name}: {word(fulfilled, asked)} ({fulfilled} of {asked})" in printed


def test_the_printed_metrics_are_those_of_the_files():
    printed = lines(CHAPTER)
    for run in RUNS:
        case, rest = run["case"], run["rest"]
        if case["normalization"] == "end":
            numbers = f"{rest['objective']:11.6f} {rest['nc1_trace']:7.4f} {rest['nc1']:7.4f}"
            who = f"seed {case['seed']}"
            assert f"{case['decay']:g}  {who:9}{numbers}" in printed


@pytest.mark.parametrize("place", ["rest", "training"])
def test_the_second_reading_notices_a_sign_that_is_turned(place):
    turned = copy.deepcopy(RUNS)
    run = next(r for r in turned if r["case"]["normalization"] == "end")
    state = run["rest"] if place == "rest" else run["training"][-1]
    state["blocks"][0]["cosine"] *= -1
    assert counts(turned) != counts(RUNS)


def test_the_second_reading_notices_two_kinds_that_are_swapped():
    swapped = copy.deepcopy(RUNS)
    for run in swapped:
        kinds = {"inside": "end", "end": "inside"}
        case = run["case"]
        case["normalization"] = kinds.get(case["normalization"], "none")
    assert counts(swapped) != counts(RUNS)
