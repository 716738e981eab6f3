"""Sources of states: MySQL tables, Redis keys, files. They are read in parts, each in batches.

A part is a day's table, a day of one table, a file, or a keyspace. An import that was interrupted
begins its part anew, and skips the parts that were done. The newest day comes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from failover.mysql.errors import classify
from sharding.importing.csv_records import CsvRecord, csv_records
from sharding.importing.mapping import Map, seconds, user_of

BATCH = 2000
"""Rows that are read at once."""
PATIENCE = 3600
"""Seconds that the source's server waits for the import, which may itself wait for Tapedeck's."""
DAY_SECONDS = 86_400
PASSWORD = "TAPEDECK_SOURCE_PASSWORD"  # noqa: S105
"""The environment variable with the source's password, if the address has none."""

PRIVATE, PRIVATE_OF_CURSOR = ("_rfile",), ("_result",)
"""The names of PyMySQL that are not in its documentation: rows are read from the stream itself."""

ADDRESSES, FILES = ("mysql", "mariadb", "redis", "rediss"), (".csv", ".jsonl")

Rows = list[tuple[str, dict[str, Any]]]
"""Rows: each one's name in reports, and its values by meaning (see `Map.columns`)."""


class BadSource(Exception):
    """The source cannot be read; says why."""


class SourceLost(BadSource):
    """The connection to the source was lost, or could not be made: another try may succeed."""


class Part(Struct, frozen=True):
    """A part of a source.

    Attributes:
        name: in reports, and in the file of parts that are done.
        table: for MySQL.
        day: of all its rows; None where each row has its own.
        rows: about how many it has; 0 if that is not known.
        holds: of one table with a column for the day, the SQL condition on that column.
    """

    name: str
    table: str = ""
    day: date | None = None
    rows: int = 0
    holds: str = ""


