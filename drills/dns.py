"""A DNS server whose answer for each name a drill decides: an address, a failure, or silence.

glibc asks port 53 of the servers in /etc/resolv.conf and nothing else, so that a process that is to
ask this one needs that port and a mount namespace: the rights of root, which a user namespace gives
to anybody where the machine permits one (`in_namespaces`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType

from stack.process import ServerFailed

RESOLVER_SECONDS = 2.0
"""How long the resolver of a command `within` tries: a second, twice. (glibc's default is ten.)"""
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--net")
_NOT_PERMITTED = (
    "a drill with a DNS server of its own needs port 53 and a mount namespace, which are not "
    "permitted here: run it as root of the machine"
)
_A = 1
_SERVFAIL = 2
_NXDOMAIN = 3


class Dns:
    """Answers until it is closed (RFC 1035, section 4).

    Attributes:
        names: an address for each name; None: silence; "" (also for a name that is not here):
            there is no such name; "fail": SERVFAIL.
        asked: how often each name was asked for.

    Raises:
        ServerFailed: it may not listen, or its clients may have no mount namespace.
    """

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {}
        self.asked: Counter[str] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = self._listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _listen(self) -> str:
        permitted = subprocess.run(("unshare", "--mount", "true"), capture_output=True, check=False)
        if permitted.returncode == 0:
            for last in range(1, 255):  # each test and drill that runs at once has one
                with contextlib.suppress(OSError):
                    self._socket.bind((f"127.0.77.{last}", 53))
                    return f"127.0.77.{last}"
        self._socket.close()
        raise ServerFailed(_NOT_PERMITTED)

    def within(self, folder: Path) -> tuple[str, ...]:
        """A command that runs its arguments so that they ask only this server."""
        file = folder / "resolv.conf"
        file.write_text(f"nameserver {self.address}\noptions timeout:1 attempts:2\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", script, str(file))

    def __enter__(self) -> Dns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer no longer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                answer = self._answer(query)
                if answer is not None:
                    self._socket.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes | None:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        name = ".".join(labels).lower()
        question = query[12 : at + 5]
        kind = int.from_bytes(query[at + 1 : at + 3], "big")
        self.asked[name] += 1
        said = self.names.get(name, "")
        if said is None:
            return None
        if said in ("", "fail"):
            return _head(query, _NXDOMAIN if said == "" else _SERVFAIL, 0) + question
        if kind != _A:
            return _head(query, 0, 0) + question
        # The name once more, by its place; type A, class IN, TTL 0, four bytes.
        record = b"\xc0\x0c\x00\x01\x00\x01" + bytes(4) + b"\x00\x04" + socket.inet_aton(said)
        return _head(query, 0, 1) + question + record


def _head(query: bytes, code: int, answers: int) -> bytes:
    flags = (0x8180 | code).to_bytes(2, "big")
    return query[:2] + flags + b"\x00\x01" + answers.to_bytes(2, "big") + bytes(4)


def in_namespaces(argv: list[str]) -> None:
    """Run a command in this process's place with the rights that `Dns` needs, if it has them not.

    Raises:
        ServerFailed: the machine permits nobody but root to have them.
    """
    if os.geteuid() == 0:
        return
    # Their loopback is another one, where ports below 1024 are ours.
    command = [*_NAMESPACES, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        raise ServerFailed(_NOT_PERMITTED)
    os.execvp(command[0], [*command, *argv])  # noqa: S606
