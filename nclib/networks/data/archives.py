"""Files that are not trusted: packed files and tar archives, read without unpacking them to the
disk.

Nothing in a file is ever run, no size that a header claims is believed, and what is neither a file
nor a folder is not read. A file that is truncated, damaged or of another kind is refused with a
CorruptData that names it.
"""

import gzip
import hashlib
import io
import lzma
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 64 << 20  # bytes; no file that is read here is larger once unpacked


class CorruptData(ValueError):
    """A data file is not what it should be."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the decompressors raise into a CorruptData that names the file."""
    try:
        yield
    except CorruptData:
        raise
    except RecursionError as error:
        raise CorruptData(
            f"{path} is truncated or damaged: its headers are nested too deeply."
        ) from error
    except (
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        gzip.BadGzipFile,
        EOFError,
        ValueError,
    ) as error:
        raise CorruptData(f"{path} is truncated or damaged: {error}.") from error


class Stream(io.BufferedReader):
    """A reader that refuses to read much at once, whatever a header claims.

    Attributes:
        last: What it read last.
    """

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to ``size`` bytes."""
        if size is None or not 0 <= size <= LIMIT:
            raise ValueError(f"an entry claims {size} bytes, at most {LIMIT} were expected")
        self.last = super().read(size)
        return self.last


def open_packed(path: Path) -> Stream:
    """Open a file that may be packed by gzip or xz; its first bytes decide, not its name."""
    _require_file(path)
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] == b"\x1f\x8b":
        return Stream(gzip.GzipFile(path), 1 << 20)
    if magic == b"\xfd7zXZ\x00":
        return Stream(lzma.LZMAFile(path), 1 << 20)
    return Stream(io.FileIO(path), 1 << 20)


def read_file(path: Path) -> bytes:
    """Read a file that is not packed.

    Raises:
        CorruptData: It is a device or a pipe, or larger than any file that is expected.
    """
    size = _require_file(path)
    if size > LIMIT:
        raise CorruptData(f"{path} has {size} bytes; at most {LIMIT} were expected.")
    return path.read_bytes()


def _require_file(path: Path) -> int:
    """Return the size of a file; raise CorruptData if it is not one, before anything waits for its
    content.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CorruptData(f"{path} is refused: it is no regular file.")
    return status.st_size


def check_md5(content: bytes | Path, expected: str, name: str | Path) -> None:
    """Raise CorruptData unless the content, or the file, has the expected md5 sum."""
    if isinstance(content, Path):
        with open(content, "rb") as file:
            digest = hashlib.file_digest(file, _md5)
    else:
        digest = _md5(content)
    if digest.hexdigest() != expected:
        raise CorruptData(
            f"{name} is not the official file: md5 {expected} expected, {digest.hexdigest()} found."
        )


def _md5(content: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(content, usedforsecurity=False)


def tar_files(
    path: Path, wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield the wanted regular files of a tar archive as (parts of the name, content), in the
    archive's order.

    Args:
        path: The archive, which may be packed by gzip or xz.
        wanted: Says from the parts of a name whether the content is needed.

    Raises:
        CorruptData: The archive holds a link, a device or a name that is absolute or contains "..",
            a wanted name occurs twice, or it does not end as a tar must.
    """
    seen = set()
    with naming(path), open_packed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # the list would only grow
            parts = _checked_name(member, path)
            if member.isdir() or not wanted(parts):
                continue
            if parts in seen:
                raise CorruptData(f"{path} is refused: {member.name!r} occurs twice.")
            seen.add(parts)
            stream.seek(member.offset_data)
            content = stream.read(member.size)
            if len(content) < member.size:
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


def _checked_name(member: tarfile.TarInfo, path: Path) -> tuple[str, ...]:
    """The parts of a member's name; CorruptData if it leads out of the archive, or the member is a
    link or device.
    """
    parts = tuple(part for part in member.name.split("/") if part != ".")
    if ".." in parts or parts[:1] == ("",) or "\\" in member.name:
        raise CorruptData(f"{path} is refused: the name {member.name!r} leads out of the archive.")
    if not member.isdir() and (not member.isreg() or member.issparse()):
        raise CorruptData(f"{path} is refused: {member.name!r} is a link or a special file.")
    return parts
