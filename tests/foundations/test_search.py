"""No saddle is called a minimum, no certified point is beaten, and no bound is exceeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from nclib import (
    ClassStatistics,
    Model,
    ReducedProblem,
    Status,
    minimize,
    path,
    ridge_start,
    trust_region_newton,
)
from nclib.foundations import search as search_module
from nclib.foundations.search import _open, frame_start, is_certified, search
from tests.foundations.oracle_model import (
    Dense,
    families,
    family_problem,
    random_family,
    random_problem,
)

FAMILIES = list(families())


def reduced(problem):
    return ReducedProblem.from_statistics(problem.model, problem.statistics)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_a_converged_point_has_no_direction_of_negative_curvature(family, seed):
    """By automatic differentiation of the dense problem."""
    problem = family_problem(seed, family)
    solution = minimize(problem.model, problem.statistics)
    assert solution.status is Status.CONVERGED
    eigenvalues = linalg.eigvalsh(Dense(problem).hessian(solution.weights))
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_with_k_vanishing_directions_every_minimum_is_certified(family, seed):
    problem = family_problem(seed, family)
    rank = np.linalg.matrix_rank(problem.features, tol=1e-9 * np.abs(problem.features).max())
    solution = minimize(problem.model, problem.statistics)
    assert solution.certified or rank > family.d - family.K


@pytest.mark.parametrize("family", FAMILIES[::3])
def test_no_certified_point_is_beaten_by_fifty_random_starts_of_a_plain_optimizer(family):
    problem = family_problem(5, family)
    solution, dense = minimize(problem.model, problem.statistics), Dense(problem)
    lowest = dense.lowest_of_random_starts(50 if solution.certified else 10, seed=0) / dense.K
    assert lowest >= solution.lower_bound * (1 - 1e-9)
    assert not solution.certified or lowest >= solution.objective * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_random_problems_of_any_kind_end_in_the_lowest_minimum_that_random_starts_find(seed):
    model, stats = random_family(seed)
    solution = minimize(model, stats)
    problem = ReducedProblem.from_statistics(model, stats)
    assert solution.status is Status.CONVERGED
    assert solution.certified or problem.zero_directions.shape[1] < stats.K
    rng = np.random.default_rng(seed)
    for _ in range(10):
        size = 10 ** rng.uniform(-1.5, 1) / np.sqrt(model.lambda_W)
        W = size * rng.normal(size=(stats.K, stats.d))
        end = trust_region_newton(problem, W, 1e-8, 100).point.value / stats.K
        assert end >= solution.lower_bound * (1 - 1e-9)
        assert end >= solution.objective * (1 - 1e-9)


@pytest.mark.parametrize("counts, objective", [([5, 5], 0.021182), ([6, 3], 0.018534)])
def test_units_without_spread_or_means_are_used(counts, objective):
    """Two classes, one dead unit, and a start from which it stays dead: the saddle is at 0.243."""
    means = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    stats = ClassStatistics(np.array(counts), means, np.diag([10.0, 0.0, 0.0]))
    model = Model(1e-3, 1e-3, 1.0)
    problem = ReducedProblem.from_statistics(model, stats)
    saddle = trust_region_newton(problem, ridge_start(problem)).point
    assert saddle.gradient_norm < 1e-12 and saddle.value / 2 > 5 * objective
    solution = minimize(model, stats)
    assert solution.certified
    assert solution.objective == pytest.approx(objective, abs=1e-6)


def test_the_only_dimension_goes_to_the_largest_class():
    """One dimension, equal means, unequal classes: every class could have it."""
    stats = ClassStatistics(np.array([2, 7, 1, 3, 8]), np.zeros((1, 5)), np.array([[20.0]]))
    solution = minimize(Model(1.0, 0.001, 0.0), stats)
    assert np.argmax(np.abs(solution.weights)) == 4
    assert solution.objective < 0.3182


@pytest.mark.parametrize("dead", [16, 32, 48])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_relu_features_with_dead_units_are_certified(dead, beta):
    """Ten classes, 64 units: all of these were saddles, up to 18 % too high."""
    rng = np.random.default_rng(dead)
    labels = np.repeat(np.arange(10), 20)
    X = np.maximum(rng.normal(size=(10, 64))[labels] + rng.normal(size=(200, 64)), 0)
    X[:, 64 - dead :] = 0
    assert minimize(Model(5e-3, 5e-3, beta), ClassStatistics.from_features(X, labels)).certified


def test_dead_units_are_worth_as_much_as_added_ones():
    """K spare units that happen to be dead give the value that the padded problem promises."""
    problem = random_problem(3, 4, 6, 20, beta=0.3, spread=1.5)
    narrow = minimize(problem.model, problem.statistics, bound="padded")
    features = np.pad(problem.features, [(0, 0), (0, 4)])
    wide = minimize(problem.model, ClassStatistics.from_features(features, problem.labels))
    assert wide.certified and not narrow.certified
    assert narrow.lower_bound == pytest.approx(wide.objective, rel=1e-11)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.dead >= 3])
def test_opening_an_unused_unit_gains_what_the_formula_says(family):
    problem = reduced(family_problem(7, family))
    saddle = trust_region_newton(problem, ridge_start(problem)).point
    W = _open(saddle)
    assert W is not None
    moved = linalg.svd(W - saddle.W, compute_uv=False)
    assert np.sum(moved > 1e-9 * moved[0]) <= problem.K
    limit = problem.model.lambda_W * problem.b
    j = linalg.eigvalsh(saddle.residual_moment)[-1]
    u = linalg.eigh(saddle.residual_moment)[1][:, -1]
    gamma = u @ saddle.solve.Gamma @ u
    one = saddle.W + np.sqrt(problem.b / gamma * (np.sqrt(j / limit) - 1)) * np.outer(
        u, problem.zero_directions[:, 0]
    )
    gain = limit / gamma * (np.sqrt(j / limit) - 1) ** 2 / 2
    assert saddle.value - problem.at(one).value == pytest.approx(gain, rel=1e-8)
    assert saddle.value - problem.at(W).value > 0.5 * gain


def test_a_saddle_that_is_left_has_its_own_status(monkeypatch):
    """With no escapes allowed the search ends at the saddle of the dead units, and says so."""
    monkeypatch.setattr(search_module, "MOST_ESCAPES", 1)
    means = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    stats = ClassStatistics(np.array([5, 5]), means, np.diag([10.0, 0.0, 0.0]))
    solution = minimize(Model(1e-3, 1e-3, 1.0), stats)
    assert solution.status is Status.SADDLE and not solution.certified
    assert solution.lower_bound < solution.objective
    assert "negative curvature" in Status.SADDLE.value


@pytest.mark.parametrize("bound", ["dual", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lower_bounds_hold_and_are_finite(family, bound):
    problem = family_problem(8, family)
    solution = minimize(problem.model, problem.statistics, bound=bound)
    assert 0 <= solution.lower_bound <= solution.objective
    lowest = Dense(problem).lowest_of_random_starts(5, seed=1) / family.K
    assert solution.lower_bound <= lowest * (1 + 1e-9)


def test_the_padded_bound_is_the_minimum_of_the_padded_problem():
    """Sharper than the dual value, and never below it."""
    gaps = []
    for seed in range(6):
        problem = random_problem(seed, 3, 4, 8, 0.02, 0.02, beta=0.3, spread=1.5)
        rough = minimize(problem.model, problem.statistics)
        sharp = minimize(problem.model, problem.statistics, bound="padded")
        padded = search(reduced(problem).padded())
        assert sharp.objective <= rough.objective * (1 + 1e-12)
        assert sharp.lower_bound == pytest.approx(padded.point.value / 3, rel=1e-10)
        gaps.append(sharp.lower_bound / rough.lower_bound - 1)
    assert min(gaps) > -1e-12 and max(gaps) > 0.01


def test_a_bound_is_found_without_convergence():
    problem = random_problem(1, 10, 30, 20, 5e-3, 5e-3, beta=1.0, spread=1.0)
    early = minimize(problem.model, problem.statistics, max_iterations=1)
    late = minimize(problem.model, problem.statistics)
    assert early.status is Status.NOT_CONVERGED
    assert 0 < early.lower_bound <= late.objective


@pytest.mark.parametrize("counts", [None, [4, 2, 9, 5, 3]])
@pytest.mark.parametrize("lambda_W, lambda_H", [(0.01, 0.01), (1e-3, 10.0)])
def test_few_steps_suffice_for_the_weakest_pull(counts, lambda_W, lambda_H):
    problem = random_problem(1, 5, 8, 3, spread=0.1, counts=counts)
    stats = problem.statistics
    for beta in np.logspace(-8, -2, 7):
        solution = minimize(Model(lambda_W, lambda_H, beta), stats)
        assert solution.certified and solution.iterations <= 12
    free = minimize(Model(lambda_W, lambda_H, 1e-12), stats).statistics.means
    if counts is None:
        # The frame nearest to the means of H0.
        left, _, right = linalg.svd(stats.means, full_matrices=False)
        frame = np.sqrt(Model(lambda_W, lambda_H).rho) * left @ right
        np.testing.assert_allclose(free, frame, atol=1e-9)


@pytest.mark.parametrize("beta", [1e-6, 0.1, 10.0])
def test_frame_start_is_the_minimizer_when_there_is_no_spread(beta):
    means = np.random.default_rng(2).normal(size=(6, 4))
    stats = ClassStatistics(np.full(4, 3), means, np.zeros((6, 6)))
    problem = ReducedProblem.from_statistics(Model(0.02, 0.03, beta), stats)
    point = problem.at(frame_start(problem))
    assert point.gradient_norm < 1e-13 and point.certificate > 0


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    lambda_W=st.floats(-10, 3),
    lambda_H=st.floats(-10, 3),
    beta=st.floats(-8, 8),
    scale=st.floats(-8, 8),
    spread=st.floats(-3, 1),
)
def test_extreme_numbers_are_solved(seed, lambda_W, lambda_H, beta, scale, spread):
    rng = np.random.default_rng(seed)
    K, d, n = rng.integers(1, 7), rng.integers(1, 10), rng.integers(1, 6)
    labels = np.repeat(np.arange(K), n)
    X = rng.normal(size=(K, d))[labels] + 10**spread * rng.normal(size=(K * n, d))
    stats = ClassStatistics.from_features(10**scale * X, labels)
    solution = minimize(Model(10**lambda_W, 10**lambda_H, 10**beta), stats)
    assert solution.gradient_norm <= 1e-12
    assert np.isfinite(solution.lower_bound)
    assert solution.lower_bound <= solution.objective


@pytest.mark.parametrize("scale, lambda_W", [(1e8, 1e-2), (1e4, 1e-8), (1e8, 1e-3)])
def test_more_classes_than_dimensions_and_huge_features_are_solved(scale, lambda_W):
    X = scale * np.random.default_rng(1).normal(size=(12, 4))
    solution = minimize(Model(lambda_W, 1e-2, 1.0), ClassStatistics.from_features(X, np.arange(12)))
    assert solution.status is Status.CONVERGED


def test_a_start_is_used():
    problem = random_problem(4, 4, 9, 6, beta=4.0, spread=0.2)
    cold = minimize(problem.model, problem.statistics)
    warm = minimize(problem.model, problem.statistics, start=cold.weights)
    assert cold.certified and cold.iterations > 0 and warm.iterations == 0
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-14)


def test_a_bad_start_does_no_harm():
    """The reflected frame is a minimum of its own, not certified: the other starts follow."""
    model, (W, means) = Model(0.2, 0.2, 0.05), Model(0.2, 0.2).collapsed(2, 2)
    stats = ClassStatistics.from_features(means.T, [0, 1])
    solution = minimize(model, stats, start=W @ np.diag([1.0, -1.0]))
    assert solution.certified
    np.testing.assert_allclose(solution.weights, W, atol=1e-12)


def test_a_path_is_the_minimizers_one_by_one_with_one_decomposition(monkeypatch):
    problem = random_problem(5, 4, 9, 6, spread=0.4)
    betas = np.random.default_rng(0).permutation(np.logspace(-3, 2, 16))
    alone = [minimize(Model(0.02, 0.01, beta), problem.statistics) for beta in betas]
    decompositions = []
    eigh = linalg.eigh

    def counted(A, *args, **kwargs):
        decompositions.append(len(A))
        return eigh(A, *args, **kwargs)

    stats = problem.statistics
    monkeypatch.setattr("nclib.foundations.statistics.linalg.eigh", counted)
    found = path(problem.model, stats, betas)
    assert decompositions.count(9) == 1
    assert [solution.model.beta for solution in found] == list(betas)
    for solution, single in zip(found, alone, strict=True):
        assert solution.objective <= single.objective * (1 + 1e-12)
        if single.certified:
            np.testing.assert_allclose(solution.weights, single.weights, atol=1e-10)
    assert sum(solution.certified for solution in found) > 8


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"max_iterations": 2.5}, TypeError, "max_iterations must be an integer"),
        ({"max_iterations": -1}, ValueError, "max_iterations must be at least 1"),
        ({"start": np.zeros((3, 4))}, ValueError, r"start must have shape \(3, 5\)"),
        ({"start": np.full((3, 5), np.nan)}, ValueError, "start must be finite"),
        ({"bound": "best"}, ValueError, "bound must be one of .* but bound = 'best'"),
    ],
)
def test_bad_options_get_a_sentence(options, error, words):
    problem = random_problem(12)
    with pytest.raises(error, match=words):
        minimize(problem.model, problem.statistics, **options)


def test_progress_is_shown_on_a_terminal_and_for_large_problems_only(monkeypatch, capsys):
    problem = random_problem(6, 3, 5)
    minimize(problem.model, problem.statistics)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("nclib.foundations.minimize.MANY_OPERATIONS", 0)
    minimize(problem.model, problem.statistics)
    assert capsys.readouterr().err == ""  # no terminal

    class Bar:
        counted = 0

        def __init__(self, **options):
            assert options["disable"] is None and options["delay"] > 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def set_postfix_str(self, text, refresh):
            assert text.startswith("gradient")

        def update(self):
            Bar.counted += 1

    monkeypatch.setattr("tqdm.tqdm", Bar)
    assert minimize(problem.model, problem.statistics).iterations == Bar.counted > 0
    monkeypatch.setattr("nclib.foundations.minimize.find_spec", lambda name: None)
    assert minimize(problem.model, problem.statistics).certified is not None


@pytest.mark.parametrize("K, d", [(1, 1), (3, 5), (4, 2)])
@pytest.mark.parametrize("lambda_W", [1.0, 0.125, 1e-3])
def test_the_bound_of_uniqueness_itself_is_solved_for_tiny_input(K, d, lambda_W):
    """At lambda_W b = 1 and H0 = 0 the Hessian vanishes; the means grow like a cube root."""
    directions = np.sqrt(lambda_W) * np.eye(d, K)
    lengths = []
    for size in np.logspace(-11, -5, 4):
        stats = ClassStatistics(np.full(K, 2), size * directions, np.zeros((d, d)))
        solution = minimize(Model(lambda_W, 0.0, 1 / lambda_W), stats)
        assert solution.certified
        lengths.append(np.abs(solution.statistics.means).max())
    np.testing.assert_allclose(np.diff(np.log10(lengths)), 2 / 3, atol=0.01)


@pytest.mark.parametrize("seed", range(40))
def test_numbers_many_powers_of_ten_apart_end_without_an_error(seed):
    """Features, decays and pulls from 1e-8 to 1e8: the status and the bound are honest."""
    rng = np.random.default_rng([seed, 9])
    K, d = rng.integers(1, 7), rng.integers(1, 10)
    labels = np.repeat(np.arange(K), rng.integers(1, 6, K))
    means = rng.normal(size=(K, d)) if seed % 3 else np.outer(rng.normal(size=K), np.ones(d))
    features = means[labels] + rng.choice([0, 0.1, 1]) * rng.normal(size=(len(labels), d))
    if seed % 4 == 0:
        features[:, : d // 2] = 0
    stats = ClassStatistics.from_features(10 ** rng.uniform(-8, 8) * features, labels)
    model = Model(*10 ** rng.uniform([-10, -10, -8], [3, 3, 8]))
    solution = minimize(model, stats, max_iterations=50)
    assert np.isfinite(solution.lower_bound)
    assert solution.lower_bound <= solution.objective * (1 + 1e-9)
    assert (solution.status is Status.NOT_CONVERGED) == (solution.gradient_norm > 1e-12)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_the_wrong_valley_is_never_certified_however_little_the_right_one_is_lower(size):
    """One number: both signs of h are minima, and for small input J exceeds its limit by little."""
    model = Model(1 / 8, 1 / 8, 1 / 16)
    stats = ClassStatistics(np.array([1]), np.array([[size]]), np.zeros((1, 1)))
    problem = ReducedProblem.from_statistics(model, stats)
    wrong = trust_region_newton(problem, np.array([[-2.0]])).point
    excess = -wrong.certificate / (model.lambda_W * model.b)
    assert wrong.gradient_norm < 1e-12 and 0 < excess < size
    assert not is_certified(wrong)
    solution = minimize(model, stats)
    assert solution.certified and solution.objective < wrong.value


def test_a_point_that_is_not_stationary_is_never_certified():
    """Under strong decay J is below its limit everywhere, and only one point is the minimum."""
    stats = ClassStatistics(np.array([2, 2]), np.eye(3, 2), np.eye(3))
    problem = ReducedProblem.from_statistics(Model(2.0, 2.0, 1.0), stats)
    start = problem.at(np.zeros((2, 3)))
    assert start.certificate > 0 and start.gradient_norm > 0.1
    assert not is_certified(start)
    assert is_certified(trust_region_newton(problem, start.W).point)
