"""What computes: the processor and its instructions, versions, and the commit of the library."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import torch

import nclib
from nclib.measured.records import Part, Versions
from nclib.networks import parallel


def this_part(device: torch.device) -> Part:
    """What computes from now on, before the first epoch."""
    return Part(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        epoch=0,
        commit=commit(),
        device=device_in_words(device),
        processor=processor(),
        instructions=instructions(),
        versions=versions(),
    )


def device_in_words(device: torch.device) -> str:
    """What computed, as a reader would say it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
    return name if parallel.world() == 1 else f"{parallel.world()} x {name}"


@cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown")


def instructions() -> str:
    """The vector instructions that PyTorch uses, and the limit set for its convolutions.

    With other ones sums are rounded in another order, and a training run ends elsewhere. Who wants
    the same numbers on a newer processor sets ONEDNN_MAX_CPU_ISA=AVX2.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    convolutions = "no limit for oneDNN" if limit is None else f"oneDNN up to {limit}"
    return f"{torch.backends.cpu.get_cpu_capability()}, {convolutions}"


def versions() -> Versions:
    """Versions of what computed."""
    return Versions(
        nclib=nclib.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
    )


@cache
def commit() -> str | None:
    """The commit of the library at the first call; None if the library's files differ from it, or
    if it is not in a repository.
    """
    git = ["git", "-C", str(Path(nclib.__file__).parent)]
    status = [*git, "status", "--porcelain", "--untracked-files=no", "."]
    head = [*git, "rev-parse", "HEAD"]
    try:
        changed, found = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for command in (status, head)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if changed else found.strip()
