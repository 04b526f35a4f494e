"""SNIP: before training, the connections to which one batch's loss is least sensitive are removed.

Source: N. Lee, T. Ajanthan and P. H. S. Torr, "SNIP: Single-shot Network Pruning based on
Connection Sensitivity", ICLR 2019 (arXiv 1810.02340), algorithm 1. Before robust training it is an
option in the code of V. Sehwag et al., "HYDRA: Pruning Adversarially Robust Neural Networks",
NeurIPS 2020 (arXiv 2002.10509).

Code: https://github.com/namhoonlee/snip-public

Departures:
- The sensitivity is that of the cell's loss at its full strength, without an epsilon ramp: the loss
  that the network has to meet in the end (reconstruction; the paper knows plain cross-entropy, and
  HYDRA's variant scores with it too).
- One ranking over all layers, as in the paper; HYDRA's variant keeps the same share of each layer.
  A global ranking may cut classes off (on our digits network from 95 % on), or empty a layer; the
  logits may then no longer depend on the pixels, and what remains to be learnt is the last bias.
  This is a property of the method and is left as it is.
- Under objectives that draw (MixTrain takes the worst case in most steps, not in all), the one
  scoring batch sees one such draw; more `batches` average it.
- Weights are drawn as the benchmark draws them (He), not by variance scaling, and those that were
  scored are trained, as in algorithm 1; the code trains a second draw. Biases are not ranked; the
  code ranks them too.
- Batch norms use the statistics of the scoring batch, as in training; the code scores them as the
  identity.
- The sparse network trains as long as pretraining and pruning take for other methods, and is then
  finetuned like theirs.
"""

import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.objectives import Moment
from benchmark.pruning import Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register


@register("snip")
@dataclass(frozen=True)
class Snip:
    """Scores are |weight * gradient| at the random initialisation.

    Attributes:
        batch_size: examples of a scoring batch; in the code that of training, which the paper's
            experiments set to 128 for CIFAR-10 and 100 for MNIST.
        batches: over how many the gradient is summed (algorithm 1: one).

    Raises:
        ContractError: nothing to score with.
    """

    info: ClassVar[Info] = Info(
        title="SNIP",
        authors=("Namhoon Lee", "Thalaiyasingam Ajanthan", "Philip H. S. Torr"),
        paper=(
            "SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, "
            "arXiv 1810.02340"
        ),
        code="https://github.com/namhoonlee/snip-public",
        summary="Connections to which the robust loss is least sensitive go before training.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "global"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)
    start: ClassVar[str] = "random"

    batch_size: int = 128
    batches: int = 1

    def __post_init__(self) -> None:
        """Refuses settings without a meaning."""
        if self.batch_size < 1 or self.batches < 1:
            raise ContractError(
                f"expected a batch to score with, got {self.batches} of {self.batch_size}"
            )

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the sparse network, trained for all epochs before finetuning."""
        scores = self._sensitivities(model, task)
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        task.prune.fit(model, mask=mask)
        return Pruned(model, mask)

    def _sensitivities(self, model: nn.Module, task: Task) -> dict[str, Tensor]:
        """Returns the scores of all prunable weights; the model is left as it is."""
        device = task.run.device
        # A pass in train mode moves the statistics of batch norms, here those of a copy.
        probe = copy.deepcopy(model).to(device).train()
        order = torch.randperm(len(task.split), generator=task.generator)
        seed = torch.randint(2**62, (), generator=task.generator)
        noise = torch.Generator(device).manual_seed(int(seed))
        chosen = order[: self.batches * self.batch_size]
        for indices in torch.split(chosen, self.batch_size):
            inputs = task.split.inputs(indices).to(device)
            labels = task.split.labels[indices].to(device)
            loss = task.finetune.objective.loss(
                probe, inputs, labels, moment=Moment(0.0, 1), generator=noise
            )
            loss.backward()  # type: ignore[no-untyped-call]  # sums over batches
        return {name: sensitivity(weight) for name, weight in prunable_parameters(probe).items()}


def sensitivity(weight: Tensor) -> Tensor:
    """Returns |dL/dc| at c = 1 for the loss L of c * weight, from the weight's gradient.

    Source: Lee et al. 2019, connection sensitivity. Dividing by the sum keeps the ranking.
    """
    assert weight.grad is not None, "the loss does not depend on this layer"
    return (weight.detach() * weight.grad).abs()
