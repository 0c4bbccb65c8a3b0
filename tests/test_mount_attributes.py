"""Attributes of files on a mount: modes, owners, times, privileges that end, extended attributes, statfs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.mounting import BACKENDS, Mounted, as_nobody, mounted, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NOBODY = 65534


@pytest.fixture(scope="module", params=BACKENDS)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("attributes"), "--allow-other", *request.param) as served:
        yield served


@pytest.fixture
def root(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own on the mount, in which anybody may write."""
    directory = mount.path / str(request.node.name)
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def nobody(root: Path) -> Callable[[str], int]:
    """Run a shell command in the test's directory as a user who owns nothing; return its exit code."""
    return lambda command: subprocess.run(as_nobody(["sh", "-c", command]), cwd=root, check=False).returncode


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o1777, 0o4755, 0o2755, 0o6711])
def test_chmod(root: Path, mode: int) -> None:
    (root / "file").touch()
    changed_before = (root / "file").stat().st_ctime_ns
    (root / "file").chmod(mode)
    assert mode_of(root / "file") == mode
    assert (root / "file").stat().st_ctime_ns > changed_before


def test_chown_keeps_what_is_not_named(root: Path) -> None:
    (root / "file").touch(mode=0o640)
    os.chown(root / "file", 70_000, -1)
    os.chown(root / "file", -1, 80_000)
    status = (root / "file").stat()
    assert (status.st_uid, status.st_gid, mode_of(root / "file")) == (70_000, 80_000, 0o640)


