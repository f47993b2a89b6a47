"""Layers that contract and equalize: what they do, and what fits them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

from nclib import baselines, compare, contracted, load_statistics, nc1_trace, nc2, shape
from tests.measured.layers import EARLIER, EQUAL, LATER, assert_same, layer, moved

NAMES = [
    "unchanged",
    "one contraction",
    "two contractions",
    "contraction and frame",
    "three numbers",
]


def test_contraction_does_what_it_says():
    found, before = contracted(EARLIER, 0.5, 0.2, 1.0), shape(EARLIER)
    inside, outside = 0.25 * before.inside, 0.04 * (1 - before.inside)
    assert shape(found).inside == pytest.approx(inside / (inside + outside), rel=1e-12)
    assert nc1_trace(found) == pytest.approx((inside + outside) * nc1_trace(EARLIER), rel=1e-12)
    np.testing.assert_allclose(found.means, EARLIER.means, atol=1e-13)


def test_power_zero_makes_a_frame_of_the_means():
    frame = contracted(EARLIER, 1.0, 1.0, 0.0)
    assert nc2(frame) < 1e-13 < nc2(EARLIER)
    assert_same(replace(frame, means=EARLIER.means), EARLIER)
    assert np.trace(frame.between) == pytest.approx(np.trace(EARLIER.between), rel=1e-12)


def test_equal_means_cannot_be_contracted():
    with pytest.raises(ValueError, match=r"^stats must have different class means"):
        contracted(EQUAL, 0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    "name, numbers, change",
    [
        ("unchanged", [], (1.0, 1.0, 1.0)),
        ("one contraction", [0.3], (0.3, 0.3, 1.0)),
        ("two contractions", [0.3, 0.6], (0.3, 0.6, 1.0)),
        ("contraction and frame", [0.3, 0.4], (0.3, 0.3, 0.4)),
        ("three numbers", [0.3, 0.6, 0.4], (0.3, 0.6, 0.4)),
    ],
)
def test_baselines_find_their_own_numbers_and_contain_each_other(name, numbers, change):
    found = baselines(
        EARLIER, moved(contracted(EARLIER, *change), ortho_group.rvs(6, random_state=2), unit=0.1)
    )
    assert list(found) == NAMES
    np.testing.assert_allclose(found[name].parameters, numbers, rtol=1e-6)
    assert found[name].scale == pytest.approx(0.1, rel=1e-6) and found[name].loss < 1e-7
    none, one, *two, three = (prediction.loss for prediction in found.values())
    assert none >= one - 1e-7
    assert one >= max(two) - 1e-7
    assert min(two) >= three - 1e-7
    assert [len(p.parameters) for p in found.values()] == [0, 1, 2, 2, 3]


def test_baselines_say_when_they_stop_at_an_edge():
    small = contracted(EARLIER, 1e-4, 1e-4, 1.0)
    found = baselines(EARLIER, small, ("nc1_trace",))["one contraction"]
    assert not found.interior and found.parameters == pytest.approx((1e-3,))
    large = contracted(EARLIER, 50.0, 50.0, 1.0)
    found = baselines(EARLIER, large, ("nc1_trace",))["one contraction"]
    assert not found.interior and found.parameters == pytest.approx((10,))
    assert baselines(EARLIER, contracted(EARLIER, 0.1, 0.1, 1.0))["one contraction"].interior


def test_baselines_miss_what_the_model_made_by_what_they_cannot_change():
    # Numbers that leave the geometry of the means alone fit the rest of what is fitted exactly.
    found = baselines(EARLIER, LATER, ("nc1_trace", "inside"))
    errors = {name: compare(p.statistics, LATER) for name, p in found.items()}
    still = compare(EARLIER, LATER)
    assert errors["unchanged"] == pytest.approx(still, rel=1e-9)
    assert errors["one contraction"].nc1_trace == pytest.approx(0, abs=1e-8)
    assert errors["one contraction"][2:] == pytest.approx(still[2:], rel=1e-9)
    assert errors["two contractions"].nc1_trace == pytest.approx(0, abs=1e-8)
    assert errors["two contractions"].inside == pytest.approx(0, abs=1e-8)
    assert errors["two contractions"].gram == pytest.approx(still.gram, rel=1e-9)
    assert still.gram > 0.05


def test_layers_with_different_classes_are_refused():
    with pytest.raises(ValueError, match="same classes, but have 4 and 3"):
        baselines(EARLIER, layer(K=3))


def test_a_family_never_loses_to_one_that_it_contains_where_means_hardly_differ():
    folder = Path(__file__).resolve().parents[2] / "book/results/statistics/reduced"
    pair = [
        load_statistics(folder / f"resnet18-mnist-seed0-block{i}.npz").statistics for i in (1, 2)
    ]
    found = baselines(*pair, ("nc1_trace", "nc1", "gram"))
    none, one, *two, three = (prediction.loss for prediction in found.values())
    assert none > one > two[1] and one > two[0] - 1e-7
    assert three <= min(two) + 1e-7
