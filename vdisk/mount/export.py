# ruff: noqa: ARG002 - pyfuse3 gives the signatures
"""A block device shown as one file, so that mke2fs and e2fsck work on it through the driver stack."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from typing import TYPE_CHECKING

import pyfuse3
import trio

from vdisk.mount.answer import handler
from vdisk.mount.groups import ungrouped
from vdisk.mount.session import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vdisk.blockdevice import BlockDevice

_NAME = b"device"
_NODE = 2


@contextlib.asynccontextmanager
async def exported(device: BlockDevice, on_failure: Callable[[str, Exception], object]) -> AsyncIterator[str]:
    """Yield the path of a file that is the device, read and written through it, as long as the context lasts.

    Writes reach the device before write(2) returns and fsync(2) flushes it, so nothing is left in the kernel at the
    end; reads may come from the kernel's cache, which ends with the mount. `on_failure(handler, exception)` hears of
    every answer EIO. Raises MountError.
    """
    stop = trio.Event()
    directory = tempfile.mkdtemp(prefix="ghostdump-")
    operations = _DeviceFile(device, on_failure)
    try:
        with ungrouped():
            async with trio.open_nursery() as nursery:
                await nursery.start(_serve_until, stop, operations, directory)
                try:
                    yield os.path.join(directory, os.fsdecode(_NAME))
                finally:
                    stop.set()
    finally:
        os.rmdir(directory)


async def _serve_until(
    stop: trio.Event,
    operations: pyfuse3.Operations,
    directory: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve(operations, directory, source="device", stop=stop, on_ready=task_status.started)


class _DeviceFile(pyfuse3.Operations):
    """A root directory with one file of the device's size; nothing can be made, removed or resized."""

    supports_dot_lookup = False

    def __init__(self, device: BlockDevice, on_failure: Callable[[str, Exception], object]) -> None:
        super().__init__()
        self.on_failure = on_failure
        self._device = device
        self._created_ns = time.time_ns()

    def _entry(self, node: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = stat.S_IFREG | 0o600 if node == _NODE else stat.S_IFDIR | 0o700
        entry.st_size = self._device.size_bytes if node == _NODE else 0
        entry.st_blocks = entry.st_size // 512
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._created_ns
        return entry

    @handler
    def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name != _NAME:
            raise FileNotFoundError(errno.ENOENT, "there is only the device")
        return self._entry(_NODE)

    @handler
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    @handler
    def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size and attr.st_size != self._device.size_bytes:
            raise PermissionError(errno.EPERM, "a device has a fixed size")
        return self._entry(inode)

    @handler
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytearray:  # type: ignore[override]  # pyfuse3 takes any buffer
        end = min(off + size, self._device.size_bytes)
        if end <= off:
            return bytearray()
        first, last = self._whole_sectors(off, end)
        buffer = bytearray(last - first)
        self._device.read_into(first, buffer)
        return buffer if (first, last) == (off, end) else buffer[off - first : end - first]

    @handler
    def write(self, fh: int, off: int, buf: bytes) -> int:
        end = off + len(buf)
        if end > self._device.size_bytes:
            raise OSError(errno.ENOSPC, "the end of the device")
        first, last = self._whole_sectors(off, end)
        if (first, last) == (off, end):
            self._device.write_from(off, buf)
        else:
            sectors = bytearray(self._device.read(first, last - first))
            sectors[off - first : end - first] = buf
            self._device.write_from(first, sectors)
        return len(buf)

    def _whole_sectors(self, start: int, end: int) -> tuple[int, int]:
        """Widen a range to the sectors that it touches."""
        sector = self._device.sector_size_bytes
        return start - start % sector, end + -end % sector

    @handler
    def fsync(self, fh: int, datasync: bool) -> None:
        self._device.flush()

    async def release(self, fh: int) -> None:
        pass

    @handler
    def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    @handler
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, _NAME, self._entry(_NODE), 1)

    async def releasedir(self, fh: int) -> None:
        pass

    @handler
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = self._device.sector_size_bytes
        data.f_blocks = self._device.size_bytes // self._device.sector_size_bytes
        data.f_namemax = len(_NAME)
        return data
