"""A table of all metrics, layer by layer, of any network."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import GeneratorType
from typing import Any, NamedTuple, TextIO, Unpack

import numpy as np
import torch
from torch import nn

from nclib._tables import METRICS, text_table
from nclib.foundations.metrics import nc1, nc1_trace, nc2, nc3
from nclib.foundations.statistics import ClassStatistics
from nclib.networks import parallel
from nclib.networks.batches import Batch, Batches, Data, in_words
from nclib.networks.decisions import Decisions, NoDecision, decisions
from nclib.networks.hooks import (
    Features,
    Point,
    Points,
    as_features,
    evaluating,
    find,
    inner,
    own_points,
    require_known,
    watching,
)
from nclib.networks.last_layer import LastLayer, last_layer
from nclib.networks.probes import Reading, batches_for, collect

ITERATORS: tuple[type, ...] = (
    type(iter([])),
    type(iter(())),
    zip,
    map,
    filter,
    enumerate,
    reversed,
)


def report(
    network: nn.Module,
    data: Data,
    points: Points | None = None,
    *,
    file: TextIO | None = None,
    **reading: Unpack[Reading],
) -> list[dict[str, Any]]:
    r"""Print a table of all metrics of a network's layers, and return it as records.

    NC3 compares the last features with the weights of the linear layer that makes the scores of
    them; if there is no such layer, NC3 is a dash and a note says why. NC4 is the share of samples
    that the nearest class mean of a layer does not give to the class for which the network decides.
    The data are gone through twice, as NC4 needs the class means first.

    Args:
        network: As for ``probe``.
        data: As for ``probe``; it must be possible to go through them twice.
        points: As for ``probe``. By default ``network.points`` where a network has such a
            dictionary, else its parts up to the layer that makes the scores, whose input is the
            last point. A part that holds that layer is replaced by its own parts. Left out, and
            named below the table, is what leaves the features of all samples as they are, what is
            called more than once, and what would need ``select`` or ``pool``.
        file: Where the table goes; by default to the standard output.
        reading: ``num_classes``, ``classes``, ``select``, ``pool``, ``unpack``, ``scores`` and
            ``batch_size`` as for ``probe``.

    Returns:
        One dictionary for each layer, with the keys layer, d, N, K, nc1, nc1_trace, nc2, nc3 and
        nc4. None stands for what is not defined, and the table says why.

    Raises:
        TypeError: As for ``probe``.
        ValueError: As for ``probe``, or there are not as many samples in the second pass, as where
            data can be gone through only once. If they are others, a note says so.

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
    file = _writable(file)
    if isinstance(data, GeneratorType) or type(data) in ITERATORS:
        raise ValueError(
            "data can be gone through only once, but the metrics need two passes; give a list or "
            "a DataLoader."
        )
    batches = batches_for(network, data, reading)
    with evaluating(network):
        chosen = _choose(network, batches, points, reading)
    reading = _for_points(reading, {point.name for point in chosen.points})
    alike = _Alike(chosen)
    found = collect(
        network, batches, chosen.points, reading, keep_scores=False, watcher=alike
    ).statistics
    unchanged, last = alike.found()
    kept = [point for point in chosen.points if point.name not in unchanged]
    reading = _for_points(reading, {point.name for point in kept})
    decided, on_decisions = _decided(network, data, found, kept, reading)
    weights, on_weights = _rows(chosen, batches.classes)
    notes = [*chosen.notes, *_left_out(chosen, unchanged), *on_decisions, *on_weights]
    records = []
    for name in (point.name for point in kept):
        stats = found[name]
        values, reasons = _metrics(stats, weights if name in last else None)
        notes += [f"{METRICS[metric]} of {name}: {reason}" for metric, reason in reasons.items()]
        nc4 = decided.disagreement[name] if decided else None
        sizes = {"layer": name, "d": stats.d, "N": stats.N, "K": stats.K}
        records.append({**sizes, **values, "nc4": nc4})
    if parallel.rank() == 0:
        error = decided.error if decided else None
        _print(records, found[kept[0].name].counts, error, notes, file)
    return records


