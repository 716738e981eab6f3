"""The Player API over HTTP: 8tracks' v3 conventions in front of the rules in `rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import TYPE_CHECKING

from gateway.auth.tokens import BadToken, Listener, anonymous_user_id
from gateway.catalog.model import Mix
from gateway.http.admission import AdmissionControl
from gateway.http.errors import Refusal, encode, response
from gateway.http.messages import Response
from gateway.http.parameters import gather, user_number, whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Call, Handler
from gateway.http.status import status_line
from gateway.player import rules
from gateway.player.responses import (
    Envelope,
    MixSet,
    NoTrack,
    Pagination,
    SetReply,
    mix_reply,
    track_reply,
)
from gateway.player.rules import Answer, Place, Refused, UnknownTrack, WrongOwner
from gateway.reload.runtime_config import RuntimeConfig
from sharding.state import Decision, Key, Outcome, Stored

if TYPE_CHECKING:
    from gateway.catalog.cache import Catalog
    from sharding.store.store import Store

FORM_MAX = 64 * 1024
"""Bytes of a form."""
PER_PAGE = 12
"""Mixes on a page where the client does not say (8tracks' default)."""
PAGE_MAX = 10**9

_OK = status_line(200)
_Transition = Callable[[Stored | None], Decision[Answer]]


class PlayerApi:
    """The handlers.

    Args:
        store: where states lie.
        catalog: the mixes.
        live: the configuration.
        admission: how much one listener may ask.
        clock: this machine's, epoch seconds: how long a token is good. A state's time is MySQL's.
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

    def handlers(self) -> dict[str, Handler]:
        """By the operation names of `operations.py`."""
        return {
            "new_set": self.new_set,
            "play": self.play,
            "next": self.next,
            "skip": self.skip,
            "report": self.report,
            "tracks_played": self.tracks_played,
            "next_mix": self.next_mix,
            "mix": self.mix,
            "mix_set": self.mix_set,
        }

    async def new_set(self, call: Call) -> Response:
        """A play token, for an anonymous listener or, with the service key, for a known user."""
        parameters = await _parameters(call)
        given = parameters.get("user_id")
        if given is None:
            user_id = anonymous_user_id()
        else:
            if not self._live.is_service(call.request.headers.get("Authorization")):
                raise Refusal(
                    401,
                    "user_id needs a service key: Authorization: Bearer KEY.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            user_id = user_number(given)
        token = self._live.tokens.issue(user_id, self._clock())
        return _ok(Envelope(status=_OK, logged_in=given is not None, play_token=token))

    async def play(self, call: Call) -> Response:
        """Start or resume."""
        listener, mix, _ = await self._asked(call)
        now, allowed = await self._store.now(), self._live.config.player
        return await self._change(call, listener, mix, lambda s: rules.play(mix, s, now, allowed))

    async def next(self, call: Call) -> Response:
        """To the next track."""
        listener, mix, parameters = await self._asked(call)
        allowed, track_id = self._live.config.player, _track_id(parameters)
        now = await self._store.now()
        return await self._change(
            call, listener, mix, lambda s: rules.next_track(mix, s, now, allowed, track_id)
        )

    async def skip(self, call: Call) -> Response:
        """To the next track, as far as the licence allows."""
        listener, mix, parameters = await self._asked(call)
        allowed, track_id = self._live.config.player, _track_id(parameters)
        now = await self._store.now()
        return await self._change(
            call, listener, mix, lambda s: rules.skip(mix, s, now, allowed, track_id)
        )

    async def report(self, call: Call) -> Response:
        """A track was listened to."""
        listener, mix, parameters = await self._asked(call, "track_id")
        track_id = whole_number(parameters.get("track_id"), "track_id")
        return await self._change(call, listener, mix, lambda s: rules.report(mix, s, track_id))

    async def tracks_played(self, call: Call) -> Response:
        """What was played, in order."""
        listener, mix, _ = await self._asked(call)
        stored = await self._store.load(Key(listener.user_id, mix.id))
        try:
            tracks = rules.tracks_played(mix, stored)
        except WrongOwner as error:
            raise Refusal(409, str(error)) from None
        return _ok(
            Envelope(
                status=_OK,
                logged_in=call.logged_in,
                tracks=[track_reply(track) for track in tracks],
            )
        )

    async def next_mix(self, call: Call) -> Response:
        """The mix to go on with."""
        _, mix, _ = await self._asked(call)
        following = await self._catalog.after(mix.id)
        if following is None:
            raise Refusal(404, f"There is no mix after mix {mix.id}.")
        return _ok(Envelope(status=_OK, logged_in=call.logged_in, next_mix=mix_reply(following)))

    async def mix(self, call: Call) -> Response:
        """One mix."""
        await _parameters(call)
        mix = await self._mix(whole_number(call.values["id"], "The mix's id"))
        return _ok(Envelope(status=_OK, mix=mix_reply(mix)))

    async def mix_set(self, call: Call) -> Response:
        """All mixes, a page at a time."""
        parameters = await _parameters(call)
        page = whole_number(parameters.get("page", "1"), "page", PAGE_MAX)
        per_page = whole_number(parameters.get("per_page", str(PER_PAGE)), "per_page", 100)
        mixes, total = await self._catalog.page(page, per_page)
        mix_set = MixSet(
            smart_id="all",
            name="All mixes",
            mixes=[mix_reply(mix) for mix in mixes],
            pagination=Pagination(
                current_page=page,
                per_page=per_page,
                total_entries=total,
                next_page=page + 1 if page * per_page < total else None,
            ),
        )
        return _ok(Envelope(status=_OK, mix_set=mix_set))

    async def _asked(self, call: Call, *needed: str) -> tuple[Listener, Mix, Mapping[str, str]]:
        """Who asks, about which mix, with what parameters."""
        try:
            listener = self._live.tokens.verify(call.values["play_token"], self._clock())
        except BadToken as error:
            raise Refusal(401, error.reason) from None
        call.logged_in = listener.logged_in
        self._admission.admit_listener(listener.user_id)
        parameters = await _parameters(call)
        mix_id = whole_number(parameters.get("mix_id"), "mix_id")
        # Malformed before unknown: a client that sends nonsense learns so in one go.
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
        self, call: Call, listener: Listener, mix: Mix, transition: _Transition
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
            return response(403, encode(envelope))
        envelope = Envelope(status=_OK, logged_in=call.logged_in)
        if answer is not None:
            envelope.set = _set(answer)
        return _ok(envelope)


def _set(place: Place) -> SetReply:
    return SetReply(
        place.at_beginning,
        place.at_last_track,
        place.at_end,
        place.skip_allowed,
        NoTrack() if place.track is None else track_reply(place.track),
    )


def _track_id(parameters: Mapping[str, str]) -> int | None:
    given = parameters.get("track_id")
    return None if given is None else whole_number(given, "track_id")


async def _parameters(call: Call) -> Mapping[str, str]:
    """Query and form together, unknown ones included (they change nothing)."""
    request = call.request
    body = await read_body(request, FORM_MAX) if request.body_exists else b""
    if not body:
        return gather(call.query)
    return gather(call.query, body, request.headers.get("Content-Type", ""))


def _ok(envelope: Envelope) -> Response:
    return response(200, encode(envelope))
