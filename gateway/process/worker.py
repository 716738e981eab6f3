"""One worker: the gateway's process, from its start to its graceful end.

python -m gateway.process.worker     a worker of a supervisor, which hands it on stdin what to do
tapedeck serve                       one worker alone, or a supervisor (supervisor.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog
import uvloop
from pydantic import ValidationError

from config.load import ConfigError
from config.model import Sections
from config.values import is_loopback
from gateway import logs, telemetry
from gateway.admin.local import OwnInsight
from gateway.admin.routes import AdminApi
from gateway.catalog.cache import Catalog
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application, gateway_application
from gateway.http.listener import Listening, bind
from gateway.reload import reload
from gateway.reload.runtime_config import RuntimeConfig, Source, with_token_keys
from sharding.backend import Backend

NOTICE_SECONDS = 0.5
"""How long a stopping worker goes on accepting, so that whoever asks /readyz sends traffic away."""
CLOSE_SECONDS = 5.0
EXIT_CONFIG = 78
"""A worker's exit status for what no restart will mend (EX_CONFIG, sysexits.h)."""
FIRST_LOOK_SECONDS = 1.0
"""How long a start waits for MySQL to say which tables are there; without an answer it goes on."""
_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger()


class Refused(Exception):
    """The gateway must not start on what it found in MySQL; says what to do."""


class Handover(msgspec.Struct):
    """What a supervisor hands to a worker, on its stdin: it holds secrets.

    Attributes:
        worker: its number, from 1.
        supervisor: process id of who hands over.
        gateway_fd: the listening socket of the gateway's port, inherited.
        admin_fd: the UNIX socket on which the supervisor asks, inherited.
        admin_token: which it shows there.
        config: the configuration with its secrets.
        generation: of the ring: how many the gateway has had.
        first: whether the gateway starts with it. One that takes a dead worker's place serves what
            it can, as that one did.
    """

    worker: int
    supervisor: int
    gateway_fd: int
    admin_fd: int
    admin_token: str
    config: dict[str, Any]
    generation: int
    first: bool = True


class ReloadOrder(msgspec.Struct):
    """The body with which a supervisor reloads its workers: first asks all, then tells all."""

    config: dict[str, Any]
    generation: int
    apply: bool


def fill_in(config: Sections) -> Callable[[Sections], Sections]:
    """A function that gives a configuration without token keys one that this process made up.

    In local mode tokens then last as long as the process does; production mode has keys.
    """
    key = secrets.token_hex(32)
    if not config.auth.token_keys:
        _log.warning(
            "token_key_made_up",
            hint="play tokens end with this process; set auth.token_keys to keep them",
        )
    return lambda loaded: with_token_keys(loaded, key)


def admin_token(config: Sections) -> str | None:
    """What the admin port asks for: nothing on loopback."""
    if is_loopback(config.admin.host) or config.admin.token is None:
        return None
    return config.admin.token.get_secret_value()


def raise_file_limit() -> None:
    """Each connection is a file: take as many as the system lets us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def spare_the_collector() -> None:
    """Keep the cyclic garbage collector off the requests' way.

    What was imported and built by now stays for as long as the process: it is not looked at again.
    A request leaves hardly any cycles, so that looks can be rare; measured, they took a tenth of
    the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def run_alone(source: Source, config: Sections) -> int:
    """Serve in this process until SIGTERM or SIGINT; the exit status.

    Raises:
        PortTaken: naming the port and what to change.
        Refused: see there.
    """
    logs.start(config.log.level)
    gateway = bind(config.gateway.host, config.gateway.port, "gateway.port", "--port")
    admin = bind(config.admin.host, config.admin.port, "admin.port", "--admin-port")
    fill = fill_in(config)
    worker = Worker(
        fill(config),
        gateway,
        admin,
        admin_token,
        lambda _: fill(source.load()),
        source=source,
    )
    uvloop.run(worker.run())
    return 0


