"""Outcomes: one row an example, from which every accuracy is computed, and the rules they obey.

A column is named `<evaluation>.<column>`; `index` and `label` identify the example. Nothing here is
typed or stored twice: clean, robust and certified accuracy are means over these arrays.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.digests import sha256_of_bytes
from benchmark.errors import InvariantViolation, RecordError, shorten
from benchmark.evaluations import AutoAttack, Bounds, Clean, Flag, Pgd, Smoothing
from benchmark.protocols import Protocol

Array = NDArray[Any]
Bools = NDArray[np.bool_]

# Thresholds of the flags that outcomes decide, in shares of the examples. The first is AutoAttack's
# own (Croce & Hein 2020, flags of the released code); the others are argued in docs/protocols.md.
SQUARE_GAIN = 0.002
PGD_LEAD = 0.05
STEPS_GAIN = 0.01
PGD_STRONGER = 0.0

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

# The header of a .npy file, version 1.0, of plain numbers. numpy's own reader evaluates it as a
# Python expression and allocates whatever it promises.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{'descr': '(?P<dtype>[|<][biuf][1248])', "
    rb"'fortran_order': (?P<transposed>False|True), 'shape': \((?P<shape>[0-9, ]{0,200})\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Outcomes:
    """Columns of equal length, in the order of the protocol's example list."""

    columns: Mapping[str, Array]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.columns["label"])

    def head(self, count: int) -> "Outcomes":
        """Returns the outcomes of the first `count` examples: those of a smaller tier."""
        return Outcomes({name: values[:count] for name, values in self.columns.items()})

    def encode(self) -> bytes:
        """Returns the columns as a compressed .npz; equal columns give equal bytes."""
        return encode_arrays(self.columns)


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


