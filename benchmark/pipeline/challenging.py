"""Challenges: anyone's adversarial inputs, verified, lower the upper end of a record's interval.

What is sent is foreign until proven. One input outside the box or the ball refuses the whole file:
whoever sends it measured another threat model. An input that fools nobody harms nobody and is left
out. So is one of an example that is broken already: no two challenges hold the same example, and
nobody earns credit with what others found.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import challenges, records
from benchmark.challenges import Challenge
from benchmark.datasets import Split, describe
from benchmark.distributed import choose_device, steady
from benchmark.errors import (
    ContractError,
    InvariantViolation,
    ManifestError,
    RecordError,
    shorten,
)
from benchmark.evaluations import Examples
from benchmark.evaluations.confirm import judge
from benchmark.evaluations.engine import Guard
from benchmark.evidence import LEVELS, compact, restore
from benchmark.files import read_bounded
from benchmark.manifest import Checkpoint, load_model
from benchmark.outcomes import (
    LARGEST_OUTCOMES,
    Array,
    Bools,
    Outcomes,
    certified,
    clean_correct,
    read_arrays,
)
from benchmark.pipeline.bringing import bring
from benchmark.pipeline.evaluating import current, data_digest
from benchmark.pipeline.project import Project
from benchmark.pipeline.shards import evaluated_split, examples_of
from benchmark.protocols import Protocol
from benchmark.records import ResultRecord
from benchmark.threat import TOLERANCE, ThreatModel

# What the inputs of a challenge are called among the evidence.
_ATTACK = "challenge"

# Inputs whose distance to their originals is measured at once: doubles take space.
_CHUNK = 250


@dataclass(frozen=True)
class Sent:
    """Adversarial inputs as they were sent, legal ones alone.

    Attributes:
        index: (n,) int64 positions in the test split, each once.
        inputs: (n, C, H, W) float32 in [0, 1].
    """

    index: Array
    inputs: Tensor

    def __len__(self) -> int:
        """Returns the number of inputs."""
        return len(self.index)

    def only(self, chosen: Bools) -> "Sent":
        """Returns the chosen inputs.

        Args:
            chosen: (n,) bool.
        """
        return Sent(self.index[chosen], self.inputs[torch.from_numpy(chosen)])


@dataclass(frozen=True)
class Fooling:
    """Inputs that fool the network, each in the smallest form that does.

    Attributes:
        index: (n,) int64 positions in the test split, rising.
        inputs: (n, C, H, W) float32 in [0, 1].
        rounded: (n,) bool, whether the input is an 8-bit one.
    """

    index: Array
    inputs: Array
    rounded: Bools

    def __len__(self) -> int:
        """Returns the number of inputs."""
        return len(self.index)

    def of(self, index: Array | tuple[int, ...]) -> "Fooling":
        """Returns the inputs of some examples.

        Args:
            index: positions in the test split.
        """
        chosen = np.isin(self.index, index)
        return Fooling(self.index[chosen], self.inputs[chosen], self.rounded[chosen])

    def arrays(self) -> dict[str, Array]:
        """Returns what is stored: uint8 if all inputs fool the network in 8 bits, else float32."""
        inputs = self.inputs
        if self.rounded.all():
            inputs = np.rint(inputs.astype(np.float64) * LEVELS).astype(np.uint8)
        return {"index": self.index, "inputs": inputs}


@dataclass(frozen=True)
class Sender:
    """Who sends inputs, and what is said of them; one line each.

    Attributes:
        credit: whom tables and pages name.
        attack: what found the inputs.
        date: of today, as yyyy-mm-dd.
        url: https address, or empty.
        contact: how to reach them, or empty.
    """

    credit: str
    attack: str
    date: str
    url: str = ""
    contact: str = ""


@dataclass(frozen=True)
class Answer:
    """What became of the inputs that were sent.

    Attributes:
        challenge: as it is stored.
        path: where.
        known: whether it had been stored before, so that nothing was written.
        sent: inputs in the file.
        elsewhere: of examples that the record does not cover.
        misclassified: of examples that the network gets wrong unmodified.
        harmless: that do not fool the network.
        verified: that do.
        repeated: of these, of examples that attacks or earlier challenges broke already.
        broken: the others, which are stored.
        before: share correct under all attacks and challenges known until now.
        after: the same with this challenge.
    """

    challenge: Challenge
    path: Path
    known: bool
    sent: int
    elsewhere: int
    misclassified: int
    harmless: int
    verified: int
    repeated: int
    broken: int
    before: float
    after: float

    @property
    def left_out(self) -> str:
        """Which inputs do not count, in words; empty if all do."""
        return _left_out(asdict(self))


@dataclass(frozen=True)
class Standing:
    """A record that is whole and speaks of its checkpoint as it is now, and where it lies.

    Attributes:
        project: where things are.
        checkpoint: manifest entry.
        protocol: under which.
        record: of the checkpoint.
        outcomes: of the record.
    """

    project: Project
    checkpoint: Checkpoint
    protocol: Protocol
    record: ResultRecord
    outcomes: Outcomes

    @property
    def index(self) -> Array:
        """(N,) positions of the record's examples in the test split, in the list's order."""
        return self.outcomes.columns["index"]

    @property
    def split(self) -> Split:
        """The test split."""
        where = self.project
        return evaluated_split(self.protocol.dataset, where.data_root, where.download)[0]

    @property
    def ranges(self) -> list[range]:
        """Positions of each shard of the record's examples."""
        return self.protocol.ranges(len(self.outcomes))

    def examples(self, part: range) -> Examples:
        """Returns a shard, on the project's device."""
        return examples_of(self.project, self.protocol, part.start, part.stop)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return describe(self.protocol.dataset, self.project.data_root).classes

    def network(self) -> nn.Module:
        """Returns the network as published, on the project's device."""
        device = choose_device(self.project.device)
        return load_model(self.checkpoint, self.project.root).to(device)


