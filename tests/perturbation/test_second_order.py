"""The second-order expansion near collapse and its ratios of metrics, against the minimizer."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from nclib import ClassStatistics, Model, minimize, nc1, nc1_trace
from nclib.perturbation.contraction import contraction
from nclib.perturbation.second_order import (
    attenuation,
    coefficients,
    nc1_ratio,
    nc1_trace_ratio,
    second_order,
)
from nclib.perturbation.symbolic import expansion
from nclib.workbench import slope

CASES = {
    "generic": (4, 7, 5, Model(0.5, 0.2, 0.3)),
    "d = K": (3, 3, 4, Model(0.05, 0.02, 2.0)),
    "K = 2": (2, 5, 3, Model(0.2, 0.4, 0.4)),
    "K = 1": (1, 2, 3, Model(0.3, 0.2, 0.5)),
    "n = 1": (3, 4, 1, Model(0.3, 0.1, 0.5)),
    "c close to 1": (3, 4, 3, Model(0.97, 0.97, 0.7)),
    "small beta": (3, 5, 2, Model(0.2, 0.3, 0.1)),
}
EPS = np.geomspace(1e-1, 1e-4, 5)


def instance(name, seed=1):
    """Model, frame, a perturbation Z at whose size the second order matters, shuffled labels."""
    K, d, n, model = CASES[name]
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(rng.normal(size=(d, K)))[0]
    kappa = sqrt(model.lambda_H / model.lambda_W)
    size = min(sqrt(model.rho), 3 * model.beta / sqrt((1 - model.c) * kappa**3))
    Z = size * rng.normal(size=(K * n, d))
    return model, frame, Z, rng.permutation(np.repeat(np.arange(K), n))


def mean_part(frame, Z, y):
    """A0 = Q^T times the class means."""
    return frame.T @ ClassStatistics.from_features(Z, y).means


@pytest.mark.parametrize("name", CASES)
def test_error_after_each_order(name):
    model, frame, Z, y = instance(name)
    x = second_order(model, frame, Z, y)
    errors = []
    for eps in EPS:
        H0 = x.base + eps * Z
        step = minimize(model, ClassStatistics.from_features(H0, y)).features(H0, y) - x.base
        rest = step - eps * x.first
        errors.append([np.linalg.norm(r) for r in (step, rest, rest - eps**2 * x.second)])
    for error, expected in zip(np.transpose(errors), (1, 2, 3), strict=True):
        assert slope(EPS, error) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", CASES)
def test_first_order_has_the_stated_factors(name):
    model, Q, Z, y = instance(name)
    s1, s2, s3 = contraction(model)
    means = ClassStatistics.from_features(Z, y).means.T[y]
    A = mean_part(Q, Z, y)
    in_frame = (Q @ (A - A.T) / 2 + s3 * Q @ (A + A.T) / 2).T[y]
    across = means @ (np.eye(len(Q)) - Q @ Q.T)
    deviations = Z - means
    expected = in_frame + across + s2 * deviations + (s1 - s2) * deviations @ Q @ Q.T
    np.testing.assert_allclose(second_order(model, Q, Z, y).first, expected, atol=1e-13)


def test_rotating_the_frame_costs_nothing_to_second_order():
    model, frame, _, y = instance("generic")
    skew = np.random.default_rng(2).normal(size=(7, 7))
    skew -= skew.T
    H = model.collapsed(4, 7, frame).means.T[y]
    x = second_order(model, frame, H @ skew, y)
    np.testing.assert_allclose(x.first, H @ skew, atol=1e-12)
    # H0 rotated exactly is H + eps HS + eps^2 HS^2/2; leaving out the last term costs its
    # first-order response.
    missing = second_order(model, frame, H @ skew @ skew / 2, y).first
    np.testing.assert_allclose(x.second, H @ skew @ skew / 2 - missing, atol=1e-12)


@pytest.fixture(scope="module")
def derived():
    return expansion.second_order_terms()


@pytest.mark.parametrize("name", CASES)
def test_coefficients_are_those_that_sympy_derives(name, derived):
    model = CASES[name][-1]
    kappa = sqrt(model.lambda_H / model.lambda_W)
    values = {
        expansion.c: model.c,
        expansion.kappa: kappa,
        expansion.omega: sqrt((1 - model.c) * kappa),
        expansion.lambda_H: model.lambda_H,
        expansion.beta: model.beta,
    }
    As, Aa, B, Bt, dq, dp = (getattr(expansion, x) for x in ("As", "Aa", "B", "Bt", "dq", "dp"))
    k = coefficients(model)
    mine = {
        "A": {
            As**2: k.ss,
            Aa**2: k.aa,
            Bt * B: k.bb,
            dq * expansion.dqt: k.noise,
            As * Aa: k.turn,
            Aa * As: k.turn,
        },
        "B": {B * As: k.lift, dp * expansion.dqt: k.tilt},
        "Q": {As * dq: k.radial, Bt * dp: k.fall},
        "P": {B * dq: k.rise},
    }
    for block, words in derived.second.items():
        found = {word: float(term.subs(values)) for word, term in words.items()}
        assert found == pytest.approx(mine[block], rel=1e-12)
    s1, s2, s3 = contraction(model)
    found = {word: float(term.subs(values)) for word, term in derived.first.items()}
    assert found == pytest.approx({As: s3, Aa: 1.0, B: 1.0, dq: s1, dp: s2}, rel=1e-13)


@pytest.mark.parametrize("name", ["generic", "d = K", "K = 2", "small beta", "c close to 1"])
@pytest.mark.parametrize("metric, predict", [(nc1, nc1_ratio), (nc1_trace, nc1_trace_ratio)])
def test_relative_error_of_the_ratios(name, metric, predict):
    model, frame, Z, y = instance(name)
    base = model.collapsed(frame.shape[1], len(frame), frame).means.T[y]
    ratio = predict(model, frame, ClassStatistics.from_features(Z, y))
    errors = []
    steps = EPS / 10
    for eps in steps:
        stats = ClassStatistics.from_features(base + eps * Z, y)
        exact = metric(minimize(model, stats).statistics) / metric(stats) / ratio.value - 1
        errors.append([abs(exact), abs(exact - eps * ratio.slope)])
    for error, expected in zip(np.transpose(errors), (1, 2), strict=True):
        assert slope(steps, error) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", ["generic", "d = K", "small beta"])
def test_rotations_of_the_frame_do_not_change_the_nc1_ratio(name):
    model, frame, Z, y = instance(name)
    stats = ClassStatistics.from_features(Z, y)
    A0 = frame.T @ stats.means
    symmetric = ClassStatistics(stats.counts, frame @ (A0 + A0.T) / 2, stats.within)
    for beta in (1e-3, 1.0, 1e3):  # the slope has a limit as beta goes to zero
        at = replace(model, beta=beta)
        slope = nc1_ratio(at, frame, stats).slope
        assert slope == pytest.approx(nc1_ratio(at, frame, symmetric).slope, rel=1e-12)
        assert abs(slope) < 10 * np.linalg.norm(A0, 2) / sqrt(model.rho)


@pytest.mark.parametrize("K, d", [(3, 5), (3, 3), (2, 6)])
def test_attenuation_of_isotropic_noise(K, d):
    model = Model(0.2, 0.1, 0.5)
    means = np.random.default_rng(3).normal(size=(d, K))
    noise = ClassStatistics(np.full(K, 2 * d), means, np.eye(d))
    frame = np.linalg.qr(means)[0]
    found = attenuation(model, K, d)
    assert nc1_trace_ratio(model, frame, noise).value == pytest.approx(found.nc1_trace, rel=1e-13)
    assert nc1_ratio(model, frame, noise).value == pytest.approx(found.nc1, rel=1e-13)
    assert found.nc1 <= found.nc1_trace <= contraction(model).s2 ** 2


def test_noise_in_the_frame_or_its_complement_alone():
    model, frame, Z, y = instance("generic")
    s1, s2, _ = contraction(model)
    inside = ClassStatistics.from_features(Z @ frame @ frame.T, y)
    outside = ClassStatistics.from_features(Z - Z @ frame @ frame.T, y)
    assert nc1_trace_ratio(model, frame, inside).value == pytest.approx(s1**2)
    assert nc1_trace_ratio(model, frame, outside).value == pytest.approx(s2**2)
    assert nc1_ratio(model, frame, inside).value == pytest.approx(s1**2)
    with pytest.raises(ValueError, match="no within-class spread"):
        nc1_ratio(model, frame, outside)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": Model(0.5, 0.2)}, "beta must be greater than zero"),
        ({"model": Model(0.5, 0.0, 1.0)}, "lambda_H must be greater than zero"),
        ({"model": Model(2.0, 0.6, 1.0)}, "a collapsed frame needs c < 1"),
        ({"frame": np.ones((7, 4))}, "not orthonormal"),
        ({"frame": np.eye(6, 4)}, "frame must have shape"),
        ({"labels": [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]}, "as many samples in every class"),
    ],
)
def test_refusals(change, sentence):
    args = {
        "model": CASES["generic"][-1],
        "frame": np.eye(7, 4),
        "labels": np.repeat(np.arange(4), 3),
    } | change
    Z = np.random.default_rng(4).normal(size=(len(args["labels"]), 7))
    with pytest.raises(ValueError, match=sentence):
        second_order(args["model"], args["frame"], Z, args["labels"])


def test_no_ratio_where_there_is_nothing_to_compare():
    model, frame, Z, y = instance("n = 1")
    with pytest.raises(ValueError, match="no within-class spread"):
        nc1_trace_ratio(model, frame, ClassStatistics.from_features(Z, y))
    model, frame, Z, y = instance("K = 1")
    with pytest.raises(ValueError, match="K = 1"):
        nc1_trace_ratio(model, frame, ClassStatistics.from_features(Z, y))
    with pytest.raises(ValueError, match="d = 2 is less than K = 3"):
        attenuation(replace(model, beta=1.0), 3, 2)
