r"""The exact minimizer of the perturbed features model (Eq. 2) from statistics alone."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from nclib._checks import as_features, as_labels, every_class, finite, instance
from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.model import Model
from nclib.foundations.reduced import ReducedProblem
from nclib.foundations.search import GRADIENT_TOLERANCE, Found, is_certified, search
from nclib.foundations.statistics import ClassStatistics


class Status(Enum):
    """What the solver reached, as a sentence."""

    CONVERGED = "The relative gradient norm is at most 1e-12."
    NOT_CONVERGED = (
        "The solver stopped, at its iteration limit or at rounding, above the gradient norm 1e-12."
    )


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    r"""A minimizer (W, H) of Eq. 2, with the features kept as statistics.

    Attributes:
        weights: W, shape (K, d).
        statistics: Class statistics of the optimal features H.
        objective: f(W, H; H0).
        gradient_norm: Norm of the gradient of the reduced problem relative to that of its terms;
            the gradient in H is zero by construction.
        status: What was reached.
        certified: The residual satisfies
            :math:`\|WH - Y\|_{op}^2 \le \bar n\lambda_W(\lambda_H+\beta)`, which proves that
            (W, H) is a global minimizer.
        lower_bound: A value that no (W, H) can go below: the objective itself when certified, else
            the minimum of the same problem with K more feature dimensions (minus infinity if that
            was not found).
        iterations: Newton steps, all starts together.
        model: The parameters.
    """

    weights: np.ndarray
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    status: Status
    certified: bool
    lower_bound: float
    iterations: int
    model: Model

    @classmethod
    def from_point(
        cls, problem: ReducedProblem, stats: ClassStatistics, found: Found
    ) -> "Solution":
        """Back to the original basis: weights, statistics of the optimal features, and the verdict.

        Args:
            problem: The reduced problem that was searched.
            stats: The statistics of H0 that it was made from.
            found: What the search brought back.
        """
        point, model = found.point, problem.model
        W, WG = point.W @ problem.basis.T, point.solve.WG @ problem.basis.T
        # Within a class H = beta G^{-1} H0, with G^{-1} = (I - (W G^{-1})^T W) / b.
        left = stats.within - WG.T @ (W @ stats.within)
        within = (model.beta / model.b) ** 2 * (left - (left @ W.T) @ WG)
        statistics = ClassStatistics(
            stats.counts, problem.basis @ point.means, (within + within.T) / 2, stats.resolution
        )
        converged = point.gradient_norm <= GRADIENT_TOLERANCE
        return cls(
            weights=W,
            statistics=statistics,
            objective=point.value / stats.K,
            gradient_norm=point.gradient_norm,
            status=Status.CONVERGED if converged else Status.NOT_CONVERGED,
            certified=is_certified(point),
            lower_bound=found.lower_bound / stats.K,
            iterations=found.iterations,
            model=model,
        )

    @cached_property
    def feature_solve(self) -> FeatureSolve:
        r""":math:`G^{-1}` at the weights, factored when first used."""
        return FeatureSolve(self.weights, self.model.b)

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        r"""Optimal features (N, d) for input features H0 (N, d).

        .. math:: H = G^{-1}(W^\top Y + \beta H_0)

        Args:
            features: H0, shape (N, d), one sample a row.
            labels: Integers 0..K-1, shape (N,).

        Raises:
            ValueError: The shapes or the labels do not fit the weights.
        """
        H0 = finite("features", as_features(features))
        K, d = self.weights.shape
        if H0.shape[1] != d:
            raise ValueError(
                f"features must have d = {d} columns, as the weights, "
                f"but they have {H0.shape[1]} columns."
            )
        y = as_labels(labels, len(H0), K)
        return self.model.beta * self.feature_solve.right(H0) + self.feature_solve.WG[y]

    def __repr__(self) -> str:
        K, d = self.weights.shape
        verdict = "certified" if self.certified else "not certified"
        return (
            f"Solution(K={K}, d={d}, objective={self.objective:.6g}, {self.status.name}, {verdict})"
        )


def minimize(model: Model, stats: ClassStatistics, max_iterations: int = 200) -> Solution:
    r"""The minimizer of Eq. 2 of Tirer et al. (2023) from the statistics of H0.

    The cost does not depend on n. The features are eliminated exactly and the weights found by a
    trust-region Newton method. If :math:`\lambda_H + \beta \ge 1/\lambda_W` there is one
    stationary point and one start; otherwise the solver tries further starts until the global
    certificate holds, and returns the lowest minimum found.

    Args:
        model: The parameters; lambda_H + beta must be greater than zero.
        stats: Statistics of H0; every class needs a sample. With unequal counts the model is the
            one with 1/(2N) in front of the three terms in H.
        max_iterations: Bound on the Newton steps of each start.

    Returns:
        A `Solution`; look at ``status`` and ``certified``.

    Raises:
        ValueError: lambda_H + beta = 0, where no minimizer exists, or a class has no samples.

    Examples:
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(3, 2), 0.1 * np.eye(3))
        >>> minimize(Model(0.1, 0.1, beta=1.0), stats)
        Solution(K=2, d=3, objective=0.146837, CONVERGED, certified)
    """
    instance("model", model, Model)
    instance("stats", stats, ClassStatistics)
    if model.b == 0:
        raise ValueError(
            "lambda_H + beta must be greater than zero, but lambda_H + beta = 0: "
            "without decay or pull the features have no minimizer."
        )
    every_class(stats.counts)
    problem = ReducedProblem.from_statistics(model, stats)
    # The matrices from here on are K x d: more than one BLAS thread costs more than it gives.
    with threadpool_limits(1, user_api="blas"):
        found = search(problem, max_iterations)
    return Solution.from_point(problem, stats, found)
