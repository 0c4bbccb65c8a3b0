"""The write guard: only named extents may be written. The last wall between a dump and somebody's file."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import WriteRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from vdisk.extent import Run


class WriteGuard(Layer):
    """Refuses, with `WriteRefusedError` and before anything is written, what leaves the permitted runs."""

    def __init__(self, lower: BlockDevice, permitted: Iterable[Run]) -> None:
        super().__init__(lower)
        self.permitted = _joined(permitted)
        self._starts = [start for start, _ in self.permitted]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self._check(offset_bytes, memoryview(buffer).nbytes)
        self.lower.write_from(offset_bytes, buffer)

    def write_through(self, offset_bytes: int, buffer: Buffer) -> None:
        self._check(offset_bytes, memoryview(buffer).nbytes)
        self.lower.write_through(offset_bytes, buffer)

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._check(offset_bytes, length_bytes)
        self.lower.discard(offset_bytes, length_bytes)

    def _check(self, offset_bytes: int, length_bytes: int) -> None:
        index = bisect_right(self._starts, offset_bytes) - 1
        if index < 0 or offset_bytes + length_bytes > self.permitted[index][1]:
            raise WriteRefusedError(
                f"write guard: {length_bytes} bytes at {offset_bytes} are outside the permitted extents"
            )


def _joined(runs: Iterable[Run]) -> list[tuple[int, int]]:
    """Sorted (start, end) pairs; runs that touch become one, since a write may span them."""
    joined: list[tuple[int, int]] = []
    for physical_bytes, length_bytes in sorted(runs):
        if joined and physical_bytes <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], physical_bytes + length_bytes))
        else:
            joined.append((physical_bytes, physical_bytes + length_bytes))
    return joined
