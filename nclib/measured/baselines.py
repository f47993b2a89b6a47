"""Layers that contract and equalize without a model: what a prediction has to beat."""

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from nclib._checks import instance
from nclib.foundations.statistics import ClassStatistics
from nclib.measured.prediction import QUANTITIES, Family, Prediction, Range, closest

RANGE = Range(1e-3, 10)


def contracted(
    stats: ClassStatistics, inside: float, outside: float, power: float
) -> ClassStatistics:
    r"""A layer that contracts and equalizes, without asking why.

    With the centered means :math:`M = U \operatorname{diag}(s) V^\top`, and :math:`M'` given the
    norm of M,

    .. math:: M' \propto U \operatorname{diag}(s^\alpha) V^\top, \qquad \Sigma_W' = C\Sigma_W C,
              \qquad C = \gamma_{in} UU^\top + \gamma_{out}(I - UU^\top) .

    Args:
        stats: Statistics of the layer before.
        inside: :math:`\gamma_{in}`, the factor inside the span of the centered means.
        outside: :math:`\gamma_{out}`, the factor outside.
        power: :math:`\alpha`, 1 where the means keep their geometry and 0 where they become a
            simplex frame.

    Raises:
        ValueError: All class means are equal.

    Examples:
        >>> stats = ClassStatistics([5, 5], np.array([[2.0, -2.0], [0.0, 0.0]]), np.eye(2))
        >>> contracted(stats, inside=0.5, outside=0.1, power=1.0).within.round(2)
        array([[0.25, 0.  ],
               [0.  , 0.01]])
    """
    instance("stats", stats, ClassStatistics)
    M = stats.centered_means
    U = linalg.orth(M, rcond=1e-10)
    if not U.size:
        raise ValueError("stats must have different class means, but all of them are equal.")
    left, s, right = linalg.svd(U.T @ M, full_matrices=False)
    turned = U @ (left * (s / s[0]) ** power) @ right
    turned *= linalg.norm(M) / linalg.norm(turned)
    C = outside * np.eye(stats.d) + (inside - outside) * U @ U.T
    return ClassStatistics(
        stats.counts, stats.global_mean[:, None] + turned, C @ stats.within @ C, stats.resolution
    )


def baselines(
    earlier: ClassStatistics, later: ClassStatistics, quantities: Sequence[str] = QUANTITIES
) -> dict[str, Prediction]:
    """Predictions by `contracted`, with none to three numbers fitted as the model's are.

    With fewer quantities than numbers the choice among equally good ones is arbitrary.

    Args:
        earlier: Statistics of a layer.
        later: Statistics of the next layer.
        quantities: Fields of `Comparison`: these are fitted, the others predicted.

    Returns:
        In this order ``"unchanged"``: the shape stays as it is; ``"one contraction"``: the
        within-class part contracts; ``"two contractions"``: separately inside and outside the span
        of the centered means; ``"contraction and frame"``: it contracts, and the means move towards
        a frame; ``"three numbers"``: all of this.

    Raises:
        ValueError: A layer has no shape, the numbers of classes differ, or a quantity has no such
            name.

    Examples:
        >>> stats = ClassStatistics([5, 5], np.array([[2.0, -2.0], [0, 0]]), np.diag([1.0, 3.0]))
        >>> found = baselines(stats, contracted(stats, 0.3, 0.3, 1.0), ("nc1",))
        >>> print(f"contracted by {found['one contraction'].parameters[0]:.4f}")
        contracted by 0.3000
    """
    families: dict[str, tuple[int, Family]] = {
        "unchanged": (0, lambda x: earlier),
        "one contraction": (1, lambda x: contracted(earlier, x[0], x[0], 1.0)),
        "two contractions": (2, lambda x: contracted(earlier, x[0], x[1], 1.0)),
        "contraction and frame": (2, lambda x: contracted(earlier, x[0], x[0], x[1])),
        "three numbers": (3, lambda x: contracted(earlier, *x)),
    }
    found: dict[str, Prediction] = {}
    for name, (numbers, family) in families.items():
        known = _of_smaller_families(name, found)
        found[name] = closest(family, [RANGE] * numbers, later, quantities, known)
    return found


def _of_smaller_families(name: str, found: dict[str, Prediction]) -> list[tuple[float, ...]]:
    """The best members of the families that this one contains, in its own numbers."""
    if name in ("unchanged", "one contraction"):
        return []
    (one,) = found["one contraction"].parameters
    if name == "two contractions":
        return [(one, one)]
    if name == "contraction and frame":
        return [(one, 1.0)]
    inside, outside = found["two contractions"].parameters
    both, power = found["contraction and frame"].parameters
    return [(inside, outside, 1.0), (both, both, power)]
