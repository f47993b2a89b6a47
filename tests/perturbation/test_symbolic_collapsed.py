"""The SymPy derivations, evaluated, against the library and against dense second derivatives."""

from math import sqrt

import numpy as np
import pytest
import sympy as sp

from nclib import Model
from nclib.perturbation.spectrum import block_spectrum, optimal_radii, spectrum, spectrum_at_radius
from nclib.perturbation.symbolic import collapsed as sym
from tests.perturbation.oracle_response import hessian_blocks, relative_error

MODELS = [
    Model(0.1, 0.1, 0.5),
    Model(0.02, 0.3, 3.0),
    Model(sqrt(2), 0.4, 100.0),
    Model(0.9, 1.1, 0.02),
]
models = pytest.mark.parametrize("model", MODELS)


@models
@pytest.mark.parametrize("first_order", [False, True])
def test_eigenvalues_at_collapse(model, first_order):
    rates, found = sym.rates(), spectrum(model, 2, 3, 2, first_order)
    names = ["within_frame", "within_complement", "shape", "rotation", "rotation"]
    for rate, name in zip(rates, names, strict=True):
        value = sym.eigenvalue(rate)
        if first_order:
            value = sym.large_beta(value, 1)
        assert sym.lambdified(value)(model) == pytest.approx(
            found[name].value, rel=1e-13, abs=1e-13
        )


@models
def test_blocks_at_collapse(model):
    direct, crosstalk = sym.pair_response()
    found = block_spectrum(model, 2, 3, 2)
    assert sym.lambdified(direct)(model) == pytest.approx(found.diagonal["angle"].value, rel=1e-13)
    assert -sym.lambdified(crosstalk)(model) == pytest.approx(found.crosstalk, rel=1e-12)
    limit = block_spectrum(model, 2, 3, 2, first_order=True).crosstalk
    assert -sym.lambdified(sym.large_beta(crosstalk, 1))(model) == pytest.approx(limit, rel=1e-12)


@models
def test_any_radius(model):
    a = [0.4, 1.7]
    h, found = optimal_radii(model, a), spectrum_at_radius(model, a, 3, 2)
    curvatures = sym.curvatures()
    p, q = curvatures.pair[0, :]
    assert curvatures.pair == sp.Matrix([[p, q], [q, p]])
    expected = {
        "within_0": curvatures.within,
        "within_complement": curvatures.within_complement,
        "length_0": curvatures.length,
        "tilt_0": curvatures.tilt,
        "shear_0_1": p + q,
        "turn_0_1": p - q,
    }
    for name, curvature in expected.items():
        assert model.beta / sym.lambdified(curvature)(model, h) == pytest.approx(
            found[name].value, rel=1e-13
        )


def test_where_the_minimizer_is_zero():
    model = Model(2.0, 3.0, 0.1)
    found = spectrum(model, 2, 3, 2)
    for rate, name in zip(
        sym.rates(sp.Integer(1)), ["within", "within", "means", "means", "means"], strict=True
    ):
        assert sym.lambdified(sym.eigenvalue(rate))(model) == pytest.approx(
            found[name].value, rel=1e-13
        )


def test_what_the_chapters_display():
    c, lambda_H = sym.c, sym.lambda_H
    assert sym.collapsed_residual() == c
    assert sym.rates() == (lambda_H / c, lambda_H, 4 * lambda_H * (1 - c), 0, 0)
    change = sym.weight_change()
    assert (
        change[0, 1]
        == sym.e_1 * sym.e_2 / sym.lambda_W * sym.A[1, 0] - sym.w_1 * sym.w_2 * sym.A[0, 1]
    )
    assert (
        max(
            len(str(x))
            for x in [*change, *sym.curvatures().pair, *sym.rates(), *sym.pair_response()]
        )
        < 60
    )


@models
def test_the_change_of_the_weights(model):
    """Against f_WW^{-1} f_WH of the dense Hessian; d = 3, K = 2, two samples in each class."""
    h = optimal_radii(model, [0.4, 1.7])
    means = np.array([[h[0], 0, 0], [0, h[1], 0]])
    weights = means / (h**2 + model.lambda_W)[:, None]
    labels = np.array([0, 0, 1, 1])
    dA = np.random.default_rng(0).normal(size=(3, 2))
    f_WW, _, f_WH = hessian_blocks(model, weights, means[labels], labels)
    expected = -np.linalg.solve(f_WW, f_WH @ dA.T[labels].ravel()).reshape(2, 3)
    change = sym.weight_change().subs(dict(zip(sym.A, dA.ravel(), strict=True)))
    assert (
        relative_error(
            [[sym.lambdified(x)(model, h) for x in row] for row in change.tolist()], expected
        )
        < 1e-12
    )


@models
def test_series_in_one_over_beta(model):
    """Third order: what is left is of fourth order, with the coefficient of a geometric series."""
    rates = sym.rates()
    for rate in rates[:3]:
        value = sym.eigenvalue(rate)
        left = sp.cancel((value - sym.large_beta(value, 3)) / value * sym.beta**4)
        expected = sym.lambdified(rate)(model) ** 4
        assert sym.lambdified(left)(model) == pytest.approx(expected, rel=1e-10)


@models
def test_elasticities(model):
    """Against central differences of log(rate), taken from the spectrum at large beta."""

    def log_rates(lambda_W, lambda_H):
        moved = spectrum(Model(lambda_W, lambda_H, 1.0), 2, 3, 2)
        return np.log(
            [1 / moved[name].value - 1 for name in ("within_frame", "within_complement", "shape")]
        )

    W, H, eps = model.lambda_W, model.lambda_H, 1e-6
    in_W = (log_rates(W * np.exp(eps), H) - log_rates(W * np.exp(-eps), H)) / (2 * eps)
    in_H = (log_rates(W, H * np.exp(eps)) - log_rates(W, H * np.exp(-eps))) / (2 * eps)
    found = [sym.elasticities(rate) for rate in sym.rates()[:3]]
    values = [[sym.lambdified(x)(model) for x in pair] for pair in found]
    assert relative_error(values, np.column_stack([in_W, in_H])) < 1e-7


def test_elasticities_at_any_beta():
    crosstalk = -sym.pair_response()[1]
    found = sym.elasticities(crosstalk)
    model, eps = MODELS[1], 1e-5

    def log_crosstalk(x, y):
        moved = Model(model.lambda_W * np.exp(x), model.lambda_H * np.exp(y), model.beta)
        return np.log(block_spectrum(moved, 2, 3, 2).crosstalk)

    expected = [
        (log_crosstalk(eps, 0) - log_crosstalk(-eps, 0)) / (2 * eps),
        (log_crosstalk(0, eps) - log_crosstalk(0, -eps)) / (2 * eps),
    ]
    assert [sym.lambdified(x)(model) for x in found] == pytest.approx(expected, rel=1e-8)
