"""The routes that the benchmark of training times do the same work."""

import numpy as np
import pytest
import torch

from benchmarks import training
from nclib.networks import MLP, Samples


@pytest.fixture
def samples():
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 4, 4), dtype=np.uint8)
    return Samples(images, np.repeat(np.arange(10), 6))


def test_both_ways_to_measure_find_the_same(samples):
    network = MLP((48, 40, 30, 10), dtype=torch.float32)
    ours, plain = training.by_probe(network, samples), training.by_features(network, samples)
    assert len(ours) == 2
    np.testing.assert_allclose(ours, plain, rtol=1e-3)
    training.forward_only(network, samples)


def test_every_route_trains(samples):
    made = []

    def make():
        made.append(MLP((48, 12, 10), dtype=torch.float32))
        return made[-1]

    routes = training.routes(make, samples, 20)
    before = [[p.clone() for p in network.parameters()] for network in made]
    assert list(routes) == ["Trainer", "image by image", "TensorDataset", "on the device"]
    training.compare(routes, 60, "images", 1, samples.device)
    for network, old in zip(made, before, strict=True):
        assert not any(torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
