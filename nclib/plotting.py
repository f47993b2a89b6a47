"""How the book's figures look, and figures that move without a kernel.

This is the only module of the library that imports matplotlib and IPython. A chapter calls `style` once, in its
import cell.
"""

import json
from collections.abc import Sequence
from html import escape
from string import Template
from textwrap import fill

import matplotlib as mpl
import numpy as np
from cycler import cycler
from IPython import get_ipython
from IPython.display import HTML
from matplotlib_inline.backend_inline import set_matplotlib_formats

from nclib.measured.records import Result
from nclib.measured.summary import provenance

# The color-blind-safe palette of Okabe and Ito, then a gray and a brown, so that ten classes have ten colors.
CLASS_COLORS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
    "#7F7F7F",
    "#8C510A",
)

_SETTINGS = {
    "figure.figsize": (5.0, 3.0),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "mathtext.fontset": "cm",
    "path.simplify": False,
    "svg.hashsalt": "nclib",
}


def style() -> None:
    """Set the book's fonts, sizes and colors; store figures as SVG without a date or random identifiers.

    Outside IPython only the matplotlib settings change.
    """
    mpl.rcdefaults()
    mpl.rcParams.update(_SETTINGS)
    mpl.rcParams["axes.prop_cycle"] = cycler(color=CLASS_COLORS)
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None}, bbox_inches="tight")


def sources(*groups: Sequence[Result]) -> HTML:
    """Say below a figure where its measured results come from, one line of small print per group of runs.

    Args:
        groups: results that belong together, as `nclib.measured.summary.provenance` takes them.
    """
    lines = "<br>\n".join(fill(escape(f"Measured: {provenance(group)}"), 76) for group in groups)
    return HTML(f'<p class="sources">{lines}</p>')


def animate(
    frames: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    alt: str,
    *,
    name: str,
    class_names: Sequence[str],
    marks: Sequence[str] | None = None,
    targets: np.ndarray | None = None,
    milliseconds: int = 450,
) -> HTML:
    """A figure of moving points that plays in the stored page: a drawing, a slider and a button, but no kernel.

    Without JavaScript the last frame is shown. Nothing moves before the reader asks for it, and a reader whose
    system asks for reduced motion sees the frames one by one instead of a glide.

    Args:
        frames: positions (T, N, 2); all frames share one scale and points beyond it are cut off.
        labels: class of each point (N,), which selects its color.
        captions: one short line per frame.
        alt: what the figure shows, for someone who cannot see it.
        name: identifier of the figure, letters, digits and hyphens, unique in its page.
        class_names: legend, one entry per class.
        marks: "dot", "ring" or "mean" for each point; dots by default.
        targets: fixed places (M, 2) marked by crosses.
        milliseconds: time from one frame to the next while playing.

    Returns:
        An object that a notebook shows as HTML.

    Raises:
        ValueError: if the shapes or numbers of the arguments do not agree, or a position is not finite.
    """
    frames, labels = np.asarray(frames, dtype=np.float64), np.asarray(labels)
    T, N = frames.shape[:2]
    marks = ["dot"] * N if marks is None else list(marks)
    if frames.shape != (T, N, 2) or len(labels) != N or len(marks) != N or len(captions) != T:
        raise ValueError(
            f"frames {frames.shape}, labels {labels.shape}, {len(marks)} marks and {len(captions)} captions "
            "disagree: frames must be (T, N, 2), with N labels and marks and T captions."
        )
    if not np.isfinite(frames).all():
        raise ValueError("frames must be finite.")
    targets = np.zeros((0, 2)) if targets is None else np.asarray(targets, dtype=np.float64)
    # The last frame and the targets must be in view; of the earlier frames all but the farthest points.
    spread = np.quantile(np.abs(frames), 0.97, axis=(1, 2)).max()
    unit = 140 / max(spread, np.abs(frames[-1]).max(), np.abs(targets).max(initial=0))

    def place(points: np.ndarray) -> np.ndarray:
        # Pixels about the center, y downwards; adding 0.0 turns -0.0 into 0.0.
        return np.round(points * unit * (1, -1), 1) + 0.0

    paths = np.moveaxis(np.array([place(frame) for frame in frames]), 0, 1)
    # The way of each point is kept as an invisible line of the drawing, from which the script reads it.
    lines = (" ".join(f"{x:g},{y:g}" for x, y in path) for path in paths)
    ways = "\n".join(f'<polyline points="{line}"/>' for line in lines)
    dots = "\n".join(
        f'<circle cx="{path[-1, 0]:g}" cy="{path[-1, 1]:g}" {_MARKS[mark].format(color=CLASS_COLORS[k])}/>'
        for path, k, mark in zip(paths, labels, marks, strict=True)
    )
    crosses = "".join(
        f'<path d="M{x - 6:g} {y:g}h12M{x:g} {y - 6:g}v12"/>' for x, y in place(targets)
    )
    legend = "".join(
        f'<span><svg width="11" height="11" aria-hidden="true" style="filter:none">'
        f'<circle cx="5.5" cy="5.5" r="4.5" fill="{CLASS_COLORS[k]}"/></svg> {escape(text)}</span>'
        for k, text in enumerate(class_names)
    )
    fields = {
        "id": f"moving-{name}",
        "name": name,
        "alt": escape(alt),
        "ways": ways,
        "dots": dots,
        "crosses": crosses,
        "legend": legend,
        "last": T - 1,
        "caption": escape(captions[-1]),
        "captions": json.dumps(list(captions), ensure_ascii=False).replace("</", "<\\/"),
        "milliseconds": milliseconds,
    }
    return HTML(_PAGE.substitute(fields))


