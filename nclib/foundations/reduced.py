r"""The reduced problem: Eq. 2 with the features eliminated, a function of the K x d weights alone.

For fixed W the objective is strongly convex in H, with minimizer :math:`H = G^{-1}(W^\top Y + \beta H_0)`,
:math:`G = W^\top W + bI`, :math:`b = \lambda_H + \beta`. What is left,

.. math:: \varphi(W) = K \min_H f(W, H; H_0),

depends on H0 only through the class means and the within-class covariance: no cost below grows with the number of
samples. We work in the eigenbasis of the within-class covariance, where it is a vector, so that evaluating
:math:`\varphi`, its gradient, or a product with its Hessian takes O(K^2 d) operations.

Notation: D = diag(n_k / n-bar) (the identity for balanced classes), V = beta^2 K Sigma_W(H0), P = W^T + beta Hbar0,
N = W W^T + bI, A = N^{-1} W = W G^{-1}, Hbar = G^{-1} P the optimal class means, and T = H H^T / n-bar
= Hbar D Hbar^T + G^{-1} V G^{-1} their second moment.
"""

from functools import cached_property
from math import sqrt

import numpy as np
from scipy import linalg

from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics


class ReducedProblem:
    """Eq. 2 for one model and one set of statistics of H0, in the eigenbasis of Sigma_W(H0).

    Attributes:
        basis: (d, d) orthogonal; weights in the original basis are ``weights @ basis.T``.
        spread: (d,) eigenvalues of K Sigma_W(H0).
        means: (d, K) class means of H0 in that basis.
        shares: (K,) relative class sizes n_k / n-bar.
    """

    def __init__(self, model: Model, basis, spread, means, shares):
        self.model, self.basis, self.spread, self.means, self.shares = (
            model,
            basis,
            spread,
            means,
            shares,
        )
        self.b = model.b

    @classmethod
    def from_statistics(cls, model: Model, stats: ClassStatistics) -> "ReducedProblem":
        """One symmetric eigendecomposition, O(d^3); everything after it is O(K^2 d)."""
        spread, basis = linalg.eigh(stats.K * stats.within, driver="evd")
        return cls(model, basis, np.maximum(spread, 0), basis.T @ stats.means, stats.shares)

    def padded(self) -> "ReducedProblem":
        """The same problem with K more dimensions in which H0 is zero; it has no spurious minima."""
        K = len(self.shares)
        return ReducedProblem(
            self.model,
            linalg.block_diag(self.basis, np.eye(K)),
            np.concatenate([self.spread, np.zeros(K)]),
            np.concatenate([self.means, np.zeros((K, K))]),
            self.shares,
        )

    def at(self, W) -> "Point":
        """Everything about one W (K, d), in the eigenbasis."""
        return Point(self, W)


