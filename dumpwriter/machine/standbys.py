"""The standby of a machine: started when it is armed, replaced when it dies, called when the machine crashes."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from dumpwriter.formats.runtime import Call, Register
from dumpwriter.machine import arming
from vdisk.errors import ArmingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.machine.arming import Standby
    from dumpwriter.memory.source import MemorySource
    from dumpwriter.runtime import RuntimeFile
    from vdisk.imagefile import ImageFile

REARM_ATTEMPTS = 3
STAND_STILL_SECONDS = 15.0
REHEARSAL_SECONDS = 10.0
REHEARSAL_POLL_SECONDS = 0.002


class Hardware(NamedTuple):
    """What of the machine outlives its process: a standby is given descriptors of all of it."""

    image: ImageFile
    registers: int
    source: MemorySource
    runtime: RuntimeFile


class Standbys:
    """Who writes the dump. Nothing here may wait for long: the machine stands still meanwhile."""

    def __init__(self, hardware: Hardware, block: ControlBlock) -> None:
        """Start the standby and wait until it is ready. Raises `ArmingError` where it cannot promise a dump."""
        self._hardware = hardware
        self._block = block
        self._standby: Standby | None = None
        self._start()

    def _start(self) -> None:
        self._standby = arming.start_standby(self._block, *self._hardware)

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The clones' rows of the module table."""
        return list(self._standby.facts["modules"]) if self._standby else []

    def describe(self) -> dict[str, Any]:
        """What the standby said of itself."""
        if self._standby is None:
            return {}
        facts = self._standby.facts
        return {
            "pid": self._standby.process.pid,
            "memory_locked": facts["memory_locked"],
            "confined": facts["confined"],
        }

    async def keep(self, on_change: Callable[[str | None], None]) -> None:
        """Replace a standby that died: a machine that cannot dump must not say that it is armed.

        `on_change` is told why the machine is not armed, or None when it is again.
        """
        attempts_left = REARM_ATTEMPTS
        while self._standby is not None:
            await trio.lowlevel.wait_readable(self._standby.pidfd)
            self.dismiss()
            on_change("the standby died; unmount and mount again to arm")
            if attempts_left:
                attempts_left -= 1
                try:
                    self._start()
                except ArmingError as refusal:
                    on_change(str(refusal))
                else:
                    on_change(None)

    def rehearse(self) -> None:
        """Stand still while the clone has the disk: it takes the controller over, as it would at a crash."""
        if self._standby is None:
            return
        runtime = self._hardware.runtime
        before = runtime[Register.REHEARSALS]
        os.eventfd_write(self._standby.wake, Call.REHEARSE)
        deadline = time.monotonic() + REHEARSAL_SECONDS
        while runtime[Register.REHEARSALS] == before and time.monotonic() < deadline:
            if select.select([self._standby.pidfd], [], [], REHEARSAL_POLL_SECONDS)[0]:
                return

    def call(self) -> None:
        """The machine crashes: wake the standby and stand still until it ends this process, or a while at the most."""
        if self._standby is None:
            return
        os.eventfd_write(self._standby.wake, Call.CRASH)
        # Not process.wait(): the code that a signal interrupts may be in it, and its lock is not reentrant.
        select.select([self._standby.pidfd], [], [], STAND_STILL_SECONDS)

    def dismiss(self) -> None:
        """End the standby without a dump."""
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.dismiss()
