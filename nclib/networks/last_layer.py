"""Which layer makes the scores of a network, so that its input are the last features."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from nclib.networks.batches import Batch, applied
from nclib.networks.hooks import INPUT, Point


class LastLayer(NamedTuple):
    """What is found on one batch.

    Attributes:
        point: The input of the last layer.
        weights: Its weights (K, d), float64; None if the scores are not those of a linear layer.
        reason: Why there are no weights, as a sentence.
    """

    point: Point
    weights: torch.Tensor | None
    reason: str | None


class _Call(NamedTuple):
    """A module has been called.

    Attributes:
        name: Its name.
        module: The module.
        given: What went in, where that is a tensor (B, d).
        made: What came out, where that is a tensor (B, d).
    """

    name: str
    module: nn.Module
    given: torch.Tensor | None
    made: torch.Tensor | None


def last_layer(
    network: nn.Module, batch: Batch, choose: Callable[[Any], torch.Tensor] | None = None
) -> LastLayer:
    """The layer that makes the scores; the network runs once.

    It is the linear layer whose outputs the scores are, or their softmax; or the innermost module
    around a linear layer of which this holds, as in adapters. Where there is none it is the linear
    layer that is called last, provided that no other layer with parameters is called later.

    Args:
        network: The network, in evaluation mode.
        batch: Some samples.
        choose: Takes the scores from what the network puts out.

    Raises:
        ValueError: There is no such layer.
    """
    calls, output = _calls(network, batch)
    linear = [call for call in calls if isinstance(call.module, nn.Linear)]
    if not linear:
        raise ValueError(
            "the network calls no linear layer, whose input could be measured; say with points "
            f"which layers are meant, by their names: {', '.join(dict(network.named_children()))}."
        )
    found = scores_of(output, choose)
    scores = [found] if found is not None else list(_tensors(output))
    for candidates in (linear, calls):
        makers = [call for call in candidates if any(_makes(call, s) for s in scores)]
        names = {call.name for call in makers}
        if makers and (found is not None or len(names) == 1):
            return _of(max(makers, key=lambda call: call.name.count(".")))
    last = linear[-1]
    later = [c.name for c in calls[calls.index(last) + 1 :] if [*c.module.parameters(False)]]
    if later:
        raise ValueError(
            f"the last linear layer, {last.name}, does not make the scores, and {later[0]} is "
            "called after it; say with points which layers are meant."
        )
    point = Point(INPUT + last.name, last.module, before=True)
    reason = f"the scores are not what {last.name}, the last linear layer, puts out."
    return LastLayer(point, None, reason)


def scores_of(output: Any, choose: Callable[[Any], torch.Tensor] | None) -> torch.Tensor | None:
    """The scores (B, K) in what a network puts out, if they can be found."""
    if choose is not None:
        output = applied("scores", choose, output, "the network puts out")
    elif isinstance(output, Mapping):
        output = output.get("logits")
    elif not isinstance(output, torch.Tensor):
        output = getattr(output, "logits", None)
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] < 2:
        return None
    return output.detach()


def _calls(network: nn.Module, batch: Batch) -> tuple[list[_Call], Any]:
    """All calls of modules in the order of their ends, and what the network puts out."""
    calls: list[_Call] = []
    rows = len(batch.labels)

    def kept(value: Any) -> torch.Tensor | None:
        fits = isinstance(value, torch.Tensor) and value.ndim == 2 and len(value) == rows
        return value.detach().clone() if fits and value.is_floating_point() else None

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if not name:
                continue
            holds = any(isinstance(part, nn.Linear) for part in module.modules())

            def note(
                module: nn.Module,
                given: tuple,
                made: Any,
                name: str = name,
                holds: bool = holds,
            ) -> None:
                first = given[0] if given and holds else None
                calls.append(_Call(name, module, kept(first), kept(made) if holds else None))

            stack.callback(module.register_forward_hook(note).remove)
        output = batch.outputs(network)
    return calls, output


def _makes(call: _Call, scores: torch.Tensor) -> bool:
    """Whether the scores are what a module puts out, or their softmax."""
    made = call.made
    if made is None or call.given is None or made.shape != scores.shape:
        return False
    ways = (lambda z: z, lambda z: z.log_softmax(1), lambda z: z.softmax(1))
    return any(_close(way(made), scores) for way in ways)


def _of(call: _Call) -> LastLayer:
    """The last layer, with its weights if they make what it puts out."""
    point = Point(INPUT + call.name, call.module, before=True)
    if not isinstance(call.module, nn.Linear):
        return LastLayer(point, None, f"the scores are those of {call.name}, no linear layer.")
    assert call.given is not None and call.made is not None
    weights = torch.as_tensor(call.module.weight).detach()
    try:
        own = functional.linear(call.given, weights, call.module.bias)
        holds = _close(own, call.made)
    except RuntimeError:  # the weights are stored in another form
        holds = False
    if not holds:
        return LastLayer(
            point, None, f"{call.name} does not put out what its weights make of its input."
        )
    return LastLayer(point, weights.double(), None)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors differ by rounding alone."""
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (one, other))
    one, other = one.double(), other.double().to(one.device)
    size = other.abs().amax() if other.numel() else 0.0
    return one.shape == other.shape and bool((one - other).abs().le(8 * eps * size).all())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of scores (B, K) in what a network puts out."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 2 and value.shape[1] > 1 and value.is_floating_point():
            yield value.detach()
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
