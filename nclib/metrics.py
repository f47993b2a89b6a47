r"""The four measures of neural collapse, from statistics or straight from features.

All of them need only the class means and what the within-class covariance does in the span of the centered means.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import helmert

from nclib import _checks
from nclib.statistics import ClassStatistics, centered, class_means, residual_blocks


class Metrics(NamedTuple):
    """The values of `measure`; NC3 and NC4 are None when no weights were given."""

    nc1: float
    nc1_trace: float
    nc2: float
    nc3: float | None = None
    nc4: float | None = None


class _Separation(NamedTuple):
    """The centered means M = U diag(s) V^T (d x K), the rank r of their span and the size of rounding in them."""

    M: np.ndarray
    U: np.ndarray
    s: np.ndarray
    r: int


def _separation(counts, means, low, trace, resolution) -> _Separation:
    _checks.every_class(counts)
    K = len(counts)
    if K == 1:
        raise ValueError("the metric compares class means, so it is undefined for K = 1 class.")
    M = centered(means, low)
    # M = M B B^T with B (K x (K - 1)) an orthonormal basis of the complement of the ones vector.
    U, s, _ = np.linalg.svd(M @ helmert(K).T, full_matrices=False)
    rounding = resolution * np.sqrt(np.sum(means**2) + trace * counts.sum() / counts.min())
    r = int(np.sum(s > rounding))
    if r == 0:
        raise ValueError("all class means are equal up to the rounding of the features, so the metric is undefined.")
    return _Separation(M, U, s, r)


def _of(stats: ClassStatistics) -> _Separation:
    return _separation(stats.counts, stats.means, stats._low, np.trace(stats.within), stats.resolution)


def nc1(stats: ClassStatistics) -> float:
    """tr(Sigma_W Sigma_B^+) / K."""
    _, U, s, r = _of(stats)
    P = U[:, :r] / s[:r]
    return float(np.sum(P * (stats.within @ P)))


def nc1_trace(stats: ClassStatistics) -> float:
    """tr Sigma_W / tr Sigma_B."""
    return float(np.trace(stats.within) * stats.K / np.sum(_of(stats).s ** 2))


def nc2(stats: ClassStatistics) -> float:
    """Distance of the Gram matrix of the centered means from that of a simplex equiangular tight frame."""
    return _nc2(_of(stats).s, stats.K)


def nc3(stats: ClassStatistics, weights: ArrayLike) -> float:
    """Distance between the centered weights and the centered means, both scaled to norm one."""
    return _nc3(_of(stats).M, _checks.as_array("weights", weights, (stats.K, stats.d)))


def nc4(features: ArrayLike, labels: ArrayLike, weights: ArrayLike, bias: ArrayLike | None = None) -> float:
    """Share of samples on which the classifier and the nearest class mean disagree."""
    features = _checks.as_features(features)
    labels = _checks.as_labels(labels, len(features))
    counts, means, low = class_means(features, labels)
    W, b = _classifier(weights, bias, len(counts), features.shape[1])
    M, tables = _decisions(means, low, W, b)
    wrong = 0
    for residuals, y in residual_blocks(features, labels, means):
        wrong += _disagree(residuals @ M, residuals @ W.T, tables, y)
    return wrong / len(features)


def measure(
    features: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, bias: ArrayLike | None = None
) -> Metrics:
    """All metrics in two passes over the features, without a d x d matrix."""
    features = _checks.as_features(features)
    labels = _checks.as_labels(labels, len(features))
    N, d = features.shape
    counts, means, low = class_means(features, labels)
    K = len(counts)
    M = centered(means, low)
    U, s, _ = np.linalg.svd(M @ helmert(K).T, full_matrices=False)
    W, b = (np.zeros((0, d)), None) if weights is None else _classifier(weights, bias, K, d)
    X = np.hstack([U, M, W.T])
    m = U.shape[1]
    if weights is not None:
        _, tables = _decisions(means, low, W, b)
    total, along, wrong = 0.0, np.zeros(m), 0
    for residuals, y in residual_blocks(features, labels, means):
        Z = residuals @ X
        total += np.vdot(residuals, residuals)
        along += np.sum(Z[:, :m] ** 2, axis=0)
        if weights is not None:
            wrong += _disagree(Z[:, m : m + K], Z[:, m + K :], tables, y)
    total -= np.sum(low**2 * counts)
    along -= np.sum((U.T @ low) ** 2 * counts, axis=1)
    trace = total / N
    r = _separation(counts, means, low, trace, float(np.finfo(features.dtype).eps)).r
    return Metrics(
        float(np.sum(along[:r] / s[:r] ** 2) / N),
        float(trace * K / np.sum(s**2)),
        _nc2(s, K),
        None if weights is None else _nc3(M, W),
        None if weights is None else wrong / N,
    )


def _nc2(s: np.ndarray, K: int) -> float:
    g = np.zeros(K - 1)
    g[: len(s)] = s**2
    return float(np.linalg.norm(g / np.linalg.norm(g) - 1 / np.sqrt(K - 1)))


def _nc3(M: np.ndarray, W: np.ndarray) -> float:
    W = W - W.mean(axis=0)
    if not (norm := np.linalg.norm(W)):
        raise ValueError("the weights are equal for all classes, so NC3 is undefined.")
    return float(np.linalg.norm(W.T / norm - M / np.linalg.norm(M)))


def _classifier(weights, bias, K, d):
    W = _checks.as_array("weights", weights, (K, d))
    b = np.zeros(K) if bias is None else _checks.as_array("bias", bias, (K,))
    return W - W.mean(axis=0), b


def _decisions(means, low, W, b):
    M = centered(means, low)
    return M, (M.T @ M - np.sum(M**2, axis=0) / 2, means.T @ W.T + b)


def _disagree(ZM, ZW, tables, y) -> int:
    nearest = np.argmax(ZM + tables[0][y], axis=1)
    return int(np.sum(nearest != np.argmax(ZW + tables[1][y], axis=1)))
