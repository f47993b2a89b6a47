r"""Cross-entropy on a frame of classes: the simplex, and pairs of opposite classes.

The class means are K orthonormal vectors, without spread. In their basis the effective classifier
is the K x K matrix C of the scores, a column for each class, and with a cost of its singular values

.. math::
    F(C) = \frac1K\sum_k\Bigl(\log\sum_je^{C_{jk}} - C_{kk}\Bigr) + \sum_i\chi(s_i(C)) .

With :math:`\Pi = I - \frac1K\mathbf 1\mathbf 1^\top` the simplex is :math:`C = x\,\Pi`. Pairs of
opposite classes, for even K, are two numbers: :math:`s_1` on the K/2 differences within the pairs,
and :math:`s_2` on the K/2 - 1 contrasts between the pairs,

.. math::
    F = \log\bigl(1 + e^{-s_1} + (K-2)\,e^{-(s_1+s_2)/2}\bigr)
        + \frac K2\chi(s_1) + \Bigl(\frac K2-1\Bigr)\chi(s_2) .
"""

from collections.abc import Callable, Iterator
from math import exp, inf, log, log1p
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from nclib import _checks
from nclib.beyond import shared

LONGEST = 700.0  # largest score that is looked at; its exponential is still a number
Penalty = Callable[[np.ndarray], shared.Cost]  # a cost for each singular value


class Simplex(NamedTuple):
    r"""The simplex that is stationary at a given stretch.

    Attributes:
        score: x in :math:`C = x\,\Pi`, the own score above the others.
        lambda_B: Decay of the blocks at which it is stationary.
        value: F there.
        margin: :math:`x - K\,\frac{(2L-2)u-(2L-1)}{(2L+2)u-(2L+1)}`. Above zero the simplex is a
            strict local minimum; below, for :math:`K\ge4`, it is none.
    """

    score: float
    lambda_B: float
    value: float
    margin: float


class Pairs(NamedTuple):
    """The best pairs of opposite classes.

    Attributes:
        within: The singular value of the differences within the pairs.
        between: The singular value of the contrasts between the pairs.
        value: F there.
    """

    within: float
    between: float
    value: float


class Rival(NamedTuple):
    """The lowest end of a search over all scores.

    Attributes:
        scores: C, shape (K, K), a column for each class.
        singular_values: Those of C, falling.
        value: F there.
        start: What the search started from.
    """

    scores: np.ndarray
    singular_values: np.ndarray
    value: float
    start: str


def simplex(lambda_W: float, K: int, blocks: int, stretch: float) -> Simplex:
    r"""The simplex, and the decay of the blocks at which all of them stretch it by a factor.

    With the stretch u of a block, the L-th root of that of all blocks,

    .. math::
        \frac1{e^x+K-1} = \frac{\lambda_Wx}{Ku^{2L}}, \qquad
        \lambda_B = \frac{\lambda_Wx^2}{K(u-1)u^{2L+1}} .

    Args:
        lambda_W: Weight decay of the last layer.
        K: Number of classes, at least 2.
        blocks: Number L of residual linear blocks.
        stretch: The factor of all blocks together, above 1.

    Raises:
        ValueError: A decay is not positive, K < 2, blocks < 1, or stretch <= 1.

    Examples:
        >>> found = simplex(0.004, 4, 4, 2.0)
        >>> round(found.score, 4), round(found.lambda_B, 4), found.margin > 0
        (6.4285, 0.0459, True)
    """
    K, L, t = _classes(K), _checks.positive_integer("blocks", blocks), _stretch(stretch)
    a = _checks.positive("lambda_W", lambda_W) / K

    def excess(x: float) -> float:
        return log(a * x) - 2 * log(t) + x + log1p((K - 1) * exp(-x))

    x = optimize.brentq(excess, 1e-300, LONGEST, xtol=1e-15, rtol=1e-15)
    u = t ** (1 / L)
    lambda_B = a * x**2 / ((u - 1) * u ** (2 * L + 1))
    paid = a / 2 * (x / t) ** 2 + lambda_B * L / 2 * (u - 1) ** 2
    return Simplex(
        x, lambda_B, log1p((K - 1) * exp(-x)) + (K - 1) * paid, x - K * shared.elasticity(u, L)
    )


