"""The content of files: holes, ends, full disks, failing disks, and where the blocks lie."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import MIB, assert_clean, assert_disk_clean, debugfs_extents, fresh_disk, run
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError, FilesystemError
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem, needs_check
from vdisk.ext4.placement import choose_runs
from vdisk.extent import ExtentMap
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer


@pytest.fixture
def disk() -> MemoryDisk:
    return fresh_disk()


@pytest.fixture
def fs(disk: MemoryDisk, tmp_path: Path) -> Iterator[Ext4Filesystem]:
    """A filesystem that has to be clean at the end of every test."""
    fs = Ext4Filesystem.open(disk)
    yield fs
    fs.close()
    assert_disk_clean(disk, tmp_path)


def create(fs: Ext4Filesystem, name: bytes = b"file") -> int:
    return fs.create(ROOT_INO, name, 0o600, 0, 0).ino


def fill(fs: Ext4Filesystem, name: bytes, data: bytes = b"f" * 65536) -> int:
    """Write until the disk is full; returns how many bytes fitted."""
    ino, offset = create(fs, name), 0
    while wrote := write_or_full(fs, ino, offset, data):
        offset += wrote
    return offset


def write_or_full(fs: Ext4Filesystem, ino: int, offset: int, data: bytes) -> int:
    try:
        return fs.write(ino, offset, data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


def test_a_hole_reads_as_zeros_and_takes_no_blocks(fs: Ext4Filesystem) -> None:
    ino = create(fs)
    fs.write(ino, 10 * MIB + 5, b"end")
    assert fs.attributes(ino).blocks_512 == 8
    assert fs.attributes(ino).size_bytes == 10 * MIB + 8
    content = bytes(fs.read(ino, 0, 20 * MIB))
    assert content == bytes(10 * MIB + 5) + b"end"
    assert bytes(fs.read(ino, 10 * MIB + 8, 1)) == b""
    with pytest.raises(FilesystemError, match="a hole at byte 0"):
        fs.extents(ino)


def test_what_was_cut_off_does_not_come_back(fs: Ext4Filesystem) -> None:
    ino = create(fs)
    fs.write(ino, 0, b"x" * 10_000)
    fs.set_attributes(ino, size_bytes=5000)
    fs.set_attributes(ino, size_bytes=12_000)
    assert bytes(fs.read(ino, 0, 20_000)) == b"x" * 5000 + bytes(7000)
    fs.set_attributes(ino, size_bytes=100)
    fs.write(ino, 9000, b"y")
    assert bytes(fs.read(ino, 0, 20_000)) == b"x" * 100 + bytes(8900) + b"y"


def test_a_write_behind_the_end_clears_what_another_system_left_there(disk: MemoryDisk, tmp_path: Path) -> None:
    fs = Ext4Filesystem.open(disk)
    ino = create(fs)
    fs.write(ino, 0, b"x" * 100)
    disk.write_from(fs.extents(ino)[0].physical_bytes, b"x" * 100 + b"garbage!" * 50 + bytes(12))
    fs.write(ino, 5000, b"y")
    assert bytes(fs.read(ino, 0, 6000)) == b"x" * 100 + bytes(4900) + b"y"
    fs.close()


def test_only_files_have_content(fs: Ext4Filesystem) -> None:
    with pytest.raises(IsADirectoryError):
        fs.write(ROOT_INO, 0, b"x")
    with pytest.raises(IsADirectoryError):
        fs.set_attributes(ROOT_INO, size_bytes=0)
    link = fs.symlink(ROOT_INO, b"link", b"x", 0, 0).ino
    with pytest.raises(OSError, match="not a regular file"):
        fs.read(link, 0, 1)
    with pytest.raises(OSError, match="larger than ext4 allows"):
        fs.write(create(fs), 1 << 44, b"x")


def test_a_full_disk_says_so_and_goes_on(fs: Ext4Filesystem) -> None:
    free = fs.statistics().blocks_free
    size = fill(fs, b"fill")
    assert size // 4096 >= free - 40
    assert bytes(fs.read(fs.resolve(b"/fill"), size - 10, 100)) == b"f" * 10
    fs.rename(ROOT_INO, b"fill", ROOT_INO, b"full")
    fs.unlink(ROOT_INO, b"full")
    assert fill(fs, b"again") == size, "freed blocks come back when they are needed"
    fs.unlink(ROOT_INO, b"again")
    assert fs.statistics().blocks_free == free


def test_names_on_a_full_disk(fs: Ext4Filesystem) -> None:
    fill(fs, b"fill")
    made = 0
    while fs.statistics().blocks_free >= 8:
        fs.mkdir(ROOT_INO, b"%d" % made, 0o700, 0, 0)
        made += 1
    with pytest.raises(OSError, match="full"):
        fs.mkdir(ROOT_INO, b"one more", 0o700, 0, 0)
    assert made > 5, "names have room where data has none"
    for index in range(made):
        fs.rmdir(ROOT_INO, b"%d" % index)


def test_no_inodes_left(fs: Ext4Filesystem) -> None:
    count = fs.statistics().files_free
    ino = create(fs, b"first")
    for index in range(count - 1):
        fs.mknod(ROOT_INO, b"%d" % index, 0o100600, 0, 0, 0)
    with pytest.raises(OSError, match="inode") as caught:
        create(fs, b"one more")
    assert caught.value.errno == errno.ENOSPC
    assert fs.statistics().files_free == 0
    fs.unlink(ROOT_INO, b"first")
    assert create(fs, b"one more") == ino


def test_a_region_is_allocated_in_one_piece(fs: Ext4Filesystem, disk: MemoryDisk, tmp_path: Path) -> None:
    ino = create(fs, b"dump.bin")
    fs.allocate_written(ino, 6 * MIB)
    extents = ExtentMap(fs.extents(ino))
    assert extents.size_bytes == 6 * MIB
    assert len(extents.extents) == 1
    physical = extents.extents[0].physical_bytes
    disk.write_from(physical, b"beneath the filesystem".ljust(4096, b"\0"))
    assert bytes(fs.read(ino, 0, 22)) == b"beneath the filesystem"
    fs.commit()
    with pytest.raises(OSError, match="empty"):
        fs.allocate_written(ino, 4096)


def checkerboard(fs: Ext4Filesystem, pieces: int, piece_bytes: int = 4096) -> None:
    """Leave free runs of one piece each, and nothing else."""
    directory = fs.mkdir(ROOT_INO, b"board", 0o700, 0, 0).ino
    for index in range(pieces):
        ino = fs.create(directory, b"%d" % index, 0o600, 0, 0).ino
        fs.write(ino, 0, b"b" * piece_bytes)
    fill(fs, b"rest")
    for index in range(0, pieces, 2):
        fs.unlink(directory, b"%d" % index)
    fs.commit()


def test_a_region_on_a_fragmented_disk(disk: MemoryDisk, tmp_path: Path) -> None:
    fs = Ext4Filesystem.open(disk)
    checkerboard(fs, 1500)
    ino = create(fs, b"dump.bin")
    with pytest.raises(OSError, match="not enough") as caught:
        fs.allocate_written(ino, 4 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert fs.attributes(ino).blocks_512 == 0
    fs.allocate_written(ino, 600 * 4096)
    extents = fs.extents(ino)
    assert len(ExtentMap(extents).extents) >= 550
    fs.close()
    path = assert_disk_clean(disk, tmp_path)
    seen = [
        (first * 4096, physical * 4096, length * 4096) for first, physical, length in debugfs_extents(path, "/dump.bin")
    ]
    assert seen == [tuple(extent) for extent in extents]


def test_extents_agree_with_debugfs(disk: MemoryDisk, tmp_path: Path) -> None:
    fs = Ext4Filesystem.open(disk)
    files = {name: create(fs, name) for name in (b"a", b"b", b"c")}
    for index in range(100):
        for ino in files.values():
            fs.write(ino, index * 4096, b"z" * 4096)
    extents = {name: fs.extents(ino) for name, ino in files.items()}
    fs.close()
    path = assert_disk_clean(disk, tmp_path)
    for name, expected in extents.items():
        seen = debugfs_extents(path, "/" + name.decode())
        assert [(4096 * a, 4096 * b, 4096 * c) for a, b, c in seen] == [tuple(extent) for extent in expected]


def test_blocks_that_another_system_allocated_unwritten(disk: MemoryDisk, tmp_path: Path) -> None:
    fs = Ext4Filesystem.open(disk)
    ino = create(fs)
    fs.close()
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    assert run("debugfs", "-w", "-R", "fallocate /file 0 99", str(path)).returncode == 0
    assert run("debugfs", "-w", "-R", f"set_inode_field /file size {100 * 4096}", str(path)).returncode == 0
    assert_clean(path)
    disk = MemoryDisk(len(disk.content), path.read_bytes())
    fs = Ext4Filesystem.open(disk)
    with pytest.raises(FilesystemError, match="unwritten"):
        fs.extents(ino)
    fs.write(ino, 50 * 4096 + 10, b"in the middle")
    assert bytes(fs.read(ino, 0, 100 * 4096)) == (bytes(50 * 4096 + 10) + b"in the middle").ljust(100 * 4096, b"\0")
    for block in range(100):
        fs.write(ino, block * 4096, bytes([block]) * 4096)
    assert len(ExtentMap(fs.extents(ino)).extents) <= 4
    fs.close()
    assert_disk_clean(disk, tmp_path)


class FailingDisk(Layer):
    """Fails writes to, or reads from, the ranges that it is told."""

    bad_writes: tuple[range, ...] = ()
    bad_reads: tuple[range, ...] = ()

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        if any(offset_bytes in bad for bad in self.bad_reads):
            raise DeviceError("the disk cannot read this")
        super().read_into(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        if any(offset_bytes in bad for bad in self.bad_writes):
            raise DeviceError("the disk cannot write this")
        super().write_from(offset_bytes, buffer)


def test_a_failed_write_of_data_changes_nothing(disk: MemoryDisk, tmp_path: Path) -> None:
    failing = FailingDisk(disk)
    fs = Ext4Filesystem.open(failing)
    ino = create(fs)
    fs.write(ino, 0, b"before")
    failing.bad_writes = (range(disk.size_bytes),)
    with pytest.raises(DeviceError):
        fs.write(ino, 4096, b"x" * 4096)
    assert fs.attributes(ino).size_bytes == 6
    failing.bad_writes = ()
    fs.write(ino, 6, b" and after")
    fs.close()
    assert_disk_clean(disk, tmp_path)
    assert bytes(Ext4Filesystem.open(disk).read(ino, 0, 100)) == b"before and after"


def test_a_failed_commit_leaves_the_last_one(disk: MemoryDisk, tmp_path: Path) -> None:
    failing = FailingDisk(disk)
    fs = Ext4Filesystem.open(failing)
    create(fs, b"kept")
    fs.commit()
    create(fs, b"lost")
    failing.bad_writes = (range(disk.size_bytes),)
    with pytest.raises(DeviceError):
        fs.commit()
    failing.bad_writes = ()
    with pytest.raises(OSError, match="shut down") as caught:
        create(fs, b"too late")
    assert caught.value.errno == errno.EROFS
    with pytest.raises(FilesystemError, match="a commit failed: the disk cannot write this"):
        fs.close()
    assert needs_check(disk)
    with pytest.raises(FilesystemError, match="e2fsck"):
        Ext4Filesystem.open(disk)
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    assert run("e2fsck", "-p", str(path)).returncode in (0, 1)
    again = Ext4Filesystem.open(MemoryDisk(disk.size_bytes, path.read_bytes()))
    assert {name for name, *_ in again.entries(ROOT_INO, 0)} == {b".", b"..", b"lost+found", b"kept"}


def test_an_unreadable_directory_is_an_error_of_that_directory(disk: MemoryDisk) -> None:
    fs = Ext4Filesystem.open(disk)
    ino = fs.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    fs.create(ROOT_INO, b"other", 0o600, 0, 0)
    fs.close()
    failing = FailingDisk(disk)
    fs = Ext4Filesystem.open(failing)
    place = run_of_directory(fs, ino)
    failing.bad_reads = (range(place, place + 1),)
    with pytest.raises(DeviceError):
        fs.lookup(ino, b"x")
    with pytest.raises(DeviceError):
        fs.create(ino, b"x", 0o600, 0, 0)
    fs.write(fs.resolve(b"/other"), 0, b"still writable")
    failing.bad_reads = ()
    fs.create(ino, b"x", 0o600, 0, 0)
    fs.close()


def run_of_directory(fs: Ext4Filesystem, ino: int) -> int:
    return fs._files.run_at(ino, 0, 1).physical * 4096


def test_a_filesystem_that_was_only_read_is_not_written(disk: MemoryDisk) -> None:
    before = bytes(disk.content)
    fs = Ext4Filesystem.open(disk)
    list(fs.entries(ROOT_INO, 0))
    fs.fsync(ROOT_INO)
    fs.close()
    assert disk.content == before


def test_recover_is_set_from_the_first_commit_to_the_close(disk: MemoryDisk) -> None:
    fs = Ext4Filesystem.open(disk)
    assert not needs_check(disk)
    create(fs)
    fs.commit()
    assert needs_check(disk)
    fs.close()
    assert not needs_check(disk)


@pytest.mark.parametrize("features", ["^has_journal", "bigalloc", "inline_data", "encrypt", "quota", "^extents,^64bit"])
def test_what_cannot_be_kept_right_is_refused(tmp_path: Path, features: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(32 * MIB))
    os.truncate(path, 32 * MIB)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(FilesystemError):
        Ext4Filesystem.open(MemoryDisk(32 * MIB, path.read_bytes()))


@pytest.mark.parametrize("content", [b"", b"\xff" * 4096])
def test_what_is_no_filesystem_is_refused(content: bytes) -> None:
    with pytest.raises(FilesystemError):
        Ext4Filesystem.open(MemoryDisk(MIB, content))
    with pytest.raises(FilesystemError):
        needs_check(MemoryDisk(512))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (5, [(100, 5)]),
        (6, [(200, 6)]),
        (10, [(200, 10)]),
        (12, [(10, 2), (200, 10)]),
        (14, [(100, 4), (200, 10)]),
        (99, [(10, 3), (100, 5), (200, 10)]),
        (0, []),
    ],
)
def test_choice_of_runs(wanted: int, expected: list[tuple[int, int]]) -> None:
    assert choose_runs([(10, 3), (100, 5), (200, 10)], wanted) == expected
