r"""The gradient flow of the unconstrained features, solved in class statistics (Theorem 3.1 of Tirer et al., 2023).

With the weights kept optimal, W = W*(H), the flow dH/dt = -N grad L(H) reads, for the class means and for the
deviations Delta = H - Hbar of the samples from them,

.. math::
    \frac{d\bar H}{dt} = W^\top(I - W\bar H) - \lambda_H\bar H, \qquad
    \frac{d\Delta}{dt} = -(W^\top W + \lambda_H I)\,\Delta .

W depends on H only through the means and Sigma_W, and the second equation is linear in Delta, so a factor F of
Sigma_W = F F^T obeys it too: the flow closes in d (K + rank Sigma_W) numbers whatever the number of samples.
"""

from dataclasses import dataclass, field
from math import exp

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from scipy.integrate import solve_ivp
from threadpoolctl import threadpool_limits

from nclib import _checks
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics


@dataclass(frozen=True)
class CentralPath:
    """The flow at the requested times.

    Attributes:
        times: (T,) as given.
        statistics: class statistics of H at each time, a tuple of length T.
        start: class statistics at time zero.
    """

    times: np.ndarray
    statistics: tuple[ClassStatistics, ...]
    start: ClassStatistics
    _transport: tuple[np.ndarray, ...] = field(
        repr=False
    )  # deviations at time t from whitened ones at zero, (d, r)
    _whiten: np.ndarray = field(repr=False)  # (r, d)

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        """Every sample at every time, (T, N, d), from the features (N, d) at time zero.

        Raises:
            ValueError: if the features are not those whose statistics the path started from.
        """
        H0 = _checks.as_features(features).astype(float, copy=False)
        y = _checks.as_labels(labels, len(H0), self.start.K)
        if H0.shape[1] != self.start.d or not np.array_equal(
            np.bincount(y, minlength=self.start.K), self.start.counts
        ):
            raise ValueError(
                f"the path starts from {self.start.N} samples in {self.start.d} dimensions with class sizes "
                f"{self.start.counts}; the features given are of shape {H0.shape} with other sizes."
            )
        whitened = (H0 - self.start.means.T[y]) @ self._whiten.T
        return np.stack(
            [
                s.means.T[y] + whitened @ X.T
                for s, X in zip(self.statistics, self._transport, strict=True)
            ]
        )


def central_path(
    model: Model, stats: ClassStatistics, times: ArrayLike, rtol: float = 1e-12
) -> CentralPath:
    r"""The gradient flow of Theorem 3.1 at the given times, from the statistics at time zero.

    .. math:: \frac{dH}{dt} = -N\,\nabla_H L(H) = -W^\top(WH - Y) - \lambda_H H, \qquad W = W^*(H)

    L is Eq. 1 with the weights minimized, so beta is not used. Sigma_W is carried as exp(2s) X X^T with X of norm one
    and as many columns as Sigma_W has rank: it stays positive semidefinite, keeps its rank, and is accurate relative
    to its own trace however far it decays. (Directions of variance below 1e-16 of that trace are rounding.) The number
    of steps grows like sqrt(lambda_H / lambda_W) times the last time, the cost of one like d^3. Unequal class sizes are
    allowed, in the model with 1/(2N) before the terms in H.

    Args:
        model: lambda_W > 0 and lambda_H >= 0; beta is ignored.
        stats: statistics at time zero; every class needs a sample.
        times: (T,) increasing, the first at least zero.
        rtol: relative tolerance of the integrator (Dormand and Prince, order 8), at least 3e-14.

    Raises:
        ValueError: if the times are not increasing or one is negative, a class has no samples, or the integrator
            gives up.
    """
    _checks.instance("model", model, Model)
    _checks.instance("stats", stats, ClassStatistics)
    t = _times(times)
    _checks.every_class(stats.counts)
    flow = _Flow(model, stats)
    with threadpool_limits(1 if stats.d < 256 else None, user_api="blas"):
        states = flow.solve(t, rtol)
    points = [flow.statistics(state) for state in states]
    transport = tuple(exp(state[-1]) * flow.split(state)[1] for state in states)
    return CentralPath(t, tuple(points), stats, transport, flow.whiten)