def best_simplex(penalty: Penalty, K: int) -> Pairs:
    r"""The best multiple of the simplex for any cost, as pairs with equal singular values.

    .. math::
        \min_x\ \log\bigl(1 + (K-1)e^{-x}\bigr) + (K-1)\,\chi(x)

    Args:
        penalty: Gives value and slope of the cost at singular values, as `shared.cost` does.
        K: Number of classes, at least 2.

    Raises:
        ValueError: K < 2.

    Examples:
        >>> from functools import partial
        >>> found = best_simplex(partial(shared.cost, 0.004, 0.0459157, 4, blocks=4), 4)
        >>> round(found.within, 2)
        6.43
    """
    K = _classes(K)

    def function(s: np.ndarray) -> np.ndarray:
        return np.log1p((K - 1) * np.exp(-s)) + (K - 1) * penalty(s).value

    grid = np.concatenate([[0.0], np.geomspace(1e-3, 200, 400)])
    at = int(np.argmin(function(grid)))
    ends = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    s = optimize.minimize_scalar(
        lambda s: float(function(np.array(s))),
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    s = s if function(np.array(s)) < function(grid[:1])[0] else 0.0
    return Pairs(float(s), float(s), float(function(np.array(s))))


def pairs(penalty: Penalty, K: int, score: float) -> Pairs:
    r"""The best pairs of opposite classes, from starts far from the simplex.

    .. math::
        \min_{s_1,s_2}\ \log\bigl(1 + e^{-s_1} + (K-2)\,e^{-(s_1+s_2)/2}\bigr)
            + \frac K2\chi(s_1) + \Bigl(\frac K2-1\Bigr)\chi(s_2)

    Args:
        penalty: Gives value and slope of the cost at singular values, as `shared.cost` does.
        K: Number of classes, even, at least 4.
        score: A score of the simplex, for the size of the starts.

    Raises:
        ValueError: K is not even or below 4, or the score is not positive.

    Examples:
        >>> from functools import partial
        >>> found = pairs(partial(shared.cost, 0.006, 0.001, 6, blocks=4), 6, 9.0)
        >>> round(found.within, 1), round(found.between, 1)
        (17.4, 0.2)
    """
    K, score = _even(K), _checks.positive("score", score)
    counts = np.array([K / 2, K / 2 - 1])

    def function(root: np.ndarray) -> tuple[float, np.ndarray]:
        s = root**2
        paid = penalty(s)
        terms = np.array([1.0, K - 2]) * np.exp(-np.array([s[0], s.mean()]))
        p = terms / (1 + terms.sum())
        slope = -np.array([p[0] + p[1] / 2, p[1] / 2]) + counts * paid.slope
        return log1p(terms.sum()) + counts @ paid.value, 2 * root * slope

    best = Pairs(0.0, 0.0, inf)
    for x, y in ((2.0 * score, 0.1), (1.5 * score, score / 6)):
        end = optimize.minimize(
            function, np.sqrt([x, y]), jac=True, method="BFGS", options={"gtol": 1e-8}
        )
        if end.fun < best.value:
            x, y = (float(s) for s in end.x**2)
            best = Pairs(x, y, float(end.fun))
    return best


def critical_stretch(lambda_W: float, K: int, blocks: int, most: float = 100.0) -> float:
    r"""The stretch of the simplex beyond which pairs of opposite classes cost less.

    An upper estimate of the stretch at which the simplex ceases to be the global minimizer: other
    solutions may win earlier. It is looked for between the end of convexity,
    :math:`(\frac{2L-1}{2L-2})^L`, and the largest stretch.

    Args:
        lambda_W: Weight decay of the last layer.
        K: Number of classes, even, at least 4.
        blocks: Number L of residual linear blocks, at least 2.
        most: Largest stretch that is looked at.

    Returns:
        The stretch, or infinity if the pairs do not win at the largest one.

    Raises:
        ValueError: K is not even or below 4, blocks < 2, or the pairs win where the cost is convex.

    Examples:
        >>> round(critical_stretch(0.006, 6, 4), 2), critical_stretch(0.006, 6, 4, most=5.0)
        (5.85, inf)
    """
    K, L = _even(K), _checks.positive_integer("blocks", blocks)
    if L < 2:
        raise ValueError(f"blocks must be at least 2, but blocks = {L}.")

    def lead(log_stretch: float) -> float:
        """How much less the pairs cost, relative to the simplex; -1 where they are the simplex."""
        found = simplex(lambda_W, K, L, exp(log_stretch))

        def penalty(s: np.ndarray) -> shared.Cost:
            return shared.cost(lambda_W, found.lambda_B, K, s, L)

        x, y, value = pairs(penalty, K, found.score)
        return 1 - value / found.value if x - y > 0.01 * x else -1.0

    low, high = L * log(shared.convex_up_to(L)), log(_stretch(most))
    if high <= low or lead(high) <= 0:
        return inf
    if lead(low) >= 0:
        raise ValueError(f"lambda_W = {lambda_W:g} is so large that pairs win where F is convex.")
    return exp(optimize.brentq(lead, low, high, xtol=1e-7))


def rival(penalty: Penalty, K: int, score: float, random: int = 4) -> Rival:
    """The lowest end of BFGS in all scores, from pairs, groups, polygons, and at random.

    Args:
        penalty: Gives value and slope of the cost at singular values, as `shared.cost` does.
        K: Number of classes, at least 2.
        score: A score of the simplex, for the size of the starts.
        random: Number of random starts.

    Raises:
        ValueError: K < 2, or the score is not positive.

    Examples:
        >>> from functools import partial
        >>> found = rival(partial(shared.cost, 0.006, 0.001, 6, blocks=4), 6, 9.0, random=0)
        >>> found.start, found.singular_values[:5].round(1).tolist()
        ('pairs', [17.4, 17.4, 17.4, 0.2, 0.2])
    """
    K, score = _classes(K), _checks.positive("score", score)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        C = x.reshape(K, K)
        P, s, Qt = np.linalg.svd(C)
        paid, p = penalty(s), special.softmax(C, axis=0)
        value = float(np.mean(special.logsumexp(C, axis=0) - np.diag(C)) + paid.value.sum())
        return value, ((p - np.eye(K)) / K + (P * paid.slope) @ Qt).ravel()

    best = Rival(np.zeros((K, K)), np.zeros(K), function(np.zeros(K * K))[0], "zero")
    for name, C in _frames(K, score, random):
        end = optimize.minimize(
            function, C.ravel(), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 4000}
        )
        if end.fun < best.value - 1e-12:
            scores = end.x.reshape(K, K)
            best = Rival(scores, np.linalg.svd(scores)[1], float(end.fun), name)
    return best


