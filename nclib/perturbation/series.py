r"""The large-beta series of the minimizer, to any order, and that of the gradient flow beside it.

With tau = 1/beta and optimal weights W = W*(H), the minimizer of Eq. 2 solves H + tau g(H) = H0, an implicit gradient
step, while the flow solves dH/dt = -g(H):

.. math::
    H_\tau &= H_0 - \tau g + \tau^2 g'[g] - \tau^3\left(g'[g'[g]] + \tfrac12 g''[g, g]\right) + O(\tau^4), \\
    H(t) &= H_0 - t g + \tfrac12 t^2 g'[g] - \dots, \qquad g(H) = W^\top(WH - Y) + \lambda_H H .

Both are found by power-series arithmetic: if g of the partial sum is known up to tau^k, the next coefficient is
-[g]_k for the minimizer and -[g]_k / (k + 1) for the flow.

Notation: columns X (d x M) with targets Y (K x M) and weights omega (M,). The features of a data set are columns of
weight 1/n-bar with one-hot targets. In class statistics K mean columns have one-hot targets and weights n_k / n-bar,
and a factor F of Sigma_W = F F^T is a set of columns of weight K whose target is zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib import _checks
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics


class StatisticsSeries(NamedTuple):
    """Coefficients of the powers of 1/beta: class ``means`` (order + 1, d, K) and ``within`` (order + 1, d, d)."""

    means: np.ndarray
    within: np.ndarray


def series(model: Model, features: ArrayLike, labels: ArrayLike, order: int = 3) -> np.ndarray:
    r"""Coefficients (order + 1, N, d) of the minimizer of Eq. 2 in powers of 1/beta: sum_k coefficient_k / beta^k.

    Their signs are included. beta of the model is not used. The series is asymptotic to the minimizer near H0 as beta
    grows; a sum with finite beta is ``numpy.polynomial.polynomial.polyval(1 / beta, coefficients)``.

    Raises:
        ValueError: if order is less than 1 or the features and labels do not fit.
    """
    return _features_series(model, features, labels, order, flow=False)


def flow_series(model: Model, features: ArrayLike, labels: ArrayLike, order: int = 3) -> np.ndarray:
    """Coefficients (order + 1, N, d) of the gradient flow in powers of the time t; otherwise like ``series``."""
    return _features_series(model, features, labels, order, flow=True)


def series_statistics(
    model: Model, stats: ClassStatistics, order: int = 3, flow: bool = False
) -> StatisticsSeries:
    r"""The same coefficients for the class means and Sigma_W, at a cost that does not grow with the number of samples.

    .. math:: \Sigma_W(H_\tau) = \Sigma_W - \tau\{S, \Sigma_W\} + \dots, \qquad S = W^\top W + \lambda_H I

    Args:
        model: lambda_W and lambda_H; beta is not used.
        stats: statistics of H0; every class needs a sample.
        order: highest power, at least 1.
        flow: coefficients of the gradient flow in t, instead of those of the minimizer in 1/beta.

    Raises:
        ValueError: if order is less than 1 or a class has no samples.
    """
    _checks.instance("model", model, Model)
    _checks.instance("stats", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    variances, basis = linalg.eigh(stats.within, driver="evd")
    F = basis * np.sqrt(np.maximum(variances, 0))
    K, d = stats.K, stats.d
    columns = _Columns(
        Y=np.eye(K, K + d),
        omega=np.append(stats.counts * (K / stats.N), np.full(d, K)),
        model=model,
    )
    X = np.stack(
        columns.solve(np.hstack([stats.means, F]), _checks.positive_integer("order", order), flow)
    )
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
    r"""The gradient g(H) and its derivatives g'[Z], g''[Z, Z], ... up to the given order, (order + 1, N, d).

    .. math::
        g(H) &= N\,\nabla_H L(H) = W^\top E + \lambda_H H, \qquad E = WH - Y, \quad W = W^*(H), \\
        g'[Z] &= W^\top(WZ + \dot W H) + \dot W^\top E + \lambda_H Z, \qquad
        \dot W = -(E Z^\top + W Z H^\top)(HH^\top + \bar n\lambda_W I)^{-1}

    Mixed derivatives follow from g''[Z, V] = (g''[Z + V, Z + V] - g''[Z - V, Z - V]) / 4.

    Args:
        model: lambda_W and lambda_H; beta is not used.
        features: H, (N, d).
        labels: (N,).
        direction: Z, (N, d); needed when order > 0.
        order: highest derivative.

    Raises:
        ValueError: if the direction is missing or its shape is not that of the features.
    """
    columns, H = _sample_columns(model, features, labels)
    if order == 0:
        return columns.gradient([H])[0].T[None]
    _checks.positive_integer("order", order)
    if direction is None:
        raise ValueError(
            f"a derivative of order {order} needs a direction of shape {H.T.shape}, but none is given."
        )
    Z = _checks.as_array("direction", direction, H.T.shape).T
    coefficients = columns.gradient([H, Z] + [np.zeros_like(Z)] * (order - 1))
    factorials = np.cumprod([1.0, *range(1, order + 1)])
    return np.stack([f * G.T for f, G in zip(factorials, coefficients, strict=True)])


class _Columns(NamedTuple):
    """Targets and weights of the columns, and power-series arithmetic for g along a curve X(tau) = sum_k X_k tau^k."""

    Y: np.ndarray
    omega: np.ndarray
    model: Model

    def solve(self, X0, order, flow):
        """Coefficients of the curve with X + tau g(X) = X0, or dX/dt = -g(X)."""
        X = [X0]
        state = _State([], [], [], self._inverse(X0))
        for k in range(order):
            self._extend(state, X)
            X.append(-state.g[k] / (k + 1 if flow else 1))
        return X

    def gradient(self, X):
        """Coefficients of g along a curve with as many given ones."""
        state = _State([], [], [], self._inverse(X[0]))
        for k in range(len(X)):
            self._extend(state, X[: k + 1])
        return state.g

    def _inverse(self, X0):
        T = (X0 * self.omega) @ X0.T
        return linalg.cho_factor(T + self.model.lambda_W * np.eye(len(T)))

    def _extend(self, state, X):
        """One more coefficient of W, E = WX - Y and g, from the stationarity of W: E omega X^T + lambda_W W = 0."""
        k = len(state.W)
        E = sum(
            (W @ X[k - j] for j, W in enumerate(state.W)),
            start=-self.Y if k == 0 else np.zeros_like(self.Y),
        )
        known = (E * self.omega) @ X[0].T + sum(
            (state.E[j] * self.omega) @ X[k - j].T for j in range(k)
        )
        W = -linalg.cho_solve(state.factor, known.T).T
        state.W.append(W)
        state.E.append(E + W @ X[0])
        state.g.append(
            sum(state.W[j].T @ state.E[k - j] for j in range(k + 1)) + self.model.lambda_H * X[k]
        )


class _State(NamedTuple):
    """Coefficients found so far, and the factored matrix X0 omega X0^T + lambda_W I."""

    W: list
    E: list
    g: list
    factor: tuple


def _sample_columns(model, features, labels):
    _checks.instance("model", model, Model)
    H = _checks.as_features(features).astype(float, copy=False).T
    H = _checks.as_array("features", H, H.shape)
    y = _checks.as_labels(labels, H.shape[1])
    K, N = int(y.max()) + 1, H.shape[1]
    return _Columns(np.eye(K)[:, y], np.full(N, K / N), model), H


def _features_series(model, features, labels, order, flow):
    columns, H = _sample_columns(model, features, labels)
    return np.stack([X.T for X in columns.solve(H, _checks.positive_integer("order", order), flow)])
