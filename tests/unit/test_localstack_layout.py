"""The ports, the files and the configuration of the local stack."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from config.load import load
from stack import layout as files
from stack.layout import Layout, Ports
from stack.process import free_port


def free_ports() -> Ports:
    ports = [free_port() for _ in range(7)]
    return Ports(ports[0], ports[1], tuple(ports[2:5]), tuple(ports[5:]))


def test_a_port_in_use_is_named_with_the_option_to_change() -> None:
    ports = free_ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports.mysql[1]))
        other.listen()
        assert ports.problems() == [
            f"port {ports.mysql[1]} (mysql2) is taken: choose another with --mysql-ports"
        ]
    assert ports.problems() == []


def test_a_port_given_to_two_servers_is_refused() -> None:
    ports = free_ports()
    twice = Ports(ports.gateway, ports.gateway, ports.lookup, ports.mysql)
    assert twice.problems() == [
        f"port {ports.gateway} is given to gateway and admin: change --admin-port"
    ]


def test_the_written_configuration_can_be_loaded(tmp_path: Path) -> None:
    layout, ports = Layout(tmp_path / ".tapedeck" / "tapedeck.yml"), free_ports()
    passwords = files.passwords(layout)
    files.write_config(layout, ports, workers=2)
    sections = load(layout.config, environ={})
    assert sections.gateway.port == ports.gateway
    assert sections.gateway.workers == 2
    assert [s.port for s in sections.lookup.servers] == list(ports.lookup)
    assert [s.name for s in sections.lookup.servers] == ["lookup1", "lookup2", "lookup3"]
    assert [host.port for host in sections.mysql.hosts] == list(ports.mysql)
    assert sections.mysql.password.get_secret_value() == passwords.gateway
    assert (
        sections.auth.service_keys[0].get_secret_value()
        == (layout.home / "service.key").read_text().strip()
    )


def test_values_from_up_s_environment_are_in_the_written_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "tapedeck.yml")
    monkeypatch.setenv("TAPEDECK_LOOKUP__SERVERS", "a:1:1 one, b:1:1 two, c:1:1 three, d:1:1 four")
    monkeypatch.setenv("TAPEDECK_PLAYER__SKIP_LIMIT", "3")
    monkeypatch.setenv("TAPEDECK_ADMIN__PORT", "1")
    files.passwords(layout)
    files.write_config(layout, Ports(), workers=1)
    sections = load(layout.config, environ={})
    assert [s.name for s in sections.lookup.servers] == ["one", "two", "three", "four"]
    assert sections.player.skip_limit == 3
    assert sections.admin.port == Ports().admin
    assert stat.S_IMODE(layout.config.stat().st_mode) == 0o600


def test_secrets_are_random_and_kept_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    one, two = files.secret(tmp_path / "one"), files.secret(tmp_path / "two")
    assert one != two
    assert len(one) == 64
    assert files.secret(tmp_path / "one") == one
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert one not in repr(files.passwords(Layout(tmp_path / "tapedeck.yml")))
