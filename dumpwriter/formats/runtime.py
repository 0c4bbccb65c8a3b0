"""The runtime file: registers and texts in its first page, a JSON document and secondary data behind
it. It lives in memory only, and takes as much of it as was written.

Standbys also meet in locks of the kernel on single bytes of it (`LOCKS`). They are held by a process, not by a
descriptor, and go with it however it ends.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from dumpwriter.formats.region import SECONDARY_SIZE_BYTES_MAX
from vdisk.layout import Layout

MAGIC = 0x52_54_53_4F_48_47  # "GHOSTR", as a number
VERSION = 1
HEAD_SIZE_BYTES = 4096
CAUSE_TEXT = (2048, 256)  # offset and size in bytes; UTF-8, padded with zeros
REASON_TEXT = (2304, 512)
STANDBY_TEXTS = ((2816, 256), (3072, 256), (3328, 256), (3584, 256))  # the last words of each standby, by rank
DOCUMENT_SIZE_BYTES_MAX = 16 << 20

SECONDARY_OFFSET_BYTES = 32 << 20
SECONDARY_COPIES = 2  # of each of SECONDARY_COUNT_MAX places
SECONDARY_HEAD_SIZE_BYTES = 512  # a sealed SecondaryEntry; the content follows
SECONDARY_COPY_SIZE_BYTES = 4096 + SECONDARY_SIZE_BYTES_MAX
SECONDARY_MAGIC = b"GHOSTSE\0"
AT_ONCE = (1 << 64) - 1


class Register(IntEnum):
    """Unsigned 64-bit integers from the start of the file, in this order."""

    MAGIC = 0
    VERSION = 1
    STATE = 2
    MACHINE_PID = 3
    MACHINE_START = 4  # start time of the process in clock ticks, so that a reused pid is not taken for it
    WRITER = 5  # 1 + the rank of the standby that writes, or wrote, the dump; 0 where none did
    CAUSE_KIND = 7
    BUGCHECK_CODE = 8
    BUGCHECK_PARAMETER_1 = 9
    BUGCHECK_PARAMETER_2 = 10
    BUGCHECK_PARAMETER_3 = 11
    BUGCHECK_PARAMETER_4 = 12
    CRASH_TIME_NS = 13
    PAGES_TOTAL = 14
    PAGES_PLANNED = 15
    PAGES_WRITTEN = 16
    BYTES_WRITTEN = 17
    FRAMES_FAILED = 18
    VERDICT = 19  # 0 not yet, else 1 + the index in `Verdict`
    DOCUMENT_LENGTH_BYTES = 20
    STEP_DONE = 21  # progress of the boot: recovery, and what else takes its time
    STEP_TOTAL = 22
    DUMP_NANOSECONDS = 23
    REHEARSALS = 26  # how many the machine was asked for and are over; the outcome of the last is in the reason
    BOOT_STAGE = 27  # `BootStage`; also while nothing can be written to the disk yet
    PAGES_RESIDENT = 28  # from here on: pages of the simulated processes, as the pager counts them
    PAGES_OUT = 29
    PAGE_OUTS = 30
    PAGE_INS = 31
    PAGE_CHECKS = 32
    PAGE_FAILURES = 33
    FAULT = 34  # index in the table of causes: what the command asks the machine to carry out
    FAULT_STATE = 35  # `FaultState`
    FAULT_PERCENT = 36  # how much of the dump is to be written, or `AT_ONCE`
    FAULT_WRITES = 37  # at which write command of the live stack from now; 0 at once
    HIBERNATION_REFUSALS = 38  # how often the machine would not hibernate; why it would not at last is in the reason
    PAGES_WANTED = 39  # pages that the level of the dump asks for


class FaultState(IntEnum):
    """What became of the fault that was asked for."""

    ASKED = 0
    WAITING = 1  # for the write command at which it is to happen
    BEGUN = 2


STANDBY_NAMES = ("first", "second", "small dump's")  # by rank
REGION_RANKS = (0, 1)  # those that write to the region
SMALL_DUMP_RANK = 2  # that which writes to the boot area, as long as the others are not ready
HIBERNATOR_RANK = 3  # it has registers and a text like a standby, and is none
STANDBY_TABLE = 128  # the first register of the first standby
STANDBY_TABLE_STRIDE = 16


class StandbyRegister(IntEnum):
    """Registers of one standby; those of rank r begin at STANDBY_TABLE + r * STANDBY_TABLE_STRIDE."""

    PID = 0
    START = 1  # as MACHINE_START
    PULSE = 2  # counts on while the standby has the disk, so that one that stands still is told from one that works
    REHEARSALS = 3
    RESIDENT_BYTES_ARMED = 4  # memory when it was ready, and when its dump was written
    RESIDENT_BYTES_DUMPED = 5


class Lock(IntEnum):
    """Bytes of the file that are locked.

    The first ones are by rank. Each such process holds its own from before it is ready to its end; who takes over holds
    those of the others too, so that none of them begins any more.
    """

    FIRST_LIVES = 0
    SECOND_LIVES = 1
    SMALL_DUMP_LIVES = 2
    HIBERNATOR_LIVES = 3
    DISK = 4  # held by whoever drives the disk: for a rehearsal, or to write the dump
    SECONDARY = 5  # held by whoever registers secondary data


LIVES = (Lock.FIRST_LIVES, Lock.SECOND_LIVES, Lock.SMALL_DUMP_LIVES, Lock.HIBERNATOR_LIVES)  # by rank


class Call(IntEnum):
    """What the machine adds to the eventfd. Calls add up, and a crash outweighs any number of rehearsals."""

    REHEARSE = 1
    CRASH = 1 << 32


class MachineState(IntEnum):
    """What the machine is doing. The numbers are in the file, the names in lower case are what `status` says."""

    BOOTING = 1
    ARMED = 2
    DISARMED = 3  # it runs, but a crash would leave no dump
    STOPPING = 4
    OFF = 5
    CRASHED = 6  # the bugcheck ran; the standby is on its way
    DUMPING = 7
    DUMPED = 8  # the dump is in the region
    FAILED = 9  # no standby could write a dump
    DEGRADED = 10  # armed, but a part of what that rests on is missing
    HIBERNATING = 11  # shut down cleanly; its memory is being written
    HIBERNATED = 12  # its memory is in the region, and the next mount goes on with it


class SecondaryEntry(NamedTuple):
    """The head of one copy of a blob. Of two whole ones the higher sequence counts."""

    magic: Annotated[bytes, "8s"]
    sequence: Annotated[int, "Q"]
    name: Annotated[bytes, "64s"]  # padded with zeros
    size_bytes: Annotated[int, "Q"]
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the content


SECONDARY_ENTRY = Layout(SecondaryEntry, size_bytes=120)
