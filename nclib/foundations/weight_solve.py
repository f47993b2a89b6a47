r"""The linear system of the optimal weights, factored once."""

import numpy as np
from scipy import linalg


class WeightSolve:
    r"""The best last layer for given features (Section 3 of Tirer et al., 2023).

    With the features' second moment :math:`T = HH^\top/\bar n`, :math:`\bar n = N/K`,

    .. math::
        W^*(H) = YH^\top(HH^\top + \bar n\lambda_W I)^{-1}
        = \tfrac1{\bar n}YH^\top\,(T + \lambda_W I)^{-1} .

    Args:
        second_moment: T, shape (d, d), positive semidefinite.
        lambda_W: Weight decay of the last layer, greater than zero.

    Raises:
        LinAlgError: T + lambda_W I is not positive definite in float64.

    Examples:
        >>> import numpy as np
        >>> WeightSolve(np.eye(2), lambda_W=1.0).right(np.ones((1, 2)))
        array([[0.5, 0.5]])
    """

    def __init__(self, second_moment: np.ndarray, lambda_W: float):
        self._factor = linalg.cho_factor(second_moment + lambda_W * np.eye(len(second_moment)))

    def right(self, X: np.ndarray) -> np.ndarray:
        r""":math:`X(T + \lambda_W I)^{-1}` for X (k, d); :math:`W^*` for :math:`YH^\top/\bar n`."""
        return linalg.cho_solve(self._factor, X.T).T
