"""The trainer: decay by group, losses, augmentation, and a state from which training goes on to the
last bit."""

import copy
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nclib.networks import MLP, Recipe, ResNet18, Samples, Trainer, train
from nclib.networks.samples import moved, random_moves

rng = np.random.default_rng(3)
X, Y = rng.standard_normal((24, 6)), rng.permutation(np.repeat(np.arange(3), 8))
IMAGES = rng.integers(0, 256, (24, 1, 8, 8)).astype(np.uint8)


def trainer(seed=0, **recipe):
    recipe = {"epochs": 6, "learning_rate": 0.1, "batch_size": 7, "drops": (3,)} | recipe
    network, samples = MLP((6, 8, 3), seed=1, last_bias=True), Samples(X, Y, dtype=torch.float64)
    return Trainer(network, samples, Recipe(**recipe), seed=seed)


def weights(t):
    return [p.detach().clone() for p in t.network.parameters()]


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize(("decay", "last"), [(0.03, None), (0.03, 0.3), (0.0, 0.2), (0.2, 0.0)])
def test_feature_mapping_and_last_layer_decay_on_their_own(loss, decay, last):
    ours = trainer(
        loss=loss, batch_size=None, weight_decay=decay, last_weight_decay=last, momentum=0.5
    )
    network = copy.deepcopy(ours.network)
    own = {id(p): decay if last is None else last for p in network.last.parameters()}
    groups = [{"params": [p], "weight_decay": own.get(id(p), decay)} for p in network.parameters()]
    plain = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    for epoch in range(1, 6):
        plain.zero_grad()
        z = network(x)
        value = (
            torch.nn.functional.cross_entropy(z, y)
            if loss != "mse"
            else ((z - torch.eye(3)[y]) ** 2).sum() / 48
        )
        value.backward()
        for group in plain.param_groups:
            group["lr"] = 0.1 if epoch <= 3 else 0.01
        plain.step()
        batch_loss, batch_error = ours.run_epoch()
        assert (
            np.isclose(batch_loss, value.item())
            and batch_error == (z.argmax(1) != y).double().mean()
        )
    for p, q in zip(ours.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-13)


def test_what_an_epoch_reports_is_over_all_its_samples():
    ours = trainer(learning_rate=0.0, batch_size=7)
    with torch.no_grad():
        z = ours.network(torch.as_tensor(X))
    loss, error = ours.run_epoch()
    assert np.isclose(loss, ((z - torch.eye(3)[torch.as_tensor(Y)]) ** 2).sum().item() / 48)
    assert np.isclose(error, (z.argmax(1) != torch.as_tensor(Y)).double().mean().item())


@pytest.mark.parametrize("augment", [False, True])
def test_training_goes_on_from_a_state_to_the_last_bit(augment):
    def new(seed):
        samples = Samples(IMAGES, Y)
        recipe = Recipe(
            epochs=5,
            learning_rate=0.05,
            batch_size=8,
            weight_decay=1e-3,
            drops=(2,),
            augment=augment,
        )
        return Trainer(ResNet18(3, width=2, channels=1, seed=seed), samples, recipe, seed=seed)

    whole = new(0)
    series = [whole.run_epoch() for _ in range(5)]
    first = new(0)
    assert [first.run_epoch() for _ in range(2)] == series[:2]
    second = new(9)
    second.load_state(first.state())
    first.run_epoch()  # the state must be a copy
    assert second.epoch == 2 and [second.run_epoch() for _ in range(3)] == series[2:]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_augmented_batches_are_the_moved_images():
    seen = []
    samples = Samples(IMAGES, Y)
    network = ResNet18(3, width=2, channels=1)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    Trainer(
        network, samples, Recipe(epochs=1, learning_rate=0.0, batch_size=10, augment=True), seed=4
    ).run_epoch()
    generator = torch.Generator().manual_seed(4)
    order = torch.randperm(24, generator=generator)
    plain = moved(torch.as_tensor(IMAGES)[order], random_moves(24, generator))
    plain = (plain - samples.mean) * samples.scale
    assert [len(batch) for batch in seen] == [10, 10, 4]
    torch.testing.assert_close(torch.cat(seen), plain, rtol=1e-5, atol=1e-5)


