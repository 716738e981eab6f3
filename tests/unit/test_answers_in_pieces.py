"""Other services' answers: read whole in however many pieces they arrive, and never believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from gateway.api.admin_bodies import Overview
from gateway.auth.login import Logins
from gateway.http.errors import Refusal
from gateway.peers import Peer, Peers, SilentPeer
from gateway.reload.compare import compare
from gateway.reload.runtime_config import RuntimeConfig
from tests.support.serving import a_config

OVERVIEW = msgspec.json.encode(
    Overview(
        *(1.0, "another", "1", "ready", None, ["a reason"], 1, 0.0, 0.0),
        *([None, None, None], [], 1, None),
    )
)
DEEP = b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"


@contextlib.asynccontextmanager
async def a_service(*pieces: bytes) -> AsyncIterator[str]:
    """One that answers each request with these pieces, each after the other was read; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = sum(len(piece) for piece in pieces)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(10):  # rounds of the loop, in which the reader takes this piece
                await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_login_service_may_answer_in_pieces() -> None:
    async with a_service(b'{"user', b'_id": 4', b"2}") as url:
        assert await Logins().ask(url, "ann", "right") == 42


@pytest.mark.parametrize("answer", [DEEP, b" " * 100_000, b"{", b"[]", b'{"user_id": 0}'])
async def test_a_login_service_that_answers_nonsense_is_503(answer: bytes) -> None:
    async with a_service(answer) as url:
        with pytest.raises(Refusal) as refused:
            await Logins().ask(url, "ann", "right")
    assert refused.value.status == 503


async def ask(url: str) -> Peer | SilentPeer:
    return (await Peers(RuntimeConfig(a_config(admin={"peers": [url]}))).ask())[0]


async def test_a_peer_may_answer_in_pieces() -> None:
    async with a_service(OVERVIEW[:90], OVERVIEW[90:]) as url:
        peer = await ask(url)
        assert isinstance(peer, Peer), peer
        assert peer.reasons == ["a reason"]


@pytest.mark.parametrize("answer", [DEEP, b" " * 100_000, b"{", b"[]"])
async def test_a_peer_that_answers_nonsense_is_shown_so(answer: bytes) -> None:
    async with a_service(answer) as url:
        assert isinstance(await ask(url), SilentPeer)


async def test_a_configuration_to_compare_that_is_nested_deeply_is_400() -> None:
    with pytest.raises(Refusal) as refused:
        await compare(RuntimeConfig(a_config()), DEEP)
    assert refused.value.status == 400