def _writable(file: TextIO | None) -> TextIO:
    """Where the table goes.

    Raises:
        TypeError: Text cannot be written there.
    """
    if file is None:
        return sys.stdout
    try:
        file.write("")
    except (AttributeError, TypeError) as error:
        raise TypeError(f"file must be one for text, but it is {in_words(file)}.") from error
    return file


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
    stats = statistics[points[0].name]
    try:
        decided = decisions(network, data, statistics, points, **reading)
    except (TypeError, NoDecision) as reason:
        return None, [f"NC4: {reason}"]
    if decided.number != stats.N:
        raise ValueError(
            f"data must be the same in both passes, but there were {stats.N:,} samples in the "
            f"first and {decided.number:,} in the second; give a list or a DataLoader over a data "
            "set that can be gone through twice."
        )
    notes = []
    if not np.array_equal(decided.counts.numpy(), stats.counts):
        notes.append(
            "NC4, error: the second pass, on which they are computed, had other samples than the "
            "first."
        )
    if decided.among > stats.K > 1:
        notes.append(
            f"NC4, error: the network decides among {decided.among:,} classes, of which "
            f"{stats.K:,} are measured; for its decision among these say classes=range({stats.K})."
        )
    return decided, notes


def _rows(chosen: "_Chosen", classes: torch.Tensor | None) -> tuple[np.ndarray | None, list[str]]:
    """The last layer's weights for the classes that are measured, or a note why there are none."""
    if chosen.last is None:
        return None, []
    if chosen.last.weights is None:
        return None, [f"NC3: {chosen.last.reason}"]
    weights = chosen.last.weights.cpu().numpy()
    if classes is None:
        return weights, []
    most = int(classes.max())
    if most < len(weights):
        return weights[classes], []
    return None, [f"NC3: the last layer has {len(weights)} rows, but there is a class {most}."]