def _frames(K: int, score: float, random: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and scores of the starts: K vectors of one length, and a little of the simplex."""
    center = np.eye(K) - 1 / K
    yield "simplex", score * center
    for size in range(2, K // 2 + 1):
        if K % size == 0:  # groups of equal size, each a simplex of its own
            inner = np.kron(np.eye(K // size), np.eye(size) - 1 / size)
            name = "pairs" if size == 2 else f"groups of {size}"
            yield name, 1.7 * score * inner + score / 12 * (center - inner)
    for turns in range(1, max(K // 2, 2)):
        angles = 2 * np.pi * turns * np.arange(K) / K
        circle = np.cos(np.subtract.outer(angles, angles))
        yield f"polygon of {turns} turns", 4 * score / K * circle + score / 12 * center
    rng = np.random.default_rng(0)
    for size in np.geomspace(0.3, 2, random):
        yield "random", size * score * (center + rng.standard_normal((K, K)) / 2)


def _classes(K: int) -> int:
    if _checks.positive_integer("K", K) < 2:
        raise ValueError(f"K must be at least 2, but K = {K}.")
    return K


def _even(K: int) -> int:
    if _classes(K) < 4 or K % 2:
        raise ValueError(f"K must be even and at least 4, but K = {K}.")
    return K


def _stretch(t: float) -> float:
    if _checks.positive("stretch", t) <= 1:
        raise ValueError(f"stretch must be greater than one, but stretch = {t:g}.")
    return t
