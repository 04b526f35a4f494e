"""Outcomes: one row an example, from which every accuracy is computed, and the rules they obey.

A column is named `<evaluation>.<column>`; `index` and `label` identify the example. Nothing here is
typed or stored twice: clean, robust and certified accuracy are means over these arrays.

What is said of an example depends on its own row alone, so the records of a board can be asked all
at once: shapes are (..., N), which is (N,) for one record and (R, N) for a stack of them.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark.digests import sha256_of_bytes
from benchmark.errors import InvariantViolation, RecordError, shorten
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    Clean,
    Fgsm,
    Iterated,
    Ordered,
    Pgd,
    Sanity,
    Smoothing,
    Sparing,
    Transfer,
    epsilons_of,
)
from benchmark.evaluations.base import MISCLASSIFIED, NOT_RUN, PROVEN, SURVIVED
from benchmark.protocols import Protocol

Array = NDArray[Any]
Bools = NDArray[np.bool_]

# An outcomes file is a few dozen small columns; a larger one is not ours.
LARGEST_OUTCOMES = 256 << 20

# Entries of an archive carry no clock: this is the earliest time that the format can spell.
_EPOCH = (1980, 1, 1, 0, 0, 0)

# What damaged archives raise on their way through zipfile and zlib.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    TypeError,
)

# The part of a member's own header in an archive that is read: signature, flags, sizes of its name
# and of what else stands before its content.
_LOCAL = struct.Struct("<4s2xH18xHH")
# Names in UTF-8; sizes behind the content. Nothing encrypted.
_UTF8, _KNOWN_BITS = 0x800, 0x808

# The header of a .npy file, version 1.0, of plain numbers. numpy's own reader evaluates it as a
# Python expression and allocates whatever it promises.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{'descr': '(?P<dtype>[|<][biuf][1248])', "
    rb"'fortran_order': (?P<transposed>False|True), 'shape': \((?P<shape>[0-9, ]{0,200})\), \} *\n",
    re.DOTALL,
)


Found = TypeVar("Found")


@dataclass(frozen=True)
class Outcomes:
    """Columns of equal shape, in the order of the protocol's example list; not to be changed.

    Attributes:
        columns: by name, (N,) of one record or (R, N) of a stack.
    """

    columns: Mapping[str, Array]
    # What was counted before: a row of the board asks for the same sets of examples many times.
    _known: dict[tuple[str, str], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        """Returns the number of examples, of one record."""
        return int(self.columns["label"].shape[-1])

    def head(self, count: int) -> "Outcomes":
        """Returns the outcomes of the first `count` examples: those of a smaller tier."""
        return Outcomes({name: values[..., :count] for name, values in self.columns.items()})

    def encode(self) -> bytes:
        """Returns the columns as a compressed .npz; equal columns give equal bytes."""
        return encode_arrays(self.columns)


def once(
    count: Callable[[Outcomes, Protocol], Found],
) -> Callable[[Outcomes, Protocol], Found]:
    """Returns a function of outcomes and protocol that remembers on the outcomes what it found."""

    @wraps(count)
    def counted(outcomes: Outcomes, protocol: Protocol) -> Found:
        key = count.__name__, protocol.digest
        if key not in outcomes._known:
            outcomes._known[key] = count(outcomes, protocol)
        found: Found = outcomes._known[key]
        return found

    return counted


def alike(outcomes: Outcomes, protocol: Protocol) -> Hashable:
    """Returns what outcomes share that can be stacked: protocol, columns, and what was run."""
    columns = outcomes.columns.items()
    kinds = tuple((name, values.dtype.str, values.shape) for name, values in columns)
    transfers = (name for name, s in protocol.evaluations if isinstance(s, Transfer))
    return protocol.digest, kinds, tuple(name for name in transfers if _not_run(outcomes, name))


def stacked(each: Sequence[Outcomes]) -> Outcomes:
    """Returns (R, N) the outcomes of records that are `alike`, in their order."""
    columns = {
        name: np.concatenate([one.columns[name] for one in each]).reshape(len(each), -1)
        for name in each[0].columns
    }
    return Outcomes(columns)


def counts_of(examples: Bools) -> list[int]:
    """Returns for how many examples something holds, for each record of a stack: (R, N) bool."""
    counts: list[int] = examples.sum(axis=-1, dtype=np.int32).tolist()
    return counts


def shares_of(examples: Bools) -> list[float]:
    """Returns for what share of examples something holds, for each record of a stack.

    Args:
        examples: (R, N) bool, N at least 1.
    """
    return [count / examples.shape[-1] for count in counts_of(examples)]


def share_of(examples: Bools) -> float:
    """Returns the share of examples for which something holds, (N,) bool with N at least 1."""
    [share] = shares_of(examples[None])
    return share


def _fixed(examples: Bools) -> Bools:
    """Returns a set of examples that is kept, and that nobody may change."""
    examples.setflags(write=False)
    return examples


def decode(data: bytes, sha256: str) -> Outcomes:
    """Returns the outcomes in a .npz file.

    Raises:
        RecordError: another hash, not an archive of arrays, too large when unpacked, or columns
            that are not one value an example.
    """
    found = sha256_of_bytes(data)
    if found != sha256:
        raise RecordError(
            f"expected outcomes with sha256 {sha256[:12]}…, got {found[:12]}…; "
            "restore the file or evaluate again"
        )
    columns = read_arrays(data)
    shapes = {values.shape for values in columns.values()}
    if "label" not in columns or len(shapes) != 1 or any(len(shape) != 1 for shape in shapes):
        raise RecordError(
            "expected labels and outcome columns of one length, got others; evaluate again"
        )
    return Outcomes(columns)


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Returns arrays as a compressed .npz; equal arrays give equal bytes, whatever their order.

    Args:
        arrays: bool, integer and float arrays by name.

    Raises:
        ValueError: an array of Python objects, which only pickle could store.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(arrays[name]), allow_pickle=False)
    return buffer.getvalue()


def _any(_: str) -> bool:
    return True


def read_arrays(
    data: bytes, wanted: Callable[[str], bool] = _any, limit: int = LARGEST_OUTCOMES
) -> dict[str, Array]:
    """Returns the arrays of a .npz file, never unpickling, with a bound on their unpacked size.

    Args:
        data: the file.
        wanted: says by name which arrays to unpack.
        limit: bytes in all when unpacked.

    Raises:
        RecordError: not such a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, limit)
            names = {m.filename.removesuffix(".npy"): m for m in members}
            return {n: _read_array(_unpacked(data, m)) for n, m in names.items() if wanted(n)}
    except _DAMAGE as error:
        reason = shorten(str(error)) or type(error).__name__
        raise RecordError(
            f"expected an archive of arrays, got '{reason}'; evaluate again"
        ) from error


