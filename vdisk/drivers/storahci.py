"""The port driver: talks to the controller. Loaded live, and cloned; what it keeps is of the controller it drives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import blake3

from vdisk.blockdevice import BlockDevice
from vdisk.controller import Controller, Mode, Order
from vdisk.errors import ControllerError, DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

VERSION = "1.1"
DESCRIPTION = "AHCI port driver"

# What each step of taking a controller over may take. The first two are those of the AHCI specification: a port stops
# within 500 ms (PxCMD.CR), a controller resets within 1 s (GHC.HR).
DEADLINE_SECONDS = {"quiesce": 0.5, "reset": 1.0, "power cycle": 2.0, "identify": 1.0, "write cache": 1.0}
POLL_SECONDS = 0.001


class Written(NamedTuple):
    """A write that a flush did not prove yet."""

    length_bytes: int
    digest: bytes


class StorAhci(BlockDevice):
    """Every request becomes one command. `initialise` takes the controller over in whatever state it is.

    A write cache may lie about a flush, so it is switched off. Where it cannot be, a flush is proven: the controller is
    reset, which empties the cache, and what was written is read back. Nothing else may write meanwhile.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._unproven: dict[int, Written] | None = None  # by offset; None where there is no cache to be doubted
        self.initialise()

    def initialise(self) -> None:
        """Raises `ControllerError`, which names the step, where the controller cannot be woken in time."""
        self._reaches("quiesce", lambda mode: mode != Mode.BUSY)  # what is in flight may still end; a reset ends it
        self._reset()
        self._identify()
        self._switch_cache_off()

    def _reset(self) -> None:
        """By the reset line, or else by switching the controller off and on."""
        if self._controller.mode != Mode.OFF:
            self._controller.order(Order.RESET)
            if self._reaches("reset", lambda mode: mode == Mode.RESET):
                return
        self._controller.order(Order.POWER_OFF)
        self._controller.order(Order.POWER_ON)
        self._must_reach("power cycle", Mode.RESET)

    def _identify(self) -> None:
        self._controller.order(Order.IDENTIFY)
        self._must_reach("identify", Mode.READY)
        self.size_bytes, self.sector_size_bytes = self._controller.geometry

    def _switch_cache_off(self) -> None:
        try:
            self._controller.order(Order.CACHE_OFF)
        except ControllerError:
            self._unproven = {}
        self._must_reach("write cache", Mode.READY)

    def _must_reach(self, step: str, wanted: Mode) -> None:
        if not self._reaches(step, lambda mode: mode == wanted):
            raise ControllerError(f"controller: {step}: not ready after {DEADLINE_SECONDS[step]} s")

    def _reaches(self, step: str, is_wanted: Callable[[int], bool]) -> bool:
        deadline = time.monotonic() + DEADLINE_SECONDS[step]
        while not is_wanted(self._controller.mode):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        self._controller.read(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self._controller.write(offset_bytes, buffer)
        if self._unproven is not None:
            view = memoryview(buffer).cast("B")
            self._unproven[offset_bytes] = Written(view.nbytes, blake3.blake3(view).digest())

    def flush(self) -> None:
        self._controller.flush()
        if self._unproven:
            self._prove()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._controller.discard(offset_bytes, length_bytes)

    def _prove(self) -> None:
        """Raises `DeviceError` where the disk no longer has what it acknowledged."""
        written, self._unproven = self._unproven or {}, {}
        self._reset()
        self._identify()
        lost = [
            offset_bytes
            for offset_bytes, (length_bytes, digest) in sorted(written.items())
            if blake3.blake3(self.read(offset_bytes, length_bytes)).digest() != digest
        ]
        if lost:
            raise DeviceError(
                f"flush: the disk lost {len(lost)} of {len(written)} writes that it had acknowledged, "
                f"the first at {lost[0]}"
            )


def attach(lower: Controller) -> BlockDevice:
    return StorAhci(lower)
