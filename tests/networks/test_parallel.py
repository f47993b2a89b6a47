"""Two processes under torchrun find what one finds: statistics, training curves, and a run from the
command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nclib.measured.records import Result
from nclib.networks import MLP, Samples, Trainer, __main__, disagreement, parallel, probe
from nclib.networks.__main__ import main
from nclib.networks.experiments import checkpoints, machine
from nclib.networks.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
OFFSETS = (0.0, 1e6)
COUNTS = (7, 12, 1, 5)  # odd sizes, and a class that one process has nothing of
# Losses, types, and batch sizes: 25 samples leave a last batch of 4 of them, or of 1 and a process
# without a share.
CASES = {
    f"{loss} {dtype} {size}": (loss, getattr(torch, dtype), size)
    for loss in ("mse", "cross-entropy")
    for dtype in ("float32", "float64")
    for size in (7, 8)
}
COMMAND = [
    "run",
    "end-to-end",
    "--only",
    "mlp-digits",
    "--scale",
    "smoke",
    "--device",
    "cpu",
    "--out",
]


def train_and_probe(loss, dtype, batch_size):
    """Training curve, parameters, statistics of every layer before and after, disagreement, and the
    own share."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(4), COUNTS))
    x = rng.standard_normal((25, 6)) + 3 * rng.standard_normal((4, 6))[labels]
    network, samples = (
        MLP((6, 9, 8, 4), last_bias=True, seed=2, dtype=dtype),
        Samples(x, labels, dtype=dtype),
    )
    recipe = Recipe(
        epochs=8,
        learning_rate=0.05,
        loss=loss,
        batch_size=batch_size,
        weight_decay=1e-3,
        drops=(6,),
    )
    # One by one in float32, as products of matrices of several sizes are rounded differently.
    size = 3 if dtype == torch.float64 else 1
    first = probe(network, samples, batch_size=size).statistics
    shares = disagreement(network, samples, first, batch_size=size)
    trainer = Trainer(network, samples, recipe, seed=3)
    curve = [trainer.run_epoch() for _ in range(recipe.epochs)]
    last, _, own = probe(network, samples)
    return {
        "curve": np.array(curve),
        "disagreement": np.array(list(shares.values())),
        "parameters": np.concatenate([p.detach().numpy().ravel() for p in network.parameters()]),
        "own": np.bincount(own, minlength=4),
    } | {
        f"{when} {layer} {name}": getattr(stats, name)
        for when, found in (("first", first), ("last", last))
        for layer, stats in found.items()
        for name in ("counts", "means", "within")
    }


def measure_shares(rank, world, offset):
    """Statistics of a network and data that know nothing of processes, each with its own share.

    Process 0 has three batches of seven and process 1 two; class 3 occurs in process 1 only.
    """
    rng = np.random.default_rng(8)
    labels = np.sort(rng.permutation(np.repeat(np.arange(4), COUNTS))[:24])
    labels = np.roll(labels, 11)
    x = offset + rng.standard_normal((24, 6)) + 3 * rng.standard_normal((4, 6))[labels]
    pieces = [(x[i : i + 7], labels[i : i + 7]) for i in range(0, 24, 7)]
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(6, 4)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.as_tensor(rng.standard_normal((4, 6))))
    share = pieces[rank::world]
    stats = probe(network, share, "0").statistics["0"]
    centered = stats.centered_means
    return {
        "counts": stats.counts,
        "centered": centered,
        "within": stats.within,
        "means": stats.means,
        "disagreement": disagreement(network, share, {"0": stats}, "0")["0"],
        "resolution": stats.resolution,
    }


