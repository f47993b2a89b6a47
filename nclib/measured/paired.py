r"""Changes paired by seed: their intervals, their yardstick, and the verdict on a prediction.

A statistic of a run is one number in bits, the binary logarithm of a metric at the end, over a
window of epochs, at a level of the loss, or of a ratio of two layers. With several seeds it is a
dictionary from seed to bits, and the change of a variant is the difference of two of these:

.. math::

    D_s(v)=\log_2 m_s(v)-\log_2 m_s(\text{baseline}).

Negative means closer to collapse. The rules are those of ``book/results/PLAN.md``.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from nclib.measured.entries import refusal

Bits = Mapping[int, float]
SMALL = 0.2  # an effect below this share of the yardstick is small


class Verdict(Enum):
    """What an interval says of a prediction that was made before."""

    YES = "yes"
    NO = "no"
    UNDETERMINED = "undetermined"

    def __str__(self) -> str:
        return self.value


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval, in bits.

    Attributes:
        mean: Mean over the seeds.
        low: Lower end of the interval; NaN if there are too few seeds for one.
        high: Upper end, likewise.
        seeds: Number of seeds.
        yardstick: Standard deviation of the same statistic between two baselines; NaN if there is
            one baseline only.
    """

    mean: float
    low: float
    high: float
    seeds: int
    yardstick: float

    @property
    def small(self) -> bool:
        """Whether the mean is smaller in size than a fifth of the yardstick."""
        return abs(self.mean) < SMALL * self.yardstick


# ---- one run: a statistic in bits ----------------------------------------------------------------


def window_bits(epochs: ArrayLike, values: ArrayLike, first: int, last: int) -> float:
    """Mean over the measured epochs of a window of the binary logarithm of a metric.

    Args:
        epochs: Epochs, shape (E,).
        values: The metric after each of them, greater than zero, shape (E,); NaN where it was not
            measured.
        first: First epoch of the window.
        last: Last epoch of the window, which belongs to it.

    Returns:
        The mean in bits. With the same first and last epoch it is the logarithm at that epoch.

    Raises:
        ValueError: The shapes differ, a value is not greater than zero, or no epoch of the window
            was measured.

    Examples:
        >>> window_bits([10, 20, 25, 30], [9, 1, float("nan"), 4], 20, 30)
        1.0
    """
    epochs, values = _columns("epochs", epochs, "values", values)
    inside = (epochs >= first) & (epochs <= last) & ~np.isnan(values)
    if not inside.any():
        raise ValueError(f"values must be measured between epochs {first} and {last}, but are not.")
    return float(_log2("values", values[inside]).mean())


def matched_level(losses: Iterable[ArrayLike]) -> float:
    """The lowest loss that all runs have reached: the largest of their smallest losses.

    Args:
        losses: For each run the loss by epoch, shape (E,), greater than zero; NaN where it was not
            measured.

    Raises:
        ValueError: There is no run, a run has no measured loss, or one that is not greater than
            zero.

    Examples:
        >>> matched_level([[2.0, 0.5, 0.1], [2.0, float("nan"), 0.3]])
        0.3
    """
    smallest = []
    for i, loss in enumerate(losses):
        measured = np.asarray(loss, dtype=float)
        measured = measured[~np.isnan(measured)]
        if not measured.size:
            raise ValueError(f"losses[{i}] must be measured at one epoch at least, but is not.")
        _log2(f"losses[{i}]", measured)
        smallest.append(measured.min())
    if not smallest:
        raise ValueError("losses must be those of one run at least, but there are none.")
    return float(max(smallest))


