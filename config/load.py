"""Reads a configuration: one YAML file, then the environment over it, then files with secrets.

All problems are reported together, so that an operator mends a file once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config import tls
from config.mistakes import PREFIX, Problems, meant, names_at, unknown_variable
from config.model import Lookup, Sections
from config.nutcracker import PLACEMENT, NutcrackerError, read_pool
from config.reading import BadYaml, Document, Unreadable, read_text, read_yaml

LOCAL_CONFIG = Path(".tapedeck/tapedeck.yml")
"""The running local stack's configuration, which `tapedeck up` writes."""

# Secrets, each of which may come from a file of its own, named by the value KEY_file.
_SECRETS = (
    ("auth", "token_keys"),
    ("auth", "service_keys"),
    ("admin", "token"),
    ("lookup", "password"),
    ("mysql", "password"),
)

_UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes in the environment that are not UTF-8, as Python decodes them (PEP 383)."""
_ODD = re.compile("[\x00-\x08\x0a-\x1f\x7f\ufeff]")
"""Characters that are never typed in a secret."""


class ConfigError(Exception):
    """A configuration that cannot be used.

    Attributes:
        source: the file's name.
        problems: one sentence each, `line 7: section.key: what is wrong`.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))

    @property
    def sentences(self) -> list[str]:
        """The problems, each with the file's name in front."""
        return [f"{self.source}: {problem}" for problem in self.problems]


def load(path: Path | str, environ: Mapping[str, str] | None = None) -> Sections:
    """Read `path`, put `TAPEDECK_<SECTION>__<KEY>` of `environ` (default: the process's) over it.

    Raises:
        ConfigError: with every problem of the file and of the environment at once.
    """
    path = Path(path)
    environ = os.environ if environ is None else environ
    return _checked(_read(path), str(path), environ, path.parent)


def load_lookup(path: Path | str, environ: Mapping[str, str] | None = None) -> Lookup:
    """As `load`, but only the section `lookup`: enough to place keys without asking a server.

    The other sections and the files of secrets and certificates are not read.

    Raises:
        ConfigError: with every problem of this section at once.
    """
    path = Path(path)
    whole = _read(path)
    sections = {"lookup": (whole.value or {}).get("lookup", {}), "mysql": _NEEDED["mysql"]}
    variables = os.environ if environ is None else environ
    ours = {k: v for k, v in variables.items() if k.startswith(PREFIX + "LOOKUP__")}
    document = Document(sections, whole.lines, whole.twice)
    return _checked(document, str(path), ours, path.parent, files=False).lookup


def _read(path: Path) -> Document:
    """The sections of a file, as YAML gives them.

    Raises:
        ConfigError: the file cannot be read, or has no sections.
    """
    try:
        document = read_yaml(read_text(path))
    except Unreadable as error:
        missing = path == LOCAL_CONFIG and not path.exists()
        hint = " (is a local stack running? `make run` starts one)" * missing
        raise ConfigError(str(path), [f"{error}{hint}"]) from None
    except BadYaml as error:
        raise ConfigError(str(path), error.problems) from None
    if not isinstance(document.value, dict | None):
        raise ConfigError(str(path), ["holds no sections: a mapping is expected at the top"])
    return document


def parse(
    document: Mapping[Any, Any], *, environ: Mapping[str, str] | None = None, base: Path = Path()
) -> Sections:
    """Check a configuration that was already read.

    Args:
        document: sections by name, as YAML gives them.
        environ: overrides; none by default.
        base: the folder of relative names of secret files.

    Raises:
        ConfigError: with every problem at once.
    """
    return _checked(Document(dict(document), {}, []), "configuration", environ or {}, base)


