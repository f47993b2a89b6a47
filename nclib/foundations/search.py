"""The search for the lowest minimum of the reduced problem: starts, padding, certificate."""

from math import sqrt
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from scipy import linalg

from nclib.foundations.newton import Descent, trust_region_newton
from nclib.foundations.reduced import Point, ReducedProblem

GRADIENT_TOLERANCE = 1e-12


class Found(NamedTuple):
    """What a search brings back.

    Attributes:
        point: The lowest minimum found.
        lower_bound: A value that the reduced objective cannot go below.
        iterations: Newton steps, all starts together.
    """

    point: Point
    lower_bound: float
    iterations: int


def search(problem: ReducedProblem, max_iterations: int = 200) -> Found:
    """The lowest minimum found, a lower bound on all of them, and the Newton steps taken.

    Starts are tried until one leads to a certified minimum: the optimal weights for H0, a frame
    aligned with the means of H0, and what the global minimum of the padded problem leaves in the
    original dimensions.
    """
    best, used = trust_region_newton(problem, ridge_start(problem), max_iterations=max_iterations)
    if is_certified(best):
        return Found(best, best.value, used)
    point, more = trust_region_newton(problem, _frame_start(problem), max_iterations=max_iterations)
    best, used = min(best, point, key=attrgetter("value")), used + more
    if is_certified(best):
        return Found(best, best.value, used)
    padded, more = _solve_padded(problem, best, max_iterations)
    used += more
    lower_bound = padded.value if is_certified(padded, slack=1e-6) else -np.inf
    point, more = trust_region_newton(
        problem, padded.W[:, : -problem.K], max_iterations=max_iterations
    )
    best = min(best, point, key=attrgetter("value"))
    return Found(best, best.value if is_certified(best) else lower_bound, used + more)


def is_certified(point: Point, slack: float = 1e-10) -> bool:
    """Whether the point is stationary and J at most lambda_W b I, up to a relative slack."""
    bound = point.problem.model.lambda_W * point.problem.b
    return point.gradient_norm <= GRADIENT_TOLERANCE and point.certificate >= -slack * bound


def ridge_start(problem: ReducedProblem) -> np.ndarray:
    r"""The optimal weights for H0, shape (K, d), in the eigenbasis of :math:`\Sigma_W(H_0)`.

    .. math:: W^*(H_0) = D\bar H_0^\top (S + \bar H_0 D\bar H_0^\top + \lambda_W I)^{-1}

    With :math:`S = K\Sigma_W(H_0)` diagonal, Woodbury's identity makes this O(K^2 d).

    Args:
        problem: The reduced problem.

    Examples:
        >>> from nclib import ClassStatistics, Model
        >>> one = ClassStatistics(np.array([1]), np.array([[1.0]]), np.zeros((1, 1)))
        >>> ridge_start(ReducedProblem.from_statistics(Model(1.0, 1.0, 1.0), one))
        array([[0.5]])
    """
    weighted = problem.means * np.sqrt(problem.shares)
    scaled = weighted / (problem.spread + problem.model.lambda_W)[:, None]
    inner = np.eye(problem.K) + weighted.T @ scaled
    return np.sqrt(problem.shares)[:, None] * linalg.solve(inner, scaled.T, assume_a="pos")


def _frame_start(problem: ReducedProblem) -> np.ndarray:
    """Weights on the frame nearest to the means of H0, of the norm that this frame calls for.

    Directions in which the means of H0 vanish get a column of the frame all the same: this leaves
    the saddles that equal means or H0 = 0 put in the way.
    """
    lambda_W = problem.model.lambda_W
    left, a, right = linalg.svd(problem.means, full_matrices=False)
    h = np.maximum(a, sqrt(lambda_W))
    return (right.T * (h / (h**2 + lambda_W))) @ left.T


def _solve_padded(problem: ReducedProblem, best: Point, max_iterations: int) -> Descent[Point]:
    """Minimum of the padded problem, started along the directions that break the certificate."""
    lambda_W = problem.model.lambda_W
    excess, U = linalg.eigh(best.residual_moment / (lambda_W * problem.b))
    push = 0.1 * np.linalg.norm(best.W, 2) + 0.1 * sqrt(lambda_W)
    W = np.hstack([best.W, U * np.where(excess > 1, push, 1e-3 * push)])
    return trust_region_newton(problem.padded(), W, GRADIENT_TOLERANCE / 2, max_iterations)
