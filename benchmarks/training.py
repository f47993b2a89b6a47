"""Our training against plain PyTorch loops, in images per second, and our probe against features
and pinv.

    python -m benchmarks.training [--quick] [--device auto|cpu|cuda]

The same network, images, batch size, SGD and loss for all; random images, so no data set is needed.
On a GPU the network is the full ResNet-18 and there are 50,000 images, on a CPU both are small. The
plain loops are

* "image by image": a data set that turns each image from bytes into a standardized float32 tensor
  when asked for it, behind a DataLoader, with the loss read after every step, as in many a training
  script;
* "TensorDataset": all images made float32 beforehand, behind a DataLoader;
* "on the device": float32 images that lie on the device, batches by index, nothing read within an
  epoch; on a GPU also bfloat16 and channels last. The best that we know without going beyond plain
  PyTorch.

Times are medians over interleaved rounds and ratios are medians of the ratios within a round, so
that a busy computer disturbs all alike. One epoch of each comes first and is not counted.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nclib import nc1
from nclib.networks import MLP, Recipe, ResNet18, Samples, Trainer, parallel, probe
from nclib.networks.hooks import as_features, evaluating, find, own_points, watching

RECIPE: dict[str, Any] = {
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "loss": "cross-entropy",
}
K = 10


class Images(Dataset):
    """Images as bytes, each one standardized when it is asked for."""

    def __init__(self, samples: Samples):
        self.images, self.labels = samples.values.cpu(), samples.labels.cpu()
        self.mean, self.scale = samples.mean.cpu(), samples.scale.cpu()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.images[i].float() - self.mean) * self.scale, self.labels[i]


def loader(dataset: Dataset, batch_size: int, device: torch.device) -> DataLoader:
    """On a GPU with processes that fetch ahead into pinned memory; on a CPU they would only share
    the cores.
    """
    on_gpu = device.type == "cuda"
    workers = min(8, os.cpu_count() or 1) if on_gpu else 0
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=on_gpu,
        persistent_workers=workers > 0,
    )


def plain_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], Iterator],
    device: torch.device,
    *,
    fast: bool,
) -> None:
    """One epoch as it is usually written; `fast` reads nothing back and computes in bfloat16 on a
    GPU.
    """
    network.train()
    total = 0.0
    for x, y in batches():
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=fast and device.type == "cuda"):
            loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(y) if fast else loss.item() * len(y)


def indexed(x: torch.Tensor, y: torch.Tensor, batch_size: int) -> Iterator:
    """Batches in random order of arrays that lie on the device."""
    for batch in torch.randperm(len(y), device=y.device).split(batch_size):
        yield x[batch], y[batch]


def routes(
    make: Callable[[], nn.Module], samples: Samples, batch_size: int
) -> dict[str, Callable[[], object]]:
    """One epoch of each kind of training, each with a network of its own."""
    device = samples.device
    ours = Trainer(make(), samples, Recipe(epochs=1, batch_size=batch_size, **RECIPE))
    x = torch.cat(
        [samples.inputs(i) for i in torch.arange(len(samples), device=device).split(5000)]
    )
    sources = {
        "image by image": partial(iter, loader(Images(samples), batch_size, device)),
        "TensorDataset": partial(
            iter, loader(TensorDataset(x.cpu(), samples.labels.cpu()), batch_size, device)
        ),
        "on the device": partial(indexed, x, samples.labels, batch_size),
    }
    found: dict[str, Callable[[], object]] = {"Trainer": ours.run_epoch}
    for name, batches in sources.items():
        fast = name == "on the device"
        network = make().to(
            device, memory_format=samples.layout if fast else torch.contiguous_format
        )
        settings = {"lr": RECIPE["learning_rate"], "momentum": RECIPE["momentum"]}
        optimizer = torch.optim.SGD(
            network.parameters(), weight_decay=RECIPE["weight_decay"], **settings
        )
        found[name] = partial(plain_epoch, network, optimizer, batches, device, fast=fast)
    return found


def by_probe(network: nn.Module, samples: Samples) -> list[float]:
    """NC1 of all layers from streamed statistics."""
    return [nc1(stats) for stats in probe(network, samples).statistics.values()]


def by_features(network: nn.Module, samples: Samples) -> list[float]:
    """NC1 of all layers from all features on the device, with d x d covariances and a pseudoinverse
    in float32.
    """
    y = samples.labels
    points = find(network, own_points(network))
    by_name = {point.name: point for point in points}
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in by_name}

    def keep(name: str, output: torch.Tensor) -> None:
        parts[name].append(as_features(by_name[name], output).h.clone())

    with evaluating(network), watching(points, keep):
        for index in torch.arange(len(samples), device=samples.device).split(500):
            network(samples.inputs(index))
    values = []
    for part in parts.values():
        H = torch.cat(part)
        means = torch.stack([H[y == k].mean(0) for k in range(K)])
        R, M = H - means[y], means - means.mean(0)
        values.append(float(torch.trace(R.T @ R / len(H) @ torch.linalg.pinv(M.T @ M / K)) / K))
    return values


def forward_only(network: nn.Module, samples: Samples) -> None:
    """The forward passes of a probe and nothing else."""
    with evaluating(network):
        for members in samples.classes:
            for index in members.split(100):
                network(samples.inputs(index))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of work(), until the device has finished."""
    start = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def compare(
    found: dict[str, Callable[[], object]], count: int, unit: str, rounds: int, device: torch.device
) -> None:
    """A row for each route: its rate, and how many times as long as the first one it takes."""
    for work in found.values():
        seconds(work, device)
    times = [{name: seconds(work, device) for name, work in found.items()} for _ in range(rounds)]
    first = next(iter(found))
    print(f"{'route':<20}{'seconds':>9}{unit + '/s':>11}{'x ' + first:>12}")
    for name in found:
        t = statistics.median(row[name] for row in times)
        ratio = statistics.median(row[name] / row[first] for row in times)
        print(f"{name:<20}{t:>9.3f}{count / t:>11,.0f}{ratio:>12.2f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="on a GPU fewer images; on a CPU they are few anyway"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(threads)
    device = parallel.start(options.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    print(f"device: {name}; {threads} threads; PyTorch {torch.__version__}")
    width, count, mlp_count = (
        (64, 5_000 if options.quick else 50_000, 50_000) if on_gpu else (8, 300, 2_500)
    )
    rounds = 3
    widths = (3072, 512, 512, 512, K)
    networks = (
        (f"ResNet-18 of width {width}", partial(ResNet18, K, width=width), count),
        (
            f"MLP of widths {', '.join(map(str, widths))}",
            partial(MLP, widths, dtype=torch.float32),
            mlp_count,
        ),
    )
    rng = np.random.default_rng(0)
    for name, make, N in networks:
        images = rng.integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)
        samples = Samples(images, np.repeat(np.arange(K), N // K), device=device)
        print(f"\n{name}, {N:,} images of 3 x 32 x 32, batches of 128: one epoch, {rounds} rounds")
        compare(routes(make, samples, 128), N, "images", rounds, device)
        network = make().to(device, memory_format=samples.layout)
        print(f"\nNC1 of its {len(network.points)} layers")
        works = {
            "probe": by_probe,
            "forward passes": forward_only,
            "features and pinv": by_features,
        }
        compare(
            {key: partial(work, network, samples) for key, work in works.items()},
            N,
            "images",
            rounds,
            device,
        )


if __name__ == "__main__":
    main()
