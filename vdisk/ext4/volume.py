"""One filesystem opened by libext2fs over a block device: the C side, with its errors made Python's."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vdisk.errors import FilesystemError
from vdisk.ext4._libext2fs import ffi, lib
from vdisk.extent import Extent

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.ext4._libext2fs import InodePointer, SuperblockPointer

BLOCK_BYTES = 4096
CACHE_LIMIT_BLOCKS = 16384

_LIBRARY_CODES_BEGIN = 0x10000
_ERRNO_OF_CODE = {
    lib.EXT2_ET_BLOCK_ALLOC_FAIL: errno.ENOSPC,
    lib.EXT2_ET_INODE_ALLOC_FAIL: errno.ENOSPC,
    lib.EXT2_ET_DIR_NO_SPACE: errno.ENOSPC,
    lib.EXT2_ET_EA_NO_SPACE: errno.ENOSPC,
    lib.EXT2_ET_EA_KEY_NOT_FOUND: errno.ENODATA,
    lib.EXT2_ET_INODE_NOT_EXTENT: errno.EOPNOTSUPP,
}

lib.initialize_ext2_error_table()


class _Source:
    """Where the cache reads from, and what went wrong there."""

    def __init__(self, device: BlockDevice) -> None:
        self.device = device
        self.failure: BaseException | None = None


@ffi.def_extern()
def device_read(context: object, offset_bytes: int, buffer: object, length_bytes: int) -> int:
    """Serve a cache miss. An exception must not cross C: it is kept, and raised when the library call returns."""
    source: _Source = ffi.from_handle(context)
    try:
        source.device.read_into(offset_bytes, ffi.buffer(buffer, length_bytes))
    except BaseException as failure:  # PowerLost too
        source.failure = failure
        return errno.EIO
    return 0


def _error_of(code: int) -> OSError:
    """What the library says, as the kernel would: EUCLEAN ("structure needs cleaning") for all kinds of damage."""
    if code < _LIBRARY_CODES_BEGIN:
        return OSError(code, "ext4")
    message = ffi.string(lib.error_message(code)).decode()
    return OSError(_ERRNO_OF_CODE.get(code, errno.EUCLEAN), message)


class Volume:
    """A `struct volume`. Not thread-safe. Raises `FilesystemError` where the library cannot open the device."""

    def __init__(self, device: BlockDevice) -> None:
        self.device = device
        self._source = _Source(device)
        self._context = ffi.new_handle(self._source)
        self.handle = ffi.gc(lib.volume_new(self._context, lib.device_read, device.size_bytes), lib.volume_free)
        self._inode = ffi.new("struct ext2_inode_large **")
        self._start, self._length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        try:
            self.check(lib.volume_open(self.handle))
        except OSError as error:
            raise FilesystemError(f"not an ext4 filesystem that can be used: {error.strerror or error}") from error
        lib.cache_trim(self.handle, 0)

    def check(self, code: int) -> None:
        """Raise what a library call met: the device's own exception, or its error code as an OSError."""
        if self._source.failure is not None:
            failure, self._source.failure = self._source.failure, None
            raise failure
        if code:
            raise _error_of(code)

    @property
    def superblock(self) -> SuperblockPointer:
        return lib.volume_filesystem(self.handle).super

    @property
    def changes(self) -> int:
        """Grows with every change of the metadata."""
        return lib.volume_changes(self.handle)

    @property
    def available_blocks(self) -> int:
        """Free blocks that may be allocated before the next commit."""
        return lib.volume_available_blocks(self.handle)

    @property
    def free_blocks(self) -> int:
        return lib.volume_free_blocks(self.handle)

    @property
    def block_count(self) -> int:
        return lib.volume_blocks(self.handle)

    def extents(self, ino: int) -> list[Extent]:
        """Where the bytes of a file lie. Raises `FilesystemError` where some have no place of their own on the disk.

        Raises OSError EUCLEAN where a place is the filesystem's own or is not on the disk, or might be given to others.
        """
        inode = self.inode(ino)
        end = -(-(inode.i_size | inode.i_size_high << 32) // BLOCK_BYTES)
        extents: list[Extent] = []
        run = ffi.new("block_run *")
        logical = 0
        while logical < end:
            self.check(lib.map_find(self.handle, ino, logical, run))
            if run.unwritten or not run.physical:
                what = "unwritten blocks" if run.unwritten else "a hole"
                raise FilesystemError(f"the file has {what} at byte {logical * BLOCK_BYTES}")
            length = min(run.length, end - logical)
            if not lib.blocks_are_used(self.handle, run.physical, length):
                raise OSError(errno.EUCLEAN, f"blocks from {run.physical} on are the file's, but marked free")
            extents.append(Extent(logical * BLOCK_BYTES, run.physical * BLOCK_BYTES, length * BLOCK_BYTES))
            logical += length
        return extents

    def inode(self, ino: int) -> InodePointer:
        """The inode in place. The pointer is good until the operation ends."""
        self.check(lib.inode_load(self.handle, ino, self._inode))
        inode: InodePointer = self._inode[0]
        return inode

    def store(self, ino: int) -> None:
        """Say that the inode was changed in place."""
        self.check(lib.inode_store(self.handle, ino))

    def find_blocks(self, goal: int, wanted: int) -> tuple[int, int]:
        """A run of free blocks near the goal, at most as long as wanted: (start, length). Raises OSError ENOSPC."""
        self.check(lib.blocks_find(self.handle, goal, wanted, self._start, self._length))
        return self._start[0], self._length[0]

    def take_blocks(self, start: int, length: int) -> None:
        """Mark a run that `find_blocks` gave as used."""
        lib.blocks_take(self.handle, start, length)

    def reserve_blocks(self, start: int, length: int) -> None:
        """Keep what is free of a run from being allocated, until `release_reserved_blocks`."""
        self.check(lib.blocks_reserve(self.handle, start, length))

    def release_reserved_blocks(self) -> None:
        lib.blocks_release_reserved(self.handle)

    def mark_system(self, start: int, length: int) -> None:
        """From now on these blocks are the filesystem's own, and a file that claims one is damaged."""
        lib.volume_mark_system(self.handle, start, length)

    def changed_blocks(self) -> list[int]:
        """What the next commit takes, in disk order."""
        count = lib.cache_changed(self.handle)
        numbers = ffi.new("uint64_t[]", count)
        lib.cache_list_changed(self.handle, numbers, count)
        return sorted(numbers)

    def unwritten_blocks(self) -> list[int]:
        """What the next checkpoint writes to its home, in disk order."""
        count = lib.cache_unwritten(self.handle)
        numbers = ffi.new("uint64_t[]", count)
        lib.cache_list_unwritten(self.handle, numbers, count)
        return sorted(numbers)

    def content(self, blocks: list[int]) -> bytearray:
        """The content of cached blocks, one after another."""
        content = bytearray(len(blocks) * BLOCK_BYTES)
        lib.cache_copy(
            self.handle, ffi.new("uint64_t[]", blocks), len(blocks), ffi.from_buffer("unsigned char[]", content)
        )
        return content

    def trim(self) -> None:
        """Keep the cache within its limit. Pointers into it are invalid afterwards."""
        lib.cache_trim(self.handle, CACHE_LIMIT_BLOCKS)
