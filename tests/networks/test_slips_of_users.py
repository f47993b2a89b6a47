"""What people hand over by mistake, or without knowing: each ends in the right number or in a
sentence that says what to do.
"""

import io
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nclib import measure
from nclib.networks import disagreement, features, probe, report
from tests.networks.networks_of_others import (
    IMAGES,
    LABELS,
    SEQUENCES,
    Attention,
    Recurrent,
    Residual,
    Tied,
    TwoOutputs,
    X,
    batches,
    plain,
    seeded,
    told,
)


class Once(IterableDataset):
    """Samples that are gone when they have been seen, as those of a stream."""

    def __init__(self, x, y=LABELS):
        self.samples = iter(list(zip(torch.as_tensor(x), y.tolist(), strict=True)))

    def __iter__(self):
        return self.samples


@pytest.mark.parametrize("points", [None, "first"])
@pytest.mark.parametrize("size", [7, 30])
def test_data_that_can_be_read_only_once(points, size):
    """One pass sees all of them; a report, which needs two, says so and prints no table."""
    found = probe(plain(), DataLoader(Once(X), size), points)
    again = probe(plain(), batches(X, size=size), points)
    for name, stats in again.statistics.items():
        assert np.array_equal(found.statistics[name].means, stats.means)
        assert np.array_equal(found.statistics[name].within, stats.within)
    file = io.StringIO()
    with pytest.raises(ValueError, match="were 30 samples in the first and 0 in the second; give"):
        report(plain(), DataLoader(Once(X), size), points, file=file)
    assert file.getvalue() == ""
    loader = DataLoader(Once(X), size)
    stats = probe(plain(), loader, "first").statistics
    with pytest.raises(ValueError, match="data must hold samples, but there are none; what can"):
        disagreement(plain(), loader, stats, "first")


def test_a_report_opens_the_data_twice():
    opened = []

    class Counting(list):
        def __iter__(self):
            opened.append(1)
            return super().__iter__()

    told(plain(), Counting(batches(X)))
    assert len(opened) == 2


