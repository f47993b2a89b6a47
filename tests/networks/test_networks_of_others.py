"""Probes on networks and data that were not made for them, against plain computations."""

import copy
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from nclib import Model, fit, minimize, nc1, nc1_trace
from nclib.networks import Samples, disagreement, features, probe, report
from nclib.networks.hooks import inner
from tests.networks.networks_of_others import (
    CHANGES,
    IMAGES,
    LABELS,
    SEQUENCES,
    Attention,
    Changed,
    Recurrent,
    Residual,
    SkipsInEvaluation,
    Tied,
    TwoInputs,
    TwoOutputs,
    X,
    assert_statistics,
    batches,
    seeded,
)


def numpy(tensor):
    return tensor.detach().double().numpy()


def by_hand(network, x, upto):
    """What a part of a network puts out for all inputs, without any hook."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        return numpy(upto(network, torch.as_tensor(x)))


# ---- what a layer puts out, and not what became of it


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [7, 29, 30])
def test_operations_in_place_behind_a_layer(change, size):
    network = seeded(lambda: Changed(CHANGES[change]))
    pieces = batches(X, size=size)
    found = probe(network, pieces, ["first", "input of head"]).statistics
    first = np.concatenate([by_hand(network, x, lambda n, x: n.first(x)) for x, _ in pieces])
    later = np.concatenate(
        [by_hand(network, x, lambda n, x: n.change(n.first(x))) for x, _ in pieces]
    )
    assert_statistics(found["first"], first, LABELS)
    assert_statistics(found["input of head"], later, LABELS)
    assert np.abs(first - later).max() > 0.1
    assert np.array_equal(features(network, pieces, "first"), first.astype(np.float32))


def test_a_chain_of_layers_in_place():
    network = seeded(
        lambda: nn.Sequential(
            nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.Linear(8, 4)
        )
    )
    found = probe(network, batches(X), ["0", "1", "2"]).statistics
    h = by_hand(network, X, lambda n, x: n[0](x))
    assert_statistics(found["0"], h, LABELS)
    assert_statistics(found["1"], np.maximum(h, 0), LABELS)
    assert_statistics(found["2"], np.clip(h, 0, 1), LABELS)
    assert h.min() < 0


def test_an_input_that_its_layer_overwrites():
    class Overwrites(nn.Linear):
        def forward(self, x):
            x = x.mul_(0)
            return super().forward(x)

    network = seeded(lambda: nn.Sequential(nn.Linear(12, 6), Overwrites(6, 4)))
    stats = probe(network, batches(X)).statistics["input of 1"]
    assert_statistics(stats, by_hand(network, X, lambda n, x: n[0](x)), LABELS)


def test_an_input_that_is_named_or_a_sequence():
    class Named(Changed):
        def forward(self, x):
            return self.head(input=self.first(x))

    network = seeded(lambda: Named(None))
    stats = probe(network, batches(X)).statistics["input of head"]
    assert_statistics(stats, by_hand(network, X, lambda n, x: n.first(x)), LABELS)
    tokens = seeded(lambda: nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 4)))
    with pytest.raises(
        ValueError, match=r"^input of 1 is a tensor of shape \(7, 5, 6\), which must"
    ):
        probe(tokens, batches(SEQUENCES))
    stats = probe(tokens, batches(SEQUENCES), pool=lambda h: h[:, -1]).statistics["input of 1"]
    last = by_hand(tokens, SEQUENCES, lambda n, x: n[0](x)[:, -1])
    assert_statistics(stats, last, LABELS, tolerance=1e-6)


# ---- modes


def test_every_module_comes_back_in_its_own_mode():
    network = seeded(Residual).train()
    network.stem[1].eval()  # frozen
    network.drop.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    probe(network, batches(IMAGES))
    disagreement(network, batches(IMAGES), probe(network, batches(IMAGES)).statistics)
    features(network, batches(IMAGES))
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert len(set(modes.values())) == 2
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_modes_and_hooks_come_back_after_an_error():
    network = seeded(Residual).train()
    network.norm.eval()
    with pytest.raises(ValueError, match="must not be negative"):
        probe(network, [*batches(IMAGES), (torch.zeros(2, 3, 8, 8), torch.tensor([0, -1]))])
    with pytest.raises(RuntimeError):
        probe(network, [(torch.zeros(2, 4, 8, 8), torch.tensor([0, 1]))])
    assert network.training and not network.norm.training and network.fc.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_that_keeps_its_frozen_parts_in_evaluation():
    class Frozen(Residual):
        def train(self, mode=True):
            super().train(mode)
            self.stem.eval()
            return self

    network = seeded(Frozen).train()
    probe(network, batches(IMAGES))
    assert network.training and not network.stem.training and network.norm.training


def test_evaluation_mode_is_what_is_measured():
    network = seeded(Residual).train()
    network(torch.as_tensor(IMAGES))  # moves the running statistics
    found = probe(network, batches(IMAGES), ["stem", "norm"]).statistics
    stem = by_hand(network, IMAGES, lambda n, x: n.stem(x).double().mean((2, 3)))
    assert_statistics(found["stem"], stem, LABELS, tolerance=1e-6)
    norm = by_hand(network, IMAGES, lambda n, x: n.norm(n.conv(n.stem(x))).double().mean((2, 3)))
    assert_statistics(found["norm"], norm, LABELS, tolerance=1e-6)


# ---- points


def test_the_input_of_the_last_linear_layer_is_measured_by_default():
    def last(n, x):
        return n.pool(torch.relu(n.norm(n.conv(n.stem(x))) + n.stem(x))).flatten(1)

    network = seeded(Residual)
    found = probe(network, batches(IMAGES)).statistics
    assert list(found) == ["input of fc"]
    assert_statistics(found["input of fc"], by_hand(network, IMAGES, last), LABELS, tolerance=1e-6)

    class Backwards(nn.Module):
        """Defines its last layer first."""

        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(6, 4), nn.Linear(12, 6)

        def forward(self, x):
            return self.head(self.body(x))

    assert list(probe(seeded(Backwards), batches(X)).statistics) == ["input of head"]


def test_points_by_name_and_module():
    network = seeded(Residual)
    stem = network.stem[2]
    every = [
        probe(network, batches(IMAGES), points).statistics
        for points in (
            "stem.2",
            stem,
            ["stem.2"],
            (stem,),
            {"mine": "stem.2"},
            {"mine": stem},
            (point for point in ["stem.2"]),
        )
    ]
    assert [list(found) for found in every] == [["stem.2"]] * 4 + [["mine"]] * 2 + [["stem.2"]]
    for found in every:
        (stats,) = found.values()
        assert np.array_equal(stats.within, every[0]["stem.2"].within)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ("layer4.1", ValueError, r"no layer 'layer4.1'; its layers are stem, stem.0, stem.1"),
        ("input of layer4", ValueError, "no layer 'layer4'"),
        (nn.Linear(2, 2), ValueError, "does not hold the layer Linear"),
        ([3], TypeError, "names or modules, but one is a value of type int"),
        ([], ValueError, "at least one layer"),
    ],
)
def test_points_that_are_not_there(points, error, message):
    with pytest.raises(error, match=message):
        probe(seeded(Residual), batches(IMAGES), points)


def test_a_network_without_a_linear_layer_needs_points():
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)))
    with pytest.raises(ValueError, match=r"calls no linear layer.*by their names: 0, 1"):
        probe(network, batches(IMAGES))
    assert probe(network, batches(IMAGES), "0").statistics["0"].d == 4


def test_what_a_layer_puts_out_must_become_vectors():
    lstm, attention = seeded(Recurrent), seeded(Attention)
    with pytest.raises(TypeError) as error:
        probe(lstm, batches(SEQUENCES), "lstm")
    assert str(error.value) == (
        "lstm puts out a tuple of 2: a tensor of shape (7, 5, 6), a tuple of 2: a tensor of shape "
        "(1, 7, 6), a tensor of shape (1, 7, 6); say which tensor is meant, for instance with "
        "select={'lstm': lambda value: value[0]}."
    )
    with pytest.raises(ValueError) as error:
        probe(attention, batches(SEQUENCES), "encoder")
    assert str(error.value) == (
        "encoder puts out a tensor of shape (7, 5, 12), which must become (B, d); say how, for "
        "instance with pool={'encoder': lambda h: h.mean(1)}."
    )
    dictionary = seeded(lambda: nn.Sequential(OrderedDict(body=TwoOutputs("dictionary"))))
    with pytest.raises(
        TypeError, match=r"body puts out a dictionary with the keys 'logits', 'aux'.*\['logits'\]"
    ):
        probe(dictionary, batches(X), "body")
    single = nn.Sequential(nn.Linear(12, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"1 puts out a tensor of shape \(7,\).*h\[:, None\]"):
        probe(single, batches(X), "1")
    integers = nn.Sequential(OrderedDict(top=Returns(lambda x: x.argmax(1, keepdim=True))))
    with pytest.raises(TypeError, match=r"top must put out floating-point numbers.*int64"):
        probe(integers, batches(X), "top")
    flat = nn.Sequential(OrderedDict(top=Returns(lambda x: x.reshape(-1, 6))))
    with pytest.raises(ValueError, match="top puts out 14 rows of features for 7 labels"):
        probe(flat, batches(X), "top")


class Returns(nn.Module):
    """Whatever a function returns."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def test_a_recurrent_network():
    network = seeded(Recurrent)
    last = by_hand(network, SEQUENCES, lambda n, x: n.lstm(x)[0][:, -1])
    mean = by_hand(network, SEQUENCES, lambda n, x: n.lstm(x)[0].double().mean(1))
    data = batches(SEQUENCES)
    assert_statistics(probe(network, data).statistics["input of head"], last, LABELS)
    stats = probe(network, data, "lstm", select=lambda o: o[0][:, -1]).statistics["lstm"]
    assert_statistics(stats, last, LABELS)
    stats = probe(
        network,
        data,
        ["lstm", "head"],
        select={"lstm": lambda o: o[0]},
        pool={"lstm": lambda h: h.double().mean(1)},
    ).statistics["lstm"]
    assert_statistics(stats, mean, LABELS, tolerance=1e-6)
    assert stats.resolution == np.finfo(np.float32).eps  # of what the LSTM puts out


