r"""The three factors by which the minimizer shrinks a small deviation from a collapsed H0, for every beta > 0.

At H0 = H* with frame Q (d x K) and P spanning its complement, the Jacobian of the minimizer map H0 -> H has the
eigenvalues below and 1 (rotations of the frame, and means moved in P). For large beta they are those of Theorem 4.2
of Tirer et al. (2023).
"""

from math import sqrt
from typing import NamedTuple

from nclib._checks import positive
from nclib.foundations.model import Model


class Contraction(NamedTuple):
    """Factors on within-class deviations in the frame (``s1``) and in its complement (``s2``), and on symmetric
    deviations of the frame itself (``s3``); all in (0, 1)."""

    s1: float
    s2: float
    s3: float


def contraction(model: Model) -> Contraction:
    r"""The contraction factors at a collapsed H0.

    .. math::
        s_1 = \frac{\beta}{\beta + \sqrt{\lambda_H/\lambda_W}}, \qquad
        s_2 = \frac{\beta}{\beta + \lambda_H}, \qquad
        s_3 = \frac{\beta}{\beta + 4\lambda_H(1-c)}

    Raises:
        ValueError: if beta = 0, lambda_H = 0 or c >= 1: the formulas need a collapsed minimizer and a pull to it.
    """
    beta = positive("beta", model.beta)
    lambda_H = positive("lambda_H", model.lambda_H)
    if model.c >= 1:
        raise ValueError(
            f"c = sqrt(lambda_W lambda_H) is {model.c:.6g}; a collapsed frame needs c < 1"
        )
    s1 = beta / (beta + sqrt(lambda_H / model.lambda_W))
    return Contraction(s1, beta / (beta + lambda_H), beta / (beta + 4 * lambda_H * (1 - model.c)))
