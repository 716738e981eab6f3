"""A steady load: so many steps of actors a second, whatever the system does meanwhile.

Open loop: each step has its moment, fixed beforehand. A step whose actor is still busy is done by
another actor, by a new one if need be, so a system that stands still is not asked less.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from config.model import Player
from drills.actors import Actor, Listener, World, Writer
from drills.checker import Verdict, check_rows
from drills.client import Client
from drills.operations import Operation

MOST_BUSY = 3_000
"""Steps under way at once, past which the load itself would be what is measured."""
LONGEST_LIFE = 600
"""Seconds within which a listener of the load surely ends."""
_CALM = 0.5
"""Seconds after which an actor's turn comes again, about."""

Rows = Callable[[Sequence[tuple[int, int]]], Mapping[tuple[int, int], Sequence[int]]]
"""Finds the versions of all rows of each key, as they lie in MySQL."""


class Load:
    """Args:
    client: entered already.
    mixes: see World.
    key: the service key.
    rate: steps a second; a step is one request or two.
    seed: of every choice.
    steps: after so many at most an actor is done, and another one takes its place.
    player: the gateways' settings.
    """

    def __init__(
        self,
        client: Client,
        mixes: Mapping[int, Sequence[int]],
        key: str,
        rate: float,
        seed: int,
        steps: int = 40,
        *,
        player: Player,
    ) -> None:
        self.client = client
        self.rate = rate
        self.dropped = 0
        self._chance = random.Random(seed)  # noqa: S311 - repeatable choices
        # The model of the checker does not know that a skip stops counting.
        skips = player.skip_limit if player.skip_window >= LONGEST_LIFE else None
        self._world = World(client, mixes, key, self._chance, steps, skips, lambda: self._give_up)
        self._give_up = False
        self._fault: BaseException | None = None
        self._actors: list[Actor] = []
        self._idle: deque[Actor] = deque()
        self._busy: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the rate until `stop`, then let what is under way end."""
        for _ in range(max(4, int(self.rate * _CALM))):
            self._idle.append(self._new_actor())
        due = self.client.now()
        while not stop.is_set():
            due += 1 / self.rate
            delay = due - self.client.now()
            if delay > 0:
                await asyncio.sleep(delay)
            self._step(due)
        self._give_up = True
        if self._busy:
            await asyncio.wait(self._busy, timeout=45)
        if self._fault is not None:
            raise self._fault

    def _step(self, due: float) -> None:
        if len(self._busy) >= MOST_BUSY:
            self.dropped += 1
            return
        actor = self._idle.popleft() if self._idle else self._new_actor()
        task = asyncio.create_task(actor.step(due))
        self._busy.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._busy.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self._fault = self._fault or task.exception()
            self._idle.append(self._new_actor() if actor.done else actor)

        task.add_done_callback(ended)

    def _new_actor(self) -> Actor:
        # Not one after the other: FNV puts numbers that differ in the last digit side by side.
        user = self._chance.randrange(1, 1 << 62)
        playlist = self._chance.choice(list(self._world.mixes))
        kind = Writer if self._chance.random() < 0.3 else Listener
        actor = kind(self._world, user, playlist)
        self._actors.append(actor)
        return actor

    @property
    def operations(self) -> list[Operation]:
        """All that the clients did."""
        return self._world.operations

    async def read_back(self, rows: Rows | None) -> Verdict:
        """Read every state back, through the gateways and in MySQL itself.

        Args:
            rows: None to leave MySQL itself out.
        """
        self.client.recording = False
        self._give_up = False
        verdict = Verdict()
        slots = asyncio.Semaphore(16)

        async def one(actor: Actor) -> None:
            async with slots:
                verdict.breaches += await actor.read_back()

        actors = [actor for actor in self._actors if actor.steps]
        reading = asyncio.gather(*(one(actor) for actor in actors))
        try:
            async with asyncio.timeout(60):
                await reading
        except TimeoutError:
            self._give_up = True
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        if rows is not None:
            keys = [(actor.user, actor.playlist) for actor in actors]
            found = await asyncio.to_thread(rows, keys)
            for actor in actors:
                versions = found.get((actor.user, actor.playlist), ())
                verdict.breaches += check_rows(actor.key, versions, actor.versions)
        verdict.states = len(actors)
        verdict.acknowledged = sum(actor.acknowledged for actor in actors)
        verdict.unknown = sum(actor.unknown for actor in actors)
        return verdict
