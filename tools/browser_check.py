"""Opens every page of the rendered book in a browser; reports what a reader would stumble over.

    browser_check.py [SITE] [--screenshots DIR] [--wide]
    browser_check.py [SITE] --timing [PAGE ...]

Each page is opened twice, from a local server and as a file, in a viewport as wide as a phone. The
checks are listed in `page_findings` (one page), `dead_links` (all pages), `access_findings`
(axe-core, light and dark), `width_findings` (the page on a desktop) and `book_findings` (search and
dark mode). Exit status 1 means that something was found, 2 that the check could not run. With
--timing nothing is checked: a table says how fast pages are on a slow computer.
"""

import argparse
import posixpath
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, ViewportSize
from playwright.sync_api import Error as PlaywrightError

from tools.browser import Scheme, browser, find_chromium, new_context, open_page, served
from tools.browser_timing import SHIFTS, print_timings

ROOT = Path(__file__).resolve().parent.parent
IN_PAGE = (Path(__file__).parent / "browser_check.js").read_text(encoding="utf-8")
PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
LOOKS: dict[str, tuple[ViewportSize, Scheme]] = {
    "desktop": (DESKTOP, "light"),
    "phone": (PHONE, "light"),
    "dark": (DESKTOP, "dark"),
}
AT_ONCE = "* { transition: none !important; }"  # colors do not fade into others
# What is out of sight is looked at too.
LAID_OUT = ".bd-article section { content-visibility: visible !important; }"
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
# A formula is a hidden drawing with a text for screen readers. There are thousands, and axe-core
# would look at each of their elements. Of code it is enough to see each color once.
FEWER = """() => {
  document.querySelectorAll("mjx-container").forEach((box) => box.replaceWith("x"));
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight span[class]"))
    if (seen.has(word.className)) word.replaceWith(word.textContent);
    else seen.add(word.className);
}"""
# The page takes all its sections for those in sight, and looks there for boxes that scroll.
ALL_IN_SIGHT = """window.IntersectionObserver = class extends IntersectionObserver {
  constructor(callback, options) { super(callback, { ...options, rootMargin: "1000000px" }); }
};"""
TWO_FRAMES = """() => new Promise((resolve) =>
  requestAnimationFrame(() => requestAnimationFrame(resolve)))"""
AXE_OPTIONS = {
    "resultTypes": ["violations"],
    "rules": {"label-content-name-mismatch": {"enabled": True}},
}
# MB that a page may ask for; the page of the library holds all its names and their formulas.
HEAVIEST = 2.0
HEAVIER = {"book/api.html": 2.4}
# How far a page may move while it loads, as browsers measure it (cumulative layout shift).
LARGEST_SHIFT = 0.05
# Code of so many columns has to fit a page of a desktop's width; wider code is for other tests.
COLUMNS = 83
CUT_OFF = """(columns) => {
  const article = document.querySelector("article") || document.body;
  for (const details of article.querySelectorAll("details")) details.open = true;
  const folded = article.querySelectorAll(".toggle-hidden");
  for (const box of folded) box.classList.remove("toggle-hidden");
  const longest = (text) => Math.max(...text.split("\\n").map((line) => [...line].length));
  const cut = [...article.querySelectorAll(".highlight pre")].filter((box) =>
    box.scrollWidth > box.clientWidth + 1 && longest(box.textContent) <= columns);
  return [document.scrollingElement.scrollWidth, cut.map((box) => box.textContent.slice(0, 70))];
}"""
# Nothing leaves this computer, not even for a page that asks for it.
ELSEWHERE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")
SLICE = 6000  # height of one screenshot; browsers do not draw pictures of any height


class Finding(NamedTuple):
    """What a reader would stumble over: on which page, opened how."""

    page: str
    how: str
    what: str


class Visit(NamedTuple):
    """What one page looked like: findings, its links and ids, and counts for the summary."""

    findings: list[Finding]
    links: list[str]
    ids: set[str]
    formulas: int
    wide: list[str]
    megabytes: float = 0.0


