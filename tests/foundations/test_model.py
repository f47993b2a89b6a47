"""The model on full matrices: objective, gradients, optimal weights, collapsed minimizers."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from nclib import ClassStatistics, Model, minimize
from nclib.workbench import random_problem
from tests.foundations.oracle_model import dense_objective, one_hot

SHARED = np.arange(12) % 3
SIZES = [(3, 5, 4), (4, 4, 2), (2, 3, 1), (3, 2, 6), (1, 2, 3)]


def orthonormal(rng, d, K):
    return np.linalg.qr(rng.normal(size=(d, K)))[0]


@pytest.mark.parametrize("K, d, n", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_objective_and_gradient_are_those_of_the_formula(K, d, n, beta):
    model, H0, y = random_problem(1, K, d, n, beta=beta)
    rng = np.random.default_rng(2)
    W, H = rng.normal(size=(K, d)), rng.normal(size=H0.shape)
    w, h = torch.tensor(W, requires_grad=True), torch.tensor(H, requires_grad=True)
    f = dense_objective(model, w, h.T, torch.tensor(H0).T, torch.tensor(one_hot(y, K)))
    f.backward()
    assert model.objective(W, H, y, H0) == pytest.approx(f.item(), rel=1e-14)
    gradient = model.gradient(W, H, y, H0)
    np.testing.assert_allclose(gradient.weights, w.grad.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradient.features, h.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.float32, np.float16, Fraction])
def test_parameters_are_floats_whatever_was_given(kind):
    """Integer types overflow in products and squares; Python's floats do not."""
    model, plain = Model(kind(1), kind(0), kind(100)), Model(1.0, 0.0, 100.0)
    assert model == plain
    assert {type(x) for x in (model.lambda_W, model.lambda_H, model.beta)} == {float}
    stats = ClassStatistics.from_features(np.random.default_rng(0).normal(size=(12, 4)), SHARED)
    assert minimize(model, stats).objective == minimize(plain, stats).objective


def test_without_pull_the_input_features_do_not_matter():
    model, H0, y = random_problem(3, beta=0.0)
    W = np.ones((3, 5))
    assert model.objective(W, H0, y) == model.objective(W, H0, y, H0 + 1)


@pytest.mark.parametrize("K, d, n", SIZES)
def test_optimal_weights_zero_the_gradient(K, d, n):
    model, H, y = random_problem(4, K, d, n)
    W = model.optimal_weights(ClassStatistics.from_features(H, y))
    assert np.abs(model.gradient(W, H, y, H).weights).max() < 1e-14


def test_optimal_weights_zero_the_gradient_for_unequal_classes():
    model, H, y = random_problem(5, counts=[1, 7, 3])
    W = model.optimal_weights(ClassStatistics.from_features(H, y))
    assert np.abs(model.gradient(W, H, y, H).weights).max() < 1e-14


@pytest.mark.parametrize("K, d, n", [(3, 5, 4), (4, 4, 2), (2, 3, 1), (1, 2, 3)])
def test_collapsed_is_stationary_and_not_beaten(K, d, n):
    rng = np.random.default_rng(6)
    model, y = Model(0.3, 0.1), np.repeat(np.arange(K), n)
    W, means = model.collapsed(K, d, orthonormal(rng, d, K))
    H = means.T[y]
    np.testing.assert_allclose(means.T @ means, model.rho * np.eye(K), atol=1e-14)
    gradient = model.gradient(W, H, y)
    assert max(np.abs(gradient.weights).max(), np.abs(gradient.features).max()) < 1e-15
    f = model.objective(W, H, y)
    # f* = c - c^2/2 for every K, d and n (the scalar problem of the chapter).
    assert f == pytest.approx(model.c - model.c**2 / 2, rel=1e-14)
    for size in [1e-3, 0.1, 1.0]:
        for _ in range(50):
            trial = model.objective(
                W + size * rng.normal(size=W.shape), H + size * rng.normal(size=H.shape), y
            )
            assert trial >= f


def test_collapsed_input_is_its_own_minimizer():
    rng = np.random.default_rng(7)
    y = np.repeat(np.arange(3), 5)
    for beta in [1e-3, 1.0, 1e3]:
        model = Model(0.3, 0.1, beta)
        W, means = model.collapsed(3, 6, orthonormal(rng, 6, 3))
        solution = minimize(model, ClassStatistics.from_features(means.T[y], y))
        assert solution.certified
        np.testing.assert_allclose(solution.weights, W, atol=1e-11)
        np.testing.assert_allclose(solution.statistics.means, means, atol=1e-11)


def test_derived_parameters_are_those_of_the_notation():
    model = Model(0.04, 0.09, 0.5)
    assert model.b == 0.09 + 0.5
    assert model.kappa == pytest.approx(1.5, rel=1e-15)
    assert model.c == pytest.approx(0.06, rel=1e-15)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Model(0.0, 1.0), "lambda_W"),
        (lambda: Model(1.0, -1.0), "lambda_H"),
        (lambda: Model(1.0, 1.0, -0.1), "beta"),
        (lambda: Model(float("nan"), 1.0), "lambda_W"),
        (lambda: Model(1.0, float("inf")), "lambda_H"),
        (lambda: Model(2.0, 0.5).rho, "c < 1"),
        (lambda: Model(2.0, 0.0).rho, "but lambda_H = 0"),
        (lambda: Model(0.1, 0.1).collapsed(4, 3), "d >= K"),
        (lambda: Model(0.1, 0.1).collapsed(2, 3, np.ones((3, 2))), "not orthonormal"),
        (lambda: Model(0.1, 0.1).collapsed(2, 3, np.eye(3)), "frame must have shape"),
    ],
)
def test_bad_parameters_get_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_arrays_get_a_sentence():
    model, H, y = random_problem(8)
    W = np.zeros((3, 5))
    for arguments, words in [
        ((W[:, :4], H, y, H), "weights must have shape"),
        ((W, H, y), "features0 must be given"),
        ((W, H, y, H[:-1]), "features0 must have the shape"),
        ((W, H, y + 1, H), "label 3"),
        ((W, H, y[:-1], H), "labels must have shape"),
        ((W, np.where(H > 0, H, np.nan), y, H), "features must be finite"),
        ((W, H, y, np.where(H > 0, H, np.inf)), "features0 must be finite"),
        ((W + np.inf, H, y, H), "weights must be finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.objective(*arguments)
