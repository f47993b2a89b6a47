"""Perturbation analysis of neural collapse: class statistics, metrics, the perturbed features model and its solver.

The core needs NumPy, SciPy and threadpoolctl only. ``nclib.plotting`` brings in matplotlib, ``nclib.symbolic``
SymPy, and ``nclib.networks`` torch; import them by name.
"""

from nclib.metrics import Metrics, measure, nc1, nc1_trace, nc2, nc3, nc4
from nclib.model import Collapsed, Gradient, Model
from nclib.solver import Solution, Status, minimize
from nclib.statistics import ClassStatistics

__version__ = "0.1.0"

__all__ = [
    "ClassStatistics",
    "Collapsed",
    "Gradient",
    "Metrics",
    "Model",
    "Solution",
    "Status",
    "measure",
    "minimize",
    "nc1",
    "nc1_trace",
    "nc2",
    "nc3",
    "nc4",
]
