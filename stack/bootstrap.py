"""Installs what `make run`, `make test` and `make bench` need.

It makes `.venv`, installs the pinned dependencies into it, and installs the missing servers. If
nothing is missing it takes a tenth of a second. It runs on the machine's own python3, so it imports
only the standard library, and its grammar is Python 3.7's: on a Python that is too old for Tapedeck
it can still say so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST = (3, 11)

# Packages, each with the programs or files of which one must exist. (redis-tools has redis-server
# under another name.)
SERVERS = {
    "redis-tools": ("redis-server", "redis-check-rdb"),
    "mariadb-server-core": ("mariadbd",),
}
COMPILER = {"gcc": ("gcc",), "libc6-dev": ("/usr/include/stdio.h",)}
FOR_TESTS = {
    "nutcracker": ("nutcracker",),
    **COMPILER,  # a clock is shifted by a library that is built from source
    # Servers that deploy/ configures, and programs that check its files.
    "e2fsprogs": ("mkfs.ext4",),
    "haproxy": ("haproxy",),
    "mariadb-client-core": ("mariadb",),
    "nginx": ("nginx",),
    "prometheus": ("promtool",),
    "systemd": ("systemd-analyze",),
    "chromium": ("chromium",),
    "chromium-driver": ("chromedriver",),
}
# The benchmark's load generator and its plain Go peer are built from source, with Debian's drivers.
FOR_BENCH = {
    "nutcracker": ("nutcracker",),
    "golang-go": ("go",),
    "golang-github-gomodule-redigo-dev": ("/usr/share/gocode/src/github.com/gomodule/redigo",),
    "golang-github-go-sql-driver-mysql-dev": (
        "/usr/share/gocode/src/github.com/go-sql-driver/mysql",
    ),
    **COMPILER,
}
EXTRAS = {"dev": FOR_TESTS, "bench": FOR_BENCH}
OPTIONS = {"--test": "dev", "--bench": "bench"}
# Debian starts a package's service when it installs it, unless this file says no.
INSTALL = """
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM HUP
    printf '#!/bin/sh\\nexit 101\\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null || echo "apt-get update failed; going on" >&2
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
"""


class Missing(Exception):
    """Something has to be installed by hand; the text says what, and how."""


def say(sentence: str) -> None:
    """Print a line of progress."""
    print(f"tapedeck: {sentence}", flush=True)


def newer_python() -> str | None:
    """Another Python on PATH that is new enough; None if there is none."""
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and succeeds([found, "-c", "pass"]):
            return found
    return None


def succeeds(argv: list[str]) -> bool:
    """Whether a command ends with status 0."""
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
    except OSError:
        return False
    return done.returncode == 0


def package_manager() -> list[str] | None:
    """The words before apt-get that make it run as root; None if that is impossible."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and succeeds(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None


def install(packages: list[str], why: str) -> None:
    """Install Debian packages, and say so before.

    Raises:
        Missing: without root or apt, or when apt-get fails.
    """
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    prefix = package_manager()
    if prefix is None:
        if shutil.which("apt-get") is None:
            raise Missing(
                f"{why}, and there is no apt-get here. Install by hand what Debian's packages "
                f"{', '.join(packages)} contain, then run this again"
            )
        raise Missing(
            f"{why}, and this is not root (nor does `sudo -n` work). Install by hand, then run "
            f"this again:\n    sudo {by_hand}"
        )
    say(f"{why}. Installing, without starting any service: {' '.join(packages)}")
    argv = [*prefix, "sh", "-c", INSTALL, "sh", *packages]
    if subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise Missing(
            f"apt-get failed (see above). Install by hand, then run this again:\n    {by_hand}"
        )


def is_there(what: str) -> bool:
    """Whether a path, a system library or a program exists (on PATH, or in a folder of servers)."""
    if what.startswith("/"):
        return Path(what).exists()
    if "/" in what:
        folders = [*Path("/usr/lib").glob("*-linux-gnu*"), Path("/usr/lib")]
        return any((folder / what).exists() for folder in folders)
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec:/usr/local/sbin"
    return shutil.which(what, path=path) is not None


def ensure_servers(wanted: dict[str, tuple[str, ...]]) -> None:
    """Install each package of which no program or file exists."""
    missing = [p for p, names in wanted.items() if not any(is_there(name) for name in names)]
    if not missing:
        return
    names = ", ".join(wanted[package][0].rpartition("/")[2] for package in missing)
    install(missing, f"{names} {'are' if len(missing) > 1 else 'is'} missing")
    for package in missing:
        if not any(is_there(name) for name in wanted[package]):
            raise Missing(f"{package} is installed, yet there is no {' or '.join(wanted[package])}")


def ensure_venv() -> None:
    """Make `.venv`, unless there is one that works and was made at this path."""
    place = VENV / ".place"
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    if succeeds([str(PYTHON), "-c", check]) and (
        not place.exists() or place.read_text() == str(VENV)
    ):
        return
    if not succeeds([sys.executable, "-c", "import venv, ensurepip"]):
        # Debian has both in a separate package.
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        is_debians = os.path.realpath("/usr/bin/python3") == os.path.realpath(sys.executable)
        package = "python3-venv" if is_debians else f"python{version}-venv"
        install([package], f"{sys.executable} has no venv")
    say(f"making .venv with {sys.executable} ({'.'.join(map(str, sys.version_info[:3]))})")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        raise Missing(f"{sys.executable} -m venv failed:\n{done.stdout.decode().strip()}")
    place.write_text(str(VENV))


def ensure_dependencies(extra: str) -> None:
    """Install what constraints.txt pins, unless that was done for these very files.

    `extra` is a group of pyproject.toml's optional dependencies; empty for none.
    """
    state = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        state.update((ROOT / name).read_bytes())
    state.update(subprocess.check_output([str(PYTHON), "-V"], stdin=subprocess.DEVNULL))
    wanted = state.hexdigest()
    stamps = {name: VENV / f".installed{name and '-' + name}" for name in ("", *EXTRAS)}
    for stamp in (stamps[extra],) if extra else stamps.values():
        if stamp.exists() and stamp.read_text() == wanted:
            return
    say("installing the pinned Python packages into .venv (a minute the first time)")
    argv = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--no-input", "-c", "constraints.txt", "-e", f".[{extra}]" if extra else "."]
    done = subprocess.run(argv, cwd=str(ROOT), stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise Missing(f"pip failed (see above). The command was: {' '.join(argv)}")
    stamps[extra].write_text(wanted)


def main() -> int:
    """Install what is missing; return the exit status."""
    asked = [extra for option, extra in OPTIONS.items() if option in sys.argv[1:]]
    extra = asked[0] if asked else ""
    if sys.version_info < OLDEST:
        newer = newer_python()
        if newer is not None:
            os.execv(newer, [newer, *sys.argv])  # noqa: S606
        have = ".".join(map(str, sys.version_info[:3]))
        print(
            f"tapedeck: Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; {sys.executable} is "
            f"{have}, and there is no newer one on PATH",
            file=sys.stderr,
        )
        return 1
    (ROOT / ".tapedeck").mkdir(exist_ok=True)
    with (ROOT / ".tapedeck" / "bootstrap.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another run is installing; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            ensure_servers({**SERVERS, **EXTRAS.get(extra, {})})
            ensure_venv()
            ensure_dependencies(extra)
        except Missing as problem:
            print(f"tapedeck: {problem}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
