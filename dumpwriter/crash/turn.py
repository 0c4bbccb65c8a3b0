"""Whose turn it is: there are several standbys and one disk, and never two writers.

A standby holds a lock for as long as it lives, and another while it drives the disk. The kernel gives both back when
the process ends, however it ends; so nobody has to be asked, or believed, about the others. A holder that stands still
(stopped, or caught in a loop) is ended first, whether somebody needs the disk or only the image.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from typing import TYPE_CHECKING

import trio

from dumpwriter.formats.runtime import StandbyRegister

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.formats.runtime import Lock
    from dumpwriter.runtime import RuntimeFile, StandbyRegisters

POLL_SECONDS = 0.02
BEAT_SECONDS = 0.05
STILL_SECONDS = 3.0
FLOCK = struct.Struct("@hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, pid


def try_lock(runtime: RuntimeFile, lock: Lock) -> bool:
    """Take a lock for this process; False where another has it. One that this process has is simply kept."""
    try:
        fcntl.lockf(runtime.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lock)
    except OSError:
        return False
    return True


def unlock(runtime: RuntimeFile, lock: Lock) -> None:
    fcntl.lockf(runtime.descriptor, fcntl.LOCK_UN, 1, lock)


def holder(runtime: RuntimeFile, lock: Lock) -> int:
    """The process that holds a lock; 0 where none does, or where it is this one."""
    question = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, lock, 1, 0)
    kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(runtime.descriptor, fcntl.F_GETLK, question))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


async def take(runtime: RuntimeFile, lock: Lock) -> bool:
    """Wait until the lock is ours; end whoever holds it and does not move.

    True where one was ended. Time is counted in looks, not by a clock: a host that stood still is no reason.
    """
    pulse, looks_left, was_ended = (-1, -1), 0, False
    while not try_lock(runtime, lock):
        found = _pulse_of_holder(runtime, lock)
        if found != pulse:
            pulse, looks_left = found, int(STILL_SECONDS / POLL_SECONDS)
        elif looks_left:
            looks_left -= 1
        else:
            was_ended |= _end_holder(runtime, lock)
        await trio.sleep(POLL_SECONDS)
    return was_ended


def _pulse_of_holder(runtime: RuntimeFile, lock: Lock) -> tuple[int, int]:
    """Who holds the lock, and how far its pulse has counted."""
    pid = holder(runtime, lock)
    pulses = {writer[StandbyRegister.PID]: writer[StandbyRegister.PULSE] for writer in runtime.writers}
    return pid, pulses.get(pid, 0)


def _end_holder(runtime: RuntimeFile, lock: Lock) -> bool:
    """SIGKILL to who holds the lock: found by the lock, since a pid that was written down may be another's by now."""
    pid = holder(runtime, lock)
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return False
    if pidfd < 0:
        return False
    try:
        if holder(runtime, lock) != pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return True


@contextlib.contextmanager
def moving(own: StandbyRegisters) -> Iterator[None]:
    """Show by the pulse that this process works, whatever its threads wait for."""
    scope = trio.CancelScope()

    async def beat() -> None:
        with scope:
            while True:
                own[StandbyRegister.PULSE] += 1
                await trio.sleep(BEAT_SECONDS)

    trio.lowlevel.spawn_system_task(beat)
    try:
        yield
    finally:
        scope.cancel()
