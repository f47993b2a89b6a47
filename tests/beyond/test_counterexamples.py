"""The counterexamples of the book as proofs: in interval arithmetic on the full problem.

Each test encloses a stationary point (W, H) of the perturbed model on all its columns, shows that
it meets the certificate strictly, so that it is the only global minimizer, and compares metrics as
balls that do not overlap.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from flint import arb
from scipy import optimize

from nclib import ClassStatistics, Model, minimize
from nclib.beyond import cross_entropy
from tests.beyond.interval import ball, balls, definite, jacobian, stationary


class Instance(NamedTuple):
    """Parameters as decimals, input features (d, N) as balls, labels, loss, bias or none."""

    lambda_W: str
    lambda_H: str
    beta: str
    H0: np.ndarray
    labels: np.ndarray
    loss: str
    bias: bool

    @property
    def sizes(self):
        """K, d and N."""
        return int(self.labels.max()) + 1, *self.H0.shape

    def unpack(self, x):
        """W (K, d), bias (K,) and H (d, N) from a flat vector."""
        K, d, N = self.sizes
        W, rest = x[: K * d].reshape(K, d), x[K * d :]
        offset = rest[:K] if self.bias else balls([0] * K)
        return W, offset, rest[len(rest) - d * N :].reshape(d, N)

    def residual(self, x):
        """E (K, N)."""
        W, offset, H = self.unpack(x)
        Z = W.dot(H) + offset[:, None]
        if self.loss == "cross-entropy":
            ex = np.frompyfunc(lambda z: z.exp(), 1, 1)(Z)
            Z = ex / ex.sum(axis=0)
        E = Z.copy()
        for i, y in enumerate(self.labels):
            E[y, i] = E[y, i] - 1
        return E

    def gradient(self, x):
        """N times the gradient of f, flat; with a bias, its sum in the place of the last entry."""
        K, _, N = self.sizes
        W, offset, H = self.unpack(x)
        E = self.residual(x)
        lambda_W, lambda_H, beta = map(ball, self[:3])
        G = E.dot(H.T) + W * (lambda_W * N / K)
        D = W.T.dot(E) + H * (lambda_H + beta) - self.H0 * beta
        middle = E.sum(axis=1)
        if self.loss == "cross-entropy":
            # The residual sums to zero over the classes: K - 1 equations for the bias are enough.
            middle[-1] = offset.sum()
        return np.concatenate([G.ravel(), *([middle] if self.bias else []), D.ravel()])

    def certified(self, x) -> bool:
        """Whether n lambda_W b I - E E^T is positive definite in the balls x."""
        K, _, N = self.sizes
        lambda_W, lambda_H, beta = map(ball, self[:3])
        E = self.residual(x)
        bound = lambda_W * (lambda_H + beta) * N / K
        return definite(balls(np.eye(K).tolist()) * bound - E.dot(E.T))

    def proved(self):
        """Features (d, N) of the only global minimizer, as balls, from the library's solution."""
        model = Model(*map(float, self[:3]))
        features = np.array([[float(v.mid()) for v in row] for row in self.H0]).T
        if self.loss == "cross-entropy":
            solution = cross_entropy.minimize(model, features, self.labels, self.bias)
            parts = [solution.weights.ravel(), *([solution.bias] if self.bias else [])]
        elif self.bias:
            return self.enclosed(plain_squared_minimizer(model, features, self.labels))
        else:
            stats = ClassStatistics.from_features(features, self.labels)
            solution = minimize(model, stats)
            parts = [solution.weights.ravel()]
        H = solution.features(features, self.labels)
        return self.enclosed(np.concatenate([*parts, H.T.ravel()]))

    def enclosed(self, start):
        """Features (d, N) of the only global minimizer near a start, as balls."""
        x = stationary(self.gradient, start)
        assert self.certified(x)
        return self.unpack(x)[2]


