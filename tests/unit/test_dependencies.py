"""What is installed with Tapedeck: every package is pinned, needed, and free to use.

`make audit`, which needs the network, asks whether one of them has a known vulnerability.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Licences of the packages that a gateway in production loads. A word of the name is enough.
FREE = re.compile(
    r"MIT|BSD|Apache|ISC|MPL|Mozilla Public|PSF|Python Software Foundation|Unlicense|0BSD|Zlib",
    re.IGNORECASE,
)
# Packages whose metadata do not name the licence: read by a person.
KNOWN = {"uhashring": "BSD-3-Clause", "toxiproxy-python": "MIT", "tapedeck-player-gateway": "ours"}


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            found[canonicalize_name(name)] = version
    return found


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def closure(*extras: str) -> dict[str, Distribution]:
    """Everything that Tapedeck with these extras needs here, directly or not."""
    # From pyproject.toml: an environment that was installed before a change of it still counts.
    ours = [*PROJECT["dependencies"]]
    for extra in extras:
        ours += PROJECT["optional-dependencies"][extra]
    open_ends = [(one.name, frozenset(one.extras)) for one in map(Requirement, ours)]
    found: dict[str, Distribution] = {}
    seen = set()
    while open_ends:
        name, wanted = open_ends.pop()
        if (name, wanted) in seen or (one := installed(name)) is None:
            continue
        seen.add((name, wanted))
        found[canonicalize_name(name)] = one
        for line in one.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*wanted, "")):
                open_ends.append((requirement.name, frozenset(requirement.extras)))
    return found


def test_every_line_pins_one_version_of_one_package() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    names = [canonicalize_name(line.partition("==")[0]) for line in lines if line[:1] != "#"]
    assert len(names) == len(set(names))


def test_everything_that_is_needed_is_pinned_and_installed_as_pinned() -> None:
    pinned = pins()
    for name, one in closure("dev").items():
        assert pinned.get(name) == one.version, f"{name} {one.version} is not what is pinned"


def test_every_pinned_package_is_needed() -> None:
    """A package that nothing needs could be a stranger's, under a name like that of a known one."""
    needed = set(closure("dev", "bench"))
    # What is not installed here is needed by another Python or machine, or by `make bench`.
    elsewhere = {name for name in pins() if installed(name) is None}
    unknown = set(pins()) - needed - elsewhere
    assert not unknown, "pinned, installed, and needed by nothing"


def test_no_package_comes_from_an_address() -> None:
    direct = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        direct += extra
    for line in direct:
        assert Requirement(line).url is None, line
    for text in ((ROOT / "constraints.txt").read_text(), (ROOT / "pyproject.toml").read_text()):
        assert not re.search(r"https?://|git\+|--(extra-)?index-url|--find-links", text)


@pytest.mark.parametrize("name", sorted(closure()))
def test_packages_in_production_have_a_free_licence(name: str) -> None:
    metadata = closure()[name].metadata
    said = [metadata.get("License-Expression"), metadata.get("License"), KNOWN.get(name)]
    said += [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    assert FREE.search(" ".join(text[:200] for text in said if text)), (name, said)
