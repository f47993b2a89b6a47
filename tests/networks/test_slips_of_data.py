"""Data and modules of unusual kinds: nothing is changed for good, nothing is counted in silence."""

import io
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from nclib import nc1
from nclib.networks import disagreement, features, probe, report
from tests.networks.networks_of_others import (
    LABELS,
    Changed,
    X,
    batches,
    plain,
    seeded,
    told,
)


def test_statistics_of_other_classes_are_refused():
    network = plain()
    two = probe(network, batches(X), "first", classes=[1, 3]).statistics
    with pytest.raises(ValueError, match="have 2 classes, but the label 3 occurs; give the num_c"):
        disagreement(network, batches(X), two, "first")
    with pytest.raises(ValueError, match="have 2 classes, but classes names 3"):
        disagreement(network, batches(X), two, "first", classes=[0, 1, 3])
    assert 0 <= disagreement(network, batches(X), two, "first", classes=[1, 3])["first"] <= 1


def test_statistics_of_other_layers_are_refused():
    network = plain()
    found = probe(network, batches(X), "first")
    with pytest.raises(ValueError, match="must hold 'input of head', but they hold first"):
        disagreement(network, batches(X), found.statistics)
    with pytest.raises(TypeError, match="must be a dictionary of class statistics by layer"):
        disagreement(network, batches(X), found, "first")
    twelve = probe(seeded(lambda: nn.Sequential(nn.Identity())), batches(X), "0").statistics["0"]
    with pytest.raises(ValueError, match="of first have 12 dimensions, but its features have 6"):
        disagreement(network, batches(X), {"first": twelve}, "first")


def test_features_are_those_of_one_point_and_all_samples():
    network = plain()
    with pytest.raises(ValueError, match="those of one point, but there are several"):
        features(network, batches(X), ["first", "head"])
    for name, value in {"classes": [0, 1], "num_classes": 4, "scores": None}.items():
        with pytest.raises(TypeError, match=f"so there is no {name}"):
            features(network, batches(X), "first", **{name: value})
    narrow = features(network.bfloat16(), batches(torch.as_tensor(X).bfloat16()), "first")
    assert narrow.dtype == np.float32 and narrow.shape == (30, 6)


Pair = namedtuple("Pair", "x scale")


class Scales(nn.Module):
    """A network that changes what it is given."""

    def __init__(self, take):
        super().__init__()
        self.fc, self.take = nn.Linear(12, 4), take

    def forward(self, *given, **named):
        x = self.take(*given, **named)
        return self.fc(x.mul_(3).sub_(1))


class Graph:
    """An object that holds a tensor and can be cloned, as those of graph libraries."""

    def __init__(self, x):
        self.x = x

    def clone(self):
        return Graph(self.x.clone())


@pytest.mark.parametrize(
    "pack, take",
    [
        (lambda x: x, lambda x: x),
        (lambda x: Pair(x, 1.0), lambda x, scale: x),
        (lambda x: {"x": [x]}, lambda x: x[0]),
        (lambda x: ([x],), lambda x: x[0]),
        (lambda x: {"x": Pair(x, None)}, lambda x: x.x),
        (lambda x: Graph(x), lambda g: g.x),
    ],
    ids=["tensor", "namedtuple", "list in dictionary", "list", "inside", "object"],
)
def test_inputs_are_fed_as_they_were_however_they_are_packed(pack, take):
    network = seeded(lambda: Scales(take))
    with torch.no_grad():
        right = torch.as_tensor(X).double() * 3 - 1
    data = [
        (pack(torch.as_tensor(X[i : i + 7].copy())), LABELS[i : i + 7]) for i in range(0, 30, 7)
    ]
    for _ in range(2):  # the second time the data are the same
        found = probe(network, data).statistics["input of fc"]
        for k in range(4):
            mean = right[torch.as_tensor(k == LABELS)].mean(0)
            assert np.allclose(found.means[:, k], mean, rtol=1e-5, atol=1e-5)


class Merging(nn.Linear):
    """Adds a low-rank term to its weights for evaluation and takes it off for training."""

    def __init__(self):
        super().__init__(6, 4)
        self.A, self.B = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            with torch.no_grad():
                self.weight += (-1 if mode else 1) * self.B @ self.A
            self.merged = not mode
        return self

    def forward(self, h):
        out = super().forward(h)
        return out if self.merged else out + h @ self.A.T @ self.B.T


@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_does_more_than_set_its_flag(training):
    network = seeded(lambda: nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), Merging()))
    network.train(training)
    network[1].eval()
    before = [module.training for module in network.modules()]
    weights = network[2].weight.detach().clone()
    probe(network, batches(X))
    told(network, batches(X))
    assert [module.training for module in network.modules()] == before
    assert network[2].merged is not training
    assert torch.allclose(network[2].weight, weights, rtol=1e-5, atol=1e-6)
    network(torch.as_tensor(X)).sum().backward()
    assert (network[2].A.grad is not None) is training


