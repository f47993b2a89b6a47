"""What is added to the finished pages: previews of links, lists, downloads, the book on paper."""

import json
import zipfile
from types import SimpleNamespace

import pytest

from tools import browser
from tools.browser_check import DESKTOP, open_page
from tools.sphinx_ext import downloads, lists, previews

needs_chromium = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium on this computer"
)

HEAD = (
    "<!doctype html><html lang='en' data-content_root='{root}'><head><meta charset='utf-8'>"
    "<title>Tiny book</title><link rel='stylesheet' href='{root}_static/book.css'>"
    "<script defer src='{root}_static/book.js'></script></head><body>"
    "<main class='bd-content'><article class='bd-article'>"
)
FOOT = '</article></main><p class="edition">Version 9</p></body></html>'
STATEMENT = """<section id="part"><h1><span class="section-number">1. </span>First
<a class="headerlink" href="#part">#</a></h1>
<div class="proof theorem admonition" id="thm-x">
<p class="admonition-title"><span class="caption-number">Theorem 1.1 </span>· All are equal
(<a href="b.html">H</a>)</p>
<section id="proof-content"><div><p>All is well.</p>
<img src="../_images/x.svg" alt="a disc"></div></section>
</div>
<figure class="align-default" id="fig-x"><img src="../_images/x.svg" alt="a disc">
<figcaption><p><span class="caption-number">Fig. 1.1 </span><span class="caption-text">A disc of
radius <em>r. s</em>. It is round.</span><a class="headerlink" href="#fig-x">#</a></p></figcaption>
</figure>
<div style="height: 3000px"></div>
<p><a class="reference internal" href="#thm-x" id="here">above</a></p>
<section id="two"><h2>More<a class="headerlink" href="#two">#</a></h2>
<button>Press</button></section></section>"""
LINKS = """<section id="top"><h1>Second<a class="headerlink" href="#top">#</a></h1>
<p><a class="reference internal" href="a.html#thm-x" id="there">Theorem 1.1</a>,
<a class="reference internal" href="a.html#part">Section 1</a>,
<a class="reference internal" href="a.html#term-t">t</a></p></section>"""
TERM = (
    '<dl class="glossary"><dt id="term-t">t<a class="headerlink" href="#term-t">#</a></dt>'
    "<dd><p>Time.</p></dd></dl>"
)
LISTS = """<h2>S</h2><div class="list-of-statements"></div><!-- statements -->
<h2>F</h2><div class="list-of-figures"></div><!-- figures -->"""


@pytest.fixture
def app(tmp_path):
    """A site of three pages, as Sphinx hands it over."""
    for folder in ("book", "_static", "_images"):
        (tmp_path / folder).mkdir()
    for name, body in (("a", STATEMENT + TERM), ("b", LINKS), ("lists", LISTS)):
        page = HEAD.format(root="../") + body + FOOT
        (tmp_path / "book" / f"{name}.html").write_text(page, encoding="utf-8")
    for name in ("book.css", "book.js"):
        text = (downloads.ROOT / "assets" / name).read_text(encoding="utf-8")
        (tmp_path / "_static" / name).write_text(text, encoding="utf-8")
    (tmp_path / "_images/x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
    )
    names = dict.fromkeys(["book/a", "book/b"])
    return SimpleNamespace(
        outdir=tmp_path,
        srcdir=tmp_path,
        builder=SimpleNamespace(format="html"),
        env=SimpleNamespace(collect_relations=lambda: names),
    )


def parts(app):
    text = (app.outdir / "_static/previews/book/a.js").read_text(encoding="utf-8")
    page, found = json.loads("[" + text.removeprefix("preview(").removesuffix(");\n") + "]")
    assert page == "book/a.html"
    return found


def test_a_preview_is_the_whole_statement_or_term_and_no_section(app):
    previews.write(app, None)
    found = parts(app)
    assert set(found) == {"thm-x", "term-t"}
    assert found["thm-x"].startswith('<div class="proof theorem admonition">')
    assert found["thm-x"].endswith("</div></section>\n</div>")
    assert 'src="@/_images/x.svg"' in found["thm-x"]
    assert found["term-t"] == "<dl><dt>t</dt><dd><p>Time.</p></dd></dl>"
    assert "id=" not in "".join(found.values())
    assert list((app.outdir / "_static/previews").rglob("*.js")) == [
        app.outdir / "_static/previews/book/a.js"
    ]