def matched_bits(loss: ArrayLike, values: ArrayLike, level: float) -> float:
    """Binary logarithm of a metric where the loss first crosses a level.

    Between the two measured epochs around the first crossing the logarithm of the metric is
    interpolated in the logarithm of the loss.

    Args:
        loss: Loss by epoch, shape (E,), greater than zero; NaN where it was not measured.
        values: The metric, greater than zero, shape (E,); NaN where it was not measured.
        level: The level of the loss, greater than zero.

    Returns:
        The metric in bits; the first measured one if the loss begins at or below the level.

    Raises:
        ValueError: The shapes differ, a value is not greater than zero, or the loss does not reach
            the level.

    Examples:
        >>> matched_bits([4.0, 1.0, 0.1], [8.0, 2.0, 1.0], level=2.0)
        2.0
    """
    loss, values = _columns("loss", loss, "values", values)
    both = ~np.isnan(loss) & ~np.isnan(values)
    x, y = _log2("loss", loss[both]), _log2("values", values[both])
    (at,) = _log2("level", np.array([level], dtype=float))
    below = np.flatnonzero(x <= at)
    if not below.size:
        raise ValueError(f"loss must reach the level {level!r}, but stays above it.")
    after = int(below[0])
    if after == 0:
        return float(y[0])
    before = after - 1
    share = (x[before] - at) / (x[before] - x[after])
    return float(y[before] + share * (y[after] - y[before]))


def ratio_bits(earlier: float, later: float) -> float:
    """Binary logarithm of the ratio of a metric from one layer to a later one.

    Args:
        earlier: The metric of the earlier layer, greater than zero.
        later: That of the later layer, greater than zero.

    Raises:
        ValueError: A metric is not finite or not greater than zero.

    Examples:
        >>> ratio_bits(0.5, 0.125)
        -2.0
    """
    (x,) = _log2("earlier", np.array([earlier], dtype=float))
    (y,) = _log2("later", np.array([later], dtype=float))
    return float(y - x)


def seeds_that_fit(errors: Iterable[Bits], most: float = 0.002) -> list[int]:
    """Seeds with which no variant ends above a training error: those of the second version.

    Args:
        errors: For each variant the training error at the end by seed.
        most: The largest training error that counts as a fit.

    Returns:
        The seeds that every variant has, without those in which one ends above ``most``, sorted.

    Raises:
        ValueError: There is no variant, or an error is not in [0, 1].

    Examples:
        >>> seeds_that_fit([{0: 0.0, 1: 0.001, 2: 0.0}, {0: 0.0, 1: 0.0, 2: 0.05}])
        [0, 1]
    """
    variants = list(errors)
    if not variants:
        raise ValueError("errors must be those of one variant at least, but there are none.")
    for variant in variants:
        for seed, error in variant.items():
            if not 0 <= error <= 1:
                raise ValueError(refusal(f"errors of seed {seed}", "a number in [0, 1]", error))
    shared = set(variants[0]).intersection(*variants[1:])
    return sorted(seed for seed in shared if max(v[seed] for v in variants) <= most)


# ---- several seeds -------------------------------------------------------------------------------


def differences(variant: Bits, baseline: Bits) -> dict[int, float]:
    """The change of a variant against the baseline of the same seed, for each seed.

    Args:
        variant: A statistic of the variant by seed, in bits.
        baseline: The same of the baseline; it may have further seeds.

    Returns:
        The difference in bits by seed, in the order of the seeds.

    Raises:
        ValueError: The variant has no seed, a seed that the baseline lacks, or a number is not
            finite.

    Examples:
        >>> differences({0: -6.0, 1: -7.5}, {0: -7.0, 1: -7.0})
        {0: 1.0, 1: -0.5}
    """
    _require_finite("variant", variant)
    _require_finite("baseline", baseline)
    for seed in sorted(variant):
        if seed not in baseline:
            raise ValueError(f"baseline must have the seeds of the variant, but lacks seed {seed}.")
    return {seed: float(variant[seed] - baseline[seed]) for seed in sorted(variant)}


def yardstick(baseline: Bits) -> float:
    r"""Standard deviation of the difference between two baselines, over all pairs of seeds.

    .. math::

        \Big(\frac1{S(S-1)}\sum_{s\ne s'}(x_s-x_{s'})^2\Big)^{1/2}

    The differences have mean zero, since each pair comes in both orders.

    Args:
        baseline: A statistic of the baseline by seed, in bits.

    Returns:
        The standard deviation in bits; NaN for one seed.

    Raises:
        ValueError: There is no seed, or a number is not finite.

    Examples:
        >>> yardstick({0: 1.0, 1: 3.0})
        2.0
    """
    _require_finite("baseline", baseline)
    squares = [(x - y) ** 2 for x, y in permutations(baseline.values(), 2)]
    return float(np.sqrt(np.mean(squares))) if squares else np.nan