class Nearly(nn.Module):
    """h + f(h) with a small f."""

    def __init__(self, by):
        super().__init__()
        self.f, self.by = nn.Linear(12, 12), by

    def forward(self, h):
        return h + self.by * self.f(h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_near_the_identity_are_reported(dtype):
    """Also in a narrow type, in which they change a few features by one unit only."""
    eps = torch.finfo(dtype).eps
    network = seeded(lambda: nn.Sequential(Nearly(1), Nearly(eps), nn.Identity(), nn.Linear(12, 4)))
    records, text = told(network.to(dtype), batches(torch.as_tensor(X).to(dtype)))
    assert [r["layer"] for r in records] == ["0", "1"]
    assert "left out, as the features stay as they are: 2." in text
    assert [r["nc3"] is None for r in records] == [True, False]


def test_an_average_of_the_network_and_ours_are_the_same_features():
    """However they are rounded: NC3 stands in one line, and the layer is there once."""
    for shape, dtype in (
        ((5, 7), torch.float32),
        ((31, 33), torch.float32),
        ((5, 7), torch.bfloat16),
    ):
        network = seeded(
            lambda: nn.Sequential(
                nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
            )
        )
        x = torch.as_tensor(np.random.default_rng(0).standard_normal((30, 3, *shape)))
        records, text = told(network.to(dtype), batches(x.to(dtype)))
        assert [r["layer"] for r in records] == ["0"] and records[0]["nc3"] is not None
        assert f"averaged over the last two axes: 0 {(6, *shape)}." in text


class ChannelsLast(nn.Module):
    """Channels that are the last axis, as in ConvNeXt and Swin."""

    def __init__(self, shape, norm=False):
        super().__init__()
        self.shape = shape
        self.norm = nn.LayerNorm(shape[-1]) if norm else nn.Tanh()
        self.head = nn.Linear(shape[-1], 4)

    def forward(self, x):
        return self.head(self.norm(x.view(-1, *self.shape)).mean((1, 2)))


@pytest.mark.parametrize("shape, norm", [((2, 2, 3), False), ((2, 3, 2), True), ((2, 2, 3), True)])
def test_channels_may_be_the_last_axis(shape, norm):
    """What looks like it, and a normalization over the last axis, is refused."""
    network = seeded(lambda: ChannelsLast(shape, norm))
    message = r"the first or the last of \(2, ., .\); say with pool={'norm': lambda h: h.mean\(\(1"
    with pytest.raises(ValueError, match=message):
        probe(network, batches(X), "norm")
    records, _ = told(network, batches(X), pool={"norm": lambda h: h.mean((1, 2))})
    with torch.no_grad():
        h = network.norm(torch.as_tensor(X).view(-1, *shape)).mean((1, 2)).numpy()
    want = measure(h, LABELS, network.head.weight.detach().numpy())
    assert records[0]["nc1_trace"] == pytest.approx(want.nc1_trace, rel=1e-5)
    assert records[0]["nc3"] == pytest.approx(want.nc3, rel=1e-5)


def test_what_is_averaged_is_named():
    _, text = told(seeded(lambda: ChannelsLast((2, 3, 2))), batches(X))
    assert "averaged over the last two axes: norm (2, 3, 2)." in text


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.MaxPool2d(1), nn.GroupNorm(1, 2)],
    ids=lambda layer: type(layer).__name__,
)
def test_channels_of_convolutions_are_the_first_axis(layer):
    """Also where the sizes look otherwise: (2, 2, 3)."""
    network = nn.Sequential(nn.Unflatten(1, (2, 2, 3)), layer)
    found = probe(network, batches(X), "1").statistics["1"]
    with torch.no_grad():
        h = network.eval()(torch.as_tensor(X)).mean((2, 3))
    assert np.allclose(found.means[:, 0], h[LABELS == 0].mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    "kind, shape, axes",
    [(nn.Conv1d, (3, 4), (2,)), (nn.Conv3d, (3, 1, 2, 2), (2, 3, 4))],
    ids=["line", "space"],
)
def test_positions_on_a_line_or_in_space(kind, shape, axes):
    network = nn.Sequential(nn.Unflatten(1, shape), kind(3, 5, 1))
    hint = "h.mean(2)" if len(axes) == 1 else "h.mean((2, 3, 4))"
    with pytest.raises(ValueError, match=re.escape(hint)):
        probe(network, batches(X), "1")
    assert probe(network, batches(X), "1", pool=lambda h: h.mean(axes)).statistics["1"].d == 5
    one = nn.Sequential(nn.Unflatten(1, (12, *(1 for _ in axes))), kind(12, 5, 1))
    assert probe(one, batches(X), "1").statistics["1"].d == 5  # nothing to average


@pytest.mark.parametrize("argument", ["select", "pool"])
def test_a_name_that_is_no_point(argument):
    choice = {argument: {"frist": lambda h: h}}
    for function in (probe, report, features):
        with pytest.raises(ValueError, match=f"{argument} has the key 'frist', but the points are"):
            function(plain(), batches(X), "first", **choice)
    with pytest.raises(ValueError, match="'frist', but the points are first, input of head"):
        report(plain(), batches(X), **choice)
    _, text = told(seeded(Residual), batches(IMAGES), pool={"drop": lambda h: h})  # left out
    assert "as the features stay as they are: drop." in text


def test_one_function_for_the_points_that_are_named():
    """A report also looks at the last features, which such a function need not fit."""
    records, _ = told(seeded(Residual), batches(IMAGES), "conv", pool=lambda h: h.amax((2, 3)))
    assert [r["layer"] for r in records] == ["conv"]
    records, _ = told(seeded(Recurrent), batches(SEQUENCES), "lstm", select=lambda o: o[0][:, -1])
    assert records[0]["nc3"] is not None
    with pytest.raises(
        ValueError,
        match=r"select fails where input of head is a tensor of shape \(7, 6\): IndexError: "
        "too many indices for tensor of dimension 1; select can be a dictionary by points.",
    ):
        report(seeded(Recurrent), batches(SEQUENCES), select=lambda o: o[0][:, -1])
    with pytest.raises(ValueError, match="scores fails where the network puts out a dictionary"):
        probe(seeded(lambda: TwoOutputs("dictionary")), batches(X), scores=lambda o: o["logit"])


