"""XOR over frames: what a parity frame is made by, and what a lost frame is rebuilt by. Pure.

numpy goes through a slot in the time of a memory read, with other threads running meanwhile; arithmetic on Python's
integers takes fifty times as long, and holds them up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from dumpwriter.formats.region import FRAME_PAGES_MAX, PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

PARITY_SIZE_BYTES = FRAME_PAGES_MAX * PAGE_SIZE_BYTES
WORD = numpy.dtype("<u8")


class Accumulator:
    """The XOR of what was added, each padded with zeros to the longest. Every page of its memory is there at once."""

    def __init__(self) -> None:
        self._words: NDArray[numpy.uint64] = numpy.ones(PARITY_SIZE_BYTES // WORD.itemsize, WORD)
        self.size_bytes = 0
        self.clear()

    def clear(self) -> None:
        self._words.fill(0)
        self.size_bytes = 0

    def add(self, content: memoryview) -> None:
        """Whole blocks, of which there may be as many as a payload has."""
        added = numpy.frombuffer(content, WORD)
        head = self._words[: added.size]
        numpy.bitwise_xor(head, added, out=head)
        self.size_bytes = max(self.size_bytes, content.nbytes)

    @property
    def content(self) -> memoryview:
        return self._words.data.cast("B")[: self.size_bytes]


def xor_of(contents: Iterable[memoryview]) -> memoryview:
    """As long as the longest."""
    accumulator = Accumulator()
    for content in contents:
        accumulator.add(content)
    return accumulator.content
