"""The process that runs a machine: started fresh by `ghostdump mount`, it says once, in one line of JSON, how it went.

    python -m dumpwriter.machine.daemon '{"image": "/…", "mountpoint": "/…"}' FD      FD: where the line goes

The key of an encrypted volume comes on standard input: it must stand neither in an argument nor in the environment.
The line is `{"facts": {…}}` when the mount is usable, or `{"error": "…", "kind": "…", "exit_code": N}`. SIGTERM, SIGINT
and SIGHUP are the power button: a clean shutdown, or the end of the boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

import trio

from dumpwriter.machine.boot import Boot, MountRequest
from dumpwriter.machine.machine import Machine
from vdisk.errors import GhostdumpError
from vdisk.mount.groups import ungrouped
from vdisk.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold memory and keys in the clear
    for order in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(order, signal.SIG_IGN)  # nobody may end by it who cannot carry it out yet
    request = MountRequest(**json.loads(sys.argv[1]))
    announce_fd = int(sys.argv[2])
    os.set_inheritable(announce_fd, False)
    volume_key = Secret(sys.stdin.buffer.read())

    def announce(facts: dict[str, object]) -> None:
        with os.fdopen(announce_fd, "w") as pipe:
            json.dump({"facts": facts}, pipe)
        _let_go_of_terminal()

    try:
        run_machine(request, volume_key, announce)
    except GhostdumpError as error:
        with contextlib.suppress(OSError), os.fdopen(announce_fd, "w") as pipe:
            json.dump({"error": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}, pipe)
        sys.exit(error.exit_code)


def run_machine(request: MountRequest, volume_key: Secret, announce: Callable[[dict[str, object]], None]) -> None:
    """Run one machine until it is unmounted. Raises `GhostdumpError` where it cannot boot."""
    trio.run(_run, request, volume_key, announce)


async def _run(request: MountRequest, volume_key: Secret, announce: Callable[[dict[str, object]], None]) -> None:
    with ungrouped(), contextlib.ExitStack() as resources, trio.CancelScope() as booting:
        token = trio.lowlevel.current_trio_token()
        stop = trio.Event()
        boot = Boot(request, resources, volume_key)

        def press_power_button(*_: object) -> None:
            boot.panel.press_power_button()
            token.run_sync_soon(booting.cancel)
            token.run_sync_soon(stop.set)

        def on_ready() -> None:
            try:
                announce(boot.panel.facts)
            except BrokenPipeError:  # whoever asked for the mount does not wait for it any more
                press_power_button()

        signal.signal(signal.SIGPWR, signal.SIG_IGN)  # a request to hibernate, which only a machine that runs can take
        signal.signal(signal.SIGUSR1, lambda *_: boot.readiness.rehearse())
        signal.signal(signal.SIGUSR2, lambda *_: boot.crash_as_asked())
        for button in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(button, press_power_button)
        try:
            await boot.run()
        except BaseException:
            boot.give_up()
            raise
        machine = Machine(boot)
        try:
            with trio.CancelScope(shield=True):
                await machine.run(stop, on_ready)
        finally:
            machine.power_off()


def _let_go_of_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    main()
