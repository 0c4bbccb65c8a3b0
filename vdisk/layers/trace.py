"""The trace: every request that changes the disk, in order, as an event that can be replayed or compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from vdisk.blockdevice import BlockDevice, Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


class Event(NamedTuple):
    """One request. `content` is what a write wrote, else empty."""

    kind: Literal["write", "flush", "discard"]
    offset_bytes: int
    length_bytes: int
    content: bytes


class Trace(Layer):
    """Reports each request before it goes down; the observer may raise `PowerLost` to stop it there."""

    def __init__(self, lower: BlockDevice, observe: Callable[[Event], None]) -> None:
        super().__init__(lower)
        self._observe = observe

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        self._observe(Event("write", offset_bytes, len(content), content))
        self.lower.write_from(offset_bytes, buffer)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        self._observe(Event("flush", 0, 0, b""))
        self.lower.flush()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._observe(Event("discard", offset_bytes, length_bytes, b""))
        self.lower.discard(offset_bytes, length_bytes)
