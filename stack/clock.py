"""Shifts the wall clock of a process, with a library that is built from clock.c in this folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from stack.process import ServerFailed

_SOURCE = Path(__file__).resolve().with_name("clock.c")
HOW_TO_GET_A_COMPILER = (
    "a clock is shifted by a library that is built here, and there is no C compiler: "
    "apt-get install gcc libc6-dev"
)


def shifted_by(file: Path) -> dict[str, str]:
    """The environment variables that shift a process's clock by the seconds in a file, which may be
    rewritten at any time. The library is built beside that file.

    Raises:
        ServerFailed: there is no C compiler, or it failed.
    """
    library = file.with_name("clock.so")
    if not library.exists():
        _build(library)
    return {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(file)}


def _build(library: Path) -> None:
    if shutil.which("cc") is None:
        raise ServerFailed(HOW_TO_GET_A_COMPILER)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        new = Path(folder) / library.name
        argv = ["cc", "-shared", "-fPIC", "-O2", "-o", str(new), str(_SOURCE), "-ldl"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"{_SOURCE.name} cannot be built:\n{done.stderr}")
        new.replace(library)
