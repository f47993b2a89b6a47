"""Runs of an experiment together: their order, means over seeds, what is said of their origin."""

import numpy as np
import pytest
from msgspec.structs import replace

from nclib.measured.files import place
from nclib.measured.summary import load_all, over_seeds, provenance
from tests.measured.example import GOOD

HEAD = "CIFAR-10 (JPEG copy), 1,000 training images; reduced scale; CPU, 1 thread; "


def with_loss(seed, loss):
    return replace(GOOD, seed=seed, epochs=replace(GOOD.epochs, loss=loss))


def test_all_results_of_an_experiment_in_order(tmp_path):
    assert load_all(tmp_path, "weight-decay") == []
    runs = [
        replace(GOOD, name=n, seed=s, scale=c)
        for n, s, c in [
            ("b", 2, "reduced"),
            ("a", 10, "reduced"),
            ("a", 2, "reduced"),
            ("a", 2, "full"),
            ("a", 2, "smoke"),
        ]
    ]
    for r in runs:
        r.save(place(tmp_path, r.experiment, r.scale, r.name, r.seed))
    assert load_all(tmp_path, "weight-decay", "reduced") == [runs[2], runs[1], runs[0]]
    assert load_all(tmp_path, "weight-decay") == [runs[4], runs[2], runs[3], runs[1], runs[0]]
    assert load_all(tmp_path, "end-to-end") == []


@pytest.mark.parametrize(
    "wrong", [("weight-decay", "full", "b", 2), ("weight-decay", "reduced", "b", 3)]
)
def test_a_result_in_the_wrong_place_is_refused(tmp_path, wrong):
    replace(GOOD, name="b", seed=2).save(place(tmp_path, *wrong))
    with pytest.raises(
        ValueError, match=r"b-seed\d\.json: .* belongs in .*weight-decay/reduced/b-seed2\.json\.$"
    ):
        load_all(tmp_path, "weight-decay")


def test_mean_and_deviation_over_seeds():
    runs = [with_loss(s, [1.0, x, None]) for s, x in enumerate([1.0, 2.0, 6.0])]
    found = over_seeds(runs, "loss")
    np.testing.assert_array_equal(found.mean, [1, 3, np.nan])
    np.testing.assert_allclose(found.deviation, [0, np.sqrt(7), np.nan], rtol=1e-15)
    assert found.seeds == 3
    assert over_seeds(runs, lambda r: r.series("loss")[1]).mean == 3


def test_one_seed_has_no_deviation():
    mean, deviation, seeds = over_seeds([GOOD], lambda r: r.probes(epoch=-1)["nc1"])
    assert (mean.tolist(), np.isnan(deviation).tolist(), seeds) == ([0.1, 0.02], [True, True], 1)
    assert np.isnan(over_seeds([GOOD], lambda r: 1.0).deviation)


@pytest.mark.parametrize(
    "change",
    [{"seed": 0}, {"name": "x"}, {"config": {}}, {"scale": "full"}, {"experiment": "x"}],
)
def test_only_one_run_at_different_seeds_has_a_mean(change):
    runs = [replace(GOOD, seed=seed) for seed in range(3)]
    with pytest.raises(
        ValueError, match=r"results must be one run at different seeds, but results = "
    ):
        over_seeds([*runs, replace(GOOD, **({"seed": 9} | change))], "loss")


def test_no_results_have_no_mean():
    with pytest.raises(ValueError, match=r"one run at different seeds, but results = \[\]\."):
        over_seeds([], "loss")


def test_provenance_of_one_run_at_several_seeds():
    runs = [replace(GOOD, seed=s) for s in (2, 0, 1)]
    tail = "2026-11-23; commit 1a2b3c4; "
    assert provenance(runs) == HEAD + "seeds 0-2; " + tail + "41 minutes in all."
    assert provenance(runs[:2]) == HEAD + "seeds 0, 2; " + tail + "27 minutes in all."
    assert provenance(runs[1:2]) == HEAD + "seed 0; " + tail + "14 minutes in all."


def test_provenance_says_what_is_unfinished_and_not_recorded():
    late = replace(
        GOOD, started="2026-12-01T00:00:00+00:00", commit=None, complete=False, duration_s=9000
    )
    assert provenance([late, GOOD]) == HEAD + (
        "seed 0; 2026-11-23 to 2026-12-01; commit not recorded and 1a2b3c4; 2.7 hours in all; "
        "incomplete (1 of 2 runs unfinished)."
    )


def test_provenance_joins_what_differs():
    other = replace(
        GOOD,
        data=replace(GOOD.data, source="MNIST", split="test"),
        scale="full",
        device="one GPU",
        duration_s=0.04,
    )
    assert provenance([other, replace(GOOD, duration_s=11)]) == (
        "MNIST, 1,000 test images and CIFAR-10 (JPEG copy), 1,000 training images; "
        "full and reduced scale; one GPU and CPU, 1 thread; seed 0; 2026-11-23; commit 1a2b3c4; "
        "11.0 seconds in all."
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 seconds"),
        (98.94, "98.9 seconds"),
        (120, "2 minutes"),
        (5998, "100 minutes"),
        (6000, "1.7 hours"),
        (36_000, "10.0 hours"),
        (360_000, "100.0 hours"),
    ],
)
def test_time_is_said_in_seconds_minutes_or_hours(seconds, words):
    assert provenance([replace(GOOD, duration_s=seconds)]).endswith(f"; {words} in all.")


def test_no_results_come_from_nowhere():
    with pytest.raises(ValueError, match=r"^results must be one at least, but there are none\.$"):
        provenance([])
