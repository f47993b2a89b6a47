"""The experiments on real networks: ``python -m nclib.networks --help``."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from nclib.measured.entries import SCALES
from nclib.measured.files import file_name
from nclib.measured.records import Result
from nclib.networks import parallel
from nclib.networks.experiments.runner import Runner
from nclib.networks.experiments.settings import EXPERIMENTS, Run, runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 0, or 3 if time ran out before all was
    done.
    """
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        parallel.stop()


def run(options: argparse.Namespace) -> int:
    """Carry out the runs that are not complete yet, one after the other."""
    deadline = time.monotonic() + options.time_limit
    for seed in options.seed:
        for wanted in runs(options.experiment, options.scale, seed, options.only):
            if state(wanted, options.out) == "complete":
                continue
            runner = Runner(wanted, options.out, device=options.device)
            total = wanted.stages * wanted.recipe.epochs
            title = f"{wanted.name}, seed {seed}"
            with tqdm(total=total, desc=title, unit="epoch", disable=None) as bar:

                def on_epoch(done: int, bar: tqdm = bar) -> None:
                    bar.update(done - bar.n)

                result = runner.run(deadline=deadline, on_epoch=on_epoch)
            if not result.complete:
                print(f"Time is up; the same command goes on with {title}.", file=sys.stderr)
                return 3
    return 0


def status(options: argparse.Namespace) -> int:
    """Say of each run whether it is complete, part way or missing."""
    for experiment in EXPERIMENTS:
        for scale in SCALES:
            for seed in options.seed:
                for wanted in runs(experiment, scale, seed):
                    words = state(wanted, options.out)
                    print(f"{experiment:14}{scale:9}{wanted.name:20}seed {seed}  {words}")
    return 0


def names(options: argparse.Namespace) -> int:
    """Say which experiments and runs there are."""
    for experiment, function in EXPERIMENTS.items():
        text = " ".join((function.__doc__ or "").split()).rstrip(".")
        print(fill(f"{experiment}: {text}", 72, subsequent_indent="    "))
        scales: dict[str, list[str]] = {}
        for scale in SCALES:
            scales.setdefault(", ".join(r.name for r in runs(experiment, scale)), []).append(scale)
        for text, where in scales.items():
            first = f"  {', '.join(where)}: "
            print(fill(text, 72, initial_indent=first, subsequent_indent="    "))
    return 0


def download(options: argparse.Namespace) -> int:
    """Fetch the official files of a data set."""
    from nclib.networks.data.download import fetch  # needs pooch, as nothing else here does

    fetch(options.name, options.root)
    return 0


def state(wanted: Run, folder: Path) -> str:
    """What the results file of a run says: "complete", "epoch 12 of 80", "missing", or "other
    settings".
    """
    path = Path(folder, wanted.experiment, wanted.scale, file_name(wanted.name, wanted.seed))
    if not path.exists():
        return "missing"
    result = Result.load(path)
    if result.config != wanted.config:
        return "other settings"
    if result.complete:
        return "complete"
    return f"epoch {result.epochs['epoch'][-1]} of {wanted.stages * wanted.recipe.epochs}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m nclib.networks", description=(__doc__ or "").splitlines()[0]
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run", help="train and measure; complete runs are left alone, others go on"
    )
    running.set_defaults(command=run)
    running.add_argument(
        "experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS)
    )
    running.add_argument(
        "--scale", choices=SCALES, default="smoke", help="smoke (default), reduced or full"
    )
    running.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: a GPU if there is one",
    )
    running.add_argument("--only", metavar="NAME", help="one run of the experiment")
    running.add_argument(
        "--time-limit",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="stop after an epoch",
    )
    asking = commands.add_parser("status", help="what is measured and what is missing")
    asking.set_defaults(command=status)
    for command in (running, asking):
        command.add_argument(
            "--seed", type=int, nargs="+", default=[0], metavar="S", help="one or more; default 0"
        )
        command.add_argument(
            "--out", type=Path, default=Path("book/results"), metavar="DIR", help="results' folder"
        )
    listing = commands.add_parser("list", help="the experiments and their runs")
    listing.set_defaults(command=names)
    fetching = commands.add_parser("download", help="fetch the official files of a data set")
    fetching.set_defaults(command=download)
    fetching.add_argument("name", metavar="NAME", help="mnist or cifar10")
    fetching.add_argument(
        "root", type=Path, nargs="?", help="where to; default: the folder that NCLIB_DATA names"
    )
    return top


if __name__ == "__main__":
    sys.exit(main())
