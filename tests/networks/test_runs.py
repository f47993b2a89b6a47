"""Runs: what they write is what a plain computation finds, and a killed one goes on as if nothing
had happened."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from msgspec import structs

import nclib
from nclib import ClassStatistics, nc1, nc1_trace, nc2
from nclib.measured.files import load_statistics
from nclib.measured.records import Data, Result
from nclib.measured.summary import load_all
from nclib.networks import MLP, ResNet18, Samples, Trainer, __main__, load
from nclib.networks.__main__ import main, state
from nclib.networks.experiments import runner as program
from nclib.networks.experiments.machine import commit
from nclib.networks.experiments.runner import Runner, metrics
from nclib.networks.experiments.settings import EXPERIMENTS, SCALES, Run, runs
from nclib.networks.recipe import Recipe

RECIPE = Recipe(epochs=4, learning_rate=0.05, batch_size=7, weight_decay=1e-3, drops=(2,))
ORDINARY = Run(
    "end-to-end",
    "net",
    "smoke",
    0,
    "digits",
    "resnet18",
    1,
    replace(RECIPE, augment=True),
    per_class=3,
    layers_every=2,
    keep_statistics=True,
)
GROWN = Run(
    "layerwise",
    "net",
    "smoke",
    2,
    "digits",
    "mlp",
    12,
    RECIPE,
    depth=3,
    last_bias=True,
    grown=True,
    per_class=5,
)
KINDS = {"ordinary": ORDINARY, "grown": GROWN}


# ---- helpers


def plain_metrics(h, labels, weights):
    """NC1, NC1~, NC2 and NC3 of features (N, d) by their definitions on full matrices."""
    H, K = np.asarray(h, dtype=float).T, labels.max() + 1
    means = np.stack([H[:, labels == k].mean(axis=1) for k in range(K)], axis=1)
    R, M = H - means[:, labels], means - means.mean(axis=1, keepdims=True)
    within, inverse = R @ R.T / len(labels), np.linalg.pinv(M, rcond=1e-9)
    G, simplex = M.T @ M, np.eye(K) - 1 / K
    W = np.asarray(weights, dtype=float) - np.mean(weights, axis=0, dtype=float)
    return {
        "nc1": np.trace(within @ inverse.T @ inverse),
        "nc1_trace": np.trace(within) * K / np.sum(M**2),
        "nc2": np.linalg.norm(G / np.linalg.norm(G) - simplex / np.sqrt(K - 1)),
        "nc3": np.linalg.norm(W.T / np.linalg.norm(W) - M / np.linalg.norm(M)),
    }


def plain_traces(h, labels):
    """Traces of the within-class and the between-class covariance of features (N, d)."""
    h = np.asarray(h, dtype=float)
    means = np.stack([h[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    between = np.sum((means - means.mean(axis=0)) ** 2) / len(means)
    return np.sum((h - means[labels]) ** 2) / len(h), between


def plain_nc4(h, labels, decision):
    h = np.asarray(h, dtype=float)
    means = np.stack([h[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    return np.mean(((h[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) != decision)


def plain_loss(scores, labels):
    return np.sum((scores - np.eye(scores.shape[1])[labels]) ** 2) / (2 * len(labels))


def outputs(network, x):
    """Pooled outputs of every layer, and the scores."""
    network.eval()
    with torch.no_grad():
        if isinstance(network, MLP):
            hidden = network.hidden(x)
            return [h.numpy() for h in hidden], network.last(hidden[-1]).numpy()
        hidden = [network.stem(x)]
        for block in network.blocks:
            hidden.append(block(hidden[-1]))
        hidden = [h.mean((2, 3)) for h in hidden]
        return [h.numpy() for h in hidden], network.last(hidden[-1]).numpy()


def opened(path):
    """What a checkpoint holds, by plain means."""
    magic, digest, payload = path.read_bytes().split(b"\n", 2)
    assert magic == b"nclib checkpoint 2" and digest == sha256(payload).hexdigest().encode()
    return torch.load(BytesIO(payload), weights_only=True)


def checkpoint(folder, run):
    return opened(Path(folder, run.experiment, run.scale, f"{run.name}-seed{run.seed}.pt"))


def result(folder, run):
    return Result.load(Path(folder, run.experiment, run.scale, f"{run.name}-seed{run.seed}.json"))


def rows(table, **wanted):
    """The rows of a table as dictionaries."""
    columns = structs.asdict(table)
    found = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return [row for row in found if wanted.items() <= row.items()]


def read(path):
    return json.loads(path.read_text()) if path.suffix == ".json" else opened(path)


def equal(a, b):
    """Whether nested values are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_files(one, other):
    """All files of two folders hold the same, times excepted."""
    names = sorted(path.relative_to(one) for path in Path(one).rglob("*") if path.is_file())
    assert names == sorted(
        path.relative_to(other) for path in Path(other).rglob("*") if path.is_file()
    )
    assert {".json", ".pt"} <= {path.suffix for path in names}
    for name in names:
        a, b = one / name, other / name
        if name.suffix == ".npz":
            assert a.read_bytes() == b.read_bytes(), name
            continue
        a, b = read(a), read(b)
        times = ("started", "duration_s", "spent", "parts")
        a, b = ({key: value for key, value in x.items() if key not in times} for x in (a, b))
        assert a["epochs"] == b["epochs"] and a["layers"] == b["layers"], name
        assert equal(a, b), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of runs that nothing interrupted."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        assert Runner(KINDS[kind], folder).run().complete
    return folders


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a whole experiment run from the command line."""
    folder = tmp_path_factory.mktemp("smoke")
    assert main(["run", "end-to-end", "--out", str(folder), "--device", "cpu"]) == 0
    return folder


# ---- what is written


def test_an_experiment_from_the_command_line(smoke):
    results = load_all(smoke, "end-to-end", "smoke")
    wanted = {run.name: run for run in runs("end-to-end", "smoke")}
    assert [r.name for r in results] == sorted(wanted) and len(wanted) == 2
    for r in results:
        run = wanted[r.name]
        assert (r.complete, r.config, r.seed, r.device) == (True, run.config, 0, "CPU, 1 thread")
        samples = 10 * run.per_class
        assert r.data == Data(
            classes=10,
            samples=samples,
            source="digits (scikit-learn)",
            split="train",
            fingerprint=load("digits").subset(run.per_class, seed=0).fingerprint,
        )
        assert (r.versions.torch, r.versions.nclib) == (torch.__version__, nclib.__version__)
        age = datetime.now().astimezone() - datetime.fromisoformat(r.started)
        assert (
            timedelta(0) <= age < timedelta(minutes=30)
            and 0 < r.duration_s <= age.total_seconds() + 1
        )
        assert r.epochs["epoch"] == list(range(run.recipe.epochs + 1)) and set(
            r.epochs["stage"]
        ) == {1}
        layers = 4 if run.network == "mlp" else 9
        assert r.layers["epoch"] == [epoch for epoch in (0, 2, 4, 6) for _ in range(layers)]
        assert len(set(r.layers["layer"])) == layers
        # It learns, and what is learned is measured.
        assert (
            r.epochs["loss"][-1] < 0.8 * r.epochs["loss"][0]
            and r.epochs["error"][-1] < 0.6 < r.epochs["error"][0]
        )
        assert r.epochs["batch_loss"][0] is None and None not in r.epochs["batch_loss"][1:]


def test_tables_are_those_of_a_network_trained_anew(smoke):
    (run,) = runs("end-to-end", "smoke", only="mlp-digits")
    found = result(smoke, run)
    data = load("digits").subset(run.per_class, seed=0)
    y = data.labels
    network = MLP((64, *[run.width] * run.depth, 10), seed=0, dtype=torch.float32)
    trainer = Trainer(network, Samples(data.images, y), run.recipe, seed=0)
    pixels = torch.as_tensor(data.images.reshape(-1, 64), dtype=torch.float64)
    x = ((pixels - pixels.mean()) / pixels.std(correction=0)).float()
    for epoch, row in enumerate(rows(found.epochs)):
        if epoch > 0:
            assert (row["batch_loss"], row["batch_error"]) == pytest.approx(
                trainer.run_epoch(), rel=1e-6
            )
        hidden, scores = outputs(network, x)
        weights = network.last.weight.detach().numpy()
        assert row["loss"] == pytest.approx(plain_loss(scores, y), rel=1e-5)
        assert row["error"] == pytest.approx(np.mean(scores.argmax(1) != y), abs=1.1 / len(y))
        metrics_of_last = plain_metrics(hidden[-1], y, weights)
        assert {key: row[key] for key in metrics_of_last} == pytest.approx(
            metrics_of_last, rel=1e-4
        )
        probed = rows(found.layers, epoch=epoch)
        assert [p["layer"] for p in probed] == (
            ["layer 1", "layer 2", "layer 3", "layer 4"] if epoch % 2 == 0 else []
        )
        for h, p in zip(hidden, probed, strict=False):
            want = plain_metrics(h, y, weights)
            if p["layer"] != "layer 4":
                assert p["nc3"] is None
                del want["nc3"]
            assert {key: p[key] for key in want} == pytest.approx(want, rel=1e-4)
            assert p["dim"] == h.shape[1]
            within, between = plain_traces(h, y)
            assert p["trace_within"] == pytest.approx(within, rel=1e-5)
            assert p["trace_between"] == pytest.approx(between, rel=1e-5)
            assert p["nc4"] == pytest.approx(plain_nc4(h, y, scores.argmax(1)), abs=1.1 / len(y))


def test_tables_are_those_of_the_network_that_is_kept(smoke):
    (run,) = runs("end-to-end", "smoke", only="resnet18-digits")
    found, saved = result(smoke, run), checkpoint(smoke, run)
    assert saved["state"] is None and len(saved["frozen"]) == 1
    network = ResNet18(10, width=run.width, channels=1)
    network.load_state_dict(saved["frozen"][0])
    data = load("digits").subset(run.per_class, seed=0)
    hidden, scores = outputs(network, Samples(data.images, data.labels).inputs(slice(None)))
    y, weights = data.labels, network.last.weight.detach().numpy()
    (last,) = rows(found.epochs, epoch=run.recipe.epochs)
    want = plain_metrics(hidden[-1], y, weights) | {"loss": plain_loss(scores, y)}
    assert {key: last[key] for key in want} == pytest.approx(want, rel=1e-3)
    probed = rows(found.layers, epoch=run.recipe.epochs)
    assert [p["layer"] for p in probed] == ["stem", *(f"block {i}" for i in range(1, 9))]
    for p, h in zip(probed, hidden, strict=True):
        want = (
            plain_metrics(h, y, weights)
            if p["layer"] == "block 8"
            else plain_metrics(h, y, np.eye(10, h.shape[1]))
        )
        for key in ("nc1", "nc1_trace", "nc2") + (("nc3",) if p["layer"] == "block 8" else ()):
            assert p[key] == pytest.approx(want[key], rel=1e-3), (p["layer"], key)
        assert p["nc4"] == pytest.approx(plain_nc4(h, y, scores.argmax(1)), abs=1.1 / len(y))


def assert_statistics_agree(folder, run, layers):
    """The statistics kept are those of the table's last rows."""
    found = result(folder, run)
    paths = {
        path.name: path for path in (folder / "statistics" / run.scale).glob(f"{run.name}-*.npz")
    }
    assert set(paths) == {
        f"{run.name}-seed{run.seed}-{layer.replace(' ', '')}.npz" for layer in layers
    }
    for layer in layers:
        row = rows(found.layers, layer=layer)[-1]
        stats, note = load_statistics(
            paths[f"{run.name}-seed{run.seed}-{layer.replace(' ', '')}.npz"]
        )
        again = {
            "nc1": nc1(stats),
            "nc1_trace": nc1_trace(stats),
            "nc2": nc2(stats),
            "dim": stats.d,
        }
        assert {key: row[key] for key in again} == pytest.approx(again, rel=1e-11)
        assert found.data.samples == stats.N and stats.balanced
        assert note == {
            "network": run.name,
            "layer": layer,
            "data": found.data.source,
            "seed": run.seed,
            "epoch": row["epoch"],
        }


