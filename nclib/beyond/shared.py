r"""Layers that share their weights between the samples, under squared loss.

A residual linear layer :math:`H_1 = (I + B)H_0` pays for its weights, and not for each sample:

.. math::
    f = \frac1{2N}\|WH_L - Y\|_F^2 + \frac{\lambda_W}{2K}\|W\|_F^2
        + \frac{\lambda_B}2\sum_{l=1}^L\|B_l\|_F^2, \qquad H_l = (I + B_l)\,H_{l-1} .

The loss sees only the effective classifier :math:`C = W(I + B_L)\cdots(I + B_1)`. For a given C the
decays cost at least :math:`\sum_i\chi_L(s_i)`, with the singular values of C and

.. math::
    \chi_L(s) = \min_{u\ge1}\frac{\lambda_W s^2}{2Ku^{2L}} + \frac{\lambda_BL}2(u-1)^2,
    \qquad \frac{\lambda_W}Ks^2 = \lambda_B(u-1)\,u^{2L+1},

and they cost no more exactly if all blocks are equal and symmetric, stretch the i-th right singular
direction of C by u and leave the others alone. So f is minimized over C, a K x d matrix, whatever
the number of blocks. At every stationary point of one block, with a decay of the features beside,

.. math::
    \lambda_B(B + B^2) = \tfrac{\lambda_W}K W^\top W - \tfrac{\lambda_H}N HH^\top .

Without the skip, :math:`H_l = B_lH_{l-1}`, the decays cost
:math:`\frac{L+1}2(\frac{\lambda_W}K\lambda_B^L)^{1/(L+1)}\sum_i s_i^{2/(L+1)}`: for one block the
nuclear norm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from nclib import _checks
from nclib.beyond.descent import Bottom, Evaluation, descend
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics

SLACK = 1e-9  # of a certificate, relative, for rounding
STARTS = 8  # at most, where no certificate ends the search


class Cost(NamedTuple):
    """What a singular value of the effective classifier costs.

    Attributes:
        value: The cost, of the shape of the singular values.
        slope: Its derivative.
        stretch: The factor u of each block.
    """

    value: np.ndarray
    slope: np.ndarray
    stretch: np.ndarray


@dataclass(frozen=True, eq=False)
class Layers:
    """A minimizer with shared weights, the features kept as statistics.

    Attributes:
        weights: W, shape (K, d).
        maps: What each block multiplies its input with, (d, d), first block to last: I + B in a
            residual block, B in a plain one.
        statistics: Class statistics of the outputs of the blocks, first to last.
        objective: The value f.
        gradient_norm: Norm of the gradient relative to that of its terms.
        certified: Whether a theorem says that no point has a smaller value.
    """

    weights: np.ndarray
    maps: tuple[np.ndarray, ...]
    statistics: tuple[ClassStatistics, ...]
    objective: float
    gradient_norm: float
    certified: bool

    @property
    def effective(self) -> np.ndarray:
        """The effective classifier C, W times all blocks, shape (K, d)."""
        C = self.weights
        for block in reversed(self.maps):
            C = C @ block
        return C


@dataclass(frozen=True, eq=False)
class Linked:
    """A minimizer of the perturbed model whose pull is towards a trained linear layer's output.

    Attributes:
        weights: W, shape (K, d).
        block: I + B, shape (d, d).
        statistics: Class statistics of the features H.
        objective: The value f.
        gradient_norm: Norm of the gradient in W relative to that of its terms; those in B and H are
            zero up to rounding.
        ratio: Left side of the certificate of `nclib.beyond.kernel` over its right side, for the
            kernel of both links.
        within: The map that turns deviations from the class means of the input into those of H,
            shape (d, d).
    """

    weights: np.ndarray
    block: np.ndarray
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    ratio: float
    within: np.ndarray

    @property
    def certified(self) -> bool:
        """Whether the ratio is at most one, which proves that no point has a smaller value."""
        return self.ratio <= 1 + SLACK


def cost(
    lambda_W: float, lambda_B: float, K: int, singular_values: ArrayLike, blocks: int = 1
) -> Cost:
    r"""The cost :math:`\chi_L` of singular values of the effective classifier in residual blocks.

    .. math::
        \chi_L(s) = \min_{u\ge1}\frac{\lambda_Ws^2}{2Ku^{2L}} + \frac{\lambda_BL}2(u-1)^2, \qquad
        \chi_L'(s) = \frac{\lambda_Ws}{Ku^{2L}}

    Args:
        lambda_W: Weight decay of the last layer.
        lambda_B: Weight decay of the blocks.
        K: Number of classes.
        singular_values: Any shape, none negative.
        blocks: Number L of blocks.

    Raises:
        ValueError: A decay is not positive, a singular value is negative, or blocks < 1.

    Examples:
        >>> found = cost(2.0, 1.0, 2, [8**0.5])
        >>> found.stretch.round(12), found.value.round(12)
        (array([2.]), array([1.5]))
    """
    a = _checks.positive("lambda_W", lambda_W) / _checks.positive_integer("K", K)
    lambda_B, L = _checks.positive("lambda_B", lambda_B), _checks.positive_integer("blocks", blocks)
    s = _singular_values(singular_values)
    v = _excess(a / lambda_B * s**2, 2 * L + 1)
    shrunk = s / (1 + v) ** L
    value = a / 2 * shrunk**2 + lambda_B * L / 2 * v**2
    return Cost(value, a * shrunk / (1 + v) ** L, 1 + v)


def _excess(q: np.ndarray, m: int) -> np.ndarray:
    """The v >= 0 with v (1 + v)^m = q: Newton's method in logarithms, from above, monotone."""
    v, there = np.minimum(q, q ** (1 / (m + 1))), q > 0
    v, q = np.where(there, v, 1.0), np.where(there, q, 1.0)
    for _ in range(100):
        excess = np.log(v / q) + m * np.log1p(v)
        step = excess / (1 + m * v / (1 + v))
        v = v * np.exp(-step)
        if np.all(np.abs(step) <= 1e-15):
            break
    return np.where(there, v, 0.0)


