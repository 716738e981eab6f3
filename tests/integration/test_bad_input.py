"""Any bad input gets a 4xx that says what is wrong, never a 500, and never changes a state."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

ENVELOPE = {"status", "errors", "notices", "logged_in", "api_version"}
# One gateway serves all examples: none of them affects the next.
fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def gateway(stack_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config(states={"max_bytes": 2000})
    put_mixes(document, [a_mix(7)])
    with Gateway(document, tmp_path) as gateway:
        yield gateway
        failed = gateway.lines("request failed")
        assert not failed, failed
        assert gateway.running


def send(gateway: Gateway, request: bytes) -> Answer | None:
    """Send bytes and close the sending side; the first answer, or None without one."""
    port = gateway.document["gateway"]["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                received += chunk
        except ConnectionError:
            pass  # it may close while we still send
    while received.startswith(b"HTTP/1.1 100"):
        received = received.partition(b"\r\n\r\n")[2]
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    status = int(lines[0].split()[1])
    return Answer(status, headers, rest[: int(headers.get("content-length", "0"))])


def ask(
    gateway: Gateway,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Answer:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    answer = send(gateway, "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
    assert answer is not None
    return answer


def check(answer: Answer, *, player: bool) -> Any:
    """Require what every answer promises; its body."""
    # 501 and 505 are errors of the client: an unknown method, coding or version of HTTP.
    assert answer.status < 500 or answer.status in (501, 505), answer
    assert answer.headers["x-request-id"]
    if not answer.body:
        return None
    body = json.loads(answer.body)
    if player or answer.status >= 400:
        assert body["status"].startswith(f"{answer.status} ")
    if player:
        assert body.keys() >= ENVELOPE
    if answer.status >= 400 and answer.status != 403:
        assert body["errors"]
        assert all(isinstance(sentence, str) and sentence for sentence in body["errors"])
    return body


def new_token(gateway: Gateway) -> str:
    return str(json.loads(ask(gateway, "GET", "/sets/new").body)["play_token"])


junk = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "7", "701", "x", "\0", "9" * 19, str(2**63), "9" * 400]),
    st.sampled_from(["1e3", "1.0", " 7", "+7", "0x7", "٧", "NaN", "null", "[]", "7;8", "7,8"]),
    st.text(max_size=20),
)
names = st.one_of(
    st.sampled_from(["mix_id", "track_id", "user_id", "page", "per_page", "format", "api_key"]),
    st.text(max_size=5),
)
encoded = st.lists(st.tuples(names, junk), max_size=5).map(urlencode)
queries = st.one_of(
    encoded,
    encoded,
    st.text(alphabet="%&=+;?/#az7\xff", max_size=30)
    .map(lambda text: text.encode("latin-1"))
    .map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
segments = st.one_of(
    st.sampled_from(["sets", "new", "TOKEN", "play", "next", "skip", "report", "tracks_played"]),
    st.sampled_from(["next_mix", "mixes", "mix_sets", "all", "7", ".json", "play.json", "..", ""]),
    junk.map(lambda text: quote(text, safe="")),
    st.sampled_from(["%ff", "%00", "%", "%zz", "%2f", "a%"]),
)
paths = st.one_of(
    st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from(["play", "next", "skip", "report", "tracks_played", "next_mix"]).map(
        lambda command: f"/sets/TOKEN/{command}"
    ),
    st.sampled_from(["/sets/new", "/mix_sets/all", "/mixes/7", "/openapi.json"]),
)
methods = st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
types = st.sampled_from(
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        "application/json",
        "application/x-www-form-urlencoded; charset=utf-16",
        "text/plain",
        "",
        ";;;",
        "multipart/form-data; boundary=\x7f\xe4",
    ]
)
forms = st.one_of(
    st.just(b""),
    encoded.map(str.encode),
    st.binary(max_size=200),
    st.binary(max_size=50).map(lambda value: b"--b\r\n" + value + b"\r\n\r\n1\r\n--b--\r\n"),
)


@fuzz
@given(method=methods, path=paths, query=queries, content_type=types, body=forms)
def test_the_player_answers_any_request_in_its_envelope(
    gateway: Gateway, method: str, path: str, query: str, content_type: str, body: bytes
) -> None:
    token = new_token(gateway)
    target = path.replace("TOKEN", token) + ("?" + query if query else "")
    assume(" " not in target)
    headers = {"Content-Type": content_type} if body else {}
    answer = ask(gateway, method, target, body, headers)
    described = path in ("/openapi.json",) and answer.status == 200
    check(answer, player=not described and not path.startswith("/states"))


ids = st.one_of(st.sampled_from(["1", "2"]), junk.map(lambda text: quote(text, safe="")))
conditions = st.one_of(
    st.sampled_from(["*", '"1"', '"2"', 'W/"1"', "1", "", '"', '"1", "2"', '"1" "2"', ",", "\xe4"]),
    st.text(alphabet='"W/*,1 ', max_size=10),
)
states = st.one_of(
    st.sampled_from([b"{}", b'{"n": 1}', b"[]", b"", b"{", b"\xff", b"{}{}", b'{"a":NaN}']),
    st.sampled_from([b'{"a":"' + b"x" * 3000 + b'"}', b'{"a":' * 300, b"\xef\xbb\xbf{}"]),
    st.binary(max_size=50),
    st.text(max_size=20).map(lambda text: json.dumps({text: text}).encode()),
)


@fuzz
@given(
    method=methods,
    user=ids,
    playlist=ids,
    name=st.sampled_from(["If-Match", "If-None-Match", "X-Other"]),
    condition=conditions,
    content_type=st.sampled_from(
        ["application/json", "application/json; charset=UTF-8", "x/y", ""]
    ),
    body=states,
    known=st.integers(0, 9).map(bool),
)
def test_the_states_api_carries_a_request_out_or_refuses_it_without_a_change(
    gateway: Gateway,
    method: str,
    user: str,
    playlist: str,
    name: str,
    condition: str,
    content_type: str,
    body: bytes,
    known: bool,
) -> None:
    path = f"/states/{user}/{playlist}"
    before = ask(gateway, "GET", path, headers=gateway.key)
    headers = {**(gateway.key if known else {}), name: condition, "Content-Type": content_type}
    answer = ask(gateway, method, path, body, headers)
    check(answer, player=False)
    if not known and answer.status != 405:
        assert answer.status == 401
    after = ask(gateway, "GET", path, headers=gateway.key)
    if answer.status in (200, 201) and method == "PUT":
        assert after.body == body
        assert after.headers["etag"] == answer.headers["etag"]
        assert isinstance(json.loads(body), dict)
    elif answer.status == 204:
        assert after.status == 404
    else:
        assert (after.status, after.body) == (before.status, before.body) or after.status >= 400
        assert after.headers.get("etag") == before.headers.get("etag")


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
POST = b"POST /sets/new HTTP/1.1\r\nHost: x\r\n" + FORM
PUT = b"PUT /states/1/1 HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\nContent-Type: application/json\r\n"
valid_requests = st.sampled_from(
    [
        b"GET /mixes/7 HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Content-Length: 7\r\n\r\npage=12",
        POST + b"Transfer-Encoding: chunked\r\n\r\n7\r\npage=12\r\n0\r\n\r\n",
        PUT + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    ]
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A valid request with some bytes removed, changed or added."""
    request = bytearray(draw(valid_requests))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(request)))
        cut = draw(st.integers(0, 3))
        request[at : at + cut] = draw(st.one_of(st.binary(max_size=4), st.just(b"\r\n")))
    return bytes(request)


