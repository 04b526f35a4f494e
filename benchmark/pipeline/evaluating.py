"""From checkpoints to records: plan shards, run what is missing, assemble."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from benchmark import outcomes as measured
from benchmark import records
from benchmark.architectures import Classifier
from benchmark.compaction import Compact, compacted, multiply_adds, parameters
from benchmark.datasets import status
from benchmark.digests import sha256_of_bytes, sha256_of_file
from benchmark.distributed import choose_device, evaluation_environment, map_jobs
from benchmark.errors import BenchmarkError, ContractError, RecordError
from benchmark.evaluations import Flag, Iterated, Settings, Sparing
from benchmark.evaluations.base import PROVEN, SURVIVED
from benchmark.evidence import encode
from benchmark.files import write_atomically
from benchmark.flags import all_flags
from benchmark.leaderboard import DENSE
from benchmark.manifest import Checkpoint, Manifest, load_model
from benchmark.outcomes import Array, Metrics, Outcomes
from benchmark.pipeline.bringing import bring, with_parents
from benchmark.pipeline.latencies import dense_parent, latencies_of
from benchmark.pipeline.pace import Pace, by_urgency
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import (
    ShardJob,
    ShardResult,
    certifies_first,
    compares_with_training,
    evaluated_split,
    examples_of,
    measure_shard,
    proofs_in,
    range_digest,
    read_outcomes,
    read_shard,
    run_shard,
    settled,
    training_digest,
    training_of,
    with_proofs,
)
from benchmark.protocols import PROTOCOLS, Protocol
from benchmark.pruning import measure
from benchmark.records import (
    CompactSize,
    Cost,
    EvidenceFile,
    FlagEntry,
    Layer,
    ResultRecord,
    Size,
)

# Stands in a column for an example that an evaluation of fewer examples did not see.
NOT_EVALUATED = -2

_NOTHING = Cost(seconds=0.0, forwards=0, backwards=0, attacked=0, proven=0, forwards_saved=0)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        protocol: under which.
        tier: on which of its examples.
        metrics: accuracies.
        outcomes: one row an example.
        flags: warnings.
        cost: by evaluation.
        record: the stored record, None for a network that is not in the manifest.
    """

    protocol: Protocol
    tier: str
    metrics: Metrics
    outcomes: Outcomes
    flags: tuple[Flag, ...]
    cost: dict[str, Cost]
    record: ResultRecord | None = None


def data_digest(project: Project, chosen: Protocol, tier: str) -> str:
    """Returns the digest of a tier's examples, and so checks that the data are there and whole."""
    _, order = evaluated_split(*_source(project, chosen))
    count = chosen.examples(tier)
    if len(order) < count:
        raise ContractError(
            f"expected {count} test examples of {chosen.dataset}, got {len(order)}; choose a "
            "smaller tier"
        )
    return range_digest(*_source(project, chosen), 0, count)


def _source(project: Project, chosen: Protocol) -> tuple[str, Path | None, bool]:
    return chosen.dataset, project.data_root, project.download


def current(
    project: Project,
    checkpoint: Checkpoint,
    chosen: Protocol,
    tier: str,
    digest: str,
    parent: Checkpoint | None = None,
) -> str:
    """Returns why a checkpoint needs evaluating at a tier; empty if its record already says it.

    A record of a larger tier says it too.

    Args:
        project: where things are.
        checkpoint: manifest entry.
        chosen: the protocol.
        tier: quick, standard or full.
        digest: of the tier's data.
        parent: dense checkpoint of the same cell, if there is one.
    """
    path = records.record_path(project.results, chosen.id, checkpoint.id)
    if not path.exists():
        return "no record"
    try:
        record, outcomes = records.read(path)
    except RecordError as error:
        return str(error)
    if reason := records.stale(record, checkpoint, chosen):
        return reason
    if record.examples < chosen.examples(tier):
        return f"record of tier {record.tier}"
    if (stored := record.data_digests[tier]) != digest:
        return f"expected data digest {digest[:12]}…, got {stored[:12]}…"
    if parent is not None and record.parent_sha256 != parent.sha256:
        return "another dense parent"
    at_hand = status(chosen.dataset, project.data_root).found
    if _compares(chosen) and at_hand and not record.training_digest:
        return "no comparison with training examples, which are at hand now"
    if altered := altered_evidence(project, record):
        return f"expected evidence as the record names it, got another {altered[0]}"
    return _contradiction(project, outcomes, chosen)


