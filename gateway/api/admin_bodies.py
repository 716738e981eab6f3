"""The bodies of the admin port. Their schemas are made from these; bodies may have more fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

Id: TypeAlias = Annotated[int, Meta(ge=1)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Day: TypeAlias = Annotated[str, Meta(pattern="^[0-9]{8}$")]
Status: TypeAlias = Literal["ready", "degraded", "unavailable", "draining"]
Rate: TypeAlias = Annotated[float, Meta(description="a second")]
Places: TypeAlias = Annotated[list[str | None], Meta(description="Node names.")]


class Node(Struct):
    name: str
    address: str
    weight: Id
    share: Annotated[float, Meta(ge=0, le=1)]
    state: Literal["live", "ejected"]
    since: str | None
    reason: str | None
    next_probe: str | None
    failures: Count
    capacity: dict[str, Any] | UnsetType | None = UNSET


class Ring(Struct):
    generation: int
    nodes: list[Node]


class Outline(Struct, forbid_unknown_fields=True):
    owners: Places
    serving: Places


class Host(Struct):
    address: str
    role: Literal["primary", "standby", "fenced", "unknown"]
    generation: int | None
    error: str | None


class MySQL(Struct):
    primary: str | None
    generation: Count
    engine: Annotated[str | None, Meta(description="the primary's, with its version")]
    redundant: Annotated[
        bool | None,
        Meta(description="whether another host has what is acknowledged; null: not known"),
    ]
    redundancy: Annotated[str | None, Meta(description="why")]
    split: bool
    lost_for: Annotated[float | None, Meta(description="seconds")]
    committed: Annotated[
        float | None,
        Meta(description="seconds since a commit was last acknowledged; null: not known"),
    ]
    problem: str | None
    waiting: Count
    hosts: list[Host]


class Hint(Struct):
    node: str
    outcome: Literal["day", "miss", "garbage", "unavailable"]
    day: str | None


class FoundState(Struct):
    partition: str
    day: Day
    version: Id
    owner: Literal["player", "states API"]
    body: str


class Where(Struct):
    user_id: Id
    playlist_id: Id
    lookup_key: str
    owner: str
    order: list[str]
    hints: list[Hint]
    state: FoundState | None


class Found(Struct):
    listener: Annotated[
        dict[str, Any] | None,
        Meta(description="user_id (as text), logged_in, expires (seconds since 1970)"),
    ]
    problem: Annotated[str | None, Meta(description="what is wrong with the token")]
    failed: Annotated[
        list[dict[str, Any]],
        Meta(description="the listener's last requests that failed, or the one with that id"),
    ]


class Overview(Struct):
    at: float
    gateway: str
    version: str
    status: Status
    since: float | None
    reasons: list[str]
    workers: Count
    requests: Rate
    failing: Rate
    latency: Annotated[list[float | None], Meta(description="median, p95 and p99, milliseconds")]
    out: list[str]
    generation: int | None
    primary: str | None


class Partition(Struct):
    day: Day
    rows: Count
    bytes: Count
    drops_on: Day
    sealed: Annotated[
        bool,
        Meta(description="its filter is there: loads read it only for keys that it may have"),
    ]
    sealing: Annotated[bool, Meta(description="a gateway is making its filter, or began to")]
    filter_bytes: Count
    in_vain: Annotated[
        int,
        Meta(
            ge=0,
            description="how often this gateway read it for a key that was not there, because its"
            " filter did not rule the key out",
        ),
    ]
    foreign: Annotated[
        list[str],
        Meta(
            description="tables that have a partition's name and are not Tapedeck's: never read,"
            " written or dropped; the same list in each item"
        ),
    ]


class Drained(Struct):
    draining: Annotated[bool, Meta(description="/readyz says 503, and connections are ended")]
    in_flight: Annotated[Count, Meta(description="requests")]
    connections: Annotated[Count, Meta(description="of listeners and services")]
    empty: Annotated[
        bool, Meta(description="none was open, and none came, for the last seconds of the drain")
    ]


class Happened(Struct):
    id: Id
    at: Annotated[float, Meta(description="seconds since 1970")]
    until: Annotated[float | None, Meta(description="null while it lasts; `at` for a moment")]
    level: Annotated[
        Literal["bad", "warn", "note"],
        Meta(description="`bad` stops requests, a `note` is no fault"),
    ]
    kind: str
    text: str


class BelievedClock(Struct):
    was_in_doubt: bool
    mysql_time: str
