r"""The large-beta series of the minimizer, to any order, and that of the gradient flow beside it.

With tau = 1/beta and optimal weights W = W*(H), the minimizer of Eq. 2 solves H + tau g(H) = H0, an
implicit gradient step, while the flow solves dH/dt = -g(H):

.. math::
    H_\tau &= H_0 - \tau g + \tau^2 g'[g]
        - \tau^3\left(g'[g'[g]] + \tfrac12 g''[g, g]\right) + O(\tau^4), \\
    H(t) &= H_0 - t g + \tfrac12 t^2 g'[g] - \dots, \qquad g(H) = W^\top(WH - Y) + \lambda_H H .

Both are found by power-series arithmetic: if g of the partial sum is known up to tau^k, the next
coefficient is -[g]_k for the minimizer and -[g]_k / (k + 1) for the flow.

Notation: columns X (d x M) with targets Y (K x M) and shares (M,). The features of a data set are
columns with share 1/n-bar and one-hot targets. In class statistics K mean columns have one-hot
targets and shares n_k / n-bar, and a factor F of Sigma_W = F F^T is a set of columns with share K
whose target is zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib import _checks
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.weight_solve import WeightSolve


class StatisticsSeries(NamedTuple):
    """Coefficients of the powers of 1/beta, or of the time.

    Attributes:
        means: Of the class means, shape (order + 1, d, K).
        within: Of Sigma_W, shape (order + 1, d, d).
    """

    means: np.ndarray
    within: np.ndarray


def series(model: Model, features: ArrayLike, labels: ArrayLike, order: int = 3) -> np.ndarray:
    r"""Coefficients of the minimizer of Eq. 2 in powers of 1/beta, signs included.

    The series is asymptotic to the minimizer near H0 as beta grows; its sum for a finite beta is
    ``numpy.polynomial.polynomial.polyval(1 / beta, coefficients)``.

    Args:
        model: The decays lambda_W and lambda_H; beta is not used.
        features: Input features H0, shape (N, d).
        labels: Shape (N,), integers 0..K-1.
        order: Highest power, at least 1.

    Returns:
        The coefficients, shape (order + 1, N, d).

    Raises:
        TypeError: The features are not real, or the labels or the order not integers.
        ValueError: The order is less than 1, or features and labels do not fit together.

    Examples:
        >>> H0 = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> series(Model(0.5, 0.3), H0, [0, 1], order=2)[:, 0, 0].round(3)
        array([ 1.   , -0.078,  0.052])
    """
    return _features_series(model, features, labels, order, flow=False)


def flow_series(model: Model, features: ArrayLike, labels: ArrayLike, order: int = 3) -> np.ndarray:
    """Coefficients of the gradient flow in powers of the time t, signs included.

    Args:
        model: The decays lambda_W and lambda_H; beta is not used.
        features: Features H0 at time zero, shape (N, d).
        labels: Shape (N,), integers 0..K-1.
        order: Highest power, at least 1.

    Returns:
        The coefficients, shape (order + 1, N, d).

    Raises:
        TypeError: The features are not real, or the labels or the order not integers.
        ValueError: The order is less than 1, or features and labels do not fit together.

    Examples:
        >>> H0 = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> flow_series(Model(0.5, 0.3), H0, [0, 1], order=2)[:, 0, 0].round(3)
        array([ 1.   , -0.078,  0.026])
    """
    return _features_series(model, features, labels, order, flow=True)


def series_statistics(
    model: Model, stats: ClassStatistics, order: int = 3, flow: bool = False
) -> StatisticsSeries:
    r"""The same coefficients for the class means and Sigma_W, at a cost independent of N.

    .. math::
        \Sigma_W(H_\tau) = \Sigma_W - \tau\{S, \Sigma_W\} + \dots, \qquad S = W^\top W + \lambda_H I

    Args:
        model: The decays lambda_W and lambda_H; beta is not used.
        stats: Statistics of H0; every class needs a sample.
        order: Highest power, at least 1.
        flow: Take the gradient flow in powers of t, not the minimizer in powers of 1/beta.

    Raises:
        TypeError: The order is not an integer.
        ValueError: The order is less than 1 or a class has no samples.

    Examples:
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(2), 0.1 * np.eye(2))
        >>> found = series_statistics(Model(0.5, 0.3), stats, order=1)
        >>> found.within[:, 0, 0].round(3)
        array([ 0.1  , -0.129])
    """
    _checks.instance("model", model, Model)
    _checks.instance("stats", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    _checks.positive_integer("order", order)
    variances, basis = linalg.eigh(stats.within, driver="evd")
    F = basis * np.sqrt(np.maximum(variances, 0))
    K, d = stats.K, stats.d
    columns = _Columns(
        Y=np.eye(K, K + d),
        shares=np.append(stats.counts * (K / stats.N), np.full(d, K)),
        model=model,
    )
    X = np.stack(columns.solve(np.hstack([stats.means, F]), order, flow))
    means, F = X[:, :, :K], X[:, :, K:]
    within = [sum(F[j] @ F[k - j].T for j in range(k + 1)) for k in range(order + 1)]
    return StatisticsSeries(means, np.stack(within))


def gradient_derivatives(
    model: Model,
    features: ArrayLike,
    labels: ArrayLike,
    direction: ArrayLike | None = None,
    order: int = 0,
) -> np.ndarray:
    r"""The gradient g(H) and its derivatives g'[Z], g''[Z, Z], ... up to the given order.

    .. math::
        g(H) &= N\,\nabla_H L(H) = W^\top E + \lambda_H H, \qquad E = WH - Y, \quad W = W^*(H), \\
        g'[Z] &= W^\top(WZ + \dot W H) + \dot W^\top E + \lambda_H Z, \qquad
        \dot W = -(E Z^\top + W Z H^\top)(HH^\top + \bar n\lambda_W I)^{-1}

    Mixed derivatives follow from g''[Z, U] = (g''[Z + U, Z + U] - g''[Z - U, Z - U]) / 4.

    Args:
        model: The decays lambda_W and lambda_H; beta is not used.
        features: H, shape (N, d).
        labels: Shape (N,), integers 0..K-1.
        direction: Z, shape (N, d); needed when the order is not zero.
        order: Highest derivative, at least 0.

    Returns:
        The derivatives, shape (order + 1, N, d).

    Raises:
        TypeError: The features are not real, or the labels or the order not integers.
        ValueError: The order is negative, the direction is missing or its shape is not that of the
            features, or features and labels do not fit together.

    Examples:
        >>> H = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> gradient_derivatives(Model(0.5, 0.3), H, [0, 1])[0].round(3)
        array([[0.078, 0.   ],
               [0.   , 0.078]])
    """
    columns, H = _sample_columns(model, features, labels)
    if order == 0:
        return columns.gradient([H])[0].T[None]
    _checks.positive_integer("order", order)
    if direction is None:
        raise ValueError(
            f"a derivative of order {order} needs a direction of shape {H.T.shape}, "
            "but none is given."
        )
    Z = _checks.as_array("direction", direction, H.T.shape).T
    coefficients = columns.gradient([H, Z] + [np.zeros_like(Z)] * (order - 1))
    factorials = np.cumprod([1.0, *range(1, order + 1)])
    return np.stack([f * G.T for f, G in zip(factorials, coefficients, strict=True)])


class _State(NamedTuple):
    """Coefficients of W, of E and of g found so far, and the system X0 D X0^T + lambda_W I."""

    W: list[np.ndarray]
    E: list[np.ndarray]
    g: list[np.ndarray]
    solve: WeightSolve


class _Columns(NamedTuple):
    """Targets and shares of the columns; arithmetic for g along X(tau) = sum_k X_k tau^k."""

    Y: np.ndarray
    shares: np.ndarray
    model: Model

    def solve(self, X0: np.ndarray, order: int, flow: bool) -> list[np.ndarray]:
        """Coefficients of the curve with X + tau g(X) = X0, or dX/dt = -g(X)."""
        X = [X0]
        state = self._start(X0)
        for k in range(order):
            self._extend(state, X)
            X.append(-state.g[k] / (k + 1 if flow else 1))
        return X

    def gradient(self, X: list[np.ndarray]) -> list[np.ndarray]:
        """Coefficients of g along a curve with as many given ones."""
        state = self._start(X[0])
        for k in range(len(X)):
            self._extend(state, X[: k + 1])
        return state.g

    def _start(self, X0: np.ndarray) -> _State:
        return _State([], [], [], WeightSolve((X0 * self.shares) @ X0.T, self.model.lambda_W))

    def _extend(self, state: _State, X: list[np.ndarray]) -> None:
        """One more coefficient of W, E = WX - Y and g, from E D X^T + lambda_W W = 0."""
        k = len(state.W)
        E = sum(
            (W @ X[k - j] for j, W in enumerate(state.W)),
            start=-self.Y if k == 0 else np.zeros_like(self.Y),
        )
        known = (E * self.shares) @ X[0].T
        known = known + sum((state.E[j] * self.shares) @ X[k - j].T for j in range(k))
        W = -state.solve.right(known)
        state.W.append(W)
        state.E.append(E + W @ X[0])
        growth = sum(state.W[j].T @ state.E[k - j] for j in range(k + 1))
        state.g.append(growth + self.model.lambda_H * X[k])


def _sample_columns(
    model: Model, features: ArrayLike, labels: ArrayLike
) -> tuple[_Columns, np.ndarray]:
    """The columns of a data set, and its features as a matrix (d, N)."""
    _checks.instance("model", model, Model)
    H = _checks.as_features(features).astype(float, copy=False).T
    _checks.finite("features", H.T)
    y = _checks.as_labels(labels, H.shape[1])
    K, N = int(y.max()) + 1, H.shape[1]
    return _Columns(np.eye(K)[:, y], np.full(N, K / N), model), H


def _features_series(
    model: Model, features: ArrayLike, labels: ArrayLike, order: int, flow: bool
) -> np.ndarray:
    _checks.positive_integer("order", order)
    columns, H = _sample_columns(model, features, labels)
    return np.stack([X.T for X in columns.solve(H, order, flow)])
