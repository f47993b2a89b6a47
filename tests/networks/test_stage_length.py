"""Stages that end when the loss rests: the same tables after a kill, and older runs unchanged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec import structs

from nclib import Result, falls, length_changes, load_all, settled, stage_ends, stage_lengths
from nclib.networks import MLP, Samples, Trainer, features, load
from nclib.networks.__main__ import main, state
from nclib.networks.experiments.checkpoints import load_checkpoint
from nclib.networks.experiments.runner import RESUMED, Runner
from nclib.networks.experiments.settings import EXPERIMENTS, Run, runs
from nclib.networks.hooks import own_points
from nclib.networks.recipe import Recipe

EARLY = Run(
    "stage-length",
    "net",
    "smoke",
    1,
    "digits",
    "mlp",
    12,
    Recipe(epochs=30, learning_rate=0.05, batch_size=7, weight_decay=1e-2),
    depth=4,
    grown=True,
    per_class=5,
    measure_every=10,
    settle=(3, 0.1),
)


def same(one, other):
    """Whether two results are the same, times excepted."""
    times = {"started": one.started, "duration_s": one.duration_s, "parts": one.parts}
    return structs.replace(other, **times) == one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Runner(EARLY, tmp_path_factory.mktemp("whole")).run()


def test_stages_end_where_the_loss_rests(whole):
    lengths = stage_lengths(whole)
    assert whole.complete and len(lengths) == 4
    assert min(lengths) < 30 and len(set(lengths)) > 1  # early, and not all alike
    assert whole.config["settle"] == "3 0.1"
    losses, stages = whole.series("batch_loss"), whole.series("stage")
    for stage, length in enumerate(lengths, start=1):
        x = [loss for loss in losses[stages == stage] if not np.isnan(loss)]
        assert len(x) == length
        assert settled(x, 3, 0.1) or length == 30
        assert not any(settled(x[:n], 3, 0.1) for n in range(length))


def test_the_tables_of_stages_that_end_early(whole):
    table = whole.epochs
    ends = stage_ends(table.epoch, table.stage)
    assert table.epoch == list(range(ends[-1] + 1))
    assert (whole.layers.epoch, whole.layers.layer) == (ends, [f"layer {i}" for i in range(1, 5)])
    # The last epoch of a stage is measured, with the same numbers in both tables.
    begins = [0, *ends[:-1]]
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        for column in ("nc1", "nc1_trace", "nc2", "nc3"):
            assert table[column][end] == whole.layers[column][i] is not None
        inside = range(begin + 1, end + 1)
        wanted = [n for n in inside if n - begin <= 5 or (n - begin) % 10 == 0 or n == end]
        assert [n for n in inside if table.loss[n] is not None] == wanted


def test_every_stage_is_the_one_trained_by_hand(whole):
    data = load("digits").subset(EARLY.per_class, seed=0)
    values = data.images
    for stage in range(4):
        seed = 1000 * EARLY.seed + stage
        widths = (int(np.prod(values.shape[1:])), EARLY.width, 10)
        network = MLP(widths, seed=seed, dtype=torch.float32)
        samples = Samples(values, data.labels)
        trainer = Trainer(network, samples, EARLY.recipe, seed=seed)
        losses = [trainer.run_epoch()[0] for _ in range(stage_lengths(whole)[stage])]
        rows = whole.series("stage") == stage + 1
        recorded = whole.series("batch_loss")[rows]
        assert recorded[~np.isnan(recorded)] == pytest.approx(losses, rel=1e-6)
        values = features(network, samples, own_points(network)["layer 1"])


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_a_run_that_is_stopped_goes_on_with_the_same_numbers(shift, whole, tmp_path):
    """Stopped after every epoch near the end of each stage, also right at the end."""
    stops = [end + shift for end in stage_ends(whole.epochs.epoch, whole.epochs.stage)][:3]
    for at in stops:
        runner = Runner(EARLY, tmp_path)
        part = runner.run(stop=lambda r=runner, at=at: r.done >= at)
        assert not part.complete and max(part.epochs.epoch) == at
    seen = []
    again = Runner(EARLY, tmp_path).run(on_epoch=seen.append)
    assert seen == list(range(stops[-1] + 1, max(whole.epochs.epoch) + 1))
    assert again.complete and same(whole, again)


def test_a_checkpoint_at_the_very_end_of_a_stage(whole, tmp_path):
    """Killed after the save that follows the last epoch of a stage."""
    ends = stage_ends(whole.epochs.epoch, whole.epochs.stage)

    for end in ends:

        def killed(epoch, end=end):
            if epoch == end:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Runner(EARLY, tmp_path, save_every=-1).run(on_epoch=killed)
        runner = Runner(EARLY, tmp_path)
        saved = load_checkpoint(
            runner.checkpoint, {"config", "source", "fingerprint", "parts", *RESUMED}
        )
        assert saved["epochs"]["epoch"][-1] == end == runner.done and saved["state"] is not None
    seen = []
    assert same(whole, Runner(EARLY, tmp_path).run(on_epoch=seen.append)) and seen == []


def test_what_the_program_says_of_the_total(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "stage-length", lambda scale: [EARLY])
    ends = stage_ends(whole.epochs.epoch, whole.epochs.stage)
    begins = [0, *ends[:-1]]
    most = {
        n: begin + 30 * (4 - i)
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True))
        for n in range(begin + 1, end + 1)
    }
    command = ["run", "stage-length", "--seed", "1", "--out", str(tmp_path), "--device", "cpu"]
    at = ends[1] + 2
    runner = Runner(EARLY, tmp_path)
    runner.run(stop=lambda: runner.done >= at)
    assert state(EARLY, tmp_path) == f"epoch {at} of at most {most[at]}"
    assert runner.total == most[at]
    assert main([*command, "--time-limit", "0"]) == 3
    assert f"after epoch {at} of at most {most[at]};" in capsys.readouterr().err
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"net, seed 1: goes on after epoch {at} of at most {most[at]}"
    shown = [line.split(",")[1].removeprefix(" seed 1: ") for line in lines[1:-1]]
    assert shown == [f"epoch {n} of at most {most[n]}" for n in range(at + 1, ends[-1] + 1)]
    assert state(EARLY, tmp_path) == "complete" and Runner(EARLY, tmp_path).total == ends[-1]


def test_a_stage_that_never_rests_has_all_its_epochs(tmp_path):
    recipe = replace(EARLY.recipe, epochs=7)
    limited = Runner(replace(EARLY, recipe=recipe, settle=(3, 0.0)), tmp_path / "a").run()
    assert stage_lengths(limited) == [7] * 4
    plain = Runner(replace(EARLY, recipe=recipe, settle=None), tmp_path / "b").run()
    assert limited.epochs == plain.epochs and limited.layers == plain.layers
    assert "settle" not in plain.config


def test_statistics_are_kept_at_the_early_end(whole, tmp_path):
    run = replace(EARLY, seed=0, keep_statistics=True, depth=2)
    found = Runner(run, tmp_path).run()
    assert min(stage_lengths(found)) < 30
    names = sorted(path.name for path in (tmp_path / "statistics").rglob("*.npz"))
    assert names == ["net-seed0-layer1.npz", "net-seed0-layer2.npz"]


def test_the_runs_of_the_plan():
    found = {run.name: run for run in runs("stage-length", "reduced")}
    decays = {"w0": 0.0, "w5e-4": 5e-4, "w2e-3": 2e-3}
    long = {f"{d}-{w}" for d in ("mnist", "cifar10") for w in decays}
    assert set(found) == long | {f"{name}-short" for name in long}
    for name in long:
        run, short = found[name], found[f"{name}-short"]
        dataset, decay = name.split("-", 1)
        assert (run.dataset, run.recipe.weight_decay) == (dataset, decays[decay])
        assert run.recipe.last_weight_decay is None
        assert (run.per_class, run.width, run.depth, run.grown) == (500, 256, 10, True)
        assert (run.settle, run.recipe.epochs, run.recipe.drops) == ((10, 0.01), 200, ())
        assert (run.recipe.learning_rate, run.recipe.batch_size) == (0.005, 20)
        recipe = replace(run.recipe, epochs=20)
        assert short == replace(run, name=short.name, settle=None, recipe=recipe)


def test_the_smoke_runs_from_training_to_the_verdicts(tmp_path):
    command = ["run", "stage-length", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--plain"]) == 0
    results = load_all(tmp_path, "stage-length", "smoke")
    assert len(results) == 6 and all(r.complete for r in results)
    long = [r for r in results if not r.name.endswith("-short")]
    assert falls(long).steps == 9
    changes = length_changes(results, first=2, last=4)
    assert set(changes) == {"digits-w0", "digits-w5e-4", "digits-w2e-3"}
    assert all(change.mean < 0 for change in changes.values())  # longer is closer to collapse
    # The first stages of a pair are the same as far as the short one goes.
    by_name: dict[str, Result] = {r.name: r for r in results}
    for r in long:
        short = by_name[f"{r.name}-short"]
        end = stage_lengths(short)[0]
        assert r.epochs.batch_loss[: end + 1] == short.epochs.batch_loss[: end + 1]
