"""deploy/mysql/pacemaker on three hosts in namespaces: Pacemaker does a pair's failovers."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import datadir
from stack.datadir import Passwords
from tests.support import cluster as hosts
from tests.support.cluster import Cluster, Node, until
from tests.support.gateways import Gateway
from tests.support.pair import DEPLOY
from tests.support.traffic import Traffic

pytestmark = [
    pytest.mark.stack,
    pytest.mark.long,
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing() or "nothing is missing"),
]

StackConfig = Callable[..., dict[str, Any]]
SERVER = "/usr/sbin/mariadbd --defaults-file=/run/pair.cnf --pid-file=/run/tapedeck-mariadb.pid"
PID = "$(cat /run/tapedeck-mariadb.pid)"
EMPTY = """\
SET SESSION sql_log_bin = 0; SET GLOBAL read_only = 0;
DROP DATABASE tapedeck; DROP USER tapedeck@'127.0.0.1', replication@'127.0.0.1';
CREATE USER stack@'%' IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO stack@'%' WITH GRANT OPTION;
SET GLOBAL read_only = 1"""


@pytest.fixture
def cluster(tmp_path: Path, data_template: Path, passwords: Passwords) -> Iterator[Cluster]:
    """Three hosts with Pacemaker; two have MariaDB, as a linked pair that Pacemaker manages."""
    tmp_path.chmod(0o755)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("promote.sh", "standby.sql"):
        shutil.copy(DEPLOY / "mysql" / name, scripts)
    (tmp_path / "replication").write_text(passwords.replication)
    options = f"[client]\nuser=stack\npassword={passwords.admin}\nprotocol=tcp\nhost=127.0.0.1\n"
    (tmp_path / "admin.cnf").write_text(options)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("admin", "gateway", "replication"):
        called = {"admin": "root"}.get(name, name)
        (secrets / f"mysql_{called}").write_text(getattr(passwords, name))
    for number, name in enumerate(("mysql1", "mysql2"), 1):
        datadir.copy(data_template, tmp_path / name)
        own = [
            *(f"server_id = {number}", f"datadir = {tmp_path / name}", "user = root"),
            *(f"socket = /run/{name}.sock", f"log_error = {tmp_path / name}.err"),
            *(word.removeprefix("--") for word in datadir.SMALL_AND_SAFE),
        ]
        text = (DEPLOY / "mysql/pair.cnf").read_text()
        (tmp_path / f"{name}.cnf").write_text("\n".join([text, "[mariadbd]", *own, ""]))
    three = Cluster(tmp_path)
    try:
        for node in three.nodes:
            node.boot()
        until(lambda: all_online(three), "three hosts online")
        first, second, third = three.nodes
        for node in (first, second):
            start_empty(node, tmp_path, passwords)
        environment = [f"SETUP={DEPLOY}/mysql", f"SECRETS={secrets}", "ADMIN=stack"]
        third.run("env", *environment, "sh", f"{DEPLOY}/compose/link", "mysql1", "mysql2")
        first.run("cibadmin", "--replace", "--scope=configuration", "-p", given=resources(tmp_path))
        until(lambda: promoted(third) == "mysql1", "Pacemaker keeps the present primary", 60)
        yield three
    finally:
        three.close()


def resources(folder: Path) -> str:
    """pair.xml, with the cluster's fence agent and the files of this test."""
    text = (DEPLOY / "mysql/pacemaker/pair.xml").read_text()
    words = {
        "config": "/run/pair.cnf",
        "admin": str(folder / "admin.cnf"),
        "replication": str(folder / "replication"),
        "scripts": str(folder / "scripts"),
    }
    pairs = "".join(f'<nvpair id="own-{k}" name="{k}" value="{v}"/>' for k, v in words.items())
    start = '<instance_attributes id="mariadb-is">'
    text = text.replace(start, start + pairs)
    # 15 s, so that the test does not wait five minutes for the old primary to come back.
    return text.replace("CHANGE_ME", "fence_legacy").replace('value="300s"', 'value="15s"')


def sql(node: Node, folder: Path, statements: str, *, check: bool = True) -> str:
    argv = ["mariadb", f"--defaults-extra-file={folder}/admin.cnf", "--batch", "-N"]
    return node.run(*argv, given=statements, check=check)


