"""Data sets by name: where they are found, which copy is taken, what is missing, and the real
files."""

import io
import lzma
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nclib.networks import digits
from nclib.networks.data import archives, download, formats
from nclib.networks.data import load as data
from nclib.networks.data.archives import CorruptData
from nclib.networks.data.load import OBJECTS, DataMissing, available, load
from tests.networks.data.made import (
    IMAGES,
    LABELS,
    PACK,
    batches,
    binary_files,
    idx,
    make_small,
    md5,
    picture,
    random_bytes,
    tar,
    tree_files,
    write,
)


def assert_cifar10(found, split="train"):
    x, y = (np.concatenate(a) for a in zip(*[(x, y) for _, x, y in batches(split)], strict=True))
    assert (
        found.source == "CIFAR-10" and found.classes == OBJECTS and found.labels.dtype == np.int64
    )
    assert np.array_equal(found.labels, np.repeat(np.arange(10), len(x) // 10))
    expected = np.concatenate([x[y == k] for k in range(10)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(found.images, expected)


# --- names, folders, what is missing


def test_digits_as_images():
    found, (x, y) = load("digits"), digits()
    assert found.images.shape == (1740, 1, 8, 8) and found.source == "digits (scikit-learn)"
    assert np.array_equal(found.images.reshape(-1, 64), x * 240) and found.images.max() == 240
    assert np.array_equal(found.labels, y) and available("digits")


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("digits", "test", "one of train for 'digits', but it is 'test'"),
        ("mnist", "valid", "one of train, test.*it is 'valid'"),
        ("../mnist", "train", "not of a path"),
        ("a\\b", "train", "not of a path"),
        ("", "train", "not of a path"),
    ],
)
def test_names_and_splits_are_checked(name, split, message):
    with pytest.raises(ValueError, match=message):
        load(name, split, root=".")


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "mnist",
            [
                "t10k-labels-idx1-ubyte[.gz]",
                "MNIST/raw",
                data.MNIST_URL,
                "networks download mnist",
            ],
        ),
        (
            "cifar10",
            [
                "cifar-10-binary.tar.gz",
                "cifar-10-batches-bin/",
                "cifar10-jpeg.tar.xz",
                data.CIFAR10_URL,
            ],
        ),
        ("other", ["other/test/CLASS/", "other.tar.xz"]),
    ],
)
def test_what_is_missing_is_named(name, words, tmp_path, monkeypatch):
    assert not available(name, tmp_path)
    with pytest.raises(DataMissing, match=f"'{name}' .test. is missing") as error:
        load(name, "test", tmp_path)
    assert [w for w in [*words, str(tmp_path)] if w not in str(error.value)] == []
    assert isinstance(error.value, FileNotFoundError)
    monkeypatch.delenv("NCLIB_DATA", raising=False)
    assert not available(name)
    with pytest.raises(DataMissing, match="NCLIB_DATA is not set"):
        load(name)


def test_data_code_needs_no_torch():
    for module in (data, formats, archives, download):  # the package around them may
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) torch", text, re.MULTILINE)


# --- MNIST


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_found_read_and_ordered(mnist, place, suffix, tmp_path, monkeypatch):
    x, y = mnist
    write(tmp_path / place / f"{IMAGES}{suffix}", PACK[suffix](idx(x)))
    assert not available("mnist", tmp_path)
    write(tmp_path / place / f"{LABELS}{suffix}", PACK[suffix](idx(y)))
    monkeypatch.setenv("NCLIB_DATA", str(tmp_path))
    assert available("mnist") and not available("mnist", split="test")
    found = load("mnist")
    assert found.source == "MNIST" and found.classes == tuple("0123456789")
    assert np.array_equal(found.labels, np.repeat(np.arange(10), 3))
    assert np.array_equal(found.images[:, 0], np.concatenate([x[y == k] for k in range(10)]))


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.arange(29) % 10, "30 labels, one per image; found 29"),
        (np.arange(30) % 11, "labels 0..9; found 0..10"),
    ],
)
def test_labels_fit_the_images(mnist, labels, message, tmp_path, monkeypatch):
    raw = idx(labels.astype(np.uint8))
    monkeypatch.setitem(data.MNIST_MD5, LABELS, md5(raw))
    write(tmp_path / IMAGES, idx(mnist[0]))
    write(tmp_path / LABELS, raw)
    with pytest.raises(CorruptData, match=message):
        load("mnist", root=tmp_path)


