"""What all answers have in common, and the answers to malformed requests."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from failover.mysql.errors import Fault, MySQLError
from gateway import logs
from sharding.state import Key, Unavailable
from tests.support.serving import SERVICE_KEY, Served, serving

KEY = {"Authorization": f"Bearer {SERVICE_KEY}"}


@pytest.fixture
def log_lines() -> Iterator[Any]:
    """Everything that is logged, as parsed lines, at level debug."""
    stream = io.BytesIO()
    logs.configure("debug", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.configure("info")


async def raw(
    gateway: Served, request: bytes, *, closes: bool = False
) -> tuple[int, dict[str, str], Any]:
    """Send bytes; the status, the headers and the JSON of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request)
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    if closes:
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    return int(lines[0].split()[1]), headers, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /mixes/1 HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /mixes/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
        (b"POST /mixes/1 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (
            (
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            ),
            400,
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00\x00\x00\x00\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
async def test_malformed_http_gets_an_error_in_json_and_the_connection_is_closed(
    request_bytes: bytes,
    status: int,
) -> None:
    async with serving() as gateway:
        found, headers, body = await raw(gateway, request_bytes, closes=True)
        assert found == status
        assert body["status"].startswith(f"{status} ")
        assert body["errors"]
        assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"GET /mixes/1 HTTP/1.1\r\n\r\n", "Missing 'Host' header"),
        (b"GET /mixes/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Duplicate 'Host' header"),
        (b"GET /mixes/a b HTTP/1.1\r\nHost: a\r\n\r\n", "Expected HTTP/"),
        (b"GET /mixes/1 HTTP/1.1\r\nHost: a\r\nA secret: b\r\n\r\n", "Invalid header token"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTPS traffic on an HTTP port"),
    ],
)
async def test_malformed_http_is_told_what_is_wrong_without_a_word_of_the_request(
    request_bytes: bytes, reason: str
) -> None:
    async with serving() as gateway:
        _, _, body = await raw(gateway, request_bytes)
        assert reason in body["errors"][0]
        assert "secret" not in body["errors"][0]


@pytest.mark.parametrize("sent", [b"GET /mixes/1 HTTP/1.0\r\n\r\n", b"no HTTP\r\n\r\n"])
async def test_the_last_answer_of_a_connection_is_http_1_1_and_says_that_it_is_the_last(
    sent: bytes,
) -> None:
    async with serving() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"\r\nConnection: close\r\n" in answer
        writer.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("", 404),
        ("*", 404),
        ("//", 404),
        ("/sets", 404),
        ("/sets/new/", 200),
        ("/SETS/NEW", 404),
        ("/sets/new.json.json", 404),
        ("/sets/%ff/play?mix_id=1", 400),
        ("/sets/%00/play?mix_id=1", 401),
        ("/sets//play?mix_id=1", 401),
        ("//sets/new", 200),
        ("///sets/new", 404),
        ("/mixes//", 400),
        ("/" * 8000, 404),
        ("/mixes/%zz", 400),
        ("/mixes/%ff", 400),
        ("/mixes/1%00", 400),
        ("/mixes/-1", 400),
        ("/mixes/99999999999999999999", 400),
        ("/mixes/1?a=%ff", 400),
        ("/mixes/\xff".encode("latin-1").decode("latin-1"), 400),
        ("/mixes/%31", 200),
        ("/mixes/1#fragment", 200),
        ("http://elsewhere/mixes/1", 200),
    ],
)
async def test_an_odd_path_is_served_or_gets_a_4xx_that_says_why(path: str, status: int) -> None:
    async with serving() as gateway:
        target = path.encode("latin-1") or b"?"
        method = b"OPTIONS" if path == "*" else b"GET"
        got, _, body = await raw(gateway, method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        if path == "":
            assert got in (400, 404)
        else:
            assert got == status, body
        assert body["status"].startswith(f"{got} ")
        assert (body["errors"] is None) == (got == 200)


async def test_unknown_and_unsuitable_methods_are_refused_without_a_500() -> None:
    async with serving() as gateway:
        for line, expected in [
            (b"CONNECT example.org:443 HTTP/1.1", {400, 404}),
            (b"BREW /mixes/1 HTTP/1.1", {501}),
            (b"TRACE /mixes/1 HTTP/1.1", {405}),
            (b"PUT /mixes/1 HTTP/1.1", {405}),
            (b"OPTIONS /sets/new HTTP/1.1", {405}),
        ]:
            status, _, body = await raw(gateway, line + b"\r\nHost: x\r\n\r\n")
            assert status in expected, line
            assert body["errors"]


async def test_head_is_answered_where_get_only_reads_and_refused_elsewhere() -> None:
    async with serving() as gateway:
        async with gateway.http.head("/mixes/1") as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) > 100
        async with gateway.http.head("/sets/new") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("given", ["abc-1_2.3", "x" * 64])
