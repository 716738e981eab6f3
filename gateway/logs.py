"""JSON lines on standard output, one for each event. Writing one never waits (`log_queue.py`).

    {"event": "worker started", "level": "info", "timestamp": "2026-03-01T12:00:00.000000Z", ...}

An event is a noun, then a verb in the past; what varies is in fields
(`tests/unit/test_log_events.py`). Log lines of libraries have the same shape. No secret may be
logged: of a path only its route's pattern.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, BinaryIO

import msgspec
import structlog

from gateway import log_queue

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the running task serves; added to every line that the task logs."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_serial = itertools.count(1)
_process = secrets.token_hex(6)
_log = structlog.get_logger()


def request_id(given: str | None) -> str:
    """The id of a request: the client's own if it is 1 to 64 of `A-Za-z0-9._-`, else a new one.

    >>> request_id("abc-1")
    'abc-1'
    """
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return f"{_process}-{next(_serial)}"


def start(level: str, **always: Any) -> None:
    """Set logging up for a process that serves requests: writes to its output never wait.

    The arguments are those of `configure`.
    """
    log_queue.install(lambda lines: _log.error("log lines dropped", lines=lines))
    configure(level, **always)


def set_level(level: str) -> None:
    """Log lines of this level and above from now on: debug, info, warning or error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    logging.getLogger().setLevel(max(number, logging.INFO))


def configure(level: str, stream: BinaryIO | None = None, **always: Any) -> None:
    """Set logging up for this process.

    Args:
        level: debug, info, warning or error.
        always: fields of every line, such as `worker=2`.
    """
    out = _Lines(sys.stdout.buffer if stream is None else stream)

    def bind_always(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(always)
        return event

    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        bind_always,
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer(serializer=_encode)
    structlog.configure(
        processors=[*shared, render], logger_factory=lambda *_: out, cache_logger_on_first_use=False
    )
    handler = logging.StreamHandler(out)
    handler.terminator = ""
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def _add_request_id(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("request_id", REQUEST_ID.get())
    if event["request_id"] is None:
        del event["request_id"]
    return event


def _encode(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr, order="deterministic").decode("utf-8")


class _Lines:
    """Writes whole lines. If the reader is gone, the line is lost, and no request fails."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg = log = write
