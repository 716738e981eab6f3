"""An overloaded worker answers what it accepts in time, and the admin port still answers."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.tokens import TokenKeys
from tests.conftest import StackConfig
from tests.support import pressure
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

CONNECTIONS = 1200
"""Connections to each gateway: far more than one worker answers within its target."""
WARM, SECONDS = 5, 12


def paths(document: dict[str, Any], folder: Path, listeners: range) -> Path:
    """Write a file with the requests of listeners who start a mix again and again."""
    keys = TokenKeys([document["auth"]["token_keys"][0].encode()], 86_400)
    tokens = [keys.issue(2**62 + n, time.time()) for n in listeners]
    file = folder / f"paths-{listeners.start}"
    file.write_text("\n".join(f"/sets/{token}/play?mix_id=3" for token in tokens))
    return file


def test_an_overloaded_worker_refuses_some_requests_and_answers_the_others_in_time(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    """Two gateways get the same load at the same time, and only one refuses requests: so the
    comparison does not depend on the machine."""
    plain = stack_config(limits={"queueing_target": None})
    limited = stack_config(limits={"queueing_target": 10})
    put_mixes(plain, [a_mix(3, 8)])
    gateways = [Gateway(document, tmp_path) for document in (plain, limited)]
    waits = []
    with gateways[0], gateways[1]:
        loads = [
            pressure.start(
                gateway.document["gateway"]["port"],
                paths(plain, tmp_path, range(10_000 * n, 10_000 * n + 3000)),
                connections=CONNECTIONS,
                seconds=SECONDS,
                warm=WARM,
            )
            for n, gateway in enumerate(gateways)
        ]
        try:
            while any(load.poll() is None for load in loads):
                started = time.monotonic()
                with urllib.request.urlopen(f"{gateways[1].admin}/readyz", timeout=20) as answer:
                    assert answer.status == 200
                waits.append(time.monotonic() - started)
                time.sleep(0.1)
        finally:
            for load in loads:
                load.kill()
        without, shed = (json.loads(load.communicate()[0]) for load in loads)
    print("without", without, "with", shed, "readyz", sorted(waits)[len(waits) // 2], max(waits))
    assert without["statuses"].keys() == {"200"}
    assert shed["statuses"].keys() == {"200", "503"}
    assert not shed["broken"]
    # Many requests are still answered ...
    assert shed["statuses"]["200"] > 0.2 * without["statuses"]["200"]
    # ... accepted ones do not wait for all others ...
    assert shed["p50"] < 0.7 * without["p50"]
    assert shed["p99"] < 0.9 * without["p99"]
    # ... and operators are answered earlier than listeners of the other gateway.
    assert sorted(waits)[len(waits) // 2] < without["p50"]
    assert gateways[1].lines("overload started")
