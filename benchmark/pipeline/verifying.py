"""Verification: everything a record claims that can be checked again in seconds, is.

One forward pass shows that unmodified inputs are classified as recorded and one an attack that its
finds are adversarial; bounds are computed again for a share of the examples; zeros are counted
again. What only a new run could tell (that attacks find no more, how many passes they took) is for
`audit`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmark import challenges, records
from benchmark import outcomes as measured
from benchmark.architectures import Classifier
from benchmark.bounds import UnboundableNetwork, rounding_allowance
from benchmark.challenges import Challenge
from benchmark.compaction import compacted
from benchmark.datasets import describe
from benchmark.digests import seed_from
from benchmark.distributed import choose_device, evaluation_environment, map_jobs, steady
from benchmark.errors import BenchmarkError, ContractError, RecordError
from benchmark.evaluations import (
    Bounds,
    Clean,
    Examples,
    Iterated,
    Measured,
    Sanity,
    Smoothing,
    Transfer,
    run_evaluation,
)
from benchmark.evaluations.base import NOT_RUN
from benchmark.evaluations.confirm import judge
from benchmark.evaluations.engine import Guard, threat_of
from benchmark.evaluations.sanity import contract_flags, vanishing
from benchmark.evidence import LARGEST_EVIDENCE, Found, decode
from benchmark.files import read_bounded
from benchmark.manifest import Checkpoint, load_model, slug
from benchmark.outcomes import (
    Array,
    Attempt,
    Bools,
    Outcomes,
    metrics,
    part,
)
from benchmark.pipeline.bringing import bring
from benchmark.pipeline.evaluating import (
    NOT_EVALUATED,
    attacked_and_proven,
    compact_size,
    data_digest,
    parent_of,
    savings,
    size_of,
)
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import evaluated_split, examples_of, settled
from benchmark.protocols import Protocol, protocol
from benchmark.records import EvidenceFile
from benchmark.threat import ThreatModel

# Two computations of one bound may differ by twice the allowance that each carries; deep networks
# amplify rounding along the bound, whose size then says by how much.
BOUND_AGREEMENT = 1e-4

# Flags that do not depend on what an attack met on its way: they come back, or are false.
SEEN_AGAIN = {"batch-dependent", "hidden-weights", "randomised-output", "softmax-output"}

# Above this share of all that was compared, ties are no accident.
MOST_TIES = 0.01

# How many test examples a message names.
_NAMED = 10


@dataclass(frozen=True)
class VerifyJob:
    """What to verify.

    Attributes:
        project: where things are.
        path: the record's JSON file.
        share: of the examples whose bounds are computed again, in [0, 1].
        seed: of that choice.
        complete: evidence that is not at hand is a finding, and not only counted.
    """

    project: Project
    path: Path
    share: float
    seed: int
    complete: bool = True


@dataclass(frozen=True)
class Verification:
    """What came of it.

    Attributes:
        checkpoint: id as the record has it; the file's name where it cannot be read.
        protocol: id.
        examples: examples of the record.
        inputs: adversarial inputs that fooled the network again.
        bounds: examples whose bounds were computed again.
        ties: comparisons that rounding decides, within the allowance that bounds are granted too.
        certified: certified accuracy, computed from the outcomes that were checked.
        attacked: robust accuracy, likewise, less what challenges broke.
        findings: what differs, a line each; empty where everything holds.
        unseen: examples whose adversarial inputs are not at hand, where that is no finding.
    """

    checkpoint: str
    protocol: str
    examples: int
    inputs: int
    bounds: int
    ties: int
    certified: float
    attacked: float
    findings: tuple[str, ...]
    unseen: int = 0


class _Subject:
    """A record with all that it is checked against, and the counts of what was checked."""

    def __init__(self, job: VerifyJob) -> None:
        self.project = job.project
        self.record, self.outcomes = records.read(job.path)
        self.entry: Checkpoint = job.project.manifest().find(self.record.checkpoint_id)
        self.protocol: Protocol = protocol(self.record.protocol)
        self.device = choose_device(job.project.device)
        self.complete = job.complete
        self.inputs = self.bounds = self.ties = self.unseen = 0
        self._allowances: dict[tuple[int, ...], Array] = {}

    @cached_property
    def model(self) -> Classifier:
        return load_model(self.entry, self.project.root).to(self.device)

    @property
    def ranges(self) -> list[range]:
        return self.protocol.ranges(self.record.examples)

    def examples(self, positions: range) -> Examples:
        return examples_of(self.project, self.protocol, positions.start, positions.stop)

    @cached_property
    def same_machine(self) -> bool:
        """Whether this machine computes as the record's did: then rounding excuses nothing."""
        return dict(evaluation_environment(self.device)) == self.record.environment

    @cached_property
    def guarded(self) -> Guard:
        """The network, refusing answers that are no logits."""
        return Guard(self.model, describe(self.protocol.dataset, self.project.data_root).classes)

    def allowance(self, examples: Examples) -> Array:
        """Returns (N,) by how much rounding may move a margin between two kinds of machines."""
        known = self._allowances
        # Every index: a sample may begin with the same example as a range, and be as long.
        key = tuple(examples.indices.tolist())
        if key not in known:
            try:
                known[key] = rounding_allowance(self.model, examples.inputs).cpu().numpy()
            except UnboundableNetwork:
                known[key] = np.zeros(len(examples.labels), dtype=np.float32)
        return known[key]

    def excused(self, odd: Bools, near: Bools) -> Bools:
        """Returns (n,) which differences are ties of rounding, and counts them."""
        tied = odd & near if not self.same_machine else np.zeros_like(odd)
        self.ties += int(tied.sum())
        return tied


