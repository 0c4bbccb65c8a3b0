"""Names: making, linking, unlinking and renaming. Methods run within an operation of the committer.

Everything that can be refused is refused before anything is changed.
"""

from __future__ import annotations

import errno
import stat
import time
from typing import TYPE_CHECKING

from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.directories import NAME_MAX_BYTES, Directory, check_name
from vdisk.ext4.inodes import FAST_SYMLINK_BYTES, LINKS_MAX, set_size, size_of, touch
from vdisk.ext4.superblock import RO_COMPAT_DIR_NLINK
from vdisk.ext4.volume import BLOCK_BYTES

if TYPE_CHECKING:
    from vdisk.ext4.committer import Committer
    from vdisk.ext4.directories import Directories
    from vdisk.ext4.files import Files
    from vdisk.ext4.inodes import Inodes
    from vdisk.ext4.volume import Volume

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
NEW_NAME_BLOCKS = 8  # the most that one new name can need: directory, its extent tree, a long symbolic link

_DOTS = (b".", b"..")


class Namespace:
    """The tree of names of a volume."""

    def __init__(
        self, volume: Volume, committer: Committer, inodes: Inodes, files: Files, directories: Directories
    ) -> None:
        self._volume = volume
        self._committer = committer
        self._inodes = inodes
        self._files = files
        self._directories = directories

    def lookup(self, parent: int, name: bytes) -> int:
        """Raises OSError ENOENT, ENOTDIR."""
        if len(name) > NAME_MAX_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the name is longer than 255 bytes")
        entry = self._directories.get(parent).names.get(name)
        if entry is None:
            raise OSError(errno.ENOENT, "no such file or directory")
        return entry.ino

    def make(self, parent: int, name: bytes, mode: int, uid: int, gid: int, rdev: int = 0) -> int:
        """A new file of any kind but directory and symbolic link."""
        directory = self._place_for_new(parent, name)
        ino = self._inodes.make(parent, mode, uid, gid, rdev)
        directory.add(name, ino, mode)
        return ino

    def make_directory(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> int:
        directory = self._place_for_new(parent, name)
        self._check_room_for_subdirectory(parent)
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        ino = self._inodes.make(parent, mode, uid, gid)
        self._directories.make(ino, parent)
        self._inodes.add_links(ino, 1)
        directory.add(name, ino, mode)
        self._count_subdirectory(parent, 1)
        return ino

    def make_symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> int:
        if not target or len(target) >= BLOCK_BYTES:
            raise OSError(errno.ENAMETOOLONG if target else errno.ENOENT, "a link's target has 1 to 4095 bytes")
        directory = self._place_for_new(parent, name)
        mode = stat.S_IFLNK | 0o777
        ino = self._inodes.make(parent, mode, uid, gid)
        self._store_target(ino, target)
        directory.add(name, ino, mode)
        return ino

    def read_symlink(self, ino: int) -> bytes:
        inode = self._inodes.live(ino)
        if not stat.S_ISLNK(inode.i_mode):
            raise OSError(errno.EINVAL, "not a symbolic link")
        length = size_of(inode)
        if length < FAST_SYMLINK_BYTES:
            return bytes(ffi.buffer(inode.i_block)[:length])
        if length >= BLOCK_BYTES:
            raise OSError(errno.EUCLEAN, "a symbolic link of an impossible length")
        data = self._load_block(self._files.run_at(ino, 0, 1).physical)
        return bytes(data[:length])

    def link(self, ino: int, parent: int, name: bytes) -> None:
        directory = self._place_for_new(parent, name)
        inode = self._inodes.live(ino)
        mode = inode.i_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EPERM, "a directory has one name")
        if inode.i_links_count >= LINKS_MAX:
            raise OSError(errno.EMLINK, "the file has as many names as ext4 allows")
        if inode.i_links_count == 0:
            raise OSError(errno.ENOENT, "the file was removed")
        self._inodes.check_changeable(ino)
        self._inodes.add_links(ino, 1)
        directory.add(name, ino, mode)

    def unlink(self, parent: int, name: bytes) -> None:
        directory = self._directories.get(parent)
        ino = self.lookup(parent, name)
        if stat.S_ISDIR(self._inodes.live(ino).i_mode):
            raise OSError(errno.EISDIR, "is a directory")
        self._inodes.check_changeable(ino)
        self._committer.reserve(NEW_NAME_BLOCKS)
        directory.remove(name)
        self._inodes.add_links(ino, -1)

    def remove_directory(self, parent: int, name: bytes) -> None:
        if name in _DOTS:
            raise OSError(errno.EINVAL if name == b"." else errno.ENOTEMPTY, "not a name that can be removed")
        directory = self._directories.get(parent)
        ino = self.lookup(parent, name)
        if not self._directories.get(ino).is_empty:
            raise OSError(errno.ENOTEMPTY, "the directory is not empty")
        self._inodes.check_changeable(ino)
        directory.remove(name)
        self._drop_directory(ino, parent)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Raises OSError: EINVAL (into its own subtree, unknown flags), EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, …"""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, "unknown flags")
        if name in _DOTS or new_name in _DOTS:
            raise OSError(errno.EBUSY, "the dots of a directory stay")
        check_name(new_name)
        ino = self.lookup(parent, name)
        self._inodes.check_changeable(ino)
        self._check_not_below(ino, new_parent)
        existing = self._directories.get(new_parent).names.get(new_name)
        if flags == RENAME_EXCHANGE:
            self._exchange(parent, name, new_parent, new_name)
        elif existing is None:
            self._move(ino, parent, name, new_parent, new_name)
        elif flags == RENAME_NOREPLACE:
            raise OSError(errno.EEXIST, "the name exists")
        elif existing.ino != ino:
            self._replace(ino, parent, name, new_parent, new_name)

    def _place_for_new(self, parent: int, name: bytes) -> Directory:
        check_name(name)
        directory = self._directories.get(parent)
        if name in directory.names:
            raise OSError(errno.EEXIST, "the name exists")
        self._committer.require(NEW_NAME_BLOCKS)
        return directory

    def _store_target(self, ino: int, target: bytes) -> None:
        inode = self._volume.inode(ino)
        set_size(inode, len(target))
        if len(target) < FAST_SYMLINK_BYTES:
            ffi.buffer(inode.i_block)[: len(target)] = target
            self._volume.store(ino)
            return
        self._volume.store(ino)
        block = self._files.append_block(ino, 0)
        data = ffi.new("unsigned char **")
        self._volume.check(lib.cache_create(self._volume.handle, block, data))
        ffi.buffer(data[0], BLOCK_BYTES)[: len(target)] = target

    def _load_block(self, block: int) -> bytes:
        if not block:
            raise OSError(errno.EUCLEAN, "a symbolic link without its block")
        data = ffi.new("unsigned char **")
        self._volume.check(lib.cache_load(self._volume.handle, block, data))
        return bytes(ffi.buffer(data[0], BLOCK_BYTES))

    def _mode(self, ino: int) -> int:
        return self._inodes.live(ino).i_mode

    def _is_directory(self, ino: int) -> bool:
        return stat.S_ISDIR(self._mode(ino))

    def _check_room_for_subdirectory(self, parent: int) -> None:
        inode = self._volume.inode(parent)
        unlimited = self._volume.superblock.s_feature_ro_compat & RO_COMPAT_DIR_NLINK
        if inode.i_links_count >= LINKS_MAX and not unlimited:
            raise OSError(errno.EMLINK, "the directory has as many subdirectories as ext4 allows")

    def _count_subdirectory(self, parent: int, change: int) -> None:
        """A directory with too many subdirectories to count has one link, for good (DIR_NLINK)."""
        inode = self._volume.inode(parent)
        if inode.i_links_count != 1:
            links = inode.i_links_count + change
            inode.i_links_count = links if links < LINKS_MAX else 1
        touch(inode, time.time_ns(), modified=True)
        self._volume.store(parent)

    def _drop_directory(self, ino: int, parent: int) -> None:
        """The name of an empty directory is gone: so are its links."""
        self._directories.forget(ino)
        self._count_subdirectory(parent, -1)
        self._inodes.add_links(ino, -self._volume.inode(ino).i_links_count)

    def _check_not_below(self, ino: int, directory: int) -> None:
        """Raise OSError EINVAL where a directory would move below itself."""
        if not self._is_directory(ino):
            return
        seen = set()
        while directory not in seen:
            if directory == ino:
                raise OSError(errno.EINVAL, "a directory cannot move below itself")
            seen.add(directory)
            directory = self.lookup(directory, b"..")

    def _move(self, ino: int, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        if self._is_directory(ino) and parent != new_parent:
            self._check_room_for_subdirectory(new_parent)
        self._committer.require(NEW_NAME_BLOCKS)
        mode = self._mode(ino)
        self._directories.get(new_parent).add(new_name, ino, mode)
        self._directories.get(parent).remove(name)
        self._moved(ino, parent, new_parent)

    def _replace(self, ino: int, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        target = self.lookup(new_parent, new_name)
        self._check_replaceable(ino, target)
        target_is_directory = self._is_directory(target)
        self._directories.get(new_parent).point(new_name, ino, self._mode(ino))
        self._directories.get(parent).remove(name)
        self._moved(ino, parent, new_parent)
        if target_is_directory:
            self._drop_directory(target, new_parent)
        else:
            self._inodes.add_links(target, -1)

    def _check_replaceable(self, ino: int, target: int) -> None:
        self._inodes.check_changeable(target)
        if not self._is_directory(target):
            if self._is_directory(ino):
                raise OSError(errno.ENOTDIR, "a directory cannot replace a file")
            return
        if not self._is_directory(ino):
            raise OSError(errno.EISDIR, "a file cannot replace a directory")
        if not self._directories.get(target).is_empty:
            raise OSError(errno.ENOTEMPTY, "the directory is not empty")

    def _exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        first, second = self.lookup(parent, name), self.lookup(new_parent, new_name)
        self._inodes.check_changeable(second)
        self._check_not_below(second, parent)
        self._directories.get(parent).point(name, second, self._mode(second))
        self._directories.get(new_parent).point(new_name, first, self._mode(first))
        self._moved(first, parent, new_parent)
        self._moved(second, new_parent, parent)

    def _moved(self, ino: int, parent: int, new_parent: int) -> None:
        """What an inode remembers of its place: a directory its parent, every one the time."""
        if self._is_directory(ino) and parent != new_parent:
            self._directories.get(ino).point(b"..", new_parent, stat.S_IFDIR)
            self._count_subdirectory(parent, -1)
            self._count_subdirectory(new_parent, 1)
        inode = self._volume.inode(ino)
        touch(inode, time.time_ns(), modified=False)
        self._volume.store(ino)
