"""The perturbed model written out on full matrices; derivatives by automatic differentiation."""

import numpy as np
import torch

from nclib import Model
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
