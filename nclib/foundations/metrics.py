r"""The metrics of neural collapse, NC1 to NC4, from class statistics or straight from the features.

Write :math:`M` (d x K) for the centered class means. :math:`\Sigma_B = M M^\top / K` has rank
K - 1 at most, so NC1 needs no pseudoinverse of a d x d matrix. With :math:`B` (K x (K-1)) an
orthonormal basis of the complement of the ones vector, :math:`M = M B B^\top`, and a singular value
decomposition :math:`M B = U \operatorname{diag}(s) V^\top` gives

.. math::
    \mathrm{NC1} = \frac1K \operatorname{tr} \Sigma_W \Sigma_B^+
    = \sum_{i \le r} \frac{u_i^\top \Sigma_W u_i}{s_i^2} .

Leaving out the ones vector removes the direction in which :math:`M^\top M` is singular by
construction. The :math:`s_i^2` are the eigenvalues of the Gram matrix :math:`B^\top M^\top M B`;
decomposing its factor, not the product, keeps the digits that squaring the condition number would
cost.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import helmert

from nclib import _checks
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import (
    EPS,
    ClassMeans,
    centered,
    class_means,
    residual_blocks,
    resolution,
)

P = ParamSpec("P")


class Metrics(NamedTuple):
    """The metrics of one layer.

    Attributes:
        nc1: Within-class variability, as ``nc1`` returns it.
        nc1_trace: The quotient of traces, as ``nc1_trace`` returns it.
        nc2: Distance from a simplex equiangular tight frame, as ``nc2`` returns it.
        nc3: Distance from the weights, as ``nc3`` returns it; None where no weights were given.
        nc4: Share of disagreements, as ``nc4`` returns it; None where no weights were given.
    """

    nc1: float
    nc1_trace: float
    nc2: float
    nc3: float | None = None
    nc4: float | None = None


def _of_statistics(
    metric: Callable[Concatenate[ClassStatistics, P], float],
) -> Callable[Concatenate[ClassStatistics, P], float]:
    """The metric, with a sentence for whoever hands it features in the place of statistics."""

    @wraps(metric)
    def checked(stats: ClassStatistics, *args: P.args, **kwargs: P.kwargs) -> float:
        return metric(_checks.instance("stats", stats, ClassStatistics), *args, **kwargs)

    return checked


@_of_statistics
def nc1(stats: ClassStatistics) -> float:
    r"""Within-class variability relative to the class means in each direction.

    .. math:: \mathrm{NC1} = \frac1K \operatorname{tr} \Sigma_W \Sigma_B^+

    Zero at collapse. Directions in which the class means differ by no more than the rounding of the
    features are left out of the pseudoinverse; ``ClassStatistics.resolution`` says how large that
    is.
    Source: Section 2 of Tirer et al. (2023), the metric of Papyan, Han and Donoho (2020).

    Args:
        stats: Statistics of the features.

    Returns:
        A number that is not negative.

    Raises:
        ValueError: There is one class, a class has no samples, or all class means are equal.

    Examples:
        >>> stats = ClassStatistics.from_features([[-3.0], [-1.0], [1.0], [3.0]], [0, 0, 1, 1])
        >>> round(nc1(stats), 12)
        0.125
    """
    g, r = _decomposed(stats)
    return _nc1(np.sum(g.U * (stats.within @ g.U), axis=0), g, r)


@_of_statistics
def nc1_trace(stats: ClassStatistics) -> float:
    r"""Within-class variability relative to the class means, all directions together.

    .. math::
        \widetilde{\mathrm{NC1}} = \frac{\operatorname{tr} \Sigma_W}{\operatorname{tr} \Sigma_B}

    Zero at collapse. Source: Eq. 3 of Tirer et al. (2023).

    Args:
        stats: Statistics of the features.

    Returns:
        A number that is not negative.

    Raises:
        ValueError: There is one class, a class has no samples, or all class means are equal.

    Examples:
        >>> stats = ClassStatistics.from_features([[-3.0], [-1.0], [1.0], [3.0]], [0, 0, 1, 1])
        >>> round(nc1_trace(stats), 12)
        0.25
    """
    g, _ = _decomposed(stats)
    return _nc1_trace(np.trace(stats.within), g)


@_of_statistics
def nc2(stats: ClassStatistics) -> float:
    r"""Distance of the centered class means from a simplex equiangular tight frame.

    .. math::
        \mathrm{NC2} = \left\| \frac{G}{\|G\|_F}
        - \frac{I_K - \mathbf 1 \mathbf 1^\top / K}{\sqrt{K-1}} \right\|_F, \qquad G = M^\top M .

    Zero at collapse, always below :math:`\sqrt 2`. Source: Section 2 of Tirer et al. (2023).

    Args:
        stats: Statistics of the features.

    Returns:
        A number from 0 to the square root of 2.

    Raises:
        ValueError: There is one class, a class has no samples, or all class means are equal.

    Examples:
        Two classes always have the frame, three do not:

        >>> round(nc2(ClassStatistics.from_features([[0.0], [1.0], [2.0]], [0, 1, 2])), 3)
        0.765
    """
    g, _ = _decomposed(stats)
    return _nc2(g)


@_of_statistics
def nc3(stats: ClassStatistics, weights: ArrayLike) -> float:
    r"""Distance between the directions of the last layer's weights and of the class means.

    .. math::
        \mathrm{NC3} = \left\| \frac{\tilde W^\top}{\|\tilde W\|_F} - \frac{M}{\|M\|_F} \right\|_F,
        \qquad \tilde W = (I_K - \mathbf 1 \mathbf 1^\top / K) W .

    Zero at collapse, 2 at most. The weights are centered over the classes like the means: adding
    one vector to the weights of all classes changes no decision, and where weights are a multiple
    of the means they stay it.

    Args:
        stats: Statistics of the features that enter the last layer.
        weights: The last layer's weights, shape (K, d).

    Returns:
        A number from 0 to 2.

    Raises:
        ValueError: There is one class, a class has no samples, all class means or all weights are
            equal, or the weights have the wrong shape or are not finite.

    Examples:
        >>> stats = ClassStatistics.from_features([[-1.0], [1.0]], [0, 1])
        >>> round(nc3(stats, [[-5.0], [-2.0]]), 12), round(nc3(stats, [[1.0], [0.0]]), 12)
        (0.0, 2.0)
    """
    g, _ = _decomposed(stats)
    return _nc3(g, _checks.as_array("weights", weights, (stats.K, stats.d)))


def nc4(
    features: ArrayLike, labels: ArrayLike, weights: ArrayLike, bias: ArrayLike | None = None
) -> float:
    r"""Share of the samples on which the classifier disagrees with the nearest class mean.

    .. math::
        \mathrm{NC4} = \frac1N \#\left\{ h :
        \arg\max_k (w_k^\top h + b_k) \ne \arg\min_k \|h - \bar h_k\| \right\}

    Zero at collapse. The class means are those of these features; between equal scores the choice
    is arbitrary.

    Args:
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1; they enter through the class means only.
        weights: Shape (K, d).
        bias: Shape (K,), zero if not given.

    Returns:
        A share from 0 to 1.

    Raises:
        TypeError: The arrays do not hold real numbers, or the labels are not integers.
        ValueError: A shape is wrong, a label lies outside 0..K-1, a class has no samples, or an
            entry is not finite.

    Examples:
        >>> nc4([[-1.0], [1.0], [3.0]], [0, 1, 1], weights=[[0.0], [1.0]], bias=[2.0, 0.0])
        0.3333333333333333
    """
    data = _checked(features, labels, weights, bias)
    means = class_means(data.features, data.labels, len(data.weights))
    return _second_pass(data, means, _geometry(means)).disagreement


def measure(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> Metrics:
    r"""All metrics in two passes over the features, without a d x d matrix.

    The first pass finds the class means. The second needs of each residual
    :math:`h_{k,i} - \bar h_k` only its squared norm and its components along the directions
    :math:`u_i` in which the means differ. The residual is formed before it is projected: projecting
    first would subtract large numbers where the features have a large common part.

    Args:
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1.
        weights: The last layer's weights, shape (K, d), for NC3 and NC4.
        bias: The last layer's bias, shape (K,), zero if not given; for NC4.

    Returns:
        The metrics by name.

    Raises:
        TypeError: The arrays do not hold real numbers, or the labels are not integers.
        ValueError: As for the single metrics.

    Examples:
        >>> m = measure([[-3.0], [-1.0], [1.0], [3.0]], [0, 0, 1, 1])
        >>> round(m.nc1, 12), round(m.nc1_trace, 12), m.nc3
        (0.125, 0.25, None)
    """
    data = _checked(features, labels, weights, bias)
    means = class_means(data.features, data.labels, len(data.weights) or None)
    g = _geometry(means)
    seen = _second_pass(data, means, g)
    r = _rank(g, seen.trace, resolution(data.features))
    values = Metrics(_nc1(seen.along, g, r), _nc1_trace(seen.trace, g), _nc2(g))
    if weights is None:
        return values
    return values._replace(nc3=_nc3(g, data.weights), nc4=seen.disagreement)


class _Geometry(NamedTuple):
    """The centered means M (d x K) with M B = U diag(s) V^T, and the squared norm of the means."""

    M: np.ndarray
    U: np.ndarray
    s: np.ndarray
    size: float


def _geometry(means: ClassMeans) -> _Geometry:
    _checks.every_class(means.counts)
    if not np.isfinite(size := float(np.vdot(means.means, means.means))):
        raise ValueError("features must be smaller: their squares overflow.")
    M = centered(means.means, means.low)
    U, s, _ = np.linalg.svd(M @ helmert(M.shape[1]).T, full_matrices=False)
    return _Geometry(M, U, s, size)


def _rank(g: _Geometry, trace: float, resolution: float) -> int:
    """Return how many singular values are more than rounding.

    Rounding to a type with machine epsilon e moves an entry h by e|h|/2 at most, so a class mean by
    e/2 times the mean of |h|, and all centered means together by e/2 times the root of
    sum_k mean |h_ki|^2 = |means|^2 + sum_k tr Sigma_k (Cauchy-Schwarz), where the last sum is
    K tr Sigma_W if the classes are balanced. No singular value moves by more (Weyl). It is the
    means before centering that count: a large common part brings large rounding. The cut is twice
    this bound; 8 EPS are for our own arithmetic.
    """
    K = g.M.shape[1]
    if K == 1:
        raise ValueError("the metric compares class means, so it is undefined for K = 1 class.")
    r = int(np.count_nonzero(g.s > (resolution + 8 * EPS) * np.sqrt(g.size + K * trace)))
    if r == 0:
        raise ValueError(
            "all class means are equal up to the rounding of the features, "
            "so the metric is undefined."
        )
    return r


class _Data(NamedTuple):
    """Checked arguments; where no weights were given they are an array of no classes."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


