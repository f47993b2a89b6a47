"""Made data in the place of the official one."""

import numpy as np
import pytest

from nclib.networks.data import load
from tests.networks.data.made import IMAGES, LABELS, idx, md5, random_bytes


@pytest.fixture
def mnist(monkeypatch):
    """Thirty images and labels, unordered, whose files take the place of MNIST's."""
    x = random_bytes(30, 28, 28)
    y = np.random.default_rng(1).permutation(np.arange(30) % 10).astype(np.uint8)
    for name, array in ((IMAGES, x), (LABELS, y)):
        monkeypatch.setitem(load.MNIST_MD5, name, md5(idx(array)))
    return x, y
