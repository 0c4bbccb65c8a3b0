"""A dump in one format becomes a dump in another: what is asked for, what comes of it, and what the report says."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.conversion.exports import MAKERS
from dumpwriter.conversion.formats import DEFAULT_COMPRESSION, DEFAULT_FORMAT, FORMATS, Format
from dumpwriter.conversion.levels import left_out_of
from dumpwriter.conversion.machine import about_machine
from dumpwriter.conversion.selection import NO_PAGES, Selection, gaps, runs_within, select
from dumpwriter.conversion.transfer import transfer
from dumpwriter.dumpfile.dump import DumpRun
from vdisk.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.conversion.outputs import Output
    from dumpwriter.dumpfile.dump import Contents, Dump
    from dumpwriter.dumpfile.pageruns import PageRuns
    from dumpwriter.export.about import About
    from dumpwriter.export.export import Export


class Wish(NamedTuple):
    """What somebody asks for, in the words of the command line; None is what was not asked for.

    `level` is one of makedumpfile's; without one, all that the dump has is wanted.
    """

    format: str
    compression: str | None = None
    fill: bool = False
    level: int | None = None

    @property
    def target(self) -> Format:
        return FORMATS[self.format]

    @property
    def compression_used(self) -> str | None:
        return (self.compression or DEFAULT_COMPRESSION) if self.target.is_compressed else None

    def check(self) -> None:
        """Raises `UsageError` where the words do not go together, whatever the dump is."""
        if self.compression and not self.target.is_compressed:
            compressed = " and ".join(name for name, found in FORMATS.items() if found.is_compressed)
            raise UsageError(f"--compress: {self.format} is never compressed; {compressed} are")


AS_ELF = Wish(DEFAULT_FORMAT)


def convert(dump: Dump, wish: Wish, output: Output, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write the dump to an output; the report says what the file holds, and what it does not.

    Raises `ConversionError` where the format cannot tell what is missing, and what dump and output raise.
    """
    unwanted = left_out_of(dump, wish.level)
    selection = select_for(dump.contents, wish, unwanted.pages)
    export = export_of(dump.contents, about_machine(dump), selection, wish)
    total = selection.in_file.page_count
    transfer(dump, _runs_of(dump, selection), export, output, lambda done: progress(done, total))
    return {
        "source_format": dump.format,
        **describe(selection, wish),
        "undescribed": unwanted.undescribed,
        "missing": describe_runs(selection.missing),
        "partial": dump.contents.is_partial,
        "size_bytes": export.size_bytes,
    }


def select_for(contents: Contents, wish: Wish, unwanted: PageRuns = NO_PAGES) -> Selection:
    """The pages of the new file. Raises `ConversionError` where zeros would have to pass for what is not there."""
    selection = select(contents, unwanted)
    unwritten = gaps(selection, contents.memory)
    if wish.target.tells_missing or not len(unwritten):
        return selection
    if not wish.fill:
        raise ConversionError(
            f"{unwritten.page_count} pages below the end of memory are not in the dump, and a file of format "
            f"{wish.format} cannot say so: give --fill to have zeros there, or choose elf or kdump"
        )
    return selection._replace(filled=unwritten)


def export_of(contents: Contents, about: About, selection: Selection, wish: Wish) -> Export:
    """What writes the chosen pages of a dump."""
    kept = contents._replace(present=selection.in_file)
    return MAKERS[wish.format](
        kept, about._replace(dump_level=wish.level or 0), wish.compression or DEFAULT_COMPRESSION
    )


def describe(selection: Selection, wish: Wish) -> dict[str, Any]:
    """What of a report follows from the pages that were chosen."""
    return {
        "format": wish.format,
        "compression": wish.compression_used,
        "dump_level": wish.level,
        "pages_written": selection.written.page_count,
        "excluded": describe_runs(selection.excluded),
        "filled": describe_runs(selection.filled),
    }


def describe_runs(runs: PageRuns) -> list[dict[str, int]]:
    return [run._asdict() for run in runs]


def _runs_of(dump: Dump, selection: Selection) -> Iterator[DumpRun]:
    """What is read and what is filled, in ascending order."""
    written = runs_within(dump.runs(), selection.written)
    filled = (DumpRun(*run, is_zero=True) for run in selection.filled or NO_PAGES)
    return heapq.merge(written, filled)
