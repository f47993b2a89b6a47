"""Networks trained with five large and five small classes: the experiment on imbalance.

    python -m nclib.networks.experiments.imbalance run --scale reduced --out book/results
    python -m nclib.networks.experiments.imbalance verdict --scale reduced --out book/results

The plan, with its predictions, is in book/results/PLAN.md. A network takes about twenty seconds;
each is one file, and the same command goes on with those that are missing.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch.nn.functional import softmax

from nclib.beyond.imbalance import alive
from nclib.foundations.model import Model
from nclib.measured import paired
from nclib.measured.entries import SCALES
from nclib.measured.paired import Interval, Verdict
from nclib.networks.balance import Settled, settle
from nclib.networks.data.load import load
from nclib.networks.experiments import sweep
from nclib.networks.experiments.machine import this_part
from nclib.networks.residual import ResidualMLP
from nclib.networks.samples import Samples

SMOOTHING, TOLERANCE = 0.05, 1e-4
K, SMALL = 10, tuple(range(5, 10))  # the digits, and those that keep few images
DEAD = 0.1  # a half of the classes is dead below this mean score
SHORTEST = 1e-12  # a shorter vector counts as one of this length
RESTLESS = 1e-3  # relative fall of the objective in the last steps
WHICH = "last", "first"
READINGS = ("free", "one layer", "all layers")


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        loss: "mse" or "cross-entropy".
        decay: The decay w of all weights.
        ratio: Images of a large class by those of a small one.
        seed: Seed of the initial weights, and of which images the classes keep.
        data: "digits" or "mnist".
        per_class: Images of a large class.
        held_out: Images of each class for the error on images that were not trained on.
        dimension: Principal components that are kept; also the width of the network.
        steps: Steps of L-BFGS, first part and last part.
    """

    loss: str
    decay: float
    ratio: int
    seed: int
    data: str = "mnist"
    per_class: int = 200
    held_out: int = 100
    dimension: int = 64
    steps: tuple[int, int] = (300, 50)

    @property
    def name(self) -> str:
        """Its name as a file."""
        return f"{self.loss}-{self.decay:g}-{self.ratio}-{self.seed}"

    @property
    def counts(self) -> list[int]:
        """Images of each class."""
        small = self.per_class // self.ratio
        return [small if k in SMALL else self.per_class for k in range(K)]


def cases(scale: str) -> Iterator[Case]:
    """All networks of a scale; of each loss, decay and seed the balanced one first."""
    decays: dict[str, tuple[float, ...]] = {"mse": (3e-3, 3e-2), "cross-entropy": (1e-2, 1e-1)}
    ratios: tuple[int, ...] = (1, 10, 50, 200)
    seeds: tuple[int, ...] = (0, 2, 4)
    size: dict[str, Any] = {}
    if scale == "smoke":
        decays, ratios, seeds = {"mse": (3e-2,), "cross-entropy": (1e-1,)}, (1, 10), (0, 1)
        size = {
            "data": "digits",
            "per_class": 20,
            "held_out": 10,
            "dimension": 6,
            "steps": (40, 10),
        }
    for seed in seeds:
        for loss, strengths in decays.items():
            for decay in strengths:
                for ratio in ratios:
                    yield Case(loss, decay, ratio, seed, **size)


class Prepared(NamedTuple):
    """What a network is trained and tested on."""

    train: Samples
    test: Samples
    source: dict[str, Any]


def prepared(case: Case) -> Prepared:
    """The samples of a case in the principal components of a balanced set.

    The components, the mean and the scale are those of ``per_class`` images of every class: the
    inputs of an image are the same at every ratio.
    """
    data = load(case.data).subset(case.per_class + case.held_out, seed=0)
    x = data.images.reshape(data.N, -1).astype(float)
    place = np.concatenate([np.arange(n) for n in np.bincount(data.labels)])  # within the class
    fitted = place < case.per_class
    center = x[fitted].mean(axis=0)
    axes = np.linalg.svd(x[fitted] - center, full_matrices=False)[2][: case.dimension]
    x = (x - center) @ axes.T
    x /= np.sqrt(np.mean(x[fitted] ** 2))
    order, kept = np.random.default_rng(case.seed).permutation(case.per_class), []
    for k, count in enumerate(case.counts):
        kept.append(np.flatnonzero((data.labels == k) & fitted)[order[:count]])
    chosen = np.concatenate(kept)
    return Prepared(
        Samples(x[chosen], data.labels[chosen], dtype=torch.float64),
        Samples(x[~fitted], data.labels[~fitted], dtype=torch.float64),
        {"source": data.source, "fingerprint": data.fingerprint, "samples": len(chosen)},
    )


