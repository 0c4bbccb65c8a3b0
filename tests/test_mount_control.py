"""The control directory: files that are functions, at the root of a mount and nowhere on its disk."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.mounting import Mounted, mounted, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("control")) as served:
        yield served


@pytest.fixture
def control(mount: Mounted) -> Path:
    return mount.path / ".ghostdump"


def test_it_is_listed_and_so_are_its_files(mount: Mounted, control: Path) -> None:
    assert os.listdir(mount.path).count(".ghostdump") == 1
    assert sorted(os.listdir(control)) == ["beneath", "note", "status", "trigger"]
    listing = run("ls", "-la", control)
    assert listing.stderr == ""
    assert len(listing.stdout.splitlines()) == 7


def test_modes_tell_what_can_be_done(control: Path) -> None:
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(control)}
    assert modes == {"status": 0o400, "trigger": 0o200, "note": 0o600, "beneath": 0o200}
    assert (control / "status").stat().st_uid == os.getuid()


def test_a_read_is_one_snapshot(control: Path) -> None:
    with (control / "status").open("rb", buffering=0) as opened:
        pieces = list(iter(lambda: opened.read(100), b""))
    digits = {bytes([digit]) for piece in pieces for digit in piece}
    assert len(b"".join(pieces)) == 3000
    assert len(digits) == 1
    assert (control / "status").read_bytes()[:1] not in digits


def test_each_write_is_delivered(mount: Mounted, control: Path) -> None:
    assert run("sh", "-c", f"echo one > {control}/trigger && printf two >> {control}/trigger").returncode == 0
    assert mount.events("trigger") == ["b'one\\n'", "b'two'"]
    (control / "note").write_text("kept")
    assert (control / "note").read_text() == "kept"


def test_a_refused_write_answers_einval(control: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        (control / "trigger").write_text("nonsense\n")


def test_a_file_for_writing_only_reads_as_empty_to_root(control: Path) -> None:
    assert (control / "trigger").read_bytes() == b""


def test_a_file_for_reading_only_cannot_be_written(control: Path) -> None:
    with pytest.raises(PermissionError):
        (control / "status").write_text("x")


@pytest.mark.parametrize(
    "attempt",
    [
        lambda control: (control / "status").unlink(),
        lambda control: control.rmdir(),
        lambda control: (control / "new").touch(),
        lambda control: (control / "new").mkdir(),
        lambda control: (control / "status").chmod(0o777),
        lambda control: os.chown(control, 1, 1),
        lambda control: os.utime(control / "status"),
        lambda control: control.rename(control.with_name("other")),
        lambda control: (control / "status").rename(control.with_name("other")),
        lambda control: (control / "status").rename(control / "other"),
        lambda control: os.link(control / "status", control.with_name("other")),
        lambda control: os.setxattr(control / "status", "user.a", b""),
    ],
    ids=["unlink", "rmdir", "create", "mkdir", "chmod", "chown", "utime", "move", "take", "rename", "link", "xattr"],
)
def test_everything_else_is_refused(control: Path, attempt: Callable[[Path], object]) -> None:
    before = sorted(os.listdir(control))
    with pytest.raises(PermissionError):
        attempt(control)
    assert sorted(os.listdir(control)) == before


def test_nothing_can_be_renamed_over_it(mount: Mounted, control: Path) -> None:
    (mount.path / "directory").mkdir()
    with pytest.raises(PermissionError):
        (mount.path / "directory").rename(control)
    (mount.path / "directory").rmdir()


def test_copying_and_removing_the_whole_mount(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        (served.path / "tree" / "deep").mkdir(parents=True)
        (served.path / "tree" / "deep" / "file").write_text("content")
        copied = run("cp", "-r", served.path, tmp_path / "copy")
        assert copied.stderr == ""
        assert (tmp_path / "copy" / "tree" / "deep" / "file").read_text() == "content"
        removed = run("rm", "-rf", served.path)
        assert "Operation not permitted" in removed.stderr
        assert sorted(os.listdir(served.path)) == [".ghostdump", "pinned"]
