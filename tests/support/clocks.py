"""The clocks of a test's machines."""

from __future__ import annotations

import time
from collections.abc import Callable

from tapedeck.localstack.mariadb import MariaDB


def wall_of(mysql: MariaDB) -> Callable[[], float]:
    """The wall clock of a machine whose clock is right where MySQL's is: for tests that let days
    pass."""

    def wall() -> float:
        assert mysql.clock_file is not None
        return time.time() + float(mysql.clock_file.read_text())

    return wall
