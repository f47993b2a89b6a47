"""The directions in which class means differ, and the cut between them and rounding."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import helmert

from nclib import ClassStatistics, measure, nc1, nc2
from nclib.foundations.geometry import left_singular, without_ones
from nclib.foundations.metrics import _squares, _whitening
from tests.foundations.oracle import (
    assert_close,
    dense,
    dense_nc1,
    examples,
    means_condition,
    samples,
)

of = ClassStatistics.from_features
# Types by name: bfloat16 is torch's, the others NumPy's.
EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


def rounded(X, name):
    """Features in a type, as a tensor, and the exact values of the rounded numbers."""
    tensor = torch.tensor(np.asarray(X, dtype=float)).to(getattr(torch, name))
    return tensor, tensor.double().numpy()


# ---- the decomposition -------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 3, 10, 101])
def test_contrasts_keep_all_inner_products_of_centered_means(K):
    M = np.random.default_rng(K).normal(size=(4, K))
    M -= M.mean(axis=1, keepdims=True)
    C = without_ones(M)
    assert C.shape == (4, K - 1)
    assert_close(C @ C.T, M @ M.T)
    # The same as with a dense basis, up to a rotation of the contrasts.
    other = M @ helmert(K).T
    assert_close(np.linalg.norm(C), np.linalg.norm(other))


@pytest.mark.parametrize("scale", [1e-250, 1.0, 1e250])
@pytest.mark.parametrize("d, n", [(1, 1), (5, 2), (2, 5), (6, 6), (40, 7), (7, 40), (3, 0)])
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_singular_values_by_gram_matrix_and_by_factor(d, n, condition, scale):
    rng, r = np.random.default_rng(d + n), min(d, n)
    s = np.geomspace(1, 1 / condition, r)
    U, V = (np.linalg.qr(rng.normal(size=(size, r)))[0] for size in (d, n))
    found = left_singular(scale * (U * s) @ V.T)
    assert found.U.shape == (d, r)
    assert_close(found.s / scale, s)
    assert_close(found.U.T @ found.U, np.eye(r), condition=10)
    squares = (found.U * (found.s / scale) ** 2) @ found.U.T
    assert_close(squares, (U * s**2) @ U.T)


@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-12])
def test_small_singular_values_keep_their_digits(ratio):
    """A Gram matrix would leave half of them: for 1e-8 and less, none."""
    for A in (np.diag([1.0, ratio]), np.eye(2, 9) * [[1.0], [ratio]]):
        assert_close(left_singular(A).s[1], ratio)


def test_nothing_differs():
    found = left_singular(np.zeros((3, 2)))
    assert found.s.tolist() == [0, 0]
    assert_close(found.U.T @ found.U, np.eye(2))


@pytest.mark.parametrize("K, d", [(3, 9), (6, 9), (9, 9), (10, 9), (40, 9), (2, 1)])
def test_whitening_is_a_factor_of_the_pseudoinverse(K, d):
    rng = np.random.default_rng(K)
    A = rng.normal(size=(d, K - 1)) * np.geomspace(1, 1e-4, K - 1)
    g = left_singular(A)
    T, P = _whitening(g), np.linalg.pinv(A @ A.T, rcond=1e-12)
    assert_close(T.T @ T, P, condition=1e8)
    R = rng.normal(size=(13, d))
    assert_close(_squares(T, R), np.trace(R @ T.T @ T @ R.T))
    if 2 * len(g.s) > d:
        assert not np.tril(T, -1).any()


# ---- one large component does not hide the others ----------------------------------------------


@st.composite
def narrow_samples(draw):
    """Classes in a narrow type whose means differ in all directions, with some large components.

    The large components are constant, or their own class means and spread are a millionth of them.
    """
    name = draw(st.sampled_from(sorted(EPSILON)))
    K, d, large = draw(st.integers(2, 5)), draw(st.integers(2, 5)), draw(st.integers(1, 2))
    n, seed = draw(st.integers(2, 5)), draw(st.integers(0, 999))
    X, y = samples(seed, [n] * K, d, spread=draw(st.sampled_from([0.01, 0.3, 1.0])))
    size = 10.0 ** draw(st.integers(2, 4))
    wobble = draw(st.sampled_from([0.0, 1e-6]))
    rng = np.random.default_rng(seed)
    extra = size * (1 + wobble * rng.normal(size=(len(y), large)))
    return name, np.hstack([X, extra]), y, d


@examples
@given(narrow_samples())
def test_large_components_hide_no_direction(data):
    """The value is that of the rounded numbers in exact arithmetic, all contrasts included."""
    name, X, y, d = data
    tensor, values = rounded(X, name)
    # Rounding must leave the small components what they are: clear differences.
    truth = dense(values, y)
    small = truth.centered[:d].astype(float)
    s = np.linalg.svd(small, compute_uv=False)[min(d, y.max()) - 1]
    assume(
        s > 8 * EPSILON[name] * np.sqrt(d) * (np.abs(values[:, :d]).max() * np.sqrt(y.max() + 1))
    )
    # d < K - 1: the large components show contrasts too, of which rounding may be all there is.
    assume(d >= y.max() or not np.ptp(values[:, d:], axis=0).any())
    condition = means_condition(truth) if d >= y.max() else 1e4
    for value in (nc1(of(tensor, y)), measure(tensor, y).nc1):
        assert_close(value, dense_nc1(truth), condition=10 * condition)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("size", [0.0, 300.0, 3000.0, 30_000.0])
def test_a_constant_component_changes_nothing(name, size):
    X, y = samples(3, [40] * 6, 24, spread=0.5)
    plain = nc1(of(rounded(X, name)[0], y))
    X[:, 7] = size
    shown, _ = rounded(X, name)
    X[:, 7] = 0
    base = nc1(of(rounded(X, name)[0], y))
    assert_close(nc1(of(shown, y)), base, condition=10)
    assert_close(measure(shown, y).nc1, base, condition=10)
    assert 0.5 < base / plain < 2


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_contrasts_that_only_rounding_shows_are_left_out(name):
    """Collinear means; one large component differs between the classes by its rounding alone."""
    e, t = EPSILON[name], np.array([0.0, 1, 2, 4])
    v, n = np.random.default_rng(8).normal(size=12), 64
    rng, y = np.random.default_rng(9), np.repeat(np.arange(4), 64)
    signs = np.where(np.arange(n) % 2, 1, -1)[:, None] * np.ones(12)
    within = np.vstack([0.25 * rng.permuted(signs, axis=0) for _ in range(4)])
    size = 2.0 / e  # where the spacing of the numbers is two
    dithered = size + 1 + 0.25 * rng.normal(size=len(y))  # rounds to either neighbor
    X = np.column_stack([np.outer(t, v)[y] + within, dithered])
    tensor, values = rounded(X, name)
    means = np.stack([values[y == k].mean(axis=0) for k in range(4)])
    assert np.ptp(means[:, -1]) > 0.02  # the spurious difference is there
    t -= t.mean()
    truth = 1 / 16 / (v @ v * (t @ t))
    for value in (nc1(of(tensor, y)), measure(tensor, y).nc1):
        assert 0.8 * truth < value < 1.5 * truth
    # All contrasts of the rounded numbers, the spurious ones too, would give a thousandfold.
    M = means - means.mean(axis=0)
    R = values - means[y]
    assert np.sum(R.T @ R / len(y) * np.linalg.pinv(M.T @ M / 4, rcond=1e-9)) / 4 > 50 * truth


# ---- means that agree up to rounding -----------------------------------------------------------


@examples
@given(
    st.sampled_from(sorted(EPSILON)[:3]),
    st.integers(2, 6),
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_means_that_agree_up_to_rounding_are_refused(name, K, d, n, seed, noise):
    """Equal means before rounding, of any size in each component, with noise below the spacing."""
    rng, y = np.random.default_rng(seed), np.repeat(np.arange(K), n)
    common = rng.choice([-1, 1], d) * 10.0 ** rng.uniform(-3, 4, d)
    X = common * (1 + noise * EPSILON[name] * rng.uniform(-1, 1, (len(y), d)))
    tensor, _ = rounded(X, name)
    for metric in (
        lambda: nc1(of(tensor, y)),
        lambda: nc2(of(tensor, y)),
        lambda: measure(tensor, y),
    ):
        with pytest.raises(ValueError, match="all class means are equal up to the rounding"):
            metric()


@pytest.mark.parametrize("name", sorted(EPSILON)[:3])
@pytest.mark.parametrize("common", [1.0, 1e3, -3e4])
@pytest.mark.parametrize("large", [0.0, 3e4])
def test_the_cut_lies_at_twice_what_rounding_can_do(name, common, large):
    """Two class means in one component: one spacing apart they may be equal, three apart not."""
    step = EPSILON[name] * abs(common)

    def value(apart):
        means = np.array([[common, common + apart * step], [large, large]])
        return nc1(ClassStatistics(np.array([3, 3]), means, np.eye(2), EPSILON[name]))

    with pytest.raises(ValueError, match="all class means are equal"):
        value(1.0 / (1 + 2 * EPSILON[name]))
    # Here Sigma_W is one, so it has its share in what rounding can do.
    assert value(3 * np.hypot(1, 1 / common)) > 0


@pytest.mark.parametrize("apart", [1, 4, 12])
@pytest.mark.parametrize("common", [0.1, -3e4])
def test_means_that_the_sums_of_others_moved_apart_agree(apart, common):
    """Equal means, computed elsewhere in float64, may differ by some units in the last place."""
    means = common * np.array([[1.0, 1.0 + apart * np.finfo(float).eps], [2.0, 2.0]])
    with pytest.raises(ValueError, match="all class means are equal"):
        nc1(ClassStatistics(np.array([3, 3]), means, np.zeros((2, 2))))
    means[0, 1] = common * (1 + 100 * np.finfo(float).eps)
    assert nc1(ClassStatistics(np.array([3, 3]), means, np.zeros((2, 2)))) == 0


@examples
@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1e3, 1e8, 1e12]))
def test_a_large_component_in_float64_hides_nothing_either(K, d, seed, size):
    X, y = samples(seed, [3] * K, d, spread=0.5)
    X = np.hstack([X, np.full((len(y), 1), size)])
    truth = dense(X, y)
    condition = means_condition(dense(X[:, :d], y))
    assume(condition < 1e4)
    for value in (nc1(of(X, y)), measure(X, y).nc1):
        assert_close(value, dense_nc1(truth), condition=10 * condition)


@pytest.mark.parametrize("dead", [1, 5, 11])
@pytest.mark.parametrize("K", [3, 9, 30])
def test_dead_units_and_more_classes_than_dimensions(dead, K):
    X, y = samples(dead, [5] * K, 12, spread=0.4)
    X[:, :dead] = 0
    live = X[:, dead:]
    for value in (nc1(of(X, y)), measure(X, y).nc1, measure(X.astype(np.float32), y).nc1):
        expected = measure(live, y).nc1
        assert_close(value, expected, np.float32, condition=10)
    assert_close(nc1(of(X, y)), nc1(of(live, y)), condition=10)


def test_class_means_that_coincide_leave_the_others():
    """Two of four means are the same: the contrast between them is left out."""
    M = np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 0]])
    y = np.repeat(np.arange(4), 2)
    noise = np.tile([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]], (4, 1))
    X = M[y] + noise
    assert_close(measure(X, y).nc1, dense_nc1(dense(X, y)), condition=10)
    assert_close(nc1(of(X, y)), dense_nc1(dense(X, y)), condition=10)
