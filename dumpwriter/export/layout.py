"""What formats have in common in which every page has a place that is known before the first page is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.export.export import Piece


class FixedLayout(Protocol):
    """A dump file whose size and places follow from the list of present pages alone.

    The caller writes the headers and each page where `file_offset_bytes` says, in any order; what it does not write
    is a hole and reads as zeros. So holes of the machine's memory stay holes, up to a file of `size_bytes`.
    """

    size_bytes: int

    def headers(self) -> Iterable[Piece]:
        """All that is not a page."""

    def file_offset_bytes(self, physical_bytes: int) -> int:
        """Where the byte of that physical address goes; ValueError where its page is not present.

        A run of pages that lies within one run of the layout stays contiguous in the file.
        """
