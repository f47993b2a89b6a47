"""The table of the book: everything once, in one run, written to benchmarks/results.json.

    python -m benchmarks.table            some minutes
    python -m benchmarks.table --quick    small sizes, prints and writes nothing
    python -m benchmarks.table --only "minimizer"    one part of the file anew

Times are CPU seconds of this process, so that other work on the computer counts little; what is
compared takes turns, and a ratio is the median over the rounds of the ratios within a round. The
load of the computer at the start and at the end of each part stands in the file.
"""

import argparse
import json
import os
import platform
import statistics
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import scipy
import torch

from benchmarks import metrics, solver
from nclib import ClassStatistics, Model, measure, minimize

RESULTS = Path(__file__).with_name("results.json")
CASES = [
    metrics.Case(50_000, 512, 10, ("torch, few lines", "torch, streaming", "torch, by class")),
    metrics.Case(20_000, 768, 1_000, ("torch, few lines", "torch, streaming", "torch, by class")),
    metrics.Case(20_000, 768, 10_000, ("torch, few lines", "torch, streaming")),
    metrics.Case(60_000, 64, 30_000, ("torch, few lines", "torch, streaming")),
]
PROBLEMS = [(4, 10, 10), (10, 64, 100), (10, 128, 100)]
CLASSES, WIDTHS = (10, 20, 50, 100, 200), (64, 128, 256, 512, 1024)
MANY_CLASSES = (10, 100, 1_000, 10_000)
# A process of its own for each: only for these routes.
WEIGHED = ("measure", "torch, few lines", "torch, streaming")
Row = dict[str, Any]


# ---- the metrics --------------------------------------------------------------------------------


def metric_rows(cases: list[metrics.Case], rounds: int) -> list[Row]:
    """NC1 by each route: seconds, ratio to `measure`, memory beyond the input, relative error."""
    rows: list[Row] = []
    for case in cases:
        X, y = metrics.gaussian_classes(*case[:3])
        names = ("measure", "ClassStatistics", *case.peers)
        times = [
            {n: metrics.seconds(metrics.ROUTES[n], X, y) for n in names} for _ in range(rounds)
        ]
        truth = metrics.by_float64(X, y)
        for name in names:
            row = {"N": case.N, "d": case.d, "K": case.K, "route": name}
            row["seconds"] = statistics.median(t[name] for t in times)
            row["ratio"] = statistics.median(t[name] / t["measure"] for t in times)
            row["mebibytes"] = metrics.peak(name, case) if name in WEIGHED else None
            row["error"] = abs(metrics.ROUTES[name](X, y) / truth - 1)
            rows.append(_print(row))
    return rows


# ---- the minimizer ------------------------------------------------------------------------------


