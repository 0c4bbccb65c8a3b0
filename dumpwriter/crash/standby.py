"""The standby: a process of its own that sleeps until the machine dies, and then writes its memory to the disk.

It is started fresh, not forked, so that nothing of the live machine is in it. It holds descriptors and no path. It
wakes when the machine asks for it (an eventfd) and when the machine's process ends for whatever reason (a pidfd); it
makes sure that the process is gone before it reads memory.

    python -m dumpwriter.crash.standby '{"control_block": 5, "memory": 6, …}'

It says one line of JSON on standard output when it is ready, and nothing after that.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from dumpwriter.crash import controlblock
from dumpwriter.crash.dump import Cause, DumpJob, Progress
from dumpwriter.crash.plan import memory_parts, plan_dump
from dumpwriter.crash.rehearsal import rehearse
from dumpwriter.crash.sandbox import confine
from dumpwriter.crash.writer import WriterThreads, write_dump
from dumpwriter.formats.region import CauseKind, MemoryRangeRecord
from dumpwriter.formats.runtime import CAUSE_TEXT, REASON_TEXT, Call, MachineState, Register
from dumpwriter.memory.physical import MemoryRange, PhysicalMemory
from dumpwriter.metadata import Metadata, encode_metadata
from dumpwriter.runtime import RuntimeFile, process_start
from dumpwriter.sealing import UNSEALED
from dumpwriter.verdict import Reason, Verdict
from vdisk import stack
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, BootArea
from vdisk.controller import Controller, Order
from vdisk.errors import DeviceError, FormatError, GhostdumpError, PowerLost
from vdisk.extent import Run
from vdisk.imagefile import ImageFile
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard

if TYPE_CHECKING:
    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.sealing import Sealer
    from vdisk.blockdevice import BlockDevice

MCL_CURRENT, MCL_FUTURE = 1, 2
FREEZE_SECONDS = 10.0
OPEN_SECONDS = 10.0  # more than all steps by which the port driver takes the controller over
REHEARSAL_SECONDS = 8.0  # less than the machine waits for it


class Handles(NamedTuple):
    """The descriptors that the standby is given; all that it has of the world."""

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


def main() -> None:
    handles = Handles(**json.loads(sys.argv[1]))
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    runtime = RuntimeFile(handles.runtime)
    try:
        trio.run(_stand_by, handles, runtime)
    except BaseException as failure:
        if not _is_power_lost(failure):
            _fail(runtime, f"standby: {_first_of(failure)!r}")
    os._exit(0)  # without teardown: a thread that a stalled disk holds must not hold the process


async def _stand_by(handles: Handles, runtime: RuntimeFile) -> None:
    block = controlblock.unseal(handles.control_block)
    threads = WriterThreads(block.writer_threads)
    image = ImageFile(handles.image)
    clone = stack.load_clone(block.images)
    await threads.run(lambda _: clone.set_aside())
    ready: dict[str, Any] = {
        "start": process_start(os.getpid()),
        "memory_locked": _lock_memory(),
        "modules": [module._asdict() for module in clone.modules],
    }
    null = os.open(os.devnull, os.O_RDWR)
    meter = os.open("/proc/self/statm", os.O_RDONLY)
    _sealer(block)
    ready["confined"] = confine()
    ready["rehearsal"] = await _rehearse(handles, image, threads)
    runtime[Register.RESIDENT_BYTES_ARMED] = _resident_bytes(meter)
    print(json.dumps(ready), flush=True)  # noqa: T201 - the machine reads it
    _let_go_of_output(null)
    await _until_woken(handles, image, runtime, threads)
    if await _freeze(handles, runtime):
        await _dump(handles, image, runtime, threads)
        runtime[Register.RESIDENT_BYTES_DUMPED] = _resident_bytes(meter)


async def _until_woken(handles: Handles, image: ImageFile, runtime: RuntimeFile, threads: WriterThreads) -> None:
    """Sleep until the machine is dead or calls; rehearse as often as it asks for that meanwhile."""
    while True:
        await _first_readable(handles.machine, handles.wake)
        try:
            call = os.eventfd_read(handles.wake)
        except BlockingIOError:
            return  # the machine's process has ended
        if call < Call.CRASH:
            runtime.set_text(REASON_TEXT, await _rehearse(handles, image, threads))
            runtime[Register.REHEARSALS] += 1
        else:
            return


async def _rehearse(handles: Handles, image: ImageFile, threads: WriterThreads) -> str:
    """Why a dump could not be written; empty where it could."""
    try:
        with trio.fail_after(REHEARSAL_SECONDS):
            await threads.run_one(lambda: rehearse(_open_disk(handles, image).region))
    except GhostdumpError as refusal:
        return str(refusal)
    except trio.TooSlowError:
        return f"the disk did not let the clone rehearse within {REHEARSAL_SECONDS:.0f} s"
    return ""


async def _freeze(handles: Handles, runtime: RuntimeFile) -> bool:
    """End the machine's process and wait until it is gone: only then does nobody write to memory or disk."""
    with contextlib.suppress(ProcessLookupError):  # dead, and its remains are gone too
        signal.pidfd_send_signal(handles.machine, signal.SIGKILL)
    with trio.move_on_after(FREEZE_SECONDS):
        await trio.lowlevel.wait_readable(handles.machine)
        return True
    _fail(runtime, "the machine's process did not end; memory was not read")
    return False


