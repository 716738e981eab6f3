"""Finds the commands on Markdown pages. The only I/O is reading the pages."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ *```(\w*)$")
_PROGRAM = re.compile(r"^[A-Za-z_./~][\w./@-]*$")
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")
SHELL = {"until", "for", "if", "date"}
ELSEWHERE = {"docker", "kubectl", "tapedeck"}
"""Programs that pages type, and that a test machine may lack."""


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        page: the file's path, relative to the top folder.
        line: the number of its line in the file.
        text: the command, with continuation lines joined.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(text: str) -> list[tuple[int, list[str]]]:
    """Find the fenced blocks of shell commands, and blocks after an empty line that are indented by
    four or more: the number of the first line, and the lines without their indentation."""
    found: list[tuple[int, list[str]]] = []
    fence: str | None = None
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _FENCE.match(line):
            if fence is None:
                fence = match[1]
                if fence in ("sh", "console", "bash"):
                    found.append((number + 1, []))
            else:
                fence = None
        elif fence is not None:
            if fence in ("sh", "console", "bash"):
                found[-1][1].append(line.strip())
        elif line.startswith("    ") and line.strip():
            if not before.strip():
                found.append((number, []))
            elif not (found and found[-1][0] + len(found[-1][1]) == number):
                before = line
                continue  # this line continues a paragraph or an item of a list
            found[-1][1].append(line.strip())
        before = line
    return found


def is_shell(line: str, not_here: re.Pattern[str]) -> bool:
    """Whether a block that begins with this line has commands.

    Args:
        not_here: matches the beginnings of commands whose program a test machine may lack.
    """
    if not_here.match(line):
        return True
    word = line.split()[0]
    if _ASSIGNMENT.match(word):
        return True
    if not _PROGRAM.match(word):
        return False
    return word in SHELL | ELSEWHERE or "/" in word or shutil.which(word) is not None


def commands(path: Path, root: Path, not_here: re.Pattern[str]) -> tuple[list[Command], list[str]]:
    """The commands of a page, and the first line of each block without commands.

    Args:
        not_here: matches the beginnings of commands whose program a test machine may lack.
    """
    page = str(path.relative_to(root))
    found: list[Command] = []
    others = []
    for first, lines in blocks(path.read_text()):
        if not is_shell(lines[0], not_here):
            others.append(lines[0])
            continue
        joined, start = "", first
        for number, line in enumerate(lines, first):
            joined += line
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            found.append(Command(page, start, joined))
            joined, start = "", number + 1
    return found, others
