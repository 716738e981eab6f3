"""The gateway as a child of the local stack: `tapedeck serve`, without special options."""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

from config.load import load
from config.tls import own_port_context
from stack.layout import gateway_environment
from stack.process import Child

DRAIN = 25.0
"""Seconds that it may take to finish requests (gateway.drain_seconds is 15)."""


class Gateway(Child):
    """One gateway on the stack's configuration."""

    def __init__(self, config: Path, log: Path, pid_file: Path) -> None:
        super().__init__("gateway", log, pid_file)
        self.config = config

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            ServerFailed: it ended, or is not ready after half a minute.
        """
        argv = [sys.executable, "-m", "cli", "serve", "--config", str(self.config)]
        self.spawn(argv, env=gateway_environment())
        self.await_ready(self._is_ready, 30)

    def stop(self, seconds: float = DRAIN) -> None:
        """Send SIGTERM, and wait until it has finished its requests and ended."""
        super().stop(seconds)

    def _is_ready(self) -> bool:
        admin = load(self.config, gateway_environment()).admin
        context = own_port_context(admin)
        connection = (
            HTTPConnection("127.0.0.1", admin.port, timeout=2)
            if context is None
            else HTTPSConnection("127.0.0.1", admin.port, timeout=2, context=context)
        )
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