def _check_members(members: Sequence[zipfile.ZipInfo], limit: int) -> None:
    """Checks an archive's table before anything in it is unpacked.

    Raises:
        ValueError: a name twice, another compression than ours, or too much when unpacked.
    """
    if len({member.filename for member in members}) != len(members):
        raise ValueError("the same name twice")
    if {member.compress_type for member in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError("another compression")
    size = sum(member.file_size for member in members)
    if size > limit:
        raise ValueError(f"{size} bytes unpacked, more than {limit}")


def _unpacked(data: bytes, member: zipfile.ZipInfo) -> bytes:
    """Returns the content of a member; zipfile's own way takes several times as long.

    Raises:
        ValueError: a member that is not what the archive's table says of it.
    """
    start = member.header_offset
    signature, flags, name_size, extra_size = _LOCAL.unpack_from(data, start)
    begin = start + _LOCAL.size + name_size + extra_size
    packed = data[begin : begin + member.compress_size]
    name = data[start + _LOCAL.size :][:name_size].decode("utf-8" if flags & _UTF8 else "cp437")
    if signature != b"PK\x03\x04" or name != member.orig_filename or flags & ~_KNOWN_BITS:
        raise ValueError(f"another header of {member.filename} than the table's")
    content = packed
    if member.compress_type == zipfile.ZIP_DEFLATED:
        # One byte more than promised shows that there is more, without unpacking the rest.
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.file_size + 1)
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise ValueError(f"another content of {member.filename} than was packed")
    return content


def _read_array(data: bytes) -> Array:
    """Returns the array in the bytes of a .npy file.

    Raises:
        ValueError: anything but plain numbers, exactly as many as the header promises.
    """
    header = _HEADER.match(data)
    if header is None or int.from_bytes(header["size"], "little") != header.end() - 10:
        raise ValueError("no array of numbers")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    # Sized by what is there, not by what the header promises; a difference fails in reshape.
    flat = np.frombuffer(data, dtype, offset=header.end()).copy()
    return flat.reshape(shape, order="F" if header["transposed"] == b"True" else "C")


