"""Compares a stored figure with the freshly drawn one.

What a reader sees must be the same, last digits may differ. Drawings (SVG, alone or inside HTML)
are read as a sequence of tags, attributes, comments and texts. Everything has to agree exactly,
except the numbers of coordinates, which may differ by a pixel at most, and identifiers that were
generated from a hash, which are renamed in their order of appearance. Pictures (PNG) are compared
as pixels.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
from PIL import Image

# Coordinates may differ by this many units of the drawing (about a pixel), and by this share of the
# largest number in one attribute; but a flip of a printed tenth always passes.
TOLERANCE, SHARE, FLOOR = 1.0, 0.02, 0.15
# A pixel differs visibly from this difference on, of 255; this share of them may; and this is
# allowed on average. A root mean square over the picture, as in matplotlib.testing.compare, is one
# number for both: where it lets the faint noise of another processor pass, a small marker may move.
VISIBLE, VISIBLE_SHARE, MEAN = 48, 1e-4, 0.25

# Attributes that hold coordinates, in lower case. Colors, widths of lines and opacities are in
# others and have to agree exactly.
GEOMETRY = "d points x y x1 y1 x2 y2 cx cy r rx ry dx dy width height viewbox transform"
COORDINATES = frozenset(f"{GEOMETRY} values from to by path".split())
NUMBER = re.compile(r"(?<![\w#.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
GENERATED = re.compile(r"""\bid=["']([\w-]*?[0-9a-f]{8,}[\w-]*)["']""")
FACTOR = re.compile(r"scale\([^)]*\)|rotate\([^)]*\)")
IMAGES = ("image/png", "image/jpeg")


class Part(NamedTuple):
    """One comparable thing of a drawing.

    Attributes:
        where: What it is, for the reader of a message.
        text: What has to agree exactly; ``#`` stands for each number that may differ.
        numbers: The numbers that may differ.
    """

    where: str
    text: str
    numbers: tuple[float, ...] = ()


def is_figure(mime: str, data: object) -> bool:
    """Whether this output is compared here rather than letter by letter."""
    if mime == "text/html":
        return isinstance(data, str) and ("<svg" in data or "data-figure" in data)
    return mime in ("image/svg+xml", *IMAGES)


def differences(mime: str, stored: str, fresh: str, tolerance: float = TOLERANCE) -> list[str]:
    """What a reader would see change, in sentences; empty when the two figures agree."""
    if mime in IMAGES:
        return picture_differences(stored, fresh)
    return drawing_differences(stored, fresh, tolerance)


# ---- drawings ----


class Reader(HTMLParser):
    """Takes a drawing apart.

    The moving figures are HTML with scripts and drawings inside, which is no XML, so one parser for
    HTML reads them and the drawings alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Note the tag with the names of its attributes, then each attribute."""
        self.parts.append(Part("element", " ".join([f"<{tag}", *(name for name, _ in attrs)])))
        for name, value in attrs:
            self.parts += attribute_parts(f"{name} of <{tag}>", name, value or "")

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an element."""
        self.parts.append(Part("element", f"</{tag}"))

    def handle_data(self, data: str) -> None:
        """Note a text; how it is broken into lines does not count."""
        if words := data.split():
            self.parts.append(Part("text", " ".join(words)))

    def handle_comment(self, data: str) -> None:
        """Note a comment: matplotlib writes there the texts that it draws as paths."""
        self.handle_data(data)

    def handle_decl(self, decl: str) -> None:
        """Note the type of the document."""
        self.handle_data(decl)


def attribute_parts(where: str, name: str, value: str) -> Iterator[Part]:
    """An attribute as it is, or the coordinates in it as numbers."""
    if name not in COORDINATES:
        yield Part(where, value)
        return
    # A factor or an angle is no coordinate: a tenth of it can be a lot.
    yield from (Part(where, factor) for factor in FACTOR.findall(value))
    rest = FACTOR.sub("", value)
    yield Part(where, NUMBER.sub("#", rest), tuple(map(float, NUMBER.findall(rest))))


def rename_generated(text: str) -> str:
    """Name identifiers made from hashes by their order: a changed last digit renames them."""
    for number, name in enumerate(dict.fromkeys(GENERATED.findall(text))):
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", f"generated-{number}", text)
    return text


def parts(text: str) -> list[Part]:
    """All that a drawing consists of, in order."""
    reader = Reader()
    reader.feed(rename_generated(text))
    reader.close()
    return reader.parts


def drawing_differences(stored: str, fresh: str, tolerance: float) -> list[str]:
    """What differs between two drawings: shifted numbers, up to the first part that is another."""
    found: list[str] = []
    old, new = parts(stored), parts(fresh)
    for a, b in zip(old, new, strict=False):
        if (a.where, a.text) != (b.where, b.text):
            return [*found, f"{a.where}: stored {shorten(a)}, fresh {shorten(b)}"]
        if not a.numbers:
            continue
        x, y = np.array(a.numbers), np.array(b.numbers)
        allowed = min(tolerance, max(FLOOR, SHARE * float(np.abs(x).max())))
        worst = int(np.argmax(np.abs(x - y)))
        if not abs(x[worst] - y[worst]) <= allowed:
            found.append(
                f"{a.where}: number {worst + 1} of {len(x)} is {x[worst]:g} stored and "
                f"{y[worst]:g} fresh, off by {abs(x[worst] - y[worst]):.3g} where {allowed:.3g} "
                "is allowed"
            )
    if len(old) != len(new):
        found.append(f"the stored drawing has {len(old)} parts, the fresh one {len(new)}")
    return found


def shorten(part: Part) -> str:
    """The part as a message shows it."""
    text = part.text if len(part.text) <= 60 else part.text[:57] + "..."
    return f"'{text}'" + (f" with {len(part.numbers)} numbers" if part.numbers else "")


# ---- pictures ----


def pixels(data: str) -> np.ndarray:
    """The picture on white, (height, width, 3)."""
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), dtype=np.float64)


def picture_differences(stored: str, fresh: str) -> list[str]:
    """What differs between two pictures: their size, some pixels a lot, or many a little."""
    old, new = pixels(stored), pixels(fresh)
    if old.shape != new.shape:
        sizes = [f"{width} x {height}" for height, width, _ in (old.shape, new.shape)]
        return [f"the stored picture has {sizes[0]} pixels, fresh {sizes[1]}"]
    gap = np.abs(old - new)
    share, mean = float((gap.max(axis=2) > VISIBLE).mean()), float(gap.mean())
    found = []
    if share > VISIBLE_SHARE:
        found.append(
            f"{share:.3%} of the picture's pixels differ visibly, "
            f"where {VISIBLE_SHARE:.3%} are allowed"
        )
    if mean > MEAN:
        found.append(
            f"the picture's pixels differ by {mean:.2f} of 255 on average, where {MEAN} is allowed"
        )
    return found
