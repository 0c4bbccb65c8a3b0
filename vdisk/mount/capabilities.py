"""File capabilities, remembered: the kernel asks for security.capability before every single write."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdisk.filesystem import Filesystem

CAPABILITY = b"security.capability"


class CapabilityCache:
    """The value of security.capability by inode. Whoever changes an xattr of an inode must `forget` it."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self._values: dict[int, bytes | None] = {}

    def get(self, ino: int) -> bytes:
        """Raises ENODATA where the inode has no capabilities."""
        if ino not in self._values:
            self._values[ino] = self._read(ino)
        value = self._values[ino]
        if value is None:
            raise OSError(errno.ENODATA, "no capabilities")
        return value

    def forget(self, ino: int) -> None:
        self._values.pop(ino, None)

    def _read(self, ino: int) -> bytes | None:
        try:
            return self._filesystem.xattr_get(ino, CAPABILITY)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise
