"""Who a play token speaks for, and which request had an id: for people who help a listener.

The token comes in a body, never in an address, and goes nowhere from here: not into an answer, not
into the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.auth.tokens import BadToken, TokenKeys
from gateway.http.errors import Refusal
from gateway.http.failed_requests import FailedRequests

MOST_TOLD = 20
"""Failed requests that one answer has."""


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What to find; one of the two."""

    play_token: str | None = None
    request_id: str | None = None


class FoundListener(msgspec.Struct):
    # As text: JavaScript's numbers end at 2^53, and anonymous listeners lie above.
    user_id: str
    logged_in: bool | UnsetType = UNSET
    expires: Annotated[int | UnsetType, Meta(description="seconds since 1970")] = UNSET


class FoundRequest(msgspec.Struct):
    at: float
    request_id: str
    request: Annotated[str, Meta(description="the method and the route")]
    status: int
    playlist_id: str | None


class Found(msgspec.Struct):
    listener: FoundListener | None
    problem: Annotated[str | None, Meta(description="what is wrong with the token")]
    failed: Annotated[
        list[FoundRequest],
        Meta(description="the listener's last requests that failed, or the one with that id"),
    ]


def read_question(body: bytes) -> Question:
    """Read a question from a body; any other body is refused with 400."""
    try:
        asked = msgspec.json.decode(body, type=Question)
    except msgspec.DecodeError:
        asked = Question()
    if (asked.play_token is None) == (asked.request_id is None):
        raise Refusal(400, 'The body is {"play_token": "..."} or {"request_id": "..."}.')
    return asked


def find(asked: Question, failed: FailedRequests, keys: TokenKeys, now: float) -> Found:
    """The answer to `asked`; `now` is this machine's clock, seconds since 1970."""
    listener, problem = None, None
    if asked.play_token is not None:
        found = failed.of(who=asked.play_token)
        listener, problem = _listener(asked.play_token, keys, now)
    else:
        found = failed.of(request_id=asked.request_id)
        who = found[0].who if found else None
        if who is not None and found[0].route.startswith("/states/"):
            listener = FoundListener(who)
        elif who is not None:
            listener, problem = _listener(who, keys, now)
    told = [
        FoundRequest(round(r.at, 1), r.request_id, f"{r.method} {r.route}", r.status, r.playlist)
        for r in found[:MOST_TOLD]
    ]
    return Found(listener, problem, told)


def merge(answers: Sequence[Found]) -> Found:
    """One answer of those of several workers."""
    best = next((one for one in answers if one.listener is not None), answers[0])
    failed = [request for one in answers for request in one.failed]
    failed.sort(key=lambda request: -request.at)
    return Found(best.listener, best.problem, failed[:MOST_TOLD])


def _listener(token: str, keys: TokenKeys, now: float) -> tuple[FoundListener | None, str | None]:
    try:
        listener, expires = keys.read(token)
    except BadToken as error:
        return None, str(error)
    told = FoundListener(str(listener.user_id), listener.logged_in, expires)
    return told, "It has expired." if now >= expires else None
