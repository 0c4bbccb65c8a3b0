"""Levels: which pages of memory a dump is to hold. Pure; shared by those who write and those who read.

A level is a cut through the order of value: it holds every class of pages up to its last one, and leaves out the rest.
A page that no class names is worth the least that a page can be, so only a level that asks for all of memory holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.formats.region import DumpLevel, PageRun
from dumpwriter.memory.source import PageClass
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


RANK_UNKNOWN = 255  # of pages that no class names

LAST_RANK = {
    DumpLevel.SMALL: PageClass.PAGE_TABLES,
    DumpLevel.KERNEL: PageClass.KERNEL_DATA,
    DumpLevel.ACTIVE: PageClass.USER,
    DumpLevel.COMPLETE: RANK_UNKNOWN,
    DumpLevel.AUTOMATIC: RANK_UNKNOWN,
}
BY_SIZE = (DumpLevel.SMALL, DumpLevel.KERNEL, DumpLevel.ACTIVE, DumpLevel.COMPLETE)
NAMES = tuple(level.name.lower() for level in (*BY_SIZE, DumpLevel.AUTOMATIC))


def parse_level(text: str) -> DumpLevel:
    """Raises `UsageError`."""
    if text not in NAMES:
        raise UsageError(f"{text!r} is no level: give {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    return DumpLevel[text.upper()]


def leaves_out_pages(level: DumpLevel) -> bool:
    """Whether there can be a page of memory that the level does not ask for."""
    return LAST_RANK[level] < RANK_UNKNOWN


def wanted_runs(level: DumpLevel, classes: Iterable[tuple[int, int, int]], memory: Sequence[PageRun]) -> list[PageRun]:
    """The pages of memory that a level asks for, ascending.

    `classes` are (class, first page, number of pages); they and `memory` are ascending and disjoint.
    """
    if not leaves_out_pages(level):
        return list(memory)
    valuable = (PageRun(first, count) for rank, first, count in classes if rank <= LAST_RANK[level])
    return list(intersection(list(valuable), memory))


def intersection(left: Sequence[PageRun], right: Sequence[PageRun]) -> Iterator[PageRun]:
    """The pages that are in both; each is ascending and disjoint."""
    position, other = 0, 0
    while position < len(left) and other < len(right):
        first = max(left[position].first_page, right[other].first_page)
        ends = left[position].first_page + left[position].page_count, right[other].first_page + right[other].page_count
        if first < min(ends):
            yield PageRun(first, min(ends) - first)
        position, other = position + (ends[0] <= ends[1]), other + (ends[1] <= ends[0])
