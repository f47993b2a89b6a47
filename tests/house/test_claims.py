"""The ledger of claims says what the book holds, and the check that says so can fail."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.claims import ROOT, main, render, render_new
from tools.ledger import EXPECTED, Claim, claim_problems, load, problems

LEDGER = load(ROOT / "book/claims.yml")
BLANK = Claim("C1", "A title", "Theorem 1", "A statement.", "not yet")
NOTEBOOK = "book/part/chapter.ipynb"
PROOF = "Both sides are sums over the classes, and each term of the one is a term of the other."
THEOREM = ":::{prf:theorem} Title\n:label: thm-one\n\nA statement.\n:::"
PROVED = ":::{prf:proof}\n" + PROOF + "\n:::"
CLAIM = replace(
    BLANK,
    status="derived",
    sections=(f"{NOTEBOOK}#thm-one", f"{NOTEBOOK}#eq-one", f"{NOTEBOOK}#sec-one"),
    checks=(
        f"{NOTEBOOK}#check-C1",
        "tests/test_one.py::test_one",
        "tests/test_one.py::TestTwo::test_two",
    ),
    outcome="Holds as stated.",
)
CELL = {
    "cell_type": "code",
    "metadata": {"tags": ["check-C1"]},
    "source": ["%matplotlib inline\n", "assert residual < 1e-12"],
    "execution_count": 3,
    "outputs": [],
}
TESTS = """
def test_one():
    assert f() == 1

class TestTwo:
    def test_two(self):
        assert_close(a, b)
