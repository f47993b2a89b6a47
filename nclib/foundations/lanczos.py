"""The lowest curvature of a function at a point, by Lanczos' method with a preconditioner."""

from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy import linalg

from nclib.foundations.newton import SmoothPoint

MOST_STEPS = 80
FEWEST_STEPS = 15
# The Krylov vectors are kept for reorthogonalization: at most this many numbers.
MOST_NUMBERS = 5e7


class LowestCurvature(NamedTuple):
    """An approximate lowest eigenvalue of the Hessian.

    Attributes:
        value: Curvature along the direction, relative to the preconditioner's. It is a quotient of
            two quadratic forms, so that a negative value proves that the curvature is negative.
        direction: The direction, of the shape of W.
    """

    value: float
    direction: np.ndarray


def lowest_curvature(point: SmoothPoint) -> LowestCurvature:
    r"""The smallest eigenvalue of the Hessian relative to the preconditioner P, and its direction.

    .. math:: \min_X \frac{\langle X, \nabla^2\varphi[X]\rangle}{\langle X, P[X]\rangle}

    P is positive definite, so this has the sign of the Hessian's own smallest eigenvalue; and P is
    so like the Hessian that most eigenvalues are near one, and the few others are found in few
    steps. The start is random (and always the same): a direction that no symmetry of the point
    hides. At most 80 steps, each with one product with the Hessian and one with the preconditioner.

    Args:
        point: The point; of its methods ``hessian`` and ``precondition`` are used.
    """
    size = point.W.size
    most = int(min(MOST_STEPS, size, max(FEWEST_STEPS, MOST_NUMBERS / (2 * size))))
    P_next = np.random.default_rng(0).standard_normal(point.W.shape)
    V_next = point.precondition(P_next)
    norm = sqrt(np.vdot(P_next, V_next))
    # <V[i], PV[j]> is one for i = j and else zero; PV[i] is the preconditioner's map of V[i].
    V: list[np.ndarray] = []
    PV: list[np.ndarray] = []
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        V.append(V_next / norm)
        PV.append(P_next / norm)
        P_next = point.hessian(V[-1])
        diagonal.append(float(np.vdot(V[-1], P_next)))
        for _ in range(2):
            for v, Pv in zip(V, PV, strict=True):
                P_next = P_next - np.vdot(v, P_next) * Pv
        V_next = point.precondition(P_next)
        norm = sqrt(max(np.vdot(P_next, V_next), 0.0))
        value, y = _lowest_pair(diagonal, beside)
        error = norm * abs(y[-1])
        steps = len(V)
        settled = steps >= FEWEST_STEPS and error < 1e-3 * max(value, 0.1)
        if settled or value < -2 * error or norm < 1e-14 or steps == most:
            return LowestCurvature(value, np.tensordot(y, V, axes=1))
        beside.append(norm)


def _lowest_pair(diagonal: list[float], beside: list[float]) -> tuple[float, np.ndarray]:
    """Lowest eigenvalue and eigenvector of a symmetric tridiagonal matrix."""
    if not beside:
        return diagonal[0], np.ones(1)
    values, vectors = linalg.eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))
    return float(values[0]), vectors[:, 0]
