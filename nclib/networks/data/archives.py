"""Safe readers of the files that image data sets come in: IDX, CIFAR-10 batches, and folders of images.

Nothing is ever unpacked to the disk and nothing in a file is ever run. A file that is truncated, damaged or of another
kind is refused with a CorruptData that names it, what was expected and what was found.
"""

import gzip
import io
import lzma
import math
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from nclib.networks.data.download import CorruptData, check_md5

LIMIT = 64 << 20  # bytes; no file that is read here is larger once unpacked
PIXELS = 1 << 20  # the most pixels of one image
Shape = tuple[int, int, int]  # channels, height, width
EXTENSIONS = (".jpg", ".jpeg", ".png")
# What a pickled array asks for, under the module names of old and new NumPy.
ARRAY_NAMES = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
ARRAY_NAMES |= {("numpy", "ndarray"), ("numpy", "dtype")}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what the decompressors raise into a CorruptData that names the file."""
    try:
        yield
    except CorruptData:
        raise
    except (
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        gzip.BadGzipFile,
        EOFError,
        ValueError,
    ) as error:
        raise CorruptData(f"{path} is truncated or damaged: {error}.") from error


class _Stream(io.BufferedReader):
    """A reader that refuses to read much at once, whatever a header claims, and remembers what it read last."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LIMIT:
            raise ValueError(f"an entry claims {size} bytes, at most {LIMIT} were expected")
        self.last = super().read(size)
        return self.last


def _open(path: Path) -> _Stream:
    """Open a file that may be packed by gzip or xz; its first bytes decide, not its name."""
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] == b"\x1f\x8b":
        return _Stream(gzip.open(path), 1 << 20)
    return _Stream(
        lzma.open(path) if magic == b"\xfd7zXZ\x00" else open(path, "rb", buffering=0), 1 << 20
    )


