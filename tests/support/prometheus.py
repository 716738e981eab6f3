"""The real Prometheus with deploy/prometheus/rules.yml, which scrapes given gateways."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import yaml

from stack.process import Child, free_port

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "rules.yml"


class Prometheus(Child):
    """A Prometheus process, which runs while the context is entered.

    Args:
        targets: the gateways' admin addresses, `host:port`.
        folder: for its data and its log.
    """

    def __init__(self, targets: Sequence[str], folder: Path) -> None:
        super().__init__("prometheus", folder / "prometheus.log", None)
        self._folder = folder
        self._targets = list(targets)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Prometheus:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "tapedeck", "static_configs": [{"targets": self._targets}]}
            ],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        program = shutil.which("prometheus")
        assert program is not None, "prometheus is not installed: make test installs it"
        self.spawn(
            [
                program,
                f"--config.file={self._folder}/prometheus.yml",
                f"--storage.tsdb.path={self._folder}/tsdb",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(10)

    async def ask(self, path: str, **query: str) -> Any:
        """Send its API a request; return the `data` of the answer.

        Raises:
            AssertionError: the answer is an error.
        """
        async with (
            aiohttp.ClientSession(self.url) as http,
            http.get(f"/api/v1/{path}", params=query) as answer,
        ):
            body = await answer.json()
        assert body["status"] == "success", f"{query}: {body}"
        return body["data"]

    async def query(self, expression: str) -> list[Any]:
        """The present result of an expression."""
        found: list[Any] = (await self.ask("query", query=expression))["result"]
        return found

    async def alerts(self) -> dict[str, str]:
        """The alerts that are not silent, each with its state: `pending` or `firing`."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}

    async def until(self, wanted: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Call a coroutine function until its result is true; return that result."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := await wanted():
                    return found
            except (aiohttp.ClientError, OSError):
                assert self.running, self.log_end()
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
            await asyncio.sleep(0.2)
