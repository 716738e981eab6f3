"""Writes docs/configuration.md and docs/metrics.md from the code.

    .venv/bin/python docs/generate.py            write them
    .venv/bin/python docs/generate.py --check    status 1 if they are not what the code says

A value's type, bounds and default are those of config/model.py; its text is its comment in
config/tapedeck.yml. A value without a comment is a KeyError.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import config
import gateway.process.supervisor  # noqa: F401 - registers every family
from config.mistakes import PREFIX
from config.model import Sections
from gateway.reload.runtime_config import NEEDS_RESTART

HERE = Path(__file__).resolve().parent
SHIPPED = Path(config.__file__).parent / "tapedeck.yml"
WRITTEN_BY = "<!-- Written by docs/generate.py; do not edit. -->\n"


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections that have values of their own."""
    for name, field in Sections.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def comments() -> dict[tuple[str, str], str]:
    """What stands behind a value in the shipped file, by section and key; lines that are
    commented out and the lines that a comment goes on in included."""
    found: dict[tuple[str, str], str] = {}
    section, last, column = "", None, 0
    for line in SHIPPED.read_text().splitlines():
        if match := re.match(r"(\w+):", line):
            section, last = match[1], None
        elif match := re.match(r"  (?:# )?(\w+): *[^#]*?(?: # ?(.*))?$", line):
            last = (section, match[1])
            column = line.find(" # ", 4) + 1
            if match[2]:
                found[last] = match[2].strip().removeprefix("yours: ")
        elif last in found and column and re.match(rf" {{{column}}}#", line):
            found[last] += " " + line.strip("# ")
        else:
            last = None
    return found


def type_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in a reader's words, with the bounds."""
    if "$ref" in schema:
        return _named(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        kinds = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(type_of(part, definitions) for part in kinds)
    kind = schema.get("type", "")
    if kind == "array":
        item = schema.get("items", {})
        return f"list of {type_of(item, definitions)}"
    if schema.get("format") == "password":
        return "secret"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(kind, "text" if kind == "string" else kind) + _bounds(schema)


def _named(name: str) -> str:
    return {"LookupServer": "`host:port:weight name`", "HostPort": "`host:port`"}.get(name, name)


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        return f", above {above:,}" + (f", {high:,} at most" if high is not None else "")
    if low is not None and high is not None:
        return f", {low:,} to {high:,}"
    if low is not None:
        return f", {low:,} or more"
    return f", {high:,} at most" if high is not None else ""


def default_of(field: FieldInfo) -> str:
    """As it would be written."""
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or "SecretStr" in str(type(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def configuration() -> str:
    """The configuration reference."""
    texts = comments()
    lines = [
        WRITTEN_BY,
        "# Configuration reference\n",
        "One YAML file; `config/tapedeck.yml` is one with every value.",
        "`tapedeck check-config FILE` says what a file becomes or all that is wrong with it.",
        f"`{PREFIX}<SECTION>__<KEY>` in the environment stands over the file, a list with commas:",
        f"`{PREFIX}LOOKUP__TIMEOUT=200`. A value marked ↻ follows a reload (SIGHUP, or",
        "`POST /reload` on the admin port); the others need a restart, and a reload names them.\n",
        "| value | | default | |",
        "| --- | --- | --- | --- |",
    ]
    mode = Sections.model_json_schema()["properties"]["mode"]
    lines.append(
        f"| `mode` | {type_of(mode, {})} | `{Sections.model_fields['mode'].default}` | "
        "production refuses to start without secrets of its own |"
    )
    for name, section in sections():
        lines += [f"\n## {name}\n", " ".join((section.__doc__ or "").split()) + "\n"]
        lines += ["| value | | default | |", "| --- | --- | --- | --- |"]
        schema = section.model_json_schema()
        for key, field in section.model_fields.items():
            kind = type_of(schema["properties"][key], schema.get("$defs", {}))
            mark = "" if f"{name}.{key}" in NEEDS_RESTART else " ↻"
            cells = (
                f"`{name}.{key}`{mark}",
                kind,
                default_of(field),
                texts[name, key].replace("|", "\\|"),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """The metrics reference."""
    lines = [
        WRITTEN_BY,
        "# Metrics reference\n",
        "What `/metrics` on the admin port exports, beside `process_...` and `python_...`.",
        "With several workers each series has `worker`; the supervisor's own stand under",
        '`worker="supervisor"`, where gauges that it does not measure are 0.\n',
        "| metric | kind | labels | |",
        "| --- | --- | --- | --- |",
    ]
    families = []
    for collector in list(REGISTRY._collector_to_names):
        for family in getattr(collector, "describe", collector.collect)():
            labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            if family.name.startswith("tapedeck_"):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                families.append((name, family.type, labels, family.documentation))
    for name, kind, labels, text in sorted(families):
        lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """What this writes, by file."""
    return {HERE / "configuration.md": configuration(), HERE / "metrics.md": metrics()}


def main(arguments: list[str]) -> int:
    """Write, or compare; the exit status."""
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.name} is not what the code says: .venv/bin/python docs/generate.py")
        else:
            path.write_text(pages()[path])
            print(f"wrote {path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
