"""Measured results: one JSON file per run, class statistics of trained networks, and where the numbers come from.

A file that is not as it should be is refused with a sentence that names the file, the key and what was expected. Files
are replaced as a whole or not at all, and the same content always gives the same bytes.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from nclib.foundations.statistics import ClassStatistics

SCHEMA = 1
SCALES = ("smoke", "reduced", "full")
LAYER_COLUMNS = {"epoch": int, "layer": str, "dim": int} | {
    f"nc{m}": float for m in ("1", "1_trace", "2", "3", "4")
}
ARRAYS = ("counts", "means", "low", "within", "resolution", "note")
KEYS = {  # which every dictionary must have; "result" is the file as a whole
    "data": {"source", "split", "samples", "classes"},
    "versions": {"python", "torch", "numpy", "nclib"},
    "config": set(),
    "epochs": {"epoch"},
    "layers": set(LAYER_COLUMNS),
    "note": {"network", "layer", "data", "seed", "epoch"},
}
CLOSED = ("result", "data", "layers")  # these have no other keys
# What a value must be: in words, and as a pattern for its JSON text, which NaN, infinity and lists never fit.
NUMBER = r"\d+(\.\d+)?(e[+-]\d+)?"
TIME = r'"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(\+00:00|Z)"'
RULES = {  # by the first pattern that fits the key
    "schema": (SCHEMA, str(SCHEMA)),
    "experiment|name": ("a plain file name", r'"[A-Za-z0-9][\w.-]*"'),
    "scale": (f"one of {', '.join(SCALES)}", f'"({"|".join(SCALES)})"'),
    "seed|epochs.epoch|layers.epoch": ("an integer, not negative", r"\d+"),
    "data.samples|data.classes|layers.dim": ("an integer of at least 1", r"[1-9]\d*"),
    "data.source|device|versions.*|layers.layer": ("a text, not empty", r'".*\S.*"'),
    "data.split": ("train or test", '"(train|test)"'),
    "commit": ("null or 40 hexadecimal digits", 'null|"[0-9a-f]{40}"'),
    "started": ("an ISO 8601 time in UTC", TIME),
    "duration_s": ("a finite number, not negative", NUMBER),
    "complete": ("true or false", "true|false"),
    "config.*|note.*": ("a plain value", rf'null|true|false|".*"|-?{NUMBER}'),
    ".*error|.*[.]nc4.*": (
        "null or a number in [0, 1]",
        r"null|0|-?0\.0|0\.\d+|\d(\.\d+)?e-\d+|1(\.0)?",
    ),
    ".*loss|.*[.]nc.*": ("null or a finite number, not negative", rf"null|-0\.0|{NUMBER}"),
    ".*": ("null or a finite number", rf"null|-?{NUMBER}"),
}


@dataclass(frozen=True)
class Result:
    """One measured run. The fields are the keys of its JSON file; ValueError if one is not as it should be."""

    experiment: str
    name: str  # of the run within the experiment
    scale: str  # "smoke", "reduced" or "full"
    seed: int
    config: dict  # what determines the numbers: flat, plain values
    data: dict  # "source" (data set and which copy), "split" ("train" or "test"), "samples", "classes"
    device: str  # in words
    versions: dict[str, str]  # of "python", "torch", "numpy", "nclib" and whatever else matters
    commit: str | None  # 40 hexadecimal digits
    started: str  # ISO 8601, in UTC
    duration_s: float  # spent in training, over all parts of a run that was resumed
    complete: bool  # whether the run went to its end
    epochs: dict[
        str, list
    ]  # columns of equal length: "epoch" and any others; None is "not measured"
    layers: dict[
        str, list
    ]  # the columns LAYER_COLUMNS, one row per probed epoch and layer; None is "not measured"

    def __post_init__(self) -> None:
        _check("result", {"schema": SCHEMA, "config_hash": self.config_hash} | vars(self))
        epochs, probed = self.epochs["epoch"], self.layers["epoch"]
        _require(epochs == sorted(set(epochs)), "epochs.epoch", "increasing", epochs)
        _require(probed == sorted(probed), "layers.epoch", "in order", probed)
        rows = list(zip(probed, self.layers["layer"], strict=True))
        _require(len(set(rows)) == len(rows), "layers", "one row per epoch and layer", rows)

    @property
    def config_hash(self) -> str:
        """Hash of the configuration, by the function of that name."""
        return config_hash(self.config)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Result":
        """Read a file and check all of it; ValueError if it is damaged or not valid."""
        try:
            _check("result", values := json.loads(Path(path).read_bytes()))
            hashed, stated = config_hash(values["config"]), values["config_hash"]
            _require(stated == hashed, "config_hash", f"{hashed}, that of config", stated)
            return cls(**{key: values[key] for key in cls.__dataclass_fields__})
        except ValueError as error:
            raise ValueError(f"{path}: the result is damaged or not valid: {error}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Check the result once more and write its file in one step; each column of a table takes one line."""
        self.__post_init__()
        lines = []
        for key, value in (
            {"schema": SCHEMA, "config_hash": self.config_hash} | vars(self)
        ).items():
            text = _json(value)
            if isinstance(value, dict):
                order = (
                    list(LAYER_COLUMNS)
                    if key == "layers"
                    else sorted(value, key=lambda k: (k != "epoch", k))
                )
                text = (
                    "{\n"
                    + ",\n".join(f"    {_json(k)}: {_json(value[k])}" for k in order)
                    + "\n  }"
                )
            lines.append(f"  {_json(key)}: {text}")
        write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    def series(self, column: str) -> np.ndarray:
        """Return a column of the table of epochs as floats, NaN where nothing was measured."""
        _require(column in self.epochs, "the column", f"one of {', '.join(self.epochs)}", column)
        return np.array(self.epochs[column], dtype=float)

    def probes(self, layer: str | None = None, epoch: int | None = None) -> dict[str, np.ndarray]:
        """Return the table of layers as arrays, or its rows for one layer or one epoch; NaN is "not measured".

        ``probes(epoch=-1)["nc1"]`` goes through the layers at the last probed epoch, ``probes("block3")["nc1"]``
        through the epochs of one layer. A negative epoch counts the probed epochs from the end.
        """
        names, epochs, probed = (
            self.layers["layer"],
            self.layers["epoch"],
            sorted(set(self.layers["epoch"])),
        )
        _require(
            layer is None or layer in names,
            "the layer",
            f"one of {', '.join(dict.fromkeys(names))}",
            layer,
        )
        if epoch is not None:
            _require(
                epoch in probed or -len(probed) <= epoch < 0,
                "the epoch",
                f"one of those probed, {probed}",
                epoch,
            )
            epoch = epoch if epoch >= 0 else probed[epoch]
        rows = [i for i, n in enumerate(names) if layer in (None, n) and epoch in (None, epochs[i])]
        return {
            c: np.array([self.layers[c][i] for i in rows], kind)
            for c, kind in LAYER_COLUMNS.items()
        }


