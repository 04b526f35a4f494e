"""Pickles as data: an interpreter of the opcodes that makes no object and calls nothing.

Old checkpoints hold argparse namespaces and optimisers beside their weights, which torch's own
weights-only loading refuses. Here a pickle is read by an interpreter of our own. It knows lists,
dicts, tuples, numbers and text, and torch's description of a tensor. Every other name that may
stand in a checkpoint becomes an inert mark, and what the pickle wanted to do with it is forgotten.
A name that may not, such as `os.system`, ends the reading. Nothing is ever imported or called,
whatever the pickle says, so the list of names decides what is read and not what is safe.
"""

import io
import pickletools
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.errors import ManifestError, shorten

# A state dict of a ResNet-152 takes 20,000 opcodes; an optimiser's state twice as many.
MOST_OPCODES = 1 << 21


@dataclass(frozen=True)
class Name:
    """A global name: the name itself, never what it names."""

    module: str
    name: str

    def __str__(self) -> str:
        """Returns the dotted name."""
        return f"{self.module}.{self.name}"


class Inert:
    """Whatever a pickle would have made of an allowed name; holds nothing."""

    __slots__ = ("of",)

    def __init__(self, of: str) -> None:
        """Remembers the name alone."""
        self.of = of


@dataclass(frozen=True)
class Persistent:
    """A reference out of the pickle, as it stands there: a storage of torch."""

    reference: object


@dataclass(frozen=True)
class TensorOf:
    """A tensor as a pickle describes it; nothing of it is checked yet.

    Attributes:
        storage: where its entries are.
        offset: first entry.
        size: its shape.
        stride: entries between neighbours, by dimension.
    """

    storage: object
    offset: object
    size: object
    stride: object


# The types of storages, with the name of their dtype.
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

