r"""Classes of unequal sizes, without pull: which classes survive, where they lie, what moves there.

.. math::
    f = \frac1{N}\sum_{k,i}\ell_k(Wh_{k,i}) + \frac{\lambda_H}{2N}\|H\|_F^2
        + \frac{\lambda_W}{2K}\|W\|_F^2, \qquad \bar n = N/K, \quad m_k = n_k/\bar n

**Squared loss.** For a given product Z = WH the two decays cost least, namely :math:`\sqrt{\bar
n\lambda_W\lambda_H}\,\|Z\|_*`, when both factors have the singular vectors of Z and share its
singular values. So the minimizer thresholds the singular values of Y. These are :math:`\sqrt{n_k}`,
one for each class:

.. math::
    Wh_{k,i} = (1 - c_k)_+\,e_k, \qquad c_k = \sqrt{\lambda_W\lambda_H/m_k} .

A class with :math:`n_k \le \bar n\lambda_W\lambda_H` is dead: its weights and features are zero
(Dang et al., 2023). The others are orthogonal, and their lengths follow from :math:`\bar
n\lambda_W\|w_k\|^2 = \lambda_Hn_k\|\bar h_k\|^2`.

With L linear layers :math:`W = W_L\cdots W_1`, each with the decay :math:`\lambda_W`, the decays of
a given product cost at least :math:`\frac{L+1}2(\bar n^L\lambda_W^L\lambda_H)^{1/(L+1)}
\sum_i\sigma_i^{2/(L+1)}`. So :math:`Wh_{k,i} = z_ke_k`, where :math:`z_k` minimizes

.. math::
    (z-1)^2 + (L+1)\,c_k\,z^{2/(L+1)}, \qquad c_k = (\lambda_H\lambda_W^L/m_k^L)^{1/(L+1)} .

For L > 1 this is zero if :math:`c_k^{L+1} > (L-1)^{L-1}/L^{2L}`, and otherwise the largest root of
:math:`z^{L-1}(1-z)^{L+1} = c_k^{L+1}`, which is at least (L - 1)/L: a class dies by a jump.

**Cross-entropy.** The loss of all samples of a class is least at one common feature, since it is
convex. What is left is convex in the scores Z (K x K) of the means, with the singular values of
:math:`Z\operatorname{diag}(\sqrt{n_k})`. So the minimal value is attained at scores with every
symmetry of the problem. Exchanging classes of one size :math:`n_g` is one; on the vectors that sum
to zero over such a group the scores are a number :math:`\zeta_g \ge 0`, and the derivative in it is

.. math::
    \sqrt{\bar n\lambda_W\lambda_H} - \sqrt{n_g}\,(1 - p_{\mathrm{own}} + p_{\mathrm{other}}) ,

p being the probabilities of the own class and of another one of the group. At :math:`\zeta_g = 0`
these are equal: the classes of the group have one common weight vector and one common mean exactly
if :math:`n_g \le \bar n\lambda_W\lambda_H`, the same number as above. Otherwise
:math:`p_{\mathrm{own}} - p_{\mathrm{other}} = 1 - c_g`. For two groups Hong and Ling (2023) have
such a threshold.
"""

from math import exp, expm1, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from nclib import _checks
from nclib.foundations.model import Collapsed, Model
from nclib.perturbation.spectrum import EigenspaceFamily, Spectrum


class TwoGroups(NamedTuple):
    """A minimizer under cross-entropy with two groups of classes, in d = K dimensions.

    Attributes:
        weights: Shape (K, K); the classes of the first group stand first.
        bias: Shape (K,), zeros if there is none.
        means: Class means as columns, shape (K, K).
        apart: For each group whether its classes are told apart.
        leaks: For each group the probability that its samples give to the other group.
    """

    weights: np.ndarray
    bias: np.ndarray
    means: np.ndarray
    apart: tuple[bool, bool]
    leaks: tuple[float, float]


