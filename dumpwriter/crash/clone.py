"""The clone at work: it takes the controller over, rehearses, and writes the dump of a machine that is dead.

Nothing of it is made at the crash but the drivers: those are made anew from the control block, each time and only after
the block was checked, not from what has lain in memory.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from dumpwriter.blobarea import BlobArea
from dumpwriter.crash.dump import Cause, DumpJob, Progress, Writer
from dumpwriter.crash.job import new_parity_buffers, new_sealer, prepare
from dumpwriter.crash.rehearsal import rehearse
from dumpwriter.crash.writer import WriterThreads, write_dump
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import CAUSE_TEXT, MachineState, Register
from dumpwriter.memory.physical import MemoryRange, PhysicalMemory
from dumpwriter.runtime import by_rank
from dumpwriter.verdict import Reason
from vdisk import stack
from vdisk.bootarea import BootArea, record_runs
from vdisk.controller import Controller, Order
from vdisk.errors import DeviceError, GhostdumpError
from vdisk.imagefile import ImageFile
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard

if TYPE_CHECKING:
    from dumpwriter.crash.controlblock import ControlBlock, PrivateBlock
    from dumpwriter.runtime import RuntimeFile
    from vdisk.blockdevice import BlockDevice

OPEN_SECONDS = 10.0  # more than all steps by which the port driver takes the controller over
REHEARSAL_SECONDS = 8.0  # less than the machine waits for it


class Handles(NamedTuple):
    """What a standby is given, by descriptors but for its rank; all that it has of the world."""

    rank: int  # 0: the first, which acts; 1: the second, which takes over
    control_block: int
    memory: int
    registers: int
    image: int  # the disk, past the host's page cache where that can be
    lock: int  # holds the lock of the image for as long as the standby lives
    runtime: int
    machine: int  # pidfd of the process that runs the machine
    wake: int  # eventfd


class Disk(NamedTuple):
    """What the clone reaches: the region, by drivers that were just made from the checked control block."""

    block: ControlBlock
    controller: Controller
    region: Mapped


class Written(NamedTuple):
    """What was written, as far as it came, and through which disk."""

    disk: Disk
    job: DumpJob
    progress: Progress


class Clone:
    """The hands of one standby: its threads, its view of disk and memory, and the block that says what they are."""

    def __init__(self, handles: Handles, block: PrivateBlock, runtime: RuntimeFile) -> None:
        content = block.read()
        self._handles = handles
        self._block = block
        self._runtime = runtime
        self._image = ImageFile(handles.image)
        self._threads = WriterThreads(content.writer_threads)
        self._drivers = stack.load_clone(content.images)
        self.modules = self._drivers.modules  # rows of the module table, from the controller upwards
        self._parity_buffers = new_parity_buffers(content)
        new_sealer(content)

    async def set_aside(self) -> None:
        """Make on each thread what its drivers will need. To be called before confinement."""
        await self._threads.run_on_each(lambda _: self._drivers.set_aside())

    async def rehearse(self) -> str:
        """Why a dump could not be written; empty where it could.

        Raises `DeviceError` where the disk still holds a thread of this process, which may write whenever the disk
        lets it go on: the process must end before anybody else has the disk.
        """
        try:
            with trio.fail_after(REHEARSAL_SECONDS):
                await self._threads.run_one(lambda: rehearse(self._open_disk().region))
        except GhostdumpError as refusal:
            return str(refusal)
        except trio.TooSlowError:
            raise DeviceError(f"the disk did not let the clone rehearse within {REHEARSAL_SECONDS:.0f} s") from None
        return ""

    async def dump(self) -> None:
        """Write the dump and say in the runtime file what became of it. The machine must be dead.

        Raises `FormatError` where the control block does not hold and `DeviceError` where the disk cannot be had;
        nothing is written then.
        """
        written = await self._write(_cause(self._runtime), MachineState.DUMPING)
        _conclude(self._runtime, written.job, written.progress)
        written.disk.controller.order(Order.POWER_OFF)

    async def _write(self, cause: Cause, state: MachineState) -> Written:
        """All but the last word on it. `state` is what the runtime file says meanwhile."""
        started_ns = time.monotonic_ns()
        runtime, progress = self._runtime, Progress()
        disk = await self._take_disk_over()
        job = await self._prepared(disk, cause)
        runtime[Register.PAGES_TOTAL] = job.plan.pages_total
        runtime[Register.PAGES_WANTED] = job.plan.pages_wanted
        runtime[Register.PAGES_PLANNED] = job.plan.pages_planned
        runtime[Register.WRITER] = 1 + self._handles.rank
        runtime.state = state

        def report() -> None:
            runtime[Register.PAGES_WRITTEN] = progress.pages_written
            runtime[Register.BYTES_WRITTEN] = progress.bytes_written
            runtime[Register.FRAMES_FAILED] = progress.frames_failed

        budget_seconds = _left_of_budget(disk.block, time.monotonic_ns() - started_ns)
        await write_dump(job, self._threads, progress, report, time.time_ns, budget_seconds)
        runtime[Register.DUMP_NANOSECONDS] = time.monotonic_ns() - started_ns
        return Written(disk, job, progress)

    async def _take_disk_over(self) -> Disk:
        """`_open_disk` under a deadline; a thread that the disk then still holds is given up."""
        opened: list[Disk] = []
        try:
            with trio.fail_after(OPEN_SECONDS):
                await self._threads.run_one(lambda: opened.append(self._open_disk()))
        except trio.TooSlowError:
            raise DeviceError(f"controller: the disk did not answer within {OPEN_SECONDS:.0f} s") from None
        return opened[0]

    def _open_disk(self) -> Disk:
        """Take the controller over. Raises `FormatError` for a control block that does not hold, `DeviceError`."""
        block = self._block.read()
        controller = Controller(self._handles.registers, self._image)
        device = stack.load_clone(block.images).attach(controller)
        must_be_our_disk(device, block)
        region = block.extents.runs(0, block.extents.size_bytes)
        guard = WriteGuard(device, [*region, *record_runs(block.disk_size_bytes)])
        return Disk(block, controller, Mapped(guard, block.extents))

    async def _prepared(self, disk: Disk, cause: Cause) -> DumpJob:
        """On a thread: a plan of much memory takes its time, and the process must be seen to move meanwhile."""
        made: list[DumpJob] = []
        await self._threads.run_one(lambda: made.append(self._job(disk, cause)))
        return made[0]

    def _job(self, disk: Disk, cause: Cause) -> DumpJob:
        memory = PhysicalMemory(self._handles.memory, [MemoryRange(*row) for row in disk.block.memory_ranges])
        writer = _writer(self._runtime, self._handles.rank)
        return prepare(
            disk.block, memory, BlobArea(self._handles.runtime), disk.region, cause, writer, self._parity_buffers
        )


def must_be_our_disk(device: BlockDevice, block: ControlBlock) -> None:
    """A sanity read: a controller that answers may still answer for another disk, or with other bytes."""
    if device.size_bytes != block.disk_size_bytes:
        raise DeviceError(f"controller: identify: a disk of {device.size_bytes} bytes, not of {block.disk_size_bytes}")
    try:
        is_ours = BootArea(device).is_marked()
    except DeviceError as failure:
        raise DeviceError(f"controller: sanity read: {failure}") from None
    if not is_ours:
        raise DeviceError("controller: sanity read: no boot record where one was written")


def _left_of_budget(block: ControlBlock, spent_ns: int) -> float:
    """Seconds. What was spent so far is of this standby alone: one that takes over has the whole time."""
    return max(0, block.time_budget_ns - spent_ns) / 1e9 if block.time_budget_ns else math.inf


def _cause(runtime: RuntimeFile) -> Cause:
    try:
        kind = CauseKind(runtime[Register.CAUSE_KIND])
    except ValueError:
        kind = CauseKind.NONE
    now_ns = time.time_ns()
    if kind == CauseKind.NONE:
        runtime[Register.CAUSE_KIND] = CauseKind.MACHINE_DIED
        runtime[Register.CRASH_TIME_NS] = now_ns
        runtime.set_text(CAUSE_TEXT, "the mount process died without a bugcheck")
        return Cause(CauseKind.MACHINE_DIED, 0, (0, 0, 0, 0), runtime.text(CAUSE_TEXT), now_ns, runtime.boot_stage)
    time_ns = runtime[Register.CRASH_TIME_NS] or now_ns
    code, text = runtime[Register.BUGCHECK_CODE], runtime.text(CAUSE_TEXT)
    return Cause(kind, code, runtime.parameters(), text, time_ns, runtime.boot_stage)


def _writer(runtime: RuntimeFile, rank: int) -> Writer:
    """Nobody stood before the hibernator."""
    before = range(rank) if rank < len(runtime.standbys) else ()
    return Writer(1 + rank, by_rank({lower: runtime.standby(lower).words for lower in before}))


def _conclude(runtime: RuntimeFile, job: DumpJob, progress: Progress) -> None:
    reason = progress.failure
    if progress.is_out_of_time:
        reason = Reason.TIME_BUDGET
    elif not reason and job.plan.pages_planned < job.plan.pages_wanted:
        reason = Reason.REGION_TOO_SMALL
    runtime.set_outcome(progress.verdict(job.plan), reason)
    runtime.state = MachineState.DUMPED if progress.pages_written else MachineState.FAILED
