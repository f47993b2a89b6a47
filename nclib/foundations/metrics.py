r"""The metrics of neural collapse, NC1 to NC4, from class statistics or straight from the features.

Write :math:`M` (d x K) for the centered class means. :math:`\Sigma_B = M M^\top / K` has rank
K - 1 at most, so NC1 needs no pseudoinverse of a d x d matrix: with the directions :math:`u_i` in
which the means differ and the singular values :math:`s_i` of :math:`M`,

.. math::
    \mathrm{NC1} = \frac1K \operatorname{tr} \Sigma_W \Sigma_B^+
    = \sum_{i \le r} \frac{u_i^\top \Sigma_W u_i}{s_i^2}
    = \frac1N \sum_{k,i} \|T(h_{k,i} - \bar h_k)\|^2, \qquad
    T^\top T = U S^{-2} U^\top .

What the directions are, and which of them are more than rounding, is the matter of
``nclib.foundations.geometry``.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from scipy.linalg.blas import dtrmm

from nclib import _checks
from nclib.foundations.geometry import Geometry, distinct, geometry
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import (
    BLOCK,
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
    _squares_fit(stats.means)
    g = _differences(stats).clear
    return _nc1(np.sum(g.U * (stats.within @ g.U), axis=0), g.s)


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
    _squares_fit(stats.means)
    s = _differences(stats).s
    return _nc1_trace(float(np.trace(stats.within)), s, stats.K)


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
    return _nc2(_differences(stats).s, stats.K)


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
    W = _checks.as_array("weights", weights, (stats.K, stats.d))
    _differences(stats)  # raises where the means do not differ
    return _nc3(stats.centered_means, W)


def nc4(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    classes: ArrayLike | None = None,
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
        classes: The classes to measure, by label; samples of other classes are left out, and so are
            the scores of other classes. All if not given.

    Returns:
        A share from 0 to 1.

    Raises:
        TypeError: The arrays do not hold real numbers, or the labels are not integers.
        ValueError: A shape is wrong, a label lies outside 0..K-1, a class has no samples, or an
            entry is masked or not finite.

    Examples:
        >>> nc4([[-1.0], [1.0], [3.0]], [0, 1, 1], weights=[[0.0], [1.0]], bias=[2.0, 0.0])
        0.3333333333333333
    """
    data = _checked(features, labels, weights, bias, classes)
    means = class_means(data.features, data.labels, len(data.weights))
    _checks.every_class(means.counts)
    rule = _Rules.of(data, means)
    blocks = residual_blocks(data.features, data.labels, means.means)
    return sum(rule.disagreements(R, y) for R, y in blocks) / len(data.labels)


def measure(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    classes: ArrayLike | None = None,
) -> Metrics:
    r"""All metrics in two passes over the features, without a d x d or K x K matrix.

    The first pass finds the class means. The second needs of each residual
    :math:`h_{k,i} - \bar h_k` only its squared norm and its components along the directions
    :math:`u_i` in which the means differ. The residual is formed before it is projected: projecting
    first would subtract large numbers where the features have a large common part.

    Args:
        features: Shape (N, d); an array, or a tensor of torch of any floating-point type.
        labels: Shape (N,), integers in 0..K-1. Without weights K is the largest label plus one.
        weights: The last layer's weights, shape (K, d), for NC3 and NC4.
        bias: The last layer's bias, shape (K,), zero if not given; for NC4.
        classes: The classes to measure, by label: samples, weights and biases of other classes are
            left out. All if not given; then each needs a sample.

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
    data = _checked(features, labels, weights, bias, classes)
    means = class_means(data.features, data.labels, len(data.weights) or None)
    _checks.every_class(means.counts)
    _squares_fit(means.means, means.trace)
    M, N = centered(means.means, means.low), len(data.labels)
    g = geometry(M)
    clear = distinct(g, means, data.resolution, means.trace / N, lambda: _variances(data, means))
    rule = _Rules.of(data, means) if len(data.weights) else None
    seen = _second_pass(data, means, _whitening(clear), rule)
    K = len(means.counts)
    values = Metrics(seen.nc1, _nc1_trace(seen.trace, g.s, K), _nc2(g.s, K))
    if rule is None:
        return values
    return values._replace(nc3=_nc3(M, data.weights), nc4=seen.disagreements / N)


# ---- from statistics -------------------------------------------------------------------------


class _Differences(NamedTuple):
    """All singular values of the centered means, and the directions clear of rounding."""

    s: np.ndarray
    clear: Geometry


# One decomposition for all metrics of the same statistics, forgotten together with them.
_KNOWN: WeakKeyDictionary[ClassStatistics, _Differences] = WeakKeyDictionary()


def _differences(stats: ClassStatistics) -> _Differences:
    if stats not in _KNOWN:
        _checks.every_class(stats.counts)
        means, variances = ClassMeans(stats.counts, stats.means, stats.low), np.diag(stats.within)
        g = geometry(stats.centered_means)
        clear = distinct(g, means, stats.resolution, float(variances.sum()), lambda: variances)
        _KNOWN[stats] = _Differences(g.s, clear)
    return _KNOWN[stats]


# ---- from features ---------------------------------------------------------------------------


class _Data(NamedTuple):
    """Checked arguments; where no weights were given they are an array of no classes."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    resolution: float