def test_attention():
    network = seeded(Attention).eval()
    x = torch.as_tensor(SEQUENCES)
    with torch.no_grad():
        out = network.attention(x, x, x)[0]
        hidden = network.encoder.linear1(
            network.encoder.norm1(x + out + network.encoder.self_attn(x + out, x + out, x + out)[0])
        )
    found = probe(
        network,
        batches(SEQUENCES),
        ["attention", "encoder.linear1"],
        select={"attention": lambda output: output[0]},
        pool=lambda h: h[:, 2],
    ).statistics
    assert_statistics(found["attention"], numpy(out[:, 2]), LABELS, tolerance=1e-6)
    assert_statistics(found["encoder.linear1"], numpy(hidden[:, 2]), LABELS, tolerance=1e-5)
    # Its last linear layer gets (B, d) although the layers before it work on sequences.
    assert probe(network, batches(SEQUENCES)).statistics["input of head"].d == 12


@pytest.mark.parametrize("kind", ["tuple", "dictionary"])
def test_a_network_with_two_outputs(kind):
    network = seeded(lambda: TwoOutputs(kind))
    found = probe(network, batches(X), ["body", "input of head", "aux"])
    h = by_hand(network, X, lambda n, x: n.body(x))
    assert_statistics(found.statistics["body"], h, LABELS)
    assert_statistics(found.statistics["input of head"], np.tanh(h), LABELS, tolerance=1e-6)
    scores = by_hand(network, X, lambda n, x: n.head(torch.tanh(n.body(x))))
    if kind == "tuple":
        assert found.scores is None
        with pytest.raises(TypeError, match=r"puts out a tuple of 2.*scores=lambda output: output"):
            disagreement(network, batches(X), found.statistics, ["body"])
        found = probe(network, batches(X), "body", scores=lambda output: output[0])
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert probe(network, batches(X), "body", keep_scores=False).scores is None


