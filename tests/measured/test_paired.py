"""Changes paired by seed: intervals that cover, verdicts that notice a swap or a turned sign."""

import numpy as np
import pytest
import scipy.stats

from nclib import (
    Interval,
    Verdict,
    differences,
    judge,
    judge_all,
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

NAN = float("nan")
YES, NO, UNDETERMINED = Verdict.YES, Verdict.NO, Verdict.UNDETERMINED


def by_seed(values):
    return dict(enumerate(map(float, values)))


def normal(seeds, mean=0.0, seed=0):
    return by_seed(np.random.default_rng(seed).normal(mean, 1, seeds))


# ---- one run -------------------------------------------------------------------------------------


def test_a_window_holds_both_ends_and_only_what_was_measured():
    epochs, values = [0, 20, 24, 28, 30, 32], [1e9, 1, 4, NAN, 16, 1e-9]
    assert window_bits(epochs, values, 20, 30) == 2
    assert window_bits(epochs, values, 24, 24) == 2


@pytest.mark.parametrize(("first", "last"), [(21, 23), (28, 28), (30, 20)])
def test_a_window_without_a_measurement_is_refused(first, last):
    with pytest.raises(ValueError, match=f"measured between epochs {first} and {last}, but are"):
        window_bits([20, 24, 28, 30], [1, 4, NAN, 16], first, last)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
def test_a_metric_without_a_logarithm_is_refused(value):
    with pytest.raises(ValueError, match="must be finite and greater than zero, but"):
        window_bits([1, 2], [1, value], 1, 2)
    with pytest.raises(ValueError, match="must be finite and greater than zero, but"):
        matched_bits([2, 1], [1, value], 1)
    with pytest.raises(ValueError, match=r"losses\[0\] must be finite and greater than zero"):
        matched_level([[1, value]])
    for pair in ((1, value), (value, 1)):
        with pytest.raises(ValueError, match="must be finite and greater than zero, but"):
            ratio_bits(*pair)


def test_nan_is_not_a_ratio():
    with pytest.raises(ValueError, match="earlier must be finite"):
        ratio_bits(NAN, 1)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"columns of one length, but have .* \(2,\) and \(3,\)\."):
        window_bits([1, 2], [1, 1, 1], 1, 2)
    with pytest.raises(ValueError, match="columns of one length"):
        matched_bits([[1.0]], [[1.0]], 1)


def test_the_matched_level_is_reached_by_all_runs_and_by_one_of_them_just():
    rng = np.random.default_rng(1)
    losses = [rng.lognormal(size=9) for _ in range(5)]
    level = matched_level(losses)
    assert all(loss.min() <= level for loss in losses)
    assert any(loss.min() == level for loss in losses)
    assert matched_level([[NAN, 3.0]]) == 3


@pytest.mark.parametrize(
    ("losses", "words"), [([], "one run at least"), ([[1.0], [NAN]], r"losses\[1\] .* one epoch")]
)
def test_runs_without_a_loss_have_no_level(losses, words):
    with pytest.raises(ValueError, match=words):
        matched_level(losses)


def test_a_power_law_of_the_loss_is_interpolated_exactly():
    loss = np.array([5.0, 2.0, NAN, 0.7, 0.1])
    for level in (4.9, 2.0, 1.0, 0.2, 0.1):
        assert matched_bits(loss, 3 * loss**1.5, level) == pytest.approx(np.log2(3 * level**1.5))


def test_the_first_crossing_counts():
    assert matched_bits([4, 1, 4, 1], [4, 1, 100, 50], 2) == 1
    assert matched_bits([1, 4, 1], [8, 1, 1], 2) == 3  # below from the beginning


def test_a_level_that_is_not_reached_is_refused():
    with pytest.raises(ValueError, match=r"loss must reach the level 0\.5, but stays above it\."):
        matched_bits([4, 1, NAN], [1, 1, 1], 0.5)
    with pytest.raises(ValueError, match="loss must reach the level"):
        matched_bits([4, 0.1], [1, NAN], 0.5)  # the metric was not measured there


