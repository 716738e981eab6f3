"""TLS on the gateway's own ports, to lookup nodes and to MySQL, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import pytest

from config.load import ConfigError, parse
from failover.mysql.connection import Session
from failover.redis.nodes import Node
from sharding.lookups.hint_rules import HintKind
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.mysql import MySQL as MySQLServer
from stack.process import free_port
from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.certificates import Authority
from tests.support.gateways import Gateway
from tests.support.states import bump

pytestmark = pytest.mark.stack


# --- the ports that the gateway listens on


def trusting(*authorities: Authority, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities[0].file)
    for other in authorities[1:]:
        context.load_verify_locations(other.file)
    if client is not None:
        context.load_cert_chain(*client)
    return context


async def get(url: str, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
    """Send one request on a new connection."""
    connector = aiohttp.TCPConnector(ssl=context if context is not None else True)
    async with aiohttp.ClientSession(connector=connector) as http, http.get(url) as answer:
        return answer.status, await answer.json()


def serial_at(port: int, authority: Authority) -> str:
    """The serial number of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        trusting(authority).wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def gateway_with(
    stack_config: StackConfig, folder: Path, pair: tuple[str, str], *args: str, **more: Any
) -> Gateway:
    tls = {"tls_certificate_file": pair[0], "tls_key_file": pair[1]}
    document = stack_config()
    document["gateway"] |= tls | more
    document["lookup"] |= {"capacity_every": 0}
    return Gateway(document, folder, *args)


@pytest.mark.parametrize("workers", [1, 2])
async def test_listeners_are_served_with_tls_and_a_rotated_certificate_needs_no_restart(
    stack_config: StackConfig, tmp_path: Path, workers: int
) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.issue("gateway")
    gateway = gateway_with(stack_config, tmp_path, pair, "--workers", str(workers))
    port = gateway.document["gateway"]["port"]
    url = f"https://127.0.0.1:{port}/sets/new"
    with await_started(gateway):
        assert (await get(url, trusting(authority)))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(url)  # the client does not trust the authority
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await get(f"http://127.0.0.1:{port}/sets/new")

        before = serial_at(port, authority)
        connector = aiohttp.TCPConnector(ssl=trusting(authority))
        async with aiohttp.ClientSession(connector=connector) as http:
            async with http.get(url) as answer:
                assert answer.status == 200
            authority.issue("gateway")
            assert await reloaded(gateway) == 200
            after = await until(lambda: serial_at(port, authority), lambda s: s != before)
            assert after != before
            async with http.get(url) as answer:  # the old connection still works
                assert answer.status == 200

        # A key that does not fit is refused, and the old certificate stays in use.
        shutil.copy(Authority(tmp_path / "other").issue("x")[1], pair[1])
        async with (
            aiohttp.ClientSession() as admin,
            admin.post(f"{gateway.admin}/reload") as answer,
        ):
            assert answer.status == 422
            (sentence,) = (await answer.json())["errors"]
            assert re.search(r": line \d+: gateway.tls_key_file: ", sentence)
            assert sentence.endswith(f"is not the key of {pair[0]}")
        assert serial_at(port, authority) == after
        assert (await get(url, trusting(authority)))[0] == 200


async def reloaded(gateway: Gateway) -> int:
    async with aiohttp.ClientSession() as admin, admin.post(f"{gateway.admin}/reload") as answer:
        return answer.status


