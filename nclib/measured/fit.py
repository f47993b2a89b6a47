r"""The perturbed model fitted to two layers of a network: from one layer's class statistics to the next one's.

What can be fitted follows from two symmetries. With :math:`b = \lambda_H + \beta`, and up to a constant, Eq. 2 of
Tirer et al. (2023) times 2N is

.. math:: \|WH - Y\|_F^2 + b \|H\|_F^2 - 2\beta \langle H, H_0\rangle + \bar n \lambda_W \|W\|_F^2 .

Putting :math:`H = H'/v`, :math:`W = vW'`, :math:`H_0 = H_0'/s` changes the parameters only (`equivalent`), so the units
of input and output take one of them each. If units mean nothing, two numbers are left, and :math:`\lambda_H = 0` is no
restriction. The fit finds :math:`\lambda_W` and :math:`p = \lambda_W\beta` with :math:`\lambda_H = 0` from *shapes*; v
then matches sizes, and tells the feature decay where both layers share their unit. Two limits: for :math:`p \to \infty`
the shape does not change; for :math:`\lambda_W \to \infty` at fixed p > 1 class means grow by p / (p - 1) and nothing
else happens, which in shape is one contraction of the within-class part by 1 - 1/p.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product, zip_longest
from typing import NamedTuple

import numpy as np
from scipy import linalg, ndimage, optimize

from nclib._checks import instance, positive
from nclib.foundations.metrics import nc1, nc1_trace, nc2
from nclib.foundations.minimize import Solution
from nclib.foundations.model import Model
from nclib.foundations.newton import trust_region_newton
from nclib.foundations.reduced import ReducedProblem
from nclib.foundations.search import (
    GRADIENT_TOLERANCE,
    Found,
    is_certified,
    ridge_start,
    search,
)
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import EPS


class Shape(NamedTuple):
    """What rotations and a change of unit leave as it is."""

    nc1_trace: float  # tr Sigma_W / tr Sigma_B
    nc1: float  # tr Sigma_W pinv(Sigma_B) / K
    nc2: float  # distance of the Gram matrix from that of a simplex equiangular tight frame
    inside: float  # share of tr Sigma_W in the span of the centered class means
    gram: (
        np.ndarray
    )  # Gram matrix of the centered class means, (K, K), divided by its Frobenius norm
    spectrum: (
        np.ndarray
    )  # standard deviations along the principal axes of Sigma_W, (d,), falling, of norm one


class Comparison(NamedTuple):
    """Errors in shape: log(predicted / true) for the three numbers, distances for Gram matrix and spectrum."""

    nc1_trace: float
    nc1: float
    inside: float
    gram: float
    spectrum: float


class Aligned(NamedTuple):
    """Relative Frobenius distances of the centered means and of the within-class covariances."""

    means: float
    within: float


@dataclass(frozen=True)
class Prediction:
    """A prediction of the later layer."""

    parameters: tuple[
        float, ...
    ]  # the fitted numbers, without the scale; those of the model are lambda_W and p
    interior: bool  # false if one of them lies on the edge of the box that was searched: a limit fits best
    loss: float  # root of the sum of squared errors of the fitted quantities
    scale: float  # factor that brought the prediction to the later layer's tr Sigma_B
    statistics: ClassStatistics  # the prediction, after scaling


@dataclass(frozen=True)
class Fit(Prediction):
    """The model's prediction; ``solution`` is the minimizer before scaling, with its status, certificate and model."""

    solution: Solution = field(repr=False)

    @property
    def lambda_H(self) -> float:
        """The decay with which the model meets the later layer's size; negative for v > 1. For a shared unit only."""
        return self.solution.model.beta * (1 - self.scale) / self.scale**2


def equivalent(model: Model, input_unit: float = 1.0, output_unit: float = 1.0) -> Model:
    r"""The model whose minimizer from :math:`sH_0` is v times the minimizer of `model` from :math:`H_0`.

    .. math:: \lambda_W' = v^2\lambda_W, \qquad \beta' = \frac{\beta}{sv}, \qquad
              \lambda_H' = \frac{\lambda_H + \beta}{v^2} - \frac{\beta}{sv}

    Raises:
        ValueError: if a unit is not positive, or the new feature decay would be negative.
    """
    s, v = positive("input_unit", input_unit), positive("output_unit", output_unit)
    b, beta = (model.lambda_H + model.beta) / v**2, model.beta / (s * v)
    lambda_H = b - beta if abs(b - beta) > 8 * EPS * b else 0.0
    if lambda_H < 0:
        raise ValueError(
            f"no such model exists: its lambda_H would be {lambda_H:.6g}, which is negative."
        )
    return Model(v**2 * model.lambda_W, lambda_H, beta)