class Point:
    """The reduced objective at one W: value, gradient, Hessian products, optimal class means and residual moment."""

    def __init__(self, problem: ReducedProblem, W):
        self.problem, self.W = problem, W
        m, b, beta = problem.shares, problem.b, problem.model.beta
        self.V = beta**2 * problem.spread
        self.N_factor = linalg.cho_factor(W @ W.T + b * np.eye(len(m)))
        self.A = linalg.cho_solve(self.N_factor, W)
        # Hbar = G^{-1} P with P = W^T + beta Hbar0; G^{-1} W^T = A^T exactly, which spares a subtraction.
        self.means = self.A.T + beta * self.apply_G_inverse(problem.means.T).T
        self.DM = (self.means * m).T
        self.WT = (W @ self.means) @ self.DM + self.apply_G_inverse(self.A * self.V)

    def apply_G_inverse(self, X):
        """X G^{-1} for X (k, d), by the Woodbury identity on the K x K matrix N."""
        return (X - (X @ self.W.T) @ self.A) / self.problem.b

    @cached_property
    def gradient(self):
        r"""Gradient (K, d): :math:`\nabla\varphi = \lambda_W W + WT - D\bar H^\top`."""
        return self.problem.model.lambda_W * self.W + self.WT - self.DM

    @cached_property
    def gradient_norm(self) -> float:
        """Frobenius norm of the gradient relative to that of its terms, floored at sqrt(lambda_W) (W = 0)."""
        lambda_W = self.problem.model.lambda_W
        scale = lambda_W * linalg.norm(self.W) + linalg.norm(self.WT) + linalg.norm(self.DM)
        return float(linalg.norm(self.gradient) / max(scale, sqrt(lambda_W)))

    @cached_property
    def residual(self):
        r"""The residual moment :math:`J = (WH-Y)(WH-Y)^\top/\bar n`, (K, K), as a sum of squares."""
        E = self.W @ self.means - np.eye(len(self.problem.shares))
        return (E * self.problem.shares) @ E.T + (self.A * self.V) @ self.A.T

    @cached_property
    def value(self) -> float:
        """K f at (W, H(W)), each of its four terms a sum of squares, so that nothing cancels."""
        p, model = self.problem, self.problem.model
        B = np.sum(self.W * self.A, axis=0)  # diagonal of W^T N^{-1} W
        BB = np.sum(self.A * ((self.W @ self.W.T) @ self.A), axis=0)  # and of its square
        lam, beta, b = model.lambda_H, model.beta, p.b
        moment = np.sum(self.DM.T * self.means) + self.V @ (1 - 2 * B + BB) / b**2
        # H - H0 = G^{-1}(W^T Y - (W^T W + lambda_H) H0), and (W^T W + lambda_H) G^{-1} = (lambda_H + beta B) / b.
        step = self.A.T - (lam * p.means + beta * self.A.T @ (self.W @ p.means)) / b
        moved = (
            np.sum(step**2 * p.shares)
            + p.spread @ (lam**2 + 2 * lam * beta * B + beta**2 * BB) / b**2
        )
        residual = np.trace(self.residual)
        return (
            float(residual + model.lambda_W * np.sum(self.W**2) + lam * moment + beta * moved) / 2
        )

    @cached_property
    def _hessian_factors(self):
        """Blocks of the Hessian product: what X meets from the right, and what the results meet."""
        p, K = self.problem, len(self.problem.shares)
        R = self.DM - self.WT
        right = np.hstack([self.W.T, self.means, self.A.T, R.T])
        left = np.hstack([self.L / p.b, p.model.lambda_W * np.eye(K) - self.residual / p.b])
        return right, left, np.vstack([self.A, self.DM, R])

    @cached_property
    def L(self):
        """L = I - W G^{-1} W^T = b N^{-1}, (K, K)."""
        inverse = self.problem.b * linalg.cho_solve(self.N_factor, np.eye(len(self.problem.shares)))
        return (inverse + inverse.T) / 2

    def hessian(self, X):
        r"""Hessian product at any W, stationary or not, with :math:`R = D\bar H^\top - WT`:

        .. math::
            \nabla^2\varphi(W)[X] = LXT + \lambda_W X - JXG^{-1} + AX^\top R + RX^\top A

        Both G^{-1} are expanded by Woodbury, and the products of X with thin matrices taken together.
        """
        right, left, rows = self._hessian_factors
        XW, XH, XA, XR = np.hsplit(X @ right, 4)
        Y = (X - XW @ self.A) * (self.V / self.problem.b)
        along_A = XR.T + (self.residual @ XW - self.L @ (Y @ self.W.T)) / self.problem.b
        return left @ np.vstack([Y, X]) + np.hstack([along_A, self.L @ XH, XA.T]) @ rows

    @cached_property
    def _pencil(self):
        """Joint diagonalisation C^T L C = I, C^T (lambda_W I - J/b) C = diag(e); C and 1 / |e + diag(T)|."""
        p, K = self.problem, len(self.problem.shares)
        e, C = linalg.eigh(p.model.lambda_W * np.eye(K) - self.residual / p.b, self.L)
        scale = np.abs(e[:, None] + np.sum(self.DM.T * self.means, axis=1) + self.V / p.b**2)
        return C, 1 / np.maximum(scale, 1e-6 * scale.max())

    def precondition(self, R):
        """Approximate Hessian solve: the terms LXT + (lambda_W - J/b) X with T replaced by its diagonal."""
        C, inverse = self._pencil
        return C @ ((C.T @ R) * inverse)

    @property
    def certificate(self) -> float:
        r"""Slack :math:`\lambda_{\min}(\lambda_W b I - J)`; not negative at a stationary point: a global minimizer."""
        K = len(self.problem.shares)
        slack = self.problem.model.lambda_W * self.problem.b * np.eye(K) - self.residual
        return float(linalg.eigvalsh(slack)[0])
