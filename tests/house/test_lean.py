"""What is taken out of the finished pages is nothing that a reader sees."""

import io
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from PIL import Image

from tools import browser
from tools.browser_check import DESKTOP
from tools.sphinx_ext.lean import leave_boxes, signature, thin, trim
from tools.sphinx_ext.maths import Typesetter, compact

needs_chromium = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium on this computer"
)
FORMULAS = [
    r"\mathrm{NC1} = \tfrac1K\operatorname{tr}(\Sigma_W\Sigma_B^+), \quad "
    r"\widetilde{x}_{k,i}^{(l)}",
    r"\begin{aligned} f &= \frac{1}{Kn}\sum_{k,i}\tfrac12\lVert Wh_{k,i}-e_k\rVert^2 \\"
    r"&+ \frac{\lambda_H}{2}\int_0^t \sqrt{1-\mathcal{C}^2}\,dt \end{aligned}",
    r"\left(\begin{smallmatrix} a & b' \\ \bar h & \dot H \end{smallmatrix}\right) "
    r"\in \mathbb{R}^{d\times K}",
    r"\min_{W,H} \Bigl\{ \operatorname*{arg\,max}_{j\ne k} x_j \;\Big|\; x \text{ and } y "
    r"\Bigr\} \succeq 0",
]


@pytest.fixture(scope="module")
def page():
    with browser.browser() as instance, browser.new_context(instance, DESKTOP) as context:
        yield context.new_page()


def picture(page, body, style=""):
    page.set_content(f"<style>body {{ font-size: 32px }} {style}</style>{body}")
    page.evaluate("async () => { await document.fonts.ready; }")
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), dtype=float)


@needs_chromium
@pytest.mark.parametrize("display", [False, True], ids=["inline", "display"])
def test_a_compact_formula_is_the_same_drawing(page, display):
    typesetter = Typesetter()
    for tex in FORMULAS:
        typesetter.html(tex, display)
    raw = [typesetter.known[tex, display]["html"] for tex in FORMULAS]
    css = typesetter.styles()
    typesetter.close()
    whole, small = "<br>".join(raw), "<br>".join(map(compact, raw))
    assert len(small) < 0.9 * len(whole)
    before, after = picture(page, whole, css), picture(page, small, css)
    assert np.ptp(before) > 200  # there is something to see
    assert np.array_equal(before, after)


@needs_chromium
def test_a_thin_drawing_is_the_same_drawing(page):
    rng = np.random.default_rng(0)
    with mpl.rc_context({"svg.hashsalt": "x"}):
        figure = Figure(figsize=(5, 3))
        axes = figure.subplots()
        axes.plot(rng.standard_normal(50), "o-", label=r"$\lambda_W/\sigma^2$")
        axes.set(xlabel="epoch", yscale="symlog")
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    assert "<!--" in svg and "<metadata>" in svg
    small = thin(svg)
    assert len(small) < 0.85 * len(svg) and "<!--" not in small and "<metadata>" not in small
    before, after = picture(page, svg), picture(page, small)
    assert np.ptp(before) > 200
    assert np.abs(before - after).max() <= 8  # a thousandth of a pixel changes a grey by a little


def test_a_signature_of_many_lines_is_no_list_of_definitions():
    entry = (
        '<dt class="sig f"><span class="sig-paren">(</span>'
        '<dl><dd><em><span class="n">x</span></em>,</dd></dl><span class="sig-paren">)</span></dt>'
    )
    lines = '<span class="sig-dl"><span class="sig-dd"><em>x</em>,</span></span>'
    bracket = '<span class="sig-paren">{}</span>'
    expected = bracket.format("(") + lines + bracket.format(")")
    assert signature(entry) == f'<dt class="sig f">{expected}</dt>'


PAGE = """<link href="_static/maths.css" /><script src="_static/maths-fonts.js"></script>
<link rel="stylesheet" type="text/css" href="../_static/sphinx-thebe.css?v=4fa983c6" />
<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
<script src="../_static/searchtools.js"></script><script src="../searchindex.js"></script>
<script src="../_static/book.js"></script><link href="../_static/sphinx-design.min.css?v=1" />
<summary aria-label="Toggle hidden content"><i class="fa-solid fa-sun"></i>Show</summary>
<button class="a" aria-label="Search" b="c"><i></i><span>Search</span></button>
<button class="a" aria-label="Search"><i></i></button><code><span class="pre">x</span></code>
<div role="list"><div role="doc-biblioentry"></div></div>"""
STYLE = (
    '.fa-sun:before{content:"\\f185"}.fa-moon::before,.fa-night:before{content:"\\f186"}'
    '.fa-bug:before{content:"\\f188"}@font-face{src:url(../v/fa-solid-900.woff2) format("woff2"),'
    'url(../v/fa-solid-900.ttf) format("truetype")}'
)


def test_a_site_loses_what_it_does_not_use(tmp_path):
    from importlib.resources import files

    theme = files("pydata_sphinx_theme") / "theme/pydata_sphinx_theme/static"
    fonts = tmp_path / "_static/vendor/fontawesome/webfonts"
    for folder in ("_static/scripts", "_static/styles", "_images", str(fonts)):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("page.html", "search.html"):
        (tmp_path / name).write_text(PAGE)
    (fonts / "fa-solid-900.ttf").write_bytes(
        (theme / "vendor/fontawesome/webfonts/fa-solid-900.ttf").read_bytes()
    )
    static = tmp_path / "_static"
    (static / "styles/pydata-sphinx-theme.css").write_text(STYLE)
    (static / "maths.css").write_text("mjx-c {}")
    (static / "maths-fonts.js").write_text("0")
    (static / "book.js").write_text("icon('fa-night')")
    for name in (
        "fontawesome.js",
        "fontawesome.js.LICENSE.txt",
        "bootstrap.js.map",
        "bootstrap.js",
    ):
        (static / "scripts" / name).write_text("fa-bug")
    (static / "scripts/bootstrap.js").write_text("")
    script = static / "scripts/pydata-sphinx-theme.js"
    script.write_text((theme / "scripts/pydata-sphinx-theme.js").read_text(encoding="utf-8"))
    builder = SimpleNamespace(format="html")
    trim(SimpleNamespace(outdir=tmp_path, builder=builder), None)

    page = (tmp_path / "page.html").read_text()
    assert (
        "fontawesome" not in page
        and "thebe" not in page
        and "design" not in page
        and "search" not in page.replace("Search", "")
    )
    assert "book.js" in page and "<summary>" in page
    assert "/maths.css?v=" in page and "/maths-fonts.js?v=" in page
    assert page.count('aria-label="Search"') == 1
    assert "<code>x</code>" in page and page.count('role="listitem"') == 1
    assert "searchtools.js" in (tmp_path / "search.html").read_text()
    names = {path.name for path in (static / "scripts").iterdir()}
    assert names == {"bootstrap.js", "pydata-sphinx-theme.js"}
    assert '["pre"' not in script.read_text() and "[].forEach" in script.read_text()
    with pytest.raises(ValueError, match="measure boxes in one place, but does in 0"):
        leave_boxes(static)
    css = (static / "styles/pydata-sphinx-theme.css").read_text()
    assert ".fa-sun" in css and ".fa-moon" in css and ".fa-bug" not in css
    assert 'url(../v/fa-solid-900.woff) format("woff")' in css and "truetype" not in css
    assert [path.name for path in fonts.iterdir()] == ["fa-solid-900.woff"]
    assert set(TTFont(fonts / "fa-solid-900.woff").getBestCmap()) == {0xF185, 0xF186}
