"""Training recipes: how long and how fast, the same for every method of a cell.

A recipe is part of a checkpoint's identity: rows of one cell compare only under one recipe.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from benchmark.attacks import Steps
from benchmark.digests import digest_of
from benchmark.errors import lookup
from benchmark.objectives import OBJECTIVES, Objective, Ramp
from benchmark.threat import ThreatModel
from benchmark.training import Stage


@dataclass(frozen=True)
class Recipe:
    """Three stages and the inner attack of adversarial objectives.

    Attributes:
        id: name in the table.
        dataset: what it is made for.
        architecture: its default architecture.
        pretrain: dense training, shared by all methods.
        prune: what a method may spend on finding its mask.
        finetune: training of the surviving weights, every method alike (the dense control too).
        steps: inner attack of adversarial objectives.
        warmup: share of pretraining over which the inner epsilon rises (see `Adversarial`).
    """

    id: str
    dataset: str
    architecture: str
    pretrain: Stage
    prune: Stage
    finetune: Stage
    steps: Steps
    warmup: Fraction = Fraction(0)

    @property
    def digest(self) -> str:
        """SHA-256 of every field."""
        return digest_of(self)


_LONG = Stage(epochs=100, learning_rate=0.1, precision="bfloat16", channels_last=True)
_SHORT = Stage(
    epochs=24, learning_rate=0.2, batch_size=256, precision="bfloat16", channels_last=True
)
_INNER = Steps(10, Fraction(1, 4))
# Losses by bounds grow to many times the plain one; Adam does not care, momentum would run away.
_DIGITS = Stage(epochs=60, learning_rate=5e-3, batch_size=32, optimiser="adam", weight_decay=0.0)
_MNIST = Stage(epochs=10, learning_rate=2e-3, optimiser="adam", weight_decay=0.0)
_TRIAL = Stage(epochs=1, learning_rate=2e-3, optimiser="adam", weight_decay=0.0)


def _images(name: str, dataset: str, long: bool) -> Recipe:
    base = _LONG if long else _SHORT
    prune, finetune = (20, 100) if long else (6, 12)
    return Recipe(
        id=name,
        dataset=dataset,
        architecture="resnet18",
        pretrain=replace(base, warmup_epochs=1),
        prune=replace(base, epochs=prune),
        finetune=replace(base, epochs=finetune, learning_rate=0.01 if long else 0.04),
        steps=_INNER if long else Steps(7, Fraction(1, 3)),
    )


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        id="digits",
        dataset="digits",
        architecture="cnn-tiny",
        pretrain=Stage(epochs=60, learning_rate=0.05, batch_size=64),
        prune=Stage(epochs=10, learning_rate=0.05, batch_size=64),
        finetune=Stage(epochs=40, learning_rate=0.05, batch_size=64),
        steps=Steps(10, Fraction(1, 4)),
        warmup=Fraction(1, 4),
    ),
    "mnist-short": Recipe(
        id="mnist-short",
        dataset="mnist",
        architecture="cnn-small",
        pretrain=Stage(epochs=6, learning_rate=0.05, weight_decay=1e-4),
        prune=Stage(epochs=2, learning_rate=0.05, weight_decay=1e-4),
        finetune=Stage(epochs=4, learning_rate=0.05, weight_decay=1e-4),
        steps=Steps(7, Fraction(1, 4)),
        warmup=Fraction(1, 4),
    ),
    # For the objectives that train by bounds; their prune and finetune stages take no ramp, so that
    # an epoch of them costs a tenth of one within it. On MNIST they have HYDRA's shares of
    # pretraining, 1/5 and 1; on digits less.
    "digits-certified": Recipe(
        id="digits-certified",
        dataset="digits",
        architecture="cnn-tiny",
        pretrain=_DIGITS,
        prune=replace(_DIGITS, epochs=10),
        finetune=replace(_DIGITS, epochs=40),
        steps=Steps(10, Fraction(1, 4)),
        warmup=Fraction(1, 4),
    ),
    "mnist-certified": Recipe(
        id="mnist-certified",
        dataset="mnist",
        architecture="cnn-small",
        pretrain=_MNIST,
        prune=replace(_MNIST, epochs=2),
        finetune=replace(_MNIST, epochs=10),
        steps=Steps(7, Fraction(1, 4)),
        warmup=Fraction(1, 4),
    ),
    # For a board of hundreds of networks on two cores: a quarter of the passes of `mnist-short` for
    # each. Tried on validation images, one seed: three inner steps leave dense networks no more
    # robust than two; a learning rate of 0.1 gains 4 points for HYDRA at 99 % and costs layerwise
    # magnitude pruning 11 there; Adam leaves that one at chance.
    "mnist-board": Recipe(
        id="mnist-board",
        dataset="mnist",
        architecture="cnn-small",
        pretrain=Stage(epochs=5, learning_rate=0.05, weight_decay=1e-4),
        prune=Stage(epochs=1, learning_rate=0.05, weight_decay=1e-4),
        finetune=Stage(epochs=3, learning_rate=0.05, weight_decay=1e-4),
        steps=Steps(2, Fraction(3, 4)),
        warmup=Fraction(1, 4),
    ),
    # The same for the objectives that train by bounds: dense parents as long as those of
    # `mnist-certified`, since ramps need their time, and short stages behind.
    "mnist-board-certified": Recipe(
        id="mnist-board-certified",
        dataset="mnist",
        architecture="cnn-small",
        pretrain=_MNIST,
        prune=replace(_MNIST, epochs=1),
        finetune=replace(_MNIST, epochs=4),
        steps=Steps(2, Fraction(3, 4)),
        warmup=Fraction(1, 4),
    ),
    # To see within a minute or two whether a method runs; its networks are no good.
    "mnist-trial": Recipe(
        id="mnist-trial",
        dataset="mnist",
        architecture="cnn-small",
        pretrain=_TRIAL,
        prune=_TRIAL,
        finetune=_TRIAL,
        steps=Steps(1, Fraction(1)),
    ),
    # Colour images within reach of two CPU cores.
    "cifar10-jpeg-small": Recipe(
        id="cifar10-jpeg-small",
        dataset="cifar10-jpeg",
        architecture="cnn-small",
        pretrain=Stage(epochs=16, learning_rate=0.05, weight_decay=1e-4),
        prune=Stage(epochs=2, learning_rate=0.05, weight_decay=1e-4),
        finetune=Stage(epochs=6, learning_rate=0.05, weight_decay=1e-4),
        steps=Steps(2, Fraction(3, 4)),
        warmup=Fraction(1, 4),
    ),
    "cifar10-short": _images("cifar10-short", "cifar10", long=False),
    "cifar10-literature": _images("cifar10-literature", "cifar10", long=True),
    "cifar10-jpeg-short": _images("cifar10-jpeg-short", "cifar10-jpeg", long=False),
    "cifar100-literature": _images("cifar100-literature", "cifar100", long=True),
    "svhn-literature": _images("svhn-literature", "svhn", long=True),
}


def recipe(name: str) -> Recipe:
    """Returns a recipe by its id.

    Raises:
        UnknownName: no such recipe.
    """
    return lookup("recipe", name, RECIPES)


def objective_of(name: str, threat: ThreatModel, chosen: Recipe, stage: str) -> Objective:
    """Returns the objective of one stage of a recipe, for a threat model.

    Args:
        name: objective.
        threat: ball of the inner attack, where there is one.
        chosen: the recipe, which sets the inner attack.
        stage: `pretrain`, `prune` or `finetune`; epsilon ramps only from random weights.

    Raises:
        UnknownName: no such objective.
    """
    objective = lookup("objective", name, OBJECTIVES)(threat)
    settings: dict[str, object] = {"steps": chosen.steps}
    if stage == "pretrain":
        settings["warmup"] = chosen.warmup
    else:
        settings |= {"warmup": Fraction(0), "ramp": Ramp()}
    changes = {field: value for field, value in settings.items() if hasattr(objective, field)}
    return replace(objective, **changes) if changes else objective  # type: ignore[type-var]
