"""Where other engines are downloaded from, and how their programs are started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stack import engines

PRINTED = """\
'http://mirror.invalid/debian/dists/bookworm/InRelease' mirror_debian_dists_bookworm_InRelease 0
'http://mirror.invalid/debian/dists/bookworm-updates/InRelease' mirror_bookworm-updates_InRelease 0
'http://mirror.invalid/debian-security/dists/bookworm-security/InRelease' security_InRelease 0
'https://tools.invalid/apt/dists/stable/InRelease' tools.invalid_apt_dists_stable_InRelease 0
'http://other.invalid/debian//dists/bookworm/InRelease' other_bookworm_InRelease 0
"""


def test_engines_come_from_the_archives_of_the_machine_s_own_release() -> None:
    assert engines.archives(PRINTED, "bookworm") == [
        "http://mirror.invalid/debian",
        "http://other.invalid/debian",
    ]


def test_a_machine_without_a_debian_archive_has_none() -> None:
    assert (
        engines.archives("'https://tools.invalid/apt/dists/stable/InRelease' x 0\n", "noble") == []
    )


def test_an_engine_that_is_not_installed_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FOLDER", tmp_path)
    assert [engines.find(name) for name in engines.ENGINES] == [None] * len(engines.ENGINES)


def started_as(tmp_path: Path, name: str, *arguments: str) -> list[str]:
    """The arguments of an engine's loader when its server is started with `arguments`."""
    folder = tmp_path / name
    loader = folder / "root" / "usr" / "lib64" / "ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    (folder / "root" / "usr" / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
    loader.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    loader.chmod(0o755)
    engines.write_scripts(folder, engines.ENGINES[name])
    server = folder / "bin" / Path(engines.ENGINES[name].programs[0]).name
    done = subprocess.run([server, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_server_is_started_with_its_own_libraries_and_the_caller_s_arguments(
    tmp_path: Path,
) -> None:
    given = started_as(tmp_path, "valkey-9", "--port", "1", "--save", "60 1")
    root = tmp_path / "valkey-9" / "root"
    assert given[given.index("--library-path") + 1] == f"{root}/usr/lib/x86_64-linux-gnu"
    assert given[-5:] == [f"{root}/usr/bin/valkey-server", "--port", "1", "--save", "60 1"]


@pytest.mark.parametrize("name", ["mysql-9", "mariadb-11"])
def test_no_defaults_stays_the_first_option_and_the_caller_s_options_the_last(
    tmp_path: Path, name: str
) -> None:
    given = started_as(tmp_path, name, "--no-defaults", "--plugin-dir=mine")
    root = tmp_path / name / "root"
    server = given.index(f"{root}/{engines.ENGINES[name].programs[0]}", given.index("--argv0") + 2)
    assert given[server + 1 : server + 3] == ["--no-defaults", f"--basedir={root}/usr"]
    assert given[-1] == "--plugin-dir=mine"
