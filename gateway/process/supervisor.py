"""N workers on one port, and the supervisor that restarts them.

The supervisor binds one socket for each worker (SO_REUSEPORT: the kernel spreads the connections)
and keeps it open. If a worker dies, the connections in its queue wait for its replacement, which
inherits the socket. The supervisor itself serves only the admin port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass

import aiohttp
import structlog
from prometheus_client import Counter, Gauge

from config.model import Sections
from config.plain import plain
from failover import tasks
from gateway.http.errors import encode
from gateway.http.listening import BACKLOG, NONE_LEFT, bind, bind_shared
from gateway.peers import Peers
from gateway.process.admin_port import AdminPort
from gateway.process.worker import EXIT_CONFIG, Handover, raise_file_limit, start_logs
from gateway.process.workers_answers import WorkerClient, WorkersAnswers
from gateway.reload.reload import Reload, Taken, Workers
from gateway.reload.runtime_config import RuntimeConfig, Source

SHORT_LIFE_SECONDS = 5.0
"""A worker that dies sooner than this had a short life."""
BACKOFF_SECONDS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next start, by short lives in a row."""
KILL_AFTER_SECONDS = 10.0
"""Seconds beyond drain_seconds after which a worker is killed."""
START_SECONDS = 200.0
"""Seconds that a worker may take to start, however small hung_seconds is."""

ALIVE = Gauge("tapedeck_workers", "Worker processes that live")
RESTARTS = Counter("tapedeck_worker_restarts", "Workers that died and were started again")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Slot:
    """The place of one worker, with its present process."""

    number: int
    gateway: socket.socket
    admin: socket.socket
    client: WorkerClient
    process: asyncio.subprocess.Process | None = None
    first: bool = True


def run_with_workers(source: Source, config: Sections) -> int:
    """Serve with `gateway.workers` processes until SIGTERM or SIGINT; return the exit status.
    Raises PortTaken.
    """
    start_logs(source, config)
    count = config.gateway.workers
    gateways = bind_shared(
        config.gateway.host, config.gateway.port, count, "gateway.port", "--port"
    )
    admin = bind(config.admin.host, config.admin.port, "admin.port", "--admin-port")
    return asyncio.run(Supervisor(source, config, gateways, admin).run())


