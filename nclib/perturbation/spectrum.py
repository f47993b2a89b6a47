r"""Every eigenvalue of the response F at a collapsed base point, for every beta (Theorem 4.2 is the large-beta limit).

Let the input features be exactly collapsed, :math:`H_0 = \bar H_0 \otimes 1_n^\top` with
:math:`\bar H_0 = Q\,\mathrm{diag}(a)\,O^\top`, Q (d x K) with orthonormal columns. The minimizer has the same axes,
:math:`\bar H = Q\,\mathrm{diag}(h)\,O^\top` and :math:`W = O\,\mathrm{diag}(w)\,Q^\top`, and in these axes F splits
into scalars and symmetric 2 x 2 matrices. At :math:`a_i = \sqrt\rho` the input is a minimizer of Eq. 1 and stays put.

Features change by the class means, :math:`(QA + PB) \otimes 1_n^\top` with P spanning the complement of Q, and by
deviations with mean zero in each class."""

from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize

from nclib._checks import as_array, positive, positive_integer
from nclib.foundations.model import Model
from nclib.perturbation.contraction import Contraction, contraction


class Eigenspace(NamedTuple):
    """One eigenspace of F: its ``name``, ``value``, ``multiplicity``, and a ``description`` in words."""

    name: str
    value: float
    multiplicity: int
    description: str


@dataclass(frozen=True)
class Spectrum:
    """The eigenspaces of a symmetric matrix; index by name, or iterate.

    Attributes:
        spaces: the eigenspaces; a multiplicity may be zero (no complement if d = K, nothing within if n = 1).
    """

    spaces: tuple[Eigenspace, ...]

    def __getitem__(self, name: str) -> Eigenspace:
        for space in self.spaces:
            if space.name == name:
                return space
        raise KeyError(
            f"there is no eigenspace {name!r}; there are {', '.join(s.name for s in self.spaces)}"
        )

    def __iter__(self):
        return iter(self.spaces)

    @property
    def values(self) -> np.ndarray:
        """All eigenvalues with their multiplicities, in descending order."""
        values = [space.value for space in self.spaces]
        return np.sort(np.repeat(values, [space.multiplicity for space in self.spaces]))[::-1]


class BlockSpectrum(NamedTuple):
    """Spectrum of the ``diagonal`` blocks of F by class, and the one singular value, ``crosstalk``, of the others."""

    diagonal: Spectrum
    crosstalk: float


