"""The ring and a state as the admin port and the commands show them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from sharding.lookups.capacity import Capacity
from sharding.lookups.hint_rules import HintKind
from sharding.partitions.shown import Count, Day

Id: TypeAlias = Annotated[int, Meta(ge=1)]
Places: TypeAlias = Annotated[list[str | None], Meta(description="Node names.")]


class Node(Struct):
    name: str
    address: str
    weight: Id
    state: Literal["live", "ejected"]
    since: str | None
    reason: str | None
    next_probe: str | None
    failures: Count
    share: Annotated[float, Meta(ge=0, le=1)]
    capacity: Capacity | None = None


class Ring(Struct):
    generation: int
    nodes: list[Node]


class Outline(Struct, forbid_unknown_fields=True):
    owners: Places
    serving: Places


class Hint(Struct):
    node: str
    outcome: Annotated[str, Meta(extra_json_schema={"enum": [found.value for found in HintKind]})]
    day: str | None


class FoundState(Struct):
    partition: str
    day: Day
    version: Id
    owner: Literal["player", "states API"]
    body: str


class Where(Struct, kw_only=True):
    problem: Annotated[
        str | UnsetType, Meta(description="why MySQL could not be asked; `ring where` only")
    ] = UNSET
    user_id: Id
    playlist_id: Id
    lookup_key: str
    owner: str | None
    order: list[str]
    hints: list[Hint]
    state: FoundState | None
