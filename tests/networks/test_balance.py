"""The balance of weight decay on networks trained to rest, and what the measurement refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from nclib import ClassStatistics
from nclib.networks import (
    MLP,
    Recipe,
    ResidualMLP,
    Samples,
    balance,
    digits,
    horizon,
    settle,
    train,
)


def small(K=3, per_class=8, d=6, seed=0):
    """Some digits in their first principal components, rescaled."""
    x, y = digits(per_class)
    x, y = x[y < K], y[y < K]
    x = x - x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=False)[2][:d]
    return Samples(x @ axes.T / 2, y, dtype=torch.float64)


def at_rest(**settings):
    samples = small()
    options = {"depth": 2, "width": 5, "smoothing": 0.3} | settings
    network = ResidualMLP(6, 3, **options)
    end = settle(network, samples, 0.02, tolerance=1e-10, max_iterations=20000)
    return network, samples, end


@pytest.fixture(scope="module")
def rested():
    return at_rest()


def test_a_network_at_rest_obeys_the_balance_block_by_block(rested):
    network, samples, end = rested
    assert end.gradient_norm < 1e-7
    for block in balance(network, samples, 0.02):
        assert block.error < 1e-6 and block.cosine > 1 - 1e-9
        assert block.without_kernel < 0.95


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_measurement_is_the_law_written_out(loss):
    """Gradients with respect to the features by running what follows them, nothing else."""
    samples, network = small(), ResidualMLP(6, 3, depth=2, width=5, seed=3)
    found = balance(network, samples, 0.05, loss=loss)
    x = samples.inputs(slice(None))
    features = [x, *network.hidden(x)]
    recipe = Recipe(epochs=1, learning_rate=1, loss=loss)
    for l, block in enumerate(network.blocks):
        h = features[l + 1].detach().requires_grad_()
        end = h
        for later in network.blocks[l + 1 :]:
            end = later(end)
        value = recipe.mean_loss(network.last(end), samples.labels)
        g = len(x) * torch.autograd.grad(value, h)[0].numpy()
        X = torch.relu(features[l] @ block.inner.weight.T).detach().numpy()
        change = (features[l + 1] - features[l]).detach().numpy()
        law = -X @ X.T @ g / (len(x) * 0.05)
        assert found[l].error == pytest.approx(
            np.linalg.norm(change - law) / np.linalg.norm(change), rel=1e-10
        )
        cosine = np.sum(change * law) / np.linalg.norm(change) / np.linalg.norm(law)
        assert found[l].cosine == pytest.approx(cosine, rel=1e-10)
        assert found[l].product == pytest.approx(np.sum(g * h.detach().numpy()) / len(x), rel=1e-10)
        labels = samples.labels.numpy()
        spreads = [
            ClassStatistics.from_features(f.detach().numpy(), labels).within
            for f in features[l : l + 2]
        ]
        assert found[l].growth == pytest.approx(np.trace(spreads[1]) / np.trace(spreads[0]))
        W = network.last.weight.detach().numpy()
        P = np.linalg.pinv(W) @ W
        inside = [np.trace(P @ s) for s in spreads]
        assert found[l].growth_in_rows == pytest.approx(inside[1] / inside[0])


def test_gradient_times_feature_is_conserved_over_the_depth_of_a_homogeneous_network():
    """Sharp ReLU, at any weights; at rest it is minus the decay times the last weights' square."""
    samples = small()
    network = ResidualMLP(6, 3, depth=3, width=5, seed=1)
    products = [block.product for block in balance(network, samples, 0.05)]
    np.testing.assert_allclose(products, products[-1], rtol=1e-12)
    smooth = ResidualMLP(6, 3, depth=3, width=5, seed=1, smoothing=0.5)
    assert np.ptp([block.product for block in balance(smooth, samples, 0.05)]) > 1e-4


def test_at_rest_the_product_is_what_the_last_layer_pays(rested):
    network, samples, _ = rested
    paid = 0.02 * network.last.weight.square().sum().item()
    assert balance(network, samples, 0.02)[-1].product == pytest.approx(-paid, rel=1e-6)


