"""ResNet-18: its shape, its blocks, its seed."""

import numpy as np
import pytest
import torch
from torch import nn

from nclib.networks import ResNet18
from nclib.networks.hooks import find, watching


def test_the_original_width_has_the_known_number_of_parameters():
    # 11,173,962 is the count that is always quoted for ResNet-18 on CIFAR-10: the last layer has a
    # bias there.
    assert sum(p.numel() for p in ResNet18(last_bias=True).parameters()) == 11_173_962


def test_probe_points_have_the_shapes_of_the_stages():
    network = ResNet18(7, width=3, channels=1)
    outputs = {}
    with watching(find(network, network.points), outputs.__setitem__):
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    shapes = {name: tuple(h.shape[1:]) for name, h in outputs.items()}
    stages = [(3, 32), (6, 16), (12, 8), (24, 4)]
    blocks = {
        f"block {i}": (w, s, s)
        for i, (w, s) in enumerate(np.repeat(stages, 2, axis=0).tolist(), start=1)
    }
    assert shapes == {"stem": (3, 32, 32)} | blocks
    assert network.last.weight.shape == (7, 24) and network.last.bias is None


def test_blocks_add_their_input():
    network = ResNet18(width=4)
    shortcuts = [block.shortcut for block in network.blocks]
    assert [isinstance(s, nn.Identity) for s in shortcuts] == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    x = torch.rand(2, 4, 8, 8)  # not negative, as it is after a ReLU
    block = network.blocks[1]
    nn.init.zeros_(block.residual[-1].weight)
    assert torch.equal(block(x), x)


def test_scores_are_linear_in_the_pooled_features():
    network = ResNet18(width=2, last_bias=True).eval()
    x = torch.randn(3, 3, 8, 8)
    outputs = {}
    with torch.no_grad(), watching(find(network, network.points), outputs.__setitem__):
        scores = network(x)
        h = outputs["block 8"].mean((2, 3))
    assert torch.allclose(scores, h @ network.last.weight.T + network.last.bias, atol=1e-6)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    a = ResNet18(width=2, seed=1)
    assert torch.equal(torch.rand(1), first)  # the global generator was not touched
    b, c = ResNet18(width=2, seed=1), ResNet18(width=2, seed=2)
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(a.last.weight, c.last.weight)


@pytest.mark.parametrize("sizes", [{"classes": 0}, {"width": 0}, {"channels": -1}])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="must be positive"):
        ResNet18(**sizes)
