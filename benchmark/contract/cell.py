"""The cell on which methods are examined: a few digits, a small network, hardly any training."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch

import methods
from benchmark.architectures import Classifier, initialise
from benchmark.attacks import Steps
from benchmark.datasets import TensorSplit, load
from benchmark.digests import seed_from
from benchmark.errors import ContractError
from benchmark.manifest import empty_network
from benchmark.objectives import OBJECTIVES
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import Structure, prunable_parameters
from benchmark.recipes import RECIPES, objective_of
from benchmark.training import Run, Stage

PROTOCOL = PROTOCOLS["digits-linf"]
EXAMPLES = 40
STAGE = Stage(epochs=1, learning_rate=0.01, batch_size=20)
STEPS_PER_EPOCH = EXAMPLES // STAGE.batch_size

CPU = torch.device("cpu")
_RECIPE = dataclasses.replace(RECIPES["digits"], steps=Steps(1, Fraction(1)))


@dataclass(frozen=True)
class Case:
    """One thing that a method is asked to do.

    Attributes:
        structure: what it removes.
        sparsity: how much of it.
        epochs: of each stage.
        tied: the network's weights have one magnitude a layer, so that scores tie.
    """

    structure: Structure
    sparsity: Fraction
    epochs: int = 1
    tied: bool = False

    def __str__(self) -> str:
        """Returns the case in words, such as `filter 0.5`."""
        ties = ", weights of one magnitude" if self.tied else ""
        return f"{self.structure} {float(self.sparsity):g}{ties}"


def levels(structure: Structure) -> tuple[Fraction, ...]:
    """Returns the sparsities of the grid of boards."""
    return PROTOCOL.unstructured if structure == "unstructured" else PROTOCOL.structured


def cases(kind: type[methods.Method]) -> list[Case]:
    """Returns every level of the grid for every structure that a method claims, and ties."""
    found = []
    for structure in kind.structures:
        reached = [s for s in levels(structure) if s <= kind.largest_sparsity]
        found += [Case(structure, level) for level in reached]
        found.append(Case(structure, kind.largest_sparsity / 2, tied=True))
    return found


def objective_for(kind: type[methods.Method]) -> str:
    """Returns the objective that a method is examined under: adversarial, where it works with it.

    Raises:
        ContractError: it works under none.
    """
    for name in ("adversarial", *OBJECTIVES):
        if not methods.supports(kind, "", Fraction(0), kind.structures[0], name):
            return name
    raise ContractError("expected an objective that the method works under, got none")


def network(case: Case) -> Classifier:
    """Returns the untrained network of a case."""
    model = empty_network("cnn-tiny", "digits")
    initialise(model, torch.Generator().manual_seed(seed_from("contract", "weights")))
    if case.tied:
        with torch.no_grad():
            for parameter in prunable_parameters(model).values():
                parameter.copy_(parameter.abs().mean() * (parameter.sign() + (parameter == 0)))
    return model.eval()


@cache
def examples(count: int = EXAMPLES, first: int = 0) -> TensorSplit:
    """Returns some of digits' training images."""
    split = load("digits", "train", None)
    chosen = torch.arange(first, first + count)
    return TensorSplit(split.pixels(chosen), split.labels[chosen], split.scale)


Report = Callable[[int, int, float], None]


def task_of(
    case: Case,
    objective: str = "adversarial",
    *,
    seed: int = 0,
    folder: Path | None = None,
    report: Report | None = None,
) -> methods.Task:
    """Returns what a method is handed.

    Args:
        case: what it shall do.
        objective: of both stages.
        seed: of every draw.
        folder: where training leaves its states, so that it can be resumed.
        report: told of each epoch.
    """

    def training(stage: str, number: int) -> methods.Training:
        run = Run(CPU, seed=seed + number, state=folder and folder / f"{stage}.state")
        return methods.Training(
            split=examples(),
            objective=objective_of(objective, PROTOCOL.threat, _RECIPE, stage),
            stage=dataclasses.replace(STAGE, epochs=case.epochs),
            run=dataclasses.replace(run, report=report) if report else run,
        )

    return methods.Task(
        sparsity=case.sparsity,
        structure=case.structure,
        generator=torch.Generator().manual_seed(seed),
        prune=training("prune", 0),
        finetune=training("finetune", 1),
    )
