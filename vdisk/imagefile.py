"""The image file as a block device, and the lock that keeps a second opener out."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING, Protocol

from vdisk.blockdevice import BLOCK_SIZE_BYTES, BlockDevice
from vdisk.errors import DeviceError, ImageError, ImageInUseError, NotAnImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

BOUNCE_SIZE_BYTES = 1 << 20
STAT_BLOCK_SIZE_BYTES = 512  # the unit of st_blocks, whatever the filesystem's is


def open_locked(path: str, *, read_only: bool = False) -> int:
    """Open an image and take its lock; the descriptor holds it until its last duplicate, here or inherited, is closed.

    Raises `ImageInUseError` where another process holds the lock, `ImageError` where the file cannot be opened.
    """
    descriptor = _open(path, os.O_RDONLY if read_only else os.O_RDWR)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ImageInUseError(path) from None
    return descriptor


def open_unlocked(path: str) -> int:
    """Open an image to look at it, whoever uses it. Raises `ImageError` where the file cannot be opened."""
    return _open(path, os.O_RDONLY)


def is_in_use(descriptor: int) -> bool:
    """Whether somebody who writes holds the lock of an image that was opened unlocked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _open(path: str, flags: int) -> int:
    try:
        # O_NONBLOCK: a FIFO given by mistake must not hold us; it means nothing to a regular file.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except IsADirectoryError:
        raise NotAnImageError(f"{path} is not a regular file") from None
    except OSError as error:
        raise ImageError(f"cannot open {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAnImageError(f"{path} is not a regular file")
    return descriptor


def reopen_direct(descriptor: int) -> int:
    """A second, O_DIRECT descriptor of an open image; a plain one where its filesystem has no direct I/O."""
    path = f"/proc/self/fd/{descriptor}"
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise ImageError(f"cannot open the image a second time: {error.strerror}") from None
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def is_direct(descriptor: int) -> bool:
    """Whether I/O on this descriptor goes past the host's page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def aligned_buffer(size_bytes: int) -> mmap.mmap:
    """Page-aligned anonymous memory, fit for direct I/O."""
    return mmap.mmap(-1, size_bytes)


def _explain(error: OSError) -> str:
    """A disk that is full is told apart from the filesystem within: it is the host's."""
    return "the host's filesystem is full" if error.errno == errno.ENOSPC else str(error.strerror)


class HostFile(Protocol):
    """The file in which a disk lies, as what takes room on the host."""

    def reserve(self, offset_bytes: int, length_bytes: int) -> None: ...
    def host_free_bytes(self) -> int: ...


class ImageFile(BlockDevice):
    """A sparse raw file as a disk. The host's page cache is its volatile write cache; `flush` is fdatasync.

    On an O_DIRECT descriptor a buffer that is not aligned goes through a bounce buffer of the device's own.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size // BLOCK_SIZE_BYTES * BLOCK_SIZE_BYTES
        self._bounce = memoryview(aligned_buffer(BOUNCE_SIZE_BYTES)) if is_direct(descriptor) else None
        self._bounce_lock = threading.Lock()

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        try:
            self._read(offset_bytes, view)
        except DeviceError:
            raise  # an OSError, too, that says already what it is
        except OSError as error:
            if error.errno != errno.EINVAL or self._bounce is None:
                raise DeviceError(f"read at {offset_bytes}: {error.strerror}") from None
            self._bounced(self._read_piece, offset_bytes, view)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        try:
            self._write(offset_bytes, view)
        except DeviceError:
            raise
        except OSError as error:
            if error.errno != errno.EINVAL or self._bounce is None:
                raise DeviceError(f"write at {offset_bytes}: {_explain(error)}") from None
            self._bounced(self._write_piece, offset_bytes, view)

    def flush(self) -> None:
        try:
            os.fdatasync(self.descriptor)
        except OSError as error:
            raise DeviceError(f"flush: {_explain(error)}") from None

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.check_range(offset_bytes, length_bytes)
        zeros = bytes(min(length_bytes, BOUNCE_SIZE_BYTES))
        while length_bytes > 0:
            piece_bytes = min(length_bytes, BOUNCE_SIZE_BYTES)
            self.write_from(offset_bytes, zeros[:piece_bytes])
            offset_bytes += piece_bytes
            length_bytes -= piece_bytes

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """Allocate the range in the host's file, so that a write to it cannot fail for want of space there.

        Raises `ImageError` where the host has no room. What the range holds does not change.
        """
        self.check_range(offset_bytes, length_bytes)
        try:
            os.posix_fallocate(self.descriptor, offset_bytes, length_bytes)
        except OSError as error:
            raise ImageError(f"cannot reserve {length_bytes} bytes of the image: {_explain(error)}") from None

    def host_free_bytes(self) -> int:
        """How much may be written to the disk before the host is full: all of it, where its holes fit there."""
        host, image = os.fstatvfs(self.descriptor), os.fstat(self.descriptor)
        free_bytes = (host.f_bavail if os.geteuid() else host.f_bfree) * host.f_frsize
        holes_bytes = image.st_size - image.st_blocks * STAT_BLOCK_SIZE_BYTES
        return image.st_size if holes_bytes <= free_bytes else free_bytes

    def _read(self, offset_bytes: int, view: memoryview) -> None:
        while view.nbytes:
            done_bytes = os.preadv(self.descriptor, [view], offset_bytes)
            if not done_bytes:
                raise DeviceError(f"read at {offset_bytes}: the image file ends there; it was truncated")
            offset_bytes += done_bytes
            view = view[done_bytes:]

    def _write(self, offset_bytes: int, view: memoryview) -> None:
        while view.nbytes:
            done_bytes = os.pwrite(self.descriptor, view, offset_bytes)
            if not done_bytes:
                raise DeviceError(f"write at {offset_bytes}: the host took nothing of it")
            offset_bytes += done_bytes
            view = view[done_bytes:]

    def _read_piece(self, offset_bytes: int, piece: memoryview, bounce: memoryview) -> None:
        self._read(offset_bytes, bounce)
        piece[:] = bounce

    def _write_piece(self, offset_bytes: int, piece: memoryview, bounce: memoryview) -> None:
        bounce[:] = piece
        self._write(offset_bytes, bounce)

    def _bounced(
        self, transfer: Callable[[int, memoryview, memoryview], None], offset_bytes: int, view: memoryview
    ) -> None:
        assert self._bounce is not None
        with self._bounce_lock:
            for start_bytes in range(0, view.nbytes, BOUNCE_SIZE_BYTES):
                piece = view[start_bytes : start_bytes + BOUNCE_SIZE_BYTES]
                try:
                    transfer(offset_bytes + start_bytes, piece, self._bounce[: piece.nbytes])
                except DeviceError:
                    raise
                except OSError as error:
                    raise DeviceError(f"transfer at {offset_bytes}: {_explain(error)}") from None
