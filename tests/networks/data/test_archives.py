"""Archives: hostile, truncated and damaged ones."""

import os
import tarfile

import pytest

from nclib.networks.data.archives import CorruptData, tar_files
from tests.networks.data.made import PACK, random_bytes, tar, write


def special(kind, name="train/a/1.png", target="/etc/passwd"):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    "name", ["../x.png", "train/../../x.png", "/train/a/x.png", "train/..", "a\\..\\x.png"]
)
def test_names_that_leave_the_archive_are_refused(name, tmp_path):
    path = write(tmp_path / "x.tar", tar({"train/a/0.png": b"0", name: b"1"}))
    with pytest.raises(CorruptData, match="leads out of the archive"):
        list(tar_files(path, lambda parts: False))
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
)
def test_links_and_devices_are_refused(kind, tmp_path):
    path = write(tmp_path / "x.tar", tar({"train/a/0.png": b"0"}, [special(kind)]))
    with pytest.raises(CorruptData, match=r"'train/a/1\.png' is a link or a special file"):
        list(tar_files(path, lambda parts: False))


def test_folders_are_passed_over_and_content_is_read(tmp_path):
    files = {"./a/1": b"one", "b" * 150 + "/2": b"", "c/ü": bytes(5000)}
    path = write(tmp_path / "x.tar", tar(files, [special(tarfile.DIRTYPE, "a", "")]))
    assert dict(tar_files(path, lambda parts: True)) == {
        ("a", "1"): b"one",
        ("b" * 150, "2"): b"",
        ("c", "ü"): bytes(5000),
    }
    assert [parts for parts, _ in tar_files(path, lambda parts: parts[-1] == "2")] == [
        ("b" * 150, "2")
    ]


def test_a_name_occurs_once(tmp_path):
    raw = tar({"a": b"1"})[:1024] + tar({"./a": b"2"})
    with pytest.raises(CorruptData, match=r"'\./a' occurs twice"):
        list(tar_files(write(tmp_path / "x.tar", raw), lambda parts: True))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_truncated_and_damaged_archives_are_named(suffix, tmp_path):
    raw = tar({"a": random_bytes(3000).tobytes(), "b": random_bytes(3000, seed=1).tobytes()})
    packed = PACK[suffix](raw)
    path = tmp_path / f"x.tar{suffix}"
    # 3584 bytes are one entry: the header, and the content filled up to blocks of 512 bytes.
    cuts = [100, 2000, 3584, 4000, 6000, 7168] if not suffix else range(1, len(packed), 500)
    for cut in cuts:
        with pytest.raises(CorruptData, match=f"{path.name} is truncated"):
            list(tar_files(write(path, packed[:cut]), lambda parts: True))
    broken = PACK[suffix](raw[:3584] + b"?" * 512 + raw[4096:])  # the second header
    with pytest.raises(CorruptData, match="is truncated or damaged"):
        list(tar_files(write(path, broken), lambda parts: True))
    if suffix:  # the checksum comes after a long tail, which is read as well
        packed = PACK[suffix](raw + bytes(3 << 20))
        broken = packed[:-6] + bytes([packed[-6] ^ 255]) + packed[-5:]
        with pytest.raises(CorruptData, match="is truncated or damaged"):
            list(tar_files(write(path, broken), lambda parts: True))
    else:  # no short content is handed out before the end is noticed
        with pytest.raises(CorruptData, match="'a' must have 3000 bytes"):
            next(tar_files(write(path, raw[:2000]), lambda parts: True))
    with pytest.raises(CorruptData, match="is truncated or damaged"):
        list(tar_files(write(path, b"no archive at all" * 100), lambda parts: True))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_claimed_size_is_not_believed(kind, tmp_path):
    entry = tarfile.TarInfo("a")
    entry.size, entry.type = 1 << 40, kind
    with pytest.raises(CorruptData, match="claims 1099511627776 bytes"):
        list(
            tar_files(
                write(tmp_path / "x.tar", entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096)),
                lambda parts: True,
            )
        )


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_nested_without_end_are_refused(kind, tmp_path):
    entry = tarfile.TarInfo("a")
    entry.type = kind
    raw = entry.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024)
    with pytest.raises(CorruptData, match=r"x\.tar is truncated or damaged"):
        list(tar_files(write(tmp_path / "x.tar", raw), lambda parts: True))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(CorruptData, match=r"x\.tar is refused: it is no regular file"):
        list(tar_files(tmp_path / "x.tar", lambda parts: True))
