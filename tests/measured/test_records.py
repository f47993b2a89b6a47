"""The record of a run: files that come back as they were, and files that are refused by name."""

import copy
import json
import os
import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from nclib.measured.entries import Amount
from nclib.measured.files import load_statistics, save_statistics
from nclib.measured.records import Epochs, Layers, Part, Result, config_hash
from nclib.measured.summary import load_all
from tests.measured.example import GOOD

ROOT = Path(__file__).resolve().parents[2]
# Fits computed from stored statistics, and networks with records of their own; both have their
# tests elsewhere: test_fits.py and test_imbalanced_results.py here, and in tests/networks.
OTHERS = [
    ROOT / "book/results" / name
    for name in ("fits", "held-out", "imbalance", "normalized", "rest", "wide")
]
STORED = [
    path
    for path in sorted((ROOT / "book/results").rglob("*.json"))
    if not set(OTHERS) & set(path.parents)
]
STATISTICS = sorted((ROOT / "book/results").rglob("*.npz"))


def written(tmp_path, **changes):
    """A good file, then changed by hand.

    ``key__inner=value`` reaches into a dictionary, and ``...`` deletes the key.
    """
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


# ---- what is written comes back ------------------------------------------------------------------


def test_a_result_comes_back_as_it_was(tmp_path):
    GOOD.save(tmp_path / "new" / "run.json")
    again = Result.load(tmp_path / "new" / "run.json")
    assert again == GOOD
    assert again.config_hash == GOOD.config_hash == config_hash(GOOD.config)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["run.json"]


def test_the_same_result_gives_the_same_bytes(tmp_path):
    GOOD.save(tmp_path / "a")
    turned = replace(
        GOOD,
        config=dict(reversed(GOOD.config.items())),
        epochs=Epochs(**dict(reversed(msgspec.structs.asdict(GOOD.epochs).items()))),
    )
    turned.save(tmp_path / "b")
    Result.load(tmp_path / "a").save(tmp_path / "c")
    text = (tmp_path / "a").read_text(encoding="utf-8")
    assert (tmp_path / "b").read_text(encoding="utf-8") == text
    assert (tmp_path / "c").read_text(encoding="utf-8") == text


def test_each_column_takes_one_line_in_the_order_of_its_declaration(tmp_path):
    GOOD.save(tmp_path / "a")
    text = (tmp_path / "a").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '    "loss": [2.5,0.3333333333333333,1e-17],\n' in text
    assert '    "nc4": [null,0.4,null,0.0]\n' in text  # later columns that are None are not there
    assert '    "error": [0.9,1e-05,0.0],\n' in text  # a number is written as a number
    values = json.loads(text)
    assert tuple(values["epochs"]) == Epochs.columns()
    first = Layers.columns().index("trace_within")
    assert tuple(values["layers"]) == Layers.columns()[:first]
    traces = {"trace_within": [1, None, 2.5, 0], "trace_between": [3, 2, 1, None]}
    replace(GOOD, layers=replace(GOOD.layers, **traces)).save(tmp_path / "b")
    text = (tmp_path / "b").read_text(encoding="utf-8")
    assert '    "trace_between": [3.0,2.0,1.0,null]\n' in text
    assert tuple(json.loads(text)["layers"]) == Layers.columns()
    assert list(values["config"]) == sorted(GOOD.config)
    assert list(values)[:4] == ["schema", "config_hash", "experiment", "name"]
    assert len(text.splitlines()) < 65


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_result_is_written_again_to_the_byte(tmp_path, path):
    Result.load(path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", STATISTICS, ids=lambda path: path.stem)
def test_stored_statistics_are_written_again_to_the_byte(tmp_path, path):
    save_statistics(tmp_path / "again.npz", *load_statistics(path))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_the_results_of_the_book_are_in_their_places():
    """Every file under book/results is a result in its place, statistics, or of the others."""
    folder = ROOT / "book" / "results"
    # A run may be under way: its checkpoint, which git ignores, and a file being written.
    working = (".pt", ".tmp")
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".md", *working)]
    places = {p.parent for p in files if p.suffix == ".json" and not set(OTHERS) & set(p.parents)}
    assert {p.suffix for p in files} <= {".json", ".npz"}
    assert {p.parent.parent.name for p in files if p.suffix == ".npz"} == {"statistics"}
    number = 0
    for root in (folder, folder / "gpu"):
        inside = {p for p in places if p.parent.parent == root}
        number += sum(len(load_all(root, p.parent.name, p.name)) for p in inside)
        places -= inside
    assert not places and number == len(STORED) > 40


