"""Held-out samples: the networks of E3 again, halves, losses out of sample, and criteria."""

import json
from itertools import pairwise

import numpy as np
import pytest

from nclib import ClassStatistics, compare, nc1, nc1_trace
from nclib.networks.experiments.runner import Runner
from nclib.networks.hooks import own_points
from nclib.networks.probes import probe
from nclib.workbench import random_problem
from tools import fits, held_out

PERCEPTRON, RESNET = held_out.cases("smoke")


@pytest.fixture(scope="module", params=[PERCEPTRON, RESNET], ids=lambda case: case.network)
def network(request):
    return request.param, held_out.trained(request.param.settings)


def test_the_plan_has_twelve_networks_and_78_steps():
    wanted = list(held_out.cases("reduced"))
    assert len({case.name for case in wanted}) == len(wanted) == 12
    assert {(case.network, case.seed) for case in wanted[:4]} == {
        (f"resnet18-{data}", seed) for data in ("mnist", "cifar10") for seed in (1, 2)
    }
    assert sum(len(fits.POINTS[case.network]) - 1 for case in wanted) == 78


# ---- one network ---------------------------------------------------------------------------------


def test_it_is_the_network_of_e3_to_the_last_digit(network, tmp_path):
    case, (net, samples, source) = network
    stored = Runner(case.settings, tmp_path).run()
    found = probe(net, samples, own_points(net))
    ours = [nc1_trace(stats) for stats in found.statistics.values()]
    assert ours == list(stored.probes(epoch=-1)["nc1_trace"])
    loss = case.settings.recipe.mean_loss(found.scores, found.labels).item()
    assert loss == stored.series("loss")[-1]
    assert source["fingerprint"] == stored.data.fingerprint


def test_both_halves_together_are_all_samples(network):
    _, (net, samples, _) = network
    one, two = (held_out.measured(net, samples, i) for i in held_out.halves(samples.labels.numpy()))
    whole = probe(net, samples, own_points(net)).statistics
    for point, stats in whole.items():
        assert one[point].counts.tolist() == two[point].counts.tolist() == [15] * 10
        both = one[point].merge(two[point])
        np.testing.assert_allclose(both.means, stats.means, rtol=1e-12, atol=1e-14)
        size = np.abs(stats.within).max()
        np.testing.assert_allclose(both.within, stats.within, rtol=1e-10, atol=1e-13 * size)
        assert np.abs(one[point].means - two[point].means).max() > 1e-3 * np.abs(stats.means).max()


def test_halves_take_turns_within_each_class():
    one, two = held_out.halves(np.array([2, 0, 2, 2, 0, 1]))
    assert (one.tolist(), two.tolist()) == ([0, 1, 3, 5], [2, 4])


def test_what_is_measured_comes_back_from_its_checkpoint(tmp_path, monkeypatch):
    first = held_out.train(tmp_path, PERCEPTRON)
    monkeypatch.setattr(held_out, "trained", None)  # nothing is trained a second time
    again = held_out.train(tmp_path, PERCEPTRON)
    assert again["record"] == json.loads(json.dumps(first["record"]))
    for name in ("whole", "one", "two"):
        layers = [held_out._statistics(content[name]) for content in (first, again)]
        for point, stats in layers[0].items():
            assert np.array_equal(stats.within, layers[1][point].within)
            assert np.array_equal(stats.means, layers[1][point].means)
            assert stats.resolution == layers[1][point].resolution > 1e-8
    rows = {row["point"]: row["nc1_trace"] for row in first["record"]["points"]}
    layers = held_out._statistics(first["whole"])
    assert rows == {point: nc1_trace(stats) for point, stats in layers.items()}


def test_a_network_that_is_only_trained_is_fitted_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "cases", lambda scale: iter([PERCEPTRON]))
    monkeypatch.setattr(held_out, "_judged", lambda case, pair, parts: {"pair": pair})
    path = tmp_path / "held-out/smoke/mlp-digits-seed0.json"
    line = ["--scale", "smoke", "--out", str(tmp_path)]
    assert held_out.main(["train", *line]) == 0
    unfinished = json.loads(path.read_text("utf-8"))
    assert unfinished["steps"] == []
    monkeypatch.setattr(held_out, "trained", None)  # nothing is trained a second time
    for _ in range(2):
        assert held_out.main(["run", *line]) == 0
        record = json.loads(path.read_text("utf-8"))
        assert record["points"] == unfinished["points"]
        points = [row["point"] for row in record["points"]]
        assert [step["pair"] for step in record["steps"]] == list(map(list, pairwise(points)))


# ---- one step ------------------------------------------------------------------------------------


def a_half(seed):
    """A layer and the next, alike up to their samples."""
    rng = np.random.default_rng(seed)
    frame = random_problem(seed=0).statistics
    labels = np.repeat(np.arange(frame.K), 12)
    h = frame.means.T[labels] + 0.5 * rng.standard_normal((len(labels), frame.d))
    own = h - frame.means.T[labels]
    later = 2 * frame.means.T[labels] + 0.3 * own @ np.diag(np.linspace(0.5, 1.5, frame.d))
    layers = (ClassStatistics.from_features(x, labels) for x in (h, later))
    return dict(zip(("layer 1", "layer 2"), layers, strict=True))


