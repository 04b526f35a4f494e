"""Weights on disk: every bit comes back, equal states give equal bytes, and lies are refused."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import load, save
from torch import Tensor

from benchmark.architectures import build
from benchmark.errors import ManifestError
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.weights import (
    BITMAP,
    CODEBOOK,
    GAPS,
    INDICES,
    LARGEST_STATE,
    VALUES,
    decode,
    encode,
)

ROOT = Path(__file__).parents[2]

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2),
]
SHAPES = [(), (0,), (1,), (8,), (3, 0, 2), (17,), (4, 3, 3, 3), (2, 1, 1, 333)]


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    raw = tensor.contiguous().flatten().view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), raw.numpy().tobytes()


def assert_same(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert {name: bits(tensor) for name, tensor in state.items()} == {
        name: bits(tensor) for name, tensor in other.items()
    }


@some.composite
def tensors(draw: some.DrawFn) -> Tensor:
    """Any bits at all, a drawn share of the entries without one set, sometimes of few values."""
    dtype, shape = draw(some.sampled_from(DTYPES)), draw(some.sampled_from(SHAPES))
    count = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(draw(some.integers(0, 2**31)))
    size = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, high, (count, size), generator=generator, dtype=torch.uint8)
    if few := draw(some.sampled_from([0, 1, 3, 16, 200])):
        raw = raw[torch.randint(0, few, (count,), generator=generator) % max(1, count)]
    keep = torch.rand(count, 1, generator=generator) < draw(some.sampled_from([0, 0.01, 0.5, 1.0]))
    return (raw * keep).flatten().view(dtype).view(shape)


@given(some.dictionaries(some.text("ab.é", min_size=1, max_size=6), tensors(), max_size=4))
def test_round_trip_keeps_every_bit(state: dict[str, Tensor]) -> None:
    data = encode(state)
    assert_same(decode(data), state)
    assert encode(dict(reversed(state.items()))) == data
    assert encode(decode(data)) == data


def sparse(values: list[float], length: int = 100) -> Tensor:
    tensor = torch.zeros(length)
    tensor[: len(values)] = torch.tensor(values)
    return tensor


def counting(kept: int, length: int) -> Tensor:
    """Returns a tensor whose first entries are 1, 2, 3...: no codebook is worth it."""
    return sparse([float(value) for value in range(1, kept + 1)], length)


def test_negative_zeros_nan_payloads_and_subnormals_survive() -> None:
    patterns = [0x80000000, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x00000001, 0x7F800000]
    raw = torch.tensor([p - (1 << 32) if p >> 31 else p for p in patterns] + [0] * 94)
    state = {"w": raw.to(torch.int32).view(torch.float32)}
    data = encode(state)
    assert load(data)["w::values"].numel() == len(patterns)
    assert_same(decode(data), state)


@pytest.mark.parametrize(
    ("tensor", "is_sparse"),
    [
        (torch.zeros(33), True),  # 132 bytes: worth an entry in the header
        (torch.zeros(32), False),
        (torch.zeros(129, dtype=torch.bool), True),
        (torch.zeros(128, dtype=torch.bool), False),
        (torch.zeros(()), False),
        (torch.zeros(0), False),
        (torch.zeros(5, 0), False),
        (torch.tensor(7), False),
        (counting(640, 640), False),
        (counting(320, 640), True),  # exactly half zero
        # 80 bytes of bitmap, 4 a value, 128 for the entry, against 2560.
        (counting(587, 640), True),
        (counting(588, 640), False),
    ],
)
def test_sparse_exactly_where_that_is_smaller(tensor: Tensor, is_sparse: bool) -> None:
    data = encode({"w": tensor})
    assert ("w" in load(data)) is not is_sparse and ("w::values" in load(data)) is is_sparse
    assert_same(decode(data), {"w": tensor})


def parts_of(data: bytes) -> set[str]:
    """Returns the suffixes under which the tensor `w` is stored; a plain one has an empty one."""
    return {name.removeprefix("w") for name in load(data)}


@pytest.mark.parametrize(
    ("tensor", "codebook", "indices"),
    [
        # Two values, a bit each, in the order of their bits: the sign counts as the highest.
        (torch.tensor([1.5, -2.0] * 100), [1.5, -2.0], [0b01010101] * 25),
        # Three values, two bits each; zeros have no index.
        (
            torch.tensor([3.0, 0.0, 1.0, 2.0] * 50),
            [1.0, 2.0, 3.0],
            [0b10000110, 0b00011000, 0b01100001] * 12 + [0b10000110, 0b00010000],
        ),
        # One value still takes a bit.
        (torch.full((200,), 7.0), [7.0], [0] * 25),
        # Nothing is set in 0.0, but something in -0.0.
        (torch.tensor([0.0, -0.0, -1.0] * 200), [-0.0, -1.0], [0b01010101] * 50),
    ],
)
def test_codebooks_by_hand(tensor: Tensor, codebook: list[float], indices: list[int]) -> None:
    data = encode({"w": tensor})
    stored = load(data)
    assert parts_of(data) == {BITMAP, CODEBOOK, INDICES}
    assert bits(stored["w" + CODEBOOK]) == bits(torch.tensor(codebook))
    assert stored["w" + INDICES].tolist() == indices
    assert_same(decode(data), {"w": tensor})


@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 8, 9, 16, 17, 128, 129, 255, 256])
def test_an_index_takes_the_bits_that_the_codebook_needs(values: int) -> None:
    kept = torch.arange(1.0, values + 1).repeat(6000 // values)
    order = torch.randperm(4000 + len(kept), generator=torch.Generator().manual_seed(0))
    tensor = torch.cat([kept, torch.zeros(4000)])[order]
    stored = load(encode({"w": tensor}))
    width = max(1, math.ceil(math.log2(values)))
    assert len(stored["w" + INDICES]) == math.ceil(len(kept) * width / 8)
    assert len(stored["w" + CODEBOOK]) == values
    assert_same(decode(encode({"w": tensor})), {"w": tensor})


def test_257_values_are_too_many_wherever_the_last_one_is() -> None:
    many = torch.arange(1.0, 257).repeat(40)
    for last in (0, 5000, len(many) - 1):
        assert CODEBOOK in parts_of(encode({"w": many}))
        more = many.clone()
        more[last] = 999.0
        assert parts_of(encode({"w": more})) == {""}
        assert_same(decode(encode({"w": more})), {"w": more})


def test_equal_numbers_of_other_bits_are_other_values() -> None:
    nans = torch.tensor([0x7FC00001, 0x7FC00002, 0x7F800000] * 100, dtype=torch.int32)
    tensor = nans.view(torch.float32)
    data = encode({"w": tensor})
    assert load(data)["w" + CODEBOOK].numel() == 3
    assert_same(decode(data), {"w": tensor})


def sizes(tensor: Tensor) -> dict[frozenset[str], int]:
    """Returns what each way of storing costs, counted from the description of the format."""
    words = [bits(entry)[2] for entry in tensor.flatten()]
    kept = [word for word in words if any(word)]
    size, distinct = tensor.element_size(), len(set(kept))
    gaps, run = 0, 0
    for word in words:
        run += 1
        if any(word):
            gaps += 1 + (run - 1) // 255
            run = 0
    bitmap = math.ceil(len(words) / 8)
    kind, places = (GAPS, gaps) if gaps < bitmap else (BITMAP, bitmap)
    ways = {
        frozenset({""}): size * len(words),
        frozenset({kind, VALUES}): places + size * len(kept) + 128,
    }
    if 0 < distinct <= 256:
        indices = math.ceil(len(kept) * max(1, math.ceil(math.log2(distinct))) / 8)
        ways[frozenset({kind, CODEBOOK, INDICES})] = places + size * distinct + indices + 256
    return ways


@given(
    length=some.integers(0, 700),
    values=some.integers(1, 300),
    density=some.sampled_from([0.03, 0.3, 1.0]),
    dtype=some.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8]),
    seed=some.integers(0, 2**31),
)
def test_the_way_chosen_is_the_smallest_and_the_first_of_equals(
    length: int, values: int, density: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, values + 1, (length,), generator=generator)
    tensor = (drawn * (torch.rand(length, generator=generator) < density)).to(dtype)
    ways = sizes(tensor)
    assert parts_of(encode({"w": tensor})) == min(ways, key=lambda way: ways[way])


def test_committed_checkpoints_keep_their_bytes() -> None:
    files = sorted((ROOT / "checkpoints").rglob("*.safetensors"))
    assert files
    for file in files:
        data = file.read_bytes()
        assert encode(decode(data)) == data, file.name


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9, 0.95])
def test_fewer_bits_take_fewer_bytes(sparsity: float) -> None:
    generator = torch.Generator().manual_seed(3)
    tensor = torch.randn(64, 64, 3, 3, generator=generator)
    # Filled, not multiplied, which would leave -0.0 as one more value.
    tensor.masked_fill_(torch.rand(tensor.shape, generator=generator) < sparsity, 0.0)
    found = [len(encode({"w": tensor}))]
    for depth in (8, 4, 2, 1):
        codes = torch.quantile(tensor[tensor != 0], torch.linspace(0, 1, 2**depth + 2)[1:-1])
        near = torch.bucketize(tensor, codes).clamp(max=len(codes) - 1)
        coded = torch.where(tensor == 0, tensor, codes[near])
        data = encode({"w": coded})
        found.append(len(data))
        assert_same(decode(data), {"w": coded})
    assert found == sorted(found, reverse=True) and len(set(found)) == 5


@pytest.mark.parametrize(
    ("positions", "length", "gaps"),
    [
        ([], 1000, []),
        ([0], 1000, [0]),
        ([0, 1], 1000, [0, 0]),
        ([3, 10], 1000, [3, 6]),
        ([254], 1000, [254]),
        ([255], 1000, [255, 0]),
        ([509], 1000, [255, 254]),
        ([510], 1000, [255, 255, 0]),
        ([0, 256, 999], 1000, [0, 255, 0, 255, 255, 232]),
    ],
)
def test_gaps_by_hand(positions: list[int], length: int, gaps: list[int]) -> None:
    tensor = torch.zeros(length)
    tensor[positions] = torch.arange(1.0, len(positions) + 1)
    data = encode({"w": tensor})
    assert load(data)["w::gaps"].tolist() == gaps
    assert_same(decode(data), {"w": tensor})


def test_bitmap_above_an_eighth_and_gaps_below() -> None:
    """A value costs one byte of gaps; eight entries cost one byte of bitmap."""
    for kept, kind in ((13, "w::bitmap"), (12, "w::gaps")):
        data = encode({"w": sparse([1.0] * kept)})
        assert set(load(data)) == {kind, "w::values"}


@given(count=some.integers(1, 3000), kept=some.floats(0, 0.2), seed=some.integers(0, 2**31))
def test_round_trip_at_any_density(count: int, kept: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator)
    tensor = values * (torch.rand(count, generator=generator) < kept)
    assert_same(decode(encode({"w": tensor})), {"w": tensor})


def test_shared_and_strided_tensors() -> None:
    base = torch.arange(24.0).view(2, 3, 2, 2)
    state = {
        "a": base,
        "b": base,
        "view": base[0],
        "turned": base.transpose(0, 1),
        "last": base.to(memory_format=torch.channels_last),
        "leaf": base.clone().requires_grad_(),
        "every": torch.zeros(400)[::2],
    }
    found = decode(encode(state))
    assert_same(found, {name: tensor.detach() for name, tensor in state.items()})
    assert not any(tensor.requires_grad for tensor in found.values())


def test_source_is_left_alone_and_result_is_writable() -> None:
    source = torch.ones(4)
    found = decode(encode({"w": source, "z": torch.zeros(99)}))
    found["w"].zero_()
    found["z"].fill_(1)
    assert source.tolist() == [1, 1, 1, 1]


def test_empty_state() -> None:
    assert decode(encode({})) == {}


def test_order_of_the_state_is_no_matter() -> None:
    state = {f"layer{i}.weight": sparse([float(i)] * i) for i in range(60)}
    state |= {f"layer{i}.bias": torch.ones(i) for i in range(60)}
    # A hash map with a random seed would show up within a few runs.
    assert len({encode(state) for _ in range(5)} | {encode(dict(sorted(state.items())))}) == 1


def released() -> bytes:
    """A file of the format as it was first released: it must stay readable."""
    header = (
        b'{"__metadata__":{"robustprune":"{\\"w\\": [2, 8]}"},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"w::values":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
        b'"w::bitmap":{"dtype":"U8","shape":[2],"data_offsets":[12,14]}}'
    )
    values = struct.pack("<3f", 5, 1.5, -2)
    return struct.pack("<Q", len(header)) + header + values + b"\x80\x01"


def test_format_stays_readable() -> None:
    expected = torch.zeros(2, 8)
    expected[0, 0], expected[1, 7] = 1.5, -2
    assert_same(decode(released()), {"b": torch.tensor([5.0]), "w": expected})
    gaps = released().replace(b'"w::bitmap"', b'"w::gaps"  ')[:-2] + b"\x00\x0e"
    assert_same(decode(gaps), {"b": torch.tensor([5.0]), "w": expected})
    header = (
        b'{"__metadata__":{"robustprune":"{\\"w\\": [2, 8]}"},'
        b'"w::codebook":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"w::bitmap":{"dtype":"U8","shape":[2],"data_offsets":[8,10]},'
        b'"w::indices":{"dtype":"U8","shape":[1],"data_offsets":[10,11]}}'
    )
    size = struct.pack("<Q", len(header))
    coded = size + header + struct.pack("<2f", 1.5, -2) + b"\x80\x01\x40"
    assert_same(decode(coded), {"w": expected})
    both_ways = [b"\x00\x0f", b"\x0f\x00", b"\x00\xff", b"\xff\x00"]
    for places in both_ways:
        refused(gaps[:-2] + places)


def test_names_that_the_format_needs_are_refused() -> None:
    with pytest.raises(ManifestError, match="without '::'") as raised:
        encode({"a::bitmap" + "\n" * 10**6: torch.zeros(1)})
    assert str(raised.value).isprintable() and len(str(raised.value)) < 250


def test_99_percent_resnet18_is_under_a_megabyte() -> None:
    model = build("resnet18", shape=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.5,) * 3)
    generator = torch.Generator().manual_seed(0)
    scores = {}
    for name, parameter in prunable_parameters(model).items():
        parameter.data.uniform_(0.1, 1, generator=generator)
        scores[name] = parameter.detach()
    mask_from_scores(scores, 0.99, "layerwise").apply(model)
    data = encode(model.state_dict())
    assert len(data) < 1_000_000
    assert_same(decode(data), model.state_dict())


def refused(data: bytes) -> str:
    with pytest.raises(ManifestError) as raised:
        decode(data)
    message = str(raised.value)
    assert message.startswith("expected ") and "got " in message and "restore" in message
    assert message.isprintable() and len(message) < 300
    return message


STATE = {"w": counting(20, 100), "b": torch.ones(3), "n": torch.tensor(9)}

# 200 entries of three values at every other place.
CODED = {"w": torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 2.0]).repeat(50)}
OVER_STATES = pytest.mark.parametrize("state", [STATE, CODED], ids=["values", "codebook"])


@OVER_STATES
def test_truncated_anywhere_is_refused(state: dict[str, Tensor]) -> None:
    data = encode(state)
    for length in range(len(data)):
        refused(data[:length])
    refused(data + b"\0")


@OVER_STATES
@given(position=some.integers(0, 10_000), value=some.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_tensors(
    state: dict[str, Tensor], position: int, value: int
) -> None:
    data = bytearray(encode(state))
    data[position % len(data)] ^= value
    try:
        found = decode(bytes(data))
    except ManifestError as error:
        assert str(error).isprintable() and len(str(error)) < 300
    else:
        assert all(isinstance(tensor, Tensor) for tensor in found.values())


@given(some.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    refused(data)


def altered(change: Callable[[dict[str, Tensor], dict[str, object]], object]) -> bytes:
    """Returns a stored file whose tensors and shapes were changed."""
    stored = load(encode(STATE))
    shapes: dict[str, object] = {"w": [100]}
    change(stored, shapes)
    return save(stored, metadata={"robustprune": json.dumps(shapes)})


@pytest.mark.parametrize(
    "change",
    [
        lambda stored, shapes: stored.pop("w" + BITMAP),
        lambda stored, shapes: stored.pop("w" + VALUES),
        lambda stored, shapes: shapes.pop("w"),
        lambda stored, shapes: shapes.update(w=[101 + 8]),
        lambda stored, shapes: shapes.update(w=[96]),
        lambda stored, shapes: shapes.update(w=[2, 40]),
        lambda stored, shapes: shapes.update(w="100"),
        lambda stored, shapes: shapes.update(w=100),
        lambda stored, shapes: shapes.update(w=[100.0]),
        lambda stored, shapes: shapes.update(w=[True] * 2),
        lambda stored, shapes: shapes.update(w=[-100]),
        lambda stored, shapes: shapes.update(w=[-10, -10]),
        lambda stored, shapes: shapes.update(w=None),
        lambda stored, shapes: shapes.update(w=[100] + [1] * 100_000),
        lambda stored, shapes: shapes.update(w=[2**31, 2**31]),
        lambda stored, shapes: shapes.update(w=[LARGEST_STATE + 1]),
        lambda stored, shapes: shapes.update({f"x{i}": [LARGEST_STATE // 4] for i in range(5)}),
        lambda stored, shapes: shapes.update({"x" * 10**6: [1]}),
        lambda stored, shapes: stored.update(w=torch.zeros(100)),
        lambda stored, shapes: stored.update({"x" + VALUES: torch.zeros(1)}),
        lambda stored, shapes: stored.update({"w" + VALUES: torch.zeros(21)}),
        lambda stored, shapes: stored.update({"w" + VALUES: torch.zeros(19)}),
        lambda stored, shapes: stored.update({"w" + GAPS: torch.zeros(20, dtype=torch.uint8)}),
        lambda stored, shapes: stored.update({"w" + BITMAP: stored["w" + BITMAP].to(torch.int8)}),
        lambda stored, shapes: stored.update({"w" + BITMAP: torch.zeros(14, dtype=torch.uint8)}),
        # Bits behind the last entry.
        lambda stored, shapes: (
            stored.update({"w" + BITMAP: stored["w" + BITMAP].index_fill(0, torch.tensor(12), 1)}),
            stored.update({"w" + VALUES: torch.zeros(21)}),
        ),
    ],
)
def test_sparse_tensors_that_contradict_themselves_are_refused(
    change: Callable[[dict[str, Tensor], dict[str, object]], object],
) -> None:
    refused(altered(change))


def packed(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.uint8)


# 200 places, two bits each: 50 bytes.
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda stored: stored.pop("w" + BITMAP), "part"),
        (lambda stored: stored.pop("w" + INDICES), "part"),
        (lambda stored: stored.pop("w" + CODEBOOK), "part"),
        (lambda stored: stored.update({"w" + VALUES: torch.ones(200)}), "loose or double"),
        (lambda stored: stored.update({"w" + GAPS: packed(0)}), "loose or double"),
        (lambda stored: stored.update({"x" + CODEBOOK: torch.ones(2)}), "loose or double"),
        (lambda stored: stored.update({"x" + INDICES: packed(0)}), "loose or double"),
        (lambda stored: stored.update({"w" + INDICES: packed(*[0] * 49)}), "49 bytes of indices"),
        (lambda stored: stored.update({"w" + INDICES: packed(*[0] * 51)}), "51 bytes of indices"),
        (lambda stored: stored.update({"w" + INDICES: packed()}), "0 bytes of indices"),
        # A fourth value of three.
        (lambda stored: stored.update({"w" + INDICES: packed(*[255] * 50)}), "beyond a codebook"),
        (
            lambda stored: stored.update({"w" + INDICES: packed(*[0] * 49, 0b00000011)}),
            "beyond a codebook",
        ),
        (lambda stored: stored.update({"w" + INDICES: torch.zeros(50)}), "packed bytes"),
        (
            lambda stored: stored.update({"w" + INDICES: torch.zeros(5, 10, dtype=torch.uint8)}),
            "packed bytes",
        ),
        (
            lambda stored: stored.update({"w" + INDICES: torch.zeros(50, dtype=torch.int8)}),
            "packed bytes",
        ),
        (lambda stored: stored.update({"w" + CODEBOOK: torch.ones(0)}), "a codebook"),
        (lambda stored: stored.update({"w" + CODEBOOK: torch.ones(257)}), "a codebook"),
        (lambda stored: stored.update({"w" + CODEBOOK: torch.ones(3, 1)}), "a codebook"),
        (lambda stored: stored.update({"w" + CODEBOOK: torch.tensor(1.0)}), "a codebook"),
        # A codebook of another size wants other indices.
        (lambda stored: stored.update({"w" + CODEBOOK: torch.ones(2)}), "bytes of indices"),
        (lambda stored: stored.update({"w" + CODEBOOK: torch.ones(5)}), "bytes of indices"),
        (lambda stored: stored.update({"w" + BITMAP: packed(*[255] * 50)}), "bytes of indices"),
        (lambda stored: stored.update({"w" + BITMAP: packed(*[0] * 50)}), "bytes of indices"),
        (lambda stored: stored.update({"w" + BITMAP: packed(0)}), "for 400 entries"),
    ],
)
def test_codebooks_that_contradict_themselves_are_refused(
    change: Callable[[dict[str, Tensor]], object], reason: str
) -> None:
    stored = load(encode(CODED))
    assert set(stored) == {"w" + BITMAP, "w" + CODEBOOK, "w" + INDICES}
    change(stored)
    assert reason in refused(save(stored, metadata={"robustprune": '{"w": [400]}'}))


def test_bits_behind_the_last_index_are_refused() -> None:
    """201 indices of a bit: the last byte holds one of them, and seven bits that must be 0."""
    tensor = torch.ones(201)
    tensor[0] = 2.0
    stored = load(encode({"w": tensor}))
    assert len(stored["w" + INDICES]) == 26

    def ending(byte: int) -> bytes:
        stored["w" + INDICES][-1] = byte
        return save(stored, metadata={"robustprune": '{"w": [201]}'})

    assert decode(ending(0b0000_0000))["w"][-1] == 1
    assert decode(ending(0b1000_0000))["w"][-1] == 2
    for behind in range(7):
        assert "beyond a codebook" in refused(ending(1 << behind))


@given(
    values=some.integers(1, 300), indices=some.binary(max_size=80), places=some.binary(max_size=80)
)
def test_any_parts_are_refused_or_give_a_tensor_of_the_shape(
    values: int, indices: bytes, places: bytes
) -> None:
    for kind in (BITMAP, GAPS):
        stored = {
            "w" + CODEBOOK: torch.arange(1.0, values + 1),
            "w" + INDICES: packed(*indices),
            "w" + kind: packed(*places),
        }
        data = save(stored, metadata={"robustprune": f'{{"w": [{8 * len(places)}]}}'})
        try:
            found = decode(data)["w"]
        except ManifestError as error:
            assert str(error).isprintable()
        else:
            assert found.shape == (8 * len(places),) and bool(found.lt(values + 1).all())


def test_zeros_without_end_are_refused() -> None:
    """Some hundred bytes that would unpack to gigabytes."""
    names = [f"x{number}" for number in range(5)]
    stored = {name + GAPS: torch.empty(0, dtype=torch.uint8) for name in names}
    stored |= {name + VALUES: torch.empty(0) for name in names}
    for size, allowed in ((1000, True), (LARGEST_STATE // 5 + 1, False)):
        data = save(stored, metadata={"robustprune": json.dumps(dict.fromkeys(names, [size]))})
        assert len(data) < 2000
        if allowed:
            assert all(tensor.numel() == size for tensor in decode(data).values())
        else:
            assert "more than" in refused(data)


def test_skips_behind_the_last_value_are_refused() -> None:
    """They would let one tensor have files of any size."""
    stored = {"w" + VALUES: torch.ones(1), "w" + GAPS: packed(7, 255)}
    with pytest.raises(ManifestError, match="2 gaps for 1 values of 100"):
        decode(save(stored, metadata={"robustprune": '{"w": [100]}'}))


def test_unaltered_is_read() -> None:
    assert_same(decode(altered(lambda stored, shapes: None)), STATE)


@pytest.mark.parametrize("shapes", ["[]", "1", "null", "{", "[" * 100_000, '"w"', "NaN", ""])
def test_other_tables_of_shapes_are_refused(shapes: str) -> None:
    refused(save({"b": torch.ones(1)}, metadata={"robustprune": shapes}))


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}',
        b'{"w":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}',
        b'{"w":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"robustprune":{"w":[1]}}}',
        b"[]",
        b"{}" + b" " * 10_000 + b"x",
    ],
)
def test_headers_that_promise_more_than_there_is_are_refused(header: bytes) -> None:
    refused(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def test_header_of_any_size_is_refused_before_it_is_read() -> None:
    refused(struct.pack("<Q", 2**63) + b"{}")


def test_files_of_others_without_our_table_are_plain() -> None:
    """Safetensors written by other programs hold dense tensors only."""
    state = {"w": torch.zeros(100), "b": torch.ones(3)}
    assert_same(decode(save(state)), state)
    assert_same(decode(save(state, metadata={"format": "pt"})), state)
