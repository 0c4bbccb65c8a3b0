"""A power cut at any write leaves a disk that e2fsck repairs by itself, with everything on it that was promised."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ext4_crashes import RecordingDisk, Workload, letter_of, state_after_cut, surviving
from tests.ext4_images import MIB, assert_clean, fresh_disk, repair
from tests.ext4_model import Model
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem, journal_place
from vdisk.ext4.volume import Volume
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CASES_PER_WORKLOAD = 70
STALE = b"\xa5"


def stale_disk() -> MemoryDisk:
    """A disk whose free blocks all hold what nobody may ever read again."""
    disk = fresh_disk(12 * MIB)
    fs = Ext4Filesystem.open(disk)
    ino = fs.create(ROOT_INO, b"stale", 0o600, 0, 0).ino
    fs.write(ino, 0, STALE * (12 * MIB))
    fs.commit()
    fs.unlink(ROOT_INO, b"stale")
    fs.close()
    assert disk.content.count(STALE * 4096) > 1000
    return disk


def small_files(work: Workload) -> None:
    work.mkdir(b"/d")
    for index in range(12):
        work.write(b"/d/file-%d-%c" % (index, 97 + index), 0, 700 * index + 1)
        if index % 3 == 2:
            work.sync()
    for index in range(0, 12, 2):
        work.unlink(b"/d/file-%d-%c" % (index, 97 + index))
    work.sync()
    work.write(b"/d/more-m", 0, 9000)
    work.sync()


def grow_and_cut(work: Workload) -> None:
    for step in range(6):
        work.write(b"/big-x", step * 50_000, 50_000)
        work.write(b"/other-y", step * 5000, 5000)
        work.sync()
    work.truncate(b"/big-x", 70_001)
    work.sync()
    work.truncate(b"/big-x", 200_000)
    work.write(b"/big-x", 300_000, 10)
    work.sync()
    work.truncate(b"/other-y", 0)
    work.write(b"/new-z", 0, 40_000)
    work.sync()


def move_about(work: Workload) -> None:
    work.mkdir(b"/a")
    work.mkdir(b"/b")
    for index in range(8):
        path = b"/a/%d-k" % index
        work.write(path, 0, 3000 + index)
        work.sync()
        work.rename(path, b"/b/%d-k" % index)
    work.sync()
    for index in range(4):
        work.rename(b"/b/%d-k" % index, b"/b/%d-k" % (index + 4))
    work.sync()


def reuse_freed_blocks(work: Workload) -> None:
    """A directory's blocks become a file's: a replay of the journal must not put the directory back into the file."""
    for round_ in range(4):
        directory = b"/dir%d" % round_
        work.mkdir(directory)
        names = [directory + b"/" + b"n" * 200 + b"%d-e" % index for index in range(40)]
        for name in names:
            work.write(name, 0, 1)
        work.sync()
        for name in names:
            work.unlink(name)
        work.fs.rmdir(ROOT_INO, directory[1:])
        work.sync()
        work.write(b"/fill%d-f" % round_, 0, 2_000_000)
        work.sync()
        work.unlink(b"/fill%d-f" % round_)


def many_transactions(work: Workload) -> None:
    """Enough to fill the journal, so that cuts fall into checkpoints too."""
    work.mkdir(b"/t")
    for index in range(70):
        work.write(b"/t/%d-t" % index, 0, 100)
        for more in range(6):
            work.mkdir(b"/t/d%d-%d" % (index, more))
        work.sync()


def unlink_while_open(work: Workload) -> None:
    for index in range(6):
        work.write(b"/open%d-o" % index, 0, 60_000)
    work.sync()
    for index in range(6):
        work.fs.acquire(work.fs.resolve(b"/open%d-o" % index))
        work.unlink(b"/open%d-o" % index)
        work.sync()
    work.fs.close()


def cut_in_steps(work: Workload) -> None:
    """Files too fragmented to be freed in one commit: each has to leave a file that is consistent."""
    for index in range(400):
        work.write(b"/one-p", index * 4096, 4096)
        work.write(b"/two-q", index * 8192, 4096)
    work.sync()
    work.fs._committer._threshold_blocks = 1
    work.truncate(b"/one-p", 5000)
    work.sync()
    work.truncate(b"/one-p", 0)
    work.sync()
    work.unlink(b"/two-q")
    work.sync()


def many_extents(work: Workload) -> None:
    """More than an extent tree of depth 1 can hold: the tree grows and shrinks between the cuts."""
    blocks = random.Random("many extents").sample(range(0, 2900, 2), 1450)
    work.write_pieces(b"/tree-t", blocks[:1200])
    work.sync()
    work.write_pieces(b"/tree-t", blocks[1200:])
    work.sync()
    work.truncate(b"/tree-t", 2000 * 4096)
    work.write_pieces(b"/tree-t", list(range(1, 400, 2)))
    work.sync()
    work.unlink(b"/tree-t")
    work.sync()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: e2fsck waits for its fsync, a thousand times here."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


WORKLOADS = (
    cut_in_steps,
    many_extents,
    small_files,
    grow_and_cut,
    move_about,
    reuse_freed_blocks,
    many_transactions,
    unlink_while_open,
)


def files_of(fs: Ext4Filesystem, directory: int = ROOT_INO, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    for name, ino, kind, _ in list(fs.entries(directory, 0)):
        if kind == stat.S_IFDIR >> 12 and name not in (b".", b"..", b"lost+found"):
            yield from files_of(fs, ino, prefix + b"/" + name)
        elif kind == stat.S_IFREG >> 12:
            yield prefix + b"/" + name, bytes(fs.read(ino, 0, 1 << 24))


def check_cut(work: Workload, before: bytes, cut: int, seed: str, path: Path) -> dict[bytes, bytes]:
    """Returns every file and its content, as they are after the repair."""
    path.write_bytes(state_after_cut(before, work.disk.record, cut, random.Random(seed)))
    repair(path)
    assert_clean(path)
    content = path.read_bytes()
    found = dict(files_of(Ext4Filesystem.open(MemoryDisk(len(content), content))))
    for name, promised in work.promised_at(cut).items():
        assert found.get(name) == promised, f"{name!r} was synced"
    for name, data in found.items():
        assert set(data) <= set(letter_of(name) + b"\0"), f"{name!r} shows a block of another file"
    return found


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
def test_power_cut(workload: Callable[[Workload], None], scratch: Path) -> None:
    disk = stale_disk()
    before = bytes(disk.content)
    work = Workload(RecordingDisk(disk))
    workload(work)
    length = len(work.disk.record)
    step = max(1, length // CASES_PER_WORKLOAD)
    for cut in range(1, length + 1, step):
        seed = f"{workload.__name__} {cut}"
        try:
            check_cut(work, before, cut, seed, scratch / "cut")
        except Exception as error:
            pytest.fail(f"cut {cut} of {length}, seed {seed!r}: {error}")


def test_a_cut_of_the_first_commit_leaves_the_disk_readable(scratch: Path) -> None:
    """The superblock's flag is set in place: every subset of the sectors of that write is a good superblock."""
    disk = fresh_disk(12 * MIB)
    before = bytes(disk.content)
    work = Workload(RecordingDisk(disk))
    work.write(b"/file-f", 0, 10)
    work.fs.close()
    record = work.disk.record
    for cut in range(1, len(record) + 1):
        for attempt in range(3):
            check_cut(work, before, cut, f"first {cut} {attempt}", scratch / "cut")


