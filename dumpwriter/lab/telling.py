"""A disk that tells of what goes wrong with it, so that the writer over it does something else from there on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.faults import FaultKind
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.media_faults import MediaFaults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from dumpwriter.lab.faults import Fault

AT_ONE_OPERATION = (FaultKind.FAILED, FaultKind.SHORT_WRITE, FaultKind.RESET, FaultKind.HANGING)
FOR_EVER = (FaultKind.FAILED_FLUSHES, FaultKind.GONE)
TOLD = (*AT_ONE_OPERATION, *FOR_EVER, FaultKind.BAD_SECTORS)


class Hung(BaseException):
    """The request is never answered. Whoever made it does nothing any more, so nothing may handle it and go on."""


def telling(disk: BlockDevice, faults: Sequence[Fault]) -> BlockDevice:
    """The disk with these faults, all of kinds in `TOLD`."""
    bad_runs = [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind == FaultKind.BAD_SECTORS]
    return MediaFaults(Refusing(disk, faults), lambda: bad_runs)


class Refusing(Layer):
    """Refuses operations, each fault in its turn, and passes on what a fault lets through of them.

    Operations are counted as they are in a trace below: one of which nothing comes through is not counted, and the next
    one has its number.
    """

    def __init__(self, lower: BlockDevice, faults: Sequence[Fault]) -> None:
        super().__init__(lower)
        self._due = [fault for fault in faults if fault.kind in AT_ONE_OPERATION]
        self._for_ever = [fault for fault in faults if fault.kind in FOR_EVER]
        self._count = 0

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        fault = self._next_fault(FaultKind.GONE)
        taken = view if fault is None else view[: fault.length_bytes]
        if fault is None or taken.nbytes:
            self._count += 1
            self.lower.write_from(offset_bytes, taken)
        if fault is not None:
            raise _ending(fault)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        fault = self._next_fault(FaultKind.GONE, FaultKind.FAILED_FLUSHES)
        if fault is not None:
            raise _ending(fault)
        self._count += 1
        self.lower.flush()

    def _next_fault(self, *for_ever: FaultKind) -> Fault | None:
        for index, fault in enumerate(self._due):
            if fault.operation == self._count:
                return self._due.pop(index)
        lasting = (fault for fault in self._for_ever if fault.kind in for_ever and fault.operation <= self._count)
        return next(lasting, None)


def _ending(fault: Fault) -> BaseException:
    if fault.kind == FaultKind.HANGING:
        return Hung(f"operation {fault.operation} is never answered")
    return DeviceError(f"operation {fault.operation}: {fault.kind} after {fault.length_bytes} bytes")
