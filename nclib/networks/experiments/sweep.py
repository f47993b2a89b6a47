"""A command for experiments of many small networks: it goes on with those that are missing."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nclib.measured.entries import SCALES
from nclib.measured.files import write_record

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


def stored(out: Path, experiment: str, scale: str, cases: Iterable[Named]) -> list[Record]:
    """The records that are there, in the order of the cases."""
    paths = [path_of(out, experiment, scale, case) for case in cases]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]


def main(
    experiment: str,
    arguments: Sequence[str] | None,
    *,
    cases: Callable[[str], Iterable[Case]],
    carry_out: Callable[[Case], Record],
    sentences: Callable[[Sequence[Record]], Iterable[str]],
    scales: Sequence[str] = SCALES,
    program: str | None = None,
) -> int:
    """Do what the command line says: run what is missing, or print the verdicts of what is there.

    Args:
        experiment: Name of the folder of results, and of the module in this folder.
        arguments: The command line; by default that of this process.
        cases: The networks of a scale.
        carry_out: Trains one and returns its record, which has the entry "duration_s".
        sentences: The lines that the records at hand lead to.
        scales: The scales that the experiment has.
        program: The module that is run, if it is not one of this folder.

    Returns:
        The exit status: 3 if time was up first.
    """
    program = program or f"nclib.networks.experiments.{experiment}"
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("command", choices=("run", "verdict"))
    parser.add_argument("--scale", choices=scales, default="smoke")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.time_limit
    wanted = list(cases(options.scale))
    if options.command == "verdict":
        records = stored(options.out, experiment, options.scale, wanted)
        print(f"{len(records)} of {len(wanted)} networks")
        for sentence in sentences(records):
            print(sentence)
        return 0
    for number, case in enumerate(wanted, start=1):
        path = path_of(options.out, experiment, options.scale, case)
        if path.exists():
            continue
        if time.monotonic() > deadline:
            print("Time is up; the same command goes on.", file=sys.stderr)
            return 3
        record = carry_out(case)
        write_record(path, record)
        print(f"{number} of {len(wanted)}: {case.name}, {record['duration_s']} s", flush=True)
    return 0
