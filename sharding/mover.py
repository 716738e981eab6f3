"""After a reload that moved keys: their entries are copied, then the previous ring is forgotten.

Each worker follows the move that its gateway noted in MySQL (moves.py). One of them all, of
whichever gateway, holds the lock and copies (haul.py); the others look at its progress. Until the
move is done previous owners are asked for what the new ones do not know (lookups.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from tapedeck.config.model import Lookup
from tapedeck.failover.errors import MySQLError, PrimaryUnavailable
from tapedeck.failover.primary import Primary
from tapedeck.sharding import haul, metrics, moves
from tapedeck.sharding.days import Days
from tapedeck.sharding.haul import Haul
from tapedeck.sharding.lookups import Lookups
from tapedeck.sharding.moves import Move, Moves
from tapedeck.sharding.placement import History

log = structlog.get_logger("tapedeck.mover")

LOOK_SECONDS = 0.5
"""Between looks at a move that somebody else makes."""
IDLE_SECONDS = 60.0
"""Between looks for a move that a gateway left unfinished, while there is none of our own."""
SAVE_SECONDS = 0.5
"""Between writing down how far it is: as much is copied again by whoever takes over."""


class Mover:
    """One worker's part in moves.

    Args:
        primary: where moves are noted, and whose lock is held while copying.
        lookups: the ring of now, and what it remembers.
        config: the rate, and how to reach nodes.
        history: what the gateway had before.
        days: the calendar.
        give_up: see haul.GIVE_UP_SECONDS.

    Attributes:
        history: as it is now.
    """

    def __init__(
        self,
        primary: Primary,
        lookups: Lookups,
        config: Lookup,
        history: History,
        days: Days,
        give_up: float = haul.GIVE_UP_SECONDS,
    ) -> None:
        self._primary = primary
        self._lookups = lookups
        self._config = config
        self._days = days
        self._give_up = give_up
        self._moves = Moves(primary)
        self._opened = ""
        self._own = {history.move}
        self._left: list[str] = []
        self._closed = False
        self._state: Move | None = None
        self._haul: Haul | None = None
        self._wake = asyncio.Event()
        self.history = history
        metrics.RING_GENERATION.set(history.generation)
        if history.previous:
            lookups.remember(history.previous)

    def turn(self, config: Lookup, history: History) -> None:
        """The gateway was reloaded."""
        self._config = config
        if self._haul is not None:
            self._haul.config = config
        if history.move != self.history.move:
            # Another gateway's that this one took part in is not for it to end.
            if self.history.move and self.history.move in self._own:
                self._left.append(self.history.move)
            self._own = {history.move}
            self._state = None
        self.history = history
        metrics.RING_GENERATION.set(history.generation)
        self._wake.set()

    async def keep(self) -> None:
        """Follow moves until `close`; what fails is tried again."""
        while not self._closed:
            self._wake.clear()
            try:
                await self._follow()
            except (PrimaryUnavailable, MySQLError) as error:
                log.info("move put off", reason=str(error))
            except Exception:
                log.exception("mover failed")
            pending = bool(self._lookups.previous)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if pending else IDLE_SECONDS):
                    await self._wake.wait()

    def close(self) -> None:
        """End soon; a move under way is gone on with later, or by somebody else."""
        self._closed = True
        self._wake.set()

    def describe(self) -> dict[str, Any] | None:
        """The last move as `/ring` shows it; None before the first."""
        state = self._state
        if not self.history.move and state is None:
            return None
        if self._haul is not None:
            sources = self._haul.progress
        else:
            sources = state.progress if state is not None else []
        totals = {
            name: sum(source[name] for source in sources)
            for name in ("scanned", "moving", "copied", "kept", "failed")
        }
        done = state is not None and state.state != moves.MOVING
        return {
            "id": self.history.move,
            "state": state.state if state is not None else "waiting",
            "here": self._haul is not None,
            "progress": 1.0 if done else round(_progress(sources), 4),
            **totals,
            "moved_share": round(totals["moving"] / totals["scanned"], 4)
            if totals["scanned"]
            else None,
            "previous_rings": len(self._lookups.previous),
            "sources": sources,
        }

    async def _follow(self) -> None:
        while self._left:
            await self._moves.leave(self._left[-1])
            self._left.pop()
        if not self._lookups.previous:
            await self._adopt()
        move, previous = self.history.move, self._lookups.previous
        if not previous:
            return
        if self._opened != move:
            await self._moves.open(move, self._lookups.placement, previous)
            self._opened = move
        found = await self._moves.find(move)
        if move != self.history.move:
            return
        if found is None:
            self._opened = ""  # somebody emptied the table
            return
        self._state = found
        if found.state == moves.MOVING:
            found = await self._make(found)
        if found.state != moves.MOVING and move == self.history.move:
            self._state = found
            self._lookups.remember(())
            log.info("previous ring forgotten", move=move, state=found.state)

    async def _adopt(self) -> None:
        """Go on with what a gateway with the same ring left: this one too, before it was killed."""
        ring = self._lookups.placement
        found = await self._moves.unfinished(ring)
        if found is None or ring != self._lookups.placement or self._lookups.previous:
            return
        self._opened = found.id
        self._state = found
        self.history = History(self.history.generation, found.id, found.previous)
        self._lookups.remember(found.previous)
        log.info("unfinished move found", move=found.id)

    async def _make(self, move: Move) -> Move:
        """Copy, if nobody else does; the move as it is then."""
        await self._days.ready()
        if not await self._moves.nobody_copies():
            return move
        # The lock is the connection's: it goes when this process does.
        async with self._primary.session_apart(self._primary.deadline()) as session:
            if not await moves.take_lock(session):
                return move
            try:
                now = await self._moves.find(move.id)
                if now is None or now.state != moves.MOVING:
                    return now or move
                if await moves.covered(session, move.id):
                    await moves.save(session, move.id, now.progress, moves.DONE)
                    return Move(now.id, now.previous, moves.DONE, now.progress)
                await moves.begin(session, move.id)
                return await self._haul_all(session, now)
            finally:
                if not session.broken:
                    with contextlib.suppress(MySQLError):
                        await moves.free_lock(session)

    async def _haul_all(self, session: Any, move: Move) -> Move:
        loop = asyncio.get_running_loop()
        work = Haul(self._config, move.previous, self._days, move.progress, self._give_up)
        log.info("move begins", move=move.id, sources=[s.address for s in work.sources])
        self._haul = work
        saved = loop.time()
        state = moves.MOVING
        try:
            while state == moves.MOVING and move.id == self.history.move and not self._closed:
                await work.step()
                if work.over:
                    state = moves.DONE
                if state == moves.DONE or loop.time() - saved >= SAVE_SECONDS:
                    if not await moves.save(session, move.id, work.progress, state):
                        break  # its gateway has left it
                    saved = loop.time()
        finally:
            self._haul = None
            move = Move(move.id, move.previous, state, work.progress)
            if move.id == self.history.move:
                self._state = move
            await work.close()
        if state == moves.DONE:
            described = self.describe() or {}
            described.pop("sources", None)
            log.info("move done", **described)
        return move


def _progress(sources: list[dict[str, Any]]) -> float:
    """0 to 1, by the keys that SCAN went past."""
    if not sources:
        return 0.0
    return sum(
        1.0
        if source["state"] in ("done", "lost")
        else min(0.99, source["visited"] / max(1, source["keys"]))
        for source in sources
    ) / len(sources)
