"""Parameters of a request: from the query and from a form, each with one value, strictly decoded.

Clients of the original API send the same parameters in either, so both are read as one set.
Malformed values are refused, not repaired: a guessed id would be another listener's state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.http.errors import Refusal
from sharding.state import PLAYLIST_MAX

FIELDS_MAX = 100
"""Most parameters of one request."""

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_ID = re.compile(r"[0-9]{1,19}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
MULTIPART_TYPE_MAX = 256
"""Most characters of a multipart form's Content-Type. A boundary has up to 70 (RFC 2046, 5.1.1)."""
PART_HEADER_MAX = 512
"""Most bytes of one header line of a part."""
PART_HEADERS_MAX = 4
"""Most header lines of a part. RFC 7578 defines three."""
_AS_IT_IS = (b"7bit", b"8bit", b"binary")


def unescape(text: str, what: str) -> str:
    """Undo percent-encoding. `what` names the text in the refusal (400) of broken UTF-8."""
    if "%" not in text and text.isascii():
        return text
    if _BAD_ESCAPE.search(text):
        raise Refusal(400, f"The percent-encoding of {what} is broken.")
    try:
        # aiohttp decodes bytes that are not UTF-8 as surrogates.
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        raise Refusal(400, f"{what[:1].upper()}{what[1:]} is not UTF-8.") from None


def split_query(query: str, what: str = "the query") -> Iterator[tuple[str, str]]:
    """The pairs of an urlencoded text, in order; refused with 400 if it is broken or too long."""
    parts = query.split("&", FIELDS_MAX)
    if len(parts) > FIELDS_MAX:
        raise Refusal(400, f"There are more than {FIELDS_MAX} parameters in {what}.")
    for part in filter(None, parts):
        name, _, value = part.replace("+", " ").partition("=")
        yield unescape(name, what), unescape(value, what)


def media_type(content_type: str) -> str:
    """`application/json` for `Application/JSON; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def require_utf8(content_type: str) -> None:
    """Refuse a charset that is not UTF-8 (or its part, US-ASCII) with 415."""
    found = _CHARSET.search(content_type)
    if found and found[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal(415, "The body's charset must be utf-8.")


def split_form(body: bytes, content_type: str) -> Iterator[tuple[str, str]]:
    """The pairs of a form, in order; 415 for another media type, 400 if it is broken."""
    kind = media_type(content_type)
    if kind not in (URLENCODED, MULTIPART):
        raise Refusal(
            415,
            f"A body is read only as {URLENCODED} or {MULTIPART}; "
            "say which one it is in Content-Type.",
        )
    require_utf8(content_type)
    if kind == MULTIPART:
        return _multipart(body, content_type)
    return split_query(body.decode("utf-8", "surrogateescape").rstrip("\r\n"), "the form")


def _multipart(body: bytes, content_type: str) -> Iterator[tuple[str, str]]:
    """The fields of a multipart form (RFC 7578), in order."""
    broken = Refusal(400, "The multipart form is broken.")
    if len(content_type) > MULTIPART_TYPE_MAX:
        raise Refusal(
            400, f"The Content-Type of a multipart form has more than {MULTIPART_TYPE_MAX} bytes."
        )
    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise broken
        fields = _Fields()
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": fields.begin,
                "on_header_field": fields.header_name,
                "on_header_value": fields.header_value,
                "on_header_end": fields.header_ends,
                "on_part_data": fields.data,
                "on_end": fields.end,
            },
            max_header_count=PART_HEADERS_MAX,
            max_header_size=PART_HEADER_MAX,
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeError):
        raise broken from None
    if not fields.complete:
        raise broken
    for headers, value in fields.found:
        kind, words = parse_options_header(headers.get(b"content-disposition"))
        name = words.get(b"name")
        encoding = headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if kind != b"form-data" or name is None or encoding not in _AS_IT_IS:
            raise broken
        if b"filename" in words:
            raise Refusal(400, "A form's field is a file; parameters are plain text.")
        try:
            yield name.decode("utf-8"), bytes(value).decode("utf-8")
        except UnicodeError:
            raise Refusal(400, "The form is not UTF-8.") from None


class _Fields:
    """Collects the fields that the parser finds in a multipart form."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[bytes, bytes], bytearray]] = []
        self.complete = False
        self._name = self._value = b""

    def begin(self) -> None:
        if len(self.found) >= FIELDS_MAX:
            raise Refusal(400, f"There are more than {FIELDS_MAX} parameters in the form.")
        self.found.append(({}, bytearray()))

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ends(self) -> None:
        self.found[-1][0][self._name.lower()] = self._value
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self.found[-1][1].extend(data[start:end])

    def end(self) -> None:
        self.complete = True


def gather(query: str, body: bytes = b"", content_type: str = "") -> Mapping[str, str]:
    """All parameters of a request: of its raw query, and of a form in its body."""
    if not query and not body:
        return {}
    if not body and "%" not in query and "+" not in query and query.isascii():
        # Nothing to decode, as in nearly every request. Errors are found below.
        pairs = [part.partition("=") for part in query.split("&", FIELDS_MAX) if part]
        plain = {name: value for name, _, value in pairs}
        if len(plain) == len(pairs) < FIELDS_MAX:
            return plain
    found = _distinct(split_query(query), {})
    return found | _distinct(split_form(body, content_type), found) if body else found


def _distinct(pairs: Iterable[tuple[str, str]], others: Mapping[str, str]) -> dict[str, str]:
    """Pairs by name. The query and the form may both have the same parameter with one value."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found or others.get(name, value) != value:
            raise Refusal(400, f"The parameter {shown(name)} is given more than once.")
        found[name] = value
    return found


def whole_number(text: str | None, name: str, highest: int = PLAYLIST_MAX) -> int:
    """The id in a parameter's `text` (None if it is missing): decimal digits, 1 to `highest`.
    Anything else is refused with 400, which says what is wrong with it.
    """
    if text is None:
        raise Refusal(400, f"The parameter {name} is missing.")
    if text == "":
        raise Refusal(400, f"{name} is empty; it must be a whole number from 1 to {highest}.")
    number = int(text) if _ID.fullmatch(text) else 0
    if not 1 <= number <= highest:
        raise Refusal(400, f"{name} must be a whole number from 1 to {highest}, not {shown(text)}.")
    return number


def shown(text: str, most: int = 20) -> str:
    """A client's input for a sentence: short, and printable.

    A text that is longer than a number may be a key or a token in the wrong place, and clients and
    proxies log answers.
    """
    return repr(text) if len(text) <= most else f"{len(text)} other characters"