def _compares(chosen: Protocol) -> bool:
    return any(compares_with_training(settings, 0) for _, settings in chosen.evaluations)


def parent_of(checkpoint: Checkpoint, manifest: Manifest) -> Checkpoint | None:
    """Returns the dense checkpoint that a pruned one was made from; None where there is none."""
    if checkpoint.method == DENSE:
        return None
    names = ("dataset", "architecture", "objective", "recipe", "seed")
    cell = [getattr(checkpoint, name) for name in names]
    for entry in manifest.checkpoints:
        if entry.method == DENSE and [getattr(entry, name) for name in names] == cell:
            return entry
    return None


def altered_evidence(project: Project, record: ResultRecord) -> list[str]:
    """Returns the evidence files that are there and not what the record names.

    Missing ones are no reason to evaluate again: evidence may be kept elsewhere.
    """
    folder = records.evidence_folder(project.evidence, record.protocol, record.checkpoint_id)
    return [file.name for file in record.evidence if _altered(folder / file.name, file)]


def _altered(path: Path, file: EvidenceFile) -> bool:
    """Returns whether there is something else than a file of evidence, of its size and hash."""
    if not path.exists() and not path.is_symlink():
        return False
    # A link, a folder or a device is nobody's evidence; sizes first, since they cost nothing.
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
        return True
    return sha256_of_file(path) != file.sha256


def _tier(project: Project, checkpoint: Checkpoint, chosen: Protocol, asked: str) -> str:
    """Returns the tier to evaluate at: that of a record that speaks of this checkpoint, if larger.

    Whatever such a record lacks (evidence, another parent), its examples must not get fewer.
    """
    try:
        record, _ = records.read(records.record_path(project.results, chosen.id, checkpoint.id))
    except RecordError:
        return asked
    stands = not records.stale(record, checkpoint, chosen)
    return record.tier if stands and record.examples > chosen.examples(asked) else asked


def _lacking(project: Project, checkpoint: Checkpoint, chosen: Protocol) -> str:
    """Returns which file of evidence is not at hand; empty if all are, or there is no record."""
    try:
        record, _ = records.read(records.record_path(project.results, chosen.id, checkpoint.id))
    except RecordError:
        return ""
    folder = records.evidence_folder(project.evidence, chosen.id, checkpoint.id)
    missing = [file.name for file in record.evidence if not (folder / file.name).is_file()]
    if not record.evidence:
        return "a record without evidence"
    return f"evidence {missing[0]} is missing" if missing else ""


def _contradiction(project: Project, outcomes: Outcomes, chosen: Protocol) -> str:
    """Returns why outcomes cannot be those of the protocol's examples; empty if they can."""
    split, order = evaluated_split(*_source(project, chosen))
    indices = order[: len(outcomes)]
    same = np.array_equal(outcomes.columns["index"], indices.numpy())
    if not same or not np.array_equal(outcomes.columns["label"], split.labels[indices].numpy()):
        return "expected outcomes of the protocol's examples, got others"
    try:
        measured.check_invariants(outcomes, chosen)
    except BenchmarkError as error:
        return str(error)
    return ""


