r"""The gradient flow in class statistics, stage by stage, so that long and stiff runs end.

With W = W*(H), the class means and the deviations :math:`\Delta = H - \bar H` obey

.. math::
    \frac{d\bar H}{dt} = W^\top(I - W\bar H) - \lambda_H\bar H, \qquad
    \frac{d\Delta}{dt} = -(W^\top W + \lambda_H I)\,\Delta .

What makes this stiff is W^T W. It acts in the span of the means, where it makes the spread decay
as fast as the equations are stiff, unless the spread there is correlated with spread off the span:
then the weights tilt, and it decays with lambda_H. So the flow has three stages:

1. ``Coupled``: means and spread together, until the spread in the span of the means is too small to
   be seen by the weights.
2. ``_Axes`` for balanced classes, ``_Plane`` otherwise: the means keep their span and know nothing
   of the spread; the spread off the span decays with lambda_H, that in the span by a linear
   equation in as many dimensions as there are means. The axes of balanced means flow one by one.
3. ``_Still``: the means rest, and the spread is an exponential function of time.
"""

from abc import ABC, abstractmethod
from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.integrate import DOP853, LSODA, OdeSolver

from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.weight_solve import WeightSolve

EXPLICIT_STEPS = 300  # to one requested time; more are a sign of stiffness
LARGEST_JACOBIAN = 3_000  # numbers in the state of an implicit method
MOST_STEPS = 50_000


class _Span(NamedTuple):
    """The span of the means when the spread has left it, and what does not change from then on.

    Attributes:
        U: Orthonormal basis of the span, shape (d, m).
        V: Class means are ``U @ B @ V.T`` for some B; shape (K, columns of B).
        shares: Relative class sizes, one for each column of B.
        inside: Deviations in the span, ``U.T @ Delta``, shape (m, r).
        outside: Deviations off the span, shape (d, r).
    """

    U: np.ndarray
    V: np.ndarray
    shares: np.ndarray
    inside: np.ndarray
    outside: np.ndarray


class Stage(ABC):
    """A stage of the flow: a state that can be moved on in time.

    Attributes:
        model: The decays.
        rtol: Relative tolerance.
        scale: Size of means and spread as wholes; absolute tolerances are relative to it.
    """

    def __init__(self, model: Model, rtol: float, scale: float):
        self.model, self.rtol, self.scale = model, rtol, scale

    @abstractmethod
    def advance(self, now: float, end: float) -> float:
        """Move from time ``now`` to ``end`` or the end of the stage; return the time reached."""

    @abstractmethod
    def next(self) -> "Stage":
        """The stage after this one, from where this one ended."""

    @abstractmethod
    def means(self) -> np.ndarray:
        """Class means, shape (d, K)."""

    @abstractmethod
    def deviations(self) -> np.ndarray:
        """Deviations that started as the factor of Sigma_W, shape (d, r)."""


class _Integrated(Stage):
    """A stage whose state is a vector that a method of numerical integration moves on.

    It is an explicit Runge-Kutta method of order 8 (Dormand and Prince), and where this takes many
    steps and the state is not too large, LSODA (Petzold and Hindmarsh), which finds out whether
    the equations are stiff and is then implicit. Both restart at each requested time, so that no
    state is interpolated.
    """

    state: np.ndarray
    step: float | None = None
    stiff: bool = False

    @abstractmethod
    def slope(self, time: float, state: np.ndarray) -> np.ndarray:
        """Time derivative of the state."""

    @abstractmethod
    def tolerance(self) -> np.ndarray:
        """Absolute tolerance of each entry of the state."""

    @abstractmethod
    def over(self, remaining: float) -> bool:
        """Whether the stage ends here, when ``remaining`` is the time still to go."""

    def advance(self, now: float, end: float) -> float:
        """Integrate from time ``now`` to ``end``, or to the end of the stage."""
        if self.over(end - now):
            return now
        solver, longest = self._solver(now, end), 0.0
        for count in range(MOST_STEPS):
            if count == EXPLICIT_STEPS and self.state.size <= LARGEST_JACOBIAN:
                self.stiff = True
                solver = self._solver(solver.t, end)
            message = solver.step()
            if solver.status == "failed":
                raise ValueError(
                    f"the flow was lost between t = {now:.6g} and {end:.6g}: {message}"
                )
            self.state, longest = solver.y, max(longest, solver.step_size)
            if solver.status == "finished" or self.over(end - solver.t):
                self.step = longest
                return float(solver.t)
        raise ValueError(
            f"the flow is too stiff: {MOST_STEPS:,} steps from t = {now:.6g} led to "
            f"t = {solver.t:.6g}, not to {end:.6g}."
        )

    def _solver(self, now: float, end: float) -> OdeSolver:
        if self.stiff:  # the global error of LSODA is some ten times larger for the same tolerance
            rtol, atol = max(self.rtol / 10, 1e-13), self.tolerance() / 10
            return LSODA(self.slope, now, self.state, end, rtol=rtol, atol=atol)
        first = None if self.step is None else min(self.step, end - now)
        atol = self.tolerance()
        return DOP853(self.slope, now, self.state, end, rtol=self.rtol, atol=atol, first_step=first)