# --- CIFAR-10, official files


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("place", ["", "cifar10"])
def test_cifar10_official_files(place, split, tmp_path, monkeypatch):
    make_small(monkeypatch)
    files, folder = binary_files(split), formats.BATCH_FOLDER
    for name, content in files.items():
        write(tmp_path / "a" / place / folder / name, content)
    assert_cifar10(load("cifar10", split, tmp_path / "a"), split)
    backwards = {f"{folder}/{name}": files[name] for name in sorted(files, reverse=True)}
    raw = tar({f"{folder}/readme.html": b"<html>", **backwards})
    for packing in PACK.values():  # whoever packed it: what counts is the content
        write(tmp_path / "b" / place / "cifar-10-binary.tar.gz", packing(raw))
        assert_cifar10(load("cifar10", split, tmp_path / "b"), split)


def test_other_images_are_not_cifar10(tmp_path, monkeypatch):
    make_small(monkeypatch)
    (name, content), *_ = binary_files("test").items()
    path = tmp_path / formats.BATCH_FOLDER / name
    for place in (1, 1500, 10 * 3073 - 1):  # one bit of one pixel
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        write(path, changed)
        with pytest.raises(CorruptData, match="does not hold the official test images: the sums"):
            load("cifar10", "test", tmp_path)
    records = np.frombuffer(content, np.uint8).reshape(10, 3073).copy()
    records[:, 0] = [0, 0, 2, 3, 4, 5, 6, 7, 8, 9]
    write(path, records.tobytes())
    with pytest.raises(CorruptData, match=r"1 images of each of airplane.*found airplane 2"):
        load("cifar10", "test", tmp_path)


def test_the_sums_of_cifar10_are_those_of_the_published_means_and_deviations():
    published = {
        "train": (
            (125.306918046875, 122.950394140625, 113.86538318359375),
            (62.99321927813685, 62.088707640014405, 66.70489964063101),
        ),
        "test": (
            (126.02464140625, 123.70850419921875, 114.85431865234375),
            (62.89639134921991, 61.93752718231365, 66.70605639561605),
        ),
    }
    for split, pixels in (("train", 50000 * 1024), ("test", 10000 * 1024)):
        for (total, squares), mean, deviation in zip(
            data.CIFAR10_SUMS[split], *published[split], strict=True
        ):
            assert total == mean * pixels
            assert squares == round((deviation**2 + mean**2) * pixels)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_pickles_are_named_and_never_read(form, tmp_path, monkeypatch):
    if form == "archive":
        path = write(tmp_path / "cifar-10-python.tar.gz", b"not even an archive")
    else:
        path = tmp_path / "cifar10" / "cifar-10-batches-py"
        write(path / "data_batch_1", pickle.dumps({"data": Evil(str(tmp_path / "made"))}))
    assert not available("cifar10", tmp_path)
    with pytest.raises(DataMissing) as error:
        load("cifar10", root=tmp_path)
    assert f"{path} is there, but it holds pickles" in str(error.value)
    assert "networks download cifar10` fetches" in str(error.value)
    assert not (tmp_path / "made").exists()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_hostile_pickle_would_work(tmp_path):
    pickle.loads(pickle.dumps(Evil(str(tmp_path / "made"))))
    assert (tmp_path / "made").exists()