def verify_record(job: VerifyJob) -> Verification:
    """Returns what differs between a record and what can be computed again."""
    try:
        subject = _Subject(job)
    except BenchmarkError as error:
        return _unreadable(job, str(error))
    findings: list[str] = []
    with steady():
        for check_part in _CHECKS:
            try:
                findings += check_part(subject, job)
            except BenchmarkError as error:
                findings.append(str(error))
                break
    if subject.ties > 1 + MOST_TIES * (subject.inputs + subject.record.examples):
        findings.append(
            f"{subject.ties} comparisons that rounding decides, too many to be accidents"
        )
    certified, attacked = _interval(subject)
    return Verification(
        checkpoint=subject.record.checkpoint_id,
        protocol=subject.record.protocol,
        examples=subject.record.examples,
        inputs=subject.inputs,
        bounds=subject.bounds,
        ties=subject.ties,
        certified=certified,
        attacked=attacked,
        findings=tuple(findings),
        unseen=subject.unseen,
    )


def _interval(subject: _Subject) -> tuple[float, float]:
    """Returns certified and robust accuracy; NaN where the outcomes are not a protocol's."""
    try:
        measured.check_columns(subject.outcomes, subject.protocol)
    except BenchmarkError:
        return math.nan, math.nan
    found = metrics(subject.outcomes, subject.protocol)
    folder = subject.project.challenges
    try:
        sent = records.challenges_of(folder, subject.record, subject.protocol)
    except BenchmarkError:  # a damaged challenge is among the findings
        sent = ()
    best_known = records.best_known(subject.outcomes, subject.protocol, sent)
    return found.certified, float(best_known.mean())


def _unreadable(job: VerifyJob, reason: str) -> Verification:
    where = (job.path.stem, job.path.parent.name)
    return Verification(*where, 0, 0, 0, 0, math.nan, math.nan, (reason,))


