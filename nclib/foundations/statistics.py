r"""Class means and within-class covariance: all that the theory needs to know of the features.

Features of shape (N, d) are read in blocks of rows, so that a narrow array is never widened as a whole. A sample enters
a sum only as the difference to a point near its class. Where the spread is small beside the mean that difference is
exact (Sterbenz), and no later step subtracts two large numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk
from scipy.sparse import csc_array

from nclib import _checks

EPS = float(np.finfo(np.float64).eps)
BLOCK = 2**18  # entries of a block of residuals: 2 MiB, so that all steps on it run in the cache


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    r"""Counts, class means and within-class covariance of N labelled features in d dimensions.

    With :math:`n_k` samples in class k and :math:`\bar h_k` their mean,

    .. math::
        \Sigma_W = \frac1N \sum_{k,i} (h_{k,i} - \bar h_k)(h_{k,i} - \bar h_k)^\top, \qquad
        \Sigma_B = \frac1K \sum_k (\bar h_k - \bar h_G)(\bar h_k - \bar h_G)^\top, \qquad
        \bar h_G = \frac1K \sum_k \bar h_k .

    For balanced classes these are the definitions of Tirer et al. (2023), Section 2. Otherwise they are a convention:
    every sample has the same weight in :math:`\Sigma_W`, every class the same weight in :math:`\bar h_G` and
    :math:`\Sigma_B`. Then :math:`\bar h_G` is not the mean of all samples, and :math:`\Sigma_W + \Sigma_B` is not
    their covariance.

    Attributes:
        counts: Samples per class, shape (K,). Statistics of a shard may lack a class: its count and mean are zero.
        means: Class means as columns, shape (d, K).
        within: Within-class covariance :math:`\Sigma_W`, shape (d, d).
        resolution: Machine epsilon of the type in which the features were given. Differences between class means that
            are smaller than this, relative to the means themselves, are rounding and not geometry.

    Raises:
        ValueError: The shapes do not fit together, a count is negative or all are zero, or an entry is not finite.
    """

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray
    resolution: float = EPS
    _low: np.ndarray | None = field(
        default=None, repr=False
    )  # what rounding took from the means; merging needs it

    def __post_init__(self) -> None:
        counts, means = np.asarray(self.counts), np.asarray(self.means)
        if (
            counts.ndim != 1
            or counts.dtype.kind not in "iu"
            or counts.size == 0
            or counts.min() < 0
        ):
            raise ValueError(
                f"counts must be a list of K integers, none negative; given was {self.counts!r}."
            )
        if counts.sum() == 0:
            raise ValueError("counts are all zero: there are no samples.")
        if means.ndim != 2 or means.shape[1] != len(counts):
            raise ValueError(
                f"means must have shape (d, {len(counts)}); the shape given is {means.shape}."
            )
        d, low = len(means), np.zeros(means.shape) if self._low is None else self._low
        object.__setattr__(self, "counts", counts.astype(np.int64))
        object.__setattr__(self, "means", _checks.as_array("means", means, means.shape))
        object.__setattr__(self, "within", _checks.as_array("within", self.within, (d, d)))
        object.__setattr__(self, "resolution", _checks.positive("resolution", self.resolution))
        object.__setattr__(
            self, "_low", _checks.as_array("low-order part of the means", low, means.shape)
        )

    @classmethod
    def from_features(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "ClassStatistics":
        r"""Compute the statistics in two passes over the features, in float64 whatever their type.

        The first pass finds the means, the second the scatter of the residuals about the rounded means
        :math:`c_k`; with the rounding error :math:`\delta_k = \bar h_k - c_k` known,

        .. math::
            N \Sigma_W = \sum_{k,i} (h_{k,i} - c_k)(h_{k,i} - c_k)^\top - \sum_k n_k \delta_k \delta_k^\top .

        Args:
            features: Shape (N, d), one row per sample.
            labels: Shape (N,), integers in 0..K-1.
            num_classes: K. When it is given a class may have no samples here, because another shard to merge with
                may hold them; metrics and solver refuse statistics in which a class is still empty. When it is not
                given, K is the largest label plus one and every class needs a sample.

        Raises:
            TypeError: The features are not real numbers or the labels not integers.
            ValueError: A shape is wrong, a label lies outside 0..K-1, an entry is NaN or infinite, or `num_classes`
                is not given and a class has no samples.
        """
        features = _checks.as_features(features)
        labels = _checks.as_labels(labels, len(features), num_classes)
        counts, means, low = class_means(features, labels, num_classes)
        N, d = features.shape
        S = np.zeros((d, d), order="F")
        for R, _ in residual_blocks(features, labels, means):
            S = dsyrk(1.0, R.T, beta=1.0, c=S, lower=1, overwrite_c=1)
        S = dsyrk(-1.0, low * np.sqrt(counts), beta=1.0, c=S, lower=1, overwrite_c=1)
        S /= N
        S += np.tril(S, -1).T  # dsyrk filled the lower triangle only
        return cls(counts, means, S, resolution(features), low)

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        r"""Return the statistics of the samples of both, as one pass over all of them would give them.

        The scatter between the two means of each class is added (Chan, Golub and LeVeque, 1983):

        .. math::
            N\Sigma_W = N_1\Sigma_1 + N_2\Sigma_2 + \sum_k \frac{n_{1k} n_{2k}}{n_k} \delta_k \delta_k^\top, \qquad
            \bar h_k = \bar h_{1k} + \frac{n_{2k}}{n_k} \delta_k, \qquad \delta_k = \bar h_{2k} - \bar h_{1k} .

        The difference is formed from means with their low-order parts, so that it stays right where the means
        are many times larger than the spread.

        Raises:
            ValueError: The two differ in the number of classes or in the dimension.
        """
        if self.means.shape != other.means.shape:
            raise ValueError(
                f"statistics to merge must agree in (d, K), but these have {self.means.shape} and {other.means.shape}."
            )
        counts, smaller = self.counts + other.counts, np.minimum(self.counts, other.counts)
        share = smaller / np.maximum(counts, 1)
        delta = (other.means - self.means) + (other._low - self._low)
        # Start at the mean with more samples: what only one side has then keeps its mean to the last bit.
        swap = other.counts > self.counts
        low = np.where(swap, other._low - delta * share, self._low + delta * share)
        means, low = two_sum(np.where(swap, other.means, self.means), low)
        D = delta * np.sqrt(share * (counts - smaller))
        within = (self.N * self.within + other.N * other.within + D @ D.T) / (self.N + other.N)
        return ClassStatistics(counts, means, within, max(self.resolution, other.resolution), low)

    @property
    def K(self) -> int:
        """Number of classes."""
        return self.means.shape[1]

    @property
    def d(self) -> int:
        """Dimension of the features."""
        return self.means.shape[0]

    @property
    def N(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @property
    def balanced(self) -> bool:
        """Whether every class has the same number of samples."""
        return bool((self.counts == self.counts[0]).all())

    @property
    def global_mean(self) -> np.ndarray:
        """Mean of the class means, shape (d,)."""
        return self.means.mean(axis=1)

    @property
    def centered_means(self) -> np.ndarray:
        """Class means minus their mean, as columns of shape (d, K)."""
        return centered(self.means, self._low)

    @property
    def between(self) -> np.ndarray:
        r"""Between-class covariance :math:`\Sigma_B`, shape (d, d)."""
        M = self.centered_means
        return M @ M.T / self.K

    @property
    def shares(self) -> np.ndarray:
        """Relative class sizes K n_k / N, shape (K,); ones for balanced classes."""
        return self.counts * (self.K / self.N)

    @property
    def second_moment(self) -> np.ndarray:
        r""":math:`\frac{K}{N} H H^\top = K \Sigma_W + \frac KN \sum_k n_k \bar h_k \bar h_k^\top`, shape (d, d)."""
        return self.K * self.within + (self.means * (self.K * self.counts / self.N)) @ self.means.T


class ClassMeans(NamedTuple):
    """Counts (K,), class means (d, K) rounded to float64, and what that rounding took away, (d, K)."""

    counts: np.ndarray
    means: np.ndarray
    low: np.ndarray


def class_means(features: np.ndarray, labels: np.ndarray, K: int | None = None) -> ClassMeans:
    """Return the class means of checked features and labels, with an error relative to the spread of each class.

    The sum runs over differences to the first sample of the class, and the last addition keeps its rounding error.

    Raises:
        ValueError: An entry of the features is NaN or infinite (any such entry shows in the sum of its class).
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
    return ClassMeans(counts, *two_sum(anchors, sums.T / np.maximum(counts, 1)))


