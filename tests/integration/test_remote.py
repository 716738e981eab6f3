"""The commands `status`, `reload`, `drain`, `events`, `metrics`, `ring show` with real gateways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest

from stack.process import free_port
from tests.support.gateways import SECONDS, Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
Typed = subprocess.CompletedProcess[str]


@pytest.fixture
def gateways(stack_config: StackConfig, tmp_path: Path) -> Iterator[list[Gateway]]:
    """Two gateways: one with two workers, one with one worker and no supervisor."""
    documents = [stack_config(), stack_config()]
    put_mixes(documents[0], [a_mix(7)])
    two, one = Gateway(documents[0], tmp_path, "--workers", "2"), Gateway(documents[1], tmp_path)
    with two, one:
        asyncio.run(two.until("/readyz", lambda _, body: body["status"] == "ready"))
        yield [two, one]


@pytest.fixture
def fleet(gateways: list[Gateway], tmp_path: Path) -> Path:
    path = tmp_path / "machines"
    path.write_text(f"# ours\n{gateways[0].admin}   # with two workers\n\n{gateways[1].admin}/\n")
    return path


def typed(*words: object, folder: Path | None = None) -> Typed:
    """Run `tapedeck` with these arguments, in a folder without a configuration."""
    argv = [sys.executable, "-m", "cli", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "COLUMNS": "200"}
    return subprocess.run(
        argv, cwd=folder or "/", env=env, capture_output=True, text=True, timeout=90, check=False
    )


def test_one_command_asks_all_gateways_of_a_fleet(gateways: list[Gateway], fleet: Path) -> None:
    well = typed("status", "--fleet", fleet, "--wait", "30")
    assert (well.returncode, well.stderr) == (0, "")
    assert [line.split()[:3:2] for line in well.stdout.splitlines()[1:]] == [
        [gateway.admin, "ready"] for gateway in gateways
    ]

    # A configuration names its own gateway, and a file `fleet` beside it names all.
    config = gateways[1].config
    own = json.loads(typed("status", "--config", config, "--json").stdout)
    assert [one["url"] for one in own] == [gateways[1].admin]
    (config.parent / "fleet").write_text(fleet.read_text())
    both = json.loads(typed("status", "--config", config, "--json").stdout)
    assert {one["url"] for one in both} == {gateway.admin for gateway in gateways}
    assert "--url" in typed("drain", "--config", config).stderr, "a drain is for one gateway only"

    for gateway in gateways:
        gateway.document["player"] = {"skip_limit": 1}
        gateway.write_config()
    with following(gateways[1]) as lines:
        done = typed("reload", "--fleet", fleet)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"{gateway.admin}: changed: player.skip_limit" for gateway in gateways
        ]
        assert json.loads(lines.readline())["kind"] == "reload"
    gateways[1].document["player"] = {"skip_limit": "many"}
    gateways[1].write_config()
    refused = typed("reload", "--fleet", fleet)
    assert refused.returncode == 1
    assert refused.stdout == f"{gateways[0].admin}: nothing changed\n"
    assert f"{gateways[1].admin}: 422: " in refused.stderr
    assert "player.skip_limit" in refused.stderr
    end = time.monotonic() + SECONDS
    while "A reload was refused" not in (said := typed("events", "--fleet", fleet)).stdout:
        assert time.monotonic() < end, said
    assert said.stdout.count("The configuration was reloaded") >= 2

    counted = typed("metrics", "reloads_total", "tapedeck_workers", "--fleet", fleet).stdout
    assert 'tapedeck_reloads_total{result="refused"} 1.0' in counted
    assert counted.count("# http") == 2
    assert "tapedeck_lookups_total" not in counted
    told = json.loads(typed("metrics", "mysql_gen", "--fleet", fleet, "--json").stdout)
    assert [list(one["metrics"]) for one in told] == [["tapedeck_mysql_generation"]] * 2
    ring = typed("ring", "show", "--fleet", fleet).stdout.splitlines()
    assert len(ring) == 1 + 2 * 3
    assert all("live" in line for line in ring[1:])

    gateways[1].kill()
    ill = typed("status", "--fleet", fleet)
    first, second = ill.stdout.splitlines()[1:]
    assert ill.returncode == 1
    assert first.startswith(gateways[1].admin), "the worst first"
    assert "nothing listens at" in first
    assert second.split()[:3:2] == [gateways[0].admin, "ready"]
    assert ill.stderr == "tapedeck: 1 of 2 gateways do not serve\n"


@contextlib.contextmanager
def following(gateway: Gateway) -> Iterator[IO[str]]:
    """The lines that `tapedeck events --follow --json` prints."""
    argv = [sys.executable, "-m", "cli", "events", "--follow", "--json", "--url", gateway.admin]
    child = subprocess.Popen(
        argv, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout as lines:
        try:
            yield lines
        finally:
            child.kill()
            child.wait()


async def test_a_drained_gateway_says_503_and_answers_and_closes_connections_until_it_is_put_back(
    gateways: list[Gateway],
) -> None:
    """Each worker drains, also one that is started meanwhile."""
    gateway = gateways[0]
    url = ("--url", gateway.admin)

    async def closes() -> set[bool]:
        """Whether answers close their connections; many requests, so that both workers answer."""
        seen = set()
        for _ in range(20):
            async with aiohttp.ClientSession(gateway.url) as http, http.get("/mixes/7") as answer:
                assert answer.status == 200
                seen.add(answer.headers.get("Connection") == "close")
        return seen

    assert await closes() == {False}
    async with aiohttp.ClientSession(gateway.url) as kept:
        async with kept.get("/mixes/7") as answer:
            assert answer.headers.get("Connection") != "close"
        out = await asyncio.to_thread(typed, "drain", *url, "--timeout", "30")
        assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert lines[0].startswith(f"{gateway.admin}: taken out")
    # If the command asks for the second time late, the gateway may be empty already.
    assert len(lines) == 2 or "0 requests in flight, 1 connections open" in lines[1]
    assert "empty after" in lines[-1]
    shown = json.loads((await asyncio.to_thread(typed, "status", *url, "--json")).stdout)
    assert shown[0]["status"] == "draining"
    assert "tapedeck drain --back" in shown[0]["reasons"][0]
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/readyz") as answer:
        assert (await answer.json())["ages"][0] > 4  # the drain took as long
    assert await closes() == {True}

    for line in gateway.lines("worker started"):
        os.kill(line["pid"], signal.SIGKILL)
    await gateway.until("/stats", lambda _, b: b.get("tapedeck_worker_restarts") == 2)
    await gateway.until("/drain", lambda _, b: b["draining"])
    assert await closes() == {True}

    # Clients that stay are still served, and the command reports them.
    async def insist() -> None:
        while not over:
            async with aiohttp.ClientSession(gateway.url) as http, http.get("/mixes/7") as answer:
                assert answer.status == 200

    over = False
    insisting = asyncio.create_task(insist())
    late = await asyncio.to_thread(typed, "drain", *url, "--timeout", "0")
    over = True
    await insisting
    assert late.returncode == 1
    assert "is not empty after 0 s" in late.stderr
    assert "does the balancer ask its /readyz?" in late.stderr

    back = await asyncio.to_thread(typed, "drain", "--back", *url)
    assert back.returncode == 0, back.stderr
    await gateway.until("/readyz", lambda status, _: status == 200)
    assert await closes() == {False}


# --- errors


def test_an_error_says_which_token_is_needed_and_where_it_is(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    token = tmp_path / "admin_token"
    token.write_text("a-token-for-operators-of-enough-length\n")
    document = stack_config(admin={"host": "0.0.0.0", "token_file": str(token)})
    with Gateway(document, tmp_path) as gateway:
        url = ("--url", gateway.admin)
        without = typed("reload", *url)
        assert without.returncode == 1
        assert "wants the admin token, the one in its own admin.token_file" in without.stderr
        assert "--token-file" in without.stderr
        other = tmp_path / "other"
        other.write_text("something-else-that-is-no-token-of-ours")
        wrong = typed("reload", *url, "--token-file", other)
        assert wrong.returncode == 1
        assert f"it got the one in {other}" in wrong.stderr
        assert other.read_text() not in wrong.stderr
        for right in (("--token-file", token, *url), ("--config", gateway.config)):
            done = typed("reload", *right)
            assert (done.returncode, done.stdout) == (0, f"{gateway.admin}: nothing changed\n")
        # The verdict needs no token.
        shown = typed("status", *url)
        assert shown.returncode == 0
        assert "ready" in shown.stdout
        assert "wants the admin token" in shown.stderr


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--url", "localhost:8081"], 2, "is not the URL of an admin port"),
        (["--url", "http://127.0.0.1:8081/readyz"], 2, "is not the URL of an admin port"),
        (["--url", "http://127.0.0.1:{closed}"], 1, "nothing listens at http://127.0.0.1:{closed}"),
        (["--url", "http://no-such-host.invalid:8081"], 1, "is not known"),
        (["--fleet", "/no/such/file"], 1, "/no/such/file cannot be read: No such file"),
        (["--fleet", "{empty}"], 1, "names no gateway"),
        (["--url", "http://127.0.0.1:1", "--token-file", "{empty}"], 1, "is empty"),
        (["--config", "/no/such/file"], 1, "there is no such file"),
        (["--config", "/no/such/file"], 1, "can be asked all the same: --url URL"),
    ],
)
def test_a_gateway_that_cannot_be_asked_is_named(
    words: list[str], status: int, says: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nothing yet\n" if "--fleet" in words else "")
    here = {"closed": free_port(), "empty": empty}
    done = typed("reload", *(word.format(**here) for word in words))
    assert done.returncode == status, done.stderr
    assert says.format(**here) in " ".join(done.stderr.split())
