"""Who makes the load: listeners who walk through mixes, and writers who count. Each does one thing
a step, keeps its history for the checker, and repeats what has no answer as a real client would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from drills.checker import Breach, CounterHistory, Outcome, Put, Read, Wrong
from drills.client import Answer, Client, Unanswered
from drills.operations import Operation
from drills.player_model import (
    DONE,
    MOST_PENDING,
    REFUSED,
    UNKNOWN,
    Command,
    ListenerHistory,
)

T = TypeVar("T")

_PUT = frozenset({200, 201, 412})
_GET = frozenset({200, 404})
_SKIP = frozenset({200, 403})


@dataclass(frozen=True)
class World:
    """What all actors share.

    Args:
        mixes: by the id of each mix, the ids of its tracks in order.
        key: the service key.
        steps: after so many at most an actor is done.
        skips: how many a listener has in a mix; None: listeners do not skip.
        give_up: whether nothing is to be repeated any more.
        operations: all that the actors did.
    """

    client: Client
    mixes: Mapping[int, Sequence[int]]
    key: str
    chance: random.Random
    steps: int
    skips: int | None
    give_up: Callable[[], bool]
    operations: list[Operation] = field(default_factory=list)

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Repeat a request that may be repeated until it is answered; None if that is never."""
        while True:
            try:
                return await ask()
            except Unanswered as unanswered:
                if self.give_up():
                    return None
                await self.client.pause(unanswered)


