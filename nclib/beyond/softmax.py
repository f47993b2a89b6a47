r"""The reduced problem of cross-entropy: the features eliminated, a function of weights and bias.

For given weights the features of sample i minimize a strictly convex function. With the residual
:math:`e = p - \mathbf 1_y`, p the probabilities of the classes, and :math:`b = \lambda_H + \beta`,

.. math::
    bh = \beta h_0 - W^\top e, \qquad
    e = \nabla\ell_y\bigl(\tfrac\beta b Wh_0 + \mathfrak b - Se\bigr), \qquad S = \tfrac1b WW^\top :

K numbers a sample, found by Newton's method. What is left, :math:`\varphi = K \min_H f`, has with
:math:`\bar n = N/K` the gradient

.. math::
    \bar n\,\nabla_W\varphi = EH^\top + \bar n\lambda_W W, \qquad
    \bar n\,\nabla_{\mathfrak b}\varphi = E\mathbf 1 .

If weights and bias move by V and v, then :math:`de_i = L_i(Vh_i + v - \tfrac1b WV^\top e_i)` with
:math:`L_i = (I + \Omega_i S)^{-1}\Omega_i`, :math:`\Omega_i = \operatorname{diag}(p_i) -
p_ip_i^\top`, and the second derivative is

.. math::
    \bar n\,\nabla^2\varphi[V, v] = \Bigl(dE\,H^\top - \tfrac1b\bigl(EE^\top V + E\,dE^\top W\bigr)
    + \bar n\lambda_W V,\ \ dE\,\mathbf 1\Bigr) .

Three reductions. (i) The loss does not see what all classes have in common, so the decay removes it
from the weights: :math:`\mathbf 1^\top W = 0`. We work in an orthonormal basis of the complement of
the ones vector, with K - 1 rows. (ii) With a free bias, shifting all input features by m shifts the
optimal features by :math:`\tfrac\beta b m` and changes nothing else but the bias, so that the input
is centered first. (iii) In the limit of an infinite pull the features stay where they are, S = 0,
and the same formulas are those of multinomial regression.

Notation: Y, E, L and the scores have one row per sample and K - 1 columns; X and H are d x N, in
the eigenbasis of the second moment of the input features; weights are (K - 1) x d, and with a bias
that has a column of its own at the end.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from nclib.foundations.model import Model

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class SoftmaxProblem:
    """Cross-entropy for one model and one set of input features, features eliminated.

    Attributes:
        X: Input features, shape (d, N), in the basis below and centered if there is a bias.
        labels: Shape (N,).
        contrasts: Orthonormal basis of the complement of the ones vector, shape (K, K - 1).
        basis: Orthogonal, shape (d, d): weights in the original basis are
            ``contrasts @ weights @ basis.T``.
        bias: Whether there is one.
        lambda_W: Weight decay of the last layer.
        decay: Weight decay of the features.
        pull: Strength of the pull.
        shrink: beta / b.
        inverse_b: 1 / b; zero for an infinite pull.
        constant: What centering took from the value.
    """

    X: np.ndarray
    labels: np.ndarray
    contrasts: np.ndarray
    basis: np.ndarray
    bias: bool
    lambda_W: float
    decay: float
    pull: float
    shrink: float
    inverse_b: float
    constant: float

    @classmethod
    def of(
        cls, model: Model, features: np.ndarray, labels: np.ndarray, bias: bool, fixed: bool = False
    ) -> "SoftmaxProblem":
        """The problem for checked features (N, d) and labels (N,); fixed: with an infinite pull."""
        K = int(labels.max()) + 1
        X = features.T
        constant = 0.0
        if bias:
            center = X.mean(axis=1, keepdims=True)
            X = X - center
            if not fixed:
                factor = model.beta * (model.lambda_H / model.b) / 2
                constant = K * factor * float(np.sum(center**2))
        _, basis = linalg.eigh(X @ X.T, driver="evd")
        return cls(
            np.ascontiguousarray(basis.T @ X),
            labels,
            linalg.helmert(K).T,
            basis,
            bias,
            model.lambda_W,
            0.0 if fixed else model.lambda_H,
            0.0 if fixed else model.beta,
            1.0 if fixed else model.beta / model.b,
            0.0 if fixed else 1 / model.b,
            constant,
        )

    @property
    def n(self) -> float:
        """Mean number of samples in a class."""
        return len(self.labels) / len(self.contrasts)

    def padded(self) -> "SoftmaxProblem":
        """The problem with K - 1 more dimensions, at the end, in which all inputs are zero."""
        more = len(self.contrasts) - 1
        return SoftmaxProblem(
            np.vstack([self.X, np.zeros((more, self.X.shape[1]))]),
            self.labels,
            self.contrasts,
            linalg.block_diag(self.basis, np.eye(more)),
            self.bias,
            self.lambda_W,
            self.decay,
            self.pull,
            self.shrink,
            self.inverse_b,
            self.constant,
        )

    def inside(self, weights: np.ndarray, bias: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Weights (K, d) and bias (K,) in the coordinates of this problem.

        The bias is the one for input features shifted by the center (d,).
        """
        W = self.contrasts.T @ weights @ self.basis
        if not self.bias:
            return W
        shifted = bias + self.shrink * (weights @ center)
        return np.column_stack([W, self.contrasts.T @ shifted])

    def at(self, W: np.ndarray) -> "SoftmaxPoint":
        """Everything about weights W in these coordinates."""
        return SoftmaxPoint(self, W)


