"""Three hosts with Pacemaker on this machine, each in namespaces of its own, on one bridge.

The processes of a host see only each other and the host's network. They have their own copies of
the folders that corosync and Pacemaker write. A host is switched off by killing its first process,
which ends all others.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.pair import DEPLOY

NAMES = ("mysql1", "mysql2", "vote")
PROGRAMS = ("corosync", "pacemakerd", "crm_mon", "cibadmin", "unshare", "nsenter", "ip")
PACKAGES = "apt-get install pacemaker corosync resource-agents"

_BOOT = """\
set -e
hostname {name}
for folder in /var/lib/pacemaker /var/lib/corosync /run /dev/shm /var/log; do
    mount -t tmpfs tmpfs $folder
done
mkdir -p /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores \\
    /var/lib/pacemaker/blackbox /run/crm /run/resource-agents /run/lock /var/log/pacemaker
chown -R hacluster:haclient /var/lib/pacemaker /run/crm /var/log/pacemaker
for file in corosync.conf authkey; do
    touch /var/lib/corosync/$file && cp {folder}/$file /var/lib/corosync/$file
done
mount --bind /var/lib/corosync /etc/corosync
mount --bind {folder}/hosts /etc/hosts
[ ! -e {folder}/{name}.cnf ] || cp {folder}/{name}.cnf /run/pair.cnf
mount --bind {folder}/ocf /usr/lib/ocf/resource.d
mount --bind {folder}/fence /usr/sbin/fence_legacy
corosync -f >{folder}/{name}.corosync 2>&1 &
until corosync-quorumtool -s >/dev/null 2>&1; do sleep 0.2; done
PCMK_logfile={folder}/{name}.pacemaker pacemakerd -f >{folder}/{name}.out 2>&1 &
while :; do wait; sleep 0.2; done
"""

_FENCE = """\
#!/bin/sh
# A fence agent: Pacemaker gives it lines `key=value`, and it has the host switched off.
action=off plug=
while read -r line; do
    case $line in
        action=*) action=${{line#action=}} ;;
        plug=*) plug=${{line#plug=}} ;;
        port=*) plug=${{line#port=}} ;;
        nodename=*) plug=${{line#nodename=}} ;;
    esac
done
case $action in
    metadata)
        echo '<?xml version="1.0"?><resource-agent name="fence_legacy"><longdesc/><parameters>'
        echo '<parameter name="plug"><content type="string"/></parameter></parameters><actions>'
        echo '<action name="off"/><action name="reboot"/><action name="status"/>'
        echo '<action name="monitor"/><action name="list"/><action name="metadata"/>'
        echo '</actions></resource-agent>' ;;
    list) echo mysql1; echo mysql2; echo vote ;;
    off | reboot)
        touch {folder}/$plug.off
        for _ in $(seq 200); do [ -e {folder}/$plug.is-off ] && exit 0; sleep 0.1; done
        exit 1 ;;
esac
exit 0
"""


def missing() -> str:
    """Why the cluster cannot run on this machine; empty if it can."""
    lacks = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacks:
        return f"{', '.join(lacks)} not installed: {PACKAGES}"
    return "" if os.geteuid() == 0 else "only root may make network namespaces"


def _sh(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Node:
    """A host of the cluster."""

    def __init__(self, cluster: Cluster, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.space = f"{cluster.prefix}-{name}"
        self._folder = cluster.folder
        self._init: subprocess.Popen[bytes] | None = None
        _sh("ip", "netns", "add", self.space)
        outside, inside = f"{cluster.prefix}{number}", f"{cluster.prefix}i{number}"
        _sh("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        _sh("ip", "link", "set", inside, "netns", self.space, "name", "eth0")
        _sh("ip", "link", "set", outside, "master", cluster.bridge, "up")
        for words in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _sh("ip", "-n", self.space, *words)

    def boot(self) -> None:
        """Switch it on."""
        for flag in ("off", "is-off"):
            (self._folder / f"{self.name}.{flag}").unlink(missing_ok=True)
        script = _BOOT.format(name=self.name, folder=self._folder)
        argv = ["ip", "netns", "exec", self.space, "unshare", "--mount", "--uts", "--ipc", "--pid"]
        with (self._folder / f"{self.name}.boot").open("wb") as log:
            self._init = subprocess.Popen(
                [*argv, "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
                stdout=log,
                stderr=log,
            )

        until(self._children, f"{self.name} has a first process")
        self._first = self._children()[0]

    def _children(self) -> list[int]:
        """The id of the host's first process, as seen from this namespace; empty before it runs."""
        assert self._init is not None
        assert self._init.poll() is None, (self._folder / f"{self.name}.boot").read_text()
        path = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def run(self, *words: str, check: bool = True, given: str | None = None) -> str:
        """Run a command on the host; return what it printed.

        Raises:
            RuntimeError: the command failed, and `check` is true.
        """
        argv = ["nsenter", "--target", str(self._first), "--all", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, input=given)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def power_off(self) -> None:
        """End all processes of the host at once."""
        if self._init is not None and self._init.poll() is None:
            os.kill(self._first, signal.SIGKILL)
            self._init.wait()
        (self._folder / f"{self.name}.is-off").touch()


class Cluster:
    """Three hosts, connected by a bridge in this process's network namespace.

    Args:
        folder: for their files.
    """

    bridge = "tdk-bridge"
    prefix = f"tdk{os.getpid() % 10_000}"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree("/usr/lib/ocf/resource.d", folder / "ocf", symlinks=True)
        agent = folder / "ocf" / "tapedeck" / "mariadb"
        agent.parent.mkdir()
        shutil.copy(DEPLOY / "mysql/pacemaker/mariadb", agent)
        (folder / "fence").write_text(_FENCE.format(folder=folder))
        (folder / "fence").chmod(0o755)
        (folder / "authkey").write_bytes(os.urandom(128))
        config = (DEPLOY / "mysql/pacemaker/corosync.conf").read_text()
        (folder / "corosync.conf").write_text(config.replace("to_syslog: yes", "to_stderr: yes"))
        _sh("ip", "link", "add", self.bridge, "type", "bridge")
        _sh("ip", "addr", "add", "10.77.0.254/24", "dev", self.bridge)
        _sh("ip", "link", "set", self.bridge, "up")
        self.nodes = [Node(self, name, n) for n, name in enumerate(NAMES, 1)]
        lines = [f"{node.address} {node.name}" for node in self.nodes]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def watch_power(self) -> str | None:
        """Switch off the host that the fence agent asks for; return its name, or None."""
        for node in self.nodes:
            if (self.folder / f"{node.name}.off").exists() and not (
                self.folder / f"{node.name}.is-off"
            ).exists():
                node.power_off()
                return node.name
        return None

    def close(self) -> None:
        """Switch all hosts off, and remove their namespaces and the bridge."""
        for node in self.nodes:
            node.power_off()
            subprocess.run(["ip", "netns", "del", node.space], check=False)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for a condition, which `what` describes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