def test_statistics_that_are_kept(smoke, whole):
    mlp, resnet = runs("end-to-end", "smoke")
    blocks = ["stem", *(f"block {i}" for i in range(1, 9))]
    assert_statistics_agree(smoke, mlp, [f"layer {i}" for i in range(1, 5)])
    assert_statistics_agree(smoke, resnet, blocks)
    assert_statistics_agree(whole["ordinary"], ORDINARY, blocks)


def test_statistics_are_kept_only_where_wanted(tmp_path):
    run = replace(GROWN, keep_statistics=True, depth=2, recipe=replace(RECIPE, epochs=1))
    Runner(replace(run, seed=1), tmp_path).run()  # only those of seed 0
    Runner(replace(run, seed=0, keep_statistics=False), tmp_path).run()
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [
        "net-seed0.json",
        "net-seed0.pt",
        "net-seed1.json",
        "net-seed1.pt",
    ]
    Runner(replace(run, seed=0), tmp_path / "kept").run()
    assert_statistics_agree(tmp_path / "kept", replace(run, seed=0), ["layer 1", "layer 2"])


def test_statistics_are_kept_once_at_the_end(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(
        program,
        "save_statistics",
        lambda path, stats, note: kept.append((path.name, note["epoch"])),
    )
    run = replace(ORDINARY, network="mlp", width=12, depth=2)
    found = Runner(run, tmp_path).run()
    assert found.layers["epoch"] == [0, 0, 2, 2, 4, 4]
    assert kept == [("net-seed0-layer1.npz", 4), ("net-seed0-layer2.npz", 4)]


def test_measures_only_now_and_then(tmp_path):
    run = replace(
        ORDINARY, network="mlp", width=12, measure_every=4, recipe=replace(RECIPE, epochs=10)
    )
    found = Runner(replace(run, layers_every=None), tmp_path).run()
    assert [n for n, loss in enumerate(found.epochs["loss"]) if loss is None] == [6, 7, 9]
    assert [n for n, value in enumerate(found.epochs["nc1"]) if value is None] == [6, 7, 9]
    assert found.layers["epoch"] == [10] and None not in found.epochs["batch_error"][1:]


def test_what_is_complete_is_left_alone(smoke, monkeypatch, capsys):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in smoke.rglob("*.*")}
    monkeypatch.setattr(__main__, "Runner", None)
    assert main(["run", "end-to-end", "--out", str(smoke), "--device", "cpu"]) == 0
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in smoke.rglob("*.*")
    } == before
    out, err = capsys.readouterr()
    paths = [smoke / f"end-to-end/smoke/{n}-seed0.json" for n in ("mlp-digits", "resnet18-digits")]
    titles = ("mlp-digits, seed 0", "resnet18-digits, seed 0")
    lines = [f"{t}: complete already, {p}" for t, p in zip(titles, paths, strict=True)]
    assert (out.splitlines(), err) == (lines, "")


