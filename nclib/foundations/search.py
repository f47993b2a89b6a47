r"""The search for the lowest minimum of the reduced problem.

A descent ends at a stationary point. If the certificate holds there, it is a global minimizer and
the search is over. If not, it may be a saddle: where H0 vanishes in a direction, as in dead units,
the gradient keeps weights out that start without any in it. So the search leaves every saddle that
it can find, along unused directions of H0 or along negative curvature, and then tries another
start. By theory, where H0 has K or more vanishing directions (rank(H0) <= d - K), what has no
negative curvature is a global minimizer, and certified.
"""

from collections.abc import Callable
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
from scipy import linalg

from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.lanczos import lowest_curvature
from nclib.foundations.model import Model
from nclib.foundations.newton import decrease, trust_region_newton
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.streaming import EPS

GRADIENT_TOLERANCE = 1e-12
# Relative to the preconditioner, whose quadratic form is like that of the Hessian itself.
CURVATURE_TOLERANCE = 1e-7
# Relative to lambda_W b: rounding in the residual moment.
CERTIFICATE_SLACK = 1e-10
# Relative to the objective: a dual value this close proves the minimum as well as the slack does.
GAP = 1e-11
MOST_ESCAPES = 20

Bound = Literal["dual", "padded"]


class Found(NamedTuple):
    """What a search brings back.

    Attributes:
        point: The lowest minimum found.
        lower_bound: A value that the reduced objective cannot go below.
        iterations: Newton steps, all starts together.
        saddle: Whether the point has a direction of negative curvature all the same.
    """

    point: Point
    lower_bound: float
    iterations: int
    saddle: bool


def search(
    problem: ReducedProblem,
    max_iterations: int = 200,
    start: np.ndarray | None = None,
    bound: Bound = "dual",
    watch: Callable[[Point], object] | None = None,
) -> Found:
    """The lowest minimum found, and a lower bound on all of them.

    Args:
        problem: The reduced problem.
        max_iterations: Bound on the Newton steps of each descent.
        start: Weights for one more start, in the eigenbasis. The lowest start is tried first.
        bound: ``"dual"`` for the best dual value met on the way; ``"padded"`` to solve the padded
            problem too, which sharpens the bound and gives one more start.
        watch: Called with the point before every Newton step.
    """
    run = _Search(problem, max_iterations, watch)
    for W in _starts(problem, start):
        if run.settle(W):
            break
    if bound == "padded" and not is_certified(run.best.point):
        run.pad()
    best = run.best
    certified = is_certified(best.point)
    lower_bound = best.point.value if certified else min(run.bound, best.point.value)
    return Found(best.point, lower_bound, run.iterations, best.saddle)


def is_certified(point: Point) -> bool:
    """Whether the point is stationary and J at most lambda_W b I, or the dual value attained."""
    if point.gradient_norm > GRADIENT_TOLERANCE:
        return False
    slack = CERTIFICATE_SLACK * point.problem.model.lambda_W * point.problem.b
    return point.certificate >= -slack or point.dual_value >= (1 - GAP) * point.value


def ridge_start(problem: ReducedProblem) -> np.ndarray:
    r"""The optimal weights for H0, shape (K, d), in the eigenbasis of :math:`\Sigma_W(H_0)`.

    .. math:: W^*(H_0) = D\bar H_0^\top (S + \bar H_0 D\bar H_0^\top + \lambda_W I)^{-1}

    With :math:`S = K\Sigma_W(H_0)` diagonal this costs O(K^2 d): scaled by the root of
    :math:`S + \lambda_W I` it is a `FeatureSolve`.

    Args:
        problem: The reduced problem.

    Examples:
        >>> from nclib import ClassStatistics, Model
        >>> one = ClassStatistics(np.array([1]), np.array([[1.0]]), np.zeros((1, 1)))
        >>> ridge_start(ReducedProblem.from_statistics(Model(1.0, 1.0, 1.0), one))
        array([[0.5]])
    """
    root = np.sqrt(problem.shares)[:, None]
    scale = np.sqrt(problem.spread + problem.model.lambda_W)
    return root * FeatureSolve(root * problem.means.T / scale, 1.0).WG / scale


