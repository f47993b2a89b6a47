"""The comparison of figures fails when a reader would see a change, and only then."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest

from tools.figures import differences, is_figure

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
SVG, PNG, HTML = "image/svg+xml", "image/png", "text/html"


def draw(
    kind="svg",
    *,
    points=(0.0, 0.3, 1.0),
    color="#0072B2",
    label="loss",
    lines=2,
    size=(5.0, 3.0),
    marker="o",
):
    """A small figure as a notebook stores it."""
    settings = {"svg.hashsalt": "test", "figure.constrained_layout.use": True}
    with matplotlib.rc_context(settings):
        fig, ax = plt.subplots(figsize=size)
        ax.plot([0, 1, 2], points, marker=marker, color=color)
        for k in range(1, lines):
            ax.plot([0, 2], [0.1 * k, 0.5], color="black", lw=1)
        ax.set(xlabel=label, xlim=(-0.1, 2.1), ylim=(-0.1, 1.1))
        file = io.BytesIO()
        fig.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
        plt.close(fig)
    return file.getvalue().decode() if kind == "svg" else base64.b64encode(file.getvalue()).decode()


CHANGES = {
    "shifted point": {"points": (0.0, 0.32, 1.0)},
    "changed colour": {"color": "#0072B8"},
    "missing line": {"lines": 1},
    "additional line": {"lines": 3},
    "changed text": {"label": "lass"},
    "changed size": {"size": (5.2, 3.0)},
    "changed marker": {"marker": "s"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_visible_change_of_a_drawing_is_found(change):
    assert differences(SVG, draw(), draw(**change))


@pytest.mark.parametrize(
    "change",
    [{**c, "color": "#D55E00"} if "color" in c else c for c in CHANGES.values()],
    ids=CHANGES.keys(),
)
def test_visible_change_of_a_picture_is_found(change):
    assert differences(PNG, draw("png"), draw("png", **change))


@pytest.mark.parametrize("kind, mime", [("svg", SVG), ("png", PNG)])
def test_noise_in_the_last_digits_is_not_a_change(kind, mime):
    noise = 1e-6 * np.random.default_rng(0).standard_normal(3)
    noisy = draw(kind, points=np.array([0.0, 0.3, 1.0]) + noise)
    assert kind == "png" or noisy != draw(kind)  # else this shows nothing
    assert differences(mime, draw(kind), noisy) == []


def test_message_names_the_number_and_the_size_of_the_change():
    (message,) = differences(
        SVG, '<path d="M 10 20 L 100 200"/>', '<path d="M 10 20 L 100 207.5"/>'
    )
    assert (
        message
        == "d of <path>: number 4 of 4 is 200 stored and 207.5 fresh, off by 7.5 where 1 is allowed"
    )


@pytest.mark.parametrize(
    "stored, fresh",
    [
        ('<text x="10">0.2</text>', '<text x="10">0.3</text>'),
        ("<g><!-- 0.2 --></g>", "<g><!-- 0.3 --></g>"),
        ('<path style="stroke-width: 0.8"/>', '<path style="stroke-width: 1.6"/>'),
        ('<path opacity="0.2"/>', '<path opacity="0.7"/>'),
        (
            '<g transform="translate(9 9) scale(0.1)"/>',
            '<g transform="translate(9 9) scale(0.2)"/>',
        ),
        ('<circle r="3"/>', '<circle r="4"/>'),
        ('<circle cx="3" cy="4"/>', '<circle cx="3"/>'),
        ('<path d="M 1 2 L 3 4"/>', '<path d="M 1 2 L 3 nan"/>'),
        ('<use href="#a"/>', '<use href="#b"/>'),
        ("<p>1.25</p><svg></svg>", "<p>1.26</p><svg></svg>"),
    ],
    ids=lambda value: re.sub(r"[^\w.]+", " ", value).strip(),
)
def test_texts_styles_and_factors_agree_exactly(stored, fresh):
    assert differences(HTML, stored, fresh)
    assert differences(HTML, stored, stored) == []


def test_identifiers_made_from_a_hash_may_differ_when_they_link_the_same_parts():
    drawing = (
        '<path id="{0}" d="M 0 0"/><path id="{1}" d="M 9 9"/>'
        '<use href="#{0}"/><g clip-path="url(#{1})"/>'
    )
    stored, fresh = (
        drawing.format("m0123456789", "p9876543210"),
        drawing.format("maaaaaaaaa1", "pbbbbbbbbb2"),
    )
    assert differences(SVG, stored, fresh) == []
    swapped = fresh.replace('href="#maaaaaaaaa1"', 'href="#pbbbbbbbbb2"')
    assert differences(SVG, stored, swapped)


def test_a_rounding_flip_near_the_origin_is_not_a_change():
    assert differences(HTML, '<circle cx="0.1" cy="-0.1"/>', '<circle cx="0.2" cy="0"/>') == []


def test_what_counts_as_a_figure():
    assert (
        is_figure(SVG, "<svg/>")
        and is_figure(PNG, "")
        and is_figure(HTML, '<div data-figure="x"></div>')
    )
    assert not is_figure(HTML, "<table></table>") and not is_figure("text/plain", "<svg")


# ---- end to end: nbval, as `make test` calls it, on a small notebook ----

SOURCES = [
    "import matplotlib.pyplot as plt\nfrom nclib import plotting\nplotting.style()",
    "fig, ax = plt.subplots(figsize=(3, 2))\nax.plot([0, 1], [0, 1]);",
    "from IPython.display import HTML\n"
    'HTML(\'<svg role="img" aria-label="a disc"><circle cx="40" r="30"/></svg>\')',
    "from IPython.display import Image\nimport io\nfile = io.BytesIO()\n"
    "fig.savefig(file, format='png')\nImage(file.getvalue())",
    "print(1 + 1)",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook with a drawing, one inside HTML, and a picture, executed as the book's are."""
    path = tmp_path_factory.mktemp("notebook") / "small.ipynb"
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(SOURCES)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    subprocess.run(
        [sys.executable, ROOT / "tools" / "notebooks.py", "run", path],
        check=True,
        capture_output=True,
    )
    return path.read_text(encoding="utf-8")


