"""Measured results: files that come back as they were, files that are refused, and what is said of their origin."""

import json
import os
import time
from dataclasses import FrozenInstanceError, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from nclib import ClassStatistics, nc1, nc1_trace, nc2
from nclib.measured.results import (
    Result,
    config_hash,
    file_name,
    load_all,
    load_statistics,
    over_seeds,
    provenance,
    save_statistics,
)
from tests.foundations.oracle import samples

ROOT = Path(__file__).resolve().parents[2]
GOOD = Result(
    experiment="weight-decay",
    name="mse-baseline",
    scale="reduced",
    seed=0,
    config={"lr": 0.05, "epochs": 160, "bias": False, "loss": "mse", "clip": None},
    data={"source": "CIFAR-10 (JPEG copy)", "split": "train", "samples": 1000, "classes": 10},
    device="CPU, 1 thread",
    versions={"python": "3.11.7", "torch": "2.13.0", "numpy": "2.1.0", "nclib": "0.1.0"},
    commit="1a2b3c4d5e" * 4,
    started="2026-11-23T19:40:00+00:00",
    duration_s=820.5,
    complete=True,
    epochs={
        "epoch": [0, 1, 2],
        "loss": [2.5, 1 / 3, 1e-17],
        "train_error": [0.9, 1e-05, 0],
        "note": [None, -1.5, 2],
    },
    layers={
        "epoch": [0, 0, 2, 2],
        "layer": ["block1", "block2"] * 2,
        "dim": [64, 128] * 2,
        "nc1": [9.0, 8.0, 0.1, 0.02],
        "nc1_trace": [3.0, 2.0, 0.3, 0.2],
        "nc2": [1.1, 1.0, 0.5, 0.4],
        "nc3": [None, 1.2, None, 0.3],
        "nc4": [None, 0.4, None, 0.0],
    },
)
NOTE = {
    "network": "mlp",
    "layer": "hidden3",
    "data": "MNIST",
    "seed": 0,
    "epoch": 30,
    "samples": 1000,
}


