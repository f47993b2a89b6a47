r"""The perturbed features model with cross-entropy: minimizer, response, series, collapse.

.. math::
    f(W, \mathfrak b, H; H_0) = \frac1N\sum_{i=1}^N \ell_{y_i}(Wh_i + \mathfrak b)
        + \frac{\lambda_H}{2N}\|H\|_F^2 + \frac{\beta}{2N}\|H - H_0\|_F^2
        + \frac{\lambda_W}{2K}\|W\|_F^2, \qquad \ell_y(z) = \log\sum_k e^{z_k} - z_y

The bias, if there is one, has no decay. There is no form of this problem in class statistics: the
loss needs every sample.

**The certificate.** Let :math:`E` (K x N) hold the derivatives of the loss at a stationary point
and let :math:`\bar n = N/K`. If

.. math:: \|E\|_{op}^2 \le \bar n\lambda_W(\lambda_H + \beta)

then the point is a global minimizer, the only one if the inequality is strict. For the loss is at
least its tangent, :math:`\sum_i\ell_i(z_i') \ge \sum_i\ell_i(z_i) + \langle E, Z' - Z\rangle`; the
rest, :math:`\langle E, W'H' + \mathfrak b'\mathbf 1^\top\rangle` plus decays and pull, is a
quadratic function of :math:`(W', \mathfrak b', H')` that is stationary at the point, and convex
exactly under the inequality (at a stationary point :math:`E\mathbf 1 = 0`, so that it does not
depend on the bias). Nothing of this needs cross-entropy: a convex differentiable loss is enough.
"""

from dataclasses import dataclass, field
from math import log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from scipy.sparse.linalg import LinearOperator
from threadpoolctl import threadpool_limits

from nclib import _checks
from nclib.beyond.softmax import SoftmaxPoint, SoftmaxProblem, residuals
from nclib.foundations.minimize import GRADIENT_TOLERANCE, Status
from nclib.foundations.model import Collapsed, Model
from nclib.foundations.newton import trust_region_newton
from nclib.foundations.statistics import ClassStatistics
from nclib.perturbation.spectrum import EigenspaceFamily, Spectrum

SLACK = 1e-10  # of the certificate, relative, for rounding
DEGENERATE = (
    "the minimizer must be a strict local minimum to have a first-order response, but the Hessian "
    "of the reduced problem has a direction without positive curvature."
)


class Classifier(NamedTuple):
    """A last layer whose sums over the classes are zero.

    Attributes:
        weights: Shape (K, d).
        bias: Shape (K,).
    """

    weights: np.ndarray
    bias: np.ndarray


class Step(NamedTuple):
    """First-order change of the minimizer.

    Attributes:
        weights: Shape (K, d).
        bias: Shape (K,).
        features: Shape (N, d).
    """

    weights: np.ndarray
    bias: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    r"""A minimizer under cross-entropy, with the features kept as statistics.

    Attributes:
        weights: W, shape (K, d); the rows sum to zero.
        bias: Shape (K,), with sum zero; zeros if there is none.
        statistics: Class statistics of the optimal features.
        objective: The value f.
        gradient_norm: Norm of the gradient in weights and bias relative to the norms of its terms;
            the gradient in the features is zero up to rounding.
        status: What was reached.
        certified: Whether :math:`\|E\|_{op}^2 \le \bar n\lambda_W(\lambda_H+\beta)`, which proves
            that no point has a smaller value.
        lower_bound: A value that no point goes below: the objective itself if certified, else the
            minimum with K - 1 more dimensions (minus infinity if that was not found).
        iterations: Newton steps, all starts together.
        model: The decays and the pull.
        has_bias: Whether the bias was free.
    """

    weights: np.ndarray
    bias: np.ndarray
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    status: Status
    certified: bool
    lower_bound: float
    iterations: int
    model: Model = field(repr=False)
    has_bias: bool = field(repr=False)

    def features(self, features: ArrayLike, labels: ArrayLike) -> np.ndarray:
        r"""Optimal features (N, d) for input features: the h with :math:`bh = \beta h_0 - W^\top
        e`.

        Args:
            features: Input features, shape (N, d).
            labels: Shape (N,).

        Raises:
            ValueError: The shapes or the labels do not fit the weights.
        """
        H0 = _checks.finite("features", _checks.as_features(features).astype(float, copy=False))
        if H0.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"features must have {self.weights.shape[1]} columns like the weights, "
                f"but have {H0.shape[1]}."
            )
        y = _checks.as_labels(labels, len(H0), len(self.weights))
        shrink, inverse_b = self.model.beta / self.model.b, 1 / self.model.b
        contrasts = linalg.helmert(len(self.weights)).T
        W = contrasts.T @ self.weights
        scores = shrink * H0 @ W.T + contrasts.T @ self.bias
        E, _, _ = residuals(scores, inverse_b * W @ W.T, y, contrasts)
        return shrink * H0 - inverse_b * E @ W


