"""Refusals on a disk without a single free block: they are answers, and never end the filesystem."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import MIB, assert_clean, assert_disk_clean, fresh_disk, run
from tests.test_ext4_files import fill
from vdisk.ext4.filesystem import RENAME_EXCHANGE, ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFUSALS = (errno.ENOSPC, errno.ENAMETOOLONG, errno.EFBIG, errno.E2BIG, errno.ENODATA)


def fill_to_the_last_block(fs: Ext4Filesystem) -> None:
    """Data leaves blocks to names, and names leave some to attributes; attributes take the last."""
    fill(fs, b"fill")
    made = 0
    with contextlib.suppress(OSError):
        for made in range(100):
            fs.mkdir(ROOT_INO, b"d%d" % made, 0o700, 0, 0)
    for index in range(made):
        with contextlib.suppress(OSError):
            fs.xattr_set(fs.resolve(b"/d%d" % index), b"user.large", b"v" * 3000)
    assert fs.statistics().blocks_free == 0
    assert not fs.failure


def test_no_refusal_ends_the_filesystem(tmp_path: Path) -> None:
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    file = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    fs.write(file, 8192, b"x" * 100)
    empty = fs.create(ROOT_INO, b"empty", 0o600, 0, 0).ino
    fill_to_the_last_block(fs)
    impossible: tuple[Callable[[], object], ...] = (
        lambda: fs.create(ROOT_INO, b"n", 0o600, 0, 0),
        lambda: fs.mkdir(ROOT_INO, b"n", 0o700, 0, 0),
        lambda: fs.symlink(ROOT_INO, b"n", b"t" * 1000, 0, 0),
        lambda: fs.link(file, ROOT_INO, b"n"),
        lambda: fs.link(file, ROOT_INO, b"n" * 256),
        lambda: fs.rename(ROOT_INO, b"file", ROOT_INO, b"m"),
        lambda: fs.rename(ROOT_INO, b"file", ROOT_INO, b"m" * 256),
        lambda: fs.write(file, 0, b"w" * 5000),
        lambda: fs.write(file, 1 << 44, b"w"),
        lambda: fs.set_attributes(file, size_bytes=1 << 45),
        lambda: fs.xattr_set(file, b"user.large", b"v" * 3000),
        lambda: fs.xattr_set(file, b"user.huge", b"v" * 70_000),
        lambda: fs.xattr_remove(file, b"user.none"),
        lambda: fs.allocate_written(empty, 4096),
    )
    for call in impossible:
        with pytest.raises(OSError, match=r"\w") as caught:
            call()
        assert caught.value.errno in REFUSALS
        assert not fs.failure
    fs.write(file, 8192, b"y" * 4096)
    fs.set_attributes(file, size_bytes=10 * MIB)
    fs.set_attributes(file, size_bytes=8200, mode=0o640)
    fs.rename(ROOT_INO, b"file", ROOT_INO, b"fill", RENAME_EXCHANGE)
    fs.unlink(ROOT_INO, b"file")
    fs.create(ROOT_INO, b"n", 0o600, 0, 0)
    fs.maintain()
    fs.close()
    assert_disk_clean(disk, tmp_path)


def test_unwritten_blocks_that_cannot_be_split(tmp_path: Path) -> None:
    """To write in the middle of unwritten blocks takes two more extents, which need a node that nothing is left for."""
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    fs.close()
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    for first in range(0, 80, 20):
        assert run("debugfs", "-w", "-R", f"fallocate /file {first} {first + 9}", str(path)).returncode == 0
    assert run("debugfs", "-w", "-R", f"set_inode_field /file size {80 * 4096}", str(path)).returncode == 0
    assert_clean(path)
    disk = MemoryDisk(len(disk.content), path.read_bytes())
    fs = Ext4Filesystem.open(disk)
    fill_to_the_last_block(fs)
    with pytest.raises(OSError, match="full"):
        fs.write(ino, 5 * 4096, b"w" * 4096)
    assert not fs.failure
    assert bytes(fs.read(ino, 0, 80 * 4096)) == bytes(80 * 4096)
    fs.unlink(ROOT_INO, b"fill")
    fs.write(ino, 5 * 4096, b"w" * 4096)
    fs.close()
    assert_disk_clean(disk, tmp_path)