class Coupled(_Integrated):
    """Stage 1: the state (B, X, s) with means B V^T and deviations exp(s) X, as one flat vector.

    Sigma_W is carried as exp(2s) X X^T with X of norm one and as many columns as Sigma_W has rank:
    it stays positive semidefinite, keeps its rank, and is accurate relative to its own trace
    however far it decays. For balanced classes V spans the row space of the means at time zero:
    the flow keeps their kernel, and equal means equal, but rounding would be amplified there.
    Otherwise V is the identity.
    """

    def __init__(self, model: Model, stats: ClassStatistics, factor: np.ndarray, rtol: float):
        norm = float(np.linalg.norm(factor))
        size = float(np.linalg.norm(stats.means)) + norm + sqrt(model.lambda_W)
        super().__init__(model, rtol, size)
        self.K, self.balanced = stats.K, stats.balanced
        self.shares, self.V = stats.shares, np.eye(stats.K)
        if stats.balanced:
            _, h, rows = linalg.svd(stats.means, full_matrices=False)
            self.V = rows[h > h[0] * max(stats.means.shape) * np.finfo(float).eps].T
            self.shares = np.ones(self.V.shape[1])
        B = stats.means @ self.V
        X = factor / norm if norm > 0 else factor
        self.shapes = B.shape, X.shape
        self.state = np.concatenate([B.ravel(), X.ravel(), [log(norm) if norm > 0 else 0.0]])

    def split(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """B, X and s."""
        size = self.shapes[0][0] * self.shapes[0][1]
        B = state[:size].reshape(self.shapes[0])
        return B, state[size:-1].reshape(self.shapes[1]), float(state[-1])

    def slope(self, time: float, state: np.ndarray) -> np.ndarray:
        """Time derivative of (B, X, s); s takes up the decay of the norm of X."""
        B, X, s = self.split(state)
        return _joint_slope(self.model, self.shares, self._moment(B, X, s), B, X)

    def _moment(self, B: np.ndarray, X: np.ndarray, s: float) -> np.ndarray:
        """The second moment of the features, with means and spread."""
        return _moment(B, self.shares) + (self.K * exp(2 * s)) * (X @ X.T)

    def tolerance(self) -> np.ndarray:
        """Relative to the size of the means and of X as wholes, and to one in the exponent."""
        means, spread = (shape[0] * shape[1] for shape in self.shapes)
        return self.rtol * np.concatenate([np.full(means, self.scale), np.ones(spread + 1)])

    def over(self, remaining: float) -> bool:
        """Whether the weights no longer see the spread in the span of the means.

        They see its square beside B D B^T + lambda_W I, which is never less than lambda_W, and its
        correlation with the spread off the span, by which they tilt. Both only decrease from here,
        down to the errors of the integration.
        """
        B, X, s = self.split(self.state)
        lambda_W, tolerance = self.model.lambda_W, (10 if self.stiff else 1) * self.rtol
        inside = exp(s) * np.linalg.norm(_basis(B).T @ X) if X.size else 0.0
        if not self.K * inside**2 <= tolerance * lambda_W:
            return False
        alone = _weights(self.model, self.shares, _moment(B, self.shares), B)
        change = _weights(self.model, self.shares, self._moment(B, X, s), B) - alone
        return bool(np.linalg.norm(change) <= tolerance * np.linalg.norm(alone))

    def next(self) -> Stage:
        """The stage of the means alone."""
        B, X, s = self.split(self.state)
        Delta = exp(s) * X
        U = _basis(B)
        inside = U.T @ Delta
        outside = Delta - U @ inside
        # Sigma_W has no deviations below 1e-8 of the largest: what is much smaller is rounding,
        # which would outlive the spread in the span.
        if np.linalg.norm(outside) <= 1e-12 * np.linalg.norm(Delta):
            outside = np.zeros_like(Delta)
        span = _Span(U, self.V, self.shares, inside, outside)
        following = _Still if U.size == 0 else _Axes if self.balanced else _Plane
        return following(self.model, self.rtol, self.scale, span, U.T @ B)

    def means(self) -> np.ndarray:
        """Class means, shape (d, K)."""
        return self.split(self.state)[0] @ self.V.T

    def deviations(self) -> np.ndarray:
        """Deviations that started as the factor of Sigma_W, shape (d, r)."""
        _, X, s = self.split(self.state)
        return exp(s) * X


class _Decoupled(_Integrated):
    """Stage 2: the means move in their own span, whatever the spread does.

    Attributes:
        span: What was given at the start of the stage.
        elapsed: Time since then.
    """

    def __init__(self, model: Model, rtol: float, scale: float, span: _Span):
        super().__init__(model, rtol, scale)
        self.span, self.elapsed = span, 0.0

    @abstractmethod
    def B(self) -> np.ndarray:
        """The means in the span."""

    def rest(self) -> np.ndarray:
        """Where the means come to rest."""
        return self.B()

    @abstractmethod
    def inside(self) -> np.ndarray:
        """The deviations in the span, shape (m, r)."""

    def outside(self) -> np.ndarray:
        """The deviations off the span, shape (d, r)."""
        return exp(-self.model.lambda_H * self.elapsed) * self.span.outside

    def advance(self, now: float, end: float) -> float:
        """Integrate, and keep the time for the decay off the span."""
        reached = super().advance(now, end)
        self.elapsed += reached - now
        return reached

    def next(self) -> Stage:
        """The stage of resting means."""
        span = self.span._replace(inside=self.inside(), outside=self.outside())
        return _Still(self.model, self.rtol, self.scale, span, self.rest())

    def means(self) -> np.ndarray:
        """Class means, shape (d, K)."""
        return self.span.U @ self.B() @ self.span.V.T

    def deviations(self) -> np.ndarray:
        """Deviations that started as the factor of Sigma_W, shape (d, r)."""
        return self.span.U @ self.inside() + self.outside()


class _Axes(_Decoupled):
    r"""Stage 2 for balanced classes: every axis of the means U diag(h) V^T on its own.

    .. math::
        \frac{dh_i}{dt} = \left(\frac{\lambda_W}{(h_i^2 + \lambda_W)^2} - \lambda_H\right)h_i,
        \qquad \frac{d\ell_i}{dt} = w_i^2, \quad w_i = \frac{h_i}{h_i^2 + \lambda_W},

    and the deviations along axis i shrink by :math:`e^{-\ell_i - \lambda_H t}`. Nothing is stiff.
    The state is (h, l).
    """

    def __init__(self, model: Model, rtol: float, scale: float, span: _Span, B: np.ndarray):
        left, h, rows = linalg.svd(B, full_matrices=False)
        U, inside = span.U @ left, left.T @ span.inside
        super().__init__(model, rtol, scale, span._replace(U=U, V=span.V @ rows.T, inside=inside))
        self.state = np.concatenate([h, np.zeros(len(h))])

    def slope(self, time: float, state: np.ndarray) -> np.ndarray:
        """Time derivative of (h, l)."""
        h, _ = np.split(state, 2)
        total = h**2 + self.model.lambda_W
        growth = self.model.lambda_W / total**2 - self.model.lambda_H
        return np.concatenate([growth * h, (h / total) ** 2])

    def tolerance(self) -> np.ndarray:
        """Relative to the size of the means, and to one in the exponents."""
        m = len(self.state) // 2
        return self.rtol * np.repeat([self.scale, 1.0], m)

    def over(self, remaining: float) -> bool:
        """Whether no axis will move any more, beyond the tolerance.

        What is left of its way is the speed over the rate at which that falls, if it does.
        """
        speed, rate = self._speed()
        way = np.abs(speed) / np.maximum(rate, 1 / remaining)
        return bool(np.sum(way) <= self.rtol * self.scale)

    def _speed(self) -> tuple[np.ndarray, np.ndarray]:
        """The time derivative of h, and the rate at which it falls."""
        h, _ = np.split(self.state, 2)
        speed, _ = np.split(self.slope(0.0, self.state), 2)
        lambda_W, lambda_H = self.model.lambda_W, self.model.lambda_H
        return speed, lambda_H + lambda_W * (3 * h**2 - lambda_W) / (h**2 + lambda_W) ** 3

    def rest(self) -> np.ndarray:
        """The means in the span one Newton step on, which is within the tolerance."""
        speed, rate = self._speed()
        near = np.abs(speed) < rate * self.rtol * self.scale
        return self.B() + np.diag(np.where(near, speed / np.where(near, rate, 1), 0.0))

    def B(self) -> np.ndarray:
        """The means in the span, diag(h)."""
        return np.diag(np.split(self.state, 2)[0])

    def inside(self) -> np.ndarray:
        """The deviations in the span, shape (m, r)."""
        _, exponents = np.split(self.state, 2)
        decay = np.exp(-exponents - self.model.lambda_H * self.elapsed)
        return decay[:, None] * self.span.inside


class _Plane(_Decoupled):
    """Stage 2 for unequal classes: the state (B, X, s) with means U B V^T.

    The deviations in the span are exp(s) X times those at the start of the stage.
    """

    def __init__(self, model: Model, rtol: float, scale: float, span: _Span, B: np.ndarray):
        super().__init__(model, rtol, scale, span)
        self.shape = B.shape
        self.state = np.concatenate([B.ravel(), np.eye(len(B)).ravel(), [0.0]])

    def split(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """B, X and s."""
        m, columns = self.shape
        B = state[: m * columns].reshape(m, columns)
        return B, state[m * columns : -1].reshape(m, m), float(state[-1])

    def slope(self, time: float, state: np.ndarray) -> np.ndarray:
        """Time derivative of (B, X, s)."""
        B, X, _ = self.split(state)
        return _joint_slope(self.model, self.span.shares, _moment(B, self.span.shares), B, X)

    def tolerance(self) -> np.ndarray:
        """Relative to the size of the means, and to one in X and in the exponent."""
        m, columns = self.shape
        return self.rtol * np.concatenate([np.full(m * columns, self.scale), np.ones(m * m + 1)])

    def over(self, remaining: float) -> bool:
        """Whether the means will not move any more, beyond the tolerance.

        What is left of their way is the speed over the rate at which that falls, if it does.
        """
        size = self.shape[0] * self.shape[1]
        speed = self.slope(0.0, self.state)[:size]
        norm = float(np.linalg.norm(speed))
        tolerance = self.rtol * self.scale
        if norm * remaining <= tolerance:
            return True
        nudge = 1e-5 * self.scale
        ahead = self.state.copy()
        ahead[:size] += nudge / norm * speed
        rate = (speed - self.slope(0.0, ahead)[:size]) @ speed / (nudge * norm)
        return bool(norm <= rate * tolerance)

    def B(self) -> np.ndarray:
        """The means in the span."""
        return self.split(self.state)[0]

    def inside(self) -> np.ndarray:
        """The deviations in the span, shape (m, r)."""
        _, X, s = self.split(self.state)
        return exp(s) * (X @ self.span.inside)


class _Still(Stage):
    r"""Stage 3: the means rest, and :math:`\Delta(t) = e^{-t(W^\top W + \lambda_H I)}\Delta(0)`."""

    def __init__(self, model: Model, rtol: float, scale: float, span: _Span, B: np.ndarray):
        super().__init__(model, rtol, scale)
        self.span = span
        self.rates: np.ndarray = np.zeros(len(B))
        if B.size:
            W = _weights(model, span.shares, _moment(B, span.shares), B)
            self.rates, axes = linalg.eigh(W.T @ W)
            self.span = span._replace(U=span.U @ axes, inside=axes.T @ span.inside)
        self.resting = span.U @ B @ span.V.T
        self.elapsed = 0.0

    def advance(self, now: float, end: float) -> float:
        """Let the time pass."""
        self.elapsed += end - now
        return end

    def next(self) -> Stage:
        """This stage is the last."""
        return self

    def means(self) -> np.ndarray:
        """Class means, shape (d, K)."""
        return self.resting

    def deviations(self) -> np.ndarray:
        """Deviations that started as the factor of Sigma_W, shape (d, r)."""
        decay = np.exp(-self.elapsed * (np.maximum(self.rates, 0) + self.model.lambda_H))
        outside = exp(-self.elapsed * self.model.lambda_H) * self.span.outside
        return (self.span.U * decay) @ self.span.inside + outside


def _basis(B: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the range of B, up to rounding."""
    if B.size == 0:
        return np.zeros((len(B), 0))
    U, h, _ = linalg.svd(B, full_matrices=False)
    return U[:, h > h[0] * max(B.shape) * np.finfo(float).eps]


def _moment(B: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """B D B^T."""
    return (B * shares) @ B.T


def _weights(model: Model, shares: np.ndarray, T: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The optimal weights D B^T (T + lambda_W I)^{-1} for means B and second moment T."""
    return WeightSolve(T, model.lambda_W).right((B * shares).T)


def _joint_slope(
    model: Model, shares: np.ndarray, T: np.ndarray, B: np.ndarray, X: np.ndarray
) -> np.ndarray:
    """Time derivative of means B, of deviations exp(s) X, and of s, for the second moment T."""
    W = _weights(model, shares, T, B)
    WX = W @ X
    # Any decay taken from X and given to s is exact; this one keeps the norm of X where it is.
    decay = np.sum(WX**2) / max(np.sum(X**2), 0.5)
    mean_slope = W.T @ (np.eye(len(W)) - W @ B) - model.lambda_H * B
    spread_slope = decay * X - W.T @ WX
    return np.concatenate([mean_slope.ravel(), spread_slope.ravel(), [-model.lambda_H - decay]])