async def _dump(handles: Handles, image: ImageFile, runtime: RuntimeFile, threads: WriterThreads) -> None:
    started_ns = time.monotonic_ns()
    cause = _cause(runtime)
    progress = Progress()
    try:
        disk = await _take_disk_over(handles, image, threads)
        job = _job(disk, handles, cause)
    except GhostdumpError as refusal:
        _fail(runtime, str(refusal))
        return
    runtime[Register.PAGES_TOTAL] = job.plan.pages_total
    runtime[Register.PAGES_PLANNED] = job.plan.pages_planned
    runtime.state = MachineState.DUMPING

    def report() -> None:
        runtime[Register.PAGES_WRITTEN] = progress.pages_written
        runtime[Register.BYTES_WRITTEN] = progress.bytes_written
        runtime[Register.FRAMES_FAILED] = progress.frames_failed

    await write_dump(job, threads, progress, report, time.time_ns)
    runtime[Register.DUMP_NANOSECONDS] = time.monotonic_ns() - started_ns
    _conclude(runtime, job, progress)
    disk.controller.order(Order.POWER_OFF)


async def _take_disk_over(handles: Handles, image: ImageFile, threads: WriterThreads) -> Disk:
    """`_open_disk` under a deadline; a thread that the disk then still holds is given up."""
    opened: list[Disk] = []
    try:
        with trio.fail_after(OPEN_SECONDS):
            await threads.run_one(lambda: opened.append(_open_disk(handles, image)))
    except trio.TooSlowError:
        raise DeviceError(f"controller: the disk did not answer within {OPEN_SECONDS:.0f} s") from None
    return opened[0]


def _open_disk(handles: Handles, image: ImageFile) -> Disk:
    """Take the controller over. Raises `FormatError` for a control block that does not hold, `DeviceError`.

    The drivers are made anew from the block that was just checked, not from what has lain in memory.
    """
    block = controlblock.unseal(handles.control_block)
    controller = Controller(handles.registers, image)
    device = stack.load_clone(block.images).attach(controller)
    _must_be_our_disk(device, block)
    boot_area = Run(block.disk_size_bytes - BOOT_AREA_SIZE_BYTES, BOOT_AREA_SIZE_BYTES)
    guard = WriteGuard(device, [*block.extents.runs(0, block.extents.size_bytes), boot_area])
    return Disk(block, controller, Mapped(guard, block.extents))