def factored_cost(
    lambda_W: float, lambda_B: float, K: int, singular_values: ArrayLike, blocks: int = 1
) -> Cost:
    r"""The cost of singular values where each block has two linear factors, :math:`I + BA`.

    Both are at least d wide inside and pay :math:`\frac{\lambda_B}2(\|A\|_F^2+\|B\|_F^2)`:

    .. math::
        \min_{u\ge1}\frac{\lambda_Ws^2}{2Ku^{2L}} + \lambda_BL(u-1), \qquad
        u = \max\Bigl(1, \Bigl(\frac{\lambda_Ws^2}{K\lambda_B}\Bigr)^{1/(2L+1)}\Bigr) .

    Up to :math:`s = \sqrt{K\lambda_B/\lambda_W}` the blocks do nothing and the cost is that of W;
    beyond, it is concave.

    Args:
        lambda_W: Weight decay of the last layer.
        lambda_B: Weight decay of both factors of the blocks.
        K: Number of classes.
        singular_values: Of the effective classifier, any shape, none negative.
        blocks: Number L of blocks.

    Raises:
        ValueError: A decay is not positive, a singular value is negative, or blocks < 1.

    Examples:
        >>> found = factored_cost(2.0, 1.0, 2, [0.5, 8.0])
        >>> found.stretch.round(12), found.value.round(12)
        (array([1., 4.]), array([0.125, 5.   ]))
    """
    a = _checks.positive("lambda_W", lambda_W) / _checks.positive_integer("K", K)
    lambda_B, L = _checks.positive("lambda_B", lambda_B), _checks.positive_integer("blocks", blocks)
    s = _singular_values(singular_values)
    u = np.maximum(1.0, (a / lambda_B * s**2) ** (1 / (2 * L + 1)))
    shrunk = s / u**L
    return Cost(a / 2 * shrunk**2 + lambda_B * L * (u - 1), a * shrunk / u**L, u)


