"""The machine: the one place that puts disk, filesystem, mount, memory, arming and recovery together.

    power on    lock the image, look at it as a firmware does, set the memory up
    boot        load the live drivers, replay the journal, open the filesystem, take a dump out of the region, arm
    run         serve the mount; look after filesystem and standbys
    bugcheck    leave log and registers in memory, wake the standbys, stand still
    power off   unmount, close the filesystem, dismiss the standbys, write that it was clean

The boot record says at every moment how far the machine is, so the next boot knows where this one ended. Before the
drivers are up nothing can be written there: that stage stands in the runtime file alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import trio

from dumpwriter import runtime
from dumpwriter.dumpkeys import fingerprint, load_public_key
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import MachineState
from dumpwriter.frames import DumpIdentity
from dumpwriter.machine import arming, faults
from dumpwriter.machine.hibernation import Hibernator, hand_over, start_hibernator
from dumpwriter.machine.lastdump import LastDumps
from dumpwriter.machine.pager import INPAGE_ERROR, InPageError
from dumpwriter.machine.paging import Paging
from dumpwriter.machine.panel import Panel
from dumpwriter.machine.policy import Policy, estimate, level_asked_for, warning
from dumpwriter.machine.readiness import Keys, Readiness
from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.machine.replay import replay
from dumpwriter.machine.resumption import refuse_other_memory, try_to_resume
from dumpwriter.machine.smalldump import choose_place
from dumpwriter.machine.trigger import MANUAL_BUGCHECK, parse_trigger
from dumpwriter.memory.image import ImageMemory
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.printable import printable
from dumpwriter.recovery.lastrun import judge, last_words
from dumpwriter.recovery.places import untaken_places
from dumpwriter.recovery.report import describe_extents, without_page_lists
from dumpwriter.recovery.retention import Retention
from dumpwriter.verdict import Verdict
from vdisk import stack
from vdisk.bootarea import BootArea, BootStage, RegionKind, RegionState
from vdisk.controller import Controller
from vdisk.errors import (
    ArmingError,
    DeviceError,
    FilesystemError,
    FormatError,
    ImageError,
    MountError,
    PowerLost,
    RecoveryError,
    naming,
)
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.imagefile import ImageFile, open_locked
from vdisk.layers.mapped import Mapped
from vdisk.layers.supervised import Supervised, describe_failure
from vdisk.mount import mountinfo
from vdisk.mount.attach import check_mountpoint
from vdisk.mount.control import ControlFile
from vdisk.mount.operations import Operations
from vdisk.mount.session import serve
from vdisk.registers import create_registers
from vdisk.volume import check_key, mend_key_slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.memory.source import MemorySource
    from dumpwriter.recovery.places import Place
    from vdisk.extent import ExtentMap
    from vdisk.secret import Secret

MAINTENANCE_SECONDS = 1.0
FILESYSTEM_BUGCHECK = 0x24
DRIVER_BUGCHECK = 0x7E


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


class Machine:
    """One run of a machine, from power on to power off. Every resource that it holds is in `resources`."""

    def __init__(self, request: MountRequest, resources: contextlib.ExitStack, volume_key: Secret) -> None:
        """Power on. Raises `GhostdumpError` where there is no disk to boot from, or no place to mount it."""
        check_mountpoint(request.mountpoint)
        public_key = load_public_key(request.dump_key) if request.dump_key else None
        self.request = request
        self._volume_key = volume_key
        self._resources = resources
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._source: MemorySource | None = None
        self._paging: Paging | None = None
        self._small_place: Place | None = None  # where a crash would leave a small dump
        self._hibernator: Hibernator | None = None
        self._is_region_ours = False  # a dump that could not be taken out outlives a clean shutdown
        lock = open_locked(request.image)
        resources.callback(os.close, lock)
        self._image = ImageFile(lock)
        with naming(request.image):
            self._last_record = self._record = BootArea(self._image).read()
            check_key(self._record, volume_key)
        if request.memory_image and not request.discard_dump:
            refuse_other_memory(self._record, request.image)
        self._last_words = last_words(request.image, self._record)
        self._registers = create_registers()
        resources.callback(os.close, self._registers)
        self._runtime = runtime.create(request.mountpoint)
        resources.callback(self._runtime.close)
        self.panel = Panel(
            self._runtime,
            image=request.image,
            mountpoint=request.mountpoint,
            disk_id=self._record.disk_id.hex(),
            boot_count=self._record.boot_count + 1,
            encrypted=bool(volume_key),
            sealed_for=fingerprint(public_key).hex() if public_key else None,
            resumed=False,
            resume=None,
        )
        self._readiness = Readiness(self._image, self._registers, self.panel, Keys(volume_key, public_key))

    # Boot

    async def boot(self) -> None:
        """Everything up to the mount. Raises `GhostdumpError` where there can be none."""
        self._reach(BootStage.POWER_ON)
        self._load_memory()
        self._load_drivers()
        self._prepare_small_dump()
        self._crash_on_request(BootStage.DRIVERS)
        with naming(self.request.image):
            if await replay(self._live.device, self._failed):
                self.panel.log("e2fsck: journal replayed, filesystem clean")
            self._filesystem = Ext4Filesystem.open(self._live.device)
        self._region_file = RegionFile(self._filesystem, RegionKind(self._record.region_kind))
        self.panel.log("ext4: mounted")
        try:
            self._reach(BootStage.FILESYSTEM)
            self._prepare_for_a_crash()
        except BaseException:
            self._filesystem.abandon()
            raise

    def _reach(self, stage: BootStage) -> None:
        self._record_stage(stage)
        self._crash_on_request(stage)

    def _record_stage(self, stage: BootStage) -> None:
        """Say how far the machine is: in the runtime file and, as soon as the drivers can, on the disk."""
        self.panel.reach(stage)
        if stage != BootStage.POWER_ON:
            self._record = self._area.write(self._record._replace(boot_stage=stage))

    def _crash_on_request(self, stage: BootStage) -> None:
        if self.request.crash_at == stage.label:
            self.bugcheck(MANUAL_BUGCHECK, (0, 0, 0, 0), f"crash at boot stage {stage.label}, on request")

    def _load_memory(self) -> None:
        path = self.request.memory_image
        self._use_memory(SimulatedMemory(self._record.memory_size_bytes) if path is None else ImageMemory(path))
        assert self._source is not None
        self.panel.log(f"ghostdump: machine {self._source.kind}, {self._source.memory.size_bytes >> 20} MiB of memory")

    def _use_memory(self, source: MemorySource) -> None:
        """From here on this is the machine's memory; what it had before is gone."""
        self._resources.callback(source.memory.close)
        if self._source is not None:
            self._source.memory.close()
        self._source = source
        self._readiness.use_memory(source)
        self.panel.keep_log_in(source)
        self.panel.publish(machine=source.kind, memory_bytes=source.memory.size_bytes)

    def _load_drivers(self) -> None:
        self._controller = Controller(self._registers, self._image, on_trap=lambda: faults.carry_out(self._victim()))
        live = stack.load_live(self._controller, self._volume_key)
        self._live = live._replace(device=Supervised(live.device, self._driver_failed))
        self.panel.publish(drivers=[module._asdict() | {"pid": os.getpid()} for module in self._live.modules])
        if self._volume_key:
            mend_key_slots(self._live.device)
        self._area = BootArea(self._live.device)
        last_run = judge(self._live.device, self._area, self._record, self._last_words)
        self.panel.publish(last_run=last_run.describe())
        self._record = self._record._replace(boot_count=self._record.boot_count + 1)

    def _prepare_small_dump(self) -> None:
        """The place is recorded before anybody can write to it: what nobody knows of is not found."""
        self._small_place = choose_place(self._live.device, self._area, self._record)
        self._record = self._small_place.recorded(self._record, RegionState.ARMED)
        self._record_stage(BootStage.DRIVERS)
        self._start_small_dump(self._small_place)

    def _start_small_dump(self, place: Place) -> None:
        try:
            self._readiness.prepare_small_dump(place, self._area, self._record)
        except (ArmingError, ImageError) as refusal:
            self.panel.log(f"dump: no small dump before the machine is armed: {refusal}")

    def _prepare_for_a_crash(self) -> None:
        """Take the last dump out and arm anew. What keeps it from either is told, and the machine runs on without."""
        try:
            self._reach(BootStage.RECOVERY)
            self._resume()
            self._recover()
            self._reach(BootStage.ARMING)
            self._arm()
        except RecoveryError as refusal:
            self._region_file.pin()
            self._readiness.disarmed(str(refusal))
        except (ArmingError, ImageError) as refusal:
            self._readiness.disarmed(str(refusal))

    def _resume(self) -> None:
        """Go on with the memory of a hibernated machine, now or never: the region is marked first."""
        if self.request.discard_dump:
            return
        resumption = try_to_resume(self._live.device, self._area, self._record, self.panel.show_step)
        if resumption is None:
            return
        self._record = self._area.write(self._record._replace(region_state=resumption.region_state))
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
        places = [place for place in untaken_places(self._record) if place.identity != own]
        last = LastDumps(self._live.device, self._area, self._record, self._filesystem, places)
        try:
            if request.discard_dump:
                last.give_up()
            else:
                last.take_out(Retention(request.keep, request.min_free_bytes), self.panel.show_step)
        except RecoveryError as refusal:
            raise RecoveryError(
                f"{refusal}; the dump stays in the region: make room in /var/crash, unmount and mount again; or "
                f"unmount and ghostdump recover {request.image} --output DIR; or give it up with "
                f"ghostdump mount --discard-dump {request.image} {request.mountpoint}"
            ) from None
        finally:
            self._record = last.record
        report = last.report
        self.panel.publish(last_recovery=without_page_lists(report))
        self.panel.log(f"recovery: {report['verdict']} {report['reason']} {report['path'] or ''}".rstrip())

    def _arm(self) -> None:
        assert self._source is not None
        level = level_asked_for(self.request.level, self._record)
        needed = estimate(level, self._source)
        extents = self._prepare_region(needed.region_bytes)
        self._record = arming.record_region(self._image, self._live.device, self._record, extents)
        self._is_region_ours = True
        self.panel.publish(
            region={
                "path": self._region_file.path,
                "size_bytes": extents.size_bytes,
                "extents": describe_extents(extents),
            },
            level=level.name.lower(),
            time_budget_seconds=self.request.time_budget_ns / 1e9 or None,
            warning=warning(needed, extents.size_bytes),
        )
        identity = DumpIdentity(self._record.dump_id, self._record.generation)
        policy = Policy(level, self.request.time_budget_ns)
        self._readiness.arm(identity, self._record, extents, policy, self._live.modules)
        self._forget_small_dump()
        self._start_paging(extents)

    def _start_paging(self, extents: ExtentMap) -> None:
        """Where the region is the page file and the memory has processes; else the page file idles, and says so."""
        assert self._source is not None
        if self._record.region_kind != RegionKind.PAGEFILE:
            return
        reason = None
        try:
            page_file = Mapped(self._live.device, extents)
            self._paging = Paging.between(self._source, page_file, self._runtime, self.panel.log)
        except FormatError as refusal:
            reason = f"the page file idles: {refusal}"
        self.panel.publish(paging={"reason": reason})

    def _prepare_region(self, size_bytes: int) -> ExtentMap:
        """A page file that held a dump is not paged to again, where there is room for another."""
        held_a_dump = self._record.region_state in (RegionState.TAKEN, RegionState.DISCARDED, RegionState.RESUMED)
        if held_a_dump and self._record.region_kind == RegionKind.PAGEFILE:
            return self._region_file.prepare_anew(size_bytes)
        return self._region_file.prepare(size_bytes)

    # Run

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve the mount until it is unmounted or the power button is pressed."""
        signal.signal(signal.SIGUSR1, lambda *_: self._readiness.rehearse())
        signal.signal(signal.SIGUSR2, lambda *_: faults.begin(self._victim()))
        trigger = ControlFile("trigger", write=self._triggered)
        operations = Operations(
            self._filesystem,
            [*self.panel.control_files(), trigger],
            on_open=self._opened,
            on_failure=self._failed,
        )

        def ready() -> None:
            self._reach(BootStage.RUNNING)
            on_ready()

        async with trio.open_nursery() as nursery:
            if self._paging is not None:
                operations.on_use = self._paging.note_use
                nursery.start_soon(self._keep_paging, self._paging)
            nursery.start_soon(self._maintain_filesystem)
            nursery.start_soon(self._readiness.keep)
            nursery.start_soon(self._readiness.watch, self._region_file, self._area, lambda: self._record)
            nursery.start_soon(self._hibernate_on_request)
            await serve(
                operations,
                self.request.mountpoint,
                source=self.request.image,
                stop=self._stop,
                allow_other=self.request.allow_other,
                on_ready=ready,
            )
            operations.forget_all()
            nursery.cancel_scope.cancel()

    def press_power_button(self) -> None:
        """Safe in a signal handler."""
        self.panel.press_power_button()
        self._token.run_sync_soon(self._stop.set)

    async def _maintain_filesystem(self) -> None:
        while True:
            await trio.sleep(MAINTENANCE_SECONDS)
            self.panel.save()
            try:
                self._filesystem.maintain()
            except FilesystemError as failure:
                self.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")

    async def _keep_paging(self, paging: Paging) -> None:
        try:
            await paging.run()
        except InPageError as lost:
            self.bugcheck(INPAGE_ERROR, lost.parameters, str(lost))

    def _triggered(self, content: bytes) -> None:
        self.bugcheck(*parse_trigger(content.decode(errors="replace")))

    def _opened(self, path: bytes, ino: int) -> None:
        self.panel.log(f"open {printable(os.fsdecode(path))} (inode {ino})")

    def _failed(self, handler: str, failure: Exception) -> None:
        self.panel.log(f"mount: {handler}: {failure!r}")

    # Hibernation

    async def _hibernate_on_request(self) -> None:
        with trio.open_signal_receiver(signal.SIGPWR) as requests:
            async for _ in requests:
                try:
                    await self._prepare_hibernation()
                except (ArmingError, MountError) as refusal:
                    self.panel.refuse_hibernation(str(refusal))

    async def _prepare_hibernation(self) -> None:
        """All that can fail, and then the end of the mount: what follows is the power off.

        Raises `ArmingError`, `MountError`: the machine then runs on.
        """
        if self._readiness.block is None:
            raise ArmingError("the machine is not armed")
        self._hibernator = start_hibernator(self._readiness.hardware, self._readiness.block, self._volume_key)
        complaint = await trio.to_thread.run_sync(mountinfo.unmount, self.request.mountpoint)
        if complaint:
            self._hibernator.dismiss()
            self._hibernator = None
            raise MountError(f"a program still uses the mount ({complaint})")
        self.panel.log("hibernation: unmounted, memory goes to the region")

    def _bring_pages_back(self) -> None:
        """The page file is about to be written over: memory must not miss what is out there."""
        if self._paging is not None:
            try:
                self._paging.bring_all_back()
            except InPageError as lost:
                self.bugcheck(INPAGE_ERROR, lost.parameters, str(lost))

    # Bugcheck

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], text: str) -> NoReturn:
        """The machine stops here: it stands still until a standby kills it, or a while at the most."""
        if self._source is not None:
            self._source.bugcheck(code, parameters, text)
        self.panel.last_words(f"bugcheck {code:#x}: {text}")
        self._runtime.set_cause(CauseKind.BUGCHECK, code, parameters, text)
        self._runtime.state = MachineState.CRASHED
        if not self._readiness.call():
            self._runtime.set_outcome(Verdict.NONE, self.panel.why_no_dump)
            self._runtime.state = MachineState.FAILED
        faults.die()

    def _driver_failed(self, failure: BaseException) -> NoReturn:
        if isinstance(failure, PowerLost):
            faults.die()
        self.bugcheck(DRIVER_BUGCHECK, (0, 0, 0, 0), describe_failure(failure))

    def _victim(self) -> faults.Victim:
        """What a fault that is asked for can reach."""
        assert self._source is not None
        return faults.Victim(
            self._runtime,
            self._controller,
            self._live.device,
            self._source.memory,
            self._readiness.block,
            self.bugcheck,
        )

    # Power off

    def power_off(self) -> None:
        """A clean shutdown: what is in memory goes to the disk, and the boot record says so last.

        Where the filesystem cannot be closed there is no clean shutdown: the machine crashes instead, and says so.
        """
        for request in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(request, signal.SIG_IGN)  # too late for either
        self._runtime.state = MachineState.STOPPING
        if self._hibernator is not None:
            self._bring_pages_back()
        try:
            self._filesystem.close()
        except FilesystemError as failure:
            self.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")
        self._readiness.dismiss()
        self._forget_small_dump()
        if self._is_region_ours:
            state = RegionState.HIBERNATING if self._hibernator else RegionState.CLEAN
            self._record = self._record._replace(region_state=state)
        self._reach(BootStage.OFF)
        if self._hibernator is not None:
            self.panel.publish(drivers=self._hibernator.modules())
            hand_over(self._hibernator, self._runtime)
        else:
            self._runtime.state = MachineState.OFF
            self._runtime.remove()

    def _forget_small_dump(self) -> None:
        """Nobody writes there any more: the next stage that is recorded says so on the disk, too."""
        if self._small_place is not None:
            self._record = self._small_place.recorded(self._record, RegionState.CLEAN)

    def give_up(self) -> None:
        """The boot failed: leave the disk to the next boot, and nothing else behind. It was no run of the machine."""
        self._readiness.dismiss()
        self._forget_small_dump()
        if self._record.boot_count != self._last_record.boot_count:
            last = self._last_record
            self._record = self._record._replace(boot_count=last.boot_count)
            with contextlib.suppress(DeviceError):
                self._reach(BootStage(last.boot_stage))
        self._runtime.remove()