def test_tied_layers():
    network = seeded(Tied)
    with pytest.raises(ValueError, match="shared is called more than once in one pass"):
        probe(network, batches(X), ["first", "shared"])
    found = probe(network, batches(X), ["first", "twin"]).statistics
    assert_statistics(
        found["first"], by_hand(network, X, lambda n, x: n.first(x)), LABELS, tolerance=1e-6
    )

    def twin(n, x):
        x = torch.tanh(n.first(x))
        x = torch.tanh(n.shared(torch.tanh(n.shared(x))))
        return n.twin(x)

    assert_statistics(found["twin"], by_hand(network, X, twin), LABELS, tolerance=1e-6)


def test_a_layer_that_evaluation_passes_over():
    with pytest.raises(ValueError, match="noise is not called: in evaluation mode"):
        probe(seeded(SkipsInEvaluation).train(), batches(X), "noise")


# ---- compiled, wrapped, narrow


@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
def test_a_compiled_network(how):
    network = seeded(lambda: Changed(torch.relu_))
    plain = copy.deepcopy(network)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    if how == "whole":
        compiled = torch.compile(network, backend=backend)
    elif how == "in place":
        network.compile(backend=backend)
        compiled = network
    else:
        network.first = torch.compile(network.first, backend=backend)
        compiled = network
    compiled.eval()
    before = compiled(torch.as_tensor(X))
    compilations = len(calls)
    assert compilations > 0
    points = "first._orig_mod" if how == "a part" else "first"
    stats = probe(compiled, batches(X), points).statistics[points]
    assert_statistics(stats, by_hand(plain, X, lambda n, x: n.first(x)), LABELS)
    default = probe(compiled, batches(X)).statistics["input of head"]
    assert_statistics(default, by_hand(plain, X, lambda n, x: n.first(x).relu()), LABELS)
    assert len(calls) == compilations  # a probe compiles nothing anew
    assert torch.equal(compiled(torch.as_tensor(X)), before)


