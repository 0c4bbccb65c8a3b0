"""What a failure means to the user of the command line: who holds the image, and where to go from here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dumpwriter import runtime
from dumpwriter.commandline import command_line
from dumpwriter.machine.status import living_standby, machine_is_alive
from vdisk.errors import ImageInUseError

if TYPE_CHECKING:
    from vdisk.errors import GhostdumpError


def explain(error: GhostdumpError) -> str:
    """The message, with what only the command line can know."""
    if isinstance(error, ImageInUseError):
        return f"{error}: {_holder(error.path)}"
    return str(error)


def _holder(path: str) -> str:
    image = os.path.realpath(path)
    for machine in runtime.all_machines():
        facts = machine.document()
        if facts.get("image") != image:
            continue
        if machine_is_alive(machine):
            return f"mounted at {facts['mountpoint']}; {command_line('unmount', facts['mountpoint'])}"
        if pid := living_standby(machine):
            return f"the standby (process {pid}) is still writing its dump; wait for its end"
    return "end that first"