def check_columns(outcomes: Outcomes, protocol: Protocol) -> None:
    """Checks that just the columns that a protocol's evaluations write are there, and possible.

    Raises:
        RecordError: a column is missing, left over, of another kind, or holds a value that means
            nothing.
    """
    expected = list(_expected(protocol))
    if odd := sorted(outcomes.columns.keys() - {name for name, *_ in expected}):
        raise RecordError(f"expected no outcome column {shorten(odd[0])}, got it; evaluate again")
    for name, kind, lowest, highest in expected:
        values = outcomes.columns.get(name)
        if values is None or values.dtype.kind != kind:
            found = "none" if values is None else str(values.dtype)
            raise RecordError(
                f"expected outcome column {name} of kind '{kind}', got {found}; evaluate again"
            )
        if kind == "f" and ".margin@" in name and np.isnan(values).any():
            raise RecordError(f"expected numbers in outcome column {name}, got NaN; evaluate again")
        if kind == "i" and values.size and not lowest <= values.min() <= values.max() <= highest:
            raise RecordError(
                f"expected values in {lowest:g} … {highest:g} in outcome column {name}, got "
                f"{values.min()} … {values.max()}; evaluate again"
            )


# The smallest code of each kind of attack: sanity and transfer spare nobody.
_LOWEST: dict[type, int] = {
    AutoAttack: PROVEN,
    Fgsm: PROVEN,
    Sanity: MISCLASSIFIED,
    Transfer: NOT_RUN,
}


def _expected(protocol: Protocol) -> Iterator[tuple[str, str, float, float]]:
    """Yields (column, numpy's letter of its kind, smallest and largest value if an integer)."""
    yield "index", "i", 0, math.inf
    yield "label", "i", 0, math.inf
    for name, settings in protocol.evaluations:
        if isinstance(settings, Clean):
            yield f"{name}.prediction", "i", 0, math.inf
            yield f"{name}.zero_gradient", "b", 0, 1
        elif isinstance(settings, Ordered):
            yield f"{name}.broken_by", "i", _LOWEST[type(settings)], len(settings.attacks) - 1
        elif isinstance(settings, Iterated):
            for epsilon in epsilons_of(settings, protocol.threat):
                yield f"{name}.broken_step@{epsilon}", "i", PROVEN, settings.steps.count
        elif isinstance(settings, Bounds):
            for epsilon in settings.epsilons:
                yield f"{name}.margin@{epsilon}", "f", -math.inf, math.inf
                yield f"{name}.method@{epsilon}", "i", -1, len(settings.methods) - 1
        elif isinstance(settings, Smoothing):
            yield f"{name}.prediction", "i", -2, math.inf
            yield f"{name}.radius", "f", 0, math.inf
            yield f"{name}.selected", "i", -2, math.inf
            yield f"{name}.count", "i", -2, settings.n
        if isinstance(settings, Sanity):
            yield f"{name}.huge_survived", "b", 0, 1
            yield f"{name}.vanishing_gradient", "b", 0, 1
            yield f"{name}.planted", "i", -2, 1


def clean_correct(outcomes: Outcomes) -> Bools:
    """Returns (..., N) whether the unmodified input is classified correctly."""
    return np.asarray(outcomes.columns["clean.prediction"] == outcomes.columns["label"])


@once
def _correct(outcomes: Outcomes, protocol: Protocol) -> Bools:
    return _fixed(clean_correct(outcomes))


class Attempt(NamedTuple):
    """What one attack did at one epsilon.

    Attributes:
        evaluation: name within the protocol.
        attack: its own name.
        epsilon: the ball it searched.
        tried: (..., N) bool, examples it was run on.
        broken: (..., N) bool, examples it broke.
    """

    evaluation: str
    attack: str
    epsilon: Fraction
    tried: Bools
    broken: Bools


@once
def attempts(outcomes: Outcomes, protocol: Protocol) -> tuple[Attempt, ...]:
    """Returns what each attack did at each epsilon it ran at, in the protocol's order."""
    return tuple(_attempts(outcomes, protocol))


