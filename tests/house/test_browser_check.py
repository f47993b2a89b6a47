"""The check in a browser finds what a reader would stumble over: each page here has one fault."""

from importlib.util import find_spec

import pytest

from tools import browser, browser_timing
from tools import browser_check as check

pytestmark = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium on this computer"
)
ETF = """<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">
  <circle cx="4" cy="4" r="4"/></svg>"""
SOLUTION = """<div class="admonition solution dropdown toggle toggle-hidden">
  <p class="admonition-title"><a href="#e">Solution</a>
    <button class="toggle-button">open</button></p>
  <p>Text</p></div><p id="e">x</p>"""
OPENS = """<script>
  document.querySelector(".admonition-title").addEventListener("click", (event) => {
    event.preventDefault();
    event.currentTarget.parentElement.classList.toggle("toggle-hidden");
  });</script>"""
THROWS = OPENS.replace(
    "event.preventDefault()", "if (event.target.tagName === 'A') throw Error('no button')"
)
# Stands for MathJax: draws every formula but those that the page marks.
DRAWS = """<script>for (const e of document.querySelectorAll(".math:not(.left)"))
  e.appendChild(document.createElement("mjx-container"));</script>"""

BAD = {
    "console error": ("<script>console.error('broken')</script>", "console error: broken"),
    "script error": ("<script>undefinedFunction()</script>", "script error: undefinedFunction"),
    "later script error": (
        "<script>setTimeout(() => { throw Error('late') }, 200)</script>",
        "script error: late",
    ),
    "external script": (
        "<script src='https://cdn.example.org/a.js'></script>",
        "external request: https://cdn",
    ),
    "external font": (
        "<style>@font-face{font-family:f;src:url(https://a.org/f)}p{font-family:f}</style><p>x</p>",
        "external request: https://a.org/f",
    ),
    "missing file": ("<script src='gone.js'></script>", "gone.js"),
    "missing picture": ("<img src='gone.png' alt='a graph'>", "picture does not show: gone.png"),
    "formula not drawn": (
        f"<span class='math left'>x</span><span class='math'></span>{DRAWS}",
        "drawn 0 times",
    ),
    "formula drawn twice": (f"<span class='math'></span>{DRAWS}{DRAWS}", "drawn 2 times"),
    "MathJax error": (
        "<span class='math'><mjx-container><mjx-merror/></mjx-container></span>",
        "shows an error",
    ),
    "glyph without a rule": (
        "<span class='math'><mjx-container><mjx-c class='mjx-c78'></mjx-c></mjx-container></span>",
        "glyph that is not drawn: mjx-c78",
    ),
    "formula in a box of its own": (
        "<span class='math' style='overflow: auto'><mjx-container>x</mjx-container></span>",
        "1 formulas are stops of the Tab key: x",
    ),
    "page that moves": (
        "<div id='late'></div><p style='height: 500px; background: red'>x</p>"
        "<script>const jump = () => { late.style.height = '300px' };"
        "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(jump, 50)))</script>",
        "while it loads, where 0.05 is allowed",
    ),
    "heavy page": ("<img src='big.svg' alt='a disc'>", "asks for 2.5"),
    "raw dollar": ("<p>Let $x be</p>", "raw source in the text: Let $x"),
    "raw command": ("<p>the matrix \\Sigma</p>", "raw source in the text"),
    "raw role": ("<p>see {prf:ref}`thm-x`</p>", "raw source in the text"),
    "raw fence": ("<p>:::{note}</p>", "raw source in the text"),
    "wide page": ("<div style='width:500px'>wide</div>", "px wide on a phone of 390 px"),
    "wide when opened": (
        "<details><div style='width:500px'>wide</div></details>",
        "px wide on a phone of 390 px",
    ),
    "no alt": ("<img src='a.svg'>", "picture without alternative text: a.svg"),
    "alt is the name": ("<img src='a.svg' alt='a.svg'>", "picture without alternative text: a.svg"),
    "no label": (ETF, "drawing without a label"),
    "dead file": ("<a href='gone.html'>x</a>", "link to a file that is not there: gone.html"),
    "dead anchor": (
        "<a href='other.html#gone'>x</a>",
        "link to an anchor that is not there: other.html#gone",
    ),
    "dead anchor on the page": ("<a href='#gone'>x</a>", "#gone"),
    "solution stays shut": (SOLUTION, "a click does not open or close"),
    "solution throws": (SOLUTION + THROWS, "no button"),
    "dropdown without button": ("<div class='admonition dropdown'>Text</div>", "cannot be opened"),
}
GOOD = f"""<p id="here">It costs <code>$5</code>.</p><span class="math"></span>
  <img src="a.svg" alt="a disc"><div role="img" aria-label="a disc">{ETF}</div>
  <a href="other.html#there">x</a><a href="#here">x</a>
  <div style="overflow-x:auto"><div style="width:500px">wide in its box</div></div>
  <a href="https://example.org/">only a link</a>{SOLUTION}{OPENS}{DRAWS}"""


