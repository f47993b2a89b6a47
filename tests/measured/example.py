"""A good record of a run, from which the tests make bad ones."""

from nclib.measured.records import Data, Epochs, Layers, Result, Versions

GOOD = Result(
    experiment="weight-decay",
    name="mse-baseline",
    scale="reduced",
    seed=0,
    config={"lr": 0.05, "epochs": 160, "bias": False, "loss": "mse", "clip": None},
    data=Data(source="CIFAR-10 (JPEG copy)", split="train", samples=1000, classes=10),
    device="CPU, 1 thread",
    versions=Versions(python="3.11.7", torch="2.13.0", numpy="2.1.0", nclib="0.1.0"),
    commit="1a2b3c4d5e" * 4,
    started="2026-11-23T19:40:00+00:00",
    duration_s=820.5,
    complete=True,
    epochs=Epochs(
        epoch=[0, 1, 2],
        batch_error=[None, 0.5, 1],
        batch_loss=[None, 2.25, 0.125],
        error=[0.9, 1e-05, 0],
        loss=[2.5, 1 / 3, 1e-17],
        nc1=[9.0, None, 0.02],
        nc1_trace=[3.0, None, 0.2],
        nc2=[1.1, None, 0.4],
        nc3=[1.2, None, 0.3],
        stage=[1, 1, 2],
    ),
    layers=Layers(
        epoch=[0, 0, 2, 2],
        layer=["block1", "block2"] * 2,
        dim=[64, 128] * 2,
        nc1=[9.0, 8.0, 0.1, 0.02],
        nc1_trace=[3.0, 2.0, 0.3, 0.2],
        nc2=[1.1, 1.0, 0.5, 0.4],
        nc3=[None, 1.2, None, 0.3],
        nc4=[None, 0.4, None, 0.0],
    ),
)
