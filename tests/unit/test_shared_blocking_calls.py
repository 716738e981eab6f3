"""A call that does not return, and a file that cannot be read, stop nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config.model import ClientTls
from config.tls import TlsProblem
from failover.blocking_calls import SharedCall, in_thread
from failover.tls_contexts import context_for
from tests.support.certificates import Authority


async def test_while_a_call_does_not_return_its_last_good_result_is_used() -> None:
    answers = threading.Event()
    answers.set()
    calls = []

    def call() -> int:
        calls.append(1)
        answers.wait(60)
        return len(calls)

    kept = SharedCall("silent", call)
    assert await kept.get() == 1
    answers.clear()
    assert [await kept.get(patience=0.001) for _ in range(20)] == [1] * 20
    assert len(calls) == 2
    answers.set()
    async with asyncio.timeout(60):
        while await kept.get(patience=10) == 1:
            await asyncio.sleep(0.001)


async def test_a_call_s_exception_reaches_its_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread("raises", lambda: 1 // 0)


async def test_while_certificates_cannot_be_read_the_last_ones_are_used(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    config = ClientTls(tls=True, tls_ca_file=authority.file)
    context = await context_for(config)
    assert context is not None
    os.unlink(authority.file)
    os.mkfifo(authority.file)  # a reader waits for ever
    async with asyncio.timeout(60):
        assert await context_for(config) is context
        assert await context_for(config) is context
    os.unlink(authority.file)


async def test_with_a_broken_file_the_last_certificates_are_used(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    config = ClientTls(tls=True, tls_ca_file=authority.file)
    context = await context_for(config)
    break_file(authority.file)
    assert await context_for(config) is context
    Authority(tmp_path)
    renewed = await context_for(config)
    assert renewed is not context
    never = ClientTls(tls=True, tls_ca_file=str(tmp_path / "nowhere"))
    with pytest.raises(TlsProblem):
        await context_for(never)


def break_file(file: str) -> None:
    Path(file).write_text("half")


def test_a_process_ends_even_if_a_call_does_not_return() -> None:
    program = """
import asyncio, threading
from failover.blocking_calls import in_thread
async def main():
    asyncio.create_task(in_thread("silent", threading.Event().wait))
    await asyncio.sleep(0.01)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