async def test_a_valid_request_id_is_returned(given: str) -> None:
    headers = {"X-Request-Id": given}
    async with serving() as gateway, gateway.http.get("/mixes/1", headers=headers) as answer:
        assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", 'a"', "ä"])
async def test_an_invalid_request_id_is_replaced(given: str) -> None:
    async with serving() as gateway:
        seen = set()
        for _ in range(2):
            async with gateway.http.get("/nowhere", headers={"X-Request-Id": given}) as answer:
                seen.add(answer.headers["X-Request-Id"])
        assert len(seen) == 2
        assert given not in seen


async def test_an_unavailable_store_is_503_with_retry_after() -> None:
    async with serving() as gateway:
        gateway.store.raises = Unavailable("no primary", retry_after=3)
        async with gateway.http.get("/sets/new") as answer:
            token = (await answer.json())["play_token"]
        async with gateway.http.get(f"/sets/{token}/play?mix_id=1") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "3"
            assert (await answer.json())["status"] == "503 Service Unavailable"
        async with gateway.http.get("/states/1/1", headers=KEY) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "3"


async def test_an_internal_error_is_500_without_details_and_is_logged_once(
    log_lines: Any,
) -> None:
    async with serving() as gateway:
        gateway.store.raises = RuntimeError("the inside of the machine")
        async with gateway.http.get("/sets/new") as answer:
            token = (await answer.json())["play_token"]
        async with gateway.http.get(f"/sets/{token}/play?mix_id=1") as answer:
            assert answer.status == 500
            text = await answer.text()
            request_id = answer.headers["X-Request-Id"]
        assert "inside" not in text
        assert request_id in text
        failed = [line for line in log_lines() if line["event"] == "request failed"]
        assert len(failed) == 1
        assert failed[0]["request_id"] == request_id
        assert failed[0]["level"] == "error"
        assert failed[0]["route"] == "/sets/{play_token}/play"
        assert "the inside of the machine" in failed[0]["exception"]


async def test_many_failures_of_a_kind_are_logged_once_a_second_with_their_number(
    log_lines: Any,
) -> None:
    async with serving() as gateway:
        gateway.store.raises = Unavailable("MySQL: no answer in time")

        async def ask() -> str:
            async with gateway.http.get("/states/1/1", headers=KEY) as answer:
                assert answer.status == 503
                return answer.headers["X-Request-Id"]

        ids = await asyncio.gather(*(ask() for _ in range(20)))

        def said() -> list[Any]:
            return [line for line in log_lines() if line["event"] == "request not served"]

        assert said()[0]["count"] == 1
        async with asyncio.timeout(10):
            while sum(line["count"] for line in said()) < 20:
                await asyncio.sleep(0.02)
        assert len(said()) <= 4, "a line a second, however many fail"
        assert {line["request_id"] for line in said()} <= set(ids)
        assert {line["reason"] for line in said()} == {"MySQL: no answer in time"}


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.BUSY, Fault.FULL])
async def test_a_passing_mysql_error_is_503_and_is_logged_without_a_traceback(
    log_lines: Any, fault: Fault
) -> None:
    async with serving() as gateway:
        gateway.store.raises = MySQLError(fault, 0, "no answer in time")
        async with gateway.http.get("/states/1/1", headers=KEY) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
        assert not [line for line in log_lines() if "exception" in line]


