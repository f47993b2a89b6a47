"""One process, two under torchrun and two workers of joblib find the same statistics.

The programs are those that the chapter "Your own network" shows, taken from its page.
"""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from nclib import Accumulator
from nclib.networks import features, probe, report
from tests.networks.networks_of_others import assert_statistics
from tools import notebooks

ROOT = Path(__file__).resolve().parents[2]
PAGE = notebooks.load(ROOT / "book/networks/your_network.ipynb")
MINE = """
import numpy as np
import torch
from nclib.networks import probe
from torch import nn
from torch.utils.data import TensorDataset

rng = np.random.default_rng(4)
labels = rng.permutation(np.repeat(np.arange(4), (60, 31, 1, 9)))
x = {offset} + rng.standard_normal((4, 3, 6, 6))[labels] + rng.standard_normal((101, 3, 6, 6))
dataset = TensorDataset(torch.as_tensor(x), torch.as_tensor(labels))
torch.manual_seed(2)
network = nn.Sequential(
    nn.Conv2d(3, 7, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(112, 4)
).double()


def keep(rank, records, loader):
    stats = probe(network, loader, "0").statistics["0"]
    numbers = np.array([[r[k] for k in ("N", "nc1", "nc1_trace", "nc2", "nc4")] for r in records])
    found = {{key: getattr(stats, key) for key in ("counts", "means", "low", "within")}}
    np.savez(f"{{rank}}.npz", records=numbers, **found)
"""


def shown(beginning):
    """A program that stands in the text of the page."""
    for cell in PAGE.cells:
        if cell.cell_type == "markdown":
            for program in re.findall(r"^```python\n(.*?)^```", cell.source, re.M | re.S):
                if program.startswith(beginning):
                    return program
    raise AssertionError(f"the page shows no program {beginning}")


def function(name):
    """A function that a cell of the page defines."""
    (source,) = (
        c.source
        for c in PAGE.cells
        if c.cell_type == "code" and c.source.startswith(f"def {name}(")
    )
    names = {"np": np, "Accumulator": Accumulator}
    exec(source, names)
    return names[name]


def run(command, folder):
    """A program in a process of its own, in a folder."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_the_program_of_the_page_under_torchrun(tmp_path, offset):
    program = shown("# measure.py")
    end = "distributed.destroy_process_group()"
    extra = "from mine import keep\nkeep(rank, records, DataLoader(share, 100))\n"
    assert program.count(end) == 1
    (tmp_path / "measure.py").write_text(program.replace(end, extra + end))
    (tmp_path / "mine.py").write_text(MINE.format(offset=offset))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = run([*torchrun, "measure.py"], tmp_path)
    assert out.count("101 samples, 4 classes of 1 to 60") == 1
    zero, one = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    assert all(np.array_equal(zero[key], one[key]) for key in zero)

    names = {}
    exec((tmp_path / "mine.py").read_text(), names)
    network, (x, y) = names["network"], names["dataset"].tensors
    stats = probe(network, [(x, y)], "0").statistics["0"]
    with torch.no_grad():
        h = network[0](x).mean((2, 3)).numpy()
    assert_statistics(stats, h, y.numpy(), tolerance=1e-12 + 1e-15 * offset)
    assert np.array_equal(zero["counts"], stats.counts)
    spread = np.sqrt(np.trace(stats.within)) + np.ptp(h)
    allowed = 1e-12 * spread + 1e-15 * offset
    assert np.abs(zero["means"] + zero["low"] - stats.means - stats.low).max() <= allowed
    assert np.abs(zero["within"] - stats.within).max() <= 1e-12 * spread**2 + allowed * spread
    records = report(network, [(x, y)], file=io.StringIO())
    for mine, r in zip(zero["records"], records, strict=True):
        want = [r[k] for k in ("N", "nc1", "nc1_trace", "nc2", "nc4")]
        np.testing.assert_allclose(mine, want, rtol=1e-9 + 1e-13 * offset)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_shards_of_features_are_summed_by_workers(tmp_path, backend):
    names = {}
    exec(MINE.format(offset=3.0), names)
    network, (x, y) = names["network"], names["dataset"].tensors
    h = features(network, [(x, y)], "0")
    paths = [tmp_path / f"{i}.npy" for i in range(5)]
    order = np.argsort(y.numpy(), kind="stable")
    for path, rows in zip(paths, np.array_split(order, 5), strict=True):
        np.save(path, np.c_[h, y][rows])
    summed = function("summed")
    total = Accumulator(num_classes=10)
    for part in Parallel(n_jobs=2, backend=backend)(delayed(summed)(path, 7) for path in paths):
        total.merge(part)
    stats = total.compute()
    probed = probe(network, [(x, y)], "0", num_classes=10).statistics["0"]
    scale = np.abs(probed.within).max()
    assert np.array_equal(stats.counts, probed.counts)
    assert np.abs(stats.within - probed.within).max() <= 1e-12 * scale
    assert np.abs(stats.means - probed.means).max() <= 1e-12 * np.sqrt(scale)
