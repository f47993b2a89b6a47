"""The decisions of a network beside the nearest class means of its layers: NC4."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn

from nclib.foundations.statistics import ClassStatistics
from nclib.networks import parallel
from nclib.networks.batches import Batch, Batches, Data, in_words
from nclib.networks.hooks import Features, Point, Points, evaluating, inner, key_of
from nclib.networks.last_layer import scores_of
from nclib.networks.probes import Reading, batches_for, places_of, run
from nclib.networks.samples import as_tensor


class NoDecision(ValueError):
    """The network puts out scores of which none is the largest."""


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
        ValueError: There are no samples, a score is not finite, the statistics are of other layers
            or other classes, or as for ``probe``.

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
        counts: Samples per class, those of all processes.
        among: Among how many classes the network decides.
    """

    disagreement: dict[str, float]
    error: float
    counts: torch.Tensor
    among: int

    @property
    def number(self) -> int:
        """The number of samples; if it is zero, the shares are NaN."""
        return int(self.counts.sum())


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
    with evaluating(network):
        places = places_of(network, batches, points, reading.get("scores"))
        votes = _Votes(batches, reading, _centers(places, statistics))
        run(network, batches, places, reading, votes.see, end=votes.count)
    return votes.decisions()


class _Votes:
    """Decisions and nearest means, counted batch by batch.

    Args:
        batches: The data.
        reading: How they are read.
        centers: The class means of each layer.
    """

    def __init__(self, batches: Batches, reading: Reading, centers: dict[str, "_Centers"]):
        self.batches, self.choose, self.centers = batches, reading.get("scores"), centers
        self.K = next(iter(centers.values())).M.shape[1]
        if batches.classes is not None and len(batches.classes) != self.K:
            raise ValueError(
                f"statistics have {self.K} classes, but classes names {len(batches.classes)}."
            )
        self.among = 0
        self.nearest: dict[str, torch.Tensor] = {}
        zeros = torch.zeros(self.K + 1 + len(centers), dtype=torch.int64)
        self.totals = zeros.to(batches.device)  # samples per class, errors, disagreements

    def see(self, name: str, found: Features, batch: Batch) -> None:
        """The features of a layer."""
        center = self.centers[name]
        if found.h.shape[1] != len(center.M):
            raise ValueError(
                f"statistics of {name} have {len(center.M)} dimensions, but its features have "
                f"{found.h.shape[1]}."
            )
        self.nearest[name] = center.nearest(found.h)

    def count(self, batch: Batch, output: Any) -> None:
        """What the network puts out for the same batch."""
        found = self._scores(batch, output)
        labels = batch.labels.to(found.device)
        kept = labels >= 0
        found, labels = found[kept], labels[kept]
        if not bool(torch.isfinite(found).all()):
            raise NoDecision("the network puts out scores that are NaN or infinite.")
        decision = found.argmax(1)
        per_class = labels.bincount(minlength=self.K)
        if len(per_class) > self.K:
            raise ValueError(
                f"statistics have {self.K} classes, but the label {int(labels.max())} occurs; give "
                "the num_classes or classes with which they were made."
            )
        wrong = [(labels != decision).sum()]
        wrong += [(self.nearest[name][kept] != decision).sum() for name in self.centers]
        self.totals += torch.cat([per_class, torch.stack(wrong)]).to(self.totals.device)

    def _scores(self, batch: Batch, output: Any) -> torch.Tensor:
        """The scores (B, K) of the classes that are measured."""
        found = scores_of(output, self.choose)
        if found is None or len(found) != len(batch.labels):
            raise TypeError(
                f"the network puts out {in_words(output)}, but NC4 needs scores (N, K); say, for "
                f"instance, scores=lambda output: {_guess(output, self.K)}."
            )
        classes = self.batches.classes
        used = batch.labels if classes is None else classes
        most = int(used.max()) if len(used) else -1
        if most >= found.shape[1]:
            raise TypeError(
                f"the network has scores for {found.shape[1]} classes, but there is a class "
                f"{most}, and NC4 needs a score for each."
            )
        if classes is not None:
            found = found[:, classes.to(found.device)]
        if self.among not in (0, found.shape[1]):
            raise TypeError(
                f"the network puts out {self.among} scores for some samples and {found.shape[1]} "
                "for others, but NC4 needs one for each class."
            )
        self.among = found.shape[1]
        return found

    def decisions(self) -> Decisions:
        """The shares, over the samples of all processes."""
        totals = parallel.total(self.totals)
        counts, wrong = totals[: self.K].cpu(), totals[self.K :].double().cpu()
        error, *shares = (wrong / counts.sum()).tolist()
        return Decisions(dict(zip(self.centers, shares, strict=True)), error, counts, self.among)


def _centers(
    places: list[Point], statistics: Mapping[str, ClassStatistics]
) -> dict[str, "_Centers"]:
    """The class means of the layers."""
    if not isinstance(statistics, Mapping):
        raise TypeError(
            "statistics must be a dictionary of class statistics by layer, as the statistics of a "
            f"Probe are, but they are {in_words(statistics)}."
        )
    for place in places:
        if place.name not in statistics:
            raise ValueError(
                f"statistics must hold {place.name!r}, but they hold {', '.join(statistics)}."
            )
    found = {place.name: _Centers.of(statistics[place.name]) for place in places}
    widths = {center.M.shape[1] for center in found.values()}
    if len(widths) > 1:
        raise ValueError(f"statistics must have one number of classes, but have {sorted(widths)}.")
    return found


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


def _guess(output: Any, K: int) -> str:
    """How the scores may be made of what a network puts out."""
    if isinstance(output, torch.Tensor):
        if output.ndim == 2 and output.shape[1] == 1:  # one score for two classes
            return "torch.cat([-output, output], 1)"
        return "output.mean(1)" if output.ndim == 3 else "output.flatten(1)"
    return f"output{key_of(output, K)}"
