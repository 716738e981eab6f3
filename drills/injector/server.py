"""The HTTP API of a Toxiproxy server, and the process that serves it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from aiohttp import web

from drills.injector.proxy import Proxy
from drills.injector.toxics import InvalidToxic, Toxic

VERSION = "2.4.0"
"""The Toxiproxy whose behaviour this has."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """All errors in the API's shape: JSON, called plain text."""
    # A page in a browser must not open connections through this machine.
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return _error(403, "User agent not allowed")
    try:
        return await handler(request)
    except _Refused as refused:
        return _error(refused.status, str(refused))
    except InvalidToxic as invalid:
        return _error(400, str(invalid))
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except OSError as error:
        return _error(500, str(error))


def _error(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"error": message, "status": status}) + "\n")


async def _document(request: web.Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.read())
    except ValueError as error:
        raise _Refused(400, f"bad request body: {error}") from None
    if not isinstance(document, dict):
        raise _Refused(400, "bad request body: it is no JSON object")
    return document


def _value(document: dict[str, Any], name: str, default: Any) -> Any:
    """A field of the default's type; absent and null are the default."""
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise _Refused(400, f"bad request body: {name} cannot be {value!r}")
    return value


class Api:
    """The calls, on the proxies that they make."""

    def __init__(self) -> None:
        self.proxies: dict[str, Proxy] = {}
        # Listening takes a moment; no other change comes between.
        self._changing = asyncio.Lock()

    def application(self) -> web.Application:
        """Serves the calls; at its end all proxies are disabled."""
        application = web.Application(middlewares=[_errors])
        toxics = "/proxies/{proxy}/toxics"
        application.add_routes(
            [
                web.get("/version", self.version),
                web.post("/reset", self.reset),
                web.get("/proxies", self.index),
                web.post("/proxies", self.create),
                web.get("/proxies/{proxy}", self.show),
                web.post("/proxies/{proxy}", self.update),
                web.patch("/proxies/{proxy}", self.update),
                web.delete("/proxies/{proxy}", self.destroy),
                web.get(toxics, self.toxics),
                web.post(toxics, self.add_toxic),
                web.get(toxics + "/{toxic}", self.toxic),
                web.delete(toxics + "/{toxic}", self.remove_toxic),
            ]
        )
        application.on_shutdown.append(self._shut_down)
        return application

    async def _shut_down(self, _: web.Application) -> None:
        for proxy in self.proxies.values():
            proxy.disable()

    def _proxy(self, request: web.Request) -> Proxy:
        proxy = self.proxies.get(request.match_info["proxy"])
        if proxy is None:
            raise _Refused(404, "proxy not found")
        return proxy

    def _toxic(self, request: web.Request) -> Toxic:
        toxic = self._proxy(request).toxic(request.match_info["toxic"])
        if toxic is None:
            raise _Refused(404, "toxic not found")
        return toxic

    async def version(self, _: web.Request) -> web.Response:
        return web.Response(text=VERSION)

    async def reset(self, _: web.Request) -> web.Response:
        async with self._changing:
            failed = None
            for proxy in self.proxies.values():
                for toxic in proxy.toxics:
                    proxy.remove(toxic)
                try:
                    await proxy.enable()
                except OSError as error:
                    failed = error  # the others are reset all the same
            if failed is not None:
                raise failed
        return web.Response(status=204)

    async def index(self, _: web.Request) -> web.Response:
        return web.json_response({name: proxy.as_json() for name, proxy in self.proxies.items()})

    async def create(self, request: web.Request) -> web.Response:
        document = await _document(request)
        name = _value(document, "name", "")
        upstream = _value(document, "upstream", "")
        listen = _value(document, "listen", "") or "127.0.0.1:0"
        enabled = _value(document, "enabled", True)
        for field, value in (("name", name), ("upstream", upstream)):
            if not value:
                raise _Refused(400, f"missing required field: {field}")
        async with self._changing:
            if name in self.proxies:
                raise _Refused(409, "proxy already exists")
            proxy = Proxy(name, listen, upstream)
            if enabled:
                await proxy.enable()
            self.proxies[name] = proxy
        return web.json_response(proxy.as_json(), status=201)

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(self._proxy(request).as_json())

    async def update(self, request: web.Request) -> web.Response:
        document = await _document(request)
        async with self._changing:
            proxy = self._proxy(request)
            await proxy.update(
                listen=_value(document, "listen", proxy.listen),
                upstream=_value(document, "upstream", proxy.upstream),
                enabled=_value(document, "enabled", proxy.enabled),
            )
        return web.json_response(proxy.as_json())

    async def destroy(self, request: web.Request) -> web.Response:
        async with self._changing:
            proxy = self._proxy(request)
            proxy.disable()
            del self.proxies[proxy.name]
        return web.Response(status=204)

    async def toxics(self, request: web.Request) -> web.Response:
        return web.json_response([toxic.as_json() for toxic in self._proxy(request).toxics])

    async def toxic(self, request: web.Request) -> web.Response:
        return web.json_response(self._toxic(request).as_json())

    async def add_toxic(self, request: web.Request) -> web.Response:
        self._proxy(request)
        toxic = Toxic.parse(await _document(request))
        proxy = self._proxy(request)
        if proxy.toxic(toxic.name) is not None:
            raise _Refused(409, "toxic already exists")
        proxy.add(toxic)
        return web.json_response(toxic.as_json())

    async def remove_toxic(self, request: web.Request) -> web.Response:
        self._proxy(request).remove(self._toxic(request))
        return web.Response(status=204)


async def _serve(host: str, port: int) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(Api().application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        print(f"the fault injector listens at {host}:{port}", flush=True)
        await ended.wait()
    finally:
        await runner.cleanup()


def run(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        OSError: the port is taken.
    """
    uvloop.run(_serve(host, port))
