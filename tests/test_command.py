"""``python -m nclib measure``: arrays on the disk, whole and as memory maps, and files refused."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from nclib import measure
from nclib.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
rng = np.random.default_rng(0)
LABELS = rng.permutation(np.repeat(np.arange(3), (4, 6, 5)))
FEATURES = (rng.standard_normal((3, 7))[LABELS] + rng.standard_normal((15, 7))).astype(np.float32)
WEIGHTS, BIAS = rng.standard_normal((3, 7)), rng.standard_normal(3)


def records(capsys, *arguments):
    assert main(["measure", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    assert main(["measure", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def expected(name, **arrays):
    values = measure(FEATURES, LABELS, **arrays)._asdict()
    return {"layer": name, "N": 15, "d": 7, "K": 3} | values


def test_arrays_in_one_file(tmp_path, capsys):
    np.savez(tmp_path / "fc.npz", features=FEATURES, labels=LABELS, weights=WEIGHTS, bias=BIAS)
    np.savez_compressed(tmp_path / "pool.npz", labels=LABELS, features=FEATURES)
    found = records(capsys, tmp_path / "fc.npz", tmp_path / "pool.npz")
    assert found == [expected("fc", weights=WEIGHTS, bias=BIAS), expected("pool")]
    assert found[0]["nc4"] is not None and found[1]["nc3"] is None


def test_one_file_per_array(tmp_path, capsys, monkeypatch):
    arrays = {"features": FEATURES, "labels": LABELS, "weights": WEIGHTS, "bias": BIAS}
    modes, load = [], np.load
    monkeypatch.setattr(
        np, "load", lambda *a, **how: modes.append(how["mmap_mode"]) or load(*a, **how)
    )
    options = []
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        options += [f"--{name}", tmp_path / f"{name}.npy"]
    assert records(capsys, *options) == [expected("features", weights=WEIGHTS, bias=BIAS)]
    assert records(capsys, *options[:4]) == [expected("features")]
    assert set(modes) == {"r"}


def test_the_table(tmp_path, capsys):
    np.savez(tmp_path / "fc.npz", features=FEATURES, labels=LABELS)
    assert main(["measure", str(tmp_path / "fc.npz")]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "N", "d", "K", "NC1", "NC1~", "NC2", "NC3", "NC4"]
    values = expected("fc")
    assert row.split() == ["fc", "15", "7", "3"] + [
        f"{values[key]:.5g}" for key in ("nc1", "nc1_trace", "nc2")
    ] + ["-", "-"]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_refused_and_never_read(tmp_path, capsys):
    made = tmp_path / "made"
    evil = np.array([Evil(str(made)), None], object)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"features": Evil(str(made))}))
    np.save(tmp_path / "b.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "c.npz", features=evil, labels=LABELS)
    sentence = "holds pickled objects, which can run programs and are never read; save plain arrays"
    np.save(tmp_path / "y.npy", LABELS)
    assert sentence in fails(capsys, tmp_path / "a.pkl")
    assert sentence in fails(capsys, tmp_path / "c.npz")
    for name in ("a.pkl", "b.npy"):
        err = fails(capsys, "--features", tmp_path / name, "--labels", tmp_path / "y.npy")
        assert sentence in err and str(tmp_path / name) in err
    assert not made.exists()
    np.load(tmp_path / "b.npy", allow_pickle=True)
    assert made.exists()  # it would have worked


def test_other_files_are_named(tmp_path, capsys):
    np.save(tmp_path / "x.npy", FEATURES)
    np.savez(tmp_path / "other.npz", X=FEATURES, y=LABELS)
    np.savez(tmp_path / "more.npz", features=FEATURES, labels=LABELS, images=FEATURES)
    np.savez(tmp_path / "good.npz", features=FEATURES, labels=LABELS)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-9])
    for name, message in {
        "x.npy": "a single array; say with --features",
        "other.npz": "it must hold features and labels.*but it holds X, y",
        "more.npz": "but it holds features, images, labels",
        "empty.npz": "cannot be measured",
        "cut.npz": "cannot be measured",
        "none.npz": "No such file",
    }.items():
        err = fails(capsys, tmp_path / name)
        assert str(tmp_path / name) in err
        assert re.search(message, err), err
    both = ("--features", tmp_path / "cut.npy", "--labels", tmp_path / "x.npy")
    assert "cut.npy cannot be measured" in fails(capsys, *both)
    several = ("--features", tmp_path / "good.npz", "--labels", tmp_path / "x.npy")
    assert "good.npz cannot be measured: it holds several arrays" in fails(capsys, *several)


def test_what_is_asked_must_make_sense(tmp_path, capsys):
    assert "give .npz files, or --features and --labels" in fails(capsys)
    assert "give .npz files, or" in fails(capsys, "--features", "x.npy")
    assert "either .npz files or single arrays" in fails(capsys, "a.npz", "--bias", "b.npy")
    np.savez(tmp_path / "a.npz", features=FEATURES, labels=LABELS[:-1])
    assert "labels must have shape (15,)" in fails(capsys, tmp_path / "a.npz")


def test_the_command_needs_no_torch(tmp_path):
    np.savez(tmp_path / "fc.npz", features=FEATURES, labels=LABELS)
    script = (
        "import sys, runpy; sys.argv = ['nclib', 'measure', sys.argv[1]]\n"
        "try: runpy.run_module('nclib', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "fc.npz")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == "0 False" and found.stderr == ""


def test_one_file_that_cannot_be_measured_does_not_hide_the_others(tmp_path, capsys):
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((30, 4)), np.arange(30) % 3
    np.savez(tmp_path / "good.npz", features=h, labels=y)
    np.savez(tmp_path / "gap.npz", features=h, labels=2 * y)
    np.savez(tmp_path / "fine.npz", features=h + 1, labels=y)
    names = ("good", "gap", "fine")
    status = main(["measure", *(str(tmp_path / f"{name}.npz") for name in names)])
    out, err = capsys.readouterr()
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == ["layer", "good", "fine"]
    assert f"{tmp_path / 'gap.npz'} cannot be measured: class 1 has no samples" in err
