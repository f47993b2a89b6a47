"""A table of all metrics, layer by layer, of any network."""

import sys
from collections.abc import Callable, Iterator, Sequence
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
    Point,
    Points,
    as_features,
    classifier,
    evaluating,
    find,
    inner,
    own_points,
    watching,
)
from nclib.networks.probes import Reading, batches_for, decisions, probe


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
            A part that holds the last linear layer is replaced by its own parts. Left out is what
            leaves the features as they are, what is called more than once, and what would need
            ``select`` or ``pool``.
        file: Where the table goes; by default to the standard output.
        reading: ``num_classes``, ``classes``, ``select``, ``pool``, ``unpack``, ``scores`` and
            ``batch_size`` as for ``probe``.

    Returns:
        One dictionary for each layer, with the keys layer, d, N, K, nc1, nc1_trace, nc2, nc3 and
        nc4. None stands for what is not defined, and the table says why.

    Raises:
        TypeError: As for ``probe``.
        ValueError: As for ``probe``, or the data can be gone through only once.

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
    found = probe(network, data, chosen.points, keep_scores=False, **reading)
    notes = list(chosen.notes)
    nc4: dict[str, float] = {}
    error = None
    try:
        nc4, error = decisions(network, data, found.statistics, chosen.points, **reading)
    except TypeError as reason:
        notes.append(f"NC4: {reason}")
    records = []
    for name, stats in found.statistics.items():
        weights = chosen.weights if name in chosen.last else None
        if weights is not None and batches.classes is not None:
            weights = weights[batches.classes]
        values, reasons = _metrics(stats, weights)
        notes += [f"{METRICS[metric]} of {name}: {reason}" for metric, reason in reasons.items()]
        records.append(
            {
                "layer": name,
                "d": stats.d,
                "N": stats.N,
                "K": stats.K,
                **values,
                "nc4": nc4.get(name),
            }
        )
    if parallel.rank() == 0:
        counts = next(iter(found.statistics.values())).counts
        _print(records, counts, error, notes, file or sys.stdout)
    return records


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
        features: Features (B, d) by name, those of the first call.
        reasons: By name, why a point cannot be measured.
    """

    order: list[str]
    features: dict[str, torch.Tensor]
    reasons: dict[str, str]


def _choose(
    network: nn.Module,
    batches: Batches,
    points: Points | None,
    reading: Reading,
) -> _Chosen:
    """The layers to report, after a look at the first batch."""
    batch = batches.first()
    if batch is None:
        raise ValueError("data must hold samples, but there are none.")
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
    look = _look(network, batch, [*places, last] if named and last else places, reading)
    notes: list[str] = []
    if not named and last is not None:
        places, notes = _worth_measuring(places, last, look)
    if last is None:
        return _Chosen(places, set(), None, notes)
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
            h, _ = as_features(name, value, reading.get("select"), reading.get("pool"))
            look.features[name] = h.clone()
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
    notes = []
    for name in look.order[: look.order.index(last.name) + 1]:
        if name in look.reasons and name != last.name:
            notes.append(f"left out: {look.reasons[name]}")
        elif not kept or not _equal(look.features.get(name), look.features.get(kept[-1].name)):
            kept.append(by_name[name])
    return kept, notes


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether features are the same up to the rounding of a mean over positions."""
    if one is None or other is None or one.shape != other.shape:
        return False
    eps = max(torch.finfo(h.dtype).eps for h in (one, other))
    distance = (one.double() - other.double()).abs().max()
    return bool(distance <= 8 * eps * one.double().abs().max())


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
