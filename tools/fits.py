"""Fits of the perturbed model and of its rivals to all stored steps: writes book/results/fits.

    python -m tools.fits            fit all steps, some minutes, and write the file
    python -m tools.fits --jobs 2   the same in two processes
    python -m tools.fits --missing  fit those steps only that the file does not have yet

A step leads from one probe point of a network to the next. The chapter on prediction reads the
file, and a test fits a sample of the steps again.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nclib import (
    ClassStatistics,
    Fit,
    Model,
    Prediction,
    Solution,
    baselines,
    compare,
    contracted,
    fit,
    load_statistics,
    minimize,
)
from nclib.measured.files import write_atomic
from nclib.networks.experiments.machine import processor, versions

RESULTS = Path(__file__).resolve().parents[1] / "book/results"
STATISTICS = RESULTS / "statistics/reduced"
STORED = RESULTS / "fits/reduced/steps.json"
FITTED = ("nc1_trace", "nc1", "gram")
LAYERS = tuple(f"layer {i}" for i in range(1, 7))
BLOCKS = ("stem", *(f"block {i}" for i in range(1, 9)))
POINTS = {
    "mlp-mnist": LAYERS,
    "mlp-cifar10": LAYERS,
    "resnet18-mnist": BLOCKS,
    "resnet18-cifar10": BLOCKS,
}
PROJECTIONS = ("block 3", "block 5", "block 7")  # where the number of channels doubles
PREDICTIONS = (
    "unchanged",
    "one contraction",
    "two contractions",
    "contraction and frame",
    "three numbers",
    "the model",
)
RIVALS = {
    1: ("one contraction",),
    2: ("two contractions", "contraction and frame"),
    3: ("three numbers",),
}
DIGITS = 8  # significant digits that are stored


class Step(NamedTuple):
    """Two consecutive probe points of a network."""

    network: str
    seed: int
    earlier: str
    later: str

    @property
    def kind(self) -> str:
        """What leads from one point to the other: a layer, or a block with this shortcut."""
        if self.network.startswith("mlp"):
            return "layer"
        return "projection" if self.later in PROJECTIONS else "identity"

    @property
    def before(self) -> "Step | None":
        """The step before this one in the same network."""
        points = POINTS[self.network]
        i = points.index(self.earlier)
        return Step(self.network, self.seed, points[i - 1], self.earlier) if i else None

    def load(self) -> tuple[ClassStatistics, ClassStatistics]:
        """Class statistics of both points."""
        earlier = _load(self.network, self.seed, self.earlier)
        return earlier, _load(self.network, self.seed, self.later)


def stored_steps() -> list[Step]:
    """All steps of which the class statistics of both points are stored."""
    found = []
    for network, points in POINTS.items():
        seeds = sorted(
            int(path.name.split("-seed")[1].split("-")[0])
            for path in STATISTICS.glob(f"{network}-seed*-{points[0].replace(' ', '')}.npz")
        )
        for seed in seeds:
            found += [Step(network, seed, *pair) for pair in pairwise(points)]
    return found


def fingerprint() -> str:
    """16 digits of a hash of all files of class statistics that are fitted."""
    seen = sha256()
    for step in stored_steps():
        for point in (step.earlier, step.later):
            seen.update(statistics_file(step.network, step.seed, point).read_bytes())
    return seen.hexdigest()[:16]


def fitted(step: Step) -> dict[str, Any]:
    """All predictions of one step: numbers, losses and errors, as they are stored."""
    earlier, later = step.load()
    record: dict[str, Any] = {**step._asdict(), "kind": step.kind}
    if step.kind == "identity":
        record |= _movement(earlier, later)
    found = predictions(earlier, later)
    for name, prediction in found.items():
        record[name] = {
            "numbers": rounded(in_units(name, prediction, earlier)),
            "interior": prediction.interior,
            "loss": rounded(prediction.loss),
            "scale": rounded(prediction.scale),
            "errors": rounded(list(compare(prediction.statistics, later))),
        }
    model = found["the model"]
    assert isinstance(model, Fit)
    record["the model"] |= {
        "certified": model.solution.certified,
        "lambda_H over beta": rounded(model.lambda_H / model.solution.model.beta),
    }
    if not model.solution.certified:
        record["the model"]["gap"] = rounded(_gap(model.solution, earlier))
    return record


def predictions(earlier: ClassStatistics, later: ClassStatistics) -> dict[str, Prediction]:
    """Everything that is fitted to a step, by name."""
    found = baselines(earlier, later, FITTED)
    return {**found, "the model": fit(earlier, later, FITTED)}


def in_units(name: str, prediction: Prediction, earlier: ClassStatistics) -> list[float]:
    """The numbers of a prediction, lambda_W of the model in the unit of the earlier layer."""
    numbers = list(prediction.parameters)
    if name == "the model":
        numbers[0] /= unit(earlier)
    return numbers


def carried(
    earlier: ClassStatistics, later: ClassStatistics, numbers: dict[str, list[float]]
) -> dict[str, float]:
    """Losses at a step with numbers that were fitted elsewhere, in units of the earlier layer."""
    lambda_W, p = numbers["the model"]
    lambda_W *= unit(earlier)
    one = numbers["one contraction"]
    two = numbers["two contractions"]
    both = numbers["contraction and frame"]
    three = numbers["three numbers"]
    layers = {
        "unchanged": earlier,
        "one contraction": contracted(earlier, one[0], one[0], 1.0),
        "two contractions": contracted(earlier, two[0], two[1], 1.0),
        "contraction and frame": contracted(earlier, both[0], both[0], both[1]),
        "three numbers": contracted(earlier, three[0], three[1], three[2]),
        "the model": minimize(Model(lambda_W, 0.0, p / lambda_W), earlier).statistics,
    }
    return {name: rounded(loss(layer, later)) for name, layer in layers.items()}


def loss(predicted: ClassStatistics, later: ClassStatistics) -> float:
    """Root of the sum of squared errors of the fitted quantities."""
    errors = compare(predicted, later)
    return float(np.linalg.norm([getattr(errors, name) for name in FITTED]))


def unit(stats: ClassStatistics) -> float:
    """Mean squared singular value of the centered means, the unit of lambda_W."""
    return float(np.sum(stats.centered_means**2) / (stats.K - 1))


def rounded(value: Any) -> Any:
    """A number, or a list of numbers, to the digits that are stored."""
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}")


def everything(jobs: int, known: dict[Step, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of all stored steps; those that are known already are not fitted again."""
    missing = [step for step in stored_steps() if step not in known]
    with ProcessPoolExecutor(jobs) as pool:
        found = dict(zip(missing, pool.map(fitted, missing), strict=True))
    of_step = {step: {**(found | known)[step]} for step in stored_steps()}
    for step, record in of_step.items():
        layers = step.load()
        if step.before is not None:
            record["carried"] = carried(*layers, numbers_of(of_step[step.before]))
        record["other seeds"] = [
            carried(*layers, numbers_of(other))
            for same, other in of_step.items()
            if same != step and same._replace(seed=step.seed) == step
        ]
    return list(of_step.values())


