"""A set of pages, held as runs: as large as the memory is fragmented, not as large as the memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from dumpwriter.formats.region import PageRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class PageSet:
    """Runs are kept sorted and joined: starts and ends in two lists, so that a search is a bisection."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @classmethod
    def of(cls, runs: Iterable[PageRun]) -> PageSet:
        """The pages of disjoint runs."""
        pages = cls()
        for run in runs:
            pages.add(run)
        return pages

    def add(self, run: PageRun) -> bool:
        """Add the pages; False, and nothing added, where one of them is there already."""
        start, end = run.first_page, run.first_page + run.page_count
        index = bisect_right(self._starts, start)
        if (index and self._ends[index - 1] > start) or (index < len(self._starts) and self._starts[index] < end):
            return False
        joins_left = index > 0 and self._ends[index - 1] == start
        joins_right = index < len(self._starts) and self._starts[index] == end
        if joins_left and joins_right:
            self._ends[index - 1] = self._ends.pop(index)
            self._starts.pop(index)
        elif joins_left:
            self._ends[index - 1] = end
        elif joins_right:
            self._starts[index] = start
        else:
            self._starts.insert(index, start)
            self._ends.insert(index, end)
        return True

    def runs(self) -> tuple[PageRun, ...]:
        return tuple(PageRun(start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    def missing_from(self, expected: Iterable[PageRun]) -> Iterator[PageRun]:
        """The parts of the expected runs that are not in the set, in the order of the expected runs."""
        for first_page, page_count in expected:
            position, end = first_page, first_page + page_count
            index = bisect_left(self._ends, position + 1)
            while position < end:
                following = self._starts[index] if index < len(self._starts) else end
                if following > position:
                    yield PageRun(position, min(following, end) - position)
                position = max(position, self._ends[index]) if index < len(self._ends) else end
                index += 1
