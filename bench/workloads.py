"""What listeners do, as files of prepared paths for the load generator.

Unless its docstring says otherwise, every request of a workload changes a state, with each peer.
Each run has listeners of its own, so that it finds no states of another run.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bench import catalog, seed
from bench.servers import Servers
from gateway.auth.tokens import TokenKeys
from sharding.state import Key

SESSION = 20
"""Requests of a session in one mix."""
FIRST_USER = 10_000_000
"""Listeners with lower ids are the bulk of the seeded rows, which the load does not use."""

_starts = itertools.count(FIRST_USER, 4_000_000)


def new_listeners(count: int) -> range:
    """User ids that were not used before in this run of the benchmark.

    Raises:
        ValueError: more than a run may have.
    """
    if count > 4_000_000:
        raise ValueError(f"{count} listeners in one run")
    start = next(_starts)
    return range(start, start + count)


@dataclass(frozen=True)
class Prepared:
    """A file for the generator, and the listeners in it.

    Attributes:
        path: of the file.
        users: the listeners.
        before: the sum of the versions of their states before they are measured.
        opening: a file with the first requests of all sessions, to be asked before measuring;
            None if the first request is measured too.
    """

    path: Path
    users: range
    before: int = 0
    opening: Path | None = None


@dataclass(frozen=True)
class Workload:
    """One kind of load.

    Attributes:
        name: short.
        title: for people.
        requests_each: of one listener; 0 if no listener is named.
        seeds: whether `prepare` writes states into days that are over.
    """

    name: str
    title: str
    requests_each: int
    prepare: Callable[[Servers, str, int], Prepared]
    seeds: bool = False


def _tokens(servers: Servers) -> Callable[[int], str]:
    keys, now = TokenKeys([servers.token_key.encode()], 86400), time.time()
    return lambda user: keys.issue(user, now)


def session(token: str, mix: int, chance: random.Random) -> list[str]:
    """The paths of one session: the first track, then reports, steps and two skips."""
    paths, at, skips, reported = [f"/sets/{token}/play?mix_id={mix}"], 1, 0, 0
    while len(paths) < SESSION:
        drawn = chance.random()
        if reported < at and drawn < 0.4:
            track = catalog.track_id(mix, at)
            paths.append(f"/sets/{token}/report?mix_id={mix}&track_id={track}")
            reported = at
            continue
        skip = skips < 2 and drawn > 0.92
        skips += skip
        at += 1
        paths.append(f"/sets/{token}/{'skip' if skip else 'next'}?mix_id={mix}")
    return paths


def _mix(user: int) -> int:
    return 1 + user % len(catalog.MIXES)


def _write(path: Path, sessions: Iterator[list[str]]) -> None:
    with path.open("w") as file:
        for paths in sessions:
            file.write("\n".join(paths))
            file.write("\n\n")


def _whole_sessions(servers: Servers, _: str, requests: int) -> Prepared:
    users = new_listeners(requests // SESSION + 600)  # more than there are connections
    token, chance = _tokens(servers), random.Random(users.start)
    path = servers.folder / f"sessions-{users.start}"
    _write(path, (session(token(user), _mix(user), chance) for user in users))
    return Prepared(path, users)


def _open_sessions(servers: Servers, _: str, requests: int) -> Prepared:
    users = new_listeners(requests // (SESSION - 1) + 600)
    token, chance = _tokens(servers), random.Random(users.start)
    path = servers.folder / f"sessions-{users.start}"
    opening = servers.folder / f"opening-{users.start}"
    paths = [session(token(user), _mix(user), chance) for user in users]
    _write(opening, ([first] for first, *_ in paths))
    _write(path, (rest for _, *rest in paths))
    return Prepared(path, users, len(users), opening)


def _first_touches(days_back: Callable[[int], int]) -> Callable[[Servers, str, int], Prepared]:
    """Listeners whose state is in an older partition, with a right lookup."""

    def prepare(servers: Servers, store: str, requests: int) -> Prepared:
        users = new_listeners(requests)
        mix = 1
        # Each range of ids has one day.
        runs = 28
        bounds = [users.start + len(users) * k // runs for k in range(runs + 1)]
        groups = [
            (seed.days_ago(days_back(k)), range(start, stop))
            for k, (start, stop) in enumerate(itertools.pairwise(bounds))
        ]
        for day, part in groups:
            if store == "gateway":
                seed.gateway_rows(servers, day, part, mix)
            elif store == "plain":
                seed.plain_rows(servers, day, part, mix)
            elif store == "table":
                seed.table_rows(servers, day, part, mix)
        path = returning(servers, store, groups, mix)
        return Prepared(path, users, before=seed.VERSION * len(users))

    return prepare


def returning(servers: Servers, store: str, groups: Sequence[tuple[date, range]], mix: int) -> Path:
    """First touches by listeners who have states, in another order than that of their ids.

    Right hints are written too, as the peer's store has them.

    Args:
        groups: listeners by the day of their states.
    """
    entries = [(Key(user, mix), day) for day, users in groups for user in users]
    if store == "gateway":
        seed.gateway_lookups(servers, entries)
    elif store == "plain":
        seed.plain_lookups(servers, entries)
    token = _tokens(servers)
    path = servers.folder / f"sessions-{new_listeners(1).start}"
    random.Random(len(entries)).shuffle(entries)
    _write(path, ([f"/sets/{token(key.user_id)}/next?mix_id={mix}"] for key, _ in entries))
    return path


def _without_states(servers: Servers, _: str, requests: int) -> Prepared:
    users = new_listeners(requests)
    return Prepared(starting(servers, users), users)


def starting(servers: Servers, users: Sequence[int]) -> Path:
    """First touches by listeners who have no state, in another order than that of their ids."""
    token = _tokens(servers)
    shuffled = list(users)
    random.Random(users[0]).shuffle(shuffled)
    path = servers.folder / f"sessions-{new_listeners(1).start}"
    _write(path, ([f"/sets/{token(user)}/play?mix_id={_mix(user)}"] for user in shuffled))
    return path


def _hot_keys(servers: Servers, _: str, requests: int) -> Prepared:
    """All connections play the same listener's mix to its end; then the next listener's."""
    users = new_listeners(requests // catalog.HOT_TRACKS + 1)
    token = _tokens(servers)
    path = servers.folder / f"sessions-{users.start}"
    _write(
        path,
        (
            [f"/sets/{token(user)}/next?mix_id={catalog.HOT}"]
            for user in users
            for _ in range(catalog.HOT_TRACKS)
        ),
    )
    return Prepared(path, users)


def _catalog(servers: Servers, _: str, requests: int) -> Prepared:
    """Requests that need no state: what a request costs without the store."""
    users = new_listeners(1)
    path = servers.folder / f"sessions-{users.start}"
    _write(path, ([f"/mixes/{_mix(number)}"] for number in range(requests)))
    return Prepared(path, range(0))


def unknown(servers: Servers, requests: int) -> Prepared:
    """Only loads, of states that exist nowhere."""
    users = new_listeners(requests)
    token = _tokens(servers)
    path = servers.folder / f"sessions-{users.start}"
    _write(path, ([f"/sets/{token(user)}/tracks_played?mix_id=1"] for user in users))
    return Prepared(path, users)


def known(servers: Servers, keys: Sequence[Key]) -> Path:
    """Only loads, of these states."""
    token = _tokens(servers)
    path = servers.folder / f"sessions-{new_listeners(1).start}"
    _write(path, ([f"/sets/{token(user)}/tracks_played?mix_id={mix}"] for user, mix in keys))
    return path


WARM = Workload("warm", "warm sessions, first request and all", SESSION, _whole_sessions)
OPEN = Workload("open", "warm sessions, after the first request", SESSION - 1, _open_sessions)
COLD = Workload(
    "cold", "first touch of the day, state of yesterday", 1, _first_touches(lambda _: 1), seeds=True
)
BACK = Workload("back", "back after 2 to 29 days", 1, _first_touches(lambda k: 2 + k), seeds=True)
MISS = Workload("miss", "a state that exists nowhere", 1, _without_states)
HOT = Workload("hot", "one hot key at a time", catalog.HOT_TRACKS, _hot_keys)
CATALOG = Workload("catalog", "a mix of the catalog, no state", 0, _catalog)
ALL = (WARM, OPEN, COLD, BACK, MISS, HOT, CATALOG)
