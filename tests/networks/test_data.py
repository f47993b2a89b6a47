"""Data sets: every format on tiny made files, good, corrupt and hostile, and the real files where they are."""

import gzip
import hashlib
import io
import lzma
import os
import pickle
import re
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nclib.networks import digits
from nclib.networks.data import archives, download
from nclib.networks.data import load as data
from nclib.networks.data.archives import CorruptData, read_idx, read_tree, tar_files, unpickle
from nclib.networks.data.download import DownloadError, Official, fetch
from nclib.networks.data.load import OBJECTS, DataMissing, ImageData, available, load

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PACK = {"": lambda raw: raw, ".gz": gzip.compress, ".xz": lzma.compress}


def md5(content):
    return hashlib.md5(content).hexdigest()


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tar(files, extra=()):
    """A tar with the given contents by name, and then the extra entries as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in extra:
            archive.addfile(entry)
    return buffer.getvalue()


def picture(pixels, kind="PNG", mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def make_small(monkeypatch):
    """CIFAR-10 with ten images in a batch, and in a copy one image of each class."""
    monkeypatch.setattr(data, "RECORDS", 10)
    monkeypatch.setattr(data, "PER_CLASS", {"train": 1, "test": 1})


def batches(split="train"):
    """Batches of ten images as (name, pixels (10, 3072), labels), every class once in each."""
    for i, name in enumerate(data.BATCHES[split]):
        yield name, random_bytes(10, 3072, seed=i), np.random.default_rng(i).permutation(10)


def binary_files(split="train"):
    return {f"{name}.bin": np.c_[y.astype(np.uint8), x].tobytes() for name, x, y in batches(split)}


def python2_pickle(x, y):
    """The pickle that Python 2 writes of {"data": x, "labels": y}, as in the official files."""

    def text(s):
        return b"U" + bytes([len(s)]) + s

    shape = b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in x.shape) + b"t"
    kind = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNN"
        + 2 * b"J\xff\xff\xff\xff"
    )
    raw = b"T" + len(x.tobytes()).to_bytes(4, "little") + x.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01" + shape + kind + b"K\x00tb" + b"\x89" + raw + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([k]) for k in y) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


def python_files(split="train"):
    return {name: python2_pickle(x, y) for name, x, y in batches(split)}


def tree_files(split="train", kind="PNG", side=32, per_class=1, classes=OBJECTS):
    names = [f"{split}/{c}/{i:04}.{kind.lower()}" for c in classes for i in range(per_class)]
    return {
        name: picture(random_bytes(side, side, 3, seed=i), kind) for i, name in enumerate(names)
    }


def assert_cifar10(found, split="train"):
    x, y = (np.concatenate(a) for a in zip(*[(x, y) for _, x, y in batches(split)], strict=True))
    assert (
        found.source == "CIFAR-10" and found.classes == OBJECTS and found.labels.dtype == np.int64
    )
    assert np.array_equal(found.labels, np.repeat(np.arange(10), len(x) // 10))
    expected = np.concatenate([x[y == k] for k in range(10)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(found.images, expected)


@pytest.fixture
def mnist(monkeypatch):
    """Thirty images and labels, unordered, whose files take the place of MNIST's."""
    x, y = (
        random_bytes(30, 28, 28),
        np.random.default_rng(1).permutation(np.arange(30) % 10).astype(np.uint8),
    )
    for name, array in ((IMAGES, x), (LABELS, y)):
        monkeypatch.setitem(download.MNIST_MD5, name, md5(idx(array)))
    return x, y


# --- ImageData


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
    "per_class, message", [(4, "between 1 and 3.*got 4"), (0, "at least 1.*= 0")]
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


# --- names, folders, what is missing