async def test_no_log_line_holds_a_token_or_a_key(log_lines: Any) -> None:
    async with serving(log={"requests": True, "level": "debug"}) as gateway:
        async with gateway.http.get("/sets/new?user_id=5", headers=KEY) as answer:
            token = (await answer.json())["play_token"]
        for path in (f"/sets/{token}/play?mix_id=1", f"/sets/{token}/nothing", f"/{token}"):
            async with gateway.http.get(path):
                pass
        await raw(gateway, f"GET /sets/{token}/{'x' * 9000} HTTP/1.1\r\n\r\n".encode())
        await raw(gateway, f"GET /sets/{token} HTTP/1.1\r\nAuthorization {token}\r\n\r\n".encode())
        gateway.store.raises = RuntimeError("broken")
        async with gateway.http.get(f"/sets/{token}/play?mix_id=1"):
            pass
        lines = log_lines()
        assert {"request answered", "request failed", "request not parsed"} <= {
            x["event"] for x in lines
        }
        text = json.dumps(lines)
        assert token not in text
        assert SERVICE_KEY not in text
        assert all(line["timestamp"].endswith("Z") for line in lines)


async def test_a_request_past_max_requests_gets_503_at_once() -> None:
    async with serving(gateway={"max_requests": 1}) as gateway:
        entered, leave = asyncio.Event(), asyncio.Event()
        ask = gateway.catalog.cards

        async def slow(ids: Any) -> Any:
            entered.set()
            await leave.wait()
            return await ask(ids)

        gateway.catalog.cards = slow  # type: ignore[method-assign]
        first = asyncio.create_task(gateway.http.get("/mixes/1").__aenter__())
        await entered.wait()
        async with gateway.http.get("/mixes/1") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
        leave.set()
        assert (await first).status == 200


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_too_long_is_413(chunked: bool) -> None:
    async with serving(states={"max_bytes": 100}) as gateway:
        headers = {**KEY, "Content-Type": "application/json", "If-None-Match": "*"}

        async def chunks() -> Any:
            yield b'{"a": "'
            for _ in range(20):
                yield b"x" * 10_000
            yield b'"}'

        body = chunks() if chunked else b'{"a": "' + b"x" * 100 + b'"}'
        async with gateway.http.put("/states/1/1", headers=headers, data=body) as answer:
            assert answer.status == 413
        body = chunks() if chunked else b"x" * 70_000
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        async with gateway.http.post("/mixes/1", headers=form, data=body) as answer:
            assert answer.status == 413
            assert (await answer.json())["errors"]
        assert not gateway.store.states


async def test_a_body_of_exactly_the_limit_is_stored_as_it_came() -> None:
    async with serving(states={"max_bytes": 100}) as gateway:
        body = b'{"a":  "' + b"x" * 90 + b'"}'
        assert len(body) == 100
        headers = {**KEY, "Content-Type": "application/json;charset=utf-8", "If-None-Match": "*"}
        async with gateway.http.put("/states/1/1", headers=headers, data=body) as answer:
            assert answer.status == 201
            assert answer.headers["ETag"] == '"1"'
            assert answer.headers["X-Partition"] == "20260301"
        async with gateway.http.get("/states/1/1", headers=KEY) as answer:
            assert await answer.read() == body
        async with gateway.http.head("/states/1/1", headers=KEY) as answer:
            assert answer.headers["ETag"] == '"1"'
            assert answer.headers["Content-Length"] == "100"


