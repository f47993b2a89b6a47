"""Checkpoints: all that a run needs to go on, in one file that cannot be damaged unnoticed."""

import os
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from nclib.measured.files import write_atomic

MAGIC = b"nclib checkpoint 2\n"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in one step.

    Args:
        path: The file.
        content: Plain values and tensors.
    """
    buffer = BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    write_atomic(path, MAGIC + sha256(payload).hexdigest().encode() + b"\n" + payload)


def load_checkpoint(path: Path, keys: set[str]) -> dict[str, Any]:
    """What was saved; nothing in the file is run.

    Args:
        path: The file.
        keys: What it must hold.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged, or something else.
    """
    content = path.read_bytes()
    digest, _, payload = content.removeprefix(MAGIC).partition(b"\n")
    advice = "remove it to begin anew."
    if not content.startswith(MAGIC):
        raise ValueError(f"{path} is no checkpoint of this version of the library; {advice}")
    if sha256(payload).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged, its checksum is another one; {advice}")
    try:
        found = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # a file that somebody made raises nearly anything
        raise ValueError(f"{path} holds no checkpoint; {advice}") from error
    if not isinstance(found, dict) or set(found) != keys:
        raise ValueError(f"{path} holds something else than a checkpoint; {advice}")
    return found


def remove_drafts(path: Path) -> None:
    """Remove what killed processes of this computer left half written beside a file.

    Args:
        path: A file that ``write_atomic`` writes.
    """
    for draft in path.parent.glob(f".{path.name}.*.tmp"):
        owner = draft.name.removesuffix(".tmp").rpartition(".")[2]
        if owner.isdigit() and not _runs(int(owner)):
            draft.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user, say
        return True
    return True