def test_digits_as_images():
    found, (x, y) = load("digits"), digits()
    assert found.images.shape == (1740, 1, 8, 8) and found.source == "digits (scikit-learn)"
    assert np.array_equal(found.images.reshape(-1, 64), x * 240) and found.images.max() == 240
    assert np.array_equal(found.labels, y) and available("digits")


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("digits", "test", "one of train for 'digits'; got 'test'"),
        ("mnist", "valid", "one of train, test.*got 'valid'"),
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
                download.MNIST_URL,
                "networks download mnist",
            ],
        ),
        (
            "cifar10",
            [
                "cifar-10-binary.tar.gz",
                "cifar-10-batches-py",
                "cifar10-jpeg.tar.xz",
                download.CIFAR10_URL,
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
    for module in (data, archives, download):  # the package around them may
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
            read_idx(path, (28, 28), download.MNIST_MD5[IMAGES])
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


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.arange(29) % 10, "30 labels, one per image; found 29"),
        (np.arange(30) % 11, "labels 0..9; found 0..10"),
    ],
)
def test_labels_fit_the_images(mnist, labels, message, tmp_path, monkeypatch):
    raw = idx(labels.astype(np.uint8))
    monkeypatch.setitem(download.MNIST_MD5, LABELS, md5(raw))
    write(tmp_path / IMAGES, idx(mnist[0]))
    write(tmp_path / LABELS, raw)
    with pytest.raises(CorruptData, match=message):
        load("mnist", root=tmp_path)


# --- CIFAR-10, official files


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "kind, short, make", [("binary", "bin", binary_files), ("python", "py", python_files)]
)
def test_cifar10_official_files(kind, short, make, split, tmp_path, monkeypatch):
    make_small(monkeypatch)
    files, folder, archive = make(split), f"cifar-10-batches-{short}", f"cifar-10-{kind}.tar.gz"
    for name, content in files.items():
        write(tmp_path / "a" / folder / name, content)
        monkeypatch.setitem(download.BATCH_MD5, name, md5(content))
    assert_cifar10(load("cifar10", split, tmp_path / "a"), split)
    backwards = {f"{folder}/{name}": files[name] for name in sorted(files, reverse=True)}
    packed = gzip.compress(tar({f"{folder}/readme.html": b"<html>", **backwards}))
    write(tmp_path / "b" / "cifar10" / archive, packed)
    with pytest.raises(
        CorruptData, match=f"{archive} is not the official file: md5 c.* expected, {md5(packed)}"
    ):
        load("cifar10", split, tmp_path / "b")
    monkeypatch.setitem(download.ARCHIVE_MD5, archive, md5(packed))
    assert_cifar10(load("cifar10", split, tmp_path / "b"), split)


def test_python2_pickles_are_as_python_reads_them():
    _, x, y = next(batches())
    plain = pickle.loads(python2_pickle(x, y), encoding="bytes")
    assert np.array_equal(plain[b"data"], x) and plain[b"labels"] == list(y)


def test_pickles_of_python_3_and_column_order_are_read():
    x = np.asfortranarray(random_bytes(4, 6))
    for protocol in (3, 4):
        found = unpickle(pickle.dumps({"data": x, b"labels": [1, 2], "n": None}, protocol), "batch")
        assert np.array_equal(found["data"], x) and found["labels"] == [1, 2] and found["n"] is None


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda path: pickle.dumps({"data": Evil(os.mkdir, path)}), "mkdir, which no batch"),
        (
            lambda path: pickle.dumps(Evil(eval, f"__import__('os').mkdir({path!r})")),
            "builtins.eval, which no batch",
        ),
        (
            lambda path: pickle.dumps({"data": Evil(subprocess.run, ["mkdir", path])}),
            "subprocess.run",
        ),
        (lambda path: b"\x80\x02cnumpy\nload\n.", "numpy.load, which no batch"),
        (lambda path: pickle.dumps({"data": np.array([Evil(os.mkdir, path)], object)}), "mkdir"),
        (lambda path: pickle.dumps({"data": np.arange(4)}), "arrays of unsigned bytes.*i8"),
        (lambda path: pickle.dumps([1, 2]), "refused as a pickle"),
        (lambda path: pickle.dumps({"data": b"x" * 99})[:-20], "refused as a pickle"),
        (lambda path: b"", "refused as a pickle"),
    ],
)
def test_hostile_and_damaged_pickles_run_nothing(content, message, tmp_path, monkeypatch):
    make_small(monkeypatch)
    target = tmp_path / "made"
    raw = content(str(target))
    for name in data.BATCHES["train"]:
        write(tmp_path / "cifar-10-batches-py" / name, raw)
        monkeypatch.setitem(download.BATCH_MD5, name, md5(raw))
    with pytest.raises(CorruptData, match=message) as error:
        load("cifar10", root=tmp_path)
    assert "data_batch_1" in str(error.value) and not target.exists()
    monkeypatch.setitem(download.BATCH_MD5, "data_batch_1", "0" * 32)
    with pytest.raises(CorruptData, match="md5 0000"):  # before anything is unpickled
        load("cifar10", root=tmp_path)


