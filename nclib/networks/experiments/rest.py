"""Residual and plain perceptrons brought to rest: the experiment on shared weights.

    python -m nclib.networks.experiments.rest run --scale full --out book/results
    python -m nclib.networks.experiments.rest verdict --scale full --out book/results

The scale "mnist" is the reduced one on MNIST instead of the digits, with criteria of its own
besides, "mnist-longer" its residual baselines with four times as many steps of L-BFGS, and
"mnist-seeds" eight more seeds of some of these. The plan, with all criteria, is in
book/results/PLAN.md. A network takes a minute or two at full scale; each is one file, and the same
command goes on with those that are missing.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import optimize

from nclib.beyond import kernel, shared
from nclib.foundations.metrics import nc1
from nclib.foundations.minimize import minimize
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.networks.balance import settle
from nclib.networks.experiments import horizons, sweep
from nclib.networks.experiments.components import components
from nclib.networks.experiments.machine import this_part
from nclib.networks.residual import ResidualMLP
from nclib.networks.samples import Samples

SMOOTHING = 0.05
DEAD = 0.499  # a loss above it: scores of zero have the loss 1/2


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        data: "digits" or "mnist".
        skip: Whether it is residual.
        depth: Number of blocks.
        decay: The decay w of all weights in the baseline.
        variant: "baseline", "features-double", "last-double" or "last-power", where the decay of
            the last layer is multiplied by two to the power of the depth.
        seed: Seed of the initial weights and of the order of samples.
        per_class: Images of each class.
        dimension: Principal components that are kept.
        end: Horizon of SGD.
        iterations: Bound on the steps of L-BFGS.
    """

    data: str
    skip: bool
    depth: int
    decay: float
    variant: str
    seed: int
    per_class: int
    dimension: int
    end: float
    iterations: int

    @property
    def name(self) -> str:
        """Its name as a file."""
        kind = "residual" if self.skip else "plain"
        return f"{self.data}-{kind}-{self.depth}-{self.decay:g}-{self.variant}-{self.seed}"

    @property
    def decays(self) -> tuple[float, float]:
        """Decay of the features' weights and of the last layer."""
        features, last = {
            "baseline": (1, 1),
            "features-double": (2, 1),
            "last-double": (1, 2),
            "last-power": (1, 2**self.depth),
        }[self.variant]
        return features * self.decay, last * self.decay


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment; the first decay is that of the variants."""

    seeds: tuple[int, ...]
    depths: tuple[int, ...]
    decays: tuple[float, ...]
    per_class: dict[str, int]
    dimension: int
    end: float
    iterations: int
    kinds: tuple[bool, ...] = (True, False)  # residual, plain
    variants: bool = True


SIZES = {
    "smoke": Scale((0,), (2,), (4e-3,), {"digits": 8}, 6, 0.5, 1500),
    "reduced": Scale((10, 11, 12), (4, 8), (1e-3, 3e-3), {"digits": 20}, 32, 6.0, 2000),
    "mnist": Scale((20, 21, 22), (4, 8), (1e-3, 3e-3), {"mnist": 20}, 32, 6.0, 2000),
    "mnist-longer": Scale(
        (20, 21, 22), (4, 8), (1e-3, 3e-3), {"mnist": 20}, 32, 6.0, 8000, (True,), False
    ),
    "mnist-seeds": Scale(
        tuple(range(23, 31)), (8,), (3e-3,), {"mnist": 20}, 32, 6.0, 8000, (True,), False
    ),
    "full": Scale(
        (0, 1, 2, 3, 4), (4, 8), (1e-3, 3e-4, 3e-3), {"digits": 50, "mnist": 100}, 64, 6.0, 4000
    ),
}


def cases(scale: str) -> Iterator[Case]:
    """All networks of a scale, seed by seed: every baseline, and variants of the first decay."""
    sizes = SIZES[scale]
    last = (sizes.dimension, sizes.end, sizes.iterations)
    for seed in sizes.seeds:
        for decay in sizes.decays:
            for data, count in sizes.per_class.items():
                for skip in sizes.kinds:
                    for depth in sizes.depths:
                        case = Case(data, skip, depth, decay, "baseline", seed, count, *last)
                        yield case
                        if sizes.variants and decay == sizes.decays[0]:
                            yield replace(case, variant="features-double")
                            yield replace(case, variant="last-double" if skip else "last-power")


def prepared(case: Case) -> tuple[Samples, dict[str, Any]]:
    """The samples of a case in their first principal components, and where they come from.

    They are centered, and their mean square per component is one.
    """
    x, labels, source = components(case.data, case.per_class, case.dimension)
    return Samples(x, labels, dtype=torch.float64), source


def carry_out(case: Case) -> dict[str, Any]:
    """Train one network by SGD, bring it to rest, and measure it."""
    torch.set_num_threads(1)
    begun, part = time.monotonic(), this_part(torch.device("cpu"))
    samples, source = prepared(case)
    features, last = case.decays
    network = ResidualMLP(
        case.dimension,
        samples.K,
        case.depth,
        skip=case.skip,
        smoothing=SMOOTHING,
        seed=case.seed,
    )
    inputs = samples.inputs(slice(None)).numpy()
    record = horizons.head(case, part, source, inputs, samples.labels.numpy())
    record["rates"] = _rates(case, inputs, samples)
    record["step"], record["training"] = _train(case, network, samples)
    end = settle(
        network,
        samples,
        features,
        last_weight_decay=last,
        tolerance=1e-6,
        max_iterations=case.iterations,
    )
    record["rest"] = {**end._asdict(), **horizons.state(network, samples, features)}
    if case.skip and case.variant == "baseline":
        record["last block"] = _last_block(case, network, samples)
    record["duration_s"] = round(time.monotonic() - begun, 1)
    return record


def _train(
    case: Case, network: ResidualMLP, samples: Samples
) -> tuple[float, list[dict[str, Any]]]:
    """SGD to the horizon; the step it took, and what the network is like along the way."""

    def look() -> dict[str, Any]:
        return horizons.state(network, samples, case.decays[0])

    return horizons.train(network, samples, case.decays, end=case.end, seed=case.seed, look=look)


def _rates(case: Case, inputs: np.ndarray, samples: Samples) -> dict[str, float]:
    """What the arc-cosine kernel of the inputs says of the spread, before training."""
    lambda_W = samples.K * case.decays[1]
    strength = kernel.relu(inputs, case.decays[0])
    rates = kernel.spread_rates(lambda_W, strength, inputs, samples.labels.numpy())
    return rates._asdict()


# ---- the last block, and its rivals -------------------------------------------------------------


def _last_block(case: Case, network: ResidualMLP, samples: Samples) -> dict[str, Any]:
    """The last block predicted from its input and the decay, and rivals with fitted numbers."""
    features, last = case.decays
    with torch.no_grad():
        x = samples.inputs(slice(None))
        before = (network.hidden(x)[-2] if case.depth > 1 else x).numpy()
        after = network.hidden(x)[-1].numpy()
    labels = samples.labels.numpy()
    lambda_W = samples.K * last
    stats = ClassStatistics.from_features(before, labels)
    found = {"law": _retrained(case, before, after, labels)}

    def judged(h: np.ndarray, numbers: dict[str, float]) -> dict[str, float]:
        return {**_compared(before, after, h, labels), **numbers}

    def pulled(lambda_H: float, beta: float) -> np.ndarray:
        return minimize(Model(lambda_W, lambda_H, beta), stats).features(before, labels)

    def layer(strength: float) -> np.ndarray:
        return before @ shared.minimize(lambda_W, strength, stats).maps[0].T

    beta = _best(
        lambda t: _compared(before, after, pulled(0.0, np.exp(t)), labels)["error"], (-8, 4)
    )
    found["pull"] = judged(pulled(0.0, np.exp(beta)), {"beta": float(np.exp(beta))})
    both = optimize.minimize(
        lambda t: _compared(before, after, pulled(*np.exp(np.clip(t, -14, 6))), labels)["error"],
        np.array([-8.0, beta]),
        method="Nelder-Mead",
        options={"maxfev": 60},
    ).x
    values = np.exp(np.clip(both, -14, 6))
    found["pull and decay"] = judged(
        pulled(*values), {"lambda_H": float(values[0]), "beta": float(values[1])}
    )
    gamma = _best(
        lambda t: _compared(before, after, layer(np.exp(t)), labels)["error"],
        (np.log(features) - 6, np.log(features) + 6),
    )
    found["linear layer"] = judged(layer(np.exp(gamma)), {"lambda_B": float(np.exp(gamma))})
    return found


def _retrained(
    case: Case, before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """One block and a last layer on the frozen features, from random weights; the lowest of 3."""
    features, last = case.decays
    frozen = Samples(before, labels, dtype=torch.float64)
    lowest, best = np.inf, None
    for start in range(3):
        single = ResidualMLP(
            case.dimension, frozen.K, 1, smoothing=SMOOTHING, seed=1000 * (start + 1) + case.seed
        )
        end = settle(
            single,
            frozen,
            features,
            last_weight_decay=last,
            tolerance=1e-6,
            max_iterations=case.iterations,
        )
        if end.objective < lowest:
            lowest, best = end.objective, single
    assert best is not None
    with torch.no_grad():
        predicted = best.hidden(frozen.inputs(slice(None)))[-1].numpy()
    return {**_compared(before, after, predicted, labels), "objective": float(lowest)}


def _compared(
    before: np.ndarray, after: np.ndarray, predicted: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Relative error and cosine of the change, and NC1 of the prediction and of the truth.

    Where there is no change at all, the error is infinite and the cosine no number.
    """
    change, guess = after - before, predicted - before
    sizes = np.linalg.norm(change), max(float(np.linalg.norm(guess)), 1e-300)
    stats = [ClassStatistics.from_features(h, labels) for h in (predicted, after)]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(guess - change) / sizes[0]
        cosine = np.sum(guess * change) / (sizes[0] * sizes[1])
    return {
        "error": float(error),
        "cosine": float(cosine),
        "nc1": nc1(stats[0]),
        "true_nc1": nc1(stats[1]),
    }