def paired_change(variant: Bits, baseline: Bits, share: float = 0.95, fewest: int = 2) -> Interval:
    r"""Mean change of a variant, with the interval of Student's t over the seeds.

    .. math::

        \bar D\pm t_{S-1}\,\frac{\operatorname{sd}(D_s)}{\sqrt S}

    Args:
        variant: A statistic of the variant by seed, in bits.
        baseline: The same of the baseline; it may have further seeds, which count for the
            yardstick.
        share: Probability with which the interval covers the mean, for normal differences.
        fewest: With fewer seeds the ends of the interval are NaN; 2 at least.

    Raises:
        ValueError: The variant has no seed or one that the baseline lacks, a number is not finite,
            share is not in (0, 1), or fewest is less than 2.

    Examples:
        >>> change = paired_change({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
        >>> print(f"{change.mean:.2f} from {change.low:.2f} to {change.high:.2f}")
        2.00 from -0.48 to 4.48
        >>> str(judge(change, +1))
        'undetermined'
    """
    if not 0 < share < 1:
        raise ValueError(refusal("share", "in (0, 1)", share))
    if fewest < 2:
        raise ValueError(refusal("fewest", "2 at least", fewest))
    D = np.array(list(differences(variant, baseline).values()))
    seeds = len(D)
    half = np.nan
    if seeds >= fewest:
        half = stdtrit(seeds - 1, (1 + share) / 2) * D.std(ddof=1) / np.sqrt(seeds)
    mean = float(D.mean())
    return Interval(mean, float(mean - half), float(mean + half), seeds, yardstick(baseline))


def larger_span(
    one: Sequence[Bits], other: Sequence[Bits], resamples: int = 10_000, seed: int = 0
) -> Interval:
    """By how much one span exceeds another in absolute value, with a bootstrap over seeds.

    The span of a decay is what leaving it out does minus what doubling it does. The same seeds are
    drawn for both spans; the interval goes from the 2.5th to the 97.5th percentile.

    Args:
        one: What leaving out and doubling the first decay give by seed, in bits.
        other: The same for the second decay.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Difference of the absolute values of the mean spans. It has no yardstick, which is NaN; the
        ends are NaN for one seed.

    Raises:
        ValueError: A span has not two entries, the four have not the same seeds, a number is not
            finite, or resamples is less than 1.

    Examples:
        >>> first = {0: 1.0, 1: 2.0}, {0: -1.0, 1: -1.0}
        >>> second = {0: 0.0, 1: 0.0}, {0: 0.5, 1: 0.5}
        >>> larger_span(first, second)[:3]
        (2.0, 1.5, 2.5)
    """
    if resamples < 1:
        raise ValueError(refusal("resamples", "1 at least", resamples))
    a, b = _span("one", one), _span("other", other)
    if list(a) != list(b):
        raise ValueError(f"both spans must have the same seeds, but have {list(a)} and {list(b)}.")
    x, y = np.array(list(a.values())), np.array(list(b.values()))
    seeds = len(x)
    mean = float(abs(x.mean()) - abs(y.mean()))
    if seeds == 1:
        return Interval(mean, np.nan, np.nan, seeds, np.nan)
    drawn = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))
    gaps = np.abs(x[drawn].mean(axis=1)) - np.abs(y[drawn].mean(axis=1))
    low, high = np.percentile(gaps, (2.5, 97.5))
    return Interval(mean, float(low), float(high), seeds, np.nan)


# ---- verdicts ------------------------------------------------------------------------------------


def judge(interval: Interval, sign: int) -> Verdict:
    """What an interval says of a predicted sign.

    Args:
        interval: The interval.
        sign: The predicted sign, 1 or -1.

    Returns:
        Yes if the interval lies on the predicted side of zero, no if it lies on the other side;
        undetermined if it contains zero, or if there are too few seeds for one.

    Raises:
        ValueError: The sign is neither 1 nor -1.

    Examples:
        >>> str(judge(Interval(0.5, 0.1, 0.9, 10, 1.0), +1))
        'yes'
    """
    if sign not in (1, -1):
        raise ValueError(refusal("sign", "1 or -1", sign))
    if sign * interval.low > 0 and sign * interval.high > 0:
        return Verdict.YES
    if sign * interval.low < 0 and sign * interval.high < 0:
        return Verdict.NO
    return Verdict.UNDETERMINED