def shape(stats: ClassStatistics, spectrum: bool = True) -> Shape:
    """What depends neither on the axes nor on the unit of the features; the spectrum, which takes longest, if wanted.

    Raises:
        ValueError: if there is one class, all class means are equal, or Sigma_W is zero in their span.
    """
    instance("stats", stats, ClassStatistics)
    metrics, M = (nc1_trace(stats), nc1(stats), nc2(stats)), stats.centered_means
    U = linalg.orth(M, rcond=1e-10)
    if not (part := np.sum(U * (stats.within @ U))) > 0:
        raise ValueError(
            f"Sigma_W must not vanish in the span of the centered means, but its trace there is {part}."
        )
    spread = np.sqrt(np.maximum(linalg.eigvalsh(stats.within)[::-1], 0)) if spectrum else np.ones(1)
    inside = float(part / np.trace(stats.within))
    return Shape(*metrics, inside, M.T @ M / linalg.norm(M.T @ M), spread / linalg.norm(spread))


def compare(predicted: ClassStatistics, later: ClassStatistics) -> Comparison:
    """Errors of a prediction in shape; dimensions may differ (missing principal axes count as zero), classes not.

    Raises:
        ValueError: as `shape`, or if the numbers of classes differ.
    """
    *logs, gram, spectrum = _errors(shape(predicted), shape(later)).values()
    return Comparison(*map(float, logs), float(linalg.norm(gram)), float(linalg.norm(spectrum)))


def aligned(predicted: ClassStatistics, later: ClassStatistics) -> Aligned:
    """Errors entry by entry; they mean something only if both layers use the same axes and the same unit.

    Raises:
        ValueError: if (d, K) differ.
    """
    if predicted.means.shape != later.means.shape:
        raise ValueError(
            f"(d, K) must agree, but the layers have {predicted.means.shape} and {later.means.shape}."
        )
    pairs = (predicted.centered_means, later.centered_means), (predicted.within, later.within)
    return Aligned(*(float(linalg.norm(a - b) / linalg.norm(b)) for a, b in pairs))


def fit(
    earlier: ClassStatistics, later: ClassStatistics, quantities: Sequence[str] = Comparison._fields
) -> Fit:
    r"""The model whose minimizer, started at one layer, is most like the next layer in shape.

    Least squares over :math:`\log\lambda_W` and :math:`\log p`, :math:`p = \lambda_W\beta`, with :math:`\lambda_H = 0`.
    With :math:`\sigma^2 = K \operatorname{tr}\Sigma_B / (K - 1)` of the earlier layer the box that is searched is
    :math:`10^{-3} \le \lambda_W/\sigma^2 \le 10^3`, :math:`10^{-2} \le p \le 10^3`. The ``quantities`` are fields of
    `Comparison`: these are fitted, the others predicted.

    Raises:
        ValueError: as `shape`, if the numbers of classes differ, or a quantity has no such name.
    """
    shape(earlier)  # raises where there is none
    unit = linalg.norm(earlier.centered_means) ** 2 / (earlier.K - 1)
    box = [(1e-3 * unit, 1e3 * unit), (1e-2, 1e3)]
    solve = _solver(earlier)
    found = _least_squares(lambda x: solve(*x).statistics, box, later, quantities)
    return Fit(*found, solution=solve(*found[0]))


def baselines(
    earlier: ClassStatistics, later: ClassStatistics, quantities: Sequence[str] = Comparison._fields
) -> dict[str, Prediction]:
    """Predictions by `contracted`, with none to three numbers fitted to the same quantities as the model's.

    In the order of the result: the shape is unchanged; the within-class part contracts; it contracts separately
    inside and outside the span of the centered means; it contracts and the means move towards a frame; all of this.
    With fewer quantities than numbers the choice among equally good ones is arbitrary.

    Raises:
        ValueError: as `fit`.
    """
    families = {
        "unchanged": (0, lambda x: earlier),
        "one contraction": (1, lambda x: contracted(earlier, x[0], x[0], 1.0)),
        "two contractions": (2, lambda x: contracted(earlier, x[0], x[1], 1.0)),
        "contraction and frame": (2, lambda x: contracted(earlier, x[0], x[0], x[1])),
        "three numbers": (3, lambda x: contracted(earlier, *x)),
    }
    box = (1e-3, 10)
    return {
        name: Prediction(*_least_squares(f, [box] * n, later, quantities))
        for name, (n, f) in families.items()
    }


