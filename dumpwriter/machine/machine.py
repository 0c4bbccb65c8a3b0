"""The machine: the one place that puts disk, filesystem, mount, memory, arming and recovery together.

    power on    lock the image, load the live drivers, read the boot record
    boot        replay the journal where it is needed, open the filesystem, take a dump out of the region, arm
    run         serve the mount; look after filesystem and standby
    bugcheck    leave log and registers in memory, wake the standby, stand still
    power off   unmount, close the filesystem, dismiss the standby, write that it was clean

The boot record says at every moment how far the machine is, so the next boot knows where this one ended.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import trio

from dumpwriter import runtime
from dumpwriter.crash.plan import region_size_bytes
from dumpwriter.dumpkeys import fingerprint, load_public_key, new_seal
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import CAUSE_TEXT, MachineState, Register
from dumpwriter.machine import arming, status
from dumpwriter.machine.lastdump import LastDump
from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.machine.standbys import Hardware, Standbys
from dumpwriter.machine.trigger import parse_trigger
from dumpwriter.memory.image import ImageMemory
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.recovery.report import describe_extents
from dumpwriter.recovery.retention import Retention
from dumpwriter.sizes import format_count
from vdisk import stack
from vdisk.bootarea import BootArea, BootStage, RegionKind, RegionState
from vdisk.controller import Controller
from vdisk.errors import (
    ArmingError,
    BootInterruptedError,
    FilesystemError,
    ImageError,
    RecoveryError,
    naming,
)
from vdisk.ext4.filesystem import Ext4Filesystem, needs_check
from vdisk.ext4.mkfs import check_filesystem
from vdisk.ext4.repairs import Repairs
from vdisk.imagefile import ImageFile, open_locked
from vdisk.mount.attach import check_mountpoint
from vdisk.mount.control import ControlFile
from vdisk.mount.export import exported
from vdisk.mount.operations import Operations
from vdisk.mount.session import serve
from vdisk.registers import create_registers

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from dumpwriter.memory.source import MemorySource
    from vdisk.extent import ExtentMap

LOG_LINES_MAX = 4096
MAINTENANCE_SECONDS = 1.0
FILESYSTEM_BUGCHECK = 0x24


class MountRequest(NamedTuple):
    """What a user asked for; paths are absolute."""

    image: str
    mountpoint: str
    memory_image: str | None = None
    allow_other: bool = False
    discard_dump: bool = False
    keep: int | None = None
    min_free_bytes: int = 0
    dump_key: str | None = None


class Machine:
    """One run of a machine, from power on to power off. Every resource that it holds is in `resources`."""

    def __init__(self, request: MountRequest, resources: contextlib.ExitStack) -> None:
        check_mountpoint(request.mountpoint)
        self._public_key = load_public_key(request.dump_key) if request.dump_key else None
        self.request = request
        self._resources = resources
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._is_power_pressed = False
        self._lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self._source: MemorySource | None = None
        self._standbys: Standbys | None = None
        self._is_region_ours = False  # a dump that could not be taken out outlives a clean shutdown
        self._facts: dict[str, Any] = {
            "image": request.image,
            "mountpoint": request.mountpoint,
            "sealed_for": fingerprint(self._public_key).hex() if self._public_key else None,
        }
        self._power_on()

    # Power on

    def _power_on(self) -> None:
        lock = open_locked(self.request.image)
        self._resources.callback(os.close, lock)
        self._image = ImageFile(lock)
        self._registers = create_registers()
        self._resources.callback(os.close, self._registers)
        self._live = stack.load_live(Controller(self._registers, self._image))
        with naming(self.request.image):
            self._area = BootArea(self._live.device)
            self._record = self._area.read()
        self._runtime = runtime.create(self.request.mountpoint)
        self._resources.callback(self._runtime.close)
        self._publish(drivers=[module._asdict() for module in self._live.modules])
        self._record = self._record._replace(boot_count=self._record.boot_count + 1)
        self._reach(BootStage.DRIVERS)

    def _load_memory(self) -> MemorySource:
        if self.request.memory_image is None:
            return SimulatedMemory(self._record.memory_size_bytes)
        return ImageMemory(self.request.memory_image)

    def _reach(self, stage: BootStage) -> None:
        self._record = self._area.write(self._record._replace(boot_stage=stage))

    # Boot

    async def boot(self) -> None:
        """Everything up to the mount. Raises `GhostdumpError` where there can be none."""
        self._source = self._load_memory()
        self._resources.callback(self._source.memory.close)
        self._publish(machine=self._source.kind, memory_bytes=self._source.memory.size_bytes)
        self.log(f"ghostdump: machine {self._source.kind}, {self._source.memory.size_bytes >> 20} MiB of memory")
        with naming(self.request.image):
            await self._replay()
            self._filesystem = Ext4Filesystem.open(self._live.device)
        self._region_file = RegionFile(self._filesystem, RegionKind(self._record.region_kind))
        self._reach(BootStage.FILESYSTEM)
        self.log("ext4: mounted")
        try:
            self._reach(BootStage.RECOVERY)
            self._recover()
            self._reach(BootStage.ARMING)
            self._arm()
        except RecoveryError as refusal:
            self._region_file.pin()
            self._disarmed(str(refusal))
        except (ArmingError, ImageError) as refusal:
            self._disarmed(str(refusal))
        except BaseException:
            self._filesystem.abandon()
            raise
        self._reach(BootStage.RUNNING)

    async def _replay(self) -> None:
        """Let e2fsck replay the journal through the driver stack, where the last run did not end cleanly."""
        if not needs_check(self._live.device):
            return
        repairs = Repairs(self._live.device)
        async with exported(repairs, self._failed) as path:
            await trio.to_thread.run_sync(check_filesystem, path)
        repairs.commit()
        self.log("e2fsck: journal replayed, filesystem clean")

    def _recover(self) -> None:
        """Take the dump of the last run out of the region. Raises `RecoveryError` where it has to stay there."""
        request = self.request
        last = LastDump(self._live.device, self._area, self._record, self._filesystem)
        try:
            if request.discard_dump:
                outcome = last.give_up()
            else:
                outcome = last.take_out(Retention(request.keep, request.min_free_bytes), self._show_step)
        except RecoveryError as refusal:
            raise RecoveryError(
                f"{refusal}; the dump stays in the region: make room in /var/crash, unmount and mount again; or "
                f"unmount and ghostdump recover {request.image} --output DIR; or give it up with "
                f"ghostdump mount --discard-dump {request.image} {request.mountpoint}"
            ) from None
        self._record, report = outcome
        self._publish(last_recovery={key: value for key, value in report.items() if key != "missing"})
        self.log(f"recovery: {report['verdict']} {report['reason']} {report['path'] or ''}".rstrip())

    # Arming

    def _arm(self) -> None:
        assert self._source is not None
        extents = self._prepare_region(region_size_bytes(self._source.memory.size_bytes))
        self._record = arming.record_region(self._image, self._live.device, self._record, extents)
        self._is_region_ours = True
        self._extents = extents
        seal = new_seal(self._public_key) if self._public_key else None
        block = arming.make_control_block(self._record, extents, self._source, seal)
        hardware = Hardware(self._image, self._registers, self._source, self._runtime)
        self._standbys = Standbys(hardware, block)
        self._armed()

    def _prepare_region(self, size_bytes: int) -> ExtentMap:
        """A page file that held a dump is not paged to again, where there is room for another."""
        held_a_dump = self._record.region_state in (RegionState.TAKEN, RegionState.DISCARDED)
        if held_a_dump and self._record.region_kind == RegionKind.PAGEFILE:
            return self._region_file.prepare_anew(size_bytes)
        return self._region_file.prepare(size_bytes)

    def _armed(self) -> None:
        assert self._standbys is not None
        extents = self._extents
        self._publish(
            drivers=[*(module._asdict() for module in self._live.modules), *self._standbys.modules],
            standby=self._standbys.describe(),
            region={
                "path": self._region_file.path,
                "size_bytes": extents.size_bytes,
                "extents": describe_extents(extents),
            },
            reason=None,
            warning=self._warning(extents),
        )
        self._runtime.state = MachineState.ARMED
        self.log(f"dump: armed, {extents.size_bytes} bytes in {format_count(len(extents.extents), 'extent')}")

    def _warning(self, extents: ExtentMap) -> str | None:
        assert self._source is not None
        wanted_bytes = region_size_bytes(self._source.memory.size_bytes)
        if extents.size_bytes >= wanted_bytes:
            return None
        return (
            f"the region has {extents.size_bytes} bytes and a whole dump can need {wanted_bytes}: "
            f"a crash keeps the most valuable pages; free as much and mount again"
        )

    def _disarmed(self, reason: str) -> None:
        self._runtime.state = MachineState.DISARMED
        self._publish(reason=reason)
        self.log(f"dump: disarmed: {reason}")

    # Run

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve the mount until it is unmounted or the power button is pressed."""
        signal.signal(signal.SIGUSR1, lambda *_: self._rehearse_on_request())
        signal.signal(signal.SIGUSR2, lambda *_: self._bugcheck_on_request())
        operations = Operations(self._filesystem, self._control_files(), on_open=self._opened, on_failure=self._failed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._maintain_filesystem)
            nursery.start_soon(self._keep_standbys)
            await serve(
                operations,
                self.request.mountpoint,
                source=self.request.image,
                stop=self._stop,
                allow_other=self.request.allow_other,
                on_ready=on_ready,
            )
            operations.forget_all()
            nursery.cancel_scope.cancel()

    def press_power_button(self) -> None:
        """Safe in a signal handler."""
        self._is_power_pressed = True
        self._token.run_sync_soon(self._stop.set)

    async def _maintain_filesystem(self) -> None:
        while True:
            await trio.sleep(MAINTENANCE_SECONDS)
            try:
                self._filesystem.maintain()
            except FilesystemError as failure:
                self.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")

    async def _keep_standbys(self) -> None:
        if self._standbys is not None:
            await self._standbys.keep(self._standbys_changed)

    def _standbys_changed(self, reason: str | None) -> None:
        if reason is None:
            self._armed()
        else:
            self._disarmed(reason)

    def _control_files(self) -> list[ControlFile]:
        return [
            ControlFile("status", read=lambda: as_json(status.describe(self._runtime))),
            ControlFile("drivers", read=lambda: as_json(self._facts["drivers"])),
            ControlFile("extents", read=lambda: as_json(self._facts.get("region", {}).get("extents", []))),
            ControlFile("log", read=lambda: "".join(line + "\n" for line in self._lines).encode()),
            ControlFile("trigger", write=self._triggered),
        ]

    def _triggered(self, content: bytes) -> None:
        self.bugcheck(*parse_trigger(content.decode(errors="replace")))

    def _opened(self, path: bytes, ino: int) -> None:
        self.log(f"open {printable(os.fsdecode(path))} (inode {ino})")

    def _failed(self, handler: str, failure: Exception) -> None:
        self.log(f"mount: {handler}: {failure!r}")

    def _rehearse_on_request(self) -> None:
        if self._standbys is not None:
            self._standbys.rehearse()

    # Bugcheck

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], text: str) -> NoReturn:
        """The machine stops here: it stands still until the standby kills it, or a while at the most."""
        if self._source is not None:
            self._source.bugcheck(code, parameters, text)
        self._runtime.set_cause(CauseKind.BUGCHECK, code, parameters, text)
        self._runtime.state = MachineState.CRASHED
        if self._standbys is not None:
            self._standbys.call()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process that killed itself went on")

    def _bugcheck_on_request(self) -> NoReturn:
        found = self._runtime
        self.bugcheck(found[Register.BUGCHECK_CODE], found.parameters(), found.text(CAUSE_TEXT))

    # Power off

    def power_off(self) -> None:
        """A clean shutdown: what is in memory goes to the disk, and the boot record says so last.

        Where the filesystem cannot be closed there is no clean shutdown: the machine crashes instead, and says so.
        """
        for request in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(request, signal.SIG_IGN)  # too late for either
        self._runtime.state = MachineState.STOPPING
        try:
            self._filesystem.close()
        except FilesystemError as failure:
            self.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")
        self._dismiss_standbys()
        if self._is_region_ours:
            self._record = self._record._replace(region_state=RegionState.CLEAN)
        self._reach(BootStage.OFF)
        self._runtime.state = MachineState.OFF
        self._runtime.remove()

    def _dismiss_standbys(self) -> None:
        standbys, self._standbys = self._standbys, None
        if standbys is not None:
            standbys.dismiss()

    def give_up(self) -> None:
        """The boot failed: leave the disk to the next boot, and nothing else behind."""
        self._dismiss_standbys()
        self._runtime.remove()

    # What others see

    @property
    def facts(self) -> dict[str, Any]:
        return status.describe(self._runtime)

    def log(self, text: str) -> None:
        self._lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        if self._source is not None:
            self._source.log(text)

    def _publish(self, **facts: Any) -> None:
        self._facts |= facts
        self._runtime.publish(self._facts)

    def _show_step(self, done: int, total: int) -> None:
        if self._is_power_pressed:
            raise BootInterruptedError("interrupted; the dump stays in the region for the next mount")
        self._runtime[Register.STEP_DONE] = done
        self._runtime[Register.STEP_TOTAL] = total


def printable(name: str) -> str:
    """A name as one line of a log can hold it: what would end the line, or is no text, is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def as_json(facts: object) -> bytes:
    return json.dumps(facts, indent=2).encode() + b"\n"
