"""Formats: image data, IDX files, batches and trees of images, good and damaged."""

import gzip
import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nclib.networks.data import archives, formats
from nclib.networks.data import load as data
from nclib.networks.data.archives import CorruptData
from nclib.networks.data.formats import ImageData, read_idx, read_tree
from nclib.networks.data.load import load
from tests.networks.data.made import (
    IMAGES,
    PACK,
    binary_files,
    idx,
    make_small,
    picture,
    random_bytes,
    tar,
    write,
)


def sample(counts=(3, 5, 4)):
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageData(
        random_bytes(sum(counts), 1, 4, 4), labels, tuple("abcdefgh"[: len(counts)]), "test"
    )


def test_subsets_are_balanced_ordered_and_repeatable():
    whole = sample((30, 50, 40))
    part = whole.subset(20, seed=3)
    assert (part.N, part.K, part.source) == (60, 3, "test") and part.classes == whole.classes
    assert np.array_equal(part.labels, np.repeat(np.arange(3), 20))
    rows = {image.tobytes(): i for i, image in enumerate(whole.images)}
    chosen = [rows[image.tobytes()] for image in part.images]
    assert chosen == sorted(set(chosen)) and np.array_equal(whole.labels[chosen], part.labels)
    assert part.fingerprint == whole.subset(20, seed=3).fingerprint
    assert part.fingerprint != whole.subset(20, seed=4).fingerprint
    assert sample((5, 5)).subset(5, seed=0).fingerprint == sample((5, 5)).fingerprint


@pytest.mark.parametrize(
    "per_class, message", [(4, "between 1 and 3.*it is 4"), (0, "at least 1.*= 0")]
)
def test_a_subset_must_fit(per_class, message):
    with pytest.raises(ValueError, match=message):
        sample().subset(per_class, seed=0)


def test_fingerprint_is_the_sum_of_the_bytes():
    x = sample()
    expected = hashlib.sha256(x.images.tobytes() + x.labels.astype("<i8").tobytes()).hexdigest()[
        :16
    ]
    assert x.fingerprint == expected
    turned = ImageData(np.asfortranarray(x.images), x.labels, x.classes, "another")
    assert turned.fingerprint == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((3, 1, 2, 2))}, "uint8.*float64"),
        ({"images": np.zeros((3, 2, 2), np.uint8)}, r"uint8.*\(3, 2, 2\)"),
        ({"labels": np.zeros(3, np.int32)}, "int64.*int32"),
        ({"labels": np.arange(2)}, r"shape \(3,\)"),
        ({"labels": np.array([0, 2, 1])}, "in order"),
        ({"labels": np.array([0, 0, 2])}, "in order"),
        ({"labels": np.array([0, 1, 1])}, "0..2 in order"),
        ({"labels": np.array([1, 1, 2])}, "0..2 in order"),
    ],
)
def test_images_and_labels_are_checked(change, message):
    good = {
        "images": np.zeros((3, 1, 2, 2), np.uint8),
        "labels": np.arange(3),
        "classes": tuple("abc"),
        "source": "",
    }
    ImageData(**good)
    with pytest.raises(ValueError, match=message):
        ImageData(**good | change)