_MARKS = {
    "dot": 'r="2.6" fill="{color}" fill-opacity="0.75"',
    "ring": 'r="2.8" fill="none" stroke="{color}" stroke-width="1.2"',
    "mean": 'r="5.5" fill="{color}" stroke="currentColor" stroke-width="1.5"',
}

_PAGE = Template("""\
<div id="$id" class="moving-figure" style="max-width:26rem;margin:0 auto">
<svg viewBox="-150 -150 300 300" role="img" aria-label="$alt" data-figure="$name" \
style="display:block;width:100%;height:auto;filter:none">
<defs>
$ways
</defs>
<g fill="none" stroke="currentColor" stroke-width="1.2" opacity="0.8">$crosses</g>
<g>
$dots
</g>
</svg>
<div style="display:flex;flex-wrap:wrap;gap:0 1.2em;justify-content:center;font-size:0.9em">$legend</div>
<div style="display:flex;gap:0.6em;align-items:center;margin:0.3em 0">
<button type="button" style="min-width:5.5em;min-height:2em;font:inherit;cursor:pointer">Play</button>
<input type="range" min="0" max="$last" step="1" value="$last" aria-label="Frame" style="flex:1;min-width:0">
</div>
<p data-caption style="margin:0;text-align:center;font-size:0.9em">$caption</p>
<script>
(function () {
  const root = document.getElementById("$id");
  if (!root || root.dataset.ready) return;
  root.dataset.ready = "yes";
  const captions = $captions;
  const ways = Array.from(root.querySelectorAll("polyline"), (line) => Array.from(line.points));
  const dots = root.querySelectorAll("g circle");
  const last = captions.length - 1;
  const button = root.querySelector("button"), slider = root.querySelector("input");
  const caption = root.querySelector("[data-caption]");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  let started = null, origin = 0;
  function show(t) {
    const k = Math.min(Math.floor(t), last), s = t - k;
    dots.forEach(function (dot, i) {
      const a = ways[i][k], b = ways[i][Math.min(k + 1, last)];
      dot.setAttribute("cx", a.x + s * (b.x - a.x));
      dot.setAttribute("cy", a.y + s * (b.y - a.y));
    });
    slider.value = k;
    slider.setAttribute("aria-valuetext", captions[k]);
    caption.textContent = captions[k];
  }
  function stop() {
    if (started !== null) cancelAnimationFrame(started);
    started = null;
    button.textContent = "Play";
  }
  function step(now) {
    let t = Math.max(0, now - origin) / $milliseconds;
    if (calm.matches) t = Math.floor(t / 2);
    show(Math.min(t, last));
    if (t >= last) stop();
    else started = requestAnimationFrame(step);
  }
  button.addEventListener("click", function () {
    if (started !== null) { stop(); show(Number(slider.value)); return; }
    const from = Number(slider.value) % last;
    origin = performance.now() - from * $milliseconds * (calm.matches ? 2 : 1);
    button.textContent = "Pause";
    started = requestAnimationFrame(step);
  });
  slider.addEventListener("input", function () { const t = Number(slider.value); stop(); show(t); });
  show(0);
})();
</script>
</div>
""")