@pytest.fixture(scope="module")
def instance():
    with browser.browser() as opened:
        yield opened


HEAD = "<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'><title>t</title>"


def site(folder, **bodies):
    """A small site: the given pages, one they may link to, and a drawing."""
    for name, body in {"other": "<p id='there'>x</p>", **bodies}.items():
        (folder / f"{name}.html").write_text(
            f"{HEAD}<body><article>{body}</article></body>", encoding="utf-8"
        )
    (folder / "a.svg").write_text(ETF, encoding="utf-8")
    (folder / "big.svg").write_text(ETF + " " * 2_500_000, encoding="utf-8")
    return folder


def found(instance, folder, how="served"):
    if how == "file":
        return check.visit_all(instance, folder, folder.as_uri() + "/", how)[1]
    with browser.served(folder) as base:
        return check.visit_all(instance, folder, base, how)[1]


@pytest.mark.parametrize("how", ["file", "served"])
def test_a_sound_page_passes(instance, tmp_path, how):
    assert found(instance, site(tmp_path, page=GOOD), how) == []


@pytest.fixture(scope="module")
def bad_findings(instance, tmp_path_factory):
    return found(
        instance,
        site(tmp_path_factory.mktemp("bad"), **{name: body for name, (body, _) in BAD.items()}),
    )


@pytest.mark.parametrize("name", BAD)
def test_one_thing_wrong_is_found(bad_findings, name):
    whats = [finding.what for finding in bad_findings if finding.page == f"{name}.html"]
    assert any(BAD[name][1] in what for what in whats), whats


def test_a_book_without_search_and_dark_mode_is_reported(instance, tmp_path):
    site(tmp_path, page="<p>x</p>")
    (tmp_path / "search.html").write_text(
        "<!doctype html><link rel='icon' href='data:,'><p>nothing here", "utf-8"
    )
    with browser.served(tmp_path) as base:
        whats = [
            f.what
            for f in check.book_findings(
                instance, base, "served", "page.html", "word", patience_ms=300
            )
        ]
    assert any("search for 'word' shows no result" in what for what in whats)
    assert any("no button for dark mode" in what for what in whats)


def test_dark_mode_has_to_change_the_page(instance, tmp_path):
    button = """<button class="theme-switch-button" onclick="
      const data = document.documentElement.dataset;
      data.theme = data.theme === 'dark' ? 'light' : 'dark'">mode</button>"""
    site(tmp_path, page=button)
    with browser.served(tmp_path) as base, browser.new_context(instance, check.DESKTOP) as context:
        (finding,) = check.dark_findings(context.new_page(), base, "page.html", "served")
    assert "dark mode does not change the page" in finding.what
    site(tmp_path, page=button + "<style>html[data-theme=dark] body { background: black }</style>")
    with browser.served(tmp_path) as base, browser.new_context(instance, check.DESKTOP) as context:
        assert check.dark_findings(context.new_page(), base, "page.html", "served") == []


needs_axe = pytest.mark.skipif(
    find_spec("axe_playwright_python") is None, reason="no axe-core in this environment"
)
FAINT = "<p style='color: #bbb; background: #fff'>faint</p>"


@needs_axe
@pytest.mark.parametrize(
    ("body", "rule", "schemes"),
    [
        ("<p>plain</p>", None, ()),
        (FAINT, "color-contrast in 1 places: <p", ("light", "dark")),
        (
            "<style>@media (prefers-color-scheme: dark) { p { color: #333; background: #000 } }"
            "</style><p>dim</p>",
            "color-contrast in 1 places: <p",
            ("dark",),
        ),
        (
            "<button aria-label='Color mode'>Search</button>",
            "label-content-name",
            ("light", "dark"),
        ),
        ("<span class='math'><mjx-container>" + FAINT + "</mjx-container></span>", None, ()),
    ],
    ids=["plain", "faint", "faint in the dark", "another name", "formula"],
)
def test_axe_looks_at_light_and_dark(instance, tmp_path, body, rule, schemes):
    page = (
        HEAD.replace("<title>", "<html lang='en'><title>") + f"<body><main><h1>t</h1>{body}</main>"
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with browser.served(tmp_path) as base:
        found = check.access_to_all(instance, tmp_path, base)
    assert [finding.how for finding in found] == list(schemes)
    assert all(rule in finding.what for finding in found)


CODE = "<div class='highlight' style='width: 600px'><pre style='overflow: auto'>{}</pre></div>"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (CODE.format("x" * 83), "1 pieces of code of up to 83 columns are cut off: xxx"),
        (
            "<details>" + CODE.format("x" * 83) + "</details>",
            "1 pieces of code of up to 83 columns are cut off: xxx",
        ),
        (CODE.format("x" * 84), None),
        (CODE.format("x" * 50), None),
        ("<div style='width: 1300px'>wide</div>", "px wide on a desktop of 1280 px"),
    ],
    ids=["cut off", "folded and cut off", "wider than usual", "narrow", "page"],
)
def test_code_of_usual_width_and_the_page_fit_a_desktop(instance, tmp_path, body, what):
    site(tmp_path, page=body)
    with browser.new_context(instance, check.DESKTOP) as context:
        page = context.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        whats = [finding.what for finding in check.width_findings(page, "page.html")]
    assert what in whats[0] if what else whats == []


