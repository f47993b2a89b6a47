"""Data, network and training against plain formulas."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nclib import measure
from nclib.networks import MLP, digits, half_square, hidden_features, last_weights, train

WIDTHS = (5, 7, 6, 3)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((12, 5)), np.repeat(np.arange(3), 4)


def parameters(network):
    return [p.detach().numpy().copy() for p in network.parameters()]


def linear_maps(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.Linear)]


def plain_forward(network, x):
    """The scores and hidden outputs by NumPy."""
    hidden = []
    for layer in linear_maps(network)[:-1]:
        x = np.maximum(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
        hidden.append(x)
    return x @ last_weights(network).T, hidden


def plain_descent(network, x, labels, steps, momentum, decay):
    """Gradient descent with momentum, written out; steps is the list of step lengths."""
    target = torch.eye(3, dtype=torch.float64)[torch.as_tensor(labels)]
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for step in steps:
        loss = ((network(torch.as_tensor(x)) - target) ** 2).sum() / (2 * len(x))
        loss = loss + decay / 2 * sum((p**2).sum() for p in network.parameters())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, v, g in zip(network.parameters(), velocity, gradients, strict=True):
                v.mul_(momentum).add_(g)
                p.sub_(step * v)
    return parameters(network)


def test_digits_are_balanced_ordered_and_scaled():
    images, labels = load_digits(return_X_y=True)
    x, y = digits(per_class=5)
    assert x.shape == (50, 64) and x.dtype == np.float64 and x.min() == 0 and x.max() == 1
    assert np.array_equal(y, np.repeat(np.arange(10), 5))
    for k in range(10):
        assert np.array_equal(x[y == k], images[labels == k][:5] / 16)
    x, y = digits()
    assert len(x) == 10 * np.bincount(labels).min() and np.ptp(np.bincount(y)) == 0


@pytest.mark.parametrize("per_class", [0, -1, 175])
def test_digits_refuses_what_the_data_cannot_give(per_class):
    with pytest.raises(ValueError, match=f"between 1 and 174.*it is {per_class}"):
        digits(per_class)


def test_network_computes_the_plain_formula(data):
    x, _ = data
    network = MLP(WIDTHS, seed=3)
    scores, hidden = plain_forward(network, x)
    np.testing.assert_allclose(
        network(torch.as_tensor(x)).detach().numpy(), scores, rtol=1e-12, atol=1e-14
    )
    for ours, plain in zip(hidden_features(network, x), hidden, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-14)
    assert [h.shape for h in hidden_features(network, x)] == [(12, 7), (12, 6)]


def test_only_the_last_layer_may_lack_a_bias():
    assert [layer.bias is not None for layer in linear_maps(MLP(WIDTHS))] == [True, True, False]
    assert [layer.bias is not None for layer in linear_maps(MLP(WIDTHS, last_bias=True))] == [
        True,
        True,
        True,
    ]


def test_initial_weights_depend_on_the_seed_alone():
    first = parameters(MLP(WIDTHS, seed=1))
    torch.rand(10)
    assert all(
        np.array_equal(a, b) for a, b in zip(first, parameters(MLP(WIDTHS, seed=1)), strict=True)
    )
    assert not np.array_equal(first[0], parameters(MLP(WIDTHS, seed=2))[0])
    for layer in linear_maps(MLP((400, 100, 30, 10))):
        largest, fan_in = layer.weight.abs().max().item(), layer.in_features
        assert 0.98 / np.sqrt(fan_in) < largest <= 1 / np.sqrt(fan_in)
    narrow = parameters(MLP(WIDTHS, seed=1, dtype=torch.float32))
    assert all(np.array_equal(a.astype(np.float32), b) for a, b in zip(first, narrow, strict=True))


@pytest.mark.parametrize("widths", [(5, 3), (5, 0, 3)])
def test_network_needs_a_hidden_layer(widths):
    with pytest.raises(ValueError, match="at least three positive"):
        MLP(widths)


def test_features_and_weights_read_out(data):
    x, _ = data
    network = MLP(WIDTHS, dtype=torch.float32)
    assert hidden_features(network, x)[0].dtype == np.float32
    before = last_weights(network)
    with torch.no_grad():
        network.last.weight.add_(1)
    assert not np.array_equal(before, last_weights(network))


def test_loss_is_the_papers(data):
    x, y = data
    network = MLP(WIDTHS)
    scores = network(torch.as_tensor(x))
    one_hot = torch.eye(3, dtype=torch.float64)[torch.as_tensor(y)]
    ours = half_square(scores, one_hot).item()
    assert np.isclose(ours, np.sum((scores.detach().numpy() - np.eye(3)[y]) ** 2) / (2 * 12))
    assert np.isclose(torch.nn.functional.mse_loss(scores, one_hot).item(), 2 / 3 * ours)


def test_full_batch_training_is_gradient_descent_with_momentum(data):
    x, y = data
    settings = {"momentum": 0.7, "decay": 0.03}
    expected = plain_descent(MLP(WIDTHS, seed=4), x, y, [0.1, 0.1, 0.01], **settings)
    network = MLP(WIDTHS, seed=4)
    train(network, x, y, epochs=3, learning_rate=0.1, momentum=0.7, weight_decay=0.03, drops=(2,))
    for ours, plain in zip(parameters(network), expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-13)


def test_batches_cover_the_data_once_per_epoch(data):
    x, y = data
    seen = []

    class Spy(MLP):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    train(Spy(WIDTHS), x, y, epochs=2, learning_rate=0.0, batch_size=5)
    # Per epoch three batches, and the whole set once for the record; the record of epoch 0 comes
    # first.
    assert [len(batch) for batch in seen] == [12] + [5, 5, 2, 12] * 2
    for epoch in (seen[1:4], seen[5:8]):
        together = torch.cat(epoch).numpy()
        assert np.array_equal(np.sort(together[:, 0]), np.sort(x[:, 0]))
        assert not np.array_equal(together, x)
    assert not torch.equal(seen[1], seen[5])
    first = seen[1]
    seen.clear()
    train(Spy(WIDTHS), x, y, epochs=1, learning_rate=0.0, batch_size=5, seed=7)
    assert not torch.equal(seen[1], first)


def test_training_repeats_bit_for_bit_and_reports_each_epoch(data):
    x, y = data
    runs, calls = [], []
    for _ in range(2):
        torch.manual_seed(len(runs))  # the global generator must not matter
        network = MLP(WIDTHS, seed=1)
        history = train(
            network,
            x,
            y,
            epochs=4,
            learning_rate=0.1,
            batch_size=5,
            seed=2,
            on_epoch=lambda epoch, net: calls.append((epoch, last_weights(net))),
        )
        runs.append((history, parameters(network)))
    assert [epoch for epoch, _ in calls] == [0, 1, 2, 3, 4] * 2
    assert np.array_equal(calls[0][1], last_weights(MLP(WIDTHS, seed=1)))
    assert np.array_equal(calls[4][1], last_weights(network))
    (first, a), (second, b) = runs
    assert np.array_equal(first.loss, second.loss) and all(map(np.array_equal, a, b))
    scores, _ = plain_forward(MLP(WIDTHS, seed=1), x)
    assert np.isclose(first.loss[0], np.sum((scores - np.eye(3)[y]) ** 2) / 24)
    assert first.error[0] == np.mean(scores.argmax(axis=1) != y)


def test_training_collapses_small_digits():
    x, y = digits(per_class=10)
    network = MLP((64, 40, 40, 10), seed=0)
    before = measure(hidden_features(network, x)[-1], y)
    history = train(network, x, y, epochs=150, learning_rate=0.2, weight_decay=5e-4, batch_size=25)
    first, last = (measure(h, y, last_weights(network)) for h in hidden_features(network, x))
    assert history.error[-1] == 0 and last.nc4 == 0
    assert last.nc1 < 0.02 * before.nc1 and last.nc2 < 0.6 * before.nc2
    assert last.nc1 < 0.2 * first.nc1


def test_divergence_is_an_error(data):
    x, y = data
    with pytest.raises(FloatingPointError, match="learning rate is too large"):
        train(MLP(WIDTHS), x, y, epochs=200, learning_rate=1e4, weight_decay=1.0)
