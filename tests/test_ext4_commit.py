"""When commits and checkpoints come, and what is left when one fails; mke2fs and e2fsck as the product calls them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.ext4_crashes import RecordingDisk
from tests.ext4_images import MIB, TAIL_BYTES, UUID, assert_clean, assert_disk_clean, fresh_disk, repair, run
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError, FilesystemError
from vdisk.ext4 import directories, mkfs
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem, needs_check
from vdisk.ext4.mkfs import check_filesystem, make_filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer


class Clock:
    """Stands in for time.monotonic."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_what_is_five_seconds_old_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("vdisk.ext4.committer.time.monotonic", clock)
    disk = RecordingDisk(fresh_disk())
    fs = Ext4Filesystem.open(disk)
    fs.create(ROOT_INO, b"file", 0o600, 0, 0)
    clock.seconds = 4.9
    fs.maintain()
    assert not disk.record
    clock.seconds = 5.1
    fs.maintain()
    written = len(disk.record)
    assert written
    clock.seconds = 100
    fs.maintain()
    assert len(disk.record) == written, "there was nothing new to commit"


def test_many_changes_are_committed_without_waiting() -> None:
    disk = RecordingDisk(fresh_disk())
    fs = Ext4Filesystem.open(disk)
    for index in range(400):
        fs.mkdir(ROOT_INO, b"%d" % index, 0o700, 0, 0)
    assert disk.record


def test_fsync_of_data_alone_flushes_and_an_idle_one_does_nothing() -> None:
    disk = RecordingDisk(fresh_disk())
    fs = Ext4Filesystem.open(disk)
    ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    fs.write(ino, 0, b"data")
    fs.fsync(ino)
    assert disk.record[-1] is None
    count = len(disk.record)
    fs.fsync(ino)
    assert len(disk.record) == count


class FullStop(Layer):
    """Fails every write from the one that is named on."""

    writes_left = 1 << 62

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise DeviceError("the disk is gone")
        super().write_from(offset_bytes, buffer)


def test_a_disk_that_dies_anywhere_leaves_what_was_synced(tmp_path: Path) -> None:
    for writes in range(0, 160, 7):
        disk = fresh_disk()
        failing = FullStop(disk)
        fs = Ext4Filesystem.open(failing)
        failing.writes_left = writes
        synced = make_and_sync_until_it_fails(fs)
        with pytest.raises(OSError, match="shut down") as caught:
            fs.create(ROOT_INO, b"too late", 0o600, 0, 0)
        assert caught.value.errno == errno.EROFS
        assert fs.failure.endswith("the disk is gone")
        with pytest.raises(FilesystemError, match="the disk is gone"):
            fs.close()
        path = tmp_path / "disk"
        path.write_bytes(disk.content)
        repair(path)
        assert_clean(path)
        again = Ext4Filesystem.open(MemoryDisk(disk.size_bytes, path.read_bytes()))
        for index in range(synced):
            assert again.lookup(ROOT_INO, b"%d" % index)


def test_a_commit_that_fails_in_the_background_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("vdisk.ext4.committer.time.monotonic", clock)
    failing = FullStop(fresh_disk())
    fs = Ext4Filesystem.open(failing)
    fs.create(ROOT_INO, b"file", 0o600, 0, 0)
    fs.maintain()
    clock.seconds = 6
    failing.writes_left = 0
    for _ in range(2):
        with pytest.raises(FilesystemError, match="a commit failed: the disk is gone"):
            fs.maintain()
    assert fs.failure == "a commit failed: the disk is gone"


def test_a_close_that_fails_is_reported(tmp_path: Path) -> None:
    for writes in range(8):
        disk = fresh_disk()
        failing = FullStop(disk)
        fs = Ext4Filesystem.open(failing)
        fs.create(ROOT_INO, b"file", 0o600, 0, 0)
        failing.writes_left = writes
        with pytest.raises(FilesystemError, match="the disk is gone"):
            fs.close()
        assert fs.failure.endswith("the disk is gone")
        path = tmp_path / "disk"
        path.write_bytes(disk.content)
        repair(path)
        assert_clean(path)