# --- MNIST


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: b"\x00\x00\x0d" + raw[3:], "begin with 00000803.*found 00000d03"),
        (lambda raw: raw[:3] + b"\x01" + raw[4:], "begin with 00000803.*found 00000801"),
        (lambda raw: raw[:9], "begin with 00000803"),
        (lambda raw: b"", "begin with 00000803.*; found ."),
        (lambda raw: raw[:8] + b"\x00\x00\x00\x1d" + raw[12:], r"shape \(28, 28\).*\(30, 29, 28\)"),
        (lambda raw: raw[:4] + bytes(4) + raw[8:], r"sizes \(0, 28, 28\)"),
        (lambda raw: raw[:-1], "23520 bytes.*only 23519"),
        (lambda raw: raw + b"x", "23520 bytes.*more"),
        (lambda raw: raw[:4] + b"\xff\xff\xff\xff" + raw[8:], "claims 3367254359281 bytes"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "not the official file: md5"),
    ],
)
def test_wrong_idx_files_are_named(mnist, change, message, tmp_path):
    for suffix in ("", ".gz"):
        path = write(tmp_path / f"{IMAGES}{suffix}", PACK[suffix](change(idx(mnist[0]))))
        with pytest.raises(CorruptData, match=message) as error:
            read_idx(path, (28, 28), data.MNIST_MD5[IMAGES])
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: raw[:-20], "truncated or damaged: Compressed file ended"),
        (lambda raw: raw[:-8] + bytes(4) + raw[-4:], "truncated or damaged: CRC"),
        (lambda raw: raw[:30] + bytes(30) + raw[60:], "truncated or damaged"),
    ],
)
def test_damaged_packed_files_are_named(mnist, change, message, tmp_path):
    path = write(tmp_path / f"{IMAGES}.gz", change(gzip.compress(idx(mnist[0]))))
    with pytest.raises(CorruptData, match=f"{path.name} is {message}"):
        read_idx(path, (28, 28))


# --- batches of CIFAR-10


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: raw[:-1], "10 records of 3073 bytes; found 30729 bytes"),
        (lambda raw: raw[:-3073], "found 27657 bytes"),
        (lambda raw: raw + raw, "found 61460"),
        (lambda raw: b"\x0a" + raw[1:], "labels 0..9; found .*10"),
    ],
)
def test_wrong_binary_batches_are_named(change, message, tmp_path, monkeypatch):
    make_small(monkeypatch)
    folder = tmp_path / formats.BATCH_FOLDER
    for name, content in binary_files().items():
        write(folder / name, change(content) if "4" in name else content)
    with pytest.raises(CorruptData, match=rf"data_batch_4\.bin must hold .*{message}"):
        load("cifar10", root=tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(CorruptData, match=r"data_batch_5\.bin; missing: data_batch_2\.bin"):
        load("cifar10", root=tmp_path)


def test_a_file_that_is_much_too_large_is_not_read(tmp_path, monkeypatch):
    make_small(monkeypatch)
    monkeypatch.setattr(archives, "LIMIT", 1000)
    for name, content in binary_files("test").items():
        write(tmp_path / formats.BATCH_FOLDER / name, content)
    with pytest.raises(CorruptData, match="has 30730 bytes; at most 1000"):
        load("cifar10", "test", tmp_path)


# --- trees of images


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"train/b/1.png": picture(random_bytes(5, 4))},
            r"b/1.png: \(1, 4, 4\) expected.*found \(1, 5, 4\)",
        ),
        (
            {"train/b/1.png": picture(random_bytes(4, 4, 3))},
            r"\(1, 4, 4\) expected.*found \(3, 4, 4\)",
        ),
        (
            {"train/b/1.png": picture(random_bytes(4, 4), mode="P")},
            "b/1.png must be gray or RGB; found the mode P",
        ),
        (
            {"train/b/1.png": picture(random_bytes(4, 4))[:-30]},
            "b/1.png is not a whole JPEG or PNG",
        ),
        ({"train/b/1.jpg": picture(random_bytes(64, 64), "JPEG")[:600]}, r"\(1, 4, 4\) expected"),
        (
            {"train/b/1.png": picture(random_bytes(4, 4), "GIF")},
            "b/1.png is not a whole JPEG or PNG",
        ),
        ({"train/b/1.png": b""}, "b/1.png is not a whole JPEG or PNG"),
        ({"test/b/1.png": b""}, "must hold images train/b/NAME"),
        ({"top/train/a/0.png": b""}, "two trees, with .*train/a/0.png and top/train/a/0.png"),
        ({"top/train/a/1.png": b""}, "two trees, with .*train/a/0.png and top/train/a/1.png"),
    ],
)
def test_wrong_trees_are_named(files, message, tmp_path):
    path = write(tmp_path / "x.tar", tar({"train/a/0.png": picture(random_bytes(4, 4))} | files))
    with pytest.raises(CorruptData, match=message):
        read_tree(path, "train")