def test_live_units_of_a_sharp_network_are_in_balance():
    network, samples, _ = at_rest(smoothing=0.0, depth=1, width=8)
    (block,) = balance(network, samples, 0.02)
    assert 0 < block.live <= 8 and len(block.units) == block.live
    np.testing.assert_allclose(block.units, 1, atol=0.02)
    assert block.cosine > 0.999


def test_every_block_descends(rested):
    """The law says -<g, change> = N w |B|^2, which is positive."""
    network, samples, _ = rested
    x = samples.inputs(slice(None))
    features = [x, *network.hidden(x)]
    value = Recipe(epochs=1, learning_rate=1).mean_loss(network(x), samples.labels)
    slopes = torch.autograd.grad(value, network.last.weight)  # the graph is whole
    assert len(slopes) == 1
    for l, block in enumerate(network.blocks):
        h = features[l + 1].detach().requires_grad_()
        end = h
        for later in network.blocks[l + 1 :]:
            end = later(end)
        loss = Recipe(epochs=1, learning_rate=1).mean_loss(network.last(end), samples.labels)
        g = torch.autograd.grad(loss, h)[0]
        descent = -(g * (features[l + 1] - features[l])).sum().item()
        assert descent == pytest.approx(0.02 * block.outer.weight.square().sum().item(), rel=1e-6)


class Own(nn.Module):
    """Somebody's residual network: layer normalization, GELU and biases."""

    def __init__(self, end=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 5).requires_grad_(False)
        parts = [nn.LayerNorm(5), nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5)]
        self.body = nn.Sequential(*parts, *([] if end is None else [end]))
        self.block = Added(self.body)
        self.last = nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        return self.last(self.block(self.stem(x)))


class Added(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, h):
        return h + self.body(h)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_another_residual_network_obeys_it_too(loss):
    samples, network = small(), Own()
    stem = network.stem.weight.clone()
    end = settle(network, samples, 0.005, loss=loss, tolerance=1e-9, max_iterations=20000)
    (block,) = balance(network, samples, 0.005, loss=loss, points=["block"])
    assert torch.equal(stem, network.stem.weight)
    assert end.gradient_norm < 1e-6 and block.error < 1e-4


