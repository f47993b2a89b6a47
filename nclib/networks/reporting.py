"""A table of all metrics, layer by layer, of any network."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO, Unpack

import numpy as np
import torch
from torch import nn

from nclib._tables import METRICS, text_table
from nclib.foundations.metrics import nc1, nc1_trace, nc2, nc3
from nclib.foundations.statistics import ClassStatistics
from nclib.networks import parallel
from nclib.networks.batches import Batch, Batches, Data
from nclib.networks.hooks import (
    Features,
    Point,
    Points,
    as_features,
    classifier,
    evaluating,
    find,
    inner,
    own_points,
    require_known,
    watching,
)
from nclib.networks.probes import Decisions, Reading, batches_for, collect, decisions


def report(
    network: nn.Module,
    data: Data,
    points: Points | None = None,
    *,
    file: TextIO | None = None,
    **reading: Unpack[Reading],
) -> list[dict[str, Any]]:
    r"""Print a table of all metrics of a network's layers, and return it as records.

    NC3 compares the features that go into the last linear layer with its weights. NC4 is the share
    of samples that the nearest class mean of a layer does not give to the class for which the
    network decides. The data are gone through twice, as NC4 needs the class means first.

    Args:
        network: As for ``probe``.
        data: As for ``probe``; it must be possible to go through them twice.
        points: As for ``probe``. By default ``network.points`` where a network has such a
            dictionary, else its parts up to the last linear layer, whose input is the last point.
            A part that holds the last linear layer is replaced by its own parts. Left out, and
            named below the table, is what leaves the features as they are, what is called more than
            once, and what would need ``select`` or ``pool``.
        file: Where the table goes; by default to the standard output.
        reading: ``num_classes``, ``classes``, ``select``, ``pool``, ``unpack``, ``scores`` and
            ``batch_size`` as for ``probe``.

    Returns:
        One dictionary for each layer, with the keys layer, d, N, K, nc1, nc1_trace, nc2, nc3 and
        nc4. None stands for what is not defined, and the table says why.

    Raises:
        TypeError: As for ``probe``.
        ValueError: As for ``probe``, or the data are not the same in both passes, as where they can
            be gone through only once.

    Examples:
        >>> import torch
        >>> from nclib.networks import digits, report
        >>> images, labels = digits(50)
        >>> with torch.random.fork_rng():
        ...     _ = torch.manual_seed(0)
        ...     parts = torch.nn.Linear(64, 30), torch.nn.ReLU(), torch.nn.Linear(30, 10)
        >>> network = torch.nn.Sequential(*parts).double()
        >>> records = report(network, [(images, labels)])
        500 samples, 10 classes of 50, error 0.8960
        layer   d        NC1       NC1~        NC2        NC3        NC4
        0      30     1.2135    0.95484    0.74214          -      0.912
        1      30     2.1403     1.1253    0.75789     1.4013       0.91
    """
    network = inner(network)
    if isinstance(data, Iterator):
        raise ValueError(
            "data can be gone through only once, but the metrics need two passes; give a list or "
            "a DataLoader."
        )
    batches = batches_for(network, data, reading)
    with evaluating(network):
        chosen = _choose(network, batches, points, reading)
    reading = _for_points(reading, {point.name for point in chosen.points})
    found = collect(network, batches, chosen.points, reading, keep_scores=False)
    decided, on_decisions = _decided(network, data, found.statistics, chosen.points, reading)
    weights, on_weights = _rows(chosen.weights, batches.classes)
    notes = [*chosen.notes, *on_decisions, *on_weights]
    records = []
    for name, stats in found.statistics.items():
        values, reasons = _metrics(stats, weights if name in chosen.last else None)
        notes += [f"{METRICS[metric]} of {name}: {reason}" for metric, reason in reasons.items()]
        records.append(
            {
                "layer": name,
                "d": stats.d,
                "N": stats.N,
                "K": stats.K,
                **values,
                "nc4": decided.disagreement[name] if decided else None,
            }
        )
    if parallel.rank() == 0:
        counts = next(iter(found.statistics.values())).counts
        error = decided.error if decided else None
        _print(records, counts, error, notes, file or sys.stdout)
    return records


def _decided(
    network: nn.Module,
    data: Data,
    statistics: dict[str, ClassStatistics],
    points: list[Point],
    reading: Reading,
) -> tuple[Decisions | None, list[str]]:
    """The decisions in a second pass, where there are any, and notes on them.

    Raises:
        ValueError: The data are not the same in both passes.
    """
    stats = next(iter(statistics.values()))
    try:
        decided = decisions(network, data, statistics, points, **reading)
    except TypeError as reason:
        return None, [f"NC4: {reason}"]
    if decided.number != stats.N:
        raise ValueError(
            f"data must be the same in both passes, but there were {stats.N:,} samples in the "
            f"first and {decided.number:,} in the second; give a list or a DataLoader over a data "
            "set that can be gone through twice."
        )
    if decided.among <= stats.K:
        return decided, []
    return decided, [
        f"NC4, error: the network decides among {decided.among:,} classes, of which {stats.K:,} "
        f"are measured; for its decision among these say classes=range({stats.K})."
    ]


def _rows(
    weights: np.ndarray | None, classes: torch.Tensor | None
) -> tuple[np.ndarray | None, list[str]]:
    """The last layer's weights for the classes that are measured, and a note if they lack one."""
    if weights is None or classes is None:
        return weights, []
    most = int(classes.max())
    if most < len(weights):
        return weights[classes], []
    return None, [f"NC3: the last layer has {len(weights)} rows, but there is a class {most}."]