def _attempts(outcomes: Outcomes, protocol: Protocol) -> Iterator[Attempt]:
    for name, settings in protocol.evaluations:
        if isinstance(settings, Iterated):
            for epsilon in epsilons_of(settings, protocol.threat):
                column = outcomes.columns[f"{name}.broken_step@{epsilon}"]
                tried, found = _fixed(column >= SURVIVED), _fixed(column >= 0)
                yield Attempt(name, name, epsilon, tried, found)
        elif isinstance(settings, Ordered):
            column = outcomes.columns[f"{name}.broken_by"]
            tried = _fixed(column >= SURVIVED)
            for index, attack in enumerate(settings.attacks):
                found = _fixed(np.asarray(column == index))
                yield Attempt(name, attack, protocol.threat.epsilon, tried, found)
                # Members of one evaluation see only the survivors of those before them.
                tried = _fixed(tried & ~found)


def broken(outcomes: Outcomes, protocol: Protocol) -> Iterator[tuple[str, Fraction, Bools]]:
    """Yields (attack, epsilon, (..., N) broken) for each attack at each epsilon it ran at."""
    for attempt in attempts(outcomes, protocol):
        yield attempt.attack, attempt.epsilon, attempt.broken


def certified(outcomes: Outcomes, protocol: Protocol) -> dict[Fraction, Bools]:
    """Returns, by epsilon, (..., N) whether an example is correct and proven robust there.

    A proof at a larger epsilon holds at every smaller one of the same norm.
    """
    return dict(_certified(outcomes, protocol))


@once
def _certified(outcomes: Outcomes, protocol: Protocol) -> dict[Fraction, Bools]:
    correct = _correct(outcomes, protocol)
    proven: dict[Fraction, Bools] = {}
    for _, epsilon, claimed in _claims(outcomes, protocol):
        proven[epsilon] = proven.get(epsilon, np.zeros_like(correct)) | (claimed & correct)
    epsilons = sorted(proven, reverse=True)
    for larger, smaller in zip(epsilons, epsilons[1:], strict=False):
        proven[smaller] = proven[smaller] | proven[larger]
    return {epsilon: _fixed(proven[epsilon]) for epsilon in reversed(epsilons)}


@once
def _claims(outcomes: Outcomes, protocol: Protocol) -> tuple[tuple[str, Fraction, Bools], ...]:
    """Returns (evaluation, epsilon, (..., N) margin proven) for each bound at each epsilon."""
    return tuple(
        (name, epsilon, _fixed(proven))
        for name, settings in protocol.evaluations
        if isinstance(settings, Bounds)
        for epsilon, proven in settings.proven(part(outcomes, name)).items()
    )


def part(outcomes: Outcomes, evaluation: str) -> dict[str, Array]:
    """Returns the columns of one evaluation, under their names within it."""
    start = f"{evaluation}."
    columns = outcomes.columns.items()
    return {name.removeprefix(start): v for name, v in columns if name.startswith(start)}


def survived(column: Array) -> Bools:
    """Returns (..., N) whether an attack left an example correct, or was spared a proven one."""
    return np.asarray((column == SURVIVED) | (column == PROVEN))


def attacked(outcomes: Outcomes, protocol: Protocol, epsilon: Fraction) -> Bools:
    """Returns (..., N) whether an example is correct and survived every attack at up to `epsilon`.

    An input found at a smaller epsilon lies in the larger ball too, so it counts there.
    """
    standing = _standing(outcomes, protocol)
    # Comparing fractions takes as long as counting; most often one is asked for that was attacked.
    left = standing.get((epsilon.numerator, epsilon.denominator))
    if left is not None:
        return left
    left = _correct(outcomes, protocol)
    for terms, after in standing.items():
        if Fraction(*terms) > epsilon:
            break
        left = after
    return left


@once
def _standing(outcomes: Outcomes, protocol: Protocol) -> dict[tuple[int, int], Bools]:
    """Returns, by terms of the epsilon from small to large, (..., N) who survived all up to it."""
    found: dict[Fraction, list[Bools]] = {}
    for attempt in attempts(outcomes, protocol):
        found.setdefault(attempt.epsilon, []).append(attempt.broken)
    left, standing = _correct(outcomes, protocol), {}
    for epsilon in sorted(found):
        left = left.copy()
        for was_broken in found[epsilon]:
            left &= ~was_broken
        standing[epsilon.numerator, epsilon.denominator] = _fixed(left)
    return standing


