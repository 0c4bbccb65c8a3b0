"""The face of the package: one ext4 filesystem on a block device.

What one file answers is a plain OSError with its errno. `ino` are ext4 inode numbers, the root is `ROOT_INO`; names are
bytes; times are nanoseconds since 1970. Not thread-safe: one thread, and nothing else writes to the device meanwhile.
"""

from __future__ import annotations

import errno
import stat
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import FilesystemError
from vdisk.ext4.committer import Committer
from vdisk.ext4.directories import NAME_MAX_BYTES, Directories
from vdisk.ext4.files import Files
from vdisk.ext4.inodes import Attributes, Inodes
from vdisk.ext4.log import Log
from vdisk.ext4.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, Namespace
from vdisk.ext4.superblock import Superblock, needs_check
from vdisk.ext4.volume import BLOCK_BYTES, Volume
from vdisk.ext4.xattrs import Xattrs
from vdisk.extent import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import Extent, Run

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "ROOT_INO",
    "Attributes",
    "Ext4Filesystem",
    "Statistics",
    "needs_check",
]

ROOT_INO = 2


class Statistics(NamedTuple):
    """What statvfs(3) tells, in blocks of `block_size` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    name_max: int


class Ext4Filesystem:
    """Open it with `Ext4Filesystem.open`; end it with `close`, or with `abandon` as a crash would."""

    def __init__(self, volume: Volume, log: Log) -> None:
        self._volume = volume
        self._committer = Committer(volume, log)
        self._inodes = Inodes(volume, self._committer)
        self._files = Files(volume, self._committer, self._inodes)
        directories = Directories(volume, self._files)
        self._directories = directories
        self._namespace = Namespace(volume, self._committer, self._inodes, self._files, directories)
        self._xattrs = Xattrs(volume, self._committer, self._inodes)

    @classmethod
    def open(cls, device: BlockDevice) -> Ext4Filesystem:
        """Raises `FilesystemError` where it is no ext4, has to be checked first, or has features that are unknown."""
        superblock = Superblock(device)
        superblock.check_supported()
        if superblock.needs_check:
            raise FilesystemError("the filesystem has to be checked first; run e2fsck -p on it")
        volume = Volume(device)
        place = journal_place(volume)
        for extent in place.extents:
            volume.mark_system(extent.physical_bytes // BLOCK_BYTES, extent.length_bytes // BLOCK_BYTES)
        return cls(volume, Log(device, place, checksums=superblock.has_checksums, wide=superblock.is_64bit))

    # The whole

    def close(self) -> None:
        """Commit, and leave the disk clean. Unlinked files that are still held end here.

        Raises `FilesystemError` where that fails, or something failed before: e2fsck has to run then.
        """
        self._committer.close(self._inodes.end_orphans)

    @property
    def failure(self) -> str:
        """What ended the filesystem: the first failure in one line; empty while all is well. From then on every change
        is refused (EROFS), and the disk stays at its last commit."""
        return self._committer.failure

    def abandon(self) -> None:
        """Drop everything in memory without writing, as a crash would."""
        self._committer.has_ended = True

    def commit(self) -> None:
        """Make all that was done so far durable."""
        self._committer.sync()

    def maintain(self) -> None:
        """Call it about once a second: commits what is 5 seconds old, and keeps the caches small.

        Raises `FilesystemError` when the filesystem has failed, be it here or in an operation since the last call.
        """
        self._committer.maintain()

    def statistics(self) -> Statistics:
        superblock = self._volume.superblock
        free = self._volume.free_blocks
        reserved = superblock.s_r_blocks_count | superblock.s_r_blocks_count_hi << 32
        return Statistics(
            BLOCK_BYTES,
            max(self._volume.block_count - superblock.s_overhead_clusters, free),
            free,
            max(free - reserved, 0),
            superblock.s_inodes_count,
            superblock.s_free_inodes_count,
            NAME_MAX_BYTES,
        )

    # Names

    def lookup(self, parent: int, name: bytes) -> int:
        """Raises OSError ENOENT, ENOTDIR."""
        return self._namespace.lookup(parent, name)

    def resolve(self, path: bytes) -> int:
        """The inode at an absolute path; symbolic links are not followed."""
        ino = ROOT_INO
        for name in path.split(b"/"):
            if name:
                ino = self._namespace.lookup(ino, name)
        return ino

    def entries(self, ino: int, start: int) -> Iterator[tuple[bytes, int, int, int]]:
        """(name, ino, file type as S_IF* >> 12 or 0, cookie): begin at 0, or at the cookie of the last entry seen."""
        return self._directories.get(ino).entries(start)

    def create(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Attributes:
        """A regular file. Raises OSError EEXIST, ENOSPC, ENAMETOOLONG."""
        return self.mknod(parent, name, stat.S_IFREG | stat.S_IMODE(mode), 0, uid, gid)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> Attributes:
        """A file of the kind that `mode` says; not a directory or a symbolic link."""
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(errno.EINVAL, "not a kind of file that can be made")
        with self._committer:
            return self._inodes.attributes(self._namespace.make(parent, name, mode, uid, gid, rdev))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Attributes:
        with self._committer:
            return self._inodes.attributes(self._namespace.make_directory(parent, name, mode, uid, gid))

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        with self._committer:
            return self._inodes.attributes(self._namespace.make_symlink(parent, name, target, uid, gid))

    def readlink(self, ino: int) -> bytes:
        return self._namespace.read_symlink(ino)

    def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        with self._committer:
            self._namespace.link(ino, parent, name)
            return self._inodes.attributes(ino)

    def unlink(self, parent: int, name: bytes) -> None:
        with self._committer:
            self._namespace.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        with self._committer:
            self._namespace.remove_directory(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """As rename(2); flags are 0, RENAME_NOREPLACE or RENAME_EXCHANGE."""
        with self._committer:
            self._namespace.rename(parent, name, new_parent, new_name, flags)

    # Inodes

    def attributes(self, ino: int) -> Attributes:
        return self._inodes.attributes(ino)

    def set_attributes(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size_bytes: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Attributes:
        """Change what is given. Raises OSError EPERM where the file is pinned."""
        with self._committer:
            self._inodes.check_changeable(ino)
            if size_bytes is not None:
                self._files.truncate(ino, size_bytes)
            self._inodes.set_attributes(ino, mode, uid, gid, atime_ns, mtime_ns, ctime_ns)
            return self._inodes.attributes(ino)

    def acquire(self, ino: int) -> None:
        """Hold an inode: unlinked, it lives until the last `release`."""
        self._inodes.acquire(ino)

    def release(self, ino: int) -> None:
        """Let one hold go. After `close`, `abandon` or a failed commit there is nothing left to do."""
        if self._committer.has_ended:
            return
        with self._committer if self._inodes.ends_with_release(ino) else nullcontext():
            self._inodes.release(ino)

    def pin(self, ino: int) -> None:
        """Refuse every change of the file, its names and its attributes (EPERM) until `unpin`."""
        self._inodes.pin(ino)

    def reserve(self, runs: Iterable[Run]) -> None:
        """Keep what is free of these pieces of the disk from being allocated, until `release_reserved` or the end."""
        for physical_bytes, length_bytes in runs:
            self._volume.reserve_blocks(physical_bytes // BLOCK_BYTES, length_bytes // BLOCK_BYTES)

    def release_reserved(self) -> None:
        self._volume.release_reserved_blocks()

    def unpin(self, ino: int) -> None:
        self._inodes.unpin(ino)

    def is_pinned(self, ino: int) -> bool:
        return self._inodes.is_pinned(ino)

    def xattr_get(self, ino: int, name: bytes) -> bytes:
        """Raises OSError ENODATA, EOPNOTSUPP."""
        return self._xattrs.get(ino, name)

    def xattr_list(self, ino: int) -> list[bytes]:
        return self._xattrs.list(ino)

    def xattr_set(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        with self._committer:
            self._inodes.check_changeable(ino)
            self._committer.require(1)
            self._xattrs.set(ino, name, value, flags)

    def xattr_remove(self, ino: int, name: bytes) -> None:
        with self._committer:
            self._inodes.check_changeable(ino)
            self._committer.require(1)
            self._xattrs.remove(ino, name)

    # Content

    def read(self, ino: int, offset_bytes: int, size_bytes: int) -> memoryview:
        return self._files.read(ino, offset_bytes, size_bytes)

    def write(self, ino: int, offset_bytes: int, data: Buffer) -> int:
        """Returns how many bytes were written. Raises OSError ENOSPC, EFBIG, EPERM; `DeviceError`."""
        view = memoryview(data).cast("B")
        if not view.nbytes:
            return 0
        with self._committer:
            self._inodes.check_changeable(ino)
            return self._files.write(ino, offset_bytes, view)

    def fsync(self, ino: int) -> None:
        """All that was done to the file so far is there after a power cut."""
        self._inodes.live(ino)
        self._committer.sync()

    def allocate_written(self, ino: int, size_bytes: int) -> None:
        """Give an empty file written blocks in as few runs as can be, without writing them: they hold what they held.

        Raises OSError ENOSPC and leaves nothing behind; EINVAL where the file is not empty.
        """
        with self._committer:
            self._inodes.check_changeable(ino)
            self._files.allocate_written(ino, size_bytes)

    def extents(self, ino: int) -> list[Extent]:
        """Where the file lies on the device. Raises `FilesystemError` where it has a hole or unwritten blocks, OSError
        EUCLEAN where it claims blocks of the filesystem's own, or such as are marked free.
        """
        return self._files.extents(ino)


def journal_place(volume: Volume) -> ExtentMap:
    """The blocks of the journal's inode. Raises `FilesystemError` where they are not what they should be."""
    ino = volume.superblock.s_journal_inum
    if not ino:
        raise FilesystemError("the journal is on another device, which is not supported")
    try:
        place = ExtentMap(volume.extents(ino))
    except OSError as error:
        raise FilesystemError(f"the journal cannot be read: {error.strerror}; run e2fsck on the image") from error
    if not place.extents:
        raise FilesystemError("the journal is empty; run e2fsck on the image")
    return place
