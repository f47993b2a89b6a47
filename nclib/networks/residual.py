r"""Perceptrons without biases: residual blocks of two maps, or plain layers, ReLU sharp or smooth.

.. math::
    h_l = h_{l-1} + B_l\,\varphi(A_lh_{l-1}) \quad\text{or}\quad h_l = \varphi(A_lh_{l-1}), \qquad
    z = Wh_L, \qquad \varphi(x) = \tfrac12\bigl(x + \sqrt{x^2+\epsilon^2} - \epsilon\bigr) .

For :math:`\epsilon = 0` this is the ReLU, and the scores are a homogeneous function of each map.

A residual block may normalize over the batch, with :math:`\nu` for each unit minus its mean over
all samples, divided by its standard deviation over them:

.. math::
    h_l = h_{l-1} + B_l\,\varphi(\nu(A_lh_{l-1})) \quad\text{or}\quad
    h_l = h_{l-1} + \mathfrak s_l\odot\nu\bigl(B_l\,\varphi(\nu(A_lh_{l-1}))\bigr) + \mathfrak t_l .
"""

from typing import Any

import torch
from torch import nn

from nclib import _checks


class SmoothReLU(nn.Module):
    r"""The ReLU with its kink rounded off, zero at zero: :math:`(x + \sqrt{x^2+\epsilon^2} -
    \epsilon)/2`.

    Args:
        smoothing: The number epsilon; zero gives the ReLU itself.

    Examples:
        >>> from nclib.networks import SmoothReLU
        >>> SmoothReLU(0.75)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.2500,  0.0000,  0.7500])
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = _checks.nonnegative("smoothing", smoothing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function, entry by entry."""
        if self.smoothing == 0:
            return torch.relu(x)
        return 0.5 * (x + torch.sqrt(x**2 + self.smoothing**2) - self.smoothing)


NORMALIZATIONS = ("none", "inside", "end")


class ResidualBlock(nn.Module):
    """A block h + B phi(A h), or one of the two that normalize over the batch.

    Args:
        dimension: Of h.
        width: Number of hidden units.
        smoothing: Of the ReLU.
        dtype: Floating-point type of the parameters.
        normalization: Over the batch, always with its own mean and variance: "none"; "inside",
            before the ReLU; or "end", there and once more, with a scale and a shift that are
            learned, after the outer map.
    """

    def __init__(
        self,
        dimension: int,
        width: int,
        smoothing: float,
        dtype: torch.dtype,
        normalization: str = "none",
    ):
        super().__init__()
        self.inner = nn.Linear(dimension, width, bias=False, dtype=dtype)
        self.relu = SmoothReLU(smoothing)
        self.outer = nn.Linear(width, dimension, bias=False, dtype=dtype)
        own: dict[str, Any] = {"track_running_stats": False, "dtype": dtype}
        self.inside: nn.Module = nn.Identity()
        self.end: nn.Module = nn.Identity()
        if normalization != "none":
            self.inside = nn.BatchNorm1d(width, affine=False, **own)
        if normalization == "end":
            self.end = nn.BatchNorm1d(dimension, **own)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """The input and its change."""
        return h + self.end(self.outer(self.relu(self.inside(self.inner(h)))))


class ResidualMLP(nn.Module):
    """A perceptron without biases whose blocks all work in the dimension of the input.

    Args:
        dimension: Of the inputs and of all features.
        classes: Number K of classes.
        depth: Number of blocks.
        width: Hidden units of a block; the dimension if not given. A plain layer has none.
        skip: Whether blocks add to their input; else they are plain layers.
        smoothing: Of the ReLU, zero for the sharp one.
        normalization: Of residual blocks over the batch, "none", "inside" or "end". The statistics
            are always those of the samples that the network is given, all of them in one batch.
        seed: Seed of the initial weights.
        dtype: Floating-point type of the parameters.

    Attributes:
        blocks: The blocks or layers, first to last.
        last: The last layer, whose weight is W of shape (K, d).

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is less than one, there is no such normalization, or a plain network is
            to have one.

    Examples:
        >>> from nclib.networks import ResidualMLP
        >>> list(ResidualMLP(64, 10, depth=2).points)
        ['block 1', 'block 2']
    """

    def __init__(
        self,
        dimension: int,
        classes: int,
        depth: int,
        *,
        width: int | None = None,
        skip: bool = True,
        smoothing: float = 0.0,
        normalization: str = "none",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if normalization not in NORMALIZATIONS if skip else normalization != "none":
            allowed = ", ".join(map(repr, NORMALIZATIONS)) if skip else "'none' without skip"
            raise ValueError(
                f"normalization must be one of {allowed}, but normalization = {normalization!r}."
            )
        d, K = _checks.positive_integer("dimension", dimension), classes
        _checks.positive_integer("classes", K)
        width = d if width is None else _checks.positive_integer("width", width)
        self.skip = skip
        blocks: list[nn.Module] = []
        for _ in range(_checks.positive_integer("depth", depth)):
            if skip:
                blocks.append(ResidualBlock(d, width, smoothing, dtype, normalization))
            else:
                linear = nn.Linear(d, d, bias=False, dtype=dtype)
                blocks.append(nn.Sequential(linear, SmoothReLU(smoothing)))
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Linear(d, K, bias=False, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim < 2:
                continue  # scale and shift of a normalization start at one and zero
            # Drawn in float64 and rounded, so that a float32 network starts from the same weights.
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # A residual block starts small, a plain layer keeps the length of its input.
            scale = (0.5 if skip else 2**0.5) / parameter.shape[1] ** 0.5
            with torch.no_grad():
                parameter.copy_(scale * draw)

    @property
    def without_length(self) -> list[str]:
        """Names of the weights whose length a normalization takes out: decay of these has no point
        of rest.
        """
        found = []
        for i, block in enumerate(self.blocks):
            if isinstance(getattr(block, "inside", None), nn.BatchNorm1d):
                found.append(f"blocks.{i}.inner.weight")
            if isinstance(getattr(block, "end", None), nn.BatchNorm1d):
                found.append(f"blocks.{i}.outer.weight")
        return found

    @property
    def points(self) -> dict[str, nn.Module]:
        """The blocks by name, for ``probe`` and ``balance`` to measure."""
        return {f"block {i}": block for i, block in enumerate(self.blocks, start=1)}

    def hidden(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The features after each block, first to last, each of shape (N, d)."""
        outputs = []
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, K) of inputs (N, d)."""
        return self.last(self.hidden(x)[-1])