def carry_out(case: Case) -> dict[str, Any]:
    """Train one network until it rests, and measure it."""
    torch.set_num_threads(1)
    begun, part = time.monotonic(), this_part(torch.device("cpu"))
    data = prepared(case)
    network = ResidualMLP(
        case.dimension, K, depth=2, skip=False, smoothing=SMOOTHING, seed=case.seed
    )

    def trained(steps: int) -> Settled:
        return settle(
            network,
            data.train,
            case.decay,
            loss=case.loss,
            tolerance=TOLERANCE,
            max_iterations=steps,
        )

    ends = [trained(steps)._asdict() for steps in case.steps]
    record = {
        "case": asdict(case),
        "data": data.source,
        "part": msgspec.to_builtins(part),
        "ends": ends,
        "measured": measured(case, network, data),
    }
    record["duration_s"] = round(time.monotonic() - begun, 1)
    return record


def measured(case: Case, network: ResidualMLP, data: Prepared) -> dict[str, Any]:
    """Lengths, cosines, scores and errors by class, and the squares that decay weighs."""
    with torch.no_grad():
        x = data.train.inputs(slice(None))
        first, H = (h.numpy() for h in network.hidden(x))
        scores = network(x)
        outputs = scores if case.loss == "mse" else softmax(scores, dim=1)
        test = network(data.test.inputs(slice(None)))
    W = network.last.weight.detach().numpy()
    y, y_test = data.train.labels.numpy(), data.test.labels.numpy()
    means = np.stack([H[y == k].mean(axis=0) for k in range(K)])
    outputs = np.stack([outputs.numpy()[y == k].mean(axis=0) for k in range(K)])
    pulls = np.sum((np.eye(K)[y] - _outputs(case, scores)) @ W * H, axis=1)
    squares = np.sum(H**2, axis=1)
    small = np.isin(y, SMALL)
    return {
        "rows": np.linalg.norm(W, axis=1).tolist(),
        "means": np.linalg.norm(means, axis=1).tolist(),
        "cosines of rows": _cosines(W).tolist(),
        "cosines of means": _cosines(means).tolist(),
        "score": [_score(case, outputs[k], k) for k in range(K)],
        "train error": _errors(scores, y),
        "test error": _errors(test, y_test),
        "square of W": float(np.sum(W**2)),
        "square of first features": float(np.mean(np.sum(first**2, axis=1))),
        "square of last features": float(np.mean(squares)),
        "lambda_H of large": float(pulls[~small].sum() / squares[~small].sum()),
        "lambda_H of small": float(pulls[small].sum() / squares[small].sum()),
    }


def _outputs(case: Case, scores: torch.Tensor) -> np.ndarray:
    """What the loss compares with the one-hot labels, (N, K)."""
    return (scores if case.loss == "mse" else softmax(scores, dim=1)).numpy()


def _score(case: Case, output: np.ndarray, k: int) -> float:
    """How well class k is told from the others: 1 - c_k in the model with free features."""
    if case.loss == "mse":
        return float(output[k])
    half = [j for j in range(K) if (j in SMALL) == (k in SMALL) and j != k]
    return float(output[k] - output[half].mean())


def _errors(scores: torch.Tensor, labels: np.ndarray) -> list[float]:
    wrong = scores.argmax(dim=1).numpy() != labels
    return [float(wrong[labels == k].mean()) for k in range(K)]


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Of all pairs of rows; zero where one of them vanishes."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1)
    return units @ units.T


# ---- statistics of a network --------------------------------------------------------------------


def cosine(record: dict[str, Any], what: str = "rows", half: Sequence[int] = SMALL) -> float:
    """Mean cosine between the rows of W, or the means, of the classes of a half."""
    cosines = record["measured"][f"cosines of {what}"]
    return float(np.mean([cosines[i][j] for i, j in combinations(half, 2)]))


def length(record: dict[str, Any], what: str = "rows", half: Sequence[int] = SMALL) -> float:
    """Binary logarithm of the mean length of a half by that of the other."""
    lengths = np.maximum(record["measured"][what], SHORTEST)
    inside = np.isin(np.arange(K), half)
    return float(np.log2(lengths[inside].mean() / lengths[~inside].mean()))


def over_small(record: dict[str, Any], what: str) -> float:
    """Mean over the small classes of their score or an error."""
    return float(np.mean([record["measured"][what][k] for k in SMALL]))


def restless(record: dict[str, Any]) -> bool:
    """Whether the objective still fell by more than a thousandth in the last steps."""
    before, after = (end["objective"] for end in record["ends"])
    return bool(before - after > RESTLESS * after)


def decays(balanced: dict[str, Any]) -> tuple[float, float, float]:
    """The decay of the last layer, and what stands for it at the last and the first features."""
    lambda_W = K * balanced["case"]["decay"]
    cost = balanced["case"]["decay"] * balanced["measured"]["square of W"]
    last, first = (balanced["measured"][f"square of {which} features"] for which in WHICH)
    return lambda_W, cost / last, cost / first


