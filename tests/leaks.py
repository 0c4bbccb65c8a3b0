"""What a test may leave behind on the machine: how it is found, and how it is cleared away.

Only what this run of the tests made counts, since other runs may go on beside it. It is known by the run's home, the
directory that holds all of its temporary files: mounts below it, loop devices over its files, and processes that have
it in their environment (the run points TMPDIR and XDG_RUNTIME_DIR there) or in their command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED_RUNTIME = Path("/run/ghostdump")
_NAMES_WITHIN_BYTES = 1 << 16  # of a runtime file, in which image and mount point stand; the rest may be 35 MB of hole
_SETTLE_SECONDS = 3.0  # a process needs a moment to end after its mount is gone
_POLL_SECONDS = 0.01


class Leak(NamedTuple):
    """One thing left behind: its kind, what names it to the system, and what tells a person where it is from."""

    kind: str
    target: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.detail}".rstrip()


class Home(NamedTuple):
    """One run's directory, and the processes that were there before the run and so cannot be its own."""

    path: Path
    foreign_pids: frozenset[str]

    @classmethod
    def settle_in(cls, path: Path) -> Home:
        home = cls(path.resolve(), frozenset(_pids()))
        for directory in (home.temporary, home.runtime):
            directory.mkdir(mode=0o700, exist_ok=True)
        return home

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def runtime(self) -> Path:
        return self.path / "runtime"

    @property
    def prefix(self) -> str:
        return f"{self.path}/"


def find(home: Home) -> set[Leak]:
    """Everything of the run that is on the machine now."""
    return {leak for kind in _KINDS.values() for leak in kind.find(home)}


def wait_for_new(home: Home, known: set[Leak]) -> set[Leak]:
    """What is there beyond the known, once it had time to go by itself."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (left := find(home) - known) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def clear(leaks: set[Leak]) -> None:
    """Take all of them away, in the order in which one holds the next: processes, mounts, loop devices, files."""
    for kind, how in _KINDS.items():
        for leak in leaks:
            if leak.kind == kind:
                how.clear(leak)


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _processes(home: Home) -> Iterator[Leak]:
    prefix = os.fsencode(home.prefix)
    own = str(os.getpid())
    for pid in _pids():
        if pid in home.foreign_pids or pid == own:
            continue
        with suppress(OSError):  # it ended meanwhile, or it is another user's
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if prefix in command or prefix in Path(f"/proc/{pid}/environ").read_bytes():
                yield Leak("process", pid, command.replace(b"\0", b" ").decode(errors="replace"))


def _kill(leak: Leak) -> None:
    with suppress(ProcessLookupError):
        os.kill(int(leak.target), signal.SIGKILL)


def _mounts(home: Home) -> Iterator[Leak]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if home.prefix in line:
            fields, _, rest = line.partition(" - ")
            mount_point = fields.split()[4]
            if mount_point.startswith(home.prefix):
                yield Leak("mount", mount_point, f"of type {rest.split()[0]}")


def _unmount(leak: Leak) -> None:
    command = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
    path = leak.target.encode().decode("unicode_escape")  # mountinfo writes a blank as \040
    subprocess.run([*command, path], check=False)


def _loop_devices(home: Home) -> Iterator[Leak]:
    for backing_file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # detached meanwhile
            image = backing_file.read_text().strip()
            if image.startswith(home.prefix):
                yield Leak("loop device", f"/dev/{backing_file.parts[3]}", f"over {image}")


def _detach(leak: Leak) -> None:
    subprocess.run(["losetup", "--detach", leak.target], check=False)


def _runtime_files(home: Home) -> Iterator[Leak]:
    """All of ours; and of those in the one directory that root's machines share, the ones that name our files."""
    for path in home.runtime.rglob("*"):
        if not path.is_dir():
            yield Leak("runtime file", str(path), "")
    with suppress(FileNotFoundError, PermissionError):  # never made, removed meanwhile, or root's
        for path in SHARED_RUNTIME.iterdir():
            with path.open("rb") as file:
                if os.fsencode(home.prefix) in file.read(_NAMES_WITHIN_BYTES):
                    yield Leak("runtime file", str(path), "")


def _remove(leak: Leak) -> None:
    Path(leak.target).unlink(missing_ok=True)


class _Kind(NamedTuple):
    find: Callable[[Home], Iterator[Leak]]
    clear: Callable[[Leak], None]


_KINDS = {
    "process": _Kind(_processes, _kill),
    "mount": _Kind(_mounts, _unmount),
    "loop device": _Kind(_loop_devices, _detach),
    "runtime file": _Kind(_runtime_files, _remove),
}