@pytest.mark.parametrize(
    "network, sentence",
    [
        (Own(nn.BatchNorm1d(5, affine=False)), "must end in weights, but it ends in a BatchNorm1d"),
        (Own(nn.Dropout(0.1)), "must not drop units at random, but body.4 is a Dropout with p"),
        (Own(nn.ReLU()), "block must add the output of its last linear map, or of a"),
        (Own(nn.LayerNorm(5)), "block must add the output of its last linear map, or of a"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(network, sentence):
    with pytest.raises(ValueError, match=sentence):
        balance(network.double(), small(), 0.02, points=["block"])


# ---- batch normalization ------------------------------------------------------------------------


def of_others(inside, end, depth=2):
    """Blocks of somebody's network, which keeps statistics of its own, between two more layers."""
    torch.manual_seed(1)
    blocks = []
    for _ in range(depth):
        parts = [nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)]
        if inside:
            parts.insert(1, nn.BatchNorm1d(7))
        if end:
            parts.append(nn.BatchNorm1d(6))
        blocks.append(Added(nn.Sequential(*parts)))
    network = nn.Sequential(nn.BatchNorm1d(6), *blocks)
    network.add_module("last", nn.Linear(6, 3))
    return network.double()


def normalized(kind, seed=3):
    network = ResidualMLP(6, 3, 2, width=5, smoothing=0.3, normalization=kind, seed=seed)
    with torch.no_grad():
        for block in network.blocks:
            if kind == "end":
                block.end.weight.uniform_(0.2, 1.5)
                block.end.bias.uniform_(-1, 1)
    return network


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("kind", ["inside", "end"])
def test_with_normalization_the_law_is_the_slope_in_the_weights_written_over_samples(kind, loss):
    """At any weights: what the block would add with the weights minus slope over decay."""
    samples, network = small(), normalized(kind)
    x = samples.inputs(slice(None))
    recipe = Recipe(epochs=1, learning_rate=1, loss=loss)
    value = recipe.mean_loss(network(x), samples.labels)
    found = balance(network, samples, 0.05, loss=loss)
    h = x
    for block, entry in zip(network.blocks, found, strict=True):
        units = block.relu(block.inside(block.inner(h)))
        if kind == "inside":
            (slope,) = torch.autograd.grad(value, block.outer.weight, retain_graph=True)
            law = units @ (-slope / 0.05).T
        else:
            weights = block.end.weight, block.end.bias
            slope, shift = torch.autograd.grad(value, weights, retain_graph=True)
            z = block.outer(units)
            z = (z - z.mean(0)) / (z.var(0, correction=0) + block.end.eps).sqrt()
            law = -(z * slope + shift) / 0.05
        change = block(h) - h
        missed = (change - law).norm() / change.norm()
        cosine = (change * law).sum() / change.norm() / law.norm()
        assert entry.error == pytest.approx(missed.item(), rel=1e-9)
        assert entry.cosine == pytest.approx(cosine.item(), rel=1e-9)
        h = block(h)


@pytest.mark.parametrize("kind", ["inside", "end"])
def test_a_normalized_network_comes_to_rest_without_decay_where_length_is_taken_out(kind):
    samples, network = small(), normalized(kind)
    taken = network.without_length
    assert len(taken) == {"inside": 2, "end": 4}[kind]
    start = balance(network, samples, 0.02, loss="cross-entropy")
    settle(network, samples, 0.02, free=taken, loss="cross-entropy", max_iterations=200)
    rest = balance(network, samples, 0.02, loss="cross-entropy")
    assert max(b.cosine for b in start) < 0.9
    assert all(b.cosine > 0.99 for b in rest if b.live) and any(b.live for b in rest)
    # The same network under decay everywhere: the part of the slope that nothing balances.
    x = samples.inputs(slice(None))
    recipe = Recipe(epochs=1, learning_rate=1, loss="cross-entropy")
    value = recipe.mean_loss(network(x), samples.labels)
    for name in taken:
        p = network.get_parameter(name)
        (slope,) = torch.autograd.grad(value, p, retain_graph=True)
        along = (slope * p).sum(1).abs().max() / p.norm()
        assert along < 1e-3 * 0.02 * p.norm()


@pytest.mark.parametrize("constant, rests", [(1e-2, True), (1e-15, False)])
def test_with_decay_on_all_weights_only_the_constant_makes_a_point_of_rest(constant, rests):
    samples, network = small(), normalized("end")
    for block in network.blocks:
        block.inside.eps = block.end.eps = constant
    end = settle(network, samples, 0.05, tolerance=1e-8, max_iterations=300)
    paid = [0.05 * p.detach() for p in network.parameters()]
    taken = [0.05 * network.get_parameter(name).detach() for name in network.without_length]
    share = (sum(p.square().sum() for p in taken) / sum(p.square().sum() for p in paid)).sqrt()
    assert (end.gradient_norm < 1e-5) == rests
    assert (end.gradient_norm >= 0.999 * share.item()) != rests


def test_the_statistics_are_those_of_the_samples_and_the_network_keeps_its_own():
    samples, network = small(), of_others(inside=True, end=True)
    names = ["1", "2"]
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.eval()
    first = balance(network, samples, 0.05, points=names)
    assert not any(module.training for module in network.modules())
    network.train()
    second = balance(network, samples, 0.05, points=names)
    assert all(module.training for module in network.modules())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.error, b.error)
    settle(network, samples, 0.05, max_iterations=2)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("inside, end", [(True, False), (False, True), (True, True)])
def test_normalized_blocks_of_others_obey_it_at_rest(inside, end):
    samples, network = small(), of_others(inside, end, depth=1)
    taken = ["1.body.0.weight"] * inside + [f"1.body.{2 + inside}.weight"] * end
    (start,) = balance(network, samples, 0.02, loss="cross-entropy", points=["1"])
    settle(network, samples, 0.02, free=taken, loss="cross-entropy", max_iterations=200)
    (block,) = balance(network, samples, 0.02, loss="cross-entropy", points=["1"])
    assert start.cosine < 0.9 < 0.99 < block.cosine
    assert block.live > 0 and len(block.units) == 0


def test_a_channel_without_scale_is_not_live():
    samples, network = small(), normalized("end")
    with torch.no_grad():
        network.blocks[0].end.weight[:2].zero_()
        network.blocks[0].end.bias[:2].zero_()
    assert [block.live for block in balance(network, samples, 0.02)] == [4, 6]


def test_unknown_normalizations_and_parameters_are_refused():
    with pytest.raises(ValueError, match="one of 'none', 'inside', 'end', but"):
        ResidualMLP(6, 3, 1, normalization="after")
    with pytest.raises(ValueError, match="'none' without skip, but normalization = 'end'"):
        ResidualMLP(6, 3, 1, skip=False, normalization="end")
    with pytest.raises(ValueError, match="free must name parameters that are trained, but 'A'"):
        settle(ResidualMLP(6, 3, 1), small(), 0.1, free=["A"])


def test_blocks_without_skip_or_map_are_refused():
    samples = small()
    with pytest.raises(ValueError, match="layer 1 must add the output"):
        balance(MLP((6, 6, 3)), samples, 0.02)
    with pytest.raises(ValueError, match="block 1 must add the output"):
        balance(ResidualMLP(6, 3, 1, skip=False), samples, 0.02)
    with pytest.raises(ValueError, match=r"blocks.0.relu must end in a linear map"):
        balance(ResidualMLP(6, 3, 1), samples, 0.02, points=["blocks.0.relu"])
    with pytest.raises(ValueError, match="weight_decay must be greater than zero"):
        balance(ResidualMLP(6, 3, 1), samples, 0.0)


def test_a_block_that_decay_has_switched_off_is_no_error():
    samples, network = small(), ResidualMLP(6, 3, 2, width=5)
    with torch.no_grad():
        network.blocks[1].outer.weight.mul_(1e-12)
    first, second = balance(network, samples, 0.02)
    assert second.live == 0 and np.isnan(second.cosine) and np.isnan(second.error)
    assert first.live == 5 and np.isfinite(first.cosine) and len(second.units) == 0


# ---- training -----------------------------------------------------------------------------------


def test_settle_minimizes_what_its_docstring_says(rested):
    network, samples, end = rested
    x = samples.inputs(slice(None))
    target = torch.eye(3, dtype=torch.float64)[samples.labels]
    square = ((network(x) - target) ** 2).sum() / (2 * len(x))
    decay = 0.01 * sum((p**2).sum() for p in network.parameters())
    assert end.objective == pytest.approx((square + decay).item(), rel=1e-12)


def test_settle_keeps_the_decay_of_the_last_layer_apart():
    network, samples = ResidualMLP(6, 3, 1, width=5, smoothing=0.3), small()
    settle(network, samples, 0.02, last_weight_decay=0.05, tolerance=1e-9, max_iterations=9000)
    (block,) = balance(network, samples, 0.02)
    paid = 0.05 * network.last.weight.square().sum().item()
    assert block.error < 1e-5 and block.product == pytest.approx(-paid, rel=1e-5)


def test_the_horizon_sums_the_steps_that_training_takes():
    """Decay alone, without a loss: after t the weights have fallen by about exp(-t)."""
    recipe = Recipe(60, 0.01, momentum=0.5, weight_decay=0.1, batch_size=6, drops=(50,))
    network = ResidualMLP(6, 3, 1)
    with torch.no_grad():
        network.last.weight.zero_()
    before = network.blocks[0].inner.weight.detach().clone()
    samples = small()
    x = torch.zeros(len(samples), 6, dtype=torch.float64)
    train(network, x.numpy(), samples.labels.numpy(), **vars(recipe))
    fallen = (network.blocks[0].inner.weight.norm() / before.norm()).item()
    assert -np.log(fallen) == pytest.approx(horizon(recipe, len(samples)), rel=0.02)


def test_networks_of_one_seed_are_equal_and_plain_ones_are_homogeneous():
    a, b = (ResidualMLP(6, 3, 2, seed=5) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = ResidualMLP(6, 3, 3, skip=False)
    scores = plain(x)
    with torch.no_grad():
        plain.blocks[1][0].weight.mul_(3.0)
    torch.testing.assert_close(plain(x), 3 * scores)
