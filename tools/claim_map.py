"""The map of the book, book/map.md: what follows from what, and what holds in which setting.

It is made from the ledger (`needs`, `from` and `limits` of each claim) and from the chapters (which
statements there are, and what their proofs cite). `python -m tools.claims` writes it.
"""

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

import yaml

from tools.ledger import STATEMENTS, Claim, Statement, ancestors, statements

# What a claim may need, and what the words mean. A claim that does not name one holds without it.
HYPOTHESES = {
    "squared loss": "the loss is the squared one",
    "cross-entropy": "the loss is cross-entropy",
    "convex loss": "the loss is any convex differentiable function of the scores",
    "no bias": "the last layer has no bias",
    "free bias": "the last layer has a bias without decay",
    "balanced": "all classes have the same number of samples",
    "unequal classes": "the classes have different numbers of samples",
    "global minimizer": "the point is a global minimizer",
    "certified": "the point passes the certificate, and so is a global minimizer",
    "nondegenerate": "the Hessian at the minimizer has no zero direction",
    "no pull": "beta = 0: the features are free",
    "small pull": "in the limit of beta to zero",
    "large pull": "in the limit of large beta",
    "flow": "the features follow the gradient flow from the input",
    "shared weights": "a layer with decay moves the features, and not each sample by itself",
    "several levels": "several levels of features, joined by quadratic pulls",
    "near collapse": "the input is a collapsed minimizer, or close to one",
    "c < 1": "the decays are not too strong: c = sqrt(lambda_W lambda_H) < 1",
    "d >= K": "there are at least as many dimensions as classes (cross-entropy: d >= K - 1)",
    "two classes": "there are two classes",
    "trained network": "measured on networks, not proved",
}


class Option(NamedTuple):
    """One answer to a question about the setting, and the hypotheses that it rules out."""

    text: str
    excludes: tuple[str, ...]


# The questions of the form; the first answer rules out the least.
SETTINGS = {
    "Loss": (
        Option("any", ()),
        Option("squared", ("cross-entropy",)),
        Option("cross-entropy", ("squared loss",)),
        Option("another convex one", ("squared loss", "cross-entropy")),
    ),
    "Bias": (
        Option("any", ()),
        Option("none", ("free bias",)),
        Option("free", ("no bias",)),
    ),
    "Class sizes": (
        Option("any", ()),
        Option("equal", ("unequal classes",)),
        Option("unequal", ("balanced",)),
    ),
    "The point": (
        Option("certified", ()),
        Option("global, not certified", ("certified",)),
        Option("only stationary", ("certified", "global minimizer")),
    ),
    "Features move": (Option("by a layer or freely", ()), Option("freely", ("shared weights",))),
    "Input": (Option("close to collapse", ()), Option("anywhere", ("near collapse",))),
    "Decays": (Option("c < 1", ()), Option("c >= 1", ("c < 1",))),
    "Dimension": (Option("d >= K", ()), Option("d < K", ("d >= K",))),
}

WIDTH, HEIGHT = 103, 46  # of a box, in pixels
GAP_X, GAP_Y = 10, 40
MOST = 6  # boxes in a row: as many as the page has room for


def pretty(text: str) -> str:
    """With the signs that print has."""
    return text.replace(">=", "≥")


# ---- the graph ----


