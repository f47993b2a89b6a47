"""Class statistics of a network's layers over a whole data set, streamed: no array of all features
is kept.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nclib.foundations.statistics import ClassStatistics
from nclib.networks import parallel
from nclib.networks.samples import Samples


class Probe(NamedTuple):
    """What one pass over the samples shows: statistics of the layers by name, scores (N, K) and
    labels (N,).

    Under several processes the statistics are those of all samples, scores and labels of this
    process's share.
    """

    statistics: dict[str, ClassStatistics]
    scores: torch.Tensor
    labels: torch.Tensor


def probe(
    network: nn.Module,
    samples: Samples,
    points: Mapping[str, nn.Module] | None = None,
    *,
    batch_size: int = 500,
) -> Probe:
    r"""Class statistics of the outputs of some layers, and the scores, in one pass over the
    samples.

    Outputs (B, channels, height, width) are averaged over the positions. The network runs in its
    own floating-point type, in evaluation mode; all sums are in float64 on the device. A batch
    holds samples of one class and enters as its mean and its scatter about that mean, which are
    merged into those of the class (Chan, Golub and LeVeque, 1983),

    .. math::
        S \leftarrow S + S_b + \frac{n\,n_b}{n + n_b} \delta\delta^\top,
        \qquad \delta = m_b - m,

    so that a large mean costs no digits. Under several processes each takes its share of every
    class.

    Args:
        network: the network.
        samples: what it is fed.
        points: layers to measure, by name; by default ``network.points``.
        batch_size: samples per batch at most.

    Returns:
        Statistics in d dimensions for each name, with the network's type as their resolution;
        scores and labels.
    """
    points = points_of(network) if points is None else points
    sums = {name: _Sums(samples.K, samples.device) for name in points}
    scores, labels = [], []
    with recording(points) as outputs, evaluating(network):
        for k, x, y in _batches(samples, batch_size):
            scores.append(network(x))
            labels.append(y)
            for name in points:
                sums[name].add(k, pooled(outputs[name]))
    resolution = torch.finfo(next(network.parameters()).dtype).eps
    statistics = {name: total.statistics(resolution) for name, total in sums.items()}
    return Probe(statistics, torch.cat(scores), torch.cat(labels))


def disagreement(
    network: nn.Module,
    samples: Samples,
    statistics: Mapping[str, ClassStatistics],
    points: Mapping[str, nn.Module] | None = None,
    *,
    batch_size: int = 500,
) -> dict[str, float]:
    """NC4 of each layer: how often the nearest class mean of its features disagrees with the
    network's decision.

    For the last features this is NC4 as ``nclib.nc4`` defines it. In the other layers the decision
    is still that of the whole network.

    Args:
        network: the network.
        samples: what it is fed.
        statistics: what ``probe`` found for the same layers: the class means.
        points: the layers by name; by default ``network.points``.
        batch_size: samples per batch at most.

    Returns:
        A share between 0 and 1 for each name.
    """
    points = points_of(network) if points is None else points
    centers = {}
    for name in points:
        means = torch.as_tensor(statistics[name].means, device=samples.device)
        origin = means.mean(1, keepdim=True)
        M = means - origin
        centers[name] = origin, M, M.square().sum(0)[:, None] / 2
    count = torch.zeros(len(points), dtype=torch.int64, device=samples.device)
    with recording(points) as outputs, evaluating(network):
        for _, x, _ in _batches(samples, batch_size):
            decision = network(x).argmax(1)
            for i, (name, (origin, M, half)) in enumerate(centers.items()):
                # |h - m_k|^2 up to |h|^2, about the middle of the means, so that a common offset
                # costs no digits.
                nearest = (half - M.T @ (pooled(outputs[name]).double().T - origin)).argmin(0)
                count[i] += (nearest != decision).sum()
    return dict(zip(points, (parallel.total(count).double() / len(samples)).tolist(), strict=True))


def features(
    network: nn.Module, samples: Samples, point: nn.Module, *, batch_size: int = 500
) -> np.ndarray:
    """All outputs (N, d) of one layer as an array, pooled as ``probe`` pools them; one process
    only.
    """
    with recording({"": point}) as outputs, evaluating(network):
        parts = []
        for index in torch.arange(len(samples), device=samples.device).split(batch_size):
            network(samples.inputs(index))
            parts.append(pooled(outputs[""]).cpu())
    return torch.cat(parts).numpy()


class _Sums:
    """Counts, means and scatter of each class, in float64 on the device."""

    def __init__(self, K: int, device: torch.device):
        self.counts, self.device = [0] * K, device
        self.means = self.scatter = None

    def add(self, k: int, h: torch.Tensor) -> None:
        h = h.double()
        if self.means is None:
            self.means = torch.zeros(
                len(self.counts), h.shape[1], dtype=torch.float64, device=self.device
            )
            self.scatter = torch.zeros(
                h.shape[1], h.shape[1], dtype=torch.float64, device=self.device
            )
        n, m = self.counts[k], len(h)
        mean = h.mean(0)
        R, delta = h - mean, mean - self.means[k]
        self.scatter.addmm_(R.T, R).addr_(delta, delta, alpha=n * m / (n + m))
        self.means[k] += delta * (m / (n + m))
        self.counts[k] = n + m

    def statistics(self, resolution: float) -> ClassStatistics:
        """The statistics of the samples of all processes."""
        own = torch.tensor(self.counts, dtype=torch.float64, device=self.device)[:, None]
        counts = parallel.total(own.clone())
        means = parallel.total(own * self.means) / counts
        D = (self.means - means) * own.sqrt()
        scatter = parallel.total(self.scatter + D.T @ D) if parallel.world() > 1 else self.scatter
        within = (scatter / counts.sum()).cpu().numpy()
        return ClassStatistics(
            counts[:, 0].long().cpu().numpy(), means.T.cpu().numpy(), within, resolution
        )


def _batches(samples: Samples, batch_size: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """This process's share of each class, batch by batch: class, inputs and labels."""
    for k, members in enumerate(samples.classes):
        share = members[parallel.rank() :: parallel.world()]
        for index in share.split(batch_size) if len(share) else ():
            yield k, samples.inputs(index), samples.labels[index]


def points_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that a network of the book offers for measuring, by name."""
    points: Any = network.points
    return dict(points)


def pooled(h: torch.Tensor) -> torch.Tensor:
    """Features (B, d): outputs of convolutions averaged over the positions, others as they are."""
    return h.mean((2, 3)) if h.ndim == 4 else h


@contextmanager
def recording(points: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Within this context the mapping holds what each layer put out last."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    handles = [module.register_forward_hook(keep(name)) for name, module in points.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, in full precision: no TF32 where a GPU would use it."""
    training = network.training
    network.eval()
    try:
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
        ):
            yield
    finally:
        network.train(training)
