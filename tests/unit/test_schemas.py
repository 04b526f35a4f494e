"""The exported schemas: what is committed is what the classes say, described to the last field."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import test_challenges
import test_failures
import test_records
import test_submissions

from benchmark import migrations, records, schemas
from benchmark.campaigns import read_campaign
from benchmark.errors import UnknownName
from benchmark.manifest import Budget, read_manifest
from benchmark.schemas import SCHEMAS, schema
from benchmark.submissions import Draft, Statement

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "schemas"
EXPORT = (
    "expected docs/schemas/ as the classes say; write it anew with `.venv/bin/python -c 'from "
    'pathlib import Path; from benchmark.schemas import export; export(Path("docs/schemas"))\'`'
)
OVER_SCHEMAS = pytest.mark.parametrize("name", SCHEMAS)


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Returns every object that a schema defines, by its title."""
    whole = schema(name)
    return {whole["title"]: whole, **whole.get("$defs", {})}


@OVER_SCHEMAS
def test_what_is_committed_is_what_the_classes_say(name: str) -> None:
    path = DOCS / f"{name}.json"
    assert path.exists() and path.read_text() == schemas.text(name), EXPORT


def test_nothing_else_is_committed() -> None:
    assert {path.name for path in DOCS.glob("*.json")} == {f"{name}.json" for name in SCHEMAS}


def test_export_is_repeatable(tmp_path: Path) -> None:
    paths = schemas.export(tmp_path / "new" / "folder")
    first = [path.read_bytes() for path in paths]
    assert [path.stem for path in paths] == list(SCHEMAS)
    schemas.export(tmp_path / "new" / "folder")
    assert [path.read_bytes() for path in paths] == first
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)
    assert [json.loads(data) for data in first] == [schema(name) for name in SCHEMAS]


@OVER_SCHEMAS
def test_each_schema_says_which_version_it_is(name: str) -> None:
    found = schema(name)
    assert list(found)[:3] == ["$schema", "title", "version"]
    assert found["title"] == f"robustprune {name}"
    assert found["version"] == found["properties"]["schema_version"]["const"]
    assert found["version"] == migrations.CURRENT[name]
    assert "$id" not in json.dumps(found)


@OVER_SCHEMAS
def test_every_object_and_field_is_described(name: str) -> None:
    for title, part in objects(name).items():
        assert part["description"].endswith("."), title
        for field, about in part["properties"].items():
            text = about.get("description", "")
            assert text.endswith(".") and "\n" not in text and "  " not in text, (title, field)


@OVER_SCHEMAS
def test_nothing_unknown_gets_in(name: str) -> None:
    for title, part in objects(name).items():
        assert part["type"] == "object" and part["additionalProperties"] is False, title


# Names of numbers, in whole or by their end.
NUMBERS = re.compile(
    r"(^|_)(bytes|seconds|hours|epochs|zeros|total|forwards|backwards|steps|rate|seed|sparsity|"
    r"prunable|examples|inputs|start|stop|version|attacked|proven|saved)$"
)


@OVER_SCHEMAS
def test_numbers_are_numbers_and_epsilons_exact_fractions(name: str) -> None:
    for title, part in objects(name).items():
        for field, about in part["properties"].items():
            if "epsilon" in field:
                assert about["type"] == "string" and "/" in about["pattern"], (title, field)
            elif NUMBERS.search(field):
                kind = about["items"]["type"] if about["type"] == "array" else about["type"]
                assert kind in ("integer", "number"), (title, field)


def test_descriptions_come_from_docstrings() -> None:
    said = schemas.descriptions(Budget)
    assert said["hours"] == "wall-clock hours of prune and finetune, rounded up to a hundredth."
    # Lines that go on, names of a base, and entries that store a value described elsewhere.
    assert "nothing else can" in schemas.descriptions(Statement)["test_data_unused"]
    record = objects("submission")["SubmittedRecord"]["properties"]
    assert record["sha256"]["description"] == "of the file."
    assert record["checkpoint_id"]["description"].startswith("one of")
    layer = objects("record")["Layer"]["properties"]
    assert "non-zero weight" in layer["multiply_adds_sparse"]["description"]
    assert schemas.summary(Budget) == "What training cost."


def test_an_unknown_format_gets_near_matches() -> None:
    with pytest.raises(UnknownName, match="unknown format 'records'; did you mean record"):
        schema("records")


# --- documents against schemas


