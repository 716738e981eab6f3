"""Memory that was freed goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Have the C library return what is free in its heap.

    glibc keeps small blocks that lie below one in use (malloc_trim(3)): after a crowd has left, a
    process would stay as large as the crowd was. Other C libraries have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