def alive(model: Model, counts: ArrayLike, layers: int = 1) -> np.ndarray:
    r"""Which classes survive without pull: those with :math:`n_k/\bar n > \lambda_W\lambda_H`.

    Under squared loss the weights and features of the others are zero. Under cross-entropy the
    same number decides whether two or more classes of one size are told apart. With L > 1 linear
    layers those survive under squared loss for which :math:`(n_k/\bar n)^L >
    \lambda_H\lambda_W^LL^{2L}/(L-1)^{L-1}`.

    Args:
        model: The decays.
        counts: Samples per class, shape (K,), all positive.
        layers: Number of linear layers L, each with the decay lambda_W.

    Returns:
        Booleans, shape (K,).

    Raises:
        TypeError: The counts or layers are not integers.
        ValueError: A class has no samples, or layers is not positive.

    Examples:
        >>> alive(Model(0.5, 0.5), [90, 30, 10])
        array([ True,  True, False])
        >>> alive(Model(0.2, 0.2), [90, 30, 10], layers=2)
        array([ True,  True, False])
    """
    return _strengths(model, counts, layers) < _death(layers)


def scores(model: Model, counts: ArrayLike, layers: int = 1) -> np.ndarray:
    r"""What a global minimizer under squared loss without pull makes of each class.

    Samples of class k have the score :math:`z_k` for their own class and zero for the others:
    :math:`(1-c_k)_+` for one linear layer, and for L > 1 zero or the largest root of
    :math:`z^{L-1}(1-z)^{L+1} = c_k^{L+1}`. Where both are minimal it is zero.

    Args:
        model: The decays.
        counts: Samples per class, shape (K,), all positive.
        layers: Number of linear layers L, each with the decay lambda_W; all inner dimensions at
            least K.

    Returns:
        Scores, shape (K,), between 0 and 1.

    Raises:
        TypeError: The counts or layers are not integers.
        ValueError: A class has no samples, or layers is not positive.

    Examples:
        >>> scores(Model(0.2, 0.2), [90, 30, 10]).round(3)
        array([0.861, 0.76 , 0.584])
        >>> scores(Model(0.2, 0.2), [90, 30, 10], layers=2).round(3)
        array([0.871, 0.714, 0.   ])
    """
    c, death = _strengths(model, counts, layers), _death(layers)
    if layers == 1:
        return np.where(c < death, 1 - c, 0.0)
    return np.array([_score(x, layers) if x < death else 0.0 for x in c])


def _death(layers: int) -> float:
    """The c_k from which on a class is dead, for L linear layers."""
    if layers == 1:
        return 1.0
    return exp(((layers - 1) * log(layers - 1) - 2 * layers * log(layers)) / (layers + 1))


def _score(c: float, layers: int) -> float:
    """The largest root z of z^(L-1) (1-z)^(L+1) = c^(L+1), for L > 1 and a living class."""
    if c == 0:
        return 1.0
    power = (layers - 1) / (layers + 1)

    # In the logarithm u of 1 - z the left side increases, up to the z at which a class dies.
    def gap(u: float) -> float:
        return u + power * log(-expm1(u)) - log(c)

    death = -log(layers)
    if gap(death) <= 0:  # rounding at the threshold
        return 1 - 1 / layers
    return -expm1(optimize.brentq(gap, log(c), death, xtol=1e-15, rtol=1e-15))