def predicted_dead(balanced: dict[str, Any], ratio: int) -> dict[str, bool]:
    """Which readings of the decay say that the small classes are dead at a ratio.

    Args:
        balanced: The network with ratio one of the same seed, loss and decay.
        ratio: The ratio.
    """
    lambda_W, last, first = decays(balanced)
    counts = Case(**{**balanced["case"], "ratio": ratio}).counts
    m = counts[SMALL[0]] * K / sum(counts)
    lives = {
        "free": alive(Model(lambda_W, last), counts),
        "one layer": alive(Model(lambda_W, last / m), counts),
        "all layers": alive(Model(lambda_W, first / m), counts, layers=2),
    }
    return {reading: not lives[reading][SMALL[0]] for reading in READINGS}


# ---- the verdict --------------------------------------------------------------------------------

Statistic = Callable[..., float]


class Asked(NamedTuple):
    """One part of a prediction: what is compared, and the predicted sign; zero for small."""

    name: str
    loss: str
    decay: float
    ratio: int
    sign: int


class Part(NamedTuple):
    """The answer to it.

    Attributes:
        asked: What was asked.
        interval: Of all seeds, with the larger of both yardsticks.
        verdict: Of all seeds, and undetermined if it is another one without restless networks.
    """

    asked: Asked
    interval: Interval
    verdict: Verdict


def questions(found: Sequence[dict[str, Any]]) -> list[Asked]:
    """All parts of the predictions I1 to I5 that the plan asks of these networks."""
    strengths: dict[str, list[float]] = {"mse": [], "cross-entropy": []}
    for record in found:
        case = record["case"]
        strengths[case["loss"]] = sorted({*strengths[case["loss"]], case["decay"]})
    ratios = sorted({record["case"]["ratio"] for record in found} - {1})
    asked = []
    for ratio in ratios:
        for loss, values in strengths.items():
            for decay in values:
                strong = decay == values[-1]
                doomed = loss == "mse" and strong and ratio == 200
                if loss == "cross-entropy":
                    asked.append(Asked("I1", loss, decay, ratio, +1))
                    asked.append(Asked("I3", loss, decay, ratio, +1))
                elif not doomed:
                    asked.append(Asked("I2", loss, decay, ratio, 0))
                asked.append(Asked("I4", loss, decay, ratio, -1))
                if not doomed:
                    merged = loss == "cross-entropy" and strong and ratio >= 50
                    asked.append(Asked("I5", loss, decay, ratio, -1 if merged else +1))
    return sorted(asked)


def answers(found: Sequence[dict[str, Any]]) -> list[Part]:
    """The parts of I1 to I5, with their intervals and verdicts."""
    networks = _by_case(found)
    return [_answer(asked, networks) for asked in questions(found)]


def verdict(found: Sequence[dict[str, Any]]) -> dict[str, Verdict]:
    """The verdict on every prediction of the plan.

    Args:
        found: What ``carry_out`` returned.

    Examples:
        >>> verdict([])
        {}
    """
    parts = answers(found)
    names = sorted({part.asked.name for part in parts})
    verdicts = {
        name: paired.judge_all(part.verdict for part in parts if part.asked.name == name)
        for name in names
    }
    for reading, agreed in agreements(found).items():
        rested = agreements(found, rested=True).get(reading, (0, 0))
        verdicts[f"I6 {reading}"] = paired.judge_versions(
            paired.judge_share(*agreed), paired.judge_share(*rested)
        )
    return verdicts


def agreements(found: Sequence[dict[str, Any]], rested: bool = False) -> dict[str, tuple[int, int]]:
    """How many networks are dead or alive as a reading says, and how many there are.

    Args:
        found: What ``carry_out`` returned.
        rested: Whether to leave out the seeds in which a network is restless.
    """
    networks = _by_case(found)
    judged: dict[str, list[bool]] = {reading: [] for reading in READINGS}
    for (loss, decay, ratio), by_seed in networks.items():
        seeds = _rested(networks, loss, decay) if rested else set(by_seed)
        if ratio == 1:
            continue
        for seed in sorted(seeds):
            dead = over_small(by_seed[seed], "score") < DEAD
            said = predicted_dead(networks[loss, decay, 1][seed], ratio)
            for reading in READINGS:
                judged[reading].append(said[reading] == dead)
    return {name: (sum(right), len(right)) for name, right in judged.items() if right}


Networks = dict[tuple[str, float, int], dict[int, dict[str, Any]]]


def _by_case(found: Sequence[dict[str, Any]]) -> Networks:
    """Records by loss, decay and ratio, and then by seed."""
    networks: Networks = {}
    for record in found:
        case = record["case"]
        key = case["loss"], case["decay"], case["ratio"]
        networks.setdefault(key, {})[case["seed"]] = record
    return networks


