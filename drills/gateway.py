"""A gateway of a drill: a process of its own, whose configuration file the drill may change."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from drills.client import Target
from stack.process import Child, ServerFailed

SERVE = ("-m", "cli")
"""What makes a Python process the `tapedeck` command."""


class Gateway(Child):
    """A gateway process.

    Args:
        command: what python is given before `serve` (`SERVE`, or a sabotaged one).
        within: a command that runs the rest of its arguments.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        document: dict[str, Any],
        command: Sequence[str],
        env: Mapping[str, str] | None,
        within: Sequence[str] = (),
    ) -> None:
        super().__init__(name, folder / f"{name}.log")
        self.target = Target(
            f"http://127.0.0.1:{document['gateway']['port']}",
            f"http://127.0.0.1:{document['admin']['port']}",
        )
        self._config = folder / f"{name}.yml"
        self._document = document
        self._write_config()
        self._command = command
        self._env = env
        self._within = within

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ServerFailed: it does not, after a minute.
        """
        argv = [
            *self._within,
            sys.executable,
            *self._command,
            "serve",
            "--config",
            str(self._config),
        ]
        self.spawn(argv, env=self._env)
        self.await_ready(self._serves, 60)

    def reload(self, section: str, **values: Any) -> dict[str, Any]:
        """Write other values into its file and have it read that; its answer.

        Raises:
            ServerFailed: it refused.
        """
        self._document = {**self._document, section: {**self._document[section], **values}}
        self._write_config()
        try:
            return dict(json.loads(self.target.ask_admin("/reload", method="POST", timeout=20)))
        except urllib.error.HTTPError as error:
            raise ServerFailed(f"{self.name} refused: {error.read().decode()}") from None

    def begin(self, *words: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start another `tapedeck` command with this gateway's configuration.

        Args:
            env: more of its environment.
        """
        return subprocess.Popen(
            [sys.executable, *SERVE, *words, "--config", str(self._config)],
            env={**(self._env or {}), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ring(self) -> dict[str, Any]:
        """What its /ring says."""
        return dict(json.loads(self.target.ask_admin("/ring")))

    def _write_config(self) -> None:
        self._config.write_text(yaml.safe_dump(self._document))
        self._config.chmod(0o600)

    def stop_patiently(self) -> None:
        """SIGTERM, and as much time as it may take to finish what is in flight."""
        self.stop(25)

    def _serves(self) -> bool:
        try:
            self.target.ask_admin("/readyz", timeout=2)
        except OSError:
            return False
        return True
