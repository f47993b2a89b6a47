r"""The exact minimizer of the perturbed features model (Eq. 2) from statistics alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, cached_property
from importlib.util import find_spec
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from nclib._checks import (
    as_array,
    as_features,
    as_labels,
    every_class,
    finite,
    instance,
    positive_integer,
)
from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.model import Model
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.search import GRADIENT_TOLERANCE, Bound, Found, is_certified, search
from nclib.foundations.statistics import ClassStatistics

# K^2 d, about a hundredth of the operations of one Hessian product: above it a second BLAS thread
# pays, and a solve can take more than some seconds.
MANY_OPERATIONS = 1e8


class Status(Enum):
    """What the solver reached, as a sentence."""

    CONVERGED = (
        "The relative gradient norm is at most 1e-12, and no direction of negative curvature was "
        "found."
    )
    SADDLE = (
        "The relative gradient norm is at most 1e-12, but a direction of negative curvature is "
        "left."
    )
    NOT_CONVERGED = (
        "The solver stopped, at its iteration limit or at rounding, above the gradient norm 1e-12."
    )


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    r"""A minimizer (W, H) of Eq. 2, with the features kept as statistics.

    Attributes:
        weights: W, shape (K, d).
        statistics: Class statistics of the optimal features H.
        objective: f(W, H; H0).
        gradient_norm: Norm of the gradient of the reduced problem relative to that of its terms;
            the gradient in H is zero by construction.
        status: What was reached.
        certified: The residual satisfies
            :math:`\|WH - Y\|_{op}^2 \le \bar n\lambda_W(\lambda_H+\beta)`, which proves that
            (W, H) is a global minimizer. A slack for rounding, 1e-10 of the right-hand side, means
            that no objective is lower by more than 2e-10 of this one.
        lower_bound: A value that no (W, H) can go below: the objective itself when certified, which
            holds up to that slack, else a value of a dual problem (`Point.dual_value`).
        iterations: Newton steps, all starts together.
        model: The parameters.
    """

    weights: np.ndarray
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    status: Status
    certified: bool
    lower_bound: float
    iterations: int
    model: Model

    @classmethod
    def from_point(
        cls, problem: ReducedProblem, stats: ClassStatistics, found: Found
    ) -> "Solution":
        """Back to the original basis: weights, statistics of the optimal features, and the verdict.

        Args:
            problem: The reduced problem that was searched.
            stats: The statistics of H0 that it was made from.
            found: What the search brought back.
        """
        point, model = found.point, problem.model
        W, WG = point.W @ problem.basis.T, point.solve.WG @ problem.basis.T
        # Within a class H = beta G^{-1} H0, with G^{-1} = (I - (W G^{-1})^T W) / b.
        left = stats.within - WG.T @ (W @ stats.within)
        within = (model.beta / model.b) ** 2 * (left - (left @ W.T) @ WG)
        statistics = ClassStatistics(
            stats.counts, problem.basis @ point.means, (within + within.T) / 2, stats.resolution
        )
        status = Status.SADDLE if found.saddle else Status.CONVERGED
        if point.gradient_norm > GRADIENT_TOLERANCE:
            status = Status.NOT_CONVERGED
        return cls(
            weights=W,
            statistics=statistics,
            objective=point.value / stats.K,
            gradient_norm=point.gradient_norm,
            status=status,
            certified=is_certified(point),
            lower_bound=found.lower_bound / stats.K,
            iterations=found.iterations,
            model=model,
        )

    @cached_property
    def feature_solve(self) -> FeatureSolve:
        r""":math:`G^{-1}` at the weights, factored when first used."""
        return FeatureSolve(self.weights, self.model.b)

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        r"""Optimal features (N, d) for input features H0 (N, d).

        .. math:: H = G^{-1}(W^\top Y + \beta H_0)

        Args:
            features: H0, shape (N, d), one sample a row.
            labels: Integers 0..K-1, shape (N,).

        Raises:
            ValueError: The shapes or the labels do not fit the weights.
        """
        H0 = finite("features", as_features(features))
        K, d = self.weights.shape
        if H0.shape[1] != d:
            raise ValueError(
                f"features must have d = {d} columns, as the weights, "
                f"but they have {H0.shape[1]} columns."
            )
        y = as_labels(labels, len(H0), K)
        return self.model.beta * self.feature_solve.right(H0) + self.feature_solve.WG[y]

    def __repr__(self) -> str:
        K, d = self.weights.shape
        verdict = "certified" if self.certified else "not certified"
        return (
            f"Solution(K={K}, d={d}, objective={self.objective:.6g}, {self.status.name}, {verdict})"
        )


def minimize(
    model: Model,
    stats: ClassStatistics,
    max_iterations: int = 200,
    *,
    start: ArrayLike | None = None,
    bound: Bound = "dual",
) -> Solution:
    r"""The minimizer of Eq. 2 of Tirer et al. (2023) from the statistics of H0.

    The cost does not depend on n. The features are eliminated exactly and the weights found by a
    trust-region Newton method. If :math:`\lambda_H + \beta \ge 1/\lambda_W` there is one
    stationary point and one start; otherwise the solver leaves every saddle that it meets and tries
    another start until the global certificate holds, and returns the lowest minimum found. If H0
    vanishes in K directions or more (dead units, few samples), every minimum is global and
    certified.

    A point counts as stationary if the relative gradient norm is at most 1e-12, and as free of
    negative curvature if Lanczos' method finds none below -1e-7, relative to the preconditioner,
    along which the objective falls by more than its rounding.

    Args:
        model: The parameters; lambda_H + beta must be greater than zero.
        stats: Statistics of H0; every class needs a sample. With unequal counts the model is the
            one with 1/(2N) in front of the three terms in H.
        max_iterations: Bound on the Newton steps of each descent.
        start: Weights for one more start, shape (K, d), for example those of a nearby problem. The
            lowest start is tried first, the others if it does not lead to a certified minimum.
        bound: Where the minimum is not certified, the lower bound comes from a dual problem at no
            cost (``"dual"``), or also from the problem with K more feature dimensions
            (``"padded"``), which takes about as long as the minimum and gives one more start.

    Returns:
        A `Solution`; look at ``status`` and ``certified``.

    Raises:
        TypeError: An argument is of another type.
        ValueError: lambda_H + beta = 0, where no minimizer exists, a class has no samples, or the
            start has another shape or an entry that is not finite.

    Examples:
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(3, 2), 0.1 * np.eye(3))
        >>> minimize(Model(0.1, 0.1, beta=1.0), stats)
        Solution(K=2, d=3, objective=0.146837, CONVERGED, certified)
    """
    instance("model", model, Model)
    instance("stats", stats, ClassStatistics)
    positive_integer("max_iterations", max_iterations)
    if bound not in get_args(Bound):
        raise ValueError(f"bound must be one of {get_args(Bound)}, but bound = {bound!r}.")
    if model.b == 0:
        raise ValueError(
            "lambda_H + beta must be greater than zero, but lambda_H + beta = 0: "
            "without decay or pull the features have no minimizer."
        )
    every_class(stats.counts)
    weights = None if start is None else as_array("start", start, (stats.K, stats.d))
    problem = ReducedProblem.from_statistics(model, stats)
    with _blas_threads(problem), _progress(problem) as watch:
        turned = None if weights is None else weights @ problem.basis
        found = search(problem, max_iterations, turned, bound, watch)
    return Solution.from_point(problem, stats, found)


def path(
    model: Model,
    stats: ClassStatistics,
    betas: ArrayLike,
    max_iterations: int = 200,
    *,
    bound: Bound = "dual",
) -> list[Solution]:
    """Minimizers for several pulls, each with the one for the next stronger pull as a start.

    The principal axes of H0 are computed once.

    Args:
        model: The decays lambda_W and lambda_H; its beta is not used.
        stats: Statistics of H0; every class needs a sample.
        betas: Pulls, shape (m,), in any order.
        max_iterations: As in `minimize`.
        bound: As in `minimize`.

    Returns:
        The solutions in the order of ``betas``.

    Raises:
        TypeError: As in `minimize`.
        ValueError: As in `minimize`, or a beta is negative or not finite.

    Examples:
        >>> stats = ClassStatistics(np.array([4, 4]), np.eye(3, 2), 0.1 * np.eye(3))
        >>> [round(solution.objective, 4) for solution in path(Model(0.1, 0.1), stats, [0.1, 10.0])]
        [0.1067, 0.1755]
    """
    instance("model", model, Model)
    pulls = as_array("betas", betas, np.shape(betas)).ravel()
    models = [replace(model, beta=float(beta)) for beta in pulls]
    solutions: dict[int, Solution] = {}
    weights = None
    for i in np.argsort(-pulls, kind="stable"):
        solutions[i] = minimize(models[i], stats, max_iterations, start=weights, bound=bound)
        weights = solutions[i].weights
    return [solutions[i] for i in range(len(pulls))]


@cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries that NumPy and SciPy have loaded; looking for them takes milliseconds."""
    return ThreadpoolController()


def _blas_threads(problem: ReducedProblem) -> AbstractContextManager[object]:
    """One thread for small matrices, for which more cost more than they give."""
    if problem.K**2 * len(problem.spread) > MANY_OPERATIONS:
        return nullcontext()
    return _controller().limit(limits=1, user_api="blas")


@contextmanager
def _progress(problem: ReducedProblem) -> Iterator[Callable[[Point], None] | None]:
    """A count of the Newton steps on a terminal, for large problems and if tqdm is installed."""
    large = problem.K**2 * len(problem.spread) > MANY_OPERATIONS
    if not large or find_spec("tqdm") is None:
        yield None
        return
    from tqdm import tqdm

    # Nothing is shown where standard error is no terminal, or in the first seconds.
    with tqdm(desc="minimize", unit=" steps", disable=None, delay=3, leave=False) as bar:

        def watch(point: Point) -> None:
            bar.set_postfix_str(f"gradient {point.gradient_norm:.0e}", refresh=False)
            bar.update()

        yield watch
