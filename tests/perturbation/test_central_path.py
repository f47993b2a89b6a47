"""The flow in class statistics against the flow of all samples, and what Theorem 3.1 says of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import OdeSolver

from nclib import ClassStatistics, Model, minimize, nc1, nc1_trace, nc2
from nclib.perturbation import flow
from nclib.perturbation.central_path import central_path
from nclib.perturbation.series import gradient_derivatives, series_statistics
from nclib.workbench import random_problem, slope
from tests.perturbation.oracle_expansion import dense_flow

CASES = [
    {"K": 3, "d": 5, "n": 4},
    {"K": 4, "d": 4, "n": 2},
    {"K": 2, "d": 6, "n": 2},
    {"K": 3, "d": 2, "n": 5},
    {"K": 3, "d": 4, "n": 1},
    {"counts": [1, 3, 6]},
    {"lambda_H": 0.0},
    {"lambda_W": 0.9, "lambda_H": 1.5},
]


def rank(S):
    return np.linalg.matrix_rank(S, tol=1e-13 * np.linalg.norm(S, 2), hermitian=True)


def velocity(model, stats):
    """Exact time derivatives of the means and of Sigma_W."""
    found = series_statistics(model, stats, 1, flow=True)
    return found.means[1], found.within[1]


def check_flow(model, H0, y, times, method="RK45", atol=1e-9):
    """The path is the flow of all samples: features, means and Sigma_W at every time."""
    path = central_path(model, ClassStatistics.from_features(H0, y), times)
    dense = dense_flow(model, H0, y, times, method)
    for H, mine, point in zip(dense, path.features(H0, y), path.statistics, strict=True):
        exact = ClassStatistics.from_features(H, y)
        np.testing.assert_allclose(mine, H, atol=atol)
        np.testing.assert_allclose(point.means, exact.means, atol=atol)
        np.testing.assert_allclose(point.within, exact.within, atol=atol)
    return path


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_flow_of_all_samples(case):
    model, H0, y = random_problem(1, **case)
    path = check_flow(model, H0, y, [0.0, 0.2, 1.5, 8.0])
    for point in path.statistics:
        assert rank(point.within) == rank(path.start.within)


def dead_units(H0, y):
    return H0 * [1, 0, 1, 0, 1]


def no_spread(H0, y):
    return ClassStatistics.from_features(H0, y).means.T[y]


def equal_means(H0, y):
    return H0 - no_spread(H0, y) + H0[0]


def means_on_a_line(H0, y):
    return H0 - no_spread(H0, y) + np.outer(np.arange(1.0, y.max() + 2)[y], H0[0])


def spread_off_the_means(H0, y):
    return no_spread(H0, y) * [1, 1, 1, 0, 0] + (H0 - no_spread(H0, y)) * [0, 0, 0, 1, 1]


def spread_in_the_means(H0, y):
    return H0 * [1, 1, 1, 0, 0]


def small(H0, y):
    return 1e-3 * H0


def large(H0, y):
    return 1e2 * H0


DEGENERATE = [
    dead_units, no_spread, equal_means, means_on_a_line, spread_off_the_means,
    spread_in_the_means, small, large,
]  # fmt: skip


@pytest.mark.parametrize("counts", [[4, 4, 4], [2, 4, 7], [1, 1, 1], [6]], ids=str)
@pytest.mark.parametrize("change", DEGENERATE, ids=lambda change: change.__name__)
def test_it_is_the_flow_on_degenerate_features_through_all_stages(change, counts):
    """Long enough for the means to leave the spread behind, and to come to rest."""
    model, H0, y = random_problem(2, counts=counts, K=len(counts), lambda_W=0.3, lambda_H=0.4)
    H0 = change(H0, y)
    times = [0.5, 5.0, 25.0, 120.0]
    if change in (equal_means, means_on_a_line) and counts[0] == counts[-1] and len(counts) > 1:
        # A saddle, which the oracle leaves by its own rounding.
        times = [0.1, 0.5, 3.0]
    check_flow(model, H0, y, times, atol=1e-9 * max(1, np.abs(H0).max()))


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_flow_on_random_problems_through_all_stages(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, size=rng.integers(1, 5))
    lambda_W, lambda_H = np.exp(rng.uniform(-2, 0.5, 2))
    d = int(rng.integers(1, 7))
    model, H0, y = random_problem(seed, len(counts), d, 0, lambda_W, lambda_H, 1.0, 1.0, counts)
    check_flow(model, H0, y, [0.3, 3.0, 30.0, 150.0])


@pytest.mark.parametrize("counts", [[3, 3, 3], [2, 3, 5]], ids=str)
@pytest.mark.parametrize(
    "lambda_W, lambda_H, times",
    [(1e-6, 1e3, [1e-4, 2e-3, 0.02]), (1e-3, 1e-3, [1.0, 30.0, 200.0]), (1e-8, 10.0, [1e-3, 0.3])],
)
def test_it_is_the_flow_where_that_is_stiff(lambda_W, lambda_H, times, counts):
    _, H0, y = random_problem(3, counts=counts)
    check_flow(Model(lambda_W, lambda_H), H0, y, times, "Radau", atol=2e-9)


@pytest.fixture
def steps(monkeypatch):
    """A list that grows by one entry for each step of an integrator."""
    taken, step = [], OdeSolver.step
    monkeypatch.setattr(OdeSolver, "step", lambda self: (taken.append(type(self)), step(self))[1])
    return taken


@pytest.mark.parametrize(
    "lambda_W, lambda_H, end, most, cases",
    [
        (1e-6, 1e3, 10.0, 400, [{}, {"counts": [2, 5, 3]}, {"d": 3}, {"K": 4, "d": 2}]),
        (0.01, 0.01, 1e6, 400, [{}, {"counts": [2, 5, 3]}, {"d": 3}, {"K": 4, "d": 2}]),
        (1e-3, 1e-3, 1e9, 1500, [{}, {"counts": [2, 5, 3]}]),
        (1e-5, 1e-5, 1e9, 400, [{"d": 3}, {"K": 4, "d": 2}]),
        (2.0, 3.0, 1e6, 200, [{}, {"counts": [2, 5, 3]}]),
        (0.01, 0.0, 1e6, 2500, [{"d": 3}, {"counts": [2, 5, 3], "d": 2}]),
    ],
)
def test_stiff_and_long_runs_end(steps, lambda_W, lambda_H, end, most, cases):
    model = Model(lambda_W, lambda_H)
    for case in cases:
        steps.clear()
        problem = random_problem(0, **case)
        before, after = central_path(model, problem.statistics, [end / 2, end]).statistics
        assert len(steps) <= most
        assert np.trace(after.within) <= np.trace(before.within)
        if lambda_H > 0:  # without decay the means grow for ever
            np.testing.assert_allclose(after.means, before.means, atol=1e-14)
            speed = np.abs(velocity(model, after)[0]).max()
            assert speed < 1e-12 * (lambda_H + model.kappa)
        if 0 < model.c < 1 and after.d >= after.K and after.balanced:
            np.testing.assert_allclose(
                after.means.T @ after.means / model.rho, np.eye(after.K), atol=1e-12
            )


def test_the_spread_decays_at_its_rates_for_a_long_time():
    """Off the frame with lambda_H and in it with kappa, through every stage to 1e-250."""
    model = Model(0.02, 0.05)
    for case, rate in (({"d": 5}, model.lambda_H), ({"d": 3}, model.kappa)):
        problem = random_problem(4, **case)
        times = np.array([250.0, 280.0]) / rate
        before, after = central_path(model, problem.statistics, times).statistics
        fall = np.log(np.trace(before.within) / np.trace(after.within))
        assert fall == pytest.approx(60, rel=1e-9)
        assert np.trace(after.within) > 1e-260


def test_implicit_steps_are_taken_where_it_is_stiff_and_only_there(steps):
    problem = random_problem(0)
    central_path(Model(1e-3, 1e-3), problem.statistics, [1e6])
    assert {cls.__name__ for cls in steps} == {"DOP853", "LSODA"}
    steps.clear()
    central_path(problem.model, problem.statistics, [1e6])
    assert {cls.__name__ for cls in steps} == {"DOP853"}


def test_a_run_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(flow, "MOST_STEPS", 50)
    problem = random_problem(0)
    with pytest.raises(ValueError, match="too stiff: 50 steps from t = 0 led to t = "):
        central_path(Model(1e-3, 1e-3), problem.statistics, [1e4])


def test_the_times_in_between_do_not_matter():
    problem = random_problem(2)
    few = central_path(problem.model, problem.statistics, [40.0]).statistics[-1]
    many = central_path(problem.model, problem.statistics, np.linspace(0, 40, 30)).statistics[-1]
    np.testing.assert_allclose(many.means, few.means, atol=1e-11)
    np.testing.assert_allclose(many.within, few.within, atol=1e-11)
    other = central_path(replace(problem.model, beta=9.0), problem.statistics, [40.0]).statistics[
        -1
    ]
    assert np.array_equal(other.means, few.means)


def test_one_step_of_the_minimizer_follows_it_to_first_order():
    problem = random_problem(3, lambda_W=0.5, lambda_H=0.3)
    model, H0, y = problem
    taus = np.geomspace(0.2, 2e-4, 4)
    g = gradient_derivatives(model, H0, y)[0]
    half = gradient_derivatives(model, H0, y, g, 1)[1] / 2
    path = central_path(model, problem.statistics, taus[::-1]).features(H0, y)[::-1]
    gaps = []
    for tau, H in zip(taus, path, strict=True):
        step = minimize(replace(model, beta=1 / tau), problem.statistics).features(H0, y)
        gaps.append(step - H)
    assert slope(taus, [np.linalg.norm(gap) for gap in gaps]) == pytest.approx(2, abs=0.02)
    np.testing.assert_allclose(gaps[1] / taus[1] ** 2, half, atol=0.02 * np.abs(half).max())


@pytest.mark.parametrize("K, d", [(3, 5), (4, 4), (2, 3), (4, 2)])
def test_theorem_on_a_random_start(K, d):
    problem = random_problem(4, K, d, 6)
    model = problem.model
    times = np.linspace(0, 30, 16)
    points = central_path(model, problem.statistics, times).statistics
    grow = np.exp(2 * model.lambda_H * times)
    assert np.all(np.diff([nc1_trace(p) for p in points]) < 0)
    assert np.all(np.diff(grow * [np.trace(p.within) for p in points]) < 0)
    assert np.all(np.diff(grow * [np.trace(p.between) for p in points]) > 0)


@pytest.mark.parametrize("seed", range(5))
def test_derivatives_in_the_proof(seed):
    problem = random_problem(seed, K=4, d=6, n=3)
    model, stats = problem.model, problem.statistics
    means, within = velocity(model, stats)
    Pi = np.eye(4) - 1 / 4
    A = stats.K * stats.within + model.lambda_W * np.eye(6)
    M = stats.means.T @ np.linalg.solve(A, stats.means)
    growth = M @ np.linalg.inv(np.eye(4) + M) @ np.linalg.inv(np.eye(4) + M)
    between = 2 * np.trace(Pi @ stats.means.T @ means) / 4
    assert between + 2 * model.lambda_H * np.trace(stats.between) == pytest.approx(
        np.trace(Pi @ growth) / 2, rel=1e-11
    )
    W = model.optimal_weights(stats)
    decay = np.trace(within) + 2 * model.lambda_H * np.trace(stats.within)
    assert decay == pytest.approx(-2 * np.trace(W @ stats.within @ W.T), rel=1e-11)


def test_derivative_is_that_of_the_path():
    problem = random_problem(5)
    t, step = 3.0, 2e-3
    before, here, after = central_path(
        problem.model, problem.statistics, [t - step, t, t + step]
    ).statistics
    means, within = velocity(problem.model, here)
    np.testing.assert_allclose((after.means - before.means) / (2 * step), means, atol=1e-7)
    np.testing.assert_allclose((after.within - before.within) / (2 * step), within, atol=1e-7)


def test_noise_off_the_means_decays_with_the_features_alone():
    """exp(2 lambda_H t) tr Sigma_W is constant, not strictly decreasing, when Sigma_W Hbar = 0."""
    means = np.zeros((5, 3))
    means[:3] = np.random.default_rng(6).normal(size=(3, 3))
    noise = np.diag([0, 0, 0, 0.3, 0.2])
    model = Model(0.02, 0.05)
    path = central_path(model, ClassStatistics(np.full(3, 4), means, noise), [0, 1, 10, 100])
    for t, point in zip(path.times, path.statistics, strict=True):
        np.testing.assert_allclose(np.exp(2 * model.lambda_H * t) * point.within, noise, atol=1e-11)
    assert np.all(np.diff([nc1_trace(p) for p in path.statistics]) < 0)
    # However little of the noise reaches into the span of the means, the decrease is strict again.
    noise[0, 0] = 1e-3
    points = central_path(
        model, ClassStatistics(np.full(3, 4), means, noise), [0, 1, 10, 100]
    ).statistics
    scaled = np.exp(2 * model.lambda_H * path.times) * [np.trace(p.within) for p in points]
    assert np.all(np.diff(scaled) < -1e-7)


def test_equal_means_stay_equal():
    """Of the flow and of the minimizer at large beta, tr Sigma_B stays zero; at small beta not."""
    rng = np.random.default_rng(7)
    means = np.repeat(rng.normal(size=(4, 1)), 3, axis=1)
    stats = ClassStatistics(np.full(3, 5), means, np.diag([0.1, 0.2, 0.3, 0.4]))
    for point in central_path(Model(0.05, 0.05), stats, [1, 20]).statistics:
        assert np.trace(point.between) < 1e-25
        with pytest.raises(ValueError, match="all class means are equal"):
            nc1_trace(point)
    between = [
        np.trace(minimize(Model(0.05, 0.05, beta), stats).statistics.between)
        for beta in (25.0, 0.1)
    ]
    assert between[0] < 1e-20 and between[1] > 0.1


def test_equal_means_of_unequal_classes_part():
    """Only balance keeps them equal: the larger class pulls harder."""
    means = np.array([[1.0, 1.0], [2.0, 2.0]])
    start = ClassStatistics(np.array([3, 6]), means, np.diag([0.3, 0.2]))
    for stats, parts in ((start, True), (replace(start, counts=np.array([4, 4])), False)):
        between = np.trace(central_path(Model(0.05, 0.05), stats, [1.0]).statistics[0].between)
        assert (between > 1e-4) if parts else (between < 1e-25)


def test_zero_means_only_decay():
    start = ClassStatistics(np.full(3, 2), np.zeros((4, 3)), np.diag([0.1, 0.2, 0.0, 0.0]))
    (end,) = central_path(Model(0.05, 0.3), start, [2.0]).statistics
    assert not end.means.any()
    np.testing.assert_allclose(end.within, np.exp(-1.2) * start.within, atol=1e-12)


def test_kernel_of_the_means_is_kept():
    """Two equal class means stay equal, so from there the frame is never reached."""
    problem = random_problem(8, K=4, d=6, n=3)
    means = problem.statistics.means.copy()
    means[:, 1] = means[:, 0]
    start = replace(problem.statistics, means=means)
    end = central_path(problem.model, start, [1000.0]).statistics[-1]
    np.testing.assert_allclose(end.means[:, 1], end.means[:, 0], atol=1e-10)
    assert np.linalg.matrix_rank(end.means, tol=1e-8) == 3
    assert (
        nc2(end) > 0.1
        and nc2(central_path(problem.model, problem.statistics, [1000.0]).statistics[-1]) < 1e-5
    )


def test_metric_with_pseudoinverse_can_rise():
    """NC1 rises along the flow and for minimizers while the trace form falls."""
    start = ClassStatistics(
        np.array([5, 5]), np.array([[1.0, 3.0], [2.0, 3.0]]), np.diag([0.0, 0.1])
    )
    model = Model(0.01, 0.01)
    assert nc1(start) == pytest.approx(0.008)
    points = [start, *central_path(model, start, [1, 1.5, 60]).statistics]
    values = [nc1(p) for p in points]
    assert values[0] < values[1] < values[2] > 1.7 * values[0] and values[3] < 1e-3
    assert np.all(np.diff([nc1_trace(p) for p in points]) < 0)
    for beta in (
        2.0,
        100.0,
    ):  # at 100, beta + lambda_H exceeds 1 / lambda_W: the minimizer is unique
        step = minimize(replace(model, beta=beta), start)
        assert step.certified == (beta == 100.0)
        assert nc1(step.statistics) > 1.01 * 0.008
        assert nc1_trace(step.statistics) < nc1_trace(start)


def test_unequal_classes_can_lose_separation():
    """Balance is essential: the trace form rises in this start with classes of 15 and 5 samples."""
    start = ClassStatistics(
        np.array([15, 5]), np.array([[0.2, 0.5], [0, 0], [0, 0]]), np.diag([0, 0, 0.1])
    )
    balanced = replace(start, counts=np.array([10, 10]))
    change = []
    for stats in (start, balanced):
        end = central_path(Model(0.01, 0.01), stats, [0.05]).statistics[-1]
        change.append(nc1_trace(end) - nc1_trace(stats))
    assert change[0] > 0 > change[1]


def test_far_along_it_collapses_at_the_stated_rates():
    """Means become a frame of radius sqrt(rho); Sigma_W decays by 1e-60, accurate all the way."""
    model = Model(0.2, 0.1)
    kappa = np.sqrt(model.lambda_H / model.lambda_W)
    for K, d, rate in ((3, 3, kappa), (3, 5, model.lambda_H)):
        problem = random_problem(9, K, d, 4)
        points = central_path(model, problem.statistics, [60.0, 70.0, 70 / rate]).statistics
        # The frame itself converges at 4 lambda_H (1 - c), so the rate has settled by then.
        ratio = np.trace(points[1].within) / np.trace(points[0].within)
        assert ratio == pytest.approx(np.exp(-20 * rate), rel=1e-3)
        end = points[-1]
        np.testing.assert_allclose(end.means.T @ end.means, model.rho * np.eye(K), atol=1e-9)
        assert 1e-70 < np.trace(end.within) < 1e-55
        assert rank(end.within) >= d - K if d > K else rank(end.within) == K


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ([0.0, 1.0, 1.0], "times must increase, but 1.0 follows 1.0"),
        ([-1.0, 1.0], "times must not be negative"),
        ([], "it is empty"),
        ([0.0, np.nan], "times must be finite"),
        ([[0.0, 1.0]], "times must have shape"),
        (-2.0, "times must not be negative"),
    ],
)
def test_bad_times(times, sentence):
    problem = random_problem(10)
    with pytest.raises(ValueError, match=sentence):
        central_path(problem.model, problem.statistics, times)


def test_other_refusals():
    problem = random_problem(11)
    with pytest.raises(ValueError, match="class 3 has no samples"):
        central_path(
            problem.model, ClassStatistics.from_features(problem.features, problem.labels, 4), [1.0]
        )
    for rtol in (1e-15, 0.0, -1e-9):
        with pytest.raises(ValueError, match="rtol must be"):
            central_path(problem.model, problem.statistics, [1.0], rtol)


def test_one_time_is_enough():
    problem = random_problem(12)
    one, many = (central_path(problem.model, problem.statistics, t) for t in (2.0, [2.0]))
    assert np.array_equal(one.times, [2.0]) and len(one.statistics) == 1
    assert np.array_equal(one.statistics[0].means, many.statistics[0].means)
    assert repr(one) == "CentralPath(K=3, d=5, N=12, 1 times from 2 to 2)"
    assert one == one and one != many and hash(one) == hash(one) and one in [many, one]


def test_only_the_features_of_the_start_can_be_carried_along():
    model, H0, y = problem = random_problem(11)
    path = central_path(model, problem.statistics, [1.0])
    with pytest.raises(ValueError, match=r"class sizes \[3 4 4\]"):
        path.features(H0[1:], y[1:])
    with pytest.raises(ValueError, match="in 4 dimensions"):
        path.features(H0[:, 1:], y)
    noise = np.random.default_rng(0).normal(size=H0.shape)
    deviations = noise - ClassStatistics.from_features(noise, y).means.T[y]
    for other, what in (
        (H0 + 100 * noise, "class means"),
        (H0 + 1e-6, "class means"),
        (H0 + 1e-4 * deviations, "within-class covariance"),
        (H0[np.argsort(y)], "class means"),
    ):
        with pytest.raises(ValueError, match=f"not those that the path started from: their {what}"):
            path.features(other, y)
    # The same samples in another order, and rounded to the type in which they may be stored.
    order = np.random.default_rng(1).permutation(len(y))
    np.testing.assert_allclose(path.features(H0[order], y[order]), path.features(H0, y)[:, order])
    np.testing.assert_allclose(
        path.features(H0.astype(np.float32), y), path.features(H0, y), atol=1e-6
    )
