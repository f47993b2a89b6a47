"""A plain multilayer perceptron whose hidden features can be read out."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from nclib.networks.samples import as_tensor


class MLP(nn.Module):
    """Linear maps of given widths with a ReLU after each but the last; the outputs are the K
    scores.

    Weights are drawn as PyTorch draws them by default, uniformly within one over the square root of
    the fan-in, from a generator of their own: the same seed gives the same network whatever was
    drawn before.

    Args:
        widths: Input dimension, widths of the hidden layers, number of classes; say
            (64, 100, 100, 10).
        last_bias: Whether the last layer has a bias.
        seed: Seed of the initial weights.
        dtype: Floating-point type of the parameters.

    Attributes:
        layers: The hidden layers, each a linear map with its ReLU.
        last: The last layer, whose weight is W of shape (K, d).

    Raises:
        ValueError: There is no hidden layer, or a width is not positive.

    Examples:
        >>> from nclib.networks import MLP
        >>> list(MLP((64, 100, 100, 10)).points)
        ['layer 1', 'layer 2']
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        last_bias: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if len(widths) < 3 or min(widths) < 1:
            raise ValueError(
                f"widths must be at least three positive integers, but they are {widths}."
            )
        *hidden, last = pairwise(widths)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(*pair, dtype=dtype), nn.ReLU()) for pair in hidden
        )
        self.last = nn.Linear(*last, bias=last_bias, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        linear_maps = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for layer in linear_maps:
            for parameter in layer.parameters():
                # Drawn in float64 and rounded, so that a float32 network starts from the same
                # weights.
                draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                with torch.no_grad():
                    parameter.copy_((2 * draw - 1) / layer.in_features**0.5)

    @property
    def points(self) -> dict[str, nn.Module]:
        """The hidden layers by name, for ``probe`` to measure."""
        return {f"layer {i}": layer for i, layer in enumerate(self.layers, start=1)}

    def hidden(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of the hidden layers, first to last, each of shape (N, width)."""
        outputs = []
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, K) of inputs (N, D), or of images with D values each."""
        return self.last(self.hidden(x)[-1])


def hidden_features(network: MLP, features: np.ndarray) -> list[np.ndarray]:
    """The hidden layers' outputs for the rows of an array, first layer to last.

    Args:
        network: The network.
        features: Inputs (N, D).

    Returns:
        One array (N, width) per hidden layer, in the network's own floating-point type.

    Examples:
        >>> from nclib.networks import MLP, digits, hidden_features
        >>> [h.shape for h in hidden_features(MLP((64, 20, 30, 10)), digits(5)[0])]
        [(50, 20), (50, 30)]
    """
    with torch.no_grad():
        x = as_tensor(features).to(network.last.weight.dtype)
        return [layer.numpy() for layer in network.hidden(x)]


def last_weights(network: nn.Module) -> np.ndarray:
    """A copy of the last layer's weights W, shape (K, d).

    Args:
        network: A network that names its last layer ``last``.

    Examples:
        >>> from nclib.networks import MLP, last_weights
        >>> last_weights(MLP((64, 20, 10))).shape
        (10, 20)
    """
    return network.get_parameter("last.weight").detach().cpu().numpy().copy()
