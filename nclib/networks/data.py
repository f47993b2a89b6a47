"""Data sets as arrays: features (N, D) in float64 and integer labels (N,), ordered by class."""

import numpy as np
from sklearn.datasets import load_digits


def digits(per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of scikit-learn: 8 x 8 gray images of ten classes, balanced and ordered by class.

    Args:
        per_class: images per class; the first ones of each class in the order of the data set are taken.
            By default as many as the smallest class has (174).

    Returns:
        Pixel values (10 * per_class, 64) between 0 and 1, and labels 0, ..., 9 of shape (10 * per_class,).

    Raises:
        ValueError: if per_class is not between 1 and the size of the smallest class.
    """
    images, labels = load_digits(return_X_y=True)
    smallest = int(np.bincount(labels).min())
    per_class = smallest if per_class is None else per_class
    if not 1 <= per_class <= smallest:
        raise ValueError(f"per_class must lie between 1 and {smallest}, the size of a class; got {per_class}.")
    chosen = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(10)])
    return images[chosen] / 16.0, labels[chosen].astype(np.int64)
