"""device: an image as one file, through its driver stack, for those who know disks and not our drivers."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from dumpwriter.cli.keys import volume_key
from dumpwriter.recovery.offlinedisk import opened_device
from dumpwriter.recovery.recognition import refuse_dumps
from vdisk.errors import MountError, naming
from vdisk.imagefile import open_locked
from vdisk.mount.export import exported

if TYPE_CHECKING:
    import argparse

    from vdisk.blockdevice import BlockDevice


def run(arguments: argparse.Namespace) -> int:
    key = volume_key(arguments)
    with naming(arguments.image), opened_device(open_locked(arguments.image), key) as device:
        refuse_dumps(arguments.image, device)
        return trio.run(_show, device, arguments.run)


async def _show(device: BlockDevice, command: list[str] | None) -> int:
    failures: list[Exception] = []
    async with exported(device, lambda _, failure: failures.append(failure)) as path:
        if command:
            code = await _run_on(path, command)
        else:
            print(f"{path}: the disk, until Ctrl-C", flush=True)
            code = await _until_interrupted()
    device.flush()
    if failures:
        raise MountError(f"the disk failed: {failures[0]}")
    return code


async def _run_on(path: str, command: list[str]) -> int:
    try:
        finished = await trio.run_process([*command, path], check=False)
    except OSError as error:
        raise MountError(f"cannot run {command[0]}: {error.strerror}") from None
    return finished.returncode if finished.returncode >= 0 else 128 - finished.returncode


async def _until_interrupted() -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as interrupts:
        async for _ in interrupts:
            return 0
    return 0