class Response(LinearOperator):
    r"""The response F of the optimal features to the input features, :math:`dH = F\,dH_0`.

    .. math::
        F = \beta\,\mathrm{blk}(G_i^{-1})
            + \tfrac\beta{\bar n}\,\mathcal D\mathcal A^{-1}\mathcal D^*,
        \qquad G_i = W^\top\Omega_iW + bI

    with the Hessian :math:`\mathcal A` of the reduced problem and :math:`\mathcal D[X, x]_i =
    -G_i^{-1}(X^\top e_i + W^\top\Omega_i(Xh_i + x))`. Made by `response`. F is symmetric, and
    :math:`F \succeq \beta\,\mathrm{blk}(G_i^{-1})`.
    """

    def __init__(
        self, model: Model, problem: SoftmaxProblem, point: SoftmaxPoint, center: np.ndarray
    ):
        self.model, self.problem, self.point, self._center = model, problem, point, center
        size = point.H.size
        super().__init__(np.dtype(float), (size, size))

    def step(self, d_features: ArrayLike) -> Step:
        """Changes of weights, bias and features when the input features change.

        Args:
            d_features: Shape (N, d).

        Raises:
            ValueError: The shape is not that of the features, an entry is not finite, or the
                minimizer is not a strict local minimum.
        """
        p, point = self.problem, self.point
        d, N = point.H.shape
        Z = p.basis.T @ _checks.as_array("d_features", d_features, (N, d)).T
        # The residuals change at fixed weights and bias, and the gradient with them.
        first = p.shrink * np.einsum("nij,jd,dn->ni", point.L, point.V, Z, optimize=True)
        change = point.of_residual_step(first)
        change[:, :d] += p.shrink * point.E.T @ Z.T / p.n
        X = _solve(point, -change)
        dV, dE = X[:, :d], first + point.residual_step(X)
        dH = p.shrink * Z - p.inverse_b * (dV.T @ point.E.T + point.V.T @ dE.T)
        weights, bias = p.contrasts @ dV @ p.basis.T, np.zeros(len(p.contrasts))
        if p.bias:
            bias = p.contrasts @ X[:, d] - p.shrink * weights @ self._center
        return Step(weights, bias, dH.T @ p.basis.T)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        d, N = self.point.H.shape
        return self.step(x.reshape(N, d)).features.ravel()

    def _adjoint(self) -> "Response":
        return self


