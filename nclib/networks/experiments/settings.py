"""What is run: the paper's three experiments on real networks, and the first one with stages of two
lengths, each at three scales.

``smoke`` takes seconds and needs no data beyond scikit-learn's digits; ``reduced`` is for a CPU;
``full`` is the paper's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from nclib.measured.entries import SCALES
from nclib.measured.growth import settled
from nclib.networks.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One training run; together with the seed it determines every number that is measured.

    Attributes:
        experiment: Name of the experiment.
        name: Name of the run within it.
        scale: "smoke", "reduced" or "full".
        seed: Seed of the initial weights and of the order of samples.
        dataset: "digits", "mnist" or "cifar10".
        network: "mlp" or "resnet18".
        width: Width of the hidden layers, or of the first stage of ResNet-18.
        recipe: How to train.
        depth: Number of hidden layers of an MLP.
        last_bias: Whether the last layer has a bias.
        per_class: Training images per class; all of them by default. Every seed gets the same ones.
        grown: Whether the hidden layers are trained one after the other, each with a classifier of
            its own on the frozen ones.
        measure_every: Epochs between two measurements of the last features; the first five epochs
            are all measured.
        layers_every: Epochs between two measurements of all layers; by default the last epoch only.
        layers_at_end: In how many of the last epochs all layers are measured; where a stage ends
            early, in the last one only.
        keep_statistics: Whether the class statistics of all layers are kept at the end, those of
            seed 0.
        settle: After how many epochs with a change of the loss below which share a stage ends, as
            ``settled`` says, before the epochs of the recipe are over.
    """

    experiment: str
    name: str
    scale: str
    seed: int
    dataset: str
    network: str
    width: int
    recipe: Recipe
    depth: int = 1
    last_bias: bool = False
    per_class: int | None = None
    grown: bool = False
    measure_every: int = 1
    layers_every: int | None = None
    keep_statistics: bool = False
    layers_at_end: int = 1
    settle: tuple[int, float] | None = None

    @property
    def stages(self) -> int:
        """How many networks are trained one after the other."""
        return self.depth if self.grown else 1

    @property
    def config(self) -> dict:
        """All settings but names and seed, flat; later ones only if they are not the usual."""
        settings = asdict(self)
        for key, usual in LATER.items():
            if settings[key] == usual:
                del settings[key]
            elif isinstance(settings[key], tuple):
                settings[key] = " ".join(map(str, settings[key]))
        recipe = settings.pop("recipe")
        recipe["drops"] = " ".join(map(str, recipe["drops"]))
        return {key: value for key, value in (settings | recipe).items() if key not in NAMES}

    def ends(self, losses: Sequence[float]) -> bool:
        """Whether a stage is over after epochs with these losses."""
        if len(losses) >= self.recipe.epochs:
            return True
        return self.settle is not None and settled(losses, *self.settle)

    def measured(self, epoch: int, ends: bool = False) -> bool:
        """Whether the last features are measured after this epoch of a stage, which may end it."""
        return ends or epoch <= 5 or epoch % self.measure_every == 0 or epoch == self.recipe.epochs

    def all_layers(self, epoch: int, ends: bool = False) -> bool:
        """Whether all layers are measured after this epoch of a stage, which may end it."""
        return (
            ends
            or epoch > self.recipe.epochs - self.layers_at_end
            or (self.layers_every is not None and epoch % self.layers_every == 0)
        )

    def most(self, stage: int, before: int) -> int:
        """How many epochs all stages together can have.

        Args:
            stage: Number of finished stages.
            before: Epochs that these had.
        """
        return before + (self.stages - stage) * self.recipe.epochs

    def of_all(self, total: int) -> str:
        """The total of epochs in words: where stages may end early, it is a bound."""
        return str(total) if self.settle is None else f"at most {total}"


NAMES = ("experiment", "name", "scale", "seed")
LATER = {"layers_at_end": 1, "settle": None}


def averaged(recipe: Recipe, classes: int = 10) -> Recipe:
    """The recipe in our squared loss that trains as this one does in PyTorch's ``MSELoss``.

    That loss is ours times 2/K. At width 64 a step of 0.05 in our loss leaves the finite numbers
    within a few steps.
    """
    return replace(
        recipe,
        learning_rate=recipe.learning_rate * 2 / classes,
        weight_decay=recipe.weight_decay * classes / 2,
    )


def _grown(
    experiment: str,
    scale: str,
    recipe: Recipe,
    measure_every: int,
    settle: tuple[int, float] | None = None,
) -> Run:
    """An MLP grown layer by layer, without name and data."""
    return Run(
        experiment=experiment,
        name="",
        scale=scale,
        seed=0,
        dataset="",
        network="mlp",
        width=256,
        recipe=recipe,
        depth=10,
        grown=True,
        measure_every=measure_every,
        settle=settle,
    )


def layerwise(scale: str) -> Iterator[Run]:
    """E1: an MLP grown layer by layer on frozen ones."""
    recipe = Recipe(
        epochs=20, learning_rate=0.01, batch_size=128, weight_decay=5e-4, drops=(14, 18)
    )
    run = _grown("layerwise", scale, recipe, measure_every=5)
    if scale == "smoke":
        small = replace(recipe, epochs=8, learning_rate=0.05, batch_size=20, drops=(6,))
        run = replace(run, width=32, depth=4, per_class=30, recipe=small)
    elif scale == "reduced":
        run = replace(run, per_class=1000)
    for dataset in ("digits",) if scale == "smoke" else ("cifar10", "mnist"):
        yield replace(run, name=dataset, dataset=dataset)


