r"""The directions in which class means differ, and which of them are more than rounding.

**The decomposition.** Write :math:`M` (d x K) for the centered class means. Their columns sum to
zero, so with :math:`B` (K x (K-1)) an orthonormal basis of the complement of the ones vector
:math:`M = M B B^\top`, and a singular value decomposition
:math:`M B = U \operatorname{diag}(s) V^\top` gives the directions :math:`u_i` and the sizes
:math:`s_i` of the differences. Leaving out the ones vector removes the direction in which
:math:`M^\top M` is singular by construction.

**What rounding can do.** Rounding to a type with machine epsilon e moves an entry h by
:math:`e|h|/2` at most, hence component j of a class mean by :math:`e/2` times the mean of
:math:`|h_j|` over the class. Over all classes, by Cauchy-Schwarz, row j of :math:`M` moves in the
norm of :math:`\mathbb R^K` by

.. math::
    \|\Delta_j\| \le \frac e2 \varrho_j, \qquad
    \varrho_j^2 = \sum_k \bigl(\bar h_{k,j}^2 + (\Sigma_k)_{jj}\bigr) ,

where the last sum is :math:`K(\Sigma_W)_{jj}` if the classes are balanced; centering makes a row no
longer. It is the means before centering that count: a large common part brings large rounding, but
only in its own component.

**The cut.** A contrast is a unit vector :math:`v \perp \mathbf 1` of coefficients of the classes.
If the means do not differ along it before rounding, :math:`|(Mv)_j| \le \frac e2 \varrho_j` holds
in every component. So one component above this bound makes a contrast *clear* of rounding, and the
cut is at twice the bound, plus :math:`8\varepsilon` for our own arithmetic in float64:

.. math::
    \max_j \frac{|(Mv)_j|}{(e + 8\varepsilon)\varrho_j} > 1 .

If all means are equal up to rounding, no contrast is clear, because then every row of :math:`M` has
at most half the length of the cut.

Which contrasts to ask is decided by the singular value decomposition of :math:`M B` with row j
divided by :math:`(e + 8\varepsilon)\varrho_j`: in these units rounding is equally large in all
components, so that a component with large rounding cannot mix into the contrasts that the others
show. Contrasts that are not clear are projected out of the means before the decomposition above.

One large component therefore hides no direction that other components show. A bound on all
components together, :math:`s_i > (e + 8\varepsilon)\|\varrho\|`, is sufficient: if
:math:`|(Mv)_j|` is below the cut for all j, then :math:`\|Mv\|` is below
:math:`(e + 8\varepsilon)\|\varrho\|`. Where the smallest singular value passes it, which is the
rule, nothing else is computed.

The relative bound on the rounding of an entry needs normal numbers: float16 features below
:math:`6 \cdot 10^{-5}` are better multiplied by a constant before they are rounded, which changes
no metric.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg

from nclib.foundations.streaming import EPS, ClassMeans, centered

# The Gram matrix squares the condition number: below this ratio of its eigenvalues the
# decomposition goes through the factor itself.
WELL_CONDITIONED = 1e-3


class Geometry(NamedTuple):
    """Directions in which the class means differ.

    Attributes:
        U: Orthonormal directions, shape (d, r).
        s: Singular values of the centered means along them, decreasing, shape (r,).
    """

    U: np.ndarray
    s: np.ndarray


def geometry(M: np.ndarray) -> Geometry:
    """All directions in which centered means differ, r = min(d, K - 1), however small.

    Args:
        M: Centered class means, shape (d, K).

    Returns:
        Directions and singular values.

    Examples:
        >>> geometry(np.array([[-3.0, 3.0], [-4.0, 4.0]])).s.round(12)
        array([7.07106781])
    """
    return left_singular(without_ones(M))


def without_ones(M: np.ndarray) -> np.ndarray:
    r"""Centered means in an orthonormal basis of the contrasts: M B, of shape (d, K - 1).

    B is the Householder reflection that takes the first unit vector to a multiple of the ones
    vector, without its first column. Since the columns of M sum to zero, column j of the product is
    :math:`m_j - m_0 / (1 + \sqrt K)`, which costs d K operations and no K x K matrix.

    Examples:
        >>> M = np.array([[-1.0, 0.0, 1.0]])
        >>> float(np.sum(without_ones(M) ** 2).round(12))
        2.0
    """
    return M[:, 1:] - M[:, :1] / (1 + np.sqrt(M.shape[1]))


def left_singular(A: np.ndarray) -> Geometry:
    r"""Left singular vectors and singular values of A, shape (d, n).

    The eigenvalues of the smaller Gram matrix are the squares. Where the smallest is less than
    1/1000 of the largest, squaring would cost digits, and A itself is decomposed; if it has more
    columns than rows, its triangular factor.

    Examples:
        >>> U, s = left_singular(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 1e-6]]))
        >>> s.tolist()
        [3.0, 1e-06]
    """
    d, n = A.shape
    size = max(float(A.max(initial=0.0)), -float(A.min(initial=0.0)))
    if size == 0:
        return Geometry(np.eye(d, min(d, n)), np.zeros(min(d, n)))
    scale = 2.0 ** np.floor(np.log2(size))  # so that no square over- or underflows
    A = A / scale
    squares, V = linalg.eigh(A @ A.T if d <= n else A.T @ A, driver="evd", check_finite=False)
    if squares[0] >= WELL_CONDITIONED * squares[-1]:
        s = np.sqrt(squares[::-1])
        return Geometry(V[:, ::-1] if d <= n else (A @ V[:, ::-1]) / s, scale * s)
    if d < n:
        A = linalg.qr(A.T, mode="r", check_finite=False)[0][:d].T
    U, s, _ = linalg.svd(A, full_matrices=False, check_finite=False)
    return Geometry(U, scale * s)


def distinct(
    g: Geometry,
    means: ClassMeans,
    resolution: float,
    trace: float,
    variances: Callable[[], np.ndarray],
) -> Geometry:
    """The directions in which the means differ by more than the rounding of the features.

    Args:
        g: What ``geometry`` returned for the centered means.
        means: The class means.
        resolution: Machine epsilon of the type of the features.
        trace: The trace of the within-class covariance.
        variances: Function that returns the diagonal of the within-class covariance, shape (d,). It
            is called only where the trace does not decide.

    Returns:
        The same directions, or those of the contrasts that are clear of rounding.

    Raises:
        ValueError: There is one class, or no contrast is clear of rounding.

    Examples:
        One constant component of 3,000 in float16 does not hide a difference of 1 in another:

        >>> means = ClassMeans(np.array([1, 1]), np.array([[3e3, 3e3], [0, 1]]), np.zeros((2, 2)))
        >>> g = geometry(centered(means.means, means.low))
        >>> distinct(g, means, 2.0**-10, 0.0, lambda: np.zeros(2)).s.round(6)
        array([0.707107])
    """
    if len(means.counts) == 1:
        raise ValueError("the metric compares class means, so it is undefined for K = 1 class.")
    e = resolution + 8 * EPS
    if g.s[-1] > e * _size(means.means, np.array(trace)):
        return g
    cut = e * _size(means.means, variances(), axis=1)
    live = cut > 0
    M = without_ones(centered(means.means, means.low))
    left, sizes, contrasts = linalg.svd(M[live] / cut[live, None], full_matrices=False)
    clear = np.max(np.abs(left * sizes), axis=0, initial=0.0) > 1
    clear &= sizes > 8 * EPS / e * np.sqrt(len(left))  # the rounding of this decomposition
    if not clear.any():
        raise ValueError(
            "all class means are equal up to the rounding of the features, "
            "so the metric is undefined."
        )
    U, s = left_singular(M @ contrasts[clear].T)
    keep = s > 8 * EPS * s[0]
    return Geometry(U[:, keep], s[keep])


def _size(means: np.ndarray, variances: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The root of the sum of squares of the means plus K times the variances, at any scale."""
    scale = max(float(means.max()), -float(means.min()), np.finfo(float).tiny)
    squares = np.sum((means / scale) ** 2, axis=axis)
    return scale * np.sqrt(squares + means.shape[1] * np.maximum(variances / scale / scale, 0))
