r"""Every eigenvalue of the response F at a collapsed H0, for every beta.

Let the input features be exactly collapsed, :math:`H_0 = \bar H_0 \otimes 1_n^\top` with

.. math:: \bar H_0 = Q\,\mathrm{diag}(a)\,O^\top,

Q (d x K) with orthonormal columns. The minimizer has the same axes,

.. math::
    \bar H = Q\,\mathrm{diag}(h)\,O^\top, \qquad W = O\,\mathrm{diag}(w)\,Q^\top,

and in these axes F splits into scalars and symmetric 2 x 2 matrices. At :math:`a_i = \sqrt\rho` the
input is a minimizer of Eq. 1 and stays put; Theorem 4.2 of Tirer et al. (2023) is the limit of
large beta there.

Features change by the class means, :math:`(QA + PB) \otimes 1_n^\top` with P spanning the
complement of Q, and by deviations with mean zero in each class.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, optimize

from nclib._checks import as_array, as_frame, frame_fits, instance, positive, positive_integer
from nclib.foundations.model import Model
from nclib.perturbation.contraction import Contraction, contraction

LARGEST_ARRAY = 2**27  # entries: one gigabyte


class Eigenspace(NamedTuple):
    """One eigenspace of F.

    Attributes:
        name: By which the spectrum is indexed.
        value: The eigenvalue.
        multiplicity: Its dimension, which may be zero.
        description: What moves, in words.
    """

    name: str
    value: float
    multiplicity: int
    description: str


class EigenspaceFamily(NamedTuple):
    """All eigenspaces of one kind: a single one, or one for each axis or each pair of axes.

    Attributes:
        kind: Name of the eigenspaces, without the numbers of their axes.
        values: Eigenvalues, of shape (), (K,), or (K, K) of which the entries i < j count.
        multiplicity: Dimension of each of the eigenspaces.
        description: What moves, in words, with braces for the numbers of the axes.
    """

    kind: str
    values: np.ndarray
    multiplicity: int
    description: str

    def space(self, *axes: int) -> Eigenspace:
        """The eigenspace that belongs to these axes."""
        name = "_".join([self.kind, *map(str, axes)])
        description = self.description.format(*axes)
        return Eigenspace(name, float(self.values[axes]), self.multiplicity, description)

    def spaces(self) -> Iterator[Eigenspace]:
        """The eigenspaces one by one."""
        K = max(self.values.shape, default=0)
        for axes in combinations(range(K), self.values.ndim):
            yield self.space(*axes)

    def distinct(self) -> np.ndarray:
        """The eigenvalues in the order of the spaces, each once."""
        if self.values.ndim < 2:
            return self.values.ravel()
        return self.values[np.triu_indices(len(self.values), 1)]

    def holds(self, kind: str, axes: tuple[int, ...]) -> bool:
        """Whether there is an eigenspace of this kind that belongs to these axes."""
        if (kind, len(axes)) != (self.kind, self.values.ndim):
            return False
        ordered = all(i < j for i, j in pairwise(axes))
        return ordered and all(i < len(self.values) for i in axes)


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """The eigenspaces of a symmetric matrix; index by name, or iterate.

    Attributes:
        families: The eigenspaces by kind, so that a thousand axes need no million names.
    """

    families: tuple[EigenspaceFamily, ...]

    def __getitem__(self, name: str) -> Eigenspace:
        words = name.split("_")
        numbers = list(takewhile(str.isdecimal, reversed(words)))
        kind = "_".join(words[: len(words) - len(numbers)])
        axes = tuple(int(x) for x in reversed(numbers))
        for family in self.families:
            if family.holds(kind, axes):
                return family.space(*axes)
        raise KeyError(f"there is no eigenspace {name!r}; there are {', '.join(self._names())}.")

    def __iter__(self) -> Iterator[Eigenspace]:
        for family in self.families:
            yield from family.spaces()

    def __len__(self) -> int:
        return sum(family.distinct().size for family in self.families)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spectrum):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    def __hash__(self) -> int:
        return hash(tuple((f.kind, f.multiplicity, f.values.shape) for f in self.families))

    def __repr__(self) -> str:
        return f"Spectrum({', '.join(self._names())})"

    def _names(self) -> list[str]:
        letters = ("", "_i", "_i_j")
        return [family.kind + letters[family.values.ndim] for family in self.families]

    @property
    def spaces(self) -> tuple[Eigenspace, ...]:
        """All eigenspaces, also those of multiplicity zero (no complement for d = K)."""
        return tuple(self)

    @property
    def values(self) -> np.ndarray:
        """All eigenvalues with their multiplicities, in descending order.

        Raises:
            ValueError: There are more than 2^27 eigenvalues, with their multiplicities.
        """
        size = sum(family.distinct().size * family.multiplicity for family in self.families)
        _refuse_size("the list of eigenvalues", size)
        repeated = [np.repeat(f.distinct(), f.multiplicity) for f in self.families]
        return np.sort(np.concatenate(repeated))[::-1]


class BlockSpectrum(NamedTuple):
    """Spectra of the blocks of F by class.

    Attributes:
        diagonal: Spectrum of each diagonal block.
        crosstalk: The one singular value, sigma, of each of the other blocks.
    """

    diagonal: Spectrum
    crosstalk: float


def spectrum(model: Model, K: int, d: int, n: int, first_order: bool = False) -> Spectrum:
    r"""Spectrum of F at a minimizer H0 = H* of Eq. 1: complete, and exact for every beta > 0.

    For c < 1 the names and values are

    - ``within_frame``: :math:`s_1 = \beta/(\beta + \kappa)`, deviations in the span of the frame;
    - ``within_complement``: :math:`s_2 = \beta/(\beta + \lambda_H)`, deviations orthogonal to it;
    - ``shape``: :math:`s_3 = \beta/(\beta + 4\lambda_H(1-c))`, symmetric changes of the frame;
    - ``rotation``: 1, rotations of the frame, in its span or out of it.

    For c >= 1 the minimizer is zero: ``within``, :math:`\beta/(\beta + \lambda_H)`, and ``means``,
    :math:`\beta/(\beta + \lambda_H - 1/\lambda_W)`.

    Args:
        model: The decays and the pull, all positive.
        K: Number of classes.
        d: Dimension of the features, at least K if c < 1.
        n: Samples in each class.
        first_order: Take the limit for large beta, :math:`1 - t/\beta` in place of
            :math:`\beta/(\beta + t)`.

    Raises:
        TypeError: K, d or n is not an integer.
        ValueError: beta or lambda_H is 0, K, d or n is less than 1, or d < K although c < 1.

    Examples:
        >>> found = spectrum(Model(0.1, 0.1, beta=1.0), K=3, d=5, n=4)
        >>> found
        Spectrum(within_frame, within_complement, shape, rotation)
        >>> found["shape"].multiplicity, found.values.size
        (6, 60)
    """
    instance("model", model, Model)
    if model.c >= 1:
        return _spectrum_at_zero(model, K, d, n, first_order)
    s = _factors(model, first_order)
    frame_fits(K, d)
    positive_integer("n", n)
    return _singles(
        ("within_frame", s.s1, K * K * (n - 1), "within a class, in the span of the frame"),
        (
            "within_complement",
            s.s2,
            (d - K) * K * (n - 1),
            "within a class, orthogonal to the frame",
        ),
        ("shape", s.s3, K * (K + 1) // 2, "lengths of the means and angles between them"),
        ("rotation", 1.0, K * (K - 1) // 2 + K * (d - K), "rotations of the frame"),
    )


def block_spectrum(
    model: Model, K: int, d: int, n: int, first_order: bool = False
) -> BlockSpectrum:
    r"""Spectra of the blocks of F by class (Eq. 6, Theorem 4.2), at H0 = H* with c < 1.

    They are exact for every beta > 0. A diagonal block has the spaces ``within_frame`` and
    ``within_complement`` with the values of ``spectrum``, and for the mean of the class ``length``
    (along the mean itself, :math:`s_3`), ``angle`` (along another mean, :math:`(1+s_3)/2`) and
    ``complement`` (orthogonal to the frame, 1). Off the diagonal

    .. math::
        F_{kj} = -\sigma\, q_j q_k^\top \otimes \tfrac1n 1_n 1_n^\top, \qquad
        \sigma = \frac{1-s_3}2 = \frac{2\lambda_H(1-c)}{\beta + 4\lambda_H(1-c)} .

    Args:
        model: The decays and the pull, all positive; c < 1.
        K: Number of classes.
        d: Dimension of the features, at least K.
        n: Samples in each class.
        first_order: Take the limit for large beta.

    Raises:
        TypeError: K, d or n is not an integer.
        ValueError: beta or lambda_H is 0, c >= 1, K, d or n is less than 1, or d < K.

    Examples:
        >>> blocks = block_spectrum(Model(0.1, 0.1, beta=1.0), K=3, d=5, n=4)
        >>> print(f"{blocks.crosstalk:.3f}, {blocks.diagonal['angle'].value:.3f}")
        0.132, 0.868
    """
    s = _factors(model, first_order)
    frame_fits(K, d)
    positive_integer("n", n)
    sigma = (1 - s.s3) / 2
    diagonal = _singles(
        ("within_frame", s.s1, K * (n - 1), "within the class, in the span of the frame"),
        ("within_complement", s.s2, (d - K) * (n - 1), "within the class, orthogonal to the frame"),
        ("length", s.s3, 1, "the mean along itself"),
        ("angle", 1 - sigma, K - 1, "the mean along another mean"),
        ("complement", 1.0, d - K, "the mean, orthogonal to the frame"),
    )
    return BlockSpectrum(diagonal, sigma)


def spectrum_at_radius(model: Model, singular_values: ArrayLike, d: int, n: int) -> Spectrum:
    r"""Spectrum of F at any exactly collapsed H0 with the singular values a of its K class means.

    With :math:`b = \lambda_H + \beta`, h from ``optimal_radii``,
    :math:`e_i = \lambda_W/(h_i^2+\lambda_W)` and :math:`w_i = h_i/(h_i^2+\lambda_W)`, the names and
    values are (i < j count from 0)

    - ``within_i``: :math:`\beta/(b + w_i^2)`, deviations along axis i;
    - ``within_complement``: :math:`\beta/b`, deviations orthogonal to all axes;
    - ``length_i``: :math:`\beta/(b + e_i^2(3-4e_i)/\lambda_W)`, the length of axis i;
    - ``shear_i_j`` and ``turn_i_j``: :math:`\beta/(p \pm q)`, with
      :math:`p = b + e_ie_j(1-e_i-e_j)/\lambda_W` and :math:`q = w_iw_j(e_i+e_j)`, symmetric and
      antisymmetric changes in the plane of axes i and j;
    - ``tilt_i``: :math:`\beta/(b - e_i^2/\lambda_W)`, which is :math:`h_i/a_i`, axis i leaving the
      span.

    Args:
        model: The decays and the pull, lambda_W and beta positive.
        singular_values: a, shape (K,), not negative; zeros are allowed where
            lambda_H + beta > 1 / lambda_W.
        d: Dimension of the features, at least K.
        n: Samples in each class.

    Raises:
        ValueError: d < K, beta = 0, n < 1, or a singular value is negative, or is 0 where the
            minimizer is not unique.

    Examples:
        >>> found = spectrum_at_radius(Model(0.1, 0.1, beta=1.0), [0.5, 1.0, 2.0], d=5, n=4)
        >>> print(f"{found['tilt_0'].value:.3f}, {found['tilt_2'].value:.3f}")
        1.324, 0.916
    """
    h = optimal_radii(model, singular_values)
    K = len(h)
    frame_fits(K, d)
    positive_integer("n", n)
    lambda_W, beta, b = model.lambda_W, model.beta, model.b
    w = h / (h**2 + lambda_W)
    e = lambda_W / (h**2 + lambda_W)
    p = b + np.outer(e, e) * (1 - np.add.outer(e, e)) / lambda_W
    q = np.outer(w, w) * np.add.outer(e, e)
    scatter = K * (n - 1)
    return Spectrum(
        (
            _single(
                "within_complement", beta / b, (d - K) * scatter, "within a class, off the axes"
            ),
            EigenspaceFamily("within", beta / (b + w**2), scatter, "within a class, along axis {}"),
            EigenspaceFamily(
                "length", beta / (b + e**2 * (3 - 4 * e) / lambda_W), 1, "length of axis {}"
            ),
            EigenspaceFamily(
                "tilt", beta / (b - e**2 / lambda_W), d - K, "axis {} leaves the span"
            ),
            EigenspaceFamily("shear", beta / (p + q), 1, "axes {} and {}, symmetric"),
            EigenspaceFamily("turn", beta / (p - q), 1, "axes {} and {}, antisymmetric"),
        )
    )


def optimal_radii(model: Model, singular_values: ArrayLike) -> np.ndarray:
    r"""Singular values h of the optimal class means when an exactly collapsed H0 has a; both (K,).

    .. math::
        \left(b - \frac{e_i^2}{\lambda_W}\right) h_i = \beta a_i, \qquad
        e_i = \frac{\lambda_W}{h_i^2+\lambda_W}

    The left side is negative or increasing in h, so there is one positive root. It has
    :math:`e_i^2 < \lambda_W b`, the certificate of a global minimum.

    Args:
        model: The decays and the pull, lambda_W and beta positive.
        singular_values: a, shape (K,), not negative.

    Raises:
        ValueError: beta = 0, or a singular value is negative, or is 0 where the minimizer is not
            unique.

    Examples:
        >>> optimal_radii(Model(0.1, 0.1, beta=1.0), [0.5, 2.0]).round(3)
        array([0.662, 1.832])
    """
    instance("model", model, Model)
    positive("beta", model.beta)
    a = as_array("singular_values", singular_values, np.shape(singular_values))
    if a.ndim != 1 or a.size == 0 or a.min() < 0:
        raise ValueError(
            f"singular_values must be a list of numbers that are not negative, but is {a}."
        )
    lambda_W, beta, b = model.lambda_W, model.beta, model.b
    if a.min() == 0 and b * lambda_W <= 1:
        raise ValueError(
            "a singular value is 0: uniqueness needs lambda_W (lambda_H + beta) > 1, "
            f"not {b * lambda_W:.6g}."
        )

    def root(target: float) -> float:
        # The force lambda_W h / (h^2 + lambda_W)^2 is less than 1 / (2 sqrt(lambda_W)).
        high = (target + 0.5 / sqrt(lambda_W)) / b

        def surplus(h: float) -> float:
            return (b - lambda_W / (h * h + lambda_W) ** 2) * h - target

        return float(optimize.brentq(surplus, 0, high, xtol=1e-300, rtol=1e-15))

    return np.array([root(beta * value) for value in a])


def eigenbases(frame: ArrayLike, n: int) -> dict[str, np.ndarray]:
    """Orthonormal bases of the four eigenspaces of ``spectrum`` for c < 1; for small sizes.

    Args:
        frame: Q, shape (d, K), with orthonormal columns; d >= K.
        n: Samples in each class; the samples are in order of class.

    Returns:
        By name, arrays (N d, multiplicity), whose columns are feature changes (N, d), flattened.

    Raises:
        ValueError: The frame is not orthonormal, d < K, or the bases have more than 2^27 entries.

    Examples:
        >>> bases = eigenbases(np.eye(3, 2), n=2)
        >>> bases["within_frame"].shape, bases["shape"].shape
        ((12, 4), (12, 3))
    """
    if np.ndim(frame) != 2:
        raise ValueError(f"frame must have shape (d, K); the shape given is {np.shape(frame)}.")
    d, K = np.shape(frame)
    frame_fits(K, d)
    positive_integer("n", n)
    _refuse_size(f"an orthonormal basis of changes in {d * K * n} dimensions", (d * K * n) ** 2)
    Q = as_frame(frame, K, d)
    P = linalg.qr(Q)[0][:, K:]
    contrasts = linalg.helmert(n).T if n > 1 else np.zeros((1, 0))
    deviations = np.kron(np.eye(K), contrasts)
    units = np.eye(K * K).reshape(K, K, K, K)
    pairs = list(combinations(range(K), 2))
    shapes = [units[i, i] for i in range(K)]
    shapes += [(units[i, j] + units[j, i]) / sqrt(2) for i, j in pairs]
    turns = [(units[i, j] - units[j, i]) / sqrt(2) for i, j in pairs]
    tilts = np.kron(np.eye(K), P).T.reshape(-1, K, d)

    def of_means(changes: Iterable[np.ndarray]) -> np.ndarray:
        each = np.reshape(list(changes), (-1, K, d)) / sqrt(n)
        return np.repeat(each, n, axis=1).reshape(-1, K * n * d).T

    return {
        "within_frame": np.kron(deviations, Q),
        "within_complement": np.kron(deviations, P),
        "shape": of_means(S @ Q.T for S in shapes),
        "rotation": of_means([*(S @ Q.T for S in turns), *tilts]),
    }


def _spectrum_at_zero(model: Model, K: int, d: int, n: int, first_order: bool) -> Spectrum:
    """Spectrum at H0 = 0, the minimizer of Eq. 1 for c >= 1."""
    for name, value in (("K", K), ("d", d), ("n", n)):
        positive_integer(name, value)
    positive("beta", model.beta)
    values = [model.beta / (model.b - t) for t in (0, 1 / model.lambda_W)]
    within, means = _linearized(values) if first_order else values
    return _singles(
        ("within", within, d * K * (n - 1), "deviations within a class"),
        ("means", means, d * K, "changes of the class means"),
    )


def _singles(*spaces: tuple[str, float, int, str]) -> Spectrum:
    """A spectrum without axes."""
    return Spectrum(tuple(_single(*space) for space in spaces))


def _single(name: str, value: float, multiplicity: int, description: str) -> EigenspaceFamily:
    return EigenspaceFamily(name, np.array(value), multiplicity, description)


def _factors(model: Model, first_order: bool) -> Contraction:
    """The factors of contraction, exact or to first order in 1 / beta."""
    exact = contraction(model)
    return Contraction(*_linearized(exact)) if first_order else exact


def _linearized(values: Iterable[float]) -> list[float]:
    """1 - t/beta for each beta / (beta + t)."""
    return [2 - 1 / value for value in values]


def _refuse_size(what: str, entries: int) -> None:
    if entries > LARGEST_ARRAY:
        raise ValueError(
            f"{what} would fill {entries:,} numbers; the largest array made is {LARGEST_ARRAY:,}."
        )
