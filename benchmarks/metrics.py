"""NC1 and its companions against what people use: time, memory, digits, for 10 to 30,000 classes.

    python -m benchmarks.metrics            some minutes
    python -m benchmarks.metrics --quick    small sizes

Times are CPU seconds of this process. The routes of a case take turns, so that a busy computer
disturbs all of them alike, and a ratio is the median over the rounds of the ratios within a round.
Set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to choose the threads.

The peers' algorithms are written anew: the d x d covariances of the features' own type and a
pseudoinverse, by SciPy and by torch, class by class; a streaming form in two passes over batches;
and the few lines of plain torch that need all residuals at once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import hadamard, helmert
from scipy.sparse.linalg import svds

from nclib import Accumulator, ClassStatistics, measure, nc1, nc1_trace, nc2

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


# ---- routes: features (N, d), labels (N,) -> NC1 -----------------------------------------------


def by_statistics(X, y):
    return nc1(ClassStatistics.from_features(X, y))


def by_measure(X, y):
    return measure(X, y).nc1


def by_accumulator(X, y, batch=500):
    total = Accumulator(int(y.max()) + 1)
    for start in range(0, len(y), batch):
        total.update(X[start : start + batch], y[start : start + batch])
    return nc1(total.compute())


def covariances(X, y):
    """Sigma_W and Sigma_B as d x d arrays of the features' own type, class by class."""
    K, d = int(y.max()) + 1, X.shape[1]
    means, within = np.empty((K, d), X.dtype), np.zeros((d, d), X.dtype)
    for k in range(K):
        H = X[y == k]
        means[k] = H.mean(axis=0)
        R = H - means[k]
        within += R.T @ R
    M = means - means.mean(axis=0)
    return within / X.dtype.type(len(X)), M.T @ M / X.dtype.type(K), K


def by_scipy_pinv(X, y):
    within, between, K = covariances(X, y)
    return float(np.trace(within @ scipy.linalg.pinv(between))) / K


def by_numpy_pinv(X, y):
    """NumPy cuts at 1e-15 whatever the type, so in float32 it inverts rounding noise."""
    within, between, K = covariances(X, y)
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-15))) / K


def by_truncated_svd(X, y):
    within, between, K = covariances(X, y)
    U, s, V = svds(between, k=K - 1, random_state=0)
    return float(np.trace(within @ (V.T / s) @ U.T)) / K


def by_torch_classes(X, y):
    """Class by class, as most published code does it."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    K, d = int(y.max()) + 1, X.shape[1]
    means, within = torch.empty(K, d), torch.zeros(d, d)
    for k in range(K):
        H = X[y == k]
        means[k] = H.mean(dim=0)
        R = H - means[k]
        within += R.T @ R
    return _torch_nc1(within / len(X), means)


def by_torch_stream(X, y, batch=1000):
    """Running sums over batches, in two passes: first the means, then the scatter about them."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    K, d = int(y.max()) + 1, X.shape[1]
    sums, counts = torch.zeros(K, d), torch.zeros(K)
    for h, k in zip(X.split(batch), y.split(batch), strict=True):
        sums.index_add_(0, k, h)
        counts += torch.bincount(k, minlength=K)
    means, within = sums / counts[:, None], torch.zeros(d, d)
    for h, k in zip(X.split(batch), y.split(batch), strict=True):
        R = h - means[k]
        within += R.T @ R
    return _torch_nc1(within / len(X), means)


def by_torch_lines(X, y):
    """All residuals at once: the shortest there is, and as much memory again as the features."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    K = int(y.max()) + 1
    means = torch.zeros(K, X.shape[1]).index_add_(0, y, X) / torch.bincount(y)[:, None]
    R = X - means[y]
    return _torch_nc1(R.T @ R / len(X), means)


def _torch_nc1(within, means):
    M = means - means.mean(dim=0)
    return float(torch.trace(within @ torch.linalg.pinv(M.T @ M / len(M)))) / len(M)


def by_float64(X, y):
    """The truth where conditions are good: dense covariances in float64 throughout."""
    X = X.astype(np.float64)
    K, d = int(y.max()) + 1, X.shape[1]
    means = np.zeros((K, d))
    np.add.at(means, y, X)
    means /= np.bincount(y)[:, None]
    M = means - means.mean(axis=0)
    R = X - means[y]
    cutoff = 1e-12 if d >= K else None
    pinv = scipy.linalg.pinvh(M.T @ M / K, rtol=cutoff)
    return float(np.sum((R.T @ R / len(X)) * pinv)) / K


Route = Callable[[np.ndarray, np.ndarray], float]
OURS: dict[str, Route] = {
    "measure": by_measure,
    "ClassStatistics": by_statistics,
    "Accumulator": by_accumulator,
}
PEERS: dict[str, Route] = {
    "torch, few lines": by_torch_lines,
    "torch, streaming": by_torch_stream,
    "torch, by class": by_torch_classes,
    "scipy pinv": by_scipy_pinv,
}
ROUTES = OURS | PEERS
WRONG: dict[str, Route] = {"numpy pinv": by_numpy_pinv, "truncated SVD": by_truncated_svd}


# ---- time and memory ---------------------------------------------------------------------------


class Case(NamedTuple):
    """Sizes of a problem, and the peers that finish there in reasonable time."""

    N: int
    d: int
    K: int
    peers: tuple[str, ...]


CASES = [
    Case(50_000, 512, 10, tuple(PEERS)),
    Case(50_000, 2_048, 100, ("torch, few lines", "torch, streaming")),
    Case(20_000, 768, 1_000, ("torch, few lines", "torch, streaming", "torch, by class")),
    Case(20_000, 768, 10_000, ("torch, few lines", "torch, streaming")),
    Case(60_000, 64, 30_000, ("torch, few lines", "torch, streaming")),
]
QUICK = [
    Case(10_000, 256, 10, tuple(PEERS)),
    Case(4_000, 128, 400, ("torch, few lines", "torch, streaming", "torch, by class")),
    Case(8_000, 16, 4_000, ("torch, few lines", "torch, streaming")),
]


def gaussian_classes(N, d, K):
    """float32 features with unit spread about Gaussian means, in random order; no empty class."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.concatenate([np.arange(K), rng.integers(0, K, N - K)]))
    X = rng.standard_normal((N, d), dtype=np.float32)
    X += rng.standard_normal((K, d), dtype=np.float32)[y]
    return X, y