def test_the_hostile_pickle_would_work(tmp_path):
    pickle.loads(pickle.dumps(Evil(os.mkdir, str(tmp_path / "made"))))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "batch, message",
    [
        ({"data": np.zeros((9, 3072), np.uint8), "labels": [0] * 10}, r"\(10, 3072\).*\(9, 3072\)"),
        ({"labels": [0] * 10}, r"\(10, 3072\); found None"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9}, "10 labels.*found 9"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9 + [10]}, "0..9; found 0..10"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [-1] + [0] * 9}, "0..9; found -1..0"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [0.5] * 10}, "list of integer labels"),
        ({"data": np.zeros((10, 3072), np.uint8)}, "list of integer labels; found NoneType"),
    ],
)
def test_wrong_python_batches_are_named(batch, message, tmp_path, monkeypatch):
    make_small(monkeypatch)
    raw = pickle.dumps(batch, 4)
    write(tmp_path / "cifar-10-batches-py" / "test_batch", raw)
    monkeypatch.setitem(download.BATCH_MD5, "test_batch", md5(raw))
    with pytest.raises(CorruptData, match=f"test_batch must hold.*{message}"):
        load("cifar10", "test", tmp_path)


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
    folder = tmp_path / "cifar-10-batches-bin"
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
        write(tmp_path / "cifar-10-batches-bin" / name, content)
    with pytest.raises(CorruptData, match="has 30730 bytes; at most 1000"):
        load("cifar10", "test", tmp_path)


def test_official_files_come_first(tmp_path, monkeypatch):
    make_small(monkeypatch)
    write(
        tmp_path / "cifar10-jpeg.tar.xz",
        lzma.compress(tar(tree_files(kind="JPEG") | tree_files("test"))),
    )
    assert load("cifar10", root=tmp_path).source == "CIFAR-10 (JPEG copy)"
    for make, short in ((python_files, "py"), (binary_files, "bin")):
        for name, content in make().items():
            write(tmp_path / f"cifar-10-batches-{short}" / name, content)
            monkeypatch.setitem(download.BATCH_MD5, name, md5(content))
        assert_cifar10(load("cifar10", root=tmp_path))
        if short == "py":  # from here on the Python files are broken, and must not be looked at
            write(tmp_path / "cifar-10-batches-py" / "data_batch_1", b"")


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
    for k, image in enumerate(found.images):
        raw = files[f"train/{OBJECTS[k]}/0000.{kind.lower()}"]
        assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(raw))).transpose(2, 0, 1))
    if kind == "PNG":
        assert np.array_equal(found.images[3], random_bytes(32, 32, 3, seed=3).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "files, message",
    [
        (tree_files(side=31), r"\(3, 32, 32\) expected.*found \(3, 31, 31\)"),
        (tree_files(per_class=2), "1 images of each of airplane.*found airplane 2"),
        (tree_files(classes=("cat", "dog")), "each of airplane.*found cat 1, dog 1"),
    ],
)
def test_a_copy_of_cifar10_is_complete(files, message, tmp_path, monkeypatch):
    make_small(monkeypatch)
    write(tmp_path / "cifar10.tar", tar(files))
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
        ({"top/train/a/0.png": b""}, "two trees with .*train/a/0.png"),
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
    monkeypatch.setattr(archives, "PIXELS", 15)
    monkeypatch.setattr(np, "asarray", None)
    with pytest.raises(CorruptData, match=r"at most 15 pixels.*found \(1, 4, 4\)"):
        read_tree(path, "train")


