"""Perturbation analysis of neural collapse: metrics, the perturbed model, its solver, its theory.

The folders are the parts of the book. Every public function of ``foundations``, ``perturbation``
and ``measured`` can be imported from here. That needs NumPy, SciPy, threadpoolctl and msgspec only;
``nclib.plotting`` brings in matplotlib, ``nclib.perturbation.symbolic`` SymPy, and
``nclib.networks`` torch: import them by name.
"""

from nclib.foundations.accumulator import Accumulator
from nclib.foundations.feature_solve import FeatureSolve
from nclib.foundations.metrics import Metrics, measure, nc1, nc1_trace, nc2, nc3, nc4
from nclib.foundations.minimize import Solution, Status, minimize, path
from nclib.foundations.model import Collapsed, Gradient, Model
from nclib.foundations.newton import Descent, trust_region_newton
from nclib.foundations.reduced import Point, ReducedProblem
from nclib.foundations.search import ridge_start
from nclib.foundations.statistics import ClassStatistics, PrincipalAxes
from nclib.foundations.weight_solve import WeightSolve
from nclib.measured.baselines import baselines, contracted
from nclib.measured.files import StoredStatistics, load_statistics, save_statistics
from nclib.measured.fit import Fit, equivalent, fit
from nclib.measured.growth import (
    Falls,
    deep_bits,
    falls,
    judge_length,
    length_changes,
    settled,
    stage_ends,
    stage_lengths,
)
from nclib.measured.paired import (
    Interval,
    Verdict,
    differences,
    judge,
    judge_all,
    judge_share,
    judge_small,
    judge_versions,
    larger_span,
    matched_bits,
    matched_level,
    paired_change,
    ratio_bits,
    seeds_that_fit,
    window_bits,
    yardstick,
)
from nclib.measured.prediction import Prediction
from nclib.measured.records import Result
from nclib.measured.shape import Aligned, Comparison, Shape, aligned, compare, shape
from nclib.measured.summary import OverSeeds, load_all, over_seeds, provenance
from nclib.perturbation.central_path import CentralPath, central_path
from nclib.perturbation.contraction import Contraction, contraction
from nclib.perturbation.curvature import Curvature
from nclib.perturbation.response import (
    LargeBetaResponse,
    Response,
    Step,
    response,
    response_large_beta,
)
from nclib.perturbation.second_order import (
    Attenuation,
    Coefficients,
    Expansion,
    Ratio,
    attenuation,
    coefficients,
    nc1_ratio,
    nc1_trace_ratio,
    second_order,
)
from nclib.perturbation.series import (
    StatisticsSeries,
    flow_series,
    gradient_derivatives,
    series,
    series_statistics,
)
from nclib.perturbation.spectrum import (
    BlockSpectrum,
    Eigenspace,
    EigenspaceFamily,
    Spectrum,
    block_spectrum,
    eigenbases,
    optimal_radii,
    spectrum,
    spectrum_at_radius,
)

__version__ = "0.1.0"

__all__ = [
    "Accumulator",
    "Aligned",
    "Attenuation",
    "BlockSpectrum",
    "CentralPath",
    "ClassStatistics",
    "Coefficients",
    "Collapsed",
    "Comparison",
    "Contraction",
    "Curvature",
    "Descent",
    "Eigenspace",
    "EigenspaceFamily",
    "Expansion",
    "Falls",
    "FeatureSolve",
    "Fit",
    "Gradient",
    "Interval",
    "LargeBetaResponse",
    "Metrics",
    "Model",
    "OverSeeds",
    "Point",
    "Prediction",
    "PrincipalAxes",
    "Ratio",
    "ReducedProblem",
    "Response",
    "Result",
    "Shape",
    "Solution",
    "Spectrum",
    "StatisticsSeries",
    "Status",
    "Step",
    "StoredStatistics",
    "Verdict",
    "WeightSolve",
    "aligned",
    "attenuation",
    "baselines",
    "block_spectrum",
    "central_path",
    "coefficients",
    "compare",
    "contracted",
    "contraction",
    "deep_bits",
    "differences",
    "eigenbases",
    "equivalent",
    "falls",
    "fit",
    "flow_series",
    "gradient_derivatives",
    "judge",
    "judge_all",
    "judge_length",
    "judge_share",
    "judge_small",
    "judge_versions",
    "larger_span",
    "length_changes",
    "load_all",
    "load_statistics",
    "matched_bits",
    "matched_level",
    "measure",
    "minimize",
    "nc1",
    "nc1_ratio",
    "nc1_trace",
    "nc1_trace_ratio",
    "nc2",
    "nc3",
    "nc4",
    "optimal_radii",
    "over_seeds",
    "paired_change",
    "path",
    "provenance",
    "ratio_bits",
    "response",
    "response_large_beta",
    "ridge_start",
    "save_statistics",
    "second_order",
    "seeds_that_fit",
    "series",
    "series_statistics",
    "settled",
    "shape",
    "spectrum",
    "spectrum_at_radius",
    "stage_ends",
    "stage_lengths",
    "trust_region_newton",
    "window_bits",
    "yardstick",
]
