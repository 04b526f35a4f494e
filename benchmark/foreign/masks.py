"""What the public codes store instead of a pruned weight, and the weight that they compute from it.

Each function takes and returns a state dict. A layer's parts stand beside its weight:
`layer.popup_scores`, `layer.mask_weight` and so on. Products are taken in the order and precision
of the public code, so that the network that comes out is the one that was published.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.errors import ManifestError, shorten

State = dict[str, Tensor]

# HARP's smallest share of a layer that is kept, in shares of the target.
HARP_FLOOR = 0.1


def layers_with(state: Mapping[str, Tensor], part: str) -> list[str]:
    """Returns the layers that have a part, as the beginnings of its names, dot included."""
    return [name[: -len(part)] for name in state if name == part or name.endswith(f".{part}")]


def _weight(state: Mapping[str, Tensor], layer: str, part: str) -> Tensor:
    weight = state.get(f"{layer}weight")
    if weight is None:
        raise ManifestError(
            f"expected '{shorten(layer)}weight' beside '{shorten(layer + part)}', found none; "
            "bring the original file"
        )
    return weight


def _masked(weight: Tensor, kept: Tensor) -> Tensor:
    # A fill, not a product: a product would leave -0.0 behind.
    return weight.masked_fill(~kept.expand(weight.shape), 0.0)


def top_share(scores: Tensor, removed: int) -> Tensor:
    """Returns a bool tensor, False at the `removed` smallest magnitudes; of equals the first."""
    magnitudes = scores.abs().flatten()
    if removed <= 0:
        return torch.ones(scores.shape, dtype=torch.bool)
    # Where the last to go is, without sorting millions.
    threshold = magnitudes.kthvalue(min(removed, len(magnitudes))).values
    below, level = magnitudes < threshold, magnitudes == threshold
    first = level & (level.cumsum(0) <= removed - int(below.sum()))
    return ~(below | first).view(scores.shape)


def from_scores(state: State, part: str, density: float) -> State:
    """Returns a network whose layers keep the share of weights with the largest scores.

    The public codes remove `int((1 - density) * n)` of n scores, in floating point; so does this.

    Args:
        state: layers with `weight` and, next to it, scores of its shape or of its first dimensions.
        part: name of the scores.
        density: share that is kept, in each layer.

    Raises:
        ManifestError: scores without a weight, or of another shape.
    """
    found = dict(state)
    for layer in layers_with(state, part):
        scores, weight = found.pop(layer + part), _weight(state, layer, part)
        if tuple(weight.shape[: scores.dim()]) != tuple(scores.shape):
            raise _misfit(layer + part, scores, weight)
        kept = top_share(scores, int((1 - density) * scores.numel()))
        view = kept.view(*kept.shape, *(1,) * (weight.dim() - kept.dim()))
        found[f"{layer}weight"] = _masked(weight, view)
    return found


def _misfit(name: str, part: Tensor, weight: Tensor) -> ManifestError:
    return ManifestError(
        f"expected '{shorten(name)}' of the weight's shape {tuple(weight.shape)}, got "
        f"{shorten(str(tuple(part.shape)))}; choose the format that the file has"
    )


def from_learned_rates(state: State, density: float) -> State:
    """Returns HARP's network, in which each layer keeps a share of its own.

    With the target k and a layer's `k_score` s, the share is sigmoid(s) (1 - k/10) + k/10. Scores
    of a weight's shape remove weights, scores of shape (1, channels) input channels.

    Args:
        state: layers with `weight`, `popup_scores` and `k_score`.
        density: the target k; 1 for a network that was not pruned yet.

    Raises:
        ManifestError: a rate without scores, or scores of another shape.
    """
    found = dict(state)
    floor = density * HARP_FLOOR
    for layer in layers_with(state, "k_score"):
        if f"{layer}popup_scores" not in state:
            raise ManifestError(
                f"expected '{shorten(layer)}popup_scores' beside its k_score, found none: HARP's "
                "dense export is cut at one rate for all layers, not at the learned ones; bring "
                "the checkpoint with its scores"
            )
        rate = found.pop(f"{layer}k_score")
        scores, weight = found.pop(f"{layer}popup_scores"), _weight(state, layer, "k_score")
        # In float32, as the public code has it: with millions of weights the last digit counts.
        share = torch.sigmoid(rate.reshape(())) * (1 - floor) + floor
        if density < 1:
            found[f"{layer}weight"] = _masked(weight, _kept_of(layer, scores, weight, share))
    return found


def _kept_of(layer: str, scores: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    if scores.shape == weight.shape:
        return top_share(scores, int((1 - share) * scores.numel()))
    channels = (1, weight.shape[1], *(1,) * (weight.dim() - 2))
    if tuple(scores.shape) != channels:
        raise _misfit(f"{layer}popup_scores", scores, weight)
    count = int(torch.round(share * weight.shape[1]))
    return top_share(scores, weight.shape[1] - count)


def from_soft_masks(state: State) -> State:
    """Returns MAD's network: weight times softplus(mask_weight), bias times softplus(mask_bias)."""
    found = dict(state)
    for part, of in (("mask_weight", "weight"), ("mask_bias", "bias")):
        for layer in layers_with(state, part):
            mask, tensor = found.pop(layer + part), state.get(layer + of)
            if tensor is None or tensor.shape != mask.shape:
                raise _misfit(layer + part, mask, mask if tensor is None else tensor)
            found[layer + of] = tensor * functional.softplus(mask)
    return found