def free_cost(
    model: Model, lambda_B: float, K: int, singular_values: ArrayLike, blocks: int = 1
) -> Cost:
    r"""The cost of singular values of the scores where the input features are free.

    The features :math:`H_0` before the residual linear blocks pay
    :math:`\frac{\lambda_H}{2N}\|H_0\|_F^2` and nothing pulls them. With
    :math:`c = \sqrt{\lambda_W\lambda_H}`,

    .. math::
        \min_{u\ge1}\frac{cs}{Ku^L} + \frac{\lambda_BL}2(u-1)^2, \qquad
        \frac cKs = \lambda_B(u-1)\,u^{L+1} ,

    which is concave, with the slope c/K at zero.

    Args:
        model: The decays of W and H0; its pull must be zero.
        lambda_B: Weight decay of the blocks.
        K: Number of classes.
        singular_values: Of the scores :math:`WH_L` divided by :math:`\sqrt{N/K}`, for balanced and
            collapsed classes those of the K x K mean scores; any shape, none negative.
        blocks: Number L of blocks.

    Raises:
        TypeError: The model is none.
        ValueError: A decay is not positive, the pull is not zero, a singular value is negative, or
            blocks < 1.

    Examples:
        >>> found = free_cost(Model(4.0, 1.0), 1.0, 2, [4.0])
        >>> found.stretch.round(12), found.value.round(12)
        (array([2.]), array([2.5]))
    """
    c = _free(model) / _checks.positive_integer("K", K)
    lambda_B, L = _checks.positive("lambda_B", lambda_B), _checks.positive_integer("blocks", blocks)
    s = _singular_values(singular_values)
    v = _excess(c / lambda_B * s, L + 1)
    slope = c / (1 + v) ** L
    return Cost(slope * s + lambda_B * L / 2 * v**2, slope, 1 + v)


def free_scores(model: Model, lambda_B: float, counts: ArrayLike, blocks: int = 1) -> np.ndarray:
    r"""What residual linear blocks behind free features make of each class, under squared loss.

    At a global minimizer samples of class k have the score :math:`z_k` for their own class and zero
    for the others; with :math:`m_k = n_kK/N` it is the least point of

    .. math::
        \frac{m_k}{2K}(z-1)^2 + \rho(\sqrt{m_k}\,z) ,

    where :math:`\rho` is the cost in `free_cost`: zero, or the larger of at most two roots of the
    derivative. Where both are minimal it is zero.

    Args:
        model: The decays of W and H0; its pull must be zero.
        lambda_B: Weight decay of the blocks.
        counts: Samples per class, shape (K,), all positive.
        blocks: Number L of blocks.

    Raises:
        TypeError: The model is none, or the counts are not integers.
        ValueError: A decay is not positive, the pull is not zero, a class has no samples, or
            blocks < 1.

    Examples:
        >>> free_scores(Model(0.5, 0.5), 1.0, [90, 30, 10]).round(3)
        array([0.693, 0.43 , 0.   ])
    """
    c, L = _free(model), _checks.positive_integer("blocks", blocks)
    n = _checks.as_counts(counts)
    K, ratio = len(n), len(n) * _checks.positive("lambda_B", lambda_B) / c
    found = []
    for root in np.sqrt(n * K / n.sum()):

        def excess(v: float, root: float = root) -> float:
            """Root of m_k minus s, minus K times the slope of the cost, at the stretch 1 + v."""
            return root - ratio * v * (1 + v) ** (L + 1) - c / (1 + v) ** L

        def value(s: float, root: float = root) -> float:
            return (s - root) ** 2 / (2 * K) + float(free_cost(model, lambda_B, K, s, L).value)

        # The function is concave in v; its largest value is at v = 0 or where its slope vanishes.
        top = _steepest(c * L / ratio, L)
        s = 0.0
        if excess(top) > 0:
            v = optimize.brentq(excess, top, max(1.0, root / ratio) + top, xtol=1e-15, rtol=1e-14)
            s = ratio * v * (1 + v) ** (L + 1)
        found.append(s / root if value(s) < value(0.0) else 0.0)
    return np.array(found)


def _steepest(q: float, L: int) -> float:
    """The v >= 0 with (1 + v)^(2L+1) (1 + (L+2) v) = q, or zero if q < 1."""
    if q <= 1:
        return 0.0

    def excess(v: float) -> float:
        return (1 + v) ** (2 * L + 1) * (1 + (L + 2) * v) - q

    return float(optimize.brentq(excess, 0.0, q, xtol=1e-15))


def _free(model: Model) -> float:
    """The strength of the decays, for a model whose features nothing pulls."""
    _checks.instance("model", model, Model)
    if model.beta:
        raise ValueError(f"beta must be zero, but beta = {model.beta:g}.")
    return sqrt(model.lambda_W * _checks.positive("lambda_H", model.lambda_H))


