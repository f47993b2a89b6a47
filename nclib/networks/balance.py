r"""The balance of weight decay, measured on a network: does each block move as its decay says?

A block adds :math:`\Delta = BX` to its input, where X (m x N) is what its last linear map B
multiplies. With the loss's gradient :math:`g_i` at the block's output for sample i and the decay w
of B, a stationary point of the mean loss plus :math:`\frac w2\|B\|_F^2` has

.. math:: wB = -\tfrac1N gX^\top, \qquad \Delta = -\frac1{Nw}\,g\,X^\top X,

whatever the loss, the depth and the other layers are. It is the first-order condition, read over
samples; read over weights it is the theorem of features at convergence (Boix-Adsera et al., 2025).
In a network without biases whose blocks are homogeneous the mean of :math:`\langle g_i,h_i\rangle`
is the same after every block (Euler), and at a stationary last layer it is :math:`-w'\|W\|_F^2`.

Batch normalization couples the samples, and then g is the gradient of N times the mean loss of the
whole batch. Before the last map it changes nothing else. A block that ends in one adds
:math:`\Delta_c = \mathfrak s_c\hat Z_c + \mathfrak t_c` in channel c, with the normalized
:math:`\hat Z_c` (N) and the learned scale and shift; where these have the decay w, every channel
has a kernel of its own, and the decay is the pull of the perturbed model,

.. math::
    \Delta_c = -\tfrac1{Nw}\,g_c\bigl(\hat Z_c^\top\hat Z_c + \mathbf 1\mathbf 1^\top\bigr), \qquad
    \tfrac w2\bigl(\|\mathfrak s\|^2 + \|\mathfrak t\|^2\bigr) = \tfrac w{2N}\|\Delta\|_F^2 .
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy import optimize
from torch import nn

from nclib import _checks
from nclib.networks.hooks import Points, find, own_points
from nclib.networks.recipe import Recipe
from nclib.networks.samples import Samples

DEAD = 1e-3  # length of a unit's outgoing weights, relative to the longest, below which it is dead
STILL = 1e-7  # change of the features, relative to them, below which a block does nothing
BatchNorm = nn.modules.batchnorm._BatchNorm
Part = TypeVar("Part", bound=nn.Module)
TOLERANCE = 1e-6  # relative difference between what a block adds and its last map puts out


class BlockBalance(NamedTuple):
    r"""How a block stands to its balance; NaN where the decay has switched it off.

    Attributes:
        name: The block.
        error: :math:`\|\Delta+\frac1{Nw}gX^\top X\|_F/\|\Delta\|_F`.
        cosine: Between :math:`\Delta` and :math:`-gX^\top X`, all samples together.
        without_kernel: Between :math:`\Delta` and :math:`-g`: the perturbed model's picture, in
            which every sample moves by itself.
        product: Mean over the samples of :math:`\langle g_i,h_i\rangle` at the block's output.
        live: Number of hidden units whose outgoing weights are not negligible; of channels whose
            scale is not, where the block ends in a batch normalization.
        units: For each of these :math:`\|\frac1N\sum_ig_ix_{ij}\|/(w\|a_j\|)` with its incoming
            weights :math:`a_j`: one, where the activation is homogeneous and all is stationary.
            Empty where the block has no two linear maps that fit.
        growth: :math:`\operatorname{tr}\Sigma_W` after the block over that before.
        growth_in_rows: The same for the part in the row space of the last layer.
    """

    name: str
    error: float
    cosine: float
    without_kernel: float
    product: float
    live: int
    units: np.ndarray
    growth: float
    growth_in_rows: float


class Settled(NamedTuple):
    """Where `settle` ended.

    Attributes:
        objective: Loss and decays.
        gradient_norm: Norm of the gradient relative to that of the decays' part.
        iterations: Steps of L-BFGS.
    """

    objective: float
    gradient_norm: float
    iterations: int


@dataclass(frozen=True)
class _Seen:
    """What passes through a block: its input and output, and input and output of its end."""

    before: torch.Tensor
    after: torch.Tensor
    end: nn.Linear | BatchNorm
    units: torch.Tensor
    change: torch.Tensor


@dataclass(frozen=True)
class _Terms:
    """What a block adds, as a sum of a weight times an input over terms.

    Attributes:
        pulls: Minus w times what the weights are at a stationary point: the gradient of the mean
            loss in them.
        predicted: What the block adds with these weights (N, d).
        lengths: Of the weights of each unit or channel.
    """

    pulls: np.ndarray
    predicted: np.ndarray
    lengths: np.ndarray


def balance(
    network: nn.Module,
    samples: Samples,
    weight_decay: float,
    *,
    loss: str = "mse",
    points: Points | None = None,
) -> list[BlockBalance]:
    r"""Measure a residual network block by block against the balance of its weight decay.

    Any residual network whose blocks end in a linear map fits: ``block(h) = h + linear(...)``, with
    or without a bias (which then is taken to have the same decay and acts as one more unit). What
    comes before the linear map in the block, and around the blocks, plays no role. A block may also
    end in a batch normalization with scale and shift, ``block(h) = h + norm(linear(...))``.

    Batch normalization takes its statistics from these samples, all in one batch, and the loss is
    that of such a network. One that was trained on small batches is at rest in no such loss, so
    that the law can hold about as well as the statistics of its batches agree with those of all.
    Decay of a map whose length a normalization takes out has no point of rest: where a stationary
    point is wanted, such maps must be free of it (``settle`` has an argument for that).

    Args:
        network: The network, in evaluation mode or not; it is not changed.
        samples: What it was trained on, all in one batch.
        weight_decay: The decay w of the blocks' last maps, or of scale and shift where a block ends
            in a normalization: the objective is the mean loss plus w/2 times their square, as
            PyTorch's optimizers have it.
        loss: "mse" for half the squared distance to the one-hot labels, or "cross-entropy".
        points: The blocks, as names or modules; by default those that the network offers.

    Returns:
        One entry per block, in their order.

    Raises:
        ValueError: The decay is not positive, the network drops units at random, or a block does
            not end in a linear map, or a batch normalization with scale and shift, that is added to
            its input.

    Examples:
        >>> from nclib.networks import ResidualMLP, Samples, balance, digits
        >>> samples = Samples(*digits(5), dtype=torch.float64)
        >>> [block.name for block in balance(ResidualMLP(64, 10, depth=2), samples, 0.01)]
        ['block 1', 'block 2']
    """
    w = _checks.positive("weight_decay", weight_decay)
    _refuse_dropout(network)
    named = find(network, points if points is not None else own_points(network))
    recipe = Recipe(epochs=1, learning_rate=1.0, loss=loss)
    blocks = {point.name: point.module for point in named}
    with _batch_statistics(network):
        seen, scores, last = _pass(network, samples, blocks)
        outputs = [seen[name].after for name in blocks]
        slopes = torch.autograd.grad(recipe.mean_loss(scores, samples.labels), outputs)
    rows = None
    if last is not None and last.shape[1] == outputs[-1].shape[1]:
        rows = np.linalg.qr(last.detach().cpu().double().numpy().T)[0]
    found = []
    for (name, module), slope in zip(blocks.items(), slopes, strict=True):
        G = len(samples) * slope.detach().cpu().double().numpy()
        found.append(_measured(name, module, seen[name], G, w, rows, samples))
    return found


def settle(
    network: nn.Module,
    samples: Samples,
    weight_decay: float,
    *,
    last_weight_decay: float | None = None,
    loss: str = "mse",
    free: Collection[str] = (),
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
) -> Settled:
    r"""Train a network to a stationary point, by L-BFGS on all samples at once.

    .. math::
        \frac1N\sum_i\ell(z_i,y_i) + \frac w2\|\theta\|^2 + \frac{w'}2\|W\|^2

    With a sharp ReLU the objective has kinks, at which L-BFGS may stop early. Batch normalization
    takes its statistics from all samples.

    Args:
        network: The network, trained in place; its last layer is called ``last``. Parameters that
            require no gradient stay as they are.
        samples: The data.
        weight_decay: The decay w of all weights but the last layer's.
        last_weight_decay: The decay w' of the last layer; by default the same.
        loss: "mse" or "cross-entropy".
        free: Names of parameters without decay, as the network names them: those whose length a
            normalization takes out.
        tolerance: Norm of the gradient relative to that of its part from the decays.
        max_iterations: Bound on the steps.

    Raises:
        ValueError: A decay is negative, or there is no such parameter that is trained.

    Examples:
        >>> from nclib.networks import ResidualMLP, Samples, digits, settle
        >>> samples = Samples(*digits(5), dtype=torch.float64)
        >>> network = ResidualMLP(64, 10, depth=1, width=4, smoothing=0.1)
        >>> settle(network, samples, 0.1, tolerance=1e-3).gradient_norm < 1e-2
        True
    """
    w = _checks.positive("weight_decay", weight_decay)
    own = (
        w
        if last_weight_decay is None
        else _checks.nonnegative("last_weight_decay", last_weight_decay)
    )
    recipe = Recipe(epochs=1, learning_rate=1.0, loss=loss)
    inputs = samples.inputs(slice(None))
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    names, parameters = zip(*named, strict=True)
    for name in free:
        if name not in names:
            raise ValueError(f"free must name parameters that are trained, but {name!r} is none.")
    decays = [0.0 if name in free else own if name.startswith("last.") else w for name in names]

    def put(x: np.ndarray) -> None:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.as_tensor(x).to(parameters[0]), parameters)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        put(x)
        value = recipe.mean_loss(network(inputs), samples.labels)
        for decay, parameter in zip(decays, parameters, strict=True):
            value = value + decay / 2 * parameter.square().sum()
        slopes = torch.autograd.grad(value, parameters)
        return value.item(), torch.cat([s.flatten() for s in slopes]).double().cpu().numpy()

    def scale(x: np.ndarray) -> float:
        sizes = [len(p.flatten()) for p in parameters]
        return float(np.linalg.norm(np.repeat(decays, sizes) * x))

    x = torch.nn.utils.parameters_to_vector(parameters).detach().double().cpu().numpy()
    done = 0
    with _batch_statistics(network):
        while done < max_iterations:
            options: dict[str, Any] = {
                "maxcor": 50,
                "maxiter": max_iterations - done,
                "maxfun": 2 * (max_iterations - done) + 20,
                "ftol": 0.0,
                "gtol": 0.3 * tolerance * scale(x) / x.size**0.5,
            }
            run = optimize.minimize(function, x, jac=True, method="L-BFGS-B", options=options)
            done, moved = done + max(run.nit, 1), run.fun < function(x)[0]
            x = run.x
            if np.linalg.norm(function(x)[1]) <= tolerance * scale(x) or not moved:
                break
        value, gradient = function(x)
    return Settled(value, float(np.linalg.norm(gradient)) / max(scale(x), 1e-300), done)


def horizon(recipe: Recipe, samples: int) -> float:
    r"""How long the decay of the features has acted: :math:`w\sum\eta/(1-m)` over all steps.

    With step lengths :math:`\eta` and momentum m; after a horizon of t decay alone would have
    multiplied the weights by about :math:`e^{-t}`.

    Args:
        recipe: How the network was trained.
        samples: Number of training samples.

    Examples:
        >>> from nclib.networks import Recipe
        >>> recipe = Recipe(epochs=10, learning_rate=0.1, weight_decay=0.01, batch_size=50)
        >>> round(horizon(recipe, 100), 12)
        0.2
    """
    size = recipe.batch_size or samples
    steps = -(-_checks.positive_integer("samples", samples) // size)
    lengths = sum(recipe.step_length(epoch) for epoch in range(1, recipe.epochs + 1))
    return recipe.weight_decay * steps * lengths / (1 - recipe.momentum)


# ---- looking into the blocks --------------------------------------------------------------------


def _refuse_dropout(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"the network must not drop units at random, but {name} is a "
                f"{type(module).__name__} with p = {module.p:g}: its objective is another one."
            )


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalizations use the statistics of the batch, and leave their own as they are."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    kept = [(m.training, [(buffer, buffer.clone()) for buffer in m.buffers()]) for m in norms]
    for module in norms:
        module.train()
    try:
        yield
    finally:
        for module, (training, buffers) in zip(norms, kept, strict=True):
            module.train(training)
            for buffer, value in buffers:
                buffer.copy_(value)


def _last(module: nn.Module, kind: type[Part]) -> Part | None:
    parts = [m for m in module.modules() if isinstance(m, kind)]
    return parts[-1] if parts else None


def _pass(
    network: nn.Module, samples: Samples, blocks: Mapping[str, nn.Module]
) -> tuple[dict[str, _Seen], torch.Tensor, torch.Tensor | None]:
    """What passes through the blocks, the scores, and the weights of the last linear map called."""
    kept: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}
    called: list[nn.Linear] = []
    with ExitStack() as stack:
        for name, module in blocks.items():
            linear, norm = _last(module, nn.Linear), _last(module, BatchNorm)
            if linear is None:
                raise ValueError(
                    f"{name} must end in a linear map, but it holds none; the balance is about the "
                    "weights of the map whose output a block adds to its input."
                )
            for part, where in ((module, "block"), (linear, "map"), (norm, "norm")):
                if part is not None:
                    stack.callback(part.register_forward_hook(_keeper(kept, (name, where))).remove)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(lambda m, *_: called.append(m)).remove)
        with torch.enable_grad():
            scores = network(samples.inputs(slice(None)).requires_grad_())
    seen = {}
    for name, module in blocks.items():
        if (name, "block") not in kept or (name, "map") not in kept:
            raise ValueError(f"{name} must be run by the network, but it is not.")
        ends = [_last(module, nn.Linear), _last(module, BatchNorm)]
        tried = [
            _Seen(*kept[name, "block"], end, *kept[name, where])
            for where, end in zip(("map", "norm"), ends, strict=True)
            if end is not None and (name, where) in kept
        ]
        seen[name] = _fitting(name, tried)
    return seen, scores, called[-1].weight if called else None


def _keeper(kept: dict, key: tuple[str, str]) -> Callable[..., None]:
    def keep(_: nn.Module, inputs: tuple, output: Any) -> None:
        if key in kept:
            raise ValueError(f"{key[0]} must be run once for each sample, but it is run again.")
        kept[key] = (inputs[0], output)

    return keep


def _fitting(name: str, tried: Sequence[_Seen]) -> _Seen:
    """The one whose end puts out what the block adds.

    Raises:
        ValueError: There is none.
    """
    first, *_ = tried
    if first.units.ndim != 2 or first.after.ndim != 2:
        raise ValueError(
            f"{name} must put out features (N, d), but the shape is {tuple(first.after.shape)}: "
            "convolutions and sequences share their weights over positions too."
        )
    for seen in tried:
        if not _fits(seen):
            continue
        if isinstance(seen.end, BatchNorm) and not seen.end.affine:
            raise ValueError(
                f"{name} must end in weights, but it ends in a {type(seen.end).__name__} without "
                "scale and shift: there is nothing that decay could balance."
            )
        return seen
    raise ValueError(
        f"{name} must add the output of its last linear map, or of a batch normalization after it, "
        "to its input, but what it adds is something else: there is no skip, or something follows "
        "(an activation, another normalization, a factor)."
    )


def _fits(seen: _Seen) -> bool:
    if not seen.before.shape == seen.after.shape == seen.change.shape:
        return False
    added = (seen.after - seen.before).detach()
    gap = float((added - seen.change.detach()).norm())
    rounding = 100 * torch.finfo(seen.after.dtype).eps * float(seen.after.detach().norm())
    return gap <= TOLERANCE * float(added.norm()) + rounding


def _measured(
    name: str,
    module: nn.Module,
    seen: _Seen,
    G: np.ndarray,
    w: float,
    rows: np.ndarray | None,
    samples: Samples,
) -> BlockBalance:
    change, before, after = map(_array, (seen.change, seen.before, seen.after))
    if isinstance(seen.end, nn.Linear):
        found = _of_map(seen.end, _array(seen.units), G, w)
    else:
        found = _of_norm(seen.end, _array(seen.units), G, w)
    live = found.lengths > DEAD * max(float(found.lengths.max()), 1e-300)
    still = bool(np.linalg.norm(change) <= STILL * np.linalg.norm(before))
    if still:
        live[:] = False
    incoming = _incoming(module, seen.end)
    units = np.empty(0)
    if incoming is not None:
        hidden = live[: len(incoming)]
        sizes = np.linalg.norm(incoming[hidden], axis=1)
        units = np.linalg.norm(found.pulls[:, : len(incoming)][:, hidden], axis=0) / (w * sizes)
    labels = samples.labels.cpu().numpy()
    spreads = [_spread(h, labels, rows) for h in (before, after)]
    missed = float(np.linalg.norm(change - found.predicted))
    return BlockBalance(
        name,
        _ratio(float(np.linalg.norm(change)), missed, still),
        np.nan if still else _cosine(change, found.predicted),
        np.nan if still else _cosine(change, -G),
        float(np.sum(G * after) / len(G)),
        int(live.sum()),
        units,
        *(_ratio(b, a) for b, a in zip(*spreads, strict=True)),
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _of_map(linear: nn.Linear, X: np.ndarray, G: np.ndarray, w: float) -> _Terms:
    """The terms of a linear map; a bias is one more unit that is always one."""
    outgoing = _array(linear.weight)
    if linear.bias is not None:
        X = np.column_stack([X, np.ones(len(X))])
        outgoing = np.column_stack([outgoing, _array(linear.bias)])
    pulls = G.T @ X / len(X)
    return _Terms(pulls, -X @ pulls.T / w, np.linalg.norm(outgoing, axis=0))


def _of_norm(norm: BatchNorm, inputs: np.ndarray, G: np.ndarray, w: float) -> _Terms:
    """The terms of a batch normalization: scale and shift of each channel."""
    x = (inputs - inputs.mean(axis=0)) / np.sqrt(inputs.var(axis=0) + norm.eps)
    pulls = np.column_stack([np.mean(G * x, axis=0), G.mean(axis=0)])
    weights = np.column_stack([_array(norm.weight), _array(norm.bias)])
    predicted = -(x * pulls[:, 0] + pulls[:, 1]) / w
    return _Terms(pulls, predicted, np.linalg.norm(weights, axis=1))


def _incoming(module: nn.Module, end: nn.Module) -> np.ndarray | None:
    """Weights into the hidden units (m, d), where the block has just two linear maps that fit, and
    no normalization takes out their length.
    """
    maps = [m for m in module.modules() if isinstance(m, nn.Linear)]
    normalized = any(isinstance(m, BatchNorm) for m in module.modules())
    if len(maps) != 2 or maps[1] is not end or normalized:
        return None
    return _array(maps[0].weight) if maps[0].out_features == maps[1].in_features else None


def _spread(h: np.ndarray, labels: np.ndarray, rows: np.ndarray | None) -> tuple[float, float]:
    """Sum of squares within classes, and its part in the row space of the last layer."""
    means = np.stack([h[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    deviations = h - means[labels]
    inside = np.nan if rows is None else float(np.sum((deviations @ rows) ** 2))
    return float(np.sum(deviations**2)), inside


def _ratio(before: float, after: float, undefined: bool = False) -> float:
    return after / before if before > 0 and not undefined else float("nan")


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.sum(a * b)) / size if size > 0 else float("nan")
