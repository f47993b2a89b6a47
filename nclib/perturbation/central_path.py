r"""The gradient flow of the unconstrained features (Theorem 3.1 of Tirer et al., 2023).

With the weights kept optimal, W = W*(H), the flow dH/dt = -N grad L(H) reads, for the class means
and for the deviations :math:`\Delta = H - \bar H` of the samples from them,

.. math::
    \frac{d\bar H}{dt} = W^\top(I - W\bar H) - \lambda_H\bar H, \qquad
    \frac{d\Delta}{dt} = -(W^\top W + \lambda_H I)\,\Delta .

W depends on H only through the means and Sigma_W, and the second equation is linear in Delta, so a
factor F of Sigma_W = F F^T obeys it too: the flow closes in d (K + rank Sigma_W) numbers whatever
the number of samples. ``nclib.perturbation.flow`` solves these equations.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from threadpoolctl import threadpool_limits

from nclib import _checks
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.perturbation.flow import Coupled, Stage


@dataclass(frozen=True, eq=False, repr=False)
class CentralPath:
    """The flow at the requested times.

    Attributes:
        times: The times, shape (T,), increasing.
        statistics: Class statistics of H at each time, a tuple of length T.
        start: Class statistics at time zero.
    """

    times: np.ndarray
    statistics: tuple[ClassStatistics, ...]
    start: ClassStatistics
    # Deviations at each time from whitened ones at time zero, (d, r), and what whitens, (r, d).
    _transport: tuple[np.ndarray, ...] = field(repr=False)
    _whiten: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        start = self.start
        return (
            f"CentralPath(K={start.K}, d={start.d}, N={start.N}, "
            f"{len(self.times)} times from {self.times[0]:.6g} to {self.times[-1]:.6g})"
        )

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        """Every sample at every time, shape (T, N, d).

        Args:
            features: The features at time zero, shape (N, d), whose statistics the path started
                from.
            labels: Shape (N,), integers 0..K-1.

        Raises:
            TypeError: The features are not real or the labels not integers.
            ValueError: The features are not those that the path started from: their class sizes,
                class means or within-class covariance are others.

        Examples:
            >>> H0, labels = np.eye(4, 3), np.array([0, 0, 1, 1])
            >>> stats = ClassStatistics.from_features(H0, labels)
            >>> path = central_path(Model(0.1, 0.1), stats, [0.0, 1.0])
            >>> path.features(H0, labels).shape
            (2, 4, 3)
        """
        H0 = _checks.as_features(features)
        y = _checks.as_labels(labels, len(H0), self.start.K)
        _check_same(self.start, ClassStatistics.from_features(H0, y, self.start.K))
        whitened = (H0 - self.start.means.T[y]) @ self._whiten.T
        return np.stack(
            [
                point.means.T[y] + whitened @ X.T
                for point, X in zip(self.statistics, self._transport, strict=True)
            ]
        )


def central_path(
    model: Model, stats: ClassStatistics, times: ArrayLike, rtol: float = 1e-12
) -> CentralPath:
    r"""The gradient flow of Theorem 3.1 at the given times, from the statistics at time zero.

    .. math::
        \frac{dH}{dt} = -N\,\nabla_H L(H) = -W^\top(WH - Y) - \lambda_H H, \qquad W = W^*(H)

    L is Eq. 1 with the weights minimized, so beta is not used. Sigma_W is accurate relative to its
    own trace however far it decays. (Directions of variance below 1e-16 of that trace are
    rounding.) The number of steps is bounded by about sqrt(lambda_H / lambda_W) times the time
    that the spread takes to leave the span of the means; after that the equations are those of at
    most K dimensions, and when the means rest, an exponential function. Unequal class sizes are
    allowed, in the model with 1/(2N) before the terms in H.

    Args:
        model: The decays, lambda_W > 0 and lambda_H >= 0; beta is ignored.
        stats: Statistics at time zero; every class needs a sample.
        times: Shape (T,), increasing, the first at least zero; or one time.
        rtol: Relative tolerance of the integrator (Dormand and Prince, order 8), at least 3e-14.

    Raises:
        TypeError: The model or the statistics are of another type.
        ValueError: The times are not increasing or one is negative, rtol is too small, a class has
            no samples, or the integrator gives up.

    Examples:
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(3, 2), 0.1 * np.eye(3))
        >>> path = central_path(Model(0.1, 0.1), stats, [0.0, 10.0, 1000.0])
        >>> path
        CentralPath(K=2, d=3, N=8, 3 times from 0 to 1000)
        >>> path.statistics[-1].means.round(3)
        array([[0.949, 0.   ],
               [0.   , 0.949],
               [0.   , 0.   ]])
    """
    _checks.instance("model", model, Model)
    _checks.instance("stats", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    t = _times(times)
    if not _checks.positive("rtol", rtol) >= 3e-14:
        raise ValueError(f"rtol must be at least 3e-14, but rtol = {rtol}.")
    variances, basis = linalg.eigh(stats.within, driver="evd")
    keep = variances > max(variances[-1], 0) * stats.d * np.finfo(float).eps
    deviations = np.sqrt(variances[keep])
    with threadpool_limits(1 if stats.d < 256 else None, user_api="blas"):
        stage: Stage = Coupled(model, stats, basis[:, keep] * deviations, rtol)
        now, points, transport = 0.0, [], []
        for time in t:
            while now < time:
                now = stage.advance(now, time)
                if now < time:
                    stage = stage.next()
            F = stage.deviations()
            transport.append(F)
            points.append(ClassStatistics(stats.counts, stage.means(), F @ F.T, stats.resolution))
    return CentralPath(t, tuple(points), stats, tuple(transport), (basis[:, keep] / deviations).T)


def _times(times: ArrayLike) -> np.ndarray:
    """Checked times as a vector."""
    if np.ndim(times) == 0:
        times = np.reshape(times, 1)
    t = _checks.as_array("times", times, (np.size(times),))
    if t.size == 0:
        raise ValueError("times must hold at least one time, but it is empty.")
    if t[0] < 0:
        raise ValueError(f"times must not be negative, but the first is {t[0]}.")
    gaps = np.diff(t)
    if (gaps <= 0).any():
        i = int(np.argmax(gaps <= 0))
        raise ValueError(f"times must increase, but {t[i + 1]} follows {t[i]}.")
    return t


def _check_same(start: ClassStatistics, given: ClassStatistics) -> None:
    """Refuse statistics that are not those of the start, up to rounding."""
    if given.d != start.d or not np.array_equal(given.counts, start.counts):
        raise ValueError(
            f"the path starts from {start.N} samples in {start.d} dimensions with class sizes "
            f"{start.counts}; the features given are {given.N} samples in {given.d} dimensions "
            f"with class sizes {given.counts}."
        )
    allowed = max(1e-9, 4 * start.resolution, 4 * given.resolution)
    deviation = float(np.sqrt(np.trace(start.within)))
    size = float(np.abs(start.means).max()) + deviation
    for name, difference, scale in (
        ("class means", given.means - start.means, size),
        (
            "within-class covariance",
            given.within - start.within,
            size * deviation + allowed * size**2,
        ),
    ):
        if not np.abs(difference).max() <= allowed * scale:
            raise ValueError(
                f"the features are not those that the path started from: their {name} differ by "
                f"up to {np.abs(difference).max():.3g}."
            )
