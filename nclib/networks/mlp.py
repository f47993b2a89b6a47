"""A plain multilayer perceptron whose hidden features can be read out."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn


class MLP(nn.Module):
    """Linear maps of given widths with a ReLU after each but the last; the outputs are the K scores.

    Weights are drawn as PyTorch draws them by default, uniformly within one over the square root of the
    fan-in, from a generator of their own: the same seed gives the same network whatever was drawn before.

    Args:
        widths: input dimension, widths of the hidden layers, number of classes; say (64, 100, 100, 10).
        last_bias: whether the last layer has a bias.
        seed: seed of the initial weights.
        dtype: floating-point type of the parameters.

    Attributes:
        layers: the hidden layers, each a linear map with its ReLU.
        last: the last layer, whose weight is W of shape (K, d).

    Raises:
        ValueError: if there is no hidden layer or a width is not positive.
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
            raise ValueError(f"widths must be at least three positive integers, not {widths}.")
        *hidden, last = pairwise(widths)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(*pair, dtype=dtype), nn.ReLU()) for pair in hidden
        )
        self.last = nn.Linear(*last, bias=last_bias, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        for layer in [*(linear for linear, _ in self.layers), self.last]:
            for parameter in layer.parameters():
                # Drawn in float64 and rounded, so that a float32 network starts from the same weights.
                draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                with torch.no_grad():
                    parameter.copy_((2 * draw - 1) / layer.in_features**0.5)

    @property
    def points(self) -> dict[str, nn.Module]:
        """The hidden layers by name, for ``probe`` to measure."""
        return {f"layer {i}": layer for i, layer in enumerate(self.layers, start=1)}

    def hidden(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of the hidden layers, first to last, each of shape (N, width)."""
        outputs, x = [], x.flatten(1)
        for layer in self.layers:
            outputs.append(x := layer(x))
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, K) of inputs (N, D), or of images with D values each."""
        return self.last(self.hidden(x)[-1])


def hidden_features(network: MLP, features: np.ndarray) -> list[np.ndarray]:
    """The hidden layers' outputs for the rows of an array, first layer to last.

    Args:
        network: the network.
        features: inputs (N, D).

    Returns:
        One array (N, width) per hidden layer, in the network's own floating-point type.
    """
    with torch.no_grad():
        x = torch.as_tensor(features, dtype=network.last.weight.dtype)
        return [layer.numpy() for layer in network.hidden(x)]


def last_weights(network: nn.Module) -> np.ndarray:
    """A copy of the last layer's weights W, shape (K, d)."""
    return network.last.weight.detach().cpu().numpy().copy()
