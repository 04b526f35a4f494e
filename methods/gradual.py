"""Gradual pruning (GP): the smallest weights go step by step while the network is trained.

Source: M. Zhu and S. Gupta, "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
Compression", ICLR 2018 workshop (arXiv 1710.01878), equation 1; as the baseline GP of H. Xie et
al., "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness", 2020 (arXiv
2004.05913).

Code: https://github.com/Lixin-Qian/BAP (with tensorflow-model-optimization)

Departures:
- The loss is the cell's; under the benign objective this is the papers' GP.
- Single weights only, as in both papers: slices would not grow back one weight at a time.
- The ramp takes the share of all training that it takes in the second paper's code (30 of 70
  epochs), not its number of epochs, and at the latest ends where finetuning begins.
- Exactly round(sparsity * n) weights of a layer go, the earlier of two equal ones first. The code
  keeps at least one weight a layer.
- Masks are recomputed at the ramp's very last step too, which the code reaches only if the ramp is
  a multiple of the frequency; and at least ten times, where the ramp is shorter than that.
- Finetuning has the recipe's settings; the paper keeps its own to the end.
- Schedule of the learning rate, batch size and weight decay are the recipe's; the paper has a
  constant rate, batches of 128 and no decay.
- Adam's 0.001 is made for the paper's 33 000 steps. Where a recipe has two thousand (digits),
  `optimiser=sgd:learning-rate=0.05` learned more on held-out training images.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Info, Pruned, Task, register
from methods._gradual import GradualPruning


@register("gradual")
@dataclass(frozen=True)
class Gradual(GradualPruning):
    """Magnitude pruning of each layer during training from random weights, under the cell's loss.

    Attributes:
        begin: share of all training after which the ramp begins (BAP's code: epoch 0).
        end: share after which it has ended (BAP's code: epoch 30 of 70).
        initial_sparsity: at the beginning of the ramp (BAP's code: 0).
        frequency: optimiser steps between two masks (BAP's code: 100).
        optimiser: until finetuning (BAP's code: Adam).
        learning_rate: until finetuning (BAP's code: 0.001).
    """

    info: ClassVar[Info] = Info(
        title="Gradual magnitude",
        authors=("Michael Zhu", "Suyog Gupta"),
        paper=(
            "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression, "
            "ICLR 2018 workshop, arXiv 1710.01878"
        ),
        code="",
        summary="Sparsity rises while the network is trained from random weights; removed weights "
        "may grow back until the end of the ramp.",
    )

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the network after the ramp; the engine finetunes it."""
        return Pruned(model, self.thin(model, task, task.objective))