def plan(
    project: Project,
    checkpoint: Checkpoint,
    chosen: Protocol,
    tier: str,
    parent: Checkpoint | None = None,
) -> list[ShardJob]:
    """Returns every shard of a checkpoint's evaluation, in the protocol's order."""
    if checkpoint.dataset != chosen.dataset:
        raise ContractError(
            f"expected a checkpoint for {chosen.dataset} ({chosen.id}), got {checkpoint.id}"
        )
    source = _source(project, chosen)
    jobs = []
    for name, settings in chosen.evaluations:
        for part in chosen.shards(tier, settings):
            compared = compares_with_training(settings, part.start)
            jobs.append(
                ShardJob(
                    project=project,
                    checkpoint=checkpoint,
                    protocol=chosen,
                    evaluation=name,
                    start=part.start,
                    stop=part.stop,
                    data_digest=range_digest(*source, part.start, part.stop),
                    parent=parent,
                    training_digest=training_digest(*source, chosen.shard_size) if compared else "",
                )
            )
    return jobs


def assemble(
    parts: Iterable[tuple[str, int, ShardResult]], indices: Array, labels: Array
) -> tuple[Outcomes, tuple[Flag, ...], dict[str, Cost]]:
    """Returns outcomes, flags and cost of all shards together.

    Args:
        parts: (evaluation, first position, result) of every shard, in any order.
        indices: (N,) positions in the test split.
        labels: (N,) classes.
    """
    columns: dict[str, Array] = {
        "index": indices.astype(np.int32),
        "label": labels.astype(np.int16),
    }
    flags: dict[tuple[str, str], tuple[float, str]] = {}
    cost: dict[str, Cost] = {}
    for evaluation, start, shard in sorted(parts, key=lambda part: (part[0], part[1])):
        size = 0
        for name, values in shard.columns.items():
            key, size = f"{evaluation}.{name}", len(values)
            empty = np.nan if np.issubdtype(values.dtype, np.floating) else NOT_EVALUATED
            if key not in columns:
                fill = False if values.dtype == np.bool_ else empty
                columns[key] = np.full(len(labels), fill, dtype=values.dtype)
            columns[key][start : start + size] = values
        for flag in shard.flags:
            count, detail = flags.get((flag.name, evaluation), (0.0, flag.detail))
            flags[flag.name, evaluation] = (count + flag.rate * size, detail)
        known = cost.get(evaluation, _NOTHING)
        cost[evaluation] = _with(known, shard)
    return Outcomes(columns), _strongest(flags, len(labels)), cost


def _with(cost: Cost, shard: ShardResult) -> Cost:
    """Returns a cost with one more shard's in it."""
    attacked, proven = attacked_and_proven(shard.columns)
    return Cost(
        seconds=round(cost.seconds + shard.seconds, 3),
        forwards=cost.forwards + shard.forwards,
        backwards=cost.backwards + shard.backwards,
        attacked=cost.attacked + attacked,
        proven=cost.proven + proven,
        forwards_saved=0,
    )


def attacked_and_proven(columns: Mapping[str, Array]) -> tuple[int, int]:
    """Returns how many examples an evaluation attacked and spared, counted once an epsilon."""
    found = [values for name, values in columns.items() if name.startswith("broken_")]
    attacked = sum(int((values >= SURVIVED).sum()) for values in found)
    return attacked, sum(int((values == PROVEN).sum()) for values in found)


def savings(settings: Settings, cost: Cost, examples: int) -> int:
    """Returns how many forward passes were saved at least by sparing what is proven.

    A spared example would have survived every step, which costs no less than the mean of those
    attacked; where none was attacked, nothing is known. What an evaluation spends on all examples,
    attacked or not, is taken off first: a pass before its first search and one behind each.

    Args:
        settings: of the evaluation.
        cost: its passes, and how many examples it attacked and spared.
        examples: of the record.
    """
    if not isinstance(settings, Sparing) or not cost.attacked:
        return 0
    searches = _balls(settings) if isinstance(settings, Iterated) else len(settings.attacks)
    spent = max(0, cost.forwards - (1 + searches) * examples)
    return spent * cost.proven // cost.attacked


