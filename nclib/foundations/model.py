r"""The perturbed features model (Eq. 2 of Tirer et al., 2023) on full matrices: objective, gradients, closed forms."""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy import linalg

from nclib._checks import (
    as_features,
    as_frame,
    as_labels,
    collapses,
    finite,
    frame_fits,
    nonnegative,
    positive,
)
from nclib.foundations.statistics import ClassStatistics


class Gradient(NamedTuple):
    """Gradient of the objective: ``weights`` (K, d) and ``features`` (N, d)."""

    weights: np.ndarray
    features: np.ndarray


class Collapsed(NamedTuple):
    """An exactly collapsed minimizer: ``weights`` (K, d) and class ``means`` (d, K)."""

    weights: np.ndarray
    means: np.ndarray


@dataclass(frozen=True)
class Model:
    r"""The perturbed features model, Eq. 2 of Tirer et al. (2023); ``beta = 0`` is the unconstrained one, Eq. 1.

    .. math::
        f(W, H; H_0) = \frac{1}{2N}\left(\|WH - Y\|_F^2 + \lambda_H \|H\|_F^2 + \beta\|H - H_0\|_F^2\right)
        + \frac{\lambda_W}{2K}\|W\|_F^2

    with features H (d x N), weights W (K x d), one-hot labels Y (K x N), and N = Kn when the classes are balanced.

    Args:
        lambda_W: weight decay of the last layer, positive.
        lambda_H: weight decay of the features, zero or positive.
        beta: strength of the pull towards the input features H0, zero or positive.

    Raises:
        ValueError: if a parameter is not finite or has the wrong sign.
    """

    lambda_W: float
    lambda_H: float
    beta: float = 0.0

    def __post_init__(self):
        positive("lambda_W", self.lambda_W)
        nonnegative("lambda_H", self.lambda_H)
        nonnegative("beta", self.beta)

    @property
    def c(self) -> float:
        r"""The collapse parameter :math:`c = \sqrt{\lambda_W\lambda_H}`; features survive only if c < 1."""
        return sqrt(self.lambda_W * self.lambda_H)

    @property
    def b(self) -> float:
        r"""The curvature that decay and pull give to the features, :math:`b = \lambda_H + \beta`."""
        return self.lambda_H + self.beta

    @property
    def kappa(self) -> float:
        r"""The scale of beta at which the frame responds, :math:`\kappa = \sqrt{\lambda_H/\lambda_W}`, 1/r in Eq. 1."""
        return sqrt(self.lambda_H / self.lambda_W)

    @property
    def rho(self) -> float:
        r"""Squared norm of a collapsed class mean, :math:`\rho = (1-c)\sqrt{\lambda_W/\lambda_H}` (Theorem 2.1).

        Raises:
            ValueError: if c >= 1, where the minimizer of Eq. 1 is zero, or lambda_H = 0, where it does not exist.
        """
        if self.lambda_H == 0:
            raise ValueError(
                "lambda_H is 0: without decay the features of Eq. 1 have no minimizer and no radius rho"
            )
        collapses(self.c)
        return (1 - self.c) * sqrt(self.lambda_W / self.lambda_H)

    def objective(self, weights, features, labels, features0=None) -> float:
        """Value of f at (W, H; H0).

        Args:
            weights: (K, d).
            features: (N, d), one sample a row.
            labels: (N,) integers 0..K-1.
            features0: (N, d), the input features H0; may be left out when beta = 0.

        Raises:
            ValueError: if shapes disagree, an entry is not finite, labels are out of range, or H0 is missing while
                beta > 0.
        """
        W, H, H0, E = self._arrays(weights, features, labels, features0)
        pull = self.beta * np.sum((H - H0) ** 2)
        return float(
            (np.sum(E**2) + self.lambda_H * np.sum(H**2) + pull) / (2 * H.shape[1])
            + self.lambda_W * np.sum(W**2) / (2 * W.shape[0])
        )

    def gradient(self, weights, features, labels, features0=None) -> Gradient:
        r"""Gradient of f in W and in H, with the arguments and errors of ``objective``.

        .. math::
            \nabla_W f = \tfrac1N (WH-Y)H^\top + \tfrac{\lambda_W}{K} W, \qquad
            \nabla_H f = \tfrac1N \left(W^\top(WH-Y) + \lambda_H H + \beta(H-H_0)\right)
        """
        W, H, H0, E = self._arrays(weights, features, labels, features0)
        N = H.shape[1]
        gradient_H = (W.T @ E + self.lambda_H * H + self.beta * (H - H0)) / N
        return Gradient(E @ H.T / N + self.lambda_W / W.shape[0] * W, gradient_H.T)

    def optimal_weights(self, stats: ClassStatistics) -> np.ndarray:
        r"""The weights (K, d) that minimize f for fixed features, known to us by their statistics (Section 3).

        .. math::
            W^*(H) = Y H^\top (HH^\top + \bar n\lambda_W I)^{-1}
                   = D\bar H^\top (K\Sigma_W + \bar H D \bar H^\top + \lambda_W I)^{-1}

        Here n-bar = N/K and D = diag(n_k / n-bar), the identity when the classes are balanced.
        """
        weighted = stats.means * stats.shares
        return linalg.solve(
            stats.second_moment + self.lambda_W * np.eye(stats.d), weighted, assume_a="pos"
        ).T

    def collapsed(self, K: int, d: int, frame=None) -> Collapsed:
        r"""A global minimizer of Eq. 1 for K balanced classes in d dimensions (Theorem 2.1).

        .. math::
            \bar H = \sqrt\rho\, Q, \qquad W = \sqrt{\lambda_H/\lambda_W}\,\bar H^\top, \qquad Q^\top Q = I_K

        It is the unique minimizer of Eq. 2 when H0 has these means and no spread (Corollary 2.2).

        Args:
            K: number of classes.
            d: dimension of the features, at least K.
            frame: Q, (d, K) with orthonormal columns; the first K coordinate axes if left out.

        Raises:
            ValueError: if d < K, c >= 1, lambda_H = 0, or the frame is not orthonormal.
        """
        frame_fits(K, d)
        Q = np.eye(d, K) if frame is None else as_frame(frame, K, d)
        means = sqrt(self.rho) * Q
        return Collapsed(self.kappa * means.T, means)

    def _arrays(self, weights, features, labels, features0):
        """The book's matrices (W, H, H0, E = WH - Y) from the public arrays; float64."""
        W = finite("weights", np.asarray(weights, dtype=float))
        H = finite("features", as_features(features)).astype(float, copy=False).T
        if W.ndim != 2 or W.shape[1] != H.shape[0]:
            raise ValueError(f"weights have shape {W.shape}, expected (K, d) with d = {H.shape[0]}")
        y = as_labels(labels, H.shape[1], W.shape[0])
        if features0 is None:
            if self.beta > 0:
                raise ValueError(
                    f"beta is {self.beta:.6g} but features0 is missing: the pull needs its target H0"
                )
            H0 = H
        else:
            H0 = finite("features0", as_features(features0)).astype(float, copy=False).T
            if H0.shape != H.shape:
                raise ValueError(
                    f"features0 has shape {H0.T.shape}, features have {H.T.shape}; they must agree"
                )
        E = W @ H
        E[y, np.arange(H.shape[1])] -= 1
        return W, H, H0, E
