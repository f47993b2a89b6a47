"""The runs of an experiment together: means over seeds, and where the numbers come from."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nclib.measured.entries import SCALES
from nclib.measured.files import place
from nclib.measured.records import Result


class OverSeeds(NamedTuple):
    """A quantity of one run at several seeds.

    Attributes:
        mean: Its mean over the seeds.
        deviation: Its sample standard deviation; NaN for one seed.
        seeds: Their number.
    """

    mean: np.ndarray
    deviation: np.ndarray
    seeds: int


def load_all(
    folder: str | os.PathLike[str], experiment: str, scale: str | None = None
) -> list[Result]:
    """All results of an experiment, sorted by name, seed and scale.

    Args:
        folder: The folder of all results.
        experiment: Name of the experiment.
        scale: One of smoke, reduced and full; every scale by default.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged or not valid, or holds a result that belongs elsewhere.

    Examples:
        >>> [r.seed for r in load_all("book/results", "layerwise", "full") if r.name == "mnist"]
        [0, 1, 2]
    """
    found = []
    for path in Path(folder, experiment).glob(f"{scale or '*'}/*.json"):
        result = Result.load(path)
        home = place(folder, result.experiment, result.scale, result.name, result.seed)
        if path != home:
            raise ValueError(f"{path}: the result in this file belongs in {home}.")
        found.append(result)
    return sorted(found, key=lambda r: (r.name, r.seed, SCALES.index(r.scale)))


def over_seeds(
    results: Sequence[Result], what: str | Callable[[Result], np.ndarray | float]
) -> OverSeeds:
    """Mean and sample standard deviation of a quantity over the seeds of one run.

    Args:
        results: One run at different seeds.
        what: A column of the table of epochs, or a function of a result.

    Raises:
        ValueError: There are no results, they are not of one run with one configuration, or a
            seed occurs twice.

    Examples:
        >>> runs = load_all("book/results", "layerwise", "full")
        >>> mnist = [r for r in runs if r.name == "mnist"]
        >>> mean, deviation, seeds = over_seeds(mnist, lambda r: r.series("error")[-1])
        >>> print(f"training error {mean:.4f} ± {deviation:.4f}, {seeds} seeds")
        training error 0.0126 ± 0.0003, 3 seeds
    """
    runs = {(r.experiment, r.name, r.scale, r.config_hash) for r in results}
    seeds = {r.seed for r in results}
    if len(runs) != 1 or len(seeds) != len(results):
        given = [(r.name, r.seed) for r in results]
        raise ValueError(f"results must be one run at different seeds, but results = {given}.")
    rows = [r.series(what) if isinstance(what, str) else what(r) for r in results]
    values = np.array(rows, dtype=float)
    if len(values) == 1:
        deviation = np.full(values.shape[1:], np.nan)
    else:
        deviation = values.std(axis=0, ddof=1)
    return OverSeeds(values.mean(axis=0), deviation, len(values))


def provenance(results: Sequence[Result]) -> str:
    """Where results come from, in one line: data, scale, device, seeds, dates, commits, time.

    Args:
        results: Results that belong together, at least one.

    Raises:
        ValueError: There are none.

    Examples:
        >>> runs = load_all("book/results", "layerwise", "full")
        >>> print(provenance([r for r in runs if r.name == "mnist"])[:47])
        MNIST, 60,000 training images; full scale; CPU,
    """
    if not results:
        raise ValueError("results must be one at least, but there are none.")
    parts = [
        _joined(map(_data_in_words, results)),
        f"{_joined(r.scale for r in results)} scale",
        _joined(r.device for r in results),
        _seeds_in_words({r.seed for r in results}),
        _days_in_words({r.started[:10] for r in results}),
        f"commit {_joined(_commit_in_words(r) for r in results)}",
        f"{_time_in_words(sum(r.duration_s for r in results))} in all",
    ]
    missing = sum(not r.complete for r in results)
    if missing:
        parts.append(f"incomplete ({missing} of {len(results)} runs unfinished)")
    return "; ".join(parts) + "."


def _joined(texts: Iterable[str]) -> str:
    """Different texts in the order of their first appearance, joined by "and"."""
    return " and ".join(dict.fromkeys(texts))


def _data_in_words(result: Result) -> str:
    kind = {"train": "training", "test": "test"}[result.data.split]
    return f"{result.data.source}, {result.data.samples:,} {kind} images"


def _commit_in_words(result: Result) -> str:
    return "not recorded" if result.commit is None else result.commit[:7]


def _seeds_in_words(seeds: set[int]) -> str:
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    if last - first == len(seeds) - 1:
        return f"seeds {first}-{last}"
    return f"seeds {', '.join(map(str, sorted(seeds)))}"


def _days_in_words(days: set[str]) -> str:
    return " to ".join(dict.fromkeys((min(days), max(days))))


def _time_in_words(seconds: float) -> str:
    if seconds < 99:
        return f"{seconds:.1f} seconds"
    if seconds < 5999:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