def stage_length(scale: str) -> Iterator[Run]:
    """E1 with three decays, and stages that go on until the loss rests, or for a tenth of that
    limit.
    """
    recipe = Recipe(epochs=200, learning_rate=0.01, batch_size=128)
    run = _grown("stage-length", scale, recipe, measure_every=10, settle=(10, 0.01))
    if scale == "smoke":
        small = replace(recipe, epochs=30, learning_rate=0.05, batch_size=10)
        run = replace(run, width=32, depth=4, per_class=10, settle=(4, 0.1), recipe=small)
    elif scale == "reduced":
        small = replace(recipe, learning_rate=0.005, batch_size=20)
        run = replace(run, per_class=500, recipe=small)
    for dataset in ("digits",) if scale == "smoke" else ("cifar10", "mnist"):
        for name, w in (("w0", 0.0), ("w5e-4", 5e-4), ("w2e-3", 2e-3)):
            grown = replace(run.recipe, weight_decay=w)
            run = replace(run, name=f"{dataset}-{name}", dataset=dataset, recipe=grown)
            yield run
            short = replace(grown, epochs=grown.epochs // 10)
            yield replace(run, name=f"{run.name}-short", recipe=short, settle=None)


# Weight decay of the feature mapping and of the last layer, as multiples of the baseline's.
DECAYS = {
    "baseline": (1, 1),
    "last-double": (1, 2),
    "last-zero": (1, 0),
    "features-double": (2, 1),
    "features-zero": (0, 1),
}


def weight_decay(scale: str) -> Iterator[Run]:
    """E2: ResNet-18 with the weight decay of the feature mapping or of the last layer doubled or
    left out.
    """
    recipe = Recipe(
        epochs=160, learning_rate=0.05, batch_size=128, weight_decay=5e-4, drops=(40, 80, 120)
    )
    run = Run(
        experiment="weight-decay",
        name="",
        scale=scale,
        seed=0,
        dataset="cifar10",
        network="resnet18",
        width=64,
        recipe=recipe,
        measure_every=4,
    )
    if scale == "smoke":
        small = replace(recipe, epochs=4, batch_size=50, drops=(3,))
        run = replace(run, dataset="digits", width=2, per_class=20, recipe=small)
    elif scale == "full":
        run = replace(run, measure_every=10)
    elif scale == "reduced":
        small = replace(recipe, epochs=60, batch_size=20, weight_decay=5.5e-3, drops=(30, 45))
        run = replace(run, width=8, per_class=100, recipe=small)
        run = replace(run, layers_at_end=5, keep_statistics=True)
    for loss, short in (("mse", "mse"), ("cross-entropy", "ce")):
        base = averaged(run.recipe) if (scale, loss) == ("full", "mse") else run.recipe
        for name, (features, last) in DECAYS.items():
            w = base.weight_decay
            changed = replace(
                base, loss=loss, weight_decay=features * w, last_weight_decay=last * w
            )
            yield replace(
                run, name=f"{short}-{name}", recipe=changed, last_bias=loss == "cross-entropy"
            )


def end_to_end(scale: str) -> Iterator[Run]:
    """E3: networks trained as a whole, all layers measured along the way."""
    recipe = Recipe(epochs=60, learning_rate=0.02, batch_size=50, weight_decay=1e-3, drops=(36, 51))
    mlp = Run(
        experiment="end-to-end",
        name="",
        scale=scale,
        seed=0,
        dataset="",
        network="mlp",
        width=256,
        recipe=recipe,
        depth=6,
        layers_every=5,
        keep_statistics=True,
    )
    resnet = replace(
        mlp,
        network="resnet18",
        width=64,
        recipe=averaged(replace(recipe, learning_rate=0.05, batch_size=128)),
    )
    if scale == "smoke":
        small = replace(recipe, epochs=6, learning_rate=0.05, batch_size=25, drops=(5,))
        mlp = replace(mlp, width=32, depth=4, per_class=30, layers_every=2, recipe=small)
        resnet = replace(mlp, network="resnet18", width=2)
    elif scale == "reduced":
        mlp = replace(mlp, per_class=500)
        small = replace(recipe, learning_rate=0.05, batch_size=20, weight_decay=2e-3)
        resnet = replace(resnet, width=8, per_class=100, recipe=small)
    for dataset in ("digits",) if scale == "smoke" else ("mnist", "cifar10"):
        for run in (mlp, resnet):
            yield replace(run, name=f"{run.network}-{dataset}", dataset=dataset)


EXPERIMENTS = {
    "layerwise": layerwise,
    "weight-decay": weight_decay,
    "end-to-end": end_to_end,
    "stage-length": stage_length,
}


def runs(experiment: str, scale: str, seed: int = 0, only: str | None = None) -> list[Run]:
    """The runs of an experiment at one scale.

    Args:
        experiment: "layerwise", "weight-decay", "end-to-end" or "stage-length".
        scale: "smoke", "reduced" or "full".
        seed: Seed of initial weights and of the order of samples.
        only: The name of the one run that is wanted.

    Raises:
        ValueError: There is no such experiment, scale or run.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {experiment!r}, only {', '.join(EXPERIMENTS)}.")
    if scale not in SCALES:
        raise ValueError(f"there is no scale {scale!r}, only {', '.join(SCALES)}.")
    all_runs = [replace(run, seed=seed) for run in EXPERIMENTS[experiment](scale)]
    chosen = [run for run in all_runs if only in (None, run.name)]
    if not chosen:
        raise ValueError(
            f"{experiment} has no run {only!r}, only {', '.join(run.name for run in all_runs)}."
        )
    return chosen
