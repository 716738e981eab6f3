"""JSONP: an answer as a script that calls a function of the requesting page.

A page can run scripts of other sites, but not see their status or headers. So such an answer always
has status 200, and its body has the real status, as in every answer.
"""

from __future__ import annotations

import re

from gateway.http.errors import Refusal
from gateway.http.messages import Response
from gateway.http.parameters import gather
from gateway.http.status import JSON

SCRIPT = "text/javascript; charset=utf-8"
# ASCII names with dots between them, so that it cannot be code, markup or another file format.
_NAME = re.compile(r"[A-Za-z_$][0-9A-Za-z_$]*(\.[A-Za-z_$][0-9A-Za-z_$]*)*")
_LONGEST = 100


def callback_of(query: str) -> str:
    """The function's name in the query; refused with 400 if it is missing or no such name."""
    name = gather(query).get("callback", "")
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise Refusal(
            400,
            f".jsonp needs callback, the name of a function with at most {_LONGEST} letters, "
            "digits, _, $ and dots.",
        )
    return name


def make_script(answer: Response, callback: str) -> None:
    """Turn a JSON answer into a script; other answers (a picture) stay as they are."""
    if answer.content_type != JSON:
        return
    # U+2028 and U+2029 end a line in the JavaScript of older browsers, but not in JSON.
    body = answer.body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    # A comment first: otherwise a name could look like the beginning of another file format.
    answer.body = b"/**/" + callback.encode() + b"(" + body + b");"
    answer.status = 200
    answer.content_type = SCRIPT
    answer.headers = {**(answer.headers or {}), "X-Content-Type-Options": "nosniff"}
