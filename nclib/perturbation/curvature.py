r"""The curvature of the reduced problem at a minimizer: the linear system behind every response.

At a stationary point, in the notation of ``nclib.foundations.reduced`` and with J the residual
moment,

.. math::
    \mathcal A[X] = \nabla^2\varphi(W)[X] = \Gamma XT + \lambda_W X - JXG^{-1}
    + WG^{-1}X^\top R + RX^\top WG^{-1}, \qquad R = D\bar H^\top - WT = \lambda_W W .

For few classes the system is eliminated. The rows of W lie in a space of at most K dimensions, the
inside. Outside the operator is :math:`X \mapsto \Gamma XT + (\lambda_W I - J/b)X`, which the
eigenvectors of two small problems make diagonal. Its Schur complement leaves a system with at most
K^2 unknowns. For many classes it is solved by conjugate gradients, with the operator outside as a
preconditioner everywhere.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib._checks import as_array
from nclib.foundations.minimize import Solution
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.statistics import ClassStatistics

# A curvature below this, relative to the size of the operator's terms, is rounding.
DEGENERATE = 1e-13
# Unknowns of the largest Schur complement that is factored.
LARGEST_SCHUR = 900
# Conjugate gradients stop at this backward error, or give up.
BACKWARD_ERROR = 1e-15
MOST_PRODUCTS = 5_000


class Curvature:
    r"""The Hessian of the reduced problem at a nondegenerate minimizer, ready to be solved with.

    It is made from statistics alone: its cost does not grow with the number of samples. Up to
    K = 30 classes it is factored, in O(d^3 + K^6); beyond, it is applied, O(K^2 d) a product, in
    conjugate gradients with a preconditioner that takes O(d^3) once.

    The minimizer counts as degenerate where the least curvature is at most 1e-13 of the size of the
    terms that it is the sum of, and no larger than their rounding. It is found by inverse iteration
    from a random direction: three solutions with the operator itself. A negative curvature shows
    before, as a pivot of the factorization or a step of conjugate gradients that is not positive.

    Args:
        solution: A minimizer of Eq. 2.
        stats: The statistics of the input features H0 that it belongs to.

    Attributes:
        problem: The reduced problem.
        point: The minimizer in it.

    Raises:
        ValueError: The weights are not stationary for these statistics, or the minimizer is
            degenerate (the Hessian is singular), so that it has no first-order response.

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
        direct = stats.K * min(stats.K, stats.d) <= LARGEST_SCHUR
        self._system = (_Elimination if direct else _ConjugateGradients)(self.point)
        if not self._least() > DEGENERATE * _size(self.point):
            _refuse_degenerate()

    def __repr__(self) -> str:
        K, d = self.point.W.shape
        return f"Curvature({self.problem.model!r}, K={K}, d={d})"

    def solve(self, R: np.ndarray) -> np.ndarray:
        r"""The X (K, d) with :math:`\mathcal A[X] = R`.

        Args:
            R: The right-hand side, shape (K, d).
        """
        return self._system.solve(R @ self.problem.basis) @ self.problem.basis.T

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
        return self._system.solve(beta * solve.right(R)) @ basis.T

    def _least(self) -> float:
        """The least curvature, by three steps of inverse iteration; it is never underestimated."""
        X = np.random.default_rng(0).standard_normal(self.point.W.shape)
        for _ in range(3):
            X = self._system.solve(X / np.linalg.norm(X))
        return float(np.vdot(X, self.point.hessian(X)) / np.vdot(X, X))


