"""Hostile submissions: each is refused with the reason, and leaves the board as it was."""

import io
import json
import multiprocessing
import os
import pickle
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import DENSE, FAST, SPARSE
from handed_in import (
    DRAFT,
    MINE,
    SCRUTINY,
    SOURCES,
    SPARSEST,
    Change,
    Forgery,
    HandedIn,
    copy_of,
    entered,
    forgery,
    handed_in,
    refusals,
    unpacked,
)

from benchmark import records, weights
from benchmark.digests import sha256_of_bytes
from benchmark.errors import (
    BenchmarkError,
    InvariantViolation,
    ManifestError,
    RecordError,
    StorageError,
)
from benchmark.manifest import slug, write_manifest
from benchmark.outcomes import decode, encode_arrays, read_arrays
from benchmark.pipeline import Project, receiving
from benchmark.pipeline.receiving import SMALL_TEXT, accept, validate
from benchmark.pipeline.submitting import submit
from benchmark.workers import Workers


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> HandedIn:
    return handed_in(tmp_path_factory)


def listing(root: Path) -> dict[str, bytes]:
    """Returns every file of a project with its content."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class Armed:
    """Unpickled, it leaves a file behind."""

    trace = "armed.txt"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def packed_arrays(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, **arrays)
    return stream.getvalue()


# --- Forgeries: what each changes, and why it is refused ------------------------------------------


def pickled_weights(forged: Forgery) -> None:
    forged.files[forged.entry()["file"]] = pickle.dumps({"weight": Armed()})


def zipped_pickle(forged: Forgery) -> None:
    stream = io.BytesIO()
    torch.save({"weight": Armed()}, stream)
    forged.files[forged.entry()["file"]] = stream.getvalue()


def pickled_outcomes(forged: Forgery) -> None:
    forged.put_outcomes(packed_arrays(index=np.array([Armed()], dtype=object)))


def pickled_evidence(forged: Forgery) -> None:
    data = packed_arrays(positions=np.array([Armed()], dtype=object))
    put_evidence(forged, data)


def put_evidence(forged: Forgery, data: bytes, inputs: int | None = None) -> None:
    """Puts a first file of evidence in place, and has the record name it."""
    forged.files[forged.evidence()[0]] = data
    record = forged.record()
    record["evidence"][0] |= {"bytes": len(data), "sha256": sha256_of_bytes(data)}
    if inputs is not None:
        record["evidence"][0]["inputs"] = inputs
    forged.put_record(record)


def evidence_bomb(forged: Forgery) -> None:
    # A thousand times smaller than what it unpacks to.
    put_evidence(forged, encode_arrays({"x": np.zeros(1 << 24, dtype=np.uint8)}))


def outcomes_bomb(forged: Forgery) -> None:
    forged.put_outcomes(encode_arrays({"x": np.zeros(1 << 29, dtype=np.bool_)}))


def lying_archive(forged: Forgery) -> None:
    data = bytearray(encode_arrays({"x": np.zeros(9, dtype=np.uint8)}))
    # The table says less than is packed.
    place = data.rindex(b"PK\1\2") + 24
    data[place : place + 4] = struct.pack("<I", 5)
    put_evidence(forged, bytes(data))


def header_beyond_the_file(forged: Forgery) -> None:
    name = forged.entry()["file"]
    forged.files[name] = struct.pack("<Q", 1 << 60) + forged.files[name][8:]


def header_of_another_size(forged: Forgery) -> None:
    name = forged.entry()["file"]
    data = forged.files[name]
    forged.files[name] = struct.pack("<Q", int.from_bytes(data[:8], "little") + 64) + data[8:]


def tensor_beyond_the_file(forged: Forgery) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(64)
    forged.files[forged.entry()["file"]] = data


def endless_zeros(forged: Forgery) -> None:
    state = {"x": torch.zeros(1 << 20)}
    data = weights.encode(state).replace(b"1048576", b"9999999999")
    size = int.from_bytes(data[:8], "little") + 3
    forged.files[forged.entry()["file"]] = struct.pack("<Q", size) + data[8:]


def wordy_header(forged: Forgery) -> None:
    name = forged.entry()["file"]
    data = forged.files[name]
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].rstrip()[:-1] + b" " * 2 * SMALL_TEXT + b"}"
    forged.files[name] = struct.pack("<Q", len(header)) + header + data[8 + size :]


def wordy_record(forged: Forgery) -> None:
    record = forged.record()
    record["environment"] = {f"package{n}": "x" * 390 for n in range(800)}
    forged.put_record(record)


def wordy_comparison(forged: Forgery) -> None:
    forged.files["comparison.md"] += b" " * 2 * SMALL_TEXT


def wordy_submission(forged: Forgery) -> None:
    forged.said["method"]["authors"] = ["x" * 390] * 100
    for entry in forged.said["checkpoints"]:
        entry["authors"] = ["x" * 390] * 100
    for number in range(8):
        copy = {**forged.entry(), "seed": 10 + number}
        copy["id"] = copy["id"].replace("seed0", f"seed{10 + number}")
        copy["file"] = copy["file"].replace("seed0", f"seed{10 + number}")
        forged.said["checkpoints"].append(copy)
        forged.files[copy["file"]] = forged.files[forged.entry()["file"]]


def _spoken(place: str, value: str) -> Change:
    def change(forged: Forgery) -> None:
        part: Any = forged.said
        *path, last = place.split(".")
        for step in path:
            part = part[step]
        part[last] = [value] if last == "authors" else value
        if place in ("method.title", "method.authors"):
            name = "display_name" if last == "title" else last
            for entry in forged.said["checkpoints"]:
                entry[name] = part[last]

    change.__name__ = f"{place}: {value!r}"
    return change


def markup_in_a_record(forged: Forgery) -> None:
    record = forged.record()
    record["environment"]["device"] = "<img src=x onerror=alert(1)>"
    forged.put_record(record)


def script_as_an_address(forged: Forgery) -> None:
    for entry in forged.said["checkpoints"]:
        entry["code"] = "ftp://example.org/x"


def stolen_weights(forged: Forgery) -> None:
    forged.files[forged.entry()["file"]] = (
        (Path(__file__).parents[1] / "checkpoints" / "digits")
        .joinpath(
            "lwm-layerwise__digits__cnn-tiny__adversarial__unstructured-90__seed0.safetensors"
        )
        .read_bytes()
    )


def resurrected_weights(forged: Forgery) -> None:
    """As many zeros are claimed as a mask had; some of them are weights again."""
    name = forged.entry()["file"]
    state = weights.decode(forged.files[name])
    weight = next(n for n in sorted(state) if n.endswith("weight") and state[n].dim() == 4)
    state[weight] = torch.where(state[weight] == 0, 1e-7, state[weight])
    forged.files[name] = weights.encode(state)


def fewer_zeros_claimed(forged: Forgery) -> None:
    resurrected_weights(forged)
    data = forged.files[forged.entry()["file"]]
    zeros = sum(int((t == 0).sum()) for n, t in weights.decode(data).items() if "weight" in n)
    forged.entry()["zeros"] = zeros


def not_finite(forged: Forgery) -> None:
    name = forged.entry()["file"]
    state = weights.decode(forged.files[name])
    state[max(state)].view(-1)[0] = float("nan")
    forged.files[name] = weights.encode(state)


def another_architecture(forged: Forgery) -> None:
    name = forged.entry()["file"]
    state = weights.decode(forged.files[name])
    forged.files[name] = weights.encode({**state, "more": torch.ones(3)})


def other_weights_behind_the_record(forged: Forgery) -> None:
    """Another seed's weights with the record of better ones."""
    name = forged.entry()["file"]
    state = weights.decode(forged.files[name])
    bias = next(n for n in sorted(state) if n.endswith("bias"))
    forged.files[name] = weights.encode({**state, bias: state[bias] + 0.5})
    record = forged.record()
    record["checkpoint_sha256"] = sha256_of_bytes(forged.files[name])
    record["size"]["bytes_stored"] = len(forged.files[name])
    forged.put_record(record)


