r"""The linear system of the optimal features, factored once.

For given weights W the optimal features are :math:`H = G^{-1}(W^\top Y + \beta H_0)`. The d x d
matrix G is never formed: by the Woodbury identity all that is needed is the K x K matrix
:math:`WW^\top + bI`, or the singular values of W where that matrix is ill-conditioned.
"""

from functools import cached_property

import numpy as np
from scipy import linalg

from nclib.foundations.cholesky import well_conditioned_cholesky


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

    WG: np.ndarray

    def __init__(self, W: np.ndarray, b: float):
        self.W, self.b = W, b
        K, d = W.shape
        gram = W @ W.T + b * np.eye(K) if d >= K else None
        self._factor = None if gram is None else well_conditioned_cholesky(gram)
        if self._factor is None:
            self._left, s, right = linalg.svd(W, full_matrices=False)
            self._squares = s**2
            self.WG = (self._left * (s / (s**2 + b))) @ right
        else:
            self.WG = linalg.cho_solve((self._factor, True), W)

    def __repr__(self) -> str:
        K, d = self.W.shape
        return f"FeatureSolve(K={K}, d={d}, b={self.b:.6g})"

    def right(self, X: np.ndarray) -> np.ndarray:
        r""":math:`XG^{-1}` for X of shape (k, d); O(kKd)."""
        return (X - (X @ self.W.T) @ self.WG) / self.b

    @cached_property
    def Gamma(self) -> np.ndarray:
        r""":math:`\Gamma = I - WG^{-1}W^\top = b\,(WW^\top + bI)^{-1}`, shape (K, K)."""
        one = np.eye(len(self.W))
        if self._factor is None:
            return one - (self._left * (self._squares / (self._squares + self.b))) @ self._left.T
        inverse = self.b * linalg.cho_solve((self._factor, True), one)
        return (inverse + inverse.T) / 2

    @cached_property
    def whitener(self) -> np.ndarray:
        r"""A matrix C, shape (K, K), with :math:`C^\top\Gamma C = I`."""
        if self._factor is None:
            growth = np.sqrt(1 + self._squares / self.b) - 1
            return np.eye(len(self.W)) + (self._left * growth) @ self._left.T
        return self._factor / np.sqrt(self.b)