"""


def book(
    root: Path, claim: Claim = CLAIM, text: str = THEOREM + "\n\n" + PROVED, code: dict = CELL
):
    """What the check finds in a small book: one chapter, one claim, the others not yet in it."""
    prose = {
        "cell_type": "markdown",
        "metadata": {},
        "source": [text + "\n\n(sec-one)=\n$$a=b$$ (eq-one)\n"],
    }
    (root / NOTEBOOK).parent.mkdir(parents=True)
    (root / NOTEBOOK).write_text(json.dumps({"cells": [prose, code]}))
    (root / "tests").mkdir()
    (root / "tests/test_one.py").write_text(TESTS)
    return problems([claim, *(replace(BLANK, id=i) for i in EXPECTED if i != claim.id)], root)


def cell(**changes) -> dict:
    return {**copy.deepcopy(CELL), **changes}


def test_the_ledger_is_true():
    assert problems(LEDGER, ROOT) == []


def test_the_page_is_what_the_ledger_says():
    page = (ROOT / "book/claims.md").read_text(encoding="utf-8")
    assert page == render(LEDGER), "run `python -m tools.claims`"
    assert main(["--check"]) == 0


def test_the_page_of_what_is_new_names_every_theorem_and_its_verdict():
    page = (ROOT / "book/new.md").read_text(encoding="utf-8")
    assert page == render_new(LEDGER), "run `python -m tools.claims`"
    rows = [line for line in page.splitlines() if line.startswith("| {ref}`")]
    assert len(rows) == len([c for c in LEDGER if c.outcome and not c.id.startswith("E")])
    changed = [replace(LEDGER[0], outcome="Corrected: it is otherwise."), *LEDGER[1:]]
    assert "**Corrected**: it is otherwise |" in render_new(changed)


def test_the_page_changes_with_every_field():
    for field in ("title", "where", "statement", "status", "outcome", "care"):
        changed = [replace(LEDGER[0], **{field: "something else"}), *LEDGER[1:]]
        assert render(changed) != render(LEDGER), field


def test_a_true_ledger_passes(tmp_path):
    assert book(tmp_path) == []


def test_an_entry_beyond_the_paper_has_its_own_verdict_and_section(tmp_path):
    names = {"sections": (f"{NOTEBOOK}#thm-one",), "checks": (f"{NOTEBOOK}#check-B1",)}
    claim = replace(CLAIM, id="B1", outcome="Added: so it is.", **names)
    assert book(tmp_path, claim=claim, code=cell(metadata={"tags": ["check-B1"]})) == []
    page = render([claim])
    assert page.index("## Beyond the paper") < page.index("### B1.")
    assert "corrects it" not in page


def test_a_proof_further_on_counts_when_it_names_its_statement(tmp_path):
    lemma = ":::{prf:lemma}\n:label: lem-one\n\nA fact.\n:::"
    named = ":::{prf:proof}\nof {prf:ref}`thm-one`. " + PROOF + "\n:::"
    assert book(tmp_path, text=f"{THEOREM}\n\n{lemma}\n\n{named}") == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sections": (f"{NOTEBOOK}#thm-two",)}, "no label thm-two"),
        ({"sections": ("book/part/other.ipynb#thm-one",)}, "no notebook"),
        ({"sections": (f"{NOTEBOOK}#eq-one",)}, "names no theorem"),
        ({"sections": ()}, "names no theorem"),
        ({"checks": ()}, "no check"),
        ({"checks": (f"{NOTEBOOK}#check-C1-more",)}, "no code cell tagged check-C1-more"),
        ({"checks": (f"{NOTEBOOK}#check-C2",)}, "does not name C1"),
        ({"checks": ("tests/test_two.py::test_one",)}, "no file tests/test_two.py"),
        ({"checks": ("tests/test_one.py::test_two",)}, "no test test_two"),
        ({"checks": ("tests/test_one.py::TestTwo::test_one",)}, "no test TestTwo::test_one"),
        ({"outcome": "Fine."}, "outcome must begin"),
        ({"statement": " "}, "its statement is empty"),
        ({"status": "done"}, "unknown status"),
        ({"status": "not yet"}, "not yet in the book but has sections"),
        ({"id": "E1"}, "an experiment is checked"),
        ({"id": "C17"}, "no such entry"),
        ({"id": "B1"}, "outcome must begin with one of: Added"),
        ({"outcome": "Added."}, "outcome must begin with one of: Holds as stated"),
    ],
)
def test_an_untrue_entry_is_found(tmp_path, change, complaint):
    assert any(complaint in problem for problem in book(tmp_path, claim=replace(CLAIM, **change)))


@pytest.mark.parametrize(
    "text",
    [
        THEOREM,
        f"{PROVED}\n\n{THEOREM}",
        f"{THEOREM}\n\n:::{{prf:proof}}\nClear.\n:::",
        f"{THEOREM}\n\n:::{{prf:lemma}}\n:label: lem-one\n\nA fact.\n:::\n\n{PROVED}",
    ],
    ids=["none", "before", "stub", "of another statement"],
)
def test_a_missing_proof_is_found(tmp_path, text):
    assert any(
        f"thm-one in {NOTEBOOK} has no proof" in problem for problem in book(tmp_path, text=text)
    )


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (cell(execution_count=None), "has not been executed"),
        (cell(source=["residual < 1e-12  # assert"]), "asserts nothing"),
        (cell(source=["assert True"]), "asserts nothing"),
        (cell(source=["print('assert')"]), "asserts nothing"),
        (cell(outputs=[{"output_type": "error"}]), "ended in an error"),
        (cell(cell_type="markdown"), "no code cell tagged check-C1"),
        (cell(metadata={}), "no code cell tagged check-C1"),
        (
            cell(metadata={"tags": ["check-C1", "check-C5"]}),
            "tagged check-C5, which no claim lists",
        ),
    ],
)
def test_an_untrue_cell_is_found(tmp_path, code, complaint):
    assert any(complaint in problem for problem in book(tmp_path, code=code))


@pytest.mark.parametrize("body", ["pass", "assert 1", "x = 'assert'"])
def test_a_test_that_cannot_fail_is_found(tmp_path, body):
    book(tmp_path)
    (tmp_path / "tests/test_one.py").write_text(TESTS.replace("assert f() == 1", body))
    claims = [CLAIM, *(replace(BLANK, id=i) for i in EXPECTED[1:])]
    assert any(
        "the test test_one asserts nothing" in problem for problem in problems(claims, tmp_path)
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_every_entry_of_the_real_ledger_is_needed_once(name):
    without = [claim for claim in LEDGER if claim.id != name]
    twice = [*LEDGER, next(claim for claim in LEDGER if claim.id == name)]
    assert any(f"{name}: must appear once" in problem for problem in problems(without, ROOT))
    assert any(f"{name}: must appear once" in problem for problem in problems(twice, ROOT))


@pytest.mark.parametrize("claim", [c for c in LEDGER if c.status != "not yet"], ids=lambda c: c.id)
def test_every_reference_of_the_real_ledger_is_looked_up(claim):
    for field in ("sections", "checks"):
        for item in getattr(claim, field):
            broken = tuple(x + "-gone" if x == item else x for x in getattr(claim, field))
            assert claim_problems(replace(claim, **{field: broken}), ROOT), (
                f"nobody noticed that {item} is gone"
            )


def test_a_field_that_nobody_reads_is_refused(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text("- {id: C1, title: a, where: b, statement: c, status: not yet, section: [d]}\n")
    with pytest.raises(TypeError, match="section"):
        load(path)
