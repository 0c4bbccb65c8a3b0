"""crash: stop the machine, and watch the clone write its dump. The mount is never asked for anything."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from dumpwriter.cli.progress import watch_standby
from dumpwriter.cli.show import describe_dump, find_machine, print_json
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import STANDBY_NAMES, Register
from dumpwriter.machine.status import ARMED, RUNNING, machine_is_alive, present_state, standby_is_alive
from dumpwriter.machine.status import describe_dump as dump_facts
from dumpwriter.runtime import by_rank
from dumpwriter.verdict import Verdict
from vdisk.errors import MountError, UsageError
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    import argparse

    from dumpwriter.runtime import RuntimeFile

ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.02
REHEARSAL_SECONDS = 15.0


def run(arguments: argparse.Namespace) -> int:
    if len(arguments.parameter) > 4:
        raise UsageError("a bugcheck has four parameters, not more")
    mountpoint = mountinfo.resolve(arguments.mountpoint)
    machine = find_machine(mountpoint)
    if not machine_is_alive(machine):
        state = present_state(machine).name.lower()
        raise MountError(f"the machine at {arguments.mountpoint} does not run ({state}): mount it first")
    first, second, third, fourth = (*arguments.parameter, 0, 0, 0, 0)[:4]
    was_armed = machine.state in ARMED
    machine.set_cause(CauseKind.WATCHDOG, arguments.bugcheck, (first, second, third, fourth), arguments.text)
    stop_machine(machine)
    if was_armed:
        watch_dump(machine)
    mountinfo.clear(mountpoint)  # the dead process took its mount along; what is left of it is detached
    return _tell(machine, as_json=arguments.json, was_armed=was_armed)


def rehearse(arguments: argparse.Namespace) -> int:
    """Let the clones of a running machine show that they could write a dump."""
    machine = find_machine(arguments.mountpoint)
    if present_state(machine) not in ARMED:
        raise MountError(f"the machine at {arguments.mountpoint} is {present_state(machine).name.lower()}, not armed")
    before = machine[Register.REHEARSALS]
    os.kill(machine[Register.MACHINE_PID], signal.SIGUSR1)
    deadline = time.monotonic() + REHEARSAL_SECONDS
    while machine[Register.REHEARSALS] == before:
        if time.monotonic() > deadline:
            raise MountError("the clones did not finish their rehearsal in time: a crash now might leave no dump")
        time.sleep(POLL_SECONDS)
    reason = machine.reason
    if arguments.json:
        print_json({"passed": not reason, "reason": reason})
    else:
        print(f"rehearsal failed: {reason}" if reason else "rehearsal passed: each clone wrote, read back and restored")
    return 1 if reason else 0


def stop_machine(machine: RuntimeFile) -> None:
    """Ask for a bugcheck; end the process where it does not answer, as a watchdog would."""
    try:
        pidfd = os.pidfd_open(machine[Register.MACHINE_PID])
    except ProcessLookupError:
        return
    try:
        if not machine_is_alive(machine):
            return
        _send(pidfd, signal.SIGUSR2)
        deadline = time.monotonic() + ANSWER_SECONDS
        while machine.state in RUNNING and time.monotonic() < deadline:
            if select.select([pidfd], [], [], POLL_SECONDS)[0]:
                return
        if machine.state in RUNNING or not standby_is_alive(machine):
            _send(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], ANSWER_SECONDS)
    finally:
        os.close(pidfd)


def _send(pidfd: int, order: signal.Signals) -> None:
    """To a machine that may have ended, and been reaped, since it was looked at."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, order)


def watch_dump(machine: RuntimeFile) -> None:
    """Wait for the end of the standby, with its progress. An interrupt ends the watching, not the dump."""
    try:
        watch_standby(machine, "dump")
    except KeyboardInterrupt:
        raise MountError("no longer watching; the standby goes on writing (ghostdump status tells how far)") from None


def _tell(machine: RuntimeFile, *, as_json: bool, was_armed: bool) -> int:
    facts = dump_facts(machine)
    if not was_armed:
        facts |= {"verdict": Verdict.NONE, "reason": "the machine was not armed"}
    if as_json:
        print_json(facts)
    else:
        print(f"bugcheck {machine[Register.BUGCHECK_CODE]:#x}; the machine is off")
        print(f"dump: {describe_dump(facts)}")
        if facts["standby"]:
            print(f"the {STANDBY_NAMES[facts['standby']]} standby wrote it; {by_rank(_words(machine))}")
        if facts["verdict"] != Verdict.NONE:
            image = machine.document().get("image", "IMAGE")
            print(f"take it out: ghostdump mount {image} MOUNTPOINT, or ghostdump recover {image} --output DIR")
    return 0 if facts["verdict"] == Verdict.COMPLETE else 1


def _words(machine: RuntimeFile) -> dict[int, str]:
    return {rank: standby.words for rank, standby in enumerate(machine.standbys)}
