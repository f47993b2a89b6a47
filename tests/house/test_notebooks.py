"""The notebooks are as they are shown and tested, and a reader on a phone can use them."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from tools import notebooks
from tools.figures import is_figure

ROOT = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
NOTEBOOKS = notebooks.notebooks()
NAMES = [str(path.relative_to(ROOT)) for path in NOTEBOOKS]
NUMBERED = [
    entry["file"] for part in TOC["parts"] if "numbered" in part for entry in part["chapters"]
]
CHAPTERS = [ROOT / f"{file}.ipynb" for file in NUMBERED]
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
EXEMPT_TAGS = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception", "raises-exception"}
EXEMPT_COMMENT = re.compile(
    r"^\s*#\s*(NBVAL_(IGNORE|SKIP|RAISES)|PYTEST_VALIDATE_IGNORE)", re.MULTILINE
)
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|usr|var|opt|mnt|Users|private)/|\b[A-Z]:\\"
)
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WIDTH = tomllib.loads((ROOT / "book/ruff.toml").read_text(encoding="utf-8"))["line-length"]
LINE = 83  # characters of output text, as of code: longer lines scroll on a desktop page
MARK = re.compile(r"\S \(by (hand|computer|hand and by computer), (easy|medium|hard)\)$")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def code(path):
    return [cell for cell in notebooks.load(path).cells if cell.cell_type == "code"]


def first_line(cell):
    return cell.source.strip().split("\n")[0]


def texts(output):
    """The text of an output as the page shows it: a stream, or text that has no better form."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return data.get("text/plain", "") if set(data) == {"text/plain"} else ""


def drawings(cell):
    """The figures among the outputs: pictures and drawings, and HTML that carries one."""
    data = [output.get("data", {}) for output in cell.outputs]
    pictures = [d for d in data if any(mime.startswith("image/") for mime in d)]
    inline = [d["text/html"] for d in data if is_figure("text/html", d.get("text/html"))]
    return pictures, inline


def test_the_book_has_its_chapters():
    assert len(CHAPTERS) >= 3
    assert [path for path in CHAPTERS if not path.exists()] == []


def test_contents_and_files_agree():
    listed = {TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])}
    pages = {p for p in (ROOT / "book").rglob("*.md") if p.parent.name != "results"}
    there = {p.relative_to(ROOT).with_suffix("").as_posix() for p in [*NOTEBOOKS, *pages]}
    assert listed == there


@every_notebook
def test_is_executed_and_in_normal_form(path):
    assert notebooks.problems(notebooks.load(path)) == []


def test_cells_exempt_from_comparison_are_rare():
    cells = [cell for path in NOTEBOOKS for cell in code(path)]
    exempt = [
        first_line(c)
        for c in cells
        if EXEMPT_TAGS & set(c.metadata.get("tags", [])) or EXEMPT_COMMENT.search(c.source)
    ]
    assert 20 * len(exempt) <= len(cells), exempt


@every_notebook
def test_every_figure_has_caption_name_and_description(path):
    lacking = []
    for cell in code(path):
        pictures, inline = drawings(cell)
        book = cell.metadata.get("mystnb", {})
        figure, image = book.get("figure", {}), book.get("image", {})
        named = figure.get("name", "").startswith("fig-") and figure.get("caption", "").strip()
        if (pictures or inline) and not named:
            lacking.append(f"caption and name: {first_line(cell)}")
        if pictures and len(image.get("alt", "")) < 15:
            lacking.append(f"alternative text: {first_line(cell)}")
        if inline and not all(
            re.search(r"aria-label=[\"'][^\"']{15,}|<title>.{15,}</title>", html) for html in inline
        ):
            lacking.append(f"a label in the HTML: {first_line(cell)}")
    assert lacking == []


@every_notebook
def test_long_code_is_folded(path):
    shown = [cell for cell in code(path) if not FOLDED & set(cell.metadata.get("tags", []))]
    long = [cell for cell in shown if len(cell.source.splitlines()) > most_lines(cell)]
    assert [first_line(cell) for cell in long] == []


def most_lines(cell):
    """A shown cell holds one fact in 15 lines at most; what is imported may take 20."""
    return 20 if first_line(cell).startswith(("import ", "from ")) else 15


@every_notebook
def test_code_fits_the_page(path):
    """Code cells, and code in solutions, are no wider than the box that shows them."""
    texts = [cell.source for cell in code(path)]
    for cell in notebooks.load(path).cells:
        if cell.cell_type == "markdown":
            texts += SNIPPET.findall(cell.source)
    assert [line for text in texts for line in text.splitlines() if len(line) > WIDTH] == []


