"""Files of very many extents: every second block written, in any order; read, filled, cut and removed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.ext4_crashes import RecordingDisk, state_after_cut
from tests.ext4_images import MIB, assert_clean, assert_disk_clean, debugfs_extents, fresh_disk, repair
from tests.test_ext4_files import FailingDisk, checkerboard
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

BLOCK_BYTES = 4096
ROOT_ENTRIES = 4  # what the inode itself holds of an extent tree
NODE_ENTRIES = 340
READ_BLOCKS = 512


def ascending(blocks: list[int]) -> list[int]:
    return blocks


def descending(blocks: list[int]) -> list[int]:
    return blocks[::-1]


def at_random(blocks: list[int]) -> list[int]:
    return random.Random(len(blocks)).sample(blocks, len(blocks))


ORDERS = (ascending, descending, at_random)


def stamp(block: int) -> bytes:
    """What a block holds: its number, one up, so that no block looks like a hole."""
    return (block + 1).to_bytes(8, "little") * (BLOCK_BYTES // 8)


class StampedFile:
    """A file in which every written block holds its stamp, and an account of which were written."""

    def __init__(self, fs: Ext4Filesystem) -> None:
        self.fs = fs
        self.ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
        self.written: set[int] = set()

    def write(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            assert self.fs.write(self.ino, block * BLOCK_BYTES, stamp(block)) == BLOCK_BYTES
            self.written.add(block)

    def truncate(self, blocks: int) -> None:
        self.fs.set_attributes(self.ino, size_bytes=blocks * BLOCK_BYTES)
        self.written = {block for block in self.written if block < blocks}

    def check(self) -> None:
        count = self.fs.attributes(self.ino).size_bytes // BLOCK_BYTES
        for first in range(0, count, READ_BLOCKS):
            blocks = range(first, min(first + READ_BLOCKS, count))
            expected = b"".join(stamp(block) if block in self.written else bytes(BLOCK_BYTES) for block in blocks)
            assert bytes(self.fs.read(self.ino, first * BLOCK_BYTES, len(expected))) == expected


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
@pytest.mark.parametrize(
    ("count", "size_bytes"),
    [(ROOT_ENTRIES * NODE_ENTRIES + 5000, 96 * MIB), pytest.param(100_500, 512 * MIB, marks=pytest.mark.slow)],
)
def test_every_second_block(
    count: int, size_bytes: int, order: Callable[[list[int]], list[int]], tmp_path: Path
) -> None:
    disk = fresh_disk(size_bytes)
    fs = Ext4Filesystem.open(disk)
    free = fs.statistics().blocks_free
    file = StampedFile(fs)
    file.write(order([2 * index for index in range(count)]))
    file.check()
    fs.close()
    path = assert_disk_clean(disk, tmp_path)
    assert sum(1 for _ in debugfs_extents(path, "/file")) == count
    file.fs = fs = Ext4Filesystem.open(disk)
    file.write(order([2 * index + 1 for index in random.Random(1).sample(range(count), 5000)]))
    file.check()
    file.truncate(count)
    file.check()
    file.write(range(count, count + 100, 2))
    file.check()
    fs.unlink(ROOT_INO, b"file")
    assert fs.statistics().blocks_free == free
    fs.close()
    assert_disk_clean(disk, tmp_path)


@pytest.mark.parametrize("size_blocks", [0, 3 * (NODE_ENTRIES - 1)])
def test_one_write_in_a_thousand_pieces(size_blocks: int, tmp_path: Path) -> None:
    """The tree grows a level within one write, with a node that begins where the file ended before it."""
    disk = fresh_disk(32 * MIB)
    fs = Ext4Filesystem.open(disk)
    checkerboard(fs, 4000)
    file = StampedFile(fs)
    file.write(range(size_blocks))
    pieces = range(size_blocks, 1400)
    data = b"".join(stamp(block) for block in pieces)
    assert fs.write(file.ino, size_blocks * BLOCK_BYTES, data) == len(data)
    file.written.update(pieces)
    file.check()
    fs.close()
    assert_disk_clean(disk, tmp_path)


def test_a_node_that_cannot_be_read_ends_a_write_and_not_the_filesystem(tmp_path: Path) -> None:
    """The write runs from one leaf of the tree, which is in memory, into the next, which the disk does not give."""
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    file = StampedFile(fs)
    file.write(range(0, 4 * NODE_ENTRIES, 2))
    fs.close()
    failing = FailingDisk(disk)
    file.fs = fs = Ext4Filesystem.open(failing)
    fs.read(file.ino, 0, BLOCK_BYTES)
    failing.bad_reads = (range(disk.size_bytes),)
    first = 2 * (NODE_ENTRIES - 10)
    data = b"".join(stamp(block) for block in range(first, first + 100))
    blocks = fs.write(file.ino, first * BLOCK_BYTES, data) // BLOCK_BYTES
    assert 0 < blocks < 100
    assert not fs.failure
    failing.bad_reads = ()
    file.written.update(range(first, first + blocks))
    file.check()
    fs.close()
    assert_disk_clean(disk, tmp_path)


@pytest.mark.slow
def test_power_cut_of_a_hundred_thousand_extents(tmp_path: Path) -> None:
    chance = random.Random(1)
    disk = RecordingDisk(fresh_disk(512 * MIB))
    before = disk.read(0, disk.size_bytes)
    file = StampedFile(Ext4Filesystem.open(disk))
    blocks = at_random([2 * index for index in range(100_500)])
    synced: list[tuple[int, int]] = []
    for first in range(0, len(blocks), 25_125):
        file.write(blocks[first : first + 25_125])
        file.fs.fsync(file.ino)
        synced.append((len(disk.record), first + 25_125))
    grown = len(disk.record)
    file.fs.unlink(ROOT_INO, b"file")
    file.fs.commit()
    path = tmp_path / "cut"
    for cut in [*chance.sample(range(grown), 4), grown, *chance.sample(range(grown, len(disk.record)), 2)]:
        path.write_bytes(state_after_cut(before, disk.record, cut, chance))
        repair(path)
        assert_clean(path)
        promised = max((count for position, count in synced if position <= cut <= grown), default=0)
        check_written(Ext4Filesystem.open(MemoryDisk(disk.size_bytes, path.read_bytes())), blocks[:promised])


def check_written(fs: Ext4Filesystem, promised: list[int]) -> None:
    """These blocks are there; every other one is too, or is a hole."""
    if not promised:
        return
    ino = fs.lookup(ROOT_INO, b"file")
    missing = set(promised)
    for block in range(fs.attributes(ino).size_bytes // BLOCK_BYTES):
        content = bytes(fs.read(ino, block * BLOCK_BYTES, BLOCK_BYTES))
        if content == stamp(block):
            missing.discard(block)
        else:
            assert not any(content), "a block of something else"
    assert not missing
