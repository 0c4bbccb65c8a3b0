"""What is made of a dump that is taken out: a file in the format that was asked for, or the frames as they lie."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from dumpwriter.conversion.ahead import Ahead
from dumpwriter.conversion.conversion import describe, export_of, select_for
from dumpwriter.conversion.levels import left_out_of
from dumpwriter.conversion.machine import about_machine
from dumpwriter.conversion.selection import NO_PAGES
from dumpwriter.dumpfile.dump import Contents
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.export.about import About
from dumpwriter.export.export import Piece, Prepared
from dumpwriter.export.notes import why_unreadable
from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun
from dumpwriter.recovery.crashstore import SEALED
from dumpwriter.recovery.founddump import FoundDump
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.verdict import Verdict
from vdisk.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.conversion.conversion import Wish
    from dumpwriter.conversion.outputs import Output
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.recovery.crashstore import CrashStore
    from dumpwriter.recovery.extraction import DumpSource, Progress
    from dumpwriter.recovery.founddump import FrameIndex
    from dumpwriter.recovery.scan import Findings

PARAMETERS = struct.Struct("<4Q")
TABLES_BYTES_PER_PAGE = 32  # a descriptor and a bit in each bitmap, where pages are compressed


class Survey:
    """A sink that only counts: how many bytes of pages have content."""

    data_bytes = 0

    def data(self, first_page: int, content: memoryview) -> None:  # noqa: ARG002 - the sink's interface
        self.data_bytes += content.nbytes

    def zeros(self, run: PageRun) -> None:
        pass


class Copy(Protocol):
    """What is made of a dump: a file in a store."""

    file: str

    def write(self, source: DumpSource, output: Output, progress: Progress) -> Findings: ...

    def describe(self) -> dict[str, Any]:
        """What the report says of the file. A copy of which the same is said is the same copy."""

    def size_bytes_max(self, data_bytes: int) -> int:
        """How much room it can take, where so many bytes of pages have content."""


class StoredFile:
    """A file in a store, as what an export writes to."""

    def __init__(self, store: CrashStore, name: str) -> None:
        self._store = store
        self._name = name

    def begin(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self.write(piece)

    def write(self, piece: Piece) -> None:
        self._store.write(self._name, piece.offset_bytes, piece.content)

    def finish(self, size_bytes: int) -> None:
        self._store.resize(self._name, size_bytes)


class ExportedCopy:
    """The dump as others' tools read it. Pages of zeros stay holes, where the format has room for holes.

    `index` is the opener that the dump was found with. Raises `ConversionError` where the format cannot hold what there
    is, and `FormatError` where a level is asked for and the memory does not tell what its pages hold.
    """

    def __init__(self, source: DumpSource, findings: Findings, index: FrameIndex, wish: Wish) -> None:
        self.file = wish.target.file
        contents = contents_of(findings)
        self._notes_dropped = why_unreadable(contents.notes)
        memory = FoundDump(source.disk, source.identity, index, contents) if source.disk else None
        if memory is None and wish.level is not None:
            raise ConversionError("-d: take the dump out without it, and let ghostdump convert -d leave pages out")
        excluded = left_out_of(memory, wish.level).pages if memory else NO_PAGES
        self._selection = select_for(contents, wish, excluded)
        about = about_machine(memory) if memory else About.of_notes(contents.notes)
        self._export = export_of(contents, about_crash(about, findings.header), self._selection, wish)
        self._opener = index.opener
        self._wish = wish

    def write(self, source: DumpSource, output: Output, progress: Progress) -> Findings:
        self._output = output
        output.begin(self._export.begin())
        with Ahead[Prepared]() as self._ahead:
            findings = source.read(self, progress, self._opener)
            self._place(self._ahead.rest())
        for run in self._selection.filled:
            self._take(self._export.zeros(run))
        self._take(self._export.finish())
        output.finish(self._export.size_bytes)
        return findings

    def describe(self) -> dict[str, Any]:
        return describe(self._selection, self._wish) | {"notes_dropped": self._notes_dropped}

    def size_bytes_max(self, data_bytes: int) -> int:
        tables_bytes = TABLES_BYTES_PER_PAGE * self._selection.written.page_count
        return data_bytes + self._wish.target.is_compressed * tables_bytes

    def data(self, first_page: int, content: memoryview) -> None:
        found = PageRun(first_page, content.nbytes // PAGE_SIZE_BYTES)
        for run in self._selection.written.overlapping(found):
            start_bytes = (run.first_page - first_page) * PAGE_SIZE_BYTES
            pages = bytes(content[start_bytes : start_bytes + run.page_count * PAGE_SIZE_BYTES])
            prepare = partial(self._export.prepare, run.first_page, memoryview(pages))
            self._place(self._ahead.ask(prepare))

    def zeros(self, run: PageRun) -> None:
        for wanted in self._selection.written.overlapping(run):
            self._take(self._export.zeros(wanted))

    def _place(self, prepared: Iterable[Prepared]) -> None:
        for pages in prepared:
            self._take(self._export.data(pages))

    def _take(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self._output.write(piece)


class SealedCopy:
    """The dump as it lies, for whoever has the key."""

    file = SEALED

    def __init__(self, findings: Findings) -> None:
        self._frames_bytes = findings.closed_size_bytes
        self._pages_written = findings.pages_present

    def write(self, source: DumpSource, output: Output, progress: Progress) -> Findings:
        self._output = output
        self._size_bytes = 0
        for block in source.header_blocks():
            self._append(memoryview(block))
        findings = source.read(Survey(), progress, WithoutKey(self._append))
        output.finish(self._size_bytes)
        return findings

    def describe(self) -> dict[str, Any]:
        pages = {"pages_written": self._pages_written, "excluded": [], "filled": []}
        return {"format": "sealed", "compression": None, "dump_level": None, **pages, "notes_dropped": None}

    def size_bytes_max(self, data_bytes: int) -> int:
        return data_bytes + self._frames_bytes

    def _append(self, piece: memoryview) -> None:
        self._output.write(Piece(self._size_bytes, piece))
        self._size_bytes += piece.nbytes


def contents_of(findings: Findings) -> Contents:
    """A dump that was found, as one that can be exported. Where the memory map is lost, memory is what was found."""
    known = findings.metadata
    ranges = ((start // PAGE_SIZE_BYTES, length // PAGE_SIZE_BYTES) for start, length in known.ranges) if known else ()
    return Contents(
        memory=PageRuns.of(ranges) if known else PageRuns.of(findings.present),
        present=PageRuns.of(findings.present),
        notes=known.notes if known else b"",
        is_partial=findings.verdict == Verdict.PARTIAL,
    )


def about_crash(about: About, header: DumpHeader | None) -> About:
    """With what the header of the dump says of why and when the machine stopped."""
    if header is None:
        return about
    first, second, third, fourth = PARAMETERS.unpack(header.bugcheck_parameters)
    return about._replace(
        crash_seconds=about.crash_seconds or header.crash_time_ns // 10**9,
        bugcheck_code=header.bugcheck_code,
        bugcheck_parameters=(first, second, third, fourth),
    )
