"""The large-beta series against automatic differentiation, the exact minimizer and the flow."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from numpy.polynomial.polynomial import polyval

from nclib import ClassStatistics, Model, minimize
from nclib.perturbation.central_path import central_path
from nclib.perturbation.contraction import contraction
from nclib.perturbation.series import flow_series, gradient_derivatives, series, series_statistics
from nclib.perturbation.symbolic import expansion
from nclib.perturbation.symbolic.flow import h, lambda_H, lambda_W
from nclib.workbench import random_problem, slope
from tests.perturbation.oracle_expansion import derivatives

STRONG = {"lambda_W": 0.5, "lambda_H": 0.3}
CASES = [
    {"K": 3, "d": 5, "n": 4},
    {"K": 4, "d": 4, "n": 2},
    {"K": 2, "d": 3, "n": 1},
    {"K": 5, "d": 2, "n": 3},
    {"K": 1, "d": 1, "n": 1},
    {"counts": [1, 5, 9]},
    {"lambda_H": 0.0},
]
TAUS = np.geomspace(2e-1, 2e-4, 5)


def displacement(problem, tau):
    """H - H0 at the minimizer for beta = 1/tau, as -tau g(H), so that nothing cancels."""
    model = replace(problem.model, beta=1 / tau)
    H = minimize(model, problem.statistics).features(problem.features, problem.labels)
    return -tau * gradient_derivatives(model, H, problem.labels)[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_and_its_derivatives(case):
    problem = random_problem(1, **(STRONG | case))
    Z = np.random.default_rng(2).normal(size=problem.features.shape)
    found = gradient_derivatives(problem.model, problem.features, problem.labels, Z, 2)
    for mine, dense in zip(found, derivatives(*problem, Z), strict=True):
        np.testing.assert_allclose(mine, dense, rtol=0, atol=1e-12 * np.abs(dense).max())


def test_mixed_second_derivative_by_polarisation():
    model, H, y = random_problem(3, **STRONG)
    Z, V = np.random.default_rng(4).normal(size=(2, *H.shape))
    plus, minus = (gradient_derivatives(model, H, y, Z + s * V, 2)[2] for s in (1, -1))
    step = 1e-5
    ahead, behind = (gradient_derivatives(model, H + s * step * V, y, Z, 1)[1] for s in (1, -1))
    np.testing.assert_allclose((plus - minus) / 4, (ahead - behind) / (2 * step), atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_coefficients_are_the_stated_derivatives(case):
    problem = random_problem(5, **(STRONG | case))
    model, H, y = problem
    g, g1, g2 = derivatives(model, H, y, gradient_derivatives(model, H, y)[0])
    g11 = derivatives(model, H, y, g1)[1]
    expected = {series: [H, -g, g1, -(g11 + g2 / 2)], flow_series: [H, -g, g1 / 2, -(g11 + g2) / 6]}
    for function, terms in expected.items():
        np.testing.assert_allclose(
            function(model, H, y, 3), terms, atol=1e-12 * np.abs(terms).max()
        )


@pytest.mark.parametrize("case", CASES[:4] + CASES[5:], ids=str)
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_error_of_the_partial_sums(case, terms):
    problem = random_problem(6, **(STRONG | case))
    coefficients = series(*problem, terms)
    coefficients[0] = 0
    errors = [
        np.linalg.norm(polyval(tau, coefficients) - displacement(problem, tau)) for tau in TAUS
    ]
    assert slope(TAUS, errors) == pytest.approx(terms + 1, abs=0.03)


def test_error_of_the_series_of_the_statistics():
    problem = random_problem(7, **STRONG)
    coefficients = series_statistics(problem.model, problem.statistics, 2)
    errors = []
    for tau in TAUS:
        exact = minimize(replace(problem.model, beta=1 / tau), problem.statistics).statistics
        errors.append(
            [
                np.linalg.norm(polyval(tau, coefficients.means) - exact.means),
                np.linalg.norm(polyval(tau, coefficients.within) - exact.within),
            ]
        )
    for error in np.transpose(errors):
        assert slope(TAUS, error) == pytest.approx(3, abs=0.03)


def test_minimizer_and_flow_part_at_second_order_as_predicted():
    problem = random_problem(8, **STRONG)
    model, H, y = problem
    flow = flow_series(*problem, 8)
    flow[0] = 0
    g = gradient_derivatives(model, H, y)[0]
    half = gradient_derivatives(model, H, y, g, 1)[1] / 2
    gaps = [displacement(problem, tau) - polyval(tau, flow) for tau in TAUS]
    assert slope(TAUS, [np.linalg.norm(gap) for gap in gaps]) == pytest.approx(2, abs=0.03)
    rest = [np.linalg.norm(gap - tau**2 * half) for gap, tau in zip(gaps, TAUS, strict=True)]
    assert slope(TAUS, rest) == pytest.approx(3, abs=0.03)


def test_flow_series_is_the_flow():
    problem = random_problem(9, counts=[2, 3, 7], **STRONG)
    path = central_path(problem.model, problem.statistics, [0.1, 0.2])
    coefficients = flow_series(*problem, 12)
    statistics = series_statistics(problem.model, problem.statistics, 12, flow=True)
    found = path.features(problem.features, problem.labels)
    for t, H, point in zip(path.times, found, path.statistics, strict=True):
        np.testing.assert_allclose(polyval(t, coefficients), H, atol=1e-11)
        np.testing.assert_allclose(polyval(t, statistics.means), point.means, atol=1e-11)
        np.testing.assert_allclose(polyval(t, statistics.within), point.within, atol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("flow", [False, True])
def test_series_of_the_statistics_is_that_of_the_samples(case, flow):
    problem = random_problem(10, **(STRONG | case))
    samples = (flow_series if flow else series)(*problem, 4)
    found = series_statistics(problem.model, problem.statistics, 4, flow)
    K, N = problem.statistics.K, problem.statistics.N
    means = np.stack(
        [np.stack([c[problem.labels == k].mean(axis=0) for k in range(K)], axis=1) for c in samples]
    )
    deviations = np.stack([c - m.T[problem.labels] for c, m in zip(samples, means, strict=True)])
    within = [sum(deviations[j].T @ deviations[k - j] for j in range(k + 1)) / N for k in range(5)]
    scale = np.abs(samples).max(axis=(1, 2))
    for k in range(5):
        np.testing.assert_allclose(found.means[k], means[k], atol=1e-12 * scale.max())
        np.testing.assert_allclose(found.within[k], within[k], atol=1e-12 * scale.max() ** 2)


def test_one_number_against_lagrange_inversion():
    model, start = Model(0.4, 0.1), 0.7
    g = expansion.scalar_gradient().subs(
        {lambda_W: sp.Rational(2, 5), lambda_H: sp.Rational(1, 10)}
    )
    expected = [float(term.subs(h, start)) for term in expansion.lagrange_series(g, 5)]
    np.testing.assert_allclose(series(model, [[start]], [0], 5).ravel()[1:], expected, rtol=1e-12)


def test_near_collapse_the_series_are_geometric_and_exponential():
    model = Model(0.4, 0.5)
    Q = np.linalg.qr(np.random.default_rng(11).normal(size=(5, 3)))[0]
    deviation = np.zeros((6, 5))
    deviation[:2] = np.outer([1, -1], Q[:, 1])
    y = np.repeat(np.arange(3), 2)
    H0 = (model.collapsed(3, 5, Q).means[:, y]).T + 1e-7 * deviation
    s1 = contraction(replace(model, beta=1.0)).s1
    rate = 1 / s1 - 1
    for k, c in enumerate(series(model, H0, y, 6)[1:], start=1):
        np.testing.assert_allclose(c / 1e-7, (-rate) ** k * deviation, atol=1e-5)
    for k, c in enumerate(flow_series(model, H0, y, 6)[1:], start=1):
        np.testing.assert_allclose(
            c / 1e-7, (-rate) ** k / float(sp.factorial(k)) * deviation, atol=1e-5
        )


def test_beta_and_the_order_of_the_samples_do_not_matter():
    model, H, y = random_problem(12)
    perm = np.random.default_rng(13).permutation(len(y))
    again = series(replace(model, beta=77.0), H[perm], y[perm], 2)
    np.testing.assert_allclose(again, series(model, H, y, 2)[:, perm], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, H, y: series(m, H, y, 0), "order must be at least 1"),
        (lambda m, H, y: gradient_derivatives(m, H, y, None, 1), "needs a direction"),
        (lambda m, H, y: gradient_derivatives(m, H, y, H[1:], 1), "direction must have shape"),
        (lambda m, H, y: series(m, H * np.nan, y), "must be finite"),
        (
            lambda m, H, y: series_statistics(m, ClassStatistics.from_features(H, y, 4)),
            "class 3 has no samples",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(*random_problem(14))
