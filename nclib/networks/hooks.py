"""Looking into a network while it runs: which layers there are, and what they put out."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from nclib.networks.batches import Batch, in_words

INPUT = "input of "  # stands before a name where the input of that layer is meant


def inner(network: nn.Module) -> nn.Module:
    """The network inside what PyTorch wraps around one to compile it or to spread it.

    Raises:
        TypeError: It is no module, or a scripted one.
    """
    while True:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, but it is {in_words(network)}.")
        if isinstance(network, torch.jit.ScriptModule):
            raise TypeError(
                "network must not be scripted, as PyTorch shows nothing of what goes on in such a "
                "one; give the module of which it was made."
            )
        if isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            network = network.module
        elif isinstance(getattr(network, "_orig_mod", None), nn.Module):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            return network


def device_of(network: nn.Module) -> torch.device:
    """Where a network is: the device of its first parameter or buffer."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


def own_points(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that a network offers for measuring, by name, as the networks of the book do."""
    points = getattr(network, "points", None)
    if isinstance(points, Mapping) and all(isinstance(m, nn.Module) for m in points.values()):
        return dict(points)
    return {}


@dataclass(frozen=True)
class Point:
    """A place in a network.

    Attributes:
        name: What it is called.
        module: The layer.
        before: Whether the layer's input is meant, and not what it puts out.
    """

    name: str
    module: nn.Module
    before: bool = False


Named = str | nn.Module | Point
Points = Named | Iterable[Named] | Mapping[str, str | nn.Module]
Choice = Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]]


def find(network: nn.Module, points: Points) -> list[Point]:
    """The places that are meant by names or modules.

    Raises:
        ValueError: The network has no such layer.
        TypeError: Something is neither a name nor a module.
    """
    if isinstance(points, (str, nn.Module, Point)):
        points = [points]
    if isinstance(points, Mapping):
        return [_find(network, name, point) for name, point in points.items()]
    found = [_find(network, None, point) for point in points]
    if not found:
        raise ValueError("points must name at least one layer, but there is none.")
    names = [point.name for point in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"points must be all different, but {twice[0]!r} is there twice.")
    return found


def _find(network: nn.Module, name: str | None, point: Any) -> Point:
    if isinstance(point, Point):
        return point
    if isinstance(point, str):
        layer = point.removeprefix(INPUT)
        modules = dict(network.named_modules(remove_duplicate=False))  # tied ones by either name
        if layer not in modules or not layer:
            names = [key for key in modules if key]
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"the network has no layer {layer!r}; its layers are {shown}.")
        return Point(name or point, modules[layer], layer != point)
    if not isinstance(point, nn.Module):
        raise TypeError(f"points must be names or modules, but one is {in_words(point)}.")
    names = [key for key, module in network.named_modules() if module is point]
    if not names:
        raise ValueError(f"the network does not hold the layer {type(point).__name__} of points.")
    return Point(name or names[0] or type(point).__name__, point)


def classifier(network: nn.Module, batch: Batch) -> Point:
    """The input of the linear layer that is called last; the network runs once.

    Raises:
        ValueError: No linear layer is called.
    """
    called: list[str] = []
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):

                def note(*_: object, name: str = name) -> None:
                    called.append(name)

                stack.callback(module.register_forward_hook(note).remove)
        batch.outputs(network)
    if not called:
        raise ValueError(
            "the network calls no linear layer, whose input could be measured; say with points "
            f"which layers are meant, by their names: {', '.join(dict(network.named_children()))}."
        )
    return Point(INPUT + called[-1], network.get_submodule(called[-1]), before=True)


@contextmanager
def watching(points: Iterable[Point], seen: Callable[[str, Any], None]) -> Iterator[None]:
    """Within this context ``seen`` is told the name of each point and what is there, at once.

    At once, because a later operation may overwrite it.
    """
    with ExitStack() as stack:
        for point in points:
            if point.before:

                def before(
                    _: nn.Module, inputs: tuple, named: dict, name: str = point.name
                ) -> None:
                    values = (*inputs, *named.values())
                    seen(name, values[0] if len(values) == 1 else values)

                hook = point.module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(hook.remove)
            else:

                def after(_: nn.Module, __: object, output: Any, name: str = point.name) -> None:
                    seen(name, output)

                stack.callback(point.module.register_forward_hook(after).remove)
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, in full precision: no TF32 where a GPU would use it.

    Afterwards every module is in the mode in which it was, and so are PyTorch's random numbers on
    the CPU, from which a DataLoader draws a seed whenever it is gone through. What was compiled
    runs uncompiled, so that the hooks are seen.
    """
    training = [(module, module.training) for module in network.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        precision = torch.get_float32_matmul_precision()
        stack.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
        stack.enter_context(
            torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
        )
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            network.eval()
            yield
        finally:
            for module, flag in training:
                module.training = flag


class Features(NamedTuple):
    """Features of a batch.

    Attributes:
        h: Shape (B, d).
        resolution: Machine epsilon of the type that the layer put out: what pooling in a wider type
            makes of rounded numbers is no more exact than they are.
        averaged: The shape of a sample if its positions were averaged here, else None.
    """

    h: torch.Tensor
    resolution: float
    averaged: tuple[int, ...] | None = None


def as_features(name: str, value: Any, select: Choice | None, pool: Choice | None) -> Features:
    """What a layer puts out as features (B, d).

    Args:
        name: The point.
        value: What is there.
        select: Takes a tensor from it.
        pool: Makes features (B, d) of that tensor; by default outputs of convolutions are averaged
            over the positions.

    Raises:
        TypeError: There is no tensor, or not one of real numbers.
        ValueError: It is not clear how the tensor becomes (B, d), or ``select`` or ``pool`` fails.
    """
    verb = "is" if name.startswith(INPUT) else "puts out"
    choose = _choice(select, name)
    if choose is not None:
        value = applied("select", choose, value, f"{name} {verb}")
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{name} {verb} {in_words(value)}; say which tensor is meant, for instance with "
            f"select={{{name!r}: lambda value: value{key_of(value)}}}."
        )
    if not value.is_floating_point():
        raise TypeError(f"{name} must put out floating-point numbers, but they are {value.dtype}.")
    resolution = torch.finfo(value.dtype).eps
    averaged = None
    reduce = _choice(pool, name)
    if reduce is not None:
        value = applied("pool", reduce, value, f"{name} {verb}")
    elif value.ndim == 4:
        averaged = tuple(value.shape[1:]) if value.shape[2:] != (1, 1) else None
        if averaged and averaged[0] == averaged[1] != averaged[2]:
            raise ValueError(
                f"{name} {verb} {in_words(value)}, where the channels may be the first or the last "
                f"of {averaged}; say with pool={{{name!r}: lambda h: h.mean((1, 2))}} if they are "
                "the last, with h.mean((2, 3)) if the first."
            )
        value = value.mean((2, 3)) if value.element_size() > 2 else value.float().mean((2, 3))
    if not isinstance(value, torch.Tensor) or value.ndim != 2:
        raise ValueError(
            f"{name} {verb} {in_words(value)}, which must become (B, d); say how, for instance "
            f"with pool={{{name!r}: lambda h: {_pooling(value)}}}."
        )
    return Features(value, max(resolution, torch.finfo(value.dtype).eps), averaged)


def applied(argument: str, function: Callable[[Any], Any], value: Any, where: str) -> Any:
    """What a function given as an argument makes of a value.

    Raises:
        ValueError: The function fails; the message names the argument and the value.
    """
    try:
        return function(value)
    except Exception as error:
        hint = "" if argument == "scores" else f"; {argument} can be a dictionary by points"
        raise ValueError(
            f"{argument} fails where {where} {in_words(value)}: {type(error).__name__}: "
            f"{str(error).rstrip('.')}{hint}."
        ) from error


def require_known(reading: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError if ``select`` or ``pool`` has a key that names no point."""
    names = list(names)
    for argument in ("select", "pool"):
        choice = reading.get(argument)
        unknown = [key for key in choice if key not in names] if isinstance(choice, Mapping) else []
        if unknown:
            raise ValueError(
                f"{argument} has the key {unknown[0]!r}, but the points are {', '.join(names)}."
            )


def _choice(choice: Choice | None, name: str) -> Callable[[Any], Any] | None:
    return choice.get(name) if isinstance(choice, Mapping) else choice


def key_of(value: Any) -> str:
    """How to take the first tensor from a tuple or a dictionary."""
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, (tuple, list)) else []
    tensors = [key for key, part in items if isinstance(part, torch.Tensor)]
    return f"[{(tensors or [key for key, _ in items] or [0])[0]!r}]"


def _pooling(value: Any) -> str:
    ndim = value.ndim if isinstance(value, torch.Tensor) else 0
    return {1: "h[:, None]", 3: "h.mean(1)"}.get(ndim, "h.flatten(1)")
