r"""Theorem 3.1 of Tirer et al. (2023) in scalars.

With balanced classes, :math:`A = K\Sigma_W + \lambda_W I` and
:math:`M = \bar H^\top A^{-1}\bar H`, the optimal weights are
:math:`W = (I + M)^{-1}\bar H^\top A^{-1}`, and every quantity in the derivative of Sigma_B is a
rational function of the one symmetric matrix M. An identity between such functions is an identity
between functions of its eigenvalue m, so one mode proves the general statement: a class-mean
component h with within-class variance v in the same direction, where A is a = K v + lambda_W and M
is m = h^2 / a.
"""

from typing import NamedTuple

import sympy as sp

h, v, w, m, q = sp.symbols("h v w m q", positive=True)
K = sp.Symbol("K", positive=True, integer=True)
lambda_W, lambda_H = sp.symbols("lambda_W lambda_H", positive=True)
c, kappa = sp.symbols(
    "c kappa", positive=True
)  # sqrt(lambda_W lambda_H), sqrt(lambda_H / lambda_W)
_DECAYS = {lambda_W: c / kappa, lambda_H: c * kappa}


class Flow(NamedTuple):
    """Time derivatives of one mode, in terms of h, v and the weight w.

    Attributes:
        mean: Of the mean component h.
        within: Of the variance v.
    """

    mean: sp.Expr
    within: sp.Expr


class Mode(NamedTuple):
    r"""What the proof of Theorem 3.1 needs of one mode, in terms of m.

    Attributes:
        output: The output :math:`W\bar H`.
        residual: The residual :math:`I - W\bar H`.
        growth: :math:`\bar H^\top W^\top(I - W\bar H)`, by which the means grow.
    """

    output: sp.Expr
    residual: sp.Expr
    growth: sp.Expr


def energy() -> sp.Expr:
    """K times the objective of Eq. 1 for one mode, with the weight w.

    Examples:
        >>> energy().subs({w: 0})
        lambda_H*(K*v + h**2)/2 + 1/2
    """
    fit = (w * h - 1) ** 2 + w**2 * K * v
    return (fit + lambda_W * w**2 + lambda_H * (h**2 + K * v)) / 2


def optimal_weight() -> sp.Expr:
    """The w that minimizes the energy: h / (a + h^2).

    Examples:
        >>> optimal_weight()
        h/(K*v + h**2 + lambda_W)
    """
    (root,) = sp.solve(sp.diff(energy(), w), w)
    return sp.factor(root)


def flow() -> Flow:
    r"""The gradient flow of one mode, with w for the optimal weight.

    The derivative of a minimum over w is the partial derivative at the minimizer (envelope
    theorem). A deviation delta enters the energy E through K v, the mean of delta^2, so
    :math:`d\delta/dt = -2\delta\,\partial E/\partial(Kv)` and
    :math:`dv/dt = -4v\,\partial E/\partial(Kv)`.

    Examples:
        >>> flow().within
        -2*v*(lambda_H + w**2)
    """
    mean = -sp.diff(energy(), h)
    within = -4 * v * sp.diff(energy(), v) / K
    return Flow(sp.collect(sp.expand(mean), h), sp.factor(within))


def at_optimum(expr: sp.Expr) -> sp.Expr:
    """An expression in w with the optimal weight put in.

    Args:
        expr: In h, v, w, K and the decays.

    Examples:
        >>> at_optimum(w * h)
        h**2/(K*v + h**2 + lambda_W)
    """
    return sp.factor(sp.simplify(expr.subs(w, optimal_weight())))


def mode() -> Mode:
    """The functions of M that the proof needs: m / (1 + m), 1 / (1 + m) and m / (1 + m)^2.

    Examples:
        >>> mode().growth
        m/(m + 1)**2
    """
    output = w * h
    return Mode(*(_in_terms_of_m(x) for x in (output, 1 - output, output * (1 - output))))


