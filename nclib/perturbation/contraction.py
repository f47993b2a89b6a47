r"""The three factors by which the minimizer shrinks a small deviation from a collapsed H0.

They are exact for every beta > 0. At H0 = H* with frame Q (d x K) and P spanning its complement,
the Jacobian of the minimizer map H0 -> H has the eigenvalues below and 1 (rotations of the frame,
and means moved in P). For large beta they are those of Theorem 4.2 of Tirer et al. (2023).
"""

from typing import NamedTuple

from nclib._checks import collapses, instance, positive
from nclib.foundations.model import Model


class Contraction(NamedTuple):
    """Factors by which deviations from a collapsed H0 shrink; all in (0, 1).

    Attributes:
        s1: On deviations within a class, in the span of the frame.
        s2: On deviations within a class, orthogonal to the frame.
        s3: On symmetric deviations of the frame itself.
    """

    s1: float
    s2: float
    s3: float


def contraction(model: Model) -> Contraction:
    r"""Factors of contraction at a collapsed H0.

    .. math::
        s_1 = \frac{\beta}{\beta + \kappa}, \qquad
        s_2 = \frac{\beta}{\beta + \lambda_H}, \qquad
        s_3 = \frac{\beta}{\beta + 4\lambda_H(1-c)}, \qquad \kappa = \sqrt{\lambda_H/\lambda_W}

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.

    Raises:
        ValueError: beta = 0, lambda_H = 0 or c >= 1: there is no pull to a collapsed minimizer.

    Examples:
        >>> s = contraction(Model(lambda_W=0.1, lambda_H=0.1, beta=1.0))
        >>> print(f"{s.s1:.3f}, {s.s2:.3f}, {s.s3:.3f}")
        0.500, 0.909, 0.735
    """
    instance("model", model, Model)
    beta = positive("beta", model.beta)
    lambda_H = positive("lambda_H", model.lambda_H)
    collapses(model.c)
    return Contraction(
        s1=beta / (beta + model.kappa),
        s2=beta / (beta + lambda_H),
        s3=beta / (beta + 4 * lambda_H * (1 - model.c)),
    )
