"""ATMC: sparse, factorised and quantised weights in one constrained adversarial training.

Source: S. Gui et al., "Model Compression with Adversarial Robustness: A Unified Optimization
Framework", NeurIPS 2019 (arXiv 1902.03538); the steps and settings are those of the authors' code.

Code: https://github.com/shupenggui/ATMC documents all four steps; the list below is what is ours.

Each layer is a matrix W = (B + I) A + C, a convolution one of a row a filter. All factors of all
layers together may hold k non-zeros, and each few different values; under that the network is
trained on clean and adversarial examples alike. It goes in four steps: the dense parent; its plain
weights, projected on the k largest after each step of training; the factors, starting from A = W
and B = C = 0, projected likewise; quantisation by ADMM.

Departures:
- The board counts zeros of W, the authors those of A, B and C, of which the product is denser: on
  digits at 90 % W held 33 % more non-zeros than its factors, and 94 % more after 60 epochs. So W
  itself is projected last, which took away 0.1 and 0.3 % of its squared norm, and its surviving
  weights are finetuned as plain weights, in the finetuning stage, under ATMC's own loss.
- Where W has too few non-zeros, the largest weights that step 2 kept and step 3 dropped are added.
- Step 4 quantises the layers of W while they are finetuned. Authors' codebooks are those of A, B
  and C; sums of their products take too many values, and what the board stores is W.
- The epochs of the prune stage are divided between steps 2 and 3 like the authors' 200 and 200. The
  learning rate is the recipe's in both. The authors' are a fifth and a tenth of the dense
  network's; in the few epochs of the digits recipe B and C then never left 0.
- k-means starts at quantiles of the weights, not at some drawn at random, so it is repeatable. It
  clusters kept weights only; the authors' also join 0, which would remove more than asked for.
- The cell's loss stands for the cross-entropy of attacked inputs, so under a certified objective
  half of the loss is certified. Inner attacks run in eval mode, the authors' in train mode.
- The last epoch counts; the authors choose the best on test data.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.pruning import Mask, Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, Training, register
from methods._admm import Quantising
from methods._codebooks import quantised
from methods._factors import compose, factorised, pieces, project
from methods._mixed import Mixed


@register("atmc")
@dataclass(frozen=True)
class Atmc:
    """Projected training of plain weights, then of factors, on clean and attacked inputs alike.

    Attributes:
        bits: of an index into a layer's codebook of non-zero values (the paper's 8 and 32); 32
            quantises nothing, above 8 there is no smaller way to store it.
        clean: share of the clean cross-entropy in the loss (the code's 0.5); 0 leaves the cell's
            loss alone.
        plain_share: of the prune stage's epochs, how many train plain weights (README: 200 of 400).
        plain_rate: their learning rate, in shares of the stage's (README: 1/5 of the dense).
        factor_rate: the learning rate of the factors, in shares of the stage's (README: 1/10).
        rho: weight of the ADMM penalty (the code's 0.1).
        interval: steps between two updates of the codebooks (the code's default 5, its README 10).
    """

    info: ClassVar[Info] = Info(
        title="ATMC",
        authors=(
            "Shupeng Gui",
            "Haotao Wang",
            "Haichuan Yang",
            "Chen Yu",
            "Zhangyang Wang",
            "Ji Liu",
        ),
        paper=(
            "Model Compression with Adversarial Robustness: A Unified Optimization Framework, "
            "NeurIPS 2019, arXiv 1902.03538"
        ),
        code="https://github.com/shupenggui/ATMC",
        summary="Adversarial training projected on sparse factors of the weights, or quantised.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "global"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    bits: int = 32
    clean: Fraction = Fraction(1, 2)
    plain_share: Fraction = Fraction(1, 2)
    plain_rate: Fraction = Fraction(1)
    factor_rate: Fraction = Fraction(1)
    rho: float = 0.1
    interval: int = 5

    def __post_init__(self) -> None:
        """Refuses settings that mean nothing."""
        shares = (self.clean, self.plain_share, self.plain_rate, self.factor_rate)
        if not all(0 <= share <= 1 for share in shares) or not 1 <= self.bits <= 32:
            raise ContractError(
                f"expected shares and rates in [0, 1] and 1 to 32 bits, got "
                f"{', '.join(map(str, shares))} and {self.bits}; correct the method's settings"
            )
        if not 0 < self.rho < float("inf") or self.interval < 1:
            raise ContractError(
                f"expected rho > 0 and an interval of 1 step or more, got {self.rho} and "
                f"{self.interval}; correct the method's settings"
            )

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the finetuned network, its weights sparse and, if asked for, quantised."""
        weights = prunable_parameters(model)
        total = sum(weight.numel() for weight in weights.values())
        kept = total - round(task.sparsity * total)
        epochs = round(self.plain_share * task.stage.epochs)
        self._project_while_training(model, task.prune, epochs, self.plain_rate, kept)
        plain = {name: weight.detach().clone() for name, weight in weights.items()}
        factored = factorised(model)
        self._project_while_training(factored, task.prune, task.prune.left, self.factor_rate, kept)
        compose(factored, model)
        mask = _fill_and_prune(model, plain, task.sparsity)
        self._finetune(model, mask, task.finetune)
        return Pruned(model, mask, finetuned=True)

    def _project_while_training(
        self, model: nn.Module, training: Training, epochs: int, rate: Fraction, kept: int
    ) -> None:
        """Trains, and ends on a projection; the others come at the start of the next step."""
        stage = replace(training.stage, learning_rate=float(rate) * training.stage.learning_rate)
        loss = _Projected(training.objective, self.clean, kept)
        training.fit(model, epochs=epochs, objective=loss, stage=stage)
        project(pieces(model), kept)

    def _finetune(self, model: nn.Module, mask: Mask, training: Training) -> None:
        if self.bits == 32:
            training.fit(model, mask=mask, objective=Mixed(training.objective, self.clean))
            return
        # The mask names parameters of what is trained.
        inner = Mask({f"network.{name}": tensor for name, tensor in mask.items()})
        loss = _Drawn(training.objective, self.clean, self.rho, self.interval)
        quantising = Quantising(model, partial(quantised, size=2**self.bits))
        training.fit(quantising, mask=inner, objective=loss)
        quantising.settle()


@dataclass(frozen=True)
class _Projected(Mixed):
    """The same, on weights or factors that are projected before each step.

    The loop has no place behind a step; before the next one is the same, but for the last.

    Attributes:
        kept: non-zeros of all of them together.
    """

    kept: int

    def begin_step(self, model: nn.Module) -> nn.Module:
        """Projects the network in place and returns it."""
        project(pieces(model), self.kept)
        return model


@dataclass(frozen=True)
class _Drawn(Mixed):
    """The same, drawn to quantised weights; what is trained is a `Quantising`.

    Attributes:
        rho: weight of half the squared distance.
        interval: steps between two updates of the quantised weights.
    """

    rho: float
    interval: int

    def begin_step(self, model: nn.Module) -> nn.Module:
        """Updates ADMM's variables, if their time has come, and returns the network."""
        variables = cast(Quantising, model)
        variables.begin_step(self.interval)
        return variables.network

    def penalty(self, model: nn.Module) -> Tensor:
        """Returns rho / 2 * |W - Z + U|^2."""
        return self.rho / 2 * cast(Quantising, model).distance()


@torch.no_grad()
def _fill_and_prune(model: nn.Module, before: dict[str, Tensor], sparsity: Fraction) -> Mask:
    """Keeps the largest weights, and where too few are non-zero fills up with former ones.

    Args:
        model: changed in place.
        before: former weights, by name.
        sparsity: share of all weights that is removed.
    """
    weights = prunable_parameters(model)
    # A fill-in ranks behind every weight, a larger one first, another zero last of all.
    scores = {
        name: torch.where(weight != 0, weight.abs(), -1 / before[name].abs())
        for name, weight in weights.items()
    }
    mask = mask_from_scores(scores, sparsity, "global")
    for name, weight in weights.items():
        weight.copy_(torch.where(weight != 0, weight, before[name]))
    mask.apply(model)
    return mask