def frame_start(problem: ReducedProblem) -> np.ndarray:
    r"""Weights of the minimizer, shape (K, d), if H0 had no spread; exact for balanced classes.

    With the singular value decomposition :math:`\bar H_0 D^{1/2} = Q \operatorname{diag}(a) O^\top`
    the optimal means keep Q and O, and have the radii h of `_radii`. For weak pull this is the
    frame nearest to H0, from which a descent need not turn. With unequal classes that frame has
    other lengths, and the lower of two starts is returned.

    Args:
        problem: The reduced problem.
    """
    lambda_W, b, root = problem.model.lambda_W, problem.b, np.sqrt(problem.shares)
    Q, a, O = linalg.svd(problem.means * root, full_matrices=False)
    h = _radii(problem.model, a)
    start = root[:, None] * (O.T * (h / (h**2 + lambda_W))) @ Q.T
    if np.ptp(problem.shares) == 0:
        return start
    # Without pull class k has the collapse parameter c_k, a squared radius (1 - c_k) c_k / b and
    # squared weights (1 - c_k) b / c_k; the frame is turned towards H0 by a polar decomposition.
    c = np.minimum(np.sqrt(lambda_W * b / problem.shares), 1)
    Q, _, O = linalg.svd(
        problem.means * (problem.shares * np.sqrt((1 - c) * c)), full_matrices=False
    )
    free = (np.sqrt((1 - c) * b / c)[:, None] * O.T) @ Q.T
    return min(start, free, key=lambda W: problem.at(W).value)


def _radii(model: Model, a: np.ndarray) -> np.ndarray:
    r"""The largest root h of :math:`bh - \lambda_W h/(h^2+\lambda_W)^2 = \beta a`, by bisection."""
    B, p = model.lambda_W * model.b, model.beta * sqrt(model.lambda_W) * a
    # In units of sqrt(lambda_W) the left side is B x - x / (1 + x^2)^2. It rises from its largest
    # zero on.
    low = np.full(len(a), sqrt(max(1 / sqrt(B) - 1, 0)))
    high = low + (p + 1) / B
    for _ in range(100):
        x = (low + high) / 2
        below = (B - 1 / (1 + x**2) ** 2) * x < p
        low, high = np.where(below, x, low), np.where(below, high, x)
    return sqrt(model.lambda_W) * low


def _starts(problem: ReducedProblem, start: np.ndarray | None) -> list[np.ndarray]:
    """What was given and the library's own starts, the lowest first."""
    starts = [ridge_start(problem)]
    if problem.model.lambda_W * problem.b < 1:  # else one stationary point, and any start will do
        starts.append(frame_start(problem))
    if start is not None:
        starts.append(start)
    return sorted(starts, key=lambda W: problem.at(W).value)


class _Settled(NamedTuple):
    """Where a descent ended that left all saddles it could, and whether one is left."""

    point: Point
    saddle: bool


class _Search:
    """The descents of one search, with what they share: the best end, the bound, the step count."""

    def __init__(
        self,
        problem: ReducedProblem,
        max_iterations: int,
        watch: Callable[[Point], object] | None,
    ):
        self.problem, self.max_iterations, self.watch = problem, max_iterations, watch
        self.ends: list[_Settled] = []
        self.iterations = 0
        self.bound = -np.inf

    @property
    def best(self) -> _Settled:
        """A certified end; else the lowest, and among equals one that converged."""
        lowest = min(end.point.value for end in self.ends)

        def rank(end: _Settled) -> tuple[bool, bool, bool, float]:
            point = end.point
            higher = point.value > lowest + 1e-12 * abs(lowest)
            unfinished = point.gradient_norm > GRADIENT_TOLERANCE
            return not is_certified(point), higher, unfinished, point.value

        return min(self.ends, key=rank)

    def descend(self, problem: ReducedProblem, W: np.ndarray) -> Point:
        """The end of one descent."""
        point, iterations = trust_region_newton(
            problem, W, max_iterations=self.max_iterations, watch=self.watch
        )
        self.iterations += iterations
        self.bound = max(self.bound, point.dual_value)
        return point

    def settle(self, W: np.ndarray) -> bool:
        """Descend from W, and on from every saddle; whether the end is certified."""
        for _ in range(MOST_ESCAPES):
            point = self.descend(self.problem, W)
            beyond = None if self._is_end(point) else _beyond_saddle(point)
            if beyond is None:
                self.ends.append(_Settled(point, saddle=False))
                return is_certified(point)
            W = beyond
        self.ends.append(_Settled(point, saddle=True))
        return False

    def _is_end(self, point: Point) -> bool:
        """Whether no search for negative curvature is needed, or there has been one."""
        if is_certified(point) or point.gradient_norm > GRADIENT_TOLERANCE:
            return True
        known = [end.point.value for end in self.ends if not end.saddle]
        return any(abs(point.value - value) <= 1e-12 * abs(value) for value in known)

    def pad(self) -> None:
        """Solve the padded problem from the best end; descend from what fits into H0's space."""
        K, padded = self.problem.K, self.problem.padded()
        W = np.hstack([self.best.point.W, np.zeros((K, K))])
        point = padded.at(W)
        for _ in range(MOST_ESCAPES):
            opened = _open(point)
            if opened is None:
                break
            point = self.descend(padded, opened)
        self.settle(_folded(self.problem, point.W))


