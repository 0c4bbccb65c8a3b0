"""The child of `tests.mounting`: `python -m tests.served MOUNTPOINT` serves until SIGTERM and tells what happens."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING

import trio

from tests.fake_filesystem import FakeFilesystem
from vdisk.controller import Controller
from vdisk.errors import GhostdumpError, UsageError
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.ext4.mkfs import make_filesystem
from vdisk.filesystem import ROOT_INODE
from vdisk.imagefile import ImageFile, open_locked
from vdisk.mount.control import ControlFile
from vdisk.mount.operations import Operations
from vdisk.mount.session import serve
from vdisk.registers import create_registers
from vdisk.stack import load_live
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

PINNED_NAME = b"pinned"
PINNED_CONTENT = b"written before it was pinned".ljust(4096, b".")
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


class _Memory:
    """The fake filesystem; its end tells which references it was left with."""

    def __init__(self) -> None:
        self.filesystem = _BrokenFilesystem()

    def maintain(self) -> None:
        pass

    def write_beneath(self, ino: int, data: bytes) -> None:
        self.filesystem.pinned.discard(ino)
        self.filesystem.write(ino, 0, data)
        self.filesystem.pin(ino)

    def end(self) -> None:
        tell("references", self.filesystem.references)


class _Disk:
    """A new ext4 on a new image file, behind the live driver stack."""

    def __init__(self, image: str, size_bytes: int) -> None:
        with open(image, "xb") as file:
            file.truncate(size_bytes)
        make_filesystem(image, size_bytes, label="test", uuid=str(uuid.uuid4()))
        self._device = load_live(Controller(create_registers(), ImageFile(open_locked(image))), NO_KEY).device
        self.filesystem = Ext4Filesystem.open(self._device)

    def maintain(self) -> None:
        self.filesystem.maintain()

    def write_beneath(self, ino: int, data: bytes) -> None:
        self._device.write_from(self.filesystem.extents(ino)[0].physical_bytes, data)

    def end(self) -> None:
        self.filesystem.close()


class _Served:
    """One disk, its pinned file and its control files, for as long as it is mounted."""

    def __init__(self, disk: _Memory | _Disk) -> None:
        self.disk = disk
        filesystem = disk.filesystem
        self._pinned = filesystem.create(ROOT_INODE, PINNED_NAME, 0o600, os.getuid(), os.getgid()).ino
        filesystem.write(self._pinned, 0, PINNED_CONTENT)
        filesystem.pin(self._pinned)
        self._note = b"empty"
        self._renderings = itertools.count(1)
        self.stop = trio.Event()

    def operations(self) -> Operations:
        return Operations(
            self.disk.filesystem,
            self._control_files(),
            on_open=lambda path, ino: tell("open", os.fsdecode(path)),
            on_failure=lambda request, error: tell("failure", request, repr(error)),
        )

    def _control_files(self) -> Iterator[ControlFile]:
        yield ControlFile("status", read=lambda: b"%d" % next(self._renderings) * 3000)
        yield ControlFile("trigger", write=self._trigger)
        yield ControlFile("note", read=lambda: self._note, write=self._write_note)
        yield ControlFile("beneath", write=lambda data: self.disk.write_beneath(self._pinned, data))

    def _write_note(self, data: bytes) -> None:
        self._note = data

    def _trigger(self, data: bytes) -> None:
        if data == b"nonsense\n":
            raise UsageError("no such cause")
        tell("trigger", data)

    async def stop_on_sigterm(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self.stop.set()

    async def maintain(self) -> None:
        while True:
            await trio.sleep(1)
            self.disk.maintain()

    def show(self, name: str) -> None:
        ino = self.disk.filesystem.lookup(ROOT_INODE, os.fsencode(name))
        tell("shown", bytes(self.disk.filesystem.read(ino, 0, 4096)).rstrip(b"\0"))


async def _serve(arguments: argparse.Namespace) -> None:
    served = _Served(_Disk(arguments.mountpoint + ".img", arguments.size) if arguments.ext4 else _Memory())
    operations = served.operations()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.stop_on_sigterm)
        nursery.start_soon(served.maintain)
        await serve(
            operations,
            arguments.mountpoint,
            source=arguments.source,
            stop=served.stop,
            allow_other=arguments.allow_other,
            on_ready=lambda: tell("ready"),
        )
        nursery.cancel_scope.cancel()
    operations.forget_all()
    if arguments.show_at_end:
        served.show(arguments.show_at_end)
    served.disk.end()


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--source", default="an image, with a comma")
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--show-at-end", metavar="NAME", help="tell what is in this file after the end")
    parser.add_argument("--ext4", action="store_true", help="serve ext4 on a new image, MOUNTPOINT.img")
    parser.add_argument("--size", type=int, default=256 << 20, help="of the image, in bytes")
    parser.add_argument("--uid", type=int, help="become this user, now that everything is imported")
    arguments = parser.parse_args()
    if arguments.uid is not None:
        _become(arguments.uid)
    try:
        trio.run(_serve, arguments)
    except* GhostdumpError as group:
        tell("error", type(group.exceptions[0]).__name__, group.exceptions[0])
        sys.exit(1)


if __name__ == "__main__":
    main()
