"""The formats in which every page has its place from the start: LiME, raw and the Windows crash dumps."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.dumpfile.dump import Contents
from dumpwriter.export.about import About
from dumpwriter.export.export import FixedExport
from dumpwriter.export.lime import LimeLayout
from dumpwriter.export.pagedump import BitmapLayout, FullLayout
from dumpwriter.export.raw import RawLayout
from dumpwriter.formats.region import PageRun
from tests.builders.lime_reader import lime_pages
from tests.builders.pagedump_reader import PageDumpFile
from tests.dumpfiles import PAGE, assemble, pieces_of, single_pages
from tests.sampledumps import NOTES, page_content, pages_of, partial_contents, read
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.export.layout import FixedLayout

ABOUT = About(
    crash_seconds=1_700_000_000,
    cpu_count=3,
    page_table_root=0x1AD000,
    bugcheck_code=0xD1,
    bugcheck_parameters=(1, 2, 3, -1),
)
WHOLE = Contents((PageRun(1, 40),), (PageRun(1, 40),), NOTES)


def file_of(layout: FixedLayout, contents: Contents) -> bytes:
    export = FixedExport(layout)
    return assemble(export, pieces_of(export, contents.present, read, chunk_pages=7))


def in_any_order(data: st.DataObject, layout: FixedLayout, contents: Contents) -> bytes:
    export = FixedExport(layout)
    order = data.draw(st.permutations(contents.present))
    return assemble(export, pieces_of(export, order, read, chunk_pages=data.draw(st.integers(1, 9))))


class TestAnyPages:
    """Any set of pages, in any order."""

    @given(st.data(), partial_contents())
    @settings(deadline=None, max_examples=60)
    def test_lime(self, data: st.DataObject, contents: Contents) -> None:
        found = lime_pages(in_any_order(data, LimeLayout(contents), contents))
        assert found == {page: page_content(page) for page in pages_of(contents.present)}

    @given(st.data(), partial_contents())
    @settings(deadline=None, max_examples=60)
    def test_windows_bitmap(self, data: st.DataObject, contents: Contents) -> None:
        dump = PageDumpFile(in_any_order(data, BitmapLayout(contents, ABOUT), contents))
        assert dump.pages() == pages_of(contents.present)
        assert all(dump.page(page) == page_content(page) for page in dump.pages())

    @given(st.data(), partial_contents())
    @settings(deadline=None, max_examples=60)
    def test_windows_full(self, data: st.DataObject, contents: Contents) -> None:
        contents = contents._replace(present=contents.present[:42])
        dump = PageDumpFile(in_any_order(data, FullLayout(contents, ABOUT), contents))
        assert dump.runs == list(contents.present)
        assert dump.page_count == len(dump.pages())
        assert all(dump.page(page) == page_content(page) for page in dump.pages())

    @given(st.data(), partial_contents(last_page=700))
    @settings(deadline=None, max_examples=60)
    def test_raw(self, data: st.DataObject, contents: Contents) -> None:
        """What is missing, and what lies between ranges of RAM, reads as zeros."""
        content = in_any_order(data, RawLayout(contents), contents)
        end_page = max(pages_of(contents.memory), default=-1) + 1
        assert len(content) == end_page * PAGE
        present = set(pages_of(contents.present))
        for page in range(end_page):
            expected = page_content(page) if page in present else bytes(PAGE)
            assert content[page * PAGE : (page + 1) * PAGE] == expected


@pytest.mark.parametrize(
    "layout", [LimeLayout, RawLayout, lambda c: FullLayout(c, ABOUT), lambda c: BitmapLayout(c, ABOUT)]
)
def test_a_missing_page_has_no_place(layout: Callable[[Contents], FixedLayout]) -> None:
    made = layout(Contents((PageRun(0, 9),), (PageRun(1, 1), PageRun(4, 1))))
    for missing in (0, 2, 3, 5, -1):
        with pytest.raises(ValueError, match="not all present"):
            made.file_offset_bytes(missing * PAGE)
    assert made.file_offset_bytes(4 * PAGE + 5) == made.file_offset_bytes(4 * PAGE) + 5


class TestWindowsHeader:
    @pytest.mark.parametrize(("layout", "kind"), [(FullLayout, 1), (BitmapLayout, 5)])
    def test_it_says_what_is_known(self, layout: type[FullLayout | BitmapLayout], kind: int) -> None:
        content = file_of(layout(WHOLE, ABOUT), WHOLE)
        dump = PageDumpFile(content)
        assert (dump.kind, dump.machine, dump.processors, dump.directory_table_base) == (kind, 0x8664, 3, 0x1AD000)
        assert (dump.bugcheck_code, dump.bugcheck_parameters) == (0xD1, (1, 2, 3, (1 << 64) - 1))
        assert dump.system_time == 133_444_736_000_000_000
        assert dump.required_size == len(content)
        assert dump.comment == b"ghostdump"
        assert dump.runs == [(1, 40)]

    @pytest.mark.parametrize("layout", [FullLayout, BitmapLayout])
    @pytest.mark.parametrize(
        ("seconds", "has_time"), [(1_833_029_933_770, True), (1_833_029_933_771, False), ((1 << 63) - 1, False)]
    )
    def test_a_year_that_it_cannot_tell_is_not_told(
        self, layout: type[FullLayout | BitmapLayout], seconds: int, *, has_time: bool
    ) -> None:
        """CRASHTIME is a text in memory that a dying machine may have scribbled on."""
        dump = PageDumpFile(file_of(layout(WHOLE, About(crash_seconds=seconds)), WHOLE))
        assert bool(dump.system_time) is has_time

    def test_it_has_the_registers_of_the_first_cpu(self) -> None:
        dump = PageDumpFile(file_of(FullLayout(WHOLE, ABOUT), WHOLE))
        flags, rsp, rip = (struct.unpack_from("<Q", dump.context, at)[0] for at in (0x30, 0x98, 0xF8))
        assert (flags, rsp, rip) == (0x10_0007, 2, 1)

    @pytest.mark.parametrize("notes", [b"", b"\xff" * 40, NOTES[:-8]])
    def test_without_registers_there_is_no_context(self, notes: bytes) -> None:
        contents = WHOLE._replace(notes=notes)
        assert not any(PageDumpFile(file_of(FullLayout(contents, ABOUT), contents)).context)

    @pytest.mark.parametrize("layout", [FullLayout, BitmapLayout])
    def test_a_partial_dump_says_so(self, layout: type[FullLayout | BitmapLayout]) -> None:
        contents = Contents((PageRun(0, 9),), (PageRun(0, 3), PageRun(5, 4)), is_partial=True)
        dump = PageDumpFile(file_of(layout(contents, About()), contents))
        assert b"incomplete" in dump.comment
        assert dump.pages() == [0, 1, 2, 5, 6, 7, 8]

    def test_42_runs_fit_in_a_full_dump_and_43_name_the_other_format(self) -> None:
        runs = single_pages([3 * page for page in range(43)])
        contents = Contents(tuple(runs[:42]), tuple(runs[:42]))
        assert PageDumpFile(file_of(FullLayout(contents, ABOUT), contents)).runs == runs[:42]
        with pytest.raises(UsageError, match="windows-bitmap"):
            FullLayout(Contents(tuple(runs), tuple(runs)), ABOUT)

    def test_more_ranges_of_ram_than_the_header_names(self) -> None:
        runs = tuple(single_pages([3 * page for page in range(100)]))
        dump = PageDumpFile(file_of(BitmapLayout(Contents(runs, runs), ABOUT), Contents(runs, runs)))
        assert dump.runs == [*runs[:41], (123, 297 + 1 - 123)]
        assert dump.pages() == [page for page, _ in runs]
