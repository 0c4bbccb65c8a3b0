"""How two dumps differ: pages that only one of them holds, and pages that both hold with different bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dumpwriter.dumpfile.dump import Dump

CHUNK_PAGES = 256


class Difference(NamedTuple):
    """Pages of each kind. What is in neither dump is no difference."""

    differing: PageRuns
    only_first: PageRuns
    only_second: PageRuns

    @property
    def is_none(self) -> bool:
        return not any(runs.page_count for runs in self)


def compare(first: Dump, second: Dump, progress: Callable[[int, int], None]) -> Difference:
    """Page by page. Pages that both dumps know to be zeros are not read. Raises `FormatError`."""
    held = [PageRuns.of(dump.contents.present) for dump in (first, second)]
    common = held[0].common(held[1])
    to_read = common.minus(_zeros(first).common(_zeros(second)))
    differing = PageRuns.of_pages(_differing_pages(first, second, to_read, progress))
    return Difference(differing, held[0].minus(common), held[1].minus(common))


def _zeros(dump: Dump) -> PageRuns:
    return PageRuns.of((run.first_page, run.page_count) for run in dump.runs() if run.is_zero)


def _differing_pages(
    first: Dump, second: Dump, pages: PageRuns, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.int64]]:
    one, other = (memoryview(bytearray(CHUNK_PAGES * PAGE_SIZE_BYTES)) for _ in range(2))
    total, done = pages.page_count, 0
    for run in pages:
        for first_page in range(run.first_page, run.first_page + run.page_count, CHUNK_PAGES):
            count = min(CHUNK_PAGES, run.first_page + run.page_count - first_page)
            is_different = _read(first, first_page, one, count) != _read(second, first_page, other, count)
            yield np.flatnonzero(is_different.any(axis=1)) + first_page
            done += count
            progress(done, total)


def _read(dump: Dump, first_page: int, buffer: memoryview, page_count: int) -> NDArray[np.uint64]:
    """Pages as rows of words, in the buffer."""
    view = buffer[: page_count * PAGE_SIZE_BYTES]
    dump.read_into(first_page, view)
    return np.frombuffer(view, np.uint64).reshape(page_count, -1)