def minimize(
    model: Model,
    features: ArrayLike,
    labels: ArrayLike,
    bias: bool = True,
    max_iterations: int = 200,
) -> Solution:
    r"""Minimizer under cross-entropy, from the input features.

    The features are eliminated sample by sample (see `nclib.beyond.softmax`), and weights and bias
    found by a trust-region Newton method with exact products of the Hessian; one costs O(N d K).
    Further starts follow until a minimum is certified, and the lowest one comes back.

    Args:
        model: The decays and the pull; lambda_H + beta must be positive.
        features: Input features, shape (N, d).
        labels: Shape (N,), integers in 0..K-1 with K at least 2, each of which occurs.
        bias: Whether the last layer has a bias, which then has no decay.
        max_iterations: Bound on the Newton steps of each start.

    Returns:
        A Solution; look at ``status`` and ``certified``.

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: lambda_H + beta = 0, where no minimizer exists; K < 2; or shapes, labels or
            entries are wrong.

    Examples:
        >>> features, labels = np.array([[1.0, 0.2], [-0.8, 0.1], [0.9, -0.3]]), np.array([0, 1, 0])
        >>> solution = minimize(Model(0.1, 0.1, 1.0), features, labels)
        >>> solution.certified, bool(solution.gradient_norm < 1e-12)
        (True, True)
    """
    _checks.instance("model", model, Model)
    if model.b == 0:
        raise ValueError(
            "lambda_H + beta must be greater than zero, but lambda_H = beta = 0 leaves the "
            "features without a minimizer."
        )
    H0, y = _checked(features, labels)
    # The batches are of small matrices: more than one BLAS thread costs more than it gives.
    with threadpool_limits(1, user_api="blas"):
        problem = SoftmaxProblem.of(model, H0, y, bias)
        point, lower_bound, iterations = _search(problem, max_iterations)
    K = len(problem.contrasts)
    weights, offset = _outside(problem, point.W, H0)
    H = point.H.T @ problem.basis.T
    if bias:
        H += problem.shrink * H0.mean(axis=0)
    converged = point.gradient_norm <= GRADIENT_TOLERANCE
    return Solution(
        weights,
        offset,
        ClassStatistics.from_features(H, y),
        point.value / K,
        point.gradient_norm,
        Status.CONVERGED if converged else Status.NOT_CONVERGED,
        _is_certified(point),
        lower_bound / K,
        iterations,
        model,
        bias,
    )


def optimal_weights(
    model: Model, features: ArrayLike, labels: ArrayLike, bias: bool = True
) -> Classifier:
    r"""Weights and bias that minimize f for fixed features: regularized multinomial regression.

    .. math::
        \min_{W, \mathfrak b}\ \sum_i\ell_{y_i}(Wh_i + \mathfrak b)
            + \frac{\bar n\lambda_W}2\|W\|_F^2

    Args:
        model: Its lambda_W is used.
        features: Shape (N, d).
        labels: Shape (N,), integers in 0..K-1 with K at least 2, each of which occurs.
        bias: Whether there is a bias.

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: K < 2, or shapes, labels or entries are wrong.

    Examples:
        >>> features, labels = np.array([[1.0], [-1.0]]), np.array([0, 1])
        >>> optimal_weights(Model(0.1, 0.1), features, labels).weights.round(3)
        array([[ 1.323],
               [-1.323]])
    """
    _checks.instance("model", model, Model)
    H, y = _checked(features, labels)
    problem = SoftmaxProblem.of(model, H, y, bias, fixed=True)
    point = _regression(problem)
    return Classifier(*_outside(problem, point.W, H))


def response(solution: Solution, features: ArrayLike, labels: ArrayLike) -> Response:
    """First-order response of a minimizer to its input features, as a SciPy operator.

    ``F @ d_features.ravel()`` is the change of the features; ``F.step(d_features)`` that of
    weights, bias and features. One product solves one system with the Hessian of the reduced
    problem by conjugate gradients.

    Args:
        solution: What `minimize` returned for these features.
        features: Input features, shape (N, d).
        labels: Shape (N,).

    Raises:
        ValueError: Shapes or labels are wrong, or the solution is not a minimizer for these
            features.

    Examples:
        >>> features, labels = np.array([[1.0, 0.2], [-0.8, 0.1], [0.9, -0.3]]), np.array([0, 1, 0])
        >>> F = response(minimize(Model(0.1, 0.1, 1.0), features, labels), features, labels)
        >>> F.shape
        (6, 6)
    """
    H0, y = _checked(features, labels)
    weights = _checks.as_array("weights", solution.weights, (int(y.max()) + 1, H0.shape[1]))
    problem = SoftmaxProblem.of(solution.model, H0, y, solution.has_bias)
    center = H0.mean(axis=0)
    point = problem.at(problem.inside(weights, solution.bias, center))
    if not point.gradient_norm < 1e-8:
        raise ValueError(
            "the solution must be a minimizer for these features, but the relative gradient norm "
            f"is {point.gradient_norm:.2g}."
        )
    return Response(solution.model, problem, point, center)


