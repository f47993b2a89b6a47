"""Files of measured results: where they lie, class statistics, and writing in one step.

A file is replaced as a whole or not at all, and the same content always gives the same bytes.
"""

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nclib.foundations.statistics import ClassStatistics
from nclib.measured.entries import Settings, checked, require_keys, sentence

ARRAYS = ("counts", "means", "low", "within", "resolution", "note")
NOTE_KEYS = {"network", "layer", "data", "seed", "epoch"}


class StoredStatistics(NamedTuple):
    """Class statistics as they lie in a file.

    Attributes:
        statistics: The class statistics.
        note: Where they come from.
    """

    statistics: ClassStatistics
    note: dict[str, Any]


def file_name(name: str, seed: int) -> str:
    """Name of the file of a run.

    Args:
        name: Name of the run.
        seed: Its seed.

    Examples:
        >>> file_name("mse-baseline", 3)
        'mse-baseline-seed3.json'
    """
    return f"{name}-seed{seed}.json"


def place(
    folder: str | os.PathLike[str], experiment: str, scale: str, name: str, seed: int
) -> Path:
    """Where the file of a run lies.

    Args:
        folder: The folder of all results.
        experiment: Name of the experiment.
        scale: One of smoke, reduced and full.
        name: Name of the run within the experiment.
        seed: Its seed.

    Examples:
        >>> place("book/results", "layerwise", "full", "mnist", 0).as_posix()
        'book/results/layerwise/full/mnist-seed0.json'
    """
    return Path(folder, experiment, scale, file_name(name, seed))


def save_statistics(
    path: str | os.PathLike[str], stats: ClassStatistics, note: Mapping[str, Any]
) -> None:
    """Write class statistics as .npz, with a note that says where they come from.

    Args:
        path: The file; its folder is made if there is none.
        stats: The statistics.
        note: A flat dictionary of plain values with the keys network, layer, data, seed and epoch
            at least.

    Raises:
        OSError: The file cannot be written.
        ValueError: The note lacks a key or holds other values, or the within-class covariance is
            not symmetric.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> stats = ClassStatistics([2, 2], np.eye(3, 2), np.eye(3))
        >>> note = {"network": "mlp", "layer": "layer 1", "data": "digits", "seed": 0, "epoch": 5}
        >>> with TemporaryDirectory() as folder:
        ...     save_statistics(f"{folder}/layer1.npz", stats, note)
        ...     load_statistics(f"{folder}/layer1.npz").note["layer"]
        'layer 1'
    """
    _check_note(note)
    W = stats.within
    if np.abs(W - W.T).max() > 1e-9 * np.abs(W).max():
        raise ValueError(
            "within must be symmetric, but differs from its transpose by up to "
            f"{np.abs(W - W.T).max():.2g}."
        )
    text = json.dumps(dict(sorted(note.items())), ensure_ascii=False, separators=(",", ":"))
    arrays: dict[str, Any] = {
        "counts": stats.counts,
        "means": stats.means,
        "low": stats.low,
        "within": W[np.tril_indices(stats.d)],
        "resolution": np.asarray(stats.resolution),
        "note": np.asarray(text),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # dates its members 1980, whatever the day
    write_atomic(path, buffer.getvalue())


def load_statistics(path: str | os.PathLike[str]) -> StoredStatistics:
    """Class statistics and note as they were saved, to the last bit.

    Args:
        path: A file that `save_statistics` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or not valid.

    Examples:
        >>> stats, note = load_statistics(
        ...     "book/results/statistics/reduced/mlp-mnist-seed0-layer6.npz"
        ... )
        >>> stats.K, stats.d, note["layer"]
        (10, 256, 'layer 6')
    """
    content = Path(path).read_bytes()
    try:
        return _from_arrays(content)
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: the class statistics are damaged or not valid: {sentence(error)}"
        ) from None


def write_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write the record of one network as JSON; a number that is not finite becomes null.

    Args:
        path: The file; missing folders are made.
        record: Text, numbers, None, and lists and mappings of such.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_record(f"{folder}/one.json", {"errors": [0.5, math.inf]})
        ...     json.loads(Path(f"{folder}/one.json").read_text())
        {'errors': [0.5, None]}
    """
    write_atomic(path, (json.dumps(_finite(record), indent=1, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write the file in one step; if that fails the file stays as it was.

    Args:
        path: The file; its folder is made if there is none.
        content: All that it shall hold.

    Raises:
        OSError: The file cannot be written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_atomic(f"{folder}/new/greeting.txt", b"good day")
        ...     Path(folder, "new/greeting.txt").read_bytes()
        b'good day'
    """
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


def _from_arrays(content: bytes) -> StoredStatistics:
    """Statistics and note from the bytes of their file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        counts, means, low, triangle, resolution, text = (file[name] for name in ARRAYS)
    note = json.loads(text.item())
    _check_note(note)
    if low.shape != means.shape:
        raise ValueError(f"low must have shape {means.shape}; the shape given is {low.shape}.")
    within = _symmetric(triangle, len(means))
    return StoredStatistics(ClassStatistics(counts, means, within, resolution.item(), low), note)


def _symmetric(triangle: np.ndarray, d: int) -> np.ndarray:
    """The symmetric matrix with this lower triangle, in columns as `from_features` makes it.

    Later sums then round as they would have without the file.
    """
    lower = np.tril_indices(d)
    if triangle.shape != lower[0].shape:
        raise ValueError(
            f"within must be a triangle of {len(lower[0])} entries; "
            f"the shape given is {triangle.shape}."
        )
    matrix = np.empty((d, d), order="F")
    matrix[lower] = triangle
    matrix.T[lower] = triangle
    return matrix


def _check_note(note: Mapping[str, Any]) -> None:
    require_keys("note", note, NOTE_KEYS)
    checked(Settings, "note", note)
