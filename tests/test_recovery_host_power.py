"""A dump taken out into a directory of the host, whose power goes, or whose recovery is killed, at any call of it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from typing import TYPE_CHECKING

import pytest

from dumpwriter.lab.crasheddisk import whole_dump
from dumpwriter.recovery import crashstore
from dumpwriter.recovery.crashstore import REPORT, UNFINISHED, HostStore
from dumpwriter.recovery.offline import source_of, take_out
from dumpwriter.recovery.places import untaken_places
from dumpwriter.recovery.retention import KEEP_ALL, numbered
from tests.hostpower import Host, lay_out
from vdisk.bootarea import BootArea
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostpower import Tree

crashed = functools.cache(whole_dump)


class Killed(BaseException):
    """The process is gone."""


def recover_into(directory: Path, disk: MemoryDisk) -> None:
    """As `recover --output`, without its drivers."""
    area = BootArea(disk)
    record = area.read()
    sources = [(place, source_of(disk, area, record, place)) for place in untaken_places(record)]
    with contextlib.closing(HostStore(str(directory))) as store:
        take_out(area, record, sources, store, KEEP_ALL, lambda done, total: None)


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a recovery that nothing disturbs."""
    directory = tmp_path_factory.mktemp("undisturbed")
    recover_into(directory, MemoryDisk(len(crashed()), crashed()))
    (copy,) = directory.glob("*/vmcore")
    return copy.read_bytes()


def check(directory: Path, vmcore: bytes, *, is_over: bool) -> None:
    """What has its final name is whole, before another recovery and behind it; then there is just one."""
    crashes = [directory / name for name in numbered(path.name for path in directory.iterdir())]
    for crash in crashes:
        held = {path.name: path.read_bytes() for path in crash.iterdir()}
        assert held.get("vmcore") == vmcore
        assert held.get(REPORT, b"").endswith(b"}\n")
    if is_over:
        assert len(crashes) == 1
        assert not (directory / UNFINISHED).exists()


class Trials:
    """Judges each state of directory and image once."""

    def __init__(self, scratch: Path, vmcore: bytes) -> None:
        self._scratch = scratch
        self._vmcore = vmcore
        self._seen: set[tuple[Tree, int]] = set()

    def judge(self, host: Host, disk: MemoryDisk) -> None:
        image = bytes(disk.content)
        for tree in host.left_by_a_power_cut():
            if (tree, hash(image)) not in self._seen:
                self._seen.add((tree, hash(image)))
                directory = self._scratch / str(len(self._seen))
                lay_out(tree, directory)
                check(directory, self._vmcore, is_over=False)
                recover_into(directory, MemoryDisk(len(image), image))
                check(directory, self._vmcore, is_over=True)

    @property
    def count(self) -> int:
        return len(self._seen)


@contextlib.contextmanager
def recorded(directory: Path, before_call: Callable[[Host], None]) -> Iterator[Host]:
    """A directory of a host on which `HostStore` works."""
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        host: Host = Host(directory, lambda: before_call(host))
        patch.setattr(crashstore, "os", host)
        yield host


def cut_everywhere(tmp_path: Path, vmcore: bytes) -> int:
    """The power goes before each call, and at the end. How many states that leaves."""
    trials, disk = Trials(tmp_path, vmcore), MemoryDisk(len(crashed()), crashed())

    def cut(host: Host) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crashstore, "os", os)  # of what is tried, nothing is recorded
            trials.judge(host, disk)

    with recorded(tmp_path / "host", cut) as host:
        recover_into(tmp_path / "host", disk)
    trials.judge(host, disk)
    return trials.count


def killed_everywhere(tmp_path: Path, vmcore: bytes) -> int:
    """The recovery is killed before each call, another one goes on from there, and then the power goes."""
    trials = Trials(tmp_path, vmcore)
    for calls in itertools.count():
        left, disk = itertools.count(-calls), MemoryDisk(len(crashed()), crashed())

        def kill(host: Host, left: Iterator[int] = left) -> None:
            if next(left) >= 0:
                raise Killed

        directory = tmp_path / f"killed-{calls}"
        with recorded(directory, kill) as host:
            try:
                recover_into(directory, disk)
            except Killed:
                host.before_call = lambda: None
                recover_into(directory, disk)
            else:
                return trials.count
        trials.judge(host, disk)
    raise AssertionError


def test_a_power_cut_of_the_host_leaves_no_part_of_a_crash_under_its_name(tmp_path: Path, vmcore: bytes) -> None:
    assert cut_everywhere(tmp_path, vmcore) > 40


def test_a_recovery_that_was_killed_is_made_durable_by_the_next(tmp_path: Path, vmcore: bytes) -> None:
    assert killed_everywhere(tmp_path, vmcore) >= 1


def sync_no_file(patch: pytest.MonkeyPatch) -> None:
    finish = HostStore.finish

    def unsynced(self: HostStore, name: str) -> None:
        self._close_files()
        finish(self, name)

    patch.setattr(HostStore, "finish", unsynced)


def sync_no_directory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(crashstore, "_sync_directory", lambda path: None)


def believe_in_what_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HostStore, "settle", lambda self, name: None)


@pytest.mark.parametrize(
    ("plant", "hunt"),
    [
        (sync_no_file, cut_everywhere),
        (sync_no_directory, cut_everywhere),
        (believe_in_what_is_there, killed_everywhere),
    ],
)
def test_what_is_not_made_durable_is_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    vmcore: bytes,
    plant: Callable[[pytest.MonkeyPatch], None],
    hunt: Callable[[Path, bytes], int],
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        hunt(tmp_path, vmcore)