def collapsed(
    model: Model, counts: ArrayLike, d: int | None = None, frame: ArrayLike | None = None
) -> Collapsed:
    r"""A global minimizer under squared loss without pull.

    .. math::
        \bar h_k = \sqrt{(1-c_k)\sqrt{\frac{\lambda_W}{\lambda_Hm_k}}}\;q_k, \qquad
        w_k = \sqrt{\frac{\lambda_Hm_k}{\lambda_W}}\;\bar h_k, \qquad
        c_k = \sqrt{\lambda_W\lambda_H/m_k} < 1

    with orthonormal :math:`q_k`; weights and mean of a dead class are zero.

    Args:
        model: The decays; lambda_H must be positive.
        counts: Samples per class, shape (K,), all positive.
        d: Dimension of the features, K if not given; at least the number of living classes.
        frame: The directions of the living classes in their order, shape (d, number of them).

    Raises:
        TypeError: The counts or d are not integers.
        ValueError: A class has no samples, lambda_H = 0, d is too small, or the frame does not fit.

    Examples:
        >>> collapsed(Model(0.5, 0.5), [90, 30, 10]).means.round(3)
        array([[0.673, 0.   , 0.   ],
               [0.   , 0.693, 0.   ],
               [0.   , 0.   , 0.   ]])
    """
    c, K = _strengths(model, counts), np.size(counts)
    lambda_H = _checks.positive("lambda_H", model.lambda_H)
    living = np.flatnonzero(c < 1)
    d = K if d is None else _checks.positive_integer("d", d)
    if d < len(living):
        raise ValueError(
            f"d must be at least the number of living classes, but d = {d} and {len(living)} live."
        )
    Q = np.eye(d, len(living)) if frame is None else _checks.as_frame(frame, len(living), d)
    means, weights = np.zeros((d, K)), np.zeros((K, d))
    means[:, living] = Q * np.sqrt((1 - c[living]) * c[living] / lambda_H)
    weights[living] = (means[:, living] * (lambda_H / c[living])).T
    return Collapsed(weights, means)


def spectrum(model: Model, counts: ArrayLike, d: int) -> Spectrum:
    r"""Spectrum of the response under squared loss at the minimizer without pull, for every beta.

    With :math:`c_k` as above, :math:`x_k = 1 - c_k`, the living classes numbered from zero in their
    order, every eigenvalue is :math:`\beta/(\beta + \lambda_Ht)`:

    - ``within_j``: :math:`t = 1/c_j`, deviations along the mean of the living class j, whatever
      class the sample is in;
    - ``within_complement``: t = 1, deviations orthogonal to all means;
    - ``length_j``: :math:`t = 4x_j`;
    - ``shear_i_j``: :math:`t = (c_i + c_j)(x_i/c_i + x_j/c_j)`; ``turn_i_j``: t = 0;
    - ``tilt_j``: t = 0, the mean of class j leaves the span;
    - ``dead_frame``: :math:`t = 1/c_j - c_j/c_k^2`, the mean of a dead class k along that of a
      living class j, one value for each pair, numbered with k in front;
    - ``dead_complement``: :math:`t = 1 - 1/c_k^2`, the mean of a dead class orthogonal to the
      living ones, numbered like the dead classes.

    Args:
        model: All three positive.
        counts: Samples per class, shape (K,), all positive.
        d: Dimension of the features, at least the number of living classes.

    Raises:
        TypeError: The counts or d are not integers.
        ValueError: A class has no samples, beta or lambda_H is zero, or d is too small.

    Examples:
        >>> spectrum(Model(0.5, 0.5, 1.0), [90, 30, 10], 3)["within_1"].multiplicity
        127
    """
    c, N, K = _strengths(model, counts), int(np.sum(counts)), np.size(counts)
    lambda_H, beta = (
        _checks.positive("lambda_H", model.lambda_H),
        _checks.positive("beta", model.beta),
    )
    a, dead = c[c < 1], c[c >= 1]
    off = _checks.positive_integer("d", d) - len(a)
    if off < 0:
        raise ValueError(
            f"d must be at least the number of living classes, but d = {d} and {len(a)} live."
        )
    x = 1 - a
    rows = [
        ("within", 1 / a, N - K, "within a class, along the mean of living class {}"),
        ("within_complement", 1.0, off * (N - K), "within a class, orthogonal to all means"),
        ("length", 4 * x, 1, "the length of living class {}"),
        ("shear", np.add.outer(a, a) * np.add.outer(x / a, x / a), 1, "living classes {} and {}"),
        ("turn", np.zeros((len(a), len(a))), 1, "a rotation of living classes {} and {}"),
        ("tilt", np.zeros(len(a)), off, "living class {} leaves the span"),
        ("dead_frame", (1 / a - a / dead[:, None] ** 2).ravel(), 1, "dead along living, pair {}"),
        ("dead_complement", 1 - 1 / dead**2, off, "dead class {}, orthogonal to the living ones"),
    ]
    return Spectrum(
        tuple(
            EigenspaceFamily(kind, np.asarray(beta / (beta + lambda_H * t)), number, text)
            for kind, t, number, text in rows
        )
    )


