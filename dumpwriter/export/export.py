"""What every dump format is to its caller: pages in, in any order, and pieces of a file out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from dumpwriter.export.layout import FixedLayout
    from dumpwriter.formats.region import PageRun


class Piece(NamedTuple):
    """Bytes of the file and where they go. A piece's memory may be reused once the next one is asked for."""

    offset_bytes: int
    content: Buffer


class Export(Protocol):
    """A dump file in the making. No two pieces overlap; what no piece covers is a hole and reads as zeros.

    The present pages were told when it was made. Each is then given once, as data or as zeros, in any order: recovery
    has them by value, a conversion by address. Memory stays bounded whatever the size of the dump.
    """

    def begin(self) -> Iterable[Piece]:
        """What is known before the first page."""

    def data(self, first_page: int, content: memoryview) -> Iterable[Piece]:
        """Whole pages from `first_page` on. The memory is the caller's again when the pieces were taken."""

    def zeros(self, run: PageRun) -> Iterable[Piece]:
        """Pages that are known to hold zeros."""

    def finish(self) -> Iterable[Piece]:
        """What is known only behind the last page."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file. Final once `finish` was taken."""


class FixedExport:
    """Any format in which every page has its place from the start; pages of zeros stay holes."""

    def __init__(self, layout: FixedLayout) -> None:
        self._layout = layout

    @property
    def size_bytes(self) -> int:
        return self._layout.size_bytes

    def begin(self) -> Iterable[Piece]:
        yield Piece(0, self._layout.header())

    def data(self, first_page: int, content: memoryview) -> Iterable[Piece]:
        yield Piece(self._layout.file_offset_bytes(first_page * PAGE_SIZE_BYTES), content)

    def zeros(self, run: PageRun) -> Iterable[Piece]:  # noqa: ARG002 - the interface
        return ()

    def finish(self) -> Iterable[Piece]:
        return ()