def pages(site: Path) -> list[str]:
    """All pages of the book: every HTML file but the theme's own templates and the raw sources."""
    relative = (path.relative_to(site) for path in site.rglob("*.html"))
    return sorted(
        path.as_posix() for path in relative if path.parts[0] not in ("_static", "_sources")
    )


def redirect(path: Path) -> str | None:
    """Where a page sends its reader at once, if it is only a signpost."""
    hit = re.search(
        r'http-equiv="Refresh" content="[\d.]+; *url=([^"]+)"',
        path.read_text(encoding="utf-8"),
        re.I,
    )
    return hit[1] if hit else None


class Watch:
    """Collects what a page says and asks for while it is open."""

    def __init__(self, page: Page, base: str):
        self.page, self.base = page, base
        self.found: list[str] = []
        self.pending = 0
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.found.append(f"script error: {error}"))
        page.on("request", self.request)
        page.on("requestfinished", lambda _: self.done())
        page.on("requestfailed", lambda r: self.done(f"request failed: {r.url} ({r.failure})"))
        page.on("response", self.response)
        page.route(ELSEWHERE, lambda route: route.abort())

    def console(self, message: ConsoleMessage) -> None:
        """Note what the page prints as an error."""
        if message.type == "error":
            self.found.append(f"console error: {message.text}")

    def request(self, request: Request) -> None:
        """Count what is on its way, and note what comes from elsewhere."""
        self.pending += 1
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.found.append(f"external request: {request.url}")

    def response(self, response: Response) -> None:
        """Note what is not there."""
        if response.status >= 400:
            self.found.append(f"answer {response.status}: {response.url}")

    def done(self, trouble: str | None = None) -> None:
        """One request less is on its way."""
        self.pending -= 1
        self.found += [trouble] if trouble else []

    def settle(self, patience_ms: int = 15_000) -> None:
        """Wait until nothing has been on its way for a while; late errors arrive meanwhile too."""
        quiet = 0
        for _ in range(patience_ms // 100):
            quiet = 0 if self.pending > 0 else quiet + 1
            if quiet > 4:
                return
            self.page.wait_for_timeout(100)
        self.found.append(f"still loading after {patience_ms / 1000:g} s")


def access_findings(page: Page, base: str, name: str) -> list[Finding]:
    """What axe-core calls serious or critical on a page, in light and in dark colors."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    page.emulate_media(color_scheme=SCHEMES[0])
    open_page(page, base + name)
    page.add_style_tag(content=LAID_OUT + AT_ONCE)
    page.evaluate(FEWER)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)  # which an open page follows
        page.evaluate(TWO_FRAMES)
        theme = page.evaluate("document.documentElement.dataset.theme")
        if theme not in (None, scheme):
            found.append(Finding(name, scheme, f"colors do not follow the reader's: {theme}"))
        for violation in Axe().run(page, options=AXE_OPTIONS).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                place = " ".join(violation["nodes"][0]["html"].split())[:100]
                what = f"{violation['id']} in {len(violation['nodes'])} places: {place}"
                found.append(Finding(name, scheme, what))
    return found


def width_findings(page: Page, name: str) -> list[Finding]:
    """What does not fit an open page on a desktop: the page itself, and code of usual width."""
    width, cut = page.evaluate(CUT_OFF, COLUMNS)
    found = []
    if width > DESKTOP["width"]:
        what = f"page is {width} px wide on a desktop of {DESKTOP['width']} px"
        found.append(Finding(name, "desktop", what))
    if cut:
        start = " ".join(cut[0].split())
        what = f"{len(cut)} pieces of code of up to {COLUMNS} columns are cut off: {start}"
        found.append(Finding(name, "desktop", what))
    return found


def page_findings(page: Page, base: str, name: str, how: str) -> Visit:
    """Open one page at phone width and look at everything on it, folded parts opened."""
    watch = Watch(page, base)
    page.add_init_script(SHIFTS)
    open_page(page, base + name)
    watch.settle()
    shift = page.evaluate("window.shifts")
    page.add_style_tag(content=LAID_OUT)
    seen = page.evaluate(f"(phone) => {{ {IN_PAGE}; return inspect(phone); }}", PHONE["width"])
    page.wait_for_timeout(50)  # a script error caused by the clicks arrives a moment later
    found = [Finding(name, how, what) for what in [*watch.found, *seen["findings"]]]
    megabytes = seen["bytes"] / 1e6
    allowed = HEAVIER.get(name, HEAVIEST)
    if megabytes > allowed:
        what = f"asks for {megabytes:.2f} MB, where {allowed:g} are allowed"
        found.append(Finding(name, how, what))
    if shift > LARGEST_SHIFT:
        what = f"moves by {shift:.2f} while it loads, where {LARGEST_SHIFT:g} is allowed"
        found.append(Finding(name, how, what))
    return Visit(found, seen["links"], set(seen["ids"]), seen["formulas"], seen["wide"], megabytes)


def dead_links(visits: dict[str, Visit], site: Path, base: str, how: str) -> list[Finding]:
    """Links within the book whose page, file or anchor is not there."""
    found = []
    for name, visit in visits.items():
        for link in sorted(set(visit.links)):
            address, anchor = urldefrag(link)
            if not address.startswith(base):
                continue
            target = unquote(address[len(base) :].split("?")[0])
            if (site / target).is_dir():
                target = f"{target.rstrip('/')}/index.html".lstrip("/")
            if not (site / target).is_file():
                found.append(Finding(name, how, f"link to a file that is not there: {target}"))
            elif anchor and target in visits and unquote(anchor) not in visits[target].ids:
                found.append(
                    Finding(name, how, f"link to an anchor that is not there: {target}#{anchor}")
                )
    return found


def search_findings(
    page: Page, base: str, how: str, term: str, patience_ms: float
) -> list[Finding]:
    """The search page finds a word that the book surely has."""
    watch = Watch(page, base)
    page.goto(f"{base}search.html?q={term}", wait_until="load")
    try:
        page.wait_for_selector("#search-results li a", timeout=patience_ms)
        watch.settle()
    except PlaywrightError:
        watch.found.append(f"search for '{term}' shows no result")
    return [Finding("search.html", how, what) for what in watch.found]


def dark_findings(page: Page, base: str, name: str, how: str) -> list[Finding]:
    """The button in the header leads to a dark page and back to a light one."""
    watch = Watch(page, base)
    open_page(page, base + name)
    backgrounds = {}
    for _ in range(4):
        mode = page.evaluate("document.documentElement.dataset.theme || ''")
        backgrounds[mode] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        button = page.locator(".theme-switch-button:visible").first
        if not button.count():
            watch.found.append("there is no button for dark mode")
            break
        button.click()
    if len({backgrounds.get("light"), backgrounds.get("dark"), None}) < 3:
        watch.found.append(f"dark mode does not change the page: {backgrounds}")
    return [Finding(name, how, what) for what in watch.found]


def visit_all(
    instance: Browser, site: Path, base: str, how: str
) -> tuple[dict[str, Visit], list[Finding]]:
    """Every page, then the links between them."""
    visits: dict[str, Visit] = {}
    found: list[Finding] = []
    with new_context(instance, PHONE) as context:
        for name in pages(site):
            if target := redirect(site / name):
                address = posixpath.normpath(posixpath.join(name, "..", target))
                visits[name] = Visit([], [base + address], set(), 0, [])
                continue
            page = context.new_page()
            try:
                visits[name] = page_findings(page, base, name, how)
            except PlaywrightError as error:
                found.append(
                    Finding(
                        name, how, f"the page could not be checked: {str(error).splitlines()[0]}"
                    )
                )
            page.close()
    for visit in visits.values():
        found += visit.findings
    return visits, found + dead_links(visits, site, base, how)


def access_to_all(instance: Browser, site: Path, base: str) -> list[Finding]:
    """Whether all pages can be used with a screen reader, a keyboard and weak eyes, and fit."""
    found = []
    with new_context(instance, DESKTOP) as context:
        page = context.new_page()
        page.add_init_script(ALL_IN_SIGHT)
        for name in (name for name in pages(site) if not redirect(site / name)):
            found += access_findings(page, base, name)
            found += width_findings(page, name)
    return found


def book_findings(
    instance: Browser, base: str, how: str, first: str, term: str, patience_ms: float = 20_000
) -> list[Finding]:
    """What is wrong with the book as a whole: its search, and its dark mode."""
    with new_context(instance, DESKTOP) as context:
        found = search_findings(context.new_page(), base, how, term, patience_ms)
        return found + dark_findings(context.new_page(), base, first, how)


def take_screenshots(instance: Browser, site: Path, base: str, folder: Path) -> None:
    """Each page as a desktop, a phone and a dark desktop show it, in slices of readable height."""
    folder.mkdir(parents=True, exist_ok=True)
    for look, (viewport, scheme) in LOOKS.items():
        with new_context(instance, viewport, scheme) as context:
            page = context.new_page()
            for name in (name for name in pages(site) if not redirect(site / name)):
                page.set_viewport_size(viewport)
                open_page(page, base + name)
                page.wait_for_timeout(300)
                height = page.evaluate("document.documentElement.scrollHeight")
                page.set_viewport_size({"width": viewport["width"], "height": min(SLICE, height)})
                for part, top in enumerate(range(0, height, SLICE), start=1):
                    page.evaluate(f"window.scrollTo(0, {top})")
                    shot = f"{name[:-5].replace('/', '-')}-{look}-{part}.png"
                    page.screenshot(path=folder / shot)


def report(visits: dict[str, Visit], found: list[Finding], wide: bool) -> None:
    """Print a line for each page, then each finding once."""
    count = Counter(finding.page for finding in found)
    width = max(map(len, [*visits, *count, "page"]))
    print(f"{'page':<{width}}  formulas    MB  scrolling  links  findings")
    for name in sorted({*visits, *count}):
        visit = visits.get(name, Visit([], [], set(), 0, []))
        numbers = f"{visit.formulas:8}  {visit.megabytes:4.2f}  {len(visit.wide):9}"
        print(f"{name:<{width}}  {numbers}  {len(visit.links):5}  {count[name]:8}")
        if wide:
            print("".join(f"    scrolls on a phone: {text}\n" for text in visit.wide), end="")
    for page, what in dict.fromkeys((finding.page, finding.what) for finding in found):
        ways = dict.fromkeys(
            finding.how for finding in found if (finding.page, finding.what) == (page, what)
        )
        print(f"{page} ({', '.join(ways)}): {what}")


def main() -> int:
    """Do what the command line says; gives the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument(
        "--screenshots", type=Path, metavar="DIR", help="write pictures of every page there"
    )
    parser.add_argument(
        "--wide", action="store_true", help="list what scrolls sideways in its box on a phone"
    )
    parser.add_argument(
        "--timing",
        nargs="*",
        metavar="PAGE",
        help="only say how fast these pages are (book/new.html ...), by default the longest five",
    )
    parser.add_argument("--search", default="collapse", help="a word that the search has to find")
    arguments = parser.parse_args()
    site = arguments.site.resolve()
    if not pages(site):
        print(
            f"There is no rendered book in {arguments.site}: run `make book` first.",
            file=sys.stderr,
        )
        return 2
    if find_chromium() is None:
        print(
            "There is no Chromium here: install it, or name one in the variable CHROMIUM.",
            file=sys.stderr,
        )
        return 2
    if find_spec("axe_playwright_python") is None:
        print("There is no axe-core here: install requirements.txt anew.", file=sys.stderr)
        return 2
    if arguments.timing is not None:
        largest = sorted(pages(site), key=lambda name: -(site / name).stat().st_size)
        with browser() as instance, served(site) as address:
            looks = {"desktop": DESKTOP, "phone": PHONE}
            print_timings(instance, looks, address, arguments.timing or largest[:5])
        return 0
    with browser() as instance, served(site) as address:
        visits: dict[str, Visit] = {}
        found: list[Finding] = []
        for how, base in (("file", site.as_uri() + "/"), ("served", address)):
            visits, new = visit_all(instance, site, base, how)
            found += new + book_findings(instance, base, how, pages(site)[0], arguments.search)
        found += access_to_all(instance, site, address)
        if arguments.screenshots:
            take_screenshots(instance, site, address, arguments.screenshots)
    report(visits, found, arguments.wide)
    print(f"{len(visits)} pages, each as a file and served: {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