def read_idx(path: Path, item: tuple[int, ...], md5: str | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or packed, as an array (N, *item).

    An item has the shape (28, 28) for the images of MNIST, () for its labels; md5 is the sum of the unpacked file.

    Raises:
        CorruptData: wrong magic number, dimensions, length or sum.
    """
    magic = bytes((0, 0, 8, 1 + len(item)))
    with _named(path), _open(path) as stream:
        header = stream.read(4 * (2 + len(item)))
        if header[:4] != magic or len(header) < 4 * (2 + len(item)):
            raise CorruptData(
                f"{path} must begin with {magic.hex()} and {1 + len(item)} sizes; found {header.hex()}."
            )
        sizes = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
        if sizes[1:] != item or not sizes[0]:
            raise CorruptData(f"{path} must hold items of shape {item}; found the sizes {sizes}.")
        expected = math.prod(sizes)
        body = stream.read(expected + 1)
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        raise CorruptData(f"{path} must hold {expected} bytes after its header; found {found}.")
    check_md5(header + body, md5, path)
    return np.frombuffer(body, np.uint8).reshape(sizes)


def tar_files(
    path: Path, wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield the wanted regular files of a tar archive as (parts of the name, content), in the archive's order.

    An archive is refused as a whole if it holds a link, a device or a name that is absolute or contains "..", if a
    wanted name occurs twice, or if it does not end as a tar must.
    """
    seen = set()
    with _named(path), _open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # the list of members would only grow
            parts = tuple(p for p in member.name.split("/") if p != ".")
            if ".." in parts or parts[:1] == ("",) or "\\" in member.name:
                raise CorruptData(
                    f"{path} is refused: the name {member.name!r} leads out of the archive."
                )
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise CorruptData(
                    f"{path} is refused: {member.name!r} is a link or a special file."
                )
            if not wanted(parts):
                continue
            if parts in seen:
                raise CorruptData(f"{path} is refused: {member.name!r} occurs twice.")
            seen.add(parts)
            stream.seek(member.offset_data)
            if len(content := stream.read(member.size)) < member.size:
                raise CorruptData(
                    f"{path} is truncated: {member.name!r} must have {member.size} bytes."
                )
            yield parts, content
        if stream.last != bytes(512):
            raise CorruptData(
                f"{path} is truncated or damaged: the mark at the end of a tar is missing."
            )
        while stream.read(1 << 20):  # to the end, where the checksum of gzip and xz is
            pass


def read_batches(
    path: Path, folder: str, sums: dict[str, str | None]
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the named batches of CIFAR-10, from the archive or its unpacked folder, in any order.

    The path is a tar archive, whose entries are folder/NAME, or the unpacked folder itself; sums has the md5 of each
    batch, or None where it is not known.

    Raises:
        CorruptData: a batch is missing, too large, or has another sum.
    """
    missing = set(sums)
    if path.is_dir():
        present = (name for name in sorted(missing) if (path / name).is_file())
        files = (((folder, name), _read_file(path / name)) for name in present)
    else:
        files = tar_files(path, lambda parts: parts[:-1] == (folder,) and parts[-1] in sums)
    for (_, name), content in files:
        check_md5(content, sums[name], f"{path}: {name}")
        missing.discard(name)
        yield f"{path}: {name}", content
    if missing:
        raise CorruptData(
            f"{path} must hold {', '.join(sorted(sums))}; missing: {', '.join(sorted(missing))}."
        )


def _read_file(path: Path) -> bytes:
    if (size := path.stat().st_size) > LIMIT:
        raise CorruptData(f"{path} has {size} bytes; at most {LIMIT} were expected.")
    return path.read_bytes()


class _StandIn:
    """Stands for an array or its type in a pickle: keeps what NumPy would get, and does nothing with it."""

    def __init__(self, *args: object):
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array of unsigned bytes that the pickle describes."""
        _, shape, kind, fortran, raw = self.state
        if kind.args[0] not in ("u1", b"u1"):
            raise pickle.UnpicklingError(
                f"only arrays of unsigned bytes are expected, not {kind.args[0]}"
            )
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Admits plain containers, numbers, strings and stand-ins for arrays; nothing else is looked up, let alone run."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no batch of images needs"
            )
        return _StandIn


def unpickle(content: bytes, name: str) -> dict[str, object]:
    """Read a pickled dictionary of numbers, strings, lists and arrays of bytes; CorruptData if it is anything else."""
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        pairs = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
        return {k: v.array() if isinstance(v, _StandIn) else v for k, v in pairs.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CorruptData(f"{name} is refused as a pickle: {error}.") from error


def read_tree(
    path: Path, split: str, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], set[str]]:
    """Read the images SPLIT/CLASS/NAME of a folder, or of a tar archive, ordered by class and name.

    JPEG and PNG files in gray or RGB are read; hidden files and other extensions are passed over. In a tar one
    further folder may lie around the whole tree.

    Args:
        path: the folder or the archive.
        split: "train" or "test". The classes are those of both together, so that both number them alike.
        shape: (channels, height, width) that every image must have; by default that of the first one.

    Returns:
        Images (N, channels, height, width), labels (N,), the class names, and the formats that occur (JPEG, PNG).

    Raises:
        CorruptData: an image is damaged or has another shape, or a class has no images in the split.
    """
    files, classes = (
        {},
        set(),
    )  # by class and name, the content or where it is; the classes of both parts

    def wanted(parts: tuple[str, ...]) -> bool:
        image = parts[-1].lower().endswith(EXTENSIONS) and not parts[-1].startswith(".")
        if not image or not 3 <= len(parts) <= 4 or parts[-3] not in ("train", "test"):
            return False
        classes.add(parts[-2])
        return parts[-3] == split

    if path.is_dir():
        files = {file.parts[-2:]: file for file in path.glob("*/*/*") if wanted(file.parts[-3:])}
    else:
        for parts, content in tar_files(path, wanted):
            if parts[-2:] in files:
                raise CorruptData(
                    f"{path} is refused: it holds two trees with {'/'.join(parts[-3:])}."
                )
            files[parts[-2:]] = content
    names = tuple(sorted(classes))
    if empty := sorted(classes - {c for c, _ in files}) or ([] if names else ["CLASS"]):
        raise CorruptData(
            f"{path} must hold images {split}/{empty[0]}/NAME.jpg or .png; found none."
        )
    images, formats = None, set()
    for i, (key, content) in enumerate(ordered := sorted(files.items())):
        raw = _read_file(content) if isinstance(content, Path) else content
        pixels, kind = _decode(raw, f"{path}: {split}/{'/'.join(key)}", shape)
        if images is None:
            shape = pixels.shape
            images = np.empty((len(files), *shape), np.uint8)
        images[i] = pixels
        formats.add(kind)
    labels = np.array([names.index(c) for (c, _), _ in ordered], np.int64)
    return images, labels, names, formats


def _decode(raw: bytes, name: str, shape: Shape | None) -> tuple[np.ndarray, str]:
    """The pixels (channels, height, width) of one image, and its format; the size is checked before decoding."""
    try:
        with Image.open(io.BytesIO(raw), formats=("JPEG", "PNG")) as image:
            found = (len(image.getbands()), image.height, image.width)
            if image.mode not in ("L", "RGB"):
                raise CorruptData(f"{name} must be gray or RGB; found the mode {image.mode}.")
            if found != (shape or found) or found[1] * found[2] > PIXELS:
                expected = shape or f"at most {PIXELS} pixels"
                raise CorruptData(
                    f"{name}: {expected} expected as (channels, height, width); found {found}."
                )
            return np.asarray(image).reshape(*found[1:], found[0]).transpose(2, 0, 1), image.format
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptData(f"{name} is not a whole JPEG or PNG image: {error}.") from error
