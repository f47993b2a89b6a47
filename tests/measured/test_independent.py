"""The tables of the part on real networks, read a second time and without the library."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

from nclib import (
    aligned,
    compare,
    fit,
    load_all,
    load_statistics,
    nc1,
    nc1_trace,
    over_seeds,
    shape,
)
from tests.measured import independent
from tests.measured.independent import CHANGES, DECAYS, FITTED, RESULTS, Decay, Grown

PARTS = ("last", "features")
COLUMNS = ("error", "nc1", "nc1_trace", "nc2", "nc3")
METRICS = COLUMNS[1:]
STEPS = [(name, "layer", i) for name in ("mlp-mnist", "mlp-cifar10") for i in (1, 2, 3, 4, 5)]
STEPS += [(name, "block", i) for name in ("resnet18-mnist", "resnet18-cifar10") for i in (6, 7)]


def same(ours, theirs, rtol=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-15, equal_nan=True)


def test_the_second_reading_uses_nothing_of_the_library():
    tree = ast.parse(Path(independent.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy"}


@pytest.mark.parametrize(
    ("experiment", "scale"),
    [("weight-decay", "reduced"), ("layerwise", "full"), ("end-to-end", "reduced")],
)
def test_both_readings_find_the_same_runs_and_columns(experiment, scale):
    theirs = independent.runs(experiment, scale)
    ours = [r for r in load_all(RESULTS, experiment, scale) if r.complete]
    assert [(r.name, r.seed) for r in ours] == list(theirs) != []
    for r in ours:
        run = theirs[r.name, r.seed]
        for column in r.epochs.columns():
            same(r.series(column), np.array(run["epochs"][column], dtype=float), rtol=0)
        for column in METRICS:
            same(r.probes()[column], np.array(run["layers"][column], dtype=float), rtol=0)


# ---- weight decay --------------------------------------------------------------------------------


class Chapter:
    """The tables of the chapter on weight decay, by the library's summaries."""

    def __init__(self, loss):
        found = [r for r in load_all(RESULTS, "weight-decay", "reduced") if r.complete]
        found = [r for r in found if r.name.startswith(f"{loss}-")]
        count = {r.seed: sum(r.seed == other.seed for other in found) for r in found}
        whole = [r for r in found if count[r.seed] == len(DECAYS)]
        self.table = {d: [r for r in whole if r.name == f"{loss}-{d}"] for d in DECAYS}
        dropped = {r.seed for r in whole if r.series("error")[-1] > FITTED}
        self.ends = {d: [r for r in g if r.seed not in dropped] for d, g in self.table.items()}

    def finals(self, decay, column):
        found = over_seeds(self.ends[decay], lambda r: r.series(column)[-1])
        return found.mean, found.deviation

    def log_ratios(self, change, column):
        base = {r.seed: r.series(column) for r in self.table["baseline"]}
        return np.array([np.log2(r.series(column) / base[r.seed]) for r in self.table[change]])

    def effects(self, change, column):
        chosen = [r in self.ends[change] for r in self.table[change]]
        return self.log_ratios(change, column)[chosen, -1]

    def strength(self, part, column):
        names = [f"{part}-double", f"{part}-zero"]
        return np.mean([abs(self.effects(name, column).mean()) for name in names])

    def strength_on_the_way(self, part, column):
        names = [f"{part}-double", f"{part}-zero"]
        return np.mean([np.nanmean(np.abs(self.log_ratios(name, column))) for name in names])

    def spread(self, column):
        finals = [[np.log2(r.series(column)[-1]) for r in group] for group in self.ends.values()]
        return np.sqrt(np.mean([np.var(x, ddof=1) for x in finals]))


@pytest.fixture(scope="module", params=["mse", "ce"])
def decay(request):
    return Chapter(request.param), Decay(request.param)


def test_decay_counts_the_same_runs(decay):
    ours, theirs = decay
    assert [r.seed for r in ours.table["baseline"]] == theirs.seeds
    for name in DECAYS:
        assert [r.seed for r in ours.ends[name]] == theirs.kept != []