def seconds(function, *arguments):
    """CPU seconds of one call."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def peak(route, case):
    """MiB that a route needs beyond its input, measured in a process of its own."""
    sizes = [str(size) for size in case[:3]]
    command = [sys.executable, "-m", "benchmarks.metrics", "--peak", route, *sizes]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(route, N, d, K):
    ROUTES[route](*gaussian_classes(200, 16, 4))  # load what is loaded lazily
    X, y = gaussian_classes(N, d, K)
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():  # not on Linux
        print("nan")
        return
    # The high-water mark starts anew at what is resident now.
    (process / "clear_refs").write_text("5")
    before = resident("VmRSS")
    ROUTES[route](X, y)
    print(resident("VmHWM") - before)


def resident(field):
    """A memory field of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) / 1024


def print_times(cases, rounds):
    for case in cases:
        X, y = gaussian_classes(*case[:3])
        names = (*OURS, *case.peers)
        rows = [{name: seconds(ROUTES[name], X, y) for name in names} for _ in range(rounds)]
        truth = by_float64(X, y)
        print(
            f"\nN = {case.N:,}, d = {case.d:,}, K = {case.K:,}, float32 "
            f"({X.nbytes / 2**20:.0f} MiB), {rounds} rounds"
        )
        print(f"{'route':<18}{'seconds':>9}{'x measure':>11}{'peak MiB':>10}{'error':>10}")
        for name in names:
            t = statistics.median(row[name] for row in rows)
            ratio = statistics.median(row[name] / row["measure"] for row in rows)
            error = abs(ROUTES[name](X, y) / truth - 1)
            print(f"{name:<18}{t:>9.3f}{ratio:>11.2f}{peak(name, case):>10.0f}{error:>10.0e}")


# ---- all metrics from the same statistics ------------------------------------------------------


def all_by_statistics(stats):
    return nc1(stats), nc1_trace(stats), nc2(stats)


def all_by_torch(within, means):
    """The same from float32 covariances and means, as plain torch does it."""
    K = means.shape[1]
    M = means - means.mean(dim=1, keepdim=True)
    between, G = M @ M.T / K, M.T @ M
    frame = (torch.eye(K) - 1 / K) / (K - 1) ** 0.5
    return (
        float(torch.trace(within @ torch.linalg.pinv(between))) / K,
        float(torch.trace(within) / torch.trace(between)),
        float(torch.linalg.norm(G / torch.linalg.norm(G) - frame)),
    )


def print_from_statistics(sizes, rounds):
    print("\nNC1, its trace form and NC2 from given statistics")
    print(f"{'K, d':<18}{'nclib':>9}{'torch':>9}{'x nclib':>9}{'error':>10}")
    for K, d in sizes:
        X, y = gaussian_classes(max(4 * d, 2 * K), d, K)
        first = ClassStatistics.from_features(X, y)
        within, means = (torch.tensor(x, dtype=torch.float32) for x in (first.within, first.means))
        ours, theirs = [], []
        for _ in range(rounds):
            # Statistics of their own each time: what is found once is kept with them.
            stats = first + ClassStatistics.from_features(X[:2], y[:2], K)
            ours.append(seconds(all_by_statistics, stats))
            theirs.append(seconds(all_by_torch, within, means))
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        error = abs(all_by_torch(within, means)[0] / nc1(first) - 1)
        times = f"{statistics.median(ours):>9.3f}{statistics.median(theirs):>9.3f}"
        print(f"{f'{K:,}, {d:,}':<18}{times}{ratio:>9.2f}{error:>10.0e}")