def read_arrays(data: bytes, wanted: Callable[[str], bool] = _any) -> dict[str, Array]:
    """Returns the arrays of a .npz file, never unpickling, with a bound on their unpacked size.

    Args:
        data: the file.
        wanted: says by name which arrays to unpack.

    Raises:
        RecordError: not such a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members)
            names = {m.filename.removesuffix(".npy"): m for m in members}
            return {n: _read_array(archive.read(m)) for n, m in names.items() if wanted(n)}
    except _DAMAGE as error:
        reason = shorten(str(error)) or type(error).__name__
        raise RecordError(
            f"expected an archive of arrays, got '{reason}'; evaluate again"
        ) from error


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
    """Checks an archive's table before anything in it is unpacked.

    Raises:
        ValueError: a name twice, another compression than ours, or too much when unpacked.
    """
    if len({member.filename for member in members}) != len(members):
        raise ValueError("the same name twice")
    if {member.compress_type for member in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError("another compression")
    size = sum(member.file_size for member in members)
    if size > LARGEST_OUTCOMES:
        raise ValueError(f"{size} bytes unpacked, more than {LARGEST_OUTCOMES}")


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
    """Checks that every column that a protocol's evaluations write is there and possible.

    Raises:
        RecordError: a column is missing, of another kind, or holds a value that means nothing.
    """
    for name, kind, lowest, highest in _expected(protocol):
        values = outcomes.columns.get(name)
        if values is None or values.dtype.kind != kind:
            found = "none" if values is None else str(values.dtype)
            raise RecordError(
                f"expected outcome column {name} of kind '{kind}', got {found}; evaluate again"
            )
        if kind == "i" and len(values) and not lowest <= values.min() <= values.max() <= highest:
            raise RecordError(
                f"expected values in {lowest:g} … {highest:g} in outcome column {name}, got "
                f"{values.min()} … {values.max()}; evaluate again"
            )


def _expected(protocol: Protocol) -> Iterator[tuple[str, str, float, float]]:
    """Yields (column, numpy's letter of its kind, smallest and largest value if an integer)."""
    yield "index", "i", 0, math.inf
    yield "label", "i", 0, math.inf
    for name, settings in protocol.evaluations:
        if isinstance(settings, Clean):
            yield f"{name}.prediction", "i", 0, math.inf
            yield f"{name}.zero_gradient", "b", 0, 1
        elif isinstance(settings, AutoAttack):
            yield f"{name}.broken_by", "i", -2, len(settings.attacks) - 1
        elif isinstance(settings, Pgd):
            for epsilon in settings.epsilons or (protocol.threat.epsilon,):
                yield f"{name}.broken_step@{epsilon}", "i", -2, settings.steps.count
        elif isinstance(settings, Bounds):
            for epsilon in settings.epsilons:
                yield f"{name}.margin@{epsilon}", "f", -math.inf, math.inf
                yield f"{name}.method@{epsilon}", "i", -1, len(settings.methods) - 1
        elif isinstance(settings, Smoothing):
            yield f"{name}.prediction", "i", -2, math.inf
            yield f"{name}.radius", "f", 0, math.inf


def clean_correct(outcomes: Outcomes) -> Bools:
    """Returns (N,) whether the unmodified input is classified correctly."""
    return np.asarray(outcomes.columns["clean.prediction"] == outcomes.columns["label"])


def broken(outcomes: Outcomes, protocol: Protocol) -> Iterator[tuple[str, Fraction, Bools]]:
    """Yields (attack, epsilon, (N,) broken) for each attack at each epsilon it ran at."""
    for name, settings in protocol.evaluations:
        if isinstance(settings, Pgd):
            for epsilon in settings.epsilons or (protocol.threat.epsilon,):
                yield name, epsilon, outcomes.columns[f"{name}.broken_step@{epsilon}"] >= 0
        elif isinstance(settings, AutoAttack):
            column = outcomes.columns[f"{name}.broken_by"]
            for index, attack in enumerate(settings.attacks):
                yield attack, protocol.threat.epsilon, np.asarray(column == index)


def certified(outcomes: Outcomes, protocol: Protocol) -> dict[Fraction, Bools]:
    """Returns, by epsilon, (N,) whether an example is correct and proven robust at that epsilon.

    A proof at a larger epsilon holds at every smaller one of the same norm.
    """
    correct = clean_correct(outcomes)
    proven: dict[Fraction, Bools] = {}
    for _, epsilon, claimed in _claims(outcomes, protocol):
        proven[epsilon] = proven.get(epsilon, np.zeros_like(correct)) | (claimed & correct)
    epsilons = sorted(proven, reverse=True)
    for larger, smaller in zip(epsilons, epsilons[1:], strict=False):
        proven[smaller] = proven[smaller] | proven[larger]
    return dict(sorted(proven.items()))


def _claims(outcomes: Outcomes, protocol: Protocol) -> Iterator[tuple[str, Fraction, Bools]]:
    """Yields (evaluation, epsilon, (N,) margin proven) for each bound at each epsilon."""
    for name, settings in protocol.evaluations:
        if isinstance(settings, Bounds):
            for epsilon in settings.epsilons:
                margin = outcomes.columns[f"{name}.margin@{epsilon}"]
                yield name, epsilon, np.asarray(margin > settings.margin)


def attacked(outcomes: Outcomes, protocol: Protocol, epsilon: Fraction) -> Bools:
    """Returns (N,) whether an example is correct and survived every attack at up to `epsilon`.

    An input found at a smaller epsilon lies in the larger ball too, so it counts there.
    """
    survived = clean_correct(outcomes)
    for _, found_at, was_broken in broken(outcomes, protocol):
        if found_at <= epsilon:
            survived = survived & ~was_broken
    return survived


def check_invariants(outcomes: Outcomes, protocol: Protocol) -> None:
    """Checks what must hold for every example, whatever the network.

    (1) Proven at epsilon: classified correctly unmodified, and not broken by any attack at that
    epsilon or below. (2) Attacked, survivors included: classified correctly unmodified; left out as
    misclassified: misclassified indeed.

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
            _refuse((values > -2) & ~correct, outcomes, f"attacked in {name} yet misclassified")
            _refuse((values == -2) & correct, outcomes, f"left out in {name} yet correct")


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
        pgd: still correct under the PGD evaluation.
        autoattack: still correct under AutoAttack.
        robust: still correct under every attack of the protocol: an upper bound on the truth.
        certified: correct and proven at the protocol's epsilon: a lower bound on the truth.
        smoothed: of the smoothed network (another network): correct at the protocol's L2 radius.
        smoothed_examples: examples that the smoothed accuracy is over.
    """

    examples: int
    clean: float
    pgd: float
    autoattack: float
    robust: float
    certified: float
    smoothed: float
    smoothed_examples: int


def metrics(outcomes: Outcomes, protocol: Protocol) -> Metrics:
    """Returns the accuracies of outcomes; NaN where a protocol lacks the evaluation."""
    epsilon = protocol.threat.epsilon
    proven = certified(outcomes, protocol).get(epsilon)
    smoothed, count = _smoothed(outcomes, protocol)
    return Metrics(
        examples=len(outcomes),
        clean=float(clean_correct(outcomes).mean()),
        pgd=_survival(outcomes, protocol, Pgd),
        autoattack=_survival(outcomes, protocol, AutoAttack),
        robust=float(attacked(outcomes, protocol, epsilon).mean()),
        certified=float("nan") if proven is None else float(proven.mean()),
        smoothed=smoothed,
        smoothed_examples=count,
    )


def _survival(outcomes: Outcomes, protocol: Protocol, kind: type[Pgd] | type[AutoAttack]) -> float:
    """Returns the share that survived the evaluation of a kind at the protocol's epsilon."""
    for name, settings in protocol.evaluations:
        if isinstance(settings, AutoAttack) and kind is AutoAttack:
            return float((outcomes.columns[f"{name}.broken_by"] == -1).mean())
        if isinstance(settings, Pgd) and kind is Pgd and not settings.epsilons:
            column = outcomes.columns[f"{name}.broken_step@{protocol.threat.epsilon}"]
            return float((column == -1).mean())
    return float("nan")


def _smoothed(outcomes: Outcomes, protocol: Protocol) -> tuple[float, int]:
    for name, settings in protocol.evaluations:
        if isinstance(settings, Smoothing):
            seen = outcomes.head(settings.examples)
            count = len(seen)
            radius = seen.columns[f"{name}.radius"]
            right = seen.columns[f"{name}.prediction"] == seen.columns["label"]
            certain = right & (radius >= float(protocol.smoothed_radius))
            return float(certain.mean()), count
    return float("nan"), 0


def all_flags(raised: Iterable[Flag], outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags raised while evaluating and those that outcomes decide, each once, by name.

    Args:
        raised: by the evaluations; an outcome's verdict under the same name replaces it.
        outcomes: of the examples in question.
        protocol: they are evaluated under.
    """
    found = {flag.name: flag for flag in raised}
    found |= {flag.name: flag for flag in flags_of(outcomes, protocol)}
    return tuple(found[name] for name in sorted(found))


def flags_of(outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags that outcomes decide (design rule 4), with their rates."""
    flags: list[Flag] = []
    for name, settings in protocol.evaluations:
        if isinstance(settings, Clean):
            zero = float(outcomes.columns[f"{name}.zero_gradient"].mean())
            if zero > 0:
                text = "the loss has no gradient at these inputs"
                flags.append(Flag("zero-gradients", zero, text))
        elif isinstance(settings, AutoAttack):
            flags += _square(outcomes, name, settings)
        elif isinstance(settings, Pgd) and not settings.epsilons:
            flags += _convergence(outcomes, name, settings, protocol)
    return tuple(flags + _disagreement(outcomes, protocol))


def _square(outcomes: Outcomes, name: str, settings: AutoAttack) -> list[Flag]:
    if "square" not in settings.attacks:
        return []
    by_square = outcomes.columns[f"{name}.broken_by"] == settings.attacks.index("square")
    gain = float(by_square.mean())
    if gain <= SQUARE_GAIN:
        return []
    text = "Square broke examples that survived every gradient attack"
    return [Flag("square-lowers-accuracy", gain, text)]


def _convergence(outcomes: Outcomes, name: str, settings: Pgd, protocol: Protocol) -> list[Flag]:
    column = outcomes.columns[f"{name}.broken_step@{protocol.threat.epsilon}"]
    late = float((column > settings.steps.count // 2).mean())
    if late <= STEPS_GAIN:
        return []
    text = f"the second half of {settings.steps.count} PGD steps still broke examples"
    return [Flag("pgd-not-converged", late, text)]


def _disagreement(outcomes: Outcomes, protocol: Protocol) -> list[Flag]:
    """Compares PGD and AutoAttack example by example."""
    columns = outcomes.columns
    attack = next((n for n, s in protocol.evaluations if isinstance(s, AutoAttack)), None)
    pgd = next((n for n, s in protocol.evaluations if isinstance(s, Pgd) and not s.epsilons), None)
    if attack is None or pgd is None:
        return []
    survived_attack = columns[f"{attack}.broken_by"] == -1
    survived_pgd = columns[f"{pgd}.broken_step@{protocol.threat.epsilon}"] == -1
    flags = []
    stronger = float((survived_attack & ~survived_pgd).mean())
    if stronger > PGD_STRONGER:
        text = "PGD broke examples that survived AutoAttack"
        flags.append(Flag("pgd-stronger-than-autoattack", stronger, text))
    # One division, not a difference of two means: 0.35 - 0.30 is a little less than 0.05.
    lead = (int(survived_pgd.sum()) - int(survived_attack.sum())) / len(outcomes)
    if lead >= PGD_LEAD:
        text = "AutoAttack lies at least 5 points under PGD"
        flags.append(Flag("autoattack-far-below-pgd", lead, text))
    return flags
