r"""The reduced problem: Eq. 2 with the features eliminated, a function of the K x d weights alone.

For fixed W the objective is strongly convex in H, with minimizer :math:`H = G^{-1}(W^\top Y + \beta
H_0)`, :math:`G = W^\top W + bI`, :math:`b = \lambda_H + \beta`. What is left,

.. math:: \varphi(W) = K \min_H f(W, H; H_0),

depends on H0 only through the class means and the within-class covariance: no cost below grows with
the number of samples. We work in the eigenbasis of the within-class covariance, where it is a
vector, so that evaluating :math:`\varphi`, its gradient, or a product with its Hessian takes O(K^2
d) operations.

Letters: D = diag(n_k / n-bar), the identity for balanced classes; S = K Sigma_W(H0), diagonal here;
Gamma = I - W G^{-1} W^T; Hbar = G^{-1} (W^T + beta Hbar0) the optimal class means; T = H H^T /
n-bar = Hbar D Hbar^T + beta^2 G^{-1} S G^{-1} the second moment of the optimal features, J = (WH -
Y)(WH - Y)^T / n-bar that of the residuals.
"""

from functools import cached_property
from math import sqrt

import numpy as np
from scipy import linalg

from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics


class ReducedProblem:
    r"""Eq. 2 for one model and one set of statistics of H0, without the features.

    All arrays are in the eigenbasis of :math:`\Sigma_W(H_0)`.

    Args:
        model: The parameters.
        basis: Orthogonal, shape (d, d).
        spread: Eigenvalues of :math:`K\Sigma_W(H_0)`, shape (d,), none negative.
        means: Class means of H0 in that basis, shape (d, K).
        shares: Relative class sizes n_k / n-bar, shape (K,).

    Attributes:
        model: The parameters.
        basis: Weights X in the eigenbasis are ``X @ basis.T`` in the original one.
        spread: Eigenvalues of :math:`K\Sigma_W(H_0)`.
        means: Class means of H0 in the eigenbasis.
        shares: Relative class sizes.
        b: :math:`\lambda_H + \beta`.

    Examples:
        >>> import numpy as np
        >>> from nclib import ClassStatistics, Model
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(3, 2), np.eye(3))
        >>> problem = ReducedProblem.from_statistics(Model(0.1, 0.1, beta=1.0), stats)
        >>> problem.at(np.zeros((2, 3))).gradient.shape
        (2, 3)
    """

    def __init__(
        self,
        model: Model,
        basis: np.ndarray,
        spread: np.ndarray,
        means: np.ndarray,
        shares: np.ndarray,
    ):
        self.model = model
        self.basis = basis
        self.spread = spread
        self.means = means
        self.shares = shares
        self.b = model.b

    @classmethod
    def from_statistics(cls, model: Model, stats: ClassStatistics) -> "ReducedProblem":
        """The problem for these statistics of H0; one symmetric eigendecomposition, O(d^3)."""
        spread, basis = linalg.eigh(stats.K * stats.within, driver="evd")
        return cls(model, basis, np.maximum(spread, 0), basis.T @ stats.means, stats.shares)

    def with_model(self, model: Model) -> "ReducedProblem":
        """The problem for the same statistics and another model; no new decomposition."""
        return ReducedProblem(model, self.basis, self.spread, self.means, self.shares)

    def padded(self) -> "ReducedProblem":
        """The problem with K more dimensions in which H0 is zero; it has no spurious minima."""
        K = self.K
        return ReducedProblem(
            self.model,
            linalg.block_diag(self.basis, np.eye(K)),
            np.concatenate([self.spread, np.zeros(K)]),
            np.concatenate([self.means, np.zeros((K, K))]),
            self.shares,
        )

    @property
    def K(self) -> int:
        """Number of classes."""
        return len(self.shares)

    def at(self, W: np.ndarray) -> "Point":
        """Everything about one W, shape (K, d), in the eigenbasis."""
        return Point(self, W)

    def __repr__(self) -> str:
        return f"ReducedProblem({self.model!r}, K={self.K}, d={len(self.spread)})"


