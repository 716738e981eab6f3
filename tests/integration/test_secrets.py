"""Logs, backups and process listings show no secret, and users with the least rights suffice."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.mariadb import MariaDB
from stack.process import free_port
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.integration.test_tls import LEAST, LEAST_GRANTS
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

REDIS_PASSWORD = "redis-password-of-this-test"
ADMIN_TOKEN = "admin-token-of-this-test"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Two lookup nodes on which the gateway's user has the least rights."""
    servers = [RedisServer(f"acl{n}", tmp_path / f"acl{n}", port=free_port()) for n in (1, 2)]
    for server in servers:
        server.start()
        allow(server)
    yield servers
    for server in servers:
        server.kill()


def allow(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "tapedeck", "reset", *LEAST, f">{REDIS_PASSWORD}")


@pytest.fixture
def least(
    stack_config: StackConfig, mysql: MariaDB, database: str, nodes: list[RedisServer]
) -> Iterator[dict[str, Any]]:
    """A configuration whose users have the least rights in MySQL and Redis."""
    user = f"least_{database}"
    mysql.query(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'mysql-password-of-this-test'")
    mysql.query(f"GRANT {LEAST_GRANTS} ON `{database}`.* TO {user}@'127.0.0.1'")
    document = stack_config(
        lookup={
            "servers": [server.server for server in nodes],
            "username": "tapedeck",
            "password": REDIS_PASSWORD,
            "capacity_every": 0.5,
            "server_retry_timeout": 300,
        },
        log={"level": "debug", "requests": True},
    )
    document["mysql"] |= {"user": user, "password": "mysql-password-of-this-test"}
    document["admin"]["token"] = ADMIN_TOKEN
    put_mixes(document, [a_mix(1), a_mix(2)])
    yield document
    mysql.query(f"DROP USER {user}@'127.0.0.1'")


def ask(
    url: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, str, dict[str, str]]:
    """Send a request; the status, body and headers, also of an error."""
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def command(gateway: Gateway, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words, "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("layout", ["packed", "flat"])
def test_a_gateway_and_its_commands_work_with_the_least_rights(
    least: dict[str, Any], nodes: list[RedisServer], tmp_path: Path, layout: str
) -> None:
    least["lookup"]["layout"] = layout
    with Gateway(least, tmp_path) as gateway:
        use_everything(gateway)
        assert "dropped on" in command(gateway, "partitions", "list")
        command(gateway, "partitions", "create")
        command(gateway, "partitions", "prune", "--dry-run")
        command(gateway, "ring", "show")
        command(gateway, "ring", "where", "42", "7")
        # A reload with another ring.
        gateway.document["lookup"]["servers"] = [f"{nodes[0].address}:9 acl1", nodes[1].server]
        gateway.write_config()
        reloaded = ask(
            f"{gateway.admin}/reload", "POST", {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        assert json.loads(reloaded[1])["ring"]["generation"] == 2
        use_everything(gateway)
        ring = json.loads(ask(f"{gateway.admin}/ring")[1])
        assert [node["state"] for node in ring["nodes"]] == ["live", "live"]
        assert not [line for line in gateway.lines() if line["level"] in ("warning", "error")]
    for server in nodes:
        with server.client() as client:
            # What the gateway and the commands were refused.
            denied = client.execute_command("ACL", "LOG")
            assert not denied, denied


def use_everything(gateway: Gateway) -> str:
    """Make each kind of request once, as a listener and as a service; the play token."""
    json_headers = {**gateway.key, "Content-Type": "application/json"}
    url = f"{gateway.url}/states/42/7"
    created = ask(url, "PUT", {**json_headers, "If-None-Match": "*"}, b'{"position": 3}')
    assert created[0] == 201
    assert ask(url, headers=gateway.key)[0] == 200
    tag = {"If-Match": created[2]["ETag"]}
    assert ask(url, "PUT", {**json_headers, **tag}, b"{}")[0] == 200
    assert ask(url, "DELETE", {**gateway.key, "If-Match": "*"})[0] == 204
    token = str(json.loads(ask(f"{gateway.url}/sets/new")[1])["play_token"])
    for what in ("play", "next", "skip", "skip", "skip", "report", "tracks_played", "next_mix"):
        status = ask(f"{gateway.url}/sets/{token}/{what}?mix_id=1&track_id=101")[0]
        assert status in (200, 403), what
    return token


def test_logs_answers_metrics_and_the_process_show_no_secret(
    least: dict[str, Any], nodes: list[RedisServer], tmp_path: Path
) -> None:
    secrets = {
        "play token key": least["auth"]["token_keys"][0],
        "service key": least["auth"]["service_keys"][0],
        "MySQL's password": least["mysql"]["password"],
        "Redis' password": REDIS_PASSWORD,
        "admin token": ADMIN_TOKEN,
    }
    said = []
    with Gateway(least, tmp_path) as gateway:
        token = secrets["play token"] = use_everything(gateway)
        key = least["auth"]["service_keys"][0]
        # Wrong requests, each with a secret in it.
        for path in (
            f"/sets/{token}x/play?mix_id=1",
            f"/{token}",
            f"/sets/{token}/play?mix_id={key}",
        ):
            said.append(ask(gateway.url + path))
            said.append(ask(gateway.url + path, headers={"Authorization": f"Bearer {key}x"}))
        said.append(ask(f"{gateway.url}/states/1/1?key={key}", headers={"X-Api-Key": key}))
        said.append(ask(f"{gateway.url}/sets/new", "POST", body=f"user_id={key}".encode()))
        raw(gateway, f"GET /sets/{token}/play?mix_id=1 HTTP/9\r\nAuthorization: {key}\r\n\r\n")
        raw(gateway, f"GET /sets/{token}/{'x' * 9000} HTTP/1.1\r\n\r\n")
        raw(gateway, f"Authorization {token} {key}\r\n\r\n")
        # The nodes refuse the password for some time.
        for server in nodes:
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "tapedeck", "resetpass", ">other")
                client.client_kill_filter(_type="normal", skipme=True)
        played = f"{gateway.url}/sets/{token}/tracks_played?mix_id="
        said += [ask(f"{played}{n % 2 + 1}") for n in range(40)]
        for server in nodes:
            allow(server)
        # A reload with a password of a wrong type.
        gateway.document["mysql"]["password"] = [key]
        gateway.write_config()
        said.append(
            ask(f"{gateway.admin}/reload", "POST", {"Authorization": f"Bearer {ADMIN_TOKEN}"})
        )
        assert said[-1][0] == 422
        shown = ("/ring", "/readyz", "/stats", "/metrics", "/openapi.json")
        said += [ask(gateway.admin + path) for path in shown]
        said.append(ask(f"{gateway.url}/openapi.json"))
        seen = {
            "the log": gateway.log.read_text(),
            "an answer": json.dumps([(s, body, headers) for s, body, headers in said]),
            "the command line": Path(f"/proc/{gateway.pid}/cmdline").read_text(),
            "the environment": Path(f"/proc/{gateway.pid}/environ").read_text(),
        }
        assert len(gateway.lines("request answered")) > 40
    for where, text in seen.items():
        for what, secret in secrets.items():
            assert secret not in text, f"{what} is in {where}"


def raw(gateway: Gateway, text: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.document["gateway"]["port"]), 10) as sock:
        sock.sendall(text.encode())
        sock.settimeout(10)
        while sock.recv(65_536):
            pass


def test_a_copy_of_the_database_and_the_nodes_has_no_token_and_no_key(
    least: dict[str, Any], nodes: list[RedisServer], mysql: MariaDB, database: str, tmp_path: Path
) -> None:
    with Gateway(least, tmp_path) as gateway:
        token = use_everything(gateway)
    dump = ""
    for (table,) in mysql.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (database,)
    ):
        dump += repr(mysql.query(f"SELECT * FROM `{database}`.`{table}`"))
    assert '{"' in dump or "mix" in dump, "the copy has no states"
    for server in nodes:
        with server.client() as client:
            for name in client.scan_iter():
                dump += repr((name, client.dump(name)))
    for secret in (token, *least["auth"]["token_keys"], *least["auth"]["service_keys"]):
        assert secret not in dump


def test_a_worker_s_own_socket_answers_only_its_supervisor(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    """Every user of the machine can read its name in /proc/net/unix."""
    with Gateway(stack_config(), tmp_path, "--workers", "2") as gateway:
        names = re.findall(rf"@(tapedeck-{gateway.pid}-\S+)", Path("/proc/net/unix").read_text())
        assert len(set(names)) == 2
        for name in set(names):
            for request in ("GET /ring", "GET /metrics", "POST /reload"):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(10)
                    sock.connect("\0" + name)
                    sock.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    assert sock.recv(100).startswith(b"HTTP/1.1 401"), request


def test_a_reload_changes_the_admin_token(stack_config: StackConfig, tmp_path: Path) -> None:
    secret = tmp_path / "admin.token"
    secret.write_text("first")
    document = stack_config()
    document["admin"] |= {"host": "0.0.0.0", "token_file": str(secret)}
    with Gateway(document, tmp_path) as gateway:

        def status(token: str, path: str = "/ring", method: str = "GET") -> int:
            return ask(gateway.admin + path, method, {"Authorization": f"Bearer {token}"})[0]

        assert status("first") == 200
        secret.write_text("second")
        assert status("first", "/reload", "POST") == 200
        assert status("first") == 401
        assert status("second") == 200
