r"""First-order response of the minimizer of Eq. 2 to its input features (Theorem 4.1, Eqs. 5 and 6).

At a strict local minimizer (W, H), with :math:`G = W^\top W + bI`, :math:`b = \lambda_H + \beta`,
:math:`E = WH - Y`, :math:`\bar n = N/K` and the Hessian :math:`\mathcal A` of the reduced problem in W,

.. math::
    \mathcal A[dW] = -\tfrac{\beta}{\bar n}\left(WG^{-1}dH_0H^\top + E\,dH_0^\top G^{-1}\right), \qquad
    dH = G^{-1}\left(\beta\,dH_0 - W^\top dW\,H - dW^\top E\right).

Only :math:`\mathcal A`, a map on K x d matrices that does not know the number of samples, has to be inverted.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator

from nclib._checks import as_features, as_labels, instance
from nclib.foundations.minimize import Solution
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.perturbation.curvature import Curvature

LARGEST_BLOCK = 4_000_000


class Step(NamedTuple):
    """First-order change of the minimizer: ``weights`` dW (K, d) and ``features`` dH (N, d)."""

    weights: np.ndarray
    features: np.ndarray


class FeatureOperator(LinearOperator):
    """A symmetric linear map of feature changes (N, d), as a SciPy operator on ``changes.ravel()``.

    Subclasses give ``step``. Everything in scipy.sparse.linalg works; no (Nd x Nd) array is formed.

    Attributes:
        weights: (K, d), the weights W of the base point.
        features: (N, d), its features H.
        labels: (N,), class of each sample.
        residual: (N, K), the transpose of E = WH - Y.
    """

    def __init__(self, weights, features, labels):
        self.weights, self.features, self.labels = weights, features, labels
        self.residual = features @ weights.T
        self.residual[np.arange(len(labels)), labels] -= 1
        super().__init__(np.dtype(float), (features.size, features.size))

    def step(self, d_features) -> Step:
        """Changes of weights (K, d) and features (N, d) when H0 changes by ``d_features`` (N, d)."""
        raise NotImplementedError

    def block(self, k: int, j: int) -> np.ndarray:
        """Response of class k to class j as a dense (d n_k, d n_j) array (Eq. 6); for small sizes.

        Raises:
            ValueError: if a class does not exist or the block would have more than four million entries.
        """
        for index in (k, j):
            if index not in range(len(self.weights)):
                raise ValueError(
                    f"there is no class {index}: the classes are 0 to {len(self.weights) - 1}."
                )
        rows, columns = np.flatnonzero(self.labels == k), np.flatnonzero(self.labels == j)
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

    def _matvec(self, x):
        return self.step(x.reshape(self.features.shape)).features.ravel()

    def _adjoint(self):
        return self

    def _checked(self, d_features):
        Z = as_features(d_features, "d_features").astype(float, copy=False)
        if Z.shape != self.features.shape:
            raise ValueError(
                f"d_features has shape {Z.shape}, but the features have {self.features.shape}."
            )
        return Z


class Response(FeatureOperator):
    r"""The response F of the optimal features to the input features, :math:`dH = F\,dH_0` (Theorem 4.1).

    .. math::
        F = \beta\,G^{-1} \otimes I_N + \tfrac{\beta}{\bar n}\,\mathcal D\mathcal A^{-1}\mathcal D^*, \qquad
        \mathcal D[X] = G^{-1}(W^\top X H + X^\top E)

    Made by ``response``. F is symmetric and :math:`F \succeq \beta G^{-1}`. One product costs O(NdK).

    Attributes:
        model: the model.
        curvature: the Hessian of the reduced problem, factored; its ``weight_step`` needs statistics only.
    """

    def __init__(self, solution: Solution, curvature: Curvature, features, labels):
        super().__init__(solution.weights, solution.features(features, labels), labels)
        self.model, self.curvature = solution.model, curvature

    def step(self, d_features) -> Step:
        """Changes of weights (K, d) and features (N, d) when H0 changes by ``d_features`` (N, d).

        Raises:
            TypeError: if the entries are not real numbers.
            ValueError: if the shape is not that of the features, or an entry is not finite.
        """
        Z, W, H, E = self._checked(d_features), self.weights, self.features, self.residual
        beta, b = self.model.beta, self.model.lambda_H + self.model.beta
        N_inverse = linalg.inv(W @ W.T + b * np.eye(len(W)))
        A = N_inverse @ W

        def apply_G_inverse(X):
            return (X - (X @ W.T) @ A) / b

        ZW = Z @ W.T
        moment = N_inverse @ (ZW.T @ H) + apply_G_inverse(E.T @ Z)
        dW = self.curvature.solve(-beta * len(W) / len(H) * finite(moment))
        # With G^{-1} = (I - W^T A) / b every product over the N samples has K columns on one side.
        left, right = (
            np.hstack([-(beta / b) * ZW - H @ dW.T, -E]),
            np.vstack([A, apply_G_inverse(dW)]),
        )
        return Step(dW, add_scaled(left @ right, beta / b, Z))


class LargeBetaResponse(FeatureOperator):
    r"""The response to first order in 1/beta, at the base point H0 and W*(H0) (Eq. 5 of Tirer et al., 2023).

    .. math::
        F = I - \tfrac1\beta\left(\lambda_H I + W^\top W \otimes I_N - Z\right) + O(\beta^{-2}), \qquad
        Z = \mathcal D_0\left[\mathcal D_0^*[\,\cdot\,](HH^\top + \bar n\lambda_WI)^{-1}\right]

    with :math:`\mathcal D_0[X] = W^\top X H + X^\top E`. Made by ``response_large_beta``.
    """

    def __init__(self, model: Model, stats: ClassStatistics, features, labels):
        super().__init__(model.optimal_weights(stats), features, labels)
        self.model = model
        moment = stats.second_moment + model.lambda_W * np.eye(stats.d)
        self.factor = linalg.cho_factor(moment * (stats.N / stats.K))

    def step(self, d_features) -> Step:
        """Changes of W*(H0) (K, d) and of the features (N, d); errors as for ``Response.step``."""
        Z, W, H, E = self._checked(d_features), self.weights, self.features, self.residual
        ZW = Z @ W.T
        dW = -linalg.cho_solve(self.factor, finite(ZW.T @ H + E.T @ Z).T).T
        dH = (np.hstack([ZW + H @ dW.T, E]) / -self.model.beta) @ np.vstack([W, dW])
        return Step(dW, add_scaled(dH, 1 - self.model.lambda_H / self.model.beta, Z))


def response(solution: Solution, features, labels) -> Response:
    r"""The first-order response of a minimizer of Eq. 2 to its input features (Theorem 4.1).

    The result F is a SciPy LinearOperator: ``F @ d_features.ravel()`` is the change of the features, and
    ``F.step(d_features)`` that of weights and features, (K, d) and (N, d). Class sizes may differ.

    Args:
        solution: what ``minimize`` returned for the statistics of these features.
        features: the input features H0, (N, d).
        labels: (N,) integers 0..K-1.

    Raises:
        TypeError: if the features are not real or the labels not integers.
        ValueError: if shapes or labels are wrong, the solution is not a minimizer for these features, or the
            minimizer is degenerate (not a strict local minimum), so that it has no first-order response.
    """
    instance("solution", solution, Solution)
    H0, y, stats = prepare(features, labels)
    return Response(solution, Curvature(solution, stats), H0, y)


def response_large_beta(model: Model, features, labels) -> LargeBetaResponse:
    """The response for large beta, with an error of order 1 / beta^2 (Eq. 5 of Tirer et al., 2023).

    It needs no minimizer: W and E are those of the input features. Arguments as for ``response``.

    Raises:
        TypeError: if the features are not real or the labels not integers.
        ValueError: if shapes or labels are wrong, or beta = 0.
    """
    instance("model", model, Model)
    if model.beta == 0:
        raise ValueError("beta is 0, but Eq. 5 is an expansion for large beta.")
    H0, y, stats = prepare(features, labels)
    return LargeBetaResponse(model, stats, H0, y)


def prepare(features, labels):
    """Checked features in float64, checked labels, and their statistics."""
    H0 = as_features(features).astype(float, copy=False)
    y = as_labels(labels, len(H0))
    return H0, y, ClassStatistics.from_features(H0, y)


def finite(X):
    """X, unless a NaN or an infinity has come in with the change of the features."""
    if not np.isfinite(X).all():
        raise ValueError(
            "d_features must be finite, but it holds NaN, infinity, or numbers that overflow."
        )
    return X


def add_scaled(X, factor, Z, rows=2048):
    """X + factor Z in place, by blocks of rows: no second array of this size."""
    for start in range(0, len(Z), rows):
        X[start : start + rows] += factor * Z[start : start + rows]
    return X
