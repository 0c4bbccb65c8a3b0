"""The hibernator: a process like a standby, with drivers named `hiber_*`, that writes the memory of a machine at rest.

It is started when the machine is asked to hibernate, rehearses while the machine still runs, and sleeps. Once the
filesystem is closed the machine calls it and ends; the hibernator waits for that end, writes memory to the region as a
dump whose cause is HIBERNATION, and only when all of it is flushed does it say so in the boot record.

A machine that ends without having called has crashed, which is for the standbys: then nothing is done here.

    python -m dumpwriter.crash.hibernator '{"rank": 2, "control_block": 5, "memory": 6, …}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import trio

from dumpwriter.crash import controlblock, turn
from dumpwriter.crash.clone import OPEN_SECONDS, Clone, Handles
from dumpwriter.crash.dump import Cause
from dumpwriter.crash.integrity import LoadedCode
from dumpwriter.crash.standby import (
    IGNORED_SIGNALS,
    Standby,
    check,
    first_of,
    first_readable,
    get_ready,
    in_words,
    is_power_lost,
)
from dumpwriter.formats.controlblock import Purpose
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import LIVES, Lock, MachineState, Register
from dumpwriter.runtime import RuntimeFile
from dumpwriter.verdict import Verdict
from vdisk.bootarea import BootArea, RegionState
from vdisk.controller import Order
from vdisk.errors import DeviceError, FormatError

if TYPE_CHECKING:
    from dumpwriter.frames import DumpIdentity
    from vdisk.blockdevice import BlockDevice

END_SECONDS = 60.0
CAUSE_TEXT = "hibernated on request"


def main() -> None:
    handles = Handles(**json.loads(sys.argv[1]))
    for ignored in IGNORED_SIGNALS:
        signal.signal(ignored, signal.SIG_IGN)
    runtime = RuntimeFile(handles.runtime)
    try:
        trio.run(_run, handles, runtime)
    except BaseException as failure:
        if not is_power_lost(failure):
            runtime.standby(handles.rank).words = words = in_words(first_of(failure))
            if runtime.hibernates:  # else the machine still runs, and looks at the words itself
                _fail(runtime, words)
    os._exit(0)  # without teardown: a thread that a stalled disk holds must not hold the process


async def _run(handles: Handles, runtime: RuntimeFile) -> None:
    block = controlblock.unseal(handles.control_block)
    hibernator = Standby(
        handles=handles,
        block=block,
        clone=HibernatingClone(handles, block, runtime),
        code=LoadedCode(),
        runtime=runtime,
        own=runtime.standby(handles.rank),
        meter=os.open("/proc/self/statm", os.O_RDONLY),
    )
    if not turn.try_lock(runtime, LIVES[handles.rank]):
        return  # the machine died while this one was started, and its dump is written
    await get_ready(hibernator)
    if await _is_called(handles):
        await _hibernate(hibernator)


async def _is_called(handles: Handles) -> bool:
    """Sleep until the machine calls, or ends without."""
    await first_readable(handles.machine, handles.wake)
    try:
        os.eventfd_read(handles.wake)
    except BlockingIOError:
        return False
    return True


async def _hibernate(hibernator: Standby) -> None:
    runtime = hibernator.runtime
    with turn.moving(hibernator.own):
        await _wait_for_end(hibernator.handles)
        await turn.take(runtime, Lock.DISK)
        check(hibernator)
        await hibernator.clone.dump()
    runtime.set_outcome(Verdict.COMPLETE, "")
    runtime.state = MachineState.HIBERNATED


def _fail(runtime: RuntimeFile, reason: str) -> None:
    runtime.set_outcome(Verdict.PARTIAL if runtime[Register.PAGES_WRITTEN] else Verdict.NONE, reason)
    runtime.state = MachineState.FAILED


async def _wait_for_end(handles: Handles) -> None:
    """Only when the machine is gone does nobody write to its memory. It has nothing left to do but to end."""
    with trio.move_on_after(END_SECONDS):
        await trio.lowlevel.wait_readable(handles.machine)
        return
    raise DeviceError("the machine's process did not end; memory was not read")


class HibernatingClone(Clone):
    """It writes for a machine that is to go on, so that a page less than all is nothing."""

    async def dump(self) -> None:
        """Write all of memory, and let the next boot resume it.

        Raises `FormatError` where the control block or the boot record is not that of a hibernation, `DeviceError`
        where a page could not be written.
        """
        block = self._block.read()
        if block.purpose != Purpose.HIBERNATION:
            raise FormatError("the control block is that of a crash")
        cause = Cause(CauseKind.HIBERNATION, 0, (0, 0, 0, 0), CAUSE_TEXT, time.time_ns())
        written = await self._write(cause, MachineState.HIBERNATING)
        progress = written.progress
        if progress.verdict(written.job.plan) != Verdict.COMPLETE:
            raise DeviceError(progress.failure or "not all of memory could be written")
        with trio.fail_after(OPEN_SECONDS):
            await self._threads.run_one(lambda: mark_hibernated(written.disk.region.lower, block.identity))
        written.disk.controller.order(Order.POWER_OFF)


def mark_hibernated(disk: BlockDevice, identity: DumpIdentity) -> None:
    """Let the next boot resume. Raises `FormatError` where the boot record is not that of this hibernation."""
    area = BootArea(disk)
    record = area.read()
    if record.region_state != RegionState.HIBERNATING or record.dump_id != identity.dump_id:
        raise FormatError("the boot record is not that of this hibernation: the memory was written in vain")
    area.write(record._replace(region_state=RegionState.HIBERNATED))


if __name__ == "__main__":
    main()
