"""Every operation of a drill's clients, for checkers of other people (docs/drills.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(slots=True)
class Operation:
    """One operation of one client on one key; docs/drills.md has the words.

    Attributes:
        client: who asked. A client asks one thing after the other.
        key: USER/MIX.
        kind: put, get, play, next, skip, report or tracks_played.
        start, end: seconds since the drill began; it took effect between the two, if it did.
        outcome: "ok"; "refused": it had no effect; "unknown": it may have an effect, also later.
        argument: the change that a put adds, or the number of the track that a command names.
        expected: the version that a put was conditional on; 0: that there is no state.
        version: the state's, after an "ok".
        value: what was written or read.
    """

    client: str
    key: str
    kind: str
    start: float
    end: float = 0.0
    outcome: Literal["ok", "refused", "unknown"] = "unknown"
    argument: str | int | None = None
    expected: int | None = None
    version: int | None = None
    value: Any = None


def write(operations: Iterable[Operation], file: Path) -> None:
    """Write one JSON object a line, in the order in which the operations began.

    Raises:
        OSError: the file cannot be written.
    """
    with file.open("w") as lines:
        for one in sorted(operations, key=lambda one: one.start):
            fields = asdict(one)
            fields["start"], fields["end"] = round(one.start, 6), round(one.end, 6)
            lines.write(json.dumps(fields, separators=(",", ":")) + "\n")