@pytest.mark.parametrize("name", DECAYS)
def test_decay_means_and_deviations_at_the_end(decay, name):
    ours, theirs = decay
    for column in COLUMNS:
        same(ours.finals(name, column), theirs.finals(name, column))


@pytest.mark.parametrize("change", CHANGES)
def test_decay_effects_and_their_signs(decay, change):
    ours, theirs = decay
    for column in METRICS:
        effects = ours.effects(change, column)
        same(effects, theirs.effects(change, column))
        assert np.sum(effects < 0) == theirs.closer(change, column)


@pytest.mark.parametrize("part", PARTS)
def test_decay_strengths_at_the_end_and_on_the_way(decay, part):
    ours, theirs = decay
    for column in METRICS:
        same(ours.strength(part, column), theirs.strength(part, column))
        same(ours.strength_on_the_way(part, column), theirs.strength_on_the_way(part, column))


def test_decay_spread_from_seed_to_seed(decay):
    ours, theirs = decay
    for column in METRICS:
        same(ours.spread(column), theirs.spread(column))


@pytest.mark.parametrize("name", DECAYS)
def test_decay_inside_and_outside_the_span_of_the_means(decay, name):
    ours, theirs = decay
    first, trace = (ours.finals(name, column)[0] for column in ("nc1", "nc1_trace"))
    same((10 / 9 * first, trace - 10 / 9 * first), theirs.inside_and_outside(name))


# ---- grown networks ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["cifar10", "mnist"])
def grown(request):
    found = [r for r in load_all(RESULTS, "layerwise", "full") if r.complete]
    return [r for r in found if r.name == request.param], Grown(request.param)


def at_stage_ends(r, column):
    return r.series(column)[np.isin(r.series("epoch"), r.probes()["epoch"])]


def floor(loss, K=10):
    xi = 2 * K * loss / (K - 1)
    return (K - 1) / K * xi / (1 - xi)


def test_grown_layers_fall_as_often(grown):
    ours, theirs = grown
    for r, run in zip(ours, theirs.runs, strict=True):
        for metric in ("nc1", "nc1_trace"):
            x = r.probes()[metric]
            values = independent.probed(run, metric)
            assert (np.sum(np.diff(x) < 0), len(x) - 1) == independent.falls(values)
            assert (x[0], x[-1]) == (values[0], values[-1])


def test_grown_layers_ratios_errors_and_floors(grown):
    ours, theirs = grown
    for metric in ("nc1", "nc1_trace"):
        steps = over_seeds(ours, lambda r, m=metric: np.exp(np.diff(np.log(r.probes()[m]))))
        same(steps.mean, theirs.ratios(metric))
    same(over_seeds(ours, lambda r: at_stage_ends(r, "error")).mean, theirs.errors())
    ratio = over_seeds(ours, lambda r: r.probes()["nc1"] / floor(at_stage_ends(r, "loss")))
    same(ratio.mean, theirs.over_floor())


# ---- networks trained as a whole -----------------------------------------------------------------


def test_depth_before_and_after_training():
    found = independent.runs("end-to-end", "reduced")
    ours = load_all(RESULTS, "end-to-end", "reduced")
    for name in independent.names(found):
        group = [r for r in ours if r.name == name]
        theirs = independent.group(found, name)
        epochs = sorted(set(independent.probed(theirs[0], "epoch")))
        for epoch in (epochs[0], epochs[-1]):
            rows = independent.by_column([independent.probed(run, "nc1", epoch) for run in theirs])
            summary = over_seeds(group, lambda r, e=epoch: r.probes(epoch=e)["nc1"])
            same(summary.mean, [average for average, _ in rows])
            same(summary.deviation, [deviation for _, deviation in rows])
        for r, run in zip(group, theirs, strict=True):
            assert r.series("error")[-1] == independent.measured(run, "error")[-1][1]
            after = r.probes(epoch=-1)["nc1"]
            values = independent.probed(run, "nc1", epochs[-1])
            assert (np.sum(np.diff(after) < 0), len(after) - 1) == independent.falls(values)
            same(after[0] / after[-1], values[0] / values[-1])