def overridden(document: Mapping[Any, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """A document with the environment's values laid over it, as `load` does; what is wrong with
    them is left for `load` to say."""
    merged = _copied(document)
    _override(merged, environ, Problems({}))
    return merged


def named_files(path: Path, text: str, environ: Mapping[str, str]) -> list[Path]:
    """The files that the configuration at `path`, with this `text`, names, also if it is wrong, or
    they do not exist: with secrets and certificates, and a nutcracker.yml. Empty if it is no YAML.
    """
    try:
        sections = _sections_in(text)
    except BadYaml:
        return []
    return [
        path.parent / str(value)
        for section in overridden(sections, environ).values()
        if isinstance(section, dict)
        for key, value in section.items()
        if value and (key.endswith("_file") or key == "nutcracker")
    ]


@lru_cache(1)
def _sections_in(text: str) -> dict[Any, Any]:
    value = read_yaml(text).value
    return value if isinstance(value, dict) else {}


def _checked(
    document: Document, source: str, environ: Mapping[str, str], base: Path, *, files: bool = True
) -> Sections:
    problems = Problems(document.lines)
    problems.found += document.twice
    merged = _copied(document.value or {})
    _override(merged, environ, problems)
    if files:
        _read_secrets(merged, base, problems)
        _place_tls_files(merged, base)
    _read_nutcracker(merged, base, problems)
    checked = _validated(merged, problems)
    if files and checked is not None:
        for problem in tls.problems(checked):
            name, _, what = problem.partition(": ")
            if name.partition(".")[0] not in problems.doubted:
                problems.add(name, what)
    if problems.found or checked is None:
        raise ConfigError(source, problems.found)
    return checked


_NEEDED: dict[str, dict[str, Any]] = {
    "lookup": {"servers": ["127.0.0.1:1:1"]},
    "mysql": {"hosts": ["127.0.0.1:1"], "user": "-"},
}
"""Stands in for values that have no default, by section."""
_GUARDED = ("mode", "auth", "admin")
"""The sections of the rules about the whole configuration (`Sections`)."""


def _validated(merged: dict[str, Any], problems: Problems) -> Sections | None:
    """Check every rule. A value that breaks one makes place for its default, and then the rest is
    checked, so that rules between values have their say too."""
    while True:
        try:
            return Sections.model_validate(merged)
        except ValidationError as error:
            if not _note_and_repair(error, merged, problems):
                return None


def _note_and_repair(error: ValidationError, merged: dict[str, Any], problems: Problems) -> bool:
    """Note what is wrong, and put defaults there; False if that changes nothing."""
    doubted, changed = set(problems.doubted), False
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = tuple(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.add_unknown(place)
        elif doubted.isdisjoint(place[:1] or _GUARDED) or problem["type"] == "missing":
            what = problem["msg"].removeprefix("Value error, ")
            what = "is needed; it has no default" if problem["type"] == "missing" else what
            problems.add(place, what)
        for section in place[:1] or _GUARDED:
            changed |= _put_default(merged, section, *place[1:2])
    return changed


def _put_default(merged: dict[str, Any], section: str, key: str | None = None) -> bool:
    """Whether it was another value."""
    values, needed = merged.get(section), _NEEDED.get(section, {})
    if key is None or not isinstance(values, dict):
        merged.pop(section, None)
        merged.update({section: dict(needed)} if needed else {})
        return values is not None or bool(needed)
    before = values.pop(key, None)
    values.update({key: needed[key]} if key in needed else {})
    return before is not None or key in needed


def _copied(document: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy of the sections that may be changed, with names of sections and values as text."""
    return {
        str(name): {str(key): value for key, value in section.items()}
        if isinstance(section, dict)
        else section
        for name, section in document.items()
    }


def _override(merged: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> None:
    """Lay the environment over the file."""
    for variable, value in sorted(environ.items()):
        where = f"{variable} (environment)"
        if variable.startswith(PREFIX) and _UNDECODED.search(variable + value):
            problems.found.append(f"{ascii(variable)[1:-1]} (environment): is no UTF-8")
        elif variable == PREFIX + "MODE":
            merged["mode"] = value
            problems.origins[("mode",)] = variable
        elif variable.startswith(PREFIX) and "__" in variable:
            section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
            if key in names_at([section]):
                _set(merged, section, key, value)
                problems.origins[(section, key)] = variable
            else:
                what = unknown_variable(variable, f"{section}.{key}")
                problems.found.append(f"{where}: {what}")
        elif variable.startswith(PREFIX) and (name := meant(variable)):
            problems.found.append(f"{where}: sets no value; did you mean {name}?")


def _set(merged: dict[str, Any], section: str, key: str, value: str) -> None:
    values = merged.setdefault(section, {})
    if isinstance(values, dict):
        values[key] = value
        if (section, key) in _SECRETS:
            values.pop(f"{key}_file", None)


def _read_secrets(merged: dict[str, Any], base: Path, problems: Problems) -> None:
    for section, key in _SECRETS:
        values, where = merged.get(section), f"{section}.{key}_file"
        if not isinstance(values, dict) or not values.get(f"{key}_file"):
            continue
        if values.get(key):
            problems.add(where, f"{section}.{key} is given too; only one of them can hold")
            continue
        path = base / str(values[f"{key}_file"])
        try:
            lines = [line.strip() for line in read_text(path).split("\n")]
        except Unreadable as error:
            problems.add(where, f"{path} {error}")
            continue
        secrets = [line for line in lines if line]
        odd = next((found[0] for line in secrets if (found := _ODD.search(line))), None)
        if odd is not None:
            # Editors do not show it, and the server refuses the secret without a reason.
            what = "a byte order mark" if odd == "\ufeff" else f"the character U+{ord(odd):04X}"
            problems.add(where, f"{path} holds {what}; write it as plain UTF-8 text")
            continue
        if not secrets:
            problems.add(where, f"{path} is empty")
            continue
        values[key] = secrets if key.endswith("keys") else secrets[0]


def _place_tls_files(merged: dict[str, Any], base: Path) -> None:
    """Make names of PEM files relative to the configuration's folder, for every process."""
    for section in merged.values():
        if isinstance(section, dict):
            for key, value in section.items():
                if key in tls.FILES and isinstance(value, str) and value:
                    section[key] = str((base / value).absolute())


def _read_nutcracker(merged: dict[str, Any], base: Path, problems: Problems) -> None:
    """Put a pool of a nutcracker.yml in the place of the words that it decides.

    Values that place keys may not be given beside a pool; the section's other values override it.
    """
    lookup = merged.get("lookup")
    if not isinstance(lookup, dict):
        return
    if not lookup.get("nutcracker"):
        if lookup.get("pool"):
            problems.add("lookup.pool", "needs lookup.nutcracker, the file that has the pool")
        return
    path = (base / str(lookup["nutcracker"])).absolute()
    lookup["nutcracker"] = str(path)
    for word in PLACEMENT:
        if lookup.get(word) is not None:
            what = "is said by the pool of lookup.nutcracker; only one of them can hold"
            problems.add(f"lookup.{word}", what)
    name = lookup.get("pool")
    try:
        words = read_pool(path, None if name is None else str(name)).words
    except NutcrackerError as error:
        for problem in error.problems:
            problems.add("lookup.nutcracker", problem)
        # One that is never used: that there are no servers would be no news.
        words = {"servers": ["127.0.0.1:1:1"]}
    merged["lookup"] = {**words, **{k: v for k, v in lookup.items() if v is not None}}