async def test_with_a_configured_client_authority_only_its_clients_are_served(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    gateway = gateway_with(
        stack_config, tmp_path, authority.issue("gateway"), tls_client_ca_file=clients.file
    )
    url = f"https://127.0.0.1:{gateway.document['gateway']['port']}/sets/new"
    with await_started(gateway):
        good = trusting(authority, client=clients.issue("service"))
        assert (await get(url, good))[0] == 200
        for client in (None, authority.issue("stranger")):
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await get(url, trusting(authority, client=client))


class DistantClient:
    """A client of the gateway's port that sends each part of its handshake when it is told to."""

    def __init__(self, gateway: Gateway, authority: Authority) -> None:
        self.sock = socket.create_connection(("127.0.0.1", gateway.document["gateway"]["port"]), 5)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting(authority).wrap_bio(self._in, self._out, server_hostname="localhost")

    def greet(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.sock.sendall(self._out.read())

    def receive(self) -> None:
        received = self.sock.recv(65_536)
        assert received, "the gateway ended the connection"
        self._in.write(received)

    def ask(self) -> None:
        """End the handshake with a request."""
        self._tls.do_handshake()
        self._tls.write(b"GET /sets/new HTTP/1.1\r\nHost: a\r\n\r\n")
        self.sock.sendall(self._out.read())

    def status(self) -> bytes:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                return self._tls.read(len(b"HTTP/1.1 200"))[-3:]
            self.receive()


def connects(gateway: Gateway) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", gateway.document["gateway"]["port"])) == 0


async def test_a_client_whose_handshake_ends_during_a_stop_gets_its_answer(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    with await_started(gateway_with(stack_config, tmp_path, authority.issue("gateway"))) as gateway:
        client = DistantClient(gateway, authority)
        client.greet()
        gateway.send(signal.SIGTERM)
        await until(lambda: connects(gateway), lambda connected: not connected)
        await asyncio.sleep(0.7)  # as far away as a telephone may be
        client.receive()
        client.ask()
        assert client.status() == b"200"


async def test_an_address_may_have_as_many_connections_as_are_allowed_while_the_gateway_is_late(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    most = 8
    gateway = gateway_with(stack_config, tmp_path, authority.issue("gateway"))
    gateway.document["limits"] = {"address_connections": most}
    with await_started(gateway):
        first = [DistantClient(gateway, authority) for _ in range(most - 1)]
        for client in first:
            client.greet()
            client.receive()
        # All these handshakes end in the turn of the event loop in which the last client comes.
        os.kill(gateway.pid, signal.SIGSTOP)
        for client in first:
            client.ask()
        last = DistantClient(gateway, authority)
        os.kill(gateway.pid, signal.SIGCONT)
        last.greet()
        last.receive()
        last.ask()
        assert [client.status() for client in (*first, last)] == [b"200"] * most


async def test_old_versions_of_tls_are_refused(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    pair = authority.issue("gateway")
    with await_started(gateway_with(stack_config, tmp_path, pair, tls_minimum="1.3")) as gateway:
        url = f"https://127.0.0.1:{gateway.document['gateway']['port']}/sets/new"
        old = trusting(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await get(url, old)
        assert (await get(url, trusting(authority)))[0] == 200


async def test_the_admin_port_uses_tls_and_commands_reach_it(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("admin", "admin.example")
    document = stack_config(
        admin={
            **stack_config()["admin"],
            "tls_certificate_file": certificate,
            "tls_key_file": key,
        }
    )
    gateway = Gateway(document, tmp_path)
    with await_started(gateway, admin=trusting_any(authority)):
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *(sys.executable, "-m", "cli", "ring", "show", "--json"),
                *("--config", str(gateway.config)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [node["state"] for node in json.loads(done.stdout)["nodes"]] == ["answers"] * 3

        # Without the configuration a command needs the authority, and the name must be right.
        def elsewhere(url: str, *words: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "cli", "reload", "--url", url, *words]
            return subprocess.run(argv, capture_output=True, text=True, check=False)

        ca = ("--ca-file", authority.file)
        for words, says in (((), "--ca-file names the authority"), (ca, "mismatch")):
            refused = await asyncio.to_thread(elsewhere, gateway.admin, *words)
            assert refused.returncode == 1
            assert "its certificate is refused" in refused.stderr
            assert says in refused.stderr
        plain = await asyncio.to_thread(elsewhere, gateway.admin.replace("https:", "http:"))
        assert plain.returncode == 1
        assert "Does it take only https?" in plain.stderr
        authority.issue("admin")
        gateway.send(signal.SIGHUP)
        end = asyncio.get_running_loop().time() + 20
        while (done := await asyncio.to_thread(elsewhere, gateway.admin, *ca)).returncode:
            assert asyncio.get_running_loop().time() < end, done.stderr


def trusting_any(authority: Authority) -> ssl.SSLContext:
    context = trusting(authority)
    context.check_hostname = False
    return context


@contextlib.contextmanager
def await_started(gateway: Gateway, admin: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Start a gateway in a thread, because `Gateway.start` runs an event loop of its own."""
    if admin is not None:
        gateway.admin = gateway.admin.replace("http:", "https:")
        gateway.admin_tls = admin
    failed: list[BaseException] = []

    def start() -> None:
        try:
            gateway.start()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    try:
        if failed:
            raise failed[0]
        yield gateway
    finally:
        gateway.kill()


async def until(ask: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 20) -> Any:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        answer = await asyncio.to_thread(ask)
        if wanted(answer):
            return answer
        assert loop.time() < end, f"still {answer!r}"
        await asyncio.sleep(0.05)


async def test_with_on_change_a_replaced_certificate_is_used_without_a_reload(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    """As cert-manager replaces it, without telling the gateway."""
    authority = Authority(tmp_path / "tls")
    gateway = gateway_with(stack_config, tmp_path, authority.issue("gateway"))
    gateway.document["reload"] = {"on_change": True, "look_every": 0.1}
    port = gateway.document["gateway"]["port"]
    with await_started(gateway):
        before = serial_at(port, authority)
        authority.issue("gateway")
        await until(lambda: serial_at(port, authority), lambda serial: serial != before)


# --- the lookup nodes


LEAST = (
    *("on", "resetkeys", "~u:*", "~uid:*", "~tapedeck:*", "nocommands"),
    *("+hget", "+hset", "+hdel", "+hscan", "+get", "+set"),
    *("+expire", "+ping", "+info", "+dbsize", "+client|setname"),
)
"""What docs/security.md says that the gateway's user needs."""


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Iterator[RedisServer]:
    """A node that requires client certificates, with a user that has the least rights."""
    certificate, key = authority.issue("node")
    plain = RedisServer(
        "node",
        tmp_path / "node",
        options=(
            *("--tls-port", str(free_port()), "--tls-cert-file", certificate),
            *("--tls-key-file", key, "--tls-ca-cert-file", authority.file),
            *("--tls-auth-clients", "yes"),
        ),
    )
    plain.start()
    with plain.client() as client:
        client.execute_command("ACL", "SETUSER", "tapedeck", *LEAST, ">first-password")
        client.execute_command("ACL", "SETUSER", "default", "-@all", "+info", "+acl")
    yield plain
    plain.kill()


def tls_port(server: RedisServer) -> int:
    return int(server.options[1])


def node_config(server: RedisServer, authority: Authority, **words: Any) -> Any:
    certificate, key = authority.issue("gateway-client")
    document = {
        "lookup": {
            "servers": [f"127.0.0.1:{tls_port(server)}:1 node"],
            "username": "tapedeck",
            "password": "first-password",
            "tls": True,
            "tls_ca_file": authority.file,
            "tls_certificate_file": certificate,
            "tls_key_file": key,
            "timeout": 2000,
            **words,
        },
        "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
    }
    return parse(document).lookup


async def ask(config: Any) -> tuple[list[Any] | None, str]:
    """The node's answers to writing and reading an entry; or the reason of its failure."""
    node = Node(config.servers[0], config)
    try:
        replies = await node.run(
            [("HSET", b"u:1", b"2", b"20260301"), ("HGET", b"u:1", b"2")], writes=True
        )
        return replies, node.health.reason or ""
    finally:
        node.close()


async def test_a_lookup_node_that_requires_a_certificate_and_a_user_is_used(
    secured: RedisServer, authority: Authority
) -> None:
    replies, _ = await ask(node_config(secured, authority))
    assert replies is not None
    assert replies[1] == b"20260301"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"password": "wrong"}, "invalid username-password pair"),
        (
            {
                "tls": False,
                **dict.fromkeys(("tls_ca_file", "tls_certificate_file", "tls_key_file")),
            },
            "ConnectionError",
        ),
        ({"tls_certificate_file": None, "tls_key_file": None}, "for a client certificate"),
        ({"tls_ca_file": "other"}, "its certificate is refused"),
    ],
)
async def test_a_node_with_a_wrong_certificate_or_a_refused_sign_in_fails_with_the_reason(
    secured: RedisServer,
    authority: Authority,
    tmp_path: Path,
    words: dict[str, Any],
    reason: str,
) -> None:
    if words.get("tls_ca_file") == "other":
        words = {"tls_ca_file": Authority(tmp_path / "unknown", "unknown").file}
    config = node_config(secured, authority, server_failure_limit=1, **words)
    replies, said = await ask(config)
    assert replies is None
    assert reason in said


async def test_a_node_with_another_name_in_its_certificate_needs_tls_verify_names_false(
    tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("elsewhere", "redis.example")
    server = RedisServer(
        "node",
        tmp_path / "node",
        options=(
            *("--tls-port", str(free_port()), "--tls-cert-file", certificate),
            *("--tls-key-file", key, "--tls-ca-cert-file", authority.file),
            *("--tls-auth-clients", "no"),
        ),
    )
    server.start()
    try:
        words = {"username": None, "password": None, "server_failure_limit": 1}
        replies, said = await ask(node_config(server, authority, **words))
        assert replies is None
        assert "127.0.0.1" in said
        replies, _ = await ask(node_config(server, authority, tls_verify_names=False, **words))
        assert replies is not None
    finally:
        server.kill()


async def test_a_new_redis_password_is_used_for_new_connections_and_old_ones_go_on(
    secured: RedisServer, authority: Authority
) -> None:
    config = node_config(secured, authority)
    node = Node(config.servers[0], config)
    try:
        assert await node.run([("HGET", b"u:1", b"2")]) is not None
        with secured.client() as client:
            client.execute_command("ACL", "SETUSER", "tapedeck", ">second-password")
            client.execute_command("ACL", "SETUSER", "tapedeck", "<first-password")
        assert await node.run([("HGET", b"u:1", b"2")]) is not None
        node.configure(
            config.servers[0], node_config(secured, authority, password="second-password")
        )
        assert await node.run([("HGET", b"u:1", b"2")]) is not None
        secured.kill()
        secured.start()
        with secured.client() as client:
            client.execute_command("ACL", "SETUSER", "tapedeck", *LEAST, ">second-password")
        # The same node is connected to again, with the new password.
        assert await node.run([("HGET", b"u:1", b"2")]) is None
        assert await node.run([("HGET", b"u:1", b"2")]) is not None
    finally:
        node.close()


async def test_a_redis_cluster_is_used_with_tls_and_a_user(
    stack_config: StackConfig, tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("cluster-node")
    port = str(free_port())
    server = RedisServer(
        "cluster",
        tmp_path / "cluster",
        options=(
            *("--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key),
            *("--tls-ca-cert-file", authority.file, "--tls-auth-clients", "no"),
            *("--cluster-enabled", "yes", "--tls-cluster", "yes"),
            *("--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(free_port())),
        ),
    )
    server.start()
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            words = (*LEAST, "+cluster|slots", "+asking", ">pw")
            client.execute_command("ACL", "SETUSER", "tapedeck", *words)
        document = stack_config(
            lookup={
                "mode": "cluster",
                "servers": [f"127.0.0.1:{port}"],
                "username": "tapedeck",
                "password": "pw",
                "tls": True,
                "tls_ca_file": authority.file,
            }
        )
        async with opened(document) as backend:
            found, user = HintKind.NOTHING, 0
            async with asyncio.timeout(20):
                # The cluster takes a moment until it is up.
                while found is not HintKind.DAY:
                    await asyncio.sleep(0.05)
                    user += 1
                    await backend.store.change(Key(user, 1), bump)
                    await backend.lookups.drain()
                    found = (await backend.lookups.ask(Key(user, 1))).found
            assert not backend.readiness().reasons
    finally:
        server.kill()


# --- MySQL


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
    authority: Authority,
) -> Iterator[Server]:
    """A server that requires TLS, with a user `x509` that must show a certificate."""
    folder = tmp_path_factory.mktemp("guarded") / "data"
    datadir.copy(template, folder)
    certificate, key = authority.issue("mariadb")
    server = server_class(
        "guarded",
        folder,
        passwords,
        options=(
            f"--ssl-cert={certificate}",
            f"--ssl-key={key}",
            f"--ssl-ca={authority.file}",
        ),
    )
    server.start()
    server.query("CREATE USER x509@'127.0.0.1' IDENTIFIED BY 'pw' REQUIRE X509")
    server.query(f"GRANT {LEAST_GRANTS} ON tapedeck.* TO x509@'127.0.0.1'")
    # The stack's administrator connects without TLS, and is not needed any more.
    server.query("SET GLOBAL require_secure_transport = 1")
    yield server
    server.kill()


LEAST_GRANTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP"
"""What docs/security.md says that the gateway's user needs."""


def mysql_config(server: Server, authority: Authority, **words: Any) -> Any:
    document = {
        "lookup": {"servers": ["127.0.0.1:1:1 node"]},
        "mysql": {
            "hosts": [server.address],
            "user": "tapedeck",
            "password": server.passwords.gateway,
            "tls": True,
            "tls_ca_file": authority.file,
            **words,
        },
    }
    return parse(document).mysql


async def cipher(config: Any) -> str:
    session = await Session.open(config.hosts[0], config)
    try:
        return str((await session.fetch("SHOW STATUS LIKE 'Ssl_cipher'"))[0][1])
    finally:
        session.close()


async def test_a_gateway_uses_tls_to_mysql(guarded: Server, authority: Authority) -> None:
    config = mysql_config(guarded, authority)
    assert await cipher(config)


async def test_a_mysql_user_that_requires_a_certificate_gets_one(
    guarded: Server, authority: Authority
) -> None:
    certificate, key = authority.issue("gateway-client")
    who = {"user": "x509", "password": "pw"}
    shown = mysql_config(
        guarded, authority, tls_certificate_file=certificate, tls_key_file=key, **who
    )
    assert await cipher(shown)
    without = mysql_config(guarded, authority, **who)
    with pytest.raises(Exception, match="Access denied"):
        await cipher(without)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            {"tls": False, "tls_ca_file": None},
            # MariaDB says that the password is wrong; MySQL names the reason.
            r"(Access denied|insecure transport|refused).*(must come by TLS:|turn on) mysql.tls",
        ),
        ({"tls_ca_file": "other"}, "its certificate is refused: unable to get local issuer|self"),
    ],
)
async def test_a_mysql_with_a_wrong_certificate_or_that_requires_tls_fails_with_the_reason(
    guarded: Server, authority: Authority, tmp_path: Path, words: dict[str, Any], reason: str
) -> None:
    if words.get("tls_ca_file") == "other":
        words = {"tls_ca_file": Authority(tmp_path / "unknown", "unknown").file}
    config = mysql_config(guarded, authority, **words)
    with pytest.raises(Exception, match=reason):
        await cipher(config)


async def test_a_mysql_with_another_name_or_an_expired_certificate_is_refused(
    tmp_path: Path,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
    authority: Authority,
) -> None:
    folder = tmp_path / "data"
    datadir.copy(template, folder)
    for name, host, days, reason in (
        ("named", "mysql.example", 30, "127.0.0.1"),
        ("expired", "127.0.0.1", -1, "certificate has expired"),
    ):
        certificate, key = authority.issue(name, host, days=days)
        options = (f"--ssl-cert={certificate}", f"--ssl-key={key}", f"--ssl-ca={authority.file}")
        server = server_class("m", folder, passwords, options=options)
        server.start()
        try:
            with pytest.raises(Exception, match=reason):
                await cipher(mysql_config(server, authority))
        finally:
            server.kill()


async def test_a_mysql_without_tls_is_refused_if_tls_is_configured(
    tmp_path: Path,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
    authority: Authority,
) -> None:
    """An attacker on the network could pretend that the server has no TLS."""
    folder = tmp_path / "data"
    datadir.copy(template, folder)
    without_tls = ("--tls-version=",) if server_class is MySQLServer else ("--skip-ssl",)
    server = server_class("m", folder, passwords, options=without_tls)
    server.start()
    try:
        config = mysql_config(server, authority)
        with pytest.raises(Exception, match="offers no TLS"):
            await cipher(config)
    finally:
        server.kill()


async def test_after_a_reload_a_rotated_mysql_password_is_used_without_an_error(
    stack_config: StackConfig, tmp_path: Path, mysql: Server, database: str
) -> None:
    user = f"rotating_{secrets.token_hex(4)}"
    mysql.query(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'first'")
    mysql.query(f"GRANT {LEAST_GRANTS} ON `{database}`.* TO {user}@'127.0.0.1'")
    secret = tmp_path / "mysql.password"
    secret.write_text("first\n")
    document = stack_config()
    document["mysql"] |= {"user": user, "password_file": str(secret)}
    del document["mysql"]["password"]
    gateway = Gateway(document, tmp_path)
    try:
        with await_started(gateway):
            url = f"{gateway.url}/states/7/"
            put = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
            async with aiohttp.ClientSession() as http:
                async with http.put(f"{url}1", data="{}", headers=put) as answer:
                    assert answer.status == 201, await answer.text()
                mysql.query(f"ALTER USER {user}@'127.0.0.1' IDENTIFIED BY 'second'")
                secret.write_text("second\n")
                async with http.post(f"{gateway.admin}/reload") as answer:
                    assert (await answer.json())["changed"] == ["mysql.password"]
                for (number,) in mysql.query(
                    "SELECT id FROM information_schema.processlist WHERE user = %s", (user,)
                ):
                    with contextlib.suppress(pymysql.MySQLError):
                        mysql.query(f"KILL {number}")
                async with http.put(f"{url}2", data="{}", headers=put) as answer:
                    assert answer.status == 201, await answer.text()
    finally:
        mysql.query(f"DROP USER {user}@'127.0.0.1'")


# --- wrong files


def test_all_problems_with_certificates_are_reported(tmp_path: Path, authority: Authority) -> None:
    expired, expired_key = authority.issue("old", days=-1)
    certificate, key = authority.issue("good")
    text = tmp_path / "text"
    text.write_text("no PEM")
    with pytest.raises(ConfigError) as caught:
        parse(
            {
                "gateway": {"tls_certificate_file": expired, "tls_key_file": expired_key},
                "admin": {"tls_certificate_file": str(text), "tls_key_file": key},
                "lookup": {"servers": ["127.0.0.1:1:1 a"], "tls": True, "tls_ca_file": "missing"},
                "mysql": {
                    "hosts": ["127.0.0.1:1"],
                    "user": "u",
                    "tls": True,
                    "tls_certificate_file": certificate,
                    "tls_key_file": expired_key,
                },
            },
            base=tmp_path,
        )
    problems = caught.value.problems
    assert any(
        p.startswith(f"gateway.tls_certificate_file: {expired} expired on ") for p in problems
    )
    assert f"admin.tls_certificate_file: {text} holds no PEM certificate" in problems
    missing = tmp_path / "missing"
    assert f"lookup.tls_ca_file: {missing} cannot be read: No such file or directory" in problems
    assert f"mysql.tls_key_file: {expired_key} is not the key of {certificate}" in problems
