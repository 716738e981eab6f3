"""Many clients that do not finish their requests use a limited amount of memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import Gateway, secured

pytestmark = pytest.mark.stack

CONNECTIONS = 800
MIB = 1024 * 1024
LIMIT = 16 * MIB
HEAD = b"GET /mixes/1 HTTP/1.1\r\nHost: x\r\n"
LONG = HEAD + (b"X-Filling: " + b"a" * 7900 + b"\r\n") * 120
"""0.95 MB; the length of each header and their number are within the limits."""
ALLOWED = HEAD + (b"X-Filling: " + b"a" * 7900 + b"\r\n") * 4
TINY = HEAD + b"a:b\r\n" * 120


def memory(process: int) -> int:
    """The bytes of a process's resident memory."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def crowd(port: int, text: bytes, process: int) -> int:
    """Send `text` on each of many connections until all is sent or refused; the gateway's largest
    memory meanwhile."""
    largest = 0
    left: dict[socket.socket, memoryview] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setblocking(False)
            left[connection] = memoryview(text)
            selector.register(connection, selectors.EVENT_WRITE)
        end = time.monotonic() + 60
        while selector.get_map():
            assert time.monotonic() < end, "the gateway neither reads nor refuses"
            for key, _ in selector.select(1):
                connection = key.fileobj  # type: ignore[assignment]
                try:
                    left[connection] = left[connection][connection.send(left[connection]) :]
                    done = not left[connection]
                except BlockingIOError:
                    continue
                except ConnectionError:
                    done = True
                if done:
                    selector.unregister(connection)
            largest = max(largest, memory(process))
        # When another client is answered, the gateway has read what was sent.
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20).close()
        return max(largest, memory(process))


@pytest.mark.parametrize("text", [LONG, ALLOWED, TINY], ids=["long", "allowed", "tiny"])
def test_unfinished_headers_use_limited_memory_that_is_freed_later(
    stack_config: Callable[..., dict[str, Any]], tmp_path: Path, text: bytes
) -> None:
    document = stack_config(limits={"unfinished_bytes": LIMIT, "header_seconds": 30})
    with Gateway(document, tmp_path) as gateway:
        port, process = document["gateway"]["port"], gateway.pid
        crowd(port, HEAD, process)  # the memory of the connections themselves
        before = memory(process)
        largest = crowd(port, text, process)
        print(f"before {before / MIB:.0f} MiB, at most {largest / MIB:.0f} MiB")
        # With connections and pieces that are being read 55 to 80 MiB were measured, and up to 170
        # on a busy machine. Without a limit all that was sent would be kept.
        assert largest - before < 14 * LIMIT
        end = time.monotonic() + 30
        while (now := memory(process)) - before > LIMIT:
            assert time.monotonic() < end, f"{(now - before) / MIB:.0f} MiB are kept"
            time.sleep(0.1)
        with urllib.request.urlopen(f"{gateway.admin}/readyz", timeout=20) as answer:
            assert answer.status == 200


def test_the_memory_of_unfinished_tls_handshakes_is_freed_later(
    stack_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    document = stack_config()
    with secured(document, tmp_path) as (gateway, context):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
        crowd(document["gateway"]["port"], hello.read(), gateway.pid)
        largest = memory(gateway.pid)
        end = time.monotonic() + 30
        while (now := memory(gateway.pid)) > largest - 16 * MIB:
            assert time.monotonic() < end, f"{now / MIB:.0f} of {largest / MIB:.0f} MiB are kept"
            time.sleep(0.1)
        print(f"at most {largest / MIB:.0f} MiB, now {now / MIB:.0f}")