class _Seen(NamedTuple):
    """What the second pass sees: tr Sigma_W, u_i^T Sigma_W u_i for each column of U, and NC4."""

    trace: float
    along: np.ndarray
    disagreement: float


def _second_pass(data: _Data, means: ClassMeans, g: _Geometry) -> _Seen:
    N, m = len(data.features), len(g.s)
    W = data.weights - data.weights.mean(axis=0) if len(data.weights) else data.weights
    X = np.vstack([g.U.T, W])
    P = g.U.T @ g.M  # the means in the coordinates of their span
    at_means, half = W @ means.means + data.bias[:, None], np.sum(P**2, axis=0)[:, None] / 2
    trace, along, wrong = 0.0, np.zeros(m), 0
    for R, y in residual_blocks(data.features, data.labels, means.means):
        Z = X @ R.T
        trace += float(np.vdot(R, R))
        along += np.einsum("ij,ij->i", Z[:m], Z[:m])
        if len(W):
            nearest = np.argmax(P.T @ (Z[:m] + P[:, y]) - half, axis=0)
            decision = np.argmax(Z[m:] + at_means[:, y], axis=0)
            wrong += int(np.count_nonzero(nearest != decision))
    # The residuals were about the rounded means.
    trace -= float(np.sum(means.counts * means.low**2))
    along -= np.sum(means.counts * (g.U.T @ means.low) ** 2, axis=1)
    return _Seen(trace / N, along / N, wrong / N)


