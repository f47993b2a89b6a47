r"""Several levels of features, trained together or one after the other.

Between the input features :math:`H_0` and the last features :math:`H_L` stand levels that are free
to move:

.. math::
    f = \frac{1}{2N}\Bigl(\|WH_L - Y\|_F^2 + \sum_{l=1}^{L}\lambda_l\|H_l\|_F^2
        + \sum_{i<j}\beta_{ij}\|H_i - H_j\|_F^2\Bigr) + \frac{\lambda_W}{2K}\|W\|_F^2 .

On a chain only neighbors are linked, with pulls :math:`\beta_l` between levels l - 1 and l; on a
graph any two levels may be. The loss sees the last level only, so that the levels between enter
through a quadratic function and can be eliminated one by one. Think of resistors: a pull is a
conductance between two nodes, a decay one to the ground. The optimal inner node v is the mean of
its neighbors u, weighted with its conductances :math:`g_{vu}` and with the ground as a neighbor at
zero, and what is left when it is gone is a conductance between every two of its neighbors (the
star-mesh transform, one step of Gaussian elimination on the matrix of a network):

.. math::
    \min_{H_v}\sum_u g_{vu}\|H_v - H_u\|_F^2
        = \sum_{u<w}\frac{g_{vu}\,g_{vw}}{\sum_x g_{vx}}\,\|H_u - H_w\|_F^2 .

In the end two nodes and the ground are left: one level with :math:`\beta_{\mathrm{eff}}` and
:math:`\lambda_{\mathrm{eff}}`, neither negative. No step subtracts, so both keep their relative
accuracy (Grassmann, Taksar and Heyman, 1985). Loss, class sizes and dimension play no role.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csgraph

from nclib import _checks
from nclib.foundations import minimize as one_level
from nclib.foundations.minimize import Solution
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.perturbation.contraction import contraction


class Weights(NamedTuple):
    r"""Weights of the two ends in the levels 1 to L, :math:`H_l = p_l H_0 + q_l H_L`.

    Attributes:
        p: Weights of the input features, shape (L,).
        q: Weights of the last features, shape (L,).
    """

    p: np.ndarray
    q: np.ndarray


class Profile(NamedTuple):
    """Metrics of the levels 1 to L relative to those of a nearly collapsed input.

    Attributes:
        nc1_trace: The ratio of traces, shape (L,), for within-class deviations of equal size in all
            directions.
        nc1: The metric with the pseudoinverse, shape (L,), for any deviations.
    """

    nc1_trace: np.ndarray
    nc1: np.ndarray


@dataclass(frozen=True)
class Levels:
    r"""A minimizer of the model with several levels, its features kept as statistics.

    Attributes:
        solution: Minimizer of the equivalent one-level model: weights, certificate and status,
            which hold for all levels together.
        weights: Weights p and q of the two ends in each level.
        statistics: Class statistics of the levels 1 to L, a tuple of length L.
        objective: Value f of the model with all its levels.
    """

    solution: Solution
    weights: Weights
    statistics: tuple[ClassStatistics, ...]
    objective: float

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        """Optimal features of all levels, (L, N, d), for the input features.

        Args:
            features: Shape (N, d).
            labels: Shape (N,).

        Raises:
            ValueError: The shapes or the labels do not fit the weights.
        """
        H0 = np.asarray(features, dtype=float)
        last = self.solution.features(features, labels)
        p, q = (x[:, None, None] for x in self.weights)
        return p * H0 + q * last


def effective(lambda_W: float, decays: ArrayLike, pulls: ArrayLike) -> Model:
    r"""One-level model with the same weights, last features, stationary points and minimizers.

    .. math::
        \min_{H_1,\dots,H_{L-1}} f = f_{\mathrm{eff}}(W, H_L; H_0) + \mathrm{const}\,\|H_0\|_F^2

    On a chain without inner decays :math:`1/\beta_{\mathrm{eff}} = \sum_l 1/\beta_l` and
    :math:`\lambda_{\mathrm{eff}} = \lambda_L`: springs in series. Always
    :math:`\lambda_{\mathrm{eff}} \ge 0`, and on a chain it is zero only if all decays are. (On a
    graph a level that hangs on the input alone lends its decay to nobody.)

    Args:
        lambda_W: Weight decay of the last layer.
        decays: Decays of the levels 1 to L, shape (L,), none negative.
        pulls: Shape (L,), all positive: a chain. Or shape (L + 1, L + 1), symmetric with zero
            diagonal, none negative: entry (i, j) links the levels i and j, 0 being the input.

    Raises:
        ValueError: A number has the wrong sign, a shape or the symmetry is wrong, or a level is
            linked to no other.

    Examples:
        >>> model = effective(0.1, [0, 0, 0.2], [1, 2, 2])
        >>> model.beta, model.lambda_H
        (0.5, 0.2)
    """
    ends = _eliminate(*_network(decays, pulls))
    return Model(_checks.positive("lambda_W", lambda_W), ends.decay, ends.pull)


def weights(decays: ArrayLike, pulls: ArrayLike) -> Weights:
    r"""Weights p and q of the two ends in each level, :math:`H_l = p_l H_0 + q_l H_L`.

    Both are between 0 and 1 and :math:`p_l + q_l \le 1`, with equality in all levels exactly if all
    inner decays are zero; then the levels lie on a straight line. On a chain :math:`q_l / p_l`
    increases with l. In the language of networks, :math:`q_l` is the voltage of node l if node L is
    held at 1 and the input, like the ground, at 0.

    Args:
        decays: Shape (L,); the last one plays no role.
        pulls: As for `effective`.

    Raises:
        ValueError: As for `effective`.

    Examples:
        >>> weights([0, 0, 0.2], [1, 2, 2])
        Weights(p=array([0.5 , 0.25, 0.  ]), q=array([0.5 , 0.75, 1.  ]))
    """
    return _eliminate(*_network(decays, pulls)).weights


def minimize(
    lambda_W: float,
    decays: ArrayLike,
    pulls: ArrayLike,
    stats: ClassStatistics,
    max_iterations: int = 200,
) -> Levels:
    r"""Minimizer of the model with all levels, from the statistics of the input features.

    With G and W of the equivalent one-level model, level l has

    .. math::
        \bar H_l = p_l\bar H_0 + q_l\bar H_L, \qquad
        \Sigma_{W,l} = T_l\,\Sigma_{W,0}\,T_l^\top, \qquad
        T_l = p_l I + q_l\beta_{\mathrm{eff}}G^{-1} .

    Args:
        lambda_W: Weight decay of the last layer.
        decays: As for `effective`.
        pulls: As for `effective`.
        stats: Statistics of the input features; every class needs a sample.
        max_iterations: Bound on the Newton steps of each start.

    Raises:
        ValueError: As for `effective`, or a class has no samples.

    Examples:
        >>> stats = ClassStatistics(np.array([5, 5]), np.eye(2), 0.3 * np.eye(2))
        >>> levels = minimize(0.1, [0, 0], [1, 1], stats)
        >>> [round(float(np.trace(s.within)), 4) for s in levels.statistics]
        [0.3375, 0.15]
    """
    ends = _eliminate(*_network(decays, pulls))
    model = Model(_checks.positive("lambda_W", lambda_W), ends.decay, ends.pull)
    solution = one_level.minimize(model, stats, max_iterations)
    statistics = tuple(_level(solution, stats, p, q) for p, q in zip(*ends.weights, strict=True))
    input_square = float(np.trace(stats.second_moment)) / stats.K
    return Levels(
        solution, ends.weights, statistics, solution.objective + ends.rest / 2 * input_square
    )


def grow(
    lambda_W: float,
    decays: ArrayLike,
    pulls: ArrayLike,
    stats: ClassStatistics,
    max_iterations: int = 200,
) -> tuple[Solution, ...]:
    r"""Levels trained one after the other, each on top of the one below as it is.

    Level l minimizes the one-level model with :math:`\lambda_l`, :math:`\beta_l` and the input
    :math:`H_{l-1}`.

    Args:
        lambda_W: Weight decay of the last layer, which is trained anew with each level.
        decays: Shape (L,), none negative.
        pulls: Shape (L,), all positive: growth needs a chain.
        stats: Statistics of the input features; every class needs a sample.
        max_iterations: Bound on the Newton steps of each start.

    Returns:
        The minimizers of the L levels.

    Raises:
        ValueError: A number has the wrong sign, a shape is wrong, or a class has no samples.

    Examples:
        >>> stats = ClassStatistics(np.array([5, 5]), np.eye(2), 0.3 * np.eye(2))
        >>> grown = grow(0.1, [0, 0], [1, 1], stats)
        >>> [round(float(np.trace(s.statistics.within)), 3) for s in grown]
        [0.284, 0.127]
    """
    decays, pulls = _chain(decays, pulls)
    solutions: list[Solution] = []
    for decay, pull in zip(decays, pulls, strict=True):
        model = Model(lambda_W, float(decay), float(pull))
        solutions.append(one_level.minimize(model, stats, max_iterations))
        stats = solutions[-1].statistics
    return tuple(solutions)


def profile(lambda_W: float, decays: ArrayLike, pulls: ArrayLike, K: int, d: int) -> Profile:
    r"""Metrics level by level when the input is close to a collapsed minimizer of the equivalent
    model.

    With the factors :math:`s_1, s_2` of that model, for within-class deviations in the frame and
    orthogonal to it,

    .. math::
        \frac{\widetilde{\mathrm{NC1}}_l}{\widetilde{\mathrm{NC1}}_0} \to
        \frac{K(p_l + q_l s_1)^2 + (d-K)(p_l + q_l s_2)^2}{d\,(p_l+q_l)^2}, \qquad
        \frac{\mathrm{NC1}_l}{\mathrm{NC1}_0} \to \Bigl(\frac{p_l + q_l s_1}{p_l+q_l}\Bigr)^2 .

    Args:
        lambda_W: Weight decay of the last layer.
        decays: As for `effective`, not all zero.
        pulls: As for `effective`.
        K: Number of classes.
        d: Dimension of the features, at least K.

    Raises:
        ValueError: As for `effective`; d < K; or the equivalent model has c >= 1 or no decay, and
            no collapsed frame.

    Examples:
        >>> profile(0.1, [0, 0.1], [1, 1], K=2, d=2).nc1
        array([0.44444444, 0.11111111])
    """
    ends = _eliminate(*_network(decays, pulls))
    s = contraction(Model(_checks.positive("lambda_W", lambda_W), ends.decay, ends.pull))
    p, q = ends.weights
    return _profile((p + q * s.s1) / (p + q), (p + q * s.s2) / (p + q), K, d)


def grown_profile(lambda_W: float, decay: float, pulls: ArrayLike, K: int, d: int) -> Profile:
    r"""Metrics level by level when levels with one decay are grown, from nearly collapsed features.

    Each level multiplies within-class deviations by its own :math:`s_1 = \beta_l/(\beta_l +
    \kappa)` in the frame and :math:`s_2 = \beta_l/(\beta_l + \lambda_H)` orthogonal to it: with
    equal pulls a geometric law.

    Args:
        lambda_W: Weight decay of the last layer.
        decay: Decay of every level, positive.
        pulls: Shape (L,), all positive.
        K: Number of classes.
        d: Dimension of the features, at least K.

    Raises:
        ValueError: A number has the wrong sign, a shape is wrong, d < K, or c >= 1.

    Examples:
        >>> grown_profile(0.1, 0.1, [1, 1], K=2, d=2).nc1
        array([0.25  , 0.0625])
    """
    _, strengths = _chain(np.zeros(np.shape(pulls)), pulls)
    s = [contraction(Model(lambda_W, decay, float(pull))) for pull in strengths]
    return _profile(np.cumprod([x.s1 for x in s]), np.cumprod([x.s2 for x in s]), K, d)


class _Ends(NamedTuple):
    """What elimination leaves: pull between the two ends, decays of the last level and of the
    input, weights.
    """

    pull: float
    decay: float
    rest: float
    weights: Weights


def _eliminate(links: np.ndarray, ground: np.ndarray) -> _Ends:
    """Star-mesh transform of the nodes 1 to L - 1, in turn, then the voltages backwards."""
    L = len(ground) - 1
    links, ground = links.copy(), ground.copy()
    shares = np.zeros_like(links)
    for v in range(1, L):
        near = np.flatnonzero(links[v])
        conductances = links[v, near]
        # Positive: in a connected graph each node keeps a link to those that are left.
        shares[v, near] = conductances / (conductances.sum() + ground[v])
        links[np.ix_(near, near)] += np.outer(conductances, shares[v, near])
        ground[near] += ground[v] * shares[v, near]
        links[v], links[:, v] = 0, 0
        np.fill_diagonal(links, 0)
    ends = np.zeros((L + 1, 2))
    ends[0, 0] = ends[L, 1] = 1
    for v in range(L - 1, 0, -1):
        ends[v] = shares[v] @ ends
    p, q = ends[1:].T
    return _Ends(float(links[0, L]), float(ground[L]), float(ground[0]), Weights(p, q))


def _level(solution: Solution, stats: ClassStatistics, p: float, q: float) -> ClassStatistics:
    """Statistics of the level p H_0 + q H_L."""
    W, model = solution.weights, solution.model
    A = np.linalg.solve(W @ W.T + model.b * np.eye(len(W)), W)
    # Within a class p H_0 + q beta G^{-1} H_0, with beta G^{-1} = (beta / b)(I - A^T W).
    turned = q * model.beta / model.b
    kept = p + turned
    left = kept * stats.within - turned * A.T @ (W @ stats.within)
    within = kept * left - turned * (left @ W.T) @ A
    means = p * stats.means + q * solution.statistics.means
    return ClassStatistics(stats.counts, means, (within + within.T) / 2, stats.resolution)


def _profile(in_frame: np.ndarray, off_frame: np.ndarray, K: int, d: int) -> Profile:
    _checks.positive_integer("K", K)
    if _checks.positive_integer("d", d) < K:
        raise ValueError(f"d = {d} is less than K = {K}: K orthogonal means need d >= K.")
    return Profile((K * in_frame**2 + (d - K) * off_frame**2) / d, in_frame**2)


def _network(decays: ArrayLike, pulls: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Conductances between the nodes 0 to L, (L + 1, L + 1), and to the ground, (L + 1,)."""
    if np.ndim(pulls) != 2:
        decays, pulls = _chain(decays, pulls)
        links = np.diag(pulls, 1)
        return links + links.T, np.append(0.0, decays)
    size = len(np.asarray(pulls))
    links = _checks.as_array("pulls", pulls, (size, size))
    if links.min() < 0 or np.diag(links).any() or (links != links.T).any():
        raise ValueError(
            "pulls of a graph must be symmetric and not negative, with zeros on the diagonal; "
            f"given was {links.tolist()}."
        )
    ground = np.append(0.0, _decays(decays, size - 1))
    _, part = csgraph.connected_components(links)
    if part.any():
        raise ValueError(f"level {int(np.argmax(part > 0))} is not linked to the input.")
    return links, ground


def _chain(decays: ArrayLike, pulls: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked decays and pulls of a chain, both (L,)."""
    strengths = _checks.as_array("pulls", pulls, (np.size(pulls),))
    if strengths.size == 0 or strengths.min() <= 0:
        raise ValueError(
            f"pulls of a chain must be greater than zero, one for each level; given was {pulls!r}."
        )
    return _decays(decays, strengths.size), strengths


def _decays(decays: ArrayLike, L: int) -> np.ndarray:
    checked = _checks.as_array("decays", decays, (L,))
    if L == 0 or checked.min() < 0:
        raise ValueError(f"decays must not be negative, one for each level; given was {decays!r}.")
    return checked
