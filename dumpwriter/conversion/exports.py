"""Which export writes which format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dumpwriter.export.elf import ElfLayout
from dumpwriter.export.export import Export, FixedExport
from dumpwriter.export.flattened import FlattenedExport
from dumpwriter.export.lime import LimeLayout
from dumpwriter.export.pagedump import BitmapLayout, FullLayout
from dumpwriter.export.raw import RawLayout
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.export.about import About

Maker = Callable[["Contents", "About", str], Export]
"""From the contents of the new file, what is known of the machine, and the name of a compression."""


def _elf(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001 - one of a table
    runs = ((first * PAGE_SIZE_BYTES, count * PAGE_SIZE_BYTES) for first, count in contents.present)
    layout = ElfLayout(runs, contents.notes, partial=contents.is_partial, virtual_ranges=about.virtual_ranges)
    return FixedExport(layout)


def _kdump(contents: Contents, about: About, compression: str) -> Export:
    from dumpwriter.export.compression import COMPRESSIONS  # a boot writes no kdump file, and need not load all this
    from dumpwriter.export.kdump import KdumpExport

    return KdumpExport(contents, about, COMPRESSIONS[compression])


def _flattened(contents: Contents, about: About, compression: str) -> Export:
    return FlattenedExport(_kdump(contents, about, compression))


def _windows(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001
    return FixedExport(FullLayout(contents, about))


def _windows_bitmap(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001
    return FixedExport(BitmapLayout(contents, about))


def _lime(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001
    return FixedExport(LimeLayout(contents))


def _raw(contents: Contents, about: About, compression: str) -> Export:  # noqa: ARG001
    return FixedExport(RawLayout(contents))


MAKERS: dict[str, Maker] = {
    "elf": _elf,
    "kdump": _kdump,
    "kdump-flattened": _flattened,
    "windows": _windows,
    "windows-bitmap": _windows_bitmap,
    "lime": _lime,
    "raw": _raw,
}
