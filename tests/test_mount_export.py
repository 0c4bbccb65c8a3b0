"""A device shown as one file: the tools of e2fsprogs work on it through the device's own interface."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError
from vdisk.memorydisk import MemoryDisk
from vdisk.mount import mountinfo
from vdisk.mount.export import exported

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE_BYTES = 16 << 20
_ENDING = 4096  # the device ends within a page of the kernel's, and not at a page's end
_failures: list[str] = []


class _Counting(Layer):
    """Counts flushes and refuses to write to one sector."""

    flushes = 0
    bad_sector_bytes = -1

    def flush(self) -> None:
        self.flushes += 1
        super().flush()

    def write_from(self, offset_bytes: int, buffer: bytes) -> None:  # type: ignore[override]
        if offset_bytes <= self.bad_sector_bytes < offset_bytes + len(buffer):
            raise DeviceError("bad sector")
        super().write_from(offset_bytes, buffer)


@pytest.fixture
def device() -> _Counting:
    return _Counting(MemoryDisk(_SIZE_BYTES + 1536))


def _report(request: str, error: Exception) -> None:
    raise AssertionError(f"{request}: {error!r}")


async def _in_thread(function: Callable[[], object]) -> object:
    return await trio.to_thread.run_sync(function)


async def test_tools_of_ext4_work_on_it(device: _Counting) -> None:
    async with exported(device, _report) as path:
        await trio.run_process(["mke2fs", "-q", "-t", "ext4", "-b", "4096", path])
        await trio.run_process(["e2fsck", "-f", "-n", path], capture_stdout=True, capture_stderr=True)
        assert device.flushes > 0
    assert device.read(1024, 512)[0x38:0x3A] == b"\x53\xef"
    async with exported(device, _report) as path:
        checked = await trio.run_process(["e2fsck", "-f", "-p", path], capture_stdout=True)
        assert checked.returncode == 0


async def test_bytes_at_any_offset(device: _Counting) -> None:
    choices, model = random.Random(5), bytearray(device.size_bytes)

    def scribble(path: str) -> None:
        with open(path, "r+b", buffering=0) as opened:
            for _ in range(200):
                piece = choices.randbytes(choices.choice([1, 512, 513, 4096, 100_000]))
                offset = choices.randrange(len(model) - len(piece) + 1)
                model[offset : offset + len(piece)] = piece
                opened.seek(offset)
                opened.write(piece)
            opened.seek(0)
            assert opened.read() == model

    async with exported(device, _report) as path:
        await trio.to_thread.run_sync(scribble, path)
    assert device.read(0, device.size_bytes) == model


async def test_its_size_is_fixed_and_nothing_stands_beside_it(device: _Counting) -> None:
    async with exported(device, _report) as path:
        directory = os.path.dirname(path)

        def poke() -> None:
            assert os.stat(path).st_size == device.size_bytes
            assert os.listdir(directory) == ["device"]
            assert os.stat(directory).st_mode & 0o777 == 0o700
            with open(path, "r+b", buffering=0) as opened:
                with pytest.raises(PermissionError):
                    opened.truncate(4096)
                opened.seek(device.size_bytes)
                assert opened.read(10) == b""
                with pytest.raises(OSError, match="No space"):
                    opened.write(b"x")
            with pytest.raises(OSError, match=r"not implemented|not permitted"):
                os.unlink(path)

        await trio.to_thread.run_sync(poke)


async def test_a_failing_device_answers_eio_and_is_reported(device: _Counting) -> None:
    failures: list[str] = []
    device.bad_sector_bytes = 8192

    def write(path: str) -> None:
        with open(path, "r+b", buffering=0) as opened:
            opened.seek(8192)
            with pytest.raises(OSError, match="Input/output"):
                opened.write(b"x" * 512)

    async with exported(device, lambda request, error: failures.append(f"{request}: {error}")) as path:
        await trio.to_thread.run_sync(write, path)
    assert failures == ["write: bad sector"]


async def test_nothing_is_left_whatever_happens_inside(device: _Counting) -> None:
    with pytest.raises(ZeroDivisionError):
        async with exported(device, _report) as path:
            raise ZeroDivisionError
    assert not Path(path).parent.exists()
    with trio.move_on_after(0.05):
        async with exported(device, _report) as path:
            await trio.sleep_forever()
    assert not Path(path).parent.exists()
    assert all(mount.source != "device" for mount in mountinfo.mounts())


async def test_a_client_that_stays_inside_does_not_keep_it(device: _Counting) -> None:
    async with exported(device, _report) as path:
        opened = await trio.to_thread.run_sync(os.open, path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.pread(opened, 1, 0)
    finally:
        os.close(opened)
    assert not Path(path).parent.exists()