def two_groups(
    model: Model, classes: tuple[int, int], samples: tuple[int, int], bias: bool = True
) -> TwoGroups:
    r"""A global minimizer under cross-entropy without pull, for two groups of equal classes.

    Group g has :math:`K_g` classes of :math:`n_g` samples, :math:`N_g = K_gn_g`. A sample of it
    gives the probability :math:`\pi_g` to the other group and, with :math:`c_g` replaced by one if
    it is above one or :math:`K_g = 1`,

    .. math::
        p_{\mathrm{other}} = \frac{c_g - \pi_g}{K_g}, \qquad
        p_{\mathrm{own}} = 1 - c_g + p_{\mathrm{other}} .

    Between the groups the scores have one direction, with singular value
    :math:`\tau\sqrt{\bar n\lambda_W\lambda_H}`, and :math:`\kappa = K/(K_AK_B)`:

    .. math::
        \frac1{K_g}\bigl[\log p_{\mathrm{own}} + (K_g - 1)\log p_{\mathrm{other}}\bigr]
        - \log\frac{\pi_g}{K - K_g} = \kappa\tau\pi_g \pm s, \qquad
        \kappa\sum_gN_g\pi_g^2 = \bar n\lambda_W\lambda_H ,

    or :math:`\tau = 0` if the sum is smaller there. Without a bias s = 0, and :math:`\tau` is the
    root of an increasing function. A bias adds :math:`\pm s`, and :math:`N_A\pi_A = N_B\pi_B`.

    Args:
        model: The decays, both positive; the pull is not used.
        classes: Numbers of classes in the two groups.
        samples: Samples of a class in the two groups.
        bias: Whether there is a bias.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is less than one, or lambda_H = 0.

    Examples:
        >>> found = two_groups(Model(0.3, 0.3), (2, 2), (40, 1))
        >>> found.apart, bool(np.allclose(found.weights[2], found.weights[3]))
        ((True, False), True)
    """
    K_g = np.array([_checks.positive_integer("classes", value) for value in classes])
    n_g = np.array([_checks.positive_integer("samples", value) for value in samples])
    lambda_H = _checks.positive("lambda_H", model.lambda_H)
    K, N_g = int(K_g.sum()), K_g * n_g
    threshold = N_g.sum() / K * model.lambda_W * lambda_H
    apart = (K_g > 1) & (n_g > threshold)
    c = np.where(apart, np.sqrt(threshold / n_g), 1.0)
    groups = _Groups(K_g, N_g, c, threshold)
    tau, shift, leaks = groups.with_bias() if bias else groups.without_bias()
    other = (c - leaks) / K_g
    # Scores of a group's classes among each other: log p_own - log p_other.
    zeta = np.where(apart, np.log1p((1 - c) / other), 0.0)
    # Singular vectors: contrasts within a group, and u between them.
    u = np.repeat([1 / K_g[0], -1 / K_g[1]], K_g)
    kappa = float(u @ u)
    u /= sqrt(kappa)
    size = np.repeat(np.sqrt(n_g), K_g)
    projections = [np.zeros((K, K)), np.zeros((K, K))]
    edge = int(K_g[0])
    projections[0][:edge, :edge] = np.eye(edge) - 1 / edge
    projections[1][edge:, edge:] = np.eye(K - edge) - 1 / (K - edge)
    singular = tau * sqrt(threshold)
    right = sqrt(kappa) * tau * np.repeat(leaks, K_g) * size * np.sign(u)
    scale = (lambda_H / (N_g.sum() / K * model.lambda_W)) ** 0.25
    weights = sum(
        sqrt(sqrt(n) * z) * P for n, z, P in zip(n_g, zeta, projections, strict=True)
    ) + sqrt(singular) * np.outer(u, u)
    means = sum(sqrt(sqrt(n) * z) * P for n, z, P in zip(n_g, zeta, projections, strict=True))
    if singular > 0:
        means = means + np.outer(u, right) / sqrt(singular)
    offset = shift / sqrt(kappa) * u if bias else np.zeros(K)
    return TwoGroups(
        scale * weights,
        offset,
        means / size / scale,
        (bool(apart[0]), bool(apart[1])),
        (float(leaks[0]), float(leaks[1])),
    )


