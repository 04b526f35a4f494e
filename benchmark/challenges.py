"""Challenges: adversarial inputs that anyone found for a checkpoint, with credit to who found them.

A challenge is a small JSON file beside an archive of arrays: `index` (N,) int64, positions in the
test split, and `inputs` (N, C, H, W), uint8 (the value v stands for v / 255) or float32 in [0, 1].
Both are foreign until proven. Here their form and their digests are checked; whether the inputs
fool the network takes the network, the data and a forward pass.
"""

import json
from collections.abc import Mapping
from datetime import date
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.errors import ManifestError, RecordError, StorageError, shorten
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.manifest import Checkpoint, CheckpointId, Digest, Line, Strict, explain, slug
from benchmark.outcomes import LARGEST_OUTCOMES, Array, encode_arrays, read_arrays
from benchmark.protocols import Protocol
from benchmark.threat import Norm

LARGEST_CHALLENGE = 4 << 20
MOST_EXAMPLES = 100_000

# Digits of the archive's hash that name a challenge's files.
_NAMED_BY = 16


def _lowest_terms(epsilon: str) -> str:
    if str(Fraction(epsilon)) != epsilon:
        raise ValueError(f"expected a fraction in lowest terms, {Fraction(epsilon)}, got {epsilon}")
    return epsilon


# Nested, since a bound in the field's own default would give way to that of the line.
# An exact fraction above 0 as it prints: 8/255, never 0.0314.
Epsilon = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,17}(/[1-9][0-9]{0,17})?$"),
    AfterValidator(_lowest_terms),
]
# Printable, without spaces: it becomes a link.
Address = Annotated[str, Field(pattern=r"^(https://[!-~]{1,390})?$")]


class Challenge(Strict):
    """Adversarial inputs against one checkpoint under one protocol, and who found them how.

    Attributes:
        schema_version: of this format.
        checkpoint_id: id in the manifest.
        checkpoint_sha256: of the weights that were attacked.
        protocol: id.
        protocol_digest: its digest.
        norm: `Linf` or `L2`, of the flattened difference.
        epsilon: largest distance to the original, in [0, 1] pixel units; an exact fraction in
            lowest terms such as `8/255`.
        credit: who found the inputs, as shown beside the result.
        contact: how to reach them, or empty.
        url: https address of a paper, code or person, or empty.
        attack: what found them, in one line.
        date: when, as yyyy-mm-dd.
        examples: positions in the test split, in rising order, one for each input.
        file: name of the archive beside this file: the first 16 digits of its hash, and `.npz`.
        bytes: size of the archive.
        sha256: of the archive.
        content_digest: of all of the above.
    """

    schema_version: Literal[1] = 1
    checkpoint_id: CheckpointId
    checkpoint_sha256: Digest
    protocol: Line = Field(min_length=1)
    protocol_digest: Digest
    norm: Norm
    epsilon: Epsilon
    credit: Line = Field(min_length=1)
    contact: Line = ""
    url: Address = ""
    attack: Line = Field(min_length=1)
    date: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    examples: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        strict=False, min_length=1, max_length=MOST_EXAMPLES
    )
    file: str = Field(pattern=r"^[0-9a-f]{16}\.npz$")
    bytes: int = Field(ge=1, le=LARGEST_OUTCOMES)
    sha256: Digest
    content_digest: Digest

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        date.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if any(first >= second for first, second in pairwise(self.examples)):
            raise ValueError("expected examples in rising order, each once, got others")
        if self.file != f"{self.sha256[:_NAMED_BY]}.npz":
            raise ValueError(f"expected file {self.sha256[:_NAMED_BY]}.npz, got {self.file}")
        return self


def content_digest(challenge: Challenge) -> str:
    """Returns the digest of all that a challenge says but the digest itself."""
    return digest_of(challenge.model_dump(mode="json", exclude={"content_digest"}))