def start_empty(node: Node, folder: Path, passwords: Passwords) -> None:
    """Start a host's server, and empty it as after an installation."""
    node.run("sh", "-c", f"setsid {SERVER} </dev/null >/dev/null 2>&1 &")
    ask = lambda: sql(node, folder, "SELECT 'here'", check=False).strip() == "here"  # noqa: E731
    until(ask, f"{node.name} answers")
    sql(node, folder, EMPTY.format(password=passwords.admin))


def all_online(three: Cluster) -> bool:
    shown = three.nodes[2].run("crm_mon", "--one-shot", check=False)
    return "Online: [ mysql1 mysql2 vote ]" in shown


def promoted(node: Node) -> str | None:
    """The host that Pacemaker says is the primary, or None."""
    shown = node.run("crm_mon", "--one-shot", check=False)
    line = next((line for line in shown.splitlines() if "Promoted: [" in line), "")
    return line.partition("[")[2].partition("]")[0].strip() or None


def may_be_promoted(node: Node, name: str) -> bool:
    """Whether Pacemaker may promote a host: whether the primary's agent gave it a score of 10."""
    shown = node.run("crm_mon", "--one-shot", "--show-node-attributes", check=False)
    part = shown.partition("Node Attributes:")[2].partition(f"Node: {name}")[2]
    return ": 10" in part.partition("Node:")[0]


@pytest.mark.timeout(900)
async def test_pacemaker_fails_a_pair_over_and_no_acknowledged_change_is_lost(
    cluster: Cluster, stack_config: StackConfig, passwords: Passwords, tmp_path: Path
) -> None:
    """Four failovers: by command, and after the primary is killed, frozen, and its host lost."""
    first, second, third = cluster.nodes
    document = stack_config(
        mysql={
            "hosts": [f"{node.address}:3306" for node in (first, second)],
            "user": "tapedeck",
            "password": passwords.gateway,
            "database": "tapedeck",
            # Long, so that no request of the test gets 503; the default is 10 s.
            "deadline": 120_000,
        }
    )
    gateway = Gateway(document, tmp_path / "gateway")
    (tmp_path / "gateway").mkdir()

    async def primary_is(node: Node) -> float:
        """Wait until a host is the primary; meanwhile switch off the hosts that Pacemaker fences.

        Returns:
            The seconds that it took.
        """
        began = time.monotonic()
        while time.monotonic() < began + 120:
            await asyncio.to_thread(cluster.watch_power)
            body = await gateway.until("/mysql", lambda *_: True)
            if body["primary"] == f"{node.address}:3306":
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        raise AssertionError(third.run("crm_mon", "-1rfA", check=False))

    async def ready(name: str) -> None:
        """Wait until the gateway is ready and the standby may be promoted."""
        body = lambda status, body: (status, body["status"]) == (200, "ready")  # noqa: E731
        await gateway.until("/readyz", body, seconds=120)
        await asyncio.to_thread(
            until, lambda: may_be_promoted(third, name), f"{name} may be promoted"
        )

    try:
        await asyncio.to_thread(gateway.start)
        async with Traffic([gateway.url], gateway.key).running() as traffic:
            await traffic.more()
            await ready("mysql2")
            first.run("crm_resource", "--ban", "--promoted", "--resource", "pair")
            handed = await primary_is(second)
            first.run("crm_resource", "--clear", "--resource", "pair")
            await traffic.more()
            await ready("mysql1")
            second.run("sh", "-c", f"kill -9 {PID}")
            killed = await primary_is(first)
            await traffic.more()
            # The old primary comes back as the standby by itself.
            await ready("mysql2")
            first.run("sh", "-c", f"kill -STOP {PID}")
            frozen = await primary_is(second)
            await traffic.more()
            await ready("mysql1")
            await asyncio.to_thread(second.power_off)
            lost = await primary_is(first)
            await traffic.more()
        assert traffic.problems == []
        print(
            f"handed over: {handed:.1f} s; killed: {killed:.1f} s; frozen: {frozen:.1f} s;"
            f" host lost: {lost:.1f} s; {traffic.changes} changes"
        )
        raised = "SELECT generation FROM tapedeck.tapedeck_generation"
        assert sql(first, tmp_path, raised) == "5\n"
    finally:
        gateway.kill()
