"""A file as a device: offsets in the file become places on the disk, by extents recorded beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdisk.extent import ExtentMap


class Mapped(Layer):
    """The extents of one file as a device of the file's size.

    Raises `FormatError` where an extent leaves the disk: the map may come from the disk itself.
    """

    def __init__(self, lower: BlockDevice, extents: ExtentMap) -> None:
        super().__init__(lower)
        if extents.end_on_disk_bytes() > lower.size_bytes:
            raise FormatError(f"an extent ends at {extents.end_on_disk_bytes()}, behind the disk's {lower.size_bytes}")
        self.extents = extents
        self.size_bytes = extents.size_bytes

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        for physical_bytes, length_bytes in self.extents.runs(offset_bytes, view.nbytes):
            self.lower.read_into(physical_bytes, view[:length_bytes])
            view = view[length_bytes:]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        for physical_bytes, length_bytes in self.extents.runs(offset_bytes, view.nbytes):
            self.lower.write_from(physical_bytes, view[:length_bytes])
            view = view[length_bytes:]

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.check_range(offset_bytes, length_bytes)
        for physical_bytes, piece_bytes in self.extents.runs(offset_bytes, length_bytes):
            self.lower.discard(physical_bytes, piece_bytes)
