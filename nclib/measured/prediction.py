"""Of a family of layers the one whose shape is most like a later layer's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import linalg, ndimage, optimize

from nclib.foundations.statistics import ClassStatistics
from nclib.measured.shape import Comparison, Shape, differences, shape

QUANTITIES = Comparison._fields
STARTS = 3  # valleys of the grid from which the search begins
EDGE = 0.01  # how near to an edge, in logarithms, counts as on it
INSET = 1e-4  # how far inside the box a known start lies at least

Family = Callable[[np.ndarray], ClassStatistics]


class Range(NamedTuple):
    """Where a number of a family is looked for.

    Attributes:
        low: Its lower edge, positive.
        high: Its upper edge.
    """

    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A prediction of the later layer.

    Attributes:
        parameters: The fitted numbers, without the scale; those of the model are lambda_W and p.
        interior: False if one of them lies on the edge of the box that was searched: then a limit
            fits best.
        loss: Root of the sum of squared errors of the fitted quantities.
        scale: Factor that brought the prediction to the size of the later layer's centered means.
        statistics: The prediction, after scaling.
    """

    parameters: tuple[float, ...]
    interior: bool
    loss: float
    scale: float
    statistics: ClassStatistics

    def __repr__(self) -> str:
        parameters = ", ".join(f"{x:.4g}" for x in self.parameters)
        comma = "," if len(self.parameters) == 1 else ""
        return (
            f"{type(self).__name__}(parameters=({parameters}{comma}), interior={self.interior}, "
            f"loss={self.loss:.4g}, scale={self.scale:.4g})"
        )


def closest(
    family: Family,
    box: Sequence[Range],
    later: ClassStatistics,
    quantities: Sequence[str],
    known: Sequence[Sequence[float]] = (),
) -> Prediction:
    """The member of a family that is most like a later layer in shape.

    Least squares over the logarithms of the numbers, from the lowest valleys of a grid and from the
    members that are already known to be good. Where the means hardly differ in some direction a
    valley can be narrower than the grid, and a family would lose to a smaller one that it contains.

    Args:
        family: A layer for each choice of numbers.
        box: Where each of the numbers is looked for; empty for a family of one member.
        later: The layer to be predicted.
        quantities: Fields of `Comparison`, the errors whose squares are added.
        known: Numbers of members from which the search also begins.

    Raises:
        ValueError: A quantity has no such name, there are none, a layer has no shape, or the
            numbers of classes differ.
    """
    search = _Search(
        family=family,
        low=np.array([edges.low for edges in box]),
        high=np.array([edges.high for edges in box]),
        target=shape(later),
        quantities=_checked(quantities),
        known=tuple(tuple(map(float, numbers)) for numbers in known),
    )
    x = search.best()
    numbers = search.numbers(x)
    found = family(numbers)
    scale = float(linalg.norm(later.centered_means) / linalg.norm(found.centered_means))
    return Prediction(
        parameters=tuple(map(float, numbers)),
        interior=search.is_interior(x),
        loss=search.loss(x),
        scale=scale,
        statistics=ClassStatistics(
            found.counts, scale * found.means, scale**2 * found.within, found.resolution
        ),
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """The least-squares problem, in logarithms that are counted from 1 on the lower edges."""

    family: Family
    low: np.ndarray
    high: np.ndarray
    target: Shape
    quantities: tuple[str, ...]
    known: tuple[tuple[float, ...], ...]

    @property
    def last(self) -> np.ndarray:
        """Coordinates of the upper edges."""
        return 1 + np.log(self.high / self.low)

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """The family's numbers at these coordinates."""
        return self.low * np.exp(x - 1)

    def coordinates(self, numbers: Sequence[float]) -> np.ndarray:
        """The coordinates of these numbers, brought into the box."""
        x = 1 + np.log(np.array(numbers) / self.low)
        return np.clip(x, 1 + INSET, self.last - INSET)

    def is_interior(self, x: np.ndarray) -> bool:
        """Whether no coordinate lies on an edge."""
        return bool(np.all((x > 1 + EDGE) & (x < self.last - EDGE)))

    def residuals(self, x: np.ndarray) -> np.ndarray:
        """Errors of the fitted quantities, one after the other."""
        found = shape(self.family(self.numbers(x)), "spectrum" in self.quantities)
        errors = differences(found, self.target)
        return np.hstack([np.ravel(getattr(errors, name)) for name in self.quantities])

    def loss(self, x: np.ndarray) -> float:
        """Root of the sum of squared errors."""
        return float(linalg.norm(self.residuals(x)))

    def best(self) -> np.ndarray:
        """Coordinates of the best member that was found."""
        if not len(self.low):
            return np.ones(0)  # there is nothing to fit
        starts = [*self._valleys(), *map(self.coordinates, self.known)]
        rough = [self._descend(x, xtol=1e-3, ftol=1e-3, gtol=1e-3) for x in starts]
        start = min(rough, key=lambda found: found.cost).x
        return self._descend(start, xtol=1e-9, ftol=1e-11, gtol=1e-11).x

    def _valleys(self) -> np.ndarray:
        """The lowest points of a grid that are not above their neighbors, the lowest first."""
        size = 5 if len(self.low) < 3 else 3
        axes = np.linspace(self.last, 1, size + 2)[1:-1].T
        grid = np.array(list(product(*axes)))
        height = np.array([self.loss(x) for x in grid]).reshape((size,) * len(axes))
        valleys = np.flatnonzero(height == ndimage.minimum_filter(height, 3))
        lowest = sorted(valleys, key=lambda i: height.flat[i])
        return grid[lowest[:STARTS]]

    def _descend(self, x: np.ndarray, **tolerances: float) -> optimize.OptimizeResult:
        return optimize.least_squares(
            self.residuals, x, bounds=(1, self.last), diff_step=1e-5, max_nfev=60, **tolerances
        )


def _checked(quantities: Sequence[str]) -> tuple[str, ...]:
    """Names of fitted quantities, a text not being taken for a sequence of letters."""
    if isinstance(quantities, str) or not quantities or not set(quantities) <= set(QUANTITIES):
        raise ValueError(
            f"quantities must be some of {QUANTITIES}, but quantities = {quantities!r}."
        )
    return tuple(quantities)