def _singular_values(values: ArrayLike) -> np.ndarray:
    """An array without negative numbers."""
    s = _checks.as_array("singular_values", values, np.shape(values))
    if s.size and s.min() < 0:
        raise ValueError(f"singular_values must not be negative, but one is {s.min():g}.")
    return s


def convex_up_to(blocks: int) -> float:
    r"""The stretch u per block up to which the cost is convex: :math:`\frac{2L-1}{2L-2}`.

    Args:
        blocks: Number L of blocks; for one block the cost is convex everywhere.

    Examples:
        >>> convex_up_to(1), convex_up_to(2)
        (inf, 1.5)
    """
    L = _checks.positive_integer("blocks", blocks)
    return (2 * L - 1) / (2 * L - 2) if L > 1 else float("inf")


def concavity(blocks: int) -> float:
    r"""The number :math:`k_L` with :math:`\chi_L''\ge-k_L\lambda_W/K`, the smallest there is.

    It is attained at the stretch :math:`u = \frac m{m-\sqrt3}`, where :math:`m = \sqrt{4L^2-1}`:

    .. math::
        k_L = u^{-2L}\,\frac{(2L-2)u-(2L-1)}{(2L+2)u-(2L+1)}
            \le (2-\sqrt3)\,e^{-\sqrt3} = 0.0474\ldots

    Args:
        blocks: Number L of blocks.

    Examples:
        >>> round(concavity(2), 5), round(concavity(64), 5)
        (0.00986, 0.04576)
    """
    L = _checks.positive_integer("blocks", blocks)
    if L == 1:
        return 0.0
    m = sqrt(4 * L**2 - 1)
    u = m / (m - sqrt(3))
    return elasticity(u, L) / u ** (2 * L)


def elasticity(stretch: float, blocks: int) -> float:
    r"""Minus the elasticity of the slope of the cost, at a stretch u of a block.

    .. math::
        \epsilon_L(u) = -\frac{s\,\chi_L''(s)}{\chi_L'(s)} = \frac{(2L-2)u-(2L-1)}{(2L+2)u-(2L+1)}

    It is zero at the end of convexity and below one.

    Args:
        stretch: The factor u by which each block stretches, at least 1.
        blocks: Number L of blocks.

    Examples:
        >>> elasticity(1.0, 3), elasticity(convex_up_to(2), 2)
        (-1.0, 0.0)
    """
    u, L = stretch, blocks
    return ((2 * L - 2) * u - (2 * L - 1)) / ((2 * L + 2) * u - (2 * L + 1))


def balance(
    lambda_W: float,
    lambda_B: float,
    weights: ArrayLike,
    lambda_H: float = 0.0,
    second_moment: ArrayLike | None = None,
) -> np.ndarray:
    r"""The change B of a residual linear layer, from the weights behind it.

    .. math::
        B + B^2 = \frac1{\lambda_B}\Bigl(\frac{\lambda_W}KW^\top W
            - \lambda_H\frac{HH^\top}N\Bigr), \qquad B \succeq -\tfrac12I

    Args:
        lambda_W: Weight decay of the last layer.
        lambda_B: Weight decay of the layer.
        weights: W, shape (K, d).
        lambda_H: Decay of the layer's output.
        second_moment: :math:`HH^\top/N` of the layer's output, shape (d, d); needed if lambda_H is
            not zero.

    Raises:
        ValueError: A decay has the wrong sign, a shape is wrong, the second moment is missing, or
            no symmetric B has this balance.

    Examples:
        >>> balance(1.0, 1.0, [[2.0, 0.0]])
        array([[1.56155281, 0.        ],
               [0.        , 0.        ]])
    """
    W = _checks.as_array("weights", weights, np.shape(weights))
    a = _checks.positive("lambda_W", lambda_W) / len(W)
    right = a * W.T @ W
    if _checks.nonnegative("lambda_H", lambda_H):
        if second_moment is None:
            raise ValueError(f"second_moment must be given where lambda_H = {lambda_H:g}.")
        right = right - lambda_H * _checks.as_array("second_moment", second_moment, right.shape)
    right = right / _checks.positive("lambda_B", lambda_B)
    values, axes = np.linalg.eigh((right + right.T) / 2)
    if values[0] < -0.25 - 1e-9:
        raise ValueError(
            "no symmetric B has this balance: B + B^2 has no eigenvalue below -1/4, but the "
            f"smallest one wanted is {values[0]:.6g}."
        )
    # v = right / (1/2 + sqrt(1/4 + right)) has no cancellation where right is small.
    v = values / (0.5 + np.sqrt(np.maximum(0.25 + values, 0)))
    return (axes * v) @ axes.T