def _rested(networks: Networks, loss: str, decay: float) -> set[int]:
    """The seeds in which no network of a loss and a decay is restless."""
    groups = [group for key, group in networks.items() if key[:2] == (loss, decay)]
    seeds = set.intersection(*map(set, groups))
    return {seed for seed in seeds if not any(restless(group[seed]) for group in groups)}


def _answer(asked: Asked, networks: Networks) -> Part:
    what = "means" if asked.name == "I5" else "rows"
    statistic: Statistic = length if asked.name in ("I4", "I5") else cosine
    decays_of = {
        loss: sorted({key[1] for key in networks if key[0] == loss})
        for loss in ("mse", "cross-entropy")
    }

    def change(loss: str, decay: float, seeds: set[int]) -> Interval:
        bits = [
            {s: statistic(record, what) for s, record in networks[loss, decay, ratio].items()}
            for ratio in (asked.ratio, 1)
        ]
        variant = {s: value for s, value in bits[0].items() if s in seeds}
        interval = paired.paired_change(variant, bits[1])
        balanced = networks[loss, decay, 1].values()
        halves = _between_halves(balanced, what, of_lengths=statistic is length)
        return interval._replace(yardstick=float(np.nanmax([interval.yardstick, halves])))

    def compared(seeds: set[int]) -> Interval:
        if asked.name != "I3":
            return change(asked.loss, asked.decay, seeds)
        rank = decays_of["cross-entropy"].index(asked.decay)
        pair = [("cross-entropy", asked.decay), ("mse", decays_of["mse"][rank])]
        one, other = (
            {
                s: cosine(networks[loss, decay, asked.ratio][s])
                - cosine(networks[loss, decay, 1][s])
                for s in seeds
            }
            for loss, decay in pair
        )
        return paired.paired_change(one, other)

    involved = [(asked.loss, asked.decay)]
    if asked.name == "I3":
        rank = decays_of["cross-entropy"].index(asked.decay)
        involved.append(("mse", decays_of["mse"][rank]))
    everyone = set.intersection(*(set(networks[loss, w, asked.ratio]) for loss, w in involved))
    rested = set.intersection(*(_rested(networks, loss, w) for loss, w in involved)) & everyone
    interval = compared(everyone)
    judged = _judged(interval, asked.sign)
    second = _judged(compared(rested), asked.sign) if rested else Verdict.UNDETERMINED
    return Part(asked, interval, paired.judge_versions(judged, second))


def _judged(interval: Interval, sign: int) -> Verdict:
    return paired.judge(interval, sign) if sign else paired.judge_small(interval)


def _between_halves(balanced: Iterable[dict[str, Any]], what: str, of_lengths: bool) -> float:
    """Root mean square of a statistic between halves of the classes, all ways and seeds."""
    rows = [(0, *others) for others in combinations(range(1, K), K // 2 - 1)]
    halves = np.zeros((len(rows), K))
    np.put_along_axis(halves, np.array(rows), 1, axis=1)

    def inside(record: dict[str, Any], half: np.ndarray) -> np.ndarray:
        if of_lengths:
            return np.log2(half @ record["measured"][what])
        cosines = np.array(record["measured"][f"cosines of {what}"])
        np.fill_diagonal(cosines, 0)
        pairs = half.sum(axis=1) * (half.sum(axis=1) - 1)
        return np.einsum("hi,ij,hj->h", half, cosines, half) / pairs

    gaps = [inside(record, halves) - inside(record, 1 - halves) for record in balanced]
    return float(np.sqrt(np.mean(np.square(gaps))))


# ---- the command --------------------------------------------------------------------------------


def stored(scale: str, out: Path) -> list[dict[str, Any]]:
    """The records of a scale that are there, in the order of the plan."""
    return sweep.stored(out, "imbalance", scale, cases(scale))


def sentences(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The verdicts and all their parts."""
    yield f"{sum(map(restless, found))} restless"
    parts = answers(found)
    yield f"{len(parts)} intervals"
    for asked, interval, outcome in parts:
        yield (
            f"{asked.name} {asked.loss:13s} {asked.decay:<6g} {asked.ratio:3d} "
            f"{'small' if asked.sign == 0 else f'{asked.sign:+d}   '} {interval.mean:+.3f} "
            f"[{interval.low:+.3f}, {interval.high:+.3f}] yardstick {interval.yardstick:.3f} "
            f"{outcome}"
        )
    for reading, (right, count) in agreements(found).items():
        yield f"I6 {reading}: {right} of {count}"
    for name, outcome in verdict(found).items():
        yield f"{name}: {outcome}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 3 if time was up first."""
    return sweep.main(
        "imbalance",
        arguments,
        cases=cases,
        carry_out=carry_out,
        sentences=sentences,
        scales=SCALES[:2],
    )


if __name__ == "__main__":
    sys.exit(main())
