"""A filesystem in a few dictionaries behind the mount's Protocol: the mount's own tests need no disk.

It keeps the contract (errnos, references, stable cookies) and nothing else: no blocks, no journal, no durability.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vdisk.filesystem import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class FakeAttributes(NamedTuple):
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


class FakeStatistics(NamedTuple):
    block_size: int = 4096
    blocks: int = 1 << 16
    blocks_free: int = 1 << 15
    blocks_available: int = 1 << 14
    files: int = 1 << 16
    files_free: int = 1 << 15
    name_max: int = 255


@dataclass
class _Inode:
    ino: int
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    nlink: int = 0
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # name -> (cookie, inode)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    times_ns: list[int] = field(default_factory=lambda: [time.time_ns()] * 3)
    parent: int = ROOT_INODE


class FakeFilesystem:
    """What `Ext4Filesystem` does, as far as a client can see."""

    def __init__(self) -> None:
        self._inodes = {ROOT_INODE: _Inode(ROOT_INODE, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), nlink=2)}
        self._numbers = itertools.count(11)
        self._cookies = itertools.count(3)
        self.references: dict[int, int] = {}
        self.pinned: set[int] = set()
        self.synced: list[int] = []

    def _entry(self, parent: int, name: bytes) -> _Inode:
        names = self._directory(parent).names
        if name not in names:
            raise _error(errno.ENOENT)
        return self._inodes[names[name][1]]

    def _directory(self, ino: int) -> _Inode:
        if not stat.S_ISDIR(self._inodes[ino].mode):
            raise _error(errno.ENOTDIR)
        return self._inodes[ino]

    def _touch(self, *inodes: _Inode) -> None:
        for inode in inodes:
            inode.times_ns[1:] = [time.time_ns()] * 2

    def _forbid_pinned(self, *inodes: _Inode) -> None:
        if any(inode.ino in self.pinned for inode in inodes):
            raise _error(errno.EPERM)

    def lookup(self, parent: int, name: bytes) -> int:
        return self._entry(parent, name).ino

    def attributes(self, ino: int) -> FakeAttributes:
        inode = self._inodes[ino]
        size = len(inode.data)
        return FakeAttributes(
            ino=ino,
            mode=inode.mode,
            nlink=inode.nlink,
            uid=inode.uid,
            gid=inode.gid,
            rdev=inode.rdev,
            size_bytes=size,
            blocks_512=-(-size // 4096) * 8,
            atime_ns=inode.times_ns[0],
            mtime_ns=inode.times_ns[1],
            ctime_ns=inode.times_ns[2],
            generation=1,
        )

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
    ) -> FakeAttributes:
        inode = self._inodes[ino]
        self._forbid_pinned(inode)
        inode.mode = inode.mode if mode is None else stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        inode.uid = inode.uid if uid is None else uid
        inode.gid = inode.gid if gid is None else gid
        if size_bytes is not None:
            del inode.data[size_bytes:]
            inode.data.extend(bytes(size_bytes - len(inode.data)))
        for index, value in enumerate((atime_ns, mtime_ns, ctime_ns)):
            inode.times_ns[index] = inode.times_ns[index] if value is None else value
        return self.attributes(ino)

    def _add(self, parent: int, name: bytes, inode: _Inode) -> FakeAttributes:
        directory = self._directory(parent)
        if name in directory.names:
            raise _error(errno.EEXIST)
        self._inodes[inode.ino] = inode
        directory.names[name] = (next(self._cookies), inode.ino)
        inode.nlink += 1
        self._touch(directory)
        return self.attributes(inode.ino)

    def create(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> FakeAttributes:
        return self._add(parent, name, _Inode(next(self._numbers), stat.S_IFREG | stat.S_IMODE(mode), uid, gid))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> FakeAttributes:
        return self._add(parent, name, _Inode(next(self._numbers), mode, uid, gid, rdev))

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> FakeAttributes:
        inode = _Inode(next(self._numbers), stat.S_IFDIR | stat.S_IMODE(mode), uid, gid, nlink=1, parent=parent)
        self._add(parent, name, inode)
        self._inodes[parent].nlink += 1
        return self.attributes(inode.ino)

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> FakeAttributes:
        inode = _Inode(next(self._numbers), stat.S_IFLNK | 0o777, uid, gid, data=bytearray(target))
        return self._add(parent, name, inode)

    def link(self, ino: int, parent: int, name: bytes) -> FakeAttributes:
        self._forbid_pinned(self._inodes[ino])
        return self._add(parent, name, self._inodes[ino])

    def _drop(self, inode: _Inode) -> None:
        if inode.nlink == 0 and not self.references.get(inode.ino):
            del self._inodes[inode.ino]

    def unlink(self, parent: int, name: bytes) -> None:
        inode = self._entry(parent, name)
        self._forbid_pinned(inode)
        del self._inodes[parent].names[name]
        inode.nlink -= 1
        inode.times_ns[2] = time.time_ns()
        self._touch(self._inodes[parent])
        self._drop(inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        inode = self._entry(parent, name)
        if inode.names:
            raise _error(errno.ENOTEMPTY)
        del self._inodes[parent].names[name]
        inode.nlink = 0
        self._inodes[parent].nlink -= 1
        self._touch(self._inodes[parent])
        self._drop(inode)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        moved = self._entry(parent, name)
        old, new = self._inodes[parent].names, self._directory(new_parent).names
        replaced = self._inodes[new[new_name][1]] if new_name in new else None
        self._forbid_pinned(moved, *([replaced] if replaced else []))
        self._touch(self._inodes[parent], self._inodes[new_parent])
        if flags == 2:
            if replaced is None:
                raise _error(errno.ENOENT)
            old[name], new[new_name] = (old[name][0], replaced.ino), (new[new_name][0], moved.ino)
            return
        if replaced is not None:
            if flags == 1:
                raise _error(errno.EEXIST)
            if replaced is moved:
                return
            (self.rmdir if stat.S_ISDIR(replaced.mode) else self.unlink)(new_parent, new_name)
        del old[name]
        new[new_name] = (next(self._cookies), moved.ino)
        if stat.S_ISDIR(moved.mode) and parent != new_parent:
            moved.parent = new_parent
            self._inodes[parent].nlink -= 1
            self._inodes[new_parent].nlink += 1

    def readlink(self, ino: int) -> bytes:
        return bytes(self._inodes[ino].data)

    def entries(self, ino: int, start: int) -> Iterator[tuple[bytes, int, int, int]]:
        directory = self._directory(ino)
        dots = [(b".", 1, ino), (b"..", 2, directory.parent)]
        named = sorted((cookie, name, child) for name, (cookie, child) in directory.names.items())
        for name, cookie, child in dots + [(name, cookie, child) for cookie, name, child in named]:
            if cookie > start:
                yield name, child, stat.S_IFMT(self._inodes[child].mode) >> 12, cookie

    def acquire(self, ino: int) -> None:
        self.references[ino] = self.references.get(ino, 0) + 1

    def release(self, ino: int) -> None:
        self.references[ino] -= 1
        if not self.references[ino]:
            del self.references[ino]
            self._drop(self._inodes[ino])

    def read(self, ino: int, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self._inodes[ino].data[offset_bytes : offset_bytes + size_bytes])

    def write(self, ino: int, offset_bytes: int, data: Buffer) -> int:
        inode, view = self._inodes[ino], memoryview(data)
        self._forbid_pinned(inode)
        inode.data.extend(bytes(max(0, offset_bytes - len(inode.data))))
        inode.data[offset_bytes : offset_bytes + view.nbytes] = view
        self._touch(inode)
        return view.nbytes

    def fsync(self, ino: int) -> None:
        self.synced.append(ino)

    def statistics(self) -> FakeStatistics:
        return FakeStatistics(files_free=FakeStatistics().files - len(self._inodes))

    def xattr_get(self, ino: int, name: bytes) -> bytes:
        if name not in self._inodes[ino].xattrs:
            raise _error(errno.ENODATA)
        return self._inodes[ino].xattrs[name]

    def xattr_set(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._forbid_pinned(self._inodes[ino])
        self._inodes[ino].xattrs[name] = value

    def xattr_list(self, ino: int) -> list[bytes]:
        return list(self._inodes[ino].xattrs)

    def xattr_remove(self, ino: int, name: bytes) -> None:
        self.xattr_get(ino, name)
        del self._inodes[ino].xattrs[name]

    def pin(self, ino: int) -> None:
        self.pinned.add(ino)

    def is_pinned(self, ino: int) -> bool:
        return ino in self.pinned
