"""Formulas set when the book is built, by the MathJax that otherwise runs in each browser.

MathJax comes with the package sphinx-mathjax-offline and node with playwright, both of which the
environment has anyway. A formula that MathJax refuses is a warning with its place in the text, and
so an error of the build. The pages need no script for their formulas, only maths.css, which holds
the rules, and the fonts with the glyphs that the book uses. A font of a style sheet arrives after
the first drawing of a page, and all lines with formulas would then change their height. So a script
in the head of each page adds the fonts before anything is drawn; only a browser without scripts
takes them from a style sheet.
"""

import base64
import io
import json
import re
import subprocess
from importlib.metadata import files
from pathlib import Path
from typing import Any

from docutils import nodes
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from playwright._impl._driver import compute_driver_executable
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

PROGRAM = Path(__file__).with_suffix(".js")
FONTS = "output/chtml/fonts/woff-v2"
STYLES, FONT_STYLES, FONT_SCRIPT = "maths.css", "maths-fonts.css", "maths-fonts.js"
NO_SCRIPT = '<noscript><link rel="stylesheet" href="{}" /></noscript>'
# Fonts by name as they are embedded; a font made of bytes is there at once.
ADD_FONTS = """for (const [name, data] of Object.entries({})) {{
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  document.fonts.add(new FontFace(name, bytes));
}}
"""
# Text commands hold words; words outside them come from two dollar signs that were no formula.
TEXT_COMMAND = re.compile(
    r"\\(text|mathrm|textbf|textit|mbox|operatorname\*?|tag|label)\s*\{[^{}]*\}"
)
PROSE = re.compile(r"(^|[\s,])(and|the|of|is|to|for|with|from)[\s,]")
# What must not be parted from the formula before or after it.
OPENING = re.compile(r"[(\[“‘]+$")
CLOSING = re.compile(r"^[.,;:!?)\]’”]+")
FACE = re.compile(
    r"@font-face[^{]*\{[^}]*?font-family: (?P<name>[\w-]+);[^}]*?fonts/(?P<file>[^\"]+)[^}]*\}"
)
GLYPH = re.compile(r"([^{}]*)\{\s*[^}]*content: \"((?:\\[0-9A-F]+|.)*)\"")
# What MathJax writes for tools that work on its output, and letters alone in their element.
COMPACT = [
    (re.compile(r' xmlns="http://www\.w3\.org/1998/Math/MathML"| unselectable="on"'), ""),
    (re.compile(r' data-mjx-[a-z]+="[^"]*"'), ""),
    (
        re.compile(
            r'<mjx-(m[ino]) class="mjx-\w+"((?: (?:space|size)="\w+")*)>'
            r'<mjx-c class="([^"]*)"></mjx-c></mjx-\1>'
        ),
        r'<mjx-c class="\3"\2></mjx-c>',
    ),
]

logger = logging.getLogger(__name__)


class TexError(ValueError):
    """A formula that cannot be set."""


def mathjax_folder() -> Path:
    """Where the package sphinx-mathjax-offline keeps MathJax, in a folder that is no module."""
    for file in files("sphinx-mathjax-offline") or []:
        if file.name == "node-main.js":
            return Path(str(file.locate())).parent
    raise FileNotFoundError("sphinx-mathjax-offline holds no node-main.js; run `make clean book`.")


