"""crash: stop the machine, and watch the clone write its dump. The mount is never asked for anything."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.cli.progress import progress_bar, watch_standby
from dumpwriter.cli.show import describe_dump, find_machine, print_json
from dumpwriter.commandline import command_line
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import AT_ONCE, CAUSE_TEXT, STANDBY_NAMES, FaultState, MachineState, Register
from dumpwriter.machine import causes
from dumpwriter.machine.corruption import CORRUPTIONS, corrupt
from dumpwriter.machine.memorylimit import limited
from dumpwriter.machine.status import ARMED, RUNNING, machine_is_alive, present_state, standby_is_alive
from dumpwriter.machine.status import describe_dump as dump_facts
from dumpwriter.machine.trigger import MANUAL_BUGCHECK, MANUAL_TEXT
from dumpwriter.printable import printable
from dumpwriter.recovery.offline import verify_image
from dumpwriter.recovery.report import describe_nothing, together
from dumpwriter.runtime import by_rank
from dumpwriter.verdict import Reason, Verdict
from vdisk.errors import MountError, UsageError
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from dumpwriter.machine.causes import Cause
    from dumpwriter.runtime import RuntimeFile

POWER_CUT = "power-cut"
WRITES_MAX = 1 << 32
ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.02
SPARE_SECONDS = 5.0


class Order(NamedTuple):
    """What is to happen to the machine: a cause, when, and the words of a bugcheck."""

    cause: Cause
    percent: int | None
    writes: int
    code: int
    parameters: tuple[int, int, int, int]
    text: str


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(as_json=arguments.json)
    order = _order(arguments)
    mountpoint = mountinfo.resolve(arguments.mountpoint)
    machine = find_machine(mountpoint)
    if not machine_is_alive(machine):
        state = present_state(machine).name.lower()
        raise MountError(f"the machine at {arguments.mountpoint} does not run ({state}): mount it first")
    _refuse_what_has_no_target(machine, order)
    was_armed = standby_is_alive(machine)
    with _attacked(machine, order.cause) as outcome:
        stop_machine(machine, order)
        watch_dump(machine)
        done = outcome()
    mountinfo.clear(mountpoint)  # the dead process took its mount along; what is left of it is detached
    facts = {"cause": order.cause.name, "done": done} | _dump_facts(machine, order.cause, was_armed=was_armed)
    return _tell(machine, facts, as_json=arguments.json)


def _order(arguments: argparse.Namespace) -> Order:
    """Raises `UsageError` where the options do not go together."""
    cause = causes.find(arguments.cause)
    if arguments.mountpoint is None:
        raise UsageError("crash needs a MOUNTPOINT, or --list (ghostdump crash --help)")
    if len(arguments.parameter) > 4:
        raise UsageError("a bugcheck has four parameters, not more")
    if cause != causes.DEFAULT and (arguments.bugcheck, arguments.parameter, arguments.text) != (None, [], None):
        raise UsageError(f"--bugcheck, --parameter and --text are for a bugcheck, not for {cause.name}")
    if cause.name != POWER_CUT and arguments.at is not None:
        raise UsageError(f"--at says how much of the dump {POWER_CUT} leaves, and is not for {cause.name}")
    if (arguments.write or 0) > WRITES_MAX:
        raise UsageError(f"--write counts to {WRITES_MAX} at most")
    first, second, third, fourth = (*arguments.parameter, 0, 0, 0, 0)[:4]
    return Order(
        cause=cause,
        percent=arguments.at,
        writes=arguments.write or 0,
        code=MANUAL_BUGCHECK if arguments.bugcheck is None else arguments.bugcheck,
        parameters=(first, second, third, fourth),
        text=MANUAL_TEXT if arguments.text is None else arguments.text,
    )


def _refuse_what_has_no_target(machine: RuntimeFile, order: Order) -> None:
    """Raises `MountError` where nothing would happen but a bugcheck of that name."""
    state = present_state(machine)
    if state not in ARMED and (order.cause.needs_armed or order.percent is not None):
        what = order.cause.name if order.percent is None else f"{order.cause.name} --at"
        raise MountError(
            f"{what} is done to the region or its standbys, and the machine is {state.name.lower()}, not armed: "
            "name another cause"
        )


@contextlib.contextmanager
def _attacked(machine: RuntimeFile, cause: Cause) -> Iterator[Callable[[], str]]:
    """Do what comes from outside the machine; the function tells afterwards what it came to."""
    if cause.name == "oom-kill":
        with limited(machine[Register.MACHINE_PID]) as limit:
            yield limit.outcome
    elif cause.name in CORRUPTIONS:
        done = corrupt(machine, CORRUPTIONS[cause.name])
        yield lambda: done
    else:
        yield lambda: ""


def rehearse(arguments: argparse.Namespace) -> int:
    """Let the clones of a running machine show that they could write a dump."""
    from dumpwriter.machine.standbys import REHEARSALS_SECONDS  # not for those who crash a machine: it takes a while

    machine = find_machine(arguments.mountpoint)
    if present_state(machine) not in ARMED:
        raise MountError(f"the machine at {arguments.mountpoint} is {present_state(machine).name.lower()}, not armed")
    before = machine[Register.REHEARSALS]
    os.kill(machine[Register.MACHINE_PID], signal.SIGUSR1)
    deadline = time.monotonic() + REHEARSALS_SECONDS + SPARE_SECONDS
    while machine[Register.REHEARSALS] == before:
        if not machine_is_alive(machine):
            raise MountError("the machine ended before its clones had rehearsed: ghostdump status tells how")
        if time.monotonic() > deadline:
            raise MountError("the clones did not finish their rehearsal in time: a crash now might leave no dump")
        time.sleep(POLL_SECONDS)
    reason = machine.reason
    if arguments.json:
        print_json({"passed": not reason, "reason": reason})
    else:
        print(f"rehearsal failed: {reason}" if reason else "rehearsal passed: each clone wrote, read back and restored")
    return 1 if reason else 0


def stop_machine(machine: RuntimeFile, order: Order) -> None:
    """Ask the machine to carry out its end; kill the process where it does not answer, as a watchdog would."""
    try:
        pidfd = os.pidfd_open(machine[Register.MACHINE_PID])
    except ProcessLookupError:
        return
    try:
        if not machine_is_alive(machine):
            return
        _ask(machine, order)
        if not order.writes:
            _send(pidfd, signal.SIGUSR2)
        elif not _send_and_wait_for_the_write(machine, pidfd):
            return
        deadline = time.monotonic() + ANSWER_SECONDS
        while machine.state in RUNNING and time.monotonic() < deadline:
            if select.select([pidfd], [], [], POLL_SECONDS)[0]:
                return
        if machine.state in RUNNING:
            text = f"{order.cause.name}: the machine did not answer" if order.cause != causes.DEFAULT else order.text
            machine.set_cause(CauseKind.WATCHDOG, order.code, order.parameters, text)
        if machine.state in RUNNING or not standby_is_alive(machine):
            _send(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], ANSWER_SECONDS)
    finally:
        os.close(pidfd)


def _ask(machine: RuntimeFile, order: Order) -> None:
    """Say in the runtime file what is to happen."""
    machine.set_cause(CauseKind.NONE, order.code, order.parameters, order.text)
    machine[Register.FAULT] = causes.CAUSES.index(order.cause)
    machine[Register.FAULT_PERCENT] = AT_ONCE if order.percent is None else order.percent
    machine[Register.FAULT_WRITES] = order.writes
    machine[Register.FAULT_STATE] = FaultState.ASKED


def _send_and_wait_for_the_write(machine: RuntimeFile, pidfd: int) -> bool:
    """Wait until the machine comes to the write command; False where it ended, True where it has, or does not answer.

    Raises `MountError` where it was shut down before. An interrupt ends the waiting, and what was asked for stays.
    """
    try:
        with progress_bar("until it comes to that write"):
            _send(pidfd, signal.SIGUSR2)
            return _come_to_the_write(machine, pidfd)
    except KeyboardInterrupt:
        raise MountError("no longer waiting; the machine still crashes when it comes to that write") from None


def _come_to_the_write(machine: RuntimeFile, pidfd: int) -> bool:
    deadline = time.monotonic() + ANSWER_SECONDS
    while machine[Register.FAULT_STATE] != FaultState.BEGUN:
        if select.select([pidfd], [], [], POLL_SECONDS)[0]:
            if machine.state == MachineState.OFF:
                raise MountError("the machine was shut down before it came to that write")
            return False
        if machine[Register.FAULT_STATE] == FaultState.ASKED and time.monotonic() > deadline:
            break
    return True


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


def _dump_facts(machine: RuntimeFile, cause: Cause, *, was_armed: bool) -> dict[str, Any]:
    """The standby's account; what is on the disk, where it gave none or could not know."""
    facts = dump_facts(machine)
    if not was_armed and machine.verdict() is None:
        return facts | {"verdict": Verdict.NONE, "reason": "the machine was not armed"}
    if not cause.is_told_by_disk or facts["verdict"] == Verdict.COMPLETE:
        return facts
    known = machine.document()
    if known["encrypted"]:  # we have no key; whoever has one can look
        verify = command_line("verify", known["image"], encrypted=True)
        return facts | {"reason": f"{facts['reason']}; {verify} tells more"}
    with progress_bar("verify") as show:
        reports = together(verify_image(known["image"], show))
    # What waits there of an earlier crash is not to be told as this one's.
    ours = (report for report in reports if report.get("dump_id") == known.get("dump_id"))
    found = next(ours, describe_nothing(Reason.NO_DUMP))
    told = {name: found[name] for name in ("verdict", "reason", "pages_total", "pages_wanted", "pages_present")}
    return facts | told | ({"reason": facts["reason"]} if machine.verdict() else {})


