"""Windows crash dumps: what Windows' own tools and those for Windows memory read, of any x86-64 machine.

A full dump names the pages that it holds as runs, at most 42; a bitmap dump names any of them. A missing page is in
neither. The format has no mark for a dump that is incomplete, so the header's comment says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.export import pagedump_format as pagedump
from dumpwriter.export.export import Piece
from dumpwriter.export.notes import first_registers, why_unreadable
from dumpwriter.export.pageindex import PageIndex
from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.export.about import About

COMMENT = b"ghostdump"
PARTIAL_COMMENT = b"ghostdump: incomplete, pages are missing that the dump was to hold"
_BITS_ALIGNMENT = 64
_U32_MAX, _U64_MAX = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class FullLayout:
    """A `FixedLayout` of type 1. UsageError where the present pages are in more runs than the header has room for."""

    def __init__(self, contents: Contents, about: About) -> None:
        self._present = PageIndex(contents.present)
        if len(self._present.runs) > pagedump.RUNS_MAX:
            raise UsageError(
                f"the pages are in {len(self._present.runs)} runs, and a full Windows dump names at most "
                f"{pagedump.RUNS_MAX}: take the format windows-bitmap"
            )
        self._contents, self._about = contents, about
        self.size_bytes = pagedump.HEADER_SIZE_BYTES + self._present.page_count * PAGE_SIZE_BYTES

    def headers(self) -> Iterable[Piece]:
        header = _header(pagedump.DumpType.FULL, self._contents, self._about, self.size_bytes)
        yield Piece(0, pagedump.DUMP_HEADER.pack(_with_runs(header, self._present)))

    def file_offset_bytes(self, physical_bytes: int) -> int:
        return pagedump.HEADER_SIZE_BYTES + self._present.offset_bytes(physical_bytes)


class BitmapLayout:
    """A `FixedLayout` of type 5. The runs in its header are those of RAM, of which readers take the bitmap's pages."""

    def __init__(self, contents: Contents, about: About) -> None:
        self._contents, self._about = contents, about
        self._memory, self._present = PageIndex(contents.memory), PageIndex(contents.present)
        end_page = max(self._memory.end_page, self._present.end_page)
        self._bitmap_pages = end_page + -end_page % _BITS_ALIGNMENT
        self._bitmap_offset_bytes = pagedump.HEADER_SIZE_BYTES + pagedump.BITMAP_HEADER.size_bytes
        bitmap_end_bytes = self._bitmap_offset_bytes + self._bitmap_pages // 8
        self._first_page_offset_bytes = bitmap_end_bytes + -bitmap_end_bytes % PAGE_SIZE_BYTES
        self.size_bytes = self._first_page_offset_bytes + self._present.page_count * PAGE_SIZE_BYTES

    def headers(self) -> Iterable[Piece]:
        header = _header(pagedump.DumpType.BITMAP, self._contents, self._about, self.size_bytes)
        bitmap_header = pagedump.BitmapHeader(
            signature=pagedump.BITMAP_SIGNATURE,
            unknown=b"",
            first_page_offset_bytes=self._first_page_offset_bytes,
            present_pages=self._present.page_count,
            bitmap_pages=self._bitmap_pages,
        )
        yield Piece(0, pagedump.DUMP_HEADER.pack(_with_runs(header, self._memory)))
        yield Piece(pagedump.HEADER_SIZE_BYTES, pagedump.BITMAP_HEADER.pack(bitmap_header))
        for offset_bytes, bits in self._present.bitmap():
            yield Piece(self._bitmap_offset_bytes + offset_bytes, bits)

    def file_offset_bytes(self, physical_bytes: int) -> int:
        return self._first_page_offset_bytes + self._present.offset_bytes(physical_bytes)


def _header(kind: pagedump.DumpType, contents: Contents, about: About, size_bytes: int) -> pagedump.DumpHeader:
    """All but the runs of memory."""
    first, second, third, fourth = (parameter & _U64_MAX for parameter in about.bugcheck_parameters)
    return pagedump.DumpHeader(
        signature=pagedump.SIGNATURE,
        major_version=pagedump.MAJOR_VERSION,
        minor_version=0,
        directory_table_base=about.page_table_root,
        pfn_database=0,
        loaded_module_list=0,
        active_process_head=0,
        machine_type=pagedump.MACHINE_AMD64,
        processor_count=about.cpu_count,
        bugcheck_code=about.bugcheck_code & _U32_MAX,
        padding_1=b"",
        bugcheck_parameter_1=first,
        bugcheck_parameter_2=second,
        bugcheck_parameter_3=third,
        bugcheck_parameter_4=fourth,
        user_version=b"",
        debugger_data=0,
        run_count=0,
        padding_2=b"",
        page_count=0,
        physical_runs=b"",
        padding_3=b"",
        context=_context(contents.notes),
        exception=b"",
        dump_type=kind,
        padding_4=b"",
        required_dump_space=size_bytes,
        system_time=_filetime(about.crash_seconds),
        comment=PARTIAL_COMMENT if contents.is_partial else COMMENT,
        system_up_time=0,
        rest=b"",
    )


def _with_runs(header: pagedump.DumpHeader, pages: PageIndex) -> pagedump.DumpHeader:
    runs = list(_as_many_as_fit(pages))
    return header._replace(
        run_count=len(runs),
        page_count=sum(run.page_count for run in runs),
        physical_runs=pagedump.PHYSICAL_RUN.pack_table([pagedump.PhysicalRun(*run) for run in runs]),
    )


def _as_many_as_fit(pages: PageIndex) -> Iterator[PageRun]:
    """The runs; where they are too many, the last one spans all the others and what lies between them."""
    yield from pages.runs[: pagedump.RUNS_MAX - 1]
    for first_page in pages.starts[pagedump.RUNS_MAX - 1 : pagedump.RUNS_MAX].tolist():
        yield PageRun(first_page, pages.end_page - first_page)


def _context(notes: bytes) -> bytes:
    """The registers of the first CPU; none where no note has them."""
    registers = {} if why_unreadable(notes) else first_registers(notes)
    if not registers:
        return b""
    narrow = {name: registers[name] & 0xFFFF for name in ("cs", "ds", "es", "fs", "gs", "ss")}
    narrow["rflags"] = registers["rflags"] & _U32_MAX
    known: dict[str, Any] = {name: registers[name] for name in pagedump.Context._fields if name in registers}
    return pagedump.CONTEXT.pack(pagedump.Context()._replace(**known | narrow))


def _filetime(seconds: int) -> int:
    """0 where it is not known, and for a year that the field cannot tell: the time is what a dying machine wrote."""
    time = pagedump.FILETIME_OF_EPOCH + seconds * pagedump.UNITS_PER_SECOND
    return time if seconds and time <= _U64_MAX else 0
