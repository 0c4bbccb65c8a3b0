"""The disk controller: what lies under the drivers, and outlives them.

Its registers live in a memfd, so that they are as the live stack left them when that stack is gone. A driver that finds
it in another mode than READY must reset and identify it before it takes commands; that is all a clone can rely on.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from typing import TYPE_CHECKING

from vdisk.errors import ControllerError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice


class Mode(IntEnum):
    """What the controller is ready for."""

    OFF = 0
    RESET = 1
    READY = 2


class Order(IntEnum):
    """What a driver may tell the controller besides commands."""

    RESET = 0
    IDENTIFY = 1
    POWER_OFF = 2


# What is in neither table is refused with ControllerError.
TRANSITIONS: dict[tuple[int, Order], Mode] = {
    (Mode.RESET, Order.IDENTIFY): Mode.READY,
    (Mode.READY, Order.IDENTIFY): Mode.READY,
}
# The reset and power lines need no cooperation, whatever a dead driver left in the mode register.
ALWAYS = {Order.RESET: Mode.RESET, Order.POWER_OFF: Mode.OFF}

REGISTERS_SIZE_BYTES = mmap.PAGESIZE
MODE, RESETS, COMMANDS = range(3)  # indices of the 64-bit registers
TRANSFER_SIZE_BYTES_MAX = 4 << 20


def create_registers() -> int:
    """A descriptor of fresh controller registers: mode OFF."""
    descriptor = os.memfd_create("ghostdump-controller", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, REGISTERS_SIZE_BYTES)
    return descriptor


class Controller:
    """Carries commands to a backend. Several stacks may hold the same registers; each has its own Controller."""

    def __init__(self, registers_fd: int, backend: BlockDevice) -> None:
        self._registers = memoryview(mmap.mmap(registers_fd, REGISTERS_SIZE_BYTES)).cast("Q")
        self._backend = backend

    @property
    def mode(self) -> int:
        """The mode register as it stands; any value, since what died may have written it."""
        return int(self._registers[MODE])

    def order(self, order: Order) -> None:
        following = TRANSITIONS.get((self.mode, order), ALWAYS.get(order))
        if following is None:
            raise ControllerError(f"controller in mode {self.mode} refuses {order.name}")
        self._registers[MODE] = following
        self._registers[RESETS] += order is Order.RESET

    def identify(self) -> tuple[int, int]:
        """The disk's size and its sector size, in bytes."""
        self.order(Order.IDENTIFY)
        return self._backend.size_bytes, self._backend.sector_size_bytes

    def read(self, offset_bytes: int, buffer: Buffer) -> None:
        self._accept()
        self._backend.read_into(offset_bytes, buffer)

    def write(self, offset_bytes: int, buffer: Buffer) -> None:
        self._accept()
        self._backend.write_from(offset_bytes, buffer)

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._accept()
        self._backend.discard(offset_bytes, length_bytes)

    def flush(self) -> None:
        self._accept()
        self._backend.flush()

    def _accept(self) -> None:
        if self._registers[MODE] != Mode.READY:
            raise ControllerError(f"controller in mode {self.mode} takes no commands")
        self._registers[COMMANDS] += 1
