"""Which gateways a command asks: by `--url`, by `--fleet`, or by the configuration.

A file called `fleet` beside the configuration names all gateways with that configuration. Each line
is the URL of an admin port; a # begins a comment. `dns+http://NAME:PORT` is a gateway at each
address of the name, as for a headless service of Kubernetes.
"""

from __future__ import annotations

import functools
import inspect
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from cli.admin import AdminPort, Answer, NoAnswer
from cli.common import DEFAULT_CONFIG, ConfigOption, fail
from config.load import ConfigError, load
from config.tls import own_url


@dataclass(frozen=True)
class Fleet:
    """The options of a command that say which gateways it asks."""

    url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="The admin port of a gateway; repeat for several."),
    ] = None
    fleet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the admin URLs of all gateways, one a line. Default: the file `fleet`"
            " beside the configuration, or else the configuration's own admin port.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The admin token. Default: the configuration's."),
    ] = None
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM; the authorities to trust for https."),
    ] = None
    config: ConfigOption = DEFAULT_CONFIG

    @property
    def is_named(self) -> bool:
        """Whether an option names the gateways."""
        return bool(self.url or self.fleet)

    def gateways(self) -> list[AdminPort]:
        """The admin ports to ask, in the order of their names. If one cannot be used, the command
        fails."""
        base = _base(self.config, named=self.is_named)
        if self.token_file is not None:
            token = _read(self.token_file).strip()
            if not token:
                fail(f"{self.token_file} is empty: it should hold the admin token")
            base = replace(base, token=token, because=f"it got the one in {self.token_file}")
        if self.ca_file is not None:
            base = replace(base, ca_file=str(self.ca_file))
        beside = self.config.parent / "fleet"
        file = beside if not self.is_named and beside.exists() else self.fleet
        found = [_checked(url, "--url") for url in self.url or ()]
        if file is not None:
            found += read_fleet(file)
        return [replace(base, url=url) for url in dict.fromkeys(found or [base.url])]


def asks_gateways(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a Fleet: Typer sees the fleet's options in its place."""
    options = inspect.signature(Fleet, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @functools.wraps(command)
    def called(**given: Any) -> None:
        command(Fleet(**{name: given.pop(name) for name in options}), **given)

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*options.values(), *own)]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def read_fleet(path: Path) -> list[str]:
    """The URLs of a fleet's file. If one cannot be used, the command fails."""
    found = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if text := line.partition("#")[0].strip():
            found += _each_address(text, f"{path}, line {number}")
    if not found:
        fail(f"{path} names no gateway: one admin URL a line, such as http://10.0.0.5:8081")
    return found


def ask_each(
    gateways: Sequence[AdminPort], question: Callable[[AdminPort], Answer]
) -> list[tuple[AdminPort, Answer | NoAnswer]]:
    """The answers of all gateways, in their order. They are asked at the same time."""

    def ask(gateway: AdminPort) -> Answer | NoAnswer:
        try:
            return question(gateway)
        except NoAnswer as error:
            return error

    with ThreadPoolExecutor(min(32, len(gateways))) as pool:
        return list(zip(gateways, pool.map(ask, gateways), strict=True))


def answered(
    answers: Iterable[tuple[AdminPort, Answer | NoAnswer]],
) -> list[tuple[str, Answer]]:
    """Those that answered, by URL."""
    return [(port.url, one) for port, one in answers if not isinstance(one, NoAnswer)]


def with_urls(answers: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Answers for --json, each with the URL of its gateway."""
    return [{"url": url, **msgspec.to_builtins(answer)} for url, answer in answers]


def fail_for(answers: Sequence[tuple[AdminPort, object]], what: str) -> None:
    """Fail if a gateway did not answer, with a line for each."""
    problems = [str(answer) for _, answer in answers if isinstance(answer, NoAnswer)]
    for problem in problems[:-1]:
        typer.echo(f"tapedeck: {problem}", err=True)
    if problems:
        fail(
            problems[-1]
            if len(answers) == 1
            else f"{problems[-1]} ({len(problems)} of {len(answers)} gateways {what})"
        )


def _base(config: Path, *, named: bool) -> AdminPort:
    """What the configuration says; where the gateways are named, it need not be there."""
    if named and config == DEFAULT_CONFIG and not config.exists():
        return AdminPort("")
    try:
        admin = load(config).admin
    except ConfigError as error:
        if not named:
            fail(f"{error} (a gateway that runs can be asked all the same: --url URL)")
        return AdminPort("", because=f"the configuration cannot be used ({error})")
    if admin.token is None:
        return AdminPort(own_url(admin), None, f"{config} has no admin.token", admin)
    token, because = admin.token.get_secret_value(), f"it got admin.token of {config}"
    return AdminPort(own_url(admin), token, because, admin)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _checked(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query:
        raise typer.BadParameter(
            f"{where}: {url!r} is not the URL of an admin port, such as http://10.0.0.5:8081"
        )
    return url.rstrip("/")


def _each_address(text: str, where: str) -> list[str]:
    if not text.startswith("dns+http://"):
        return [_checked(text, where)]
    url = urlsplit(_checked(text.removeprefix("dns+"), where))
    try:
        found = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        fail(f"{where}: the name {url.hostname} is not known: {error.strerror}")
    hosts = sorted({str(address[0]) for *_, address in found})
    return [f"http://{f'[{host}]' if ':' in host else host}:{url.port or 80}" for host in hosts]
