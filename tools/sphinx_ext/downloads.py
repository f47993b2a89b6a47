"""What a reader needs who downloads one notebook: how to run it, and the results that it reads."""

import zipfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "_downloads/results.zip"
RUNNING = "book/running"
# A fixed day, so that the same results give the same file.
DAY = (2026, 1, 1, 0, 0, 0)


def put_on_page(
    app: Sphinx, page: str, template: str, context: dict[str, object], doctree: object
) -> None:
    """Say below each notebook how to run it elsewhere, and which data it reads."""
    source = Path(app.srcdir, f"{page}.ipynb")
    if app.builder.format != "html" or not source.is_file():
        return
    address = relative_uri(f"{page}.html", f"{RUNNING}.html")
    lines = (
        "This page is a notebook. To run it, download it at the top of the page and install the "
        f"library as <code>nclib[book]</code>: "
        f'<a class="reference internal" href="{address}#sec-downloaded">how to run it</a>.'
    )
    if "../results" in source.read_text(encoding="utf-8"):
        file = relative_uri(f"{page}.html", RESULTS)
        lines += (
            f' It reads measured results: unpack <a href="{file}">results.zip</a> in the folder '
            "above that of the notebook."
        )
    context["body"] = f'{context["body"]}<p class="run-it">{lines}</p>'


def pack(app: Sphinx, exception: Exception | None) -> None:
    """Write the archive of the measured results."""
    if exception is not None or app.builder.format != "html":
        return
    folder = ROOT / "book" / "results"
    file = Path(app.outdir, RESULTS)
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".json", ".npz"):
                entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), DAY)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", put_on_page)
    app.connect("build-finished", pack)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