def _for_points(reading: Reading, names: set[str]) -> Reading:
    """The reading without what ``select`` and ``pool`` say of points that are left out."""
    kept = reading.copy()
    for argument in ("select", "pool"):
        choice = reading.get(argument)
        if isinstance(choice, Mapping):
            kept[argument] = {key: choice[key] for key in choice if key in names}
    return kept


class _Chosen(NamedTuple):
    """What a report measures.

    Attributes:
        points: The layers.
        last: The names of those whose features go into the last linear layer.
        weights: Its weights, or None if there is no such layer.
        notes: Sentences on what is left out.
    """

    points: list[Point]
    last: set[str]
    weights: np.ndarray | None
    notes: list[str]


class _Look(NamedTuple):
    """What the first batch shows.

    Attributes:
        order: Names of the points as they are called.
        features: Features by name, those of the first call.
        reasons: By name, why a point cannot be measured.
    """

    order: list[str]
    features: dict[str, Features]
    reasons: dict[str, str]


def _choose(
    network: nn.Module,
    batches: Batches,
    points: Points | None,
    reading: Reading,
) -> _Chosen:
    """The layers to report, after a look at the first batch."""
    batch = batches.first()
    named = own_points(network) if points is None else points
    last = None
    try:
        last = classifier(network, batch)
    except ValueError:
        if not named:
            raise
    if named or last is None:
        places = find(network, named)
    else:
        places = [*_parts(network, last.module), last]
    require_known(reading, [place.name for place in places])
    look = _look(network, batch, places, reading)
    notes: list[str] = []
    if not named and last is not None:
        places, notes = _worth_measuring(places, last, look)
    notes += _averages(places, look)
    if last is None:
        return _Chosen(places, set(), None, notes)
    if last.name not in look.features:  # the points were named, and it is none of them
        look.features.update(_look(network, batch, [last], {}).features)
    features = look.features.get(last.name)
    same = {p.name for p in places if _equal(look.features.get(p.name), features)}
    weights = torch.as_tensor(last.module.weight).detach().double().cpu().numpy()
    return _Chosen(places, same, weights, notes)


def _parts(module: nn.Module, last: nn.Module, prefix: str = "") -> list[Point]:
    """The parts of a network by name; what holds the last linear layer is replaced by its parts."""
    found = []
    for name, part in module.named_children():
        if part is last:
            continue
        if any(inside is last for inside in part.modules()):
            found += _parts(part, last, f"{prefix}{name}.")
        else:
            found.append(Point(prefix + name, part))
    return found


