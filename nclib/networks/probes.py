"""Class statistics of a network's layers over a whole data set, streamed: no array of all features
is kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
import torch
from torch import nn

from nclib.foundations.statistics import ClassStatistics
from nclib.networks.batches import Batch, Batches, Data, Unpacker
from nclib.networks.hooks import (
    Choice,
    Features,
    Point,
    Points,
    as_features,
    device_of,
    evaluating,
    find,
    inner,
    own_points,
    require_known,
    watching,
)
from nclib.networks.last_layer import last_layer, scores_of
from nclib.networks.running import Groups, RunningStatistics


class Probe(NamedTuple):
    """What one pass over the data shows.

    Under several processes the statistics are those of all samples, scores and labels those of this
    process's share.

    Attributes:
        statistics: Class statistics of the layers, by name.
        scores: What the network puts out, shape (N, K); None if that is no tensor of this shape.
        labels: Integers (N,), in the order of the scores.
    """

    statistics: dict[str, ClassStatistics]
    scores: torch.Tensor | None
    labels: torch.Tensor

    def __repr__(self) -> str:
        layers = ", ".join(f"{name!r}: d={s.d}" for name, s in self.statistics.items())
        return f"Probe({{{layers}}}, N={len(self.labels)})"


class Reading(TypedDict, total=False):
    """How data and outputs are read: the arguments of this name of ``probe``."""

    num_classes: int | None
    classes: Sequence[int] | None
    select: Choice | None
    pool: Choice | None
    unpack: Unpacker | None
    scores: Callable[[Any], torch.Tensor] | None
    batch_size: int


def probe(
    network: nn.Module,
    data: Data,
    points: Points | None = None,
    *,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
    select: Choice | None = None,
    pool: Choice | None = None,
    unpack: Unpacker | None = None,
    scores: Callable[[Any], torch.Tensor] | None = None,
    keep_scores: bool = True,
    batch_size: int = 100,
) -> Probe:
    r"""Class statistics of some layers of any network, and its scores, in one pass over the data.

    Every feature enters the sums at the moment when its layer puts it out, so that a later
    operation in place changes nothing. The network runs in evaluation mode and in its own
    floating-point type; afterwards each of its modules is in the mode in which it was, and
    PyTorch's random numbers on the CPU go on as if nothing had been measured. What a module changes
    by itself in evaluation mode, such as an observer of ranges, it changes here too. All sums are
    in float64 on the network's device; the resolution of the statistics is that of the type in
    which the layer puts out its features, also where these are pooled in a wider one.

    Under several processes each measures its own share: of ``Samples`` the share is made here, any
    other data must be shared out already, as a ``DistributedSampler`` does (which repeats samples
    where the shares would differ in size).

    Args:
        network: Any network; also one that is compiled, or wrapped to be spread over devices.
        data: Samples, or an iterable of pairs of inputs and labels, such as a DataLoader. Samples
            come class by class, which matters where a layer computes with the batch.
        points: Layers, by name ("layer4.1") or as modules, or a dictionary of them by names of your
            own; "input of fc" is what goes into a layer. By default ``network.points`` where a
            network has such a dictionary, else the input of the linear layer that makes the scores.
        num_classes: K, where classes may be missing: their counts are then zero. Without it K is
            the largest label plus one, and every class must occur.
        classes: The labels that count as classes, numbered anew in this order; samples with other
            labels are left out.
        select: Takes the tensor of features from what a layer puts out, where that is a tuple or a
            dictionary: one function, or one for each name.
        pool: Makes features (B, d) of such a tensor, for all points or by name. By default images
            (B, channels, height, width) are averaged over the positions, and other shapes are
            refused. Say ``pool=lambda h: h.mean((1, 2))`` where the channels are the last axis:
            PyTorch does not show where they are.
        unpack: Makes a pair (inputs, labels) of what ``data`` yields. Inputs are a tensor, a tuple
            of arguments, or a dictionary of named arguments.
        scores: Takes the scores (B, K) from what the network puts out, where that is no tensor.
        keep_scores: Whether the scores are kept: N K numbers on the network's device.
        batch_size: Samples per batch at most, where data are ``Samples``.

    Raises:
        TypeError: The network is no module or a scripted one, a layer puts out no tensor, the
            labels are no integers, or a batch is no pair.
        ValueError: There is no such layer; it is called more than once in a pass or not at all; its
            outputs are not (B, d) or are not finite; ``select``, ``pool`` or ``scores`` fails or
            has the name of no point; labels are out of range, or a class is missing.

    Examples:
        >>> from torch import nn
        >>> from nclib import nc1
        >>> from nclib.networks import digits, probe
        >>> images, labels = digits(20)
        >>> network = nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)).double()
        >>> found = probe(network, [(images, labels)])
        >>> found
        Probe({'input of 2': d=30}, N=200)
        >>> nc1(found.statistics["input of 2"]) > 0
        True
    """
    reading: Reading = {
        "num_classes": num_classes,
        "classes": classes,
        "select": select,
        "pool": pool,
        "unpack": unpack,
        "scores": scores,
        "batch_size": batch_size,
    }
    network = inner(network)
    batches = batches_for(network, data, reading)
    with evaluating(network):
        places = places_of(network, batches, points, scores)
        return collect(network, batches, places, reading, keep_scores=keep_scores)


class Watcher(Protocol):
    """Who looks on while statistics are collected.

    Attributes:
        extra: Points that are not measured; their features are taken as they are.
    """

    extra: list[Point]

    def see(self, name: str, found: Features) -> None:
        """What a point puts out."""

    def end(self) -> None:
        """The batch is through."""


def collect(
    network: nn.Module,
    batches: Batches,
    places: list[Point],
    reading: Reading,
    *,
    keep_scores: bool,
    watcher: Watcher | None = None,
) -> Probe:
    """What ``probe`` returns, for batches that may have been begun.

    Args:
        network: The network, not wrapped.
        batches: What it is fed.
        places: The points to measure.
        reading: How data and outputs are read.
        keep_scores: Whether scores and labels are kept.
        watcher: Who looks on.
    """
    kept_scores: list[torch.Tensor | None] = []
    kept_labels: list[torch.Tensor] = []
    with evaluating(network):
        sums = {place.name: RunningStatistics(batches.device) for place in places}
        groups = Groups.none()

        def begin(batch: Batch) -> None:
            nonlocal groups
            groups = Groups.of(batch.labels, batches.device)

        def add(name: str, found: Features, batch: Batch) -> None:
            if name in sums:
                sums[name].make_room(batch.K, found.h.shape[1])
                sums[name].add(found.h, groups, found.resolution)
            if watcher is not None:
                watcher.see(name, found)

        def end(batch: Batch, output: Any) -> None:
            if watcher is not None:
                watcher.end()
            if not keep_scores:
                return
            kept = batch.labels >= 0
            kept_labels.append(batch.labels[kept].to(batches.device))
            found = scores_of(output, reading.get("scores"))
            if found is not None and len(found) != len(kept):
                found = None
            kept_scores.append(None if found is None else found[kept.to(found.device)])

        extra = watcher.extra if watcher is not None else []
        run(network, batches, places, reading, add, extra=extra, begin=begin, end=end)
    statistics = {name: total.statistics(name) for name, total in sums.items()}
    for found in statistics.values():
        batches.require_all(found.counts)
    labels = torch.cat(kept_labels) if kept_labels else torch.zeros(0, dtype=torch.int64)
    return Probe(statistics, _joined(kept_scores), labels)


def _joined(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The scores of all batches, if they are there and of one width."""
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts) or len({part.shape[1] for part in found}) > 1:
        return None
    return torch.cat(found)