def record_of_other_weights(forged: Forgery) -> None:
    record = forged.record()
    record["checkpoint_sha256"] = "f" * 64
    forged.put_record(record)


def record_under_another_protocol(forged: Forgery) -> None:
    record = forged.record()
    record["protocol_digest"] = "f" * 64
    forged.put_record(record)


def record_moved_to_another_protocol(forged: Forgery) -> None:
    """Made under easier attacks, handed in for harder ones."""
    rows = forged.said["records"].pop(FAST.id)
    for listed in rows:
        old = listed["file"]
        listed["file"] = old.replace(FAST.id, "digits-linf")
        for suffix in (".json", ".npz"):
            data = forged.files.pop(old.replace(".json", suffix))
            forged.files[listed["file"].replace(".json", suffix)] = data
    forged.said["records"]["digits-linf"] = rows


def record_on_other_data(forged: Forgery) -> None:
    record = forged.record()
    record["data_digests"]["quick"] = "f" * 64
    forged.put_record(record)


def outcomes_on_other_examples(forged: Forgery) -> None:
    outcomes = outcomes_of(forged)
    outcomes["index"] = outcomes["index"][::-1].copy()
    forged.put_outcomes(encode_arrays(outcomes))


def outcomes_of(forged: Forgery) -> dict[str, Any]:
    name = forged.listed()["file"].replace(".json", ".npz")
    return read_arrays(forged.files[name])


