"""The search for the member of a family that is most like a later layer."""

import numpy as np
import pytest

from nclib import Comparison, baselines, compare, contracted, fit
from nclib.measured.prediction import QUANTITIES, Range, closest
from tests.measured.layers import EARLIER, LATER, OTHER, moved


def two_contractions(numbers):
    return contracted(EARLIER, numbers[0], numbers[1], 1.0)


@pytest.fixture(scope="module")
def found():
    """The best of two contractions for a layer that is none of them."""
    return closest(two_contractions, [Range(1e-3, 10)] * 2, OTHER, QUANTITIES)


def test_the_prediction_is_the_member_of_its_numbers_after_scaling(found):
    member = two_contractions(found.parameters)
    np.testing.assert_array_equal(found.statistics.means, found.scale * member.means)
    np.testing.assert_array_equal(found.statistics.within, found.scale**2 * member.within)
    sizes = [np.linalg.norm(s.centered_means) for s in (found.statistics, OTHER)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-12)


def test_the_loss_adds_the_squares_of_the_fitted_errors(found):
    assert found.loss == pytest.approx(np.linalg.norm(compare(found.statistics, OTHER)), rel=1e-12)
    two = closest(two_contractions, [Range(1e-3, 10)] * 2, OTHER, ("inside", "gram"))
    errors = compare(two.statistics, OTHER)
    assert two.loss == pytest.approx(np.hypot(errors.inside, errors.gram), rel=1e-12)


def test_no_other_member_is_better(found):
    def loss(numbers):
        return np.linalg.norm(compare(two_contractions(numbers), OTHER))

    grid = np.geomspace(1e-2, 10, 15)
    assert found.loss <= min(loss((x, y)) for x in grid for y in grid)


def test_a_box_is_searched_to_its_edges_and_not_beyond():
    truth = contracted(EARLIER, 0.3, 0.6, 1.0)
    for box, expected, interior in [
        ([Range(0.2, 0.4), Range(0.5, 0.7)], (0.3, 0.6), True),
        ([Range(0.4, 0.9), Range(0.5, 0.7)], (0.4, None), False),
        ([Range(0.2, 0.4), Range(0.1, 0.5)], (None, 0.5), False),
    ]:
        found = closest(two_contractions, box, truth, QUANTITIES)
        assert found.interior is interior
        for number, edges, value in zip(found.parameters, box, expected, strict=True):
            assert edges.low <= number <= edges.high
            assert value is None or number == pytest.approx(value, rel=1e-3)


def test_numbers_within_a_hundredth_of_an_edge_are_on_it():
    truth = contracted(EARLIER, 0.3, 0.3, 1.0)
    for low, interior in [(0.3 / 1.02, True), (0.3 / 1.005, False)]:
        found = closest(
            lambda x: contracted(EARLIER, *x, *x, 1.0), [Range(low, 1)], truth, ("nc1",)
        )
        assert found.interior is interior
        found = closest(
            lambda x: contracted(EARLIER, *x, *x, 1.0), [Range(0.1, 0.09 / low)], truth, ("nc1",)
        )
        assert found.interior is interior


def test_the_search_starts_at_the_lowest_of_many_valleys():
    # A loss over two numbers with nine valleys near points of the grid; one in the middle of the
    # grid's order is deepest by far.
    box = [Range(1.0, np.exp(6))] * 2

    def waves(numbers):
        u, v = np.log(numbers) - 1
        height = 1 - (np.cos(np.pi * (u - 0.1)) + np.cos(np.pi * (v - 0.1))) / 4
        depth = np.exp(height - 0.4 * np.exp(-((u - 2.1) ** 2) - (v - 0.1) ** 2))
        return contracted(EARLIER, depth, depth, 1.0)

    found = closest(waves, box, EARLIER, ("nc1",))
    np.testing.assert_allclose(np.log(found.parameters), [3.1, 1.1], atol=1e-3)
    assert found.loss == pytest.approx(0.2, rel=1e-6)


def test_a_family_of_one_member_has_nothing_to_fit():
    found = closest(lambda _: EARLIER, [], moved(OTHER, unit=3.0), QUANTITIES)
    assert (found.parameters, found.interior) == ((), True)
    assert found.loss == pytest.approx(np.linalg.norm(compare(EARLIER, OTHER)), rel=1e-12)


def test_predictions_compare_hash_and_print_on_one_line(found):
    again = closest(two_contractions, [Range(1e-3, 10)] * 2, OTHER, QUANTITIES)
    assert found == found and found != again and len({found, again}) == 2
    assert again.parameters == found.parameters
    numbers = "parameters=({:.4g}, {:.4g}), interior=True".format(*found.parameters)
    assert repr(found) == (f"Prediction({numbers}, loss={found.loss:.4g}, scale={found.scale:.4g})")
    single = baselines(EARLIER, LATER, ("nc1",))["one contraction"]
    assert repr(single).startswith(f"Prediction(parameters=({single.parameters[0]:.4g},), ")


@pytest.mark.parametrize("quantities", [(), ("nc2",), "gram", ("gram", "size")])
@pytest.mark.parametrize("function", [fit, baselines])
def test_unknown_quantities_are_refused(function, quantities):
    with pytest.raises(ValueError, match=r"quantities must be some of .*, but quantities = .*\.$"):
        function(EARLIER, LATER, quantities)


def test_all_errors_are_fitted_by_default():
    assert Comparison._fields == QUANTITIES
    assert baselines.__defaults__ == fit.__defaults__ == (QUANTITIES,)
