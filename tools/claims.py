"""The pages of claims: writes claims.md, new.md and map.md in book/, and checks the ledger.

    python -m tools.claims            write the pages
    python -m tools.claims --check    write nothing

Either way it fails where the ledger book/claims.yml is not true, or a page not what it says.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from tools import claim_map
from tools.ledger import (
    ADDED,
    AS_THE_PAPER_SAYS,
    BEYOND,
    EXPERIMENTS,
    STATUSES,
    Claim,
    is_statement,
    load,
    problems,
)

ROOT = Path(__file__).resolve().parents[1]


def section_link(section: str) -> str:
    """The reference to a theorem, an equation or a section."""
    label = section.partition("#")[2]
    if is_statement(section) or label.startswith(("def-", "rem-")):
        return f"{{prf:ref}}`{label}`"
    return f"{{eq}}`{label}`" if label.startswith("eq-") else f"{{ref}}`{label}`"


def check_links(checks: tuple[str, ...]) -> str:
    """Cells and tests, grouped by file; a test's name is a sentence, and may wrap like one."""
    by_file: dict[str, list[str]] = {}
    for check in checks:
        if "::" in check:
            path, *_, test = check.split("::")
            name = f"*{test.removeprefix('test_').replace('_', ' ')}*"
        else:
            path, _, tag = check.partition("#")
            name = f"`{tag}`"
        by_file.setdefault(path, []).append(name)
    return "; ".join(f"{', '.join(names)} in {place(path)}" for path, names in by_file.items())


def place(path: str) -> str:
    """A chapter as a link, a file of tests by its name."""
    if path.endswith(".ipynb"):
        return f"{{doc}}`{path.removeprefix('book/').removesuffix('.ipynb')}`"
    return f"`{path}`"


def claim_link(claim: Claim) -> str:
    """The reference to a claim's entry."""
    return f"{{ref}}`{claim.id} <claim-{claim.id.lower()}>`"


def entry(claim: Claim) -> str:
    """One claim as a block of Markdown."""
    items = {
        "Status": claim.status,
        "Outcome": claim.outcome,
        "Take care": claim.care,
        "Read": ", ".join(map(section_link, claim.sections)),
        "Checked by": check_links(claim.checks),
    }
    listed = "\n".join(f"- **{name}:** {text}" for name, text in items.items() if text)
    heading = f"(claim-{claim.id.lower()})=\n### {claim.id}. {claim.title}"
    return f"{heading}\n\n*{claim.where}.* {claim.statement}\n\n{listed}\n"


def render(claims: list[Claim]) -> str:
    """The whole page."""
    count = Counter(claim.status for claim in claims)
    meanings = [
        f"- **{status}** ({count[status]}): {meaning}." for status, meaning in STATUSES.items()
    ]
    rows = [f"| {claim_link(claim)} | {claim.title} | {claim.status} |" for claim in claims]
    as_expected = (*AS_THE_PAPER_SAYS, ADDED)
    departures = [c for c in claims if c.outcome and not c.outcome.startswith(as_expected)]
    parts = [INTRODUCTION, *meanings, "", "| | Claim | Status |\n|---|---|---|", *rows, ""]
    if departures:
        parts += ["## Where the book adds to the paper or corrects it\n"]
        parts += [*(f"- {claim_link(claim)}: {claim.outcome}" for claim in departures), ""]
    others = {*EXPERIMENTS, *BEYOND}
    parts += ["## The claims\n", *(entry(claim) for claim in claims if claim.id not in others)]
    for heading, ids in {"The experiments": EXPERIMENTS, "Beyond the paper": BEYOND}.items():
        parts += [f"## {heading}\n", *(entry(claim) for claim in claims if claim.id in ids)]
    return "\n".join(parts).rstrip() + "\n"