def everything_survives(forged: Forgery) -> None:
    """Nobody broke anything, and the evidence is forgotten in the record alone."""
    outcomes = outcomes_of(forged)
    for name, values in outcomes.items():
        if ".broken_" in name:
            outcomes[name] = np.where(values >= 0, -1, values).astype(values.dtype)
    forged.put_outcomes(encode_arrays(outcomes))


def certified_and_broken(forged: Forgery) -> None:
    outcomes = outcomes_of(forged)
    broken = outcomes["autoattack.broken_by"] >= 0
    outcomes["bounds.margin@3/16"] = np.where(broken, 1, outcomes["bounds.margin@3/16"]).astype(
        np.float32
    )
    outcomes["bounds.method@3/16"] = np.where(broken, 0, outcomes["bounds.method@3/16"]).astype(
        outcomes["bounds.method@3/16"].dtype
    )
    forged.put_outcomes(encode_arrays(outcomes))


def certified_and_unbroken(forged: Forgery) -> None:
    """A certificate for whatever survived, although it was attacked."""
    outcomes = outcomes_of(forged)
    for name in [n for n in outcomes if n.startswith("bounds.margin@")]:
        correct = outcomes["clean.prediction"] == outcomes["label"]
        free = correct & (outcomes["autoattack.broken_by"] < 0) & (outcomes[name] < 0)
        outcomes[name] = np.where(free, 0.5, outcomes[name]).astype(np.float32)
    forged.put_outcomes(encode_arrays(outcomes))


def copied_evidence(forged: Forgery) -> None:
    """The evidence of another entry, and a record that names it."""
    other = forged.evidence(SPARSEST)[0]
    put_evidence(forged, forged.files[other], forged.record(SPARSEST)["evidence"][0]["inputs"])


def swapped_evidence(forged: Forgery) -> None:
    first, other = forged.evidence()[0], forged.evidence(SPARSEST)[0]
    forged.files[first] = forged.files[other]


def no_evidence(forged: Forgery) -> None:
    for name in forged.evidence():
        del forged.files[name]
    forged.put_record(forged.record() | {"evidence": []})


def missing_evidence(forged: Forgery) -> None:
    del forged.files[forged.evidence()[0]]


def left_over(forged: Forgery) -> None:
    forged.files["reports/site/index.html"] = b"<script>alert(1)</script>"


def missing_record(forged: Forgery) -> None:
    listed = forged.listed()
    forged.said["records"][FAST.id].remove(listed)
    for name in [listed["file"], listed["file"].replace(".json", ".npz"), *forged.evidence()]:
        del forged.files[name]


def placed(target: str) -> Change:
    def change(forged: Forgery) -> None:
        forged.files[target] = forged.files.pop(forged.entry()["file"])
        forged.entry()["file"] = target

    change.__name__ = f"weights as {target}"
    return change


