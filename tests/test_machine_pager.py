"""The pager: whatever is touched in whatever order, each page keeps its bytes, or the machine says that it did not."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.crash import dump
from dumpwriter.crash.plan import region_size_bytes
from dumpwriter.crash.rehearsal import rehearse
from dumpwriter.frames import DumpIdentity, slot_count, slot_offset_bytes
from dumpwriter.machine.pager import InPageError, Pager, page_of_touch, slots_of
from dumpwriter.machine.workingset import Away, WorkingSet
from dumpwriter.memory.contents import user_page
from dumpwriter.memory.simulated import Clock, SimulatedMemory
from dumpwriter.recovery.scan import recover
from dumpwriter.verdict import Verdict
from tests.builders.process_reader import ProcessPage, read_processes
from tests.dumping import DumpBench, Pages
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError, PowerLost
from vdisk.layers.mapped import Mapped
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice

MIB = 1 << 20
MEMORY_BYTES = 16 * MIB
PAGES = 512


class Bench:
    """A simulated memory, a page file, and a pager between them."""

    def __init__(self, page_file: BlockDevice | None = None) -> None:
        self.source = SimulatedMemory(MEMORY_BYTES, clock=Clock(lambda: 0, lambda: 0))
        self.page_file = page_file or MemoryDisk(region_size_bytes(MEMORY_BYTES))
        user_memory = self.source.user_memory
        self.names = user_memory.processes
        self.pager = Pager(user_memory, self.page_file)
        self.uses = dict.fromkeys(range(PAGES), 0)

    def close(self) -> None:
        self.source.close()

    def touch(self, page: int) -> None:
        self.pager.touch(page)
        self.uses[page] += 1

    def touch_all(self, pages: int) -> None:
        for page in range(pages):
            self.touch(page)

    def pages(self) -> list[ProcessPage]:
        notes = self.source.memory.read_notes()
        vmcoreinfo = notes[notes.index(b"OSRELEASE") :].decode(errors="replace")
        return read_processes(self.source.memory.read, vmcoreinfo)

    def expected(self) -> dict[tuple[int, int], bytes]:
        """What each page must hold, by process and address."""
        places = ((self.names.process_id(page), self.names.address(page), uses) for page, uses in self.uses.items())
        return {(process_id, address): user_page(process_id, address, uses) for process_id, address, uses in places}

    def must_be_true(self) -> None:
        """Page by page, what the tables say is where they say it; and no two pages share a place."""
        pages, expected = self.pages(), self.expected()
        assert len(pages) == PAGES
        for process_id, address, frame, slot in pages:
            found = (
                self.source.memory.read(frame * 4096, 4096)
                if frame is not None
                else self.page_file.read((slot or 0) * 4096, 4096)
            )
            assert found == expected[process_id, address]
        for places in ([page.frame for page in pages], [page.slot for page in pages]):
            taken = [place for place in places if place is not None]
            assert len(set(taken)) == len(taken)
        counts = self.pager.counts()
        assert counts.pages_resident == sum(page.frame is not None for page in pages)
        assert counts.pages_out == sum(page.slot is not None for page in pages)
        assert counts.page_ins == counts.checks


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as bench:
        yield bench


@settings(max_examples=50)
@given(st.data())
def test_any_sequence_of_touches_keeps_every_page(data: st.DataObject) -> None:
    """And never are more in memory than before, or than there may be."""
    with closing(Bench()) as bench:
        bench.pager.resident_max = data.draw(st.integers(1, PAGES))
        most = PAGES
        for page in data.draw(st.lists(st.integers(0, PAGES - 1), max_size=400)):
            bench.touch(page)
            resident = bench.pager.counts().pages_resident
            assert resident <= max(most, bench.pager.resident_max)
            most = resident
        bench.must_be_true()


@given(
    st.integers(1, 40),
    st.integers(0, 50),
    st.lists(st.tuples(st.booleans(), st.integers(0, 39))),
)
def test_a_working_set_never_puts_two_pages_into_one_place(
    page_count: int, slots: int, steps: list[tuple[bool, int]]
) -> None:
    pages = WorkingSet({page: page + 100 for page in range(page_count)}, range(slots))
    for is_out, number in steps:
        page = number % page_count
        if is_out:
            victim, slot = pages.victim(), pages.take_slot()
            if victim is not None and slot is not None:
                pages.went_out(victim, Away(slot, b""))
            elif slot is not None:
                pages.give_back(slot)
        elif pages.frame(page) is None:
            pages.came_in(page, pages.take_frame())
            pages.refer(page)
        else:
            pages.refer(page)
        frames = [frame for page in range(page_count) if (frame := pages.frame(page)) is not None]
        away = [pages.away(page).slot for page in range(page_count) if pages.frame(page) is None]
        assert len(set(frames)) == len(frames) == pages.resident_count
        assert len(set(away)) == len(away) == pages.away_count
        assert set(frames) <= set(range(100, 100 + page_count))


def test_a_page_that_was_used_has_a_second_chance() -> None:
    pages = WorkingSet({1: 10, 2: 20, 3: 30}, range(3))
    pages.refer(1)
    pages.refer(2)
    assert pages.victim() == 3
    pages.went_out(3, Away(0, b""))
    assert pages.victim() == 1, "each was passed once"


def test_what_processes_use_all_the_time_stays_in_memory() -> None:
    """Of the touches of one phase most find their page, though only half of the pages are in memory."""
    with closing(Bench()) as bench:
        bench.pager.run_processes(1500)
        before = bench.pager.counts().page_ins
        bench.pager.run_processes(500)
        assert bench.pager.counts().pages_resident == PAGES // 2
        assert 0 < bench.pager.counts().page_ins - before < 150


def test_every_page_is_touched_in_time() -> None:
    assert {page_of_touch(number, PAGES) for number in range(40_000)} == set(range(PAGES))


@pytest.mark.parametrize("writes", range(24))
def test_a_kill_between_any_two_writes_leaves_page_tables_that_are_true(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The page under way is in its old place or in its new one, and is its own in either."""
    bench.touch_all(PAGES // 2 + 20)
    write = bench.source.memory.write

    def write_until_the_end(physical_bytes: int, content: Buffer) -> None:
        nonlocal writes
        if not writes:
            raise PowerLost
        writes -= 1
        write(physical_bytes, content)

    monkeypatch.setattr(bench.source.memory, "write", write_until_the_end)
    with pytest.raises(PowerLost):
        bench.touch_all(PAGES)
    for process_id, address, frame, slot in bench.pages():
        place, source = (slot, bench.page_file) if frame is None else (frame, bench.source.memory)
        content = source.read((place or 0) * 4096, 4096)
        assert content == user_page(process_id, address, int.from_bytes(content[56:64], "little"))


def test_a_frame_is_free_and_empty_when_its_page_is_out(bench: Bench) -> None:
    before = {page.frame for page in bench.pages()}
    bench.pager.run_processes(600)
    for frame in before - {page.frame for page in bench.pages()}:
        assert frame is not None
        assert bench.source.memory.read(frame * 4096, 4096) == bytes(4096)


def test_all_pages_come_back_on_request(bench: Bench) -> None:
    bench.pager.run_processes(2000)
    assert bench.pager.counts().pages_out
    bench.pager.bring_all_back()
    assert bench.pager.counts().pages_out == 0
    assert all(page.frame is not None for page in bench.pages())


def the_page_out(bench: Bench, number: int = 0) -> tuple[int, int]:
    """The number of a page that is out, and its slot."""
    names = {(process_id, address): page for page, (process_id, address) in enumerate(bench.expected())}
    out = [page for page in bench.pages() if page.slot is not None]
    found = out[number]
    assert found.slot is not None
    return names[found.process_id, found.address], found.slot


@pytest.mark.parametrize("damage", ["one bit", "zeros", "another page", "an older copy"])
def test_a_page_that_is_not_what_went_out_is_noticed(bench: Bench, damage: str) -> None:
    bench.touch_all(PAGES)
    page, slot = the_page_out(bench)
    _, other = the_page_out(bench, 1)
    written = bench.page_file.read(slot * 4096, 4096)
    put = {
        "one bit": written[:1000] + bytes([written[1000] ^ 1]) + written[1001:],
        "zeros": bytes(4096),
        "another page": bench.page_file.read(other * 4096, 4096),
        "an older copy": written[:56] + bytes(8) + written[64:],
    }[damage]
    bench.page_file.write_from(slot * 4096, put)
    with pytest.raises(InPageError, match="is not what was written there") as lost:
        bench.touch(page)
    entry_address, status, entry, address = lost.value.parameters
    assert status == 0xC000003F
    assert struct.unpack("<Q", bench.source.memory.read(entry_address - 0xFFFF888000000000, 8)) == (entry,)
    assert (address - 0x5555_5560_0000) % 4096 == 0
    assert (bench.pager.counts().failures, bench.pager.counts().checks) == (1, bench.pager.counts().page_ins + 1)


class Failing(Layer):
    """A disk of which some writes, or all reads, fail."""

    writes_fail = reads_fail = False

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        if self.writes_fail:
            raise DeviceError("the disk does not write")
        self.lower.write_from(offset_bytes, buffer)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        if self.reads_fail:
            raise DeviceError("the disk does not read")
        self.lower.read_into(offset_bytes, buffer)


def test_a_page_that_cannot_be_written_stays_in_memory() -> None:
    disk = Failing(MemoryDisk(region_size_bytes(MEMORY_BYTES)))
    with closing(Bench(disk)) as bench:
        disk.writes_fail = True
        bench.touch_all(100)
        counts = bench.pager.counts()
        assert (counts.pages_out, counts.pages_resident, counts.failures) == (0, PAGES, 200)
        disk.writes_fail = False
        bench.touch_all(PAGES)
        assert bench.pager.counts().pages_resident == PAGES // 2
        bench.must_be_true()


def test_a_page_that_cannot_be_read_is_lost() -> None:
    disk = Failing(MemoryDisk(region_size_bytes(MEMORY_BYTES)))
    with closing(Bench(disk)) as bench:
        bench.pager.run_processes(600)
        page, _ = the_page_out(bench)
        disk.reads_fail = True
        with pytest.raises(InPageError, match="cannot be read") as lost:
            bench.pager.touch(page)
        assert lost.value.parameters[1] == 0xC000009C


def test_a_page_file_with_few_slots_takes_few_pages() -> None:
    with closing(Bench(MemoryDisk((2 + 2 * 65) * 4096))) as bench:
        bench.touch_all(PAGES)
        assert bench.pager.counts().pages_out == 65
        bench.must_be_true()


@pytest.mark.parametrize("blocks", [2, 66, 67, 132, 4227, 100_000])
def test_pages_lie_neither_on_headers_nor_where_the_clone_rehearses(blocks: int) -> None:
    slots = slots_of(blocks * 4096)
    assert 0 not in slots
    assert blocks - 1 not in slots
    if frames := slot_count(blocks * 4096):
        rehearsed = slot_offset_bytes(frames - 1) // 4096
        assert not set(slots) & set(range(rehearsed, rehearsed + 65))


def test_a_rehearsal_changes_no_page_that_is_out(bench: Bench) -> None:
    """Even one that went wrong, and left its pattern there."""

    class Amnesiac(Layer):
        """Takes the pattern of a rehearsal, and not the restoration."""

        writes = 0

        def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
            self.writes += 1
            if self.writes == 1:
                self.lower.write_from(offset_bytes, buffer)

        write_through = write_from

    bench.pager.run_processes(3000)
    with pytest.raises(DeviceError):
        rehearse(Amnesiac(bench.page_file))
    bench.pager.bring_all_back()


def test_pages_that_hold_frames_are_never_taken_for_a_dump() -> None:
    """Memory may hold anything: here the frames of an older dump, and pages go out to where these once lay."""
    older = DumpBench(300, seed=1)
    older.write()
    region = Mapped(older.disk, older.extents)
    hostile = [region.read(block * 4096, 4096) for block in range(region.size_bytes // 4096)]
    identity = DumpIdentity(bytes(range(16)), older.identity.generation + 1)
    dump.arm_region(region, identity, older.extents, 6)
    for slot in slots_of(region.size_bytes):
        region.write_from(slot * 4096, hostile[slot])
    sink = Pages()
    findings = recover(region, identity, sink)
    assert findings.verdict == Verdict.NONE
    assert not sink.pages
    assert recover(region, older.identity, Pages()).pages_present, "else the pages were no frames"
