"""The tables of the part on real networks, read a second time and without the library."""

import ast
import math
import sys
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import scipy.stats

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
from tests.measured.independent import CHANGES, DECAYS, RESULTS, Decay, Grown
from tests.measured.printed import lines as stored_lines
from tools import notebooks

BOOK = RESULTS.parent
TITLES = {
    "mlp-mnist": "MLP, MNIST",
    "mlp-cifar10": "MLP, CIFAR-10",
    "resnet18-mnist": "ResNet-18, MNIST",
    "resnet18-cifar10": "ResNet-18, CIFAR-10",
}
COLUMNS = ("error", "nc1", "nc1_trace", "nc2", "nc3")
METRICS = COLUMNS[1:]
STEPS = [(name, "layer", i) for name in ("mlp-mnist", "mlp-cifar10") for i in (1, 2, 3, 4, 5)]
STEPS += [(name, "block", i) for name in ("resnet18-mnist", "resnet18-cifar10") for i in (6, 7)]


def same(ours, theirs, rtol=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-15, equal_nan=True)


def lines_of(chapter):
    """All lines that a chapter stores as printed, without blanks at their ends."""
    return stored_lines(BOOK / "networks" / f"{chapter}.ipynb")


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

CHAPTER = RESULTS.parent / "networks/weight_decay.ipynb"
LOSSES = {"mse": "squared loss", "ce": "cross-entropy"}
LABELS = {"nc1": "NC1", "nc1_trace": "NC1~", "nc2": "NC2"}
HEADS = ["epochs", "20", "to", "30", "matched", "loss", "the", "end"]


def printed(mark):
    """The words of each line that the chapter's cells with this tag, or this text, have printed."""
    lines = []
    for cell in notebooks.load(CHAPTER).cells:
        if mark in cell.metadata.get("tags", []) or mark in cell.source:
            for output in cell.get("outputs", []):
                lines += output.get("text", "").splitlines()
    assert lines, f"{CHAPTER} prints nothing in {mark!r}."
    return [line.split() for line in lines]


def joined(changes):
    return [word for change in changes for word in change.words]


@pytest.fixture
def decays():
    """The runs of each loss, and beside them those of the second processor."""
    found = {loss: Decay(loss) for loss in LOSSES}
    for loss, decay in found.items():
        decay.second = Decay(loss, RESULTS / "gpu")
    return found


def words_of_phases(decays):
    """The tables of changes by phase: all seeds of each loss, then the second version."""
    lines = []
    versions = [(loss, decay.seeds) for loss, decay in decays.items()]
    for loss, decay in decays.items():
        versions.append((loss, "the same seeds" if decay.kept == decay.seeds else decay.kept))
    for loss, seeds in versions:
        if not seeds or isinstance(seeds, str):
            lines.append(f"{LOSSES[loss]}: {seeds or 'no seed'}".split())
            continue
        lines.append(["36", "intervals,", *f"{LOSSES[loss]}, seeds".split(), *map(str, seeds)])
        for column, label in LABELS.items():
            lines.append([LOSSES[loss].split()[0], label, *HEADS])
            found = {
                change: [
                    decays[loss].change(change, seeds, statistic, column)
                    for statistic in decays[loss].phases
                ]
                for change in CHANGES
            }
            lines += [[name, *joined(row)] for name, row in found.items()]
            lines.append(["yardstick", *(f"{c.yardstick:.2f}" for c in found["last-zero"])])
    return lines


def words_of_signs(decays):
    lines = []
    for column in ("nc1", "nc1_trace"):
        lines.append([LABELS[column], *HEADS])
        for loss, decay in decays.items():
            for change in CHANGES:
                row = [loss, change]
                for statistic in decay.phases:
                    gaps = decay.gaps(change, decay.seeds, statistic, column)
                    row.append("".join("+" if gap > 0 else "-" for gap in gaps))
                lines.append(row)
    return lines


