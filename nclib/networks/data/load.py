"""Data sets by name: where their files may lie, which copy is taken, and how it is checked."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nclib.networks.data.archives import CorruptData
from nclib.networks.data.formats import (
    RECORD,
    SPLITS,
    ImageData,
    check_labels,
    ordered,
    read_batches,
    read_idx,
    read_tree,
)

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"
DIGITS = tuple("0123456789")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = {"train": 5000, "test": 1000}  # images of one class of CIFAR-10
# What may follow the name of a tree of images.
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz")

# The md5 sums of MNIST's files once unpacked.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# Of each channel of CIFAR-10 the sum of all pixel values and of their squares. No sum of its
# unpacked files is published, but mean and standard deviation of its channels are, in full double
# precision; times 51,200,000 pixels (10,240,000 in the test part) they are these integers.
CIFAR10_SUMS = {
    "train": (
        (6415714204, 1007102432534),
        (6295060180, 971356520230),
        (5829907619, 891641299129),
    ),
    "test": (
        (1290492328, 203142822772),
        (1266775083, 195994125155),
        (1176108223, 180646015723),
    ),
}


class DataMissing(FileNotFoundError):
    """A data set is not there; the message says what was looked for, where, and how to get it."""


class Form(NamedTuple):
    """One way in which a data set may lie in the folder of data sets.

    Attributes:
        names: The files that it takes. A name that ends with "[.gz]" is that of a file which may be
            packed, one that ends with a slash that of a folder, one that ends with "CLASS/" that of
            a folder with one folder per class; {split} and {part} stand for the split as most and
            as MNIST call it.
        read: Reads these files, and is told the split.
    """

    names: tuple[str, ...]
    read: Callable[..., ImageData]

    def wanted(self, split: str) -> list[str]:
        """The names for this split."""
        part = "t10k" if split == "test" else split
        return [name.format(split=split, part=part) for name in self.names]

    def paths(self, folder: Path, split: str) -> list[Path] | None:
        """The files, if all are there."""
        found = [_find(folder, name) for name in self.wanted(split)]
        return [path for path in found if path is not None] if all(found) else None


class Official(NamedTuple):
    """An official file.

    Attributes:
        url: Its address.
        place: Its place under the folder of data sets.
        md5: The sum of the file as it is served.
        check: Raises CorruptData unless a file has the right content, however it is packed.
    """

    url: str
    place: str
    md5: str
    check: Callable[[Path], object]


class DataSet(NamedTuple):
    """What is known of a data set.

    Attributes:
        forms: The ways in which it may lie there, the best one first.
        official: The files that a download fetches.
        splits: Its parts.
        pickles: Files with the same images that are never read.
    """

    forms: tuple[Form, ...]
    official: tuple[Official, ...] = ()
    splits: tuple[str, ...] = SPLITS
    pickles: tuple[str, ...] = ()


def digits(per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of scikit-learn: 8 x 8 gray images of ten classes, balanced and
    ordered by class.

    Args:
        per_class: Images per class; the first ones of each class in the order of the data set are
            taken. By default as many as the smallest class has (174).

    Returns:
        Pixel values (N, 64) between 0 and 1, and labels 0, ..., 9 of shape (N,), with
        N = 10 ``per_class``.

    Raises:
        ValueError: ``per_class`` is not between 1 and the size of the smallest class.

    Examples:
        >>> from nclib.networks import digits
        >>> images, labels = digits(per_class=3)
        >>> images.shape, labels[:5]
        ((30, 64), array([0, 0, 0, 1, 1]))
    """
    from sklearn.datasets import load_digits  # nobody else who imports this package needs it

    images, labels = load_digits(return_X_y=True)
    smallest = int(np.bincount(labels).min())
    per_class = smallest if per_class is None else per_class
    if not 1 <= per_class <= smallest:
        raise ValueError(
            f"per_class must lie between 1 and {smallest}, the size of a class, but it is "
            f"{per_class}."
        )
    chosen = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(10)])
    return images[chosen] / 16.0, labels[chosen].astype(np.int64)