class _Elimination:
    """The system solved by elimination of the outside, in the eigenbasis of Sigma_W."""

    def __init__(self, point: Point):
        self.point = point
        K, d = point.W.shape
        r = min(K, d)
        # T = H H^T / n-bar in a basis whose first r vectors span the inside.
        Q = linalg.qr(point.W.T)[0]
        T = Q.T @ point.second_moment @ Q
        # C^T Gamma C = I and C^T (lambda_W I - J/b) C = diag(e): in these, and the eigenvectors U
        # of T outside, the operator there is diagonal.
        e, self.C = linalg.eigh(point.slack / point.problem.b, point.solve.Gamma)
        t, U = np.zeros(0), np.zeros((0, 0))
        if d > r:
            t, U = linalg.eigh(T[r:, r:])
        self.inside, self.outside = Q[:, :r], Q[:, r:] @ U
        self.diagonal = e[:, None] + t
        if d > r and not self.diagonal.min() > 0:
            _refuse_degenerate()
        self.link = T[:r, r:] @ U
        try:
            self.schur = linalg.cho_factor(self._schur_complement(T[:r, :r]), lower=True)
        except linalg.LinAlgError:
            _refuse_degenerate()

    def solve(self, R: np.ndarray) -> np.ndarray:
        """The X with A[X] = R, with two refinements by the Hessian itself."""
        X = self._eliminate(R)
        for _ in range(2):
            X = X + self._eliminate(R - self.point.hessian(X))
        return X

    def _schur_complement(self, inner: np.ndarray) -> np.ndarray:
        """The operator inside with the rest eliminated, (Kr, Kr), for X in terms of C and inside.

        Args:
            inner: T inside, shape (r, r).
        """
        point, C, K, r = self.point, self.C, len(self.C), len(inner)
        lambda_W, b = point.problem.model.lambda_W, point.problem.b
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

    def _eliminate(self, R: np.ndarray) -> np.ndarray:
        """Solve by block elimination."""
        R = self.C.T @ R
        inside, outside = R @ self.inside, R @ self.outside
        right = inside - (outside / self.diagonal) @ self.link.T
        Y = linalg.cho_solve(self.schur, right.ravel()).reshape(right.shape)
        rest = (outside - Y @ self.link) / self.diagonal
        return self.C @ (Y @ self.inside.T + rest @ self.outside.T)


class _ConjugateGradients:
    """The system solved by preconditioned conjugate gradients, in the eigenbasis of Sigma_W."""

    def __init__(self, point: Point):
        self.point = point
        self.size = _size(point)

    def solve(self, R: np.ndarray) -> np.ndarray:
        """The X with A[X] = R, refined from the true residual as long as that halves it."""
        enough = BACKWARD_ERROR * float(np.linalg.norm(R))
        X = self._iterate(R, enough, BACKWARD_ERROR * self.size)
        residual = R - self.point.hessian(X)
        while (norm := float(np.linalg.norm(residual))) > enough:
            Y = X + self._iterate(residual, norm / 100, 0.0)
            left = R - self.point.hessian(Y)
            if not np.linalg.norm(left) < norm / 2:
                break
            X, residual = Y, left
        return X

    def _iterate(self, R: np.ndarray, enough: float, per_norm: float) -> np.ndarray:
        """An X whose residual is at most ``enough`` plus ``per_norm`` times the norm of X."""
        X, residual = np.zeros_like(R), R
        Z = self.point.precondition(residual)
        P, energy = Z, float(np.vdot(residual, Z))
        for _ in range(MOST_PRODUCTS):
            if np.linalg.norm(residual) <= enough + per_norm * np.linalg.norm(X):
                return X
            AP = self.point.hessian(P)
            curvature = float(np.vdot(P, AP))
            if not curvature > 0:
                _refuse_degenerate()
            X = X + energy / curvature * P
            residual = residual - energy / curvature * AP
            Z = self.point.precondition(residual)
            previous, energy = energy, float(np.vdot(residual, Z))
            P = Z + energy / previous * P
        raise ValueError(
            f"the response was not found in {MOST_PRODUCTS:,} products with the Hessian: "
            "the minimizer is close to a degenerate one."
        )


def _size(point: Point) -> float:
    """Size of the operator: the sum of the norms of its terms, which may cancel."""
    lambda_W, b = point.problem.model.lambda_W, point.problem.b
    R = point.label_moment - point.output_moment
    norms = [np.linalg.norm(X, 2) for X in (point.residual_moment, point.solve.WG, R)]
    return float(
        np.linalg.norm(point.second_moment, 2) + lambda_W + norms[0] / b + 2 * norms[1] * norms[2]
    )


def _refuse_degenerate() -> NoReturn:
    """Refuse a base point without a first-order response."""
    raise ValueError(
        "the minimizer is degenerate: the Hessian of the reduced problem has a direction without "
        "positive curvature, so the minimizer does not move smoothly with its input (for beta = 0 "
        "every rotation of it is a minimizer)."
    ) from None
