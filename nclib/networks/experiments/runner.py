"""Carrying out runs: train, measure, write results as they come, stop at any moment and go on from there."""

import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nclib
from nclib.foundations.metrics import nc1, nc1_trace, nc2, nc3
from nclib.foundations.statistics import ClassStatistics
from nclib.measured.files import file_name, save_statistics, write_atomic
from nclib.measured.records import Data, Epochs, Layers, Result, Versions
from nclib.networks import parallel
from nclib.networks.data.load import load
from nclib.networks.experiments.settings import Run
from nclib.networks.mlp import MLP, last_weights
from nclib.networks.probes import disagreement, features, probe
from nclib.networks.resnet import ResNet18
from nclib.networks.samples import Samples
from nclib.networks.training import Trainer

RESUMED = (
    "started",
    "spent",
    "epochs",
    "layers",
    "frozen",
    "state",
)  # what of a Journey a checkpoint keeps


def build(run: Run, values: np.ndarray, classes: int, seed: int) -> nn.Module:
    """The network of a run, or of one stage of it, for inputs like these, in float32."""
    if run.network == "resnet18":
        return ResNet18(
            classes, width=run.width, channels=values.shape[1], last_bias=run.last_bias, seed=seed
        )
    hidden = [run.width] * (1 if run.grown else run.depth)
    widths = (int(np.prod(values.shape[1:])), *hidden, classes)
    return MLP(widths, last_bias=run.last_bias, seed=seed, dtype=torch.float32)


