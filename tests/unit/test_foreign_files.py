"""Files of weights as attackers and accidents make them: read as data, or refused in one line."""

import argparse
import collections
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from benchmark.errors import ManifestError
from benchmark.foreign.containers import open_container
from benchmark.foreign.pickles import MOST_OPCODES, Inert, read_pickle
from benchmark.foreign.states import find_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "n": torch.tensor(3)}


def torch_bytes(value: object, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        find_state(open_container(data).tree)
    message = str(caught.value)
    assert message.isprintable() and message.startswith("expected ") and len(message) < 400
    return message


def same(data: bytes) -> bool:
    found = find_state(open_container(data).tree).state
    return found.keys() == STATE.keys() and all(
        torch.equal(found[name], tensor) for name, tensor in STATE.items()
    )


def npz_bytes(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


# --- What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "nested", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"net": s}]
)
def test_torch_files_of_both_kinds(nested: Callable[..., Any], legacy: bool) -> None:
    assert same(torch_bytes(nested(STATE), legacy))


def test_safetensors_and_numpy() -> None:
    assert same(save(STATE))
    assert same(npz_bytes(**{name: tensor.numpy() for name, tensor in STATE.items()}))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_leaves_beside_the_weights(legacy: bool) -> None:
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    value = {
        "state_dict": collections.OrderedDict(STATE),
        "optimizer": optimiser.state_dict(),
        "args": argparse.Namespace(network="vgg", devices=["cuda:0"], nested={"a": (1, 2)}),
        "best": np.float64(51.5),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimiser, [50]).state_dict(),
    }
    data = torch_bytes(value, legacy)
    with pytest.raises(pickle.UnpicklingError):  # torch's own refuses these
        torch.load(io.BytesIO(data), weights_only=True)
    assert same(data)
    tree = open_container(data).tree
    assert isinstance(tree, dict) and isinstance(tree["args"], Inert)


