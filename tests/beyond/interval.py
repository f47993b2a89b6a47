"""Proofs in interval arithmetic: a stationary point in a box, a definite matrix.

Numbers are balls of Arb (python-flint): every operation returns a ball that holds the exact result,
so an inequality between two balls that do not overlap is a theorem.
"""

from collections.abc import Callable

import flint
import numpy as np
from flint import arb, arb_mat, arb_series

flint.ctx.prec = 120
flint.ctx.cap = 2  # series to first order: a value and one derivative


def ball(text: str) -> arb:
    """The ball around a number in decimals."""
    return arb(text)


def balls(rows) -> np.ndarray:
    """An array of balls from numbers, exact where these are integers or binary fractions."""
    return np.vectorize(arb, otypes=[object])(np.asarray(rows, dtype=object))


def jacobian(F: Callable, x: np.ndarray) -> np.ndarray:
    """Derivatives of F (m numbers to m numbers) on the box x, column by column."""
    columns = []
    for j in range(len(x)):
        lifted = np.array([arb_series([v, int(i == j)]) for i, v in enumerate(x)], dtype=object)
        columns.append([value[1] for value in F(lifted)])
    return np.array(columns, dtype=object).T


def stationary(F: Callable, start, radius: str = "1e-25") -> np.ndarray:
    """Balls that hold a zero of F, near a start from floating-point numbers.

    The operator of Krawczyk (1969): with C close to the inverse of the derivative at the midpoint
    m, if

        m - C F(m) + (I - C F'(X)) (X - m)

    lies in the interior of the box X, then X holds one zero of F, and the operator's value holds it
    too.

    Raises:
        AssertionError: The inclusion could not be shown.
    """
    m = balls(np.asarray(start, dtype=float).tolist())
    for _ in range(6):  # Newton steps to the full precision
        J = arb_mat(jacobian(F, m).tolist())
        step = J.solve(arb_mat([[v] for v in F(m)]))
        m = np.array([(v - step[i, 0]).mid() for i, v in enumerate(m)], dtype=object)
    inverse = arb_mat(jacobian(F, m).tolist()).inv()
    C = np.array([[c.mid() for c in row] for row in inverse.tolist()], dtype=object)
    width = arb(0, float(radius))
    box = np.array([v + width for v in m], dtype=object)
    rest = balls(np.eye(len(m)).tolist()) - C.dot(jacobian(F, box))
    image = m - C.dot(np.array(list(F(m)), dtype=object)) + rest.dot(box - m)
    for inner, outer in zip(image, box, strict=True):
        assert outer.contains_interior(inner), "the operator does not map the box into itself"
    return image


def definite(A: np.ndarray) -> bool:
    """Whether the pivots of the balls A are positive: every matrix in them is then definite."""
    A = A.copy()
    for i in range(len(A)):
        if not A[i, i] > 0:
            return False
        for j in range(i + 1, len(A)):
            A[j, i:] = A[j, i:] - A[i, i:] * (A[j, i] / A[i, i])
    return True
