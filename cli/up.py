"""`tapedeck up`: the local stack, the gateway and the sample catalog, in the foreground."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.common import Failed, fail
from config.load import LOCAL_CONFIG, load
from config.tls import own_url

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from stack.layout import Layout, Ports


class Stopped(BaseException):
    """A signal asked this process to stop."""


def up(
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Begin empty and keep no data.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes of the gateway.")
    ] = 1,
    gateway_port: Annotated[
        int, typer.Option("--gateway-port", min=1, max=65535, envvar="TAPEDECK_GATEWAY__PORT")
    ] = 8080,
    admin_port: Annotated[
        int, typer.Option("--admin-port", min=1, max=65535, envvar="TAPEDECK_ADMIN__PORT")
    ] = 8081,
    lookup_ports: Annotated[
        str, typer.Option("--lookup-ports", envvar="TAPEDECK_LOOKUP_PORTS", metavar="A,B,C")
    ] = "7101,7102,7103",
    mysql: Annotated[
        Literal["mariadb", "mysql", "group"],
        typer.Option(
            "--mysql",
            help="A pair of MariaDB or of MySQL, or a MySQL group of three. Each has its own data.",
        ),
    ] = "mariadb",
    mysql_ports: Annotated[
        str | None,
        typer.Option(
            "--mysql-ports",
            envvar="TAPEDECK_MYSQL_PORTS",
            metavar="A,B[,C]",
            help="Three for a group.  [default: 7306,7307,7308]",
            show_default=False,
        ),
    ] = None,
    player_port: Annotated[
        int | None,
        typer.Option(
            "--player-port",
            min=1,
            max=65535,
            envvar="TAPEDECK_PLAYER_PORT",
            help="The demo player's.  [default: 8082, or any free one]",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The configuration that it writes.")
    ] = LOCAL_CONFIG,
    parent: Annotated[int, typer.Option("--parent", hidden=True)] = 0,
) -> None:
    """Run the local stack and the gateway, until Ctrl-C.

    Three lookup nodes, and MySQL with a standby. All data is in .tapedeck (the folder of --config)
    and is used again the next time.

    Example: tapedeck up --ephemeral --gateway-port 9080
    """
    from gateway import log_queue
    from stack.layout import MYSQL_PORTS, Layout, Ports

    log_queue.install()
    of_mysql = MYSQL_PORTS[mysql]
    if mysql_ports is not None:
        of_mysql = _ports(mysql_ports, len(of_mysql), "--mysql-ports")
    lookups = _ports(lookup_ports, 3, "--lookup-ports")
    ports = Ports(gateway_port, admin_port, lookups, of_mysql)
    with contextlib.suppress(Stopped):  # before anything was started
        _run(Layout(config, ephemeral, mysql), ports, workers, parent, player_port)


def _ports(text: str, count: int, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(p.isdigit() and 0 < int(p) < 65536 for p in parts):
        raise typer.BadParameter(f"{option} needs {count} ports: {text!r}")
    return tuple(int(part) for part in parts)


def _run(layout: Layout, ports: Ports, workers: int, parent: int, player_port: int | None) -> None:
    from rich.console import Console

    from stack.control import Control
    from stack.demo import Demo, bind
    from stack.process import ServerFailed
    from stack.stack import Stack

    # After the slow imports: an exception that a handler raises during them may get lost.
    watcher = _Watcher(parent)
    began = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    control: Control | None = None
    demo: Demo | None = None

    def say(sentence: str) -> None:
        # The terminal may be closed; the stack runs on.
        with contextlib.suppress(OSError, ValueError):
            console.print(f"[dim]{time.monotonic() - began:7.1f} s[/]  {sentence}")
        with contextlib.suppress(OSError):
            layout.log.mkdir(parents=True, exist_ok=True)
            with (layout.log / "stack.log").open("a") as log:
                log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {sentence}\n")
        if control is not None:
            control.tell(sentence)

    stack = Stack(layout, ports, workers=workers, say=say)
    try:
        player = bind(player_port)
        stack.claim()
    except ServerFailed as error:
        fail(str(error))
    try:
        say(f"starting the local stack in {layout.home}" + " (ephemeral)" * layout.ephemeral)
        stack.start()
        control = Control(stack)
        control.start()
        demo = Demo(stack, player)
        demo.start()
        _show(console, layout, ports, demo.url, time.monotonic() - began)
        watcher.wait()
    except Stopped as reason:
        say(f"{reason}: stopping")
    except ServerFailed as error:
        sentence, _, log = str(error).partition("\n")
        if log:
            print(log, file=sys.stderr)
        raise Failed(sentence) from None
    finally:
        watcher.stopping = True
        if demo is not None:
            demo.close()
        if control is not None:
            control.close()
        with contextlib.suppress(Stopped):
            stack.stop()
    say("stopped; nothing is left running")


class _Watcher:
    """Turns signals, and the end of `make`, into `Stopped` in the main thread.

    Args:
        parent: the process id of the `make` that runs this as its recipe; 0 for none.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._caught_by_parent = 0
        self.stopping = False
        self._first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        if parent:
            from stack.process import die_with_parent

            try:
                die_with_parent(parent, signal.SIGTERM)
            except ProcessLookupError:
                raise Failed("make has ended: nothing is started") from None
            self._caught_by_parent = self._catches()

    def _signalled(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._first == 0.0:
            self._first = time.monotonic()
            if not self.stopping:
                raise Stopped("Ctrl-C" if number == signal.SIGINT else name)
        elif number == signal.SIGINT and time.monotonic() - self._first > 1:
            # A second Ctrl-C. The kernel ends the children with this process.
            os._exit(1)

    def wait(self) -> None:
        """Wait for a signal, or for the end of `make`.

        Raises:
            Stopped: always.
        """
        if not self._parent:
            while True:
                signal.pause()
        while True:
            time.sleep(0.25)
            # GNU make that gets a SIGINT or SIGHUP of its own (not the terminal's) waits for its
            # child without signalling it. The only sign is that it no longer catches the signal.
            if self._catches() != self._caught_by_parent:
                raise Stopped("make was interrupted")

    def _catches(self) -> int:
        """The bits of SIGINT and SIGHUP in the mask of signals that the parent catches."""
        try:
            status = Path(f"/proc/{self._parent}/status").read_text()
        except OSError:
            return 0
        mask = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        both = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)
        return int(mask.split()[1], 16) & both