def words_of_layers(decays):
    lines = [["24", "intervals", "NC1", "NC1~", "tr", "Sigma_W"]]
    for loss, decay in decays.items():
        for change in CHANGES:
            found = [
                decay.change(change, decay.seeds, independent.last_step, column)
                for column in ("nc1", "nc1_trace", "trace_within")
            ]
            lines.append([loss, change, *joined(found)])
        lines.append([loss, "yardstick", *(f"{c.yardstick:.2f}" for c in found)])
    return lines


def words_of_spans(decays):
    lines = [["4", "intervals,", "twice", "all", "seeds", "seeds", "that", "fit"]]
    for loss, decay in decays.items():
        for column in ("nc1", "nc1_trace"):
            words = [loss, LABELS[column]]
            for seeds in (decay.seeds, decay.kept):
                words += decay.larger(seeds, column).words if seeds else ["no", "seed"]
            lines.append(words)
    return lines


PREDICTED = {  # the signs of P1, P4 and P5, in the order of the chapter's columns
    "last-double": ["+", "-"],
    "last-zero": ["-", "+"],
    "features-double": ["-", "-", "+"],
    "features-zero": ["+", "+", "-"],
}


def words_of_verdicts(decays):
    lines = [["16", "intervals", "NC1", "NC1~", "P1", "P4", "P5"]]
    for loss, decay in decays.items():
        for change, wanted in PREDICTED.items():
            found = [
                decay.change(change, decay.seeds, independent.at_end, column)
                for column in ("nc1", "nc1_trace")
            ]
            lines.append([loss, change, *joined(found), *wanted])
    columns = [(loss, column) for loss in LOSSES for column in ("nc1", "nc1_trace")]
    found = {c: decays[c[0]].both_versions(c[1]) for c in columns}
    for i, title in enumerate(("all seeds", "seeds that fit", "verdict")):
        heads = [word for loss, column in columns for word in (loss, LABELS[column])]
        lines.append([*title.split(), *heads])
        for name in ("P1", "P2", "P3", "P4", "P5"):
            lines.append([name, *(found[c][i].get(name, "-") for c in columns)])
    return lines


def words_of_pairs(decays):
    """The table outside the plan: pairs of networks that both fit."""
    lines, number = [], 0
    for loss, decay in decays.items():
        for change, wanted in PREDICTED.items():
            seeds = decay.pairs_that_fit(change)
            words = [loss, change, str(len(seeds))]
            for column in ("nc1", "nc1_trace") if seeds else ():
                if len(seeds) > 2:
                    number += 1
                    words += decay.change(change, seeds, independent.at_end, column).words
                else:
                    gaps = decay.gaps(change, seeds, independent.at_end, column)
                    words += [f"{fmean(gaps):+.2f}", "too", "few"]
            lines.append(words + wanted if seeds else words)
    return [[str(number), "intervals", "pairs", "NC1", "NC1~", "P1", "P4", "P5"], *lines]


def words_of_processors(decays):
    """The means on the second processor, and whether they have the signs of the intervals."""
    lines = [["3", "seeds", "on", "a", "GPU", "NC1", "NC1~"]]
    for loss, decay in decays.items():
        second = decay.second
        assert second.seeds == [0, 1, 2]
        for change in (*CHANGES, "span"):
            words = [loss, change]
            for column in ("nc1", "nc1_trace"):
                if change == "span":
                    found, mean = decay.larger(decay.seeds, column), second.span_gap(column)
                else:
                    found = decay.change(change, decay.seeds, independent.at_end, column)
                    mean = fmean(second.gaps(change, second.seeds, independent.at_end, column))
                words.append(f"{mean:+.2f}")
                if found.verdict(1) != "undetermined":
                    words.append("holds" if (found.verdict(1) == "yes") == (mean > 0) else "turns")
            lines.append(words)
    return lines


