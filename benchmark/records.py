"""Records: a checkpoint under a protocol, as JSON beside its outcomes; and the frame of them all.

A record holds no accuracy. It says what was evaluated (digests), what it cost, and where the
outcomes are; the frame computes accuracies from outcomes, once.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
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
    InvariantViolation,
    ManifestError,
    RecordError,
    StorageError,
    shorten,
)
from benchmark.evaluations import Bounds, Flag, Smoothing
from benchmark.files import read_bounded, write_atomically
from benchmark.flags import all_flags, unrankable_reasons
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
from benchmark.statistics import Estimate, area_under_curve

LARGEST_RECORD = 16 << 20

SCHEMA_VERSION: Literal[3] = 3


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
    certified = measured.certified(row.outcomes, row.protocol)
    for challenge in row.challenges:
        broken = challenged(row.outcomes, [challenge])
        for epsilon, proven in certified.items():
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
    """Yields the records in files, one after the other: outcomes of thousands fill the memory.

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
    for path in files:
        row = _load(path, folder, known)
        yield row if challenges is None else with_challenges(row, challenges)


def with_challenges(row: Row, folder: Path) -> Row:
    """Returns a row with the challenges against it.

    Raises:
        RecordError: a challenge is damaged, altered or in another's place.
        InvariantViolation: one refutes a certificate.
    """
    found = replace(row, challenges=challenges_of(folder, row.record, row.protocol))
    _check_challenges(found)
    return found


def _load(path: Path, folder: Path, known: Mapping[str, Checkpoint]) -> Row:
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
    measured.check_invariants(outcomes, protocol)
    return Row(checkpoint, protocol, record, outcomes)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Returns one line a checkpoint, protocol and tier that its record covers.

    `docs/records.md` lists the columns. A record of a large tier also yields the lines of the
    smaller ones, from the same outcomes.
    """
    return pd.DataFrame([line for row in rows for line in lines(row)])


def lines(row: Row) -> list[dict[str, Any]]:
    """Returns the lines of a record in the frame, one a tier that it covers, small tiers first."""
    tiers = [tier for tier in TIERS if row.protocol.examples(tier) <= row.record.examples]
    return [_line(row, tier) for tier in tiers]


def _line(row: Row, tier: str) -> dict[str, Any]:
    outcomes = row.outcomes.head(row.protocol.examples(tier))
    by_example = _by_example(outcomes, row)
    flags = all_flags(stored_flags(row.record), outcomes, row.protocol)
    return {
        **_identity(row, tier, len(outcomes)),
        **_accuracies(outcomes, row.protocol),
        "best_known_accuracy": measured.share_of(by_example["best_known"]),
        **_aer(outcomes, row),
        "challenges": _challenges(outcomes, row),
        **_size(row.record.size),
        **_speed(row.record),
        **_cost(row.record),
        "attacks": _attacks(outcomes, row.protocol),
        "curve": _curve(outcomes, row.protocol),
        "certified_curve": _certified_curve(outcomes, row.protocol),
        "flags": [asdict(flag) for flag in flags],
        "unrankable": ", ".join(unrankable_reasons(flags, row.protocol)),
        "evidence": _evidence(row.record, len(outcomes)),
        "evidence_level": "re-checkable" if row.record.evidence else "outcomes only",
        "environment": dict(row.record.environment),
        "outcomes": by_example,
    }


def _by_example(outcomes: Outcomes, row: Row) -> dict[str, NDArray[Any]]:
    """Returns (N,) arrays in example order, for paired tests; only what the protocol measures."""
    epsilon = row.protocol.threat.epsilon
    columns = {
        "index": outcomes.columns["index"],
        "clean": measured.clean_correct(outcomes),
        "robust": measured.attacked(outcomes, row.protocol, epsilon),
        "best_known": best_known(outcomes, row.protocol, row.challenges),
    }
    proven = measured.certified(outcomes, row.protocol)
    return columns | ({"certified": proven[epsilon]} if epsilon in proven else {})


def _challenges(outcomes: Outcomes, row: Row) -> list[dict[str, Any]]:
    """Returns who broke how many examples that nobody had broken before, in order of arrival."""
    lines = []
    for number, challenge in enumerate(row.challenges):
        before = best_known(outcomes, row.protocol, row.challenges[:number])
        broken = int((before & challenged(outcomes, [challenge])).sum())
        said = {name: getattr(challenge, name) for name in ("credit", "attack", "date", "url")}
        lines.append({**said, "broken": broken})
    return [line for line in lines if line["broken"]]


def _evidence(record: ResultRecord, examples: int) -> list[dict[str, Any]]:
    """Returns the files of adversarial inputs for the first examples of a record."""
    return [
        {"file": file.name, "bytes": file.bytes, "sha256": file.sha256, "inputs": file.inputs}
        for file in record.evidence
        if file.start < examples
    ]


_COPIED = (
    *("method", "display_name", "dataset", "architecture", "objective", "structure", "sparsity"),
    *("seed", "sha256", "paper", "code", "licence", "extra_data", "recipe", "recipe_digest"),
)


def _identity(row: Row, tier: str, examples: int) -> dict[str, Any]:
    entry, protocol, record = row.checkpoint, row.protocol, row.record
    return {
        "checkpoint_id": entry.id,
        **{name: getattr(entry, name) for name in _COPIED},
        "authors": list(entry.authors),
        "budget": _budget(entry),
        "pipeline": ", ".join(stages(entry)),
        "protocol": protocol.id,
        "protocol_version": protocol.version,
        "protocol_digest": protocol.digest,
        "data_digest": record.data_digests[tier],
        "tier": tier,
        "examples": examples,
        "threat": str(protocol.threat),
        "status": record.status,
        "reason": record.reason,
    }


def stages(entry: Checkpoint) -> tuple[str, ...]:
    """Returns the stages that a checkpoint's training spent epochs in, first to last."""
    budget = entry.budget
    epochs = {
        "pretrain": budget.pretrain_epochs,
        "prune": budget.prune_epochs,
        "finetune": budget.finetune_epochs,
    }
    return tuple(name for name, spent in epochs.items() if spent)