class Supervisor:
    """Starts workers, one for each socket of the gateway's port; restarts dead ones; stops them."""

    def __init__(
        self, source: Source, config: Sections, gateways: list[socket.socket], admin: socket.socket
    ) -> None:
        self._source = source
        self._live = RuntimeConfig(config, source.pinned)
        self._token = secrets.token_hex(32)
        self._slots = [self._slot(n, sock) for n, sock in enumerate(gateways, 1)]
        self._admin = admin
        self._stop: asyncio.Event = asyncio.Event()
        self._status = 0
        self._answers = WorkersAnswers(
            [slot.client for slot in self._slots],
            self._stop.is_set,
            Peers(self._live),
            self._replace,
        )
        self._reloaded = Workers(
            self._live,
            [slot.number for slot in self._slots],
            lambda body: self._answers.ask_all("/reload", Taken, method="POST", body=body),
            self._replace,
        )

    def _slot(self, number: int, gateway: socket.socket) -> _Slot:
        admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A name in the abstract name space leaves no file behind. Others can see the name, but not
        # the token.
        address = f"\0tapedeck-{os.getpid()}-{number}-{secrets.token_hex(8)}"
        admin.bind(address)
        admin.listen(BACKLOG)
        return _Slot(number, gateway, admin, WorkerClient(number, address, self._token))

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        raise_file_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        reload = Reload(self._live, self._source, self._reloaded)
        admin = AdminPort(self._answers, reload, self._live, self._admin)
        await admin.start()
        _log.info(
            "supervisor started", workers=len(self._slots), admin=admin.address, pid=os.getpid()
        )
        running = [asyncio.create_task(self._run_slot(slot)) for slot in self._slots]
        await self._stop.wait()
        await self._stop_all(running)
        await admin.stop()
        _log.info("supervisor stopped", status=self._status)
        return self._status

    async def _run_slot(self, slot: _Slot) -> None:
        """Start a process in the slot, and restart it as long as the gateway runs."""
        loop = asyncio.get_running_loop()
        short_lives = 0
        while not self._stop.is_set():
            started = loop.time()
            status = await self._run_process(slot)
            if self._stop.is_set():
                return
            if status == EXIT_CONFIG:
                _log.error("worker configuration refused", worker=slot.number)
                self._status = 1
                self._stop.set()
                return
            short_lives = short_lives + 1 if loop.time() - started < SHORT_LIFE_SECONDS else 0
            pause = BACKOFF_SECONDS[min(short_lives, len(BACKOFF_SECONDS) - 1)]
            _log.warning("worker died", worker=slot.number, status=status, restart_in=pause)
            RESTARTS.inc()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    async def _run_process(self, slot: _Slot) -> int | str:
        """Run one process in the slot; return its exit status, or why it could not be started."""
        try:
            slot.process = await self._spawn(slot)
        except OSError as error:
            # No processes or no memory left: that may pass.
            return str(error)
        ALIVE.inc()
        watching = asyncio.create_task(self._watch(slot, slot.process))
        try:
            return await slot.process.wait()
        finally:
            ALIVE.dec()
            slot.process = None
            await tasks.stop(watching)

    async def _watch(self, slot: _Slot, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that does not answer: its clients would wait for ever.

        It is asked twice, since after a pause of the whole machine it may only be late. A worker
        that has not answered yet may still be starting.
        """
        loop = asyncio.get_running_loop()
        misses, most = 0, max(2.0, START_SECONDS / (self._live.config.gateway.hung_seconds / 3))
        while misses < most:
            seconds = self._live.config.gateway.hung_seconds / 3
            asked = loop.time()
            try:
                await slot.client.ask("/healthz", seconds=seconds)
                misses, most = 0, 2
            except (OSError, aiohttp.ClientError) as error:
                # Without a descriptor of its own the supervisor has not asked.
                misses += getattr(error, "errno", None) not in NONE_LEFT
            await asyncio.sleep(asked + seconds - loop.time())
        _log.error("worker killed", worker=slot.number, reason="does not answer")
        _signal(process, signal.SIGKILL)

    async def _spawn(self, slot: _Slot) -> asyncio.subprocess.Process:
        config, generation = self._live.config, self._reloaded.generation
        drained = self._answers.drained
        first, slot.first = slot.first, False
        handover = Handover(
            worker=slot.number,
            supervisor=os.getpid(),
            gateway_fd=slot.gateway.fileno(),
            admin_fd=slot.admin.fileno(),
            admin_token=self._token,
            config=plain(config),
            generation=generation,
            drained=drained,
            first=first,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.process.worker", f"worker={slot.number}"),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(handover.gateway_fd, handover.admin_fd),
            process_group=0,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(encode(handover))
            await process.stdin.drain()
        process.stdin.close()
        changed = self._live.config is not config or self._answers.drained is not drained
        if self._stop.is_set() or changed:
            # A reload or a drain happened meanwhile, and could not reach this process.
            _signal(process, signal.SIGTERM)
        return process

    async def _stop_all(self, running: list[asyncio.Task[None]]) -> None:
        _log.info("drain started", workers=len(self._slots))
        for slot in self._slots:
            # No process will inherit the socket any more. Once the worker closes its copy too, new
            # connections are refused at once instead of waiting in the queue.
            slot.gateway.close()
            if slot.process is not None:
                _signal(slot.process, signal.SIGTERM)
        patience = self._live.config.gateway.drain_seconds + KILL_AFTER_SECONDS
        _, late = await asyncio.wait(running, timeout=patience)
        if late:
            for slot in self._slots:
                if slot.process is not None:
                    _log.error("worker killed", worker=slot.number, after=patience)
                    _signal(slot.process, signal.SIGKILL)
            await asyncio.wait(late)

    def _replace(self, number: int) -> None:
        slot = self._slots[number - 1]
        _log.warning("worker replaced", worker=number)
        if slot.process is not None:
            _signal(slot.process, signal.SIGTERM)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