def test_a_wrapped_network_is_measured_inside():
    network = seeded(lambda: Changed(torch.relu_))
    assert inner(nn.DataParallel(network)) is network
    stats = probe(nn.DataParallel(network), batches(X), "first").statistics["first"]
    assert_statistics(stats, by_hand(network, X, lambda n, x: n.first(x)), LABELS)


def test_the_resolution_is_that_of_the_outputs():
    network = seeded(lambda: Changed(torch.relu))
    narrow = copy.deepcopy(network).bfloat16()
    halves = [(x.bfloat16(), y) for x, y in batches(X)]
    stats = probe(narrow, halves, "first").statistics["first"]
    h = np.concatenate([by_hand(narrow, x, lambda n, x: n.first(x)) for x, _ in halves])
    assert stats.resolution == 2**-7 and stats.within.dtype == np.float64
    assert_statistics(stats, h, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = probe(network, batches(X), "first").statistics["first"]
        h = np.concatenate([numpy(network.first(x)) for x, _ in batches(X)])
    assert mixed.resolution == 2**-7
    assert_statistics(mixed, h, LABELS)
    wide = probe(network.double(), [(x.double(), y) for x, y in batches(X)]).statistics
    assert wide["input of head"].resolution == 2**-52


def test_pooling_in_a_wider_type_makes_nothing_more_exact():
    network = seeded(Residual)
    with torch.autocast("cpu", torch.bfloat16):
        found = probe(network, batches(IMAGES), ["conv", "fc"]).statistics
        h = [by_hand(network, x, lambda n, x: n.conv(n.stem(x))) for x, _ in batches(IMAGES)]
    assert [s.resolution for s in found.values()] == [2**-7, 2**-7]
    assert_statistics(found["conv"], np.concatenate(h).mean((2, 3)), LABELS, tolerance=1e-6)
    narrowed = probe(network, batches(IMAGES), "stem", pool=lambda h: h.mean((2, 3)).bfloat16())
    assert narrowed.statistics["stem"].resolution == 2**-7


def test_types_may_be_mixed():
    class Mixed(nn.Module):
        """A network whose last layers work in float32 on what a narrow one puts out."""

        def __init__(self):
            super().__init__()
            self.narrow, self.wide = nn.Linear(12, 6).bfloat16(), nn.Linear(6, 4)

        def forward(self, x):
            return self.wide(self.narrow(x.bfloat16()).float())

    found = probe(seeded(Mixed), batches(X), ["narrow", "wide"]).statistics
    assert [s.resolution for s in found.values()] == [2**-7, 2**-23]


# ---- data


def test_loaders():
    network = seeded(lambda: Changed(torch.relu_))
    h = by_hand(network, X, lambda n, x: n.first(x).relu())
    dataset = TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS))
    shuffled = DataLoader(dataset, 29, shuffle=True, generator=torch.Generator().manual_seed(0))
    for data in (
        shuffled,
        DataLoader(dataset, 30),
        batches(X),
        (pair for pair in batches(X)),
        [(X, LABELS)],
        [(X, LABELS.tolist())],
        Samples(X, LABELS),
    ):
        found = probe(network, data)
        assert_statistics(found.statistics["input of head"], h, LABELS, tolerance=1e-6)
        assert np.array_equal(np.bincount(found.labels), np.bincount(LABELS))
        assert len(found.scores) == 30


