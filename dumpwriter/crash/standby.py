"""The standby: a process of its own that sleeps until the machine dies, and then writes its memory to the disk.

It is started fresh, not forked, so that nothing of the live machine is in it. It holds descriptors and no path. It
wakes when the machine asks for it (an eventfd) and when the machine's process ends for whatever reason (a pidfd); it
makes sure that the process is gone before it reads memory. There are two: the first acts, and the second takes over
where the first ends without a dump, or does not move. Before they are ready there is a third, for a small dump.

    python -m dumpwriter.crash.standby '{"rank": 0, "control_block": 5, "memory": 6, …}'

It says two lines of JSON on standard output, and nothing after that: what it is, once it is loaded; and, once a line on
standard input let it have the disk, what its rehearsal found.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from dumpwriter.crash import controlblock, turn
from dumpwriter.crash.clone import Clone, Handles
from dumpwriter.crash.integrity import LoadedCode
from dumpwriter.crash.sandbox import confine
from dumpwriter.formats.controlblock import CLONE_IMAGE, SectionKind
from dumpwriter.formats.runtime import LIVES, Call, Lock, MachineState, StandbyRegister
from dumpwriter.runtime import RuntimeFile, by_rank, process_start
from dumpwriter.verdict import Verdict
from vdisk.errors import GhostdumpError, PowerLost

if TYPE_CHECKING:
    from dumpwriter.crash.controlblock import PrivateBlock
    from dumpwriter.runtime import StandbyRegisters

MCL_CURRENT, MCL_FUTURE = 1, 2
FREEZE_SECONDS = 10.0
SCRUB_SECONDS = 5.0
STANDARD_INPUT = 0
IGNORED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGPWR,
)


class Standby(NamedTuple):
    """One standby, as it sees itself: its hands, its code, and its part of the runtime file."""

    handles: Handles
    block: PrivateBlock
    clone: Clone
    code: LoadedCode
    runtime: RuntimeFile
    own: StandbyRegisters
    meter: int  # its own statm


def main() -> None:
    handles = Handles(**json.loads(sys.argv[1]))
    for ignored in IGNORED_SIGNALS:
        signal.signal(ignored, signal.SIG_IGN)
    runtime = RuntimeFile(handles.runtime)
    own = runtime.standby(handles.rank)
    try:
        trio.run(_stand_by, handles, runtime)
    except BaseException as failure:
        if not is_power_lost(failure):
            own.words = in_words(first_of(failure))
            if select.select([handles.machine], [], [], 0)[0]:  # else the machine lives, and replaces this process
                _fail(runtime)
    os._exit(0)  # without teardown: a thread that a stalled disk holds must not hold the process


async def _stand_by(handles: Handles, runtime: RuntimeFile) -> None:
    block = controlblock.unseal(handles.control_block)
    standby = Standby(
        handles=handles,
        block=block,
        clone=Clone(handles, block, runtime),
        code=LoadedCode(),
        runtime=runtime,
        own=runtime.standby(handles.rank),
        meter=os.open("/proc/self/statm", os.O_RDONLY),
    )
    if not turn.try_lock(runtime, LIVES[handles.rank]):
        return  # the machine died while this one was started, and another has taken over
    await get_ready(standby)
    try:
        await _until_woken(standby)
    except GhostdumpError as damage:
        standby.own.words = str(damage)  # the machine looks for it, and makes another standby
        return
    if await _freeze(standby) and await _is_our_turn(standby):
        await _dump(standby)
        if _is_dumped(runtime):
            await _end_the_others(standby)


async def get_ready(standby: Standby) -> None:
    """Close the sandbox, say what this process is, and rehearse once the machine stands still for it."""
    null = os.open(os.devnull, os.O_RDWR)
    await standby.clone.set_aside()
    facts = _facts(standby) | {"memory_locked": _lock_memory(), "confined": confine()}
    _say(facts)
    if os.read(STANDARD_INPUT, 1):  # nothing comes where the machine died meanwhile: then there is no time to rehearse
        _say({"rehearsal": await _rehearse(standby)})
    standby.own[StandbyRegister.RESIDENT_BYTES_ARMED] = _resident_bytes(standby.meter)
    _let_go_of_standard_streams(null)


def _facts(standby: Standby) -> dict[str, Any]:
    """What the module table and `status` say of this process: true addresses in its memory."""
    block = standby.block
    images = block.sections_of(SectionKind.CLONE_IMAGE)
    (extents,) = block.sections_of(SectionKind.EXTENTS)
    return {
        "start": process_start(os.getpid()),
        "code_digest": standby.code.own_digest().hex(),
        "modules": [
            module._replace(address=block.address + image.offset_bytes + CLONE_IMAGE.size_bytes)._asdict()
            for module, image in zip(standby.clone.modules, images, strict=True)
        ],
        "control_block": {
            "address": block.address,
            "size_bytes": block.size_bytes,
            "extents": {"address": block.address + extents.offset_bytes, "size_bytes": extents.length_bytes},
        },
    }


async def _until_woken(standby: Standby) -> None:
    """Sleep until the machine is dead or calls; rehearse as often as it asks for that meanwhile.

    Raises `GhostdumpError` where this process must end: it is found damaged, and is looked at every few seconds; or the
    disk holds a thread of its rehearsal.
    """
    while True:
        with trio.move_on_after(SCRUB_SECONDS) as pause:
            await first_readable(standby.handles.machine, standby.handles.wake)
        if pause.cancelled_caught:
            check(standby)
            continue
        try:
            call = os.eventfd_read(standby.handles.wake)
        except BlockingIOError:
            return  # the machine's process has ended
        if call < Call.CRASH:
            standby.own.words = await _rehearse(standby)
            standby.own[StandbyRegister.REHEARSALS] += 1
        else:
            return


def check(standby: Standby) -> None:
    """Raises `GhostdumpError` where this process is not what it was when it got ready."""
    standby.block.check()
    standby.code.check()


async def _rehearse(standby: Standby) -> str:
    """What it found; empty where a dump could be written.

    Where it raises the disk is not given back: a thread of this process may still write, so only its end does that.
    """
    try:
        check(standby)
    except GhostdumpError as damage:
        return str(damage)
    with turn.moving(standby.own):
        await turn.take(standby.runtime, Lock.DISK)
        reason = await standby.clone.rehearse()
    turn.unlock(standby.runtime, Lock.DISK)
    return reason


async def _freeze(standby: Standby) -> bool:
    """End the machine's process and wait until it is gone: only then does nobody write to memory or disk."""
    with contextlib.suppress(ProcessLookupError):  # dead, and its remains are gone too
        signal.pidfd_send_signal(standby.handles.machine, signal.SIGKILL)
    with trio.move_on_after(FREEZE_SECONDS), turn.moving(standby.own):
        await trio.lowlevel.wait_readable(standby.handles.machine)
        return True
    standby.own.words = "the machine's process did not end; memory was not read"
    _fail(standby.runtime)
    return False


