"""One residual block under the pull of the perturbed model, from narrow to wide.

    python -m nclib.networks.experiments.wide run --scale reduced --out book/results
    python -m nclib.networks.experiments.wide verdict --scale reduced --out book/results

The plan, with its criteria, is in book/results/PLAN.md ("From the model to a network"). What is
minimized is the model's own objective (Eq. 2), but only over features that a block can make.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from scipy import optimize

from nclib.foundations.metrics import nc1, nc1_trace
from nclib.foundations.minimize import minimize
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.networks.experiments import sweep
from nclib.networks.experiments.components import components
from nclib.networks.experiments.machine import this_part
from nclib.networks.residual import ResidualBlock

LAMBDA_W = LAMBDA_H = 0.01
PULLS = (0.1, 1.0, 10.0)
NEAR = 0.01  # relative difference of NC1~ from the exact minimizer's that counts as reaching it
STILL = 1e-5  # gradient, relative to that at the start, at which a block rests


@dataclass(frozen=True)
class Case:
    """One block.

    Attributes:
        data: "digits" or "mnist".
        beta: The pull.
        width: Hidden units of the block.
        seed: Seed of its initial weights.
        per_class: Images of each class.
        dimension: Principal components that are kept.
        iterations: Bound on the steps of L-BFGS.
    """

    data: str
    beta: float
    width: int
    seed: int
    per_class: int
    dimension: int
    iterations: int

    @property
    def name(self) -> str:
        """Its name as a file."""
        return f"{self.data}-{self.beta:g}-{self.width}-{self.seed}"

    @property
    def model(self) -> Model:
        """The perturbed model whose objective is minimized."""
        return Model(LAMBDA_W, LAMBDA_H, self.beta)


def cases(scale: str) -> Iterator[Case]:
    """All blocks of a scale, seed by seed."""
    widths = {"smoke": (1, 4), "reduced": (8, 32, 128, 512), "full": (8, 32, 128, 512, 2048)}
    sizes = {"smoke": (5, 6, 300), "reduced": (50, 40, 2000), "full": (100, 40, 5000)}
    for seed in range({"smoke": 1, "reduced": 3, "full": 5}[scale]):
        for data in ("digits",) if scale == "smoke" else ("digits", "mnist"):
            for beta in PULLS:
                for width in widths[scale]:
                    yield Case(data, beta, width, seed, *sizes[scale])


def carry_out(case: Case) -> sweep.Record:
    """Train one block by L-BFGS, and compare it with the exact minimizer."""
    torch.set_num_threads(1)
    begun, part = time.monotonic(), this_part(torch.device("cpu"))
    values, labels, source = components(case.data, case.per_class, case.dimension)
    inputs = values / case.dimension**0.5
    before = ClassStatistics.from_features(inputs, labels)
    exact = minimize(case.model, before)
    features, run = _train(case, inputs, labels)
    after = ClassStatistics.from_features(features, labels)
    change, wanted = features - inputs, exact.features(inputs, labels) - inputs
    return {
        "case": asdict(case),
        "data": source,
        "part": msgspec.to_builtins(part),
        "input": _metrics(before),
        "exact": {"objective": exact.objective, "status": exact.status.name}
        | _metrics(exact.statistics),
        "block": run | _metrics(after),
        "error": float(np.linalg.norm(change - wanted) / np.linalg.norm(wanted)),
        "duration_s": round(time.monotonic() - begun, 1),
    }


def _metrics(stats: ClassStatistics) -> dict[str, float]:
    return {"nc1": nc1(stats), "nc1_trace": nc1_trace(stats)}


def _train(case: Case, inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Features that the trained block makes, and how far the training came.

    The last layer is eliminated: at its best weights the gradient in the features is that of the
    objective without it.
    """
    block = ResidualBlock(case.dimension, case.width, smoothing=0.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(case.seed)
    for weight, size in ((block.inner.weight, 1.0), (block.outer.weight, 0.1)):
        draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            weight.copy_(size / weight.shape[1] ** 0.5 * draw)
    parameters = list(block.parameters())
    x = torch.as_tensor(inputs)
    model = case.model

    def features(theta: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.as_tensor(theta), parameters)
        return block(x)

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        made = features(theta)
        H = made.detach().numpy()
        W = model.optimal_weights(ClassStatistics.from_features(H, labels))
        slope = torch.as_tensor(model.gradient(W, H, labels, inputs).features)
        slopes = torch.autograd.grad(made, parameters, slope)
        gradient = torch.cat([s.flatten() for s in slopes]).numpy()
        return model.objective(W, H, labels, inputs), gradient

    theta = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
    first = np.linalg.norm(function(theta)[1])
    options: dict[str, Any] = {"maxcor": 30, "maxiter": case.iterations, "ftol": 0.0}
    options |= {"maxfun": 2 * case.iterations, "gtol": STILL * first / theta.size**0.5}
    run = optimize.minimize(function, theta, jac=True, method="L-BFGS-B", options=options)
    value, gradient = function(run.x)
    found = {
        "objective": value,
        "gradient": float(np.linalg.norm(gradient) / first),
        "iterations": int(run.nit),
    }
    return features(run.x).detach().numpy(), found


# ---- the verdict --------------------------------------------------------------------------------


def excess(record: sweep.Record) -> float:
    """How far the block's objective is above the exact minimum, relative to it."""
    least = record["exact"]["objective"]
    return (record["block"]["objective"] - least) / least


def distance(record: sweep.Record) -> float:
    """Relative difference of the block's NC1~ from that of the exact minimizer."""
    return abs(record["block"]["nc1_trace"] / record["exact"]["nc1_trace"] - 1)


def medians(records: Sequence[sweep.Record]) -> dict[tuple[str, float], dict[int, float]]:
    """Median over the seeds of the excess: by data and pull, then by width."""
    found: dict[tuple[str, float], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        case = Case(**record["case"])
        found[case.data, case.beta][case.width].append(excess(record))
    return {
        key: {width: float(np.median(by_width[width])) for width in sorted(by_width)}
        for key, by_width in found.items()
    }


def verdict(records: Sequence[sweep.Record], width: int = 512) -> dict[str, tuple[int, int]]:
    """How often each criterion of the plan is fulfilled, and how often it was asked.

    Args:
        records: What ``carry_out`` returned.
        width: The width of W2.

    Examples:
        >>> verdict([])
        {'W1': (0, 0), 'W2': (0, 0)}
    """
    falls = [
        bool(np.all(np.diff(list(by_width.values())) < 0)) for by_width in medians(records).values()
    ]
    near = [distance(r) < NEAR for r in records if r["case"]["width"] == width]
    return {"W1": (sum(falls), len(falls)), "W2": (sum(near), len(near))}


def sentences(records: Sequence[sweep.Record]) -> Iterator[str]:
    """What the command prints of the blocks at hand."""
    moving = sum(record["block"]["gradient"] > STILL for record in records)
    yield f"{moving} stopped at their last step with a relative gradient above {STILL:g}"
    for name, (yes, count) in verdict(records).items():
        yield f"{name}: {yes} of {count}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 3 if time was up first."""
    return sweep.main("wide", arguments, cases=cases, carry_out=carry_out, sentences=sentences)


if __name__ == "__main__":
    sys.exit(main())
