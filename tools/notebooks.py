"""The chapters' notebooks: their text mirror, their execution and their normal form.

    notebooks.py to-text   [book/PART/NAME.ipynb ...]   write .text/PART/NAME.md (MyST) for editing
    notebooks.py from-text [.text/PART/NAME.md ...]     bring the edits back
    notebooks.py run       [book/PART/NAME.ipynb ...]   execute in place, several at a time
    notebooks.py check     [book/PART/NAME.ipynb ...]   say what is not in normal form

Without paths each command takes all notebooks (or all texts). The notebook is the source: executed, committed,
and in a normal form that depends on nothing but its cells and their results, so running twice changes no byte.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

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
# One thread everywhere: sums are then taken in one order, whatever the number of cores.
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def notebooks() -> list[Path]:
    """All notebooks of the book, in a fixed order."""
    return sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def short(path: Path) -> str:
    """The path as a person types it: relative to the project where it lies inside."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def dump(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook, version=4) + "\n"


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically; a file that already has this text keeps its time stamp."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return True


# The normal form -----------------------------------------------------------------------------------------------


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: how the kernel cuts them depends on time."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.output_type == output.output_type == "stream"
            and last.name == output.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Keep what the author and the results say; drop versions, times and other traces of one machine."""
    kept = {
        k: v
        for k, v in notebook.metadata.items()
        if k not in ("jupytext", "kernelspec", "language_info")
    }
    notebook.metadata = nbformat.from_dict(
        {**kept, "kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for volatile in ("execution", "ExecuteTime", "jp-MarkdownHeadingCollapsed"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    return notebook


def problems(notebook: NotebookNode) -> list[str]:
    """Why this notebook is not as `run` leaves it; empty when it is."""
    found = []
    if (
        notebook.metadata.get("kernelspec") != KERNELSPEC
        or notebook.metadata.get("language_info") != LANGUAGE_INFO
    ):
        found.append(
            "kernelspec or language_info is not in normal form: run it with tools/notebooks.py"
        )
    if "jupytext" in notebook.metadata:
        found.append("notebook metadata carries a jupytext section")
    count = 0
    for index, cell in enumerate(notebook.cells):
        where = f"cell {index} ({cell.source.strip().splitlines()[0][:50] if cell.source.strip() else 'empty'})"
        if not cell.source.strip():
            found.append(f"{where}: has no source")
        if "execution" in cell.metadata:
            found.append(f"{where}: carries execution times")
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            found.append(f"{where}: execution count is {cell.execution_count}, expected {count}")
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get(
                "tags", []
            ):
                found.append(f"{where}: stores the error {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where}: stores stderr: {output.text.strip()[:80]}")
    return found


# The text mirror -----------------------------------------------------------------------------------------------


def text_path(notebook: Path) -> Path:
    return (TEXT / notebook.resolve().relative_to(BOOK)).with_suffix(".md")


def notebook_path(text: Path) -> Path:
    return (BOOK / text.resolve().relative_to(TEXT)).with_suffix(".ipynb")


def as_text(notebook: NotebookNode) -> str:
    """The notebook without its outputs, as MyST Markdown."""
    notebook = normalise(nbformat.from_dict(notebook))
    del notebook.metadata["language_info"]
    notebook.metadata["jupytext"] = {
        "notebook_metadata_filter": "all",
        "cell_metadata_filter": "all",
    }
    lines = jupytext.writes(notebook, fmt="md:myst").splitlines()
    return "\n".join(line for line in lines if not line.startswith("    jupytext_version")) + "\n"


def assign_ids(cells: list[NotebookNode], old: list[NotebookNode]) -> None:
    """Keep the id of every cell that is unchanged or edited in place; make others from their content."""
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
    text, target = as_text(load(path)), text_path(path)
    edited = target.exists() and target.stat().st_mtime > path.stat().st_mtime
    if edited and not force and target.read_text(encoding="utf-8") != text:
        print(
            f"{short(target)} is newer than its notebook: bring it back with from-text, or pass --force"
        )
        return False
    print(f"{short(target)}: {'written' if write_if_changed(target, text) else 'unchanged'}")
    return True


def from_text(path: Path) -> bool:
    notebook = normalise(jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst"))
    target = notebook_path(path)
    old = load(target).cells if target.exists() else []
    assign_ids(notebook.cells, old)
    kept = keep_outputs(notebook.cells, old)
    state = "written" if write_if_changed(target, dump(notebook)) else "unchanged"
    print(
        f"{short(target)}: {state}, {'outputs kept (no code changed)' if kept else 'outputs dropped: run it'}"
    )
    return True


# Execution -----------------------------------------------------------------------------------------------------


def run(path: Path, timeout: float = 600) -> tuple[Path, str, str]:
    """Execute one notebook in place; a failing cell leaves the file as it was.

    Returns:
        The path, what happened in a word, and the traceback if a cell failed.
    """
    notebook = load(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    os.environ.update(THREADS, PYTHONPATH=str(ROOT))
    os.environ.pop("MPLBACKEND", None)
    resources = {"metadata": {"path": str(path.resolve().parent)}}
    settings = {
        "timeout": timeout,
        "kernel_name": "python3",
        "record_timing": False,
        "resources": resources,
    }
    quiet = ["--IPKernelApp.log_level=ERROR"]
    try:
        NotebookClient(notebook, extra_arguments=quiet, **settings).execute()
    except CellExecutionError as error:
        return path, "failed", str(error)
    except Exception as error:  # a dead kernel, a timeout: report it like a failing cell
        return path, "failed", f"{type(error).__name__}: {error}"
    changed = write_if_changed(path, dump(normalise(notebook)))
    return path, "changed" if changed else "unchanged", ""


def run_all(paths: list[Path], jobs: int) -> bool:
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
    found = problems(load(path))
    for sentence in found:
        print(f"{short(path)}: {sentence}")
    return not found


def main() -> int:
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
    everything = sorted(TEXT.rglob("*.md")) if arguments.command == "from-text" else notebooks()
    paths = arguments.paths or everything
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    if arguments.command == "run":
        return 0 if run_all(paths, arguments.jobs) else 1
    one = {"to-text": lambda p: to_text(p, arguments.force), "from-text": from_text, "check": check}
    return 0 if all([one[arguments.command](path) for path in paths]) else 1


if __name__ == "__main__":
    sys.exit(main())