@every_notebook
def test_no_path_of_one_computer(path):
    for cell in notebooks.load(path).cells:
        shown = [
            cell.source,
            *(str(output) for output in cell.get("outputs", []) if "image/png" not in str(output)),
        ]
        assert [match for text in shown for match in ABSOLUTE.findall(text)] == [], cell.source


@every_notebook
def test_output_lines_fit(path):
    long = [
        line
        for c in code(path)
        for o in c.outputs
        for line in texts(o).splitlines()
        if len(line) > LINE
    ]
    assert long == []


@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_exercises_have_folded_solutions(path):
    prose = "\n".join(
        cell.source for cell in notebooks.load(path).cells if cell.cell_type == "markdown"
    )
    exercises = re.findall(r"^:{3,}\{exercise\}[^\n]*\n:label: (\S+)", prose, re.MULTILINE)
    solutions = re.findall(r"^:{3,}\{solution\} (\S+)\n((?::\w+:[^\n]*\n)*)", prose, re.MULTILINE)
    assert len(exercises) >= 3
    assert sorted(exercises) == sorted(label for label, _ in solutions)
    assert [
        label
        for label, options in solutions
        if not re.search(r"^:class: dropdown$", options, re.MULTILINE)
    ] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_every_exercise_says_how_and_how_hard(path):
    prose = "\n".join(
        cell.source for cell in notebooks.load(path).cells if cell.cell_type == "markdown"
    )
    titles = re.findall(r"^:{3,}\{exercise\}([^\n]*)$", prose, re.MULTILINE)
    assert [title for title in titles if not MARK.search(title)] == []


# ---- the tool that executes and mirrors them ----


def small(*sources):
    cells = [
        nbformat.v4.new_code_cell(source, execution_count=k)
        for k, source in enumerate(sources, start=1)
    ]
    return notebooks.normalize(nbformat.v4.new_notebook(cells=cells))


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda nb: nb.cells[1].update(execution_count=7), "execution count is 7, expected 2"),
        (
            lambda nb: nb.cells[0].update(execution_count=None),
            "execution count is None, expected 1",
        ),
        (lambda nb: nb.cells[0].update(source=" "), "has no source"),
        (lambda nb: nb.cells[0].metadata.update(execution={}), "carries execution times"),
        (lambda nb: nb.metadata.kernelspec.update(name="mine"), "not in normal form"),
        (
            lambda nb: nb.cells[0].outputs.append(
                nbformat.v4.new_output("stream", name="stderr", text="Warning")
            ),
            "stores stderr",
        ),
        (
            lambda nb: nb.cells[0].outputs.append(
                nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])
            ),
            "stores the error",
        ),
        (
            lambda nb: nb.cells[0].outputs.extend(
                nbformat.v4.new_output("stream", name="stdout", text=text) for text in "ab"
            ),
            "stores stdout in 2 pieces",
        ),
    ],
    ids=["count", "not run", "empty", "times", "kernel", "stderr", "error", "pieces"],
)
def test_departures_from_the_normal_form_are_named(spoil, sentence):
    notebook = small("1 + 1", "2 + 2")
    assert notebooks.problems(notebook) == []
    spoil(notebook)
    assert sentence in " ".join(notebooks.problems(notebook))


def test_text_and_back_is_the_same_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "BOOK", tmp_path / "book")
    monkeypatch.setattr(notebooks, "TEXT", tmp_path / "text")
    notebook = small("1 + 1", "2 + 2")
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Title\n\n:::{note}\n$x$\n:::"))
    notebook.cells[1].metadata["mystnb"] = {"figure": {"name": "fig-a", "caption": "A: $x$"}}
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="2")]
    path = tmp_path / "book" / "part" / "a.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(notebooks.dump(notebook), encoding="utf-8")
    before = path.read_bytes()
    assert notebooks.to_text(path, force=False)
    text = notebooks.text_path(path)
    assert notebooks.from_text(text)
    assert path.read_bytes() == before

    text.write_text(text.read_text(encoding="utf-8").replace("2 + 2", "3 + 3"), encoding="utf-8")
    notebooks.from_text(text)
    edited = notebooks.load(path)
    assert [c.id for c in edited.cells] == [c.id for c in notebook.cells]
    assert edited.cells[1].outputs == [] and edited.cells[1].execution_count is None
