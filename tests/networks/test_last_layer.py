"""NC3 belongs to the layer that makes the scores; everything else is a dash with a reason."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nclib import measure
from nclib.networks import probe
from tests.networks.networks_of_others import (
    IMAGES,
    LABELS,
    X,
    batches,
    seeded,
    told,
)


class Body(nn.Module):
    """Features of six dimensions, and what is done with them."""

    def __init__(self, **parts):
        super().__init__()
        self.body = nn.Linear(12, 6)
        for name, part in parts.items():
            setattr(self, name, part)

    def features(self, x):
        return torch.tanh(self.body(x))

    def right(self, weights):
        """NC3 of the features with these weights."""
        with torch.no_grad():
            h = self.features(torch.as_tensor(X)).numpy()
        return measure(h, LABELS, weights.detach().numpy()).nc3


@dataclass
class Answer:
    """What some networks put out."""

    hidden: torch.Tensor
    logits: torch.Tensor


class SecondHead(Body):
    """A head for another task, which is called last."""

    def __init__(self, kind):
        super().__init__(fc=nn.Linear(6, 4), rotation=nn.Linear(6, 4))
        self.kind = kind

    def forward(self, x):
        h = self.features(x)
        logits, rotation = self.fc(h), self.rotation(h)
        if self.kind == "object":
            return Answer(rotation, logits)
        return {"logits": logits, "rotation": rotation}


class Tail(Body):
    """A function behind the last layer."""

    def __init__(self, tail):
        super().__init__(fc=nn.Linear(6, 4))
        self.tail = tail

    def forward(self, x):
        return self.tail(self.fc(self.features(x)))


@pytest.mark.parametrize("kind", ["dictionary", "object"])
def test_the_layer_that_makes_the_scores(kind):
    network = seeded(lambda: SecondHead(kind))
    records, text = told(network, batches(X))
    assert records[-1]["nc3"] == pytest.approx(network.right(network.fc.weight), rel=1e-5)
    assert "NC3:" not in text and list(probe(network, batches(X)).statistics) == ["input of fc"]


@pytest.mark.parametrize(
    "tail",
    [lambda z: z.softmax(1), lambda z: z.log_softmax(1), lambda z: z],
    ids=["softmax", "its logarithm", "nothing"],
)
def test_scores_may_be_a_softmax(tail):
    network = seeded(lambda: Tail(tail))
    records, text = told(network, batches(X))
    assert records[-1]["nc3"] == pytest.approx(network.right(network.fc.weight), rel=1e-5)
    assert "NC3:" not in text


class Split(Body):
    """Scores in two halves, each from its own layer."""

    def __init__(self):
        super().__init__(heads=nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)]))

    def forward(self, x):
        h = self.features(x)
        return torch.cat([head(h) for head in self.heads], 1)


class Adapted(nn.Linear):
    """A linear layer that adds something to what its weights make."""

    def __init__(self):
        super().__init__(6, 4)
        self.A, self.B = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))

    def forward(self, h):
        return super().forward(h) + h @ self.A.T @ self.B.T


class Coded(nn.Linear):
    """Weights stored as codes with a scale for each row."""

    def __init__(self):
        super().__init__(6, 4)
        self.scale = nn.Parameter(torch.rand(4, 1) + 0.5)

    def forward(self, h):
        return F.linear(h, self.weight * self.scale, self.bias)


class Around(nn.Module):
    """An adapter around a linear layer."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(6, 4), nn.Linear(6, 2), nn.Linear(2, 4)

    def forward(self, h):
        return self.base(h) + self.up(self.down(h))


@pytest.mark.parametrize(
    "make, point, reason",
    [
        (Split, "input of heads.1", "the scores are not what heads.1, the last linear layer"),
        (lambda: Tail(lambda z: 3 * z), "input of fc", "not what fc, the last linear layer"),
        (lambda: Tail(lambda z: z[:, [1, 0, 2, 3]]), "input of fc", "the scores are not what fc"),
    ],
    ids=["two layers", "scaled", "permuted"],
)
def test_scores_of_something_else(make, point, reason):
    network = seeded(make)
    records, text = told(network, batches(X))
    assert all(r["nc3"] is None for r in records) and reason in text
    assert list(probe(network, batches(X)).statistics) == [point]


