"""The fault injector as the drills use it: a Toxiproxy server, found or started, and its client.

The client is `toxiproxy-python` 0.1.1. It has one server for the whole process, sets no timeout,
and takes an answer of 500 for a success; here each `Injector` has its own server, each call ends
within `CALL_SECONDS`, and whatever is refused raises.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests  # type: ignore[import-untyped,unused-ignore]
import toxiproxy.proxy  # type: ignore[import-untyped,unused-ignore]
import toxiproxy.server  # type: ignore[import-untyped,unused-ignore]

from config.values import split_address
from stack.process import Child, ServerFailed, free_port

CALL_SECONDS = 5.0
"""How long one call may take."""
_START_SECONDS = 20

_client_in_use = threading.RLock()


class InjectorFailed(Exception):
    """The injector cannot be reached (`status` is None), or it refused a call."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Calls:
    """Takes the place of the client's APIConsumer: one server, with a timeout, and 500s raise."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.session = requests.Session()
        # A proxy for the web has no business between a drill and its injector.
        self.session.trust_env = False

    def get(self, path: str, **options: Any) -> Any:
        return self._call("GET", path, options)

    def post(self, path: str, **options: Any) -> Any:
        return self._call("POST", path, options)

    def delete(self, path: str, **options: Any) -> Any:
        return self._call("DELETE", path, options)

    def _call(self, method: str, path: str, options: dict[str, Any]) -> Any:
        where = f"the fault injector at {self.host}:{self.port}"
        url = f"http://{self.host}:{self.port}{path}"
        try:
            answer = self.session.request(method, url, timeout=CALL_SECONDS, **options)
        except requests.RequestException as error:
            raise InjectorFailed(f"{where} does not answer {method} {path}: {error}") from None
        if answer.status_code >= 400:
            try:
                reason = answer.json()["error"]
            except (ValueError, KeyError, TypeError):
                reason = answer.text.strip()
            raise InjectorFailed(
                f"{where} refused {method} {path}: {answer.status_code} {reason}",
                answer.status_code,
            )
        return answer

    @contextlib.contextmanager
    def client(self) -> Iterator[toxiproxy.server.Toxiproxy]:
        """The client, speaking through this. Others of this process wait for their turn."""
        with _client_in_use:
            modules = (toxiproxy.server, toxiproxy.proxy)
            before = [module.APIConsumer for module in modules]
            for module in modules:
                module.APIConsumer = self
            try:
                yield toxiproxy.server.Toxiproxy()
            finally:
                for module, consumer in zip(modules, before, strict=True):
                    module.APIConsumer = consumer


class Link:
    """A proxy between a client and a server, and the faults on it. Its methods may be called from
    any thread; all raise InjectorFailed.

    Attributes:
        name: of the proxy.
        upstream: host:port of the server.
        listen: host:port to connect to instead.
    """

    def __init__(self, calls: _Calls, proxy: toxiproxy.Proxy) -> None:
        self._calls = calls
        self._proxy = proxy
        self.name: str = proxy.name
        self.upstream: str = proxy.upstream
        self.listen: str = proxy.listen

    @property
    def host(self) -> str:
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        return split_address(self.listen)[1]

    @property
    def enabled(self) -> bool:
        """Whether it accepts connections, as the server says."""
        with self._calls.client() as client:
            proxy = client.get_proxy(self.name)
        if proxy is None:
            raise InjectorFailed(f"the fault injector has no proxy {self.name} any more", 404)
        return bool(proxy.enabled)

    @property
    def toxics(self) -> dict[str, toxiproxy.proxy.Toxic]:
        """The toxics on it by name (with type, stream, toxicity, attributes)."""
        with self._calls.client():
            return dict(self._proxy.toxics())

    def add(
        self,
        kind: str,
        *,
        stream: str = "downstream",
        toxicity: float = 1.0,
        name: str | None = None,
        **attributes: int,
    ) -> str:
        """Add a toxic, at once also to the connections that are open, and return its name.

        Example: link.add("latency", latency=2000)
        """
        name = name or f"{kind}_{stream}"
        with self._calls.client():
            self._proxy.add_toxic(
                type=kind, stream=stream, toxicity=toxicity, name=name, attributes=attributes
            )
        return name

    def remove(self, name: str) -> None:
        """Remove a toxic. Connections that a timeout toxic held are closed."""
        with self._calls.client():
            self._proxy.destroy_toxic(name)

    @contextlib.contextmanager
    def toxic(self, kind: str, **options: Any) -> Iterator[None]:
        """`add`, and `remove` at the end."""
        name = self.add(kind, **options)
        try:
            yield
        finally:
            self.remove(name)

    def disable(self) -> None:
        """Refuse connections and close the live ones. The toxics stay."""
        with self._calls.client():
            self._proxy.disable()

    def enable(self) -> None:
        """Accept connections again, at the same port."""
        with self._calls.client():
            self._proxy.enable()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """`disable`, and `enable` at the end."""
        self.disable()
        try:
            yield
        finally:
            self.enable()

    def heal(self) -> None:
        """No toxics, and enabled."""
        for name in self.toxics:
            self.remove(name)
        self.enable()

    def destroy(self) -> None:
        """Remove the proxy, and close its connections."""
        with self._calls.client():
            self._proxy.destroy()


class Injector:
    """A Toxiproxy server.

    Args:
        url: its API, such as http://127.0.0.1:8474.
        child: the process, where it was started for this.
    """

    def __init__(self, url: str, child: Child | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}")
        if not parts.hostname:
            raise InjectorFailed(f"{url!r} is no address of a Toxiproxy server")
        self._calls = _Calls(parts.hostname, parts.port or 8474)
        self.child = child
        self._links: dict[str, Link] = {}

    @classmethod
    def find_or_start(cls, log: Path) -> Injector:
        """The one at TOXIPROXY_URL; else a `toxiproxy-server` of PATH, or this project's own, as a
        child process at a free port that ends with this process.

        Args:
            log: the file that the child's output goes to.

        Raises:
            InjectorFailed: no server answers at TOXIPROXY_URL.
            ServerFailed: the child did not start.
        """
        url = os.environ.get("TOXIPROXY_URL")
        if url:
            injector = cls(url)
            injector.version()
            return injector
        port = free_port()
        found = shutil.which("toxiproxy-server")
        if found:
            argv = [found, "-host", "127.0.0.1", "-port", str(port)]
        else:
            argv = [sys.executable, "-m", "drills.injector", "--port", str(port)]
        child = Child("the fault injector", log)
        injector = cls(f"http://127.0.0.1:{port}", child)
        child.spawn(argv)
        try:
            child.await_ready(injector._answers, _START_SECONDS)
        except ServerFailed:
            child.kill()
            raise
        return injector

    @property
    def address(self) -> str:
        """host:port of the API."""
        return f"{self._calls.host}:{self._calls.port}"

    def version(self) -> str:
        """The version of Toxiproxy.

        Raises:
            InjectorFailed: it does not answer.
        """
        # Not by the client, which looks over a plain connect first: at a hung server that waits
        # without end.
        with _client_in_use:
            return str(self._calls.get("/version").text)

    def link(self, name: str, upstream: str, listen: str = "127.0.0.1:0") -> Link:
        """A new proxy to `upstream`. An old one with the same name is replaced.

        Raises:
            InjectorFailed: it cannot listen there.
        """
        with self._calls.client() as client:
            left = client.get_proxy(name)
            if left is not None:
                left.destroy()
            link = Link(self._calls, client.create(upstream, name, listen, enabled=True))
        self._links[name] = link
        return link

    def reset(self) -> None:
        """Remove all toxics and enable all proxies.

        Raises:
            InjectorFailed: one cannot listen.
        """
        with self._calls.client() as client:
            client.reset()

    def close(self) -> None:
        """End the child process; on another server, remove the proxies that were made here."""
        if self.child is not None:
            self.child.stop()
        else:
            for link in self._links.values():
                with contextlib.suppress(InjectorFailed):
                    link.destroy()
        self._links.clear()
        self._calls.session.close()

    def _answers(self) -> bool:
        try:
            self.version()
        except InjectorFailed:
            return False
        return True

    def __enter__(self) -> Injector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