def test_the_seeds_that_fit_are_those_of_every_variant():
    zero = {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}
    assert seeds_that_fit([zero, {3: 0.002, 2: 0.003, 0: 0.0}]) == [0, 3]
    assert seeds_that_fit([zero, {0: 1.0}]) == []
    with pytest.raises(ValueError, match=r"errors of seed 0 must be a number in \[0, 1\]"):
        seeds_that_fit([{0: NAN}])
    with pytest.raises(ValueError, match="one variant at least"):
        seeds_that_fit([])


# ---- several seeds -------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 10, 40])
def test_the_interval_is_that_of_the_paired_t_test(seeds):
    x, y = normal(seeds, seed=1), normal(seeds, seed=2)
    found = paired_change(x, y)
    theirs = scipy.stats.ttest_rel(list(x.values()), list(y.values())).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), theirs, rtol=1e-12)
    assert found.mean == pytest.approx(np.mean(list(differences(x, y).values())), rel=1e-12)
    assert found.seeds == seeds


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_interval_covers_the_mean_of_normal_samples_as_often_as_it_says(seeds):
    rng = np.random.default_rng(seeds)
    covered, times = 0, 4000
    for _ in range(times):
        common = rng.normal(0, 5, seeds)  # what a seed does to both runs cancels
        baseline = by_seed(common + rng.normal(size=seeds))
        variant = by_seed(common + rng.normal(0.3, 2, seeds))
        found = paired_change(variant, baseline)
        covered += found.low < 0.3 < found.high
    assert abs(covered / times - 0.95) < 3 * np.sqrt(0.95 * 0.05 / times)


def test_the_order_of_seeds_does_not_matter():
    x, y = normal(6, seed=1), normal(6, seed=2)
    backward = dict(reversed(x.items())), y
    assert paired_change(*backward) == paired_change(x, y)
    assert list(differences(*backward)) == list(range(6))


def test_the_yardstick_is_the_deviation_over_all_ordered_pairs():
    x = normal(7)
    pairs = [x[s] - x[t] for s in x for t in x if s != t]
    assert yardstick(x) == pytest.approx(np.std(pairs), rel=1e-12)
    assert yardstick(x) == pytest.approx(np.sqrt(2) * np.std(list(x.values()), ddof=1), rel=1e-12)
    assert paired_change({0: 0.0, 1: 1.0}, x).yardstick == yardstick(x)  # of all baselines


def test_one_seed_has_a_mean_but_neither_interval_nor_verdict():
    found = paired_change({4: 1.0}, {4: 3.0})
    assert (found.mean, found.seeds) == (-2, 1)
    assert np.isnan([found.low, found.high, found.yardstick]).all()
    assert judge(found, -1) is judge(found, 1) is judge_small(found) is UNDETERMINED
    assert not found.small


def test_fewer_seeds_than_asked_for_give_no_interval():
    x, y = normal(2, seed=1), normal(2, seed=2)
    assert np.isnan(paired_change(x, y, fewest=3).low)
    assert not np.isnan(paired_change(x, y).low)


def test_a_constant_change_has_an_interval_without_width():
    y = normal(5)
    found = paired_change({seed: value + 2 for seed, value in y.items()}, y)
    assert found.low == pytest.approx(2, rel=1e-12) == found.high
    assert judge(found, 1) is YES
    nothing = paired_change(y, y)
    assert nothing[:4] == (0, 0, 0, 5)
    assert judge(nothing, 1) is UNDETERMINED and judge_small(nothing) is YES and nothing.small


