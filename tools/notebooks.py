"""The chapters' notebooks: their text mirror, their execution and their normal form.

    notebooks.py to-text   [book/PART/NAME.ipynb ...]   write .text/PART/NAME.md (MyST) for editing
    notebooks.py from-text [.text/PART/NAME.md ...]     bring the edits back
    notebooks.py run       [book/PART/NAME.ipynb ...]   execute in place, several at a time
    notebooks.py check     [book/PART/NAME.ipynb ...]   say what is not in normal form

Without paths each command takes all notebooks (or all texts). The notebook is the source: executed,
committed, and in a normal form that depends on nothing but its cells and their results, so running
twice changes no byte.
"""

import argparse
import atexit
import difflib
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BOOK, TEXT = ROOT / "book", ROOT / ".text"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
# What JupyterLab and the executing program write into the metadata of cells.
VOLATILE = ("execution", "ExecuteTime", "jp-MarkdownHeadingCollapsed")
# One thread everywhere: sums are then taken in one order, whatever the number of cores.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Where a person's own settings of matplotlib come from.
PERSONAL = ("MPLBACKEND", "MATPLOTLIBRC")


def notebooks() -> list[Path]:
    """All notebooks of the book, in a fixed order."""
    return sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def short(path: Path) -> str:
    """The path as a person types it: relative to the project where it lies inside."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def load(path: Path) -> NotebookNode:
    """The notebook in the current format."""
    return nbformat.read(path, as_version=4)


def dump(notebook: NotebookNode) -> str:
    """The text of the notebook's file."""
    return nbformat.writes(notebook, version=4) + "\n"


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically; a file that already has this text keeps its time stamp."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
    return True


# ---- the normal form ----


