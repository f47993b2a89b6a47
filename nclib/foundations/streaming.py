"""Sums over features read in blocks of rows, so that a narrow array is never widened as a whole.

A sample enters a sum only as the difference to a point near its class. Where the spread is small
beside the mean that difference is exact (Sterbenz), and no later step subtracts two large numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk
from scipy.sparse import csc_array

from nclib import _checks

EPS = float(np.finfo(np.float64).eps)
BLOCK = 2**18  # entries of a block of residuals: 2 MiB, so that all steps on it run in the cache


class ClassMeans(NamedTuple):
    """Counts and class means, the means in two parts.

    Attributes:
        counts: Samples per class, shape (K,).
        means: Class means rounded to float64, shape (d, K).
        low: What that rounding took away, shape (d, K): ``means + low`` is more exact than float64.
        trace: The trace of the scatter about the means, right to some digits.
    """

    counts: np.ndarray
    means: np.ndarray
    low: np.ndarray
    trace: float = 0.0


def class_means(features: np.ndarray, labels: np.ndarray, K: int | None = None) -> ClassMeans:
    """Class means of checked features, with an error relative to the spread of each class.

    The sum runs over differences to the first sample of the class, and the last addition keeps its
    rounding error.

    Args:
        features: Shape (N, d), float16, float32 or float64.
        labels: Shape (N,), integers in 0..K-1.
        K: Number of classes, the largest label plus one if not given. The mean of a class without
            samples is zero.

    Returns:
        Counts and means of the K classes.

    Raises:
        ValueError: An entry of the features is NaN or infinite (any such entry shows in the sum of
            its class).

    Examples:
        >>> class_means(np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 1])).means
        array([[2., 7.]])
    """
    K = int(labels.max()) + 1 if K is None else K
    counts = np.bincount(labels, minlength=K)
    present, first = np.unique(labels, return_index=True)
    # A class is a row here: its entries lie together in memory.
    anchors = np.zeros((K, features.shape[1]))
    anchors[present] = features[first]
    sums, trace = np.zeros_like(anchors), 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for R, y in residual_blocks(features, labels, anchors.T):
            if len(y) >= K:
                sums += _sum_rows(R, y, K)
            else:  # of many classes only those in the block are touched
                here, index = np.unique(y, return_inverse=True)
                sums[here] += _sum_rows(R, index, len(here))
            trace += float(np.vdot(R, R))
    if not np.isfinite(sums).all():
        raise ValueError(_checks.not_finite(features))
    sums /= np.maximum(counts, 1)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        trace -= float(counts @ np.sum(sums**2, axis=1))
    means, low = two_sum(anchors, sums)
    return ClassMeans(counts, means.T, low.T, max(trace, 0.0) if np.isfinite(trace) else np.inf)


def _sum_rows(R: np.ndarray, y: np.ndarray, K: int) -> np.ndarray:
    """The sums over the rows of each class, (K, d), in the order of the rows."""
    pick = csc_array((np.ones(len(y)), y, np.arange(len(y) + 1)), shape=(K, len(y)))
    return pick @ R


def residual_blocks(
    features: np.ndarray, labels: np.ndarray, centers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Residuals ``h_i - centers[:, y_i]`` block by block, with the labels of the block.

    Args:
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1.
        centers: Shape (d, K).

    Yields:
        Residuals in float64, shape (rows, d), and labels, shape (rows,). The next block overwrites
        the array of the residuals.

    Examples:
        >>> features, centers = np.array([[1.0], [3.0], [7.0]]), np.array([[2.0, 6.0]])
        >>> [R.ravel().tolist() for R, _ in residual_blocks(features, np.array([0, 0, 1]), centers)]
        [[-1.0, 1.0, 1.0]]
    """
    N, d = features.shape
    rows = max(256, BLOCK // d)
    rowwise = np.ascontiguousarray(centers.T)
    buffer = np.empty((min(rows, N), d))
    for start in range(0, N, rows):
        h, y = features[start : start + rows], labels[start : start + rows]
        R = buffer[: len(y)]
        # In this mode `take` writes to `out` without a second buffer.
        np.take(rowwise, y, axis=0, out=R, mode="clip")
        yield np.subtract(h, R, out=R), y


def scatter(features: np.ndarray, labels: np.ndarray, means: ClassMeans) -> np.ndarray:
    r"""Scatter of the features about their class means, :math:`N\Sigma_W`.

    Args:
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1.
        means: What ``class_means`` returned for them.

    Returns:
        A symmetric array of shape (d, d).

    Examples:
        >>> features, labels = np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 1])
        >>> scatter(features, labels, class_means(features, labels))
        array([[2.]])
    """
    d = features.shape[1]
    S = add_scatter(np.zeros((d, d), order="F"), features, labels, means)
    S += np.tril(S, -1).T
    return S


def add_scatter(
    S: np.ndarray, features: np.ndarray, labels: np.ndarray, means: ClassMeans
) -> np.ndarray:
    """Lower triangle of S plus the scatter of the features about their class means.

    Args:
        S: Shape (d, d), column by column in memory; it is overwritten. Its upper triangle is
            neither read nor written.
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1.
        means: What ``class_means`` returned for them.

    Returns:
        The sum.

    Examples:
        >>> features, labels = np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 1])
        >>> means = class_means(features, labels)
        >>> add_scatter(np.full((1, 1), 5.0, order="F"), features, labels, means)
        array([[7.]])
    """
    for R, _ in residual_blocks(features, labels, means.means):
        S = dsyrk(1.0, R.T, beta=1.0, c=S, lower=1, overwrite_c=1)
    # The residuals were about the rounded means.
    offset = means.low * np.sqrt(means.counts)
    if np.any(np.sum(offset**2, axis=1) > 1e-20 * S.diagonal()):
        S = dsyrk(-1.0, offset, beta=1.0, c=S, lower=1, overwrite_c=1)
    return S


def centered(means: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Columns of ``means + low`` minus their mean, with an error relative to the result.

    Subtracting any common vector is allowed; the rounded mean makes the first difference exact or
    nearly so, and what it was off by goes with the second.

    Args:
        means: Shape (d, K).
        low: Shape (d, K), small beside the means.

    Returns:
        An array of shape (d, K) whose columns have mean zero.

    Examples:
        >>> centered(np.array([[1e16, 1e16]]), np.array([[0.25, 0.75]]))
        array([[-0.25,  0.25]])
    """
    M = means - means.mean(axis=1, keepdims=True)
    M += low
    M -= M.mean(axis=1, keepdims=True)
    return M


def resolution(features: ArrayLike) -> float:
    """Machine epsilon of the type in which features were given.

    Args:
        features: An array or a tensor; what is not of a floating-point type counts as float64.

    Examples:
        >>> resolution(np.zeros((1, 1), np.float32)) == 2**-23
        True
    """
    if _checks.is_bfloat16(features):
        return 2.0**-7
    return float(np.finfo(_checks.as_features(features).dtype).eps)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum ``a + b`` rounded, and what the rounding lost (Dekker).

    What was lost is exact where ``|a| >= |b|``, and elsewhere right up to the rounding of b.

    Examples:
        >>> two_sum(np.array([1e16]), np.array([0.5]))
        (array([1.e+16]), array([0.5]))
    """
    s = a + b
    return s, b - (s - a)
