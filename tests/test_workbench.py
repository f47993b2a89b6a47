"""The functions that chapters and tests share do what their sentences say."""

import numpy as np
import pytest

from nclib import ClassStatistics, Model
from nclib.workbench import (
    assert_small,
    frame_statistics,
    in_plane,
    optimal_features,
    random_features,
    random_frame,
    random_problem,
    slope,
    with_statistics,
)


@pytest.mark.parametrize("errors", [[2e-9], [0.0, -2e-9], [np.zeros((2, 3)), [2e-9]], [np.nan], []])
def test_an_error_above_the_tolerance_is_found_among_small_ones(errors):
    with pytest.raises(AssertionError):
        assert_small(errors, 1e-9)


def test_small_errors_are_counted(capsys):
    assert_small([np.zeros((2, 3)), [1e-10]], 1e-9)
    assert capsys.readouterr().out == "largest of 7 errors below 1e-09\n"


@pytest.mark.parametrize("order", [-2, 1 / 3, 1, 3])
def test_slope_is_the_order_of_a_power(order):
    x = np.geomspace(1e-5, 1e-1, 6)
    assert slope(x, 7 * x**order) == pytest.approx(order, abs=1e-12)
    assert slope(x[::-1], 7 * x[::-1] ** order) == pytest.approx(order, abs=1e-12)


def test_slope_is_the_line_of_least_squares():
    rng = np.random.default_rng(0)
    x, errors = 10.0 ** np.arange(6), np.exp(rng.normal(size=6))
    lines = np.stack([np.log(x), np.ones(6)], axis=1)
    expected = np.linalg.lstsq(lines, np.log(errors), rcond=None)[0][0]
    assert slope(x, errors) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "x, errors, words",
    [
        ([1, 10, 100], [1, 2, 3], "x must span 3 decades, but spans 2.00."),
        ([1, 1e4], [1, 2, 3], "shapes"),
        ([[1, 1e4]], [[1, 2]], "vectors"),
        ([0, 1e4], [1, 2], "x must be positive and finite, but one entry is 0.0."),
        ([1, 1e4], [1, np.nan], "errors must be positive and finite, but one entry is nan."),
        ([1, 1e4], [np.inf, 2], "errors must be positive and finite"),
        ([1, 1e4], [-1, 2], "errors must be positive and finite"),
    ],
)
def test_slope_refuses_what_shows_no_order(x, errors, words):
    with pytest.raises(ValueError, match=words):
        slope(x, errors)


def test_fewer_decades_can_be_asked_for():
    assert slope([1, 10], [1, 100], decades=1) == pytest.approx(2)


def test_random_features_lie_around_their_means():
    labels = np.repeat([0, 1, 2], 4000)
    features = random_features(np.random.default_rng(0), labels, 6, distance=3.0, spread=0.5)
    stats = ClassStatistics.from_features(features, labels)
    assert np.allclose(stats.within, 0.25 * np.eye(6), atol=0.02)
    means = np.random.default_rng(0).standard_normal((3, 6))
    assert np.allclose(stats.means, 3 * means.T, atol=0.05)


def test_random_problem_has_the_counts_that_were_asked_for():
    problem = random_problem(0, counts=[1, 5, 9], lambda_W=0.3)
    assert problem.model == Model(0.3, 0.01, 0.5)
    assert problem.features.shape == (15, 5)
    assert np.array_equal(problem.statistics.counts, [1, 5, 9])
    assert not np.array_equal(problem.labels, np.sort(problem.labels))


def test_random_frame_is_orthonormal():
    Q = random_frame(np.random.default_rng(0), 6, 4)
    assert Q.shape == (6, 4)
    assert np.allclose(Q.T @ Q, np.eye(4), atol=1e-14)


@pytest.mark.parametrize("n", [4, 50])
def test_samples_have_the_statistics_that_were_asked_for(n):
    rng = np.random.default_rng(0)
    means, root = rng.normal(size=(5, 3)), rng.normal(size=(5, 5))
    features, labels = with_statistics(means, root @ root.T, n, rng)
    stats = ClassStatistics.from_features(features, labels)
    assert np.allclose(stats.means, means, atol=1e-13)
    assert np.allclose(stats.within, root @ root.T, atol=1e-12)
    assert np.array_equal(stats.counts, [n] * 3)


def test_frame_statistics_are_those_of_the_samples():
    rng, model = np.random.default_rng(0), Model(0.3, 0.2, 0.7)
    labels, Q = np.repeat(np.arange(3), 4), random_frame(rng, 5, 3)
    Z = rng.normal(size=(12, 5))
    features = model.collapsed(3, 5, Q).means.T[labels] + 0.1 * Z
    expected = ClassStatistics.from_features(features, labels)
    found = frame_statistics(model, Q, ClassStatistics.from_features(Z, labels), 0.1)
    assert np.allclose(found.means, expected.means, atol=1e-14)
    assert np.allclose(found.within, expected.within, atol=1e-14)
    assert np.array_equal(found.counts, expected.counts)


def test_no_features_have_a_lower_objective_than_the_optimal_ones():
    model, H0, labels = random_problem(1)
    H = optimal_features(model, H0, labels)

    def value(features):
        weights = model.optimal_weights(ClassStatistics.from_features(features, labels))
        return model.objective(weights, features, labels, H0)

    rng = np.random.default_rng(0)
    assert all(value(H) < value(H + 1e-3 * rng.normal(size=H.shape)) for _ in range(20))


def test_the_plane_shows_distances_and_turns_the_means_to_the_corners():
    angle = np.deg2rad([90, 210, 330])
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    frame = random_frame(np.random.default_rng(0), 7, 2)
    means = 4.0 + 3 * corners @ frame.T
    shown = in_plane(means, means, corners)
    assert np.allclose(shown, 3 * corners, atol=1e-13)
    away = means + 5 * (np.eye(7) - frame @ frame.T)[0]
    assert np.allclose(in_plane(away, means, corners), shown, atol=1e-13)
