"""Sanity controls, derived from any method: its mask shuffled, or its weights drawn anew.

If a shuffled mask does as well, the method chose how much to remove from each layer, not which
weights. If fresh weights do as well, what the kept weights had learned did not matter.

Source: J. Frankle et al., "Pruning Neural Networks at Initialization: Why Are We Missing the
Mark?", ICLR 2021 (arXiv 2009.08576), the ablations "randomly shuffling" and "reinitialization".

Departures, since the paper prunes before training and this benchmark after it:
- Only the mask is the parent's. Whatever the parent trained while it pruned is taken back: the
  shuffled control starts from the pretrained network, its kept weights those of the new places.
- Reinitialised is the whole network, as in the paper: weights drawn anew, biases zero, norms the
  identity and without statistics. It is then trained for the finetuning epochs alone, so it lags
  behind a network trained from scratch for as long as pretraining took.
- Where the parent starts from an untrained network, so do both controls, and then they are the same
  but for the shuffling: the epochs before finetuning went into the mask alone.
- Where the parent finetunes by itself, under a loss of its own, the controls are finetuned by the
  engine under the cell's: they then differ from it in more than the mask.
- Of filters and channels whole ones are shuffled, so that they stay removed as units.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark.architectures import initialise
from benchmark.errors import shorten
from benchmark.objectives import OBJECTIVES
from benchmark.pruning import Mask, Scope, Structure
from methods import Info, Meter, Method, Pruned, Task, compress, start_of

_AUTHORS = ("Jonathan Frankle", "Gintare Karolina Dziugaite", "Daniel M. Roy", "Michael Carbin")
_PAPER = (
    "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021, "
    "arXiv 2009.08576"
)

# What a manifest holds on one line. A longer reference would only fail after the training.
_LONGEST_LINE = 400


def _info(parent: Info, word: str, what: str) -> Info:
    """Returns what a control says of itself: both papers, and the authors of both."""
    papers = (parent.paper, _PAPER) if parent.paper else (_PAPER,)
    return replace(
        parent,
        title=shorten(f"{parent.title}, {word}", _LONGEST_LINE),
        authors=tuple(dict.fromkeys((*parent.authors, *_AUTHORS))),
        paper=shorten("; ".join(papers), _LONGEST_LINE),
        summary=f"Sanity control: {what}.",
    )


@cache
def shuffled(name: str, kind: type[Method]) -> type[Method]:
    """Returns the method `kind`, registered as `name`, with its mask shuffled in each layer."""

    @dataclass(frozen=True)
    class Shuffled:
        """The pretrained network under the parent's mask, shuffled within each layer."""

        info: ClassVar[Info] = _info(
            kind.info, "shuffled", f"the mask of {name}, shuffled within each layer"
        )
        structures: ClassVar[tuple[Structure, ...]] = kind.structures
        scope: ClassVar[Scope] = kind.scope
        largest_sparsity: ClassVar[Fraction] = kind.largest_sparsity
        objectives: ClassVar[tuple[str, ...]] = getattr(kind, "objectives", tuple(OBJECTIVES))

        parent: Method = field(default_factory=kind)

        @property
        def start(self) -> str:
            """The parent's."""
            return start_of(self.parent)

        def compress(self, model: nn.Module, task: Task) -> Pruned:
            """Returns the network with as many units of each layer zeroed as the parent zeroes."""
            pretrained = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            pruned = _pruned(name, self.parent, model, task)
            pruned.model.load_state_dict(pretrained)
            return _masked(pruned, shuffle(pruned.mask, task.structure, task.generator))

    return Shuffled


@cache
def reinitialised(name: str, kind: type[Method]) -> type[Method]:
    """Returns the method `kind`, registered as `name`, with all weights drawn anew."""

    @dataclass(frozen=True)
    class Reinitialised:
        """An untrained network under the parent's mask."""

        info: ClassVar[Info] = _info(
            kind.info, "reinitialised", f"the mask of {name}, the kept weights drawn anew"
        )
        structures: ClassVar[tuple[Structure, ...]] = kind.structures
        scope: ClassVar[Scope] = kind.scope
        largest_sparsity: ClassVar[Fraction] = kind.largest_sparsity
        objectives: ClassVar[tuple[str, ...]] = getattr(kind, "objectives", tuple(OBJECTIVES))

        parent: Method = field(default_factory=kind)

        @property
        def start(self) -> str:
            """The parent's."""
            return start_of(self.parent)

        def compress(self, model: nn.Module, task: Task) -> Pruned:
            """Returns the network with the parent's mask and nothing else of it."""
            pruned = _pruned(name, self.parent, model, task)
            initialise(pruned.model, task.generator)
            return _masked(pruned, pruned.mask)

    return Reinitialised


def _pruned(name: str, parent: Method, model: nn.Module, task: Task) -> Pruned:
    """Returns what the parent prunes, spared the finetuning, whose weights would be thrown away.

    It sees the stage as it is, since a schedule may run over all training, but with every epoch
    spent. Where it wants no finetuning at all, its control gets none either.
    """
    tune = task.finetune
    spent = replace(tune, meter=Meter(epochs=tune.stage.epochs))
    pruned = compress(name, parent, model, replace(task, finetune=spent))
    return replace(pruned, finetuned=pruned.finetuned and spent.meter.calls == 0)


def _masked(pruned: Pruned, mask: Mask) -> Pruned:
    mask.apply(pruned.model)
    return replace(pruned, mask=mask)


def shuffle(mask: Mask, structure: Structure, generator: torch.Generator) -> Mask:
    """Returns a mask with the entries, or the whole units, of each layer in uniform random order.

    Args:
        mask: what a method removed.
        structure: unstructured: single entries move; filter or channel: whole slices do.
        generator: source of the draws, on the CPU.
    """
    order = _ORDERS[structure]
    return Mask({name: order(kept, generator) for name, kept in mask.items()})


def _entries(kept: Tensor, generator: torch.Generator) -> Tensor:
    return kept.flatten()[torch.randperm(kept.numel(), generator=generator)].view(kept.shape)


def _slices(dimension: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    def order(kept: Tensor, generator: torch.Generator) -> Tensor:
        places = torch.randperm(kept.shape[dimension], generator=generator)
        return kept.index_select(dimension, places)

    return order


_ORDERS: dict[Structure, Callable[[Tensor, torch.Generator], Tensor]] = {
    "unstructured": _entries,
    "filter": _slices(0),
    "channel": _slices(1),
}
