"""The record of one measured run: what its JSON file holds, checked entry by entry.

The structs are the schema. Each field is declared with its type and range, each table column by
column, and fields lie in the file in the order in which they stand here. A record that is not as
it should be is refused with a sentence that names the entry, what was expected and what is there.

A field that comes later gets a default, which the file leaves out: then files written before still
load, and are written again as they were. A later column is declared ``list[...] | None = None``; a
file without it counts as one in which it was not measured.
"""

import json
import os
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from nclib.measured.entries import (
    Amount,
    Commit,
    Fingerprint,
    Flag,
    Index,
    Name,
    Plain,
    Scale,
    Settings,
    Share,
    Size,
    Split,
    Text,
    Time,
    checked,
    declared,
    refusal,
    require_keys,
    sentence,
)
from nclib.measured.files import write_atomic

SCHEMA = 1
Schema = Annotated[Literal[1], Meta(description="1")]


class _Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all structs of a file have in common."""


class Data(_Record, frozen=True, kw_only=True):
    """The samples that were measured.

    Attributes:
        classes: Number of classes.
        samples: Number of samples, all classes together.
        source: The data set, and which copy of it.
        split: The part of the data set, train or test.
        fingerprint: 16 hexadecimal digits of a hash of images and labels.
    """

    classes: Size
    samples: Size
    source: Text
    split: Split
    fingerprint: Fingerprint | None = None


class Versions(_Record, frozen=True, kw_only=True):
    """Versions of what computed.

    Attributes:
        nclib: This library.
        numpy: NumPy.
        python: Python.
        torch: PyTorch, with what it was built for.
        cuda: CUDA, where a GPU computed.
    """

    nclib: Text
    numpy: Text
    python: Text
    torch: Text
    cuda: Text | None = None


class Part(_Record, frozen=True, kw_only=True):
    """One stretch of a run that was stopped and went on later.

    Attributes:
        started: When it began, an ISO 8601 time in UTC.
        epoch: Epochs that were done then.
        commit: The library's commit; ``None`` if it is not known.
        device: What computed, in words.
        versions: Versions of what computed.
        processor: Name of the processor.
        instructions: The vector instructions that were used, in words.
    """

    started: Time
    epoch: Index
    commit: Commit | None
    device: Text
    versions: Versions
    processor: Text | None = None
    instructions: Text | None = None


class Table(_Record, frozen=True, kw_only=True):
    """Columns of equal length; ``None`` stands for what was not measured, also for a whole column.

    A column is an attribute, or comes by its name: ``table.loss`` is ``table["loss"]``.

    Attributes:
        epoch: Epochs done.
    """

    epoch: list[Index]

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the columns, in the order of the file."""
        return cls.__struct_fields__

    def __getitem__(self, column: str) -> Any:
        if column not in self.columns():
            raise KeyError(_unknown("column", self.columns(), column))
        return getattr(self, column)

    def __len__(self) -> int:
        return len(self.epoch)

    def array(self, column: str, kind: type = float) -> np.ndarray:
        """A column as an array; NaN stands for what was not measured.

        Args:
            column: Name of the column.
            kind: Type of its entries.

        Raises:
            KeyError: There is no such column.
        """
        entries = self[column]
        return np.array([None] * len(self) if entries is None else entries, kind)

    def __hash__(self) -> int:
        return hash(tuple(self.epoch))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows)"


class Epochs(Table, frozen=True, kw_only=True):
    """One row per epoch, all stages of a run together.

    Attributes:
        epoch: Epochs done, increasing; 0 stands for the network before training.
        batch_error: Training error during the epoch, of each batch before its step.
        batch_loss: Loss during the epoch, of each batch before its step.
        error: Training error after the epoch.
        loss: Loss after the epoch.
        nc1: NC1 of the last features.
        nc1_trace: Trace form of NC1 of the last features.
        nc2: NC2 of the last features.
        nc3: NC3 of the last layer.
        stage: Number of the network in a grown sequence, from 1; always 1 for other networks.
    """

    batch_error: list[Share | None]
    batch_loss: list[Amount | None]
    error: list[Share | None]
    loss: list[Amount | None]
    nc1: list[Amount | None]
    nc1_trace: list[Amount | None]
    nc2: list[Amount | None]
    nc3: list[Amount | None]
    stage: list[Size]


