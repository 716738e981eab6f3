"""In which circumstances a drill ran: versions, the machine, and the command that repeats it."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version

from drills.scene import Scenario
from drills.stage import Stage


def versions(stage: Stage) -> dict[str, str]:
    """By part, which version it is; a part that does not answer is left out. Blocks."""
    found = {
        "gateway": version("tapedeck-player-gateway"),
        "Python": platform.python_version(),
    }
    with contextlib.suppress(Exception):
        found["MySQL"] = " ".join(map(str, stage.query("SELECT VERSION(), @@version_comment")[0]))
    nodes = stage.cluster.servers if stage.cluster is not None else stage.lookups
    with contextlib.suppress(Exception):
        with nodes[0].client() as client:
            told = client.info("server")
        name = str(told.get("server_name", "redis"))
        found["lookup nodes"] = f"{name} {told.get(f'{name}_version', told['redis_version'])}"
    return found


def machine() -> dict[str, str]:
    """What the drill has to run on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {memory / 2**30:.1f} GiB of memory",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before the drill": " ".join(f"{load:.1f}" for load in os.getloadavg())
        + " (1, 5, 15 minutes)",
    }


def command(scenario: Scenario, long: bool, rate: float, seed: int, configs: Sequence[str]) -> str:
    """What to type to have the same drill again, with the same choices of the load."""
    argv = ["tapedeck", "drill", scenario.name, *([] if long else ["--short"])]
    argv += ["--rate", f"{rate:g}", "--seed", str(seed), *scenario.words]
    for path in configs:
        argv += ["--config", path]
    return shlex.join(argv)