def _balls(settings: Iterated) -> int:
    return max(1, len(settings.epsilons))


def _strongest(flags: dict[tuple[str, str], tuple[float, str]], examples: int) -> tuple[Flag, ...]:
    """Returns each flag once; where several evaluations raised it, with the largest share."""
    raised: dict[str, Flag] = {}
    for (name, _), (count, detail) in sorted(flags.items()):
        rate = min(1.0, count / examples)
        if name not in raised or rate > raised[name].rate:
            raised[name] = Flag(name, rate, detail)
    return tuple(raised.values())


def size_of(checkpoint: Checkpoint, model: Classifier) -> Size:
    """Returns zeros, parameters and bytes of a checkpoint, counted from its network."""
    found = measure(model, model.shape, checkpoint.structure)
    entries = sum(tensor.numel() for tensor in model.state_dict().values())
    return Size(
        layers=tuple(
            Layer(
                name=layer.name,
                shape=layer.shape,
                zeros=layer.zeros,
                total=layer.total,
                multiply_adds_dense=layer.multiply_adds_dense,
                multiply_adds_sparse=layer.multiply_adds_sparse,
            )
            for layer in found.layers
        ),
        weight_zeros=found.weight_zeros,
        weight_total=found.weight_total,
        parameter_zeros=found.parameter_zeros,
        parameter_total=found.parameter_total,
        bytes_stored=checkpoint.bytes,
        bytes_dense=4 * entries,
    )


def compact_size(model: Classifier, small: Compact | None) -> CompactSize | None:
    """Returns what is counted of a compact network, None where there is none.

    Args:
        model: the network as published.
        small: the compact one of it.
    """
    if small is None:
        return None
    return CompactSize(
        parameters=parameters(small), multiply_adds=multiply_adds(small, model.shape)
    )


def finish(
    project: Project, checkpoint: Checkpoint, chosen: Protocol, tier: str, jobs: Sequence[ShardJob]
) -> ResultRecord:
    """Assembles the stored shards of a checkpoint, checks the invariants and writes the record.

    Raises:
        RecordError: a shard is missing.
        InvariantViolation: outcomes contradict each other; nothing is written.
    """
    parts = []
    for job in jobs:
        shard = read_outcomes(job.path)
        if shard is None:
            raise RecordError(f"expected a result in {job.path}, found none; run again")
        parts.append((job.evaluation, job.start, shard))
    outcomes, flags, cost = assembled(project, chosen, tier, parts)
    parent, device = jobs[0].parent, choose_device(project.device)
    model = load_model(checkpoint, project.root)
    size, small = size_of(checkpoint, model), compacted(model)
    record = ResultRecord(
        schema_version=records.SCHEMA_VERSION,
        status="done",
        reason="",
        checkpoint_id=checkpoint.id,
        checkpoint_sha256=checkpoint.sha256,
        protocol=chosen.id,
        protocol_version=chosen.version,
        protocol_digest=chosen.digest,
        tier=tier,
        examples=len(outcomes),
        data_digests={
            name: data_digest(project, chosen, name)
            for name, count in chosen.tiers
            if count <= len(outcomes)
        },
        size=size,
        cost=cost,
        flags=tuple(FlagEntry(name=f.name, rate=f.rate, detail=f.detail[:400]) for f in flags),
        environment=dict(evaluation_environment(device)),
        outcomes_sha256=sha256_of_bytes(outcomes.encode()),
        evidence=write_evidence(project, checkpoint, chosen, jobs),
        parent_sha256="" if parent is None else parent.sha256,
        training_digest=next((job.training_digest for job in jobs if job.training_digest), ""),
        compact=compact_size(model, small),
        latency=latencies_of(dense_parent(project, parent), model, small, device),
        content_digest="",
        seals={},
    )
    record = records.sealed(record)
    records.write(project.results, record, outcomes)
    return record