def new_row(claim: Claim) -> str:
    """A row of the table of what is new: the claim, the first proof of it here, the verdict."""
    proofs = [section_link(section) for section in claim.sections if is_statement(section)]
    verdict, _, rest = claim.outcome.partition(":")
    text = rest.strip().rstrip(".")
    text = f"**{verdict.rstrip('.')}**" + (f": {text}" if text else "")
    return f"| {claim_link(claim)} | {claim.title} | {proofs[0] if proofs else ''} | {text} |"


def render_new(claims: list[Claim]) -> str:
    """The page that says what is new here, theorem by theorem."""
    head = "| | Claim | Proved in | Verdict |\n|---|---|---|---|"
    by_place: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.id not in {*EXPERIMENTS, *BEYOND}:
            by_place.setdefault(claim.where, []).append(claim)
    parts = [NEW]
    for where, group in by_place.items():
        parts += [f"### {where}\n", head, *map(new_row, group), ""]
    parts += ["## Beyond the paper\n", head]
    parts += [new_row(claim) for claim in claims if claim.id in BEYOND and claim.outcome]
    return "\n".join(parts).rstrip() + "\n"


NEW = """\
<!-- Written by tools/claims.py from book/claims.yml. Edit that file, not this one. -->

# How to read this book, and what is new here

## Where to begin

You need linear algebra up to the singular value decomposition, gradients and Hessians, and some
Python with NumPy. The {doc}`glossary` has the other words, {doc}`notation` the letters. Many
chapters use the same {term}`one-number example`, small enough for paper.

- **A student** reads Part I in order, then {doc}`perturbation/large_beta`,
  {doc}`perturbation/central_path` and {doc}`perturbation/every_beta`, and does the exercises marked
  *by hand, easy*.
- **An expert** reads the tables below, follows their links, and then
  {doc}`perturbation/response`, {doc}`perturbation/spectrum` and {doc}`perturbation/second_order`.
- **A practitioner** reads {doc}`foundations/metrics`, {doc}`foundations/pitfalls`,
  {doc}`perturbation/knobs` and Part IV, which measures trained networks.

The chapters of Part II stand on {doc}`foundations/perturbed`. Of {doc}`foundations/unconstrained`
they need {prf:ref}`thm-ufm-collapse` only, of {doc}`foundations/solving`
{prf:ref}`prop-perturbed-derivatives`. {doc}`perturbation/second_order` and
{doc}`perturbation/knobs` need {doc}`perturbation/spectrum`.

## What is new, theorem by theorem

Every theorem of {cite:t}`tirer2023perturbation`, and what became of it here. The full statements,
checks and warnings are in {doc}`claims`.
"""


INTRODUCTION = """\
<!-- Written by tools/claims.py from book/claims.yml. Edit that file, not this one. -->

# The ledger of claims

Every claim and experiment of {cite:t}`tirer2023perturbation` has an entry here: what it says, in
our words, where this book derives it, which cell or test checks it, and what came out. A test
compares this page with the book: each label, proof, cell and test named here exists, and each cell
has been run. Cells are named by the tags that JupyterLab shows in its property inspector, tests by
the names of their functions. What the book adds where the paper leaves off has entries of its own,
B1 and on.
"""


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; gives the exit status."""
    parser = argparse.ArgumentParser(description="Write the pages of claims, or check the ledger.")
    parser.add_argument(
        "--check", action="store_true", help="fail on a stale page or an untrue entry"
    )
    check_only = parser.parse_args(argv).check
    claims = load(ROOT / "book/claims.yml")
    pages = {
        "book/claims.md": render(claims),
        "book/new.md": render_new(claims),
        "book/map.md": claim_map.render(claims, ROOT),
    }
    if not check_only:
        for name, text in pages.items():
            (ROOT / name).write_text(text, encoding="utf-8")
    found = problems(claims, ROOT) + claim_map.problems(claims, ROOT)
    found += [
        f"{name} is not what book/claims.yml says: run `python -m tools.claims`"
        for name, text in pages.items()
        if (ROOT / name).read_text(encoding="utf-8") != text
    ]
    print("\n".join(found) or f"the ledger holds: {len(claims)} entries")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
