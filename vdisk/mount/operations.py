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
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3

from vdisk.filesystem import NAME_MAX_BYTES, ROOT_INODE
from vdisk.mount.answer import handler
from vdisk.mount.attributes import absent_entry, entry_of, node_of, statvfs_of
from vdisk.mount.control import CONTROL_NAME, CONTROL_NODE, ControlDirectory, ControlFile, is_control
from vdisk.mount.nodes import NodeTable
from vdisk.mount.privileges import CAPABILITY, PrivilegeCache, without_privileges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vdisk.filesystem import Attributes, Filesystem

_ROOT_UID = 0
_RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE
_TRUSTED = b"trusted."  # listed to root only; the kernel guards the values
_DOTS = (b".", b"..")
_CONTROL_COOKIE = 1 << 62  # behind every cookie of the root's real entries
_WRITING = os.O_WRONLY | os.O_RDWR


class _Handle(NamedTuple):
    """An open file. `privileged`: root opened it, so that its writes leave the set-id bits alone."""

    ino: int
    privileged: bool


def _nothing(*_: object) -> None:
    """The hook of somebody who does not want to know."""


class Operations(pyfuse3.Operations):
    """A filesystem and the control directory at its root.

    `on_open(path, ino)` hears of every file opened or created, `on_failure(handler, exception)` of every answer EIO.
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
        self._privileges = PrivilegeCache(filesystem)
        self._handles: dict[int, _Handle] = {}
        self._next_handle = 0
        self._on_open = on_open
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
                self._privileges.forget(ino)
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
        return self._opened(created.ino, ctx), entry

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
        self._privileges.forget(ino)
        now_ns = time.time_ns()
        mode = attr.st_mode if fields.update_mode else self._mode_without_privileges(ino, fields, ctx)
        mtime_ns = attr.st_mtime_ns if fields.update_mtime else now_ns if fields.update_size else None
        changed = self._filesystem.set_attributes(
            ino,
            mode=mode,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size_bytes=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=mtime_ns,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else now_ns,
        )
        return entry_of(changed)

    def _mode_without_privileges(
        self, ino: int, fields: pyfuse3.SetattrFields, ctx: pyfuse3.RequestContext
    ) -> int | None:
        """The mode to set along with an owner or a size: chown ends privileges, truncate does unless root asks."""
        ends = fields.update_uid or fields.update_gid or (fields.update_size and ctx.uid != _ROOT_UID)
        return without_privileges(self._filesystem.attributes(ino).mode) if ends else None

    @handler
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return statvfs_of(self._filesystem.statistics())

    # Files

    @handler
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if is_control(inode):
            return self._control.open(inode, flags)
        ino = _real(inode)
        if flags & _WRITING and self._filesystem.is_pinned(ino):
            raise PermissionError(errno.EPERM, "pinned")
        if flags & os.O_TRUNC:
            self._truncate(ino, ctx)
        return self._opened(ino, ctx)

    def _truncate(self, ino: int, ctx: pyfuse3.RequestContext) -> None:
        """Empty a file as part of its open: libfuse asks the kernel not to send a truncation of its own."""
        now_ns = time.time_ns()
        self._filesystem.set_attributes(ino, size_bytes=0, mtime_ns=now_ns, ctime_ns=now_ns)
        if ctx.uid != _ROOT_UID:
            self._drop_privileges(ino)

    def _opened(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        self._next_handle += 1
        self._handles[self._next_handle] = _Handle(ino, privileged=ctx.uid == _ROOT_UID)
        self._on_open(self._nodes.path(ino), ino)
        pinned = self._filesystem.is_pinned(ino)
        return pyfuse3.FileInfo(fh=self._next_handle, direct_io=pinned, keep_cache=not pinned)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # pyfuse3 takes both
        if is_control(fh):
            return self._control.read(fh, off, size)
        return self._filesystem.read(self._handles[fh].ino, off, size)

    @handler
    def write(self, fh: int, off: int, buf: bytes) -> int:
        if is_control(fh):
            return self._control.write(fh, buf)
        ino, privileged = self._handles[fh]
        written = self._filesystem.write(ino, off, buf)
        if not privileged:
            self._drop_privileges(ino)
        return written

    def _drop_privileges(self, ino: int) -> None:
        """Clear the set-id bits, and have the kernel ask for the mode anew: after a write it looks at the size only."""
        if self._privileges.drop(ino):
            pyfuse3.invalidate_inode(node_of(ino), attr_only=True)

    @handler
    def fsync(self, fh: int, datasync: bool) -> None:
        if not is_control(fh):
            self._filesystem.fsync(self._handles[fh].ino)

    @handler
    def release(self, fh: int) -> None:
        if is_control(fh):
            self._control.release(fh)
        else:
            del self._handles[fh]

    # Directories: their handles are their inodes

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
            raise _no_such_xattr()
        if name != CAPABILITY:
            return self._filesystem.xattr_get(_real(inode), name)
        capability = self._privileges.capability(_real(inode))
        if capability is None:
            raise _no_such_xattr()
        return capability

    @handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_namespace(name)
        self._filesystem.xattr_set(_real(inode), name, value, 0)
        self._privileges.forget(_real(inode))

    @handler
    def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_namespace(name)
        self._filesystem.xattr_remove(_real(inode), name)
        self._privileges.forget(_real(inode))

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


def _no_such_xattr() -> OSError:
    return OSError(errno.ENODATA, "no such attribute")
