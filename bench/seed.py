"""Writes states and lookups before a run, without a gateway."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from bench import catalog
from bench.servers import GATEWAY, PLAIN, TABLE, Servers
from config.model import LookupServer
from sharding.lookups.layout import Command, Layout
from sharding.partitions import sql
from sharding.partitions.calendar import table
from sharding.ring.ring import Ring
from sharding.state import Key, Owner

VERSION = 6
"""The version of a seeded state, and how many tracks of its mix were played."""
RETENTION = 30
BULK_A_DAY = 200_000
"""The bulk of seeded rows: user ids of a day begin at this number times the days back."""
_PIPELINED = 1000

GATEWAY_COLUMNS = "user_id,playlist_id,version,owner,state,operations"
PLAIN_TABLE = (
    "CREATE TABLE IF NOT EXISTS {name} (user_id BIGINT NOT NULL, playlist_id BIGINT NOT NULL,"
    " version BIGINT NOT NULL, state MEDIUMBLOB NOT NULL, PRIMARY KEY (user_id, playlist_id))"
    " ENGINE=InnoDB"
)
BIG_TABLE = (
    "CREATE TABLE IF NOT EXISTS player_state (user_id BIGINT NOT NULL,"
    " playlist_id BIGINT NOT NULL, version BIGINT NOT NULL, written_on DATE NOT NULL,"
    " state MEDIUMBLOB NOT NULL, PRIMARY KEY (user_id, playlist_id), KEY (written_on))"
    " ENGINE=InnoDB"
)


def today() -> date:
    """The UTC day."""
    return datetime.now(UTC).date()


def days_ago(number: int) -> date:
    """A day before today."""
    return today() - timedelta(days=number)


def state_body(mix: int) -> bytes:
    """The state of a listener who has played VERSION tracks of a mix."""
    return msgspec.json.encode({"played": [catalog.track_id(mix, k + 1) for k in range(VERSION)]})


def make_tables(servers: Servers) -> None:
    """Make the tables of all designs, empty, with today's and tomorrow's."""
    with servers.connect(GATEWAY) as cursor:
        for number in range(-1, RETENTION + 1):
            cursor.execute(sql.create_table(days_ago(number)))
    with servers.connect(PLAIN) as cursor:
        for number in range(-1, RETENTION + 1):
            cursor.execute(PLAIN_TABLE.format(name=table(days_ago(number))))
    with servers.connect(TABLE) as cursor:
        cursor.execute(BIG_TABLE)


def gateway_rows(
    servers: Servers, day: date, users: range, mix: int, database: str = GATEWAY
) -> None:
    """Write the gateway's states of these users, one after the other, into one partition."""
    into = f"{table(day)} ({GATEWAY_COLUMNS})"
    _fill(servers, database, into, gateway_values(mix), users)


def gateway_values(mix: int) -> str:
    """The values of a row of the gateway, without the user."""
    return f"{mix},{VERSION},{int(Owner.PLAYER)},x'{state_body(mix).hex()}',''"


def plain_rows(servers: Servers, day: date, users: range, mix: int) -> None:
    """Write states of the plain peers into one day's table."""
    values = f"{mix},{VERSION},x'{state_body(mix).hex()}'"
    _fill(servers, PLAIN, f"{table(day)} (user_id,playlist_id,version,state)", values, users)


def table_rows(servers: Servers, day: date, users: range, mix: int) -> None:
    """Write states into the one big table of the design without partitions."""
    values = f"{mix},{VERSION},'{day:%Y-%m-%d}',x'{state_body(mix).hex()}'"
    into = "player_state (user_id,playlist_id,version,written_on,state)"
    _fill(servers, TABLE, into, values, users)


def _fill(servers: Servers, database: str, into: str, values: str, users: range) -> None:
    with servers.connect(database) as cursor:
        for start in range(users.start, users.stop, 100_000):
            numbers = servers.numbers(start, min(start + 100_000, users.stop))
            cursor.execute(f"INSERT INTO {into} SELECT seq,{values} FROM {numbers}")


def gateway_lookups(servers: Servers, entries: Iterable[tuple[Key, date]]) -> None:
    """Write hints of the gateway, packed, each to the node that the ring names."""
    layout = Layout("packed", RETENTION)
    ring = Ring(
        [_server(node.server) for node in servers.lookups],
        hash="fnv1a_64",
        hash_tag="",
        distribution="ketama",
    )
    ports = {node.name: node.port for node in servers.lookups}
    by_node: dict[str, list[Command]] = {name: [] for name in ports}
    for key, day in entries:
        node = ring.route(layout.ring_key(key))
        assert node is not None
        # HSCAN removes old entries, of which there are none.
        by_node[node.name].extend(c for c in layout.put(key, day) if c[0] != "HSCAN")
    for name, commands in by_node.items():
        send(ports[name], commands)


def plain_lookups(servers: Servers, entries: Iterable[tuple[Key, date]]) -> None:
    """Write lookups of the original system through twemproxy."""
    assert servers.nutcracker is not None
    layout = Layout("flat", RETENTION)
    send(
        servers.nutcracker.port,
        itertools.chain.from_iterable(layout.put(key, day) for key, day in entries),
    )


def _server(words: str) -> LookupServer:
    address, _, name = words.partition(" ")
    host, port, weight = address.split(":")
    return LookupServer(host=host, port=int(port), weight=int(weight), name=name)


def send(port: int, commands: Iterable[Command]) -> None:
    """Pipeline commands whose answers are one line each.

    Raises:
        ConnectionError: one of them was refused.
    """
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        replies = connection.makefile("rb")
        for batch in _batches(commands):
            connection.sendall(b"".join(_wire(command) for command in batch))
            for command in batch:
                line = replies.readline()
                if line[:1] not in (b"+", b":"):
                    raise ConnectionError(f"{command!r}: {line!r}")


def _batches(commands: Iterable[Command]) -> Iterator[list[Command]]:
    rest = iter(commands)
    while batch := list(itertools.islice(rest, _PIPELINED)):
        yield batch


def _wire(command: Sequence[bytes | int | str]) -> bytes:
    words = [w if isinstance(w, bytes) else str(w).encode() for w in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
