"""How long a campaign takes: passes are counted, their pace is that of what has been measured."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from benchmark import records
from benchmark.architectures import Classifier
from benchmark.datasets import load
from benchmark.distributed import choose_device, steady, timed
from benchmark.errors import RecordError
from benchmark.evaluations import Smoothing
from benchmark.pipeline.campaigning import Network, Progress
from benchmark.pipeline.compressing import Order, fresh_network, parent_of, threat_of
from benchmark.pipeline.pace import passes
from benchmark.pipeline.project import Project
from benchmark.protocols import Protocol
from benchmark.recipes import objective_of, recipe

# Forward passes that a step costs an example: one forward, and one back for about twice as much.
_STEP = 3

# Examples of a training split, in order of magnitude, where parts are dealt: any machine must deal
# the same ones, whether or not it has the data.
_MANY = 50_000

# What is timed where nothing has been measured yet.
_BATCH, _BATCHES = 128, 10

# Budgets are rounded up to a hundredth of an hour.
_ROUNDED = 0.005


@dataclass(frozen=True)
class Forecast:
    """How long the rest of a campaign takes, on one core or accelerator at a time.

    Attributes:
        training: seconds.
        evaluation: seconds; a closer look at first groups is not in it.
        basis: what the estimate rests on, in words.
    """

    training: float
    evaluation: float
    basis: str


def training_passes(order: Order) -> int:
    """Returns about how many forward passes an example of the training data takes for an order.

    The dense parent is not in it, nor what a method does beside its epochs.
    """
    chosen = recipe(order.recipe)
    epochs = {"prune": chosen.prune.epochs, "finetune": chosen.finetune.epochs}
    if parent_of(order) is None:
        epochs["prune"] += chosen.pretrain.epochs
    return sum(count * _passes_of(order, stage) for stage, count in epochs.items())


def parent_passes(order: Order) -> int:
    """Returns the same for the dense parent of an order."""
    return recipe(order.recipe).pretrain.epochs * _passes_of(order, "pretrain")


def _passes_of(order: Order, stage: str) -> int:
    """Returns the forward passes of an epoch, for an example."""
    chosen = recipe(order.recipe)
    objective = objective_of(order.objective, threat_of(chosen.dataset), chosen, stage)
    return _STEP * (1 + objective.attack_steps)


def cost(network: Network, chosen: Protocol) -> float:
    """Returns about the forward passes of a network, trained and evaluated; no machine matters.

    Args:
        network: of a campaign.
        chosen: the protocol under which it is evaluated.
    """
    return training_passes(network.order) * _MANY + _evaluation_passes(chosen, network.tier)


def _evaluation_passes(chosen: Protocol, tier: str) -> int:
    """Returns the forward passes of an evaluation in which attacks spend all they may."""
    examples = chosen.examples(tier)
    return sum(
        passes(settings)
        * (min(examples, settings.examples) if isinstance(settings, Smoothing) else examples)
        for _, settings in chosen.evaluations
    )


class _Paces:
    """Means of what was measured, by the most alike of what there is."""

    def __init__(self) -> None:
        self._sums: dict[Hashable, tuple[float, int]] = {}
        self.count = 0

    def add(self, keys: Iterable[Hashable], value: float) -> None:
        """Takes one measurement under each of its keys."""
        self.count += 1
        for key in keys:
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = total + value, count + 1

    def of(self, keys: Iterable[Hashable]) -> float | None:
        """Returns the mean under the first key of which anything is known; None without any."""
        for key in keys:
            if key in self._sums:
                total, count = self._sums[key]
                return total / count
        return None


def forecast(
    project: Project, chosen: Protocol, networks: Sequence[Network], progress: Progress
) -> Forecast:
    """Returns how long the rest of a campaign takes.

    Args:
        project: whose checkpoints and records tell the pace.
        chosen: the protocol.
        networks: of the campaign, or of a part of it.
        progress: what of them is there.

    Raises:
        DataUnavailable: the training data are not at hand.
    """
    if not (progress.untrained or progress.unevaluated):
        return Forecast(0.0, 0.0, "nothing is left")
    training, evaluation = _trained_paces(progress), _evaluated_paces(project, chosen, progress)
    split = load(chosen.dataset, "train", project.data_root, download=project.download)
    timed_now: dict[str, float] = {}

    def pace(order: Order) -> float:
        if order.architecture not in timed_now:
            timed_now[order.architecture] = _pace(project, order)
        return timed_now[order.architecture]

    seconds = spent = 0.0
    for order, count in _left(progress).items():
        known = training.of(_training_keys(order))
        seconds += count * (pace(order) * len(split) if known is None else known)
    for network in (*progress.untrained, *progress.unevaluated):
        known = evaluation.of(_evaluation_keys(network))
        if known is None:
            spent += pace(network.order) * _evaluation_passes(chosen, network.tier)
        else:
            spent += known * chosen.examples(network.tier)
    return Forecast(seconds, spent, _basis(training.count, evaluation.count, bool(timed_now)))


def _left(progress: Progress) -> dict[Order, int]:
    """Returns the passes that are left, dense parents of cells that are not begun included."""
    begun = {network.cell for network in progress.trained}
    left: dict[Order, int] = {}
    for network in progress.untrained:
        left[network.order] = training_passes(network.order)
        if network.cell not in begun and parent_of(network.order) is not None:
            left[network.order] += parent_passes(network.order)
            begun.add(network.cell)
    return left


def _training_keys(order: Order) -> tuple[Hashable, ...]:
    method, _, _ = order.method.partition(":")
    alike = (order.recipe, order.architecture, order.objective)
    return (*alike, method, order.structure), alike, alike[:2]


def _evaluation_keys(network: Network) -> tuple[Hashable, ...]:
    alike = (network.order.architecture, network.order.objective)
    return (*alike, network.order.sparsity), alike, alike[:1]


def _trained_paces(progress: Progress) -> _Paces:
    """Returns seconds a pass over the training split, of what was trained."""
    paces = _Paces()
    for network, entry in progress.trained.items():
        seconds = 3600 * max(entry.budget.hours - _ROUNDED, 0.0)
        if count := training_passes(network.order):
            paces.add(_training_keys(network.order), seconds / count)
    return paces


def _evaluated_paces(project: Project, chosen: Protocol, progress: Progress) -> _Paces:
    """Returns seconds an example of what was evaluated."""
    paces = _Paces()
    for network, entry in progress.trained.items():
        try:
            record, _ = records.read(records.record_path(project.results, chosen.id, entry.id))
        except RecordError:
            continue
        seconds = sum(spent.seconds for spent in record.cost.values())
        paces.add(_evaluation_keys(network), seconds / record.examples)
    return paces


def _pace(project: Project, order: Order) -> float:
    """Returns the seconds that a forward pass takes an example, timed on random inputs."""
    device = choose_device(project.device)
    model: Classifier = fresh_network(order).to(device)
    inputs = torch.rand(_BATCH, *model.shape, device=device)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(_BATCHES):
                logits = model(inputs)
            logits.sum().item()  # an accelerator answers once it is done

    with steady(1):
        forward()
        _, seconds = timed(forward)
    return seconds / (_BATCH * _BATCHES)


def _basis(trained: int, evaluated: int, timed_now: bool) -> str:
    """Returns what an estimate rests on."""
    measured = f"by {trained} trained networks and {evaluated} records of this project"
    passes_now = (
        "by a forward pass timed now, as if attacks had to spend all they may: the work of methods "
        "beside their epochs is not in it, nor what is spared"
    )
    if not timed_now:
        return measured
    return f"{measured}; for what is like none of these {passes_now}" if trained else passes_now