def layers(claims: list[Claim]) -> list[list[Claim]]:
    """Rows of the graph: claims stand below those they come from, or limit, and close to them."""
    by_id = {claim.id: claim for claim in claims}
    depth: dict[str, int] = {}

    def deep(name: str) -> int:
        if name not in depth:
            above = (*by_id[name].from_, *by_id[name].limits)
            depth[name] = 1 + max(map(deep, above), default=-1)
        return depth[name]

    full: list[list[Claim]] = [[] for _ in range(max(map(deep, by_id)) + 1)]
    for claim in claims:
        full[depth[claim.id]].append(claim)
    place: dict[str, float] = {}
    rows: list[list[Claim]] = []
    for layer in full:
        layer.sort(key=lambda claim: middle(claim, place))
        parts = -(-len(layer) // MOST)
        rows += [layer[i::parts] for i in range(parts)]
        for row in rows[-parts:]:
            place |= {claim.id: (i + 0.5) / len(row) for i, claim in enumerate(row)}
    return rows


def middle(claim: Claim, place: dict[str, float]) -> float:
    """Where the claims stand that this one comes from or limits, on the average."""
    above = [place[name] for name in (*claim.from_, *claim.limits)]
    return sum(above) / len(above) if above else 0.0


def drawing(claims: list[Claim]) -> str:
    """The graph as SVG in the page's own colors; every box leads to its entry."""
    rows = layers(claims)
    wide = max(map(len, rows)) * (WIDTH + GAP_X) + GAP_X
    tall = len(rows) * (HEIGHT + GAP_Y)
    corner: dict[str, tuple[float, float]] = {}
    for r, row in enumerate(rows):
        left = (wide - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for i, claim in enumerate(row):
            corner[claim.id] = (left + i * (WIDTH + GAP_X), 8 + r * (HEIGHT + GAP_Y))
    edges = [
        (above, claim.id, kind)
        for claim in claims
        for kind, names in (("from", claim.from_), ("limits", claim.limits))
        for above in names
    ]
    lines = [curve(corner, edges, edge) for edge in edges]
    boxes = [box(claim, *corner[claim.id]) for claim in claims]
    return "\n".join(
        [
            f'<svg viewBox="0 0 {wide:g} {tall:g}" width="{wide:g}" height="{tall:g}" role="group"'
            ' aria-label="Graph of the claims: lines lead down from what a proof uses.">',
            *lines,
            *boxes,
            "</svg>",
        ]
    )


def curve(
    corner: dict[str, tuple[float, float]],
    edges: list[tuple[str, str, str]],
    edge: tuple[str, str, str],
) -> str:
    """A line from the bottom of a box to the top of a lower one; lines of one box stand apart."""
    above, below, kind = edge
    down = sorted((e[1] for e in edges if e[0] == above), key=lambda name: corner[name])
    up = sorted((e[0] for e in edges if e[1] == below), key=lambda name: corner[name])
    x0, y0 = corner[above]
    x1, y1 = corner[below]
    x0 += WIDTH * (down.index(below) + 1) / (len(down) + 1)
    x1 += WIDTH * (up.index(above) + 1) / (len(up) + 1)
    y0 += HEIGHT
    bend = GAP_Y * 0.6
    return (
        f'<path class="{kind}" data-ends="{above} {below}" d="M{x0:g} {y0:g}C{x0:g} {y0 + bend:g} '
        f'{x1:g} {y1 - bend:g} {x1:g} {y1:g}"/>'
    )


def box(claim: Claim, x: float, y: float) -> str:
    """A claim as a box with its number and its name in two lines at most."""
    words, texts = claim.short.split(), [""]
    for word in words:
        longer = f"{texts[-1]} {word}".strip()
        if len(longer) <= 17 or not texts[-1]:
            texts[-1] = longer
        else:
            texts.append(word)
    center = x + WIDTH / 2
    rows = "".join(
        f'<text x="{center:g}" y="{y + 27 + 12 * i:g}">{escape(text)}</text>'
        for i, text in enumerate(texts)
    )
    href = f"claims.html#claim-{claim.id.lower()}"
    return (
        f'<a href="{href}" class="part-{claim.id[0].lower()}" data-id="{claim.id}">'
        f"<title>{escape(claim.id)}: {escape(claim.title)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text class="number" x="{center:g}" y="{y + 13:g}">{escape(claim.id)}</text>{rows}</a>'
    )


# ---- what holds for my setting ----


def form() -> str:
    """One question for each part of the setting."""
    fields = []
    for question, options in SETTINGS.items():
        choices = "".join(
            f'<option value="{escape("|".join(option.excludes))}">{escape(pretty(option.text))}'
            "</option>"
            for option in options
        )
        fields.append(f"<label>{escape(question)} <select>{choices}</select></label>")
    return (
        '<form id="setting" autocomplete="off">\n'
        + "\n".join(fields)
        + '\n<button type="reset">All</button>\n</form>\n<p id="holding" role="status"></p>'
    )


def table(claims: list[Claim]) -> str:
    """All claims with what they need, as a table that the form filters."""
    rows = []
    for claim in claims:
        names = [escape(pretty(need)) for need in claim.needs] or ["nothing"]
        uses = ", ".join(link(name) for name in claim.from_)
        rows.append(
            f'<tr data-needs="{escape("|".join(claim.needs))}"><th scope="row">{link(claim.id)}'
            f"</th><td>{escape(claim.title)}</td><td>{', '.join(names)}</td><td>{uses}</td></tr>"
        )
    return "\n".join(
        [
            '<div class="pst-scrollable-table-container" tabindex="0"><table class="table" '
            'id="claims-table">',
            '<thead><tr><th scope="col"></th><th scope="col">Claim</th><th scope="col">Needs</th>'
            '<th scope="col">Uses</th></tr></thead>',
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def link(name: str) -> str:
    """The entry of a claim, from raw HTML."""
    return f'<a href="claims.html#claim-{name.lower()}">{name}</a>'


def holds(claim: Claim, excluded: set[str]) -> bool:
    """Whether a claim needs none of the excluded hypotheses: what the script of the page does."""
    return not excluded & set(claim.needs)


def by_hypothesis(claims: list[Claim]) -> list[str]:
    """The table that needs no script: each hypothesis, and the claims that name it."""
    rows = ["| Hypothesis | Meaning | Needed by |", "|---|---|---|"]
    for name, meaning in HYPOTHESES.items():
        users = [f"{{ref}}`{c.id} <claim-{c.id.lower()}>`" for c in claims if name in c.needs]
        rows.append(f"| {pretty(name)} | {pretty(meaning)} | {', '.join(users)} |")
    return rows


# ---- every statement ----


def all_statements(claims: list[Claim], root: Path) -> list[str]:
    """The statements of each chapter in their order, with their claims and what they cite."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    found = statements(root)
    of_section: dict[str, list[str]] = {}
    for claim in claims:
        for section in claim.sections:
            of_section.setdefault(section.partition("#")[2], []).append(claim.id)
    lines: list[str] = []
    for file in files:
        here = [s for s in found.values() if s.path == f"{file}.ipynb"]
        if not here:
            continue
        doc = file.removeprefix("book/")
        lines += [f"**{{doc}}`{doc}`**", "", "| Statement | Claims | Its proof cites |"]
        lines += ["|---|---|---|", *(statement_row(s, of_section, found) for s in here), ""]
    return lines


def statement_row(
    statement: Statement, of_section: dict[str, list[str]], found: dict[str, Statement]
) -> str:
    """One statement as a row."""
    ids = of_section.get(statement.label, [])
    entries = ", ".join(f"{{ref}}`{i} <claim-{i.lower()}>`" for i in ids)
    cites = ", ".join(f"{{prf:ref}}`{label}`" for label in statement.cites if label in found)
    return f"| {{prf:ref}}`{statement.label}` {statement.title} | {entries} | {cites} |"


def problems(claims: list[Claim], root: Path) -> list[str]:
    """What is untrue in the map, as sentences."""
    found: list[str] = []
    ids = {claim.id for claim in claims}
    for claim in claims:
        found += [
            f"{claim.id}: unknown hypothesis {n!r}" for n in claim.needs if n not in HYPOTHESES
        ]
        others = [*claim.from_, *claim.limits]
        found += [f"{claim.id}: there is no claim {name}" for name in others if name not in ids]
        if not claim.short or len(claim.short) > 32:
            found.append(f"{claim.id}: its short name must have 1 to 32 characters")
        for pair in (("no bias", "free bias"), ("balanced", "unequal classes")):
            if set(pair) <= set(claim.needs):
                found.append(f"{claim.id}: needs {pair[0]} and {pair[1]}")
    if found:
        return found
    above = ancestors(claims)
    found += [f"{name}: follows from itself" for name, names in above.items() if name in names]
    of_label: dict[str, set[str]] = {}
    for claim in claims:
        for section in claim.sections:
            of_label.setdefault(section.partition("#")[2], set()).add(claim.id)
    first = {claim.sections[0].partition("#")[2] for claim in claims if claim.sections}
    for statement in statements(root).values():
        own = of_label.get(statement.label, set())
        for label in statement.cites:
            used = of_label.get(label, set())
            # What a claim begins with uses what stands above it; a later refinement of it may use
            # what follows from it.
            fine = any(
                a == b or b in above[a] or (statement.label not in first and a in above[b])
                for a in own
                for b in used
            )
            if own and used and not fine:
                found.append(
                    f"the proof of {statement.label} ({', '.join(sorted(own))}) cites {label} "
                    f"({', '.join(sorted(used))}), but the ledger does not say so"
                )
    return found


def render(claims: list[Claim], root: Path) -> str:
    """The whole page."""
    kinds = sorted({statement.kind for statement in statements(root).values()})
    assert set(kinds) <= set(STATEMENTS.values())
    text = "\n".join(
        [
            INTRODUCTION,
            "```{raw} html",
            STYLE,
            '<div class="claim-map" tabindex="0">',
            drawing(claims),
            "</div>",
            "```",
            "",
            LEGEND,
            "```{raw} html",
            form(),
            table(claims),
            SCRIPT,
            "```",
            "",
            BY_HYPOTHESIS,
            *by_hypothesis(claims),
            "",
            EVERY_STATEMENT,
            *all_statements(claims, root),
        ]
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


INTRODUCTION = """\
<!-- Written by tools/claims.py from book/claims.yml and the chapters. Edit those. -->

# The map

What the book proves, and under which hypotheses. It is drawn from the ledger ({doc}`claims`):
each claim names there what its proof assumes and which claims it uses, and a test compares this
with what the proofs cite. A hypothesis stands here if the proof in the book assumes it. That a
claim is false without it is said only where there is a counterexample.

## What follows from what

Lines lead down from a claim to those whose proofs use it. Dashed lines lead to counterexamples,
which show that a hypothesis of the claim above cannot be dropped. A line may pass
behind a box; pointing at a box brings out its own. Each box leads to its entry in the ledger.
"""

LEGEND = """\
C: claims of the paper. E: its experiments. B: what this book adds.

## What holds for my setting?

Answer what you know. The table keeps the claims that need nothing else; without scripts it shows
all of them.
"""

BY_HYPOTHESIS = """\
## By hypothesis
"""

EVERY_STATEMENT = """\
## Every statement

All theorems, propositions, corollaries and lemmas in the order of the book, the claims that they
prove, and the statements that their proofs cite.
"""

STYLE = """\
<style>
.claim-map { overflow-x: auto; }
.claim-map svg { display: block; margin: 0 auto; color: var(--pst-color-text-base); }
.claim-map path { fill: none; stroke: currentColor; stroke-width: 1.2; opacity: .45; }
.claim-map path.limits { stroke-dasharray: 4 4; stroke: #d55e00; opacity: 1; }
.claim-map text { fill: var(--pst-color-text-base); font-size: 10.5px; text-anchor: middle; }
.claim-map text.number { font-weight: 700; font-size: 12px; }
.claim-map path.of { opacity: 1; stroke-width: 2.4; }
.claim-map rect { fill: var(--pst-color-background); fill-opacity: .85; stroke-width: 2; }
.claim-map .part-c rect { stroke: #0072b2; }
.claim-map .part-b rect { stroke: #d55e00; }
.claim-map .part-e rect { stroke: #009e73; }
.claim-map a:hover rect, .claim-map a:focus rect { fill: var(--pst-color-surface); }
#setting { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end; }
#setting label { display: grid; font-size: .9rem; }
#setting select, #setting button { font: inherit; padding: .2rem .4rem; min-height: 2rem;
  color: var(--pst-color-text-base); background: var(--pst-color-background);
  border: 1px solid var(--pst-color-border); border-radius: 4px; }
#holding { margin: .8rem 0 .2rem; min-height: 1.5em; }
@media (max-width: 600px) { #claims-table { font-size: .85rem; }
  #claims-table th, #claims-table td { padding: .3rem; } }
</style>"""

SCRIPT = """\
<script>
(() => {
  for (const box of document.querySelectorAll(".claim-map a")) {
    const lines = [...document.querySelectorAll(".claim-map path")].filter(
      (line) => line.dataset.ends.split(" ").includes(box.dataset.id));
    const show = (on) => lines.forEach((line) => line.classList.toggle("of", on));
    for (const name of ["mouseenter", "focus"]) box.addEventListener(name, () => show(true));
    for (const name of ["mouseleave", "blur"]) box.addEventListener(name, () => show(false));
  }
  const form = document.getElementById("setting"), rows = [...document.querySelectorAll(
    "#claims-table tbody tr")], holding = document.getElementById("holding");
  const list = (text) => text.split("|").filter(Boolean);
  const filter = () => {
    const excluded = new Set([...form.querySelectorAll("select")].flatMap((s) => list(s.value)));
    for (const row of rows) row.hidden = list(row.dataset.needs).some((n) => excluded.has(n));
    const left = rows.filter((row) => !row.hidden).length;
    holding.textContent = `${left} of ${rows.length} claims are left.`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  filter();
})();
</script>"""
