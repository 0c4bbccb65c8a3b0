"""register and unregister: secondary data of a running machine. The mount is never asked for anything."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dumpwriter.blobarea import SHARED_SIZE_BYTES_MAX, BlobArea
from dumpwriter.cli.show import find_machine
from dumpwriter.machine.status import machine_is_alive, present_state
from dumpwriter.secondary import check_name
from dumpwriter.sizes import format_size
from vdisk.errors import MountError, UsageError

if TYPE_CHECKING:
    import argparse

STANDARD_INPUT = "-"


def register(arguments: argparse.Namespace) -> int:
    check_name(arguments.name)
    area = _area(arguments.mountpoint)
    content = _read(arguments.file)
    area.register(arguments.name, content)
    print(f"{arguments.name}: {format_size(len(content))} go into the next dump of {arguments.mountpoint}")
    return 0


def unregister(arguments: argparse.Namespace) -> int:
    _area(arguments.mountpoint).unregister(arguments.name)
    return 0


def _area(mountpoint: str) -> BlobArea:
    machine = find_machine(mountpoint)
    if not machine_is_alive(machine):
        state = present_state(machine).name.lower()
        raise MountError(f"the machine at {mountpoint} does not run ({state}): mount it first")
    return BlobArea(machine.descriptor)


def _read(path: str) -> bytes:
    """No more than what is too much already: a file may be as endless as /dev/zero."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read(SHARED_SIZE_BYTES_MAX + 1)
    try:
        with open(path, "rb") as file:
            return file.read(SHARED_SIZE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
