"""Mutations of PNG files, chunk by chunk with their sums right again, and of .idx files."""

import struct
import zlib
from random import Random

from fuzz import raw

_MARK = b"\x89PNG\r\n\x1a\n"
_KINDS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"iCCP",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"acTL",
    b"fdAT",
)


def mutate(data: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Returns a PNG near a given one; of anything else and sometimes, raw bytes near it."""
    if not data.startswith(_MARK) or draw.random() < 0.3:
        return raw.mutate(data, draw, other)
    chunks = _chunks(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(chunks)) if chunks else 0
        way = draw.randrange(5)
        if not chunks or way == 0:
            content = draw.choice(
                (zlib.compress(bytes(1 << 20)), b"x\0\0" + zlib.compress(bytes(1 << 22)), b"")
            )
            chunks.insert(at, (draw.choice(_KINDS), content))
        elif way == 1:
            chunks.pop(at)
        elif way == 2:
            chunks.insert(at, chunks[at])
        elif way == 3:
            chunks[at] = (draw.choice(_KINDS), chunks[at][1])
        else:
            chunks[at] = (chunks[at][0], _content(*chunks[at], draw))
    return _MARK + b"".join(_chunk(kind, content) for kind, content in chunks)


def _content(kind: bytes, content: bytes, draw: Random) -> bytes:
    if kind == b"IHDR" and len(content) == 13 and draw.random() < 0.8:
        edges = (0, 1, 7, 8, 9, 1000, 20_000, 2**31 - 1, 2**32 - 1)
        width, height, *rest = struct.unpack(">2I5B", content)
        sizes = draw.choice(
            ((draw.choice(edges), height), (width, draw.choice(edges)), (width, height))
        )
        rest[draw.randrange(5)] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        return struct.pack(">2I5B", *sizes, *rest)
    return raw.mutate(content, draw)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(_MARK)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
