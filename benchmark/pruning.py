"""The pruning core: prunable parameters, masks, the one selection function, and counting zeros.

Every method selects through `mask_from_scores`, so that "90 %" is the same integer count for all of
them: exactly `round(sparsity * n)` entries, ties broken by position, whatever the device.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark.architectures import dead_parameters
from benchmark.errors import ContractError, shorten

Scope = Literal["layerwise", "global"]
Structure = Literal["unstructured", "filter", "channel"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
STRUCTURES: tuple[Structure, ...] = get_args(Structure)

# The dimension along which a structure removes whole slices: output filters or input channels.
_UNIT_DIMENSION: dict[Structure, int] = {"filter": 0, "channel": 1}


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weights of every convolution and linear layer, by name, in order of definition.

    Never biases, norms, or parameters that the forward pass does not use (the duplicate block of
    public WideResNet checkpoints).
    """
    dead = dead_parameters(model)
    names = [
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    return {name: model.get_parameter(name) for name in names if name not in dead}


class Mask(Mapping[str, Tensor]):
    """A bool tensor a prunable parameter, True = kept; a mapping without item assignment."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors of a mask to the CPU, so that later changes do not reach it.

        Raises:
            ContractError: an entry is not bool.
        """
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise ContractError(
                    f"expected a bool mask for {shorten(name)}, got {tensor.dtype}; "
                    "select with mask_from_scores"
                )
        self._tensors = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in tensors.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        """Returns the mask of one parameter, of that parameter's shape."""
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over parameter names in order of definition."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Returns the number of masked parameters."""
        return len(self._tensors)

    @property
    def zeros(self) -> int:
        """The number of removed entries over all parameters."""
        return sum(int((~tensor).sum()) for tensor in self._tensors.values())

    @classmethod
    def ones(cls, model: nn.Module) -> "Mask":
        """Returns the mask that keeps every prunable parameter of `model`."""
        parameters = prunable_parameters(model)
        return cls({name: torch.ones(p.shape, dtype=torch.bool) for name, p in parameters.items()})

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Sets every removed entry of the model's parameters to exactly zero.

        Raises:
            ContractError: the model lacks a parameter or has another shape; nothing is changed.
        """
        parameters = prunable_parameters(model)
        for name, tensor in self.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise ContractError(
                    f"expected a mask of this network, got '{shorten(name)}' of shape "
                    f"{tuple(tensor.shape)}; build the mask from the network itself"
                )
        for name, tensor in self.items():
            # masked_fill, not a product: a product would keep -0.0 and turn inf into NaN.
            parameters[name].masked_fill_(~tensor.to(parameters[name].device), 0.0)


def as_sparsity(value: Fraction | float | str) -> Fraction:
    """Returns a sparsity as an exact fraction in [0, 1]; a float is read as it prints.

    >>> as_sparsity(0.9)
    Fraction(9, 10)

    Raises:
        ContractError: not a number, or outside [0, 1].
    """
    text = shorten(str(value), 40)
    try:
        # Text such as 1e-999999999 is short, yet as a fraction it would fill the memory.
        if isinstance(value, str) and "e" in value.lower():
            raise ValueError(text)
        sparsity = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ContractError(f"expected a sparsity in [0, 1], got '{text}'; 90 % is 0.9") from error
    if not 0 <= sparsity <= 1:
        raise ContractError(f"expected a sparsity in [0, 1], got {text}; 90 % is 0.9")
    return sparsity


def eligible(names: list[str], structure: Structure) -> list[str]:
    """Returns the parameters whose slices a structure may remove.

    Filters of all layers but the last, since its outputs are the logits; channels of all layers but
    the first, since its inputs are the pixels; every parameter when unstructured.
    """
    if structure == "filter":
        return names[:-1]
    return names[1:] if structure == "channel" else names


def _smallest(flat: Tensor, count: int) -> Tensor:
    """Returns a bool vector, False at the `count` smallest entries; earlier positions go first."""
    order = torch.sort(flat, stable=True).indices
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[order[:count]] = False
    return kept


def unit_scores(scores: Tensor, structure: Structure) -> Tensor:
    """Returns the score of each prunable unit of one parameter.

    Args:
        scores: the parameter's shape, higher = keep.
        structure: for filter and channel, the unit is a slice and its score the mean of its entries
            (the order of L1 norms when scores are magnitudes).

    Returns:
        (units,) float32 on the CPU: one score an entry (unstructured), filter or channel.
    """
    plain = scores.detach().cpu().float()
    if structure == "unstructured":
        return plain.flatten()
    # Taken in double precision over contiguous rows and then rounded, the mean depends neither on
    # the memory layout nor on how sums are grouped.
    return _as_rows(plain, structure).contiguous().double().mean(dim=1).float()


def _as_rows(tensor: Tensor, structure: Structure) -> Tensor:
    """Returns (units, entries): one row a filter or channel."""
    return tensor.transpose(0, _UNIT_DIMENSION[structure]).flatten(1)


def _expand(kept: Tensor, shape: torch.Size, structure: Structure) -> Tensor:
    if structure == "unstructured":
        return kept.view(shape)
    view = [1] * len(shape)
    view[_UNIT_DIMENSION[structure]] = -1
    return kept.view(view).expand(shape)


def mask_from_scores(
    scores: Mapping[str, Tensor],
    sparsity: Fraction | float,
    scope: Scope,
    structure: Structure = "unstructured",
) -> Mask:
    """Returns the mask that removes exactly the lowest-scored share of units.

    Args:
        scores: a float tensor a prunable parameter, in order of definition, higher = keep.
        sparsity: share of eligible units removed, in [0, 1].
        scope: `layerwise` removes round(sparsity * n) units of each layer; `global` ranks the units
            of all layers together and removes round(sparsity * total).
        structure: what a unit is; see `eligible` for the layers that keep all their slices.

    Raises:
        ContractError: a score is NaN, the sparsity lies outside [0, 1], or a word is unknown.
    """
    share = as_sparsity(sparsity)
    if scope not in SCOPES or structure not in STRUCTURES:
        raise ContractError(
            f"expected a scope of {', '.join(SCOPES)} and a structure of {', '.join(STRUCTURES)}, "
            f"got '{shorten(str(scope))}' and '{shorten(str(structure))}'; correct the call"
        )
    # Selecting on the CPU in float32 gives one order for one set of scores on every device.
    units = {name: unit_scores(scores[name], structure) for name in eligible([*scores], structure)}
    _refuse_nan(scores)
    _refuse_nan(units)  # the mean of opposite infinities
    kept = _layerwise(units, share) if scope == "layerwise" else _globally(units, share)
    return Mask(
        {
            name: _expand(kept[name], tensor.shape, structure)
            if name in kept
            else torch.ones(tensor.shape, dtype=torch.bool)
            for name, tensor in scores.items()
        }
    )


def largest(values: Tensor, kept: int) -> Tensor:
    """Returns (n,) bool: the `kept` largest of (n,) values, of equal ones the last; no NaN.

    The order of `mask_from_scores`, but found on the values' device: in a training step, a sort on
    the CPU would take longer than the step.
    """
    if kept == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = values.topk(kept, sorted=False).values.amin()
    above, level = values > threshold, values == threshold
    surplus = above.sum() + level.sum() - kept
    return above | level & (level.cumsum(0) > surplus)


def _refuse_nan(scores: Mapping[str, Tensor]) -> None:
    for name, tensor in scores.items():
        if bool(tensor.isnan().any()):
            raise ContractError(f"expected scores, got NaN in {shorten(name)}; check the loss")


def _layerwise(units: Mapping[str, Tensor], share: Fraction) -> dict[str, Tensor]:
    """Returns (units,) kept for each parameter, each meeting the share by itself."""
    return {name: _smallest(values, round(share * len(values))) for name, values in units.items()}


def _globally(units: Mapping[str, Tensor], share: Fraction) -> dict[str, Tensor]:
    """Returns (units,) kept for each parameter, together meeting the share."""
    if not units:
        return {}
    joined = torch.cat(list(units.values()))
    kept = _smallest(joined, round(share * len(joined)))
    parts = torch.tensor_split(kept, torch.tensor([len(v) for v in units.values()]).cumsum(0)[:-1])
    return dict(zip(units, parts, strict=True))


def removed_units(tensor: Tensor, structure: Structure) -> int:
    """Returns how many units of one mask or weight are entirely zero (False)."""
    if structure == "unstructured":
        return int((tensor == 0).sum())
    return int((_as_rows(tensor, structure) == 0).all(dim=1).sum())


def check_mask(
    mask: Mapping[str, Tensor],
    model: nn.Module,
    sparsity: Fraction,
    scope: Scope,
    structure: Structure,
) -> None:
    """Checks that a mask is what its scope, structure and sparsity promise, to the last unit.

    Raises:
        ContractError: other keys than the prunable parameters, another shape or dtype, another
            count of removed units (in a layer for `layerwise`, in total for `global`), or removed
            entries outside whole units.
    """
    _check_tensors(mask, prunable_parameters(model))
    counts, totals = _unit_counts(mask, structure)
    if scope == "global":
        counts, totals = {"all layers": sum(counts.values())}, {"all layers": sum(totals.values())}
    for name, total in totals.items():
        wanted = round(as_sparsity(sparsity) * total)
        if counts[name] != wanted:
            raise ContractError(
                f"expected {wanted} of {total} units removed in {name} ({structure}, {scope}), "
                f"got {counts[name]}; select with mask_from_scores"
            )


def _check_tensors(mask: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Checks names, order, dtypes and shapes of a mask."""
    if list(mask) != list(parameters):
        odd = sorted(mask.keys() ^ parameters.keys())
        what = f"'{shorten(odd[0])}' in one of the two only" if odd else "in another order"
        raise ContractError(
            f"expected a mask of {len(parameters)} prunable parameters, got {len(mask)} entries, "
            f"{what}; build it with mask_from_scores"
        )
    for name, tensor in mask.items():
        if tensor.dtype != torch.bool or tensor.shape != parameters[name].shape:
            raise ContractError(
                f"expected a bool mask of shape {tuple(parameters[name].shape)} for {name}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}; build it with mask_from_scores"
            )


def _unit_counts(
    mask: Mapping[str, Tensor], structure: Structure
) -> tuple[dict[str, int], dict[str, int]]:
    """Returns removed and total units of each eligible parameter, refusing zeros outside units."""
    counts: dict[str, int] = {}
    totals: dict[str, int] = {}
    names = eligible(list(mask), structure)
    for name, tensor in mask.items():
        count = removed_units(tensor, structure) if name in names else 0
        units = _unit_count(tensor, structure)
        if int((~tensor).sum()) * units != count * tensor.numel():
            raise ContractError(
                f"expected whole units removed in {name} ({structure}), got scattered zeros; "
                "select with mask_from_scores"
            )
        if name in names:
            counts[name], totals[name] = count, units
    return counts, totals


def _unit_count(tensor: Tensor, structure: Structure) -> int:
    """Returns how many units of a structure a parameter has."""
    if structure == "unstructured":
        return tensor.numel()
    return tensor.shape[_UNIT_DIMENSION[structure]]


@dataclass(frozen=True)
class LayerCount:
    """Zeros and cost of one prunable parameter.

    Attributes:
        name: parameter name.
        shape: its shape.
        zeros: exact zeros (of either sign).
        total: entries.
        multiply_adds_dense: multiply-accumulate operations of one example, zeros included.
        multiply_adds_sparse: the same with a non-zero weight.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    total: int
    multiply_adds_dense: int
    multiply_adds_sparse: int


@dataclass(frozen=True)
class Sparsity:
    """What a network's zeros amount to, in integers, with all three denominators in use.

    Attributes:
        layers: one count a prunable parameter (conv and linear weights).
        weight_zeros: zeros in every tensor whose name ends in `weight`, norms included.
        weight_total: entries of those tensors.
        parameter_zeros: zeros in all parameters.
        parameter_total: all parameters.
        removed_units: units of the structure that are entirely zero, over eligible parameters.
        total_units: units of the structure over eligible parameters.
    """

    layers: tuple[LayerCount, ...]
    weight_zeros: int
    weight_total: int
    parameter_zeros: int
    parameter_total: int
    removed_units: int
    total_units: int

    @property
    def zeros(self) -> int:
        """Zeros over prunable parameters."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def total(self) -> int:
        """Prunable parameters."""
        return sum(layer.total for layer in self.layers)

    @property
    def sparsity(self) -> Fraction:
        """Share of prunable parameters that are exactly zero."""
        return Fraction(self.zeros, self.total)

    @property
    def multiply_adds_dense(self) -> int:
        """Multiply-adds of one example over prunable layers, zeros included."""
        return sum(layer.multiply_adds_dense for layer in self.layers)

    @property
    def multiply_adds_sparse(self) -> int:
        """Multiply-adds of one example with a non-zero weight."""
        return sum(layer.multiply_adds_sparse for layer in self.layers)


def _zeros(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Returns exact zeros (of either sign) and entries of some tensors."""
    counts = [(int((tensor == 0).sum()), tensor.numel()) for tensor in tensors]
    return sum(zeros for zeros, _ in counts), sum(total for _, total in counts)


@torch.no_grad()
def measure(
    model: nn.Module, shape: tuple[int, int, int], structure: Structure = "unstructured"
) -> Sparsity:
    """Counts zeros and multiply-adds of a network from its weights.

    Args:
        model: the network as it is evaluated; left as it was, mode and statistics included.
        shape: (C, H, W) of one input.
        structure: the unit in which removed slices are counted.
    """
    parameters = prunable_parameters(model)
    uses = _uses(model, shape)
    weights = [p for name, p in model.named_parameters() if name.split(".")[-1] == "weight"]
    chosen = [parameters[name] for name in eligible(list(parameters), structure)]
    return Sparsity(
        tuple(_count(name, p, uses.get(name, 0)) for name, p in parameters.items()),
        *_zeros(weights),
        *_zeros(model.parameters()),
        removed_units=sum(removed_units(p, structure) for p in chosen),
        total_units=sum(_unit_count(p, structure) for p in chosen),
    )


def _count(name: str, parameter: Tensor, uses: int) -> LayerCount:
    zeros, total = _zeros([parameter])
    return LayerCount(
        name=name,
        shape=tuple(parameter.shape),
        zeros=zeros,
        total=total,
        multiply_adds_dense=uses * total,
        multiply_adds_sparse=uses * (total - zeros),
    )


def _uses(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """Returns how often each entry of a prunable weight is used for one input, by name."""
    uses: dict[str, int] = {}
    hooks = []

    def count(name: str, outputs: int) -> None:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            # A filter's entries each work once for every position of its output.
            uses[name] = uses.get(name, 0) + output.numel() // outputs

        layer = model.get_submodule(name.rpartition(".")[0])
        hooks.append(layer.register_forward_hook(hook))

    for name, parameter in prunable_parameters(model).items():
        count(name, parameter.shape[0])
    first = next(model.parameters())
    try:
        with _evaluating(model):
            model(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    finally:
        for handle in hooks:
            handle.remove()
    return uses


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode and back: a pass in train mode would move batch statistics."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