class Layers(Table, frozen=True, kw_only=True):
    """One row per probed epoch and layer, in the order of the epochs.

    Attributes:
        epoch: Epochs done.
        layer: Name of the layer.
        dim: Dimension of its features.
        nc1: NC1 of its features.
        nc1_trace: Trace form of NC1 of its features.
        nc2: NC2 of its features.
        nc3: NC3 of the network's last layer; measured at the last features only.
        nc4: Share of the samples that the network does not give to the nearest class mean.
        trace_within: Trace of the within-class covariance; ``None`` in files of earlier versions.
        trace_between: Trace of the between-class covariance, likewise.
    """

    layer: list[Text]
    dim: list[Size]
    nc1: list[Amount | None]
    nc1_trace: list[Amount | None]
    nc2: list[Amount | None]
    nc3: list[Amount | None]
    nc4: list[Share | None]
    trace_within: list[Amount | None] | None = None
    trace_between: list[Amount | None] | None = None

    def arrays(self, rows: Iterable[int]) -> dict[str, np.ndarray]:
        """One array per column, of these rows; NaN stands for what was not measured."""
        kinds: dict[str, type] = {"epoch": int, "layer": str, "dim": int}
        chosen = np.fromiter(rows, dtype=int)
        return {
            column: self.array(column, kinds.get(column, float))[chosen]
            for column in self.columns()
        }


class Result(_Record, frozen=True, kw_only=True):
    """One measured run; the fields are the keys of its JSON file.

    A result keeps a checked copy of what it is given, so that tables can grow elsewhere.

    Attributes:
        experiment: Name of the experiment, which is a folder of results.
        name: Name of the run within the experiment.
        scale: One of smoke, reduced and full.
        seed: Determines the network's first weights and the order of the samples.
        config: What else determines the numbers: a flat dictionary of plain values.
        data: The samples.
        device: What computed, in words.
        versions: Versions of what computed.
        commit: The library's commit, 40 hexadecimal digits; ``None`` if it is not known.
        started: When the run began, an ISO 8601 time in UTC.
        duration_s: Seconds spent in training, over all parts of a run that was resumed.
        complete: Whether the run went to its end.
        epochs: One row per epoch.
        layers: One row per probed epoch and layer.
        processor: Name of the processor.
        instructions: The vector instructions that were used, in words: with others the same seed
            gives other numbers.
        parts: The parts of a run that was stopped and went on later, empty for one that was not;
            device, versions, commit, processor and instructions are those of the last part.

    Raises:
        ValueError: An entry is not as it is declared, columns of a table have different lengths,
            or rows are not in order.

    Examples:
        >>> result = Result.load("book/results/layerwise/full/mnist-seed0.json")
        >>> result
        Result(experiment='layerwise', name='mnist', scale='full', seed=0, complete=True)
        >>> result.data.samples, result.epochs, result.layers
        (60000, Epochs(201 rows), Layers(10 rows))
    """

    experiment: Name
    name: Name
    scale: Scale
    seed: Index
    config: Settings
    data: Data
    device: Text
    versions: Versions
    commit: Commit | None
    started: Time
    duration_s: Amount
    complete: Flag
    epochs: Epochs
    layers: Layers
    processor: Text | None = None
    instructions: Text | None = None
    parts: list[Part] = []

    def __post_init__(self) -> None:
        for name, kind in declared(type(self)).items():
            value = checked(kind, name, getattr(self, name))
            msgspec.structs.force_setattr(self, name, value)
        _require_date("started", self.started)
        for i, part in enumerate(self.parts):
            _require_date(f"parts[{i}].started", part.started)
        _require_equal_lengths("epochs", self.epochs)
        _require_equal_lengths("layers", self.layers)
        _require_order(self.epochs, self.layers)

    def __hash__(self) -> int:
        return hash((self.experiment, self.name, self.scale, self.seed, self.started))

    def __repr__(self) -> str:
        shown = ("experiment", "name", "scale", "seed", "complete")
        return f"Result({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def config_hash(self) -> str:
        """Hash of the configuration, by the function of that name."""
        return config_hash(self.config)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """The result in a file, all of it checked.

        Args:
            path: A file that `save` wrote.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is damaged or not valid; the sentence names file and key.

        Examples:
            >>> Result.load("book/results/layerwise/full/mnist-seed0.json").data.source
            'MNIST'
        """
        content = Path(path).read_bytes()
        try:
            return _from_content(json.loads(content))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: the result is damaged or not valid: {sentence(error)}"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Check the result once more and write its file in one step.

        The same result gives the same bytes. Each column of a table takes one line.

        Args:
            path: The file; its folder is made if there is none.

        Raises:
            OSError: The file cannot be written.
            ValueError: A table is no longer valid.

        Examples:
            >>> from tempfile import TemporaryDirectory
            >>> result = Result.load("book/results/layerwise/full/mnist-seed0.json")
            >>> with TemporaryDirectory() as folder:
            ...     result.save(f"{folder}/copy.json")
            ...     Result.load(f"{folder}/copy.json") == result
            True
        """
        self.__post_init__()
        content = {"schema": SCHEMA, "config_hash": self.config_hash, **msgspec.to_builtins(self)}
        content["config"] = dict(sorted(self.config.items()))
        write_atomic(path, _text(content).encode())

    def series(self, column: str) -> np.ndarray:
        """A column of the table of epochs; NaN stands for what was not measured.

        Args:
            column: Name of the column.

        Raises:
            ValueError: There is no such column.

        Examples:
            >>> result = Result.load("book/results/layerwise/full/mnist-seed0.json")
            >>> result.series("error")[[0, 20, 200]].round(4)
            array([0.9527, 0.0134, 0.0124])
        """
        if column not in Epochs.columns():
            raise ValueError(_unknown("column", Epochs.columns(), column))
        return self.epochs.array(column)

    def probes(self, layer: str | None = None, epoch: int | None = None) -> dict[str, np.ndarray]:
        """The table of layers, or its rows for one layer or one epoch.

        Args:
            layer: Name of the layer; all layers by default.
            epoch: A probed epoch, or -1 for the last one, -2 for the one before, and so on; all
                epochs by default.

        Returns:
            One array per column; NaN stands for what was not measured.

        Raises:
            ValueError: There is no such layer, or the epoch was not probed.

        Examples:
            >>> result = Result.load("book/results/end-to-end/reduced/mlp-mnist-seed0.json")
            >>> result.probes(epoch=-1)["nc1_trace"].round(2)
            array([1.6 , 0.33, 0.09, 0.04, 0.02, 0.01])
            >>> result.probes("layer 6")["epoch"]
            array([ 0,  5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60])
        """
        names, epochs = self.layers.layer, self.layers.epoch
        if layer is not None and layer not in names:
            raise ValueError(_unknown("layer", dict.fromkeys(names), layer))
        if epoch is not None:
            epoch = _probed(sorted(set(epochs)), epoch)
        return self.layers.arrays(
            i
            for i in range(len(self.layers))
            if layer in (None, names[i]) and epoch in (None, epochs[i])
        )


def config_hash(config: dict[str, Plain]) -> str:
    """Sixteen digits of the SHA-256 of a configuration, whatever the order of its keys.

    Args:
        config: A flat dictionary of plain values.

    Raises:
        ValueError: It is something else.

    Examples:
        >>> config_hash({"b": 1, "a": 0.5})
        '0d51f1cc985d8c22'
    """
    checked(Settings, "config", config)
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()[:16]


def _from_content(content: Any) -> Result:
    """A result from what its file holds."""
    fields = msgspec.structs.fields(Result)
    hashed = {"schema", "config_hash"}
    required = hashed | {field.name for field in fields if field.required}
    require_keys("result", content, required, hashed | {field.name for field in fields})
    checked(Schema, "schema", content["schema"])
    result = Result(**{name: value for name, value in content.items() if name not in hashed})
    if content["config_hash"] != result.config_hash:
        expected = f"{result.config_hash}, the hash of config"
        raise ValueError(refusal("config_hash", expected, content["config_hash"]))
    return result


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _text(content: dict[str, Any]) -> str:
    """A dictionary as JSON: one key a line, and one line for each key of an inner dictionary."""
    lines = []
    for key, value in content.items():
        text = _json(value)
        if isinstance(value, dict):
            inner = ",\n".join(f"    {_json(name)}: {_json(x)}" for name, x in value.items())
            text = f"{{\n{inner}\n  }}"
        lines.append(f"  {_json(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _require_date(key: str, text: str) -> None:
    """The digits of a time must be a day of the calendar and a time of the day."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(refusal(key, "an ISO 8601 time in UTC", text)) from None


