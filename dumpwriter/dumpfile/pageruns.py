"""Runs of pages as two arrays: sixteen bytes a run, where the objects of a tuple would take a hundred and more.

A dump of 64 GiB that was filtered page by page has a million runs, and a file that somebody made may have any number.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy

from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Integers = NDArray[numpy.int64]

RUNS_MAXIMUM = 1 << 21
ROWS_AT_A_TIME = 4096
_ONLY_THIS, _BOTH = 1, 3


class PageRuns(Sequence[PageRun]):
    """Ascending runs that neither overlap nor touch. To index or iterate gives `PageRun`s, made as they are asked for.

    FormatError where there are more than RUNS_MAXIMUM.
    """

    def __init__(self, first_pages: Integers, page_counts: Integers) -> None:
        if len(first_pages) > RUNS_MAXIMUM:
            raise FormatError(f"pages in {len(first_pages)} runs are more than can be kept in memory")
        self.first_pages = first_pages
        self.page_counts = page_counts

    @classmethod
    def of(cls, runs: Iterable[tuple[int, int]]) -> PageRuns:
        """From (first page, page count) in ascending order of the first page; what overlaps or touches is joined."""
        numbers = numpy.fromiter(itertools.chain.from_iterable(runs), numpy.int64).reshape(-1, 2)
        return cls.joined(numbers[:, 0], numbers[:, 0] + numbers[:, 1])

    @classmethod
    def covering(cls, starts_bytes: Integers, ends_bytes: Integers) -> PageRuns:
        """The pages that pieces of memory touch, given in ascending order of their starts."""
        held = ends_bytes > starts_bytes
        return cls.joined(starts_bytes[held] // PAGE_SIZE_BYTES, -(-ends_bytes[held] // PAGE_SIZE_BYTES))

    @classmethod
    def joined(cls, starts: Integers, ends: Integers) -> PageRuns:
        """From page numbers in ascending order of the starts; what overlaps or touches becomes one run."""
        starts, ends = starts[ends > starts], ends[ends > starts]
        reached = numpy.maximum.accumulate(ends)
        begins = numpy.ones(len(starts), bool)
        begins[1:] = starts[1:] > reached[:-1]
        last_of_run = numpy.roll(begins, -1)
        return cls(starts[begins], reached[last_of_run] - starts[begins])

    @classmethod
    def gathered(cls, parts: Iterable[tuple[Integers, Integers]]) -> PageRuns:
        """From pieces of what `joined` takes. FormatError as soon as there are too many."""
        starts, ends = [numpy.zeros(0, numpy.int64)], [numpy.zeros(0, numpy.int64)]
        count = 0
        for some_starts, some_ends in parts:
            starts.append(some_starts)
            ends.append(some_ends)
            count += len(some_starts)
            if count > RUNS_MAXIMUM + len(starts):  # where two pieces meet, a run may be in both
                raise FormatError(f"pages in more than {RUNS_MAXIMUM} runs are more than can be kept in memory")
        return cls.joined(numpy.concatenate(starts), numpy.concatenate(ends))

    @classmethod
    def of_pages(cls, parts: Iterable[Integers]) -> PageRuns:
        """From ascending numbers of pages, in pieces."""
        return cls.gathered(_runs_of(pages) for pages in parts if len(pages))

    def union(self, other: PageRuns) -> PageRuns:
        """The pages that are in one of them."""
        starts = numpy.concatenate((self.first_pages, other.first_pages))
        counts = numpy.concatenate((self.page_counts, other.page_counts))
        order = numpy.argsort(starts, kind="stable")
        return PageRuns.joined(starts[order], (starts + counts)[order])

    def minus(self, other: PageRuns) -> PageRuns:
        """The pages that are in this one alone."""
        return self._swept(other, _ONLY_THIS)

    def common(self, other: PageRuns) -> PageRuns:
        """The pages that are in both."""
        return self._swept(other, _BOTH)

    def _swept(self, other: PageRuns, wanted_state: int) -> PageRuns:
        """A sweep over all places where a run begins or ends. The state is 1 within these runs, 2 within the other."""
        points = [numpy.concatenate((runs.first_pages, runs.first_pages + runs.page_counts)) for runs in (self, other)]
        steps = [numpy.repeat((weight, -weight), len(runs)) for weight, runs in ((1, self), (2, other))]
        places = numpy.concatenate(points)
        order = numpy.argsort(places, kind="stable")
        places, states = places[order], numpy.cumsum(numpy.concatenate(steps)[order])
        is_wanted = (states[:-1] == wanted_state) & (places[:-1] < places[1:])
        return PageRuns.joined(places[:-1][is_wanted], places[1:][is_wanted])

    def within(self, first_page: int, end_page: int) -> PageRuns:
        """The pages from the one up to the other."""
        starts = self.first_pages.clip(first_page, end_page)
        return PageRuns.joined(starts, (self.first_pages + self.page_counts).clip(first_page, end_page))

    def overlapping(self, run: PageRun) -> Iterator[PageRun]:
        """The parts of a run that are in these, found without looking at the others."""
        position, end = run.first_page, run.first_page + run.page_count
        index = max(int(numpy.searchsorted(self.first_pages, position, "right")) - 1, 0)
        while index < len(self) and self.first_pages[index] < end:
            start = max(position, int(self.first_pages[index]))
            stop = min(end, int(self.first_pages[index] + self.page_counts[index]))
            if start < stop:
                yield PageRun(start, stop - start)
            index += 1

    @property
    def page_count(self) -> int:
        return int(self.page_counts.sum())

    def __len__(self) -> int:
        return len(self.first_pages)

    @overload
    def __getitem__(self, index: int) -> PageRun: ...
    @overload
    def __getitem__(self, index: slice) -> PageRuns: ...
    def __getitem__(self, index: int | slice) -> PageRun | PageRuns:
        if isinstance(index, slice):
            return PageRuns(self.first_pages[index], self.page_counts[index])
        return PageRun(int(self.first_pages[index]), int(self.page_counts[index]))

    def __iter__(self) -> Iterator[PageRun]:
        for start in range(0, len(self), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            yield from map(PageRun, self.first_pages[rows].tolist(), self.page_counts[rows].tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PageRuns):
            return numpy.array_equal(self.first_pages, other.first_pages) and numpy.array_equal(
                self.page_counts, other.page_counts
            )
        return isinstance(other, Sequence) and len(self) == len(other) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment] # as a list

    def __repr__(self) -> str:
        return f"PageRuns({self.page_count} pages in {len(self)} runs)"

    def find(self, first_page: int, page_count: int) -> int:
        """The index of the run that holds all these pages; ValueError where one of them is in none."""
        index = int(numpy.searchsorted(self.first_pages, first_page, "right")) - 1
        inside = first_page - int(self.first_pages[index]) if index >= 0 else -1
        if inside < 0 or page_count < 0 or inside + page_count > int(self.page_counts[index]):
            raise ValueError(f"{page_count} pages from {first_page:#x} on are not all present")
        return index

    @cached_property
    def _ranks(self) -> Integers:
        """How many pages come before each run."""
        return numpy.cumsum(self.page_counts) - self.page_counts

    def rank(self, page: int) -> int:
        """How many of the pages come before this one; ValueError where it is none of them."""
        index = self.find(page, 1)
        return int(self._ranks[index] + page - self.first_pages[index])

    def pages(self, rank: int, count: int) -> Integers:
        """The numbers of so many pages from the one of that rank on."""
        ranks = numpy.arange(rank, rank + count)
        index = numpy.searchsorted(self._ranks, ranks, "right") - 1
        return self.first_pages[index] + ranks - self._ranks[index]


def _runs_of(pages: Integers) -> tuple[Integers, Integers]:
    """Starts and ends of ascending pages."""
    is_border = numpy.append(numpy.diff(pages) != 1, [True])
    return pages[numpy.roll(is_border, 1)], pages[is_border] + 1
