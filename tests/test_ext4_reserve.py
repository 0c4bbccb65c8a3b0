"""Blocks that are kept from allocation stay untouched until they are released."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import assert_disk_clean, fresh_disk
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem
from vdisk.extent import Run

if TYPE_CHECKING:
    from pathlib import Path


def new_file(filesystem: Ext4Filesystem, name: bytes) -> int:
    return filesystem.create(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0).ino


def fill(filesystem: Ext4Filesystem) -> None:
    for number in range(1000):
        filesystem.write(new_file(filesystem, b"%d" % number), 0, b"x" * 100_000)


def test_reserved_blocks_are_given_to_nobody(tmp_path: Path) -> None:
    disk = fresh_disk()
    filesystem = Ext4Filesystem.open(disk)
    wanted = new_file(filesystem, b"dump")
    filesystem.allocate_written(wanted, 4 << 20)
    places = [Run(extent.physical_bytes, extent.length_bytes) for extent in filesystem.extents(wanted)]
    for place in places:
        disk.write_from(place.physical_bytes, b"\xaa" * place.length_bytes)
    filesystem.unlink(ROOT_INO, b"dump")
    filesystem.commit()
    filesystem.commit()
    filesystem.reserve([*places, Run(1 << 40, 4096), Run(disk.size_bytes - 4096, 1 << 30)])
    with pytest.raises(OSError) as full:
        fill(filesystem)
    assert full.value.errno == errno.ENOSPC
    for place in places:
        assert disk.read(place.physical_bytes, place.length_bytes) == b"\xaa" * place.length_bytes
    filesystem.release_reserved()
    assert filesystem.write(new_file(filesystem, b"after"), 0, b"y" * 1_000_000) == 1_000_000
    filesystem.close()
    assert_disk_clean(disk, tmp_path)