class Actor(ABC):
    """A client with a state of its own."""

    def __init__(self, world: World, user: int, playlist: int) -> None:
        self.world = world
        self.user = user
        self.playlist = playlist
        self.steps = 0
        self.name = f"{type(self).__name__.lower()} {user}/{playlist}"
        self._most = world.chance.randint(world.steps // 4, world.steps)

    @property
    def key(self) -> str:
        """Of the state, in words."""
        return f"user {self.user}, mix {self.playlist}"

    @property
    def done(self) -> bool:
        """Whether another should take its place."""
        return self.steps >= self._most

    @contextlib.contextmanager
    def operation(
        self,
        kind: str,
        argument: str | int | None = None,
        expected: int | None = None,
        beside: str = "",
    ) -> Iterator[Operation]:
        """Record an operation; its outcome is unknown until the caller sets it.

        Args:
            beside: sets apart what this client does beside its other operation.
        """
        key, now = f"{self.user}/{self.playlist}", self.world.client.now
        one = Operation(self.name + beside, key, kind, now(), argument=argument, expected=expected)
        self.world.operations.append(one)
        try:
            yield one
        finally:
            one.end = now()

    @abstractmethod
    async def step(self, due: float) -> None:
        """Do the next thing, meant for `due`."""

    @abstractmethod
    async def read_back(self) -> list[Breach]:
        """Read the state back and hold it against the history."""

    @property
    @abstractmethod
    def acknowledged(self) -> int:
        """Changes with an acknowledgement."""

    @property
    @abstractmethod
    def unknown(self) -> int:
        """Changes without one, which may have happened."""

    @property
    @abstractmethod
    def versions(self) -> set[int]:
        """Those that the state's row may have at the end; 0 for no row."""


class Listener(Actor):
    """Walks through a mix by the Player API."""

    def __init__(self, world: World, user: int, playlist: int) -> None:
        super().__init__(world, user, playlist)
        self._tracks = world.mixes[playlist]
        self.history = ListenerHistory(self.key, len(self._tracks), world.skips or 0)
        self._token = ""
        self._at = 0
        self._lost_sight = True

    @property
    def done(self) -> bool:
        """A listener with too many commands without an answer stops, too."""
        return super().done or self.history.unknown >= MOST_PENDING

    async def step(self, due: float) -> None:
        self.steps += 1
        if not self._token:
            reply = await self.world.insist(lambda: self._new(due))
            if reply is None or reply.status != 200:
                return
            self._token = reply.json()["play_token"]
            return
        await self._command(self._choose(), due)

    def _choose(self) -> Command:
        # After a request without an answer a Player asks where it is before it moves on.
        if self._lost_sight:
            return Command("play")
        end = self.history.tracks + 1
        chosen = self.world.chance.random()
        if self._at == end:
            return Command("play") if chosen < 0.5 else Command("tracks_played")
        track = self._at or None
        if chosen < 0.30:
            return Command("next")
        if chosen < 0.62:
            return Command("next", track)
        if chosen < 0.70 and self.world.skips is not None:
            return Command("skip", track if chosen < 0.66 else None)
        if chosen < 0.80 and track is not None:
            return Command("report", track)
        if chosen < 0.90:
            return Command("play")
        return Command("tracks_played")

    async def _command(self, command: Command, due: float | None) -> None:
        # What does not move, or says from where, is safe to repeat; a bare next is not.
        safe = command.track is not None or command.kind in ("play", "tracks_played")
        while True:
            try:
                answer = await self._send(command, due)
            except Unanswered as unanswered:
                if command.kind != "tracks_played":
                    self.history.unanswered(command)
                self._lost_sight = True
                if not safe or self.world.give_up() or self.history.unknown >= MOST_PENDING:
                    return
                await self.world.client.pause(unanswered)
                continue
            if answer is not None:
                self.history.answered(command, answer)
                if command.kind in ("play", "next", "skip") and answer != REFUSED:
                    self._at = answer
                    self._lost_sight = False
            return

    async def _send(
        self, command: Command, due: float | None, what: str | None = None
    ) -> int | None:
        """The answer in the checker's words; None for an unexpected one, which is an error."""
        params = {"mix_id": self.playlist}
        if command.track is not None:
            params["track_id"] = self._tracks[command.track - 1]
        with self.operation(command.kind, command.track) as operation:
            reply = await self.world.client.ask(
                "POST",
                f"/sets/{self._token}/{command.kind}?{urlencode(params)}",
                what=what or command.kind,
                due=due,
                allowed=_SKIP if command.kind == "skip" else frozenset({200}),
            )
            answer = self._read(command, reply)
            if answer is not None:
                operation.outcome = "refused" if answer == REFUSED else "ok"
                operation.value = answer if answer >= 0 else None
        return answer

    def _read(self, command: Command, reply: Answer) -> int | None:
        if reply.status == 403:
            return REFUSED
        if reply.status != 200:
            return None
        body = reply.json()
        if command.kind == "report":
            return DONE
        if command.kind == "tracks_played":
            return self._count(body["tracks"])
        place = body["set"]
        if place["at_end"]:
            return self.history.tracks + 1
        current = place["track"]["id"]
        return self._tracks.index(current) + 1 if current in self._tracks else UNKNOWN

    def _count(self, tracks: list[dict[str, Any]]) -> int:
        """How many tracks; any but the first ones in order are a breach."""
        ids = [track["id"] for track in tracks]
        if ids != list(self._tracks[: len(ids)]):
            self.history.breaches.append(
                Breach(Wrong.REORDERED, self.key, f"the tracks played are {ids}")
            )
        return len(ids)

    async def _new(self, due: float | None) -> Answer:
        return await self.world.client.ask(
            "GET",
            f"/sets/new?user_id={self.user}",
            what="new",
            due=due,
            headers=self.world.authorization,
        )

    async def read_back(self) -> list[Breach]:
        if not self._token:
            return []

        played = await self.world.insist(
            lambda: self._send(Command("tracks_played"), None, what="final")
        )
        if played is None:
            return [Breach(Wrong.LOST, self.key, "the state cannot be read at the end")]
        return self.history.check(played)

    @property
    def acknowledged(self) -> int:
        return self.history.acknowledged

    @property
    def unknown(self) -> int:
        return self.history.unknown

    @property
    def versions(self) -> set[int]:
        return self.history.versions


class Writer(Actor):
    """Counts in a state of the states API, sometimes two at once and through two gateways."""

    def __init__(self, world: World, user: int, playlist: int) -> None:
        super().__init__(world, user, playlist)
        self.history = CounterHistory(self.key)
        self._known = Read(0.0, 0.0, 0, ())
        self._numbers = 0

    async def step(self, due: float) -> None:
        self.steps += 1
        chosen = self.world.chance.random()
        if chosen < 0.15:
            await self._read(due)
        elif chosen < 0.60 or self._known.version == 0:
            await self._add(due)
        else:
            await self._duel(due)

    async def _add(self, due: float) -> None:
        """One change, repeated until it is certain."""
        change = self._new_change()
        first: float | None = due
        while not self.world.give_up():
            put = await self._put(change, first)
            first = None
            if put.outcome is Outcome.OK:
                return
            if not await self._read(None) or change in self._known.changes:
                return

    async def _duel(self, due: float) -> None:
        """Two changes of one version at the same time: at most one of them may happen."""
        second = min(1, len(self.world.client.targets) - 1)
        puts = await asyncio.gather(
            self._put(self._new_change(), due, 0),
            self._put(self._new_change(), due, second, beside=" (2)"),
        )
        if not any(put.outcome is Outcome.OK for put in puts):
            await self._read(None)

    async def _put(
        self, change: str, due: float | None, gateway: int | None = None, beside: str = ""
    ) -> Put:
        """One try, conditional on what is known; learns from a success."""
        base = self._known
        changes = (*base.changes, change)
        condition = {"If-Match": f'"{base.version}"'} if base.version else {"If-None-Match": "*"}
        client = self.world.client
        put = self.history.put(change, base.version, client.now())
        try:
            with self.operation("put", change, base.version, beside) as operation:
                operation.value = changes
                reply = await client.ask(
                    "PUT",
                    self._path,
                    what="put",
                    due=due,
                    headers={
                        **self.world.authorization,
                        **condition,
                        "Content-Type": "application/json",
                    },
                    body=json.dumps({"changes": changes}).encode(),
                    allowed=_PUT,
                    gateway=gateway,
                )
                if reply.status in (200, 201):
                    put.version = operation.version = int(reply.headers["ETag"].strip('"'))
                    put.outcome, operation.outcome = Outcome.OK, "ok"
                elif reply.status < 500:
                    put.outcome, operation.outcome = Outcome.REFUSED, "refused"
        except Unanswered as unanswered:
            await client.pause(unanswered)
            return put
        if put.version is not None:
            put.answered = reply.ended
            if put.version > self._known.version:
                self._known = Read(reply.sent, reply.ended, put.version, changes)
        return put

    async def _read(self, due: float | None) -> bool:
        read = await self.world.insist(lambda: self._get(due, "get"))
        if read is None:
            return False
        self.history.reads.append(read)
        self._known = read
        return True

    async def _get(self, due: float | None, what: str) -> Read | None:
        """What is there; None for an unexpected answer, which is an error."""
        with self.operation("get") as operation:
            reply = await self.world.client.ask(
                "GET",
                self._path,
                what=what,
                due=due,
                headers=self.world.authorization,
                allowed=_GET,
            )
            read = _parse(reply)
            if read is not None:
                operation.outcome = "ok"
                operation.version, operation.value = read.version, read.changes
        return read

    @property
    def _path(self) -> str:
        return f"/states/{self.user}/{self.playlist}"

    def _new_change(self) -> str:
        self._numbers += 1
        return f"c{self._numbers}"

    async def read_back(self) -> list[Breach]:
        final = await self.world.insist(lambda: self._get(None, "final"))
        if final is None:
            return [Breach(Wrong.LOST, self.key, "the state cannot be read at the end")]
        self._known = final
        return self.history.check(final)

    @property
    def acknowledged(self) -> int:
        return self.history.acknowledged

    @property
    def unknown(self) -> int:
        certain = {p.change for p in self.history.puts if p.outcome is not Outcome.UNKNOWN}
        return len({p.change for p in self.history.puts} - certain)

    @property
    def versions(self) -> set[int]:
        return {self._known.version}


def _parse(reply: Answer) -> Read | None:
    if reply.status == 404:
        return Read(reply.sent, reply.ended, 0, ())
    if reply.status != 200:
        return None
    version = int(reply.headers["ETag"].strip('"'))
    return Read(reply.sent, reply.ended, version, tuple(reply.json()["changes"]))