TABLES = {
    "table-E2-phases": words_of_phases,
    "table-E2-signs": words_of_signs,
    "table-E2-layers": words_of_layers,
    "table-E2-span": words_of_spans,
    "table-E2-verdicts": words_of_verdicts,
    "table-E2-pairs": words_of_pairs,
    "table-E2-processors": words_of_processors,
}


def matches(tag, decays):
    """Whether a table of the chapter begins with these words; further cells may print after it."""
    expected = TABLES[tag](decays)
    return printed(tag)[: len(expected)] == expected


@pytest.mark.parametrize("tag", TABLES)
def test_decay_tables_are_those_of_the_second_reading(tag, decays):
    assert printed(tag)[: len(TABLES[tag](decays))] == TABLES[tag](decays)


@pytest.mark.parametrize("tag", [tag for tag in TABLES if tag != "table-E2-processors"])
def test_decay_tables_notice_two_seeds_that_are_swapped(tag, decays):
    """Two baselines, and two networks without decay of the features, change places.

    The means of the second processor do not know the order of the seeds.
    """
    for decay in decays.values():
        for variant in ("baseline", "features-zero"):
            first, second = ((variant, seed) for seed in decay.seeds[:2])
            decay.runs[first], decay.runs[second] = decay.runs[second], decay.runs[first]
    assert not matches(tag, decays)


@pytest.mark.parametrize("tag", TABLES)
def test_decay_tables_notice_a_run_that_stands_for_another(tag, decays):
    """Of the variants a seed is counted twice, against the baselines of two."""
    for decay in (x for d in decays.values() for x in (d, d.second)):
        one, other = decay.seeds[:2]
        for change in CHANGES:
            decay.runs[change, one] = decay.runs[change, other]
    assert not matches(tag, decays)


@pytest.mark.parametrize("tag", TABLES)
def test_decay_tables_notice_a_sign_that_is_turned(tag, decays):
    """The features' doubled decay and none change places, on both processors."""
    for decay in (x for d in decays.values() for x in (d, d.second)):
        for seed in decay.seeds:
            first, second = ("features-double", seed), ("features-zero", seed)
            decay.runs[first], decay.runs[second] = decay.runs[second], decay.runs[first]
    assert matches(tag, decays) is (tag == "table-E2-span")  # a span has no sign


def test_decay_changes_on_the_way_that_the_chapter_compares(decays):
    expected = []
    for loss, decay in decays.items():
        for change in ("features-double", "features-zero"):
            found = [decay.change(change, decay.seeds, f, "nc1").mean for f in decay.phases[:2]]
            expected.append([loss, change, *(f"{x:+.2f}" for x in found)])
    assert printed("check-E2-signs") == expected


def test_decay_loss_on_the_way_that_the_chapter_prints(decays):
    expected = []
    for loss, decay in decays.items():
        for change in ("features-double", "features-zero"):
            found = decay.change(change, decay.seeds, independent.in_window, "loss")
            expected.append([loss, change, "training", "loss", *found.words])
    assert printed("check-E2-way") == expected


def test_decay_span_of_the_features_that_the_chapter_prints(decays):
    expected = []
    for loss, decay in decays.items():
        gaps = decay.span("features", decay.seeds, "nc1")
        half = independent.student(0.95, len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps))
        found = independent.Change(fmean(gaps), fmean(gaps) - half, fmean(gaps) + half, math.nan)
        expected.append([loss, "features'", "span", "in", "NC1:", *found.words])
    assert printed("check-E2") == expected


def test_decay_distances_of_the_curves_that_the_chapter_prints(decays):
    expected = [[*CHANGES]]
    for loss, decay in decays.items():
        for column, label in LABELS.items():
            words = [loss, label]
            for change in CHANGES:
                means = []
                for name in ("baseline", change):
                    runs = [decay.runs[name, s] for s in decay.seeds]
                    rows = [independent.measured(run, column)[1:] for run in runs]
                    bits = [[math.log2(x) for _, x in row] for row in rows]
                    means.append([fmean(at) for at in zip(*bits, strict=True)])
                words.append(f"{fmean(abs(y - x) for x, y in zip(*means, strict=True)):.2f}")
            expected.append(words)
    assert printed("size = {v: distance(loss, v, key)") == expected


