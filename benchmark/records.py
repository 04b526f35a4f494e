"""Records: a checkpoint under a protocol, as JSON beside its outcomes; and the frame of them all.

A record holds no accuracy. It says what was evaluated (digests), what it cost, and where the
outcomes are; the frame computes accuracies from outcomes, once.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from benchmark import challenges as sent
from benchmark import outcomes as measured
from benchmark.challenges import Challenge
from benchmark.digests import digest_of_plain
from benchmark.errors import (
    BenchmarkError,
    InvariantViolation,
    ManifestError,
    RecordError,
    StorageError,
    shorten,
)
from benchmark.evaluations import Bounds, Flag, Smoothing
from benchmark.files import read_bounded, write_atomically
from benchmark.flags import each_flags, merged, unrankable_reasons
from benchmark.manifest import (
    Checkpoint,
    CheckpointId,
    Digest,
    Line,
    Manifest,
    Strict,
    explain,
    slug,
)
from benchmark.migrations import migrate, parse, version_of
from benchmark.outcomes import Bools, Outcomes
from benchmark.protocols import PROTOCOLS, TIERS, Protocol
from benchmark.statistics import Estimate, areas_under_curves

LARGEST_RECORD = 16 << 20

SCHEMA_VERSION: Literal[3] = 3

# Records that are counted at a time, which is enough to share the costs of a stack.
TOGETHER = 50


# A number of something.
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Layer(Strict):
    """Zeros and cost of one prunable parameter, as counted from the evaluated weights."""

    name: Line
    shape: tuple[Count, ...] = Field(strict=False)
    zeros: Count
    total: int = Field(ge=1, lt=2**63)
    multiply_adds_dense: Count
    multiply_adds_sparse: Count


class Size(Strict):
    """What was counted from the evaluated weights.

    Attributes:
        layers: one entry a prunable parameter.
        weight_zeros: zeros in all tensors named weight, norms included.
        weight_total: entries of those tensors.
        parameter_zeros: zeros in all parameters.
        parameter_total: all parameters.
        bytes_stored: size of the weights file.
        bytes_dense: four bytes a parameter or buffer entry.
    """

    layers: tuple[Layer, ...] = Field(strict=False, min_length=1)
    weight_zeros: Count
    weight_total: int = Field(ge=1, lt=2**63)
    parameter_zeros: Count
    parameter_total: int = Field(ge=1, lt=2**63)
    bytes_stored: Count
    bytes_dense: Count

    @property
    def zeros(self) -> int:
        """Zeros over prunable parameters."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def total(self) -> int:
        """Prunable parameters."""
        return sum(layer.total for layer in self.layers)


class CompactSize(Strict):
    """What is left of a network without what pruning has left without effect.

    Attributes:
        parameters: entries of all its tensors, constants that moved into biases included.
        multiply_adds: of its convolutions and linear layers for one input, zeros included.
    """

    parameters: Count
    multiply_adds: Count


# Milliseconds; a pass of no time at all is none that was measured.
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Latency(Strict):
    """Milliseconds of a forward pass at one batch size: of one thread, or of an accelerator.

    Attributes:
        batch: inputs a pass.
        rounds: passes timed, each in turn with one of every other network.
        lower: quartile.
        median: over all rounds.
        upper: quartile.
    """

    batch: int = Field(ge=1, lt=2**63)
    rounds: int = Field(ge=1, lt=2**63)
    lower: Milliseconds
    median: Milliseconds
    upper: Milliseconds

    @model_validator(mode="after")
    def _ordered(self) -> "Latency":
        if not self.lower <= self.median <= self.upper:
            raise ValueError("expected lower <= median <= upper of a latency, got another order")
        return self


class Latencies(Strict):
    """How fast networks are on the machine of the record: times, which no two runs share.

    Attributes:
        processor: name of the processor, one thread of it, or of the accelerator.
        dense: the dense parent; empty where none is at hand.
        masked: the network as published, which computes with its zeros.
        compact: what compaction leaves of it; empty where it cannot be compacted.
    """

    processor: Line
    dense: tuple[Latency, ...] = Field(strict=False)
    masked: tuple[Latency, ...] = Field(strict=False)
    compact: tuple[Latency, ...] = Field(strict=False)