def plain_squared_minimizer(model, features, labels):
    """W, bias and H^T, flat, by a plain optimizer: squared loss with a free bias."""
    (N, d), K = features.shape, int(labels.max()) + 1
    mu, Y = model.lambda_W * N / K, np.eye(K)[labels]

    def objective(x):
        W, offset, H = x[: K * d].reshape(K, d), x[K * d :][:K], x[K * d + K :].reshape(d, N).T
        E, moved = H @ W.T + offset - Y, H - features
        value = np.sum(E**2) + mu * np.sum(W**2)
        value += model.lambda_H * np.sum(H**2) + model.beta * np.sum(moved**2)
        in_H = E @ W + model.lambda_H * H + model.beta * moved
        gradient = [(E.T @ H + mu * W).ravel(), E.sum(axis=0), in_H.T.ravel()]
        return value / 2, np.concatenate(gradient)

    start = np.concatenate([np.zeros(K * d + K), features.T.ravel()])
    options = {"gtol": 1e-9, "maxiter": 5000}
    return optimize.minimize(objective, start, jac=True, method="BFGS", options=options).x


def deviations(H, labels):
    """Class means (d, K), and the features minus the mean of their class."""
    columns = [H[:, labels == k] for k in range(labels.max() + 1)]
    means = np.stack([c.sum(axis=1) / c.shape[1] for c in columns], axis=1)
    return means, H - means[:, labels]


def nc1_trace(H, labels, weighted=False):
    """tr Sigma_W / tr Sigma_B; weighted: samples and not classes count the same in Sigma_B."""
    means, R = deviations(H, labels)
    counts = np.bincount(labels) if weighted else np.ones(means.shape[1], dtype=int)
    shares = np.array([arb(int(n)) / int(counts.sum()) for n in counts], dtype=object)
    M = means - means.dot(shares)[:, None]
    return ((R * R).sum() / len(labels)) / ((M * M).sum(axis=0) * shares).sum()


def nc1_of_two(H, labels):
    """NC1 for two classes, 2 delta^T Sigma_W delta / |delta|^4 with the difference delta of the
    means.
    """
    means, R = deviations(H, labels)
    delta = means[:, 0] - means[:, 1]
    along = R.T.dot(delta)
    return 2 * (along * along).sum() / len(labels) / (delta * delta).sum() ** 2


def three_classes(beta, bias):
    """Means (4, 1), (3, -4), (1, -1), and two samples at plus and minus .3 in a third direction."""
    means, noise = [(4, 1), (3, -4), (1, -1)], ball("0.3")
    columns = [[arb(a), arb(b), sign * noise] for a, b in means for sign in (1, -1)]
    H0 = np.array(columns, dtype=object).T
    labels = np.repeat(np.arange(3), 2)
    return Instance("0.01", "0.01", beta, H0, labels, "cross-entropy", bias)


@pytest.mark.parametrize(
    ("beta", "low", "high"), [("10", "0.015682", "0.015684"), ("200", "0.015587", "0.015589")]
)
def test_cross_entropy_without_a_bias_raises_the_ratio(beta, low, high):
    instance = three_classes(beta, bias=False)
    before = nc1_trace(instance.H0, instance.labels)
    after = nc1_trace(instance.proved(), instance.labels)
    assert before < ball("0.015578") < ball(low) < after < ball(high)


@pytest.mark.parametrize("beta", ["10", "200"])
def test_with_a_bias_the_same_data_fall(beta):
    instance = three_classes(beta, bias=True)
    after = nc1_trace(instance.proved(), instance.labels)
    assert after < nc1_trace(instance.H0, instance.labels)
    if beta == "10":
        assert ball("0.015558") < after < ball("0.015560")


def test_the_pseudoinverse_metric_can_rise_under_squared_loss():
    """Means (1, 2), (3, 3), Sigma_W = diag(0, .1): NC1 rises although the ratio of traces falls."""
    a = ball("0.1").sqrt()
    H0 = np.array([[arb(x), y + sign * a] for x, y in [(1, 2), (3, 3)] for sign in (1, -1)]).T
    labels = np.array([0, 0, 1, 1])
    instance = Instance("0.01", "0.01", "100", H0, labels, "squared", bias=False)
    H = instance.proved()
    assert nc1_of_two(H0, labels) < ball("0.0080001") < ball("0.008086") < nc1_of_two(H, labels)
    assert nc1_trace(H, labels) < nc1_trace(H0, labels)