KEYS["result"] = {"schema", "config_hash", *Result.__dataclass_fields__}


def config_hash(config: dict) -> str:
    """Return 16 digits of the SHA-256 of a flat dictionary of plain values, whatever the order of its keys."""
    _check("config", config)
    return sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[
        :16
    ]


def file_name(name: str, seed: int) -> str:
    """Return the name of a result's file, which lies in the folder experiment/scale."""
    return f"{name}-seed{seed}.json"


def load_all(folder: str | os.PathLike, experiment: str, scale: str | None = None) -> list[Result]:
    """Read an experiment's results at one or every scale, sorted by name and seed; ValueError if one is misplaced."""
    found = []
    for path in Path(folder, experiment).glob(f"{scale or '*'}/*.json"):
        found.append(r := Result.load(path))
        place = Path(folder, r.experiment, r.scale, file_name(r.name, r.seed))
        if path != place:
            raise ValueError(f"{path}: the result in this file belongs in {place}.")
    return sorted(found, key=lambda r: (r.name, r.seed, SCALES.index(r.scale)))


def over_seeds(
    results: Sequence[Result], what: str | Callable
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return mean, sample deviation (NaN for one seed) and count of a column, or a function, of one run's results."""
    runs = {(r.experiment, r.name, r.scale, r.config_hash) for r in results}
    if len(runs) != 1 or len({r.seed for r in results}) != len(results):
        raise ValueError(
            f"results must be one run at different seeds, not {[(r.name, r.seed) for r in results]}."
        )
    x = np.array(
        [r.series(what) if isinstance(what, str) else what(r) for r in results], dtype=float
    )
    return (
        x.mean(axis=0),
        x.std(axis=0, ddof=1) if len(x) > 1 else np.full(x.shape[1:], np.nan),
        len(x),
    )


def provenance(results: Sequence[Result]) -> str:
    """Say in one line where results come from: data, scale, device, seeds, dates, commits, time in all."""
    _require(len(results) > 0, "results", "at least one", results)
    facts = [
        (
            f"{r.data['source']}, {r.data['samples']:,} {r.data['split'].replace('train', 'training')} images",
            r.scale,
            r.device,
            r.commit[:7] if r.commit else "not recorded",
        )
        for r in results
    ]
    data, scale, device, commit = (
        " and ".join(dict.fromkeys(column)) for column in zip(*facts, strict=True)
    )
    seeds, days = sorted({r.seed for r in results}), sorted({r.started[:10] for r in results})
    seed = (
        f"{seeds[0]}-{seeds[-1]}"
        if seeds[-1] - seeds[0] == len(seeds) - 1 > 0
        else ", ".join(map(str, seeds))
    )
    day = " to ".join(dict.fromkeys((days[0], days[-1])))
    s, missing = sum(r.duration_s for r in results), sum(not r.complete for r in results)
    time = (
        f"{s:.1f} seconds"
        if s < 99
        else f"{s / 60:.0f} minutes"
        if s < 5999
        else f"{s / 3600:.1f} hours"
    )
    rest = f"; incomplete ({missing} of {len(results)} runs unfinished)" if missing else ""
    plural = "s" if len(seeds) > 1 else ""
    return f"{data}; {scale} scale; {device}; seed{plural} {seed}; {day}; commit {commit}; {time} in all{rest}."


def save_statistics(path: str | os.PathLike, stats: ClassStatistics, note: dict) -> None:
    """Write class statistics as .npz, with a flat note that says where they come from (KEYS["note"] at least)."""
    _check("note", note)
    W = stats.within
    _require(np.abs(W - W.T).max() <= 1e-9 * np.abs(W).max(), "within", "symmetric", W)
    note = _json(dict(sorted(note.items())))
    arrays = (
        stats.counts,
        stats.means,
        stats.low,
        W[np.tril_indices(stats.d)],
        stats.resolution,
        note,
    )
    np.savez(
        buffer := io.BytesIO(), **dict(zip(ARRAYS, arrays, strict=True))
    )  # dates its members 1980
    write_atomic(path, buffer.getvalue())


def load_statistics(path: str | os.PathLike) -> tuple[ClassStatistics, dict]:
    """Read class statistics and note as they were saved; ValueError if the file is damaged or not valid."""
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
            counts, means, low, triangle, resolution, note = (file[name] for name in ARRAYS)
        _check("note", note := json.loads(note.item()))
        lower = np.tril_indices(len(means))
        _require(
            triangle.shape == lower[0].shape,
            "within",
            f"a triangle of {len(lower[0])} entries",
            triangle.shape,
        )
        W = np.empty(
            (len(means), len(means)), order="F"
        )  # as from_features, so that later sums round alike
        W[lower] = W.T[lower] = triangle
        return ClassStatistics(counts, means, W, resolution.item(), low), note
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: the class statistics are damaged or not valid: {error}"
        ) from None


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Make this the content of the file, folders included; if it fails the file stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _require(fits: object, key: str, expected: object, value: object) -> None:
    if not fits:
        raise ValueError(f"{key} must be {expected}, but it is {value!r:.99}.")


