"""Retries until a deadline, only after errors that may pass: the first at once, since what was out
of date here (a cached row, the list of partitions) is renewed by then; later ones with backoff.

Which may pass is said in `errors` (`FAULTS`); the deadline is `mysql.deadline`. What a lost
compare-and-set or a missing partition means is the callers' own rule: `sharding/store/store.py`,
`sharding/store/reader.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable

Result = TypeVar("Result")

# From the second repetition on. Full jitter: many requests that failed at one moment are not
# repeated at one moment.
_WAIT = wait_random_exponential(multiplier=0.02, max=0.5)


def passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, MySQLError) and error.passing


async def retry(
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
    # Without tenacity, which would cost time even if the first try succeeds.
    try:
        return await call()
    except Exception as error:
        if not retryable(error):
            raise
    loop = asyncio.get_running_loop()

    def stop(state: RetryCallState) -> bool:
        wait = state.upcoming_sleep
        return loop.time() + wait >= deadline

    async def again() -> Result:
        return await call()

    try:
        return await AsyncRetrying(
            stop=stop, wait=_WAIT, retry=retry_if_exception(retryable), reraise=True
        )(again)
    except MySQLError as error:
        if retryable(error):
            raise PrimaryUnavailable(f"MySQL: {error}") from error
        raise


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
            if error.fault is not Fault.OVERTAKEN or not tries:
                raise
        await asyncio.sleep(pause)