def challenge_of(arrays: Mapping[str, Array], **said: object) -> Challenge:
    """Returns the challenge that arrays make, with what is said of them.

    Args:
        arrays: `index` and `inputs`, see the head of this module.
        **said: the fields of `Challenge` that the arrays do not decide.

    Raises:
        RecordError: arrays of another kind, or a field that breaks the format.
    """
    _check_arrays(arrays)
    data = encode_arrays(arrays)
    sha256 = sha256_of_bytes(data)
    decided = {
        "examples": tuple(arrays["index"].tolist()),
        "file": f"{sha256[:_NAMED_BY]}.npz",
        "bytes": len(data),
        "sha256": sha256,
    }
    try:
        draft = Challenge.model_validate({**said, **decided, "content_digest": "0" * 64})
    except ValidationError as error:
        raise RecordError(
            f"expected a valid challenge, got {explain(error)}; correct that field"
        ) from error
    return draft.model_copy(update={"content_digest": content_digest(draft)})


def path_of(folder: Path, protocol_id: str, checkpoint_id: str, digest: str) -> Path:
    """Returns where a challenge lies.

    Args:
        folder: of all challenges.
        protocol_id: what it was made under.
        checkpoint_id: what it is about.
        digest: SHA-256 of its archive.

    Raises:
        ManifestError: names that lead out of the folder.
    """
    return inside(folder, f"{protocol_id}/{slug(checkpoint_id)}/{digest[:_NAMED_BY]}.json")


