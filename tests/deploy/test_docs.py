"""Runs every command in the README and docs/, except those for which NOT_HERE has a reason.

The commands of a page run in order, in one shell, in a folder where `tapedeck up` runs on ports of
its own. A reader's hosts and files are replaced by those of this folder (`Place.adapt`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from config.model import Admin, Sections
from gateway.reload.runtime_config import NEEDS_RESTART
from tests.support.commands import Command, commands
from tests.support.pair import Host
from tests.support.terminal import Terminal

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "deploy" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)

NOT_COMMANDS = {
    "player ──HTTP──> gateway (any number of workers, any number of gateways)",
    "lookup: {nutcracker: /etc/nutcracker/nutcracker.yml, pool: lookups, layout: flat}",
    'lookup: {mode: cluster, servers: ["10.0.0.1:6379", "10.0.0.2:6379"]}',
}
"""The first lines of the indented blocks that have no commands."""

_PAIR = "promotes or stops a server of a MySQL pair: run on a pair of its own, below"
_INSTALL = "installs on the machine as root"
NOT_HERE = {
    r"docker (?!.* exec (-T )?\S+ tapedeck)": "there is no container engine on a test machine",
    r"kubectl (?!kustomize|.* exec \S+ -- tapedeck)": "there is no cluster",
    r"(systemctl|journalctl|timedatectl) ": "systemd does not run a test machine",
    r"/opt/tapedeck/|sha256sum |python3 -m venv /opt|useradd |install -|mkdir -p /opt": _INSTALL,
    r"ln -s /opt": _INSTALL,
    r"cp deploy/systemd|sed .*deploy/balance|deploy/compose/make-secrets /etc": _INSTALL,
    r"python3 -m venv \.build|\(cd dist ": "tests/deploy/test_files.py does it",
    r"mariadb-backup|mbstream": "needs mariadb-backup, and the data directory of a server",
    r".*gtid_slave_pos = '0-1-12345'": "the position is the reader's",
    r"python3 stack/engines\.py install": "downloads 100 MB; test_engines.py has its rules",
    r"SECRETS=\S+ deploy/mysql/group\.sh": "tests/deploy/test_mysql_engine.py founds a group",
    r"apt-get install pacemaker|cibadmin |crm_": "tests/deploy/test_pacemaker.py does it",
    r"SELECT ": "is for a member of a group, or for a primary that died",
    r"SETUP=deploy/mysql": "tests/deploy/test_mysql.py runs it on a pair of its own",
    r"(ALTER|RENAME) TABLE ": "is for a table that only its reader has",
    r"tapedeck partitions seal --again ": "is for a day that only its reader has",
    r"deploy/mysql/promote\.sh|.*<deploy/mysql/primary\.sql": _PAIR,
    r".*(SET GLOBAL (read_only|rpl_semi)|generation = generation \+ 1000|STOP REPLICA)": _PAIR,
    r".*ALTER USER|openssl rand ": "tests/deploy/test_mysql.py rotates a password",
    r"mysqldump |mysql |mariadb-(binlog|dump) ": "needs a backup, or MySQL's client",
    r"sed 's/`player_state|mariadb .*RENAME TABLE restored": "needs a dump of one day",
}
"""Patterns of the beginnings of commands that are not run, each with the reason."""
_NOT_HERE = re.compile("|".join(f"(?:{pattern})" for pattern in NOT_HERE))

DRY = {
    # These have tests of their own, or run this test.
    r"^make (\S.*)$": r"make -n \1",
    r"--listeners 10000": "--listeners 100",
    r"tapedeck drill \w+-.*": "tapedeck drill --list",
    r"tapedeck drain --url": "tapedeck drain --back --url",
    r"bench\.hot_path.*": "bench.hot_path --help",
}
"""What is run instead of commands that take long."""


_READS = re.compile(
    r"(\S*/)?tapedeck (status|ring show|partitions list|stack status|reload --dry-run|drill --list"
    r"|check-config( \S+)?)( .*--wait 60)?$|.*bench\.hot_path|date -u"
)
"""Commands that only read, and that many pages have: they are run for the first of these pages."""

_ANSWERS = re.compile(r"(curl|mariadb|redis-cli|tapedeck|docker|kubectl)\b")
"""Commands that must print something."""


def all_commands() -> list[Command]:
    return [command for page in PAGES for command in commands(page, ROOT, _NOT_HERE)[0]]


def test_every_indented_block_has_commands_or_is_listed_as_one_without() -> None:
    others = {line for page in PAGES for line in commands(page, ROOT, _NOT_HERE)[1]}
    assert others == NOT_COMMANDS, "add the program to NOT_HERE, or the line to NOT_COMMANDS"


def test_every_reason_for_not_running_a_command_is_needed() -> None:
    texts = [command.text for command in all_commands()]
    for pattern in NOT_HERE:
        assert any(re.match(pattern, text) for text in texts), pattern


def test_no_page_asks_the_admin_port_with_curl() -> None:
    """The admin port may require a token, which `tapedeck` commands send."""
    for command in all_commands():
        if "curl" in command.text:
            assert "localhost:8080/" in command.text, command


def test_every_container_unit_and_port_on_a_page_is_in_deploy() -> None:
    deploy = ROOT / "deploy"
    services = yaml.safe_load((deploy / "compose" / "compose.yml").read_text())["services"]
    manifests = [
        manifest
        for path in (deploy / "kubernetes").rglob("*.yaml")
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest is not None
    ]
    named = {(m["kind"].lower(), m["metadata"]["name"]) for m in manifests if "metadata" in m}
    ports = set(re.findall(r"http://\S+?:(\d+)", (deploy / "systemd" / "fleet").read_text()))
    ports.add(str(Admin().port))
    checked = 0
    for command in all_commands():
        text = command.text
        for name in re.findall(r"docker compose \S+ \S+ exec (?:-T )?(\S+)", text):
            assert name in services, command
            checked += 1
        for kind, name in re.findall(r"\b(statefulset|deployment)/(\S+)", text):
            assert (kind, name) in named, command
            checked += 1
        for pod in re.findall(r"kubectl -n tapedeck exec (\S+)-\d+ ", text):
            assert ("statefulset", pod) in named, command
            checked += 1
        for unit in re.findall(r"\b(tapedeck[@.-][\w.]*)", text):
            if text.startswith(("systemctl", "journalctl")):
                name = re.sub(r"@.*", "@", unit).rstrip(".")
                assert list((deploy / "systemd").glob(f"{name}*")), command
                checked += 1
        for port in re.findall(r"--url http://127\.0\.0\.1:(\d+)", text):
            assert port in ports, command
            checked += 1
    assert checked > 20


class Place:
    """A folder with a running local stack, in which the commands of pages run."""

    def __init__(self, folder: Path) -> None:
        self.terminal = Terminal(folder)
        self.folder = folder
        self.read: set[str] = set()
        for name in (".venv", "config", "deploy", "docs", "bench", "tests", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        # A copy, because commands of the pages write into deploy/.
        (folder / "deploy").unlink()
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.terminal.up("--ephemeral")
        secrets = next(self.terminal.home.rglob("secrets/admin"))
        self.admin = folder / "admin.cnf"
        self.admin.write_text(
            f"[client]\nuser=stack\npassword={secrets.read_text().strip()}\nprotocol=tcp\n"
        )

        self.source_password = secrets.read_text().strip()
        self.make_source()

    def make_source(self) -> None:
        """Make the database of another system, which docs/migration.md imports from."""
        today = datetime.now(UTC).date()
        script = "CREATE DATABASE app; USE app;"
        for age in (0, 3):
            name = f"player_data_{today - timedelta(days=age):%Y%m%d}"
            script += (
                f"CREATE TABLE {name} (user_id BIGINT, playlist_id BIGINT, tracks_played TEXT,"
                " skipped_at TEXT, listened TINYINT, updated_at DATETIME,"
                " PRIMARY KEY (user_id, playlist_id));"
                f"INSERT INTO {name} VALUES ({42 + age}, 7, '[1052]', '[]', 0, UTC_TIMESTAMP());"
            )
        port = self.terminal.ports[5]
        subprocess.run(
            [
                *("mariadb", f"--defaults-extra-file={self.admin}", "--host=127.0.0.1"),
                *(f"--port={port}", "-e", script),
            ],
            check=True,
        )

    def primary(self) -> int:
        """The port of the primary: a standby that is changed would be made anew."""
        status = json.loads(self.terminal.run("stack", "status", "--json").stdout)
        return self.terminal.ports[4 + int(status["mysql"]["primary"].removeprefix("mysql"))]

    def adapt(self, text: str, primary: int) -> str:
        """Replace a reader's hosts, ports and files in a command by those of this stack."""
        gateway, admin, *others = self.terminal.ports
        # Commands in a container run here.
        text = re.sub(r"^(docker|kubectl) .* exec (-T )?\S+ (-- )?(?=tapedeck )", "", text)
        text = re.sub(r"http://127\.0\.0\.1:(8081|8201)\b", f"http://127.0.0.1:{admin}", text)
        text = re.sub(r"localhost:8080", f"127.0.0.1:{gateway}", text)
        for number, port in enumerate(others[:3], 1):
            text = text.replace(f"redis-cli -h lookup{number}", f"redis-cli -p {port}")
        for number, port in enumerate(others[3:], 1):
            text = text.replace(f"--host=mysql{number}", f"--host=127.0.0.1 --port={port}")
        text = text.replace("app@db1", f"stack@127.0.0.1:{primary}")
        text = text.replace("--host=db1", f"--host=127.0.0.1 --port={primary}")
        text = text.replace("/root/admin.cnf", str(self.admin))
        text = text.replace("/etc/tapedeck/tapedeck.yml", ".tapedeck/tapedeck.yml")
        if "bench.sessions" in text and "--url" not in text:
            text += f" --url http://127.0.0.1:{gateway}"
        if text.startswith("kubectl kustomize ") and shutil.which("kubectl") is None:
            return "echo 'kubectl is not installed'"
        for pattern, instead in DRY.items():
            text = re.sub(pattern, instead, text)
        return text

    def type(self, typed: list[Command]) -> list[str]:
        """Run commands in one shell; return what went wrong, command by command."""
        script, seen = "set -o pipefail\n", set[str]()
        primary = self.primary() if any("db1" in command.text for command in typed) else 0
        for number, command in enumerate(typed):
            text = self.adapt(command.text, primary)
            if text in seen and command.text.startswith(("docker ", "kubectl ")):
                text = "echo 'this page had it before, for another container'"
            if text in self.read:
                text = "echo 'an earlier page had it'"
            elif _READS.match(text):
                self.read.add(text)
            seen.add(text)
            script += f"echo '@@ {number}'\n{text}\nprintf '\\n@@ %s %s\\n' {number} $?\n"
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TAPEDECK_")},
            "TAPEDECK_SOURCE_PASSWORD": self.source_password,
            "PATH": f"{ROOT}/.venv/bin:{os.environ.get('PATH', '')}:/usr/sbin",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        wrong = []
        for number, command in enumerate(typed):
            match = re.search(
                rf"^@@ {number}\n(.*?)^@@ {number} (\d+)$", done.stdout, re.MULTILINE | re.DOTALL
            )
            if match is None:
                wrong.append(f"{command}\n  did not end:\n{done.stdout[-2000:]}")
            elif match[2] != "0":
                wrong.append(f"{command}\n  status {match[2]}: {match[1].strip()[-1000:]}")
            elif _ANSWERS.match(command.text) and not match[1].strip():
                wrong.append(f"{command}\n  says nothing")
        return wrong


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("reader"))
    yield made
    process = made.terminal.process
    assert process is not None
    process.terminate()
    process.wait(60)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_work(page: Path, place: Place) -> None:
    typed = [c for c in commands(page, ROOT, _NOT_HERE)[0] if not _NOT_HERE.match(c.text)]
    if not typed:
        return
    for name in place.terminal.names:  # an earlier page may have killed one
        if not (place.terminal.home / "run" / f"{name}.pid").exists():
            place.terminal.run("stack", "start", name)
    wrong = place.type(typed)
    assert not wrong, "\n".join(wrong)


