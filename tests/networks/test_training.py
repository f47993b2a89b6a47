"""The trainer: decay by group, losses, augmentation, and a state from which training goes on to the last bit."""

import copy

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
        MLP((6, 8, 3), seed=1), Samples(X, Y, dtype=torch.float64),
        Recipe(epochs=4, learning_rate=0.1, batch_size=7, drops=(2,), loss="cross-entropy"), seed=5,
    )  # fmt: skip
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
    with pytest.raises(ValueError, match="'mse' or 'cross-entropy', not 'hinge'"):
        Recipe(epochs=1, learning_rate=0.1, loss="hinge")


def test_divergence_is_an_error():
    diverging = trainer(learning_rate=1e6, epochs=200)
    with pytest.raises(FloatingPointError, match="learning rate is too large"):
        for _ in range(200):
            diverging.run_epoch()