def minimize(
    lambda_W: float, lambda_B: float, stats: ClassStatistics, blocks: int = 1, factors: int = 1
) -> Layers:
    r"""Minimizer with residual linear blocks, from the statistics of the input features.

    .. math::
        \min_C\ \frac1{2N}\|CH_0 - Y\|_F^2 + \sum_i\chi_L(s_i(C))

    With one block this is strictly convex. With more it has one minimizer if the smallest non-zero
    eigenvalue of :math:`H_0H_0^\top/N` exceeds :math:`k_L\lambda_W/K` (see `concavity`), or if all
    points that are not worse than C = 0 have singular values at which the cost is convex. Else
    several starts are tried, and the lowest comes back uncertified.

    Blocks of two factors, :math:`I + BA` with a decay on each and at least d wide inside, have the
    cost `factored_cost`, and one minimizer if the eigenvalue exceeds
    :math:`\frac{2L-1}{2L+1}\frac{\lambda_W}K`. Both factors can be the square root of what a block
    adds.

    Args:
        lambda_W: Weight decay of the last layer.
        lambda_B: Weight decay of the blocks.
        stats: Statistics of the input features; every class needs a sample.
        blocks: Number L of blocks.
        factors: Linear factors of a block, 1 or 2.

    Raises:
        TypeError: The statistics are none.
        ValueError: A decay is not positive, a class has no samples, blocks < 1, or the factors are
            neither 1 nor 2.

    Examples:
        >>> stats = ClassStatistics(np.array([5, 5]), np.eye(2), 0.3 * np.eye(2))
        >>> layers = minimize(0.1, 0.1, stats)
        >>> layers.certified, layers.maps[0].round(3).tolist()
        (True, [[1.125, 0.0], [0.0, 1.125]])
    """
    problem = _Data.of(stats)
    a = _checks.positive("lambda_W", lambda_W) / stats.K
    L, shape = _checks.positive_integer("blocks", blocks), problem.cross.shape
    if factors not in (1, 2):
        raise ValueError(f"factors must be 1 or 2, but factors = {factors}.")
    penalty = cost if factors == 1 else factored_cost

    def function(x: np.ndarray) -> Evaluation:
        C = x.reshape(shape)
        P, s, Qt = np.linalg.svd(C, full_matrices=False)
        paid = penalty(lambda_W, lambda_B, stats.K, s, L)
        fit, pull = problem.fit(C), (P * paid.slope) @ Qt
        gradient = fit.gradient + pull
        return Evaluation(
            fit.value + float(paid.value.sum()),
            gradient.ravel(),
            fit.size + float(np.linalg.norm(pull)),
        )

    eigenvalues = np.linalg.eigvalsh(problem.moment)
    least = float(eigenvalues[0]) if len(eigenvalues) else np.inf
    bend = concavity(L) if factors == 1 else (2 * L - 1) / (2 * L + 1)
    certified = bend == 0 or least > bend * a or _all_convex(a, lambda_B, stats.K, L, factors)
    ridge = np.linalg.solve(problem.moment + a * np.eye(shape[1]), problem.cross.T).T
    best = _lowest(function, _starts(ridge, 1 if certified else STARTS), lambda _: certified)
    C = best.point.reshape(shape) @ problem.basis.T
    P, s, Qt = np.linalg.svd(C, full_matrices=False)
    u = penalty(lambda_W, lambda_B, stats.K, s, L).stretch
    block = np.eye(stats.d) + (Qt.T * (u - 1)) @ Qt
    maps = (block,) * L
    W = (P * (s / u**L)) @ Qt
    return Layers(W, maps, _levels(stats, maps), best.value, best.gradient_norm, certified)


def _all_convex(a: float, lambda_B: float, K: int, L: int, factors: int) -> bool:
    """Whether no singular value in the concave part of the cost is as good as zero weights."""
    if factors == 2:
        return lambda_B > 1  # the cost is lambda_B / 2 where the concave part begins
    u = convex_up_to(L)
    s = sqrt(lambda_B / a * (u - 1) * u ** (2 * L + 1))
    return float(cost(a * K, lambda_B, K, s, L).value) > 0.5


