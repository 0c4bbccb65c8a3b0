"""The controller, the live stack and its clone."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from vdisk import stack
from vdisk.controller import Controller, Mode, Order
from vdisk.drivers import storahci
from vdisk.errors import ControllerError, DeviceError, PowerLost, WriteRefusedError
from vdisk.extent import Extent, ExtentMap, Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.supervised import Supervised, describe_failure
from vdisk.layers.write_guard import WriteGuard
from vdisk.memorydisk import MemoryDisk
from vdisk.registers import create_registers
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def controller() -> Iterator[Controller]:
    registers = create_registers()
    yield Controller(registers, MemoryDisk(1 << 20))
    os.close(registers)


def test_a_clone_takes_over_a_controller_that_was_left_off(controller: Controller) -> None:
    live = stack.load_live(controller, NO_KEY)
    live.device.write_from(4096, b"a" * 512)
    controller.order(Order.POWER_OFF)
    with pytest.raises(ControllerError):
        live.device.read(4096, 512)
    ghost = stack.load_clone(stack.clone("dump_", NO_KEY))
    assert controller.mode == Mode.OFF
    assert ghost.attach(controller).read(4096, 512) == b"a" * 512


def test_clones_have_an_address_a_size_and_a_digest_and_no_file(controller: Controller) -> None:
    live = stack.load_live(controller, NO_KEY)
    ghost = stack.load_clone(stack.clone("dump_", NO_KEY))
    assert [module.name for module in ghost.modules] == ["dump_storahci", "dump_diskdump"]
    for original, copy in zip(live.modules, ghost.modules, strict=True):
        assert os.path.exists(original.path)
        assert not os.path.exists(copy.path)
        assert os.path.dirname(copy.path) == os.path.dirname(original.path)
        assert (original.signer, copy.version, copy.description) == ("verified", "", "")
        assert "no file" in copy.signer
        assert copy.address and copy.address != original.address
        assert (copy.size_bytes, copy.digest) == (original.size_bytes, original.digest)


def test_a_driver_whose_file_is_not_what_was_loaded_is_not_verified(tmp_path: Path) -> None:
    (image, *_) = stack.clone("dump_", NO_KEY)
    file = tmp_path / "storahci.py"
    with open(storahci.__file__) as original:
        file.write_text(original.read())
    assert stack.signer_of(str(file), image.code) == "verified"
    for content in ("VERSION = 2\n", "def broken(:\n", "\0"):
        file.write_text(content)
        assert "not what was loaded" in stack.signer_of(str(file), image.code)


def test_the_class_driver_refuses_what_leaves_the_disk(controller: Controller) -> None:
    device = stack.load_live(controller, NO_KEY).device
    for offset, length in ((-512, 512), (1 << 20, 512), (100, 512), (0, 100)):
        with pytest.raises(ValueError):
            device.write_from(offset, bytes(length))


@pytest.mark.parametrize("offset", range(0, 8 * 512, 512))
@pytest.mark.parametrize("length", (512, 1024, 1536))
def test_the_guard_permits_exactly_its_runs(offset: int, length: int) -> None:
    disk = MemoryDisk(8 * 512)
    guard = WriteGuard(disk, [Run(512, 512), Run(1024, 512), Run(3072, 512)])
    inside = (512 <= offset and offset + length <= 1536) or (3072 <= offset and offset + length <= 3584)
    if offset + length > disk.size_bytes:
        return
    if inside:
        guard.write_from(offset, b"x" * length)
    else:
        for write in (guard.write_from, guard.write_through):
            with pytest.raises(WriteRefusedError):
                write(offset, b"x" * length)
        with pytest.raises(WriteRefusedError):
            guard.discard(offset, length)
        assert not any(disk.content)


def test_a_mapped_device_puts_each_byte_where_its_extent_says() -> None:
    disk = MemoryDisk(64 * 4096)
    extents = ExtentMap(
        [Extent(0, 8 * 4096, 4096), Extent(4096, 2 * 4096, 2 * 4096), Extent(3 * 4096, 30 * 4096, 4096)]
    )
    mapped = Mapped(disk, extents)
    content = os.urandom(4 * 4096)
    mapped.write_from(0, content)
    assert mapped.read(0, len(content)) == content
    assert disk.read(8 * 4096, 4096) == content[:4096]
    assert disk.read(2 * 4096, 8192) == content[4096 : 3 * 4096]
    assert disk.read(30 * 4096, 4096) == content[3 * 4096 :]
    assert mapped.read(3584, 1024) == content[3584:4608]


@pytest.mark.parametrize("failure", [AttributeError("no read"), PowerLost(), DeviceError("bad"), ValueError("outside")])
def test_what_no_driver_may_raise_is_told_to_who_supervises(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    disk = MemoryDisk(4096)
    for request in ("read_into", "write_from", "write_through", "flush", "discard"):
        monkeypatch.setattr(disk, request, fail)
    told: list[BaseException] = []
    device = Supervised(disk, told.append)
    requests: list[Callable[[], object]] = [
        lambda: device.read(0, 512),
        lambda: device.write_from(0, bytes(512)),
        lambda: device.write_through(0, bytes(512)),
        device.flush,
        lambda: device.discard(0, 512),
    ]
    for attempt in requests:
        with pytest.raises(type(failure)):
            attempt()
    is_declared = isinstance(failure, DeviceError | ValueError)
    assert told == ([] if is_declared else [failure] * len(requests))


def test_a_failure_is_described_by_its_place() -> None:
    def fail() -> None:
        raise AttributeError("no such thing")

    with pytest.raises(AttributeError) as caught:
        fail()
    described = describe_failure(caught.value)
    assert re.fullmatch(r"test_vdisk_stack.py, line \d+: AttributeError: no such thing", described)
