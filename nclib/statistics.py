r"""Class means and within-class covariance: all that the theory needs to know of the features.

Every function takes features of shape (N, d) in row blocks, so that a narrow array is never widened as a whole. Samples
enter as residuals h - a_k about a point near their class: if the spread is small beside the mean the subtraction
is exact (Sterbenz), and no later step subtracts two large numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk

from nclib import _checks

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    r"""Counts, class means and pooled within-class covariance of N labelled features in d dimensions.

    With :math:`n_k` samples in class k and :math:`\bar h_k` their mean,

    .. math::
        \Sigma_W = \frac1N \sum_{k,i} (h_{k,i} - \bar h_k)(h_{k,i} - \bar h_k)^\top, \qquad
        \Sigma_B = \frac1K \sum_k (\bar h_k - \bar h_G)(\bar h_k - \bar h_G)^\top, \qquad
        \bar h_G = \frac1K \sum_k \bar h_k .

    For balanced classes these are the definitions of Tirer et al. (2023). Otherwise they are a convention: every
    sample has the same weight in :math:`\Sigma_W` and every class the same weight in :math:`\bar h_G` and
    :math:`\Sigma_B`. So :math:`\bar h_G` is not the mean of all samples, and :math:`\Sigma_W + \Sigma_B` is not
    their covariance.

    Attributes:
        counts: Samples per class, shape (K,). A shard may lack a class: its count and its mean are then zero.
        means: Class means as columns, shape (d, K).
        within: The pooled within-class covariance, shape (d, d).
        resolution: Machine epsilon of the type in which the features were given. Differences between the class means
            below this, relative to the means themselves, are rounding and not geometry.
    """

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray
    resolution: float = EPS
    _low: np.ndarray | None = field(default=None, repr=False)  # the means are means + _low, unevaluated

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        if counts.ndim != 1 or counts.size == 0 or counts.dtype.kind not in "iu" or counts.min() < 0:
            raise ValueError(f"counts must be K integers that are not negative; given was {self.counts}.")
        means = np.asarray(self.means)
        if means.ndim != 2 or means.shape[1] != len(counts):
            raise ValueError(f"means must have shape (d, {len(counts)}); the shape given is {means.shape}.")
        d = len(means)
        low = np.zeros_like(means, dtype=np.float64) if self._low is None else self._low
        values = {
            "counts": counts,
            "means": _checks.as_array("means", means, means.shape),
            "within": _checks.as_array("within", self.within, (d, d)),
            "_low": _checks.as_array("low", low, means.shape),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_features(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "ClassStatistics":
        """Compute the statistics in two passes over the features, in float64 whatever their type.

        The first pass finds the means, the second the covariance of the residuals about the rounded means.

        Args:
            features: Shape (N, d), one row per sample.
            labels: Shape (N,), integers in 0..K-1.
            num_classes: K. When given, classes without samples are allowed, for merging with other shards.

        Raises:
            TypeError: The features are not real or the labels not integers.
            ValueError: A shape is wrong, a label lies outside 0..K-1, an entry is NaN or infinite, or `num_classes`
                is not given and a class has no samples.
        """
        features = _checks.as_features(features)
        labels = _checks.as_labels(labels, len(features), num_classes)
        counts, means, low = class_means(features, labels, num_classes)
        N, d = features.shape
        S = np.zeros((d, d), order="F")
        for residuals, _ in residual_blocks(features, labels, means):
            S = dsyrk(1.0, residuals.T, beta=1.0, c=S, lower=1, overwrite_c=1)
        S = np.tril(S) + np.tril(S, -1).T
        # The residuals were about the rounded means; move them to the means proper.
        S -= (low * counts) @ low.T
        return cls(counts, means, S / N, float(np.finfo(features.dtype).eps), low)

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        """Return the statistics of the samples of both, as one pass over all of them would give.

        The update of Chan, Golub and LeVeque (1983) adds the scatter between the two means of each class. Their
        difference is formed from the means with their low-order parts, so that it is right even where the
        means are much larger than the spread.

        Raises:
            ValueError: The two differ in the number of classes or in the dimension.
        """
        if self.means.shape != other.means.shape:
            raise ValueError(
                f"statistics to merge must agree in (d, K); they are {self.means.shape} and {other.means.shape}."
            )
        counts = self.counts + other.counts
        delta = (other.means - self.means) + (other._low - self._low)
        # Start from the mean with more samples: a class that one side lacks keeps the other's mean to the last bit.
        swap = other.counts > self.counts
        share = np.minimum(self.counts, other.counts) / np.maximum(counts, 1)
        low = np.where(swap, other._low - delta * share, self._low + delta * share)
        means, low = two_sum(np.where(swap, other.means, self.means), low)
        between = delta * np.sqrt(share * np.maximum(self.counts, other.counts))
        within = (self.N * self.within + other.N * other.within + between @ between.T) / max(self.N + other.N, 1)
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
        """Class means minus their mean, shape (d, K)."""
        return centered(self.means, self._low)

    @property
    def between(self) -> np.ndarray:
        """Between-class covariance, shape (d, d)."""
        M = self.centered_means
        return M @ M.T / self.K

    @property
    def second_moment(self) -> np.ndarray:
        """(K / N) H H^T = K Sigma_W + sum_k (K n_k / N) mean_k mean_k^T, shape (d, d)."""
        return self.K * self.within + (self.means * (self.K * self.counts / self.N)) @ self.means.T


def class_means(
    features: np.ndarray, labels: np.ndarray, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts (K,) and class means (d, K) as an unevaluated sum of a rounded and a low-order part.

    Sums are taken of the differences to one sample of each class, so that the error is relative to the
    spread of the class and not to its mean. The low-order part keeps what rounding the mean loses.
    """
    K = int(labels.max()) + 1 if num_classes is None else num_classes
    counts = np.bincount(labels, minlength=K)
    present, first = np.unique(labels, return_index=True)
    anchors = np.zeros((features.shape[1], K))
    anchors[:, present] = features[first].T
    sums = np.zeros((K, features.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for residuals, y in residual_blocks(features, labels, anchors):
            sums += (y == np.arange(K)[:, None]).astype(np.float64) @ residuals
    if not np.isfinite(sums).all():
        raise ValueError(_not_finite(features))
    return counts, *two_sum(anchors, sums.T / np.maximum(counts, 1))


def residual_blocks(
    features: np.ndarray, labels: np.ndarray, means: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield h_i - means[:, y_i] for blocks of samples, float64 of shape (rows, d), with the labels of the block.

    The array is overwritten by the next block.
    """
    N, d = features.shape
    rows = max(256, 2**18 // d)
    centers = np.ascontiguousarray(means.T)
    buffer = np.empty((min(rows, N), d))
    for start in range(0, N, rows):
        y = labels[start : start + rows]
        block = buffer[: len(y)]
        np.take(centers, y, axis=0, out=block, mode="clip")
        yield np.subtract(features[start : start + rows], block, out=block), y


def centered(means: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return means + low minus the mean over the columns, right relative to the result."""
    M = (means - means.mean(axis=1, keepdims=True)) + low
    return M - M.mean(axis=1, keepdims=True)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounded sum of a and b and what the rounding lost, exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _not_finite(features: np.ndarray) -> str:
    for i, row in enumerate(features):
        if not np.isfinite(row).all():
            j = int(np.argmin(np.isfinite(row)))
            return f"features must be finite, but sample {i} has {row[j]} in component {j}."
    return "features are so large that their sum overflows."
