"""Cross-entropy with all its variables, and its derivatives by automatic differentiation."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize


class Variables(NamedTuple):
    """Weights (K, d), bias (K,) and features (N, d)."""

    weights: np.ndarray
    bias: np.ndarray
    features: np.ndarray


def value(model, W, offset, H, H0, y):
    """f term by term, for torch tensors; y is a tensor of labels."""
    N, K = len(H), len(W)
    fit = torch.nn.functional.cross_entropy(H @ W.T + offset, y, reduction="sum") / N
    decay = model.lambda_W / (2 * K) * (W**2).sum() + model.lambda_H / (2 * N) * (H**2).sum()
    return fit + decay + model.beta / (2 * N) * ((H - H0) ** 2).sum()


def unpack(v, K, d, N, bias):
    """Variables from a flat vector; the bias is zero where there is none."""
    W, rest = v[: K * d].reshape(K, d), v[K * d :]
    if bias:
        return W, rest[:K], rest[K:].reshape(N, d)
    return W, torch.zeros(K, dtype=v.dtype), rest.reshape(N, d)


def pack(x: Variables, bias) -> np.ndarray:
    parts = [x.weights.ravel(), *([x.bias] if bias else []), x.features.ravel()]
    return np.concatenate(parts)


def flat(model, H0, y, K, bias):
    """f as a function of one flat tensor."""
    N, d = H0.shape
    inputs, labels = torch.tensor(H0), torch.tensor(y)
    return lambda v: value(model, *unpack(v, K, d, N, bias), inputs, labels)


def gradient(model, x: Variables, H0, y, bias) -> Variables:
    """Gradient of f; zero in the bias where there is none."""
    v = torch.tensor(pack(x, bias), requires_grad=True)
    flat(model, H0, y, len(x.weights), bias)(v).backward()
    W, offset, H = unpack(v.grad, *x.weights.shape, len(H0), bias)
    return Variables(W.numpy(), offset.numpy(), H.numpy())


def hessian(model, x: Variables, H0, y, bias) -> tuple[np.ndarray, int]:
    """Hessian of f in all variables, and how many of them belong to the last layer."""
    v = torch.tensor(pack(x, bias))
    full = torch.autograd.functional.hessian(flat(model, H0, y, len(x.weights), bias), v)
    return full.numpy(), v.numel() - H0.size


def dense_response(model, x: Variables, H0, y, bias) -> tuple[np.ndarray, np.ndarray]:
    """F (Nd, Nd), and the change of weights and bias, as dense matrices; bias with sum zero."""
    full, m = hessian(model, x, H0, y, bias)
    right = np.vstack([np.zeros((m, H0.size)), model.beta / len(H0) * np.eye(H0.size)])
    # The one direction without curvature is a bias that is the same for all classes.
    response = np.linalg.pinv(full, rcond=1e-13, hermitian=True) @ right
    return response[m:], response[:m]


def reduced_hessian(model, x: Variables, H0, y, bias) -> np.ndarray:
    """Hessian of min_H f in weights and bias, at features that are optimal for them."""
    full, m = hessian(model, x, H0, y, bias)
    return full[:m, :m] - full[:m, m:] @ np.linalg.solve(full[m:, m:], full[m:, :m])


def plain_minimum(model, H0, y, K, bias, start):
    """What L-BFGS finds from a start, over all variables."""
    f = flat(model, H0, y, K, bias)

    def both(v):
        t = torch.tensor(v, requires_grad=True)
        result = f(t)
        result.backward()
        return result.item(), t.grad.numpy()

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    return scipy_minimize(both, start, jac=True, method="L-BFGS-B", options=options)
