r"""Networks grown layer by layer: where their stages end, and what the plan asks of them.

**G1** counts the added layers at which both metrics fall. **G2** asks whether the mean over the
layers 6 to 10 of :math:`\log_2\mathrm{NC1}` is lower after long stages than after short ones of
networks with the same settings and seed. The rules are those of ``book/results/PLAN.md``.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nclib.measured.entries import refusal
from nclib.measured.paired import (
    Bits,
    Interval,
    Verdict,
    judge,
    judge_all,
    judge_share,
    paired_change,
)
from nclib.measured.records import Result

SHORT = "-short"  # how the name of a run with short stages ends
ENOUGH = 0.95  # share of the steps that must fall for a yes


class Falls(NamedTuple):
    """At how many added layers metrics fall.

    Attributes:
        both: Steps at which NC1 and NC1~ fall.
        nc1: Steps at which NC1 falls.
        nc1_trace: Steps at which NC1~ falls.
        steps: Steps in all.
    """

    both: int
    nc1: int
    nc1_trace: int
    steps: int

    @property
    def verdict(self) -> Verdict:
        """G1: yes if both fall at 95 % of the steps at least, no if at half of them at most."""
        return judge_share(self.both, self.steps, yes=ENOUGH)


# ---- stages --------------------------------------------------------------------------------------


def settled(losses: Sequence[float], span: int, change: float) -> bool:
    """Whether the loss has changed by less than a share over some epochs.

    Compared are the mean over the last ``span`` epochs and that over as many epochs before, so
    that the noise of single epochs counts little.

    Args:
        losses: The loss during each epoch so far, shape (E,).
        span: Over how many epochs.
        change: The share, of the earlier mean.

    Returns:
        False as long as there are fewer than twice the span epochs.

    Examples:
        >>> settled([1.0, 0.9, 0.5, 0.51, 0.5, 0.505], span=2, change=0.01)
        True
        >>> settled([1.0, 0.9, 0.5, 0.51], span=2, change=0.01)
        False
    """
    if len(losses) < 2 * span:
        return False
    earlier, later = (float(np.mean(x)) for x in (losses[-2 * span : -span], losses[-span:]))
    return abs(later - earlier) < change * earlier


def stage_ends(epochs: Sequence[int], stages: Sequence[int]) -> list[int]:
    """The last epoch of each stage in a table of epochs.

    Args:
        epochs: Epochs done, increasing.
        stages: Number of the stage, from 1, for each of them.

    Examples:
        >>> stage_ends([0, 1, 2, 3], [1, 1, 1, 2])
        [2, 3]
    """
    return list(dict(zip(stages, epochs, strict=True)).values())


def stage_lengths(result: Result) -> list[int]:
    """How many epochs each stage of a run had; the limit is the setting ``epochs``.

    Args:
        result: A run.

    Examples:
        >>> result = Result.load("book/results/layerwise/full/mnist-seed0.json")
        >>> stage_lengths(result)
        [20, 20, 20, 20, 20, 20, 20, 20, 20, 20]
    """
    ends = stage_ends(result.epochs.epoch, result.epochs.stage)
    return [after - before for before, after in pairwise([0, *ends])]


# ---- G1 and G2 -----------------------------------------------------------------------------------


def falls(results: Iterable[Result]) -> Falls:
    """G1: count the added layers at which NC1 and NC1~ fall.

    A step at which a metric is undefined counts as one at which it does not fall.

    Args:
        results: Complete runs of grown networks.

    Raises:
        ValueError: A run is not complete or was not grown.

    Examples:
        >>> falls([Result.load("book/results/layerwise/full/mnist-seed0.json")])
        Falls(both=9, nc1=9, nc1_trace=9, steps=9)
    """
    found = []
    for result in results:
        one, other = (np.diff(_by_layer(result, m)) < 0 for m in ("nc1", "nc1_trace"))
        found += list(zip(one & other, one, other, strict=True))
    both, nc1, nc1_trace = (sum(bool(row[i]) for row in found) for i in range(3))
    return Falls(both, nc1, nc1_trace, len(found))


def deep_bits(result: Result, metric: str = "nc1", first: int = 6, last: int = 10) -> float:
    """Mean over deep layers of the binary logarithm of a metric at the end of each stage.

    Args:
        result: A complete run of a grown network.
        metric: A column of the table of layers.
        first: The first layer, from 1.
        last: The last layer, which belongs to it.

    Returns:
        The mean in bits; NaN if the metric of one of these layers is undefined or zero.

    Raises:
        ValueError: The run is not complete, was not grown, or has no such layers.

    Examples:
        >>> result = Result.load("book/results/layerwise/full/mnist-seed0.json")
        >>> print(f"{deep_bits(result):.2f}")
        -5.42
    """
    values = _by_layer(result, metric)
    if not 1 <= first <= last <= len(values):
        expected = f"layers of a network that has {len(values)}"
        raise ValueError(refusal("first, last", expected, (first, last)))
    deep = values[first - 1 : last]
    return float(np.log2(deep).mean()) if np.all(deep > 0) else np.nan


def length_changes(
    results: Iterable[Result], metric: str = "nc1", first: int = 6, last: int = 10
) -> dict[str, Interval]:
    """G2: what long stages change in the deep layers against short ones, paired by seed.

    Args:
        results: Complete runs of one scale: for each long run the short one of the same seed and
            settings, whose name has "-short" at its end.
        metric: A column of the table of layers.
        first: The first of the deep layers, from 1.
        last: The last of them.

    Returns:
        The interval of long minus short for each name of long runs. All its numbers are NaN if the
        metric is undefined in one of the runs; its ends are for fewer than three seeds.

    Raises:
        ValueError: A run is not complete, was not grown, or occurs twice, a short run is missing,
            or two that are compared differ in more than the length of stages.

    Examples:
        >>> from msgspec.structs import replace
        >>> run = Result.load("book/results/layerwise/full/mnist-seed0.json")
        >>> length_changes([run, replace(run, name="mnist-short")])["mnist"].mean
        0.0
    """
    runs: dict[tuple[str, int], Result] = {}
    for result in results:
        key = result.name, result.seed
        if key in runs:
            raise ValueError(f"results must hold each run once, but hold {key} twice.")
        runs[key] = result
    long: dict[str, Bits] = {}
    short: dict[str, Bits] = {}
    for (name, seed), result in sorted(runs.items(), key=lambda item: item[0]):
        if name.endswith(SHORT):
            continue
        control = runs.get((name + SHORT, seed))
        if control is None:
            raise ValueError(f"results must hold {name}{SHORT}, seed {seed}, but do not.")
        _require_alike(result, control)
        for group, one in ((long, result), (short, control)):
            group[name] = {**group.get(name, {}), seed: deep_bits(one, metric, first, last)}
    return {name: _interval(long[name], short[name]) for name in long}


def judge_length(changes: dict[str, Interval]) -> Verdict:
    """The verdict on G2: yes if the deep layers are lower after long stages in every interval.

    Args:
        changes: What ``length_changes`` returns.

    Raises:
        ValueError: There are none.

    Examples:
        >>> change = Interval(-1.0, -1.5, -0.5, 3, 0.1)
        >>> str(judge_length({"mnist-w0": change, "mnist-w2e-3": change}))
        'yes'
    """
    return judge_all(judge(interval, -1) for interval in changes.values())


def _by_layer(result: Result, metric: str) -> np.ndarray:
    """A metric of every layer at the end of its stage."""
    who = f"{result.name}, seed {result.seed},"
    if not result.complete:
        raise ValueError(f"{who} must be complete, but is not.")
    if not result.config.get("grown"):
        raise ValueError(f"{who} must be grown layer by layer, but was trained as a whole.")
    found = {
        (layer, epoch): value
        for layer, epoch, value in zip(
            result.layers.layer, result.layers.epoch, result.layers.array(metric), strict=True
        )
    }
    ends = stage_ends(result.epochs.epoch, result.epochs.stage)
    return np.array([found[f"layer {i}", epoch] for i, epoch in enumerate(ends, start=1)])


def _require_alike(long: Result, short: Result) -> None:
    """Raise ValueError if two runs differ in more than the length of stages."""
    lengths = {"epochs", "settle"}
    configs = [
        {key: value for key, value in r.config.items() if key not in lengths} for r in (long, short)
    ]
    if (
        configs[0] != configs[1]
        or (long.scale, long.data) != (short.scale, short.data)
        or not sum(stage_lengths(long)) >= sum(stage_lengths(short))
    ):
        raise ValueError(
            f"{short.name}, seed {short.seed}, must differ from {long.name} in nothing but shorter "
            "stages, but differs in more."
        )


def _interval(long: Bits, short: Bits) -> Interval:
    if not np.all(np.isfinite([*long.values(), *short.values()])):
        return Interval(np.nan, np.nan, np.nan, len(long), np.nan)
    return paired_change(long, short, fewest=3)