class SoftmaxPoint:
    """The reduced objective at one W: value, gradient, products with the Hessian, residuals."""

    def __init__(self, problem: SoftmaxProblem, W: np.ndarray, start: np.ndarray | None = None):
        self.problem, self.W = problem, W
        p, d = problem, problem.X.shape[0]
        self.V, v = W[:, :d], W[:, d:]
        S = p.inverse_b * self.V @ self.V.T
        scores = p.shrink * (self.V @ p.X).T + v.sum(axis=1)
        self.E, self.losses, self.L = residuals(scores, S, p.labels, p.contrasts, start)
        self.push = self.V.T @ self.E.T
        self.H = p.shrink * p.X - p.inverse_b * self.push

    def moved(self, step: np.ndarray) -> "SoftmaxPoint":
        """The point W + step; the search for its residuals starts from those here."""
        return SoftmaxPoint(self.problem, self.W + step, self.E)

    @cached_property
    def value(self) -> float:
        """K f, each of its terms positive, so that nothing cancels."""
        p = self.problem
        terms = float(np.sum(self.losses)) + p.decay / 2 * float(np.vdot(self.H, self.H))
        if p.pull:
            moved = p.decay * p.X + self.push
            terms += p.pull * p.inverse_b**2 / 2 * float(np.vdot(moved, moved))
        return terms / p.n + p.lambda_W / 2 * float(np.sum(self.V**2)) + p.constant

    @cached_property
    def _moment(self) -> np.ndarray:
        """E H^T / n."""
        return self.E.T @ self.H.T / self.problem.n

    @cached_property
    def gradient(self) -> np.ndarray:
        """Gradient, of the shape of W."""
        p = self.problem
        G = self._moment + p.lambda_W * self.V
        return np.column_stack([G, self.E.sum(axis=0) / p.n]) if p.bias else G

    @cached_property
    def gradient_norm(self) -> float:
        """Norm of the gradient relative to the sum of the norms of its terms, sample by sample."""
        p, d = self.problem, len(self.H)
        size = np.linalg.norm(self.E, axis=1)
        terms = size @ np.linalg.norm(self.H, axis=0) / p.n + p.lambda_W * np.linalg.norm(self.V)
        relative = np.linalg.norm(self.gradient[:, :d]) / max(terms, np.sqrt(p.lambda_W) * EPS)
        if p.bias:
            relative += np.linalg.norm(self.gradient[:, d:]) * p.n / np.sum(size)
        return float(relative)

    @cached_property
    def residual(self) -> np.ndarray:
        """J = E E^T / n, (K - 1, K - 1)."""
        return self.E.T @ self.E / self.problem.n

    @property
    def certificate(self) -> float:
        """Slack of J <= lambda_W b; not negative at a stationary point: a global minimizer."""
        p = self.problem
        largest = float(linalg.eigvalsh(self.residual)[-1])
        return p.lambda_W / p.inverse_b - largest if p.inverse_b else np.inf

    def residual_step(self, X: np.ndarray) -> np.ndarray:
        """Change dE of the residuals, (N, K - 1), when W moves by X."""
        p, d = self.problem, len(self.H)
        U = (X[:, :d] @ self.H).T + X[:, d:].sum(axis=1)
        U -= p.inverse_b * self.E @ (X[:, :d] @ self.V.T)
        return np.einsum("nij,nj->ni", self.L, U)

    def of_residual_step(self, dE: np.ndarray) -> np.ndarray:
        """What a change dE of the residuals, features following, does to the gradient."""
        p = self.problem
        G = (dE.T @ self.H.T - p.inverse_b * (self.E.T @ dE) @ self.V) / p.n
        return np.column_stack([G, dE.sum(axis=0) / p.n]) if p.bias else G

    def hessian(self, X: np.ndarray) -> np.ndarray:
        """Product of the Hessian with X, at any W, stationary or not."""
        p, d = self.problem, len(self.H)
        G = self.of_residual_step(self.residual_step(X))
        G[:, :d] += p.lambda_W * X[:, :d] - p.inverse_b * (self.residual @ X[:, :d])
        return G

    @cached_property
    def _pencil(self) -> tuple[np.ndarray, np.ndarray]:
        """C with C^T L C = I, C^T (lambda_W I - J/b) C diagonal, and the inverted diagonal.

        L is the mean of the L_i, and the second moment of the features, weighted with tr L_i, is
        replaced by its diagonal.
        """
        p, K1 = self.problem, len(self.V)
        traces = np.einsum("nii->n", self.L)
        mean = self.L.mean(axis=0) + 1e-3 * traces.mean() / K1 * np.eye(K1) + 1e-300 * np.eye(K1)
        slack = p.lambda_W * np.eye(K1) - p.inverse_b * self.residual
        e, C = linalg.eigh(slack, mean)
        share = traces / max(traces.mean(), 1e-300)
        second = np.einsum("ji,ji,i->j", self.H, self.H, share) / p.n
        if p.bias:
            second = np.append(second, float(len(self.problem.contrasts)))
        scale = np.abs(e[:, None] + second)
        if p.bias:
            scale[:, -1] = second[-1]
        return C, 1 / np.maximum(scale, 1e-6 * scale.max())

    def precondition(self, R: np.ndarray) -> np.ndarray:
        """Approximate solution of a system with the Hessian."""
        C, inverse = self._pencil
        return C @ ((C.T @ R) * inverse)