@pytest.fixture(scope="module")
def judged():
    parts = [a_half(1), a_half(2)]
    return parts, held_out._judged(PERCEPTRON, ("layer 1", "layer 2"), parts)


def test_losses_in_sample_are_those_of_the_fit_and_out_of_sample_those_on_the_other_half(judged):
    parts, step = judged
    for half, own, other in zip(step["halves"], parts, parts[::-1], strict=True):
        assert list(half) == list(fits.PREDICTIONS)
        for name, layers in (("in", own), ("out", other)):
            earlier, later = layers.values()
            assert half["unchanged"][name] == pytest.approx(fits.loss(earlier, later), rel=1e-7)
            inside, outside, power = half["three numbers"]["numbers"]
            shrunk = fits.contracted(earlier, inside, outside, power)
            assert half["three numbers"][name] == pytest.approx(fits.loss(shrunk, later), rel=1e-5)
            lambda_W, p = half["the model"]["numbers"]
            lambda_W *= fits.unit(earlier)
            exact = fits.minimize(fits.Model(lambda_W, 0.0, p / lambda_W), earlier).statistics
            assert half["the model"][name] == pytest.approx(fits.loss(exact, later), rel=1e-5)
        assert all(abs(entry["out"] / entry["in"] - 1) > 1e-3 for entry in half.values())


def test_a_step_tells_how_far_the_later_layers_of_the_halves_are_apart(judged):
    parts, step = judged
    errors = compare(*(half["layer 2"] for half in parts))
    np.testing.assert_allclose(step["apart"], errors, rtol=1e-7)
    assert len(step["apart"]) == 5 and np.abs(step["apart"]).min() > 1e-3


@pytest.mark.parametrize("d", [3, 4, 7], ids=["fewer axes", "as many", "more"])
def test_nc1_without_the_weakest_axis_is_that_of_the_other_axes(d, judged):
    rng = np.random.default_rng(d)
    labels = np.repeat(np.arange(5), 20)
    lengths = np.geomspace(5, 0.5, d)
    features = lengths * rng.standard_normal((5, d))[labels] + rng.standard_normal((100, d))
    stats = ClassStatistics.from_features(features, labels)
    U = np.linalg.svd(stats.centered_means)[0][:, : min(d, 4) - 1]
    kept = ClassStatistics(stats.counts, U.T @ stats.means, U.T @ stats.within @ U)
    assert held_out.without_weakest(stats) == pytest.approx(nc1(kept), rel=1e-9)
    assert held_out.without_weakest(stats) < 0.9 * nc1(stats)
    parts, step = judged
    one, two = (held_out.without_weakest(half["layer 2"]) for half in parts)
    assert step["rest apart"] == pytest.approx(np.log(one / two), rel=1e-6)


def test_on_equal_halves_both_losses_are_one(judged):
    parts, _ = judged
    step = held_out._judged(PERCEPTRON, ("layer 1", "layer 2"), [parts[0], parts[0]])
    assert np.abs(step["apart"]).max() < 1e-7
    for half in step["halves"]:
        for entry in half.values():
            assert entry["out"] == pytest.approx(entry["in"], rel=1e-6)


# ---- criteria ------------------------------------------------------------------------------------


def a_step(model, two, frame):
    """A step with these losses in and out of sample on both halves."""
    named = {"the model": model, "two contractions": two, "contraction and frame": frame}
    half = {name: {"in": inside, "out": outside} for name, (inside, outside) in named.items()}
    return {"halves": [half, half]}


@pytest.mark.parametrize(
    ("step", "F1", "F2"),
    [
        (a_step((1.0, 1.05), (1.0, 1.0), (2.0, 2.0)), 1, 1),
        (a_step((1.0, 1.15), (1.0, 1.2), (2.0, 2.0)), 0, 1),
        (a_step((1.0, 1.05), (1.0, 0.9), (2.0, 2.0)), 1, 0),  # it was neither and is worse
        (a_step((1.0, 1.0), (1.0, 1.2), (2.0, 2.0)), 1, 0),  # and is better
        (a_step((1.0, 1.0), (1.0, 1.0), (1.1, 0.1)), 1, 1),  # the other is best afterwards only
    ],
)
def test_criteria_of_a_step(step, F1, F2):
    assert held_out.verdict([step]) == {"F1": (F1, 1), "F2": (F2, 1)}


def test_losses_are_means_over_the_halves_and_the_rival_is_chosen_on_each():
    one, other = (a_step((x, x), (y, 3.0), (z, 5.0)) for x, y, z in ((1.0, 1, 2), (2.0, 2, 1)))
    step = {"halves": [one["halves"][0], other["halves"][0]]}
    assert held_out.of_model(step) == (1.5, 1.5)
    assert held_out.of_best(step, fits.RIVALS[2]) == (1.0, 4.0)
