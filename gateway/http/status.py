"""Status lines: RFC 9110's phrases, the same under each version of Python."""

from __future__ import annotations

from http import HTTPStatus

JSON = "application/json; charset=utf-8"

# Python's phrases change between versions (413 and 422 did): these are RFC 9110's.
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
LINES = {status: f"{status} {phrase}" for status, phrase in _PHRASES.items()}
"""Such as `412 Precondition Failed`, by the status."""
