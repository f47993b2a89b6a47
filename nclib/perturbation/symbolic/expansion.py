r"""Large-beta series in scalars, and the second order near collapse by non-commutative algebra.

The second part works with matrices of any size: the first-order response enters as non-commuting
symbols, every quadratic word in them gets an unknown coefficient, and the optimality conditions of
Eq. 2 at second order, collected word by word, are linear equations for these coefficients.
"""

from collections.abc import Iterator
from typing import NamedTuple

import sympy as sp

from nclib.perturbation.symbolic.flow import at_optimum, c, flow, h, kappa, lambda_H, v

tau = sp.Symbol("tau", positive=True)
beta = sp.Symbol("beta", positive=True)
omega = sp.Symbol("omega", positive=True)  # length of a collapsed row of W, omega^2 = (1 - c) kappa

# The parts of the first-order response, which do not commute.
As, Aa, B, Bt = sp.symbols("A_s A_a B B^T", commutative=False)
dq, dqt, dp, dpt = sp.symbols("Delta_Q Delta_Q^T Delta_P Delta_P^T", commutative=False)
_TRANSPOSE = {As: As, Aa: -Aa, B: Bt, Bt: B, dq: dqt, dqt: dq, dp: dpt, dpt: dp}
_KAPPA = omega**2 / (1 - c)  # kappa, when omega and c are the free symbols
_Series = list[sp.Expr]  # coefficients of eps^0, eps^1, eps^2
_RATES = (kappa, lambda_H, 4 * lambda_H * (1 - c), sp.Integer(0))


class SecondOrder(NamedTuple):
    """The response near collapse.

    Attributes:
        first: The factor of each letter of the first order.
        second: For each block, the coefficient of each quadratic word. The blocks are A and B for
            the means in Q and P, and Q and P for the deviations there.
    """

    first: dict[sp.Expr, sp.Expr]
    second: dict[str, dict[sp.Expr, sp.Expr]]


def scalar_gradient() -> sp.Expr:
    """The gradient g(h) for d = K = n = 1: lambda_H h - lambda_W h / (h^2 + lambda_W)^2.

    Examples:
        >>> scalar_gradient()
        h*lambda_H - h*lambda_W/(h**2 + lambda_W)**2
    """
    return lambda_H * h + sp.factor(at_optimum(-flow().mean - lambda_H * h).subs(v, 0))


def implicit_series(g: sp.Expr, order: int, flow: bool = False) -> list[sp.Expr]:
    """Coefficients of tau, ..., tau^order of the root x of x + tau g(x) = h.

    Found from the definition, by comparing powers of tau.

    Args:
        g: An expression in h, which may hold an undefined function of it.
        order: Highest power.
        flow: Take the flow dx/dtau = -g(x) from h.

    Examples:
        >>> implicit_series(lambda_H * h, 2)
        [-h*lambda_H, h*lambda_H**2]
        >>> implicit_series(lambda_H * h, 2, flow=True)
        [-h*lambda_H, h*lambda_H**2/2]
    """
    found: list[sp.Expr] = []
    for k in range(1, order + 1):
        x = sp.Symbol("x")
        step = sum(a * tau**i for i, a in enumerate(found, start=1))
        taylor = sum(sp.diff(g, h, j) * step**j / sp.factorial(j) for j in range(k))
        equation = (k if flow else 1) * x + taylor.expand().coeff(tau, k - 1)
        found.append(sp.factor(sp.solve(equation, x)[0]))
    return found


def lagrange_series(g: sp.Expr, order: int) -> list[sp.Expr]:
    r"""The coefficients of the root of x + tau g(x) = h in closed form (Lagrange).

    .. math:: \frac{(-1)^k}{k!}\frac{d^{k-1}}{dh^{k-1}} g(h)^k

    Args:
        g: An expression in h, which may hold an undefined function of it.
        order: Highest power.

    Examples:
        >>> lagrange_series(lambda_H * h, 2)
        [-h*lambda_H, h*lambda_H**2]
    """
    return [
        sp.factor((-1) ** k * sp.diff(g**k, h, k - 1) / sp.factorial(k))
        for k in range(1, order + 1)
    ]


