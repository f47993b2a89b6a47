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
    """The network inside what PyTorch wraps around one to compile it or to spread it."""
    while True:
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
    return found


def _find(network: nn.Module, name: str | None, point: Any) -> Point:
    if isinstance(point, Point):
        return point
    if isinstance(point, str):
        layer = point.removeprefix(INPUT)
        modules = dict(network.named_modules())
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

    Afterwards every module is in the mode in which it was. What was compiled runs uncompiled, so
    that the hooks are seen.
    """
    training = [(module, module.training) for module in network.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
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
    """

    h: torch.Tensor
    resolution: float


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
        ValueError: It is not clear how the tensor becomes (B, d).
    """
    verb = "is" if name.startswith(INPUT) else "puts out"
    choose = _choice(select, name)
    if choose is not None:
        value = choose(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{name} {verb} {in_words(value)}; say which tensor is meant, for instance with "
            f"select={{{name!r}: lambda value: value{_key(value)}}}."
        )
    if not value.is_floating_point():
        raise TypeError(f"{name} must put out floating-point numbers, but they are {value.dtype}.")
    resolution = torch.finfo(value.dtype).eps
    reduce = _choice(pool, name)
    if reduce is not None:
        value = reduce(value)
    elif value.ndim == 4:
        value = value.mean((2, 3)) if value.element_size() > 2 else value.float().mean((2, 3))
    if not isinstance(value, torch.Tensor) or value.ndim != 2:
        raise ValueError(
            f"{name} {verb} {in_words(value)}, which must become (B, d); say how, for instance "
            f"with pool={{{name!r}: lambda h: {_pooling(value)}}}."
        )
    return Features(value, max(resolution, torch.finfo(value.dtype).eps))


def _choice(choice: Choice | None, name: str) -> Callable[[Any], Any] | None:
    return choice.get(name) if isinstance(choice, Mapping) else choice


def _key(value: Any) -> str:
    return f"[{next(iter(value))!r}]" if isinstance(value, Mapping) and value else "[0]"


def _pooling(value: Any) -> str:
    ndim = value.ndim if isinstance(value, torch.Tensor) else 0
    return {1: "h[:, None]", 3: "h.mean(1)"}.get(ndim, "h.flatten(1)")
