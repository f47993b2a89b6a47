"""The stored fits of all steps: a sample is fitted again, and nothing is missing."""

import json

import numpy as np
import pytest

from nclib import compare
from tools.fits import (
    PREDICTIONS,
    STORED,
    Step,
    carried,
    fingerprint,
    fitted,
    numbers_of,
    stored_steps,
)

FILE = json.loads(STORED.read_text(encoding="utf-8"))
RECORDS = {Step(*(record[field] for field in Step._fields)): record for record in FILE["steps"]}
SAMPLE = [
    Step("mlp-mnist", 1, "layer 5", "layer 6"),
    Step("resnet18-mnist", 0, "block 7", "block 8"),
    Step("resnet18-cifar10", 2, "block 6", "block 7"),
]


def test_all_steps_whose_statistics_are_stored_are_fitted():
    assert list(RECORDS) == stored_steps()
    assert len(RECORDS) == len(FILE["steps"]) == 78
    assert FILE["statistics"] == fingerprint()


@pytest.mark.parametrize("step", SAMPLE, ids=lambda step: f"{step.network}-{step.seed}")
def test_a_sample_is_fitted_again(step):
    again = fitted(step)
    record = RECORDS[step]
    for name in PREDICTIONS:
        for key in ("loss", "scale", "errors"):
            assert again[name][key] == pytest.approx(record[name][key], rel=1e-4, abs=1e-5)
        assert again[name]["numbers"] == pytest.approx(record[name]["numbers"], rel=1e-3)
    assert again["the model"]["certified"] == record["the model"]["certified"]


@pytest.mark.parametrize("step", RECORDS, ids=lambda step: "-".join(map(str, step)))
def test_numbers_of_a_step_give_its_losses_and_errors(step):
    """So that no record is another seed's or another step's."""
    record = RECORDS[step]
    found = carried(*step.load(), numbers_of(record))
    assert found == pytest.approx({name: record[name]["loss"] for name in PREDICTIONS}, rel=1e-4)
    for name in PREDICTIONS:
        nc1_trace, nc1, _, gram, _ = record[name]["errors"]
        assert record[name]["loss"] == pytest.approx(np.hypot(np.hypot(nc1_trace, nc1), gram))
    errors = compare(*step.load())
    assert record["unchanged"]["errors"] == pytest.approx(list(errors), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("step", SAMPLE, ids=lambda step: f"{step.network}-{step.seed}")
def test_a_sample_is_predicted_with_the_numbers_of_the_other_seeds_again(step):
    others = [seed for seed in (0, 1, 2) if seed != step.seed]
    for seed, losses in zip(others, RECORDS[step]["other seeds"], strict=True):
        found = carried(*step.load(), numbers_of(RECORDS[step._replace(seed=seed)]))
        assert found == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("step", SAMPLE, ids=lambda step: f"{step.network}-{step.seed}")
def test_a_sample_is_carried_again(step):
    found = carried(*step.load(), numbers_of(RECORDS[step.before]))
    assert found == pytest.approx(RECORDS[step]["carried"], rel=1e-4)


def test_numbers_of_another_step_are_noticed():
    step, other, _ = SAMPLE
    assert RECORDS[step]["the model"]["loss"] != pytest.approx(
        RECORDS[other]["the model"]["loss"], rel=1e-3
    )
