"""The control directory `.ghostdump/` at the root of the mount: files that are functions, and are never on the disk.

It is listed like any directory, so that `ls -a` hides nothing, and a real entry of the same name is shadowed. What a
file shows is rendered once, when it is opened; each write(2) is handed over as it comes, as with /proc/sysrq-trigger.
Anything that would change the directory itself is refused with EPERM.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3

from vdisk.errors import GhostdumpError
from vdisk.mount.attributes import CACHED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CONTROL_NAME = b".ghostdump"
CONTROL_NODE = 1 << 40  # ext4 numbers its inodes with 32 bits
_FIRST_HANDLE = 1 << 40


class ControlFile(NamedTuple):
    """A file of the control directory. One without `read` reads as empty, one without `write` cannot be written."""

    name: str
    read: Callable[[], bytes] | None = None
    write: Callable[[bytes], None] | None = None

    @property
    def mode(self) -> int:
        return stat.S_IFREG | (0o400 if self.read else 0) | (0o200 if self.write else 0)


class _OpenFile(NamedTuple):
    file: ControlFile
    content: bytes


def is_control(number: int) -> bool:
    """Whether a node or a handle belongs to the control directory."""
    return number >= CONTROL_NODE


class ControlDirectory:
    """The nodes of the directory and of its files, and the handles that are open on them.

    They belong to `uid` and `gid`, the user who mounts. A `write` that raises a GhostdumpError answers EINVAL.
    """

    def __init__(self, files: Iterable[ControlFile], uid: int, gid: int) -> None:
        self._files = {CONTROL_NODE + 1 + index: file for index, file in enumerate(files)}
        self._nodes = {file.name.encode(): node for node, file in self._files.items()}
        self._owner = uid, gid
        self._created_ns = time.time_ns()
        self._open: dict[int, _OpenFile] = {}
        self._handles = itertools.count(_FIRST_HANDLE)

    def entry(self, node: int) -> pyfuse3.EntryAttributes:
        """The attributes of the directory or of one of its files. Sizes are 0, as in /proc: reads tell the end."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = self._files[node].mode if node in self._files else stat.S_IFDIR | 0o555
        entry.st_nlink = 1 if node in self._files else 2
        entry.st_uid, entry.st_gid = self._owner
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._created_ns
        entry.entry_timeout = entry.attr_timeout = CACHED_SECONDS
        return entry

    def lookup(self, name: bytes) -> pyfuse3.EntryAttributes:
        if name not in self._nodes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.entry(self._nodes[name])

    def entries(self, start: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, node, cookie of the next entry) from a cookie on."""
        listing = [(b".", CONTROL_NODE), (b"..", pyfuse3.ROOT_INODE), *self._nodes.items()]
        for cookie, (name, node) in enumerate(listing[start:], start + 1):
            yield name, node, cookie

    def open(self, node: int, flags: int) -> pyfuse3.FileInfo:
        """Render a file that is opened for reading. Permissions are the kernel's to check, which lets root pass."""
        file = self._files[node]
        content = file.read() if file.read and flags & os.O_ACCMODE != os.O_WRONLY else b""
        handle = next(self._handles)
        self._open[handle] = _OpenFile(file, content)
        return pyfuse3.FileInfo(fh=handle, direct_io=True, keep_cache=False)

    def read(self, handle: int, offset_bytes: int, size_bytes: int) -> bytes:
        return self._open[handle].content[offset_bytes : offset_bytes + size_bytes]

    def write(self, handle: int, data: bytes) -> int:
        file = self._open[handle].file
        if file.write is None:
            raise PermissionError(errno.EPERM, f"{file.name} cannot be written")
        try:
            file.write(data)
        except GhostdumpError as error:
            raise OSError(errno.EINVAL, str(error)) from error
        return len(data)

    def release(self, handle: int) -> None:
        del self._open[handle]
