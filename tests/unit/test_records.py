"""Records: bound to checkpoint, protocol and outcomes; the frame counts, and never stores twice."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from small_outcomes import (
    EXAMPLES,
    FIVE_PROTOCOL,
    LARGE,
    MAIN,
    SMALL,
    SMALL_PROTOCOL,
    blank,
    consistent,
    five,
)
from small_project import claims, entry, network
from test_manifest import without_words

from benchmark import records
from benchmark.attacks import Steps
from benchmark.challenges import Challenge, challenge_of, write
from benchmark.digests import sha256_of_bytes
from benchmark.errors import InvariantViolation, RecordError, StorageError
from benchmark.evaluations import AutoAttack, Clean, Transfer
from benchmark.manifest import Checkpoint, Manifest
from benchmark.outcomes import Outcomes, metrics
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import measure
from benchmark.records import ResultRecord, Row

GOLDEN = Path(__file__).parents[1] / "golden"

# What `docs/records.md` promises; leaderboard and report read nothing else.
COLUMNS = {
    *("checkpoint_id", "method", "display_name", "dataset", "architecture", "objective"),
    *("structure", "sparsity", "seed", "sha256", "authors", "paper", "code", "licence"),
    *("extra_data", "recipe", "recipe_digest", "budget"),
    *("protocol", "protocol_version", "protocol_digest", "data_digest", "tier", "examples"),
    *("threat", "status", "reason"),
    *("clean_accuracy", "pgd_accuracy", "autoattack_accuracy", "robust_accuracy"),
    *("attack_accuracies", "era", "vra_bounds", "vra_smoothing"),
    *("aer_robustness", "aer_low", "aer_high", "aer_epsilon"),
    *("best_known_accuracy", "challenges", "unrankable", "evidence"),
    *("certified_accuracy", "smoothed_accuracy", "smoothed_radius", "smoothed_sigma"),
    *("smoothed_examples", "measured_sparsity", "sparsity_weights", "sparsity_parameters"),
    *("density", "compression_ratio", "multiply_adds_dense", "multiply_adds_sparse"),
    *("bytes_stored", "bytes_dense", "seconds", "layers", "attacks", "curve", "pipeline"),
    "evidence_level",
    *("compact_parameters", "compact_multiply_adds", "latency", "latency_processor"),
    *("latency_dense", "latency_dense_low", "latency_dense_high"),
    *("latency_masked", "latency_masked_low", "latency_masked_high"),
    *("latency_compact", "latency_compact_low", "latency_compact_high"),
    *("certified_curve", "flags", "cost", "environment", "outcomes"),
}


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 1200
    assert message.startswith("expected ") and ("got " in message or "found " in message)
    return message


@pytest.fixture(autouse=True)
def _known_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, SMALL_PROTOCOL.id, SMALL_PROTOCOL)


CHECKPOINT = entry(bytes=900)
FOUND = measure(network(), (1, 8, 8))
SIZE = {
    "layers": [asdict(layer) for layer in FOUND.layers],
    "weight_zeros": FOUND.weight_zeros,
    "weight_total": FOUND.weight_total,
    "parameter_zeros": FOUND.parameter_zeros,
    "parameter_total": FOUND.parameter_total,
    "bytes_stored": CHECKPOINT.bytes,
    "bytes_dense": 40_000,
}
COMPACT = {"parameters": 5_000, "multiply_adds": 60_000}


def latency(median: float, batch: int = 1) -> dict[str, Any]:
    return {
        "batch": batch,
        "rounds": 9,
        "lower": 0.875 * median,
        "median": median,
        "upper": 1.25 * median,
    }


LATENCY = {
    "processor": "a processor",
    "dense": [latency(0.5), latency(8.0, 64)],
    "masked": [latency(0.25), latency(4.0, 64)],
    "compact": [latency(0.125)],
}


def record_of(outcomes: Outcomes, **changes: Any) -> ResultRecord:
    """Returns a record of some outcomes that keeps every promise, then changed and signed."""
    attacks = {"attacked": 0, "proven": 0, "forwards_saved": 0}
    fields = {
        "schema_version": records.SCHEMA_VERSION,
        "status": "done",
        "reason": "",
        "evidence": [],
        "parent_sha256": "",
        "training_digest": "",
        "compact": COMPACT,
        "latency": LATENCY,
        "content_digest": "",
        "seals": {},
        "checkpoint_id": CHECKPOINT.id,
        "checkpoint_sha256": CHECKPOINT.sha256,
        "protocol": SMALL_PROTOCOL.id,
        "protocol_version": SMALL_PROTOCOL.version,
        "protocol_digest": SMALL_PROTOCOL.digest,
        "tier": "full",
        "examples": len(outcomes),
        "data_digests": dict.fromkeys(("quick", "standard", "full"), "2" * 64),
        "size": SIZE,
        "cost": {
            "clean": {"seconds": 0.25, "forwards": 80, "backwards": 40, **attacks},
            "pgd": {"seconds": 1.5, "forwards": 900, "backwards": 800, **attacks},
        },
        "flags": [{"name": "randomised-output", "rate": 0.5, "detail": "two passes differ"}],
        "environment": {"torch": "2.14", "device": "cpu"},
        "outcomes_sha256": sha256_of_bytes(outcomes.encode()),
    }
    record = ResultRecord.model_validate_json(json.dumps({**fields, **changes}))
    return records.sealed(record)


def stored(folder: Path, outcomes: Outcomes | None = None, **changes: Any) -> Path:
    outcomes = outcomes or consistent(0)
    return records.write(folder, record_of(outcomes, **changes), outcomes)


def load(folder: Path, *entries: Checkpoint) -> list[Row]:
    manifest = Manifest(checkpoints=entries or (CHECKPOINT,))
    return records.load_all(folder, manifest, folder / "challenges")


def test_schema_is_frozen() -> None:
    """A change here needs a new schema version and a reader for the old one."""
    golden = json.loads((GOLDEN / "record.schema.json").read_text())
    assert without_words(ResultRecord.model_json_schema()) == golden


def test_round_trip(tmp_path: Path) -> None:
    outcomes = consistent(0)
    path = stored(tmp_path, outcomes)
    assert path == records.record_path(tmp_path, "small-linf", CHECKPOINT.id)
    assert path.parent == tmp_path / "small-linf"
    record, found = records.read(path)
    assert record == record_of(outcomes)
    assert found.columns.keys() == outcomes.columns.keys()
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".npz"]
    first = path.read_bytes(), path.with_suffix(".npz").read_bytes()
    stored(tmp_path, outcomes)
    assert (path.read_bytes(), path.with_suffix(".npz").read_bytes()) == first


def test_records_hold_no_accuracy(tmp_path: Path) -> None:
    assert "accuracy" not in stored(tmp_path).read_text()


def test_content_digest_ignores_time_and_machine_only() -> None:
    outcomes = consistent(0)
    first = record_of(outcomes)
    cost = {name: {**c.model_dump(), "seconds": 9.0} for name, c in first.cost.items()}
    assert record_of(outcomes, cost=cost).content_digest == first.content_digest
    assert record_of(outcomes, environment={}).content_digest == first.content_digest
    for other in (None, {**LATENCY, "processor": "another", "dense": [], "compact": []}):
        assert record_of(outcomes, latency=other).content_digest == first.content_digest
    cost["pgd"]["forwards"] += 1
    for change in (
        {"cost": cost},
        {"data_digests": dict.fromkeys(("quick", "standard", "full"), "3" * 64)},
        {"flags": []},
        {"outcomes_sha256": "3" * 64},
        {"tier": "quick"},
        {"size": {**SIZE, "weight_zeros": 1}},
        {"compact": None},
        {"compact": {**COMPACT, "parameters": 1}},
    ):
        assert record_of(outcomes, **change).content_digest != first.content_digest


ids = some.lists(some.text("ab_:-.", min_size=1, max_size=4), min_size=2, max_size=3)


@given(one=ids, other=ids)
def test_different_ids_never_share_a_file(one: list[str], other: list[str]) -> None:
    first, second = "/".join(one), "/".join(other)
    assert (records.slug(first) == records.slug(second)) == (first == second)
    assert "/" not in records.slug(first)


def test_ids_that_a_plain_replacement_would_merge() -> None:
    names = ("a__b/c", "a/b__c", "a/b/c", "folder:x", "folder_x", "a_/b", "a/_b", "a:b", "a_cb")
    assert len({records.slug(name) for name in names}) == len(names)


def damaged(path: Path) -> str:
    with pytest.raises(RecordError) as raised:
        records.read(path)
    message = one_line(raised.value)
    assert any(
        step in message for step in ("evaluate again", "restore", "check the path", "update")
    )
    return message


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2", 1)),
        lambda path: path.write_bytes(b"\x80\x04K\x01."),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: os.truncate(path, 1 << 40),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, suffix: str, damage: Callable[[Path], object]
) -> None:
    path = stored(tmp_path)
    damage(path.with_suffix(suffix))
    damaged(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"examples": 40', '"examples": 41', "sealed in examples;"),
        ('"zeros": ', '"zeros": 1', "sealed in size;"),
        ('"rate": 0.5', '"rate": 0.0', "sealed in flags;"),
        ('"seconds": 0.25', '"seconds": 0.5', "sealed in cost;"),
        ('"torch": "2.14"', '"torch": "2.13"', "sealed in environment;"),
        ('"median": 0.125', '"median": 0.1171875', "sealed in latency;"),
        ('"median": 0.125', '"median": 0.0625', "latency.compact.0: expected lower <= median"),
        ('"lower": 0.4375', '"lower": 0.0', "latency.dense.0.lower"),
        ('"lower": 0.4375', '"lower": "fast"', "latency.dense.0.lower"),
        ('"batch": 64', '"batch": 0', "latency.dense.1.batch"),
        ('"dense": [', '"sparse": [', "latency"),
        ('"rate": 0.5', '"rate": 1.5', "flags.0.rate"),
        ('"rate": 0.5', '"rate": NaN', "as JSON"),
        ('"examples": 40', '"examples": "40"', "examples"),
        ('"status": "done"', '"status": "great"', "status"),
        ('"weight_total": 9872', '"weight_total": 0', "size.weight_total"),
        ('"forwards": 80', '"forwards": -80', "cost.clean.forwards"),
        ('"tier": "full"', '"tier": "full", "extra": 1', "extra"),
        ('"tier": "full"', '"tier": "a\\u001b[2Jb"', "tier"),
        ('"torch": "2.14"', '"torch\\n": "2.14"', "environment"),
        ('"schema_version": 3', '"schema_version": 4', "schema_version"),
    ],
)
def test_altered_records_are_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = stored(tmp_path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert message in damaged(path)


def test_altered_and_signed_again_is_caught_by_the_outcomes(tmp_path: Path) -> None:
    outcomes = consistent(0)
    path = stored(tmp_path, outcomes, examples=41)
    assert "expected 41 outcomes" in damaged(path)
    records.write(tmp_path, record_of(outcomes), consistent(1))
    assert "sha256" in damaged(path)


def test_a_kill_between_the_two_files_is_noticed(tmp_path: Path) -> None:
    """The outcomes are new, the record is old: refused, so the next run writes both."""
    path = stored(tmp_path, consistent(0))
    path.with_suffix(".npz").write_bytes(consistent(1).encode())
    assert "sha256" in damaged(path)
    stored(tmp_path, consistent(1))
    records.read(path)


def test_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, consistent(0))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        stored(tmp_path, consistent(1))
    monkeypatch.undo()
    record, _ = records.read(path)
    assert record == record_of(consistent(0))
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkpoint_sha256": "9" * 64}, "weights sha256 1111"),
        ({"protocol_digest": "9" * 64}, "protocol digest"),
        ({"protocol_version": 2}, "protocol version 3, got 2"),
        ({"tier": "standard"}, "examples of its tier 20, got 40"),
        ({"tier": "huge"}, "examples of its tier None, got 40"),
        ({"size": {**SIZE, "layers": SIZE["layers"][:2]}}, "zeros 8885, got"),
        ({"size": {**SIZE, "bytes_stored": 1}}, "bytes of weights 900, got 1"),
    ],
)
def test_stale_records_are_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    outcomes = consistent(0)
    assert records.stale(record_of(outcomes), CHECKPOINT, SMALL_PROTOCOL) == ""
    assert reason in records.stale(record_of(outcomes, **changes), CHECKPOINT, SMALL_PROTOCOL)
    stored(tmp_path, outcomes, **changes)
    with pytest.raises(RecordError) as raised:
        load(tmp_path)
    message = one_line(raised.value)
    assert reason in message and "robustprune run" in message and str(tmp_path) in message


def test_records_of_other_things_are_stale() -> None:
    record = record_of(consistent(0))
    assert "checkpoint" in records.stale(record, entry(seed=1), SMALL_PROTOCOL)
    other = replace(SMALL_PROTOCOL, id="other-linf")
    assert "expected protocol other-linf" in records.stale(record, CHECKPOINT, other)
    changed = replace(SMALL_PROTOCOL, seed=1)
    assert "protocol digest" in records.stale(record, CHECKPOINT, changed)


def test_unknown_protocol_and_checkpoint_are_refused(tmp_path: Path) -> None:
    stored(tmp_path / "a", protocol="p" * 200)
    with pytest.raises(RecordError, match="expected a known protocol") as raised:
        records.load_all(tmp_path / "a", Manifest(checkpoints=(CHECKPOINT,)))
    one_line(raised.value)
    stored(tmp_path / "b")
    with pytest.raises(RecordError, match="in the manifest"):
        load(tmp_path / "b", entry(seed=1))


def test_a_copy_of_a_record_is_no_second_row(tmp_path: Path) -> None:
    path = stored(tmp_path)
    for suffix in (".json", ".npz"):
        copy = path.with_name(f"copy{suffix}")
        copy.write_bytes(path.with_suffix(suffix).read_bytes())
    with pytest.raises(RecordError, match="under its own name") as raised:
        load(tmp_path)
    one_line(raised.value)


def test_contradicting_outcomes_stop_loading(tmp_path: Path) -> None:
    columns = blank()
    columns[f"bounds.margin@{MAIN}"][0] = 1
    columns["autoattack.broken_by"][0] = 0
    stored(tmp_path, Outcomes(columns))
    with pytest.raises(InvariantViolation, match="yet broken"):
        load(tmp_path)


def test_no_records_no_rows(tmp_path: Path) -> None:
    assert load(tmp_path) == [] and load(tmp_path / "none") == []
    assert len(records.frame([])) == 0


def test_rows_come_in_order(tmp_path: Path) -> None:
    entries = [entry(seed=seed, bytes=900) for seed in (2, 0, 1)]
    for made in entries:
        stored(tmp_path, checkpoint_id=made.id)
    assert [row.checkpoint.seed for row in load(tmp_path, *entries)] == [0, 1, 2]


def frame_of(tmp_path: Path, outcomes: Outcomes, **changes: Any) -> Any:
    stored(tmp_path, outcomes, **changes)
    return records.frame(load(tmp_path))


def test_frame_has_exactly_the_promised_columns(tmp_path: Path) -> None:
    assert set(frame_of(tmp_path, consistent(0)).columns) == COLUMNS


def test_latencies_and_the_compact_size_are_in_the_frame(tmp_path: Path) -> None:
    line = frame_of(tmp_path, consistent(0)).iloc[0].to_dict()
    assert (line["compact_parameters"], line["compact_multiply_adds"]) == (5_000, 60_000)
    assert line["latency_processor"] == "a processor"
    for name, median in (("dense", 0.5), ("masked", 0.25), ("compact", 0.125)):
        low, high = line[f"latency_{name}_low"], line[f"latency_{name}_high"]
        assert (low, line[f"latency_{name}"], high) == (0.875 * median, median, 1.25 * median)
    found = [(one["network"], one["batch"], one["median"]) for one in line["latency"]]
    assert found == [
        *(("dense", 1, 0.5), ("dense", 64, 8.0)),
        *(("masked", 1, 0.25), ("masked", 64, 4.0), ("compact", 1, 0.125)),
    ]


@pytest.mark.parametrize("latency", [None, {**LATENCY, "dense": [], "compact": []}])
def test_what_was_not_measured_is_missing_in_the_frame(tmp_path: Path, latency: Any) -> None:
    line = frame_of(tmp_path, consistent(0), latency=latency, compact=None).iloc[0].to_dict()
    for name in ("compact_parameters", "compact_multiply_adds", "latency_dense_low"):
        assert np.isnan(line[name])
    assert np.isnan(line["latency_masked"]) == (latency is None)
    assert len(line["latency"]) == (2 if latency else 0)


@pytest.mark.parametrize("seed", range(5))
def test_each_tier_equals_a_recomputation_on_its_prefix(tmp_path: Path, seed: int) -> None:
    outcomes = consistent(seed)
    frame = frame_of(tmp_path, outcomes)
    assert frame["tier"].tolist() == ["quick", "standard", "full"]
    assert frame["examples"].tolist() == [10, 20, EXAMPLES]
    for _, line in frame.iterrows():
        prefix = Outcomes({n: v[: line["examples"]] for n, v in outcomes.columns.items()})
        found = metrics(prefix, SMALL_PROTOCOL)
        for name in ("clean", "pgd", "autoattack", "robust", "certified", "smoothed"):
            assert line[f"{name}_accuracy"] == getattr(found, name)
        by_example = line["outcomes"]
        smoothed = by_example["smoothed"]
        assert len(smoothed) == line["smoothed_examples"] == min(line["examples"], 15)
        assert all(len(v) == line["examples"] for n, v in by_example.items() if n != "smoothed")
        for name in ("clean", "pgd", "autoattack", "robust", "best_known", "certified", "smoothed"):
            assert by_example[name].dtype == np.bool_
            assert by_example[name].mean() == line[f"{name}_accuracy"]
        assert by_example["index"].tolist() == prefix.columns["index"].tolist()
        assert line["best_known_accuracy"] == line["robust_accuracy"]


@pytest.mark.parametrize("seed", range(5))
def test_the_names_of_papers_are_names_of_columns(tmp_path: Path, seed: int) -> None:
    frame = frame_of(tmp_path, consistent(seed))
    for name, column in {
        "era": "pgd_accuracy",
        "vra_bounds": "certified_accuracy",
        "vra_smoothing": "smoothed_accuracy",
    }.items():
        assert frame[name].tolist() == frame[column].tolist()
    # Proven, left by all attacks, left by PGD alone: in this order, whatever the network.
    assert (frame["vra_bounds"] <= frame["robust_accuracy"]).all()
    assert (frame["robust_accuracy"] <= frame["era"]).all()


@pytest.mark.parametrize("seed", range(5))
def test_robustness_in_aer_is_the_area_under_the_curve_column(tmp_path: Path, seed: int) -> None:
    for _, line in frame_of(tmp_path, consistent(seed)).iterrows():
        values = [point["value"] for point in line["curve"]]
        accuracies = [point["robust_accuracy"] for point in line["curve"]]
        area = np.trapezoid(accuracies, values) / values[-1]
        assert line["aer_robustness"] == pytest.approx(area, rel=1e-12)
        assert line["aer_epsilon"] == line["curve"][-1]["epsilon"]
        assert line["aer_low"] <= line["aer_robustness"] <= line["aer_high"]


def test_the_five_are_in_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, FIVE_PROTOCOL.id, FIVE_PROTOCOL)
    columns = five()
    columns["fgsm.broken_by"][0] = 0
    columns[f"pgd-6.broken_step@{MAIN}"][:4] = 2
    columns[f"pgd-4.broken_step@{MAIN}"][4] = 0
    changes = {"protocol": FIVE_PROTOCOL.id, "protocol_digest": FIVE_PROTOCOL.digest}
    line = frame_of(tmp_path, Outcomes(columns), **changes).iloc[2].to_dict()
    broken = {"fgsm": 1, "pgd-3": 0, "pgd-6": 4, "pgd-4": 1, "cw": 0, "autoattack": 0}
    assert line["attack_accuracies"] == {name: (40 - n) / 40 for name, n in broken.items()}
    assert line["era"] == line["pgd_accuracy"] == 36 / 40
    assert line["robust_accuracy"] == 35 / 40
    assert np.isnan(line["vra_smoothing"]) and np.isnan(line["aer_robustness"])
    found = {(a["evaluation"], a["name"], a["broken"]) for a in line["attacks"]}
    assert {("fgsm", "fgsm", 1), ("pgd-6", "pgd-6", 4), ("cw", "cw", 0)} <= found


def test_a_small_record_yields_its_tiers_only(tmp_path: Path) -> None:
    digests = dict.fromkeys(("quick", "standard"), "2" * 64)
    frame = frame_of(tmp_path, consistent(0, 20), tier="standard", data_digests=digests)
    assert frame["tier"].tolist() == ["quick", "standard"]


def test_line_by_hand(tmp_path: Path) -> None:
    columns = blank()
    columns["clean.prediction"][0] += 1
    for name in columns:
        if ".broken_" in name:
            columns[name][0] = -2
    columns["autoattack.broken_by"][1:8] = [0, 0, 0, 1, 1, 3, 3]
    columns[f"pgd.broken_step@{MAIN}"][1:3] = 4
    columns[f"curve.broken_step@{SMALL}"][8] = 1
    columns[f"curve.broken_step@{LARGE}"][1:21] = 0
    columns[f"bounds.margin@{SMALL}"][30:40] = 1
    columns[f"bounds.method@{SMALL}"][35:40] = 1
    columns[f"bounds.margin@{MAIN}"][38:40] = 1
    line = frame_of(tmp_path, Outcomes(columns)).iloc[2].to_dict()
    attacks = [(a["name"], a["evaluation"], a["attempted"], a["broken"]) for a in line["attacks"]]
    assert attacks == [
        ("pgd", "pgd", 39, 2),
        ("curve", "curve", 39, 1),
        ("curve", "curve", 39, 20),
        ("apgd-ce", "autoattack", 39, 3),
        ("apgd-t", "autoattack", 36, 2),
        ("fab-t", "autoattack", 34, 0),
        ("square", "autoattack", 34, 2),
    ]
    curve = [(p["epsilon"], p["value"], p["robust_accuracy"]) for p in line["curve"]]
    assert curve == [
        ("0", 0.0, 39 / 40),
        ("1/20", 0.05, 38 / 40),
        ("1/10", 0.1, 31 / 40),
        ("1/5", 0.2, 19 / 40),
    ]
    proven = [
        (p["epsilon"], p["certified_accuracy"], p["methods"]) for p in line["certified_curve"]
    ]
    assert proven == [
        ("1/20", 10 / 40, {"ibp": 5, "crown": 5}),
        ("1/10", 2 / 40, {"ibp": 2, "crown": 0}),
        ("1/5", 0.0, {"ibp": 0, "crown": 0}),
    ]
    assert line["attack_accuracies"] == {"pgd": 37 / 40, "autoattack": 32 / 40}
    assert line["robust_accuracy"] == 31 / 40 and line["certified_accuracy"] == 2 / 40
    # Clean, at 1/20, at 1/10 and at 1/5 39, 38, 31 and 19 are right: by trapezoids of width 1, 1
    # and 2 twentieths.
    assert line["aer_epsilon"] == "1/5"
    area = ((39 + 38) / 2 + (38 + 31) / 2 + 2 * (31 + 19) / 2) / 4 / 40
    assert line["aer_robustness"] == pytest.approx(area, rel=1e-12)
    assert line["aer_low"] < area < line["aer_high"]
    assert line["pgd_accuracy"] == 37 / 40 and line["autoattack_accuracy"] == 32 / 40
    assert line["smoothed_radius"] == 0.5 and line["smoothed_sigma"] == 0.25
    assert line["smoothed_examples"] == 15
    assert line["seconds"] == 1.75 and line["cost"]["pgd"]["forwards"] == 900
    assert line["threat"] == "Linf 1/10" and line["protocol_version"] == 3
    assert line["authors"] == ["Ada Müller", "Bo Li"]
    assert line["budget"]["epochs"] == 3 and line["budget"]["device"] == "cpu"


def test_sizes_by_hand(tmp_path: Path) -> None:
    line = frame_of(tmp_path, consistent(0)).iloc[0].to_dict()
    assert (claims(network())["zeros"], claims(network())["prunable"]) == (8885, 9872)
    assert line["measured_sparsity"] == 8885 / 9872 and line["density"] == 987 / 9872
    assert line["compression_ratio"] == pytest.approx(9872 / 987, rel=1e-15)
    assert line["sparsity_weights"] == 8885 / 9872
    # Zero biases: 16 + 32 + 10 of them.
    assert line["sparsity_parameters"] == (8885 + 58) / (9872 + 58)
    # 8x8, then 4x4 positions, then one.
    assert line["multiply_adds_dense"] == 64 * 144 + 16 * 4608 + 5120
    assert [layer["zeros"] for layer in line["layers"]] == [130, 4147, 4608]
    assert line["multiply_adds_sparse"] == 64 * 14 + 16 * 461 + 512
    assert line["layers"][0] == {
        "name": "body.0.weight",
        "shape": [16, 1, 3, 3],
        "zeros": 130,
        "total": 144,
        "multiply_adds": 64 * 14,
    }
    assert (line["bytes_stored"], line["bytes_dense"]) == (900, 40_000)


def test_an_empty_network_compresses_without_bound(tmp_path: Path) -> None:
    gone = entry(sparsity=1.0, zeros=9872, bytes=900)
    layers = [{**layer, "zeros": layer["total"]} for layer in SIZE["layers"]]
    stored(tmp_path, checkpoint_id=gone.id, size={**SIZE, "layers": layers})
    line = records.frame(load(tmp_path, gone)).iloc[0]
    assert line["density"] == 0 and line["compression_ratio"] == float("inf")


def test_flags_of_outcomes_carry_the_tiers_own_rate(tmp_path: Path) -> None:
    """What outcomes decide carries their rate; what an attack warned of is passed on."""
    columns = blank()
    columns["clean.zero_gradient"][[0, 39]] = True
    flags = [
        {"name": "zero-gradients", "rate": 1.0, "detail": "a shard"},
        {"name": "zero-gradients-in-attack", "rate": 0.5, "detail": "apgd-t: 20 points"},
        {"name": "softmax-output", "rate": 0.25, "detail": "outputs are probabilities"},
    ]
    frame = frame_of(tmp_path, Outcomes(columns), flags=flags)
    found = [[(f["name"], f["rate"]) for f in line] for line in frame["flags"]]
    passed_on = [("softmax-output", 0.25), ("zero-gradients-in-attack", 0.5)]
    assert sorted(found[0]) == sorted([*passed_on, ("zero-gradients", 0.1)])
    assert sorted(found[2]) == sorted([*passed_on, ("zero-gradients", 0.05)])


def test_protocols_without_some_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(SMALL_PROTOCOL, evaluations=(("clean", Clean()), ("autoattack", AutoAttack())))
    monkeypatch.setitem(PROTOCOLS, bare.id, bare)
    columns = consistent(0).columns
    kept = ("index", "label", "clean.", "autoattack.")
    outcomes = Outcomes({name: v for name, v in columns.items() if name.startswith(kept)})
    line = frame_of(tmp_path, outcomes, protocol_digest=bare.digest).iloc[0].to_dict()
    assert np.isnan(line["pgd_accuracy"]) and np.isnan(line["certified_accuracy"])
    assert np.isnan(line["smoothed_accuracy"]) and np.isnan(line["smoothed_sigma"])
    assert line["certified_curve"] == []
    # A single epsilon makes no curve.
    assert np.isnan([line[f"aer_{name}"] for name in ("robustness", "low", "high")]).all()
    assert line["aer_epsilon"] == ""
    assert set(line["outcomes"]) == {"index", "clean", "robust", "best_known", "autoattack"}


# --- Challenges and evidence ----------------------------------------------------------------------


def challenged(folder: Path, *positions: int, **changes: Any) -> Challenge:
    """Stores a challenge to some examples, by position in the list."""
    said = {
        "checkpoint_id": CHECKPOINT.id,
        "checkpoint_sha256": CHECKPOINT.sha256,
        "protocol": SMALL_PROTOCOL.id,
        "protocol_digest": SMALL_PROTOCOL.digest,
        "norm": "Linf",
        "epsilon": str(MAIN),
        "credit": "Ada",
        "attack": "PGD",
        "date": "2026-02-28",
    }
    index = np.array(sorted(100 + p for p in positions), dtype=np.int64)
    draw = np.random.default_rng(len(str(changes)) + index.sum())
    arrays = {"index": index, "inputs": draw.random((len(index), 1, 4, 4)).astype(np.float32)}
    made = challenge_of(arrays, **{**said, **changes})
    write(folder / "challenges", made, arrays)
    return made


def test_challenges_lower_best_known_alone_and_by_tier(tmp_path: Path) -> None:
    columns = blank()
    columns["autoattack.broken_by"][3] = 0
    before = frame_of(tmp_path, Outcomes(columns))
    challenged(tmp_path, 3, 5, 12)
    challenged(tmp_path, 5, 30, credit="Bo", date="2026-03-01")
    after = records.frame(load(tmp_path))
    aer = {"aer_robustness", "aer_low", "aer_high"}
    unchanged = sorted(COLUMNS - {"best_known_accuracy", "challenges", "outcomes"} - aer)
    # What is broken within 1/10 counts from there on: half of what lies between 1/20 and 1/10, and
    # all of what lies behind. One of ten was broken before.
    assert before["aer_robustness"][0] == pytest.approx((10 + (10 + 9) / 2 + 2 * 9) / 4 / 10)
    assert after["aer_robustness"][0] == pytest.approx((10 + (10 + 8) / 2 + 2 * 8) / 4 / 10)
    assert after[unchanged].to_dict() == before[unchanged].to_dict()
    assert before["best_known_accuracy"].tolist() == before["robust_accuracy"].tolist()
    assert after["robust_accuracy"].tolist() == [9 / 10, 19 / 20, 39 / 40]
    assert after["best_known_accuracy"].tolist() == [8 / 10, 17 / 20, 36 / 40]
    broken = [[(c["credit"], c["broken"]) for c in line] for line in after["challenges"]]
    # Whoever came first gets the credit, and none is due for what the record had broken.
    assert broken == [[("Ada", 1)], [("Ada", 2)], [("Ada", 2), ("Bo", 1)]]
    assert set(after["challenges"][2][0]) == {"credit", "attack", "broken", "date", "url"}
    known = after["outcomes"][2]["best_known"]
    assert np.flatnonzero(~known).tolist() == [3, 5, 12, 30]


@pytest.mark.parametrize(
    "change", [{"checkpoint_sha256": "9" * 64}, {"norm": "L2"}, {"epsilon": "11/100"}]
)
def test_challenges_to_something_else_are_ignored(tmp_path: Path, change: dict[str, str]) -> None:
    challenged(tmp_path, 5, **change)
    frame = frame_of(tmp_path, Outcomes(blank()))
    assert frame["best_known_accuracy"].tolist() == [1, 1, 1]
    assert frame["challenges"].tolist() == [[], [], []]


@pytest.mark.parametrize(("epsilon", "refuted"), [(SMALL, True), (MAIN, False)])
def test_a_challenge_refutes_certificates_of_its_ball_and_larger_ones(
    tmp_path: Path, epsilon: Any, refuted: bool
) -> None:
    columns = blank()
    columns[f"bounds.margin@{SMALL}"][5] = 1
    challenged(tmp_path, 5, epsilon=str(epsilon))
    stored(tmp_path, Outcomes(columns))
    if refuted:
        with pytest.raises(
            InvariantViolation, match=r"1/20 .* got that of Ada: test examples .105."
        ):
            load(tmp_path)
    else:
        assert len(load(tmp_path)[0].challenges) == 1


def test_a_challenge_refutes_the_certificate_at_the_protocols_epsilon(tmp_path: Path) -> None:
    columns = blank()
    columns[f"bounds.margin@{LARGE}"][5] = 1
    challenged(tmp_path, 4, 5)
    stored(tmp_path, Outcomes(columns))
    with pytest.raises(InvariantViolation, match="certificate refuted"):
        load(tmp_path)
    assert records.load_all(tmp_path, Manifest(checkpoints=(CHECKPOINT,)))


def test_damaged_challenges_stop_loading(tmp_path: Path) -> None:
    challenged(tmp_path, 5)
    stored(tmp_path, Outcomes(blank()))
    [path] = (tmp_path / "challenges").rglob("*.json")
    path.write_text(path.read_text().replace('"credit": "Ada"', '"credit": "Eve"'))
    with pytest.raises(RecordError, match="content_digest"):
        load(tmp_path)


def test_evidence_and_rankability_are_those_of_the_tier(tmp_path: Path) -> None:
    files = [
        {"start": s, "stop": s + 5, "inputs": s, "bytes": 9, "sha256": "4" * 64}
        for s in range(0, EXAMPLES, 5)
    ]
    columns = blank()
    columns["clean.zero_gradient"][[0, 1]] = True
    flags = [{"name": "softmax-output", "rate": 0.25, "detail": "probabilities"}]
    frame = frame_of(tmp_path, Outcomes(columns), evidence=files, flags=flags)
    assert [len(line) for line in frame["evidence"]] == [2, 4, 8]
    assert frame["evidence"][0][1] == {
        "file": "000005.npz",
        "bytes": 9,
        "sha256": "4" * 64,
        "inputs": 5,
    }
    assert "softmax-output" in frame["unrankable"][2]
    assert "zero-gradients" in frame["unrankable"][0]
    assert "zero-gradients" not in frame["unrankable"][2]


def test_an_unflagged_row_is_rankable(tmp_path: Path) -> None:
    assert frame_of(tmp_path, Outcomes(blank()), flags=[])["unrankable"].tolist() == ["", "", ""]


# --- Several records at a time --------------------------------------------------------------------

# With a transfer, which records without a parent did not run.
TRANSFER_PROTOCOL = replace(
    SMALL_PROTOCOL,
    id="small-transfer",
    evaluations=(
        *SMALL_PROTOCOL.evaluations,
        ("transfer", Transfer(Steps(3, Fraction(1, 2)))),
    ),
)


def transferred(outcomes: Outcomes, ran: bool) -> Outcomes:
    """Returns outcomes with a transfer that broke what it tried of the first twenty, or none."""
    clean = outcomes.columns["clean.prediction"] == outcomes.columns["label"]
    broken = np.where(np.arange(EXAMPLES) < 20, 0, -1)
    # What fell to nothing else may not fall to it alone if it is proven.
    proven = outcomes.columns[f"bounds.margin@{MAIN}"] > 0
    broken = np.where(proven | (outcomes.columns[f"bounds.margin@{LARGE}"] > 0), -1, broken)
    column = np.where(clean, broken if ran else -4, -2).astype(np.int8)
    return Outcomes({**outcomes.columns, "transfer.broken_by": column})


@given(some.lists(some.tuples(some.booleans(), some.booleans()), min_size=2, max_size=6))
@settings(max_examples=25)
def test_records_counted_together_are_counted_as_alone(kinds: list[tuple[bool, bool]]) -> None:
    rows = []
    for seed, (ran, challenged_too) in enumerate(kinds):
        outcomes = transferred(consistent(seed), ran)
        about = {"protocol": TRANSFER_PROTOCOL.id, "protocol_digest": TRANSFER_PROTOCOL.digest}
        row = Row(CHECKPOINT, TRANSFER_PROTOCOL, record_of(outcomes, **about), outcomes)
        rows.append(replace(row, challenges=(refuting(seed),) if challenged_too else ()))
    together = records.lines(rows)
    for row, lines in zip(rows, together, strict=True):
        [alone] = records.lines([row])
        pd.testing.assert_frame_equal(pd.DataFrame(lines), pd.DataFrame(alone))
    # The transfer counts where it ran and where it did not, it does not exist.
    for (ran, _), lines in zip(kinds, together, strict=True):
        assert all(("transfer" in line["attack_accuracies"]) == ran for line in lines)
    for (_, challenged_too), lines in zip(kinds, together, strict=True):
        assert bool(lines[-1]["challenges"]) == challenged_too


def refuting(seed: int) -> Challenge:
    """Returns a challenge that breaks some examples, and so lowers the best known accuracy."""
    said = {
        "checkpoint_id": CHECKPOINT.id,
        "checkpoint_sha256": CHECKPOINT.sha256,
        "protocol": TRANSFER_PROTOCOL.id,
        "protocol_digest": TRANSFER_PROTOCOL.digest,
        "norm": "Linf",
        "epsilon": str(MAIN),
        "credit": "Ada",
        "attack": "PGD",
        "date": "2026-02-28",
    }
    index = np.arange(100 + seed, 110 + seed, dtype=np.int64)
    inputs = np.full((len(index), 1, 4, 4), 0.5, dtype=np.float32)
    return challenge_of({"index": index, "inputs": inputs}, **said)
