r"""The minimizer near a collapsed H0 to second order, and what it does to the collapse metrics.

Let H0 = H* + eps Z with H* the collapsed minimizer on the frame Q (d x K), P an orthonormal basis of its complement,
and split any d x N matrix into class means and deviations, and both into the parts in Q and in P:
Z = (Q A0 + P B0) (x) 1^T + Q Delta0_Q + P Delta0_P. Then the minimizer is H* + eps H1 + eps^2 H2 + O(eps^3) with
H1 given by the factors s1, s2, s3 of ``nclib.perturbation.contraction`` and H2 a quadratic form in H1 with the coefficients below.

Nothing here depends on n except the sums over samples: the classes must be balanced.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from nclib import _checks
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics
from nclib.perturbation.contraction import contraction


class Coefficients(NamedTuple):
    r"""Coefficients of the quadratic term, each named for the products that it multiplies.

    With A_s and A_a the symmetric and skew parts of the mean response in Q, B its part in P, and
    Sigma_QQ = Delta_Q Delta_Q^T / n, Sigma_PQ = Delta_P Delta_Q^T / n,

    .. math::
        \mathrm{sym}A_2 &= \mathtt{ss}\,A_s^2 + \mathtt{aa}\,A_a^2 + \mathtt{bb}\,B^\top B
            + \mathtt{noise}\,\Sigma_{QQ}, \\
        \mathrm{skew}A_2 &= \mathtt{turn}\,(A_sA_a + A_aA_s), \qquad
        B_2 = \mathtt{lift}\,BA_s + \mathtt{tilt}\,\Sigma_{PQ}, \\
        \Delta_{2,Q} &= \mathtt{radial}\,A_s\Delta_Q + \mathtt{fall}\,B^\top\Delta_P, \qquad
        \Delta_{2,P} = \mathtt{rise}\,B\Delta_Q .
    """

    ss: float
    aa: float
    bb: float
    noise: float
    turn: float
    lift: float
    tilt: float
    radial: float
    fall: float
    rise: float


class Expansion(NamedTuple):
    """Features (N, d): H = base + eps first + eps^2 second + O(eps^3)."""

    base: np.ndarray
    first: np.ndarray
    second: np.ndarray


class Ratio(NamedTuple):
    """A metric at the minimizer over the metric at H0: value (1 + slope eps + O(eps^2))."""

    value: float
    slope: float


class Attenuation(NamedTuple):
    """Leading ratios of NC1 and of its trace form for isotropic noise around a collapsed frame."""

    nc1: float
    nc1_trace: float


def coefficients(model: Model) -> Coefficients:
    r"""Coefficients of the quadratic term, for every beta > 0.

    Common factors: :math:`\omega = \sqrt{(1-c)\,\kappa}`, :math:`\kappa = \sqrt{\lambda_H/\lambda_W}`, and the
    denominators of s1, s2, s3.

    Raises:
        ValueError: if beta = 0, lambda_H = 0 or c >= 1.
    """
    s1, s2, s3 = contraction(model)
    c, beta = model.c, model.beta
    kappa = sqrt(model.lambda_H / model.lambda_W)
    q = kappa * sqrt((1 - c) * kappa) / beta
    return Coefficients(
        ss=6 * c * (1 - 2 * c) * q * s3,
        aa=2 * c * q * s3,
        bb=-2 * c * q * s3,
        noise=(1 - 2 * c) * q * s3,
        turn=-2 * c * q,
        lift=-4 * c * q,
        tilt=-q,
        radial=2 * (1 - 2 * c) * q * s1,
        fall=-q * s1,
        rise=-q * s2,
    )


def second_order(
    model: Model, frame: ArrayLike, perturbation: ArrayLike, labels: ArrayLike
) -> Expansion:
    r"""The minimizer for H0 = H* + eps Z to second order in eps.

    Args:
        model: c < 1, lambda_H > 0 and beta > 0.
        frame: Q, (d, K) with orthonormal columns; H* has the class means sqrt(rho) Q.
        perturbation: Z, (N, d).
        labels: (N,), as many samples in every class.

    Raises:
        ValueError: if the classes are not balanced, the frame is not orthonormal, d < K, c >= 1, lambda_H = 0 or
            beta = 0.
    """
    Z = _checks.as_features(perturbation, "perturbation").astype(float, copy=False)
    y = _checks.as_labels(labels, len(Z))
    stats = ClassStatistics.from_features(Z, y)
    k, (s1, s2, _) = coefficients(model), contraction(model)
    Q, P, As, Aa, B, *_ = _split(model, frame, stats)
    Delta0 = (Z - stats.means.T[y]).T
    DQ, DP = s1 * Q.T @ Delta0, s2 * P.T @ Delta0
    n = stats.N / stats.K
    first = (Q @ (As + Aa) + P @ B)[:, y] + Q @ DQ + P @ DP
    A2 = (
        k.ss * As @ As
        + k.aa * Aa @ Aa
        + k.bb * B.T @ B
        + k.noise / n * DQ @ DQ.T
        + k.turn * (As @ Aa + Aa @ As)
    )
    B2 = k.lift * B @ As + k.tilt / n * DP @ DQ.T
    second = (
        (Q @ A2 + P @ B2)[:, y]
        + Q @ (k.radial * As @ DQ + k.fall * B.T @ DP)
        + P @ (k.rise * B @ DQ)
    )
    return Expansion(sqrt(model.rho) * Q[:, y].T, first.T, second.T)


def nc1_trace_ratio(model: Model, frame: ArrayLike, perturbation: ClassStatistics) -> Ratio:
    r"""tr Sigma_W / tr Sigma_B at the minimizer over that at H0 = H* + eps Z.

    The leading value is the mean of s1^2 and s2^2 weighted by the noise in the frame and in its complement.

    Args:
        model: c < 1, lambda_H > 0 and beta > 0.
        frame: Q, (d, K) with orthonormal columns.
        perturbation: class statistics of Z; balanced, with some within-class spread.

    Raises:
        ValueError: if Z has no within-class spread or K = 1, where the ratio is 0 / 0, and as in ``second_order``.
    """
    k, (s1, s2, s3) = coefficients(model), contraction(model)
    Z = _split(model, frame, perturbation)
    spread = s1**2 * np.trace(Z.QQ) + s2**2 * np.trace(Z.PP)
    _some_noise(perturbation, spread)
    # The numerator |Delta_Q|^2 + |Delta_P|^2 changes by 2 growth, with <Delta_Q, B^T Delta_P> = <B, Delta_P Delta_Q^T>;
    # the denominator |Hbar Pi|^2 by 2 sqrt(rho) tr(Pi A_s).
    growth = k.radial * s1**2 * np.vdot(Z.As, Z.QQ) + (k.fall + k.rise) * s1 * s2 * np.vdot(
        Z.B, Z.PQ
    )
    closing = (
        (1 - s3) / s3 * np.vdot(_centering(Z), Z.As) / ((perturbation.K - 1) * sqrt(model.rho))
    )
    return Ratio(spread / np.trace(perturbation.within), 2 * (growth / spread + closing))


def nc1_ratio(model: Model, frame: ArrayLike, perturbation: ClassStatistics) -> Ratio:
    r"""NC1 = tr(Sigma_W Sigma_B^+) / K at the minimizer over that at H0 = H* + eps Z: s1^2 to leading order.

    NC1 sees only the noise in the span of the centered means. Rotations of the frame carry that span along exactly, so
    their parts of Z do not enter, and the slope stays bounded for all beta > 0:

    .. math::
        \frac{2}{\operatorname{tr}\Pi\Sigma_{QQ}} \operatorname{tr}\Pi\left[\mathtt{radial}\,A_s
            + \frac{1-s_3}{s_3\sqrt\rho}(2A_s\Pi - A_s)\right]\Sigma_{QQ}

    Args and errors are those of ``nc1_trace_ratio``, but the spread must not vanish in the centered frame.
    """
    k, (s1, _, s3) = coefficients(model), contraction(model)
    Z = _split(model, frame, perturbation)
    Pi = _centering(Z)
    noise = np.trace(Pi @ Z.QQ)
    _some_noise(perturbation, noise)
    moved = k.radial * Z.As + (1 - s3) / (s3 * sqrt(model.rho)) * (2 * Z.As @ Pi - Z.As)
    return Ratio(s1**2, 2 * np.trace(Pi @ moved @ Z.QQ) / noise)


def attenuation(model: Model, K: int, d: int) -> Attenuation:
    r"""Leading ratios of NC1 and its trace form for isotropic within-class noise of K classes in d dimensions.

    .. math::
        \frac{\mathrm{NC1}(H)}{\mathrm{NC1}(H_0)} \to s_1^2, \qquad
        \frac{\widetilde{\mathrm{NC1}}(H)}{\widetilde{\mathrm{NC1}}(H_0)} \to \frac{K s_1^2 + (d - K) s_2^2}{d}

    Raises:
        ValueError: if d < K, c >= 1, lambda_H = 0 or beta = 0.
    """
    if _checks.positive_integer("d", d) < _checks.positive_integer("K", K):
        raise ValueError(
            f"d = {d} is less than K = {K}: an orthogonal frame of K means needs d >= K"
        )
    s1, s2, _ = contraction(model)
    return Attenuation(s1**2, (K * s1**2 + (d - K) * s2**2) / d)


class _Parts(NamedTuple):
    """The frame Q with complement P, the first-order response of the means in them, and Sigma_W of Z in blocks."""

    Q: np.ndarray
    P: np.ndarray
    As: np.ndarray
    Aa: np.ndarray
    B: np.ndarray
    QQ: np.ndarray
    PQ: np.ndarray
    PP: np.ndarray


def _split(model: Model, frame, stats: ClassStatistics) -> _Parts:
    _checks.instance("perturbation", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    if not stats.balanced:
        raise ValueError(
            f"the expansion needs as many samples in every class; the class sizes are {stats.counts}."
        )
    Q = model.collapsed(stats.K, stats.d, frame).means / sqrt(model.rho)
    P = linalg.null_space(Q.T) if stats.d > stats.K else np.zeros((stats.d, 0))
    A0 = Q.T @ stats.means
    QQ, PQ, PP = (L.T @ stats.within @ R for L, R in ((Q, Q), (P, Q), (P, P)))
    return _Parts(
        Q,
        P,
        contraction(model).s3 * (A0 + A0.T) / 2,
        (A0 - A0.T) / 2,
        P.T @ stats.means,
        QQ,
        PQ,
        PP,
    )


def _centering(Z: _Parts):
    return np.eye(len(Z.As)) - 1 / len(Z.As)


def _some_noise(stats: ClassStatistics, noise: float):
    if stats.K == 1:
        raise ValueError(
            "the metrics compare class means, so their ratio is undefined for K = 1 class."
        )
    if not noise > 1e-20 * np.trace(stats.within):
        raise ValueError(
            "the perturbation has no within-class spread where the metric looks, so the ratio is 0 / 0."
        )
