"""The closed-form spectrum against eigenvalues, eigenvectors and blocks of the dense response."""

from math import sqrt

import numpy as np
import pytest

from nclib import ClassStatistics, Model, minimize
from nclib.perturbation.response import response
from nclib.perturbation.spectrum import (
    block_spectrum,
    eigenbases,
    optimal_radii,
    spectrum,
    spectrum_at_radius,
)
from nclib.workbench import slope
from tests.perturbation.oracle_response import dense_response, relative_error

MODELS = [
    Model(0.1, 0.1, 0.5),
    Model(0.02, 0.3, 3.0),
    Model(sqrt(2), 0.4, 100.0),
    Model(0.9, 1.1, 0.02),
]
SIZES = [(3, 5, 2), (2, 2, 1), (1, 3, 2), (4, 4, 2), (2, 5, 3), (1, 1, 1)]
models = pytest.mark.parametrize("model", MODELS)
sizes = pytest.mark.parametrize("K, d, n", SIZES)


def frame(d, K, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, K)))[0]


def dense_at_collapse(model, K, d, n):
    """F at a minimizer of Eq. 1, by Theorem 4.1, and the frame."""
    labels, Q = np.repeat(np.arange(K), n), frame(d, K)
    if model.c >= 1:
        return dense_response(model, np.zeros((K, d)), np.zeros((K * n, d)), labels)[0], Q
    weights, means = model.collapsed(K, d, Q)
    return dense_response(model, weights, means.T[labels], labels)[0], Q


@models
@sizes
def test_values_and_multiplicities(model, K, d, n):
    F, _ = dense_at_collapse(model, K, d, n)
    found = spectrum(model, K, d, n)
    assert sum(space.multiplicity for space in found) == d * K * n
    assert relative_error(found.values, np.linalg.eigvalsh(F)[::-1]) < 1e-12


@models
@sizes
def test_eigenspaces(model, K, d, n):
    F, Q = dense_at_collapse(model, K, d, n)
    bases, found = eigenbases(Q, n), spectrum(model, K, d, n)
    for name, basis in bases.items():
        assert basis.shape == (d * K * n, found[name].multiplicity)
        assert np.abs(F @ basis - found[name].value * basis).max(initial=0) < 1e-12
    everything = np.hstack(list(bases.values()))
    assert relative_error(everything.T @ everything, np.eye(d * K * n)) < 1e-13