def spectrum(model: Model, K: int, d: int, n: int, first_order: bool = False) -> Spectrum:
    r"""Spectrum of F at a minimizer H0 = H* of Eq. 1: complete, and exact for every beta > 0.

    For c < 1 the names and values are

    - ``within_frame``: :math:`s_1 = \beta/(\beta + \sqrt{\lambda_H/\lambda_W})`, deviations in the span of the frame;
    - ``within_complement``: :math:`s_2 = \beta/(\beta + \lambda_H)`, deviations orthogonal to the frame;
    - ``shape``: :math:`s_3 = \beta/(\beta + 4\lambda_H(1-c))`, symmetric changes of the frame;
    - ``rotation``: 1, rotations of the frame, in its span or out of it.

    For c >= 1 the minimizer is zero: ``within``, :math:`\beta/(\beta + \lambda_H)`, and ``means``,
    :math:`\beta/(\beta + \lambda_H - 1/\lambda_W)`.

    Args:
        model: lambda_W, lambda_H and beta, all positive.
        K: number of classes.
        d: dimension of the features, at least K if c < 1.
        n: samples per class.
        first_order: the limit for large beta instead: :math:`1 - t/\beta` for :math:`\beta/(\beta + t)`.

    Raises:
        TypeError: if K, d or n is not an integer.
        ValueError: if beta or lambda_H is 0, K, d or n is less than 1, or d < K although c < 1.
    """
    if model.c >= 1:
        check_sizes(K, 1, d, n)
        positive("beta", model.beta)
        values = [model.beta / (model.beta + model.lambda_H - t) for t in (0, 1 / model.lambda_W)]
        within, means = linearized(values) if first_order else values
        return Spectrum(
            (
                Eigenspace("within", within, d * K * (n - 1), "deviations within a class"),
                Eigenspace("means", means, d * K, "changes of the class means"),
            )
        )
    s = factors(model, first_order)
    check_sizes(K, K, d, n)
    return Spectrum(
        (
            Eigenspace(
                "within_frame", s.s1, K * K * (n - 1), "within a class, in the span of the frame"
            ),
            Eigenspace(
                "within_complement",
                s.s2,
                (d - K) * K * (n - 1),
                "within a class, orthogonal to the frame",
            ),
            Eigenspace(
                "shape", s.s3, K * (K + 1) // 2, "lengths of the means and angles between them"
            ),
            Eigenspace("rotation", 1.0, K * (K - 1) // 2 + K * (d - K), "rotations of the frame"),
        )
    )


def block_spectrum(
    model: Model, K: int, d: int, n: int, first_order: bool = False
) -> BlockSpectrum:
    r"""Spectra of the blocks of F by class (Eq. 6, Theorem 4.2), at H0 = H* with c < 1; exact for every beta > 0.

    A diagonal block has the spaces ``within_frame`` and ``within_complement`` with the values of ``spectrum``, and for
    the mean of the class ``length`` (along the mean itself, :math:`s_3`), ``angle`` (along another mean,
    :math:`(1+s_3)/2`) and ``complement`` (orthogonal to the frame, 1). Off the diagonal

    .. math::
        F_{kj} = -\sigma\, q_j q_k^\top \otimes \tfrac1n 1_n 1_n^\top, \qquad
        \sigma = \frac{1-s_3}2 = \frac{2\lambda_H(1-c)}{\beta + 4\lambda_H(1-c)} .

    Arguments and errors as for ``spectrum``; c >= 1 is refused too.
    """
    s = factors(model, first_order)
    check_sizes(K, K, d, n)
    sigma = (1 - s.s3) / 2
    return BlockSpectrum(
        Spectrum(
            (
                Eigenspace(
                    "within_frame", s.s1, K * (n - 1), "within the class, in the span of the frame"
                ),
                Eigenspace(
                    "within_complement",
                    s.s2,
                    (d - K) * (n - 1),
                    "within the class, orthogonal to the frame",
                ),
                Eigenspace("length", s.s3, 1, "the mean along itself"),
                Eigenspace("angle", 1 - sigma, K - 1, "the mean along another mean"),
                Eigenspace("complement", 1.0, d - K, "the mean, orthogonal to the frame"),
            )
        ),
        sigma,
    )


def spectrum_at_radius(model: Model, singular_values, d: int, n: int) -> Spectrum:
    r"""Spectrum of F at any exactly collapsed H0 with the singular values a of its K class means.

    With :math:`b = \lambda_H + \beta`, h from ``optimal_radii`` and :math:`e_i = \lambda_W/(h_i^2+\lambda_W)`,
    :math:`w_i = h_i/(h_i^2+\lambda_W)`, the names and values are (i < j count from 0)

    - ``within_i``: :math:`\beta/(b + w_i^2)`, deviations along axis i;
    - ``within_complement``: :math:`\beta/b`, deviations orthogonal to all axes;
    - ``length_i``: :math:`\beta/(b + e_i^2(3-4e_i)/\lambda_W)`, the length of axis i;
    - ``shear_i_j`` and ``turn_i_j``: :math:`\beta/(p \pm q)`, :math:`p = b + e_ie_j(1-e_i-e_j)/\lambda_W`,
      :math:`q = w_iw_j(e_i+e_j)`, symmetric and antisymmetric changes in the plane of axes i and j;
    - ``tilt_i``: :math:`\beta/(b - e_i^2/\lambda_W)`, which is :math:`h_i/a_i`, axis i leaving the span.

    Args:
        model: lambda_W and beta positive.
        singular_values: a, (K,), not negative; zeros are allowed where lambda_H + beta > 1 / lambda_W.
        d: dimension of the features, at least K.
        n: samples per class.

    Raises:
        ValueError: if d < K, beta = 0, n < 1, or a singular value is negative, or is 0 where the minimizer is not
            unique.
    """
    h = optimal_radii(model, singular_values)
    K = len(h)
    check_sizes(K, K, d, n)
    lam, beta, b = model.lambda_W, model.beta, model.lambda_H + model.beta
    w, e = h / (h**2 + lam), lam / (h**2 + lam)
    spaces = [
        Eigenspace(
            "within_complement", beta / b, (d - K) * K * (n - 1), "within a class, off the axes"
        )
    ]
    for i in range(K):
        spaces += [
            Eigenspace(
                f"within_{i}",
                beta / (b + w[i] ** 2),
                K * (n - 1),
                f"within a class, along axis {i}",
            ),
            Eigenspace(
                f"length_{i}",
                beta / (b + e[i] ** 2 * (3 - 4 * e[i]) / lam),
                1,
                f"length of axis {i}",
            ),
            Eigenspace(
                f"tilt_{i}", beta / (b - e[i] ** 2 / lam), d - K, f"axis {i} leaves the span"
            ),
        ]
        for j in range(i + 1, K):
            p = b + e[i] * e[j] * (1 - e[i] - e[j]) / lam
            q = w[i] * w[j] * (e[i] + e[j])
            spaces += [
                Eigenspace(f"shear_{i}_{j}", beta / (p + q), 1, f"axes {i} and {j}, symmetric"),
                Eigenspace(f"turn_{i}_{j}", beta / (p - q), 1, f"axes {i} and {j}, antisymmetric"),
            ]
    return Spectrum(tuple(spaces))


def optimal_radii(model: Model, singular_values) -> np.ndarray:
    r"""Singular values h of the optimal class means when those of an exactly collapsed H0 are a; both (K,).

    .. math::
        \left(b - \frac{e_i^2}{\lambda_W}\right) h_i = \beta a_i, \qquad e_i = \frac{\lambda_W}{h_i^2+\lambda_W}

    The left side is negative or increasing in h, so there is one positive root. It has :math:`e_i^2 < \lambda_W b`,
    the certificate of a global minimum.

    Raises:
        ValueError: if beta = 0, or a singular value is negative, or is 0 where the minimizer is not unique.
    """
    positive("beta", model.beta)
    a = as_array("singular_values", singular_values, np.shape(singular_values))
    if a.ndim != 1 or a.size == 0 or a.min() < 0:
        raise ValueError(
            f"singular_values must be a list of numbers that are not negative, but is {singular_values}."
        )
    lam, beta, b = model.lambda_W, model.beta, model.lambda_H + model.beta
    if a.min() == 0 and b * lam <= 1:
        raise ValueError(
            f"a singular value is 0: uniqueness needs lambda_W (lambda_H + beta) > 1, not {b * lam:.6g}."
        )

    def root(target):
        high = (
            target + 0.5 / sqrt(lam)
        ) / b  # since lambda_W h / (h^2 + lambda_W)^2 < 1 / (2 sqrt(lambda_W))
        return optimize.brentq(
            lambda h: (b - lam / (h * h + lam) ** 2) * h - target, 0, high, xtol=1e-300, rtol=1e-15
        )

    return np.array([root(beta * value) for value in a])


def eigenbases(frame, n: int) -> dict[str, np.ndarray]:
    """Orthonormal bases of the four eigenspaces of ``spectrum`` for c < 1, by name; for small sizes.

    Args:
        frame: Q, (d, K) with orthonormal columns, d >= K.
        n: samples per class, in order of class.

    Returns:
        Arrays (N d, multiplicity), whose columns are feature changes (N, d), flattened.
    """
    Q = np.asarray(frame, dtype=float)
    d, K = Q.shape
    check_sizes(K, K, d, n)
    P = linalg.qr(Q)[0][:, K:]
    contrasts = linalg.helmert(n).T if n > 1 else np.zeros((1, 0))
    deviations = np.kron(np.eye(K), contrasts)
    units = np.eye(K * K).reshape(K, K, K, K)
    pairs = list(combinations(range(K), 2))
    shapes = [units[i, i] for i in range(K)] + [
        (units[i, j] + units[j, i]) / sqrt(2) for i, j in pairs
    ]
    turns = [(units[i, j] - units[j, i]) / sqrt(2) for i, j in pairs]
    tilts = np.kron(np.eye(K), P).T.reshape(-1, K, d)

    def of_means(changes):
        return (
            np.repeat(np.reshape(changes, (-1, K, d)) / sqrt(n), n, axis=1).reshape(-1, K * n * d).T
        )

    return {
        "within_frame": np.kron(deviations, Q),
        "within_complement": np.kron(deviations, P),
        "shape": of_means([S @ Q.T for S in shapes]),
        "rotation": of_means([*(S @ Q.T for S in turns), *tilts]),
    }


def factors(model: Model, first_order: bool) -> Contraction:
    """The contraction factors, exact or to first order in 1 / beta."""
    return Contraction(*linearized(contraction(model))) if first_order else contraction(model)


def linearized(values) -> list[float]:
    """1 - t/beta for each beta / (beta + t)."""
    return [2 - 1 / value for value in values]


def check_sizes(K: int, axes: int, d: int, n: int) -> None:
    """Refuse sizes that are not positive, or dimensions too few for the axes."""
    for name, value in (("K", K), ("d", d), ("n", n)):
        positive_integer(name, value)
    if d < axes:
        raise ValueError(f"d = {d} is less than K = {K}: K orthogonal means need d >= K.")
