"""What `report` says of the book's networks is what the chapters print, to the last digit shown."""

import io
import re
from pathlib import Path

import numpy as np
import torch

from nclib.networks import MLP, Recipe, Samples, Trainer, digits, report, train
from tools import notebooks

BOOK = Path(__file__).resolve().parents[2] / "book"


def printed(chapter, head):
    """Lines below the line ``head`` that a chapter stores as printed."""
    for cell in notebooks.load(BOOK / chapter).cells:
        for output in cell.get("outputs", []):
            lines = output.get("text", "").splitlines()
            if head in lines:
                return lines[lines.index(head) + 1 :]
    raise AssertionError(f"{chapter} prints no line {head!r}.")


def decimals(line, head=1):
    """The numbers of a line behind the first words, as they are printed."""
    return re.split(r"\s\s+|\s+(?=\d)", line.strip())[head:]


def assert_printed(records, keys, lines):
    assert len(lines) == len(records) > 3
    for record, line in zip(records, lines, strict=True):
        shown = decimals(line)[-len(keys) :]
        for key, text in zip(keys, shown, strict=True):
            places = len(text.partition(".")[2])
            assert f"{record[key]:.{places}f}" == text, (record["layer"], key)


def test_the_perceptron_of_measuring():
    images, labels = digits(per_class=100)
    samples = Samples(images, labels, dtype=torch.float64)
    recipe = Recipe(epochs=60, learning_rate=0.1, drops=(42,), batch_size=50, weight_decay=5e-4)
    network = MLP((64, *[64] * 6, 10), seed=0)
    trainer = Trainer(network, samples, recipe)
    for _ in range(recipe.epochs):
        trainer.run_epoch()
    records = report(network, samples, file=io.StringIO())
    lines = printed("networks/measuring.ipynb", "             NC1     NC1~    NC2    NC4")
    assert_printed(records, ("nc1", "nc1_trace", "nc2", "nc4"), lines)


def test_the_network_of_the_metrics():
    pixels, digit = digits()
    first = np.arange(len(digit)) % (len(digit) // 10) < 100
    images, labels = pixels[first], digit[first]
    network = MLP((64, 100, 100, 100, 100, 10), seed=0)
    recipe = {"learning_rate": 0.2, "batch_size": 50, "weight_decay": 3e-4}
    train(network, images, labels, epochs=120, drops=(100,), **recipe)
    x = torch.as_tensor(images)
    records = report(network, [(x[i : i + 90], labels[i : i + 90]) for i in range(0, 1000, 90)])
    lines = printed("foundations/metrics.ipynb", "layer  NC1     NC1~    NC2")
    assert_printed(records, ("nc1", "nc1_trace", "nc2"), lines[1:])  # the first are the pixels
