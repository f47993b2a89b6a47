"""Labeled samples that live on a device and are turned into network inputs batch by batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import pad

from nclib import _checks


def as_tensor(values: Any) -> torch.Tensor:
    """Values as a tensor, which shares their memory unless it must not be written to."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        return torch.tensor(values)
    return torch.as_tensor(values)


class Samples:
    """Images as bytes, or features as they are, with their labels, on one device.

    Bytes are standardized when a batch is read: each channel has mean zero and variance one over
    all samples.

    Args:
        values: Images (N, channels, height, width) of type uint8, or floating-point features
            (N, D).
        labels: Integers (N,) in 0..K-1.
        device: Where the samples live.
        dtype: Floating-point type of the inputs.

    Attributes:
        values: The samples as they were given, on the device.
        labels: Their labels, on the device.
        classes: Which samples each class holds, one index tensor per class.

    Raises:
        ValueError: The lengths differ, a class has no samples, or a channel of the images is
            constant.

    Examples:
        >>> from nclib.networks import Samples, digits
        >>> Samples(*digits(10))
        Samples(N=100, K=10, 64, cpu)
    """

    def __init__(
        self,
        values: np.ndarray,
        labels: ArrayLike,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.values = as_tensor(np.ascontiguousarray(values)).to(device)
        self.dtype = dtype
        labels = _checks.as_labels(labels, len(values))
        self.labels = torch.as_tensor(labels, device=device)
        self.classes = [
            torch.as_tensor(np.flatnonzero(labels == k), device=device)
            for k in range(labels.max() + 1)
        ]
        if self.are_images:
            self._standardize(values)

    def _standardize(self, values: np.ndarray) -> None:
        """Find mean and standard deviation of each channel from the counts of its 256 values."""
        levels = np.arange(256)
        mean, variance = np.empty(values.shape[1]), np.empty(values.shape[1])
        for c in range(values.shape[1]):
            counts = np.bincount(values[:, c].ravel(), minlength=256)
            mean[c] = np.average(levels, weights=counts)
            variance[c] = np.average((levels - mean[c]) ** 2, weights=counts)
        if not variance.all():
            c = int(np.argmin(variance))
            raise ValueError(
                f"channel {c} of the images is constant (every value is {mean[c]:.0f}), so it "
                "cannot be standardized; leave it out."
            )
        self.mean = torch.as_tensor(mean).to(self.device, self.dtype)[:, None, None]
        self.scale = torch.as_tensor(variance**-0.5).to(self.device, self.dtype)[:, None, None]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape[1:]))
        return f"Samples(N={len(self)}, K={self.K}, {shape}, {self.device})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def K(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        """Where the samples live."""
        return self.values.device

    @property
    def are_images(self) -> bool:
        """Whether the samples are images given as bytes."""
        return self.values.dtype == torch.uint8

    @property
    def layout(self) -> torch.memory_format:
        """How images lie in memory: channels last on a GPU, where that is fastest.

        Not on a CPU, where PyTorch 2.13's convolutions of fewer than eight channels write past
        their memory so.
        """
        return (
            torch.channels_last
            if self.are_images and self.values.is_cuda
            else torch.contiguous_format
        )

    def inputs(
        self, index: torch.Tensor | slice, moves: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Network inputs of some samples.

        Args:
            index: Which samples, integers (B,) or a slice.
            moves: How to move each image, integers (B, 3) as ``random_moves`` draws them.
        """
        x = self.values[index]
        if moves is not None:
            x = moved(x, moves)
        if not self.are_images:
            return x.to(self.dtype)
        x = (x.to(self.dtype) - self.mean) * self.scale
        return x.contiguous(memory_format=self.layout)


def random_moves(count: int, generator: torch.Generator, reach: int = 4) -> torch.Tensor:
    """Shifts down and right by up to ``reach`` pixels, and whether to mirror: integers (count,
    3).
    """
    shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
    return torch.cat([shifts, torch.randint(2, (count, 1), generator=generator)], dim=1)


def moved(images: torch.Tensor, moves: torch.Tensor, reach: int = 4) -> torch.Tensor:
    """Shift each image over a black border, then mirror it left to right where its last entry says
    so.

    Args:
        images: Shape (B, channels, height, width).
        moves: Integers (B, 3) as ``random_moves`` draws them.
        reach: Width of the border, the longest shift.
    """
    B, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) - moves[:, :1] + reach
    columns = torch.arange(width, device=device)
    columns = torch.where(moves[:, 2:] == 1, columns.flip(0), columns) - moves[:, 1:2] + reach
    batch, channel = torch.arange(B, device=device), torch.arange(channels, device=device)
    bordered = pad(images, (reach,) * 4)
    return bordered[
        batch[:, None, None, None],
        channel[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None],
    ]
