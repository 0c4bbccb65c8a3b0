"""The port driver: talks to the controller. Loaded live, and cloned; it keeps no state but the controller it drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice
from vdisk.controller import Controller, Order

if TYPE_CHECKING:
    from typing_extensions import Buffer

VERSION = "1.0"
DESCRIPTION = "AHCI port driver"


class StorAhci(BlockDevice):
    """Every request becomes one command. `initialise` takes the controller over in whatever state it is."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.initialise()

    def initialise(self) -> None:
        self._controller.order(Order.RESET)
        self.size_bytes, self.sector_size_bytes = self._controller.identify()

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        self._controller.read(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self._controller.write(offset_bytes, buffer)

    def flush(self) -> None:
        self._controller.flush()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._controller.discard(offset_bytes, length_bytes)


def attach(lower: Controller) -> BlockDevice:
    return StorAhci(lower)