def _checked(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None,
    bias: ArrayLike | None,
    classes: ArrayLike | None,
) -> _Data:
    eps = resolution(features)
    X = _checks.as_features(features)
    if weights is None and bias is not None:
        raise ValueError("bias must not be given without weights.")
    W, b = np.zeros((0, X.shape[1])), np.zeros(0)
    if weights is not None:
        W, b = _classifier(X, labels, weights, bias)
    if classes is None:
        return _Data(X, _checks.as_labels(labels, len(X), len(W) or None), W, b, eps)
    X, y, kept = _checks.choose(X, labels, classes)
    if weights is None:
        return _Data(X, y, np.zeros((0, X.shape[1])), b, eps)
    if kept.max() >= len(W):
        raise ValueError(f"classes must lie in 0..{len(W) - 1}, but {kept.max()} is named.")
    return _Data(X, y, W[kept], b[kept], eps)


def _classifier(
    X: np.ndarray, labels: ArrayLike, weights: ArrayLike, bias: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias, checked; messages name the shape that the labels call for."""
    d, shape = X.shape[1], np.shape(_checks.as_numpy("weights", weights))
    if len(shape) != 2 or shape[1] != d or shape[0] == 0:
        K = int(_checks.as_labels(labels, len(X)).max()) + 1
        transposed = "; pass weights.T" if shape == (d, K) else ""
        raise ValueError(
            f"weights must have shape ({K}, {d}), one row per class; "
            f"the shape given is {shape}{transposed}."
        )
    W = _checks.as_array("weights", weights, shape)
    if len(W) == 1 and np.max(_checks.as_numpy("labels", labels), initial=0) == 1:
        raise ValueError(
            "weights must have two rows for two classes; for a single logit with weights w and "
            "bias b pass weights np.vstack([-w, w]) / 2 and bias [-b / 2, b / 2]."
        )
    return W, np.zeros(len(W)) if bias is None else _checks.as_array("bias", bias, (len(W),))


def _variances(data: _Data, means: ClassMeans) -> np.ndarray:
    """Within-class variance of each component, shape (d,)."""
    total = np.zeros(data.features.shape[1])
    for R, _ in residual_blocks(data.features, data.labels, means.means):
        total += np.einsum("ij,ij->j", R, R)
    return total / len(data.labels)


def _whitening(g: Geometry) -> np.ndarray:
    """T with T^T T = U S^-2 U^T, shape (r, d).

    Where the rank is above half the dimension T is zero below its diagonal, which halves the cost
    of a product or nearly so. The largest rows come first: then the factorization loses nothing in
    the small ones.
    """
    T = (g.U / g.s).T
    if 2 * len(g.s) <= len(g.U):
        return T
    return np.asfortranarray(np.linalg.qr(T[::-1], mode="r"))


def _squares(T: np.ndarray, R: np.ndarray) -> float:
    """The sum of the squares of the entries of T R^T."""
    r, d = T.shape
    if 2 * r <= d:
        Z = T @ R.T
    else:
        Z = dtrmm(1.0, T[:, :r], R.T[:r])
        if r < d:
            Z += T[:, r:] @ R[:, r:].T
    return float(np.einsum("ij,ij->", Z, Z))


class _Seen(NamedTuple):
    """What the second pass sees: NC1, tr Sigma_W, and the number of disagreements."""

    nc1: float
    trace: float
    disagreements: int


def _second_pass(data: _Data, means: ClassMeans, T: np.ndarray, rule: "_Rules | None") -> _Seen:
    N, nc1, trace, disagreements = len(data.labels), 0.0, 0.0, 0
    for R, y in residual_blocks(data.features, data.labels, means.means):
        trace += float(np.vdot(R, R))
        nc1 += _squares(T, R)
        if rule is not None:
            disagreements += rule.disagreements(R, y)
    # The residuals were about the rounded means; next to always that makes no difference.
    offset = float(means.counts @ np.einsum("jk,jk->k", means.low, means.low))
    trace -= offset
    if offset * np.vdot(T, T) > 1e-20 * nc1:
        nc1 -= _squares(T, (means.low * np.sqrt(means.counts)).T)
    return _Seen(max(nc1, 0.0) / N, max(trace, 0.0) / N, disagreements)


class _Rules(NamedTuple):
    """The classifier and the nearest class mean, as scores of h minus the mean of the means."""

    M: np.ndarray
    weights: np.ndarray
    at_origin: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, data: _Data, means: ClassMeans) -> "_Rules":
        M = centered(means.means, means.low).T
        W = data.weights - data.weights.mean(axis=0)
        at_origin = W @ means.means.mean(axis=1) + data.bias
        return cls(np.ascontiguousarray(M), W, at_origin, np.sum(M**2, axis=1) / 2)

    def disagreements(self, R: np.ndarray, y: np.ndarray) -> int:
        """On how many samples, given by residuals and labels, the two choose different classes."""
        wrong, rows = 0, max(1, BLOCK // len(self.M))  # K scores a sample: no large array of them
        for start in range(0, len(y), rows):
            C = R[start : start + rows] + self.M[y[start : start + rows]]
            nearest = np.argmax(C @ self.M.T - self.half, axis=1)
            decision = np.argmax(C @ self.weights.T + self.at_origin, axis=1)
            wrong += int(np.count_nonzero(nearest != decision))
        return wrong


# ---- formulas --------------------------------------------------------------------------------


def _squares_fit(means: np.ndarray, trace: float = 0.0) -> None:
    """Refuse features whose squares leave the range of float64 or lose digits at its lower end."""
    size = float(max(means.max(), -means.min()))
    if size > 1e150 or not np.isfinite(trace):
        raise ValueError("features must be smaller: their squares overflow.")
    if 0 < size < 1e-130:
        raise ValueError(
            "features must be larger: their squares underflow. "
            "Multiply them by a constant, which changes no metric."
        )


def _nc1(along: np.ndarray, s: np.ndarray) -> float:
    # A variance that is zero may come out as a negative rounding error.
    return float(np.sum(np.maximum(along, 0) / s**2))


def _nc1_trace(trace: float, s: np.ndarray, K: int) -> float:
    return float(max(trace, 0.0) * K / np.sum(s**2))


def _nc2(s: np.ndarray, K: int) -> float:
    # G and the frame's Gram matrix commute: both are B (...) B^T, the latter with B^T B = I. So
    # compare eigenvalues, of which those beyond the d-th are zero.
    eigenvalues = np.zeros(K - 1)
    eigenvalues[: len(s)] = (s / s[0]) ** 2
    return float(np.linalg.norm(eigenvalues / np.linalg.norm(eigenvalues) - 1 / np.sqrt(K - 1)))


def _nc3(M: np.ndarray, W: np.ndarray) -> float:
    C = W - W.mean(axis=0)
    norm = _norm(C)
    if norm <= 8 * EPS * _norm(W):
        raise ValueError("weights must not be the same for all classes: NC3 is undefined.")
    return _norm(C.T / norm - M / _norm(M))


def _norm(X: np.ndarray) -> float:
    """Frobenius norm; of a vector, unlike of a matrix, SciPy's neither over- nor underflows."""
    return float(linalg.norm(X.ravel()))
