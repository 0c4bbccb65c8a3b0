"""What programs do with names on a mount: directories, links, renames, special files."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.mounting import BACKENDS, Mounted, mounted, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _NOREPLACE, _EXCHANGE, _WHITEOUT = -100, 1, 2, 4


def rename(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, bytes(old), _AT_FDCWD, bytes(new), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture(scope="module", params=BACKENDS)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("names"), *request.param) as served:
        yield served


@pytest.fixture
def root(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """An empty directory of the test's own on the mount."""
    directory = mount.path / str(request.node.name)
    directory.mkdir()
    return directory


def test_create_list_and_remove(root: Path) -> None:
    names = {f"file {index}" for index in range(50)} | {"é", "\udcff", "a\nb"}
    for name in names:
        (root / name).touch()
    assert set(os.listdir(root)) == names
    for name in names:
        (root / name).unlink()
    assert os.listdir(root) == []


def test_names_that_are_absent_and_then_present(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (root / "later").stat()
    (root / "later").touch()
    assert (root / "later").stat().st_nlink == 1
    (root / "later").unlink()
    with pytest.raises(FileNotFoundError):
        (root / "later").stat()


def test_the_longest_name(root: Path) -> None:
    (root / ("n" * 255)).touch()
    for attempt in (os.stat, os.mkdir, lambda path: os.open(path, os.O_CREAT)):
        with pytest.raises(OSError, match="too long"):
            attempt(root / ("n" * 256))


def test_dots_and_link_counts_of_directories(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    assert root.stat().st_nlink == 3
    assert (root / "a" / "b" / ".." / "..").stat().st_ino == root.stat().st_ino
    assert run("ls", "-a", root / "a").stdout.split() == [".", "..", "b"]
    with pytest.raises(OSError, match="not empty"):
        (root / "a").rmdir()
    (root / "a" / "b").rmdir()
    (root / "a").rmdir()
    assert root.stat().st_nlink == 2


def test_a_directory_is_no_file_and_a_file_no_directory(root: Path) -> None:
    (root / "directory").mkdir()
    (root / "file").touch()
    with pytest.raises(IsADirectoryError):
        (root / "directory").unlink()
    with pytest.raises(NotADirectoryError):
        (root / "file").rmdir()
    with pytest.raises(FileExistsError):
        (root / "file").mkdir()
    with pytest.raises(FileExistsError):
        os.open(root / "file", os.O_CREAT | os.O_EXCL)
    with pytest.raises(NotADirectoryError):
        (root / "file" / "below").stat()


def test_five_thousand_entries_are_listed_once_each(root: Path) -> None:
    names = {f"{index:05}" for index in range(5_000)}
    for name in names:
        os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))
    listed = [entry.name for entry in os.scandir(root)]
    assert len(listed) == len(names)
    assert set(listed) == names


def test_removing_while_listing_skips_nothing(root: Path) -> None:
    names = {f"{index:04}" for index in range(1_000)}
    for name in names:
        (root / name).touch()
    seen = []
    with os.scandir(root) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert sorted(seen) == sorted(names)
    assert os.listdir(root) == []


def test_what_is_removed_gives_its_inode_back(mount: Mounted, root: Path) -> None:
    """The kernel forgets what it was told of as often as it was told; a reference too many would keep the inode."""
    before = os.statvfs(mount.path).f_ffree
    (root / "directory" / "below").mkdir(parents=True)
    (root / "directory" / "file").touch()
    for _ in range(3):
        for path in (root, root / "directory", root / "directory" / "below"):
            run("ls", "-la", path)
    assert os.statvfs(mount.path).f_ffree == before - 3
    shutil.rmtree(root / "directory")
    wait_until(lambda: os.statvfs(mount.path).f_ffree == before, "three inodes are free again")


def test_rename_moves_and_replaces(root: Path) -> None:
    (root / "old").write_text("old")
    (root / "new").write_text("new")
    (root / "sub").mkdir()
    (root / "old").rename(root / "new")
    assert (root / "new").read_text() == "old"
    (root / "new").rename(root / "sub" / "moved")
    assert os.listdir(root) == ["sub"]
    assert (root / "sub" / "moved").read_text() == "old"


