"""Which pages of a dump go into a file, and which do not: every page of memory is in one of the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.dumpfile.pageruns import PageRuns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.dumpfile.dump import Contents, DumpRun

NO_PAGES = PageRuns.of(())


class Selection(NamedTuple):
    """What is missing or excluded may be filled besides."""

    written: PageRuns
    excluded: PageRuns  # the level does not ask for them
    missing: PageRuns  # the dump does not have them
    filled: PageRuns = NO_PAGES  # zeros stand in their place

    @property
    def in_file(self) -> PageRuns:
        """All pages that a reader of the file sees."""
        return self.written.union(self.filled)


def select(contents: Contents, unwanted: Iterable[tuple[int, int]] = ()) -> Selection:
    """What of a dump goes into a file: all that it has, but for what nobody wants."""
    memory, present, excluded = (PageRuns.of(runs) for runs in (contents.memory, contents.present, unwanted))
    return Selection(
        written=present.minus(excluded),
        excluded=present.common(excluded),
        missing=memory.minus(present),
    )


def gaps(selection: Selection, memory: Iterable[tuple[int, int]]) -> PageRuns:
    """What a file that begins at page 0 and ends with memory needs besides the pages that are written."""
    end_page = max((first + count for runs in (memory, selection.written) for first, count in runs), default=0)
    return PageRuns.of([(0, end_page)] if end_page else ()).minus(selection.written)


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
