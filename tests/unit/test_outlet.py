"""A program whose output is not read goes on, ends, and reports how many lines were dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway import metrics
from gateway.log_queue import MOST_BYTES, Outlet
from tests.support.terminal import eventually, full_pipe


def read_on(descriptor: int) -> tuple[threading.Thread, list[bytes]]:
    """Read to the end in a thread, into the list that is returned."""
    came: list[bytes] = []

    def read() -> None:
        while piece := os.read(descriptor, 1 << 16):
            came.append(piece)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, came


def run(program: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program whose output and error are a pipe that is full; it and the pipe's reader."""
    reader, writer = full_pipe()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=writer, stderr=writer)
    os.close(writer)
    return process, reader


def test_lines_stay_in_order_and_the_number_of_dropped_ones_is_written_in_their_place() -> None:
    reader, writer = os.pipe()
    before = metrics.LOG_LINES_DROPPED._value.get()
    stream = Outlet(writer)
    total = 40_000
    for number in range(total):
        stream.write(f"{number:099}\n".encode())
    dropped = metrics.LOG_LINES_DROPPED._value.get() - before
    assert total - dropped >= MOST_BYTES // 100
    assert dropped > total // 2

    _, came = read_on(reader)
    stream.drain(60)
    stream.write(b"after\n")
    stream.drain(60)
    assert eventually(lambda: b"".join(came).endswith(b"after\n"))
    lines = b"".join(came).decode().splitlines()
    kept = int(total - dropped)
    assert [int(line) for line in lines[:kept]] == list(range(kept))
    assert lines[kept:] == [
        f"tapedeck: {dropped:.0f} lines were dropped here: they were not read",
        "after",
    ]


def test_a_line_larger_than_the_queue_is_written_whole() -> None:
    reader, writer = os.pipe()
    _, came = read_on(reader)
    stream = Outlet(writer)
    stream.write(b"x" * (2 * MOST_BYTES))
    stream.drain(60)
    assert eventually(lambda: len(b"".join(came)) == 2 * MOST_BYTES)


def test_after_the_reader_has_closed_lines_are_dropped_without_an_error() -> None:
    reader, writer = os.pipe()
    stream = Outlet(writer)
    os.close(reader)
    before = metrics.LOG_LINES_DROPPED._value.get()
    stream.write(b"gone\n")
    stream.drain(60)
    assert metrics.LOG_LINES_DROPPED._value.get() == before + 1


def test_a_full_non_blocking_pipe_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = Outlet(writer)
    for _ in range(100):
        stream.write(b"y" * 4096)
    _, came = read_on(reader)
    stream.drain(60)
    assert eventually(lambda: len(b"".join(came)) == 100 * 4096)


ENDS = """
import sys, warnings
from gateway import log_queue, metrics
log_queue.install()
print("said")
warnings.warn("warned")
class Bad:
    def __del__(self): raise ValueError("unraisable")
Bad()
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("raise RuntimeError('uncaught')", 1), ("sys.exit('bye')", 1)]
)
def test_a_program_ends_even_if_its_last_output_is_not_read(end: str, status: int) -> None:
    process, reader = run(ENDS + end)
    try:
        assert process.wait(60) == status
    finally:
        process.kill()
        os.close(reader)


def test_a_program_s_last_output_reaches_its_reader() -> None:
    process, reader = run(ENDS + "raise RuntimeError('uncaught')")
    thread, came = read_on(reader)
    assert process.wait(60) == 1
    thread.join(60)
    text = b"".join(came).decode()
    for words in (
        "said",
        "UserWarning: warned",
        "ValueError: unraisable",
        "RuntimeError: uncaught",
    ):
        assert words in text
    os.close(reader)


def test_a_signal_handler_may_log_while_another_line_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        stream = Outlet(file.fileno())
        before = signal.signal(signal.SIGALRM, lambda *_: stream.write(b"signal\n"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for _ in range(20_000):
                stream.write(b"line\n")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        stream.drain(60)
    lines = log.read_bytes().splitlines()
    assert set(lines) == {b"line", b"signal"}