def _budget(entry: Checkpoint) -> dict[str, Any]:
    budget = entry.budget
    epochs = budget.pretrain_epochs + budget.prune_epochs + budget.finetune_epochs
    return {"epochs": epochs, **budget.model_dump()}


def _accuracies(outcomes: Outcomes, protocol: Protocol) -> dict[str, Any]:
    found = measured.metrics(outcomes, protocol)
    smoothing = next((s for _, s in protocol.evaluations if isinstance(s, Smoothing)), None)
    return {
        "clean_accuracy": found.clean,
        "pgd_accuracy": found.pgd,
        "autoattack_accuracy": found.autoattack,
        "attack_accuracies": dict(found.by_evaluation),
        "robust_accuracy": found.robust,
        "certified_accuracy": found.certified,
        "smoothed_accuracy": found.smoothed,
        "smoothed_radius": float(protocol.smoothed_radius),
        "smoothed_sigma": float("nan") if smoothing is None else smoothing.sigma,
        "smoothed_examples": found.smoothed_examples,
        # The names that papers give to three of these.
        "era": found.pgd,
        "vra_bounds": found.certified,
        "vra_smoothing": found.smoothed,
    }


def _aer(outcomes: Outcomes, row: Row) -> dict[str, Any]:
    """Returns the robustness in AER: the mean accuracy from epsilon 0 to the largest attacked.

    An attack at a single epsilon makes no curve. Epsilons count as shares of the largest, which
    leaves the mean as it is.
    """
    epsilons = sorted({e for _, e, _ in measured.broken(outcomes, row.protocol)})
    area, largest = Estimate(*[float("nan")] * 3), ""
    if len(epsilons) > 1:
        points = [measured.clean_correct(outcomes), *(_left_at(e, outcomes, row) for e in epsilons)]
        shares = [0.0, *(float(epsilon / epsilons[-1]) for epsilon in epsilons)]
        area, largest = area_under_curve(shares, np.stack(points)), str(epsilons[-1])
    return {
        "aer_robustness": area.value,
        "aer_low": area.low,
        "aer_high": area.high,
        "aer_epsilon": largest,
    }


