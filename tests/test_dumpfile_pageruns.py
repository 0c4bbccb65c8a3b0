"""Runs of pages in arrays: as a list of runs in everything but their size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.dumpfile import pageruns
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PageRun
from vdisk.errors import FormatError

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9))).map(sorted)


@given(RUNS)
def test_runs_join_what_overlaps_or_touches(runs: list[tuple[int, int]]) -> None:
    pages = sorted({page for first, count in runs for page in range(first, first + count)})
    found = PageRuns.of(runs)
    assert [page for first, count in found for page in range(first, first + count)] == pages
    assert all(low.first_page + low.page_count < high.first_page for low, high in itertools.pairwise(found))
    assert found.page_count == len(pages)
    for page in range(70):
        if page in pages:
            first, count = found[found.find(page, 1)]
            assert first <= page < first + count
        else:
            with pytest.raises(ValueError, match="not all present"):
                found.find(page, 1)


def test_runs_are_a_sequence() -> None:
    runs = PageRuns.of([(1, 2), (8, 1)])
    assert list(runs) == [PageRun(1, 2), PageRun(8, 1)]
    assert (runs[1], len(runs), list(runs[:1])) == (PageRun(8, 1), 2, [PageRun(1, 2)])
    assert runs == ((1, 2), (8, 1))
    assert runs == PageRuns.of([(1, 1), (2, 1), (8, 1)])
    assert runs != ((1, 2),)
    assert PageRuns.of([]) == ()


def test_pages_that_end_inside_a_run_are_all_of_them_asked_for() -> None:
    runs = PageRuns.of([(1, 2), (8, 1)])
    for first_page, page_count in [(2, 2), (0, 1), (9, 1), (1, 8), (-1, 1)]:
        with pytest.raises(ValueError, match="not all present"):
            runs.find(first_page, page_count)


def test_more_runs_than_memory_is_set_aside_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pageruns, "RUNS_MAXIMUM", 3)
    with pytest.raises(FormatError, match="more than can be kept"):
        PageRuns.of((2 * page, 1) for page in range(4))