def test_views_of_one_storage() -> None:
    whole = torch.arange(24.0).view(4, 6)
    views = {"w": whole.t()[1:3], "v": whole[:, 2], "e": whole[:0]}
    for legacy in (False, True):
        found = find_state(open_container(torch_bytes(views, legacy)).tree).state
        assert all(torch.equal(found[name], tensor) for name, tensor in views.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    state = {"w": torch.tensor([0.5, -3.0], dtype=dtype)}
    found = find_state(open_container(torch_bytes(state)).tree).state["w"]
    assert found.dtype == torch.float32 and found.tolist() == [0.5, -3.0]


def test_more_digits_than_float32_and_numbers_that_are_none() -> None:
    assert "more digits" in refused(torch_bytes({"w": torch.tensor([0.1], dtype=torch.float64)}))
    assert "NaN or infinity" in refused(torch_bytes({"w": torch.tensor([float("nan")])}))


@pytest.mark.parametrize("prefix", ["module.", "module.basic_model.", "module.model.", "model."])
def test_the_longest_prefix_goes(prefix: str) -> None:
    found = find_state(
        open_container(torch_bytes({prefix + name: t for name, t in STATE.items()})).tree
    )
    assert found.prefix == prefix and found.state.keys() == STATE.keys()


# --- Pickles that would run code ------------------------------------------------------------------


class Calls:
    """Pickled, it is a call; unpickled, it would make a file."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(target: Path) -> dict[str, bytes]:
    """Returns pickles that make `target` when they are loaded, each in its own way."""
    command = f"touch {target}"
    system = Calls(os.system, (command,))
    quoted = command.encode()
    word = struct.pack("<I", len(quoted)) + quoted
    return {
        "reduce": pickle.dumps(system, 2),
        "protocol 0": pickle.dumps(system, 0),
        "nested": pickle.dumps({"state_dict": {"w": [({"a": system},)]}}, 2),
        "stack global": pickle.dumps(system, 4),
        "in a namespace": pickle.dumps(argparse.Namespace(a=system), 2),
        "subprocess": pickle.dumps(Calls(subprocess.call, (["touch", str(target)],)), 2),
        "exec": pickle.dumps(Calls(exec, (f"open({str(target)!r}, 'w').close()",)), 2),
        "inst": b"(S'" + quoted + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nX" + word + b"o.",
        "newobj": b"\x80\x02cos\nsystem\nX" + word + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cos\nsystem\nX" + word + b"\x85}\x92.",
        "build": b"\x80\x02cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb"
        b"X" + word + b"b.",
        "dotted": b"\x80\x04\x8c\x05torch\x8c\x18serialization.os.system1\x93X" + word + b"\x85R.",
        "torch.load": b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x01a\x85R.",
        "memo": b"\x80\x02cos\nsystem\nq\x00X" + word + b"q\x010h\x00h\x01\x85R.",
        "popped": b"\x80\x02cos\nsystem\nX" + word + b"\x85R0}.",
        "behind the optimiser": b"\x80\x02ctorch.optim.os\nsystem\n0cposix\nsystem\nX"
        + word
        + b"\x85R.",
    }


# Those that are well formed enough to run when they are unpickled; the test checks that they do.
LIVE = ("reduce", "protocol 0", "nested", "stack global", "in a namespace", "subprocess", "exec")
LIVE += ("inst", "obj", "build", "memo", "popped")


@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_attacks_are_refused_and_not_run(name: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    data = attacks(target)[name]
    with pytest.raises(ManifestError) as caught:
        read_pickle(data)
    assert not target.exists(), "the attack ran"
    assert str(caught.value).isprintable() and "\n" not in str(caught.value)
    if name in LIVE:
        vars(pickle)["loads"](data)  # the real thing: it is an attack
        assert target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_an_attack_in_a_torch_file(legacy: bool, tmp_path: Path) -> None:
    target = tmp_path / "made"
    value = {"state_dict": STATE, "args": Calls(os.system, (f"touch {target}",))}
    message = refused(torch_bytes(value, legacy))
    assert ("posix.system" in message or "os.system" in message) and not target.exists()
    torch.load(io.BytesIO(torch_bytes(value, legacy)), weights_only=False)
    assert target.exists()


def test_a_pickled_network_is_refused_by_name() -> None:
    assert "torch.nn.modules.linear.Linear" in refused(torch_bytes(torch.nn.Linear(2, 2)))


def test_the_interpreter_knows_every_harmless_opcode() -> None:
    value = {
        "a": [1, -1, 2**40, 1.5, None, True, False, "é", b"x", (), (1,), (1, 2, 3, 4)],
        "b": {"c": {"d": [[]]}},
    }
    for protocol in range(6):
        assert read_pickle(pickle.dumps(value, protocol)).value == value or protocol < 3
    assert read_pickle(pickle.dumps(value["b"], 0)).value == value["b"]
    assert isinstance(read_pickle(pickle.dumps({1, 2}, 4)).value, Inert)
    assert isinstance(read_pickle(pickle.dumps(frozenset((1,)), 4)).value, Inert)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02" + b"(" * 200_000 + b"t" * 199_999 + b".", id="nested tuples"),
        pytest.param(b"\x80\x02]" + b"]a" * 10 + b".", id="lists"),
        pytest.param(b"\x80\x02" + b"]q\x00h\x00h\x00h\x00e" + b".", id="itself"),
        pytest.param(b"\x80\x02X\xff\xff\xff\x7fa.", id="a text of 2 GB"),
        pytest.param(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fa.", id="a text of exabytes"),
        pytest.param(b"\x80\x02\x8b\xff\xff\xff\x7f1.", id="a number of 2 GB"),
        pytest.param(b"\x80\x02r\xff\xff\xff\x7f.", id="a memo at nowhere"),
        pytest.param(b"\x80\x02h\x05.", id="no memo"),
        pytest.param(b"\x80\x05\x97.", id="buffers"),
        pytest.param(b"\x80\x02\x82\x01.", id="extensions"),
        pytest.param(b"\x80\x02Q.", id="nothing persistent"),
        pytest.param(b"\x80\x020.", id="empty stack"),
        pytest.param(b"\x80\x02b.", id="built on nothing"),
        pytest.param(b"\x80\x02", id="no end"),
        pytest.param(b"\xff\xfe", id="no opcode"),
        pytest.param(b"L" + b"9" * 100_000 + b"L\n.", id="digits"),
    ],
)
def test_bombs_and_garbage_end_in_bounded_time(data: bytes) -> None:
    try:
        read_pickle(data)
    except ManifestError as error:
        assert str(error).isprintable()


def test_laughs_do_not_multiply() -> None:
    # Each list holds the one before ten times: 10**40 items if anybody unfolded them.
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"](" + b"h" + bytes([level]) + b"".join(b"h" + bytes([level]) for _ in range(9)) + b"e"
        b"q" + bytes([level + 1])
        for level in range(40)
    )
    read_pickle(laughs + b".")
    assert "state dict" in refused(_zip_of(laughs + b"."))


def test_too_many_steps() -> None:
    with pytest.raises(ManifestError, match="steps"):
        read_pickle(b"\x80\x02" + b"N0" * MOST_OPCODES + b"N.")


# --- Containers -----------------------------------------------------------------------------------


def _zip_of(pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, content in more.items():
            archive.writestr(f"x/{name.replace('__', '/')}", content)
    return stream.getvalue()


def tensor_pickle(
    size: tuple[int, ...], stride: tuple[int, ...], entries: int, offset: int
) -> bytes:
    """Returns a pickle of {"w": tensor} whose description is what was asked for."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", entries) if value == "S" else None

    stream = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, ("S", offset, size, stride, False, {}))
    Pickler(stream, 2).dump({"w": tensor})
    return stream.getvalue()


