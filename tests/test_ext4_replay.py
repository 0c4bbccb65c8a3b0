"""The replay of the journal may be cut like anything else: what it leaves, the next one brings to its end."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from tests.ext4_crashes import FATES, RecordingDisk, Workload, surviving
from tests.ext4_images import MIB, UUID, assert_clean, repair, run
from vdisk.ext4.atomic_superblock import AtomicSuperblock
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.ext4.mkfs import check_filesystem, make_filesystem
from vdisk.ext4.repairs import Repairs
from vdisk.ext4.superblock import OFFSET_BYTES, SIZE_BYTES
from vdisk.imagefile import ImageFile
from vdisk.memorydisk import MemoryDisk
from vdisk.mount.export import exported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.ext4_crashes import Write
    from vdisk.blockdevice import BlockDevice

ONE_GROUP_BYTES = 64 * MIB  # there is no other superblock than the first
FOUR_GROUPS_BYTES = 400 * MIB
CUTS = 12
SUPERBLOCK_SECTORS = range(OFFSET_BYTES, OFFSET_BYTES + SIZE_BYTES)


@contextmanager
def image_file(path: Path) -> Iterator[ImageFile]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield ImageFile(descriptor)
    finally:
        os.close(descriptor)


def make_disk(path: Path, size_bytes: int) -> None:
    path.touch()
    os.truncate(path, size_bytes)
    make_filesystem(str(path), size_bytes, label="test", uuid=UUID)


def files(work: Workload) -> None:
    for index in range(30):
        work.write(b"/file-%d-f" % index, 0, 5000)
        work.sync()


def orphans(work: Workload) -> None:
    """Files without a name that are held, on the list that the replay has to end."""
    work.write(b"/kept-k", 0, 9000)
    for index in range(8):
        name = b"/orphan-%d-o" % index
        work.write(name, 0, 60_000 * (index + 1))
        work.fs.acquire(work.fs.resolve(name))
    work.sync()
    for index in range(8):
        work.unlink(b"/orphan-%d-o" % index)
    work.sync()


class Crashed(NamedTuple):
    """A disk whose journal has to be replayed, and what was synced to it."""

    path: Path
    files: dict[bytes, bytes]


def crash(path: Path, size_bytes: int, workload: Callable[[Workload], None]) -> Crashed:
    make_disk(path, size_bytes)
    with image_file(path) as image:
        work = Workload(RecordingDisk(image))
        workload(work)
        work.fs.abandon()
    return Crashed(path, work.promises[-1].files)


def copy_of(path: Path) -> Path:
    copy = path.with_suffix(".copy")
    subprocess.run(["cp", "--sparse=always", path, copy], check=True)
    return copy


def refuse(request: str, error: Exception) -> None:
    raise AssertionError(f"{request}: {error!r}")


async def replay(path: Path, over: Callable[[BlockDevice], BlockDevice]) -> list[Write | None]:
    """Let e2fsck replay the journal of the image as a machine does at boot: what reached the disk, in order."""
    with image_file(path) as image:
        disk = RecordingDisk(image)
        device = over(disk)
        async with exported(device, refuse) as exported_path:
            await trio.to_thread.run_sync(check_filesystem, exported_path)
        if isinstance(device, Repairs):
            device.commit()
    return disk.record


def touches_superblock(entry: Write | None) -> bool:
    if entry is None:
        return False
    return entry.offset_bytes < SUPERBLOCK_SECTORS.stop and entry.offset_bytes + len(entry.data) > OFFSET_BYTES


def cuts_of(record: list[Write | None], count: int) -> list[int]:
    """Before and after every write of the superblock, and at as many other places as asked for, spread evenly."""
    around = {index + side for index, entry in enumerate(record) if touches_superblock(entry) for side in (0, 1)}
    return sorted(around | set(range(1, len(record) + 1, max(1, len(record) // count))))


def state_of(crashed: Crashed, record: list[Write | None], cut: int, fate: str) -> Path:
    path = copy_of(crashed.path)
    with image_file(path) as image:
        for write in surviving(record, cut, random.Random(f"{cut} {fate}"), [fate]):
            image.write_from(*write)
    return path


def check_files(path: Path, expected: dict[bytes, bytes]) -> None:
    with image_file(path) as image:
        fs = Ext4Filesystem.open(image)
        for name, content in expected.items():
            assert bytes(fs.read(fs.resolve(name), 0, len(content) + 1)) == content, f"{name!r} was synced"
        fs.abandon()


def check_cut(crashed: Crashed, record: list[Write | None], cut: int, fate: str) -> None:
    path = state_of(crashed, record, cut, fate)
    repair(path)
    assert_clean(path)
    check_files(path, crashed.files)


@pytest.mark.parametrize("workload", [files, orphans], ids=lambda workload: workload.__name__)
@pytest.mark.parametrize("size_bytes", [ONE_GROUP_BYTES, FOUR_GROUPS_BYTES], ids=["one group", "four groups"])
async def test_a_cut_replay_is_brought_to_its_end_by_the_next(
    size_bytes: int, workload: Callable[[Workload], None], tmp_path: Path
) -> None:
    crashed = crash(tmp_path / "disk", size_bytes, workload)
    record = await replay(copy_of(crashed.path), Repairs)
    for cut in cuts_of(record, CUTS):
        for fate in FATES:
            try:
                check_cut(crashed, record, cut, fate)
            except Exception as error:
                pytest.fail(f"cut {cut} of {len(record)}, unflushed writes {fate}: {error}")


async def test_without_the_layer_a_cut_ends_the_disk(tmp_path: Path) -> None:
    """The fault is there: should e2fsck write by sectors one day, the layer can go."""
    crashed = crash(tmp_path / "disk", ONE_GROUP_BYTES, files)
    record = await replay(copy_of(crashed.path), lambda disk: disk)
    results = {
        run("e2fsck", "-p", str(state_of(crashed, record, cut, "kept"))).returncode for cut in cuts_of(record, 1)
    }
    assert 8 in results, "e2fsck never left a superblock that it refuses"


async def test_the_replay_writes_the_superblock_by_single_sectors_after_everything_else(tmp_path: Path) -> None:
    crashed = crash(tmp_path / "disk", ONE_GROUP_BYTES, files)
    record = await replay(crashed.path, Repairs)
    places = [index for index, entry in enumerate(record) if touches_superblock(entry)]
    assert places
    for place in places:
        entry = record[place]
        assert entry is not None
        assert (entry.offset_bytes, len(entry.data)) == (OFFSET_BYTES, 512), "the field's sector, not the checksum's"
        assert record[place - 1] is None
        assert record[place + 1] is None
    assert_clean(crashed.path)


class TestTheLayer:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> RecordingDisk:
        path = tmp_path / "disk"
        make_disk(path, 16 * MIB)
        return RecordingDisk(MemoryDisk(16 * MIB, path.read_bytes()))

    @staticmethod
    def check(disk: RecordingDisk, tmp_path: Path) -> None:
        path = tmp_path / "check"
        path.write_bytes(disk.read(0, disk.size_bytes))
        assert_clean(path)

    @staticmethod
    def change(device: AtomicSuperblock, offset: int, value: bytes) -> None:
        """As e2fsck does it through the export: one sector is read, a few of its bytes are new."""
        start = OFFSET_BYTES + offset - offset % 512
        sector = bytearray(device.read(start, 512))
        sector[offset % 512 : offset % 512 + len(value)] = value
        device.write_from(start, sector)

    def test_what_is_held_is_read_but_not_on_the_disk_before_a_flush(self, disk: RecordingDisk) -> None:
        device = AtomicSuperblock(disk)
        self.change(device, 0x78, b"new name")
        assert device.read(0, 4096)[OFFSET_BYTES + 0x78 :].startswith(b"new name")
        assert device.read(OFFSET_BYTES, 512)[0x78:].startswith(b"new name")
        assert disk.record == []
        device.flush()
        assert disk.read(OFFSET_BYTES, 512)[0x78:].startswith(b"new name")
        device.flush()
        assert sum(map(touches_superblock, disk.record)) == 1

    def test_what_stands_around_it_passes(self, disk: RecordingDisk) -> None:
        device = AtomicSuperblock(disk)
        block = bytearray(device.read(0, 4096))
        block[:1024], block[2048:] = b"a" * 1024, b"z" * 2048
        block[OFFSET_BYTES + 0x78 :][:8] = b"new name"
        device.write_from(0, block)
        assert [(entry.offset_bytes, len(entry.data)) for entry in disk.record if entry] == [(0, 1024), (2048, 2048)]
        assert device.read(0, 1024) + device.read(2048, 2048) == b"a" * 1024 + b"z" * 2048

    def test_a_field_beside_the_checksum_changes_in_a_second_step(self, disk: RecordingDisk, tmp_path: Path) -> None:
        before = disk.read(0, disk.size_bytes)
        device = AtomicSuperblock(disk)
        self.change(device, 0x78, b"new name")
        self.change(device, 0x200, b"errors=remount-ro")  # s_mount_opts
        device.write_through(8192 * 512, b"x" * 512)
        found = disk.read(OFFSET_BYTES, SIZE_BYTES)
        assert (found[0x78:0x80], found[0x200:0x211]) == (b"new name", b"errors=remount-ro")
        for cut in range(len(disk.record) + 1):
            state = RecordingDisk(MemoryDisk(len(before), before))
            for entry in disk.record[:cut]:
                if entry is not None:
                    state.write_from(*entry)
            self.check(state, tmp_path)

    def test_without_checksums_there_is_nothing_to_balance(self, disk: RecordingDisk, tmp_path: Path) -> None:
        path = tmp_path / "plain"
        path.write_bytes(disk.read(0, disk.size_bytes))
        assert run("tune2fs", "-O", "^metadata_csum", str(path)).returncode == 0
        plain = RecordingDisk(MemoryDisk(16 * MIB, path.read_bytes()))
        expected = bytearray(plain.read(OFFSET_BYTES, SIZE_BYTES))
        expected[0x78:0x80] = b"new name"
        device = AtomicSuperblock(plain)
        self.change(device, 0x78, b"new name")
        device.flush()
        assert plain.read(OFFSET_BYTES, SIZE_BYTES) == expected
        self.check(plain, tmp_path)

    def test_a_discard_leaves_nothing_held(self, disk: RecordingDisk) -> None:
        device = AtomicSuperblock(disk)
        self.change(device, 0x78, b"new name")
        device.discard(0, 4096)
        device.flush()
        assert device.read(0, 4096) == bytes(4096)


async def test_repairs_that_no_transaction_takes_are_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = crash(tmp_path / "disk", ONE_GROUP_BYTES, orphans)
    for name, limit in (("vdisk.ext4.repairs.HELD_BLOCKS_MAX", 3), ("vdisk.ext4.log.Log.takes", lambda *_: False)):
        with monkeypatch.context() as patch:
            patch.setattr(name, limit)
            path = copy_of(crashed.path)
            await replay(path, Repairs)
        assert_clean(path)
        check_files(path, crashed.files)