# --- tar archives


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


# --- download


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A made data set of two files, and the empty folder that it is fetched into."""
    source, root = tmp_path / "source", tmp_path / "root"
    root.mkdir()
    files = [write(source / f"{i}.gz", random_bytes(1000, seed=i).tobytes()) for i in range(2)]
    entries = tuple(Official(f.as_uri(), f"made/{f.name}", md5(f.read_bytes())) for f in files)
    monkeypatch.setattr(download, "OFFICIAL", {"made": entries})
    return files, root


def contents(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))


def test_files_are_fetched_once_and_checked(official, capfd):
    files, root = official
    found = fetch("made", root)
    assert found == [root / "made" / "0.gz", root / "made" / "1.gz"]
    assert contents(root) == ["made", "made/0.gz", "made/1.gz"]
    assert [p.read_bytes() for p in found] == [p.read_bytes() for p in files]
    for file in files:
        file.unlink()
    assert fetch("made", root) == found
    found[1].write_bytes(b"old")
    with pytest.raises(CorruptData, match=r"1\.gz is not the official file"):
        fetch("made", root)
    assert found[1].read_bytes() == b"old"
    assert capfd.readouterr() == ("", "")


def test_a_wrong_file_leaves_nothing(official):
    files, root = official
    files[0].write_bytes(b"another file")
    with pytest.raises(DownloadError, match=r"md5 .* expected") as error:
        fetch("made", root)
    assert contents(root) == []
    assert f"by hand, save {files[0].as_uri()} as {root / 'made' / '0.gz'}" in str(error.value)
    files[0].unlink()
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch("made", root)
    assert contents(root) == []


def test_an_interrupted_download_leaves_nothing(official, monkeypatch):
    _, root = official

    def interrupted(*_):
        assert [p.name[:5] for p in root.iterdir()] == [".0.gz"]
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "check_md5", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("made", root)
    assert contents(root) == []


@pytest.mark.parametrize(
    "answer, message",
    [
        ("whole", None),
        ("cut", "1000 bytes expected, 400 arrived"),
        ("missing", "404"),
        ("silence", "could not be"),
    ],
)
def test_a_server_may_fail(answer, message, official, monkeypatch):
    files, root = official
    content = files[0].read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if answer == "silence":
                return
            self.send_response(404 if answer == "missing" else 200)
            self.send_header("Content-Length", "0" if answer == "missing" else str(len(content)))
            self.end_headers()
            self.wfile.write({"whole": content, "cut": content[:400], "missing": b""}[answer])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/0.gz"
        monkeypatch.setattr(
            download, "OFFICIAL", {"made": (Official(url, "made/0.gz", md5(content)),)}
        )
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        threading.Thread(target=server.handle_request, daemon=True).start()
        if message is None:
            assert fetch("made", root)[0].read_bytes() == content
        else:
            with pytest.raises(DownloadError, match=f"{message}.*To get it by hand, save {url}"):
                fetch("made", root)
            assert contents(root) == []


def test_a_download_needs_a_known_name_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NCLIB_DATA", raising=False)
    with pytest.raises(ValueError, match="one of mnist, cifar10; got 'svhn'"):
        fetch("svhn", tmp_path)
    with pytest.raises(ValueError, match="NCLIB_DATA"):
        fetch("mnist")
    with pytest.raises(NotADirectoryError, match="make it first"):
        fetch("mnist", tmp_path / "none")


def test_official_files_are_where_the_reader_looks(tmp_path):
    for name, files in download.OFFICIAL.items():
        for file in files:
            assert file.url.startswith("https://") and file.url.endswith(Path(file.place).name)
            write(tmp_path / file.place, b"")
        assert available(name, tmp_path) and available(name, tmp_path, "test")


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
    # Airplanes and ships are blue, frogs are not: the channels are in their order and the classes have their names.
    blue = {
        c: np.subtract(*found.images[found.labels == k][:, [2, 0]].mean(axis=(0, 2, 3)))
        for k, c in enumerate(found.classes)
    }
    assert min(blue["airplane"], blue["ship"]) > 0 > blue["frog"]