def series(model: Model, features: ArrayLike, labels: ArrayLike, bias: bool = True) -> np.ndarray:
    r"""The minimizer to second order in 1/beta, as coefficients (3, N, d) of the powers of 1/beta.

    .. math::
        H = H_0 - \tfrac1\beta g + \tfrac1{\beta^2}g'[g] + O(\beta^{-3}), \qquad
        g(H)_i = W^\top e_i + \lambda_Hh_i

    with weights and bias optimal for H. Their change along Z solves the Hessian of multinomial
    regression,

    .. math::
        g'[Z]_i = W^\top de_i + dW^\top e_i + \lambda_Hz_i, \qquad
        de_i = \Omega_i(Wz_i + dW\,h_i + d\mathfrak b) .

    Args:
        model: The decays; beta is not used.
        features: Input features, shape (N, d).
        labels: Shape (N,), integers in 0..K-1 with K at least 2, each of which occurs.
        bias: Whether there is a bias.

    Raises:
        TypeError: The features are not real or the labels not integers.
        ValueError: K < 2, or shapes, labels or entries are wrong.

    Examples:
        >>> features, labels = np.array([[1.0], [-1.0]]), np.array([0, 1])
        >>> series(Model(0.1, 0.1), features, labels)[1].round(3)
        array([[ 0.075],
               [-0.075]])
    """
    _checks.instance("model", model, Model)
    H0, y = _checked(features, labels)
    problem = SoftmaxProblem.of(model, H0, y, bias, fixed=True)
    point = _regression(problem)
    d = H0.shape[1]
    center = H0.mean(axis=0) if bias else np.zeros(d)
    common = problem.basis.T @ center[:, None]
    g = point.V.T @ point.E.T + model.lambda_H * (problem.X + common)
    first = np.einsum("nij,jd,dn->ni", point.L, point.V, g, optimize=True)
    change = point.of_residual_step(first)
    change[:, :d] += point.E.T @ g.T / problem.n
    X = _solve(point, -change)
    dE = first + point.residual_step(X)
    second = point.V.T @ dE.T + X[:, :d].T @ point.E.T + model.lambda_H * g
    return np.stack([H0, -(problem.basis @ g).T, (problem.basis @ second).T])


def collapsed(model: Model, K: int, d: int, frame: ArrayLike | None = None) -> Collapsed:
    r"""A minimizer without pull, for K balanced classes; the bias, if there is one, is zero.

    .. math::
        W = \omega V^\top, \quad \bar H = \sqrt\rho\,V, \quad
        V^\top V = I - \tfrac1K\mathbf 1\mathbf 1^\top,
        \omega^2 = x\sqrt{\lambda_H/\lambda_W}, \quad
        \rho = x\sqrt{\lambda_W/\lambda_H}, \quad x = \log\Bigl(1 + K\tfrac{1-c}c\Bigr)

    All scores are x times a simplex. The other classes then have the probability c/K each, and
    the residual is :math:`E = -c\,V^\top V Y`, which makes both gradients zero and meets the
    certificate with equality.

    Args:
        model: Positive lambda_H and c < 1.
        K: Number of classes, at least 2.
        d: Dimension of the features, at least K - 1.
        frame: Orthonormal directions that V lies in, shape (d, K - 1); the first axes if not given.

    Raises:
        TypeError: K or d is not an integer.
        ValueError: K < 2, d < K - 1, c >= 1, lambda_H = 0, or the frame is not orthonormal.

    Examples:
        >>> collapsed(Model(0.1, 0.1), 2, 1).weights.round(3)
        array([[ 1.213],
               [-1.213]])
    """
    x = _scores(model, K)
    if _checks.positive_integer("d", d) < K - 1:
        raise ValueError(f"d must be at least K - 1 = {K - 1}, but d = {d}.")
    Q = np.eye(d, K - 1) if frame is None else _checks.as_frame(frame, K - 1, d)
    V = Q @ linalg.helmert(K)
    return Collapsed(sqrt(x * model.kappa) * V.T, sqrt(x / model.kappa) * V)


