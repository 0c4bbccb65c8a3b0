"""The dump plan: from what memory holds to an ordered list of frames. Pure: no I/O, no clock, no trio.

The order is the order of value: metadata, secondary data, then the pages from the most valuable to the least, then the
metadata once more. A dump that is cut keeps its best part, and a region that is too small gives a smaller dump. Parity
takes what the pages leave of the region: a page that is not written is lost for certain.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.crash.protection import NO_PARITY, REQUEST_FRAMES, parity_sets, parity_slot_count, slots_of
from dumpwriter.formats.region import (
    COVERED_PAGES_MAX,
    FRAME_PAGES_MAX,
    PAGE_SIZE_BYTES,
    RUNS_MAX,
    SECONDARY_COUNT_MAX,
    SECONDARY_PIECE,
    SECONDARY_SIZE_BYTES_MAX,
    DumpLevel,
    FrameKind,
    PageRun,
)
from dumpwriter.frames import FramePlan, page_count, slot_count, slot_offset_bytes
from dumpwriter.levels import LAST_RANK, RANK_UNKNOWN
from vdisk.blockdevice import BLOCK_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.crash.protection import ParitySet
    from dumpwriter.formats.region import ClassRunRecord
    from dumpwriter.memory.physical import MemoryRun

SPARE_SLOTS = 8  # behind the plan, for frames that their own slot does not take: 2 MiB of a disk that fails
META_COPIES = 2
PAGE_FRAMES_MIN = 2  # kept from secondary data, for the log and what else is worth most
SECONDARY_FRAMES_MAX = 1 + (
    (SECONDARY_SIZE_BYTES_MAX + 2 * SECONDARY_COUNT_MAX * SECONDARY_PIECE.size_bytes)
    // (COVERED_PAGES_MAX * PAGE_SIZE_BYTES)
)


class MemoryPart(NamedTuple):
    """A run of pages of one worth. The lower the rank, the earlier it is written; zero pages carry no payload."""

    rank: int
    run: PageRun
    is_zero: bool


class DumpPlan(NamedTuple):
    """What the writer is to do. `frames` are in slot order, and requests are slices of it: within one there is no gap.

    Of all pages the level wants some, and of these as many are planned as the region has room for. Parity frames are
    not among the frames: what they cover is known only when it was written.
    """

    frames: tuple[FramePlan, ...]
    pages_total: int
    pages_wanted: int
    pages_planned: int
    sets: tuple[ParitySet, ...] = ()

    @property
    def frame_count(self) -> int:
        """With parity."""
        return len(self.frames) + sum(one.groups for one in self.sets)

    def spare_slots(self, region_size_bytes: int) -> range:
        """Behind all that is planned there is no gap either."""
        return range(self.frame_count, min(slot_count(region_size_bytes), self.frame_count + SPARE_SLOTS))

    def set_of(self, slot: int) -> ParitySet | None:
        """The set whose frames a slot is planned for; None where it has no parity, or is for parity itself."""
        position = bisect.bisect_right(self.sets, slot, key=lambda one: one.first_slot) - 1
        return self.sets[position] if position >= 0 and slot in self.sets[position].frame_slots else None

    def frames_of(self, one: ParitySet) -> tuple[FramePlan, ...]:
        """Those that a set covers: before it, all slots but those for parity have a frame."""
        first = one.first_slot - one.number * one.groups
        return self.frames[first : first + one.frame_count]

    def requests(self) -> Iterator[tuple[FramePlan, ...]]:
        """Frames that lie one behind the other in the region, as many as make a large write."""
        for first in range(0, len(self.frames), REQUEST_FRAMES):
            yield self.frames[first : first + REQUEST_FRAMES]


def memory_parts(classes: Iterable[ClassRunRecord], runs: Iterable[MemoryRun]) -> Iterator[MemoryPart]:
    """Cut memory, as runs of data and of holes, by the worth of its pages. Both are ascending.

    A page that no class names is worth the least that a page can be: it is written, last.
    """
    following = iter(classes)
    current = next(following, None)
    for physical_bytes, length_bytes, is_hole in runs:
        page, end = physical_bytes // PAGE_SIZE_BYTES, (physical_bytes + length_bytes) // PAGE_SIZE_BYTES
        while page < end:
            while current is not None and current.first_page + current.page_count <= page:
                current = next(following, None)
            if current is None:
                rank, stop = RANK_UNKNOWN, end
            elif current.first_page > page:
                rank, stop = RANK_UNKNOWN, min(end, current.first_page)
            else:
                rank, stop = current.page_class, min(end, current.first_page + current.page_count)
            yield MemoryPart(rank, PageRun(page, stop - page), is_hole)
            page = stop


def plan_dump(
    parts: Iterable[MemoryPart],
    region_size_bytes: int,
    level: DumpLevel = DumpLevel.AUTOMATIC,
    secondary_frames: int = 0,
    parity_percent: int = NO_PARITY,
) -> DumpPlan:
    """Lay out what fits; secondary data leaves a small dump as much of memory as the log needs.

    A region that cannot hold even the metadata twice gives a plan without frames.
    """
    ordered = sorted(parts)
    wanted = [part for part in ordered if part.rank <= LAST_RANK[level]]
    pages_total, pages_wanted = (sum(part.run.page_count for part in some) for some in (ordered, wanted))
    slots = slot_count(region_size_bytes)
    if slots < META_COPIES:
        return DumpPlan((), pages_total, pages_wanted, 0)
    frames: tuple[FramePlan, ...] = ()
    sets: tuple[ParitySet, ...] = ()
    if parity_percent != NO_PARITY:
        frames, sets = _covered(wanted, slots, secondary_frames, parity_percent)
    if not sets:
        frames = _in_order(_contents(wanted, slots, secondary_frames, FRAME_PAGES_MAX), itertools.count())
    return DumpPlan(frames, pages_total, pages_wanted, sum(page_count(frame.runs) for frame in frames), sets)


def _covered(
    wanted: list[MemoryPart], slots: int, secondary_frames: int, parity_percent: int
) -> tuple[tuple[FramePlan, ...], tuple[ParitySet, ...]]:
    """Frames that parity can cover, and their sets: no sets where it would cost a page."""
    contents = _contents(wanted, slots + 1, secondary_frames, COVERED_PAGES_MAX)
    sets = parity_sets(len(contents), slots, parity_percent)
    return _in_order(contents, slots_of(len(contents), sets)), sets


def _in_order(contents: Iterable[FramePlan], slots: Iterable[int]) -> tuple[FramePlan, ...]:
    return tuple(frame._replace(sequence=slot) for frame, slot in zip(contents, slots, strict=False))


def _contents(wanted: list[MemoryPart], slots: int, secondary_frames: int, pages_max: int) -> list[FramePlan]:
    """As many frames as there are slots, not yet in them."""
    secondary = min(secondary_frames, max(0, slots - META_COPIES - PAGE_FRAMES_MIN))
    contents = [
        FramePlan(0, FrameKind.META),
        *(FramePlan(0, FrameKind.SECONDARY, part=part) for part in range(secondary)),
    ]
    contents += itertools.islice(_frames_by_worth(wanted, pages_max), slots - len(contents) - 1)
    return [*contents, FramePlan(0, FrameKind.META)]


def region_size_bytes(memory_size_bytes: int, parity_percent: int = NO_PARITY) -> int:
    """A region that holds this much memory whole, however its pages alternate between data and zeros, all secondary
    data that there can be, the parity of all that, and slots to spare.

    A frame takes so many pages in up to as many runs; zeros of which there are enough to fill a frame's runs displace
    more than a frame of data. So the data frames of a full memory bound them all, but for one begun frame of each kind.
    """
    pages = -(-memory_size_bytes // PAGE_SIZE_BYTES)
    pages_max = FRAME_PAGES_MAX if parity_percent == NO_PARITY else COVERED_PAGES_MAX
    begun = 2
    frames = META_COPIES + SECONDARY_FRAMES_MAX + -(-pages // pages_max) + begun
    slots = frames + parity_slot_count(frames, parity_percent) + SPARE_SLOTS
    return slot_offset_bytes(slots) + BLOCK_SIZE_BYTES


def _frames_by_worth(ordered: list[MemoryPart], pages_max: int) -> Iterator[FramePlan]:
    """Pages and zeros are packed apart, and each frame takes its turn by the best page in it.

    Runs of zeros cost next to nothing, so those of the kernel are not left to wait behind the pages of users.
    """
    data = _cut([(part.rank, part.run) for part in ordered if not part.is_zero], pages_max)
    zeros = _cut([(part.rank, part.run) for part in ordered if part.is_zero], pages_max=None)
    ranked = heapq.merge(
        ((rank, FrameKind.PAGES, runs) for rank, runs in data),
        ((rank, FrameKind.ZEROS, runs) for rank, runs in zeros),
        key=lambda frame: frame[:2],
    )
    return (FramePlan(0, kind, runs) for _, kind, runs in ranked)


def _cut(parts: list[tuple[int, PageRun]], pages_max: int | None) -> Iterator[tuple[int, tuple[PageRun, ...]]]:
    """Pack runs into frames, cutting a run where a frame is full; each with the rank of its first page."""
    frame: list[PageRun] = []
    room, best = pages_max, RANK_UNKNOWN
    for rank, (first_page, count) in parts:
        while count:
            best = best if frame else rank
            taken = count if room is None else min(count, room)
            frame.append(PageRun(first_page, taken))
            first_page, count = first_page + taken, count - taken
            room = None if room is None else room - taken
            if room == 0 or len(frame) == RUNS_MAX:
                yield best, tuple(frame)
                frame, room = [], pages_max
    if frame:
        yield best, tuple(frame)