def test_colors_that_do_not_follow_the_reader_are_reported(instance, tmp_path):
    page = "<html lang='en' data-theme='light'><title>t</title><body><main><h1>t</h1></main>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with browser.new_context(instance, check.DESKTOP) as context:
        found = check.access_findings(context.new_page(), tmp_path.as_uri() + "/", "page.html")
    assert [(finding.how, finding.what) for finding in found] == [
        ("dark", "colors do not follow the reader's: light")
    ]


def test_a_slow_page_has_its_times(instance, tmp_path, capsys):
    work = "const end = performance.now() + 100; while (performance.now() < end);"
    jump = "setTimeout(() => { late.style.height = '300px' }, 100);"
    body = "<div id='late'></div><p style='height: 500px; background: red'>x</p>"
    site(tmp_path, page=f"{body}<script>{work}{jump}</script><!-- {'x' * 50_000} -->")
    with browser.served(tmp_path) as base:
        looks = {"desktop": check.DESKTOP}
        browser_timing.print_timings(instance, looks, base, ["page.html"], repeats=2)
    *_, line, _ = capsys.readouterr().out.splitlines()
    name, look, *numbers = line.split()
    first, first_work, complete, work_done, shift, megabytes, elements = map(float, numbers)
    assert (name, look, elements) == ("page.html", "desktop", 10)
    assert 0 < first <= complete and 0 <= first_work <= work_done <= complete
    assert complete > 0.1 and shift > 0.05 and 0.04 < megabytes < 0.06


def test_without_a_rendered_book_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["browser_check.py", str(tmp_path)])
    assert check.main() == 2
    assert "run `make book` first" in capsys.readouterr().err


def test_a_page_that_never_finishes_loading_is_reported(instance):
    with browser.new_context(instance, check.PHONE) as context:
        watch = check.Watch(context.new_page(), "data:")
        watch.pending = 1
        watch.settle(patience_ms=200)
    assert watch.found == ["still loading after 0.2 s"]


def test_a_link_into_a_long_page_lands_below_its_header(instance, tmp_path):
    """Also where what is above takes its height a moment later."""
    script = (check.ROOT / "assets" / "book.js").read_text(encoding="utf-8")
    style = (
        "html { scroll-padding-top: 64px; overflow-anchor: none } body { margin: 0 }"
        "section { content-visibility: auto; contain-intrinsic-size: auto 3000px }"
    )
    heights = (400, 9000, 700, 5000, 300, 8000, 600, 2000)
    body = "".join(
        f"<section><h2 id='s{i}'>x</h2><div style='height: {h}px'></div></section>"
        for i, h in enumerate(heights)
    )
    file = tmp_path / "long.html"
    file.write_text(
        f"{HEAD}<style>{style}</style><body><main><article class='bd-article'>{body}</article>"
        f"</main><script>{script}\n"
        "addEventListener('load', () => setTimeout("
        "() => { document.querySelector('main').style.paddingTop = '65px'; }, 100));"
        "</script></body>",
        encoding="utf-8",
    )
    page = instance.new_page(viewport={"width": 390, "height": 900})
    for i in (2, 4, 6):
        page.goto("about:blank")
        page.goto(f"{file.as_uri()}#s{i}")
        page.wait_for_timeout(1000)
        top = page.evaluate(f"document.getElementById('s{i}').getBoundingClientRect().top")
        assert abs(top - 64) < 3
    page.evaluate("location.hash = '#s3'")
    page.wait_for_timeout(1000)
    assert abs(page.evaluate("document.getElementById('s3').getBoundingClientRect().top") - 64) < 3
    page.close()
