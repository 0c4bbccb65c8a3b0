"""The child of `tests.mounting`: `python -m tests.served MOUNTPOINT` serves until SIGTERM and tells what happens."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

from tests.fake_filesystem import FakeFilesystem
from vdisk.errors import GhostdumpError, UsageError
from vdisk.filesystem import ROOT_INODE
from vdisk.mount.control import ControlFile
from vdisk.mount.operations import Operations
from vdisk.mount.session import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

PINNED_NAME = b"pinned"
PINNED_CONTENT = b"written beneath the mount"
BROKEN_LINK_TARGET = b"broken"


def tell(kind: str, *details: object) -> None:
    """One line for the test to read."""
    sys.stdout.write(" ".join(map(str, (kind, *details))) + "\n")
    sys.stdout.flush()


class _BrokenFilesystem(FakeFilesystem):
    """One that has a mistake in it: reading a certain link divides by zero."""

    def readlink(self, ino: int) -> bytes:
        target = super().readlink(ino)
        return bytes([1 // (target != BROKEN_LINK_TARGET)]) and target


def _control_files() -> Iterator[ControlFile]:
    renderings = itertools.count(1)
    note = bytearray(b"empty")

    def write_note(data: bytes) -> None:
        note[:] = data

    def trigger(data: bytes) -> None:
        if data == b"nonsense\n":
            raise UsageError("no such cause")
        tell("trigger", data)

    yield ControlFile("status", read=lambda: b"%d" % next(renderings) * 3000)
    yield ControlFile("trigger", write=trigger)
    yield ControlFile("note", read=lambda: bytes(note), write=write_note)


async def _serve(arguments: argparse.Namespace, filesystem: FakeFilesystem) -> None:
    stop = trio.Event()
    operations = Operations(
        filesystem,
        _control_files(),
        on_open=lambda path, ino: tell("open", os.fsdecode(path)),
        on_failure=lambda request, error: tell("failure", request, repr(error)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_sigterm, stop)
        source, allow_other = arguments.source, arguments.allow_other
        ready = lambda: tell("ready")  # noqa: E731
        await serve(operations, arguments.mountpoint, source=source, stop=stop, allow_other=allow_other, on_ready=ready)
        nursery.cancel_scope.cancel()
    operations.forget_all()
    tell("references", filesystem.references)
    if arguments.show_at_end:
        ino = filesystem.lookup(ROOT_INODE, os.fsencode(arguments.show_at_end))
        tell("shown", bytes(filesystem.read(ino, 0, 4096)).rstrip(b"\0"))


async def _stop_on_sigterm(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()


def _pin_a_file(filesystem: FakeFilesystem) -> None:
    ino = filesystem.create(ROOT_INODE, PINNED_NAME, 0o600, os.getuid(), os.getgid()).ino
    filesystem.write(ino, 0, PINNED_CONTENT)
    filesystem.pinned.add(ino)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--source", default="an image, with a comma")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--show-at-end", metavar="NAME", help="tell what is in this file after the end")
    parser.add_argument("--uid", type=int, help="become this user, after everything is imported")
    arguments = parser.parse_args()
    if arguments.uid is not None:
        os.setgroups([])
        os.setresgid(arguments.uid, arguments.uid, arguments.uid)
        os.setresuid(arguments.uid, arguments.uid, arguments.uid)
    filesystem = _BrokenFilesystem()
    _pin_a_file(filesystem)
    try:
        trio.run(_serve, arguments, filesystem, strict_exception_groups=True)
    except* GhostdumpError as group:
        tell("error", type(group.exceptions[0]).__name__, group.exceptions[0])
        sys.exit(1)


if __name__ == "__main__":
    main()