def residuals(
    scores: np.ndarray,
    S: np.ndarray,
    labels: np.ndarray,
    contrasts: np.ndarray,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Residuals of samples whose features are optimal, by a damped Newton method in each sample.

    .. math::
        e = \nabla\ell_y(z), \quad z = z_0 - Se; \qquad
        \text{equivalently}\quad \min_e\ \ell_y(z_0 - Se) + \tfrac12 e^\top Se,

    of which the second is convex. The Newton step is :math:`(I + \Omega S)^{-1}(\nabla\ell - e)`;
    it is halved until the value falls.

    Args:
        scores: z_0, shape (N, K - 1), in the basis of the contrasts.
        S: Shape (K - 1, K - 1), positive semidefinite.
        labels: Shape (N,).
        contrasts: Shape (K, K - 1).
        start: Residuals to start from, shape (N, K - 1); zero if not given.

    Returns:
        The residuals (N, K - 1), the losses (N,), and L = (I + Omega S)^{-1} Omega.

    Examples:
        >>> contrasts = linalg.helmert(2).T
        >>> E, losses, _ = residuals(np.zeros((1, 1)), np.eye(1), np.array([0]), contrasts)
        >>> (contrasts @ E[0]).round(4), losses.round(4)
        (array([-0.3374,  0.3374]), array([0.4116]))
    """
    samples = _Samples(scores, S, labels, contrasts)
    E = np.zeros_like(scores) if start is None else start.copy()
    g, loss, z = samples.evaluate(slice(None), E)
    identity, active = np.eye(len(S)), np.arange(len(scores))
    for _ in range(60):
        r = g[active] - E[active]
        size = np.linalg.norm(scores[active], axis=1) + np.linalg.norm(z[active], axis=1)
        tolerance = 4 * EPS * (4 + size) * np.linalg.norm(g[active], axis=1)
        active = active[np.linalg.norm(r, axis=1) > tolerance]
        if not active.size:
            break
        r = g[active] - E[active]
        system = identity + curvature(g[active], labels[active], contrasts) @ S
        step = np.linalg.solve(system, r[:, :, None])[:, :, 0]
        value = samples.value(loss[active], E[active])
        least = 1e-4 * np.einsum("ni,ni->n", r @ S, step)
        # Halve the step where the value does not fall; what is left to try gets fewer.
        trying, t, start_values = active, 1.0, E[active]
        for _ in range(40):
            E[trying] = start_values + t * step
            g[trying], loss[trying], z[trying] = samples.evaluate(trying, E[trying])
            new = samples.value(loss[trying], E[trying])
            worse = new > value - t * least + 8 * EPS * (1 + np.abs(value))
            if not worse.any():
                break
            trying, step, value, least, start_values = (
                x[worse] for x in (trying, step, value, least, start_values)
            )
            t /= 2
    Omega = curvature(E, labels, contrasts)
    L = np.linalg.solve(identity + Omega @ S, Omega)
    return E, loss, (L + L.transpose(0, 2, 1)) / 2


class _Samples:
    """The convex functions of the residuals, one for each sample."""

    def __init__(
        self, scores: np.ndarray, S: np.ndarray, labels: np.ndarray, contrasts: np.ndarray
    ):
        self.scores, self.S, self.labels, self.contrasts = scores, S, labels, contrasts

    def evaluate(
        self, which: np.ndarray | slice, e: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient of the loss, loss and scores z for residuals e of some samples."""
        z = self.scores[which] - e @ self.S
        return *loss_gradient(z, self.labels[which], self.contrasts), z

    def value(self, loss: np.ndarray, e: np.ndarray) -> np.ndarray:
        """The convex function, given the loss in it."""
        return loss + np.einsum("ni,ni->n", e @ self.S, e) / 2


def loss_gradient(
    z: np.ndarray, labels: np.ndarray, contrasts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient e (N, K - 1) and value (N,) of the loss at scores z (N, K - 1).

    Of a sample that is nearly fitted both are small; they keep their relative accuracy.

    Examples:
        >>> scores, contrasts = np.array([[0.0, -60.0]]), linalg.helmert(2).T
        >>> e, loss = loss_gradient(scores @ contrasts, np.array([0]), contrasts)
        >>> bool(np.isclose(loss[0], np.exp(-60), rtol=1e-13, atol=0))
        True
    """
    scores, rows = z @ contrasts.T, np.arange(len(z))
    top = scores.max(axis=1)
    ex = np.exp(scores - top[:, None])
    own = ex[rows, labels]
    ex[rows, labels] = 0
    others = ex.sum(axis=1)
    total = own + others
    ex[rows, labels] = -others
    fitted = scores[rows, labels] == top
    loss = np.where(fitted, np.log1p(others), np.log(total) + top - scores[rows, labels])
    return (ex / total[:, None]) @ contrasts, loss


def curvature(e: np.ndarray, labels: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    r"""Second derivative of the loss, (N, K - 1, K - 1), from its gradient.

    .. math::
        \operatorname{diag}(p) - pp^\top = \operatorname{diag}(e) - \mathbf 1_ye^\top
            - e\mathbf 1_y^\top - ee^\top ,

    which is small with e, without a difference of large numbers.

    Examples:
        >>> contrasts = linalg.helmert(2).T
        >>> e, _ = loss_gradient(np.zeros((1, 1)), np.array([0]), contrasts)
        >>> (contrasts @ curvature(e, np.array([0]), contrasts)[0] @ contrasts.T).round(3)
        array([[ 0.25, -0.25],
               [-0.25,  0.25]])
    """
    K, K1 = contrasts.shape
    squares = (contrasts[:, :, None] * contrasts[:, None, :]).reshape(K, K1 * K1)
    half = (contrasts[labels] + e / 2)[:, :, None] * e[:, None, :]
    diagonal = ((e @ contrasts.T) @ squares).reshape(-1, K1, K1)
    return diagonal - half - half.transpose(0, 2, 1)