def known_steps(head: dict[str, Any]) -> dict[Step, dict[str, Any]]:
    """The records in the file, by step.

    Args:
        head: What computes now; the file must have been made in the same way.

    Raises:
        ValueError: It was not.
    """
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    for key in ("fitted", "processor", "versions"):
        if stored[key] != head[key]:
            raise ValueError(f"{key} must be {stored[key]} as in the file, but it is {head[key]}.")
    return {Step(*(record[field] for field in Step._fields)): record for record in stored["steps"]}


def numbers_of(record: dict[str, Any]) -> dict[str, list[float]]:
    """The fitted numbers of all predictions of a step."""
    return {name: record[name]["numbers"] for name in PREDICTIONS}


def statistics_file(network: str, seed: int, point: str) -> Path:
    """Where the class statistics of a probe point are stored."""
    return STATISTICS / f"{network}-seed{seed}-{point.replace(' ', '')}.npz"


def _load(network: str, seed: int, point: str) -> ClassStatistics:
    return load_statistics(statistics_file(network, seed, point)).statistics


def _gap(solution: Solution, earlier: ClassStatistics) -> float:
    """By what share of its value the objective could be lower at most."""
    bounded = minimize(solution.model, earlier, start=solution.weights, bound="padded")
    assert bounded.lower_bound is not None
    return float(1 - bounded.lower_bound / bounded.objective)


def _movement(earlier: ClassStatistics, later: ClassStatistics) -> dict[str, float]:
    """How far the centered means move, and the cosine between them before and after."""
    M = earlier.centered_means
    N = later.centered_means
    size = np.linalg.norm(M)
    cosine = np.sum(M * N) / (size * np.linalg.norm(N))
    return {"moved": rounded(np.linalg.norm(N - M) / size), "cosine": rounded(cosine)}


def main() -> None:
    """Fit all steps and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--missing", action="store_true", help="keep what is fitted already")
    options = parser.parse_args()
    known = {name: getattr(versions(), name) for name in ("nclib", "numpy", "python")}
    head = {
        "program": "python -m tools.fits",
        "fitted": list(FITTED),
        "statistics": fingerprint(),
        "processor": processor(),
        "versions": known,
    }
    records = everything(options.jobs, known_steps(head) if options.missing else {})
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(record)}" for record in records)
    lines.append(f'  "steps": [\n{rows}\n  ]')
    write_atomic(STORED, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    print(f"{STORED.relative_to(RESULTS.parents[1])}: {len(records)} steps written")


if __name__ == "__main__":
    main()
