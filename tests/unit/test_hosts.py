"""A web page in an operator's browser cannot use an admin port that requires no token."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.routes import AdminApi
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application
from gateway.http.allowed_hosts import is_ours, name_of
from gateway.http.listening import Listening, bind
from gateway.reload.runtime_config import RuntimeConfig
from sharding.health_verdict import Reason, Verdict, verdict_of
from tests.support.serving import a_config

REASON = "lookup node lookup1 is out of the ring: 10.0.0.7 refused"


class AdminAnswers:
    """Answers each question, and counts reloads."""

    reloads = 0

    async def readiness(self) -> Verdict:
        return verdict_of([Reason("nodes", REASON)])

    async def ring(self) -> dict[str, Any]:
        return {"nodes": ["10.0.0.7"]}

    async def reload(self, body: bytes, *, force: bool) -> dict[str, Any]:
        self.reloads += 1
        return {"changed": [], "needs_restart": []}

    check = reload


@contextlib.asynccontextmanager
async def admin(
    token: str | None = None, **values: Any
) -> AsyncIterator[tuple[aiohttp.ClientSession, int, AdminAnswers]]:
    live, answers = RuntimeConfig(a_config(admin=values)), AdminAnswers()
    api = AdminApi(
        answers,  # type: ignore[arg-type]
        answers,  # type: ignore[arg-type]
        live,
        Dashboard(answers, live),  # type: ignore[arg-type]
        token,
    )
    sock = bind("127.0.0.1", 0, "admin.port", "--admin-port")
    port = sock.getsockname()[1]
    listening = Listening(admin_application(live, api), sock)
    await listening.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield http, port, answers
    finally:
        await listening.stop(0.02)


FOREIGN = ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "10.0.0.1", ""]


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_request_for_a_foreign_host_name_reads_and_changes_nothing(host: str) -> None:
    async with admin() as (http, _, answers):
        for method, path in (
            ("GET", "/ring"),
            ("GET", "/openapi.json"),
            ("GET", "/"),
            ("POST", "/reload"),
            ("POST", "/reload/check"),
        ):
            async with http.request(method, path, headers={"Host": host}) as answer:
                said = await answer.text()
                assert answer.status == 403, path
                assert "admin.allowed_hosts" in said
                assert "10.0.0.7" not in said
        assert answers.reloads == 0


@pytest.mark.parametrize("host", ["@", "["])
async def test_a_malformed_host_header_gets_400(host: str) -> None:
    async with admin() as (http, _, answers):
        async with http.post("/reload", headers={"Host": host}) as answer:
            assert answer.status == 400
        assert answers.reloads == 0


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.:8081", "127.0.0.1", "127.8.9.1:80", "[::1]:9"]
)
async def test_an_operator_on_the_machine_is_served_under_any_loopback_name_and_port(
    host: str,
) -> None:
    async with admin() as (http, _, answers):
        async with http.get("/ring", headers={"Host": host}) as answer:
            assert answer.status == 200
        async with http.post("/reload", headers={"Host": host}) as answer:
            assert answer.status == 200
        assert answers.reloads == 1


async def test_health_checks_may_use_any_name_and_reasons_are_shown_only_under_a_known_one() -> (
    None
):
    async with admin() as (http, _, _):
        for path in ("/healthz", "/readyz"):
            # The name that HAProxy sends (deploy/balance); Envoy sends the cluster's name.
            async with http.get(path, headers={"Host": "gateway"}) as answer:
                assert answer.status == 200
                said = await answer.json()
        assert said["status"] == "degraded"
        assert REASON not in str(said)
        assert "admin.allowed_hosts" in said["reasons"][0]
        async with http.get("/readyz") as answer:
            assert (await answer.json())["reasons"] == [REASON]


async def test_names_that_the_operator_allows_are_served() -> None:
    async with admin(allowed_hosts="Admin.Example,10.0.0.1") as (http, _, answers):
        for host in ("admin.example", "ADMIN.example:443", "10.0.0.1:8081", "localhost"):
            async with http.get("/ring", headers={"Host": host}) as answer:
                assert answer.status == 200
            async with http.get("/readyz", headers={"Host": host}) as answer:
                assert REASON in await answer.text()
        async with http.get("/ring", headers={"Host": "other.example"}) as answer:
            assert answer.status == 403
        # A proxy that replaces Host leaves the page's own name in Origin.
        headers = {"Host": "localhost:8081", "Origin": "https://admin.example"}
        async with http.post("/reload", headers=headers) as answer:
            assert answer.status == 200
        assert answers.reloads == 1


async def test_if_a_token_is_required_any_host_name_is_served() -> None:
    async with admin(token="the-token") as (http, _, answers):
        headers = {"Host": "tapedeck-0.pods.svc", "Authorization": "Bearer the-token"}
        async with http.get("/ring", headers=headers) as answer:
            assert answer.status == 200
        async with http.post("/reload", headers=headers) as answer:
            assert answer.status == 200
        async with http.get("/readyz", headers={"Host": "10.1.2.3:8081"}) as answer:
            assert (await answer.json())["reasons"] == [REASON]
        assert answers.reloads == 1


async def test_a_page_of_another_site_cannot_reload() -> None:
    async with admin() as (http, port, answers):
        for origin in (
            "https://evil.example",
            "null",
            "http://127.0.0.1:1",
            f"http://localhost:{port}.evil.example",
            "",
        ):
            for path in ("/reload", "/reload/check"):
                async with http.post(path, headers={"Origin": origin}) as answer:
                    assert answer.status == 403, origin
                    assert "admin.allowed_hosts" in await answer.text()
        assert answers.reloads == 0
        async with http.post("/reload", headers={"Origin": f"http://127.0.0.1:{port}"}) as answer:
            assert answer.status == 200
        async with http.get("/ring", headers={"Origin": "https://evil.example"}) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers


@given(st.text(max_size=30))
def test_any_host_header_is_read_as_a_name_or_refused(host: str) -> None:
    name = name_of(host)
    assert name is None or (name and not set(name) & set(" /?#@[]"))


@given(st.from_regex(r"[a-z0-9.-]{0,20}\.example", fullmatch=True))
def test_no_site_s_name_counts_as_loopback(host: str) -> None:
    assert not is_ours(host, ())
    assert not is_ours(f"{host}:8081", ())
