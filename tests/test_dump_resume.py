"""A hibernated memory comes back whole, byte for byte, or not at all."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.crash import dump
from dumpwriter.crash.dump import Cause
from dumpwriter.crash.plan import MemoryPart
from dumpwriter.formats.region import CauseKind, MemoryRangeRecord, PageRun
from dumpwriter.memory.physical import NOTES_AREA_BYTES, PhysicalMemory
from dumpwriter.metadata import Metadata, encode_metadata
from dumpwriter.recovery.resume import restore
from tests.dumping import DumpBench
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError, GhostdumpError, PowerLost, ResumeError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from dumpwriter.crash.dump import DumpJob

HIBERNATION = Cause(CauseKind.HIBERNATION, 0, (0, 0, 0, 0), "hibernated", 1_700_000_000_000_000_000)
NOTES = b"registers of every CPU" * 20


class HibernationBench(DumpBench):
    """A memory in two ranges that is written to go on from."""

    def __init__(self, pages: int, pieces: int = 5) -> None:
        super().__init__(pages, pieces)
        half = pages // 2 * 4096
        ranges = (MemoryRangeRecord(0, half), MemoryRangeRecord(half, pages * 4096 - half))
        self.metadata = encode_metadata(Metadata(NOTES, ranges, "simulated"))

    def job(self, around: Callable[[BlockDevice], BlockDevice] = lambda device: device) -> DumpJob:
        return super().job(around)._replace(cause=HIBERNATION)

    def restored(self) -> bytes:
        """Memory and notes area as they are after a resume."""
        restored = restore(Mapped(self.disk, self.extents), self.identity, lambda done, total: None)
        with closing(restored.memory) as memory:
            assert restored.machine == "simulated"
            return os.pread(memory.fd, memory.size_bytes + NOTES_AREA_BYTES, 0)

    def expected(self) -> bytes:
        with closing(PhysicalMemory.create([(0, len(self.memory.content))])) as memory:
            memory.write(0, self.memory.content)
            memory.write_notes(NOTES)
            return os.pread(memory.fd, memory.size_bytes + NOTES_AREA_BYTES, 0)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("pieces", [1, 30])
@pytest.mark.parametrize("pages", [2, 64, 700])
def test_a_whole_memory_comes_back_byte_for_byte(pages: int, pieces: int) -> None:
    bench = HibernationBench(pages, pieces)
    bench.write()
    before = open_descriptors()
    assert bench.restored() == bench.expected()
    assert open_descriptors() == before


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_after_random_damage_it_is_the_same_memory_or_none(source: random.Random, count: int) -> None:
    bench = HibernationBench(140, pieces=3)
    bench.write()
    for _ in range(count):
        where = source.randrange(len(bench.disk.content))
        bench.disk.content[where] ^= source.randrange(1, 256)
    before = open_descriptors()
    with suppress(ResumeError):
        assert bench.restored() == bench.expected()
    assert open_descriptors() == before


def test_one_changed_byte_in_any_frame_of_pages_is_noticed() -> None:
    bench = HibernationBench(200, pieces=1)
    bench.write()
    start = bench.extents.extents[0].physical_bytes + 4096
    slots = len(bench.job().plan.frames)
    for slot in range(1, slots - 1):
        where = start + slot * 65 * 4096 + 100
        bench.disk.content[where] ^= 1
        with pytest.raises(ResumeError, match="whole"):
            bench.restored()
        bench.disk.content[where] ^= 1
    assert bench.restored() == bench.expected()


class StopsAfter(Layer):
    """The power goes after so many writes."""

    def __init__(self, lower: BlockDevice, writes: int) -> None:
        super().__init__(lower)
        self.writes = writes

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        if not self.writes:
            raise PowerLost
        self.writes -= 1
        self.lower.write_from(offset_bytes, buffer)  # type: ignore[arg-type]

    def write_through(self, offset_bytes: int, buffer: object) -> None:
        self.write_from(offset_bytes, buffer)


def test_a_memory_that_was_cut_at_any_write_is_not_resumed_with_a_page_missing() -> None:
    writes, resumed, came_through = 0, 0, False
    while not came_through:
        bench = HibernationBench(1500, pieces=3)
        try:
            bench.write(lambda disk, writes=writes: StopsAfter(disk, writes))  # type: ignore[misc]
            came_through = True
        except PowerLost:
            writes += 1
        try:
            assert bench.restored() == bench.expected()
            resumed += 1
        except ResumeError:
            assert not came_through
    assert writes > 5
    assert 0 < resumed < writes


def test_the_dump_of_a_crash_is_not_resumed() -> None:
    bench = DumpBench(100)
    bench.write()
    with pytest.raises(ResumeError, match="of a crash"):
        restore(Mapped(bench.disk, bench.extents), bench.identity, lambda done, total: None)


def test_either_metadata_frame_is_enough_and_none_is_not() -> None:
    bench = HibernationBench(300, pieces=1)
    bench.write()
    start = bench.extents.extents[0].physical_bytes + 4096
    last = (len(bench.job().plan.frames) - 1) * 65 * 4096
    bench.disk.content[start + 10] ^= 1
    assert bench.restored() == bench.expected()
    bench.disk.content[start + last + 10] ^= 1
    with pytest.raises(ResumeError, match="metadata"):
        bench.restored()


def test_the_header_is_not_needed() -> None:
    bench = HibernationBench(300)
    bench.write()
    for offset in dump.header_offsets_bytes(bench.extents.size_bytes):
        (place,) = bench.extents.runs(offset, 4096)
        bench.disk.content[place.physical_bytes : place.physical_bytes + 4096] = bytes(4096)
    assert bench.restored() == bench.expected()


def test_pages_that_the_machine_does_not_have_are_refused() -> None:
    bench = HibernationBench(100)
    bench.parts = [*bench.parts[:-1], MemoryPart(1, PageRun(99, 1), is_zero=False)]
    bench.parts += [MemoryPart(2, PageRun(90_000, 1), is_zero=False)]
    bench.memory.content += bytes(4096 * 90_000)
    bench.write()
    with pytest.raises(ResumeError, match="does not have"):
        bench.restored()


@pytest.mark.parametrize(
    "ranges", [(), (MemoryRangeRecord(0, 1 << 50),), tuple(MemoryRangeRecord(n << 41, 1 << 40) for n in range(2))]
)
def test_a_map_that_no_machine_has_asks_for_no_memory(ranges: tuple[MemoryRangeRecord, ...]) -> None:
    bench = HibernationBench(20)
    bench.metadata = encode_metadata(Metadata(NOTES, ranges, "simulated"))
    bench.write()
    with pytest.raises(ResumeError, match="no machine has"):
        bench.restored()


def test_a_disk_that_cannot_be_read_gives_no_memory() -> None:
    bench = HibernationBench(1000, pieces=1)
    bench.write()
    bad_bytes = bench.extents.extents[0].physical_bytes + 4096 + 3 * 65 * 4096

    class Unreadable(Layer):
        def read_into(self, offset_bytes: int, buffer: object) -> None:
            if offset_bytes == bad_bytes:
                raise DeviceError("no")
            self.lower.read_into(offset_bytes, buffer)  # type: ignore[arg-type]

    bench.disk = Unreadable(bench.disk)  # type: ignore[assignment]
    with pytest.raises(ResumeError):
        bench.restored()


def test_a_host_without_room_for_the_memory_is_told_from_a_damaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bench = HibernationBench(100)
    bench.write()
    monkeypatch.setattr(PhysicalMemory, "write", full)
    before = open_descriptors()
    with pytest.raises(GhostdumpError, match="stays where it is") as refused:
        bench.restored()
    assert not isinstance(refused.value, ResumeError)
    assert open_descriptors() == before