# --- commands that promote or stop a server of a pair, each on a pair that was just linked

_OF_A_PAIR = sorted(
    {
        command.text
        for command in all_commands()
        for pattern, reason in NOT_HERE.items()
        if reason == _PAIR and re.match(pattern, command.text)
    }
)


@pytest.mark.long
@pytest.mark.parametrize("text", _OF_A_PAIR)
def test_a_command_of_a_failover_by_hand_works(
    text: str, hosts: list[Host], linked: Path, tmp_path: Path
) -> None:
    for number, host in enumerate(hosts, 1):
        text = text.replace(f"--host=mysql{number}", f"--host=127.0.0.1 --port={host.port}")
    text = text.replace("/root/admin.cnf", str(linked))
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# --- pages that are generated from the code


def script(name: str) -> ModuleType:
    """Import docs/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_s_guide_is_the_guide() -> None:
    shown = ROOT / "gateway" / "dashboard" / "guide" / "operations.md"
    assert shown.read_text() == (ROOT / "docs" / "operations.md").read_text()


def test_the_generated_pages_are_up_to_date() -> None:
    for path, text in script("generate").pages().items():
        assert path.read_text() == text, "run: .venv/bin/python docs/generate.py"


def test_the_configuration_reference_explains_every_value() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)`(?: ↻)? \|.*\| ([^|]*) \|$", text, re.MULTILINE))
    for name, section in script("generate").sections():
        for key in section.model_fields:
            assert rows[f"{name}.{key}"].strip(), f"{name}.{key} has no description"
    assert set(rows) - set(re.findall(r"`([\w.]+)` ↻", text)) == NEEDS_RESTART
    assert set(Sections.model_fields) - {"mode"} == {n for n, _ in script("generate").sections()}


def anchors(page: Path) -> set[str]:
    """What links to a page's headings are called, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_the_files_and_headings_that_a_page_links_or_names_exist() -> None:
    for page in PAGES:
        for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
            # A whole run of `make bench` writes docs/bench.
            if "://" not in target and "docs/bench" not in target:
                linked = page.parent / target if target else page
                assert linked.exists(), f"{page.name}: {target}"
                if heading:
                    assert heading in anchors(linked), f"{page.name}: {target}#{heading}"
        for path in re.findall(
            r"`((?:tests|deploy|docs|gateway|failover|sharding|config|bench)/[\w./-]+)`",
            page.read_text(),
        ):
            if not path.startswith("docs/bench"):
                assert (ROOT / path).exists(), f"{page.name}: {path}"