class Source:
    """A source of states. Its methods block: call them in a thread.

    Args:
        wanted: the address or file to read.
        said: the map.
        since: read only rows changed since then, by the map's `updated`, or tables from its day on.
        users: read only these users' states; all if empty.
    """

    def __init__(self, wanted: str, said: Map, since: datetime | None, users: tuple[int, ...]):
        self.wanted, self.map, self.since, self.users = wanted, said, since, users

    def parts(self, oldest: date, newest: date) -> list[Part]:
        """The parts with days from `oldest` on, the newest first."""
        return [Part(_without_password(self.wanted))]

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows of a part, in batches.

        Raises:
            BadSource: it cannot be read.
        """
        raise NotImplementedError

    def _chosen(self, rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Rows]:
        """The rows of the wanted users that were changed since `since`, in batches."""
        batch: Rows = []
        since = day = None
        if self.since is not None:  # a time may be written without its fraction, or as a day
            since = int(self.since.timestamp())
            day = since - since % DAY_SECONDS
        for row in rows:
            if self.users and user_of(row[1]) not in self.users:
                continue
            if since is not None and row[1].get("updated") is not None:
                with contextlib.suppress(ValueError, TypeError):
                    at = seconds(_plain(row[1]["updated"]))
                    if at < since and at != day:
                        continue
            batch.append(row)
            if len(batch) == BATCH:
                yield batch
                batch = []
        yield batch


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _without_password(address: str) -> str:
    """An address without its user, password and options; a file as it is."""
    return re.sub(r"^(\w+://)(?:.*@)?([^?]*).*", r"\1\2", address)


def open_source(
    wanted: str, tables: str, said: Map, since: datetime | None, users: tuple[int, ...]
) -> Source:
    """The source at an address or in a file.

    Raises:
        BadSource: it is not an address or file of a known kind, or an option is missing.
    """
    scheme = urlsplit(wanted).scheme
    if not (scheme in ADDRESSES or Path(wanted).suffix in FILES):
        raise BadSource(
            f"{_without_password(wanted)}: is no mysql:// or redis:// address, and no .csv or"
            " .jsonl file"
        )
    if scheme in ADDRESSES:
        try:
            _ = urlsplit(wanted).port
        except ValueError:
            raise BadSource(
                "the address's port is no number; in a user or password / is written as %2F, ? as"
                " %3F, # as %23, @ as %40"
            ) from None
    if scheme in ("mysql", "mariadb"):
        if not tables:
            raise BadSource("say which tables: --tables 'player_data_%Y%m%d', or one table's name")
        return Tables(wanted, tables, said, since, users)
    if scheme in ("redis", "rediss") and not said.key:
        raise BadSource("the map needs `key:` for Redis, such as key: state:{user}:{playlist}")
    if "day" not in said.columns and "{day}" not in said.key:
        raise BadSource("the map needs `day:`: each state goes into the partition of its own day")
    if scheme in ("redis", "rediss"):
        return Keys(wanted, said, since, users)
    if not Path(wanted).exists():
        raise BadSource(f"{wanted}: there is no such file")
    return File(wanted, said, since, users)


class Tables(Source):
    """MySQL: a table for each day, named by it, or one table with a column for the day."""

    def __init__(
        self, wanted: str, tables: str, said: Map, since: datetime | None, users: tuple[int, ...]
    ):
        super().__init__(wanted, said, since, users)
        if said.optional:
            raise BadSource(
                f"a ? in the map is for files and Redis: write an expression for"
                f" {', '.join(sorted(said.optional))}, such as NULL for a column that is not there"
            )
        self.tables = tables
        self.daily = "%" in tables
        if not self.daily and "day" not in said.columns:
            raise BadSource(f"the map needs `day:`, as the name {tables!r} has no %Y%m%d")
        self._address = urlsplit(wanted)
        self._from = since

    def _connect(self) -> Any:
        import pymysql

        at = self._address
        try:
            return pymysql.connect(
                host=at.hostname or "127.0.0.1",
                port=at.port or 3306,
                user=unquote(at.username or ""),
                password=unquote(at.password or os.environ.get(PASSWORD, "")),
                database=at.path.strip("/"),
                charset="utf8mb4",
                init_command=(
                    f"SET time_zone = '+00:00', net_write_timeout = {PATIENCE},"
                    f" wait_timeout = {PATIENCE}, group_concat_max_len = {_CUT}"
                ),
                connect_timeout=10,
                read_timeout=300,
            )
        except pymysql.MySQLError as error:
            raise _in_words("the source's MySQL", error) from None

    def parts(self, oldest: date, newest: date) -> list[Part]:
        """A part for each day, from the tables' names or the map's `day`."""
        found = []
        connection = self._connect()
        with connection, connection.cursor() as cursor:
            if self.since is not None:
                self._from = self._since_there(cursor, self.since)
            if not self.daily:
                return self._parts_of_one(oldest, newest)
            cursor.execute(
                "SELECT table_name, table_rows FROM information_schema.tables"
                " WHERE table_schema = DATABASE()"
            )
            for name, rows in cursor.fetchall():
                day = _day_in(self.tables, str(_plain(name)))
                if day is not None and day >= oldest:  # rows of later days are reported
                    found.append(Part(str(_plain(name)), str(_plain(name)), day, int(rows or 0)))
        if not found:
            raise BadSource(
                f"no table {self.tables} has a day from {oldest} on: older ones are past retention"
            )
        found.sort(key=lambda part: part.day or date.min, reverse=True)
        if self._from is not None and "updated" not in self.map.columns:
            found = [part for part in found if part.day and part.day >= self._from.date()]
        return found

    def _since_there(self, cursor: Any, since: datetime) -> datetime:
        """`since` by the source's clock, if that is behind, and in its time zone, if that is.

        A row that was changed now may be stamped with that clock and in that zone. The zone's
        offset then and now may differ. A TIMESTAMP is in UTC, and so is what an expression gives.
        """
        column = self.map.columns.get("updated")
        now, then = datetime.now(UTC), "'{:%Y-%m-%d %H:%M:%S}'".format
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND column_name = %s AND data_type <> 'timestamp'",
            (column,),
        )
        ((in_zone,),) = cursor.fetchall()
        zoned = "CONVERT_TZ({0}, '+00:00', @@global.time_zone)"
        ahead = f"COALESCE(TIMESTAMPDIFF(SECOND, {{0}}, {zoned}), 0)"
        cursor.execute(
            f"SELECT TIMESTAMPDIFF(SECOND, {then(now)}, UTC_TIMESTAMP()),"
            f" {ahead.format('UTC_TIMESTAMP()')}, {ahead.format(then(since))}"
        )
        ((clock, *offsets),) = cursor.fetchall()
        zone = min(0, *offsets) if in_zone or column is None else 0
        return since + timedelta(seconds=min(0, clock) + zone)

    def _parts_of_one(self, oldest: date, newest: date) -> list[Part]:
        """The days of one table, and the rows whose day is missing or to come: they are read to be
        reported."""
        column = f"({self.map.columns['day']})"
        after = newest + timedelta(days=1)
        none = f"({column} IS NULL OR {column} < '0001-01-01' OR {column} >= '{after}')"
        found = [Part(f"{self.tables} without a day, or later", self.tables, holds=none)]
        while after > oldest:
            day, before = after - timedelta(days=1), after
            holds = f"{column} >= '{day}' AND {column} < '{before}'"
            found.append(Part(f"{self.tables} {day:%Y%m%d}", self.tables, day, holds=holds))
            after = day
        return found

    def _names(self, part: Part) -> list[str]:
        """The meanings that are read from a part: those that the WHERE asks for are not."""
        asked = ("updated", "day") if part.holds and part.day else ("updated",)
        return [name for name in self.map.columns if name not in asked]

    def statement(self, part: Part) -> str:
        """The statement that reads a part."""
        columns = self.map.columns
        wanted = ", ".join(f"({columns[name]}) AS `{name}`" for name in self._names(part))
        holds = [part.holds] if part.holds else []
        if self._from is not None and "updated" in columns:
            updated = f"({columns['updated']})"
            # The second is for a DATE, whose time is always earlier.
            holds.append(
                f"({updated} >= '{self._from:%Y-%m-%d %H:%M:%S}'"
                f" OR {updated} = '{self._from:%Y-%m-%d}')"
            )
        if self.users:
            holds.append(f"({columns['user']}) IN ({', '.join(map(str, self.users))})")
        where = f" WHERE {' AND '.join(holds)}" if holds else ""
        return f"SELECT {wanted} FROM `{part.table.replace('`', '')}`{where}"

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows, streamed: they are not all in memory at once."""
        import pymysql
        from pymysql.cursors import SSCursor

        names = self._names(part)
        connection = self._connect()
        try:
            cursor = connection.cursor(SSCursor)
            cursor.execute(self.statement(part))
            cursor._result.unbuffered_active = False  # from here on the rows are not the driver's
            rows = enumerate(_raw_rows(connection._rfile, len(names)), 1)
            while found := list(islice(rows, BATCH)):
                yield [
                    (f"{part.table} row {number}", dict(zip(names, row, strict=True)))
                    for number, row in found
                ]
        except (pymysql.MySQLError, OSError) as error:
            raise _in_words(part.table, error) from None
        finally:
            connection.close()


