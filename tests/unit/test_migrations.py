"""Old files: records of older versions, frozen, become current ones that claim no more."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from benchmark import migrations, outcomes, records
from benchmark.digests import digest_of
from benchmark.errors import ManifestError, RecordError, UnknownName
from benchmark.manifest import read_manifest
from benchmark.migrations import CURRENT, STEPS, check_record_1, migrate, parse, version_of
from benchmark.records import ResultRecord
from benchmark.schemas import SCHEMAS

ROOT = Path(__file__).parents[2]
# Written by `robustprune run --protocol digits-linf --tier quick` when version 1 was current.
OLD = ROOT / "tests" / "golden" / "record_v1.json"
# Likewise, of another checkpoint, when version 2 was.
SECOND = ROOT / "tests" / "golden" / "record_v2.json"


def old() -> dict[str, Any]:
    return parse("record", OLD.read_bytes())


def second() -> dict[str, Any]:
    return parse("record", SECOND.read_bytes())


def sealed_as_2(**changes: Any) -> dict[str, Any]:
    """Returns the record of version 2 with fields changed, signed and sealed as its writer did."""
    data = {**second(), **changes}
    data["content_digest"] = migrations.digest_of_record_2(data)
    data["seals"] = {n: digest_of(value) for n, value in data.items() if n != "seals"}
    return data


def signed(**changes: Any) -> dict[str, Any]:
    """Returns the old record with fields changed, and the digest that its writer would give it."""
    data = {**old(), **changes}
    return {**data, "content_digest": migrations.digest_of_record_1(data)}


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 600
    assert message.startswith("expected ") and "got " in message and ";" in message
    return message


def test_a_record_of_version_1_becomes_a_current_one() -> None:
    before = old()
    data = migrate("record", before)
    assert data["schema_version"] == CURRENT["record"] == 3
    record = records.sealed(ResultRecord.model_validate_json(json.dumps(data)))
    assert records.broken_seals(record) == []
    # All that the old record said, it still says.
    kept = record.model_dump(mode="json")
    for name, value in before.items():
        if name not in ("schema_version", "content_digest", "cost"):
            assert kept[name] == value, name
    for name, spent in before["cost"].items():
        assert kept["cost"][name] == {**spent, **{"attacked": 0, "proven": 0, "forwards_saved": 0}}
    assert record.flags[0].name == "zero-gradients-in-attack"


def test_a_record_of_version_2_becomes_a_current_one_without_latencies() -> None:
    before = second()
    data = migrate("record", before)
    assert (data["compact"], data["latency"]) == (None, None)
    assert (data["content_digest"], data["seals"]) == ("", {})
    record = records.sealed(ResultRecord.model_validate_json(json.dumps(data)))
    assert records.broken_seals(record) == []
    kept = record.model_dump(mode="json")
    for name, value in before.items():
        if name not in ("schema_version", "content_digest", "seals"):
            assert kept[name] == value, name
    assert record.evidence and record.parent_sha256 and record.cost["pgd"].attacked


def test_files_of_version_2_are_read_with_their_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(SECOND.read_bytes())
    path.with_suffix(".npz").write_bytes(SECOND.with_suffix(".npz").read_bytes())
    record, found = records.read(path)
    assert (record.schema_version, record.latency, len(found)) == (3, None, 150)


@pytest.mark.parametrize("name", sorted(set(second()) - {"schema_version", "seals"}))
def test_an_altered_field_of_a_record_of_version_2_is_named(name: str) -> None:
    data = {**second(), name: "altered" if name != "cost" else {}}
    with pytest.raises(RecordError, match=f"version 2, got other .* sealed in {name};") as raised:
        migrate("record", data)
    one_line(raised.value)


def test_seals_of_version_2_are_checked_whole() -> None:
    assert migrate("record", sealed_as_2()) == migrate("record", second())
    for change, said in (
        ({"seals": {}}, "sealed in checkpoint_id"),
        ({"seals": None}, "a seal of each field"),
        ({"extra": 1}, "sealed in extra;"),
        ({"seals": {**second()["seals"], "x\n" * 300: "0"}}, "sealed in x"),
    ):
        with pytest.raises(RecordError, match=said) as raised:
            migrate("record", {**second(), **change})
        one_line(raised.value)
    # Sealed again by someone who forgot the digest of the content.
    data = sealed_as_2()
    data["content_digest"] = "0" * 64
    data["seals"]["content_digest"] = digest_of("0" * 64)
    with pytest.raises(RecordError, match="version 2, got another content digest"):
        migrate("record", data)


def test_latencies_smuggled_into_a_record_of_version_2_do_not_survive() -> None:
    data = migrate("record", sealed_as_2(latency={"processor": "fast"}, compact={"parameters": 1}))
    assert (data["compact"], data["latency"]) == (None, None)


def test_an_old_record_claims_no_evidence() -> None:
    data = migrate("record", old())
    assert (data["evidence"], data["parent_sha256"], data["latency"]) == ([], "", None)
    # Nothing vouches for it until the reader has sealed it anew.
    assert (data["content_digest"], data["seals"]) == ("", {})
    record = ResultRecord.model_validate_json(json.dumps(data))
    assert records.broken_seals(record) != []


def test_evidence_smuggled_into_an_old_record_does_not_survive() -> None:
    file = {"start": 0, "stop": 5, "inputs": 5, "bytes": 9, "sha256": "0" * 64}
    data = migrate("record", signed(evidence=[file], seals={"size": "0" * 64}))
    assert (data["evidence"], data["seals"]) == ([], {})


def test_the_outcomes_of_the_frozen_record_are_still_read() -> None:
    data = OLD.with_suffix(".npz").read_bytes()
    found = outcomes.decode(data, old()["outcomes_sha256"])
    assert len(found) == old()["examples"] == 150


def test_migrating_leaves_its_argument_alone() -> None:
    data = old()
    before = copy.deepcopy(data)
    migrate("record", data)
    assert data == before


def test_the_old_digest_is_that_of_the_old_reader() -> None:
    # Spelled out: everything but environment, seconds and the digest itself.
    data = old()
    content = {k: v for k, v in data.items() if k not in ("environment", "content_digest")}
    for spent in content["cost"].values():
        del spent["seconds"]
    assert data["content_digest"] == digest_of(content)
    assert migrations.digest_of_record_1(old()) == old()["content_digest"]


@pytest.mark.parametrize(
    "name", sorted(set(old()) - {"environment", "content_digest", "schema_version"})
)
def test_an_altered_field_of_an_old_record_is_noticed(name: str) -> None:
    data = {**old(), name: "altered" if name != "cost" else {}}
    with pytest.raises(RecordError, match="unaltered record of version 1") as raised:
        migrate("record", data)
    one_line(raised.value)


def test_what_two_runs_may_differ_in_is_not_part_of_the_old_digest() -> None:
    data = old()
    data["environment"] = {"device": "another"}
    data["cost"]["clean"]["seconds"] = 99.0
    check_record_1(data)
    data["cost"]["clean"]["forwards"] += 1
    with pytest.raises(RecordError, match="unaltered record of version 1"):
        check_record_1(data)


@pytest.mark.parametrize("cost", [None, 3, [], {"clean": 3}, {"clean": None}])
def test_cost_of_another_shape_is_refused(cost: Any) -> None:
    with pytest.raises(RecordError, match="cost of each evaluation") as raised:
        migrate("record", {**old(), "cost": cost})
    one_line(raised.value)


@pytest.mark.parametrize("kind", CURRENT)
def test_current_files_are_what_they_were(kind: str) -> None:
    data = {"schema_version": CURRENT[kind], "anything": [1]}
    assert migrate(kind, data) == data
    assert version_of(kind, data) == CURRENT[kind]


@pytest.mark.parametrize("kind", CURRENT)
def test_the_current_version_is_that_of_the_class(kind: str) -> None:
    about = SCHEMAS[kind].model_json_schema()["properties"]["schema_version"]
    assert about["const"] == CURRENT[kind]


def test_every_older_version_has_a_step() -> None:
    older = {(kind, version) for kind, now in CURRENT.items() for version in range(1, now)}
    assert set(STEPS) == older


@pytest.mark.parametrize("kind", CURRENT)
@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0, True, [], 10**30])
def test_versions_that_never_were_are_refused(kind: str, version: Any) -> None:
    expected = ManifestError if kind == "manifest" else RecordError
    with pytest.raises(expected, match=f"schema_version 1 to {CURRENT[kind]} of a") as raised:
        migrate(kind, {"schema_version": version})
    one_line(raised.value)


def test_newer_versions_say_what_to_do() -> None:
    with pytest.raises(RecordError, match="1 to 3 of a record, got 4; .*newer .*update this one"):
        migrate("record", {"schema_version": 4})
    with pytest.raises(ManifestError, match="1 to 2 of a manifest, got 3; .*update this one"):
        migrate("manifest", {"schema_version": 3})
    with pytest.raises(RecordError, match="got None; restore the file"):
        migrate("record", {})


def test_unknown_kinds_are_unknown_names() -> None:
    with pytest.raises(UnknownName, match="unknown format 'recrd'; did you mean record"):
        migrate("recrd", {"schema_version": 1})


def test_the_projects_own_manifest_is_current() -> None:
    data = (ROOT / "checkpoints_manifest.json").read_bytes()
    assert migrate("manifest", parse("manifest", data)) == json.loads(data)
    assert read_manifest(ROOT / "checkpoints_manifest.json").schema_version == CURRENT["manifest"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": -Infinity}'),
        *(b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a":' * 100_000),
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
)
def test_what_is_no_plain_object_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError) as raised:
        parse("record", data)
    one_line(raised.value)
    with pytest.raises(ManifestError):
        parse("manifest", data)


def test_depth_is_refused_where_it_would_break_the_digest() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(RecordError, match="nested beyond measure"):
        migrate("record", {**old(), "reason": deep})
    with pytest.raises(RecordError, match="version 2, got one nested beyond measure"):
        migrate("record", {**second(), "reason": deep})


JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=10,
)


@given(some.sampled_from([old(), second()]), some.data())
def test_any_value_in_any_field_is_migrated_or_refused(before: Any, drawn: Any) -> None:
    name = drawn.draw(some.sampled_from(sorted(before)))
    data = {**before, name: drawn.draw(JSON)}
    try:
        found = migrate("record", data)
    except RecordError as error:
        one_line(error)
    else:
        assert name == "environment" or found.get("schema_version") == 3


def test_manifests_of_version_1_have_no_mirrors(tmp_path: Path) -> None:
    current = json.loads((ROOT / "checkpoints_manifest.json").read_text())
    old = {**current, "schema_version": 1}
    old["checkpoints"] = [
        {name: value for name, value in entry.items() if name != "mirrors"}
        for entry in current["checkpoints"]
    ]
    path = tmp_path / "checkpoints_manifest.json"
    path.write_text(json.dumps(old))
    assert read_manifest(path) == read_manifest(ROOT / "checkpoints_manifest.json")
    for broken in ({}, [1], "no"):
        with pytest.raises(ManifestError, match="expected a list of checkpoints"):
            migrate("manifest", {"schema_version": 1, "checkpoints": broken})
