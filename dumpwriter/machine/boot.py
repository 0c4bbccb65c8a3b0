"""The boot: from an image to an open filesystem with somebody ready for a crash, stage by stage.

    power on      the image is locked and looked at as by a firmware; memory is there
    drivers       the live drivers are up; from here on a crash leaves a small dump
    filesystem    the journal is replayed, ext4 is open
    recovery      a hibernated memory goes on; dumps of earlier crashes are taken out
    arming        the region is prepared, its standbys get ready

The boot record says at every moment how far the machine is, so the next boot knows where this one ended. Before the
drivers are up nothing can be written there: that stage stands in the runtime file alone.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from dumpwriter import runtime
from dumpwriter.commandline import command_line
from dumpwriter.frames import DumpIdentity
from dumpwriter.machine import arming, faults
from dumpwriter.machine.keys import Keys
from dumpwriter.machine.lastdump import LastDumps
from dumpwriter.machine.paging import Paging
from dumpwriter.machine.panel import Panel
from dumpwriter.machine.policy import Policy, estimate, level_asked_for, parity_asked_for, warning
from dumpwriter.machine.readiness import Readiness
from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.machine.replay import replay
from dumpwriter.machine.resumption import refuse_other_memory, try_to_resume
from dumpwriter.machine.smalldump import choose_place
from dumpwriter.machine.trigger import MANUAL_BUGCHECK
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.recovery.lastrun import judge, last_words
from dumpwriter.recovery.places import small_places, untaken_places
from dumpwriter.recovery.recognition import naming_image
from dumpwriter.recovery.report import describe_extents, together, without_page_lists
from dumpwriter.recovery.retention import Retention
from vdisk import stack
from vdisk.bootarea import BootArea, BootStage, RegionKind, RegionState
from vdisk.controller import Controller
from vdisk.errors import ArmingError, DeviceError, FormatError, ImageError, PowerLost, RecoveryError, naming
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.imagefile import ImageFile, open_locked
from vdisk.layers.mapped import Mapped
from vdisk.layers.supervised import Supervised, describe_failure
from vdisk.mount.attach import check_mountpoint
from vdisk.registers import create_registers
from vdisk.volume import check_key, mend_key_slots

if TYPE_CHECKING:
    from dumpwriter.memory.source import MemorySource
    from dumpwriter.recovery.places import Place
    from vdisk.extent import ExtentMap
    from vdisk.secret import Secret

DRIVER_BUGCHECK = 0x7E
# what the region is where a dump, or a memory, was in it
USED = (RegionState.TAKEN, RegionState.DISCARDED, RegionState.FORGOTTEN, RegionState.RESUMED)


class MountRequest(NamedTuple):
    """What a user asked for; paths are absolute."""

    image: str
    mountpoint: str
    memory_image: str | None = None
    allow_other: bool = False
    discard_dump: bool = False
    keep: int | None = None
    min_free_bytes: int = 0
    crash_at: str | None = None  # the label of a boot stage
    dump_key: str | None = None
    level: int | None = None  # None: that of the disk
    time_budget_ns: int = 0
    parity_percent: int | None = None  # None: that of the disk


class Boot:
    """What a machine is once it is up. Every resource that it holds is in `resources`."""

    def __init__(self, request: MountRequest, resources: contextlib.ExitStack, volume_key: Secret) -> None:
        """Power on. Raises `GhostdumpError` where there is no disk to boot from, or no place to mount it."""
        check_mountpoint(request.mountpoint)
        keys = Keys(volume_key, request.dump_key)
        self.request = request
        self.volume_key = volume_key
        self._resources = resources
        self.source: MemorySource | None = None
        self.paging: Paging | None = None
        self._small_place: Place | None = None  # where a crash would leave a small dump
        self.is_region_ours = False  # a dump that could not be taken out outlives a clean shutdown
        lock = open_locked(request.image)
        resources.callback(os.close, lock)
        self._image = ImageFile(lock)
        with naming_image(request.image):
            self._last_record = self.record = BootArea(self._image).read()
            check_key(self.record, volume_key)
        if request.memory_image and not request.discard_dump:
            refuse_other_memory(self.record, request.image)
        self._last_words = last_words(request.image, self.record)
        self._registers = create_registers()
        resources.callback(os.close, self._registers)
        self.runtime = runtime.create(request.mountpoint)
        resources.callback(self.runtime.close)
        self.panel = Panel(
            self.runtime,
            image=request.image,
            mountpoint=request.mountpoint,
            disk_id=self.record.disk_id.hex(),
            boot_count=self.record.boot_count + 1,
            encrypted=bool(volume_key),
            sealed_for=keys.fingerprint,
            dump_id=None,
            resumed=False,
            resume=None,
            untaken=None,
        )
        self.readiness = Readiness(self._image, self._registers, self.panel, keys)

    async def run(self) -> None:
        """Everything up to the mount. Raises `GhostdumpError` where there can be none."""
        self.reach(BootStage.POWER_ON)
        self._load_memory()
        self._load_drivers()
        self._prepare_small_dump()
        self._crash_on_request(BootStage.DRIVERS)
        with naming(self.request.image):
            if await replay(self._live.device, self.panel.failed):
                self.panel.log("e2fsck: journal replayed, filesystem clean")
            self.filesystem = Ext4Filesystem.open(self._live.device)
        self.region_file = RegionFile(self.filesystem, RegionKind(self.record.region_kind))
        self.panel.log("ext4: mounted")
        try:
            self.reach(BootStage.FILESYSTEM)
            self._prepare_for_a_crash()
        except BaseException:
            self.filesystem.abandon()
            raise

    def reach(self, stage: BootStage) -> None:
        self._record_stage(stage)
        self._crash_on_request(stage)

    def _record_stage(self, stage: BootStage) -> None:
        """Say how far the machine is: in the runtime file and, as soon as the drivers can, on the disk."""
        self.panel.reach(stage)
        if stage != BootStage.POWER_ON:
            self.record = self.area.write(self.record._replace(boot_stage=stage))

    def _crash_on_request(self, stage: BootStage) -> None:
        if self.request.crash_at == stage.label:
            self.readiness.bugcheck(MANUAL_BUGCHECK, (0, 0, 0, 0), f"crash at boot stage {stage.label}, on request")

    def crash_as_asked(self) -> None:
        """Carry out what the runtime file asks for; before the drivers are up the machine can only stop."""
        if self.runtime.boot_stage in (BootStage.OFF, BootStage.POWER_ON):
            self.readiness.bugcheck(*faults.bugcheck_asked_for(self.runtime))
        faults.begin(self.victim())

    def _load_memory(self) -> None:
        path = self.request.memory_image
        self._use_memory(SimulatedMemory(self.record.memory_size_bytes) if path is None else _load_image(path))
        assert self.source is not None
        self.panel.log(f"ghostdump: machine {self.source.kind}, {self.source.memory.size_bytes >> 20} MiB of memory")

    def _use_memory(self, source: MemorySource) -> None:
        """From here on this is the machine's memory; what it had before is gone."""
        self._resources.callback(source.memory.close)
        if self.source is not None:
            self.source.memory.close()
        self.source = source
        self.readiness.use_memory(source)
        self.panel.keep_log_in(source)
        self.panel.publish(machine=source.kind, memory_bytes=source.memory.size_bytes)

    def _load_drivers(self) -> None:
        self._controller = Controller(self._registers, self._image, on_trap=lambda: faults.carry_out(self.victim()))
        live = stack.load_live(self._controller, self.volume_key)
        self._live = live._replace(device=Supervised(live.device, self._driver_failed))
        self.panel.publish(drivers=[module._asdict() | {"pid": os.getpid()} for module in self._live.modules])
        if self.volume_key:
            mend_key_slots(self._live.device)
        self.area = BootArea(self._live.device)
        last_run = judge(self._live.device, self.area, self.record, self._last_words)
        self.panel.publish(last_run=last_run.describe())
        self.record = self.record._replace(boot_count=self.record.boot_count + 1)

    def _prepare_small_dump(self) -> None:
        """The place is recorded before anybody can write to it: what nobody knows of is not found."""
        self._small_place = choose_place(self._live.device, self.area, self.record)
        self.record = self._small_place.recorded(self.record, RegionState.ARMED)
        self._record_stage(BootStage.DRIVERS)
        self._start_small_dump(self._small_place)

    def _start_small_dump(self, place: Place) -> None:
        try:
            self.readiness.prepare_small_dump(place, self.area, self.record)
        except (ArmingError, ImageError) as refusal:
            self.panel.log(f"dump: no small dump before the machine is armed: {refusal}")

    def _prepare_for_a_crash(self) -> None:
        """Take the last dump out and arm anew. What keeps it from either is told, and the machine runs on without."""
        try:
            self.reach(BootStage.RECOVERY)
            self._resume()
            self._recover()
            self.reach(BootStage.ARMING)
            self._arm()
        except RecoveryError as refusal:
            self.region_file.pin()
            self.readiness.disarmed(str(refusal))
        except (ArmingError, ImageError) as refusal:
            self.readiness.disarmed(str(refusal))

    def _resume(self) -> None:
        """Go on with the memory of a hibernated machine, now or never: the region is marked first."""
        if self.request.discard_dump:
            return
        resumption = try_to_resume(self._live.device, self.area, self.record, self.panel.show_step)
        if resumption is None:
            return
        self.record = self.area.write(self.record._replace(region_state=resumption.region_state))
        if resumption.source is not None:
            self._use_memory(resumption.source)
            self.panel.take_over(resumption.blobs)
            assert self._small_place is not None
            self._start_small_dump(self._small_place)
        self.panel.publish(resumed=resumption.source is not None, resume=resumption.facts)
        self.panel.log(resumption.summary)

    def _recover(self) -> None:
        """Take the dump of the last run out of the region. Raises `RecoveryError` where it has to stay there."""
        request = self.request
        assert self._small_place is not None
        own = self._small_place.identity
        places = [place for place in untaken_places(self.record) if place.identity != own]
        last = LastDumps(self._live.device, self.area, self.record, self.filesystem, self._image, places)
        try:
            if request.discard_dump:
                last.give_up()
            else:
                last.take_out(Retention(request.keep, request.min_free_bytes), self.panel.show_step)
        except RecoveryError as refusal:
            if last.found:  # what came out before the one that has to stay
                self._tell_of_dumps(last.found)
            self.panel.publish(untaken=str(refusal))
            raise RecoveryError(f"{refusal}; {self._ways_out()}") from None
        finally:
            self.record = last.record
        self._tell_of_dumps(last.report)

    def _ways_out(self) -> str:
        """What to do about a dump that has to stay where it is."""
        image, encrypted = self.request.image, bool(self.volume_key)
        recover = command_line("recover", image, "--output", "DIR", encrypted=encrypted)
        give_up = command_line("mount", "--discard-dump", image, self.request.mountpoint, encrypted=encrypted)
        return f"the dump stays in the region: unmount, then mount again, or {recover}, or give it up with {give_up}"

    def _tell_of_dumps(self, found: dict[str, Any]) -> None:
        self.panel.publish(last_recovery=without_page_lists(found))
        for report in together(found):
            self.panel.log(f"recovery: {report['verdict']} {report['reason']} {report['path'] or ''}".rstrip())

    def _arm(self) -> None:
        assert self.source is not None
        level = level_asked_for(self.request.level, self.record)
        parity_percent = parity_asked_for(self.request.parity_percent, self.record)
        needed = estimate(level, self.source, parity_percent)
        extents = self._prepare_region(needed.region_bytes)
        self.record = arming.record_region(self._image, self._live.device, self.record, extents)
        self.is_region_ours = True
        self.panel.publish(
            region={
                "path": self.region_file.path,
                "size_bytes": extents.size_bytes,
                "extents": describe_extents(extents),
            },
            level=level.name.lower(),
            parity_percent=parity_percent,
            time_budget_seconds=self.request.time_budget_ns / 1e9 or None,
            warning=warning(needed, extents.size_bytes),
        )
        identity = DumpIdentity(self.record.dump_id, self.record.generation)
        policy = Policy(level, self.request.time_budget_ns, parity_percent=parity_percent)
        self.readiness.arm(identity, self.record, extents, policy, self._live.modules)
        self.forget_small_dump()
        self._start_paging(extents)

    def _start_paging(self, extents: ExtentMap) -> None:
        """Where the region is the page file and the memory has processes; else the page file idles, and says so."""
        assert self.source is not None
        if self.record.region_kind != RegionKind.PAGEFILE:
            return
        reason = None
        try:
            page_file = Mapped(self._live.device, extents)
            self.paging = Paging.between(self.source, page_file, self.runtime, self.panel.log)
        except FormatError as refusal:
            reason = f"the page file idles: {refusal}"
        self.panel.publish(paging={"reason": reason})

    def _prepare_region(self, size_bytes: int) -> ExtentMap:
        """A page file that held a dump is not paged to again, where there is room for another."""
        if self.record.region_state in USED and self.record.region_kind == RegionKind.PAGEFILE:
            return self.region_file.prepare_anew(size_bytes)
        return self.region_file.prepare(size_bytes)

    def forget_small_dump(self) -> None:
        """Nobody writes there any more: the next stage that is recorded says so on the disk, too."""
        if self._small_place is not None:
            self.record = self._small_place.recorded(self.record, RegionState.CLEAN)

    def give_up(self) -> None:
        """The boot failed: leave the disk to the next boot, and nothing else behind. It was no run of the machine.

        The place for its small dump is again that of a run before it: the newest is where the last run is looked for.
        """
        self.readiness.dismiss()
        if self._small_place is not None:
            before = small_places(self._last_record)[self._small_place.number]
            self.record = before.recorded(self.record, RegionState.CLEAN)
        if self.record.boot_count != self._last_record.boot_count:
            last = self._last_record
            self.record = self.record._replace(boot_count=last.boot_count)
            with contextlib.suppress(DeviceError):
                self._record_stage(BootStage(last.boot_stage))
        self.runtime.remove()

    def _driver_failed(self, failure: BaseException) -> NoReturn:
        if isinstance(failure, PowerLost):
            faults.die()
        self.readiness.bugcheck(DRIVER_BUGCHECK, (0, 0, 0, 0), describe_failure(failure))

    def victim(self) -> faults.Victim:
        """What a fault that is asked for can reach."""
        assert self.source is not None
        return faults.Victim(
            self.runtime,
            self._controller,
            self._live.device,
            self.source.memory,
            self.readiness.block,
            self.readiness.bugcheck,
        )


def _load_image(path: str) -> MemorySource:
    from dumpwriter.memory.loading import load_image  # slow to import: a boot without it does not wait

    return load_image(path)
