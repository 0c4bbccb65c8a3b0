"""A device shown as one file: the tools of e2fsprogs work on it through the device's own interface."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
import trio

from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError, PowerLost
from vdisk.memorydisk import MemoryDisk
from vdisk.mount import mountinfo
from vdisk.mount.export import exported

_SIZE_BYTES = 16 << 20


class _Counting(Layer):
    """Counts flushes, fails at one sector, and loses its power at another."""

    flushes = 0
    bad_sector_bytes = -1
    power_ends_bytes = -1

    def flush(self) -> None:
        self.flushes += 1
        super().flush()

    def write_from(self, offset_bytes: int, buffer: bytes) -> None:  # type: ignore[override]
        if offset_bytes <= self.bad_sector_bytes < offset_bytes + len(buffer):
            raise DeviceError("bad sector")
        if offset_bytes <= self.power_ends_bytes < offset_bytes + len(buffer):
            raise PowerLost
        super().write_from(offset_bytes, buffer)


@pytest.fixture
def device() -> _Counting:
    """A device that ends within a page of the kernel's cache."""
    return _Counting(MemoryDisk(_SIZE_BYTES + 1536))


def _report(request: str, error: Exception) -> None:
    raise AssertionError(f"{request}: {error!r}")


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


async def test_a_lost_power_ends_the_session_and_reaches_the_caller(device: _Counting) -> None:
    device.power_ends_bytes = 8192

    def write(path: str) -> None:
        with open(path, "r+b", buffering=0) as opened:
            opened.seek(8192)
            opened.write(b"x" * 512)

    with pytest.raises(PowerLost):
        async with exported(device, _report) as path:
            await trio.to_thread.run_sync(write, path, abandon_on_cancel=True)
    assert not Path(path).parent.exists()


async def test_nothing_is_left_whatever_happens_inside(device: _Counting) -> None:
    with pytest.raises(ZeroDivisionError):
        async with exported(device, _report) as path:
            raise ZeroDivisionError
    assert not Path(path).parent.exists()
    with trio.move_on_after(0.05):
        async with exported(device, _report) as path:
            await trio.sleep_forever()
    assert not Path(path).parent.exists()
    assert mountinfo.find(str(Path(path).parent)) is None


async def test_a_client_that_stays_inside_does_not_keep_it(device: _Counting) -> None:
    """The client is a process of its own: our children would inherit its file, close it, and wait for our answer."""
    holding = 'exec 3< "$1" && echo held && read -r line; read -r byte <&3'
    async with exported(device, _report) as path:
        client = subprocess.Popen(["sh", "-c", holding, "sh", path], stdin=-1, stdout=-1, stderr=-1)
        assert client.stdout is not None
        assert await trio.to_thread.run_sync(client.stdout.readline) == b"held\n"
    _, complaint = client.communicate(b"\n")
    assert client.returncode != 0, complaint
    assert not Path(path).parent.exists()