def load(name: str, split: str = "train", root: str | os.PathLike | None = None) -> ImageData:
    """Load a data set by name.

    "digits" is always there: the images of ``digits``, whose values 0, ..., 16 are multiplied by 15
    (so 0, ..., 240). "mnist" is looked for as its four IDX files, plain or packed, in the folder,
    in mnist/ or in MNIST/raw/. "cifar10" is looked for as the binary archive or its unpacked
    folder, and then as a copy: a tree train/CLASS/NAME.jpg or .png, as a folder or a tar, called
    cifar10, cifar10-jpeg and the like. The Python version of CIFAR-10 has the same images as
    pickles, which are never read. Any other name is such a tree of that name, whose images all have
    one shape.

    Args:
        name: The data set.
        split: "train" or "test"; digits has no test part.
        root: The folder of the data sets; by default the one that the environment variable
            NCLIB_DATA names.

    Raises:
        ValueError: The name or the split cannot be.
        DataMissing: The data set is not there.
        CorruptData: A file is truncated, damaged, or not what its name promises.

    Examples:
        >>> from nclib.networks import load
        >>> load("digits")
        ImageData('digits (scikit-learn)', N=1740, K=10, 1 x 8 x 8)
    """
    reader = _reader(name, split, root)
    if reader is not None:
        return reader()
    raise DataMissing(
        f"The data set {name!r} ({split}) is missing: {_what_is_missing(name, split, root)}"
    )


def available(name: str, root: str | os.PathLike | None = None, split: str = "train") -> bool:
    """Whether the files of a data set are there; their content is not looked at.

    Args:
        name: The data set.
        root: The folder of the data sets; by default the one that the environment variable
            NCLIB_DATA names.
        split: "train" or "test".

    Raises:
        ValueError: The name or the split cannot be.

    Examples:
        >>> from nclib.networks import available
        >>> available("digits")
        True
    """
    return _reader(name, split, root) is not None


def data_folder(root: str | os.PathLike | None = None) -> Path | None:
    """The folder of the data sets: root, or what the environment variable NCLIB_DATA names, or
    None.
    """
    root = root or os.environ.get("NCLIB_DATA")
    return Path(root).expanduser() if root else None


def by_hand(name: str, root: Path | str) -> str:
    """A sentence that says how to get a data set by hand."""
    files = "; ".join(
        f"{file.url} as {Path(root) / file.place}" for file in DATASETS[name].official
    )
    return f"To get it by hand, save {files}."


def _data_set(name: str, split: str) -> DataSet:
    """What is known of a data set of this name, once name and split are checked."""
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\{}"):
        raise ValueError(f"name must be that of a data set, not of a path, but it is {name!r}.")
    known = DATASETS.get(name)
    if known is None:
        known = DataSet(_trees((name,), partial(_image_folder, name=name)))
    if split not in known.splits:
        raise ValueError(
            f"split must be one of {', '.join(known.splits)} for {name!r}, but it is {split!r}."
        )
    return known


def _reader(
    name: str, split: str, root: str | os.PathLike | None
) -> Callable[[], ImageData] | None:
    """What reads the best copy that is there; None if there is none."""
    known, folder = _data_set(name, split), data_folder(root)
    for form in known.forms:
        paths = form.paths(folder, split) if folder is not None else None
        if paths is not None or not form.names:
            return partial(form.read, *paths or (), split=split)
    return None


def _what_is_missing(name: str, split: str, root: str | os.PathLike | None) -> str:
    """What was looked for, and where to get it."""
    known, folder = _data_set(name, split), data_folder(root)
    if folder is None:
        text = "no folder was given, and the environment variable NCLIB_DATA is not set."
    else:
        wanted = [name for form in known.forms for name in form.wanted(split)]
        text = f"no {', '.join(f'{folder}/{name}' for name in wanted)}."
        pickles = [found for n in known.pickles if (found := _find(folder, n)) is not None]
        if pickles:
            text += (
                f" {pickles[0]} is there, but it holds pickles, which can run programs and are "
                "never read; the binary version has the same images."
            )
    if known.official:
        text += f" `python -m nclib.networks download {name}` fetches the official files. "
        text += by_hand(name, folder or "FOLDER")
    return text


def _find(folder: Path, name: str) -> Path | None:
    """The file or folder of a form's name, if it is there; a packed one before a plain one."""
    stem = name.removesuffix("[.gz]")
    if name.endswith("/"):
        path = folder / name.removesuffix("CLASS/")
        return path if path.is_dir() else None
    for candidate in (f"{stem}.gz", stem) if stem != name else (stem,):
        if (folder / candidate).is_file():
            return folder / candidate
    return None


# How each data set is read


