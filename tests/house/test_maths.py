"""Formulas are set when the book is built, and what is no formula does not pass."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.utils import new_document
from fontTools.ttLib import TTFont

from tools.sphinx_ext.maths import (
    FONT_STYLES,
    TexError,
    Typesetter,
    display_source,
    fonts_without_script,
    keep_together,
)

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = sorted(path for path in BOOK.rglob("*") if path.suffix in (".md", ".ipynb"))
# What is no text: code with its language, HTML, code within a line.
CODE = re.compile(
    r"^(?P<fence>`{3,})(?:\w+|\{raw\}[^\n]*)\n.*?^(?P=fence)$|`[^`\n]+`", re.DOTALL | re.MULTILINE
)
FORMULA = re.compile(
    r"^(?P<fence>[`:]{3,})\{math\}[^\n]*\n(?::\w+:[^\n]*\n)*(?P<directive>.*?)^(?P=fence)"
    r"|(?<!\\)\$\$(?P<display>.+?)\$\$|(?<!\\)\$(?P<inline>.+?)(?<!\\)\$",
    re.DOTALL | re.MULTILINE,
)


def formulas(path):
    """The TeX of each formula in a page's text, and whether it stands on lines of its own."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for found in FORMULA.finditer(CODE.sub("", text)):
        if found["inline"]:
            yield found["inline"], False
        else:
            yield display_source(found["directive"] or found["display"]), True


@pytest.fixture(scope="module")
def typesetter():
    setter = Typesetter()
    yield setter
    setter.close()


def text(html):
    """What a screen reader gets: the text of the hidden MathML."""
    spoken = re.sub("<[^>]*>", "", html.split("<mjx-assistive-mml")[1].partition(">")[2])
    return spoken.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("tex", "spoken"),
    [
        (r"x \in \mathbb{R}^d", "x∈Rd"),
        (r"\left\lVert H \right\rVert", "‖H‖"),
        (r"x \text{ and } y", "x and y"),
        (r"\begin{psmallmatrix}a\\b\end{psmallmatrix}", "(ab)"),
    ],
)
def test_formulas_are_set_by_mathjax_alone(typesetter, tex, spoken):
    for display in (False, True):
        html = typesetter.html(tex, display)
        assert html.startswith("<mjx-container") and ('display="true"' in html) == display
        assert text(html) == spoken


@pytest.mark.parametrize(
    ("tex", "reason"),
    [
        (r"\frac{1}", r"Missing argument for \\frac"),
        (r"x + \nosuchmacro", r"Undefined control sequence \\nosuchmacro"),
        (r"\begin{align}x", r"Missing \\end\{align\}"),
        ("5 and ", "a sentence became a formula"),
    ],
)
def test_what_is_no_formula_is_refused(typesetter, tex, reason):
    with pytest.raises(TexError, match=reason):
        typesetter.html(tex, display=False)
    assert text(typesetter.html("x", display=False)) == "x"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(BOOK).as_posix())
def test_formulas_need_no_macro_that_only_the_book_defines(typesetter, path):
    refused = {}
    for tex, display in formulas(path):
        try:
            typesetter.html(tex, display)
        except TexError as error:
            refused[tex] = str(error)
    assert not refused


def test_formulas_are_found_in_the_pages():
    found = list(formulas(BOOK / "foundations" / "metrics.ipynb"))
    assert len(found) > 300 and {display for _, display in found} == {True, False}


def test_files_hold_the_glyphs_that_are_used_and_ask_for_no_other(typesetter):
    typesetter.html(r"\Sigma \sum x", display=True)
    rules, faces, script = typesetter.styles().values()
    assert "url(" not in rules and "@font-face" not in rules and ".mjx-c222E" not in rules
    addresses = re.findall(r'url\("?([^")]*)', faces)
    assert addresses and all(a.startswith("data:font/woff;base64,") for a in addresses)
    fonts = [TTFont(io.BytesIO(base64.b64decode(a.partition(",")[2]))) for a in addresses]
    held = set().union(*(font.getBestCmap() for font in fonts))
    assert {ord(letter) for letter in "Σx∑"} <= held and ord("∮") not in held
    # The script adds the same fonts under the same names.
    added = json.loads(re.search(r"entries\((\{.*?\})\)", script)[1])
    assert list(added.values()) == [address.partition(",")[2] for address in addresses]
    assert list(added) == re.findall(r"font-family: ([\w-]+);", faces)
    assert all(name in rules for name in added)


def test_each_page_names_the_fonts_and_a_style_sheet_for_browsers_without_scripts():
    context = {"pathto": lambda name, resource: f"../{name}", "metatags": "<meta>"}
    fonts_without_script(None, "page", "page.html", context, None)
    assert context["metatags"].startswith("<meta><noscript>")
    assert f'href="../_static/{FONT_STYLES}"' in context["metatags"]


@pytest.mark.parametrize(
    ("source", "wrapped"),
    [
        ("a = b", "a = b"),
        (r"a \\ b", r"\begin{split}a \\ b\end{split}"),
        ("a\n\nb", r"\begin{align}\begin{aligned}a\\b\end{aligned}\end{align}"),
    ],
)
def test_a_display_is_wrapped_as_sphinx_wraps_it(source, wrapped):
    assert display_source(source) == wrapped


def test_punctuation_stays_with_its_formula():
    document, paragraph = new_document("page"), nodes.paragraph()
    document += paragraph
    paragraph += [
        nodes.Text("Let ("),
        nodes.math("x", "x"),
        nodes.Text("), and "),
        nodes.math("y", "y"),
    ]
    keep_together(None, document, "page")
    (box,) = document.findall(nodes.inline)
    assert box["classes"] == ["keep"] and box.astext() == "(x),"
    assert paragraph.astext() == "Let (x), and y"
    assert [node.astext() for node in document.findall(nodes.math)] == ["x", "y"]
