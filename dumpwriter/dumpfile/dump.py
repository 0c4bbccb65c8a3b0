"""What every dump file gives its reader, whatever its format: a machine's pages, and what is known beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dumpwriter.formats.region import PageRun


class Contents(NamedTuple):
    """What a dump holds beside the pages themselves. Page runs are ascending and disjoint, in pages of 4096 bytes.

    `memory` is all RAM that the machine had as far as the file tells, `present` the part of it whose bytes are there.
    `notes` is the content of an ELF PT_NOTE segment: NT_PRSTATUS of each CPU, VMCOREINFO. A partial dump lacks pages
    that it was to hold; pages that somebody left out on purpose do not make it partial. The readers here give their
    runs as `PageRuns`: arrays, because there may be millions.
    """

    memory: Sequence[PageRun]
    present: Sequence[PageRun]
    notes: bytes = b""
    is_partial: bool = False


class DumpRun(NamedTuple):
    """Pages of one kind: all of them zero, which the file says without holding them, or all to be read."""

    first_page: int
    page_count: int
    is_zero: bool


class Dump(Protocol):
    """A dump that is open for reading. Whatever its bytes are, methods raise nothing but `FormatError`."""

    format: str
    contents: Contents

    def runs(self) -> Iterator[DumpRun]:
        """Every present page once, in ascending order."""

    def read_into(self, first_page: int, buffer: memoryview) -> None:
        """Fill a buffer of whole pages. ValueError where one of them is not present."""
