"""The simplex and its rivals against searches in all scores and in all weights."""

from functools import partial

import numpy as np
import pytest
from scipy import optimize, special
from scipy.linalg import helmert

from nclib.beyond import frame, shared


def penalty_of(lambda_W, lambda_B, K, L):
    return partial(shared.cost, lambda_W, lambda_B, K, blocks=L)


def value(Z, penalty):
    """F at scores Z, and its gradient, from their singular value decomposition."""
    P, s, Qt = np.linalg.svd(Z)
    paid, K = penalty(s), len(Z)
    fit = np.mean(special.logsumexp(Z, axis=0) - np.diag(Z))
    slope = (special.softmax(Z, axis=0) - np.eye(K)) / K + (P * paid.slope) @ Qt
    return fit + paid.value.sum(), slope


def pair_scores(x, y, K):
    inner = np.kron(np.eye(K // 2), [[0.5, -0.5], [-0.5, 0.5]])
    return x * inner + y * (np.eye(K) - 1 / K - inner)


@pytest.mark.parametrize("K, L, stretch", [(2, 1, 3.0), (3, 2, 1.2), (6, 4, 4.0), (10, 16, 30.0)])
def test_the_simplex_is_stationary_at_its_stretch(K, L, stretch):
    found = frame.simplex(0.002 * K, K, L, stretch)
    penalty = penalty_of(0.002 * K, found.lambda_B, K, L)
    Z = found.score * (np.eye(K) - 1 / K)
    here, slope = value(Z, penalty)
    assert np.abs(slope).max() < 1e-12
    assert here == pytest.approx(found.value, rel=1e-12)
    assert penalty(np.array([found.score])).stretch ** L == pytest.approx(stretch, rel=1e-10)


def curvatures(K, L, stretch, lambda_W):
    """Eigenvalues of the second derivative at the simplex, for scores with the sum zero."""
    found = frame.simplex(lambda_W, K, L, stretch)
    penalty = penalty_of(lambda_W, found.lambda_B, K, L)
    Z, step = found.score * (np.eye(K) - 1 / K), 1e-5
    hessian = []
    for i in range(K * K):
        D = step * np.eye(K * K)[i].reshape(K, K)
        ends = [value(Z + D, penalty)[1], value(Z - D, penalty)[1]]
        hessian.append(((ends[0] - ends[1]) / (2 * step)).ravel())
    centered = np.kron(helmert(K).T, np.eye(K))
    hessian = centered.T @ np.array(hessian) @ centered
    return found, np.linalg.eigvalsh((hessian + hessian.T) / 2)


@pytest.mark.parametrize(
    "K, L, stretch, lambda_W",
    [
        (4, 4, 3.0, 0.1),
        (5, 16, 60.0, 0.3),
        (8, 8, 10.0, 0.05),
        (14, 16, 3.0, 0.2),
        (6, 64, 5.0, 6.0),
    ],
)
def test_the_margin_is_the_least_curvature_of_the_simplex(K, L, stretch, lambda_W):
    """It is margin * q / (K s) with q = 1 / (e^s + K - 1), K (K - 3) / 2 times."""
    found, eigenvalues = curvatures(K, L, stretch, lambda_W)
    s = found.score
    expected = found.margin / (K * s * (np.exp(s) + K - 1))
    count = K * (K - 3) // 2
    np.testing.assert_allclose(eigenvalues[:count], expected, rtol=1e-4, atol=1e-9)
    assert eigenvalues[count] > expected + 1e-6


def test_the_search_leaves_a_simplex_with_a_negative_margin():
    K, L, lambda_W = 6, 64, 6.0
    found = frame.simplex(lambda_W, K, L, 5.0)
    penalty = penalty_of(lambda_W, found.lambda_B, K, L)
    assert found.margin < 0 < frame.simplex(lambda_W, K, L, 1.5).margin
    inner = np.kron(np.eye(3), [[0.5, -0.5], [-0.5, 0.5]])
    center = np.eye(K) - 1 / K
    here = value(found.score * center, penalty)[0]
    # Zero diagonal and zero row sums: the pairs move apart, and nothing else changes.
    direction = inner - (K / 2) / (K - 1) * center
    assert max(np.abs(np.diag(direction)).max(), np.abs(direction.sum(axis=0)).max()) < 1e-15
    for step in (0.05, -0.05):
        lower = value(found.score * center + step * direction, penalty)[0]
        assert lower < here


@pytest.mark.parametrize("K", [2, 3])
def test_with_few_classes_a_positive_margin_is_enough_for_a_minimum(K):
    for L, stretch, lambda_W in [(2, 2.0, 0.1), (8, 5.0, 0.05), (4, 3.0, 0.01)]:
        found, eigenvalues = curvatures(K, L, stretch, lambda_W)
        assert found.margin > 0 and eigenvalues[0] > 0


@pytest.mark.parametrize("K, L", [(4, 4), (6, 8), (8, 2), (6, 1)])
def test_two_numbers_are_the_pairs(K, L):
    rng = np.random.default_rng(K + L)
    penalty = penalty_of(0.005, 0.01, K, L)
    found = frame.pairs(penalty, K, 8.0)
    here, slope = value(pair_scores(found.within, found.between, K), penalty)
    assert here == pytest.approx(found.value, rel=1e-10) and np.abs(slope).max() < 1e-6
    for x, y in rng.uniform(0, 25, (200, 2)):
        assert value(pair_scores(x, y, K), penalty)[0] > found.value - 1e-9 or x - y < 0.01 * x


def test_the_best_simplex_is_not_beaten_by_another_multiple():
    for K, penalty in ((3, penalty_of(0.01, 0.1, 3, 2)), (6, penalty_of(50.0, 1.0, 6, 1))):
        found = frame.best_simplex(penalty, K)
        s = np.linspace(0, 30, 301)
        for multiple in s:
            assert value(multiple * (np.eye(K) - 1 / K), penalty)[0] > found.value - 1e-12
    strong = frame.best_simplex(lambda s: shared.Cost(2 * s, 0 * s + 2, 0 * s + 1), 4)
    assert strong.within == 0 and strong.value == pytest.approx(np.log(4))


@pytest.mark.parametrize("K, L", [(4, 8), (6, 4)])
def test_nothing_that_the_search_finds_wins_before_the_pairs_do(K, L):
    lambda_W = 1e-3 * K
    critical = frame.critical_stretch(lambda_W, K, L)
    for factor, start in ((0.95, "simplex"), (1.05, "pairs")):
        found = frame.simplex(lambda_W, K, L, factor * critical)
        best = frame.rival(penalty_of(lambda_W, found.lambda_B, K, L), K, found.score, random=1)
        assert best.start == start
        if start == "simplex":
            assert best.value == pytest.approx(found.value, rel=1e-9)
        else:
            s = best.singular_values
            assert best.value < found.value * (1 - 1e-6)
            np.testing.assert_allclose(s[: K // 2], s[0], rtol=1e-4)
            np.testing.assert_allclose(s[K // 2 : K - 1], s[K // 2], rtol=1e-3)
            assert s[0] > 10 * s[K // 2] > 0.1 and s[-1] < 1e-6
            assert found.margin > 0


def test_pairs_do_not_win_with_one_block_or_in_the_convex_part():
    with pytest.raises(ValueError, match="blocks must be at least 2"):
        frame.critical_stretch(0.004, 4, 1)
    assert frame.critical_stretch(0.004, 4, 2) == np.inf
    for K, L in ((6, 4), (10, 4)):
        assert frame.critical_stretch(1e-3 * K, K, L) > shared.convex_up_to(L) ** L


def test_no_start_in_all_weights_ends_below_the_search():
    """Four residual blocks and a last layer, cross-entropy, beyond the critical stretch."""
    K, L, lambda_W, lambda_B = 6, 4, 6e-3, 1e-3
    best = frame.rival(penalty_of(lambda_W, lambda_B, K, L), K, 9.0, random=0)

    def objective(x):
        W, B = x[: K * K].reshape(K, K), x[K * K :].reshape(L, K, K)
        H = [np.eye(K)]
        for block in B:
            H.append(H[-1] + block @ H[-1])
        Z = W @ H[-1]
        E = (special.softmax(Z, axis=0) - np.eye(K)) / K
        fit = np.mean(special.logsumexp(Z, axis=0) - np.diag(Z))
        back, slopes = W.T @ E, []
        for block, before in zip(B[::-1], H[-2::-1], strict=True):
            slopes.append(back @ before.T + lambda_B * block)
            back = back + block.T @ back
        paid = lambda_W / (2 * K) * np.sum(W**2) + lambda_B / 2 * np.sum(B**2)
        parts = [E @ H[-1].T + lambda_W / K * W, *slopes[::-1]]
        return fit + paid, np.concatenate([part.ravel() for part in parts])

    rng, options = np.random.default_rng(1), {"maxiter": 4000, "maxfun": 8000, "gtol": 1e-8}
    starts = 0.05 * rng.standard_normal((3, (L + 1) * K * K))
    ends = [
        optimize.minimize(objective, x, jac=True, method="L-BFGS-B", options=options).fun
        for x in starts
    ]
    assert best.start == "pairs" and best.value == pytest.approx(min(ends), rel=1e-5)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: frame.simplex(1, 1, 1, 2.0), "K must be at least 2, but K = 1"),
        (lambda: frame.simplex(1, 3, 1, 1.0), "stretch must be greater than one"),
        (lambda: frame.simplex(-1, 3, 1, 2.0), "lambda_W must be greater than zero"),
        (lambda: frame.pairs(abs, 5, 1.0), "K must be even and at least 4, but K = 5"),
        (lambda: frame.pairs(abs, 6, 0.0), "score must be greater than zero"),
        (lambda: frame.critical_stretch(1, 2, 2), "K must be even and at least 4, but K = 2"),
        (lambda: frame.rival(abs, 4, -1.0), "score must be greater than zero"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
