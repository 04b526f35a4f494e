"""The manifest and its promises: each field, each path, each weight and each zero is checked."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from small_project import FIELDS, claims, entry, network, store, store_bytes
from torch import Tensor

from benchmark.errors import BenchmarkError, ContractError, ManifestError, StorageError, UnknownName
from benchmark.manifest import (
    Checkpoint,
    Manifest,
    load_model,
    read_manifest,
    read_weights,
    write_manifest,
)
from benchmark.pruning import Structure

GOLDEN = Path(__file__).parents[1] / "golden"


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 1000
    assert message.startswith("expected ") and "got " in message or "found " in message
    return message


def manifest_text(*entries: dict[str, Any], **more: Any) -> str:
    return json.dumps({"schema_version": 2, "checkpoints": entries, **more})


def refused(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "checkpoints_manifest.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ManifestError) as raised:
        read_manifest(path)
    return one_line(raised.value)


def without_words(schema: Any) -> Any:
    """Returns a schema without titles and descriptions: the format, not its documentation."""
    if isinstance(schema, dict):
        return {
            key: without_words(value)
            for key, value in schema.items()
            if key not in ("title", "description") or not isinstance(value, str)
        }
    return [without_words(item) for item in schema] if isinstance(schema, list) else schema


def test_schema_is_frozen() -> None:
    """A change here needs a new schema version and a reader for the old one."""
    golden = json.loads((GOLDEN / "manifest.schema.json").read_text())
    assert without_words(Manifest.model_json_schema()) == golden


def test_absent_manifest_is_empty_and_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints_manifest.json"
    assert read_manifest(path) == Manifest()
    manifest = Manifest().with_entry(entry(seed=3)).with_entry(entry(sparsity=0.5))
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest
    first = path.read_bytes()
    write_manifest(path, read_manifest(path))
    assert path.read_bytes() == first
    assert "Müller".encode() in first and first.endswith(b"}\n")


def test_entries_are_replaced_and_ordered() -> None:
    manifest = Manifest()
    for seed in (5, 1, 3):
        manifest = manifest.with_entry(entry(seed=seed))
    manifest = manifest.with_entry(entry(seed=3, display_name="New"))
    assert [e.seed for e in manifest.checkpoints] == [1, 3, 5]
    assert manifest.find(entry(seed=3).id).display_name == "New"


def test_unknown_checkpoint_gets_near_matches() -> None:
    manifest = Manifest().with_entry(entry())
    with pytest.raises(UnknownName, match="did you mean lwm-layerwise/digits"):
        manifest.find("lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-90")


@pytest.mark.parametrize(
    ("sparsity", "percent"),
    [(0.0, "0"), (1.0, "100"), (0.995, "99.5"), (0.29, "29"), (1 / 3, "33.33333333333333")],
)
def test_ids_spell_every_digit_of_the_claim(sparsity: float, percent: str) -> None:
    name = f"lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-{percent}/seed0"
    assert entry(sparsity=sparsity, id=name).id == name


def test_a_rounded_claim_is_not_the_same_id() -> None:
    with pytest.raises(ValueError, match="unstructured-90.00001/seed0 from the fields"):
        entry(sparsity=0.9000001, id=str(FIELDS["id"]))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lwm-global"},
        {"dataset": "mnist"},
        {"architecture": "cnn-small"},
        {"objective": "benign"},
        {"structure": "filter"},
        {"sparsity": 0.95},
        {"seed": 1},
    ],
)
def test_id_must_agree_with_each_field(tmp_path: Path, change: dict[str, Any]) -> None:
    message = refused(tmp_path, manifest_text({**FIELDS, **change}))
    assert "from the fields" in message and "checkpoints.0" in message and "mend" in message


@pytest.mark.parametrize(
    "change",
    [
        {"method": "Lwm", "id": "Lwm/digits/cnn-tiny/adversarial/unstructured-90/seed0"},
        {"method": "../x", "id": "../x/digits/cnn-tiny/adversarial/unstructured-90/seed0"},
        {"method": "", "id": "/digits/cnn-tiny/adversarial/unstructured-90/seed0"},
        {"method": "a\nb", "id": "a\nb/digits/cnn-tiny/adversarial/unstructured-90/seed0"},
        {"id": "x" * 10**6},
        {"id": "\x1b[2J"},
        {"method": "m" * 10**6},
        {"display_name": "d" * 10**6},
        {"display_name": ""},
        {"display_name": "two\nlines"},
        {"display_name": "clear\x1b[2J"},
        {"display_name": "next\x85line"},
        {"display_name": "separated\u2028line"},
        {"display_name": "reversed\u202etxt"},
        {"paper": "p" * 401},
        {"authors": ["a"] * 101},
        {"authors": ["a\nb"]},
        {"authors": "Ada"},
        {"authors": [1]},
        {"sparsity": "0.9"},
        {"sparsity": 1.5},
        {"sparsity": -0.1},
        {"sparsity": None},
        {"sparsity": True},
        {"seed": 0.0},
        {"seed": "0"},
        {"seed": -1},
        {"seed": True},
        {"zeros": -1},
        {"zeros": 1.5},
        {"prunable": 0},
        {"structure": "filters"},
        {"format": "pickle"},
        {"bytes": 0},
        {"bytes": 3 << 30},
        {"sha256": "1" * 63},
        {"sha256": "G" * 64},
        {"sha256": "1" * 64 + "\n"},
        {"file": ""},
        {"file": "a\nb"},
        {"file": "f" * 401},
        {"budget": {}},
        {"budget": {**FIELDS["budget"], "hours": -1.0}},
        {"budget": {**FIELDS["budget"], "extra": 1}},
        {"unknown": 1},
        {"u" * 10**6 + "\n": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_other_fields_are_refused_with_their_place(tmp_path: Path, change: dict[str, Any]) -> None:
    message = refused(tmp_path, manifest_text({**FIELDS, **change}))
    assert "checkpoints.0" in message and str(tmp_path) in message


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("url", "format")])
def test_each_field_is_required(tmp_path: Path, field: str) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != field}
    assert field in refused(tmp_path, manifest_text(fields))


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, manifest_text(FIELDS, {**FIELDS, "display_name": "Again"}))
    assert f"{FIELDS['id']} twice" in message


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        '"x"',
        "{}x",
        b"\xff\xfe",
        "[" * 100_000,
        '{"checkpoints": 1}',
        '{"checkpoints": [1]}',
        manifest_text(schema_version=3),
        manifest_text(extra=1),
        manifest_text().replace("2", "NaN"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: str | bytes) -> None:
    refused(tmp_path, content)


@given(data=some.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refused(tmp_path_factory.mktemp("noise"), data)


def test_huge_manifest_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints_manifest.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ManifestError, match="at most"):
        read_manifest(path)


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="Is a directory"):
        read_manifest(tmp_path)


def test_full_disk_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints_manifest.json"
    write_manifest(path, Manifest().with_entry(entry()))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_manifest(path, Manifest())
    assert len(read_manifest(path).checkpoints) == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("structure", ["unstructured", "filter", "channel"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_a_kept_promise_loads(tmp_path: Path, structure: Structure, sparsity: float) -> None:
    model = network(sparsity, structure)
    made = store(
        tmp_path,
        model.state_dict(),
        structure=structure,
        sparsity=sparsity,
        **claims(model, structure),
    )
    state = torch.get_rng_state()
    loaded = load_model(made, tmp_path)
    assert not loaded.training and torch.equal(torch.get_rng_state(), state)
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(inputs), model(inputs))
    assert loaded(inputs).shape == (3, 10)


def refused_model(made: Checkpoint, root: Path) -> str:
    with pytest.raises(ManifestError) as raised:
        load_model(made, root)
    return one_line(raised.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "bytes with sha256"),
        (lambda data: b"", "bytes with sha256"),
        (lambda data: data + b"x", "expected at most"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "bytes with sha256"),
    ],
)
def test_truncated_or_tampered_files_are_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    made = store(tmp_path, network().state_dict())
    path = tmp_path / made.file
    path.write_bytes(damage(path.read_bytes()))
    found = refused_model(made, tmp_path)
    assert message in found and "restore the original" in found


def test_claimed_size_must_be_the_size(tmp_path: Path) -> None:
    made = store(tmp_path, network().state_dict())
    larger = made.model_copy(update={"bytes": made.bytes + 1})
    assert f"expected {made.bytes + 1} bytes" in refused_model(larger, tmp_path)


def test_missing_weights_say_where_to_get_them(tmp_path: Path) -> None:
    made = store(tmp_path, network().state_dict())
    (tmp_path / made.file).unlink()
    assert "robustprune compress" in refused_model(made, tmp_path)
    elsewhere = made.model_copy(update={"url": "https://example.org/w"})
    assert "`robustprune fetch` gets it from https://example.org/w" in refused_model(
        elsewhere, tmp_path
    )
    (tmp_path / made.file).mkdir()
    assert made.id in refused_model(made, tmp_path)


@pytest.mark.parametrize("file", ["../w", "/etc/passwd", "a/../../w", "out/w", "."])
def test_weights_outside_the_project_are_refused(tmp_path: Path, file: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    made = store(tmp_path, network().state_dict(), file="w").model_copy(update={"file": file})
    with pytest.raises(ManifestError) as raised:
        read_weights(made, root)
    one_line(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("body.0.weight"), "'body.0.weight' is missing"),
        (lambda s: s.update({"e" * 10**5: torch.ones(1)}), "is left over"),
        (lambda s: s.update({"body.5.bias": torch.ones(9)}), "got (9,)"),
        (lambda s: s.update({"body.5.bias": torch.ones(1, 10)}), "got (1, 10)"),
        (lambda s: s.update({"body.5.bias": torch.ones(10).double()}), "torch.float64"),
        (lambda s: s.update({"body.5.bias": torch.ones(10).half()}), "torch.float16"),
        (lambda s: s["body.5.bias"].fill_(float("nan")), "NaN or infinity in body.5.bias"),
        (lambda s: s["body.0.weight"].view(-1)[-1:].fill_(float("inf")), "NaN or infinity"),
        (lambda s: s["normalise.std"].fill_(float("nan")), "NaN or infinity in normalise.std"),
    ],
)
def test_other_tensors_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    change(state)
    assert message in refused_model(store(tmp_path, state), tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    made = store(tmp_path, network().state_dict(), architecture="cnn-small", dataset="mnist")
    assert "expected the tensors of cnn-small" in refused_model(made, tmp_path)
    made = store(tmp_path, network().state_dict(), architecture="cnn-small")
    with pytest.raises(ContractError, match="choose another architecture"):
        load_model(made, tmp_path)
    made = store(tmp_path, network().state_dict(), dataset="mnist")
    assert "body.5.weight" in refused_model(made, tmp_path)
    with pytest.raises(UnknownName, match="did you mean cnn-tiny"):
        load_model(store(tmp_path, network().state_dict(), architecture="cnn-tinny"), tmp_path)
    with pytest.raises(UnknownName, match="unknown data set 'digit'"):
        load_model(store(tmp_path, network().state_dict(), dataset="digit"), tmp_path)


@pytest.mark.parametrize("data", [b"PK\x03\x04 a pickle", b"\x80\x02}q\x00.", b"{}"])
def test_other_formats_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "safetensors" in refused_model(store_bytes(tmp_path, data), tmp_path)


@pytest.mark.parametrize("off", [-1, 1])
@pytest.mark.parametrize("field", ["zeros", "prunable"])
def test_counts_that_are_off_by_one_are_refused(tmp_path: Path, field: str, off: int) -> None:
    state = network().state_dict()
    made = store(tmp_path, state, **{field: FIELDS[field] + off})
    message = refused_model(made, tmp_path)
    assert "got 8885 of 9872" in message and "correct the claim" in message


@pytest.mark.parametrize(
    ("real", "structure"),
    [(0.0, "unstructured"), (0.89, "unstructured"), (0.9, "filter"), (0.5, "channel")],
)
def test_a_share_that_the_weights_do_not_have_is_refused(
    tmp_path: Path, real: float, structure: Structure
) -> None:
    """The counts are true, the share is not: 90 % unstructured was claimed."""
    model = network(real, structure)
    made = store(tmp_path, model.state_dict(), **claims(model))
    assert "as its sparsity 0.9 says" in refused_model(made, tmp_path)


def test_scattered_zeros_are_no_filters(tmp_path: Path) -> None:
    made = store(tmp_path, network(0.9).state_dict(), structure="filter")
    assert "(filter) removed" in refused_model(made, tmp_path)


def test_share_may_be_off_by_the_rounding_of_each_layer_only(tmp_path: Path) -> None:
    """90 % of 9872 weights are 8884.8; layer by layer it is 8885, and 1.5 either way is room."""
    model = network(0.9)
    with torch.no_grad():
        kept = model.body.get_parameter("5.weight").view(-1)
        for extra, allowed in ((1, True), (2, False)):
            kept[int(kept.nonzero()[0])] = 0.0
            made = store(tmp_path, model.state_dict(), zeros=8885 + extra)
            if allowed:
                load_model(made, tmp_path)
            else:
                assert "got 8887" in refused_model(made, tmp_path)


def test_negative_zeros_count_as_zeros(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    state["body.2.weight"][state["body.2.weight"] == 0] = -0.0
    loaded = load_model(store(tmp_path, state), tmp_path)
    assert loaded.state_dict()["body.2.weight"].signbit().any()


def test_committed_checkpoints_keep_their_promises() -> None:
    root = Path(__file__).parents[2]
    manifest = read_manifest(root / "checkpoints_manifest.json")
    assert manifest.checkpoints
    for made in manifest.checkpoints:
        load_model(made, root)
