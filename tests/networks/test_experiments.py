"""What is run: names, the paper's settings, and settings that tell two runs apart."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from nclib.measured.records import Result, config_hash
from nclib.networks.experiments.settings import EXPERIMENTS, LATER, SCALES, Run, averaged, runs
from nclib.networks.recipe import Recipe, half_square

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = [(experiment, scale) for experiment in EXPERIMENTS for scale in SCALES]
# Another value for every setting of a run and of its recipe.
OTHER = {
    "dataset": "mnist",
    "network": "mlp",
    "width": 3,
    "depth": 7,
    "last_bias": True,
    "per_class": 2,
    "grown": True,
    "measure_every": 9,
    "layers_every": 3,
    "keep_statistics": True,
    "layers_at_end": 5,
    "settle": (10, 0.01),
}
OTHER_RECIPE = {
    "epochs": 9,
    "learning_rate": 0.3,
    "loss": "cross-entropy",
    "momentum": 0.1,
    "weight_decay": 0.2,
    "last_weight_decay": 0.1,
    "batch_size": 4,
    "drops": (5,),
    "augment": True,
}
PLAIN = Run(
    "e", "n", "smoke", 0, "digits", "resnet18", 2, Recipe(epochs=4, learning_rate=0.1, drops=(2, 3))
)


@pytest.mark.parametrize(("experiment", "scale"), EVERYTHING)
def test_names_tell_the_runs_of_an_experiment_apart(experiment, scale):
    found = runs(experiment, scale, seed=5)
    names = [run.name for run in found]
    assert len(set(names)) == len(names) > 0
    assert {(run.experiment, run.scale, run.seed) for run in found} == {(experiment, scale, 5)}
    assert [runs(experiment, scale, 2, only=name) for name in names] == [
        [replace(run, seed=2)] for run in found
    ]
    assert [run.config for run in runs(experiment, scale, 2)] == [run.config for run in found]


@pytest.mark.parametrize(("experiment", "scale"), EVERYTHING)
def test_settings_are_flat_and_survive_json(experiment, scale):
    hashes = set()
    for run in runs(experiment, scale):
        config = run.config
        assert not {"experiment", "name", "scale", "seed", "recipe"} & set(config)
        assert all(
            value is None or isinstance(value, (str, int, float)) for value in config.values()
        )
        assert json.loads(json.dumps(config)) == config
        hashes.add(config_hash(config))
    assert len(hashes) == len(runs(experiment, scale))


def test_every_setting_counts():
    assert {"experiment", "name", "scale", "seed", "recipe", *OTHER} == {
        f.name for f in fields(Run)
    }
    assert set(OTHER_RECIPE) == {f.name for f in fields(Recipe)}
    changed = [replace(PLAIN, **{key: value}) for key, value in OTHER.items()]
    changed += [
        replace(PLAIN, recipe=replace(PLAIN.recipe, **{key: x})) for key, x in OTHER_RECIPE.items()
    ]
    hashes = [config_hash(run.config) for run in [PLAIN, *changed]]
    assert len(set(hashes)) == len(hashes) == 1 + len(OTHER) + len(OTHER_RECIPE)
    assert replace(PLAIN, name="other", seed=3, scale="full", experiment="f").config == PLAIN.config


@pytest.mark.parametrize("scale", SCALES)
def test_weight_decays_are_multiples_of_the_baseline(scale):
    found = {run.name: run for run in runs("weight-decay", scale)}
    multiples = {
        "baseline": (1, 1),
        "last-double": (1, 2),
        "last-zero": (1, 0),
        "features-double": (2, 1),
        "features-zero": (0, 1),
    }
    assert set(found) == {f"{loss}-{name}" for loss in ("mse", "ce") for name in multiples}
    for short, loss, bias in (("mse", "mse", False), ("ce", "cross-entropy", True)):
        baseline = found[f"{short}-baseline"]
        w = baseline.recipe.weight_decay
        assert w > 0
        for name, (features, last) in multiples.items():
            run = found[f"{short}-{name}"]
            assert (run.recipe.weight_decay, run.recipe.last_weight_decay) == (
                features * w,
                last * w,
            )
            assert (run.recipe.loss, run.last_bias, run.network, run.grown) == (
                loss,
                bias,
                "resnet18",
                False,
            )
            same = replace(run.recipe, weight_decay=w, last_weight_decay=w)
            assert replace(run, name=baseline.name, recipe=same) == baseline
    expected = replace(found["ce-baseline"].recipe, loss="mse")
    if scale == "full":
        expected = averaged(expected)
        expected = replace(expected, last_weight_decay=expected.weight_decay)
    assert expected == found["mse-baseline"].recipe


def test_an_averaged_recipe_trains_as_the_mean_over_classes_does():
    """Steps in our loss and in MSELoss, with momentum and decay, end at one point."""
    recipe = Recipe(epochs=1, learning_rate=0.3, weight_decay=0.02, momentum=0.8)
    x, y = (
        torch.randn(7, 4, dtype=torch.float64),
        torch.eye(5, dtype=torch.float64)[[0, 1, 2] * 2 + [4]],
    )
    ends = []
    for one, loss in ((recipe, torch.nn.MSELoss()), (averaged(recipe, 5), half_square)):
        weights = torch.ones(5, 4, dtype=torch.float64, requires_grad=True)
        descent = torch.optim.SGD(
            [weights], one.learning_rate, one.momentum, weight_decay=one.weight_decay
        )
        for _ in range(3):
            descent.zero_grad()
            loss(x @ weights.T, y).backward()
            descent.step()
        ends.append(weights.detach())
    assert (ends[0] - ends[1]).abs().max() < 1e-12 < (ends[0] - 1).abs().max()


def test_the_paper_s_schedule_at_full_scale():
    for run in runs("weight-decay", "full"):
        recipe = run.recipe
        assert (run.dataset, run.width, run.per_class) == ("cifar10", 64, None)
        assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.augment) == (
            160,
            128,
            0.9,
            False,
        )
        unit = 2 / 10 if recipe.loss == "mse" else 1  # as in PyTorch's MSELoss
        lengths = [recipe.step_length(epoch) / unit for epoch in range(1, 161)]
        assert lengths == pytest.approx(
            [0.05] * 40 + [0.005] * 40 + [0.0005] * 40 + [0.00005] * 40, rel=1e-12
        )
    decays = [
        runs("weight-decay", "full", only=f"{loss}-baseline")[0].recipe.weight_decay
        for loss in ("ce", "mse")
    ]
    assert decays == [5e-4, 5e-4 * 10 / 2]


def test_layer_by_layer_at_full_scale():
    found = runs("layerwise", "full")
    assert {run.dataset for run in found} == {"cifar10", "mnist"}
    assert all(
        (run.network, run.grown, run.depth, run.stages, run.per_class)
        == ("mlp", True, 10, 10, None)
        for run in found
    )


def test_both_networks_end_to_end():
    for scale in SCALES:
        found = runs("end-to-end", scale)
        assert {run.network for run in found} == {"mlp", "resnet18"}
        assert all(run.keep_statistics and run.layers_every and run.stages == 1 for run in found)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_smoke_runs_need_no_data(experiment):
    assert {run.dataset for run in runs(experiment, "smoke")} == {"digits"}


def test_when_something_is_measured():
    run = replace(PLAIN, measure_every=4, layers_every=6, recipe=replace(PLAIN.recipe, epochs=15))
    assert [n for n in range(16) if run.measured(n)] == [0, 1, 2, 3, 4, 5, 8, 12, 15]
    assert [n for n in range(16) if run.all_layers(n)] == [0, 6, 12, 15]
    assert [n for n in range(16) if replace(run, layers_every=None).all_layers(n)] == [15]


def test_all_layers_of_the_last_epochs():
    run = replace(PLAIN, layers_at_end=3, recipe=replace(PLAIN.recipe, epochs=8))
    assert [n for n in range(9) if run.all_layers(n)] == [6, 7, 8]
    assert [n for n in range(9) if replace(run, layers_at_end=1).all_layers(n)] == [8]


def test_settings_that_came_later_leave_the_others_as_they_were():
    results = ROOT / "book" / "results"
    paths = [
        path for name in EXPERIMENTS for path in sorted(results.glob(f"{name}/*/*-seed0.json"))
    ]
    assert {path.parts[-3] for path in paths} == set(EXPERIMENTS)
    for path in paths:
        assert set(Result.load(path).config) - set(LATER) == set(PLAIN.config), path
    assert "layers_at_end" not in PLAIN.config
    assert replace(PLAIN, layers_at_end=2).config["layers_at_end"] == 2
    assert "settle" not in PLAIN.config
    assert replace(PLAIN, settle=(10, 0.01)).config["settle"] == "10 0.01"


@pytest.mark.parametrize(
    ("experiment", "scale", "only"),
    [
        ("layerwise", "full", "mnist"),
        ("layerwise", "full", "cifar10"),
        ("end-to-end", "reduced", "mlp-mnist"),
    ],
)
def test_stored_runs_have_the_settings_that_the_program_would_take(experiment, scale, only):
    (run,) = runs(experiment, scale, only=only)
    stored = Result.load(ROOT / "book" / "results" / experiment / scale / f"{only}-seed0.json")
    assert stored.config == run.config and stored.config_hash == config_hash(run.config)


def test_a_stage_may_end_before_its_epochs_are_over():
    run = replace(PLAIN, measure_every=4, settle=(2, 0.1), recipe=replace(PLAIN.recipe, epochs=9))
    assert not run.ends([4.0, 3.0, 2.0]) and not run.ends([4.0, 4.0, 2.0, 2.0])
    assert run.ends([4.0, 2.0, 2.0, 2.0, 2.0]) and run.ends([2.0**-n for n in range(9)])
    assert not replace(run, settle=None).ends([2.0] * 8)
    assert replace(run, settle=None).ends([2.0] * 9)
    assert run.measured(7, ends=True) and run.all_layers(7, ends=True)
    assert not run.measured(7) and not run.all_layers(7)


def test_what_does_not_exist_is_named():
    with pytest.raises(
        ValueError, match="no experiment 'depth', only layerwise, weight-decay, end-to-end"
    ):
        runs("depth", "smoke")
    with pytest.raises(ValueError, match="no scale 'tiny', only smoke, reduced, full"):
        runs("layerwise", "tiny")
    with pytest.raises(ValueError, match="layerwise has no run 'cifar', only cifar10, mnist"):
        runs("layerwise", "full", only="cifar")
