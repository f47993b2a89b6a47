r"""The minimizer near a collapsed H0 to second order, and what it does to the collapse metrics.

Let H0 = H* + eps Z with H* the collapsed minimizer on the frame Q (d x K), P an orthonormal basis
of its complement, and split any d x N matrix into class means and deviations, and both into the
parts in Q and in P,

.. math::
    Z = (QA_0 + PB_0)\otimes 1^\top + Q\Delta_{0,Q} + P\Delta_{0,P} .

Then the minimizer is H* + eps H1 + eps^2 H2 + O(eps^3) with H1 given by the factors s1, s2, s3 of
``nclib.perturbation.contraction`` and H2 a quadratic form in H1 with the coefficients below.

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
    :math:`\Sigma_{QQ} = \Delta_Q\Delta_Q^\top/n`, :math:`\Sigma_{PQ} = \Delta_P\Delta_Q^\top/n`,

    .. math::
        \mathrm{sym}A_2 &= \mathtt{ss}\,A_s^2 + \mathtt{aa}\,A_a^2 + \mathtt{bb}\,B^\top B
            + \mathtt{noise}\,\Sigma_{QQ}, \\
        \mathrm{skew}A_2 &= \mathtt{turn}\,(A_sA_a + A_aA_s), \qquad
        B_2 = \mathtt{lift}\,BA_s + \mathtt{tilt}\,\Sigma_{PQ}, \\
        \Delta_{2,Q} &= \mathtt{radial}\,A_s\Delta_Q + \mathtt{fall}\,B^\top\Delta_P, \qquad
        \Delta_{2,P} = \mathtt{rise}\,B\Delta_Q .

    Attributes:
        ss: Of the square of the symmetric part of the means.
        aa: Of the square of the skew part.
        bb: Of the part off the frame, squared.
        noise: Of the scatter in the frame, on the shape of the frame.
        turn: Of symmetric times skew, a rotation in the frame.
        lift: Of the part off the frame times the symmetric part.
        tilt: Of the scatter across, on the part off the frame.
        radial: Of the symmetric part, on deviations in the frame.
        fall: Of the part off the frame, on deviations that fall into the frame.
        rise: Of the part off the frame, on deviations that rise out of it.
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
    """Features to second order: H = base + eps first + eps^2 second + O(eps^3).

    Attributes:
        base: The collapsed minimizer H*, shape (N, d).
        first: First-order change H1, shape (N, d).
        second: Second-order change H2, shape (N, d).
    """

    base: np.ndarray
    first: np.ndarray
    second: np.ndarray


class Ratio(NamedTuple):
    """A metric at the minimizer over the metric at H0: value (1 + slope eps + O(eps^2)).

    Attributes:
        value: The ratio to leading order.
        slope: Its relative change per eps.
    """

    value: float
    slope: float


class Attenuation(NamedTuple):
    """Leading ratios of the collapse metrics for isotropic noise around a collapsed frame.

    Attributes:
        nc1: Of NC1, with the pseudoinverse.
        nc1_trace: Of its trace form.
    """

    nc1: float
    nc1_trace: float


def coefficients(model: Model) -> Coefficients:
    r"""Coefficients of the quadratic term, for every beta > 0.

    They have the denominators of s1, s2, s3 and the common factor :math:`\kappa\omega/\beta`, with
    :math:`\kappa = \sqrt{\lambda_H/\lambda_W}` and :math:`\omega = \sqrt{(1-c)\,\kappa}`, the
    length of a collapsed row of W.

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.

    Raises:
        ValueError: beta = 0, lambda_H = 0 or c >= 1.

    Examples:
        >>> found = coefficients(Model(0.1, 0.1, beta=1.0))
        >>> print(f"{found.tilt:.3f}, {found.fall:.3f}")
        -0.949, -0.474
    """
    s1, s2, s3 = contraction(model)
    c, kappa = model.c, model.kappa
    omega = sqrt((1 - c) * kappa)
    unit = kappa * omega / model.beta
    return Coefficients(
        ss=6 * c * (1 - 2 * c) * unit * s3,
        aa=2 * c * unit * s3,
        bb=-2 * c * unit * s3,
        noise=(1 - 2 * c) * unit * s3,
        turn=-2 * c * unit,
        lift=-4 * c * unit,
        tilt=-unit,
        radial=2 * (1 - 2 * c) * unit * s1,
        fall=-unit * s1,
        rise=-unit * s2,
    )


def second_order(
    model: Model, frame: ArrayLike, perturbation: ArrayLike, labels: ArrayLike
) -> Expansion:
    r"""The minimizer for H0 = H* + eps Z to second order in eps.

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.
        frame: Q, shape (d, K) with orthonormal columns; H* has the class means sqrt(rho) Q.
        perturbation: Z, shape (N, d).
        labels: Shape (N,), integers 0..K-1, as many samples in every class.

    Raises:
        TypeError: The perturbation is not real or the labels are not integers.
        ValueError: The classes are not balanced, the frame is not orthonormal, d < K, c >= 1,
            lambda_H = 0 or beta = 0.

    Examples:
        >>> Z = np.random.default_rng(0).normal(size=(4, 3))
        >>> found = second_order(Model(0.1, 0.1, beta=1.0), np.eye(3, 2), Z, [0, 0, 1, 1])
        >>> found.second.shape
        (4, 3)
    """
    Z = _checks.as_features(perturbation, "perturbation").astype(float, copy=False)
    y = _checks.as_labels(labels, len(Z))
    stats = ClassStatistics.from_features(Z, y)
    by, s = coefficients(model), contraction(model)
    parts = _split(model, frame, stats)
    Q, P, As, Aa, B = parts.Q, parts.P, parts.As, parts.Aa, parts.B
    n = stats.N / stats.K
    Delta0 = (Z - stats.means.T[y]).T
    DQ = s.s1 * Q.T @ Delta0
    DP = s.s2 * P.T @ Delta0
    first = (Q @ (As + Aa) + P @ B)[:, y] + Q @ DQ + P @ DP
    A2 = by.ss * As @ As + by.aa * Aa @ Aa + by.bb * B.T @ B
    A2 = A2 + by.noise / n * DQ @ DQ.T + by.turn * (As @ Aa + Aa @ As)
    B2 = by.lift * B @ As + by.tilt / n * DP @ DQ.T
    in_frame = by.radial * As @ DQ + by.fall * B.T @ DP
    second = (Q @ A2 + P @ B2)[:, y] + Q @ in_frame + P @ (by.rise * B @ DQ)
    return Expansion(sqrt(model.rho) * Q[:, y].T, first.T, second.T)


def nc1_trace_ratio(model: Model, frame: ArrayLike, perturbation: ClassStatistics) -> Ratio:
    r"""Trace ratio tr Sigma_W / tr Sigma_B at the minimizer over that at H0 = H* + eps Z.

    The leading value is the mean of s1^2 and s2^2 weighted by the noise in the frame and in its
    complement.

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.
        frame: Q, shape (d, K) with orthonormal columns.
        perturbation: Class statistics of Z; balanced, with some spread within classes.

    Raises:
        ValueError: Z has no spread within classes or K = 1, where the ratio is 0 / 0, the classes
            are not balanced, the frame is not orthonormal, d < K, c >= 1, lambda_H = 0 or beta = 0.

    Examples:
        >>> noise = ClassStatistics(np.array([4, 4]), np.zeros((3, 2)), np.eye(3))
        >>> ratio = nc1_trace_ratio(Model(0.1, 0.1, beta=1.0), np.eye(3, 2), noise)
        >>> print(f"{ratio.value:.3f}")
        0.442
    """
    by, s = coefficients(model), contraction(model)
    parts = _split(model, frame, perturbation)
    spread = s.s1**2 * np.trace(parts.QQ) + s.s2**2 * np.trace(parts.PP)
    _check_noise(perturbation, spread)
    # The numerator |Delta_Q|^2 + |Delta_P|^2 changes by 2 growth, where <Delta_Q, B^T Delta_P>
    # is <B, Delta_P Delta_Q^T>; the denominator |Hbar Pi|^2 by 2 sqrt(rho) tr(Pi A_s).
    growth = by.radial * s.s1**2 * np.vdot(parts.As, parts.QQ)
    growth += (by.fall + by.rise) * s.s1 * s.s2 * np.vdot(parts.B, parts.PQ)
    closing = (1 - s.s3) / s.s3 * np.vdot(_centering(parts), parts.As)
    closing /= (perturbation.K - 1) * sqrt(model.rho)
    value = spread / np.trace(perturbation.within)
    return Ratio(float(value), float(2 * (growth / spread + closing)))


def nc1_ratio(model: Model, frame: ArrayLike, perturbation: ClassStatistics) -> Ratio:
    r"""NC1 = tr(Sigma_W Sigma_B^+) / K at the minimizer over that at H0 = H* + eps Z.

    To leading order it is s1^2: NC1 sees only the noise in the span of the centered means.
    Rotations of the frame carry that span along exactly, so their parts of Z do not enter, and the
    slope stays bounded for all beta > 0:

    .. math::
        \frac{2}{\operatorname{tr}\Pi\Sigma_{QQ}} \operatorname{tr}\Pi\left[\mathtt{radial}\,A_s
            + \frac{1-s_3}{s_3\sqrt\rho}(2A_s\Pi - A_s)\right]\Sigma_{QQ}

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.
        frame: Q, shape (d, K) with orthonormal columns.
        perturbation: Class statistics of Z; balanced, with some spread in the centered frame.

    Raises:
        ValueError: Z has no spread in the centered frame or K = 1, where the ratio is 0 / 0, the
            classes are not balanced, the frame is not orthonormal, d < K, c >= 1, lambda_H = 0 or
            beta = 0.

    Examples:
        >>> noise = ClassStatistics(np.array([4, 4]), np.zeros((3, 2)), np.eye(3))
        >>> ratio = nc1_ratio(Model(0.1, 0.1, beta=1.0), np.eye(3, 2), noise)
        >>> print(f"{ratio.value:.3f}, {ratio.slope:.3f}")
        0.250, 0.000
    """
    by, s = coefficients(model), contraction(model)
    parts = _split(model, frame, perturbation)
    Pi = _centering(parts)
    noise = np.trace(Pi @ parts.QQ)
    _check_noise(perturbation, noise)
    reduction = (1 - s.s3) / (s.s3 * sqrt(model.rho))
    moved = by.radial * parts.As + reduction * (2 * parts.As @ Pi - parts.As)
    return Ratio(s.s1**2, float(2 * np.trace(Pi @ moved @ parts.QQ) / noise))


def attenuation(model: Model, K: int, d: int) -> Attenuation:
    r"""Leading ratios of NC1 and its trace form for isotropic noise of K classes in d dimensions.

    .. math::
        \frac{\mathrm{NC1}(H)}{\mathrm{NC1}(H_0)} \to s_1^2, \qquad
        \frac{\widetilde{\mathrm{NC1}}(H)}{\widetilde{\mathrm{NC1}}(H_0)}
        \to \frac{K s_1^2 + (d - K) s_2^2}{d}

    Args:
        model: The decays and the pull; lambda_H > 0, beta > 0 and c < 1.
        K: Number of classes.
        d: Dimension of the features, at least K.

    Raises:
        TypeError: K or d is not an integer.
        ValueError: d < K, c >= 1, lambda_H = 0 or beta = 0.

    Examples:
        >>> found = attenuation(Model(0.1, 0.1, beta=1.0), K=10, d=100)
        >>> print(f"{found.nc1:.3f}, {found.nc1_trace:.3f}")
        0.250, 0.769
    """
    _checks.frame_fits(K, d)
    s = contraction(model)
    return Attenuation(s.s1**2, (K * s.s1**2 + (d - K) * s.s2**2) / d)


class _Parts(NamedTuple):
    """Frame Q and complement P, the response of the means in them, and Sigma_W of Z in blocks."""

    Q: np.ndarray
    P: np.ndarray
    As: np.ndarray
    Aa: np.ndarray
    B: np.ndarray
    QQ: np.ndarray
    PQ: np.ndarray
    PP: np.ndarray


def _split(model: Model, frame: ArrayLike, stats: ClassStatistics) -> _Parts:
    _checks.instance("perturbation", stats, ClassStatistics)
    _checks.every_class(stats.counts)
    if not stats.balanced:
        raise ValueError(
            "the expansion needs as many samples in every class; "
            f"the class sizes are {stats.counts}."
        )
    Q = model.collapsed(stats.K, stats.d, frame).means / sqrt(model.rho)
    P = linalg.null_space(Q.T) if stats.d > stats.K else np.zeros((stats.d, 0))
    A0 = Q.T @ stats.means
    return _Parts(
        Q=Q,
        P=P,
        As=contraction(model).s3 * (A0 + A0.T) / 2,
        Aa=(A0 - A0.T) / 2,
        B=P.T @ stats.means,
        QQ=Q.T @ stats.within @ Q,
        PQ=P.T @ stats.within @ Q,
        PP=P.T @ stats.within @ P,
    )


def _centering(parts: _Parts) -> np.ndarray:
    """Pi = I - 1 1^T / K."""
    K = len(parts.As)
    return np.eye(K) - 1 / K


def _check_noise(stats: ClassStatistics, noise: float) -> None:
    if stats.K == 1:
        raise ValueError(
            "the metrics compare class means, so their ratio is undefined for K = 1 class."
        )
    if not noise > 1e-20 * np.trace(stats.within):
        raise ValueError(
            "the perturbation has no within-class spread where the metric looks, "
            "so the ratio is 0 / 0."
        )
