"""Where things may stand: packages need only those below them, and no folder needs itself.

The rooms and their names: CONTRIBUTING.md.
"""

from __future__ import annotations

from collections import defaultdict

import grimp
import pytest

BELOW = {
    "cli": {"gateway", "sharding", "failover", "config", "stack", "drills"},
    "gateway": {"sharding", "failover", "config"},
    "sharding": {"failover", "config"},
    "failover": {"config"},
    "config": set(),
}
"""Which packages each package may import."""
OUTSIDE = ("stack", "drills", "bench")
GRAPH = grimp.build_graph(*BELOW, *OUTSIDE, cache_dir=None)


def folder_of(module: str) -> str:
    """`gateway.http` for `gateway.http.router`; a module that stands in no folder is its own."""
    return ".".join(module.split(".")[:2])


def arrows_inside(package: str) -> dict[str, set[str]]:
    """Which folders of a package each of its folders imports."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in GRAPH.find_descendants(package):
        for imported in GRAPH.find_modules_directly_imported_by(module):
            if imported.startswith(f"{package}.") and folder_of(imported) != folder_of(module):
                arrows[folder_of(module)].add(folder_of(imported))
    return arrows


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in (package, *GRAPH.find_descendants(package))
        for imported in GRAPH.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] not in {package, *BELOW[package]}
    ]
    assert not wrong, f"{'; '.join(sorted(wrong))}: {package} may import {BELOW[package]}"


@pytest.mark.parametrize("package", ["cli", "gateway", "sharding", "failover", "config"])
def test_no_folder_of_a_package_needs_one_that_needs_it(package: str) -> None:
    arrows = arrows_inside(package)
    left = {folder: set(needed) for folder, needed in arrows.items()}
    # What needs nothing that is left is in no circle: take it away until nothing changes.
    while free := [folder for folder in left if not left[folder] & left.keys()]:
        for folder in free:
            del left[folder]
    circles = [f"{folder} -> {', '.join(sorted(left[folder] & left.keys()))}" for folder in left]
    assert not circles, f"folders that need each other: {'; '.join(sorted(circles))}"


def test_what_speaks_http_knows_nothing_of_what_is_served() -> None:
    """`gateway.http` would serve another program as well."""
    known = {"gateway.http", "gateway.logs", "gateway.metrics", "gateway.telemetry"}
    needed = arrows_inside("gateway")["gateway.http"]
    assert needed <= known, f"gateway.http imports {needed - known}"
