"""From checkpoints to records: plan shards, run what is missing, assemble."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmark import outcomes as measured
from benchmark import records
from benchmark.digests import sha256_of_bytes
from benchmark.distributed import choose_device, choose_workers, environment, map_jobs
from benchmark.errors import BenchmarkError, ContractError, RecordError
from benchmark.evaluations import Flag
from benchmark.manifest import Checkpoint, load_model
from benchmark.outcomes import Array, Metrics, Outcomes
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import (
    ShardJob,
    ShardResult,
    evaluated_split,
    examples_of,
    measure_shard,
    range_digest,
    read_outcomes,
    run_shard,
)
from benchmark.protocols import PROTOCOLS, Protocol
from benchmark.pruning import measure
from benchmark.records import Cost, FlagEntry, Layer, ResultRecord, Size

# Stands in a column for an example that an evaluation of fewer examples did not see.
NOT_EVALUATED = -2


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
    project: Project, checkpoint: Checkpoint, chosen: Protocol, tier: str, digest: str
) -> str:
    """Returns why a checkpoint needs evaluating at a tier; empty if its record already says it.

    A record of a larger tier says it too.
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
    return _contradiction(project, outcomes, chosen)


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


def plan(project: Project, checkpoint: Checkpoint, chosen: Protocol, tier: str) -> list[ShardJob]:
    """Returns every shard of a checkpoint's evaluation, the cheap evaluations first."""
    if checkpoint.dataset != chosen.dataset:
        raise ContractError(
            f"expected a checkpoint for {chosen.dataset} ({chosen.id}), got {checkpoint.id}"
        )
    jobs = []
    for name, settings in chosen.evaluations:
        for part in chosen.shards(tier, settings):
            digest = range_digest(*_source(project, chosen), part.start, part.stop)
            jobs.append(ShardJob(project, checkpoint, chosen, name, part.start, part.stop, digest))
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
        known = cost.get(evaluation, Cost(seconds=0.0, forwards=0, backwards=0))
        cost[evaluation] = Cost(
            seconds=round(known.seconds + shard.seconds, 3),
            forwards=known.forwards + shard.forwards,
            backwards=known.backwards + shard.backwards,
        )
    return Outcomes(columns), _strongest(flags, len(labels)), cost


def _strongest(flags: dict[tuple[str, str], tuple[float, str]], examples: int) -> tuple[Flag, ...]:
    """Returns each flag once; where several evaluations raised it, with the largest share."""
    raised: dict[str, Flag] = {}
    for (name, _), (count, detail) in sorted(flags.items()):
        rate = min(1.0, count / examples)
        if name not in raised or rate > raised[name].rate:
            raised[name] = Flag(name, rate, detail)
    return tuple(raised.values())


def _size(checkpoint: Checkpoint, project: Project) -> Size:
    model = load_model(checkpoint, project.root)
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
    split, order = evaluated_split(chosen.dataset, project.data_root, project.download)
    indices = order[: chosen.examples(tier)]
    outcomes, flags, cost = assemble(parts, indices.numpy(), split.labels[indices].numpy())
    measured.check_invariants(outcomes, chosen)
    data = outcomes.encode()
    record = ResultRecord(
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
        size=_size(checkpoint, project),
        cost=cost,
        flags=tuple(FlagEntry(name=f.name, rate=f.rate, detail=f.detail[:400]) for f in flags),
        environment=dict(environment(choose_device(project.device))),
        outcomes_sha256=sha256_of_bytes(data),
    )
    record = record.model_copy(update={"content_digest": records.content_digest(record)})
    records.write(project.results, record, outcomes)
    return record


def _missing(jobs: Sequence[ShardJob]) -> set[Path]:
    return {job.path for job in jobs if read_outcomes(job.path) is None}


def evaluate_all(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    chosen: Protocol,
    tier: str,
    watch: Watch = silent,
) -> list[tuple[str, str]]:
    """Evaluates what is missing and returns (checkpoint id, why) for each that was evaluated.

    All shards of all checkpoints share one pool of workers; a record is written as soon as the last
    of its shards is there.

    Args:
        project: where things are, and on what they run.
        checkpoints: manifest entries for the protocol's data set.
        chosen: the protocol.
        tier: quick, standard or full.
        watch: told after each shard.
    """
    if PROTOCOLS.get(chosen.id) != chosen:
        raise ContractError(
            f"expected a protocol of the table for stored records, got another '{chosen.id}'; "
            "evaluate the bare network, or give the protocol an id of its own"
        )
    # One device for all: `auto` might choose another in a worker process.
    project = replace(project, device=str(choose_device(project.device)))
    digest = data_digest(project, chosen, tier)
    reasons = {c.id: current(project, c, chosen, tier, digest) for c in checkpoints}
    wanted = [c for c in checkpoints if reasons[c.id]]
    plans = {c.id: plan(project, c, chosen, tier) for c in wanted}
    open_jobs = {name: _missing(jobs) for name, jobs in plans.items()}
    pending = [job for name, jobs in plans.items() for job in jobs if job.path in open_jobs[name]]
    total = sum(len(jobs) for jobs in plans.values())
    done = total - len(pending)
    for checkpoint in wanted:
        if not open_jobs[checkpoint.id]:
            finish(project, checkpoint, chosen, tier, plans[checkpoint.id])
    workers = choose_workers(project.workers, choose_device(project.device))
    watch(done, total, "")
    for job, _ in map_jobs(run_shard, pending, workers):
        done += 1
        watch(done, total, f"{job.checkpoint.id}: {job.evaluation}")
        left = open_jobs[job.checkpoint.id]
        left.discard(job.path)
        if not left:
            finish(project, job.checkpoint, chosen, tier, plans[job.checkpoint.id])
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
    parts = []
    for done, (name, part) in enumerate(planned):
        watch(done, len(planned), name)
        examples = examples_of(project, chosen, part.start, part.stop)
        parts.append((name, part.start, measure_shard(network, chosen, name, examples, part.start)))
    split, order = evaluated_split(chosen.dataset, project.data_root, project.download)
    indices: torch.Tensor = order[: chosen.examples(tier)]
    outcomes, flags, cost = assemble(parts, indices.numpy(), split.labels[indices].numpy())
    measured.check_invariants(outcomes, chosen)
    found = measured.metrics(outcomes, chosen)
    raised = measured.all_flags(flags, outcomes, chosen)
    return Evaluation(chosen, tier, found, outcomes, raised, cost)
