"""Inodes: their attributes, their making and their end, and the orphan list.

Format: https://docs.kernel.org/filesystems/ext4/inodes.html
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import FilesystemError
from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.orphans import OrphanList
from vdisk.ext4.volume import BLOCK_BYTES

if TYPE_CHECKING:
    from vdisk.ext4._libext2fs import InodePointer
    from vdisk.ext4.committer import Committer
    from vdisk.ext4.volume import Volume

FLAG_IMMUTABLE = 0x10
FLAG_APPEND = 0x20
FLAG_INDEX = 0x1000
FLAG_HUGE_FILE = 0x40000
FLAG_EXTENTS = 0x80000

LINKS_MAX = 65000
FAST_SYMLINK_BYTES = 60  # a shorter target lies in i_block

_EXTENT_HEADER = (0xF30A, 4)  # magic with no entries; room for four, depth 0
_EPOCH_MASK = 3
_NANOSECONDS = 1_000_000_000
_EXTRA_TIMES_BYTES = 24  # i_extra_isize that covers i_crtime_extra
_SECONDS_MIN, _SECONDS_MAX = -(1 << 31), (1 << 34) - (1 << 31) - 1


class Attributes(NamedTuple):
    """What stat(2) tells of an inode. Times in nanoseconds since 1970."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    blocks_512: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    generation: int


def _decode_time(seconds: int, extra: int) -> int:
    signed = seconds - (1 << 32) if seconds & 0x80000000 else seconds
    return (signed + ((extra & _EPOCH_MASK) << 32)) * _NANOSECONDS + (extra >> 2)


def _encode_time(time_ns: int) -> tuple[int, int]:
    """(seconds, extra); a time that ext4 cannot hold becomes the nearest that it can."""
    seconds, nanoseconds = divmod(time_ns, _NANOSECONDS)
    seconds = min(max(seconds, _SECONDS_MIN), _SECONDS_MAX)
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low & 0x80000000 else low
    return low, ((seconds - signed) >> 32) & _EPOCH_MASK | nanoseconds << 2


def _decode_device(inode: InodePointer) -> int:
    old, new = inode.i_block[0], inode.i_block[1]
    if old:
        return os.makedev(old >> 8 & 0xFF, old & 0xFF)
    return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)


def _encode_device(inode: InodePointer, rdev: int) -> None:
    major, minor = os.major(rdev), os.minor(rdev)
    if major < 256 and minor < 256:
        inode.i_block[0] = major << 8 | minor
    else:
        inode.i_block[1] = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def size_of(inode: InodePointer) -> int:
    return inode.i_size | inode.i_size_high << 32


def set_size(inode: InodePointer, size_bytes: int) -> None:
    inode.i_size, inode.i_size_high = size_bytes & 0xFFFFFFFF, size_bytes >> 32


def touch(inode: InodePointer, time_ns: int, *, modified: bool) -> None:
    """Set the change time, and the modification time where the content changed."""
    inode.i_ctime, inode.i_ctime_extra = _encode_time(time_ns)
    if modified:
        inode.i_mtime, inode.i_mtime_extra = inode.i_ctime, inode.i_ctime_extra


def is_changeable(inode: InodePointer) -> bool:
    return not inode.i_flags & (FLAG_IMMUTABLE | FLAG_APPEND)


