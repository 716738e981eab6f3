"""`tapedeck import --verify`: compares a running gateway's answers with the source.

The requests only read: `tracks_played` of the Player, or the states API. No such request returns
skips, reported tracks, `listened` and the end of a mix: these are compared in MySQL, which also
tells whether a state was changed since its import.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from zlib import crc32

import aiohttp
import msgspec
from msgspec import Struct

from cli.common import fail, some
from sharding.importing.target import MOVED, NEW, OLDER, OTHER, REPLACED, SAME, Step, decide
from sharding.partitions.calendar import oldest_kept, tomorrow
from sharding.state import Owner

if TYPE_CHECKING:
    from datetime import date

    from config.model import Sections
    from sharding.backend import Backend
    from sharding.importing.mapping import Record
    from sharding.importing.run import Run
    from sharding.state import Key

WHAT = {
    NEW: "Tapedeck has no such state",
    REPLACED: "Tapedeck has another state than the source",
    MOVED: "the source has a newer state than Tapedeck",
    OTHER: "Tapedeck has a state of the other API: it was imported with another kind of map",
}
OTHERWISE = "answered otherwise"
LACKING = "imported as in the source but not all in the catalog"
AT_ONCE = 16
"""Most requests to the gateway at the same time."""
COMPARED = 250
"""States that are compared together."""
TRIES = 20
"""Tries of a request that is answered with 429 or 503."""
LONGEST_PAUSE = 10.0


class Found(Struct):
    """What the comparison found.

    Attributes:
        differences: states that are not as in the source, or are answered otherwise.
        lacking: states that are as in the source, of mixes or tracks that the catalog lacks.
    """

    differences: list[dict[str, Any]]
    lacking: list[dict[str, Any]]


class Asking:
    """Asks a gateway for states. Use as `async with`.

    Args:
        url: of the gateway; empty for the configuration's own.
    """

    def __init__(self, sections: Sections, url: str) -> None:
        from config.tls import own_port_context, own_url

        self._url = (url or own_url(sections.gateway)).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            fail(f"--url {url}: it begins with http:// or https://")
        if not sections.auth.service_keys:
            fail("--verify asks the gateway with a service key: auth.service_keys has none")
        self._key = sections.auth.service_keys[0].get_secret_value()
        context: ssl.SSLContext | bool | None = None if url else own_port_context(sections.gateway)
        self._context = True if context is None else context

    async def __aenter__(self) -> Asking:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_ONCE, ssl=self._context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30),
            headers={"Authorization": f"Bearer {self._key}"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def difference(self, record: Record) -> tuple[str, str]:
        """How the gateway's answer differs from the source: `OTHERWISE`, `LACKING` or `SAME`, and a
        sentence that says how."""
        user, playlist = record.key
        said = msgspec.json.decode(record.body)
        if record.owner is Owner.STATES_API:
            status, body, headers = await self._get(f"/states/{user}/{playlist}")
            if status != 200:
                return OTHERWISE, f"the states API answers {status}: {_sentence(body)}"
            day = f"{record.day:%Y%m%d}"
            if body == said and headers.get("X-Partition") == day:
                return SAME, ""
            return OTHERWISE, f"the states API answers another body, or another day than {day}"
        _, body, _ = await self._get(f"/sets/new?user_id={user}")
        token = body["play_token"]
        status, body, _ = await self._get(f"/sets/{token}/tracks_played?mix_id={playlist}")
        if status == 404:
            return LACKING, f"the catalog lacks mix {playlist}"
        if status != 200:
            return OTHERWISE, f"the Player answers {status}: {_sentence(body)}"
        wanted, answered = said.get("played", []), [track["id"] for track in body["tracks"]]
        if answered == wanted:
            return SAME, ""
        lacking = [track for track in wanted if track not in answered]
        if answered == [track for track in wanted if track in answered]:
            tracks = "track" if len(lacking) == 1 else "tracks"
            return LACKING, f"the catalog's mix lacks {tracks} {some(lacking)}"
        return OTHERWISE, f"the Player answers the tracks {answered}, the source {wanted}"

    async def _get(self, path: str) -> tuple[int, Any, Mapping[str, str]]:
        for tried in range(1, TRIES + 1):
            try:
                async with self._http.get(self._url + path) as answer:
                    body = await answer.json(content_type=None)
                    status, headers = answer.status, answer.headers
            except (aiohttp.ClientError, OSError, ValueError) as error:
                fail(f"no gateway answers at {self._url}: {error or type(error).__name__}")
            if status == 401:
                fail(f"{self._url} refuses the service key: {_sentence(body)}")
            if status not in (429, 503):
                break
            if tried == TRIES:
                fail(f"{self._url} answered {status} {TRIES} times: {_sentence(body)}")
            pause = 1.0
            with suppress(ValueError):
                pause = float(headers.get("Retry-After", ""))
            await asyncio.sleep(min(pause, LONGEST_PAUSE))
        return status, body, headers


def _sentence(body: Any) -> str:
    return " ".join(body.get("errors") or ()) if isinstance(body, dict) else ""


async def differences(work: Run, backend: Backend, asking: Asking, sample: int) -> Found:
    """Compare states, count the outcomes in `work.counts`, and return the differences.

    Args:
        sample: about one state of so many is compared.

    Raises:
        BadSource, PrimaryUnavailable, MySQLError: the states could not all be read.
        Failed: the gateway could not be asked.
    """
    await backend.days.ready()
    today, retention = backend.days.today(), backend.days.retention
    kept = oldest_kept(today, retention), tomorrow(today)

    async def look(record: Record) -> Step:
        return decide(record, (await backend.reader.find(record.key)).row, *kept)

    async def compare(record: Record) -> tuple[Step, str]:
        step = await look(record)
        if step.outcome == SAME:
            outcome, what = await asking.difference(record)
            if outcome == SAME:
                return step, ""
            step = await look(record)  # the listener may have gone on since the first look
            if step.outcome == SAME:
                return Step(record, outcome, step.row), what
        return step, WHAT.get(step.outcome, "")

    problems: dict[tuple[Key, date], tuple[Step, str]] = {}
    for part in await work.parts(*kept):
        async for records in work.records(part):
            # All rows of a state or none: an import takes the last one of a day.
            chosen = [one for one in records if crc32(b"%d:%d" % one.key) % sample == 0]
            for first in range(0, len(chosen), COMPARED):
                batch = chosen[first : first + COMPARED]
                await work.passed(len(batch))
                for step, what in await asyncio.gather(*map(compare, batch)):
                    work.counts[step.outcome] += 1
                    at = step.record.key, step.record.day
                    if at in problems:
                        work.counts[problems.pop(at)[0].outcome] -= 1
                        work.counts[OLDER] += 1
                    if what:
                        problems[at] = step, what
    work.counts = +work.counts  # without zeros
    found = Found([], [])
    for step, what in problems.values():
        listed = found.lacking if step.outcome == LACKING else found.differences
        listed.append(_difference(step, what))
    return found


def _difference(step: Step, what: str) -> dict[str, Any]:
    record, row = step.record, step.row
    return {
        "user": record.key.user_id,
        "playlist": record.key.playlist_id,
        "what": what,
        "source": _said(record.day, record.body),
        "tapedeck": None if row is None else _said(row.day, row.body),
    }


def _said(day: Any, body: bytes) -> dict[str, str]:
    return {"day": f"{day:%Y%m%d}", "body": body.decode(errors="replace")}
