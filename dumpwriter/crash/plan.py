"""The dump plan: from what memory holds to an ordered list of frames. Pure: no I/O, no clock, no trio.

The order is the order of value: metadata, secondary data, then the pages from the most valuable to the least, then the
metadata once more. A dump that is cut keeps its best part, and a region that is too small gives a smaller dump.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import (
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

    from dumpwriter.formats.region import ClassRunRecord
    from dumpwriter.memory.physical import MemoryRun

REQUEST_FRAMES = 8  # one request to the disk: 2 MiB is where a large aligned write reaches full speed
META_COPIES = 2
PAGE_FRAMES_MIN = 2  # kept from secondary data, for the log and what else is worth most
SECONDARY_FRAMES_MAX = 1 + (
    (SECONDARY_SIZE_BYTES_MAX + 2 * SECONDARY_COUNT_MAX * SECONDARY_PIECE.size_bytes)
    // (FRAME_PAGES_MAX * PAGE_SIZE_BYTES)
)


class MemoryPart(NamedTuple):
    """A run of pages of one worth. The lower the rank, the earlier it is written; zero pages carry no payload."""

    rank: int
    run: PageRun
    is_zero: bool


class DumpPlan(NamedTuple):
    """What the writer is to do. `frames` are in slot order, without gaps: requests are slices of it.

    Of all pages the level wants some, and of these as many are planned as the region has room for.
    """

    frames: tuple[FramePlan, ...]
    pages_total: int
    pages_wanted: int
    pages_planned: int

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
    contents: list[tuple[FrameKind, tuple[PageRun, ...]]] = [
        (FrameKind.META, ()),
        *[(FrameKind.SECONDARY, ())] * min(secondary_frames, max(0, slots - META_COPIES - PAGE_FRAMES_MIN)),
    ]
    contents += itertools.islice(_frames_by_worth(wanted), slots - len(contents) - 1)
    contents.append((FrameKind.META, ()))
    frames = tuple(
        FramePlan(sequence, kind, slot_offset_bytes(sequence), runs) for sequence, (kind, runs) in enumerate(contents)
    )
    return DumpPlan(frames, pages_total, pages_wanted, sum(page_count(frame.runs) for frame in frames))


def region_size_bytes(memory_size_bytes: int) -> int:
    """A region that holds this much memory whole, however its pages alternate between data and zeros, and all
    secondary data that there can be.

    A frame takes 64 pages in up to 64 runs; zeros of which there are enough to fill a frame's runs displace more than
    a frame of data. So the data frames of a full memory bound them all, but for one begun frame of each kind.
    """
    pages = -(-memory_size_bytes // PAGE_SIZE_BYTES)
    begun = 2
    slots = META_COPIES + SECONDARY_FRAMES_MAX + -(-pages // FRAME_PAGES_MAX) + begun
    return slot_offset_bytes(slots) + BLOCK_SIZE_BYTES


def _frames_by_worth(ordered: list[MemoryPart]) -> Iterator[tuple[FrameKind, tuple[PageRun, ...]]]:
    """Pages and zeros are packed apart, and each frame takes its turn by the best page in it.

    Runs of zeros cost next to nothing, so those of the kernel are not left to wait behind the pages of users.
    """
    data = _cut([(part.rank, part.run) for part in ordered if not part.is_zero], FRAME_PAGES_MAX)
    zeros = _cut([(part.rank, part.run) for part in ordered if part.is_zero], pages_max=None)
    ranked = heapq.merge(
        ((rank, FrameKind.PAGES, runs) for rank, runs in data),
        ((rank, FrameKind.ZEROS, runs) for rank, runs in zeros),
        key=lambda frame: frame[:2],
    )
    return ((kind, runs) for _, kind, runs in ranked)


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
