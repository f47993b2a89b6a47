r"""An approximate inverse of the Hessian of the reduced problem, for conjugate gradients.

In the Hessian (see `Point.hessian`)

.. math::
    \nabla^2\varphi[X] = \Gamma XT + (\lambda_W I - \tfrac1bJ)X
    + \left(\tfrac1bJX - JXG^{-1} + WG^{-1}X^\top R + RX^\top WG^{-1}\right)

the bracket acts on few directions: those of the rows of W and of R. The rest is diagonal after two
eigendecompositions. With :math:`C^\top\Gamma C = I` and
:math:`C^\top(\lambda_W I - J/b)C = \operatorname{diag}(e)`, row i of :math:`C^{-1}X` meets
:math:`T + e_iI`. Where the certificate holds no e_i is negative. Elsewhere :math:`\lvert e_i\rvert`
keeps the map positive definite, as conjugate gradients need it.
"""

from typing import Any, Protocol

import numpy as np
from scipy import linalg

from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.streaming import EPS

# Eigenvalues of the map are kept above this share of the largest: a rotation of the features that
# costs nothing has the eigenvalue zero.
FLOOR = 1e-6
# Where T + e_i is indefinite its eigenvalues are kept above this share of t + |e_i|.
SHARE = 0.3
# The two ways to prepare it cost about as much where K^3 is this multiple of d^2.
LOW_RANK_RATIO = 5 / 3
# Woodbury's identity cancels where the numbers are many powers of ten apart. It is used while it
# inverts the map up to this share.
INACCURACY = 1e-2


class ReducedPoint(Protocol):
    """What the preconditioner needs to know of a point: see `nclib.foundations.reduced.Point`."""

    W: np.ndarray
    means: np.ndarray
    scatter: np.ndarray
    solve: FeatureSolve
    problem: Any

    @property
    def slack(self) -> np.ndarray:
        """The matrix b lambda_W I - J of the certificate, shape (K, K)."""

    @property
    def second_moment(self) -> np.ndarray:
        """T, shape (d, d)."""


class Preconditioner:
    r"""The map :math:`X \mapsto \Gamma XT + (\lambda_W I - J/b)X` at a point, inverted.

    For few classes, T is a diagonal and a matrix of rank 3K, and each row takes one solve with a
    3K x 3K matrix: O(K^3 d) to prepare, O(K^2 d) a product. For many, T is diagonalized: O(d^3) to
    prepare, O(K d^2) a product.

    Args:
        point: The point of the reduced problem.
    """

    def __init__(self, point: ReducedPoint):
        K, d = point.W.shape
        whitener = point.solve.whitener
        slack = whitener.T @ point.slack @ whitener / point.problem.b
        e, U = linalg.eigh((slack + slack.T) / 2)
        self._C = whitener @ U
        low_rank = (
            _LowRankRows.unless_inaccurate(point, e) if LOW_RANK_RATIO * d**2 > K**3 else None
        )
        self._rows = low_rank or _DiagonalRows(point, e)

    def solve(self, R: np.ndarray) -> np.ndarray:
        """The X with ``map(X) = R``, shape (K, d)."""
        return self._C @ self._rows.solve(self._C.T @ R)


def _floor(point: ReducedPoint, largest: float) -> float:
    """The least eigenvalue of the map; its natural unit is lambda_W, should all others vanish."""
    return max(FLOOR * largest, EPS * point.problem.model.lambda_W)


class _DiagonalRows:
    """Row i of R times (T + e_i I)^{-1}, by the eigenvectors of T."""

    def __init__(self, point: ReducedPoint, e: np.ndarray):
        t, self.axes = linalg.eigh(point.second_moment, driver="evd")
        size = np.abs(e)[:, None] + np.maximum(t, 0)
        scale = np.maximum(np.abs(e[:, None] + t), SHARE * size)
        self.inverse = 1 / np.maximum(scale, _floor(point, size.max()))

    def solve(self, R: np.ndarray) -> np.ndarray:
        return ((R @ self.axes) * self.inverse) @ self.axes.T


class _LowRankRows:
    r"""Row i of R times (T + \|e_i\| I)^{-1}, by Woodbury's identity.

    With the diagonal V = beta^2 S and A = W G^{-1}, G^{-1} = (I - W^T A) / b gives

        T = V / b^2 + Z B Z^T,  Z = [W^T, V A^T, Hbar],  B = [[A V A^T, -I], [-I, 0]] / b^2 (+) D.
    """

    def __init__(self, point: ReducedPoint, e: np.ndarray):
        K, b = point.problem.K, point.problem.b
        AV = point.solve.WG * point.scatter
        self.Z = np.hstack([point.W.T, AV.T, point.means])
        B_inverse = np.zeros((3 * K, 3 * K))
        B_inverse[:K, K : 2 * K] = B_inverse[K : 2 * K, :K] = -(b**2) * np.eye(K)
        B_inverse[K : 2 * K, K : 2 * K] = -(b**2) * AV @ point.solve.WG.T
        B_inverse[2 * K :, 2 * K :] = np.diag(1 / point.problem.shares)
        diagonal = point.scatter / b**2
        shift = np.abs(e)
        shift = np.maximum(shift, _floor(point, max(shift.max(), diagonal.max())))
        self.diagonal = diagonal + shift[:, None]
        self.inverse = 1 / self.diagonal
        inner = np.stack([B_inverse + (self.Z.T * row) @ self.Z for row in self.inverse])
        self.inner = np.linalg.inv(inner)
        B = np.zeros((3 * K, 3 * K))
        B[:K, :K], B[2 * K :, 2 * K :] = AV @ point.solve.WG.T / b**2, np.diag(point.problem.shares)
        B[:K, K : 2 * K] = B[K : 2 * K, :K] = -np.eye(K) / b**2
        self.B = B

    @classmethod
    def unless_inaccurate(cls, point: ReducedPoint, e: np.ndarray) -> "_LowRankRows | None":
        """The rows, or None where they do not invert the map, tried on a random right-hand side."""
        try:
            rows = cls(point, e)
        except np.linalg.LinAlgError:
            return None
        R = np.random.default_rng(0).standard_normal(point.W.shape)
        X = rows.solve(R)
        error = X * rows.diagonal + (X @ rows.Z) @ rows.B @ rows.Z.T - R
        return rows if linalg.norm(error, axis=1).max() < INACCURACY * linalg.norm(R) else None

    def solve(self, R: np.ndarray) -> np.ndarray:
        R = R * self.inverse
        small = np.matmul(self.inner, (R @ self.Z)[:, :, None])[:, :, 0]
        return R - (small @ self.Z.T) * self.inverse
