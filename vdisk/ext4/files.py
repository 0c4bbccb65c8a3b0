"""The content of files: reading, writing, cutting, and what of it lies where.

Data goes straight between the caller's buffer and the device, one request for each run of blocks. It never passes
through the metadata cache or the journal. Data for new blocks is on the device before the blocks are mapped.
"""

from __future__ import annotations

import errno
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import DeviceError
from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.inodes import FLAG_EXTENTS, set_size, size_of, touch
from vdisk.ext4.placement import choose_runs
from vdisk.ext4.volume import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.ext4._libext2fs import InodePointer
    from vdisk.ext4.committer import Committer
    from vdisk.ext4.inodes import Inodes
    from vdisk.ext4.volume import Volume
    from vdisk.extent import Extent

FILE_BLOCKS_MAX = (1 << 32) - 2
FILE_BYTES_MAX = FILE_BLOCKS_MAX * BLOCK_BYTES
DATA_RESERVE_BLOCKS = 24  # kept from data: for extent trees, so that mapping cannot fail half-way, and for names
SPLIT_RESERVE_BLOCKS = 12  # converting the middle of an extent adds two: at most six new nodes each
_EXTENT_BLOCKS_MAX = 32768
_EXTENTS_PER_NODE = 340


def blocks_for(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES)


class MappedRun(NamedTuple):
    """A piece of a file in blocks; `physical` is 0 for a hole."""

    logical: int
    physical: int
    length: int
    unwritten: bool

    @property
    def has_data(self) -> bool:
        return bool(self.physical) and not self.unwritten