def _stale(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """The record is of the manifest's checkpoint and the table's protocol, in its own place."""
    if reason := records.stale(subject.record, subject.entry, subject.protocol):
        # What is of another checkpoint, protocol or tier is checked no further.
        raise RecordError(reason)
    if subject.record.status != "done":
        yield f"status is {subject.record.status}, and nothing writes such a record"
    if read_bounded(job.path, records.LARGEST_RECORD) != records.encode(subject.record):
        yield "the record's file is not as it was written: spaces, order or spelling differ"
    parent = parent_of(subject.entry, job.project.manifest())
    if parent is not None and subject.record.parent_sha256 != parent.sha256:
        yield "parent_sha256 is not that of the dense parent in the manifest"
    own = records.record_path(job.path.parents[1], subject.protocol.id, subject.entry.id)
    if job.path != own:
        yield f"expected the record under {own.name}, found it as {job.path.name}"


def _weights(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """Hash, names, shapes and claim hold (on loading), and every count is counted again."""
    counted = size_of(subject.entry, subject.model)
    for name in type(counted).model_fields:
        claimed, found = getattr(subject.record.size, name), getattr(counted, name)
        if claimed != found:
            yield f"size.{name} differs from what the weights hold"
    # A record with latencies is of a schema that compacts.
    if subject.record.latency is not None:
        counted_again = compact_size(subject.model, compacted(subject.model))
        if subject.record.compact != counted_again:
            yield "compact differs from what compaction leaves of the weights"


def _data(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """The examples are the protocol's, pixel by pixel."""
    record, project = subject.record, subject.project
    for tier, claimed in record.data_digests.items():
        if data_digest(project, subject.protocol, tier) != claimed:
            yield f"data_digests.{tier} differs from the data at hand"
    split, order = evaluated_split(subject.protocol.dataset, project.data_root, project.download)
    indices = order[: record.examples]
    columns = subject.outcomes.columns
    for name, values in (("index", indices), ("label", split.labels[indices])):
        if not np.array_equal(columns[name], values.numpy()):
            raise RecordError(f"outcomes: column {name} is not the protocol's")


def _columns(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """Outcomes have the protocol's columns, each with possible values."""
    measured.check_columns(subject.outcomes, subject.protocol)
    for name, settings in subject.protocol.evaluations:
        if isinstance(settings, Transfer):
            untried = subject.outcomes.columns[f"{name}.broken_by"] == NOT_RUN
            if untried.any() == bool(subject.record.parent_sha256):
                yield f"outcomes: {name} was run without a parent, or not run with one"


def _rules(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """No example contradicts another column of its own."""
    measured.check_invariants(subject.outcomes, subject.protocol)
    return iter(())


def _costs(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """What was attacked and spared follows from the outcomes; passes and seconds do not."""
    names = dict(subject.protocol.evaluations)
    if odd := sorted(names.keys() ^ subject.record.cost.keys()):
        yield f"cost.{odd[0]} is missing or left over"
        return
    for name, cost in subject.record.cost.items():
        counted = attacked_and_proven(part(subject.outcomes, name))
        saved = savings(names[name], cost, subject.record.examples)
        if (cost.attacked, cost.proven) != counted or cost.forwards_saved != saved:
            yield f"cost.{name} counts other examples than the outcomes"


def _by_range(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """Predictions, warnings and evidence, range by range."""
    ranges = [(part_of_list.start, part_of_list.stop) for part_of_list in subject.ranges]
    if [(file.start, file.stop) for file in subject.record.evidence] != ranges:
        yield f"evidence: expected a file for each of {len(ranges)} ranges, in order"
        return
    raised: set[str] = set()
    for file, positions in zip(subject.record.evidence, subject.ranges, strict=True):
        examples = subject.examples(positions)
        again = _clean_again(subject, examples, positions)
        yield from _clean(subject, again, examples, positions)
        yield from _saturated(subject, examples, positions)
        contract = contract_flags(subject.guarded, examples)
        raised |= {flag.name for flag in (*again.result.flags, *contract)}
        yield from _evidence(subject, file, examples, positions)
    claimed = {flag.name for flag in subject.record.flags}
    for name in sorted(raised - claimed):
        yield f"flags: {name} is missing, and was raised again"
    for name in sorted((claimed & SEEN_AGAIN) - raised):
        yield f"flags: {name} is there, and was not raised again"


def _saturated(subject: _Subject, examples: Examples, positions: range) -> Iterator[str]:
    """Gradients that saturation loses; what draws random numbers only an audit sees again."""
    for name, settings in subject.protocol.evaluations:
        if isinstance(settings, Sanity):
            here = slice(positions.start, positions.stop)
            claimed = subject.outcomes.columns[f"{name}.vanishing_gradient"][here]
            correct = measured.clean_correct(subject.outcomes)[here]
            found = vanishing(subject.guarded, examples).cpu().numpy() & correct
            odd = claimed != found
            # Where the last digits of a gradient go is the machine's affair.
            tied = subject.excused(odd, np.ones_like(odd))
            yield from _named(f"{name}.vanishing_gradient", odd & ~tied, examples)


def _clean_again(subject: _Subject, examples: Examples, positions: range) -> Measured:
    chosen = subject.protocol
    name, settings = next((n, s) for n, s in chosen.evaluations if isinstance(s, Clean))
    return run_evaluation(
        subject.model,
        examples,
        name=name,
        settings=settings,
        threat=chosen.threat,
        seed=(chosen.seed, name, positions.start),
    )


@torch.no_grad()
def _clean(
    subject: _Subject, again: Measured, examples: Examples, positions: range
) -> Iterator[str]:
    """Predictions and vanished gradients on unmodified inputs."""
    columns = part(subject.outcomes, "clean")
    here = slice(positions.start, positions.stop)
    claimed = columns["prediction"][here]
    odd = claimed != again.result.columns["prediction"]
    if odd.any():
        logits = subject.model(examples.inputs).cpu().numpy()
        known = np.clip(claimed, 0, logits.shape[1] - 1)
        behind = logits.max(axis=1) - logits[np.arange(len(logits)), known]
        tied = subject.excused(odd, (known == claimed) & (behind <= subject.allowance(examples)))
        yield from _named("clean.prediction", odd & ~tied, examples)
    gradients = columns["zero_gradient"][here] != again.result.columns["zero_gradient"]
    # Whether a tiny number is zero is the machine's affair.
    tied = subject.excused(gradients, np.ones_like(gradients))
    yield from _named("clean.zero_gradient", gradients & ~tied, examples)


def _named(column: str, odd: Array, examples: Examples) -> Iterator[str]:
    """Yields a finding that names the test examples at which a column differs, if any."""
    if odd.any():
        names = examples.indices.numpy()[odd].tolist()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"outcomes: {column} differs at test examples {names[:_NAMED]}{more}"


def _evidence(
    subject: _Subject, file: EvidenceFile, examples: Examples, positions: range
) -> Iterator[str]:
    """A range's evidence is there, unaltered, fools the network, and fits the outcomes."""
    record = subject.record
    folder = records.evidence_folder(
        subject.project.evidence, record.protocol, record.checkpoint_id
    )
    try:
        data = read_bounded(folder / file.name, LARGEST_EVIDENCE)
    except FileNotFoundError:
        if not subject.complete:
            subject.unseen += len(positions)
            return
        yield (
            f"evidence: {folder / file.name} is missing; copy it here or remake it with "
            f"`robustprune evaluate {record.checkpoint_id} --protocol {record.protocol}`"
        )
        return
    found = decode(data, file.sha256)
    total = sum(len(finds) for attacks in found.values() for finds in attacks.values())
    if (file.bytes, file.inputs) != (len(data), total):
        yield f"evidence.{file.name}: holds {total} inputs in {len(data)} bytes, not as recorded"
    for name, attacks in found.items():
        for attack, finds in attacks.items():
            where = f"evidence {file.name}, {name}/{attack}"
            if finds.inputs.shape[1:] != examples.inputs.shape[1:]:
                yield f"{where}: images of another shape"
                return
            if len(finds) and int(finds.positions.max()) >= len(positions):
                yield f"{where}: positions beyond the range"
                return
            yield from _finds(subject, where, finds, examples, attack)
    yield from _fits(subject, found, examples, positions)


@dataclass(frozen=True)
class _Shown:
    """Inputs put before the network again: (n,) arrays, one value an input."""

    fooled: Bools
    tied: Bools
    predictions: Array
    margins: Array
    slack: Array


def _shown(
    subject: _Subject, examples: Examples, positions: torch.Tensor, inputs: Array, ball: ThreatModel
) -> _Shown:
    """Returns what the network says of inputs, and counts those that fool it and the ties."""
    device = subject.device
    candidates = torch.from_numpy(inputs).to(device)
    verdict = judge(subject.guarded, examples, positions.to(device), candidates, ball)
    legal = ball.contains(candidates, examples.inputs[positions.to(device)]).cpu().numpy()
    fooled, margins = verdict.fooled.cpu().numpy(), verdict.margins.cpu().numpy()
    slack = subject.allowance(examples)[positions.numpy()]
    # Near a tie of two classes another machine may name either.
    tied = subject.excused(~fooled, legal & (margins <= slack))
    subject.inputs += int(fooled.sum())
    return _Shown(fooled, tied, verdict.predictions.cpu().numpy(), margins, slack)


def _finds(
    subject: _Subject, where: str, finds: Found, examples: Examples, attack: str
) -> Iterator[str]:
    """Inputs lie in the ball and fool the network as recorded."""
    ball = threat_of(attack, subject.protocol.threat)
    positions = torch.from_numpy(finds.positions.astype(np.int64))
    shown = _shown(subject, examples, positions, finds.inputs, ball)
    own = replace(examples, indices=examples.indices[positions])
    yield from _named(f"{where}: an input that is none", ~(shown.fooled | shown.tied), own)
    clear = shown.fooled & (-shown.margins > shown.slack)
    yield from _named(f"{where}: prediction", clear & (shown.predictions != finds.predictions), own)
    # Written so that NaN, which is near nothing, counts as apart.
    apart = ~(np.abs(shown.margins - finds.margins) <= 2 * shown.slack)
    yield from _named(f"{where}: margin", apart, own)
    kept = examples.inputs.cpu()[positions[: len(finds.originals)]].numpy()
    if not np.array_equal(kept, finds.originals):
        yield f"{where}: originals are not the protocol's"


def _fits(
    subject: _Subject,
    found: dict[str, dict[str, Found]],
    examples: Examples,
    positions: range,
) -> Iterator[str]:
    """Every example that a column calls broken has an input by that attack, and no other has."""
    here = Outcomes(
        {name: v[positions.start : positions.stop] for name, v in subject.outcomes.columns.items()}
    )
    known: set[tuple[str, str]] = set()
    for attempt in measured.attempts(here, subject.protocol):
        shown, own = np.zeros_like(attempt.broken), np.zeros_like(attempt.broken)
        for attack, finds in found.get(attempt.evaluation, {}).items():
            epsilon = _epsilon_of(attack, attempt, subject.protocol)
            # An input lies in every larger ball too, and is kept at the smallest alone.
            if epsilon is not None and epsilon <= attempt.epsilon:
                if epsilon == attempt.epsilon:
                    known.add((attempt.evaluation, attack))
                shown[finds.positions] = True
                own[finds.positions] |= epsilon == attempt.epsilon
        label = f"{attempt.evaluation} ({attempt.attack} at {attempt.epsilon})"
        yield from _named(f"{label}, broken without evidence,", attempt.broken & ~shown, examples)
        yield from _named(f"{label}, unbroken with evidence,", own & ~attempt.broken, examples)
    for name, attacks in found.items():
        for attack in attacks:
            if (name, attack) not in known:
                yield f"evidence: {name}/{attack} is no attack of the protocol"


def _epsilon_of(attack: str, attempt: Attempt, chosen: Protocol) -> Fraction | None:
    """Returns the epsilon of evidence that speaks for an attempt; None if it is another's."""
    settings = dict(chosen.evaluations)[attempt.evaluation]
    if isinstance(settings, Iterated):  # it names its epsilons
        epsilon = threat_of(attack, chosen.threat).epsilon
        return epsilon if attack == f"{settings.kind}@{epsilon}" else None
    return attempt.epsilon if attack == attempt.attack else None


def _bounds(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """Bounds of a share of the examples, drawn from the seed, come out again."""
    count = subject.record.examples
    chosen = np.random.default_rng(seed_from(job.seed, subject.record.checkpoint_id)).permutation(
        count
    )[: math.ceil(job.share * count)]
    if len(chosen) == 0:
        return
    positions = torch.from_numpy(np.sort(chosen))
    examples = _chosen_examples(subject, positions)
    for name, settings in subject.protocol.evaluations:
        if isinstance(settings, Bounds):
            claimed = {n: v[positions.numpy()] for n, v in part(subject.outcomes, name).items()}
            yield from _bounds_again(subject, name, settings, claimed, examples)
    subject.bounds += len(positions)


def _chosen_examples(subject: _Subject, positions: torch.Tensor) -> Examples:
    whole = subject.examples(range(subject.record.examples))
    on_device = positions.to(whole.inputs.device)
    return replace(
        whole,
        inputs=whole.inputs[on_device],
        labels=whole.labels[on_device],
        indices=whole.indices[positions],
    )


def _bounds_again(
    subject: _Subject,
    name: str,
    settings: Bounds,
    claimed: dict[str, Array],
    examples: Examples,
) -> Iterator[str]:
    generator = torch.Generator(subject.device)
    found = settings.run(subject.model, examples, subject.protocol.threat, generator).columns
    slack = 2 * subject.allowance(examples)
    for epsilon, proven in settings.proven(claimed).items():
        here, again = claimed[f"margin@{epsilon}"], found[f"margin@{epsilon}"]
        yield from _named(
            f"{name}.margin@{epsilon}, proves nothing,", proven & (again <= 0), examples
        )
        finite = np.isfinite(here) & np.isfinite(again)
        with np.errstate(invalid="ignore"):
            near = np.abs(here - again) <= slack + BOUND_AGREEMENT * np.abs(again)
        # Where a cheap bound just decides, rounding tells whether a dearer one is asked as well.
        for margin in (here, again):
            near |= finite & (np.abs(margin - settings.margin) <= slack)
        # Minus infinity says that there is no bound, and nothing else is near it.
        odd = ~np.where(finite, near, here == again)
        yield from _named(f"{name}.margin@{epsilon}", odd, examples)
        method = claimed[f"method@{epsilon}"] != found[f"method@{epsilon}"]
        # Where two methods nearly agree, rounding decides which is named.
        tied = finite & (np.minimum(np.abs(again), np.abs(again - settings.margin)) <= slack)
        yield from _named(f"{name}.method@{epsilon}", method & ~odd & ~tied, examples)


def _smoothing(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """Radii follow from the votes, which only an audit draws again."""
    for name, settings in subject.protocol.evaluations:
        if not isinstance(settings, Smoothing):
            continue
        seen = min(settings.examples, subject.record.examples)
        columns = {n: v[:seen] for n, v in part(subject.outcomes, name).items()}
        examples = subject.examples(range(seen))
        expected = settings.conclude(columns["selected"], columns["count"])
        near = np.isclose(expected["radius"], columns["radius"], rtol=1e-5, atol=1e-6)
        yield from _named(f"{name}.radius", ~near, examples)
        odd = expected["prediction"] != columns["prediction"]
        yield from _named(f"{name}.prediction", odd, examples)
        yield from _unseen(name, subject.outcomes, seen)


def _unseen(name: str, outcomes: Outcomes, seen: int) -> Iterator[str]:
    """Examples beyond those that are smoothed say so."""
    for column, values in part(outcomes, name).items():
        rest = values[seen:]
        empty = np.isnan(rest) if rest.dtype.kind == "f" else rest == NOT_EVALUATED
        if not empty.all():
            yield f"outcomes: {name}.{column} speaks of examples that were not smoothed"


def _challenges(subject: _Subject, job: VerifyJob) -> Iterator[str]:
    """What others handed in fools the network still."""
    entry, chosen = subject.entry, subject.protocol
    folder = job.project.challenges
    # One to other weights, or in a larger ball, says nothing of this record.
    counting = records.challenges_of(folder, subject.record, chosen)
    for sent, path in challenges.read_all(folder, chosen.id, entry.id):
        if sent in counting:
            yield from _challenge(subject, sent, path)


def _challenge(subject: _Subject, sent: Challenge, path: Path) -> Iterator[str]:
    arrays = challenges.read_inputs(path, sent, subject.model.shape)
    if not np.isin(arrays["index"], subject.outcomes.columns["index"]).all():
        yield f"challenge {path.name}: speaks of examples beyond the record"
    ball = subject.protocol.threat.with_epsilon(Fraction(sent.epsilon))
    for part_of_list in subject.ranges:
        examples = subject.examples(part_of_list)
        known = examples.indices.numpy()
        here = np.isin(arrays["index"], known)
        order = {int(index): position for position, index in enumerate(known)}
        positions = torch.tensor([order[int(i)] for i in arrays["index"][here]], dtype=torch.int64)
        if len(positions):
            shown = _shown(subject, examples, positions, arrays["inputs"][here], ball)
            own = replace(examples, indices=examples.indices[positions])
            odd = ~(shown.fooled | shown.tied)
            yield from _named(f"challenge {path.name}: an input that is none", odd, own)


# In this order; the first that finds a file unreadable ends the list.
_CHECKS: tuple[Callable[[_Subject, VerifyJob], Iterator[str]], ...] = (
    _stale,
    _columns,
    _weights,
    _data,
    _costs,
    _by_range,
    _bounds,
    _smoothing,
    _challenges,
    _rules,
)


def _bring_weights(project: Project, paths: Sequence[Path]) -> None:
    """Brings weights of records that are not at hand; where that fails, the record's check says so.

    A record's file is named after its checkpoint, so none is read for this.
    """
    names = {path.name for path in paths}
    try:
        entries = project.manifest().checkpoints
    except BenchmarkError:  # each record's check says it
        return
    for entry in entries:
        if f"{slug(entry.id)}.json" in names:
            with contextlib.suppress(BenchmarkError):
                bring(project, [entry])


def verify_all(
    project: Project,
    paths: Sequence[Path],
    *,
    share: float,
    seed: int,
    complete: bool = True,
    watch: Watch = silent,
) -> list[Verification]:
    """Verifies records, in several processes where there is more than one, in the order given.

    Args:
        project: where manifest, weights, data and evidence are.
        paths: JSON files of records.
        share: of the examples whose bounds are computed again, in [0, 1].
        seed: of that choice.
        complete: evidence that is not at hand is a finding, and not only counted.
        watch: told after each record.

    Raises:
        ContractError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ContractError(f"expected a share of the bounds in [0, 1], got {share:g}")
    project = settled(project)
    jobs = [VerifyJob(project, path, share, seed, complete) for path in paths]
    _bring_weights(project, paths)
    device = choose_device(project.device)
    done: dict[Path, Verification] = {}
    watch(0, len(jobs), "")
    for job, answer in map_jobs(verify_record, jobs, project.workers, device):
        done[job.path] = answer
        watch(len(done), len(jobs), answer.checkpoint)
    return [done[path] for path in paths]
