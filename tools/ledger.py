"""The ledger of claims, book/claims.yml, and what could be untrue in it.

A section is ``NOTEBOOK#LABEL``. A check is ``NOTEBOOK#TAG``, a tagged cell, or ``FILE::TEST``; a
tag reads ``check-C1``, or ``check-C1-word`` where a claim has several.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin

EXPERIMENTS = [f"E{i}" for i in range(1, 4)]
BEYOND = [f"B{i}" for i in range(1, 37)]  # what this book adds where the paper leaves off
EXPECTED = [f"C{i}" for i in range(1, 17)] + EXPERIMENTS + BEYOND
STATUSES = {
    "derived": "proved in this book and checked numerically",
    "checked": "checked numerically, or measured where it is an experiment",
    "not yet": "not yet in this book",
}
AS_THE_PAPER_SAYS = ("Holds as stated", "Reproduced")
VERDICTS = (
    *AS_THE_PAPER_SAYS,
    "Sharpened",
    "Needs an extra assumption",
    "Corrected",
    "Not reproduced",
    "Undetermined",
)
ADDED = "Added"  # begins the outcome of an entry beyond the paper, and of no other
STATEMENTS = {
    "thm": "prf:theorem",
    "prop": "prf:proposition",
    "cor": "prf:corollary",
    "lem": "prf:lemma",
}
SHORTEST_PROOF = 80  # characters; anything shorter is a stub


@dataclass(frozen=True)
class Claim:
    """One claim of the paper or beyond it: what it says, where it is treated, what came out."""

    id: str
    title: str
    where: str
    statement: str
    status: str
    sections: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    outcome: str = ""
    care: str = ""
    short: str = ""
    needs: tuple[str, ...] = ()
    from_: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


def load(path: Path) -> list[Claim]:
    """Read the ledger; an unknown or missing field is a TypeError."""
    entries: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for entry in entries:
        if "from" in entry:
            entry["from_"] = entry.pop("from")
        entry.update({k: tuple(v) for k, v in entry.items() if isinstance(v, list)})
    return [Claim(**entry) for entry in entries]


# ---- what the book holds ----


class Block(NamedTuple):
    """A directive: what it is, its label if it has one, and its text without the options."""

    kind: str
    label: str
    body: str
    title: str = ""


# The syntax of MyST that the ledger looks for: directives, formulas with a label, targets.
MYST = (
    MarkdownIt("commonmark").use(colon_fence_plugin).use(dollarmath_plugin).use(myst_block_plugin)
)


@lru_cache(maxsize=1024)
def parse(text: str) -> list[Token]:
    """The tokens of a MyST text, found once for each text."""
    return MYST.parse(text)


def blocks(text: str) -> list[Block]:
    """The directives of a MyST text, in order; what stands inside one belongs to its body."""
    return [block for token in parse(text) if (block := directive(token))]


def directive(token: Token) -> Block | None:
    """The directive that a token stands for, if it is one."""
    name = token.info.split("}")[0]
    if token.type not in ("fence", "colon_fence") or not name.startswith("{"):
        return None
    lines = token.content.strip().splitlines()
    label = ""
    while lines and lines[0].lstrip().startswith(":"):
        option, _, value = lines.pop(0).lstrip()[1:].partition(":")
        label = value.strip() if option == "label" else label
    title = token.info.partition("}")[2].strip()
    return Block(name[1:], label, "\n".join(lines).strip(), title)


def labels(text: str) -> Iterator[str]:
    """All labels that a MyST text defines, also inside its directives."""
    for token in parse(text):
        if token.type == "myst_target":
            yield token.content
        elif token.type == "math_block_label":
            yield token.info
        elif block := directive(token):
            yield from filter(None, [block.label])
            yield from labels(block.body)


def cells(notebook: Path, kind: str) -> list[dict]:
    """The notebook's cells of one kind."""
    return [
        cell for cell in content(notebook, notebook.stat().st_mtime_ns) if cell["cell_type"] == kind
    ]


@lru_cache(maxsize=64)
def content(notebook: Path, changed: int) -> list[dict]:
    """All cells, read once for each time that the file has changed: notebooks are large."""
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def tags(cell: dict) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def asserts(code: ast.AST) -> bool:
    """Whether code asserts something that could fail: a name or a call, not a constant."""
    for node in ast.walk(code):
        if isinstance(node, ast.Assert):
            if any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(node.test)):
                return True
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func).split(".")[-1]
            if function.startswith("assert"):
                return True
    return False


def find_test(tree: ast.AST, names: list[str]) -> ast.AST | None:
    """The function (or the method of a class) that a test's name stands for."""
    found: ast.AST | None = tree
    for name in names:
        inside: list[ast.AST] = getattr(found, "body", [])
        found = next((node for node in inside if getattr(node, "name", None) == name), None)
    return found


class Statement(NamedTuple):
    """A theorem, proposition, corollary or lemma: where it is, and what its proof cites."""

    path: str
    kind: str
    label: str
    title: str
    cites: tuple[str, ...]


def statements(root: Path) -> dict[str, Statement]:
    """All statements by their labels; a proof belongs to the one that it follows or names."""
    found: dict[str, Statement] = {}
    for notebook in sorted((root / "book").rglob("*.ipynb")):
        path = notebook.relative_to(root).as_posix()
        last = ""
        for cell in cells(notebook, "markdown"):
            for block in blocks("".join(cell["source"])):
                if block.kind in STATEMENTS.values():
                    last = block.label
                    found[last] = Statement(path, block.kind, last, block.title, ())
                elif block.kind == "prf:proof" and last:
                    cites = re.findall(r"\{prf:ref\}`(?:[^`<]*<)?([\w-]+)>?`", block.body)
                    named = re.match(r"of \{prf:ref\}`([\w-]+)`", block.body)
                    owner = named.group(1) if named and named.group(1) in found else last
                    others = (*found[owner].cites, *(c for c in cites if c != owner))
                    found[owner] = found[owner]._replace(cites=tuple(dict.fromkeys(others)))
    return found


