# ruff: noqa: ARG002 - pyfuse3 gives the signatures
"""The filesystem as FUSE asks for it: each request of the kernel is a method, each method a sentence.

Handlers are synchronous inside. Reads, writes and attributes are cached by the kernel for as long as it likes, because
nobody else changes the disk; only pinned files, which are written beneath the mount, go past its cache.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

import pyfuse3

from vdisk.filesystem import NAME_MAX_BYTES, ROOT_INODE
from vdisk.mount.answer import handler
from vdisk.mount.attributes import absent_entry, entry_of, statvfs_of
from vdisk.mount.capabilities import CAPABILITY, CapabilityCache
from vdisk.mount.control import CONTROL_NAME, CONTROL_NODE, ControlDirectory, ControlFile, is_control
from vdisk.mount.nodes import NodeTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vdisk.filesystem import Attributes, Filesystem

_ROOT_UID = 0
_RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE
_TRUSTED = b"trusted."  # listed to root only; the kernel guards the values
_DOTS = (b".", b"..")
_CONTROL_COOKIE = 1 << 62  # behind every cookie of the root's real entries
_WRITING = os.O_WRONLY | os.O_RDWR


def _nothing(*_: object) -> None:
    """The hook of somebody who does not want to know."""


class Operations(pyfuse3.Operations):
    """A filesystem and the control directory at its root.

    `on_open(path, ino)` hears of every file opened or created, `on_failure(handler, exception)` of every answer EIO.
    `on_use()`, which may be set, hears of every look-up, open, read and write, and must be quick.
    """

    supports_dot_lookup = False

    def __init__(
        self,
        filesystem: Filesystem,
        control_files: Iterable[ControlFile] = (),
        *,
        on_open: Callable[[bytes, int], object] = _nothing,
        on_failure: Callable[[str, Exception], object],
    ) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._control = ControlDirectory(control_files, os.getuid(), os.getgid())
        self._nodes = NodeTable(filesystem)
        self._capabilities = CapabilityCache(filesystem)
        self._on_open = on_open
        self.on_use: Callable[[], object] = _nothing
        self.on_failure = on_failure

    def forget_all(self) -> None:
        """Give up what the kernel held: it sends no forgets when a mount ends. The filesystem must still be open."""
        for ino, count in self._nodes.references():
            self._forget(ino, count)

    # Names

    @handler
    def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if is_control(parent_inode):
            return self._control.lookup(name)
        if parent_inode == pyfuse3.ROOT_INODE and name == CONTROL_NAME:
            return self._control.entry(CONTROL_NODE)
        _check_length(name)
        self.on_use()
        parent = _real(parent_inode)
        try:
            ino = self._filesystem.lookup(parent, name)
        except FileNotFoundError:
            return absent_entry()
        return self._referred(parent, name, self._filesystem.attributes(ino))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for node, count in inode_list:
            if not is_control(node):
                self._forget(_real(node), count)

    def _forget(self, ino: int, count: int) -> None:
        """Take references away; the kernel waits for no answer, so a failure can only be reported."""
        try:
            if self._nodes.forget(ino, count):
                self._capabilities.forget(ino)
        except Exception as error:
            self.on_failure("forget", error)

    def _referred(self, parent: int, name: bytes, attributes: Attributes) -> pyfuse3.EntryAttributes:
        """The answer to a request that gives the kernel one more reference to an inode."""
        self._nodes.refer(attributes.ino, parent, name)
        return entry_of(attributes)

    @handler
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        parent = self._parent(parent_inode, name)
        created = self._filesystem.create(parent, name, mode, ctx.uid, self._group(parent, ctx))
        entry = self._referred(parent, name, created)
        return self._opened(created.ino), entry

    @handler
    def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent = self._parent(parent_inode, name)
        gid = self._group(parent, ctx)
        if stat.S_ISREG(mode):
            made = self._filesystem.create(parent, name, mode, ctx.uid, gid)
        else:
            made = self._filesystem.mknod(parent, name, mode, rdev, ctx.uid, gid)
        return self._referred(parent, name, made)

    @handler
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        parent = self._parent(parent_inode, name)
        inherited = self._filesystem.attributes(parent).mode & stat.S_ISGID
        made = self._filesystem.mkdir(parent, name, mode | inherited, ctx.uid, self._group(parent, ctx))
        return self._referred(parent, name, made)

    @handler
    def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent = self._parent(parent_inode, name)
        made = self._filesystem.symlink(parent, name, target, ctx.uid, self._group(parent, ctx))
        return self._referred(parent, name, made)

    @handler
    def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent = self._parent(new_parent_inode, new_name)
        return self._referred(parent, new_name, self._filesystem.link(_real(inode), parent, new_name))

    @handler
    def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._filesystem.unlink(self._parent(parent_inode, name), name)

    @handler
    def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._filesystem.rmdir(self._parent(parent_inode, name), name)

    @handler
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~_RENAME_FLAGS:
            raise OSError(errno.EINVAL, "no such kind of rename")
        old, new = self._parent(parent_inode_old, name_old), self._parent(parent_inode_new, name_new)
        self._filesystem.rename(old, name_old, new, name_new, flags)
        self._nodes.rename(self._filesystem.lookup(new, name_new), new, name_new)
        if flags & pyfuse3.RENAME_EXCHANGE:
            self._nodes.rename(self._filesystem.lookup(old, name_old), old, name_old)

    @handler
    def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self._filesystem.readlink(_real(inode))

    def _parent(self, node: int, name: bytes) -> int:
        """The directory in which a name is to be changed, if it may be."""
        if node == pyfuse3.ROOT_INODE and name == CONTROL_NAME:
            raise PermissionError(errno.EPERM, "the control directory is not on the disk")
        _check_length(name)
        return _real(node)

    def _group(self, parent: int, ctx: pyfuse3.RequestContext) -> int:
        """The group of a new entry: the caller's, or that of a set-gid directory."""
        directory = self._filesystem.attributes(parent)
        return directory.gid if directory.mode & stat.S_ISGID else ctx.gid

    # Attributes

    @handler
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if is_control(inode):
            return self._control.entry(inode)
        return entry_of(self._filesystem.attributes(_real(inode)))

    @handler
    def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if is_control(inode) and fields.update_size:
            return self._control.entry(inode)  # `echo c > trigger` truncates, which has no meaning here
        ino = _real(inode)
        now_ns = time.time_ns()
        mtime_ns = attr.st_mtime_ns if fields.update_mtime else now_ns if fields.update_size else None
        changed = self._filesystem.set_attributes(
            ino,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size_bytes=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=mtime_ns,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else now_ns,
        )
        return entry_of(changed)

    @handler
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return statvfs_of(self._filesystem.statistics())

    # Files: their handles are their inodes

    @handler
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if is_control(inode):
            return self._control.open(inode, flags)
        ino = _real(inode)
        if flags & _WRITING and self._filesystem.is_pinned(ino):
            raise PermissionError(errno.EPERM, "pinned")
        if flags & os.O_TRUNC:
            self._truncate(ino, ctx)
        return self._opened(ino)

    def _truncate(self, ino: int, ctx: pyfuse3.RequestContext) -> None:
        """Empty a file as part of its open, as libfuse has promised to the kernel.

        The set-id bits are ours to clear here; on chown, write and truncate(2) the kernel clears them.
        """
        mode = None if ctx.uid == _ROOT_UID else _without_privileges(self._filesystem.attributes(ino).mode)
        now_ns = time.time_ns()
        self._filesystem.set_attributes(ino, mode=mode, size_bytes=0, mtime_ns=now_ns, ctime_ns=now_ns)

    def _opened(self, ino: int) -> pyfuse3.FileInfo:
        self.on_use()
        self._on_open(self._nodes.path(ino), ino)
        pinned = self._filesystem.is_pinned(ino)
        return pyfuse3.FileInfo(fh=ino, direct_io=pinned, keep_cache=not pinned)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # pyfuse3 takes both
        if is_control(fh):
            return self._control.read(fh, off, size)
        self.on_use()
        return self._filesystem.read(fh, off, size)

    @handler
    def write(self, fh: int, off: int, buf: bytes) -> int:
        if is_control(fh):
            return self._control.write(fh, buf)
        self.on_use()
        return self._filesystem.write(fh, off, buf)

    @handler
    def fsync(self, fh: int, datasync: bool) -> None:
        if not is_control(fh):
            self._filesystem.fsync(fh)

    @handler
    def release(self, fh: int) -> None:
        if is_control(fh):
            self._control.release(fh)

    # Directories: their handles are their nodes

    @handler
    def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    @handler
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if is_control(fh):
            self._list_control(start_id, token)
        elif start_id != _CONTROL_COOKIE:
            self._list_directory(_real(fh), start_id, token)

    def _list_control(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        for name, node, cookie in self._control.entries(start):
            if not pyfuse3.readdir_reply(token, name, self._control.entry(node), cookie):
                return

    def _list_directory(self, directory: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """List with attributes, so that `ls -l` need not ask again; each entry shown is one more reference."""
        for name, ino, _, cookie in self._filesystem.entries(directory, start):
            if directory == ROOT_INODE and name == CONTROL_NAME:
                continue
            if not pyfuse3.readdir_reply(token, name, entry_of(self._filesystem.attributes(ino)), cookie):
                return
            if name not in _DOTS:
                self._nodes.refer(ino, directory, name)
        if directory == ROOT_INODE:
            pyfuse3.readdir_reply(token, CONTROL_NAME, self._control.entry(CONTROL_NODE), _CONTROL_COOKIE)

    @handler
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        if not is_control(fh):
            self._filesystem.fsync(_real(fh))

    async def releasedir(self, fh: int) -> None:
        pass

    # Extended attributes

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        _check_namespace(name)
        if is_control(inode):
            raise OSError(errno.ENODATA, "no attributes")
        if name == CAPABILITY:
            return self._capabilities.get(_real(inode))
        return self._filesystem.xattr_get(_real(inode), name)

    @handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_namespace(name)
        self._filesystem.xattr_set(_real(inode), name, value, 0)
        self._capabilities.forget(_real(inode))

    @handler
    def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_namespace(name)
        self._filesystem.xattr_remove(_real(inode), name)
        self._capabilities.forget(_real(inode))

    @handler
    def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        if is_control(inode):
            return []
        names = self._filesystem.xattr_list(_real(inode))
        return [name for name in names if ctx.uid == _ROOT_UID or not name.startswith(_TRUSTED)]


def _real(node: int) -> int:
    """The ext4 inode behind a node; the control directory has none, so all that would change it is refused here."""
    if is_control(node):
        raise PermissionError(errno.EPERM, "the control directory is not on the disk")
    return ROOT_INODE if node == pyfuse3.ROOT_INODE else node


def _check_length(name: bytes) -> None:
    if len(name) > NAME_MAX_BYTES:
        raise OSError(errno.ENAMETOOLONG, "a name has at most 255 bytes")


def _check_namespace(name: bytes) -> None:
    """Refuse access control lists, which are kept in `system.`: stored, but not obeyed, they would promise too much."""
    if name.startswith(b"system."):
        raise OSError(errno.EOPNOTSUPP, "no such namespace")


def _without_privileges(mode: int) -> int:
    """A mode with the set-id bits cleared; set-gid without group execution is no privilege."""
    cleared = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return mode & ~cleared