def test_decay_epochs_at_the_matched_loss_that_the_chapter_prints(decays):
    expected = []
    for loss, decay in decays.items():
        level = independent.level_of(decay.runs.values())
        for name in DECAYS:
            runs = [decay.runs[name, s] for s in decay.seeds]
            at = [
                next(epoch for epoch, x in independent.measured(run, "loss") if x <= level)
                for run in runs
            ]
            expected.append([loss, name, *f"epoch {min(at)} to {max(at)}".split()])
    assert printed("reached[loss, v] = min(at)") == expected


def test_decay_small_changes_and_sizes_that_the_chapter_prints(decays):
    small, sizes = [], []
    for i, phase in enumerate(("epochs 20 to 30", "matched loss", "the end")):
        for loss, decay in decays.items():
            for column, label in LABELS.items():
                for name in CHANGES:
                    found = decay.change(name, decay.seeds, decay.phases[i], column)
                    if abs(found.mean) < found.yardstick / 5:
                        small.append([*phase.split(), loss, label, name])
    assert printed("small.add(") == small
    for loss, decay in decays.items():
        for column in ("nc1", "nc1_trace"):
            found = {
                name: decay.change(name, decay.seeds, independent.at_end, column).mean
                for name in CHANGES
            }
            last, features = (
                (abs(found[f"{part}-double"]) + abs(found[f"{part}-zero"])) / 2
                for part in ("last", "features")
            )
            text = f"features {features:.2f}, last layer {last:.2f}"
            words = f"{loss} {LABELS[column]} mean size of the changes: {text}"
            sizes.append(words.split())
    assert printed("mean size of the changes") == sizes


def test_decay_at_the_size_of_the_paper():
    found = independent.runs("weight-decay", "full")
    one, two = (found[f"mse-{name}", 0] for name in ("baseline", "features-double"))
    expected = [["epoch", "NC1", "NC1~", "training", "error,", "baseline", "and", "doubled"]]
    for i, (epoch, error) in enumerate(independent.measured(one, "error")):
        row = [str(epoch)]
        for column in ("nc1", "nc1_trace"):
            values = [independent.measured(run, column)[i][1] for run in (one, two)]
            row.append(f"{math.log2(values[1] / values[0]):+.2f}")
        row += [f"{x:.5f}" for x in (error, independent.measured(two, "error")[i][1])]
        expected.append(row)
    assert printed("table-E2-full") == expected[:1] + expected[2:]
    for name, run in (("baseline", one), ("features-double", two)):
        speed = run["epochs"]["epoch"][-1] * run["data"]["samples"] / run["duration_s"]
        words = f"mse-{name} NVIDIA H200: {speed:,.0f} images per second"
        assert words.split() in printed("images per second")


def test_decay_seeds_and_networks_that_do_not_fit(decays):
    expected = []
    for loss, decay in decays.items():
        seeds = [str(s) for s in decay.seeds], [str(s) for s in decay.kept]
        title = [*LOSSES[loss].split(), "seeds"]
        expected.append([*title, *seeds[0], "second", "version:", *(seeds[1] or ["none"])])
        for name in DECAYS:
            errors = [error for (other, _), error in decay.unfitted.items() if other == name]
            if errors:
                words = f"training error {min(errors):.3f} to {max(errors):.3f}"
                number = f"{name} {len(errors)} of {len(decay.seeds)} seeds, "
                expected.append((number + words).split())
    assert printed("table-E2-fitted") == expected


