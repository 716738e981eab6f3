"""Alert rules, dashboard and runbooks fit each other and what a gateway exports.

A new metric, alert or panel needs no change here: the tests read the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import REGISTRY

from config.model import Objective
from gateway import health, telemetry
from gateway.api.endpoints import CLASSES, ENDPOINTS
from gateway.process import supervisor
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.deploy.test_files import run
from tests.support.gateways import Gateway, put_mixes
from tests.support.prometheus import Prometheus
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "tapedeck.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PAGES = sorted(RUNBOOKS.glob("Tapedeck*.md"))
SECTIONS = ["What it means", "What to look at", "What to type"]
REGISTERED = (health, supervisor)
"""Importing these modules registers every metric of a gateway."""
NO_SERIES = re.compile(
    r"ALERTS|haproxy_|changes\(|> 0|status=~\"\[45\]|(lookup_node_(failures|ejections|returns)"
    r"|mysql_errors|batch_fallbacks|reloads|restarts|capacity_evicted)"
)
"""Matches queries that have no result for healthy gateways without a balancer."""

_METRIC = re.compile(r"(?<![.\w])(?:tapedeck|process|python)_[a-z0-9_]+")
_SELECTOR = re.compile(r"\b((?:tapedeck|process)_[a-z0-9_]+)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    # Grafana fills these in.
    return [
        expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        for expression in found
    ]


def expressions() -> list[tuple[str, str]]:
    """Every PromQL expression, after the name of its rule, or `the dashboard`."""
    found = [(str(rule.get("alert") or rule["record"]), str(rule["expr"])) for rule in RULES]
    return found + [("the dashboard", query) for query in dashboard_queries()]


@cache
def exported() -> dict[str, set[str]]:
    """The label names of every series that a gateway can export, by the series' name."""
    series: dict[str, set[str]] = {}
    for collector in list(REGISTRY._collector_to_names):
        of_collector = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            labels = of_collector | set(getattr(family, "_labelnames", ()))
            names = {family.name}
            if family.type == "counter":
                names = {f"{family.name}_total"}
            if family.type == "histogram":
                names = {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
            for name in names:
                of_samples = {key for sample in family.samples for key in sample.labels}
                series[name] = labels | of_samples | {"worker", "job", "instance"}
                if name.endswith("_bucket"):
                    series[name].add("le")
    return series


# --- the files


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yml")
    run("promtool", "test", "rules", PROMETHEUS / "rules_test.yml")


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_promtool_accepts_the_configurations(name: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    text = re.sub(r"/run/secrets/[\w/]+", str(token), (PROMETHEUS / name).read_text())
    config = yaml.safe_load(text)
    for job in config["scrape_configs"]:
        # Debian's Prometheus is built without service discovery in Kubernetes.
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["127.0.0.1:8081"]}]
    (tmp_path / name).write_text(yaml.safe_dump(config))
    (tmp_path / "rules.yml").write_text((PROMETHEUS / "rules.yml").read_text())
    assert "SUCCESS" in run("promtool", "check", "config", tmp_path / name)


def test_each_alert_has_a_severity_a_runbook_and_a_summary() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert rule["annotations"]["summary"]


