"""What `make run` says if something is missing that it cannot install itself."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from stack import bootstrap, clock
from stack.process import ServerFailed


def test_bootstrap_parses_as_python_3_7_and_imports_only_the_standard_library() -> None:
    tree = ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 7))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(alias.name in sys.stdlib_module_names for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.module in {*sys.stdlib_module_names, "__future__"}


def test_without_apt_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(bootstrap.Missing, match=r"mariadbd is missing.*no apt-get.*by hand"):
        bootstrap.ensure_servers({"mariadb-server-core": ("mariadbd",)})


def test_without_a_c_compiler_a_shifted_clock_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="no C compiler: apt-get install gcc libc6-dev"):
        clock.shifted_by(tmp_path / "clock")


def test_without_root_the_command_to_type_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "which", lambda name, **_: "/usr/bin/apt-get" if name == "apt-get" else None
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.Missing) as caught:
        bootstrap.ensure_servers(bootstrap.SERVERS)
    assert "sudo apt-get install --no-install-recommends redis-tools mariadb-server-core" in str(
        caught.value
    )


def test_an_installed_program_is_not_installed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "some-server"
    server.touch()
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bootstrap, "install", lambda *_: pytest.fail("it is there"))
    bootstrap.ensure_servers({"some-package": ("another-name", "some-server")})


def test_a_package_given_by_a_path_is_checked_at_that_path(tmp_path: Path) -> None:
    assert bootstrap.is_there(str(tmp_path))
    assert not bootstrap.is_there(str(tmp_path / "missing"))


def test_an_old_python_is_refused_with_the_needed_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: None)
    assert bootstrap.main() == 1
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err