def second_order_terms() -> SecondOrder:
    r"""The response near collapse to first and second order, for every beta, K, n and d >= K.

    In the basis (Q, P) the unknowns are the means (sqrt(rho) I + A; B), the deviations
    (Delta_Q; Delta_P) and the weights (omega I + C, D). Products Delta Delta^T stand for the mean
    over the samples of a class (1/n times the sum).

    The coefficients come out in c, kappa = sqrt(lambda_H / lambda_W), omega = sqrt((1-c) kappa),
    lambda_H and beta; words that do not occur have coefficient zero and are left out.

    Examples:
        >>> terms = second_order_terms()
        >>> terms.second["P"][B * dq]
        -kappa*omega/(beta + lambda_H)
    """
    unknown = iter(sp.numbered_symbols("u"))

    def ansatz(*words: sp.Expr) -> sp.Expr:
        return sum(next(unknown) * word for word in words)

    scale = omega / _KAPPA  # sqrt(rho)
    A = [scale, As + Aa, ansatz(As**2, As * Aa, Aa * As, Aa**2, Bt * B, dq * dqt)]
    C = [omega, ansatz(As, Aa), ansatz(As**2, As * Aa, Aa * As, Aa**2, Bt * B, dq * dqt)]
    Bs = [0, B, ansatz(B * As, B * Aa, dp * dqt)]
    D = [0, ansatz(Bt), ansatz(As * Bt, Aa * Bt, dq * dpt)]
    Q = [0, dq, ansatz(As * dq, Aa * dq, Bt * dp)]
    P = [0, dp, ansatz(B * dq)]
    A0 = [scale, ansatz(As, Aa), 0]
    B0 = [0, ansatz(B), 0]
    Q0 = [0, ansatz(dq), 0]
    P0 = [0, ansatz(dp), 0]
    solution: dict[sp.Expr, sp.Expr] = {}
    for order in (1, 2):
        equations: list[sp.Expr] = []
        for residual in _stationarity(A, Bs, C, D, Q, P, A0, B0, Q0, P0):
            equations += _by_word(sp.expand(sp.sympify(residual[order]).subs(solution))).values()
        symbols = sorted(
            set().union(*(e.free_symbols for e in equations)) - {omega, c, beta}, key=str
        )
        (values,) = sp.linsolve(equations, symbols)
        solution |= dict(zip(symbols, values, strict=True))
    first = {
        word: _tidy(1 / solution[u], beta)
        for X in (A0, B0, Q0, P0)
        for word, u in _by_word(X[1]).items()
    }
    second = {
        name: {
            word: _tidy(solution[u], omega * kappa)
            for word, u in _by_word(X[2]).items()
            if solution[u] != 0
        }
        for name, X in (("A", A), ("B", Bs), ("Q", Q), ("P", P))
    }
    return SecondOrder(first, second)


def _stationarity(
    A: _Series,
    Bs: _Series,
    C: _Series,
    D: _Series,
    Q: _Series,
    P: _Series,
    A0: _Series,
    B0: _Series,
    Q0: _Series,
    P0: _Series,
) -> Iterator[_Series]:
    """The optimality conditions in blocks, each as the coefficients of eps^0, eps^1, eps^2."""
    decay_W, decay_H = c / _KAPPA, c * _KAPPA
    At, Bst, Ct, Dt, Qt, Pt = ([transpose(x) for x in X] for X in (A, Bs, C, D, Q, P))
    E = _add(_times(C, A), _times(D, Bs), [-1, 0, 0])  # W Hbar - I
    for left, right, weights, mean in ((C, D, C, At), (C, D, D, Bst)):
        outputs = _times(left, Q), _times(right, P)
        spread = [_times(o, Qt if weights is C else Pt) for o in outputs]
        yield _add(_times(E, mean), *spread, _scaled(decay_W, weights))
    for columns, means, start in ((Ct, A, A0), (Dt, Bs, B0)):
        yield _add(_times(columns, E), _scaled(decay_H + beta, means), _scaled(-beta, start))
    output = _add(_times(C, Q), _times(D, P))  # W Delta
    for columns, deviations, start in ((Ct, Q, Q0), (Dt, P, P0)):
        yield _add(
            _times(columns, output), _scaled(decay_H + beta, deviations), _scaled(-beta, start)
        )


def transpose(expr: sp.Expr) -> sp.Expr:
    """Transpose of a sum of words in the non-commuting symbols.

    Args:
        expr: The sum.

    Examples:
        >>> transpose(As * Aa * B)
        -B^T*A_a*A_s
    """
    result = 0
    for term in sp.Add.make_args(sp.expand(expr)):
        numbers, letters = term.args_cnc()
        flat = [
            base for x in letters for base, power in [x.as_base_exp()] for _ in range(int(power))
        ]
        result += sp.Mul(*numbers, *(_TRANSPOSE[x] for x in reversed(flat)))
    return result


def _times(X: _Series, Y: _Series) -> _Series:
    return [sum(X[i] * Y[k - i] for i in range(k + 1)) for k in range(3)]


def _add(*series: _Series) -> _Series:
    return [sum(x) for x in zip(*series, strict=True)]


def _scaled(number: sp.Expr, X: _Series) -> _Series:
    return [number * x for x in X]


def _by_word(expr: sp.Expr) -> dict[sp.Expr, sp.Expr]:
    """A sum of words as {word: coefficient}."""
    collected: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand(expr)):
        numbers, letters = term.args_cnc()
        word = sp.Mul(*letters)
        collected[word] = collected.get(word, 0) + sp.Mul(*numbers)
    return collected


def _tidy(expr: sp.Expr, unit: sp.Expr) -> sp.Expr:
    """A rational function as (polynomial in c) unit / (beta + rate), with the rate by its name."""
    numerator, denominator = sp.fraction(sp.cancel(expr / unit.subs(kappa, _KAPPA)))
    slope, constant = sp.Poly(denominator, beta).all_coeffs()
    names = {sp.cancel(r.subs(lambda_H, c * kappa).subs(kappa, _KAPPA)): r for r in _RATES}
    front, factors = sp.factor_list(sp.cancel(numerator / slope), c)
    for i, (factor, power) in enumerate(factors):  # 1 - 2 c rather than 2 c - 1
        sign = -1 if factor.subs(c, 0) < 0 else 1
        front, factors[i] = front * sign**power, (sign * factor) ** power
    return sp.Mul(front, *factors, unit) / (beta + names[sp.cancel(constant / slope)])
