"""Data sets as arrays: images by name, and the digits as features; always ordered by class."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from nclib._checks import positive_integer
from nclib.networks.data import download
from nclib.networks.data.archives import CorruptData, read_batches, read_idx, read_tree, unpickle

DIGITS = tuple("0123456789")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS = 10_000  # images in one batch of CIFAR-10
PER_CLASS = {"train": 5000, "test": 1000}  # images of one class of CIFAR-10
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
# Names that a copy of CIFAR-10 as a tree of images may have, and what may follow a tree's name.
COPIES = ("cifar10-jpeg", "cifar10", "cifar-10", "CIFAR-10-images")
SUFFIXES = ("", ".tar", ".tar.gz", ".tgz", ".tar.xz")


class DataMissing(FileNotFoundError):
    """A data set is not there; the message says what was looked for, where, and how to get it."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labeled images, ordered by class.

    Args:
        images: unsigned bytes (N, channels, height, width).
        labels: integers (N,) from 0 to K - 1 that never decrease; every class occurs.
        classes: names of the K classes.
        source: which data set, and which copy of it.

    Raises:
        ValueError: an array has another type, shape, order or range.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str

    def __post_init__(self):
        x, y, K = self.images, self.labels, len(self.classes)
        if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape:
            raise ValueError(
                f"images must be uint8 (N, channels, height, width); got {x.dtype} {x.shape}."
            )
        if y.dtype != np.int64 or y.shape != x.shape[:1]:
            raise ValueError(f"labels must be int64 of shape ({len(x)},); got {y.dtype} {y.shape}.")
        if y[0] != 0 or y[-1] != K - 1 or not np.isin(np.diff(y), (0, 1)).all():
            raise ValueError(
                f"labels must go through 0..{K - 1} in order, every class being there."
            )

    @property
    def N(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def K(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the sha256 sum of images and then labels, as bytes in memory order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels, "<i8"))
        return digest.hexdigest()[:16]

    def subset(self, per_class: int, seed: int) -> "ImageData":
        """Choose per_class images of every class at random, without repetition, and keep their order.

        Raises:
            ValueError: per_class is not between 1 and the size of the smallest class.
        """
        counts = np.bincount(self.labels)
        if not 1 <= positive_integer("per_class", per_class) <= counts.min():
            raise ValueError(
                f"per_class must lie between 1 and {counts.min()}, the smallest class; got {per_class}."
            )
        rng = np.random.default_rng(seed)
        starts = np.cumsum(counts) - counts
        chosen = np.sort(
            [a + rng.permutation(n)[:per_class] for a, n in zip(starts, counts, strict=True)]
        ).ravel()
        return ImageData(self.images[chosen], self.labels[chosen], self.classes, self.source)