def _look(
    network: nn.Module,
    batch: Batch,
    places: Sequence[Point],
    reading: Reading,
) -> _Look:
    """Run the network on one batch and see what the points put out."""
    look = _Look([], {}, {})

    def seen(name: str, value: Any) -> None:
        if name in look.order:
            look.reasons[name] = f"{name} is called more than once."
            return
        look.order.append(name)
        try:
            found = as_features(name, value, reading.get("select"), reading.get("pool"))
            look.features[name] = found._replace(h=found.h.clone())
        except (TypeError, ValueError) as reason:
            look.reasons[name] = str(reason)

    with watching(places, seen):
        batch.outputs(network)
    return look


def _worth_measuring(
    places: Sequence[Point], last: Point, look: _Look
) -> tuple[list[Point], list[str]]:
    """The parts up to the last linear layer that change the features, and notes on the others."""
    by_name = {place.name: place for place in places}
    kept: list[Point] = []
    unchanged = []
    notes = []
    for name in look.order[: look.order.index(last.name) + 1]:
        if name in look.reasons and name != last.name:
            notes.append(f"left out: {look.reasons[name]}")
        elif not kept or not _equal(look.features.get(name), look.features.get(kept[-1].name)):
            kept.append(by_name[name])
        elif name != last.name:
            unchanged.append(name)
    if unchanged:
        notes.append(f"left out, as the features stay as they are: {_some(unchanged)}.")
    return kept, notes


def _averages(places: Sequence[Point], look: _Look) -> list[str]:
    """A note on the layers whose features are means over the last two axes."""
    shapes = {p.name: look.features[p.name].averaged for p in places if p.name in look.features}
    names = [f"{name} {shape}" for name, shape in shapes.items() if shape is not None]
    return [f"averaged over the last two axes: {_some(names)}."] if names else []


def _some(names: list[str], most: int = 4) -> str:
    """Names in a row, the first few if they are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _equal(one: Features | None, other: Features | None) -> bool:
    """Whether two layers show the same features.

    They do to all digits, but where the network averages over positions what was averaged here:
    then they may differ by the rounding of a mean.
    """
    if one is None or other is None or one.h.shape != other.h.shape:
        return False
    if (one.averaged is None) == (other.averaged is None):
        return torch.equal(one.h, other.h)
    eps = max(one.resolution, other.resolution)
    distance = (one.h.double() - other.h.double()).abs().max()
    return bool(distance <= 8 * eps * one.h.double().abs().max())


def _metrics(
    stats: ClassStatistics, weights: np.ndarray | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """NC1 to NC3, None where a metric is not defined, and the reasons for that."""
    functions: dict[str, Callable[[ClassStatistics], float]] = {
        "nc1": nc1,
        "nc1_trace": nc1_trace,
        "nc2": nc2,
    }
    if weights is not None:
        functions["nc3"] = lambda stats: nc3(stats, weights)
    values: dict[str, float | None] = dict.fromkeys(("nc1", "nc1_trace", "nc2", "nc3"))
    reasons = {}
    for name, function in functions.items():
        try:
            values[name] = float(function(stats))
        except ValueError as reason:
            reasons[name] = str(reason)
    return values, reasons


def _print(
    records: list[dict[str, Any]],
    counts: np.ndarray,
    error: float | None,
    notes: list[str],
    file: TextIO,
) -> None:
    """Print the table, with what was measured above it and the notes below."""
    K = len(counts)
    sizes = f"{counts.min():,}" + ("" if np.ptp(counts) == 0 else f" to {counts.max():,}")
    head = f"{counts.sum():,} samples, {K:,} classes of {sizes}"
    print(head if error is None else f"{head}, error {error:.4f}", file=file)
    print(text_table(records, ("layer", "d", *METRICS)), file=file)
    for note in notes:
        print(note, file=file)
