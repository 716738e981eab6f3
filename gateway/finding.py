"""Who a play token speaks for, and which request had an id: for people who help a listener.

The token comes in a body, never in an address, and goes nowhere from here: not into an answer, not
into the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.auth.tokens import BadToken, TokenKeys
from gateway.http.errors import Refusal
from gateway.http.failed_requests import FailedRequest, FailedRequests

MOST_TOLD = 20
"""Failed requests that one answer has."""


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What to find; one of the two."""

    play_token: str | None = None
    request_id: str | None = None


def question(body: bytes) -> Question:
    """Read it.

    Raises:
        Refusal: 400, it is none.
    """
    try:
        asked = msgspec.json.decode(body, type=Question)
    except msgspec.DecodeError:
        asked = Question()
    if (asked.play_token is None) == (asked.request_id is None):
        raise Refusal(400, 'The body is {"play_token": "..."} or {"request_id": "..."}.')
    return asked


def find(asked: Question, failed: FailedRequests, keys: TokenKeys, now: float) -> dict[str, Any]:
    """The answer.

    Args:
        asked: what to find.
        failed: where to look for requests.
        keys: that signed play tokens.
        now: this machine's clock, seconds since 1970.
    """
    if asked.play_token is not None:
        listener, problem = _listener(asked.play_token, keys, now)
        found = failed.of(who=asked.play_token)
        return {"listener": listener, "problem": problem, "failed": _told(found)}
    found = failed.of(request_id=asked.request_id)
    who = found[0].who if found else None
    if who is None or found[0].route.startswith("/states/"):
        listener, problem = ({"user_id": who} if who is not None else None), None
    else:
        listener, problem = _listener(who, keys, now)
    return {"listener": listener, "problem": problem, "failed": _told(found)}


def merge(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer of those of several workers."""
    best = next((one for one in answers if one["listener"] is not None), answers[0])
    failed = [request for one in answers for request in one["failed"]]
    failed.sort(key=lambda request: -request["at"])
    return {**best, "failed": failed[:MOST_TOLD]}


def _listener(token: str, keys: TokenKeys, now: float) -> tuple[dict[str, Any] | None, str | None]:
    try:
        listener, expires = keys.read(token)
    except BadToken as error:
        return None, error.reason
    # As text: JavaScript's numbers end at 2^53, and anonymous listeners lie above.
    told = {"user_id": str(listener.user_id), "logged_in": listener.logged_in, "expires": expires}
    return told, "It has expired." if now >= expires else None


def _told(found: Sequence[FailedRequest]) -> list[dict[str, Any]]:
    return [
        {
            "at": round(one.at, 1),
            "request_id": one.request_id,
            "request": f"{one.method} {one.route}",
            "status": one.status,
            "playlist_id": one.playlist,
        }
        for one in found[:MOST_TOLD]
    ]