@pytest.mark.parametrize(
    ("variant", "baseline", "words"),
    [
        ({0: 1.0, 5: 1.0}, {0: 1.0, 1: 1.0}, "baseline must have .* but lacks seed 5"),
        ({}, {0: 1.0}, "variant must have one seed at least, but has none"),
        ({0: NAN}, {0: 1.0}, r"variant\[0\] must be finite, but variant\[0\] = nan"),
        ({0: 1.0}, {0: np.inf}, r"baseline\[0\] must be finite, but baseline\[0\] = inf"),
        ({0: 1.0}, {0: 1.0, 1: NAN}, r"baseline\[1\] must be finite"),
    ],
)
def test_seeds_that_cannot_be_paired_are_refused(variant, baseline, words):
    for function in (differences, paired_change):
        with pytest.raises(ValueError, match=words):
            function(variant, baseline)


@pytest.mark.parametrize("share", [0, 1, NAN])
def test_a_share_outside_of_zero_and_one_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), but share = "):
        paired_change({0: 1.0}, {0: 1.0}, share=share)


def test_an_interval_of_one_number_cannot_be_asked_for():
    with pytest.raises(ValueError, match="fewest must be 2 at least, but fewest = 1"):
        paired_change({0: 1.0}, {0: 1.0}, fewest=1)


# ---- planted faults ------------------------------------------------------------------------------


def test_swapping_two_seeds_of_the_baseline_widens_the_interval_and_changes_the_verdict():
    baseline = by_seed([0, 3, 1, 2])
    variant = {seed: x + 0.5 + 0.01 * seed for seed, x in baseline.items()}
    swapped = baseline | {0: baseline[1], 1: baseline[0]}
    before, after = paired_change(variant, baseline), paired_change(variant, swapped)
    assert before.mean == pytest.approx(after.mean) and before.yardstick == after.yardstick
    assert after.high - after.low > 10 * (before.high - before.low)
    assert (judge(before, 1), judge(after, 1)) == (YES, UNDETERMINED)


def test_turning_the_sign_of_every_change_turns_the_verdict():
    x, y = normal(10, mean=3, seed=1), normal(10, seed=2)
    there, back = paired_change(x, y), paired_change(y, x)
    assert (back.mean, back.low, back.high) == (-there.mean, -there.high, -there.low)
    assert (judge(there, 1), judge(back, 1)) == (YES, NO)
    assert judge(there, -1) is NO and judge(back, -1) is YES


def test_turning_the_sign_of_one_seed_changes_the_verdict():
    y = by_seed([0] * 4)
    assert judge(paired_change(by_seed([1.0, 1.1, 0.9, 1.0]), y), 1) is YES
    assert judge(paired_change(by_seed([1.0, 1.1, 0.9, -1.0]), y), 1) is UNDETERMINED


# ---- spans ---------------------------------------------------------------------------------------


def test_the_larger_span_is_that_of_the_means_and_has_no_sign():
    zero, double, nothing = by_seed([2, 3, 4]), by_seed([-1, 0, 1]), by_seed([0, 0, 0])
    found = larger_span((zero, double), (nothing, by_seed([1, 1, 1])))
    assert found.mean == 2 and found.seeds == 3
    assert found.low == found.high == 2  # the spans are 3 and -1 for every seed
    assert larger_span((double, zero), (nothing, by_seed([1, 1, 1]))).mean == 2
    other = larger_span((nothing, by_seed([1, 1, 1])), (zero, double))
    assert judge(found, 1) is YES and judge(other, 1) is NO


def test_the_percentiles_are_those_of_all_resamples_of_few_seeds():
    x = by_seed([1.0, 5.0])
    nothing = by_seed([0, 0])
    found = larger_span((x, nothing), (nothing, nothing))
    assert (found.mean, found.low, found.high) == (3, 1, 5)  # drawn with 1/4, 1/2, 1/4
    assert larger_span((x, nothing), (nothing, nothing), seed=1).low == 1


def test_both_spans_draw_the_same_seeds():
    x, nothing = by_seed([1.0, 5.0]), by_seed([0, 0])
    assert larger_span((x, nothing), (x, nothing))[:3] == (0, 0, 0)


