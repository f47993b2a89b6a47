"""Trust-region Newton method with preconditioned conjugate gradients.

Nocedal and Wright (2006), chapter 7. Written for functions whose value cancels to rounding near the
minimum: there the decrease is measured from the gradients at both ends of the step, not from two
nearly equal values, so the gradient goes down to machine precision.
"""

from collections.abc import Callable
from math import sqrt
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np


class SmoothPoint(Protocol):
    """What the method needs to know at one W."""

    W: np.ndarray

    @property
    def value(self) -> float:
        """The function."""

    @property
    def gradient(self) -> np.ndarray:
        """Its gradient."""

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient relative to that of its terms."""

    def hessian(self, X: np.ndarray) -> np.ndarray:
        """Product of the Hessian with X."""

    def precondition(self, R: np.ndarray) -> np.ndarray:
        """An approximate solution X of ``hessian(X) = R``, by a positive definite symmetric map."""

    def moved(self, step: np.ndarray) -> Self:
        """The point W + step, or a better one that differs from it to second order in the step."""


P = TypeVar("P", bound=SmoothPoint)
P_out = TypeVar("P_out", bound=SmoothPoint, covariant=True)


class SmoothProblem(Protocol[P_out]):
    """A smooth function of a matrix."""

    def at(self, W: np.ndarray) -> P_out:
        """The point W."""


class Descent(NamedTuple, Generic[P]):
    """Where a descent ended.

    Attributes:
        point: The last point.
        iterations: Newton steps tried.
    """

    point: P
    iterations: int


class _Step(NamedTuple):
    """A step and what the quadratic model says of it; the norm is the preconditioner's."""

    step: np.ndarray
    model_decrease: float
    norm: float
    at_boundary: bool
    radius: float


def trust_region_newton(
    problem: SmoothProblem[P],
    W: np.ndarray,
    tolerance: float = 1e-14,
    max_iterations: int = 200,
    watch: Callable[[P], object] | None = None,
) -> Descent[P]:
    """Minimize a smooth function from W and return the last point.

    Args:
        problem: A `ReducedProblem`, or anything with ``at(W)``, a point with ``value``,
            ``gradient``, relative ``gradient_norm``, ``hessian(X)`` and ``precondition(R)``.
        W: Start.
        tolerance: Stop when the relative gradient norm is at most this, or can no longer be
            reduced.
        max_iterations: Bound on the number of Newton steps tried.
        watch: Called with the point before every step.

    Returns:
        The last point and the number of steps, a pair ``(point, iterations)``.

    Examples:
        >>> from nclib import ClassStatistics, Model, ReducedProblem
        >>> one = ClassStatistics(np.array([1]), np.array([[1.0]]), np.zeros((1, 1)))
        >>> problem = ReducedProblem.from_statistics(Model(0.1, 0.1, beta=0.5), one)
        >>> point, iterations = trust_region_newton(problem, np.array([[1.0]]))
        >>> point.gradient_norm < 1e-14
        True
    """
    point = problem.at(W)
    radius, stalled = None, 0
    for iteration in range(max_iterations):
        if point.gradient_norm <= tolerance or stalled >= 4:
            return Descent(point, iteration)
        if watch is not None:
            watch(point)
        step, model_decrease, norm, at_boundary, radius = _newton_step(point, radius)
        trial = point.moved(step)
        gain = decrease(point, trial)
        agreement = gain / model_decrease if model_decrease > 0 else -1.0
        if agreement < 0.25:
            radius = 0.25 * norm
        elif agreement > 0.75 and at_boundary:
            radius = 2 * radius
        accepted = agreement > 1e-4
        # At the floor set by rounding neither value nor gradient improves any more: keep the
        # smaller gradient, give up.
        at_floor = point.gradient_norm < 1e-12
        if at_floor:
            accepted = trial.gradient_norm < point.gradient_norm
            stalled += trial.gradient_norm > 0.5 * point.gradient_norm
        elif norm <= 1e-15 * np.linalg.norm(point.W):
            return Descent(point, iteration)
        if accepted:
            point = trial
    return Descent(point, max_iterations)


def decrease(point: SmoothPoint, trial: SmoothPoint) -> float:
    """Value at point minus value at trial; by the trapezoidal rule where the difference cancels."""
    difference = point.value - trial.value
    if abs(difference) > 1e-7 * abs(point.value):
        return difference
    return -0.5 * _inner(point.gradient + trial.gradient, trial.W - point.W)


def _newton_step(point: SmoothPoint, radius: float | None, max_iterations: int = 500) -> _Step:
    """Steihaug's truncated CG step, inside ``radius`` in the norm of the preconditioner."""
    g = point.gradient
    forcing = min(0.1, sqrt(point.gradient_norm)) * np.linalg.norm(g)
    s, r = np.zeros_like(g), -g
    z = point.precondition(r)
    p, rz = z, _inner(r, z)
    if radius is None:
        radius = 4 * sqrt(rz)
    # Inner products in the preconditioner's metric follow by recurrence; no product with it is
    # needed.
    ss, sp, pp = 0.0, 0.0, rz
    Hs = np.zeros_like(g)
    at_boundary = False
    for _ in range(max_iterations):
        Hp = point.hessian(p)
        curvature = _inner(p, Hp)
        alpha = rz / curvature if curvature > 0 else np.inf
        if ss + 2 * alpha * sp + alpha**2 * pp >= radius**2 or curvature <= 0:
            alpha = (-sp + sqrt(max(sp**2 + pp * (radius**2 - ss), 0.0))) / pp
            at_boundary = True
        s, Hs, r = s + alpha * p, Hs + alpha * Hp, r - alpha * Hp
        ss = ss + 2 * alpha * sp + alpha**2 * pp
        if at_boundary or np.linalg.norm(r) <= forcing:
            break
        z = point.precondition(r)
        rz, previous = _inner(r, z), rz
        ratio = rz / previous
        p, sp, pp = z + ratio * p, ratio * (sp + alpha * pp), rz + ratio**2 * pp
    return _Step(s, -_inner(g, s) - 0.5 * _inner(s, Hs), sqrt(max(ss, 0.0)), at_boundary, radius)


def _inner(X: np.ndarray, Y: np.ndarray) -> float:
    """Frobenius inner product."""
    return float(np.vdot(X, Y))
