"""One answer from several workers, and a configuration that changes while they run."""

from __future__ import annotations

from typing import Literal

import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from config.model import Sections
from config.plain import masked, plain
from failover.mysql.shown import MySQL
from gateway.api.admin_bodies import Readiness
from gateway.process.workers_answers import ejected, merge_mysql, merge_rings, reasons_of, worst
from gateway.reload.compare import Outcome
from gateway.reload.reload import weigh
from gateway.reload.runtime_config import RuntimeConfig, with_token_keys
from sharding.health_verdict import Reason, Status, Verdict
from sharding.shown import Node, Ring
from tests.support.serving import SERVICE_KEY, a_config, a_pair


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({1: "ready", 2: "ready"}, "ready"),
        ({1: "ready", 2: "degraded"}, "degraded"),
        ({1: "degraded", 2: "unavailable"}, "unavailable"),
        ({1: "ready", 2: "draining"}, "draining"),
        ({1: "ready"}, "degraded"),
        ({2: "unavailable"}, "unavailable"),
        ({}, "unavailable"),
    ],
)
def test_the_gateway_is_as_ready_as_its_worst_worker(
    answers: dict[int, Status], expected: str
) -> None:
    verdict = worst({n: (s, []) for n, s in answers.items()}, workers=2)
    assert verdict.status == expected
    assert verdict.reasons == [f"worker {n} does not answer" for n in (1, 2) if n not in answers]


def test_a_reason_that_all_workers_give_is_reported_once() -> None:
    a, b = Reason("nodes", "a is out"), Reason("errors", "requests fail")
    answers: dict[int, tuple[Status, list[Reason]]] = {
        1: ("degraded", [a]),
        2: ("degraded", [a, b]),
    }
    peer = Reason("peers", "the gateway http://b does not answer")
    assert worst(answers, 2, [peer]) == Verdict("degraded", [b, a, peer])


def test_a_reason_with_different_details_is_reported_once_with_the_greatest_age() -> None:
    young = Reason("nodes", "lookup node a is out of the ring: refused", age=2)
    old = Reason("nodes", "lookup node a is out of the ring: timeout", age=9)
    verdict = worst({1: ("degraded", [old]), 2: ("degraded", [young])}, 2)
    assert (verdict.reasons, verdict.ages) == ([old.text], [9])


def test_a_worker_s_answer_tells_which_reason_stops_requests() -> None:
    why = ["changes do not commit: disk", "lookup node a is out of the ring"]
    body = Readiness("unavailable", why, ["disk", "nodes"], [4.0, 9.0])
    said = reasons_of(body)
    assert [(one.kind, one.stops, one.age) for one in said] == [
        ("disk", True, 4.0),
        ("nodes", False, 9.0),
    ]
    assert not any(one.stops for one in reasons_of(replace(body, status="degraded")))


def test_a_gateway_whose_peer_does_not_answer_is_degraded() -> None:
    peer = Reason("peers", "the gateway http://b does not answer")
    assert worst({1: ("ready", [])}, 1, [peer]).status == "degraded"


def ring(generation: int, since: str = "", **states: Literal["live", "ejected"]) -> Ring:
    return Ring(
        generation,
        [Node(name, name, 1, state, since, None, None, 0, 1) for name, state in states.items()],
    )


def test_a_node_that_any_worker_has_ejected_is_shown_ejected() -> None:
    merged = merge_rings(
        [
            ring(1, a="live", b="ejected", c="live"),
            ring(2, a="live", b="live", c="ejected"),
        ]
    )
    assert merged == ring(2, a="live", b="ejected", c="ejected")


async def test_a_reload_applies_what_it_can_and_names_what_needs_a_restart() -> None:
    live = RuntimeConfig(a_config())
    new = a_config(
        log={"level": "error"},
        player={"skip_limit": 5},
        auth={"service_keys": ["a-new-key"]},
        gateway={"port": 9999},
    )
    step = await weigh(live.config, 1, new)
    assert step.outcome == Outcome(
        changed=["auth.service_keys", "log.level", "player.skip_limit"],
        needs_restart=["gateway.port"],
    )
    assert live.config.player.skip_limit == 2
    live.replace(step.merged)
    assert live.config.player.skip_limit == 5
    assert live.config.gateway.port == 8080
    assert live.is_service("Bearer a-new-key")
    assert not live.is_service(f"Bearer {SERVICE_KEY}")
    assert (await weigh(live.config, 1, new)).outcome == Outcome([], ["gateway.port"])


async def test_a_rotated_token_key_signs_and_the_old_one_still_verifies() -> None:
    live = RuntimeConfig(a_config())
    old = live.tokens.issue(5, now=0)
    new = a_config(auth={"token_keys": ["n" * 32, "k" * 32]})
    live.replace((await weigh(live.config, 1, new)).merged)
    assert live.tokens.verify(old, now=1).user_id == 5
    assert live.tokens.issue(5, now=0) != old


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("Bearer {key}", True),
        ("bearer  {key} ", True),
        ("Bearer another-key", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("{key}", False),
        ("Basic {key}", False),
        ("Bearer {key}x", False),
        ("Bearer {shorter}", False),
        ("Bearer \udcff", False),
    ],
)
def test_only_a_bearer_header_with_a_service_key_is_accepted(
    header: str | None, good: bool
) -> None:
    if header is not None:
        header = header.format(key=SERVICE_KEY, shorter=SERVICE_KEY[:-1])
    assert RuntimeConfig(a_config()).is_service(header) is good


def test_a_configuration_reaches_a_worker_unchanged() -> None:
    config = with_token_keys(a_config(mysql={"password": "p" * 8}), "unused")
    assert Sections.model_validate(plain(config)) == config


def test_a_generated_token_key_is_used_only_if_none_is_configured() -> None:
    empty = a_config(auth={"token_keys": []})
    assert with_token_keys(empty, "x" * 64).auth.token_keys == (SecretStr("x" * 64),)
    assert with_token_keys(a_config(), "x" * 64) == a_config()


def test_a_configuration_is_shown_without_its_secrets() -> None:
    shown = str(masked(a_config(mysql={"password": "hunter22"}, admin={"token": "t0ken"})))
    for secret in (SERVICE_KEY, "k" * 32, "hunter22", "t0ken", "another-key"):
        assert secret not in shown
    assert "***" in shown


def test_a_node_counts_as_ejected_since_the_first_worker_ejected_it() -> None:
    rings = {
        1: ring(1, "2026-01-01T00:00:01+00:00", a="live"),
        2: ring(1, "2026-01-01T00:00:09+00:00", a="ejected"),
        3: ring(1, "2026-01-01T00:00:07+00:00", a="ejected"),
    }
    assert ejected(rings) == {"a": ([2, 3], "2026-01-01T00:00:07+00:00")}


def test_mysql_is_shown_as_the_worst_worker_sees_it() -> None:
    def pair(
        primary: str | None,
        waiting: int,
        redundant: bool = True,
        committed: float | None = 0.5,
    ) -> MySQL:
        return a_pair(primary, waiting=waiting, redundant=redundant, committed=committed)

    merged = merge_mysql([pair("db1", 1), pair(None, 5), pair("db1", 0, redundant=False)])
    assert (merged.primary, merged.waiting) == (None, 6)
    assert merge_mysql([pair("db1", 1), pair("db1", 0, redundant=False)]).redundant is False
    seen = [pair("db1", 0, committed=0.2), pair("db1", 0, committed=7.0)]
    assert merge_mysql(seen).committed == 7.0
    assert merge_mysql([*seen, pair("db1", 0, committed=None)]).committed is None
