"""The house style, and the figure that moves without a kernel."""

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from nclib.measured.summary import load_all, provenance
from nclib.plotting import CLASS_COLORS, animate, sources, style

RESULTS = Path(__file__).parents[2] / "book/results"


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.uniform(-1, 1, (4, 5, 2)),
        "labels": np.array([0, 1, 2, 0, 1]),
        "captions": [f"step {t}" for t in range(4)],
        "alt": 'points "moving" & more',
        "name": "demo",
        "class_names": ["a", "b", "<c>"],
        "marks": ["dot", "dot", "ring", "mean", "mean"],
        "targets": np.array([[0.5, 0.0], [0.0, -0.5]]),
    }


def drawing(html):
    """The root of the first SVG drawing in the page."""
    return ElementTree.fromstring(re.search(r"<svg viewBox.*?</svg>", html, re.DOTALL).group(0))


def svg():
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 0], label="$x$")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def test_style_sets_what_the_book_needs_and_forgets_what_was_before():
    with mpl.rc_context():
        mpl.rcParams["lines.linestyle"] = ":"
        assert style() is None
        assert mpl.rcParams["svg.hashsalt"] and mpl.rcParams["path.simplify"] is False
        assert mpl.rcParams["lines.linestyle"] == "-"
        assert tuple(mpl.rcParams["axes.prop_cycle"].by_key()["color"]) == CLASS_COLORS
        assert not mpl.rcParams["axes.spines.top"] and list(mpl.rcParams["figure.figsize"]) == [
            5,
            3,
        ]
        assert svg() == svg()


def test_ten_classes_have_ten_colors():
    assert len(set(CLASS_COLORS)) == 10 and all(
        re.fullmatch("#[0-9A-F]{6}", c) for c in CLASS_COLORS
    )


def test_animation_draws_the_last_frame_and_keeps_all_frames(scene):
    html = animate(**scene).data
    root = drawing(html)
    assert root.get("role") == "img" and root.get("aria-label") == scene["alt"]
    assert root.get("data-figure") == "demo"
    assert "filter:none" in root.get("style")  # it draws with the page's own ink, in dark mode too
    lines = [line.get("points").split() for line in root.iter("polyline")]
    paths = np.array([[point.split(",") for point in line] for line in lines], float)
    assert paths.shape == (5, 4, 2)
    circles = list(root.iter("circle"))
    last = np.array([[c.get("cx"), c.get("cy")] for c in circles], float)
    assert np.array_equal(paths[:, -1], last)
    # One scale for all frames, y upwards, everything of the last frame in view.
    expected = np.moveaxis(scene["frames"], 0, 1) * (1, -1)
    unit = paths[0, 0, 0] / expected[0, 0, 0]
    np.testing.assert_allclose(paths, unit * expected, atol=0.5)
    assert 100 < np.abs(last).max() <= 140 or np.abs(paths).max() >= 140
    assert len(root.findall(".//path")) == 2
    assert (
        CLASS_COLORS[2] in ElementTree.tostring(circles[2]).decode()
        and circles[2].get("fill") == "none"
    )


def test_animation_controls_and_captions(scene):
    html = animate(**scene).data
    assert html.count('id="moving-demo"') == 1 and 'getElementById("moving-demo")' in html
    assert re.search(
        r'<input type="range" min="0" max="3" step="1" value="3" aria-label="\w+"', html
    )
    assert '<button type="button"' in html and "prefers-reduced-motion" in html
    assert "<p data-caption" in html and ">step 3</p>" in html and "&lt;c&gt;" in html
    assert json.loads(re.search(r"captions = (\[.*?\]);", html).group(1)) == scene["captions"]
    assert "http" not in html.replace("http://www.w3.org", "")


def test_a_caption_cannot_end_the_script(scene):
    scene["captions"][1] = "</script><b>"
    html = animate(**scene).data
    assert html.count("</script>") == 1
    assert json.loads(re.search(r"captions = (\[.*?\]);", html).group(1)) == scene["captions"]


@pytest.mark.parametrize("field", ["labels", "captions", "marks"])
def test_animation_refuses_lengths_that_disagree(scene, field):
    scene[field] = scene[field][:-1]
    with pytest.raises(ValueError, match="disagree"):
        animate(**scene)


def test_animation_refuses_positions_that_are_not_finite(scene):
    scene["frames"][1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        animate(**scene)


def test_sources_are_the_provenance_of_each_group_as_wrapped_text():
    results = load_all(RESULTS, "end-to-end", "reduced")
    groups = [[r for r in results if r.name == name] for name in ("mlp-mnist", "resnet18-mnist")]
    html = sources(*groups).data
    inner = re.fullmatch(r'<p class="sources">(.*)</p>', html, re.DOTALL)[1].split("<br>")
    assert [" ".join(line.split()) for line in inner] == [
        f"Measured: {provenance(group)}" for group in groups
    ]
    assert max(map(len, html.splitlines())) <= 100