def test_an_operation_that_fails_half_way_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name cannot be added when its inode has been made."""
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    fs.create(ROOT_INO, b"kept", 0o600, 0, 0)
    fs.commit()

    def fail(*_: object) -> None:
        raise OSError(errno.EUCLEAN, "the directory is damaged")

    monkeypatch.setattr(directories.Directory, "add", fail)
    with pytest.raises(OSError, match="the directory is damaged"):
        fs.create(ROOT_INO, b"lost", 0o600, 0, 0)
    expected = "an operation failed half-way: the directory is damaged"
    assert fs.failure == expected
    with pytest.raises(OSError, match="shut down"):
        fs.create(ROOT_INO, b"too late", 0o600, 0, 0)
    with pytest.raises(FilesystemError, match=expected):
        fs.maintain()
    with pytest.raises(FilesystemError, match=expected):
        fs.close()
    assert needs_check(disk)
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    repair(path)
    assert_clean(path)


def make_and_sync_until_it_fails(fs: Ext4Filesystem) -> int:
    """Enough blocks a time for checkpoints to come. Returns how many directories were synced."""
    for index in range(10_000):
        try:
            directory = fs.mkdir(ROOT_INO, b"%d" % index, 0o700, 0, 0).ino
            for below in range(20):
                fs.mkdir(directory, b"%d" % below, 0o700, 0, 0)
            fs.fsync(directory)
        except DeviceError:
            return index
    raise AssertionError("the disk never failed")


def test_few_indexes_in_memory_are_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(directories, "_NAMES_KEPT_MAX", 10)
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    inos = [fs.mkdir(ROOT_INO, b"%d" % index, 0o700, 0, 0).ino for index in range(20)]
    for round_ in range(4):
        for ino in inos:
            fs.symlink(ino, b"%d" % round_, b"x", 0, 0)
            fs.rename(ino, b"%d" % round_, inos[0], b"%d-%d" % (ino, round_))
    assert len(list(fs.entries(inos[0], 0))) == 2 + 80
    fs.close()
    assert_disk_clean(disk, tmp_path)


def test_dropping_a_filesystem_leaves_the_disk_for_e2fsck(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    fs.create(ROOT_INO, b"kept", 0o600, 0, 0)
    fs.commit()
    fs.create(ROOT_INO, b"lost", 0o600, 0, 0)
    fs.abandon()
    fs.close()
    assert not fs.failure
    path.write_bytes(disk.content)
    assert needs_check(disk)
    check_filesystem(str(path))
    assert_clean(path)
    content = path.read_bytes()
    assert not needs_check(MemoryDisk(len(content), content))
    assert "kept" in run("debugfs", "-R", "ls /", str(path)).stdout


def test_a_filesystem_is_made_in_the_first_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\xee" * (16 * MIB + TAIL_BYTES))
    make_filesystem(str(path), 16 * MIB, label="a label", uuid=UUID)
    assert path.read_bytes()[-TAIL_BYTES:] == b"\xee" * TAIL_BYTES
    assert_clean(path)
    shown = run("dumpe2fs", "-h", str(path)).stdout
    for expected in ("a label", UUID, "metadata_csum", "64bit", "has_journal", "extent"):
        assert expected in shown


def test_what_cannot_be_made_or_repaired_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    with pytest.raises(FilesystemError, match="e2fsck -p cannot repair"):
        check_filesystem(str(path))
    with pytest.raises(FilesystemError, match="mke2fs failed"):
        make_filesystem(str(tmp_path / "missing" / "disk"), MIB, label="", uuid=UUID)
    monkeypatch.setattr(mkfs, "_path", lambda: str(tmp_path))
    with pytest.raises(FilesystemError, match="install the package e2fsprogs"):
        check_filesystem(str(path))
