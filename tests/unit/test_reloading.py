"""A reload before it changes anything: what it applies, compares and checks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from config.load import ConfigError, parse
from config.plain import veiled
from gateway.http.errors import Refusal
from gateway.http.listening import bind
from gateway.peers import Peers
from gateway.process.admin_port import AdminPort
from gateway.reload import reload
from gateway.reload.compare import Outcome, Question, compare
from gateway.reload.runtime_config import RuntimeConfig, Source, with_token_keys
from sharding.backend import Backend
from sharding.lookups.capacity import Survey
from tests.support.serving import SERVICE_KEY, a_config
from tests.unit.test_placement import MYSQL, A, B


def in_cluster(**lookup: Any) -> Any:
    words = {"mode": "cluster", "servers": ["127.0.0.1:1"], "capacity_every": 0, **lookup}
    return with_token_keys(parse({"lookup": words, "mysql": MYSQL}), "k" * 32)


async def test_a_reload_changes_a_cluster_s_survey_and_its_other_values_need_a_restart() -> None:
    live, backend = RuntimeConfig(in_cluster()), Backend(in_cluster())
    step = await reload.weigh(
        live.config,
        backend.generation,
        in_cluster(timeout=9, servers=["127.0.0.1:2"], capacity_every=7),
    )
    assert step.outcome == Outcome(
        changed=["lookup.capacity_every"], needs_restart=["lookup.servers", "lookup.timeout"]
    )
    backend.reload(step.merged, backend.plan(step.merged), step.generation)
    assert backend.ring().generation == 1


async def test_a_task_that_a_reload_ends_does_end_even_if_it_loses_a_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`asyncio.wait_for` before Python 3.12 loses one that comes with the result (bpo-37658)."""
    live, backend = RuntimeConfig(a_config()), Backend(a_config())
    lost, ended = asyncio.Event(), asyncio.Event()

    async def run(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(backend.survey, "run", run)
    backend._run_tasks()
    await asyncio.sleep(0)
    step = await reload.weigh(
        live.config, backend.generation, a_config(lookup={"capacity_every": 0})
    )
    assert step.outcome.changed == ["lookup.capacity_every"]
    backend.reload(step.merged, backend.plan(step.merged), step.generation)
    async with asyncio.timeout(5):
        await lost.wait()
        await ended.wait()
    await backend.close()


async def test_a_survey_that_is_turned_off_ends_by_itself() -> None:
    survey, surveyed = Survey(0.01), 0

    class Nodes(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal surveyed
            surveyed += 1
            survey.every = 0
            return iter(())

    async with asyncio.timeout(5):
        await survey.run(Nodes())
    assert surveyed == 1


async def test_only_a_change_that_moves_keys_makes_a_new_generation_of_the_ring() -> None:
    live = RuntimeConfig(a_config(lookup={"servers": [A, B]}))

    async def outcome(**lookup: Any) -> dict[str, Any]:
        new = a_config(lookup={"servers": [A, B], **lookup})
        return msgspec.to_builtins((await reload.weigh(live.config, 1, new)).outcome)

    assert "ring" not in await outcome(timeout=9, batch=5, server_failure_limit=1)
    assert "ring" not in await outcome(servers=[B, A])
    weighted = (await outcome(servers=["127.0.0.1:7001:3 a", B]))["ring"]
    assert weighted["generation"] == 2
    assert 0 < weighted["moved"] < 0.5
    assert weighted["changes"] == ["a weighs 3 instead of 1"]


async def test_a_reload_does_not_leave_a_public_admin_port_without_its_token() -> None:
    """The token would be removed at once, but the host, which needs a restart, would stay."""
    held = a_config(admin={"host": "0.0.0.0", "token": "t" * 20})
    with pytest.raises(ConfigError) as refused:
        await reload.weigh(held, 1, a_config())
    assert " ".join(refused.value.problems) == (
        "admin.token (or admin.token_file) is needed: admin.host 0.0.0.0 is not loopback "
        "(until a restart, this stays as it is: admin.host)"
    )


async def test_workers_compare_secrets_without_sending_them() -> None:
    live = RuntimeConfig(a_config())

    async def asked(config: Any) -> dict[str, Any]:
        question = Question(veiled(config, "n"), "n")
        body = msgspec.json.encode(question)
        assert SERVICE_KEY.encode() not in body
        assert b"kkkkkkkk" not in body
        return msgspec.to_builtins(await compare(live, body))

    assert (await asked(a_config()))["changed"] == []
    other = await asked(a_config(auth={"service_keys": ["another"]}, mysql={"password": "p"}))
    assert other["changed"] == ["auth.service_keys", "mysql.password"]
    assert other["needs_restart"] == []
    assert other["values"] == {}


@pytest.mark.parametrize("body", [b"x", b"{}", b'{"config": {}, "nonce": "n"}', b"[1]"])
async def test_a_malformed_question_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        await compare(RuntimeConfig(a_config()), body)
    assert refused.value.status == 400


def test_changes_of_files_that_the_configuration_names_are_noticed(tmp_path: Path) -> None:
    secret, file = tmp_path / "service.key", tmp_path / "tapedeck.yml"
    secret.write_text("one\n")
    file.write_text(
        "auth: {service_keys_file: service.key}\n"
        f"lookup: {{servers: ['{A}']}}\n"
        "mysql: {hosts: ['127.0.0.1:1'], user: nobody}\n"
    )
    source = Source(file, {"TAPEDECK_GATEWAY__PORT": "1"})
    before = source.fingerprint()
    assert source.fingerprint() == before
    secret.write_text("two\n")
    after = source.fingerprint()
    assert after != before
    file.unlink()
    assert source.fingerprint() not in (before, after)
    assert "gateway.port" in source.pinned


@pytest.mark.parametrize("named", ["lookup: {password_file: new}", "lookup: {nutcracker: new}"])
def test_a_file_that_a_refused_configuration_lacked_is_noticed_when_it_comes(
    tmp_path: Path, named: str
) -> None:
    file = tmp_path / "tapedeck.yml"
    file.write_text(named)
    source = Source(file, {})
    with pytest.raises(ConfigError):
        source.load()
    before = source.fingerprint()
    (tmp_path / "new").write_text("x\n")
    assert source.fingerprint() != before


def test_a_pipe_in_the_place_of_the_file_does_not_stop_the_looks_for_changes(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tapedeck.yml"
    os.mkfifo(file)
    source = Source(file, {})
    before = source.fingerprint()
    file.unlink()
    file.write_text("mode: local\n")
    assert source.fingerprint() != before


async def test_signals_during_a_reload_make_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    live, handlers = RuntimeConfig(a_config()), dict[int, Any]()
    begun, may_end = asyncio.Queue[None](), asyncio.Event()

    class Counted(reload.Reload):
        async def reload_logged(self) -> bool:
            begun.put_nowait(None)
            await may_end.wait()
            return True

    def add(number: int, handler: Any, *args: Any) -> None:
        handlers[number] = partial(handler, *args)

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", add)
    admin = AdminPort(
        SimpleNamespace(peers=Peers(live)),  # type: ignore[arg-type]
        Counted(live, Source(Path("none"), {}), None),  # type: ignore[arg-type]
        live,
        bind("127.0.0.1", 0, "admin.port", "--admin-port"),
    )
    await admin.start()
    async with asyncio.timeout(5):
        handlers[signal.SIGHUP]()
        await begun.get()
        for _ in range(3):
            handlers[signal.SIGHUP]()
        may_end.set()
        await begun.get()
        await admin.stop()
    assert begun.empty()
