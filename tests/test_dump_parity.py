"""Parity: what can no longer be read comes back, byte for byte, and what cannot be proved is not believed."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.crash.plan import SPARE_SLOTS, MemoryPart, plan_dump, region_size_bytes
from dumpwriter.crash.protection import GROUPS_MAX, NO_PARITY, REQUEST_FRAMES, parity_sets, slots_of
from dumpwriter.formats.region import FrameKind, PageRun
from dumpwriter.frames import FramePlan, encode_frame, slot_count, slot_offset_bytes
from dumpwriter.memory.source import PageClass
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.copies import contents_of
from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.extraction import RegionSource, extract
from dumpwriter.recovery.founddump import FoundDump, FrameIndex
from dumpwriter.recovery.headers import newest_header
from dumpwriter.recovery.offline import may_be_marked
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.retention import KEEP_ALL
from dumpwriter.recovery.scan import Findings, read_metadata, recover, recover_scattered
from dumpwriter.sealing import UNSEALED
from dumpwriter.verdict import Verdict
from tests.builders.seal_reader import SealReader
from tests.dumping import DumpBench, Pages
from tests.sealed import PRIVATE_KEYS, sealed_bench
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from dumpwriter.crash.protection import ParitySet
    from vdisk.blockdevice import BlockDevice

BLOCK, SLOT_BLOCKS, SLOT = 4096, 65, 65 * 4096
RUN_BLOCKS = 256  # of 1 MiB


class Exactly:
    """A sink that holds each page against the memory that went in, and counts them."""

    def __init__(self, bench: DumpBench) -> None:
        self._memory = memoryview(bench.memory.content)
        self.pages = 0

    def data(self, first_page: int, content: memoryview) -> None:
        start = first_page * BLOCK
        assert bytes(content) == bytes(self._memory[start : start + content.nbytes])
        self.pages += content.nbytes // BLOCK

    def zeros(self, run: PageRun) -> None:
        self.data(run.first_page, memoryview(bytes(run.page_count * BLOCK)))


def in_large_runs(pages: int, parity_percent: int) -> DumpBench:
    """Random memory in one run, quick to read back."""
    bench = DumpBench(pages, pieces=1, classes=1, parity_percent=parity_percent)
    bench.memory.content = random.Random(pages).randbytes(pages * BLOCK)
    bench.parts = [MemoryPart(PageClass.LOG, PageRun(0, pages), is_zero=False)]
    bench.write()
    return bench


def recovered(bench: DumpBench, lost: Iterable[Run]) -> Findings:
    """What comes back when these parts of the region hold something else; they are put back."""
    (extent,) = bench.extents.extents
    runs = [Run(extent.physical_bytes + start, length) for start, length in lost]
    kept = [bench.disk.read(*run) for run in runs]
    for run in runs:
        bench.disk.write_from(run.physical_bytes, b"\xdb" * run.length_bytes)
    sink = Exactly(bench)
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert sink.pages == found.pages_present
    for run, content in zip(runs, kept, strict=True):
        bench.disk.write_from(run.physical_bytes, content)
    return found


def groups_of(one: ParitySet) -> list[list[int]]:
    """The slots of each group, parity last."""
    slots = [*one.frame_slots, *one.parity_slots]
    return [[slot for slot in slots if one.group_of(slot) == group] for group in range(one.groups)]


@pytest.mark.parametrize(("pages", "step"), [(500, 9), (1100, 9), pytest.param(500, 1, marks=pytest.mark.slow)])
def test_any_block_that_is_lost_in_each_group_comes_back(pages: int, step: int) -> None:
    """Every block of every slot, or every ninth, in all groups at once: there is one group, or two."""
    bench = in_large_runs(pages, parity_percent=12)
    groups = [group for one in bench.job().plan.sets for group in groups_of(one)]
    assert len(groups) == 1 + (pages > 1000)
    for member in range(max(map(len, groups))):
        slots = [group[member % len(group)] for group in groups]
        for block in range(0, SLOT_BLOCKS, step):
            found = recovered(bench, [Run(slot_offset_bytes(slot) + block * BLOCK, BLOCK) for slot in slots])
            assert (found.verdict, found.frames_damaged <= len(groups)) == (Verdict.COMPLETE, True)


@functools.cache
def lost_slots(start_block: int) -> frozenset[int]:
    """Slots of which a run of 1 MiB takes a block that a covered frame may have: not the last one."""
    blocks = range(max(start_block, 1), start_block + RUN_BLOCKS)
    return frozenset((block - 1) // SLOT_BLOCKS for block in blocks if (block - 1) % SLOT_BLOCKS < SLOT_BLOCKS - 1)


@pytest.mark.parametrize("parity_percent", [6, 12, 25, 50, 100])
def test_any_mebibyte_touches_no_group_twice(parity_percent: int) -> None:
    """At every block of dumps of 16 MiB and more, in the layout."""
    for frame_count in range(66, 66 + 150, 7):
        sets = parity_sets(frame_count, 10_000, parity_percent)
        group_of = {slot: (one.number, one.group_of(slot)) for one in sets for slot in one.frame_slots}
        group_of |= {slot: (one.number, one.group_of(slot)) for one in sets for slot in one.parity_slots}
        assert sorted(group_of) == list(range(sets[-1].parity_slots.stop)), "no slot between is without a group"
        for slots in set(map(lost_slots, range(sets[-1].parity_slots.stop * SLOT_BLOCKS))):
            touched = [group_of[slot] for slot in slots if slot in group_of]
            assert len(touched) == len(set(touched))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_any_mebibyte_that_is_lost_comes_back(step: int) -> None:
    """For every set of slots that a run of 1 MiB can cost, one run that does: each block begins a run of such a set."""
    pages = 4096
    bench = in_large_runs(pages, parity_percent=25)
    assert len(bench.job().plan.sets) == 2
    end_block = bench.extents.size_bytes // BLOCK - RUN_BLOCKS
    start_blocks = {lost_slots(block): block for block in range(end_block + 1)}
    for block in [*start_blocks.values()][::step]:
        found = recovered(bench, [Run(block * BLOCK, RUN_BLOCKS * BLOCK)])
        assert (found.verdict, found.pages_present) == (Verdict.COMPLETE, pages)


@given(st.integers(2, 900), st.integers(0, 1200), st.sampled_from([0, 1, 3, 6, 12, 50, 100]))
def test_sets_take_what_the_frames_leave_of_the_slots(frame_count: int, slots: int, parity_percent: int) -> None:
    sets = parity_sets(frame_count, slots, parity_percent)
    taken = list(slots_of(frame_count, sets))
    parity = [slot for one in sets for slot in one.parity_slots]
    assert sorted(taken + parity) == list(range(frame_count + len(parity)))
    assert not parity or len(taken) + len(parity) <= slots
    assert [slot for one in sets for slot in one.frame_slots] == taken[: sum(one.frame_count for one in sets)]
    for one in sets:
        assert all(len(group) >= 2 for group in groups_of(one)), "a parity frame covers something"
        assert one.frame_count % REQUEST_FRAMES == 0 or one is sets[-1]
    if parity_percent == NO_PARITY:
        assert not sets
    elif slots > 3 * frame_count + GROUPS_MAX:
        assert sum(one.frame_count for one in sets) == frame_count


@given(st.integers(1, 3000), st.integers(0, 80))
def test_parity_costs_no_page(pages: int, slots: int) -> None:
    parts = [MemoryPart(1 + page % 7, PageRun(page, 1), page % 5 == 4) for page in range(pages)]
    region = 2 * BLOCK + slots * SLOT
    with_parity, without = plan_dump(parts, region, parity_percent=12), plan_dump(parts, region)
    assert with_parity.pages_planned == without.pages_planned
    assert with_parity.frame_count <= slots


@given(st.integers(1, 6000), st.sampled_from([1, 6, 12, 50, 100]))
def test_a_region_sized_for_parity_has_room_for_it_and_some_to_spare(pages: int, parity_percent: int) -> None:
    parts = [MemoryPart(1 + page // 50 % 7, PageRun(page, 1), page % 2 == 1) for page in range(pages)]
    size_bytes = region_size_bytes(pages * BLOCK, parity_percent)
    plan = plan_dump(parts, size_bytes, parity_percent=parity_percent)
    assert plan.pages_planned == pages
    assert {frame.sequence for frame in plan.frames} == {slot for one in plan.sets for slot in one.frame_slots}
    assert len(plan.spare_slots(size_bytes)) == SPARE_SLOTS


# Writing further on


def refusing(bench: DumpBench, slots: Sequence[int]) -> list[Run]:
    return [run for slot in slots for run in bench.extents.runs(slot_offset_bytes(slot), BLOCK)]


def test_frames_that_their_slots_do_not_take_are_moved_and_still_covered() -> None:
    bench = DumpBench(1500, parity_percent=12)
    bad = refusing(bench, [0, 5, 6, bench.job().plan.sets[0].parity_slots[0]])
    progress = bench.write(lambda disk: MediaFaults(disk, lambda: bad))
    assert (progress.frames_moved, progress.frames_failed, progress.failure) == (4, 0, "")
    region = Mapped(MediaFaults(bench.disk, lambda: bad), bench.extents)
    header = newest_header(region, bench.identity)
    assert header is not None
    assert (header.frames_moved, header.slots_planned) == (4, bench.job().spare_slots.stop)
    sink = Exactly(bench)
    found = recover(region, bench.identity, sink)
    assert (found.verdict, sink.pages, found.frames_rebuilt) == (Verdict.COMPLETE, 1500, 0)
    moved_to = bench.job().spare_slots[1]
    bad += refusing(bench, [moved_to])
    found = recover(region, bench.identity, Exactly(bench))
    assert (found.verdict, found.frames_rebuilt, found.reads_failed) == (Verdict.COMPLETE, 1, 4)


@pytest.mark.parametrize("parity_percent", [NO_PARITY, 12])
def test_only_what_no_spare_slot_takes_is_lost(parity_percent: int) -> None:
    bench = DumpBench(1500, parity_percent=parity_percent)
    bad = refusing(bench, [*range(1, 12), *bench.job().spare_slots[:2]])
    progress = bench.write(lambda disk: MediaFaults(disk, lambda: bad))
    lost = 11 - (SPARE_SLOTS - 2)
    assert (progress.frames_moved, progress.frames_failed) == (11 - lost, lost)
    assert "medium error" in progress.failure
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, Exactly(bench))
    spared_by_parity = lost if parity_percent else 0
    assert found.frames_rebuilt == spared_by_parity
    assert found.verdict == (Verdict.COMPLETE if spared_by_parity else Verdict.PARTIAL)


@pytest.mark.parametrize("parity_percent", [NO_PARITY, 12])
@pytest.mark.parametrize("spares", [0, 1], ids=["nowhere else", "elsewhere"])
@pytest.mark.parametrize("frames", [(0,), (-1,), (0, -1), (3,), (0, 3, -1)])
def test_the_writer_says_no_more_of_a_dump_than_recovery_finds(
    frames: tuple[int, ...], spares: int, parity_percent: int
) -> None:
    """Frames that no slot takes, or none but one: the first and the last are all that there is of metadata."""
    bench = DumpBench(1500, parity_percent=parity_percent)
    plan = bench.job().plan
    bad = refusing(bench, [*(plan.frames[at].sequence for at in frames), *bench.job().spare_slots[spares:]])
    progress = bench.write(lambda disk: MediaFaults(disk, lambda: bad))
    assert (progress.is_committed, progress.frames_failed) == (True, len(frames) - spares)
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, Exactly(bench))
    worst_first = [Verdict.NONE, Verdict.PARTIAL, Verdict.COMPLETE]
    assert worst_first.index(progress.verdict(plan)) <= worst_first.index(found.verdict)
    if parity_percent == NO_PARITY:
        assert progress.verdict(plan) == found.verdict


def test_parity_has_one_frame_of_each_group_that_no_slot_took() -> None:
    """Two that follow each other in a group: the first comes back, and the second costs it nothing."""
    bench = DumpBench(1500, parity_percent=12)
    (one, *_), job = bench.job().plan.sets, bench.job()
    bad = refusing(bench, [2, 2 + one.groups, *job.spare_slots])
    assert bench.write(lambda disk: MediaFaults(disk, lambda: bad)).frames_failed == 2
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, Exactly(bench))
    assert (found.verdict, found.frames_rebuilt) == (Verdict.PARTIAL, 1)


class FailsOnceAndAgain(Layer):
    """What is in these runs is read once, and never again."""

    def __init__(self, lower: BlockDevice, runs: Sequence[Run]) -> None:
        super().__init__(lower)
        self._runs = runs
        self._reads = 0

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        end_bytes = offset_bytes + memoryview(buffer).nbytes
        if any(
            offset_bytes < run.physical_bytes + run.length_bytes and run.physical_bytes < end_bytes
            for run in self._runs
        ):
            self._reads += 1
            if self._reads > 1:
                raise DeviceError("medium error")
        self.lower.read_into(offset_bytes, buffer)


@pytest.mark.parametrize("which", ["covered", "parity"])
def test_what_cannot_be_read_for_rebuilding_may_be_read_another_time(which: str) -> None:
    """So the region is not given up: the frame that is lost may come back yet."""
    bench = DumpBench(1500, parity_percent=12)
    bench.write()
    one = bench.job().plan.sets[0]
    lost, beside = 3, 3 + one.groups
    of_parity = next(slot for slot in one.parity_slots if one.group_of(slot) == one.group_of(lost))
    Mapped(bench.disk, bench.extents).write_from(slot_offset_bytes(lost), bytes(BLOCK))
    slot = beside if which == "covered" else of_parity
    failing = FailsOnceAndAgain(bench.disk, list(bench.extents.runs(slot_offset_bytes(slot), BLOCK)))
    found = recover(Mapped(failing, bench.extents), bench.identity, Exactly(bench))
    assert (found.verdict, found.reads_failed, may_be_marked(found)) == (Verdict.PARTIAL, 1, False)
    assert recover(Mapped(bench.disk, bench.extents), bench.identity, Exactly(bench)).verdict == Verdict.COMPLETE


class ComesLate(Layer):
    """Says of each write of many frames that it failed, and does it all the same when all is written."""

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self._late: list[tuple[int, bytes]] = []

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        if len(content) > SLOT:
            self._late.append((offset_bytes, content))
            raise DeviceError("given up")
        self.lower.write_from(offset_bytes, content)

    def come(self) -> None:
        for write in self._late:
            self.lower.write_from(*write)


@pytest.mark.parametrize("name", PRIVATE_KEYS)
def test_a_sealed_request_that_comes_late_brings_what_parity_covers(name: str) -> None:
    """A frame that is sealed anew has another nonce, and parity of the one is of no use for the other."""
    bench = sealed_bench(name, 700, parity_percent=12)
    late = ComesLate(bench.disk)
    bench.write(lambda _: late)
    late.come()
    Mapped(bench.disk, bench.extents).write_from(slot_offset_bytes(3), bytes(BLOCK))
    assert recover(Mapped(bench.disk, bench.extents), bench.identity, Pages()).frames_rebuilt == 1


class ComesThoughRefused(Layer):
    """Writes what is asked for, and says of some places that it did not."""

    def __init__(self, lower: BlockDevice, places: Sequence[Run]) -> None:
        super().__init__(lower)
        self._places = places

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.write_from(offset_bytes, buffer)
        written = Run(offset_bytes, memoryview(buffer).nbytes)
        if any(written.meets(place) for place in self._places):
            raise DeviceError("refused")


@pytest.mark.parametrize("name", ["unsealed", *PRIVATE_KEYS])
@pytest.mark.parametrize("refused", [2, 5, 9])
def test_a_frame_that_no_slot_took_is_in_parity_with_the_bytes_that_may_have_come(name: str, refused: int) -> None:
    bench = DumpBench(700, parity_percent=12) if name == "unsealed" else sealed_bench(name, 700, parity_percent=12)
    job = bench.job()
    one = job.plan.sets[0]
    starts = map(slot_offset_bytes, [refused, *job.spare_slots])
    places = [run for start in starts for run in bench.extents.runs(start, BLOCK)]
    assert bench.write(lambda disk: ComesThoughRefused(disk, places)).frames_failed == 1
    of_pages = set(one.frame_slots[1:-1]) - {refused}
    overwrite(bench, [next(slot for slot in of_pages if one.group_of(slot) == one.group_of(refused))])
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert (found.verdict, found.frames_rebuilt) == (Verdict.COMPLETE, 1)


def test_without_a_spare_slot_a_frame_that_fails_is_lost() -> None:
    bench = DumpBench(1500, region_bytes=2 * BLOCK + 20 * SLOT)
    assert len(bench.job().spare_slots) == 0
    bad = refusing(bench, [4])
    assert bench.write(lambda disk: MediaFaults(disk, lambda: bad)).frames_failed == 1


# What recovery makes of it


def damaged(pages: int, slots: Sequence[int]) -> DumpBench:
    bench = DumpBench(pages, parity_percent=12)
    bench.write()
    overwrite(bench, slots)
    return bench


def overwrite(bench: DumpBench, slots: Sequence[int], block: int = 0) -> None:
    region = Mapped(bench.disk, bench.extents)
    for slot in slots:
        region.write_from(slot_offset_bytes(slot) + block * BLOCK, bytes(BLOCK))


def test_metadata_is_found_wherever_it_is() -> None:
    bench = damaged(900, [0])
    region = Mapped(bench.disk, bench.extents)
    assert read_metadata(region, bench.identity) is not None
    assert bench.job().plan.frames[-1].sequence == 15
    overwrite(bench, [15])
    assert read_metadata(region, bench.identity) is not None, "both are lost, in groups of their own"


def test_a_dump_is_carved_with_what_its_parity_gives() -> None:
    bench = damaged(1500, [3, 4])
    overwrite(bench, [11], block=2)
    found = carve(bench.disk, lambda *_: None)
    assert found is not None
    sink = Exactly(bench)
    findings = recover_scattered(bench.disk, *found, sink, lambda *_: None)
    assert (findings.verdict, findings.frames_rebuilt, sink.pages) == (Verdict.COMPLETE, 3, 1500)


def test_pages_of_a_rebuilt_frame_can_be_read_one_by_one() -> None:
    bench = damaged(1100, [2])
    overwrite(bench, [9], block=5)
    index = FrameIndex(WithoutKey())
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages(), opener=index)
    assert findings.frames_rebuilt == 2
    memory = FoundDump(bench.disk, bench.identity, index, contents_of(findings))
    for page in range(1100):
        content = bytearray(BLOCK)
        memory.read_into(page, memoryview(content))
        assert content == bench.page(page)


@pytest.mark.parametrize("name", PRIVATE_KEYS)
def test_a_sealed_dump_is_carried_out_with_what_was_rebuilt(tmp_path: Path, name: str) -> None:
    bench = sealed_bench(name, 700, parity_percent=12)
    overwrite(bench, [4])
    store = HostStore(str(tmp_path))
    source = RegionSource(Mapped(bench.disk, bench.extents), bench.identity)
    done = extract(source, store, KEEP_ALL, lambda *_: None, WithoutKey())
    store.close()
    assert (done.findings.verdict, done.findings.frames_rebuilt) == (Verdict.COMPLETE, 1)
    pages = SealReader(PRIVATE_KEYS[name]).pages_of_file((tmp_path / "1" / "dump.sealed").read_bytes())
    assert pages == {number: bench.page(number) for number in range(700)}


# Parity frames that lie


def forge(bench: DumpBench, slot: int, covers: tuple[int, ...], payload: bytes = bytes(64 * BLOCK)) -> None:
    """A parity frame that proves itself, put into a slot."""
    frame = FramePlan(slot, FrameKind.PARITY, covers=covers)
    content = memoryview(bytearray(BLOCK) + payload)
    written = encode_frame(content, frame, bench.identity, bench.extents, 1, len(payload), UNSEALED)
    Mapped(bench.disk, bench.extents).write_from(slot_offset_bytes(slot), written)


@pytest.mark.parametrize(
    "covers",
    [(2, 1 << 63), (2, 10_000), (2, 2), (2,), (2, 16), (2, 3, 4), tuple(range(1, 17)), tuple(range(128))],
)
def test_a_parity_frame_that_lies_is_of_no_use(covers: tuple[int, ...]) -> None:
    """In the place of the true one, of a group that lost a frame: out of range, twice, itself, too few, too many."""
    bench = DumpBench(900, parity_percent=12)
    bench.write()
    (one,) = bench.job().plan.sets
    assert (one.groups, one.parity_slots) == (2, range(16, 18)), "the group of slot 2 has its parity in slot 16"
    overwrite(bench, [2])
    forge(bench, 16, covers)
    sink = Exactly(bench)
    found = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert (found.verdict, found.frames_rebuilt) == (Verdict.PARTIAL, 0)


def test_a_forged_frame_that_no_slot_holds_is_not_made_up() -> None:
    """What comes out of parity must be of this slot: a frame of another one proves itself, and belongs elsewhere."""
    bench = DumpBench(900, parity_percent=12)
    bench.write()
    region = Mapped(bench.disk, bench.extents)
    other = region.read(slot_offset_bytes(3), 64 * BLOCK)
    overwrite(bench, [2])
    forge(bench, 16, (2,), other)
    found = recover(region, bench.identity, Exactly(bench))
    assert (found.verdict, found.frames_rebuilt) == (Verdict.PARTIAL, 0)


def test_nothing_of_an_older_dump_is_rebuilt() -> None:
    """Its parity is whole and lies where the new dump's would, had that been written."""
    bench = DumpBench(900, parity_percent=12)
    bench.write()
    older = bytes(bench.disk.content)
    newer = DumpBench(900, seed=1, parity_percent=12)
    newer.disk.content[:] = older
    newer.write()
    (one,) = newer.job().plan.sets
    for slot in (2, *one.parity_slots):
        for run in newer.extents.runs(slot_offset_bytes(slot), SLOT):
            start, end = run.physical_bytes, run.physical_bytes + run.length_bytes
            newer.disk.content[start:end] = older[start:end]
    found = recover(Mapped(newer.disk, newer.extents), newer.identity, Exactly(newer))
    assert (found.verdict, found.frames_rebuilt) == (Verdict.PARTIAL, 0)


def test_a_slot_count_is_what_the_region_has() -> None:
    assert slot_count(region_size_bytes(64 << 20, 12)) > slot_count(region_size_bytes(64 << 20))
