"""What must be said about a row beside its numbers: rank, flags, and remarks, in words."""

import math
import re
from dataclasses import dataclass

from benchmark.leaderboard import has_result
from benchmark.report.shares import Row, lowered, upper_end, why_missing
from benchmark.report.wording import (
    MISSING,
    count,
    entries,
    flag_words,
    number,
    percent,
    points,
    text,
)


@dataclass(frozen=True)
class FlagView:
    """A flag in words.

    Attributes:
        words: short form.
        meaning: what it says about a row.
        rate: share of examples, printed with its sign.
        detail: what was seen on this row.
        informational: it casts no doubt.
        unranks: it is why the row has no rank.
    """

    words: str
    meaning: str
    rate: str
    detail: str
    informational: bool
    unranks: bool = False


@dataclass(frozen=True)
class Badge:
    """What a board says of a row in two or three words.

    Attributes:
        kind: `unranks`, `flag`, `information`, `note`, `good` or `quiet`.
        words: short form.
        detail: the whole of it.
    """

    kind: str
    words: str
    detail: str = ""


def ranked(row: Row) -> bool:
    """Returns whether a row takes a place on its board."""
    return has_result(row) and not unrankable(row)


def unrankable(row: Row) -> str:
    """Returns why a row with a result gets no rank, in words; empty where it gets one."""
    given = text(row.get("unrankable"), 300)
    if not given and has_result(row) and not math.isfinite(number(row.get("rank"))):
        return "no rank was given"
    if not given:
        return ""
    names = sorted({text(flag.get("name")) for flag in entries(row.get("flags"))})
    named = "|".join(_whole(name) for name in names) or _whole("")
    return re.sub(named, lambda match: flag_words(match[0]).words, given)


def flags(row: Row) -> tuple[FlagView, ...]:
    """Returns the row's flags in words: what takes its rank first, information last."""
    found = []
    for flag in entries(row.get("flags")):
        name = text(flag.get("name"))
        known = flag_words(name)
        rate = number(flag.get("rate"))
        found.append(
            FlagView(
                known.words,
                known.meaning,
                f"{percent(rate)} %" if math.isfinite(rate) else "",
                text(flag.get("detail"), 300),
                known.informational,
                _unranks(name, row),
            )
        )
    return tuple(sorted(found, key=lambda flag: (not flag.unranks, flag.informational, flag.words)))


def _unranks(name: str, row: Row) -> bool:
    """Returns whether the reason for having no rank names a flag."""
    return re.search(_whole(name), text(row.get("unrankable"), 2000)) is not None


def _whole(name: str) -> str:
    """Returns a pattern for a flag's name that is no part of a longer one; none is no pattern."""
    return rf"(?<![\w-]){re.escape(name)}(?![\w-])" if name else r"(?!)"


def rank_in_words(row: Row) -> tuple[str, str]:
    """Returns a rank and what stands behind it."""
    if not has_result(row):
        return MISSING, "no rank: not evaluated to the end"
    if not ranked(row):
        return MISSING, f"no rank: {unrankable(row)}"
    place, p = int(row["rank"]), number(row["p_best"])
    if not row["rivals"]:
        return "1", "the only row of its group"
    if place == 1 and not row["tied_with_best"]:
        return "1", "most robust of its group"
    if not math.isfinite(p):
        return "=1", "the best of its group, from which others cannot be told apart"
    probability = f" (p = {p:.2g}, exact McNemar, Holm-adjusted)"
    if row["tied_with_best"]:
        return "=1", f"cannot be told apart from the best of its group{probability}"
    return str(place), f"less robust than the best of its group{probability}"


def rank_range(row: Row) -> str:
    """Returns the 95 % interval of a row's rank, such as `1–3`; empty where it has none."""
    low, high = number(row.get("rank_low")), number(row.get("rank_high"))
    if not ranked(row) or not row["rivals"] or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{low:.0f}–{high:.0f}"


