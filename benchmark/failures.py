"""Failures: networks that could not be trained, and why; a small JSON file each.

A cell of a board is empty because nobody has been there, because a method cannot do it, or because
it was tried and failed. Only the last leaves nothing behind that could be looked at, so it is
written down, and goes away once the network is made.
"""

import json
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from benchmark.errors import ManifestError, RecordError, StorageError, shorten
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import Checkpoint, CheckpointId, Digest, Line, Strict, explain, slug
from benchmark.migrations import migrate, parse

LARGEST_FAILURE = 64 << 10

# As the manifest's, whose parts are no groups.
_SEGMENT = r"([a-z0-9][a-z0-9._:=-]{0,63})"
_ID = re.compile(
    "/".join([_SEGMENT] * 4 + [r"([a-z]+)-([0-9]{1,3}(?:\.[0-9]+)?)/seed([0-9]{1,9})"])
)


class Network(NamedTuple):
    """What an id says.

    Attributes:
        method: registered name, with the settings that differ from its defaults.
        dataset: data set id.
        architecture: architecture id.
        objective: training loss of all stages.
        structure: what was to be removed as a unit.
        sparsity: share of units that were to be removed, in [0, 1].
        seed: of training.
    """

    method: str
    dataset: str
    architecture: str
    objective: str
    structure: str
    sparsity: Fraction
    seed: int


def network_of(checkpoint_id: str) -> Network:
    """Returns what the id of a checkpoint says.

    Raises:
        ValueError: no such id.
    """
    match = _ID.fullmatch(checkpoint_id)
    if match is None or Fraction(match[6]) > 100:
        raise ValueError(
            "expected checkpoint_id method/dataset/architecture/objective/structure-percent/"
            f"seed<n>, got '{shorten(checkpoint_id)}'"
        )
    method, dataset, architecture, objective, structure, percent, seed = match.groups()
    share = Fraction(percent) / 100
    return Network(method, dataset, architecture, objective, structure, share, int(seed))


class Failure(Strict):
    """One network that could not be trained.

    Attributes:
        schema_version: of this format.
        checkpoint_id: id that it would have had in the manifest.
        recipe: id of the training recipe.
        recipe_digest: its digest; a failure of another text of the recipe says nothing.
        error: what stopped it, in one line.
        environment: versions and device.
    """

    schema_version: Literal[1] = 1
    checkpoint_id: CheckpointId
    recipe: Line = Field(min_length=1)
    recipe_digest: Digest
    error: Line = Field(min_length=1)
    environment: dict[Line, Line]

    @model_validator(mode="after")
    def _id_is_one(self) -> Self:
        network_of(self.checkpoint_id)
        return self

    @property
    def network(self) -> Network:
        """What was to be made."""
        return network_of(self.checkpoint_id)


def path_of(folder: Path, checkpoint_id: str) -> Path:
    """Returns where the failure of a network lies, given the folder of all failures."""
    return folder / f"{slug(checkpoint_id)}.json"


def write(folder: Path, failure: Failure) -> Path:
    """Writes a failure, in place of an earlier one of the same network; returns its path.

    Raises:
        StorageError: the disk refuses.
    """
    path = path_of(folder, failure.checkpoint_id)
    text = json.dumps(failure.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def forget(folder: Path, checkpoint_id: str) -> None:
    """Removes the failure of a network, if there is one.

    Raises:
        StorageError: the disk refuses.
    """
    path = path_of(folder, checkpoint_id)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        shown = shorten(str(path), 400)
        raise StorageError(
            f"expected to remove {shown}, got '{error.strerror}'; check its folder's permissions"
        ) from error


def read_all(folder: Path) -> list[Failure]:
    """Returns all failures, in order of id.

    Raises:
        RecordError: one is damaged, or in another's place.
    """
    found = [failure for path in folder.glob("*.json") if (failure := _read(path))]
    return sorted(found, key=lambda failure: failure.checkpoint_id)


def standing(
    failures: Iterable[Failure], digests: dict[str, str], made: Iterable[Checkpoint]
) -> list[Failure]:
    """Returns the failures that still say something.

    Args:
        failures: any.
        digests: of the recipes as they are now, by id.
        made: checkpoints that there are.
    """
    there = {(entry.id, entry.recipe_digest) for entry in made}
    current = [one for one in failures if digests.get(one.recipe) == one.recipe_digest]
    return [one for one in current if (one.checkpoint_id, one.recipe_digest) not in there]


def _read(path: Path) -> Failure | None:
    """Returns the failure in a file; None where it was removed since it was listed."""
    shown = shorten(str(path), 400)
    if path.is_symlink():
        raise RecordError(f"expected a file {shown}, got a link; remove it")
    try:
        data = parse("failure", read_bounded(path, LARGEST_FAILURE), shown)
        failure = Failure.model_validate_json(json.dumps(migrate("failure", data)))
    except FileNotFoundError:
        return None
    except (ManifestError, RecordError, StorageError) as error:
        raise RecordError(f"{shorten(str(error), 400)}; remove {shown}") from error
    except ValidationError as error:
        raise RecordError(
            f"expected a failure in {shown}, got {explain(error)}; remove it"
        ) from error
    if path.name != path_of(path.parent, failure.checkpoint_id).name:
        raise RecordError(
            f"expected the failure of {failure.checkpoint_id} under its own name, got it in "
            f"{shown}; remove it"
        )
    return failure
