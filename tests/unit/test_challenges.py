"""Challenges on disk: bound to their arrays, their place and their first author; else refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from small_outcomes import SMALL_PROTOCOL
from small_project import entry

from benchmark import challenges
from benchmark.challenges import Challenge, challenge_of, content_digest, path_of, stale, write
from benchmark.errors import ManifestError, RecordError
from benchmark.outcomes import encode_arrays

CHECKPOINT = entry()
PROTOCOL = SMALL_PROTOCOL
SAID: dict[str, Any] = {
    "checkpoint_id": CHECKPOINT.id,
    "checkpoint_sha256": CHECKPOINT.sha256,
    "protocol": PROTOCOL.id,
    "protocol_digest": PROTOCOL.digest,
    "norm": "Linf",
    "epsilon": "1/10",
    "credit": "Ada Müller",
    "contact": "ada@example.org",
    "url": "https://example.org/attack",
    "attack": "PGD, 10,000 restarts",
    "date": "2026-02-28",
}


def arrays_of(*index: int, kind: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(index), 1, 4, 4))
    inputs = pixels.astype(np.uint8) if kind is np.uint8 else (pixels / 255).astype(kind)
    return {"index": np.array(index, dtype=np.int64), "inputs": inputs}


ARRAYS = arrays_of(3, 5, 11)


def stored(folder: Path, arrays: dict[str, Any] = ARRAYS, **changes: Any) -> Path:
    return write(folder, challenge_of(arrays, **{**SAID, **changes}), arrays)


def read_all(folder: Path) -> list[tuple[Challenge, Path]]:
    return challenges.read_all(folder, PROTOCOL.id, CHECKPOINT.id)


def refused(folder: Path) -> str:
    with pytest.raises(RecordError) as raised:
        read_all(folder)
    return one_line(raised.value)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 1500
    assert message.startswith("expected ") and ("got " in message or "found " in message)
    return message


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_is_written_is_read(tmp_path: Path, kind: Any) -> None:
    arrays = arrays_of(3, 5, 11, kind=kind)
    path = stored(tmp_path, arrays)
    [(challenge, found)] = read_all(tmp_path)
    assert found == path == path_of(tmp_path, PROTOCOL.id, CHECKPOINT.id, challenge.sha256)
    assert path.parent.name.startswith("lwm-layerwise__digits") and path.stem in challenge.sha256
    assert (challenge.examples, challenge.epsilon) == ((3, 5, 11), "1/10")
    assert challenge.model_dump(include=set(SAID)) == SAID
    inputs = challenges.read_inputs(path, challenge)
    assert inputs["inputs"].dtype == np.float32
    pixels = arrays["inputs"] / np.float32(255) if kind is np.uint8 else arrays["inputs"]
    assert np.array_equal(inputs["inputs"], pixels)
    assert np.array_equal(inputs["index"], arrays["index"])
    before = path.read_bytes(), path.with_suffix(".npz").read_bytes()
    assert stored(tmp_path, arrays) == path
    assert before == (path.read_bytes(), path.with_suffix(".npz").read_bytes())


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 5), (1, 16)])
def test_inputs_of_another_shape_are_refused_where_the_shape_is_known(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = stored(tmp_path)
    [(challenge, _)] = read_all(tmp_path)
    assert len(challenges.read_inputs(path, challenge, (1, 4, 4))["index"]) == 3
    with pytest.raises(
        RecordError, match=r"expected inputs of shape .* got \(1, 4, 4\); rem"
    ) as no:
        challenges.read_inputs(path, challenge, shape)
    one_line(no.value)


def test_nothing_is_there_at_first_and_the_oldest_leads(tmp_path: Path) -> None:
    assert read_all(tmp_path) == []
    days = ["2026-03-01", "2025-12-31", "2026-01-01"]
    for seed, day in enumerate(days):
        stored(tmp_path, arrays_of(1, seed=seed), date=day)
    stored(tmp_path, arrays_of(1, seed=9), checkpoint_id="another", date="2020-01-01")
    stored(tmp_path, arrays_of(1, seed=9), protocol="another", date="2020-01-01")
    assert [challenge.date for challenge, _ in read_all(tmp_path)] == sorted(days)


def test_credit_stays_with_who_came_first(tmp_path: Path) -> None:
    path = stored(tmp_path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="that Ada Müller handed in on 2026-02-28; nothing was"):
        stored(tmp_path, credit="Eve", date="2026-03-01")
    assert path.read_bytes() == before


def test_a_challenge_of_other_arrays_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="of the arrays beside it"):
        write(tmp_path, challenge_of(ARRAYS, **SAID), arrays_of(3, 5, 12))
    forged = challenge_of(ARRAYS, **SAID).model_copy(update={"credit": "Eve"})
    with pytest.raises(RecordError, match="of the arrays beside it"):
        write(tmp_path, forged, ARRAYS)
    assert list(tmp_path.iterdir()) == []


BAD_FIELDS: dict[str, list[Any]] = {
    "schema_version": [0, 2, "1", 1.5],
    "checkpoint_id": ["x" * 201, 7, None],
    "checkpoint_sha256": ["", "1" * 63, "G" * 64],
    "protocol": ["", "a\nb"],
    "protocol_digest": ["1" * 65],
    "norm": ["linf", "L1", ""],
    "epsilon": [0.1, "0.1", "0", "0/1", "2/20", "1/0", "-1/10", "1/10 ", "01/10", "1e-1", "1/1"],
    "credit": ["", "x" * 401, "a\x1b[31m", "\u202eevil"],
    "contact": ["a\nb", None],
    "url": ["javascript:alert(1)", "http://example.org", "https://a b", 'https://x"\n'],
    "attack": ["", "\u2028"],
    "date": ["2026-02-30", "2026-2-28", "yesterday", "２０２６-02-28", 20260228],
    "examples": [[], [3, 3], [5, 3], [-1], [1.0], ["1"], [True], [2**31], 3],
    "file": ["../../etc/passwd", "x.npz", "0" * 16 + ".npz", ""],
    "bytes": [0, -1, 1.0, "9", 2**40],
    "sha256": ["", "0" * 63],
    "content_digest": ["", "0" * 64],
}


def test_the_table_of_bad_values_is_complete() -> None:
    assert set(BAD_FIELDS) == set(Challenge.model_fields)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_FIELDS.items() for value in values]
)
def test_bad_values_are_refused_and_named(tmp_path: Path, name: str, value: Any) -> None:
    path = stored(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert name in refused(tmp_path)


GOOD_CHANGES: dict[str, Any] = {
    "checkpoint_id": "another",
    "checkpoint_sha256": "2" * 64,
    "protocol": "another",
    "protocol_digest": "2" * 64,
    "norm": "L2",
    "epsilon": "1/5",
    "credit": "Eve",
    "contact": "eve@example.org",
    "url": "",
    "attack": "mine",
    "date": "2020-01-01",
    "examples": [3, 5, 12],
    "bytes": 1,
    "sha256": "f" * 64,
    "content_digest": "f" * 64,
}


@pytest.mark.parametrize("name", GOOD_CHANGES)
def test_an_altered_field_is_noticed(tmp_path: Path, name: str) -> None:
    path = stored(tmp_path)
    changed = json.loads(path.read_text()) | {name: GOOD_CHANGES[name]}
    if name == "sha256":
        changed["file"] = "f" * 16 + ".npz"
    path.write_text(json.dumps(changed))
    assert "content_digest" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint_id", "to another under small-linf; remove the copy"),
        ("protocol", "under another; remove the copy"),
        ("examples", "expected the examples of the challenge"),
        ("bytes", "at most 1 bytes"),
        ("sha256", "expected ffffffffffffffff.json to"),
    ],
)
def test_a_new_signature_does_not_hide_a_lie(tmp_path: Path, name: str, message: str) -> None:
    path = stored(tmp_path)
    changed = json.loads(path.read_text()) | {name: GOOD_CHANGES[name]}
    if name == "sha256":
        changed["file"] = "f" * 16 + ".npz"
    draft = Challenge.model_validate_json(json.dumps(changed))
    path.write_text(json.dumps({**changed, "content_digest": content_digest(draft)}))
    assert message in refused(tmp_path)


def test_the_archive_is_named_by_its_hash(tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"file": "0" * 16 + ".npz"}))
    assert f"expected file {path.stem}.npz, got 0000000000000000.npz" in refused(tmp_path)


def test_fields_left_out_or_added_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    whole = json.loads(path.read_text())
    for name in ("credit", "sha256", "content_digest"):
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        assert name in refused(tmp_path)
    path.write_text(json.dumps({**whole, "broken": 3}))
    assert "broken" in refused(tmp_path)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-1], "expected bytes"),
    "longer": (lambda data: data + b"x", "at most"),
    "another byte": (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "expected sha256"),
    "empty": (lambda data: b"", "expected bytes"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_says_what_differs(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    archive = stored(tmp_path).with_suffix(".npz")
    archive.write_bytes(change(archive.read_bytes()))
    assert message in refused(tmp_path) and archive.name in refused(tmp_path)


def test_a_lost_archive_is_named(tmp_path: Path) -> None:
    archive = stored(tmp_path).with_suffix(".npz")
    archive.unlink()
    assert f"{archive}, found no such file" in refused(tmp_path)
    archive.mkdir()
    assert "readable file" in refused(tmp_path)


def test_copies_elsewhere_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    shutil.copy(path, path.with_name("0" * 16 + ".json"))
    assert "remove the copy" in refused(tmp_path)
    path.with_name("0" * 16 + ".json").unlink()
    elsewhere = path_of(tmp_path, "another", CHECKPOINT.id, "0" * 64).parent
    shutil.copytree(path.parent, elsewhere)
    with pytest.raises(RecordError, match="under another in .*under small-linf; remove the copy"):
        challenges.read_all(tmp_path, "another", CHECKPOINT.id)


def test_links_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "inside")
    outside = tmp_path / "outside.json"
    path.rename(outside)
    path.symlink_to(outside)
    assert "got a link" in refused(tmp_path / "inside")
    place = path.parent
    shutil.move(place, tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    with pytest.raises(ManifestError, match="leads outside"):
        read_all(tmp_path / "inside")


@pytest.mark.parametrize("names", [("../..", "a"), ("a", ".."), ("/etc", "a"), ("a\0", "b")])
def test_names_that_lead_out_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ManifestError, match="inside the project"):
        challenges.read_all(tmp_path, *names)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no index": ({"inputs": ARRAYS["inputs"]}, "index and inputs, got inputs"),
    "nothing": ({}, "got none"),
    "more": ({**ARRAYS, "labels": ARRAYS["index"]}, "got index, inputs, labels"),
    "float index": ({**ARRAYS, "index": ARRAYS["index"] * 1.0}, "rising int64, got float64"),
    "small index": ({**ARRAYS, "index": ARRAYS["index"].astype(np.int32)}, "got int32"),
    "falling index": ({**ARRAYS, "index": ARRAYS["index"][::-1].copy()}, "rising int64"),
    "index twice": ({**ARRAYS, "index": np.array([3, 3, 5])}, "rising int64"),
    "flat": ({**ARRAYS, "inputs": ARRAYS["inputs"].reshape(3, -1)}, r"got float32 \(3, 16\)"),
    "too few": ({**ARRAYS, "inputs": ARRAYS["inputs"][:2]}, "as 3 images"),
    "double": ({**ARRAYS, "inputs": ARRAYS["inputs"].astype(np.float64)}, "got float64"),
    "NaN": ({**ARRAYS, "inputs": ARRAYS["inputs"] * np.float32("nan")}, "NaN"),
    "outside": ({**ARRAYS, "inputs": ARRAYS["inputs"] + np.float32(1)}, r"inputs in \[0, 1\]"),
    "below": ({**ARRAYS, "inputs": -ARRAYS["inputs"]}, r"inputs in \[0, 1\]"),
    "negative index": ({**ARRAYS, "index": np.array([-1, 5, 11])}, "examples.0"),
    "none": (arrays_of(), "examples"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_are_no_challenge_are_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message) as raised:
        challenge_of(arrays, **SAID)
    one_line(raised.value)


@pytest.mark.parametrize("name", [name for name in BAD_ARRAYS if name != "none"])
def test_arrays_on_disk_are_checked_as_well(tmp_path: Path, name: str) -> None:
    arrays = BAD_ARRAYS[name][0]
    path = stored(tmp_path)
    data = encode_arrays(arrays)
    sha256 = challenges.sha256_of_bytes(data)
    fields = {
        **json.loads(path.read_text()),
        **{"bytes": len(data), "sha256": sha256, "file": f"{sha256[:16]}.npz"},
    }
    draft = Challenge.model_validate_json(json.dumps(fields))
    fields["content_digest"] = content_digest(draft)
    path.unlink()
    path.with_name(f"{sha256[:16]}.npz").write_bytes(data)
    path.with_name(f"{sha256[:16]}.json").write_text(json.dumps(fields))
    refused(tmp_path)


@given(some.binary(max_size=200) | some.text(max_size=200).map(str.encode))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = path_of(Path(folder), PROTOCOL.id, CHECKPOINT.id, "0" * 64)
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
        refused(Path(folder))


def test_depth_and_size_are_bounded(tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.write_text("[" * 100_000)
    assert "valid challenge" in refused(tmp_path)
    path.write_bytes(b" " * (challenges.LARGEST_CHALLENGE + 1))
    assert "at most" in refused(tmp_path)


def test_stale_names_what_changed() -> None:
    challenge = challenge_of(ARRAYS, **SAID)
    assert stale(challenge, CHECKPOINT, PROTOCOL) == ""
    smaller = challenge_of(ARRAYS, **{**SAID, "epsilon": "1/20"})
    assert stale(smaller, CHECKPOINT, PROTOCOL) == ""
    for name, value, word in [
        ("checkpoint_id", "another", "expected checkpoint lwm-layerwise"),
        ("checkpoint_sha256", "2" * 64, "expected weights sha256 111"),
        ("protocol", "another", "expected protocol small-linf, got another"),
        ("protocol_digest", "2" * 64, "expected protocol digest"),
        ("norm", "L2", "expected norm Linf, got L2"),
        ("epsilon", "1/5", "expected epsilon up to 1/10, got 1/5"),
    ]:
        other = challenge_of(ARRAYS, **{**SAID, name: value})
        assert stale(other, CHECKPOINT, PROTOCOL).startswith(word)
