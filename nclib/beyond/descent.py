"""Minimizing a smooth function of few variables down to rounding.

BFGS finds the valley; Newton steps with a Hessian of differences of the gradient then reach the
bottom. Directions in which nothing changes, such as rotations between two factors, are left alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize

MOST_VARIABLES = 1500  # of a Hessian from differences
FLAT = 1e-7  # curvature relative to the largest, below which a direction counts as one of symmetry


class Evaluation(NamedTuple):
    """A function at a point.

    Attributes:
        value: The function.
        gradient: Its gradient, shape (m,).
        size: Sum of the norms of the terms of the gradient.
    """

    value: float
    gradient: np.ndarray
    size: float


class Bottom(NamedTuple):
    """Where a descent ended.

    Attributes:
        point: The variables, shape (m,).
        value: The function there.
        gradient_norm: Norm of the gradient relative to that of its terms.
    """

    point: np.ndarray
    value: float
    gradient_norm: float


def descend(
    function: Callable[[np.ndarray], Evaluation], start: np.ndarray, tolerance: float = 1e-14
) -> Bottom:
    """A point at which the gradient of a smooth function vanishes up to rounding.

    Args:
        function: Gives value, gradient and size of the gradient's terms at a point.
        start: Shape (m,).
        tolerance: Relative norm of the gradient at which the Newton steps end.

    Examples:
        >>> def bowl(x):
        ...     return Evaluation(float(np.cosh(x[0])), np.sinh(x), 1.0)
        >>> abs(float(descend(bowl, np.array([2.0])).point[0])) < 1e-14
        True
    """

    def pair(x: np.ndarray) -> tuple[float, np.ndarray]:
        here = function(x)
        return here.value, here.gradient

    options = {"gtol": 1e-9 * max(function(start).size, 1e-300), "maxiter": 20 * start.size + 500}
    method = "BFGS" if start.size <= MOST_VARIABLES else "L-BFGS-B"
    x = optimize.minimize(pair, start, jac=True, method=method, options=options).x
    here = function(x)
    for _ in range(8 if start.size <= MOST_VARIABLES else 0):
        if np.linalg.norm(here.gradient) <= tolerance * here.size:
            break
        trial = x + _newton(function, x, here)
        there = function(trial)
        if np.linalg.norm(there.gradient) >= np.linalg.norm(here.gradient):
            break
        x, here = trial, there
    return Bottom(x, here.value, float(np.linalg.norm(here.gradient) / max(here.size, 1e-300)))


def _newton(
    function: Callable[[np.ndarray], Evaluation], x: np.ndarray, here: Evaluation
) -> np.ndarray:
    """The Newton step on the directions that are curved upwards."""
    step = 1e-5 * max(float(np.abs(x).max(initial=0.0)), 1e-3)
    hessian = np.empty((x.size, x.size))
    for i, unit in enumerate(np.eye(x.size)):
        ends = [function(x + sign * step * unit).gradient for sign in (1, -1)]
        hessian[i] = (ends[0] - ends[1]) / (2 * step)
    curvatures, axes = np.linalg.eigh((hessian + hessian.T) / 2)
    curved = curvatures > FLAT * curvatures[-1]
    along = axes[:, curved].T @ here.gradient / curvatures[curved]
    return -axes[:, curved] @ along
