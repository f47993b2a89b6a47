"""Fetching the official files of a data set.

CIFAR-10 comes from its authors' page, https://www.cs.toronto.edu/~kriz/cifar.html, which also
publishes the md5 sum of the archive. MNIST's own page is no longer served; the files come from the
mirror that torchvision uses, and their sums are those of the original files.
"""

import os
import sys
from pathlib import Path

import pooch
from requests import RequestException

from nclib.networks.data.archives import CorruptData, check_md5
from nclib.networks.data.load import DATASETS, Official, by_hand, data_folder


class DownloadError(OSError):
    """A file could not be fetched; the message says how to get it by hand."""


def fetch(name: str, root: str | os.PathLike | None = None) -> list[Path]:
    """Fetch the official files of a data set that are not there yet, and check every one.

    A file gets its name only when it is whole and its md5 sum is right; a failed download leaves
    nothing behind. What is there already is left as it is: it must have the right content, however
    it is packed.

    Args:
        name: "mnist" or "cifar10".
        root: An existing folder; by default the one that the environment variable NCLIB_DATA names.

    Returns:
        The files, in the order in which they are listed.

    Raises:
        ValueError: The name is unknown, or no folder is given.
        NotADirectoryError: The folder does not exist.
        CorruptData: A file that is already there has another content.
        DownloadError: A file cannot be fetched, or what arrives has another md5 sum.
    """
    known = {name: data.official for name, data in DATASETS.items() if data.official}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, but it is {name!r}.")
    folder = data_folder(root)
    if folder is None:
        raise ValueError(
            "a folder is needed: give root, or set the environment variable NCLIB_DATA."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; make it first.")
    for file in known[name]:
        target = folder / file.place
        if target.exists():
            _check_existing(file, target)
            continue
        try:
            _download(file, target)
        except (OSError, ValueError, RequestException) as error:
            text = str(error).rstrip(".")
            raise DownloadError(
                f"{file.url} could not be fetched: {text}. {by_hand(name, folder)}"
            ) from error
    return [folder / file.place for file in known[name]]


def _check_existing(file: Official, target: Path) -> None:
    try:
        check_md5(target, file.md5, target)
    except CorruptData:
        file.check(target)


def _download(file: Official, target: Path) -> None:
    made = not target.parent.exists()
    logger = pooch.get_logger()  # tells of every step; here failures come as exceptions
    level = logger.level
    logger.setLevel("ERROR")
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), timeout=60, headers={"Accept-Encoding": "identity"}
    )
    try:
        pooch.retrieve(
            file.url,
            f"md5:{file.md5}",
            fname=target.name,
            path=target.parent,
            downloader=downloader,
        )
    finally:
        logger.setLevel(level)
        if made and target.parent.exists() and not any(target.parent.iterdir()):
            target.parent.rmdir()