def plain(lambda_W: float, lambda_B: float, stats: ClassStatistics, blocks: int = 1) -> Layers:
    r"""Minimizer with linear blocks without skip, :math:`H_l = B_lH_{l-1}`.

    For one block the problem in C is convex, with the penalty
    :math:`\sqrt{\lambda_W\lambda_B/K}\,\|C\|_*`; a point is the minimizer if the largest singular
    value of the loss's gradient in C is at most this factor. For more blocks the lowest of several
    starts comes back, uncertified.

    Args:
        lambda_W: Weight decay of the last layer.
        lambda_B: Weight decay of the blocks.
        stats: Statistics of the input features; every class needs a sample.
        blocks: Number L of blocks.

    Raises:
        TypeError: The statistics are none.
        ValueError: A decay is not positive, a class has no samples, or blocks < 1.

    Examples:
        >>> stats = ClassStatistics(np.array([5, 5]), np.eye(2), 0.3 * np.eye(2))
        >>> layers = plain(0.1, 0.1, stats)
        >>> layers.certified, layers.effective.round(3).tolist()
        (True, [[0.537, 0.0], [0.0, 0.537]])
    """
    problem = _Data.of(stats)
    a, b = _checks.positive("lambda_W", lambda_W) / stats.K, _checks.positive("lambda_B", lambda_B)
    L = _checks.positive_integer("blocks", blocks)
    rank = problem.cross.shape[1]
    width = max(min(stats.K, rank), 1)
    # Shapes of W, B_L, ..., B_1: no minimizer needs more than min(K, rank) inner directions.
    shapes = [(stats.K, width), *[(width, width)] * (L - 1), (width, rank)]
    splits = np.cumsum([m * n for m, n in shapes])[:-1]

    def factors(x: np.ndarray) -> list[np.ndarray]:
        parts = np.split(x, splits)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def function(x: np.ndarray) -> Evaluation:
        F, gradients = factors(x), []
        fit = problem.fit(_product(F))
        value, size = fit.value, fit.size * max(float(np.linalg.norm(A)) for A in F) ** L
        for i, (A, decay) in enumerate(zip(F, [a] + [b] * L, strict=True)):
            left = _product([np.eye(stats.K), *F[:i]])
            right = _product([np.eye(A.shape[1]), *F[i + 1 :]])
            gradients.append(left.T @ fit.gradient @ right.T + decay * A)
            value += decay / 2 * float(np.sum(A**2))
            size += decay * float(np.linalg.norm(A))
        return Evaluation(value, np.concatenate([g.ravel() for g in gradients]), size)

    def certifies(found: Bottom) -> bool:
        gradient = problem.fit(_product(factors(found.point))).gradient
        return L == 1 and bool(np.linalg.norm(gradient, 2) <= sqrt(a * b) * (1 + SLACK))

    rng = np.random.default_rng(0)
    count = int(splits[-1]) + width * rank
    starts = (size * rng.standard_normal(count) for size in np.geomspace(2, 0.2, STARTS))
    best = _lowest(function, starts, certifies)
    if (zero := function(np.zeros(count))).value <= best.value:
        best = Bottom(np.zeros(count), zero.value, 0.0)
    W, *blocks_ = (_embedded(A, stats.d) for A in factors(best.point))
    blocks_[-1] = blocks_[-1][:, :rank] @ problem.basis.T
    maps = tuple(reversed(blocks_))
    levels = _levels(stats, maps)
    return Layers(W[: stats.K], maps, levels, best.value, best.gradient_norm, certifies(best))


