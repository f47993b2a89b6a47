"""Trust-region Newton method with preconditioned conjugate gradients (Nocedal and Wright, 2006, chapter 7).

Written for functions whose value cancels to rounding near the minimum: there the decrease is measured from the
gradients at both ends of the step, not from two nearly equal values, so the gradient goes down to machine precision.
"""

from math import sqrt

import numpy as np


def inner(X, Y) -> float:
    """Frobenius inner product."""
    return float(np.vdot(X, Y))


def trust_region_newton(problem, W, tolerance=1e-14, max_iterations=200):
    """Minimize a smooth function from W and return the last point.

    Args:
        problem: has ``at(W)``, a point with ``value``, ``gradient``, relative ``gradient_norm``, ``hessian(X)``
            and ``precondition(R)``.
        W: start.
        tolerance: stop when the relative gradient norm is at most this, or can no longer be reduced.
        max_iterations: bound on the number of Newton steps tried.

    Returns:
        (point, iterations).
    """
    point = problem.at(W)
    radius, stalled = None, 0
    for iteration in range(max_iterations):
        if point.gradient_norm <= tolerance or stalled >= 4:
            return point, iteration
        step, model_decrease, norm, at_boundary, radius = newton_step(point, radius)
        trial = problem.at(point.W + step)
        agreement = decrease(point, trial, step) / model_decrease if model_decrease > 0 else -1.0
        if agreement < 0.25:
            radius = 0.25 * norm
        elif agreement > 0.75 and at_boundary:
            radius = 2 * radius
        accepted = agreement > 1e-4
        # At the floor set by rounding neither value nor gradient improves any more: keep the smaller gradient, give up.
        at_floor = point.gradient_norm < 1e-12
        if at_floor:
            accepted = trial.gradient_norm < point.gradient_norm
            stalled += trial.gradient_norm > 0.5 * point.gradient_norm
        elif norm <= 1e-15 * np.linalg.norm(point.W):
            return point, iteration
        if accepted:
            point = trial
    return point, max_iterations


def decrease(point, trial, step) -> float:
    """Value at point minus value at trial: by difference, or by the trapezoidal rule where the difference cancels."""
    difference = point.value - trial.value
    if abs(difference) > 1e-7 * abs(point.value):
        return difference
    return -0.5 * inner(point.gradient + trial.gradient, step)


def newton_step(point, radius, max_iterations=500):
    """Steihaug's truncated CG step for the quadratic model, inside ``radius`` in the norm of the preconditioner.

    Returns:
        (step, decrease of the quadratic model, norm of the step, whether it ends on the boundary, radius).
    """
    g = point.gradient
    forcing = min(0.1, sqrt(point.gradient_norm)) * np.linalg.norm(g)
    s, r = np.zeros_like(g), -g
    z = point.precondition(r)
    p, rz = z, inner(r, z)
    if radius is None:
        radius = 4 * sqrt(rz)
    # Inner products in the preconditioner's metric follow by recurrence; no product with it is needed.
    ss, sp, pp = 0.0, 0.0, rz
    Hs = np.zeros_like(g)
    at_boundary = False
    for _ in range(max_iterations):
        Hp = point.hessian(p)
        curvature = inner(p, Hp)
        alpha = rz / curvature if curvature > 0 else np.inf
        if ss + 2 * alpha * sp + alpha**2 * pp >= radius**2 or curvature <= 0:
            alpha = (-sp + sqrt(max(sp**2 + pp * (radius**2 - ss), 0.0))) / pp
            at_boundary = True
        s, Hs, r = s + alpha * p, Hs + alpha * Hp, r - alpha * Hp
        ss = ss + 2 * alpha * sp + alpha**2 * pp
        if at_boundary or np.linalg.norm(r) <= forcing:
            break
        z = point.precondition(r)
        rz, previous = inner(r, z), rz
        ratio = rz / previous
        p, sp, pp = z + ratio * p, ratio * (sp + alpha * pp), rz + ratio**2 * pp
    return s, -inner(g, s) - 0.5 * inner(s, Hs), sqrt(max(ss, 0.0)), at_boundary, radius
