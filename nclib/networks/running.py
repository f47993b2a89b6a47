"""Class statistics that grow batch by batch on the device where the features are."""

from typing import NamedTuple

import numpy as np
import torch

from nclib.foundations.statistics import ClassStatistics
from nclib.foundations.streaming import two_sum
from nclib.networks import parallel


def place_of_sums(device: torch.device) -> torch.device:
    """Where sums in float64 are kept for features on a device; Apple's have no such numbers."""
    return torch.device("cpu") if device.type == "mps" else device


class Groups(NamedTuple):
    """The samples of a batch by class.

    Attributes:
        order: Which samples, sorted by class, integers (B,).
        classes: The P classes that occur, increasing.
        sizes: How many samples each of them has, integers (P,).
        rows: For each sample in this order the place of its class in ``classes``.
    """

    order: torch.Tensor
    classes: torch.Tensor
    sizes: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def none(cls) -> "Groups":
        """No samples."""
        return cls(*(torch.zeros(0, dtype=torch.int64) for _ in range(4)))

    @classmethod
    def of(cls, labels: torch.Tensor, device: torch.device) -> "Groups":
        """The groups of labels (B,); samples with a negative label are left out."""
        y, order = labels.to(place_of_sums(device)).sort(stable=True)
        kept = y >= 0
        y, order = y[kept], order[kept]
        classes, rows, sizes = torch.unique_consecutive(y, return_inverse=True, return_counts=True)
        return cls(order, classes, sizes, rows)


class RunningStatistics:
    r"""Counts, means and scatter of the classes of one layer's features, in float64.

    A batch of :math:`n_b` samples moves the mean of its class from m to m', and every sample adds
    the product of its distances to both:

    .. math::
        m' = m + \frac{n_b}{n + n_b} (\bar h_b - m), \qquad
        S \leftarrow S + \sum_{i} (h_i - m)(h_i - m')^\top .

    That is the sum of the scatter within the batch and of that between the two means (Chan, Golub
    and LeVeque, 1983), in one product of matrices. All of it is computed from differences to the
    first mean of the class, so that a common offset costs no digits.

    Attributes:
        counts: Samples per class, shape (K,).
        anchors: The first mean of each class, shape (K, d).
        means: Class means minus the anchors, shape (K, d).
        scatter: Sum over all samples, shape (d, d).
        resolution: The coarsest resolution of the features.
    """

    def __init__(self, device: torch.device):
        self.device = place_of_sums(device)
        self.resolution = 0.0
        self.counts = self._zeros(0)
        self.anchors, self.means, self.scatter = (self._zeros(0, 0) for _ in range(3))

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)

    def make_room(self, K: int, d: int) -> None:
        """Make room for K classes, if there are fewer so far, in d dimensions."""
        if len(self.scatter) == 0 and d > 0:
            self.anchors = self._zeros(len(self.counts), d)
            self.means = self._zeros(len(self.counts), d)
            self.scatter = self._zeros(d, d)
        if d != len(self.scatter):
            raise ValueError(f"features must have {len(self.scatter)} dimensions, but have {d}.")
        new = K - len(self.counts)
        if new > 0:
            self.counts = torch.cat([self.counts, self._zeros(new)])
            self.anchors = torch.cat([self.anchors, self._zeros(new, d)])
            self.means = torch.cat([self.means, self._zeros(new, d)])

    def add(self, features: torch.Tensor, groups: Groups, resolution: float) -> None:
        """Take in the features (B, d) of a batch, given with this resolution."""
        order, classes, sizes, rows = groups
        if len(order) == 0:
            return
        self.resolution = max(self.resolution, resolution)
        h = features.to(self.device, torch.float64)[order]
        before = self.counts[classes, None]
        n_b = sizes[:, None]
        first = h[sizes.cumsum(0) - sizes]
        self.anchors[classes] = torch.where(before == 0, first, self.anchors[classes])
        h -= self.anchors[classes][rows]
        mean = torch.segment_reduce(h, "sum", lengths=sizes, unsafe=True) / n_b
        old = torch.where(before == 0, mean, self.means[classes])
        new = old + n_b / (before + n_b) * (mean - old)
        self.scatter.addmm_((h - old[rows]).T, h - new[rows])
        self.means[classes] = new
        self.counts[classes] += sizes

    def statistics(self, name: str) -> ClassStatistics:
        """The statistics of the samples of all processes, every process being here.

        Args:
            name: What the features are called in a message.

        Raises:
            ValueError: There are no samples, or a feature is NaN or infinite.
        """
        K, d = parallel.largest(len(self.counts)), parallel.largest(len(self.scatter))
        self.make_room(int(K), int(d))
        own = self.counts[:, None]
        counts = parallel.total(own.clone())
        center, rest, scatter = self.anchors, self.means, self.scatter
        if parallel.world() > 1:
            center = parallel.total(own * (self.anchors + self.means)) / counts.clamp(min=1)
            delta = (self.anchors - center) + self.means
            rest = parallel.total(own * delta) / counts.clamp(min=1)
            D = (delta - rest) * own.sqrt()
            scatter = parallel.total(scatter + D.T @ D)
        if not counts.any():
            raise ValueError("data must hold samples, but there are none.")
        if not torch.isfinite(scatter).all():
            raise ValueError(f"{name} puts out NaN, infinity, or numbers that overflow.")
        means, low = two_sum(_array(center.T), _array(rest.T))
        within = _array(scatter + scatter.T) / (2 * _array(counts).sum())
        resolution = parallel.largest(self.resolution)
        return ClassStatistics(_array(counts[:, 0].long()), means, within, resolution, low)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
