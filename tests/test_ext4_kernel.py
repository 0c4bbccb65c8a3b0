"""The Linux kernel as the judge: what we wrote, it reads; what it wrote, we read; what we left dirty, it replays."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.ext4_crashes import RecordingDisk, Workload, state_after_cut
from tests.ext4_images import MIB, assert_disk_clean, fresh_disk, run
from vdisk.ext4.filesystem import ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LoopMount:
    """Mounts images by the kernel, and takes every mount down at the end."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "loop"
        self.point = directory / "point"
        self.point.mkdir()

    def mount(self, content: bytes | bytearray) -> Path:
        self.image.write_bytes(content)
        result = run("mount", "-o", "loop", str(self.image), str(self.point))
        assert result.returncode == 0, result.stderr
        return self.point

    def unmount(self) -> bytes:
        subprocess.run(["umount", str(self.point)], check=True)
        return self.image.read_bytes()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopMount]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image by the kernel")
    mount = LoopMount(tmp_path)
    probe = run("mount", "-o", "loop", str(_probe(mount)), str(mount.point))
    if probe.returncode:
        pytest.skip(f"no loop mounts here: {probe.stderr.strip()}")
    mount.unmount()
    yield mount
    if os.path.ismount(mount.point):
        mount.unmount()


def _probe(mount: LoopMount) -> Path:
    mount.image.write_bytes(fresh_disk().content)
    return mount.image


def build_tree(fs: Ext4Filesystem) -> None:
    chance = random.Random(7)
    directory = fs.mkdir(ROOT_INO, b"directory", 0o750, 3, 4).ino
    for index in range(1500):
        ino = fs.create(directory, b"file %d" % index, 0o640, index, index + 1).ino
        if index % 10 == 0:
            fs.write(ino, chance.randrange(20_000), chance.randbytes(3000))
    for index in range(0, 1500, 7):
        fs.unlink(directory, b"file %d" % index)
    fs.symlink(ROOT_INO, b"short", b"/directory", 0, 0)
    fs.symlink(ROOT_INO, b"long", b"l" * 1000, 0, 0)
    fs.mknod(ROOT_INO, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), 0, 0)
    fs.link(fs.resolve(b"/directory/file 1"), ROOT_INO, b"hard")
    fs.xattr_set(directory, b"user.colour", b"blue" * 200)
    fs.set_attributes(directory, atime_ns=1, mtime_ns=2**32 * 10**9 + 3)
    fs.allocate_written(fs.create(ROOT_INO, b"dump.bin", 0o600, 0, 0).ino, 2 * MIB)


def assert_same_tree(fs: Ext4Filesystem, ino: int, path: bytes) -> int:
    """Compare an inode of ours with what the kernel shows at a path, and all below. Returns how many were compared."""
    ours, theirs = fs.attributes(ino), os.lstat(path)
    assert ours.ino == theirs.st_ino
    assert (ours.mode, ours.nlink, ours.uid, ours.gid) == (
        theirs.st_mode,
        theirs.st_nlink,
        theirs.st_uid,
        theirs.st_gid,
    )
    assert (ours.size_bytes, ours.blocks_512, ours.rdev) == (theirs.st_size, theirs.st_blocks, theirs.st_rdev)
    assert (ours.mtime_ns, ours.ctime_ns) == (theirs.st_mtime_ns, theirs.st_ctime_ns)
    for name in fs.xattr_list(ino):
        assert fs.xattr_get(ino, name) == os.getxattr(path, name)
    if stat.S_ISREG(ours.mode):
        with open(path, "rb") as file:
            assert fs.read(ino, 0, ours.size_bytes) == file.read()
    elif stat.S_ISLNK(ours.mode):
        assert fs.readlink(ino) == os.readlink(path)
    return 1 + (compare_children(fs, ino, path) if stat.S_ISDIR(ours.mode) else 0)


def compare_children(fs: Ext4Filesystem, ino: int, path: bytes) -> int:
    children = {name: child for name, child, _, _ in fs.entries(ino, 0) if name not in (b".", b"..")}
    assert children.keys() == set(os.listdir(path))
    return sum(assert_same_tree(fs, child, os.path.join(path, name)) for name, child in children.items())


def test_the_kernel_reads_what_we_wrote(loop: LoopMount) -> None:
    disk = fresh_disk()
    fs = Ext4Filesystem.open(disk)
    build_tree(fs)
    fs.close()
    point = loop.mount(disk.content)
    compared = assert_same_tree(Ext4Filesystem.open(disk), ROOT_INO, os.fsencode(point))
    assert compared > 1200


def test_we_read_and_change_what_the_kernel_wrote(loop: LoopMount, tmp_path: Path) -> None:
    point = loop.mount(fresh_disk().content)
    hashed = point / "hashed"
    hashed.mkdir()
    for index in range(1500):
        (hashed / f"a name of some length {index}").touch()
    (point / "file").write_bytes(b"kernel" * 10_000)
    os.setxattr(point / "file", "user.who", b"the kernel")
    os.truncate(point / "file", 200_000)
    with (point / "unwritten").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
    content = loop.unmount()

    disk = MemoryDisk(len(content), content)
    fs = Ext4Filesystem.open(disk)
    assert bytes(fs.read(fs.resolve(b"/file"), 0, 300_000)) == (b"kernel" * 10_000).ljust(200_000, b"\0")
    assert fs.xattr_get(fs.resolve(b"/file"), b"user.who") == b"the kernel"
    assert bytes(fs.read(fs.resolve(b"/unwritten"), 0, 200_000)) == bytes(100_000)
    fs.write(fs.resolve(b"/unwritten"), 50_000, b"ours")
    fs.unlink(fs.resolve(b"/hashed"), b"a name of some length 77")
    fs.create(fs.resolve(b"/hashed"), b"new", 0o644, 0, 0)
    fs.unlink(ROOT_INO, b"file")
    fs.close()
    assert_disk_clean(disk, tmp_path)

    point = loop.mount(disk.content)
    assert assert_same_tree(Ext4Filesystem.open(disk), ROOT_INO, os.fsencode(point)) == 1504


def test_the_kernel_replays_our_journal(loop: LoopMount) -> None:
    disk = fresh_disk()
    before = bytes(disk.content)
    work = Workload(RecordingDisk(disk))
    for index in range(10):
        work.write(b"/file-%d-k" % index, 0, 5000 * index)
        work.sync()
    work.unlink(b"/file-3-k")
    work.fs.acquire(work.fs.resolve(b"/file-4-k"))
    work.unlink(b"/file-4-k")
    work.sync()
    length = len(work.disk.record)
    for cut in (length // 3, length // 2, length - 3, length):
        point = loop.mount(state_after_cut(before, work.disk.record, cut, random.Random(f"kernel {cut}")))
        for name, content in work.promised_at(cut).items():
            assert (point / os.fsdecode(name[1:])).read_bytes() == content
        content = loop.unmount()
        assert run("e2fsck", "-fn", str(loop.image)).returncode == 0
