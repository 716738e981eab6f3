"""The map file: which column, SQL expression or field of a source has which part of a state.

No I/O: it turns the text of the file and the values of rows into records.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Struct

from config.reading import BadYaml, compose_plain
from sharding.partitions.calendar import parse_day, utc_day
from sharding.state import PLAYLIST_MAX, USER_MAX, Key, Owner

PLACE = ("played", "at_end", "skips", "reported", "listened")
"""The parts of a Player's state (`gateway.player.rules`)."""
_TOP = ("user", "playlist", "day", "updated", "key", "body", "player")
_NEEDED = ("user", "playlist")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class BadMap(Exception):
    """A map file that cannot be used.

    Attributes:
        problems: one sentence each, with the line.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class BadRow(Exception):
    """A row that cannot become a state; says which value is wrong, and why."""


class Map(Struct, frozen=True):
    """A map file.

    Attributes:
        columns: the columns, SQL expressions or fields of the source, by their meaning: `user`,
            `playlist`, `day`, `updated`, `body`, or one of `PLACE`.
        key: for Redis, the pattern of the keys, such as `state:{user}:{playlist}`.
        optional: the meanings whose field a record may lack: the map has a `?` behind them.
    """

    columns: dict[str, str]
    key: str = ""
    optional: frozenset[str] = frozenset()

    def name_of(self, meaning: str) -> str:
        """The source's name of a column; the meaning where the map has an expression."""
        said = self.columns[meaning]
        return said if _PLAIN.fullmatch(said) else meaning


class Record(Struct, frozen=True):
    """A state from the source.

    Attributes:
        day: the UTC day of the partition that it belongs to.
        body: the bytes to store.
    """

    key: Key
    day: date
    owner: Owner
    body: bytes


def read_map(text: str) -> Map:
    """Read a map file.

    Raises:
        BadMap: with every problem, each with its line.
    """
    try:
        document = compose_plain(text)
    except BadYaml as error:
        raise BadMap(error.problems) from None
    if not isinstance(document, yaml.MappingNode):
        raise BadMap(["line 1: a map is `meaning: column` on each line, such as `user: user_id`"])
    problems: list[str] = []
    said: dict[str, str] = {}
    for name, node, line in _entries(document, _TOP, problems):
        if name == "player":
            if not isinstance(node, yaml.MappingNode):
                problems.append(f"line {line}: player: say below it what {', '.join(PLACE)} are")
                continue
            for inner, value, at in _entries(node, PLACE, problems):
                _say(said, inner, value, at, problems)
        else:
            _say(said, name, node, line, problems)
    key = said.pop("key", "")
    problems += [
        f"{name}: is missing: say which column has it"
        for name in _NEEDED
        if name not in said and f"{{{name}}}" not in key
    ]
    if ("body" in said) == bool(set(said) & set(PLACE)):
        problems.append("say either `player:` with what it is made of, or `body:`, a JSON object")
    if problems:
        raise BadMap(problems)
    optional = frozenset(name for name, path in said.items() if path.endswith("?"))
    said.update({name: said[name][:-1].rstrip() for name in optional})
    return Map(said, key, optional)