def _beyond_saddle(point: Point) -> np.ndarray | None:
    """Weights from which the descent goes on, or None at a point without negative curvature."""
    opened = _open(point)
    if opened is not None:
        return opened
    curvature = lowest_curvature(point)
    if curvature.value >= -CURVATURE_TOLERANCE:
        return None
    return _downhill(point, curvature.direction)


def _open(point: Point) -> np.ndarray | None:
    r"""Lower weights that use vanishing directions of H0, if any are free and J is too large.

    For a unit vector p with :math:`H_0^\top p = 0` and :math:`Wp = 0`, and an eigenvector u of J
    with eigenvalue j and :math:`\gamma = u^\top\Gamma u`,

    .. math::
        \varphi(W + t\,up^\top) = \varphi(W)
        + \tfrac12\left(\lambda_W t^2 - \frac{j\,t^2}{b + \gamma t^2}\right),

    which is lowest at :math:`t^2 = \tfrac b\gamma\left(\sqrt{j/(\lambda_Wb)} - 1\right)` if j
    exceeds :math:`\lambda_Wb`, that is, where the certificate fails.
    """
    problem = point.problem
    limit = problem.model.lambda_W * problem.b
    vanishing = problem.zero_directions
    _, s, right = linalg.svd(point.W @ vanishing)
    used = int(np.sum(s > 1e-8 * linalg.norm(point.W)))
    unused = vanishing @ right[used:].T
    j, U = linalg.eigh(point.residual_moment)
    excess = int(np.sum(j > (1 + CERTIFICATE_SLACK) * limit))
    most = min(excess, unused.shape[1])
    if most == 0:
        return None
    for count in (most, 1):
        top, columns = j[::-1][:count], U[:, ::-1][:, :count]
        gamma = np.sum(columns * (point.solve.Gamma @ columns), axis=0)
        t = np.sqrt(problem.b / gamma * (np.sqrt(top / limit) - 1))
        W: np.ndarray = point.W + (columns * t) @ unused[:, :count].T
        if problem.at(W).value < point.value:
            return W
    return None


def _downhill(point: Point, direction: np.ndarray) -> np.ndarray | None:
    """The first lower point along a direction of negative curvature, from long steps to short."""
    size = max(float(linalg.norm(point.W)), sqrt(point.problem.model.lambda_W))
    direction = direction * (size / linalg.norm(direction))
    for halvings in range(0, 40, 2):
        steps = (sign * 0.5**halvings * direction for sign in (1, -1))
        gain, trial = max(
            ((decrease(point, trial), trial) for trial in map(point.moved, steps)),
            key=lambda pair: pair[0],
        )
        if gain > 4 * EPS * abs(point.value):
            return trial.W
    return None


def _folded(problem: ReducedProblem, W: np.ndarray) -> np.ndarray:
    """Padded weights in the original space: the largest part of their new columns that fits.

    New columns may be turned into directions in which H0 vanishes at no cost.
    """
    d = len(problem.spread)
    vanishing = problem.zero_directions
    inside = W[:, :d] @ vanishing
    U, s, _ = linalg.svd(np.hstack([inside, W[:, d:]]), full_matrices=False)
    z = min(vanishing.shape[1], len(s))
    turned = (U[:, :z] * s[:z]) @ vanishing[:, :z].T
    return W[:, :d] - inside @ vanishing.T + turned
