"""The whole rendered book as one PDF.

    pdf.py [SITE]

The pages of the site, with their formulas and figures as they are, follow each other in one page
that Chromium prints, twice: the first time tells on which sheet each section begins, and the second
has that in the contents. What is folded on the pages and the page of the library are left out. The
landing page then links to the file.
"""

import argparse
import io
import re
import sys
import zlib
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from posixpath import dirname, normpath
from posixpath import join as joined
from typing import NamedTuple
from urllib.parse import unquote

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    NameObject,
    NumberObject,
    PdfObject,
    StreamObject,
    TextStringObject,
)

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.browser import browser

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
STYLE = ROOT / "assets" / "pdf.css"
NAME = "perturbation-analysis-of-neural-collapse.pdf"
LEFT_OUT = {"book/api", "book/lists"}
ARTICLE = re.compile(r"<article\b[^>]*>(.*?)</article>", re.DOTALL)
STYLES = re.compile(r'<link[^>]*rel="stylesheet"[^>]*>')
# Nothing on paper can be unfolded, pressed or copied.
UNPRINTABLE = re.compile(
    r'<details class="[^"]*\bhide\b[^>]*>.*?</details>|<script\b.*?</script>|<button\b.*?</button>'
    r'|<input\b[^>]*>|<a class="headerlink".*?</a>',
    re.DOTALL,
)
PACK = 500  # objects in one compressed stream
LINK = re.compile(r'<a\b([^>]*?) href="(?![a-z]+:)([^"#]*)(?:#([^"]*))?"([^>]*)>')
HEADING = re.compile(r'id="([^"]*)">(?:\s*<span id="[^"]*"></span>)*\s*<h([23])>(.*?)</h\2>', re.S)
TAG = re.compile(r"<[^>]*>")


class Part(NamedTuple):
    """Some chapters under one name.

    Attributes:
        title: The name of the part; nothing for the landing page.
        pages: Names of pages, in their order.
    """

    title: str
    pages: list[str]


