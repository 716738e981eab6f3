"""The time line of a drill as SVG: answers a second with failures, and latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log10

from drills.measure import Bucket, buckets, percentile
from drills.result import Result

_Scale = Callable[[float], float]
_WIDTH, _LEFT, _RIGHT = 960, 56, 12
_SLICE = 0.25
"""Seconds of a column of the picture."""


def picture(result: Result) -> str:
    """The time line as SVG: answers a second with failures, and latency on a logarithmic scale."""
    begin = result.begin
    slices = buckets(result.tries, _SLICE, begin, result.end)
    end = begin + len(slices) * _SLICE

    def x(seconds: float) -> float:
        share = (min(max(seconds, begin), end) - begin) / (end - begin)
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * share, 1)

    top, height = 30, 150
    second, tall = top + height + 64, 170
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH} {second + tall + 34}" role="img"'
            f' aria-label="Answers a second and latency over {end - begin:.0f} seconds">'
        ),
        *_fault(result, x, top, second + tall),
        *_throughput(slices, begin, x, top, height),
        *_latency(slices, x, second, tall, result),
        *_moments(result, x, top, top + height, second + tall),
        *_seconds(begin, end, x, second + tall),
        "</svg>",
    ]
    return "\n".join(parts)


def _fault(result: Result, x: _Scale, top: float, bottom: float) -> list[str]:
    if not result.injections:
        return []
    begin, over = x(result.injected), x(max(result.healed, result.injected))
    return [
        (
            f'<rect class="fault" x="{begin}" y="{top}" width="{max(2.0, over - begin):.1f}"'
            f' height="{bottom - top}"/>'
        ),
        f'<text class="fault-ink" x="{begin + 3}" y="{top - 8}">fault</text>',
    ]


def _moments(result: Result, x: _Scale, top: float, middle: float, bottom: float) -> list[str]:
    """Lines with a word each, which stand below each other between the two pictures."""
    moments = {"out of the ring": result.ejected, "served as before": result.recovered}
    if abs(result.over - result.healed) > 0.3:
        moments["outage over"] = result.over
    parts = []
    found = sorted((at, name) for name, at in moments.items() if at is not None)
    for number, (moment, name) in enumerate(found):
        at = x(moment)
        end = ' text-anchor="end"' if at > _WIDTH * 0.8 else ""
        parts.append(
            f'<line class="mark" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>'
            f'<text class="fault-ink" x="{at + (-3 if end else 3)}"{end}'
            f' y="{middle + 13 * (number + 1)}">{name}</text>'
        )
    return parts


def _throughput(
    slices: Sequence[Bucket], begin: float, x: _Scale, top: float, height: float
) -> list[str]:
    most = max((b.answered + b.failed) / _SLICE for b in slices) or 1.0
    bottom = top + height
    parts = [f'<text x="4" y="{top - 8}">answers a second (red: errors)</text>']
    parts += _grid([(0, "0"), (most, f"{most:.0f}")], lambda value: bottom - height * value / most)
    for number, one in enumerate(slices):
        left, right = x(begin + number * _SLICE), x(begin + (number + 1) * _SLICE)
        good = height * one.answered / _SLICE / most
        bad = height * one.failed / _SLICE / most
        for kind, low, size in (("bar", bottom, good), ("failed", bottom - good, bad)):
            if size:
                parts.append(
                    f'<rect class="{kind}" x="{left}" y="{low - size:.1f}"'
                    f' width="{max(0.5, right - left - 0.5):.1f}" height="{size:.1f}"/>'
                )
    return parts


def _latency(
    slices: Sequence[Bucket], x: _Scale, top: float, height: float, result: Result
) -> list[str]:
    """From 1 ms to 100 s: a second of an outage and a millisecond of a calm, in one picture."""
    bottom = top + height

    def y(ms: float) -> float:
        return round(bottom - height * min(5.0, max(0.0, log10(max(ms, 1.0)))) / 5, 1)

    labels = [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s")]
    parts = [
        (
            f'<text x="4" y="{top - 10}">latency by when a request was due: '
            '<tspan style="fill:var(--p50)">p50</tspan>, '
            '<tspan style="fill:var(--p99)">p99</tspan>; '
            '<tspan style="fill:var(--bad)">dashed: the objective</tspan>'
            "</text>"
        )
    ]
    parts += _grid(labels, y)
    wanted = y(result.objective * 1000)
    parts.append(
        f'<line class="objective" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{wanted}" y2="{wanted}"/>'
    )
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        points = [
            f"{x(result.begin + (number + 0.5) * _SLICE)},"
            f"{y(percentile(sorted(one.latencies), share))}"
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


def _seconds(begin: float, end: float, x: _Scale, bottom: float) -> list[str]:
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60) if (end - begin) / s <= 16), 120)
    return [
        f'<text x="{x(second)}" y="{bottom + 18}" text-anchor="middle">{second} s</text>'
        for second in range(0, int(end) + 1, step)
        if second >= begin
    ]
