"""`tapedeck ring where --keys`: the node of each raw lookup key of a file, without any server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cli.common import fail

if TYPE_CHECKING:
    from sharding.ring.ring import Ring

_AT_ONCE = 4096
_SAY_EVERY = 1_000_000


def print_places(ring: Ring, source: Path, *, as_json: bool) -> None:
    """Print the node of each line of `source` (`-`: standard input), as it is read.

    A line ends with LF or CR LF, which are no part of the key; an empty line is the empty key. As
    JSON each line is one object; bytes that are no UTF-8 stand as lone surrogates there, as
    Python's "surrogateescape" has them.
    """
    try:
        keys = sys.stdin.buffer if str(source) == "-" else source.open("rb")
    except OSError as error:
        fail(f"{source} cannot be read: {error.strerror}")
    answers = _json_lines(ring, keys) if as_json else _lines(ring, keys)
    try:
        with keys:
            _write(answers, sys.stdout.buffer)
    except BrokenPipeError:
        # Whoever reads has enough (`| head`); Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"{source} cannot be read: {error.strerror}")


def _write(answers: Iterable[bytes], out: BinaryIO) -> None:
    talk = sys.stderr.isatty() and not sys.stdout.isatty()
    batch: list[bytes] = []
    for number, answer in enumerate(answers, 1):
        batch.append(answer)
        if len(batch) >= _AT_ONCE:
            out.write(b"".join(batch))
            batch.clear()
        if talk and number % _SAY_EVERY == 0:
            print(f"\r{number:,} keys", end="", file=sys.stderr, flush=True)
    out.write(b"".join(batch))
    out.flush()
    if talk:
        print(file=sys.stderr)


def _key(line: bytes) -> bytes:
    return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")


def _lines(ring: Ring, lines: Iterable[bytes]) -> Iterator[bytes]:
    names = {server.name: server.name.encode() for server in ring.servers}
    for line in lines:
        key = _key(line)
        yield b"%b\t%b\n" % (key, names[ring.owner(key).name])


def _json_lines(ring: Ring, lines: Iterable[bytes]) -> Iterator[bytes]:
    names = {server.name: encode_basestring_ascii(server.name) for server in ring.servers}
    for line in lines:
        key = _key(line)
        text = encode_basestring_ascii(key.decode("utf-8", "surrogateescape"))
        yield f'{{"key": {text}, "node": {names[ring.owner(key).name]}}}\n'.encode()