def assembled(
    project: Project,
    chosen: Protocol,
    tier: str,
    parts: Iterable[tuple[str, int, ShardResult]],
) -> tuple[Outcomes, tuple[Flag, ...], dict[str, Cost]]:
    """Returns what `assemble` does for a tier's examples, once no invariant speaks against it."""
    split, order = evaluated_split(*_source(project, chosen))
    indices = order[: chosen.examples(tier)]
    outcomes, flags, cost = assemble(parts, indices.numpy(), split.labels[indices].numpy())
    measured.check_invariants(outcomes, chosen)
    settings, count = dict(chosen.evaluations), len(outcomes)
    saved = {name: savings(settings[name], spent, count) for name, spent in cost.items()}
    return (
        outcomes,
        flags,
        {n: c.model_copy(update={"forwards_saved": saved[n]}) for n, c in cost.items()},
    )


def write_evidence(
    project: Project, checkpoint: Checkpoint, chosen: Protocol, jobs: Sequence[ShardJob]
) -> tuple[EvidenceFile, ...]:
    """Writes a file of evidence for each range of the example list, and returns what they are."""
    folder = records.evidence_folder(project.evidence, chosen.id, checkpoint.id)
    files = []
    for start, stop in sorted({(job.start, job.stop) for job in jobs}):
        found = {}
        for job in jobs:
            if job.start != start:
                continue
            shard = read_shard(job.path)
            if shard is None:
                job.path.unlink(missing_ok=True)
                raise RecordError(
                    f"expected a whole result in {job.path}, got a damaged one; it is removed, run "
                    "again"
                )
            if shard.evidence:
                found[job.evaluation] = shard.evidence
        data = encode(found)
        file = EvidenceFile(
            start=start,
            stop=stop,
            inputs=sum(len(finds) for attacks in found.values() for finds in attacks.values()),
            bytes=len(data),
            sha256=sha256_of_bytes(data),
        )
        write_atomically(folder / file.name, data)
        files.append(file)
    return tuple(files)


def _missing(jobs: Sequence[ShardJob]) -> set[Path]:
    return {job.path for job in jobs if read_outcomes(job.path) is None}


def unevaluated(
    project: Project, checkpoints: Sequence[Checkpoint], chosen: Protocol, tier: str
) -> list[Checkpoint]:
    """Returns the checkpoints whose records do not say what a tier asks; `evaluate_all` makes them.

    Args:
        project: where things are.
        checkpoints: manifest entries for the protocol's data set.
        chosen: the protocol.
        tier: quick, standard or full.
    """
    _, reasons = _reasons(project, checkpoints, chosen, tier)
    return [checkpoint for checkpoint in checkpoints if reasons[checkpoint.id]]


def _reasons(
    project: Project, checkpoints: Sequence[Checkpoint], chosen: Protocol, tier: str
) -> tuple[dict[str, Checkpoint | None], dict[str, str]]:
    """Returns each checkpoint's dense parent, and why it needs evaluating; both by id."""
    digest = data_digest(project, chosen, tier)
    manifest = project.manifest()
    parents = {c.id: parent_of(c, manifest) for c in checkpoints}
    reasons = {c.id: current(project, c, chosen, tier, digest, parents[c.id]) for c in checkpoints}
    return parents, reasons


