"""Translates a pool of twemproxy's nutcracker.yml into values of the section `lookup`.

Source of the pool's values, defaults and meanings: twemproxy 0.5.0, src/nc_conf.c and nc_conf.h.
Each value of a Redis pool is applied, or refused with the reason. Values that concern only
nutcracker's own port are ignored, with a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.reading import BadYaml, Unreadable, read_text, read_yaml
from config.values import close_to, did_you_mean

HOW_TWEMPROXY_LISTENS = ("listen", "backlog", "client_connections", "reuseport")
"""Values about nutcracker's own port, which the gateway does not have."""
PLACEMENT = ("hash", "hash_tag", "distribution", "servers")
"""Values that place keys. They may not be given beside a nutcracker.yml."""
LONGEST_TIMEOUT = 60_000
"""Milliseconds, for a pool without a timeout: a frozen node must be noticed at some time."""

_NUMBERS = {
    "redis_db": 0,
    "server_connections": 1,
    "server_retry_timeout": 30_000,
    "server_failure_limit": 2,
}
_SWITCHES = {"auto_eject_hosts": False, "preconnect": False, "tcpkeepalive": False}
_OTHERS = ("timeout", "redis", "redis_auth")
_WORDS = frozenset((*HOW_TWEMPROXY_LISTENS, *PLACEMENT, *_NUMBERS, *_SWITCHES, *_OTHERS))