# ---- correct digits ----------------------------------------------------------------------------


def extended_nc1(X, y):
    """NC1 in extended precision: contrasts of the means, orthogonalized, and triangular solves."""
    H, K = X.astype(np.longdouble), int(y.max()) + 1
    anchors = np.stack([H[y == k][0] for k in range(K)])
    means = np.stack([anchors[k] + (H[y == k] - anchors[k]).mean(axis=0) for k in range(K)])
    C = helmert(K).astype(np.longdouble) @ (means - means[0])
    Q, L = np.zeros_like(C), np.zeros((K - 1, K - 1), np.longdouble)
    for i, c in enumerate(C):
        for j in [*range(i), *range(i)]:  # Gram-Schmidt, twice
            p = Q[j] @ c
            L[i, j], c = L[i, j] + p, c - p * Q[j]
        L[i, i] = np.sqrt(c @ c)
        Q[i] = c / L[i, i]
    Z = Q @ (H - means[y]).T  # C = L Q, so the coordinates of r are the solution a of a L = r Q^T
    for i in reversed(range(K - 1)):
        Z[i] = (Z[i] - L[i + 1 :, i] @ Z[i + 1 :]) / L[i, i]
    return float(np.sum(Z**2) / len(y))


def hard_cases(d):
    """Yield name, features, labels and true NC1."""
    K, n, rng = 10, 64, np.random.default_rng(1)
    M, noise = rng.normal(size=(K, d)), rng.normal(size=(K * n, d))
    y = rng.permutation(np.repeat(np.arange(K), n))

    def case(name, means, spread, dtype=np.float32):
        X = (means[y] + spread * noise).astype(dtype)
        return name, X, y, extended_nc1(X, y)

    yield case("spread 1", M, 1.0)
    yield case("near collapse, spread 1e-6", M, 1e-6)
    yield case("the same around offset 1", M + rng.normal(size=d), 1e-6)
    yield case("offset 300, spread 1e-4", M + 300 * rng.normal(size=d), 1e-4)
    for apart in (1e-2, 1e-3):
        close = M.copy()
        close[1] = M[0] + apart * rng.normal(size=d)
        yield case(f"two classes {apart:.1%} apart", close, 0.1 * apart)
    # Collinear means up to the rounding to float32, and residuals +-h over the rows h of a
    # Hadamard matrix.
    v, H = rng.normal(size=d), np.vstack([hadamard(d), -hadamard(d)]) / 4
    steps = np.arange(K) - (K - 1) / 2
    X = np.vstack([t * v + H for t in steps]).astype(np.float32)
    yield "collinear means", X, np.repeat(np.arange(K), 2 * d), 1 / 16 / (v @ v * (steps @ steps))
    # One component that is large and the same in all samples, in half precision.
    name, X, y, truth = case("float16", M, 0.5, np.float16)
    yield name, X, y, truth
    X = np.column_stack([X, np.full(len(y), 3000, np.float16)])
    yield "the same beside 3,000", X, y, truth


def verdict(value, truth):
    """Correct decimal digits, or the value where there are none."""
    error = abs(value / truth - 1)
    return f"{min(16, -np.log10(max(error, 1e-16))):.1f}" if error < 0.5 else f"{value:.1e}"


def widened(route):
    """The route on float32 features: NumPy and torch compute nothing of this in float16."""
    return lambda X, y: route(X.astype(np.float32) if X.dtype == np.float16 else X, y)


def print_digits(d):
    routes = {
        "measure": by_measure,
        "ClassStatistics": by_statistics,
        "torch pinv": widened(by_torch_classes),
        "scipy pinv": widened(by_scipy_pinv),
        **{name: widened(route) for name, route in WRONG.items()},
    }
    print(
        f"\nCorrect digits of NC1, K = 10, d = {d} (the value itself where no digit is right).\n"
        "The truth is that of the rounded features; for the collinear means that before rounding."
    )
    print(f"{'case':<27}{'truth':>9}" + "".join(f"{name:>16}" for name in routes))
    for name, X, y, truth in hard_cases(d):
        digits = [f"{verdict(route(X, y), truth):>16}" for route in routes.values()]
        print(f"{name:<27}{truth:>9.1e}" + "".join(digits))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument(
        "--peak",
        nargs=4,
        metavar=("ROUTE", "N", "D", "K"),
        help="print the memory that one route needs",
    )
    options = parser.parse_args(arguments)
    if options.peak:
        route, *sizes = options.peak
        print_peak(route, *map(int, sizes))
        return
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    print("threads:", ", ".join(f"{name} = {os.environ.get(name, 'unset')}" for name in threads))
    print_digits(64 if options.quick else 512)
    print_times(QUICK if options.quick else CASES, rounds=3 if options.quick else 5)
    sizes = [(50, 256), (200, 256)] if options.quick else [(100, 512), (1_000, 768), (1_000, 2_048)]
    print_from_statistics(sizes, rounds=3)


if __name__ == "__main__":
    main()
