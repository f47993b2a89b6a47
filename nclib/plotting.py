"""How the book's figures look, and figures that move without a kernel.

This is the only module of the library that imports matplotlib and IPython. A chapter calls `style`
once, in its import cell.
"""

import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from string import Template
from textwrap import fill
from typing import Any

import numpy as np
from cycler import cycler
from IPython import get_ipython
from IPython.display import HTML
from numpy.typing import ArrayLike

from nclib.measured.records import Result
from nclib.measured.summary import provenance


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what matplotlib says of a reader's settings and folders when it is imported.

    A folder that cannot be written gets a temporary substitute, and `style` forgets the settings,
    so neither concerns the figures; in a notebook the remarks would stand in the stored output.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


with _quietly():
    import matplotlib as mpl
    import matplotlib.font_manager  # may build a list of fonts, which takes seconds
    from matplotlib_inline.backend_inline import set_matplotlib_formats

# The color-blind-safe palette of Okabe and Ito, then a gray and a brown: ten classes, ten colors.
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


# What matplotlib's own return to the defaults leaves as a reader has set it.
_KEPT_BY_MATPLOTLIB = ("toolbar", "timezone", "figure.max_open_warning")


def style() -> None:
    """Set the book's fonts, sizes and colors; store figures as SVG without date or random names.

    What a reader's matplotlibrc says is forgotten. Outside IPython only the matplotlib settings
    change.

    Examples:
        >>> with mpl.rc_context():
        ...     style()
        ...     mpl.rcParams["figure.figsize"]
        [5.0, 3.0]
    """
    mpl.rcdefaults()
    settings: Any = mpl.rcParams
    defaults: Any = mpl.rcParamsDefault
    settings.update({name: defaults[name] for name in _KEPT_BY_MATPLOTLIB})
    settings.update(_SETTINGS)
    settings["axes.prop_cycle"] = cycler(color=CLASS_COLORS)
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None}, bbox_inches="tight")


def sources(*groups: Sequence[Result]) -> HTML:
    """Small print that says where measured results come from, one line per group of runs.

    Args:
        groups: Results that belong together, as `provenance` takes them.

    Returns:
        An object that a notebook shows as HTML, below a figure.

    Raises:
        ValueError: A group is empty.

    Examples:
        >>> from nclib import load_all
        >>> runs = load_all("book/results", "layerwise", "full")
        >>> print(sources([r for r in runs if r.name == "mnist"]).data[:51])
        <p class="sources">Measured: MNIST, 60,000 training
    """
    lines = "<br>\n".join(fill(escape(f"Measured: {provenance(group)}"), 76) for group in groups)
    return HTML(f'<p class="sources">{lines}</p>')


def animate(
    frames: ArrayLike,
    labels: ArrayLike,
    captions: Sequence[str],
    alt: str,
    *,
    name: str,
    class_names: Sequence[str],
    marks: Sequence[str] | None = None,
    targets: ArrayLike | None = None,
    milliseconds: int = 450,
) -> HTML:
    """A figure of moving points that plays in the stored page, without a kernel.

    It consists of a drawing, a slider and a button. Without JavaScript the last frame is shown.
    Nothing moves before the reader asks for it, and a reader whose system asks for reduced motion
    sees the frames one by one instead of a glide.

    Args:
        frames: Positions, shape (frames, N, 2); all frames share one scale, and points beyond it
            are cut off.
        labels: Class of each point, shape (N,), which selects its color: 0 to 9.
        captions: One short line per frame.
        alt: What the figure shows, for someone who cannot see it.
        name: Identifier of the figure, of letters, digits and hyphens, unique in its page.
        class_names: Legend, one entry per class.
        marks: ``"dot"``, ``"ring"`` or ``"mean"`` for each point; dots by default.
        targets: Fixed places, shape (M, 2), marked by crosses.
        milliseconds: Time from one frame to the next while playing.

    Returns:
        An object that a notebook shows as HTML.

    Raises:
        ValueError: Shapes or numbers of the arguments do not agree, a position is not finite, or a
            class or a mark is unknown.

    Examples:
        >>> there_and_back = np.array([[[0.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
        >>> figure = animate(
        ...     there_and_back,
        ...     labels=[0],
        ...     captions=["start", "away", "end"],
        ...     alt="A point leaves the center and returns.",
        ...     name="return",
        ...     class_names=["the point"],
        ... )
        >>> print(figure.data.splitlines()[3])
        <polyline points="0,0 140,-140 0,0"/>
    """
    positions = np.asarray(frames, dtype=np.float64)
    classes = np.asarray(labels)
    fixed = np.zeros((0, 2)) if targets is None else np.asarray(targets, dtype=np.float64)
    kinds = ["dot"] * len(classes) if marks is None else list(marks)
    _check_scene(positions, classes, kinds, captions)
    _check_kinds(classes, kinds, class_names)
    unit = _unit(positions, fixed)
    paths = np.moveaxis(_places(positions, unit), 0, 1)
    fields = {
        "id": f"moving-{name}",
        "name": name,
        "alt": escape(alt),
        "ways": _ways(paths),
        "dots": _dots(paths[:, -1], classes, kinds),
        "crosses": _crosses(_places(fixed, unit)),
        "legend": _legend(class_names),
        "last": len(positions) - 1,
        "caption": escape(captions[-1]),
        "captions": json.dumps(list(captions), ensure_ascii=False).replace("</", "<\\/"),
        "milliseconds": milliseconds,
    }
    return HTML(_PAGE.substitute(fields))


