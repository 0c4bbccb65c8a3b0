"""Directories: an index of names in memory over the linear blocks of ext4.

Format: https://docs.kernel.org/filesystems/ext4/directory.html. A hashed directory that another system made is made
plain before its first change here; the kernel reads both kinds.
"""

from __future__ import annotations

import errno
import stat
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.inodes import FLAG_INDEX, set_size, touch
from vdisk.ext4.volume import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.ext4.files import Files
    from vdisk.ext4.volume import Volume

NAME_MAX_BYTES = 255
_ENTRY_HEADER_BYTES = 8
_ENTRIES_MAX = BLOCK_BYTES // _ENTRY_HEADER_BYTES  # of one block
_NAMES_KEPT_MAX = 500_000  # in all indexes together
_FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFLNK)
_FORMAT_OF_CODE = tuple(kind >> 12 for kind in _FILE_TYPES)
_CODE_OF_FORMAT = {kind >> 12: code for code, kind in enumerate(_FILE_TYPES)}


class Entry(NamedTuple):
    """Where a name leads, and the block of the directory that it stands in."""

    ino: int
    block: int


class ScannedEntry(NamedTuple):
    """An entry as it stands in a block; `kind` is its file type as S_IF* >> 12, the offsets are within the block."""

    name: bytes
    ino: int
    kind: int
    offset_bytes: int
    next_offset_bytes: int