# What stands in checkpoints beside tensors. A name here is read as a mark without meaning.
_INERT_NAMES = frozenset(
    {
        *(("torch", name) for name in STORAGES),
        *(("torch.cuda", name) for name in STORAGES),
        *(("torch", name) for name in STORAGES.values()),
        *(("torch", name) for name in ("device", "Size")),
        ("argparse", "Namespace"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("_codecs", "encode"),
        ("copy_reg", "_reconstructor"),
        ("copyreg", "_reconstructor"),
        ("pathlib", "PosixPath"),
        *(
            (module, name)
            for module in ("builtins", "__builtin__")
            for name in ("object", "set", "frozenset", "dict", "list", "slice", "complex", "range")
        ),
        *(
            (f"numpy{core}.multiarray", name)
            for core in ("", ".core", "._core")
            for name in ("scalar", "_reconstruct")
        ),
        *(("numpy", name) for name in ("dtype", "ndarray", "float64", "float32", "int64")),
        *(
            ("torch._utils", name)
            for name in (
                "_rebuild_tensor",
                "_rebuild_tensor_v2",
                "_rebuild_parameter",
                "_rebuild_parameter_with_state",
            )
        ),
    }
)

# Optimisers and schedules keep what they were configured with.
_INERT_MODULES = ("torch.optim.",)


def _allowed(name: Name) -> bool:
    plain = name.name.isidentifier() and name.module.replace(".", "_").isidentifier()
    return plain and (
        (name.module, name.name) in _INERT_NAMES or name.module.startswith(_INERT_MODULES)
    )


@dataclass(frozen=True)
class Pickled:
    """A pickle that was read.

    Attributes:
        value: what it holds, as data.
        end: place of the first byte behind it.
        references: every reference out of it, in order, those of dropped parts included.
    """

    value: object
    end: int
    references: tuple[Persistent, ...]


class PickleRefused(Exception):
    """A pickle that is damaged, or more than data; the text says what was found."""


def read_pickle(data: bytes, start: int = 0) -> Pickled:
    """Returns the value of a pickle as data.

    Args:
        data: bytes in which a pickle begins at `start`.
        start: its first byte.

    Raises:
        ManifestError: damaged, more than data, or larger than any checkpoint's.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # The standard library's reader warns of odd escapes in names, which are refused anyway.
            warnings.simplefilter("ignore")
            value = machine.run(stream)
    except PickleRefused as refusal:
        raise ManifestError(
            f"expected weights as data, got a pickle {refusal}; nothing of it was run: save the "
            "network's state_dict() alone and bring that"
        ) from refusal
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise ManifestError(
            f"expected a whole pickle, got '{shorten(str(error))}'; bring the original file"
        ) from error
    return Pickled(value, stream.tell(), tuple(machine.references))


class _Machine:
    """The stack, the marks on it and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Persistent] = []

    def run(self, stream: io.BytesIO) -> object:
        """Returns what lies on the stack at the end.

        Raises:
            PickleRefused: too long, or an opcode or name that has no place in a checkpoint.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_OPCODES:
                raise PickleRefused(f"of more than {MOST_OPCODES:,} steps")
            if opcode.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise PickleRefused(f"with the opcode {opcode.name}")
            step(self, argument)
        raise PickleRefused("without an end")  # pragma: no cover: genops says so first

    def mark(self) -> None:
        """Begins a group of items."""
        self._below.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """Ends a group and returns its items."""
        items = self.stack
        self.stack = self._below.pop()
        return items

    def name(self, module: object, name: object) -> None:
        """Puts a name on the stack.

        Raises:
            PickleRefused: it has no place in a checkpoint.
        """
        found = Name(str(module), str(name))
        if not _allowed(found):
            raise PickleRefused(f"that would call {shorten(str(found), 60)}")
        self.stack.append(found)

    def make(self, what: object, arguments: object) -> None:
        """Puts on the stack what a call would have made, as data."""
        maker = _MAKERS.get(str(what)) if isinstance(what, Name) else None
        if maker is None or not isinstance(arguments, tuple):
            self.stack.append(Inert(str(what) if isinstance(what, Name) else "?"))
        else:
            self.stack.append(maker(*arguments))


# --- What calls of known names mean ---------------------------------------------------------------


def _ordered(items: object = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(items, list):
        for pair in items:
            if isinstance(pair, list | tuple) and len(pair) == 2:
                _put(found, pair[0], pair[1])
    return found


def _put(table: object, key: object, value: object) -> None:
    # Texts alone are kept as keys: their hashes are salted, and nothing else is looked up.
    if isinstance(table, dict) and type(key) is str:
        table[key] = value


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> TensorOf:
    return TensorOf(storage, offset, size, stride)


def _parameter(tensor: object, *_: object) -> object:
    return tensor


def _size(numbers: object = ()) -> object:
    return numbers


_MAKERS: Mapping[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
}


# --- One function an opcode -----------------------------------------------------------------------

_Step = Callable[[_Machine, Any], None]


def _nothing(machine: _Machine, argument: Any) -> None:
    pass


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _constant(value: object) -> _Step:
    return lambda machine, _: machine.stack.append(value)


def _tuple(count: int) -> _Step:
    def step(machine: _Machine, _: Any) -> None:
        items = tuple(machine.stack[-count:])
        if len(items) != count:
            raise PickleRefused("whose stack runs empty")
        machine.stack[-count:] = [items]

    return step


def _list(machine: _Machine, _: Any) -> None:
    # Ending the group brings back the stack below it, on which the list then goes.
    items = machine.group()
    machine.stack.append(items)


def _grouped_tuple(machine: _Machine, _: Any) -> None:
    items = tuple(machine.group())
    machine.stack.append(items)


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.group()
    machine.stack.append({})
    _fill(machine.stack[-1], items)


def _setitem(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put(machine.stack[-1], key, value)


def _setitems(machine: _Machine, _: Any) -> None:
    items = machine.group()
    _fill(machine.stack[-1], items)


def _fill(table: object, items: Sequence[object]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        _put(table, key, value)


def _append(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.group()
    _extend(machine.stack[-1], items)


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _set(machine: _Machine, _: Any) -> None:
    machine.stack.append(Inert("set"))


def _grouped_set(machine: _Machine, _: Any) -> None:
    machine.group()
    machine.stack.append(Inert("frozenset"))


def _additems(machine: _Machine, _: Any) -> None:
    machine.group()


def _pop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.group()


def _duplicate(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _store(machine: _Machine, place: Any) -> None:
    machine.memo[int(place)] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _fetch(machine: _Machine, place: Any) -> None:
    machine.stack.append(machine.memo[int(place)])


def _global(machine: _Machine, pair: Any) -> None:
    machine.name(*str(pair).split(" ", 1))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise PickleRefused("with a name that is no text")
    machine.name(module, name)


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, what = machine.stack.pop(), machine.stack.pop()
    machine.make(what, arguments)


def _newobj_ex(machine: _Machine, _: Any) -> None:
    machine.stack.pop()
    _reduce(machine, _)


def _obj(machine: _Machine, _: Any) -> None:
    what, *arguments = machine.group()
    machine.make(what, tuple(arguments))


def _inst(machine: _Machine, pair: Any) -> None:
    arguments = tuple(machine.group())
    machine.name(*str(pair).split(" ", 1))
    machine.make(machine.stack.pop(), arguments)


def _build(machine: _Machine, _: Any) -> None:
    # A state that an object would have set itself to: the object is not made, so it is dropped.
    machine.stack.pop()
    if not machine.stack:
        raise PickleRefused("whose stack runs empty")


def _persistent(machine: _Machine, _: Any) -> None:
    reference = Persistent(machine.stack.pop())
    machine.references.append(reference)
    machine.stack.append(reference)


_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8"),
            *("SHORT_BINUNICODE", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
        ),
        _push,
    ),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": _set,
    "MARK": lambda machine, _: machine.mark(),
    "LIST": _list,
    "TUPLE": _grouped_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict,
    "FROZENSET": _grouped_set,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "ADDITEMS": _additems,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _store),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _fetch),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "OBJ": _obj,
    "INST": _inst,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
