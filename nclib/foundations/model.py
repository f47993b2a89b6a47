r"""The perturbed features model on full matrices: objective, gradients, closed forms.

Eq. 2 of Tirer et al. (2023), and Eq. 1 where beta = 0.
"""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

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
from nclib.foundations.weight_solve import WeightSolve


class Gradient(NamedTuple):
    """Gradient of the objective.

    Attributes:
        weights: Derivative in W, shape (K, d).
        features: Derivative in H, shape (N, d).
    """

    weights: np.ndarray
    features: np.ndarray


class Collapsed(NamedTuple):
    """An exactly collapsed minimizer.

    Attributes:
        weights: W, shape (K, d).
        means: Class means, which are all features, shape (d, K).
    """

    weights: np.ndarray
    means: np.ndarray


@dataclass(frozen=True)
class Model:
    r"""The perturbed features model, Eq. 2 of Tirer et al. (2023).

    .. math::
        f(W, H; H_0) = \frac{1}{2N}\left(\|WH - Y\|_F^2 + \lambda_H \|H\|_F^2
        + \beta\|H - H_0\|_F^2\right) + \frac{\lambda_W}{2K}\|W\|_F^2

    with features H (d x N), weights W (K x d), one-hot labels Y (K x N), and N = Kn when the
    classes are balanced. ``beta = 0`` is the unconstrained model, Eq. 1.

    Attributes:
        lambda_W: Weight decay of the last layer, greater than zero.
        lambda_H: Weight decay of the features, not negative.
        beta: Strength of the pull towards the input features H0, not negative.

    Raises:
        TypeError: A parameter is not a real number.
        ValueError: A parameter is not finite or has the wrong sign.

    Examples:
        >>> model = Model(lambda_W=0.04, lambda_H=0.09, beta=1)
        >>> model
        Model(lambda_W=0.04, lambda_H=0.09, beta=1.0)
        >>> round(model.c, 12), round(model.b, 12), round(model.kappa, 12)
        (0.06, 1.09, 1.5)
    """

    lambda_W: float
    lambda_H: float
    beta: float = 0.0

    def __post_init__(self) -> None:
        # Python's own floats: the square of a NumPy integer overflows in silence.
        object.__setattr__(self, "lambda_W", positive("lambda_W", self.lambda_W))
        object.__setattr__(self, "lambda_H", nonnegative("lambda_H", self.lambda_H))
        object.__setattr__(self, "beta", nonnegative("beta", self.beta))

    @property
    def b(self) -> float:
        r"""What decay and pull together weigh on the features, :math:`b = \lambda_H + \beta`."""
        return self.lambda_H + self.beta

    @property
    def c(self) -> float:
        r"""Strength of the decay, :math:`c = \sqrt{\lambda_W\lambda_H}`; collapse needs c < 1."""
        return sqrt(self.lambda_W * self.lambda_H)

    @property
    def kappa(self) -> float:
        r"""The pull at which a frame responds, :math:`\kappa = \sqrt{\lambda_H/\lambda_W}`."""
        return sqrt(self.lambda_H / self.lambda_W)

    @property
    def rho(self) -> float:
        r"""Squared norm of a collapsed class mean (Theorem 2.1).

        .. math:: \rho = (1-c)\sqrt{\lambda_W/\lambda_H}

        Raises:
            ValueError: c >= 1, where the minimizer of Eq. 1 is zero, or lambda_H = 0, where it does
                not exist.
        """
        if self.lambda_H == 0:
            raise ValueError(
                "lambda_H must be greater than zero for a radius rho, but lambda_H = 0: "
                "without decay the features of Eq. 1 have no minimizer."
            )
        collapses(self.c)
        return (1 - self.c) * sqrt(self.lambda_W / self.lambda_H)

    def objective(
        self,
        weights: ArrayLike,
        features: ArrayLike,
        labels: ArrayLike,
        features0: ArrayLike | None = None,
    ) -> float:
        """Value of f at (W, H; H0).

        Args:
            weights: W, shape (K, d).
            features: H, shape (N, d), one sample a row.
            labels: Integers 0..K-1, shape (N,).
            features0: The input features H0, shape (N, d); may be left out when beta = 0.

        Raises:
            ValueError: Shapes disagree, an entry is not finite, labels are out of range, or H0 is
                missing while beta > 0.

        Examples:
            >>> Model(0.1, 0.1).objective([[0.0]], [[0.0]], [0])
            0.5
        """
        W, H, H0, E = self._arrays(weights, features, labels, features0)
        pull = self.beta * np.sum((H - H0) ** 2)
        return float(
            (np.sum(E**2) + self.lambda_H * np.sum(H**2) + pull) / (2 * H.shape[1])
            + self.lambda_W * np.sum(W**2) / (2 * W.shape[0])
        )

    def gradient(
        self,
        weights: ArrayLike,
        features: ArrayLike,
        labels: ArrayLike,
        features0: ArrayLike | None = None,
    ) -> Gradient:
        r"""Gradient of f in W and in H, with the arguments and errors of ``objective``.

        .. math::
            \nabla_W f = \tfrac1N (WH-Y)H^\top + \tfrac{\lambda_W}{K} W, \qquad
            \nabla_H f = \tfrac1N \left(W^\top(WH-Y) + \lambda_H H + \beta(H-H_0)\right)

        Examples:
            >>> Model(0.1, 0.1).gradient([[1.0]], [[2.0]], [0]).weights
            array([[2.1]])
        """
        W, H, H0, E = self._arrays(weights, features, labels, features0)
        N = H.shape[1]
        gradient_H = (W.T @ E + self.lambda_H * H + self.beta * (H - H0)) / N
        return Gradient(E @ H.T / N + self.lambda_W / W.shape[0] * W, gradient_H.T)

    def optimal_weights(self, stats: ClassStatistics) -> np.ndarray:
        r"""The weights (K, d) that minimize f for fixed features, from their statistics.

        .. math::
            W^*(H) = Y H^\top (HH^\top + \bar n\lambda_W I)^{-1}
                   = D\bar H^\top (K\Sigma_W + \bar H D \bar H^\top + \lambda_W I)^{-1}

        Section 3 of the paper, with n-bar = N/K and D = diag(n_k / n-bar), the identity when the
        classes are balanced.

        Args:
            stats: Statistics of H.

        Examples:
            >>> stats = ClassStatistics(np.array([3]), np.array([[1.0]]), np.zeros((1, 1)))
            >>> Model(1.0, 0.0).optimal_weights(stats)
            array([[0.5]])
        """
        return WeightSolve(stats.second_moment, self.lambda_W).right((stats.means * stats.shares).T)

    def collapsed(self, K: int, d: int, frame: ArrayLike | None = None) -> Collapsed:
        r"""A global minimizer of Eq. 1 for K balanced classes in d dimensions (Theorem 2.1).

        .. math::
            \bar H = \sqrt\rho\, Q, \qquad W = \sqrt{\lambda_H/\lambda_W}\,\bar H^\top, \qquad
            Q^\top Q = I_K

        It is the unique minimizer of Eq. 2 when H0 has these means and no spread (Corollary 2.2).

        Args:
            K: Number of classes.
            d: Dimension of the features, at least K.
            frame: Q, shape (d, K) with orthonormal columns; the first K coordinate axes if
                left out.

        Raises:
            ValueError: d < K, c >= 1, lambda_H = 0, or the frame is not orthonormal.

        Examples:
            >>> Model(0.25, 0.25).collapsed(K=2, d=2).means.round(3)
            array([[0.866, 0.   ],
                   [0.   , 0.866]])
        """
        frame_fits(K, d)
        Q = np.eye(d, K) if frame is None else as_frame(frame, K, d)
        means = sqrt(self.rho) * Q
        return Collapsed(self.kappa * means.T, means)

    def _arrays(
        self,
        weights: ArrayLike,
        features: ArrayLike,
        labels: ArrayLike,
        features0: ArrayLike | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The book's matrices (W, H, H0, E = WH - Y) from the public arrays; float64."""
        W = finite("weights", np.asarray(weights, dtype=float))
        H = finite("features", as_features(features)).astype(float, copy=False).T
        if W.ndim != 2 or W.shape[1] != H.shape[0]:
            raise ValueError(
                f"weights must have shape (K, d) with d = {H.shape[0]}; "
                f"the shape given is {W.shape}."
            )
        y = as_labels(labels, H.shape[1], W.shape[0])
        H0 = H
        if features0 is not None:
            H0 = finite("features0", as_features(features0)).astype(float, copy=False).T
            if H0.shape != H.shape:
                raise ValueError(
                    f"features0 must have the shape of the features, {H.T.shape}; "
                    f"the shape given is {H0.T.shape}."
                )
        elif self.beta > 0:
            raise ValueError(
                f"features0 must be given when beta is not zero, but beta = {self.beta:.6g}: "
                "the pull needs its target H0."
            )
        E = W @ H
        E[y, np.arange(H.shape[1])] -= 1
        return W, H, H0, E
