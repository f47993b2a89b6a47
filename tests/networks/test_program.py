"""The program under attack: signals, damaged files, other data, full disks, runs side by side."""

import csv
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nclib.measured.records import Result
from nclib.networks import ImageData, __main__, load, parallel
from nclib.networks.__main__ import main, state
from nclib.networks.experiments import checkpoints, machine, runner
from nclib.networks.experiments.checkpoints import MAGIC, load_checkpoint, save_checkpoint
from nclib.networks.experiments.runner import Runner
from nclib.networks.experiments.settings import EXPERIMENTS, Run, runs
from nclib.networks.experiments.signals import listening
from nclib.networks.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(epochs=4, learning_rate=0.05, batch_size=7)
SMALL = Run("layerwise", "net", "smoke", 0, "digits", "mlp", 8, RECIPE, per_class=3)
TIMES = ("started", "duration_s", "parts")


def plain(path):
    """A result without what differs between a run that was stopped and one that was not."""
    return {k: v for k, v in json.loads(Path(path).read_text()).items() if k not in TIMES}


def stopped(folder, settings=SMALL, epochs=2):
    """A runner whose run was stopped after some epochs."""
    made = Runner(settings, folder, save_every=0)
    assert not made.run(stop=lambda: made.done >= epochs).complete
    assert made.done == epochs
    return made


@pytest.fixture
def only_small(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "layerwise", lambda scale: [SMALL])


def fails(capsys, *command):
    """The one sentence with which a command ends."""
    assert main([*map(str, command)]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and err.count("\n") == 1
    return err.strip()


# ---- what a result says of its origin


def test_a_result_names_data_processor_and_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = Runner(SMALL, tmp_path).run()
    assert found.data.fingerprint == load("digits").subset(3, seed=0).fingerprint
    assert found.instructions == f"{torch.backends.cpu.get_cpu_capability()}, oneDNN up to AVX2"
    assert found.processor and found.parts == []
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert machine.instructions().endswith(", no limit for oneDNN")
    if Path("/proc/cpuinfo").exists():
        assert f": {found.processor}\n" in Path("/proc/cpuinfo").read_text()


def test_a_resumed_run_names_all_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "commit", lambda: "a" * 40)
    monkeypatch.setattr(machine, "processor", lambda: "An old one")
    stopped(tmp_path, epochs=1)
    monkeypatch.setattr(machine, "commit", lambda: "b" * 40)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    stopped(tmp_path, epochs=2)
    assert not Runner(SMALL, tmp_path).run(deadline=-1).complete  # no epoch, no part
    monkeypatch.setattr(machine, "processor", lambda: "A new one")
    Runner(SMALL, tmp_path).run()
    found = Result.load(tmp_path / "layerwise/smoke/net-seed0.json")
    assert [part.epoch for part in found.parts] == [0, 1, 2]
    assert [part.commit[0] for part in found.parts] == ["a", "b", "b"]
    assert [part.processor for part in found.parts] == ["An old one"] * 2 + ["A new one"]
    assert ["SSE41" in part.instructions for part in found.parts] == [False, True, True]
    assert (found.commit, found.processor) == ("b" * 40, "A new one")
    assert found.started == found.parts[0].started


# ---- checkpoints


