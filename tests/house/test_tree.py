"""What the house promises about its own files: imports, sizes, pins, versions, commands."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "nclib").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Which part of the library may import what; the rest of the library may import none of these.
HOMES = {
    "torch": "networks/",
    "sklearn": "networks/",
    "sympy": "perturbation/symbolic/",
    "matplotlib": "plotting",
    "IPython": "plotting",
}
# The parts of the library in the order of the book: each may import itself and what stands before
# it, and the parts on one line do not know each other. Plotting and the program stand at the end.
ORDER = (
    {"_checks", "_tables"},
    {"foundations"},
    {"perturbation", "measured"},
    {"beyond"},
    {"networks"},
    {"plotting", "workbench", "__main__"},
)


def name(path):
    return path.relative_to(ROOT / "nclib").as_posix()


def imported(path):
    """Top-level names of all packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_importing_the_library_is_light():
    script = f"import sys, nclib; print([m for m in {list(HOMES)} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_measuring_a_network_needs_torch_and_no_more():
    """The extra `networks` is enough for who brings a network and data."""
    script = """
import sys
for name in ("sklearn", "PIL", "tqdm", "pooch", "matplotlib", "sympy", "IPython", "joblib"):
    sys.modules[name] = None  # what is not installed
import torch
from nclib.networks import report
x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
report(torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)),
       [(x, torch.arange(40) % 2)])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.startswith("40 samples, 2 classes of 20, error 0."), result.stderr
    assert PROJECT["optional-dependencies"]["networks"] == ["torch>=2.6"]


@pytest.mark.parametrize("path", MODULES, ids=map(name, MODULES))
def test_heavy_packages_stay_where_they_belong(path):
    assert [p for p in imported(path) if p in HOMES and not name(path).startswith(HOMES[p])] == []


@pytest.mark.parametrize("path", MODULES, ids=map(name, MODULES))
def test_modules_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def imported_modules(path):
    """Names of all modules of the library that a file imports, anywhere in it."""
    modules = {m.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for m in MODULES}
    modules = {m.removesuffix(".__init__") for m in modules}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}: imports are written in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= inner or ({node.module} & modules)
    return found


def part(module):
    """The part of the library that a module belongs to; the library's own face has none."""
    return module.partition(".")[2].partition(".")[0]


def place(module):
    return next(i for i, parts in enumerate(ORDER) if part(module) in parts)


def dotted(path):
    return "nclib." + name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=map(name, MODULES))
def test_imports_follow_the_order_of_the_book(path):
    if name(path) == "__init__.py":
        return
    for module in imported_modules(path) - {"nclib"}:
        assert part(module) == part(dotted(path)) or place(module) < place(dotted(path)), module


def test_no_module_imports_itself_through_others():
    graph = {dotted(path): imported_modules(path) for path in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError


def pins():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line.strip() and not line.startswith("#"))


def test_pins_are_exact_and_name_no_address():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^-|\+cpu|@", text, re.MULTILINE)
    assert pins()["torch"] == "2.13.0"


def test_pins_lie_within_the_ranges():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(text) for group in groups for text in group]
    assert [
        str(r) for r in wanted if r.name not in pins() or not r.specifier.contains(pins()[r.name])
    ] == []


def test_text_has_the_line_ends_of_unix_in_every_checkout():
    rules = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert "* text=auto eol=lf" in rules
    folders = ("book", "nclib", "tests", "tools", "benchmarks", "assets")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".md", ".ipynb", ".json", ".yml", ".css", ".js", ".svg", ".toml", ".bib"}
    texts = [path for path in files if path.suffix in kinds]
    assert len(texts) > 100
    assert [str(path) for path in texts if b"\r" in path.read_bytes()] == []


def test_commands_in_the_texts_exist():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    pages = [p for p in (ROOT / "book").rglob("*") if p.suffix in (".md", ".ipynb")]
    text = "\n".join(
        p.read_text(encoding="utf-8") for p in [ROOT / "README.md", ROOT / "CHANGELOG.md", *pages]
    )
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"book", "test"} <= named <= targets


def test_help_lists_every_command():
    targets = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^  make ([a-z-]+)", listed.stdout, re.MULTILINE)) == targets
