"""Privileges that a file gives to who runs it: they end when somebody without the right to give them changes the file.

libfuse takes FUSE_HANDLE_KILLPRIV, so the set-id bits are ours to clear on write, truncate and chown. The capabilities
are the kernel's to clear, but it asks for them before every single write, so they are remembered here.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdisk.filesystem import Filesystem

CAPABILITY = b"security.capability"


def without_privileges(mode: int) -> int:
    """A mode with the set-id bits cleared. Set-gid is one with group execution only, and never for a directory."""
    if stat.S_ISDIR(mode):
        return mode
    cleared = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return mode & ~cleared


class PrivilegeCache:
    """What is known about the privileges of inodes. Whoever changes a mode or an xattr must `forget` the inode."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self._capabilities: dict[int, bytes | None] = {}
        self._unprivileged: set[int] = set()

    def forget(self, ino: int) -> None:
        self._capabilities.pop(ino, None)
        self._unprivileged.discard(ino)

    def capability(self, ino: int) -> bytes | None:
        """The value of security.capability, or None where the inode has none."""
        if ino not in self._capabilities:
            self._capabilities[ino] = self._read_capability(ino)
        return self._capabilities[ino]

    def _read_capability(self, ino: int) -> bytes | None:
        try:
            return self._filesystem.xattr_get(ino, CAPABILITY)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def drop(self, ino: int) -> bool:
        """Clear the set-id bits of an inode; tell whether it had any."""
        if ino in self._unprivileged:
            return False
        mode = self._filesystem.attributes(ino).mode
        cleared = without_privileges(mode)
        if cleared != mode:
            self._filesystem.set_attributes(ino, mode=cleared)
        self._unprivileged.add(ino)
        return cleared != mode