def standing(project: Project, checkpoint: Checkpoint, chosen: Protocol) -> Standing:
    """Returns the record of a checkpoint, if it stands.

    Raises:
        RecordError: there is none, or it is damaged or stale; with the command that makes it.
    """
    command = f"robustprune evaluate {checkpoint.id} --protocol {chosen.id}"
    path = records.record_path(project.results, chosen.id, checkpoint.id)
    if not path.exists():
        raise RecordError(
            f"expected a record of {checkpoint.id} under {chosen.id}, found none; make it with "
            f"`{command}`"
        )
    record, outcomes = records.read(path)
    reason = records.stale(record, checkpoint, chosen)
    if not reason:
        digest = data_digest(project, chosen, record.tier)
        reason = current(project, checkpoint, chosen, record.tier, digest)
    if reason:
        raise RecordError(f"{reason}; make the record again with `{command}`")
    return Standing(project, checkpoint, chosen, record, outcomes)


def challenge(
    project: Project, checkpoint: Checkpoint, chosen: Protocol, file: Path, sender: Sender
) -> Answer:
    """Verifies adversarial inputs, stores those that break survivors, and says what they change.

    Args:
        project: where things are.
        checkpoint: manifest entry of the network they are made for.
        chosen: the protocol whose threat model they keep.
        file: .npz with `index` and `inputs`, see `docs/evidence.md`.
        sender: who gets the credit.

    Raises:
        RecordError: the checkpoint has no record that stands, or a stored challenge is damaged.
        ContractError: a file that is not what it must be, or that breaks nothing new.
        InvariantViolation: inputs that fool the network where it is certified.
    """
    where = standing(project, checkpoint, chosen)
    bring(project, [checkpoint])
    sent = read_sent(file, where.split, chosen.threat)
    within = np.isin(sent.index, where.index)
    correct = np.isin(sent.index, where.index[clean_correct(where.outcomes)])
    tried = sent.only(correct)
    found = verified(where, tried)
    _refuse_refutations(where, tried.only(np.isin(tried.index, found.index)))
    counts = {
        "sent": len(sent),
        "elsewhere": int((~within).sum()),
        "misclassified": int((within & ~correct).sum()),
        "harmless": len(tried) - len(found),
        "verified": len(found),
    }
    return _stored(where, found, sender, counts)


# --- Reading what was sent ------------------------------------------------------------------------


def read_sent(file: Path, split: Split, threat: ThreatModel) -> Sent:
    """Returns the inputs in a file, all of them legal.

    Args:
        file: .npz with `index` and `inputs`.
        split: the test split that `index` counts in.
        threat: box and ball they must lie in.

    Raises:
        ContractError: anything else.
    """
    arrays = _read(file)
    index = _index(arrays, split)
    sent = Sent(index, _inputs(arrays, index, split))
    _check_ball(sent, split, threat)
    return sent


def _read(file: Path) -> dict[str, Array]:
    shown = shorten(str(file), 400)
    try:
        arrays = read_arrays(read_bounded(file, LARGEST_OUTCOMES))
    except FileNotFoundError as error:
        raise ContractError(f"expected a file {shown}, found none; check the path") from error
    except (ManifestError, RecordError) as error:
        reason = str(error).split("; ")[0]
        raise ContractError(
            f"{reason} in {shown}; write it with numpy.savez_compressed, several files if it is "
            f"larger than {LARGEST_OUTCOMES >> 20} MiB unpacked"
        ) from error
    if arrays.keys() != {"index", "inputs"}:
        names = ", ".join(shorten(name, 40) for name in sorted(arrays)[:5]) or "none"
        raise ContractError(
            f"expected the arrays index and inputs in {shown}, got {names}; name them so"
        )
    return arrays


