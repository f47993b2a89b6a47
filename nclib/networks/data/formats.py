"""The formats that image data sets come in: IDX files, batches of CIFAR-10, and trees of image
files.

A file that is not as its format demands is refused with a CorruptData that says what was expected
and what was found.
"""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nclib._checks import positive_integer
from nclib.networks.data.archives import (
    CorruptData,
    check_md5,
    naming,
    open_packed,
    read_file,
    tar_files,
)

ImageShape = tuple[int, int, int]  # channels, height, width
PIXELS = 1 << 20  # the most pixels of one image
EXTENSIONS = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "test")
BATCH_FOLDER = "cifar-10-batches-bin"
BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
RECORDS = 10_000  # images in one batch of CIFAR-10
RECORD = (3, 32, 32)  # shape of one image of CIFAR-10


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labeled images, ordered by class.

    Attributes:
        images: Unsigned bytes (N, channels, height, width).
        labels: Integers (N,) from 0 to K - 1 that never decrease; every class occurs.
        classes: Names of the K classes.
        source: Which data set, and which copy of it.

    Raises:
        ValueError: An array has another type, shape, order or range.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    source: str

    def __post_init__(self) -> None:
        x, y, K = self.images, self.labels, len(self.classes)
        if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape:
            raise ValueError(
                f"images must be uint8 (N, channels, height, width), but they are {x.dtype} "
                f"{x.shape}."
            )
        if y.dtype != np.int64 or y.shape != x.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(x)},), but they are {y.dtype} {y.shape}."
            )
        if y[0] != 0 or y[-1] != K - 1 or not np.isin(np.diff(y), (0, 1)).all():
            raise ValueError(
                f"labels must go through 0..{K - 1} in order, every class being there."
            )

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        return (
            f"ImageData({self.source!r}, N={self.N}, K={self.K}, {channels} x {height} x {width})"
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
        """The first 16 hexadecimal digits of the sha256 sum of images and then labels, as bytes in
        memory order.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        return digest.hexdigest()[:16]

    def subset(self, per_class: int, seed: int) -> "ImageData":
        """Choose images of every class at random, without repetition, and keep their order.

        Args:
            per_class: How many of each class.
            seed: Seed of the choice.

        Raises:
            ValueError: ``per_class`` is not between 1 and the size of the smallest class.

        Examples:
            >>> from nclib.networks import load
            >>> load("digits").subset(5, seed=0)
            ImageData('digits (scikit-learn)', N=50, K=10, 1 x 8 x 8)
        """
        counts = np.bincount(self.labels)
        smallest = counts.min()
        if not 1 <= positive_integer("per_class", per_class) <= smallest:
            raise ValueError(
                f"per_class must lie between 1 and {smallest}, the smallest class, but it is "
                f"{per_class}."
            )
        rng = np.random.default_rng(seed)
        starts = np.cumsum(counts) - counts
        chosen = np.sort(
            [
                start + rng.permutation(n)[:per_class]
                for start, n in zip(starts, counts, strict=True)
            ]
        ).ravel()
        return ImageData(self.images[chosen], self.labels[chosen], self.classes, self.source)


def ordered(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], source: str
) -> ImageData:
    """Images and labels in any order, as image data; within a class the order stays."""
    order = np.argsort(labels, kind="stable")
    return ImageData(images[order], labels[order].astype(np.int64), classes, source)


def check_labels(labels: np.ndarray, N: int, name: object) -> None:
    """Raise CorruptData unless there are N labels, all of them digits."""
    if len(labels) != N:
        raise CorruptData(f"{name} must hold {N} labels, one per image; found {len(labels)}.")
    if not set(np.unique(labels)) <= set(range(10)):
        raise CorruptData(f"{name} must hold labels 0..9; found {labels.min()}..{labels.max()}.")


# IDX


def read_idx(path: Path, item: tuple[int, ...], md5: str | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or packed, as an array (N, *item).

    Args:
        path: The file.
        item: Shape of an item: (28, 28) for the images of MNIST, () for its labels.
        md5: The sum of the unpacked file; by default any.

    Raises:
        CorruptData: The magic number, the dimensions, the length or the sum is another one.
    """
    magic = bytes((0, 0, 8, 1 + len(item)))
    with naming(path), open_packed(path) as stream:
        header = stream.read(4 * (2 + len(item)))
        if header[:4] != magic or len(header) < 4 * (2 + len(item)):
            raise CorruptData(
                f"{path} must begin with {magic.hex()} and {1 + len(item)} sizes; "
                f"found {header.hex()}."
            )
        sizes = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
        if sizes[1:] != item or not sizes[0]:
            raise CorruptData(f"{path} must hold items of shape {item}; found the sizes {sizes}.")
        expected = math.prod(sizes)
        body = stream.read(expected + 1)
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        raise CorruptData(f"{path} must hold {expected} bytes after its header; found {found}.")
    if md5 is not None:
        check_md5(header + body, md5, path)
    return np.frombuffer(body, np.uint8).reshape(sizes)


# Batches of CIFAR-10


def read_batches(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the binary batches of CIFAR-10 from their archive or the unpacked folder.

    Args:
        path: A tar archive, packed or not, whose entries are cifar-10-batches-bin/NAME, or that
            folder.
        split: "train" or "test".

    Returns:
        Images (N, 3, 32, 32) and labels (N,), in the order of the batches.

    Raises:
        CorruptData: A batch is missing, or has another size or other labels.
    """
    names = BATCHES[split]
    if path.is_dir():
        found = {name: read_file(path / name) for name in names if (path / name).exists()}
    else:
        files = tar_files(path, lambda parts: parts[:-1] == (BATCH_FOLDER,) and parts[-1] in names)
        found = {parts[-1]: content for parts, content in files}
    missing = [name for name in names if name not in found]
    if missing:
        raise CorruptData(f"{path} must hold {', '.join(names)}; missing: {', '.join(missing)}.")
    records = np.concatenate([_records(found[name], f"{path}: {name}") for name in names])
    return records[:, 1:].reshape(-1, *RECORD), records[:, 0]


def _records(content: bytes, name: str) -> np.ndarray:
    """Records of one label and 3072 pixels, plane by plane."""
    size = 1 + math.prod(RECORD)
    if len(content) != RECORDS * size:
        raise CorruptData(
            f"{name} must hold {RECORDS} records of {size} bytes; found {len(content)} bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    check_labels(records[:, 0], RECORDS, name)
    return records


# Trees of image files


class Tree(NamedTuple):
    """The images of one part of a tree, ordered by class and name.

    Attributes:
        images: Unsigned bytes (N, channels, height, width).
        labels: Integers (N,).
        classes: Names of the classes.
        kinds: Which formats occur, of JPEG and PNG.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    kinds: set[str]


def read_tree(path: Path, split: str, shape: ImageShape | None = None) -> Tree:
    """Read the images SPLIT/CLASS/NAME of a folder, or of a tar archive.

    JPEG and PNG files in gray or RGB are read; other extensions are passed over, and so is what is
    hidden or put there by a program (a name that begins with a dot or two underscores). In a tar
    one further folder may lie around the whole tree.

    Args:
        path: The folder or the archive.
        split: "train" or "test". The classes are those of both together, so that both number them
            alike.
        shape: (channels, height, width) that every image must have; by default that of the first
            one.

    Raises:
        CorruptData: An image is damaged or has another shape, a class has no images in the split,
            or an archive holds two trees.
        OSError: A folder or a file cannot be read.
    """
    files: dict[tuple[str, str], bytes | Path] = {}
    classes = set()
    for part, class_name, name, content in (
        _folder(path) if path.is_dir() else _archive(path, split)
    ):
        classes.add(class_name)
        if part == split:
            files[class_name, name] = content
    empty = sorted(classes - {class_name for class_name, _ in files})
    if empty or not classes:
        raise CorruptData(
            f"{path} must hold images {split}/{empty[0] if empty else 'CLASS'}/NAME.jpg or .png; "
            "found none."
        )
    names = tuple(sorted(classes))
    keys = sorted(files)
    kinds = set()
    for i, key in enumerate(keys):
        content = files[key]
        raw = read_file(content) if isinstance(content, Path) else content
        pixels, kind = _decode(raw, f"{path}: {split}/{'/'.join(key)}", shape)
        if i == 0:
            shape = pixels.shape
            images = np.empty((len(files), *shape), np.uint8)
        images[i] = pixels
        kinds.add(kind)
    labels = np.array([names.index(class_name) for class_name, _ in keys], np.int64)
    return Tree(images, labels, names, kinds)


def _is_image(parts: tuple[str, ...]) -> bool:
    """Whether a path in a tree is SPLIT/CLASS/NAME or TOP/SPLIT/CLASS/NAME of an image, no part of
    it hidden.
    """
    return (
        3 <= len(parts) <= 4
        and parts[-3] in SPLITS
        and parts[-1].lower().endswith(EXTENSIONS)
        and not any(map(_hidden, parts))
    )


def _hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _folder(path: Path) -> Iterator[tuple[str, str, str, Path]]:
    """All images in a folder: split, class, name and file. A folder that cannot be read is an
    error.
    """
    for split in SPLITS:
        if not (path / split).is_dir():
            continue
        for class_name in os.listdir(path / split):
            place = path / split / class_name
            if place.is_dir() and not _hidden(class_name):
                for name in os.listdir(place):
                    if _is_image((split, class_name, name)):
                        yield split, class_name, name, place / name


def _archive(path: Path, split: str) -> Iterator[tuple[str, str, str, bytes]]:
    """All images in a tar: split, class, name and content, which is empty for the other split."""
    tops: dict[tuple[str, ...], str] = {}
    others = set()

    def wanted(parts: tuple[str, ...]) -> bool:
        if not _is_image(parts):
            return False
        tops.setdefault(parts[:-3], "/".join(parts))
        if len(tops) > 1:
            raise CorruptData(
                f"{path} is refused: it holds two trees, with {' and '.join(tops.values())}."
            )
        if parts[-3] != split:
            others.add(parts[-3:])
        return parts[-3] == split

    for parts, content in tar_files(path, wanted):
        yield parts[-3], parts[-2], parts[-1], content
    for part, class_name, name in sorted(others):
        yield part, class_name, name, b""


def _decode(raw: bytes, name: str, shape: ImageShape | None) -> tuple[np.ndarray, str]:
    """The pixels (channels, height, width) of one image, and its format; the size is checked before
    decoding.
    """
    from PIL import Image  # only who reads image files needs it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as image:
                channels, height, width = len(image.getbands()), image.height, image.width
                found = (channels, height, width)
                if image.mode not in ("L", "RGB"):
                    raise CorruptData(f"{name} must be gray or RGB; found the mode {image.mode}.")
                if found != (shape or found) or height * width > PIXELS:
                    expected = shape or f"at most {PIXELS} pixels"
                    raise CorruptData(
                        f"{name}: {expected} expected as (channels, height, width); found {found}."
                    )
                pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
                return pixels, str(image.format)
    except CorruptData:
        raise
    except Image.UnidentifiedImageError as error:
        raise CorruptData(f"{name} is not a whole JPEG or PNG image.") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise CorruptData(f"{name} is not a whole JPEG or PNG image: {error}.") from error
