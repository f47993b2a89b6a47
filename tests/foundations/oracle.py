"""The slow, plain truth for statistics and metrics, and random problems to test the library with.

Formulas are written out on full matrices of exact rational numbers: what the oracle returns is the
value for the floating-point numbers given, with no rounding anywhere (square roots at the very end
excepted).
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)


def assert_close(actual, expected, dtype=np.float64, condition=1.0):
    """Assert |actual - expected| <= 200 eps condition max|expected|, with eps that of ``dtype``.

    ``condition`` is the factor by which the problem itself amplifies relative errors.
    """
    actual, expected = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    error = np.max(np.abs(actual - expected), initial=0.0)
    size = np.max(np.abs(expected), initial=0.0)
    allowed = 200 * float(np.finfo(dtype).eps) * condition * size
    assert error <= allowed, (
        f"error {error:.2e} exceeds {allowed:.2e}; actual {actual}, expected {expected}"
    )


class Samples(NamedTuple):
    """Features (N, d) and labels (N,)."""

    features: np.ndarray
    labels: np.ndarray


def samples(seed, counts, d, spread=1.0, offset=0.0, scale=1.0, dtype=np.float64) -> Samples:
    """Gaussian classes, counts[k] samples of class k, in random order.

    A sample is scale * (offset + class mean + spread * noise).
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    common, means = offset * rng.normal(size=d), rng.normal(size=(len(counts), d))
    features = common + means[labels] + spread * rng.normal(size=(len(labels), d))
    return Samples((scale * features).astype(dtype), labels)


@st.composite
def random_samples(
    draw, dtypes=(np.float16, np.float32, np.float64), max_K=5, max_n=7, max_d=6
) -> Samples:
    """Samples of any type, balanced or not, with spread and offset from tiny to huge, at any scale.

    The offset stays so far below the type's range of digits that the class means remain distinct.
    """
    dtype = draw(st.sampled_from(dtypes))
    digits = round(-np.log10(np.finfo(dtype).eps))
    counts = draw(st.lists(st.integers(1, max_n), min_size=2, max_size=max_K))
    d = draw(st.integers(1, max_d))
    spread = 10.0 ** draw(st.integers(3 - digits, 2))
    offset = draw(st.sampled_from([0.0, 1.0, *(10.0**e for e in range(1, digits - 3))]))
    scale = 10.0 ** (draw(st.integers(-30, 30)) if digits > 3 else 0)
    return samples(draw(st.integers(0, 999)), counts, d, spread, offset, min(scale, 1e24), dtype)


# ---- exact statistics -----------------------------------------------------------------------


def exact(x) -> np.ndarray:
    """The same numbers as fractions."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, dtype=float))


class Dense(NamedTuple):
    """Exact class means (d, K), covariances (d, d) and centered means (d, K)."""

    means: np.ndarray
    within: np.ndarray
    between: np.ndarray
    centered: np.ndarray


def dense(features, labels) -> Dense:
    """The definitions, for labels that cover 0..K-1."""
    H, K = exact(features).T, max(labels) + 1
    means = np.stack(
        [H[:, labels == k].sum(axis=1) / int(np.sum(labels == k)) for k in range(K)], axis=1
    )
    R = H - means[:, labels]
    M = means - means.sum(axis=1, keepdims=True) / Fraction(int(K))
    return Dense(means, R @ R.T / Fraction(len(labels)), M @ M.T / Fraction(int(K)), M)


def dense_pinv(A) -> np.ndarray:
    """Moore-Penrose inverse of an exact positive semidefinite matrix, its rank found exactly.

    With J the pivots of symmetric elimination, A = F A_JJ^-1 F^T for F = A[:, J], and F has full
    column rank.
    """
    J, S = [], A.copy()
    for j in range(len(A)):
        if S[j, j] != 0:
            J.append(j)
            S = S - np.outer(S[:, j], S[j]) / S[j, j]
    F = A[:, J]
    G = exact_inverse(F.T @ F)
    return F @ G @ A[np.ix_(J, J)] @ G @ F.T


def exact_inverse(A) -> np.ndarray:
    """Inverse of an exact positive definite matrix by Gauss-Jordan elimination."""
    n = len(A)
    T = np.hstack([A, exact(np.eye(n))]) if n else A
    for i in range(n):
        T[i] = T[i] / T[i, i]
        for j in set(range(n)) - {i}:
            T[j] = T[j] - T[j, i] * T[i]
    return T[:, n:]


# ---- metrics by their definitions -----------------------------------------------------------


def dense_nc1(t: Dense) -> float:
    return float(np.trace(t.within @ dense_pinv(t.between)) / Fraction(t.means.shape[1]))


def dense_nc1_trace(t: Dense) -> float:
    return float(np.trace(t.within) / np.trace(t.between))


def dense_nc2(t: Dense) -> float:
    K, G = t.means.shape[1], t.centered.T @ t.centered
    G = (G / np.max(np.abs(G))).astype(float)
    return float(
        np.linalg.norm(G / np.linalg.norm(G) - (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1))
    )


def dense_nc3(t: Dense, weights) -> float:
    W = exact(weights)
    W, M = W - W.sum(axis=0) / Fraction(len(W)), t.centered
    W, M = (W / np.max(np.abs(W))).astype(float), (M / np.max(np.abs(M))).astype(float)
    return float(np.linalg.norm(W.T / np.linalg.norm(W) - M / np.linalg.norm(M)))


def dense_nc4(t: Dense, features, weights, bias) -> tuple[float, float]:
    """NC4 and the smallest relative gap between the two best scores.

    Below that gap the answer is a matter of luck.
    """
    H = exact(features).T
    scores = [exact(weights) @ H + exact(bias)[:, None]]
    scores.append(-np.stack([((H - m[:, None]) ** 2).sum(axis=0) for m in t.means.T]))
    choices, gap = [], np.inf
    for s in scores:
        choices.append([int(max(range(len(s)), key=lambda k, c=c: c[k])) for c in s.T])
        best, second = np.sort(s, axis=0)[-1], np.sort(s, axis=0)[-2]
        gap = min(gap, *((best - second) / max(map(abs, s.ravel()))).astype(float))
    return float(np.mean(np.array(choices[0]) != np.array(choices[1]))), gap


def means_condition(t: Dense) -> float:
    """Ratio of the largest to the smallest singular value of the centered means, zeros left out."""
    s = np.linalg.svd((t.centered / np.max(np.abs(t.centered))).astype(float), compute_uv=False)
    K, d = t.means.shape[1], len(t.means)
    return float(s[0] / s[min(K - 1, d) - 1])
