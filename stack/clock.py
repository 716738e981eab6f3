"""The library that shifts MySQL's clock: built from clock.c beside this file, once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from stack import engines
from stack.process import ServerFailed

_SOURCE = Path(__file__).resolve().with_name("clock.c")
HOW_TO_GET_A_COMPILER = (
    "MySQL's clock is shifted by a library that is built here, and there is no C compiler: "
    "apt-get install gcc libc6-dev"
)


def can_be_built() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


def library() -> Path:
    """The library, for LD_PRELOAD; TAPEDECK_CLOCK names the file with the seconds.

    Raises:
        ServerFailed: there is no C compiler, or it failed.
    """
    if not can_be_built():
        raise ServerFailed(HOW_TO_GET_A_COMPILER)
    version = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    built = engines.FOLDER / f"clock-{version}.so"
    if built.exists():
        return built
    engines.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=engines.FOLDER) as folder:
        new = Path(folder) / "clock.so"
        argv = ["cc", "-shared", "-fPIC", "-O2", "-o", str(new), str(_SOURCE), "-ldl"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"{_SOURCE.name} cannot be built:\n{done.stderr}")
        new.replace(built)
    return built