def stored(tmp_path, **changes):
    """A good file, then changed by hand; `key__inner=value` reaches into a dictionary, Ellipsis deletes the key."""
    path = tmp_path / "run.json"
    GOOD.save(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        target, name = (values[outer], inner) if inner else (values, outer)
        target[name] = value
        if value is ...:
            del target[name]
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_result_comes_back_as_it_was(tmp_path):
    GOOD.save(tmp_path / "new" / "run.json")
    again = Result.load(tmp_path / "new" / "run.json")
    assert again == GOOD
    assert again.config_hash == GOOD.config_hash == config_hash(GOOD.config)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["run.json"]


def test_the_same_result_gives_the_same_bytes(tmp_path):
    GOOD.save(tmp_path / "a")
    turned = {
        key: dict(reversed(v.items())) if isinstance(v, dict) else v
        for key, v in vars(GOOD).items()
    }
    Result(**turned).save(tmp_path / "b")
    text = (tmp_path / "a").read_text(encoding="utf-8")
    assert (tmp_path / "b").read_text(encoding="utf-8") == text
    assert (
        text.endswith("}\n")
        and '    "epoch": [0,1,2],\n    "loss": [2.5,0.3333333333333333,1e-17],\n' in text
    )
    assert '    "nc4": [null,0.4,null,0.0]\n' in text
    assert list(json.loads(text)["layers"]) == [
        "epoch",
        "layer",
        "dim",
        "nc1",
        "nc1_trace",
        "nc2",
        "nc3",
        "nc4",
    ]
    assert len(text.splitlines()) < 55


def test_the_hash_is_that_of_the_canonical_text():
    assert config_hash({"b": 1, "a": 0.5}) == config_hash({"a": 0.5, "b": 1}) == "0d51f1cc985d8c22"
    assert config_hash({"a": 0.5, "b": 2}) != config_hash({"a": 0.5, "b": 1})


BAD = {
    "schema": [
        (..., "lacks the key 'schema'"),
        (2, "schema must be 1,"),
        (True, "schema must be 1,"),
    ],
    "config_hash": [("0" * 16, "config_hash must be .*, that of config")],
    "extra": [(1, "must not have the key 'extra'")],
    "experiment": [
        ("../up", "a plain file name"),
        ("", "a plain file name"),
        (None, "a plain file name"),
    ],
    "name": [
        ("a/b", "name must be a plain file name"),
        (".hidden", "a plain file name"),
        ("naïf", "a plain file name"),
    ],
    "scale": [("huge", "one of smoke, reduced, full")],
    "seed": [
        (..., "lacks the key 'seed'"),
        (-1, "seed must be an integer"),
        (1.0, "seed must"),
        (True, "seed must"),
    ],
    "config": [([], "config must be a dictionary")],
    "config__lr": [
        ([1], "config.lr must be a plain value"),
        ({}, "config.lr"),
        (float("inf"), "config.lr"),
        (0.1, "config_hash"),
    ],
    "data": [("MNIST", "data must be a dictionary")],
    "data__split": [
        (..., "data lacks the key 'split'"),
        ("all", "data.split must be train or test"),
    ],
    "data__source": [("", "data.source must be a text")],
    "data__samples": [(0, "data.samples must be an integer of at least 1"), (10.5, "data.samples")],
    "data__classes": [("10", "data.classes must be an integer of at least 1")],
    "data__copy": [("x", "data must not have the key 'copy'")],
    "device": [(" ", "device must be a text"), (0, "device must be a text")],
    "versions__torch": [
        (..., "versions lacks the key 'torch'"),
        (2.13, "versions.torch must be a text"),
    ],
    "versions__cuda": [(13, "versions.cuda must be a text")],
    "commit": [
        ("1a2b3c4", "commit must be null or 40"),
        ("G" * 40, "commit must"),
        ("A" * 40, "commit must"),
    ],
    "started": [
        ("2026-11-23T19:40:00", "started must be .* in UTC"),
        ("2026-11-23T19:40:00+01:00", "UTC"),
        ("2026-13-23T19:40:00+00:00", "UTC"),
        ("yesterday", "UTC"),
        (0, "UTC"),
    ],
    "duration_s": [
        (-1.0, "duration_s must be a finite number, not negative"),
        (float("nan"), "duration_s"),
        (None, "duration_s"),
    ],
    "complete": [(1, "complete must be true or false"), ("true", "complete must be true or false")],
    "epochs": [({"loss": []}, "epochs lacks the key 'epoch'"), ([], "epochs must be a dictionary")],
    "epochs__epoch": [
        ([0, 1, 1], "epochs.epoch must be increasing"),
        ([0, 2, 1], "increasing"),
        ([-1, 0, 1], r"epochs.epoch\[0\] must be an integer, not negative"),
        ([0, 1.0, 2], r"epoch\[1\]"),
        ([0, None, 2], r"epoch\[1\]"),
        (3, "epochs.epoch must be a list"),
    ],
    "epochs__loss": [
        ([1.0, 2.0], "epochs.loss must be a list, as long as epochs.epoch"),
        (1.0, "epochs.loss must"),
        ([1.0, -1.0, 0.0], r"epochs.loss\[1\] must be null or a finite number, not negative"),
        ([1.0, 1.0, float("nan")], r"epochs.loss\[2\]"),
        (["a", "b", "c"], r"epochs.loss\[0\]"),
    ],
    "epochs__train_error": [
        ([0, 0, 1.5], r"epochs.train_error\[2\] must be null or a number in \[0, 1\]"),
        ([0, -1e-9, 0], r"train_error\[1\]"),
        ([0, 2, 0], r"train_error\[1\]"),
        ([0, 10.5, 0], r"train_error\[1\]"),
        ([True, 0, 0], r"train_error\[0\]"),
    ],
    "epochs__note": [([0, 0, float("-inf")], r"epochs.note\[2\] must be null or a finite number")],
    "layers": [(..., "lacks the key 'layers'"), ({}, "layers lacks the key 'dim'")],
    "layers__nc5": [([0] * 4, "layers must not have the key 'nc5'")],
    "layers__nc2": [
        (..., "layers lacks the key 'nc2'"),
        ([1.0], "as long as layers.epoch"),
        ([-1.0] * 4, r"layers.nc2\[0\]"),
    ],
    "layers__epoch": [
        ([2, 2, 0, 0], "layers.epoch must be in order"),
        ([0] * 4, "one row per epoch and layer"),
    ],
    "layers__layer": [([1, 2, 3, 4], r"layers.layer\[0\] must be a text")],
    "layers__dim": [([0] * 4, r"layers.dim\[0\] must be an integer of at least 1")],
    "layers__nc1": [
        ([0, 0, 0, -1e-20], r"layers.nc1\[3\] must be null or a finite number, not negative")
    ],
    "layers__nc4": [([0, 0, 0, 1.01], r"layers.nc4\[3\] must be null or a number in \[0, 1\]")],
}


@pytest.mark.parametrize(
    ("key", "value", "message"), [(key, *case) for key, cases in BAD.items() for case in cases]
)
def test_a_bad_file_is_refused_by_name(tmp_path, key, value, message):
    path = stored(tmp_path, **{key: value})
    with pytest.raises(
        ValueError, match=rf"run\.json: the result is damaged or not valid: .*{message}.*\.$"
    ):
        Result.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("commit", None),
        ("started", "2026-11-23T19:40:00.25Z"),
        ("duration_s", 0),
        ("versions__cuda", "13.0"),
        ("layers__nc1", [None, -0.0, 3, 1e300]),
        ("epochs__train_error", [1, 1.0, 1.5e-07]),
        ("layers__nc4", [None, -0.0, 0.25, 1e-16]),
        ("epochs__lr", [-0.5, 1e-9, None]),
    ],
)
def test_what_is_allowed_is_read(tmp_path, key, value):
    path, (outer, _, inner) = stored(tmp_path, **{key: value}), key.partition("__")
    read = getattr(Result.load(path), outer)
    assert (read[inner] if inner else read) == value


