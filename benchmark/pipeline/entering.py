"""From a network that others trained to an entry of the manifest, which says only what is known."""

from dataclasses import dataclass
from fractions import Fraction

from benchmark import failures
from benchmark.architectures import Classifier
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.errors import ManifestError, lookup, shorten
from benchmark.files import alone, inside, write_atomically
from benchmark.manifest import (
    Budget,
    Checkpoint,
    check_claim,
    entry_from,
    is_whole,
    weights_path,
    write_manifest,
)
from benchmark.objectives import OBJECTIVES
from benchmark.pipeline.project import Project
from benchmark.pruning import Sparsity, Structure, as_sparsity, measure

NOT_STATED = "not stated"

_NOTHING_KNOWN = Budget(
    pretrain_epochs=0,
    prune_epochs=0,
    finetune_epochs=0,
    attack_steps=0,
    hours=0.0,
    device=NOT_STATED,
)


@dataclass(frozen=True)
class Said:
    """What is said of a checkpoint that its weights do not show.

    Attributes:
        method: name, as it stands in the id.
        objective: training loss.
        seed: of training.
        source: whose training it was; checkpoints of one source count as trained alike.
        display_name: for tables.
        authors: of the method.
        paper: of the method.
        code: address of the method's code.
        licence: of the weights.
        extra_data: training data beyond the data set's own.
    """

    method: str
    objective: str = "adversarial"
    seed: int = 0
    source: str = ""
    display_name: str = ""
    authors: tuple[str, ...] = ()
    paper: str = ""
    code: str = ""
    licence: str = NOT_STATED
    extra_data: str = NOT_STATED


@dataclass(frozen=True)
class Network:
    """A network that others trained.

    Attributes:
        model: the network, its weights loaded.
        dataset: that it classifies.
        structure: what was removed as a unit.
        weights: its file, encoded.
    """

    model: Classifier
    dataset: str
    structure: Structure
    weights: bytes


def entry_of(network: Network, said: Said, claimed: float | None) -> Checkpoint:
    """Returns the entry of a network, its zeros counted and the claim checked against them.

    Args:
        network: what others trained.
        said: of it.
        claimed: share of units removed; None for what is counted.

    Raises:
        ManifestError: a claim that the weights do not keep, or words that no entry may have.
        UnknownName: no such objective.
    """
    lookup("objective", said.objective, OBJECTIVES)
    model = network.model
    found = measure(model, model.shape, network.structure)
    source = said.source or said.method
    entry = entry_from(
        display_name=said.display_name or said.method,
        method=said.method,
        dataset=network.dataset,
        architecture=model.architecture,
        objective=said.objective,
        structure=network.structure,
        sparsity=claim_of(found, None) if claimed is None else claimed,
        seed=said.seed,
        zeros=found.zeros,
        prunable=found.total,
        authors=said.authors,
        paper=said.paper,
        code=said.code,
        licence=said.licence,
        extra_data=said.extra_data,
        # A name that no recipe here has: others trained it, and nobody here knows how.
        recipe=f"published {source}",
        recipe_digest=digest_of({"recipe": "published", "source": source}),
        budget=_NOTHING_KNOWN,
        bytes=len(network.weights),
        sha256=sha256_of_bytes(network.weights),
    )
    check_claim(entry, model)
    return entry


def claim_of(found: Sparsity, claimed: float | None) -> float:
    """Returns the sparsity that an entry claims: the one that was said, or the counted one.

    A claim may round by half a unit a layer (`manifest.check_claim`). Public codes cut off
    fractions in each layer and leave out some layers, so that what they call 90 % may be farther
    off; then the counted share is claimed, with as few digits as say it.
    """
    share = found.removed_units / max(found.total_units, 1)
    rounded = [round(share, digits) for digits in range(2, 16)]
    for claim in (*([] if claimed is None else [claimed]), *rounded):
        off = abs(found.removed_units - as_sparsity(claim) * found.total_units)
        if off <= Fraction(len(found.layers), 2):
            return claim
    return share


def enter(project: Project, entry: Checkpoint, data: bytes, renew: bool = False) -> bool:
    """Enters a checkpoint and its weights into a project; returns whether anything was added.

    Weights that the project's own entry names and that are missing or damaged are put back.

    Args:
        project: takes them.
        entry: whose weights lie where the project has them (`manifest.weights_path`).
        data: the file of weights.
        renew: an entry by an older text of the same recipe gives way.

    Raises:
        ManifestError: the id is taken by other weights, or the file is to lie elsewhere.
        StorageError: the disk refuses; the manifest is as it was.
    """
    if entry.file != weights_path(entry):
        raise ManifestError(
            f"expected the weights of {entry.id} as {weights_path(entry)}, got "
            f"{shorten(entry.file, 200)}; move them there"
        )
    with alone(project.manifest_lock):
        manifest = project.manifest()
        for known in manifest.checkpoints:
            if known.id != entry.id:
                continue
            if known.sha256 == entry.sha256:
                if is_whole(known, project.root):
                    return False
                write_atomically(inside(project.root, known.file), data)
                return True
            if renew and _is_older(known, entry):
                break
            raise ManifestError(
                f"expected an id that is free, got {entry.id}, which has other weights "
                f"({known.sha256[:12]}…); give another --seed or --method"
            )
        write_atomically(inside(project.root, entry.file), data)
        failures.forget(project.failures, entry.id)
        write_manifest(project.manifest_path, manifest.with_entry(entry))
    return True


def _is_older(known: Checkpoint, entry: Checkpoint) -> bool:
    return known.recipe == entry.recipe and known.recipe_digest != entry.recipe_digest
