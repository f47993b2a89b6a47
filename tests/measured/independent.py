"""A second reading of book/results: the tables of the part on real networks from plain files.

Nothing here comes from the library: JSON by the standard library, means by `statistics` in exact
arithmetic, logarithms one number at a time, and class statistics on full matrices. What the
chapters print is computed a second time, so that a fault in the library shows as a difference.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import fmean, mean, stdev
from typing import NamedTuple

import numpy as np

RESULTS = Path(__file__).resolve().parents[2] / "book/results"
DECAYS = ("baseline", "last-double", "last-zero", "features-double", "features-zero")
CHANGES = DECAYS[1:]
FITTED = 0.002  # the largest training error of a run that counts at the end


# ---- runs ----------------------------------------------------------------------------------------


def runs(experiment, scale):
    """What the files of an experiment hold, by name and seed; complete runs only."""
    found = {}
    for path in (RESULTS / experiment / scale).glob("*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["complete"]:
            found[run["name"], run["seed"]] = run
    return dict(sorted(found.items()))


def names(found):
    return sorted({name for name, _ in found})


def group(found, name):
    """The runs of a name, in the order of their seeds."""
    return [run for (other, _), run in found.items() if other == name]


def measured(run, column):
    """Epochs and entries of a column, where it was measured."""
    rows = zip(run["epochs"]["epoch"], run["epochs"][column], strict=True)
    return [(epoch, entry) for epoch, entry in rows if entry is not None]


def probed(run, column, epoch=None):
    """A column of the table of layers at one epoch, or all of it."""
    rows = zip(run["layers"]["epoch"], run["layers"][column], strict=True)
    return [entry for when, entry in rows if epoch is None or when == epoch]


def mean_and_deviation(values):
    """Exact mean and sample standard deviation of numbers; NaN for the deviation of one."""
    numbers = [float(x) for x in values]
    return mean(numbers), stdev(numbers) if len(numbers) > 1 else math.nan


def by_column(rows):
    """Mean and deviation at each place of equally long rows."""
    return [mean_and_deviation(column) for column in zip(*rows, strict=True)]


def falls(values):
    """How often a sequence falls, and how many steps it has."""
    steps = list(pairwise(values))
    return sum(after < before for before, after in steps), len(steps)


# ---- weight decay --------------------------------------------------------------------------------


class Decay:
    """The tables of the chapter on weight decay, for one loss function."""

    def __init__(self, loss):
        everything = runs("weight-decay", "reduced")
        seeds = {seed for name, seed in everything if name.startswith(f"{loss}-")}
        whole = [s for s in sorted(seeds) if all((f"{loss}-{d}", s) in everything for d in DECAYS)]
        self.runs = {(d, s): everything[f"{loss}-{d}", s] for d in DECAYS for s in whole}
        self.seeds = whole
        self.unfitted = {
            key: run["epochs"]["error"][-1]
            for key, run in self.runs.items()
            if run["epochs"]["error"][-1] > FITTED
        }
        dropped = {seed for _, seed in self.unfitted}
        self.kept = [seed for seed in whole if seed not in dropped]

    def final(self, decay, seed, column):
        return self.runs[decay, seed]["epochs"][column][-1]

    def finals(self, decay, column):
        """Mean and deviation over the seeds that count at the end."""
        return mean_and_deviation(self.final(decay, seed, column) for seed in self.kept)

    def effects(self, change, column):
        """Binary logarithm of changed over baseline at the end, one number per seed that counts."""
        return [
            math.log2(self.final(change, seed, column))
            - math.log2(self.final("baseline", seed, column))
            for seed in self.kept
        ]

    def closer(self, change, column):
        """In how many seeds the change ends closer to collapse."""
        return sum(effect < 0 for effect in self.effects(change, column))

    def strength(self, part, column):
        """Mean size of what doubling and leaving out one decay do at the end."""
        changes = (f"{part}-double", f"{part}-zero")
        return fmean(abs(mean(self.effects(change, column))) for change in changes)

    def strength_on_the_way(self, part, column):
        """The same over all measured epochs and all seeds, of sizes without sign."""
        changes = (f"{part}-double", f"{part}-zero")
        return fmean(self._size_on_the_way(change, column) for change in changes)

    def _size_on_the_way(self, change, column):
        sizes = []
        for seed in self.seeds:
            base = dict(measured(self.runs["baseline", seed], column))
            for epoch, value in measured(self.runs[change, seed], column):
                if epoch in base:
                    sizes.append(abs(math.log2(value / base[epoch])))
        return fmean(sizes)

    def spread(self, column):
        """Root mean square, over the decays, of the deviation between seeds in bits."""
        deviations = [
            stdev(math.log2(self.final(decay, seed, column)) for seed in self.kept)
            for decay in DECAYS
        ]
        return math.sqrt(fmean(d**2 for d in deviations))

    def inside_and_outside(self, decay):
        """The within-class trace in the span of the means and orthogonal to it, were NC1 even."""
        inside = 10 / 9 * self.finals(decay, "nc1")[0]
        return inside, self.finals(decay, "nc1_trace")[0] - inside


# ---- grown networks ------------------------------------------------------------------------------


class Grown:
    """The tables of the chapter on grown networks, for one data set."""

    def __init__(self, name):
        self.runs = group(runs("layerwise", "full"), name)

    def ratios(self, column):
        """Mean over seeds of each layer's metric over that of the layer before."""
        rows = []
        for run in self.runs:
            values = probed(run, column)
            rows.append([after / before for before, after in pairwise(values)])
        return [average for average, _ in by_column(rows)]

    def at_stage_ends(self, run, column):
        """A column of the table of epochs where the layers were probed."""
        at = dict(zip(run["epochs"]["epoch"], run["epochs"][column], strict=True))
        return [at[epoch] for epoch in probed(run, "epoch")]

    def errors(self):
        """Mean training error after each stage."""
        return [
            average for average, _ in by_column([self.at_stage_ends(r, "error") for r in self.runs])
        ]

    def over_floor(self, classes=10):
        """Mean of NC1 over the least NC1 that the loss of its stage allows."""
        rows = []
        for run in self.runs:
            row = []
            for nc1, loss in zip(probed(run, "nc1"), self.at_stage_ends(run, "loss"), strict=True):
                xi = 2 * classes * loss / (classes - 1)
                row.append(nc1 / ((classes - 1) / classes * xi / (1 - xi)))
            rows.append(row)
        return [average for average, _ in by_column(rows)]


