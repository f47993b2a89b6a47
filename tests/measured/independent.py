"""A second reading of book/results: the tables of the part on real networks from plain files.

Nothing here comes from the library: JSON by the standard library, means by `statistics` in exact
arithmetic, logarithms one number at a time, and class statistics on full matrices. What the
chapters print is computed a second time, so that a fault in the library shows as a difference.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import fmean, mean, pstdev, stdev
from typing import NamedTuple

import numpy as np

RESULTS = Path(__file__).resolve().parents[2] / "book/results"
DECAYS = ("baseline", "last-double", "last-zero", "features-double", "features-zero")
CHANGES = DECAYS[1:]
FITTED = 0.002  # the largest training error of a run in the second version


# ---- runs ----------------------------------------------------------------------------------------


def runs(experiment, scale, folder=RESULTS):
    """What the files of an experiment hold, by name and seed; complete runs only."""
    found = {}
    for path in (folder / experiment / scale).glob("*.json"):
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


def student(share, freedom):
    """How far from zero Student's t reaches with this probability, by finite sums and bisection."""

    def inside(t):
        angle = math.atan(t / math.sqrt(freedom))
        sine, cosine = math.sin(angle), math.cos(angle)
        term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
        for i in range(1 + freedom % 2, freedom, 2):
            total += term
            term *= cosine**2 * i / (i + 1)
        return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < share else (low, middle)
    return low


def level_of(runs):
    """The lowest training loss that all runs reach."""
    return max(min(loss for _, loss in measured(run, "loss")) for run in runs)


def in_window(run, column, first=20, last=30):
    values = [value for epoch, value in measured(run, column) if first <= epoch <= last]
    return fmean(math.log2(value) for value in values)


def at_level(run, column, level):
    """A metric in bits where the loss first reaches a level: on a line in the log of the loss."""
    losses = dict(measured(run, "loss"))
    points = [(losses[epoch], value) for epoch, value in measured(run, column) if epoch in losses]
    for (before, first), (after, second) in pairwise(points):
        if after <= level:
            share = math.log(before / level) / math.log(before / after)
            return (1 - share) * math.log2(first) + share * math.log2(second)
    raise AssertionError("the loss does not reach the level.")


def at_end(run, column):
    return math.log2(run["epochs"][column][-1])


def last_step(run, column):
    """The ratio of a metric of block 8 to that of block 7 at the last epoch, in bits."""
    end = run["layers"]["epoch"][-1]
    at = dict(zip(probed(run, "layer", end), probed(run, column, end), strict=True))
    return math.log2(at["block 8"] / at["block 7"])


