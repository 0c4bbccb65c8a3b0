"""The worlds of the laboratory: a small memory, a region that holds an older dump, and the trace of the dump over it.

The trace is what the real plan and the real steps ask of the disk, FUA as a write and a flush. Where the region lies in
pieces, a request falls into as many writes. All writes between two flushes are in flight together: no order among them
is assumed. That is more than the writer's four threads can leave, and it is what a disk with a volatile cache may do.

Whether a write came must be seen on the disk wherever it can be. So the older dump is of another machine, of
another memory and of other classes, and where no frame of it lies, the bytes of others are as they were: a dump writes
zeros there.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.crash import dump
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, Cause, DumpJob, Progress
from dumpwriter.crash.parity import Parity, SetBuffers
from dumpwriter.crash.plan import META_COPIES, memory_parts, plan_dump
from dumpwriter.crash.protection import NO_PARITY, parity_slot_count
from dumpwriter.formats.region import (
    COVERED_PAGES_MAX,
    FIRST_SLOT_OFFSET_BYTES,
    FRAME_PAGES_MAX,
    HEADER_SIZE_BYTES,
    PAGE_SIZE_BYTES,
    SLOT_SIZE_BYTES,
    CauseKind,
    ClassRunRecord,
    DumpLevel,
    MemoryRangeRecord,
)
from dumpwriter.frames import DumpIdentity, slot_offset_bytes
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.recording import Recording
from dumpwriter.lab.telling import Hung
from dumpwriter.memory.physical import MemoryRun
from dumpwriter.memory.source import PageClass
from dumpwriter.metadata import Metadata, encode_metadata
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.extent import Extent, ExtentMap, Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Trace
from vdisk.layers.write_guard import WriteGuard
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from dumpwriter.crash.protection import ParitySet
    from dumpwriter.frames import FramePlan
    from dumpwriter.lab.recording import Around
    from dumpwriter.lab.scenario import Scenario
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.trace import Event

OLDER_DUMP, DUMP_TO_FIND = DumpIdentity(b"an older dump...", 1), DumpIdentity(b"the dump to find", 2)
CAUSE = Cause(CauseKind.BUGCHECK, 0xD1, (1, 2, 3, 4), "the laboratory crashed it", 1_700_000_000_000_000_000)
ARMED_TIME_NS, END_TIME_NS = 1_600_000_000_000_000_000, 1_700_000_001_000_000_000
CLASS_PAGES = 8  # pages of one worth lie together; their classes take turns
CLASSES = (PageClass.USER, PageClass.LOG, PageClass.KERNEL_DATA)
GAP_BLOCKS = 3  # of the disk, between the pieces of the region: what is there belongs to somebody else


class PlacedFrame(NamedTuple):
    """A frame of the plan, the runs of the disk that it takes, and its bytes as they are where nothing went wrong."""

    plan: FramePlan
    runs: tuple[Run, ...]
    content: bytes


class LaterSlot(NamedTuple):
    """A slot for parity, or one to spare. What a writer puts there follows from the frames that it could write."""

    slot: int
    runs: tuple[Run, ...]


class World(NamedTuple):
    """`before` is the disk as arming left it, an older dump's frames in the region; `trace` is the dump over it."""

    scenario: Scenario
    identity: DumpIdentity
    extents: ExtentMap
    memory: bytes
    before: bytes
    trace: tuple[Event, ...]
    frames: tuple[PlacedFrame, ...]
    parity: tuple[LaterSlot, ...] = ()
    spares: tuple[LaterSlot, ...] = ()
    groups: tuple[frozenset[int], ...] = ()  # by slots, of the frames that one parity frame is to cover

    @property
    def places(self) -> tuple[tuple[Run, ...], ...]:
        """Where each frame lies, each parity frame, and what is moved to a spare slot: in this order."""
        frames = (frame.runs for frame in self.frames)
        return *frames, *(later.runs for later in (*self.parity, *self.spares))

    @property
    def headers(self) -> tuple[Run, ...]:
        """Where the two copies of the dump header lie on the disk."""
        offsets_bytes = dump.header_offsets_bytes(self.extents.size_bytes)
        return tuple(run for offset in offsets_bytes for run in self.extents.runs(offset, HEADER_SIZE_BYTES))


