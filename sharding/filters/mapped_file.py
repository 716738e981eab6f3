"""The words of a filter set in a file, which the workers of a gateway share by the page cache.

One worker writes the file under a temporary name and renames it when it is complete. Each worker
checks its checksum and then maps it. A file's name says which filters it has, and a file never
changes: another set of filters is another file. The files and their folder must be this user's own,
and not writable by others: a wrong bit in a filter would hide a state.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import structlog

log = structlog.get_logger("tapedeck.filters")

WAIT_SECONDS = 0.5
"""Seconds between checks whether another worker has made the file."""
_MAGIC = b"TDWords1"
_HEADER_BYTES = 4096
"""A page, so that the words begin at one. Magic, checksum, zeros."""
Fill = Callable[[memoryview], Awaitable[None]]


class BadFile(Exception):
    """A file or folder that must not be used; says why."""


def folder_of(configured: str) -> Path:
    """The folder of the files.

    Args:
        configured: `partitions.filter_folder`.
    """
    if configured:
        return Path(configured)
    parent = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]  # systemd.exec(5)
    if not parent:
        try:
            parent = tempfile.gettempdir()
        except FileNotFoundError:  # no folder is writable, as in a container: no file can be made
            parent = os.sep
    return Path(parent) / f"tapedeck-filters-{os.geteuid()}"


async def map_words(folder: Path, owner: str, signature: str, size: int, fill: Fill) -> memoryview:
    """Map the words of a set of filters from its file, which is made if it is missing.

    If no file can be made, this process gets its own copy of the words, and the log says why.

    Args:
        folder: made if it is missing.
        owner: names the gateway; each database has another one. Its older files are removed: a
            worker that maps one can use it until it ends.
        signature: names the set; letters and digits.
        size: bytes of all words.
        fill: writes the words into zeros.

    Raises:
        Exception: what `fill` raises.
    """
    prefix = hashlib.blake2b(owner.encode(), digest_size=8).hexdigest() + "-"
    name = f"{prefix}{signature}.filters"
    try:
        async with _locked(folder) as fd:
            found = await _read(fd, name, size)
            if found is None:
                await _make(fd, name, size, fill)
                found = await _read(fd, name, size)
            if found is None:
                raise BadFile(f"{name} is not what was written a moment ago")
            for other in os.listdir(fd):
                if other.startswith(prefix) and other != name:
                    with contextlib.suppress(OSError):
                        os.unlink(other, dir_fd=fd)
            return found
    except (OSError, BadFile) as error:
        log.warning("filters not shared", folder=str(folder), reason=str(error), bytes=size)
    words = memoryview(mmap.mmap(-1, size))
    await fill(words)
    return words


@contextlib.asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[int]:
    """Open a folder, and hold its lock, which ends with the process."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_owner(os.fstat(fd), str(folder))
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(WAIT_SECONDS)
        yield fd
    finally:
        os.close(fd)


async def _make(folder: int, name: str, size: int, fill: Fill) -> None:
    making = name + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(making, dir_fd=folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(making, flags, 0o600, dir_fd=folder)
    try:
        # A full disk must be an error here, not a SIGBUS when the mapping is written.
        await asyncio.to_thread(os.posix_fallocate, fd, 0, _HEADER_BYTES + size)
        whole = memoryview(mmap.mmap(fd, _HEADER_BYTES + size))
        await fill(whole[_HEADER_BYTES:])
        header = await asyncio.to_thread(_header, whole[_HEADER_BYTES:])
        whole[: len(header)] = header
        os.rename(making, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(making, dir_fd=folder)
        raise
    finally:
        os.close(fd)


async def _read(folder: int, name: str, size: int) -> memoryview | None:
    """Map a file's words; None if the file is missing or damaged."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        _check_owner(status, name)
        if not stat.S_ISREG(status.st_mode) or status.st_size != _HEADER_BYTES + size:
            log.warning("filter file refused", file=name, reason="it has another size")
            return None
        whole = memoryview(mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ))
    finally:
        os.close(fd)
    words = whole[_HEADER_BYTES:]
    header = await asyncio.to_thread(_header, words)
    if whole[: len(header)] != header:
        log.warning("filter file refused", file=name, reason="its checksum is another")
        return None
    return words


def _check_owner(status: os.stat_result, name: str) -> None:
    if status.st_uid != os.geteuid():
        raise BadFile(f"{name} belongs to another user (uid {status.st_uid})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadFile(f"{name} is writable by other users")


def _header(words: memoryview) -> bytes:
    return _MAGIC + hashlib.blake2b(words, digest_size=32).digest()
