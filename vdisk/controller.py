"""The disk controller: what lies under the drivers, and outlives them.

Its registers are as the live stack left them when that stack is gone: it may be busy with a command that never ends, in
a mode in which it takes none, deaf to a reset. A driver can rely on nothing but the table of transitions, and has to
bring it to READY by orders before it takes commands.
"""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from vdisk.errors import ControllerError, PowerLost
from vdisk.layers.media_faults import MediaFaults
from vdisk.layers.volatile_cache import VolatileCache
from vdisk.registers import Cache, Power, Register, Registers

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice


class Mode(IntEnum):
    """What the mode register says. It can hold any other value too, since what died may have written it."""

    OFF = 0
    RESET = 1
    READY = 2
    BUSY = 3  # with a command that does not end; other commands wait for it
    LEGACY = 4  # the wrong mode: as an IDE controller, for which there is no driver here
    WEDGED = 5  # deaf to a reset; switching it off and on helps
    DEAD = (1 << 64) - 1  # nothing helps: the register reads as a bus does on which nobody answers


class Order(IntEnum):
    """What a driver may tell the controller besides commands."""

    RESET = 0
    IDENTIFY = 1
    CACHE_OFF = 2
    POWER_OFF = 3
    POWER_ON = 4


# What is in neither table is refused with ControllerError.
TRANSITIONS: dict[tuple[int, Order], Mode] = {
    (Mode.OFF, Order.RESET): Mode.OFF,
    (Mode.OFF, Order.POWER_ON): Mode.RESET,
    (Mode.RESET, Order.IDENTIFY): Mode.READY,
    (Mode.READY, Order.IDENTIFY): Mode.READY,
    (Mode.READY, Order.CACHE_OFF): Mode.READY,
    (Mode.WEDGED, Order.RESET): Mode.WEDGED,
    **{(Mode.DEAD, order): Mode.DEAD for order in Order},
}
# The reset and power lines need no cooperation, whatever a dead driver left in the mode register.
ALWAYS = {Order.RESET: Mode.RESET, Order.POWER_OFF: Mode.OFF}

TRANSFER_SIZE_BYTES_MAX = 4 << 20
CACHE_SIZE_BYTES = 8 << 20  # more than the writes in flight at the end of a dump: what it loses hurts
POLL_SECONDS = 0.001


