"""The controller's registers: 64-bit words in a memfd, so that they outlive the process that drove it last.

Beside the mode they hold what is wrong with the hardware under it: how slow it is, what its cache is like, how long its
power lasts, which sectors are bad. Whoever writes them is the hardware, or a driver that has gone mad; whoever reads
them bounds what is found.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

REGISTERS_SIZE_BYTES = mmap.PAGESIZE
BAD_RUNS_MAX = 64
_BAD_RUNS_WORD = 64  # where their pairs begin: offset and length in bytes


class Register(IntEnum):
    """Words from the start of the memfd."""

    MODE = 0
    RESETS = 1
    COMMANDS = 2
    LATENCY_NS = 3  # how long each command and each order takes
    BUSY_UNTIL_NS = 4  # by CLOCK_MONOTONIC, which all processes share
    CACHE = 5
    POWER = 6
    POWER_LEFT_BYTES = 7  # what may still be written, where the power is about to go
    TRAP_WRITES = 8  # the trap springs at this write command, counted from now; 0 where none is set
    BAD_RUNS = 9


class Cache(IntFlag):
    """The write cache. One that is there lies: it acknowledges a flush, and loses what it holds with the power."""

    PRESENT = 1
    ON = 2
    FIXED = 4  # it cannot be switched off


class Power(IntEnum):
    """What feeds the machine."""

    ON = 0
    ENDING = 1
    LOST = 2


def create_registers() -> int:
    """A descriptor of fresh registers: a controller that is off, with nothing wrong."""
    descriptor = os.memfd_create("ghostdump-controller", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, REGISTERS_SIZE_BYTES)
    return descriptor


class Registers:
    """The words of one controller, as one process maps them."""

    def __init__(self, descriptor: int) -> None:
        self._words = memoryview(mmap.mmap(descriptor, REGISTERS_SIZE_BYTES)).cast("Q")

    def __getitem__(self, register: Register) -> int:
        return int(self._words[register])

    def __setitem__(self, register: Register, value: int) -> None:
        self._words[register] = value

    def bad_runs(self) -> list[Run]:
        """Where the medium is bad, in bytes of the disk."""
        count = min(self[Register.BAD_RUNS], BAD_RUNS_MAX)
        words = self._words[_BAD_RUNS_WORD : _BAD_RUNS_WORD + 2 * count].tolist()
        return [Run(*pair) for pair in zip(words[::2], words[1::2], strict=True)]

    def set_bad_runs(self, runs: Sequence[Run]) -> None:
        """At most `BAD_RUNS_MAX` of them."""
        assert len(runs) <= BAD_RUNS_MAX
        self[Register.BAD_RUNS] = 0
        for number, run in enumerate(runs):
            self._words[_BAD_RUNS_WORD + 2 * number] = run.physical_bytes
            self._words[_BAD_RUNS_WORD + 2 * number + 1] = run.length_bytes
        self[Register.BAD_RUNS] = len(runs)