def test_each_alert_fires_in_one_test_of_the_rules_and_is_silent_in_another() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]:
        for test in case["alert_rule_test"]:
            (fires if test.get("exp_alerts") else silent).add(test["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert fires == names
    assert silent >= names


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert [page.stem for page in PAGES] == sorted(rule["alert"] for rule in ALERTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_means_what_to_look_at_and_what_to_type(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^# (.*)", text, re.MULTILINE) == [page.stem]
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[:3] == SECTIONS
    for title in SECTIONS:
        body = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert len(body.split()) > 10, f"{title} has ten words or fewer"
    assert re.search(r"^(    |```sh)", text.partition("## What to type")[2], re.MULTILINE)
    known = exported().keys() | {name.removesuffix("_bucket") for name in exported()}
    # `tapedeck metrics` takes the beginning of a name, with or without `tapedeck_`.
    known |= {name.removeprefix("tapedeck_") for name in known}
    for name in _METRIC.findall(text):
        assert any(k.startswith(name) for k in known), f"no gateway exports {name}"


# --- against what is exported


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_an_expression_asks_for_what_is_exported(where: str, expression: str) -> None:
    for name in _METRIC.findall(expression):
        assert name in exported(), f"{where}: no gateway exports {name}"
    for name, matchers in _SELECTOR.findall(expression):
        for label in _MATCHER.findall(re.sub(r'"[^"]*"', '""', matchers)):
            assert label in exported()[name], f"{where}: {name} has no label {label}"
    for name in re.findall(r"\btapedeck:[a-z0-9_:]+", expression):
        assert name in RECORDED, f"{where}: no rule records {name}"


def test_only_the_routes_of_the_player_and_the_states_api_have_a_class() -> None:
    for endpoint in ENDPOINTS:
        assert (endpoint.path in CLASSES) == (endpoint.api in ("player", "states"))
    assert CLASSES["/sets/new"] != CLASSES["/sets/{play_token}/play"], "/sets/new needs no MySQL"


def test_the_objectives_latency_is_a_bound_of_the_histogram() -> None:
    assert Objective().latency / 1000 in telemetry.BOUNDS


def test_the_dashboards_panels_do_not_overlap_and_each_has_a_unit_and_a_query() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in panels():
        assert panel["targets"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


# --- a real Prometheus in front of real gateways


@pytest.fixture
def gateways(stack_config: StackConfig, tmp_path: Path) -> Iterator[list[Gateway]]:
    """Two gateways: one of a single process, one with two workers."""
    documents = [stack_config(lookup={"server_retry_timeout": 500}) for _ in range(2)]
    put_mixes(documents[0], [a_mix(1, tracks=50)])
    with (
        Gateway(documents[0], tmp_path) as alone,
        Gateway(documents[1], tmp_path, "--workers", "2") as fleet,
    ):
        yield [alone, fleet]


@pytest.fixture
async def listening(gateways: list[Gateway]) -> AsyncIterator[None]:
    """Runs new listeners at every worker during the test."""
    over = False

    async def listen(gateway: Gateway) -> None:
        while not over:
            # A new connection each time: the kernel gives each to a worker at random.
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with aiohttp.ClientSession(gateway.url) as http:
                    async with http.get("/sets/new") as answer:
                        token = (await answer.json())["play_token"]
                    for path in ("play", "next"):
                        async with http.get(f"/sets/{token}/{path}?mix_id=1") as answer:
                            await answer.read()
            await asyncio.sleep(0.05)

    listeners = [asyncio.create_task(listen(gateway)) for gateway in gateways]
    yield
    over = True
    await asyncio.gather(*listeners)


@pytest.mark.usefixtures("listening")
async def test_alerts_are_silent_over_healthy_gateways_and_fire_when_a_part_is_lost(
    gateways: list[Gateway],
    mysql: MariaDB,
    lookup_servers: list[RedisServer],
    tmp_path: Path,
) -> None:
    (tmp_path / "prometheus").mkdir()
    targets = [gateway.admin.removeprefix("http://") for gateway in gateways]
    with Prometheus(targets, tmp_path / "prometheus") as prometheus:

        async def measured() -> bool:
            ratio = await prometheus.query("tapedeck:slow_ratio:rate5m")
            return bool(ratio) and len(await prometheus.query("up == 1")) == 2

        await prometheus.until(measured, "two gateways are measured")
        # A busy test machine may starve the gateways.
        assert set(await prometheus.alerts()) <= {"TapedeckStarved"}

        # Every query of the dashboard has a result, except those about what did not happen.
        async def answered() -> bool:
            asked = [q for q in dashboard_queries() if not NO_SERIES.search(q)]
            nonlocal empty
            empty = [query for query in asked if not await prometheus.query(query)]
            return not empty

        empty: list[str] = []
        with contextlib.suppress(AssertionError):
            await prometheus.until(answered, "the dashboard's queries have results")
        assert empty == []

        async def fires(alert: str) -> bool:
            return alert in await prometheus.alerts()

        for gateway in gateways:
            gateway.config.write_text("nonsense: 1\n")
            gateway.send(signal.SIGHUP)
        refused = 'count(ALERTS{alertname="TapedeckReloadRefused"}) == 2'
        await prometheus.until(lambda: prometheus.query(refused), "alerts of the first refusals")

        for server in lookup_servers[:2]:
            server.kill()
        await prometheus.until(lambda: fires("TapedeckLookupsLost"), "an alert of lookup nodes")
        tickets = {"TapedeckLookupNodeOut", "TapedeckHintsLate", "TapedeckStarved"}
        assert set(await prometheus.alerts()) - tickets - {"TapedeckReloadRefused"} == {
            "TapedeckLookupsLost"
        }

        mysql.kill()
        await prometheus.until(lambda: fires("TapedeckMySQLPrimaryLost"), "an alert of the primary")
        for gateway in gateways:
            gateway.kill()
        await prometheus.until(lambda: fires("TapedeckGatewaysDown"), "an alert of the gateways")
