"""What e2fsck changes behind the replay of the journal, made one transaction of that journal.

The replay may be cut anywhere: the next one does it again. What e2fsck does next is not in the journal. It ends the
orphans one by one, each in a few blocks and the head of their list last, and a cut between leaves a list that leads
nowhere, which e2fsck -p refuses. So from the moment at which the journal is empty its writes are held in memory; at the
end they go through the journal, and are there wholly or not at all.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import FilesystemError, FormatError
from vdisk.ext4.atomic_superblock import AtomicSuperblock
from vdisk.ext4.filesystem import journal_place
from vdisk.ext4.log import Log
from vdisk.ext4.superblock import Superblock
from vdisk.ext4.volume import BLOCK_BYTES, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer


HELD_BLOCKS_MAX = 8192  # 32 MiB: who repairs more than that has a damaged disk, which no order of writes makes safe


class _Stage(enum.Enum):
    REPLAY = enum.auto()  # writes pass; the flush that brings the end of the replay is the last of this stage
    REPAIR = enum.auto()  # writes are held
    TOO_MUCH = enum.auto()  # writes pass again


class Repairs(Layer):
    """For e2fsck to work on; `commit` when it has succeeded, or leave it: then only the replay was done.

    What one transaction cannot take, and what is done to a filesystem that is too damaged for its journal to be used,
    is written as it comes. One thread at a time. Raises `FilesystemError` where the disk has no ext4 filesystem.
    """

    def __init__(self, disk: BlockDevice) -> None:
        super().__init__(AtomicSuperblock(disk))
        self._held: dict[int, bytearray] = {}
        self._stage = _Stage.REPLAY
        self._see_end_of_replay()

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.lower.read_into(offset_bytes, view)
        for block, within, piece in _pieces(offset_bytes, view):
            if block in self._held:
                piece[:] = self._held[block][within : within + len(piece)]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        if self._stage is not _Stage.REPAIR:
            self.lower.write_from(offset_bytes, view)
            return
        self.check_range(offset_bytes, view.nbytes)
        for block, within, piece in _pieces(offset_bytes, view):
            if block not in self._held:
                self._held[block] = bytearray(self.lower.read(block * BLOCK_BYTES, BLOCK_BYTES))
            self._held[block][within : within + len(piece)] = piece
        if len(self._held) > HELD_BLOCKS_MAX:
            self._stage = _Stage.TOO_MUCH
            self._write_home()

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        """Held writes stay held: e2fsck has nobody to whom it promised that they are durable."""
        self.lower.flush()
        self._see_end_of_replay()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        """e2fsck -p discards nothing. A discarded block reads as zeros, so zeros are right."""
        self.write_from(offset_bytes, bytes(length_bytes))

    def commit(self) -> None:
        """Bring what is held to the disk. Durable on return."""
        self._held = {number: block for number, block in sorted(self._held.items()) if self._is_new(number)}
        log = self._open_log() if self._held else None
        if log is None:
            self._write_home()
        else:
            self._write_through_log(log)

    def _see_end_of_replay(self) -> None:
        if self._stage is _Stage.REPLAY and not Superblock(self.lower).needs_replay:
            self._stage = _Stage.REPAIR

    def _is_new(self, number: int) -> bool:
        return self.lower.read(number * BLOCK_BYTES, BLOCK_BYTES) != self._held[number]

    def _open_log(self) -> Log | None:
        """The empty journal, where it can take what is held."""
        superblock = Superblock(self.lower)
        try:
            place = journal_place(Volume(self.lower))
            log = Log(self.lower, place, checksums=superblock.has_checksums, wide=superblock.is_64bit)
        except (FilesystemError, FormatError):
            return None  # too damaged; e2fsck has repaired it and knows more than we do
        taken = {number for run in place.extents for number in _blocks_of(run.physical_bytes, run.length_bytes)}
        return log if log.takes(len(self._held) + 1) and taken.isdisjoint(self._held) else None

    def _write_through_log(self, log: Log) -> None:
        """A superblock that lost its flag in the midst of a replay would end it there, so the logged one has it too."""
        Superblock(self).write_recover_flag(True)
        Superblock(self.lower).write_recover_flag(True)
        log.empty()
        log.append(list(self._held), bytearray().join(self._held.values()))
        self._write_home()
        log.close()
        Superblock(self.lower).write_recover_flag(False)

    def _write_home(self) -> None:
        for number, block in self._held.items():
            self.lower.write_from(number * BLOCK_BYTES, block)
        self.lower.flush()
        self._held = {}


def _blocks_of(offset_bytes: int, length_bytes: int) -> range:
    """The numbers of the blocks that a range touches."""
    return range(offset_bytes // BLOCK_BYTES, -(-(offset_bytes + length_bytes) // BLOCK_BYTES))


def _pieces(offset_bytes: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """A range cut at the blocks: (block, offset in the block, piece)."""
    for block in _blocks_of(offset_bytes, view.nbytes):
        start, end = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
        yield block, max(offset_bytes - start, 0), view[max(start - offset_bytes, 0) : end - offset_bytes]
