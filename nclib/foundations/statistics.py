"""Class means and within-class covariance: all that the theory needs to know of the features."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib import _checks
from nclib.foundations.streaming import (
    EPS,
    ClassMeans,
    centered,
    class_means,
    resolution,
    scatter,
    two_sum,
)


class PrincipalAxes(NamedTuple):
    """Variances along the principal axes of a covariance.

    Attributes:
        variances: Shape (d,), rising, none negative.
        axes: Orthonormal columns, shape (d, d).
    """

    variances: np.ndarray
    axes: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class ClassStatistics:
    r"""Counts, class means and within-class covariance of N labeled features in d dimensions.

    With :math:`n_k` samples in class k and :math:`\bar h_k` their mean,

    .. math::
        \Sigma_W = \frac1N \sum_{k,i} (h_{k,i} - \bar h_k)(h_{k,i} - \bar h_k)^\top, \qquad
        \Sigma_B = \frac1K \sum_k (\bar h_k - \bar h_G)(\bar h_k - \bar h_G)^\top, \qquad
        \bar h_G = \frac1K \sum_k \bar h_k .

    For balanced classes these are the definitions of Tirer et al. (2023), Section 2. Otherwise they
    are a convention: every sample has the same weight in :math:`\Sigma_W`, every class the same
    weight in :math:`\bar h_G` and :math:`\Sigma_B`. Then :math:`\bar h_G` is not the mean of all
    samples, and :math:`\Sigma_W + \Sigma_B` is not their covariance.

    The arrays are copied and cannot be written to. Two statistics are equal only if they are the
    same object.

    Attributes:
        counts: Samples per class, shape (K,). Statistics of a shard may lack a class: its count and
            mean are zero.
        means: Class means as columns, rounded to float64, shape (d, K).
        within: Within-class covariance :math:`\Sigma_W`, shape (d, d).
        resolution: Machine epsilon of the type in which the features were given. Differences
            between class means that are smaller than this, relative to the means themselves and
            component by component, are rounding and not geometry.
        low: What the rounding to float64 took away from the means, shape (d, K); zero if not given.
            ``means + low`` are the class means with an error relative to the spread, which counts
            where the means are many times larger than the spread: ``merge``, ``centered_means``
            and the metrics use it, and files of statistics keep it.

    Raises:
        TypeError: An array does not hold real numbers.
        ValueError: The shapes do not fit together, a count is negative or all are zero, an entry is
            not finite, or ``within`` is not symmetric or not positive semidefinite, by more than
            rounding explains.

    Examples:
        >>> ClassStatistics(np.array([5, 5]), np.eye(3, 2), np.eye(3))
        ClassStatistics(K=2, d=3, N=10)
    """

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray
    resolution: float = EPS
    low: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def __post_init__(self) -> None:
        counts, means = np.asarray(self.counts), np.asarray(self.means)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or not len(counts) or counts.min() < 0:
            raise ValueError(
                f"counts must be a list of K integers, none negative, but counts = {counts!r}."
            )
        if counts.sum() == 0:
            raise ValueError("counts must not all be zero: there are no samples.")
        if means.ndim != 2 or means.shape[1] != len(counts):
            raise ValueError(
                f"means must have shape (d, {len(counts)}); the shape given is {means.shape}."
            )
        d = len(means)
        low = np.zeros(means.shape) if np.ndim(self.low) == 0 else self.low
        resolution = _checks.positive("resolution", self.resolution)
        within = _checks.as_array("within", self.within, (d, d))
        means = _checks.as_array("means", means, means.shape)
        _require_covariance(within, resolution, float(np.abs(means).max(initial=0.0)))
        self._keep(counts, means, within, resolution, _checks.as_array("low", low, means.shape))

    def _keep(
        self,
        counts: np.ndarray,
        means: np.ndarray,
        within: np.ndarray,
        resolution: float,
        low: np.ndarray,
    ) -> "ClassStatistics":
        """Keep copies of the parts, laid out in memory as they come, which nobody can write to."""
        parts = {
            "counts": np.array(counts, np.int64),
            "means": np.array(means),
            "within": np.array(within),
            "low": np.array(low),
        }
        for name, array in parts.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "resolution", resolution)
        return self

    @classmethod
    def _from_sums(cls, means: ClassMeans, within: np.ndarray, resolution: float) -> Self:
        """Statistics whose parts fit together by construction; only their size is checked."""
        _checks.finite("within", within)
        stats = object.__new__(cls)
        stats._keep(means.counts, means.means, within, resolution, means.low)
        return stats

    def __repr__(self) -> str:
        return f"ClassStatistics(K={self.K}, d={self.d}, N={self.N})"

    @classmethod
    def from_features(
        cls,
        features: ArrayLike,
        labels: ArrayLike,
        num_classes: int | None = None,
        *,
        classes: ArrayLike | None = None,
    ) -> Self:
        r"""Statistics of features, computed in two passes, in float64 whatever their type.

        The first pass finds the means, the second the scatter of the residuals about the rounded
        means :math:`c_k`; with the rounding error :math:`\delta_k = \bar h_k - c_k` known,

        .. math::
            N \Sigma_W = \sum_{k,i} (h_{k,i} - c_k)(h_{k,i} - c_k)^\top
            - \sum_k n_k \delta_k \delta_k^\top .

        Args:
            features: Shape (N, d), one row per sample; an array, or a tensor of torch of any
                floating-point type.
            labels: Shape (N,), integers in 0..K-1.
            num_classes: K. When it is given a class may have no samples here, because another shard
                to merge with may hold them; metrics and solver refuse statistics in which a class
                is still empty. When it is not given, K is the largest label plus one and every
                class needs a sample.
            classes: The classes to measure, by label. Samples of other classes are left out, and
                the classes are numbered anew in this order; each needs a sample.

        Returns:
            Statistics with the machine epsilon of the features' type as their resolution.

        Raises:
            TypeError: The features are not real numbers or the labels not integers.
            ValueError: A shape is wrong, a label lies outside 0..K-1, an entry is masked, NaN or
                infinite, a class has no samples and ``num_classes`` is not given, or both
                ``num_classes`` and ``classes`` are.

        Examples:
            >>> features = [[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]
            >>> ClassStatistics.from_features(features, [0, 0, 2], classes=[0, 2]).means
            array([[2., 0.],
                   [0., 5.]])
        """
        eps = resolution(features)
        X = _checks.as_features(features)
        if classes is None:
            y = _checks.as_labels(labels, len(X), num_classes)
        elif num_classes is None:
            X, y, named = _checks.choose(X, labels, classes)
            num_classes = len(named)
        else:
            raise ValueError("num_classes must not be given together with classes.")
        means = class_means(X, y, num_classes)
        within = scatter(X, y, means) / len(X)
        means = means._replace(
            means=np.ascontiguousarray(means.means), low=np.ascontiguousarray(means.low)
        )
        return cls._from_sums(means, within, eps)

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        r"""Statistics of the samples of both, as one pass over all of them would give them.

        The scatter between the two means of each class is added (Chan, Golub and LeVeque, 1983):

        .. math::
            N\Sigma_W = N_1\Sigma_1 + N_2\Sigma_2
            + \sum_k \frac{n_{1k} n_{2k}}{n_k} \delta_k \delta_k^\top, \qquad
            \bar h_k = \bar h_{1k} + \frac{n_{2k}}{n_k} \delta_k, \qquad
            \delta_k = \bar h_{2k} - \bar h_{1k} .

        The difference is formed from means with their low-order parts, so that it stays right where
        the means are many times larger than the spread.

        Args:
            other: Statistics with the same K and d, of other samples.

        Returns:
            Statistics with the coarser of the two resolutions.

        Raises:
            ValueError: The two differ in the number of classes or in the dimension.

        Examples:
            >>> one = ClassStatistics.from_features([[1.0], [2.0]], [0, 1], num_classes=2)
            >>> one.merge(ClassStatistics.from_features([[3.0]], [0], num_classes=2)).means
            array([[2., 2.]])
        """
        other = _checks.instance("other", other, ClassStatistics)
        if self.means.shape != other.means.shape:
            raise ValueError(
                f"statistics to merge must agree in (d, K), but these have {self.means.shape} and "
                f"{other.means.shape}."
            )
        counts, smaller = self.counts + other.counts, np.minimum(self.counts, other.counts)
        share = smaller / np.maximum(counts, 1)
        delta = (other.means - self.means) + (other.low - self.low)
        # Start at the mean with more samples: what only one side has then keeps its mean to the
        # last bit.
        swap = other.counts > self.counts
        low = np.where(swap, other.low - delta * share, self.low + delta * share)
        means, low = two_sum(np.where(swap, other.means, self.means), low)
        D = delta * np.sqrt(share * (counts - smaller))
        within = (self.N * self.within + other.N * other.within + D @ D.T) / (self.N + other.N)
        eps = max(self.resolution, other.resolution)
        return ClassStatistics._from_sums(ClassMeans(counts, means, low), within, eps)

    def __add__(self, other: "ClassStatistics") -> "ClassStatistics":
        """Statistics of the samples of both, as ``merge`` returns them."""
        return self.merge(other) if isinstance(other, ClassStatistics) else NotImplemented

    def __radd__(self, other: int) -> "ClassStatistics":
        """The statistics themselves, so that ``sum`` of a list merges it: its start is zero."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def only(self, classes: ArrayLike) -> "ClassStatistics":
        """Statistics without the classes that are not named, all of which must be empty.

        A class with samples cannot be taken out afterwards, because its scatter is part of
        ``within``: name the classes when the statistics are made.

        Args:
            classes: The classes to keep, by number; they are numbered anew in this order.

        Returns:
            Statistics of the same samples.

        Raises:
            TypeError: The classes are not integers.
            ValueError: A class is named twice or does not exist, or one that is not named has
                samples.

        Examples:
            >>> stats = ClassStatistics.from_features([[1.0], [2.0]], [0, 2], num_classes=3)
            >>> stats.only([0, 2])
            ClassStatistics(K=2, d=1, N=2)
        """
        kept = _checks.as_classes(classes)
        if kept.max() >= self.K:
            raise ValueError(f"classes must lie in 0..{self.K - 1}, but {kept.max()} is named.")
        lost = np.setdiff1d(np.flatnonzero(self.counts), kept)
        if len(lost):
            raise ValueError(
                f"class {lost[0]} has {self.counts[lost[0]]} samples and must stay; leave it out "
                "when the statistics are made."
            )
        means = ClassMeans(self.counts[kept], self.means[:, kept], self.low[:, kept])
        return ClassStatistics._from_sums(means, self.within, self.resolution)

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

    @cached_property
    def principal_axes(self) -> PrincipalAxes:
        r"""Eigenvalues, rising, and eigenvectors of :math:`\Sigma_W`; computed only once.

        Rounding can make a zero eigenvalue negative; here it is zero.
        """
        variances, axes = linalg.eigh(self.within, driver="evd")
        return PrincipalAxes(np.maximum(variances, 0), axes)

    @property
    def global_mean(self) -> np.ndarray:
        """Mean of the class means, shape (d,)."""
        return self.means.mean(axis=1)

    @property
    def centered_means(self) -> np.ndarray:
        """Class means minus their mean, as columns of shape (d, K)."""
        return centered(self.means, self.low)

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
        r"""Second moment of all samples, shape (d, d).

        .. math:: \frac{K}{N} H H^\top
            = K \Sigma_W + \frac KN \sum_k n_k \bar h_k \bar h_k^\top
        """
        return self.K * self.within + (self.means * (self.K * self.counts / self.N)) @ self.means.T


def _require_covariance(within: np.ndarray, resolution: float, largest: float) -> None:
    """Refuse a matrix that is no covariance by more than rounding explains.

    That is rounding to the type of the features, relative to the matrix, or rounding to float64
    of features as large as the largest mean.
    """
    tolerance = max(10 * resolution, 1e-9)
    size = float(np.abs(within).max())
    asymmetry = float(np.abs(within - within.T).max())
    if asymmetry > tolerance * size:
        raise ValueError(
            f"within must be symmetric, but it differs from its transpose by {asymmetry:.3g}."
        )
    # Cholesky succeeds if and only if no eigenvalue lies below minus the shift.
    shift = tolerance * max(float(np.trace(within)), size) + (8 * EPS * largest) ** 2
    if shift == 0:
        return
    try:
        linalg.cholesky(within + shift * np.eye(len(within)), overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        smallest = linalg.eigvalsh(within)[0]
        raise ValueError(
            "within must be positive semidefinite up to rounding, but its smallest eigenvalue is "
            f"{smallest:.3g}."
        ) from None
