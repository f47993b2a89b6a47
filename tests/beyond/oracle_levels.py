"""The model with several levels on all its columns: objective and gradient, slow and plain."""

from typing import NamedTuple

import numpy as np


class Network(NamedTuple):
    """Weight decay of the last layer, decays of the levels 1 to L, and links between the levels 0
    to L.
    """

    lambda_W: float
    decays: np.ndarray
    links: np.ndarray


def chain(lambda_W, decays, pulls) -> Network:
    """Only neighbors are linked."""
    links = np.zeros((len(pulls) + 1, len(pulls) + 1))
    for l, pull in enumerate(pulls):
        links[l, l + 1] = links[l + 1, l] = pull
    return Network(lambda_W, np.asarray(decays, dtype=float), links)


def objective(network, W, levels, Y):
    """f, its gradient in W and in the levels 1 to L; levels is H_0 ... H_L, each (d, N)."""
    lambda_W, decays, links = network
    L, (K, N) = len(decays), Y.shape
    E = W @ levels[L] - Y
    value = np.sum(E**2) / (2 * N) + lambda_W / (2 * K) * np.sum(W**2)
    gradients = [np.zeros_like(H) for H in levels]
    for l in range(1, L + 1):
        value += decays[l - 1] * np.sum(levels[l] ** 2) / (2 * N)
        gradients[l] += decays[l - 1] * levels[l] / N
    for i in range(L + 1):
        for j in range(i + 1, L + 1):
            difference = levels[i] - levels[j]
            value += links[i, j] * np.sum(difference**2) / (2 * N)
            gradients[i] += links[i, j] * difference / N
            gradients[j] -= links[i, j] * difference / N
    gradients[L] += W.T @ E / N
    return value, E @ levels[L].T / N + lambda_W / K * W, gradients[1:]


def quadratic(network) -> np.ndarray:
    """The matrix of sum_l lambda_l |H_l|^2 + sum_ij beta_ij |H_i - H_j|^2, levels 0 to L, (L + 1, L
    + 1).
    """
    links = network.links
    return np.diag(links.sum(axis=1)) - links + np.diag([0.0, *network.decays])
