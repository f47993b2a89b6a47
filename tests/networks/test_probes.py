"""Probes against a plain computation in double precision on all features at once."""

import numpy as np
import pytest
import torch

from nclib import ClassStatistics, measure, nc1, nc1_trace, nc2, nc3, nc4
from nclib.networks import MLP, ResNet18, Samples, disagreement, features, last_weights, probe

rng = np.random.default_rng(0)
LABELS = np.array([0] * 7 + [1] * 12 + [2] * 9)
ORDER = rng.permutation(28)
IMAGES = rng.integers(0, 256, (28, 2, 8, 8)).astype(np.uint8)


def network_and_samples(kind):
    if kind == "mlp":
        network, dtype = MLP((128, 9, 6, 3), seed=1), torch.float64
    else:
        network, dtype = ResNet18(3, width=3, channels=2, seed=1).double(), torch.float64
    return network, Samples(IMAGES, LABELS[ORDER], dtype=dtype)


def plain_outputs(network, x):
    """Pooled outputs of every probe point, by going through the network by hand."""
    if isinstance(network, MLP):
        return [h.numpy() for h in network.hidden(x)]
    outputs, x = [], network.stem(x)
    outputs.append(x)
    for block in network.blocks:
        outputs.append(x := block(x))
    return [h.numpy().mean((2, 3)) for h in outputs]


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
@pytest.mark.parametrize("batch_size", [5, 500])
def test_statistics_of_every_layer(kind, batch_size):
    network, samples = network_and_samples(kind)
    found = probe(network, samples, batch_size=batch_size)
    with torch.no_grad():
        plain = plain_outputs(network.eval(), samples.inputs(slice(None)))
        scores = network(samples.inputs(torch.cat(samples.classes)))
    assert len(found.statistics) == len(plain) == (2 if kind == "mlp" else 9)
    for stats, h in zip(found.statistics.values(), plain, strict=True):
        oracle = ClassStatistics.from_features(h, LABELS[ORDER])
        assert np.array_equal(stats.counts, [7, 12, 9])
        scale = np.abs(h).max()
        np.testing.assert_allclose(stats.means, oracle.means, atol=1e-13 * scale)
        np.testing.assert_allclose(stats.within, oracle.within, atol=1e-13 * scale**2)
        for metric in (nc1, nc1_trace, nc2):
            assert np.isclose(metric(stats), metric(oracle), rtol=1e-9)
    assert np.isclose(
        nc3(stats, last_weights(network)), measure(h, LABELS[ORDER], last_weights(network)).nc3
    )
    assert torch.allclose(found.scores, scores)
    assert torch.equal(found.labels, samples.labels[torch.cat(samples.classes)])


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_disagreement_of_every_layer(kind):
    network, samples = network_and_samples(kind)
    noise = torch.randn(network.last.weight.shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        network.last.weight.add_(0.3 * noise)
        if kind == "mlp":  # no sample without a live unit, whose scores would all be equal
            network.layers[1][0].bias += 0.2
    found = disagreement(network, samples, probe(network, samples).statistics, batch_size=6)
    x = samples.inputs(slice(None))
    with torch.no_grad():
        scores = network.eval()(x)
        plain = plain_outputs(network, x)
    first, second = scores.topk(2).values.T
    assert (first - second).min() > 1e-6
    decision = scores.argmax(1).numpy()
    for share, h in zip(found.values(), plain, strict=True):
        means = np.array([h[LABELS[ORDER] == k].mean(0) for k in range(3)])
        nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
        assert share == np.mean(nearest != decision)
    assert share == nc4(h, LABELS[ORDER], last_weights(network)) > 0


def test_a_large_offset_costs_no_digits():
    network, samples = network_and_samples("mlp")
    before = probe(network, samples).statistics["layer 2"]
    with torch.no_grad():
        network.layers[1][0].bias += 1e6
    after = probe(network, samples).statistics["layer 2"]
    h = features(network, samples, network.points["layer 2"])
    oracle = ClassStatistics.from_features(h, LABELS[ORDER])
    np.testing.assert_allclose(
        after.within, oracle.within, atol=1e-14 * 1e6 * np.abs(h - h.mean(0)).max()
    )
    assert np.isclose(nc1_trace(after), nc1_trace(oracle), rtol=1e-8) and before.d == after.d


def test_float32_networks_are_measured_as_such():
    network = MLP((128, 5, 3), dtype=torch.float32)
    stats = probe(network, Samples(IMAGES, LABELS)).statistics["layer 1"]
    assert stats.resolution == np.finfo(np.float32).eps and stats.within.dtype == np.float64


def test_features_keep_the_order_of_the_samples():
    network, samples = network_and_samples("resnet")
    h = features(network, samples, network.points["block 3"], batch_size=11)
    with torch.no_grad():
        plain = plain_outputs(network.eval(), samples.inputs(slice(None)))[3]
    np.testing.assert_allclose(h, plain, rtol=1e-10, atol=1e-12)


def test_measuring_changes_nothing():
    network, samples = network_and_samples("resnet")
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics = probe(network, samples).statistics
    disagreement(network, samples, statistics)
    assert network.training and not network.stem._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
