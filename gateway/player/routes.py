"""The Player API over HTTP: 8tracks' v3 conventions in front of the rules in `rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import NamedTuple

from config.model import Player
from gateway.auth.login import LONGEST, Logins
from gateway.auth.tokens import BadToken, Listener, anonymous_user_id
from gateway.catalog.catalog import Catalog
from gateway.catalog.model import Mix
from gateway.http.admission import AdmissionControl
from gateway.http.errors import Refusal, encode
from gateway.http.messages import Response
from gateway.http.parameters import gather, whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Call
from gateway.http.status import LINES
from gateway.player import rules
from gateway.player.covers import base_url
from gateway.player.responses import (
    Envelope,
    Session,
    SignedIn,
    mix_reply,
    set_reply,
    track_reply,
)
from gateway.player.rules import Answer, SkipRefusal, UnknownTrack, WrongOwner
from gateway.reload.runtime_config import RuntimeConfig
from sharding.state import USER_MAX, Decision, Key, Outcome, Stored
from sharding.store.store import Store

FORM_MAX = 64 * 1024
"""Bytes of a form."""
_Transition = Callable[[Stored | None], Decision[Answer]]
_Rule = Callable[[Mix, Stored | None, float, Player, int | None], Decision[Answer]]


class _Asked(NamedTuple):
    """A listener's command.

    Attributes:
        media: whether it is of version 2 of the API, in which a track's `url` is its media.
    """

    key: Key
    mix: Mix
    track_id: int | None
    media: bool


class PlayerApi:
    """The handlers. Tokens expire by this machine's clock; a state's times are MySQL's."""

    def __init__(
        self, store: Store, catalog: Catalog, live: RuntimeConfig, admission: AdmissionControl
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._live = live
        self._admission = admission
        self._logins = Logins()

    async def new_set(self, call: Call) -> Response:
        """A play token, for an anonymous listener or, with the service key, for a known user."""
        parameters = await read_parameters(call)
        given = parameters.get("user_id")
        if given is None:
            user_id = self._signed_in(call, parameters) or anonymous_user_id()
        else:
            if not self._live.is_service(call.request.headers.get("Authorization")):
                raise Refusal(
                    401,
                    "user_id needs a service key: Authorization: Bearer KEY.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            user_id = whole_number(given, "user_id", USER_MAX)
        token = self._live.tokens.issue(user_id, time())
        return ok(Envelope(logged_in=user_id <= USER_MAX, play_token=token))

    def _signed_in(self, call: Call, parameters: Mapping[str, str]) -> int | None:
        """The user of the client's user token; None without one, or without a login service."""
        if self._live.config.auth.login_url is None:
            return None
        token = parameters.get("user_token") or call.request.headers.get("X-User-Token")
        if not token:
            return None
        return self._listener(token).user_id

    async def login(self, call: Call) -> Response:
        """A user token, after a login at the operator's service."""
        url = self._live.config.auth.login_url
        if url is None:
            raise Refusal(501, "This service has no logins: auth.login_url is not configured.")
        if not gather(call.query).keys().isdisjoint(("password", "login")):
            raise Refusal(400, "login and password belong in a form: addresses are logged.")
        parameters = await read_parameters(call)
        login, password = parameters.get("login", ""), parameters.get("password", "")
        if not 0 < len(login) <= LONGEST or not 0 < len(password) <= LONGEST:
            raise Refusal(400, f"login and password are needed, at most {LONGEST} characters each.")
        user_id = await self._logins.ask(url, login, password)
        token = self._live.tokens.issue(user_id, time())
        user = SignedIn(user_id, login, token)
        return ok(Session(logged_in=True, user=user, user_token=token))

    async def play(self, call: Call) -> Response:
        # It names no track.
        return await self._move(call, lambda m, s, now, may, _: rules.play(m, s, now, may))

    async def next(self, call: Call) -> Response:
        return await self._move(call, rules.next_track)

    async def skip(self, call: Call) -> Response:
        return await self._move(call, rules.skip)

    async def _move(self, call: Call, rule: _Rule) -> Response:
        asked = await self._asked(call)
        mix, track_id, allowed = asked.mix, asked.track_id, self._live.config.player
        now = await self._store.now()
        return await self._change(call, asked, lambda s: rule(mix, s, now, allowed, track_id))

    async def report(self, call: Call) -> Response:
        asked = await self._asked(call, "track_id")
        mix, track_id = asked.mix, asked.track_id
        assert track_id is not None
        return await self._change(call, asked, lambda s: rules.report(mix, s, track_id))

    async def tracks_played(self, call: Call) -> Response:
        asked = await self._asked(call)
        stored = await self._store.load(asked.key)
        try:
            tracks = rules.tracks_played(asked.mix, stored)
        except WrongOwner as error:
            raise Refusal(409, str(error)) from None
        shown = [track_reply(track, asked.media) for track in tracks]
        return ok(Envelope(logged_in=call.logged_in, tracks=shown))

    async def next_mix(self, call: Call) -> Response:
        mix = (await self._asked(call)).mix
        following = await self._catalog.finder.after(mix.id)
        if following is None:
            raise Refusal(404, f"There is no mix after mix {mix.id}.")
        shown = mix_reply(following, base_url(call, self._live.config))
        return ok(Envelope(logged_in=call.logged_in, next_mix=shown))

    def _listener(self, token: str) -> Listener:
        try:
            return self._live.tokens.verify(token, time())
        except BadToken as error:
            raise Refusal(401, str(error)) from None

    async def _asked(self, call: Call, *needed: str) -> _Asked:
        listener = self._listener(call.values["play_token"])
        call.logged_in = listener.logged_in
        self._admission.admit_listener(listener.user_id)
        given = await read_parameters(call)
        # Malformed ids are refused before the mix is looked up.
        mix_id = whole_number(given.get("mix_id"), "mix_id")
        track_id = None
        if "track_id" in given or needed:
            track_id = whole_number(given.get("track_id"), "track_id")
        mix = await self._catalog.mix(mix_id)
        if mix is None:
            raise Refusal(404, f"There is no mix {mix_id}.")
        version = given.get("api_version", call.request.headers.get("X-Api-Version", ""))
        media = version.partition(".")[0] == "2"
        return _Asked(Key(listener.user_id, mix_id), mix, track_id, media)

    async def _change(self, call: Call, asked: _Asked, transition: _Transition) -> Response:
        try:
            outcome: Outcome[Answer] = await self._store.change(asked.key, transition)
        except WrongOwner as error:
            raise Refusal(409, str(error)) from None
        except UnknownTrack as error:
            raise Refusal(404, str(error)) from None
        answer = outcome.answer
        if isinstance(answer, SkipRefusal):
            envelope = Envelope(
                status=LINES[403], notices=[answer.notice], logged_in=call.logged_in
            )
            return Response(403, encode(envelope))
        envelope = Envelope(logged_in=call.logged_in)
        if answer is not None:
            if answer.at_beginning and outcome.changed:
                self._catalog.finder.plays.add(asked.mix.id)
            envelope.set = set_reply(answer, asked.media)
        return ok(envelope)


async def read_parameters(call: Call) -> Mapping[str, str]:
    """Query and form together, unknown ones included (they change nothing)."""
    request = call.request
    body = await read_body(request, FORM_MAX) if request.body_exists else b""
    if not body:
        return gather(call.query)
    return gather(call.query, body, request.headers.get("Content-Type", ""))


def ok(envelope: Envelope) -> Response:
    """An answer with status 200."""
    return Response(200, encode(envelope))
