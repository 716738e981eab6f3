"""Installs other database and lookup servers than the machine's own, without changing the system.

    python3 stack/engines.py install mysql-9

downloads an engine and every library that it needs from Debian's unstable suite, unpacks them
below `.tapedeck/engines/`, and writes a small script for each program there. The script starts the
program with the libraries that came with it, so any code can run it as an ordinary binary. Nothing
is installed into the system, no service is started, and removing the folder removes all of it.
MySQL 8.4, which no suite of Debian has, comes from Ubuntu's archive: `--ubuntu URL` says where.

apt downloads and checks the packages. The archive's address and its keys are the machine's own: the
mirror that its apt is configured with has the unstable suite beside the machine's own release, and
the keys of Ubuntu's archive are a package of Debian.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".tapedeck" / "engines"
CHOICE = "TAPEDECK_ENGINE"
"""The environment variable that names what tests and drills run on, if not on the machine's own
MariaDB and Redis: `mysql-9`, `group` (that MySQL in Group Replication), `mysql-8`, `mariadb-11`,
`redis-8` or `valkey-9`."""
UBUNTU = "TAPEDECK_UBUNTU_ARCHIVE"
"""The environment variable with the address of an archive of Ubuntu."""
_KEYRINGS = Path("/usr/share/keyrings")


@dataclass(frozen=True)
class Recipe:
    """How an engine is installed.

    Attributes:
        packages: Debian's names; the first one has the server, and the version that counts.
        version: what that version begins with.
        programs: paths in the packages; the first one is the server.
        options: the server's own, before those that it is started with. {root} is where the
            packages are unpacked.
        system: where the packages are from, `debian` or `ubuntu`.
        suite: the suite in that system's archive.
    """

    packages: tuple[str, ...]
    version: str
    programs: tuple[str, ...]
    options: tuple[str, ...] = ()
    system: str = "debian"
    suite: str = "sid"


_MYSQL = (
    ("usr/sbin/mysqld", "usr/bin/mysql", "usr/bin/mysqladmin", "usr/bin/mysqldump"),
    (
        "--basedir={root}/usr",
        "--lc-messages-dir={root}/usr/share/mysql",
        "--character-sets-dir={root}/usr/share/mysql/charsets",
        "--plugin-dir={root}/usr/lib/mysql/plugin",
        # The default is a folder of the system, and the server does not start without it.
        "--secure-file-priv=NULL",
    ),
)
ENGINES = {
    "mysql-9": Recipe(("mysql-server-core", "mysql-client-core"), "9.", *_MYSQL),
    "mysql-8": Recipe(
        ("mysql-server-core", "mysql-client-core"), "8.4", *_MYSQL, "ubuntu", "resolute"
    ),
    "mariadb-11": Recipe(
        ("mariadb-server-core", "mariadb-client-core"),
        "11.",
        ("usr/sbin/mariadbd", "usr/bin/mariadb"),
        (
            "--basedir={root}/usr",
            "--lc-messages-dir={root}/usr/share/mariadb",
            "--character-sets-dir={root}/usr/share/mariadb/charsets",
            "--plugin-dir={root}/usr/lib/mysql/plugin",
        ),
    ),
    "redis-8": Recipe(
        ("redis-server", "redis-tools"), "8.", ("usr/bin/redis-server", "usr/bin/redis-cli")
    ),
    "valkey-9": Recipe(
        ("valkey-server", "valkey-tools"), "9.", ("usr/bin/valkey-server", "usr/bin/valkey-cli")
    ),
}
"""What can be installed."""

# --no-defaults and --defaults-file must stay the first option of mysqld and mariadbd.
_SCRIPT = """\
#!/bin/sh
root=$(cd "${{0%/*}}/../root" && pwd) || exit 127
loader=$(echo "$root"/usr/lib*/ld-linux*.so.*)
libraries=$(echo "$root"/usr/lib/*-linux-gnu*)
case "$1" in
--no-defaults|--defaults-file=*|--defaults-extra-file=*) first=$1; shift ;;
*) first= ;;
esac
exec "$loader" --inhibit-cache --library-path "$libraries" --argv0 "$root/{program}" \\
    "$root/{program}" ${{first:+"$first"}} {options}"$@"
"""


class Failed(Exception):
    """An engine could not be installed: which one, why, and what to do."""


def find(name: str, program: str | None = None) -> Path | None:
    """The script that runs a program of an engine; None if the engine is not installed.

    Args:
        name: of ENGINES.
        program: such as "mysqladmin"; its server by default.
    """
    path = FOLDER / name / "bin" / (program or Path(ENGINES[name].programs[0]).name)
    return path if path.exists() else None


def chosen(*products: str) -> str | None:
    """The engine that TAPEDECK_ENGINE names, if it is of one of these products ("redis", ...); else
    None.

    Raises:
        Failed: it is not installed, or there is no engine of that name.
    """
    name = os.environ.get(CHOICE, "")
    if name == "group":
        name = "mysql-9"
    if name and name not in ENGINES:
        raise Failed(f"{CHOICE}={name}: there is no such engine; there are {', '.join(ENGINES)}")
    if name.rpartition("-")[0] not in products:
        return None
    if find(name) is None:
        raise Failed(f"{name} is not installed: python3 stack/engines.py install {name}")
    return name


def files(name: str) -> Path:
    """The folder where the packages of an engine are unpacked, as below / of a system."""
    return FOLDER / name / "root"


def say(sentence: str) -> None:
    """Print a line of progress."""
    print(f"tapedeck: {sentence}", flush=True)


def install(name: str) -> None:
    """Install an engine, unless it is installed. What an interrupted run downloaded is used.

    Raises:
        Failed: no archive is configured or can be reached, or it has another version.
    """
    if find(name) is not None:
        return
    engine = ENGINES[name]
    new = FOLDER / f"{name}.new"
    packages = new / "packages"
    (packages / "partial").mkdir(parents=True, exist_ok=True)
    apt = _apt(packages)
    _read_lists(apt, name, engine.system, engine.suite)
    _check_version(apt, name)
    _download(apt, name)
    _unpack(new, name)
    write_scripts(new, engine)
    done = subprocess.run(
        [new / "bin" / Path(engine.programs[0]).name, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"{name}: its server does not run: {(done.stdout + done.stderr).strip()}")
    shutil.rmtree(packages)
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    new.rename(FOLDER / name)
    say(f"{name} is installed: {FOLDER / name}")


def write_scripts(folder: Path, engine: Recipe) -> None:
    """Write the script of each program into `folder`/bin; it works wherever the folder is put."""
    (folder / "bin").mkdir(exist_ok=True)
    for program in engine.programs:
        script = folder / "bin" / Path(program).name
        given = [option.format(root="$root") for option in engine.options]
        own = given if program == engine.programs[0] else []
        text = _SCRIPT.format(program=program, options="".join(f'"{option}" ' for option in own))
        script.write_text(text)
        script.chmod(0o755)


def _apt(packages: Path) -> list[str]:
    """Options that give apt lists and a cache of its own, and an empty list of installed packages,
    so that it downloads every library that is needed."""
    state = FOLDER / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "installed").touch()
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "installed",
        "Dir::Cache": state,
        "Dir::Cache::archives": packages,
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def _run(argv: list[str], what: str, folder: Path | None = None) -> str:
    """Run a command in a folder; return what it prints.

    Raises:
        Failed: it ended with another status than 0.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise Failed(f"{what}: there is no {argv[0]} here; this needs Debian") from None
    if done.returncode != 0:
        raise Failed(f"{what}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def archives(printed: str, release: str) -> list[str]:
    """The addresses that apt gets a release from.

    Args:
        printed: by `apt-get update --print-uris`.
        release: such as "bookworm".
    """
    found = re.findall(rf"^'(\S+?)/+dists/{re.escape(release)}/InRelease'", printed, re.MULTILINE)
    return list(dict.fromkeys(found))


def _machine() -> dict[str, str]:
    """What /etc/os-release says: ID, VERSION_CODENAME, ..."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _addresses(name: str, system: str) -> list[str]:
    """Where packages of a system may be downloaded from.

    Raises:
        Failed: no address is known.
    """
    if system == "ubuntu" and (given := os.environ.get(UBUNTU)):
        return [given.rstrip("/")]
    machine = _machine()
    if machine.get("ID") == system:
        printed = _run(["apt-get", "update", "--print-uris"], name)
        if found := archives(printed, machine.get("VERSION_CODENAME", "")):
            return found
    raise Failed(
        f"{name} comes from {system.capitalize()}'s archive, and apt here is configured with none"
        + (f": name one, --ubuntu URL or {UBUNTU}=URL" if system == "ubuntu" else "")
    )


def _keyring(apt: list[str], name: str, system: str) -> Path | None:
    """The file with the keys of a system's archive; None if apt finds them itself. The keys of
    another system than the machine's are in a package of Debian."""
    keyring = f"{system}-archive-keyring"
    if (known := _KEYRINGS / f"{keyring}.gpg").exists():
        return known
    if system == "debian" or _machine().get("ID") == system:
        return None  # apt knows them under another name
    unpacked = FOLDER / "keys"
    found = unpacked / f"usr/share/keyrings/{keyring}.gpg"
    if not found.exists():
        unpacked.mkdir(exist_ok=True)
        _read_lists(apt, name, "debian", "sid")
        argv = ["apt-get", *apt, "download", f"{system}-keyring"]
        _run(argv, f"{name}: the keys of {system}'s archive", unpacked)
        for package in unpacked.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), str(unpacked)], f"{name}: {package.name}")
    return found


def _read_lists(apt: list[str], name: str, system: str, suite: str) -> None:
    keyring = _keyring(apt, name, system)
    signed = f"[signed-by={keyring}] " if keyring else ""
    problem = ""
    for address in _addresses(name, system):
        source = f"deb {signed}{address} {suite} main\n"
        (FOLDER / "apt" / "sources.list").write_text(source)
        try:
            update = ["apt-get", "-q", *apt, "update", "-oAPT::Update::Error-Mode=any"]
            _run(update, f"{name}: {address} {suite}")
            return
        except Failed as failed:
            problem = str(failed)
    raise Failed(problem)


def _check_version(apt: list[str], name: str) -> None:
    engine = ENGINES[name]
    shown = _run(
        ["apt-cache", *apt, "show", "--no-all-versions", engine.packages[0]],
        f"{name}: {engine.packages[0]} in {engine.suite}",
    )
    version = re.search(r"^Version: (?:\d+:)?(\S+)", shown, re.MULTILINE)
    if version is None or not version[1].startswith(engine.version):
        raise Failed(
            f"{name}: {engine.suite} has {engine.packages[0]} {version[1] if version else ''}:"
            f" change the entry of {name} in stack/engines.py"
        )


def _download(apt: list[str], name: str) -> None:
    engine = ENGINES[name]
    say(f"{name}: downloading from {engine.system}'s {engine.suite} (a minute or two)")
    argv = ["apt-get", "-q", "-y", *apt, "--download-only", "install", *engine.packages]
    _run(argv, f"{name} was not downloaded")


def _unpack(new: Path, name: str) -> None:
    say(f"{name}: unpacking")
    root = new / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for package in sorted((new / "packages").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(root)], f"{name}: {package.name}")
    for useless in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl"):
        shutil.rmtree(root / useless, ignore_errors=True)


def main() -> int:
    """Install the named engines, or list all; return the exit status."""
    parser = argparse.ArgumentParser(description="Servers below .tapedeck/engines")
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("install", help="install engines; those that are there stay")
    asked.add_argument("names", nargs="+", choices=[*ENGINES, "all"], metavar="NAME")
    asked.add_argument(
        "--ubuntu", metavar="URL", help=f"Ubuntu's archive, for mysql-8; or {UBUNTU}"
    )
    commands.add_parser("list", help="show what can be installed, and what is")
    options = parser.parse_args()
    if options.command == "list":
        for name in ENGINES:
            print(f"{name:12} {find(name) or 'not installed'}")
        return 0
    if options.ubuntu:
        os.environ[UBUNTU] = options.ubuntu
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = list(ENGINES) if "all" in options.names else options.names
    with (FOLDER / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name in names:
                install(name)
        except (Failed, OSError) as problem:
            print(f"tapedeck: {problem}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
