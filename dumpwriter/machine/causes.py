"""The hostile causes: what can be done to a machine on purpose, and what is left of it. A table, and nothing else.

`ghostdump crash --list` shows it. faults.py carries out what happens inside the machine; what comes from outside, the
command does before.
"""

from __future__ import annotations

from typing import NamedTuple

from dumpwriter.verdict import Verdict
from vdisk.errors import UsageError


class Cause(NamedTuple):
    """One way to die. `instead` names the command that does it where `crash` does not.

    After some the standby's own account is not to be believed, or there is none: `is_told_by_disk`. Some are done to
    the region or to its standbys, and only an armed machine has these: `needs_armed`.
    """

    name: str
    happens: str
    leaves: str
    verdict: Verdict
    is_told_by_disk: bool = False
    needs_armed: bool = False
    instead: str = ""


COMPLETE, PARTIAL, NONE = Verdict.COMPLETE, Verdict.PARTIAL, Verdict.NONE

CAUSES = (
    Cause("bugcheck", "the machine stops itself, with a code, four parameters and a text", "the dump", COMPLETE),
    Cause(
        "null-dereference",
        "the live port driver loses the pointer to its controller, and its next command follows it",
        "a bugcheck 0x7E that names the driver and its line, and the dump",
        COMPLETE,
    ),
    Cause(
        "deadlock",
        "the live stack takes a lock that it holds; the machine stands, and the watchdog ends it after 2 seconds",
        "the dump; the cause is the watchdog",
        COMPLETE,
    ),
    Cause(
        "stack-smash",
        "the stack of the mount process is overwritten; it ends by SIGSEGV at the next return",
        "the dump, without registers",
        COMPLETE,
    ),
    Cause(
        "oom-kill",
        "the mount process allocates until the kernel kills it, in a memory cgroup of its own; where none can be made, "
        "until its address space is at its limit, and the signal is its own",
        "the dump, without registers",
        COMPLETE,
    ),
    Cause("kill", "the mount process gets SIGKILL (kill -9)", "the dump, without registers", COMPLETE),
    Cause(
        "corrupted-clone",
        "the code of the first standby's port driver is written over in its memory, then a bugcheck",
        "the dump: the digest does not hold, and the second standby writes it",
        COMPLETE,
        needs_armed=True,
    ),
    Cause(
        "corrupted-extents",
        "the same, to the extents that the first standby would write to",
        "the dump, by the second standby",
        COMPLETE,
        needs_armed=True,
    ),
    Cause(
        "corrupted-control-block",
        "the same, in the middle of the first standby's control block",
        "the dump, by the second standby",
        COMPLETE,
        needs_armed=True,
    ),
    Cause(
        "corrupted-clones",
        "the same, to the code of both standbys",
        "no dump, and no write; the reason is the digest",
        NONE,
        needs_armed=True,
    ),
    Cause(
        "controller-busy",
        "a command of the live stack never ends; the machine stands, and the watchdog ends it after 2 seconds",
        "the dump: the clone gives the command half a second, then resets the controller",
        COMPLETE,
    ),
    Cause(
        "controller-wrong-mode",
        "the live stack leaves the controller in its legacy mode, in which it refuses commands",
        "the dump: the clone resets the controller",
        COMPLETE,
    ),
    Cause(
        "controller-garbage",
        "the mode register of the controller holds a number that no mode has",
        "the dump: the clone resets the controller",
        COMPLETE,
    ),
    Cause(
        "controller-wedged",
        "the controller is deaf to a reset",
        "the dump: the clone switches the controller off and on",
        COMPLETE,
    ),
    Cause("controller-slow", "every command takes 20 ms, one after the other", "the dump, later", COMPLETE),
    Cause("controller-dead", "nothing wakes the controller", "no dump; the reason names the step that failed", NONE),
    Cause(
        "lying-flush",
        "the disk gets a write cache that acknowledges a flush and does nothing",
        "the dump: the clone switches the cache off",
        COMPLETE,
    ),
    Cause(
        "stubborn-cache",
        "the same, and the cache cannot be switched off",
        "the part of the dump that reads back after a reset: the clone proves its flush, and says what was lost",
        PARTIAL,
        is_told_by_disk=True,
    ),
    Cause(
        "bad-sectors",
        "three sectors of the region go bad",
        "the dump: the three frames that they are in are written further on",
        COMPLETE,
        needs_armed=True,
    ),
    Cause(
        "power-cut",
        "the power goes, for the machine and its standby at once; with --at PERCENT, when so much of the dump is "
        "written, in the middle of a write",
        "no dump; with --at, the frames that were written",
        NONE,
        is_told_by_disk=True,
    ),
    Cause(
        "boot-stage",
        "the machine crashes while it boots",
        "what that stage can leave",
        NONE,
        instead="ghostdump mount --crash-at STAGE",
    ),
)
DEFAULT = CAUSES[0]


def find(name: str) -> Cause:
    """Raises `UsageError` for a name that is not in the table, and for one that another command carries out."""
    found = next((cause for cause in CAUSES if cause.name == name), None)
    if found is None:
        raise UsageError(f"{name!r} is no cause: ghostdump crash --list names them")
    if found.instead:
        raise UsageError(f"{name} is for another command: {found.instead}")
    return found