def linked(model: Model, lambda_B: float, stats: ClassStatistics) -> Linked:
    r"""Minimizer with both links: a linear layer that is shared, and a pull on every sample.

    .. math::
        f(W, H; (I+B)H_0) + \frac{\lambda_B}2\|B\|_F^2

    For given W the rest is linear. With :math:`W^\top W = P\operatorname{diag}(x_i)P^\top`,
    :math:`H_0H_0^\top/N = Q\operatorname{diag}(y_j)Q^\top` and :math:`b = \lambda_H+\beta`,

    .. math::
        [P^\top(I+B)Q]_{ij} = \frac{\lambda_B[P^\top Q]_{ij}
            + \frac\beta{x_i+b}\bigl[P^\top W^\top YH_0^\top Q/N\bigr]_{ij}}
            {\lambda_B + \beta y_j\frac{x_i+\lambda_H}{x_i+b}}, \qquad
        H = G^{-1}\bigl(W^\top Y + \beta(I+B)H_0\bigr) .

    Only class statistics of the input are needed.

    Args:
        model: The decays and the pull; beta must be positive.
        lambda_B: Weight decay of the layer.
        stats: Statistics of the input features; every class needs a sample.

    Raises:
        TypeError: An argument is of another type.
        ValueError: lambda_B or beta is not positive, or a class has no samples.

    Examples:
        >>> stats = ClassStatistics(np.array([5, 5]), np.eye(2), 0.3 * np.eye(2))
        >>> found = linked(Model(0.5, 0.1, beta=2.0), 2.0, stats)
        >>> found.certified, found.block.round(3).tolist()
        (True, [[0.986, 0.0], [0.0, 0.986]])
    """
    _checks.instance("model", model, Model)
    _checks.positive("beta", model.beta)
    problem = _Link(model, _checks.positive("lambda_B", lambda_B), stats)
    ridge = np.linalg.solve(
        problem.moment + model.lambda_W / stats.K * np.eye(stats.d), problem.cross.T
    ).T
    best = _lowest(problem.function, _starts(ridge, STARTS), problem.certifies)
    ratio = problem.ratio(best.point)
    W = best.point.reshape(ridge.shape)
    inner = problem.inner(W)
    within = inner.within @ stats.within @ inner.within.T
    features = ClassStatistics(stats.counts, inner.means, (within + within.T) / 2, stats.resolution)
    return Linked(W, inner.block, features, best.value, best.gradient_norm, ratio, inner.within)


# ---- the data -----------------------------------------------------------------------------------


class _Fit(NamedTuple):
    """The loss of an effective classifier, its gradient, and the size of the gradient's terms."""

    value: float
    gradient: np.ndarray
    size: float


class _Data(NamedTuple):
    """What the loss needs of the input, in the span of the input features.

    Attributes:
        moment: :math:`H_0H_0^T/N` in the basis, (r, r).
        cross: :math:`YH_0^T/N` in the basis, (K, r).
        basis: Orthonormal basis of the span, (d, r).
    """

    moment: np.ndarray
    cross: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, stats: ClassStatistics) -> "_Data":
        moment, cross = _moments(stats)
        values, axes = np.linalg.eigh(moment)
        kept = values > max(stats.d * stats.resolution * values[-1], 0)
        return cls(np.diag(values[kept]), cross @ axes[:, kept], axes[:, kept])

    def fit(self, C: np.ndarray) -> _Fit:
        """Loss of an effective classifier in the basis."""
        through = C @ self.moment
        value = 0.5 + float(np.sum(C * (through / 2 - self.cross)))
        size = float(np.linalg.norm(through) + np.linalg.norm(self.cross))
        return _Fit(value, through - self.cross, size)