def test_umask(root: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(root / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(root / "directory", 0o777)
        os.mkfifo(root / "fifo", 0o666)
    finally:
        os.umask(before)
    assert [mode_of(root / name) for name in ("file", "directory", "fifo")] == [0o640, 0o750, 0o640]


@pytest.mark.parametrize(
    "times_ns", [(0, 1), (1_234_567_890_123_456_789, 987_654_321), (-1_500_000_000, 4_102_444_800_000_000_001)]
)
def test_times_in_nanoseconds(root: Path, times_ns: tuple[int, int]) -> None:
    (root / "file").touch()
    os.utime(root / "file", ns=times_ns)
    assert ((root / "file").stat().st_atime_ns, (root / "file").stat().st_mtime_ns) == times_ns


def test_times_now_and_omitted(root: Path) -> None:
    before_ns = time.time_ns() - 10_000_000  # UTIME_NOW is the kernel's clock, which ticks coarsely
    (root / "file").touch()
    os.utime(root / "file", ns=(5, 6))
    run("touch", "-a", root / "file")
    status = (root / "file").stat()
    assert status.st_mtime_ns == 6
    assert status.st_atime_ns >= before_ns


def test_changes_of_a_directory_change_its_times(root: Path) -> None:
    for change in (
        lambda: (root / "file").touch(),
        lambda: (root / "file").rename(root / "other"),
        lambda: (root / "other").unlink(),
    ):
        os.utime(root, ns=(0, 0))
        change()
        assert root.stat().st_mtime_ns > 0


def test_blocks_are_counted(root: Path) -> None:
    (root / "file").write_bytes(bytes(100_000))
    assert (root / "file").stat().st_blocks * 512 >= 100_000


def test_new_files_belong_to_their_maker(root: Path, nobody: Callable[[str], int]) -> None:
    assert nobody("touch file && mkdir directory && ln -s x link && mkfifo fifo") == 0
    for name in ("file", "directory", "link", "fifo"):
        assert ((root / name).lstat().st_uid, (root / name).lstat().st_gid) == (_NOBODY, _NOBODY)


def test_permissions_are_checked(root: Path, nobody: Callable[[str], int]) -> None:
    (root / "private").write_text("secret")
    (root / "private").chmod(0o600)
    (root / "shut").mkdir(mode=0o700)
    assert nobody("cat private 2>/dev/null") != 0
    assert nobody("echo x 2>/dev/null > private") != 0
    assert nobody("ls shut 2>/dev/null") != 0
    assert nobody("chmod 777 private 2>/dev/null") != 0
    assert nobody("chown 65534 private 2>/dev/null") != 0
    root.chmod(0o1777)
    assert nobody("rm -f private 2>/dev/null") != 0
    assert (root / "private").read_text() == "secret"


def test_a_set_gid_directory_gives_its_group(root: Path, nobody: Callable[[str], int]) -> None:
    os.chown(root, -1, 4242)
    root.chmod(0o2777)
    assert nobody("touch file && mkdir directory && ln -s x link && mkfifo fifo") == 0
    for name in ("file", "directory", "link", "fifo"):
        assert (root / name).lstat().st_gid == 4242
    assert (root / "directory").stat().st_mode & stat.S_ISGID
    assert not (root / "file").stat().st_mode & stat.S_ISGID


@pytest.mark.parametrize(
    ("command", "mode", "left"),
    [
        ("echo x >> file", 0o6777, 0o777),
        ("echo x >> file", 0o2767, 0o2767),
        ("echo x > file", 0o6777, 0o777),
        (": > file", 0o6777, 0o777),
        (": > file", 0o2767, 0o2767),
        ("truncate -s 1 file", 0o6777, 0o777),
        ("cat file", 0o6777, 0o6777),
    ],
)
def test_a_change_by_others_ends_privileges(
    root: Path, nobody: Callable[[str], int], command: str, mode: int, left: int
) -> None:
    (root / "file").write_text("content")
    (root / "file").chmod(mode)
    assert mode_of(root / "file") == mode
    assert nobody(f"({command}) >/dev/null") == 0
    assert mode_of(root / "file") == left


def test_privileges_given_again_end_again(root: Path, nobody: Callable[[str], int]) -> None:
    (root / "file").touch()
    for _ in range(2):
        (root / "file").chmod(0o4777)
        assert nobody("echo x >> file") == 0
        assert mode_of(root / "file") == 0o777


def test_root_changes_without_ending_privileges(root: Path) -> None:
    (root / "file").touch()
    (root / "file").chmod(0o4755)
    with (root / "file").open("a") as opened:
        opened.write("x")
    os.truncate(root / "file", 0)
    assert mode_of(root / "file") == 0o4755


def test_chown_ends_privileges_even_by_root(root: Path) -> None:
    (root / "file").touch()
    (root / "file").chmod(0o6755)
    os.chown(root / "file", 7, 7)
    assert mode_of(root / "file") == 0o755


def test_extended_attributes(root: Path) -> None:
    (root / "file").touch()
    os.setxattr(root / "file", "user.short", b"1")
    os.setxattr(root / "file", "user.binary", bytes(range(256)) * 3)
    os.setxattr(root / "file", "trusted.secret", b"2")
    assert os.getxattr(root / "file", "user.short") == b"1"
    assert os.getxattr(root / "file", "user.binary") == bytes(range(256)) * 3
    assert sorted(os.listxattr(root / "file")) == ["trusted.secret", "user.binary", "user.short"]
    os.setxattr(root / "file", "user.short", b"", os.XATTR_REPLACE)
    assert os.getxattr(root / "file", "user.short") == b""
    os.removexattr(root / "file", "user.binary")
    assert sorted(os.listxattr(root / "file")) == ["trusted.secret", "user.short"]


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (lambda file: os.getxattr(file, "user.absent"), errno.ENODATA),
        (lambda file: os.removexattr(file, "user.absent"), errno.ENODATA),
        (lambda file: os.setxattr(file, "user.there", b"", os.XATTR_CREATE), errno.EEXIST),
        (lambda file: os.setxattr(file, "user.absent", b"", os.XATTR_REPLACE), errno.ENODATA),
        (lambda file: os.setxattr(file, "system.posix_acl_access", b"\2\0\0\0"), errno.EOPNOTSUPP),
    ],
    ids=["get", "remove", "create", "replace", "acl"],
)
def test_extended_attributes_refused(root: Path, attempt: Callable[[Path], object], code: int) -> None:
    (root / "file").touch()
    os.setxattr(root / "file", "user.there", b"")
    with pytest.raises(OSError) as refused:
        attempt(root / "file")
    assert refused.value.errno == code


def test_a_write_ends_capabilities(root: Path, nobody: Callable[[str], int]) -> None:
    (root / "file").touch()
    (root / "file").chmod(0o777)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    for _ in range(2):
        os.setxattr(root / "file", "security.capability", capability)
        assert os.getxattr(root / "file", "security.capability") == capability
        assert nobody("echo x >> file") == 0
        with pytest.raises(OSError, match="No data"):
            os.getxattr(root / "file", "security.capability")


def test_trusted_attributes_are_listed_to_root_only(root: Path) -> None:
    (root / "file").touch()
    os.setxattr(root / "file", "trusted.secret", b"2")
    with (root / "file").open() as opened:
        assert os.listxattr(opened.fileno()) == ["trusted.secret"]
        os.seteuid(_NOBODY)
        try:
            assert os.listxattr(opened.fileno()) == []
        finally:
            os.seteuid(0)


def test_statfs(mount: Mounted) -> None:
    figures = os.statvfs(mount.path)
    assert figures.f_frsize == figures.f_bsize == 4096
    assert 0 < figures.f_bavail <= figures.f_bfree < figures.f_blocks
    assert 0 < figures.f_ffree < figures.f_files
    assert figures.f_namemax == 255