def shift_the_line(svg):
    changed = re.sub(r"(L \d+)(\.\d+) ", lambda m: f"L {int(m[1][2:]) + 5}{m[2]} ", svg)
    assert changed != svg
    return changed


def repaint(png):
    image = plt.imread(io.BytesIO(base64.b64decode(png))).copy()
    image[20:30, 20:30, :3] = (1, 0, 0)
    file = io.BytesIO()
    plt.imsave(file, image, format="png")
    return base64.b64encode(file.getvalue()).decode()


TAMPERED = {  # cell: type of its figure, what happens to the stored one, what nbval has to say
    1: (SVG, shift_the_line, "figure 1 (image/svg+xml): d of <path>: number"),
    2: (
        HTML,
        lambda html: html.replace('r="30"', 'r="20"'),
        "figure 1 (text/html): r of <circle>: number 1 of 1",
    ),
    3: (PNG, repaint, "figure 1 (image/png):"),
}


@pytest.fixture(scope="module")
def report(executed, tmp_path_factory):
    """What nbval says, in the book's set-up, of the notebook and of one with changed figures."""
    folder = tmp_path_factory.mktemp("compared")
    notebook = json.loads(executed)
    for cell, (mime, change, _) in TAMPERED.items():
        data = notebook["cells"][cell]["outputs"][0]["data"]
        data[mime] = change("".join(data[mime]))
    (folder / "good.ipynb").write_text(executed, encoding="utf-8")
    (folder / "tampered.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "--nbval",
        "--nbval-current-env",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--config-file={ROOT / 'pyproject.toml'}",
        "-p",
        "conftest",
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [*command, folder], cwd=ROOT, capture_output=True, text=True, env=clean
    ).stdout


def test_nbval_passes_the_notebook_as_stored(report):
    for cell in range(len(SOURCES)):
        assert re.search(rf"PASSED .*good.ipynb::Cell {cell}$", report, re.MULTILINE), report


@pytest.mark.parametrize("cell", TAMPERED, ids=[mime for mime, _, _ in TAMPERED.values()])
def test_nbval_fails_when_a_stored_figure_is_not_the_fresh_one(report, cell):
    assert re.search(rf"FAILED .*tampered.ipynb::Cell {cell} ", report), report
    assert TAMPERED[cell][2] in report
    assert f"{len(TAMPERED)} failed, {2 * len(SOURCES) - len(TAMPERED)} passed" in report
