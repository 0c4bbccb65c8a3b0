"""The simulated memory: classes, contents, log, registers, size on the host."""

from __future__ import annotations

import os
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import Clock, SimulatedMemory
from dumpwriter.memory.source import PageClass
from tests.builders.printk_reader import LogLine, read_log
from vdisk.errors import GhostdumpError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.memory.source import MemorySource

MIB = 1 << 20
PAGE = 4096


class Ticks:
    """A clock that moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self.seconds = 0

    def uptime_ns(self) -> int:
        self.seconds += 1
        return self.seconds * 10**9

    def wall_seconds(self) -> int:
        return 1_700_000_000 + self.seconds


def machine(size_bytes: int = 16 * MIB, cpu_count: int = 2) -> SimulatedMemory:
    ticks = Ticks()
    return SimulatedMemory(size_bytes, cpu_count=cpu_count, clock=Clock(ticks.uptime_ns, ticks.wall_seconds))


@pytest.fixture
def simulated() -> Iterator[SimulatedMemory]:
    with closing(machine()) as simulated:
        yield simulated


def notes_of(source: MemorySource) -> list[tuple[bytes, int, bytes]]:
    notes, position, found = source.memory.read_notes(), 0, []
    while position < len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, position)
        content_at = position + 12 + (name_size + 3) // 4 * 4
        found.append((notes[position + 12 : position + 12 + name_size], kind, notes[content_at : content_at + size]))
        position = content_at + (size + 3) // 4 * 4
    return found


def vmcoreinfo_of(source: MemorySource) -> str:
    (text,) = (content for name, _, content in notes_of(source) if name == b"VMCOREINFO\0")
    return text.decode()


def log_of(source: MemorySource) -> list[LogLine]:
    return read_log(source.memory.read, vmcoreinfo_of(source))


def registers_of(source: MemorySource) -> list[tuple[int, ...]]:
    statuses = [content for name, kind, content in notes_of(source) if (name, kind) == (b"CORE\0", 1)]
    assert all(len(content) == 336 for content in statuses)
    return [struct.unpack_from("<27Q", content, 112) for content in statuses]


@pytest.mark.parametrize("size_bytes", [16 * MIB, 16 * MIB + PAGE, 63 * MIB + 5 * PAGE, 1024 * MIB, 3000 * MIB])
def test_classes_cover_every_page_once(size_bytes: int) -> None:
    with closing(machine(size_bytes)) as simulated:
        page = 0
        for run in simulated.page_classes():
            assert run.first_page == page
            assert run.page_count > 0
            page += run.page_count
        assert page * PAGE == size_bytes
        assert {run.page_class for run in simulated.page_classes()} == set(PageClass)


def test_planted_pages_name_themselves_and_free_pages_are_holes(simulated: SimulatedMemory) -> None:
    holes = {
        page
        for run in simulated.memory.runs()
        if run.is_hole
        for page in range(run.physical_bytes // PAGE, (run.physical_bytes + run.length_bytes) // PAGE)
    }
    for run in simulated.page_classes():
        for page in range(run.first_page, run.first_page + run.page_count):
            if run.page_class is PageClass.CACHE:
                name = f"ghostdump page {page:#014x} {run.page_class.name.lower()}\n"
                assert simulated.memory.read(page * PAGE, len(name)).decode() == name
            if run.page_class is PageClass.FREE:
                assert page in holes


def test_no_two_planted_pages_are_equal(simulated: SimulatedMemory) -> None:
    planted = [run for run in simulated.page_classes() if run.page_class is not PageClass.FREE]
    pages = [
        simulated.memory.read(page * PAGE, PAGE)
        for run in planted
        for page in range(run.first_page, run.first_page + run.page_count)
    ]
    filled = [page for page in pages if any(page)]
    # Page descriptors repeat themselves; all else is different.
    assert len(set(filled)) > len(filled) - 64


def test_equal_machines_have_equal_memories() -> None:
    with closing(machine()) as first, closing(machine()) as second:
        for source in (first, second):
            source.log("boot")
            source.bugcheck(0xD1, (1, 2, 3, 4), "the same")
        assert first.memory.read(0, 16 * MIB) == second.memory.read(0, 16 * MIB)
        assert first.memory.read_notes() == second.memory.read_notes()


def test_the_log_holds_each_line_with_its_time(simulated: SimulatedMemory) -> None:
    simulated.log("boot: 16 MiB\nsecond line")
    simulated.log("grüße")
    assert log_of(simulated) == [
        LogLine(10**9, 6, "boot: 16 MiB"),
        LogLine(10**9, 6, "second line"),
        LogLine(2 * 10**9, 6, "grüße"),
    ]


def test_the_log_goes_on_when_it_is_full(simulated: SimulatedMemory) -> None:
    for number in range(10_000):
        simulated.log(f"line {number} of a long story")
    lines = log_of(simulated)
    assert lines[-1].text == "line 9999 of a long story"
    assert [line.ts_nsec for line in lines] == [(10_000 - back) * 10**9 for back in range(len(lines) - 1, -1, -1)]
    assert len(lines) * 48 > kernel.PRINTK_BUFFER_BYTES * 0.9


def test_a_bugcheck_leaves_lines_and_registers(simulated: SimulatedMemory) -> None:
    simulated.bugcheck(0xD1, (0x10, 2**64 - 1, 0, 0xFFFF888000200000), "x")
    texts = [line.text for line in log_of(simulated)]
    assert texts == [
        "BUG: bugcheck 0x000000d1 (0x0000000000000010, 0xffffffffffffffff, 0x0000000000000000, 0xffff888000200000): x",
        "Kernel panic - not syncing: bugcheck 0x000000d1: x",
    ]
    crashed, idle = registers_of(simulated)
    r8, rcx, rdx, rsi, rdi, rip, rsp = (crashed[index] for index in (9, 11, 12, 13, 14, 16, 19))
    assert (rdi, rsi, rdx, rcx, r8) == (0xD1, 0x10, 2**64 - 1, 0, 0xFFFF888000200000)
    assert simulated.memory.read(rip - kernel.TEXT_MAP, 2) == b"\x0f\x0b"
    assert kernel.STACKS <= rsp - kernel.DIRECT_MAP < kernel.STACKS + kernel.STACK_BYTES
    assert idle[16] != rip
    assert "CRASHTIME=1700000002\n" in vmcoreinfo_of(simulated)


def test_a_reason_of_many_lines_stays_one_line(simulated: SimulatedMemory) -> None:
    simulated.bugcheck(1, (0, 0, 0, 0), "a driver touched\n\tfreed memory")
    assert (
        log_of(simulated)[-1].text == "Kernel panic - not syncing: bugcheck 0x00000001: a driver touched freed memory"
    )


def test_before_any_bugcheck_the_notes_are_whole_and_of_the_same_length(simulated: SimulatedMemory) -> None:
    before = simulated.memory.read_notes()
    assert len(registers_of(simulated)) == 2
    assert log_of(simulated) == []
    simulated.bugcheck(1, (0, 0, 0, 0), "")
    assert len(simulated.memory.read_notes()) == len(before)


def walk(read: Callable[[int, int], bytes], address: int) -> int:
    """Translate a virtual address as the processor does, from the top table that VMCOREINFO names."""
    table: int = kernel.TOP_TABLE
    for shift in (39, 30, 21):
        entry = int.from_bytes(read(table + (address >> shift & 511) * 8, 8), "little")
        assert entry & 1, f"{address:#x} is not mapped"
        table = entry & 0x000F_FFFF_FFFF_F000
        if entry & 0x80:
            return (table & ~((1 << shift) - 1)) + (address & ((1 << shift) - 1))
    raise AssertionError("the walk ended in a 4 KiB page")


@pytest.mark.parametrize("size_bytes", [16 * MIB, 5000 * MIB])
def test_page_tables_map_the_kernel_and_all_of_memory(size_bytes: int) -> None:
    with closing(machine(size_bytes)) as simulated:
        read = simulated.memory.read
        for physical in (0, kernel.PRINTK_BUFFER, size_bytes // 2 + 17, size_bytes - 1):
            assert walk(read, kernel.DIRECT_MAP + physical) == physical
        for physical in (kernel.TEXT, kernel.UTS_NAMESPACE, kernel.TOP_TABLE):
            assert walk(read, kernel.TEXT_MAP + physical) == physical


def test_sixty_four_gibibytes_cost_the_host_little() -> None:
    with closing(machine(64 * 1024 * MIB)) as simulated:
        assert os.fstat(simulated.memory.fd).st_blocks * 512 < 300 * MIB
        assert len(simulated.page_classes()) < 1000


@pytest.mark.parametrize("size_bytes", [-1, 0, MIB, 16 * MIB - PAGE, 16 * MIB + 1, 1 << 50])
def test_sizes_that_make_no_sense_are_refused(size_bytes: int) -> None:
    with pytest.raises(UsageError, match="give a"):
        machine(size_bytes)


@pytest.mark.parametrize("cpu_count", [0, 17])
def test_numbers_of_cpus_that_make_no_sense_are_refused(cpu_count: int) -> None:
    with pytest.raises(GhostdumpError, match="CPUs"):
        machine(cpu_count=cpu_count)


def test_sixteen_cpus_have_their_registers_and_stacks() -> None:
    with closing(machine(cpu_count=16)) as simulated:
        stacks = {registers[19] for registers in registers_of(simulated)}
        assert len(stacks) == 16
        assert max(stacks) < kernel.DIRECT_MAP + kernel.PAGE_TABLES