def _in_words(what: str, error: Exception) -> BadSource:
    known = classify(error)
    kind = SourceLost if known is not None and known.passing else BadSource
    return kind(f"{what}: {known or error}")


def _raw_rows(stream: BinaryIO, columns: int) -> Iterator[list[bytes | None]]:
    """The rows that MySQL sends, as bytes: the driver takes three times as long for a row.

    The format is that of the MySQL internals manual, "Text Resultset".

    Args:
        stream: of the driver, which has read the columns' names.

    Raises:
        pymysql.MySQLError: MySQL ended the statement, or the connection.
    """
    from pymysql.err import InternalError, raise_mysql_exception

    while True:
        header = stream.read(4)
        length = int.from_bytes(header[:3], "little")
        packet = stream.read(length)
        if len(header) < 4 or len(packet) < length or not packet:
            raise InternalError("the server closed the connection")
        if packet[0] == _ERROR:
            raise_mysql_exception(packet)
        if packet[0] == _END and length < _LONGEST_END:
            return
        if length == _CUT:
            raise InternalError("a row has 16 MB or more")
        row: list[bytes | None] = []
        at = 0
        for _ in range(columns):
            size = packet[at]
            at += 1
            if size > _SHORT:
                if size == _NULL:
                    row.append(None)
                    continue
                more = {0xFC: 2, 0xFD: 3, 0xFE: 8}[size]
                size = int.from_bytes(packet[at : at + more], "little")
                at += more
            row.append(packet[at : at + size])
            at += size
        yield row


