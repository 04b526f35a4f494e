"""Mutations of safetensors files: the header's length, its entries, and the parts behind it."""

import json
from random import Random
from typing import Any

from fuzz import raw, texts

_DTYPES = (
    *("F32", "F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL"),
    *("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "X9", ""),
)
_SHAPES: tuple[list[int], ...] = (
    *([], [0], [1], [0, 2**63], [2**32, 2**32], [2**62, 2**62, 4], [0, 2**64 - 1], [1] * 70),
    *([0] * 20, [2**31], [-1], [1, 0, 2**40]),
)
_SUFFIXES = ("", "::bitmap", "::gaps", "::values", "::codebook", "::indices", "::", "::x")


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns header and body of a sound file.

    Raises:
        ValueError: it is none.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header, data[8 + size :]


def join(header: Any, body: bytes, pad: int = 0) -> bytes:
    """Returns a file of a header and a body."""
    text = texts.spelled(header).encode("utf-8", errors="surrogatepass") + b" " * pad
    return len(text).to_bytes(8, "little") + text + body


def mutate(data: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Returns a file near a given one; of anything else and sometimes, raw bytes near it."""
    if draw.random() < 0.15:
        return raw.mutate(data, draw, other)
    try:
        header, body = split(data)
    except ValueError:
        return raw.mutate(data, draw, other)
    for _ in range(draw.choice((1, 1, 2, 4))):
        header, body = draw.choice(_WAYS)(header, body, draw)
    whole = join(header, body, draw.choice((0, 0, 0, 1, 7)))
    if draw.random() < 0.05:
        sizes = (0, 1, 7, 2**31, 2**63, 2**64 - 1, len(whole), len(whole) - 8, 100_000_001)
        whole = draw.choice(sizes).to_bytes(8, "little") + whole[8:]
    return whole


Split = tuple[dict[str, Any], bytes]


def _entries(header: dict[str, Any]) -> list[str]:
    """Returns the names of those entries that are whole."""
    return [
        name
        for name, entry in header.items()
        if name != "__metadata__"
        and isinstance(entry, dict)
        and isinstance(entry.get("data_offsets"), list)
        and len(entry["data_offsets"]) == 2
        and all(type(at) is int for at in entry["data_offsets"])
    ]


def _edited(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    found = texts.changed(header, draw)
    return (found if isinstance(found, dict) else {}), body


def _reshaped(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    for name in draw.sample(names := _entries(header), min(1, len(names))):
        shape = header[name].get("shape", [])
        nearer = (
            ([*shape, 1], [*shape, 0], shape[::-1], shape[:-1]) if isinstance(shape, list) else ()
        )
        header[name]["shape"] = draw.choice((*_SHAPES, *nearer))
    return header, body


def _retyped(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    for name in draw.sample(names := _entries(header), min(1, len(names))):
        header[name]["dtype"] = draw.choice(_DTYPES)
    return header, body


def _moved(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    for name in draw.sample(names := _entries(header), min(1, len(names))):
        edges = (
            0,
            1,
            len(body),
            len(body) + 1,
            2**31,
            2**63,
            2**64 - 1,
            draw.randrange(len(body) + 1),
        )
        header[name]["data_offsets"][draw.randrange(2)] = draw.choice(edges)
    return header, body


def _renamed(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    for name in draw.sample(names := _entries(header), min(1, len(names))):
        stem = name.partition("::")[0]
        odd = ("", "\x1b[2J", "\n", "a" * 3000, "__metadata__x", "é", stem.upper())
        header[draw.choice((stem, stem, *odd)) + draw.choice(_SUFFIXES)] = header.pop(name)
    return header, body


def _rebuilt(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    """One part exchanged for other bytes, of another length, the offsets right again."""
    names = sorted(_entries(header), key=lambda name: header[name]["data_offsets"])
    parts = {name: body[slice(*header[name]["data_offsets"])] for name in names}
    if not names:
        return header, body
    one = draw.choice(names)
    part = parts[one]
    filled = draw.choice((b"\0", b"\1", b"\xff", b"\xfe", b"\x7f")) * draw.choice(
        (1, len(part), 4096)
    )
    parts[one] = draw.choice(
        (filled, raw.mutate(part, draw), part[:-1], part + b"\0", b"", part * 2)
    )
    new = bytearray()
    for name in names:
        header[name]["data_offsets"] = [len(new), len(new) + len(parts[name])]
        new += parts[name]
    if header[one].get("dtype") in ("U8", "I8", "BOOL"):
        header[one]["shape"] = [len(parts[one])]
    return header, bytes(new)


def _emptied(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    """A tensor without entries, of any size in other directions; or no table of metadata."""
    if draw.random() < 0.3:
        header["__metadata__"] = draw.choice((None, {}, [], {"robustprune": "{}"}, {"x": "y"}))
    else:
        at = draw.choice((0, len(body)))
        shape = draw.choice([shape for shape in _SHAPES if 0 in shape])
        header["z"] = {"dtype": draw.choice(_DTYPES[:9]), "shape": shape, "data_offsets": [at, at]}
    return header, body


def _promised(header: dict[str, Any], body: bytes, draw: Random) -> Split:
    """Other shapes of the sparse tensors."""
    said = header.get("__metadata__")
    try:
        shapes = json.loads(said["robustprune"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError, RecursionError):
        header["__metadata__"] = draw.choice(
            (None, {}, {"robustprune": "{}"}, {"robustprune": "[]"})
        )
        return header, body
    if isinstance(shapes, dict) and shapes and draw.random() < 0.6:
        name = draw.choice(sorted(shapes))
        more = ([2**20], [2**24], [2**28], [2**28 + 1], [1, 2**22, 1], [True], [1.0], None, [[1]])
        shapes[name] = draw.choice((*_SHAPES, *more))
    else:
        shapes = texts.changed(shapes, draw)
    header["__metadata__"] = {"robustprune": texts.spelled(shapes)}
    return header, body


_WAYS = (
    _edited,
    _emptied,
    _reshaped,
    _retyped,
    _moved,
    _renamed,
    _rebuilt,
    _rebuilt,
    _rebuilt,
    _promised,
)
