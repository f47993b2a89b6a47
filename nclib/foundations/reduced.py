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
from nclib.foundations.preconditioner import Preconditioner
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import EPS


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
        """The problem for these statistics of H0, whose principal axes are computed only once."""
        variances, axes = stats.principal_axes
        return cls(model, axes, stats.K * variances, axes.T @ stats.means, stats.shares)

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

    @cached_property
    def zero_directions(self) -> np.ndarray:
        """Orthonormal basis of the directions in which H0 vanishes up to rounding, shape (d, z).

        Dead units are such directions, and with fewer than d samples there are others.
        """
        d = len(self.spread)
        still = self.spread <= d * EPS * self.spread.max()
        left, a, _ = linalg.svd(self.means[still])
        rank = int(np.sum(a > 1e-12 * linalg.norm(self.means)))
        basis = np.zeros((d, left.shape[1] - rank))
        basis[still] = left[:, rank:]
        return basis

    @cached_property
    def smallest_moment(self) -> float:
        r"""A size of :math:`YH^\top/\bar n` below which it counts as zero.

        It is that at W = 0, or sqrt(lambda_W), the size at which weights begin to matter, if the
        means of H0 are larger or zero.
        """
        at_zero = self.model.beta / self.b * float(linalg.norm(self.means * self.shares))
        natural = sqrt(self.model.lambda_W)
        return min(at_zero, natural) if at_zero > 0 else natural

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

    Made by `ReducedProblem.at`; all arrays are in the eigenbasis of :math:`\Sigma_W(H_0)`. What
    costs time is computed when first used.

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
        r"""Gradient (K, d) of the objective, :math:`\lambda_W W + WT - D\bar H^\top`."""
        return self.problem.model.lambda_W * self.W + self.output_moment - self.label_moment

    @cached_property
    def gradient_norm(self) -> float:
        """Norm of the gradient relative to that of its terms."""
        scale = self.problem.model.lambda_W * linalg.norm(self.W)
        scale += linalg.norm(self.output_moment) + linalg.norm(self.label_moment)
        return float(linalg.norm(self.gradient) / max(scale, self.problem.smallest_moment))

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
        """Blocks of the Hessian product: what X meets, and what the results meet."""
        WG, b, lambda_W = self.solve.WG, self.problem.b, self.problem.model.lambda_W
        R = self.label_moment - self.output_moment
        right = np.hstack([self.W.T, self.means, WG.T, R.T])
        slack = lambda_W * np.eye(len(WG)) - self.residual_moment / b
        left = np.hstack([self.solve.Gamma / b, slack])
        return right, left, np.vstack([WG, self.label_moment, R])

    def hessian(self, X: np.ndarray) -> np.ndarray:
        r"""Hessian product, stationary or not, with :math:`R = D\bar H^\top - WT`:

        .. math::
            \nabla^2\varphi(W)[X] = \Gamma XT + \lambda_W X - JXG^{-1}
            + WG^{-1}X^\top R + RX^\top WG^{-1}

        Both G^{-1} are expanded by Woodbury, and the products of X with thin matrices
        taken together.
        """
        right, left, rows = self._hessian_factors
        J, Gamma, b = self.residual_moment, self.solve.Gamma, self.problem.b
        XW, XH, XWG, XR = np.hsplit(X @ right, 4)
        Y = (X - XW @ self.solve.WG) * (self.scatter / b)
        along_WG = XR.T + (J @ XW - Gamma @ (Y @ self.W.T)) / b
        through = np.hstack([along_WG, Gamma @ XH, XWG.T])
        return left @ np.vstack([Y, X]) + through @ rows

    @cached_property
    def second_moment(self) -> np.ndarray:
        r"""The features' second moment :math:`T = HH^\top/\bar n`, shape (d, d)."""
        # G^{-1} V G^{-1} with the diagonal V and G^{-1} = (I - W^T A) / b, A = W G^{-1}.
        WG, b = self.solve.WG, self.problem.b
        AV = WG * self.scatter
        half = self.W.T @ ((AV @ WG.T) @ self.W / 2 - AV)
        spread = (np.diag(self.scatter) + half + half.T) / b**2
        return self.means @ self.label_moment + spread

    @cached_property
    def _preconditioner(self) -> Preconditioner:
        return Preconditioner(self)

    def precondition(self, R: np.ndarray) -> np.ndarray:
        """Approximate solution X of ``hessian(X) = R``, see `Preconditioner`."""
        return self._preconditioner.solve(R)

    def moved(self, step: np.ndarray) -> "Point":
        r"""The point W + step, or the one beside it on a curve if that is lower.

        Where the pull is weak, minima lie in curved valleys, because rotating the features costs
        little, and a straight step leaves the valley. The curve is :math:`C(W + S)` with the K x K
        matrix C that takes the second-order term :math:`SS^\top` out of the Gram matrix.
        """
        straight = self.problem.at(self.W + step)
        if linalg.norm(step) < 1e-3 * linalg.norm(self.W):
            return straight
        W = _along_valley(self.W, step)
        if W is None:
            return straight
        curved = self.problem.at(W)
        return curved if curved.value < straight.value else straight

    @cached_property
    def slack(self) -> np.ndarray:
        r""":math:`\lambda_W b I - J`, (K, K); the certificate asks for no negative eigenvalue."""
        bound = self.problem.model.lambda_W * self.problem.b
        return bound * np.eye(self.problem.K) - self.residual_moment

    @property
    def certificate(self) -> float:
        r"""Smallest eigenvalue of the slack; where stationary, >= 0 means a global minimizer."""
        return float(linalg.eigvalsh(self.slack)[0])

    @cached_property
    def dual_value(self) -> float:
        r"""A lower bound on K f at every (W, H), stationary or not, by a dual problem.

        For every K x N matrix :math:`\Lambda` with :math:`\|\Lambda\|_{op}^2 < \mu b`,
        :math:`\mu = \bar n\lambda_W`,

        .. math::
            \bar n K f \ge -\tfrac12\|\Lambda\|_F^2 - \langle\Lambda, Y\rangle
            - \tfrac{\beta^2}2\operatorname{tr} H_0(bI - \tfrac1\mu\Lambda^\top\Lambda)^{-1}H_0^\top
            + \tfrac\beta2\|H_0\|_F^2 .

        Here :math:`\Lambda = U\operatorname{diag}(q)U^\top E` with the residual E at this point and
        the eigenvectors U of its second moment J, and each q_i is the best one. At a certified
        minimizer all are one and the bound is attained.
        """
        problem, model, WG = self.problem, self.problem.model, self.solve.WG
        b, beta, limit = problem.b, model.beta, model.lambda_W * problem.b
        E = self.W @ self.means - np.eye(problem.K)
        weighted = E * problem.shares  # E Y^T / n-bar; below, E H0^T / n-bar.
        with_input = beta * WG * problem.spread + weighted @ problem.means.T
        j, U = linalg.eigh(self.residual_moment)
        seen = j > limit * EPS**2
        j, U = j[seen], U[:, seen]
        gain = np.abs(np.sum(U * (weighted @ U), axis=0))
        loss = beta**2 / b * np.sum((U.T @ with_input) ** 2, axis=1)
        # The bound is concave in each q, with q^2 j < limit: halve the interval where it rises.
        low, high = np.zeros(len(j)), np.sqrt(limit / j)
        for _ in range(60):
            q = (low + high) / 2
            room = np.maximum(limit - q**2 * j, EPS * limit)
            rises = gain - q * j > loss * limit * q / room**2
            low, high = np.where(rises, q, low), np.where(rises, high, q)
        room = np.maximum(limit - low**2 * j, EPS * limit)
        moment = np.sum(problem.spread) + np.sum(problem.means**2 * problem.shares)
        parts = low * gain - low**2 * (j + loss / room) / 2
        return float(np.sum(parts) + beta * model.lambda_H / (2 * b) * moment)

    def __repr__(self) -> str:
        K, d = self.W.shape
        return (
            f"Point(K={K}, d={d}, value={self.value:.6g}, gradient_norm={self.gradient_norm:.1e})"
        )


def _along_valley(W: np.ndarray, S: np.ndarray) -> np.ndarray | None:
    """C (W + S) with the Gram matrix W W^T + W S^T + S W^T; None where that has no such root."""
    ahead = W + S
    gram = ahead @ ahead.T
    t, U = linalg.eigh(gram - S @ S.T)
    if not t[0] > 1e-6 * t[-1]:
        return None
    root = (U * np.sqrt(t)) @ U.T
    m, V = linalg.eigh(root @ gram @ root)
    if not m[0] > 1e-12 * m[-1]:
        return None
    return root @ ((V / np.sqrt(m)) @ (V.T @ (root @ ahead)))
