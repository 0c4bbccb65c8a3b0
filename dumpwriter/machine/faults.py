"""What happens inside a machine when a cause is carried out: for real, to the live stack and the hardware below it.

Nothing here returns but where a machine is to go on until its n-th write command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from dumpwriter.blobarea import BlobArea
from dumpwriter.crash.dump import Cause, bytes_to_write
from dumpwriter.crash.job import prepare
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import AT_ONCE, CAUSE_TEXT, FaultState
from dumpwriter.formats.runtime import Register as RuntimeRegister
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.machine.causes import CAUSES, DEFAULT
from dumpwriter.machine.corruption import CORRUPTIONS
from vdisk.blockdevice import SECTOR_SIZE_BYTES, Layer
from vdisk.controller import Mode
from vdisk.drivers.storahci import StorAhci
from vdisk.errors import DeviceError
from vdisk.layers.mapped import Mapped
from vdisk.registers import Cache, Power, Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.runtime import RuntimeFile
    from vdisk.blockdevice import BlockDevice
    from vdisk.controller import Controller

DISK_BUGCHECK = 0x7A
BAD_SLOTS = (2, 5, 9)
SLOW_NS = 20_000_000
GARBAGE_MODE = 0x5A5A5A5A
ALLOCATION_SIZE_BYTES = 1 << 20
ALLOCATION_COUNT_MAX = 1024  # the end, where neither a cgroup nor a limit stops it


class Bugcheck(Protocol):
    def __call__(self, code: int, parameters: tuple[int, int, int, int], text: str) -> NoReturn: ...


class Victim(NamedTuple):
    """What a fault can reach of its machine. `device` is the live stack's; `block` is None where it is not armed."""

    runtime: RuntimeFile
    controller: Controller
    device: BlockDevice
    memory: PhysicalMemory
    block: ControlBlock | None
    bugcheck: Bugcheck


def begin(victim: Victim) -> None:
    """Do what the runtime file asks for: now, or at the n-th write command from now."""
    writes = victim.runtime[RuntimeRegister.FAULT_WRITES]
    if writes:
        victim.controller.registers[Register.TRAP_WRITES] = writes
        victim.runtime[RuntimeRegister.FAULT_STATE] = FaultState.WAITING
    else:
        carry_out(victim)


def carry_out(victim: Victim) -> None:
    """Carry out the cause that the runtime file names."""
    victim.runtime[RuntimeRegister.FAULT_STATE] = FaultState.BEGUN
    cause = dict(enumerate(CAUSES)).get(victim.runtime[RuntimeRegister.FAULT], DEFAULT)
    if cause.name in HARDWARE:
        _spoil(victim, HARDWARE[cause.name], cause.name)
    else:
        ACTS[cause.name](victim)


# The hardware

HARDWARE: dict[str, dict[Register, int]] = {
    "controller-busy": {Register.MODE: Mode.BUSY},
    "controller-wrong-mode": {Register.MODE: Mode.LEGACY},
    "controller-garbage": {Register.MODE: GARBAGE_MODE},
    "controller-wedged": {Register.MODE: Mode.WEDGED},
    "controller-slow": {Register.LATENCY_NS: SLOW_NS},
    "controller-dead": {Register.MODE: Mode.DEAD},
    "lying-flush": {Register.CACHE: Cache.PRESENT | Cache.ON},
    "stubborn-cache": {Register.CACHE: Cache.PRESENT | Cache.ON | Cache.FIXED},
}


def _spoil(victim: Victim, values: dict[Register, int], text: str) -> NoReturn:
    """Write the registers; then the live stack's next command meets what has become of the hardware."""
    for register, value in values.items():
        victim.controller.registers[register] = value
    try:
        _issue_command(victim)
    except DeviceError as failure:
        text = str(failure)
    victim.bugcheck(DISK_BUGCHECK, (0, 0, 0, 0), text)


def _issue_command(victim: Victim) -> None:
    victim.device.read(0, SECTOR_SIZE_BYTES)


def _break_sectors(victim: Victim) -> NoReturn:
    if victim.block is not None:
        extents = victim.block.extents
        places = [place for place in map(slot_offset_bytes, BAD_SLOTS) if place < extents.size_bytes]
        runs = [run for place in places for run in extents.runs(place, SECTOR_SIZE_BYTES)]
        victim.controller.registers.set_bad_runs(runs)
    victim.bugcheck(DISK_BUGCHECK, (0, 0, 0, 0), "bad sectors in the region")


def _cut_power(victim: Victim) -> NoReturn:
    """Now, or when the hardware has written so much more."""
    registers, percent = victim.controller.registers, victim.runtime[RuntimeRegister.FAULT_PERCENT]
    if percent == AT_ONCE or victim.block is None:
        registers[Register.POWER] = Power.LOST
        die()
    registers[Register.POWER_LEFT_BYTES] = _dump_bytes(victim, victim.block) * min(percent, 100) // 100
    registers[Register.POWER] = Power.ENDING
    victim.bugcheck(DISK_BUGCHECK, (0, 0, 0, 0), f"the power goes at {percent} % of the dump")


def _dump_bytes(victim: Victim, block: ControlBlock) -> int:
    """What a dump takes that is planned now, as the standby will; but for what the bugcheck still adds to the log."""
    region, cause = Mapped(victim.device, block.extents), Cause(CauseKind.NONE, 0, (0, 0, 0, 0), "", 0)
    return bytes_to_write(prepare(block, victim.memory, BlobArea(victim.runtime.descriptor), region, cause))


# The live stack and its process


def bugcheck_asked_for(runtime: RuntimeFile) -> tuple[int, tuple[int, int, int, int], str]:
    """Code, parameters and text."""
    return runtime[RuntimeRegister.BUGCHECK_CODE], runtime.parameters(), runtime.text(CAUSE_TEXT)


def _bugcheck(victim: Victim) -> NoReturn:
    victim.bugcheck(*bugcheck_asked_for(victim.runtime))


def _dereference_null(victim: Victim) -> None:
    vars(_port_driver(victim.device))["_controller"] = None  # a wild write
    _issue_command(victim)


def _port_driver(device: BlockDevice) -> StorAhci:
    while isinstance(device, Layer):
        device = device.lower
    assert isinstance(device, StorAhci)
    return device


def _deadlock(victim: Victim) -> None:
    victim.controller.turn.acquire()
    _issue_command(victim)


def _smash_stack(_: Victim) -> None:
    """Over all of the stack, the return address of who writes included."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        found = re.search(r"^(\w+)-(\w+) .*\[stack\]$", maps.read(), re.MULTILINE)
    assert found is not None
    start, end = (int(address, 16) for address in found.groups())
    ctypes.memset(start, 0x41, end - start)


def _allocate_without_end(_: Victim) -> None:
    """Whoever asked for this has put the process under a limit."""
    with contextlib.suppress(MemoryError):
        [b"\xff" * ALLOCATION_SIZE_BYTES for _number in range(ALLOCATION_COUNT_MAX)]
    die()


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process that killed itself went on")


ACTS: dict[str, Callable[[Victim], None]] = {
    "bugcheck": _bugcheck,
    "null-dereference": _dereference_null,
    "deadlock": _deadlock,
    "stack-smash": _smash_stack,
    "oom-kill": _allocate_without_end,
    "kill": lambda _: die(),
    **dict.fromkeys(CORRUPTIONS, _bugcheck),  # they were carried out from outside already
    "bad-sectors": _break_sectors,
    "power-cut": _cut_power,
}
