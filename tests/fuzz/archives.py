"""Mutations of zip archives and of the arrays in them."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from random import Random
from tokenize import TokenError
from typing import Any

import numpy as np

from fuzz import raw

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_EDGES = (0, 1, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
_NAMES = (
    *("", ".npy", "label", "../x.npy", "/x.npy", "x\0y.npy", "\x1b[2J.npy", "a\nb.npy", "é.npy"),
    *("meta.npy", "label.npy", "index.npy", "n" * 300 + ".npy", "a/b.npy", "a\\b.npy", "x.npy/"),
    *(
        "positions:x.npy",
        "positions:\x1b[31mx.npy",
        "column/.npy",
        "evidence/.npy",
        "label.npy.npy",
    ),
)
_DTYPES = (
    *("|b1", "|u1", "<i2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8", "<f16", ">f4", ">i8", "|i1"),
    *("|O", "<U4", "|S8", "<M8[D]", "<c16", "|V8", "<f3", "<b1", "|f1", "i4,f4", "<i8 "),
)
# Of the array protocol of pickle: whoever unpickles it writes a file.
_PICKLE = b"cposix\nsystem\n(S'touch unpickled'\ntR."

# All copies of a member together.
_LARGEST = 1 << 24


@dataclass(frozen=True)
class Member:
    """A file in an archive, and what the archive says of it where that is not the truth.

    Attributes:
        name: its name.
        content: its bytes.
        method: of compression.
        lies: fields of its two headers, by name and place (`local` or `table`).
    """

    name: bytes
    content: bytes
    method: int = zipfile.ZIP_DEFLATED
    lies: tuple[tuple[str, str, int], ...] = ()

    def said(self, place: str, name: str, truth: int) -> int:
        """Returns what a header says of a field."""
        return next((v for p, n, v in self.lies if (p, n) == (place, name)), truth)


def members_of(data: bytes) -> list[Member]:
    """Returns the members of a sound archive.

    Raises:
        zipfile.BadZipFile: it is none.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [
            Member(info.filename.encode(), archive.read(info), info.compress_type)
            for info in archive.infolist()
        ]


def pack(members: list[Member], comment: bytes = b"") -> bytes:
    """Returns an archive of members, with their lies."""
    body, table = bytearray(), bytearray()
    for member in members:
        at, packed = len(body), _packed(member)
        for place, target in (("local", body), ("table", table)):
            numbers = (
                member.said(place, "flags", 0) & 0xFFFF,
                member.said(place, "method", member.method) & 0xFFFF,
                *(0, 0x21),
                member.said(place, "crc", zlib.crc32(member.content)) & 0xFFFFFFFF,
                member.said(place, "packed", len(packed)) & 0xFFFFFFFF,
                member.said(place, "size", len(member.content)) & 0xFFFFFFFF,
                member.said(place, "length", len(member.name)) & 0xFFFF,
                member.said(place, "extra", 0) & 0xFFFF,
            )
            if place == "local":
                target += _LOCAL.pack(b"PK\x03\x04", 20, *numbers) + member.name + packed
            else:
                offset = member.said(place, "offset", at) & 0xFFFFFFFF
                target += _CENTRAL.pack(b"PK\x01\x02", 20, 20, *numbers, 0, 0, 0, 0, offset)
                target += member.name
    count = len(members) & 0xFFFF
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(table), len(body), len(comment))
    return bytes(body + table) + end + comment


def _packed(member: Member) -> bytes:
    if member.method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(member.content) + packer.flush()
    return member.content