_SHORT, _NULL, _END, _ERROR, _CUT = 0xFA, 0xFB, 0xFE, 0xFF, 0xFFFFFF
"""The last is the longest row too: MySQL cuts GROUP_CONCAT to 1,024 bytes unless told otherwise."""
_LONGEST_END = 9
"""An end is shorter than this; so many bytes or more that begin alike are a row."""


def _day_in(pattern: str, name: str) -> date | None:
    """The day in a table's name, by a pattern of strftime; None if it does not match."""
    try:
        return datetime.strptime(name, pattern).date()  # noqa: DTZ007
    except ValueError:
        return None


class Keys(Source):
    """Redis: each key is a hash or a JSON text. Of a cluster each primary is a part."""

    def __init__(
        self, wanted: str, said: Map, since: datetime | None, users: tuple[int, ...]
    ) -> None:
        super().__init__(wanted, said, since, users)
        self._address = urlsplit(wanted)
        if not re.fullmatch(r"/?[0-9]*", self._address.path):
            raise BadSource(f"the database {self._address.path[1:]!r} is no number")
        self._without_keys: set[Part] = set()
        self._parts: list[Part] = []

    @contextlib.contextmanager
    def _client(self, node: str) -> Iterator[Any]:
        """A client of a node, or of the address if it is empty."""
        import redis

        at = self._address
        if node:
            at = at._replace(netloc=f"{at.netloc.rpartition('@')[0]}@{node}")
        password = None if at.password else os.environ.get(PASSWORD)
        # Servers before Redis 6 know only this protocol.
        client = redis.Redis.from_url(at.geturl(), password=password, socket_timeout=10, protocol=2)
        try:
            with client:
                yield client
        except redis.RedisError as error:
            what = str(error).rstrip(".")
            passing = isinstance(error, redis.ConnectionError | redis.TimeoutError)
            if isinstance(error, redis.AuthenticationError):
                what += f": the password is in the address, or in {PASSWORD}"
                passing = False
            elif "CERTIFICATE_VERIFY_FAILED" in what:
                what += ": add ?ssl_ca_certs=FILE to the address"
                passing = False
            elif isinstance(error, redis.exceptions.AskError):  # MOVED is one too
                what += ": the cluster's slots move: import again when that has ended"
            kind = SourceLost if passing else BadSource
            raise kind(f"the source's Redis: {what}") from None

    def parts(self, oldest: date, newest: date) -> list[Part]:
        """The whole keyspace, or that of each primary of a cluster."""
        from redis.cluster import parse_cluster_slots

        host = self._address.hostname or "localhost"
        self._parts = super().parts(oldest, newest)
        with self._client("") as client:
            if client.info("cluster").get("cluster_enabled"):
                slots = parse_cluster_slots(client.cluster("slots"), current_host=host)
                nodes = {slot["primary"][:2] for slot in slots.values()}
                named = [f"[{at}]:{n}" if ":" in at else f"{at}:{n}" for at, n in sorted(nodes)]
                self._parts = [Part(f"{self._address.scheme}://{node}", node) for node in named]
        return self._parts

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows, by SCAN: a key that exists all the time comes at least once.

        That holds within one run of the server: a restarted one scans in another order.
        """
        pattern, glob = _key_pattern(self.map.key)

        def each(client: Any) -> Iterator[tuple[str, dict[str, Any]]]:
            keys, found = list[bytes](), False
            for key in client.scan_iter(match=glob, count=BATCH):
                found = True
                keys.append(key)
                if len(keys) == BATCH:
                    yield from self._read(client, keys, pattern)
                    keys = []
            if not found:
                self._without_keys.add(part)
            if self._without_keys.issuperset(self._parts):
                raise BadSource(f"no key is called as the map's key: {self.map.key}")
            yield from self._read(client, keys, pattern)

        with self._client(part.table) as client:
            run = client.info("server")["run_id"]
            yield from self._chosen(each(client))
            if client.info("server")["run_id"] != run:
                raise SourceLost("the source's Redis was restarted while it was read")

    def _read(
        self, client: Any, keys: list[bytes], pattern: re.Pattern[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.type(key)
            kinds = pipe.execute()
            for key, kind in zip(keys, kinds, strict=True):
                pipe.hgetall(key) if kind == b"hash" else pipe.get(key)
            values = pipe.execute(raise_on_error=False)
        for key, value in zip(keys, values, strict=True):
            name = key.decode("utf-8", "replace")
            match = pattern.fullmatch(name)
            if value is None or value == {}:
                continue  # it expired meanwhile
            if match is None:
                yield (
                    name,
                    {"broken": f"is not called as the map's key, with numbers: {self.map.key}"},
                )
                continue
            if isinstance(value, dict):
                fields = {_plain(field): one for field, one in value.items()}
                picked = _pick(self.map, fields, fields)
            elif not isinstance(value, Exception):
                picked = _pick_json(self.map, value)
            elif str(value).startswith("WRONGTYPE"):
                picked = {"broken": "is no hash and no text"}
            else:
                raise value
            yield name, {**picked, **match.groupdict()}


def _key_pattern(key: str) -> tuple[re.Pattern[str], str]:
    pieces = re.split(r"\{(user|playlist|day)\}", key)
    pattern = ""
    for n, piece in enumerate(pieces):
        group = f"(?P={piece})" if piece in pieces[1:n:2] else f"(?P<{piece}>[0-9-]+)"
        pattern += group if n % 2 else re.escape(piece)
    glob = "*".join(re.sub(r"([*?\[\]\\])", r"\\\1", piece) for piece in pieces[::2])
    return re.compile(pattern), glob


class File(Source):
    """CSV whose first line has the names, or a JSON object on each line."""

    def rows(self, part: Part) -> Iterator[Rows]:
        """Line by line."""
        try:
            # What is no UTF-8 becomes a value that is refused, not the end of the run.
            with Path(self.wanted).open(
                encoding="utf-8-sig", errors="backslashreplace", newline=""
            ) as file:
                yield from self._chosen(self._read(file))
        except OSError as error:
            raise BadSource(f"{self.wanted}: it cannot be read: {error.strerror}") from None

    def _read(self, file: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.wanted.endswith(".csv"):
            yield from self._read_csv(csv_records(file))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _pick_json(self.map, line)

    def _read_csv(self, records: Iterator[CsvRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        first = next(records, CsvRecord(1, 1, []))
        if first.bad:
            raise BadSource(f"{self.wanted}: the first line {first.bad}")
        needed = [path for name, path in self.map.columns.items() if name not in self.map.optional]
        if lacking := [path for path in needed if path not in (*first.cells, ".")]:
            has = f"it has {', '.join(first.cells)}" if first.cells else "the file is empty"
            raise BadSource(
                f"{self.wanted}: the first line has no column {', '.join(lacking)}: {has}"
            )
        for row in records:
            if row.bad:
                yield row.name, {"broken": row.bad, "row": row.cells}
            elif row.cells:
                fields = dict(zip(first.cells, row.cells, strict=True))
                yield row.name, _pick(self.map, fields, fields)


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _pick_json(said: Map, text: str | bytes) -> dict[str, Any]:
    """The mapped fields of a JSON object (see `_pick`). Objects and lists are left as they are
    written, so that a body keeps the digits of its numbers."""
    try:
        return _pick(said, _object.decode(text), text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {"broken": "is no JSON object", "row": text}


def _pick(said: Map, fields: Mapping[str, Any], whole: Any) -> dict[str, Any]:
    """The mapped fields of a row. `.` is all of it, `a.b` a field of a field.

    A field that the row lacks makes it a bad one: the map may have a mistake in the field's name.
    """
    found: dict[str, Any] = {}
    lacking = []
    for name, path in said.columns.items():
        try:
            found[name] = whole if path == "." else _field(fields, path)
        except KeyError:
            if name not in said.optional:
                lacking.append(f"{path!r} ({name})")
    if lacking:
        found["broken"] = (
            f"has no field {', '.join(lacking)}: correct its name in the map, or write a ? behind"
            " it if a record may lack it"
        )
    return found


def _field(fields: Mapping[str, Any], path: str) -> Any:
    first, _, rest = path.partition(".")
    if rest and path not in fields:
        try:
            return _field(_object.decode(fields[first]), rest)
        except msgspec.MsgspecError:
            raise KeyError(path) from None
    value = fields[path]
    if not isinstance(value, msgspec.Raw):
        return value
    text = bytes(value)
    return text if text[:1] in b"{[" else json.loads(text.decode())
