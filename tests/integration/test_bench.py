"""The benchmark runs, and its load generator measures correctly."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from bench import load, month, seed
from bench.servers import GATEWAY, Servers
from sharding.partitions.calendar import table
from stack import bootstrap
from stack.process import ServerFailed

ROOT = Path(__file__).resolve().parents[2]
_missing = [
    package
    for package, names in bootstrap.FOR_BENCH.items()
    if not any(bootstrap.is_there(name) for name in names)
]
needs_packages = pytest.mark.skipif(
    bool(_missing), reason=f"{', '.join(_missing)} not installed (make bench installs them)"
)
needs_compiler = pytest.mark.skipif(
    bool({"gcc", "libc6-dev"} & set(_missing)), reason="no C compiler (make bench installs it)"
)


@contextmanager
def _bench(tmp_path: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "bench", "--tiny", "--out", str(tmp_path / "out"), *args]
    run = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield run
    finally:
        run.terminate()
        run.wait(60)


def _left_behind() -> list[str]:
    home = str(ROOT / ".tapedeck" / "bench" / "run-").encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = process.joinpath("cmdline").read_bytes()
            if home in words or home in os.fsencode(process.joinpath("cwd").readlink()):
                found.append(words.decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.stack
@needs_packages
def test_a_tiny_run_measures_the_gateway_and_plain_go(tmp_path: Path) -> None:
    with _bench(tmp_path, "--only", "open_loop") as run:
        out, _ = run.communicate(timeout=250)
    assert run.returncode == 0, out
    assert "p99 of whole sessions at 80% of plain Go's limit" in out
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert {r["peer"] for r in records} == {"gateway", "go"}
    assert all(r["errors"] == 0 and r["lost"] == 0 and r["requests"] > 0 for r in records), out
    assert not _left_behind()


@pytest.mark.stack
@needs_packages
def test_an_interrupted_run_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    with _bench(tmp_path, "--only", "throughput") as run:
        assert run.stdout is not None
        while "round 1" not in (line := run.stdout.readline()):
            assert line, "the run ended by itself"
        assert _left_behind()
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 130, out
    assert not _left_behind()
    assert not list((ROOT / ".tapedeck" / "bench").glob("run-*"))


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(1200)
@needs_packages
def test_every_experiment_of_the_benchmark_runs(tmp_path: Path) -> None:
    with _bench(tmp_path) as run:
        out, _ = run.communicate(timeout=1100)
    assert run.returncode == 0, out
    assert "not measured" not in out
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    peers = {r["peer"] for r in records if r["experiment"] == "throughput"}
    assert peers == {
        "gateway",
        "go",
        "asyncio",
        "threads",
        "constant",
        "constant_app",
        "go_table",
        "go_redis",
    }
    assert not _left_behind()


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(600)
@needs_packages
def test_every_experiment_of_the_benchmark_s_month_runs(tmp_path: Path) -> None:
    data = ("--month", "--month-rows", "900000", "--data", str(tmp_path / "month"))
    with _bench(tmp_path, *data) as run:
        out, _ = run.communicate(timeout=500)
    assert run.returncode == 0, out
    page = (tmp_path / "out" / "README.md").read_text()
    assert "900,000 states lie in 30 partitions" in page
    for title in ("A gateway's start", "All lookup nodes dead", "A day is sealed under load"):
        assert f"### {title}" in page
    assert not _left_behind()


@pytest.mark.stack
@needs_packages
def test_a_month_of_data_made_days_ago_is_used_again_with_its_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = seed.today()

    def ready() -> tuple[month.Month, list[str], int]:
        said: list[str] = []
        made = month.Month.open(tmp_path / "month", 3_000)
        with Servers(tmp_path / "run", data=made.data, passwords=made.passwords) as servers:
            made.ready(servers, said.append)
            with servers.connect(GATEWAY) as cursor:
                cursor.execute(f"SELECT COUNT(*) FROM {table(made.day(2))}")
                (count,) = cursor.fetchone()
                cursor.execute(f"DELETE FROM {table(made.day(2))} LIMIT 1")
            assert not set(made.take(3, 30)) & set(made.take(3, 30))
            with pytest.raises(ServerFailed, match="used up"):
                made.take(3, 50)
            # Pretend that it was made three days ago.
            monkeypatch.setattr(seed, "today", lambda: real - timedelta(days=3))
            made._align(servers)
            monkeypatch.setattr(seed, "today", lambda: real)
        return made, said, count

    _, said, count = ready()
    assert (len(said), count) == (60, 100)  # 30 filled, 30 sealed
    made, said, count = ready()
    name = table(real - timedelta(days=3))  # the day whose users were mostly used up
    assert [line.partition(":")[0] for line in said] == [f"{name} filled", f"{name} sealed"]
    assert count == 99
    assert made.newest == real - timedelta(days=4)


def test_a_folder_with_other_content_is_refused_as_a_month(tmp_path: Path) -> None:
    (tmp_path / "mysql").mkdir()
    with pytest.raises(ServerFailed, match="is not empty, and holds no month"):
        month.Month.open(tmp_path, 3_000)
    assert (tmp_path / "mysql").exists()


# --- the load generator


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load.build(tmp_path_factory.mktemp("loadgen"))


@asynccontextmanager
async def _server(handle: Callable[[web.BaseRequest], object]) -> AsyncIterator[int]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        made = handle(request)
        if asyncio.iscoroutine(made):
            made = await made
        assert isinstance(made, web.StreamResponse)
        return made

    server = web.Server(answer)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await server.shutdown(0.1)


async def _measured(
    generator: Path, port: int, folder: Path, sessions: str, **how: float
) -> load.Measured:
    file = folder / "sessions"
    file.write_text(sessions)
    connections = int(how.pop("connections", 4))
    run = load.Load(generator, port, file, connections=connections, warmup=0, **how)  # type: ignore[arg-type]
    return await asyncio.to_thread(run.finish)


@needs_compiler
async def test_the_load_generator_sends_each_request_of_a_session_once_in_order(
    generator: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def handle(request: web.BaseRequest) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(status=404 if request.path == "/b/1" else 200, text="x" * 3000)

    sessions = "".join(
        "\n".join(f"/{name}/{k}" for k in range(5)) + "\n\n" for name in "abcdefghij"
    )
    async with _server(handle) as port:
        measured = await _measured(generator, port, tmp_path, sessions, seconds=20.0)
    assert len(asked) == 50
    for name in "abcdefghij":
        mine = [path for path in asked if path.startswith(f"/{name}/")]
        assert mine == [f"/{name}/{k}" for k in range(5)]
    assert measured.statuses == {"200": 49, "404": 1}
    assert sorted(s.number for s in measured.samples) == sorted([0, 1, 2, 3, 4] * 10)
    assert measured.until < 20


@needs_compiler
async def test_a_stall_counts_for_every_request_that_was_due_in_it(
    generator: Path, tmp_path: Path
) -> None:
    """A closed loop would have only as many slow requests as it has connections, and half of the
    load would be missing (coordinated omission)."""
    began = time.monotonic()
    stall = 0.5

    async def handle(_: web.BaseRequest) -> web.Response:
        now = time.monotonic() - began
        if 0.5 <= now < 0.5 + stall:
            await asyncio.sleep(0.5 + stall - now)
        return web.Response(text="ok")

    async with _server(handle) as port:
        began = time.monotonic()
        measured = await _measured(
            generator, port, tmp_path, "/x\n\n" * 5000, seconds=2.0, rate=400.0, connections=2
        )
    assert measured.errors == 0
    assert abs(len(measured.samples) - 800) < 200
    slow = [s for s in measured.samples if s.latency > 100]
    # At 400 a second, those due in the first 0.4 s of a stall of 0.5 s take longer than 100 ms.
    assert 100 < len(slow) < 260
    assert max(s.latency for s in measured.samples) > 400


@needs_compiler
async def test_listeners_of_an_open_loop_begin_their_sessions_at_different_times(
    generator: Path, tmp_path: Path
) -> None:
    """Otherwise the first requests of all listeners would come in one burst."""
    asked: list[str] = []

    def handle(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(text="ok")

    sessions = "".join("\n".join(f"/{n}/{k}" for k in range(5)) + "\n\n" for n in range(400))
    async with _server(handle) as port:
        await _measured(
            generator, port, tmp_path, sessions, seconds=1.0, rate=500.0, connections=20
        )
    by_session: dict[str, list[str]] = {}
    for path in asked:
        _, session, step = path.split("/")
        by_session.setdefault(session, []).append(step)
    assert all(steps == list("01234")[: len(steps)] for steps in by_session.values())
    firsts = [path.endswith("/0") for path in asked]
    at = 60  # by then each of the twenty listeners is in another part of its session
    assert all(1 <= sum(firsts[n : n + 20]) <= 10 for n in range(at, len(firsts) - 40, 20))


@needs_compiler
async def test_a_connection_that_breaks_is_an_error_and_the_load_goes_on(
    generator: Path, tmp_path: Path
) -> None:
    def handle(request: web.BaseRequest) -> web.Response:
        if request.path == "/broken":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="ok")

    async with _server(handle) as port:
        measured = await _measured(
            generator, port, tmp_path, "/broken\n\n" + "/x\n\n" * 50, seconds=20.0
        )
    assert measured.statuses == {"0": 1, "200": 50}


@needs_compiler
def test_the_load_generator_reports_a_refused_connection(generator: Path, tmp_path: Path) -> None:
    file = tmp_path / "sessions"
    file.write_text("/x\n\n")
    run = load.Load(generator, 1, file, connections=1, seconds=1, warmup=0)
    with pytest.raises(Exception, match="connect: Connection refused"):
        run.finish()


def test_without_a_compiler_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("gcc") is None
    with pytest.raises(Exception, match="gcc is not installed"):
        load.build(tmp_path)
