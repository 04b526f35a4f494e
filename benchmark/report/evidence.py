"""From a ranked row to its evidence: images of what attacks did, proofs, and who lowered it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.leaderboard import has_result
from benchmark.report import images
from benchmark.report.shares import Row, fraction, own_epsilon, same_epsilon
from benchmark.report.views import Fact
from benchmark.report.wording import (
    MISSING,
    count,
    entries,
    items,
    link,
    mapping,
    number,
    scaled,
    text,
)
from benchmark.threat import TOLERANCE

# Examples on a strip.
SHOWN = 8

# A picture of more pixels a side is none of a data set known here.
LARGEST_SIDE = 512


@dataclass(frozen=True, eq=False)
class Strip:
    """Examples that one attack broke, the first in the order of the protocol's list.

    Attributes:
        attack: its name.
        evaluation: that it is part of.
        caption: evaluation, and how many of how many are shown.
        answers: (label, predicted class) of each example, printed.
        words: the images' content as text.
        originals: (k, C, H, W) in [0, 1].
        adversarial: (k, C, H, W) in [0, 1].
        scale: the change drawn as white.
    """

    attack: str
    evaluation: str
    caption: str
    answers: tuple[tuple[str, str], ...]
    words: str
    originals: NDArray[Any]
    adversarial: NDArray[Any]
    scale: float


@dataclass(frozen=True)
class EvidenceFile:
    """A file of adversarial inputs, as the record names it."""

    name: str
    inputs: str
    size: str
    sha256: str


@dataclass(frozen=True)
class Challenge:
    """Adversarial inputs that someone sent in: by whom, with what, how many broken, when.

    `broken` counts examples that nobody had broken before; `href` is safe to link to.
    """

    credit: str
    href: str
    attack: str
    broken: str
    date: str


@dataclass(frozen=True)
class Evidence:
    """What stands behind a row.

    Attributes:
        held: what the evidence files hold; empty where the record names none.
        files: one entry a file.
        strips: images, one strip an attack.
        scaling: how differences are drawn.
        remarks: what is not shown, and why.
        remake: the command that makes missing files again; empty where none is missing.
        verify: the command that re-checks all of it.
        proofs: what the certificates say.
        challenges: verified challenges.
    """

    held: str
    files: tuple[EvidenceFile, ...]
    strips: tuple[Strip, ...]
    scaling: str
    remarks: tuple[str, ...]
    remake: str
    verify: str
    proofs: tuple[Fact, ...]
    challenges: tuple[Challenge, ...]


def evidence(row: Row) -> Evidence | None:
    """Returns the evidence of a row, or None for a row without a result."""
    if not has_result(row):
        return None
    offered = entries(row.get("strips"))
    own = own_epsilon(row)
    wanted = [entry for entry in offered if same_epsilon(text(entry.get("epsilon"), 20), own)]
    made = [_strip(entry, text(row.get("threat"))) for entry in wanted]
    strips = tuple(strip for strip in made if strip is not None)
    remarks, absent = _remarks(row, strips, len(made) - len(strips))
    name, protocol, tier = address(row)
    return Evidence(
        held=_held(row),
        files=_files(row),
        strips=strips,
        scaling=_scaling(row),
        remarks=remarks,
        remake=f"robustprune evaluate {name} --protocol {protocol} --tier {tier}" if absent else "",
        verify=f"robustprune verify {name} --protocol {protocol}",
        proofs=_proofs(row),
        challenges=_challenges(row),
    )


def address(row: Row) -> tuple[str, str, str]:
    """Returns checkpoint id, protocol and tier, each quoted for a shell."""
    parts = text(row["checkpoint_id"], 300), text(row["protocol"]), text(row["tier"])
    name, protocol, tier = (shlex.quote(part) for part in parts)
    return name, protocol, tier


def _held(row: Row) -> str:
    files = entries(row.get("evidence"))
    if not files:
        return ""
    inputs = count(sum(number(file.get("inputs")) for file in files))
    size = scaled(sum(number(file.get("bytes")) for file in files), "B")
    noun = "file" if len(files) == 1 else "files"
    return f"{inputs} adversarial inputs in {size}, {len(files)} {noun}"


def _files(row: Row) -> tuple[EvidenceFile, ...]:
    return tuple(
        EvidenceFile(
            name=text(file.get("file"), 120) or MISSING,
            inputs=count(file.get("inputs")),
            size=scaled(file.get("bytes"), "B"),
            sha256=text(file.get("sha256"), 64) or MISSING,
        )
        for file in entries(row.get("evidence"))
    )


def _scaling(row: Row) -> str:
    if text(row.get("threat")).startswith("L2"):
        return "white and black are the largest change on the strip"
    return f"white and black are +{own_epsilon(row)} and −{own_epsilon(row)}"


def _remarks(row: Row, strips: Sequence[Strip], refused: int) -> tuple[tuple[str, ...], bool]:
    """Returns what is not shown and why, and whether evidence files are missing."""
    found = []
    broke = _broke(row)
    shown = {(strip.evaluation, strip.attack) for strip in strips}
    absent = [attack for evaluation, attack in broke if (evaluation, attack) not in shown]
    if refused:
        found.append(
            f"{count(refused)} of the strips at hand {'is' if refused == 1 else 'are'} not shown: "
            "what they hold is no set of images in [0, 1], inside epsilon and misclassified."
        )
    elif not broke and not strips:
        found.append("No attack broke an example at the protocol’s epsilon: there are no images.")
    elif absent and not strips:
        found.append("The evidence files are not at hand, so there are no images here.")
    elif absent:
        found.append(f"No images of {', '.join(absent)} are at hand.")
    return tuple(found), bool(absent or refused)


def _broke(row: Row) -> list[tuple[str, str]]:
    """Returns (evaluation, attack) of those that broke an example at the protocol's epsilon."""
    own = own_epsilon(row)
    return [
        (text(attack.get("evaluation"), 40), text(attack.get("name"), 40))
        for attack in entries(row.get("attacks"))
        if number(attack.get("broken")) > 0
        and same_epsilon(text(attack.get("epsilon"), 20) or own, own)
    ]


