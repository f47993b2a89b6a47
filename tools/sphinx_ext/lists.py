"""The lists of all statements and figures, filled in when every page is written.

The page book/lists.md holds an empty box for each list. What goes in has its number, its title and
its formulas on the page where it stands, so it is taken from there.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

PAGE = "book/lists"
TAG = re.compile(r"<[^>]*>")
HEADLINE = re.compile(r'<h1>((?:(?!</h1>).)*)<a class="headerlink"', re.DOTALL)
STATEMENT = re.compile(
    r'<div class="proof (?!proof)[\w ]*" id="(?P<name>[^"]*)">\s*<p class="admonition-title">'
    r'<span class="caption-number">(?P<number>[^<]*)</span>(?P<text>.*?)</p>',
    re.DOTALL,
)
FIGURE = re.compile(
    r'<figure [^>]*id="(?P<name>[^"]*)"(?:(?!</figure>).)*?<span class="caption-number">'
    r'(?P<number>[^<]*)</span><span class="caption-text">(?P<text>.*?)</span>'
    r'<a class="headerlink"',
    re.DOTALL,
)


class Entry(NamedTuple):
    """A line of a list.

    Attributes:
        name: The name that links to it on its page.
        number: What it is called, like Theorem 5.5.
        text: Its title, in HTML.
    """

    name: str
    number: str
    text: str


def first_sentence(html: str) -> str:
    """The beginning of a text up to its first full stop; elements stay whole."""
    depth = end = 0
    for tag in [*TAG.finditer(html), None]:
        start = tag.start() if tag else len(html)
        if depth == 0:
            before = TAG.sub("", html[:end])[-1:]
            if before == "." and html[end : end + 1] == " ":
                return html[:end]
            if stop := re.search(r"\.(?=\s|$)", html[end:start]):
                return html[: end + stop.start()] + "."
        if tag:
            depth += -1 if tag[0].startswith("</") else not tag[0].endswith("/>")
            end = tag.end()
    return html


def entries(html: str, pattern: re.Pattern[str], shorten: Callable[[str], str]) -> Iterator[Entry]:
    """What a page holds of one kind, without links to other pages in its title."""
    for found in pattern.finditer(html):
        text = re.sub(r"</?a\b[^>]*>", "", found["text"]).strip().removeprefix("·").strip()
        yield Entry(found["name"], found["number"].strip(), shorten(text))


def lines(address: str, title: str, found: Iterable[Entry]) -> str:
    """The lines of one chapter below its title; nothing for a chapter without any."""
    items = [
        f'<li><a class="reference internal" href="{address}#{entry.name}">{entry.number}</a>'
        f" {entry.text}</li>"
        for entry in found
    ]
    if not items:
        return ""
    return f'<h3><a href="{address}">{title}</a></h3>\n<ul class="simple">{"".join(items)}</ul>\n'


def fill(app: Sphinx, exception: Exception | None) -> None:
    """Write the lists into their page."""
    if exception is not None or app.builder.format != "html":
        return
    page = Path(app.outdir) / f"{PAGE}.html"
    html = page.read_text(encoding="utf-8")
    statements = figures = ""
    for name in app.env.collect_relations():
        text = (Path(app.outdir) / f"{name}.html").read_text(encoding="utf-8")
        address = relative_uri(f"{PAGE}.html", f"{name}.html")
        if headline := HEADLINE.search(text):
            statements += lines(address, headline[1], entries(text, STATEMENT, str))
            figures += lines(address, headline[1], entries(text, FIGURE, first_sentence))
    for kind, content in (("statements", statements), ("figures", figures)):
        before, box, rest = html.partition(f'<div class="list-of-{kind}">')
        html = before + box + content + rest[rest.index(f"</div><!-- {kind} -->") :]
    page.write_text(html, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", fill, priority=800)  # before `lean` and `previews`
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
