"""Physical memory: ranges, holes, the notes area, and its use by another process."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dumpwriter.memory.physical import NOTES_AREA_BYTES, MemoryRange, MemoryRun, PhysicalMemory
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096
MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with closing(PhysicalMemory.create([(0, 16 * PAGE), (4 * MIB, MIB)])) as memory:
        yield memory


def test_ranges_follow_each_other_and_the_notes_follow_them(memory: PhysicalMemory) -> None:
    assert memory.ranges == (MemoryRange(0, 16 * PAGE, 0), MemoryRange(4 * MIB, MIB, 16 * PAGE))
    assert memory.size_bytes == memory.notes_offset_bytes == 16 * PAGE + MIB
    assert os.fstat(memory.fd).st_size == memory.size_bytes + NOTES_AREA_BYTES


def test_reads_what_was_written_and_zeros_elsewhere(memory: PhysicalMemory) -> None:
    memory.write(4 * MIB + 100, b"hello")
    assert memory.read(4 * MIB + 98, 9) == b"\0\0hello\0\0"
    assert memory.read(0, 16 * PAGE) == bytes(16 * PAGE)


@pytest.mark.parametrize(
    ("physical", "length"), [(16 * PAGE, 1), (15 * PAGE, PAGE + 1), (5 * MIB, 1), (-1, 1), (0, -1)]
)
def test_what_is_not_ram_is_refused(memory: PhysicalMemory, physical: int, length: int) -> None:
    with pytest.raises(ValueError, match="not RAM"):
        memory.offset_bytes(physical, length)


def test_reading_holes_fills_none(memory: PhysicalMemory) -> None:
    memory.write(4 * MIB + 8 * PAGE, bytes(PAGE))
    used = os.fstat(memory.fd).st_blocks
    for run in memory.runs():
        assert memory.read(run.physical_bytes, run.length_bytes) == bytes(run.length_bytes)
    assert os.fstat(memory.fd).st_blocks == used


def test_runs_cover_all_of_ram_once(memory: PhysicalMemory) -> None:
    memory.write(0, b"x")
    memory.write(4 * MIB + 8 * PAGE, bytes(2 * PAGE))
    memory.write_notes(b"notes are no RAM")
    assert list(memory.runs()) == [
        MemoryRun(0, PAGE, is_hole=False),
        MemoryRun(PAGE, 15 * PAGE, is_hole=True),
        MemoryRun(4 * MIB, 8 * PAGE, is_hole=True),
        MemoryRun(4 * MIB + 8 * PAGE, 2 * PAGE, is_hole=False),
        MemoryRun(4 * MIB + 10 * PAGE, MIB - 10 * PAGE, is_hole=True),
    ]


def test_runs_of_neighbouring_ranges_stay_apart(memory: PhysicalMemory) -> None:
    memory.write(15 * PAGE, bytes(PAGE))
    memory.write(4 * MIB, bytes(PAGE))
    data = [run for run in memory.runs() if not run.is_hole]
    assert data == [MemoryRun(15 * PAGE, PAGE, is_hole=False), MemoryRun(4 * MIB, PAGE, is_hole=False)]


def test_it_can_neither_shrink_nor_grow(memory: PhysicalMemory) -> None:
    for size in (0, 64 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_another_process_reads_it_by_descriptor_and_ranges(memory: PhysicalMemory) -> None:
    memory.write(4 * MIB, b"seen from afar")
    memory.write_notes(b"note")
    program = (
        "from dumpwriter.memory.physical import PhysicalMemory\n"
        f"memory = PhysicalMemory({memory.fd}, {[tuple(part) for part in memory.ranges]})\n"
        f"print(memory.read({4 * MIB}, 14), memory.read_notes())"
    )
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, pass_fds=[memory.fd], capture_output=True, text=True, check=True)
    assert answer.stdout == "b'seen from afar' b'note'\n"


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(0, 100, 0)],
        [(0, 0, 0)],
        [(-PAGE, PAGE, 0)],
        [(0, PAGE, PAGE)],
        [(0, 2 * PAGE, 0), (PAGE, PAGE, 2 * PAGE)],
        [(0, PAGE, 0), (PAGE, PAGE, 4 * PAGE)],
        [(0, 1024 * MIB, 0)],
    ],
)
def test_ranges_that_cannot_be_are_refused(memory: PhysicalMemory, ranges: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match=r"memory"):
        PhysicalMemory(memory.fd, [MemoryRange(*part) for part in ranges])


def test_notes_come_back(memory: PhysicalMemory) -> None:
    assert memory.read_notes() == b""
    longest = b"n" * memory.notes_capacity_bytes
    memory.write_notes(longest)
    assert memory.read_notes() == longest
    memory.write_notes(b"short")
    assert memory.read_notes() == b"short"


def test_notes_too_long_and_a_scribbled_length_are_declared_errors(memory: PhysicalMemory) -> None:
    with pytest.raises(FormatError, match="notes area"):
        memory.write_notes(bytes(NOTES_AREA_BYTES))
    os.pwrite(memory.fd, b"\xff" * 8, memory.notes_offset_bytes)
    with pytest.raises(FormatError, match="claims"):
        memory.read_notes()


def test_closing_twice_is_harmless() -> None:
    memory = PhysicalMemory.create([(0, PAGE)])
    memory.close()
    memory.close()
