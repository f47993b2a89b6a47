"""Real networks: data, models and training. The only part of the library that imports torch."""

from nclib.networks.balance import BlockBalance, Settled, balance, horizon, settle
from nclib.networks.data.archives import CorruptData
from nclib.networks.data.formats import ImageData
from nclib.networks.data.load import DataMissing, available, digits, load
from nclib.networks.decisions import disagreement
from nclib.networks.mlp import MLP, hidden_features, last_weights
from nclib.networks.probes import Probe, features, probe
from nclib.networks.recipe import Recipe, half_square
from nclib.networks.reporting import report
from nclib.networks.residual import ResidualMLP, SmoothReLU
from nclib.networks.resnet import ResNet18
from nclib.networks.samples import Samples
from nclib.networks.training import History, Trainer, train

__all__ = [
    "MLP",
    "BlockBalance",
    "CorruptData",
    "DataMissing",
    "History",
    "ImageData",
    "Probe",
    "Recipe",
    "ResNet18",
    "ResidualMLP",
    "Samples",
    "Settled",
    "SmoothReLU",
    "Trainer",
    "available",
    "balance",
    "digits",
    "disagreement",
    "features",
    "half_square",
    "hidden_features",
    "horizon",
    "last_weights",
    "load",
    "probe",
    "report",
    "settle",
    "train",
]
