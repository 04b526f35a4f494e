"""Digests of values and files, and the seeds derived from them.

A digest is the SHA-256 of one canonical text, so the same value has the same digest everywhere.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path


def canonical(value: object) -> object:
    """Returns `value` as plain JSON data, spelled the same whatever the order of its mappings.

    Args:
        value: numbers, strings, fractions, lists and tuples (alike), mappings by string, and
            dataclasses, nested at will. A dataclass carries its class name. Types are told apart:
            1, 1.0 and True are three values.

    Raises:
        TypeError: a value or key of another type; using its `repr` would make digests unstable.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            # 1 and "1" would become one key and an entry would be lost.
            raise TypeError("expected mappings with string keys, got others; spell the keys out")
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    raise TypeError(
        f"expected plain data, got {type(value).__name__}; give it a canonical form first"
    )


def digest_of(value: object) -> str:
    """Returns the SHA-256 (64 hex digits) of the canonical JSON of `value`.

    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True

    Raises:
        TypeError: see `canonical`.
        ValueError: NaN or infinity, for which JSON has no spelling.
    """
    return digest_of_plain(canonical(value))


def digest_of_plain(value: object) -> str:
    """Returns `digest_of` of what is plain JSON data already: lists, mappings by string, scalars.

    Raises:
        TypeError: something else.
        ValueError: NaN or infinity, for which JSON has no spelling.
    """
    return sha256_of_bytes(_ENCODER.encode(value).encode())


# Made once: `json.dumps` makes another for each call that has options.
_ENCODER = json.JSONEncoder(
    sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")
)


def sha256_of_bytes(data: bytes) -> str:
    """Returns the SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hex digits, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seed_from(*parts: str | int) -> int:
    """Returns a seed in [0, 2^63) that depends on every part and on their order.

    Neighbouring shards and evaluations get unrelated streams, unlike `seed + index`.
    """
    return int(digest_of(list(parts))[:16], 16) >> 1
