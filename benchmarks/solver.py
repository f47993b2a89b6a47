"""`minimize` against SciPy's L-BFGS-B on all of (W, H), and its cost for large numbers of samples.

    python -m benchmarks.solver            about ten minutes, most of them spent by L-BFGS-B
    python -m benchmarks.solver --quick    under a minute, small sizes

All start from (W*(H0), H0) and all are asked for a gradient of f that is TOLERANCE times the one
there. Newton's method goes on to about 1e-14; that time is counted. Where the minimum of the first
start is not certified, `minimize` tries others and computes a lower bound; "Newton, one start"
leaves that out and does what one run of L-BFGS-B does.

L-BFGS-B compares values of f, and values cannot tell two points apart once the gradient is at about
1e-7: with a smaller tolerance its line search fails first. It gets analytic gradients and runs in
two versions: in the variables (W, H), and in (W, H / sqrt(n)), which balances the two blocks of the
Hessian.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize
from threadpoolctl import threadpool_limits

from nclib import ClassStatistics, Model, Solution, minimize
from nclib.foundations.newton import trust_region_newton
from nclib.foundations.reduced import ReducedProblem
from nclib.foundations.search import ridge_start

LAMBDA = 5e-3
TOLERANCE = 1e-6
SIZES = [(4, 10, 10), (10, 64, 100), (10, 512, 500)]
SPREAD, DISTANCE = (
    1.0,
    2.0,
)  # root mean square distance of a sample from its class mean, of a mean from zero


class Plain(NamedTuple):
    """One run of L-BFGS-B; the gradient is relative to that at the start."""

    seconds: float
    evaluations: int
    objective: float
    gradient: float
    reached: bool


def draw_means(K: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Class means (K, d)."""
    return DISTANCE / np.sqrt(d) * rng.standard_normal((K, d))


