"""What the pages of drills share: one file each, which needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from drills.result import INTERRUPTED, NOT_STEADY

VERDICTS = {
    "held": ("held", "every promise held"),
    "broken": ("broken", "a promise was broken"),
    NOT_STEADY: ("broken", NOT_STEADY),
    INTERRUPTED: ("broken", "interrupted: no verdict"),
}
"""By outcome, the class of its badge and what that says."""

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
h1 span, .badge { font-size: .9rem; font-weight: 600; padding: .15rem .6rem; border-radius: 1rem;
  color: var(--paper); white-space: nowrap; }
h1 span { margin-left: .5rem; vertical-align: middle; }
.held { background: var(--good); } .broken { background: var(--bad); }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p { color: var(--soft); margin-top: 0; } p.lead { color: var(--ink); }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
td.n, th.n { text-align: right; white-space: nowrap; }
.whole { white-space: nowrap; }
code { font-size: .9em; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg .fault { fill: var(--fault); }
svg .fault-ink { fill: var(--fault-ink); } svg .bar { fill: var(--bar); }
svg .failed { fill: var(--bad); }
svg .p50 { stroke: var(--p50); } svg .p99 { stroke: var(--p99); }
svg .mark { stroke: var(--fault-ink); stroke-dasharray: 2 3; }
svg .objective { stroke: var(--bad); stroke-dasharray: 6 4; }
"""


def page(title: str, body: str) -> str:
    """A whole page; the body is HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are numbers. Cells are HTML."""
    first = len(head) - numbers

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if index >= first else ''}>{value}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    headed = f"<tr>{cells('th', head)}</tr>\n" if any(head) else ""
    return f'<div class="scroll"><table>{headed}{body}</table></div>'
