"""Reads the files of a configuration: small, regular and UTF-8; YAML with safe rules.

Values that YAML 1.1 would silently convert are text here, or refused with their line: dates, octal
and sexagesimal numbers, tags, repeated keys, aliases that multiply.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from config.values import shown

MOST_BYTES = 1 << 20
"""Most bytes of a file."""
DEEPEST = 32
"""Most levels of a document."""
MOST_NODES = 20_000
"""Most values of a document; an alias counts as many as the node that it names."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class Unreadable(Exception):
    """A file that cannot be read; the message says why, without the file's name."""


class BadYaml(Exception):
    """A text that is not YAML, or breaks the rules of this module.

    Attributes:
        problems: one sentence each, with the line. They quote no value: it may be a secret.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        Unreadable: it does not exist, is not a regular file, is too large or not UTF-8, or this
            user may not read it.
    """
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable("cannot be read: it is no regular file")
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise Unreadable("cannot be read: there is no such file") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # of a NUL in the name
        raise Unreadable(f"cannot be read: {error}") from None
    if len(raw) > MOST_BYTES:
        raise Unreadable(f"cannot be read: it has more than {MOST_BYTES >> 20} MiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"cannot be read: line {line} is no UTF-8") from None


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document that was read.

    Attributes:
        value: what it says; None if it is empty.
        lines: where each value of it stands, by its keys and the numbers of entries as text.
        twice: a sentence for each key that is given twice.
    """

    value: Any
    lines: dict[tuple[str, ...], int]
    twice: list[str]


def read_yaml(text: str, *, as_text: bool = False) -> Document:
    """Read a YAML document.

    Args:
        as_text: whether every value is text, and << a key like any other.

    Raises:
        BadYaml: with the first problem, but for keys that are given twice.
    """
    with _composed(text, _Guarded if as_text else _Typed) as (loader, node):
        if node is None:
            return Document(None, {}, [])
        # First the value: it puts merged mappings in their places.
        value = loader.construct_document(node)
        return Document(value, dict(_lines(node, ())), loader.twice)


def _lines(node: yaml.Node, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        inner = [(key.value, key.start_mark, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(str(n), value.start_mark, value) for n, value in enumerate(node.value)]
    else:
        return
    for name, mark, value in inner:
        yield (*place, name), mark.line + 1
        yield from _lines(value, (*place, name))


def compose_plain(text: str) -> yaml.Node | None:
    """The nodes of a YAML document whose scalars are all text; None if it is empty.

    Raises:
        BadYaml: with the first problem.
    """
    with _composed(text, _Guarded) as (_, node):
        return node


@contextlib.contextmanager
def _composed(text: str, kind: type[_Guarded]) -> Iterator[tuple[_Guarded, yaml.Node | None]]:
    try:
        loader = kind(text)
        yield loader, loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadYaml([f"line {line} holds a character that YAML does not allow"]) from None
    except yaml.MarkedYAMLError as error:
        # Only the place: the parser's own message quotes the line, which may contain a secret.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        what = f"is no YAML at {where}: look for quotes, colons and indentation"
        raise BadYaml([what]) from None


def _refused(what: str, mark: yaml.Mark) -> BadYaml:
    return BadYaml([f"line {mark.line + 1}: {what}"])


class _Guarded(yaml.BaseLoader):
    """Refuses documents that are too deep or too large, and tags and control characters. Every
    scalar is text.

    Attributes:
        twice: a sentence for each repeated key.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[str] = []
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node.

        Raises:
            BadYaml: the node breaks a rule.
        """
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            size = self._sizes.get(id(node))
            if size is None:
                raise _refused("an alias stands within what it names", mark)
            self._count(size, mark)
            return node
        if getattr(event, "tag", None) is not None:
            raise _refused(
                "a tag means nothing in this YAML; quote a value that begins with !", mark
            )
        if isinstance(event, yaml.ScalarEvent) and _CONTROL.search(event.value):
            raise _refused("a control character is in this value", mark)
        before = self._nodes
        self._count(1, mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"is nested more than {DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        if isinstance(node, yaml.MappingNode):
            self._look_for_double_keys(node)
        return node

    def _count(self, nodes: int, mark: yaml.Mark) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _refused(f"more than {MOST_NODES:,} values, with all that aliases name", mark)

    def _look_for_double_keys(self, node: yaml.MappingNode) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or "\n" in key.value:
                raise _refused("a key must be one word", key.start_mark)
            line = key.start_mark.line + 1
            if key.value in lines:
                name = shown(key.value)
                self.twice.append(
                    f"line {line}: {name} is given twice, first on line {lines[key.value]}"
                )
            lines.setdefault(key.value, line)


class _Typed(_Guarded, yaml.SafeLoader):
    """Decimal numbers, true and false, and null have their types. All else is text: also dates, and
    0777, 1:30, 1_000 and .inf, which are numbers in YAML 1.1."""


_Typed.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in (
    (
        "bool",
        "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        "yYnNtTfFoO",
    ),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    ("float", r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,30}(e[-+][0-9]{1,2})?", "-+0123456789"),
    ("merge", "<<", "<"),
):
    _Typed.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first)
    )
