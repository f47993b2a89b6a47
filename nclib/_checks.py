"""Checks of what the user hands in.

Every refusal is a sentence that names the argument, the condition and the value.
"""

import math
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

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


def as_numpy(name: str, value: ArrayLike) -> np.ndarray:
    """The value as a NumPy array, without a copy where none is needed.

    Tensors are taken as they are: on another device, with a gradient, or of type bfloat16, which
    NumPy lacks and which becomes float32 without rounding. torch is not imported for that.

    Raises:
        ValueError: Entries are masked, or the rows of a list differ in length.
    """
    array: Any = value
    if np.ma.is_masked(array):
        count = np.ma.count_masked(array)
        raise ValueError(
            f"{name} must not be masked, but {count} of its entries are; leave those samples out."
        )
    if hasattr(array, "detach") and hasattr(array, "cpu"):
        array = array.detach().cpu()
        if is_bfloat16(array):
            array = array.float()
    try:
        return np.asarray(array)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"{name} must be an array, but its rows differ in length.") from None


def is_bfloat16(value: object) -> bool:
    """Whether the entries have this type, which torch has and NumPy lacks."""
    return str(getattr(value, "dtype", "")).removeprefix("torch.") == "bfloat16"


def as_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Features as a real floating-point array of shape (N, d), without a copy where none is needed.

    float16, float32 and float64 keep their type, so that no narrow array is ever widened as a
    whole; bfloat16 becomes float32, integers and wider floats become float64. NaN and infinity are
    not looked for: statistics and metrics notice them while they read the data anyway, and other
    callers add ``finite``.

    Raises:
        TypeError: The entries are not real numbers.
        ValueError: The array is not two-dimensional, has no rows or no columns, or is masked.
    """
    x = _real_numbers(name, features)
    if x.ndim != 2:
        raise ValueError(
            f"{name} must have shape (N, d), one row per sample; the shape given is {x.shape}."
        )
    if 0 in x.shape:
        raise ValueError(
            f"{name} must have at least one row and one column; the shape given is {x.shape}."
        )
    own = x.dtype.newbyteorder("=") in (np.float16, np.float32, np.float64)
    return x if own else x.astype(np.float64)


def as_labels(labels: ArrayLike, N: int, num_classes: int | None = None) -> np.ndarray:
    """Labels as an integer array of shape (N,) with values in 0..K-1.

    K is ``num_classes``, or the largest label plus one. With ``num_classes`` a class may have no
    samples here (another shard may hold them); without it the labels must cover 0..K-1, because a
    gap would be a class nobody named.

    Raises:
        TypeError: The labels or ``num_classes`` are not integers.
        ValueError: The shape is not (N,), a label lies outside 0..K-1, or a class has no samples.
            Where the labels are coded in another usual way the sentence says how to convert them.
    """
    y = as_numpy("labels", labels)
    if y.shape != (N,):
        raise ValueError(
            f"labels must have shape ({N},), one per sample; the shape given is {y.shape}"
            f"{_other_shape(y)}."
        )
    if y.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {y.dtype}{_other_type(y)}.")
    low, high = int(y.min()), int(y.max())
    if low < 0:
        both = low == -1 and np.isin(y, (-1, 1)).all()
        remedy = "; for labels -1 and 1 pass (labels + 1) // 2" if both else ""
        raise ValueError(f"labels must not be negative, but the label {low} occurs{remedy}.")
    if num_classes is None:
        present = np.unique(y) if high >= N else np.flatnonzero(np.bincount(y))
        if len(present) != high + 1:
            k = int(np.argmin(present == np.arange(len(present))))
            remedy = _from_one(low == 1 and len(present) == high) or (
                "; name the classes that you want with classes=, or number them without gaps"
            )
            raise ValueError(f"class {k} has no samples, although the label {high} occurs{remedy}.")
    elif high >= positive_integer("num_classes", num_classes):
        remedy = _from_one(low >= 1 and high == num_classes)
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, but the label {high} occurs{remedy}."
        )
    return y.astype(np.intp, copy=False)


def _other_shape(y: np.ndarray) -> str:
    if y.ndim != 2:
        return ""
    if 1 in y.shape:
        return "; pass labels.ravel()"
    one_hot = y.dtype.kind in "iufb" and ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
    return "; for one-hot labels pass labels.argmax(axis=1)" if one_hot else ""


def _other_type(y: np.ndarray) -> str:
    if y.dtype.kind == "b" or (y.dtype.kind == "f" and np.array_equal(y, np.floor(y))):
        return "; pass labels.astype(int)"
    if y.dtype.kind in "USO":
        return "; pass np.unique(labels, return_inverse=True)[1]"
    return ""


def _from_one(so: bool) -> str:
    return "; labels count from 0, so pass labels - 1" if so else ""


def as_classes(classes: ArrayLike) -> np.ndarray:
    """Classes as an array of shape (K,) of different labels.

    Raises:
        TypeError: They are not integers.
        ValueError: They are no list, or one is negative or named twice.
    """
    named = as_numpy("classes", classes)
    if named.dtype.kind not in "iu":
        raise TypeError(f"classes must be integers, not {named.dtype}.")
    if named.ndim != 1 or not len(named) or named.min() < 0:
        raise ValueError(
            f"classes must be a list of labels, none negative, but classes = {named.tolist()}."
        )
    if len(np.unique(named)) < len(named):
        raise ValueError(f"classes must be named once each, but classes = {named.tolist()}.")
    return named


class Chosen(NamedTuple):
    """Samples of some classes only.

    Attributes:
        features: Their features, shape (N, d).
        labels: Their labels, renumbered 0..K-1 in the order in which the classes were named.
        classes: The classes by their old labels, shape (K,).
    """

    features: np.ndarray
    labels: np.ndarray
    classes: np.ndarray


def choose(features: np.ndarray, labels: ArrayLike, classes: ArrayLike) -> Chosen:
    """The samples whose class is named; if all are, the features are not copied.

    Raises:
        TypeError: The classes or the labels are not integers.
        ValueError: A class is negative, is named twice or has no samples, or the labels are wrong.
    """
    named = as_classes(classes)
    bound = max(int(np.max(as_numpy("labels", labels), initial=0)), int(named.max())) + 1
    y = as_labels(labels, len(features), bound)
    position = np.full(bound, -1)
    position[named] = np.arange(len(named))
    new = position[y]
    counts = np.bincount(new[new >= 0], minlength=len(named))
    if not counts.all():
        raise ValueError(
            f"class {named[np.argmin(counts)]} has no samples, although classes names it."
        )
    keep = new >= 0
    if keep.all():
        return Chosen(features, new, named)
    return Chosen(features[keep], new[keep], named)


def as_array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """The value as a finite float64 array of the given shape.

    Raises:
        TypeError: The entries are not real numbers.
        ValueError: The shape is another one, or an entry is masked, NaN or infinite.
    """
    x = _real_numbers(name, value)
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; the shape given is {x.shape}.")
    return finite(name, x.astype(np.float64, copy=False))


def _real_numbers(name: str, value: ArrayLike) -> np.ndarray:
    x = as_numpy(name, value)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not {x.dtype}.")
    return x


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


def as_counts(counts: ArrayLike) -> np.ndarray:
    """Samples per class as a vector of positive integers."""
    n = np.asarray(counts)
    if n.dtype.kind not in "iu":
        raise TypeError(f"counts must be integers, not {n.dtype}.")
    if n.ndim != 1 or n.size == 0:
        raise ValueError(f"counts must be a list of K integers; the shape given is {n.shape}.")
    if n.min() <= 0:
        raise ValueError(f"counts must be positive, but class {int(np.argmin(n))} has {n.min()}.")
    return n


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
