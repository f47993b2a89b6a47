"""What an entry of a file can be, and the sentences that refuse other values."""

import sys

import pytest

from nclib.measured.entries import (
    Amount,
    Commit,
    Flag,
    Index,
    Name,
    Plain,
    Scale,
    Settings,
    Share,
    Size,
    Split,
    Text,
    Time,
    checked,
    require_keys,
)
from nclib.measured.records import Data

NAN, INFINITY = float("nan"), float("inf")
KINDS = {
    "a plain file name": (Name, ["a", "mse-baseline.2_b"], ["", "a/b", ".a", "ä", "a\n", 1, None]),
    "a text, not empty": (Text, ["a", " ä\n"], ["", " ", "\n", 1, None, b"a"]),
    "one of smoke, reduced, full": (Scale, ["smoke", "full"], ["huge", "full\n", "xfull", None]),
    "train or test": (Split, ["train", "test"], ["all", "", "tests", None]),
    "a text of 40 hexadecimal digits": (Commit, ["0a" * 20], ["0a" * 19, "0A" * 20, "0g" * 20]),
    "an ISO 8601 time in UTC": (
        Time,
        ["2026-11-23T19:40:00+00:00", "2026-11-23T19:40:00.25Z"],
        [
            "2026-11-23T19:40:00",
            "2026-11-23 19:40:00Z",
            "2026-11-23T19:40:00+01:00",
            "26-11-23T19:40:00Z",
            "2026-11-23T19:40:00Z\n",
            "now",
            0,
        ],
    ),
    "true or false": (Flag, [True, False], [0, 1, "true", None]),
    "an integer, not negative": (Index, [0, 7, 2**70], [-1, 1.0, True, "1", None]),
    "an integer of at least 1": (Size, [1, 7], [0, -1, 1.0, True, "1", None]),
    "a number in [0, 1]": (Share, [0.0, 0, -0.0, 1, 1e-16], [1.0000001, -1e-16, NAN, True, "0"]),
    "a finite number, not negative": (
        Amount,
        [0, 0.0, 1e300, sys.float_info.max],
        [-1e-300, NAN, INFINITY, True, "0", None],
    ),
    "a plain value": (
        Plain,
        [None, True, 1, -1.5, "", "ä"],
        [NAN, INFINITY, -INFINITY, [1], {}, b"", 1j],
    ),
    "a dictionary of plain values": (Settings, [{}, {"a": 1, "b": None}], [[], "a", None, 0]),
}
GOOD_VALUES = [(kind, value) for kind, values, _ in KINDS.values() for value in values]
BAD_VALUES = [(words, kind, x) for words, (kind, _, values) in KINDS.items() for x in values]


@pytest.mark.parametrize(("kind", "value"), GOOD_VALUES)
def test_a_value_of_its_kind_comes_back(kind, value):
    found = checked(kind, "key", value)
    assert found == value and isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(("words", "kind", "value"), BAD_VALUES)
def test_another_value_is_refused_in_words(words, kind, value):
    with pytest.raises(ValueError) as caught:
        checked(kind, "key", value)
    assert str(caught.value) == f"key must be {words}, but key = {value!r}."


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (list[Share], [0, 2], "key[1] must be a number in [0, 1], but key[1] = 2."),
        (list[Size | None], [None, 0], "key[1] must be null or an integer of at least 1, but ..."),
        (list[Share], 0.5, "key must be a list, but key = 0.5."),
        (Settings, {"a": [1]}, "key.a must be a plain value, but key.a = [1]."),
        (Commit | None, 1, "key must be null or a text of 40 hexadecimal digits, but key = 1."),
        (Data, {"samples": 1}, "key lacks the key 'classes'."),
        (Data, "MNIST", "key must be a dictionary, but key = 'MNIST'."),
        (
            Data,
            {"classes": 0, "samples": 1, "source": "a", "split": "train"},
            "key.classes must be an integer of at least 1, but key.classes = 0.",
        ),
    ],
)
def test_the_sentence_names_the_entry_however_deep(kind, value, sentence):
    with pytest.raises(ValueError) as caught:
        checked(kind, "key", value)
    assert str(caught.value) == sentence.replace("...", "key[1] = 0.")


def test_what_is_checked_is_a_copy():
    column, settings = [0.5], {"a": 1}
    assert checked(list[Share], "key", column) is not column
    assert checked(Settings, "key", settings) is not settings


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError) as caught:
        checked(Size, "key", "x" * 1000)
    assert len(str(caught.value)) < 160


def test_keys_that_are_missing_or_too_many():
    require_keys("note", {"a": 1, "b": 2}, {"a"})
    with pytest.raises(ValueError, match=r"^note lacks the key 'b'\.$"):
        require_keys("note", {"a": 1}, {"a", "b"})
    with pytest.raises(ValueError, match=r"^note must not have the key 'b'\.$"):
        require_keys("note", {"a": 1, "b": 2}, {"a"}, {"a"})
    with pytest.raises(ValueError, match=r"^note must be a dictionary, but note = \['a'\]\.$"):
        require_keys("note", ["a"], {"a"})
