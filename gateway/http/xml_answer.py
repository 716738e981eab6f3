"""XML: an answer in the original's format, for its older clients (`.xml`).

It is the format of Rails: names have dashes, numbers and booleans have a type, and null is an empty
element with `nil`. Elements with children come first, because some clients take the first element
for the set, or the mix, that they asked for.
"""

from __future__ import annotations

import re
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from gateway.http.messages import Response
from gateway.http.status import JSON

XML = "application/xml; charset=utf-8"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, not even escaped (its section 2.2, Char)."""
_TYPES = {bool: ' type="boolean"', int: ' type="integer"', float: ' type="float"'}


def make_xml(answer: Response) -> None:
    """Turn a JSON answer into XML; other answers stay as they are."""
    if answer.content_type != JSON or not answer.body:
        return
    found = ['<?xml version="1.0" encoding="UTF-8"?>\n']
    _write("response", msgspec.json.decode(answer.body), found)
    answer.body = "".join(found).encode()
    answer.content_type = XML
    answer.headers = {**(answer.headers or {}), "X-Content-Type-Options": "nosniff"}


def xml_text(text: str) -> str:
    """A text as XML has it; what XML cannot have becomes U+FFFD."""
    # A parser would turn a carriage return into a line feed.
    return escape(_FORBIDDEN.sub("\ufffd", text), {"\r": "&#13;"})


def _write(name: str, value: Any, found: list[str]) -> None:
    tag = name.replace("_", "-")
    if value is None:
        found.append(f'<{tag} nil="true"></{tag}>')
    elif isinstance(value, dict):
        found.append(f"<{tag}>")
        for inner in sorted(value, key=lambda one: not isinstance(value[one], dict | list)):
            _write(inner, value[inner], found)
        found.append(f"</{tag}>")
    elif isinstance(value, list):
        found.append(f'<{tag} type="array">')
        one = "mix" if name == "mixes" else name.removesuffix("s")
        for item in value:
            _write(one, item, found)
        found.append(f"</{tag}>")
    elif isinstance(value, str):
        found.append(f"<{tag}>{xml_text(value)}</{tag}>")
    else:
        found.append(f"<{tag}{_TYPES[type(value)]}>{msgspec.json.encode(value).decode()}</{tag}>")
