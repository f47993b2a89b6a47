r"""Perceptrons without biases: residual blocks of two maps, or plain layers, ReLU sharp or smooth.

.. math::
    h_l = h_{l-1} + B_l\,\varphi(A_lh_{l-1}) \quad\text{or}\quad h_l = \varphi(A_lh_{l-1}), \qquad
    z = Wh_L, \qquad \varphi(x) = \tfrac12\bigl(x + \sqrt{x^2+\epsilon^2} - \epsilon\bigr) .

For :math:`\epsilon = 0` this is the ReLU, and the scores are a homogeneous function of each map.
"""

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


class ResidualBlock(nn.Module):
    """A block h + B phi(A h).

    Args:
        dimension: Of h.
        width: Number of hidden units.
        smoothing: Of the ReLU.
        dtype: Floating-point type of the parameters.
    """

    def __init__(self, dimension: int, width: int, smoothing: float, dtype: torch.dtype):
        super().__init__()
        self.inner = nn.Linear(dimension, width, bias=False, dtype=dtype)
        self.relu = SmoothReLU(smoothing)
        self.outer = nn.Linear(width, dimension, bias=False, dtype=dtype)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """The input and its change."""
        return h + self.outer(self.relu(self.inner(h)))


class ResidualMLP(nn.Module):
    """A perceptron without biases whose blocks all work in the dimension of the input.

    Args:
        dimension: Of the inputs and of all features.
        classes: Number K of classes.
        depth: Number of blocks.
        width: Hidden units of a block; the dimension if not given. A plain layer has none.
        skip: Whether blocks add to their input; else they are plain layers.
        smoothing: Of the ReLU, zero for the sharp one.
        seed: Seed of the initial weights.
        dtype: Floating-point type of the parameters.

    Attributes:
        blocks: The blocks or layers, first to last.
        last: The last layer, whose weight is W of shape (K, d).

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is less than one.

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
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        d, K = _checks.positive_integer("dimension", dimension), classes
        _checks.positive_integer("classes", K)
        width = d if width is None else _checks.positive_integer("width", width)
        self.skip = skip
        blocks: list[nn.Module] = []
        for _ in range(_checks.positive_integer("depth", depth)):
            if skip:
                blocks.append(ResidualBlock(d, width, smoothing, dtype))
            else:
                linear = nn.Linear(d, d, bias=False, dtype=dtype)
                blocks.append(nn.Sequential(linear, SmoothReLU(smoothing)))
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Linear(d, K, bias=False, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            # Drawn in float64 and rounded, so that a float32 network starts from the same weights.
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # A residual block starts small, a plain layer keeps the length of its input.
            scale = (0.5 if skip else 2**0.5) / parameter.shape[1] ** 0.5
            with torch.no_grad():
                parameter.copy_(scale * draw)

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