def _digits(split: str) -> ImageData:
    x, y = digits()
    images = (x * (16 * 15)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return ImageData(images, y, DIGITS, "digits (scikit-learn)")


def _mnist(images: Path, labels: Path, split: str) -> ImageData:
    x, y = _mnist_file(images), _mnist_file(labels)
    check_labels(y, len(x), labels)
    return ordered(x[:, None], y, DIGITS, "MNIST")


def _mnist_file(path: Path) -> np.ndarray:
    """One of the four files, checked by its content."""
    name = path.name.removesuffix(".gz")
    return read_idx(path, (28, 28) if "images" in name else (), MNIST_MD5[name])


def _cifar10(path: Path, split: str) -> ImageData:
    """The binary batches, checked by their content."""
    images, labels = read_batches(path, split)
    sums = tuple(
        (int(channel.sum(dtype=np.int64)), int(np.square(channel, dtype=np.int64).sum()))
        for channel in images.swapaxes(0, 1)
    )
    if sums != CIFAR10_SUMS[split]:
        raise CorruptData(
            f"{path} does not hold the official {split} images: the sums over the channels of "
            f"pixel values and their squares must be {CIFAR10_SUMS[split]}; found {sums}."
        )
    _check_counts(labels, OBJECTS, path, split)
    return ordered(images, labels, OBJECTS, "CIFAR-10")


def _cifar10_copy(path: Path, split: str) -> ImageData:
    """A tree that claims to be a copy of CIFAR-10."""
    tree = read_tree(path.parent if path.is_dir() else path, split, RECORD)
    _check_counts(tree.labels, tree.classes, path, split)
    kind = "JPEG" if "JPEG" in tree.kinds else "PNG"
    return ImageData(tree.images, tree.labels, tree.classes, f"CIFAR-10 ({kind} copy)")


def _check_counts(labels: np.ndarray, classes: tuple[str, ...], path: Path, split: str) -> None:
    """Raise CorruptData unless every class of CIFAR-10 has as many images as it must have."""
    counts = np.bincount(labels, minlength=len(classes))
    if classes != OBJECTS or set(counts) != {PER_CLASS[split]}:
        found = ", ".join(f"{name} {n}" for name, n in zip(classes, counts, strict=True))
        raise CorruptData(
            f"{path} must hold {PER_CLASS[split]} images of each of {', '.join(OBJECTS)}; "
            f"found {found}."
        )


def _image_folder(path: Path, split: str, name: str) -> ImageData:
    """A tree of images of any kind."""
    tree = read_tree(path.parent if path.is_dir() else path, split)
    return ImageData(tree.images, tree.labels, tree.classes, f"image folder {name}")


def _trees(stems: tuple[str, ...], read: Callable[..., ImageData]) -> tuple[Form, ...]:
    """The forms of a tree of images: a folder or a tar of one of these names."""
    return tuple(
        Form((f"{stem}{suffix}",), read)
        for stem in stems
        for suffix in ("/{split}/CLASS/", *SUFFIXES)
    )


def _check_cifar10(path: Path) -> None:
    for split in SPLITS:
        _cifar10(path, split)


DATASETS = {
    "digits": DataSet((Form((), _digits),), splits=("train",)),
    "mnist": DataSet(
        forms=tuple(
            Form(
                (
                    f"{place}{{part}}-images-idx3-ubyte[.gz]",
                    f"{place}{{part}}-labels-idx1-ubyte[.gz]",
                ),
                _mnist,
            )
            for place in ("", "mnist/", "MNIST/raw/")
        ),
        official=tuple(
            Official(f"{MNIST_URL}{name}.gz", f"mnist/{name}.gz", md5, _mnist_file)
            for name, md5 in {
                "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
            }.items()
        ),
    ),
    "cifar10": DataSet(
        forms=(
            *(
                Form((f"{place}{name}",), _cifar10)
                for place in ("", "cifar10/")
                for name in ("cifar-10-binary.tar.gz", "cifar-10-batches-bin/")
            ),
            *_trees(("cifar10-jpeg", "cifar10", "cifar-10", "CIFAR-10-images"), _cifar10_copy),
        ),
        official=(
            Official(
                f"{CIFAR10_URL}cifar-10-binary.tar.gz",
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                _check_cifar10,
            ),
        ),
        pickles=tuple(
            f"{place}{name}"
            for place in ("", "cifar10/")
            for name in ("cifar-10-python.tar.gz", "cifar-10-batches-py/")
        ),
    ),
}
