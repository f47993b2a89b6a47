"""Class statistics of a network's layers over a whole data set, streamed: no array of all features
is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch import nn

from nclib.foundations.statistics import ClassStatistics
from nclib.networks import parallel
from nclib.networks.batches import Batch, Batches, Data, Unpacker, in_words
from nclib.networks.hooks import (
    Choice,
    Features,
    Point,
    Points,
    applied,
    as_features,
    classifier,
    device_of,
    evaluating,
    find,
    inner,
    key_of,
    own_points,
    require_known,
    watching,
)
from nclib.networks.running import Groups, RunningStatistics
from nclib.networks.samples import as_tensor


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
    PyTorch's random numbers on the CPU go on as if nothing had been measured. All sums are in
    float64 on the network's device; the resolution of the statistics is that of the type in which
    the layer puts out its features, also where these are pooled in a wider one.

    Under several processes each measures its own share: of ``Samples`` the share is made here, any
    other data must be shared out already, as a ``DistributedSampler`` does (which repeats samples
    where the shares would differ in size).

    Args:
        network: Any network; also one that is compiled, or wrapped to be spread over devices.
        data: Samples, or an iterable of pairs of inputs and labels, such as a DataLoader.
        points: Layers, by name ("layer4.1") or as modules, or a dictionary of them by names of your
            own; "input of fc" is what goes into a layer. By default ``network.points`` where a
            network has such a dictionary, else the input of the last linear layer.
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
        places = _places(network, batches, points)
        return collect(network, batches, places, reading, keep_scores=keep_scores)


def collect(
    network: nn.Module,
    batches: Batches,
    places: list[Point],
    reading: Reading,
    *,
    keep_scores: bool,
) -> Probe:
    """What ``probe`` returns, for batches that may have been begun.

    Args:
        network: The network, not wrapped.
        batches: What it is fed.
        places: The points to measure.
        reading: How data and outputs are read.
        keep_scores: Whether the scores are kept.
    """
    kept_scores: list[torch.Tensor] = []
    kept_labels: list[torch.Tensor] = []
    with evaluating(network):
        sums = {place.name: RunningStatistics(batches.device) for place in places}
        groups = Groups.none()

        def begin(batch: Batch) -> None:
            nonlocal groups
            groups = Groups.of(batch.labels, batches.device)

        def add(name: str, found: Features, batch: Batch) -> None:
            sums[name].make_room(batch.K, found.h.shape[1])
            sums[name].add(found.h, groups, found.resolution)

        def end(batch: Batch, output: Any) -> None:
            kept = batch.labels >= 0
            kept_labels.append(batch.labels[kept].to(batches.device))
            if keep_scores:
                found = _scores(output, reading.get("scores"))
                if found is not None:
                    kept_scores.append(found[kept.to(found.device)])

        _run(network, batches, places, reading, add, begin=begin, end=end)
    statistics = {name: total.statistics(name) for name, total in sums.items()}
    for found in statistics.values():
        batches.require_all(found.counts)
    labels = torch.cat(kept_labels) if kept_labels else torch.zeros(0, dtype=torch.int64)
    return Probe(statistics, torch.cat(kept_scores) if kept_scores else None, labels)


def disagreement(
    network: nn.Module,
    data: Data,
    statistics: Mapping[str, ClassStatistics],
    points: Points | None = None,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """NC4 of each layer: how often the nearest class mean of its features disagrees with the
    network's decision.

    For the last features this is NC4 as ``nclib.nc4`` defines it. In the other layers the decision
    is still that of the whole network. With ``classes`` it is a decision among these.

    Args:
        network: As for ``probe``.
        data: As for ``probe``.
        statistics: What ``probe`` found for the same layers: the class means.
        points: As for ``probe``.
        reading: ``num_classes``, ``classes``, ``select``, ``pool``, ``unpack``, ``scores`` and
            ``batch_size`` as for ``probe``.

    Returns:
        A share between 0 and 1 for each name.

    Raises:
        TypeError: The network puts out no scores (N, K), one for each class at least, or as for
            ``probe``.
        ValueError: There are no samples, or as for ``probe``.

    Examples:
        >>> from nclib.networks import MLP, digits, disagreement, probe
        >>> network, data = MLP((64, 30, 10)), [digits(20)]
        >>> disagreement(network, data, probe(network, data).statistics)
        {'layer 1': 0.9}
    """
    decided = decisions(network, data, statistics, points, **reading)
    if decided.number == 0:
        raise ValueError(
            "data must hold samples, but there are none; what can be gone through only once may "
            "have been gone through before."
        )
    return decided.disagreement


class Decisions(NamedTuple):
    """What the decisions of a network are compared with.

    Attributes:
        disagreement: NC4 of each layer, by name.
        error: The share of samples whose label is another one.
        number: The number of samples; if it is zero, the shares are NaN.
        among: Among how many classes the network decides.
    """

    disagreement: dict[str, float]
    error: float
    number: int
    among: int


def decisions(
    network: nn.Module,
    data: Data,
    statistics: Mapping[str, ClassStatistics],
    points: Points | None,
    **reading: Unpack[Reading],
) -> Decisions:
    """The decisions of a network beside the nearest class means and the labels.

    The arguments are those of ``disagreement``.
    """
    network = inner(network)
    batches = batches_for(network, data, reading)
    scores = reading.get("scores")
    wrong: dict[str, torch.Tensor] = {}
    nearest: dict[str, torch.Tensor] = {}
    number = torch.zeros((), dtype=torch.int64, device=batches.device)
    errors = torch.zeros_like(number)
    among = 0
    with evaluating(network):
        places = _places(network, batches, points)
        centers = {place.name: _Centers.of(statistics[place.name]) for place in places}
        for name in centers:
            wrong[name] = torch.zeros_like(number)

        def find_nearest(name: str, found: Features, batch: Batch) -> None:
            nearest[name] = centers[name].nearest(found.h)

        def compare(batch: Batch, output: Any) -> None:
            nonlocal among
            found = _scores(output, scores)
            if found is None:
                raise TypeError(
                    f"the network puts out {in_words(output)}, but NC4 needs scores (N, K); say, "
                    f"for instance, scores=lambda output: {_guess(output)}."
                )
            used = batch.labels if batches.classes is None else batches.classes
            most = int(used.max()) if len(used) else -1
            if most >= found.shape[1]:
                raise TypeError(
                    f"the network has scores for {found.shape[1]} classes, but there is a class "
                    f"{most}, and NC4 needs a score for each."
                )
            if batches.classes is not None:
                found = found[:, batches.classes.to(found.device)]
            among = found.shape[1]
            decision = found.argmax(1)
            labels = batch.labels.to(decision.device)
            kept = labels >= 0
            number.add_(kept.sum())
            errors.add_(((labels != decision) & kept).sum())
            for name, index in nearest.items():
                wrong[name] += ((index != decision) & kept).sum()

        _run(network, batches, places, reading, find_nearest, end=compare)
    counts = parallel.total(torch.stack([number, errors, *wrong.values()])).double()
    error, *shares = (counts[1:] / counts[0]).tolist()
    return Decisions(dict(zip(wrong, shares, strict=True)), error, int(counts[0]), among)


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
        Features (N, d) in the order of the data.

    Raises:
        TypeError: As for ``probe``.
        ValueError: As for ``probe``.

    Examples:
        >>> from nclib.networks import MLP, digits, features
        >>> network = MLP((64, 30, 10))
        >>> features(network, [digits(20)], "layers.0").shape
        (200, 30)
    """
    network = inner(network)
    batches = batches_for(network, data, reading, in_order=True)
    parts: list[torch.Tensor] = []
    with evaluating(network):
        batch = batches.first()
        places = [classifier(network, batch)] if point is None else find(network, point)

        def keep(name: str, found: Features, batch: Batch) -> None:
            parts.append(found.h.to("cpu", copy=True))

        _run(network, batches, places, reading, keep)
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