def residual_blocks(
    features: np.ndarray, labels: np.ndarray, centers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield h_i - centers[:, y_i] block by block, float64 of shape (rows, d), with the labels (rows,).

    The next block overwrites the array.
    """
    N, d = features.shape
    rows = max(256, BLOCK // d)
    rowwise = np.ascontiguousarray(centers.T)
    buffer = np.empty((min(rows, N), d))
    for start in range(0, N, rows):
        h, y = features[start : start + rows], labels[start : start + rows]
        R = buffer[: len(y)]
        np.take(
            rowwise, y, axis=0, out=R, mode="clip"
        )  # the mode that writes to `out` without a second buffer
        yield np.subtract(h, R, out=R), y


def centered(means: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the columns of means + low minus their mean, with an error relative to the result.

    Subtracting any common vector is allowed; the rounded mean makes the first difference exact or nearly so,
    and what it was off by goes with the second.
    """
    M = (means - means.mean(axis=1, keepdims=True)) + low
    return M - M.mean(axis=1, keepdims=True)


def resolution(features: np.ndarray) -> float:
    """Return the machine epsilon of the type of the features."""
    return float(np.finfo(features.dtype).eps)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a + b rounded, and what the rounding lost: exactly where |a| >= |b|, else up to rounding of b (Dekker)."""
    s = a + b
    return s, b - (s - a)