def draw_class(mean: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Features (n, d) of one class."""
    return mean + SPREAD / np.sqrt(len(mean)) * rng.standard_normal((n, len(mean)))


class FullProblem:
    """f and its gradient as a function of one vector that holds W (K, d) and H / scale (N, d).

    One multiplication of the features by a K x d matrix for the residual, one each for the two
    gradients.
    """

    def __init__(self, model: Model, features0: np.ndarray, labels: np.ndarray, scale: float):
        self.model, self.H0, self.labels, self.scale = model, features0, labels, scale
        self.N, self.d = features0.shape
        self.K = int(labels.max()) + 1
        self.evaluations = 0

    def parts(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return z[: self.K * self.d].reshape(self.K, self.d), z[self.K * self.d :].reshape(
            self.N, self.d
        )

    def start(self, weights: np.ndarray) -> np.ndarray:
        return np.concatenate([weights.ravel(), self.H0.ravel() / self.scale])

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        m, N = self.model, self.N
        W, H = self.parts(z)
        H = self.scale * H
        E = H @ W.T
        E[np.arange(N), self.labels] -= 1
        moved = H - self.H0
        fit = np.vdot(E, E) + m.lambda_H * np.vdot(H, H) + m.beta * np.vdot(moved, moved)
        gradient = np.empty_like(z)
        gradient_W, gradient_H = self.parts(gradient)
        gradient_W[:] = E.T @ H / N + m.lambda_W / self.K * W
        np.matmul(E, W, out=gradient_H)
        gradient_H += m.lambda_H * H
        gradient_H += m.beta * moved
        gradient_H *= self.scale / N
        self.value = float(fit / (2 * N) + m.lambda_W * np.vdot(W, W) / (2 * self.K))
        # The gradient in (W, H) itself, whatever the scale: the two versions are stopped by the
        # same number.
        self.norm = float(
            np.hypot(np.linalg.norm(gradient_W), np.linalg.norm(gradient_H) / self.scale)
        )
        return self.value, gradient


def run_plain(problem: FullProblem, weights: np.ndarray, cap: float) -> Plain:
    """L-BFGS-B from (weights, H0) until the gradient is small, it fails, or time is up."""
    z = problem.start(weights)
    first = (problem(z), problem.norm)[1]
    began = process_time()

    def watch(_: np.ndarray) -> None:
        if problem.norm <= TOLERANCE * first or process_time() - began > cap:
            raise StopIteration

    options = {"maxiter": 10**7, "maxfun": 10**7, "ftol": 0, "gtol": 0, "maxcor": 10}
    optimize.minimize(problem, z, jac=True, method="L-BFGS-B", callback=watch, options=options)
    seconds, gradient = process_time() - began, problem.norm / first
    return Plain(seconds, problem.evaluations - 1, problem.value, gradient, gradient <= TOLERANCE)


def best_of(work: Callable, repeats: int = 3) -> tuple[Any, float]:
    """The result of work() and the least time of some repeats."""
    seconds = []
    for _ in range(repeats):
        began = process_time()
        result = work()
        seconds.append(process_time() - began)
    return result, min(seconds)


def cold(model: Model, stats: ClassStatistics) -> Solution:
    """`minimize` with the eigendecomposition of the covariance, which the statistics would keep."""
    return minimize(model, replace(stats))


def one_start(model: Model, stats: ClassStatistics) -> None:
    """Newton's method from W*(H0) alone."""
    problem = ReducedProblem.from_statistics(model, replace(stats))
    with threadpool_limits(1, user_api="blas"):
        trust_region_newton(problem, ridge_start(problem))


def compare(K: int, d: int, n: int, beta: float, cap: float) -> None:
    """One problem: our two rows, then one row for each version of L-BFGS-B."""
    rng = np.random.default_rng(0)
    features = np.concatenate([draw_class(mean, n, rng) for mean in draw_means(K, d, rng)])
    labels, model = np.repeat(np.arange(K), n), Model(LAMBDA, LAMBDA, beta)
    began = process_time()
    stats = ClassStatistics.from_features(features, labels)
    counting = process_time() - began
    solution, ours = best_of(partial(cold, model, stats))
    single = best_of(partial(one_start, model, stats))[1]
    full = FullProblem(model, features, labels, 1.0)
    weights = model.optimal_weights(stats)
    first = (full(full.start(weights)), full.norm)[1]
    full(np.concatenate([solution.weights.ravel(), solution.features(features, labels).ravel()]))
    note = (
        f"{'' if solution.certified else 'not '}certified; statistics of H0 took {counting:.4f} s"
    )
    where = f"{K:3} {d:4} {n:4} {beta:4g}"
    print(
        f"{where}  {'minimize':16}  {ours:9.4f} {'':8} {full.norm / first:8.0e} {'1x':>9}  {note}"
    )
    print(
        f"{where}  {'Newton, one start':16} {single:9.4f} {'':8} {'':8} "
        f"{ratio_text(single / ours):>9}"
    )
    for name, scale in [("L-BFGS-B", 1.0), ("L-BFGS-B, scaled", float(np.sqrt(n)))]:
        plain = run_plain(FullProblem(model, features, labels, scale), weights, cap)
        ratio = ("" if plain.reached else ">") + ratio_text(plain.seconds / ours)
        note = f"f is {plain.objective / solution.objective - 1:+.0e} off ours"
        if not plain.reached:
            note += (
                f"; gave up at {plain.seconds:.0f} s"
                if plain.seconds < cap
                else f"; not in {cap:.0f} s"
            )
        row = f"{name:16}  {plain.seconds:9.4f} {plain.evaluations:8} {plain.gradient:8.0e}"
        row += f" {ratio:>9}"
        print(f"{where}  {row}  {note}", flush=True)


def ratio_text(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def statistics_by_blocks(means: np.ndarray, n: int, rng: np.random.Generator) -> ClassStatistics:
    """Statistics of K n drawn samples, merged from blocks: never more than 5,000 in memory."""
    K, total = len(means), None
    for k, mean in enumerate(means):
        for start in range(0, n, 5000):
            block = draw_class(mean, min(5000, n - start), rng)
            part = ClassStatistics.from_features(block, np.full(len(block), k), num_classes=K)
            total = part if total is None else total.merge(part)
    return total


def statistics_by_law(means: np.ndarray, n: int, rng: np.random.Generator) -> ClassStatistics:
    """Draw the statistics of K n such samples from their exact law, not the samples.

    The sample means are normal with covariance s^2 I / n. The scatter about them is independent of
    them and has the Wishart distribution with N - K degrees of freedom, s^2 A A^T with A lower
    triangular, standard normal below the diagonal and chi distributed on it (Bartlett's
    decomposition).
    """
    K, d = means.shape
    s, N = SPREAD / np.sqrt(d), K * n
    A = np.tril(rng.standard_normal((d, d)), -1) + np.diag(
        np.sqrt(rng.chisquare(N - K - np.arange(d)))
    )
    sampled = means + s / np.sqrt(n) * rng.standard_normal((K, d))
    return ClassStatistics(np.full(K, n), sampled.T, s**2 / N * A @ A.T)


def scaling(K: int, d: int, betas: list[float]) -> None:
    """Time of `minimize` given the statistics, for growing n."""
    print("\n`minimize` given the statistics of H0\n\n  K    d        n beta    seconds  status")
    ways = [(500, statistics_by_blocks), (5000, statistics_by_blocks), (500_000, statistics_by_law)]
    for n, way in ways:
        rng = np.random.default_rng(0)
        began = process_time()
        stats = way(draw_means(K, d, rng), n, rng)
        made = process_time() - began
        how = (
            "from all samples in blocks"
            if way is statistics_by_blocks
            else "drawn from their exact law, no samples"
        )
        for beta in betas:
            model = Model(LAMBDA, LAMBDA, beta)
            solution, seconds = best_of(partial(cold, model, stats))
            print(
                f"{K:3} {d:4} {n:8} {beta:4g}  {seconds:9.4f}  "
                f"gradient {solution.gradient_norm:.0e}, "
                f"{'' if solution.certified else 'not '}certified; statistics {how} ({made:.2f} s)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="only the two small sizes, and d = 64 for large n"
    )
    parser.add_argument(
        "--cap", type=float, help="seconds for each row of L-BFGS-B (default: 300, quick 10)"
    )
    arguments = parser.parse_args()
    cap = arguments.cap or (10.0 if arguments.quick else 300.0)
    print(
        f"lambda_W = lambda_H = {LAMBDA:g}; gradient: relative to that at (W*(H0), H0); "
        "ratio: time over ours\n"
    )
    print("  K    d    n beta  method              seconds f calls  gradient     ratio  note")
    for K, d, n in SIZES[: 2 if arguments.quick else 3]:
        for beta in (1.0, 10.0):
            compare(K, d, n, beta, cap)
    scaling(10, 64 if arguments.quick else 512, [1.0, 10.0])


if __name__ == "__main__":
    main()