class Journey:
    """A run under way: its networks, its tables, and the files that let it go on later.

    Args:
        run: what to do.
        folder: where results go, under experiment/scale.
        device: as ``parallel.start`` takes it.
        save_every: seconds between two saves at least.
    """

    def __init__(self, run: Run, folder: Path, *, device: str = "cpu", save_every: float = 10.0):
        torch.set_num_threads(1)
        self.run, self.folder = run, Path(folder)
        self.path = self.folder / run.experiment / run.scale / file_name(run.name, run.seed)
        self.checkpoint = self.path.with_suffix(".pt")
        self.device, self.save_every = parallel.start(device), save_every
        self.data = load(run.dataset)
        if run.per_class is not None:
            self.data = self.data.subset(run.per_class, seed=0)
        self.commit = commit()  # of the code that runs; the files may change while it does
        self.started, self.spent = datetime.now(UTC).isoformat(timespec="seconds"), 0.0
        self.epochs = {column: [] for column in Epochs.columns()}
        self.layers = {column: [] for column in Layers.columns()}
        self.frozen: list[dict] = []  # states of the networks of finished stages
        self.state: dict | None = None  # of the trainer of the present stage

    def go(
        self, *, deadline: float = np.inf, on_epoch: Callable[[int], None] = lambda epoch: None
    ) -> Result:
        """Train to the end, or until the deadline (in seconds of ``time.monotonic``); return what there is then.

        Args:
            deadline: no epoch begins after it.
            on_epoch: called with the number of epochs done so far, all stages together.

        Raises:
            ValueError: if there is a checkpoint of another configuration.
        """
        if self.checkpoint.exists():
            self._resume()
        self._clock = self._saved = time.monotonic()
        values = self.data.images
        for stage in range(self.run.stages):
            seed = 1000 * self.run.seed + stage
            network = build(self.run, values, self.data.K, seed)
            samples = Samples(values, self.data.labels, device=self.device)
            trainer = Trainer(network, samples, self.run.recipe, seed=seed)
            if stage < len(self.frozen):
                network.load_state_dict(self.frozen[stage])
            elif not self._train(stage, trainer, deadline, on_epoch):
                return self._save(complete=False)
            if stage + 1 < self.run.stages:
                values = features(network, samples, network.points["layer 1"])
        return self._save(complete=True)

    def _train(
        self, stage: int, trainer: Trainer, deadline: float, on_epoch: Callable[[int], None]
    ) -> bool:
        """One stage; False if there was no time to finish it."""
        total = self.run.recipe.epochs
        if self.state is not None:
            trainer.load_state(self.state)
        else:
            self._record(stage, trainer, None, None)
        while trainer.epoch < total:
            if parallel.agreed(time.monotonic() > deadline):
                self.state = trainer.state()
                return False
            self._record(stage, trainer, *trainer.run_epoch())
            if parallel.agreed(time.monotonic() - self._saved > self.save_every):
                self.state = trainer.state()
                self._save(complete=False)
            on_epoch(stage * total + trainer.epoch)
        self.frozen.append(trainer.state()["network"])
        self.state = None
        return True

    def _record(
        self, stage: int, trainer: Trainer, batch_loss: float | None, batch_error: float | None
    ) -> None:
        """Add what is measured after an epoch (before the first one: epoch 0) to the tables."""
        run, network, samples, epoch = self.run, trainer.network, trainer.samples, trainer.epoch
        if stage > 0 and epoch == 0:
            return  # its number is that of the last epoch of the stage before
        row = dict.fromkeys(Epochs.columns()) | {
            "batch_loss": batch_loss,
            "batch_error": batch_error,
            "stage": stage + 1,
        }
        row["epoch"] = stage * run.recipe.epochs + epoch
        every = run.all_layers(epoch)
        if every or run.measured(epoch):
            *_, last = network.points
            points = network.points if every else {last: network.points[last]}
            statistics, scores, labels = probe(network, samples, points)
            losses = (
                trainer.recipe.mean_loss(scores, labels),
                (scores.argmax(1) != labels).double().mean(),
            )
            losses = parallel.total(torch.stack(losses).double() * len(labels)) / len(samples)
            row["loss"], row["error"] = losses.tolist()
            row |= metrics(statistics[last], network)
            if every:
                nc4 = disagreement(network, samples, statistics, points)
                for name, s in statistics.items():
                    values = metrics(s, network if name == last else None) | {
                        "nc4": nc4[name],
                        "dim": s.d,
                    }
                    values |= {
                        "epoch": row["epoch"],
                        "layer": f"layer {stage + 1}" if run.grown else name,
                    }
                    append(self.layers, values)
                    if run.keep_statistics and run.seed == 0 and epoch == run.recipe.epochs:
                        self._keep(s, values["layer"], row["epoch"])
        append(self.epochs, row)

    def _keep(self, statistics: ClassStatistics, layer: str, epoch: int) -> None:
        run, name = self.run, f"{self.run.name}-seed{self.run.seed}-{layer.replace(' ', '')}.npz"
        note = {
            "network": run.name,
            "layer": layer,
            "data": self.data.source,
            "seed": run.seed,
            "epoch": epoch,
        }
        if parallel.rank() == 0:
            save_statistics(self.folder / "statistics" / run.scale / name, statistics, note)

    def _resume(self) -> None:
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if saved["config"] != self.run.config:
            raise ValueError(
                f"{self.checkpoint} belongs to other settings; remove it to begin anew."
            )
        for key in RESUMED:
            setattr(self, key, saved[key])

    def _save(self, *, complete: bool) -> Result:
        """Write checkpoint and results, each in one step."""
        now = time.monotonic()
        self.spent, self._clock, self._saved = self.spent + now - self._clock, now, now
        run, data = self.run, self.data
        result = Result(
            experiment=run.experiment, name=run.name, scale=run.scale, seed=run.seed, config=run.config,
            data=Data(classes=data.K, samples=data.N, source=data.source, split="train"),
            device=device_in_words(self.device), versions=versions(), commit=self.commit,
            started=self.started, duration_s=round(self.spent, 1), complete=complete,
            epochs=Epochs(**self.epochs), layers=Layers(**self.layers),
        )  # fmt: skip
        if parallel.rank() == 0:
            torch.save(
                {"config": run.config} | {key: getattr(self, key) for key in RESUMED},
                buffer := BytesIO(),
            )
            write_atomic(self.checkpoint, buffer.getvalue())
            result.save(self.path)
        parallel.agreed(True)  # no process goes on before the files are there
        return result


def metrics(
    statistics: ClassStatistics, network: nn.Module | None = None
) -> dict[str, float | None]:
    """NC1, NC1~ and NC2, and NC3 if a network is given; None where a metric is undefined, as for equal means."""
    functions = {"nc1": nc1, "nc1_trace": nc1_trace, "nc2": nc2}
    if network is not None:
        functions["nc3"] = lambda s: nc3(s, last_weights(network))
    values = {"nc3": None}
    for name, function in functions.items():
        try:
            values[name] = function(statistics)
        except ValueError:
            values[name] = None
    return values


def append(table: dict[str, list], row: dict) -> None:
    """Add a row to a table of columns."""
    for column, values in table.items():
        values.append(row[column])


def device_in_words(device: torch.device) -> str:
    """What computed, as a reader would say it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
    return name if parallel.world() == 1 else f"{parallel.world()} x {name}"


def versions() -> Versions:
    """Versions of what computed."""
    return Versions(
        nclib=nclib.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
    )


@cache
def commit() -> str | None:
    """The commit of the library at the first call, None if its files differ from it or it is not in a repository."""
    git = ["git", "-C", str(Path(nclib.__file__).parent)]
    try:
        status = [*git, "status", "--porcelain", "--untracked-files=no", "."]
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if changed.stdout else head.stdout.strip()