def test_a_sampler_that_repeats_samples():
    network = seeded(lambda: Changed(torch.relu_))
    weights = torch.as_tensor([1.0, 1.0, 9.0, 1.0])[torch.as_tensor(LABELS)]
    sampler = WeightedRandomSampler(weights, 80, generator=torch.Generator().manual_seed(5))
    drawn = list(WeightedRandomSampler(weights, 80, generator=torch.Generator().manual_seed(5)))
    dataset = TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS))
    stats = probe(network, DataLoader(dataset, 9, sampler=sampler), "first").statistics["first"]
    h = by_hand(network, X, lambda n, x: n.first(x))
    assert_statistics(stats, h[drawn], LABELS[drawn])
    assert stats.counts[2] > 5


def test_batches_of_other_kinds():
    network, plain = seeded(TwoInputs), {}
    for k in range(2):
        plain[k] = by_hand(network, np.concatenate([X, X[::-1]], 1), lambda n, x: n.body(x))
    tuples = [
        ((x, z), y) for (x, y), (z, _) in zip(batches(X), batches(X[::-1].copy()), strict=True)
    ]
    lists = [([x, z], y) for (x, z), y in tuples]
    named = [({"right": z, "left": x}, y) for (x, z), y in tuples]
    for data in (tuples, lists, named):
        assert_statistics(probe(network, data, "body").statistics["body"], plain[0], LABELS)
    loose = [{"left": x, "right": z, "y": y, "id": "?"} for (x, z), y in tuples]
    with pytest.raises(
        TypeError,
        match=r"pairs.*a dictionary with the keys 'left', 'right', 'y', 'id'; say with unpack=",
    ):
        probe(network, loose)
    stats = probe(
        network, loose, "body", unpack=lambda b: ({k: b[k] for k in ("left", "right")}, b["y"])
    ).statistics["body"]
    assert_statistics(stats, plain[0], LABELS)
    with pytest.raises(TypeError, match=r"pairs.*a list of 3"):
        probe(network, [[1, 2, 3]])
    with pytest.raises(TypeError, match=r"pairs.*a tensor of shape \(30, 12\)"):
        probe(network, [torch.as_tensor(X)])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            LABELS.astype(float),
            TypeError,
            r"labels must be integers, but their type is torch.float64",
        ),
        (np.eye(4, dtype=int)[LABELS], ValueError, r"shape is \(30, 4\); for one-hot labels"),
        (LABELS[:, None], ValueError, r"shape is \(30, 1\); say unpack=.*batch\[1\]\[:, 0\]"),
        (LABELS - 1, ValueError, "must not be negative, but the label -1 occurs"),
        (LABELS > 1, TypeError, "torch.bool"),
        (LABELS[:-1], ValueError, "30 rows of features for 29 labels"),
    ],
)
def test_labels_that_are_none(labels, error, message):
    with pytest.raises(error, match=message):
        probe(seeded(lambda: Changed(torch.relu)), [(X, labels)])


