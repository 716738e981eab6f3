"""All log events have one style: a noun, then a verb in the past; values are in fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "sharding", "failover", "config", "cli")
LOGGERS = ("log", "_log")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
IRREGULAR = ("begun", "died", "found", "left", "lost", "read", "written")
PASSES_ON = ROOT / "gateway/http/failure_log.py"
"""It logs events that its callers name; the calls of `note` are checked instead."""


def events_of(source: str) -> Iterator[tuple[int, ast.expr | None]]:
    """The line and the event of each log call."""
    for call in ast.walk(ast.parse(source)):
        match call:
            case ast.Call(ast.Attribute(ast.Name(logger), method)) if logger in LOGGERS:
                if method in LEVELS:
                    yield call.lineno, call.args[0] if len(call.args) == 1 else None
                elif method == "log":
                    yield call.lineno, call.args[1] if len(call.args) == 2 else None
            case ast.Call(ast.Attribute(ast.Attribute(attr="_failures"), "note")):
                yield call.lineno, call.args[1]


def problem_of(event: ast.expr | None) -> str:
    """Why an event is not in the style; empty if it is."""
    if event is None:
        return "fields are keyword arguments"
    if isinstance(event, ast.IfExp):
        return problem_of(event.body) or problem_of(event.orelse)
    if not isinstance(event, ast.Constant) or not isinstance(event.value, str):
        return "the event is a constant string; what varies is in fields"
    words = event.value.split(" ")
    if not re.fullmatch(r"[a-z]+( [a-z]+)+", event.value) or words[0] in ("a", "an", "the", "not"):
        return f"{event.value!r} does not start with a noun in lower case"
    if not words[-1].endswith("ed") and words[-1] not in IRREGULAR:
        return f"{event.value!r} does not end with a verb in the past"
    return ""


def test_log_events_are_a_noun_and_a_verb_in_the_past():
    problems, seen = [], 0
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == PASSES_ON:
                continue
            for line, event in events_of(path.read_text()):
                seen += 1
                if problem := problem_of(event):
                    problems.append(f"{path.relative_to(ROOT)}:{line}: {problem}")
    assert not problems
    assert seen > 60


@pytest.mark.parametrize(
    "call",
    [
        'log.info("reloading")',
        'log.info("a reload refused")',
        'log.info("Reload refused")',
        'log.info("reload refused: %s", why)',
        'log.info("reload refused", why)',
        'log.info(f"reload of {name} refused")',
        'self._failures.note(40, "failing", route, error)',
    ],
)
def test_a_log_call_in_another_style_is_found(call: str):
    ((_, event),) = events_of(call)
    assert problem_of(event)