def _check_scene(
    frames: np.ndarray, labels: np.ndarray, marks: Sequence[str], captions: Sequence[str]
) -> None:
    """Raise ValueError unless there is a position, a class and a mark for each point."""
    points = len(labels)
    if frames.shape != (len(captions), points, 2) or len(marks) != points or not len(captions):
        raise ValueError(
            f"frames {frames.shape}, labels {labels.shape}, {len(marks)} marks and "
            f"{len(captions)} captions disagree: frames must be (captions, N, 2), with N labels "
            "and marks."
        )
    if not np.isfinite(frames).all():
        raise ValueError("frames must be finite, but a position is not.")


def _check_kinds(labels: np.ndarray, marks: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise ValueError if a class has no color, or a mark no drawing."""
    classes = {*labels.tolist(), *range(len(class_names))}
    for k in sorted(classes - set(range(len(CLASS_COLORS)))):
        raise ValueError(f"labels must be classes 0 to {len(CLASS_COLORS) - 1}, but one is {k}.")
    for mark in sorted(set(marks) - set(_MARKS)):
        raise ValueError(f"marks must be {', '.join(_MARKS)}, but one is {mark!r}.")


def _unit(frames: np.ndarray, targets: np.ndarray) -> float:
    """Pixels for a length of one.

    The last frame and the targets must be in view; of the earlier frames all but the farthest
    points.
    """
    spread = np.quantile(np.abs(frames), 0.97, axis=(1, 2)).max()
    reach = max(spread, np.abs(frames[-1]).max(), np.abs(targets).max(initial=0))
    return 140 / reach if reach > 0 else 1.0


def _places(points: np.ndarray, unit: float) -> np.ndarray:
    """Pixels about the center, y downwards; adding 0.0 turns -0.0 into 0.0."""
    return np.round(points * unit * (1, -1), 1) + 0.0


def _ways(paths: np.ndarray) -> str:
    """The way of each point as an invisible line of the drawing, from which the script reads it."""
    lines = (" ".join(f"{x:g},{y:g}" for x, y in path) for path in paths)
    return "\n".join(f'<polyline points="{line}"/>' for line in lines)


def _dots(places: np.ndarray, labels: np.ndarray, marks: Iterable[str]) -> str:
    """The points, drawn where they end."""
    return "\n".join(
        f'<circle cx="{x:g}" cy="{y:g}" {_MARKS[mark].format(color=CLASS_COLORS[k])}/>'
        for (x, y), k, mark in zip(places, labels, marks, strict=True)
    )


def _crosses(places: np.ndarray) -> str:
    """The targets."""
    return "".join(f'<path d="M{x - 6:g} {y:g}h12M{x:g} {y - 6:g}v12"/>' for x, y in places)


def _legend(class_names: Iterable[str]) -> str:
    """One dot and name per class."""
    return "".join(
        f'<span><svg width="11" height="11" aria-hidden="true" style="filter:none">'
        f'<circle cx="5.5" cy="5.5" r="4.5" fill="{CLASS_COLORS[k]}"/></svg> {escape(text)}</span>'
        for k, text in enumerate(class_names)
    )


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
<div style="display:flex;flex-wrap:wrap;gap:0 1.2em;justify-content:center;font-size:0.9em">\
$legend</div>
<div style="display:flex;gap:0.6em;align-items:center;margin:0.3em 0">
<button type="button" style="min-width:5.5em;min-height:2em;font:inherit;cursor:pointer">\
Play</button>
<input type="range" min="0" max="$last" step="1" value="$last" aria-label="Frame" \
style="flex:1;min-width:0">
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
  slider.addEventListener("input", \
function () { const t = Number(slider.value); stop(); show(t); });
  show(0);
})();
</script>
</div>
""")
