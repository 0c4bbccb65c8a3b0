"""What a dump level of makedumpfile's leaves out of a dump."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.linux.levels import PageFilter
from dumpwriter.linux.physical import DumpMemory
from dumpwriter.linux.vmcoreinfo import find_vmcoreinfo

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Dump


class LeftOut(NamedTuple):
    """The pages, and how many others stay only because nothing could be read of what they hold."""

    pages: PageRuns
    undescribed: int


def left_out_of(dump: Dump, level: int | None) -> LeftOut:
    """Raises `FormatError` where the dump does not tell what its pages hold, and the level asks for it."""
    if level is None:
        return LeftOut(PageRuns.of(()), 0)
    info = find_vmcoreinfo(dump.contents.notes)
    chosen = PageFilter(PageRuns.of(dump.contents.memory), DumpMemory(dump), info, level)
    pages = PageRuns.of(chosen.excluded())
    return LeftOut(pages, chosen.undescribed)