class Worker:
    """The gateway in one process.

    Args:
        config: complete.
        gateway: bound socket for players and services.
        admin: bound socket for operators, or for the supervisor.
        token: gives what the admin socket asks for, by a configuration.
        reread: gives the configuration to reload.
        insight: what the admin socket shows.
        source: to look at for changes; None where a supervisor does.
        generation: of the ring.
        dashboard: whether the admin socket has the page; a supervisor's has it for its workers.
        first: as in Handover.
    """

    def __init__(
        self,
        config: Sections,
        gateway: socket.socket,
        admin: socket.socket,
        token: Callable[[Sections], str | None],
        reread: Callable[[bytes], Sections],
        insight: type[OwnInsight] = OwnInsight,
        source: Source | None = None,
        generation: int = 1,
        *,
        dashboard: bool = True,
        first: bool = True,
    ) -> None:
        self._first = first
        self._refused = ""
        self._config = config
        self._sockets = gateway, admin
        self._token = token
        self._reread = reread
        self._insight_type = insight
        self._source = source
        self._generation = generation
        self._with_dashboard = dashboard
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Serve until a signal says stop, then drain.

        Raises:
            Refused: see there.
        """
        loop = asyncio.get_running_loop()
        raise_file_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        live = RuntimeConfig(self._config, self._source.pinned if self._source else frozenset())
        backend = await Backend.open(self._config, seal=True, generation=self._generation)
        if self._first:
            looking = self._keep(self._look(backend))
            await asyncio.wait({looking}, timeout=FIRST_LOOK_SECONDS)
            if self._refused:
                await backend.close()
                raise Refused(self._refused)
        application = gateway_application(
            live, backend.store, Catalog(backend.primary, self._config.catalog)
        )
        insight = self._insight_type(backend, live, self._reread, lambda: application.draining)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, insight)
        telemetry.IN_FLIGHT.set_function(lambda: application.in_flight)
        telemetry.TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
        telemetry.BUILD.labels(telemetry.VERSION).set(1)
        gateway = Listening(application, self._sockets[0], lambda: live.config.gateway)
        dashboard = Dashboard(insight, live) if self._with_dashboard else None
        api = AdminApi(
            insight,
            lambda: self._token(live.config),
            dashboard,
            lambda: live.config.admin.allowed_hosts,
        )
        admin = Listening(admin_application(live, api), self._sockets[1], lambda: live.config.admin)
        live.followers += [lambda _: gateway.renew(), lambda _: admin.renew()]
        await gateway.start()
        await admin.start()  # says that it serves, once it does
        assert application.admission is not None
        application.admission.start(backend.presence, lambda: application.in_flight)
        telemetry.SESSION_ENTRIES.set_function(lambda: len(backend.store.sessions))
        telemetry.SESSION_BYTES.set_function(lambda: backend.store.sessions.bytes)
        spare_the_collector()
        if dashboard is not None:
            dashboard.start()
        _log.info("listening", gateway=gateway.address, pid=os.getpid())
        if self._source is not None:
            self._keep(reload.watch(self._source, live, lambda: insight.reload(b"")))
        await self._stop.wait()
        await self._drain(gateway, live.config.gateway.drain_seconds)
        if dashboard is not None:
            await dashboard.close()
        await admin.stop(1.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await backend.close()
        _log.info("stopped")
        if self._refused:
            raise Refused(self._refused)

    async def _look(self, backend: Backend) -> None:
        """End a gateway that must not start, also where MySQL answers later than it started."""
        self._refused = await backend.days.first_look()
        if self._refused:
            self._stop.set()

    async def _drain(self, gateway: Listening, seconds: float) -> None:
        _log.info("draining", in_flight=gateway.application.in_flight, seconds=seconds)
        # /readyz says so from here on, and every answer ends its connection.
        gateway.application.draining = True
        notice = min(NOTICE_SECONDS, seconds)
        await asyncio.sleep(notice)
        if not await gateway.stop(seconds - notice):
            _log.warning("drain_cut", seconds=seconds)

    def _hang_up(self, insight: OwnInsight) -> None:
        self._keep(reload.reload_logged(insight.reload(b"")))

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


class _OrderedInsight(OwnInsight):
    """A worker's insight: it reloads what its supervisor sends."""

    async def reload(self, body: bytes) -> dict[str, Any]:
        order = msgspec.json.decode(body, type=ReloadOrder)
        merged, outcome = self._live.merged(Sections.model_validate(order.config))
        planned = self._backend.plan(merged)
        if order.apply:
            self._backend.reload(merged, planned, order.generation)
            self._live.take(merged)
            await self._backend.days.relist()
        return {"taken": order.apply, **outcome}


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent goes, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """A supervised worker."""
    handover = msgspec.json.decode(sys.stdin.buffer.read(), type=Handover)
    logs.start("info", worker=handover.worker)
    die_with(handover.supervisor)
    # A terminal's Ctrl-C and hang-up reach the supervisor, which says what to do.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = Sections.model_validate(handover.config)
        logs.set_level(config.log.level)
        worker = Worker(
            config,
            socket.socket(fileno=handover.gateway_fd),
            socket.socket(fileno=handover.admin_fd),
            lambda _: handover.admin_token,
            lambda _: config,
            _OrderedInsight,
            generation=handover.generation,
            dashboard=False,
            first=handover.first,
        )
        uvloop.run(worker.run())
    except (ConfigError, ValidationError) as error:
        _log.error("configuration_refused", reason=str(error))
        return EXIT_CONFIG
    except Refused as error:
        _log.error("start_refused", reason=str(error))
        return EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