def notes(row: Row, digest: str) -> tuple[str, ...]:
    """Returns what must be said about a row beside its flags.

    Args:
        row: a ranked row.
        digest: of the protocol as it stands.
    """
    found = [] if text(row.get("status")) == "done" else [why_missing(row)]
    if (reason := unrankable(row)) and not any(flag.unranks for flag in flags(row)):
        found.append(f"no rank: {reason}")
    if row["incomplete"]:
        found.append(f"incomplete, lacks controls: {text(row['missing_controls'])}")
    if narrow := text(row.get("narrow"), 200):
        found.append(f"narrow: {narrow}")
    extra = text(row.get("extra_data"), 60)
    if extra and extra.lower() not in ("none", "no", "-"):
        found.append(f"extra data: {extra}")
    evaluated = text(row.get("protocol_digest"))
    if evaluated and evaluated != digest:
        found.append("evaluated under another version of the protocol")
    return tuple(found)


def asides(row: Row) -> tuple[str, ...]:
    """Returns what the board says in a note and the checkpoint's page in a section of its own."""
    found = []
    if lowered(row):
        before, after = percent(number(row["robust_accuracy"])), percent(upper_end(row))
        found.append(f"upper end lowered from {before} to {after} by {_credits(row)}")
    if seeds := seeds_in_words(row):
        found.append(seeds)
    return tuple(found)


def badges(row: Row, digest: str) -> tuple[Badge, ...]:
    """Returns what a board says of a row: what is usual first, then what casts doubt on it.

    Args:
        row: a ranked row.
        digest: of the protocol as it stands.
    """
    found = []
    if text(row.get("evidence_level")) == "re-checkable":
        found.append(
            Badge(
                "good",
                "✓",
                "re-checkable: the record names its adversarial inputs; with them, or with the "
                "same made again, anyone can verify this row",
            )
        )
    if has_result(row) and number(row.get("seeds")) == 1:
        found.append(Badge("quiet", "1 seed", "single seed: others may do better or worse"))
    found += [Badge(_kind(flag), *_flag_in_words(flag)) for flag in flags(row)]
    found += [Badge("note", *note) for note in _short_notes(row, digest)]
    return tuple(found)


def _kind(flag: FlagView) -> str:
    if flag.unranks:
        return "unranks"
    return "information" if flag.informational else "flag"


def _flag_in_words(flag: FlagView) -> tuple[str, str]:
    if flag.informational:
        return flag.words, flag.meaning
    # A number and its sign stay on one line.
    rate = f" ({flag.rate})".replace(" %", "\u00a0%") if flag.rate else ""
    return f"{'costs the rank: ' if flag.unranks else ''}{flag.words}{rate}", flag.meaning


def _short_notes(row: Row, digest: str) -> list[tuple[str, str]]:
    """Returns notes and asides of a row, each with a short form before what it says in full."""
    short = {
        "incomplete, lacks controls": "incomplete controls",
        "narrow": "narrow",
        "extra data": "extra data",
        "evaluated under": "older protocol",
        "upper end lowered": "lowered by a challenge",
    }
    found = []
    for said in (*notes(row, digest), *asides(row)):
        words = next((words for start, words in short.items() if said.startswith(start)), "")
        found.append((words, said) if words else (said, ""))
    return found


def _credits(row: Row) -> str:
    """Returns whose challenges lowered a row's upper end, the first few by name."""
    challenges = entries(row.get("challenges"))
    named = [
        f"{text(one.get('credit'), 60) or 'unnamed'} with {text(one.get('attack'), 40) or 'inputs'}"
        f" ({count(one.get('broken'))} broken, {text(one.get('date'), 20) or 'undated'})"
        for one in challenges[:3]
    ]
    if len(challenges) > len(named):
        named.append(f"{len(challenges) - len(named)} more")
    return "; ".join(named) or "a challenge"


def seeds_in_words(row: Row) -> str:
    """Returns what several training seeds of a row's setting say; empty for a single one."""
    seeds, mean = number(row.get("seeds")), number(row.get("seed_mean"))
    if not seeds > 1 or not math.isfinite(mean):
        return ""
    low, high = number(row.get("seed_low")), number(row.get("seed_high"))
    known = math.isfinite(low) and math.isfinite(high)
    ends = f" [{percent(low)}, {percent(high)}], over seeds and examples" if known else ""
    spread = points(number(row.get("seed_spread"))).lstrip("+")
    return f"mean of {seeds:.0f} seeds {percent(mean)}{ends}" + (
        f"; spread {spread} points" if spread != MISSING else ""
    )
