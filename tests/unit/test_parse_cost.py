"""The time to read what a client sends grows only in proportion to its length.

Growth is measured, not seconds: four times the input may take four times as long. The limit is ten
times; a quadratic reader would take sixteen times as long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from gateway.auth.tokens import BadToken, TokenKeys
from gateway.http.allowed_hosts import name_of, refuse_strangers
from gateway.http.errors import Refusal
from gateway.http.parameters import FIELDS_MAX, gather, media_type, require_utf8, whole_number
from gateway.states.preconditions import read_conditions
from gateway.states.routes import check_object

SHORT = 16 * 1024
LONG = 4 * SHORT
NOISE = 0.003
"""Seconds by which a measurement on a busy machine may be wrong."""

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
PIECES = [
    *(";", ";;", "; ", ";a=", ';a="', '"', '\\"', "=", "&", "&a", "%", "%41", "%ff", "+", ",", " "),
    *("\t", "\r", "\n", "\r\n", "\r\n ", "\r\n--b", "\r\n--b\r\n", "--b", "-", ":", "a", "a:\r\n"),
    *(
        "\0",
        "é",
        "[",
        "{",
        '{"a":',
        "[[",
        '"a",',
        "1",
        "1e",
        "/",
        "//",
        ".",
        "..",
        "W/",
        '"",',
        "*",
    ),
    *("(", "\\", "\\u0041", "charset=", "charset", "boundary=", 'Content-Disposition: form-data;"'),
]

tokens = TokenKeys([b"k" * 32], 60)


def part(text: str) -> bytes:
    return f"--b\r\n{text}\r\n--b--\r\n".encode()


READERS: dict[str, Callable[[str], object]] = {
    "a query": lambda text: gather(text),
    "a form": lambda text: gather("", text.encode(), FORM),
    "a form's type": lambda text: gather("", b"a=1", f"{FORM}; {text}"),
    "a multipart form": lambda text: gather("", text.encode(), MULTIPART),
    "a part": lambda text: gather("", part(text), MULTIPART),
    "a part's header": lambda text: gather(
        "", part(f"Content-Disposition: {text}\r\n\r\n1"), MULTIPART
    ),
    "a part's name": lambda text: gather(
        "", part(f'Content-Disposition: form-data; name="{text}"\r\n\r\n1'), MULTIPART
    ),
    "a part's value": lambda text: gather(
        "", part(f'Content-Disposition: form-data; name="a"\r\n\r\n{text}'), MULTIPART
    ),
    "a multipart form's type": lambda text: gather("", part("a"), f"multipart/form-data; {text}"),
    "a media type": media_type,
    "a charset": lambda text: require_utf8(f"a/b; {text}"),
    "a condition": lambda text: read_conditions([text], []),
    "an entity tag": lambda text: read_conditions([], [f'"{text}"']),
    "a state": lambda text: check_object(text.encode()),
    "a state's member": lambda text: check_object(f'{{"a": {text}}}'.encode()),
    "a token": lambda text: tokens.verify(text, 0),
    "an id": lambda text: whole_number(text, "mix_id"),
    "a host": name_of,
    "an origin": lambda text: refuse_strangers("POST", "localhost", f"http://{text}", []),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """The seconds of this thread's CPU time for reading the text: the least of three tries."""

    def once() -> float:
        started = time.thread_time()
        with contextlib.suppress(Refusal, BadToken):
            read(text)
        return time.thread_time() - started

    return min(once() for _ in range(3))


@pytest.mark.parametrize("name", READERS)
def test_the_time_to_read_any_input_is_proportional_to_its_length(name: str) -> None:
    read = READERS[name]
    for piece in PIECES:
        short, long = (seconds(read, piece * (length // len(piece))) for length in (SHORT, LONG))
        assert long < 10 * short + NOISE, (
            f"{name} made of {piece!r}: the time grows faster than the length"
        )


def test_a_form_of_many_small_parts_is_refused_before_it_is_read_whole() -> None:
    one = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    with pytest.raises(Refusal, match=f"more than {FIELDS_MAX}"):
        gather("", one * (FIELDS_MAX + 1) + b"--b--\r\n", MULTIPART)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(part("Content-Disposition: " + ";" * 64_000 + "\r\n\r\n1"), id="semicolons"),
        pytest.param(part("a: b\r\n" * 5 + "\r\n1"), id="headers"),
        pytest.param(
            part(
                'Content-Disposition: form-data; name="a"\r\n'
                "Content-Transfer-Encoding: base64\r\n\r\nMQ=="
            ),
            id="an encoding",
        ),
        pytest.param(part('Content-Disposition: attachment; name="a"\r\n\r\n1'), id="no field"),
    ],
)
def test_a_part_that_no_browser_s_form_has_is_400(body: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        gather("", body, MULTIPART)
    assert refusal.value.status == 400
