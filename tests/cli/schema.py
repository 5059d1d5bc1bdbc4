"""As much of JSON Schema as our own schemas use, and a refusal of what they should not."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "json-schema"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
KNOWN = {"$schema", "title", "type", "properties", "required", "items", "enum"}
KNOWN |= {"pattern", "minimum", "maximum"}


def is_of(value, name):
    """Whether *value* is of JSON's type *name*."""
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def faults(value, schema, where="$"):
    """Return where *value* is not what *schema* says; a member it does not name is a fault too."""
    assert set(schema) <= KNOWN, f"{where}: {set(schema) - KNOWN}"
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where}: {value!r}"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(is_of(value, name) for name in types):
        return [f"{where}: {value!r} is no {types}"]
    found = []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{where}: {value!r}")
    if is_of(value, "number"):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        found += [] if low <= value <= high else [f"{where}: {value!r}"]
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += faults(item, schema["items"], f"{where}[{number}]")
    if isinstance(value, dict):
        found += [f"{where}.{name} is missing" for name in schema["required"] if name not in value]
        for name, item in value.items():
            if name not in schema["properties"]:
                found.append(f"{where}.{name} is not documented")
            else:
                found += faults(item, schema["properties"][name], f"{where}.{name}")
    return found


def load(name):
    """Return the schema of that name."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