def _decomposed(stats: ClassStatistics) -> tuple[_Geometry, int]:
    g = _geometry(ClassMeans(stats.counts, stats.means, stats.low))
    return g, _rank(g, float(np.trace(stats.within)), stats.resolution)


def _nc1(along: np.ndarray, g: _Geometry, r: int) -> float:
    return float(np.sum(along[:r] / g.s[:r] ** 2))


def _nc1_trace(trace: float, g: _Geometry) -> float:
    return float(trace * g.M.shape[1] / np.sum(g.s**2))


def _nc2(g: _Geometry) -> float:
    # G and the frame's Gram matrix commute: both are B (...) B^T, the latter with B^T B = I. So
    # compare eigenvalues.
    K = g.M.shape[1]
    eigenvalues = np.zeros(K - 1)
    eigenvalues[: len(g.s)] = g.s**2
    return float(np.linalg.norm(eigenvalues / np.linalg.norm(eigenvalues) - 1 / np.sqrt(K - 1)))


def _nc3(g: _Geometry, W: np.ndarray) -> float:
    norm = np.linalg.norm(C := W - W.mean(axis=0))
    if norm <= 8 * EPS * np.linalg.norm(W):
        raise ValueError("the weights are the same for all classes, so NC3 is undefined.")
    return float(np.linalg.norm(C.T / norm - g.M / np.linalg.norm(g.M)))


def _checked(
    features: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, bias: ArrayLike | None
) -> _Data:
    X = _checks.as_features(features)
    N, d = X.shape
    if weights is None:
        if bias is not None:
            raise ValueError("bias must not be given without weights.")
        return _Data(X, _checks.as_labels(labels, N), np.zeros((0, d)), np.zeros(0))
    K = max(np.atleast_1d(weights).shape[0], 1)
    W = _checks.as_array("weights", weights, (K, d))
    b = np.zeros(K) if bias is None else _checks.as_array("bias", bias, (K,))
    return _Data(X, _checks.as_labels(labels, N, K), W, b)
