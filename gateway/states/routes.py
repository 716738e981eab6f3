"""The states API over HTTP: compare-and-set for services that keep their own Player logic.

Checks have a fixed order: service key, path, media type, size, body, conditions, and last the
state. So a caller without rights learns nothing about a state.
"""

from __future__ import annotations

import re
from datetime import date

import msgspec

from gateway.http.errors import Refusal
from gateway.http.messages import Request, Response
from gateway.http.parameters import media_type, require_utf8, whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Call
from gateway.http.status import LINES
from gateway.reload.runtime_config import RuntimeConfig
from gateway.states.preconditions import Conditions, read_conditions
from sharding.state import USER_MAX, Key, Owner, Remove, Stored, Write
from sharding.store.store import Store

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class StatesApi:
    """The handlers."""

    def __init__(self, store: Store, live: RuntimeConfig) -> None:
        self._store = store
        self._live = live

    async def get_state(self, call: Call) -> Response:
        key = self._key(call)
        conditions = _conditions(call.request)
        stored = await self._store.load(key)
        if stored is None:
            raise Refusal(404, f"User {key.user_id} has no state in playlist {key.playlist_id}.")
        _require_ours(stored)
        headers = _headers(stored.version, stored.day)
        conditions.require_match(stored.version)
        if conditions.is_unchanged(stored.version):
            return Response(304, headers=headers)
        return Response(200, stored.body, headers)

    async def put_state(self, call: Call) -> Response:
        key = self._key(call)
        request = call.request
        content_type = request.headers.get("Content-Type", "")
        if media_type(content_type) != "application/json":
            raise Refusal(415, "A state is sent as Content-Type: application/json.", close=True)
        require_utf8(content_type)
        body = await read_body(request, self._live.config.states.max_bytes)
        check_object(body)
        conditions = _conditions(request)
        replaces, absent = conditions.if_match is not None, conditions.if_none_match
        if not replaces and absent is not None and not absent.anything:
            raise Refusal(400, "Without If-Match, If-None-Match takes only * with PUT.")
        if not replaces and absent is None:
            raise Refusal(
                428,
                "PUT needs a condition: If-None-Match: * to create a state, "
                'If-Match: "<version>" to replace one.',
            )

        def transition(stored: Stored | None) -> Write[int]:
            _require_ours(stored)
            conditions.require(None if stored is None else stored.version)
            return Write(body, Owner.STATES_API, 200 if replaces else 201)

        outcome = await self._store.change(key, transition)
        assert outcome.version is not None
        assert outcome.day is not None
        headers = _headers(outcome.version, outcome.day)
        return Response(outcome.answer, _STORED[outcome.answer], headers)

    async def delete_state(self, call: Call) -> Response:
        key = self._key(call)
        conditions = _conditions(call.request)
        if conditions.if_match is None:
            if conditions.if_none_match is not None:
                raise Refusal(400, "DELETE takes If-Match, not If-None-Match.")
            raise Refusal(428, 'DELETE needs a condition: If-Match: "<version>", or *.')

        def transition(stored: Stored | None) -> Remove[None]:
            _require_ours(stored)
            conditions.require(None if stored is None else stored.version)
            return Remove(None)

        await self._store.change(key, transition)
        return Response(204)

    def _key(self, call: Call) -> Key:
        if not self._live.is_service(call.request.headers.get("Authorization")):
            raise Refusal(
                401,
                "The states API needs a service key: Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
                # Do not read a body from a client without a key.
                close=call.request.body_exists,
            )
        return Key(
            whole_number(call.values["user_id"], "user_id", USER_MAX),
            whole_number(call.values["playlist_id"], "playlist_id"),
        )


_STORED = {status: b'{"status": "%b"}' % LINES[status].encode() for status in (200, 201)}

_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def check_object(body: bytes) -> None:
    """Refuse with 400 a body that is not one JSON object in UTF-8.

    NaN, Infinity and a byte order mark are not JSON (RFC 8259, 8.1). Nested values are checked but
    not built; the parser limits their depth.
    """
    try:
        body.decode("utf-8")
        _object.decode(body)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"The body is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise Refusal(400, "The body is nested too deeply.") from None
    except msgspec.ValidationError:
        raise Refusal(400, "A state is a JSON object; the body is another JSON value.") from None
    except msgspec.DecodeError as error:
        if _HALF_PAIR.search(body):
            raise Refusal(
                400, "The body is no JSON: a string has half of a surrogate pair (\\ud800)."
            ) from None
        raise Refusal(400, f"The body is no JSON: {error}.") from None


def _conditions(request: Request) -> Conditions:
    headers = request.headers
    return read_conditions(headers.getall("If-Match", []), headers.getall("If-None-Match", []))


def _require_ours(stored: Stored | None) -> None:
    if stored is not None and stored.owner is not Owner.STATES_API:
        raise Refusal(409, "The state of this user in this playlist belongs to the Player.")


def _headers(version: int, day: date) -> dict[str, str]:
    return {"ETag": f'"{version}"', "X-Partition": f"{day:%Y%m%d}"}
