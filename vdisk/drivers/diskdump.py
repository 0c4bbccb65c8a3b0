"""The class driver: checks each request and cuts it to what one command can carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.controller import TRANSFER_SIZE_BYTES_MAX

if TYPE_CHECKING:
    from typing_extensions import Buffer

VERSION = "1.0"
DESCRIPTION = "disk class driver"


class DiskDump(Layer):
    """A request that leaves the disk or is not whole sectors ends here, in ValueError."""

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        for start in range(0, view.nbytes, TRANSFER_SIZE_BYTES_MAX):
            self.lower.read_into(offset_bytes + start, view[start : start + TRANSFER_SIZE_BYTES_MAX])

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        for start in range(0, view.nbytes, TRANSFER_SIZE_BYTES_MAX):
            self.lower.write_from(offset_bytes + start, view[start : start + TRANSFER_SIZE_BYTES_MAX])

    write_through = BlockDevice.write_through  # by this layer's own write and flush


def attach(lower: BlockDevice) -> BlockDevice:
    return DiskDump(lower)
