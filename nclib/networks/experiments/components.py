"""Inputs of the experiments with perceptrons: principal components of images."""

import numpy as np

from nclib.networks.data.load import load


def components(
    name: str, per_class: int, dimension: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str | int]]:
    """Images in their first principal components, and where they come from.

    Args:
        name: The data, "digits", "mnist" or another that `load` knows.
        per_class: Images of each class.
        dimension: Components that are kept.

    Returns:
        The inputs (N, d), centered, with a mean square of one; the labels (N,); and the source.
    """
    data = load(name).subset(per_class, seed=0)
    x = data.images.reshape(data.N, -1).astype(float)
    x = x - x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=False)[2][:dimension]
    x = x @ axes.T
    x /= np.sqrt(np.mean(x**2))
    source: dict[str, str | int] = {"source": data.source, "fingerprint": data.fingerprint}
    return x, data.labels, source | {"samples": data.N}
