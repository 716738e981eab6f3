"""What a drill shows while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from drills.client import Client
from drills.measure import FINE, percentile


class Progress:
    """Use as a context; `tell` and `watch` are what a drill is given."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._client: Client | None = None
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._line, refresh_per_second=4, transient=True
            )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, client: Client) -> None:
        """The load's numbers are here."""
        self._client = client

    def tell(self, text: str) -> None:
        """Something happened; called from any thread."""
        at = time.monotonic() - self._began
        self._console.print(Text(f"  {at:6.1f} s  {text}"), soft_wrap=True)

    def _line(self) -> Text:
        client = self._client
        if client is None:
            return Text("  starting ...")
        now = client.now()
        recent = []
        for one in reversed(client.tries):
            if one.ended < now - 1:
                break
            recent.append(one)
        latencies = sorted((one.ended - one.due) * 1000 for one in recent if one.last)
        failed = sum(one.met not in FINE for one in recent)
        text = Text(f"  {now:6.1f} s  {len(recent) - failed} answers/s  ")
        text.append(f"{failed} errors/s", style="red" if failed else "")
        text.append(f"  p50 {percentile(latencies, 0.5):.0f} ms")
        text.append(f"  p99 {percentile(latencies, 0.99):.0f} ms")
        return text
