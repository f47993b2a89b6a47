r"""The perturbed model fitted to two layers of a network, from statistics to statistics.

What can be fitted follows from two symmetries. With :math:`b = \lambda_H + \beta`, and up to a
constant, Eq. 2 of Tirer et al. (2023) times 2N is

.. math:: \|WH - Y\|_F^2 + b \|H\|_F^2 - 2\beta \langle H, H_0\rangle + \bar n \lambda_W \|W\|_F^2 .

Putting :math:`H = H'/v`, :math:`W = vW'`, :math:`H_0 = H_0'/s` changes the parameters only
(`equivalent`), so the units of input and output take one of them each. If units mean nothing, two
numbers are left, and :math:`\lambda_H = 0` is no restriction. The fit finds :math:`\lambda_W` and
:math:`p = \lambda_W\beta` with :math:`\lambda_H = 0` from *shapes*; v then matches sizes, and tells
the feature decay where both layers share their unit. Two limits: for :math:`p \to \infty` the shape
does not change; for :math:`\lambda_W \to \infty` at fixed p > 1 class means grow by p / (p - 1) and
nothing else happens, which in shape is one contraction of the within-class part by 1 - 1/p.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from nclib._checks import instance, positive
from nclib.foundations.minimize import Solution, minimize
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import EPS
from nclib.measured.prediction import QUANTITIES, Prediction, Range, closest
from nclib.measured.shape import shape


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Prediction):
    """The model's prediction.

    Attributes:
        parameters: lambda_W and p, the product of lambda_W and beta.
        interior: False if one of them lies on the edge of the box that was searched: then a limit
            fits best.
        loss: Root of the sum of squared errors of the fitted quantities.
        scale: Factor v that brought the prediction to the later layer's size.
        statistics: The prediction, after scaling.
        solution: The minimizer before scaling, with its status, certificate and model.
    """

    solution: Solution

    @property
    def lambda_H(self) -> float:
        r"""The decay :math:`\beta(1 - v)/v^2` with which the model meets the later layer's size.

        It means something where both layers share their unit, and is negative for v > 1.
        """
        return self.solution.model.beta * (1 - self.scale) / self.scale**2


def equivalent(model: Model, input_unit: float = 1.0, output_unit: float = 1.0) -> Model:
    r"""The model with the same minimizers in other units.

    Its minimizer from :math:`sH_0` is v times the minimizer of the given model from :math:`H_0`:

    .. math:: \lambda_W' = v^2\lambda_W, \qquad \beta' = \frac{\beta}{sv}, \qquad
              \lambda_H' = \frac{\lambda_H + \beta}{v^2} - \frac{\beta}{sv}

    Args:
        model: The parameters lambda_W, lambda_H and beta.
        input_unit: The factor s.
        output_unit: The factor v.

    Raises:
        TypeError: A unit is not a real number.
        ValueError: A unit is not positive, or the new feature decay would be negative.

    Examples:
        >>> equivalent(Model(2.0, 0.25, 0.5), input_unit=2.0)
        Model(lambda_W=2.0, lambda_H=0.5, beta=0.25)
    """
    instance("model", model, Model)
    s = positive("input_unit", input_unit)
    v = positive("output_unit", output_unit)
    b = model.b / v**2
    beta = model.beta / (s * v)
    lambda_H = b - beta if abs(b - beta) > 8 * EPS * b else 0.0
    if lambda_H < 0:
        raise ValueError(
            f"lambda_H must not be negative, but in these units lambda_H = {lambda_H:.6g}."
        )
    return Model(v**2 * model.lambda_W, lambda_H, beta)


def fit(
    earlier: ClassStatistics, later: ClassStatistics, quantities: Sequence[str] = QUANTITIES
) -> Fit:
    r"""The model whose minimizer, started at one layer, is most like the next layer in shape.

    Least squares over :math:`\log\lambda_W` and :math:`\log p`, :math:`p = \lambda_W\beta`, with
    :math:`\lambda_H = 0`. With :math:`\sigma^2 = K \operatorname{tr}\Sigma_B / (K - 1)`, the mean
    squared singular value of the earlier layer's centered means, the box that is searched is
    :math:`10^{-3} \le \lambda_W/\sigma^2 \le 10^3`, :math:`10^{-2} \le p \le 10^3`.

    Args:
        earlier: Statistics of a layer, the model's :math:`H_0`.
        later: Statistics of the next layer.
        quantities: Fields of `Comparison`: these are fitted, the others predicted.

    Raises:
        ValueError: A layer has no shape, the numbers of classes differ, or a quantity has no such
            name.

    Examples:
        >>> from nclib import minimize
        >>> from nclib.workbench import random_problem
        >>> stats = random_problem(seed=0).statistics
        >>> later = minimize(Model(lambda_W=2.0, lambda_H=0.0, beta=0.75), stats).statistics
        >>> found = fit(stats, later, ("nc1_trace", "gram"))
        >>> print(f"lambda_W = {found.parameters[0]:.4f}, p = {found.parameters[1]:.4f}")
        lambda_W = 2.0000, p = 1.5000
    """
    shape(earlier)  # raises where there is none
    minimizers = _Minimizers(earlier)
    found = closest(
        lambda numbers: minimizers.at(*numbers).statistics, _box(earlier), later, quantities
    )
    return Fit(
        parameters=found.parameters,
        interior=found.interior,
        loss=found.loss,
        scale=found.scale,
        statistics=found.statistics,
        solution=minimizers.at(*found.parameters),
    )


def _box(earlier: ClassStatistics) -> list[Range]:
    """Where lambda_W and p are looked for."""
    unit = float(linalg.norm(earlier.centered_means) ** 2 / (earlier.K - 1))
    return [Range(1e-3 * unit, 1e3 * unit), Range(1e-2, 1e3)]


class _Minimizers:
    """Minimizers of the model from one layer, as a function of lambda_W and p.

    One eigendecomposition serves them all, and each search begins at the weights found last.
    """

    def __init__(self, earlier: ClassStatistics):
        self.earlier = earlier
        self.weights: np.ndarray | None = None

    def at(self, lambda_W: float, p: float) -> Solution:
        """The minimizer for these numbers."""
        model = Model(lambda_W, 0.0, p / lambda_W)
        solution = minimize(model, self.earlier, start=self.weights)
        self.weights = solution.weights
        return solution