# ---- growth


def test_every_stage_sees_the_frozen_layer_before_it(whole):
    found, saved = result(whole["grown"], GROWN), checkpoint(whole["grown"], GROWN)
    assert found.epochs["epoch"] == list(range(13))
    assert found.epochs["stage"] == [1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert (found.layers["epoch"], found.layers["layer"]) == (
        [4, 8, 12],
        ["layer 1", "layer 2", "layer 3"],
    )
    data = load("digits").subset(GROWN.per_class, seed=0)
    pixels, y = data.images.reshape(-1, 64).astype(float), data.labels
    h = (pixels - pixels.mean()) / pixels.std()
    for stage, frozen in enumerate(saved["frozen"]):
        # This stage trained by hand on what the frozen layers put out.
        seed = 1000 * GROWN.seed + stage
        network = MLP((h.shape[1], GROWN.width, 10), last_bias=True, seed=seed, dtype=torch.float32)
        trainer = Trainer(network, Samples(h.astype(np.float32), y), GROWN.recipe, seed=seed)
        for row in [r for r in rows(found.epochs, stage=stage + 1) if r["epoch"] > 0]:
            assert (row["batch_loss"], row["batch_error"]) == pytest.approx(
                trainer.run_epoch(), rel=1e-4
            )
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, frozen[name], rtol=1e-3, atol=1e-5)
        weight, bias = (
            frozen[f"layers.0.0.{name}"].double().numpy() for name in ("weight", "bias")
        )
        h = np.maximum(h @ weight.T + bias, 0)
        want = plain_metrics(h, y, frozen["last.weight"].numpy())
        row = rows(found.layers, layer=f"layer {stage + 1}")[0]
        assert {key: row[key] for key in want} == pytest.approx(want, rel=1e-4)
        assert {
            key: rows(found.epochs, epoch=row["epoch"])[0][key] for key in want
        } == pytest.approx(want, rel=1e-4)
        scores = h @ frozen["last.weight"].double().numpy().T + frozen["last.bias"].double().numpy()
        assert row["nc4"] == pytest.approx(plain_nc4(h, y, scores.argmax(1)), abs=1.1 / len(y))
    assert stage == 2


