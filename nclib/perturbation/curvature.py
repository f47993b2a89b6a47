r"""The curvature of the reduced problem at a minimizer: the linear system behind every response.

At a stationary point, in the notation of ``nclib.foundations.reduced`` and with J the residual
moment,

.. math::
    \mathcal A[X] = \nabla^2\varphi(W)[X] = \Gamma XT + \lambda_W X - JXG^{-1}
    + WG^{-1}X^\top R + RX^\top WG^{-1}, \qquad R = D\bar H^\top - WT = \lambda_W W .

The rows of W lie in a space of at most K dimensions, the inside. Outside the operator is
:math:`X \mapsto \Gamma XT + (\lambda_W I - J/b)X`, which the eigenvectors of two small problems
make diagonal. Its Schur complement leaves a system with at most K^2 unknowns. The operator is
positive definite, up to rounding, exactly when both are.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib._checks import as_array
from nclib.foundations.minimize import Solution
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.statistics import ClassStatistics

# A curvature below this, relative to the largest, is rounding.
_DEGENERATE = 1e-13


class Curvature:
    r"""The Hessian of the reduced problem at a strict local minimizer, factored.

    It is made from statistics alone: its cost, O(d^3 + K^6), does not grow with the number of
    samples.

    Args:
        solution: A minimizer of Eq. 2.
        stats: The statistics of the input features H0 that it belongs to.

    Attributes:
        problem: The reduced problem.
        point: The minimizer in it.

    Raises:
        ValueError: The weights are not stationary for these statistics, or the minimizer is
            degenerate (not a strict local minimum), so that it has no first-order response.

    Examples:
        >>> import numpy as np
        >>> from nclib import ClassStatistics, Model, minimize
        >>> stats = ClassStatistics(np.array([2, 2]), np.eye(3, 2), 0.1 * np.eye(3))
        >>> model = Model(lambda_W=0.2, lambda_H=0.2, beta=1.0)
        >>> curvature = Curvature(minimize(model, stats), stats)
        >>> curvature.weight_step(np.ones((3, 2)), np.zeros((3, 3))).shape
        (2, 3)
    """

    def __init__(self, solution: Solution, stats: ClassStatistics):
        weights = as_array("weights", solution.weights, (stats.K, stats.d))
        self.problem = ReducedProblem.from_statistics(solution.model, stats)
        self.point = self.problem.at(weights @ self.problem.basis)
        if not self.point.gradient_norm < 1e-8:
            raise ValueError(
                "the solution is not a minimizer for these input features: "
                f"the relative gradient norm is {self.point.gradient_norm:.2g}."
            )
        self._factor(self.point)

    def __repr__(self) -> str:
        K, d = self.point.W.shape
        return f"Curvature({self.problem.model!r}, K={K}, d={d})"

    def solve(self, R: np.ndarray) -> np.ndarray:
        r"""The X (K, d) with :math:`\mathcal A[X] = R`.

        Args:
            R: The right-hand side, shape (K, d).
        """
        return self._solve(R @ self.problem.basis) @ self.problem.basis.T

    def weight_step(self, d_means: ArrayLike, d_second_moment: ArrayLike) -> np.ndarray:
        r"""First-order change of the weights, (K, d), when the statistics of H0 change.

        .. math::
            \mathcal A[dW] = \beta\left(\Gamma D\,d\bar H_0^\top - WG^{-1}d\bar H_0\,DW
            - \beta WG^{-1}dS_0\right)G^{-1}

        Args:
            d_means: Change of the class means, shape (d, K).
            d_second_moment: Change of the second moment :math:`S_0 = H_0H_0^\top/\bar n`,
                symmetric, shape (d, d).

        Raises:
            ValueError: A shape is wrong, an entry is not finite, or the second moment is not
                symmetric.
        """
        K, d = self.point.W.shape
        dM = as_array("d_means", d_means, (d, K))
        dS = as_array("d_second_moment", d_second_moment, (d, d))
        asymmetry = np.abs(dS - dS.T).max()
        if asymmetry > 1e-10 * np.abs(dS).max():
            raise ValueError(
                "d_second_moment must be symmetric, but it differs from its transpose "
                f"by {asymmetry:.2g}."
            )
        basis, point = self.problem.basis, self.point
        solve, beta = point.solve, self.problem.model.beta
        DdM = (basis.T @ dM) * self.problem.shares
        R = solve.Gamma @ DdM.T - solve.WG @ DdM @ point.W
        R -= beta * (solve.WG @ basis.T @ dS @ basis)
        return self._solve(beta * solve.right(R)) @ basis.T

    def _factor(self, point: Point) -> None:
        K, d = point.W.shape
        r = min(K, d)
        # T = H H^T / n-bar in a basis whose first r vectors span the inside.
        T = (point.means * self.problem.shares) @ point.means.T
        T += point.solve.right(point.solve.right(np.diag(point.scatter)).T)
        Q = linalg.qr(point.W.T)[0]
        T = Q.T @ T @ Q
        # C^T Gamma C = I and C^T (lambda_W I - J/b) C = diag(e): in these, and the eigenvectors U
        # of T outside, the operator there is diagonal.
        slack = self.problem.model.lambda_W * np.eye(K) - point.residual_moment / self.problem.b
        e, self.C = linalg.eigh(slack, point.solve.Gamma)
        t, U = np.zeros(0), np.zeros((0, 0))
        if d > r:
            t, U = linalg.eigh(T[r:, r:])
        self.inside, self.outside = Q[:, :r], Q[:, r:] @ U
        self.diagonal = e[:, None] + t
        if d > r and self.diagonal.min() <= _DEGENERATE * np.abs(self.diagonal).max():
            _refuse_degenerate()
        self.link = T[:r, r:] @ U
        self.schur = _positive_definite_factor(self._schur_complement(point, T[:r, :r]))

    def _schur_complement(self, point: Point, inner: np.ndarray) -> np.ndarray:
        """The operator inside with the rest eliminated, (Kr, Kr), for X in terms of C and inside.

        Args:
            point: The minimizer.
            inner: T inside, shape (r, r).
        """
        C, K, r = self.C, len(self.C), len(inner)
        lambda_W, b = self.problem.model.lambda_W, self.problem.b
        W = point.W @ self.inside
        WG = point.solve.WG @ self.inside
        CWG = C.T @ WG
        R = C.T @ (point.label_moment - point.output_moment) @ self.inside
        blocks = [inner - (self.link / row) @ self.link.T for row in self.diagonal]
        S = linalg.block_diag(*blocks).reshape(K, r, K, r)
        S += np.einsum("ij,ab->iajb", lambda_W * C.T @ C, np.eye(r))
        G_inverse = (np.eye(r) - W.T @ WG) / b
        S -= np.einsum("ij,ab->iajb", C.T @ point.residual_moment @ C, G_inverse)
        S += np.einsum("ib,ja->iajb", CWG, R)
        S += np.einsum("ib,ja->iajb", R, CWG)
        return S.reshape(K * r, K * r)

    def _solve(self, R: np.ndarray) -> np.ndarray:
        """Solve in the eigenbasis of Sigma_W, with two refinements by the Hessian itself."""
        X = self._eliminate(R)
        for _ in range(2):
            X = X + self._eliminate(R - self.point.hessian(X))
        return X

    def _eliminate(self, R: np.ndarray) -> np.ndarray:
        """Solve by block elimination."""
        R = self.C.T @ R
        inside, outside = R @ self.inside, R @ self.outside
        right = inside - (outside / self.diagonal) @ self.link.T
        Y = linalg.cho_solve(self.schur, right.ravel()).reshape(right.shape)
        rest = (outside - Y @ self.link) / self.diagonal
        return self.C @ (Y @ self.inside.T + rest @ self.outside.T)


def _positive_definite_factor(S: np.ndarray) -> tuple[np.ndarray, bool]:
    """Cholesky factor of S, if S is positive definite beyond rounding."""
    try:
        factor = linalg.cho_factor(S, lower=True)
    except linalg.LinAlgError:
        _refuse_degenerate()
    largest = np.abs(S).sum(axis=0).max()
    reciprocal_condition, _ = linalg.lapack.dpocon(factor[0], largest, uplo="L")
    if reciprocal_condition < _DEGENERATE:
        _refuse_degenerate()
    return factor


def _refuse_degenerate() -> NoReturn:
    """Refuse a base point without a first-order response."""
    raise ValueError(
        "the minimizer is degenerate: the Hessian of the reduced problem has a direction without "
        "positive curvature, so the minimizer does not move smoothly with its input (for beta = 0 "
        "every rotation of it is a minimizer)."
    ) from None
