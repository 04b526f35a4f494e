"""The manifest of checkpoints: read, validate, write; and from an entry to the network it names.

Everything in a manifest or a weights file is foreign until proven: sizes are bounded, paths stay
inside the project, hashes match, tensors fit strictly, and the claimed zeros are counted.
"""

import json
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from benchmark import weights
from benchmark.architectures import ARCHITECTURES, Classifier, build, described
from benchmark.datasets import describe
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.errors import (
    ContractError,
    ManifestError,
    StorageError,
    UnknownName,
    lookup,
    shorten,
)
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.migrations import migrate, parse
from benchmark.pruning import Structure, as_sparsity, measure

LARGEST_MANIFEST = 64 << 20
LARGEST_WEIGHTS = 2 << 30

# A method may carry settings, as in `atmc:bits=8`.
_SEGMENT = r"[a-z0-9][a-z0-9._:=-]{0,63}"
_ID = re.compile(
    rf"({_SEGMENT})/({_SEGMENT})/({_SEGMENT})/({_SEGMENT})/([a-z]+)-([0-9.]+)/seed(\d{{1,9}})"
)
# One line of text: no control characters, line separators or marks that reorder what is shown.
Line = Annotated[
    str,
    Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"),
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Nested, since a bound in the field's own default would give way to that of the line.
Address = Annotated[str, Field(pattern=r"^(https://[!-~]{1,390})?$")]
CheckpointId = Annotated[Line, Field(max_length=200)]


class Strict(BaseModel):
    """Base of everything read from disk: frozen, no unknown fields, no coerced types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Budget(Strict):
    """What training cost.

    Attributes:
        pretrain_epochs: epochs of dense training, shared by all methods of a cell.
        prune_epochs: epochs the method spent on finding its mask.
        finetune_epochs: epochs on the surviving weights.
        attack_steps: most gradient steps of an inner attack that a batch of prune or finetune cost.
        hours: wall-clock hours of prune and finetune, rounded up to a hundredth.
        device: what they ran on.
    """

    pretrain_epochs: int = Field(ge=0, lt=2**31)
    prune_epochs: int = Field(ge=0, lt=2**31)
    finetune_epochs: int = Field(ge=0, lt=2**31)
    attack_steps: int = Field(ge=0, lt=2**31)
    hours: float = Field(ge=0, allow_inf_nan=False)
    device: Line


class Checkpoint(Strict):
    """One entry of the manifest.

    Attributes:
        id: `method/dataset/architecture/objective/structure-percent/seed<n>`.
        display_name: for tables.
        method: registered name, with the settings that differ from its defaults.
        dataset: data set id.
        architecture: architecture id.
        objective: training loss of all stages.
        structure: what was removed as a unit.
        sparsity: claimed share of eligible units removed, in [0, 1].
        seed: of training.
        zeros: claimed zeros among prunable parameters.
        prunable: claimed prunable parameters.
        authors: of the method.
        paper: reference of the method, or empty.
        code: address of the method's public code, or empty.
        licence: of the weights.
        extra_data: training data beyond the data set's own, or empty.
        recipe: id of the training recipe.
        recipe_digest: its digest, so that rows trained under another version are told apart.
        budget: what training cost.
        file: weights, relative to the project.
        url: https address where the file can be had if it is not shipped, or empty.
        mirrors: further such addresses, the preferred one first.
        format: always `robustprune-safetensors-1`.
        bytes: size of the file.
        sha256: of the file.
    """

    id: CheckpointId
    display_name: Line = Field(min_length=1)
    method: str
    dataset: str
    architecture: str
    objective: str
    structure: Structure
    sparsity: float = Field(ge=0, le=1, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=10**9)
    zeros: int = Field(ge=0, lt=2**63)
    prunable: int = Field(ge=1, lt=2**63)
    authors: tuple[Line, ...] = Field(max_length=100, strict=False)
    paper: Line
    code: Line
    licence: Line
    extra_data: Line
    recipe: Line
    recipe_digest: Digest
    budget: Budget
    file: Line = Field(min_length=1)
    url: Address = ""
    mirrors: tuple[Annotated[Address, Field(min_length=1)], ...] = Field(
        default=(), max_length=20, strict=False
    )
    format: Literal["robustprune-safetensors-1"] = "robustprune-safetensors-1"
    bytes: int = Field(ge=1, le=LARGEST_WEIGHTS)
    sha256: Digest

    @property
    def sources(self) -> tuple[str, ...]:
        """Addresses of the file, the preferred one first; empty where it has none."""
        return tuple(dict.fromkeys([*([self.url] if self.url else []), *self.mirrors]))

    @model_validator(mode="after")
    def _id_agrees(self) -> Self:
        match = _ID.fullmatch(self.id)
        if match is None:
            raise ValueError(
                "expected id method/dataset/architecture/objective/structure-percent/seed<n>, "
                f"got '{shorten(self.id)}'"
            )
        if self.id != checkpoint_id(self):
            raise ValueError(f"expected id {checkpoint_id(self)} from the fields, got {self.id}")
        return self


def checkpoint_id(entry: Checkpoint) -> str:
    """Returns the id that an entry's fields spell; the percentage has every digit of the claim."""
    share = as_sparsity(entry.sparsity)
    percent = f"{Decimal(100 * share.numerator) / Decimal(share.denominator):f}"
    return (
        f"{entry.method}/{entry.dataset}/{entry.architecture}/{entry.objective}/"
        f"{entry.structure}-{percent}/seed{entry.seed}"
    )


def weights_path(entry: Checkpoint) -> str:
    """Returns where the weights of a checkpoint lie in a project and in a bundle."""
    return f"checkpoints/{entry.dataset}/{slug(entry.id)}.safetensors"


def entry_from(**fields: object) -> Checkpoint:
    """Returns an entry whose id, and where its weights lie, follow from its other fields.

    Raises:
        ManifestError: values that no entry may have.
    """
    draft = Checkpoint.model_construct(**fields)  # type: ignore[arg-type]
    named = draft.model_copy(update={"id": checkpoint_id(draft)})
    try:
        # Validated again from plain data: what is written is what a reader will accept.
        return Checkpoint.model_validate(
            {
                **named.model_dump(exclude_unset=True, warnings=False),
                "file": weights_path(named),
            }
        )
    except ValidationError as error:
        raise ManifestError(
            f"expected words that an entry may have, got {explain(error)}; correct them"
        ) from error


class Manifest(Strict):
    """All checkpoints of a project, by id.

    Attributes:
        schema_version: of this format.
        checkpoints: entries in order of id.
    """

    schema_version: Literal[2] = 2
    checkpoints: tuple[Checkpoint, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        seen: set[str] = set()
        for entry in self.checkpoints:
            if entry.id in seen:
                raise ValueError(f"expected unique ids, got {entry.id} twice")
            seen.add(entry.id)
        return self

    def find(self, checkpoint: str) -> Checkpoint:
        """Returns the entry with an id.

        Raises:
            UnknownName: no such entry; near matches are named.
        """
        return lookup("checkpoint", checkpoint, {entry.id: entry for entry in self.checkpoints})

    def with_entry(self, entry: Checkpoint) -> "Manifest":
        """Returns the manifest with an entry added or replaced, in order of id."""
        entries = {known.id: known for known in self.checkpoints} | {entry.id: entry}
        return Manifest(checkpoints=tuple(entries[name] for name in sorted(entries)))


def explain(error: ValidationError) -> str:
    """Returns the first problem of a validation error as part of a line."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = shorten(problem["msg"].removeprefix("Value error, "), 300)
    return f"{shorten(place, 100)}: {message}" if place else message


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest in a file; an absent file is an empty manifest.

    Raises:
        ManifestError: too large, not JSON, or an entry that breaks the format; the message names
            the place.
        StorageError: it cannot be read.
    """
    if not path.exists():
        return Manifest()
    data = read_bounded(path, LARGEST_MANIFEST)
    try:
        return Manifest.model_validate_json(
            json.dumps(migrate("manifest", parse("manifest", data)))
        )
    except ValidationError as error:
        raise ManifestError(
            f"expected a valid manifest in {shorten(str(path), 400)}, got {explain(error)}; "
            "mend that entry"
        ) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest atomically, one field a line, so that changes read well in review.

    Raises:
        StorageError: the disk refuses; the old manifest is whole.
    """
    write_atomically(path, encode(manifest))


def encode(manifest: Manifest) -> bytes:
    """Returns a manifest as the bytes of its file; equal manifests give equal bytes."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def slug(checkpoint_id: str) -> str:
    """Returns the file name stem of a checkpoint's record; different ids never share one.

    >>> slug("dense/digits/cnn-tiny")
    'dense__digits__cnn-tiny'
    """
    stem = checkpoint_id
    for character, spelled in (("_", "_u"), ("/", "__"), (":", "_c"), ("=", "_e")):
        stem = stem.replace(character, spelled)
    # File systems end names at 255 bytes, suffixes and temporary marks included.
    return stem if len(stem) <= 200 else f"{stem[:160]}_d{digest_of(checkpoint_id)[:32]}"


def kept_weights(entry: Checkpoint, root: Path) -> Path:
    """Returns where weights lie that were brought from elsewhere; named by their content."""
    return root / ".cache" / "weights" / entry.sha256


def weights_file(entry: Checkpoint, root: Path) -> Path | None:
    """Returns the file that holds a checkpoint's weights, unread: its own, or what was brought.

    Raises:
        ManifestError: the entry names a file outside the project.
    """
    places = (inside(root, entry.file), kept_weights(entry, root))
    return next((path for path in places if path.is_file()), None)


def verified_weights(entry: Checkpoint, path: Path) -> bytes:
    """Returns the bytes of a file once they are known to be a checkpoint's weights.

    The file is read once: what is hashed here is what its user decodes.

    Raises:
        ManifestError: another size or hash.
        StorageError: it cannot be read.
        FileNotFoundError: it is gone.
    """
    data = read_bounded(path, entry.bytes)
    found = sha256_of_bytes(data)
    if len(data) != entry.bytes or found != entry.sha256:
        raise ManifestError(
            f"expected {entry.bytes} bytes with sha256 {entry.sha256[:12]}… in "
            f"{shorten(str(path), 400)}, got {len(data)} with {found[:12]}…; restore the original "
            "file"
        )
    return data


def read_weights(entry: Checkpoint, root: Path) -> dict[str, Tensor]:
    """Returns the verified state dict of a checkpoint.

    Raises:
        ManifestError: the file is missing, of another size or hash, or not of the format.
    """
    return weights.decode(_found(entry, root))


def _found(entry: Checkpoint, root: Path) -> bytes:
    """Returns the bytes of a checkpoint's file, once they are those that the entry names."""
    path = weights_file(entry, root) or inside(root, entry.file)
    try:
        data = verified_weights(entry, path)
    except (FileNotFoundError, StorageError) as error:
        source = "remake it: `robustprune compress`"
        if entry.sources:
            source = f"`robustprune fetch` gets it from {shorten(entry.sources[0], 200)}"
        raise ManifestError(
            f"expected weights of {entry.id} in {shorten(str(path), 400)}, found no such file; "
            f"{source}"
        ) from error
    return data


def empty_network(architecture: str, dataset: str, description: object = None) -> Classifier:
    """Returns an architecture for a data set, untrained.

    Args:
        architecture: id.
        dataset: data set id.
        description: JSON data that a weights file holds, for a described architecture; else None.

    Raises:
        UnknownName: an architecture or data set that nothing here knows.
        ContractError: an architecture that is not defined for the data set's shape, or a
            description that is none, or of another network than the id says.
    """
    if described.is_described(architecture):
        return _described_network(architecture, dataset, description)
    lookup("architecture", architecture, ARCHITECTURES)
    about = describe(dataset, None)
    if description is not None:
        raise ContractError(
            f"expected weights of {architecture} without a description, got one; correct the "
            "architecture or the file"
        )
    return build(
        architecture,
        shape=about.shape,
        classes=about.classes,
        mean=about.mean,
        std=about.std,
    )


def _described_network(architecture: str, dataset: str, description: object) -> Classifier:
    about = describe(dataset, None)
    network = described.parse(description)
    if network.architecture != architecture:
        raise ContractError(
            f"expected the description of {shorten(architecture)}, got that of "
            f"{network.architecture}; restore the original file"
        )
    if (network.shape, network.classes) != (about.shape, about.classes):
        raise ContractError(
            f"expected a network for inputs {about.shape} and {about.classes} classes of "
            f"{dataset}, got {network.shape} and {network.classes}; correct the data set"
        )
    return described.build(network, mean=about.mean, std=about.std)


def is_whole(entry: Checkpoint, root: Path) -> bool:
    """Returns whether a checkpoint's weights are at hand and those of its entry."""
    try:
        read_weights(entry, root)
    except ManifestError:
        return False
    return True


def find_description(manifest: Manifest, root: Path, architecture: str) -> object:
    """Returns the description of an architecture as JSON data; None where it needs none.

    Args:
        manifest: whose checkpoints are asked.
        root: project folder.
        architecture: id.

    Raises:
        UnknownName: a described architecture that no checkpoint has.
        ManifestError: its weights cannot be read.
    """
    if not described.is_described(architecture):
        return None
    for entry in manifest.checkpoints:
        if entry.architecture == architecture:
            return weights.description_of(_found(entry, root))
    raise UnknownName(
        f"unknown architecture '{shorten(architecture)}'; no checkpoint of this project has it, so "
        "import one first: `robustprune import --trust`"
    )


def load_model(entry: Checkpoint, root: Path) -> Classifier:
    """Returns the network of a checkpoint: inputs in [0, 1], logits out, eval mode, on the CPU.

    Raises:
        ManifestError: any promise of the entry that the file does not keep (see `read_weights`):
            strict names, shapes and dtypes, finite values, and the claimed number of zeros.
        UnknownName: an architecture or data set that nothing here knows.
    """
    data = _found(entry, root)
    state = weights.decode(data)
    model = _network_of(entry, weights.description_of(data))
    _check_shapes(entry, model.state_dict(), state)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ManifestError(
                f"expected finite weights of {entry.id}, got NaN or infinity in {name}; "
                "train it again"
            )
    model.load_state_dict(state, strict=True)
    if not bool((model.normalise.std > 0).all()):
        # Bounds map the input box through the normalisation, which must not turn it around.
        raise ManifestError(
            f"expected a positive normalise.std in {entry.id}, got {model.normalise.std.min():g}; "
            "fold signs into the first layer"
        )
    check_claim(entry, model)
    return model.eval()


def _network_of(entry: Checkpoint, description: object) -> Classifier:
    """Returns the untrained network of a checkpoint; what its file says of it may be anything."""
    try:
        return empty_network(entry.architecture, entry.dataset, description)
    except (ContractError, UnknownName) as error:
        if description is None and not described.is_described(entry.architecture):
            raise
        raise ManifestError(f"weights of {entry.id}: {error}") from error


def _check_shapes(entry: Checkpoint, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    if odd := sorted(expected.keys() ^ state.keys()):
        where = "missing" if odd[0] in expected else "left over"
        raise ManifestError(
            f"expected the tensors of {entry.architecture} in {entry.id}, got {len(odd)} that "
            f"do not match; '{shorten(odd[0])}' is {where}; correct the architecture or the file"
        )
    for name, tensor in state.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ManifestError(
                f"expected {name} of {entry.id} as {tuple(wanted.shape)} {wanted.dtype}, got "
                f"{shorten(str(tuple(tensor.shape)))} {tensor.dtype}; the architecture does not fit"
            )


def check_claim(entry: Checkpoint, model: Classifier) -> None:
    """Checks the claimed sparsity against the weights, to the last zero.

    The integer counts must match exactly. The claimed share must match what was removed: whole
    units of the structure, up to the rounding of half a unit a layer of layerwise selection.

    Raises:
        ManifestError: a claim that the weights do not keep.
    """
    found = measure(model, model.shape, entry.structure)
    if (found.zeros, found.total) != (entry.zeros, entry.prunable):
        raise ManifestError(
            f"expected {entry.zeros} zeros of {entry.prunable} prunable parameters in {entry.id}, "
            f"got {found.zeros} of {found.total}; correct the claim or the weights"
        )
    claimed = as_sparsity(entry.sparsity) * found.total_units
    if abs(found.removed_units - claimed) > Fraction(len(found.layers), 2):
        raise ManifestError(
            f"expected {float(claimed):g} of {found.total_units} units ({entry.structure}) removed "
            f"in {entry.id}, as its sparsity {entry.sparsity} says, got {found.removed_units}; "
            "correct the claim or the weights"
        )
