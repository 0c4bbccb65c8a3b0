"""mount and unmount: start the process that runs the machine, and end it cleanly."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from dumpwriter import runtime
from dumpwriter.cli.keys import volume_key
from dumpwriter.cli.progress import progress_bar, watch_standby
from dumpwriter.cli.show import (
    TOLD_ENDS,
    describe_cause,
    describe_dump,
    describe_last_run,
    describe_recovery,
    describe_resume,
    print_json,
)
from dumpwriter.commandline import command_line
from dumpwriter.formats.runtime import CAUSE_TEXT, MachineState, Register
from dumpwriter.levels import leaves_out_pages, parse_level
from dumpwriter.machine.status import describe, machine_is_alive, standby_is_alive
from dumpwriter.recovery.report import is_of_dump, together
from dumpwriter.sizes import format_count, format_size
from dumpwriter.verdict import Verdict
from vdisk.errors import GhostdumpError, ImageInUseError, MountError
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    import argparse

    from dumpwriter.runtime import RuntimeFile
    from vdisk.secret import Secret

POLL_SECONDS = 0.05
END_SECONDS = 60.0
CLEAN_ENDS = (MachineState.OFF, MachineState.HIBERNATING, MachineState.HIBERNATED)  # somebody else may have asked first


def run(arguments: argparse.Namespace) -> int:
    mountpoint = mountinfo.resolve(arguments.mountpoint)
    mountinfo.clear(mountpoint)
    wait_for_standby(os.path.realpath(arguments.image))
    request = {
        "image": os.path.realpath(arguments.image),
        "mountpoint": mountpoint,
        "memory_image": os.path.abspath(arguments.memory_image) if arguments.memory_image else None,
        "allow_other": arguments.allow_other,
        "discard_dump": arguments.discard_dump,
        "keep": arguments.keep,
        "min_free_bytes": arguments.min_free,
        "level": arguments.levels,
        "time_budget_ns": int(arguments.deadline * 1e9),
        "parity_percent": arguments.parity,
        "crash_at": arguments.crash_at,
        "dump_key": os.path.abspath(arguments.dump_key) if arguments.dump_key else None,
    }
    process, announcement = start_machine(request, volume_key(arguments), in_background=not arguments.foreground)
    try:
        facts = _wait_until_up(process, announcement, mountpoint, arguments.image)
        if arguments.foreground:
            _end_together(process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    _tell(facts, mountpoint, as_json=arguments.json)
    return _stay(process) if arguments.foreground else 0


def start_machine(request: dict[str, Any], key: Secret, *, in_background: bool) -> tuple[subprocess.Popen[bytes], int]:
    """The machine's process, and a pipe on which it says how its boot went. Its key goes through its standard input."""
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "dumpwriter.machine.daemon", json.dumps(request), str(theirs)],
            pass_fds=[theirs],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=in_background,
        )
    finally:
        os.close(theirs)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # what ended it is told on the other pipe
        process.stdin.write(key)
    return process, ours


def wait_for_standby(image: str) -> None:
    """A machine that just crashed may still be writing its dump: the next boot waits for it."""
    for machine in runtime.all_machines():
        if machine.document().get("image") != image or machine_is_alive(machine):
            machine.close()
            continue
        if standby_is_alive(machine):
            watch_standby(machine, "the standby is still writing")
        machine.close()


def _error_of(answer: dict[str, Any], image: str) -> GhostdumpError:
    """The machine's error, as it would have been raised here."""
    if answer["kind"] == ImageInUseError.__name__:
        return ImageInUseError(image)
    error = GhostdumpError(answer["error"])
    error.exit_code = answer["exit_code"]
    return error


def _wait_until_up(process: subprocess.Popen[bytes], announcement: int, mountpoint: str, image: str) -> dict[str, Any]:
    with os.fdopen(announcement, "rb") as pipe, progress_bar("boot") as show:
        while not select.select([pipe], [], [], POLL_SECONDS)[0]:
            machine = runtime.find(mountpoint)
            if machine is not None:
                show(machine[Register.STEP_DONE], machine[Register.STEP_TOTAL])
                machine.close()
        said = pipe.read()
    if not said:
        raise MountError(_how_it_crashed(mountpoint, process.wait()))
    answer: dict[str, Any] = json.loads(said)
    if "error" in answer:
        process.wait()
        raise _error_of(answer, image)
    facts: dict[str, Any] = answer["facts"]
    return facts