def test_no_data():
    for data in ([], iter([])):
        for points in (None, "first"):
            with pytest.raises(ValueError, match="data must hold samples, but there are none"):
                probe(seeded(lambda: Changed(torch.relu)), data, points)


def test_features_that_are_not_finite_are_named():
    x = X.copy()
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match="first puts out NaN, infinity, or numbers that overflow"):
        probe(seeded(lambda: Changed(torch.relu)), batches(x), "first")


def test_classes_seen_late_once_or_never():
    network = seeded(lambda: Changed(torch.relu_))
    h = by_hand(network, X, lambda n, x: n.first(x))
    order = np.argsort(-LABELS, kind="stable")  # class 0 comes last, class 2 has one sample
    late = batches(X[order], LABELS[order], size=4)
    assert_statistics(probe(network, late, "first").statistics["first"], h, LABELS)
    kept = LABELS != 1
    gap = batches(X[kept], LABELS[kept])
    with pytest.raises(
        ValueError,
        match="class 1 has no samples, although the label 3 occurs; say with num_classes",
    ):
        probe(network, gap, "first")
    stats = probe(network, gap, "first", num_classes=6).statistics["first"]
    assert_statistics(stats, h[kept], LABELS[kept], K=6)
    assert stats.counts.tolist() == [9, 0, 1, 6, 0, 0]
    with pytest.raises(ValueError, match=r"labels must lie in 0..2, but the label 3 occurs"):
        probe(network, gap, "first", num_classes=3)


def test_classes_are_chosen_by_their_labels():
    network = seeded(lambda: Changed(torch.relu_))
    h = by_hand(network, X, lambda n, x: n.first(x))
    for chosen in ([3, 0], [1], [0, 1, 2, 3]):
        found = probe(network, batches(X), "first", classes=chosen)
        kept = np.isin(LABELS, chosen)
        y = np.array([chosen.index(label) for label in LABELS[kept]])
        assert_statistics(found.statistics["first"], h[kept], y)
        assert np.array_equal(found.labels, y) and len(found.scores) == len(y)
    for chosen, message in (
        ([0, 7], "class 7 has no samples; take it out of classes"),
        ([0, 0], "all different"),
        ([-1], "labels, integers from 0 on"),
        ([], "labels, integers from 0 on"),
    ):
        with pytest.raises(ValueError, match=message):
            probe(network, batches(X), "first", classes=chosen)
    with pytest.raises(ValueError, match="num_classes must be 2"):
        probe(network, batches(X), "first", classes=[0, 1], num_classes=4)


def test_a_batch_without_any_chosen_class():
    network = seeded(lambda: Changed(torch.relu_))
    order = np.argsort(LABELS, kind="stable")
    h = by_hand(network, X[order], lambda n, x: n.first(x))
    pieces = batches(X[order], LABELS[order], size=3)  # the first three hold class 0 only
    stats = probe(network, pieces, "first", classes=[1]).statistics["first"]
    assert_statistics(stats, h[9:23], np.zeros(14, int), tolerance=1e-6)


