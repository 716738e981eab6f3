"""One worker: the gateway's process, from its start to its graceful end.

python -m gateway.process.worker     a worker of a supervisor, which sends a Handover on stdin
tapedeck serve                       one worker, or a supervisor (supervisor.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from typing import Any

import msgspec
import structlog
import uvloop
from pydantic import ValidationError

from config.load import ConfigError
from config.model import Sections
from failover import tasks
from gateway import logs, metrics, telemetry
from gateway.admin.own_answers import OwnAnswers
from gateway.catalog.catalog import Catalog
from gateway.catalog.maintenance import maintain
from gateway.drain import ASKED, STOPPING, Drain
from gateway.factory import gateway_application
from gateway.health import Health
from gateway.http.listening import Listening, bind
from gateway.peers import Peers
from gateway.process.admin_port import AdminPort
from gateway.reload.reload import OwnParts, Reload, WorkerReload
from gateway.reload.runtime_config import RuntimeConfig, Source
from sharding import metrics as store_metrics
from sharding.backend import Backend

NOTICE_SECONDS = 0.5
"""Seconds that a stopping worker still accepts connections, until balancers have seen /readyz."""
CLOSE_SECONDS = 5.0
EXIT_CONFIG = 78
"""A worker's exit status if no restart would help (EX_CONFIG, sysexits.h)."""
FIRST_CHECK_SECONDS = 1.0
"""Seconds that a start waits for MySQL's list of tables; then it starts without it."""
_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger()


class Refused(Exception):
    """The gateway must not start because of what is in MySQL; says what to do."""


class Handover(msgspec.Struct):
    """What a supervisor sends to a worker on stdin. It contains secrets.

    Attributes:
        worker: its number, from 1.
        supervisor: the supervisor's process id.
        gateway_fd, admin_fd: inherited sockets: of the gateway's port, and a UNIX socket for the
            supervisor's requests.
        generation: of the ring: how many rings the gateway has had.
        drained: whether an operator has taken the gateway out.
        first: whether the gateway starts with this worker, which may then refuse to start. A
            replacement of a dead worker serves what it can.
    """

    worker: int
    supervisor: int
    gateway_fd: int
    admin_fd: int
    admin_token: str
    config: dict[str, Any]
    generation: int
    drained: bool = False
    first: bool = True


def raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed: each connection needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tune_garbage_collector() -> None:
    """Make the cyclic garbage collector run rarely.

    The objects that exist by now live as long as the process: the collector skips them from now on.
    Requests leave hardly any cycles. Measured, the collector took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def start_logs(source: Source, config: Sections) -> None:
    """Set logging up in a process that `tapedeck serve` started."""
    logs.start(config.log.level)
    if source.uses_own_key(config):
        _log.warning(
            "token key generated",
            hint="play tokens end with this process; set auth.token_keys to keep them",
        )


def run_alone(source: Source, config: Sections) -> int:
    """Serve in this process until SIGTERM or SIGINT; return the exit status. Raises PortTaken, or
    Refused if the gateway must not start.
    """
    start_logs(source, config)
    gateway = bind(config.gateway.host, config.gateway.port, "gateway.port", "--port")
    admin = bind(config.admin.host, config.admin.port, "admin.port", "--admin-port")
    uvloop.run(Worker(config, gateway, admin, source).run())
    return 0


class Worker:
    """The gateway in one process, with bound sockets for clients and for operators. Its
    configuration comes from a file or from a supervisor.
    """

    def __init__(
        self,
        config: Sections,
        gateway: socket.socket,
        admin: socket.socket,
        origin: Source | Handover,
    ) -> None:
        self._config = config
        self._sockets = gateway, admin
        self._origin = origin
        self._refused = ""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal, then drain. Raises Refused if the gateway must not start."""
        loop = asyncio.get_running_loop()
        raise_file_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        source = self._origin if isinstance(self._origin, Source) else None
        handover = self._origin if isinstance(self._origin, Handover) else None
        live = RuntimeConfig(self._config, source.pinned if source else frozenset())
        generation = handover.generation if handover else 1
        backend = await Backend.open(self._config, seal=True, generation=generation)
        checking: asyncio.Task[None] | None = None
        if handover is None or handover.first:
            checking = asyncio.create_task(self._check_database(backend))
            await asyncio.wait({checking}, timeout=FIRST_CHECK_SECONDS)
            if self._refused:
                await backend.close()
                raise Refused(self._refused)
        catalog = Catalog(backend.primary, self._config.catalog)
        maintaining = asyncio.create_task(maintain(backend.primary, catalog.finder.plays))
        application = gateway_application(live, backend.store, catalog)
        gateway = Listening(application, self._sockets[0], lambda: live.config.gateway)
        drained = Drain(gateway)
        if handover is not None and handover.drained:
            drained.begin(ASKED)
        health = Health(backend, live, lambda: drained.why)
        answers = OwnAnswers(backend, health, Peers(live), drained, live, application.failed)
        parts = OwnParts(backend, live)
        reload = Reload(live, source, parts) if source else WorkerReload(parts)
        token = handover.admin_token if handover else None
        metrics.IN_FLIGHT.set_function(lambda: application.in_flight)
        metrics.LISTENERS_FAILED.set_function(application.failed.listeners)
        metrics.TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
        metrics.BUILD.labels(telemetry.VERSION).set(1)
        admin = AdminPort(answers, reload, live, self._sockets[1], token)
        live.followers.append(lambda _: gateway.renew())
        await gateway.start()
        await admin.start()  # last, since its /readyz says that the gateway serves
        assert application.admission is not None
        application.admission.start(backend.loop_lag, lambda: application.in_flight)
        store_metrics.SESSION_ENTRIES.set_function(lambda: len(backend.store.sessions))
        store_metrics.SESSION_BYTES.set_function(lambda: backend.store.sessions.bytes)
        health.start()
        tune_garbage_collector()
        _log.info("worker started", gateway=gateway.address, pid=os.getpid())
        await self._stop.wait()
        drained.begin(STOPPING)
        await self._finish(gateway, live.config.gateway.drain_seconds)
        await admin.stop()
        await tasks.stop(maintaining)
        await health.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS / 2):
                await catalog.finder.plays.write()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await backend.close()
        await tasks.stop(checking)
        _log.info("worker stopped")
        if self._refused:
            raise Refused(self._refused)

    async def _check_database(self, backend: Backend) -> None:
        """Stop a gateway that must not run, even if MySQL answers only after the start."""
        self._refused = await backend.days.start_refusal()
        if self._refused:
            self._stop.set()

    async def _finish(self, gateway: Listening, seconds: float) -> None:
        notice = min(NOTICE_SECONDS, seconds)
        await asyncio.sleep(notice)
        if not await gateway.stop(seconds - notice):
            _log.warning("drain interrupted", seconds=seconds)


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    handover = msgspec.json.decode(sys.stdin.buffer.read(), type=Handover)
    logs.start("info", worker=handover.worker)
    die_with(handover.supervisor)
    # Ctrl-C and hang-up of a terminal reach the supervisor, which stops or reloads its workers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = Sections.model_validate(handover.config)
        logs.set_level(config.log.level)
        gateway = socket.socket(fileno=handover.gateway_fd)
        admin = socket.socket(fileno=handover.admin_fd)
        uvloop.run(Worker(config, gateway, admin, handover).run())
    except (ConfigError, ValidationError) as error:
        _log.error("configuration refused", reason=str(error))
        return EXIT_CONFIG
    except Refused as error:
        _log.error("start refused", reason=str(error))
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
