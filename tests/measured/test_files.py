"""Files of measured results: places, writing in one step, class statistics to the last bit."""

import json
import time
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from nclib import ClassStatistics, nc1, nc1_trace, nc2
from nclib.measured.files import (
    file_name,
    load_statistics,
    place,
    save_statistics,
    write_atomic,
    write_record,
)
from tests.foundations.oracle import samples

NOTE = {
    "network": "mlp",
    "layer": "hidden3",
    "data": "MNIST",
    "seed": 0,
    "epoch": 30,
    "samples": 1000,
}


def test_a_result_has_one_place():
    assert file_name("mlp-mnist", 12) == "mlp-mnist-seed12.json"
    expected = Path("results", "end-to-end", "reduced", "mlp-mnist-seed12.json")
    assert place("results", "end-to-end", "reduced", "mlp-mnist", 12) == expected


def test_a_file_is_written_with_its_folders_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b"", b"third"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def refused(name):
    raise AssertionError(name)


def test_a_record_is_json_that_other_programs_read_too(tmp_path):
    """Infinity and NaN are none of its words."""
    path = tmp_path / "new" / "one.json"
    record = {"a": [1, 0.1, np.float64(0.2), -np.inf], "b": {"c": np.nan, "d": True}, "e": "NaN"}
    write_record(path, record)

    found = json.loads(path.read_text("utf-8"), parse_constant=refused)
    assert found == {"a": [1, 0.1, 0.2, None], "b": {"c": None, "d": True}, "e": "NaN"}


def test_all_stored_results_are_such_files():
    paths = sorted((Path(__file__).parents[2] / "book/results").rglob("*.json"))
    assert len(paths) > 300
    for path in paths:
        json.loads(path.read_text("utf-8"), parse_constant=refused)


def shards(dtype=np.float32):
    """Statistics of three shards of features with a large common part; one lacks a class."""
    drawn = [
        samples(seed, [4, 5, 6, 3], 7, spread=0.1, offset=1e3, dtype=dtype) for seed in range(3)
    ]
    keep = drawn[0].labels < 3
    drawn[0] = type(drawn[0])(drawn[0].features[keep], drawn[0].labels[keep])
    return [ClassStatistics.from_features(s.features, s.labels, 4) for s in drawn]


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
        ("low", np.float64(0)),
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
