"""The Player API over HTTP: 8tracks' v3 conventions in front of the rules in `rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import TYPE_CHECKING

from gateway.auth.login import LONGEST, Logins
from gateway.auth.tokens import BadToken, Listener, anonymous_user_id
from gateway.catalog.model import Mix
from gateway.http.admission import AdmissionControl
from gateway.http.errors import Refusal, encode
from gateway.http.messages import Response
from gateway.http.parameters import gather, whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Call, Handler
from gateway.http.status import status_line
from gateway.player import rules
from gateway.player.covers import base_url
from gateway.player.responses import (
    Envelope,
    NoTrack,
    Session,
    SetReply,
    SignedIn,
    mix_reply,
    track_reply,
)
from gateway.player.rules import Answer, Place, Refused, UnknownTrack, WrongOwner
from gateway.reload.runtime_config import RuntimeConfig
from sharding.state import USER_MAX, Decision, Key, Outcome, Stored

if TYPE_CHECKING:
    from gateway.catalog.cache import Catalog
    from sharding.store.store import Store

FORM_MAX = 64 * 1024
"""Bytes of a form."""
OK = status_line(200)
_Transition = Callable[[Stored | None], Decision[Answer]]


class PlayerApi:
    """The handlers.

    Args:
        admission: limits each listener's requests.
        clock: this machine's, seconds since 1970, for the expiry of tokens. (A state's times are
            MySQL's.)
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        live: RuntimeConfig,
        admission: AdmissionControl,
        clock: Callable[[], float] = time,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._live = live
        self._admission = admission
        self._clock = clock
        self._logins = Logins()

    def handlers(self) -> dict[str, Handler]:
        """By the endpoint names of `endpoints.py`."""
        return {
            "new_set": self.new_set,
            "play": self.play,
            "next": self.next,
            "skip": self.skip,
            "report": self.report,
            "tracks_played": self.tracks_played,
            "next_mix": self.next_mix,
            "login": self.login,
        }

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
        token = self._live.tokens.issue(user_id, self._clock())
        return ok(Envelope(status=OK, logged_in=user_id <= USER_MAX, play_token=token))

    def _signed_in(self, call: Call, parameters: Mapping[str, str]) -> int | None:
        """The user of the client's user token; None without one, or without a login service."""
        if self._live.config.auth.login_url is None:
            return None
        token = parameters.get("user_token") or call.request.headers.get("X-User-Token")
        if not token:
            return None
        try:
            return self._live.tokens.verify(token, self._clock()).user_id
        except BadToken as error:
            raise Refusal(401, error.reason) from None

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
        token = self._live.tokens.issue(user_id, self._clock())
        user = SignedIn(user_id, login, token)
        return ok(Session(status=OK, logged_in=True, user=user, user_token=token))

    async def play(self, call: Call) -> Response:
        """Start or resume."""
        listener, mix, given = await self._asked(call)
        now, allowed = await self._store.now(), self._live.config.player
        return await self._change(
            call, listener, mix, given, lambda s: rules.play(mix, s, now, allowed)
        )

    async def next(self, call: Call) -> Response:
        """To the next track."""
        listener, mix, given = await self._asked(call)
        allowed, track_id = self._live.config.player, _track_id(given)
        now = await self._store.now()
        return await self._change(
            call, listener, mix, given, lambda s: rules.next_track(mix, s, now, allowed, track_id)
        )

    async def skip(self, call: Call) -> Response:
        """To the next track, if the licence allows the skip."""
        listener, mix, given = await self._asked(call)
        allowed, track_id = self._live.config.player, _track_id(given)
        now = await self._store.now()
        return await self._change(
            call, listener, mix, given, lambda s: rules.skip(mix, s, now, allowed, track_id)
        )

    async def report(self, call: Call) -> Response:
        """A track was listened to."""
        listener, mix, given = await self._asked(call, "track_id")
        track_id = whole_number(given.get("track_id"), "track_id")
        return await self._change(
            call, listener, mix, given, lambda s: rules.report(mix, s, track_id)
        )

    async def tracks_played(self, call: Call) -> Response:
        """The tracks played, in order."""
        listener, mix, parameters = await self._asked(call)
        media = _wants_media(call, parameters)
        stored = await self._store.load(Key(listener.user_id, mix.id))
        try:
            tracks = rules.tracks_played(mix, stored)
        except WrongOwner as error:
            raise Refusal(409, str(error)) from None
        return ok(
            Envelope(
                status=OK,
                logged_in=call.logged_in,
                tracks=[track_reply(track, media) for track in tracks],
            )
        )

    async def next_mix(self, call: Call) -> Response:
        """The mix to play next."""
        _, mix, _ = await self._asked(call)
        following = await self._catalog.finder.after(mix.id)
        if following is None:
            raise Refusal(404, f"There is no mix after mix {mix.id}.")
        shown = mix_reply(following, base_url(call, self._live.config))
        return ok(Envelope(status=OK, logged_in=call.logged_in, next_mix=shown))

    async def _asked(self, call: Call, *needed: str) -> tuple[Listener, Mix, Mapping[str, str]]:
        """The listener, the mix and the parameters of a request."""
        try:
            listener = self._live.tokens.verify(call.values["play_token"], self._clock())
        except BadToken as error:
            raise Refusal(401, error.reason) from None
        call.logged_in = listener.logged_in
        self._admission.admit_listener(listener.user_id)
        parameters = await read_parameters(call)
        mix_id = whole_number(parameters.get("mix_id"), "mix_id")
        # Malformed ids are refused before the mix is looked up.
        for name in needed:
            whole_number(parameters.get(name), name)
        if "track_id" in parameters and "track_id" not in needed:
            whole_number(parameters["track_id"], "track_id")
        return listener, await self._mix(mix_id), parameters

    async def _mix(self, mix_id: int) -> Mix:
        mix = await self._catalog.mix(mix_id)
        if mix is None:
            raise Refusal(404, f"There is no mix {mix_id}.")
        return mix

    async def _change(
        self,
        call: Call,
        listener: Listener,
        mix: Mix,
        parameters: Mapping[str, str],
        transition: _Transition,
    ) -> Response:
        try:
            outcome: Outcome[Answer] = await self._store.change(
                Key(listener.user_id, mix.id), transition
            )
        except WrongOwner as error:
            raise Refusal(409, str(error)) from None
        except UnknownTrack as error:
            raise Refusal(404, str(error)) from None
        answer = outcome.answer
        if isinstance(answer, Refused):
            envelope = Envelope(
                status=status_line(403), notices=[answer.notice], logged_in=call.logged_in
            )
            return Response(403, encode(envelope))
        envelope = Envelope(status=OK, logged_in=call.logged_in)
        if answer is not None:
            if answer.at_beginning and outcome.changed:
                self._catalog.finder.plays.add(mix.id)
            envelope.set = _set(answer, _wants_media(call, parameters))
        return ok(envelope)


def _set(place: Place, media: bool = False) -> SetReply:
    return SetReply(
        place.at_beginning,
        place.at_last_track,
        place.at_end,
        place.skip_allowed,
        NoTrack() if place.track is None else track_reply(place.track, media),
    )


def _track_id(parameters: Mapping[str, str]) -> int | None:
    given = parameters.get("track_id")
    return None if given is None else whole_number(given, "track_id")


def _wants_media(call: Call, parameters: Mapping[str, str]) -> bool:
    """Whether the request is of version 2, in which a track's `url` is its media."""
    if "api_version" in parameters:
        version = parameters["api_version"]
    elif "X-Api-Version" in call.request.headers:
        version = call.request.headers["X-Api-Version"]
    else:
        return False
    return version.partition(".")[0] == "2"


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