def problems(value: Any, about: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Returns which keywords of a schema a value breaks: those that the formats use."""
    if "$ref" in about:
        about = whole["$defs"][about["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in about:
        ways = [problems(value, way, whole) for way in about["anyOf"]]
        return [] if [] in ways else ways[0]
    kinds = {
        "object": lambda v: isinstance(v, dict),
        "array": lambda v: isinstance(v, list),
        "string": lambda v: isinstance(v, str),
        "null": lambda v: v is None,
        "boolean": lambda v: isinstance(v, bool),
        "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    }
    if not kinds[about["type"]](value):
        return ["type"]
    found = [
        word for word, breaks in KEYWORDS.items() if word in about and breaks(value, about[word])
    ]
    if isinstance(value, list):
        return found + [p for item in value for p in problems(item, about["items"], whole)]
    if isinstance(value, dict):
        known, rest = about.get("properties", {}), about["additionalProperties"]
        for key, item in value.items():
            inner = known.get(key, rest)
            found += problems(key, about.get("propertyNames", {"type": "string"}), whole)
            found += ["additionalProperties"] if inner is False else problems(item, inner, whole)
    return found


KEYWORDS: dict[str, Any] = {
    "const": lambda v, limit: v != limit,
    "enum": lambda v, limit: v not in limit,
    "pattern": lambda v, limit: not re.search(limit, v),
    "minimum": lambda v, limit: v < limit,
    "maximum": lambda v, limit: v > limit,
    "exclusiveMaximum": lambda v, limit: v >= limit,
    "exclusiveMinimum": lambda v, limit: v <= limit,
    "minLength": lambda v, limit: len(v) < limit,
    "maxLength": lambda v, limit: len(v) > limit,
    "minItems": lambda v, limit: len(v) < limit,
    "maxItems": lambda v, limit: len(v) > limit,
    "required": lambda v, limit: not set(limit) <= set(v),
}
MAPPING = ("additionalProperties", "propertyNames")
WORDS = {"$ref", "anyOf", "type", "items", "properties", *MAPPING}
# Fields that may be null.
ABSENT = {"record": {"compact", "latency"}}
SAID = {"description", "default", "title", "$defs", "$schema", "version"}


def documents(name: str) -> dict[str, Any]:
    """Returns one whole document of a format."""
    if name == "manifest":
        return read_manifest(ROOT / "checkpoints_manifest.json").model_dump(mode="json")
    if name == "record":
        old = (ROOT / "tests" / "golden" / "record_v1.json").read_bytes()
        new = migrations.migrate("record", migrations.parse("record", old))
        new |= {"compact": test_records.COMPACT, "latency": test_records.LATENCY}
        record = records.ResultRecord.model_validate_json(json.dumps(new))
        return records.sealed(record).model_dump(mode="json")
    if name == "submission":
        return test_submissions.submission().model_dump(mode="json")
    if name == "submission-draft":
        return Draft.model_validate(test_submissions.DRAFT).model_dump(mode="json")
    if name == "campaign":
        return read_campaign(ROOT / "campaigns" / "mnist.toml").model_dump(mode="json")
    if name == "failure":
        return test_failures.KNOWN.model_dump(mode="json")
    challenge = test_challenges.challenge_of(test_challenges.ARRAYS, **test_challenges.SAID)
    return challenge.model_dump(mode="json")


@OVER_SCHEMAS
def test_whole_documents_fit(name: str) -> None:
    whole = schema(name)
    assert problems(documents(name), whole, whole) == []


@OVER_SCHEMAS
def test_the_check_above_knows_every_keyword(name: str) -> None:
    def words(about: Any) -> set[str]:
        if isinstance(about, list):
            return set().union(*map(words, about))
        if not isinstance(about, dict):
            return set()
        inner = set().union(
            *(words(v) for k in ("properties", "$defs") for v in about.get(k, {}).values()),
            *(words(about[k]) for k in ("items", "anyOf", *MAPPING) if k in about),
        )
        return set(about) | inner

    assert words(schema(name)) <= WORDS | SAID | set(KEYWORDS)


@OVER_SCHEMAS
def test_a_wrong_type_in_any_field_breaks_schema_and_class_alike(name: str) -> None:
    whole, document = schema(name), documents(name)
    for field in whole["properties"]:
        broken = copy.deepcopy(document)
        broken[field] = 1.5 if field in ABSENT.get(name, ()) else None
        assert problems(broken, whole, whole) != [], field
        with pytest.raises(ValueError, match=field):
            SCHEMAS[name].model_validate_json(json.dumps(broken))
    assert problems({**document, "more": 1}, whole, whole) == ["additionalProperties"]
