"""Hibernation, as the machine sees it: a process with `hiber_*` clones that is ready before anything is given up.

start       the hibernator loads and rehearses; the machine runs on, and can still refuse
hand over   the filesystem is closed and the boot record says HIBERNATING: call it, and end
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dumpwriter.crash import controlblock
from dumpwriter.crash.plan import region_size_bytes
from dumpwriter.formats.controlblock import Purpose
from dumpwriter.formats.region import CauseKind, DumpLevel
from dumpwriter.formats.runtime import HIBERNATOR_RANK, Call, MachineState
from dumpwriter.machine.standby import Standby
from vdisk import stack
from vdisk.errors import ArmingError, FormatError

if TYPE_CHECKING:
    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.machine.standby import Hardware
    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.runtime import RuntimeFile
    from vdisk.secret import Secret

PREFIX = "hiber_"


class Hibernator(Standby):
    """Loaded, rehearsed and dismissed as a standby is."""

    program = "dumpwriter.crash.hibernator"


def start_hibernator(hardware: Hardware, block: ControlBlock, volume_key: Secret) -> Hibernator:
    """A hibernator that is ready. The machine stands still meanwhile.

    `block` is what its standbys know. Raises `ArmingError` where memory could not be written, or not be resumed.
    """
    own_block = controlblock.seal(_block_for_hibernation(block, hardware.source.memory, volume_key))
    try:
        hibernator = Hibernator(HIBERNATOR_RANK, own_block, hardware)
    finally:
        os.close(own_block)
    try:
        hibernator.wait_until_loaded()
        hibernator.let_rehearse()
    except BaseException:
        hibernator.dismiss()
        raise
    return hibernator


def _block_for_hibernation(block: ControlBlock, memory: PhysicalMemory, volume_key: Secret) -> ControlBlock:
    """As for a dump, but of all of memory, in its own time, and by clones of its own."""
    if block.seal is not None:
        raise ArmingError("mounted with --dump-key, what it writes can be opened with the private key alone")
    needed_bytes = region_size_bytes(memory.size_bytes)
    if block.extents.size_bytes < needed_bytes:
        raise ArmingError(
            f"the region has {block.extents.size_bytes} bytes, and memory can need {needed_bytes}: free as much and "
            f"mount again"
        )
    try:
        memory.read_notes()
    except FormatError as damage:
        raise ArmingError(f"its memory could not be restored: {damage}") from None
    images = stack.clone(PREFIX, volume_key)
    return block._replace(purpose=Purpose.HIBERNATION, level=DumpLevel.COMPLETE, time_budget_ns=0, images=images)


def hand_over(hibernator: Hibernator, runtime: RuntimeFile) -> None:
    """Let it write once this process has ended. Where it has died, the runtime file shows that it does not live."""
    runtime.set_cause(CauseKind.HIBERNATION, 0, (0, 0, 0, 0), "hibernation")
    runtime.state = MachineState.HIBERNATING
    os.eventfd_write(hibernator.wake, Call.CRASH)
