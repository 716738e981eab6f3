"""The last requests that failed here, in memory: found by their id, or by the listener they hit.

No answer has a play token: who asks by one knows it, and who asks by a request's id is told the
listener's number.
"""

from __future__ import annotations

from collections import deque
from time import time

from msgspec import Struct

from gateway.http.errors import Refusal
from gateway.http.parameters import gather

MOST = 2000
"""Requests that are kept; about 400 bytes each."""
RECENT = 300.0
"""Seconds within which listeners count as hit."""


class FailedRequest(Struct, frozen=True):
    """One request that was answered with a status of 5xx, `at` seconds since 1970. `values` (of the
    route's names) and `query` are as they came.
    """

    at: float
    request_id: str
    method: str
    route: str
    status: int
    values: tuple[str, ...]
    query: str

    @property
    def who(self) -> str | None:
        """What names the listener: a play token or a user's number."""
        named = self.route.startswith(("/sets/{play_token}/", "/states/{user_id}/"))
        return self.values[0] if named else None

    @property
    def playlist(self) -> str | None:
        """The mix, where the request's address says it."""
        if self.route.startswith("/states/"):
            return self.values[1]
        try:
            return gather(self.query).get("mix_id")
        except Refusal:
            return None


class FailedRequests:
    def __init__(self) -> None:
        self._kept: deque[FailedRequest] = deque(maxlen=MOST)

    def note(
        self, request_id: str, method: str, route: str, status: int, values: list[str], query: str
    ) -> None:
        self._kept.append(
            FailedRequest(time(), request_id, method, route, status, tuple(values), query[:200])
        )

    def of(self, *, who: str | None = None, request_id: str | None = None) -> list[FailedRequest]:
        """Those of a listener, or with an id; the newest first."""
        return [
            one
            for one in reversed(self._kept)
            if (who is not None and one.who == who) or one.request_id == request_id
        ]

    def listeners(self) -> int:
        """How many listeners were hit in the last `RECENT` seconds; `MOST` means that or more."""
        since = time() - RECENT
        return len({one.who for one in self._kept if one.at > since} - {None})