def check_invariants(outcomes: Outcomes, protocol: Protocol) -> None:
    """Checks what must hold for every example, whatever the network; of a stack, for all at once.

    (1) Proven at epsilon: classified correctly unmodified, and not broken by any attack at that
    epsilon or below. (2) Attacked, survivors included: classified correctly unmodified; left out as
    misclassified: misclassified indeed. (3) Left out as proven: exactly those that are, where the
    protocol certifies first, and otherwise nobody.

    Raises:
        RecordError: a column is missing or holds impossible values.
        InvariantViolation: names the rule and the examples (indices in the test split).
    """
    check_columns(outcomes, protocol)
    correct = clean_correct(outcomes)
    for name, epsilon, claimed in _claims(outcomes, protocol):
        _refuse(claimed & ~correct, outcomes, f"proven in {name}@{epsilon} yet misclassified")
    for epsilon, proven in certified(outcomes, protocol).items():
        refuted = proven & ~attacked(outcomes, protocol, epsilon)
        where = f"{protocol.threat.norm} {epsilon}"
        _refuse(refuted, outcomes, f"certified at {where} yet broken by an attack")
    for name, values in outcomes.columns.items():
        if name.endswith(".broken_by") or ".broken_step@" in name:
            tried = values >= SURVIVED
            _refuse(tried & ~correct, outcomes, f"attacked in {name} yet misclassified")
            left_out = values == MISCLASSIFIED
            _refuse(left_out & correct, outcomes, f"left out in {name} yet correct")
    for name, settings in protocol.evaluations:
        if isinstance(settings, Transfer):
            column = outcomes.columns[f"{name}.broken_by"]
            _refuse(column == PROVEN, outcomes, f"left out in {name} as proven")
            not_run = column == NOT_RUN
            tried = not_run.any(axis=-1, keepdims=True) & ~not_run
            _refuse(tried, outcomes, f"tried in {name} beside others not tried")
    for name, epsilon in _certified_first(protocol):
        spared = outcomes.columns[name] == PROVEN
        proven = _proven_at(outcomes, protocol, epsilon)
        _refuse(spared & ~proven, outcomes, f"left out in {name} as proven yet not certified")
        _refuse(proven & ~spared, outcomes, f"certified yet not left out in {name}")


def _certified_first(protocol: Protocol) -> Iterator[tuple[str, Fraction]]:
    """Yields (column, epsilon) of every attack that spares what is proven, if the protocol does."""
    for name, settings in protocol.evaluations:
        if isinstance(settings, Sparing) and isinstance(settings, Ordered):
            yield f"{name}.broken_by", protocol.threat.epsilon
        elif isinstance(settings, Iterated):
            for epsilon in epsilons_of(settings, protocol.threat):
                yield f"{name}.broken_step@{epsilon}", epsilon


def _proven_at(outcomes: Outcomes, protocol: Protocol, epsilon: Fraction) -> Bools:
    """Returns (..., N) whether the protocol spares an example the attacks at an epsilon."""
    found = np.zeros(outcomes.columns["label"].shape, dtype=np.bool_)
    if protocol.certify_first:
        for _, certified_at, claimed in _claims(outcomes, protocol):
            if certified_at >= epsilon:
                found |= claimed
    return found


def _refuse(examples: Bools, outcomes: Outcomes, rule: str) -> None:
    if examples.any():
        indices = outcomes.columns["index"][examples].tolist()
        raise InvariantViolation(
            f"expected no example {rule}, got {len(indices)}: test examples {indices[:10]}; "
            "this is a bug or a lie, please report it with the checkpoint"
        )


@dataclass(frozen=True)
class Metrics:
    """Accuracies of one record, shares in [0, 1] of `examples`.

    Attributes:
        examples: number of examples.
        clean: correct on unmodified inputs.
        pgd: still correct under the PGD evaluation, the longest where there are several: the ERA
            (empirical robust accuracy) of the papers.
        autoattack: still correct under AutoAttack.
        robust: still correct under every attack of the protocol: an upper bound on the truth.
        certified: correct and proven at the protocol's epsilon: a lower bound on the truth, the VRA
            (verified robust accuracy) of the papers.
        smoothed: of the smoothed network (another network): correct at the protocol's L2 radius.
        smoothed_examples: examples that the smoothed accuracy is over.
        by_evaluation: for each that attacks at the protocol's epsilon: still correct under it.
    """

    examples: int
    clean: float
    pgd: float
    autoattack: float
    robust: float
    certified: float
    smoothed: float
    smoothed_examples: int
    by_evaluation: Mapping[str, float]