def parts() -> list[Part]:
    """The order of the book, from its table of contents."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [Part("", [contents["root"]])]
    for part in contents["parts"]:
        pages = [chapter["file"] for chapter in part["chapters"]]
        found.append(Part(part["caption"], [page for page in pages if page not in LEFT_OUT]))
    return found


def mark(page: str, name: str | None = None) -> str:
    """A name in the whole book for a name on a page, or for the page."""
    return f"{page.replace('/', '-')}--{name}" if name else page.replace("/", "-")


def chapter(html: str, page: str, known: set[str]) -> str:
    """A page as a chapter of the whole: its names are its own, and its headings a level lower."""
    found = ARTICLE.search(html)
    assert found, page
    body = UNPRINTABLE.sub("", found[1])

    def link(place: re.Match[str]) -> str:
        before, address, name, after = place.groups()
        target = normpath(joined(dirname(page), unquote(address))) if address else f"{page}.html"
        if target.removesuffix(".html") not in known:
            return f"<a{before}{after}>"
        return f'<a{before} href="#{mark(target.removesuffix(".html"), name)}"{after}>'

    body = LINK.sub(link, body)
    body = re.sub(r'\bid="([^"]+)"', lambda name: f'id="{mark(page, name[1])}"', body)
    body = re.sub(r"url\(#([^)]+)\)", lambda name: f"url(#{mark(page, name[1])})", body)
    body = re.sub(
        r'\bsrc="(?!data:)([^"]+)"',
        lambda file: f'src="{normpath(joined(dirname(page), file[1]))}"',
        body,
    )
    body = re.sub(r"(</?h)([1-5])\b", lambda tag: f"{tag[1]}{int(tag[2]) + 1}", body)
    return f'<div class="chapter" id="{mark(page)}">{body}</div>'


def plain(html: str) -> str:
    """The words of a heading; of a formula those for screen readers."""
    return " ".join(unescape(TAG.sub("", html)).split())


def contents(book: list[tuple[Part, list[str]]], sheets: dict[str, int]) -> str:
    """The table of contents: parts, chapters and their sections, with sheets where known."""
    rows = []
    for part, chapters in book:
        if part.title:
            rows.append(f'<p class="of-part">{part.title}</p>')
        for html in chapters:
            for name, level, title in HEADING.findall(html):
                sheet = sheets.get(name, "")
                rows.append(
                    f'<p class="of-{level}"><a href="#{name}"><span>{title}</span>'
                    f"<span>{sheet}</span></a></p>"
                )
    return f'<nav class="contents"><h1>Contents</h1>{"".join(rows)}</nav>'


def whole(book: list[tuple[Part, list[str]]], front: str, head: str, sheets: dict[str, int]) -> str:
    """The page that is printed."""
    body = [front, contents(book, sheets)]
    for part, chapters in book:
        if part.title:
            body.append(f'<h1 class="part">{part.title}</h1>')
        body += chapters
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">{head}'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f'<body><main class="bd-content"><article class="bd-article">{"".join(body)}</article>'
        "</main></body></html>"
    )


def printed(file: Path, html: str) -> bytes:
    """What Chromium prints of a page beside the others; the page is removed afterwards.

    Its name does not end in html, so that it is not taken for a page of the book meanwhile.
    """
    file.write_text(html, encoding="utf-8")
    try:
        with browser() as instance:
            page = instance.new_page()
            page.set_default_timeout(600_000)
            page.emulate_media(media="print", color_scheme="light")
            page.goto(file.as_uri(), wait_until="load")
            page.evaluate("async () => { await document.fonts.ready; }")
            return page.pdf(prefer_css_page_size=True, outline=True, tagged=True)
    finally:
        file.unlink()


def sheets_of(pdf: bytes) -> dict[str, int]:
    """On which sheet each name stands."""
    reader = PdfReader(io.BytesIO(pdf))
    found = {}
    for name, place in reader.named_destinations.items():
        number = reader.get_destination_page_number(place)
        if number is not None:
            found[unquote(name.removeprefix("/"))] = number + 1
    return found


def with_titles(pdf: bytes, titles: list[str], title: str) -> bytes:
    """The same with a name, and with spaces in its outline, where Chromium joins lines."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf))
    writer.add_metadata({"/Title": title})
    known = {re.sub(r"\s", "", text): text for text in titles}

    def mend(item: object) -> None:
        while item is not None:
            entry = item.get_object()  # type: ignore[attr-defined]
            words = re.sub(r"\s", "", entry.get("/Title", ""))
            # Chromium writes the words of some headings twice.
            half = words[: len(words) // 2]
            text = known.get(half if half + half == words else words)
            if text:
                entry[NameObject("/Title")] = TextStringObject(text)
            mend(entry.get("/First"))
            item = entry.get("/Next")

    outline = writer.root_object.get("/Outlines")
    if outline is not None:
        mend(outline.get_object().get("/First"))
    return packed(writer)


def packed(writer: PdfWriter) -> bytes:
    """The file with its small objects packed into compressed streams.

    Chromium describes each element of the pages for screen readers, 140,000 in this book; written
    one by one, as pypdf does, they are half of the file.
    """
    writer.root_object[NameObject("/Version")] = NameObject("/1.5")
    buffer = io.BytesIO()
    buffer.write(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
    rows = {0: (0, 0, 65535)}

    def write(number: int, value: PdfObject) -> None:
        rows[number] = (1, buffer.tell(), 0)
        buffer.write(b"%d 0 obj\n" % number)
        value.write_to_stream(buffer)
        buffer.write(b"\nendobj\n")

    small: list[tuple[int, bytes]] = []
    for number, value in enumerate(writer._objects, start=1):
        if value is None:
            continue
        if isinstance(value, StreamObject):
            write(number, value)
        else:
            text = io.BytesIO()
            value.write_to_stream(text)
            small.append((number, text.getvalue()))
    number = len(writer._objects)
    for start in range(0, len(small), PACK):
        pack = small[start : start + PACK]
        number += 1
        offset, heads = 0, []
        for place, (member, text_of_it) in enumerate(pack):
            heads.append(b"%d %d " % (member, offset))
            rows[member] = (2, number, place)
            offset += len(text_of_it) + 1
        head = b"".join(heads)
        entries = {"/Type": NameObject("/ObjStm"), "/N": NumberObject(len(pack))}
        entries["/First"] = NumberObject(len(head))
        write(number, stream(head + b"\n".join(text_of_it for _, text_of_it in pack), entries))
    index, number = buffer.tell(), number + 1
    rows[number] = (1, index, 0)
    table = b"".join(
        kind.to_bytes(1, "big") + place.to_bytes(4, "big") + rest.to_bytes(2, "big")
        for kind, place, rest in (rows.get(i, (0, 0, 0)) for i in range(number + 1))
    )
    trailer: dict[str, PdfObject] = {"/Type": NameObject("/XRef")}
    trailer["/Size"] = NumberObject(number + 1)
    trailer["/W"] = ArrayObject(map(NumberObject, (1, 4, 2)))
    for name, value in (("/Root", writer.root_object), ("/Info", writer._info)):
        if value is not None and value.indirect_reference is not None:
            trailer[name] = value.indirect_reference
    write(number, stream(table, trailer))
    buffer.write(b"startxref\n%d\n%%%%EOF\n" % index)
    return buffer.getvalue()


def stream(data: bytes, entries: Mapping[str, PdfObject]) -> StreamObject:
    """A compressed stream with these entries in its dictionary."""
    value = StreamObject()
    value.set_data(zlib.compress(data, 9))
    value[NameObject("/Filter")] = NameObject("/FlateDecode")
    value.update({NameObject(name): entry for name, entry in entries.items()})
    return value


def front_page(html: str) -> str:
    """The title and what edition this is."""
    title = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
    edition = re.search(r'<p class="edition">(.*?)</p>', html, re.DOTALL)
    name = title[1].split(" — ")[-1] if title else ""
    return (
        f'<div class="front"><p class="title">{name}</p>'
        f"<p>{edition[1] if edition else ''}</p>"
        "<p>Printed from the pages of the book. Each chapter is a notebook: code that is folded on "
        "its page is left out here.</p></div>"
    )


def link_from(page: Path, pdf: Path) -> None:
    """Let the landing page lead to the file."""
    html = page.read_text(encoding="utf-8")
    depth = "../" * (len(page.relative_to(pdf.parent).parts) - 1)
    megabytes = pdf.stat().st_size / 1e6
    link = (
        f' The whole book is also <a href="{depth}{pdf.name}">one file for paper</a>'
        f" (PDF, {megabytes:.0f} MB)."
    )
    html, count = re.subn(
        r'(<span class="whole-book">).*?(</span>)', lambda box: box[1] + link + box[2], html
    )
    if count != 1:
        raise ValueError(f"{page} must have one place for the link to the PDF, but has {count}.")
    whole = page.with_suffix(".new")
    whole.write_text(html, encoding="utf-8")
    whole.replace(page)  # at once, as the pages may be looked at meanwhile


def main() -> int:
    """Print the site and link to the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("site", nargs="?", type=Path, default=SITE)
    site = parser.parse_args().site.resolve()
    order = parts()
    known = {page for part in order for page in part.pages}
    landing = site / f"{order[0].pages[0]}.html"
    if not landing.exists():
        print(f"{site} holds no rendered book; run `make book`.", file=sys.stderr)
        return 2
    pages = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in sorted(known)}
    book = [(part, [chapter(pages[name], name, known) for name in part.pages]) for part in order]
    first = landing.read_text(encoding="utf-8")
    # Also that of browsers without scripts, which holds the fonts of formulas.
    head = "".join(STYLES.findall(first)).replace('href="../', 'href="')
    chapters = [html for _, some in book for html in some]
    titles = [plain(title) for html in chapters for *_, title in HEADING.findall(html)]
    titles += [part.title for part in order]
    front = front_page(first)
    sheets: dict[str, int] = {}
    for _ in range(2):
        pdf = printed(site / "whole.htm", whole(book, front, head, sheets))
        sheets = sheets_of(pdf)
    title = plain(front.split("</p>")[0])
    file = site / NAME
    file.write_bytes(with_titles(pdf, titles, title))
    link_from(landing, file)
    print(f"{file}: {len(PdfReader(file).pages)} pages, {file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
