"""What stands ready for a crash: nothing, then the standby of the small dump, then those of the region."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import trio

from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import MachineState
from dumpwriter.machine import arming, faults, regionwatch
from dumpwriter.machine.pace import Pace
from dumpwriter.machine.policy import Policy
from dumpwriter.machine.smalldump import SmallDump
from dumpwriter.machine.standby import Hardware
from dumpwriter.machine.standbys import Standbys
from dumpwriter.verdict import Verdict
from vdisk.errors import ArmingError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.frames import DumpIdentity
    from dumpwriter.machine.keys import Keys
    from dumpwriter.machine.panel import Panel
    from dumpwriter.machine.regionfile import RegionFile
    from dumpwriter.memory.source import MemorySource
    from dumpwriter.recovery.places import Place
    from vdisk.bootarea import BootArea, BootRecord
    from vdisk.extent import ExtentMap
    from vdisk.imagefile import ImageFile
    from vdisk.stack import Module

WATCH_SECONDS = 5.0


class Readiness:
    """Who writes the dump if the machine crashes now. Facts of it go to the panel."""

    def __init__(self, image: ImageFile, registers: int, panel: Panel, keys: Keys) -> None:
        self._image = image
        self._registers = registers
        self._panel = panel
        self._keys = keys
        self._source: MemorySource | None = None
        self._small_dump: SmallDump | None = None
        self._why_disarmed = ""
        self._standbys: Standbys | None = None
        self.block: ControlBlock | None = None  # what the standbys of the region know

    @property
    def hardware(self) -> Hardware:
        assert self._source is not None
        return Hardware(self._image, self._registers, self._source, self._panel.runtime)

    def use_memory(self, source: MemorySource) -> None:
        """The memory that a dump is of from here on."""
        self._source = source

    def prepare_small_dump(self, place: Place, area: BootArea, record: BootRecord) -> None:
        """From here on a crash leaves something; it may be called again for another memory.

        Raises `ArmingError`, `ImageError` where it does not.
        """
        self._image.reserve(*area.run)
        block = self._control_block(place.identity, record, place.extents(area, record), Policy())
        self._dismiss_small_dump()
        self._small_dump = SmallDump(block, self.hardware)
        self._panel.publish(dump_id=place.identity.dump_id.hex())

    def arm(
        self,
        identity: DumpIdentity,
        record: BootRecord,
        extents: ExtentMap,
        policy: Policy,
        live: tuple[Module, ...],
    ) -> None:
        """Start the standbys of the region; once they are ready, nobody needs a small dump. Raises `ArmingError`."""
        block = self._control_block(identity, record, extents, policy)
        self._standbys = Standbys(self.hardware, block)
        self.block = block
        self._dismiss_small_dump()
        self._panel.publish(dump_id=identity.dump_id.hex())
        self._live = [module._asdict() | {"pid": os.getpid()} for module in live]
        self._armed()

    def disarmed(self, reason: str) -> None:
        self._why_disarmed = reason
        self._panel.disarmed(f"{reason}; a crash leaves a small dump" if self._small_dump else reason)

    async def keep(self) -> None:
        """Replace standbys that end, as long as the machine runs."""
        if self._standbys is not None:
            await self._standbys.keep(self._armed)
        elif self._small_dump is not None:
            await self._keep_small_dump(self._small_dump)

    async def _keep_small_dump(self, small_dump: SmallDump) -> None:
        pace = Pace()
        while True:
            await trio.lowlevel.wait_readable(small_dump.pidfd)
            if pause_seconds := pace.pause_seconds:
                self._panel.disarmed(f"{self._why_disarmed}; {small_dump.why_lost}; {pace.explain()}")
                await trio.sleep(pause_seconds)
            pace.note_start()
            self._panel.log(f"dump: {small_dump.why_lost}; another is started")
            try:
                small_dump.replace()
            except (ArmingError, ImageError) as refusal:
                self._panel.disarmed(f"{self._why_disarmed}; no small dump: {refusal}")
            else:
                self.disarmed(self._why_disarmed)

    async def watch(self, region_file: RegionFile, area: BootArea, record: Callable[[], BootRecord]) -> None:
        """Look after what a dump rests on besides the standbys, as often as they look after themselves."""
        while self._standbys is not None and self.block is not None:
            await trio.sleep(WATCH_SECONDS)
            recorded = self.block.extents
            moved = regionwatch.why_moved(region_file, recorded)
            if moved:
                self._standbys.revoke(moved)
                return self._armed()
            if self._standbys.raise_alarm(regionwatch.why_not_found(area, record(), recorded)):
                self._armed()
        return None

    def rehearse(self) -> None:
        if self._standbys is not None:
            self._standbys.rehearse()

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], text: str) -> NoReturn:
        """The machine stops here: it stands still until a standby kills it, or a while at the most."""
        runtime = self._panel.runtime
        if self._source is not None:
            self._source.bugcheck(code, parameters, text)
        self._panel.last_words(f"bugcheck {code:#x}: {text}")
        runtime.set_cause(CauseKind.BUGCHECK, code, parameters, text)
        runtime.state = MachineState.CRASHED
        standby = self._standbys or self._small_dump
        if standby is not None:
            standby.call()
        else:
            runtime.set_outcome(Verdict.NONE, self._panel.why_no_dump)
            runtime.state = MachineState.FAILED
        faults.die()

    def dismiss(self) -> None:
        """A crash leaves nothing any more."""
        standbys, self._standbys = self._standbys, None
        if standbys is not None:
            standbys.dismiss()
        self._dismiss_small_dump()

    def _dismiss_small_dump(self) -> None:
        small_dump, self._small_dump = self._small_dump, None
        if small_dump is not None:
            small_dump.dismiss()

    def _control_block(
        self, identity: DumpIdentity, record: BootRecord, extents: ExtentMap, policy: Policy
    ) -> ControlBlock:
        assert self._source is not None
        policy = policy._replace(seal=self._keys.new_seal())
        return arming.make_control_block(identity, record, extents, self._source, self._keys.volume, policy)

    def _armed(self) -> None:
        assert self._standbys is not None
        self._panel.armed(
            *self._standbys.condition,
            drivers=[*self._live, *self._standbys.modules],
            standbys=self._standbys.describe(),
            rearmings=[rearming._asdict() for rearming in self._standbys.rearmings],
        )