def _must_be_our_disk(device: BlockDevice, block: ControlBlock) -> None:
    """A sanity read: a controller that answers may still answer for another disk, or with other bytes."""
    if device.size_bytes != block.disk_size_bytes:
        raise DeviceError(f"controller: identify: a disk of {device.size_bytes} bytes, not of {block.disk_size_bytes}")
    try:
        is_ours = BootArea(device).is_marked()
    except DeviceError as failure:
        raise DeviceError(f"controller: sanity read: {failure}") from None
    if not is_ours:
        raise DeviceError("controller: sanity read: no boot record where one was written")


def _job(disk: Disk, handles: Handles, cause: Cause) -> DumpJob:
    block = disk.block
    memory = PhysicalMemory(handles.memory, [MemoryRange(*row) for row in block.memory_ranges])
    ranges = tuple(MemoryRangeRecord(row.physical_bytes, row.length_bytes) for row in block.memory_ranges)
    return DumpJob(
        plan=plan_dump(memory_parts(block.page_classes, memory.runs()), block.extents.size_bytes),
        identity=block.identity,
        extents=block.extents,
        region=disk.region,
        memory=memory,
        metadata=encode_metadata(Metadata(_notes(memory), ranges, block.machine)),
        cause=cause,
        armed_time_ns=block.armed_time_ns,
        sealer=_sealer(block),
    )


def _sealer(block: ControlBlock) -> Sealer:
    """Made once before the sandbox closes, too: what the cipher is made of has to be loaded from files."""
    if block.seal is None:
        return UNSEALED
    from dumpwriter.cipher import GcmSealer

    return GcmSealer(block.seal)


def _notes(memory: PhysicalMemory) -> bytes:
    try:
        return memory.read_notes()
    except FormatError:
        return b""  # the dying machine scribbled on them; the pages are worth the dump without


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
        return Cause(CauseKind.MACHINE_DIED, 0, (0, 0, 0, 0), runtime.text(CAUSE_TEXT), now_ns)
    time_ns = runtime[Register.CRASH_TIME_NS] or now_ns
    return Cause(kind, runtime[Register.BUGCHECK_CODE], runtime.parameters(), runtime.text(CAUSE_TEXT), time_ns)


def _conclude(runtime: RuntimeFile, job: DumpJob, progress: Progress) -> None:
    whole = progress.is_committed and progress.pages_written == job.plan.pages_total
    verdict = Verdict.COMPLETE if whole else Verdict.PARTIAL if progress.pages_written else Verdict.NONE
    reason = progress.failure
    if not reason and job.plan.pages_planned < job.plan.pages_total:
        reason = Reason.REGION_TOO_SMALL
    runtime.set_outcome(verdict, reason)
    runtime.state = MachineState.DUMPED if progress.pages_written else MachineState.FAILED


def _is_power_lost(failure: BaseException) -> bool:
    """Alone, or in a group as a nursery raises it: this process then ends as the machine's did, without a word."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.subgroup(PowerLost) is not None
    return isinstance(failure, PowerLost)


def _first_of(failure: BaseException) -> BaseException:
    """What went wrong first, without the groups that trio puts around it."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _fail(runtime: RuntimeFile, reason: str) -> None:
    runtime.set_outcome(Verdict.NONE, reason)
    runtime.state = MachineState.FAILED


async def _first_readable(*descriptors: int) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(descriptor: int) -> None:
            await trio.lowlevel.wait_readable(descriptor)
            nursery.cancel_scope.cancel()

        for descriptor in descriptors:
            nursery.start_soon(wait, descriptor)


def _resident_bytes(meter: int) -> int:
    """Memory of this process, read from its statm."""
    return int(os.pread(meter, 256, 0).split()[1]) * mmap.PAGESIZE


def _lock_memory() -> bool:
    """Keep every page of this process in memory; False where the user may not lock that much."""
    return bool(ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE) == 0)


def _let_go_of_output(null: int) -> None:
    """Nobody reads what a standby says; a pipe that nobody reads must not be in its way."""
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    main()