@needs_chromium
@pytest.mark.parametrize("how", ["file", "served"])
def test_previews_open_at_links_from_a_folder_and_from_a_server(app, how):
    previews.write(app, None)
    with (
        browser.browser() as instance,
        browser.served(app.outdir) as address,
        browser.new_context(instance, DESKTOP) as context,
    ):
        base = address if how == "served" else app.outdir.as_uri() + "/"
        page = context.new_page()
        open_page(page, base + "book/b.html")
        assert page.locator(".preview").is_hidden()
        page.hover("#there")
        page.wait_for_selector(".preview:visible")
        assert "All is well." in page.inner_text(".preview")
        assert page.evaluate("document.querySelector('.preview img').naturalWidth") == 9
        page.keyboard.press("Escape")
        assert page.locator(".preview").is_hidden()
        open_page(page, base + "book/a.html")
        page.locator("#here").scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        page.hover("#here")
        page.wait_for_selector(".preview:visible")
        assert "All is well." in page.inner_text(".preview")
        page.mouse.move(5, 5)
        page.wait_for_selector(".preview", state="hidden")


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("One. Two.", "One."),
        ("One at 1.5 m", "One at 1.5 m"),
        ("At <i>a. b</i>. Then", "At <i>a. b</i>."),
        ('So <span class="keep"><i>x</i>.</span> Then', 'So <span class="keep"><i>x</i>.</span>'),
    ],
)
def test_the_first_sentence_ends_outside_of_elements(text, beginning):
    assert lists.first_sentence(text) == beginning


def test_lists_link_to_every_statement_and_figure(app):
    for _ in range(2):  # a page that was not written anew is filled again
        lists.fill(app, None)
    html = (app.outdir / "book/lists.html").read_text(encoding="utf-8")
    statement = '<a class="reference internal" href="a.html#thm-x">Theorem 1.1</a>'
    assert html.count(statement + " All are equal\n(H)</li>") == 1
    figure = '<a class="reference internal" href="a.html#fig-x">Fig. 1.1</a>'
    assert html.count(figure + " A disc of\nradius <em>r. s</em>.</li>") == 1
    assert html.count("<h3>") == 2 and "Second" not in html


def test_a_page_says_how_to_run_it_and_where_its_data_are(app):
    for name, code in (("plain", "1 + 1"), ("reads", 'load_all("../results", "x")')):
        (app.outdir / f"book/{name}.ipynb").write_text(code)
        context = {"body": "text"}
        downloads.put_on_page(app, f"book/{name}", "page.html", context, None)
        assert 'href="running.html#sec-downloaded"' in context["body"]
        assert ('href="../_downloads/results.zip"' in context["body"]) == (name == "reads")
    context = {"body": "text"}
    downloads.put_on_page(app, "book/a", "page.html", context, None)
    assert context == {"body": "text"}


def test_the_archive_holds_every_result_and_is_the_same_each_time(app):
    downloads.pack(app, None)
    file = app.outdir / downloads.RESULTS
    first = file.read_bytes()
    folder = downloads.ROOT / "book"
    stored = {p.relative_to(folder).as_posix() for p in (folder / "results").rglob("*.json")}
    with zipfile.ZipFile(file) as archive:
        assert stored and stored <= set(archive.namelist())
        name = min(stored)
        assert archive.read(name) == (folder / name).read_bytes()
    downloads.pack(app, None)
    assert file.read_bytes() == first


@needs_chromium
def test_the_whole_book_is_printed_with_its_pages_in_the_contents(app, monkeypatch, capsys):
    pypdf = pytest.importorskip("pypdf")
    from tools import pdf

    order = [pdf.Part("", ["book/b"]), pdf.Part("Foundations", ["book/a"])]
    monkeypatch.setattr(pdf, "parts", lambda: order)
    monkeypatch.setattr("sys.argv", ["pdf.py", str(app.outdir)])
    landing = app.outdir / "book/b.html"
    landing.write_text(landing.read_text() + '<span class="whole-book"></span>')
    assert pdf.main() == 0
    reader = pypdf.PdfReader(app.outdir / pdf.NAME)
    text = [page.extract_text() for page in reader.pages]
    assert "Tiny book" in text[0] and "Version 9" in text[0]
    chapter = next(i for i, page in enumerate(text) if "Theorem 1.1" in page and "equal" in page)
    assert f"First {chapter + 1}" in text[1]
    assert "Press" not in "".join(text)
    assert not (app.outdir / "whole.htm").exists()
    assert b"/ObjStm" in (app.outdir / pdf.NAME).read_bytes()
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]  # for screen readers
    assert f'href="../{pdf.NAME}"' in landing.read_text()
    assert pdf.NAME in capsys.readouterr().out