def percentile(values, share):
    """What this share of sorted values lies below, on a line between two neighbors."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


class Change(NamedTuple):
    """What a variant does to a statistic: mean and ends in bits, and the yardstick."""

    mean: float
    low: float
    high: float
    yardstick: float

    @property
    def words(self):
        return [f"{self.mean:+.2f}", f"[{self.low:+.2f},", f"{self.high:+.2f}]"]

    def verdict(self, sign):
        if self.low <= 0 <= self.high:
            return "undetermined"
        return "yes" if self.mean * sign > 0 else "no"

    @property
    def small(self):
        limit = self.yardstick / 5
        if max(abs(self.low), abs(self.high)) < limit:
            return "yes"
        return (
            "no"
            if self.low * self.high > 0 and min(map(abs, self[1:3])) > limit
            else "undetermined"
        )


def all_of(verdicts):
    verdicts = list(verdicts)
    if "no" in verdicts:
        return "no"
    return "undetermined" if "undetermined" in verdicts else "yes"


class Decay:
    """The tables of the chapter on weight decay, for one loss function.

    ``runs`` may be changed afterwards, to see that what the chapter prints would be another thing.
    """

    def __init__(self, loss, folder=RESULTS):
        everything = runs("weight-decay", "reduced", folder)
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

    @property
    def phases(self):
        """Three statistics of a run, in the order of the chapter's columns."""
        level = level_of(self.runs.values())
        return in_window, lambda run, column: at_level(run, column, level), at_end

    def final(self, decay, seed, column):
        return self.runs[decay, seed]["epochs"][column][-1]

    def finals(self, decay, column):
        """Mean and deviation over the seeds."""
        return mean_and_deviation(self.final(decay, seed, column) for seed in self.seeds)

    def gaps(self, decay, seeds, statistic, column):
        """Changed minus baseline of a statistic, one number per seed."""
        return [
            statistic(self.runs[decay, seed], column)
            - statistic(self.runs["baseline", seed], column)
            for seed in seeds
        ]

    def change(self, decay, seeds, statistic, column):
        gaps = self.gaps(decay, seeds, statistic, column)
        half = student(0.95, len(seeds) - 1) * stdev(gaps) / math.sqrt(len(seeds))
        base = [statistic(self.runs["baseline", seed], column) for seed in seeds]
        pairs = [x - y for i, x in enumerate(base) for j, y in enumerate(base) if i != j]
        return Change(fmean(gaps), fmean(gaps) - half, fmean(gaps) + half, pstdev(pairs))

    def span(self, part, seeds, column):
        """What leaving out a decay gives minus what doubling it gives, one number per seed."""
        zero, double = (self.gaps(f"{part}-{d}", seeds, at_end, column) for d in ("zero", "double"))
        return [x - y for x, y in zip(zero, double, strict=True)]

    def resampled(self, seeds, column, draws):
        """Features' span minus last layer's, of absolute means over drawn seeds, sorted."""
        one, other = self.span("features", seeds, column), self.span("last", seeds, column)
        return sorted(
            abs(fmean(one[i] for i in draw)) - abs(fmean(other[i] for i in draw)) for draw in draws
        )

    def larger(self, seeds, column):
        """By how much the features' span exceeds the last layer's, and percentiles of resamples."""
        shape = (10_000, len(seeds))
        draws = np.random.default_rng(0).integers(len(seeds), size=shape).tolist()
        gaps = self.resampled(seeds, column, draws)
        (middle,) = self.resampled(seeds, column, [range(len(seeds))])
        return Change(middle, percentile(gaps, 0.025), percentile(gaps, 0.975), math.nan)

    def verdicts(self, seeds, column):
        """What the rules of the plan say of each prediction that speaks of a metric.

        Without a seed nothing is determined.
        """
        if not seeds:
            names = ("P1", "P2", "P5", "P4" if column == "nc1" else "P3")
            return dict.fromkeys(names, "undetermined")
        found = {d: self.change(d, seeds, at_end, column) for d in CHANGES}
        features = [found["features-double"].verdict(-1), found["features-zero"].verdict(1)]
        last = [found["last-double"].verdict(1), found["last-zero"].verdict(-1)]
        turned = [found["features-double"].verdict(1), found["features-zero"].verdict(-1)]
        turned += [found["last-double"].verdict(-1), found["last-zero"].verdict(1)]
        parts = {"P1": features, "P2": [self.larger(seeds, column).verdict(1)], "P5": turned}
        if column == "nc1":
            parts["P4"] = features + last
        else:
            parts["P3"] = features + [found[d].small for d in ("last-double", "last-zero")]
        return {name: all_of(part) for name, part in parts.items()}

    def both_versions(self, column):
        """Verdicts with all seeds, with those that fit, and of both together."""
        first, second = self.verdicts(self.seeds, column), self.verdicts(self.kept, column)
        both = {n: v if v == second[n] else "undetermined" for n, v in first.items()}
        return first, second, both

    def horizon(self):
        """Decay times the sum of step lengths over one minus momentum."""
        run = self.runs["baseline", self.seeds[0]]
        config = run["config"]
        drops = [int(epoch) for epoch in config["drops"].split()]
        lengths = [
            config["learning_rate"] / 10 ** sum(epoch > drop for drop in drops)
            for epoch in range(1, config["epochs"] + 1)
        ]
        steps = math.ceil(run["data"]["samples"] / config["batch_size"])
        return config["weight_decay"] * steps * sum(lengths) / (1 - config["momentum"])

    def pairs_that_fit(self, decay):
        """Seeds with which this network and its baseline end at the error of a fit, or below."""
        both = [[(d, s) for d in ("baseline", decay)] for s in self.seeds]
        return [pair[0][1] for pair in both if not set(pair) & set(self.unfitted)]

    def span_gap(self, column):
        """Features' span minus last layer's, of absolute means over all seeds."""
        means = [abs(fmean(self.span(part, self.seeds, column))) for part in ("features", "last")]
        return means[0] - means[1]

    def inside_and_outside(self, decay):
        """The within-class trace in the span of the means and orthogonal to it, were NC1 even.

        Means over the networks that fit, and their number; None if there are none.
        """
        fitted = [s for s in self.seeds if (decay, s) not in self.unfitted]
        if not fitted:
            return None
        one, both = (fmean(self.final(decay, s, c) for s in fitted) for c in ("nc1", "nc1_trace"))
        return 10 / 9 * one, both - 10 / 9 * one, len(fitted)


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


# ---- networks trained as a whole -----------------------------------------------------------------

IDENTITY_BLOCKS = (1, 2, 4, 6, 8)


def last(run, column):
    """A column of the table of layers at the last epoch."""
    return probed(run, column, run["layers"]["epoch"][-1])


def rising_steps(run):
    """At which steps from point to point the trace form rises at the end, counted from zero."""
    return [i for i, (x, y) in enumerate(pairwise(last(run, "nc1_trace"))) if y > x]


