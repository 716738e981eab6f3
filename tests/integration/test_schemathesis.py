"""schemathesis reads /openapi.json and sends valid and invalid requests to a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StackConfig
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

QUICK_SECONDS = 8
"""Seconds for each port in `make test`."""
LONG_SECONDS = 120
CONFIG = """
# A valid token; changed tokens have a test of their own (unit/test_token_fuzz.py).
[parameters]
play_token = "{token}"

# OpenAPI cannot express that exactly one of two conditions is needed, or that a parameter may be
# in the query or in the form but not in both.
[[operations]]
include-path-regex = "^/states/"
checks.positive_data_acceptance.expected-statuses = [200, 201, 204, 304, 400, 404, 409, 412, 428]

# Operations of the original service that this one does not have, and logins without a configured
# login service, answer 501.
[[operations]]
include-path-regex = "^/(sessions|(mixes|tracks|users)/.*/(.action.|mixes))$"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501]
checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 404, 501]

[[operations]]
include-method = "POST"
checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 403, 404, 409]
"""


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config()
    gateway = Gateway(document, tmp_path)
    put_mixes(document, [a_mix(1), a_mix(2, 1), a_mix(3, 8)])
    with gateway:
        yield gateway


def new_token(gateway: Gateway) -> str:
    with urllib.request.urlopen(f"{gateway.url}/sets/new") as answer:
        return str(json.load(answer)["play_token"])


def try_out(gateway: Gateway, folder: Path, port: str, tags: list[str], seconds: int) -> None:
    """Run schemathesis; fail with its report if it finds something."""
    url = gateway.admin if port == "admin" else gateway.url
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.replace("{token}", new_token(gateway)))
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    argv += ["run", f"{url}/openapi.json", "--url", url]
    for tag in tags:
        argv += ["--include-tag", tag]
    # An endless answer that is no JSON: tests/web reads it.
    argv += ["--exclude-path", "/dashboard/events"]
    argv += ["--header", f"Authorization: {gateway.key['Authorization']}"]
    argv += ["--max-time", str(seconds), "--no-color", "--warnings", "off"]
    argv += ["--continue-on-failure", "--generation-database", "none"]
    done = subprocess.run(
        argv,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 120,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert not gateway.lines("request failed")


PORTS = pytest.mark.parametrize(
    ("port", "tags"), [("gateway", ["player", "states", "description"]), ("admin", ["admin"])]
)


@PORTS
def test_each_port_does_what_its_description_says(
    gateway: Gateway, tmp_path: Path, port: str, tags: list[str]
) -> None:
    try_out(gateway, tmp_path, port, tags, QUICK_SECONDS)


@pytest.mark.long
@PORTS
def test_each_port_does_what_its_description_says_in_a_long_run(
    gateway: Gateway, tmp_path: Path, port: str, tags: list[str]
) -> None:
    try_out(gateway, tmp_path, port, tags, LONG_SECONDS)
