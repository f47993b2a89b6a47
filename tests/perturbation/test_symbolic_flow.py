"""The SymPy derivations against the matrices and the flow that they stand for."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from nclib import ClassStatistics, Model, nc1
from nclib.perturbation.central_path import central_path
from nclib.perturbation.series import series_statistics
from nclib.perturbation.symbolic import expansion, flow
from nclib.workbench import random_problem

g = sp.Function("g")(flow.h)


def function_of(M, expr):
    """The matrix function with the scalar expression in m."""
    m, U = np.linalg.eigh(M)
    return (U * sp.lambdify(flow.m, expr)(m)) @ U.T


def modes(h, v, pad=2):
    """Means and spread in common directions, so that every pair (h_i, v_i) is one mode."""
    K = len(h)
    rng = np.random.default_rng(1)
    U, O = (np.linalg.qr(rng.normal(size=(size, K)))[0] for size in (K + pad, K))
    return ClassStatistics(np.full(K, 4), U @ np.diag(h) @ O.T, U @ np.diag(v) @ U.T), U


def values(model, K):
    return {flow.lambda_W: model.lambda_W, flow.lambda_H: model.lambda_H, flow.K: K}


@pytest.mark.parametrize("K, d", [(3, 5), (4, 4), (5, 2)])
def test_functions_of_the_eigenvalues_of_M_hold_for_matrices(K, d):
    problem = random_problem(2, K, d, 3)
    model, stats = problem.model, problem.statistics
    M = stats.means.T @ np.linalg.solve(K * stats.within + model.lambda_W * np.eye(d), stats.means)
    output = model.optimal_weights(stats) @ stats.means
    derived = flow.mode()
    np.testing.assert_allclose(function_of(M, derived.output), output, atol=1e-11)
    np.testing.assert_allclose(function_of(M, derived.residual), np.eye(K) - output, atol=1e-11)
    np.testing.assert_allclose(
        function_of(M, derived.growth), output.T @ (np.eye(K) - output), atol=1e-11
    )
    change = stats.means.T @ series_statistics(model, stats, 1, flow=True).means[1]
    change = change + change.T + 2 * model.lambda_H * stats.means.T @ stats.means
    np.testing.assert_allclose(function_of(M, flow.between_slope()), change, atol=1e-11)


def test_modes_flow_on_their_own():
    model, K = Model(0.3, 0.1), 3
    h, v = np.array([1.2, 0.7, 0.4]), np.array([0.5, 0.1, 0.9])
    stats, U = modes(h, v)
    slope = [
        sp.lambdify((flow.h, flow.v), flow.at_optimum(e).subs(values(model, K)))
        for e in flow.flow()
    ]
    found = series_statistics(model, stats, 1, flow=True)
    np.testing.assert_allclose(U.T @ found.within[1] @ U, np.diag(slope[1](h, v)), atol=1e-13)
    singular = U.T @ found.means[1] @ stats.means.T @ U / h
    np.testing.assert_allclose(singular, np.diag(slope[0](h, v)), atol=1e-13)


def test_rates_of_the_logarithms():
    model, K, step = Model(0.3, 0.1), 2, 1e-3
    stats, U = modes([1.2, 0.7], [0.5, 0.1])
    points = central_path(model, stats, [1 - step, 1, 1 + step]).statistics
    squares = np.array([np.diag(U.T @ p.means @ p.means.T @ U) for p in points])
    spread = np.array([np.diag(U.T @ p.within @ U) for p in points])
    at = {**values(model, K)}
    for i in range(K):
        here = at | {flow.h: np.sqrt(squares[1, i]), flow.v: spread[1, i]}
        logs = np.log(spread[:, i] / squares[:, i])
        assert (logs[2] - logs[0]) / (2 * step) == pytest.approx(
            float(flow.ratio_slope().subs(here)), rel=1e-6
        )
        logs = np.log(spread[:, i]) + 2 * model.lambda_H * np.array([1 - step, 1, 1 + step])
        rate = flow.at_optimum(flow.within_slope()).subs(here)
        assert (logs[2] - logs[0]) / (2 * step) == pytest.approx(float(rate), rel=1e-6)


def test_spread_is_right_relative_to_itself_after_a_long_decay():
    """Two equal modes against their scalar equations in log h^2 and log v."""
    model, t = Model(0.2, 0.1), 120.0
    stats, _ = modes([1.2, 1.2], [0.5, 0.5], pad=0)
    x, y = sp.symbols("x y")
    h, v = sp.exp(x / 2), sp.exp(y)
    mean, within = (flow.at_optimum(e).subs(values(model, 2)) for e in flow.flow())
    slope = [
        (2 * mean / flow.h).subs({flow.h: h, flow.v: v}),
        (within / flow.v).subs({flow.h: h, flow.v: v}),
    ]
    slope = sp.lambdify((x, y), slope)
    exact = solve_ivp(
        lambda _, z: slope(*z), (0, t), np.log([1.44, 0.5]), "DOP853", rtol=1e-13, atol=1e-13
    ).y[:, -1]
    (end,) = central_path(model, stats, [t]).statistics
    assert exact[1] < -160
    np.testing.assert_allclose(
        end.within, np.exp(exact[1]) * np.eye(2), rtol=1e-9, atol=1e-12 * np.exp(exact[1])
    )


@pytest.mark.parametrize("start", [0.05, 3.0])
def test_travel_time_of_collapsed_classes(start):
    model = Model(0.3, 0.2)
    symbols = {flow.c: model.c, flow.kappa: np.sqrt(model.lambda_H / model.lambda_W)}
    T = sp.lambdify(flow.q, flow.travel_time().subs(symbols))
    frame = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 3)))[0]
    times = np.array([0.5, 3.0, 12.0])
    stats = ClassStatistics(np.full(3, 2), np.sqrt(start) * frame, np.zeros((4, 4)))
    for t, point in zip(times, central_path(model, stats, times).statistics, strict=True):
        q = np.sum(point.means**2, axis=0)
        np.testing.assert_allclose(point.means, np.sqrt(q) * frame, atol=1e-11)
        np.testing.assert_allclose(T(q) - T(start), t, rtol=1e-8)
        assert not point.within.any()


def test_exact_slope_of_the_pseudoinverse_metric_is_positive():
    means, within = sp.Matrix([[1, 3], [2, 3]]), sp.diag(0, sp.Rational(1, 10))
    slope = flow.nc1_slope(means, within, sp.Rational(1, 100), sp.Rational(1, 100))
    assert slope.is_Rational and slope > 0
    stats = ClassStatistics(
        np.array([2, 2]), np.array(means, dtype=float), np.array(within, dtype=float)
    )
    step = 1e-5
    ahead, further = (
        nc1(p) for p in central_path(Model(0.01, 0.01), stats, [step, 2 * step]).statistics
    )
    assert (4 * ahead - further - 3 * nc1(stats)) / (2 * step) == pytest.approx(
        float(slope), rel=1e-5
    )


def test_scalar_series_by_two_routes():
    g1, g2 = sp.diff(g, flow.h), sp.diff(g, flow.h, 2)
    implicit = expansion.implicit_series(g, 4)
    assert all(
        sp.expand(a - b) == 0
        for a, b in zip(implicit, expansion.lagrange_series(g, 4), strict=True)
    )
    stated = [-g, g1 * g, -(g1 * g1 * g + g2 * g**2 / 2)]
    assert all(sp.expand(a - b) == 0 for a, b in zip(implicit[:3], stated, strict=True))
    stated = [-g, g1 * g / 2, -(g1 * g1 * g + g2 * g**2) / 6]
    found = expansion.implicit_series(g, 3, flow=True)
    assert all(sp.expand(a - b) == 0 for a, b in zip(found, stated, strict=True))


def test_scalar_gradient_vanishes_at_the_collapsed_mean_and_at_zero():
    model = Model(0.3, 0.2)
    at = {flow.lambda_W: model.lambda_W, flow.lambda_H: model.lambda_H}
    gradient = sp.lambdify(flow.h, expansion.scalar_gradient().subs(at))
    assert gradient(np.sqrt(model.rho)) == pytest.approx(0, abs=1e-15)
    assert gradient(1.1 * np.sqrt(model.rho)) > 0 > gradient(0.9 * np.sqrt(model.rho))


def test_transpose_reverses_words():
    As, Aa, B, Bt, dq, dqt = (getattr(expansion, x) for x in ("As", "Aa", "B", "Bt", "dq", "dqt"))
    word = 3 * As * Aa**2 * Bt * B - Aa * dq * dqt
    assert sp.expand(expansion.transpose(word) - (3 * Bt * B * Aa**2 * As + dq * dqt * Aa)) == 0
    assert sp.expand(expansion.transpose(expansion.transpose(word)) - word) == 0