def spectrum(model: Model, K: int, d: int, n: int, bias: bool = True) -> Spectrum:
    r"""Spectrum of the response at a collapsed minimizer: complete, and exact for every beta > 0.

    With x as in `collapsed` and :math:`p = 1 - \tfrac{K-1}Kc`, the probability of the right class,
    every eigenvalue is :math:`\beta/(\beta + \lambda_Ht)`:

    - ``within_own``: :math:`t = 1 + xp`, deviations along the mean of the own class;
    - ``within_others``: :math:`t = 1 + x/K`, in the span of the means, orthogonal to the own one;
    - ``within_complement``: t = 1, orthogonal to all means;
    - ``size``: :math:`t = \tfrac{4xp}{1+xp}`, all means longer;
    - ``shape``: :math:`t = \tfrac{4x}{K+x}`, symmetric changes of the simplex that leave the
      lengths;
    - ``lengths``, with a bias: :math:`t = \tfrac{4x\eta}{1+x\eta}`,
      :math:`\eta = \tfrac1K + \tfrac{(1-c)(1-2/K)}{2-c}`, one mean longer than another;
    - ``shift``, with a bias: t = 1, all features by the same vector;
    - ``lengths_slow`` and ``lengths_fast``, without a bias: these changes, and a shift in the span
      of the means with them, as the two eigenvalues of a matrix; ``shift``: a shift orthogonal to
      it;
    - ``rotation``: t = 0.

    The means change by :math:`V\!A + PB`. The group of permutations of the classes splits A into
    the spaces above; in each of them the loss has one curvature, and the change of the weights is
    eliminated from one scalar equation.

    Args:
        model: All three positive, with c < 1.
        K: Number of classes, at least 2.
        d: Dimension of the features, at least K - 1.
        n: Samples per class.
        bias: Whether there is a bias.

    Raises:
        TypeError: K, d or n is not an integer.
        ValueError: beta or lambda_H is zero, c >= 1, K < 2, d < K - 1 or n < 1.

    Examples:
        >>> [(s.name, s.multiplicity) for s in spectrum(Model(0.1, 0.1, 1.0), 3, 2, 1)][3:]
        [('size', 1), ('shape', 0), ('lengths', 2), ('shift', 2), ('rotation', 1)]
    """
    x, c = _scores(model, K), model.c
    beta = _checks.positive("beta", model.beta)
    if _checks.positive_integer("d", d) < K - 1:
        raise ValueError(f"d must be at least K - 1 = {K - 1}, but d = {d}.")
    within = K * (_checks.positive_integer("n", n) - 1)
    p, off = 1 - (K - 1) * c / K, d - K + 1
    rows = [
        ("within_own", 1 + x * p, within, "within a class, along its mean"),
        ("within_others", 1 + x / K, within * (K - 2), "within a class, along the other means"),
        ("within_complement", 1.0, within * off, "within a class, orthogonal to the means"),
        ("size", 4 * x * p / (1 + x * p), 1, "all means longer"),
        ("shape", 4 * x / (K + x), max(K * (K - 3) // 2, 0), "angles between the means"),
    ]
    tilts = (K - 1) * (K - 2) // 2 + (K - 1) * off
    if bias:
        eta = 1 / K + (1 - c) * (1 - 2 / K) / (2 - c)
        lengths = 4 * x * eta / (1 + x * eta)
        rows += [
            ("lengths", lengths, K - 1 if K > 2 else 0, "one mean longer than another"),
            ("shift", 1.0, d, "all features by one vector"),
        ]
    elif K == 2:
        rows += [
            ("shift_inside", 1 + x * p, 1, "all features by one vector along the means"),
            ("shift", 1.0, off, "all features by one vector orthogonal to the means"),
        ]
    else:
        slow, fast = _lengths_and_shift(x, c, K)
        rows += [
            ("lengths_slow", slow, K - 1, "one mean longer than another, with a shift"),
            ("lengths_fast", fast, K - 1, "a shift along the means, with their lengths"),
            ("shift", 1.0, off, "all features by one vector orthogonal to the means"),
        ]
    rows.append(("rotation", 0.0, tilts, "rotations of the simplex"))
    return Spectrum(
        tuple(
            EigenspaceFamily(
                name, np.array(beta / (beta + model.lambda_H * t)), multiplicity, description
            )
            for name, t, multiplicity, description in rows
        )
    )


def _scores(model: Model, K: int) -> float:
    """x, by which the right score of a collapsed minimizer exceeds the others."""
    if _checks.positive_integer("K", K) < 2:
        raise ValueError("K must be at least 2, but K = 1.")
    _checks.positive("lambda_H", model.lambda_H)
    _checks.collapses(model.c)
    return log(1 + K * (1 - model.c) / model.c)


def _lengths_and_shift(x: float, c: float, K: int) -> tuple[float, float]:
    """The two values t, in ascending order, that lengths and shifts have without a bias.

    On changes of the means A = u 1 a^T + v Pi diag(a) Pi, with a orthogonal to the ones vector, the
    Hessian acts on (u, v) as this matrix.
    """
    share = 1 - 2 / K
    eta = 1 / K + (1 - c) * share
    delta = 1 + x * eta
    m = np.array(
        [
            [
                1 + x / K * (2 - c) - x**2 / K * (1 - c) ** 2 * share / delta,
                2 * x / K * (1 - c) * share / delta,
            ],
            [2 * x * (1 - c) / delta, 4 * x * eta / delta],
        ]
    )
    slow, fast = sorted(float(t) for t in np.linalg.eigvals(m).real)
    return slow, fast


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    H0 = _checks.finite("features", _checks.as_features(features).astype(float, copy=False))
    y = _checks.as_labels(labels, len(H0))
    if y.max() == 0:
        raise ValueError("labels must name at least two classes, but there is only one.")
    return H0, y


def _outside(problem: SoftmaxProblem, W: np.ndarray, H0: np.ndarray) -> Classifier:
    """Weights and bias in the original coordinates."""
    d = H0.shape[1]
    weights = problem.contrasts @ W[:, :d] @ problem.basis.T
    if not problem.bias:
        return Classifier(weights, np.zeros(len(weights)))
    bias = problem.contrasts @ W[:, d] - problem.shrink * (weights @ H0.mean(axis=0))
    return Classifier(weights, bias)


def _is_certified(point: SoftmaxPoint, slack: float = SLACK) -> bool:
    bound = point.problem.lambda_W / point.problem.inverse_b
    return point.gradient_norm <= GRADIENT_TOLERANCE and point.certificate >= -slack * bound


def _search(problem: SoftmaxProblem, max_iterations: int) -> tuple[SoftmaxPoint, float, int]:
    """The lowest minimum found, a lower bound on all of them, and the Newton steps taken."""
    zero = np.zeros((problem.contrasts.shape[1], len(problem.X) + problem.bias))
    start = min(zero, _frame(problem), key=lambda W: problem.at(W).value)
    best, used = trust_region_newton(problem, start, max_iterations=max_iterations)
    if _is_certified(best):
        return best, best.value, used
    d, columns = len(problem.X), _breaking(best)
    free, more = trust_region_newton(
        problem.padded(),
        np.hstack([best.V, columns, best.W[:, d:]]),
        GRADIENT_TOLERANCE / 2,
        max_iterations,
    )
    used += more
    lower_bound = free.value if _is_certified(free, slack=1e-6) else -np.inf
    for start in _starts(best, free, columns):
        point, more = trust_region_newton(problem, start, max_iterations=max_iterations)
        best, used = min(best, point, key=lambda candidate: candidate.value), used + more
        if _is_certified(best):
            return best, best.value, used
    return best, lower_bound, used


def _frame(problem: SoftmaxProblem) -> np.ndarray:
    """Weights of a collapsed minimizer, turned towards the class means of the input."""
    counts = np.bincount(problem.labels)
    sums = np.stack([np.bincount(problem.labels, weights=x) for x in problem.X])
    U, _, VT = linalg.svd(problem.contrasts.T @ (sums / counts).T, full_matrices=False)
    c = sqrt(problem.lambda_W * problem.decay)
    x = log(1 + len(counts) * (1 - c) / c) if 0 < c < 1 else 1.0
    size = sqrt(x * sqrt(problem.decay / problem.lambda_W)) if problem.decay else sqrt(x)
    return np.hstack([size * U @ VT, np.zeros((len(U), int(problem.bias)))])


def _breaking(point: SoftmaxPoint) -> np.ndarray:
    """Weights (K - 1, K - 1) for new dimensions, largest along what breaks the certificate.

    With p a dimension in which input, features and weights are zero and u an eigenvector of J, the
    step (u p^T, p v^T) changes the value by a form that is negative for some v exactly if the
    eigenvalue is above lambda_W b: with K - 1 such dimensions every local minimum is global.
    """
    p = point.problem
    excess, U = linalg.eigh(point.residual * (p.inverse_b / p.lambda_W))
    size = float(np.linalg.norm(point.V)) + sqrt(p.lambda_W / p.inverse_b)
    push = min(0.1 * size, 1.0)
    return (U * np.where(excess > 1, push, 1e-3 * push))[:, ::-1]


def _starts(best: SoftmaxPoint, free: SoftmaxPoint, columns: np.ndarray) -> list[np.ndarray]:
    """Further starts: what the padded minimum leaves, and two that leave saddles."""
    d, K1 = len(best.problem.X), len(columns)
    m = min(K1, d)
    inner = np.hstack([free.W[:, :d], free.W[:, d + K1 :]])
    left, sizes, _ = linalg.svd(free.W[:, d : d + K1])
    # The basis has the dimensions with the least of the input first: dead units are there.
    folded = inner.copy()
    folded[:, :m] += (left * sizes)[:, :m]
    pushed = best.W.copy()
    pushed[:, :m] += columns[:, :m]
    return [inner, folded, pushed]


def _regression(problem: SoftmaxProblem) -> SoftmaxPoint:
    """Minimum of the convex problem with fixed features."""
    start = np.zeros((problem.contrasts.shape[1], len(problem.X) + problem.bias))
    with threadpool_limits(1, user_api="blas"):
        point, _ = trust_region_newton(problem, start)
    return point


def _solve(point: SoftmaxPoint, R: np.ndarray) -> np.ndarray:
    """The X with Hessian X = R, by conjugate gradients with refinement.

    Raises:
        ValueError: The Hessian is not positive definite, or too nearly singular.
    """
    X, size = np.zeros_like(R), np.linalg.norm(R)
    for _ in range(4):
        rest = R - point.hessian(X)
        if np.linalg.norm(rest) <= 1e-14 * size:
            return X
        X = X + _conjugate_gradients(point, rest)
    if np.linalg.norm(R - point.hessian(X)) <= 1e-11 * size:
        return X
    raise ValueError(DEGENERATE)


def _conjugate_gradients(point: SoftmaxPoint, R: np.ndarray) -> np.ndarray:
    """Preconditioned conjugate gradients from zero, to a relative residual of 1e-13 at best."""
    X, r = np.zeros_like(R), R.copy()
    z = point.precondition(r)
    p, rz = z, np.vdot(r, z)
    for _ in range(20 * R.size + 100):
        Ap = point.hessian(p)
        curvature = np.vdot(p, Ap)
        if curvature <= 0:
            raise ValueError(DEGENERATE)
        X, r = X + rz / curvature * p, r - rz / curvature * Ap
        if np.linalg.norm(r) <= 1e-13 * np.linalg.norm(R):
            break
        z = point.precondition(r)
        rz, previous = np.vdot(r, z), rz
        p = z + rz / previous * p
    return X