def write(folder: Path, challenge: Challenge, arrays: Mapping[str, Array]) -> Path:
    """Writes a challenge's archive, then the file that names its hash; returns the latter's path.

    A kill between the two leaves an archive that nothing names.

    Raises:
        RecordError: the challenge is not of these arrays, or they were handed in before: credit
            stays with who came first.
        StorageError: the disk refuses.
    """
    data = encode_arrays(arrays)
    said = {name: getattr(challenge, name) for name in Challenge.model_fields}
    if challenge != challenge_of(arrays, **said):
        raise RecordError(
            "expected a challenge of the arrays beside it, got one of others; make it with "
            "challenge_of"
        )
    path = path_of(folder, challenge.protocol, challenge.checkpoint_id, challenge.sha256)
    if path.exists() and (known := _read(path)) != challenge:
        raise RecordError(
            f"expected new adversarial inputs, got those that {known.credit} handed in on "
            f"{known.date}; nothing was changed"
        )
    write_atomically(path.with_suffix(".npz"), data)
    text = json.dumps(challenge.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def read_all(folder: Path, protocol_id: str, checkpoint_id: str) -> list[tuple[Challenge, Path]]:
    """Returns the challenges against a checkpoint with their paths, oldest first.

    Whether they still speak of the checkpoint as it is now, `stale` says.

    Raises:
        RecordError: one is damaged, altered or in another's place; the message says what differs.
    """
    place = path_of(folder, protocol_id, checkpoint_id, "0" * 64).parent
    found = []
    for path in sorted(place.glob("*.json")):
        if path.is_symlink():
            raise RecordError(f"expected a file {_shown(path)}, got a link; remove it")
        challenge = _read(path)
        said = (challenge.checkpoint_id, challenge.protocol)
        own = path_of(folder, protocol_id, checkpoint_id, challenge.sha256)
        if said != (checkpoint_id, protocol_id) or path != own:
            raise RecordError(
                f"expected {own.name} to {checkpoint_id} under {protocol_id} in {_shown(path)}, "
                f"got {path.name} to {shorten(said[0], 200)} under {shorten(said[1])}; remove the "
                "copy"
            )
        read_inputs(path, challenge)
        found.append((challenge, path))
    return sorted(found, key=lambda pair: (pair[0].date, pair[0].sha256))


def _shown(path: Path) -> str:
    return shorten(str(path), 400)


def _read(path: Path) -> Challenge:
    """Returns the challenge in a file, its own digest checked.

    Raises:
        RecordError: no such file, or not a challenge as it was written.
    """
    data = _bytes(path, LARGEST_CHALLENGE)
    try:
        challenge = Challenge.model_validate_json(data)
    except ValidationError as error:
        raise RecordError(
            f"expected a valid challenge in {_shown(path)}, got {explain(error)}; restore the file "
            "or remove it"
        ) from error
    if challenge.content_digest != content_digest(challenge):
        raise RecordError(
            f"expected an unaltered challenge in {_shown(path)}, got another content_digest; "
            "restore the file or remove it"
        )
    return challenge


def _bytes(path: Path, limit: int) -> bytes:
    try:
        return read_bounded(path, limit)
    except FileNotFoundError as error:
        raise RecordError(
            f"expected {_shown(path)}, found no such file; restore it or remove the challenge"
        ) from error
    except (ManifestError, StorageError) as error:
        raise RecordError(str(error)) from error


def read_inputs(
    path: Path, challenge: Challenge, shape: tuple[int, ...] | None = None
) -> dict[str, Array]:
    """Returns the arrays of a challenge, checked against all that it says of them.

    Args:
        path: of the challenge; its archive lies beside it.
        challenge: what was read there.
        shape: (C, H, W) of the data set's inputs; None where it is not known.

    Returns:
        `index` (N,) int64 and `inputs` (N, C, H, W), float32 in [0, 1] whatever was stored.

    Raises:
        RecordError: the archive is missing, altered, not of such arrays or of another shape.
    """
    archive = path.with_name(challenge.file)
    data = _bytes(archive, challenge.bytes)
    found = {"bytes": len(data), "sha256": sha256_of_bytes(data)}
    for name, value in found.items():
        if value != getattr(challenge, name):
            raise RecordError(
                f"expected {name} {getattr(challenge, name)} of {_shown(archive)}, got {value}; "
                "restore the file or remove the challenge"
            )
    arrays = read_arrays(data)
    _check_arrays(arrays)
    if tuple(arrays["index"].tolist()) != challenge.examples:
        raise RecordError(
            f"expected the examples of the challenge in {_shown(archive)}, got others; restore "
            "the file or remove the challenge"
        )
    if shape is not None and arrays["inputs"].shape[1:] != shape:
        raise RecordError(
            f"expected inputs of shape {shape} in {_shown(archive)}, got "
            f"{shorten(str(arrays['inputs'].shape[1:]))}; remove the challenge"
        )
    return {"index": arrays["index"], "inputs": _pixels(arrays["inputs"])}


def _pixels(inputs: Array) -> Array:
    if inputs.dtype == np.uint8:
        return inputs.astype(np.float32) / np.float32(255)
    return inputs


def _check_arrays(arrays: Mapping[str, Array]) -> None:
    """Checks names, kinds, shapes and values of a challenge's arrays.

    Raises:
        RecordError: anything that does not fit.
    """
    index, inputs = arrays.get("index"), arrays.get("inputs")
    if index is None or inputs is None or len(arrays) != 2:
        got = ", ".join(shorten(name) for name in sorted(arrays)[:5]) or "none"
        raise RecordError(f"expected the arrays index and inputs, got {got}; name them so")
    if index.dtype != np.int64 or index.ndim != 1 or np.any(np.diff(index) <= 0):
        raise RecordError(
            f"expected index as rising int64, got {index.dtype} {shorten(str(index.shape))}; sort "
            "it and drop doubles"
        )
    if inputs.dtype not in (np.uint8, np.float32) or inputs.ndim != 4 or len(inputs) != len(index):
        raise RecordError(
            f"expected inputs as {len(index)} images of uint8 or float32, got {inputs.dtype} "
            f"{shorten(str(inputs.shape))}; store (N, C, H, W)"
        )
    if inputs.dtype == np.float32 and not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise RecordError("expected inputs in [0, 1], got others or NaN; clip them first")


def stale(challenge: Challenge, checkpoint: Checkpoint, protocol: Protocol) -> str:
    """Returns why a challenge says nothing of this checkpoint and protocol; empty if it does."""
    threat = protocol.threat
    checks: tuple[tuple[str, object, object], ...] = (
        ("checkpoint", challenge.checkpoint_id, checkpoint.id),
        ("weights sha256", challenge.checkpoint_sha256, checkpoint.sha256),
        ("protocol", challenge.protocol, protocol.id),
        ("protocol digest", challenge.protocol_digest, protocol.digest),
        ("norm", challenge.norm, threat.norm),
    )
    for name, found, expected in checks:
        if found != expected:
            return f"expected {name} {shorten(str(expected))}, got {shorten(str(found))}"
    if Fraction(challenge.epsilon) > threat.epsilon:
        return f"expected epsilon up to {threat.epsilon}, got {challenge.epsilon}"
    return ""
