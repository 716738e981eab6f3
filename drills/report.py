"""A drill's report: one HTML page that needs nothing else, with the time line as a picture, and
JSON for scripts beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from math import log10
from pathlib import Path

from drills.measure import Bucket, buckets, percentile
from drills.result import Result

_Scale = Callable[[float], float]
_WIDTH, _LEFT, _RIGHT = 960, 56, 12
_SLICE = 0.25
"""Seconds of a column of the picture."""


def write(result: Result, folder: Path) -> Path:
    """Write `report.html` and `report.json` into a folder, which is made; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    page = folder / "report.html"
    page.write_text(render(result))
    return page


def render(result: Result) -> str:
    """The page."""
    name = escape(result.scenario.name)
    verdict = "held" if result.held else "broken"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drill {name}: {verdict}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{name} <span class="{verdict}">{_VERDICT[verdict]}</span></h1>
<p>{escape(result.scenario.about[:1].upper() + result.scenario.about[1:])}.
{result.began:%Y-%m-%d %H:%M:%S} UTC, {result.end:.0f} s, {result.rate:g} steps a second
through {len({t.gateway for t in result.tries})} gateways, seed {result.seed}.</p>
</header>
<h2>Promises</h2>
{_findings(result)}
<h2>Time line</h2>
{picture(result)}
<h2>Numbers</h2>
{_numbers(result)}
<h2>What happened</h2>
{_marks(result)}
{_breaches(result)}
</body>
</html>
"""


_VERDICT = {"held": "every promise held", "broken": "a promise was broken"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5b6570; --paper: #fff; --line: #d9dee3;
  --good: #1a7f4b; --bad: #c0262d; --fault: #f6c9a8; --fault-ink: #8a4300; --bar: #7aa7d8;
  --p50: #2f6f4f; --p99: #7a3fa0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaee; --soft: #9aa5b1; --paper: #14181c; --line: #333b44; --good: #55c48b;
    --bad: #ff7b7b; --fault: #5a3517; --fault-ink: #ffbd85; --bar: #3f6f9f; --p50: #6fd3a0;
    --p99: #c99bea; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h1 span { font-size: .9rem; font-weight: 600; padding: .15rem .6rem; border-radius: 1rem;
  margin-left: .5rem; vertical-align: middle; color: var(--paper); white-space: nowrap; }
.held { background: var(--good); } .broken { background: var(--bad); }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p { color: var(--soft); margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
td.n, th.n { text-align: right; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg .fault { fill: var(--fault); }
svg .fault-ink { fill: var(--fault-ink); } svg .bar { fill: var(--bar); }
svg .failed { fill: var(--bad); }
svg .p50 { stroke: var(--p50); } svg .p99 { stroke: var(--p99); }
svg .mark { stroke: var(--fault-ink); stroke-dasharray: 2 3; }
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are numbers. Cells are HTML."""
    first = len(head) - numbers

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if index >= first else ''}>{value}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>\n{body}</table>"


def _findings(result: Result) -> str:
    rows = [
        [
            f'<span class="{"good" if f.held else "bad"}">{"held" if f.held else "broken"}</span>',
            escape(f.promise),
            escape(f.measured),
        ]
        for f in result.findings
    ]
    return _table(["", "promise", "measured"], rows)


def _numbers(result: Result) -> str:
    verdict = result.verdict
    latency = _table(
        ["latency, ms from when a request was due", "requests", "p50", "p99", "longest"],
        [
            [escape(name), str(w.requests), f"{w.p50:g}", f"{w.p99:g}", f"{w.longest:g}"]
            for name, w in result.windows.items()
        ],
        numbers=4,
    )
    recovery = "never" if result.recovery is None else f"{result.recovery:.2f} s"
    counts: list[tuple[str, object]] = [
        ("states read back", verdict.states),
        ("acknowledged changes", verdict.acknowledged),
        ("changes without an answer, which may have happened", verdict.unknown),
        *((name.replace("_", " "), count) for name, count in verdict.counts.items()),
        ("worst gap without an answer", f"{result.worst_gap:.2f} s"),
        ("time to recover", recovery),
    ]
    met = result.as_json()["met"]
    counts += [(f"requests: {name.replace('_', ' ')}", count) for name, count in met.items()]
    rest = _table(["count", ""], [[escape(n), escape(str(c))] for n, c in counts], numbers=1)
    return latency + rest


def _marks(result: Result) -> str:
    rows = [[f"{mark.at:.2f} s", escape(mark.text)] for mark in result.marks]
    return _table(["time", ""], rows)