class Cost(Strict):
    """What one evaluation cost, and what certifying first spared it.

    Attributes:
        seconds: summed over shards, each on one CPU thread or one accelerator.
        forwards: forward passes, in examples.
        backwards: backward passes, in examples.
        attacked: examples attacked, counted once an epsilon; 0 where the evaluation is no attack.
        proven: examples spared because they are proven robust, counted once an epsilon.
        forwards_saved: forward passes spared at least: a spared example would have survived every
            step, which costs no less than the mean of those attacked.
    """

    seconds: float = Field(ge=0, allow_inf_nan=False)
    forwards: Count
    backwards: Count
    attacked: Count
    proven: Count
    forwards_saved: Count


class FlagEntry(Strict):
    """A warning about the evaluation: its name, the share of examples concerned, and a sentence."""

    name: Line
    rate: float = Field(ge=0, le=1, allow_inf_nan=False)
    detail: Line


class EvidenceFile(Strict):
    """One file of adversarial inputs, beside the records under `reports/evidence/`.

    Attributes:
        start: first position in the protocol's example list that it speaks of.
        stop: one past the last.
        inputs: adversarial inputs in it.
        bytes: size of the file.
        sha256: of the file.
    """

    start: Count
    stop: Count
    inputs: Count
    bytes: Count
    sha256: Digest

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.start:06d}.npz"


class ResultRecord(Strict):
    """One checkpoint under one protocol.

    Attributes:
        schema_version: of this format.
        checkpoint_id: id in the manifest.
        checkpoint_sha256: of the weights that were evaluated.
        protocol: id.
        protocol_version: its version.
        protocol_digest: its digest.
        tier: how many of its examples.
        examples: their number.
        data_digests: of the examples' pixels and labels, for each tier that the record covers.
        status: `done`, or `skipped` with a reason.
        reason: why it was skipped, else empty.
        size: zeros, parameters and bytes.
        cost: by evaluation.
        flags: warnings, each with its rate.
        environment: versions and device.
        outcomes_sha256: of the .npz beside this file.
        evidence: files of adversarial inputs; empty in records of the first schema.
        parent_sha256: weights of the dense parent that transfer attacked; empty without one.
        training_digest: of the training examples that sanity compared with; empty without any.
        compact: size of the compact network; null where the network cannot be compacted, and in
            records of older schemas.
        latency: of dense parent, published and compact network; null in records of older schemas.
        content_digest: of everything above but seconds, latency and environment: two runs agree on
            it.
        seals: by field, the digest of each of the above, so that a change is named.
    """

    schema_version: Literal[3]
    checkpoint_id: CheckpointId
    checkpoint_sha256: Digest
    protocol: Line
    protocol_version: Count
    protocol_digest: Digest
    tier: Line
    examples: int = Field(ge=1, lt=2**63)
    data_digests: dict[Line, Digest]
    status: Literal["done", "skipped"]
    reason: Line
    size: Size
    cost: dict[Line, Cost]
    flags: tuple[FlagEntry, ...] = Field(strict=False)
    environment: dict[Line, Line]
    outcomes_sha256: Digest
    evidence: tuple[EvidenceFile, ...] = Field(strict=False)
    parent_sha256: Annotated[Line, Field(pattern=r"^([0-9a-f]{64})?$")]
    training_digest: Annotated[Line, Field(pattern=r"^([0-9a-f]{64})?$")]
    compact: CompactSize | None
    latency: Latencies | None
    content_digest: Line
    seals: dict[Line, Digest]


def content_digest(record: ResultRecord) -> str:
    """Returns the digest of a record's repeatable content: all but times, machine and digests."""
    return _content_digest(record.model_dump(mode="json"))


def _content_digest(data: Mapping[str, Any]) -> str:
    """Returns the content digest of a record's plain data."""
    left_out = ("environment", "latency", "content_digest", "seals")
    content = {name: value for name, value in data.items() if name not in left_out}
    content["cost"] = {
        name: {key: value for key, value in cost.items() if key != "seconds"}
        for name, cost in data["cost"].items()
    }
    return digest_of_plain(content)


def sealed(record: ResultRecord) -> ResultRecord:
    """Returns a record with the digests of its content and of each field."""
    digested = record.model_copy(update={"content_digest": content_digest(record), "seals": {}})
    return digested.model_copy(update={"seals": seals(digested)})


def seals(record: ResultRecord) -> dict[str, str]:
    """Returns the digest of each field but the seals themselves."""
    return _seals(record.model_dump(mode="json"))


