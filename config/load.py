"""Reading a configuration: one YAML file, then the environment over it, then files with secrets.

Every problem is found in one pass: an operator mends a file once, not once a mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from config import gone, tls
from config.model import Lookup, Section, Sections
from config.nutcracker import PLACEMENT, NutcrackerError, read_pool
from config.reading import BadYaml, Unreadable, read_text, read_yaml

PREFIX = "TAPEDECK_"
DEFAULT_PATH = Path(".tapedeck/tapedeck.yml")
"""The running local stack's configuration, which `tapedeck up` writes."""

# Where a value may come from a file of its own, so that no secret stands in the configuration.
_SECRET_FILES = (
    ("auth", "token_keys_file", "token_keys"),
    ("auth", "service_keys_file", "service_keys"),
    ("admin", "token_file", "token"),
    ("lookup", "password_file", "password"),
    ("mysql", "password_file", "password"),
)

_UNDECODED = re.compile("[\udc80-\udcff]")
"""What Python makes of bytes in the environment that are no UTF-8 (PEP 383)."""
_ODD = re.compile("[\x00-\x08\x0a-\x1f\x7f\ufeff]")
"""What no secret holds that a person typed."""


class ConfigError(Exception):
    """A configuration that cannot be used.

    Attributes:
        source: the file's name.
        problems: one sentence each, `where: what is wrong`.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


class _LookupAlone(Section):
    lookup: Lookup


Model = TypeVar("Model", Sections, _LookupAlone)


def load(path: Path | str, environ: Mapping[str, str] | None = None) -> Sections:
    """Read `path`, put `TAPEDECK_<SECTION>__<KEY>` of `environ` (default: the process's) over it.

    Raises:
        ConfigError: with every problem of the file and of the environment at once.
    """
    path = Path(path)
    environ = os.environ if environ is None else environ
    return parse(_read(path), source=str(path), environ=environ, base=path.parent)


def load_lookup(path: Path | str, environ: Mapping[str, str] | None = None) -> Lookup:
    """As `load`, but the section `lookup` only: it says where keys lie, which asks no server.

    Neither the other sections nor the files of secrets and certificates are looked at.

    Raises:
        ConfigError: with every problem of this section at once.
    """
    path = Path(path)
    document = {"lookup": _read(path).get("lookup", {})}
    variables = os.environ if environ is None else environ
    ours = {k: v for k, v in variables.items() if k.startswith(PREFIX + "LOOKUP__")}
    return _checked(_LookupAlone, document, str(path), ours, path.parent).lookup


def _read(path: Path) -> dict[Any, Any]:
    """The sections of a file, as YAML gives them.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        document = read_yaml(read_text(path))
    except FileNotFoundError:
        hint = " (is a local stack running? `make run` starts one)" if path == DEFAULT_PATH else ""
        raise ConfigError(str(path), [f"there is no such file{hint}"]) from None
    except Unreadable as error:
        raise ConfigError(str(path), [str(error)]) from None
    except BadYaml as error:
        raise ConfigError(str(path), error.problems) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(str(path), ["holds no sections: a mapping is expected at the top"])
    return document


def parse(
    document: Mapping[Any, Any],
    *,
    source: str = "configuration",
    environ: Mapping[str, str] | None = None,
    base: Path = Path(),
) -> Sections:
    """Check a configuration that was already read.

    Args:
        document: sections by name, as YAML gives them.
        source: what to call it in errors.
        environ: overrides; none by default.
        base: the folder that relative names of secret files start from.

    Raises:
        ConfigError: with every problem at once.
    """
    return _checked(Sections, document, source, environ or {}, base)


def _checked(
    model: type[Model],
    document: Mapping[Any, Any],
    source: str,
    environ: Mapping[str, str],
    base: Path,
) -> Model:
    problems: list[str] = []
    merged = _copied(document)
    origins = _override(merged, environ, problems)
    if model is Sections:
        _read_secrets(merged, base, problems)
        _place_tls_files(merged, base)
    _read_nutcracker(merged, base, problems)
    try:
        checked = model.model_validate(merged)
    except ValidationError as error:
        problems.extend(_sentences(error, origins))
    else:
        if isinstance(checked, Sections):
            problems.extend(tls.problems(checked))
    if problems:
        raise ConfigError(source, problems)
    return checked


def _copied(document: Mapping[Any, Any]) -> dict[str, Any]:
    """The sections, to be changed; what names them, and their values, as text."""
    return {
        str(name): {str(key): value for key, value in section.items()}
        if isinstance(section, dict)
        else section
        for name, section in document.items()
    }


def _override(
    merged: dict[str, Any], environ: Mapping[str, str], problems: list[str]
) -> dict[tuple[str, ...], str]:
    """Lay the environment over the file; answer which value came from which variable."""
    origins: dict[tuple[str, ...], str] = {}
    for variable, value in sorted(environ.items()):
        if variable.startswith(PREFIX) and _UNDECODED.search(variable + value):
            problems.append(f"{ascii(variable)[1:-1]} (environment): is no UTF-8")
            continue
        if not variable.startswith(PREFIX) or "__" not in variable:
            if variable == PREFIX + "MODE":
                merged["mode"] = value
                origins[("mode",)] = variable
            continue
        section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        field = Sections.model_fields.get(section)
        known = getattr(field.annotation, "model_fields", None) if field is not None else None
        if known is None or key not in known:
            name = f"{section}.{key}"
            problems.append(
                gone.refusal(name, f"{name} (environment: {variable})")
                or f"{variable} (environment): there is no value {name}"
            )
            continue
        values = merged.setdefault(section, {})
        if isinstance(values, dict):
            values[key] = value
            for with_file, file_key, of_key in _SECRET_FILES:
                if (section, key) == (with_file, of_key):
                    values.pop(file_key, None)
            origins[(section, key)] = variable
    return origins


def _read_secrets(merged: dict[str, Any], base: Path, problems: list[str]) -> None:
    for section, file_key, key in _SECRET_FILES:
        values = merged.get(section)
        if not isinstance(values, dict) or not values.get(file_key):
            continue
        where = f"{section}.{file_key}"
        if values.get(key):
            problems.append(f"{where}: {section}.{key} is given too; only one of them can hold")
            continue
        path = base / str(values[file_key])
        try:
            lines = [line.strip() for line in read_text(path).split("\n")]
        except FileNotFoundError:
            problems.append(f"{where}: cannot be read: there is no {path}")
            continue
        except Unreadable as error:
            problems.append(f"{where}: {path} {error}")
            continue
        secrets = [line for line in lines if line]
        odd = next((found[0] for line in secrets if (found := _ODD.search(line))), None)
        if odd is not None:
            # No editor shows it, and the server refuses the secret without a reason.
            what = "a byte order mark" if odd == "\ufeff" else f"the character U+{ord(odd):04X}"
            problems.append(f"{where}: {path} holds {what}; write it as plain UTF-8 text")
            continue
        if not secrets:
            problems.append(f"{where}: {path} is empty")
            continue
        values[key] = secrets if key.endswith("keys") else secrets[0]


def _place_tls_files(merged: dict[str, Any], base: Path) -> None:
    """Relative names of PEM files start from the configuration's folder, for every process."""
    for section in merged.values():
        if isinstance(section, dict):
            for key, value in section.items():
                if key in tls.FILES and isinstance(value, str) and value:
                    section[key] = str((base / value).absolute())


def _read_nutcracker(merged: dict[str, Any], base: Path, problems: list[str]) -> None:
    """Put a pool of a nutcracker.yml in the place of the words that it decides.

    Words that say where keys lie cannot stand beside it; the others of the section stand over it.
    """
    lookup = merged.get("lookup")
    if not isinstance(lookup, dict):
        return
    if not lookup.get("nutcracker"):
        if lookup.get("pool"):
            problems.append("lookup.pool: needs lookup.nutcracker, the file that has the pool")
        return
    path = (base / str(lookup["nutcracker"])).absolute()
    lookup["nutcracker"] = str(path)
    double = [word for word in PLACEMENT if lookup.get(word) is not None]
    problems.extend(
        f"lookup.{word}: is said by the pool of lookup.nutcracker; only one of them can hold"
        for word in double
    )
    name = lookup.get("pool")
    try:
        words = read_pool(path, None if name is None else str(name)).words
    except NutcrackerError as error:
        problems.extend(f"lookup.nutcracker: {problem}" for problem in error.problems)
        # One that is never used: that there are no servers would be no news.
        words = {"servers": ["127.0.0.1:1:1"]}
    merged["lookup"] = {**words, **{k: v for k, v in lookup.items() if v is not None}}


def _sentences(error: ValidationError, origins: Mapping[tuple[str, ...], str]) -> list[str]:
    found = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        location = tuple(str(part) for part in problem["loc"])
        where = ".".join(location) or "configuration"
        variable = origins.get(location[:2])
        if variable is not None:
            where = f"{where} (environment: {variable})"
        if problem["type"] == "extra_forbidden":
            name = ".".join(location)
            found.append(gone.refusal(name, where) or f"{where}: there is no such value")
        else:
            found.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return found
