"""The house style, and the figure that moves without a kernel."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from nclib.measured.summary import load_all, provenance
from nclib.plotting import CLASS_COLORS, animate, sources, style

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "book/results"


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


def test_style_forgets_what_matplotlib_keeps():
    with mpl.rc_context():
        mpl.rcParams.update({"toolbar": "None", "figure.max_open_warning": 1, "timezone": "CET"})
        style()
        for name in ("toolbar", "figure.max_open_warning", "timezone"):
            assert mpl.rcParams[name] == mpl.rcParamsDefault[name]


# ---- a reader's own settings and folders ----

SETTINGS = """
toolbar: toolmanager
figure.max_open_warning: 1
figure.dpi: 40
font.size: 30
"""


def home_is_a_file(folder):
    """An environment in which no folder of the home can be made, not even by root."""
    (folder / "home").write_text("", encoding="utf-8")
    return {"HOME": str(folder / "home")}


def settings_in_the_home(folder):
    (folder / ".config" / "matplotlib").mkdir(parents=True)
    (folder / ".config" / "matplotlib" / "matplotlibrc").write_text(SETTINGS, encoding="utf-8")
    return {"HOME": str(folder)}


def settings_named_by_a_variable(folder):
    (folder / "mine").write_text(SETTINGS, encoding="utf-8")
    return {"MATPLOTLIBRC": str(folder / "mine"), "MPLBACKEND": "svg"}


READERS = [home_is_a_file, settings_in_the_home, settings_named_by_a_variable]


def output_of(script, reader, folder):
    """What Python says to a script at a reader's: its output, and its remarks."""
    own = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "MATPLOTLIBRC", "MPLBACKEND")
    clean = {key: value for key, value in os.environ.items() if key not in own}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=clean | {"MPLBACKEND": "agg"} | reader(folder),
        capture_output=True,
        text=True,
    )
    return result.stdout, result.stderr


@pytest.mark.parametrize("reader", READERS)
def test_drawing_says_nothing_of_a_readers_settings_and_folders(reader, tmp_path):
    script = """if True:
        from nclib.plotting import style
        import matplotlib.pyplot as plt
        style()
        for _ in range(2):
            plt.figure()
        print(plt.rcParams["toolbar"], plt.rcParams["figure.dpi"], plt.rcParams["font.size"])
    """
    assert output_of(script, reader, tmp_path) == ("toolbar2 100.0 10.5\n", "")


@pytest.mark.parametrize("reader", READERS)
def test_first_cells_say_nothing_of_a_readers_settings_and_folders(reader, tmp_path):
    cells = [
        "import matplotlib.pyplot as plt\n\nfrom nclib.plotting import style\n\nstyle()",
        "for _ in range(2):\n    plt.figure().subplots().plot([0, 1])",
    ]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    script = f"""if True:
        from tools.notebooks import Path, run
        print(run(Path({str(tmp_path)!r}, "chapter.ipynb")).state)
    """
    assert output_of(script, reader, tmp_path)[0] == "changed\n"
    first, second = nbformat.read(tmp_path / "chapter.ipynb", as_version=4).cells
    assert first.outputs == []
    assert [output.output_type for output in second.outputs] == ["display_data"] * 2


# ---- the palette and the moving figure ----


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


def test_a_point_that_rests_at_the_center_is_drawn_there():
    still = animate(
        np.zeros((2, 1, 2)), [0], ["a", "b"], "alt", name="still", class_names=["point"]
    )
    assert '<polyline points="0,0 0,0"/>' in still.data


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", np.array([0, 1, 10, 0, 1]), "labels must be classes 0 to 9, but one is 10"),
        ("labels", np.array([0, 1, -1, 0, 1]), "labels must be classes 0 to 9, but one is -1"),
        ("class_names", list("abcdefghijk"), "labels must be classes 0 to 9, but one is 10"),
        ("marks", ["dot"] * 4 + ["star"], "marks must be dot, ring, mean, but one is 'star'"),
        ("frames", np.zeros(3), "disagree"),
        ("frames", np.zeros((0, 5, 2)), "disagree"),
    ],
)
def test_animation_refuses_what_it_cannot_draw(scene, field, value, message):
    with pytest.raises(ValueError, match=message):
        animate(**scene | {field: value})


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
