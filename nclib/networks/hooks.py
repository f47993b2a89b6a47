"""Looking into a network while it runs: which layers there are, and what they put out."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from nclib.networks.batches import BY_POINT, applied, in_words

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
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

    @property
    def channels_first(self) -> bool:
        """Whether the layer is of a kind whose channels are the first axis behind the batch."""
        return not self.before and isinstance(self.module, CHANNELS_FIRST)

    @property
    def channels_last(self) -> bool:
        """Whether the layer is of a kind that normalizes over channels as the last axis."""
        kinds = tuple(k for k in (nn.LayerNorm, getattr(nn, "RMSNorm", None)) if k)
        return (
            not self.before
            and isinstance(self.module, kinds)
            and len(self.module.normalized_shape) == 1
        )


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
    if not isinstance(points, Iterable):
        raise TypeError(f"points must be names or modules, but they are {in_words(points)}.")
    if isinstance(points, Mapping):
        found = [_find(network, name, point) for name, point in points.items()]
    else:
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
        stack.enter_context(_full_precision())
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            network.eval()
            yield
        finally:
            for module, flag in training:
                if type(module).train is not nn.Module.train:  # it does more than set the flag
                    module.train(flag)
            for module, flag in training:
                module.training = flag


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products and convolutions of float32 as such; no search for the fastest kernel."""
    cudnn = torch.backends.cudnn
    found = [
        getattr(backend, kind, None)
        for backend in (torch.backends.cuda, torch.backends.mkldnn, cudnn)
        for kind in ("matmul", "conv", "rnn")
    ]
    places: list[Any] = [place for place in found if hasattr(place, "fp32_precision")]
    with ExitStack() as stack:
        stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        cudnn.benchmark = False
        for place in places:
            stack.callback(setattr, place, "fp32_precision", place.fp32_precision)
            place.fp32_precision = "ieee"
        if not places:  # PyTorch before 2.9
            stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


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


def as_features(
    point: Point, value: Any, select: Choice | None = None, pool: Choice | None = None
) -> Features:
    """What a layer puts out as features (B, d).

    Args:
        point: The point.
        value: What is there.
        select: Takes a tensor from it.
        pool: Makes features (B, d) of that tensor; by default outputs of convolutions are averaged
            over the positions.

    Raises:
        TypeError: There is no tensor, or not one of real numbers.
        ValueError: It is not clear how the tensor becomes (B, d), or ``select`` or ``pool`` fails.
    """
    name = point.name
    verb = "is" if name.startswith(INPUT) else "puts out"
    choose = _choice(select, name)
    if choose is not None:
        value = applied("select", choose, value, f"{name} {verb}")
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{name} {verb} {in_words(value)}; say which tensor is meant, for instance with "
            f"select={{{name!r}: lambda value: value{key_of(value)}}}."
        )
    value = _dense(name, value.detach())
    resolution = torch.finfo(value.dtype).eps
    averaged = None
    reduce = _choice(pool, name)
    if reduce is not None:
        value = applied("pool", reduce, value, f"{name} {verb}")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"pool must make a tensor of {name}, but it makes {in_words(value)}.")
        value = _dense(name, value.detach())
    elif value.ndim > 2 and set(value.shape[2:]) == {1}:
        value = value.flatten(1)
    elif value.ndim == 4:
        averaged = tuple(value.shape[1:])
        _require_channels_first(point, value)
        value = value.mean((2, 3)) if value.element_size() > 2 else value.float().mean((2, 3))
    if value.ndim != 2:
        raise ValueError(
            f"{name} {verb} {in_words(value)}, which must become (B, d); say how, for instance "
            f"with pool={{{name!r}: lambda h: {_pooling(value, point.channels_first)}}}."
        )
    return Features(value, max(resolution, torch.finfo(value.dtype).eps), averaged)


def _dense(name: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor that is one of real numbers, each stored."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must put out floating-point numbers, but they are {value.dtype}.")
    if value.layout != torch.strided:
        raise TypeError(
            f"{name} puts out a sparse tensor; say select={{{name!r}: lambda h: h.to_dense()}}."
        )
    return value


def _require_channels_first(point: Point, value: torch.Tensor) -> None:
    """Raise ValueError where the channels of (B, ., ., .) seem to be the last axis."""
    channels, height, width = value.shape[1:]
    looks_last = channels == height != width
    if point.channels_first or not (looks_last or point.channels_last):
        return
    raise ValueError(
        f"{point.name} puts out {in_words(value)}, where the channels may be the first or the last "
        f"of {tuple(value.shape[1:])}; say with pool={{{point.name!r}: lambda h: h.mean((1, 2))}} "
        "if they are the last, with h.mean((2, 3)) if the first."
    )


def require_known(reading: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError if ``select`` or ``pool`` has a key that names no point."""
    names = list(names)
    for argument in BY_POINT:
        choice = reading.get(argument)
        unknown = [key for key in choice if key not in names] if isinstance(choice, Mapping) else []
        if unknown:
            raise ValueError(
                f"{argument} has the key {unknown[0]!r}, but the points are {', '.join(names)}."
            )


def _choice(choice: Choice | None, name: str) -> Callable[[Any], Any] | None:
    return choice.get(name) if isinstance(choice, Mapping) else choice


def key_of(value: Any, width: int | None = None) -> str:
    """How to take a tensor from a tuple, a dictionary or an object: the first of this width."""
    if isinstance(value, Mapping):
        items = [(f"[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(f"[{i}]", part) for i, part in enumerate(value)]
    else:
        items = [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]
    tensors = [(key, part) for key, part in items if isinstance(part, torch.Tensor)]
    fitting = [(key, part) for key, part in tensors if part.ndim == 2 and part.shape[1] == width]
    return next((key for key, _ in (*fitting, *tensors, *items)), "[0]")


def _pooling(value: torch.Tensor, channels_first: bool) -> str:
    """How a tensor may become (B, d)."""
    if value.ndim == 1:
        return "h[:, None]"
    if value.ndim == 3:
        return "h.mean(2)" if channels_first else "h.mean(1)"
    return "h.mean((2, 3, 4))" if value.ndim == 5 else "h.flatten(1)"
