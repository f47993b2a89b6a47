"""Class statistics of a stream: batches and shards come in one by one and are forgotten."""

from copy import copy
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk

from nclib import _checks
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import (
    ClassMeans,
    add_scatter,
    class_means,
    resolution,
    two_sum,
)


class Accumulator:
    r"""Running counts, class means and scatter of features that come in batch by batch.

    Only the sums are kept, two arrays of shape (K, d) and one of shape (d, d), however many samples
    there are. A batch is reduced to its own class means and the scatter S_b about them, and these
    are added to what is there (Chan, Golub and LeVeque, 1983),

    .. math::
        S \leftarrow S + S_b
        + \sum_k \frac{n_k\, n_{b,k}}{n_k + n_{b,k}} \delta_k\delta_k^\top, \qquad
        \bar h_k \leftarrow \bar h_k + \frac{n_{b,k}}{n_k + n_{b,k}} \delta_k, \qquad
        \delta_k = \bar h_{b,k} - \bar h_k ,

    a sum of positive semidefinite terms, in which nothing cancels. The means keep their low-order
    parts. So the result is as exact as ``ClassStatistics.from_features`` on all samples together,
    in whatever order they come.

    Classes may be seen late, once or never. Batches may differ in their floating-point type; the
    coarsest decides the resolution of the result.

    Threads may call ``update`` and ``merge`` of one accumulator at the same time: a lock lets them
    in one by one. It is faster to give each thread, process or file an accumulator of its own and
    to merge them; accumulators and statistics can be pickled.

    Args:
        num_classes: The number of classes K.

    Raises:
        TypeError: ``num_classes`` is not an integer.
        ValueError: It is less than one.

    Examples:
        >>> total = Accumulator(num_classes=2)
        >>> for features, labels in [([[1.0], [2.0]], [0, 0]), ([[5.0]], [1])]:
        ...     total.update(features, labels)
        >>> total.compute().means
        array([[1.5, 5. ]])
    """

    def __init__(self, num_classes: int) -> None:
        self._K = _checks.positive_integer("num_classes", num_classes)
        self._counts = np.zeros(self._K, np.int64)
        # Rows are classes here. The arrays are made when the dimension is known.
        self._means = self._low = np.zeros((self._K, 0))
        self._scatter = np.zeros((0, 0))
        self._resolution = 0.0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Accumulator(K={self.K}, d={self.d}, N={self.N})"

    def __getstate__(self) -> dict:
        with self._lock:
            return {name: copy(x) for name, x in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _lock=Lock())

    @property
    def K(self) -> int:
        """Number of classes."""
        return self._K

    @property
    def d(self) -> int:
        """Dimension of the features; zero as long as there are none."""
        return self._means.shape[1]

    @property
    def N(self) -> int:
        """Number of samples so far."""
        return int(self._counts.sum())

    def update(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch.

        If the batch is refused, the accumulator is as it was before.

        Args:
            features: Shape (N, d), with the same d in every batch.
            labels: Shape (N,), integers in 0..K-1.

        Raises:
            TypeError: The features are not real numbers or the labels not integers.
            ValueError: A shape is wrong, d is not that of the batches before, a label lies outside
                0..K-1, or an entry is masked, NaN or infinite.

        Examples:
            >>> total = Accumulator(num_classes=3)
            >>> total.update([[1.0, 2.0]], [2])
            >>> total
            Accumulator(K=3, d=2, N=1)
        """
        eps = resolution(features)
        X = _checks.as_features(features)
        y = _checks.as_labels(labels, len(X), self.K)
        # Of many classes only those in the batch cost anything.
        present, index = np.unique(y, return_inverse=True)
        batch = class_means(X, index, len(present))
        if not np.isfinite(batch.trace):
            raise ValueError("features must be smaller: their squares overflow.")
        # A sample that is alone in its class is the mean, and has no scatter about it.
        together = batch.counts[index] > 1
        if not together.all():
            X, index = X[together], index[together]
        with self._lock:
            self._add(present, batch, eps)
            self._scatter = add_scatter(self._scatter, X, index, batch)

    def merge(self, other: "Accumulator | ClassStatistics") -> None:
        """Add all samples that another accumulator has seen, or that statistics describe.

        Args:
            other: An accumulator or statistics with the same K and, if there are samples, the same
                d.

        Raises:
            TypeError: The other is neither.
            ValueError: K or d differ.

        Examples:
            >>> parts = [Accumulator(num_classes=1) for _ in range(2)]
            >>> for part, x in zip(parts, (1.0, 3.0)):
            ...     part.update([[x]], [0])
            >>> parts[0].merge(parts[1])
            >>> parts[0].compute().within
            array([[1.]])
        """
        if not isinstance(other, Accumulator):
            _checks.instance("other", other, ClassStatistics)
        if other.K != self.K:
            raise ValueError(
                f"statistics to merge must agree in K, but these have {self.K} and {other.K}."
            )
        if other.N == 0:
            return
        stats = other.compute() if isinstance(other, Accumulator) else other
        present = np.flatnonzero(stats.counts)
        means = ClassMeans(stats.counts[present], stats.means[:, present], stats.low[:, present])
        with self._lock:
            self._add(present, means, stats.resolution)
            self._scatter += stats.N * stats.within

    def compute(self) -> ClassStatistics:
        """Statistics of all samples so far; more can be added afterwards.

        Returns:
            Statistics in which classes without samples have zero count and mean.

        Raises:
            ValueError: No samples have been added.

        Examples:
            >>> total = Accumulator(num_classes=2)
            >>> total.update([[1.0], [3.0], [8.0]], [0, 0, 1])
            >>> total.compute()
            ClassStatistics(K=2, d=1, N=3)
        """
        with self._lock:
            if self.N == 0:
                raise ValueError("no samples have been added, so there are no statistics.")
            lower = np.tril(self._scatter) / self.N
            within = lower + np.tril(lower, -1).T
            means = ClassMeans(
                counts=self._counts,
                means=np.ascontiguousarray(self._means.T),
                low=np.ascontiguousarray(self._low.T),
            )
            return ClassStatistics._from_sums(means, within, self._resolution)

    def _add(self, present: np.ndarray, batch: ClassMeans, eps: float) -> None:
        """Add the means (d, P) of the classes that are present, and the scatter between the two."""
        d = len(batch.means)
        if self.N == 0:
            self._means, self._low = np.zeros((2, self.K, d))
            self._scatter = np.zeros((d, d), order="F")
        if d != self.d:
            raise ValueError(
                f"features must have {self.d} columns as before; the number given is {d}."
            )
        n, means, low = self._counts[present], self._means[present], self._low[present]
        counts, smaller = n + batch.counts, np.minimum(n, batch.counts)
        share = (smaller / counts)[:, None]
        delta = (batch.means.T - means) + (batch.low.T - low)
        # Start at the mean with more samples, as `ClassStatistics.merge` does.
        swap = (batch.counts > n)[:, None]
        means = np.where(swap, batch.means.T, means)
        low = np.where(swap, batch.low.T - delta * share, low + delta * share)
        self._means[present], self._low[present] = two_sum(means, low)
        D = (delta * np.sqrt(share * (counts - smaller)[:, None]))[n > 0]
        if len(D):
            self._scatter = dsyrk(1.0, D.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1)
        self._counts[present] = counts
        self._resolution = max(self._resolution, eps)