def test_frozen_layers_stay_as_they_are(whole, tmp_path):
    seen = []
    runner = Runner(GROWN, tmp_path, save_every=0)
    runner.run(on_epoch=lambda epoch: seen.append(checkpoint(tmp_path, GROWN)["frozen"]))
    final = checkpoint(whole["grown"], GROWN)["frozen"]
    assert [len(frozen) for frozen in seen] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert all(equal(frozen, final[: len(frozen)]) for frozen in seen)
    assert_same_files(tmp_path, whole["grown"])


# ---- stopping and going on


@pytest.fixture
def patient(monkeypatch):
    """Every look at the clock takes a second."""
    ticks = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr(program, "time", clock)
    monkeypatch.setattr(__main__, "time", clock)


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_limit_ends_an_epoch_and_the_same_command_goes_on(
    kind, whole, tmp_path, patient, monkeypatch, capsys
):
    run = KINDS[kind]
    monkeypatch.setitem(EXPERIMENTS, run.experiment, lambda scale: [run])
    command = [
        "run",
        run.experiment,
        "--seed",
        str(run.seed),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert state(run, tmp_path) == "missing"
    for _ in range(2):  # no time for an epoch at all
        assert main([*command, "--time-limit", "0"]) == 3
        first = result(tmp_path, run)
        assert (first.complete, first.epochs["epoch"]) == (False, [0]) and first.epochs["nc1"][
            0
        ] is not None
        assert state(run, tmp_path) == f"epoch 0 of {run.stages * run.recipe.epochs}"
    started, last, statuses = first.started, [0], []
    while not statuses or statuses[-1] == 3:
        statuses.append(main([*command, "--time-limit", "6"]))
        part = result(tmp_path, run)
        assert part.complete == (statuses[-1] == 0) and part.started == started
        last.append(part.epochs["epoch"][-1])
        assert last[-1] >= last[-2] and part.epochs["epoch"] == list(range(last[-1] + 1))
    assert statuses[-1] == 0 and len(statuses) > (1 if kind == "ordinary" else 3)
    out, err = capsys.readouterr()
    total = run.stages * run.recipe.epochs
    assert err.splitlines() == [
        f"Time is up after epoch {done} of {total}; all is saved, and the same command goes on "
        f"with net, seed {run.seed}."
        for done in [0, 0, *last[1:-1]]
    ]
    shown = [line.split(",")[1].removeprefix(f" seed {run.seed}: ") for line in out.splitlines()]
    assert [x for x in shown if x.startswith("epoch")] == [
        f"epoch {n} of {total}" for n in range(1, total + 1)
    ]
    assert [x for x in shown if x.startswith("goes")] == [
        f"goes on after epoch {done} of {total}" for done in last[1:-1]
    ]
    assert shown[-1] == "complete" and out.splitlines()[-1].endswith(f"net-seed{run.seed}.json")
    assert part.duration_s > 2 * len(statuses)  # summed over all the parts
    assert_same_files(tmp_path, whole[kind])


# Carries out runs in processes of their own and kills each at some moment after its first results.
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
from nclib.networks.experiments.settings import Run
from nclib.networks.experiments.runner import Runner
from nclib.networks.recipe import Recipe
for run in {runs!r}:
    runner = Runner(run, sys.argv[1], save_every=0)
    if not (child := os.fork()):
        runner.run()
        os._exit(0)
    while not runner.path.exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_killed_runs_go_on_to_the_last_bit(tmp_path):
    (killed := tmp_path / "killed").mkdir()
    kinds = [
        replace(run, network="mlp", recipe=replace(RECIPE, epochs=40)) for run in KINDS.values()
    ]
    command = [sys.executable, "-c", DRIVER.format(runs=kinds), killed]
    subprocess.run(command, cwd=Path(nclib.__file__).parent.parent, check=True, timeout=180)
    for run in kinds:
        part, saved, total = (
            result(killed, run),
            checkpoint(killed, run),
            run.stages * run.recipe.epochs,
        )
        done = saved["epochs"]["epoch"][-1]
        # The checkpoint is written before the results; the kill may have come in between.
        assert done - part.epochs["epoch"][-1] in (0, 1) and not part.complete
        assert state(run, killed) == f"epoch {part.epochs['epoch'][-1]} of {total}"
        seen = []
        assert Runner(run, killed).run(on_epoch=seen.append).complete
        assert seen == list(range(done + 1, total + 1))
        Runner(run, tmp_path / "whole").run()
    for draft in killed.rglob(".*.tmp"):  # what a kill in the midst of writing leaves
        draft.unlink()
    assert_same_files(killed, tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [1, 3, -1])
def test_a_kill_between_checkpoint_and_results(kind, which, whole, tmp_path, monkeypatch):
    run, save, calls = KINDS[kind], Result.save, []
    count = run.stages * run.recipe.epochs + 1  # after every epoch, and at the end

    def killed(self, path):
        calls.append(path)
        if len(calls) == which % (count + 1):
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Result, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Runner(run, tmp_path, save_every=0).run()
    if which == 1:
        assert state(run, tmp_path) == "missing"
    else:
        assert not result(tmp_path, run).complete
    seen = []
    assert Runner(run, tmp_path).run(on_epoch=seen.append).complete
    assert seen == list(range(which % (count + 1) + 1, count))  # nothing is done twice
    assert_same_files(tmp_path, whole[kind])


def test_a_folder_without_checkpoints_begins_anew(whole, tmp_path):
    shutil.copytree(whole["grown"], tmp_path, dirs_exist_ok=True)
    next(tmp_path.rglob("*.pt")).unlink()
    changed = replace(GROWN, per_class=4)
    assert state(changed, tmp_path) == "other settings"
    assert (
        Runner(changed, tmp_path).run().data.samples == 40
        and state(changed, tmp_path) == "complete"
    )


def test_a_checkpoint_of_other_settings_is_refused(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole["ordinary"], tmp_path, dirs_exist_ok=True)
    other = replace(ORDINARY, recipe=replace(ORDINARY.recipe, weight_decay=0.0))
    sentence = "net-seed0.pt belongs to other settings; remove it to begin anew."
    with pytest.raises(ValueError, match=sentence):
        Runner(other, tmp_path).run()
    monkeypatch.setitem(EXPERIMENTS, "end-to-end", lambda scale: [other])
    assert main(["run", "end-to-end", "--out", str(tmp_path), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(f"{sentence}\n")
    assert_same_files(tmp_path, whole["ordinary"])


# ---- the rest of the command line


def test_status(smoke, tmp_path, capsys):
    assert main(["status", "--out", str(smoke), "--seed", "0", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = sum(len(runs(experiment, scale)) for experiment in EXPERIMENTS for scale in SCALES)
    assert len(lines) == len(set(lines)) == 2 * count
    done = [line.split() for line in lines if not line.endswith("missing")]
    assert sorted(done) == [
        ["end-to-end", "smoke", name, "seed", "0", "complete"]
        for name in ("mlp-digits", "resnet18-digits")
    ]
    assert main(["status", "--out", str(tmp_path / "none")]) == 0
    assert all(line.endswith(" missing") for line in capsys.readouterr().out.splitlines())
    changed = replace(runs("end-to-end", "smoke")[0], width=31)
    assert state(changed, smoke) == "other settings"


def test_list(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[i].partition(":")[0] for i in starts] == list(EXPERIMENTS)
    for experiment, start, end in zip(EXPERIMENTS, starts, [*starts[1:], None], strict=True):
        listed = {}
        for entry in re.split(r"\n  (?! )", "\n".join(["", *lines[start + 1 : end]]))[1:]:
            where, _, named = entry.partition(":")
            listed |= {scale: named.replace(",", " ").split() for scale in where.split(", ")}
        assert listed == {scale: [run.name for run in runs(experiment, scale)] for scale in SCALES}


def test_failures_are_one_sentence_and_a_status(tmp_path, monkeypatch, capsys):
    def fails(*command):
        assert main([*command, "--out", str(tmp_path)]) == 1
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err and err.count("\n") == 1
        return err

    assert "has no run 'mlp', only mlp-digits" in fails("run", "end-to-end", "--only", "mlp")
    monkeypatch.setenv("NCLIB_DATA", str(tmp_path))
    assert str(tmp_path) in fails("run", "layerwise", "--scale", "full", "--only", "mnist")
    bad = replace(GROWN, recipe=replace(RECIPE, learning_rate=1e9, momentum=0.99, epochs=9))
    monkeypatch.setitem(EXPERIMENTS, "layerwise", lambda scale: [bad])
    assert "the learning rate is too large" in fails("run", "layerwise", "--device", "cpu")
    (tmp_path / "layerwise/smoke/net-seed0.json").write_text("{")
    assert "net-seed0.json: the result is damaged" in fails("run", "layerwise", "--device", "cpu")
    with pytest.raises(SystemExit) as error:
        main(["run", "depth"])
    assert error.value.code == 2 and "invalid choice: 'depth'" in capsys.readouterr().err


# ---- provenance and metrics


def test_the_commit_is_that_of_unchanged_files_only(tmp_path, monkeypatch):
    def git(*words):
        who = [
            "-c",
            "user.name=Somebody",
            "-c",
            "user.email=somebody@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        ).stdout

    def now():
        commit.cache_clear()
        return commit()

    (tmp_path / "nclib").mkdir()
    source = tmp_path / "nclib" / "__init__.py"
    source.write_text("")
    monkeypatch.setattr(nclib, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    try:
        assert now() is None  # not a repository
        git("init", "-q")
        assert now() is None  # nothing committed
        git("add", ".")
        git("commit", "-q", "-m", "one")
        head = git("rev-parse", "HEAD").strip()
        assert now() == head and len(head) == 40
        (tmp_path / "results.json").write_text("{}")  # outside of the library
        assert now() == head
        git("add", ".")
        git("commit", "-q", "-m", "results")
        (tmp_path / "results.json").write_text("[]")
        head = git("rev-parse", "HEAD").strip()
        assert now() == head  # a file outside of the library has changed, although git knows it
        source.write_text("x = 1\n")
        assert commit() == head and now() is None  # what runs was loaded before
        git("commit", "-q", "-a", "-m", "two")
        assert now() == git("rev-parse", "HEAD").strip() != head
        monkeypatch.setenv("PATH", str(tmp_path))
        assert now() is None  # no git
    finally:
        commit.cache_clear()


def test_undefined_metrics_are_none():
    x = np.random.default_rng(0).standard_normal((12, 4))
    labels, network = np.repeat(np.arange(3), 4), MLP((5, 4, 3), seed=1)
    defined = metrics(ClassStatistics.from_features(x, labels), network)
    want = plain_metrics(x, labels, network.last.weight.detach().numpy())
    assert defined == pytest.approx(want, rel=1e-9)
    assert metrics(ClassStatistics.from_features(x, labels))["nc3"] is None
    equal_means = ClassStatistics.from_features(np.tile(x[:4], (3, 1)), labels)
    assert metrics(equal_means, network) == {
        "nc1": None,
        "nc1_trace": None,
        "nc2": None,
        "nc3": None,
    }
    with torch.no_grad():
        network.last.weight.zero_()
    assert metrics(ClassStatistics.from_features(x, labels), network) == want | {"nc3": None} | {
        key: defined[key] for key in ("nc1", "nc1_trace", "nc2")
    }
