"""Signals during a start. A SIGTERM to process 1 of a container ends it at any moment; a SIGHUP
ends no gateway.

The kernel drops signals for process 1 for which it has no handler.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.terminal import Terminal, eventually

pytestmark = pytest.mark.stack

BLOCKED = ("env", "--block-signal=TERM")
"""The same as in deploy/docker/Dockerfile."""

RIGHTS = () if os.geteuid() == 0 else ("--user", "--map-current-user")
"""Only root may make a PID namespace, and everybody in a user namespace of his own."""


class Contained:
    """`tapedeck` as process 1 of a PID namespace.

    Args:
        folder: where it runs, and where its output goes.
        before: a command that runs the rest of its arguments.
    """

    def __init__(self, folder: Path, *args: str, before: tuple[str, ...] = ()) -> None:
        self.output = folder / "output"
        with self.output.open("w") as output:
            self._unshare = subprocess.Popen(
                [
                    *("unshare", *RIGHTS, "--pid", "--fork", "--kill-child", *before),
                    *(sys.executable, "-m", "cli", *args),
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        assert eventually(lambda: bool(children.read_text().split()))
        self.pid = int(children.read_text().split()[0])
        # `unshare` itself blocks SIGTERM for a moment: one that is sent then is dropped.
        name = Path(f"/proc/{self.pid}/comm")
        assert eventually(lambda: name.read_text() != "unshare\n")

    def signals(self, *words: str, number: int = signal.SIGTERM) -> bool:
        """Whether a signal is in one of its signal masks, for example `SigCgt` (caught)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        masks = [int(line.split()[1], 16) for line in lines if line.split(":")[0] in words]
        return any(mask & 1 << (number - 1) for mask in masks)

    @property
    def mapped(self) -> str:
        """The files that it has loaded."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    def end(self) -> int:
        """Send SIGTERM; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self._unshare.wait(60)

    def close(self) -> None:
        """End what still runs."""
        if self._unshare.poll() is None:
            self._unshare.kill()
            self._unshare.wait()


@pytest.fixture
def contained(tmp_path: Path) -> Any:
    made: list[Contained] = []

    def make(*args: str, before: tuple[str, ...] = ()) -> Contained:
        made.append(Contained(tmp_path, *args, before=before))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def serve(stack_config: Callable[..., dict[str, Any]], tmp_path: Path) -> tuple[str, ...]:
    config = tmp_path / "tapedeck.yml"
    config.write_text(yaml.safe_dump(stack_config()))
    return ("serve", "--config", str(config))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("moment", ["handler", "pydantic_core", "uvloop", "log", "listening"])
def test_the_first_sigterm_ends_a_gateway_while_it_starts(
    contained: Callable[..., Contained], serve: tuple[str, ...], moment: str, workers: str
) -> None:
    gateway = contained(*serve, "--workers", workers)
    come: dict[str, Callable[[], bool]] = {
        "handler": lambda: gateway.signals("SigCgt"),
        "log": lambda: bool(gateway.output.read_text()),
        "listening": lambda: '"worker started"' in gateway.output.read_text(),
    }
    # Other moments are names of libraries that are being loaded.
    assert eventually(come.get(moment, lambda: moment in gateway.mapped))

    assert gateway.end() in (0, 128 + signal.SIGTERM), gateway.output.read_text()
    assert "Traceback" not in gateway.output.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sighup_during_the_start_ends_no_gateway_and_reloads_it(
    contained: Callable[..., Contained], serve: tuple[str, ...], workers: str
) -> None:
    gateway = contained(*serve, "--workers", workers)
    assert eventually(lambda: gateway.signals("SigCgt"))  # Python has started
    os.kill(gateway.pid, signal.SIGHUP)

    assert eventually(lambda: '"configuration reloaded"' in gateway.output.read_text())
    assert gateway.end() == 0, gateway.output.read_text()


def test_a_sigterm_before_python_has_started_ends_a_gateway_of_the_image(
    contained: Callable[..., Contained], serve: tuple[str, ...]
) -> None:
    gateway = contained(*serve, before=BLOCKED)
    assert eventually(lambda: gateway.signals("SigBlk", "SigCgt"))

    assert gateway.end() == 128 + signal.SIGTERM, gateway.output.read_text()
    assert not gateway.output.read_text()


@pytest.mark.parametrize("seconds", [0, 1, 3])
def test_the_first_sigterm_ends_a_local_stack_while_it_starts(
    contained: Callable[..., Contained], tmp_path: Path, seconds: float
) -> None:
    up = contained("up", "--ephemeral", *Terminal(tmp_path).options, before=BLOCKED)
    assert eventually(lambda: up.signals("SigBlk", "SigCgt"))
    time.sleep(seconds)

    assert up.end() in (0, 128 + signal.SIGTERM), up.output.read_text()
    assert "Traceback" not in up.output.read_text()