def _seals(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the seals of a record's plain data."""
    return {name: digest_of_plain(value) for name, value in data.items() if name != "seals"}


def broken_seals(record: ResultRecord) -> list[str]:
    """Returns the fields that are not what they were sealed as; the order is that of the format."""
    return _broken_seals(record, record.model_dump(mode="json"))


def _broken_seals(record: ResultRecord, data: Mapping[str, Any]) -> list[str]:
    now = _seals(data)
    odd = [name for name, seal in now.items() if record.seals.get(name) != seal]
    return odd + [f"seals.{name}" for name in record.seals if name not in now]


def evidence_folder(folder: Path, protocol: str, checkpoint_id: str) -> Path:
    """Returns where the evidence of a record lies, given the folder of all evidence."""
    return folder / protocol / slug(checkpoint_id)


def record_path(folder: Path, protocol: str, checkpoint_id: str) -> Path:
    """Returns where the record of a checkpoint under a protocol lies."""
    return folder / protocol / f"{slug(checkpoint_id)}.json"


def encode(record: ResultRecord) -> bytes:
    """Returns a record as the bytes of its file; equal records give equal bytes."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def write(folder: Path, record: ResultRecord, outcomes: Outcomes) -> Path:
    """Writes outcomes, then the record that names their hash; returns the record's path.

    A kill between the two leaves an old record whose hash does not match; it counts as missing, so
    that the next run writes both.

    Raises:
        StorageError: the disk refuses.
    """
    data = outcomes.encode()
    path = record_path(folder, record.protocol, record.checkpoint_id)
    write_atomically(path.with_suffix(".npz"), data)
    write_atomically(path, encode(record))
    return path


def read(path: Path) -> tuple[ResultRecord, Outcomes]:
    """Returns a record and its outcomes, checked against each other and against their digests.

    Raises:
        RecordError: a file is missing, damaged or altered.
    """
    shown = shorten(str(path), 400)
    try:
        record = _parsed(read_bounded(path, LARGEST_RECORD), shown)
        data = read_bounded(path.with_suffix(".npz"), measured.LARGEST_OUTCOMES)
    except FileNotFoundError as error:
        missing = shorten(str(error.filename), 400)
        raise RecordError(f"expected {missing}, found no such file; evaluate again") from error
    except (ManifestError, StorageError) as error:
        raise RecordError(str(error)) from error
    except ValidationError as error:
        raise RecordError(
            f"expected a valid record in {shown}, got {explain(error)}; evaluate again"
        ) from error
    content = record.model_dump(mode="json")
    if odd := _broken_seals(record, content):
        raise RecordError(
            f"expected an unaltered record in {shown}, got other values than were sealed in "
            f"{shorten(', '.join(odd), 200)}; restore it or evaluate again"
        )
    if record.content_digest != _content_digest(content):
        raise RecordError(
            f"expected the digest of its content in {shown}, got another content_digest; restore "
            "it or evaluate again"
        )
    outcomes = measured.decode(data, record.outcomes_sha256)
    if len(outcomes) != record.examples:
        raise RecordError(
            f"expected {record.examples} outcomes for {shown}, got {len(outcomes)}; evaluate again"
        )
    return record, outcomes


def _parsed(data: bytes, shown: str) -> ResultRecord:
    """Returns a record of any version as one of this, its seals made anew if it is older.

    Args:
        data: the file.
        shown: its path, for messages.

    Raises:
        RecordError: it is no record, newer than this program, or altered since an old one wrote it.
        ValidationError: it breaks the format.
    """
    found = parse("record", data, shown)
    if version_of("record", found) == SCHEMA_VERSION:
        return ResultRecord.model_validate_json(data)
    # The old digests are checked on the way, and there were no seals.
    return sealed(ResultRecord.model_validate_json(json.dumps(migrate("record", found))))


def stale(record: ResultRecord, checkpoint: Checkpoint, protocol: Protocol) -> str:
    """Returns why a record does not speak of this checkpoint and protocol; empty if it does."""
    checks: tuple[tuple[str, object, object], ...] = (
        ("checkpoint", record.checkpoint_id, checkpoint.id),
        ("weights sha256", record.checkpoint_sha256, checkpoint.sha256),
        ("protocol", record.protocol, protocol.id),
        ("protocol version", record.protocol_version, protocol.version),
        ("protocol digest", record.protocol_digest, protocol.digest),
        ("examples of its tier", record.examples, dict(protocol.tiers).get(record.tier)),
        ("tiers with data digests", sorted(record.data_digests), _covered(record, protocol)),
        ("zeros", record.size.zeros, checkpoint.zeros),
        ("prunable parameters", record.size.total, checkpoint.prunable),
        ("bytes of weights", record.size.bytes_stored, checkpoint.bytes),
    )
    for name, found, expected in checks:
        if found != expected:
            return f"expected {name} {shorten(str(expected))}, got {shorten(str(found))}"
    return ""


def _covered(record: ResultRecord, protocol: Protocol) -> list[str]:
    return sorted(name for name, count in protocol.tiers if count <= record.examples)


@dataclass(frozen=True)
class Row:
    """A record with everything the frame needs; challenges in the order in which they came."""

    checkpoint: Checkpoint
    protocol: Protocol
    record: ResultRecord
    outcomes: Outcomes
    challenges: tuple[Challenge, ...] = ()


@dataclass(frozen=True)
class Stack:
    """R records whose outcomes are alike, to be checked and counted at once.

    Attributes:
        rows: the records.
        outcomes: (R, N) of them all.
    """

    rows: tuple[Row, ...]
    outcomes: Outcomes

    @property
    def protocol(self) -> Protocol:
        """The one that all were evaluated under."""
        return self.rows[0].protocol

    def head(self, count: int) -> "Stack":
        """Returns the same records over their first `count` examples."""
        return Stack(self.rows, self.outcomes.head(count))


def stacks(rows: Iterable[Row]) -> list[Stack]:
    """Returns records in stacks of those that are alike, in their order within each."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(measured.alike(row.outcomes, row.protocol), []).append(row)
    return [
        Stack(tuple(group), measured.stacked([row.outcomes for row in group]))
        for group in groups.values()
    ]


def challenges_of(folder: Path, record: ResultRecord, protocol: Protocol) -> tuple[Challenge, ...]:
    """Returns the challenges that speak of a record's weights, oldest first.

    Inputs that fool the network do so under whatever version of the protocol: what counts is that
    the weights are the same and the ball is no larger. Others are ignored.

    Args:
        folder: of all challenges.
        record: what they are about.
        protocol: its protocol.

    Raises:
        RecordError: a challenge is damaged, altered or in another's place.
    """
    threat = protocol.threat
    if not os.path.lexists(folder / protocol.id / slug(record.checkpoint_id)):
        return ()
    return tuple(
        challenge
        for challenge, _ in sent.read_all(folder, protocol.id, record.checkpoint_id)
        if challenge.checkpoint_sha256 == record.checkpoint_sha256
        and challenge.norm == threat.norm
        and Fraction(challenge.epsilon) <= threat.epsilon
    )


def challenged(outcomes: Outcomes, challenges: Iterable[Challenge]) -> Bools:
    """Returns (N,) whether a challenge holds an adversarial input for an example."""
    found = [index for challenge in challenges for index in challenge.examples]
    return np.isin(outcomes.columns["index"], found)


def best_known(outcomes: Outcomes, protocol: Protocol, challenges: Iterable[Challenge]) -> Bools:
    """Returns (N,) whether an example survived every attack and every challenge."""
    standing = measured.attacked(outcomes, protocol, protocol.threat.epsilon)
    listed = tuple(challenges)
    return standing & ~challenged(outcomes, listed) if listed else standing


def _check_challenges(row: Row) -> None:
    """Checks that no challenge breaks a certified example."""
    for challenge in row.challenges:
        broken = challenged(row.outcomes, [challenge])
        for epsilon, proven in measured.certified(row.outcomes, row.protocol).items():
            refuted = row.outcomes.columns["index"][broken & proven]
            if Fraction(challenge.epsilon) <= epsilon and len(refuted):
                raise InvariantViolation(
                    f"certificate refuted: expected no challenge within {challenge.norm} {epsilon} "
                    f"of certified examples of {row.checkpoint.id}, got that of {challenge.credit}"
                    f": test examples {refuted[:10].tolist()}; this is a bug or a lie, please "
                    "report it with the checkpoint"
                )


def load_all(folder: Path, manifest: Manifest, challenges: Path | None = None) -> list[Row]:
    """Returns all records of a folder that belong to a manifest, by protocol and checkpoint.

    Args:
        folder: of all records.
        manifest: of the checkpoints.
        challenges: folder of all challenges; None to do without.

    Raises:
        RecordError: a record or challenge is damaged, stale or in another's place; the message says
            which.
        InvariantViolation: outcomes that contradict each other, or a challenge that refutes a
            certificate.
    """
    return list(load(paths(folder), folder, manifest, challenges))


def paths(folder: Path) -> list[Path]:
    """Returns the files of all records in a folder, by protocol and checkpoint."""
    return sorted(folder.glob("*/*.json"))


def load(
    files: Iterable[Path], folder: Path, manifest: Manifest, challenges: Path | None = None
) -> Iterator[Row]:
    """Yields the records in files, a few read at a time: outcomes of thousands fill the memory.

    Args:
        files: of `paths`.
        folder: of all records.
        manifest: of the checkpoints.
        challenges: folder of all challenges; None to do without.

    Raises:
        RecordError: as `load_all`.
        InvariantViolation: as `load_all`.
    """
    known = {entry.id: entry for entry in manifest.checkpoints}
    waiting = iter(files)
    while some := list(islice(waiting, TOGETHER)):
        try:
            rows = _checked([_read_row(path, folder, known) for path in some], challenges)
        except BenchmarkError:
            # Which of them is the first that is wrong shows one after the other.
            for path in some:
                yield from _checked([_read_row(path, folder, known)], challenges)
        else:
            yield from rows


def _checked(rows: Sequence[Row], challenges: Path | None) -> list[Row]:
    """Returns rows whose outcomes keep the rules, with the challenges against each."""
    for stack in stacks(rows):
        measured.check_invariants(stack.outcomes, stack.protocol)
    return [row if challenges is None else with_challenges(row, challenges) for row in rows]


def with_challenges(row: Row, folder: Path) -> Row:
    """Returns a row with the challenges against it.

    Raises:
        RecordError: a challenge is damaged, altered or in another's place.
        InvariantViolation: one refutes a certificate.
    """
    found = replace(row, challenges=challenges_of(folder, row.record, row.protocol))
    _check_challenges(found)
    return found


def _read_row(path: Path, folder: Path, known: Mapping[str, Checkpoint]) -> Row:
    """Returns the record in a file, in its place and up to date; its rules are still unchecked."""
    shown = shorten(str(path), 400)
    record, outcomes = read(path)
    if record.protocol not in PROTOCOLS:
        raise RecordError(
            f"expected a known protocol in {shown}, got '{shorten(record.protocol)}'; remove the "
            "record"
        )
    if record.checkpoint_id not in known:
        raise RecordError(
            f"expected {record.checkpoint_id} in the manifest for {shown}; remove the record or "
            "restore the entry"
        )
    if path != record_path(folder, record.protocol, record.checkpoint_id):
        # A copy under another name would be one more row.
        raise RecordError(
            f"expected the record of {record.checkpoint_id} under its own name, got {shown}; "
            "remove the copy"
        )
    checkpoint, protocol = known[record.checkpoint_id], PROTOCOLS[record.protocol]
    if reason := stale(record, checkpoint, protocol):
        raise RecordError(
            f"{reason} in {shown}; evaluate again with "
            f"`robustprune run --protocol {record.protocol}`"
        )
    return Row(checkpoint, protocol, record, outcomes)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Returns one line a checkpoint, protocol and tier that its record covers.

    `docs/records.md` lists the columns. A record of a large tier also yields the lines of the
    smaller ones, from the same outcomes.
    """
    waiting, table = iter(rows), list[Part]()
    while some := list(islice(waiting, TOGETHER)):
        table += [line for each in lines(some) for line in each]
    return pd.DataFrame(table)


# Columns of a line in the frame.
Part = dict[str, Any]


def lines(rows: Sequence[Row]) -> list[list[Part]]:
    """Returns the lines of each record in the frame, one a tier that it covers, small tiers first.

    Args:
        rows: the more at a time, the less each costs.
    """
    found: dict[int, list[Part]] = {}
    for stack in stacks(rows):
        found |= zip(map(id, stack.rows), _lines(stack), strict=True)
    return [found[id(row)] for row in rows]


def _lines(stack: Stack) -> list[list[Part]]:
    tiers = [t for t in TIERS if stack.protocol.examples(t) <= len(stack.outcomes)]
    by_example = _by_example(stack)
    entries = [_entry(row.checkpoint) for row in stack.rows]
    whole = [_whole(row.record) for row in stack.rows]
    by_tier = []
    for tier in tiers:
        part = stack.head(stack.protocol.examples(tier))
        examples = len(part.outcomes)
        # What they return, by record, are the columns of the frame in their order.
        parts = (
            *(entries, _identity(part, tier), _accuracies(part), _aer(part), _challenges(part)),
            *(whole, _attacks(part), _curve(part), _certified_curve(part), _flags(part)),
            [_surroundings(row.record, examples) for row in stack.rows],
            [{"outcomes": {n: v[:examples] for n, v in each.items()}} for each in by_example],
        )
        by_tier.append([_joined(each) for each in zip(*parts, strict=True)])
    return [list(each) for each in zip(*by_tier, strict=True)]


def _joined(parts: Iterable[Part]) -> Part:
    line: Part = {}
    for part in parts:
        line |= part
    return line


def _by_example(stack: Stack) -> list[dict[str, NDArray[Any]]]:
    """Returns (N,) arrays in example order, for paired tests; only what the protocol measures.

    The smoothed network's is as long as the number of examples that are smoothed.
    """
    outcomes, epsilon = stack.outcomes, stack.protocol.threat.epsilon
    columns = {
        "index": outcomes.columns["index"],
        "clean": measured.clean_correct(outcomes),
        "robust": measured.attacked(outcomes, stack.protocol, epsilon),
        "best_known": _left_at(epsilon, stack),
    }
    proven = measured.certified(outcomes, stack.protocol)
    if epsilon in proven:
        columns["certified"] = proven[epsilon]
    columns |= measured.alone(outcomes, stack.protocol)
    found = []
    for number, row in enumerate(stack.rows):
        each = {name: values[number] for name, values in columns.items()}
        # Kept once where they are the same.
        found.append(each if row.challenges else each | {"best_known": each["robust"]})
    return found


def _left_at(epsilon: Fraction, stack: Stack) -> Bools:
    """Returns (R, N) who survived every attack and every challenge at up to an epsilon."""
    left = measured.attacked(stack.outcomes, stack.protocol, epsilon)
    if any(row.challenges for row in stack.rows):
        left = left.copy()
    for number, row in enumerate(stack.rows):
        if inside := [one for one in row.challenges if Fraction(one.epsilon) <= epsilon]:
            left[number] &= ~challenged(_single(stack, number), inside)
    return left


def _single(stack: Stack, number: int) -> Outcomes:
    """Returns the outcomes of one record, over the examples of the stack."""
    return stack.rows[number].outcomes.head(len(stack.outcomes))


def _challenges(stack: Stack) -> list[Part]:
    """Returns who broke how many examples that nobody had broken before, in order of arrival."""
    found: list[Part] = []
    for number, row in enumerate(stack.rows):
        lines = []
        for position, challenge in enumerate(row.challenges):
            outcomes = _single(stack, number)
            before = best_known(outcomes, row.protocol, row.challenges[:position])
            broken = int((before & challenged(outcomes, [challenge])).sum())
            said = {name: getattr(challenge, name) for name in ("credit", "attack", "date", "url")}
            lines.append({**said, "broken": broken})
        found.append({"challenges": [line for line in lines if line["broken"]]})
    return found


def _surroundings(record: ResultRecord, examples: int) -> Part:
    """Returns the files of adversarial inputs for a record's first examples, and its machine."""
    files = [
        {"file": file.name, "bytes": file.bytes, "sha256": file.sha256, "inputs": file.inputs}
        for file in record.evidence
        if file.start < examples
    ]
    return {
        "evidence": files,
        "evidence_level": "re-checkable" if record.evidence else "outcomes only",
        "environment": dict(record.environment),
    }


_COPIED = (
    *("method", "display_name", "dataset", "architecture", "objective", "structure", "sparsity"),
    *("seed", "sha256", "paper", "code", "licence", "extra_data", "recipe", "recipe_digest"),
)


def _entry(entry: Checkpoint) -> Part:
    return {
        "checkpoint_id": entry.id,
        **{name: getattr(entry, name) for name in _COPIED},
        "authors": list(entry.authors),
        "budget": _budget(entry),
        "pipeline": ", ".join(stages(entry)),
    }


def _identity(stack: Stack, tier: str) -> list[Part]:
    protocol, examples, threat = stack.protocol, len(stack.outcomes), str(stack.protocol.threat)
    return [
        {
            "protocol": protocol.id,
            "protocol_version": protocol.version,
            "protocol_digest": protocol.digest,
            "data_digest": row.record.data_digests[tier],
            "tier": tier,
            "examples": examples,
            "threat": threat,
            "status": row.record.status,
            "reason": row.record.reason,
        }
        for row in stack.rows
    ]


def stages(entry: Checkpoint) -> tuple[str, ...]:
    """Returns the stages that a checkpoint's training spent epochs in, first to last."""
    budget = entry.budget
    epochs = {
        "pretrain": budget.pretrain_epochs,
        "prune": budget.prune_epochs,
        "finetune": budget.finetune_epochs,
    }
    return tuple(name for name, spent in epochs.items() if spent)


def _budget(entry: Checkpoint) -> Part:
    budget = entry.budget
    epochs = budget.pretrain_epochs + budget.prune_epochs + budget.finetune_epochs
    return {"epochs": epochs, **budget.model_dump()}


def _accuracies(stack: Stack) -> list[Part]:
    protocol = stack.protocol
    each = measured.all_metrics(stack.outcomes, protocol)
    known = measured.shares_of(_left_at(protocol.threat.epsilon, stack))
    smoothing = next((s for _, s in protocol.evaluations if isinstance(s, Smoothing)), None)
    radius = float(protocol.smoothed_radius)
    return [
        {
            "clean_accuracy": found.clean,
            "pgd_accuracy": found.pgd,
            "autoattack_accuracy": found.autoattack,
            "attack_accuracies": dict(found.by_evaluation),
            "robust_accuracy": found.robust,
            "certified_accuracy": found.certified,
            "smoothed_accuracy": found.smoothed,
            "smoothed_radius": radius,
            "smoothed_sigma": float("nan") if smoothing is None else smoothing.sigma,
            "smoothed_examples": found.smoothed_examples,
            # The names that papers give to three of these.
            "era": found.pgd,
            "vra_bounds": found.certified,
            "vra_smoothing": found.smoothed,
            "best_known_accuracy": best,
        }
        for found, best in zip(each, known, strict=True)
    ]


def _epsilons(stack: Stack) -> list[Fraction]:
    """Returns the epsilons that attacks ran at, the smallest first."""
    return sorted({epsilon for _, epsilon, _ in measured.broken(stack.outcomes, stack.protocol)})


def _aer(stack: Stack) -> list[Part]:
    """Returns the robustness in AER: the mean accuracy from epsilon 0 to the largest attacked.

    An attack at a single epsilon makes no curve. Epsilons count as shares of the largest, which
    leaves the mean as it is.
    """
    epsilons = _epsilons(stack)
    areas, largest = [Estimate(*[float("nan")] * 3)] * len(stack.rows), ""
    if len(epsilons) > 1:
        points = [measured.clean_correct(stack.outcomes), *(_left_at(e, stack) for e in epsilons)]
        shares = [0.0, *(float(epsilon / epsilons[-1]) for epsilon in epsilons)]
        areas = areas_under_curves(shares, np.stack(points, axis=1))
        largest = str(epsilons[-1])
    return [
        {
            "aer_robustness": area.value,
            "aer_low": area.low,
            "aer_high": area.high,
            "aer_epsilon": largest,
        }
        for area in areas
    ]


def _whole(record: ResultRecord) -> Part:
    """Returns what does not depend on the examples: size, speed and cost."""
    return {**_size(record.size), **_speed(record), **_cost(record)}


def _size(size: Size) -> Part:
    # From the count of what is left: 1 - zeros / total would be off by a rounding.
    zeros, total = size.zeros, size.total
    density = (total - zeros) / total
    return {
        "measured_sparsity": zeros / total,
        "sparsity_weights": size.weight_zeros / size.weight_total,
        "sparsity_parameters": size.parameter_zeros / size.parameter_total,
        "density": density,
        "compression_ratio": 1 / density if density else float("inf"),
        "multiply_adds_dense": sum(layer.multiply_adds_dense for layer in size.layers),
        "multiply_adds_sparse": sum(layer.multiply_adds_sparse for layer in size.layers),
        "bytes_stored": size.bytes_stored,
        "bytes_dense": size.bytes_dense,
        "layers": [_layer(layer) for layer in size.layers],
    }


def _layer(layer: Layer) -> Part:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "zeros": layer.zeros,
        "total": layer.total,
        "multiply_adds": layer.multiply_adds_sparse,
    }