def test_runs_of_a_gpu_are_kept_apart():
    """The second processor of E2 has a folder of results of its own, which no list mixes in."""
    folder = ROOT / "book" / "results"
    second = load_all(folder / "gpu", "weight-decay", "reduced")
    assert len(second) == 30 and {r.seed for r in second} == {0, 1, 2}
    assert {r.device for r in second} == {"NVIDIA H200"} and all(r.complete for r in second)
    assert {r.device for r in load_all(folder, "weight-decay", "reduced")} == {"CPU, 1 thread"}
    assert {r.device for r in load_all(folder, "weight-decay", "full")} == {"NVIDIA H200"}


def test_a_field_that_comes_later_changes_no_file_written_before(tmp_path):
    path = written(tmp_path, versions__cuda="13.0")
    assert Result.load(path).versions.cuda == "13.0"
    Result.load(path).save(path)
    assert '"cuda": "13.0"' in path.read_text(encoding="utf-8")
    GOOD.save(path)
    assert GOOD.versions.cuda is None and "cuda" not in path.read_text(encoding="utf-8")


class LaterLayers(Layers, frozen=True, kw_only=True):
    rank: list[Amount | None] | None = None


class LaterResult(Result, frozen=True, kw_only=True):
    layers: LaterLayers


def test_a_column_that_comes_later_is_not_measured_in_files_written_before(tmp_path):
    path = tmp_path / "run.json"
    GOOD.save(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    fields = set(LaterResult.__struct_fields__) & set(values)
    old = LaterResult(**{key: values[key] for key in fields})
    assert old.layers.rank is None
    assert np.isnan(old.probes(epoch=-1)["rank"]).tolist() == [True, True]
    old.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    new = replace(old, layers=replace(old.layers, rank=[1, None, 2.5, 0]))
    np.testing.assert_array_equal(new.probes("block1")["rank"], [1, 2.5])
    new.save(path)
    assert '    "rank": [1.0,null,2.5,0.0]\n' in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"layers.rank must be as long as layers.epoch"):
        replace(old, layers=replace(old.layers, rank=[1.0]))
    with pytest.raises(ValueError, match=r"layers.rank\[0\] must be null or a finite"):
        replace(old, layers=replace(old.layers, rank=[-1.0] * 4))


def test_the_hash_is_that_of_the_canonical_text():
    assert config_hash({"b": 1, "a": 0.5}) == config_hash({"a": 0.5, "b": 1}) == "0d51f1cc985d8c22"
    assert config_hash({"a": 0.5, "b": 2}) != config_hash({"a": 0.5, "b": 1})
    with pytest.raises(
        ValueError, match=r"config\.a must be a plain value, but config\.a = \[1\]\."
    ):
        config_hash({"a": [1]})


# ---- what is refused -----------------------------------------------------------------------------