def test_train_is_the_trainer_with_a_look_after_each_epoch():
    network = MLP((6, 8, 3), seed=1)
    history = train(
        network,
        X,
        Y,
        epochs=4,
        learning_rate=0.1,
        batch_size=7,
        drops=(2,),
        loss="cross-entropy",
        seed=5,
    )
    ours = Trainer(
        MLP((6, 8, 3), seed=1),
        Samples(X, Y, dtype=torch.float64),
        Recipe(epochs=4, learning_rate=0.1, batch_size=7, drops=(2,), loss="cross-entropy"),
        seed=5,
    )
    for _ in range(4):
        ours.run_epoch()
    assert all(
        torch.equal(p, q)
        for p, q in zip(network.parameters(), ours.network.parameters(), strict=True)
    )
    z = network(torch.as_tensor(X))
    assert np.isclose(
        history.loss[-1], torch.nn.functional.cross_entropy(z, torch.as_tensor(Y)).item()
    )


def test_other_losses_are_refused():
    with pytest.raises(ValueError, match="'mse' or 'cross-entropy', but it is 'hinge'"):
        Recipe(epochs=1, learning_rate=0.1, loss="hinge")


def test_divergence_is_an_error():
    diverging = trainer(learning_rate=1e6, epochs=200)
    with pytest.raises(FloatingPointError, match="learning rate is too large"):
        for _ in range(200):
            diverging.run_epoch()


def plain_sweeps(parameters, gradients, velocities, lr, momentum, decay):
    """Descent with momentum and weight decay in four sweeps over the memory."""
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, gradients)
    torch._foreach_add_(velocities, parameters, alpha=decay)
    torch._foreach_add_(parameters, velocities, alpha=-lr)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_is_the_plain_formula_to_rounding(momentum):
    ours = trainer(momentum=momentum, weight_decay=0.02, last_weight_decay=0.3)
    plain = [p.detach().clone() for p in ours.parameters]
    velocities = [torch.zeros_like(p) for p in plain]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for p in ours.parameters:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        gradients = [p.grad.clone() for p in ours.parameters]
        with torch.no_grad():
            ours._descend(0.1)
        split = len(ours.groups[0][0])
        for part, decay in ((slice(split), 0.02), (slice(split, None), 0.3)):
            plain_sweeps(plain[part], gradients[part], velocities[part], 0.1, momentum, decay)
    for p, q in zip(ours.parameters, plain, strict=True):
        assert (p - q).abs().max() <= 20 * 2.2e-16 * q.abs().max()


def test_parameters_without_a_gradient_stay_as_they_are():
    ours = trainer(weight_decay=0.1)
    frozen = ours.network.layers[0][0].weight
    frozen.requires_grad_(False)
    before, others = frozen.clone(), weights(ours)[1:]
    ours.run_epoch()
    assert torch.equal(frozen, before)
    assert not any(torch.equal(p, q) for p, q in zip(weights(ours)[1:], others, strict=True))


class Graph:
    """Stands for a CUDA graph: replays the calls that were made while it recorded."""

    made = ()
    recording = None

    def __init__(self):
        self.calls, self.replayed = [], 0
        type(self).made.append(self)

    def replay(self):
        self.replayed += 1
        for call in self.calls:
            call()


def test_recorded_steps_are_the_steps_themselves(monkeypatch):
    """The order of rehearsals, recording and replay, with stand-ins for what needs a GPU."""
    step = Trainer._step

    def recorded_or_done(self, batch, moves):
        if Graph.recording is None:
            step(self, batch, moves)
        else:
            Graph.recording.calls.append(lambda: step(self, batch, moves))

    @contextmanager
    def record(graph):
        Graph.recording = graph
        yield
        Graph.recording = None

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(Trainer, "_step", recorded_or_done)

    def new():
        recipe = Recipe(epochs=4, learning_rate=0.05, batch_size=7, drops=(2,), augment=True)
        return Trainer(ResNet18(3, width=2, channels=1, seed=0), Samples(IMAGES, Y), recipe)

    ours, plain = new(), new()
    ours._records = True
    for _ in range(4):
        assert ours.run_epoch() == plain.run_epoch()
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, ours.network.state_dict()[name]), name
    # One graph for each step length; of four batches in an epoch the last has three samples only.
    assert [graph.replayed for graph in Graph.made] == [6, 6]
