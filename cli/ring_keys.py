"""`tapedeck ring where --keys`: the node of each raw lookup key of a file, without any server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING

from cli.common import fail

if TYPE_CHECKING:
    from sharding.ring.ring import Ring


def print_places(ring: Ring, source: Path, *, as_json: bool) -> None:
    """Print the node of each line of `source` (`-`: standard input), as it is read.

    A line ends with LF or CR LF, which are not part of the key; an empty line is the empty key. As
    JSON each line is one object, with bytes that are not UTF-8 as lone surrogates (Python's
    "surrogateescape").
    """
    try:
        with sys.stdin.buffer if str(source) == "-" else source.open("rb") as lines:
            keys = (
                line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n") for line in lines
            )
            sys.stdout.buffer.writelines(_objects(ring, keys) if as_json else _lines(ring, keys))
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`); Python would report that again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"{source} cannot be read: {error.strerror}")


def _lines(ring: Ring, keys: Iterable[bytes]) -> Iterator[bytes]:
    names = {server.name: server.name.encode() for server in ring.servers}
    for key in keys:
        yield b"%b\t%b\n" % (key, names[ring.owner(key).name])


def _objects(ring: Ring, keys: Iterable[bytes]) -> Iterator[bytes]:
    names = {server.name: encode_basestring_ascii(server.name) for server in ring.servers}
    for key in keys:
        text = encode_basestring_ascii(key.decode("utf-8", "surrogateescape"))
        yield f'{{"key": {text}, "node": {names[ring.owner(key).name]}}}\n'.encode()