def test_decay_numbers_of_the_last_epoch(decays):
    expected = []
    places = {"nc1": 4, "nc1_trace": 3, "nc2": 3, "nc3": 3}
    for loss, decay in decays.items():
        expected.append([*LOSSES[loss].split(), "error", "NC1", "NC1~", "NC2", "NC3"])
        for name in DECAYS:
            row = [name, f"{max(decay.final(name, s, 'error') for s in decay.seeds):.3f}"]
            for column, n in places.items():
                average, deviation = decay.finals(name, column)
                row += [f"{average:.{n}f}", f"±{deviation:.{n}f}"]
            expected.append(row)
    assert printed("def last_epoch") == expected


def test_decay_horizon_of_the_stored_runs(decays):
    assert printed("check-E2-horizon")[-1][-1] == f"{decays['mse'].horizon():.1f}"


def test_decay_inside_and_outside_the_span_of_the_means(decays):
    expected = []
    for name in DECAYS:
        found = decays["mse"].inside_and_outside(name)
        if found is None:
            expected.append([name, "no", "network", "fits"])
            continue
        inside, outside, number = found
        shares = f"in the span {inside:.4f}, orthogonal to it {outside:.4f}"
        expected.append(f"{name} {shares}, {number} networks".split())
    assert printed("orthogonal to it {trace - inside:.4f}") == expected


def test_decay_bootstrap_is_that_of_all_resamples_where_these_are_few(decays):
    for loss, decay in decays.items():
        seeds = decay.seeds[:4]
        every = list(product(range(len(seeds)), repeat=len(seeds)))
        for column in ("nc1", "nc1_trace"):
            drawn = decays[loss].larger(seeds, column)
            gaps = decays[loss].resampled(seeds, column, every)
            # Each end lies between those of slightly smaller and larger shares of all resamples.
            for end, share in ((drawn.low, 0.025), (drawn.high, 0.975)):
                low, high = (gaps[math.ceil((share + x) * len(gaps)) - 1] for x in (-0.01, 0.01))
                assert low - 1e-12 <= end <= high + 1e-12


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 30])
def test_the_second_reading_has_the_ends_of_the_t_distribution(freedom):
    same(independent.student(0.95, freedom), scipy.stats.t.ppf(0.975, freedom))


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


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("mnist", "MNIST")])
def test_grown_networks_as_the_chapter_prints_them(name, title):
    lines = lines_of("growing")
    theirs = Grown(name)
    assert len(theirs.runs) == 3
    for run in theirs.runs:
        who = f"{title:8} seed {run['seed']}"
        for metric, label in (("nc1", "NC1"), ("nc1_trace", "NC1~")):
            values = independent.probed(run, metric)
            falls, steps = independent.falls(values)
            ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
            assert f"{who}: {label:4} falls at {falls} of {steps} added layers, {ends}" in lines
        loss = dict(independent.measured(run, "loss"))
        first = f"{loss[10]:.4f} at epoch 10, {loss[20]:.4f} at epoch 20"
        assert f"{who}: loss of the first stage {first}" in lines
    ratios = " ".join(f"{x:.2f}" for x in theirs.ratios("nc1_trace"))
    assert f"{title:8} {ratios}" in lines
    shown = " ".join(f"{theirs.errors()[l]:.4f}" for l in (0, 1, 2, 9))
    assert f"{title:8} training error after 1, 2, 3 and 10 layers: {shown}" in lines
    shown = " ".join(f"{theirs.over_floor()[l]:.2f}" for l in (0, 1, 3, 9))
    assert f"{title:8} NC1 over that from the loss, layers 1, 2, 4, 10: {shown}" in lines


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


def test_where_the_trace_form_rises_as_the_chapter_prints_it():
    lines = lines_of("measuring")
    for (name, seed), run in independent.runs("end-to-end", "reduced").items():
        first = 1 if name.startswith("mlp") else 0
        steps = [f"{first + i}-{first + i + 1}" for i in independent.rising_steps(run)]
        error = f"error {independent.measured(run, 'error')[-1][1]:.4f}"
        where = f"NC1~ rises at {', '.join(steps) or 'no step'}"
        assert f"{TITLES[name]:19} seed {seed}, {error}: {where}" in lines


