"""Memories of a few pages to make dumps of: pages of zeros, pages that shrink and pages that do not, in turn."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from dumpwriter.dumpfile.dump import Contents
from dumpwriter.export.notes import pack_notes, prstatus_note, vmcoreinfo_note
from tests.dumpfiles import PAGE, page_runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.formats.region import PageRun

KINDS = ("zeros", "text", "noise")
TEXT = b"OSRELEASE=6.1.0-test\nNUMBER(phys_base)=-2097152\nCRASHTIME=1700000000\n"
NOTES = pack_notes([prstatus_note(0, {"rip": 1, "rsp": 2}), prstatus_note(1, {"rip": 3}), vmcoreinfo_note(TEXT)])


@functools.cache
def page_content(page: int) -> bytes:
    """What the page of that number holds."""
    kind = KINDS[page % len(KINDS)]
    if kind == "noise":
        return random.Random(page).randbytes(PAGE)
    return bytes(PAGE) if kind == "zeros" else (b"page %8d of the machine\n" % page * 200)[:PAGE]


def read(physical: int, length: int) -> bytes:
    return b"".join(page_content(page) for page in range(physical // PAGE, (physical + length) // PAGE))


def pages_of(runs: Iterable[PageRun]) -> list[int]:
    return [page for run in runs for page in range(run.first_page, sum(run))]


@st.composite
def partial_contents(draw: st.DrawFn, last_page: int = 40_000) -> Contents:
    """A fragmented memory with a hole in its addresses, of which some pages are present."""
    memory = page_runs(draw(st.sets(st.integers(0, 300) | st.integers(last_page - 300, last_page), max_size=80)))
    present = page_runs(draw(st.sets(st.sampled_from(pages_of(memory)))) if memory else ())
    return Contents(memory, present, NOTES, is_partial=memory != present)