def mutate(data: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Returns an archive near a given one; of anything else and sometimes, raw bytes near it."""
    if draw.random() < 0.2:
        return raw.mutate(data, draw, other)
    try:
        members = members_of(data)
    except (zipfile.BadZipFile, OSError, ValueError, zlib.error, RuntimeError, EOFError):
        return raw.mutate(data, draw, other)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        members = draw.choice(_WAYS)(members, draw)
    return pack(members, draw.choice((b"", b"", b"", b"x" * 30, b"PK\x05\x06" * 3)))


def _one(members: list[Member], draw: Random, **changes: Any) -> list[Member]:
    at = draw.randrange(len(members)) if members else 0
    return [replace(m, **changes) if n == at else m for n, m in enumerate(members)]


def _lying(members: list[Member], draw: Random) -> list[Member]:
    fields = ("flags", "method", "crc", "packed", "size", "length", "extra", "offset")
    value = draw.choice((*_EDGES, 8, 12, 14, 99, 0x800, draw.randrange(5000)))
    field, places = draw.choice(fields), draw.choice((("local",), ("table",), ("local", "table")))
    return _one(members, draw, lies=tuple((place, field, value) for place in places))


def _renamed(members: list[Member], draw: Random) -> list[Member]:
    name = draw.choice((*_NAMES, *(m.name.decode() for m in members)))
    lies = draw.choice(((), (("local", "flags", 0x800), ("table", "flags", 0x800))))
    return _one(members, draw, name=name.encode(), lies=lies)


def _fewer(members: list[Member], draw: Random) -> list[Member]:
    at = draw.randrange(len(members) + 1)
    return draw.choice((members[:at] + members[at + 1 :], members[:at], members[::-1]))


def _more(members: list[Member], draw: Random) -> list[Member]:
    if not members:
        return members
    one = draw.choice(members)
    # Copies of something large would only take the memory of whoever makes them.
    most = max(1, _LARGEST // max(1, len(one.content)))
    count = min(draw.choice((1, 3, 200)), most)
    copies = [replace(one, name=b"%d" % n + one.name) for n in range(count)]
    return members + draw.choice((copies, [one]))


def _exchanged(members: list[Member], draw: Random) -> list[Member]:
    return _one(members, draw, content=draw.choice(members).content) if members else members


def _bomb(members: list[Member], draw: Random) -> list[Member]:
    size = draw.choice((1 << 16, 1 << 20, 1 << 23))
    content = array(np.zeros(size, np.uint8)) if draw.random() < 0.7 else bytes(size)
    method = draw.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
    lies = draw.choice(
        ((), (("table", "size", 100),), (("table", "size", 100), ("local", "size", 100)))
    )
    return _one(members, draw, content=content, method=method, lies=lies)


def _overlapping(members: list[Member], draw: Random) -> list[Member]:
    at = 0 if draw.random() < 0.5 else draw.randrange(4096)
    return [replace(m, lies=(*m.lies, ("table", "offset", at))) for m in members]


def _scratched(members: list[Member], draw: Random) -> list[Member]:
    if not members:
        return members
    at = draw.randrange(len(members))
    content = raw.mutate(members[at].content, draw)
    return [replace(m, content=content) if n == at else m for n, m in enumerate(members)]


def _rearranged(members: list[Member], draw: Random) -> list[Member]:
    """Another array in the place of one: its kind, its shape or its values."""
    if not members:
        return members
    at = draw.randrange(len(members))
    content = array_near(members[at].content, draw)
    return [replace(m, content=content) if n == at else m for n, m in enumerate(members)]


_WAYS = (
    *(_lying, _lying, _renamed, _fewer, _more, _exchanged, _bomb, _overlapping, _scratched),
    *(_rearranged, _rearranged, _rearranged, _rearranged, _rearranged),
)


def array(values: Any) -> bytes:
    """Returns an array as the bytes of a .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, allow_pickle=False)
    return stream.getvalue()


def _header(text: str, draw: Random, version: bytes = b"\x01\x00") -> bytes:
    padded = text.encode("latin-1", errors="replace") + b" " * draw.choice((0, 3, 60)) + b"\n"
    size = len(padded) + draw.choice((0, 0, 0, 0, 1, -1, 60_000))
    return b"\x93NUMPY" + version + (size % 65536).to_bytes(2, "little") + padded


def array_near(data: bytes, draw: Random) -> bytes:
    """Returns the bytes of a .npy file near a given one."""
    try:
        values = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, TypeError, EOFError, MemoryError, SyntaxError, TokenError):
        return raw.mutate(data, draw)
    if draw.random() < 0.6:
        return array(_values_near(values, draw))
    body = values.tobytes()
    dtype = draw.choice((*_DTYPES, values.dtype.str))
    sizes = draw.choice(
        ((), values.shape, (*values.shape, 0), (2**62, 4), (2**63, 0), (-1,), (1,) * 70)
    )
    shape = draw.choice(
        (f"{sizes}", f"{sizes}".replace(",", ""), f"{len(values.ravel())}", "(1e3,)")
    )
    order = draw.choice(("False", "True", "0"))
    text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"
    version = draw.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00"))
    content = draw.choice(
        (body, body, body[:-1], body + b"\0", b"", _PICKLE, draw.randbytes(len(body)))
    )
    return _header(text, draw, version) + content


def _values_near(values: Any, draw: Random) -> Any:
    way = draw.randrange(6)
    if way == 0:
        return values.reshape(
            draw.choice(((-1,), (1, -1), (-1, 1), (1, 1, 1, -1), values.shape[::-1]))
        )
    if way == 1:
        return values[: draw.randrange(len(values) + 1)] if values.ndim else values[None]
    if way == 2:
        with np.errstate(all="ignore"):
            kind = draw.choice(
                (np.uint8, np.int8, np.int16, np.int32, np.int64, np.float32, np.bool_)
            )
            return np.nan_to_num(values).astype(kind)
    if way == 3:
        return np.concatenate([values, values]) if values.ndim else values
    changed = np.array(values)
    if changed.size and way == 4:
        # Bits that no value of the kind has, as bools of 2.
        seen = changed.reshape(-1).view(np.uint8)
        seen[draw.randrange(len(seen))] = draw.randrange(256)
    elif changed.size:
        edges = (0, 1, 2, 127) if changed.dtype.kind in "bu" else (-1, -2, -3, -4, 0, 1, 9, 10, 127)
        floats = (np.nan, np.inf, -np.inf, -0.0, 1.5, -1.0, 1e30)
        value = draw.choice(floats if changed.dtype.kind == "f" else edges)
        changed.reshape(-1)[draw.randrange(changed.size)] = value
    return changed
