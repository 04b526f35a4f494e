"""The error family of the benchmark, and look-ups that suggest the name that was meant.

Every message is one line: what was expected, what was found, and the next step. The command line
turns each class into its own exit code (`docs/records.md` lists them).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

Value = TypeVar("Value")

# A table may be a manifest with thousands of entries; a message names at most this many of them.
_LISTED = 20


class BenchmarkError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code: ClassVar[int] = 10


class UnknownName(BenchmarkError):
    """A name that no table knows."""

    exit_code = 3


class ManifestError(BenchmarkError):
    """A manifest, or a checkpoint file it points to, that breaks its format or its promises."""

    exit_code = 4


class DataUnavailable(BenchmarkError):
    """A data set that is missing, incomplete or damaged."""

    exit_code = 5


class ExtraMissing(BenchmarkError):
    """An optional package that the command needs and the machine lacks."""

    exit_code = 6


class ContractError(BenchmarkError):
    """A method, network or tensor that breaks the contract it was used under."""

    exit_code = 7


class InvariantViolation(BenchmarkError):
    """Outcomes that contradict each other: a bug or a lie, never a footnote."""

    exit_code = 8


class RecordError(BenchmarkError):
    """A record that is damaged, or that belongs to another checkpoint, protocol or data set."""

    exit_code = 9


class WorkerLost(BenchmarkError):
    """A worker process that was killed from outside, most often for memory."""

    exit_code = 12


class OutOfMemory(BenchmarkError):
    """Memory that does not hold what one job needs."""

    exit_code = 13


class StorageError(BenchmarkError):
    """A disk that is full, read-only or otherwise refuses a write."""

    exit_code = 11


class DownloadFailed(BenchmarkError):
    """A file that none of its sources gave as it should be."""

    exit_code = 14


def shorten(text: str, limit: int = 80) -> str:
    """Returns `text` as one printable line, cut to `limit` characters; hostile names stay harmless.

    Args:
        text: any text, of any length.
        limit: characters of the answer, at least 1.
    """
    if len(text) <= limit and text.isprintable():
        return text
    line = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def lookup(kind: str, name: str, table: Mapping[str, Value]) -> Value:
    """Returns the entry `name` of a table.

    Args:
        kind: what the table holds, for the message ("protocol", "method").
        name: the key asked for.
        table: the known entries.

    Raises:
        UnknownName: no such entry; the message names near matches and the first known names.
    """
    if name in table:
        return table[name]
    asked = shorten(name)
    near = " or ".join(_near(asked, table))
    hint = f"did you mean {near}? " if near else ""
    known = [shorten(key) for key in sorted(table)]
    listed = ", ".join(known[:_LISTED]) or "none"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    raise UnknownName(f"unknown {kind} '{asked}'; {hint}known: {listed}{more}")


def _near(asked: str, table: Iterable[str]) -> list[str]:
    """Returns up to three names that look like the one asked for, whatever its capitals."""
    lowered = {key.lower(): shorten(key) for key in table}
    found = difflib.get_close_matches(asked.lower(), lowered, n=3, cutoff=0.5)
    return [lowered[key] for key in found]
