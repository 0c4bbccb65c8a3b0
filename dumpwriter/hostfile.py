"""Files of the host that somebody gave us, opened so that nothing waits and read so that holes stay holes."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Self

from dumpwriter.dumpfile.file import File, Span
from vdisk.errors import DeviceError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class HostFile(File):
    """A regular file, open for reading. Its size is that of when it was opened.

    UsageError where it cannot be opened or has no size. Reads raise FormatError where it became shorter meanwhile, and
    DeviceError where the host cannot read it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open(path)
        super().__init__(os.fstat(self._fd).st_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        done_bytes = 0
        while done_bytes < buffer.nbytes:
            try:
                count = os.preadv(self._fd, [buffer[done_bytes:]], offset_bytes + done_bytes)
            except OSError as error:
                raise DeviceError(
                    f"{self._path} cannot be read at {offset_bytes + done_bytes}: {error.strerror}"
                ) from None
            if count == 0:
                raise FormatError(f"the file ends at {offset_bytes + done_bytes}; it was cut while it was read")
            done_bytes += count

    def data_spans(self, offset_bytes: int, length_bytes: int) -> Iterator[Span]:
        position, end = offset_bytes, offset_bytes + length_bytes
        while (data := self._seek(position, os.SEEK_DATA, end)) < end:
            position = self._seek(data, os.SEEK_HOLE, end)
            yield Span(data, position - data)

    def _seek(self, position: int, whence: int, end: int) -> int:
        if position >= end:
            return end
        try:
            return min(os.lseek(self._fd, position, whence), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise DeviceError(f"{self._path} cannot be read at {position}: {error.strerror}") from None
        if os.fstat(self._fd).st_size < self.size_bytes:
            raise FormatError("the file became shorter while it was read")
        return end  # only a hole follows


def _open(path: str) -> int:
    """Open without waiting for the other end of a pipe, and only what has a size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    status = os.fstat(fd)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "not a regular file"
    elif status.st_size == 0:
        problem = "the file is empty"
    if problem:
        os.close(fd)
        raise UsageError(f"{path}: {problem}")
    return fd
