"""Pages without what this book does not use: weight that each reader would load with every page.

The theme brings a script of 1.5 MB that draws a dozen icons, although its style sheet can draw them
from a font; maps from its scripts to their sources; and the index of the search on every page. Nor
does the book start kernels on the web, for which sphinx-thebe adds a script.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

# In all pages, also a name that a screen reader says instead of the words that everybody sees.
REMOVED = [
    r'\s*<script[^>]*src="[^"]*/scripts/fontawesome\.js[^>]*></script>',
    r'\s*<link[^>]*href="[^"]*sphinx-thebe\.css[^>]*>',
    r'(?<=<summary) aria-label="Toggle hidden content"',
    r' aria-label="Search"(?=[^>]*>\s*<i[^>]*></i>\s*<span)',
]
# A name or a mark in a signature, each in elements of its own that have no look; words in code.
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
BARE = re.compile(r'<span class="(?:w|n|o|p|default_value)">([^<]*)</span>')
SEARCH = r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>'
UNUSED_FILES = ["**/*.map", "scripts/fontawesome*", "sphinx-thebe.*", "vendor/**/*.woff2"]
ICON = re.compile(r"((?:\.fa-[a-z0-9-]+::?before,?)+)\{content:\"\\([0-9a-f]+)\"\}")
# When a page opens, the theme's script measures each box that might scroll, for which all sections
# would be laid out, also those out of sight. book.js does the same for the sections in sight.
MEASURED = re.compile(r'document\.querySelectorAll\(\["pre",[^\]]*\]\.join\(", "\)\)')
POINT = r" -?[\d.]+ -?[\d.]+"
POLYLINE = re.compile(rf"[ML]{POINT}(?: L{POINT})+")
FACE = re.compile(
    r'(url\([^)]*?)(fa-[a-z]+-\d+)\.woff2\) format\("woff2"\),'
    r'url\([^)]*\.ttf\) format\("truetype"\)'
)


def drop_thebe(app: Sphinx) -> None:
    """Disconnect sphinx-thebe, which adds its script to every page, twice."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            item for item in listeners if not item.handler.__module__.startswith("sphinx_thebe")
        ]
    app.registry.css_files[:] = [
        item for item in app.registry.css_files if item[0] != "sphinx-thebe.css"
    ]


# What tabs, cards and grids look like and do, which no page has.
DESIGN = re.compile(
    r'\s*<link[^>]*href="[^"]*sphinx-design\.min\.css[^>]*>'
    r'|\s*<script[^>]*src="[^"]*design-tabs\.js[^>]*></script>'
)


def trim_icons(static: Path, used: set[str]) -> None:
    """Keep the rules and the glyphs of the icons that the pages use."""
    style = static / "styles" / "pydata-sphinx-theme.css"
    codes: set[int] = set()

    def kept(rule: re.Match[str]) -> str:
        if not used & set(re.findall(r"fa-[a-z0-9-]+", rule[1])):
            return ""
        codes.add(int(rule[2], 16))
        return rule[0]

    css = ICON.sub(kept, style.read_text(encoding="utf-8"))
    style.write_text(FACE.sub(r'\1\2.woff) format("woff")', css), encoding="utf-8")
    for file in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        font = TTFont(file)
        subsetter = Subsetter(Options(layout_features=[], hinting=False))
        subsetter.populate(unicodes=codes)
        subsetter.subset(font)
        font.flavor = "woff"
        font.save(file.with_suffix(".woff"))
        file.unlink()


def leave_boxes(static: Path) -> None:
    """Keep the theme's script from laying out the whole page.

    Raises:
        ValueError: The script does not measure boxes in the way that is known here.
    """
    script = static / "scripts" / "pydata-sphinx-theme.js"
    text, count = MEASURED.subn("[]", script.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{script.name} must measure boxes in one place, but does in {count}.")
    script.write_text(text, encoding="utf-8")


def signature(entry: str) -> str:
    """A signature in fewer elements; its lines are no list of definitions without terms."""
    for name in ("dl", "dd"):
        entry = entry.replace(f"<{name}>", f'<span class="sig-{name}">')
        entry = entry.replace(f"</{name}>", "</span>")
    return BARE.sub(r"\1", BARE.sub(r"\1", entry))


def thin(svg: str) -> str:
    """A drawing without comments and blanks, its lines to a thousandth of a pixel."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: POLYLINE.sub(polyline, rounded(path[0])), svg)
    svg = re.sub(r'(?<= style=")[^"]*', lambda style: re.sub("(?<=[:;]) ", "", style[0]), svg)
    return re.sub(r">\s+<", "><", svg)


def polyline(line: re.Match[str]) -> str:
    """Points with one letter for all of them: what follows M or L is another L."""
    return line[0][0] + line[0][1:].replace(" L", "")


def rounded(text: str) -> str:
    """Numbers with at most three digits after the point, and single blanks."""
    text = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", text)
    return " ".join(text.split())


def pages(site: Path) -> Iterator[Path]:
    """All pages of the site, without the theme's templates and the sources of the pages."""
    for path in site.rglob("*.html"):
        if path.relative_to(site).parts[0] not in ("_static", "_sources"):
            yield path


def trim(app: Sphinx, exception: Exception | None) -> None:
    """Take out of the finished site what it does not use."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    static = site / "_static"
    versions = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        for path in static.glob("maths*")
    }
    used: set[str] = set()
    for path in pages(site):
        html = path.read_text(encoding="utf-8")
        for pattern in [*REMOVED, *([] if path.name == "search.html" else [SEARCH])]:
            html = re.sub(pattern, "", html)
        html = re.sub(r'<span class="pre">([^<]*)</span>', r"\1", html)
        if 'class="sd-' not in html:
            html = DESIGN.sub("", html)
        html = html.replace('role="doc-biblioentry"', 'role="listitem"')
        html = SIGNATURE.sub(lambda entry: signature(entry[0]), html)
        for name, version in versions.items():  # new glyphs, new address
            html = html.replace(f'/{name}"', f'/{name}?v={version}"')
        path.write_text(html, encoding="utf-8")
        used |= set(re.findall(r"\bfa-[a-z0-9-]+", html))
    for path in static.rglob("*.js"):
        if "fontawesome" not in path.name:
            used |= set(re.findall(r"\bfa-[a-z0-9-]+", path.read_text(encoding="utf-8")))
    for pattern in UNUSED_FILES:
        for path in list(static.glob(pattern)):
            path.unlink()
    trim_icons(static, used)
    leave_boxes(static)
    for path in (site / "_images").glob("*.svg"):
        path.write_text(thin(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", drop_thebe, priority=0)
    app.connect("build-finished", trim, priority=900)  # when all files are written
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
