"""From a file that others made to one of our networks, or a refusal that says why not."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.architectures import ARCHITECTURES, Classifier
from benchmark.architectures.base import assemble
from benchmark.datasets import Description
from benchmark.digests import sha256_of_bytes
from benchmark.errors import ContractError, ManifestError, shorten
from benchmark.foreign.containers import open_file
from benchmark.foreign.formats import Format, Question, Scaling, format_of
from benchmark.foreign.recognition import recognise
from benchmark.foreign.states import find_state
from benchmark.pruning import STRUCTURES, Sparsity, Structure, measure

State = dict[str, Tensor]

# Names under which networks keep the scaling of their inputs.
_SCALERS = ("normalize.", "normalise.", "")
# Share of the units by which a file may differ from what is claimed of it: a tenth of a point.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Request:
    """What a file is said to be.

    Attributes:
        path: the file.
        dataset: description of what its network was trained on.
        format: key of `FORMATS`, or `auto`.
        architecture: the network that it must be; empty to find it.
        normalise: `none`, `dataset`, or `mean,…/std,…`; empty for what the format says.
        structure: what was removed as a unit.
        sparsity: claimed share of removed units, or None.
        density: share that scores keep, if it is not the claim's rest.
    """

    path: Path
    dataset: Description
    format: str = "auto"
    architecture: str = ""
    normalise: str = ""
    structure: Structure = "unstructured"
    sparsity: float | None = None
    density: float | None = None


@dataclass(frozen=True)
class Converted:
    """One of our networks, made from a file.

    Attributes:
        model: the network, in eval mode on the CPU.
        container: kind of file, in words.
        nest: key under which its weights lay, or empty.
        prefix: what stood before every name, or empty.
        format: key of `FORMATS`.
        scaled: who says how inputs are scaled, in words.
        sparsity: what was counted, by structure.
        notes: what else the reader should know.
        bytes: size of the file.
        sha256: of the file.
    """

    model: Classifier
    container: str
    nest: str
    prefix: str
    format: str
    scaled: str
    sparsity: dict[Structure, Sparsity]
    notes: tuple[str, ...]
    bytes: int
    sha256: str


def convert(request: Request) -> Converted:
    """Returns the network of a file that others made; nothing in it is run.

    Raises:
        ManifestError: not a file of weights, more than data, of no network that is known, tensors
            missing or left over, or another sparsity than claimed.
        ContractError: a normalisation that makes no sense.
        UnknownName: no such format or architecture.
        ExtraMissing: a package that reads the file is missing.
        StorageError: the disk refuses.
    """
    opened, data = open_file(request.path)
    found = find_state(opened.tree)
    stated, state = _own_scaling(found.state, request.dataset.shape[0])
    chosen = format_of(request.format, found.state)
    scaling, scaled = _scaling(request, chosen, stated)
    question = Question(request.path, request.sparsity, request.density)
    plain = chosen.rename(chosen.resolve(state, question))
    about = request.dataset
    fit = recognise(plain, chosen, about.shape, about.classes, request.architecture)
    model = _network(fit.architecture, about, scaling, fit.state)
    counted = {structure: measure(model, about.shape, structure) for structure in STRUCTURES}
    check_sparsity(counted[request.structure], request.structure, request.sparsity)
    return Converted(
        model=model,
        container=opened.kind,
        nest=found.nest,
        prefix=found.prefix,
        format=chosen.name,
        scaled=scaled,
        sparsity=counted,
        notes=fit.notes,
        bytes=len(data),
        sha256=sha256_of_bytes(data),
    )


def _own_scaling(state: dict[str, Tensor], channels: int) -> tuple[Scaling | None, State]:
    """Returns the scaling that a file holds, if it does, and the other tensors.

    Raises:
        ManifestError: a scaling of another number of channels.
    """
    for scaler in _SCALERS:
        mean, std = state.get(f"{scaler}mean"), state.get(f"{scaler}std")
        if mean is None or std is None:
            continue
        rest = {
            name.removeprefix("body.") if scaler == "normalise." else name: tensor
            for name, tensor in state.items()
            if name not in (f"{scaler}mean", f"{scaler}std")
        }
        if mean.numel() != channels or std.numel() != channels:
            raise ManifestError(
                f"expected a mean and std of {channels} channels in the file, got {mean.numel()} "
                f"and {std.numel()}; correct --dataset"
            )
        values = (tuple(map(float, t.flatten().tolist())) for t in (mean, std))
        return (next(values), next(values)), rest
    return None, state


def _scaling(request: Request, chosen: Format, stated: Scaling | None) -> tuple[Scaling, str]:
    """Returns how inputs are scaled, and who says so.

    Raises:
        ManifestError: nobody says it, or two do.
        ContractError: a text that is no normalisation.
    """
    if stated and request.normalise:
        raise ManifestError(
            "expected one word on how inputs are scaled, got the file's own mean and std and "
            "--normalise; leave --normalise out"
        )
    if stated:
        return stated, "the file"
    about = request.dataset
    if request.normalise == "dataset":
        return (about.mean, about.std), f"--normalise: mean and std of {about.name}"
    if request.normalise == "none":
        return chosen.none(about.shape[0]), "--normalise: none"
    if request.normalise:
        return _parsed(request.normalise, about.shape[0]), "--normalise"
    if chosen.name == "plain":
        raise ManifestError(
            "expected to know how the network's inputs are scaled, which this file does not say; "
            "give --normalise none, dataset or mean,…/std,…, or the --format it is of"
        )
    return chosen.scaling(about.name, about.shape[0]), f"the code of {chosen.title}"


def _parsed(text: str, channels: int) -> Scaling:
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != channels or len(std) != channels:
        raise ContractError(
            f"expected --normalise none, dataset or {channels} means/{channels} stds, got "
            f"'{shorten(text)}'; for instance 0.5,0.5,0.5/0.25,0.25,0.25"
        )
    return mean, std


def _network(name: str, about: Description, scaling: Scaling, state: State) -> Classifier:
    """Returns a network with a state dict that fits it."""
    mean, std = scaling
    model = assemble(
        ARCHITECTURES[name], shape=about.shape, classes=about.classes, mean=mean, std=std
    )
    model.body.load_state_dict(state, strict=True)
    model.eval()
    with torch.no_grad():
        logits = model(torch.full((1, *about.shape), 0.5))
    if not bool(torch.isfinite(logits).all()):
        raise ManifestError(
            f"expected finite logits of {name}, got NaN or infinity on a grey image; bring the "
            "original file"
        )
    return model


def check_sparsity(found: Sparsity, structure: Structure, claimed: float | None) -> None:
    """Checks a claimed share of removed units against the weights, to a tenth of a point.

    Raises:
        ManifestError: another share was counted.
    """
    share = found.removed_units / max(found.total_units, 1)
    if claimed is not None and abs(share - claimed) > TOLERANCE:
        raise ManifestError(
            f"expected {100 * claimed:g} % of the units ({structure}) removed, as claimed, got "
            f"{found.removed_units:,} of {found.total_units:,}, {100 * share:.3f} %; if the claim "
            f"counts otherwise, give --sparsity {share:.5f}"
        )
