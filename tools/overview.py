"""Copies the picture of the book's first page to assets/overview.svg, where README.md shows it.

overview.py            write it
overview.py --check    say whether it is current
"""

import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "overview.svg"


def picture() -> str:
    """The only figure of book/intro.ipynb, as stored."""
    cells = nbformat.read(ROOT / "book" / "intro.ipynb", as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    (svg,) = [o.data["image/svg+xml"] for o in outputs if "image/svg+xml" in o.get("data", {})]
    return svg


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text(encoding="utf-8") != picture())
    TARGET.write_text(picture(), encoding="utf-8", newline="\n")
