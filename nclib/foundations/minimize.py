r"""The exact minimizer of the perturbed features model (Eq. 2) from the statistics of its input features alone."""

from dataclasses import dataclass, field
from enum import Enum
from math import sqrt

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from nclib._checks import as_features, as_labels, every_class, finite, instance
from nclib.foundations.model import Model
from nclib.foundations.newton import trust_region_newton
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.statistics import ClassStatistics

GRADIENT_TOLERANCE = 1e-12


class Status(Enum):
    """What the solver reached, as a sentence."""

    CONVERGED = "The relative gradient norm is at most 1e-12."
    NOT_CONVERGED = (
        "The solver stopped, at its iteration limit or at rounding, above the gradient norm 1e-12."
    )


@dataclass(frozen=True)
class Solution:
    r"""A minimizer (W, H) of Eq. 2, with the features kept as statistics.

    Attributes:
        weights: W, (K, d).
        statistics: class statistics of the optimal features H.
        objective: f(W, H; H0).
        gradient_norm: norm of the gradient of the reduced problem relative to that of its terms; the gradient in H
            is zero by construction.
        status: what was reached.
        certified: the residual satisfies :math:`\|WH - Y\|_{op}^2 \le \bar n\lambda_W(\lambda_H+\beta)`, which proves
            that (W, H) is a global minimizer.
        lower_bound: a value that no (W, H) can go below: the objective itself when certified, else the minimum of the
            same problem with K more feature dimensions (minus infinity if that was not found).
        iterations: Newton steps, all starts together.
    """

    weights: np.ndarray
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    status: Status
    certified: bool
    lower_bound: float
    iterations: int
    model: Model = field(repr=False)

    def features(self, features, labels) -> np.ndarray:
        r"""Optimal features (N, d) for input features H0 (N, d): :math:`H = G^{-1}(W^\top Y + \beta H_0)`.

        Raises:
            ValueError: if the shapes or the labels do not fit the weights.
        """
        H0 = finite("features", as_features(features))
        W, model = self.weights, self.model
        if H0.shape[1] != W.shape[1]:
            raise ValueError(
                f"features have {H0.shape[1]} columns, the weights were fitted to d = {W.shape[1]}"
            )
        y = as_labels(labels, H0.shape[0], W.shape[0])
        b = model.lambda_H + model.beta
        A = linalg.solve(W @ W.T + b * np.eye(len(W)), W, assume_a="pos")
        return (model.beta / b) * (H0 - (H0 @ W.T) @ A) + A[y]


def minimize(model: Model, stats: ClassStatistics, max_iterations: int = 200) -> Solution:
    r"""The minimizer of Eq. 2 of Tirer et al. (2023) from the statistics of H0; cost independent of n.

    The features are eliminated exactly and the weights found by a trust-region Newton method. If
    :math:`\lambda_H + \beta \ge 1/\lambda_W` there is one stationary point and one start; otherwise the solver tries
    further starts until the global certificate holds, and returns the lowest minimum found.

    Args:
        model: lambda_W, lambda_H and beta; lambda_H + beta must be positive.
        stats: statistics of H0; every class needs a sample. With unequal counts the model is the one with 1/(2N)
            in front of the three terms in H.
        max_iterations: bound on the Newton steps of each start.

    Returns:
        A Solution; look at ``status`` and ``certified``.

    Raises:
        ValueError: if lambda_H + beta = 0, where no minimizer exists, or a class has no samples.
    """
    instance("model", model, Model)
    instance("stats", stats, ClassStatistics)
    if model.lambda_H + model.beta == 0:
        raise ValueError(
            "lambda_H + beta is 0: without decay or pull the features have no minimizer"
        )
    every_class(stats.counts)
    problem = ReducedProblem.from_statistics(model, stats)
    # The matrices from here on are K x d: more than one BLAS thread costs more than it gives.
    with threadpool_limits(1, user_api="blas"):
        point, lower_bound, iterations = search(problem, max_iterations)
    return solution(model, stats, problem, point, lower_bound, iterations)


