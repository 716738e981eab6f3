"""A drill against gateways as in production: https, and a token for the admin port."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import pytest

from drills.attached import Attached
from drills.checker import Verdict
from drills.client import Client
from drills.load import Load
from stack.process import ServerFailed
from tests.conftest import StackConfig
from tests.support.certificates import Authority
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack


def secured(stack_config: StackConfig, authority: Authority, **more: str) -> dict[str, object]:
    """A configuration with TLS on both ports and a token on the admin port."""
    plain = stack_config()
    certificate, key = authority.issue("gateway")
    tls = {"tls_certificate_file": certificate, "tls_key_file": key, **more}
    admin = {
        **plain["admin"],
        **tls,
        "host": "0.0.0.0",
        "token": "an-admin-token-of-32-characters!",
    }
    return stack_config(gateway={**plain["gateway"], **tls}, admin=admin)


def test_a_drill_uses_https_and_the_admin_token(stack_config: StackConfig, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    document = secured(stack_config, authority)
    put_mixes(document, [a_mix(1, 4)])
    gateway = Gateway(document, tmp_path)
    gateway.admin = gateway.admin.replace("http:", "https:")
    gateway.admin_tls = ssl.create_default_context(cafile=authority.file)
    gateway.start()
    try:
        stage = Attached([gateway.config], None, lambda _: None)
        stage.start()

        assert stage.mixes == {1: [101, 102, 103, 104]}
        assert stage.metric("tapedeck_saves_total") > 0
        assert stage.partitions()
        assert asyncio.run(_readyz_and_answer(stage)) == (200, 200)
    finally:
        gateway.kill()


@pytest.mark.parametrize(
    "rules", [{"skip_limit": 3}, {"skip_limit": 0}, {"skip_window": 1}], ids=str
)
def test_a_drill_finds_nothing_wrong_with_skips_that_the_gateways_settings_allow(
    stack_config: StackConfig, tmp_path: Path, rules: dict[str, int]
) -> None:
    document = stack_config(player=rules)
    put_mixes(document, [a_mix(1, 8)])
    gateway = Gateway(document, tmp_path)
    gateway.start()
    try:
        stage = Attached([gateway.config], None, lambda _: None)
        stage.start()
        verdict = asyncio.run(_after_steps(stage, 300))
    finally:
        gateway.kill()

    assert verdict.breaches == []
    assert verdict.acknowledged > 0


async def _after_steps(stage: Attached, steps: int) -> Verdict:
    async with Client(stage.targets, random.Random(1)) as client:
        load = Load(client, stage.mixes, stage.key, 300, seed=1, player=stage.player)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(stop))
            while len(load.operations) < steps:
                await asyncio.sleep(0.01)
            stop.set()
        return await load.read_back(None)


async def _readyz_and_answer(stage: Attached) -> tuple[int, int]:
    async with Client(stage.targets, random.Random(1)) as client:
        answer = await client.ask("GET", "/sets/new", what="new")
        async with asyncio.timeout(5):
            while not client.readyz:
                await asyncio.sleep(0.01)
        return answer.status, client.readyz[0].status


def test_a_drill_refuses_gateways_that_require_client_certificates(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    document = secured(stack_config, authority, tls_client_ca_file=authority.file)
    gateway = Gateway(document, tmp_path)
    gateway.write_config()

    with pytest.raises(ServerFailed, match="ask clients for certificates"):
        Attached([gateway.config], None, lambda _: None)