class Inodes:
    """All inodes of a volume, and who holds which."""

    def __init__(self, volume: Volume, committer: Committer) -> None:
        self._volume = volume
        self._committer = committer
        self._held: dict[int, int] = {}
        self._orphans = OrphanList(volume)
        self._pinned: set[int] = set()
        self._new_ino = ffi.new("uint32_t *")
        self._cut_end = ffi.new("uint64_t *")
        if volume.superblock.s_inode_size < 128 + _EXTRA_TIMES_BYTES:
            raise FilesystemError("the filesystem's inodes hold no nanoseconds; make it with mke2fs -I 256")

    def live(self, ino: int) -> InodePointer:
        """The inode in place, where it is in use. Raises OSError ENOENT."""
        inode = self._volume.inode(ino)
        if inode.i_mode == 0 or (inode.i_links_count == 0 and ino not in self._held):
            raise OSError(errno.ENOENT, "no such inode")
        return inode

    def attributes(self, ino: int) -> Attributes:
        inode = self.live(ino)
        mode, high = inode.i_mode, inode.osd2.linux2
        blocks = inode.i_blocks | high.l_i_blocks_hi << 32
        return Attributes(
            ino,
            mode,
            inode.i_links_count,
            inode.i_uid | high.l_i_uid_high << 16,
            inode.i_gid | high.l_i_gid_high << 16,
            _decode_device(inode) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
            inode.i_size | inode.i_size_high << 32,
            blocks * 8 if inode.i_flags & FLAG_HUGE_FILE else blocks,
            _decode_time(inode.i_atime, inode.i_atime_extra),
            _decode_time(inode.i_mtime, inode.i_mtime_extra),
            _decode_time(inode.i_ctime, inode.i_ctime_extra),
            inode.i_generation,
        )

    def set_owner(self, inode: InodePointer, uid: int | None, gid: int | None) -> None:
        if uid is not None:
            inode.i_uid, inode.osd2.linux2.l_i_uid_high = uid & 0xFFFF, uid >> 16 & 0xFFFF
        if gid is not None:
            inode.i_gid, inode.osd2.linux2.l_i_gid_high = gid & 0xFFFF, gid >> 16 & 0xFFFF

    def set_attributes(
        self,
        ino: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        atime_ns: int | None,
        mtime_ns: int | None,
        ctime_ns: int | None,
    ) -> None:
        """Within an operation. The change time is now, unless it is given."""
        inode = self.live(ino)
        if mode is not None:
            inode.i_mode = stat.S_IFMT(inode.i_mode) | stat.S_IMODE(mode)
        self.set_owner(inode, uid, gid)
        touch(inode, time.time_ns() if ctime_ns is None else ctime_ns, modified=False)
        if atime_ns is not None:
            inode.i_atime, inode.i_atime_extra = _encode_time(atime_ns)
        if mtime_ns is not None:
            inode.i_mtime, inode.i_mtime_extra = _encode_time(mtime_ns)
        self._volume.store(ino)

    def make(self, parent: int, mode: int, uid: int, gid: int, rdev: int = 0) -> int:
        """A new inode with one link, within an operation. Raises OSError ENOSPC."""
        self._volume.check(lib.inode_allocate(self._volume.handle, parent, mode, self._new_ino))
        ino: int = self._new_ino[0]
        inode = self._volume.inode(ino)
        inode.i_links_count = 1
        self.set_owner(inode, uid, gid)
        touch(inode, time.time_ns(), modified=True)
        inode.i_atime, inode.i_atime_extra = inode.i_ctime, inode.i_ctime_extra
        inode.i_crtime, inode.i_crtime_extra = inode.i_ctime, inode.i_ctime_extra
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            inode.i_flags = FLAG_EXTENTS
            inode.i_block[0], inode.i_block[1] = _EXTENT_HEADER
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            _encode_device(inode, rdev)
        self._volume.store(ino)
        return ino

    def add_links(self, ino: int, count: int) -> None:
        """Change the number of links; the last one gone, the inode dies unless it is held."""
        inode = self._volume.inode(ino)
        inode.i_links_count += count
        touch(inode, time.time_ns(), modified=False)
        self._volume.store(ino)
        if inode.i_links_count == 0:
            self.bury(ino)

    def bury(self, ino: int) -> None:
        """No name leads to the inode any more: it ends now, or when it is released."""
        self._orphans.add(ino)
        if ino not in self._held:
            self._end(ino)

    def acquire(self, ino: int) -> None:
        self._held[ino] = self._held.get(ino, 0) + 1

    def release(self, ino: int) -> None:
        """Let one hold go. Within an operation, for the inode may end here."""
        left = self._held.get(ino, 0) - 1
        if left > 0:
            self._held[ino] = left
            return
        if self._held.pop(ino, None) is not None and self._volume.inode(ino).i_links_count == 0:
            self._end(ino)

    def ends_with_release(self, ino: int) -> bool:
        """Whether releasing one hold changes the disk."""
        return self._held.get(ino) == 1 and self._volume.inode(ino).i_links_count == 0

    def end_orphans(self) -> None:
        """At unmount nothing holds an inode any more."""
        self._held.clear()
        for ino in list(reversed(self._orphans.inos)):
            self._end(ino)

    def pin(self, ino: int) -> None:
        self.live(ino)
        self._pinned.add(ino)

    def unpin(self, ino: int) -> None:
        self._pinned.discard(ino)

    def is_pinned(self, ino: int) -> bool:
        return ino in self._pinned

    def check_changeable(self, ino: int) -> None:
        """Raise OSError EPERM where the inode is pinned, immutable or append-only."""
        if ino in self._pinned or not is_changeable(self._volume.inode(ino)):
            raise OSError(errno.EPERM, "the file may not be changed")

    def truncate(self, ino: int, size_bytes: int) -> None:
        """Set the size, and free the blocks behind it.

        What is too much for one commit is done in several, with a size between that is true of what is left. (The
        orphan list would have e2fsck complete it; 1.47.0 then leaves i_blocks wrong for a tree that shrinks.)
        """
        kept_blocks = -(-size_bytes // BLOCK_BYTES)
        while (end := self._cut_some(ino, kept_blocks)) > kept_blocks:
            self._set_size(ino, min(size_of(self._volume.inode(ino)), end * BLOCK_BYTES))
            self._committer.commit()
        self._set_size(ino, size_bytes)

    def _set_size(self, ino: int, size_bytes: int) -> None:
        set_size(self._volume.inode(ino), size_bytes)
        self._volume.store(ino)

    def _cut_some(self, ino: int, kept_blocks: int) -> int:
        """Returns the block from which on nothing is mapped any more."""
        budget = self._committer.budget_blocks
        self._volume.check(lib.map_cut(self._volume.handle, ino, kept_blocks, budget, self._cut_end))
        end: int = self._cut_end[0]
        return end

    def _end(self, ino: int) -> None:
        inode = self._volume.inode(ino)
        is_directory = stat.S_ISDIR(inode.i_mode)
        if inode.i_flags & FLAG_EXTENTS:
            self.truncate(ino, 0)
        self._volume.check(lib.xattr_release(self._volume.handle, ino))
        self._orphans.remove(ino)
        inode = self._volume.inode(ino)
        inode.i_dtime = int(time.time()) & 0xFFFFFFFF
        self._volume.check(lib.inode_release(self._volume.handle, ino, is_directory))