def test_rises_by_block_of_the_residual_networks_as_the_chapter_prints_them():
    found = independent.runs("end-to-end", "reduced")
    for name in ("resnet18-mnist", "resnet18-cifar10"):
        steps = [independent.rising_steps(run) for run in independent.group(found, name)]
        counts = " ".join(str(sum(i in s for s in steps)) for i in range(8))
        line = f"{TITLES[name]:19} of {len(steps)} seeds, by block 1 to 8: {counts}"
        assert line in lines_of("measuring")


def rows_of(loss, decay):
    """The words of the rows of both tables of a setting, the one of rises and that of growth."""
    lines = [line.split() for line in lines_of("measuring")]
    return [words[2:] for words in lines if words[:2] == [loss, decay]]


def starred(counts, number):
    return [f"{count}*" if count == number else f"{count}" for count in counts]


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_rises_in_the_residual_networks_as_the_chapter_prints_them(loss):
    total = np.zeros(8, int)
    for decay in DECAYS:
        number, above, counts = independent.rises_by_step(loss, decay)
        assert number > 2
        growth = independent.growth_by_block(loss, decay)
        start = [str(number), str(above)]
        assert rows_of(loss, decay) == [start + starred(x, number) for x in (counts, growth)]
        total += counts
    assert rows_of(loss, "all") == [[str(count) for count in total]]


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_rises_in_networks_without_error_as_the_chapter_prints_them(loss):
    some, number, rises = independent.rises_without_error(f"{loss}-")
    line = f"{loss:3}: in {some} of {number} runs without error; {rises} rises"
    assert line in lines_of("measuring")


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_sizes_of_the_rises_as_the_chapter_prints_them(loss):
    some, number, factors = independent.rising_factors(f"{loss}-")
    where = f"{loss:3}: in {some} of {number} runs; {len(factors)} rises"
    middle = float(np.median(factors))
    above = sum(factor > 1.02 for factor in factors)
    assert f"{where}, median factor {middle:.3f}, {above} above 1.02" in lines_of("measuring")


@pytest.mark.parametrize("name", ["resnet18-mnist", "resnet18-cifar10"])
def test_growth_of_the_spread_and_the_time_without_error_as_the_chapter_prints_them(name):
    lines = lines_of("measuring")
    found = independent.group(independent.runs("end-to-end", "reduced"), name)
    assert [run["seed"] for run in found] == [0, 1, 2]
    everywhere, signs = set(independent.IDENTITY_BLOCKS), [""] * 9
    for run in found:
        growth = independent.growth_of_spread(run)
        shown = " ".join(f"{b}: {factor:.2f}" for b, factor in growth.items())
        grows = {b for b, factor in growth.items() if factor > 1}
        where = " ".join(map(str, sorted(grows)))
        start = f"{TITLES[name]:17} seed {run['seed']}"
        assert f"{start}  {shown}  grows at {where}" in lines
        everywhere &= grows
        first, factors = independent.since_no_error(run)
        shown = " ".join(f"{x:.2f}" for x in factors)
        assert f"{start} epoch {first}: {shown}" in lines
        signs = [s + ("+" if x > 1 else "-") for s, x in zip(signs, factors, strict=True)]
    where = " ".join(map(str, sorted(everywhere)))
    assert f"{TITLES[name]:17} grows in all seeds at {where}" in lines
    assert f"{'':17} signs by point: {' '.join(signs)}" in lines


@pytest.mark.parametrize("name", ["baseline", "features-double"])
def test_wide_residual_networks_as_the_chapter_prints_them(name):
    run = independent.runs("weight-decay", "full")[f"mse-{name}", 0]
    rises = [i + 1 for i in independent.rising_steps(run)]
    growth = independent.growth_of_spread(run)[8]
    error = f"error {run['epochs']['error'][-1]:.5f}"
    line = f"mse-{name:16} {error}: NC1~ rises at {rises}, Tr Sigma_W times {growth:.1f}"
    assert line in lines_of("measuring")


