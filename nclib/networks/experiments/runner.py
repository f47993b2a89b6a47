"""Carrying out runs: train, measure, write results as they come, stop at any moment and go on from
there.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from nclib.foundations.metrics import nc1, nc1_trace, nc2, nc3
from nclib.foundations.statistics import ClassStatistics
from nclib.measured.files import place, save_statistics
from nclib.measured.growth import stage_ends
from nclib.measured.records import Data, Epochs, Layers, Part, Result
from nclib.networks import parallel
from nclib.networks.data.load import load
from nclib.networks.decisions import disagreement
from nclib.networks.experiments.checkpoints import load_checkpoint, remove_drafts, save_checkpoint
from nclib.networks.experiments.machine import this_part
from nclib.networks.experiments.settings import Run
from nclib.networks.hooks import own_points
from nclib.networks.mlp import MLP, last_weights
from nclib.networks.probes import features, probe
from nclib.networks.resnet import ResNet18
from nclib.networks.samples import Samples
from nclib.networks.training import Trainer

METRICS = ("nc1", "nc1_trace", "nc2", "nc3")
# What of a runner a checkpoint keeps.
RESUMED = ("started", "spent", "epochs", "layers", "frozen", "state")


def build(settings: Run, values: np.ndarray, classes: int, seed: int) -> nn.Module:
    """The network of a run, or of one stage of it, for inputs like these, in float32."""
    if settings.network == "resnet18":
        return ResNet18(
            classes,
            width=settings.width,
            channels=values.shape[1],
            last_bias=settings.last_bias,
            seed=seed,
        )
    hidden = [settings.width] * (1 if settings.grown else settings.depth)
    widths = (int(np.prod(values.shape[1:])), *hidden, classes)
    return MLP(widths, last_bias=settings.last_bias, seed=seed, dtype=torch.float32)


class Runner:
    """A run under way: its networks, its tables, and the files that let it go on later.

    What can be checked before the first epoch is checked here, and a checkpoint is read.

    Args:
        settings: What to do.
        folder: Where results go, under experiment/scale.
        device: As ``parallel.start`` takes it.
        save_every: Seconds between two saves at least.

    Attributes:
        path: The file of results.
        checkpoint: The file from which the run can go on.
        epochs: The table of epochs so far.

    Raises:
        OSError: The folder cannot be written to, or has too little space.
        ValueError: There is no such device, or a checkpoint is damaged, of other settings, or of
            another copy of the data.
    """

    def __init__(
        self, settings: Run, folder: Path, *, device: str = "cpu", save_every: float = 10.0
    ):
        torch.set_num_threads(1)
        self.settings = settings
        self.folder = Path(folder)
        self.path = place(folder, settings.experiment, settings.scale, settings.name, settings.seed)
        self.checkpoint = self.path.with_suffix(".pt")
        self.device = parallel.start(device)
        # Measuring a GPU's network in small batches would wait for the host.
        self.batch_size = 1000 if self.device.type == "cuda" else 100
        self.save_every = save_every
        self.data = load(settings.dataset)
        if settings.per_class is not None:
            self.data = self.data.subset(settings.per_class, seed=0)
        self.part = this_part(self.device)
        self.parts: list[Part] = []  # those in which something was trained
        self.started = self.part.started
        self.spent = 0.0
        self.epochs: dict[str, list] = {column: [] for column in Epochs.columns()}
        self.layers: dict[str, list] = {column: [] for column in Layers.columns()}
        self.frozen: list[dict] = []  # states of the networks of finished stages
        self.state: dict | None = None  # of the trainer of the present stage
        if parallel.rank() == 0:
            self._check_folder()
        if self.checkpoint.exists():
            self._resume()

    @property
    def done(self) -> int:
        """Epochs done so far, all stages together."""
        return max(self.epochs["epoch"], default=0)

    @property
    def total(self) -> int:
        """Epochs of all stages together; stages to come count as long as they may get."""
        finished = len(self.frozen)
        return self.settings.most(finished, self._before(finished))

    def _before(self, stage: int) -> int:
        """Epochs of the stages before this one, which is counted from 0."""
        ends = stage_ends(self.epochs["epoch"], self.epochs["stage"])
        return ends[stage - 1] if stage > 0 else 0

    def _losses(self, stage: int) -> list[float]:
        """The loss during each epoch of a stage so far."""
        rows = zip(self.epochs["stage"], self.epochs["batch_loss"], strict=True)
        return [loss for number, loss in rows if number == stage + 1 and loss is not None]

    def run(
        self,
        *,
        deadline: float = np.inf,
        stop: Callable[[], bool] = lambda: False,
        on_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> Result:
        """Train to the end, or until it is time to stop; return what there is then.

        Args:
            deadline: No epoch begins after it, in seconds of ``time.monotonic``.
            stop: No epoch begins once this says so.
            on_epoch: Called with the number of epochs done so far, all stages together.

        Raises:
            FloatingPointError: The loss stops being finite.
            OSError: A file cannot be written.
        """
        self._clock = self._saved = time.monotonic()
        self._must_stop = lambda: time.monotonic() > deadline or stop()
        settings = self.settings
        values = self.data.images
        for stage in range(settings.stages):
            seed = 1000 * settings.seed + stage
            network = build(settings, values, self.data.K, seed)
            samples = Samples(values, self.data.labels, device=self.device)
            trainer = Trainer(network, samples, settings.recipe, seed=seed)
            if stage < len(self.frozen):
                network.load_state_dict(self.frozen[stage])
            elif not self._train(stage, trainer, on_epoch):
                return self._save(complete=False)
            if stage + 1 < settings.stages:
                values = features(network, samples, own_points(network)["layer 1"])
        return self._save(complete=True)

    def _train(self, stage: int, trainer: Trainer, on_epoch: Callable[[int], None]) -> bool:
        """One stage; False if there was no time to finish it."""
        settings, before = self.settings, self._before(stage)
        if self.state is not None:
            trainer.load_state(self.state)
        elif stage == 0:
            self._record(stage, trainer, None, None)
        while not settings.ends(self._losses(stage)):
            if parallel.agreed(self._must_stop()):
                self.state = trainer.state()
                return False
            if self.part not in self.parts:
                self.part = msgspec.structs.replace(self.part, epoch=self.done)
                self.parts.append(self.part)
            self._record(stage, trainer, *trainer.run_epoch())
            if parallel.agreed(time.monotonic() - self._saved > self.save_every):
                self.state = trainer.state()
                self._save(complete=False)
            on_epoch(before + trainer.epoch)
        self.frozen.append(trainer.state()["network"])
        self.state = None
        return True

    def _record(
        self, stage: int, trainer: Trainer, batch_loss: float | None, batch_error: float | None
    ) -> None:
        """Add what is measured after an epoch (before the first one: epoch 0) to the tables.

        Epoch 0 of a later stage is the last epoch of the stage before.
        """
        settings, epoch = self.settings, trainer.epoch
        row: dict[str, float | None] = dict.fromkeys(Epochs.columns())
        row["epoch"] = self._before(stage) + epoch
        row["stage"] = stage + 1
        row["batch_loss"], row["batch_error"] = batch_loss, batch_error
        losses = self._losses(stage) + ([] if batch_loss is None else [batch_loss])
        ends = settings.ends(losses)
        if settings.all_layers(epoch, ends) or settings.measured(epoch, ends):
            row |= self._measure(stage, trainer, ends)
        append(self.epochs, row)

    def _measure(self, stage: int, trainer: Trainer, ends: bool) -> dict[str, float | None]:
        """Loss, error and the metrics of the last features; in some epochs also all layers."""
        settings, network, samples = self.settings, trainer.network, trainer.samples
        points = own_points(network)
        *_, last = points
        all_layers = settings.all_layers(trainer.epoch, ends)
        if not all_layers:
            points = {last: points[last]}
        found = probe(network, samples, points, batch_size=self.batch_size)
        if all_layers:
            self._measure_layers(stage, trainer, found.statistics, last, ends)
        scores, labels = found.scores, found.labels
        assert scores is not None
        loss = trainer.recipe.mean_loss(scores, labels)
        error = (scores.argmax(1) != labels).double().mean()
        sums = torch.stack([loss, error]).double() * len(labels)
        whole_loss, whole_error = (parallel.total(sums) / len(samples)).tolist()
        return {"loss": whole_loss, "error": whole_error} | metrics(found.statistics[last], network)

    def _measure_layers(
        self,
        stage: int,
        trainer: Trainer,
        statistics: dict[str, ClassStatistics],
        last: str,
        ends: bool,
    ) -> None:
        """Add one row for each layer; keep the statistics at the end of a stage, if wanted."""
        settings, network, samples = self.settings, trainer.network, trainer.samples
        points = own_points(network)
        nc4 = disagreement(network, samples, statistics, points, batch_size=self.batch_size)
        epoch = self._before(stage) + trainer.epoch
        kept = settings.keep_statistics and settings.seed == 0
        for name, stats in statistics.items():
            layer = f"layer {stage + 1}" if settings.grown else name
            row: dict[str, Any] = {"epoch": epoch, "layer": layer, "dim": stats.d}
            row |= metrics(stats, network if name == last else None)
            row["nc4"] = nc4[name]
            row["trace_within"] = float(np.trace(stats.within))
            row["trace_between"] = float(np.sum(stats.centered_means**2) / stats.K)
            append(self.layers, row)
            if kept and ends:
                self._keep(stats, layer, epoch)

    def _keep(self, statistics: ClassStatistics, layer: str, epoch: int) -> None:
        """Write the statistics of a layer to a file of their own."""
        settings = self.settings
        name = f"{settings.name}-seed{settings.seed}-{layer.replace(' ', '')}.npz"
        note = {
            "network": settings.name,
            "layer": layer,
            "data": self.data.source,
            "seed": settings.seed,
            "epoch": epoch,
        }
        path = self.folder / "statistics" / settings.scale / name
        if parallel.rank() == 0:
            with _naming(path):
                save_statistics(path, statistics, note)

    def _check_folder(self) -> None:
        """Raise OSError if the results could not be written; clean up after killed processes."""
        folder = self.path.parent
        with _naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        for path in (self.path, self.checkpoint):
            remove_drafts(path)
        network = build(self.settings, self.data.images, self.data.K, seed=0)
        parameters = sum(p.numel() for p in network.parameters())
        # Old and new checkpoint: parameters and velocities in four bytes, and what is frozen.
        needed = 2 * 4 * parameters * (2 + self.settings.stages) + (16 << 20)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(
                f"{folder} has {free >> 20} MiB left, but this run may need {needed >> 20} MiB."
            )

    def _resume(self) -> None:
        """Read the checkpoint.

        Raises:
            ValueError: It is damaged, of other settings, or of another copy of the data.
        """
        keys = {"config", "source", "fingerprint", "parts", *RESUMED}
        saved = load_checkpoint(self.checkpoint, keys)
        if saved["config"] != self.settings.config:
            raise ValueError(
                f"{self.checkpoint} belongs to other settings; remove it to begin anew."
            )
        if saved["fingerprint"] != self.data.fingerprint:
            raise ValueError(
                f"{self.checkpoint} was begun with {saved['source']} (fingerprint "
                f"{saved['fingerprint']}), but the data found now are {self.data.source} "
                f"(fingerprint {self.data.fingerprint}); bring those back, or remove it to begin "
                "anew."
            )
        self.parts = [msgspec.convert(part, Part) for part in saved["parts"]]
        for key in RESUMED:
            setattr(self, key, saved[key])

    def _save(self, *, complete: bool) -> Result:
        """Write checkpoint and results, each in one step."""
        now = time.monotonic()
        self.spent += now - self._clock
        self._clock = self._saved = now
        settings, data = self.settings, self.data
        last = self.parts[-1] if self.parts else self.part
        result = Result(
            experiment=settings.experiment,
            name=settings.name,
            scale=settings.scale,
            seed=settings.seed,
            config=settings.config,
            data=Data(
                classes=data.K,
                samples=data.N,
                source=data.source,
                split="train",
                fingerprint=data.fingerprint,
            ),
            device=last.device,
            versions=last.versions,
            commit=last.commit,
            started=self.started,
            duration_s=round(self.spent, 1),
            complete=complete,
            epochs=Epochs(**self.epochs),
            layers=Layers(**self.layers),
            processor=last.processor,
            instructions=last.instructions,
            parts=self.parts if len(self.parts) > 1 else [],
        )
        if parallel.rank() == 0:
            content = {
                "config": settings.config,
                "source": data.source,
                "fingerprint": data.fingerprint,
                "parts": msgspec.to_builtins(self.parts),
            }
            content |= {key: getattr(self, key) for key in RESUMED}
            with _naming(self.checkpoint):
                save_checkpoint(self.checkpoint, content)
            with _naming(self.path):
                result.save(self.path)
        parallel.agreed(True)  # no process goes on before the files are there
        return result


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what the system says into a sentence that names what could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error


def metrics(
    statistics: ClassStatistics, network: nn.Module | None = None
) -> dict[str, float | None]:
    """NC1, NC1~ and NC2, and NC3 if a network is given; None where a metric is undefined, as it is
    for equal means.
    """
    functions: dict[str, Callable[[ClassStatistics], float]] = {
        "nc1": nc1,
        "nc1_trace": nc1_trace,
        "nc2": nc2,
    }
    if network is not None:
        weights = last_weights(network)
        functions["nc3"] = lambda stats: nc3(stats, weights)
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    for name, function in functions.items():
        with suppress(ValueError):
            values[name] = function(statistics)
    return values


def append(table: dict[str, list], row: dict) -> None:
    """Add a row to a table of columns."""
    for column, values in table.items():
        values.append(row[column])
