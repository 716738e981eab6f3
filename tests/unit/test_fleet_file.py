"""The file with the URLs of all gateways, and which gateways a command asks."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import typer

from cli.admin import AdminPort, NoAnswer
from cli.common import Failed
from cli.fleet import Fleet, read_fleet
from cli.main import main
from gateway.api.admin_bodies import Drained


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return tmp_path / "fleet"


def test_a_fleet_file_has_one_url_in_each_line_and_comments(fleet: Path) -> None:
    fleet.write_text("# ours\n\nhttp://10.0.0.5:8201/   # tapedeck@01\nhttps://[fd00::1]:8081\n")
    assert read_fleet(fleet) == ["http://10.0.0.5:8201", "https://[fd00::1]:8081"]


def test_a_name_with_several_addresses_means_several_gateways(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("tapedeck-gateways", 8081)
        return [(0, 0, 0, "", (ip, port)) for ip in ("10.1.0.7", "10.1.0.6", "fd00::6", "10.1.0.6")]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    fleet.write_text("dns+http://tapedeck-gateways:8081\n")
    assert read_fleet(fleet) == [
        "http://10.1.0.6:8081",
        "http://10.1.0.7:8081",
        "http://[fd00::6]:8081",
    ]


@pytest.mark.parametrize("line", ["10.0.0.5:8081", "ftp://a:1", "http://:8081", "dns+https://a:1"])
def test_a_line_that_is_no_url_is_named_with_its_number(fleet: Path, line: str) -> None:
    fleet.write_text(f"http://10.0.0.5:8081\n{line}\n")
    with pytest.raises(typer.BadParameter, match=r"fleet, line 2: .* is not the URL"):
        read_fleet(fleet)


def test_a_name_without_an_address_is_reported(fleet: Path) -> None:
    fleet.write_text("dns+http://no-such-host.invalid:8081\n")
    with pytest.raises(Failed, match=r"line 1: the name no-such-host\.invalid is not known"):
        read_fleet(fleet)


def test_a_fleet_file_beside_the_configuration_is_used_with_its_token(fleet: Path) -> None:
    config = fleet.with_name("tapedeck.yml")
    config.write_text(
        "lookup: {servers: ['127.0.0.1:1:1 a']}\nmysql: {hosts: ['127.0.0.1:1'], user: u}\n"
        "admin: {host: 0.0.0.0, port: 9999, token: a-token-of-some-length-for-operators}\n"
    )
    (own,) = Fleet(config=config).gateways()
    assert own.url == "http://127.0.0.1:9999"
    fleet.write_text("http://10.0.0.5:8201\nhttp://10.0.0.6:8201\n")
    both = Fleet(config=config).gateways()
    assert [port.url for port in both] == ["http://10.0.0.5:8201", "http://10.0.0.6:8201"]
    assert {port.token for port in both} == {"a-token-of-some-length-for-operators"}
    (named,) = Fleet(["http://10.0.0.7:8201"], config=config).gateways()
    assert named.url == "http://10.0.0.7:8201"


def test_a_named_gateway_is_asked_even_if_the_configuration_has_problems(fleet: Path) -> None:
    config = fleet.with_name("tapedeck.yml")
    config.write_text("lookup: [\n")
    (named,) = Fleet(["http://10.0.0.7:8201"], config=config).gateways()
    assert named.token is None
    assert "cannot be used" in named.because


def test_a_404_of_a_gateway_says_that_the_url_may_be_its_port_for_listeners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = (404, b'{"status": "404 Not Found", "errors": ["There is no such path."]}')
    monkeypatch.setattr(AdminPort, "request", lambda *_, **__: answer)
    with pytest.raises(NoAnswer, match="port for listeners: name its admin port"):
        AdminPort("http://127.0.0.1:8080").ask("/drain", dict, {})


def test_an_answer_in_another_shape_says_that_the_gateway_may_have_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AdminPort, "request", lambda *_, **__: (200, b'{"draining": 1}'))
    with pytest.raises(NoAnswer, match=r"/drain in another shape .* of this version\?"):
        AdminPort("http://127.0.0.1:8080").ask("/drain", Drained)


def test_a_gateway_that_ends_while_it_is_drained_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drained = b'{"draining": true, "in_flight": 0, "connections": 1, "empty": false}'
    answers = iter([(200, drained)])

    def request(*_: object, **__: object) -> tuple[int, bytes]:
        for answer in answers:
            return answer
        raise NoAnswer("nothing listens at http://127.0.0.1:1")

    monkeypatch.setattr(AdminPort, "request", request)
    monkeypatch.setattr(sys, "argv", ["tapedeck", "drain", "--url", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "tapedeck: nothing listens at http://127.0.0.1:1\n"
