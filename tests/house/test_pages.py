"""The pages that are written by hand say what the code says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import nclib
import nclib.beyond.cross_entropy
import nclib.beyond.descent
import nclib.beyond.imbalance
import nclib.beyond.kernel
import nclib.beyond.levels
import nclib.beyond.shared
import nclib.beyond.softmax
import nclib.networks
import nclib.plotting
import nclib.workbench
from tools import overview

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = [  # of the modules that nclib does not hand on
    f.__name__
    for module in (nclib.plotting, nclib.workbench)
    for f in vars(module).values()
    if getattr(f, "__module__", "") == module.__name__
]
BY_MODULE = [  # of the modules in which a name is read with its module: levels.minimize
    f"{module.__name__.split('.')[-1]}.{f.__name__}"
    for module in (
        nclib.beyond.levels,
        nclib.beyond.softmax,
        nclib.beyond.cross_entropy,
        nclib.beyond.imbalance,
        nclib.beyond.shared,
        nclib.beyond.kernel,
        nclib.beyond.descent,
    )
    for f in vars(module).values()
    if getattr(f, "__module__", "") == module.__name__ and not f.__name__.startswith("_")
]
PUBLIC = {
    *nclib.__all__,
    *nclib.networks.__all__,
    *(name for name in BY_NAME if not name.startswith("_")),
    *BY_MODULE,
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_group_of_the_api_page_leads_to_a_chapter():
    groups = re.findall(r"^### (.+)\n\n(.*)", read("book/api.md"), re.M)
    chapter = re.compile(r"\{doc\}`(?:foundations|perturbation|beyond|networks)/\w+`")
    assert len(groups) > 10
    assert [name for name, first_line in groups if not chapter.search(first_line)] == []


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_on_the_api_page(name):
    assert re.search(
        rf"^\.\. auto(function|class|exception):: nclib\.[\w.]+\.{name}$", read("book/api.md"), re.M
    )


def test_one_version_everywhere():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert nclib.__version__ == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert f"Version {version}" in read("book/citing.md")
    assert re.search(r"^## \[(\d.*?)\]", read("CHANGELOG.md"), re.M)[1] == version


def test_the_readme_names_what_exists():
    paths = re.findall(r"^\| `([\w/]+)` \|", read("README.md"), re.M)
    paths += re.findall(r"\]\(((?!https:)[^)]+)\)", read("README.md"))
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


FINDINGS = re.split(
    r"^- ",
    re.search(r"^## What it finds\n(.*?)\n\n\[", read("README.md"), re.S | re.M)[1],
    flags=re.M,
)[1:]


def asserting(tag: str) -> bool:
    """Whether a cell with this tag asserts something."""
    return any(
        tag in cell.metadata.get("tags", []) and "assert" in cell.source
        for path in (ROOT / "book").glob("*/*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
    )


def has_test(name: str) -> bool:
    return any(
        f"\ndef {name}(" in path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").rglob("test_*.py")
    )


def test_the_readme_has_its_findings():
    assert len(FINDINGS) > 8


@pytest.mark.parametrize("finding", FINDINGS, ids=[" ".join(f.split()[:4]) for f in FINDINGS])
def test_every_finding_of_the_readme_rests_on_a_check(finding):
    """Its last bracket names claims with checks, tags of cells that assert, or tests.

    Where the ledger corrects the paper or adds an assumption, the sentence says so.
    """
    ledger = {c["id"]: c for c in yaml.safe_load(read("book/claims.yml"))}
    words = {"Corrected": "corrected", "Needs an extra assumption": "assumption"}
    names = re.search(r"\.\s+\(([^()]+)\)\s*$", finding)[1].split(",")
    for name in (name.strip() for name in names):
        if name in ledger:
            outcome = ledger[name]["outcome"]
            said = [word for verdict, word in words.items() if outcome.startswith(verdict)]
            assert ledger[name]["checks"] and all(word in finding for word in said), name
        elif name.startswith("`test_"):
            assert has_test(name.strip("`")), name
        else:
            assert asserting(name.strip("`")), name


def test_the_example_of_the_readme_can_be_pasted():
    example = re.search(r"```python\n(.*?)```", read("README.md"), re.S)[1]
    result = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    metrics, certified, after = result.stdout.splitlines()
    assert certified == "True"
    assert float(after) < float(metrics.split()[0])


def test_every_citation_has_its_entry_and_every_entry_its_own_key():
    keys = re.findall(r"^@\w+\{([\w-]+),", read("book/references.bib"), re.M)
    assert len(keys) == len(set(keys))
    sources = [p for p in (ROOT / "book").rglob("*") if p.suffix in {".md", ".ipynb"}]
    used = {
        k
        for p in sources
        for k in re.findall(r"\{cite:\w+\}`([^`]+)`", p.read_text(encoding="utf-8"))
    }
    assert used
    assert {key.strip() for group in used for key in group.split(",")} <= set(keys)


def test_the_readme_shows_the_picture_of_the_first_page():
    assert overview.TARGET.read_text(encoding="utf-8") == overview.picture(), (
        "run tools/overview.py"
    )
