"""The perturbed model written out on full matrices; derivatives by automatic differentiation."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize

from nclib import ClassStatistics, Model
from nclib.workbench import Problem, random_problem  # noqa: F401, handed on


def dense_objective(model: Model, W, H, H0, Y):
    """f(W, H; H0) term by term; W (K, d), H and H0 (d, N), Y (K, N); NumPy or torch."""
    K, N = Y.shape
    fit = ((W @ H - Y) ** 2).sum() / (2 * N)
    decay = model.lambda_W / (2 * K) * (W**2).sum() + model.lambda_H / (2 * N) * (H**2).sum()
    return fit + decay + model.beta / (2 * N) * ((H - H0) ** 2).sum()


def one_hot(labels, K) -> np.ndarray:
    """Y (K, N)."""
    return np.eye(K)[:, labels]


def dense_reduced(model: Model, W, H0, Y):
    """min_H f(W, H; H0) by solving for all N columns of H."""
    b = model.lambda_H + model.beta
    H = np.linalg.solve(W.T @ W + b * np.eye(W.shape[1]), W.T @ Y + model.beta * H0)
    return dense_objective(model, W, H, H0, Y), H


def reduced_hessian(problem: Problem, W) -> np.ndarray:
    """Hessian (Kd, Kd) of W -> K min_H f at W, by differentiating the solve over all columns."""
    model, H0 = problem.model, torch.tensor(problem.features.T)
    Y = torch.tensor(one_hot(problem.labels, W.shape[0]))
    b = model.lambda_H + model.beta

    def phi(w):
        w = w.reshape(W.shape)
        H = torch.linalg.solve(
            w.T @ w + b * torch.eye(W.shape[1], dtype=w.dtype), w.T @ Y + model.beta * H0
        )
        return W.shape[0] * dense_objective(model, w, H, H0, Y)

    return torch.autograd.functional.hessian(phi, torch.tensor(W).reshape(-1)).numpy()


class Dense:
    """The reduced problem K min_H f of one instance, from all N columns and by dense algebra.

    Weights are in the original basis. Everything that the library computes from statistics is
    here a sum over samples or the solution of a d x d system.
    """

    def __init__(self, problem: Problem):
        self.problem, self.model = problem, problem.model
        self.K, self.d = int(problem.labels.max()) + 1, problem.features.shape[1]
        self.H0, self.Y = problem.features.T, one_hot(problem.labels, self.K)
        self.size = self.H0.shape[1] / self.K

    def features(self, W):
        return dense_reduced(self.model, W, self.H0, self.Y)[1]

    def value(self, W) -> float:
        return self.K * dense_reduced(self.model, W, self.H0, self.Y)[0]

    def gradient(self, W):
        H = self.features(W)
        return (W @ H - self.Y) @ H.T / self.size + self.model.lambda_W * W

    def hessian(self, W):
        return reduced_hessian(self.problem, W)

    def dual(self, W, q) -> float:
        """The dual function at U diag(q) U^T E, with the N x N matrix written out."""
        model, N = self.model, self.H0.shape[1]
        mu = self.size * model.lambda_W
        E = W @ self.features(W) - self.Y
        _, U = np.linalg.eigh(E @ E.T)
        L = U @ np.diag(q) @ U.T @ E
        inside = model.b * np.eye(N) - L.T @ L / mu
        assert np.linalg.eigvalsh(inside)[0] > 0
        value = -0.5 * np.sum(L**2) - np.sum(L * self.Y) + model.beta / 2 * np.sum(self.H0**2)
        value -= model.beta**2 / 2 * np.trace(self.H0 @ np.linalg.solve(inside, self.H0.T))
        return value / self.size

    def lowest_of_random_starts(self, count: int, seed: int) -> float:
        """The lowest value that L-BFGS reaches from random weights of different sizes."""
        rng = np.random.default_rng(seed)
        shape = (self.K, self.d)
        options = {"maxiter": 500, "maxfun": 1000, "ftol": 1e-14, "gtol": 1e-9}
        lowest = np.inf
        for _ in range(count):
            size = 10 ** rng.uniform(-2, 0.5) / np.sqrt(self.model.lambda_W)
            run = optimize.minimize(
                lambda w: (self.value(w.reshape(shape)), self.gradient(w.reshape(shape)).ravel()),
                size * rng.standard_normal(self.K * self.d),
                jac=True,
                method="L-BFGS-B",
                options=options,
            )
            lowest = min(lowest, run.fun)
        return lowest


class Family(NamedTuple):
    """What is unusual about the features of a random problem."""

    dead: int = 0  # units that are zero for every sample
    rank: int | None = None  # of H0
    equal: bool = False  # whether two classes have the same mean
    counts: tuple[int, ...] | None = None
    K: int = 3
    d: int = 6
    scale: float = 1.0
    beta: float = 0.3
    spread: float = 0.7


def family_problem(seed: int, family: Family) -> Problem:
    """A random problem of a family."""
    rng = np.random.default_rng(seed)
    K, d = family.K, family.d
    labels = np.repeat(np.arange(K), 5 if family.counts is None else family.counts)
    means = rng.standard_normal((K, d))
    noise = family.spread * rng.standard_normal((len(labels), d))
    if family.equal:
        means[-1] = means[0]
        noise -= np.stack([noise[labels == k].mean(axis=0) for k in range(K)])[labels]
    features = means[labels] + noise
    if family.rank is not None:
        features = features[:, : family.rank] @ rng.standard_normal((family.rank, d))
    features[:, d - family.dead :] = 0
    return Problem(Model(0.01, 0.01, family.beta), family.scale * features, labels)


def families() -> Iterator[Family]:
    """Dead units, rank, equal means, imbalance, more classes than dimensions, scale, pull."""
    counts = (1, 9, 4)
    for dead in (1, 3, 5):
        yield Family(dead=dead)
        yield Family(dead=dead, counts=counts, beta=0.05)
    for rank in (1, 2, 3):
        yield Family(rank=rank, spread=3.0)
        yield Family(rank=rank, counts=counts)
    for equal in (False, True):
        yield Family(equal=equal, counts=counts, spread=2.0)
        yield Family(equal=equal, dead=2, beta=0.02)
    for scale in (1e-3, 30.0):
        yield Family(scale=scale, dead=4)
        yield Family(scale=scale, counts=counts)
    yield Family(K=6, d=2)
    yield Family(K=6, d=3, dead=1, scale=10.0)
    yield Family(K=5, d=1, counts=(2, 7, 1, 3, 8), spread=4.0)


def random_family(seed: int) -> tuple[Model, ClassStatistics]:
    """A small problem of any kind: dead units, low rank, zero means, lattices, extreme numbers."""
    rng = np.random.default_rng(seed)
    K, d, n = rng.integers(1, 6), rng.integers(1, 9), rng.integers(1, 7)
    labels = np.repeat(np.arange(K), n if rng.random() < 0.5 else rng.integers(1, 9, K))
    X = rng.normal(size=(K, d))[labels]
    X = X + 10 ** rng.uniform(-2, 0.7) * rng.normal(size=X.shape)
    kind = rng.integers(5)
    if kind == 1:
        X[:, rng.random(d) < 0.5] = 0
    if kind == 2:
        X = np.maximum(X - rng.uniform(0, 2), 0)
    if kind == 3:
        X = X[:, : rng.integers(1, d + 1)]
        X = X @ rng.normal(size=(X.shape[1], d))
    if kind == 4:
        X = np.round(2 * X) / 2
    X *= 10 ** rng.uniform(-1, 1)
    lambda_W, lambda_H = 10 ** rng.uniform(-3, 0.3, 2)
    model = Model(lambda_W, lambda_H, 10 ** rng.uniform(-3, 1.5))
    return model, ClassStatistics.from_features(X, labels)
