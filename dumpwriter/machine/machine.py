"""The machine that runs: it serves the mount until it is unmounted, crashes, hibernates or is switched off.

run         serve the mount; look after filesystem and standbys
hibernate   let a process with clones of its own write memory, and power off
power off   close the filesystem, dismiss the standbys, write that it was clean
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import trio

from dumpwriter.formats.runtime import MachineState
from dumpwriter.machine.hibernation import Hibernator, hand_over, start_hibernator
from dumpwriter.machine.pager import INPAGE_ERROR, InPageError
from dumpwriter.machine.trigger import parse_trigger
from dumpwriter.printable import printable
from vdisk.bootarea import BootStage, RegionState
from vdisk.errors import ArmingError, FilesystemError, MountError
from vdisk.mount import mountinfo
from vdisk.mount.control import ControlFile
from vdisk.mount.operations import Operations
from vdisk.mount.session import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.machine.boot import Boot
    from dumpwriter.machine.paging import Paging

MAINTENANCE_SECONDS = 1.0
FILESYSTEM_BUGCHECK = 0x24


class Machine:
    """A machine that has booted."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._panel = boot.panel
        self._readiness = boot.readiness
        self._filesystem = boot.filesystem
        self._hibernator: Hibernator | None = None

    async def run(self, stop: trio.Event, on_ready: Callable[[], None]) -> None:
        """Serve the mount until it is unmounted or `stop` is set."""
        boot = self._boot
        trigger = ControlFile("trigger", write=self._triggered)
        operations = Operations(
            self._filesystem,
            [*self._panel.control_files(), trigger],
            on_open=self._opened,
            on_failure=self._panel.failed,
        )

        def ready() -> None:
            boot.reach(BootStage.RUNNING)
            on_ready()

        async with trio.open_nursery() as nursery:
            if boot.paging is not None:
                operations.on_use = boot.paging.note_use
                nursery.start_soon(self._keep_paging, boot.paging)
            nursery.start_soon(self._maintain_filesystem)
            nursery.start_soon(self._readiness.keep)
            nursery.start_soon(self._readiness.watch, boot.region_file, boot.area, lambda: boot.record)
            nursery.start_soon(self._hibernate_on_request)
            await serve(
                operations,
                boot.request.mountpoint,
                source=boot.request.image,
                stop=stop,
                allow_other=boot.request.allow_other,
                on_ready=ready,
            )
            operations.forget_all()
            nursery.cancel_scope.cancel()

    async def _maintain_filesystem(self) -> None:
        while True:
            await trio.sleep(MAINTENANCE_SECONDS)
            self._panel.save()
            try:
                self._filesystem.maintain()
            except FilesystemError as failure:
                self._readiness.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")

    async def _keep_paging(self, paging: Paging) -> None:
        try:
            await paging.run()
        except InPageError as lost:
            self._readiness.bugcheck(INPAGE_ERROR, lost.parameters, str(lost))

    def _triggered(self, content: bytes) -> None:
        self._readiness.bugcheck(*parse_trigger(content.decode(errors="replace")))

    def _opened(self, path: bytes, ino: int) -> None:
        self._panel.log(f"open {printable(os.fsdecode(path))} (inode {ino})")

    # Hibernation

    async def _hibernate_on_request(self) -> None:
        with trio.open_signal_receiver(signal.SIGPWR) as requests:
            async for _ in requests:
                try:
                    await self._prepare_hibernation()
                except (ArmingError, MountError) as refusal:
                    self._panel.refuse_hibernation(str(refusal))

    async def _prepare_hibernation(self) -> None:
        """All that can fail, and then the end of the mount: what follows is the power off.

        Raises `ArmingError`, `MountError`: the machine then runs on.
        """
        if self._readiness.block is None:
            raise ArmingError("the machine is not armed")
        self._hibernator = start_hibernator(self._readiness.hardware, self._readiness.block, self._boot.volume_key)
        complaint = await trio.to_thread.run_sync(mountinfo.unmount, self._boot.request.mountpoint)
        if complaint:
            self._hibernator.dismiss()
            self._hibernator = None
            raise MountError(f"a program still uses the mount ({complaint})")
        self._panel.log("hibernation: unmounted, memory goes to the region")

    def _bring_pages_back(self) -> None:
        """The page file is about to be written over: memory must not miss what is out there."""
        if self._boot.paging is not None:
            try:
                self._boot.paging.bring_all_back()
            except InPageError as lost:
                self._readiness.bugcheck(INPAGE_ERROR, lost.parameters, str(lost))

    # Power off

    def power_off(self) -> None:
        """A clean shutdown: what is in memory goes to the disk, and the boot record says so last.

        Where the filesystem cannot be closed there is no clean shutdown: the machine crashes instead, and says so.
        """
        for request in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(request, signal.SIG_IGN)  # too late for either
        self._boot.runtime.state = MachineState.STOPPING
        if self._hibernator is not None:
            self._bring_pages_back()
        try:
            self._filesystem.close()
        except FilesystemError as failure:
            self._readiness.bugcheck(FILESYSTEM_BUGCHECK, (0, 0, 0, 0), f"the filesystem failed: {failure}")
        self._readiness.dismiss()
        self._boot.forget_small_dump()
        if self._boot.is_region_ours:
            state = RegionState.HIBERNATING if self._hibernator else RegionState.CLEAN
            self._boot.record = self._boot.record._replace(region_state=state)
        self._boot.reach(BootStage.OFF)
        if self._hibernator is not None:
            self._panel.publish(drivers=self._hibernator.modules())
            hand_over(self._hibernator, self._boot.runtime)
        else:
            self._boot.runtime.state = MachineState.OFF
            self._boot.runtime.remove()