class _Flow:
    """The right-hand side on the state (B, X, s), one flat vector, with the means Hbar = B V^T.

    For balanced classes V spans the row space of Hbar(0): the flow keeps the kernel of Hbar, and equal means equal, but
    rounding would be amplified there. Otherwise V is the identity.
    """

    def __init__(self, model: Model, stats: ClassStatistics):
        self.model, self.stats = model, stats
        self.shares, self.V = stats.shares, np.eye(stats.K)
        if stats.balanced:
            _, a, VT = linalg.svd(stats.means, full_matrices=False)
            self.V = VT[a > a[0] * max(stats.means.shape) * np.finfo(float).eps].T
            self.shares = np.ones(self.V.shape[1])
        variances, basis = linalg.eigh(stats.within, driver="evd")
        keep = variances > max(variances[-1], 0) * stats.d * np.finfo(float).eps
        self.factor = basis[:, keep] * np.sqrt(variances[keep])
        self.whiten = (basis[:, keep] / np.sqrt(variances[keep])).T
        self.rank = int(keep.sum())

    def split(self, state):
        """B (d, rank of the means) and X (d, rank of Sigma_W)."""
        d, size = self.stats.d, self.stats.d * self.V.shape[1]
        return state[:size].reshape(d, -1), state[size:-1].reshape(d, self.rank)

    def slope(self, _, state):
        """Time derivative of (B, X, s); s takes up the decay of the norm of X."""
        B, X = self.split(state)
        lam, lambda_W = self.model.lambda_H, self.model.lambda_W
        weighted = B * self.shares
        T = weighted @ B.T + (self.stats.K * exp(2 * state[-1])) * (X @ X.T)
        T.flat[:: len(T) + 1] += lambda_W
        factor = linalg.cho_factor(T, lower=True, overwrite_a=True, check_finite=False)
        W = linalg.cho_solve(factor, weighted, check_finite=False).T
        WX = W @ X
        # Any decay taken from X and given to s is exact; this one keeps the norm of X where it is.
        decay = np.sum(WX**2) / max(np.sum(X**2), 0.5)
        mean_slope = W.T @ (np.eye(len(W)) - W @ B) - lam * B
        return np.concatenate([mean_slope.ravel(), (decay * X - W.T @ WX).ravel(), [-lam - decay]])

    def solve(self, times, rtol):
        """The states at the given times; the integrator restarts at each, so none is interpolated."""
        norm = np.linalg.norm(self.factor)
        X = self.factor / norm if self.rank else self.factor
        state = np.concatenate(
            [(self.stats.means @ self.V).ravel(), X.ravel(), [np.log(norm) if self.rank else 0.0]]
        )
        now, step, states = 0.0, None, []
        for time in times:
            if time > now:
                first = None if step is None else min(step, time - now)
                result = solve_ivp(
                    self.slope,
                    (now, time),
                    state,
                    method="DOP853",
                    rtol=rtol,
                    atol=self.atol(rtol),
                    first_step=first,
                )
                if not result.success:
                    raise ValueError(
                        f"the flow was lost between t = {now:.6g} and {time:.6g}: {result.message}"
                    )
                state, now = result.y[:, -1], time
                step = np.diff(result.t).max()
            states.append(state)
        return states

    def atol(self, rtol):
        """Absolute tolerance, relative to the size of the means and of X as wholes and to one in the exponent."""
        scale = (
            np.linalg.norm(self.stats.means)
            + np.linalg.norm(self.factor)
            + np.sqrt(self.model.lambda_W)
        )
        size = self.stats.d * self.V.shape[1]
        return rtol * np.concatenate([np.full(size, scale), np.ones(self.factor.size), [1.0]])

    def statistics(self, state):
        """Class statistics of one state."""
        B, X = self.split(state)
        F = exp(state[-1]) * X
        return ClassStatistics(self.stats.counts, B @ self.V.T, F @ F.T, self.stats.resolution)


def _times(times: ArrayLike) -> np.ndarray:
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
