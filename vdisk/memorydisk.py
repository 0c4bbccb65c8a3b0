"""A disk in memory: the backend of the laboratory and of fast tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MemoryDisk(BlockDevice):
    """A disk whose sectors live in one bytearray; a flush has nothing to do."""

    def __init__(self, size_bytes: int, content: bytes = b"") -> None:
        self.size_bytes = size_bytes
        self.content = bytearray(content.ljust(size_bytes, b"\0"))

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        view[:] = memoryview(self.content)[offset_bytes : offset_bytes + view.nbytes]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        memoryview(self.content)[offset_bytes : offset_bytes + view.nbytes] = view

    def flush(self) -> None:
        pass

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.check_range(offset_bytes, length_bytes)
        self.content[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
