"""Held-out samples: model and rivals fitted on one half of them and judged on the other.

    ONEDNN_MAX_CPU_ISA=AVX2 python -m tools.held_out run --scale reduced --out book/results
    python -m tools.held_out verdict --scale reduced --out book/results

With "train" in the place of "run" the networks are trained and measured only: their records have no
steps yet. "run" goes on with these, from checkpoints where these are still there.

The plan, with its criteria, is in book/results/PLAN.md ("Prediction by the model"). The networks
of E3 are trained again, because what is stored of them are statistics of all samples.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from nclib import ClassStatistics, compare, load_statistics
from nclib.measured.files import file_name, save_statistics, write_record
from nclib.measured.records import Result
from nclib.networks.data.load import load
from nclib.networks.experiments import sweep
from nclib.networks.experiments.checkpoints import load_checkpoint, save_checkpoint
from nclib.networks.experiments.machine import this_part
from nclib.networks.experiments.runner import build, metrics
from nclib.networks.experiments.settings import Run, runs
from nclib.networks.hooks import own_points
from nclib.networks.probes import probe
from nclib.networks.samples import Samples
from nclib.networks.training import Trainer
from tools import fits

EXPERIMENT = "held-out"
SCALES = ("smoke", "reduced")
ARRAYS = ("counts", "means", "within", "low")
WITHIN = 1.1  # how much larger than the loss in sample that out of sample may be
Layers = dict[str, ClassStatistics]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        network: Its name among the runs of E3.
        scale: "smoke" or "reduced".
        seed: Seed of its initial weights and of the order of samples.
    """

    network: str
    scale: str
    seed: int

    @property
    def name(self) -> str:
        """Its name as a file."""
        return f"{self.network}-seed{self.seed}"

    @property
    def settings(self) -> Run:
        """How it is trained."""
        return runs("end-to-end", self.scale, self.seed, self.network)[0]


def cases(scale: str) -> Iterator[Case]:
    """All networks of a scale; first those of which no statistics are stored."""
    if scale == "smoke":
        yield from (Case(network, scale, 0) for network in ("mlp-digits", "resnet18-digits"))
        return
    for seeds, kind in (((1, 2), "resnet18"), ((0,), "resnet18"), ((0, 1, 2), "mlp")):
        for data in ("mnist", "cifar10"):
            yield from (Case(f"{kind}-{data}", scale, seed) for seed in seeds)


class Trained(NamedTuple):
    """A network after its training.

    Attributes:
        network: The network.
        samples: The samples it was trained on.
        source: Where these come from.
    """

    network: nn.Module
    samples: Samples
    source: dict[str, Any]


def trained(settings: Run) -> Trained:
    """The network of a run, trained as the program of E3 does but not measured on the way."""
    torch.set_num_threads(1)
    assert settings.per_class is not None
    data = load(settings.dataset).subset(settings.per_class, seed=0)
    seed = 1000 * settings.seed
    network = build(settings, data.images, data.K, seed)
    samples = Samples(data.images, data.labels)
    trainer = Trainer(network, samples, settings.recipe, seed=seed)
    for _ in range(settings.recipe.epochs):
        trainer.run_epoch()
    source = {"source": data.source, "fingerprint": data.fingerprint, "samples": data.N}
    return Trained(network, samples, source)


def halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each class every second sample in the order of the data, from the first; and the rest."""
    turn = np.empty(len(labels), int)
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        turn[members] = np.arange(len(members)) % 2
    return np.flatnonzero(turn == 0), np.flatnonzero(turn == 1)


def measured(network: nn.Module, samples: Samples, index: np.ndarray) -> Layers:
    """Class statistics of all probe points over some of the samples."""
    batches = [
        (samples.inputs(part), samples.labels[part]) for part in torch.as_tensor(index).split(100)
    ]
    points = own_points(network)
    return probe(network, batches, points, num_classes=samples.K, keep_scores=False).statistics


def checkpoint(out: Path, case: Case) -> Path:
    """The file that keeps what is measured of a network until model and rivals are fitted."""
    return _record_path(out, case).with_suffix(".pt")


def _record_path(out: Path, case: Case) -> Path:
    return sweep.path_of(out, EXPERIMENT, case.scale, case)


def train(out: Path, case: Case) -> dict[str, Any]:
    """Train one network and measure it; or read what was measured, if that was done before.

    Returns:
        The record so far under "record"; under "whole", "one" and "two" the class statistics of all
        samples and of both halves, as tensors.
    """
    path, keys = checkpoint(out, case), {"record", "whole", "one", "two"}
    if path.exists():
        content = load_checkpoint(path, keys)
    else:
        content = _measured_anew(case)
        save_checkpoint(path, content)
    if not _record_path(out, case).exists():
        write_record(_record_path(out, case), {**content["record"], "steps": []})
    return content


def _measured_anew(case: Case) -> dict[str, Any]:
    begun, part = time.monotonic(), this_part(torch.device("cpu"))
    network, samples, source = trained(case.settings)
    whole = probe(network, samples, own_points(network))
    scores, labels = whole.scores, whole.labels
    assert scores is not None
    one, two = (measured(network, samples, i) for i in halves(samples.labels.numpy()))
    record: dict[str, Any] = {
        "case": asdict(case),
        "data": source,
        "part": msgspec.to_builtins(part),
        "loss": case.settings.recipe.mean_loss(scores, labels).item(),
        "error": (scores.argmax(1) != labels).double().mean().item(),
        "points": [_metrics(name, stats) for name, stats in whole.statistics.items()],
        "differs": _differences(case, whole.statistics),
    }
    _keep(case, whole.statistics, record)
    record["duration_s"] = round(time.monotonic() - begun, 1)
    layers = {"whole": whole.statistics, "one": one, "two": two}
    return {"record": record, **{name: _tensors(found) for name, found in layers.items()}}


def carry_out(out: Path, case: Case) -> sweep.Record:
    """Train one network, and fit model and rivals to all its steps on each half of the samples."""
    content = train(out, case)
    begun = time.monotonic()
    record, whole = content["record"], content["whole"]
    parts = [_statistics(content[name]) for name in ("one", "two")]
    steps = [_judged(case, pair, parts) for pair in pairwise(whole)]
    seconds = record.pop("duration_s") + time.monotonic() - begun
    return {**record, "steps": steps, "duration_s": round(seconds, 1)}


def _tensors(layers: Layers) -> dict[str, dict[str, Any]]:
    """Class statistics in the types that a checkpoint may hold."""
    return {
        point: {
            **{name: torch.tensor(getattr(stats, name)) for name in ARRAYS},
            "resolution": stats.resolution,
        }
        for point, stats in layers.items()
    }


def _statistics(tensors: dict[str, dict[str, Any]]) -> Layers:
    """Class statistics from a checkpoint."""
    return {
        point: ClassStatistics(
            **{name: entry[name].numpy() for name in ARRAYS}, resolution=entry["resolution"]
        )
        for point, entry in tensors.items()
    }


def _metrics(name: str, stats: ClassStatistics) -> dict[str, Any]:
    """A row of the table of layers: metrics and traces at a probe point over all samples."""
    found = metrics(stats)
    traces = {
        "trace_within": float(np.trace(stats.within)),
        "trace_between": np.trace(stats.between),
    }
    return {
        "point": name,
        "nc1": found["nc1"],
        "nc1_trace": found["nc1_trace"],
        **{key: float(value) for key, value in traces.items()},
    }


def _judged(case: Case, pair: tuple[str, str], parts: Sequence[Layers]) -> dict[str, Any]:
    """One step: numbers fitted on each half, and losses with them in sample and out of sample.

    Under "apart" are the errors of the one half's later layer, taken for the other's. Under "rest
    apart" is the second of them, the logarithm of the ratio of NC1, without the weakest axes.
    """
    step = fits.Step(case.network, case.seed, *pair)
    record: dict[str, Any] = {"earlier": step.earlier, "later": step.later, "kind": step.kind}
    record["apart"] = fits.rounded(list(compare(*(half[step.later] for half in parts))))
    rest = [without_weakest(half[step.later]) for half in parts]
    record["rest apart"] = fits.rounded(float(np.log(rest[0] / rest[1])))
    record["halves"] = []
    for own, other in (parts, parts[::-1]):
        earlier, later = own[step.earlier], own[step.later]
        predictions = fits.predictions(earlier, later)
        numbers = {name: fits.in_units(name, p, earlier) for name, p in predictions.items()}
        outside = fits.carried(other[step.earlier], other[step.later], numbers)
        record["halves"].append(
            {
                name: {
                    "numbers": fits.rounded(numbers[name]),
                    "interior": found.interior,
                    "in": fits.rounded(found.loss),
                    "out": outside[name],
                }
                for name, found in predictions.items()
            }
        )
    return record


def without_weakest(stats: ClassStatistics) -> float:
    """What NC1 is without the principal axis along which the class means vary least."""
    values, axes = np.linalg.eigh(stats.between)
    first = max(0, stats.d - stats.K + 1) + 1  # there are no more than K - 1 axes, and than d
    values, axes = values[first:], axes[:, first:]
    along = np.einsum("di,de,ei->i", axes, stats.within, axes)
    return float(np.sum(along / values) / stats.K)


# ---- what is stored of the network of the same name ----------------------------------------------


def _path(case: Case, point: str) -> Path:
    return fits.statistics_file(case.network, case.seed, point)


def _differences(case: Case, found: Layers) -> dict[str, float | None]:
    """How far this network is from the one whose statistics and results are stored, at most.

    Relative to the stored ones; None where there are none.
    """
    differs: dict[str, float | None] = {"statistics": None, "nc1_trace": None}
    if case.scale != fits.STATISTICS.name:
        return differs
    pairs = [
        (stats, load_statistics(_path(case, point)).statistics)
        for point, stats in found.items()
        if _path(case, point).exists() and "run" not in load_statistics(_path(case, point)).note
    ]
    if pairs:
        differs["statistics"] = fits.rounded(max(_apart(*pair) for pair in pairs))
    path = fits.RESULTS / "end-to-end" / case.scale / file_name(case.network, case.seed)
    if path.exists():
        last = Result.load(path).probes(epoch=-1)["nc1_trace"]
        ours = np.array([metrics(stats)["nc1_trace"] for stats in found.values()], float)
        differs["nc1_trace"] = fits.rounded(float(np.abs(ours / last - 1).max()))
    return differs


def _apart(ours: ClassStatistics, theirs: ClassStatistics) -> float:
    pairs = ((ours.means, theirs.means), (ours.within, theirs.within))
    return max(float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in pairs)


def _keep(case: Case, found: Layers, record: dict[str, Any]) -> None:
    """Write the statistics of all samples, with a note that names this run.

    Only where none are stored, or those of an earlier run of this program.
    """
    if case.scale != fits.STATISTICS.name:
        return
    part = record["part"]
    for point, stats in found.items():
        path = _path(case, point)
        if not path.exists() or "run" in load_statistics(path).note:
            note = {
                "network": case.network,
                "layer": point,
                "data": record["data"]["source"],
                "seed": case.seed,
                "epoch": case.settings.recipe.epochs,
                "run": f"held-out/{case.scale}/{case.name}.json",
                "started": part["started"],
                "commit": part["commit"] or "unknown",
                "processor": part["processor"],
                "instructions": part["instructions"],
            }
            save_statistics(path, stats, note)


# ---- the verdict --------------------------------------------------------------------------------


class Loss(NamedTuple):
    """Losses of a step, means over both halves.

    Attributes:
        inside: In sample.
        outside: Out of sample.
    """

    inside: float
    outside: float


def of_model(step: dict[str, Any]) -> Loss:
    """Losses of the model."""
    return of_best(step, ("the model",))


def of_best(step: dict[str, Any], names: Sequence[str]) -> Loss:
    """Losses of the best of some predictions, which on each half is chosen in sample."""
    best = [min((half[name] for name in names), key=lambda e: e["in"]) for half in step["halves"]]
    return Loss(*(float(np.mean([entry[key] for entry in best])) for key in ("in", "out")))


def word(mine: float, best: float) -> str:
    """What the plan calls a step with these losses of the model and of the best rival."""
    if mine < 0.9 * best:
        return "better"
    return "worse" if 0.9 * mine > best else "neither"


def verdict(steps: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """How often F1 and F2 of the plan are fulfilled, and how often they were asked.

    Args:
        steps: Entries "steps" of what `carry_out` returned.
    """
    asked: dict[str, list[bool]] = {"F1": [], "F2": []}
    for step in steps:
        mine, best = of_model(step), of_best(step, fits.RIVALS[2])
        asked["F1"].append(mine.outside <= WITHIN * mine.inside)
        asked["F2"].append(word(mine.inside, best.inside) == word(mine.outside, best.outside))
    return {name: (sum(answers), len(answers)) for name, answers in asked.items()}


def sentences(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the command prints of the networks at hand."""
    for record in records:
        yield f"{Case(**record['case']).name}: error {record['error']:.4f}, {record['differs']}"
    steps = [step for record in records for step in record["steps"]]
    for name, (yes, count) in verdict(steps).items():
        yield f"{name}: {yes} of {count}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 3 if time was up first."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--scale", choices=SCALES, default="smoke")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options, _ = parser.parse_known_args(arguments)
    if "train" in arguments:
        for case in cases(options.scale):
            if not _record_path(options.out, case).exists():
                train(options.out, case)
                print(f"{case.name}: trained", flush=True)
        return 0
    if "run" in arguments:
        for record in sweep.stored(options.out, EXPERIMENT, options.scale, cases(options.scale)):
            if not record["steps"]:
                _record_path(options.out, Case(**record["case"])).unlink()
    return sweep.main(
        EXPERIMENT,
        arguments,
        cases=cases,
        carry_out=partial(carry_out, options.out),
        sentences=sentences,
        scales=SCALES,
        program="tools.held_out",
    )


if __name__ == "__main__":
    sys.exit(main())