def features(
    network: nn.Module,
    data: Data,
    point: str | nn.Module | None = None,
    **reading: Unpack[Reading],
) -> np.ndarray:
    """All outputs of one layer as an array, pooled as ``probe`` pools them; one process only.

    Args:
        network: As for ``probe``.
        data: As for ``probe``.
        point: One layer, as for ``probe``; by default the input of the last linear layer.
        reading: ``select``, ``pool``, ``unpack`` and ``batch_size`` as for ``probe``.

    Returns:
        Features (N, d) in the order of the data, in the type of the layer; NumPy has no bfloat16,
        which becomes float32.

    Raises:
        TypeError: As for ``probe``, or classes are to be chosen.
        ValueError: As for ``probe``, or there are several points.

    Examples:
        >>> from nclib.networks import MLP, digits, features
        >>> network = MLP((64, 30, 10))
        >>> features(network, [digits(20)], "layers.0").shape
        (200, 30)
    """
    for name in ("num_classes", "classes", "scores"):
        if name in reading:
            raise TypeError(f"features takes all samples as they come, so there is no {name}.")
    network = inner(network)
    batches = batches_for(network, data, reading, in_order=True)
    parts: list[torch.Tensor] = []
    with evaluating(network):
        places = places_of(network, batches, point, own=False)
        if len(places) > 1:
            raise ValueError("features gives those of one point, but there are several.")

        def keep(name: str, found: Features, batch: Batch) -> None:
            wide = found.h.float() if found.h.dtype == torch.bfloat16 else found.h
            parts.append(wide.to("cpu", copy=True))

        run(network, batches, places, reading, keep)
    if not parts:
        raise ValueError("data must hold samples, but there are none.")
    return torch.cat(parts).numpy()


