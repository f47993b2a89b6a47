"""Several processes, one training run: what differs from a single process, and nothing where there
is only one.

Start the program under ``torchrun``; each process then takes its share of every batch and of every
class.
"""

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def several() -> bool:
    """Whether ``torchrun`` started several processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def start(device: str) -> torch.device:
    """Join the other processes if ``torchrun`` started several, and return this process's device.

    Args:
        device: "cpu", "cuda", or "auto" for "cuda" where there is one.

    Raises:
        ValueError: A GPU is asked for, but there is none.
    """
    there = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if there else "cpu"
    if device == "cuda" and not there:
        raise ValueError(
            f"device must be cpu or auto, but it is cuda, and PyTorch {torch.__version__} finds no "
            "GPU here."
        )
    if several() and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(device)


def stop() -> None:
    """Leave the group of processes, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 for the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wrap(network: nn.Module) -> nn.Module:
    """A module whose gradients are averaged over the processes; the network itself if there is only
    one.

    Batch normalization uses the statistics of all processes on GPUs; on CPUs, where PyTorch does
    not offer it, each process's own.
    """
    if world() == 1:
        return network
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network)


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over the processes, in place."""
    if world() > 1:
        distributed.all_reduce(tensor)
    return tensor


def largest(value: float) -> float:
    """The largest of the values of all processes; an integer if they are integers."""
    if world() == 1:
        return value
    kind = torch.float64 if isinstance(value, float) else torch.int64
    answer = torch.tensor([value], device=_device(), dtype=kind)
    distributed.all_reduce(answer, distributed.ReduceOp.MAX)
    return answer.item()


def agreed(flag: bool) -> bool:
    """What the first process says, so that all decide alike."""
    if world() == 1:
        return flag
    answer = torch.tensor([flag], device=_device(), dtype=torch.int64)
    distributed.broadcast(answer, 0)
    return bool(answer.item())


def _device() -> str:
    """Where the processes exchange numbers."""
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
