"""The gateway's HTTP application in this process, on a real socket, with states in a dictionary.

For tests of HTTP. The store and MySQL are tested in tests/integration.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import aiohttp

from config.load import parse
from config.model import Sections
from failover.loop_lag import LoopLag
from failover.mysql.shown import MySQL
from gateway.catalog.model import Card, Mix, MixUser, Track
from gateway.factory import gateway_application
from gateway.http.application import Application
from gateway.http.listening import Listening, bind
from gateway.reload.runtime_config import RuntimeConfig
from sharding.state import Key, Outcome, Remove, Stored, Write

SERVICE_KEY = secrets.token_hex(16)
TODAY = date(2026, 3, 1)


def a_mix(mix_id: int = 1, tracks: int = 3) -> Mix:
    """A mix; its tracks have the ids mix_id * 100 + 1 and so on."""
    return Mix(
        id=mix_id,
        name=f"Mix {mix_id}",
        slug=f"mix-{mix_id}",
        path=f"/dj/mix-{mix_id}",
        description=None,
        tag_list_cache="jazz, 1920s",
        duration=180 * tracks,
        user=MixUser(1, "dj", "dj"),
        tracks=tuple(
            Track(
                id=mix_id * 100 + n,
                name=f"Track {n}",
                performer="The Band",
                release_name=None,
                year=1925,
                url=None,
                track_file_stream_url=f"https://audio.example/{mix_id}/{n}.mp3",
                play_duration=180,
            )
            for n in range(1, tracks + 1)
        ),
    )


class DictCatalog:
    """A catalog with its mixes in a dictionary."""

    def __init__(self, *mixes: Mix) -> None:
        self.mixes = {mix.id: mix for mix in mixes}
        self.finder = self
        self.plays: set[int] = set()

    async def mix(self, mix_id: int) -> Mix | None:
        return self.mixes.get(mix_id)

    async def cards(self, ids: Sequence[int]) -> list[Card]:
        return [card_of(self.mixes[i]) for i in ids if i in self.mixes]

    async def page(self, page: int, per_page: int) -> tuple[list[Card], int]:
        first = (page - 1) * per_page
        return await self.cards(list(self.mixes)[first : first + per_page]), len(self.mixes)

    async def after(self, mix_id: int) -> Card | None:
        ids = sorted(self.mixes)
        return card_of(self.mixes[min((i for i in ids if i > mix_id), default=ids[0])])

    async def of_path(self, path: str) -> Card | None:
        return next((card_of(mix) for mix in self.mixes.values() if mix.path == path), None)


def card_of(mix: Mix) -> Card:
    """A mix as lists show it."""
    return Card(*(getattr(mix, name) for name in Card.__struct_fields__[:8]), len(mix.tracks), 0)


class DictStore:
    """A store with its states in a dictionary; each call raises `raises`, unless it is None."""

    def __init__(self) -> None:
        self.states: dict[Key, Stored] = {}
        self.raises: BaseException | None = None

    async def now(self) -> float:
        if self.raises is not None:
            raise self.raises
        return time.time()

    async def load(self, key: Key) -> Stored | None:
        if self.raises is not None:
            raise self.raises
        return self.states.get(key)

    async def change(self, key: Key, transition: Any) -> Outcome[Any]:
        if self.raises is not None:
            raise self.raises
        stored = self.states.get(key)
        decision = transition(stored)
        version = (stored.version if stored else 0) + 1
        if isinstance(decision, Write):
            self.states[key] = Stored(decision.body, version, TODAY, decision.owner)
            return Outcome(decision.answer, version, TODAY, changed=True)
        if isinstance(decision, Remove):
            self.states.pop(key, None)
            return Outcome(decision.answer, version, TODAY, changed=True)
        day = TODAY if stored else None
        return Outcome(decision.answer, version - 1 or None, day, changed=False)


def a_config(**sections: Any) -> Sections:
    """A configuration without servers behind it."""
    document: dict[str, Any] = {
        "auth": {"token_keys": ["k" * 32], "service_keys": [SERVICE_KEY, "another-key"]},
        "lookup": {"servers": ["127.0.0.1:1:1 lookup1"]},
        "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return parse(document)


@dataclass
class Served:
    """A running application, and the parts that it uses."""

    http: aiohttp.ClientSession
    port: int
    application: Application
    live: RuntimeConfig
    store: DictStore
    catalog: DictCatalog


@contextlib.asynccontextmanager
async def serving(**sections: Any) -> AsyncIterator[Served]:
    """The gateway's application on a free port, with mixes 1, 2 and 3 of 3, 1 and 8 tracks."""
    live = RuntimeConfig(a_config(**sections))
    store, catalog = DictStore(), DictCatalog(a_mix(1), a_mix(2, 1), a_mix(3, 8))
    application = gateway_application(live, store, catalog)  # type: ignore[arg-type]
    sock = bind("127.0.0.1", 0, "gateway.port", "--port")
    port = sock.getsockname()[1]
    listening = Listening(application, sock)
    await listening.start()
    assert application.admission is not None
    loop_lag = LoopLag()
    loop_lag.start()
    application.admission.start(loop_lag, lambda: application.in_flight)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield Served(http, port, application, live, store, catalog)
    finally:
        await listening.stop(0.02)
        loop_lag.close()


def a_pair(primary: str | None = "db1:3306", **values: Any) -> MySQL:
    """The MySQL hosts as a worker shows them."""
    usual: dict[str, Any] = {
        **dict.fromkeys(("engine", "redundancy", "lost_for", "problem")),
        "generation": 1,
        "split": False,
        "redundant": True,
        "committed": 0.5,
        "waiting": 0,
    }
    return MySQL(primary=primary, hosts=[], **(usual | values))
