"""Media faults: bad sectors. What touches one fails, and a write that does leaves what stood before it written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from vdisk.extent import Run


class MediaFaults(Layer):
    """`bad_runs` says where the medium is bad by now; its runs are whole sectors."""

    def __init__(self, lower: BlockDevice, bad_runs: Callable[[], Sequence[Run]]) -> None:
        super().__init__(lower)
        self._bad_runs = bad_runs

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        bad_bytes = self._first_bad(offset_bytes, memoryview(buffer).nbytes)
        if bad_bytes is not None:
            raise self._error("read", bad_bytes)
        self.lower.read_into(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        bad_bytes = self._first_bad(offset_bytes, view.nbytes)
        if bad_bytes is None:
            self.lower.write_from(offset_bytes, view)
        else:
            self.lower.write_from(offset_bytes, view[: bad_bytes - offset_bytes])
            raise self._error("write", bad_bytes)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        bad_bytes = self._first_bad(offset_bytes, length_bytes)
        if bad_bytes is not None:
            raise self._error("discard", bad_bytes)
        self.lower.discard(offset_bytes, length_bytes)

    def _first_bad(self, offset_bytes: int, length_bytes: int) -> int | None:
        """The first byte of a range that lies on a bad sector."""
        touched = [
            max(offset_bytes, run.physical_bytes)
            for run in self._bad_runs()
            if run.physical_bytes < offset_bytes + length_bytes and offset_bytes < run.physical_bytes + run.length_bytes
        ]
        return min(touched, default=None)

    def _error(self, request: str, bad_bytes: int) -> DeviceError:
        return DeviceError(f"{request}: medium error at sector {bad_bytes // self.sector_size_bytes}")