def _breaches(result: Result) -> str:
    return "".join(
        f"<h2>{title}</h2>{_table(['', 'of', 'what'], rows)}"
        for title, rows in (
            (
                "Broken invariants",
                [
                    [escape(b.wrong.name.lower()), escape(b.key), escape(b.text)]
                    for b in result.verdict.breaches[:50]
                ],
            ),
            ("Unexpected answers", [["", "", escape(text)] for text in result.surprises]),
        )
        if rows
    )


def picture(result: Result) -> str:
    """The time line as SVG: answers a second with failures, and latency on a logarithmic scale."""
    slices = buckets(result.tries, _SLICE, result.end)
    end = len(slices) * _SLICE

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds, 0), end) / end, 1)

    top, height = 30, 150
    second, tall = top + height + 46, 170
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH} {second + tall + 34}" role="img"'
            f' aria-label="Answers a second and latency over {end:.0f} seconds">'
        ),
        *_fault(result, x, top, second + tall),
        *_throughput(slices, x, top, height),
        *_latency(slices, x, second, tall),
        *_moments(result, x, top, second + tall),
        *_seconds(end, x, second + tall),
        "</svg>",
    ]
    return "\n".join(parts)


def _fault(result: Result, x: _Scale, top: float, bottom: float) -> list[str]:
    begin, over = x(result.injected), x(max(result.healed, result.injected))
    return [
        (
            f'<rect class="fault" x="{begin}" y="{top}" width="{max(2.0, over - begin):.1f}"'
            f' height="{bottom - top}"/>'
        ),
        f'<text class="fault-ink" x="{begin + 3}" y="{top - 8}">fault</text>',
    ]


def _moments(result: Result, x: _Scale, top: float, bottom: float) -> list[str]:
    parts = []
    moments = {"ejected": result.ejected, "over": result.over}
    for name, moment in moments.items():
        if moment is not None and abs(moment - result.healed) > 0.3:
            at = x(moment)
            parts.append(
                f'<line class="mark" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>'
                f'<text class="fault-ink" x="{at + 3}" y="{top + 12}">{name}</text>'
            )
    return parts


def _throughput(slices: Sequence[Bucket], x: _Scale, top: float, height: float) -> list[str]:
    most = max((b.answered + b.failed) / _SLICE for b in slices) or 1.0
    bottom = top + height
    parts = [f'<text x="4" y="{top - 8}">answers a second (red: errors)</text>']
    parts += _grid([(0, "0"), (most, f"{most:.0f}")], lambda value: bottom - height * value / most)
    for number, one in enumerate(slices):
        left, right = x(number * _SLICE), x((number + 1) * _SLICE)
        good = height * one.answered / _SLICE / most
        bad = height * one.failed / _SLICE / most
        for kind, low, size in (("bar", bottom, good), ("failed", bottom - good, bad)):
            if size:
                parts.append(
                    f'<rect class="{kind}" x="{left}" y="{low - size:.1f}"'
                    f' width="{max(0.5, right - left - 0.5):.1f}" height="{size:.1f}"/>'
                )
    return parts


def _latency(slices: Sequence[Bucket], x: _Scale, top: float, height: float) -> list[str]:
    """From 1 ms to 100 s: a second of an outage and a millisecond of a calm, in one picture."""
    bottom = top + height

    def y(ms: float) -> float:
        return round(bottom - height * min(5.0, max(0.0, log10(max(ms, 1.0)))) / 5, 1)

    labels = [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s")]
    parts = [
        (
            f'<text x="4" y="{top - 10}">latency by when a request was due: '
            '<tspan style="fill:var(--p50)">p50</tspan>, <tspan style="fill:var(--p99)">p99</tspan>'
            "</text>"
        )
    ]
    parts += _grid(labels, y)
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        points = [
            f"{x((number + 0.5) * _SLICE)},{y(percentile(sorted(one.latencies), share))}"
            for number, one in enumerate(slices)
            if one.latencies
        ]
        parts.append(
            f'<polyline class="{name}" fill="none" stroke-width="1.6" points="{" ".join(points)}"/>'
        )
    return parts


def _grid(labels: Sequence[tuple[float, str]], y: _Scale) -> list[str]:
    return [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{label}</text>'
        for value, label in labels
    ]


def _seconds(end: float, x: _Scale, bottom: float) -> list[str]:
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60) if end / s <= 16), 120)
    return [
        f'<text x="{x(second)}" y="{bottom + 18}" text-anchor="middle">{second} s</text>'
        for second in range(0, int(end) + 1, step)
    ]
