"""Real networks: data, models and training. The only part of the library that imports torch."""

from nclib.networks.data import digits
from nclib.networks.mlp import MLP, hidden_features, last_weights
from nclib.networks.training import History, half_square, train

__all__ = ["MLP", "History", "digits", "half_square", "hidden_features", "last_weights", "train"]
