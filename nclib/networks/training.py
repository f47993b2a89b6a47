"""Training by stochastic gradient descent, small enough to read and to repeat digit by digit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from nclib.networks import parallel
from nclib.networks.samples import Samples, random_moves


@dataclass(frozen=True)
class Recipe:
    r"""How to train. The objective has one weight decay for the feature mapping and one for the last layer,

    .. math:: \frac1N \sum_i \ell(z_i, y_i) + \frac{w}{2} \|\theta\|^2 + \frac{w'}{2} \|W\|^2 .

    Attributes:
        epochs: passes over the data.
        learning_rate: step length of the first epoch.
        loss: "mse" for half the squared distance to the one-hot labels, or "cross-entropy".
        momentum: factor of the running sum of gradients.
        weight_decay: the factor w of the feature mapping.
        last_weight_decay: the factor w' of the last layer; by default the same.
        batch_size: samples per step; all of them by default.
        drops: epochs after which the step length is divided by ten.
        augment: whether images are shifted by up to four pixels and mirrored at random.

    Raises:
        ValueError: if the loss has another name.
    """

    epochs: int
    learning_rate: float
    loss: str = "mse"
    momentum: float = 0.9
    weight_decay: float = 0.0
    last_weight_decay: float | None = None
    batch_size: int | None = None
    drops: tuple[int, ...] = ()
    augment: bool = False

    def __post_init__(self) -> None:
        if self.loss not in ("mse", "cross-entropy"):
            raise ValueError(f"loss must be 'mse' or 'cross-entropy', not {self.loss!r}.")

    def mean_loss(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of scores (N, K) and labels (N,), averaged over samples."""
        if self.loss == "cross-entropy":
            return cross_entropy(scores, labels)
        return half_square(scores, one_hot(labels, scores.shape[1]).to(scores.dtype))

    def step_length(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate * 0.1 ** sum(drop < epoch for drop in self.drops)


class Trainer:
    """A network in training: one call per epoch, and a state to stop and go on from, to the last bit on a CPU.

    On a GPU the passes run in bfloat16 with float32 parameters, and a whole step is one recorded CUDA graph, so that
    within an epoch the host waits for nothing. Under several processes each takes its share of every batch.

    Args:
        network: maps inputs to scores (N, K) and names its last layer ``last``; trained in place.
        samples: the training data.
        recipe: how to train.
        seed: seed of the order in which samples are drawn, and of their moves.
    """

    def __init__(self, network: nn.Module, samples: Samples, recipe: Recipe, *, seed: int = 0):
        self.network = network.to(samples.device, memory_format=samples.layout)
        self.model = parallel.wrap(self.network)
        self.samples, self.recipe, self.epoch = samples, recipe, 0
        self.batch_size = len(samples) if recipe.batch_size is None else recipe.batch_size
        self.generator = torch.Generator().manual_seed(seed)
        last = list(network.last.parameters())
        others = [p for p in network.parameters() if all(p is not q for q in last)]
        w = recipe.weight_decay
        self.groups = [
            (others, w),
            (last, w if recipe.last_weight_decay is None else recipe.last_weight_decay),
        ]
        self.parameters = others + last
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.loss, self.wrong = (
            torch.zeros((), dtype=torch.float64, device=samples.device) for _ in range(2)
        )
        self._graph = None
        if samples.device.type == "cuda":
            torch.backends.cudnn.benchmark = (
                True  # all batches have one size: let cuDNN try its algorithms once
            )

    def run_epoch(self) -> tuple[float, float]:
        """Train for one epoch; return the mean loss and the share of errors on the batches as they came by.

        Raises:
            FloatingPointError: if the loss stops being finite.
        """
        N, device = len(self.samples), self.samples.device
        self.epoch += 1
        self.network.train()
        order = (
            torch.randperm(N, generator=self.generator) if self.batch_size < N else torch.arange(N)
        )
        moves = random_moves(N, self.generator).to(device) if self.recipe.augment else None
        step = self._step if device.type == "cpu" or parallel.world() > 1 else self._recorded_step
        self.loss.zero_()
        self.wrong.zero_()
        for i, batch in enumerate(order.to(device).split(self.batch_size)):
            step(batch, None if moves is None else moves[i * self.batch_size :][: len(batch)])
        loss, wrong = (parallel.total(torch.stack([self.loss, self.wrong])) / N).tolist()
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {self.epoch}; the learning rate is too large."
            )
        return loss, wrong

    def _step(self, batch: torch.Tensor, moves: torch.Tensor | None) -> None:
        size, share = len(batch), slice(parallel.rank(), None, parallel.world())
        batch, moves = batch[share], None if moves is None else moves[share]
        labels = self.samples.labels[batch]
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda, cache_enabled=False):
            scores = self.model(self.samples.inputs(batch, moves))
        scores = scores.to(self.samples.dtype)
        loss = self.recipe.mean_loss(scores, labels)
        for p in self.parameters:
            p.grad = None
        # The mean over processes of these is the mean over the batch, also where their shares differ by one.
        (loss * (len(batch) * parallel.world() / size)).backward()
        with torch.no_grad():
            if (
                len(batch) > 0
            ):  # else a small batch left this process without a share, and its loss is 0 / 0
                self.loss += loss.detach() * len(batch)
            self.wrong += (scores.argmax(1) != labels).sum()
            self._descend(self.recipe.step_length(self.epoch))

    def _descend(self, step: float) -> None:
        # As torch.optim.SGD does it, without its import time of several seconds.
        start = 0
        for parameters, weight_decay in self.groups:
            velocities = self.velocities[start : start + len(parameters)]
            start += len(parameters)
            torch._foreach_mul_(velocities, self.recipe.momentum)
            torch._foreach_add_(velocities, [p.grad for p in parameters])
            torch._foreach_add_(velocities, parameters, alpha=weight_decay)
            torch._foreach_add_(parameters, velocities, alpha=-step)

    def _recorded_step(self, batch: torch.Tensor, moves: torch.Tensor | None) -> None:
        if len(batch) < self.batch_size:
            return self._step(batch, moves)  # the last one of an epoch may be smaller
        step = self.recipe.step_length(self.epoch)
        if self._graph is None or self._graph[0] != step:
            inputs = batch.clone(), None if moves is None else moves.clone()
            self._graph = (step, recorded(lambda: self._step(*inputs), self), inputs)
        _, graph, inputs = self._graph
        inputs[0].copy_(batch)
        if moves is not None:
            inputs[1].copy_(moves)
        graph.replay()

    def state(self) -> dict:
        """All that the rest of the training depends on: plain values and tensors on the CPU."""
        return {
            "epoch": self.epoch,
            "network": {
                name: value.detach().cpu().clone()
                for name, value in self.network.state_dict().items()
            },
            "velocities": [v.cpu().clone() for v in self.velocities],
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict) -> None:
        """Go on from a state, in place."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        for velocity, value in zip(self.velocities, state["velocities"], strict=True):
            velocity.copy_(value)
        self.generator.set_state(state["generator"])


def recorded(step: Callable[[], None], trainer: Trainer) -> "torch.cuda.CUDAGraph":
    """Record a training step as a CUDA graph, leaving the trainer as it was."""
    saved = trainer.state(), trainer.loss.clone(), trainer.wrong.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(
            3
        ):  # lets libraries choose their algorithms and allocate before the recording
            step()
    torch.cuda.current_stream().wait_stream(stream)
    trainer.load_state(saved[0])
    trainer.loss.copy_(saved[1])
    trainer.wrong.copy_(saved[2])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


class History(NamedTuple):
    """What training recorded after each epoch: the mean loss and the share of misclassified samples."""

    loss: np.ndarray
    error: np.ndarray


def train(
    network: nn.Module,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    **recipe,
) -> History:
    r"""Fit the scores to labels on one thread of the CPU, with a look at all samples after each epoch.

    With the loss "mse" the objective is that of the unconstrained features model with the features replaced by a
    network,

    .. math:: \frac{1}{2N} \sum_i \|z_i - y_i\|^2 + \frac{w}{2} \|\theta\|^2 .

    (PyTorch's ``MSELoss`` is 2/K times the first term.) In float64 two runs agree in all digits that one would print.

    Args:
        network: maps inputs (N, D) to scores (N, K); trained in place.
        features: inputs (N, D).
        labels: integer labels (N,).
        seed: seed of the order in which samples are drawn.
        on_epoch: called as on_epoch(epoch, network) before training (epoch 0) and after every epoch.
        recipe: the attributes of ``Recipe``; epochs and learning_rate are needed.

    Returns:
        Loss (without the weight decay) and training error after each epoch, starting with epoch 0.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    torch.set_num_threads(1)
    samples = Samples(np.asarray(features), labels, dtype=next(network.parameters()).dtype)
    trainer = Trainer(network, samples, Recipe(**recipe), seed=seed)
    inputs, loss, error = samples.inputs(slice(None)), [], []
    for epoch in range(trainer.recipe.epochs + 1):
        if epoch > 0:
            trainer.run_epoch()
        with torch.no_grad():
            scores = network(inputs)
            loss.append(float(trainer.recipe.mean_loss(scores, samples.labels)))
            error.append(float((scores.argmax(1) != samples.labels).double().mean()))
        if not np.isfinite(loss[-1]):
            raise FloatingPointError(
                f"the loss is {loss[-1]} after epoch {epoch}; the learning rate is too large."
            )
        if on_epoch is not None:
            on_epoch(epoch, network)
    return History(np.array(loss), np.array(error))


def half_square(scores: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """Half the squared distance from the scores (N, K) to the one-hot labels, averaged over samples."""
    return 0.5 * (scores - one_hot).square().sum(1).mean()