def _left_out(chosen: "_Chosen", unchanged: set[str]) -> list[str]:
    """Notes on layers that are left out as nothing happens there, and on what was averaged."""
    notes = []
    names = [p.name for p in chosen.points if p.name in unchanged and not p.before]
    if names:
        notes.append(f"left out, as the features stay as they are: {_some(names)}.")
    averaged = [
        f"{point.name} {chosen.averaged[point.name]}"
        for point in chosen.points
        if point.name in chosen.averaged
    ]
    if averaged:
        notes.append(f"averaged over the last two axes: {_some(averaged)}.")
    return notes


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
        points: The layers, in the order in which they are called.
        by_user: Whether they were named, so that none is left out.
        last: The last layer, or None if there is none.
        averaged: The shape of a sample where its positions are averaged, by layer.
        notes: Sentences on what is left out.
    """

    points: list[Point]
    by_user: bool
    last: LastLayer | None
    averaged: dict[str, tuple[int, ...]]
    notes: list[str]


class _Look(NamedTuple):
    """What the first batch shows.

    Attributes:
        order: Names of the points as they are called.
        averaged: By name, the shape of a sample whose positions are averaged.
        reasons: By name, why a point cannot be measured.
    """

    order: list[str]
    averaged: dict[str, tuple[int, ...]]
    reasons: dict[str, str]


def _choose(
    network: nn.Module,
    batches: Batches,
    points: Points | None,
    reading: Reading,
) -> _Chosen:
    """The layers to report, after a look at the first batch."""
    batch = batches.first()
    named = points if points is not None else own_points(network) or None
    last = reason = None
    try:
        last = last_layer(network, batch, reading.get("scores"))
    except ValueError as error:
        reason = str(error)
    if named is not None:
        places = find(network, named)
    elif last is not None:
        places = [*_parts(network, last.point.module), last.point]
    else:
        places = _parts(network, None)
        if not places:
            raise ValueError(reason)
    require_known(reading, [place.name for place in places])
    look = _look(network, batch, places, reading)
    if named is not None:
        return _Chosen(places, True, last, look.averaged, [])
    kept, notes = _measurable(places, last, look)
    if last is None:
        notes.append(f"NC3: {reason}")
    if not kept:
        raise ValueError(
            "the network has no part that can be measured; say with points which layers are meant."
            + "".join(f" {note}" for note in notes)
        )
    return _Chosen(kept, False, last, look.averaged, notes)


def _parts(module: nn.Module, last: nn.Module | None, prefix: str = "") -> list[Point]:
    """The parts of a network by name; what holds the last layer is replaced by its parts."""
    found = []
    for name, part in module.named_children():
        if part is last:
            continue
        if last is not None and any(inside is last for inside in part.modules()):
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
    by_name = {place.name: place for place in places}

    def seen(name: str, value: Any) -> None:
        if name in look.order:
            look.reasons[name] = f"{name} is called more than once."
            return
        look.order.append(name)
        try:
            how = reading.get("select"), reading.get("pool")
            averaged = as_features(by_name[name], value, *how).averaged
            if averaged is not None:
                look.averaged[name] = averaged
        except (TypeError, ValueError) as reason:
            look.reasons[name] = str(reason)

    with watching(places, seen):
        batch.outputs(network)
    return look


def _measurable(
    places: Sequence[Point], last: LastLayer | None, look: _Look
) -> tuple[list[Point], list[str]]:
    """The parts up to the last layer that can be measured, and notes on the others."""
    by_name = {place.name: place for place in places}
    end = len(look.order) if last is None else look.order.index(last.point.name) + 1
    kept = []
    notes = []
    for name in look.order[:end]:
        if name in look.reasons and (last is None or name != last.point.name):
            notes.append(f"left out: {look.reasons[name]}")
        else:
            kept.append(by_name[name])
    behind = [name for name in look.order[end:] if [*by_name[name].module.parameters()]]
    if behind:
        notes.append(f"left out, as it comes after the last features: {_some(behind)}.")
    return kept, notes


class _Alike:
    """Which layers show the same features as others, in every batch of the first pass.

    Args:
        chosen: The layers.

    Attributes:
        extra: The last features, where they are not among the layers.
    """

    def __init__(self, chosen: _Chosen):
        names = [point.name for point in chosen.points]
        self.before = {} if chosen.by_user else dict(pairwise(reversed(names)))
        self.extra: list[Point] = []
        self.last_name = None
        if chosen.last is not None:
            self.last_name = chosen.last.point.name
            if self.last_name not in names:
                self.extra = [chosen.last.point]
        to_last = {(name, self.last_name) for name in names if self.last_name is not None}
        pairs = sorted({*self.before.items(), *to_last})  # in the same order in every process
        self.same = dict.fromkeys(pairs, True)
        self.now: dict[str, Features] = {}

    def see(self, name: str, found: Features) -> None:
        """What a point puts out; a copy is kept until the batch is through."""
        if any(same and name in pair for pair, same in self.same.items()):
            self.now[name] = found._replace(h=found.h.clone())

    def end(self) -> None:
        """The batch is through."""
        for pair, same in self.same.items():
            if same:
                self.same[pair] = _equal(self.now[pair[0]], self.now[pair[1]])
        self.now.clear()

    def found(self) -> tuple[set[str], set[str]]:
        """The layers that leave the features as they are, and those whose features are the last.

        They are so in every process.
        """
        differ = torch.tensor([not same for same in self.same.values()], dtype=torch.int64)
        total = parallel.total(differ) if len(differ) else differ
        same = {pair for pair, number in zip(self.same, total.tolist(), strict=True) if number == 0}
        unchanged = {name for name, before in self.before.items() if (name, before) in same}
        return unchanged, {name for name, other in same if other == self.last_name}


def _some(names: list[str], most: int = 4) -> str:
    """Names in a row, the first few if they are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _equal(one: Features, other: Features) -> bool:
    """Whether two layers show the same features of a batch.

    They do to all digits, but where the network averages over positions what was averaged here:
    then an entry may differ by a unit of its type, and by the rounding of a sum.
    """
    if one.h.shape != other.h.shape:
        return False
    if (one.averaged is None) == (other.averaged is None) or len(one.h) == 0:
        return torch.equal(one.h, other.h)
    a, b = one.h.double(), other.h.double()
    unit = max(one.resolution, other.resolution)
    size = torch.maximum(a.abs(), b.abs())
    sums = 8 * min(unit, torch.finfo(torch.float32).eps) * size.amax(0)
    return bool((a - b).abs().le(unit * size + sums).all())


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
