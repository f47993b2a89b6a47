"""The library's page: every function has an example that runs, every result names its fields."""

import importlib
import inspect
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import msgspec
import pytest

import nclib

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception):: (\S+)$", re.MULTILINE)


def documented():
    text = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    names = sorted(set(DIRECTIVE.findall(text)))
    assert len(names) > 100
    return names


def found(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public():
    """What `from nclib import ...` gives, and what the page of the library shows, once each."""
    things = {name: getattr(nclib, name) for name in nclib.__all__}
    things |= {name: found(name) for name in documented()}
    return {id(thing): (name, thing) for name, thing in things.items()}.values()


FUNCTIONS = {name: f for name, f in public() if inspect.isfunction(f)}
CLASSES = {
    name: c for name, c in public() if inspect.isclass(c) and not issubclass(c, Exception | Enum)
}


def own_fields(cls):
    """The fields that a class declares itself or inherits within the library, private ones not."""
    if is_dataclass(cls):
        names = [field.name for field in fields(cls)]
    elif issubclass(cls, msgspec.Struct):
        names = [field.name for field in msgspec.structs.fields(cls)]
    elif issubclass(cls, tuple):
        names = list(cls._fields)
    else:
        names = []
    return [name for name in names if not name.startswith("_")]


def test_there_is_something_to_read():
    assert len(FUNCTIONS) > 60 and len(CLASSES) > 40


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_public_function_has_an_example(name):
    assert ">>> " in inspect.getdoc(FUNCTIONS[name])


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_public_class_names_its_fields(name):
    cls = CLASSES[name]
    texts = [inspect.getdoc(c) or "" for c in cls.__mro__ if c.__module__.startswith("nclib")]
    said = {
        entry
        for text in texts
        for section in re.findall(r"^(?:Attributes|Args):\n((?:    .*\n|\n)*)", text + "\n", re.M)
        for names in re.findall(r"^    (\w[\w, ]*):", section, re.M)
        for entry in names.split(", ")
    }
    assert [field for field in own_fields(cls) if field not in said] == []


def tables(text):
    """The tables of the page of letters, by heading: symbols of each."""
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = section.partition("\n")
        cells = re.findall(r"^\| (\$.*?\$) \|", body, re.M)
        yield heading, [symbol for cell in cells for symbol in re.split(r",\\ ", cell.strip("$"))]


def test_no_letter_has_two_meanings_in_one_table():
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    found = dict(tables(text))
    assert len(found) > 6 and "K" in found["Features, labels, statistics"]
    twice = {
        heading: sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
        for heading, symbols in found.items()
    }
    assert {heading: symbols for heading, symbols in twice.items() if symbols} == {}
