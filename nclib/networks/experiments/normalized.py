"""Residual perceptrons with batch normalization and cross-entropy, by SGD and at rest.

    python -m nclib.networks.experiments.normalized run --scale reduced --out book/results
    python -m nclib.networks.experiments.normalized verdict --scale reduced --out book/results

The plan, with its criteria, is in book/results/PLAN.md. Each network is one file, and the same
command goes on with those that are missing.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nclib.networks.balance import settle
from nclib.networks.experiments import horizons, sweep
from nclib.networks.experiments.components import components
from nclib.networks.experiments.machine import this_part
from nclib.networks.experiments.rest import SMOOTHING
from nclib.networks.residual import NORMALIZATIONS, ResidualMLP
from nclib.networks.samples import Samples

LOSS = "cross-entropy"
DEAD = 0.001  # a loss that is lower than that of zero scores by less
SCALES = ("smoke", "reduced")


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        normalization: Of its blocks, "none", "inside" or "end".
        depth: Number of blocks.
        decay: The decay w of all weights.
        seed: Seed of the initial weights and of the order of samples.
        per_class: Digits of each class.
        dimension: Principal components that are kept.
        end: Horizon of SGD.
        iterations: Bound on the steps of L-BFGS.
    """

    normalization: str
    depth: int
    decay: float
    seed: int
    per_class: int
    dimension: int
    end: float
    iterations: int

    @property
    def name(self) -> str:
        """Its name as a file."""
        return f"digits-{self.normalization}-{self.depth}-{self.decay:g}-{self.seed}"


def cases(scale: str) -> Iterator[Case]:
    """All networks of a scale, seed by seed."""
    if scale == "smoke":
        sizes: tuple = (2, (4e-3,), (0,), (8, 6, 0.5, 100))
    else:
        sizes = (4, (1e-3, 3e-3), (10, 11, 12), (20, 32, 6.0, 2000))
    depth, decays, seeds, others = sizes
    for seed in seeds:
        for decay in decays:
            for normalization in NORMALIZATIONS:
                yield Case(normalization, depth, decay, seed, *others)


def carry_out(case: Case) -> dict[str, Any]:
    """Train one network by SGD, bring it to rest, and measure it."""
    torch.set_num_threads(1)
    begun, part = time.monotonic(), this_part(torch.device("cpu"))
    x, labels, source = components("digits", case.per_class, case.dimension)
    samples = Samples(x, labels, dtype=torch.float64)
    network = ResidualMLP(
        case.dimension,
        samples.K,
        case.depth,
        smoothing=SMOOTHING,
        normalization=case.normalization,
        seed=case.seed,
    )
    record = horizons.head(case, part, source, x, labels)

    def look() -> dict[str, Any]:
        return horizons.state(network, samples, case.decay, LOSS)

    decays = (case.decay, case.decay)
    record["step"], record["training"] = horizons.train(
        network, samples, decays, end=case.end, seed=case.seed, look=look, loss=LOSS
    )
    end = settle(
        network,
        samples,
        case.decay,
        loss=LOSS,
        free=network.without_length,
        tolerance=1e-6,
        max_iterations=case.iterations,
    )
    record["rest"] = {**end._asdict(), **look()}
    record["duration_s"] = round(time.monotonic() - begun, 1)
    return record


# ---- the verdict --------------------------------------------------------------------------------


def verdict(records: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """How often each criterion of the plan is fulfilled, and how often it was asked.

    Args:
        records: What ``carry_out`` returned.

    Examples:
        >>> verdict([])["N1"]
        (0, 0)
    """
    asked: dict[str, list[bool]] = {f"N{i}": [] for i in range(1, 5)}
    for record in records:
        kind, rest = record["case"]["normalization"], record["rest"]
        if kind == "none":
            continue
        asked["N1" if kind == "inside" else "N2"].append(_holds(rest, 0.99))
        asked["N3"].append(_holds(record["training"][-1], 0.9))
        if not dead(record):
            asked["N4"].append(falls(record))
    return {name: (sum(answers), len(answers)) for name, answers in asked.items()}


def _holds(state: dict[str, Any], least: float) -> bool:
    """Whether some block is alive, and the cosine of the law exceeds a bound at all that are."""
    blocks = state["blocks"]
    return any(block["live"] for block in blocks) and horizons.lawful(blocks, least)


def falls(record: dict[str, Any]) -> bool:
    """Whether NC1~ of the last features at rest is below that of the inputs."""
    return bool(record["rest"]["nc1_trace"] < record["input"]["nc1_trace"])


def dead(record: dict[str, Any]) -> bool:
    """Whether a network at rest scores all samples nearly zero, so that its NC1 means nothing."""
    return bool(record["rest"]["loss"] > np.log(10) - DEAD)


# ---- the command --------------------------------------------------------------------------------


def sentences(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the command prints of the networks at hand."""
    yield from horizons.ends(records, dead)
    control = [r for r in records if r["case"]["normalization"] == "none"]
    fallen = sum(falls(r) for r in control if not dead(r))
    yield f"without normalization NC1~ falls in {fallen} of {len(control)}"
    for name, (yes, count) in verdict(records).items():
        yield f"{name}: {yes} of {count}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 3 if time was up first."""
    return sweep.main(
        "normalized",
        arguments,
        cases=cases,
        carry_out=carry_out,
        sentences=sentences,
        scales=SCALES,
    )


if __name__ == "__main__":
    sys.exit(main())