def test_a_run_that_has_just_begun_is_a_result(tmp_path):
    empty = replace(
        GOOD, complete=False, epochs={"epoch": []}, layers={key: [] for key in GOOD.layers}
    )
    empty.save(tmp_path / "run.json")
    assert Result.load(tmp_path / "run.json") == empty


@pytest.mark.parametrize(
    "content", [b"", b'{"schema": 1', b"\xff\xfe", b"[1]", b"null", b"<<<<<<< HEAD"]
)
def test_what_is_not_a_result_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json: the result is damaged or not valid"):
        Result.load(tmp_path / "run.json")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "run.json"
    GOOD.save(path)
    content = path.read_bytes()
    for end in range(0, len(content) - 2, 97):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"run\.json: the result is damaged or not valid"):
            Result.load(path)
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path / "none.json")


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken):
    def fail(*_):
        raise OSError("the disk is full")

    path = tmp_path / "run.json"
    GOOD.save(path)
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk is full"):
        replace(GOOD, seed=5).save(path)
    assert Result.load(path) == GOOD
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path, seen, fsync = tmp_path / "run.json", [], os.fsync
    GOOD.save(path)
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), seen.append(Result.load(path))))
    new = replace(GOOD, seed=5)
    new.save(path)
    assert (seen, Result.load(path)) == ([GOOD], new)


def test_what_has_become_invalid_is_not_saved(tmp_path):
    path = tmp_path / "run.json"
    GOOD.save(path)
    growing = replace(GOOD, epochs={key: list(column) for key, column in GOOD.epochs.items()})
    growing.epochs["loss"][2] = float("nan")
    with pytest.raises(ValueError, match=r"epochs.loss\[2\]"):
        growing.save(path)
    assert Result.load(path) == GOOD
    with pytest.raises(ValueError, match="seed must be an integer"):
        replace(GOOD, seed=np.int64(1))
    with pytest.raises(FrozenInstanceError):
        GOOD.seed = 1


def test_series_and_probes():
    np.testing.assert_array_equal(GOOD.series("note"), [np.nan, -1.5, 2])
    last = GOOD.probes(epoch=-1)
    assert (last["layer"].tolist(), last["dim"].tolist()) == (["block1", "block2"], [64, 128])
    assert last["nc1"].tolist() == [0.1, 0.02]
    np.testing.assert_array_equal(last["nc3"], [np.nan, 0.3])
    assert (
        GOOD.probes(epoch=-2)["nc1"].tolist() == GOOD.probes(epoch=0)["nc1"].tolist() == [9.0, 8.0]
    )
    block = GOOD.probes("block2")
    assert (block["epoch"].tolist(), block["nc1"].tolist()) == ([0, 2], [8.0, 0.02])
    assert GOOD.probes("block2", epoch=2)["nc4"].tolist() == [0.0]
    assert list(GOOD.probes()) == list(GOOD.layers) and len(GOOD.probes()["nc1"]) == 4
    for bad in ("block3", None), (None, 1), (None, -3):
        with pytest.raises(ValueError, match=r"the (layer|epoch) must be one of"):
            GOOD.probes(*bad)
    with pytest.raises(
        ValueError,
        match="the column must be one of epoch, loss, train_error, note, but it is 'nc9'",
    ):
        GOOD.series("nc9")


