"""Changes of one key that are saved together: what they make of a row, one after the other.

A group is what the protocol calls a change: one operation id, one compare-and-set, acknowledged as
a whole. Its version grows by the number of members that changed something, and each member is
answered with what its own step made. No I/O here.

Who is in a group is settled when its first save is sent, and never changes after: a save whose
answer was lost may still land, and then stands for all of them. So the same members applied to the
same row make the same row; and where a later try began from another row, the earlier one cannot
land any more. That is why the version that an operation made says which try it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Any, TypeAlias

from msgspec import Struct

from sharding.partitions.sql import TOMBSTONE, Row
from sharding.state import Outcome, Remove, Stored, Transition, Write

MOST_TOGETHER = 32
"""Changes in one group. The next group of the key waits in line with the other keys' saves."""

Result: TypeAlias = "Outcome[Any] | Exception"


class Member:
    """One request's change.

    Attributes:
        transition: what it does.
        answer: what it is told, in the end.
        deadline: when it gives up, on the loop's clock.
    """

    __slots__ = ("answer", "deadline", "transition")

    def __init__(
        self, transition: Transition[Any], answer: asyncio.Future[Any], deadline: float
    ) -> None:
        self.transition = transition
        self.answer = answer
        self.deadline = deadline


class Applied(Struct):
    """What transitions made of a row.

    Attributes:
        results: for each transition its outcome, or what it raised.
        changes: how many of them changed something; 0: there is nothing to save.
        day, version, owner, body: of the row that they made.
    """

    results: list[Result]
    changes: int
    day: date
    version: int
    owner: int
    body: bytes


def apply(transitions: Sequence[Transition[Any]], row: Row | None, day: date) -> Applied:
    """Apply transitions one after the other.

    Args:
        transitions: in the order in which their requests came.
        row: what is stored, tombstones included; None for a key that was never written.
        day: the partition that the result goes into.
    """
    stored = row.stored if row is not None else None
    version = before = row.version if row is not None else 0
    results: list[Result] = []
    for transition in transitions:
        try:
            decision = transition(stored)
        except Exception as error:
            results.append(error)
            continue
        if isinstance(decision, Write):
            version += 1
            stored = Stored(decision.body, version, day, decision.owner)
            results.append(Outcome(decision.answer, version, day, True))
        elif isinstance(decision, Remove):
            version += 1
            stored = None
            results.append(Outcome(decision.answer, version, day, True))
        elif stored is None:
            results.append(Outcome(decision.answer, None, None, False))
        else:
            results.append(Outcome(decision.answer, stored.version, stored.day, False))
    if stored is None:
        return Applied(results, version - before, day, version, TOMBSTONE, b"")
    return Applied(results, version - before, day, version, int(stored.owner), stored.body)
