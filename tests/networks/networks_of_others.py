"""Networks and data as other people have them, and what is right for them by plain computation."""

import io
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nclib.networks import report

rng = np.random.default_rng(1)
LABELS = rng.permutation(np.repeat(np.arange(4), (9, 14, 1, 6)))
X = (rng.standard_normal((4, 12))[LABELS] + rng.standard_normal((30, 12))).astype(np.float32)
IMAGES = rng.standard_normal((30, 3, 8, 8)).astype(np.float32)
SEQUENCES = rng.standard_normal((30, 5, 12)).astype(np.float32)


def batches(x, y=LABELS, size=7):
    """A list of pairs of tensors; with the size 29 the last batch has one sample."""
    return [
        (torch.as_tensor(x[i : i + size]), torch.as_tensor(y[i : i + size]))
        for i in range(0, len(y), size)
    ]


def plain_statistics(h, labels, K=None):
    """Counts (K,), means (d, K) and within-class covariance of features (N, d), written out."""
    h = np.asarray(h, dtype=np.longdouble)
    K = labels.max() + 1 if K is None else K
    counts = np.array([np.sum(labels == k) for k in range(K)])
    means, within = np.zeros((K, h.shape[1]), np.longdouble), 0
    for k in range(K):
        if counts[k]:
            means[k] = h[labels == k].sum(axis=0) / counts[k]
            for row in h[labels == k]:
                within = within + np.outer(row - means[k], row - means[k])
    return counts, means.T, within / len(labels)


def assert_statistics(stats, h, labels, K=None, tolerance=1e-13):
    """Statistics are those of features (N, d), with an error relative to the spread."""
    counts, means, within = plain_statistics(h, labels, K)
    scale = np.sqrt(np.trace(within)) + np.ptp(np.asarray(h, dtype=float), axis=0).max()
    assert np.array_equal(stats.counts, counts)
    found = np.asarray(stats.means, np.longdouble) + stats.low
    assert np.abs(found - means).max() <= tolerance * scale
    assert np.abs(stats.within - within).max() <= tolerance * scale**2


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


class Changed(nn.Module):
    """A linear layer whose output is changed in place before the head gets it."""

    def __init__(self, change):
        super().__init__()
        self.first, self.head, self.change = nn.Linear(12, 6), nn.Linear(6, 4), change

    def forward(self, x):
        return self.head(self.change(self.first(x)))


def assigned(h):
    h[:, 0] = 5
    return h


def through_a_view(h):
    h.view(-1).mul_(2)
    return h


def added(h):
    h += 1
    return h


def to_its_slice(h):
    h[1:].zero_()
    return h


def by_out(h):
    return torch.exp(h, out=h)


# What may happen to the output of a layer behind it.
CHANGES = {
    "relu_": torch.relu_,
    "functional": lambda h: F.relu(h, inplace=True),
    "leaky": lambda h: F.leaky_relu_(h, 0.3),
    "add": added,
    "assign": assigned,
    "view": through_a_view,
    "slice": to_its_slice,
    "clamp": lambda h: h.clamp_(-0.1, 0.1),
    "out": by_out,
    "copy": lambda h: h.copy_(h.flip(0)),
    "transposed": lambda h: h.t().sub_(h.mean(0)[:, None]).t(),
    "sort": lambda h: h.copy_(h.sort(1).values),
}


class Residual(nn.Module):
    """A small convolutional network with in-place activations, additions in place and dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True)
        )
        self.conv = nn.Conv2d(5, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.conv(x))
        y += x
        y = F.relu_(y)
        return self.fc(self.drop(self.pool(y).flatten(1)))


class Recurrent(nn.Module):
    """An LSTM, whose output is a tuple with a tuple in it."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


class Attention(nn.Module):
    """Self-attention, which puts out a tuple, before a layer of a transformer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return self.head(self.encoder(x)[:, 0])


class TwoOutputs(nn.Module):
    """Scores and something else, as a tuple, a dictionary or an object with logits."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.aux, self.head = nn.Linear(12, 6), nn.Linear(6, 2), nn.Linear(6, 4)
        self.kind = kind

    def forward(self, x):
        h = torch.tanh(self.body(x))
        aux, scores = self.aux(h), self.head(h)
        if self.kind == "tuple":
            return scores, aux
        return OrderedDict(logits=scores, aux=aux)


class Tied(nn.Module):
    """One layer at two places, and another whose weights are those of the first."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.twin = (nn.Linear(12, 12) for _ in range(3))
        self.twin.weight = self.first.weight
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        return self.head(torch.tanh(self.twin(x)))


class SkipsInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.noise, self.head = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = self.body(x)
        return self.head(self.noise(h) if self.training else h)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(24, 6), nn.Linear(6, 4)

    def forward(self, left, right):
        return self.head(torch.relu(self.body(torch.cat([left, right], 1))))


def plain():
    """A network of the usual kind with four outputs."""
    return seeded(lambda: Changed(torch.relu))


def told(*arguments, **options):
    """The records and the text of a report."""
    file = io.StringIO()
    return report(*arguments, file=file, **options), file.getvalue()