def test_rename_of_directories(root: Path) -> None:
    (root / "a" / "inside").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "full" / "x").mkdir(parents=True)
    (root / "a").rename(root / "empty")
    assert os.listdir(root / "empty") == ["inside"]
    with pytest.raises(OSError, match="not empty"):
        (root / "empty").rename(root / "full")
    with pytest.raises(OSError, match="Invalid argument"):
        (root / "full").rename(root / "full" / "x" / "y")
    (root / "empty" / "inside").rename(root / "full" / "inside")
    assert (root / "full" / "inside" / "..").stat().st_ino == (root / "full").stat().st_ino
    assert (root / "full").stat().st_nlink == 4
    assert (root / "empty").stat().st_nlink == 2


def test_rename_flags(root: Path) -> None:
    (root / "one").write_text("1")
    (root / "two").mkdir()
    with pytest.raises(FileExistsError):
        rename(root / "one", root / "two", _NOREPLACE)
    rename(root / "one", root / "two", _EXCHANGE)
    assert (root / "two").read_text() == "1"
    assert (root / "one").is_dir()
    rename(root / "two", root / "three", _NOREPLACE)
    assert sorted(os.listdir(root)) == ["one", "three"]
    with pytest.raises(FileNotFoundError):
        rename(root / "one", root / "absent", _EXCHANGE)
    with pytest.raises(OSError, match="Invalid argument"):
        rename(root / "one", root / "white", _WHITEOUT)


def test_a_file_replaced_while_open_lives_on(root: Path) -> None:
    (root / "old").write_text("replaced")
    (root / "new").write_text("replacing")
    with (root / "old").open() as opened:
        (root / "new").rename(root / "old")
        assert opened.read() == "replaced"
    assert (root / "old").read_text() == "replacing"


def test_hard_links_share_everything(root: Path) -> None:
    (root / "one").write_text("shared")
    os.link(root / "one", root / "two")
    assert (root / "one").stat().st_nlink == 2
    assert (root / "one").samefile(root / "two")
    (root / "two").write_text("changed")
    (root / "one").unlink()
    assert (root / "two").read_text() == "changed"
    assert (root / "two").stat().st_nlink == 1
    with pytest.raises(PermissionError):
        os.link(root, root / "directory")


@pytest.mark.parametrize("length", [1, 59, 60, 1000])
def test_symbolic_links(root: Path, length: int) -> None:
    target = "t" * length
    (root / "link").symlink_to(target)
    assert os.readlink(root / "link") == target
    assert (root / "link").lstat().st_size == length
    assert stat.S_ISLNK((root / "link").lstat().st_mode)


@pytest.mark.parametrize(
    ("kind", "rdev"),
    [(stat.S_IFIFO, 0), (stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(259, 70_000)), (stat.S_IFREG, 0)],
    ids=["fifo", "character", "block", "regular"],
)
def test_special_files(root: Path, kind: int, rdev: int) -> None:
    os.mknod(root / "special", kind | 0o640, rdev)
    status = (root / "special").stat()
    assert stat.S_IFMT(status.st_mode) == kind
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_rdev == rdev


def test_a_fifo_and_a_socket_work(root: Path) -> None:
    os.mkfifo(root / "fifo")
    reader = os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(root / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
    working = os.getcwd()
    os.chdir(root)  # the address of a socket has only 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(working)
    assert stat.S_ISSOCK((root / "socket").stat().st_mode)


def test_a_tree_survives_tar_and_cp(root: Path) -> None:
    source = root / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "file").write_bytes(b"content" * 1000)
    (source / "link").symlink_to("deep/er/file")
    assert run("cp", "-a", source, root / "copy").stderr == ""
    assert run("tar", "-C", source, "-cf", root / "tree.tar", ".").stderr == ""
    (root / "unpacked").mkdir()
    assert run("tar", "-C", root / "unpacked", "-xf", root / "tree.tar").stderr == ""
    assert run("diff", "-r", "--no-dereference", source, root / "copy").stdout == ""
    assert run("diff", "-r", "--no-dereference", source, root / "unpacked").stdout == ""
    assert run("rm", "-r", source).returncode == 0


def test_unexpected_failure_answers_eio_and_is_reported(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        served.failures_expected = True
        (served.path / "link").symlink_to("broken")
        with pytest.raises(OSError, match="Input/output") as failed:
            os.readlink(served.path / "link")
        assert failed.value.errno == errno.EIO
        assert "readlink ZeroDivisionError" in served.events("failure")[0]
        (served.path / "file").write_text("the mount goes on")