def _check(key: str, value: object) -> None:
    """Check a dictionary by its keys and the rules of what it holds, anything else by its own rule."""
    if key not in KEYS:
        expected, pattern = _rule(key.partition("[")[0])
        return _require(re.fullmatch(pattern, _json(value), re.ASCII), key, expected, value)
    _require(isinstance(value, dict), key, "a dictionary", value)
    for name in sorted(KEYS[key] ^ set(value)):
        if name in KEYS[key] or key in CLOSED:
            raise ValueError(
                f"{key} {'lacks' if name in KEYS[key] else 'must not have'} the key {name!r}."
            )
    if key in ("epochs", "layers"):
        for name, x in value.items():
            fits = (
                isinstance(x, list)
                and isinstance(value["epoch"], list)
                and len(x) == len(value["epoch"])
            )
            _require(fits, f"{key}.{name}", f"a list, as long as {key}.epoch", x)
        value = {f"{name}[{i}]": x for name, column in value.items() for i, x in enumerate(column)}
    for name, x in value.items():
        _check(name if key == "result" else f"{key}.{name}", x)


@cache
def _rule(key: str) -> tuple[object, str]:
    return next(rule for pattern, rule in RULES.items() if re.fullmatch(pattern, key, re.DOTALL))


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=lambda x: []).encode
