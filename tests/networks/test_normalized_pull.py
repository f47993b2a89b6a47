"""Batch normalization at the end of a block: its decay is the pull of the perturbed model."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nclib import ClassStatistics, Model, minimize, nc1_trace
from nclib.networks import ResidualMLP, ResNet18, Samples, digits, settle


@pytest.fixture(scope="module")
def few():
    """32 digits of four classes in five dimensions."""
    x, y = digits(8)
    x, y = x[y < 4], y[y < 4]
    x = x - x.mean(axis=0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:5].T
    return Samples(x / (2 * np.sqrt(np.mean(x**2))), y, dtype=torch.float64)


def features(network, samples):
    x = samples.inputs(slice(None))
    return [h.detach().numpy() for h in (x, *network.hidden(x))]


@pytest.mark.parametrize("width, depth, scale", [(1, 1, 1.0), (3, 2, -2.0), (40, 3, 0.0)])
def test_decay_of_scale_and_shift_is_the_pull(few, width, depth, scale):
    """At any weights, for channels of any sign, and for one that is switched off."""
    network = ResidualMLP(5, 4, depth, width=width, normalization="end", seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in network.blocks:
            block.end.eps = 1e-15
            block.end.weight.normal_(generator=generator)
            block.end.bias.normal_(generator=generator)
            block.end.weight[0] = scale
    for block, (a, b) in zip(network.blocks, pairwise(features(network, few)), strict=True):
        paid = (block.end.weight.square().sum() + block.end.bias.square().sum()).item()
        assert paid == pytest.approx(np.sum((b - a) ** 2) / len(a), rel=1e-10)


def test_in_a_residual_network_of_convolutions_it_is_the_pull_per_position():
    network = ResNet18(width=2).double()
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 16, 16, generator=draw).double()
    for block in network.blocks:
        end = block.residual[-1]
        with torch.no_grad():
            end.weight.uniform_(-1, 2, generator=draw)
            end.bias.uniform_(-1, 1, generator=draw)
        end.eps = 1e-15
        seen = []
        hook = end.register_forward_hook(lambda _, inputs, out, kept=seen: kept.append(out))
        network(x)
        hook.remove()
        squares = seen[0].square().mean((0, 2, 3))
        torch.testing.assert_close(squares, end.weight**2 + end.bias**2)


def test_a_wide_block_comes_down_to_the_minimum_of_the_model(few):
    """The pull is the decay of the block, and K times that of the last layer is lambda_W."""
    w, last = 0.5, 0.4
    stats = ClassStatistics.from_features(few.values.numpy(), few.labels.numpy())
    model = minimize(Model(4 * last, 0.0, w), stats)
    network = ResidualMLP(5, 4, 1, width=64, smoothing=0.05, normalization="end")
    free = network.without_length
    end = settle(network, few, w, last_weight_decay=last, free=free, max_iterations=250)
    assert 0 < end.objective / model.objective - 1 < 5e-4
    reached = ClassStatistics.from_features(features(network, few)[1], few.labels.numpy())
    assert nc1_trace(reached) == pytest.approx(nc1_trace(model.statistics), rel=0.02)


@pytest.mark.parametrize("width", [2, 8])
@pytest.mark.parametrize("depth", [1, 2])
def test_no_block_is_below_the_minimum_of_the_model(few, width, depth):
    """Narrow blocks cannot make every change; several of them pull like one with a share of w."""
    w = 0.5
    stats = ClassStatistics.from_features(few.values.numpy(), few.labels.numpy())
    model = minimize(Model(4 * w, 0.0, w / depth), stats)
    network = ResidualMLP(5, 4, depth, width=width, smoothing=0.05, normalization="end", seed=2)
    end = settle(network, few, w, free=network.without_length, max_iterations=60)
    assert end.objective > model.objective
    assert end.objective < 1.5 * model.objective