@pytest.mark.parametrize(
    "head, reason",
    [
        (Adapted, "head does not put out what its weights make of its input."),
        (Coded, "head does not put out what its weights make of its input."),
        (Around, "the scores are those of head, no linear layer."),
    ],
)
def test_layers_that_are_not_what_their_weights_say(head, reason):
    class Headed(Body):
        def forward(self, x):
            return self.head(self.features(x))

    network = seeded(lambda: Headed(head=head()))
    records, text = told(network, batches(X))
    assert all(r["nc3"] is None for r in records) and reason in text
    assert records[-1]["d"] == 6
    assert list(probe(network, batches(X)).statistics) == ["input of head"]


class Gated(nn.Module):
    """A linear layer in the middle, and a convolution as the last one."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        h = self.conv(x)
        h = h * self.gate(h.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.last(h).mean((2, 3))


def test_a_linear_layer_in_the_middle_is_not_the_last():
    network = seeded(Gated)
    with pytest.raises(ValueError, match="gate, does not make the scores, and last is called aft"):
        probe(network, batches(IMAGES))
    records, text = told(network, batches(IMAGES))
    assert [r["layer"] for r in records] == ["conv", "gate", "last"]
    assert all(r["nc3"] is None for r in records) and "NC3: the last linear layer, gate" in text
    assert "error" in text.splitlines()[0]


def test_what_comes_after_the_last_features_is_named():
    network = seeded(lambda: SecondHead("dictionary"))
    _, text = told(network, batches(X))
    assert "left out, as it comes after the last features: rotation." in text


def test_no_linear_layer():
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    records, text = told(network, batches(IMAGES))
    assert [r["layer"] for r in records] == ["0"] and "NC3: the network calls no linear" in text
    assert "error" in text.splitlines()[0]
    with pytest.raises(ValueError, match="the network calls no linear layer"):
        probe(network, batches(IMAGES))


# ---- the same features, or not -------------------------------------------------------------------


def test_a_layer_that_changes_some_samples_only_is_reported():
    """Whatever the first batch is: sorted samples, an empty batch, a single sample."""
    network = seeded(
        lambda: nn.Sequential(nn.Linear(12, 6), nn.Hardtanh(-1.6, 1.6), nn.Linear(6, 4))
    )
    order = np.argsort(network[0](torch.as_tensor(X)).abs().amax(1).detach().numpy())
    x, y = X[order], LABELS[order]
    with torch.no_grad():
        h = network[:2](torch.as_tensor(X)).numpy()
        assert np.isclose(np.abs(h).max(), 1.6) and np.sort(np.abs(h).max(1))[8] < 1.5
    want = measure(h, LABELS, network[2].weight.detach().numpy())
    empty = (torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64))
    for data in (batches(x, y), batches(x, y, size=1), [empty, *batches(x, y)]):
        records, text = told(network, data)
        assert [r["layer"] for r in records] == ["0", "1"] and "left out" not in text
        assert [r["nc3"] is None for r in records] == [True, False]
        assert records[1]["nc3"] == pytest.approx(want.nc3, rel=1e-4)
    assert [r["nc3"] is None for r in told(network, batches(x, y), ["0", "1"])[0]] == [True, False]


class Rounded(nn.Module):
    """A step towards multiples of a quarter."""

    def forward(self, h):
        return h + 0.9 * ((4 * h).round() / 4 - h)


def pooled(*behind, channels=6, bias=None):
    """A convolution, the mean over positions, further layers, a linear layer."""

    def make():
        conv = nn.Conv2d(3, channels, 3)
        if bias is not None:
            with torch.no_grad():
                conv.bias[0] = bias
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(conv, *pool, *behind, nn.Linear(channels, 4))

    return seeded(make)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_behind_a_mean_are_compared_exactly(dtype):
    norm = nn.BatchNorm1d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.95, 1.05, 6))
    for layer in (Rounded(), norm):
        network = pooled(layer).to(dtype)
        data = batches(torch.as_tensor(IMAGES).to(dtype))
        records, text = told(network, data)
        assert [r["layer"] for r in records] == ["0", "3"]
        assert [r["nc3"] is None for r in records] == [True, False]
        assert "left out, as the features stay as they are: 1, 2." in text


@pytest.mark.parametrize("points", [None, ["0", "3"]])
def test_one_large_channel_hides_no_layer(points):
    network = pooled(nn.ReLU(), bias=1e7)
    records, _ = told(network, batches(IMAGES), points)
    assert [r["layer"] for r in records] == ["0", "3"]
    assert [r["nc3"] is None for r in records] == [True, False]
