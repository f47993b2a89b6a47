"""The experiments on real networks: ``python -m nclib.networks --help``."""

import argparse
import csv
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from nclib.measured.entries import SCALES
from nclib.measured.files import place
from nclib.measured.growth import stage_ends
from nclib.measured.records import Result
from nclib.networks import parallel
from nclib.networks.experiments.runner import Runner
from nclib.networks.experiments.settings import EXPERIMENTS, Run, runs
from nclib.networks.experiments.signals import Stop, listening

LARGEST_SEED = 2**31 - 1
STATUS = (
    "exit status: 0 all is done; 1 something is wrong, and a sentence says what; 2 the command "
    "line makes no sense; 3 the time limit came first; 128 and the number of a signal (130 for "
    "Ctrl-C, 143 for SIGTERM, 129 for SIGHUP) if one asked to stop. After 3 and after a signal "
    "all is saved, and the same command goes on."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except BrokenPipeError:  # whoever reads has seen enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        parallel.stop()


def run(options: argparse.Namespace) -> int:
    """Carry out the runs that are not complete yet, one after the other or several at a time."""
    wanted = []
    for seed in options.seed:
        for settings in runs(options.experiment, options.scale, seed, options.only):
            if state(settings, options.out) == "complete":
                path = place_of(settings, options.out)
                _say(f"{_title(settings)}: complete already, {path}")
            else:
                wanted.append(settings)
    if options.jobs > 1 and parallel.several():
        raise ValueError("--jobs must be 1 under torchrun, which starts the processes itself.")
    deadline = time.monotonic() + options.time_limit
    if options.jobs > 1 and len(wanted) > 1:
        return _spread(wanted, options, deadline)
    try:
        with listening() as stop:
            for settings in wanted:
                status = _carry_out(settings, options, deadline, stop)
                if status:
                    return status
    except KeyboardInterrupt:
        text = "Stopped at once; the same command goes on from what was saved last."
        print(text, file=sys.stderr)
        return stop.status
    return 0


def _carry_out(settings: Run, options: argparse.Namespace, deadline: float, stop: Stop) -> int:
    """One run; its exit status."""
    title = _title(settings)
    runner = Runner(settings, options.out, device=options.device)
    if runner.done:
        _say(f"{title}: goes on after epoch {runner.done} of {_total(runner)}")
    quiet = options.plain or not sys.stderr.isatty() or parallel.rank() > 0
    begun = time.monotonic()
    with tqdm(
        total=runner.total, initial=runner.done, desc=title, unit="epoch", disable=quiet
    ) as bar:

        def on_epoch(done: int) -> None:
            bar.total = runner.total
            bar.update(done - bar.n)
            if quiet:
                loss, error = (runner.epochs[f"batch_{key}"][-1] for key in ("loss", "error"))
                seconds = time.monotonic() - begun
                _say(
                    f"{title}: epoch {done} of {_total(runner)}, loss {loss:.4g}, "
                    f"error {error:.4f}, {seconds:.0f} s"
                )

        result = runner.run(deadline=deadline, stop=stop, on_epoch=on_epoch)
        bar.total = runner.total
    if result.complete:
        _say(f"{title}: complete, {runner.path}")
        return 0
    reason = f"Stopped by {stop.name}" if stop() else "Time is up"
    print(
        f"{reason} after epoch {runner.done} of {_total(runner)}; all is saved, and the same "
        f"command goes on with {title}.",
        file=sys.stderr,
    )
    return stop.status if stop() else 3


def _total(runner: Runner) -> str:
    """The epochs of a run, in words."""
    return runner.settings.of_all(runner.total)


def _spread(wanted: list[Run], options: argparse.Namespace, deadline: float) -> int:
    """Several runs at a time, each in a process of its own, to which signals are handed on."""
    children: list[subprocess.Popen] = []

    def hand_on(number: int) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    def carry_out(settings: Run) -> int:
        left = deadline - time.monotonic()
        if stop() or left < 0:
            return stop.status if stop() else 3
        command = [
            *(sys.executable, "-m", "nclib.networks", "run", settings.experiment, "--plain"),
            *("--scale", settings.scale, "--only", settings.name, "--seed", str(settings.seed)),
            *("--device", options.device, "--out", str(options.out), "--time-limit", str(left)),
        ]
        # Sessions of their own: what a terminal sends reaches them through this process only.
        child = subprocess.Popen(command, start_new_session=True)
        children.append(child)
        return child.wait()

    with listening(hand_on) as stop, ThreadPoolExecutor(options.jobs) as pool:
        statuses = list(pool.map(carry_out, wanted))
    failed = [_title(s) for s, status in zip(wanted, statuses, strict=True) if status not in (0, 3)]
    if stop():
        return stop.status
    if failed:
        print(f"Not done: {'; '.join(failed)}.", file=sys.stderr)
        return 1
    return max(statuses)


def _title(settings: Run) -> str:
    return f"{settings.name}, seed {settings.seed}"


def _say(text: str) -> None:
    """Print a line, from one process and at once."""
    if parallel.rank() == 0:
        print(text, flush=True)


def status(options: argparse.Namespace) -> int:
    """Say of each run whether it is complete, part way or missing, or what is wrong with it."""
    for settings in _asked(options):
        try:
            words = state(settings, options.out)
        except (ValueError, OSError) as error:
            words = str(error)
        print(
            f"{settings.experiment:14}{settings.scale:9}{settings.name:20}seed {settings.seed}  "
            f"{words}"
        )
    return 0


def _asked(options: argparse.Namespace) -> Iterator[Run]:
    """The runs that pass the filters."""
    found = False
    for experiment in [options.experiment] if options.experiment else EXPERIMENTS:
        for scale in [options.scale] if options.scale else SCALES:
            for seed in options.seed:
                for settings in runs(experiment, scale, seed):
                    if options.only in (None, settings.name):
                        found = True
                        yield settings
    if not found:
        raise ValueError(f"there is no run {options.only!r} there.")


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


def export(options: argparse.Namespace) -> int:
    """Print a table of a result as CSV; what was not measured is empty."""
    result = Result.load(options.file)
    table = getattr(result, options.table)
    columns = [column for column in table.columns() if table[column] is not None]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(table[column] for column in columns), strict=True))
    return 0


