"""Which pages a dump holds, and the how-manieth of them each is. Arrays, as long as the memory is fragmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dumpwriter.formats.region import PageRun

_WINDOW_PAGES = 1 << 20


class PageIndex:
    """Ascending, disjoint runs of pages, and how many pages are before each."""

    def __init__(self, runs: Sequence[PageRun]) -> None:
        self.runs = runs if isinstance(runs, PageRuns) else PageRuns.of(runs)
        self.starts, self.ends = self.runs.first_pages, self.runs.first_pages + self.runs.page_counts
        assert (self.starts[1:] > self.ends[:-1]).all(), "runs of pages are not in order"
        self._ranks = np.cumsum(self.runs.page_counts) - self.runs.page_counts
        self.page_count = self.runs.page_count

    @property
    def end_page(self) -> int:
        """The first page behind all of them."""
        return int(self.ends[-1]) if self.ends.size else 0

    def rank(self, first_page: int, page_count: int = 1) -> int:
        """How many pages of the dump are before these. ValueError where one of them is not in it."""
        run = self.runs.find(first_page, page_count)
        return int(self._ranks[run] + first_page - self.starts[run])

    def offset_bytes(self, physical_bytes: int) -> int:
        """Where the byte of an address is when all pages follow each other. ValueError where its page is not there."""
        page, inside_bytes = divmod(physical_bytes, PAGE_SIZE_BYTES)
        return self.rank(page) * PAGE_SIZE_BYTES + inside_bytes

    def bitmap(self) -> Iterator[tuple[int, bytes]]:
        """One bit a page, the lowest bit of a byte first: the parts that are not all zeros, as (byte offset, bytes)."""
        page = 0
        while (run := int(np.searchsorted(self.ends, page, side="right"))) < self.ends.size:
            window = max(page, int(self.starts[run])) // _WINDOW_PAGES * _WINDOW_PAGES
            yield self._window(window)
            page = window + _WINDOW_PAGES

    def _window(self, first_page: int) -> tuple[int, bytes]:
        """Of a stretch of pages, from the first byte that is not zero to the last one."""
        first, last = (
            np.searchsorted(self.ends, first_page, "right"),
            np.searchsorted(self.starts, first_page + _WINDOW_PAGES),
        )
        starts = np.maximum(self.starts[first:last] - first_page, 0)
        ends = np.minimum(self.ends[first:last] - first_page, _WINDOW_PAGES)
        base = int(starts[0]) // 8 * 8
        used_pages = -(-(int(ends[-1]) - base) // 8) * 8
        place = (first_page + base) // 8
        if starts[0] == base and ends[0] == base + used_pages:
            return place, b"\xff" * (used_pages // 8)
        steps = np.zeros(used_pages + 1, np.int8)
        steps[starts - base] = 1
        steps[ends - base] = -1
        return place, np.packbits(np.cumsum(steps[:-1], dtype=np.int8), bitorder="little").tobytes()
