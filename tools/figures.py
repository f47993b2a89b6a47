"""Compares a stored figure with the freshly drawn one: what a reader sees must be the same, last digits may differ.

Drawings (SVG, alone or inside HTML) are read as a sequence of tags, comments and texts. Everything has to agree
exactly, except the numbers of coordinates, which may differ by a pixel at most, and identifiers that were generated
from a hash, which are renamed in their order of appearance. Pictures (PNG) are compared as pixels.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

TOLERANCE = 1.0  # units of the drawing, about a pixel
SHARE, FLOOR = (
    0.02,
    0.15,
)  # and of the largest number in one attribute; but a flip of a printed tenth always passes
PIXEL, PIXEL_SHARE, PIXEL_MEAN = 48, 1e-4, 0.25  # of 255; of all pixels; of 255, over all pixels

# Attributes that hold coordinates. Colours, widths of lines and opacities are in others and have to agree exactly.
COORDINATES = frozenset(
    "d points x y x1 y1 x2 y2 cx cy r rx ry dx dy width height viewBox transform values from to by path".split()
)
PIECE = re.compile(r"<!--.*?-->|<[^>]*>|[^<]+", re.DOTALL)
ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*("[^"]*"|'[^']*')""")
NUMBER = re.compile(r"(?<![\w#.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
GENERATED = re.compile(r"""\bid=["']([\w-]*?[0-9a-f]{8,}[\w-]*)["']""")
SCALE = re.compile(r"scale\([^)]*\)|rotate\([^)]*\)")
IMAGES = ("image/png", "image/jpeg")


class Attribute(NamedTuple):
    """One comparable thing: what is compared, its text without numbers, and the numbers if they may differ."""

    where: str
    text: str
    numbers: tuple[float, ...]


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


def rename_generated(text: str) -> str:
    """Name identifiers made from hashes by their order, so that a changed last digit does not rename them."""
    for number, name in enumerate(dict.fromkeys(GENERATED.findall(text))):
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", f"generated-{number}", text)
    return text


def attributes(text: str) -> Iterator[Attribute]:
    for piece in PIECE.findall(rename_generated(text)):
        if not piece.startswith("<") or piece.startswith("<!--"):
            if piece.strip():
                yield Attribute("text", " ".join(piece.split()), ())
            continue
        tag = re.match(r"</?[\w:!?-]*", piece).group(0)
        yield Attribute(
            "element", tag + " " + " ".join(name for name, _ in ATTRIBUTE.findall(piece)), ()
        )
        for name, value in ATTRIBUTE.findall(piece):
            where = f"{name} of {tag}>"
            if name not in COORDINATES:
                yield Attribute(where, value[1:-1], ())
                continue
            # A factor or an angle is no coordinate: a tenth of it can be a lot.
            for factor in SCALE.findall(value):
                yield Attribute(where, factor, ())
            rest = SCALE.sub("", value[1:-1])
            yield Attribute(
                where, NUMBER.sub("#", rest), tuple(float(n) for n in NUMBER.findall(rest))
            )


def drawing_differences(stored: str, fresh: str, tolerance: float) -> list[str]:
    found = []
    old, new = list(attributes(stored)), list(attributes(fresh))
    for a, b in zip(old, new, strict=False):
        if a.where != b.where or a.text != b.text or len(a.numbers) != len(b.numbers):
            return [*found, f"{a.where}: stored {shorten(a)}, fresh {shorten(b)}"]
        if not a.numbers:
            continue
        x, y = np.array(a.numbers), np.array(b.numbers)
        allowed = min(tolerance, max(FLOOR, SHARE * float(np.abs(x).max())))
        worst = int(np.argmax(np.abs(x - y)))
        if not abs(x[worst] - y[worst]) <= allowed:
            found.append(
                f"{a.where}: number {worst + 1} of {len(x)} is {x[worst]:g} stored and {y[worst]:g} fresh, "
                f"off by {abs(x[worst] - y[worst]):.3g} where {allowed:.3g} is allowed"
            )
    if len(old) != len(new):
        found.append(f"the stored drawing has {len(old)} parts, the fresh one {len(new)}")
    return found


def shorten(attribute: Attribute) -> str:
    text = attribute.text if len(attribute.text) <= 60 else attribute.text[:57] + "..."
    return f"'{text}'" + (f" with {len(attribute.numbers)} numbers" if attribute.numbers else "")


def pixels(data: str) -> np.ndarray:
    """The picture on white, (height, width, 3)."""
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), dtype=np.float64)


def picture_differences(stored: str, fresh: str) -> list[str]:
    old, new = pixels(stored), pixels(fresh)
    if old.shape != new.shape:
        return [
            f"the stored picture has {old.shape[1]} x {old.shape[0]} pixels, fresh {new.shape[1]} x {new.shape[0]}"
        ]
    gap = np.abs(old - new)
    share, mean = float((gap.max(axis=2) > PIXEL).mean()), float(gap.mean())
    found = []
    if share > PIXEL_SHARE:
        found.append(
            f"{share:.3%} of the picture's pixels differ visibly, where {PIXEL_SHARE:.3%} are allowed"
        )
    if mean > PIXEL_MEAN:
        found.append(
            f"the picture's pixels differ by {mean:.2f} of 255 on average, where {PIXEL_MEAN} is allowed"
        )
    return found