def _strip(entry: Mapping[str, Any], threat: str) -> Strip | None:
    """Returns a strip, or None where the entry is not what it should be."""
    norm, _, printed = threat.partition(" ")
    pair = _images(entry)
    answers = _answers(entry, pair)
    scale = None if pair is None else _scale(pair[1] - pair[0], norm, fraction(printed))
    total = number(entry.get("total"))
    if pair is None or answers is None or scale is None or not total >= len(answers):
        return None
    attack, evaluation = text(entry.get("attack"), 40), text(entry.get("evaluation"), 40)
    shown = len(answers)
    few = f"the first {shown} of {count(total)}" if total > shown else f"all {shown}"
    few = f"{few} adversarial inputs" if total > 1 else "the only adversarial input"
    return Strip(
        attack=attack,
        evaluation=evaluation,
        caption=f"{evaluation + ': ' if evaluation != attack else ''}{few}, in list order",
        answers=tuple((str(label), str(guess)) for label, guess in answers),
        words=_words(f"{few[0].upper()}{few[1:]} of {attack}", answers),
        originals=pair[0],
        adversarial=pair[1],
        scale=scale,
    )


def _words(head: str, answers: Sequence[tuple[int, int]]) -> str:
    pairs = ", ".join(f"class {label} taken for {guess}" for label, guess in answers)
    return f"{head}, each as original, adversarial input and difference: {pairs}."


def _scale(change: NDArray[Any], norm: str, epsilon: Fraction | None) -> float | None:
    """Returns the change to draw as white, or None where a change is larger than epsilon."""
    if epsilon is None or epsilon <= 0:
        return None
    flat = np.abs(change.reshape(len(change), -1))
    sizes = np.sqrt((flat**2).sum(1)) if norm == "L2" else flat.max(1)
    if not (sizes <= float(epsilon) + TOLERANCE).all():
        return None
    # Within an L2 ball each pixel changes by far less than epsilon, and all would look grey.
    return float(flat.max()) or 1.0 if norm == "L2" else float(epsilon)