def _how_it_crashed(mountpoint: str, exit_code: int) -> str:
    """What became of a machine that ended without a word to us, once its standby has written what it could."""
    machine = runtime.find(mountpoint)
    if machine is None:
        return f"the machine ended before it was up ({_how_it_ended(exit_code)})"
    watch_standby(machine, "dump")
    mountinfo.clear(mountpoint)
    crash = describe(machine)["crash"]
    cause = describe_cause(crash) or _how_it_ended(exit_code)
    end = f"the machine crashed at boot stage {machine.boot_stage.label} ({cause})"
    if crash["verdict"] == Verdict.NONE:
        return f"{end} and left no dump: {crash['reason']}"
    return f"{end}; dump: {describe_dump(crash)}; the next mount takes it out"


def _how_it_ended(exit_code: int) -> str:
    """As subprocess counts: a signal is negative."""
    return f"{signal.strsignal(-exit_code)}: signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _end_together(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C reaches the machine too, and a signal to this process alone is passed on: it shuts down, once."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: process.terminate())


def _stay(process: subprocess.Popen[bytes]) -> int:
    print("mounted until Ctrl-C", file=sys.stderr)  # standard output may be one JSON document
    return process.wait()


def _tell(facts: dict[str, Any], mountpoint: str, *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    if facts["resume"]:
        print(describe_resume(facts))
    last = "last memory" if facts["resume"] else "last crash"
    for report in together(facts["last_recovery"]) if facts.get("last_recovery") else []:
        if is_of_dump(report):
            print(f"{last}: {describe_recovery(report | {'path': _shown_path(report, mountpoint)})}")
    if facts["last_run"]["end"] in TOLD_ENDS:
        print(f"last run: {describe_last_run(facts['last_run'])}")
    region = facts.get("region")
    if facts["state"] == MachineState.ARMED.name.lower() and region:
        print(
            f"{mountpoint}: mounted, armed: a dump of {_shown_extent(facts)} goes to "
            f"{region['path']}, {format_count(len(region['extents']), 'extent')}"
        )
        if facts.get("warning"):
            print(f"warning: {facts['warning']}")
    else:
        print(f"{mountpoint}: mounted, but NOT armed: {facts.get('reason')}")


def _shown_extent(facts: dict[str, Any]) -> str:
    """How much of memory a dump is to hold: all of it, or what the level asks for."""
    if leaves_out_pages(parse_level(facts["level"])):
        return f"level {facts['level']}"
    return format_size(facts["memory_bytes"])


def _shown_path(recovery: dict[str, Any], mountpoint: str) -> str | None:
    return mountpoint + recovery["path"] if recovery.get("path") else None


def unmount(arguments: argparse.Namespace) -> int:
    mountpoint = mountinfo.resolve(arguments.mountpoint)
    machine = runtime.find(mountpoint)
    if machine is None or not machine_is_alive(machine):
        return _clear_remains(mountpoint, machine)
    complaint = mountinfo.unmount(mountpoint)
    if complaint and machine_is_alive(machine) and mountinfo.find(mountpoint):
        raise MountError(f"cannot unmount {mountpoint}: a program still uses it ({complaint})")
    _wait_until_off(machine)
    _tell_what_stays(machine)
    return 0


def _tell_what_stays(machine: RuntimeFile) -> None:
    facts = machine.document()
    if facts.get("untaken"):
        recover = command_line("recover", facts["image"], "--output", "DIR", encrypted=facts["encrypted"])
        print(f"unmounted; a dump stays in the region: {recover}")


def _clear_remains(mountpoint: str, machine: RuntimeFile | None) -> int:
    mountinfo.clear(mountpoint)
    if machine is None:
        raise MountError(f"nothing of ours is mounted at {mountpoint}")
    if standby_is_alive(machine):
        raise MountError("the machine has crashed and the standby is still writing; wait for it with ghostdump mount")
    machine.remove()
    return 0


def _wait_until_off(machine: RuntimeFile) -> None:
    deadline = time.monotonic() + END_SECONDS
    with progress_bar("shutdown"):
        while machine_is_alive(machine):
            if time.monotonic() > deadline:
                raise MountError(f"unmounted, but process {machine[Register.MACHINE_PID]} does not end: kill it")
            time.sleep(POLL_SECONDS)
    if machine.state not in CLEAN_ENDS:
        why = machine.text(CAUSE_TEXT)
        raise MountError(
            f"unmounted, but the shutdown was not clean{f' ({why})' if why else ''}: "
            "the next mount checks the filesystem and recovers"
        )
