"""Training to a horizon of the decay by SGD, with looks on the way: the first part of experiments
that go on to a point of rest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from nclib.foundations.metrics import nc1, nc1_trace
from nclib.foundations.statistics import ClassStatistics
from nclib.measured.records import Part
from nclib.networks.balance import BlockBalance, balance, horizon
from nclib.networks.recipe import Recipe
from nclib.networks.residual import ResidualMLP
from nclib.networks.samples import Samples
from nclib.networks.training import Trainer

HORIZONS = (0.5, 1.0, 2.0, 4.0, 6.0)  # at which training is looked at; it ends at the last
STEP, MOMENTUM, BATCH = 0.1, 0.9, 50

Look = Callable[[], dict[str, Any]]


def train(
    network: nn.Module,
    samples: Samples,
    decays: tuple[float, float],
    *,
    end: float,
    seed: int,
    look: Look,
    loss: str = "mse",
) -> tuple[float, list[dict[str, Any]]]:
    """SGD to the horizon; the step it took, and what the network is like along the way.

    Where the loss stops being finite the network starts anew at half the step.

    Args:
        network: The network, trained in place.
        samples: The data.
        decays: Of the features' weights and of the last layer.
        end: The horizon, counted at the full step; the last tenth of the epochs is taken at a tenth
            of it.
        seed: Of the order of samples.
        look: What is recorded at the horizons, besides these.
        loss: "mse" or "cross-entropy".
    """
    start = {name: value.clone() for name, value in network.state_dict().items()}
    step = STEP
    while True:
        try:
            return step, trained(network, samples, decays, step, end, seed, look, loss)
        except FloatingPointError:
            network.load_state_dict(start)
            step /= 2


def trained(
    network: nn.Module,
    samples: Samples,
    decays: tuple[float, float],
    step: float,
    end: float,
    seed: int,
    look: Look,
    loss: str = "mse",
) -> list[dict[str, Any]]:
    """SGD with this step, as ``train`` does it.

    Raises:
        FloatingPointError: The loss stops being finite.
    """
    features, last = decays
    batch = min(BATCH, len(samples))
    one = Recipe(1, step, momentum=MOMENTUM, weight_decay=features, batch_size=batch, loss=loss)
    # Epochs at the full step; the last tenth of them is taken at a tenth of it.
    epochs = max(int(np.ceil(end / horizon(one, len(samples)))), 2)
    recipe = replace(
        one, epochs=epochs, last_weight_decay=last, drops=(int(np.ceil(0.9 * epochs)),)
    )
    trainer = Trainer(network, samples, recipe, seed=seed)
    looks = [end * t / HORIZONS[-1] for t in HORIZONS]
    seen: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        trainer.run_epoch()
        passed = epoch * horizon(one, len(samples))
        if (len(seen) < len(looks) and passed >= looks[len(seen)]) or epoch == epochs:
            seen.append({"horizon": passed, "epoch": epoch, **look()})
    return seen


def state(
    network: ResidualMLP, samples: Samples, weight_decay: float, loss: str = "mse"
) -> dict[str, Any]:
    """Metrics of the last features, loss, and the balance of residual blocks.

    Args:
        network: The network.
        samples: The data, all in one batch.
        weight_decay: Of the features' weights.
        loss: "mse" or "cross-entropy".
    """
    with torch.no_grad():
        x = samples.inputs(slice(None))
        hidden = network.hidden(x)[-1]
        scores = network.last(hidden)
        value = Recipe(1, 1.0, loss=loss).mean_loss(scores, samples.labels).item()
        error = (scores.argmax(1) != samples.labels).double().mean().item()
    stats = ClassStatistics.from_features(hidden.numpy(), samples.labels.numpy())
    found: dict[str, Any] = {"loss": value, "error": error}
    found |= {"nc1": _or_none(nc1, stats), "nc1_trace": _or_none(nc1_trace, stats)}
    if network.skip:
        found["blocks"] = list(map(_plain, balance(network, samples, weight_decay, loss=loss)))
    return found


def head(
    case: Any, part: Part, source: dict[str, Any], inputs: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What a record begins with: the case, its origin, and the metrics of its inputs.

    Args:
        case: The dataclass that describes the network.
        part: Where and when the run began.
        source: Where the data come from.
        inputs: Shape (N, d).
        labels: Shape (N,).
    """
    before = ClassStatistics.from_features(inputs, labels)
    return {
        "case": asdict(case),
        "data": source,
        "part": msgspec.to_builtins(part),
        "input": {"nc1": nc1(before), "nc1_trace": nc1_trace(before)},
    }


def ends(
    records: Sequence[dict[str, Any]], dead: Callable[[dict[str, Any]], bool]
) -> Iterator[str]:
    """Sentences on how the networks of some records ended.

    Args:
        records: Each with the entries "rest" and "step".
        dead: Whether the network of a record is dead.
    """
    restless = sum(record["rest"]["gradient_norm"] > 1e-4 for record in records)
    yield f"{restless} with a relative gradient above 1e-4"
    yield f"{sum(map(dead, records))} dead"
    yield f"{sum(record['step'] < STEP for record in records)} with a smaller step"


def lawful(blocks: Sequence[dict[str, Any]], least: float) -> bool:
    """Whether the cosine of the law exceeds a bound at every block that is alive."""
    return all(block["cosine"] > least for block in blocks if block["live"])


def _or_none(metric: Callable[[ClassStatistics], float], stats: ClassStatistics) -> float | None:
    try:
        return metric(stats)
    except ValueError:  # equal means
        return None


def _plain(block: BlockBalance) -> dict[str, Any]:
    """The numbers of a block; None where one is undefined, which JSON does not know."""
    row = block._asdict() | {"units": block.units.tolist()}
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
