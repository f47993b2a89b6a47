"""What a link leads to, shown above it: statements, formulas, sources, terms and figures.

A page opened from a folder may not read another page, but it may load a script. So each page that
others link to gets a small script with the parts that they mean, which book.js loads when the
pointer first rests on such a link. A link within a page needs none: its target is there.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from posixpath import dirname, normpath
from posixpath import join as joined
from urllib.parse import unquote

from sphinx.application import Sphinx

FOLDER = "_static/previews"
LINK = re.compile(r'<a class="[^"]*\binternal\b[^"]*" href="([^"#]*)#([^"]+)"')
# What is shown; of a section or a cell the title is in the link already.
SHOWN = re.compile(
    r'<(?:div class="(?:proof|math|citation|admonition|exercise)\b|dt |figure |table )[^>]*'
)
ARTICLE = re.compile(r"<article\b.*?</article>", re.DOTALL)
ADDRESS = re.compile(r'\b(src|href)="(?![a-z]+:|#)([^"]+)"')
LEFT_OUT = re.compile(r'<a class="headerlink".*?</a>| id="[^"]*"', re.DOTALL)


def element(html: str, start: int) -> str:
    """The element that begins at a place of a page, with all that it holds."""
    opening = re.compile(r"<(\w+)").match(html, start)
    assert opening, html[start : start + 40]
    depth = 0
    for tag in re.compile(rf"<(/?){opening[1]}\b").finditer(html, start):
        depth += -1 if tag[1] else 1
        if depth == 0:
            return html[start : html.index(">", tag.end()) + 1]
    raise ValueError(f"The element {html[start : start + 40]} does not end.")


def preview(html: str, name: str, page: str) -> str:
    """What stands behind a name on a page; nothing for what needs no preview.

    Addresses begin at the root of the site, marked by ``@/``: the reader may be anywhere in it.
    """
    for place in re.finditer(rf'<\w+[^>]* id="{re.escape(name)}"', html):
        if not SHOWN.match(place[0]):
            continue
        part = element(html, place.start())
        if part.startswith("<dt"):
            part = f"<dl>{part}{element(html, html.index('<dd', place.end()))}</dl>"
        part = LEFT_OUT.sub("", part)
        return ADDRESS.sub(lambda a: f'{a[1]}="@/{normpath(joined(dirname(page), a[2]))}"', part)
    return ""


def targets(pages: dict[str, str]) -> dict[str, set[str]]:
    """The names on each page that other pages link to."""
    found = defaultdict(set)
    for page, html in pages.items():
        for address, name in LINK.findall(html):
            target = normpath(joined(dirname(page), unquote(address))) if address else page
            if target != page and target in pages:
                found[target].add(unquote(name))
    return found


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the scripts of all pages that others link to."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    pages = {}
    for path in sorted(site.glob("book/**/*.html")):
        if found := ARTICLE.search(path.read_text(encoding="utf-8")):
            pages[path.relative_to(site).as_posix()] = found[0]
    for page, names in targets(pages).items():
        parts = {name: preview(pages[page], name, page) for name in sorted(names)}
        parts = {name: part for name, part in parts.items() if part}
        file = (site / FOLDER / page).with_suffix(".js")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = f"preview({json.dumps(page)}, {json.dumps(parts, ensure_ascii=False)});\n"
        file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", write, priority=950)  # after `lean` has mended the pages
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