def ancestors(claims: list[Claim]) -> dict[str, set[str]]:
    """For each claim all that it follows from, over any number of steps."""
    above = {claim.id: set(claim.from_) for claim in claims}
    for _ in claims:
        for names in above.values():
            names |= {further for name in names for further in above.get(name, ())}
    return above


# ---- what is untrue in the ledger ----


def is_statement(section: str) -> bool:
    """Whether a section is a theorem, a proposition, a corollary or a lemma."""
    return section.partition("#")[2].split("-")[0] in STATEMENTS


def section_problem(section: str, root: Path) -> str | None:
    """What is wrong with ``NOTEBOOK#LABEL``: no such label, or a statement without a proof."""
    path, _, label = section.partition("#")
    if not (root / path).is_file():
        return f"there is no notebook {path}"
    text = "\n\n".join("".join(cell["source"]) for cell in cells(root / path, "markdown"))
    formal = [b for b in blocks(text) if b.kind in {"prf:proof", *STATEMENTS.values()}]
    place = next((i for i, block in enumerate(formal) if block.label == label), None)
    if place is None:
        return None if label in labels(text) else f"{path} has no label {label}"
    proofs = [b for b in formal if b.kind == "prf:proof" and f"`{label}`" in b.body[:200]]
    proofs += [b for b in formal[place + 1 : place + 2] if b.kind == "prf:proof"]
    if not any(len(b.body) >= SHORTEST_PROOF for b in proofs):
        return (
            f"{label} in {path} has no proof: none follows it and none names it in its first words"
        )
    return None


def test_problem(path: Path, names: list[str]) -> str | None:
    """What is wrong with a check that is a test."""
    test = find_test(ast.parse(path.read_text(encoding="utf-8")), names)
    if test is None:
        return f"{path.name} has no test {'::'.join(names)}"
    return None if asserts(test) else f"the test {names[-1]} asserts nothing that could fail"


def cell_problem(path: Path, tag: str) -> str | None:
    """What is wrong with a check that is a tagged cell."""
    tagged = [cell for cell in cells(path, "code") if tag in tags(cell)]
    if not tagged:
        return f"{path.name} has no code cell tagged {tag}"
    for cell in tagged:
        source = re.sub(r"^\s*[%!].*$", "", "".join(cell["source"]), flags=re.M)
        if not asserts(ast.parse(source)):
            return f"the cell {tag} of {path.name} asserts nothing that could fail"
        if not cell["execution_count"]:
            return f"the cell {tag} of {path.name} has not been executed"
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"the cell {tag} of {path.name} ended in an error"
    return None


def check_problem(check: str, claim: Claim, root: Path) -> str | None:
    """What is wrong with a check of a claim."""
    path, *names = check.split("::") if "::" in check else check.split("#")
    if not (root / path).is_file():
        return f"there is no file {path}"
    if "::" in check:
        return test_problem(root / path, names)
    if not re.fullmatch(rf"check-{claim.id}(-[\w-]+)?", names[0]):
        return f"the tag {names[0]} does not name {claim.id}"
    return cell_problem(root / path, names[0])


def claim_problems(claim: Claim, root: Path) -> list[str]:
    """What is untrue in one entry, as sentences."""
    if claim.status not in STATUSES:
        return [f"unknown status {claim.status!r}"]
    empty = [name for name in ("title", "where", "statement") if not getattr(claim, name).strip()]
    found: list[str | None] = [f"its {name} is empty" for name in empty]
    if claim.status == "not yet":
        filled = [name for name in ("sections", "checks", "outcome") if getattr(claim, name)]
        found += [f"it is not yet in the book but has {name}" for name in filled]
        return [problem for problem in found if problem]
    allowed = (ADDED,) if claim.id in BEYOND else VERDICTS
    if not claim.outcome.startswith(allowed):
        found.append(f"its outcome must begin with one of: {', '.join(allowed)}")
    if not claim.checks:
        found.append("it has no check")
    if claim.status == "derived" and claim.id in EXPERIMENTS:
        found.append("an experiment is checked, not derived")
    elif claim.status == "derived" and not any(is_statement(section) for section in claim.sections):
        found.append("it is called derived but names no theorem, proposition, corollary or lemma")
    found += [section_problem(section, root) for section in claim.sections]
    found += [check_problem(check, claim, root) for check in claim.checks]
    return [problem for problem in found if problem]


def problems(claims: list[Claim], root: Path) -> list[str]:
    """What is untrue in the ledger, as sentences; an empty list when nothing is."""
    count = Counter(claim.id for claim in claims)
    found = [f"{i}: must appear once, appears {count[i]} times" for i in EXPECTED if count[i] != 1]
    found += [f"{i}: there is no such entry" for i in count if i not in EXPECTED]
    found += [
        f"{claim.id}: {problem}" for claim in claims for problem in claim_problems(claim, root)
    ]
    listed = {check for claim in claims for check in claim.checks}
    for notebook in sorted((root / "book").rglob("*.ipynb")):
        path = notebook.relative_to(root).as_posix()
        used = {tag for cell in cells(notebook, "code") for tag in tags(cell)}
        unlisted = [
            t for t in sorted(used) if re.match(r"check-[BCE]\d", t) and f"{path}#{t}" not in listed
        ]
        found += [f"{path} has a cell tagged {tag}, which no claim lists" for tag in unlisted]
    return found
