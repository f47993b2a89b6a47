"""NC1 from statistics and from features, against the usual d x d covariance and pseudoinverse:
time, memory, digits.

Run as ``python -m benchmarks.metrics [--quick]``. Times are medians over interleaved rounds and
ratios are medians of the ratios within a round, so that a busy computer disturbs all routes alike.
Set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to choose the threads.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import hadamard, helmert
from scipy.sparse.linalg import svds

from nclib import ClassStatistics, measure, nc1

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


# ---- routes: features (N, d), labels (N,) -> NC1
# -----------------------------------------------------------------


def by_statistics(X, y):
    return nc1(ClassStatistics.from_features(X, y))


def by_measure(X, y):
    return measure(X, y).nc1


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


def by_torch_pinv(X, y):
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    K, d = int(y.max()) + 1, X.shape[1]
    means, within = torch.empty(K, d), torch.zeros(d, d)
    for k in range(K):
        H = X[y == k]
        means[k] = H.mean(dim=0)
        R = H - means[k]
        within += R.T @ R
    M = means - means.mean(dim=0)
    return float(torch.trace(within / len(X) @ torch.linalg.pinv(M.T @ M / K))) / K


ROUTES = {
    "measure": by_measure,
    "ClassStatistics": by_statistics,
    "torch pinv": by_torch_pinv,
    "scipy pinv": by_scipy_pinv,
    "numpy pinv": by_numpy_pinv,
    "truncated SVD": by_truncated_svd,
}
TIMED = list(ROUTES)[:4]


# ---- time and memory
# ---------------------------------------------------------------------------------------------


def gaussian_classes(N, d, K=10):
    """float32 features with unit spread about Gaussian means, labels in random order."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, K, N)
    X = rng.standard_normal((N, d), dtype=np.float32)
    for k in range(K):
        X[y == k] += rng.standard_normal(d, dtype=np.float32)
    return X, y


def seconds(route, X, y):
    start = time.perf_counter()
    ROUTES[route](X, y)
    return time.perf_counter() - start


def peak(route, N, d):
    """MiB that a route needs beyond its input, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.metrics", "--peak", route, str(N), str(d)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(route, N, d):
    ROUTES[route](*gaussian_classes(200, 16))  # load what is loaded lazily
    X, y = gaussian_classes(N, d)
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():  # not on Linux
        print("nan")
        return
    (process / "clear_refs").write_text(
        "5"
    )  # the high-water mark starts anew at what is resident now
    before = resident("VmRSS")
    ROUTES[route](X, y)
    print(resident("VmHWM") - before)


def resident(field):
    """A memory field of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) / 1024


def print_times(sizes, rounds):
    for N, d in sizes:
        X, y = gaussian_classes(N, d)
        rows = [{route: seconds(route, X, y) for route in TIMED} for _ in range(rounds)]
        print(
            f"\n{N:,} x {d:,} float32, K = 10 (input {X.nbytes / 2**20:.0f} MiB), {rounds} rounds"
        )
        print(
            f"{'route':<17}{'seconds':>9}{'x measure':>11}"
            f"{'x statistics':>14}{'peak MiB':>10}   rate"
        )
        for route in TIMED:
            t = statistics.median(row[route] for row in rows)
            ratios = (
                statistics.median(row[route] / row[ours] for row in rows) for ours in TIMED[:2]
            )
            # Two reads of the input; or the N d^2 operations of a symmetric rank-N update.
            rate = (
                f"{2 * X.nbytes / t / 1e9:.1f} GB/s"
                if route == "measure"
                else f"{N * d * d / t / 1e9:.0f} Gflop/s"
            )
            figures = f"{t:>9.3f}{next(ratios):>11.1f}{next(ratios):>14.2f}"
            print(f"{route:<17}{figures}{peak(route, N, d):>10.0f}   {rate}")


# ---- correct digits
# ----------------------------------------------------------------------------------------------


def extended_nc1(X, y):
    """NC1 in extended precision: K - 1 contrasts of the means, orthogonalized, and a triangular
    solve per sample.
    """
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
    """Yield name, float32 features, labels and true NC1."""
    K, n, rng = 10, 64, np.random.default_rng(1)
    M, y, noise = (
        rng.normal(size=(K, d)),
        rng.permutation(np.repeat(np.arange(K), n)),
        rng.normal(size=(K * n, d)),
    )

    def case(name, means, spread):
        X = (means[y] + spread * noise).astype(np.float32)
        return name, X, y, extended_nc1(X, y)

    yield case("spread 1", M, 1.0)
    yield case("near collapse, spread 1e-6", M, 1e-6)
    yield case("the same around offset 1", M + rng.normal(size=d), 1e-6)
    yield case("offset 300, spread 1e-4", M + 300 * rng.normal(size=d), 1e-4)
    for apart in (1e-2, 1e-3):
        close = M.copy()
        close[1] = M[0] + apart * rng.normal(size=d)
        yield case(f"two classes {apart:.1%} apart", close, 0.1 * apart)
    # Collinear means up to the rounding to float32, and residuals +-h over the rows h of a Hadamard
    # matrix.
    v, H, steps = (
        rng.normal(size=d),
        np.vstack([hadamard(d), -hadamard(d)]) / 4,
        np.arange(K) - (K - 1) / 2,
    )
    X = np.vstack([t * v + H for t in steps]).astype(np.float32)
    yield "collinear means", X, np.repeat(np.arange(K), 2 * d), 1 / 16 / (v @ v * (steps @ steps))


def verdict(value, truth):
    """Correct decimal digits, or the value where there are none."""
    error = abs(value / truth - 1)
    return f"{min(16, -np.log10(max(error, 1e-16))):.1f}" if error < 0.5 else f"{value:.1e}"


def print_digits(d):
    print(
        f"\nCorrect digits of NC1, float32 features, K = 10, d = {d} "
        "(the value itself where no digit is right)."
    )
    print(
        "The truth is that of the rounded features; for the collinear means that before rounding."
    )
    print(f"{'case':<27}{'truth':>9}" + "".join(f"{route:>16}" for route in ROUTES))
    for name, X, y, truth in hard_cases(d):
        print(
            f"{name:<27}{truth:>9.1e}"
            + "".join(f"{verdict(r(X, y), truth):>16}" for r in ROUTES.values())
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, in seconds")
    parser.add_argument(
        "--peak", nargs=3, metavar=("ROUTE", "N", "D"), help="print the memory that one route needs"
    )
    options = parser.parse_args(arguments)
    if options.peak:
        route, N, d = options.peak
        print_peak(route, int(N), int(d))
        return
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    print("threads:", ", ".join(f"{name} = {os.environ.get(name, 'unset')}" for name in threads))
    print_digits(64 if options.quick else 512)
    if options.quick:
        print_times([(10_000, 256), (5_000, 1_024)], rounds=3)
    else:
        print_times([(50_000, 512), (50_000, 2_048)], rounds=5)


if __name__ == "__main__":
    main()
