"""What programs do with the content of files on a mount."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from tests.mounting import BACKENDS, Mounted, mounted, run
from tests.served import PINNED_CONTENT, PINNED_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module", params=BACKENDS)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("files"), *request.param) as served:
        yield served


@pytest.fixture
def file(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """A path of the test's own on the mount; nothing is there yet."""
    directory = mount.path / str(request.node.name)
    directory.mkdir()
    return directory / "file"


def test_written_bytes_are_read_back(file: Path) -> None:
    content = random.Random(1).randbytes(3_000_001)
    file.write_bytes(content)
    assert file.read_bytes() == content
    assert file.stat().st_size == len(content)


def test_random_writes_match_a_model(file: Path) -> None:
    choices, model = random.Random(2), bytearray(300_000)
    file.write_bytes(bytes(model))
    with file.open("r+b", buffering=0) as opened:
        for _ in range(300):
            offset = choices.randrange(len(model) - 9_000)
            piece = choices.randbytes(choices.choice([1, 511, 4096, 8999]))
            model[offset : offset + len(piece)] = piece
            opened.seek(offset)
            opened.write(piece)
    assert file.read_bytes() == model


def test_what_was_synced_is_there_for_another_reader(file: Path) -> None:
    with file.open("wb", buffering=0) as opened:
        opened.write(b"durable")
        os.fsync(opened.fileno())
        os.fdatasync(opened.fileno())
        assert run("cat", file).stdout == "durable"
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def test_append_goes_to_the_end_whatever_the_position(file: Path) -> None:
    file.write_bytes(b"one ")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"two")
    os.close(descriptor)
    assert file.read_bytes() == b"one two"


def test_two_appenders_lose_nothing(file: Path) -> None:
    def append(letter: bytes) -> None:
        with file.open("ab", buffering=0) as opened:
            for _ in range(100):
                opened.write(letter * 10)

    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = file.read_bytes()
    assert content.count(b"a" * 10) == content.count(b"b" * 10) == 100


def test_open_truncates(file: Path) -> None:
    file.write_bytes(b"x" * 10_000)
    before = file.stat()
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.stat().st_size == 0
    assert file.stat().st_mtime_ns > before.st_mtime_ns
    assert file.read_bytes() == b""


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 70_000])
def test_truncate_and_extend(file: Path, size: int) -> None:
    content = random.Random(3).randbytes(65_536)
    file.write_bytes(content)
    os.truncate(file, size)
    assert file.read_bytes() == content[:size].ljust(size, b"\0")
    os.truncate(file, 80_000)
    assert file.read_bytes() == content[:size].ljust(80_000, b"\0")


def test_truncate_of_an_open_file(file: Path) -> None:
    with file.open("w+b", buffering=0) as opened:
        opened.write(b"0123456789")
        opened.truncate(4)
        assert os.fstat(opened.fileno()).st_size == 4
        opened.seek(0)
        assert opened.read() == b"0123"


def test_a_hole_reads_as_zeros(file: Path) -> None:
    with file.open("wb", buffering=0) as opened:
        opened.seek(5_000_000)
        opened.write(b"end")
    content = file.read_bytes()
    assert content == bytes(5_000_000) + b"end"


def test_read_at_and_behind_the_end(file: Path) -> None:
    file.write_bytes(b"abc")
    with file.open("rb", buffering=0) as opened:
        assert os.pread(opened.fileno(), 10, 2) == b"c"
        assert os.pread(opened.fileno(), 10, 3) == b""
        assert os.pread(opened.fileno(), 10, 99_999) == b""


def test_an_unlinked_file_lives_while_it_is_open(file: Path) -> None:
    with file.open("w+b", buffering=0) as opened:
        opened.write(b"still here")
        file.unlink()
        assert not file.exists()
        opened.seek(0)
        assert opened.read() == b"still here"
        opened.write(b", and growing")
        assert os.fstat(opened.fileno()).st_nlink == 0
        opened.seek(0)
        assert opened.read() == b"still here, and growing"


def test_shared_mapping_writes_through_and_reads_back(file: Path) -> None:
    file.write_bytes(bytes(100_000))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[50_000:50_006] = b"mapped"
        mapped.flush()
        assert mapped[50_000:50_006] == b"mapped"
    direct = run("dd", f"if={file}", "bs=100000", "count=1", "status=none", "iflag=fullblock")
    assert direct.stdout.replace("\0", "") == "mapped"


def test_a_mapping_sees_writes(file: Path) -> None:
    file.write_bytes(bytes(8192))
    with file.open("r+b", buffering=0) as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        os.pwrite(opened.fileno(), b"seen", 4096)
        assert mapped[4096:4100] == b"seen"


def test_concurrent_readers_see_the_same(file: Path) -> None:
    content = random.Random(4).randbytes(4_000_000)
    file.write_bytes(content)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(file.read_bytes() == content)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8


def test_a_pinned_file_refuses_every_change(mount: Mounted) -> None:
    pinned = mount.path / os.fsdecode(PINNED_NAME)
    before = pinned.read_bytes()
    attempts: list[Callable[[], object]] = [
        lambda: os.open(pinned, os.O_WRONLY),
        lambda: os.open(pinned, os.O_RDWR),
        lambda: os.truncate(pinned, 0),
        lambda: os.chmod(pinned, 0o777),
        lambda: os.chown(pinned, 1, 1),
        lambda: os.utime(pinned),
        pinned.unlink,
        lambda: pinned.rename(mount.path / "moved"),
        lambda: os.link(pinned, mount.path / "linked"),
        lambda: os.setxattr(pinned, "user.a", b"1"),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError) as refused:
            attempt()
        assert refused.value.errno == errno.EPERM
    assert pinned.read_bytes() == before


def test_what_is_written_beneath_a_pinned_file_is_seen(mount: Mounted) -> None:
    pinned, beneath = mount.path / os.fsdecode(PINNED_NAME), mount.path / ".ghostdump" / "beneath"
    with pinned.open("rb", buffering=0) as opened:
        assert opened.read() == PINNED_CONTENT
        for letter in (b"1", b"2"):
            beneath.write_bytes(letter * 4096)
            assert pinned.read_bytes() == letter * 4096
            opened.seek(0)
            assert opened.read() == letter * 4096


def test_locks_hold_between_processes(file: Path) -> None:
    file.touch()
    with file.open("r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        assert run("flock", "--nonblock", file, "true").returncode == 1
        fcntl.flock(opened, fcntl.LOCK_UN)
        assert run("flock", "--nonblock", file, "true").returncode == 0


def test_programs_run_from_the_mount(file: Path) -> None:
    shutil.copy("/bin/echo", file)
    assert run(file, "it", "runs").stdout == "it runs\n"


def test_opened_files_are_told_by_their_path(mount: Mounted, file: Path) -> None:
    file.write_bytes(b"")
    file.parent.rename(file.parent.with_name("moved directory"))
    (file.parent.with_name("moved directory") / "file").read_bytes()
    opened = mount.events("open")
    assert f"/{file.parent.name}/file" in opened
    assert "/moved directory/file" in opened