NETWORKS: tuple[Literal["dense", "masked", "compact"], ...] = ("dense", "masked", "compact")


def _speed(record: ResultRecord) -> Part:
    """Returns the compact network's size, and latencies in milliseconds; NaN where unknown."""
    small, found = record.compact, record.latency
    columns: Part = {
        "compact_parameters": float("nan") if small is None else small.parameters,
        "compact_multiply_adds": float("nan") if small is None else small.multiply_adds,
        "latency_processor": "" if found is None else found.processor,
    }
    lines = []
    for name in NETWORKS:
        each: tuple[Latency, ...] = () if found is None else getattr(found, name)
        single = next((one for one in each if one.batch == 1), None)
        columns[f"latency_{name}"] = float("nan") if single is None else single.median
        columns[f"latency_{name}_low"] = float("nan") if single is None else single.lower
        columns[f"latency_{name}_high"] = float("nan") if single is None else single.upper
        lines += [{"network": name, **one.model_dump()} for one in each]
    return {**columns, "latency": lines}


def _cost(record: ResultRecord) -> Part:
    return {
        "seconds": sum(cost.seconds for cost in record.cost.values()),
        "cost": {name: cost.model_dump() for name, cost in record.cost.items()},
    }


def _attacks(stack: Stack) -> list[Part]:
    """Returns, by attack, how many examples it saw and how many it broke."""
    found: list[Part] = [{"attacks": []} for _ in stack.rows]
    for attempt in measured.attempts(stack.outcomes, stack.protocol):
        epsilon = str(attempt.epsilon)
        counts = (measured.counts_of(examples) for examples in (attempt.tried, attempt.broken))
        for part, tried, broken in zip(found, *counts, strict=True):
            part["attacks"].append(
                {
                    "name": attempt.attack,
                    "evaluation": attempt.evaluation,
                    "epsilon": epsilon,
                    "attempted": tried,
                    "broken": broken,
                }
            )
    return found