def taken_name(forged: Forgery) -> None:
    forged.said["method"] |= {"name": "lwm-layerwise", "title": "Mine"}
    renamed(forged, "lwm-layerwise")


def reserved_name(forged: Forgery) -> None:
    forged.said["method"]["name"] = "shuffled-mine"
    renamed(forged, "shuffled-mine")


def renamed(forged: Forgery, method: str, ending: str = "") -> None:
    """Renames the checkpoints whose id ends so, with their files, as another method's."""

    def other(text: str) -> str:
        fits = text.startswith("mine/") and text.endswith(ending)
        return text.replace("mine/", f"{method}/", 1) if fits else text

    names = {entry["id"]: other(entry["id"]) for entry in forged.said["checkpoints"]}
    stems = {slug(old): slug(new) for old, new in names.items()}
    for entry in forged.said["checkpoints"]:
        if names[entry["id"]] != entry["id"]:
            entry |= {"id": names[entry["id"]], "method": method}
    rows = forged.said["records"][FAST.id]
    for listed in rows:
        listed["checkpoint_id"] = names[listed["checkpoint_id"]]
    for old, new in stems.items():
        forged.files = {n.replace(old, new): data for n, data in forged.files.items()}
        for listed in (*forged.said["checkpoints"], *rows):
            listed["file"] = listed["file"].replace(old, new)


def another_method_along(forged: Forgery) -> None:
    renamed(forged, "theirs", "unstructured-99/seed0")


def other_authors_in_an_entry(forged: Forgery) -> None:
    forged.entry()["authors"] = ["Somebody Else"]


def another_comparison(forged: Forgery) -> None:
    forged.files["comparison.md"] = forged.files["comparison.md"].replace(b"worse", b"better")


FORGERIES: list[tuple[Change, type[BenchmarkError], str]] = [
    (pickled_weights, ManifestError, "safetensors"),
    (zipped_pickle, ManifestError, "safetensors"),
    (pickled_outcomes, RecordError, "no array of numbers"),
    (pickled_evidence, RecordError, "no array of numbers"),
    (evidence_bomb, RecordError, "bytes unpacked, more than"),
    (outcomes_bomb, RecordError, "bytes unpacked, more than"),
    (lying_archive, RecordError, "than was packed|another header"),
    (header_beyond_the_file, ManifestError, "safetensors"),
    (header_of_another_size, ManifestError, "safetensors"),
    (tensor_beyond_the_file, ManifestError, "safetensors"),
    (endless_zeros, ManifestError, "safetensors.*no table of shapes"),
    (wordy_header, ManifestError, "a header smaller than the weights"),
    (wordy_record, RecordError, "as many as its weights have"),
    (wordy_comparison, RecordError, "bytes in comparison.md, as many"),
    (wordy_submission, RecordError, "bytes in submission.json, as many"),
    (_spoken("method.title", "<script>alert(1)</script>"), ManifestError, "markup"),
    (_spoken("method.title", "<!--"), ManifestError, "markup"),
    (_spoken("method.summary", "javascript:alert(1)"), ManifestError, "markup"),
    (_spoken("method.summary", "x\u200f\u202dy".replace("\u202d", "")), ManifestError, "reorder"),
    (_spoken("method.title", '=HYPERLINK("http://evil","x")'), ManifestError, "a formula"),
    (_spoken("method.authors", "@SUM(A1:A9)"), ManifestError, "a formula"),
    (_spoken("contact", "+cmd|' /C calc'!A0"), ManifestError, "a formula"),
    (_spoken("contact", "ada\u2066"), RecordError, "contact"),
    (_spoken("method.paper", "\x1b]0;owned\x07"), RecordError, "method.paper"),
    (markup_in_a_record, RecordError, "environment.device .*markup"),
    (script_as_an_address, ManifestError, "an https address or nothing in code"),
    (stolen_weights, ManifestError, "weights of its own in mine/.*, got those of lwm-layerwise/"),
    (resurrected_weights, ManifestError, "expected 8885 zeros of 9872"),
    (fewer_zeros_claimed, ManifestError, "zeros|units"),
    (not_finite, ManifestError, "finite weights"),
    (another_architecture, ManifestError, "'more' is left over"),
    (other_weights_behind_the_record, RecordError, "to hold, got: .*differs|an input that is none"),
    (record_of_other_weights, RecordError, "expected weights sha256"),
    (record_under_another_protocol, RecordError, "expected protocol digest"),
    (record_moved_to_another_protocol, RecordError, "expected protocol digits-linf"),
    (record_on_other_data, RecordError, "data_digests.quick differs"),
    (outcomes_on_other_examples, RecordError, "column index is not the protocol's"),
    (everything_survives, RecordError, "unbroken with evidence"),
    (certified_and_broken, InvariantViolation, "certified|proven"),
    (certified_and_unbroken, InvariantViolation, "certified yet not left out"),
    (copied_evidence, RecordError, "an input that is none|without evidence"),
    (swapped_evidence, RecordError, "expected evidence with sha256"),
    (no_evidence, RecordError, "expected evidence in the record"),
    (missing_evidence, RecordError, "npz missing"),
    (left_over, RecordError, "reports/site/index.html left over"),
    (missing_record, RecordError, "expected a record of mine/"),
    (placed("benchmark/errors.py"), RecordError, "move it there"),
    (placed("checkpoints_manifest.json"), RecordError, "move it there"),
    (taken_name, ManifestError, "kept for controls"),
    (reserved_name, ManifestError, "kept for controls"),
    (another_method_along, ManifestError, "checkpoints of mine and its controls"),
    (other_authors_in_an_entry, ManifestError, "expected authors of mine/.* as in method.authors"),
    (_spoken("method.title", "LWM, Layerwise"), ManifestError, "a title of its own"),
    (another_comparison, RecordError, "comparison.md as this board gives it"),
]


