"""Clients that write to each server that accepts writes, and record what it acknowledges."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pymysql

from stack.datadir import Passwords
from stack.server import Server
from stack.supervised import Supervised
from tests.support.terminal import eventually


class Writers:
    """Two clients that insert numbers, and record those that were acknowledged."""

    def __init__(self, servers: Supervised[Any], passwords: Passwords) -> None:
        self._supervised = servers
        self._password = passwords.gateway
        self._end = threading.Event()
        self.acknowledged: list[int] = []
        servers.primary.query("CREATE TABLE tapedeck.written (id BIGINT PRIMARY KEY)")
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in (1, 2)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        numbers = itertools.count(writer * 10**9)
        while not self._end.is_set():
            for server in self._supervised.servers.values():
                try:
                    self._write_to(server, numbers)
                except pymysql.MySQLError:
                    time.sleep(0.01)

    def _write_to(self, server: Server, numbers: Iterator[int]) -> None:
        connection = pymysql.connect(
            host="127.0.0.1",
            port=server.port,
            user="tapedeck",
            password=self._password,
            database="tapedeck",
            autocommit=True,
            connect_timeout=1,
            read_timeout=8,
        )
        with connection, connection.cursor() as cursor:
            while not self._end.is_set():
                number = next(numbers)
                cursor.execute("INSERT INTO written VALUES (%s)", (number,))
                self.acknowledged.append(number)

    def more(self, count: int = 50) -> bool:
        """Whether so many more numbers are acknowledged soon."""
        wanted = len(self.acknowledged) + count
        return eventually(lambda: len(self.acknowledged) >= wanted)

    def missing(self) -> set[int]:
        """The acknowledged numbers that the primary does not have."""
        acknowledged = set(self.acknowledged)
        rows = self._supervised.primary.query("SELECT id FROM tapedeck.written", timeout=30)
        return acknowledged - {number for (number,) in rows}

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
