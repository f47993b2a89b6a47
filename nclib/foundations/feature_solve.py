r"""The linear system of the optimal features, factored once.

For given weights W the optimal features are :math:`H = G^{-1}(W^\top Y + \beta H_0)`. The d x d
matrix G is never formed: by the Woodbury identity all that is needed is the K x K matrix
:math:`WW^\top + bI`.
"""

from functools import cached_property

import numpy as np
from scipy import linalg


class FeatureSolve:
    r""":math:`G^{-1}` for :math:`G = W^\top W + bI`.

    .. math::
        G^{-1} = \tfrac1b\left(I - W^\top (WW^\top + bI)^{-1} W\right), \quad
        WG^{-1} = (WW^\top + bI)^{-1}W

    Args:
        W: Weights, shape (K, d).
        b: The curvature :math:`\lambda_H + \beta` of the features, greater than zero.

    Attributes:
        W: The weights.
        b: The curvature.
        WG: :math:`WG^{-1}`, shape (K, d).

    Examples:
        >>> import numpy as np
        >>> solve = FeatureSolve(np.eye(2, 3), b=1.0)
        >>> solve.right(np.ones((1, 3)))
        array([[0.5, 0.5, 1. ]])
    """

    def __init__(self, W: np.ndarray, b: float):
        self.W, self.b = W, b
        self._factor = linalg.cho_factor(W @ W.T + b * np.eye(len(W)))
        self.WG: np.ndarray = linalg.cho_solve(self._factor, W)

    def __repr__(self) -> str:
        K, d = self.W.shape
        return f"FeatureSolve(K={K}, d={d}, b={self.b:.6g})"

    def right(self, X: np.ndarray) -> np.ndarray:
        r""":math:`XG^{-1}` for X of shape (k, d); O(kKd)."""
        return (X - (X @ self.W.T) @ self.WG) / self.b

    @cached_property
    def Gamma(self) -> np.ndarray:
        r""":math:`\Gamma = I - WG^{-1}W^\top = b\,(WW^\top + bI)^{-1}`, shape (K, K)."""
        inverse = self.b * linalg.cho_solve(self._factor, np.eye(len(self.W)))
        return (inverse + inverse.T) / 2
