"""The clocks of a test's machines."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stack.server import Server


def wall_of(mysql: Server) -> Callable[[], float]:
    """The wall clock of a machine whose clock is right where MySQL's is: for tests that let days
    pass."""

    def wall() -> float:
        shifted = mysql.clock_file
        return time.time() + (float(shifted.read_text()) if shifted is not None else 0)

    return wall


def shift(mysql: Server, seconds: float) -> None:
    """Shift a server's clock, at once.

    The test is skipped on a server whose clock stays as it is: one of a group.
    """
    if mysql.clock_file is None:
        pytest.skip("the clock of this server cannot be shifted")
    mysql.clock_file.write_text(f"{seconds:+.3f}\n")