@pytest.mark.parametrize("name", ["mlp-mnist", "mlp-cifar10"])
def test_first_layers_on_the_way_as_the_chapter_prints_them(name):
    lines = lines_of("measuring")
    for run in independent.group(independent.runs("end-to-end", "reduced"), name):
        rows = []
        for layer in (0, 1):
            at = [independent.probed(run, "nc1_trace", epoch)[layer] for epoch in (0, 5, 60)]
            rows.append(", ".join(f"{x:.2f}" for x in at))
        error = f"error {independent.measured(run, 'error')[-1][1]:.4f}"
        who = f"{TITLES[name]:19} seed {run['seed']}, {error}"
        assert f"{who}: {rows[0]}; {rows[1]}" in lines


@pytest.mark.parametrize("name", ["mlp-mnist", "mlp-cifar10"])
def test_spread_of_the_perceptrons_as_the_chapter_prints_it(name):
    for run in independent.group(independent.runs("end-to-end", "reduced"), name):
        files = [independent.statistics_file(name, f"layer{i}", run["seed"]) for i in range(1, 7)]
        spread = [np.trace(independent.load_layer(file).within) for file in files]
        shown = " ".join(f"{y / x:.2f}" for x, y in pairwise(spread))
        error = f"error {independent.measured(run, 'error')[-1][1]:.4f}"
        line = f"{TITLES[name]:19} seed {run['seed']}, {error}: {shown}"
        assert line in lines_of("measuring")


@pytest.mark.parametrize("name", ["resnet18-mnist", "resnet18-cifar10"])
def test_residual_networks_after_their_last_error_as_the_chapter_prints_them(name):
    for run in independent.group(independent.runs("end-to-end", "reduced"), name):
        rest = max(epoch for epoch, error in independent.measured(run, "error") if error > 0)
        start = min(epoch for epoch in independent.probed(run, "epoch") if epoch > rest)
        begin, end = independent.probed(run, "nc1_trace", start), independent.last(run, "nc1_trace")
        shown = " ".join(f"{y / x:.2f}" for x, y in zip(begin, end, strict=True))
        line = f"{TITLES[name]:17} seed {run['seed']} epoch {start}: {shown}"
        assert line in lines_of("measuring")


@pytest.mark.parametrize("name", ["resnet18-mnist", "resnet18-cifar10"])
def test_share_of_the_last_two_blocks_as_the_chapter_prints_it(name):
    found = independent.group(independent.runs("end-to-end", "reduced"), name)
    for column, label in (("nc1", "NC1"), ("nc1_trace", "NC1~")):
        rows = [independent.last(run, column) for run in found]
        shares = [math.log(row[6] / row[8]) / math.log(row[0] / row[8]) for row in rows]
        shown = " ".join(f"{x:.2f}" for x in shares)
        assert f"{TITLES[name]:19} {label:4} {shown}" in lines_of("measuring")


def test_rises_at_identity_blocks_as_the_chapter_prints_them():
    found = independent.runs("weight-decay", "reduced").values()
    some = sum(bool({1, 3, 5} & set(independent.rising_steps(run))) for run in found)
    line = f"NC1~ rises at block 2, 4 or 6 in {some} of {len(found)} networks of E2"
    assert line in lines_of("measuring")


@pytest.mark.parametrize("name", ["mse-baseline", "mse-features-double"])
def test_growth_at_the_last_block_of_thin_networks_as_the_chapter_prints_it(name):
    found = independent.group(independent.runs("weight-decay", "reduced"), name)
    growth = [independent.growth_of_spread(run)[8] for run in found]
    line = f"thin {name:20} times {min(growth):.1f} to {max(growth):.1f}"
    assert line in lines_of("measuring")


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


# ---- the model and its rivals at all stored steps ------------------------------------------------


