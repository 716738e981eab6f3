"""What a load found, and what a save writes."""

from __future__ import annotations

from datetime import date

from msgspec import Struct

from sharding.filters.filters import FilterSet
from sharding.partitions.sql import NewRow, Row
from sharding.state import Key

_NO_FILTERS = FilterSet()


class Loaded(Struct, frozen=True, gc=False):
    """What lies in MySQL for a key.

    Attributes:
        row: the row, tombstones included; None for a key that was not found.
        whole: whether every partition that may hold the key was read.
        filters: those that were known before the read.
        opening: what the read said, and the list of partitions was made for (see `openings`).
    """

    row: Row | None
    whole: bool = True
    filters: FilterSet = _NO_FILTERS
    opening: int = 0


class Plan(Struct, frozen=True):
    """One save, ready to be written.

    Attributes:
        base: the row it was made from; None creates the key.
        day: W, the partition to write into: the newer of today and the base's.
        row: what to write.
        others: the other workers' part of its operations.
        changes: how many acknowledged changes it stands for.
        alone: not in a batch, because it held one up before.
        yesterday_sealed: for a create, that the filter of W-1 was known before the load: no other
            gateway can have put the key there since.
        generation: of the primary that `base` is from. Another one may lack the base, and have
            another row of the same version.
        opening: for a create, of the load (see `openings`).
    """

    base: Row | None
    day: date
    row: NewRow
    others: bytes = b""
    changes: int = 1
    alone: bool = False
    yesterday_sealed: bool = False
    generation: int = 0
    opening: int = 0

    @property
    def key(self) -> Key:
        """Whose state."""
        return self.row.key

    @property
    def kind(self) -> str:
        """How it is counted: create, in_place or move."""
        if self.base is None:
            return "create"
        return "in_place" if self.base.day == self.day else "move"

    @property
    def days(self) -> tuple[date, ...]:
        """The partitions that it writes to."""
        base = () if self.base is None else (self.base.day,)
        return (self.day, *base)

    @property
    def size(self) -> int:
        """Bytes of the statements that save it, at most: two for each of the body and the log, and
        its key, which stands in up to eight places."""
        return 2 * (len(self.row.body) + len(self.row.operations)) + 700

    @property
    def in_place(self) -> bool:
        """Whether the row stays in its partition."""
        return self.base is not None and self.base.day == self.day
