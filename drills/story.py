"""What happens in a drill, on one clock: seconds since the drill began."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple


class Mark(NamedTuple):
    """Something that happened: when, in seconds since the drill began, and what."""

    at: float
    text: str


class Story:
    """The clock of a drill, and all that is said on it.

    Args:
        tell: is told each mark as it comes; called from several threads.

    Attributes:
        began: when the drill began, by the machine's clock.
        marks: what was said so far.
    """

    def __init__(self, tell: Callable[[Mark], None] = lambda _: None) -> None:
        self.began = datetime.now(UTC)
        self.marks: list[Mark] = []
        self._zero = time.monotonic()
        self._tell = tell

    def now(self) -> float:
        """Seconds since the drill began."""
        return time.monotonic() - self._zero

    def say(self, text: str) -> None:
        """Something happens now."""
        mark = Mark(self.now(), text)
        self.marks.append(mark)
        self._tell(mark)
