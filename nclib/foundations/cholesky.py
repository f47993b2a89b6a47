"""The Cholesky factor of a matrix that has one in float64."""

import numpy as np
from scipy import linalg

# Below this ratio of the pivots, half the digits of a solution are lost.
SMALLEST_PIVOT = 1e-4


def well_conditioned_cholesky(A: np.ndarray) -> np.ndarray | None:
    """Lower triangular F with A = F F^T, or None where A is indefinite or ill-conditioned.

    Args:
        A: Symmetric, shape (n, n); only the lower triangle is read.

    Examples:
        >>> well_conditioned_cholesky(np.array([[4.0]]))
        array([[2.]])
        >>> well_conditioned_cholesky(np.ones((2, 2))) is None
        True
    """
    try:
        factor: np.ndarray = linalg.cholesky(A, lower=True)
    except linalg.LinAlgError:
        return None
    pivots = np.diag(factor)
    return factor if pivots.min() > SMALLEST_PIVOT * pivots.max() else None
