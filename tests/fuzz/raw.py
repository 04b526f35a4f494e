"""Mutations of bytes, whatever they mean."""

from random import Random

_BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_MARKS = (b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04.")


def mutate(data: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Returns other bytes that resemble `data`, one to a few changes away.

    Args:
        data: a file.
        draw: decides.
        other: a file of the same kind, to splice with.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        data = (
            draw.choice(_WAYS)(data, draw) if draw.random() < 0.95 else _spliced(data, draw, other)
        )
    return data


def _range(data: bytes, draw: Random) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 2, 4, 8, 64, 1024)))


def _flipped(data: bytes, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _bounded(data: bytes, draw: Random) -> bytes:
    """Overwrites an integer of some width with a value at the edge of one."""
    width = draw.choice((1, 2, 4, 8))
    value = (draw.choice(_BOUNDARIES) + draw.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    at = draw.randrange(len(data) + 1)
    return data[:at] + value.to_bytes(width, draw.choice(("little", "big"))) + data[at + width :]


def _cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _removed(data: bytes, draw: Random) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + data[stop:]


def _repeated(data: bytes, draw: Random) -> bytes:
    start, stop = _range(data, draw)
    return data[:stop] + data[start:stop] * draw.choice((1, 2, 50)) + data[stop:]


def _moved(data: bytes, draw: Random) -> bytes:
    start, stop = _range(data, draw)
    rest = data[:start] + data[stop:]
    at = draw.randrange(len(rest) + 1)
    return rest[:at] + data[start:stop] + rest[at:]


def _inserted(data: bytes, draw: Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    drawn = draw.randbytes(draw.choice((1, 4, 32)))
    return data[:at] + draw.choice((*_MARKS, drawn, bytes(64))) + data[at:]


def _extended(data: bytes, draw: Random) -> bytes:
    return data + draw.choice((b"\0", b"\n{}", bytes(1000), draw.randbytes(20), data))


def _blanked(data: bytes, draw: Random) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + draw.choice((b"\0", b"\xff")) * (stop - start) + data[stop:]


def _spliced(data: bytes, draw: Random, other: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


_WAYS = (
    _flipped,
    _flipped,
    _bounded,
    _bounded,
    _cut,
    _removed,
    _repeated,
    _moved,
    _inserted,
    _extended,
    _blanked,
)