class Memory:
    """Physical memory from address 0 on."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = memoryview(self._content)[physical_bytes : physical_bytes + view.nbytes]


def build_world(scenario: Scenario) -> World:
    """The same world at every call, on every machine."""
    extents = cut_region(scenario)
    older = _dump_over(_disk_of_others(extents), scenario, extents, OLDER_DUMP)
    return _dump_over(_with_slack_of_others(older), scenario, extents, DUMP_TO_FIND)


def recording_of(world: World) -> Recording:
    """The dump as something to do faults to."""

    def again(around: Around) -> tuple[Event, ...]:
        return _carry_out(world, MemoryDisk(len(world.before), world.before), around)[1]

    extents = world.extents.runs(0, world.extents.size_bytes)
    places = [run.physical_bytes for runs in world.places for run in runs]
    return Recording(world.before, world.trace, again, extents, places)


def cut_region(scenario: Scenario) -> ExtentMap:
    """Pieces of about one size, the last one first on the disk, so that no two writes can be one."""
    pages_max = FRAME_PAGES_MAX if scenario.parity_percent == NO_PARITY else COVERED_PAGES_MAX
    frames = META_COPIES + -(-scenario.data_pages // pages_max) + bool(scenario.zero_pages)
    slots = frames + parity_slot_count(frames, scenario.parity_percent) - scenario.slots_lacking + scenario.slots_spare
    end_block = (slot_offset_bytes(slots) + BLOCK_SIZE_BYTES) // BLOCK_SIZE_BYTES
    first_block = FIRST_SLOT_OFFSET_BYTES // BLOCK_SIZE_BYTES
    frame_blocks = slot_offset_bytes(slots - 1) // BLOCK_SIZE_BYTES + 1 - first_block  # the last has a block at least
    pieces = scenario.writes_in_flight
    inner = [first_block + frame_blocks * number // pieces for number in range(1, pieces)]
    place_block, extents = GAP_BLOCKS, []
    for start, stop in reversed(list(itertools.pairwise([0, *inner, end_block]))):
        extents.append(Extent(*(BLOCK_SIZE_BYTES * block for block in (start, place_block, stop - start))))
        place_block += stop - start + GAP_BLOCKS
    return ExtentMap(reversed(extents))


def _disk_of_others(extents: ExtentMap) -> MemoryDisk:
    size_bytes = extents.end_on_disk_bytes() + GAP_BLOCKS * BLOCK_SIZE_BYTES
    return MemoryDisk(size_bytes, Chance(CaseKey("disk", 0, 0)).take_bytes(size_bytes))


def _with_slack_of_others(world: World) -> MemoryDisk:
    """The disk behind a dump, but for the zeros that its requests have between their frames."""
    written, disk = bytearray(world.before), _disk_of_others(world.extents)
    for event in world.trace:
        written[event.offset_bytes : event.offset_bytes + event.length_bytes] = event.content
    for offset_bytes, length_bytes in (*world.headers, *itertools.chain.from_iterable(world.places)):
        disk.write_from(offset_bytes, written[offset_bytes : offset_bytes + length_bytes])
    return disk


def _dump_over(disk: MemoryDisk, scenario: Scenario, extents: ExtentMap, identity: DumpIdentity) -> World:
    dump.arm_region(Mapped(disk, extents), identity, extents, ARMED_TIME_NS)
    world = World(scenario, identity, extents, _memory(scenario, identity), bytes(disk.content), (), ())
    job, trace = _carry_out(world, disk, lambda lower: lower)
    parity = [slot for one in job.plan.sets for slot in one.parity_slots]
    return world._replace(
        trace=trace,
        frames=tuple(_place(frame, job, disk) for frame in job.plan.frames),
        parity=tuple(_later_slot(slot, extents) for slot in parity),
        spares=tuple(_later_slot(slot, extents) for slot in job.spare_slots),
        groups=tuple(itertools.chain.from_iterable(map(_groups, job.plan.sets))),
    )


def _memory(scenario: Scenario, identity: DumpIdentity) -> bytes:
    data = Chance(CaseKey("memory", 0, identity.generation)).take_bytes(scenario.data_pages * PAGE_SIZE_BYTES)
    return data + bytes(scenario.zero_pages * PAGE_SIZE_BYTES)


def _carry_out(world: World, disk: MemoryDisk, around: Around) -> tuple[DumpJob, tuple[Event, ...]]:
    """Step by step what the writer's threads do together. What the disk refuses is counted there, and not raised.

    A thread whose request is never answered takes no other; the rest do, and then wait in vain to end the dump.
    """
    trace: list[Event] = []
    job = _job(world, around(Trace(disk, trace.append)))
    progress, buffer = Progress(), memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
    with contextlib.suppress(Hung):
        dump.begin(job, progress)
        answered = [_is_answered(job, request, buffer, progress) for request in job.plan.requests()]
        if all(answered):
            dump.end(job, progress, END_TIME_NS)
    return job, tuple(trace)


def _is_answered(job: DumpJob, request: Sequence[FramePlan], buffer: memoryview, progress: Progress) -> bool:
    try:
        dump.write_request(job, request, buffer, progress)
    except Hung:
        return False
    return True


def _job(world: World, disk: BlockDevice) -> DumpJob:
    scenario, extents = world.scenario, world.extents
    data_bytes, zero_bytes = (pages * PAGE_SIZE_BYTES for pages in (scenario.data_pages, scenario.zero_pages))
    runs = (MemoryRun(0, data_bytes, is_hole=False), MemoryRun(data_bytes, zero_bytes, is_hole=True))
    starts = range(0, scenario.pages, CLASS_PAGES)
    turns = itertools.islice(itertools.cycle(CLASSES), DUMP_TO_FIND.generation - world.identity.generation, None)
    classes = tuple(
        ClassRunRecord(page_class, start, min(CLASS_PAGES, scenario.pages - start))
        for start, page_class in zip(starts, turns, strict=False)
    )
    ranges, machine = (MemoryRangeRecord(0, data_bytes + zero_bytes),), f"laboratory {world.identity.generation}"
    guard = WriteGuard(disk, list(extents.runs(0, extents.size_bytes)))
    plan = plan_dump(memory_parts(classes, runs), extents.size_bytes, parity_percent=scenario.parity_percent)
    return DumpJob(
        plan=plan,
        identity=world.identity,
        extents=extents,
        region=Mapped(guard, extents),
        memory=Memory(world.memory),
        metadata=encode_metadata(Metadata(b"", ranges, machine, DumpLevel.AUTOMATIC, classes)),
        cause=CAUSE,
        armed_time_ns=ARMED_TIME_NS,
        parity=Parity(plan, [SetBuffers() for _ in plan.sets]),
    )


def _later_slot(slot: int, extents: ExtentMap) -> LaterSlot:
    return LaterSlot(slot, tuple(extents.runs(slot_offset_bytes(slot), SLOT_SIZE_BYTES)))


def _groups(one: ParitySet) -> list[frozenset[int]]:
    numbers = range(one.groups)
    return [frozenset(slot for slot in one.frame_slots if one.group_of(slot) == number) for number in numbers]


def _place(frame: FramePlan, job: DumpJob, disk: MemoryDisk) -> PlacedFrame:
    length_bytes = dump.frame_size_bytes(job, frame)
    runs = tuple(job.extents.runs(frame.region_offset_bytes, length_bytes))
    return PlacedFrame(frame, runs, b"".join(disk.read(*run) for run in runs))