def digits(per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of scikit-learn: 8 x 8 gray images of ten classes, balanced and ordered by class.

    Args:
        per_class: images per class; the first ones of each class in the order of the data set are taken.
            By default as many as the smallest class has (174).

    Returns:
        Pixel values (10 * per_class, 64) between 0 and 1, and labels 0, ..., 9 of shape (10 * per_class,).

    Raises:
        ValueError: if per_class is not between 1 and the size of the smallest class.
    """
    images, labels = load_digits(return_X_y=True)
    smallest = int(np.bincount(labels).min())
    per_class = smallest if per_class is None else per_class
    if not 1 <= per_class <= smallest:
        raise ValueError(
            f"per_class must lie between 1 and {smallest}, the size of a class; got {per_class}."
        )
    chosen = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(10)])
    return images[chosen] / 16.0, labels[chosen].astype(np.int64)


def load(name: str, split: str = "train", root: str | os.PathLike | None = None) -> ImageData:
    """Load a data set by name.

    "digits" is always there: the images of `digits`, whose values 0, ..., 16 are multiplied by 15 (so 0, ..., 240).
    "mnist" is looked for as its four IDX files, plain or packed, in the folder, in mnist/ or in MNIST/raw/.
    "cifar10" is looked for as the official archives or their unpacked folders (binary before Python), and then as a
    copy: a tree train/CLASS/NAME.jpg or .png, as a folder or a tar, called cifar10, cifar10-jpeg and the like.
    Any other name is such a tree of that name, whose images all have one shape.

    Args:
        name: the data set.
        split: "train" or "test"; digits has no test part.
        root: the folder of the data sets; by default the one that the environment variable NCLIB_DATA names.

    Raises:
        ValueError: the name or the split cannot be.
        DataMissing: the data set is not there.
        CorruptData: a file is truncated, damaged, or not the official one that its name promises.
    """
    read, looked = _find(name, split, root)
    if read is not None:
        return read()
    advice = ""
    if name in download.OFFICIAL:
        advice = f" `python -m nclib.networks download {name}` fetches the official files. "
        advice += download.by_hand(name, download.data_folder(root) or "FOLDER")
    raise DataMissing(f"The data set {name!r} ({split}) is missing: {looked}{advice}")


def available(name: str, root: str | os.PathLike | None = None, split: str = "train") -> bool:
    """Whether the files of a data set are there; their content is not looked at."""
    return _find(name, split, root)[0] is not None


def _find(
    name: str, split: str, root: str | os.PathLike | None
) -> tuple[Callable[[], ImageData] | None, str]:
    """A function that reads the best copy there is, or None and a sentence that says what was looked for."""
    if split not in (splits := ("train",) if name == "digits" else ("train", "test")):
        raise ValueError(f"split must be one of {', '.join(splits)} for {name!r}; got {split!r}.")
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\"):
        raise ValueError(f"name must be that of a data set, not of a path; got {name!r}.")
    if name == "digits":
        return _digits, ""
    if (folder := download.data_folder(root)) is None:
        return None, "no folder was given, and the environment variable NCLIB_DATA is not set."
    looked = []
    if name == "mnist":
        stems = [
            stem
            for stem in download.MNIST_MD5
            if stem.startswith("train" if split == "train" else "t10k")
        ]
        for place in (folder, folder / "mnist", folder / "MNIST" / "raw"):
            looked += [str(place / f"{stem}[.gz]") for stem in stems]
            files = [
                next((p for p in (place / f"{s}.gz", place / s) if p.is_file()), None)
                for s in stems
            ]
            if all(files):
                return partial(_mnist, *files), ""
    if name == "cifar10":
        for kind, short in (("binary", "bin"), ("python", "py")):
            for place in (folder, folder / "cifar10"):
                for path in (
                    place / f"cifar-10-{kind}.tar.gz",
                    place / f"cifar-10-batches-{short}",
                ):
                    looked.append(str(path))
                    if path.exists():
                        return partial(_cifar10, path, short, split), ""
    for stem in {"mnist": (), "cifar10": COPIES}.get(name, (name,)):
        looked += [
            f"{folder / stem}/{split}/CLASS/",
            *(str(folder / f"{stem}{s}") for s in SUFFIXES[1:]),
        ]
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file() if suffix else (path / split).is_dir():
                return partial(_tree, path, split, name), ""
    return None, f"no {', '.join(looked)}."


def _digits() -> ImageData:
    x, y = digits()
    return ImageData(
        (x * (16 * 15)).astype(np.uint8).reshape(-1, 1, 8, 8), y, DIGITS, "digits (scikit-learn)"
    )


def _sorted(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], source: str
) -> ImageData:
    order = np.argsort(labels, kind="stable")
    return ImageData(images[order], labels[order].astype(np.int64), classes, source)


def _mnist(images: Path, labels: Path) -> ImageData:
    x = read_idx(images, (28, 28), download.MNIST_MD5[images.name.removesuffix(".gz")])
    y = read_idx(labels, (), download.MNIST_MD5[labels.name.removesuffix(".gz")])
    _check_labels(y, len(x), labels)
    return _sorted(x[:, None], y, DIGITS, "MNIST")


def _check_labels(labels: np.ndarray, N: int, name: object) -> None:
    if len(labels) != N:
        raise CorruptData(f"{name} must hold {N} labels, one per image; found {len(labels)}.")
    if not set(np.unique(labels)) <= set(range(10)):
        raise CorruptData(f"{name} must hold labels 0..9; found {labels.min()}..{labels.max()}.")


def _cifar10(path: Path, kind: str, split: str) -> ImageData:
    if path.is_file():
        download.check_md5(path, download.ARCHIVE_MD5[path.name], path)
    names = [name + (".bin" if kind == "bin" else "") for name in BATCHES[split]]
    # The sums of the unpacked binary files are not published.
    sums = {
        name: download.BATCH_MD5[name] if kind == "py" and path.is_dir() else None for name in names
    }
    parts = sorted(read_batches(path, f"cifar-10-batches-{kind}", sums))
    pairs = [(_binary if kind == "bin" else _pickled)(content, name) for name, content in parts]
    images, labels = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return _sorted(images.reshape(-1, 3, 32, 32), labels, OBJECTS, "CIFAR-10")


def _binary(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of one label and 3072 pixels, plane by plane."""
    if len(content) != RECORDS * 3073:
        raise CorruptData(
            f"{name} must hold {RECORDS} records of 3073 bytes; found {len(content)} bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    _check_labels(records[:, 0], RECORDS, name)
    return records[:, 1:], records[:, 0]


def _pickled(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary with the pixels as data (N, 3072) and the labels as a list."""
    batch = unpickle(content, name)
    x, y = batch.get("data"), batch.get("labels")
    if not isinstance(x, np.ndarray) or x.shape != (RECORDS, 3072):
        raise CorruptData(
            f"{name} must hold data of shape ({RECORDS}, 3072); found {getattr(x, 'shape', x)}."
        )
    if not isinstance(y, list) or not all(type(label) is int for label in y):
        raise CorruptData(f"{name} must hold a list of integer labels; found {type(y).__name__}.")
    labels = np.array(y)
    _check_labels(labels, RECORDS, name)
    return x, labels


def _tree(path: Path, split: str, name: str) -> ImageData:
    cifar = name == "cifar10"
    images, labels, classes, formats = read_tree(path, split, (3, 32, 32) if cifar else None)
    if not cifar:
        return ImageData(images, labels, classes, f"image folder {name}")
    counts = np.bincount(labels)
    if classes != OBJECTS or set(counts) != {PER_CLASS[split]}:
        raise CorruptData(
            f"{path} must hold {PER_CLASS[split]} images of each of {', '.join(OBJECTS)}; "
            f"found {', '.join(f'{c} {n}' for c, n in zip(classes, counts, strict=True))}."
        )
    return ImageData(
        images, labels, classes, f"CIFAR-10 ({'JPEG' if 'JPEG' in formats else 'PNG'} copy)"
    )