class Typesetter:
    """MathJax in a process of its own, which sets one formula after the other.

    It knows no macros of this book: a notebook's formulas are read in JupyterLab too.
    """

    def __init__(self) -> None:
        node, _ = compute_driver_executable()
        self.folder = mathjax_folder()
        self.process = subprocess.Popen(
            [node, str(PROGRAM), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.known: dict[tuple[str, bool], dict[str, str]] = {}

    def ask(self, **request: object) -> dict[str, str]:
        """One request and its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def html(self, tex: str, display: bool) -> str:
        """The HTML of a formula.

        Raises:
            TexError: The formula is no TeX, uses an unknown macro, or is a sentence.
        """
        if PROSE.search(TEXT_COMMAND.sub("", tex)):
            raise TexError("a sentence became a formula")
        key = tex, display
        if key not in self.known:
            self.known[key] = self.ask(tex=tex, display=display)
        if "error" in self.known[key]:
            raise TexError(self.known[key]["error"])
        return compact(self.known[key]["html"])

    def styles(self) -> dict[str, str]:
        """Files, by name: the rules of all formulas so far, and the fonts with their glyphs."""
        css = self.ask(styles=True)["css"]
        used = glyphs(css)
        faces = [face for face in FACE.finditer(css) if face["name"] in used]
        fonts = {
            face["name"]: base64.b64encode(self.font(face["file"], used[face["name"]])).decode()
            for face in faces
        }

        def embedded(face: re.Match[str]) -> str:
            address = f"data:font/woff;base64,{fonts[face['name']]}"
            return face[0].replace(f"fonts/{face['file']}", address)

        return {
            STYLES: FACE.sub("", css),
            FONT_STYLES: "\n".join(map(embedded, faces)),
            FONT_SCRIPT: ADD_FONTS.format(json.dumps(fonts)),
        }

    def font(self, name: str, letters: set[str]) -> bytes:
        """A font file with these letters and no others; all that it has if none are named."""
        file = self.folder / FONTS / name
        if not letters:
            return file.read_bytes()
        font = TTFont(file)
        options = Options(notdef_outline=True, layout_features=[], hinting=False)
        options.drop_tables += ["FFTM"]
        subsetter = Subsetter(options)
        subsetter.populate(text="".join(letters))
        subsetter.subset(font)
        font.flavor = "woff"
        buffer = io.BytesIO()
        font.save(buffer)
        return buffer.getvalue()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def compact(html: str) -> str:
    """The same drawing in fewer elements and letters; a long page has thousands of formulas.

    A letter stands in an element for what it is (a variable, a number, an operator) and in one for
    its glyph. Only the glyph has a look, and takes over the distance and size of the other.
    """
    for pattern, replacement in COMPACT:
        html = pattern.sub(replacement, html)
    return html


def glyphs(css: str) -> dict[str, set[str]]:
    """The letters that the rules of MathJax write, for each of its fonts."""
    used: dict[str, set[str]] = {"MJXZERO": set()}  # holds a line without height
    for selector, content in GLYPH.findall(css):
        letters = re.sub(r"\\([0-9A-F]+) ?", lambda code: chr(int(code[1], 16)), content)
        variant = re.search(r"\.TEX-(\w+)", selector)
        fonts = [f"MJXTEX-{variant[1]}" if variant else "MJXTEX"]
        if "stretchy" in selector:
            fonts = ["MJXTEX", "MJXTEX-S1", "MJXTEX-S4", "MJXTEX-A"]
        for font in fonts:
            used.setdefault(font, set()).update(letters)
    return used


# ---- what Sphinx calls ----


def display_source(tex: str) -> str:
    """What Sphinx hands to MathJax: paragraphs one below the other, lines broken where TeX says."""
    parts = [part for part in tex.split("\n\n") if part.strip()]
    parts = [rf"\begin{{split}}{p}\end{{split}}" if r"\\" in p else p for p in parts]
    if len(parts) < 2:
        return "".join(parts)
    return r"\begin{align}\begin{aligned}" + r"\\".join(parts) + r"\end{aligned}\end{align}"


class Renderer:
    """Writes the formulas of all pages; MathJax starts with the build and ends with it."""

    typesetter: Typesetter

    def start(self, app: Sphinx, config: Config) -> None:
        """Start MathJax."""
        self.typesetter = Typesetter()

    def finish(self, app: Sphinx, exception: Exception | None) -> None:
        """Write the styles and the fonts of all formulas."""
        if exception is None and app.builder.format == "html":
            for name, content in self.typesetter.styles().items():
                (Path(app.outdir) / "_static" / name).write_text(content, encoding="utf-8")
        self.typesetter.close()

    def write(self, page: HTML5Translator, node: nodes.Element, tex: str, display: bool) -> None:
        """Write a formula; where it cannot be set, warn and write its source."""
        try:
            page.body.append(self.typesetter.html(tex, display))
        except TexError as error:
            logger.warning("%s: %s", error, " ".join(tex.split()), location=node)
            page.body.append(page.encode(tex))

    def inline(self, page: HTML5Translator, node: nodes.math) -> None:
        """Write a formula within a line."""
        page.body.append(page.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
        self.write(page, node, node.astext(), display=False)
        page.body.append("</span>")
        raise nodes.SkipNode

    def block(self, page: HTML5Translator, node: nodes.math_block) -> None:
        """Write a formula on lines of its own, with its number if it has one."""
        page.body.append(page.starttag(node, "div", CLASS="math notranslate nohighlight"))
        if node["number"]:
            page.body.append(f'<span class="eqno">({get_node_equation_number(page, node)})')
            page.add_permalink_ref(node, "Link to this equation")
            page.body.append("</span>")
        tex = node.astext() if node["nowrap"] else display_source(node.astext())
        self.write(page, node, tex, display=True)
        page.body.append("</div>\n")
        raise nodes.SkipNode


def keep_together(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a formula and the punctuation around it into one box that is not broken."""
    for formula in list(doctree.findall(nodes.math)):
        parent: Any = formula.parent
        place = parent.index(formula)
        before: Any = parent[place - 1] if place else None
        after: Any = parent[place + 1] if place + 1 < len(parent) else None
        opening = OPENING.search(before) if isinstance(before, nodes.Text) else None
        closing = CLOSING.search(after) if isinstance(after, nodes.Text) else None
        box = nodes.inline(classes=["keep"])
        if opening:
            parent[place - 1] = nodes.Text(before[: opening.start()])
            box += nodes.Text(opening[0])
        box += formula.deepcopy()
        if closing:
            parent[place + 1] = nodes.Text(after[closing.end() :])
            box += nodes.Text(closing[0])
        if len(box) > 1:
            parent[place] = box


def fonts_without_script(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let browsers without scripts find the fonts."""
    address = context["pathto"](f"_static/{FONT_STYLES}", resource=True)
    context["metatags"] = context.get("metatags", "") + NO_SCRIPT.format(address)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    renderer = Renderer()
    app.add_html_math_renderer("built", (renderer.inline, None), (renderer.block, None))
    app.add_css_file(STYLES)
    app.add_js_file(FONT_SCRIPT, priority=0)
    app.connect("html-page-context", fonts_without_script)
    app.connect("config-inited", renderer.start)
    app.connect("doctree-resolved", keep_together)
    app.connect("build-finished", renderer.finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