def from_factors(state: State) -> State:
    """Returns TwinRep's network: weight times aux_weight, or aux_weight times weight, masked."""
    found = dict(state)
    for layer in layers_with(state, "aux_weight"):
        twin, weight = found.pop(f"{layer}aux_weight"), _weight(state, layer, "aux_weight")
        if twin.shape == weight.shape:
            found[f"{layer}weight"] = weight * twin
        elif twin.dim() == 2 and twin.shape[0] == twin.shape[1] == weight.shape[0]:
            found[f"{layer}weight"] = torch.einsum("pq,q...->p...", twin, weight)
        else:
            raise _misfit(f"{layer}aux_weight", twin, weight)
    return found


def from_masks(state: State) -> State:
    """Returns a network whose weights lie beside binary masks: `mask`, or torch's `weight_mask`.

    Raises:
        ManifestError: a mask of another shape, or with other values than 0 and 1.
    """
    found = dict(state)
    for layer in layers_with(state, "weight_mask"):
        found[f"{layer}mask"] = found.pop(f"{layer}weight_mask")
        found[f"{layer}weight"] = found.pop(f"{layer}weight_orig", torch.empty(0))
    for layer in layers_with(found, "mask"):
        mask, weight = found.pop(f"{layer}mask"), _weight(found, layer, "mask")
        if mask.shape != weight.shape:
            raise _misfit(f"{layer}mask", mask, weight)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ManifestError(
                f"expected 0 and 1 in '{shorten(layer)}mask', got other values; bring the original "
                "file"
            )
        found[f"{layer}weight"] = _masked(weight, mask != 0)
    return found


def from_composition(state: State) -> State:
    """Returns ATMC's network: (B + I) A + C or, where A is square, B (A + I) + C.

    Raises:
        ManifestError: a factor is missing, or does not fit.
    """
    found = dict(state)
    for layer in layers_with(state, "weightA"):
        parts = [found.pop(layer + part, None) for part in ("weightA", "weightB", "weightC")]
        found.pop(f"{layer}eye_const", None)
        found[f"{layer}weight"] = _composed(layer, parts)
    return found


def _composed(layer: str, parts: list[Tensor | None]) -> Tensor:
    first, second, third = parts
    if first is None or second is None or third is None:
        raise ManifestError(
            f"expected weightA, weightB and weightC in '{shorten(layer)}', found not all; bring "
            "the original file"
        )
    a, b = first.flatten(1), second.flatten(1)
    outputs, inputs = third.flatten(1).shape
    rank = a.shape[0]
    if a.shape != (rank, inputs) or b.shape != (outputs, rank) or rank not in (inputs, outputs):
        raise _misfit(f"{layer}weightA", first, third)
    identity = torch.eye(rank)
    # The public code looks at the inputs first.
    product = b @ (a + identity) if rank == inputs else (b + identity) @ a
    return product.view(third.shape) + third


def without_copies(state: State) -> State:
    """Returns Li20's network, whose modules have two names each, once.

    Raises:
        ManifestError: the two differ.
    """
    pairs = (("model.0.", "feature."), ("model.3.", "classifier."))
    found = dict(state)
    for copy, original in pairs:
        for name in [key for key in state if key.startswith(copy)]:
            twin = original + name[len(copy) :]
            if twin in state and not torch.equal(state[name], state[twin]):
                raise ManifestError(
                    f"expected '{shorten(name)}' to equal '{shorten(twin)}', got two networks; "
                    "bring the original file"
                )
            found[twin] = found.pop(name)
    return found


# `k0.1`, `k_0.05` or `k=0.01` in a file's or folder's name.
_DENSITY = re.compile(r"(?:^|[^a-z0-9])k[_=-]?(0?\.\d+)(?!\d)", re.IGNORECASE)


def density_in(path: Path) -> float | None:
    """Returns the share of kept weights that a path's last names state, if they state one.

    >>> density_in(Path("trained/vgg16_bn_k_0.05/model_best.pth.tar"))
    0.05
    """
    stated = {float(found) for name in path.parts[-3:] for found in _DENSITY.findall(name)}
    return stated.pop() if len(stated) == 1 else None