def _images(entry: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Returns the first originals and adversarial inputs, if they are images in [0, 1]."""
    pair = entry.get("originals"), entry.get("adversarial")
    first, second = pair
    if not (isinstance(first, np.ndarray) and isinstance(second, np.ndarray)):
        return None
    if first.shape != second.shape or first.ndim != 4 or min(first.shape) < 1:
        return None
    if first.shape[1] not in (1, 3) or max(first.shape[2:]) > LARGEST_SIDE:
        return None
    if first.dtype.kind != "f" or second.dtype.kind != "f":
        return None
    shown = images.columns(first.shape, SHOWN)
    originals, adversarial = (array[:shown].astype(np.float64) for array in (first, second))
    # NaN fails both comparisons.
    for array in (originals, adversarial):
        if not ((array >= 0) & (array <= 1)).all():
            return None
    return originals, adversarial


def _answers(
    entry: Mapping[str, Any], pair: tuple[NDArray[Any], NDArray[Any]] | None
) -> list[tuple[int, int]] | None:
    """Returns (label, predicted class) of the images shown, if each is misclassified."""
    labels, guesses = items(entry.get("labels")), items(entry.get("predictions"))
    if pair is None or not len(labels) == len(guesses) == len(entry["originals"]):
        return None
    answers = list(zip(labels, guesses, strict=True))[: len(pair[0])]
    for value in (value for answer in answers for value in answer):
        # Classes are small whole numbers; numpy's and Python's alike.
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return None
        if not 0 <= value < 10**6:
            return None
    if any(label == guess for label, guess in answers):
        return None
    return [(int(label), int(guess)) for label, guess in answers]


def _proofs(row: Row) -> tuple[Fact, ...]:
    """Returns what is proven at the protocol's epsilon, by which method, and what that saved."""
    return (_certified(row), *_saved(row))


def _certified(row: Row) -> Fact:
    own, examples = own_epsilon(row), number(row.get("examples"))
    for entry in entries(row.get("certified_curve")):
        share = number(entry.get("certified_accuracy"))
        if not same_epsilon(text(entry.get("epsilon"), 20), own) or not math.isfinite(share):
            continue
        methods = sorted(mapping(entry.get("methods")).items())
        by = ", ".join(f"{text(name, 20)} {count(number(n))}" for name, n in methods)
        proven = f"{count(share * examples)} of {count(examples)} examples"
        return Fact(f"proven at epsilon {own}", proven, note=f"best bound: {by}" if by else "")
    return Fact(f"proven at epsilon {own}", MISSING, note="no bounds at this epsilon")


def _saved(row: Row) -> tuple[Fact, ...]:
    """Returns how many proven examples each evaluation left out, and the passes that saved."""
    costs = [(text(name, 40), mapping(cost)) for name, cost in mapping(row.get("cost")).items()]
    left = [
        f"{name} {count(cost['proven'])}" for name, cost in costs if number(cost.get("proven")) > 0
    ]
    saved = [number(cost.get("forwards_saved")) for _, cost in costs]
    known = sum(value for value in saved if math.isfinite(value) and value > 0)
    facts = []
    if left:
        facts.append(
            Fact(
                "proven, so not attacked", ", ".join(left), note="examples, counted once an epsilon"
            )
        )
    if left and known > 0:
        facts.append(Fact("forward passes saved by that", f"at least {scaled(known)}"))
    return tuple(facts)


def _challenges(row: Row) -> tuple[Challenge, ...]:
    return tuple(
        Challenge(
            credit=text(entry.get("credit"), 80) or "unnamed",
            href=link(entry.get("url")),
            attack=text(entry.get("attack"), 80) or MISSING,
            broken=count(entry.get("broken")),
            date=text(entry.get("date"), 20) or MISSING,
        )
        for entry in entries(row.get("challenges"))
    )
