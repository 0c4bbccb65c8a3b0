"""What every dump format is to its caller: pages in, in any order, and pieces of a file out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from dumpwriter.export.layout import FixedLayout
    from dumpwriter.formats.region import PageRun


class Piece(NamedTuple):
    """Bytes of the file and where they go. A piece's memory may be reused once the next one is asked for."""

    offset_bytes: int
    content: Buffer


class Prepared(NamedTuple):
    """Pages as the file will hold them, one behind the other; `sizes_bytes` has what each takes of the content.

    A size of 0 is a page of zeros that the content leaves out.
    """

    first_page: int
    content: Buffer
    sizes_bytes: NDArray[np.uint32]


class Export(Protocol):
    """A dump file in the making. No two pieces overlap; what no piece covers is a hole and reads as zeros.

    The present pages were told when it was made. Each is then given once, as data or as zeros, in any order: recovery
    has them by value, a conversion by address. Memory stays bounded whatever the size of the dump.

        for piece in export.data(export.prepare(first_page, content)): ...

    `prepare` is where the time goes that compression takes. It changes nothing, so threads may call it at once and
    ahead of `data`, for any pages in any order. All else is for one thread at a time.
    """

    def begin(self) -> Iterable[Piece]:
        """What is known before the first page."""

    def prepare(self, first_page: int, content: memoryview) -> Prepared:
        """Whole pages from `first_page` on, all of them present.

        The result may refer to the caller's memory, which must stay as it is until the pieces of `data` were taken.
        """

    def data(self, prepared: Prepared) -> Iterable[Piece]:
        """Pages that this export prepared."""

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
        return self._layout.headers()

    def prepare(self, first_page: int, content: memoryview) -> Prepared:
        return Prepared(first_page, content, np.full(content.nbytes // PAGE_SIZE_BYTES, PAGE_SIZE_BYTES, np.uint32))

    def data(self, prepared: Prepared) -> Iterable[Piece]:
        offset_bytes = self._layout.file_offset_bytes(prepared.first_page * PAGE_SIZE_BYTES)
        yield Piece(offset_bytes, prepared.content)

    def zeros(self, run: PageRun) -> Iterable[Piece]:  # noqa: ARG002 - the interface
        return ()

    def finish(self) -> Iterable[Piece]:
        return ()