def _index(arrays: Mapping[str, Array], split: Split) -> Array:
    """Returns (n,) int64 test-split positions of the inputs, each once."""
    index = arrays["index"]
    if index.dtype.kind not in "iu" or index.ndim != 1 or len(index) == 0:
        raise ContractError(
            f"expected index as one integer an input, at least one, got {index.dtype} "
            f"{shorten(str(index.shape))}"
        )
    odd = index[(index < 0) | (index >= len(split))]
    if len(odd):
        raise ContractError(
            f"expected positions 0 … {len(split) - 1} of the test split in index, got "
            f"{odd[:10].tolist()}"
        )
    values, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise ContractError(
            "expected one input an example, got several for test examples "
            f"{values[counts > 1][:10].tolist()}; keep one of them"
        )
    return index.astype(np.int64)


def _inputs(arrays: Mapping[str, Array], index: Array, split: Split) -> Tensor:
    """Returns (n, C, H, W) float32 inputs in the box."""
    inputs, expected = arrays["inputs"], (len(index), *split.shape)
    if inputs.dtype not in (np.uint8, np.float32, np.float64) or inputs.shape != expected:
        raise ContractError(
            f"expected inputs of shape {expected} as float32 or float64 in [0, 1] or as uint8, got "
            f"{inputs.dtype} {shorten(str(inputs.shape))}"
        )
    if inputs.dtype == np.uint8:
        return restore(torch.from_numpy(inputs))
    # Before any rounding, and so that NaN counts as outside.
    odd = ~((inputs >= 0) & (inputs <= 1))
    if odd.any():
        first = int(np.flatnonzero(odd.any(axis=(1, 2, 3)))[0])
        value = inputs[first][odd[first]][0]
        hint = f"divide by {LEVELS} or store uint8" if value > 2 else "clip them to the box"
        raise ContractError(
            f"expected values in [0, 1] in inputs, got {value:.9g} for test example "
            f"{int(index[first])}; {hint}"
        )
    return torch.from_numpy(inputs.astype(np.float32))


def _check_ball(sent: Sent, split: Split, threat: ThreatModel) -> None:
    """Refuses inputs that lie beyond epsilon, naming the worst."""
    distances = _distances(sent, split, threat)
    beyond = int((distances > float(threat.epsilon) + TOLERANCE).sum())
    if beyond:
        worst = int(distances.argmax())
        raise ContractError(
            f"expected inputs within {threat} (a distance of {float(threat.epsilon):.9g}) of their "
            f"originals, got {float(distances[worst]):.9g} for test example "
            f"{int(sent.index[worst])}, the farthest of {beyond} beyond; move them into the ball"
        )