def test_a_second_pass_with_other_samples_is_told():
    class Moving:
        """Data that change from pass to pass."""

        def __init__(self):
            self.passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(batches(X, (LABELS + self.passes - 1) % 4))

    _, text = told(plain(), Moving())
    assert "NC4, error: the second pass, on which they are computed, had other samples" in text
    _, text = told(plain(), batches(X))
    assert "second pass" not in text


def test_scores_that_are_not_finite_decide_nothing():
    class Broken(Changed):
        def forward(self, x):
            return super().forward(x) * torch.tensor([1.0, 1.0, torch.nan, 1.0])

    network = seeded(lambda: Broken(torch.relu))
    records, text = told(network, batches(X))
    assert [r["nc4"] for r in records] == [None] * len(records)
    assert "NC4: the network puts out scores that are NaN or infinite." in text
    assert "error" not in text.splitlines()[0]
    stats = probe(network, batches(X), "first").statistics
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        disagreement(network, batches(X), stats, "first")


def test_a_network_that_turns_gradients_on_leaves_no_graph():
    class Wants(Changed):
        def forward(self, x):
            with torch.enable_grad():
                return super().forward(x)

    network = seeded(lambda: Wants(torch.relu))
    found = probe(network, batches(X), "first", pool=lambda h: h * network.head.weight.sum())
    assert not found.scores.requires_grad and found.statistics["first"].d == 6
    assert features(network, batches(X), "first").shape == (30, 6)
    records, _ = told(network, batches(X))
    assert records[-1]["nc4"] is not None


def test_labels_that_mean_no_class():
    labels = LABELS.copy()
    labels[::5] = -100
    kept = labels >= 0
    found = probe(plain(), batches(X, labels), "first", classes=range(4))
    right = probe(plain(), batches(X[kept], labels[kept]), "first", num_classes=4)
    assert np.allclose(found.statistics["first"].means, right.statistics["first"].means, rtol=1e-6)
    assert found.labels.tolist() == labels[kept].tolist()
    with pytest.raises(ValueError, match="the label -100 occurs; with classes= samples of other"):
        probe(plain(), batches(X, labels), "first")
    with pytest.raises(ValueError, match="but the label 1000000000 occurs; say with classes="):
        probe(plain(), batches(X, np.where(LABELS == 2, 10**9, LABELS)), "first")
    far = probe(plain(), batches(X, np.where(LABELS == 1, 10**9, LABELS)), classes=[10**9, 0])
    assert far.statistics["input of head"].counts.tolist() == [14, 9]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "uint64"])
def test_labels_of_any_integer_type(dtype):
    found = probe(plain(), batches(X, LABELS.astype(dtype)), "first").statistics["first"]
    right = probe(plain(), batches(X), "first").statistics["first"]
    assert np.array_equal(found.means, right.means)


@pytest.mark.parametrize("scores", [lambda h: h @ h.T, lambda h: torch.cat([h, h])])
def test_outputs_that_are_no_scores(scores):
    """Similarities within a batch, two views of it: there are no scores, and no error."""

    class Other(Changed):
        def forward(self, x):
            return scores(super().forward(x))

    network = seeded(lambda: Other(torch.relu))
    assert probe(network, batches(X), "first").scores is None
    records, text = told(network, batches(X), "first")
    assert records[0]["nc4"] is None and "NC4" in text


@pytest.mark.parametrize("file", ["out.txt", io.BytesIO(), 3])
def test_a_file_for_text(file):
    with pytest.raises(TypeError, match="file must be one for text"):
        report(plain(), batches(X), file=file)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"pool": lambda h: h > 0}, TypeError, "must put out floating-point numbers"),
        ({"pool": lambda h: h.numpy()}, TypeError, "pool must make a tensor of first, but it mak"),
        ({"select": lambda h: h.to_sparse()}, TypeError, r"sparse tensor; say select="),
        ({"unpack": lambda b: b["x"]}, ValueError, "unpack fails where data yields a tuple of 2"),
        ({"points": 0}, TypeError, "points must be names or modules, but they are a value"),
        ({"points": []}, ValueError, "points must name at least one layer"),
        ({"points": {}}, ValueError, "points must name at least one layer"),
    ],
    ids=["bool", "array", "sparse", "unpack", "number", "none", "no names"],
)
@pytest.mark.parametrize("function", [probe, report])
def test_arguments_that_make_no_sense(function, change, error, message):
    arguments = {"points": "first"} | change
    with pytest.raises(error, match=message):
        function(plain(), batches(X), **arguments)


def test_a_pair_of_arrays_is_no_list_of_pairs():
    with pytest.raises(TypeError, match=r"is given as \[\(inputs, labels\)\]"):
        probe(plain(), (torch.as_tensor(X), torch.as_tensor(LABELS)))


def test_a_normalization_by_batches_sees_the_batches_of_the_data():
    network = seeded(
        lambda: nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6, track_running_stats=False))
    )
    data = batches(X, size=30)
    h = features(network, data, "1")
    stats = probe(network, data, "1").statistics["1"]
    assert np.allclose(stats.means[:, 0], h[LABELS == 0].mean(0), atol=1e-6)
    assert nc1(stats) > 0