def _left_at(epsilon: Fraction, outcomes: Outcomes, row: Row) -> Bools:
    """Returns (N,) who survived every attack and every challenge at up to an epsilon."""
    inside = [one for one in row.challenges if Fraction(one.epsilon) <= epsilon]
    left = measured.attacked(outcomes, row.protocol, epsilon)
    return left & ~challenged(outcomes, inside) if inside else left


def _size(size: Size) -> dict[str, Any]:
    # From the count of what is left: 1 - zeros / total would be off by a rounding.
    density = (size.total - size.zeros) / size.total
    return {
        "measured_sparsity": size.zeros / size.total,
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


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "zeros": layer.zeros,
        "total": layer.total,
        "multiply_adds": layer.multiply_adds_sparse,
    }


NETWORKS: tuple[Literal["dense", "masked", "compact"], ...] = ("dense", "masked", "compact")


def _speed(record: ResultRecord) -> dict[str, Any]:
    """Returns the compact network's size, and latencies in milliseconds; NaN where unknown."""
    small, found = record.compact, record.latency
    columns: dict[str, Any] = {
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


def _cost(record: ResultRecord) -> dict[str, Any]:
    return {
        "seconds": sum(cost.seconds for cost in record.cost.values()),
        "cost": {name: cost.model_dump() for name, cost in record.cost.items()},
    }


def _attacks(outcomes: Outcomes, protocol: Protocol) -> list[dict[str, Any]]:
    """Returns, by attack, how many examples it saw and how many it broke."""
    return [
        {
            "name": attempt.attack,
            "evaluation": attempt.evaluation,
            "epsilon": str(attempt.epsilon),
            "attempted": int(attempt.tried.sum()),
            "broken": int(attempt.broken.sum()),
        }
        for attempt in measured.attempts(outcomes, protocol)
    ]


def _curve(outcomes: Outcomes, protocol: Protocol) -> list[dict[str, Any]]:
    """Returns robust accuracy at every epsilon attacked, smallest first, 0 (clean) included."""
    epsilons = sorted({epsilon for _, epsilon, _ in measured.broken(outcomes, protocol)})
    points = [{"epsilon": "0", "value": 0.0, "robust_accuracy": _clean(outcomes)}]
    for epsilon in epsilons:
        robust = measured.share_of(measured.attacked(outcomes, protocol, epsilon))
        points.append({"epsilon": str(epsilon), "value": float(epsilon), "robust_accuracy": robust})
    return points


def _clean(outcomes: Outcomes) -> float:
    return measured.share_of(measured.clean_correct(outcomes))


def _certified_curve(outcomes: Outcomes, protocol: Protocol) -> list[dict[str, Any]]:
    """Returns certified accuracy at every certified epsilon, and whose bound was the best."""
    bounds = next(((n, s) for n, s in protocol.evaluations if isinstance(s, Bounds)), None)
    if bounds is None:
        return []
    name, settings = bounds
    lines = []
    for epsilon, proven in measured.certified(outcomes, protocol).items():
        best = outcomes.columns[f"{name}.method@{epsilon}"]
        lines.append(
            {
                "epsilon": str(epsilon),
                "value": float(epsilon),
                "certified_accuracy": measured.share_of(proven),
                "methods": {
                    method: int((proven & (best == index)).sum())
                    for index, method in enumerate(settings.methods)
                },
            }
        )
    return lines


def stored_flags(record: ResultRecord) -> tuple[Flag, ...]:
    """Returns the flags that evaluations raised, as a record keeps them."""
    return tuple(Flag(flag.name, flag.rate, flag.detail) for flag in record.flags)
