"""A command for experiments of many small networks: it goes on with those that are missing."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nclib.measured.entries import SCALES

Record = dict[str, Any]


class Named(Protocol):
    """What describes one network."""

    @property
    def name(self) -> str:
        """Its name as a file."""
        ...


Case = TypeVar("Case", bound=Named)


def path_of(out: Path, experiment: str, scale: str, case: Named) -> Path:
    """The file of a network's record."""
    return out / experiment / scale / f"{case.name}.json"


def main(
    experiment: str,
    arguments: Sequence[str] | None,
    *,
    cases: Callable[[str], Iterable[Case]],
    carry_out: Callable[[Case], Record],
    sentences: Callable[[Sequence[Record]], Iterable[str]],
) -> int:
    """Do what the command line says: run what is missing, or print the verdicts of what is there.

    Args:
        experiment: Name of the module in this folder, and of the folder of results.
        arguments: The command line; by default that of this process.
        cases: The networks of a scale.
        carry_out: Trains one and returns its record, which has the entry "duration_s".
        sentences: The lines that the records at hand lead to.

    Returns:
        The exit status: 3 if time was up first.
    """
    parser = argparse.ArgumentParser(prog=f"python -m nclib.networks.experiments.{experiment}")
    parser.add_argument("command", choices=("run", "verdict"))
    parser.add_argument("--scale", choices=SCALES, default="smoke")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.time_limit
    wanted = list(cases(options.scale))
    paths = [path_of(options.out, experiment, options.scale, case) for case in wanted]
    if options.command == "verdict":
        records = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
        print(f"{len(records)} of {len(wanted)} networks")
        for sentence in sentences(records):
            print(sentence)
        return 0
    for number, (case, path) in enumerate(zip(wanted, paths, strict=True), start=1):
        if path.exists():
            continue
        if time.monotonic() > deadline:
            print("Time is up; the same command goes on.", file=sys.stderr)
            return 3
        record = carry_out(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
        print(f"{number} of {len(wanted)}: {case.name}, {record['duration_s']} s", flush=True)
    return 0
