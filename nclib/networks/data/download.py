"""The official files of the data sets: where they are, their checksums, and how to fetch them.

CIFAR-10 comes from its authors' page, https://www.cs.toronto.edu/~kriz/cifar.html, which also publishes the md5 sum of
the archive. MNIST's own page is no longer served; the files come from the mirror that torchvision uses, and their sums
are those of the original files.
"""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"


# md5 sums: of MNIST's files once unpacked; of CIFAR-10's archives; of the files in its Python archive.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
ARCHIVE_MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class CorruptData(ValueError):
    """A data file is not what it should be."""


class DownloadError(OSError):
    """A file could not be fetched; the message says how to get it by hand."""


class Official(NamedTuple):
    """An official file: its address, its place under the data folder, and the md5 sum of the file as it is served."""

    url: str
    place: str
    md5: str


OFFICIAL = {
    "mnist": tuple(
        Official(f"{MNIST_URL}{name}.gz", f"mnist/{name}.gz", md5)
        for name, md5 in {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        }.items()
    ),
    "cifar10": (
        Official(
            f"{CIFAR10_URL}cifar-10-binary.tar.gz",
            "cifar-10-binary.tar.gz",
            ARCHIVE_MD5["cifar-10-binary.tar.gz"],
        ),
    ),
}


def data_folder(root: str | os.PathLike | None = None) -> Path | None:
    """The folder of the data sets: root, or what the environment variable NCLIB_DATA names, or None."""
    root = root or os.environ.get("NCLIB_DATA")
    return Path(root).expanduser() if root else None


def check_md5(content: bytes | Path, expected: str | None, name: str | Path) -> None:
    """Raise CorruptData unless the content, or the file, has the expected md5 sum; None stands for any."""
    if expected is None:
        return
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(content, Path):
        with open(content, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:
        digest.update(content)
    if digest.hexdigest() != expected:
        raise CorruptData(
            f"{name} is not the official file: md5 {expected} expected, {digest.hexdigest()} found."
        )


def by_hand(name: str, root: Path | str) -> str:
    """A sentence that says how to get a data set by hand."""
    files = "; ".join(f"{file.url} as {Path(root) / file.place}" for file in OFFICIAL[name])
    return f"To get it by hand, save {files}."


def fetch(name: str, root: str | os.PathLike | None = None) -> list[Path]:
    """Fetch the official files of a data set that are not there yet, and check every one.

    A file gets its name only when it is whole and its md5 sum is right; a failed download leaves nothing behind.

    Args:
        name: "mnist" or "cifar10".
        root: an existing folder; by default the one that the environment variable NCLIB_DATA names.

    Returns:
        The files, in the order of OFFICIAL.

    Raises:
        ValueError: unknown name, or no folder is given.
        NotADirectoryError: the folder does not exist.
        CorruptData: a file that is already there has another md5 sum.
        DownloadError: a file cannot be fetched, or what arrives has another md5 sum.
    """
    if name not in OFFICIAL:
        raise ValueError(f"name must be one of {', '.join(OFFICIAL)}; got {name!r}.")
    if (folder := data_folder(root)) is None:
        raise ValueError(
            "a folder is needed: give root, or set the environment variable NCLIB_DATA."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; make it first.")
    for file in OFFICIAL[name]:
        target = folder / file.place
        if target.exists():
            check_md5(target, file.md5, target)
            continue
        try:
            _download(file, folder)
        except (OSError, http.client.HTTPException, CorruptData) as error:
            raise DownloadError(
                f"{file.url} could not be fetched: {error} {by_hand(name, folder)}"
            ) from error
    return [folder / file.place for file in OFFICIAL[name]]


def _download(file: Official, folder: Path) -> None:
    target = folder / file.place
    part = folder / f".{target.name}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response, open(part, "xb") as out:
            size = int(response.headers.get("Content-Length") or 0) or None
            # The bar shows in a terminal only.
            with tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
                while block := response.read(1 << 20):
                    out.write(block)
                    bar.update(len(block))
        if size is not None and part.stat().st_size != size:
            raise OSError(f"{size} bytes expected, {part.stat().st_size} arrived.")
        check_md5(part, file.md5, file.url)
        target.parent.mkdir(exist_ok=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
