"""Fits of the perturbed model: its symmetries, recovery of what it made itself, refusals."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import ortho_group

from nclib import (
    ClassStatistics,
    Comparison,
    Model,
    aligned,
    compare,
    contracted,
    equivalent,
    fit,
    minimize,
)
from tests.measured.layers import (
    EARLIER,
    LATER,
    MODEL,
    OTHER,
    SHAPELESS,
    assert_same,
    layer,
    moved,
)


@cache
def foreign_fit():
    return fit(EARLIER, OTHER)


# ---- what can be fitted --------------------------------------------------------------------------


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
    with pytest.raises(
        ValueError, match=r"lambda_H must not be negative, but in these units lambda_H = -"
    ):
        equivalent(free, output_unit=1.01)


def test_strong_decay_of_the_weights_is_one_contraction():
    # lambda_W grows, p = lambda_W beta is fixed: the means grow by p / (p - 1), the rest stays,
    # up to O(1/lambda_W).
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


# ---- recovery ------------------------------------------------------------------------------------


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


# ---- the box -------------------------------------------------------------------------------------


def test_lambda_W_is_looked_for_in_units_of_the_squared_singular_values_of_the_means():
    # One contraction is the limit of strong decay, so the fit runs to the upper edge of the box.
    unit = EARLIER.K * np.trace(EARLIER.between) / (EARLIER.K - 1)
    squares = np.linalg.svd(EARLIER.centered_means, compute_uv=False)[: EARLIER.K - 1] ** 2
    assert unit == pytest.approx(squares.mean(), rel=1e-12)
    found = fit(EARLIER, contracted(EARLIER, 0.6, 0.6, 1.0), ("nc1_trace", "gram"))
    assert not found.interior
    assert found.parameters[0] == pytest.approx(1e3 * unit, rel=0.02)


@pytest.mark.parametrize(("p", "edge"), [(2e-3, 1e-2), (5e3, 1e3)])
def test_p_is_looked_for_between_a_hundredth_and_a_thousand(p, edge):
    later = minimize(Model(2.0, 0.0, p / 2), EARLIER).statistics
    found = fit(EARLIER, later, ("nc1_trace", "gram"))
    assert not found.interior
    assert found.parameters[1] == pytest.approx(edge, rel=0.02)


# ---- the result ----------------------------------------------------------------------------------


def test_a_fit_prints_on_one_line_and_compares_without_raising():
    found, again = foreign_fit(), replace(foreign_fit(), loss=0.0)
    assert repr(found).startswith("Fit(parameters=(") and "\n" not in repr(found)
    assert len(repr(found)) < 100
    assert found == found and found != again and len({found, again}) == 2


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "why"), SHAPELESS)
def test_what_has_no_shape_is_refused(bad, why):
    for arguments in [(bad, EARLIER), (EARLIER, bad)]:
        with pytest.raises(ValueError, match=why):
            fit(*arguments)


def test_layers_with_different_classes_are_refused():
    with pytest.raises(ValueError, match="same classes, but have 4 and 3"):
        fit(EARLIER, layer(K=3))


@pytest.mark.parametrize("unit", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("name", ["input_unit", "output_unit"])
def test_units_that_are_not_positive_are_refused(name, unit):
    with pytest.raises(ValueError, match=rf"{name} must be .*, but {name} = "):
        equivalent(MODEL, **{name: unit})
