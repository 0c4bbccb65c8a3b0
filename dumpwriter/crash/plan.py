"""The dump plan: from what memory holds to an ordered list of frames. Pure: no I/O, no clock, no trio.

The order is the order of value: metadata, then the pages most worth having, then pages that are known to be zero, then
the metadata once more. A dump that is cut keeps its best part, and a region that is too small gives a smaller dump.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import FRAME_PAGES_MAX, PAGE_SIZE_BYTES, RUNS_MAX, FrameKind, PageRun
from dumpwriter.frames import FramePlan, page_count, slot_count, slot_offset_bytes
from vdisk.blockdevice import BLOCK_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.formats.controlblock import ClassRunRecord
    from dumpwriter.memory.physical import MemoryRun

REQUEST_FRAMES = 8  # one request to the disk: 2 MiB is where a large aligned write reaches full speed
META_COPIES = 2
RANK_UNKNOWN = 255


class MemoryPart(NamedTuple):
    """A run of pages of one worth. The lower the rank, the earlier it is written; zero pages carry no payload."""

    rank: int
    run: PageRun
    is_zero: bool


class DumpPlan(NamedTuple):
    """What the writer is to do. `frames` are in slot order, without gaps: requests are slices of it."""

    frames: tuple[FramePlan, ...]
    pages_total: int
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


def plan_dump(parts: Iterable[MemoryPart], region_size_bytes: int) -> DumpPlan:
    """Lay out what fits. A region that cannot hold even the metadata twice gives a plan without frames."""
    ordered = sorted(parts)
    pages_total = sum(part.run.page_count for part in ordered)
    slots = slot_count(region_size_bytes)
    if slots < META_COPIES:
        return DumpPlan((), pages_total, 0)
    data = _cut([part.run for part in ordered if not part.is_zero], FRAME_PAGES_MAX)
    zeros = _cut([part.run for part in ordered if part.is_zero], pages_max=None)
    contents: list[tuple[FrameKind, tuple[PageRun, ...]]] = [(FrameKind.META, ())]
    contents += itertools.islice(
        itertools.chain(((FrameKind.PAGES, runs) for runs in data), ((FrameKind.ZEROS, runs) for runs in zeros)),
        slots - META_COPIES,
    )
    contents.append((FrameKind.META, ()))
    frames = tuple(
        FramePlan(sequence, kind, slot_offset_bytes(sequence), runs) for sequence, (kind, runs) in enumerate(contents)
    )
    return DumpPlan(frames, pages_total, sum(page_count(frame.runs) for frame in frames))


def region_size_bytes(memory_size_bytes: int) -> int:
    """A region that holds any memory of this size whole, however its pages alternate between data and zeros.

    A frame takes 64 pages in up to 64 runs; zeros of which there are enough to fill a frame's runs displace more than
    a frame of data. So the data frames of a full memory bound them all, but for one begun frame of each kind.
    """
    pages = -(-memory_size_bytes // PAGE_SIZE_BYTES)
    begun = 2
    return slot_offset_bytes(-(-pages // FRAME_PAGES_MAX) + begun + META_COPIES) + BLOCK_SIZE_BYTES


def _cut(runs: list[PageRun], pages_max: int | None) -> Iterator[tuple[PageRun, ...]]:
    """Pack runs into frames, cutting a run where a frame is full."""
    frame: list[PageRun] = []
    room = pages_max
    for first_page, count in runs:
        while count:
            taken = count if room is None else min(count, room)
            frame.append(PageRun(first_page, taken))
            first_page, count = first_page + taken, count - taken
            room = None if room is None else room - taken
            if room == 0 or len(frame) == RUNS_MAX:
                yield tuple(frame)
                frame, room = [], pages_max
    if frame:
        yield tuple(frame)
