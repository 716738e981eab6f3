"""The commands that stand in Markdown pages. No I/O but reading them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ *```(\w*)$")
_PROMPT_FREE = re.compile(r"^[A-Za-z_./~][\w./@-]*$")
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")
SHELL = {"until", "for", "if", "date"}


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        page: the file it stands in, from the top folder.
        line: its number there.
        text: as it is typed, continuation lines joined.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(text: str) -> list[tuple[int, list[str]]]:
    """Fenced blocks of shell, and blocks that are indented by four or more after an empty line:
    the number of the first line, and the lines without their indentation."""
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
                continue  # goes on a line of text or of a list
            found[-1][1].append(line.strip())
        before = line
    return found


def is_shell(line: str, not_here: re.Pattern[str]) -> bool:
    """Whether a block that begins with this line is something to type."""
    if not_here.match(line):
        return True
    word = line.split()[0]
    if _ASSIGNMENT.match(word):
        return True
    if not _PROMPT_FREE.match(word):
        return False
    return word in SHELL or "/" in word or shutil.which(word) is not None or word == "tapedeck"


def commands(path: Path, root: Path, not_here: re.Pattern[str]) -> tuple[list[Command], list[str]]:
    """The commands of a page, and the first lines of the blocks that are none.

    Args:
        not_here: how commands begin whose program a test machine may lack.
    """
    page = str(path.relative_to(root))
    found: list[Command] = []
    pictures = []
    for first, lines in blocks(path.read_text()):
        if not is_shell(lines[0], not_here):
            pictures.append(lines[0])
            continue
        joined, start = "", first
        for number, line in enumerate(lines, first):
            joined += line
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            found.append(Command(page, start, joined))
            joined, start = "", number + 1
    return found, pictures
