"""Training by stochastic gradient descent, small enough to read and to repeat digit by digit."""

from collections.abc import Callable
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.optim.sgd import sgd

from nclib.networks import parallel
from nclib.networks.graph import RecordedStep
from nclib.networks.recipe import Recipe
from nclib.networks.samples import Samples, random_moves


class Trainer:
    """A network in training: one call per epoch, and a state to stop and go on from, to the last
    bit on a CPU.

    On a GPU the passes run in bfloat16 with float32 parameters, and a whole step is one recorded
    CUDA graph, so that within an epoch the host waits for nothing. Under several processes each
    takes its share of every batch.

    Args:
        network: Maps inputs to scores (N, K) and names its last layer ``last``; trained in place.
        samples: The training data.
        recipe: How to train.
        seed: Seed of the order in which samples are drawn, and of their moves.

    Attributes:
        epoch: How many epochs are done.

    Examples:
        >>> from nclib.networks import MLP, Recipe, Samples, Trainer, load
        >>> data = load("digits").subset(10, seed=0)
        >>> network = MLP((64, 20, 10), dtype=torch.float32)
        >>> samples = Samples(data.images, data.labels)
        >>> trainer = Trainer(network, samples, Recipe(epochs=2, learning_rate=0.1))
        >>> loss, error = trainer.run_epoch()
        >>> trainer.epoch
        1
    """

    def __init__(self, network: nn.Module, samples: Samples, recipe: Recipe, *, seed: int = 0):
        layout: dict[str, Any] = {"memory_format": samples.layout}
        self.network = network.to(samples.device, **layout)
        self.model = parallel.wrap(self.network)
        self.samples = samples
        self.recipe = recipe
        self.epoch = 0
        self.batch_size = len(samples) if recipe.batch_size is None else recipe.batch_size
        self.generator = torch.Generator().manual_seed(seed)
        last = list(network.get_submodule("last").parameters())
        others = [p for p in network.parameters() if all(p is not q for q in last)]
        decay, last_decay = recipe.weight_decay, recipe.last_weight_decay
        self.groups = [(others, decay), (last, decay if last_decay is None else last_decay)]
        self.parameters = others + last
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.loss = torch.zeros((), dtype=torch.float64, device=samples.device)
        self.wrong = torch.zeros_like(self.loss)
        self._records = samples.device.type == "cuda" and parallel.world() == 1
        self._recorded: RecordedStep | None = None
        self._recorded_length = 0.0  # the step length of the recorded step
        if samples.device.type == "cuda":
            # All batches have one size: let cuDNN try its algorithms once.
            torch.backends.cudnn.benchmark = True

    def run_epoch(self) -> tuple[float, float]:
        """Train for one epoch; return the mean loss and the share of errors on the batches as they
        came by.

        Raises:
            FloatingPointError: The loss stops being finite.
        """
        N, device = len(self.samples), self.samples.device
        self.epoch += 1
        self.network.train()
        if self.batch_size < N:
            order = torch.randperm(N, generator=self.generator)
        else:
            order = torch.arange(N)
        moves = random_moves(N, self.generator).to(device) if self.recipe.augment else None
        step = self._recorded_step if self._records else self._step
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
        size = len(batch)
        share = slice(parallel.rank(), None, parallel.world())
        batch = batch[share]
        moves = None if moves is None else moves[share]
        labels = self.samples.labels[batch]
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda, cache_enabled=False):
            scores = self.model(self.samples.inputs(batch, moves))
        scores = scores.to(self.samples.dtype)
        loss = self.recipe.mean_loss(scores, labels)
        for p in self.parameters:
            p.grad = None
        # The mean over processes of these is the mean over the batch, also where their shares
        # differ by one.
        (loss * (len(batch) * parallel.world() / size)).backward()
        with torch.no_grad():
            # A small batch may leave this process without a share, and its loss is then 0 / 0.
            if len(batch) > 0:
                self.loss += loss.detach() * len(batch)
            self.wrong += (scores.argmax(1) != labels).sum()
            self._descend(self.recipe.step_length(self.epoch))

    def _descend(self, step_length: float) -> None:
        """One step of gradient descent with momentum and weight decay."""
        start = 0
        for parameters, weight_decay in self.groups:
            end = start + len(parameters)
            velocities = self.velocities[start:end]
            reached = [p.grad is not None for p in parameters]  # the others stay as they are
            sgd(
                list(compress(parameters, reached)),
                [p.grad for p in parameters if p.grad is not None],
                list(compress(velocities, reached)),
                fused=True,  # one sweep over the memory where the plain form takes four
                weight_decay=weight_decay,
                momentum=self.recipe.momentum,
                lr=step_length,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            start = end

    def _recorded_step(self, batch: torch.Tensor, moves: torch.Tensor | None) -> None:
        if len(batch) < self.batch_size:
            self._step(batch, moves)  # the last one of an epoch may be smaller
            return
        step_length = self.recipe.step_length(self.epoch)
        if self._recorded is None or self._recorded_length != step_length:
            kept = [*self.network.state_dict().values(), *self.velocities, self.loss, self.wrong]
            self._recorded = RecordedStep(self._step, batch, moves, kept)
            self._recorded_length = step_length
        self._recorded(batch, moves)

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


class History(NamedTuple):
    """What training recorded after each epoch, the first entry being that before training.

    Attributes:
        loss: Mean loss, without the weight decay.
        error: Share of misclassified samples.
    """

    loss: np.ndarray
    error: np.ndarray


def train(
    network: nn.Module,
    features: np.ndarray,
    labels: ArrayLike,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    **recipe: Any,
) -> History:
    r"""Fit the scores to labels on one thread of the CPU, with a look at all samples after each
    epoch.

    With the loss "mse" the objective is that of the unconstrained features model with the features
    replaced by a network,

    .. math::
        \frac{1}{2N} \sum_i \|z_i - y_i\|^2 + \frac{w}{2} \|\theta\|^2 .

    (PyTorch's ``MSELoss`` is 2/K times the first term.) In float64 two runs agree in all digits
    that one would print.

    Args:
        network: Maps inputs (N, D) to scores (N, K); trained in place.
        features: Inputs (N, D).
        labels: Integer labels (N,).
        seed: Seed of the order in which samples are drawn.
        on_epoch: Called as on_epoch(epoch, network) before training (epoch 0) and after every
            epoch.
        recipe: The attributes of ``Recipe``; epochs and learning_rate are needed.

    Raises:
        FloatingPointError: The loss stops being finite.

    Examples:
        >>> from nclib.networks import MLP, digits, train
        >>> history = train(MLP((64, 20, 10)), *digits(10), epochs=30, learning_rate=0.2)
        >>> history.loss[-1] < history.loss[0]
        np.True_
    """
    torch.set_num_threads(1)
    samples = Samples(np.asarray(features), labels, dtype=next(network.parameters()).dtype)
    trainer = Trainer(network, samples, Recipe(**recipe), seed=seed)
    inputs = samples.inputs(slice(None))
    loss, error = [], []
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