def _best(function: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """Where a function of one number is least: a grid, then a bounded search around it."""
    grid = np.linspace(*bounds, 7)
    i = int(np.argmin([function(t) for t in grid]))
    around = (grid[max(i - 1, 0)], grid[min(i + 1, 6)])
    return float(
        optimize.minimize_scalar(
            function, bounds=around, method="bounded", options={"maxiter": 8}
        ).x
    )


# ---- the verdict --------------------------------------------------------------------------------


def verdict(records: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """How often each criterion of the plan is fulfilled, and how often it was asked.

    Args:
        records: What ``carry_out`` returned.

    Examples:
        >>> verdict([])["R1"]
        (0, 0)
    """
    asked: dict[str, list[bool]] = {f"R{i}": [] for i in range(1, 6)}
    by_key = {_key(r): r for r in records}
    for record in records:
        case, rest = record["case"], record["rest"]
        if case["skip"] and case["variant"] == "baseline":
            blocks = rest["blocks"]
            asked["R1"].append(horizons.lawful(blocks, 0.99))
            error = record["last block"]["law"]["error"]
            asked["R2"].append(error is not None and error < 0.05)
            grown = np.prod([b["growth_in_rows"] for b in blocks])
            asked["R3"].append(bool(np.log(grown) * record["rates"]["rows"] > 0))
        base = by_key.get(_key(record, "baseline"))
        if base is None or case["variant"] == "baseline" or dead(base):
            continue
        if case["skip"]:
            if not dead(record):
                lower = record["rest"]["nc1"] < base["rest"]["nc1"]
                asked["R4"].append(lower == (case["variant"] == "last-double"))
        elif case["variant"] == "features-double":
            other = by_key.get(_key(record, "last-power"))
            if other is not None and not (dead(record) and dead(other)):
                asked["R5"].append(_alike(base, record, other))
    return {name: (sum(answers), len(answers)) for name, answers in asked.items()}


def verdict_again(records: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """The same of R6 to R8, which were found in the digits and are asked of other data.

    Args:
        records: What ``carry_out`` returned; those of the digits are passed over.

    Examples:
        >>> verdict_again([])
        {'R6': (0, 0), 'R7': (0, 0), 'R8': (0, 0)}
    """
    asked: dict[str, list[bool]] = {f"R{i}": [] for i in range(6, 9)}
    for record in records:
        case, rest = record["case"], record["rest"]
        if case["data"] == "digits" or case["variant"] != "baseline":
            continue
        if rest["error"] == 0:
            factor = rest["nc1_trace"] / record["input"]["nc1_trace"]
            if case["skip"]:
                asked["R6"].append(bool(factor > 1))
            else:
                asked["R7"].append(bool(factor < 0.1))
        if case["skip"]:
            asked["R8"].append(all(b["growth"] <= 1.001 for b in rest["blocks"] if b["live"]))
    return {name: (sum(answers), len(answers)) for name, answers in asked.items()}


def nearer(records: Sequence[dict[str, Any]], longer: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How often R9 is fulfilled, and how often it was asked: more steps bring the law nearer.

    Args:
        records: What ``carry_out`` returned.
        longer: The same of residual baselines that took more steps.

    Raises:
        ValueError: One of these is not among the records.
    """
    before = {_key(record): record for record in records}
    missing = [_key(record) for record in longer if _key(record) not in before]
    if missing:
        raise ValueError(f"records must hold the network {missing[0]}, but do not.")
    answers = [least_cosine(r) > least_cosine(before[_key(r)]) for r in longer]
    return sum(answers), len(answers)


def least_cosine(record: dict[str, Any]) -> float:
    """Least cosine of the law over the live blocks of a residual network at rest; at most one."""
    return float(min([b["cosine"] for b in record["rest"]["blocks"] if b["live"]], default=1.0))


def dead(record: dict[str, Any]) -> bool:
    """Whether a network at rest scores all samples zero, so that its NC1 means nothing."""
    return bool(record["rest"]["loss"] > DEAD)


def _alike(base: dict[str, Any], *two: dict[str, Any]) -> bool:
    """Whether NC1 of two networks differs from the baseline's by the same factor, to a tenth."""
    if any(map(dead, two)):
        return False
    first, second = (np.log(record["rest"]["nc1"] / base["rest"]["nc1"]) for record in two)
    return bool(abs(first - second) < 0.1 * abs(first))


def _key(record: dict[str, Any], variant: str | None = None) -> str:
    case = Case(**record["case"])
    return case.name if variant is None else replace(case, variant=variant).name


# ---- the command --------------------------------------------------------------------------------


def sentences(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the command prints of the networks at hand."""
    yield from horizons.ends(records, dead)
    found = verdict(records)
    if any(record["case"]["data"] != "digits" for record in records):
        found |= verdict_again(records)
    for name, (yes, count) in found.items():
        yield f"{name}: {yes} of {count}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 3 if time was up first."""
    return sweep.main(
        "rest",
        arguments,
        cases=cases,
        carry_out=carry_out,
        sentences=sentences,
        scales=tuple(SIZES),
    )


if __name__ == "__main__":
    sys.exit(main())
