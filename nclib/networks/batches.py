"""Batches of labeled inputs, whatever they come from: samples, a DataLoader, or any iterable."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nclib import _checks
from nclib.networks import parallel
from nclib.networks.samples import Samples, as_tensor

MOST = 10_000_000  # without num_classes or classes a larger label is a slip
BY_POINT = ("select", "pool")  # arguments that may differ from point to point

Data = Samples | Iterable[Any]
Unpacker = Callable[[Any], tuple[Any, Any]]


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        inputs: What the network is called with: a tensor, a tuple of arguments, or a dictionary of
            named ones.
        labels: Integers (B,) on the CPU from 0 to K - 1, or -1 for a sample that is left out.
        K: The number of classes known so far.
    """

    inputs: Any
    labels: torch.Tensor
    K: int

    def outputs(self, network: nn.Module) -> Any:
        """What the network puts out; it gets copies of all tensors, for it may change them."""
        inputs = _copied(self.inputs)
        if isinstance(inputs, Mapping):
            return network(**inputs)
        if isinstance(inputs, tuple):
            return network(*inputs)
        return network(inputs)


class Batches:
    """Data that can be gone through batch by batch.

    Args:
        data: Samples, or an iterable of pairs of inputs and labels: a DataLoader, a list.
        device: Where the network is.
        batch_size: Samples per batch at most, where it is not the data that decide.
        num_classes: K. Without it K is the largest label plus one, and every class must occur.
        classes: The labels that count as classes, which are then numbered in this order; samples
            with other labels are left out.
        unpack: Makes a pair of inputs and labels of what ``data`` yields.
        in_order: Whether ``Samples`` come in their own order, all of them in every process, and not
            class by class.

    Raises:
        ValueError: ``num_classes`` and ``classes`` contradict each other.
    """

    def __init__(
        self,
        data: Data,
        device: torch.device,
        *,
        batch_size: int = 100,
        num_classes: int | None = None,
        classes: Sequence[int] | None = None,
        unpack: Unpacker | None = None,
        in_order: bool = False,
    ):
        self.data = data
        self.device = device
        self.batch_size = _checks.positive_integer("batch_size", batch_size)
        self.unpack = unpack
        self.in_order = in_order
        self.num_classes = num_classes
        if num_classes is not None:
            self.num_classes = _checks.positive_integer("num_classes", num_classes)
        self.classes = None
        if classes is not None:
            self.classes = _class_labels(classes, num_classes)
            self.num_classes = len(self.classes)
        self._begun: tuple[Batch, Iterator[Batch]] | None = None

    def first(self) -> Batch:
        """The first batch, with which the next iteration begins.

        Raises:
            ValueError: There is none.
        """
        batches = self._made()
        batch = next(batches, None)
        if batch is None:
            raise ValueError("data must hold samples, but there are none.")
        self._begun = batch, batches
        return batch

    def __iter__(self) -> Iterator[Batch]:
        if self._begun is None:
            return self._made()
        batch, rest = self._begun
        self._begun = None
        return chain([batch], rest)

    def _made(self) -> Iterator[Batch]:
        K = self.num_classes or 0
        found = self._of_samples() if isinstance(self.data, Samples) else self._of_iterable()
        for inputs, labels in found:
            y = self._numbered(_labels(labels))
            K = max(K, int(y.max()) + 1) if len(y) else K
            yield Batch(_moved(inputs, self.device), y, K)

    def _of_samples(self) -> Iterator[tuple[Any, Any]]:
        """This process's share of each class, one class after the other."""
        assert isinstance(self.data, Samples)
        if self.in_order:
            shares = [torch.arange(len(self.data), device=self.data.device)]
        else:
            shares = [c[parallel.rank() :: parallel.world()] for c in self.data.classes]
        for share in shares:
            for index in share.split(self.batch_size) if len(share) else ():
                yield self.data.inputs(index), self.data.labels[index]

    def _of_iterable(self) -> Iterator[tuple[Any, Any]]:
        assert not isinstance(self.data, Samples)
        for item in self.data:
            unpack = self.unpack
            pair = item if unpack is None else applied("unpack", unpack, item, "data yields")
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                one = isinstance(self.data, (tuple, list)) and len(self.data) == 2
                raise TypeError(
                    f"data must yield pairs of inputs and labels, but it yields {in_words(pair)}; "
                    + (
                        "a single pair of arrays is given as [(inputs, labels)]."
                        if one and isinstance(item, (torch.Tensor, np.ndarray))
                        else "say with unpack=lambda batch: (inputs, labels) what they are."
                    )
                )
            inputs, labels = pair
            yield tuple(inputs) if isinstance(inputs, list) else inputs, labels

    def _numbered(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels as numbers of classes, -1 for those that are left out."""
        if len(labels) == 0:
            return labels
        if self.classes is not None:
            chosen, order = self.classes.sort()
            at = torch.searchsorted(chosen, labels).clamp(max=len(chosen) - 1)
            return torch.where(chosen[at] == labels, order[at], -1)
        if labels.min() < 0:
            raise ValueError(
                f"labels must not be negative, but the label {int(labels.min())} occurs; with "
                "classes= samples of other labels are left out."
            )
        if self.num_classes is None and labels.max() >= MOST:
            raise ValueError(
                f"labels must number the classes from 0 on, but the label {int(labels.max())} "
                "occurs; say with classes= which labels are meant."
            )
        if self.num_classes is not None and labels.max() >= self.num_classes:
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1}, but the label {labels.max()} "
                "occurs."
            )
        return labels

    def require_all(self, counts: np.ndarray) -> None:
        """Raise ValueError if a class lacks samples where it must not."""
        if self.num_classes is not None and self.classes is None:
            return
        if counts.all():
            return
        k = int(np.argmin(counts != 0))
        if self.classes is not None:
            raise ValueError(f"class {self.classes[k]} has no samples; take it out of classes.")
        raise ValueError(
            f"class {k} has no samples, although the label {len(counts) - 1} occurs; say with "
            "num_classes how many classes there are, or with classes which ones are measured."
        )


def _class_labels(classes: Sequence[int], num_classes: int | None) -> torch.Tensor:
    chosen = np.asarray(classes)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or len(chosen) == 0 or chosen.min() < 0:
        raise ValueError(f"classes must be labels, integers from 0 on, but classes = {classes!r}.")
    if len(set(chosen.tolist())) != len(chosen):
        raise ValueError(f"classes must be all different, but classes = {classes!r}.")
    if num_classes is not None and num_classes != len(chosen):
        raise ValueError(
            f"num_classes must be {len(chosen)}, the number of classes, or be left out, but "
            f"num_classes = {num_classes}."
        )
    return torch.as_tensor(chosen.astype(np.int64))


def _labels(labels: Any) -> torch.Tensor:
    """Labels as integers (B,) on the CPU."""
    try:
        y = as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"labels must be integers, but they are {in_words(labels)}, of which PyTorch says: "
            f"{error}."
        ) from error
    if y.ndim != 1:
        raise ValueError(
            f"labels must have shape (B,), one per sample, but their shape is {tuple(y.shape)}; "
            + _remedy(tuple(y.shape))
        )
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise TypeError(f"labels must be integers, but their type is {y.dtype}.")
    return y.long()


def _remedy(shape: tuple[int, ...]) -> str:
    """What to do about labels of this shape."""
    if not shape:
        return "data that yield one sample at a time become batches in a DataLoader."
    if len(shape) == 2 and shape[1] == 1:
        return "say unpack=lambda batch: (batch[0], batch[1][:, 0])."
    if len(shape) == 2:
        return "for one-hot labels say unpack=lambda batch: (batch[0], batch[1].argmax(1))."
    return "say with unpack how a batch becomes inputs and one label for each sample."


def _mapped(inputs: Any, change: Callable[[Any], Any]) -> Any:
    """Inputs with every part changed, inside dictionaries, tuples and lists too."""
    if isinstance(inputs, Mapping):
        return {key: _mapped(value, change) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*(_mapped(value, change) for value in inputs))
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_mapped(value, change) for value in inputs)
    return change(inputs)


def _moved(inputs: Any, device: torch.device) -> Any:
    """Inputs on a device, wherever there is a tensor or an array in them."""

    def move(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            part = as_tensor(part)
        # A tensor, or what holds tensors and can move itself.
        return part.to(device) if hasattr(part, "to") else part

    return _mapped(inputs, move)


def _copied(inputs: Any) -> Any:
    """Inputs whose tensors share no memory with those given; objects that can be cloned are."""

    def copy(part: Any) -> Any:
        return part.clone() if callable(getattr(part, "clone", None)) else part

    return _mapped(inputs, copy)


def applied(argument: str, function: Callable[[Any], Any], value: Any, where: str) -> Any:
    """What a function given as an argument makes of a value.

    Raises:
        ValueError: The function fails; the message names the argument and the value.
    """
    try:
        return function(value)
    except Exception as error:
        hint = f"; {argument} can be a dictionary by points" if argument in BY_POINT else ""
        raise ValueError(
            f"{argument} fails where {where} {in_words(value)}: {type(error).__name__}: "
            f"{str(error).rstrip('.')}{hint}."
        ) from error


def in_words(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        shown = ", ".join(map(in_words, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"a {kind} of {len(value)}: {shown}"
    return f"a value of type {type(value).__name__}"