def test_stored_errors_of_no_change_on_full_matrices():
    for group in independent.stored_fits().values():
        for step in group:
            points = (step[which].replace(" ", "") for which in ("earlier", "later"))
            paths = [independent.statistics_file(step["network"], p, step["seed"]) for p in points]
            errors = independent.errors(*map(independent.load_layer, paths))
            stored = step["unchanged"]["errors"]
            np.testing.assert_allclose(stored, errors, rtol=1e-6, atol=1e-6)
            loss = np.linalg.norm([errors[0], errors[1], errors[3]])
            assert step["unchanged"]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_where_the_model_is_better_and_worse_as_the_chapter_prints_it(numbers):
    lines = lines_of("prediction")
    for name, group in independent.stored_fits().items():
        counts = [
            independent.better_and_worse(group, numbers, error)
            for error in (
                lambda found: found["loss"],
                lambda found: abs(found["errors"][2]),
                lambda found: found["errors"][4],
            )
        ]
        shown = "  ".join(f"{better:3},{worse:3}" for better, worse in counts)
        assert f"{name:18} of {len(group):2} steps   {numbers} numbers  {shown}" in lines


def test_residual_blocks_as_the_chapter_prints_them():
    lines = lines_of("prediction")
    groups = independent.stored_fits()
    for step in groups["identity"] + groups["last block"]:
        points = (step[which].replace(" ", "") for which in ("earlier", "later"))
        paths = [independent.statistics_file(step["network"], p, step["seed"]) for p in points]
        M, N = (independent.load_layer(path).centered for path in paths)
        moved = np.linalg.norm(N - M) / np.linalg.norm(M)
        cosine = np.vdot(M, N) / (np.linalg.norm(M) * np.linalg.norm(N))
        where = f"{step['network']:16} {step['seed']:3}   {step['later']}"
        start = f"{where} {moved:6.2f} {cosine:6.2f}"
        two = min(step[name]["loss"] for name in independent.RIVALS[2])
        mine = f"{step['the model']['loss']:8.3f}"
        assert any(line.startswith(f"{start} {mine}") and f"{two:6.3f}" in line for line in lines)


def test_losses_with_numbers_of_other_seeds_on_full_matrices():
    groups = independent.stored_fits()
    steps = groups["identity"] + groups["last block"]
    contraction = {
        (s["network"], s["later"], s["seed"]): s["one contraction"]["numbers"][0] for s in steps
    }
    for step in steps:
        points = (step[which].replace(" ", "") for which in ("earlier", "later"))
        paths = [independent.statistics_file(step["network"], p, step["seed"]) for p in points]
        before, after = map(independent.load_layer, paths)
        where = step["network"], step["later"]
        found = [contraction.get((*where, s)) for s in (0, 1, 2) if s != step["seed"]]
        shrinks = [shrink for shrink in found if shrink is not None]
        for shrink, losses in zip(shrinks, step["other seeds"], strict=True):
            layer = before._replace(within=shrink**2 * before.within)
            errors = np.array(independent.errors(layer, after))[[0, 1, 3]]
            assert losses["one contraction"] == pytest.approx(np.linalg.norm(errors), rel=1e-5)
            assert losses["unchanged"] == pytest.approx(step["unchanged"]["loss"], rel=1e-7)


def test_numbers_of_other_seeds_as_the_chapter_prints_them():
    lines = lines_of("prediction")
    total = [0, 0]
    for name, group in independent.stored_fits().items():
        yes, ratios = independent.with_other_seeds(group)
        count = f"{yes:3} of {len(ratios):2}"
        assert f"{name:18} {count:>13} {np.median(ratios):14.2f}" in lines
        for numbers in independent.RIVALS:
            start = f"{name:18} of {len(group):2}   {numbers} numbers"
            better, worse = independent.compared_at_other_seeds(group, numbers)
            assert any(
                line.startswith(start) and line.endswith(f"{better:3},{worse:3}") for line in lines
            )
        total = [total[0] + yes, total[1] + len(ratios)]
    assert f"all: {total[0]} of {total[1]}" in lines
