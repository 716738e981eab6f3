"""JSONP: an answer as a script that calls a function of the page that asked.

A page can run scripts of other sites and sees nothing of their status or headers: such an answer
is 200, whatever happened, and the status that it would have had is in the body as always.
"""

from __future__ import annotations

import re

from gateway.http.errors import Refusal
from gateway.http.messages import Response
from gateway.http.parameters import gather
from gateway.http.router import Answer

SCRIPT = "text/javascript; charset=utf-8"
# ASCII names with dots between them: nothing that could be code, markup or another file format.
_NAME = re.compile(r"[A-Za-z_$][0-9A-Za-z_$]*(\.[A-Za-z_$][0-9A-Za-z_$]*)*")
_LONGEST = 100


def callback_of(query: str) -> str:
    """The function that the query names.

    Raises:
        Refusal: 400, there is none, or it is not the name of a function.
    """
    name = gather(query).get("callback", "")
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise Refusal(
            400,
            f".jsonp needs callback, the name of a function with at most {_LONGEST} letters, "
            "digits, _, $ and dots.",
        )
    return name


def make_script(answer: Answer, callback: str) -> None:
    """Turn an answer of JSON into a script."""
    assert isinstance(answer, Response)
    # These two end a line in the JavaScript of older browsers, and do not in JSON.
    body = answer.body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    # What stands first is ours: a name could begin as some other file format does.
    answer.body = b"/**/" + callback.encode() + b"(" + body + b");"
    answer.status = 200
    answer.content_type = SCRIPT
    answer.headers = {**(answer.headers or {}), "X-Content-Type-Options": "nosniff"}
