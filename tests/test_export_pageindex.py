"""Which pages a dump holds: ranks and bitmaps against a plain set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.export.pageindex import PageIndex
from dumpwriter.formats.region import PageRun
from tests.dumpfiles import page_runs, single_pages

WINDOW = 1 << 20
NUMBERS = st.integers(0, 100) | st.integers(WINDOW - 10, WINDOW + 10) | st.integers(1 << 39, (1 << 39) + 20)
PAGE_SETS = st.sets(NUMBERS, max_size=60)


@given(PAGE_SETS)
@settings(deadline=None)
def test_a_rank_counts_the_pages_before(pages: set[int]) -> None:
    index = PageIndex(page_runs(pages))
    assert [index.rank(page) for page in sorted(pages)] == list(range(len(pages)))
    assert (index.page_count, index.end_page) == (len(pages), max(pages, default=-1) + 1)


@given(PAGE_SETS)
@settings(deadline=None)
def test_a_bitmap_has_a_bit_for_each_page(pages: set[int]) -> None:
    found: list[int] = []
    for offset, part in PageIndex(page_runs(pages)).bitmap():
        assert len(part) <= WINDOW // 8
        ones = ((at, bit) for at, byte in enumerate(part) if byte for bit in range(8) if byte >> bit & 1)
        found += [(offset + at) * 8 + bit for at, bit in ones]
    assert found == sorted(pages)


def test_a_run_over_several_windows_is_all_ones() -> None:
    parts = dict(PageIndex([PageRun(3, 3 * WINDOW)]).bitmap())
    assert list(parts) == [0, WINDOW // 8, 2 * WINDOW // 8, 3 * WINDOW // 8]
    assert b"".join(parts.values()) == b"\xf8" + b"\xff" * (3 * WINDOW // 8 - 1) + b"\x07"


def test_runs_that_touch_are_one() -> None:
    joined = PageIndex(single_pages([1, 2, 3, 7, 8]))
    assert (joined.starts.tolist(), joined.ends.tolist()) == ([1, 7], [4, 9])
    assert joined.rank(7, 2) == 3


@pytest.mark.parametrize("asked", [PageRun(0, 1), PageRun(3, 2), PageRun(4, 1), PageRun(9, 1), PageRun(1, 6)])
def test_a_page_that_is_not_there_has_no_rank(asked: PageRun) -> None:
    with pytest.raises(ValueError, match="not all present"):
        PageIndex([PageRun(1, 3), PageRun(6, 2)]).rank(*asked)
