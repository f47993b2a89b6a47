"""The experiment with batch normalization: what is run, that a small case runs, and that the
criteria can fail.
"""

import copy
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nclib.networks.experiments import horizons, normalized

CASES = list(normalized.cases("smoke"))
SMALL = [replace(c, depth=1, end=0.02, iterations=40, dimension=4, per_class=3) for c in CASES]


def test_the_plan_has_six_networks_of_each_kind():
    cases = list(normalized.cases("reduced"))
    assert len({case.name for case in cases}) == len(cases) == 18
    assert Counter(case.normalization for case in cases) == {"none": 6, "inside": 6, "end": 6}
    assert {(case.decay, case.seed) for case in cases} == {
        (w, seed) for w in (1e-3, 3e-3) for seed in (10, 11, 12)
    }


@pytest.fixture(scope="module")
def records():
    return [normalized.carry_out(case) for case in SMALL]


def test_networks_are_trained_measured_and_recorded_with_their_origin(records):
    for case, record in zip(SMALL, json.loads(json.dumps(records)), strict=True):
        assert normalized.Case(**record["case"]) == case
        assert record["data"]["samples"] == 30 and len(record["data"]["fingerprint"]) == 16
        assert record["part"]["versions"]["torch"] and "commit" in record["part"]
        assert len(record["rest"]["blocks"]) == 1 and record["training"][-1]["blocks"]
        assert record["rest"]["loss"] < np.log(10) and record["step"] == horizons.STEP


def test_decay_is_everywhere_under_sgd_and_not_where_length_is_taken_out_at_rest(monkeypatch):
    seen, trainer, settle = [], horizons.Trainer, normalized.settle

    def watched(network, samples, recipe, seed):
        seen.append((recipe.weight_decay, recipe.last_weight_decay, recipe.loss))
        return trainer(network, samples, recipe, seed=seed)

    def kept(network, samples, w, **options):
        seen.append((w, tuple(options["free"]), options["loss"]))
        return settle(network, samples, w, **options)

    monkeypatch.setattr(horizons, "Trainer", watched)
    monkeypatch.setattr(normalized, "settle", kept)
    free = {
        "none": (),
        "inside": ("blocks.0.inner.weight",),
        "end": ("blocks.0.inner.weight", "blocks.0.outer.weight"),
    }
    for case in SMALL:
        seen.clear()
        normalized.carry_out(replace(case, iterations=2))
        assert seen == [
            (0.004, 0.004, "cross-entropy"),
            (0.004, free[case.normalization], "cross-entropy"),
        ]


def fulfilled(records):
    found = copy.deepcopy(records)
    for record in found:
        for state in (record["rest"], record["training"][-1]):
            state["blocks"][0] |= {"cosine": 0.995, "live": 3}
        record["rest"]["nc1_trace"] = 0.9 * record["input"]["nc1_trace"]
    return found


def test_each_criterion_is_asked_and_can_fail(records):
    good = fulfilled(records)
    assert normalized.verdict(good) == {"N1": (1, 1), "N2": (1, 1), "N3": (2, 2), "N4": (2, 2)}
    bad = copy.deepcopy(good)
    for record in bad:
        record["rest"]["blocks"][0]["cosine"] = 0.989
        record["training"][-1]["blocks"][0]["cosine"] = 0.89
        record["rest"]["nc1_trace"] = 1.1 * record["input"]["nc1_trace"]
    assert normalized.verdict(bad) == {"N1": (0, 1), "N2": (0, 1), "N3": (0, 2), "N4": (0, 2)}
    off = copy.deepcopy(bad)
    for record in off:
        for state in (record["rest"], record["training"][-1]):
            state["blocks"][0] |= {"cosine": None, "live": 0}
        record["rest"]["loss"] = np.log(10) - 0.0005
    assert normalized.verdict(off) == {"N1": (0, 1), "N2": (0, 1), "N3": (0, 2), "N4": (0, 0)}
    first = {r["case"]["normalization"]: r for r in bad}
    assert normalized.verdict([first["inside"]])["N2"] == (0, 0)
    assert normalized.verdict([first["end"]])["N1"] == (0, 0)
    assert normalized.verdict([first["none"]])["N4"] == (0, 0)


def test_the_command_prints_the_control_and_the_verdicts(tmp_path, records, monkeypatch, capsys):
    by_name = {normalized.Case(**r["case"]).name: r for r in fulfilled(records)}
    monkeypatch.setattr(normalized, "cases", lambda scale: SMALL)
    monkeypatch.setattr(normalized, "carry_out", lambda case: by_name[case.name])
    arguments = ["--scale", "smoke", "--out", str(tmp_path)]
    assert normalized.main(["run", *arguments]) == 0
    assert normalized.main(["verdict", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "without normalization NC1~ falls in 1 of 1" in shown and "N4: 2 of 2" in shown