def test_another_copy_of_the_data_is_refused(tmp_path, monkeypatch):
    made = stopped(tmp_path)
    before = made.checkpoint.read_bytes()
    other = ImageData(made.data.images.copy(), made.data.labels, made.data.classes, "another copy")
    other.images[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(runner, "load", lambda name: SimpleNamespace(subset=lambda n, seed: other))
    with pytest.raises(ValueError) as error:
        Runner(SMALL, tmp_path)
    assert str(error.value) == (
        f"{made.checkpoint} was begun with digits (scikit-learn) (fingerprint "
        f"{made.data.fingerprint}), but the data found now are another copy (fingerprint "
        f"{other.fingerprint}); bring those back, or remove it to begin anew."
    )
    assert made.checkpoint.read_bytes() == before


def test_every_flipped_bit_is_noticed(tmp_path):
    made = stopped(tmp_path)
    content = made.checkpoint.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= bit
        made.checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net-seed0\.pt .*; remove it to begin anew\."):
            Runner(SMALL, tmp_path)
    made.checkpoint.write_bytes(content)
    assert Runner(SMALL, tmp_path).done == 2


def sealed(payload):
    return MAGIC + sha256(payload).hexdigest().encode() + b"\n" + payload


def torch_saved(value):
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_damaged_and_foreign_checkpoints_are_one_sentence(tmp_path, only_small, capsys):
    made = stopped(tmp_path)
    good = made.checkpoint.read_bytes()
    path = str(tmp_path / "made")
    for content in (
        b"",
        b"\x00" * 1000,
        np.random.default_rng(0).bytes(5000),
        good[:-1],
        good[: len(good) // 2],
        good + b"x",
        good[len(MAGIC) :],
        torch_saved({"config": {}}),  # as earlier versions wrote it
        pickle.dumps({"a": 1}),
        sealed(b""),
        sealed(b"no zip"),
        sealed(torch_saved([1, 2])),
        sealed(torch_saved({"config": {}})),
        sealed(torch_saved({"a": Evil(path)})),
        sealed(pickle.dumps(Evil(path))),
    ):
        made.checkpoint.write_bytes(content)
        sentence = fails(capsys, "run", "layerwise", "--out", tmp_path, "--device", "cpu")
        assert sentence.startswith(str(made.checkpoint))
        assert sentence.endswith("remove it to begin anew.")
    assert not Path(path).exists()
    made.checkpoint.unlink()
    made.checkpoint.mkdir()
    assert str(made.checkpoint) in fails(capsys, "run", "layerwise", "--out", tmp_path)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    content = {"a": torch.arange(5.0), "b": [1, None, "x"], "c": {"d": 2.5}}
    save_checkpoint(tmp_path / "x.pt", content)
    found = load_checkpoint(tmp_path / "x.pt", {"a", "b", "c"})
    assert torch.equal(found.pop("a"), content.pop("a")) and found == content


def test_drafts_of_killed_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    made = stopped(tmp_path)
    folder = made.path.parent
    gone = [folder / f".net-seed0.{kind}.{dead.pid}.tmp" for kind in ("pt", "json")]
    kept = [
        folder / f".net-seed0.pt.{os.getppid()}.tmp",  # of a process that is at work
        folder / f".other-seed0.pt.{dead.pid}.tmp",
        folder / ".net-seed0.pt.x.tmp",
    ]
    for draft in gone + kept:
        draft.write_bytes(b"half")
    Runner(SMALL, tmp_path)
    assert [path.exists() for path in gone + kept] == [False] * 2 + [True] * 3


# ---- before the first epoch


def test_no_gpu_is_a_sentence(tmp_path, only_small, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sentence = fails(capsys, "run", "layerwise", "--device", "cuda", "--out", tmp_path)
    assert sentence.startswith("device must be cpu or auto, but it is cuda, and PyTorch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "-1", "must lie in 0..2147483647, but it is -1"),
        ("--seed", str(2**63), "must lie in 0..2147483647"),
        ("--seed", "x", "invalid"),
        ("--time-limit", "nan", "must not be negative, but it is nan"),
        ("--time-limit", "-3", "must not be negative"),
        ("--jobs", "0", "must be at least 1, but it is 0"),
    ],
)
def test_options_that_make_no_sense(option, value, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(["run", "layerwise", option, value])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_the_folder_is_checked_before_the_first_epoch(tmp_path, only_small, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    command = ("run", "layerwise", "--device", "cpu", "--out")
    sentence = fails(capsys, *command, tmp_path / "file")
    assert f"{tmp_path / 'file'}" in sentence and sentence.endswith("Not a directory.")
    usage = shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    sentence = fails(capsys, *command, tmp_path)
    assert sentence == f"{tmp_path}/layerwise/smoke has 3 MiB left, but this run may need 16 MiB."
    monkeypatch.undo()

    def full(**where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.tempfile, "TemporaryFile", full)
    with pytest.raises(
        OSError, match=r"layerwise/smoke cannot be written: No space left on device\.$"
    ):
        Runner(SMALL, tmp_path)


def test_a_disk_that_fills_up_names_the_file(tmp_path, monkeypatch):
    made = stopped(tmp_path)
    before = made.checkpoint.read_bytes(), made.path.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"net-seed0\.pt cannot be written: No space left on device\."
    ):
        Runner(SMALL, tmp_path).run()
    assert (made.checkpoint.read_bytes(), made.path.read_bytes()) == before
    assert not list(tmp_path.rglob(".*.tmp"))


# ---- status


def test_status_shows_the_table_whatever_one_file_holds(tmp_path, capsys):
    names = [run.name for run in runs("weight-decay", "smoke")]
    folder = tmp_path / "weight-decay" / "smoke"
    folder.mkdir(parents=True)
    Runner(replace(SMALL, experiment="weight-decay", name="net"), tmp_path).run()
    good = (folder / "net-seed0.json").read_bytes()
    contents = [b"x", b"", good, good.replace(b'"net"', f'"{names[3]}"'.encode()), b"[" * 200_000]
    for name, content in zip(names, contents, strict=False):
        (folder / f"{name}-seed0.json").write_bytes(content)
    (folder / f"{names[5]}-seed0.json").mkdir()
    assert main(["status", "weight-decay", "--scale", "smoke", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == len(names) == 10 and err == ""
    for line, words in zip(
        lines,
        ("damaged", "damaged", "belongs in", "other settings", "damaged", "Is a directory"),
        strict=False,
    ):
        assert words in line
    assert all(line.endswith("  missing") for line in lines[6:])


def test_status_has_filters(tmp_path, capsys):
    def lines(*options):
        assert main(["status", "--out", str(tmp_path), *options]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    assert {line[0] for line in lines("end-to-end")} == {"end-to-end"}
    assert {line[1] for line in lines("--scale", "reduced")} == {"reduced"}
    only = lines("--only", "mse-baseline", "--seed", "3", "4")
    assert [(line[1], line[4]) for line in only] == [
        (scale, seed) for scale in ("smoke", "reduced", "full") for seed in ("3", "4")
    ]
    assert "there is no run 'x' there" in fails(capsys, "status", "--only", "x")


def test_a_reader_who_has_seen_enough_is_no_error():
    script = "python -m nclib.networks status | head -1; echo ${PIPESTATUS[0]}".replace(
        "python", sys.executable, 1
    )
    found = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stderr == "" and found.stdout.splitlines()[-1] == "0"


def test_results_that_are_damaged_or_misplaced_are_not_overwritten(tmp_path, only_small, capsys):
    made = Runner(SMALL, tmp_path)
    made.run()
    command = ("run", "layerwise", "--device", "cpu", "--out", tmp_path)
    content = made.path.read_bytes()
    for damaged, words in (
        (content[:-50], "damaged"),
        (content.replace(b'"seed": 0', b'"seed": 1'), "belongs in"),
    ):
        made.path.write_bytes(damaged)
        assert words in fails(capsys, *command)
        assert made.path.read_bytes() == damaged


def test_tables_as_csv(tmp_path, capsys):
    found = Runner(replace(SMALL, depth=2), tmp_path).run()
    path = tmp_path / "layerwise/smoke/net-seed0.json"
    for table in ("epochs", "layers"):
        assert main(["export", str(path), "--table", table]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        columns = getattr(found, table)
        assert len(rows) == len(columns) and list(rows[0]) == list(columns.columns())
        for i, row in enumerate(rows):
            for column, text in row.items():
                value = columns[column][i]
                assert text == ("" if value is None else str(value))
    assert "is damaged or not valid" in fails(capsys, "export", ROOT / "pyproject.toml")


# ---- signals

CHILD = """
import sys, time
from nclib.networks import Trainer
from nclib.networks.__main__ import main
run_epoch = Trainer.run_epoch
def slow(self):
    found = run_epoch(self)
    time.sleep(0.2)
    return found
Trainer.run_epoch = slow
sys.exit(main(sys.argv[1:]))
"""
COMMAND = ("run", "end-to-end", "--only", "mlp-digits", "--device", "cpu", "--out")


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """What starts the tests in the background may have them ignore signals, and their children."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def started(*arguments, **how):
    """Python in a process of its own, which has said that its first epoch is over."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **how,
    )
    assert "epoch 1 of" in process.stdout.readline()
    return process


def child(folder, *options, **how):
    """The program in a process of its own, each epoch taking a while; it is in its first epochs."""
    return started("-c", CHILD, *COMMAND, str(folder), *options, **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*COMMAND, str(folder)]) == 0
    return folder / "end-to-end/smoke/mlp-digits-seed0.json"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_says_how_to_go_on(name, tmp_path, whole, capsys):
    number = getattr(signal, name)
    process = child(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    first, last = err.splitlines()
    assert first == f"{name}: stopping after the present epoch; once more stops at once."
    done = len(out.splitlines()) + 1
    assert last == (
        f"Stopped by {name} after epoch {done} of 6; all is saved, and the same command goes on "
        "with mlp-digits, seed 0."
    )
    path = tmp_path / "end-to-end/smoke/mlp-digits-seed0.json"
    assert Result.load(path).epochs.epoch == list(range(done + 1)) and done < 6
    assert main([*COMMAND, str(tmp_path)]) == 0
    assert f"goes on after epoch {done} of 6" in capsys.readouterr().out
    assert plain(path) == plain(whole)


def test_a_second_signal_stops_at_once(tmp_path):
    process = child(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert "once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "Stopped at once; the same command goes on from what was saved last.\n"


def test_what_is_ignored_stays_ignored(tmp_path):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does

    process = child(tmp_path, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    process.stdout.close(), process.stderr.close()


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    heard = []
    with listening(heard.append) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop() and (stop.name, stop.status) == ("SIGTERM", 143)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


# ---- several runs at once


def test_several_runs_at_once_are_those_one_after_the_other(tmp_path, capfd):
    command = ["run", "end-to-end", "--seed", "0", "1", "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    capfd.readouterr()
    assert main([*command, str(tmp_path / "many"), "--jobs", "2"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count(": complete, ") == 4
    for path in (tmp_path / "one").rglob("*.json"):
        assert plain(path) == plain(tmp_path / "many" / path.relative_to(tmp_path / "one"))
    assert len(list((tmp_path / "many").rglob("*.json"))) == 4
    assert main([*command, str(tmp_path / "many"), "--jobs", "2"]) == 0
    assert capfd.readouterr().out.count("complete already") == 4


def test_one_run_that_fails_does_not_stop_the_others(tmp_path, capfd):
    folder = tmp_path / "end-to-end/smoke"
    folder.mkdir(parents=True)
    (folder / "mlp-digits-seed1.pt").write_bytes(b"x")
    command = ["run", "end-to-end", "--seed", "0", "1", "--out", str(tmp_path), "--jobs", "3"]
    assert main([*command, "--device", "cpu"]) == 1
    out, err = capfd.readouterr()
    assert out.count(": complete, ") == 3
    assert "mlp-digits-seed1.pt is no checkpoint" in err
    assert err.splitlines()[-1] == "Not done: mlp-digits, seed 1."


def test_signals_and_limits_reach_all_runs(tmp_path, capfd):
    command = ["run", "weight-decay", "--out", str(tmp_path), "--jobs", "2", "--device", "cpu"]
    assert main([*command, "--time-limit", "0"]) == 3
    process = started("-m", "nclib.networks", *command)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err.count("SIGTERM: stopping after the present epoch") in (2, 3)
    assert err.count("Stopped by SIGTERM after epoch") in (1, 2)


def test_torchrun_starts_its_processes_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "several", lambda: True)
    command = ("run", "layerwise", "--jobs", "2", "--out", tmp_path)
    assert "--jobs must be 1 under torchrun" in fails(capsys, *command)


def test_the_state_of_a_run_by_name(tmp_path):
    assert state(SMALL, tmp_path) == "missing"
    stopped(tmp_path)
    assert state(SMALL, tmp_path) == "epoch 2 of 4"
    assert __main__.place_of(SMALL, tmp_path).name == "net-seed0.json"
    assert checkpoints.MAGIC.endswith(b"\n")


def test_the_example_with_joblib_in_the_book(tmp_path, monkeypatch):
    text = (ROOT / "book" / "running.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    code = code.replace("book/results", str(tmp_path)).replace('"reduced"', '"smoke"')
    code = (
        code.replace("n_jobs=4", "n_jobs=1")
        .replace('runs("weight', 'runs("end')
        .replace("-decay", "-to-end")
    )
    scope = {}
    exec(code, scope)
    assert len(list(tmp_path.rglob("*.json"))) == 2
