"""Finds the calls that block an event loop, in processes that a test starts.

`blockbuster` knows most functions that block; this module adds some. Each blocking call is written
to a file with its stack. `blockbuster` would raise an exception, which the program might catch.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import socket
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blockbuster import BlockBuster, BlockBusterFunction

ROOT = Path(__file__).resolve().parents[2]

ALLOWED: dict[str, tuple[str, ...]] = {
    # A library imports a module when it first needs it.
    "<frozen importlib._bootstrap>": ("_find_and_load",),
    # The start of a worker: vfork returns once the worker's program is executed.
    "gateway/process/supervisor.py": ("_spawn",),
}
"""The functions that may block, by the end of their file's name; each comment gives the reason."""

_MORE: tuple[tuple[Any, str], ...] = (
    (builtins, "open"),
    (io, "open"),
    (os, "open"),
    (os, "fsync"),
    (os, "fdatasync"),
    (fcntl, "flock"),
    (fcntl, "lockf"),
    (socket, "getaddrinfo"),
    (socket, "gethostbyname"),
    (subprocess.Popen, "__init__"),
    (ssl.SSLContext, "load_cert_chain"),
    (ssl.SSLContext, "load_verify_locations"),
    (ssl.SSLContext, "load_default_certs"),
)


def environment(folder: Path) -> list[str]:
    """The words to put before a command, so that `found` knows the blocking calls of its Python
    processes."""
    code = "from tests.support.blocking import watch; watch()"
    (folder / "sitecustomize.py").write_text(code)
    # With a buffer, Python's last flush of stdout would end in a segmentation fault.
    variables = ["PYTHONUNBUFFERED=1", f"PYTHONPATH={folder}:{ROOT}"]
    return ["env", *variables, f"BLOCKING_CALLS={folder / 'blocking'}"]


def found(folder: Path) -> str:
    """The blocking calls so far, with their stacks; empty if there was no such call."""
    file = folder / "blocking"
    return file.read_text() if file.exists() else ""


def watch() -> None:
    """Write down each call of this process that blocks an event loop."""
    buster = BlockBuster()
    functions = list(buster.functions.values())
    functions += [BlockBusterFunction(module, name) for module, name in _MORE]
    report = os.open(
        os.environ["BLOCKING_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    )
    write = os.write
    for function in functions:
        allowed = [*function.can_block_functions, *ALLOWED.items()]
        function.can_block_predicate = _recorder(
            function.full_name,
            function.can_block_predicate,
            [(file, tuple(names)) for file, names in allowed],
            lambda text: write(report, text.encode()),
        )
        function.activate()


def _recorder(
    name: str,
    harmless: Callable[..., bool],
    allowed: Sequence[tuple[str, tuple[str, ...]]],
    report: Callable[[str], object],
) -> Callable[..., bool]:
    def is_allowed(*args: Any, **words: Any) -> bool:
        if not harmless(*args, **words):
            stack = _stack()
            if not any(
                file_name.endswith(file) and code in names
                for file_name, _, code in stack
                for file, names in allowed
            ):
                lines = "".join(f"    {f}:{line} {code}\n" for f, line, code in stack)
                report(f"{name} in process {os.getpid()}\n{lines}")
        return True

    return is_allowed


def _stack() -> list[tuple[str, int, str]]:
    # Without the source lines: they would be read from files, which blocks.
    frames = traceback.walk_stack(sys._getframe(3))
    return [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames]
