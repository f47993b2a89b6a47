"""Fits of the perturbed model: its symmetries, recovery of what it made itself, baselines, refusals."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import ortho_group

from nclib import ClassStatistics, Model, minimize, nc1_trace, nc2
from nclib.measured.fit import (
    Aligned,
    Comparison,
    aligned,
    baselines,
    compare,
    contracted,
    equivalent,
    fit,
    shape,
)
from tests.foundations.oracle import samples

MODEL = Model(2.0, 0.3, 0.6)  # lambda_W (lambda_H + beta) = 1.8: one stationary point


def layer(seed=0, K=4, d=6, n=7, offset=0.5):
    return ClassStatistics.from_features(*samples(seed, [n] * K, d, spread=0.7, offset=offset))


def moved(stats, rotation=None, unit=1.0, shift=0.0, order=None):
    """The same layer in other axes, another unit, around another origin, its classes in another order."""
    Q = np.eye(stats.d) if rotation is None else rotation
    order = np.arange(stats.K) if order is None else order
    means, within = unit * Q @ stats.means[:, order] + shift, unit**2 * Q @ stats.within @ Q.T
    return ClassStatistics(stats.counts[order], means, within)


EARLIER = layer()
OTHER = layer(5)  # not made by the model
LATER = moved(minimize(MODEL, EARLIER).statistics, ortho_group.rvs(6, random_state=1), unit=3.0)


def assert_same(a, b, rtol=1e-9):
    np.testing.assert_allclose(a.means, b.means, rtol=rtol, atol=rtol * np.abs(b.means).max())
    np.testing.assert_allclose(a.within, b.within, rtol=rtol, atol=rtol * np.abs(b.within).max())


@cache
def foreign_fit():
    return fit(EARLIER, OTHER)


# ---- what can be fitted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s, v", [(1.7, 1.7), (1.0, 0.8), (2.5, 0.6), (0.9, 1.1)])
def test_units_of_input_and_output_change_the_parameters_only(s, v):
    other = equivalent(MODEL, s, v)
    expected = moved(minimize(MODEL, EARLIER).statistics, unit=v)
    assert_same(minimize(other, moved(EARLIER, unit=s)).statistics, expected)
    again = equivalent(other, 1 / s, 1 / v)
    np.testing.assert_allclose(
        [again.lambda_W, again.lambda_H, again.beta],
        [MODEL.lambda_W, MODEL.lambda_H, MODEL.beta],
        rtol=1e-13,
    )


def test_feature_decay_can_be_traded_for_the_unit_of_the_output():
    b = MODEL.lambda_H + MODEL.beta
    free = equivalent(MODEL, output_unit=b / MODEL.beta)
    assert free.lambda_H == 0
    assert free.lambda_W * free.beta == pytest.approx(MODEL.lambda_W * b, rel=1e-14)
    with pytest.raises(ValueError, match=r"no such model exists.*negative"):
        equivalent(free, output_unit=1.01)


def test_strong_decay_of_the_weights_is_one_contraction():
    # lambda_W grows, p = lambda_W beta is fixed: the means grow by p / (p - 1), the rest stays, up to O(1/lambda_W).
    p, gaps = 2.5, []
    ideal = ClassStatistics(EARLIER.counts, p / (p - 1) * EARLIER.means, EARLIER.within)
    for lambda_W in (1e4, 1e5, 1e6):
        found = minimize(Model(lambda_W, 0.0, p / lambda_W), EARLIER).statistics
        shapes = compare(found, contracted(EARLIER, 1 - 1 / p, 1 - 1 / p, 1.0))
        gaps.append([*aligned(found, ideal), np.linalg.norm(shapes)])
    np.testing.assert_allclose(np.diff(np.log10(gaps), axis=0), -1, atol=0.05)


def test_strong_pull_changes_no_shape():
    gaps = [
        np.linalg.norm(compare(minimize(Model(1.0, 0.0, p), EARLIER).statistics, EARLIER))
        for p in (1e3, 1e4, 1e5)
    ]
    assert np.allclose(np.diff(np.log10(gaps)), -1, atol=0.05)


# ---- recovery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantities", [Comparison._fields, ("nc1_trace", "gram")])
def test_the_model_recovers_what_it_made(quantities):
    found = fit(EARLIER, LATER, quantities)
    v = (MODEL.lambda_H + MODEL.beta) / MODEL.beta
    expected = MODEL.lambda_W * v**2, MODEL.lambda_W * (MODEL.lambda_H + MODEL.beta)
    np.testing.assert_allclose(found.parameters, expected, rtol=1e-6)
    assert found.solution.model.lambda_H == 0 and found.solution.certified and found.interior
    assert max(np.abs(compare(found.statistics, LATER))) < 1e-7 and found.loss < 1e-7
    assert found.scale == pytest.approx(3 / v, rel=1e-6)


def test_a_shared_unit_tells_the_feature_decay():
    later = minimize(MODEL, EARLIER).statistics
    found = fit(EARLIER, later)
    assert found.lambda_H == pytest.approx(MODEL.lambda_H, rel=1e-5)
    model = equivalent(found.solution.model, output_unit=found.scale)
    np.testing.assert_allclose(
        [model.lambda_W, model.lambda_H, model.beta],
        [MODEL.lambda_W, MODEL.lambda_H, MODEL.beta],
        rtol=1e-5,
    )
    assert max(aligned(found.statistics, later)) < 1e-6
    assert replace(found, scale=1.1).lambda_H < 0 == replace(found, scale=1.0).lambda_H


def test_a_fit_does_not_depend_on_axes_units_origin_of_the_later_layer_or_order_of_classes():
    order, base = np.array([2, 0, 3, 1]), foreign_fit()
    Q, R = ortho_group.rvs(6, size=2, random_state=3)
    found = fit(moved(EARLIER, Q, 10.0, order=order), moved(OTHER, R, 0.01, shift=4.0, order=order))
    assert base.interior == found.interior and base.loss > 0.1
    assert found.loss == pytest.approx(base.loss, rel=1e-7)
    np.testing.assert_allclose(
        found.parameters, [100 * base.parameters[0], base.parameters[1]], rtol=1e-4
    )
    assert found.scale == pytest.approx(base.scale / 1000, rel=1e-4)


def test_a_fit_is_a_local_minimum_of_its_loss():
    found = foreign_fit()
    lambda_W, p = found.parameters

    def loss(x, y):
        model = Model(x * lambda_W, 0.0, y * p / (x * lambda_W))
        return np.linalg.norm(compare(minimize(model, EARLIER).statistics, OTHER))

    assert found.interior and found.loss == pytest.approx(loss(1, 1), rel=1e-12)
    assert min(loss(x, y) for x, y in [(1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99)]) > found.loss
    assert found.solution.model == Model(lambda_W, 0.0, p / lambda_W)


def test_a_fit_repeats_itself():
    pair = layer(K=3, d=3), layer(5, K=3, d=3)
    assert fit(*pair).parameters == fit(*pair).parameters


def test_limits_of_the_model_are_found_as_such():
    still = fit(EARLIER, moved(EARLIER, unit=5.0), ("nc1_trace", "gram"))
    assert still.loss < 1e-4 and still.scale == pytest.approx(5, rel=1e-3)
    shrunk = fit(EARLIER, contracted(EARLIER, 0.6, 0.6, 1.0), ("nc1_trace", "gram"))
    assert not shrunk.interior and shrunk.loss < 0.05
    assert shrunk.parameters[1] == pytest.approx(2.5, rel=0.05)


# ---- shapes and baselines ----------------------------------------------------------------------------------------


def test_shape_of_a_layer_made_by_hand():
    # Means (+-2, 0, 0), covariance diag(1, 4, 0) on axes turned away from the coordinates.
    made = ClassStatistics(
        np.array([3, 3]), np.array([[2.0, -2.0], [0, 0], [0, 0]]), np.diag([1.0, 4.0, 0.0])
    )
    found = shape(moved(made, ortho_group.rvs(3, random_state=7), unit=0.2, shift=9.0))
    assert found[:4] == pytest.approx((5 / 4, 1 / 8, 0, 1 / 5), abs=1e-12)
    np.testing.assert_allclose(found.gram, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(found.spectrum, np.array([2, 1, 0]) / 5**0.5, atol=1e-7)


def test_comparison_counts_missing_axes_as_zero():
    padded = ClassStatistics(
        EARLIER.counts, np.pad(LATER.means, ((0, 5), (0, 0))), np.pad(LATER.within, (0, 5))
    )
    np.testing.assert_allclose(compare(padded, EARLIER), compare(LATER, EARLIER), atol=1e-12)
    np.testing.assert_allclose(compare(EARLIER, padded), compare(EARLIER, LATER), atol=1e-12)
    logs, back = compare(LATER, EARLIER), compare(EARLIER, LATER)
    np.testing.assert_allclose(logs[:3], np.negative(back[:3]), rtol=1e-12)
    np.testing.assert_allclose(logs[3:], back[3:], rtol=1e-12)
    assert logs.nc1_trace == pytest.approx(np.log(nc1_trace(LATER) / nc1_trace(EARLIER)), rel=1e-12)


def test_aligned_distances():
    doubled = moved(EARLIER, unit=2.0, shift=1.0)
    assert aligned(doubled, EARLIER) == pytest.approx(Aligned(1, 3), rel=1e-12)
    assert aligned(EARLIER, doubled) == pytest.approx(Aligned(1 / 2, 3 / 4), rel=1e-12)


def test_contraction_does_what_it_says():
    found, before = contracted(EARLIER, 0.5, 0.2, 1.0), shape(EARLIER)
    inside, outside = 0.25 * before.inside, 0.04 * (1 - before.inside)
    assert shape(found).inside == pytest.approx(inside / (inside + outside), rel=1e-12)
    assert nc1_trace(found) == pytest.approx((inside + outside) * nc1_trace(EARLIER), rel=1e-12)
    np.testing.assert_allclose(found.means, EARLIER.means, atol=1e-13)
    frame = contracted(EARLIER, 1.0, 1.0, 0.0)
    assert nc2(frame) < 1e-13 < nc2(EARLIER)
    assert_same(replace(frame, means=EARLIER.means), EARLIER)
    assert np.trace(frame.between) == pytest.approx(np.trace(EARLIER.between), rel=1e-12)


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
    assert list(found) == [
        "unchanged",
        "one contraction",
        "two contractions",
        "contraction and frame",
        "three numbers",
    ]
    np.testing.assert_allclose(found[name].parameters, numbers, rtol=1e-6)
    assert found[name].scale == pytest.approx(0.1, rel=1e-6) and found[name].loss < 1e-7
    loss = [prediction.loss for prediction in found.values()]
    assert (
        loss[0] >= loss[1] - 1e-7
        and loss[1] >= max(loss[2:4]) - 1e-7
        and min(loss[2:4]) >= loss[4] - 1e-7
    )
    assert [len(p.parameters) for p in found.values()] == [0, 1, 2, 2, 3]


def test_baselines_say_when_they_stop_at_an_edge():
    found = baselines(EARLIER, contracted(EARLIER, 1e-4, 1e-4, 1.0), ("nc1_trace",))[
        "one contraction"
    ]
    assert not found.interior and found.parameters == pytest.approx((1e-3,))
    assert baselines(EARLIER, contracted(EARLIER, 0.1, 0.1, 1.0))["one contraction"].interior


def test_baselines_miss_what_the_model_made_by_what_they_cannot_change():
    # Two numbers that leave the geometry of the means alone, and fit the rest of the fitted quantities exactly.
    found = baselines(EARLIER, LATER, ("nc1_trace", "inside"))
    errors = {name: compare(p.statistics, LATER) for name, p in found.items()}
    still = compare(EARLIER, LATER)
    assert errors["unchanged"] == pytest.approx(still, rel=1e-9)
    assert errors["one contraction"].nc1_trace == pytest.approx(0, abs=1e-8)
    assert errors["one contraction"][2:] == pytest.approx(still[2:], rel=1e-9)
    assert errors["two contractions"][0] == pytest.approx(0, abs=1e-8)
    assert errors["two contractions"].inside == pytest.approx(0, abs=1e-8)
    assert (
        errors["two contractions"].gram == pytest.approx(still.gram, rel=1e-9) and still.gram > 0.05
    )


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantities", [(), ("nc2",), "gram", ("gram", "size")])
@pytest.mark.parametrize("function", [fit, baselines])
def test_unknown_quantities_are_refused(function, quantities):
    with pytest.raises(ValueError, match="quantities must be some of"):
        function(EARLIER, LATER, quantities)


@pytest.mark.parametrize("function", [fit, baselines, compare])
def test_layers_with_different_classes_are_refused(function):
    with pytest.raises(ValueError, match="same classes, but have 4 and 3"):
        function(EARLIER, layer(K=3))


def test_what_has_no_shape_is_refused():
    flat = ClassStatistics(EARLIER.counts, EARLIER.means, np.zeros((6, 6)))
    equal = ClassStatistics(EARLIER.counts, np.ones((6, 4)), EARLIER.within)
    for bad, why in [
        (flat, "must not vanish"),
        (equal, "class means are equal"),
        (layer(K=1), "K = 1"),
    ]:
        for arguments in [(bad, EARLIER), (EARLIER, bad)]:
            with pytest.raises(ValueError, match=why):
                fit(*arguments)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"\(d, K\) must agree"):
        aligned(EARLIER, layer(d=8))
    for unit in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="input_unit"):
            equivalent(MODEL, input_unit=unit)
