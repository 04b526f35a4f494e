"""Mutations of JSON that keep most of it JSON, and spellings of it that a reader may trip over."""

import json
from itertools import islice
from random import Random
from typing import Any

from fuzz import raw

# Of a tree, and of what one change may add to it, in characters.
_MOST_PLACES = 1000
_LARGEST = 200_000

# Where a value stands: its container, and its key or position there.
_Place = tuple[Any, Any]


class _Token(str):
    """Written as it is."""


class _Twice(dict[str, Any]):
    """An object whose first name comes twice."""


NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1e-300, 5e-324, 1e300, 1e-7, 10**30),
    *map(
        _Token, ("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "0x10", "+1")
    ),
    *map(
        _Token, ("1" * 400, "9" * 5000, "1e" + "9" * 30, "-0", "1E+2", "1e-999", "0." + "3" * 400)
    ),
)
STRINGS: tuple[Any, ...] = (
    *("", " ", "\0", "\n", "\x1b[2J", "\u202eevil", "\u2028", "\ud800", "\udfff\ud800", "\ufeff"),
    *("a" * 300, "a" * 5000, "é" * 200, "\U0001f600", "ﬁ", "İ", "0" * 64, "g" * 64, "A" * 64),
    *("../../etc/passwd", "/etc/passwd", "a/../b", "a//b", ".", "..", "~", "C:\\x", "a\\b", "a/"),
    *("checkpoints/x.safetensors", "con", "-rf", "--help", "=cmd|' /C calc'!A0", "@SUM(1)"),
    *("<script>alert(1)</script>", '"><img src=x onerror=1>', "{{7*7}}", "${x}", "%s%n", "';--"),
    *("http://a", "https://a b", "https://user@a:99999/", "https://", "javascript:alert(1)"),
    *("file:///etc/passwd", "1/0", "0/1", "2/4", "8/255", "0.031", "1e9", "nan", "inf", "true"),
    *("2026-02-30", "9999-99-99", "2026-02-28", "digits-linf", "__class__", "constructor"),
    *map(_Token, ('"\\ud800"', '"\\u0000"', '"\\x41"', "'single'", '"unended', '"\t"')),
)
_OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"": None},
    [None] * 20,
    {"a": {"b": 1}},
)


