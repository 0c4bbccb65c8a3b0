"""64 GiB of memory, nearly all of it holes of the file: walked and read in little memory, whatever the format."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.pageruns import RUNS_MAXIMUM
from tests.builders.elf_writer import ElfCoreBuilder, Piece
from tests.builders.flattened_writer import END, flattened
from tests.builders.kdump_writer import INCOMPLETE, KdumpBuilder
from tests.builders.lime_writer import LimeRange
from tests.builders.pagedump_writer import PagedumpBuilder
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = 4096
VAST = 64 << 30
PAGES = VAST // PAGE
PEAK_KIB_MAX = 160 << 10
READ_ALL = r"""
import pathlib, re, sys
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.hostfile import HostFile
with HostFile(sys.argv[1]) as file:
    dump = open_dump(file)
    buffer = memoryview(bytearray(1 << 20))
    pages = data = 0
    for run in dump.runs():
        pages += run.page_count
        if not run.is_zero:
            data += run.page_count
            dump.read_into(run.first_page, buffer[: min(run.page_count, 256) * 4096])
peak = re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]
print(pages, data, peak)
"""


def elf_header() -> bytes:
    return ElfCoreBuilder([Piece(0, b"", in_file=VAST, offset=PAGE)]).build().ljust(PAGE, b"\0")


def elf() -> list[tuple[int, bytes]]:
    return [(0, elf_header()), (VAST, b"!" * PAGE)]


def lime() -> list[tuple[int, bytes]]:
    return [(0, LimeRange(0, b"", last=VAST - 1).build()), (VAST, b"!" * 32)]


def windows() -> list[tuple[int, bytes]]:
    return [(0, PagedumpBuilder({0: b""}, runs=[(0, PAGES)]).build()), (0x2000 + VAST - PAGE, b"!" * PAGE)]


def kdump(bitmap: bytes) -> list[tuple[int, bytes]]:
    """An incomplete file that has nothing of its pages but the last one, whose number is that of the last bit."""
    pages = bitmap.count(0xFF) * 8 + bitmap.count(0x55) * 4
    table = 2 * PAGE + 2 * len(bitmap)
    stored = table + 24 * pages
    header = KdumpBuilder({}, max_mapnr=8 * len(bitmap), status=INCOMPLETE).build()[: 2 * PAGE]
    last = struct.pack("<QIIQ", stored, PAGE, 0, 0)
    return [(0, header), (436, struct.pack("<I", 2 * len(bitmap) // PAGE)), (2 * PAGE, 2 * bitmap),
            (stored - 24, last), (stored, b"!" * PAGE)]  # fmt: skip


def flat() -> list[tuple[int, bytes]]:
    start = flattened([(0, elf_header())], end=struct.pack(">qq", PAGE, VAST))
    return [(0, start), (len(start) + VAST - PAGE, b"!" * PAGE + END)]


@pytest.mark.parametrize("write", [elf, lime, windows, flat])
def test_64_gib_of_holes_are_told_without_reading(tmp_path: Path, write: Callable[[], list[tuple[int, bytes]]]) -> None:
    pages, data, peak_kib = walk(tmp_path, write())
    assert pages == PAGES
    assert 1 <= data <= 20
    assert peak_kib < PEAK_KIB_MAX


def test_a_table_of_all_pages_is_not_kept(tmp_path: Path) -> None:
    pages, data, peak_kib = walk(tmp_path, kdump(b"\xff" * (PAGES // 8)))
    assert (pages, data) == (1, 1)
    assert peak_kib < PEAK_KIB_MAX


def test_as_many_runs_as_are_kept_take_little_memory_and_more_are_refused(tmp_path: Path) -> None:
    """Every second page."""
    _, data, peak_kib = walk(tmp_path, kdump(b"\x55" * (RUNS_MAXIMUM // 4)))
    assert data == 1
    assert peak_kib < 2 * PEAK_KIB_MAX
    with pytest.raises(subprocess.CalledProcessError) as caught:
        walk(tmp_path, kdump(b"\x55" * (RUNS_MAXIMUM // 4 + PAGE)))
    assert "FormatError: pages in more than" in caught.value.stderr


def walk(directory: Path, parts: list[tuple[int, bytes]]) -> tuple[int, int, int]:
    path = directory / "vast"
    with path.open("wb") as file:
        for at, part in parts:
            file.seek(at)
            file.write(part)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, path], check=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=120
    )
    pages, data, peak_kib = map(int, done.stdout.split())
    return pages, data, peak_kib
