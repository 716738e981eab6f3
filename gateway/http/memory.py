"""Returns freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Make the C library return the free memory of its heap.

    glibc keeps small free blocks below a used one (malloc_trim(3)), so a process would stay as
    large as after its largest crowd of connections. Other C libraries have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
