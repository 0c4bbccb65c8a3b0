"""The simulated processes: page tables that any reader can walk, and pages that name themselves."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.memory import kernel
from dumpwriter.memory.contents import user_page
from dumpwriter.memory.processes import frame_of, resident_entry, slot_of, swap_entry
from dumpwriter.memory.simulated import Clock, SimulatedMemory
from dumpwriter.memory.source import PageClass
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.kdump_reader import dumped_pages
from tests.builders.process_reader import ProcessPage, read_processes, walk
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def machine() -> Iterator[SimulatedMemory]:
    with closing(SimulatedMemory(16 * MIB, clock=Clock(lambda: 0, lambda: 1_700_000_000))) as machine:
        yield machine


def pages_of(machine: SimulatedMemory) -> list[ProcessPage]:
    notes = machine.memory.read_notes()
    return read_processes(machine.memory.read, notes[notes.index(b"OSRELEASE") :].decode(errors="replace"))


@pytest.mark.parametrize("size_bytes", [16 * MIB, 72 * MIB, 1024 * MIB, 5000 * MIB])
def test_every_user_page_is_a_page_of_a_process_and_says_so(size_bytes: int) -> None:
    with closing(SimulatedMemory(size_bytes)) as machine:
        pages = pages_of(machine)
        frames = [page.frame for page in pages]
        runs = [run for run in machine.page_classes() if run.page_class is PageClass.USER]
        assert sorted(frame for frame in frames if frame is not None) == [
            frame for run in runs for frame in range(run.first_page, run.first_page + run.page_count)
        ]
        assert {page.process_id for page in pages} == {process_id for process_id, _ in kernel.PROCESSES}
        for page in pages[:: max(1, len(pages) // 500)]:
            assert page.frame is not None
            assert machine.memory.read(page.frame * 4096, 4096) == user_page(page.process_id, page.address)


def test_a_process_sees_the_kernel_through_its_own_tables(machine: SimulatedMemory) -> None:
    read = machine.memory.read
    top_table = int.from_bytes(read(kernel.PROCESS_TABLE + 8, 8), "little")
    assert top_table != kernel.TOP_TABLE
    for address in (kernel.DIRECT_MAP, kernel.TEXT_MAP + kernel.TEXT):
        entry = (address >> 39 & 511) * 8
        assert any(read(kernel.TOP_TABLE + entry, 8))
        assert read(top_table + entry, 8) == read(kernel.TOP_TABLE + entry, 8)
    with pytest.raises(ValueError, match="no table"):
        walk(read, top_table, kernel.USER_BASE - (1 << 39))


@given(st.integers(1, (1 << 40) - 1))
def test_an_entry_says_where_a_page_is(number: int) -> None:
    assert frame_of(resident_entry(number)) == number
    out = swap_entry(number)
    assert frame_of(out) is None
    assert slot_of(out) == number
    assert not out & 0x1FF, "neither present nor protected"
    assert out >> 59 == 0, "the first page file"


def test_a_page_that_is_moved_comes_back_as_it_was(machine: SimulatedMemory) -> None:
    memory = machine.user_memory
    frames = memory.frames()
    memory.use(frames[7])
    content = memory.read(frames[7])
    memory.move_out(7, frames[7], 99)
    assert slot_of(memory.entry(7)) == 99
    assert memory.read(frames[7]) == bytes(4096)
    memory.move_out(8, frames[8], 100)
    memory.move_in(7, frames[8], content)
    assert frame_of(memory.entry(7)) == frames[8]
    assert memory.read(frames[8]) == content


@pytest.mark.parametrize("damage", ["a page is out", "two pages share a frame", "a frame is not there"])
def test_page_tables_that_no_pager_can_begin_with_are_refused(machine: SimulatedMemory, damage: str) -> None:
    memory = machine.user_memory
    entry = {
        "a page is out": swap_entry(3),
        "two pages share a frame": memory.entry(8),
        "a frame is not there": resident_entry(1 << 35),
    }[damage]
    machine.memory.write(memory.processes.entry_address(7), entry.to_bytes(8, "little"))
    with pytest.raises(FormatError, match="not whole"):
        memory.frames()


def test_makedumpfile_takes_the_frame_of_a_page_that_is_out_for_a_free_one(
    machine: SimulatedMemory, tmp_path: Path
) -> None:
    memory = machine.user_memory
    frames = memory.frames()
    for page in range(0, len(frames), 3):
        memory.move_out(page, frames[page], page + 1)
    freed = {frames[page] for page in range(0, len(frames), 3)}
    write_vmcore(tmp_path / "vmcore", machine.memory)
    present = ElfCoreFile((tmp_path / "vmcore").read_bytes()).pages()
    for level, out_only in ((16, True), (8, False)):
        run_reader("makedumpfile", "-f", "-c", "-d", str(level), "vmcore", "filtered", cwd=tmp_path)
        kept = dumped_pages((tmp_path / "filtered").read_bytes())
        assert freed & present & kept == (set() if out_only else freed)
        assert (set(frames.values()) - freed) & kept == (set(frames.values()) - freed if out_only else set())
        os.unlink(tmp_path / "filtered")
