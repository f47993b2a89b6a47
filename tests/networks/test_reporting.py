"""Reports: the numbers of a plain computation, layer by layer, and what is left out."""

import numpy as np
import pytest
import torch
from torch import nn

from nclib import measure
from nclib.networks import MLP, Recipe, Samples, Trainer, digits, last_weights, probe, report
from tests.networks.networks_of_others import (
    IMAGES,
    LABELS,
    SEQUENCES,
    Attention,
    Changed,
    Recurrent,
    Residual,
    TwoOutputs,
    X,
    batches,
    seeded,
    told,
)

KEYS = ["layer", "d", "N", "K", "nc1", "nc1_trace", "nc2", "nc3", "nc4"]


@pytest.fixture(scope="module")
def trained():
    """A network that is not the book's, trained on digits, and its data."""
    images, labels = digits(40)
    network = seeded(
        lambda: nn.Sequential(
            nn.Linear(64, 30),
            nn.ReLU(inplace=True),
            nn.Linear(30, 20),
            nn.Tanh(),
            nn.Linear(20, 10),
        ).double()
    )
    x, y = torch.as_tensor(images), torch.as_tensor(labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.3, momentum=0.9, weight_decay=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network, x, y


def test_a_report_is_the_plain_computation(trained, capsys):
    network, x, y = trained
    records = report(network, [(x, y)])
    out, err = capsys.readouterr()
    assert [list(r) for r in records] == [KEYS] * 4 and err == ""
    assert [r["layer"] for r in records] == ["0", "1", "2", "3"]
    with torch.no_grad():
        scores = network(x)
        parts = [network[0](x), network[0](x).relu(), network[:3](x), network[:4](x)]
    labels, decision = y.numpy(), scores.argmax(1).numpy()
    for record, h in zip(records, parts, strict=True):
        h = h.numpy()
        want = measure(h, labels)
        assert (record["d"], record["N"], record["K"]) == (h.shape[1], 400, 10)
        for key in ("nc1", "nc1_trace", "nc2"):
            assert record[key] == pytest.approx(getattr(want, key), rel=1e-9)
        means = np.array([h[labels == k].mean(0) for k in range(10)])
        nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
        assert record["nc4"] == np.mean(nearest != decision)
    weights = network[4].weight.detach().numpy()
    assert [r["nc3"] for r in records[:-1]] == [None] * 3
    assert records[-1]["nc3"] == pytest.approx(measure(h, labels, weights).nc3, rel=1e-9)
    head, columns, *lines = out.splitlines()
    error = np.mean(labels != decision)
    assert head == f"400 samples, 10 classes of 40, error {error:.4f}" and 0 < error < 0.2
    assert columns.split() == ["layer", "d", "NC1", "NC1~", "NC2", "NC3", "NC4"]
    for line, record in zip(lines, records, strict=True):
        shown = [record[key] for key in ("layer", "d", *KEYS[4:])]
        cells = [
            "-" if x is None else f"{x:.5g}" if isinstance(x, float) else str(x) for x in shown
        ]
        assert line.split() == cells


def test_points_that_are_chosen(trained):
    network, x, y = trained
    records, _ = told(network, [(x, y)], ["3", "input of 4"])
    a, b = records
    assert a["nc3"] is not None
    assert {k: v for k, v in a.items() if k != "layer"} == {
        k: v for k, v in b.items() if k != "layer"
    }
    (record,), _ = told(network, [(x, y)], {"mine": network[1]})
    assert record["layer"] == "mine" and record["nc3"] is None


def test_the_networks_of_the_book_report_their_own_points():
    images, labels = digits(20)
    network = MLP((64, 20, 16, 10), seed=0)
    samples = Samples(images, labels, dtype=torch.float64)
    trainer = Trainer(network, samples, Recipe(epochs=15, learning_rate=0.1, batch_size=25))
    for _ in range(15):
        trainer.run_epoch()
    records, text = told(network, samples)
    assert [r["layer"] for r in records] == ["layer 1", "layer 2"]
    h = network.hidden(torch.as_tensor(images))[-1].detach().numpy()
    want = measure(h, labels, last_weights(network))._asdict()
    assert {key: records[-1][key] for key in want} == pytest.approx(want, rel=1e-9)
    assert text.startswith("200 samples, 10 classes of 20, error 0.")


def test_parts_are_found_and_what_cannot_be_measured_is_left_out():
    records, text = told(seeded(Residual), batches(IMAGES))
    assert [r["layer"] for r in records] == ["stem", "conv", "norm", "pool"]
    assert records[-1]["nc3"] is not None
    assert "left out, as the features stay as they are: drop." in text
    records, text = told(seeded(Recurrent), batches(SEQUENCES))
    assert [r["layer"] for r in records] == ["input of head"]
    assert "left out: lstm puts out a tuple of 2" in text
    records, text = told(
        seeded(Attention),
        batches(SEQUENCES),
        select=lambda o: o[0] if isinstance(o, tuple) else o,
        pool=lambda h: h[:, 0] if h.ndim == 3 else h,
    )
    assert [r["layer"] for r in records] == ["attention", "encoder"]

    class Wrapper(nn.Module):
        """A network in a network, whose head is deep inside; and a part that is called twice."""

        def __init__(self):
            super().__init__()
            self.twice, self.model = nn.Tanh(), seeded(lambda: Changed(torch.relu_))
            self.tail = nn.Softmax(1)

        def forward(self, x):
            return self.tail(self.model(self.twice(self.twice(x))))

    records, text = told(Wrapper(), batches(X))
    assert [r["layer"] for r in records] == ["model.first", "input of model.head"]
    assert "left out: twice is called more than once" in text


def test_what_is_not_defined_is_a_dash_with_a_reason():
    network = seeded(lambda: Changed(torch.relu_))
    records, text = told(network, batches(X), num_classes=7)
    assert records[0]["nc1"] is None and records[0]["K"] == 7
    assert "NC1 of first: class 4 has no samples." in text and "7 classes of 0 to 14" in text
    with torch.no_grad():
        network.first.weight.zero_()
    records, text = told(network, batches(X))
    assert records[0]["nc1"] is None and records[0]["nc4"] is not None
    assert "NC1 of first: " in text and "-" in text
    records, text = told(seeded(lambda: TwoOutputs("tuple")), batches(X))
    assert [r["nc4"] for r in records] == [None] * len(records)
    assert "NC4: the network puts out a tuple of 2" in text and "error" not in text.splitlines()[0]
    records, text = told(seeded(lambda: TwoOutputs("dictionary")), batches(X))
    assert None not in [r["nc4"] for r in records] and "error" in text.splitlines()[0]


def test_chosen_classes_are_compared_with_their_weights():
    network = seeded(lambda: Changed(torch.relu_))
    records, text = told(network, batches(X), classes=[3, 0, 1])
    kept = np.isin(LABELS, (3, 0, 1))
    y = np.array([(3, 0, 1).index(k) for k in LABELS[kept]])
    with torch.no_grad():
        h = network.first(torch.as_tensor(X[kept])).relu().numpy()
    weights = network.head.weight.detach().numpy()[[3, 0, 1]]
    assert records[-1]["nc3"] == pytest.approx(measure(h, y, weights).nc3, rel=1e-5)
    assert records[-1]["K"] == 3 and "29 samples, 3 classes of 6 to 14" in text


def test_data_must_be_there_twice():
    with pytest.raises(ValueError, match="only once, but the metrics need two passes; give a list"):
        report(seeded(lambda: Changed(torch.relu)), (pair for pair in batches(X)))
    with pytest.raises(ValueError, match="data must hold samples"):
        report(seeded(lambda: Changed(torch.relu)), [])
    with pytest.raises(TypeError, match="there is no argument 'layers'"):
        report(seeded(lambda: Changed(torch.relu)), batches(X), layers="first")


def test_a_report_changes_nothing_and_agrees_with_probe():
    network = seeded(Residual).train()
    network.norm.eval()
    modes = [module.training for module in network.modules()]
    records, _ = told(network, batches(IMAGES))
    assert [module.training for module in network.modules()] == modes
    stats = probe(network, batches(IMAGES), "stem").statistics["stem"]
    assert (records[0]["d"], records[0]["N"]) == (stats.d, stats.N)