def test_all_results_of_an_experiment_in_order(tmp_path):
    assert load_all(tmp_path, "weight-decay") == []
    runs = [
        replace(GOOD, name=n, seed=s, scale=c)
        for n, s, c in [
            ("b", 2, "reduced"),
            ("a", 10, "reduced"),
            ("a", 2, "reduced"),
            ("a", 2, "full"),
            ("a", 2, "smoke"),
        ]
    ]
    for r in runs:
        r.save(tmp_path / r.experiment / r.scale / file_name(r.name, r.seed))
    assert load_all(tmp_path, "weight-decay", "reduced") == [runs[2], runs[1], runs[0]]
    assert load_all(tmp_path, "weight-decay") == [runs[4], runs[2], runs[3], runs[1], runs[0]]
    assert load_all(tmp_path, "end-to-end") == []
    runs[0].save(tmp_path / "weight-decay" / "full" / file_name("b", 2))
    with pytest.raises(
        ValueError, match=r"full/b-seed2\.json: .* belongs in .*reduced/b-seed2\.json"
    ):
        load_all(tmp_path, "weight-decay")


def test_mean_and_spread_over_seeds():
    runs = [
        replace(GOOD, seed=s, epochs=GOOD.epochs | {"loss": [1.0, x, None]})
        for s, x in enumerate([1.0, 2.0, 6.0])
    ]
    mean, spread, count = over_seeds(runs, "loss")
    np.testing.assert_array_equal(mean, [1, 3, np.nan])
    np.testing.assert_allclose(spread, [0, np.sqrt(7), np.nan], rtol=1e-15)
    assert count == 3
    mean, spread, count = over_seeds(runs[:1], lambda r: r.probes(epoch=-1)["nc1"])
    assert (mean.tolist(), np.isnan(spread).tolist(), count) == ([0.1, 0.02], [True, True], 1)
    assert over_seeds(runs, lambda r: r.series("loss")[1])[0] == 3
    for change in (
        {"seed": 0},
        {"name": "x"},
        {"config": {}},
        {"scale": "full"},
        {"experiment": "x"},
    ):
        with pytest.raises(ValueError, match="one run at different seeds"):
            over_seeds([*runs, replace(GOOD, **({"seed": 9} | change))], "loss")
    with pytest.raises(ValueError, match="one run at different seeds"):
        over_seeds([], "loss")


def test_provenance():
    runs = [replace(GOOD, seed=s) for s in (2, 0, 1)]
    head = "CIFAR-10 (JPEG copy), 1,000 training images; reduced scale; CPU, 1 thread; "
    assert provenance(runs) == head + "seeds 0-2; 2026-11-23; commit 1a2b3c4; 41 minutes in all."
    assert (
        provenance(runs[:2]) == head + "seeds 0, 2; 2026-11-23; commit 1a2b3c4; 27 minutes in all."
    )
    late = replace(
        GOOD, started="2026-12-01T00:00:00+00:00", commit=None, complete=False, duration_s=9000
    )
    assert provenance([late, GOOD]) == head + (
        "seed 0; 2026-11-23 to 2026-12-01; commit not recorded and 1a2b3c4; 2.7 hours in all; "
        "incomplete (1 of 2 runs unfinished)."
    )
    other = replace(
        GOOD,
        data=GOOD.data | {"source": "MNIST", "split": "test"},
        scale="full",
        device="one GPU",
        duration_s=0.04,
    )
    assert provenance([other, replace(GOOD, duration_s=11)]) == (
        "MNIST, 1,000 test images and CIFAR-10 (JPEG copy), 1,000 training images; full and reduced scale; "
        "one GPU and CPU, 1 thread; seed 0; 2026-11-23; commit 1a2b3c4; 11.0 seconds in all."
    )
    with pytest.raises(ValueError, match="at least one"):
        provenance([])


def shards(dtype=np.float32):
    """Statistics of three shards of features with a large common part; the first lacks the last class."""
    shards = [
        samples(seed, [4, 5, 6, 3], 7, spread=0.1, offset=1e3, dtype=dtype) for seed in range(3)
    ]
    keep = shards[0].labels < 3
    shards[0] = type(shards[0])(shards[0].features[keep], shards[0].labels[keep])
    return [ClassStatistics.from_features(s.features, s.labels, 4) for s in shards]


def arrays_of(stats):
    return [a.tobytes() for a in (stats.counts, stats.means, stats.within, stats.low)] + [
        stats.resolution
    ]


