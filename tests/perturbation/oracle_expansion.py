"""The features problem with optimal weights on all columns: derivatives by autograd, the flow."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

from tests.foundations.oracle_model import dense_objective, one_hot


def potential(model, labels, K):
    """N times the smallest objective of Eq. 1 over the weights, as a function of features."""
    Y = torch.tensor(one_hot(labels, K), dtype=torch.float64)
    N = Y.shape[1]

    def value(features):
        H = features.T
        W = torch.linalg.solve(
            H @ H.T + N / K * model.lambda_W * torch.eye(len(H), dtype=H.dtype), H @ Y.T
        ).T
        return N * dense_objective(type(model)(model.lambda_W, model.lambda_H), W, H, H, Y)

    return value


def derivatives(model, features, labels, Z):
    """g(H), g'[Z] and g''[Z, Z] (N, d): gradients of the potential and its derivatives along Z."""
    H = torch.tensor(features, requires_grad=True)
    Z = torch.tensor(Z)
    value, found = potential(model, labels, labels.max() + 1)(H), []
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, H, create_graph=True)
        found.append(gradient.detach().numpy())
        value = (gradient * Z).sum()
    return tuple(found)


def dense_flow(model, features, labels, times, method="RK45"):
    """The gradient flow of all samples, (T, N, d)."""
    (N, d), K = features.shape, labels.max() + 1
    Y = one_hot(labels, K)

    def velocity(_, h):
        H = h.reshape(N, d).T
        W = np.linalg.solve(H @ H.T + N / K * model.lambda_W * np.eye(d), H @ Y.T).T
        return -(W.T @ (W @ H - Y) + model.lambda_H * H).T.ravel()

    path = solve_ivp(
        velocity, (0, times[-1]), features.ravel(), method, times, rtol=1e-11, atol=1e-12
    )
    return path.y.T.reshape(len(times), N, d)
