"""Extended attributes, as libext2fs keeps them: in the inode, and in one block of their own."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.inodes import touch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.ext4._libext2fs import XattrHandle
    from vdisk.ext4.committer import Committer
    from vdisk.ext4.inodes import Inodes
    from vdisk.ext4.volume import Volume

XATTR_CREATE = 1
XATTR_REPLACE = 2

ATTRIBUTE_BLOCKS = 1  # the block of an inode's attributes is copied when another inode shares it, even to remove one
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_NAME_BYTES_MAX = 255
_VALUE_BYTES_MAX = 65536
_LIST_BYTES_MAX = 65536


class Xattrs:
    """All extended attributes of a volume. `set` and `remove` are called within an operation."""

    def __init__(self, volume: Volume, committer: Committer, inodes: Inodes) -> None:
        self._volume = volume
        self._committer = committer
        self._inodes = inodes

    def get(self, ino: int, name: bytes) -> bytes:
        """Raises OSError ENODATA."""
        _check_name(name)
        self._inodes.live(ino)
        if lib.xattr_present(self._volume.handle, ino):
            with self._opened(ino) as handle:
                value = self._value(handle, name)
            if value is not None:
                return value
        raise OSError(errno.ENODATA, "no such attribute")

    def list(self, ino: int) -> list[bytes]:
        self._inodes.live(ino)
        if not lib.xattr_present(self._volume.handle, ino):
            return []
        buffer, length = ffi.new("char[]", _LIST_BYTES_MAX), ffi.new("uint64_t *")
        with self._opened(ino) as handle:
            self._volume.check(lib.xattr_names(handle, buffer, _LIST_BYTES_MAX, length))
        names = ffi.buffer(buffer, length[0])[:].split(b"\0")
        return [name for name in names if name.startswith(_NAMESPACES)]

    def set(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """Raises OSError EEXIST, ENODATA (by the flags), ENOSPC where it does not fit, E2BIG, ERANGE, EOPNOTSUPP."""
        _check_name(name)
        self._inodes.live(ino)
        if len(value) > _VALUE_BYTES_MAX:
            raise OSError(errno.E2BIG, "the value is too long")
        self._committer.require(ATTRIBUTE_BLOCKS)
        with self._opened(ino) as handle:
            existing = self._value(handle, name)
            if flags & XATTR_CREATE and existing is not None:
                raise OSError(errno.EEXIST, "the attribute exists")
            if flags & XATTR_REPLACE and existing is None:
                raise OSError(errno.ENODATA, "no such attribute")
            self._volume.check(lib.ext2fs_xattr_set(handle, name, value, len(value)))
        self._changed(ino)

    def remove(self, ino: int, name: bytes) -> None:
        """Raises OSError ENODATA."""
        self.get(ino, name)
        self._committer.require(ATTRIBUTE_BLOCKS)
        with self._opened(ino) as handle:
            self._volume.check(lib.ext2fs_xattr_remove(handle, name))
        self._changed(ino)

    @contextmanager
    def _opened(self, ino: int) -> Iterator[XattrHandle]:
        place = ffi.new("struct ext2_xattr_handle **")
        self._volume.check(lib.xattr_open(self._volume.handle, ino, place))
        try:
            yield place[0]
        finally:
            lib.xattr_close(self._volume.handle, place)

    def _changed(self, ino: int) -> None:
        touch(self._volume.inode(ino), time.time_ns(), modified=False)
        self._volume.store(ino)

    def _value(self, handle: XattrHandle, name: bytes) -> bytes | None:
        value, length = ffi.new("void **"), ffi.new("size_t *")
        code = lib.ext2fs_xattr_get(handle, name, value, length)
        if code == lib.EXT2_ET_EA_KEY_NOT_FOUND:
            return None
        self._volume.check(code)
        found = ffi.buffer(value[0], length[0])[:]
        lib.ext2fs_free_mem(value)
        return found


def _check_name(name: bytes) -> None:
    if not name.startswith(_NAMESPACES):
        raise OSError(errno.EOPNOTSUPP, "attributes of this namespace are not kept")
    suffix = name.partition(b".")[2]
    if not suffix or b"\0" in name:
        raise OSError(errno.EINVAL, "not an attribute name")
    if len(suffix) > _NAME_BYTES_MAX:
        raise OSError(errno.ERANGE, "the attribute's name is too long")
