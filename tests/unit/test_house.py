"""Packages import only those below them, and folders do not import each other in a circle.

The packages and folders: CONTRIBUTING.md.
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
    """`gateway.http` for `gateway.http.router`; a module in no folder counts as a folder itself."""
    return ".".join(module.split(".")[:2])


def imports_inside(package: str) -> dict[str, set[str]]:
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
def test_folders_of_a_package_do_not_import_each_other_in_a_circle(package: str) -> None:
    imports = imports_inside(package)
    left = {folder: set(needed) for folder, needed in imports.items()}
    # A folder that imports none of the others is in no circle: remove such folders repeatedly.
    while free := [folder for folder in left if not left[folder] & left.keys()]:
        for folder in free:
            del left[folder]
    circles = [f"{folder} -> {', '.join(sorted(left[folder] & left.keys()))}" for folder in left]
    assert not circles, f"folders that import each other: {'; '.join(sorted(circles))}"


def test_gateway_http_imports_nothing_of_what_the_gateway_serves() -> None:
    """It could serve another program as well."""
    known = {"gateway.http", "gateway.logs", "gateway.metrics", "gateway.telemetry"}
    needed = imports_inside("gateway")["gateway.http"]
    assert needed <= known, f"gateway.http imports {needed - known}"