def _tell(machine: RuntimeFile, facts: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json(facts)
    else:
        print(f"{printable(_ending(machine, facts['cause']))}; the machine is off")
        if facts["done"]:
            print(f"{facts['cause']}: {facts['done']}")
        print(f"dump: {describe_dump(facts)}")
        if facts["standby"]:
            words = by_rank(_words(machine))
            print(f"the {STANDBY_NAMES[facts['standby']]} standby wrote it" + (f"; {words}" if words else ""))
        if facts["verdict"] != Verdict.NONE:
            known = machine.document()
            image, encrypted = known.get("image", "IMAGE"), bool(known.get("encrypted"))
            mount = command_line("mount", image, "MOUNTPOINT", encrypted=encrypted)
            recover = command_line("recover", image, "--output", "DIR", encrypted=encrypted)
            print(f"take it out: {mount}, or {recover}")
    return 0 if facts["verdict"] == Verdict.COMPLETE else 1


def _words(machine: RuntimeFile) -> dict[int, str]:
    return {rank: standby.words for rank, standby in enumerate(machine.standbys)}


def _ending(machine: RuntimeFile, cause: str) -> str:
    """How the machine ended, as far as it could say."""
    kind, code, text = machine[Register.CAUSE_KIND], machine[Register.BUGCHECK_CODE], machine.text(CAUSE_TEXT)
    if cause == causes.DEFAULT.name:
        return f"bugcheck {code:#x}"
    if cause == POWER_CUT and kind != CauseKind.BUGCHECK:
        return "the power went"
    if kind == CauseKind.BUGCHECK:
        return f"bugcheck {code:#x}: {text}"
    return text if kind != CauseKind.NONE else "the mount process ended"


def _list(*, as_json: bool) -> int:
    if as_json:
        print_json([cause._asdict() for cause in causes.CAUSES])
        return 0
    for cause in causes.CAUSES:
        print(f"{cause.name}{f' ({cause.instead})' if cause.instead else ''}")
        print(f"  what happens   {cause.happens}")
        print(f"  what is left   {cause.leaves}")
    return 0
