"""The map says what the ledger and the chapters say, and the check that says so can fail."""

import re
from dataclasses import replace

import pytest

from tools.claim_map import HYPOTHESES, SETTINGS, holds, layers, problems, render
from tools.claims import ROOT
from tools.ledger import EXPECTED, ancestors, load, statements

LEDGER = load(ROOT / "book/claims.yml")
PAGE = render(LEDGER, ROOT)
BY_ID = {claim.id: claim for claim in LEDGER}


def changed(name, **fields):
    return [replace(c, **fields) if c.id == name else c for c in LEDGER]


def excluded(**answers):
    """What the answers to the form's questions rule out."""
    out = set()
    for question, answer in answers.items():
        options = SETTINGS[question.replace("_", " ")]
        (option,) = [option for option in options if option.text == answer]
        out |= set(option.excludes)
    return out


def left(**answers):
    return {claim.id for claim in LEDGER if holds(claim, excluded(**answers))}


def test_the_map_is_true():
    assert problems(LEDGER, ROOT) == []


def test_the_page_is_what_the_ledger_and_the_chapters_say():
    assert (ROOT / "book/map.md").read_text(encoding="utf-8") == PAGE, (
        "run `python -m tools.claims`"
    )


def test_every_claim_is_in_the_graph_and_in_the_table():
    boxes = re.findall(r'<text class="number"[^>]*>(\w+)</text>', PAGE)
    rows = re.findall(r'<th scope="row"><a href="claims.html#claim-\w+">(\w+)</a>', PAGE)
    assert sorted(boxes) == sorted(rows) == sorted(EXPECTED)


def test_every_line_of_the_ledger_is_drawn():
    assert PAGE.count('<path class="from"') == sum(len(claim.from_) for claim in LEDGER)
    assert PAGE.count('<path class="limits"') == sum(len(claim.limits) for claim in LEDGER)


def test_every_statement_of_the_book_has_its_row():
    rows = re.findall(r"^\| \{prf:ref\}`([\w-]+)`", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(statements(ROOT))


def test_lines_lead_down_and_no_claim_follows_from_itself():
    place = {claim.id: r for r, row in enumerate(layers(LEDGER)) for claim in row}
    assert all(place[above] < place[c.id] for c in LEDGER for above in (*c.from_, *c.limits))
    assert all(name not in above for name, above in ancestors(LEDGER).items())


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        ("C1", {"needs": ("luck",)}, "unknown hypothesis 'luck'"),
        ("C1", {"needs": ("no bias", "free bias")}, "needs no bias and free bias"),
        ("C2", {"from_": ("C99",)}, "there is no claim C99"),
        ("C1", {"from_": ("C2",)}, "C1: follows from itself"),
        ("B10", {"from_": ("B14",)}, "B14: follows from itself"),
        ("B3", {"from_": ("B1", "B2")}, "cites thm-eb-decrease"),
        ("C12", {"from_": ()}, "the proof of thm-rs-large-beta"),
        ("C1", {"short": ""}, "short name"),
    ],
)
def test_an_untrue_map_is_found(name, fields, complaint):
    assert any(complaint in problem for problem in problems(changed(name, **fields), ROOT))


@pytest.mark.parametrize("field", ["title", "short", "needs", "from_"])
def test_the_page_changes_with_every_field(field):
    new = {"title": "another", "short": "another", "needs": ("flow",), "from_": ("C1",)}[field]
    assert render(changed("B10", **{field: new}), ROOT) != PAGE


def test_hypotheses_and_the_form_speak_one_language():
    used = {need for claim in LEDGER for need in claim.needs}
    asked = {
        name for options in SETTINGS.values() for option in options for name in option.excludes
    }
    assert asked <= used == set(HYPOTHESES)


def test_what_holds_in_some_settings():
    everything = left(Loss="any", Bias="any", Class_sizes="any")
    assert everything == set(EXPECTED)
    network = left(Loss="cross-entropy", Bias="free", Class_sizes="unequal")
    assert {"B1", "B2", "B9", "B10", "B14", "B16", "B17"} <= network
    assert not network & {"C9", "B3", "B8", "B13"}
    uncertified = left(Loss="cross-entropy", Bias="free", The_point="only stationary")
    assert "B14" not in uncertified and "B17" in uncertified
    paper = left(Loss="squared", Bias="none", Class_sizes="equal")
    assert {"C1", "C9", "C15", "B3"} <= paper and not paper & {"B8", "B11", "B14"}
    assert not left(Dimension="d < K", Decays="c >= 1") & {"C1", "C15", "B12"}


def test_a_counterexample_lacks_a_hypothesis_of_what_it_limits():
    for claim in LEDGER:
        for name in claim.limits:
            assert set(BY_ID[name].needs) - set(claim.needs), (claim.id, name)
