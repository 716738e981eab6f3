"""The file with the filters' words: workers share it, and check it and its owner."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sharding.filters import mapped_file
from sharding.filters.mapped_file import folder_of, map_words

SIZE = 1 << 16


class Filled:
    """Fills words with one byte, and counts how often."""

    def __init__(self, byte: int = 7) -> None:
        self.byte = byte
        self.times = 0

    async def __call__(self, words: memoryview) -> None:
        self.times += 1
        assert words.nbytes == SIZE
        assert bytes(words) == bytes(SIZE)
        words[:] = bytes([self.byte]) * SIZE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "filters"


def words_of(folder: Path, signature: str, fill: Filled, owner: str = "a") -> memoryview:
    return asyncio.run(map_words(folder, owner, signature, SIZE, fill))


def only_file(folder: Path) -> Path:
    (found,) = folder.glob("*.filters")
    return found


def test_a_second_worker_uses_the_file_that_the_first_made(folder: Path) -> None:
    fill = Filled()
    first = words_of(folder, "one", fill)
    second = words_of(folder, "one", fill)
    assert fill.times == 1
    assert bytes(first) == bytes(second) == b"\x07" * SIZE
    assert second.readonly
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_workers_that_start_at_the_same_time_make_the_file_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_file, "WAIT_SECONDS", 0.001)
    fill = Filled()
    found = await asyncio.gather(*(map_words(folder, "a", "one", SIZE, fill) for _ in range(8)))
    assert fill.times == 1
    assert all(words == found[0] for words in found)


def test_a_new_set_of_filters_replaces_the_file_and_the_old_mapping_stays_valid(
    folder: Path,
) -> None:
    old = words_of(folder, "one", Filled(1))
    new = words_of(folder, "two", Filled(2))
    assert bytes(new) == b"\x02" * SIZE
    assert bytes(old) == b"\x01" * SIZE
    assert "two" in only_file(folder).name
    words_of(folder, "one", Filled(3), "of another database")
    assert len(list(folder.glob("*.filters"))) == 2


@pytest.mark.parametrize("at", [0, 8, 4096, 4096 + SIZE - 1])
def test_a_file_with_a_changed_byte_is_made_anew(folder: Path, at: int) -> None:
    words_of(folder, "one", Filled())
    content = bytearray(only_file(folder).read_bytes())
    content[at] ^= 1
    only_file(folder).write_bytes(bytes(content))
    fill = Filled()
    assert bytes(words_of(folder, "one", fill)) == b"\x07" * SIZE
    assert fill.times == 1


@pytest.mark.parametrize("length", [0, 100, 4096, 4096 + SIZE - 1, 4096 + SIZE + 1])
def test_a_file_of_another_length_is_made_anew(folder: Path, length: int) -> None:
    words_of(folder, "one", Filled())
    os.truncate(only_file(folder), length)
    fill = Filled()
    assert bytes(words_of(folder, "one", fill)) == b"\x07" * SIZE
    assert fill.times == 1


def test_after_a_worker_died_while_making_the_file_another_one_makes_it(
    folder: Path,
) -> None:
    incomplete = []

    async def dies(words: memoryview) -> None:
        words[:5] = b"short"
        incomplete.extend(name for name in os.listdir(folder) if name.endswith(".new"))
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        words_of(folder, "one", dies)
    assert list(folder.glob("*.filters")) == []
    # A killed worker leaves an incomplete file.
    (folder / incomplete[0]).write_bytes(b"half")
    words = words_of(folder, "one", Filled())
    assert bytes(words) == b"\x07" * SIZE


def refused(folder: Path, reason: str) -> None:
    """Require that a worker does not use the file, but its own words, and logs the reason."""
    fill = Filled()
    with capture_logs() as lines:
        words = words_of(folder, "one", fill)
    assert bytes(words) == b"\x07" * SIZE
    assert fill.times == 1
    assert reason in str([line.get("reason") for line in lines])


def test_a_folder_that_others_may_write_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    refused(folder, "writable by other users")
    assert list(folder.iterdir()) == []


def test_a_link_in_the_folder_s_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    refused(folder, "Not a directory")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_folder_or_file_of_another_user_is_not_used(folder: Path) -> None:
    words_of(folder, "one", Filled(1))
    os.chown(only_file(folder), 12345, -1)
    refused(folder, "belongs to another user (uid 12345)")
    os.chown(folder, 12345, -1)
    refused(folder, "belongs to another user (uid 12345)")


def test_if_no_file_can_be_made_each_worker_has_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "below", "Not a directory")


def test_the_folder_is_the_configured_one_or_the_service_s_or_a_temporary_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/t")
    assert folder_of("/x/y") == Path("/x/y")
    assert folder_of("") == Path(f"/t/tapedeck-filters-{os.geteuid()}")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/tapedeck:/other")
    assert folder_of("").parent == Path("/var/cache/tapedeck")


def test_without_a_writable_folder_the_chosen_one_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container with a read-only root file system, and no /tmp."""

    def none_usable() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", none_usable)
    assert folder_of("").parent == Path("/")
