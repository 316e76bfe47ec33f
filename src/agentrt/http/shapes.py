"""The parts that JSON schemas are made of."""

from __future__ import annotations

from typing import Any

__all__ = [
    "COUNT",
    "FLAG",
    "METADATA",
    "NAME",
    "NUMBER",
    "OBJECT",
    "TEXT",
    "Schema",
    "array",
    "one_of",
    "or_null",
    "ref",
    "table",
]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": "string", "maxLength": 512},
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def or_null(schema: Schema) -> Schema:
    if "type" in schema and "enum" not in schema and isinstance(schema["type"], str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def table(required: Schema, optional: Schema | None = None, *, closed: bool = False) -> Schema:
    """An object: what is always there, what may be; `closed`: nothing else."""
    made: Schema = {"type": "object", "properties": {**required, **(optional or {})}, "required": sorted(required)}
    if closed:
        made["additionalProperties"] = False
    return made