# ---- class statistics ----------------------------------------------------------------------------


class Layer(NamedTuple):
    """Class statistics as they lie in a file."""

    means: np.ndarray
    within: np.ndarray

    @property
    def centered(self):
        """Class means minus their mean, (d, K)."""
        return self.means - self.means.mean(axis=1, keepdims=True)


def statistics_file(network, point, seed=0):
    return RESULTS / "statistics/reduced" / f"{network}-seed{seed}-{point}.npz"


def load_layer(path):
    """Class means with their low parts, and the within-class covariance from its triangle."""
    with np.load(path, allow_pickle=False) as file:
        means = file["means"] + file["low"]
        d = len(means)
        within = np.zeros((d, d))
        for row in range(d):
            within[row, : row + 1] = file["within"][row * (row + 1) // 2 :][: row + 1]
    return Layer(means, within + np.tril(within, -1).T)


def span(layer):
    """Directions and sizes in which the centered means differ, the largest first."""
    U, s, _ = np.linalg.svd(layer.centered, full_matrices=False)
    K = layer.means.shape[1]
    return U[:, : K - 1], s[: K - 1]


def nc1_terms(layer):
    """What each direction of the means contributes to NC1."""
    U, s = span(layer)
    return np.diag(U.T @ layer.within @ U) / s**2


def trace_ratio(layer):
    K = layer.means.shape[1]
    return np.trace(layer.within) / (np.sum(layer.centered**2) / K)


def inside(layer):
    """Share of the within-class trace in the span of the centered means."""
    U, _ = span(layer)
    return np.trace(U.T @ layer.within @ U) / np.trace(layer.within)


def gram(layer):
    G = layer.centered.T @ layer.centered
    return G / np.linalg.norm(G)


def spectrum(layer, length):
    """Standard deviations along the principal axes, of norm one, filled up with zeros."""
    values = np.sort(np.linalg.eigvalsh(layer.within))[::-1]
    deviations = np.sqrt(np.clip(values, 0, None))
    return np.pad(deviations / np.linalg.norm(deviations), (0, length - len(deviations)))


def errors(predicted, later):
    """Errors in shape: NC1~, NC1, share inside, Gram matrix, spectrum."""
    length = max(len(predicted.within), len(later.within))
    return (
        math.log(trace_ratio(predicted) / trace_ratio(later)),
        math.log(nc1_terms(predicted).sum() / nc1_terms(later).sum()),
        math.log(inside(predicted) / inside(later)),
        float(np.linalg.norm(gram(predicted) - gram(later))),
        float(np.linalg.norm(spectrum(predicted, length) - spectrum(later, length))),
    )


def gram_floor(earlier, later):
    """Distance of the later Gram matrix from all those with the earlier one's eigenvectors."""
    V = np.linalg.svd(earlier.centered)[2].T
    turned = V.T @ gram(later) @ V
    return float(np.linalg.norm(turned - np.diag(np.diag(turned))))


def entry_errors(predicted, later):
    """Relative distances of the centered means and of the within-class covariances."""
    pairs = (predicted.centered, later.centered), (predicted.within, later.within)
    return tuple(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def resized(layer, other):
    """The layer in the unit in which its means have the size of another layer's."""
    v = np.linalg.norm(other.centered) / np.linalg.norm(layer.centered)
    return Layer(v * layer.means, v**2 * layer.within)


# ---- the model on full matrices ------------------------------------------------------------------


class Minimum(NamedTuple):
    """What the perturbed model makes of a layer at given weights, with lambda_H = 0.

    ``slope`` is the norm of the gradient in the weights relative to that of its terms, and
    ``margin`` the least eigenvalue of lambda_W beta I - J relative to lambda_W beta: a stationary
    point with a margin that is not negative is a global minimum.
    """

    layer: Layer
    slope: float
    margin: float


def at_weights(earlier, W, lambda_W, beta):
    """Best features for these weights (K, d), as statistics; all classes have one size."""
    K, d = W.shape
    inverse = np.linalg.inv(W.T @ W + beta * np.eye(d))
    means = inverse @ (W.T + beta * earlier.means)
    within = beta**2 * inverse @ earlier.within @ inverse
    terms = lambda_W * W, W @ (K * within + means @ means.T), means.T
    gradient = terms[0] + terms[1] - terms[2]
    residual = W @ means - np.eye(K)
    J = residual @ residual.T + K * W @ within @ W.T
    return Minimum(
        Layer(means, within),
        float(np.linalg.norm(gradient) / sum(np.linalg.norm(term) for term in terms)),
        float(1 - np.linalg.eigvalsh(J)[-1] / (lambda_W * beta)),
    )
