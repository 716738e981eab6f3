"""A dashboard asks the other gateways by https, with private certificate authorities."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from config.load import ConfigError, parse
from gateway.admin.routes import AdminApi
from gateway.api import admin_bodies
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application
from gateway.http.errors import json_response
from gateway.http.listening import Listening, bind
from gateway.http.messages import Response
from gateway.http.router import Call
from gateway.peers import Peer, Peers
from gateway.reload.runtime_config import RuntimeConfig
from stack.process import free_port
from tests.support.certificates import Authority
from tests.support.serving import a_config

TOKEN = "one-token-for-all-of-them"


SAID = admin_bodies.Overview(
    at=1.0,
    gateway="another",
    version="1",
    status="ready",
    since=None,
    reasons=[],
    workers=1,
    requests=0.0,
    failing=0.0,
    latency=[None, None, None],
    out=[],
    generation=1,
    primary=None,
)


class Overview(Dashboard):
    """A dashboard that has an overview at once."""

    async def overview(self, call: Call) -> Response:
        return json_response(SAID)


@contextlib.asynccontextmanager
async def an_admin_port(**tls: str) -> AsyncIterator[str]:
    """Run a real admin port; its address, without the scheme."""
    live = RuntimeConfig(a_config(admin={"token": TOKEN, **tls}))
    api = AdminApi(None, None, live, Overview(None, live), TOKEN)  # type: ignore[arg-type]
    sock = bind("127.0.0.1", 0, "admin.port", "--admin-port")
    listening = Listening(admin_application(live, api), sock, lambda: live.config.admin)
    await listening.start()
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await listening.stop(0.1)


def tls_of(pair: tuple[str, str]) -> dict[str, str]:
    return {"tls_certificate_file": pair[0], "tls_key_file": pair[1]}


async def said(*urls: str, **values: Any) -> list[Any]:
    """The answers of peers to a gateway with these values."""
    config = a_config(admin={"token": TOKEN, "peers": list(urls), **values})
    return await Peers(RuntimeConfig(config)).ask()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def test_a_peer_with_a_certificate_of_a_private_authority_is_shown(
    authority: Authority,
) -> None:
    async with an_admin_port(**tls_of(authority.issue("peer"))) as address:
        (peer,) = await said(f"https://{address}", peers_tls_ca_file=authority.file)
        assert peer.seen > 0
        assert peer == Peer(**structs.asdict(SAID), url=f"https://{address}", seen=peer.seen)


async def test_http_and_https_peers_can_be_mixed(authority: Authority) -> None:
    async with an_admin_port() as plain, an_admin_port(**tls_of(authority.issue("p"))) as secure:
        urls = [f"http://{plain}", f"https://{secure}"]
        found = await said(*urls, peers_tls_ca_file=authority.file)
        assert [peer.status for peer in found] == ["ready", "ready"]


async def test_a_peer_without_a_valid_certificate_does_not_get_the_token_and_the_reason_is_shown(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other")
    elsewhere = authority.issue("elsewhere", "elsewhere.example")
    ca = {"peers_tls_ca_file": authority.file}
    async with an_admin_port(**tls_of(stranger.issue("peer"))) as address:
        for values in ({}, ca):
            (peer,) = await said(f"https://{address}", **values)
            assert "its certificate is refused" in peer.problem
    async with an_admin_port(**tls_of(elsewhere)) as address:
        (peer,) = await said(f"https://{address}", **ca)
        assert "not valid for '127.0.0.1'" in peer.problem
        (peer,) = await said(f"https://{address}", **ca, peers_tls_verify_names=False)
        assert peer.status == "ready"
        (peer,) = await said(f"http://{address}", **ca)
        assert "https" in peer.problem
    async with an_admin_port() as address:
        (peer,) = await said(f"https://{address}", **ca)
        assert "it answers without TLS" in peer.problem
    (peer,) = await said(f"https://127.0.0.1:{free_port()}", **ca)
    assert peer.problem.startswith("does not answer")


async def test_a_peer_that_requires_a_client_certificate_gets_one(
    authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    certificate, key = clients.issue("gateway")
    asking = tls_of(authority.issue("peer")) | {"tls_client_ca_file": clients.file}
    async with an_admin_port(**asking) as address:
        ca = {"peers_tls_ca_file": authority.file}
        (peer,) = await said(f"https://{address}", **ca)
        assert "admin.peers_tls_certificate_file" in peer.problem
        shown = {"peers_tls_certificate_file": certificate, "peers_tls_key_file": key}
        (peer,) = await said(f"https://{address}", **ca, **shown)
        assert peer.status == "ready"


async def test_a_replaced_authority_file_is_read_again(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other")
    file = tmp_path / "peers.pem"
    shutil.copy(stranger.file, file)
    async with an_admin_port(**tls_of(authority.issue("peer"))) as address:
        config = {"token": TOKEN, "peers": [f"https://{address}"], "peers_tls_ca_file": str(file)}
        peers = Peers(RuntimeConfig(a_config(admin=config)))
        assert "certificate is refused" in str((await peers.ask())[0])
        shutil.copy(authority.file, file)
        assert isinstance((await peers.ask())[0], Peer)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"peers_tls_ca_file": "no.pem"}, "admin.peers_tls_ca_file: "),
        (
            {"peers_tls_certificate_file": "no.pem", "peers_tls_key_file": "no.key"},
            "admin.peers_tls_certificate_file: ",
        ),
        ({"peers_tls_key_file": "no.key"}, "admin: peers_tls_certificate_file and"),
    ],
)
def test_certificate_files_that_cannot_be_used_are_named(
    values: dict[str, str], problem: str, tmp_path: Path
) -> None:
    document = {
        "lookup": {"servers": ["127.0.0.1:1:1 lookup1"]},
        "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
        "admin": values,
    }
    with pytest.raises(ConfigError) as refused:
        parse(document, base=tmp_path)
    (said,) = refused.value.problems
    assert said.startswith(problem)
    if "no.pem" in values.values():
        assert str(tmp_path / "no.pem") in said