class _Centers(NamedTuple):
    """Class means about their middle, so that a common offset costs no digits.

    Attributes:
        origin: The middle of the class means, shape (d, 1).
        M: Class means minus the middle, shape (d, K).
        half: Half their squared lengths, shape (K, 1); infinite for a class without samples.
    """

    origin: torch.Tensor
    M: torch.Tensor
    half: torch.Tensor

    @classmethod
    def of(cls, stats: ClassStatistics) -> "_Centers":
        means = as_tensor(stats.means)
        there = as_tensor(stats.counts > 0)
        origin = means[:, there].mean(1, keepdim=True)
        M = means - origin
        half = M.square().sum(0)[:, None] / 2
        half[~there] = torch.inf
        return cls(origin, M, half)

    def nearest(self, h: torch.Tensor) -> torch.Tensor:
        """The nearest mean of each of the features (B, d)."""
        origin, M, half = (tensor.to(h.device) for tensor in self)
        # |h - m_k|^2 up to |h|^2.
        return (half - M.T @ (h.double().T - origin)).argmin(0)


def _places(network: nn.Module, batches: Batches, points: Points | None) -> list[Point]:
    """The points to measure; by default those of the network, or the last linear layer's input."""
    if points is not None:
        return find(network, points)
    own = own_points(network)
    if own:
        return find(network, own)
    return [classifier(network, batches.first())]


def _run(
    network: nn.Module,
    batches: Batches,
    places: list[Point],
    reading: Reading,
    use: Callable[[str, Features, Batch], None],
    *,
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
        begin: Called before a batch is put in.
        end: Called when the network has put out something for the batch.
    """
    require_known(reading, [place.name for place in places])
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
        found = as_features(name, value, reading.get("select"), reading.get("pool"))
        if len(found.h) != len(batch.labels):
            raise ValueError(
                f"{name} puts out {len(found.h)} rows of features for {len(batch.labels)} labels; "
                "a batch holds one label for each sample, and pool= can make one row of features "
                "for each."
            )
        use(name, found, batch)

    with watching(places, seen):
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


def _scores(output: Any, choose: Callable[[Any], torch.Tensor] | None) -> torch.Tensor | None:
    """The scores (B, K) in what a network puts out, if they can be found."""
    if choose is not None:
        output = applied("scores", choose, output, "the network puts out")
    elif not isinstance(output, torch.Tensor):
        output = output.get("logits") if isinstance(output, Mapping) else None
    if isinstance(output, torch.Tensor) and output.ndim == 2 and output.shape[1] > 1:
        return output
    return None


def _guess(output: Any) -> str:
    """How the scores may be made of what a network puts out."""
    if not isinstance(output, torch.Tensor):
        return f"output{key_of(output)}"
    if output.ndim == 2:  # one score for two classes
        return "torch.cat([-output, output], 1)"
    return "output.mean(1)" if output.ndim == 3 else "output.flatten(1)"
