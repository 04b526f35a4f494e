"""Old files made readable: one step from each version of a format to the next.

Steps work on plain JSON data, since the classes of old versions are gone. A file is first checked
for what its own version could check of itself. A step then says nothing that the old file did not
know: what it lacks is empty, never guessed.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json

from benchmark.digests import digest_of
from benchmark.errors import BenchmarkError, ManifestError, RecordError, lookup, shorten

Data = dict[str, Any]

# The current version of each format.
CURRENT: dict[str, int] = {
    "manifest": 2,
    "record": 3,
    "submission": 1,
    "submission-draft": 1,
    "campaign": 1,
    "challenge": 1,
    "failure": 1,
}


def parse(kind: str, data: bytes, place: str = "its file") -> Data:
    """Returns the JSON object in a file, of whatever version.

    Args:
        kind: a key of `CURRENT`.
        data: the file.
        place: the file's path as messages show it.

    Raises:
        ManifestError: of a manifest, or RecordError, of anything else: not a JSON object, or one
            with NaN, infinity or a name twice.
    """
    try:
        # Python's own reader follows any nesting until the stack is full, which ends the process
        # where a library has lifted the recursion limit; this one gives up long before.
        from_json(data, allow_inf_nan=False)
        found = json.loads(
            data, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_once
        )
    except ValueError as error:
        raise _error(kind)(
            f"expected a {kind} as JSON in {place}, got '{shorten(str(error))}'; restore it"
        ) from error
    if not isinstance(found, dict):
        raise _error(kind)(
            f"expected a {kind} as a JSON object in {place}, got {type(found).__name__}; restore it"
        )
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> Data:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Two readers could each take another one of them.
        raise ValueError("a name twice in one object")
    return found


def _error(kind: str) -> type[BenchmarkError]:
    return ManifestError if kind == "manifest" else RecordError


def version_of(kind: str, data: Mapping[str, Any]) -> int:
    """Returns the version that a file says it has.

    Raises:
        UnknownName: no such kind of file.
        ManifestError: of a manifest, or RecordError, of anything else: no version, one that never
            was, or one that is newer than this program.
    """
    current = lookup("format", kind, CURRENT)
    version = data.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise _error(kind)(
            f"expected schema_version 1 to {current} of a {kind}, got "
            f"{shorten(repr(version), 40)}; restore the file"
        )
    if version > current:
        raise _error(kind)(
            f"expected schema_version 1 to {current} of a {kind}, got {shorten(str(version), 40)}; "
            "it was made by a newer robustprune: update this one"
        )
    return version


def migrate(kind: str, data: Mapping[str, Any]) -> Data:
    """Returns a file's data as the current version says them; those of the current one as they are.

    What comes back has no digests of its own yet wherever a step was taken: the old ones were
    checked, and the reader makes the new ones.

    Args:
        kind: a key of `CURRENT`.
        data: what `parse` returned; left unchanged.

    Raises:
        UnknownName: no such kind of file.
        ManifestError: of a manifest, or RecordError, of anything else: see `version_of`, or a
            digest that the old data do not keep.
    """
    found, written = dict(data), version_of(kind, data)
    if check := CHECKS.get((kind, written)):
        check(found)
    for version in range(written, CURRENT[kind]):
        found = STEPS[kind, version](found)
    return found


def digest_of_record_1(data: Mapping[str, Any]) -> str:
    """Returns the content digest of a record of version 1: all but times, machine and itself.

    Raises:
        RecordError: data that no such record holds.
    """
    return _content_digest(data, 1, "environment", "content_digest")


def digest_of_record_2(data: Mapping[str, Any]) -> str:
    """Returns the content digest of a record of version 2: all but times, machine and digests.

    Raises:
        RecordError: data that no such record holds.
    """
    return _content_digest(data, 2, "environment", "content_digest", "seals")


def _content_digest(data: Mapping[str, Any], version: int, *left_out: str) -> str:
    content = {name: value for name, value in data.items() if name not in left_out}
    content["cost"] = {
        name: {key: value for key, value in spent.items() if key != "seconds"}
        for name, spent in _costs(data).items()
    }
    return _digest(content, version)


def _digest(value: object, version: int) -> str:
    try:
        return digest_of(value)
    except RecursionError as error:
        raise RecordError(
            f"expected a record of version {version}, got one nested beyond measure; evaluate again"
        ) from error


def check_record_1(data: Mapping[str, Any]) -> None:
    """Checks a record of version 1 against its own digest.

    Raises:
        RecordError: it was altered.
    """
    if data.get("content_digest") != digest_of_record_1(data):
        raise RecordError(
            "expected an unaltered record of version 1, got another content digest; evaluate again"
        )


def check_record_2(data: Mapping[str, Any]) -> None:
    """Checks a record of version 2 against the seals of its fields and its own digest.

    Raises:
        RecordError: it was altered.
    """
    now = {name: _digest(value, 2) for name, value in data.items() if name != "seals"}
    seals = data.get("seals")
    if not isinstance(seals, dict):
        raise RecordError(
            "expected a seal of each field in a record of version 2, got none; evaluate again"
        )
    if odd := sorted(name for name in now.keys() | seals if now.get(name) != seals.get(name)):
        raise RecordError(
            "expected an unaltered record of version 2, got other values than were sealed in "
            f"{shorten(', '.join(odd), 200)}; restore it or evaluate again"
        )
    if data.get("content_digest") != digest_of_record_2(data):
        raise RecordError(
            "expected an unaltered record of version 2, got another content digest; evaluate again"
        )


def _costs(data: Mapping[str, Any]) -> dict[str, Data]:
    cost = data.get("cost")
    if not isinstance(cost, dict) or not all(isinstance(spent, dict) for spent in cost.values()):
        raise RecordError(
            "expected the cost of each evaluation in a record, got another value; evaluate again"
        )
    return cost


def record_1_to_2(data: Data) -> Data:
    """Returns a record of version 1 as one of version 2, without evidence and without seals.

    Version 1 kept no adversarial inputs, knew neither dense parent nor training examples and
    attacked proven examples too, so `evidence`, `parent_sha256` and `training_digest` are empty and
    nothing was spared. How many examples it attacked it did not count: `attacked` is 0.
    `content_digest` and `seals` are empty for the reader to fill.

    Raises:
        RecordError: its cost is none.
    """
    counts = {"attacked": 0, "proven": 0, "forwards_saved": 0}
    return {
        **data,
        "schema_version": 2,
        "cost": {name: {**spent, **counts} for name, spent in _costs(data).items()},
        "evidence": [],
        "parent_sha256": "",
        "training_digest": "",
        "content_digest": "",
        "seals": {},
    }


def record_2_to_3(data: Data) -> Data:
    """Returns a record of version 2 as one of version 3, without latencies.

    Version 2 did not compact the network and took no latencies, so `compact` and `latency` are
    null. `content_digest` and `seals` are empty for the reader to fill.
    """
    return {
        **data,
        "schema_version": 3,
        "compact": None,
        "latency": None,
        "content_digest": "",
        "seals": {},
    }


def manifest_1_to_2(data: Data) -> Data:
    """Returns a manifest of version 1 as one of version 2: no entry has mirrors.

    Raises:
        ManifestError: its checkpoints are none.
    """
    entries = data.get("checkpoints", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestError(
            "expected a list of checkpoints in a manifest of version 1, got another value; "
            "restore it"
        )
    return {
        **data,
        "schema_version": 2,
        "checkpoints": [{"mirrors": [], **entry} for entry in entries],
    }


# What a version can check of itself, before the first step; the current one is its reader's.
CHECKS: dict[tuple[str, int], Callable[[Mapping[str, Any]], None]] = {
    ("record", 1): check_record_1,
    ("record", 2): check_record_2,
}

# From (format, version) to the next version.
STEPS: dict[tuple[str, int], Callable[[Data], Data]] = {
    ("manifest", 1): manifest_1_to_2,
    ("record", 1): record_1_to_2,
    ("record", 2): record_2_to_3,
}
