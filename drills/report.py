"""A drill's report: one HTML page with the time line as a picture, and JSON for scripts."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from pathlib import Path

from drills import archive
from drills.checker import Wrong
from drills.html import VERDICTS, page, table
from drills.measure import FINE, Met
from drills.picture import picture
from drills.result import Result, ms

_WORDS = {
    Wrong.LOST: "changes lost",
    Wrong.UNDONE: "changes undone",
    Wrong.DOUBLED: "changes doubled",
    Wrong.REORDERED: "changes reordered",
    Wrong.WENT_BACK: "states that went back",
    Wrong.VERSION: "wrong versions",
    Wrong.UNTRUE: "untrue answers",
    Wrong.ROWS: "states without exactly one row",
}


def write(result: Result, out: Path) -> Path:
    """Write `report.html` and `report.json` into a folder of their own below `out`, and bring the
    index there up to date; the page's path."""
    folder = archive.folder(out, result.scenario.name, result.began)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    file = folder / "report.html"
    file.write_text(render(result))
    archive.renew(out)
    return file


def render(result: Result) -> str:
    """The page."""
    name, about = escape(result.scenario.name), result.scenario.about
    kind, badge = VERDICTS[result.outcome]
    lead = "" if result.ended else escape(_capital("; ".join(result.sentences))) + "."
    parts = [
        f'<header><h1>{name} <span class="{kind}">{badge}</span></h1>',
        f"<p>{escape(_capital(about))}. Began {result.began:%Y-%m-%d %H:%M:%S} UTC; all times are",
        "seconds since then. <a href='../index.html'>All runs</a></p>",
        f'<p class="lead">{lead}</p></header>',
        _section("Promises", _findings(result)),
        _section("Time line", picture(result)),
        _section("What happened", _marks(result)),
        _breaches(result),
        _section("Numbers", _numbers(result)),
        _section("Circumstances", _circumstances(result)),
    ]
    return page(f"Drill {result.scenario.name}: {result.outcome}", "\n".join(parts))


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _findings(result: Result) -> str:
    rows = [
        [
            f'<span class="{"good" if f.held else "bad"}">{"held" if f.held else "broken"}</span>',
            escape(f.promise),
            escape(f.measured),
        ]
        for f in result.findings
    ]
    return table(["", "promise", "measured"], rows) if rows else ""


def _numbers(result: Result) -> str:
    latency = table(
        ["latency, from when a request was due", "requests", "p50", "p99", "longest"],
        [
            [escape(name), str(w.requests), *(ms(v) for v in (w.p50, w.p99, w.longest))]
            for name, w in result.windows.items()
            if w.requests
        ],
        numbers=4,
    )
    rows = [[escape(name), str(count)] for name, count in _counts(result)]
    return latency + table(["count", ""], rows, numbers=1)


def _counts(result: Result) -> list[tuple[str, object]]:
    """What was counted; what was counted and found nothing is one row."""
    verdict = result.verdict
    met = Counter(t.met for t in result.tries)
    breaches = {_WORDS[wrong]: verdict.count(wrong) for wrong in Wrong}
    errors = {f"requests: {m.value}": met[m] for m in Met if m not in FINE}
    refused = {f"503 said: {text}": n for text, n in result.refusals.items()}
    logged = {f"logged as an error: {event}": n for event, n in result.log_errors.items()}
    counts: list[tuple[str, object]] = [
        *((f"requests: {m.value}", met[m]) for m in Met if m in FINE and met[m]),
        *((name, count) for name, count in (errors | refused).items() if count),
        ("states read back", verdict.states),
        ("acknowledged changes", verdict.acknowledged),
    ]
    if verdict.unknown:
        counts.append(("changes without an answer, which may have happened", verdict.unknown))
    counts += [(name, count) for name, count in (breaches | logged).items() if count]
    nothing = [name for name, count in breaches.items() if not count]
    nothing += ["requests that failed"] if not any(errors.values()) else []
    nothing += ["errors in the gateways' logs"] if not logged else []
    if nothing and not result.ended:
        counts.append((", ".join(nothing), 0))
    return counts


def _marks(result: Result) -> str:
    rows = [[f"{mark.at:.2f}&nbsp;s", escape(mark.text)] for mark in result.timeline]
    return table(["time", ""], rows)


def _circumstances(result: Result) -> str:
    steps = f"{result.rate:g} steps a second, {len(result.tries)} requests"
    gateways = len({t.gateway for t in result.tries})
    rows = [
        ["again", f"<code>{escape(result.command)}</code>"],
        ["load", f"{steps} through {gateways} gateways, seed {result.seed}"],
        *([escape(name), escape(text)] for name, text in result.circumstances.items()),
    ]
    return table(["", ""], rows)


def _breaches(result: Result) -> str:
    broken = [
        [escape(b.wrong.name.lower()), escape(b.key), escape(b.text)]
        for b in result.verdict.breaches[:50]
    ]
    surprises = [[escape(text)] for text in result.surprises]
    return "".join(
        _section(title, table(head, rows))
        for title, head, rows in (
            ("Broken invariants", ["", "of", "what"], broken),
            ("Unexpected answers", ["answer"], surprises),
        )
        if rows
    )