def test_classes_beyond_the_scores():
    labels = np.where(LABELS == 2, 7, LABELS)
    for chosen in ([7, 1, 3], [1, 7]):
        records, text = told(plain(), batches(X, labels), classes=chosen)
        assert [(r["nc3"], r["nc4"]) for r in records] == [(None, None)] * 2
        assert "NC4: the network has scores for 4 classes, but there is a class 7" in text
        assert "NC3: the last layer has 4 rows, but there is a class 7." in text
        assert "error" not in text.splitlines()[0]
    labels = np.where(LABELS == 2, 4, LABELS)
    records, text = told(plain(), batches(X, labels), num_classes=5)
    assert [r["nc4"] for r in records] == [None] * 2 and "there is a class 4" in text
    stats = probe(plain(), batches(X, labels), "first", num_classes=5).statistics
    with pytest.raises(TypeError, match="scores for 4 classes, but there is a class 4"):
        disagreement(plain(), batches(X, labels), stats, "first", num_classes=5)


def test_more_scores_than_classes():
    """The decision is then among more than what is measured; a report says so."""
    kept = LABELS < 3
    x, y = X[kept], LABELS[kept]
    records, text = told(plain(), batches(x, y))
    assert "the network decides among 4 classes, of which 3 are measured" in text
    fewer, text = told(plain(), batches(x, y), classes=range(3))
    assert "decides among" not in text
    with torch.no_grad():
        scores = plain()(torch.as_tensor(x))
    stats = probe(plain(), batches(x, y), "first").statistics["first"]
    h = features(plain(), batches(x, y), "first")
    nearest = ((h[:, None] - stats.means.T) ** 2).sum(2).argmin(1)
    assert records[0]["nc4"] == np.mean(nearest != scores.argmax(1).numpy())
    assert fewer[0]["nc4"] == np.mean(nearest != scores[:, :3].argmax(1).numpy())


def test_where_scores_may_be_is_said_for_what_is_there():
    network = seeded(lambda: TwoOutputs("dictionary"))
    network.forward = lambda x: {"name": "x", "out": network.head(torch.tanh(network.body(x)))}
    _, text = told(network, batches(X))
    assert "scores=lambda output: output['out']." in text
    records, _ = told(network, batches(X), scores=lambda output: output["out"])
    assert None not in [r["nc4"] for r in records]
    y = LABELS % 2
    one = seeded(lambda: nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 1)))
    _, text = told(one, batches(X, y))
    assert "scores=lambda output: torch.cat([-output, output], 1)." in text
    records, text = told(one, batches(X, y), scores=lambda s: torch.cat([-s, s], 1))
    with torch.no_grad():
        wrong = np.mean((one(torch.as_tensor(X))[:, 0] > 0).numpy() != y)
    assert f"error {wrong:.4f}" in text


@pytest.mark.parametrize(
    "labels, error, message",
    [
        (torch.tensor(1), ValueError, r"their shape is \(\); data that yield one sample at a time"),
        (["cat", "dog", "cat", "cow"], TypeError, "they are a list of 4: a value of type str"),
        (None, TypeError, "labels must be integers, but they are a value of type NoneType"),
        (torch.zeros(4, 2, 2).long(), ValueError, "say with unpack how a batch becomes inputs"),
        (torch.zeros(4, 1).long(), ValueError, r"batch\[1\]\[:, 0\]"),
        (torch.zeros(4, 3).long(), ValueError, r"argmax\(1\)"),
        (torch.zeros(3).long(), ValueError, "4 rows of features for 3 labels; a batch holds one"),
    ],
)
def test_labels_of_the_wrong_form(labels, error, message):
    with pytest.raises(error, match=message):
        probe(plain(), [(torch.as_tensor(X[:4]), labels)])