def normalize(notebook: NotebookNode) -> NotebookNode:
    """Keep what the author and the results say; drop versions, times, traces of one machine."""
    ours = {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    theirs = ("jupytext", *ours)
    kept = {name: value for name, value in notebook.metadata.items() if name not in theirs}
    notebook.metadata = nbformat.from_dict({**kept, **ours})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for volatile in VOLATILE:
            cell.metadata.pop(volatile, None)
    return notebook


def problems(notebook: NotebookNode) -> list[str]:
    """Why this notebook is not as `run` leaves it, as sentences; empty when it is."""
    metadata = notebook.metadata
    found = []
    if (metadata.get("kernelspec"), metadata.get("language_info")) != (KERNELSPEC, LANGUAGE_INFO):
        found.append(
            "kernelspec or language_info is not in normal form: run it with tools/notebooks.py"
        )
    if "jupytext" in metadata:
        found.append("notebook metadata carries a jupytext section")
    count = 0
    for index, cell in enumerate(notebook.cells):
        first_line = (cell.source.strip().splitlines() or ["empty"])[0][:50]
        count += cell.cell_type == "code"
        found += [f"cell {index} ({first_line}): {what}" for what in cell_problems(cell, count)]
    return found


def cell_problems(cell: NotebookNode, count: int) -> Iterator[str]:
    """What is not in normal form in one cell; count says the how many-th code cell it is."""
    if not cell.source.strip():
        yield "has no source"
    if "execution" in cell.metadata:
        yield "carries execution times"
    if cell.cell_type != "code":
        return
    if cell.execution_count != count:
        yield f"execution count is {cell.execution_count}, expected {count}"
    streams = Counter(output.name for output in cell.outputs if output.output_type == "stream")
    yield from (f"stores {name} in {n} pieces" for name, n in streams.items() if n > 1)
    may_raise = "raises-exception" in cell.metadata.get("tags", [])
    for output in cell.outputs:
        if output.output_type == "error" and not may_raise:
            yield f"stores the error {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"stores stderr: {output.text.strip()[:80]}"


# ---- the text mirror ----


def text_path(notebook: Path) -> Path:
    """Where the text of a notebook is."""
    return (TEXT / notebook.resolve().relative_to(BOOK)).with_suffix(".md")


def notebook_path(text: Path) -> Path:
    """Which notebook a text belongs to."""
    return (BOOK / text.resolve().relative_to(TEXT)).with_suffix(".ipynb")


def as_text(notebook: NotebookNode) -> str:
    """The notebook without its outputs, as MyST Markdown."""
    notebook = normalize(nbformat.from_dict(notebook))
    del notebook.metadata["language_info"]
    notebook.metadata["jupytext"] = {
        "notebook_metadata_filter": "all",
        "cell_metadata_filter": "all",
    }
    lines = jupytext.writes(notebook, fmt="md:myst").splitlines()
    return "\n".join(line for line in lines if not line.startswith("    jupytext_version")) + "\n"


def assign_ids(cells: list[NotebookNode], old: list[NotebookNode]) -> None:
    """Keep the id of each cell that is unchanged or edited in place; make others from content."""
    keys, old_keys = ([(c.cell_type, c.source) for c in group] for group in (cells, old))
    ids: dict[int, str] = {}
    matcher = difflib.SequenceMatcher(None, old_keys, keys, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal" or (tag == "replace" and i2 - i1 == j2 - j1):
            ids.update((j1 + k, old[i1 + k].id) for k in range(i2 - i1))
    taken = set(ids.values())
    for index, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        copy = 0
        while index not in ids:
            candidate = hashlib.sha256(repr((key, copy)).encode()).hexdigest()[:8]
            if candidate not in taken:
                ids[index] = candidate
                taken.add(candidate)
            copy += 1
        cell.id = ids[index]


def keep_outputs(cells: list[NotebookNode], old: list[NotebookNode]) -> bool:
    """Take over the stored outputs if not one line of code has changed, else none of them."""
    new_code, old_code = ([c for c in group if c.cell_type == "code"] for group in (cells, old))
    if [c.source for c in new_code] != [c.source for c in old_code]:
        return False
    for new, stored in zip(new_code, old_code, strict=True):
        new.outputs, new.execution_count = stored.outputs, stored.execution_count
    return True


def to_text(path: Path, force: bool) -> bool:
    """Write the notebook's text, unless that would undo edits; says whether it did."""
    text, target = as_text(load(path)), text_path(path)
    newer = target.exists() and target.stat().st_mtime > path.stat().st_mtime
    if newer and not force and target.read_text(encoding="utf-8") != text:
        remedy = "bring it back with from-text, or pass --force"
        print(f"{short(target)} is newer than its notebook: {remedy}")
        return False
    print(f"{short(target)}: {'written' if write_if_changed(target, text) else 'unchanged'}")
    return True


def from_text(path: Path) -> bool:
    """Bring the edits of a text back into its notebook."""
    notebook = normalize(jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst"))
    target = notebook_path(path)
    old = load(target).cells if target.exists() else []
    assign_ids(notebook.cells, old)
    kept = keep_outputs(notebook.cells, old)
    state = "written" if write_if_changed(target, dump(notebook)) else "unchanged"
    outputs = "outputs kept (no code changed)" if kept else "outputs dropped: run it"
    print(f"{short(target)}: {state}, {outputs}")
    return True


# ---- execution ----


def set_up_kernels() -> None:
    """Make kernels, which inherit the environment, run alike whoever starts them and wherever.

    They get one thread, this checkout's library and none of a person's settings of matplotlib. Its
    list of fonts lies in the Python environment, so that no home has to be writable, and is made
    here: inside a notebook matplotlib would say so in the output of the first cell.
    """
    folder = _matplotlib_folder()
    os.environ.update(THREADS, PYTHONPATH=str(ROOT), MPLCONFIGDIR=str(folder))
    for name in PERSONAL:
        os.environ.pop(name, None)
    if not any(folder.glob("fontlist-*.json")):
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        subprocess.run(command, check=True, capture_output=True)


@cache
def _matplotlib_folder() -> Path:
    """A folder that can be written: in the Python environment, else a temporary one."""
    if os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix, "matplotlib")
    folder = tempfile.mkdtemp(prefix="matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Run(NamedTuple):
    """What became of a notebook: "changed", "unchanged" or "failed", and why it failed."""

    path: Path
    state: str
    trouble: str = ""


def run(path: Path, timeout: float = 600) -> Run:
    """Execute one notebook in place; a failing cell leaves the file as it was."""
    notebook = load(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    set_up_kernels()
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # how a kernel cuts its streams depends on time
        resources={"metadata": {"path": str(path.resolve().parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return Run(path, "failed", str(error))
    except Exception as error:  # a dead kernel, a timeout: report it like a failing cell
        return Run(path, "failed", f"{type(error).__name__}: {error}")
    changed = write_if_changed(path, dump(normalize(notebook)))
    return Run(path, "changed" if changed else "unchanged")


def run_all(paths: list[Path], jobs: int) -> bool:
    """Execute the notebooks, several at a time; says whether all of them ran."""
    spawn = multiprocessing.get_context("spawn")
    ok = True
    with ProcessPoolExecutor(max_workers=jobs, mp_context=spawn) as pool:
        for path, state, trouble in pool.map(run, paths):
            print(f"{short(path)}: {state}", flush=True)
            if trouble:
                ok = False
                print(trouble, file=sys.stderr, flush=True)
    return ok


def check(path: Path) -> bool:
    """Print what is not in normal form; says whether all is."""
    found = problems(load(path))
    for sentence in found:
        print(f"{short(path)}: {sentence}")
    return not found


def main() -> int:
    """Do what the command line says; gives the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["to-text", "from-text", "run", "check"])
    parser.add_argument("paths", nargs="*", type=Path, help="default: all")
    parser.add_argument(
        "--jobs", type=int, default=2, help="notebooks run at the same time (default: 2)"
    )
    parser.add_argument("--force", action="store_true", help="to-text: overwrite a newer text")
    arguments = parser.parse_args()
    texts = arguments.command == "from-text"
    paths = arguments.paths or (sorted(TEXT.rglob("*.md")) if texts else notebooks())
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    if arguments.command == "run":
        return 0 if run_all(paths, arguments.jobs) else 1
    one: dict[str, Callable[[Path], bool]] = {
        "to-text": partial(to_text, force=arguments.force),
        "from-text": from_text,
        "check": check,
    }
    done = [one[arguments.command](path) for path in paths]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