async def _is_our_turn(standby: Standby) -> bool:
    """Wait for the disk. False where another standby has dumped: then this one is not needed."""
    runtime = standby.runtime
    with turn.moving(standby.own):
        if standby.handles.rank > 0:
            await _wait_for_end_of_first(runtime)
        if not _is_dumped(runtime):
            await turn.take(runtime, Lock.DISK)
    return not _is_dumped(runtime)


async def _wait_for_end_of_first(runtime: RuntimeFile) -> None:
    """Or until it has dumped; where it has not, it is gone for good, and its last words are kept."""
    first = runtime.standby(0)
    was_ended = await turn.take(runtime, Lock.FIRST_LIVES)
    if not _is_dumped(runtime) and first[StandbyRegister.PID]:
        first.words = first.words or ("stood still and was ended" if was_ended else "ended without a word")


async def _end_the_others(standby: Standby) -> None:
    """Who lives on behind the dump holds the image. One that moves sees the dump and ends; any other is ended."""
    turn.unlock(standby.runtime, Lock.FIRST_LIVES)  # for which they wait; the first is gone, or is this one
    with turn.moving(standby.own):
        for lock in LIVES[1:]:
            await turn.take(standby.runtime, lock)


async def _dump(standby: Standby) -> None:
    runtime, own = standby.runtime, standby.own
    runtime.clear_outcome()
    own.words = ""
    with turn.moving(own):
        try:
            check(standby)
            await standby.clone.dump()
        except GhostdumpError as refusal:
            own.words = str(refusal)
    if not _is_dumped(runtime):
        own.words = own.words or runtime.reason
        _fail(runtime)
    own[StandbyRegister.RESIDENT_BYTES_DUMPED] = _resident_bytes(standby.meter)


def _is_dumped(runtime: RuntimeFile) -> bool:
    return runtime.state == MachineState.DUMPED


def _fail(runtime: RuntimeFile) -> None:
    """Say that there is no dump, and why: the words of every standby that tried."""
    words = {rank: standby.words for rank, standby in enumerate(runtime.standbys)}
    runtime.set_outcome(Verdict.NONE, by_rank(words))
    runtime.state = MachineState.FAILED


def is_power_lost(failure: BaseException) -> bool:
    """Alone, or in a group as a nursery raises it: this process then ends as the machine's did, without a word."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.subgroup(PowerLost) is not None
    return isinstance(failure, PowerLost)


def in_words(failure: BaseException) -> str:
    """What we declared says itself what it is."""
    return str(failure) if isinstance(failure, GhostdumpError) else repr(failure)


def first_of(failure: BaseException) -> BaseException:
    """What went wrong first, without the groups that trio puts around it."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def first_readable(*descriptors: int) -> None:
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


def _say(facts: dict[str, Any]) -> None:
    """A line to the machine, which may be dead by now."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(facts), flush=True)  # noqa: T201 - the machine reads it


def _let_go_of_standard_streams(null: int) -> None:
    """Nobody reads what a standby says; a pipe that nobody reads must not be in its way."""
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    main()
