"""Layers with shared weights on all columns; derivatives by automatic differentiation."""

import numpy as np
import torch
from scipy import optimize


def one_hot(labels):
    return np.eye(int(np.max(labels)) + 1)[:, labels]


def layers_objective(lambda_W, lambda_B, W, maps, H0, Y, skip=True):
    """f with W (K, d), maps (L, d, d) that are I + B in a residual block and B in a plain one."""
    K, N = Y.shape
    H, paid = H0, 0.0
    for A in maps:
        H = A @ H
        paid = paid + ((A - torch.eye(len(A), dtype=A.dtype) if skip else A) ** 2).sum()
    fit = ((W @ H - Y) ** 2).sum() / (2 * N)
    return fit + lambda_W / (2 * K) * (W**2).sum() + lambda_B / 2 * paid


def linked_objective(model, lambda_B, W, block, H, H0, Y):
    """f with both links; block is I + B."""
    K, N = Y.shape
    fit = ((W @ H - Y) ** 2).sum() + model.lambda_H * (H**2).sum()
    pull = model.beta * ((H - block @ H0) ** 2).sum()
    decay = model.lambda_W / (2 * K) * (W**2).sum()
    moved = block - torch.eye(len(block), dtype=block.dtype)
    return (fit + pull) / (2 * N) + decay + lambda_B / 2 * (moved**2).sum()


def kernel_objective(lambda_W, lambda_H, kernel, W, H, H0, Y):
    """f with the pseudoinverse of the kernel written out."""
    K, N = Y.shape
    D = H - H0
    link = torch.trace(D @ torch.linalg.pinv(kernel, hermitian=True, rtol=1e-12) @ D.T)
    fit = ((W @ H - Y) ** 2).sum() + lambda_H * (H**2).sum()
    return (fit + link) / (2 * N) + lambda_W / (2 * K) * (W**2).sum()


def gradients(function, *arrays):
    """Value of a function of several arrays, and its gradients."""
    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in arrays]
    value = function(*tensors)
    value.backward()
    return value.item(), [t.grad.numpy() for t in tensors]


def lowest(function, shapes, starts, seed=0, centers=None):
    """The lowest value that BFGS reaches from random starts in all variables."""
    rng = np.random.default_rng(seed)
    splits = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def flat(x):
        parts = np.split(x, splits[:-1])
        value, found = gradients(
            function, *(p.reshape(s) for p, s in zip(parts, shapes, strict=True))
        )
        return value, np.concatenate([g.ravel() for g in found])

    center = 0 if centers is None else np.concatenate([np.ravel(c) for c in centers])
    best = np.inf
    for size in np.geomspace(0.2, 2, starts):
        start = center + size * rng.standard_normal(splits[-1])
        options = {"gtol": 1e-9, "maxiter": 2000}
        best = min(best, optimize.minimize(flat, start, jac=True, options=options).fun)
    return best