def test_the_bootstrap_of_normal_samples_is_as_wide_as_their_standard_error():
    x, nothing = normal(200, mean=4), by_seed([0] * 200)
    found = larger_span((x, nothing), (nothing, nothing))
    error = np.std(list(x.values())) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_swapping_two_seeds_of_a_span_changes_its_interval():
    x, y, nothing = by_seed([0, 9, 1]), by_seed([0, 9, 1]), by_seed([0, 0, 0])
    swapped = y | {0: y[1], 1: y[0]}
    before = larger_span((x, nothing), (y, nothing))
    after = larger_span((x, nothing), (swapped, nothing))
    assert before.mean == after.mean == 0
    assert after.high - after.low > 1 + before.high - before.low


def test_one_seed_has_no_bootstrap():
    one = {0: 1.0}
    found = larger_span((one, one), (one, one))
    assert np.isnan([found.low, found.high, found.yardstick]).all()


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (({0: 1.0},), ({0: 1.0}, {0: 1.0}), "one must be a pair, .* has 1 entries"),
        (({0: 1.0}, {1: 1.0}), ({0: 1.0}, {0: 1.0}), r"same seeds twice, but has \[0\] and \[1\]"),
        (({0: 1.0}, {0: 1.0}), ({1: 1.0}, {1: 1.0}), r"same seeds, but have \[0\] and \[1\]"),
        (({0: NAN}, {0: 1.0}), ({0: 1.0}, {0: 1.0}), "must be finite"),
    ],
)
def test_spans_that_cannot_be_compared_are_refused(one, other, words):
    with pytest.raises(ValueError, match=words):
        larger_span(one, other)


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="resamples must be 1 at least, but resamples = 0"):
        larger_span(({0: 1.0}, {0: 1.0}), ({0: 1.0}, {0: 1.0}), resamples=0)


# ---- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "up", "down"),
    [
        (0.1, 0.9, YES, NO),
        (-0.9, -0.1, NO, YES),
        (-0.1, 0.9, UNDETERMINED, UNDETERMINED),
        (0.0, 0.9, UNDETERMINED, UNDETERMINED),
        (NAN, NAN, UNDETERMINED, UNDETERMINED),
    ],
)
def test_a_sign_is_judged_by_the_side_of_zero(low, high, up, down):
    interval = Interval((low + high) / 2, low, high, 5, 1.0)
    assert (judge(interval, 1), judge(interval, -1)) == (up, down)


@pytest.mark.parametrize("sign", [0, 2, NAN])
def test_a_sign_that_is_none_is_refused(sign):
    with pytest.raises(ValueError, match="sign must be 1 or -1, but sign = "):
        judge(Interval(0, 0, 0, 1, 0), sign)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.19, 0.19, YES),
        (-0.21, 0.1, UNDETERMINED),
        (0.1, 0.21, UNDETERMINED),
        (0.21, 0.3, NO),
        (-0.3, -0.21, NO),
        (-1, 1, UNDETERMINED),
    ],
)
def test_a_small_effect_lies_within_a_fifth_of_the_yardstick(low, high, verdict):
    assert judge_small(Interval((low + high) / 2, low, high, 5, 1.0)) is verdict


def test_a_mean_below_a_fifth_of_the_yardstick_is_small():
    assert Interval(-0.19, -1, 1, 5, 1.0).small and not Interval(0.21, -1, 1, 5, 1.0).small


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([YES, YES], YES),
        ([YES, UNDETERMINED], UNDETERMINED),
        ([UNDETERMINED, NO, YES], NO),
        (iter([YES]), YES),
    ],
)
def test_all_parts_make_a_yes_and_one_makes_a_no(verdicts, together):
    assert judge_all(verdicts) is together


def test_nothing_has_no_verdict():
    with pytest.raises(ValueError, match="verdicts must be one at least"):
        judge_all([])


@pytest.mark.parametrize("first", Verdict)
@pytest.mark.parametrize("second", Verdict)
def test_versions_that_differ_are_undetermined(first, second):
    expected = first if first == second else UNDETERMINED
    assert judge_versions(first, second) is expected