def test_unequal_classes_can_raise_the_ratio_under_squared_loss():
    """Three samples around (.2, 0, 0), one at (.5, 0, 0), Sigma_W = .1 on the third axis."""
    a = ball("0.2").sqrt()
    rows = [[ball("0.2"), arb(0), sign * a] for sign in (1, -1, 0)] + [
        [ball("0.5"), arb(0), arb(0)]
    ]
    H0, labels = np.array(rows, dtype=object).T, np.array([0, 0, 0, 1])
    instance = Instance("0.01", "0.01", "150", H0, labels, "squared", bias=False)
    H = instance.proved()
    for weighted in (False, True):
        before, after = (nc1_trace(features, labels, weighted) for features in (H0, H))
        assert after > before * ball("1.05")
    # The same means and covariance with equal classes fall; that is a theorem.
    even = np.array(
        [[ball(x), arb(0), s * a / arb(2).sqrt()] for x in ("0.2", "0.5") for s in (1, -1)]
    ).T
    labels = np.array([0, 0, 1, 1])
    balanced = Instance("0.01", "0.01", "150", even, labels, "squared", bias=False)
    assert nc1_trace(balanced.proved(), labels) < nc1_trace(even, labels)


def test_two_unequal_classes_can_raise_the_ratio_under_cross_entropy():
    """The same four samples: the ratio rises without a bias and falls with one."""
    a = ball("0.2").sqrt()
    rows = [[ball("0.2"), arb(0), sign * a] for sign in (1, -1, 0)]
    H0 = np.array([*rows, [ball("0.5"), arb(0), arb(0)]], dtype=object).T
    labels = np.array([0, 0, 0, 1])
    for bias in (False, True):
        H = Instance("0.01", "0.01", "150", H0, labels, "cross-entropy", bias).proved()
        for weighted in (False, True):
            before, after = (nc1_trace(features, labels, weighted) for features in (H0, H))
            assert after < before if bias else after > before * ball("1.02")


def test_a_bias_repairs_unequal_classes_under_squared_loss():
    """The same four samples with a free bias: the ratio falls, at the only global minimizer."""
    a = ball("0.2").sqrt()
    rows = [[ball("0.2"), arb(0), sign * a] for sign in (1, -1, 0)]
    H0 = np.array([*rows, [ball("0.5"), arb(0), arb(0)]], dtype=object).T
    labels = np.array([0, 0, 0, 1])
    H = Instance("0.01", "0.01", "150", H0, labels, "squared", bias=True).proved()
    for weighted in (False, True):
        assert nc1_trace(H, labels, weighted) < nc1_trace(H0, labels, weighted)


# ---- the tool can say no ------------------------------------------------------------------------


def test_a_box_without_a_zero_is_refused():
    def F(x):
        return np.array([x[0] * x[0] + 1], dtype=object)

    with pytest.raises((AssertionError, ZeroDivisionError)):
        stationary(F, [0.3])


def test_a_double_zero_is_refused():
    def F(x):
        return np.array([x[0] * x[0]], dtype=object)

    with pytest.raises((AssertionError, ZeroDivisionError)):
        stationary(F, [1e-3])


def test_a_simple_zero_is_enclosed():
    def F(x):
        return np.array([x[0] * x[0] - 2, x[1] - x[0].exp()], dtype=object)

    root, power = stationary(F, [1.4, 4.1])
    assert root.contains(arb(2).sqrt()) and power.contains(arb(2).sqrt().exp())
    assert root.rad() < ball("1e-25")


def test_derivatives_are_exact():
    def F(x):
        return np.array([x[0] * x[1] / (x[0] + 1), x[1].exp()], dtype=object)

    J = jacobian(F, balls([1, 0]))
    expected = [[Fraction(0), Fraction(1, 2)], [Fraction(0), Fraction(1)]]
    for row, wanted in zip(J, expected, strict=True):
        for value, exact in zip(row, wanted, strict=True):
            assert value.contains(arb(exact.numerator) / exact.denominator)
            assert value.rad() < ball("1e-30")


def test_an_indefinite_matrix_is_not_definite():
    assert definite(balls([[2, 1], [1, 2]]))
    assert not definite(balls([[1, 2], [2, 1]]))
    assert not definite(balls([[1, 1], [1, 1]]))