def download(options: argparse.Namespace) -> int:
    """Fetch the official files of a data set."""
    from nclib.networks.data.download import fetch  # needs pooch, as nothing else here does

    fetch(options.name, options.root)
    return 0


def place_of(settings: Run, folder: Path) -> Path:
    """The results file of a run."""
    return place(folder, settings.experiment, settings.scale, settings.name, settings.seed)


def state(settings: Run, folder: Path) -> str:
    """What the results file of a run says: "complete", "epoch 12 of 80", "missing" or "other
    settings".

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, or belongs elsewhere.
    """
    path = place_of(settings, folder)
    if not path.exists():
        return "missing"
    result = Result.load(path)
    home = place(folder, result.experiment, result.scale, result.name, result.seed)
    if home != path:
        raise ValueError(f"{path}: the result in this file belongs in {home}.")
    if result.config != settings.config:
        return "other settings"
    if result.complete:
        return "complete"
    ends = stage_ends(result.epochs.epoch, result.epochs.stage) or [0]
    *before, done = [0, *ends]
    return f"epoch {done} of {settings.of_all(settings.most(len(before) - 1, before[-1]))}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m nclib.networks", description=(__doc__ or "").splitlines()[0]
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        help="train and measure; complete runs are left alone, others go on",
        epilog=STATUS,
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
    running.add_argument(
        "--time-limit",
        type=_seconds,
        default=math.inf,
        metavar="SECONDS",
        help="stop after the epoch in which the time is up",
    )
    running.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="runs at a time; default 1"
    )
    running.add_argument(
        "--plain", action="store_true", help="a line per epoch, also in a terminal"
    )
    asking = commands.add_parser("status", help="what is measured and what is missing")
    asking.set_defaults(command=status)
    asking.add_argument(
        "experiment",
        nargs="?",
        choices=EXPERIMENTS,
        metavar="EXPERIMENT",
        help="default: all of them",
    )
    asking.add_argument("--scale", choices=SCALES, help="default: all of them")
    for command in (running, asking):
        command.add_argument("--only", metavar="NAME", help="one run of the experiment")
        command.add_argument(
            "--seed", type=_seed, nargs="+", default=[0], metavar="S", help="one or more; default 0"
        )
        command.add_argument(
            "--out", type=Path, default=Path("book/results"), metavar="DIR", help="results' folder"
        )
    listing = commands.add_parser("list", help="the experiments and their runs")
    listing.set_defaults(command=names)
    exporting = commands.add_parser("export", help="print a table of a result as CSV")
    exporting.set_defaults(command=export)
    exporting.add_argument("file", type=Path, metavar="FILE.json", help="a results file")
    exporting.add_argument(
        "--table", choices=("epochs", "layers"), default="epochs", help="epochs (default) or layers"
    )
    fetching = commands.add_parser("download", help="fetch the official files of a data set")
    fetching.set_defaults(command=download)
    fetching.add_argument("name", metavar="NAME", help="mnist or cifar10")
    fetching.add_argument(
        "root", type=Path, nargs="?", help="where to; default: the folder that NCLIB_DATA names"
    )
    return top


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must lie in 0..{LARGEST_SEED}, but it is {value}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but it is {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must not be negative, but it is {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
