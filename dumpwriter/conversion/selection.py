"""Which pages of a dump go into a file, and which do not: every page of memory is in one of the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy

from dumpwriter.dumpfile.pageruns import PageRuns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.dumpfile.dump import Contents, DumpRun

NO_PAGES = PageRuns.of(())
ONLY_LEFT, BOTH, EITHER = (1,), (3,), (1, 2, 3)


class Selection(NamedTuple):
    """What is missing or left out may be filled besides."""

    written: PageRuns
    left_out: PageRuns  # the level does not ask for them
    missing: PageRuns  # the dump does not have them
    filled: PageRuns = NO_PAGES  # zeros stand in their place

    @property
    def in_file(self) -> PageRuns:
        """All pages that a reader of the file sees."""
        return _combine(self.written, self.filled, EITHER)


def select(contents: Contents, excluded: Iterable[tuple[int, int]] = ()) -> Selection:
    """What of a dump goes into a file: all that it has, but for what a level excludes."""
    memory, present, unwanted = (PageRuns.of(runs) for runs in (contents.memory, contents.present, excluded))
    return Selection(
        written=_combine(present, unwanted, ONLY_LEFT),
        left_out=_combine(present, unwanted, BOTH),
        missing=_combine(memory, present, ONLY_LEFT),
    )


def gaps(selection: Selection, memory: Iterable[tuple[int, int]]) -> PageRuns:
    """What a file that begins at page 0 and ends with memory needs besides the pages that are written."""
    end_page = max((first + count for runs in (memory, selection.written) for first, count in runs), default=0)
    return _combine(PageRuns.of([(0, end_page)] if end_page else ()), selection.written, ONLY_LEFT)


def runs_within(runs: Iterable[DumpRun], wanted: PageRuns) -> Iterator[DumpRun]:
    """The parts of ascending runs that are wanted."""
    following = iter(wanted)
    first, count = next(following, (0, 0))
    for run in runs:
        end = run.first_page + run.page_count
        while count and first < end:
            start, stop = max(run.first_page, first), min(end, first + count)
            if start < stop:
                yield run._replace(first_page=start, page_count=stop - start)
            if first + count > end:
                break  # the rest of it may lie in the next run
            first, count = next(following, (0, 0))


def _combine(left: PageRuns, right: PageRuns, wanted_states: tuple[int, ...]) -> PageRuns:
    """A sweep over all places where a run begins or ends. The state is 1 within a left run, 2 within a right one."""
    points = [numpy.concatenate((runs.first_pages, runs.first_pages + runs.page_counts)) for runs in (left, right)]
    steps = [numpy.repeat((weight, -weight), len(runs)) for weight, runs in ((1, left), (2, right))]
    places = numpy.concatenate(points)
    order = numpy.argsort(places, kind="stable")
    places, state = places[order], numpy.cumsum(numpy.concatenate(steps)[order])
    is_wanted = numpy.isin(state[:-1], wanted_states) & (places[:-1] < places[1:])
    return PageRuns.joined(places[:-1][is_wanted], places[1:][is_wanted])