class Controller:
    """Carries commands to a backend. Several stacks may hold the same registers; each has its own Controller.

    Commands wait while the controller is busy, for ever where it stays so: deadlines are for those who call. Commands
    and orders raise `PowerLost` once the power is gone. `on_trap` is called half-way through the write command at which
    the trap springs; where there is none, no trap springs.
    """

    def __init__(self, registers_fd: int, backend: BlockDevice, on_trap: Callable[[], object] | None = None) -> None:
        self.registers = Registers(registers_fd)
        self.turn = threading.Lock()  # one command at a time is accepted; they are carried out side by side
        self._backend = backend
        self._medium = MediaFaults(backend, self.registers.bad_runs)
        self._cache = VolatileCache(self._medium, CACHE_SIZE_BYTES)  # needs no memfd: whoever takes over resets it
        self._on_trap = on_trap

    @property
    def mode(self) -> int:
        """The mode register as it stands; BUSY while a slow command or order is under way."""
        is_busy = time.monotonic_ns() < self.registers[Register.BUSY_UNTIL_NS]
        return Mode.BUSY if is_busy else self.registers[Register.MODE]

    @property
    def geometry(self) -> tuple[int, int]:
        """The disk's size and its sector size, in bytes; known once it is identified."""
        if self.mode != Mode.READY:
            raise ControllerError(f"controller {describe(self.mode)} is not identified")
        return self._backend.size_bytes, self._backend.sector_size_bytes

    def order(self, order: Order) -> None:
        """Takes effect at once where the controller is fast; `mode` tells. Raises `ControllerError` where refused."""
        self._need_power()
        following = TRANSITIONS.get((self.mode, order), ALWAYS.get(order))
        if following is None or (order is Order.CACHE_OFF and not self._switch_cache_off()):
            raise ControllerError(f"controller {describe(self.mode)} refuses {order.name}")
        self.registers[Register.MODE] = following
        if following in (Mode.OFF, Mode.RESET):
            self._start_over()
        self.registers[Register.RESETS] += following is Mode.RESET
        if order is not Order.POWER_OFF:
            self._take_time()

    def read(self, offset_bytes: int, buffer: Buffer) -> None:
        self._accept()
        self._target.read_into(offset_bytes, buffer)

    def write(self, offset_bytes: int, buffer: Buffer) -> None:
        self._accept()
        view = memoryview(buffer).cast("B")
        if self._on_trap is not None and self._is_trapped():
            self._target.write_from(offset_bytes, view[: self._whole_sectors(view.nbytes // 2)])
            self._on_trap()
        powered_bytes = self._draw_power(view.nbytes)
        self._target.write_from(offset_bytes, view[:powered_bytes])
        if powered_bytes < view.nbytes:
            self.registers[Register.POWER] = Power.LOST
            raise PowerLost

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self._accept()
        self._target.discard(offset_bytes, length_bytes)

    def flush(self) -> None:
        self._accept()
        self._target.flush()

    @property
    def _target(self) -> BlockDevice:
        """What a command goes to, as the hardware is now."""
        if self.registers[Register.CACHE] & Cache.ON:
            return self._cache
        return self._medium if self.registers[Register.BAD_RUNS] else self._backend

    def _accept(self) -> None:
        with self.turn:
            self._wait_until_idle()
            self._need_power()
            if self.mode != Mode.READY:
                raise ControllerError(f"controller {describe(self.mode)} takes no commands")
            self.registers[Register.COMMANDS] += 1
            self._take_time()
            self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        while self.mode == Mode.BUSY:
            time.sleep(POLL_SECONDS)

    def _take_time(self) -> None:
        latency_ns = self.registers[Register.LATENCY_NS]
        if latency_ns:
            self.registers[Register.BUSY_UNTIL_NS] = time.monotonic_ns() + latency_ns

    def _need_power(self) -> None:
        if self.registers[Register.POWER] == Power.LOST:
            raise PowerLost

    def _start_over(self) -> None:
        """What a reset and the loss of power have in common."""
        self.registers[Register.BUSY_UNTIL_NS] = 0
        self._cache.drop()
        if self.registers[Register.CACHE] & Cache.PRESENT:
            self.registers[Register.CACHE] |= Cache.ON

    def _switch_cache_off(self) -> bool:
        if self.registers[Register.CACHE] & Cache.FIXED:
            return False
        self.registers[Register.CACHE] &= ~Cache.ON
        self._cache.empty()
        return True

    def _is_trapped(self) -> bool:
        with self.turn:
            left = self.registers[Register.TRAP_WRITES]
            if left:
                self.registers[Register.TRAP_WRITES] = left - 1
            return left == 1

    def _draw_power(self, length_bytes: int) -> int:
        """How much of a write the power suffices for, in bytes."""
        if self.registers[Register.POWER] != Power.ENDING:
            return length_bytes
        with self.turn:
            left_bytes = self.registers[Register.POWER_LEFT_BYTES]
            self.registers[Register.POWER_LEFT_BYTES] = left_bytes - min(left_bytes, length_bytes)
            return length_bytes if length_bytes <= left_bytes else self._whole_sectors(left_bytes)

    def _whole_sectors(self, length_bytes: int) -> int:
        return length_bytes // self._backend.sector_size_bytes * self._backend.sector_size_bytes


def describe(mode: int) -> str:
    """`in mode LEGACY`, or the number that no mode has."""
    return f"in mode {Mode(mode).name}" if mode in set(Mode) else f"in unknown mode {mode:#x}"