def _require_equal_lengths(key: str, table: Table) -> None:
    for column in table.columns():
        entries = table[column]
        if entries is not None and len(entries) != len(table):
            raise ValueError(
                f"{key}.{column} must be as long as {key}.epoch, "
                f"but they have {len(entries)} and {len(table)} entries."
            )


def _require_order(epochs: Epochs, layers: Layers) -> None:
    for before, after in pairwise(epochs.epoch):
        if before >= after:
            raise ValueError(f"epochs.epoch must be increasing, but {after} follows {before}.")
    for before, after in pairwise(layers.epoch):
        if before > after:
            raise ValueError(f"layers.epoch must be in order, but {after} follows {before}.")
    seen = set()
    for row in zip(layers.epoch, layers.layer, strict=True):
        if row in seen:
            raise ValueError(
                f"layers must have one row per epoch and layer, but epoch {row[0]} has two rows "
                f"for {row[1]!r}."
            )
        seen.add(row)


def _probed(epochs: list[int], epoch: int) -> int:
    """A probed epoch; negative numbers count from the end."""
    if epoch in epochs:
        return epoch
    if -len(epochs) <= epoch < 0:
        return epochs[epoch]
    raise ValueError(_unknown("epoch", epochs, epoch))


def _unknown(name: str, known: Iterable[object], value: object) -> str:
    return refusal(name, f"one of {', '.join(map(str, known))}", value)
