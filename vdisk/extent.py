"""Extents: where the bytes of one file lie on the disk. Pure arithmetic."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Extent(NamedTuple):
    """A run of contiguous blocks: its offset in the file, its offset on the disk, its length. All in bytes."""

    logical_bytes: int
    physical_bytes: int
    length_bytes: int


class Run(NamedTuple):
    """A contiguous piece of a disk, in bytes."""

    physical_bytes: int
    length_bytes: int

    def meets(self, other: Run) -> bool:
        """Whether they share a byte."""
        (start, length), (other_start, other_length) = self, other
        return start < other_start + other_length and other_start < start + length


class ExtentMap:
    """The extents of a whole file, without holes, in logical order.

    Raises `FormatError` where the extents have a gap, overlap on the disk, or are not whole blocks.
    """

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = tuple(extents)
        self._starts = [extent.logical_bytes for extent in self.extents]
        self.size_bytes = sum(extent.length_bytes for extent in self.extents)
        self._check()

    def _check(self) -> None:
        expected_bytes = 0
        for extent in self.extents:
            if extent.logical_bytes != expected_bytes:
                raise FormatError(f"extent map has a gap or an overlap at {expected_bytes} bytes")
            if extent.length_bytes <= 0 or extent.length_bytes % BLOCK_SIZE_BYTES:
                raise FormatError(f"extent of {extent.length_bytes} bytes is not a number of blocks")
            if extent.physical_bytes < 0 or extent.physical_bytes % BLOCK_SIZE_BYTES:
                raise FormatError(f"extent at {extent.physical_bytes} bytes does not begin at a block")
            expected_bytes += extent.length_bytes
        on_disk = sorted((extent.physical_bytes, extent.length_bytes) for extent in self.extents)
        for (start, length), (following, _) in itertools.pairwise(on_disk):
            if start + length > following:
                raise FormatError(f"two extents share the disk at {following} bytes")

    def runs(self, offset_bytes: int, length_bytes: int) -> Iterator[Run]:
        """The pieces of the disk behind a range of the file, in file order."""
        if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise ValueError(f"{length_bytes} bytes at {offset_bytes} are outside {self.size_bytes} bytes")
        index = bisect_right(self._starts, offset_bytes) - 1
        while length_bytes > 0:
            extent = self.extents[index]
            skip_bytes = offset_bytes - extent.logical_bytes
            piece_bytes = min(extent.length_bytes - skip_bytes, length_bytes)
            yield Run(extent.physical_bytes + skip_bytes, piece_bytes)
            offset_bytes += piece_bytes
            length_bytes -= piece_bytes
            index += 1

    def end_on_disk_bytes(self) -> int:
        """The first byte of the disk behind every extent."""
        return max((extent.physical_bytes + extent.length_bytes for extent in self.extents), default=0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtentMap) and self.extents == other.extents

    def __hash__(self) -> int:
        return hash(self.extents)
