"""The small dump: what a crash leaves that comes before the machine is armed, or while it cannot be.

As soon as the drivers are up, a standby of its own stands ready for it: the program is that of the others, and its
region is one place in the boot area. The boot does not wait until it is loaded; a crash does. Nothing is written to the
place before the crash, so what an earlier one left there may still be taken out.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from dumpwriter.crash import controlblock
from dumpwriter.formats.runtime import SMALL_DUMP_RANK, Call, StandbyRegister
from dumpwriter.frames import DumpIdentity
from dumpwriter.machine.standby import Standby
from dumpwriter.machine.standbys import STAND_STILL_SECONDS
from dumpwriter.recovery.copies import Survey
from dumpwriter.recovery.offline import source_of
from dumpwriter.recovery.places import small_places
from dumpwriter.recovery.scan import recover
from dumpwriter.runtime import by_rank
from dumpwriter.verdict import Verdict
from vdisk.bootarea import next_generation

if TYPE_CHECKING:
    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.machine.standby import Hardware
    from dumpwriter.recovery.places import Place
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootArea, BootRecord


def choose_place(device: BlockDevice, area: BootArea, record: BootRecord) -> Place:
    """A place for the next small dump, with an identity for it.

    One that holds no dump; or else the one whose dump is neither the oldest nor the newest. In a boot loop the first
    crash tells what the others follow from, and the latest what is wrong still.
    """
    places = small_places(record)
    taken = [place for place in places if _holds_dump(device, area, record, place)]
    free = [place for place in places if place not in taken]
    chosen = (free or sorted(taken, key=lambda place: place.identity.generation)[1:])[0]
    return chosen._replace(identity=DumpIdentity(os.urandom(16), next_generation(record)))


def _holds_dump(device: BlockDevice, area: BootArea, record: BootRecord, place: Place) -> bool:
    """A machine that lost its power leaves a place that was meant for a dump, and has none."""
    if not place.is_untaken:
        return False
    findings = recover(source_of(device, area, record, place).region, place.identity, Survey())
    return findings.verdict != Verdict.NONE or findings.reads_failed > 0


class SmallDump:
    """The standby that would write it."""

    def __init__(self, block: ControlBlock, hardware: Hardware) -> None:
        """Start the standby, and do not wait for it."""
        self._block = block
        self._hardware = hardware
        self._standby = self._start()

    def _start(self) -> Standby:
        sealed = controlblock.seal(self._block)
        try:
            standby = Standby(SMALL_DUMP_RANK, sealed, self._hardware)
        finally:
            os.close(sealed)
        standby.go_without_rehearsal()
        return standby

    @property
    def pidfd(self) -> int:
        """Readable once the standby has ended."""
        return self._standby.pidfd

    @property
    def why_lost(self) -> str:
        return by_rank({SMALL_DUMP_RANK: self._standby.words or "it died"})

    def replace(self) -> None:
        """Start another standby in the place of one that has ended. Raises `ArmingError`, `ImageError`."""
        started = self._start()
        self._standby.dismiss()
        self._standby = started

    def call(self) -> None:
        """The machine crashes: wake the standby, and stand still until it ends this process or a while has passed."""
        os.eventfd_write(self._standby.wake, Call.CRASH)
        select.select([self._standby.pidfd], [], [], STAND_STILL_SECONDS)

    def dismiss(self) -> None:
        """End the standby without a dump; nobody misses it, so nothing is told of it."""
        self._standby.dismiss()
        self._hardware.runtime.standby(SMALL_DUMP_RANK)[StandbyRegister.PID] = 0
