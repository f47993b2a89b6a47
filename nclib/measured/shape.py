"""The shape of a layer: what rotations and a change of unit leave as it is, and errors in it."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from scipy import linalg

from nclib._checks import instance
from nclib.foundations.metrics import nc1, nc1_trace, nc2
from nclib.foundations.statistics import ClassStatistics


@dataclass(frozen=True, eq=False, repr=False)
class Shape:
    r"""What rotations and a change of unit leave as it is.

    Two shapes are equal only if they are the same object, as for any container of arrays.

    Attributes:
        nc1_trace: :math:`\operatorname{tr}\Sigma_W / \operatorname{tr}\Sigma_B`.
        nc1: :math:`\operatorname{tr}(\Sigma_W\Sigma_B^+) / K`.
        nc2: Distance of the Gram matrix from that of a simplex equiangular tight frame.
        inside: Share of :math:`\operatorname{tr}\Sigma_W` in the span of the centered class means.
        gram: Gram matrix of the centered class means, shape (K, K), of Frobenius norm one.
        spectrum: Standard deviations along the principal axes of :math:`\Sigma_W`, shape (d,),
            falling, of norm one.
    """

    nc1_trace: float
    nc1: float
    nc2: float
    inside: float
    gram: np.ndarray
    spectrum: np.ndarray

    def __repr__(self) -> str:
        names = ("nc1_trace", "nc1", "nc2", "inside")
        numbers = ", ".join(f"{name}={getattr(self, name):.4g}" for name in names)
        return f"Shape({numbers}, K={len(self.gram)}, d={len(self.spectrum)})"


class Comparison(NamedTuple):
    """Errors of a prediction in shape.

    Attributes:
        nc1_trace: Logarithm of predicted over true trace form of NC1.
        nc1: Logarithm of predicted over true NC1.
        inside: Logarithm of predicted over true share inside the span of the means.
        gram: Frobenius distance of the Gram matrices.
        spectrum: Distance of the spectra.
    """

    nc1_trace: float
    nc1: float
    inside: float
    gram: float
    spectrum: float


class Aligned(NamedTuple):
    """Errors of a prediction entry by entry.

    Attributes:
        means: Relative Frobenius distance of the centered class means.
        within: Relative Frobenius distance of the within-class covariances.
    """

    means: float
    within: float


class Differences(NamedTuple):
    """What a `Comparison` measures, before norms are taken.

    Attributes:
        nc1_trace: As in `Comparison`.
        nc1: As in `Comparison`.
        inside: As in `Comparison`.
        gram: Difference of the Gram matrices, shape (K, K).
        spectrum: Difference of the spectra, as long as the longer one.
    """

    nc1_trace: float
    nc1: float
    inside: float
    gram: np.ndarray
    spectrum: np.ndarray


def shape(stats: ClassStatistics, spectrum: bool = True) -> Shape:
    """What depends neither on the axes nor on the unit of the features.

    Args:
        stats: Statistics of a layer's features.
        spectrum: Whether the spectrum is wanted, which takes longest; without it a single 1
            stands in its place.

    Raises:
        ValueError: There is one class, a class has no samples, all class means are equal, or
            Sigma_W is zero in their span.

    Examples:
        >>> stats = ClassStatistics([5, 5], np.array([[2.0, -2.0], [0, 0]]), np.diag([1.0, 3.0]))
        >>> shape(stats)
        Shape(nc1_trace=1, nc1=0.125, nc2=0, inside=0.25, K=2, d=2)
        >>> shape(stats).spectrum.round(3)
        array([0.866, 0.5  ])
    """
    instance("stats", stats, ClassStatistics)
    values = nc1_trace(stats), nc1(stats), nc2(stats)
    M = stats.centered_means
    gram = M.T @ M
    standard = _deviations(stats.within) if spectrum else np.ones(1)
    return Shape(
        nc1_trace=values[0],
        nc1=values[1],
        nc2=values[2],
        inside=_share_inside(M, stats.within),
        gram=gram / linalg.norm(gram),
        spectrum=standard / linalg.norm(standard),
    )


def compare(predicted: ClassStatistics, later: ClassStatistics) -> Comparison:
    """Errors of a prediction in shape.

    Args:
        predicted: The prediction.
        later: What it should be. The dimensions may differ: axes that are missing count as zero.

    Raises:
        ValueError: One of the two has no shape, or the numbers of classes differ.

    Examples:
        >>> stats = ClassStatistics([5, 5], np.array([[2.0, -2.0], [0, 0]]), np.diag([1.0, 3.0]))
        >>> wider = ClassStatistics(stats.counts, stats.means, 4 * stats.within)
        >>> print(f"NC1 is {np.exp(compare(wider, stats).nc1):.0f} times too large")
        NC1 is 4 times too large
    """
    errors = differences(shape(predicted), shape(later))
    return Comparison(
        nc1_trace=float(errors.nc1_trace),
        nc1=float(errors.nc1),
        inside=float(errors.inside),
        gram=float(linalg.norm(errors.gram)),
        spectrum=float(linalg.norm(errors.spectrum)),
    )


def aligned(predicted: ClassStatistics, later: ClassStatistics) -> Aligned:
    """Errors of a prediction entry by entry.

    They mean something only if both layers use the same axes and the same unit.

    Args:
        predicted: The prediction.
        later: What it should be.

    Raises:
        ValueError: The shapes (d, K) differ.

    Examples:
        >>> stats = ClassStatistics([5, 5], np.array([[2.0, -2.0], [0, 0]]), np.diag([1.0, 3.0]))
        >>> wider = ClassStatistics(stats.counts, stats.means, 4 * stats.within)
        >>> aligned(wider, stats)
        Aligned(means=0.0, within=3.0)
    """
    instance("predicted", predicted, ClassStatistics)
    instance("later", later, ClassStatistics)
    if predicted.means.shape != later.means.shape:
        raise ValueError(
            f"predicted and later must agree in (d, K), but have {predicted.means.shape} "
            f"and {later.means.shape}."
        )
    return Aligned(
        means=_relative_distance(predicted.centered_means, later.centered_means),
        within=_relative_distance(predicted.within, later.within),
    )


def differences(found: Shape, target: Shape) -> Differences:
    """Errors of a shape, entry by entry.

    Args:
        found: A predicted shape.
        target: What it should be.

    Raises:
        ValueError: The numbers of classes differ.
    """
    if found.gram.shape != target.gram.shape:
        raise ValueError(
            "the layers must have the same classes, but have "
            f"{len(found.gram)} and {len(target.gram)}."
        )
    pairs = zip_longest(found.spectrum, target.spectrum, fillvalue=0.0)
    return Differences(
        nc1_trace=np.log(found.nc1_trace / target.nc1_trace),
        nc1=np.log(found.nc1 / target.nc1),
        inside=np.log(found.inside / target.inside),
        gram=found.gram - target.gram,
        spectrum=np.array([x - y for x, y in pairs]),
    )


def _share_inside(M: np.ndarray, within: np.ndarray) -> float:
    """Share of the trace of Sigma_W in the span of the centered class means M."""
    U = linalg.orth(M, rcond=1e-10)
    part = np.sum(U * (within @ U))
    if not part > 0:
        raise ValueError(
            "Sigma_W must not vanish in the span of the centered means, but its trace there is "
            f"{part}."
        )
    return float(part / np.trace(within))


def _deviations(within: np.ndarray) -> np.ndarray:
    """Standard deviations along the principal axes, falling."""
    return np.sqrt(np.maximum(linalg.eigvalsh(within)[::-1], 0))


def _relative_distance(found: np.ndarray, target: np.ndarray) -> float:
    return float(linalg.norm(found - target) / linalg.norm(target))
