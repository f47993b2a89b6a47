"""What rotations and a change of unit leave as it is, and errors in it."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from nclib import Aligned, ClassStatistics, aligned, compare, nc1, nc1_trace, nc2, shape
from nclib.measured.shape import differences
from tests.measured.layers import EARLIER, LATER, SHAPELESS, layer, moved

# Means (+-2, 0, 0), covariance diag(1, 4, 0).
MADE = ClassStatistics(
    np.array([3, 3]), np.array([[2.0, -2.0], [0, 0], [0, 0]]), np.diag([1.0, 4.0, 0.0])
)


def test_shape_of_a_layer_made_by_hand():
    found = shape(moved(MADE, ortho_group.rvs(3, random_state=7), unit=0.2, shift=9.0))
    numbers = found.nc1_trace, found.nc1, found.nc2, found.inside
    assert numbers == pytest.approx((5 / 4, 1 / 8, 0, 1 / 5), abs=1e-12)
    np.testing.assert_allclose(found.gram, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(found.spectrum, np.array([2, 1, 0]) / 5**0.5, atol=1e-7)


def test_shape_holds_the_metrics_of_the_layer():
    found = shape(EARLIER)
    assert (found.nc1_trace, found.nc1, found.nc2) == (
        nc1_trace(EARLIER),
        nc1(EARLIER),
        nc2(EARLIER),
    )


def test_the_spectrum_falls_and_has_norm_one():
    found = shape(EARLIER)
    assert np.all(np.diff(found.spectrum) < 0) and found.spectrum.shape == (6,)
    assert np.linalg.norm(found.spectrum) == pytest.approx(1, rel=1e-14)
    variances = np.sort(np.linalg.eigvalsh(EARLIER.within))[::-1] / np.trace(EARLIER.within)
    np.testing.assert_allclose(found.spectrum**2, variances, rtol=1e-12)


def test_without_the_spectrum_all_else_is_the_same():
    full, short = shape(EARLIER), shape(EARLIER, spectrum=False)
    for name in ("nc1_trace", "nc1", "nc2", "inside"):
        assert getattr(full, name) == getattr(short, name)
    np.testing.assert_array_equal(full.gram, short.gram)
    assert short.spectrum.tolist() == [1]


def test_axes_units_and_origin_change_no_shape():
    turned = moved(EARLIER, ortho_group.rvs(6, random_state=3), unit=7.0, shift=2.0)
    np.testing.assert_allclose(compare(turned, EARLIER), np.zeros(5), atol=1e-12)


def test_errors_are_logarithms_of_ratios_and_distances():
    found, target = shape(LATER), shape(EARLIER)
    errors = compare(LATER, EARLIER)
    for name in ("nc1_trace", "nc1", "inside"):
        ratio = getattr(found, name) / getattr(target, name)
        assert getattr(errors, name) == pytest.approx(np.log(ratio), rel=1e-12)
    for name in ("gram", "spectrum"):
        distance = np.linalg.norm(getattr(found, name) - getattr(target, name))
        assert getattr(errors, name) == pytest.approx(distance, rel=1e-12)


def test_errors_there_and_back():
    there, back = compare(LATER, EARLIER), compare(EARLIER, LATER)
    np.testing.assert_allclose(there[:3], np.negative(back[:3]), rtol=1e-12)
    np.testing.assert_allclose(there[3:], back[3:], rtol=1e-12)


def test_comparison_counts_missing_axes_as_zero():
    padded = ClassStatistics(
        EARLIER.counts, np.pad(LATER.means, ((0, 5), (0, 0))), np.pad(LATER.within, (0, 5))
    )
    np.testing.assert_allclose(compare(padded, EARLIER), compare(LATER, EARLIER), atol=1e-12)
    np.testing.assert_allclose(compare(EARLIER, padded), compare(EARLIER, LATER), atol=1e-12)
    assert differences(shape(padded), shape(EARLIER)).spectrum.shape == (11,)
    assert differences(shape(EARLIER), shape(padded)).spectrum.shape == (11,)


def test_aligned_distances():
    doubled = moved(EARLIER, unit=2.0, shift=1.0)
    assert aligned(doubled, EARLIER) == pytest.approx(Aligned(1, 3), rel=1e-12)
    assert aligned(EARLIER, doubled) == pytest.approx(Aligned(1 / 2, 3 / 4), rel=1e-12)


def test_shapes_compare_hash_and_print():
    found = shape(EARLIER)
    assert found == found and found != shape(EARLIER) and len({found, shape(EARLIER)}) == 2
    assert repr(shape(MADE)) == "Shape(nc1_trace=1.25, nc1=0.125, nc2=0, inside=0.2, K=2, d=3)"


@pytest.mark.parametrize(("bad", "why"), SHAPELESS)
def test_what_has_no_shape_is_refused(bad, why):
    for function in (lambda: shape(bad), lambda: compare(bad, LATER), lambda: compare(LATER, bad)):
        with pytest.raises(ValueError, match=why):
            function()


def test_layers_with_different_classes_are_refused():
    with pytest.raises(ValueError, match=r"same classes, but have 4 and 3\.$"):
        compare(EARLIER, layer(K=3))
    with pytest.raises(ValueError, match=r"agree in \(d, K\), but have \(6, 4\) and \(8, 4\)\.$"):
        aligned(EARLIER, layer(d=8))


@pytest.mark.parametrize("function", [compare, aligned])
def test_features_instead_of_statistics_are_refused(function):
    for arguments in [(np.ones((3, 2)), EARLIER), (EARLIER, np.ones((3, 2)))]:
        with pytest.raises(TypeError, match="ClassStatistics"):
            function(*arguments)
