"""Names: what POSIX says of directories, links and renames, and what ext4 adds to it."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.ext4_images import assert_disk_clean, fresh_disk, run
from vdisk.ext4.filesystem import RENAME_EXCHANGE, ROOT_INO, Ext4Filesystem
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=r".*") as caught:
        call()
    assert errno.errorcode.get(caught.value.errno or 0) == errno.errorcode[error]


def names(fs: Ext4Filesystem, ino: int) -> set[bytes]:
    return {name for name, _, _, _ in fs.entries(ino, 0)} - {b".", b".."}


def test_a_name_of_255_bytes_is_the_longest(fs: Ext4Filesystem) -> None:
    fs.create(ROOT_INO, b"n" * 255, 0o600, 0, 0)
    assert fs.lookup(ROOT_INO, b"n" * 255)
    refused(errno.ENAMETOOLONG, lambda: fs.create(ROOT_INO, b"n" * 256, 0o600, 0, 0))
    refused(errno.ENAMETOOLONG, lambda: fs.lookup(ROOT_INO, b"n" * 256))
    refused(errno.ENAMETOOLONG, lambda: fs.rename(ROOT_INO, b"n" * 255, ROOT_INO, b"n" * 256))


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b"])
def test_what_is_no_name_is_refused(fs: Ext4Filesystem, name: bytes) -> None:
    refused(errno.EINVAL, lambda: fs.create(ROOT_INO, name, 0o600, 0, 0))


@pytest.mark.parametrize(
    ("kind", "rdev"),
    [
        (stat.S_IFIFO, 0),
        (stat.S_IFSOCK, 0),
        (stat.S_IFCHR, os.makedev(1, 3)),
        (stat.S_IFBLK, os.makedev(259, 70_000)),
    ],
)
def test_special_files_keep_kind_and_device(fs: Ext4Filesystem, disk: MemoryDisk, kind: int, rdev: int) -> None:
    made = fs.mknod(ROOT_INO, b"special", kind | 0o640, rdev, 1, 2)
    fs.commit()
    assert (made.mode, made.rdev, made.nlink) == (kind | 0o640, rdev, 1)
    assert [entry[2] << 12 for entry in fs.entries(ROOT_INO, 0) if entry[0] == b"special"] == [kind]


@pytest.mark.parametrize("length", [1, 59, 60, 4095])
def test_symbolic_links_of_all_lengths(fs: Ext4Filesystem, disk: MemoryDisk, tmp_path: Path, length: int) -> None:
    ino = fs.symlink(ROOT_INO, b"link", b"t" * length, 0, 0).ino
    assert fs.readlink(ino) == b"t" * length
    assert fs.attributes(ino).size_bytes == length
    fs.commit()
    refused(errno.ENAMETOOLONG, lambda: fs.symlink(ROOT_INO, b"long", b"t" * 4096, 0, 0))
    refused(errno.EINVAL, lambda: fs.readlink(ROOT_INO))


def test_ten_thousand_names(fs: Ext4Filesystem) -> None:
    directory = fs.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    for index in range(3000):
        fs.symlink(directory, b"name-%d" % index, b"x", 0, 0)
    for index in range(7000):
        fs.link(fs.lookup(directory, b"name-0"), directory, b"link-%d" % index)
    assert len(names(fs, directory)) == 10_000
    for index in range(0, 7000, 2):
        fs.unlink(directory, b"link-%d" % index)
    assert fs.attributes(fs.lookup(directory, b"name-0")).nlink == 3501
    before = fs.attributes(directory).size_bytes
    for index in range(0, 7000, 2):
        fs.link(fs.lookup(directory, b"name-0"), directory, b"link-%d" % index)
    assert fs.attributes(directory).size_bytes <= before * 1.1, "room in old blocks was not used again"


def test_listing_is_stable_while_names_are_removed(fs: Ext4Filesystem) -> None:
    for index in range(500):
        fs.symlink(ROOT_INO, b"%d" % index, b"x", 0, 0)
    seen: list[bytes] = []
    cookie = 0
    while page := [entry for entry, _ in zip(fs.entries(ROOT_INO, cookie), range(7), strict=False)]:
        cookie = page[-1][3]
        for name, _, _, _ in page:
            seen.append(name)
            if name.isdigit():
                fs.unlink(ROOT_INO, name)
    assert len(seen) == len(set(seen)) == 500 + 3


def test_an_unlinked_directory_moves_the_parents_links(fs: Ext4Filesystem) -> None:
    first = fs.mkdir(ROOT_INO, b"first", 0o755, 0, 0).ino
    second = fs.mkdir(ROOT_INO, b"second", 0o755, 0, 0).ino
    moving = fs.mkdir(first, b"moving", 0o755, 0, 0).ino
    fs.rename(first, b"moving", second, b"moved")
    assert fs.lookup(moving, b"..") == second
    assert (fs.attributes(first).nlink, fs.attributes(second).nlink) == (2, 3)
    refused(errno.EINVAL, lambda: fs.rename(ROOT_INO, b"second", moving, b"loop"))
    refused(errno.ENOTEMPTY, lambda: fs.rmdir(ROOT_INO, b"second"))
    fs.rename(second, b"moved", ROOT_INO, b"first")
    assert fs.lookup(ROOT_INO, b"first") == moving


def test_exchange_of_a_file_and_a_directory(fs: Ext4Filesystem) -> None:
    directory = fs.mkdir(ROOT_INO, b"directory", 0o755, 0, 0).ino
    below = fs.mkdir(directory, b"below", 0o755, 0, 0).ino
    file = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    fs.rename(ROOT_INO, b"file", directory, b"below", RENAME_EXCHANGE)
    assert (fs.lookup(ROOT_INO, b"file"), fs.lookup(directory, b"below")) == (below, file)
    assert fs.lookup(below, b"..") == ROOT_INO
    assert fs.attributes(directory).nlink == 2


def test_links_end_where_ext4_ends_them(fs: Ext4Filesystem) -> None:
    ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    directory = fs.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    for index in range(64_999):
        fs.link(ino, directory, b"%d" % index)
    refused(errno.EMLINK, lambda: fs.link(ino, directory, b"one more"))
    assert fs.attributes(ino).nlink == 65_000


def test_an_unlinked_file_lives_while_it_is_held(fs: Ext4Filesystem) -> None:
    free = fs.statistics().blocks_free
    ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    fs.acquire(ino)
    fs.acquire(ino)
    fs.unlink(ROOT_INO, b"file")
    fs.write(ino, 0, b"still here")
    fs.release(ino)
    assert bytes(fs.read(ino, 0, 100)) == b"still here"
    assert fs.attributes(ino).nlink == 0
    refused(errno.ENOENT, lambda: fs.link(ino, ROOT_INO, b"again"))
    fs.release(ino)
    refused(errno.ENOENT, lambda: fs.attributes(ino))
    assert fs.statistics().blocks_free == free


def test_orphans_are_unlinked_from_anywhere_in_their_list(fs: Ext4Filesystem) -> None:
    inos = [fs.create(ROOT_INO, b"%d" % index, 0o600, 0, 0).ino for index in range(5)]
    for index, ino in enumerate(inos):
        fs.acquire(ino)
        fs.unlink(ROOT_INO, b"%d" % index)
    for index in (2, 4, 0):
        fs.release(inos[index])
    fs.commit()
    fs.release(inos[3])


def test_a_removed_directory_takes_no_names(fs: Ext4Filesystem) -> None:
    ino = fs.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    fs.acquire(ino)
    fs.rmdir(ROOT_INO, b"d")
    refused(errno.ENOENT, lambda: fs.create(ino, b"file", 0o600, 0, 0))
    fs.release(ino)


def test_a_hashed_directory_of_another_system_is_made_plain(disk: MemoryDisk, tmp_path: Path) -> None:
    fs = Ext4Filesystem.open(disk)
    directory = fs.mkdir(ROOT_INO, b"d", 0o755, 0, 0).ino
    for index in range(2000):
        fs.symlink(directory, b"a name of some length %d" % index, b"x", 0, 0)
    fs.close()
    path = tmp_path / "disk"
    path.write_bytes(disk.content)
    run("e2fsck", "-fyD", str(path))
    assert "Root node dump" in run("debugfs", "-R", "htree_dump /d", str(path)).stdout
    hashed = MemoryDisk(len(disk.content), path.read_bytes())
    fs = Ext4Filesystem.open(hashed)
    assert len(names(fs, directory)) == 2000
    fs.unlink(directory, b"a name of some length 7")
    fs.symlink(directory, b"new", b"x", 0, 0)
    fs.close()
    assert_disk_clean(hashed, tmp_path)
    assert len(names(Ext4Filesystem.open(hashed), directory)) == 2000


def test_times_keep_nanoseconds_and_centuries(fs: Ext4Filesystem) -> None:
    ino = fs.create(ROOT_INO, b"file", 0o600, 70_000, 80_000).ino
    for time_ns in (0, 1, -1_500_000_000, 2**31 * 10**9 + 123_456_789, 2**33 * 10**9 + 999_999_999):
        made = fs.set_attributes(ino, atime_ns=time_ns, mtime_ns=time_ns + 1)
        assert (made.atime_ns, made.mtime_ns) == (time_ns, time_ns + 1)
    assert (made.uid, made.gid) == (70_000, 80_000)
    assert fs.set_attributes(ino, mtime_ns=10**30).mtime_ns < 2**34 * 10**9


def test_resolve_walks_down_from_the_root(fs: Ext4Filesystem) -> None:
    directory = fs.mkdir(ROOT_INO, b"a", 0o755, 0, 0).ino
    ino = fs.create(directory, b"b", 0o600, 0, 0).ino
    assert fs.resolve(b"/") == ROOT_INO
    assert fs.resolve(b"/a/b") == ino
    refused(errno.ENOENT, lambda: fs.resolve(b"/a/c"))
    refused(errno.ENOTDIR, lambda: fs.resolve(b"/a/b/c"))


def test_attributes_by_name(fs: Ext4Filesystem) -> None:
    free = fs.statistics().blocks_free
    ino = fs.create(ROOT_INO, b"file", 0o600, 0, 0).ino
    refused(errno.ENODATA, lambda: fs.xattr_get(ino, b"user.none"))
    for size in (0, 10, 3000):
        fs.xattr_set(ino, b"user.value", b"v" * size)
        assert fs.xattr_get(ino, b"user.value") == b"v" * size
    fs.xattr_set(ino, b"security.capability", b"\1\0")
    assert set(fs.xattr_list(ino)) == {b"user.value", b"security.capability"}
    refused(errno.EEXIST, lambda: fs.xattr_set(ino, b"user.value", b"", 1))
    refused(errno.ENODATA, lambda: fs.xattr_set(ino, b"user.other", b"", 2))
    refused(errno.ENOSPC, lambda: fs.xattr_set(ino, b"user.large", b"v" * 5000))
    refused(errno.EOPNOTSUPP, lambda: fs.xattr_set(ino, b"system.posix_acl_access", b""))
    fs.xattr_remove(ino, b"user.value")
    refused(errno.ENODATA, lambda: fs.xattr_remove(ino, b"user.value"))
    fs.xattr_set(ino, b"user.value", b"v" * 3000)
    fs.unlink(ROOT_INO, b"file")
    assert fs.statistics().blocks_free == free


def test_pinned_means_pinned(fs: Ext4Filesystem) -> None:
    ino = fs.create(ROOT_INO, b"pinned", 0o600, 0, 0).ino
    fs.create(ROOT_INO, b"other", 0o600, 0, 0)
    fs.pin(ino)
    for call in (
        lambda: fs.write(ino, 0, b"x"),
        lambda: fs.set_attributes(ino, size_bytes=0),
        lambda: fs.set_attributes(ino, mode=0o777),
        lambda: fs.set_attributes(ino, mtime_ns=0),
        lambda: fs.unlink(ROOT_INO, b"pinned"),
        lambda: fs.rename(ROOT_INO, b"pinned", ROOT_INO, b"away"),
        lambda: fs.rename(ROOT_INO, b"other", ROOT_INO, b"pinned"),
        lambda: fs.rename(ROOT_INO, b"other", ROOT_INO, b"pinned", RENAME_EXCHANGE),
        lambda: fs.link(ino, ROOT_INO, b"link"),
        lambda: fs.xattr_set(ino, b"user.x", b""),
        lambda: fs.allocate_written(ino, 4096),
    ):
        refused(errno.EPERM, call)
    fs.unpin(ino)
    assert fs.write(ino, 0, b"x") == 1