def mutate(data: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Returns another JSON text near `data`, or one that is hardly JSON; any bytes as `raw` does.

    Args:
        data: a file.
        draw: decides.
        other: a file of the same kind.
    """
    if draw.random() < 0.25:
        return raw.mutate(data, draw, other)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return raw.mutate(data, draw, other)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        tree = changed(tree, draw)
    return _encoded(spelled(tree, draw.choice((None, 1))), draw)


def changed(tree: Any, draw: Random) -> Any:
    """Returns the tree with one place changed."""
    places = _places(tree)
    if not places:
        return _drawn(draw)
    container, key = draw.choice(places)
    draw.choice(_WAYS)(container, key, draw, places)
    return tree


def _places(tree: Any) -> list[_Place]:
    found: list[_Place] = []
    waiting = [tree]
    while waiting and len(found) < _MOST_PLACES:
        here = waiting.pop()
        if isinstance(here, dict | list):
            keys = list(islice(here, _MOST_PLACES)) if isinstance(here, dict) else range(len(here))
            found += [(here, key) for key in keys[:_MOST_PLACES]]
            waiting += [here[key] for key in keys[:_MOST_PLACES]]
    return found


def _drawn(draw: Random) -> Any:
    kind = draw.random()
    if kind < 0.4:
        return draw.choice(NUMBERS)
    return draw.choice(STRINGS) if kind < 0.85 else json.loads(json.dumps(draw.choice(_OTHERS)))


def _replaced(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    container[key] = _drawn(draw)


def _near(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    """A value of the same kind, not far off."""
    value = container[key]
    if isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int | float):
        container[key] = draw.choice(
            (value + 1, value - 1, -value, value * 10, float(value % 2**53), value // 3)
        )
    elif isinstance(value, str) and value:
        at = draw.randrange(len(value))
        piece = draw.choice(("", value[at] * 2, value[at].swapcase(), str(draw.choice(STRINGS))))
        container[key] = value[:at] + piece + value[at + 1 :]
    else:
        container[key] = _drawn(draw)


def _retyped(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    value = container[key]
    container[key] = draw.choice((str(value)[:1000], [value], {"value": value}, None, bool(value)))


def _removed(container: Any, key: Any, *_: Any) -> None:
    del container[key]


def _added(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    if isinstance(container, dict):
        name = draw.choice((*(text for text in STRINGS if type(text) is str), f"{key}2"))
        container[name] = _drawn(draw)
    else:
        container.insert(key, _drawn(draw))


def _renamed(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    if isinstance(container, dict):
        name = draw.choice(
            (f"{key} ", key.upper(), key[:-1], *(s for s in STRINGS if type(s) is str))
        )
        container[name] = container.pop(key)
    else:
        container.reverse()


def _exchanged(container: Any, key: Any, draw: Random, places: list[_Place]) -> None:
    other, name = draw.choice(places)
    if len(places) < _MOST_PLACES:
        container[key] = json.loads(json.dumps(other[name], default=str))


def _multiplied(container: Any, key: Any, draw: Random, places: list[_Place]) -> None:
    """Many of one thing: what a reader does for each of them adds up."""
    value = container[key]
    count = draw.choice((2, 3, 3, 30, 30, 1000, 20_000))
    items = value if isinstance(value, list) else [value]
    # Many of many would take the harness longer than the reader.
    count = min(count, _LARGEST // (1 + len(json.dumps(items[:1], default=str)) + len(places) * 10))
    if isinstance(value, dict) and draw.random() < 0.5:
        value.update({f"{n}": None for n in range(count)})
    else:
        container[key] = items[:1] * max(1, count)


def _deepened(container: Any, key: Any, draw: Random, _: list[_Place]) -> None:
    depth = draw.choice((3, 50, 199, 201, 1000, 100_000))
    start, stop = draw.choice((("[", "]"), ('{"a":', "}")))
    inner = draw.choice(("1", ""))
    container[key] = _Token(start * depth + (inner or "0") + stop * depth)


def _doubled(container: Any, key: Any, *_: Any) -> None:
    if isinstance(container[key], dict):
        container[key] = _Twice(container[key])
    elif isinstance(container, list):
        container.append(container[key])


_WAYS = (
    *(_replaced, _replaced, _replaced, _near, _near, _near, _retyped, _removed, _removed),
    *(_added, _renamed, _exchanged, _multiplied, _deepened, _doubled),
)


def spelled(tree: Any, indent: int | None = None) -> str:
    """Returns a tree as JSON, its tokens as they are and doubled names twice."""
    tokens: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, _Token):
            tokens.append(str(value))
            return f"\ue000{len(tokens) - 1}\ue001"
        if isinstance(value, _Twice) and value:
            first = next(iter(value))
            return {f"\ue002{first}": None} | {key: marked(item) for key, item in value.items()}
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(marked(tree), indent=indent, ensure_ascii=False)
    for number in reversed(range(len(tokens))):
        text = text.replace(f'"\ue000{number}\ue001"', tokens[number], 1)
    return text.replace("\ue002", "")


def _encoded(text: str, draw: Random) -> bytes:
    if draw.random() < 0.03:
        encoding = draw.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7"))
        return text.encode(encoding, errors="replace")
    if draw.random() < 0.03:
        text = draw.choice(
            (f"{text}\n{text}", f"\ufeff{text}", f" \n{text}\0", f"{text},", f"//\n{text}")
        )
    # A lone surrogate becomes three bytes that are no UTF-8, or an escape that names it.
    errors = draw.choice(("surrogatepass", "backslashreplace"))
    return text.encode("utf-8", errors=errors)
