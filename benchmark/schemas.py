"""The formats on disk as JSON Schema, for readers in other languages: `docs/schemas/`.

Each field's description is the line of its class's docstring, so that it is written once.
"""

import json
import re
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import DictSchema, ModelSchema

from benchmark.campaigns import Campaign
from benchmark.challenges import Challenge
from benchmark.errors import lookup
from benchmark.evaluations import Flag
from benchmark.failures import Failure
from benchmark.files import write_atomically
from benchmark.manifest import Manifest
from benchmark.pruning import LayerCount
from benchmark.records import FlagEntry, Layer, ResultRecord
from benchmark.submissions import Draft, Submission

SCHEMAS: dict[str, type[BaseModel]] = {
    "manifest": Manifest,
    "record": ResultRecord,
    "submission": Submission,
    "submission-draft": Draft,
    "challenge": Challenge,
    "campaign": Campaign,
    "failure": Failure,
}

# Entries that store a value field by field are described where the value is.
_STORED: dict[type, type] = {Layer: LayerCount, FlagEntry: Flag}

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FIELD = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


class _Described(GenerateJsonSchema):
    """Takes descriptions from docstrings, and leaves out titles that repeat a field's name."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """Returns the schema of one class with a description of each field."""
        found = super().model_schema(schema)
        found["description"] = summary(schema["cls"])
        said = descriptions(schema["cls"])
        for name, field in found["properties"].items():
            if name in said:
                field["description"] = said[name]
        return found

    def dict_schema(self, schema: DictSchema) -> JsonSchemaValue:
        """Returns the schema of a mapping, with all that its names must be."""
        return {
            "type": "object",
            "propertyNames": self.generate_inner(schema["keys_schema"]),
            "additionalProperties": self.generate_inner(schema["values_schema"]),
        }

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Returns False: the name of a field is title enough."""
        return False


def summary(model: type) -> str:
    """Returns what a class's docstring says before its attributes, as one line."""
    return " ".join(cleandoc(model.__doc__ or "").partition("\nAttributes:")[0].split())


def descriptions(model: type) -> dict[str, str]:
    """Returns what the docstrings of a class and its bases say of each attribute, as one line."""
    said: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        text = cleandoc(_STORED.get(kind, kind).__doc__ or "").partition("\nAttributes:\n")[2]
        said |= {name: " ".join(line.split()) for name, line in _FIELD.findall(text)}
    return said


def schema(name: str) -> dict[str, Any]:
    """Returns the JSON Schema of a format: the dialect, a title, the version, then the rest.

    Args:
        name: a key of `SCHEMAS`.

    Raises:
        UnknownName: no such format.
    """
    model = lookup("format", name, SCHEMAS)
    found = model.model_json_schema(schema_generator=_Described)
    return {
        "$schema": _DIALECT,
        "title": f"robustprune {name}",
        "version": found["properties"]["schema_version"]["const"],
        **{key: value for key, value in found.items() if key != "title"},
    }


def text(name: str) -> str:
    """Returns a format's schema as it is written to disk."""
    return f"{json.dumps(schema(name), indent=1, ensure_ascii=True)}\n"


def export(folder: Path) -> list[Path]:
    """Writes all schemas to `<folder>/<name>.json` and returns where they lie.

    Raises:
        StorageError: the disk refuses.
    """
    paths = [folder / f"{name}.json" for name in SCHEMAS]
    for name, path in zip(SCHEMAS, paths, strict=True):
        write_atomically(path, text(name).encode())
    return paths