def test_a_torn_commit_is_no_commit_whatever_the_journal_held_before(scratch: Path) -> None:
    """To e2fsck, a commit block with a wrong checksum is not the end of the journal, but damage."""
    disk = fresh_disk(12 * MIB)
    for extent in journal_place(Volume(disk)).extents:
        start = max(extent.physical_bytes, extent.physical_bytes - extent.logical_bytes + 4096)
        end = extent.physical_bytes + extent.length_bytes
        disk.content[start:end] = STALE * (end - start)
    before = bytes(disk.content)
    work = Workload(RecordingDisk(disk))
    for index in range(3):
        work.write(b"/file-%d-f" % index, 0, 5000)
        work.sync()
    record = work.disk.record
    for cut, entry in enumerate(record, start=1):
        if entry is not None:
            for attempt in range(4):
                torn = bytearray(before)
                for write in surviving(record, cut, random.Random(f"commit {cut} {attempt}"), ["torn"]):
                    torn[write.offset_bytes : write.offset_bytes + len(write.data)] = write.data
                (scratch / "cut").write_bytes(torn)
                assert "corrupt" not in repair(scratch / "cut")
                assert_clean(scratch / "cut")


def test_a_truncation_in_steps_leaves_a_true_size_between(scratch: Path) -> None:
    disk = fresh_disk(12 * MIB)
    before = bytes(disk.content)
    work = Workload(RecordingDisk(disk))
    for index in range(300):
        work.write(b"/one-p", index * 4096, 4096)
        work.write(b"/two-q", index * 4096, 4096)
    work.sync()
    work.fs._committer._threshold_blocks = 1
    start = len(work.disk.record)
    work.truncate(b"/one-p", 5000)
    work.sync()
    sizes = []
    for cut in range(start, len(work.disk.record) + 1, 30):
        content = check_cut(work, before, cut, f"steps {cut}", scratch / "cut")[b"/one-p"]
        assert content in (b"p" * len(content), (b"p" * 5000).ljust(len(content), b"\0"))
        sizes.append(len(content))
    assert (sizes[0], sizes[-1]) == (300 * 4096, 5000)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 10, "the truncation was not done in steps"


@pytest.mark.parametrize("seed", range(12))
def test_power_cut_of_random_operations(seed: int, scratch: Path) -> None:
    disk = RecordingDisk(fresh_disk(12 * MIB))
    before = disk.read(0, disk.size_bytes)
    chance = random.Random(seed)
    fs = Ext4Filesystem.open(disk)
    fs._committer._threshold_blocks = chance.choice((1, 5, 20, 255))
    model = Model(fs, chance)
    for _ in range(250):
        model.step()
    fs.close()
    for cut in sorted(chance.sample(range(1, len(disk.record)), 8)):
        path = scratch / "cut"
        path.write_bytes(state_after_cut(before, disk.record, cut, random.Random(f"{seed} {cut}")))
        repair(path)
        assert_clean(path)