def test_official_files_come_first(tmp_path, monkeypatch):
    make_small(monkeypatch)
    write(
        tmp_path / "cifar10-jpeg.tar.xz",
        lzma.compress(tar(tree_files(kind="JPEG") | tree_files("test"))),
    )
    assert load("cifar10", root=tmp_path).source == "CIFAR-10 (JPEG copy)"
    for name, content in binary_files().items():
        write(tmp_path / formats.BATCH_FOLDER / name, content)
    assert_cifar10(load("cifar10", root=tmp_path))


# --- trees of images


@pytest.mark.parametrize("packing", ["folder", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_copies_of_cifar10(packing, kind, tmp_path, monkeypatch):
    make_small(monkeypatch)
    files = tree_files(kind=kind) | tree_files("test")
    if packing == "folder":
        for name, content in files.items():
            write(tmp_path / "cifar10" / name, content)
    else:
        backwards = {name: files[name] for name in sorted(files, reverse=True)}
        packed = tar(
            backwards
            | {"readme.txt": b"hello", "train/cat/.hidden.png": b"", "train/cat/notes.txt": b""}
        )
        suffix = {".tar": "", ".tgz": ".gz"}.get(packing, packing[4:])
        write(tmp_path / f"cifar10{packing}", PACK[suffix](packed))
    found = load("cifar10", root=tmp_path)
    assert found.source == f"CIFAR-10 ({kind} copy)" and found.classes == OBJECTS
    for i, image in enumerate(found.images):
        raw = files[f"train/{OBJECTS[i // 5]}/{i % 5:04}.{kind.lower()}"]
        assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(raw))).transpose(2, 0, 1))
    if kind == "PNG":
        assert np.array_equal(found.images[3], random_bytes(32, 32, 3, seed=3).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"side": 31}, r"\(3, 32, 32\) expected.*found \(3, 31, 31\)"),
        ({"per_class": 6}, "5 images of each of airplane.*found airplane 6"),
        ({"classes": ("cat", "dog")}, "each of airplane.*found cat 5, dog 5"),
    ],
)
def test_a_copy_of_cifar10_is_complete(change, message, tmp_path, monkeypatch):
    make_small(monkeypatch)
    write(tmp_path / "cifar10.tar", tar(tree_files(**change)))
    with pytest.raises(CorruptData, match=message):
        load("cifar10", root=tmp_path)


def test_any_tree_of_images(tmp_path):
    gray = {
        f"shapes/{split}/{c}/{i:02}.png": picture(random_bytes(5, 7, seed=i))
        for split in ("train", "test")
        for c in ("round", "angular")
        for i in (10, 9, 8)
    }
    write(tmp_path / "shapes.tar.xz", lzma.compress(tar(gray)))
    found = load("shapes", root=tmp_path)
    assert (found.source, found.classes) == ("image folder shapes", ("angular", "round"))
    assert np.array_equal(found.labels, [0, 0, 0, 1, 1, 1])
    assert np.array_equal(found.images[:, 0], 2 * [random_bytes(5, 7, seed=i) for i in (8, 9, 10)])
    assert found.fingerprint == load("shapes", "test", tmp_path).fingerprint


# --- the real files


def real(name, split):
    if not available(name, split=split):
        with pytest.raises(DataMissing) as error:
            load(name, split)
        pytest.skip(str(error.value))
    return load(name, split)


def test_real_mnist():
    found = real("mnist", "train")
    assert found.images.shape == (60000, 1, 28, 28) and found.source == "MNIST"
    assert np.bincount(found.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert real("mnist", "test").N == 10000


def test_real_cifar10():
    found = real("cifar10", "test")
    assert found.images.shape == (10000, 3, 32, 32) and found.source.startswith("CIFAR-10")
    assert np.bincount(found.labels).tolist() == [1000] * 10
    # Airplanes and ships are blue, frogs are not: the channels are in their order and the classes
    # have their names.
    blue = {
        c: np.subtract(*found.images[found.labels == k][:, [2, 0]].mean(axis=(0, 2, 3)))
        for k, c in enumerate(found.classes)
    }
    assert min(blue["airplane"], blue["ship"]) > 0 > blue["frog"]
