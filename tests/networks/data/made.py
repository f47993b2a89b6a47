"""Made files for the tests of data: IDX files, batches, trees and archives, good ones and hostile
ones."""

import gzip
import hashlib
import io
import lzma
import tarfile

import numpy as np
from PIL import Image

from nclib.networks.data import formats, load
from nclib.networks.data.load import OBJECTS

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


def sums(images):
    """Of each channel the sum of all values and of their squares."""
    channels = np.asarray(images, dtype=np.int64).reshape(-1, 3, 1024).swapaxes(0, 1)
    return tuple((int(c.sum()), int((c**2).sum())) for c in channels)


def make_small(monkeypatch):
    """CIFAR-10 with ten images in a batch, and in a copy one image of each class."""
    monkeypatch.setattr(formats, "RECORDS", 10)
    counts = {split: len(names) for split, names in formats.BATCHES.items()}
    monkeypatch.setattr(load, "PER_CLASS", counts)
    for split in formats.SPLITS:
        pixels = np.concatenate([x for _, x, _ in batches(split)])
        monkeypatch.setitem(load.CIFAR10_SUMS, split, sums(pixels))


def batches(split="train"):
    """Batches of ten images as (name, pixels (10, 3072), labels), every class once in each."""
    for i, name in enumerate(formats.BATCHES[split]):
        yield name, random_bytes(10, 3072, seed=i), np.random.default_rng(i).permutation(10)


def binary_files(split="train"):
    return {name: np.c_[y.astype(np.uint8), x].tobytes() for name, x, y in batches(split)}


def tree_files(split="train", kind="PNG", side=32, per_class=None, classes=OBJECTS):
    per_class = per_class or load.PER_CLASS[split]
    names = [f"{split}/{c}/{i:04}.{kind.lower()}" for c in classes for i in range(per_class)]
    return {
        name: picture(random_bytes(side, side, 3, seed=i), kind) for i, name in enumerate(names)
    }
