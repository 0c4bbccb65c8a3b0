"""The standby takes the disk over, or says in one line why not, in bounded time."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from dumpwriter import runtime
from dumpwriter.crash import controlblock, standby, turn
from dumpwriter.crash.clone import OPEN_SECONDS, REHEARSAL_SECONDS, Clone, Handles, must_be_our_disk
from dumpwriter.crash.controlblock import PrivateBlock
from tests.test_dump_controlblock import BLOCK
from vdisk.bootarea import RECORD_OFFSETS_BYTES, BootArea, new_record
from vdisk.errors import DeviceError, PowerLost
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

DISK_SIZE_BYTES = 16 << 20


class Block:
    """What the sanity read needs of a control block."""

    disk_size_bytes = DISK_SIZE_BYTES


@pytest.fixture
def stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    """The clone of a disk on which a read does not return."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    descriptor = os.open(image, os.O_RDWR)
    handles = Handles(0, -1, -1, -1, descriptor, -1, -1, -1, -1)
    runtime: Any = None
    let_go = threading.Event()
    clone = Clone(handles, PrivateBlock(controlblock.encode(BLOCK)), runtime)
    monkeypatch.setattr(clone, "_open_disk", let_go.wait)
    yield clone
    let_go.set()
    clone._threads.close()
    os.close(descriptor)


@pytest.fixture
def disk() -> MemoryDisk:
    made = MemoryDisk(DISK_SIZE_BYTES)
    BootArea(made).write(new_record(bytes(16), DISK_SIZE_BYTES, 1 << 20))
    return made


async def test_a_disk_that_does_not_answer_ends_in_a_reason(stalled: Clone, autojump_clock: MockClock) -> None:
    started = trio.current_time()
    with pytest.raises(DeviceError, match="did not answer within"):
        await stalled._take_disk_over()
    with pytest.raises(DeviceError, match="did not let the clone rehearse"):
        await stalled.rehearse()
    assert trio.current_time() - started <= OPEN_SECONDS + REHEARSAL_SECONDS + 1


async def test_a_disk_that_holds_a_thread_of_a_rehearsal_is_not_given_back(
    stalled: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The thread may write whenever the disk lets it go on: over a dump that the other standby wrote meanwhile."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(standby, "check", lambda _: None)
    given_back: list[object] = []
    monkeypatch.setattr(turn, "unlock", lambda *given: given_back.append(given))
    made = runtime.create(str(tmp_path / "mnt"))
    parts: Any = dict.fromkeys(standby.Standby._fields) | {"clone": stalled, "runtime": made}
    try:
        with pytest.raises(DeviceError, match="did not let the clone rehearse"):
            await standby._rehearse(standby.Standby(**parts | {"own": made.standby(1)}))
    finally:
        made.remove()
        made.close()
    assert given_back == []


def must_be_ours(disk: MemoryDisk) -> None:
    block: Any = Block
    must_be_our_disk(disk, block)


def test_the_sanity_read_knows_its_disk(disk: MemoryDisk) -> None:
    must_be_ours(disk)
    start = BootArea(disk).offset_bytes + RECORD_OFFSETS_BYTES[0]
    disk.content[start : start + 512] = bytes(512)
    must_be_ours(disk)


def test_the_sanity_read_refuses_a_disk_without_a_boot_record() -> None:
    with pytest.raises(DeviceError, match="sanity read: no boot record"):
        must_be_ours(MemoryDisk(DISK_SIZE_BYTES))


def test_the_geometry_must_be_that_of_the_arming() -> None:
    with pytest.raises(DeviceError, match="identify: a disk of 33554432 bytes, not of 16777216"):
        must_be_ours(MemoryDisk(2 * DISK_SIZE_BYTES))


def test_a_disk_that_cannot_be_read_is_not_written(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DeviceError("medium error")

    monkeypatch.setattr(disk, "read_into", fail)
    with pytest.raises(DeviceError, match="sanity read: neither copy"):
        must_be_ours(disk)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (PowerLost(), True),
        (BaseExceptionGroup("", [BaseExceptionGroup("", [PowerLost()])]), True),
        (DeviceError("no"), False),
        (BaseExceptionGroup("", [DeviceError("no")]), False),
    ],
)
def test_the_loss_of_power_is_known_in_any_wrapping(failure: BaseException, expected: bool) -> None:
    assert standby.is_power_lost(failure) is expected