def test_a_data_set_is_no_loader():
    data = TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS))
    with pytest.raises(ValueError, match="become batches in a DataLoader"):
        report(plain(), data)


def test_a_point_twice():
    network = plain()
    with pytest.raises(ValueError, match="all different, but 'first' is there twice"):
        probe(network, batches(X), ["first", network.first])
    found = probe(network, batches(X), {"a": network.first, "b": "first"}).statistics
    assert np.array_equal(found["a"].means, found["b"].means)


def test_a_layer_that_has_two_names():
    network = seeded(Tied)
    network.alias = network.first
    found = probe(network, batches(X), ["first", "alias"]).statistics
    assert np.array_equal(found["first"].within, found["alias"].within)
    with pytest.raises(ValueError, match="shared is called more than once"):
        probe(network, batches(X), "shared")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("function", [probe, report, features])
def test_what_is_no_network(function):
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, but it is a value of type"):
        function(lambda x: x, batches(X))
    scripted = torch.jit.script(seeded(lambda: nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 4))))
    with pytest.raises(TypeError, match="must not be scripted"):
        function(scripted, batches(X))


def test_measuring_changes_no_training():
    """A DataLoader draws a seed whenever it is gone through, also one that does not shuffle."""
    data = TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS))

    def train(look):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(12, 6), nn.Dropout(0.5), nn.Linear(6, 4))
            optimizer = torch.optim.SGD(network.parameters(), 0.1)
            for _ in range(2):
                for x, y in DataLoader(data, 7, shuffle=True):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(network(x), y).backward()
                    optimizer.step()
                if look:
                    for loader in (DataLoader(data, 7), DataLoader(data, 9, shuffle=True)):
                        look(network, loader)
            return network[0].weight.detach()

    undisturbed = train(None)
    for look in (probe, features, lambda *given: told(*given)):
        assert torch.equal(train(look), undisturbed)


PLACES = [
    (backend, kind)
    for backend in ("cuda", "mkldnn", "cudnn")
    for kind in ("matmul", "conv", "rnn")
    if hasattr(getattr(getattr(torch.backends, backend), kind, None), "fp32_precision")
]


def precisions():
    return [getattr(getattr(torch.backends, b), k).fp32_precision for b, k in PLACES]


LOWERED = {
    "as it is": lambda: None,
    "set for all": lambda: torch.set_float32_matmul_precision("medium"),
    "one backend": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "every backend": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "flag": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
}


@pytest.mark.skipif(not PLACES, reason="PyTorch before 2.9 has other switches")
@pytest.mark.parametrize("lowered", LOWERED)
def test_float32_is_not_shortened(lowered):
    """Matrix products and convolutions run in full precision, and afterwards as before."""
    seen = []
    network = plain()
    network.first.register_forward_hook(lambda *_: seen.append(precisions()))
    before, general = precisions(), torch.backends.fp32_precision
    legacy = torch.get_float32_matmul_precision()
    try:
        LOWERED[lowered]()
        mine = precisions()
        for x in (X, np.full_like(X, np.nan)):
            try:
                probe(network, batches(x))
            except ValueError as error:
                assert "NaN" in str(error)
            assert precisions() == mine
        assert np.all(np.array(seen) == "ieee")
    finally:
        torch.set_float32_matmul_precision(legacy)
        torch.backends.fp32_precision = general
        for (backend, kind), value in zip(PLACES, before, strict=True):
            getattr(getattr(torch.backends, backend), kind).fp32_precision = value


def test_attention_by_the_names_of_its_parts():
    """Dictionaries hold what each point needs, and nothing for the others."""
    records, text = told(
        seeded(Attention),
        batches(SEQUENCES),
        select={"attention": lambda o: o[0]},
        pool={"attention": lambda h: h[:, 0], "encoder": lambda h: h[:, 0]},
    )
    assert [r["layer"] for r in records] == ["attention", "encoder"] and "left out" not in text