def test_disagreement_among_chosen_classes():
    network = seeded(lambda: Changed(torch.relu_))
    h = by_hand(network, X, lambda n, x: n.first(x))
    scores = by_hand(network, X, lambda n, x: n(x))
    for chosen in ([3, 0, 1], [0, 1, 2, 3]):
        found = probe(network, batches(X), "first", classes=chosen).statistics
        share = disagreement(network, batches(X), found, "first", classes=chosen)["first"]
        kept = np.isin(LABELS, chosen)
        means = np.array([h[k == LABELS].mean(0) for k in chosen])
        nearest = ((h[kept, None] - means) ** 2).sum(2).argmin(1)
        assert share == np.mean(nearest != scores[kept][:, chosen].argmax(1))
    empty = probe(network, batches(X), "first", num_classes=6).statistics
    again = disagreement(network, batches(X), empty, "first", num_classes=6)["first"]
    assert again == share > 0  # the mean of a class without samples is nobody's nearest
    with pytest.raises(TypeError, match="there is no argument 'batchsize', only num_classes"):
        disagreement(network, batches(X), empty, "first", batchsize=3)


def test_an_empty_class_is_nobodys_nearest():
    """Its mean is stored as zero, and here zero lies nearer to half of the samples than theirs."""
    network = nn.Sequential(nn.Identity(), nn.Linear(1, 3, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-1.0], [1.0], [0.0]]))
    data = [(torch.tensor([[-1.0], [-0.2], [1.0], [0.2]]).double(), torch.tensor([0, 0, 1, 1]))]
    found = probe(network, data, "0", num_classes=3).statistics
    assert found["0"].counts.tolist() == [2, 2, 0]
    assert disagreement(network, data, found, "0", num_classes=3) == {"0": 0.0}


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_a_common_offset_costs_no_digits(offset):
    x = X.astype(float)
    shifted = [
        (torch.as_tensor(a + offset), y)
        for a, y in zip(np.split(x, 10), np.split(LABELS, 10), strict=True)
    ]
    network = nn.Sequential(nn.Identity(), nn.Linear(12, 4)).double()
    stats = probe(network, shifted, "0").statistics["0"]
    assert_statistics(stats, x + offset, LABELS, tolerance=1e-14)


def test_the_model_takes_what_a_probe_finds():
    network = seeded(
        lambda: nn.Sequential(
            nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4)
        )
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    x, y = torch.as_tensor(X), torch.as_tensor(LABELS)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    found = probe(network, batches(X), ["1", "3"], classes=[0, 1, 3]).statistics
    step = minimize(Model(5e-3, 5e-3, 1.0), found["1"])
    assert nc1_trace(step.statistics) < nc1_trace(found["1"])
    assert fit(found["1"], found["3"]).solution.model.beta > 0 and nc1(found["3"]) > 0


def test_a_message_names_the_first_layers_only():
    network = nn.Sequential(*(nn.Linear(12, 12) for _ in range(50)))
    with pytest.raises(ValueError, match=re.escape("18, 19, ....")):
        probe(network, batches(X), "fc")


# ---- what changes its own input, and weights that are computed ----------------------------------


class Standardizing(nn.Module):
    """It standardizes its input in place, as some preprocessing does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        x.sub_(3.0).div_(0.2)
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize("listed", [False, True])
def test_an_input_that_is_changed_in_place_is_fed_as_it_was(listed):
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 4
    x = torch.randn(120, 6, generator=rng) + y[:, None]
    batches = [(x[i : i + 32].clone(), y[i : i + 32]) for i in range(0, 120, 32)]
    torch.manual_seed(1)
    network = Standardizing()
    right = torch.relu(network.first((x - 3) / 0.2)).detach().numpy()
    data = batches if listed else DataLoader(TensorDataset(x, y), 32)
    for _ in range(2):
        np.testing.assert_allclose(features(network, data), right, rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), x)


def test_a_last_layer_whose_weights_are_computed_is_reported(capsys):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    y = torch.arange(40) % 4
    data = [(torch.randn(40, 6) + y[:, None], y)]
    plain = report(network, data)
    network[2] = nn.utils.parametrizations.weight_norm(network[2])
    computed = report(network, data)
    capsys.readouterr()
    assert computed[-1]["nc3"] == pytest.approx(plain[-1]["nc3"], rel=1e-5)
