"""The gateway's port."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import uvloop

from gateway.http.admission import AdmissionControl
from tests.support.serving import serving

WAITING = 100
MOST_TURNS = 20
"""Turns of the event loop in which all waiting connections must be answered."""


def test_new_connections_need_few_turns_of_a_busy_event_loop() -> None:
    assert uvloop.run(_turns_until_all_are_answered(200)) <= MOST_TURNS


def test_connections_past_the_limit_of_open_files_are_refused_before_many_more_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AdmissionControl, "is_reserved", lambda *_: True)
    assert uvloop.run(_turns_until_all_are_answered(503)) >= WAITING / 2


async def _turns_until_all_are_answered(status: int) -> int:
    loop = asyncio.get_running_loop()
    turns = 0

    def busy() -> None:
        nonlocal turns, again
        turns += 1
        again = loop.call_soon(busy)

    async with serving() as served:
        with contextlib.ExitStack() as closing:
            waiting = []
            for _ in range(WAITING):  # the event loop does not run: the kernel accepts them
                client = socket.create_connection(("127.0.0.1", served.port))
                closing.enter_context(client)
                client.sendall(b"GET /sets/new HTTP/1.1\r\nHost: a\r\n\r\n")
                client.setblocking(False)
                waiting.append(client)
            again = loop.call_soon(busy)
            answers = await asyncio.gather(*(loop.sock_recv(one, 4096) for one in waiting))
            again.cancel()
    assert all(answer.startswith(b"HTTP/1.1 %d " % status) for answer in answers)
    return turns
