"""Sums over features read in blocks of rows, so that a narrow array is never widened as a whole.

A sample enters a sum only as the difference to a point near its class. Where the spread is small
beside the mean that difference is exact (Sterbenz), and no later step subtracts two large numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
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
    """

    counts: np.ndarray
    means: np.ndarray
    low: np.ndarray


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
    anchors = np.zeros((features.shape[1], K))
    anchors[:, present] = features[first].T
    sums = np.zeros((K, features.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for R, y in residual_blocks(features, labels, anchors):
            sums += csc_array((np.ones(len(y)), y, np.arange(len(y) + 1)), shape=(K, len(y))) @ R
    if not np.isfinite(sums).all():
        raise ValueError(_checks.not_finite(features))
    means, low = two_sum(anchors, sums.T / np.maximum(counts, 1))
    return ClassMeans(counts, means, low)


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
    M = (means - means.mean(axis=1, keepdims=True)) + low
    return M - M.mean(axis=1, keepdims=True)


def resolution(features: np.ndarray) -> float:
    """Machine epsilon of the type of the features.

    Examples:
        >>> resolution(np.zeros(1, np.float32)) == 2**-23
        True
    """
    return float(np.finfo(features.dtype).eps)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum ``a + b`` rounded, and what the rounding lost (Dekker).

    What was lost is exact where ``|a| >= |b|``, and elsewhere right up to the rounding of b.

    Examples:
        >>> two_sum(np.array([1e16]), np.array([0.5]))
        (array([1.e+16]), array([0.5]))
    """
    s = a + b
    return s, b - (s - a)