class Scanner:
    """Reads the entries of directory blocks."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._entries = ffi.new("directory_entry[]", _ENTRIES_MAX)
        self._count = ffi.new("uint32_t *")
        self._data = ffi.new("unsigned char **")

    def scan(self, directory: int, block: int) -> list[ScannedEntry]:
        """Raises OSError EUCLEAN where the block is damaged."""
        handle = self._volume.handle
        self._volume.check(lib.directory_scan(handle, directory, block, self._entries, self._count, self._data))
        data = ffi.buffer(self._data[0], BLOCK_BYTES)
        found = []
        for entry in self._entries[0 : self._count[0]]:
            start = entry.offset + _ENTRY_HEADER_BYTES
            kind = _FORMAT_OF_CODE[entry.file_type] if entry.file_type < len(_FORMAT_OF_CODE) else 0
            name = data[start : start + entry.name_length]
            found.append(ScannedEntry(name, entry.inode, kind, entry.offset, entry.next_offset))
        return found


class Directory:
    """One directory: `names` has every entry, the two dots too."""

    def __init__(self, volume: Volume, files: Files, scanner: Scanner, ino: int) -> None:
        self._volume = volume
        self._files = files
        self._scanner = scanner
        self.ino = ino
        self.names: dict[bytes, Entry] = {}
        self._blocks = files.block_list(ino)
        self._roomy = dict.fromkeys(range(len(self._blocks)))  # blocks that may have room; the last is tried first
        for index, block in enumerate(self._blocks):
            for entry in scanner.scan(ino, block):
                self.names[entry.name] = Entry(entry.ino, index)

    def entries(self, start: int) -> Iterator[tuple[bytes, int, int, int]]:
        """As `Ext4Filesystem.entries`: a cookie is an offset in the directory, and entries do not move."""
        index = start // BLOCK_BYTES
        while 0 <= index < len(self._blocks):
            base = index * BLOCK_BYTES
            for entry in self._scanner.scan(self.ino, self._blocks[index]):
                if base + entry.offset_bytes >= start:
                    yield entry.name, entry.ino, entry.kind, base + entry.next_offset_bytes
            index += 1

    @property
    def is_empty(self) -> bool:
        return len(self.names) <= 2

    def add(self, name: bytes, ino: int, mode: int) -> None:
        """Within an operation; the name must not exist. Raises OSError ENOSPC before anything is changed."""
        self._flatten()
        code = _CODE_OF_FORMAT.get(mode >> 12, 0)
        while True:
            index = next(reversed(self._roomy)) if self._roomy else self._extend()
            block = self._blocks[index]
            result = lib.directory_add(self._volume.handle, self.ino, block, name, len(name), ino, code)
            if result != lib.EXT2_ET_DIR_NO_SPACE:
                break
            del self._roomy[index]
        self._volume.check(result)
        self.names[name] = Entry(ino, index)
        self._changed()

    def remove(self, name: bytes) -> None:
        self._flatten()
        index = self.names[name].block
        block = self._blocks[index]
        self._volume.check(lib.directory_drop(self._volume.handle, self.ino, block, name, len(name)))
        del self.names[name]
        self._roomy[index] = None
        self._changed()

    def point(self, name: bytes, ino: int, mode: int) -> None:
        """Let an existing name lead to another inode."""
        index = self.names[name].block
        code = _CODE_OF_FORMAT.get(mode >> 12, 0)
        block = self._blocks[index]
        self._volume.check(lib.directory_point(self._volume.handle, self.ino, block, name, len(name), ino, code))
        self.names[name] = Entry(ino, index)
        self._changed()

    def _extend(self) -> int:
        index = len(self._blocks)
        block = self._files.append_block(self.ino, index)
        self._volume.check(lib.directory_blank(self._volume.handle, self.ino, block, 0))
        self._blocks.append(block)
        self._roomy[index] = None
        inode = self._volume.inode(self.ino)
        set_size(inode, len(self._blocks) * BLOCK_BYTES)
        self._volume.store(self.ino)
        return index

    def _flatten(self) -> None:
        inode = self._volume.inode(self.ino)
        if not inode.i_flags & FLAG_INDEX:
            return
        for index, block in enumerate(self._blocks):
            self._volume.check(lib.directory_flatten(self._volume.handle, self.ino, block, index == 0))
        inode.i_flags &= ~FLAG_INDEX
        self._volume.store(self.ino)

    def _changed(self) -> None:
        inode = self._volume.inode(self.ino)
        touch(inode, time.time_ns(), modified=True)
        self._volume.store(self.ino)


class Directories:
    """The directories whose names are in memory; those not used for longest are dropped."""

    def __init__(self, volume: Volume, files: Files) -> None:
        self._volume = volume
        self._files = files
        self._scanner = Scanner(volume)
        self._kept: OrderedDict[int, Directory] = OrderedDict()
        self._names_loaded = 0

    def get(self, ino: int) -> Directory:
        """Raises OSError ENOTDIR, EUCLEAN."""
        kept = self._kept.get(ino)
        if kept is not None:
            self._kept.move_to_end(ino)
            return kept
        inode = self._volume.inode(ino)
        if not stat.S_ISDIR(inode.i_mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        if inode.i_links_count == 0:
            raise OSError(errno.ENOENT, "the directory was removed")
        return self._keep(Directory(self._volume, self._files, self._scanner, ino))

    def make(self, ino: int, parent: int) -> None:
        """Give a new directory inode its first block, with the two dots."""
        block = self._files.append_block(ino, 0)
        self._volume.check(lib.directory_blank(self._volume.handle, ino, block, parent))
        inode = self._volume.inode(ino)
        set_size(inode, BLOCK_BYTES)
        self._volume.store(ino)

    def forget(self, ino: int) -> None:
        self._kept.pop(ino, None)

    def _keep(self, directory: Directory) -> Directory:
        self._names_loaded += len(directory.names)
        if self._names_loaded > _NAMES_KEPT_MAX:
            self._drop_some()
        self._kept[directory.ino] = directory
        return directory

    def _drop_some(self) -> None:
        """Keep half of what may be kept."""
        names = sum(len(directory.names) for directory in self._kept.values())
        while self._kept and names > _NAMES_KEPT_MAX // 2:
            _, dropped = self._kept.popitem(last=False)
            names -= len(dropped.names)
        self._names_loaded = names


def check_name(name: bytes) -> None:
    """Raise OSError ENAMETOOLONG, EINVAL, or EEXIST for the two dots, where a name cannot be made."""
    if len(name) > NAME_MAX_BYTES:
        raise OSError(errno.ENAMETOOLONG, "the name is longer than 255 bytes")
    if not name or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a file name")
    if name in (b".", b".."):
        raise OSError(errno.EEXIST, "the name is taken by the directory itself")