class NutcrackerError(Exception):
    """A pool that cannot be used.

    Attributes:
        problems: one sentence each.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True, slots=True)
class Pool:
    """A translated pool.

    Attributes:
        words: values of the section `lookup`: all that a pool decides.
        notes: by name, a sentence about a value that means something else here.
    """

    words: Mapping[str, Any]
    notes: Mapping[str, str]


def read_pool(path: Path, name: str | None = None) -> Pool:
    """Read one pool.

    Args:
        path: the nutcracker.yml.
        name: of the pool; needed unless the file has only one.

    Raises:
        NutcrackerError: with every problem of the file, or of the pool, at once.
    """
    pools = _pools(path)
    if name is None and len(pools) == 1:
        name = next(iter(pools))
    if name is None:
        raise NutcrackerError([f"lookup.pool says which pool of {path} is meant: {_list(pools)}"])
    if name not in pools:
        raise NutcrackerError([f"{path} has no pool {name!r}; it has {_list(pools)}"])
    return translate(name, pools[name])


def translate(name: str, pool: Mapping[str, Any]) -> Pool:
    """Translate a pool.

    Args:
        pool: its values by name, all as text; `servers` is a list of text.

    Raises:
        NutcrackerError: with every problem at once.
    """
    if pool.get("redis", "false") == "false":
        reason = "speaks memcached (redis: true is missing); lookups need Redis' expiries"
        raise NutcrackerError([f"pool {name} {reason}"])
    problems: list[str] = []
    notes: dict[str, str] = {}
    words: dict[str, Any] = {
        "hash": pool.get("hash", "fnv1a_64"),
        "hash_tag": pool.get("hash_tag", ""),
        "distribution": pool.get("distribution", "ketama"),
    }
    for word in ("redis", *_SWITCHES):
        value = pool.get(word)
        if value is not None and value not in ("true", "false"):
            problems.append(f'{word}: is not "true" or "false", the only two that twemproxy knows')
        elif word in _SWITCHES:
            words[word] = _SWITCHES[word] if value is None else value == "true"
    for word, default in _NUMBERS.items():
        words[word] = _number(pool, word, default, problems)
    words["timeout"] = _timeout(_number(pool, "timeout", 0, problems), notes)
    _check_values(pool, words, problems, notes)
    words["servers"] = _servers(pool, problems)
    if problems:
        raise NutcrackerError([f"pool {name}, {problem}" for problem in problems])
    words["server_failure_limit"] = max(1, words["server_failure_limit"])
    return Pool(words, notes)


def _check_values(
    pool: Mapping[str, Any], words: dict[str, Any], problems: list[str], notes: dict[str, str]
) -> None:
    unknown = sorted(set(pool) - _WORDS)
    problems.extend(
        f"{word}: is no word of twemproxy 0.5.0{did_you_mean(close_to(word, _WORDS))}"
        for word in unknown
    )
    if words["distribution"] == "random":
        problems.append(RANDOM_REFUSED)
    if "hash_tag" in pool and len(words["hash_tag"].encode()) != 2:
        problems.append("hash_tag: is not two characters")
    if words["server_connections"] == 0:
        problems.append("server_connections: cannot be 0")
    if words["server_retry_timeout"] == 0:
        problems.append(
            "server_retry_timeout: 0 puts a node that failed back at once; "
            "give the milliseconds until it is probed"
        )
    if pool.get("redis_auth"):
        words["password"] = pool["redis_auth"]
        if words["redis_db"]:
            notes["redis_db"] = (
                f"{words['redis_db']} beside redis_auth comes to 0: nutcracker 0.5.0 selects it "
                "before it has authenticated, is refused, and goes on in 0; so does the gateway"
            )
            words["redis_db"] = 0
    if words.get("auto_eject_hosts") is False:
        notes["auto_eject_hosts"] = (
            "false, as in twemproxy (its default): a node that fails stays in the ring, and each "
            "request for its keys waits up to hint_deadline"
        )
    if words["server_connections"] == 1:
        notes["server_connections"] = "1, as in twemproxy (its default), for each worker"
    theirs = [word for word in HOW_TWEMPROXY_LISTENS if word in pool]
    if theirs:
        notes[", ".join(theirs)] = (
            "left to nutcracker, where applications reach it; "
            "the gateway listens at gateway.host and gateway.port"
        )


RANDOM_REFUSED = (
    "distribution: random puts each request on any node, so that a lookup could not be found "
    "again; use ketama or modula"
)


def _timeout(milliseconds: int, notes: dict[str, str]) -> int:
    if 0 < milliseconds <= LONGEST_TIMEOUT:
        return milliseconds
    meant = f"{milliseconds} ms" if milliseconds else "none, as in twemproxy (its default)"
    notes["timeout"] = (
        f"{meant}; here a node without an answer for {LONGEST_TIMEOUT} ms has failed. "
        "No request waits that long (hint_deadline); set lookup.timeout beside the pool to "
        "notice frozen nodes sooner"
    )
    return LONGEST_TIMEOUT


def _servers(pool: Mapping[str, Any], problems: list[str]) -> list[str]:
    servers = [server.strip() for server in pool.get("servers") or ()]
    if not servers:
        problems.append("servers: there are none")
    problems.extend(
        f"servers: {server.split(' ')[0]}: a UNIX socket is on one machine only; let Redis listen "
        "on a port too and give host:port:weight with a name (twemproxy calls this one "
        f"{_socket_name(server)!r}; under that name the keys stay where they are)"
        for server in servers
        if server.startswith("/")
    )
    return [server for server in servers if not server.startswith("/")]


def _socket_name(server: str) -> str:
    """The name that twemproxy gives a socket: it ends with the colon before the port."""
    address, _, name = server.partition(" ")
    return name or address.rpartition(":")[0] + ":"


def _number(pool: Mapping[str, Any], word: str, default: int, problems: list[str]) -> int:
    text = pool.get(word)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        problems.append(f"{word}: is not a number")
        return default
    return int(text)


def _list(pools: Mapping[str, Mapping[str, Any]]) -> str:
    memcached = {name for name, pool in pools.items() if pool.get("redis", "false") == "false"}
    return ", ".join(f"{n} (memcached)" if n in memcached else n for n in pools) or "none"


def _pools(path: Path) -> dict[str, dict[str, Any]]:
    """All pools, with every value as text: twemproxy has no other type."""
    try:
        document = read_yaml(read_text(path), as_text=True)
    except (Unreadable, BadYaml) as error:
        raise NutcrackerError([f"{path} {error}"]) from None
    pools = document.value
    if not isinstance(pools, dict):
        raise NutcrackerError([f"{path}: a mapping is expected"])
    problems = list(document.twice)
    for name, pool in pools.items():
        if isinstance(pool, dict):
            problems += [f"pool {name}, {problem}" for problem in _shape_problems(pool)]
        else:
            problems.append(f"pool {name}, a mapping is expected")
    if problems:
        raise NutcrackerError([f"{path}: {problem}" for problem in problems])
    return pools


def _shape_problems(pool: dict[str, object]) -> Iterator[str]:
    for word, value in pool.items():
        if word == "servers":
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                yield "servers: a list is expected, of host:port:weight"
        elif not isinstance(value, str):
            hint = " (put it in quotes)" if word == "hash_tag" else ""
            yield f"{word}: one value is expected{hint}"
