"""Audits: a random share of a record is measured again, and says what that means for the rest.

Attacks draw afresh and spare nobody, so an example that survived by luck may fall now: an honest
effect of random draws, counted and handed on as a challenge. A prediction that differs, a
certificate that does not hold, a smoothed radius that its votes rule out or a flag that the record
lacks is no matter of luck.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from benchmark.bounds import UnboundableNetwork, rounding_allowance
from benchmark.digests import digest_of, seed_from
from benchmark.distributed import (
    choose_device,
    evaluation_environment,
    map_jobs,
    steady,
)
from benchmark.errors import BenchmarkError, ContractError, InvariantViolation
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    Clean,
    Examples,
    Flag,
    Sanity,
    Settings,
    Smoothing,
    Transfer,
)
from benchmark.evaluations.confirm import judge
from benchmark.evaluations.engine import Guard, threat_of
from benchmark.evaluations.sanity import vanishing
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import Checkpoint, Digest, Line, Strict, load_model, slug
from benchmark.outcomes import (
    Array,
    Bools,
    attacked,
    certified,
    clean_correct,
    encode_arrays,
    part,
)
from benchmark.pipeline.bringing import bring, with_parents
from benchmark.pipeline.challenging import Standing
from benchmark.pipeline.challenging import standing as find_standing
from benchmark.pipeline.evaluating import parent_of
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import (
    ShardResult,
    compares_with_training,
    measure_shard,
    settled,
    training_of,
)
from benchmark.protocols import BROKEN_CONTRACT, Protocol
from benchmark.statistics import clopper_pearson, upper_bound_of_wrong

LARGEST_AUDIT = 16 << 20

# A recorded radius is refuted where fresh votes put the class's probability below what it takes
# with this confidence. Both are random: a record's own certificate may be wrong with the protocol's
# alpha, but hardly ever by so much.
VOTES_CONFIDENCE = 1 - 1e-6

# Differences in these are no matter of random draws.
CONTRADICTIONS = ("clean", "zero-gradient", "certificate", "smoothed", "flags")

Kind = Literal["clean", "zero-gradient", "certificate", "smoothed", "robust", "broken", "flags"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(gt=0, le=1)]


class Finding(Strict):
    """What an audit says about one kind of outcome.

    Attributes:
        kind: `clean`: the predicted class; `zero-gradient`: whether the loss has no gradient, or
            one that vanishes in rounding; `certificate`: proven at some epsilon; `smoothed`:
            certified by smoothing; `robust`: survived all attacks within the protocol's epsilon and
            is not certified there; `broken`: an attack broke it there; `flags`: of the checks of
            the contract.
        claims: outcomes of that kind in the record; 0 of flags, which are of no example.
        sampled: of them that were measured again.
        wrong: of these that differ. Of the broken none does: their adversarial inputs are on
            record, and `verify` looks at all of them. Of flags those that the record lacks.
        at_most: wrong outcomes among all claims, with the audit's confidence; exact. None of the
            broken, which are not put to the test, and of flags.
        again: of the sampled broken ones that fresh attacks broke again; 0 of other kinds.
        examples: test examples of the wrong ones.
        flags: raised now and not on record; empty of other kinds.
    """

    kind: Kind
    claims: Count
    sampled: Count
    wrong: Count
    at_most: Count | None
    again: Count
    examples: tuple[Count, ...] = Field(strict=False)
    flags: tuple[Line, ...] = Field(strict=False)


class AuditReport(Strict):
    """The result of one audit: a function of the record, the seed and the machine's rounding.

    Attributes:
        schema_version: of this format.
        checkpoint_id: id in the manifest.
        checkpoint_sha256: of the weights.
        protocol: id.
        protocol_digest: its digest.
        record_digest: content digest of the record that was audited.
        tier: of the record.
        examples: of the record.
        sampled: test examples that were measured again, rising.
        fraction: share of the examples that was asked for.
        confidence: of the bounds, one-sided.
        seed: of the sample and of every fresh draw.
        environment: versions and device of the audit.
        same_environment: whether the record was made with the same.
        findings: one a kind.
        content_digest: of all of the above.
    """

    schema_version: Literal[2] = 2
    checkpoint_id: Line = Field(max_length=200)
    checkpoint_sha256: Digest
    protocol: Line
    protocol_digest: Digest
    record_digest: Digest
    tier: Line
    examples: int = Field(ge=1, lt=2**63)
    sampled: tuple[Count, ...] = Field(strict=False, min_length=1)
    fraction: Share
    confidence: float = Field(gt=0, lt=1)
    seed: Count
    environment: dict[Line, Line]
    same_environment: bool
    findings: tuple[Finding, ...] = Field(strict=False)
    content_digest: Line = ""

    def finding(self, kind: Kind) -> Finding:
        """Returns what is said about one kind."""
        return next(finding for finding in self.findings if finding.kind == kind)


@dataclass(frozen=True)
class Draw:
    """How an audit chooses.

    Attributes:
        seed: of the sample and of every fresh draw.
        fraction: share of a record's examples, in (0, 1].
        confidence: of the bounds, in (0, 1).
    """

    seed: int
    fraction: float = 0.1
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0 < self.fraction <= 1 or not 0 < self.confidence < 1 or not 0 <= self.seed < 2**63:
            raise ContractError(
                "expected a fraction in (0, 1], a confidence in (0, 1) and a seed from 0 on, got "
                f"{self.fraction}, {self.confidence} and {self.seed}; 0.1 and 0.95 are usual"
            )


@dataclass(frozen=True)
class AuditJob:
    """One checkpoint to audit.

    Attributes:
        project: where things are.
        checkpoint: manifest entry.
        protocol: whose record is audited.
        draw: how to choose.
        parent: dense checkpoint of the same cell, for transfer; None where there is none.
    """

    project: Project
    checkpoint: Checkpoint
    protocol: Protocol
    draw: Draw
    parent: Checkpoint | None = None


@dataclass(frozen=True)
class Audit:
    """What an audit leaves.

    Attributes:
        report: as it is stored.
        path: where.
        challenge: inputs that broke survivors, ready to be sent; None where there are none.
    """

    report: AuditReport
    path: Path
    challenge: Path | None


def audit_all(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    chosen: Protocol,
    draw: Draw,
    watch: Watch = silent,
) -> list[Audit]:
    """Audits records and returns what was found, in the order of the checkpoints.

    Args:
        project: where things are, and on what they run.
        checkpoints: manifest entries with records under the protocol.
        chosen: the protocol.
        draw: how to choose; the same one gives the same sample and result.
        watch: told after each checkpoint.

    Raises:
        RecordError: a checkpoint has no record that stands.
    """
    project = settled(project)
    manifest = project.manifest()
    jobs = [AuditJob(project, c, chosen, draw, parent_of(c, manifest)) for c in checkpoints]
    for job in jobs:  # refusals come before the work
        find_standing(project, job.checkpoint, chosen)
    bring(project, with_parents(checkpoints, (job.parent for job in jobs)), watch)
    watch(0, len(jobs), "")
    found: dict[str, Audit] = {}
    device = choose_device(project.device)
    for job, answer in map_jobs(audit, jobs, project.workers, device):
        found[job.checkpoint.id] = answer
        watch(len(found), len(jobs), f"{job.checkpoint.id}: audited")
    return [found[job.checkpoint.id] for job in jobs]


def audit(job: AuditJob) -> Audit:
    """Returns what an audit finds, from disk if this very audit was done before."""
    where = find_standing(job.project, job.checkpoint, job.protocol)
    path = audit_path(job)
    inputs = inputs_path(job)
    report = _read(path)
    if report is None or not _answers(report, job, where, inputs):
        report, adversarial = _measure(job, where)
        if adversarial:
            write_atomically(inputs, encode_arrays(adversarial))
        text = json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomically(path, f"{text}\n".encode())
    return Audit(report, path, inputs if report.finding("robust").wrong else None)


def audit_path(job: AuditJob) -> Path:
    """Returns where the report of an audit lies."""
    folder = job.project.root / "reports" / "audits" / job.protocol.id
    return folder / f"{slug(job.checkpoint.id)}-{job.draw.seed}.json"


def inputs_path(job: AuditJob) -> Path:
    """Returns where the inputs lie with which an audit broke survivors."""
    name = f"{slug(job.checkpoint.id)}-{job.draw.seed}.npz"
    return job.project.cache / "audits" / job.protocol.id / name


def refuse_contradictions(audits: Sequence[Audit]) -> None:
    """Refuses records that an audit contradicts.

    Raises:
        InvariantViolation: names the outcomes and the test examples of each, or the flags.
    """
    parts = []
    for one in audits:
        for finding in one.report.findings:
            if finding.wrong and finding.kind in CONTRADICTIONS:
                named = ", ".join(finding.flags) or f"at {list(finding.examples[:10])}"
                parts.append(f"{finding.kind} of {one.report.checkpoint_id} {named}")
    if parts:
        foreign = not all(one.report.same_environment for one in audits)
        raise InvariantViolation(
            "expected outcomes that hold when measured again, got contradictions at test examples "
            f"(kind, checkpoint, first 10; or flags that the record lacks): {'; '.join(parts)}; "
            "evaluate again and report it with the record"
            f"{', which was made on another machine' if foreign else ''}"
        )


# --- What is stored -------------------------------------------------------------------------------


def _digest(report: AuditReport) -> str:
    return digest_of(report.model_dump(mode="json", exclude={"content_digest"}))


def _read(path: Path) -> AuditReport | None:
    """Returns a stored report, or None where there is none or it is damaged and must be redone."""
    try:
        report = AuditReport.model_validate_json(read_bounded(path, LARGEST_AUDIT))
    except (FileNotFoundError, BenchmarkError, ValidationError):
        return None
    return report if report.content_digest == _digest(report) else None


def _answers(report: AuditReport, job: AuditJob, where: Standing, inputs: Path) -> bool:
    """Returns whether a stored report is the answer to a job, its inputs included."""
    draw = job.draw
    asked = (where.record.content_digest, draw.seed, draw.fraction, draw.confidence)
    given = (report.record_digest, report.seed, report.fraction, report.confidence)
    now = dict(evaluation_environment(choose_device(job.project.device)))
    whole = inputs.exists() or not report.finding("robust").wrong
    return asked == given and report.environment == now and whole


# --- The second look ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Broken:
    """Adversarial inputs that stand on whole shards of the protocol.

    Attributes:
        epsilon: of the ball they lie in.
        positions: (n,) in the record's example list.
        inputs: (n, C, H, W) float32.
    """

    epsilon: Fraction
    positions: Array
    inputs: Array


@dataclass(frozen=True)
class _Second:
    """What the second look at a sample found.

    Attributes:
        moved: (N,) bool over the record, True where a sampled prediction is another.
        flat: (N,) bool over the record, True where zero or vanishing gradients are other than
            recorded.
        columns: evaluation → columns over the sample, from bounds and smoothing.
        broken: what fresh attacks broke.
        flags: names of all that was raised.
    """

    moved: Bools
    flat: Bools
    columns: dict[str, dict[str, Array]]
    broken: tuple[_Broken, ...]
    flags: frozenset[str]


def sample(count: int, fraction: float, seed: int, name: str) -> Array:
    """Returns a simple random sample without replacement of positions 0 … count - 1, rising.

    Args:
        count: examples to choose from, at least 1.
        fraction: share of them, in (0, 1]; at least one example is chosen.
        seed: of the audit.
        name: keeps the samples of several checkpoints unrelated.

    >>> sample(20, 0.2, seed=1, name="a").tolist() == sample(20, 0.2, seed=1, name="a").tolist()
    True
    """
    draw = np.random.default_rng(seed_from(seed, "audit", name))
    size = max(1, round(fraction * count))
    return np.sort(draw.permutation(count)[:size])


def _measure(job: AuditJob, where: Standing) -> tuple[AuditReport, dict[str, Array]]:
    """Returns the report, and `index` and `inputs` of what broke survivors; empty for none."""
    draw, name = job.draw, where.record.checkpoint_sha256
    chosen = sample(len(where.outcomes), draw.fraction, draw.seed, name)
    with steady():
        second = _look(job, where, chosen)
    report = _report(job, where, chosen, tuple(_findings(where, second, chosen, draw.confidence)))
    return report, _adversarial(where, second, report)


def _report(
    job: AuditJob, where: Standing, chosen: Array, findings: tuple[Finding, ...]
) -> AuditReport:
    record, now = where.record, dict(evaluation_environment(choose_device(job.project.device)))
    report = AuditReport(
        checkpoint_id=record.checkpoint_id,
        checkpoint_sha256=record.checkpoint_sha256,
        protocol=record.protocol,
        protocol_digest=record.protocol_digest,
        record_digest=record.content_digest,
        tier=record.tier,
        examples=record.examples,
        sampled=tuple(np.sort(where.index[chosen]).tolist()),
        fraction=job.draw.fraction,
        confidence=job.draw.confidence,
        seed=job.draw.seed,
        environment=now,
        same_environment=now == record.environment,
        findings=findings,
    )
    return report.model_copy(update={"content_digest": _digest(report)})


def fresh(chosen: Protocol, seed: int) -> Protocol:
    """Returns a protocol that differs from another in its draws alone."""
    evaluations = tuple((name, _reseeded(s, seed)) for name, s in chosen.evaluations)
    return replace(chosen, seed=seed_from(seed, "draws"), evaluations=evaluations)


def _reseeded(settings: Settings, seed: int) -> Settings:
    if isinstance(settings, AutoAttack):
        return replace(settings, seed=seed_from(seed, "autoattack") % 2**31)
    return settings


def _look(job: AuditJob, where: Standing, chosen: Array) -> _Second:
    """Measures a sample again, everything that the protocol does."""
    model = where.network()
    moved, flat, flags = _clean(model, where, chosen)
    flags += _beside_training(model, where)
    protocol = fresh(where.protocol, job.draw.seed)
    columns: dict[str, dict[str, Array]] = {}
    broken: list[_Broken] = []
    for name, settings in protocol.evaluations:
        for positions in _pieces(where, settings, chosen):
            examples = _examples(job, where, positions, settings)
            shard = measure_shard(model, protocol, name, examples, int(positions[0]))
            known = columns.setdefault(name, {})
            for column, values in shard.columns.items():
                known[column] = np.concatenate([known.get(column, values[:0]), values])
            broken += _confirmed(model, where, positions, shard)
            flags += shard.flags
    return _Second(moved, flat, columns, tuple(broken), frozenset(flag.name for flag in flags))


def _pieces(where: Standing, settings: Settings, chosen: Array) -> Iterator[Array]:
    """Yields the sampled positions that an evaluation sees, at most a shard of them at a time."""
    size, seen = where.protocol.shard_size, chosen
    if isinstance(settings, Smoothing):
        seen = chosen[chosen < settings.examples]
    if not isinstance(settings, Clean):  # which looks at whole shards
        for start in range(0, len(seen), size):
            yield seen[start : start + size]


def _examples(job: AuditJob, where: Standing, positions: Array, settings: Settings) -> Examples:
    """Returns sampled examples as a shard; it names nothing proven, so attacks spare nobody."""
    indices = torch.from_numpy(where.index[positions].astype(np.int64))
    device = choose_device(where.project.device)
    dense = job.parent if isinstance(settings, Transfer) else None
    return Examples(
        inputs=where.split.inputs(indices).to(device),
        labels=where.split.labels[indices].to(device),
        indices=indices,
        classes=where.classes,
        parent=None if dense is None else load_model(dense, where.project.root).to(device),
    )


def _beside_training(model: nn.Module, where: Standing) -> list[Flag]:
    """Returns the flags of the one range that is compared with training examples.

    Drawn as recorded: the comparison is a test of significance, which fresh draws could tip.
    """
    flags: list[Flag] = []
    first, protocol = where.ranges[0], where.protocol
    training = training_of(where.project, protocol)
    for name, settings in protocol.evaluations:
        if training is not None and compares_with_training(settings, first.start):
            examples = replace(where.examples(first), training=training)
            flags += measure_shard(model, protocol, name, examples, first.start).flags
    return flags


def _clean(model: nn.Module, where: Standing, chosen: Array) -> tuple[Bools, Bools, list[Flag]]:
    """Returns (N,) where sampled predictions and gradients are other than recorded, and the flags.

    On whole shards, as they were recorded. A prediction counts as moved only if more than rounding
    lies between the two classes: another processor may decide a tie the other way.
    """
    sampled = _at(chosen, where)
    moved, flat = np.zeros_like(sampled), np.zeros_like(sampled)
    flags: list[Flag] = []
    name = next(n for n, s in where.protocol.evaluations if isinstance(s, Clean))
    recorded = part(where.outcomes, name)
    for positions in where.ranges:
        here = slice(positions.start, positions.stop)
        if sampled[here].any():
            examples = where.examples(positions)
            shard = measure_shard(model, where.protocol, name, examples, positions.start)
            flat[here] = shard.columns["zero_gradient"] != recorded["zero_gradient"][here]
            flat[here] |= _vanished(model, where, examples, here)
            flags += shard.flags
            moved[here] = ~_predicted(model, examples, recorded["prediction"][here])
    return moved & sampled, flat & sampled, flags


def _vanished(model: nn.Module, where: Standing, examples: Examples, here: slice) -> Bools:
    """Returns (n,) whether vanishing gradients of a whole shard are other than recorded."""
    differs = np.zeros(len(examples.labels), dtype=np.bool_)
    for name, settings in where.protocol.evaluations:
        if isinstance(settings, Sanity):
            recorded = part(where.outcomes, name)["vanishing_gradient"][here]
            differs |= vanishing(model, examples).cpu().numpy() != recorded
    return differs


def _at(positions: Array, where: Standing) -> Bools:
    """Returns (N,) bool over the record, True at some positions."""
    return np.isin(np.arange(len(where.outcomes)), positions)


@torch.no_grad()
def _predicted(model: nn.Module, examples: Examples, classes: Array) -> Bools:
    """Returns (N,) whether a class has the largest logit, up to rounding."""
    logits: torch.Tensor = model(examples.inputs)
    said = torch.from_numpy(classes.astype(np.int64)).to(logits.device)
    possible = said < logits.shape[1]
    own = logits.gather(1, torch.where(possible, said, 0).unsqueeze(1)).squeeze(1)
    try:
        allowance = rounding_allowance(model, examples.inputs)
    except UnboundableNetwork:
        allowance = torch.zeros_like(own)
    near = logits.amax(dim=1) - own <= 2 * allowance
    return (possible & near).cpu().numpy()


def _confirmed(
    model: nn.Module, where: Standing, positions: Array, shard: ShardResult
) -> Iterator[_Broken]:
    """Yields what attacks found on a sample, as far as it fools the network on whole shards too."""
    guarded = Guard(model, where.classes)
    for attack, finds in shard.evidence.items():
        threat = threat_of(attack, where.protocol.threat)
        places = positions[finds.positions]
        for whole in where.ranges:
            here = (places >= whole.start) & (places < whole.stop)
            if here.any():
                examples = where.examples(whole)
                moved = torch.from_numpy(places[here] - whole.start).to(examples.inputs.device)
                inputs = torch.from_numpy(finds.inputs[here]).to(examples.inputs.device)
                stands = judge(guarded, examples, moved, inputs, threat).fooled.cpu().numpy()
                yield _Broken(threat.epsilon, places[here][stands], finds.inputs[here][stands])


# --- What it says ---------------------------------------------------------------------------------


def _findings(
    where: Standing, second: _Second, chosen: Array, confidence: float
) -> Iterator[Finding]:
    """Yields what a second look says about each kind of outcome."""
    sampled = _at(chosen, where)
    broken = _within(where, second, where.protocol.threat.epsilon)
    for kind, claims, differs in _kinds(where, second, chosen, broken):
        found = where.index[claims & sampled & differs]
        counts = (len(found), int((claims & sampled).sum()), int(claims.sum()))
        untested = kind == "broken"
        bound = upper_bound_of_wrong(*counts, confidence) if counts[2] else 0
        yield Finding(
            kind=kind,
            claims=counts[2],
            sampled=counts[1],
            wrong=counts[0],
            at_most=None if untested else bound,
            again=int((claims & sampled & broken).sum()) if untested else 0,
            examples=tuple(np.sort(found).tolist()),
            flags=(),
        )
    yield _unflagged(where, second)


def _unflagged(where: Standing, second: _Second) -> Finding:
    """Returns which flags of the contract were raised now that the record lacks."""
    recorded = {flag.name for flag in where.record.flags}
    names = tuple(n for n in BROKEN_CONTRACT if n in second.flags and n not in recorded)
    return Finding(
        kind="flags",
        claims=0,
        sampled=0,
        wrong=len(names),
        at_most=None,
        again=0,
        examples=(),
        flags=names,
    )


def _kinds(
    where: Standing, second: _Second, chosen: Array, broken: Bools
) -> Iterator[tuple[Kind, Bools, Bools]]:
    """Yields each kind of outcome with (N,) what the record claims and (N,) what differs now."""
    outcomes, protocol = where.outcomes, where.protocol
    nothing = np.zeros(len(outcomes), dtype=np.bool_)
    proven = certified(outcomes, protocol)
    somewhere = np.any([nothing, *proven.values()], axis=0)
    standing = attacked(outcomes, protocol, protocol.threat.epsilon)
    yield "clean", ~nothing, second.moved
    yield "zero-gradient", ~nothing, second.flat
    yield "certificate", somewhere, _unproven(where, second, chosen)
    yield "smoothed", *_smoothed(where, second, chosen)
    yield "robust", standing & ~proven.get(protocol.threat.epsilon, nothing), broken
    yield "broken", clean_correct(outcomes) & ~standing, nothing


def _within(where: Standing, second: _Second, epsilon: Fraction) -> Bools:
    """Returns (N,) whether fresh attacks broke an example at an epsilon or below."""
    found = [one.positions for one in second.broken if one.epsilon <= epsilon]
    return _at(np.concatenate([np.empty(0, dtype=np.int64), *found]), where)


def _unproven(where: Standing, second: _Second, chosen: Array) -> Bools:
    """Returns (N,) whether a certificate of a sampled example does not hold.

    Either nothing is proven now, or an attack refutes it. Bounds computed in other company round
    differently, which is what the slack that a protocol asks of them is for: now 0 is enough.
    """
    wrong = np.zeros(len(where.outcomes), dtype=np.bool_)
    for name, settings in where.protocol.evaluations:
        if isinstance(settings, Bounds):
            for epsilon, claimed in settings.proven(part(where.outcomes, name)).items():
                again = np.zeros_like(wrong)
                again[chosen] = second.columns[name][f"margin@{epsilon}"] > 0
                wrong |= claimed & (~again | _within(where, second, epsilon))
    return wrong


def _smoothed(where: Standing, second: _Second, chosen: Array) -> tuple[Bools, Bools]:
    """Returns (N,) whether smoothing certifies an example, and whether fresh votes rule it out."""
    claims = np.zeros(len(where.outcomes), dtype=np.bool_)
    wrong = claims.copy()
    for name, settings in where.protocol.evaluations:
        if isinstance(settings, Smoothing):
            recorded = part(where.outcomes, name)
            claims |= recorded["prediction"] >= 0
            votes = second.columns.get(name, {"count": (), "selected": ()})
            places = chosen[chosen < settings.examples]
            for place, own, count in zip(places, votes["selected"], votes["count"], strict=True):
                same = own == recorded["prediction"][place]
                most = _most(int(count), settings.n, same=bool(same))
                needed = NormalDist().cdf(float(recorded["radius"][place]) / settings.sigma)
                # Written so that a radius of NaN is wrong.
                wrong[place] = claims[place] and not needed <= most
    return claims, wrong


def _most(count: int, votes: int, *, same: bool) -> float:
    """Returns the largest probability of a class that fresh votes leave possible.

    Args:
        count: votes of the class that was selected now.
        votes: in all.
        same: whether that is the class in question; else it has what is left at most.
    """
    low, high = clopper_pearson(count, votes, VOTES_CONFIDENCE)
    return high if same else 1 - low


def _adversarial(where: Standing, second: _Second, report: AuditReport) -> dict[str, Array]:
    """Returns the first input that broke each survivor, in order of the test split."""
    wanted = set(report.finding("robust").examples)
    found: dict[int, Array] = {}
    for one in second.broken:
        if one.epsilon <= where.protocol.threat.epsilon:
            for position, inputs in zip(one.positions, one.inputs, strict=True):
                if (example := int(where.index[position])) in wanted:
                    found.setdefault(example, inputs)
    if not found:
        return {}
    index = np.array(sorted(found), dtype=np.int64)
    return {"index": index, "inputs": np.stack([found[int(i)] for i in index])}