def evaluate_all(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    chosen: Protocol,
    tier: str,
    watch: Watch = silent,
    *,
    with_evidence: bool = False,
) -> list[tuple[str, str]]:
    """Evaluates what is missing and returns (checkpoint id, why) for each that was evaluated.

    All shards of all checkpoints share one pool of workers; a record is written as soon as the last
    of its shards is there.

    Args:
        project: where things are, and on what they run.
        checkpoints: manifest entries for the protocol's data set.
        chosen: the protocol.
        tier: quick, standard or full.
        watch: told as each shard begins and ends.
        with_evidence: makes records anew whose evidence is not at hand. It may be kept elsewhere,
            so it is not missed unless asked for.
    """
    if PROTOCOLS.get(chosen.id) != chosen:
        raise ContractError(
            f"expected a protocol of the table for stored records, got another '{chosen.id}'; "
            "evaluate the bare network, or give the protocol an id of its own"
        )
    project = settled(project)
    parents, reasons = _reasons(project, checkpoints, chosen, tier)
    if with_evidence:
        lacking = {c.id: _lacking(project, c, chosen) for c in checkpoints}
        reasons = {name: reason or lacking[name] for name, reason in reasons.items()}
    wanted = [c for c in checkpoints if reasons[c.id]]
    bring(project, with_parents(wanted, (parents[c.id] for c in wanted)), watch)
    # A record that still stands is made again at its own tier, if that is the larger one.
    tiers = {c.id: _tier(project, c, chosen, tier) for c in wanted}
    plans = {c.id: plan(project, c, chosen, tiers[c.id], parents[c.id]) for c in wanted}
    open_jobs = {name: _missing(jobs) for name, jobs in plans.items()}
    pending = [job for name, jobs in plans.items() for job in jobs if job.path in open_jobs[name]]
    total = sum(len(jobs) for jobs in plans.values())
    done, pace = total - len(pending), Pace(pending)

    def begun(job: ShardJob) -> None:
        pace.begin(job)
        watch(done, total, f"{job.checkpoint.id}: {job.evaluation}", pace.left())

    for checkpoint in wanted:
        if not open_jobs[checkpoint.id]:
            finish(project, checkpoint, chosen, tiers[checkpoint.id], plans[checkpoint.id])
    device = choose_device(project.device)
    watch(done, total, "")
    for job, seconds in map_jobs(run_shard, by_urgency(pending), project.workers, device, begun):
        done += 1
        pace.end(job, seconds)
        shown = pace.oldest() or job
        watch(done, total, f"{shown.checkpoint.id}: {shown.evaluation}", pace.left())
        left = open_jobs[job.checkpoint.id]
        left.discard(job.path)
        if not left:
            name = job.checkpoint.id
            finish(project, job.checkpoint, chosen, tiers[name], plans[name])
    return [(c.id, reasons[c.id]) for c in wanted]


def evaluate_model(
    project: Project, model: nn.Module, chosen: Protocol, tier: str, watch: Watch = silent
) -> Evaluation:
    """Evaluates a network that is not in the manifest; nothing is stored.

    Args:
        project: where the data are.
        model: inputs (N, C, H, W) in [0, 1] to logits (N, K).
        chosen: the protocol.
        tier: quick, standard or full.
        watch: told after each shard.
    """
    device = choose_device(project.device)
    network = model.to(device)
    data_digest(project, chosen, tier)
    planned = [(n, r) for n, s in chosen.evaluations for r in chosen.shards(tier, s)]
    # What attacks need first, as for checkpoints.
    settings = dict(chosen.evaluations)
    planned.sort(key=lambda pair: certifies_first(chosen, settings[pair[0]]))
    parts: list[tuple[str, int, ShardResult]] = []
    for done, (name, part) in enumerate(planned):
        watch(done, len(planned), name)
        examples = examples_of(project, chosen, part.start, part.stop)
        if certifies_first(chosen, settings[name]):
            known = [(settings[n], shard) for n, start, shard in parts if start == part.start]
            examples = with_proofs(examples, proofs_in(known))
        if compares_with_training(settings[name], part.start):
            examples = replace(examples, training=training_of(project, chosen))
        parts.append((name, part.start, measure_shard(network, chosen, name, examples, part.start)))
    outcomes, flags, cost = assembled(project, chosen, tier, parts)
    found = measured.metrics(outcomes, chosen)
    raised = all_flags(flags, outcomes, chosen)
    return Evaluation(chosen, tier, found, outcomes, raised, cost)