@pytest.mark.parametrize("point", ["stem", "block2", "block4", "block6", "block8"])
def test_directions_of_the_means_in_a_residual_network(point):
    path = independent.statistics_file("resnet18-cifar10", point)
    stats, layer = load_statistics(path).statistics, independent.load_layer(path)
    _, sizes = independent.span(layer)
    U, s, _ = np.linalg.svd(stats.centered_means, full_matrices=False)
    terms = np.sum(U * (stats.within @ U), axis=0)[: stats.K - 1] / s[: stats.K - 1] ** 2
    theirs = independent.nc1_terms(layer)
    # The smallest direction has lost as many digits as its share of the largest one says.
    lost = sizes[0] / sizes[-1]
    same(nc1(stats), theirs.sum(), rtol=1e-14 * lost + 1e-12)
    same(terms[-1] / terms.sum(), theirs[-1] / theirs.sum(), rtol=1e-14 * lost + 1e-12)


# ---- the model against a network -----------------------------------------------------------------


def layers(network, point, i):
    paths = [independent.statistics_file(network, f"{point}{j}") for j in (i, i + 1)]
    ours = [load_statistics(path).statistics for path in paths]
    return ours, [independent.load_layer(path) for path in paths]


@pytest.mark.parametrize(("network", "point", "i"), STEPS)
def test_what_changes_from_layer_to_layer(network, point, i):
    (earlier, later), (before, after) = layers(network, point, i)
    for stats, layer in ((earlier, before), (later, after)):
        same(nc1_trace(stats), independent.trace_ratio(layer))
        same(nc1(stats), independent.nc1_terms(layer).sum(), rtol=1e-11)
        same(shape(stats).inside, independent.inside(layer))
        np.testing.assert_allclose(shape(stats).gram, independent.gram(layer), atol=1e-12)
    np.testing.assert_allclose(
        compare(earlier, later), independent.errors(before, after), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("network", ["resnet18-mnist", "resnet18-cifar10"])
def test_last_blocks_entry_by_entry(network):
    (earlier, later), (before, after) = layers(network, "block", 7)
    unchanged = independent.resized(before, after)
    v = np.linalg.norm(later.centered_means) / np.linalg.norm(earlier.centered_means)
    scaled = type(earlier)(earlier.counts, v * earlier.means, v**2 * earlier.within)
    same(aligned(scaled, later), independent.entry_errors(unchanged, after))
    V = np.linalg.svd(earlier.centered_means)[2].T
    turned = V.T @ shape(later).gram @ V
    ours = np.linalg.norm(turned - np.diag(np.diag(turned)))
    same(ours, independent.gram_floor(before, after), rtol=1e-9)


def test_the_model_at_the_last_block_on_full_matrices():
    (earlier, later), (before, after) = layers("resnet18-mnist", "block", 7)
    found = fit(earlier, later, ("nc1_trace", "nc1", "gram"))
    lambda_W, p = found.parameters
    minimum = independent.at_weights(before, found.solution.weights, lambda_W, p / lambda_W)
    assert minimum.slope < 1e-11 and minimum.margin > -1e-9 and found.solution.certified
    prediction = independent.resized(minimum.layer, after)
    errors = independent.errors(prediction, after)
    np.testing.assert_allclose(compare(found.statistics, later), errors, rtol=1e-9, atol=1e-11)
    assert found.loss == pytest.approx(np.linalg.norm([errors[0], errors[1], errors[3]]), rel=1e-9)
    # It is far better than no change at all.
    assert found.loss < 0.2 * np.linalg.norm(np.array(independent.errors(before, after))[[0, 1, 3]])