def _curve(stack: Stack) -> list[Part]:
    """Returns robust accuracy at every epsilon attacked, smallest first, 0 (clean) included."""
    protocol, standing = stack.protocol, {Fraction(0): measured.clean_correct(stack.outcomes)}
    for epsilon in _epsilons(stack):
        standing[epsilon] = measured.attacked(stack.outcomes, protocol, epsilon)
    found: list[Part] = [{"curve": []} for _ in stack.rows]
    for epsilon, left in standing.items():
        said = {"epsilon": str(epsilon), "value": float(epsilon)}
        for part, robust in zip(found, measured.shares_of(left), strict=True):
            part["curve"].append({**said, "robust_accuracy": robust})
    return found


def _certified_curve(stack: Stack) -> list[Part]:
    """Returns certified accuracy at every certified epsilon, and whose bound was the best."""
    found: list[Part] = [{"certified_curve": []} for _ in stack.rows]
    evaluations = stack.protocol.evaluations
    bounds = next(((n, s) for n, s in evaluations if isinstance(s, Bounds)), None)
    if bounds is None:
        return found
    name, settings = bounds
    for epsilon, proven in measured.certified(stack.outcomes, stack.protocol).items():
        best = stack.outcomes.columns[f"{name}.method@{epsilon}"]
        by = [measured.counts_of(proven & (best == i)) for i in range(len(settings.methods))]
        said = {"epsilon": str(epsilon), "value": float(epsilon)}
        shares = measured.shares_of(proven)
        for part, certified, *counts in zip(found, shares, *by, strict=True):
            methods = dict(zip(settings.methods, counts, strict=True))
            line = {**said, "certified_accuracy": certified, "methods": methods}
            part["certified_curve"].append(line)
    return found


def _flags(stack: Stack) -> list[Part]:
    """Returns the flags of the examples, and which of them keep the record off the ranking."""
    found: list[Part] = []
    decided = each_flags(stack.outcomes, stack.protocol)
    for row, own in zip(stack.rows, decided, strict=True):
        flags = merged(stored_flags(row.record), own)
        found.append(
            {
                "flags": [asdict(flag) for flag in flags],
                "unrankable": ", ".join(unrankable_reasons(flags, stack.protocol)),
            }
        )
    return found


def stored_flags(record: ResultRecord) -> tuple[Flag, ...]:
    """Returns the flags that evaluations raised, as a record keeps them."""
    return tuple(Flag(flag.name, flag.rate, flag.detail) for flag in record.flags)