def by_torch(problem: solver.FullProblem, weights: np.ndarray, cap: float) -> solver.Plain:
    """L-BFGS of torch with its strong Wolfe line search on all of (W, H / scale), in float64."""
    z = torch.tensor(problem.start(weights), requires_grad=True)
    first = (problem(z.detach().numpy()), problem.norm)[1]
    began = process_time()

    def closure() -> float:
        value, gradient = problem(z.detach().numpy())
        z.grad = torch.from_numpy(gradient)
        return value

    while problem.norm > solver.TOLERANCE * first and process_time() - began < cap:
        before = problem.value
        optimizer = torch.optim.LBFGS(
            [z],
            max_iter=200,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(closure)
        problem(z.detach().numpy())
        if problem.value >= before:
            break
    taken, gradient = process_time() - began, problem.norm / first
    reached = gradient <= solver.TOLERANCE
    return solver.Plain(taken, problem.evaluations, problem.value, gradient, reached)


def minimizer_rows(problems: list[tuple[int, int, int]], cap: float) -> list[Row]:
    """`minimize` and optimizers of all (W, H), asked for 1e-6 times the gradient at the start."""
    rows: list[Row] = []
    for K, d, n in problems:
        rng = np.random.default_rng(0)
        means = solver.draw_means(K, d, rng)
        features = np.concatenate([solver.draw_class(mean, n, rng) for mean in means])
        labels = np.repeat(np.arange(K), n)
        for beta in (1.0, 10.0):
            model = Model(solver.LAMBDA, solver.LAMBDA, beta)

            def ours(
                model: Model = model, features: np.ndarray = features, labels: np.ndarray = labels
            ) -> Any:
                return minimize(model, ClassStatistics.from_features(features, labels))

            solution, taken = ours(), min(_seconds(ours) for _ in range(2))
            size = {"K": K, "d": d, "n": n, "beta": beta}
            rows.append(
                _print(size | _of("minimize", taken, 1.0, solution.gradient_norm, 0.0, True))
            )
            weights = model.optimal_weights(ClassStatistics.from_features(features, labels))
            for name, run in {"SciPy L-BFGS-B": solver.run_plain, "torch L-BFGS": by_torch}.items():
                problem = solver.FullProblem(model, features, labels, float(np.sqrt(n)))
                end = run(problem, weights, cap)
                off = end.objective / solution.objective - 1
                ratio = end.seconds / taken
                row = _of(name, end.seconds, ratio, end.gradient, off, end.reached)
                rows.append(_print(size | row))
    return rows


def _of(name: str, seconds: float, ratio: float, gradient: float, off: float, reached: bool) -> Row:
    return {
        "method": name,
        "seconds": seconds,
        "ratio": ratio,
        "gradient": gradient,
        "objective off": off,
        "reached": bool(reached),
    }


# ---- cost against K and d -----------------------------------------------------------------------


def minimize_cost(K: int, d: int) -> Row:
    """One cold `minimize` from statistics with spread in all directions."""
    rng = np.random.default_rng(0)
    A = 0.3 * rng.standard_normal((d, 2 * d)) / np.sqrt(2 * d)
    stats = ClassStatistics(np.full(K, 100), rng.standard_normal((d, K)), A @ A.T)
    model = Model(solver.LAMBDA, solver.LAMBDA, 1.0)
    taken = _seconds(lambda: solver.cold(model, stats))
    tracemalloc.start()
    solution = solver.cold(model, stats)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    row = {"K": K, "d": d, "seconds": taken, "mebibytes": peak}
    row |= {"steps": solution.iterations, "certified": solution.certified}
    return _print(row | {"gradient": solution.gradient_norm})


def measure_cost(K: int, d: int, N: int) -> Row:
    """One `measure` of float32 features."""
    X, y = metrics.gaussian_classes(N, d, K)
    taken = statistics.median(_seconds(lambda: measure(X, y)) for _ in range(3))
    return _print({"K": K, "d": d, "N": N, "seconds": taken})


def _seconds(work: Callable[[], object]) -> float:
    began = process_time()
    work()
    return process_time() - began


def _print(row: Row) -> Row:
    cells = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print("  ".join(cells), flush=True)
    return row


def parts(quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """What makes each part of the table."""
    cases, problems = (metrics.QUICK, PROBLEMS[:1]) if quick else (CASES, PROBLEMS)
    classes, widths = (CLASSES[:2], WIDTHS[:2]) if quick else (CLASSES, WIDTHS)
    many, N = (MANY_CLASSES[:2], 2_000) if quick else (MANY_CLASSES, 20_000)
    wide = 64 if quick else 512
    return {
        "metrics": lambda: metric_rows(cases, rounds=1 if quick else 2),
        "minimizer": lambda: minimizer_rows(problems, cap=2.0 if quick else 10.0),
        "minimize against K": lambda: [minimize_cost(K, wide) for K in classes],
        "minimize against d": lambda: [minimize_cost(10, d) for d in widths],
        "measure against K": lambda: [measure_cost(K, 64, N) for K in many],
        "measure against d": lambda: [measure_cost(10, d, N // 4) for d in widths],
    }


def about() -> dict[str, Any]:
    """The computer and the programs."""
    return {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "torch": torch.__version__,
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--only", choices=list(parts(False)), help="replace one part in the file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if options.only else {"load": {}}
    results |= {"about": about()}
    np.linalg.eigh(np.eye(50))  # load what is loaded lazily
    for name, rows in parts(options.quick).items():
        if options.only in (None, name):
            load = os.getloadavg()[0]
            results[name] = rows()
            results["load"][name] = [round(load, 1), round(os.getloadavg()[0], 1)]
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