# --- sizing


def test_the_tables_of_the_sizing_page_are_up_to_date() -> None:
    text = (ROOT / "docs" / "sizing.md").read_text()
    assert script("sizing").page(text) == text, "run: .venv/bin/python docs/sizing.py --write"


def test_the_sizing_formulas_agree_with_a_calculation_by_hand() -> None:
    sizing = script("sizing")
    size = sizing.size(
        sizing.Load(listeners=86_400, playlists=1, requests=10, changes=1, peak=2, retention=28),
        sizing.Figures(gateway_cpu_ms=30, mysql_cpu_ms=6, row_bytes=1000, batch=4),
        sizing.Machines(busy=0.5, mysql_cores=0.1),
    )
    assert size.states == 86_400 * 28
    assert size.requests_per_second == size.changes_per_second == 20
    # Filters: ten places a state, 864,000, rounded up to 2^20, each with 4 bytes: 4 MiB.
    assert size.gateway_bytes == (80 + 64 + 4) * 1024**2
    assert size.gateways == 3  # 20 x 30 ms are 0.6 cores, 1.2 if half busy: 2, and a spare
    assert size.connections == 4 * (16 + 2) + 10
    assert size.mysql_cores == pytest.approx(0.24)
    assert size.primaries == 3
    assert size.data_bytes == 86_400 * 30 * 1000
    assert size.iops == 20 / 4 * 2 + 20 * 0.3


def test_twice_the_listeners_need_twice_the_disk_and_no_fewer_machines() -> None:
    sizing = script("sizing")
    for listeners in (1, 1000, 500_000, 50_000_000):
        one, two = (
            sizing.size(sizing.Load(listeners=n), sizing.Figures(), sizing.Machines())
            for n in (listeners, listeners * 2)
        )
        assert two.data_bytes == pytest.approx(2 * one.data_bytes)
        assert two.iops == pytest.approx(2 * one.iops)
        for name in ("gateways", "lookups", "primaries"):
            assert getattr(two, name) >= getattr(one, name)
        assert one.gateways >= 2, "no gateway is spare"
        assert one.lookups >= 3