def test_empty_and_cut_images_are_named(tmp_path):
    write(tmp_path / "x" / "train" / "a" / "0.jpg", picture(random_bytes(64, 64), "JPEG")[:1500])
    with pytest.raises(CorruptData, match=r"a/0\.jpg is not a whole JPEG.*truncated"):
        load("x", root=tmp_path)
    (tmp_path / "y" / "train").mkdir(parents=True)
    with pytest.raises(CorruptData, match="y must hold images train/CLASS/NAME"):
        load("y", root=tmp_path)


def test_huge_images_are_refused_before_decoding(tmp_path, monkeypatch):
    path = write(tmp_path / "x.tar", tar({"train/a/0.png": picture(random_bytes(4, 4))}))
    monkeypatch.setattr(formats, "PIXELS", 15)
    monkeypatch.setattr(np, "asarray", None)
    with pytest.raises(CorruptData, match=r"at most 15 pixels.*found \(1, 4, 4\)"):
        read_tree(path, "train")


def small_tree(folder):
    for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
        write(folder / name, picture(random_bytes(4, 4)))
    return folder


@pytest.mark.parametrize("helper", [".ipynb_checkpoints", ".git", "__MACOSX", "__pycache__"])
@pytest.mark.parametrize("packed", [False, True])
def test_hidden_and_helper_folders_are_no_classes(helper, packed, tmp_path):
    folder = small_tree(tmp_path / "x")
    write(folder / "train" / helper / "0.png", picture(random_bytes(4, 4)))
    write(folder / helper / "train" / "c" / "0.png", picture(random_bytes(4, 4)))
    write(folder / "train" / "a" / ".0.png", b"")
    if packed:
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*.png")]
        folder = write(tmp_path / "x.tar", tar({n: (folder / n).read_bytes() for n in names}))
    tree = read_tree(folder, "train")
    assert tree.classes == ("a", "b") and tree.labels.tolist() == [0, 1]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    folder = small_tree(tmp_path / "x")
    listdir = os.listdir

    def denied(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(PermissionError, match="/a"):
        read_tree(folder, "train")


def test_pipes_and_devices_among_the_images_are_refused(tmp_path):
    folder = small_tree(tmp_path / "x")
    os.mkfifo(folder / "train" / "a" / "1.png")
    with pytest.raises(CorruptData, match=r"a/1\.png is refused: it is no regular file"):
        read_tree(folder, "train")
    (folder / "train" / "a" / "1.png").unlink()
    (folder / "train" / "a" / "1.png").symlink_to("/dev/zero")
    with pytest.raises(CorruptData, match=r"a/1\.png is refused: it is no regular file"):
        read_tree(folder, "train")


def test_images_with_bombs_are_named(tmp_path):
    info = PngInfo()
    info.add_text("a", "x" * (2 << 20), zip=True)
    buffer = io.BytesIO()
    Image.fromarray(random_bytes(4, 4)).save(buffer, "PNG", pnginfo=info)
    write(tmp_path / "x/train/a/0.png", buffer.getvalue())
    with pytest.raises(CorruptData, match=r"train/a/0\.png is not a whole JPEG or PNG"):
        load("x", root=tmp_path)
    buffer = io.BytesIO()
    Image.new("L", (12000, 10000)).save(buffer, "PNG")
    write(tmp_path / "x/train/a/0.png", buffer.getvalue())
    with pytest.raises(CorruptData, match=r"train/a/0\.png is not a whole JPEG or PNG.*exceeds"):
        load("x", root=tmp_path)
    write(tmp_path / "x/train/a/0.png", b"no image")
    with pytest.raises(CorruptData, match=r"train/a/0\.png is not a whole JPEG or PNG image\.$"):
        load("x", root=tmp_path)
