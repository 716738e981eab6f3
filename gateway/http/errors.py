"""JSON answers, and the one exception that ends a request early.

Two styles of errors: 8tracks' envelope for the Player (`gateway/player/responses.py`), and
`{"status", "errors"}` for the states API and the admin port. The number in a body's `status` is
always the HTTP status, because both come from `status.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.http.messages import Response
from gateway.http.status import LINES

encode = msgspec.json.Encoder().encode


class Refusal(Exception):
    """Ends a request with an error.

    Attributes:
        sentences: what is wrong and what to do, one sentence each; safe to show.
        headers: of the answer, such as Allow. With 503 the default of Retry-After is a second.
        close: whether to close the connection, because the rest of the body is not read.
    """

    def __init__(
        self,
        status: int,
        *sentences: str,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(status, *sentences)
        self.status = status
        self.sentences = sentences
        self.headers = headers or ({"Retry-After": "1"} if status == 503 else None)
        self.close = close


Style = Callable[[int, Sequence[str], bool], bytes]
"""Makes the body of an API's errors: of a status, of sentences, and whether one is logged in."""


def plain_error(status: int, sentences: Sequence[str], logged_in: bool = False) -> bytes:
    """An error of the states API or the admin port."""
    return encode({"status": LINES[status], "errors": sentences})


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON answer with a value that msgspec encodes."""
    return Response(status, encode(value))
