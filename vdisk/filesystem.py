"""What the mount asks of a filesystem: one small synchronous interface, so that the mount knows no ext4.

Inode numbers are ext4's: the root is 2. Names are bytes. A failure of one file is an `OSError` with its errno; a
failure of the filesystem as a whole is a `FilesystemError`. All calls come from one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

ROOT_INODE = 2
NAME_MAX_BYTES = 255


class Attributes(Protocol):
    """What stat(2) shows of an inode. Times are nanoseconds since 1970; `blocks_512` counts units of 512 bytes."""

    @property
    def ino(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def blocks_512(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def generation(self) -> int: ...


class Statistics(Protocol):
    """What statvfs(3) shows of the filesystem. Counts of blocks are in units of `block_size`, which is bytes."""

    @property
    def block_size(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def blocks_free(self) -> int: ...
    @property
    def blocks_available(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def files_free(self) -> int: ...
    @property
    def name_max(self) -> int: ...


class Filesystem(Protocol):
    """The calls behind a mount, in the order of the system calls that they serve."""

    def lookup(self, parent: int, name: bytes, /) -> int:
        """Return the inode behind a name. Raises ENOENT."""

    def attributes(self, ino: int, /) -> Attributes: ...

    def set_attributes(
        self,
        ino: int,
        /,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size_bytes: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Attributes:
        """Change what is given and leave the rest; a new size truncates or extends with a hole."""

    def create(self, parent: int, name: bytes, mode: int, uid: int, gid: int, /) -> Attributes: ...
    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int, /) -> Attributes: ...
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, /) -> Attributes: ...
    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int, /) -> Attributes: ...
    def link(self, ino: int, parent: int, name: bytes, /) -> Attributes: ...
    def unlink(self, parent: int, name: bytes, /) -> None: ...
    def rmdir(self, parent: int, name: bytes, /) -> None: ...

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0, /) -> None:
        """Rename; flags are RENAME_NOREPLACE (1) or RENAME_EXCHANGE (2) of renameat2(2)."""

    def readlink(self, ino: int, /) -> bytes: ...

    def entries(self, ino: int, start: int, /) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield (name, inode, file type as S_IF* >> 12 or 0, cookie of the next entry); `start` is 0 or a cookie."""

    def acquire(self, ino: int, /) -> None:
        """Keep an inode alive, though it be unlinked, until as many calls of `release`."""

    def release(self, ino: int, /) -> None: ...

    def read(self, ino: int, offset_bytes: int, size_bytes: int, /) -> bytes | memoryview:
        """Return what is there: fewer bytes only at the end of the file."""

    def write(self, ino: int, offset_bytes: int, data: Buffer, /) -> int: ...

    def fsync(self, ino: int, /) -> None:
        """Return when data and metadata of the inode would survive a power cut."""

    def statistics(self) -> Statistics: ...
    def xattr_get(self, ino: int, name: bytes, /) -> bytes: ...

    def xattr_set(self, ino: int, name: bytes, value: bytes, flags: int, /) -> None:
        """Set an attribute; flags are XATTR_CREATE (1) or XATTR_REPLACE (2) of setxattr(2)."""

    def xattr_list(self, ino: int, /) -> Sequence[bytes]: ...
    def xattr_remove(self, ino: int, name: bytes, /) -> None: ...

    def is_pinned(self, ino: int, /) -> bool:
        """Whether the inode's blocks are promised to somebody who writes them beneath the filesystem."""
