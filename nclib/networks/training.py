"""Training by stochastic gradient descent, small enough to read and to repeat digit by digit."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class History(NamedTuple):
    """What training recorded after each epoch: the mean loss and the share of misclassified samples."""

    loss: np.ndarray
    error: np.ndarray


def train(
    network: nn.Module,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    drops: tuple[int, ...] = (),
    seed: int = 0,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> History:
    r"""Fit the scores to the one-hot labels by gradient descent with momentum.

    The objective is that of the unconstrained features model with the features replaced by a network,

    .. math:: \frac{1}{2N} \sum_i \|z_i - y_i\|^2 + \frac{w}{2} \|\theta\|^2,

    with the weight decay w on every parameter. (PyTorch's ``MSELoss`` is 2/K times the first term.) One
    thread is used, and in float64 two runs agree in all digits that one would print.

    Args:
        network: maps inputs (N, D) to scores (N, K); trained in place.
        features: inputs (N, D).
        labels: integer labels (N,).
        epochs: number of passes over the data.
        learning_rate: step length of the first epoch.
        momentum: factor of the running sum of gradients.
        weight_decay: the factor w above.
        batch_size: samples per step; all of them by default.
        drops: epochs after which the step length is divided by ten.
        seed: seed of the order in which samples are drawn.
        on_epoch: called as on_epoch(epoch, network) before training (epoch 0) and after every epoch.

    Returns:
        Loss (without the weight decay) and training error after each epoch, starting with epoch 0.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    torch.set_num_threads(1)
    dtype = next(network.parameters()).dtype
    x = torch.as_tensor(features, dtype=dtype)
    target = torch.as_tensor(labels)
    one_hot = nn.functional.one_hot(target).to(dtype)
    N = len(x)
    batch_size = N if batch_size is None else batch_size
    generator = torch.Generator().manual_seed(seed)
    parameters = list(network.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    loss, error = [], []
    for epoch in range(epochs + 1):
        if epoch > 0:
            step = learning_rate * 0.1 ** sum(drop < epoch for drop in drops)
            order = torch.randperm(N, generator=generator) if batch_size < N else torch.arange(N)
            for batch in order.split(batch_size):
                batch_loss = half_square(network(x[batch]), one_hot[batch])
                gradients = torch.autograd.grad(batch_loss, parameters)
                with torch.no_grad():
                    # As torch.optim.SGD does it, without its import time of several seconds.
                    for p, v, g in zip(parameters, velocities, gradients, strict=True):
                        v.mul_(momentum).add_(g).add_(p, alpha=weight_decay)
                        p.sub_(v, alpha=step)
        with torch.no_grad():
            scores = network(x)
        loss.append(float(half_square(scores, one_hot)))
        error.append(float((scores.argmax(1) != target).double().mean()))
        if not np.isfinite(loss[-1]):
            raise FloatingPointError(f"the loss is {loss[-1]} after epoch {epoch}; the learning rate is too large.")
        if on_epoch is not None:
            on_epoch(epoch, network)
    return History(np.array(loss), np.array(error))


def half_square(scores: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """Half the squared distance from the scores (N, K) to the one-hot labels, averaged over samples."""
    return 0.5 * (scores - one_hot).square().sum(1).mean()
