r"""The linear system of the optimal weights, factored once."""

import numpy as np
from scipy import linalg

from nclib.foundations.cholesky import well_conditioned_cholesky


class WeightSolve:
    r"""The best last layer for given features (Section 3 of Tirer et al., 2023).

    With the features' second moment :math:`T = HH^\top/\bar n`, :math:`\bar n = N/K`,

    .. math::
        W^*(H) = YH^\top(HH^\top + \bar n\lambda_W I)^{-1}
        = \tfrac1{\bar n}YH^\top\,(T + \lambda_W I)^{-1} .

    Where :math:`T + \lambda_W I` is ill-conditioned in float64, directions whose eigenvalue is the
    rounding of the largest count as directions without features.

    Args:
        second_moment: T, shape (d, d), positive semidefinite.
        lambda_W: Weight decay of the last layer, greater than zero.

    Examples:
        >>> import numpy as np
        >>> WeightSolve(np.eye(2), lambda_W=1.0).right(np.ones((1, 2)))
        array([[0.5, 0.5]])
    """

    def __init__(self, second_moment: np.ndarray, lambda_W: float):
        d = len(second_moment)
        self._factor = well_conditioned_cholesky(second_moment + lambda_W * np.eye(d))
        if self._factor is None:
            t, axes = linalg.eigh(second_moment)
            kept = t + lambda_W > d * np.finfo(float).eps * t[-1]
            self._axes = axes[:, kept]
            self._inverse = 1 / (np.maximum(t[kept], 0) + lambda_W)

    def right(self, X: np.ndarray) -> np.ndarray:
        r""":math:`X(T + \lambda_W I)^{-1}` for X (k, d); :math:`W^*` for :math:`YH^\top/\bar n`."""
        if self._factor is None:
            return ((X @ self._axes) * self._inverse) @ self._axes.T
        return linalg.cho_solve((self._factor, True), X.T).T