def judge_small(interval: Interval) -> Verdict:
    """What an interval says of the prediction that an effect is small.

    Args:
        interval: The interval, with its yardstick.

    Returns:
        Yes if the interval lies within a fifth of the yardstick on both sides of zero, no if it
        lies outside, else undetermined.

    Examples:
        >>> str(judge_small(Interval(0.05, -0.1, 0.2, 10, 2.0)))
        'yes'
    """
    limit = SMALL * interval.yardstick
    if -limit < interval.low and interval.high < limit:
        return Verdict.YES
    if interval.low > limit or interval.high < -limit:
        return Verdict.NO
    return Verdict.UNDETERMINED


def judge_share(fulfilled: int, asked: int, yes: float = 0.9, no: float = 0.5) -> Verdict:
    """What it says of a criterion that it is fulfilled in some of the cases it was asked of.

    Args:
        fulfilled: In how many cases.
        asked: Of how many.
        yes: The share from which on the criterion holds.
        no: The share up to which it does not.

    Returns:
        Yes, no, or between the two shares, and where nothing was asked, undetermined.

    Examples:
        >>> str(judge_share(9, 10)), str(judge_share(5, 10)), str(judge_share(7, 10))
        ('yes', 'no', 'undetermined')
    """
    if asked and fulfilled / asked >= yes:
        return Verdict.YES
    return Verdict.NO if asked and fulfilled / asked <= no else Verdict.UNDETERMINED


def judge_all(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a prediction of several parts.

    Args:
        verdicts: One verdict for each part.

    Returns:
        Yes if all are, no if one is, else undetermined.

    Raises:
        ValueError: There are none.

    Examples:
        >>> str(judge_all([Verdict.YES, Verdict.UNDETERMINED]))
        'undetermined'
    """
    parts = set(verdicts)
    if not parts:
        raise ValueError("verdicts must be one at least, but there are none.")
    if Verdict.NO in parts:
        return Verdict.NO
    return Verdict.YES if parts == {Verdict.YES} else Verdict.UNDETERMINED


def judge_versions(all_seeds: Verdict, fitted_seeds: Verdict) -> Verdict:
    """The verdict of both versions, with all seeds and without those that did not fit.

    Args:
        all_seeds: The verdict with all seeds.
        fitted_seeds: The verdict without the seeds in which a variant did not fit its samples.

    Returns:
        Their common verdict; undetermined if they differ.

    Examples:
        >>> str(judge_versions(Verdict.YES, Verdict.NO))
        'undetermined'
    """
    return all_seeds if all_seeds is fitted_seeds else Verdict.UNDETERMINED


# ---- arguments -----------------------------------------------------------------------------------


def _columns(first: str, x: ArrayLike, second: str, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of a table of epochs as arrays of one length."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"{first} and {second} must be columns of one length, "
            f"but have the shapes {a.shape} and {b.shape}."
        )
    return a, b


def _log2(name: str, x: np.ndarray) -> np.ndarray:
    """Binary logarithm of finite numbers greater than zero."""
    for value in x[~(np.isfinite(x) & (x > 0))]:
        raise ValueError(refusal(name, "finite and greater than zero", float(value)))
    return np.log2(x)


def _require_finite(name: str, bits: Bits) -> None:
    if not bits:
        raise ValueError(f"{name} must have one seed at least, but has none.")
    for seed, value in bits.items():
        if not np.isfinite(value):
            raise ValueError(refusal(f"{name}[{seed}]", "finite", float(value)))


def _span(name: str, pair: Sequence[Bits]) -> dict[int, float]:
    """What leaving out gives minus what doubling gives, by seed."""
    if len(pair) != 2:
        raise ValueError(f"{name} must be a pair, zero and double, but has {len(pair)} entries.")
    zero, double = pair
    if set(zero) != set(double):
        raise ValueError(
            f"{name} must have the same seeds twice, but has {sorted(zero)} and {sorted(double)}."
        )
    return differences(zero, double)