def contracted(
    stats: ClassStatistics, inside: float, outside: float, power: float
) -> ClassStatistics:
    r"""A layer that contracts and equalizes, without asking why.

    With the centered means :math:`M = U \operatorname{diag}(s) V^\top`, and :math:`M'` given the norm of M,

    .. math:: M' \propto U \operatorname{diag}(s^\alpha) V^\top, \qquad \Sigma_W' = C\Sigma_W C, \qquad
              C = \gamma_{in} UU^\top + \gamma_{out}(I - UU^\top) .

    The ``power`` :math:`\alpha` is 1 where the means keep their geometry and 0 where they become a simplex frame.
    """
    U = linalg.orth(M := stats.centered_means, rcond=1e-10)
    left, s, right = linalg.svd(U.T @ M, full_matrices=False)
    M_new = U @ (left * (s / s[0]) ** power) @ right
    M_new *= linalg.norm(M) / linalg.norm(M_new)
    C = outside * np.eye(stats.d) + (inside - outside) * U @ U.T
    return ClassStatistics(
        stats.counts, stats.global_mean[:, None] + M_new, C @ stats.within @ C, stats.resolution
    )


def _solver(earlier: ClassStatistics) -> Callable[[float, float], Solution]:
    """The minimizer as a function of lambda_W and p: one eigendecomposition, each search from the last weights."""
    start = ReducedProblem.from_statistics(Model(1.0, 0.0, 1.0), earlier)
    W = ridge_start(start)

    def solve(lambda_W: float, p: float) -> Solution:
        nonlocal W
        problem = start.with_model(Model(lambda_W, 0.0, p / lambda_W))
        point, steps = trust_region_newton(problem, W, GRADIENT_TOLERANCE / 10)
        found = Found(point, point.value, steps) if is_certified(point) else search(problem)
        W = found.point.W
        return Solution.from_point(problem, earlier, found)

    return solve


def _least_squares(family: Callable, box: list, later: ClassStatistics, quantities: Sequence[str]):
    """The fields of a Prediction by the best member of the family, searched from the lowest valleys of a grid."""
    if (
        isinstance(quantities, str)
        or not quantities
        or not set(quantities) <= set(Comparison._fields)
    ):
        raise ValueError(
            f"quantities must be some of {Comparison._fields}; given was {quantities!r}."
        )
    target = shape(later)
    low, high = np.reshape(box, (-1, 2)).T
    x, last = (
        np.ones(len(low)),
        1 + np.log(high / low),
    )  # logarithms, counted from 1 on the lower edge

    def residuals(x):
        errors = _errors(shape(family(low * np.exp(x - 1)), "spectrum" in quantities), target)
        return np.hstack([np.ravel(errors[name]) for name in quantities])

    if box:  # otherwise there is nothing to fit
        size = 5 if len(x) < 3 else 3
        grid = np.array(list(product(*np.linspace(last, 1, size + 2)[1:-1].T)))
        height = np.array([linalg.norm(residuals(x)) for x in grid]).reshape((size,) * len(x))
        valleys = np.flatnonzero(height == ndimage.minimum_filter(height, 3))
        starts = grid[sorted(valleys, key=lambda i: height.flat[i])[:3]]
        options = dict(bounds=(1, last), diff_step=1e-5, max_nfev=60)
        rough = (
            optimize.least_squares(residuals, x, xtol=1e-3, ftol=1e-3, gtol=1e-3, **options)
            for x in starts
        )
        x = min(rough, key=lambda r: r.cost).x
        x = optimize.least_squares(residuals, x, xtol=1e-9, ftol=1e-11, gtol=1e-11, **options).x
    best, interior = low * np.exp(x - 1), bool(np.all((x > 1.01) & (x < last - 0.01)))
    s = family(best)
    v = float(linalg.norm(later.centered_means) / linalg.norm(s.centered_means))
    s = ClassStatistics(s.counts, v * s.means, v**2 * s.within, s.resolution)
    return tuple(map(float, best)), interior, float(linalg.norm(residuals(x))), v, s


def _errors(found: Shape, target: Shape) -> dict[str, np.ndarray]:
    """Differences to the target in the order of `Comparison`; arrays for the Gram matrix and the spectrum."""
    if found.gram.shape != target.gram.shape:
        raise ValueError(
            f"the layers must have the same classes, but have {len(found.gram)} and {len(target.gram)}."
        )
    errors = {
        name: np.log(getattr(found, name) / getattr(target, name))
        for name in Comparison._fields[:3]
    }
    a, b = np.array(list(zip_longest(found.spectrum, target.spectrum, fillvalue=0.0))).T
    return errors | {"gram": found.gram - target.gram, "spectrum": a - b}