@fuzz
@given(request=mangled())
def test_mangled_http_is_refused_or_dropped_and_the_gateway_goes_on(
    gateway: Gateway, request: bytes
) -> None:
    answer = send(gateway, request)
    if answer is not None:
        check(answer, player=b"/states" not in request and b"/openapi" not in request)


ERRORS = (
    ("/sets/TOKEN/play", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=-7", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=seven", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=9223372036854775808", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=%00", 400, "mix_id"),
    ("/sets/TOKEN/play?mix_id=%FF", 400, "UTF-8"),
    ("/sets/TOKEN/play?mix_id=7&mix_id=7", 400, "more than once"),
    ("/sets/TOKEN/play?mix_id=8", 404, "mix 8"),
    ("/sets/TOKEN/next?mix_id=7&track_id=x", 400, "track_id"),
    ("/sets/TOKEN/next?mix_id=7&track_id=1", 404, "track 1"),
    ("/sets/TOKEN/report?mix_id=7", 400, "track_id"),
    ("/mix_sets/all?page=0", 400, "page"),
    ("/mix_sets/all?per_page=101", 400, "per_page"),
    ("/mixes/seven", 400, "id"),
    ("/nowhere", 404, "path"),
)
"""A target, the answer's status, and a word of the error's sentence."""


def test_an_error_says_what_is_wrong(gateway: Gateway) -> None:
    token = new_token(gateway)
    for target, status, word in ERRORS:
        answer = ask(gateway, "GET", target.replace("TOKEN", token))
        body = check(answer, player=True)
        assert (target, answer.status) == (target, status)
        assert word in body["errors"][0], target


def test_a_refused_token_s_error_says_how_to_get_another(gateway: Gateway) -> None:
    token = new_token(gateway)
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    for refused in ("123456789", changed):
        answer = ask(gateway, "GET", f"/sets/{refused}/play?mix_id=1")
        body = check(answer, player=True)
        assert answer.status == 401
        assert "ask /sets/new for another" in body["errors"][0]