def batches_for(
    network: nn.Module, data: Data, reading: Reading, *, in_order: bool = False
) -> Batches:
    """The batches of data for a network.

    Raises:
        TypeError: There is an argument of another name.
    """
    unknown = sorted(set(reading) - set(Reading.__annotations__))
    if unknown:
        raise TypeError(
            f"there is no argument {unknown[0]!r}, only {', '.join(Reading.__annotations__)}."
        )
    return Batches(
        data,
        device_of(network),
        batch_size=reading.get("batch_size", 100),
        num_classes=reading.get("num_classes"),
        classes=reading.get("classes"),
        unpack=reading.get("unpack"),
        in_order=in_order,
    )


def places_of(
    network: nn.Module,
    batches: Batches,
    points: Points | None,
    choose: Callable[[Any], torch.Tensor] | None = None,
    *,
    own: bool = True,
) -> list[Point]:
    """The points to measure; by default those of the network, or the last layer's input.

    Args:
        network: The network, in evaluation mode.
        batches: What it is fed.
        points: The points, as for ``probe``.
        choose: Takes the scores from what the network puts out.
        own: Whether the network's own points come first where there are none.
    """
    if points is not None:
        return find(network, points)
    offered = own_points(network) if own else {}
    if offered:
        return find(network, offered)
    return [last_layer(network, batches.first(), choose).point]


def run(
    network: nn.Module,
    batches: Batches,
    places: list[Point],
    reading: Reading,
    use: Callable[[str, Features, Batch], None],
    *,
    extra: Sequence[Point] = (),
    begin: Callable[[Batch], None] = lambda batch: None,
    end: Callable[[Batch, Any], None] = lambda batch, output: None,
) -> None:
    """Run the network over all batches.

    Args:
        network: The network, in evaluation mode.
        batches: What it is fed.
        places: The points to measure.
        reading: How their outputs become features.
        use: Is told each point's name and features when they are put out.
        extra: Further points, whose outputs are features as they are.
        begin: Called before a batch is put in.
        end: Called when the network has put out something for the batch.
    """
    require_known(reading, [place.name for place in places])
    by_name = {place.name: place for place in (*extra, *places)}
    plain = {place.name for place in extra} - {place.name for place in places}
    called: set[str] = set()
    current: list[Batch] = []

    def seen(name: str, value: Any) -> None:
        if name in called:
            raise ValueError(
                f"{name} is called more than once in one pass, so it is not clear which output is "
                "meant; measure a layer before or after it."
            )
        called.add(name)
        (batch,) = current
        how = () if name in plain else (reading.get("select"), reading.get("pool"))
        found = as_features(by_name[name], value, *how)
        if len(found.h) != len(batch.labels):
            raise ValueError(
                f"{name} puts out {len(found.h)} rows of features for {len(batch.labels)} labels; "
                "a batch holds one label for each sample, and pool= can make one row of features "
                "for each."
            )
        use(name, found, batch)

    with watching(by_name.values(), seen):
        for batch in batches:
            current[:] = [batch]
            called.clear()
            begin(batch)
            output = batch.outputs(network)
            for place in places:
                if place.name not in called:
                    raise ValueError(
                        f"{place.name} is not called: in evaluation mode the network passes it "
                        "over, or it computes with its weights in another way."
                    )
            end(batch, output)