class Point:
    r"""The reduced objective at one W, and the moments of the optimal features.

    Made by `ReducedProblem.at`; all arrays are in the eigenbasis of :math:`\Sigma_W(H_0)`.

    Attributes:
        problem: The reduced problem.
        W: The weights, shape (K, d).
        solve: :math:`G^{-1}` at these weights.
        means: Class means of the optimal features, shape (d, K).
        scatter: :math:`\beta^2K\Sigma_W(H_0)`, a diagonal, shape (d,).
        label_moment: :math:`YH^\top/\bar n = D\bar H^\top`, shape (K, d).
        output_moment: :math:`WHH^\top/\bar n = WT`, shape (K, d).
    """

    def __init__(self, problem: ReducedProblem, W: np.ndarray):
        self.problem, self.W = problem, W
        beta = problem.model.beta
        self.solve = FeatureSolve(W, problem.b)
        self.scatter = beta**2 * problem.spread
        # G^{-1} W^T is known exactly, which spares a subtraction.
        self.means = self.solve.WG.T + beta * self.solve.right(problem.means.T).T
        self.label_moment = (self.means * problem.shares).T
        self.output_moment = (W @ self.means) @ self.label_moment + self.solve.right(
            self.solve.WG * self.scatter
        )

    @cached_property
    def gradient(self) -> np.ndarray:
        r"""Gradient (K, d): :math:`\nabla\varphi = \lambda_W W + WT - D\bar H^\top`."""
        return self.problem.model.lambda_W * self.W + self.output_moment - self.label_moment

    @cached_property
    def gradient_norm(self) -> float:
        """Norm of the gradient relative to that of its terms, floored at sqrt(lambda_W) (W = 0)."""
        lambda_W = self.problem.model.lambda_W
        scale = lambda_W * linalg.norm(self.W) + linalg.norm(self.output_moment)
        scale += linalg.norm(self.label_moment)
        return float(linalg.norm(self.gradient) / max(scale, sqrt(lambda_W)))

    @cached_property
    def residual_moment(self) -> np.ndarray:
        r""":math:`J = (WH-Y)(WH-Y)^\top/\bar n`, shape (K, K), as a sum of squares."""
        E = self.W @ self.means - np.eye(self.problem.K)
        WG = self.solve.WG
        return (E * self.problem.shares) @ E.T + (WG * self.scatter) @ WG.T

    @cached_property
    def value(self) -> float:
        """K f at (W, H(W)), each of its four terms a sum of squares, so that nothing cancels."""
        problem, W, WG = self.problem, self.W, self.solve.WG
        lambda_W, lambda_H = problem.model.lambda_W, problem.model.lambda_H
        beta, b = problem.model.beta, problem.b
        # The diagonals of W^T W G^{-1} and of its square, which are all that meets the diagonal S.
        share = np.sum(W * WG, axis=0)
        squared = np.sum(WG * ((W @ W.T) @ WG), axis=0)
        moment = np.sum(self.label_moment.T * self.means)
        moment += self.scatter @ (1 - 2 * share + squared) / b**2
        # H - H0 = G^{-1}(W^T Y - (W^T W + lambda_H) H0), and (W^T W + lambda_H) G^{-1} = (lambda_H
        # + beta W^T W G^{-1}) / b.
        step = WG.T - (lambda_H * problem.means + beta * WG.T @ (W @ problem.means)) / b
        moved = np.sum(step**2 * problem.shares)
        moved += (
            problem.spread @ (lambda_H**2 + 2 * lambda_H * beta * share + beta**2 * squared) / b**2
        )
        fit = np.trace(self.residual_moment)
        return float(fit + lambda_W * np.sum(W**2) + lambda_H * moment + beta * moved) / 2

    @cached_property
    def _hessian_factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blocks of the Hessian product: what X meets from the right, and what the results meet."""
        WG, b, lambda_W = self.solve.WG, self.problem.b, self.problem.model.lambda_W
        R = self.label_moment - self.output_moment
        right = np.hstack([self.W.T, self.means, WG.T, R.T])
        left = np.hstack(
            [self.solve.Gamma / b, lambda_W * np.eye(len(WG)) - self.residual_moment / b]
        )
        return right, left, np.vstack([WG, self.label_moment, R])

    def hessian(self, X: np.ndarray) -> np.ndarray:
        r"""Hessian product at any W, stationary or not, with :math:`R = D\bar H^\top - WT`:

        .. math::
            \nabla^2\varphi(W)[X] = \Gamma XT + \lambda_W X - JXG^{-1}
            + WG^{-1}X^\top R + RX^\top WG^{-1}

        Both G^{-1} are expanded by Woodbury, and the products of X with thin matrices taken
        together.
        """
        right, left, rows = self._hessian_factors
        J, Gamma, b = self.residual_moment, self.solve.Gamma, self.problem.b
        XW, XH, XWG, XR = np.hsplit(X @ right, 4)
        Y = (X - XW @ self.solve.WG) * (self.scatter / b)
        along_WG = XR.T + (J @ XW - Gamma @ (Y @ self.W.T)) / b
        return left @ np.vstack([Y, X]) + np.hstack([along_WG, Gamma @ XH, XWG.T]) @ rows

    @cached_property
    def _pencil(self) -> tuple[np.ndarray, np.ndarray]:
        """C and 1 / |e + diag(T)| with C^T Gamma C = I, C^T (lambda_W I - J/b) C = diag(e)."""
        problem = self.problem
        slack = problem.model.lambda_W * np.eye(problem.K) - self.residual_moment / problem.b
        e, C = linalg.eigh(slack, self.solve.Gamma)
        diagonal_T = np.sum(self.label_moment.T * self.means, axis=1) + self.scatter / problem.b**2
        scale = np.abs(e[:, None] + diagonal_T)
        return C, 1 / np.maximum(scale, 1e-6 * scale.max())

    def precondition(self, R: np.ndarray) -> np.ndarray:
        """Approximate Hessian solve: Gamma X T + (lambda_W - J/b) X with only the diagonal of T."""
        C, inverse = self._pencil
        return C @ ((C.T @ R) * inverse)

    @property
    def certificate(self) -> float:
        r"""Slack :math:`\lambda_{\min}(\lambda_W b I - J)`; where stationary, >= 0 means global."""
        problem = self.problem
        slack = problem.model.lambda_W * problem.b * np.eye(problem.K) - self.residual_moment
        return float(linalg.eigvalsh(slack)[0])

    def __repr__(self) -> str:
        K, d = self.W.shape
        return (
            f"Point(K={K}, d={d}, value={self.value:.6g}, gradient_norm={self.gradient_norm:.1e})"
        )
