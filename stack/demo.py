"""The demo player: a page on which a user plays a mix, and kills servers of the local stack.

Only `tapedeck up` serves it; `tapedeck serve` does not. It passes Player commands on to the
gateway, and orders to the stack. Only its own page may call it: another site in the same browser
must not kill servers here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from config.load import load
from config.tls import own_port_context, own_url
from gateway.dashboard.page import PAGES as SHARED
from gateway.http.errors import Refusal
from gateway.http.messages import Response
from gateway.http.static_files import HEADERS, Pages
from stack.layout import LOOKUP_NAMES, MYSQL_NAMES, gateway_environment
from stack.process import ServerFailed
from stack.stack import Stack

PAGES = Pages("stack")
PORT = 8082
"""The player's port, unless it is taken."""
ANSWER_SECONDS = 20.0
"""How long it waits for the gateway: longer than the gateway waits for MySQL."""
_PASSED_ON = ("sets", "mixes", "mix_sets")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def bind(port: int | None) -> socket.socket:
    """A socket for the player.

    Args:
        port: the only port that will do; None for `PORT`, or any free port if that is taken.

    Raises:
        ServerFailed: the port is taken.
    """
    for wanted in (port,) if port is not None else (PORT, 0):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", wanted))
            # Two sockets may be bound to one port until one of them listens.
            sock.listen()
        except OSError:
            sock.close()
            continue
        return sock
    raise ServerFailed(f"port {port} (player) is taken: choose another with --player-port")


class Demo:
    """The player of one stack, in a thread of its own.

    Args:
        stack: whose gateway it uses, and whose servers it kills and starts.
        sock: from `bind`.
    """

    def __init__(self, stack: Stack, sock: socket.socket) -> None:
        self._stack = stack
        self._sock = sock
        config = load(stack.layout.config, gateway_environment())
        self._gateway, self._admin = own_url(config.gateway), own_url(config.admin)
        self._tls = {
            self._gateway: own_port_context(config.gateway) or True,
            self._admin: own_port_context(config.admin) or True,
        }
        port = sock.getsockname()[1]
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.url = f"http://127.0.0.1:{port}/"
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        self._thread = threading.Thread(target=self._run, name="demo", daemon=True)
        self._stop = asyncio.Event()

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/player/{file}", self._file)
        app.router.add_post("/listener", self._listener)
        app.router.add_get("/where/{user}/{mix}", self._where)
        app.router.add_get("/stack", self._status)
        app.router.add_post("/stack/{order}/{name}", self._order)
        for first in _PASSED_ON:
            app.router.add_route("*", f"/{first}/{{rest:.*}}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as self._session:
            await runner.setup()
            await web.SockSite(runner, self._sock).start()
            await self._stop.wait()
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites: their names (DNS rebinding); their forms, which lack the header."""
        try:
            if request.host not in self._hosts:
                raise Refusal(403, f"This page is at {self.url}.")
            if request.method != "GET" and request.headers.get("X-Tapedeck-Demo") != "player":
                raise Refusal(403, "Only the player itself may do that.")
            return await handler(request)
        except Refusal as refusal:
            return _answer({"errors": list(refusal.sentences)}, refusal.status)
        except ServerFailed as error:
            return _answer({"errors": [str(error)]}, 409)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return _answer({"errors": ["The gateway does not answer."]}, 502)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _file_of(PAGES.page())

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        # These files are the dashboard's too.
        shared = name in ("base.css", "dom.js", "icon.svg")
        return _file_of((SHARED if shared else PAGES).part(name))

    async def _listener(self, request: web.Request) -> web.StreamResponse:
        """Make a known user, because the page can ask where that user's state is."""
        user = secrets.randbelow(2**40) + 1
        key = (self._stack.layout.home / "service.key").read_text().strip()
        assert self._session is not None
        async with self._session.post(
            f"{self._gateway}/sets/new?user_id={user}",
            headers={"Authorization": f"Bearer {key}"},
            ssl=self._tls[self._gateway],
        ) as answer:
            body = await answer.json()
        return _answer({"user_id": str(user), "play_token": body.get("play_token")}, answer.status)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request.method, self._gateway, request.raw_path)

    async def _where(self, request: web.Request) -> web.StreamResponse:
        return await self._ask("GET", self._admin, request.raw_path)

    async def _ask(self, method: str, port: str, path: str) -> web.StreamResponse:
        assert self._session is not None
        async with self._session.request(method, port + path, ssl=self._tls[port]) as answer:
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers=HEADERS | {"Content-Type": "application/json", "Cache-Control": "no-store"},
            )

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _answer({**self._stack.status(), "dashboard": f"{self._admin}/"})

    async def _order(self, request: web.Request) -> web.StreamResponse:
        order, name = request.match_info["order"], request.match_info["name"]
        if name not in (*LOOKUP_NAMES, *MYSQL_NAMES) or order not in ("kill", "start"):
            raise Refusal(404, "There is no such server, or no such order.")
        if order == "start":
            said = await asyncio.to_thread(self._stack.start_server, name)
        else:
            said = self._kill(name)
        return _answer({"done": said})

    def _kill(self, name: str) -> str:
        """Kill a server, as `kill -9` in a terminal does: the stack is not told."""
        try:
            os.kill(int(self._stack.layout.pid_file(name).read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            raise ServerFailed(f"{name} does not run") from None
        return f"{name} was killed"


def _file_of(answer: Response) -> web.Response:
    headers = {**(answer.headers or {}), "Content-Type": answer.content_type}
    return web.Response(body=answer.body, headers=headers)


def _answer(value: object, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers=HEADERS | {"Cache-Control": "no-store"})
