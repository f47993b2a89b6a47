"""Layers to predict and to be predicted, and the same layers in other axes and units."""

import numpy as np
from scipy.stats import ortho_group

from nclib import ClassStatistics, Model, minimize
from tests.foundations.oracle import samples

MODEL = Model(2.0, 0.3, 0.6)  # lambda_W (lambda_H + beta) = 1.8: one stationary point


def layer(seed=0, K=4, d=6, n=7, offset=0.5):
    return ClassStatistics.from_features(*samples(seed, [n] * K, d, spread=0.7, offset=offset))


def moved(stats, rotation=None, unit=1.0, shift=0.0, order=None):
    """The same layer in other axes, another unit, around another origin, its classes reordered."""
    Q = np.eye(stats.d) if rotation is None else rotation
    order = np.arange(stats.K) if order is None else order
    means = unit * Q @ stats.means[:, order] + shift
    return ClassStatistics(stats.counts[order], means, unit**2 * Q @ stats.within @ Q.T)


def assert_same(a, b, rtol=1e-9):
    np.testing.assert_allclose(a.means, b.means, rtol=rtol, atol=rtol * np.abs(b.means).max())
    np.testing.assert_allclose(a.within, b.within, rtol=rtol, atol=rtol * np.abs(b.within).max())


EARLIER = layer()
OTHER = layer(5)  # not made by the model
LATER = moved(minimize(MODEL, EARLIER).statistics, ortho_group.rvs(6, random_state=1), unit=3.0)
FLAT = ClassStatistics(EARLIER.counts, EARLIER.means, np.zeros((6, 6)))
EQUAL = ClassStatistics(EARLIER.counts, np.ones((6, 4)), EARLIER.within)
# What has no shape, and why.
SHAPELESS = [(FLAT, "must not vanish"), (EQUAL, "class means are equal"), (layer(K=1), "K = 1")]
