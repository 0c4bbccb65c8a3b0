"""Operations and commits: what makes changes of the metadata atomic and durable.

A change is made in the cache, within an operation. A commit puts all that changed into the journal at once. A
checkpoint, from time to time and always right after a commit, writes what the journal holds to its home. File data is
written before the commit that makes it visible (the ordered mode of ext4).
"""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vdisk.errors import FilesystemError, GhostdumpError
from vdisk.ext4._libext2fs import lib
from vdisk.ext4.superblock import INCOMPAT_RECOVER, Superblock
from vdisk.ext4.volume import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from vdisk.ext4.log import Log
    from vdisk.ext4.volume import Volume

COMMIT_AFTER_SECONDS = 5.0
DIRTY_BLOCKS_MAX = 4096  # 16 MiB of metadata wait for a commit at most
_WRITE_BLOCKS_MAX = 256  # 1 MiB: the longest write of a checkpoint


class Committer:
    """Use it as a context manager around each operation that changes metadata.

    An operation that raises before it changed anything was refused, and that is all. One that fails half-way ends the
    life of this mount: nothing is committed any more (EROFS), and the disk stays at its last commit. `failure` then
    says what happened first; it is empty while all is well, and after an end that was asked for.
    """

    def __init__(self, volume: Volume, log: Log) -> None:
        self._volume = volume
        self._log = log
        self._threshold_blocks = min(log.capacity_blocks // 4, DIRTY_BLOCKS_MAX)
        self._changes = volume.changes
        self._committed_changes = volume.changes
        self._dirty_since: float | None = None
        self.data_written = False
        self.has_ended = False
        self.failure = ""

    def __enter__(self) -> None:
        if self.has_ended:
            raise OSError(errno.EROFS, "the filesystem was shut down by an earlier error")
        if lib.cache_changed(self._volume.handle) >= self._threshold_blocks:
            self.commit()
        self._changes = self._volume.changes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._volume.changes == self._changes:
            return
        if error is not None:
            self.fail("an operation failed half-way", error)
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()

    @property
    def is_dirty(self) -> bool:
        return self._volume.changes != self._committed_changes

    @property
    def budget_blocks(self) -> int:
        """So many changed blocks make a long operation commit a part of itself.

        With the bitmaps still to come, they fit into the half of the journal that a commit finds free.
        """
        return self._threshold_blocks * 3 // 2

    def fail(self, what: str, error: BaseException) -> None:
        """Nothing is committed from here on. Only the first failure is remembered: the others follow from it."""
        self.has_ended = True
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        self.failure = self.failure or f"{what}: {reason}"

    def maintain(self) -> None:
        """Commit what has waited long enough, and keep the cache small. Raises `FilesystemError` after a failure."""
        since = self._dirty_since
        if since is not None and not self.has_ended and time.monotonic() - since >= COMMIT_AFTER_SECONDS:
            with self._failing_the_filesystem():
                self.commit()
        self._volume.trim()
        self._check_failure()

    def reserve(self, blocks: int) -> None:
        """Have as many free blocks at hand as a commit can bring. For the start of an operation."""
        available = self._volume.available_blocks
        if available < blocks and available < self._volume.free_blocks:
            self.commit()
            self.checkpoint()

    def require(self, blocks: int) -> None:
        """Raise OSError ENOSPC where there are not as many free blocks, before an operation changes anything."""
        self.reserve(blocks)
        if self._volume.available_blocks < blocks:
            raise OSError(errno.ENOSPC, "the filesystem is full")

    def sync(self) -> None:
        """Make all that was done so far durable."""
        if self.is_dirty:
            self.commit()
        elif self.data_written:
            self._volume.device.flush()
            self.data_written = False

    def commit(self) -> None:
        """Put every change into the journal. Raises `DeviceError`; nothing can be committed after that."""
        if not self.is_dirty:
            return
        if self.has_ended:
            raise OSError(errno.EROFS, "the filesystem was shut down by an earlier error")
        with self._wholly("a commit failed"):
            if not self._log.is_open:
                self._open_log()
            self._volume.superblock.s_wtime = int(time.time()) & 0xFFFFFFFF
            self._volume.check(lib.volume_seal(self._volume.handle))
            numbers = self._volume.changed_blocks()
            self._log.append(numbers, self._volume.content(numbers))
            lib.volume_committed(self._volume.handle)
        self._committed_changes = self._changes = self._volume.changes
        self._dirty_since = None
        self.data_written = False
        if self._log.is_crowded:
            self.checkpoint()
        self._volume.trim()

    def checkpoint(self) -> None:
        """Bring what was committed to its home, and empty the journal. Nothing may have changed since the commit."""
        assert not self.is_dirty
        if not self._log.is_open:
            return
        with self._wholly("a checkpoint failed"):
            for block, content in self._unwritten_runs():
                self._volume.device.write_from(block * BLOCK_BYTES, content)
            self._volume.device.flush()
            self._log.empty()
            lib.volume_checkpointed(self._volume.handle)

    def close(self, last_operation: Callable[[], None]) -> None:
        """Do what is left to do, commit, checkpoint, and say on the disk that there is nothing to replay.

        Raises `FilesystemError` where a failure, now or earlier, keeps the disk at its last commit.
        """
        self._check_failure()
        if self.has_ended:
            return
        with self._failing_the_filesystem(), self._wholly("the filesystem could not be closed"):
            with self:
                last_operation()
            self.sync()
            self.checkpoint()
            if self._log.is_open:
                self._log.close()
                Superblock(self._volume.device).write_recover_flag(False)
        self.has_ended = True

    @contextmanager
    def _wholly(self, what: str) -> Iterator[None]:
        """What is done within either works or ends the filesystem."""
        try:
            yield
        except BaseException as error:  # PowerLost too
            self.fail(what, error)
            raise

    @contextmanager
    def _failing_the_filesystem(self) -> Iterator[None]:
        """What ends the filesystem within is raised as its failure."""
        try:
            yield
        except (OSError, GhostdumpError) as error:
            raise FilesystemError(self.failure) from error

    def _check_failure(self) -> None:
        if self.failure:
            raise FilesystemError(self.failure)

    def _open_log(self) -> None:
        """The flag first: a journal that is in use below a superblock that does not say so would be thrown away."""
        Superblock(self._volume.device).write_recover_flag(True)
        self._volume.superblock.s_feature_incompat |= INCOMPAT_RECOVER
        self._volume.superblock.s_mtime = int(time.time()) & 0xFFFFFFFF
        self._log.empty()

    def _unwritten_runs(self) -> Iterator[tuple[int, bytearray]]:
        """Neighbouring blocks together: (first block, content)."""
        run: list[int] = []
        for number in self._volume.unwritten_blocks():
            if run and (number != run[-1] + 1 or len(run) == _WRITE_BLOCKS_MAX):
                yield run[0], self._volume.content(run)
                run = []
            run.append(number)
        if run:
            yield run[0], self._volume.content(run)