def work(folder):
    """What each of the two processes does."""
    parallel.start("cpu")
    folder, rank = Path(folder), parallel.rank()
    assert parallel.world() == 2
    for name, case in CASES.items():
        np.savez(folder / f"{name} {rank}.npz", **train_and_probe(*case))
    for offset in OFFSETS:
        np.savez(folder / f"shares {offset} {rank}.npz", **measure_shares(rank, 2, offset))
    largest = [parallel.largest(value) for value in (rank, -rank, 2.0**-23 if rank else 2.0**-52)]
    answers = [parallel.agreed(flag) for flag in (rank == 0, rank == 1)]
    words = machine.device_in_words(torch.device("cpu"))
    written, write = [], checkpoints.write_atomic
    checkpoints.write_atomic = lambda path, content: (
        written.append(str(path)),
        write(path, content),
    )
    Result.save, save = (
        lambda self, path: (written.append(str(path)), save(self, path)),
        Result.save,
    )
    status = main([*COMMAND, str(folder / "out")])
    again = main([*COMMAND, str(folder / "out")])
    facts = {"answers": answers, "words": words, "written": written, "status": [status, again]}
    facts["largest"] = largest
    (folder / f"facts {rank}.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have left what they found."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
        folder,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    assert process.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def found(two):
    """By case, what the two processes found and what one finds."""
    both = {name: [dict(np.load(two / f"{name} {rank}.npz")) for rank in (0, 1)] for name in CASES}
    return {name: (*both[name], train_and_probe(*case)) for name, case in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_all_samples(found, case):
    zero, one, alone = found[case]
    for key in (key for key in alone if key.startswith("first")):
        assert np.array_equal(zero[key], one[key])
        np.testing.assert_allclose(
            zero[key], alone[key], rtol=0, atol=1e-12 * np.abs(alone[key]).max()
        )
    assert (
        zero["disagreement"].tolist()
        == one["disagreement"].tolist()
        == alone["disagreement"].tolist()
    )
    assert alone["disagreement"].min() > 0
    assert np.array_equal(zero["first layer 2 counts"], COUNTS)
    assert np.array_equal(zero["own"], [4, 6, 1, 3]) and np.array_equal(one["own"], [3, 6, 0, 2])


@pytest.mark.parametrize("case", CASES)
def test_training_curves_are_the_same(found, case):
    zero, one, alone = found[case]
    tolerance = 1e-5 if "float32" in case else 1e-10
    assert np.array_equal(zero["curve"], one["curve"]) and np.array_equal(
        zero["parameters"], one["parameters"]
    )
    np.testing.assert_allclose(zero["curve"], alone["curve"], rtol=tolerance)
    np.testing.assert_allclose(zero["parameters"], alone["parameters"], atol=tolerance)
    assert alone["curve"][-1, 0] < 0.7 * alone["curve"][0, 0]
    for key in (key for key in alone if key.startswith("last")):
        np.testing.assert_allclose(
            zero[key], alone[key], rtol=0, atol=tolerance * np.abs(alone[key]).max()
        )


@pytest.mark.parametrize("offset", OFFSETS)
def test_shares_of_any_data_are_put_together(two, offset):
    zero, one = (dict(np.load(two / f"shares {offset} {rank}.npz")) for rank in (0, 1))
    alone = measure_shares(0, 1, offset)
    assert np.array_equal(alone["counts"], zero["counts"]) and alone["counts"].sum() == 24
    for key, value in alone.items():
        assert np.array_equal(zero[key], one[key])
        scale = 1e-12 * np.abs(value).max()
        np.testing.assert_allclose(zero[key], value, rtol=0, atol=scale, err_msg=key)


def test_all_decide_as_the_first_process(two):
    facts = [json.loads((two / f"facts {rank}.json").read_text()) for rank in (0, 1)]
    assert [f["answers"] for f in facts] == [[True, False]] * 2
    assert [f["largest"] for f in facts] == [[1, 0, 2.0**-23]] * 2
    assert [f["words"] for f in facts] == ["2 x CPU, 1 thread"] * 2


def test_a_run_under_two_processes(two, tmp_path):
    facts = [json.loads((two / f"facts {rank}.json").read_text()) for rank in (0, 1)]
    assert [f["status"] for f in facts] == [[0, 0]] * 2
    name = "end-to-end/smoke/mlp-digits-seed0.json"
    assert str(two / "out" / name) in facts[0]["written"] and facts[1]["written"] == []
    assert main([*COMMAND, str(tmp_path)]) == 0
    ours, alone = Result.load(two / "out" / name), Result.load(tmp_path / name)
    assert ours.device == "2 x CPU, 1 thread" and (ours.config, ours.complete) == (
        alone.config,
        True,
    )
    files = [
        sorted(p.relative_to(folder) for p in folder.rglob("*.*"))
        for folder in (two / "out", tmp_path)
    ]
    assert files[0] == files[1] and len(files[0]) == 6
    for table in ("epochs", "layers"):
        mine, theirs = getattr(ours, table), getattr(alone, table)
        for column in theirs.columns():
            values = theirs[column]
            assert [value is None for value in mine[column]] == [value is None for value in values]
            if column == "layer":
                assert mine[column] == values
                continue
            a, b = (np.array(x, dtype=float) for x in (mine[column], values))
            np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=column)


def test_one_process_needs_no_group():
    assert (parallel.world(), parallel.rank(), parallel.agreed(True), parallel.agreed(False)) == (
        1,
        0,
        True,
        False,
    )
    network, x = MLP((2, 3, 2)), torch.ones(3)
    assert parallel.wrap(network) is network and parallel.total(x) is x and x.tolist() == [1, 1, 1]
    parallel.stop()
    assert parallel.start("cpu") == torch.device("cpu") and __main__.parallel is parallel


if __name__ == "__main__":
    work(sys.argv[1])