@pytest.mark.parametrize(
    ("change", "kind", "reason"), FORGERIES, ids=[change.__name__ for change, _, _ in FORGERIES]
)
def test_a_forgery_is_refused_with_the_reason(
    change: Change,
    kind: type[BenchmarkError],
    reason: str,
    honest: HandedIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    forged = forgery(honest.bundle)
    change(forged)
    try:
        source = forged.write(tmp_path / "forged")
    except RecordError as error:  # the format itself refuses
        found: list[BenchmarkError] = [error]
    else:
        scrutiny = replace(SCRUTINY, share=1.0)
        try:
            found = list(validate(honest.board, source, scrutiny).problems)
        except BenchmarkError as error:
            found = [error]
    assert found, "the forgery passed"
    assert all(str(one).isprintable() and str(tmp_path) not in str(one) for one in found)
    fitting = [one for one in found if isinstance(one, kind) and re.search(reason, str(one))]
    assert fitting, [f"{type(one).__name__}: {one}" for one in found]
    assert not (tmp_path / Armed.trace).exists()


def test_an_honest_bundle_passes_as_archive_and_as_folder(honest: HandedIn, tmp_path: Path) -> None:
    """Without this, the tests above would show nothing."""
    before = listing(honest.board.root)
    first = validate(honest.board, honest.bundle, SCRUTINY)
    second = validate(honest.board, forgery(honest.bundle).write(tmp_path / "same"), SCRUTINY)
    assert first.problems == () and first == second
    assert listing(honest.board.root) == before
    assert forgery(honest.bundle).packed(tmp_path / "again").read_bytes() == (
        honest.bundle.read_bytes()
    )


def test_no_refusal_leaves_a_trace_on_the_board(honest: HandedIn, tmp_path: Path) -> None:
    before = listing(honest.board.root)
    for number, change in enumerate((resurrected_weights, copied_evidence, left_over)):
        forged = forgery(honest.bundle)
        change(forged)
        with pytest.raises(BenchmarkError):
            accept(honest.board, forged.write(tmp_path / str(number)), SCRUTINY)
    after = listing(honest.board.root)
    after.pop(".cache/manifest.lock", None)
    assert after == {name: data for name, data in before.items() if "manifest.lock" not in name}


def test_a_file_altered_without_its_digest(honest: HandedIn, tmp_path: Path) -> None:
    folder = forgery(honest.bundle).write(tmp_path / "altered")
    path = folder / "comparison.md"
    path.write_bytes(path.read_bytes() + b" ")
    (one,) = refusals(honest.board, folder)
    assert "comparison.md has" in str(one) and "bytes, and is listed with" in str(one)


# --- Files that change ----------------------------------------------------------------------------


def test_a_checkpoint_that_changes_between_check_and_use(honest: HandedIn, tmp_path: Path) -> None:
    """What is entered is what was checked, whatever lies in the folder by then."""
    board = copy_of(honest.board, tmp_path / "board")
    folder = forgery(honest.bundle).write(tmp_path / "changing")
    entry = honest.author.manifest().find(MINE)

    def swap(done: int, total: int, text: str, left: float | None = None) -> None:
        if text != "files":
            (folder / entry.file).write_bytes(b"something else")

    accept(board, folder, SCRUTINY, swap)
    assert (folder / entry.file).read_bytes() == b"something else"
    assert sha256_of_bytes((board.root / entry.file).read_bytes()) == entry.sha256


def test_files_that_change_while_they_are_read(honest: HandedIn, tmp_path: Path) -> None:
    folder = forgery(honest.bundle).write(tmp_path / "changing")

    def alter(done: int, total: int, text: str, left: float | None = None) -> None:
        if text == "files" and done == 1:
            (folder / "comparison.md").write_bytes(b"other")

    (one,) = validate(honest.board, folder, SCRUTINY, alter).problems
    assert "comparison.md" in str(one)

    def link(done: int, total: int, text: str, left: float | None = None) -> None:
        if text == "files" and done == 1:
            (folder / "comparison.md").unlink()
            (folder / "comparison.md").symlink_to("/etc/passwd")

    folder = forgery(honest.bundle).write(tmp_path / "linking")
    with pytest.raises(RecordError, match=r"comparison.md.*do not change the folder meanwhile"):
        validate(honest.board, folder, SCRUTINY, link)


def test_the_private_copy_is_compared_once_more(
    honest: HandedIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    enter = receiving._enter

    def tampered(case: Any, found: Any) -> Any:
        (case.own.root / case.submission.checkpoints[0].file).write_bytes(b"x")
        return enter(case, found)

    monkeypatch.setattr(receiving, "_enter", tampered)
    with pytest.raises(StorageError, match="as it was checked, got other bytes"):
        accept(board, honest.bundle, SCRUTINY)
    assert len(board.manifest().checkpoints) == 3


def test_links_in_an_unpacked_folder(honest: HandedIn, tmp_path: Path) -> None:
    folder = forgery(honest.bundle).write(tmp_path / "linked")
    weights_file = folder / honest.author.manifest().find(MINE).file
    moved = tmp_path / "elsewhere.safetensors"
    weights_file.rename(moved)
    weights_file.symlink_to(moved)
    (one,) = refusals(honest.board, folder)
    assert "a link, 'checkpoints/digits/mine__" in str(one)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "evil\u202e.txt", "evil\n.txt"]
)
def test_archives_with_paths_outside(name: str, honest: HandedIn, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for known, content in unpacked(honest.bundle).items():
            archive.writestr(known, content)
        archive.writestr(name, b"evil")
    assert refusals(honest.board, path)
    assert not list(tmp_path.glob("**/evil*.txt")) and not Path("/tmp/evil.txt").exists()


def test_something_else_than_a_bundle(honest: HandedIn, tmp_path: Path) -> None:
    (one,) = refusals(honest.board, tmp_path / "nothing.zip")
    assert "found none; check the path" in str(one)
    (tmp_path / "page.zip").write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    (one,) = refusals(honest.board, tmp_path / "page.zip")
    assert "without an archive's end" in str(one)
    (tmp_path / "empty").mkdir()
    (one,) = refusals(honest.board, tmp_path / "empty")
    assert "expected submission.json in the bundle, found none" in str(one)
    (tmp_path / "empty" / "submission.json").write_text("{" * 100_000)
    (one,) = refusals(honest.board, tmp_path / "empty")
    assert "expected a valid submission in submission.json" in str(one)


# --- Several who want one id ----------------------------------------------------------------------


def test_an_id_with_other_weights_is_refused(honest: HandedIn, tmp_path: Path) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    entered(board, MINE, SOURCES[SPARSEST].replace("99", "95"), sparsity=0.9, zeros=8885)
    found = " ".join(map(str, refusals(board, honest.bundle)))
    assert f"expected a new id, got {MINE}, which the board has with other weights" in found


def test_an_entry_with_other_words_is_refused(honest: HandedIn, tmp_path: Path) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    entered(board, MINE, SOURCES[MINE], licence="none")
    found = " ".join(map(str, refusals(board, honest.bundle)))
    assert f"expected the entry of {MINE} as the board has it, got another licence" in found


def test_a_name_that_others_have_is_refused(honest: HandedIn, tmp_path: Path) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    other = MINE.replace("seed0", "seed7")
    entered(board, other, SOURCES[SPARSEST].replace("99", "95"), authors=("Eve",), seed=7,
            sparsity=0.9, zeros=8885)  # fmt: skip
    found = " ".join(map(str, refusals(board, honest.bundle)))
    assert "expected a new method's name, got mine, which belongs to Eve" in found


def _race(root: str, bundle: str, start: Any, answers: Any) -> None:
    board = Project(Path(root), device="cpu", workers=Workers(1))
    start.wait()
    try:
        done = accept(board, Path(bundle), SCRUTINY)
        answers.put(("in", len(done.entered)))
    except BenchmarkError as error:
        answers.put(("out", str(error)))


def test_two_submissions_race_for_one_id(honest: HandedIn, tmp_path: Path) -> None:
    """Both hold by themselves; exactly one is entered, whole, and the other gets a reason."""
    board = copy_of(honest.board, tmp_path / "board")
    rival = copy_of(honest.author, tmp_path / "rival")
    # The same id and claims with other weights: zeros stay, one bias moves.
    entry = rival.manifest().find(MINE)
    state = weights.decode((rival.root / entry.file).read_bytes())
    bias = next(n for n in sorted(state) if n.endswith("bias"))
    data = weights.encode({**state, bias: state[bias] + 1e-3})
    (rival.root / entry.file).write_bytes(data)
    entry = entry.model_copy(update={"bytes": len(data), "sha256": sha256_of_bytes(data)})
    write_manifest(rival.manifest_path, rival.manifest().with_entry(entry))
    (tmp_path / "entry").mkdir()
    draft = DRAFT.replace('"mine/digits/*"', f'"{MINE}"').replace("my-entry", "rival")
    (tmp_path / "entry" / "submission.toml").write_text(draft)
    second = submit(rival, tmp_path / "entry", SCRUTINY).bundle

    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(2), context.SimpleQueue()
    racers = [
        context.Process(target=_race, args=(str(board.root), str(path), start, answers))
        for path in (honest.bundle, second)
    ]
    for racer in racers:
        racer.start()
    found = sorted([answers.get(), answers.get()])
    for racer in racers:
        racer.join()
    assert [word for word, _ in found] == ["in", "out"]
    assert f"expected a new id, got {MINE}" in found[1][1]
    manifest = board.manifest()
    assert manifest.find(DENSE) and manifest.find(SPARSE)
    winner = manifest.find(MINE)
    assert sha256_of_bytes((board.root / winner.file).read_bytes()) == winner.sha256
    rows = records.load_all(board.results, manifest)
    assert {row.record.checkpoint_sha256 for row in rows if row.checkpoint.id == MINE} == {
        winner.sha256
    }


def test_nothing_of_the_kit_is_lost(honest: HandedIn) -> None:
    """The forger's tools change what they are told to, and nothing else."""
    forged = forgery(honest.bundle)
    before = dict(forged.files)
    forged.put_record(forged.record())
    name = forged.listed()["file"].replace(".json", ".npz")
    forged.put_outcomes(forged.files[name])
    assert forged.files == before
    assert decode(forged.files[name], forged.record()["outcomes_sha256"]).columns
