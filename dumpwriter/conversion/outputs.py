"""Where a converted dump goes: into a new file that is there whole or not at all, or down a pipe."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Protocol

from vdisk.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

    from dumpwriter.export.export import Piece

DIGEST_READ_SIZE_BYTES = 4 << 20
ZEROS = memoryview(bytes(1 << 20))
TEMPORARY_LENGTH_MAX = 200  # of 255 that a name may have, and room for what is around it
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP)
NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)  # what filesystems say that have no O_TMPFILE


class Output(Protocol):
    """Takes the pieces of one file."""

    def begin(self, pieces: Iterable[Piece]) -> None:
        """What is known before the first page, in the order of the file. Called first."""

    def write(self, piece: Piece) -> None: ...

    def finish(self, size_bytes: int) -> None:
        """Every piece was written; what none of them covers reads as zeros."""


class Stream:
    """Standard output, or whatever takes bytes in order only. Pieces must come in the order of the file.

    Of what is known before the first page, that which lies between pages waits until it is its turn.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hasher = hashlib.sha256()
        self._position_bytes = 0
        self._waiting: Piece | None = None

    def begin(self, pieces: Iterable[Piece]) -> None:
        self._known = iter(pieces)
        self._waiting = next(self._known, None)
        while self._waiting is not None and self._waiting.offset_bytes == self._position_bytes:
            self._send_waiting(self._waiting)

    def write(self, piece: Piece) -> None:
        self._go_to(piece.offset_bytes)
        self._send(piece.content)

    def finish(self, size_bytes: int) -> None:
        self._go_to(size_bytes)

    def digest(self) -> str:
        """SHA-256 of what was sent."""
        return self._hasher.hexdigest()

    def _go_to(self, offset_bytes: int) -> None:
        while self._waiting is not None and self._waiting.offset_bytes < offset_bytes:
            self._fill_up_to(self._waiting.offset_bytes)
            self._send_waiting(self._waiting)
        self._fill_up_to(offset_bytes)

    def _send_waiting(self, piece: Piece) -> None:
        self._send(piece.content)
        self._waiting = next(self._known, None)

    def _fill_up_to(self, offset_bytes: int) -> None:
        assert offset_bytes >= self._position_bytes, "this format is no stream"
        while self._position_bytes < offset_bytes:
            self._send(ZEROS[: offset_bytes - self._position_bytes])

    def _send(self, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        self._hasher.update(view)
        self._position_bytes += view.nbytes
        try:
            while view.nbytes:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            raise ConversionError(
                "whoever reads the dump has gone before its end: what was sent is not a whole dump"
            ) from None
        except OSError as error:
            raise ConversionError(
                f"standard output: {error.strerror or error}; what was sent is not a whole dump"
            ) from None


class NewFile:
    """A file that has not its name yet, private to its owner."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def begin(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self.write(piece)

    def write(self, piece: Piece) -> None:
        view, offset_bytes = memoryview(piece.content).cast("B"), piece.offset_bytes
        with self._naming():
            while view.nbytes:
                done_bytes = os.pwrite(self._descriptor, view, offset_bytes)
                offset_bytes += done_bytes
                view = view[done_bytes:]

    def finish(self, size_bytes: int) -> None:
        with self._naming():
            os.ftruncate(self._descriptor, size_bytes)
            os.fsync(self._descriptor)

    def digest(self) -> str:
        """SHA-256 of the file as it reads back, not as it was meant to be written."""
        hasher, buffer = hashlib.sha256(), memoryview(bytearray(DIGEST_READ_SIZE_BYTES))
        position = 0
        with self._naming():
            while count := os.preadv(self._descriptor, [buffer], position):
                hasher.update(buffer[:count])
                position += count
        return hasher.hexdigest()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConversionError(f"{self._path}: {error.strerror or error}; nothing is left of it") from None


@contextlib.contextmanager
def new_file(path: str, source_path: str, *, replace: bool) -> Iterator[NewFile]:
    """A file that is at `path` once the block ends well. Else all is as it was before.

    Raises `UsageError` where something is there already and is not to be replaced, or cannot be, and `OSError`.
    """
    _check(path, source_path, replace=replace)
    name = os.path.basename(path)
    temporary = f".{name[:TEMPORARY_LENGTH_MAX]}.{os.getpid()}.unfinished"
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source, descriptor = _open_private(directory, temporary, path)
        try:
            yield NewFile(path, descriptor)
            if replace:
                _replace(source, directory, temporary, name)
            else:
                _link(source, directory, name)
            os.fsync(directory)
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
    finally:
        os.close(directory)


def _check(path: str, source_path: str, *, replace: bool) -> None:
    if not os.path.basename(path):
        raise UsageError(f"{path!r} names no file: name one; -o - writes to standard output")
    try:
        there = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise UsageError(f"{path} is a link to nothing: remove it, or name another file") from None
        return
    if os.path.samestat(there, os.stat(source_path)):
        raise UsageError(f"{path} is the dump itself: name another file")
    if not stat.S_ISREG(there.st_mode):
        raise UsageError(f"{path} is not a regular file; -o - writes to standard output")
    if not replace:
        raise UsageError(f"{path} exists: name another file, or give --force")


def _open_private(directory: int, temporary: str, path: str) -> tuple[str, int]:
    """Where the file can be linked from, and its descriptor. One without a name is gone with us, whatever ends us."""
    try:
        descriptor = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in NO_NAMELESS_FILES:
            raise ConversionError(f"{path}: {error.strerror or error}") from None
    else:
        return f"/proc/self/fd/{descriptor}", descriptor
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return temporary, os.open(temporary, flags, 0o600, dir_fd=directory)


def _replace(source: str, directory: int, temporary: str, name: str) -> None:
    if source != temporary:
        _link(source, directory, temporary)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _link(source: str, directory: int, name: str) -> None:
    """Give the file a name. Raises FileExistsError where somebody was faster."""
    try:
        os.link(source, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.rename(source, name, src_dir_fd=directory, dst_dir_fd=directory)
