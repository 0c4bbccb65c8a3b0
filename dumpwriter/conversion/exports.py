"""Which export writes which format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dumpwriter.export.compression import COMPRESSIONS
from dumpwriter.export.elf import ElfLayout
from dumpwriter.export.export import Export, FixedExport
from dumpwriter.export.kdump import KdumpExport
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.export.about import About

Maker = Callable[["Contents", "About", str], Export]
"""From the contents of the new file, what is known of the machine, and the name of a compression."""


def _elf(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001 - one of a table
    runs = ((first * PAGE_SIZE_BYTES, count * PAGE_SIZE_BYTES) for first, count in contents.present)
    return FixedExport(ElfLayout(runs, contents.notes, partial=contents.is_partial))


def _kdump(contents: Contents, about: About, compression: str) -> Export:
    return KdumpExport(contents, about, COMPRESSIONS[compression])


MAKERS: dict[str, Maker] = {
    "elf": _elf,
    "kdump": _kdump,
}