BAD = {
    "schema": [
        (..., "lacks the key 'schema'"),
        (2, "schema must be 1, but schema = 2"),
        (True, "schema must be 1,"),
    ],
    "config_hash": [("0" * 16, "config_hash must be .*, the hash of config")],
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
    "device": [(" ", "device must be a text, not empty"), (0, "device must be a text, not empty")],
    "versions__torch": [
        (..., "versions lacks the key 'torch'"),
        (2.13, "versions.torch must be a text"),
    ],
    "versions__cuda": [(13, "versions.cuda must be null or a text")],
    "commit": [
        ("1a2b3c4", "commit must be null or a text of 40"),
        ("G" * 40, "commit must"),
        ("A" * 40, "commit must"),
    ],
    "started": [
        ("2026-11-23T19:40:00", "started must be .* in UTC"),
        ("2026-11-23T19:40:00+01:00", "UTC"),
        ("2026-13-23T19:40:00+00:00", "UTC"),
        ("2026-02-31T19:40:00+00:00", "UTC"),
        ("2026-11-23T24:00:00Z", "UTC"),
        ("yesterday", "UTC"),
        (0, "UTC"),
    ],
    "duration_s": [
        (-1.0, "duration_s must be a finite number, not negative"),
        (float("nan"), "duration_s"),
        (None, "duration_s"),
    ],
    "complete": [(1, "complete must be true or false"), ("true", "complete must be true or false")],
    "epochs": [
        ({"loss": []}, "epochs lacks the key 'batch_error'"),
        ([], "epochs must be a dictionary"),
    ],
    "epochs__epoch": [
        ([0, 1, 1], "epochs.epoch must be increasing"),
        ([0, 2, 1], "increasing"),
        ([-1, 0, 1], r"epochs.epoch\[0\] must be an integer, not negative"),
        ([0, 1.0, 2], r"epoch\[1\]"),
        ([0, None, 2], r"epoch\[1\]"),
        (3, "epochs.epoch must be a list"),
    ],
    "epochs__loss": [
        ([1.0, 2.0], "epochs.loss must be as long as epochs.epoch, but they have 2 and 3"),
        (1.0, "epochs.loss must be a list"),
        ([1.0, -1.0, 0.0], r"epochs.loss\[1\] must be null or a finite number, not negative"),
        ([1.0, 1.0, float("nan")], r"epochs.loss\[2\]"),
        (["a", "b", "c"], r"epochs.loss\[0\]"),
    ],
    "epochs__error": [
        ([0, 0, 1.5], r"epochs.error\[2\] must be null or a number in \[0, 1\]"),
        ([0, -1e-9, 0], r"epochs.error\[1\]"),
        ([0, 2, 0], r"epochs.error\[1\]"),
        ([0, 10.5, 0], r"epochs.error\[1\]"),
        ([True, 0, 0], r"epochs.error\[0\]"),
    ],
    "epochs__stage": [
        (..., "epochs lacks the key 'stage'"),
        ([0, 1, 1], r"epochs.stage\[0\] must be an integer of at least 1"),
        ([1, True, 1], r"epochs.stage\[1\]"),
    ],
    "epochs__nc3": [([0, 0, float("-inf")], r"epochs.nc3\[2\] must be null or a finite number")],
    "epochs__terror": [([0, 0, 0], "epochs must not have the key 'terror'")],
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
    path = written(tmp_path, **{key: value})
    with pytest.raises(
        ValueError, match=rf"run\.json: the result is damaged or not valid: .*{message}.*\.$"
    ):
        Result.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("commit", None),
        ("started", "2026-11-23T19:40:00.25Z"),
        ("started", "2028-02-29T00:00:00Z"),
        ("duration_s", 0),
        ("versions__cuda", "13.0"),
        ("layers__nc1", [None, -0.0, 3, 1e300]),
        ("epochs__error", [1, 1.0, 1.5e-07]),
        ("layers__nc4", [None, -0.0, 0.25, 1e-16]),
        ("epochs__nc2", [0.5, 1e-9, None]),
    ],
)
def test_what_is_allowed_is_read(tmp_path, key, value):
    path, (outer, _, inner) = written(tmp_path, **{key: value}), key.partition("__")
    read = getattr(Result.load(path), outer)
    assert (getattr(read, inner) if inner else read) == value


def test_a_run_that_has_just_begun_is_a_result(tmp_path):
    empty = replace(
        GOOD,
        complete=False,
        epochs=Epochs(**{column: [] for column in Epochs.columns()}),
        layers=Layers(**{column: [] for column in Layers.columns()}),
    )
    empty.save(tmp_path / "run.json")
    assert Result.load(tmp_path / "run.json") == empty


@pytest.mark.parametrize(
    "content",
    [b"", b'{"schema": 1', b"\xff\xfe", b"[1]", b"null", b"<<<<<<< HEAD", b"[" * 200_000],
)
def test_what_is_not_a_result_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json: the result is damaged or not valid: .*\.$"):
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


# ---- records in memory ---------------------------------------------------------------------------


def test_what_has_become_invalid_is_not_saved(tmp_path):
    path = tmp_path / "run.json"
    GOOD.save(path)
    growing = replace(GOOD)
    growing.epochs.loss[2] = float("nan")
    with pytest.raises(ValueError, match=r"epochs.loss\[2\] must be null or a finite number"):
        growing.save(path)
    assert Result.load(path) == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": np.int64(1)}, "seed must be an integer, not negative, but seed = np.int64"),
        ({"data": replace(GOOD.data, samples=0)}, r"data.samples must be an integer of at least 1"),
        ({"layers": replace(GOOD.layers, nc4=[None])}, "layers.nc4 must be as long as"),
        ({"epochs": GOOD.layers}, "epochs lacks the key 'batch_error'"),
        ({"config": {1: 2}}, "config must be a dictionary of plain values"),
    ],
)
def test_what_is_not_valid_is_refused_when_it_is_made(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GOOD, **change)


def test_a_result_keeps_its_own_copy_of_the_tables():
    columns = {name: list(column) for name, column in msgspec.structs.asdict(GOOD.epochs).items()}
    result = replace(GOOD, epochs=Epochs(**columns))
    columns["epoch"].append(3)
    assert result == GOOD and len(result.epochs) == 3


def test_a_result_cannot_be_changed():
    for record, name in [(GOOD, "seed"), (GOOD.data, "samples"), (GOOD.epochs, "loss")]:
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


