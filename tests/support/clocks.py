"""Clocks of servers that a test shifts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stack.server import Server


def wall_of(mysql: Server) -> Callable[[], float]:
    """A clock, in seconds since 1970, that is shifted as a MySQL server's clock is: the clock of a
    gateway's machine in tests that let days pass."""

    def wall() -> float:
        shifted = mysql.clock_file
        return time.time() + (float(shifted.read_text()) if shifted is not None else 0)

    return wall


def shift(mysql: Server, seconds: float) -> None:
    """Set how many seconds a server's clock is ahead of the real time; it holds at once.

    The test is skipped if the clock of this server cannot be shifted, as in a group.
    """
    if mysql.clock_file is None:
        pytest.skip("the clock of this server cannot be shifted")
    mysql.clock_file.write_text(f"{seconds:+.3f}\n")
