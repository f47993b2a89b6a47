r"""The response at a collapsed base point, derived in scalars: from Theorem 4.1 to Theorem 4.2.

Let the class means be :math:`\bar H = Q\,\mathrm{diag}(h)\,O^\top` with K orthonormal columns in
Q (d x K) and O orthogonal, and no spread. In the bases (Q, P) of the features and O of the classes
both W and Hbar are diagonal. A product of diagonal matrices with one that is not couples its entry
(i, j) to (j, i) and to nothing else. So two axes, one direction of the complement P and one
deviation of a sample from its class mean show every case, whatever K, n and d are.

Symbols: h_i, w_i and e_i = 1 - w_i h_i are the length of axis i of the means, that of the weights,
and the residual. At a minimizer of Eq. 1 all e_i equal c = sqrt(lambda_W lambda_H), and results are
written in lambda_H and c.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import sympy as sp

from nclib.foundations.model import Model

lambda_W, lambda_H, beta, b = sp.symbols("lambda_W lambda_H beta b", positive=True)
c = sp.Symbol("c", positive=True)  # sqrt(lambda_W lambda_H)
h_1, h_2, w_1, w_2, e_1, e_2 = sp.symbols("h_1 h_2 w_1 w_2 e_1 e_2", positive=True)

# Changes of the means, the weights and one deviation; row 3 (of means) and column 3 (of weights)
# are the complement.
A = sp.Matrix(3, 2, lambda i, j: sp.Symbol(f"A_{i + 1}{j + 1}"))
C = sp.Matrix(2, 3, lambda i, j: sp.Symbol(f"C_{i + 1}{j + 1}"))
delta = sp.Matrix(3, 1, lambda i, _: sp.Symbol(f"delta_{i + 1}"))


class Curvatures(NamedTuple):
    """What maps a change of the features to beta times that of H0; F has beta over its eigenvalues.

    Attributes:
        within: Acts on a deviation along axis 1.
        within_complement: Acts on a deviation in the complement.
        length: Acts on A_11.
        pair: Acts on (A_12, A_21), a symmetric 2 x 2 matrix.
        tilt: Acts on A_31.
    """

    within: sp.Expr
    within_complement: sp.Expr
    length: sp.Expr
    pair: sp.Matrix
    tilt: sp.Expr


class SpectralRates(NamedTuple):
    """The t in the eigenvalues beta / (beta + t) at a collapsed point with axes of equal length.

    Attributes:
        within: Of deviations in the frame.
        within_complement: Of deviations orthogonal to the frame.
        shape: Of symmetric changes of the frame.
        turn: Of rotations in the frame.
        tilt: Of rotations out of the frame.
    """

    within: sp.Expr
    within_complement: sp.Expr
    shape: sp.Expr
    turn: sp.Expr
    tilt: sp.Expr


class Elasticities(NamedTuple):
    """Relative change per relative change of a decay.

    Attributes:
        lambda_W: d log t / d log lambda_W.
        lambda_H: d log t / d log lambda_H.
    """

    lambda_W: sp.Expr
    lambda_H: sp.Expr


@cache
def weight_change() -> sp.Matrix:
    """The change C (2 x 3) that keeps the weights optimal when the means change by A.

    Examples:
        >>> weight_change()[0, 2]
        A_31*e_1/lambda_W
    """
    solved = sp.solve(list(_linearized().weights), list(C), dict=True)[0]

    def collected(x: sp.Expr) -> sp.Expr:
        return sum(_tidy(sp.expand(x).coeff(a)) * a for a in A)

    return C.subs(solved).applyfunc(collected).as_immutable()


@cache
def curvatures() -> Curvatures:
    """The linearized conditions with the weights eliminated.

    Examples:
        >>> curvatures().tilt
        b - e_1**2/lambda_W
    """
    equations = _linearized()
    means = equations.means.subs(dict(zip(C, weight_change(), strict=True))).applyfunc(sp.expand)
    entries = [_tidy(means[i].coeff(a)) for i in (1, 2) for a in (A[0, 1], A[1, 0])]
    return Curvatures(
        within=equations.deviation[0].coeff(delta[0]),
        within_complement=equations.deviation[2].coeff(delta[2]),
        length=_tidy(means[0].coeff(A[0, 0])),
        pair=sp.ImmutableMatrix(2, 2, entries),
        tilt=_tidy(means[4].coeff(A[2, 0])),
    )


def collapsed_residual() -> sp.Expr:
    """The residual e at which an axis of nonzero length stays where it is, H = H0.

    Examples:
        >>> collapsed_residual()
        c
    """
    stays = _tidy(w_1 * (w_1 * h_1 - 1) / h_1 + lambda_H)
    (root,) = sp.solve(stays, e_1)  # SymPy drops the negative one
    return root.subs(lambda_W, c**2 / lambda_H)


def rates(residual: sp.Expr = c) -> SpectralRates:
    """The rates when every axis has the same residual.

    Of the pair, ``shape`` is the symmetric combination and ``turn`` the antisymmetric one.

    Args:
        residual: c at a minimizer of Eq. 1, and 1 at H = H0 = 0.

    Examples:
        >>> rates().shape
        4*lambda_H*(1 - c)
    """
    found = curvatures()
    p, q = found.pair[0, :]
    values = found.within, found.within_complement, found.length, p + q, p - q, found.tilt
    within, complement, length, shape, turn, tilt = (
        _neat(_equal_axes(x, residual) - beta) for x in values
    )
    assert length == shape
    return SpectralRates(within, complement, shape, turn, tilt)


def eigenvalue(rate: sp.Expr) -> sp.Expr:
    """The eigenvalue beta / (beta + t) of F that belongs to a rate t.

    Args:
        rate: An expression for t.

    Examples:
        >>> eigenvalue(lambda_H)
        beta/(beta + lambda_H)
    """
    return beta / (beta + rate)


def pair_response() -> tuple[sp.Expr, sp.Expr]:
    """Numbers with dA_12 = direct dA0_12 + crosstalk dA0_21 at a minimizer of Eq. 1.

    The first is an eigenvalue of the diagonal blocks of F, the second, up to its sign, the one
    singular value of the others: A_12 belongs to class 2, A_21 to class 1.

    Examples:
        >>> pair_response()[0]
        (beta + 2*lambda_H*(1 - c))/(beta + 4*lambda_H*(1 - c))
    """
    inverse = beta * curvatures().pair.inv()
    return _equal_axes(inverse[0, 0], c), _equal_axes(inverse[0, 1], c)


def large_beta(expr: sp.Expr, order: int) -> sp.Expr:
    """The series of an expression in 1/beta.

    Args:
        expr: An expression in beta.
        order: Highest power of 1/beta.

    Examples:
        >>> large_beta(eigenvalue(lambda_H), 1)
        1 - lambda_H/beta
    """
    tau = sp.Symbol("tau", positive=True)
    series = expr.subs(beta, 1 / tau).series(tau, 0, order + 1).removeO().expand()
    return sum(_neat(series.coeff(tau, k)) / beta**k for k in range(order + 1))


def elasticities(expr: sp.Expr) -> Elasticities:
    """Elasticities of a rate, or of a response, in c (and lambda_H, beta).

    Args:
        expr: In lambda_H, c and beta.

    Examples:
        >>> elasticities(lambda_H / c)
        Elasticities(lambda_W=-1/2, lambda_H=1/2)
    """
    plain = expr.subs(c, sp.sqrt(lambda_W * lambda_H))
    found = (sp.diff(sp.log(plain), decay) * decay for decay in (lambda_W, lambda_H))
    return Elasticities(*(_neat(x.subs(lambda_W, c**2 / lambda_H)) for x in found))


def lambdified(expr: sp.Expr) -> Callable[..., float]:
    """A function of (model, lengths) for an expression in any of the symbols but A, C and delta.

    Args:
        expr: The expression; ``lengths`` are (h_1, h_2), needed where h_i, w_i or e_i occur.

    Examples:
        >>> lambdified(eigenvalue(lambda_H))(Model(0.1, 0.25, beta=0.75))
        0.75
    """
    for h, w, e in ((h_1, w_1, e_1), (h_2, w_2, e_2)):
        expr = expr.subs({w: h / (h**2 + lambda_W), e: lambda_W / (h**2 + lambda_W)})
    expr = expr.subs({b: beta + lambda_H, c: sp.sqrt(lambda_W * lambda_H)})
    function = sp.lambdify([lambda_W, lambda_H, beta, h_1, h_2], expr, "math")

    def evaluate(model: Model, lengths: tuple[float, float] = (1.0, 1.0)) -> float:
        return float(function(model.lambda_W, model.lambda_H, model.beta, *lengths))

    return evaluate


class _Linearized(NamedTuple):
    """First-order changes of the optimality conditions, without the terms in the change of H0.

    ``weights`` (2 x 3) is zero; ``means`` (3 x 2) and ``deviation`` (3 x 1) equal beta times the
    change of H0.
    """

    weights: sp.Matrix
    means: sp.Matrix
    deviation: sp.Matrix


@cache
def _linearized() -> _Linearized:
    r"""The optimality conditions, differentiated along (Hbar + eps A, W + eps C, eps delta).

    .. math::
        (W\bar H - I)\bar H^\top + K\,W\Sigma_W + \lambda_W W &= 0, \\
        W^\top(W\bar H - I) + b\bar H &= \beta\bar H_0, \\
        (W^\top W + b)\,\delta &= \beta\,\delta_0

    Sigma_W is quadratic in the deviations and drops out.
    """
    eps = sp.Symbol("epsilon")
    means = sp.Matrix([[h_1, 0], [0, h_2], [0, 0]]) + eps * A
    W = sp.Matrix([[w_1, 0, 0], [0, w_2, 0]]) + eps * C
    E = W * means - sp.eye(2)
    conditions = (
        E * means.T + lambda_W * W,
        W.T * E + b * means,
        (W.T * W + b * sp.eye(3)) * (eps * delta),
    )
    return _Linearized(
        *(x.diff(eps).subs(eps, 0).applyfunc(sp.expand).as_immutable() for x in conditions)
    )


def _tidy(expr: sp.Expr) -> sp.Expr:
    r"""Write an expression at optimal weights in lambda_W, b, e_1, e_2 and perhaps w_1 w_2.

    The product w_1 w_2 remains if the expression is odd in both. Optimal weights have
    :math:`w_i = h_i/(h_i^2+\lambda_W)`; with :math:`e_i = 1 - w_ih_i` this makes
    :math:`w_i^2 = e_i(1-e_i)/\lambda_W` and :math:`h_i = (1-e_i)/w_i`.
    """
    # g_i = 1 - e_i is positive, so that square roots combine.
    outputs = sp.symbols("g_1 g_2", positive=True)

    def reduced(expr: sp.Expr) -> sp.Expr:
        for h, w, e, g in zip((h_1, h_2), (w_1, w_2), (e_1, e_2), outputs, strict=True):
            expr = expr.subs({h: sp.sqrt(lambda_W * g / e), w: sp.sqrt(e * g / lambda_W)})
        return sp.expand(expr).subs(dict(zip(outputs, (1 - e_1, 1 - e_2), strict=True)))

    even = sp.cancel(reduced(expr))
    if even.is_rational_function():
        rest = even.subs(b, 0)
        return sp.cancel(even - rest) + sp.factor(rest)
    return w_1 * w_2 * sp.factor(reduced(expr / (w_1 * w_2)))


def _equal_axes(expr: sp.Expr, residual: sp.Expr) -> sp.Expr:
    """An expression when every e_i is ``residual``, in beta, lambda_H and c."""
    weight = sp.sqrt(residual * (1 - residual) / lambda_W)
    expr = expr.subs({e_1: residual, e_2: residual, w_1: weight, w_2: weight})
    return _neat(expr.subs(b, beta + lambda_H).subs(lambda_W, c**2 / lambda_H))


def _neat(expr: sp.Expr) -> sp.Expr:
    """The shorter of the expanded and the factored form, with 1 - c (positive) kept together."""
    x = sp.Symbol("x", positive=True)
    factored = sp.factor(expr.subs(c, 1 - x)).subs(x, 1 - c)
    return min(factored, sp.expand(factored), key=sp.count_ops)
