"""Formulas are set when the book is built, and what is no formula does not pass."""

import base64
import io
import re

import pytest
from docutils import nodes
from docutils.utils import new_document
from fontTools.ttLib import TTFont

from tools.sphinx_ext.maths import TexError, Typesetter, display_source, keep_together


@pytest.fixture(scope="module")
def typesetter():
    setter = Typesetter({"RR": r"\mathbb{R}", "norm": [r"\lVert #1\rVert", 1]})
    yield setter
    setter.close()


def text(html):
    """What a screen reader gets: the text of the hidden MathML."""
    spoken = re.sub("<[^>]*>", "", html.split("<mjx-assistive-mml")[1].partition(">")[2])
    return spoken.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("tex", "spoken"),
    [
        (r"x \in \RR^d", "x∈Rd"),
        (r"\norm{H}", "‖H‖"),
        (r"x \text{ and } y", "x and y"),
        (r"\begin{psmallmatrix}a\\b\end{psmallmatrix}", "(ab)"),
    ],
)
def test_formulas_are_set_with_the_books_macros(typesetter, tex, spoken):
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


def test_styles_hold_the_glyphs_that_are_used_and_ask_for_no_file(typesetter):
    typesetter.html(r"\Sigma \sum x", display=True)
    css = typesetter.styles()
    addresses = re.findall(r'url\("?([^")]*)', css)
    assert addresses and all(a.startswith("data:font/woff;base64,") for a in addresses)
    fonts = [TTFont(io.BytesIO(base64.b64decode(a.partition(",")[2]))) for a in addresses]
    held = set().union(*(font.getBestCmap() for font in fonts))
    assert {ord(letter) for letter in "Σx∑"} <= held
    assert ord("∮") not in held and ".mjx-c222E" not in css


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
