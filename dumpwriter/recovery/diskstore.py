"""The crash store inside the virtual disk's own filesystem: /var/crash, before the mount is there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from dumpwriter.recovery.crashstore import BOUNDS, BOUNDS_SIZE_BYTES_MAX, UNFINISHED, Room

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdisk.filesystem import Filesystem
    from vdisk.imagefile import HostFile

ROOT = 2
PARENTS = {b"var": 0o755, b"crash": 0o700}
CRASH_DIRECTORY = "/var/crash"


class DiskStore:
    """Crashes are root's, in directories of mode 0700 and files of mode 0600, whoever mounts the disk next.

    Nothing of the filesystem changes before `begin`: where a copy is refused for want of room, nothing has to be
    committed that there is no room for either.
    """

    def __init__(self, filesystem: Filesystem, image: HostFile) -> None:
        """`image` is the file in which all of it lies on the host."""
        self._filesystem = filesystem
        self._image = image
        self._owner = os.geteuid(), os.getegid()
        self._directory = self._find()  # 0 until it is there, as is `_unfinished`
        self._unfinished = 0
        self._files: dict[str, int] = {}

    def describe(self, name: str) -> str:
        return f"{CRASH_DIRECTORY}/{name}"

    def names(self) -> list[str]:
        return [os.fsdecode(name) for name in self._entries(self._directory)] if self._directory else []

    def rooms(self) -> tuple[Room, ...]:
        found = self._filesystem.statistics()
        available = found.blocks_available if self._owner[0] else found.blocks_free
        return (
            Room(f"in {CRASH_DIRECTORY}", available * found.block_size),
            Room("on the host, where the image is", self._image.host_free_bytes()),
        )

    def read_finished(self, name: str, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        with contextlib.suppress(OSError):
            crash = self._filesystem.lookup(self._directory, os.fsencode(name))
            ino = self._filesystem.lookup(crash, file.encode())
            return bytes(self._filesystem.read(ino, offset_bytes, length_bytes))
        return b""

    def begin(self) -> None:
        self._directory = ROOT
        for name, mode in PARENTS.items():
            self._directory = self._subdirectory(self._directory, name, mode)
        self.abandon()
        self._unfinished = self._subdirectory(self._directory, UNFINISHED.encode(), 0o700)

    def write(self, file: str, offset_bytes: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        ino = self._open(file)
        while view.nbytes:
            done_bytes = self._filesystem.write(ino, offset_bytes, view)
            offset_bytes += done_bytes
            view = view[done_bytes:]

    def read(self, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(self._filesystem.read(self._open(file), offset_bytes, length_bytes))

    def resize(self, file: str, size_bytes: int) -> None:
        self._filesystem.set_attributes(self._open(file), size_bytes=size_bytes)

    def finish(self, name: str) -> None:
        for ino in self._files.values():
            self._filesystem.fsync(ino)
        self._files.clear()
        self._filesystem.rename(self._directory, UNFINISHED.encode(), self._directory, os.fsencode(name))
        self._filesystem.fsync(self._directory)

    def abandon(self) -> None:
        self._files.clear()
        with contextlib.suppress(FileNotFoundError):
            self._remove_directory(UNFINISHED.encode())

    def settle(self, name: str) -> None:
        self._filesystem.fsync(self._filesystem.lookup(self._directory, os.fsencode(name)))

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._remove_directory(os.fsencode(name))

    def read_bound(self) -> bytes:
        with contextlib.suppress(OSError):
            ino = self._filesystem.lookup(self._directory, BOUNDS.encode())
            return bytes(self._filesystem.read(ino, 0, BOUNDS_SIZE_BYTES_MAX))
        return b""

    def write_bound(self, content: bytes) -> None:
        try:
            ino = self._filesystem.lookup(self._directory, BOUNDS.encode())
        except FileNotFoundError:
            ino = self._filesystem.create(self._directory, BOUNDS.encode(), stat.S_IFREG | 0o600, *self._owner).ino
        self._filesystem.set_attributes(ino, size_bytes=0)
        self._filesystem.write(ino, 0, content)
        self._filesystem.fsync(ino)

    def _find(self) -> int:
        directory = ROOT
        with contextlib.suppress(FileNotFoundError):
            for name in PARENTS:
                directory = self._filesystem.lookup(directory, name)
                self._must_be_directory(directory)
            return directory
        return 0

    def _must_be_directory(self, ino: int) -> None:
        if not stat.S_ISDIR(self._filesystem.attributes(ino).mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{CRASH_DIRECTORY} on the disk is not a directory")

    def _open(self, file: str) -> int:
        if file not in self._files:
            made = self._filesystem.create(self._unfinished, file.encode(), stat.S_IFREG | 0o600, *self._owner)
            self._files[file] = made.ino
        return self._files[file]

    def _remove_directory(self, name: bytes) -> None:
        directory = self._filesystem.lookup(self._directory, name)
        for entry in self._entries(directory):
            self._filesystem.unlink(directory, entry)
        self._filesystem.rmdir(self._directory, name)

    def _entries(self, directory: int) -> list[bytes]:
        return [name for name, *_ in self._filesystem.entries(directory, 0) if name not in (b".", b"..")]

    def _subdirectory(self, parent: int, name: bytes, mode: int) -> int:
        try:
            ino = self._filesystem.lookup(parent, name)
        except FileNotFoundError:
            return self._filesystem.mkdir(parent, name, stat.S_IFDIR | mode, *self._owner).ino
        self._must_be_directory(ino)
        return ino