async def test_compressed_bodies_and_unknown_expectations_are_refused() -> None:
    async with serving() as gateway:
        headers = {**KEY, "Content-Type": "application/json", "If-None-Match": "*"}
        async with gateway.http.put(
            "/states/1/1", headers={**headers, "Content-Encoding": "gzip"}, data=b"{}"
        ) as answer:
            assert answer.status == 415
        head = (
            f"PUT /states/1/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SERVICE_KEY}\r\n"
            "Content-Type: application/json\r\nIf-None-Match: *\r\nContent-Length: 2\r\n"
        )
        status, _, _ = await raw(gateway, (head + "Expect: miracles\r\n\r\n{}").encode())
        assert status == 417
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write((head + "Expect: 100-continue\r\n\r\n").encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert b" 201 " in await reader.readline()
        writer.close()


async def test_a_body_that_breaks_off_stores_nothing() -> None:
    async with serving() as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            f"PUT /states/1/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SERVICE_KEY}\r\n"
            "Content-Type: application/json\r\nIf-None-Match: *\r\nContent-Length: 20\r\n\r\n"
            '{"a": 1}'.encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(gateway.application.quiet(), 10)
        assert Key(1, 1) not in gateway.store.states


async def test_pipelined_requests_are_all_answered_in_order() -> None:
    async with serving() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"".join(b"GET /mixes/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in (1, 9, 2)))
        statuses = []
        for _ in range(3):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            statuses.append(int(head.split()[1]))
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r")[0]))
        assert statuses == [200, 404, 200]
        writer.close()


async def test_a_client_that_closes_its_sending_side_still_gets_its_answer() -> None:
    async with serving() as gateway:
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /mixes/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            writer.close()


async def test_all_complete_requests_are_answered_before_an_end_or_an_error() -> None:
    get = b"GET /sets/new HTTP/1.1\r\nHost: x\r\n\r\n"
    post = (
        b"POST /sets/new HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\npage=1"
    )
    last = get.replace(b"Host", b"Connection: close\r\nHost")
    cases = {
        get * 5: [200] * 5,
        post * 5: [200] * 5,
        post + get: [200] * 2,
        get * 2 + b"GET / HTTP/1.1\r\n\r\n": [200, 200, 400],
        get + b"\0\r\n\r\n" + get: [200, 400],
        last + get: [200],
        last + b"\0": [200],
    }
    async with serving() as gateway:
        for sent, expected in cases.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(sent)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            found = [int(status) for status in re.findall(rb"HTTP/1\.\d (\d+) ", answer)]
            assert found == expected, sent
            writer.close()


async def test_a_long_pipeline_does_not_make_other_connections_wait_for_its_end() -> None:
    async with serving() as gateway:
        answered = 0

        def count() -> bool:
            nonlocal answered
            answered += 1
            return False

        gateway.application._log_requests = count
        _, many = await asyncio.open_connection("127.0.0.1", gateway.port)
        reader, one = await asyncio.open_connection("127.0.0.1", gateway.port)
        many.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        one.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert answered < 500
        one.close()
        many.transport.abort()


@pytest.mark.parametrize("path", ["/sets/new", "/nowhere"])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_body_that_turns_out_malformed_is_answered_at_once(path: str, ends: bool) -> None:
    async with serving() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na".encode()
        )
        await writer.drain()
        while not gateway.application.in_flight and path == "/sets/new":
            await asyncio.sleep(0)
        writer.write(b"\r\nno size\r\n")
        if ends:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        expected = [b"400"] if path == "/sets/new" else [b"404"]
        assert re.findall(rb"HTTP/1\.\d (\d+) ", answer) == expected
        writer.close()


async def test_malformed_input_is_not_kept_until_a_garbage_collection() -> None:
    """A worker collects seldom, and each piece of input may have 256 KB."""
    async with serving() as gateway:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(b"\0" * 1000)
                assert b" 400 " in await reader.readline()
                await reader.read()
                writer.close()
            kept = [one for one in gc.get_objects() if isinstance(one, HttpProcessingError)]
            assert len(kept) <= 1  # the last one's connection may be about to end
        finally:
            gc.enable()


async def test_headers_that_mention_an_upgrade_make_no_longer_queue() -> None:
    """The parser stops after some requests until they are answered, since they take memory."""
    queues = []
    async with serving() as gateway:
        for header in (b"X", b"Upgrade-X"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /sets/new HTTP/1.1\r\nHost: x\r\n%b: 1\r\n\r\n" % header * 1000)
            await reader.readuntil(b"\r\n\r\n")
            assert gateway.application.admission is not None
            (connection,) = gateway.application.admission._connections
            queues.append(len(connection._messages))
            writer.transport.abort()
            while gateway.application.admission._connections:
                await asyncio.sleep(0)
    assert max(queues) < 100, queues


async def test_answers_may_not_be_stored_by_caches() -> None:
    async with serving() as gateway, gateway.http.get("/sets/new") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