def test_records_compare_and_hash_by_what_they_hold(tmp_path):
    GOOD.save(tmp_path / "a")
    again, other = Result.load(tmp_path / "a"), replace(GOOD, seed=1)
    for name in ("data", "versions", "epochs", "layers"):
        assert getattr(again, name) == getattr(GOOD, name)
        assert hash(getattr(again, name)) == hash(getattr(GOOD, name))
    assert {again, GOOD, other} == {GOOD, other} and other != GOOD
    assert GOOD != "a" and GOOD.epochs != GOOD.layers and GOOD.data is not None
    assert pickle.loads(pickle.dumps(GOOD)) == copy.deepcopy(GOOD) == GOOD


def test_records_take_one_line():
    assert repr(GOOD) == (
        "Result(experiment='weight-decay', name='mse-baseline', scale='reduced', seed=0, "
        "complete=True)"
    )
    assert repr(GOOD.epochs) == "Epochs(3 rows)" and repr(GOOD.layers) == "Layers(4 rows)"
    assert repr(GOOD.data).startswith("Data(classes=10, samples=1000, source=")
    assert repr(GOOD.versions).startswith("Versions(nclib='0.1.0', ")


def test_a_column_comes_by_its_name():
    assert GOOD.epochs["loss"] is GOOD.epochs.loss
    with pytest.raises(KeyError, match=r"column must be one of epoch, layer, .* but column = 'x'"):
        GOOD.layers["x"]


def test_series_are_columns_with_nan_for_what_was_not_measured():
    np.testing.assert_array_equal(GOOD.series("nc1"), [9, np.nan, 0.02])
    assert GOOD.series("epoch").dtype == float
    with pytest.raises(
        ValueError, match=r"column must be one of epoch, batch_error, .*, but column = 'nc9'\.$"
    ):
        GOOD.series("nc9")


def test_probes_are_rows_of_a_layer_or_an_epoch():
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
    assert tuple(GOOD.probes()) == Layers.columns() and len(GOOD.probes()["nc1"]) == 4
    kinds = [GOOD.probes()[column].dtype.kind for column in Layers.columns()]
    assert kinds == ["i", "U", "i", *"fffffff"]
    for bad in ("block3", None), (None, 1), (None, -3):
        with pytest.raises(ValueError, match=r"^(layer|epoch) must be one of .*, but \1 = "):
            GOOD.probes(*bad)


PART = {
    "started": "2026-01-02T03:04:05+00:00",
    "epoch": 3,
    "commit": None,
    "device": "CPU",
    "versions": {"nclib": "1", "numpy": "2", "python": "3", "torch": "4"},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": [PART | {"epoch": -1}]}, r"parts\[0\]\.epoch must be an integer, not negative"),
        ({"parts": [PART | {"started": "2026-02-30T00:00:00Z"}]}, r"parts\[0\]\.started must be"),
        ({"parts": [PART | {"color": 1}]}, r"parts\[0\] must not have the key 'color'"),
        ({"processor": ""}, "processor must be null or a text, not empty"),
        (
            {"data__fingerprint": "12ab"},
            "data.fingerprint must be null or a text of 16 hexadecimal digits",
        ),
    ],
)
def test_fields_that_came_later_are_checked_too(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Result.load(written(tmp_path, **changes))


def test_columns_that_came_later_may_be_there_or_not(tmp_path):
    traces = [1.5, None, 0.25, 0.5]
    layers = replace(GOOD.layers, trace_within=traces)
    later = replace(GOOD, layers=layers)
    later.save(tmp_path / "later.json")
    again = Result.load(tmp_path / "later.json")
    assert again == later and again.probes("block1")["trace_within"].tolist() == [1.5, 0.25]
    for column in (GOOD.probes()["trace_within"], again.probes()["trace_between"]):
        assert np.isnan(column).tolist() == [True] * 4
    assert "trace_between" not in json.loads((tmp_path / "later.json").read_text())["layers"]
    with pytest.raises(ValueError, match="layers must not have the key 'trace_without'"):
        Result.load(written(tmp_path, layers__trace_without=traces))
    with pytest.raises(ValueError, match=r"layers\.trace_within must be as long as layers\.epoch"):
        replace(GOOD, layers=replace(GOOD.layers, trace_within=[1.0]))
    with pytest.raises(ValueError, match=r"layers\.trace_between\[1\] must be"):
        replace(GOOD, layers=replace(GOOD.layers, trace_between=[1.0, -1.0, 1.0, 1.0]))


def test_fields_that_came_later_may_be_there_or_not(tmp_path):
    later = replace(GOOD, parts=[msgspec.convert(PART, Part)], processor="P", instructions="AVX2")
    later.save(tmp_path / "later.json")
    again = Result.load(tmp_path / "later.json")
    assert again == later and again.parts[0].epoch == 3 and again.parts[0].processor is None
    GOOD.save(tmp_path / "before.json")
    assert not {"parts", "processor"} & set(json.loads((tmp_path / "before.json").read_text()))