def _show(console: Console, layout: Layout, ports: Ports, player: str, seconds: float) -> None:
    """Print one screen: all addresses, how to play a mix, what to break."""
    from stack.layout import gateway_environment

    sections = load(layout.config, gateway_environment())
    gateway, admin = own_url(sections.gateway), own_url(sections.admin)
    curl = "curl"
    if sections.gateway.tls_certificate_file is not None:
        curl += f" --cacert {shlex.quote(sections.gateway.tls_certificate_file)}"
    run = layout.run
    command = "tapedeck"
    if shutil.which(command) is None:
        command = os.path.relpath(sys.argv[0])
    here = "" if layout.config == LOCAL_CONFIG else f" --config {layout.config}"
    pids = {
        name: (run / f"{name}.pid").read_text().strip()
        for _, name, _ in ports.uses()
        if name != "admin"
    }
    servers = "  ".join(f"{name} {port} (pid {pids[name]})" for port, name, _ in ports.uses()[:3])
    mysql = "  ".join(f"{name} {port} (pid {pids[name]})" for port, name, _ in ports.uses()[3:-2])
    end = "a dead primary's standby is promoted; started again, it is the standby"
    if layout.mysql == "group":
        end = "MySQL elects another primary within 8 seconds; started again, it is a secondary"
    title = "MariaDB" if layout.mysql == "mariadb" else "MySQL  "
    cut_out = """sed 's/.*"play_token": *"//; s/".*//'"""
    lines = [
        "",
        f"[bold green]Tapedeck is ready[/] after {seconds:.1f} s. Ctrl-C stops everything.",
        "",
        f"  [bold]player    {player}[/]   play a mix in the browser, and kill what it plays on",
        f"  [bold]dashboard {admin}/[/]   is it well?",
        f"  gateway   {gateway}   (pid {pids['gateway']})",
        f"  admin     {admin}/readyz   /ring   /partitions   /stats",
        f"  metrics   {admin}/metrics",
        f"  API       {gateway}/openapi.json",
        f"  lookup    {servers}",
        f"  {title}   {mysql}",
        f"  files     {layout.config}  {layout.home}/service.key  {layout.log}/",
        "",
        "[bold]Play a mix:[/]",
        f"  TOKEN=$({curl} -s {gateway}/sets/new | {cut_out})",
        f'  {curl} "{gateway}/sets/$TOKEN/play?mix_id=1"',
        f'  {curl} "{gateway}/sets/$TOKEN/next?mix_id=1"',
        "",
        "[bold]Break it, and play on:[/]",
        f"  kill -9 $(cat {run}/lookup2.pid)     {command} stack start lookup2{here}",
        f"  kill -9 $(cat {run}/mysql1.pid)      {command} stack start mysql1{here}",
        f"  {command} stack status{here}",
        f"[dim]  ({end})[/]",
        "",
    ]
    for line in lines:
        with contextlib.suppress(OSError, ValueError):
            console.print(line, markup=line.lstrip().startswith("["), soft_wrap=True)
