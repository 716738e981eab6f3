"""Retries with backoff and jitter until a deadline, only after errors that may pass.

Which may pass is said in `errors` (`FAULTS`); the deadline is `mysql.deadline`. What a lost
compare-and-set or a missing partition means is the callers' own rule: `sharding/store/store.py`,
`sharding/store/reader.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable

Result = TypeVar("Result")

FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Most seconds before the third try, doubled for each further one, and before any try. The second
one comes at once."""


def passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, MySQLError) and error.passing


async def persist(
    call: Callable[[], Awaitable[Result]],
    deadline: float,
    retryable: Callable[[BaseException], bool] = passing,
) -> Result:
    """Call until it succeeds.

    Args:
        deadline: on the event loop's clock, seconds; no try starts after it.

    Raises:
        PrimaryUnavailable: the deadline passed; names the last error.
        MySQLError: an error that a repetition would meet again.
    """
    longest = 0.0
    while True:
        try:
            return await call()
        except Exception as error:
            if not retryable(error):
                raise
            # Full jitter: many requests that failed at one moment are not repeated at one moment.
            wait = random.uniform(0, longest)  # noqa: S311
            if asyncio.get_running_loop().time() + wait >= deadline:
                if isinstance(error, MySQLError):
                    raise PrimaryUnavailable(f"MySQL: {error}") from error
                raise
        longest = min(max(FIRST_WAIT, 2 * longest), LONGEST_WAIT)
        await asyncio.sleep(wait)


async def until_unlocked(
    call: Callable[[], Awaitable[Result]], tries: int, pause: float = 0.0
) -> Result:
    """Call until no lock of another transaction is in the way.

    Args:
        tries: how often at most.
        pause: seconds between two tries.

    Raises:
        MySQLError: another error, or the last try's.
    """
    while True:
        try:
            return await call()
        except MySQLError as error:
            tries -= 1
            if error.fault is not Fault.RETRY or not tries:
                raise
        await asyncio.sleep(pause)
