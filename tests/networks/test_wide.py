"""One wide block under the pull: what is run, its objective, and criteria that can fail."""

import copy
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nclib import ClassStatistics, minimize
from nclib.networks.experiments import wide
from nclib.networks.experiments.components import components

CASES = list(wide.cases("smoke"))
SMALL = replace(CASES[1], width=30, per_class=3, dimension=4, iterations=400)


def test_the_plan_has_72_blocks():
    reduced = list(wide.cases("reduced"))
    assert len({case.name for case in reduced}) == len(reduced) == 72
    assert Counter(case.width for case in reduced) == dict.fromkeys((8, 32, 128, 512), 18)
    assert {(case.per_class, case.dimension, case.iterations) for case in reduced} == {
        (50, 40, 2000)
    }


@pytest.fixture(scope="module")
def record():
    return wide.carry_out(SMALL)


def test_a_block_is_recorded_with_its_origin(record):
    again = json.loads(json.dumps(record))
    assert wide.Case(**again["case"]) == SMALL
    assert again["data"]["samples"] == 30 and len(again["data"]["fingerprint"]) == 16
    assert again["exact"]["status"] == "CONVERGED" and "commit" in again["part"]


def test_a_block_with_a_unit_for_each_sample_comes_near_and_a_narrow_one_does_not(record):
    narrow = wide.carry_out(replace(SMALL, width=1))
    assert 0 < wide.excess(record) < 0.02 < wide.excess(narrow)
    assert record["error"] < 0.3 < narrow["error"]
    assert wide.distance(record) < wide.distance(narrow)


def test_error_and_gradient_are_relative_to_the_exact_change_and_to_the_start(monkeypatch):
    narrow = replace(SMALL, width=3, iterations=50)
    values, labels, _ = components(SMALL.data, SMALL.per_class, SMALL.dimension)
    H0 = values / np.sqrt(SMALL.dimension)
    wanted = minimize(SMALL.model, ClassStatistics.from_features(H0, labels)).features(H0, labels)
    made = wide._train(narrow, H0, labels)[0]
    expected = np.linalg.norm(made - wanted) / np.linalg.norm(wanted - H0)
    assert wide.carry_out(narrow)["error"] == pytest.approx(expected, rel=1e-6)
    sizes = [np.linalg.norm(H - H0) for H in (made, wanted)]
    assert abs(sizes[0] / sizes[1] - 1) > 0.01  # which of them it is relative to can be told
    monkeypatch.setattr(
        wide.optimize, "minimize", lambda f, x, **kwargs: SimpleNamespace(x=x, nit=0)
    )
    assert wide._train(SMALL, H0, labels)[1]["gradient"] == pytest.approx(1)


def test_no_block_is_below_the_minimum():
    for case in CASES:
        assert wide.excess(wide.carry_out(replace(case, iterations=60))) > 0


def test_the_components_are_centered_and_scaled():
    x, labels, source = components("digits", 3, 4)
    assert x.shape == (30, 4) and np.abs(x.mean(axis=0)).max() < 1e-12
    assert np.mean(x**2) == pytest.approx(1) and Counter(labels) == dict.fromkeys(range(10), 3)
    assert source["samples"] == 30
    # The covariance of principal components is diagonal, largest first.
    covariance = x.T @ x
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-9
    assert np.all(np.diff(np.diag(covariance)) < 0)


def made(record, width, seed, excess, factor):
    """A record with a given excess and a given ratio of NC1~."""
    other = copy.deepcopy(record)
    other["case"] |= {"width": width, "seed": seed}
    other["block"]["objective"] = (1 + excess) * other["exact"]["objective"]
    other["block"]["nc1_trace"] = factor * other["exact"]["nc1_trace"]
    return other


def test_each_criterion_can_fail(record):
    good = [made(record, 512 // 4**k, s, 0.01 * 4**k, 1.009) for k in range(3) for s in range(3)]
    assert wide.excess(good[0]) == pytest.approx(0.01)
    assert wide.verdict(good) == {"W1": (1, 1), "W2": (3, 3)}
    one = [made(record, 512, 0, 0.9, 0.98), *good[1:]]
    assert wide.verdict(one) == {"W1": (1, 1), "W2": (2, 3)}  # a median: two of three seeds fall
    two = [one[0], made(record, 512, 1, 0.9, 1.011), *good[2:]]
    assert wide.verdict(two) == {"W1": (0, 1), "W2": (1, 3)}


def test_the_command_prints_what_did_not_rest(tmp_path, monkeypatch, capsys, record):
    monkeypatch.setattr(wide, "cases", lambda scale: [SMALL])
    monkeypatch.setattr(wide, "carry_out", lambda case: record | {"duration_s": 0.0})
    assert wide.main(["run", "--out", str(tmp_path)]) == 0
    assert wide.main(["verdict", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    stopped = int(record["block"]["gradient"] > wide.STILL)
    assert f"{stopped} stopped" in out and "W1: " in out


STORED = Path(__file__).parents[2] / "book" / "results" / "wide" / "reduced"


def stored():
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(STORED.glob("*.json"))]


def test_the_stored_verdicts_follow_from_the_files_read_another_way():
    """Medians by sorting, one dictionary of lists, no function of the experiment."""
    by_setting, near = {}, 0
    for text in sorted(STORED.glob("*.json")):
        data, beta, width, _ = text.stem.split("-")
        entry = json.loads(text.read_text(encoding="utf-8"))
        assert entry["part"]["commit"] and entry["exact"]["status"] == "CONVERGED"
        ratio = entry["block"]["objective"] / entry["exact"]["objective"]
        by_setting.setdefault((data, beta), {}).setdefault(int(width), []).append(ratio)
        if width == "512":
            near += 0.99 < entry["block"]["nc1_trace"] / entry["exact"]["nc1_trace"] < 1.01
    falling = 0
    for widths in by_setting.values():
        middle = [sorted(widths[m])[1] for m in (8, 32, 128, 512)]
        assert all(len(found) == 3 for found in widths.values())
        falling += all(a > b for a, b in pairwise(middle))
    assert wide.verdict(stored()) == {"W1": (falling, 6), "W2": (near, 18)}


def test_the_stored_verdicts_turn_when_widths_are_swapped_or_ratios_turned():
    swapped = stored()
    for record in swapped:
        width = record["case"]["width"]
        record["case"]["width"] = {32: 128, 128: 32}.get(width, width)
    assert wide.verdict(swapped)["W1"] == (0, 6)
    moved = stored()
    for record in moved:
        record["block"]["nc1_trace"] *= 1.02
    assert wide.verdict(moved)["W2"] == (0, 18)
