"""Read errors that pass: the first read that touches a run fails, as when a drive recovers only the next time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer


class PassingErrors(Layer):
    """Each of `runs` makes one read fail; one read may touch several."""

    def __init__(self, lower: BlockDevice, runs: Iterable[Run]) -> None:
        super().__init__(lower)
        self._left = list(runs)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        place = Run(offset_bytes, memoryview(buffer).nbytes)
        touched = [run for run in self._left if run.meets(place)]
        if touched:
            self._left = [run for run in self._left if run not in touched]
            raise DeviceError(f"read: an error at {touched[0].physical_bytes} that passes")
        self.lower.read_into(offset_bytes, buffer)