@pytest.mark.parametrize(
    "stats", [shards()[0], shards(np.float64)[1], reduce(ClassStatistics.merge, shards())]
)
def test_statistics_come_back_to_the_last_bit(tmp_path, stats):
    save_statistics(tmp_path / "new" / "s.npz", stats, NOTE)
    again, note = load_statistics(tmp_path / "new" / "s.npz")
    assert arrays_of(again) == arrays_of(stats) and np.any(again.low)
    assert note == NOTE
    assert (again.within.flags.f_contiguous, again.within.tolist()) == (
        True,
        again.within.T.tolist(),
    )
    assert arrays_of(again.merge(stats)) == arrays_of(stats.merge(stats))
    if stats.counts.all():
        assert [f(again) for f in (nc1, nc1_trace, nc2)] == [
            f(stats) for f in (nc1, nc1_trace, nc2)
        ]


def test_the_same_statistics_give_the_same_small_file(tmp_path, monkeypatch):
    X, y = samples(0, [30] * 4, 60)
    stats = ClassStatistics.from_features(X, y)
    save_statistics(tmp_path / "a", stats, NOTE)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    save_statistics(tmp_path / "b", stats, dict(reversed(NOTE.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 8 * (60 * 61 // 2 + 2 * 60 * 4) + 4000


def test_statistics_without_their_origin_or_symmetry_are_not_saved(tmp_path):
    stats, path = shards()[1], tmp_path / "s.npz"
    for note, message in [
        ({"network": "mlp"}, "note lacks the key 'data'"),
        (NOTE | {"loss": float("nan")}, "note.loss must be a plain"),
        (NOTE | {"layer": ["a"]}, "note.layer must be a plain"),
        ("mlp", "note must be a dictionary"),
    ]:
        with pytest.raises(ValueError, match=message):
            save_statistics(path, stats, note)
    skew = stats.within.copy()
    skew[0, 1] *= 1 + 1e-6
    with pytest.raises(ValueError, match="within must be symmetric"):
        save_statistics(path, replace(stats, within=skew), NOTE)
    assert not path.exists()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("counts", ...),
        ("note", ...),
        ("means", np.zeros((7, 3))),
        ("means", np.float64(1)),
        ("low", np.zeros((6, 4))),
        ("within", np.ones(1)),
        ("within", np.ones((7, 7))),
        ("within", np.full(28, np.nan)),
        ("counts", np.ones(4)),
        ("resolution", np.ones(2)),
        ("resolution", np.float64(-1)),
        ("note", "{"),
        ("note", '{"network": "mlp"}'),
    ],
)
def test_bad_statistics_are_refused(tmp_path, member, value):
    path = tmp_path / "s.npz"
    save_statistics(path, shards()[1], NOTE)
    with np.load(path) as file:
        members = dict(file) | {member: value}
    np.savez(path, **{name: array for name, array in members.items() if array is not ...})
    with pytest.raises(
        ValueError, match=r"s\.npz: the class statistics are damaged or not valid: \S"
    ):
        load_statistics(path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_file_is_run(tmp_path):
    path, trace = tmp_path / "s.npz", tmp_path / "trace"
    save_statistics(path, shards()[1], NOTE)
    with np.load(path) as file:
        np.savez(path, **dict(file) | {"means": np.array([Trap(trace)])})
    with pytest.raises(ValueError, match="damaged or not valid"):
        load_statistics(path)
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as file:
        assert file["means"].shape == (1,) and trace.exists()  # the trap works


def test_damaged_statistics_are_refused(tmp_path):
    path = tmp_path / "s.npz"
    save_statistics(path, shards()[1], NOTE)
    content = path.read_bytes()
    flipped = content.replace("hidden3".encode("utf-32-le"), "hidden4".encode("utf-32-le"))
    assert flipped != content
    np.save(alone := tmp_path / "alone.npy", np.ones(3))
    for damaged in [content[:end] for end in range(0, len(content), 101)] + [
        flipped,
        alone.read_bytes(),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"s\.npz: the class statistics are damaged or not valid: \S"
        ):
            load_statistics(path)
    with pytest.raises(FileNotFoundError):
        load_statistics(tmp_path / "none.npz")


def test_the_measured_results_of_the_book_are_valid():
    """Every file under book/results is a valid result in its place, or valid class statistics."""
    folder = ROOT / "book" / "results"
    working = (
        ".pt",
        ".tmp",
    )  # a run may be under way: its checkpoint, which git ignores, and a file being written
    files = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".md", *working)
    ]
    found = {p.parent for p in files if p.suffix == ".json"}
    assert {p.suffix for p in files} <= {".json", ".npz"}
    assert {p.parent.parent.name for p in files if p.suffix == ".npz"} == {"statistics"}
    assert all(len(p.relative_to(folder).parts) == 2 for p in found)
    for place in found:
        assert load_all(folder, place.parent.name, place.name)
    for path in files:
        if path.suffix == ".npz":
            load_statistics(path)