def rises_by_step(loss, decay):
    """Of the residual networks with one decay: their number, unfitted ones, rises at each step."""
    found = group(runs("weight-decay", "reduced"), f"{loss}-{decay}")
    above = sum(run["epochs"]["error"][-1] > 0 for run in found)
    return len(found), above, [sum(i in rising_steps(run) for run in found) for i in range(8)]


def growth_by_block(loss, decay):
    """In how many of these networks the within-class trace grows at each identity block."""
    found = group(runs("weight-decay", "reduced"), f"{loss}-{decay}")
    traces = [spread_by_point(run) for run in found]
    return [sum(t[b] > t[b - 1] for t in traces) for b in IDENTITY_BLOCKS]


def rises_without_error(loss):
    """Networks without training error at the end: some rise, all of them, rises at all steps."""
    everything = runs("weight-decay", "reduced")
    found = [run for (name, _), run in everything.items() if name.startswith(loss)]
    found = [run for run in found if run["epochs"]["error"][-1] == 0]
    counts = [len(rising_steps(run)) for run in found]
    return sum(map(bool, counts)), len(counts), sum(counts)


def rising_factors(loss):
    """In how many networks the trace form rises somewhere, and all factors above one."""
    found = [
        run for (name, _), run in runs("weight-decay", "reduced").items() if name.startswith(loss)
    ]
    factors = [y / x for run in found for x, y in pairwise(last(run, "nc1_trace")) if y > x]
    return sum(bool(rising_steps(run)) for run in found), len(found), factors


def spread_by_point(run):
    """The within-class trace at the nine points at the end; of seed 0 from class statistics."""
    if "trace_within" in run["layers"]:
        return last(run, "trace_within")
    names = ["stem", *(f"block{i}" for i in range(1, 9))]
    assert run["seed"] == 0
    return [np.trace(load_layer(statistics_file(run["name"], name)).within) for name in names]


def growth_of_spread(run):
    """By what each identity block multiplies the within-class trace."""
    traces = spread_by_point(run)
    return {b: traces[b] / traces[b - 1] for b in IDENTITY_BLOCKS}


def since_no_error(run):
    """First probed epoch without training error, and what the trace form is multiplied by since."""
    first = next(epoch for epoch, error in measured(run, "error") if error == 0)
    start = min(epoch for epoch in probed(run, "epoch") if epoch >= first)
    end = last(run, "nc1_trace")
    begin = probed(run, "nc1_trace", start)
    return start, [y / x for x, y in zip(begin, end, strict=True)]


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


# ---- stored fits ---------------------------------------------------------------------------------

RIVALS = {
    1: ("one contraction",),
    2: ("two contractions", "contraction and frame"),
    3: ("three numbers",),
}


def stored_fits():
    """The records of the fits, by the kind of step that the chapter names."""
    path = RESULTS / "fits/reduced/steps.json"
    groups = {"perceptron layers": [], "projections": [], "identity": [], "last block": []}
    for step in json.loads(path.read_text(encoding="utf-8"))["steps"]:
        if step["network"].startswith("mlp"):
            groups["perceptron layers"].append(step)
        elif step["later"] == "block 8":
            groups["last block"].append(step)
        elif step["later"] in ("block 3", "block 5", "block 7"):
            groups["projections"].append(step)
        else:
            groups["identity"].append(step)
    return groups


def better_and_worse(steps, numbers, error):
    """At how many steps the model's error is below 0.9 of the best rival's, and above 1/0.9."""
    better = worse = 0
    for step in steps:
        best = min(error(step[name]) for name in RIVALS[numbers])
        mine = error(step["the model"])
        better += mine < 0.9 * best
        worse += 0.9 * mine > best
    return better, worse


def with_other_seeds(steps):
    """With numbers of the other two seeds: steps within 1.1 of the own fit, and all ratios."""
    ratios = [
        fmean(losses["the model"] for losses in step["other seeds"]) / step["the model"]["loss"]
        for step in steps
    ]
    return sum(ratio <= 1.1 for ratio in ratios), ratios


def compared_at_other_seeds(steps, numbers):
    """With numbers of the other two seeds: at how many steps the model is better, and worse.

    The rival is at each of these seeds the one that fits best there.
    """
    fitted = {(step["network"], step["seed"], step["later"]): step for step in steps}
    better = worse = 0
    for (network, seed, later), step in fitted.items():
        mine, best = [], []
        others = [other for other in (0, 1, 2) if other != seed]
        for other, losses in zip(others, step["other seeds"], strict=True):
            there = fitted[network, other, later]
            name = min(RIVALS[numbers], key=lambda rival: there[rival]["loss"])
            mine.append(losses["the model"])
            best.append(losses[name])
        better += fmean(mine) < 0.9 * fmean(best)
        worse += 0.9 * fmean(mine) > fmean(best)
    return better, worse


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
