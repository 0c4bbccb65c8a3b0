"""hibernate: write the machine's memory, and power it off; the next mount goes on. The mount is never asked."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from dumpwriter.cli.progress import progress_bar, watch_standby
from dumpwriter.cli.show import describe_dump, find_machine, print_json
from dumpwriter.commandline import command_line
from dumpwriter.formats.runtime import REASON_TEXT, MachineState, Register
from dumpwriter.machine.status import ARMED, describe_hibernation, machine_is_alive, present_state
from vdisk.errors import MountError

if TYPE_CHECKING:
    import argparse

    from dumpwriter.runtime import RuntimeFile

ANSWER_SECONDS = 60.0  # the clones are loaded and rehearse meanwhile, and the filesystem is closed
POLL_SECONDS = 0.02


def run(arguments: argparse.Namespace) -> int:
    machine = find_machine(arguments.mountpoint)
    state = present_state(machine)
    if state not in ARMED:
        raise MountError(
            f"the machine at {arguments.mountpoint} is {state.name.lower()}, not armed: it has nowhere to write to"
        )
    _ask(machine, arguments.mountpoint)
    watch_standby(machine, "hibernate")
    return _tell(machine, as_json=arguments.json)


def _ask(machine: RuntimeFile, mountpoint: str) -> None:
    """Returns when the machine is on its way to sleep. Raises `MountError` where it refuses, or does not answer."""
    refusals = machine[Register.HIBERNATION_REFUSALS]
    with contextlib.suppress(ProcessLookupError):
        os.kill(machine[Register.MACHINE_PID], signal.SIGPWR)
    deadline = time.monotonic() + ANSWER_SECONDS
    with progress_bar("prepare"):
        while machine_is_alive(machine):
            if machine[Register.HIBERNATION_REFUSALS] != refusals:
                raise MountError(f"the machine does not hibernate: {machine.text(REASON_TEXT)}")
            if time.monotonic() > deadline:
                raise MountError(
                    f"the machine does not answer: {command_line('crash', mountpoint)} still saves its memory"
                )
            time.sleep(POLL_SECONDS)
    if not machine.hibernates:
        raise MountError("the machine ended before it could hibernate: ghostdump status tells how")


def _tell(machine: RuntimeFile, *, as_json: bool) -> int:
    facts = describe_hibernation(machine)
    is_hibernated = machine.state == MachineState.HIBERNATED
    if as_json:
        print_json({"hibernated": is_hibernated} | facts)
    elif is_hibernated:
        print(f"hibernated: {describe_dump(facts)}; the machine is off")
        known = machine.document()
        encrypted = bool(known.get("encrypted"))
        print(f"resume it: {command_line('mount', known.get('image', 'IMAGE'), 'MOUNTPOINT', encrypted=encrypted)}")
    else:
        print(f"not hibernated: {describe_dump(facts)}; the machine was shut down cleanly, its memory is lost")
    return 0 if is_hibernated else 1