@pytest.mark.parametrize("K, d, n", [(3, 5, 2), (3, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize(
    "model", [Model(2.0, 3.0, 0.1), Model(0.5, 2.0, 0.3), Model(2.0, 0.5005, 40.0)]
)
def test_where_the_minimizer_is_zero(model, K, d, n):
    F, _ = dense_at_collapse(model, K, d, n)
    found = spectrum(model, K, d, n)
    assert relative_error(found.values, np.linalg.eigvalsh(F)[::-1]) < 1e-12
    means = np.repeat(np.random.default_rng(0).normal(size=(K, d)), n, axis=0).ravel()
    assert relative_error(F @ means, found["means"].value * means) < 1e-12


def test_both_sides_agree_at_the_threshold():
    """c = 1 - 1e-9 against c = 1: the spectrum is continuous."""
    below, at = (spectrum(Model(0.5, 2.0 * x, 0.3), 3, 5, 2).values for x in (1 - 2e-9, 1.0))
    assert np.abs(below - at).max() < 1e-7


@models
@pytest.mark.parametrize("K, d, n", [(3, 5, 2), (2, 2, 1), (1, 3, 2), (4, 4, 2)])
def test_blocks(model, K, d, n):
    F, Q = dense_at_collapse(model, K, d, n)
    blocks = F.reshape(K, n * d, K, n * d)
    found = block_spectrum(model, K, d, n)
    for k in range(K):
        assert (
            relative_error(found.diagonal.values, np.linalg.eigvalsh(blocks[k, :, k])[::-1]) < 1e-12
        )
        for j in set(range(K)) - {k}:
            expected = -found.crosstalk * np.kron(
                np.full((n, n), 1 / n), np.outer(Q[:, j], Q[:, k])
            )
            assert np.abs(blocks[k, :, j] - expected).max() < 1e-12 * max(1, found.crosstalk)
            assert np.linalg.norm(blocks[k, :, j], 2) == pytest.approx(found.crosstalk, rel=1e-10)


def test_the_directions_of_the_diagonal_block():
    model, (K, d, n) = MODELS[0], (3, 5, 2)
    F, Q = dense_at_collapse(model, K, d, n)
    block, found = F[: n * d, : n * d], block_spectrum(model, K, d, n).diagonal
    for name, axis in (("length", Q[:, 0]), ("angle", Q[:, 1]), ("angle", Q[:, 2])):
        v = np.tile(axis, n)
        assert relative_error(block @ v, found[name].value * v) < 1e-12


def test_theorem_4_2_is_the_limit():
    """The values of the theorem, and an error of order 1 / beta^2 over three decades."""
    lambda_W, lambda_H, (K, d, n) = sqrt(2), 0.3, (4, 10, 10)
    c = sqrt(lambda_W * lambda_H)
    betas = np.logspace(2, 5, 7)
    errors = []
    for beta in betas:
        model = Model(lambda_W, lambda_H, beta)
        limit, exact = (
            block_spectrum(model, K, d, n, first_order=order) for order in (True, False)
        )
        assert limit.diagonal.values[-1] == pytest.approx(
            1 - sqrt(lambda_H / lambda_W) / beta, rel=1e-14
        )
        assert limit.diagonal.values[0] == 1
        assert limit.crosstalk == pytest.approx(2 * lambda_H * (1 - c) / beta, rel=1e-9)
        assert limit.diagonal["within_complement"].value == pytest.approx(
            1 - lambda_H / beta, rel=1e-14
        )
        assert limit.diagonal["length"].value == pytest.approx(
            1 - 4 * lambda_H * (1 - c) / beta, rel=1e-14
        )
        assert limit.diagonal["angle"].value == pytest.approx(
            1 - 2 * lambda_H * (1 - c) / beta, rel=1e-14
        )
        whole = spectrum(model, K, d, n, first_order=True).values - spectrum(model, K, d, n).values
        errors.append(
            [
                np.abs(limit.diagonal.values - exact.diagonal.values).max(),
                abs(limit.crosstalk - exact.crosstalk),
                np.abs(whole).max(),
            ]
        )
    for error in np.transpose(errors):
        assert slope(1 / betas, error) == pytest.approx(2, abs=0.02)
    zero = spectrum(Model(2.0, 3.0, 50.0), 2, 2, 2, first_order=True)
    assert [s.value for s in zero] == pytest.approx([1 - 3 / 50, 1 - 2.5 / 50], rel=1e-14)


def test_the_share_of_ones_in_a_diagonal_block():
    """(1 - K/d) / n of the eigenvalues are one, and none of them belongs to the deviations."""
    K, d, n = 4, 10, 10
    found = block_spectrum(Model(sqrt(2), 0.3, 100.0), K, d, n).diagonal
    ones = [space for space in found if space.value == 1]
    assert [space.name for space in ones] == ["complement"]
    assert np.sum(found.values == 1) / (d * n) == pytest.approx((1 - K / d) / n, rel=1e-15)


@models
@pytest.mark.parametrize("K, d, n", [(3, 5, 2), (2, 2, 1), (1, 3, 2), (4, 4, 2)])
def test_any_collapsed_input(model, K, d, n):
    rng = np.random.default_rng(0)
    a = np.exp(rng.uniform(-2, 1, K))
    Q, O, labels = frame(d, K), frame(K, K, 1), np.repeat(np.arange(K), n)
    H0 = ((Q * a) @ O.T).T[labels]
    solution = minimize(model, ClassStatistics.from_features(H0, labels))
    h = optimal_radii(model, a)
    assert relative_error(solution.statistics.means, (Q * h) @ O.T) < 1e-10
    F, _ = dense_response(model, solution.weights, solution.features(H0, labels), labels)
    found = spectrum_at_radius(model, a, d, n)
    assert sum(space.multiplicity for space in found) == d * K * n
    assert relative_error(found.values, np.linalg.eigvalsh(F)[::-1]) < 1e-10
    for i in range(K):
        assert found[f"tilt_{i}"].value == pytest.approx(h[i] / a[i], rel=1e-11)
        length = np.repeat(np.outer(O[:, i], Q[:, i]), n, axis=0).ravel()
        assert relative_error(F @ length, found[f"length_{i}"].value * length) < 1e-10
        for j in range(i + 1, K):
            for name, sign in (("shear", 1), ("turn", -1)):
                change = np.outer(O[:, j], Q[:, i]) + sign * np.outer(O[:, i], Q[:, j])
                change = np.repeat(change, n, axis=0).ravel()
                assert np.abs(F @ change - found[f"{name}_{i}_{j}"].value * change).max() < 1e-10


def test_rank_deficient_input():
    model, labels = Model(0.5, 0.3, 2.0), np.repeat([0, 1, 2], 2)
    a, Q = np.array([1.2, 0.0, 0.0]), frame(4, 3)
    H0 = (Q * a).T[labels]
    solution = minimize(model, ClassStatistics.from_features(H0, labels))
    F, _ = dense_response(model, solution.weights, solution.features(H0, labels), labels)
    assert (
        relative_error(spectrum_at_radius(model, a, 4, 2).values, np.linalg.eigvalsh(F)[::-1])
        < 1e-11
    )
    with pytest.raises(ValueError, match="uniqueness needs"):
        spectrum_at_radius(Model(0.5, 0.3, 1.0), a, 4, 2)


@models
def test_the_right_radius_is_the_collapsed_point(model):
    a = np.full(3, sqrt(model.rho))
    assert relative_error(optimal_radii(model, a), a) < 1e-12
    assert (
        relative_error(spectrum_at_radius(model, a, 5, 2).values, spectrum(model, 3, 5, 2).values)
        < 1e-11
    )


def test_radii_where_the_condition_is_tight():
    """Tiny and huge input, strong and weak pull: stationary, and on the side of the certificate."""
    for lambda_W, lambda_H, beta in [
        (0.1, 0.1, 1e-6),
        (1e-4, 1e-3, 0.1),
        (5.0, 4.0, 0.5),
        (0.1, 0.0, 20.0),
        (0.75, 0.5, 0.25),
    ]:
        a = np.logspace(-14, 4, 19)
        h = optimal_radii(Model(lambda_W, lambda_H, beta), a)
        e = lambda_W / (h**2 + lambda_W)
        b = lambda_H + beta
        residual = b * h - e * h / (h**2 + lambda_W) - beta * a
        assert np.all(np.abs(residual) < 1e-14 * (b * h + beta * a))
        assert np.all(e**2 < lambda_W * b * (1 + 1e-12))
        assert np.all(np.diff(h) >= 0)


def test_rotated_input_gives_rotated_output():
    """H*(U H0) = U H*(H0), so a rotation of a fixed point is one: hence the eigenvalue one."""
    model, labels, U = MODELS[0], np.repeat([0, 1, 2], 2), frame(5, 5, 3)
    H0 = model.collapsed(3, 5, frame(5, 3)).means.T[labels] + 0.3 * np.random.default_rng(0).normal(
        size=(6, 5)
    )
    H, UH = (
        minimize(model, ClassStatistics.from_features(X, labels)).features(X, labels)
        for X in (H0, H0 @ U.T)
    )
    assert relative_error(UH, H @ U.T) < 1e-11


def test_the_operator_has_this_spectrum():
    """Through the solver and the operator, not through the dense formula."""
    model, K, d, n = MODELS[1], 3, 6, 3
    labels = np.repeat(np.arange(K), n)
    H0 = model.collapsed(K, d, frame(d, K)).means.T[labels]
    F = response(minimize(model, ClassStatistics.from_features(H0, labels)), H0, labels)
    values = np.linalg.eigvalsh(F @ np.eye(F.shape[0]))[::-1]
    assert relative_error(values, spectrum(model, K, d, n).values) < 1e-10
    assert np.linalg.norm(F.block(0, 1), 2) == pytest.approx(
        block_spectrum(model, K, d, n).crosstalk, rel=1e-9
    )


def test_axes_by_name_and_in_turn():
    """Every space found by its name is the one met in the iteration, and the pairs are in order."""
    model, a = MODELS[0], [0.2, 0.5, 0.9, 1.4]
    found = spectrum_at_radius(model, a, 6, 3)
    assert len(found) == len(found.spaces) == 1 + 3 * 4 + 2 * 6
    for space in found:
        assert found[space.name] == space
    assert sum(space.multiplicity for space in found) == found.values.size == 6 * 4 * 3
    assert [s.name for s in found if s.name.startswith("turn")] == [
        "turn_0_1", "turn_0_2", "turn_0_3", "turn_1_2", "turn_1_3", "turn_2_3",
    ]  # fmt: skip
    # Two axes alone have the eigenvalues that they have among others.
    pair = spectrum_at_radius(model, [0.5, 1.4], 6, 3)
    for name, other in (("shear_0_1", "shear_1_3"), ("turn_0_1", "turn_1_3"), ("tilt_1", "tilt_3")):
        assert pair[name].value == found[other].value
    for name in (
        "turn_1_1",
        "turn_3_1",
        "turn_0_4",
        "tilt_4",
        "tilt",
        "turn_0",
        "tilt_-1",
        "x_0_1_2",
    ):
        with pytest.raises(KeyError, match="no eigenspace"):
            found[name]


def test_spectra_compare_by_value():
    model, a = MODELS[0], [0.2, 0.5, 0.9]
    first, second = spectrum_at_radius(model, a, 6, 3), spectrum_at_radius(model, a, 6, 3)
    assert first == second and hash(first) == hash(second)
    assert first != spectrum_at_radius(model, [0.2, 0.5, 0.8], 6, 3)
    assert first != spectrum_at_radius(model, a, 6, 4) and first != spectrum(model, 3, 6, 3)
    assert first != "a spectrum" and first in [None, second]
    assert repr(spectrum(model, 3, 6, 3)) == (
        "Spectrum(within_frame, within_complement, shape, rotation)"
    )


def test_a_thousand_axes_need_no_million_names():
    model = Model(0.01, 0.01, 1.0)
    a = np.linspace(0.1, 3, 1000)
    found = spectrum_at_radius(model, a, 2048, 5)
    assert len(found) == 1 + 3 * 1000 + 1000 * 999
    few = spectrum_at_radius(model, a[[7, 998]], 2048, 5)
    assert found["turn_7_998"].value == few["turn_0_1"].value
    assert spectrum_at_radius(model, a, 1000, 1).values.size == 1000 * 1000
    with pytest.raises(ValueError, match="3,072,000,000 numbers"):
        _ = spectrum_at_radius(model, a, 2048, 1500).values


def test_bad_input_is_refused():
    model = MODELS[0]
    for bad, message in [((0, 5, 2), "K must be"), ((3, 2, 2), "d >= K"), ((3, 5, 0), "n must be")]:
        for function in (spectrum, block_spectrum):
            with pytest.raises(ValueError, match=message):
                function(model, *bad)
    for bad in (Model(0.1, 0.1), Model(0.1, 0.0, 1.0)):
        with pytest.raises(ValueError, match="greater than zero"):
            spectrum(bad, 3, 5, 2)
    with pytest.raises(ValueError, match="c < 1"):
        block_spectrum(Model(2.0, 3.0, 1.0), 3, 5, 2)
    with pytest.raises(ValueError, match="not negative"):
        spectrum_at_radius(model, [1.0, -1.0], 5, 2)
    with pytest.raises(ValueError, match="list"):
        spectrum_at_radius(model, np.eye(2), 5, 2)
    with pytest.raises(ValueError, match="d >= K"):
        spectrum_at_radius(model, [1.0, 2.0, 3.0], 2, 2)
    with pytest.raises(ValueError, match="greater than zero"):
        optimal_radii(Model(0.1, 0.1), [1.0])
    with pytest.raises(KeyError, match="no eigenspace 'spin'"):
        spectrum(model, 3, 5, 2)["spin"]
    with pytest.raises(ValueError, match="1,024,000,000 numbers"):
        eigenbases(np.eye(64, 10), 50)
    for bad, message in [
        (np.ones((4, 2)), "not orthonormal"),
        (np.eye(2, 4), "d >= K"),
        (np.eye(4)[0], "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            eigenbases(bad, 2)