def _entries(
    node: yaml.MappingNode, known: Sequence[str], problems: list[str]
) -> Iterable[tuple[str, yaml.Node, int]]:
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            problems.append(f"line {line}: {key.value!r} is given twice")
        elif key.value not in known:
            near = difflib.get_close_matches(key.value, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            problems.append(f"line {line}: there is no {key.value!r}: {hint}")
        else:
            seen.add(key.value)
            yield key.value, value, line


def _say(said: dict[str, str], name: str, node: yaml.Node, line: int, problems: list[str]) -> None:
    if isinstance(node, yaml.ScalarNode) and node.value.strip():
        said[name] = node.value.strip()
    else:
        problems.append(f"line {line}: {name}: a column's name or an expression is expected")


Encode = Callable[..., bytes]
"""Encodes the values of `PLACE` as the Player's body."""


def record(
    values: Mapping[str, Any], day: date | None, encode: Encode, max_bytes: int = 1 << 16
) -> Record:
    """Make a record from a row.

    Args:
        values: by meaning (see `Map.columns`); or `broken`, what is wrong with the whole row.
        day: of the row's table; None where the row has a day itself.
        max_bytes: most bytes of a body.

    Raises:
        BadRow: the row cannot become a state.
    """
    if "broken" in values:
        raise BadRow(values["broken"])
    key = Key(
        _number(values, "user", USER_MAX, "anonymous listeners lie above"),
        _number(values, "playlist", PLAYLIST_MAX),
    )
    day = _day(values.get("day")) if day is None or values.get("day") is not None else day
    if "body" in values:
        owner, body = Owner.STATES_API, _body(values["body"])
    else:
        owner = Owner.PLAYER
        there = [name for name in PLACE if values.get(name) is not None]
        body = encode(**{name: _PARTS[name](values[name], name) for name in there})
    if len(body) > max_bytes:
        raise BadRow(f"the state has {len(body)} bytes, more than states.max_bytes ({max_bytes})")
    return Record(key, day, owner, body)


def _text(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRow(f"{bytes(value[:20])!r} is no UTF-8") from None
    return value


def user_of(values: Mapping[str, Any]) -> int | None:
    """The user of a row; None if it is no number."""
    try:
        return _whole(values.get("user"))
    except ValueError:
        return None


def _whole(value: Any) -> int:
    """A whole number. Unlike `int` it takes no fraction, no truth value, and no `7_0`.

    Raises:
        ValueError: it is another value.
    """
    if type(value) is int:
        return value
    text = value if type(value) is bytes else str(value).encode()
    if b"_" in text:
        raise ValueError(value)
    return int(text)


def _number(values: Mapping[str, Any], name: str, most: int, hint: str = "") -> int:
    value = values.get(name)
    try:
        value = _whole(value)
    except ValueError:
        raise BadRow(f"{name}: {_text(value)!r} is no whole number") from None
    if not 1 <= value <= most:
        raise BadRow(f"{name}: {value} is not from 1 to {most}{hint and f' ({hint})'}")
    return value


def _day(value: Any) -> date:
    value = _text(value)
    if isinstance(value, datetime):
        return value.date() if value.tzinfo is None else value.astimezone(UTC).date()
    if isinstance(value, date):
        return value
    text = str(value)
    if len(text) > len("2026-11-30") and text[4:5] == "-":
        with contextlib.suppress(ValueError, OverflowError):  # a time, perhaps of another zone
            return _day(datetime.fromisoformat(text))
    found = parse_day(text[:10].replace("-", ""))
    if found is not None and (len(text) == 8 or text[4:5] == "-"):
        return found
    try:
        return utc_day(seconds(value))
    except (ValueError, OverflowError, OSError, TypeError):
        raise BadRow(f"day: {_text(value)!r} is no day, date, or seconds since 1970") from None


def _list(value: Any, name: str) -> Sequence[Any]:
    value = _text(value)
    if value is None or value in ("", "[]", "null"):  # `null` is JSON's: a column may have it
        return ()
    if isinstance(value, str):
        if value.lstrip()[:1] == "[":
            try:
                value = msgspec.json.decode(value)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                raise BadRow(f"{name}: {value[:40]!r} is no JSON list") from None
        else:
            value = [part.strip() for part in value.split(",")]
    return value if isinstance(value, list) else (value,)


Id = Annotated[int, msgspec.Meta(gt=0, le=PLAYLIST_MAX)]
_id_list = msgspec.json.Decoder(tuple[Id, ...])


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """The ids without repetitions: each track at its last place, as a state has it."""
    found: tuple[int, ...]
    try:
        found = _id_list.decode(value)  # as most sources have them
    except (msgspec.MsgspecError, TypeError, ValueError):
        try:
            found = tuple(map(_whole, _list(value, name)))
            if found and not (min(found) > 0 and max(found) <= PLAYLIST_MAX):
                raise ValueError(found) from None
        except (ValueError, TypeError, OverflowError):
            raise BadRow(f"{name}: {_text(value)!r} is no list of track ids") from None
    if len(set(found)) == len(found):
        return found
    return tuple(reversed(dict.fromkeys(reversed(found))))


def _times(value: Any, name: str) -> tuple[float, ...]:
    if value in (b"[]", b""):
        return ()
    try:
        return tuple([seconds(one) for one in _list(value, name)])
    except (ValueError, TypeError, OverflowError):
        raise BadRow(f"{name}: {_text(value)!r} is no list of times") from None


_MILLISECONDS = 1e11
"""A larger time is in milliseconds: in seconds it would be after the year 5138."""
_EARLIEST, _LATEST = 1e8, 1e10
"""Seconds since 1970, in 1973 and 2286: another number is a count, or a date in figures."""


def seconds(value: Any) -> float:
    """A time as seconds since 1970.

    Args:
        value: seconds, milliseconds (see `_MILLISECONDS`), or ISO 8601.

    Raises:
        ValueError: it is not a time.
    """
    if isinstance(value, datetime):
        value = value.isoformat()
    try:
        found = float(value)
    except ValueError:
        when = datetime.fromisoformat(str(value))
        found = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    found = found / 1000 if found > _MILLISECONDS else found
    if not _EARLIEST < found < _LATEST:
        raise ValueError(f"{value!r} is no time")
    return found


def _switch(value: Any, name: str) -> bool:
    if type(value) is int:
        return bool(value)
    if value in (b"0", b"1", b"\0", b"\1"):  # a BIT column has the last two
        return value in (b"1", b"\1")
    text = str(_text(value)).strip().lower()
    if text in ("true", "t", "yes", "y", "false", "f", "no", "n", "null", ""):
        return text[:1] in ("t", "y")
    try:
        return bool(float(text))
    except ValueError:
        raise BadRow(f"{name}: {_text(value)!r} is neither true nor false") from None


_PARTS: dict[str, Callable[[Any, str], Any]] = {
    "played": _ids,
    "at_end": _switch,
    "skips": _times,
    "reported": _ids,
    "listened": _switch,
}
"""What reads the values of `PLACE`."""


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _body(value: Any) -> bytes:
    try:
        body = value.encode() if isinstance(value, str) else value
        if isinstance(body, dict):
            body = msgspec.json.encode({name: _text(one) for name, one in body.items()})
        body = bytes(memoryview(body))  # of a number, bytes() would make so many
        body.decode()
        _object.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        raise BadRow(f"body: {str(value)[:40]!r} is no JSON object") from None
    return body