def _distances(sent: Sent, split: Split, threat: ThreatModel) -> Tensor:
    """Returns (n,) float64 distances of inputs from their originals."""
    index = torch.from_numpy(sent.index)
    parts = [
        threat.distances(sent.inputs[start : start + _CHUNK], split.inputs(index[start:][:_CHUNK]))
        for start in range(0, len(sent), _CHUNK)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


# --- Verifying ------------------------------------------------------------------------------------


def verified(where: Standing, tried: Sent) -> Fooling:
    """Returns those inputs that fool the network as published.

    Success is decided as everywhere: on whole shards, with the inputs in their originals' places.

    Args:
        where: the record whose network they are tried on.
        tried: legal inputs for examples of the record.

    Raises:
        InvariantViolation: answers that depend on the batch.
    """
    model = Guard(where.network(), where.classes)
    places = {int(index): place for place, index in enumerate(where.index)}
    positions = np.array([places[int(index)] for index in tried.index], dtype=np.int64)
    found: list[tuple[Array, Array, Array]] = []
    with steady():
        for part in where.ranges:
            here = (positions >= part.start) & (positions < part.stop)
            if here.any():
                shard = where.examples(part)
                moved = positions[here] - part.start
                found += _fooling(model, shard, moved, tried.only(here), where.protocol.threat)
    if not found:
        nothing = np.zeros(0, dtype=np.bool_)
        return Fooling(tried.index[:0], tried.inputs[:0].numpy(), nothing)
    index, inputs, rounded = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(index)
    return Fooling(index[order], inputs[order], rounded[order])


def _fooling(
    model: nn.Module, examples: Examples, positions: Array, sent: Sent, threat: ThreatModel
) -> list[tuple[Array, Array, Array]]:
    """Returns test-split index, inputs and whether they are 8-bit, of those that fool the model."""
    chosen = torch.from_numpy(positions).to(examples.inputs.device)
    candidates = sent.inputs.to(examples.inputs.device)
    fooled = judge(model, examples, chosen, candidates, threat).fooled.cpu().numpy()
    if not fooled.any():
        return []
    adversarial = {_ATTACK: (positions[fooled], sent.inputs.numpy()[fooled])}
    finds = compact(model, examples, adversarial, threat)[_ATTACK]
    return [(sent.index[fooled], finds.inputs, finds.rounded)]


def _refuse_refutations(where: Standing, fooling: Sent) -> None:
    """Refuses to count what cannot be: an adversarial input where the network is certified."""
    threat = where.protocol.threat
    distances = _distances(fooling, where.split, threat).numpy()
    for epsilon, proven in certified(where.outcomes, where.protocol).items():
        near = fooling.index[distances <= float(epsilon) + TOLERANCE]
        refuted = np.intersect1d(near, where.index[proven])
        if len(refuted):
            raise InvariantViolation(
                f"certificate refuted: expected no adversarial input within "
                f"{threat.with_epsilon(epsilon)} of certified examples, got {len(refuted)}: test "
                f"examples {refuted[:10].tolist()}; nothing was written, please report it with the "
                "file"
            )


# --- Storing --------------------------------------------------------------------------------------


def _stored(where: Standing, found: Fooling, sender: Sender, counts: Mapping[str, int]) -> Answer:
    """Stores verified inputs of examples that nobody broke before, and returns what changes."""
    if not len(found):
        raise ContractError(_nothing("fools the network", counts))
    known = _known(where)
    before = records.best_known(where.outcomes, where.protocol, known)
    new = found.of(where.index[before])
    counts = {**counts, "repeated": len(found) - len(new), "broken": len(new)}
    if len(new):
        made, arrays = _made(where, new, sender), new.arrays()
        path, old = challenges.write(where.project.challenges, made, arrays), None
    else:
        made = old = _sent_before(where, found, known, sender, counts)
        path = _path(where, made)
    after = before & ~np.isin(where.index, new.index)
    return Answer(
        challenge=made,
        path=path,
        known=old is not None,
        before=float(before.mean()),
        after=float(after.mean()),
        **counts,
    )


def _known(where: Standing) -> tuple[Challenge, ...]:
    """Returns the stored challenges that count, oldest first.

    Raises:
        RecordError: one is damaged, or its inputs are none of this data set.
    """
    known = records.challenges_of(where.project.challenges, where.record, where.protocol)
    for one in known:
        challenges.read_inputs(_path(where, one), one, where.split.shape)
    return known


def _sent_before(
    where: Standing,
    found: Fooling,
    known: tuple[Challenge, ...],
    sender: Sender,
    counts: Mapping[str, int],
) -> Challenge:
    """Returns the stored challenge whose inputs these are, where they break nothing new.

    Raises:
        ContractError: they are not those of any; with the names of who broke their examples.
    """
    holding = [one for one in known if np.isin(one.examples, found.index).any()]
    for one in holding:
        same = found.of(one.examples)
        if len(same) == len(one.examples) and _made(where, same, sender).sha256 == one.sha256:
            return one
    names = [f"{shorten(one.credit, 80)} on {one.date}" for one in holding[:3]]
    more = f" and {len(holding) - 3} more" if len(holding) > 3 else ""
    held = f" (already known, from {', '.join(names)}{more})" if holding else ""
    raise ContractError(_nothing("breaks what was not broken already", counts, held))


def _path(where: Standing, made: Challenge) -> Path:
    folder, name = where.project.challenges, where.checkpoint.id
    return challenges.path_of(folder, where.protocol.id, name, made.sha256)


def _nothing(what: str, counts: Mapping[str, int], held: str = "") -> str:
    """Returns why a file changes nothing, and who came first."""
    said = _left_out(counts)
    return (
        f"expected an input that {what}, got none in {counts['sent']}"
        f"{f' ({said})' if said else ''}{held}; nothing was written"
    )


def _left_out(counts: Mapping[str, Any]) -> str:
    """Returns in words which inputs do not count; empty if all do."""
    words = {
        "elsewhere": "of examples that the record does not cover",
        "misclassified": "of examples misclassified unmodified",
        "harmless": "that do not fool the network",
        "repeated": "of examples that are broken already",
    }
    return ", ".join(f"{counts[name]} {text}" for name, text in words.items() if counts.get(name))


def _made(where: Standing, found: Fooling, sender: Sender) -> Challenge:
    threat = where.protocol.threat
    try:
        return challenges.challenge_of(
            found.arrays(),
            checkpoint_id=where.record.checkpoint_id,
            checkpoint_sha256=where.record.checkpoint_sha256,
            protocol=where.protocol.id,
            protocol_digest=where.protocol.digest,
            norm=threat.norm,
            epsilon=str(threat.epsilon),
            **asdict(sender),
        )
    except RecordError as error:
        raise ContractError(str(error)) from error
