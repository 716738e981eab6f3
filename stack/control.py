"""How `tapedeck stack` talks to the running `tapedeck up`: JSON lines over a unix socket.

A request is one line, `{"do": "start", "name": "mysql1"}`. The answer is any number of lines
`{"progress": "..."}` and one last `{"done": ...}` or `{"error": "..."}`. A server
that is started by an order is a child of `up`, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stack.process import ServerFailed
from stack.stack import Stack

_SOCKET = "control.sock"


class NotRunning(Exception):
    """No stack runs in the folder."""


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A short path of the socket: the kernel takes 107 bytes, and the folder's may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)


class Control:
    """Takes orders for a stack until it is closed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._listeners: set[Callable[[str], None]] = set()
        self._socket = socket.socket(socket.AF_UNIX)

    def start(self) -> None:
        """Listen, in threads of its own."""
        folder = self._stack.layout.run
        (folder / _SOCKET).unlink(missing_ok=True)
        with _short_path(folder) as path:
            self._socket.bind(path)
        (folder / _SOCKET).chmod(0o600)
        self._socket.listen(16)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Take no more orders."""
        self._socket.close()
        (self._stack.layout.run / _SOCKET).unlink(missing_ok=True)

    def tell(self, sentence: str) -> None:
        """Pass a sentence on to each client that waits for its order."""
        for listener in tuple(self._listeners):
            listener(sentence)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw", encoding="utf-8") as lines:

            def answer(**words: Any) -> None:
                with contextlib.suppress(OSError, ValueError):
                    lines.write(json.dumps(words) + "\n")
                    lines.flush()

            def progress(sentence: str) -> None:
                answer(progress=sentence)

            self._listeners.add(progress)
            try:
                request = json.loads(lines.readline() or "{}")
                answer(done=self._carry_out(request))
            except ServerFailed as error:
                answer(error=str(error))
            except Exception as error:  # a bad order must not end the stack
                answer(error=f"{type(error).__name__}: {error}")
            finally:
                self._listeners.discard(progress)

    def _carry_out(self, request: dict[str, Any]) -> object:
        order, name = request.get("do"), str(request.get("name"))
        if order == "status":
            return self._stack.status()
        if order == "promote":
            return self._stack.promote(force=bool(request.get("force")))
        if order == "start":
            return self._stack.start_server(name)
        if order == "stop":
            return self._stack.stop_server(name)
        raise ServerFailed(f"there is no order {order!r}: use status, start, stop or promote")


def ask(run: Path, progress: Callable[[str], None] = lambda _: None, **request: object) -> Any:
    """Send an order to the stack with this `run` folder; return its result.

    Raises:
        NotRunning: no stack listens there.
        ServerFailed: the order failed.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short_path(run) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise NotRunning(str(run)) from None
    with connection, connection.makefile("rw", encoding="utf-8") as lines:
        lines.write(json.dumps(request) + "\n")
        lines.flush()
        for line in lines:
            answer = json.loads(line)
            if "progress" in answer:
                progress(str(answer["progress"]))
            elif "error" in answer:
                raise ServerFailed(str(answer["error"]))
            else:
                return answer["done"]
    raise ServerFailed("the stack ended before it answered")