def between_slope() -> sp.Expr:
    r"""Derivative of exp(2 lambda_H t) h^2 without its exponential: 2 m / (1 + m)^2.

    In matrices:

    .. math::
        \frac{d}{dt}e^{2\lambda_Ht}\operatorname{tr}\Sigma_B
        = \tfrac2K e^{2\lambda_Ht}\operatorname{tr}\left(\Pi M(I + M)^{-2}\Pi\right)

    Examples:
        >>> between_slope()
        2*m/(m + 1)**2
    """
    return _in_terms_of_m(2 * h * flow().mean + 2 * lambda_H * h**2)


def within_slope() -> sp.Expr:
    r"""Derivative of the logarithm of exp(2 lambda_H t) v: -2 w^2.

    Examples:
        >>> within_slope()
        -2*w**2
    """
    return sp.simplify(flow().within / v + 2 * lambda_H)


def ratio_slope() -> sp.Expr:
    r"""Derivative of the logarithm of v / h^2: -2 / (K v + h^2 + lambda_W); decay drops out.

    Examples:
        >>> ratio_slope()
        -2/(K*v + h**2 + lambda_W)
    """
    return at_optimum(flow().within / v - 2 * flow().mean / h)


def travel_time() -> sp.Expr:
    r"""The function T(q) such that a mode without spread goes from q1 to q2 in time T(q2) - T(q1).

    Here q = h^2, and T is in c and kappa. With v = 0 the mode obeys

    .. math:: \frac{dq}{dt} = 2q\left(\frac{\lambda_W}{(q + \lambda_W)^2} - \lambda_H\right),

    which separates. 1 / (dq/dt) has simple poles at 0, rho and -(1 + c) / kappa, so T is a sum of
    three logarithms with the residues in front.

    Examples:
        >>> len(travel_time().args)
        3
    """
    speed = sp.factor(at_optimum(2 * h * flow().mean).subs(v, 0).subs(_DECAYS).subs(h, sp.sqrt(q)))
    numerator, denominator = sp.fraction(sp.together(1 / speed))
    poles = [0, (1 - c) / kappa, -(1 + c) / kappa]
    residues = [sp.factor((numerator / sp.diff(denominator, q)).subs(q, p)) for p in poles]
    return sum(residue * sp.log(sp.Abs(q - p)) for residue, p in zip(residues, poles, strict=True))


def nc1_slope(means: sp.Matrix, within: sp.Matrix, decay_W: sp.Expr, decay_H: sp.Expr) -> sp.Expr:
    r"""Exact derivative of NC1 = tr(Sigma_W Sigma_B^+) / K along the flow at t = 0, for K = 2.

    With delta the difference of the two means,
    :math:`\mathrm{NC1} = 2\,\delta^\top\Sigma_W\delta/\|\delta\|^4`. Rational input gives a
    rational number, whose sign is then proved.

    Args:
        means: Class means, shape (d, 2), different columns.
        within: Sigma_W, shape (d, d).
        decay_W: The decay lambda_W.
        decay_H: The decay lambda_H.

    Examples:
        >>> small = sp.Rational(1, 100)
        >>> nc1_slope(sp.Matrix([[1, 3], [2, 3]]), sp.diag(0, sp.Rational(1, 10)), small, small) > 0
        True
    """
    d = means.rows
    T = 2 * within + means * means.T
    W = ((T + decay_W * sp.eye(d)).inv() * means).T
    S = W.T * W + decay_H * sp.eye(d)
    delta = means[:, 1] - means[:, 0]
    velocity = (W.T - S * means) * sp.Matrix([-1, 1])
    change = -(S * within + within * S)
    square = delta.dot(delta)
    spread = (delta.T * within * delta)[0]
    spread_slope = (delta.T * change * delta)[0] + 2 * (velocity.T * within * delta)[0]
    return 2 * spread_slope / square**2 - 8 * spread * delta.dot(velocity) / square**3


def _in_terms_of_m(expr: sp.Expr) -> sp.Expr:
    """An expression in h, v at the optimal weight, without v by m = h^2 / (K v + lambda_W)."""
    return sp.factor(sp.simplify(at_optimum(expr).subs(v, (h**2 / m - lambda_W) / K)))
