"""Pages that ask no other host for anything: MathJax from a package, no scripts for kernels."""

from importlib.metadata import files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

# The whole package is 24 MB; the pages use its TeX input with CHTML output and its fonts.
MATHJAX_PARTS = ("tex-chtml-full.js", "output/chtml/fonts")


def mathjax_folder() -> Path:
    """Where the package sphinx-mathjax-offline keeps MathJax, in a folder that is no module."""
    for file in files("sphinx-mathjax-offline") or []:
        if file.name == MATHJAX_PARTS[0]:
            return Path(str(file.locate())).parent
    raise FileNotFoundError(
        f"the package sphinx-mathjax-offline holds no {MATHJAX_PARTS[0]}; run `make clean book`"
    )


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Put the parts of MathJax that the pages use beside them."""
    if exception is not None or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX_PARTS:
        copy_asset(
            mathjax_folder() / part,
            target / Path(part).parent if part.endswith(".js") else target / part,
        )


def drop_thebe(app: Sphinx) -> None:
    """Disconnect sphinx-thebe: it adds a script to every page, twice, but no page has a kernel."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            item for item in listeners if not item.handler.__module__.startswith("sphinx_thebe")
        ]
    app.registry.css_files[:] = [
        item for item in app.registry.css_files if item[0] != "sphinx-thebe.css"
    ]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", drop_thebe, priority=0)
    app.connect("build-finished", copy_mathjax)
    # Search results and pages with output but no formula of their own need MathJax too.
    app.set_html_assets_policy("always")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