def test_the_described_tensor_is_read_where_it_is_honest() -> None:
    data = _zip_of(tensor_pickle((2,), (1,), 3, 1), data__0=struct.pack("<3f", 1, 2, 3))
    assert find_state(open_container(data).tree).state["w"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("size", "stride", "entries", "offset"),
    [
        ((1 << 20, 1 << 20), (0, 0), 1, 0),
        ((1 << 40,), (0,), 1, 0),
        ((4,), (1,), 3, 0),
        ((2,), (1,), 3, 2),
        ((2,), (-1,), 3, 1),
        ((-1,), (1,), 3, 0),
        ((2,), (1,), 1 << 40, 0),
        ((2,), (1,), 4, 0),
        ((2, 2), (1,), 3, 0),
        ((1,) * 40, (1,) * 40, 3, 0),
    ],
)
def test_tensors_that_lie_about_their_size(
    size: tuple[int, ...], stride: tuple[int, ...], entries: int, offset: int
) -> None:
    pickled = tensor_pickle(size, stride, entries, offset)
    refused(_zip_of(pickled, data__0=struct.pack("<3f", 1, 2, 3)))


def test_a_storage_that_is_missing() -> None:
    assert "no storage 0" in refused(_zip_of(tensor_pickle((1,), (1,), 1, 0)))


def test_zip_bombs() -> None:
    assert "compressed" in refused(_zip_of(b"\0" * 10_000_000, zipfile.ZIP_DEFLATED))
    good = torch_bytes(STATE)
    # An archive whose entries all are the same bytes is larger than itself.
    central = good.rindex(b"PK\x01\x02")
    assert central
    stream = io.BytesIO(good)
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"twice")
    assert "entries" in refused(stream.getvalue())


def test_numpy_archives_that_are_bombs_or_objects() -> None:
    stream = io.BytesIO()
    header = b"\x93NUMPY\x01\x00v\x00" + (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 1024), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header + b"\0" * 1_000_000)
    refused(stream.getvalue())
    assert "object" in refused(npz_bytes(w=np.array([{}], dtype=object)))
    assert "complex" in refused(npz_bytes(w=np.zeros(2, dtype=np.complex64)))


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files(cut: float, legacy: bool) -> None:
    data = torch_bytes({"w": torch.arange(3000.0)}, legacy)
    refused(data[: int(cut * len(data))])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><title>Quota</title>", "a web page"),
        (b"\0" * 257 + b"ustar  \0" + b"\0" * 600, "a tar archive"),
        (pickle.dumps({"a": 1}, 2), "a bare pickle"),
        (b"\xfe\xed\xfa\xcesomething", "something else"),
    ],
)
def test_what_is_no_file_of_weights_is_named(data: bytes, word: str) -> None:
    assert word in refused(data)


def test_programs_and_other_byte_orders() -> None:
    assert "TorchScript" in refused(_zip_of(pickle.dumps({}, 2), code__net=b"x = 1"))
    assert "byte order" in refused(_zip_of(pickle.dumps({}, 2), byteorder=b"big"))
    assert "zip archive of 1" in refused(_zip_of(b"").replace(b"data.pkl", b"data.txt"))


def test_mutations_end_in_typed_errors() -> None:
    generator = np.random.default_rng(7)
    for legacy in (False, True):
        good = torch_bytes({"state_dict": STATE, "epoch": 3}, legacy)
        for _ in range(400):
            data = bytearray(good)
            for _ in range(generator.integers(1, 6)):
                data[generator.integers(len(data))] = generator.integers(256)
            try:
                find_state(open_container(bytes(data)).tree)
            except ManifestError as error:
                assert str(error).isprintable()
