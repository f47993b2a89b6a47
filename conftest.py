"""Set-up of all tests: one thread, this library, repeatable examples, figures as figures."""

import os
import tempfile

from hypothesis import settings
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from tools.figures import differences, is_figure
from tools.notebooks import set_up_kernels

set_up_kernels()  # which inherit the environment
# Nobody's own start-up files, and no history shared by kernels that run at the same time.
ipython_folder = tempfile.TemporaryDirectory(prefix="ipython-")
os.environ["IPYTHONDIR"] = ipython_folder.name

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=False)
settings.load_profile("repeatable")


def execute_cell_input(
    self: RunningKernel, cell_input: str, allow_stdin: bool | None = None
) -> str:
    """Execute with history, as a notebook does: else a closing semicolon does not hide a result."""
    return self.kc.execute(
        cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
    )


RunningKernel.execute_cell_input = execute_cell_input
compare_strictly = IPyNbCell.compare_outputs


def figures(outputs: list) -> list[tuple[dict, str]]:
    """Where the figures of a cell are: the data of an output, and the figure's type there."""
    bundles = [output["data"] for output in outputs if "data" in output]
    found = [(data, mime) for data in bundles for mime in data if is_figure(mime, data[mime])]
    return sorted(found, key=lambda item: item[1])


def compare_outputs(
    self: IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None
) -> bool:
    """Compare as nbval does, but figures by what they show.

    nbval compares drawings letter by letter, which fails for a last digit, and pictures not at all.
    """
    fresh, stored = figures(test), figures(ref)
    kinds = [[mime for _, mime in group] for group in (stored, fresh)]
    found = (
        []
        if kinds[0] == kinds[1]
        else [f"the cell stores the figures {kinds[0]} and draws {kinds[1]}"]
    )
    if not found:
        for number, ((old, mime), (new, _)) in enumerate(zip(stored, fresh, strict=True), start=1):
            found += [
                f"figure {number} ({mime}): {what}"
                for what in differences(mime, old[mime], new[mime])
            ]
            new[mime] = old[mime]
    if found:
        hint = "If the change is meant, run `make notebooks` and look at the new figure."
        self.comparison_traceback = [
            *found[:10],
            *([f"... {len(found) - 10} more"] if len(found) > 10 else []),
            hint,
        ]
        return False
    return compare_strictly(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = compare_outputs
