"""The private names of libraries that the program uses: one file for each library, and all exist.

Each file says what it uses them for. If a new release has removed one, read the file and the
release's source before the range in pyproject.toml is widened.
"""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import aiomysql
import pymysql
from aiohttp.web_protocol import RequestHandler

from failover.mysql import connection
from gateway.http import protocol
from sharding.importing import sources

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "sharding", "failover", "config", "cli")
DOCUMENTED = {"_replace", "_asdict", "_exit"}
"""Public names of the standard library that begin with an underscore."""


def missing(has: object, names: tuple[str, ...], library: str, file: str) -> str:
    """A sentence about the names that are missing; empty if none is."""
    source = inspect.getsource(type(has) if not isinstance(has, type) else has)
    gone = [name for name in names if not hasattr(has, name) and f"self.{name} =" not in source]
    if not gone:
        return ""
    return (
        f"{library} {version(library)} has no {', '.join(gone)} any more: {file} uses them, and"
        " says what for"
    )


def test_aiohttp_has_the_private_names_that_the_protocol_uses() -> None:
    why = missing(RequestHandler, protocol.PRIVATE, "aiohttp", "gateway/http/protocol.py")
    assert not why, why


async def test_aiomysql_has_the_private_names_that_connections_use() -> None:
    file = "failover/mysql/connection.py"
    why = missing(aiomysql.Connection(), connection.PRIVATE, "aiomysql", file) or missing(
        aiomysql.Cursor, connection.PRIVATE_OF_CURSOR, "aiomysql", file
    )
    assert not why, why


def test_pymysql_has_the_private_names_that_a_source_uses() -> None:
    file = "sharding/importing/sources.py"
    why = missing(pymysql.Connection, sources.PRIVATE, "PyMySQL", file) or missing(
        pymysql.cursors.Cursor, sources.PRIVATE_OF_CURSOR, "PyMySQL", file
    )
    assert not why, why


def private_names(file: Path) -> tuple[set[str], set[str]]:
    """The names that a file defines, and the private names that it uses."""
    own, used = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                own.add(node.name)
            case ast.Name(ctx=ast.Store()):
                own.add(node.id)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                own.add(node.attr)
            case ast.Attribute():
                used.add(node.attr)
            case ast.ImportFrom():
                used.update((node.module or "").split("."), (alias.name for alias in node.names))
            case ast.Import():
                used.update(part for alias in node.names for part in alias.name.split("."))
    return own, {name for name in used if name.startswith("_") and not name.endswith("__")}


def test_no_other_file_uses_a_private_name_of_a_library() -> None:
    names = {
        file: private_names(file)
        for package in PACKAGES
        for file in ROOT.glob(f"{package}/**/*.py")
    }
    ours = {name for own, _ in names.values() for name in own}
    known = {
        ROOT / "gateway/http/protocol.py": {*protocol.PRIVATE, "_ErrInfo", "_kwargs"},
        ROOT / "failover/mysql/connection.py": set(connection.PRIVATE),
        ROOT / "sharding/importing/sources.py": {*sources.PRIVATE, *sources.PRIVATE_OF_CURSOR},
    }
    wrong = {
        str(file.relative_to(ROOT)): foreign
        for file, (_, used) in names.items()
        if (foreign := used - ours - DOCUMENTED - known.get(file, set()))
    }
    assert not wrong, f"{wrong}: the private names of a library belong in one file"