def metrics(outcomes: Outcomes, protocol: Protocol) -> Metrics:
    """Returns the accuracies of outcomes; NaN where a protocol lacks the evaluation."""
    [found] = all_metrics(stacked([outcomes]), protocol)
    return found


def all_metrics(stack: Outcomes, protocol: Protocol) -> list[Metrics]:
    """Returns the accuracies of each record of a stack of those that are alike."""
    epsilon = protocol.threat.epsilon
    clean = shares_of(clean_correct(stack))
    unknown = [float("nan")] * len(clean)
    proven = _certified(stack, protocol).get(epsilon)
    single = {name: shares_of(left) for name, left in alone(stack, protocol).items()}
    each = {name: shares_of(left) for name, left in survivors(stack, protocol).items()}
    columns = {
        "clean": clean,
        "pgd": single.get("pgd", unknown),
        "autoattack": single.get("autoattack", unknown),
        "robust": shares_of(attacked(stack, protocol, epsilon)),
        "certified": unknown if proven is None else shares_of(proven),
        "smoothed": single.get("smoothed", unknown),
    }
    return [
        Metrics(
            examples=len(stack),
            smoothed_examples=_smoothed_examples(stack, protocol),
            by_evaluation={name: shares[number] for name, shares in each.items()},
            **{name: shares[number] for name, shares in columns.items()},
        )
        for number in range(len(clean))
    ]


def main_pgd(protocol: Protocol) -> tuple[str, Pgd] | None:
    """Returns a protocol's PGD, by name: at its own epsilon that of most steps, then restarts.

    The PGD of a curve, at epsilons of the curve's, is none. None where there is no such evaluation.
    """
    found = [
        (name, settings)
        for name, settings in protocol.evaluations
        if isinstance(settings, Pgd) and not settings.epsilons
    ]
    return max(found, key=lambda one: (one[1].steps.count, one[1].restarts), default=None)


def survivors(outcomes: Outcomes, protocol: Protocol) -> dict[str, Bools]:
    """Returns, by evaluation that attacks at the protocol's epsilon, (..., N) who survive it.

    Survivors are correct and not broken, and each evaluation stands by itself. One that was not
    run, for want of a dense parent, is left out.
    """
    found: dict[str, Bools] = {}
    for attempt in attempts(outcomes, protocol):
        if attempt.epsilon == protocol.threat.epsilon and not _not_run(
            outcomes, attempt.evaluation
        ):
            left = found.get(attempt.evaluation, clean_correct(outcomes))
            found[attempt.evaluation] = left & ~attempt.broken
    return found


def _not_run(outcomes: Outcomes, evaluation: str) -> bool:
    column = outcomes.columns.get(f"{evaluation}.broken_by")
    return column is not None and bool((column == NOT_RUN).any())


@once
def alone(outcomes: Outcomes, protocol: Protocol) -> dict[str, Bools]:
    """Returns what single evaluations say of each example, where the protocol has them.

    `pgd` and `autoattack`, (..., N): correct under this one alone. `smoothed`, over the examples
    that are smoothed: correct at the protocol's L2 radius, of the smoothed network.
    """
    each, found = survivors(outcomes, protocol), dict[str, Bools]()
    pgd = main_pgd(protocol)
    if pgd and pgd[0] in each:
        found["pgd"] = _fixed(each[pgd[0]])
    for name, settings in protocol.evaluations:
        if isinstance(settings, AutoAttack):
            found.setdefault("autoattack", _fixed(each[name]))
        elif isinstance(settings, Smoothing):
            seen = outcomes.head(settings.examples)
            radius = seen.columns[f"{name}.radius"]
            right = seen.columns[f"{name}.prediction"] == seen.columns["label"]
            certain = right & (radius >= float(protocol.smoothed_radius))
            found.setdefault("smoothed", _fixed(np.asarray(certain)))
    return found


def _smoothed_examples(outcomes: Outcomes, protocol: Protocol) -> int:
    """Returns over how many examples the smoothed accuracy is."""
    sizes = (s.examples for _, s in protocol.evaluations if isinstance(s, Smoothing))
    return min(len(outcomes), next(sizes, 0))