class _Groups:
    """The scalar equations of two groups: sizes, samples, strengths c, and n lambda_W lambda_H."""

    def __init__(self, K_g: np.ndarray, N_g: np.ndarray, c: np.ndarray, threshold: float):
        self.K_g, self.N_g, self.c, self.threshold = K_g, N_g, c, threshold
        self.kappa = float(np.sum(1 / K_g))

    def odds(self, g: int, leak: float) -> float:
        """Mean log-probability of a class of group g minus that of the other; falls in the leak."""
        K, c = int(self.K_g[g]), float(self.c[g])
        other = (c - leak) / K
        own = log(1 - c + other)
        inside = own + (K - 1) * log(other) if K > 1 else own
        return inside / K - log(leak / int(self.K_g[1 - g]))

    def leak(self, g: int, tau: float, shift: float) -> float:
        """The root of odds = kappa tau leak + shift; both sides are monotone."""

        def gap(u: float) -> float:
            return self.odds(g, exp(u)) - self.kappa * tau * exp(u) - shift

        high = log(self.c[g])
        low = high - 1.0
        while gap(low) < 0:
            low -= 2 * (high - low)
        step = 1e-3
        while gap(high - step) > 0:
            step /= 1e3
        return exp(optimize.brentq(gap, low, high - step, xtol=1e-15, rtol=1e-15))

    def leaks(self, tau: float, shift: float) -> np.ndarray:
        """Both leaks."""
        return np.array([self.leak(0, tau, shift), self.leak(1, tau, -shift)])

    def excess(self, leaks: np.ndarray) -> float:
        """What the sum of squares has too much; at most zero if the groups are not told apart."""
        return float(self.kappa * np.sum(self.N_g * leaks**2) / self.threshold - 1)

    def without_bias(self) -> tuple[float, float, np.ndarray]:
        """The numbers tau and zero, and the leaks."""
        leaks = self.leaks(0.0, 0.0)
        if self.excess(leaks) <= 0:
            return 0.0, 0.0, leaks
        high = 1.0
        while self.excess(self.leaks(high, 0.0)) > 0:
            high *= 2
        tau = optimize.brentq(
            lambda t: self.excess(self.leaks(t, 0.0)), 0.0, high, xtol=1e-300, rtol=1e-15
        )
        return float(tau), 0.0, self.leaks(tau, 0.0)

    def with_bias(self) -> tuple[float, float, np.ndarray]:
        """The numbers tau and shift, and the leaks, of which N times the leak is the same."""
        mass = sqrt(self.threshold / (self.kappa * float(np.sum(1 / self.N_g))))
        leaks = mass / self.N_g
        if np.all(leaks < self.c):
            odds = np.array([self.odds(g, float(leaks[g])) for g in (0, 1)])
            tau = float(odds.sum() / (self.kappa * leaks.sum()))
            if tau > 0:
                return tau, float(odds[0] - self.kappa * tau * leaks[0]), leaks

        # No direction between the groups: the bias alone balances them.
        def gap(shift: float) -> float:
            masses = self.N_g * self.leaks(0.0, shift)
            return float(np.log(masses[0] / masses[1]))

        width = 1.0
        while gap(-width) * gap(width) > 0:
            width *= 2
        shift = optimize.brentq(gap, -width, width, xtol=1e-15, rtol=1e-15)
        return 0.0, float(shift), self.leaks(0.0, shift)


def _strengths(model: Model, counts: ArrayLike, layers: int = 1) -> np.ndarray:
    """c_k of all classes, (K,), for a number of linear layers."""
    L = _checks.positive_integer("layers", layers)
    _checks.instance("model", model, Model)
    n = _checks.as_counts(counts)
    if L == 1:
        return np.sqrt(model.lambda_W * model.lambda_H * n.mean() / n)
    return (model.lambda_H * (model.lambda_W * n.mean() / n) ** L) ** (1 / (L + 1))
