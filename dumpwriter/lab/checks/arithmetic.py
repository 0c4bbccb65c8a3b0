"""Checks of what only counts: sets of pages, levels, extents, the write guard. All small cases, against plain sets."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from dumpwriter.formats.region import DumpLevel, PageRun
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import pages_in, runs_of
from dumpwriter.levels import RANK_UNKNOWN, intersection, wanted_runs
from dumpwriter.recovery.pageset import PageSet
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError, WriteRefusedError
from vdisk.extent import Extent, ExtentMap, Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES = range(6)
RUNS = [PageRun(first, end - first) for first, end in itertools.combinations(range(len(PAGES) + 1), 2)]
SETS = [set(pages) for count in range(len(PAGES) + 1) for pages in itertools.combinations(PAGES, count)]
LAST_CLASS = {DumpLevel.SMALL: 3, DumpLevel.KERNEL: 4, DumpLevel.ACTIVE: 5}  # as docs/FORMAT.md has it

BLOCKS = 8  # of a small disk
EXTENTS = (Extent(0, 5, 2), Extent(2, 1, 1), Extent(3, 3, 1))  # of a file on it, in blocks


def page_sets() -> None:
    """Runs added in every order, those too that overlap."""
    for added in itertools.product(RUNS, repeat=3):
        pages, model = PageSet(), set[int]()
        for run in added:
            is_new = not model & pages_in([run])
            must(pages.add(run) == is_new, f"{run} added to {runs_of(model)} is not told as {is_new}")
            model |= pages_in([run]) if is_new else set()
        must(pages.runs() == tuple(runs_of(model)), f"{added} became {pages.runs()}")
    for there, expected in itertools.product(SETS, repeat=2):
        missing = list(PageSet.of(runs_of(there)).missing_from(runs_of(expected)))
        must(pages_in(missing) == expected - there, f"of {expected}, {there} lacks {missing}")


def intersections() -> None:
    for left, right in itertools.product(SETS, repeat=2):
        common = list(intersection(runs_of(left), runs_of(right)))
        must(common == runs_of(left & right), f"{left} and {right} have {common} in common")


def levels() -> None:
    """Every level over every assignment of a class, or none, to three pages, and every memory that has some of them."""
    for ranks, level in itertools.product(itertools.product((1, 3, 4, 5, 7, RANK_UNKNOWN), repeat=3), DumpLevel):
        classes = [(rank, page, 1) for page, rank in enumerate(ranks) if rank != RANK_UNKNOWN]
        for memory in ({0, 1, 2}, {0, 2}, {1}):
            wanted = pages_in(wanted_runs(level, classes, runs_of(memory)))
            model = {page for page in memory if ranks[page] <= LAST_CLASS.get(level, RANK_UNKNOWN)}
            must(wanted == model, f"{level.name} wants {wanted} of {memory}, which are of the classes {ranks}")


def extents() -> None:
    """Every range of a file in pieces, and every map of two extents that must be refused or taken."""
    mapped = ExtentMap(_in_bytes(EXTENTS))
    places = [extent.physical_bytes + at for extent in mapped.extents for at in range(extent.length_bytes)]
    edges = [at + off for at in range(0, mapped.size_bytes + 1, BLOCK_SIZE_BYTES) for off in (-512, 0, 512)]
    for start, end in itertools.combinations([edge for edge in edges if 0 <= edge <= mapped.size_bytes], 2):
        runs = list(mapped.runs(start, end - start))
        must(all(run.length_bytes for run in runs), f"bytes {start} to {end} of a file have a piece without length")
        found = [place for run in runs for place in range(*_range_of(run))]
        must(found == places[start:end], f"bytes {start} to {end} of a file are looked for in wrong places")
    for outside in ((-512, 512), (mapped.size_bytes, 512), (0, mapped.size_bytes + 512)):
        must(_is_refused(partial(_listed, mapped, *outside), ValueError), f"{outside} is taken")
    for place, length in itertools.product(range(BLOCKS), (1, 2)):
        both = _in_bytes((Extent(0, 3, 2), Extent(2, place, length)))
        overlap = set(range(3, 5)) & set(range(place, place + length))
        must(_is_refused(partial(ExtentMap, both)) == bool(overlap), f"{both} share blocks, or do not")
    for bad in ((1, 0, 1), (0, 0, 0), (0, 0.5, 1), (0, 0, 0.5), (0, -1, 1)):
        row = [int(value * BLOCK_SIZE_BYTES) for value in bad]
        must(_is_refused(partial(ExtentMap, [Extent(*row)])), f"an extent of {row} is taken")


def writes_through_the_map() -> None:
    """Every range of whole sectors at the edges, written, read and discarded: on the disk it is where the map says."""
    small = ExtentMap(_in_bytes(EXTENTS))
    places = [extent.physical_bytes + at for extent in small.extents for at in range(extent.length_bytes)]
    edges = [block * BLOCK_SIZE_BYTES + off for block in range(5) for off in (-512, 0, 512)]
    for start, end in itertools.combinations([edge for edge in edges if 0 <= edge <= small.size_bytes], 2):
        disk = MemoryDisk(BLOCKS * BLOCK_SIZE_BYTES)
        region, content = Mapped(disk, small), bytes(1 + at % 255 for at in range(end - start))
        region.write_from(start, content)
        must(bytes(disk.content[place] for place in places[start:end]) == content, "a write went elsewhere")
        must(len(disk.content) - disk.content.count(0) == len(content), "a write went elsewhere too")
        must(region.read(start, end - start) == content, "what was written is not what is read")
        region.discard(start, end - start)
        must(not any(disk.content), "a discard left something")
    beyond = _in_bytes((Extent(0, BLOCKS - 1, 2),))
    disk = MemoryDisk(BLOCKS * BLOCK_SIZE_BYTES)
    must(_is_refused(lambda: Mapped(disk, ExtentMap(beyond))), "a map that leaves the disk is taken")


def write_guard() -> None:
    """Every write of whole sectors at the edges: what is permitted arrives, and all else changes nothing."""
    permitted = (Run(6, 1), Run(1, 2), Run(5, 1))
    blocks = {block for start, count in permitted for block in range(start, start + count)}
    runs = [Run(*(BLOCK_SIZE_BYTES * value for value in run)) for run in permitted]
    sectors = BLOCK_SIZE_BYTES // 512
    allowed = {block * sectors + at for block in blocks for at in range(sectors)}
    edges = [block * sectors + off for block in range(BLOCKS + 1) for off in (-1, 0, 1)]
    for start, end in itertools.combinations(sorted({edge for edge in edges if 0 <= edge <= BLOCKS * sectors}), 2):
        for request in ("write_from", "write_through", "discard"):
            disk = MemoryDisk(BLOCKS * BLOCK_SIZE_BYTES, bytes([7]) * (BLOCKS * BLOCK_SIZE_BYTES))
            length_bytes = (end - start) * 512
            what = length_bytes if request == "discard" else bytes(length_bytes)
            ask = getattr(WriteGuard(disk, runs), request)
            is_refused = _is_refused(partial(ask, start * 512, what), WriteRefusedError)
            must(is_refused == (not set(range(start, end)) <= allowed), f"{request} of sectors {start} to {end}")
            must(disk.content.count(0) == (not is_refused) * length_bytes, f"{request} changed what it must not")


def _in_bytes(extents: tuple[Extent, ...]) -> list[Extent]:
    return [Extent(*(BLOCK_SIZE_BYTES * value for value in extent)) for extent in extents]


def _range_of(run: Run) -> tuple[int, int]:
    return run.physical_bytes, run.physical_bytes + run.length_bytes


def _listed(extents: ExtentMap, start_bytes: int, length_bytes: int) -> list[Run]:
    return list(extents.runs(start_bytes, length_bytes))


def _is_refused(act: Callable[[], object], refusal: type[Exception] = FormatError) -> bool:
    try:
        act()
    except refusal:
        return True
    return False
