"""A directory of recovered crashes: numbered directories, each with `vmcore` and `report.json`, private to their owner.

A crash is written under an unfinished name and gets its number by one rename after it is durable. What an interrupted
recovery left unfinished is removed by the next. The file `bounds` holds the next number, as savecore's does, so that a
number is not used again when its crash is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.conversion.formats import FORMATS
from dumpwriter.secondary import FILE_PREFIX
from vdisk.errors import RecoveryError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

UNFINISHED = ".ghostdump-unfinished"
SEALED, REPORT = "dump.sealed", "report.json"
OWN_FILES = (SEALED, REPORT, *(known.file for known in FORMATS.values()))
BOUNDS = "bounds"
BOUNDS_SIZE_BYTES_MAX = 32
REPORT_SIZE_BYTES_MAX = 64 << 20


class Room(NamedTuple):
    """What is free, and where, as a user would say it."""

    where: str
    free_bytes: int


class CrashStore(Protocol):
    """Where crashes are kept. A failure to write is an `OSError`."""

    def describe(self, name: str) -> str:
        """The path of a crash as a user would type it."""

    def names(self) -> list[str]: ...

    def rooms(self) -> tuple[Room, ...]:
        """Where a copy takes room: the store's own filesystem, and then what that lies in."""

    def read_finished(self, name: str, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        """From a file of a finished crash; empty behind its end, and where there is no such file."""

    def begin(self) -> None:
        """Remove what an interrupted recovery left, and start afresh. What is not ours is never removed."""

    def write(self, file: str, offset_bytes: int, content: Buffer) -> None: ...

    def read(self, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        """From an unfinished file; fewer bytes only at its end."""

    def resize(self, file: str, size_bytes: int) -> None:
        """Set the size of an unfinished file; what was not written reads as zeros."""

    def finish(self, name: str) -> None:
        """Make the unfinished crash durable, and then give it its name, durably."""

    def abandon(self) -> None:
        """Remove the unfinished crash."""

    def settle(self, name: str) -> None:
        """Make a finished crash durable once more: the power may have gone between its rename and its flush."""

    def remove(self, name: str) -> None:
        """Remove a finished crash; what cannot be removed stays."""

    def read_bound(self) -> bytes:
        """What `write_bound` wrote; empty where nothing was."""

    def write_bound(self, content: bytes) -> None: ...


class HostStore:
    """A directory on the host, made where it is missing, and locked against a second recovery into it."""

    def __init__(self, path: str) -> None:
        if not path:
            raise UsageError("no directory has an empty name: name one, or . for this one")
        self._path = os.path.abspath(path)
        self._unfinished = os.path.join(self._path, UNFINISHED)
        self._files: dict[str, int] = {}
        self._made: list[str] = []
        if os.path.exists(self._path) and not os.path.isdir(self._path):
            raise RecoveryError(f"{path} is there, and is no directory: name one, or a place where one can be made")
        try:
            _make_directories(self._path, self._made)
            self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._unmake()
            raise RecoveryError(f"cannot make {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RecoveryError(f"another recovery is writing to {path}: wait for it, or name another place") from None

    def close(self) -> None:
        """What was made for a crash that did not come is taken away again."""
        self._close_files()
        self._unmake()
        os.close(self._lock)

    def describe(self, name: str) -> str:
        return os.path.join(self._path, name)

    def names(self) -> list[str]:
        return os.listdir(self._path)

    def rooms(self) -> tuple[Room, ...]:
        found = os.statvfs(self._path)
        return (Room(f"in {self._path}", found.f_bavail * found.f_frsize),)

    def read_finished(self, name: str, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        with contextlib.suppress(OSError), open(os.path.join(self._path, name, file), "rb") as finished:
            finished.seek(offset_bytes)
            return finished.read(length_bytes)
        return b""

    def begin(self) -> None:
        self.abandon()
        os.mkdir(self._unfinished, 0o700)

    def write(self, file: str, offset_bytes: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        descriptor = self._open(file)
        while view.nbytes:
            done_bytes = os.pwrite(descriptor, view, offset_bytes)
            offset_bytes += done_bytes
            view = view[done_bytes:]

    def read(self, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        return os.pread(self._open(file), length_bytes, offset_bytes)

    def resize(self, file: str, size_bytes: int) -> None:
        os.ftruncate(self._open(file), size_bytes)

    def finish(self, name: str) -> None:
        for descriptor in self._files.values():
            os.fsync(descriptor)
        self._close_files()
        _sync_directory(self._unfinished)
        os.rename(self._unfinished, os.path.join(self._path, name))
        _sync_directory(self._path)

    def abandon(self) -> None:
        self._close_files()
        with contextlib.suppress(FileNotFoundError):
            for file in filter(_is_ours, os.listdir(self._unfinished)):
                os.unlink(os.path.join(self._unfinished, file))
            os.rmdir(self._unfinished)

    def settle(self, name: str) -> None:
        crash = os.path.join(self._path, name)
        for file in os.listdir(crash):
            with open(os.path.join(crash, file), "rb") as finished:
                os.fsync(finished.fileno())
        _sync_directory(crash)
        _sync_directory(self._path)

    def remove(self, name: str) -> None:
        shutil.rmtree(os.path.join(self._path, name), ignore_errors=True)

    def read_bound(self) -> bytes:
        with contextlib.suppress(OSError), open(os.path.join(self._path, BOUNDS), "rb") as file:
            return file.read(BOUNDS_SIZE_BYTES_MAX)
        return b""

    def write_bound(self, content: bytes) -> None:
        with open(os.path.join(self._path, BOUNDS), "wb", opener=_private) as file:
            file.write(content)
            os.fsync(file.fileno())

    def _unmake(self) -> None:
        with contextlib.suppress(OSError):  # not empty: a crash is in it, or somebody else's file
            while self._made:
                os.rmdir(self._made.pop())

    def _open(self, file: str) -> int:
        if file not in self._files:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._files[file] = os.open(os.path.join(self._unfinished, file), flags, 0o600)
        return self._files[file]

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def _is_ours(file: str) -> bool:
    return file in OWN_FILES or file.startswith(FILE_PREFIX)


def _make_directories(path: str, made: list[str]) -> None:
    """Make what is missing on the way, each durable in its parent, and add it to `made`."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directories(parent, made)
    os.mkdir(path, 0o700)
    made.append(path)
    _sync_directory(parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