class Files:
    """All files of a volume. Methods that change something are called within an operation of the committer."""

    def __init__(self, volume: Volume, committer: Committer, inodes: Inodes) -> None:
        self._volume = volume
        self._device = volume.device
        self._committer = committer
        self._inodes = inodes
        self._run = ffi.new("block_run *")

    def run_at(self, ino: int, block: int, blocks_max: int) -> MappedRun:
        run = self._run
        self._volume.check(lib.map_find(self._volume.handle, ino, block, run))
        return MappedRun(block, run.physical, min(run.length, blocks_max), bool(run.unwritten))

    def runs(self, ino: int, first: int, end: int) -> Iterator[MappedRun]:
        """What is at the blocks from `first` to `end`, in order, holes included."""
        while first < end:
            run = self.run_at(ino, first, end - first)
            yield run
            first += run.length

    def read(self, ino: int, offset_bytes: int, size_bytes: int) -> memoryview:
        """At most `size_bytes`; fewer at the end of the file. Holes are zeros."""
        end_bytes = min(offset_bytes + size_bytes, size_of(self._regular(ino)))
        if offset_bytes >= end_bytes:
            return memoryview(b"")
        first, end = offset_bytes // BLOCK_BYTES, blocks_for(end_bytes)
        view = memoryview(bytearray((end - first) * BLOCK_BYTES))
        for run in self.runs(ino, first, end):
            if run.has_data:
                start = (run.logical - first) * BLOCK_BYTES
                self._device.read_into(run.physical * BLOCK_BYTES, view[start : start + run.length * BLOCK_BYTES])
        return view[offset_bytes - first * BLOCK_BYTES : end_bytes - first * BLOCK_BYTES]

    def write(self, ino: int, offset_bytes: int, data: memoryview) -> int:
        """Returns how much was written: less than asked for where the disk is full or fails in the middle."""
        size_bytes = size_of(self._regular(ino))
        end_bytes = offset_bytes + data.nbytes
        if end_bytes > FILE_BYTES_MAX:
            raise OSError(errno.EFBIG, "the file would be larger than ext4 allows")
        first = offset_bytes // BLOCK_BYTES
        self._committer.reserve(blocks_for(end_bytes) - first + DATA_RESERVE_BLOCKS)
        if offset_bytes > size_bytes:
            self._clear_tail(ino, size_bytes)
        content = self._whole_blocks(ino, offset_bytes, data, size_bytes)
        stored = self._store(ino, first, content)
        end_bytes = min(end_bytes, (first + stored) * BLOCK_BYTES)
        self._modified(ino, max(size_bytes, end_bytes))
        return end_bytes - offset_bytes

    def truncate(self, ino: int, size_bytes: int) -> None:
        """Raises OSError EFBIG."""
        old_bytes = size_of(self._regular(ino))
        if size_bytes > FILE_BYTES_MAX:
            raise OSError(errno.EFBIG, "the file would be larger than ext4 allows")
        if size_bytes < old_bytes:
            self._inodes.truncate(ino, size_bytes)
        self._clear_tail(ino, min(old_bytes, size_bytes))
        self._modified(ino, size_bytes)

    def allocate_written(self, ino: int, size_bytes: int) -> None:
        """Map an empty file to written blocks without writing them. Raises OSError ENOSPC, and EINVAL if not empty."""
        inode = self._regular(ino)
        wanted = blocks_for(size_bytes)
        if size_of(inode) or self.run_at(ino, 0, FILE_BLOCKS_MAX).physical:
            raise OSError(errno.EINVAL, "only an empty file can be allocated")
        self._committer.reserve(wanted + DATA_RESERVE_BLOCKS + wanted // _EXTENTS_PER_NODE)
        chosen = choose_runs(self._free_runs(), wanted)
        extents = len(chosen) + wanted // _EXTENT_BLOCKS_MAX
        needed = wanted + DATA_RESERVE_BLOCKS + extents * 2 // _EXTENTS_PER_NODE
        if sum(length for _, length in chosen) < wanted or self._volume.available_blocks < needed:
            raise OSError(errno.ENOSPC, "not enough free blocks")
        for start, length in chosen:
            self._volume.take_blocks(start, length)
        logical = 0
        for start, length in chosen:
            self._map(ino, logical, start, length)
            logical += length
        self._modified(ino, size_bytes)

    def extents(self, ino: int) -> list[Extent]:
        """Where the bytes of a file lie. Raises `FilesystemError` where some have no place of their own on the disk."""
        self._regular(ino)
        return self._volume.extents(ino)

    def block_list(self, ino: int) -> list[int]:
        """The disk blocks of a directory. Raises OSError EUCLEAN where one is missing."""
        size_bytes = size_of(self._volume.inode(ino))
        if size_bytes % BLOCK_BYTES or size_bytes > self._device.size_bytes:
            raise OSError(errno.EUCLEAN, "a directory of an impossible size")
        blocks: list[int] = []
        for run in self.runs(ino, 0, size_bytes // BLOCK_BYTES):
            if not run.has_data:
                raise OSError(errno.EUCLEAN, "a directory with a hole")
            blocks.extend(range(run.physical, run.physical + run.length))
        return blocks

    def append_block(self, ino: int, index: int) -> int:
        """Map one more block of metadata, which the caller fills through the cache. Returns its number."""
        start, length = self._volume.find_blocks(self._goal(ino, index), 1)
        self._volume.take_blocks(start, length)
        self._map(ino, index, start, length)
        return start

    def _regular(self, ino: int) -> InodePointer:
        inode = self._inodes.live(ino)
        if stat.S_ISDIR(inode.i_mode):
            raise OSError(errno.EISDIR, "is a directory")
        if not stat.S_ISREG(inode.i_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if not inode.i_flags & FLAG_EXTENTS:
            raise OSError(errno.EOPNOTSUPP, "the file is mapped by blocks, not by extents")
        return inode

    def _modified(self, ino: int, size_bytes: int) -> None:
        inode = self._volume.inode(ino)
        if size_bytes != size_of(inode):
            set_size(inode, size_bytes)
        touch(inode, time.time_ns(), modified=True)
        self._volume.store(ino)

    def _map(self, ino: int, logical: int, physical: int, length: int) -> None:
        self._volume.check(lib.map_insert(self._volume.handle, ino, logical, physical, length))

    def _goal(self, ino: int, block: int) -> int:
        """Right behind the file's block before this one, or in the group of the inode."""
        before = self.run_at(ino, block - 1, 1) if block else None
        if before and before.physical:
            return before.physical + 1
        goal: int = lib.inode_goal(self._volume.handle, ino)
        return goal

    def _whole_blocks(self, ino: int, offset_bytes: int, data: memoryview, size_bytes: int) -> memoryview:
        """The data, filled up to whole blocks with what the file has there."""
        head = offset_bytes % BLOCK_BYTES
        if not head and not data.nbytes % BLOCK_BYTES:
            return data
        first, end = offset_bytes // BLOCK_BYTES, blocks_for(offset_bytes + data.nbytes)
        content = memoryview(bytearray((end - first) * BLOCK_BYTES))
        for block in {first, end - 1}:
            place = (block - first) * BLOCK_BYTES
            self._read_block(ino, block, size_bytes, content[place : place + BLOCK_BYTES])
        content[head : head + data.nbytes] = data
        return content

    def _read_block(self, ino: int, block: int, size_bytes: int, target: memoryview) -> None:
        """One block of a file into a block of zeros; what lies behind the end of the file stays zero."""
        length = min(size_bytes - block * BLOCK_BYTES, BLOCK_BYTES)
        if length <= 0:
            return
        run = self.run_at(ino, block, 1)
        if run.has_data:
            self._device.read_into(run.physical * BLOCK_BYTES, target)
            target[length:] = bytes(BLOCK_BYTES - length)

    def _clear_tail(self, ino: int, size_bytes: int) -> None:
        """Write zeros behind the end of the file in its last block: they will be read when the file grows."""
        if not size_bytes % BLOCK_BYTES:
            return
        block = size_bytes // BLOCK_BYTES
        run = self.run_at(ino, block, 1)
        if run.has_data:
            content = memoryview(bytearray(BLOCK_BYTES))
            self._read_block(ino, block, size_bytes, content)
            self._write_device(run.physical, content)

    def _store(self, ino: int, first: int, content: memoryview) -> int:
        """Write whole blocks; returns how many were written before the disk was full or failed. Raises if none was."""
        done, total = 0, content.nbytes // BLOCK_BYTES
        while done < total:
            changes = self._volume.changes
            try:
                run = self.run_at(ino, first + done, total - done)
                done += self._store_run(ino, run, content[done * BLOCK_BYTES :])
            except OSError as error:
                is_refusal = isinstance(error, DeviceError) or error.errno == errno.ENOSPC
                if not done or not is_refusal or self._volume.changes != changes:
                    raise
                break
        return done

    def _store_run(self, ino: int, run: MappedRun, content: memoryview) -> int:
        if not run.physical:
            return self._fill_hole(ino, run, content)
        if run.unwritten and self._volume.available_blocks < SPLIT_RESERVE_BLOCKS:
            raise OSError(errno.ENOSPC, "the filesystem is full")
        self._write_device(run.physical, content[: run.length * BLOCK_BYTES])
        if run.unwritten:
            self._volume.check(lib.map_convert(self._volume.handle, ino, run.logical, run.physical, run.length))
        return run.length

    def _fill_hole(self, ino: int, run: MappedRun, content: memoryview) -> int:
        """Write to free blocks, then map them: as many as lie together."""
        spare = self._volume.available_blocks - DATA_RESERVE_BLOCKS
        if spare <= 0:
            raise OSError(errno.ENOSPC, "the filesystem is full")
        goal = self._goal(ino, run.logical)
        start, length = self._volume.find_blocks(goal, min(run.length, spare))
        self._write_device(start, content[: length * BLOCK_BYTES])
        self._volume.take_blocks(start, length)
        self._map(ino, run.logical, start, length)
        return length

    def _write_device(self, block: int, content: memoryview) -> None:
        self._committer.data_written = True
        self._device.write_from(block * BLOCK_BYTES, content)

    def _free_runs(self) -> list[tuple[int, int]]:
        """Every run of free blocks: (start, length)."""
        found: list[tuple[int, int]] = []
        goal = 0
        while True:
            try:
                start, length = self._volume.find_blocks(goal, self._volume.free_blocks)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return found
            if start < goal:
                return found
            found.append((start, length))
            goal = start + length
