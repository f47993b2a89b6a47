r"""First-order response of the minimizer of Eq. 2 to its input features (Theorem 4.1, Eqs. 5, 6).

At a nondegenerate minimizer (W, H), with :math:`G = W^\top W + bI`, :math:`b = \lambda_H + \beta`,
:math:`E = WH - Y`, :math:`\bar n = N/K` and the Hessian :math:`\mathcal A` of the reduced problem
in W,

.. math::
    \mathcal A[dW] &= -\tfrac{\beta}{\bar n}
    \left(WG^{-1}dH_0H^\top + E\,dH_0^\top G^{-1}\right), \\
    dH &= G^{-1}\left(\beta\,dH_0 - W^\top dW\,H - dW^\top E\right).

Only :math:`\mathcal A`, a map on K x d matrices that does not know the number of samples, has to
be inverted.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator

from nclib._checks import as_features, as_labels, instance
from nclib.foundations.minimize import Solution
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.weight_solve import WeightSolve
from nclib.perturbation.curvature import Curvature

LARGEST_BLOCK = 4_000_000  # entries
_ROWS = 2048  # samples to which the direct part is added at a time


class Step(NamedTuple):
    """First-order change of the minimizer.

    Attributes:
        weights: dW, shape (K, d).
        features: dH, shape (N, d).
    """

    weights: np.ndarray
    features: np.ndarray


class FeatureOperator(LinearOperator):
    """Symmetric linear map of feature changes (N, d), as a SciPy operator on ``changes.ravel()``.

    Subclasses give ``step``. Everything in scipy.sparse.linalg works; no (Nd x Nd) array is formed.

    Attributes:
        weights: The weights W of the base point, shape (K, d).
        features: Its features H, shape (N, d).
        labels: Class of each sample, shape (N,).
        residual: The transpose of E = WH - Y, shape (N, K).
    """

    def __init__(self, weights: np.ndarray, features: np.ndarray, labels: np.ndarray):
        self.weights = weights
        self.features = features
        self.labels = labels
        self.residual = features @ weights.T
        self.residual[np.arange(len(labels)), labels] -= 1
        super().__init__(np.dtype(float), (features.size, features.size))

    def step(self, d_features: ArrayLike) -> Step:
        """Changes of weights (K, d) and features (N, d) when H0 changes.

        Args:
            d_features: The change of H0, shape (N, d).

        Raises:
            TypeError: The entries are not real numbers.
            ValueError: The shape is not that of the features, or an entry is not finite.
        """
        raise NotImplementedError

    def block(self, k: int, j: int) -> np.ndarray:
        """Response of class k to class j as a dense (d n_k, d n_j) array (Eq. 6).

        For small sizes: each column is one product with the operator.

        Args:
            k: The class that responds.
            j: The class that changes.

        Raises:
            ValueError: A class does not exist, or the block would have more than four million
                entries.
        """
        for index in (k, j):
            if index not in range(len(self.weights)):
                raise ValueError(
                    f"there is no class {index}: the classes are 0 to {len(self.weights) - 1}."
                )
        rows = np.flatnonzero(self.labels == k)
        columns = np.flatnonzero(self.labels == j)
        d = self.features.shape[1]
        shape = (rows.size * d, columns.size * d)
        if shape[0] * shape[1] > LARGEST_BLOCK:
            raise ValueError(
                f"a dense block of shape {shape} is too large; apply the operator instead."
            )
        block = np.empty(shape)
        for i, (sample, axis) in enumerate(np.ndindex(columns.size, d)):
            unit = np.zeros_like(self.features)
            unit[columns[sample], axis] = 1
            block[:, i] = self.step(unit).features[rows].ravel()
        return block

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.step(x.reshape(self.features.shape)).features.ravel()

    def _adjoint(self) -> "FeatureOperator":
        return self

    def _checked(self, d_features: ArrayLike) -> np.ndarray:
        Z = as_features(d_features, "d_features").astype(float, copy=False)
        if Z.shape != self.features.shape:
            raise ValueError(
                f"d_features must have the shape of the features, {self.features.shape}, "
                f"but it has {Z.shape}."
            )
        return Z


class Response(FeatureOperator):
    r"""The response F of the optimal features to the input features, :math:`dH = F\,dH_0`.

    .. math::
        F = \beta\,I_N \otimes G^{-1}
        + \tfrac{\beta}{\bar n}\,\mathcal D\mathcal A^{-1}\mathcal D^*, \qquad
        \mathcal D[X] = G^{-1}(W^\top X H + X^\top E)

    Made by ``response`` (Theorem 4.1). F is symmetric and :math:`F \succeq \beta\,I_N \otimes
    G^{-1}`. One product costs O(NdK).

    Attributes:
        model: The parameters.
        curvature: The Hessian of the reduced problem, factored; its ``weight_step`` needs
            statistics only.
    """

    def __init__(
        self, solution: Solution, curvature: Curvature, features: np.ndarray, labels: np.ndarray
    ):
        super().__init__(solution.weights, solution.features(features, labels), labels)
        self.model = solution.model
        self.curvature = curvature
        self._solve = solution.feature_solve

    def step(self, d_features: ArrayLike) -> Step:
        """Changes of weights (K, d) and features (N, d) when H0 changes.

        Args:
            d_features: The change of H0, shape (N, d).

        Raises:
            TypeError: The entries are not real numbers.
            ValueError: The shape is not that of the features, or an entry is not finite.
        """
        Z = self._checked(d_features)
        W, H, E = self.weights, self.features, self.residual
        beta, b = self.model.beta, self.model.b
        solve = self._solve
        ZW = Z @ W.T
        # W G^{-1} dH0 H^T = (W W^T + b I)^{-1} W dH0 H^T, and Gamma is b times that inverse.
        moment = solve.Gamma @ (ZW.T @ H) / b + solve.right(E.T @ Z)
        dW = self.curvature.solve(-beta * len(W) / len(H) * _finite(moment))
        # With G^{-1} = (I - W^T W G^{-1}) / b every product over the N samples has K columns on
        # one side.
        left = np.hstack([-(beta / b) * ZW - H @ dW.T, -E])
        right = np.vstack([solve.WG, solve.right(dW)])
        return Step(dW, _add_scaled(left @ right, beta / b, Z))


class LargeBetaResponse(FeatureOperator):
    r"""The response to first order in 1/beta, at the base point H0 and W*(H0).

    .. math::
        F &= I - \tfrac1\beta\left(\lambda_H I + I_N \otimes W^\top W - \mathcal D_0\mathcal D_0^*
        (HH^\top + \bar n\lambda_WI)^{-1}\right) + O(\beta^{-2}), \\
        \mathcal D_0[X] &= W^\top X H + X^\top E

    Made by ``response_large_beta`` (Eq. 5 of Tirer et al., 2023).

    Attributes:
        model: The parameters.
    """

    def __init__(
        self, model: Model, stats: ClassStatistics, features: np.ndarray, labels: np.ndarray
    ):
        super().__init__(model.optimal_weights(stats), features, labels)
        self.model = model
        self._solve = WeightSolve(stats.second_moment, model.lambda_W)

    def step(self, d_features: ArrayLike) -> Step:
        """Changes of W*(H0) (K, d) and of the features (N, d) when H0 changes.

        Args:
            d_features: The change of H0, shape (N, d).

        Raises:
            TypeError: The entries are not real numbers.
            ValueError: The shape is not that of the features, or an entry is not finite.
        """
        Z = self._checked(d_features)
        W, H, E = self.weights, self.features, self.residual
        ZW = Z @ W.T
        moment = _finite(ZW.T @ H + E.T @ Z) * (len(W) / len(H))
        dW = -self._solve.right(moment)
        dH = (np.hstack([ZW + H @ dW.T, E]) / -self.model.beta) @ np.vstack([W, dW])
        return Step(dW, _add_scaled(dH, 1 - self.model.lambda_H / self.model.beta, Z))


def response(solution: Solution, features: ArrayLike, labels: ArrayLike) -> Response:
    """First-order response of a minimizer of Eq. 2 to its input features (Theorem 4.1).

    The result F is a SciPy LinearOperator: ``F @ d_features.ravel()`` is the change of the
    features, and ``F.step(d_features)`` that of weights and features, (K, d) and (N, d). Class
    sizes may differ.

    Args:
        solution: What ``minimize`` returned for the statistics of these features.
        features: The input features H0, shape (N, d).
        labels: Integers 0..K-1, shape (N,).

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: Shapes or labels are wrong, the solution is not a minimizer for these features,
            or the minimizer is degenerate (the Hessian is singular), so that it has no
            first-order response.

    Examples:
        >>> import numpy as np
        >>> from nclib import ClassStatistics, Model, minimize
        >>> H0, y = np.eye(2, 3).repeat(2, axis=0), np.array([0, 0, 1, 1])
        >>> model = Model(lambda_W=0.2, lambda_H=0.2, beta=1.0)
        >>> F = response(minimize(model, ClassStatistics.from_features(H0, y)), H0, y)
        >>> F.step(np.ones((4, 3))).features.shape
        (4, 3)
    """
    instance("solution", solution, Solution)
    H0, y, stats = _labeled(features, labels)
    return Response(solution, Curvature(solution, stats), H0, y)


def response_large_beta(model: Model, features: ArrayLike, labels: ArrayLike) -> LargeBetaResponse:
    r"""Response for large beta, with an error of order :math:`\beta^{-2}` (Eq. 5).

    It needs no minimizer: W and E are those of the input features.

    Args:
        model: The parameters; beta must be greater than zero.
        features: The input features H0, shape (N, d).
        labels: Integers 0..K-1, shape (N,).

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: Shapes or labels are wrong, or beta = 0.

    Examples:
        >>> import numpy as np
        >>> from nclib import Model
        >>> F = response_large_beta(Model(0.1, 0.1, 50.0), np.eye(2, 3), [0, 1])
        >>> F.shape
        (6, 6)
    """
    instance("model", model, Model)
    if model.beta == 0:
        raise ValueError("beta must be greater than zero for Eq. 5, but beta = 0.")
    H0, y, stats = _labeled(features, labels)
    return LargeBetaResponse(model, stats, H0, y)


class _Labeled(NamedTuple):
    features: np.ndarray
    labels: np.ndarray
    stats: ClassStatistics


def _labeled(features: ArrayLike, labels: ArrayLike) -> _Labeled:
    """Checked features in float64, checked labels, and their statistics."""
    H0 = as_features(features).astype(float, copy=False)
    y = as_labels(labels, len(H0))
    return _Labeled(H0, y, ClassStatistics.from_features(H0, y))


def _finite(X: np.ndarray) -> np.ndarray:
    """X, unless a NaN or an infinity has come in with the change of the features."""
    if not np.isfinite(X).all():
        raise ValueError(
            "d_features must be finite, but it holds NaN, infinity, or numbers that overflow."
        )
    return X


def _add_scaled(X: np.ndarray, factor: float, Z: np.ndarray) -> np.ndarray:
    """X + factor Z in place, by blocks of rows: no second array of this size."""
    for start in range(0, len(Z), _ROWS):
        X[start : start + _ROWS] += factor * Z[start : start + _ROWS]
    return X