def search(problem: ReducedProblem, max_iterations: int):
    """The lowest minimum found, a lower bound on all of them, and the Newton steps taken.

    Starts are tried until one leads to a certified minimum: the optimal weights for H0, a frame aligned with the
    means of H0, and what the global minimum of the padded problem leaves in the original dimensions.
    """
    best, used = trust_region_newton(problem, ridge_start(problem), max_iterations=max_iterations)
    if is_certified(best):
        return best, best.value, used
    point, more = trust_region_newton(problem, frame_start(problem), max_iterations=max_iterations)
    best, used = min(best, point, key=value), used + more
    if is_certified(best):
        return best, best.value, used
    padded, more = solve_padded(problem, best, max_iterations)
    used += more
    lower_bound = padded.value if is_certified(padded, slack=1e-6) else -np.inf
    point, more = trust_region_newton(
        problem, padded.W[:, : -len(padded.W)], max_iterations=max_iterations
    )
    best = min(best, point, key=value)
    return best, best.value if is_certified(best) else lower_bound, used + more


def value(point: Point) -> float:
    """The reduced objective, as a key for comparisons."""
    return point.value


def ridge_start(problem: ReducedProblem):
    """W*(H0) = D Hbar0^T (K Sigma_W + Hbar0 D Hbar0^T + lambda_W)^{-1}, by Woodbury on K x K."""
    weighted = problem.means * np.sqrt(problem.shares)
    scaled = weighted / (problem.spread + problem.model.lambda_W)[:, None]
    inner = np.eye(len(problem.shares)) + weighted.T @ scaled
    return np.sqrt(problem.shares)[:, None] * linalg.solve(inner, scaled.T, assume_a="pos")


def frame_start(problem: ReducedProblem):
    """Weights on the frame nearest to the means of H0, of the norm that a frame of that size calls for.

    Directions in which the means of H0 vanish get a column of the frame all the same: this leaves the saddles that
    equal means or H0 = 0 put in the way.
    """
    lambda_W = problem.model.lambda_W
    Q, a, OT = linalg.svd(problem.means, full_matrices=False)
    h = np.maximum(a, sqrt(lambda_W))
    W = (OT.T * (h / (h**2 + lambda_W))) @ Q.T
    return W


def solve_padded(problem: ReducedProblem, best: Point, max_iterations: int):
    """Global minimum of the problem with K more dimensions, started along the directions that break the certificate."""
    padded = problem.padded()
    excess, U = linalg.eigh(best.residual / (problem.model.lambda_W * problem.b))
    push = 0.1 * np.linalg.norm(best.W, 2) + 0.1 * sqrt(problem.model.lambda_W)
    W = np.hstack([best.W, U * np.where(excess > 1, push, 1e-3 * push)])
    return trust_region_newton(padded, W, GRADIENT_TOLERANCE / 2, max_iterations)


def is_certified(point: Point, slack: float = 1e-10) -> bool:
    """At a stationary point: the residual moment J is at most lambda_W b I, up to a relative slack for rounding."""
    bound = point.problem.model.lambda_W * point.problem.b
    return point.gradient_norm <= GRADIENT_TOLERANCE and point.certificate >= -slack * bound


def solution(model, stats, problem, point, lower_bound, iterations) -> Solution:
    """Back to the original basis: weights, statistics of the optimal features, and the verdict."""
    W, A = point.W @ problem.basis.T, point.A @ problem.basis.T
    # Within a class H = beta G^{-1} H0, with G^{-1} = (I - A^T W) / b.
    left = stats.within - A.T @ (W @ stats.within)
    within = (model.beta / problem.b) ** 2 * (left - (left @ W.T) @ A)
    statistics = ClassStatistics(
        stats.counts, problem.basis @ point.means, (within + within.T) / 2, stats.resolution
    )
    status = Status.CONVERGED if point.gradient_norm <= GRADIENT_TOLERANCE else Status.NOT_CONVERGED
    return Solution(
        W,
        statistics,
        point.value / stats.K,
        point.gradient_norm,
        status,
        is_certified(point),
        lower_bound / stats.K,
        iterations,
        model,
    )
