"""Metrics of features in files: ``python -m nclib measure --help``."""

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nclib._tables import METRICS, text_table
from nclib.foundations.metrics import measure

ARRAYS = ("features", "labels", "weights", "bias")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status, 1 after a message on what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, TypeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    """Print the metrics of the layers in one or more files."""
    given = {name: getattr(options, name) for name in ARRAYS if getattr(options, name)}
    if options.files and given:
        raise ValueError("give either .npz files or single arrays, but both are there.")
    if not options.files and not {"features", "labels"} <= set(given):
        raise ValueError("give .npz files, or --features and --labels.")
    records = []
    refused = []
    for path in options.files:
        try:
            records.append(_record(path.stem, _arrays_of(path)))
        except (ValueError, TypeError, OSError) as error:
            named = str(path) in str(error)
            refused.append(str(error) if named else f"{path} cannot be measured: {error}")
    if not options.files:
        arrays = {name: _array_of(path) for name, path in given.items()}
        records.append(_record(given["features"].stem, arrays))
    if options.json:
        print(json.dumps(records, indent=1))
    elif records:
        print(text_table(records, ("layer", "N", "d", "K", *METRICS)))
    for sentence in refused:
        print(sentence, file=sys.stderr)
    return 1 if refused else 0


def _record(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of one layer."""
    features, labels, weights, bias = (arrays.get(name) for name in ARRAYS)
    assert features is not None and labels is not None
    found = measure(features, labels, weights, bias)
    N, d = features.shape
    K = int(np.max(labels)) + 1 if weights is None else len(weights)
    values = {key: None if x is None else float(x) for key, x in found._asdict().items()}
    return {"layer": name, "N": N, "d": d, "K": K} | values


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an .npz file by name.

    Raises:
        ValueError: An array is missing or has another name, or the file is something else.
    """
    with _naming(path), ExitStack() as stack:
        raw = stack.enter_context(open(path, "rb"))  # NumPy leaves a damaged file open
        file = np.load(raw, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array; say with --features or --labels what it is")
        stack.enter_context(file)
        names = set(file.files)
        if not {"features", "labels"} <= names <= set(ARRAYS):
            raise ValueError(
                "it must hold features and labels, perhaps weights and bias, as np.savez writes "
                f"them, but it holds {', '.join(sorted(names)) or 'nothing'}"
            )
        return {name: file[name] for name in file.files}


def _array_of(path: Path) -> np.ndarray:
    """The array in an .npy file, as a memory map: only what is looked at is read.

    Raises:
        ValueError: The file is something else.
    """
    with _naming(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it holds several arrays; give it without an option")
        return array


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what NumPy says of a file into a sentence that names it."""
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        text = str(error).rstrip(".")
        if "pickle" in text or "Python objects" in text:
            text = (
                "it holds pickled objects, which can run programs and are never read; save plain "
                "arrays with np.save or np.savez"
            )
        raise ValueError(f"{path} cannot be measured: {text}.") from error


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m nclib", description="Neural collapse, measured in files of features."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    measuring = commands.add_parser(
        "measure",
        help="print the metrics of features in files",
        description="Print the metrics of features (N, d) with integer labels (N,), and with the "
        "last layer's weights (K, d) and bias (K,) also NC3 and NC4.",
    )
    measuring.set_defaults(command=_measure)
    measuring.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE.npz",
        help="one file per layer, with the arrays features and labels, perhaps weights and bias",
    )
    for name in ARRAYS:
        measuring.add_argument(
            f"--{name}",
            type=Path,
            metavar="FILE.npy",
            help="or a file for each array, not read as a whole" if name == "features" else None,
        )
    measuring.add_argument("--json", action="store_true", help="all digits, as JSON")
    return top


if __name__ == "__main__":
    sys.exit(main())
