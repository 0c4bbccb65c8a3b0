"""A crash half-way through a write command inside any update of the filesystem, through a real mount.

The dump is whole, the filesystem replays to clean, what was synced is there, and the update is there or is not.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import FaultState, Register
from dumpwriter.machine.status import machine_is_alive
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OLD, NEW = b"old" * 3000, b"new" * 5000
WRITES_MAX = 40  # more than any update here takes


class Update(NamedTuple):
    """One update. `apply` is given a descriptor of a directory in which `prepare` has made what it needs.

    `is_done` says whether it is there, and fails where it is there by halves.
    """

    prepare: Callable[[Path], None]
    apply: Callable[[int], None]
    is_done: Callable[[Path], bool]


def write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def nothing(_: Path) -> None:
    pass


def old_file(directory: Path) -> None:
    write(directory / "file", OLD)


def old_and_new_file(directory: Path) -> None:
    write(directory / "file", OLD)
    write(directory / "other", NEW)


@contextlib.contextmanager
def opened(directory: int, flags: int) -> Iterator[int]:
    descriptor = os.open("file", flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def create(directory: int) -> None:
    with opened(directory, os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        os.fsync(directory)


def append(directory: int) -> None:
    with opened(directory, os.O_WRONLY | os.O_APPEND) as file:
        os.write(file, NEW)
        os.fsync(file)


def truncate(directory: int) -> None:
    with opened(directory, os.O_WRONLY) as file:
        os.ftruncate(file, 5000)
        os.fsync(file)


def set_attribute(directory: int) -> None:
    with opened(directory, os.O_WRONLY) as file:
        os.setxattr(file, "user.name", NEW[:2000])
        os.fsync(file)


def change_mode(directory: int) -> None:
    with opened(directory, os.O_WRONLY) as file:
        os.fchmod(file, 0o751)
        os.fsync(file)


def sync_a_new_file(directory: int) -> None:
    with opened(directory, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as file:
        os.write(file, NEW)
        os.fsync(file)


def synced(change: Callable[[int], None]) -> Callable[[int], None]:
    """A change of a directory, and its fsync."""

    def apply(directory: int) -> None:
        change(directory)
        os.fsync(directory)

    return apply


def is_appended(directory: Path) -> bool:
    """Data goes before the size that shows it; a part of it may be there without the rest."""
    content = (directory / "file").read_bytes()
    assert len(content) >= len(OLD) and (OLD + NEW).startswith(content)
    return content == OLD + NEW


def is_truncated(directory: Path) -> bool:
    """As in ext4, what is cut off of the last block is zeroed on the disk before the size says so."""
    content = (directory / "file").read_bytes()
    assert content[:5000] == OLD[:5000]
    assert len(content) == 5000 or (len(content) == len(OLD) and set(content[5000:]) <= {0, *OLD})
    return len(content) == 5000


def is_renamed(directory: Path) -> bool:
    content = (directory / "file").read_bytes()
    assert content == (OLD if (directory / "other").exists() else NEW)
    return content == NEW


def has_attribute(directory: Path) -> bool:
    try:
        value = os.getxattr(directory / "file", "user.name")
    except OSError:
        return False
    assert value == NEW[:2000]
    return True


def is_created_with_all(directory: Path) -> bool:
    path = directory / "file"
    return path.exists() and path.read_bytes() == NEW


UPDATES = {
    "create": Update(nothing, create, lambda at: (at / "file").exists()),
    "mkdir": Update(nothing, synced(lambda at: os.mkdir("new", dir_fd=at)), lambda at: (at / "new").is_dir()),
    "rename over": Update(
        old_and_new_file,
        synced(lambda at: os.rename("other", "file", src_dir_fd=at, dst_dir_fd=at)),
        is_renamed,
    ),
    "unlink": Update(old_file, synced(lambda at: os.unlink("file", dir_fd=at)), lambda at: not (at / "file").exists()),
    "rmdir": Update(
        lambda at: (at / "file").mkdir(),
        synced(lambda at: os.rmdir("file", dir_fd=at)),
        lambda at: not (at / "file").exists(),
    ),
    "link": Update(
        old_file,
        synced(lambda at: os.link("file", "other", src_dir_fd=at, dst_dir_fd=at)),
        lambda at: (at / "file").stat().st_nlink == 1 + (at / "other").exists() == 2,
    ),
    "symlink": Update(
        nothing,
        synced(lambda at: os.symlink("x" * 100, "link", dir_fd=at)),
        lambda at: (at / "link").is_symlink() and os.readlink(at / "link") == "x" * 100,
    ),
    "truncate": Update(old_file, truncate, is_truncated),
    "append": Update(old_file, append, is_appended),
    "xattr": Update(old_file, set_attribute, has_attribute),
    "chmod": Update(old_file, change_mode, lambda at: (at / "file").stat().st_mode & 0o777 == 0o751),
    "fsync": Update(nothing, sync_a_new_file, is_created_with_all),
}


class Trial:
    """A machine on which one update after the other is crashed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.count = 0
        machine.create(size="128MiB", memory="16MiB")
        machine.mount("--keep", "2")
        write(machine.mountpoint / "synced", OLD)

    def crash_inside(self, name: str, write_number: int) -> bool:
        """False where the update was done before it came to that write; the machine then still runs, trap and all."""
        update = UPDATES[name]
        self.count += 1
        place = self.machine.mountpoint / f"{self.count}"
        place.mkdir()
        update.prepare(place)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        crash = self.set_trap(write_number)
        is_durable = self._try(update, directory)
        if is_durable and self._is_alive():
            self._end_early(crash)
            return False
        output, complaint = crash.communicate(timeout=60)
        assert crash.returncode == 0, f"{name}, write {write_number}: {output}{complaint}"
        self.boot_again()
        is_done = update.is_done(place)
        assert is_done or not is_durable, f"{name}, write {write_number}: was synced and is not there"
        return True

    def _try(self, update: Update, directory: int) -> bool:
        """Whether the update came back as done and synced."""
        try:
            update.apply(directory)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                os.close(directory)
        return True

    def set_trap(self, write_number: int) -> subprocess.Popen[str]:
        crash = subprocess.Popen(
            [COMMAND, "crash", self.machine.mountpoint, "--write", str(write_number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.machine.environment,
        )
        found = self._runtime()
        wait_until(lambda: found[Register.FAULT_STATE] == FaultState.WAITING, "the trap is set")
        found.close()
        return crash

    def _runtime(self) -> runtime.RuntimeFile:
        found = runtime.find(str(self.machine.mountpoint))
        assert found is not None
        return found

    def _is_alive(self) -> bool:
        found = self._runtime()
        alive = machine_is_alive(found) and found[Register.FAULT_STATE] == FaultState.WAITING
        found.close()
        return alive

    def _end_early(self, crash: subprocess.Popen[str]) -> None:
        self.machine.kill()
        crash.communicate(timeout=60)
        self.boot_again()

    def boot_again(self, verdict: str = "COMPLETE") -> None:
        """The filesystem is replayed to clean by e2fsck alone, on a copy; and by the next boot."""
        copy = Machine.__new__(Machine)
        copy.image = self.machine.directory / "copy.img"
        subprocess.run(["cp", "--sparse=always", self.machine.image, copy.image], check=True)
        copy.check_filesystem()
        copy.image.unlink()
        facts = self.machine.facts("mount", self.machine.image, self.machine.mountpoint, "--keep", "2")
        assert (facts["state"], facts["last_recovery"]["verdict"]) == ("armed", verdict)
        assert (self.machine.mountpoint / "synced").read_bytes() == OLD


@pytest.fixture
def trial(machine: Machine) -> Trial:
    return Trial(machine)


def test_a_crash_inside_each_update(trial: Trial) -> None:
    """In its journal's blocks or in its commit block, in turn."""
    for number, name in enumerate(UPDATES):
        assert trial.crash_inside(name, 1 + number % 2), f"{name} takes fewer writes"


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATES)
def test_a_crash_at_every_write_of_each_update(trial: Trial, name: str) -> None:
    writes = next(number for number in range(1, WRITES_MAX) if not trial.crash_inside(name, number))
    assert writes > 2, "an update is more than one write"


@pytest.mark.slow
def test_a_crash_at_every_write_of_a_shutdown(trial: Trial) -> None:
    """Commit, checkpoint, superblock, boot record. A machine that has dismissed its standbys leaves no dump."""
    verdicts = []
    for number in range(1, WRITES_MAX):
        (trial.machine.mountpoint / f"directory{number}").mkdir()
        crash = trial.set_trap(number)
        trial.machine.run("unmount", trial.machine.mountpoint, check=None)
        output, complaint = crash.communicate(timeout=60)
        if "shut down before" in complaint:
            break
        verdicts.append("COMPLETE" if "COMPLETE" in output else "NONE")
        trial.boot_again(verdicts[-1])
    assert sorted(verdicts) == verdicts and set(verdicts) == {"COMPLETE", "NONE"}
    trial.machine.must_be_clean()
