"""The problems of a wrong configuration: each with its place, and what was probably meant.

No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel

from config.model import Sections
from config.values import close_to, did_you_mean

_NO_LIMIT = "a load without a hint needs no limit any more"
GONE = {
    "lookup.move_rate": "a reload copies no entries any more",
    "lookup.on_lookup_failure": "a load without a hint always reads what MySQL has",
    "lookup.probe_rate": _NO_LIMIT,
    "lookup.probe_burst": _NO_LIMIT,
    "lookup.probe_overload": _NO_LIMIT,
}
"""Values of earlier versions, by `section.key`, and why each was removed."""
PREFIX = "TAPEDECK_"
"""The prefix of environment variables that override values of the file."""

Place: TypeAlias = tuple[str, ...]
"""The place of a value: its section, its key, the number of an entry."""


class Problems:
    """The problems of one configuration.

    Args:
        lines: the line of each value in the file.

    Attributes:
        found: a sentence for each: `line 7: section.key: what is wrong`, without the line if the
            value is not from the file.
        origins: the environment variable of each value that has one.
        doubted: sections with a wrong value: problems of rules between their values may vanish
            once it is corrected.
    """

    def __init__(self, lines: Mapping[Place, int]) -> None:
        self.found: list[str] = []
        self.origins: dict[Place, str] = {}
        self.doubted: set[str] = set()
        self._lines = lines

    def add(self, place: Place | str, what: str) -> None:
        """Note a problem, once.

        Args:
            place: of the value, also as `section.key`.
            what: is wrong with it.
        """
        place = tuple(place.split(".")) if isinstance(place, str) else place
        name = ".".join(place) or "configuration"
        if variable := self.origins.get(place[:2]):
            sentence = f"{name} (environment: {variable}): {what}"
        elif line := line_of(place, self._lines):
            sentence = f"line {line}: {name}: {what}"
        else:
            sentence = f"{name}: {what}"
        if sentence not in self.found:
            self.found.append(sentence)
        self.doubted.update(place[:1])

    def add_unknown(self, place: Place) -> None:
        """Note a name that the configuration does not have; its section is not doubted for it."""
        doubted = set(self.doubted)
        self.add(place, unknown(place))
        self.doubted = doubted


def line_of(place: Place, lines: Mapping[Place, int]) -> int | None:
    """The line of a value, or else of its section or list; None if the file has neither."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def names_at(place: Sequence[str]) -> list[str]:
    """The names that the configuration knows within a section, or an entry of a list.

    >>> names_at(["lookup", "servers", "0"])
    ['host', 'port', 'weight', 'name']
    """
    model: type[BaseModel] | None = Sections
    for name in place:
        if model is not None and not name.isdigit():
            field = model.model_fields.get(name)
            model = None if field is None else _model_in(field.annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation names, such as `tuple[Annotated[Model, ...], ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


@cache
def variables() -> dict[str, str]:
    """The environment variables that override values, each with the value's name."""
    names = [f"{section}.{key}" for section in Sections.model_fields for key in names_at([section])]
    return {f"{PREFIX}{name.replace('.', '__')}".upper(): name for name in ("mode", *names)}


def unknown(place: Place) -> str:
    """The sentence for a name that the configuration does not have."""
    if why := GONE.get(".".join(place)):
        return f"is gone ({why}); remove it"
    *parents, name = place
    what = "section" if not parents else "value"
    close = [".".join((*parents, near)) for near in close_to(name, names_at(parents))]
    # The right name in the wrong section is as likely as a slip of the finger.
    elsewhere = [value for value in variables().values() if value.partition(".")[2] == name]
    return f"there is no such {what}{did_you_mean(close or elsewhere)}"


def unknown_variable(variable: str, name: str) -> str:
    """The sentence for a variable whose value does not exist.

    Args:
        name: `section.key`, as the variable has it.
    """
    if why := GONE.get(name):
        return f"is gone ({why}); remove it"
    return f"there is no value {name}{did_you_mean(close_to(variable, variables()))}"


def meant(variable: str) -> str | None:
    """The variable that differs from another one only in underscores, which would be ignored."""
    squeezed = variable.replace("_", "")
    return next((name for name in variables() if name.replace("_", "") == squeezed), None)
