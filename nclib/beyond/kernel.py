r"""The perturbed model with a metric over samples: what is left of a layer without its weights.

A layer with weights B, shared by all samples, adds BX to the features that come in, where X (m x N)
is what the weights multiply. For given features H the decay of B costs at least

.. math::
    \min_{BX = H - H_0}\frac{\lambda_B}2\|B\|_F^2
        = \frac1{2N}\operatorname{tr}\,(H-H_0)\,\mathcal K^+(H-H_0)^\top,
    \qquad \mathcal K = \frac{X^\top X}{N\lambda_B},

and infinitely much if a row of H - H_0 is not in the row space of X. So the layer is the model

.. math::
    f = \frac1{2N}\Bigl(\|WH-Y\|_F^2 + \lambda_H\|H\|_F^2
        + \operatorname{tr}\,(H-H_0)\,\mathcal K^+(H-H_0)^\top\Bigr)
        + \frac{\lambda_W}{2K}\|W\|_F^2 ,

which is Eq. 2 of Tirer et al. (2023) for :math:`\mathcal K = I/\beta`. Without a skip :math:`H_0 =
0`. Links that act together add their kernels. At every stationary point, with the gradient
:math:`g = W^\top E + \lambda_HH` of each sample,

.. math:: H - H_0 = -g\,\mathcal K .

A stationary point is a global minimizer if, with :math:`E = WH - Y`,

.. math::
    \frac1N\bigl\|E\,\mathcal K(I + \lambda_H\mathcal K)^{-1}E^\top\bigr\|_{op}
        \le \frac{\lambda_W}K .
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nclib import _checks
from nclib.beyond.descent import Evaluation, descend

SLACK = 1e-9  # of the certificate, relative, for rounding
STARTS = 8  # at most, where no certificate ends the search
RANK = 1e-10  # singular values of W below this share of the largest, and spread below this share
# of the features, count as zero


class Rates(NamedTuple):
    r"""First-order changes of the spread within classes under a weak link; NaN where there is none.

    Attributes:
        all: Of :math:`\operatorname{tr}\Sigma_W`, relative to it.
        rows: Of its part in the row space of W, relative to that part.
    """

    all: float
    rows: float


@dataclass(frozen=True, eq=False)
class Solution:
    r"""A minimizer of the model with a kernel.

    Attributes:
        weights: W, shape (K, d).
        features: H, shape (N, d).
        objective: The value f.
        gradient_norm: Norm of the gradient in W relative to that of its terms; that in H is zero up
            to rounding.
        ratio: Left side of the certificate over its right side.
    """

    weights: np.ndarray
    features: np.ndarray
    objective: float
    gradient_norm: float
    ratio: float

    @property
    def certified(self) -> bool:
        """Whether the ratio is at most one, which proves that no point has a smaller value."""
        return self.ratio <= 1 + SLACK


def linear(features: ArrayLike, decay: float) -> np.ndarray:
    r"""Kernel of a linear layer, :math:`X^\top X/(N\lambda_B)`.

    Args:
        features: What the weights multiply, shape (N, m): the input of a linear layer, or the
            hidden units of a block of two layers.
        decay: Weight decay of the weights.

    Returns:
        Shape (N, N).

    Raises:
        ValueError: The features are no matrix, or the decay is not positive.

    Examples:
        >>> linear([[1.0], [3.0]], decay=0.5)
        array([[1., 3.],
               [3., 9.]])
    """
    X = _checks.finite("features", _checks.as_features(features).astype(float))
    return X @ X.T / (len(X) * _checks.positive("decay", decay))


def relu(features: ArrayLike, decay: float) -> np.ndarray:
    r"""Kernel of infinitely many random ReLU units, the arc-cosine kernel.

    .. math::
        \mathcal K_{ij} = \frac{\|h_i\|\,\|h_j\|}{2\pi N\lambda_B}
            \bigl(\sin\theta_{ij} + (\pi-\theta_{ij})\cos\theta_{ij}\bigr)

    It is :math:`\frac1{N\lambda_B}` times the mean of :math:`\max(a^\top h_i,0)\max(a^\top h_j,0)`
    over Gaussian directions a with variance one (Cho and Saul, 2009).

    Args:
        features: Inputs of the units, shape (N, d).
        decay: Weight decay of the weights behind them.

    Returns:
        Shape (N, N).

    Raises:
        ValueError: The features are no matrix, or the decay is not positive.

    Examples:
        >>> relu([[1.0, 0.0], [0.0, 2.0]], decay=0.5).round(6)
        array([[0.5    , 0.31831],
               [0.31831, 2.     ]])
    """
    X = _checks.finite("features", _checks.as_features(features).astype(float))
    lengths = np.linalg.norm(X, axis=1)
    units = X / np.where(lengths > 0, lengths, 1)[:, None]
    # The half angle from chords is exact where a cosine near one has lost its digits.
    chords = np.linalg.norm(units[:, None] - units[None], axis=2)
    sums = np.linalg.norm(units[:, None] + units[None], axis=2)
    angle = 2 * np.arctan2(chords, sums)
    shape = np.sin(angle) + (np.pi - angle) * np.cos(angle)
    scale = 2 * np.pi * len(X) * _checks.positive("decay", decay)
    return np.outer(lengths, lengths) * shape / scale


def optimal_features(
    weights: ArrayLike,
    kernel: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike,
    lambda_H: float = 0.0,
) -> np.ndarray:
    r"""Best features for given weights: kernel ridge regression of the residual.

    In the eigenvectors of :math:`W^\top W` (eigenvalues x) and of the kernel (eigenvalues k),

    .. math::
        (H - H_0)_{ij} = -\frac{k_j}{1 + (x_i+\lambda_H)k_j}
            \bigl[W^\top(WH_0-Y) + \lambda_HH_0\bigr]_{ij} .

    Args:
        weights: W, shape (K, d).
        kernel: Symmetric, positive semidefinite, shape (N, N).
        features: Input features H0, shape (N, d); zeros for a layer without a skip.
        labels: Shape (N,).
        lambda_H: Decay of the features.

    Returns:
        Shape (N, d).

    Raises:
        ValueError: The shapes do not fit, or the kernel is not symmetric or has a negative
            eigenvalue.

    Examples:
        >>> optimal_features(np.eye(2), 3 * np.eye(2), np.zeros((2, 2)), [0, 1])
        array([[0.75, 0.  ],
               [0.  , 0.75]])
    """
    W = _checks.as_array("weights", weights, np.shape(weights))
    problem = _Problem.of(1.0, kernel, features, labels, lambda_H)
    if W.shape != (len(problem.Y), len(problem.H0)):
        raise ValueError(
            f"weights must have shape {(len(problem.Y), len(problem.H0))}; the shape given is "
            f"{W.shape}."
        )
    return (problem.H0 + problem.change(W)).T


def minimize(
    lambda_W: float,
    kernel: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike,
    lambda_H: float = 0.0,
) -> Solution:
    """Minimizer of the model with a kernel over the samples.

    Given W the features follow from two eigendecompositions; W itself is found by descent, from
    several starts until one is certified. If the classes are balanced and all eigenvalues of the
    kernel are less than lambda_W, there is one stationary point.

    Args:
        lambda_W: Weight decay of the last layer.
        kernel: Symmetric, positive semidefinite, shape (N, N), with the decay of the layer in it:
            add those of links that act together.
        features: Input features H0, shape (N, d); zeros for a layer without a skip.
        labels: Shape (N,), integers 0..K-1, each of which occurs.
        lambda_H: Decay of the features.

    Returns:
        The lowest minimum that was found; look at ``certified``.

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: A shape or a sign is wrong, or the kernel is not symmetric or has a negative
            eigenvalue.

    Examples:
        >>> H0, labels = np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1]
        >>> found = minimize(0.5, linear(H0, decay=1.0), H0, labels)
        >>> found.certified, found.features.round(3).tolist()[1]
        (True, [1.095, 0.0])
    """
    problem = _Problem.of(
        _checks.positive("lambda_W", lambda_W), kernel, features, labels, lambda_H
    )
    best = None
    for start in problem.starts():
        found = descend(problem.function, start)
        if best is None or found.value < best.value:
            best = found
        if problem.ratio(best.point) <= 1 + SLACK:
            break
    assert best is not None
    W = best.point.reshape(len(problem.Y), -1)
    H = problem.H0 + problem.change(W)
    return Solution(W, H.T, best.value, best.gradient_norm, problem.ratio(best.point))


def spread_rates(
    lambda_W: float, kernel: ArrayLike, features: ArrayLike, labels: ArrayLike
) -> Rates:
    r"""How fast the spread within classes changes when a weak link is loosened.

    To first order in the kernel :math:`H - H_0 = -g\,\mathcal K` with :math:`g = W^\top E` at the
    best last layer for H0, and the deviations :math:`\Delta` from the class means give

    .. math::
        d\operatorname{tr}\Sigma_W = -\frac2N\operatorname{tr}\,\Delta\,\mathcal K\,g^\top .

    Args:
        lambda_W: Weight decay of the last layer.
        kernel: Symmetric, shape (N, N).
        features: Input features H0, shape (N, d).
        labels: Shape (N,).

    Raises:
        ValueError: A shape or a sign is wrong.

    Examples:
        >>> H0, labels = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]), [0, 0, 1, 1]
        >>> rates = spread_rates(0.1, linear(H0[:, :1], decay=1.0), H0, labels)
        >>> abs(rates.all) < 1e-12
        True
    """
    problem = _Problem.of(_checks.positive("lambda_W", lambda_W), kernel, features, labels, 0.0)
    H0, Y = problem.H0, problem.Y
    N = H0.shape[1]
    moment = H0 @ H0.T / N + problem.a * np.eye(len(H0))
    W = np.linalg.solve(moment, H0 @ Y.T / N).T
    change = -W.T @ (W @ H0 - Y) @ problem.kernel
    deviations = H0 - H0 @ Y.T / Y.sum(axis=1) @ Y
    _, lengths, axes = np.linalg.svd(W, full_matrices=False)
    rows = axes[lengths > RANK * lengths[0]].T  # fewer than K where the means are centered
    none = RANK * float(np.linalg.norm(H0))
    return Rates(_rate(deviations, change, none), _rate(rows.T @ deviations, rows.T @ change, none))


def _rate(deviations: np.ndarray, change: np.ndarray, none: float) -> float:
    """Relative rate of the sum of squares; NaN where its root is not above a bound."""
    if np.linalg.norm(deviations) <= none:
        return np.nan
    return float(2 * np.sum(deviations * change) / np.sum(deviations**2))


@dataclass(frozen=True)
class _Problem:
    """The problem reduced to W; samples are columns."""

    a: float
    lambda_H: float
    H0: np.ndarray
    Y: np.ndarray
    kernel: np.ndarray
    strengths: np.ndarray
    modes: np.ndarray

    @classmethod
    def of(
        cls,
        lambda_W: float,
        kernel: ArrayLike,
        features: ArrayLike,
        labels: ArrayLike,
        lambda_H: float,
    ) -> "_Problem":
        H0 = _checks.finite("features", _checks.as_features(features).astype(float)).T
        N = H0.shape[1]
        y = _checks.as_labels(labels, N)
        matrix = _checks.as_array("kernel", kernel, (N, N))
        largest = float(np.abs(matrix).max(initial=0.0))
        if np.abs(matrix - matrix.T).max() > 1e-10 * largest:
            raise ValueError(
                "kernel must be symmetric, but two of its entries differ by "
                f"{np.abs(matrix - matrix.T).max():.3g}."
            )
        strengths, modes = np.linalg.eigh((matrix + matrix.T) / 2)
        if strengths[0] < -1e-9 * max(strengths[-1], 0) - 1e-300:
            raise ValueError(
                f"kernel must have no negative eigenvalue, but one is {strengths[0]:.3g}."
            )
        Y = np.eye(int(y.max()) + 1)[:, y]
        strengths = np.maximum(strengths, 0)
        decay = _checks.nonnegative("lambda_H", lambda_H)
        return cls(lambda_W / len(Y), decay, H0, Y, matrix, strengths, modes)

    def residual(self, W: np.ndarray) -> np.ndarray:
        r"""The gradient of each sample at H0 for these weights, in the modes of the kernel."""
        return (W.T @ (W @ self.H0 - self.Y) + self.lambda_H * self.H0) @ self.modes

    def change(self, W: np.ndarray) -> np.ndarray:
        """H - H0 for given weights, (d, N)."""
        return self._change(W)[0]

    def _change(self, W: np.ndarray) -> tuple[np.ndarray, float]:
        """H - H0, and what the link costs."""
        x, P = np.linalg.eigh(W.T @ W)
        x = np.maximum(x, 0)[:, None] + self.lambda_H
        share = (P.T @ self.residual(W)) / (1 + x * self.strengths)
        link = float(np.sum(self.strengths * share**2)) / (2 * self.Y.shape[1])
        return -P @ (share * self.strengths) @ self.modes.T, link

    def function(self, point: np.ndarray) -> Evaluation:
        """Value and gradient of the reduced problem."""
        W = point.reshape(len(self.Y), -1)
        change, link = self._change(W)
        N, H = self.Y.shape[1], self.H0 + change
        E = W @ H - self.Y
        value = (np.sum(E**2) + self.lambda_H * np.sum(H**2)) / (2 * N)
        value += link + self.a / 2 * np.sum(W**2)
        fit, decay = E @ H.T / N, self.a * W
        size = np.linalg.norm(self.Y @ H.T) / N + np.linalg.norm(decay) + np.linalg.norm(fit)
        return Evaluation(float(value), (fit + decay).ravel(), float(size))

    def ratio(self, point: np.ndarray) -> float:
        """Left side of the certificate over its right side."""
        W = point.reshape(len(self.Y), -1)
        E = (W @ (self.H0 + self.change(W)) - self.Y) @ self.modes
        weight = self.strengths / (1 + self.lambda_H * self.strengths)
        return float(np.linalg.norm((E * weight) @ E.T, 2) / (self.Y.shape[1] * self.a))

    def starts(self) -> Iterator[np.ndarray]:
        """The ridge classifier of H0, then random weights of several sizes."""
        N, d = self.H0.shape[1], len(self.H0)
        moment = self.H0 @ self.H0.T / N + self.a * np.eye(d)
        ridge = np.linalg.solve(moment, self.H0 @ self.Y.T / N).T
        if ridge.any():
            yield ridge.ravel()
        rng = np.random.default_rng(0)
        size = max(float(np.abs(ridge).max()), 0.3)
        for factor in np.geomspace(0.3, 10, STARTS - 1):
            yield factor * size * rng.standard_normal(ridge.size)
