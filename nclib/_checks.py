"""Checks of what the user hands in.

Every refusal is a sentence that names the argument, the condition and the value.
"""

import math
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

T = TypeVar("T")
# How a reader gets an object of one of the library's own types.
MADE_BY = {
    "ClassStatistics": "ClassStatistics.from_features(features, labels)",
    "Model": "Model(lambda_W, lambda_H, beta)",
    "Solution": "minimize(model, stats)",
}


def instance(name: str, value: object, expected: type[T]) -> T:
    """The value itself, where it is of the expected type.

    Raises:
        TypeError: The value is of another type, for example features where statistics are wanted,
            or a model in the place of the statistics.
    """
    if isinstance(value, expected):
        return value
    shape = getattr(value, "shape", None)
    given = type(value).__name__ if shape is None else f"an array of shape {tuple(shape)}"
    wanted = expected.__name__
    how = f", as {MADE_BY[wanted]} makes one" if wanted in MADE_BY else ""
    raise TypeError(f"{name} must be a {wanted}{how}, but {name} is {given}.")


def as_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Features as a real floating-point array of shape (N, d), without a copy where none is needed.

    float16, float32 and float64 keep their type, so that no narrow array is ever widened as a
    whole; integers and wider floats become float64. NaN and infinity are not looked for: statistics
    and metrics notice them while they read the data anyway, and other callers add ``finite``.

    Raises:
        TypeError: The entries are not real numbers.
        ValueError: The array is not two-dimensional, or has no rows or no columns.
    """
    x = np.asarray(features)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {x.dtype}.")
    if x.ndim != 2:
        raise ValueError(
            f"{name} must have shape (N, d), one row per sample; the shape given is {x.shape}."
        )
    if 0 in x.shape:
        raise ValueError(
            f"{name} must have at least one row and one column; the shape given is {x.shape}."
        )
    return x if x.dtype in (np.float16, np.float32, np.float64) else x.astype(np.float64)


def as_labels(labels: ArrayLike, N: int, num_classes: int | None = None) -> np.ndarray:
    """Labels as an integer array of shape (N,) with values in 0..K-1.

    K is ``num_classes``, or the largest label plus one. With ``num_classes`` a class may have no
    samples here (another shard may hold them); without it the labels must cover 0..K-1, because a
    gap would be a class nobody named.

    Raises:
        TypeError: The labels or ``num_classes`` are not integers.
        ValueError: The shape is not (N,), a label lies outside 0..K-1, or a class has no samples.
    """
    y = np.asarray(labels)
    if y.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {y.dtype}.")
    if y.shape != (N,):
        raise ValueError(
            f"labels must have shape ({N},), one per sample; the shape given is {y.shape}."
        )
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise ValueError(f"labels must not be negative, but the label {low} occurs.")
    if num_classes is None:
        present = np.unique(y)
        if len(present) != high + 1:
            k = int(np.argmin(present == np.arange(len(present))))
            raise ValueError(f"class {k} has no samples, although the label {high} occurs.")
    elif high >= positive_integer("num_classes", num_classes):
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, but the label {high} occurs.")
    return y.astype(np.intp, copy=False)


def as_array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """The value as a finite float64 array of the given shape.

    Raises:
        TypeError: The entries are not real numbers.
        ValueError: The shape is another one, or an entry is NaN or infinite.
    """
    x = np.asarray(value)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {x.dtype}.")
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; the shape given is {x.shape}.")
    return finite(name, x.astype(np.float64, copy=False))


def finite(name: str, x: np.ndarray) -> np.ndarray:
    """The array itself.

    Raises:
        ValueError: An entry is NaN or infinite.
    """
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"{name} must be finite, but the entry at {where} is {x[where]}.")
    return x


def not_finite(features: np.ndarray) -> str:
    """Sentence that says where a class sum that is not finite comes from."""
    for i, row in enumerate(features):
        if not (finite := np.isfinite(row)).all():
            j = int(np.argmin(finite))
            return f"features must be finite, but sample {i} has {row[j]} in component {j}."
    return "features must be smaller: a sum over a class overflows."


def every_class(counts: np.ndarray) -> None:
    """Refuse statistics in which a class has no samples.

    Raises:
        ValueError: A count is zero.
    """
    if not np.all(counts):
        raise ValueError(f"class {int(np.argmin(counts != 0))} has no samples.")


def frame_fits(K: int, d: int) -> None:
    """Raise unless K and d are sizes and K orthogonal class means fit into d dimensions.

    Raises:
        TypeError: K or d is not an integer.
        ValueError: K or d is less than 1, or d < K.
    """
    if positive_integer("d", d) < positive_integer("K", K):
        raise ValueError(
            f"d = {d} is less than K = {K}: an orthogonal frame of K means needs d >= K."
        )


def as_frame(frame: ArrayLike, K: int, d: int) -> np.ndarray:
    """Return a frame as a float64 array of shape (d, K) with orthonormal columns.

    Raises:
        TypeError: The entries are not real numbers.
        ValueError: The shape is not (d, K), or the columns are not orthonormal.
    """
    Q = as_array("frame", frame, (d, K))
    error = np.abs(Q.T @ Q - np.eye(K)).max()
    if not error < 1e-8:
        raise ValueError(f"frame is not orthonormal: an entry of Q^T Q - I is {error:.3g}.")
    return Q


def collapses(c: float) -> None:
    """Raise ValueError unless c < 1, where the minimizer of Eq. 1 is a frame and not zero."""
    if c >= 1:
        raise ValueError(f"c = sqrt(lambda_W lambda_H) is {c:.6g}; a collapsed frame needs c < 1.")


def positive(name: str, value: float) -> float:
    """The value as a float.

    Raises:
        TypeError: The value is not a real number.
        ValueError: It is not finite or not greater than zero.
    """
    if not (x := _real(name, value)) > 0:
        raise ValueError(f"{name} must be greater than zero, but {name} = {value}.")
    return x


def nonnegative(name: str, value: float) -> float:
    """The value as a float.

    Raises:
        TypeError: The value is not a real number.
        ValueError: It is not finite or negative.
    """
    if not (x := _real(name, value)) >= 0:
        raise ValueError(f"{name} must not be negative, but {name} = {value}.")
    return x


def positive_integer(name: str, value: int) -> int:
    """The value as an int.

    Raises:
        TypeError: The value is not an integer.
        ValueError: It is less than one.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but {name} = {value}.")
    return int(value)


def _real(name: str, value: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, not {type(value).__name__}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, but {name} = {value}.")
    return float(value)