def _moments(stats: ClassStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Second moment (d, d) and cross moment with the labels (K, d) of the input features."""
    _checks.instance("stats", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    shares = stats.counts / stats.N
    moment = stats.within + (stats.means * shares) @ stats.means.T
    return (moment + moment.T) / 2, (stats.means * shares).T


def _levels(stats: ClassStatistics, maps: tuple[np.ndarray, ...]) -> tuple[ClassStatistics, ...]:
    """Statistics of the input after each of the maps."""
    found = []
    for A in maps:
        within = A @ stats.within @ A.T
        stats = ClassStatistics(
            stats.counts, A @ stats.means, (within + within.T) / 2, stats.resolution
        )
        found.append(stats)
    return tuple(found)


# ---- starts -------------------------------------------------------------------------------------


def _starts(ridge: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The ridge classifier, then random ones around several sizes."""
    yield ridge.ravel()
    rng, size = np.random.default_rng(0), max(float(np.abs(ridge).max()), 1e-3)
    for factor in np.geomspace(0.3, 10, count)[1:]:
        yield factor * size * rng.standard_normal(ridge.size)


def _lowest(
    function: Callable[[np.ndarray], Evaluation],
    starts: Iterator[np.ndarray],
    certifies: Callable[[Bottom], bool],
) -> Bottom:
    """The lowest end of the starts, which end with the first that is certified."""
    best: Bottom | None = None
    for start in starts:
        found = descend(function, start)
        if best is None or found.value < best.value:
            best = found
        if certifies(best):
            break
    assert best is not None
    return best


def _product(matrices: list[np.ndarray]) -> np.ndarray:
    """The product of matrices, left to right."""
    product = matrices[0]
    for A in matrices[1:]:
        product = product @ A
    return product


def _embedded(A: np.ndarray, d: int) -> np.ndarray:
    """A matrix with zeros around it, at least d x d."""
    wide = np.zeros((max(d, len(A)), d))
    wide[: len(A), : A.shape[1]] = A
    return wide


# ---- both links ---------------------------------------------------------------------------------


class _Inner(NamedTuple):
    """What is optimal for given weights: the layer, means of H, and its map of deviations."""

    block: np.ndarray
    means: np.ndarray
    within: np.ndarray


class _Link:
    """The problem with both links, reduced to W."""

    def __init__(self, model: Model, lambda_B: float, stats: ClassStatistics):
        self.model, self.lambda_B, self.stats = model, lambda_B, stats
        self.moment, self.cross = _moments(stats)
        self.shares = stats.counts / stats.N
        values, self.Q = np.linalg.eigh(self.moment)
        self.y = np.maximum(values, 0)

    def inner(self, W: np.ndarray) -> _Inner:
        model = self.model
        x, P = np.linalg.eigh(W.T @ W)
        x = np.maximum(x, 0)[:, None]
        held = model.beta / (x + model.b)
        top = self.lambda_B * P.T @ self.Q + held * (P.T @ W.T @ self.cross @ self.Q)
        bottom = self.lambda_B + held * self.y * (x + model.lambda_H)
        block = P @ (top / bottom) @ self.Q.T
        within = P @ (held * (P.T @ block))
        means = P @ ((P.T @ W.T) / (x + model.b)) + within @ self.stats.means
        return _Inner(block, means, within)

    def function(self, x: np.ndarray) -> Evaluation:
        """Value and gradient of the reduced problem."""
        model, stats, W = self.model, self.stats, x.reshape(self.cross.shape)
        inner, a = self.inner(W), model.lambda_W / stats.K
        moment = (inner.means * self.shares) @ inner.means.T
        moment += inner.within @ stats.within @ inner.within.T
        E = W @ inner.means - np.eye(stats.K)
        pulled = inner.means - inner.block @ stats.means
        loose = inner.within - inner.block
        terms = [
            np.sum(E**2 * self.shares)
            + np.sum(W @ inner.within @ stats.within * (W @ inner.within)),
            model.lambda_H * np.trace(moment),
            model.beta * (np.sum(pulled**2 * self.shares) + np.sum(loose @ stats.within * loose)),
            self.lambda_B * np.sum((inner.block - np.eye(stats.d)) ** 2),
            a * np.sum(W**2),
        ]
        parts = [W @ moment, -(inner.means * self.shares).T, a * W]
        size = float(sum(np.linalg.norm(part) for part in parts))
        return Evaluation(float(sum(terms)) / 2, sum(parts, np.zeros_like(W)).ravel(), size)

    def certifies(self, found: Bottom) -> bool:
        """Whether the point is certified."""
        return self.ratio(found.point) <= 1 + SLACK

    def ratio(self, point: np.ndarray) -> float:
        r"""Norm of :math:`EME^T/N` over lambda_W/K, with M of the kernel of both links."""
        model, stats, W = self.model, self.stats, point.reshape(self.cross.shape)
        inner = self.inner(W)
        spread = W @ inner.within
        E = W @ inner.means - np.eye(stats.K)
        residuals = (E * self.shares) @ E.T + spread @ stats.within @ spread.T
        mixed = ((E * self.shares) @ stats.means.T + spread @ stats.within) @ self.Q
        # M = I/b + H_0^T X H_0 / N with X a function of the second moment.
        weight = self.y / self.lambda_B + 1 / model.beta
        X = model.beta / (self.lambda_B * (1 + model.lambda_H * weight) * model.b)
        bound = residuals / model.b + (mixed * X) @ mixed.T
        return float(np.linalg.norm(bound, 2)) * stats.K / model.lambda_W
